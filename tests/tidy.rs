//! The rules of the tree that a text check can hold: who imports whom, what the pure modules may
//! name, how files open, how long they may get, and that the docs name every drop reason.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use tapnat::gateway::DropReason;

/// Module, what it may import of ours, what it must not name at all.
const IMPORTS: [(&str, &[&str], &[&str]); 14] = [
    ("flow", &[], PURE),
    ("wire", &["flow"], PURE),
    ("nat", &["flow"], PURE),
    ("stun", &["flow", "nat"], PURE),
    ("gateway", &["flow", "wire", "nat"], PURE),
    ("io", &["flow", "wire"], &[]),
    ("observe", &["flow", "wire", "nat", "gateway"], &["&mut Gateway", "&mut Nat"]),
    ("config", &["flow", "wire", "nat", "gateway", "io"], &[]),
    ("control", &["flow", "wire", "nat", "gateway", "observe", "config"], &[]),
    ("runtime", &["flow", "wire", "nat", "gateway", "io", "observe", "control", "config"], &[]),
    ("lab", &["flow", "wire", "gateway", "io"], &[]),
    (
        "cli",
        &["flow", "wire", "nat", "gateway", "io", "observe", "control", "config", "runtime", "lab", "stun"],
        &[],
    ),
    ("main", &["cli"], &[]),
    ("bin", &["io"], &[]),
];

/// What no pure module names: clocks, threads, sockets, files, logs.
const PURE: &[&str] = &[
    "Instant",
    "SystemTime",
    "std::thread",
    "std::sync",
    "std::fs",
    "std::env",
    "UdpSocket",
    "TcpStream",
    "UnixStream",
    "tracing::",
    "mio::",
    "dashmap::",
    "serde",
    "println!",
    "std::io",
    "std::process",
];

/// Crates with one home each.
const HOMES: [(&str, &[&str]); 7] = [
    ("etherparse", &["wire"]),
    ("smoltcp", &["gateway", "io", "lab"]),
    ("tun_tap", &["io"]),
    ("pnet", &["io", "lab"]),
    ("mio", &["runtime", "control", "io"]),
    ("dashmap", &["observe"]),
    ("clap", &["cli", "config"]),
];

/// Lines of code a file may have, tests inside it not counted.
const FILE_CEILING: usize = 600;

fn sources(under: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(under)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The code of a file without comments and without its inline tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let body = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    body.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The top module a source file belongs to: `nat` for `src/nat/ports.rs`.
fn module(path: &Path) -> String {
    let inside = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

#[test]
fn modules_import_only_what_the_table_allows() {
    let mut wrong = Vec::new();
    for path in sources("src") {
        let (module, code) = (module(&path), code(&path));
        if module == "lib" {
            continue;
        }
        let (_, allowed, forbidden) = IMPORTS
            .iter()
            .find(|(name, ..)| *name == module)
            .unwrap_or_else(|| panic!("{module} is not in the table"));
        for word in *forbidden {
            if code.contains(word) {
                wrong.push(format!("{}: names {word}", path.display()));
            }
        }
        for (at, _) in code.match_indices("crate::") {
            let rest = &code[at + "crate::".len()..];
            let target: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if target != module && !allowed.contains(&target.as_str()) {
                wrong.push(format!("{}: imports {target}", path.display()));
            }
        }
        for hidden in ["use crate::{", "super::super"] {
            if code.contains(hidden) {
                wrong.push(format!("{}: `{hidden}` hides who is imported", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Whether the code names the package, and not one whose name ends with its name.
fn names_package(code: &str, package: &str) -> bool {
    let longer = |at: usize| code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    code.match_indices(&format!("{package}::")).any(|(at, _)| !longer(at))
}

#[test]
fn packages_stay_in_their_homes() {
    let mut wrong = Vec::new();
    for path in sources("src") {
        let (module, code) = (module(&path), code(&path));
        for (package, homes) in HOMES {
            if names_package(&code, package) && !homes.contains(&module.as_str()) {
                wrong.push(format!("{}: {package} lives in {homes:?}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_package_does_work_at_home() {
    for (package, homes) in HOMES {
        let used = |home: &&str| {
            sources("src").iter().any(|path| module(path) == **home && names_package(&code(path), package))
        };
        assert!(homes.iter().any(used), "{package} is not used in {homes:?}");
    }
}

#[test]
fn unsafe_code_stays_in_io_sys() {
    for path in sources("src") {
        let fenced = path.to_string_lossy().contains("/src/io/sys/");
        let has = code(&path).lines().any(|line| line.contains("unsafe {") || line.contains("unsafe fn"));
        assert!(fenced || !has, "{} has unsafe code", path.display());
    }
}

#[test]
fn files_open_with_their_job_and_stay_small() {
    let mut wrong = Vec::new();
    for path in ["src", "tests", "bench"].iter().flat_map(|folder| sources(folder)) {
        let text = fs::read_to_string(&path).unwrap();
        if !text.starts_with("//! ") {
            wrong.push(format!("{}: does not open with //!", path.display()));
        }
        let lines = code(&path).lines().count();
        if path.starts_with(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) && lines > FILE_CEILING {
            wrong.push(format!("{}: {lines} lines", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_test_file_is_run() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    assert!(!manifest.contains("autotests = false"), "files in tests/ must be found by themselves");
    let benches = sources("bench");
    for path in benches {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let folder = path.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        if folder == "bench" {
            assert!(manifest.contains(&format!("bench/{name}")), "bench/{name} is not in Cargo.toml");
        }
    }
}

/// The doc comment of each variant of an enum, in order, as one line each.
fn variant_docs(file: &str, name: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    let body = text.split(&format!("pub enum {name} {{")).nth(1).unwrap().split("\n}").next().unwrap();
    let (mut docs, mut doc) = (Vec::new(), String::new());
    for line in body.lines().filter(|line| line.starts_with("    ") && !line.starts_with("     ")) {
        let line = line.trim();
        if let Some(words) = line.strip_prefix("/// ") {
            doc = format!("{doc} {words}");
        } else if line.starts_with(char::is_uppercase) {
            let variant = line.split(['(', ',', ' ']).next().unwrap().to_owned();
            docs.push((variant, std::mem::take(&mut doc).trim().to_owned()));
        }
    }
    docs
}

#[test]
fn drop_reasons_page_says_what_the_enums_say() {
    let mut rows: Vec<(String, String)> = Vec::new();
    let errors = variant_docs("src/wire/error.rs", "ParseError");
    let refusals = variant_docs("src/nat/decision.rs", "Refusal");
    let own = variant_docs("src/gateway/drop_reason.rs", "DropReason");
    let kebab = |name: &str| {
        name.chars().fold(String::new(), |word, c| match c.is_uppercase() && !word.is_empty() {
            true => format!("{word}-{}", c.to_lowercase()),
            false => format!("{word}{}", c.to_lowercase()),
        })
    };
    let words: Vec<_> = DropReason::words().collect();
    for (variant, doc) in errors {
        let word = kebab(&variant);
        let word = if words.contains(&word.as_str()) { word } else { format!("bad-{word}") };
        rows.push((word, doc));
    }
    rows.extend(refusals.into_iter().map(|(variant, doc)| (kebab(&variant), doc)));
    let wrapped = ["Malformed", "Refused"];
    let plain = own.into_iter().filter(|(variant, _)| !wrapped.contains(&variant.as_str()));
    rows.extend(plain.map(|(variant, doc)| (kebab(&variant).replace("ether-type", "ethertype"), doc)));

    let mut page = String::from(
        "# Why a packet was dropped\n\nOne word for `tapnat stats`, `tapnat events` and the code. This page is made from the doc comments\n\
         of `ParseError`, `Refusal` and `DropReason`; `BLESS=1 cargo test --test tidy` writes it anew.\n\n\
         | word | cause, standard, cure |\n|---|---|\n",
    );
    for (word, doc) in &rows {
        page.push_str(&format!("| `{word}` | {} |\n", doc.replace('|', "\\|")));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/drop-reasons.md");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    for word in words {
        assert!(rows.iter().any(|(row, _)| row == word), "no row for {word}: {rows:?}");
    }
    assert_eq!(rows.len(), DropReason::COUNT);
    assert!(fs::read_to_string(&path).unwrap_or_default() == page, "docs/drop-reasons.md is behind: BLESS=1");
}
