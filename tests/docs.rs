//! The pages say what the program does: every option, timeout and limit is in its table with its
//! default, examples are accepted, errors read as shown, commands parse, and links lead somewhere.
#![allow(clippy::unwrap_used)]

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tapnat::cli::{Cli, Verb};
use tapnat::config::raw::{KEYS, RULE_KEYS};
use tapnat::config::{ConfigError, Profile, RunFlags, Settings, file, load, resolve, show};
use tapnat::control::protocol::{Answer, Body, Greeting, LONGEST_REQUEST, PROTOCOL, REQUESTS, parse_request};
use tapnat::nat::{Limits, PortChoice, Timeouts};
use tapnat::observe::Kind;

const CONFIGURATION: &str = "docs/configuration.md";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(page: &str) -> String {
    fs::read_to_string(root().join(page)).unwrap()
}

/// README.md and every page under docs.
fn pages() -> Vec<PathBuf> {
    let (mut pages, mut folders) = (vec![root().join("README.md")], vec![root().join("docs")]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    pages
}

/// The fenced blocks of a page: language and text.
fn blocks(page: &str) -> Vec<(&str, &str)> {
    let parts: Vec<&str> = page.split("```").collect();
    parts.chunks(2).filter_map(|pair| pair.get(1)?.split_once('\n')).collect()
}

/// A page without its fenced blocks.
fn prose(page: &str) -> String {
    page.split("```").step_by(2).collect()
}

/// The rows of the tables under a heading, each as its cells.
fn table<'a>(page: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let after = page.split(&format!("\n## {heading}\n")).nth(1).unwrap_or_else(|| panic!("no {heading}"));
    let section = after.split("\n## ").next().unwrap();
    let cells = |line: &'a str| line.trim().trim_matches('|').split('|').map(str::trim).collect();
    section.lines().filter(|line| line.starts_with("| ")).map(cells).skip(1).collect()
}

fn plain(cell: &str) -> String {
    cell.replace('`', "")
}

fn settings(flags: &[&str]) -> Result<Settings, ConfigError> {
    let words = ["tapnat", "run", "--inside", "10.88.0.1/24"].iter().chain(flags);
    load(&run_flags(&Cli::try_parse_from(words).unwrap()), None)
}

fn run_flags(cli: &Cli) -> RunFlags {
    match &cli.verb {
        Verb::Run(args) => args.flags.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_option_is_in_the_table_with_its_key_and_default() {
    let page = read(CONFIGURATION);
    let rows: Vec<_> =
        table(&page, "Options and keys").into_iter().filter(|row| row[0].starts_with("`--")).collect();
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    let options: Vec<_> = run.get_arguments().filter(|option| option.get_id() != "help").collect();
    assert_eq!(options.len(), KEYS.len() + 1, "all but --config are keys");
    let mut wrong = Vec::new();
    for option in &options {
        let flag = format!("--{}", option.get_long().unwrap());
        let Some(row) = rows.iter().find(|row| plain(row[0]).split(' ').next() == Some(&flag)) else {
            wrong.push(format!("{flag}: no row"));
            continue;
        };
        let key = KEYS.iter().find(|(_, known, _)| *known == flag).map_or("", |(key, ..)| *key);
        if plain(row[1]) != key {
            wrong.push(format!("{flag}: the key is `{key}`"));
        }
        let help = option.get_help().unwrap().to_string();
        let default = help.split("[default: ").nth(1).and_then(|rest| rest.split(']').next());
        // A default that is told in a sentence is told in other words here.
        let default = default.filter(|default| !default.contains(' '));
        if default.is_some_and(|default| plain(row[2]) != default) {
            wrong.push(format!("{flag}: the default is {default:?}"));
        }
    }
    let unknown = |row: &&Vec<&str>| {
        let flag = plain(row[0]);
        !options
            .iter()
            .any(|option| flag.split(' ').next() == option.get_long().map(|l| format!("--{l}")).as_deref())
    };
    wrong.extend(rows.iter().filter(unknown).map(|row| format!("{}: no such option", row[0])));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn options_about_namespaces_are_on_their_page() {
    let page = read("docs/attach.md");
    let rows: Vec<String> =
        table(&page, "attach: a namespace that is there").iter().map(|row| plain(row[0])).collect();
    let command = Cli::command();
    let mut seen = 0;
    for verb in ["attach", "exec"] {
        let all = command.find_subcommand(verb).unwrap().get_arguments();
        for option in all.filter(|option| option.get_help_heading() == Some("Namespace")) {
            let flag = format!("--{}", option.get_long().unwrap());
            assert!(rows.iter().any(|row| row.split(' ').next() == Some(&flag)), "{flag} of {verb}");
            seen += 1;
        }
    }
    assert_eq!(seen, 7);
}

#[test]
fn defaults_that_have_no_word_are_as_the_page_says() {
    let settings = settings(&[]).unwrap();
    assert_eq!(settings.control, Path::new("/run/tapnat/default.sock"));
    assert!(settings.mac.is_none() && settings.outside.is_none() && settings.external.is_empty());
    let ports = tapnat::nat::NatConfig::new(Vec::new()).ports;
    let shown: Vec<_> = ports.iter().map(|range| format!("{}-{}", range.start(), range.end())).collect();
    let shown = shown.join(", ");
    assert!(read(CONFIGURATION).contains(&format!("| `ports` | {shown} |")));
}

/// Name and value; a field that is added does not compile until it is here, and on the page.
fn timeouts() -> Vec<(&'static str, Duration)> {
    let Timeouts {
        udp,
        udp_unreplied,
        udp_dns,
        tcp_opening,
        tcp_syn_received,
        tcp_established,
        tcp_half_closed,
        tcp_closing,
        tcp_reset,
        icmp,
        other,
        lease,
        port_hold,
    } = Timeouts::default();
    vec![
        ("udp", udp),
        ("udp-unreplied", udp_unreplied),
        ("udp-dns", udp_dns),
        ("tcp-opening", tcp_opening),
        ("tcp-syn-received", tcp_syn_received),
        ("tcp-established", tcp_established),
        ("tcp-half-closed", tcp_half_closed),
        ("tcp-closing", tcp_closing),
        ("tcp-reset", tcp_reset),
        ("icmp", icmp),
        ("other", other),
        ("lease", lease),
        ("port-hold", port_hold),
    ]
}

fn limits() -> Vec<(&'static str, usize)> {
    let Limits {
        sessions,
        sessions_per_host,
        mappings_per_host,
        sessions_per_mapping,
        publish,
        held_ports,
        new_sessions_per_host,
    } = Limits::default();
    vec![
        ("sessions", sessions),
        ("sessions-per-host", sessions_per_host),
        ("mappings-per-host", mappings_per_host),
        ("sessions-per-mapping", sessions_per_mapping),
        ("publish", publish),
        ("held-ports", held_ports),
        ("new-sessions-per-host", new_sessions_per_host),
    ]
}

#[test]
fn timeouts_and_limits_are_in_their_tables_with_their_defaults() {
    let page = read(CONFIGURATION);
    let shown: Vec<_> = table(&page, "Timeouts")
        .iter()
        .map(|row| (plain(row[0]), humantime::parse_duration(&plain(row[1])).unwrap()))
        .collect();
    let wanted: Vec<_> = timeouts().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    assert_eq!(shown, wanted);
    let shown: Vec<_> =
        table(&page, "Limits").iter().map(|row| (plain(row[0]), plain(row[1]).parse().unwrap())).collect();
    let wanted: Vec<_> = limits().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    assert_eq!(shown, wanted);
}

#[test]
fn each_name_of_a_timeout_or_limit_is_an_option() {
    for (name, default) in timeouts() {
        let same = format!("{name}={}s", default.as_secs());
        let other = format!("{name}={}s", default.as_secs() + 1);
        assert_eq!(settings(&["--timeout", &same]).unwrap().policy.timeouts, Timeouts::default(), "{name}");
        assert_ne!(settings(&["--timeout", &other]).unwrap().policy.timeouts, Timeouts::default(), "{name}");
    }
    for (name, default) in limits() {
        let same = format!("{name}={default}");
        let other = format!("{name}={}", default + 1);
        assert_eq!(settings(&["--limit", &same]).unwrap().limits, Limits::default(), "{name}");
        assert_ne!(settings(&["--limit", &other]).unwrap().limits, Limits::default(), "{name}");
    }
}

#[test]
fn profiles_are_in_their_table_with_what_they_are() {
    let page = read(CONFIGURATION);
    let shown: Vec<Vec<String>> = table(&page, "Profiles")
        .iter()
        .map(|row| row.iter().take(4).map(|cell| plain(cell)).collect())
        .collect();
    let wanted: Vec<Vec<String>> = Profile::WORDS
        .into_iter()
        .map(|(word, profile)| {
            let policy = profile.policy(PortChoice::Random);
            let hairpin = if policy.hairpin { "on" } else { "off" };
            let [mapping, filtering] = [policy.mapping, policy.filtering].map(show::behaviour);
            vec![word.to_owned(), mapping, filtering, hairpin.to_owned()]
        })
        .collect();
    assert_eq!(shown, wanted);
    let keys: String = table(&page, "Rules").iter().map(|row| plain(row[0]) + ", ").collect();
    assert_eq!(keys.trim_end_matches(", "), RULE_KEYS.map(|(key, _)| key).join(", "));
}

#[test]
fn files_in_the_pages_are_accepted() {
    let mut seen = 0;
    for path in pages() {
        let page = fs::read_to_string(&path).unwrap();
        for (_, text) in blocks(&page).into_iter().filter(|(language, _)| *language == "toml") {
            let name = path.display().to_string();
            let settings = file::parse(&name, text).and_then(|raw| resolve(&raw, None));
            if let Err(error) = settings {
                panic!("{error}\n{text}");
            }
            seen += 1;
        }
    }
    assert!(seen >= 3, "{seen} files");
}

/// What a console block shows: each command and what it wrote.
fn session(block: &str) -> Vec<(&str, String)> {
    let mut turns: Vec<(&str, String)> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), turns.last_mut()) {
            (Some(command), _) => turns.push((command, String::new())),
            (None, Some((_, output))) => *output += &format!("{line}\n"),
            (None, None) => panic!("output without a command: {line}"),
        }
    }
    turns
}

#[test]
fn errors_read_as_shown() {
    let page = read(CONFIGURATION);
    let folder = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for (_, block) in blocks(&page).into_iter().filter(|(language, _)| *language == "console") {
        for (command, shown) in session(block) {
            if let Some(name) = command.strip_prefix("cat ") {
                fs::write(folder.path().join(name), shown).unwrap();
                continue;
            }
            if !command.starts_with("tapnat run") {
                continue;
            }
            let mut flags = run_flags(&Cli::try_parse_from(words(command)).unwrap());
            flags.config = flags.config.map(|name| folder.path().join(name));
            let error = load(&flags, None).unwrap_err().to_string();
            let error = error.replace(&format!("{}/", folder.path().display()), "");
            assert_eq!(shown, format!("tapnat: {error}\n"), "{command}");
            seen += 1;
        }
    }
    assert!(seen >= 4, "{seen} errors");
}

#[test]
fn the_control_page_speaks_the_protocol() {
    let page = read("docs/control-api.md");
    let text: String = blocks(&page).into_iter().map(|(_, text)| text).collect();
    let mut problem = None;
    let mut seen = 0;
    // What is shortened on the page is no JSON.
    for line in text.lines().filter(|line| !line.contains("...")) {
        if let Some(request) = line.strip_prefix("> ") {
            problem = parse_request(request.as_bytes()).1.err();
            seen += 1;
        } else if let Some(answer) = line.strip_prefix("< ") {
            seen += 1;
            if let Ok(greeting) = serde_json::from_str::<Greeting>(answer) {
                assert_eq!(greeting.protocol, PROTOCOL);
                continue;
            }
            let body =
                serde_json::from_str::<Answer>(answer).unwrap_or_else(|why| panic!("{why}: {answer}")).body;
            if let Some(problem) = problem.take() {
                assert_eq!(body, Body::Error(problem), "{line}");
            }
        }
    }
    assert!(seen >= 15, "{seen} lines");
    let row = |word: &str| assert!(page.contains(&format!("`{word}`")), "no {word} on the page");
    let rows: Vec<_> = table(&page, "Requests").iter().map(|row| plain(row[0])).collect();
    assert_eq!(rows, REQUESTS);
    Kind::ALL.into_iter().map(Kind::word).for_each(row);
    tapnat::observe::filter::STATES.into_iter().for_each(row);
    let longest = format!("{},{:03} bytes", LONGEST_REQUEST / 1000, LONGEST_REQUEST % 1000);
    assert!(page.contains(&longest), "{longest}");
}

/// The words of a command line: a shell's quotes, and nothing else of a shell.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None::<char>);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The call of tapnat in a line of a script, without what stands before and behind it.
fn call(line: &str) -> Option<&str> {
    let mut line = line.trim();
    while let Some(rest) = ["$ ", "sudo ", "./"].iter().find_map(|prefix| line.strip_prefix(prefix)) {
        line = rest.trim_start();
    }
    let end = [" #", " | ", " > ", " 2>", " &", "; "].iter().filter_map(|end| line.find(end)).min();
    let line = line[..end.unwrap_or(line.len())].trim_end();
    line.starts_with("tapnat ").then_some(line)
}

#[test]
fn commands_parse() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for path in pages() {
        let page = fs::read_to_string(&path).unwrap();
        let text = prose(&page);
        // On a console, what has no prompt is output.
        let scripts = blocks(&page).into_iter().flat_map(|(language, block)| {
            block.lines().filter(move |line| language != "console" || line.starts_with("$ "))
        });
        let spans = text.split('`').skip(1).step_by(2);
        for line in scripts.chain(spans).filter_map(call) {
            seen += 1;
            let outcome = Cli::try_parse_from(words(line)).map_err(|error| error.kind());
            let asked = [
                ErrorKind::DisplayHelp,
                ErrorKind::DisplayVersion,
                // A verb that is only named.
                ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
            ];
            let named = |kind| kind == ErrorKind::MissingRequiredArgument && words(line).len() == 2;
            if outcome.as_ref().is_err_and(|kind| !asked.contains(kind) && !named(*kind)) {
                wrong.push(format!("{}: {line}: {:?}", path.display(), outcome.err()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen > 25, "{seen} commands");
}

#[test]
fn links_lead_somewhere() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for path in pages() {
        let text = prose(&fs::read_to_string(&path).unwrap());
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap();
            if file.is_empty() || target.contains("://") {
                continue;
            }
            seen += 1;
            if !path.parent().unwrap().join(file).exists() {
                wrong.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen > 30, "{seen} links");
}

#[test]
fn every_test_program_is_on_its_page() {
    let page = read("docs/testing.md");
    let manifest = read("Cargo.toml");
    let named = |option: &str| -> Vec<String> {
        let spans = page.split(option).skip(1);
        spans.map(|rest| rest.split([' ', '`', '\n']).next().unwrap().to_owned()).collect()
    };
    for entry in fs::read_dir(root().join("tests")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            assert!(page.contains(&format!("| `{name}` |")), "docs/testing.md has no row for {name}");
        }
    }
    for test in named("--test ") {
        assert!(root().join(format!("tests/{test}.rs")).exists(), "--test {test}");
    }
    for bench in named("--bench ") {
        assert!(manifest.contains(&format!("[[bench]]\nname = \"{bench}\"")), "--bench {bench}");
    }
}
