//! `pesto`: changes the port forwards of a running `pasta` through its socket.

use super::getopt::{self, Opt, flag, value};
use super::pasta_ports::{Rule, ephemeral, read_all};
use super::pesto_wire::{HOST, MOST_RULES, SPLICE, Table, change, greeted};
use super::{say, say_error};
use crate::flow::Protocol;
use anyhow::{Context, anyhow, bail};
use std::ffi::OsString;
use std::io::Read;
use std::net::{IpAddr, Shutdown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// How long pasta may take for its part.
const PATIENCE: Duration = Duration::from_secs(10);

const OPTS: [Opt; 11] = [
    flag("help", Some(b'h')),
    flag("version", None),
    flag("debug", Some(b'd')),
    flag("add", Some(b'A')),
    flag("delete", Some(b'D')),
    flag("show", Some(b's')),
    value("clear", Some(b'C')),
    value("tcp-ports", Some(b't')),
    value("udp-ports", Some(b'u')),
    value("tcp-ns", Some(b'T')),
    value("udp-ns", Some(b'U')),
];

const USAGE: &str = "\
Usage: pesto [OPTION]... SOCKET
Changes the port forwards of the pasta that was started with --conf-path SOCKET; without options, shows them.

  -A, --add                add the ports of the options that follow
  -D, --delete             take them away
  -t, --tcp-ports SPEC     TCP from the host to the namespace
  -u, --udp-ports SPEC     UDP likewise
  -T, --tcp-ns SPEC        TCP from the namespace's loopback to the host's
  -U, --udp-ns SPEC        UDP likewise
  -C, --clear TABLE        first take away all of HOST (-t, -u) or SPLICE (-T, -U)
  -s, --show               show what is forwarded then
  -h, --help               this text
      --version            the version
";

/// What is done with a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Act {
    Add,
    Delete,
}

/// What is asked for.
#[derive(Debug, Default)]
struct Order {
    socket: PathBuf,
    clear: Vec<u8>,
    rules: Vec<(Act, u8, Rule)>,
    show: bool,
}

/// Is `pesto`.
pub fn main(args: &[OsString]) -> ExitCode {
    match run(args) {
        Ok(text) => {
            say(&text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            say_error(&format!("pesto: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[OsString]) -> anyhow::Result<String> {
    let line = getopt::read(&OPTS, args, false)?;
    let has = |wanted: &str| line.options.iter().any(|(name, _)| *name == wanted);
    if has("help") {
        return Ok(USAGE.to_owned());
    }
    if has("version") {
        return Ok(format!("pesto of tapnat {}\n", env!("CARGO_PKG_VERSION")));
    }
    let order = order(line)?;
    let (mut socket, mut tables) = connect(&order.socket)?;
    let before = tables.clone();
    apply(&order, &mut tables)?;
    let changed: Vec<_> = tables.iter().filter(|table| !before.contains(table)).collect();
    if !changed.is_empty() {
        let changed: Vec<_> = changed.iter().map(|table| (table.which, table.rules.clone())).collect();
        change(&mut socket, &changed).context("telling pasta")?;
    }
    socket.shutdown(Shutdown::Write).context("telling pasta")?;
    // It closes when it is done.
    match socket.read(&mut [0]) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => return Err(error).context("waiting for pasta"),
    }
    // What pasta has refused is not there.
    if tables != before && connect(&order.socket)?.1 != tables {
        bail!("pasta has not taken the ports, or somebody else has changed them since; its log says why");
    }
    let shows = order.show || (order.rules.is_empty() && order.clear.is_empty());
    Ok(if shows { tables.iter().map(shown).collect() } else { String::new() })
}

/// Asks pasta for its tables.
fn connect(path: &Path) -> anyhow::Result<(UnixStream, Vec<Table>)> {
    let mut socket = UnixStream::connect(path)
        .with_context(|| format!("{}: is pasta there, with --conf-path?", path.display()))?;
    socket.set_read_timeout(Some(PATIENCE)).context("the socket")?;
    socket.set_write_timeout(Some(PATIENCE)).context("the socket")?;
    let tables = greeted(&mut socket).with_context(|| format!("{}", path.display()))?;
    Ok((socket, tables))
}

fn order(line: getopt::Line) -> anyhow::Result<Order> {
    let [socket] = line.words.as_slice() else { bail!("name one socket; --help tells more") };
    let mut order = Order { socket: PathBuf::from(socket), ..Order::default() };
    let mut act = None;
    for (name, text) in line.options {
        let shown = text.to_string_lossy().into_owned();
        let (which, protocol) = match name {
            "add" => {
                act = Some(Act::Add);
                continue;
            }
            "delete" => {
                act = Some(Act::Delete);
                continue;
            }
            "show" => {
                order.show = true;
                continue;
            }
            "clear" => {
                let which = match shown.to_ascii_uppercase().as_str() {
                    "HOST" => HOST,
                    "SPLICE" => SPLICE,
                    _ => bail!("--clear {shown}: there are HOST and SPLICE"),
                };
                order.clear.push(which);
                continue;
            }
            "tcp-ports" => (HOST, Protocol::Tcp),
            "udp-ports" => (HOST, Protocol::Udp),
            "tcp-ns" => (SPLICE, Protocol::Tcp),
            "udp-ns" => (SPLICE, Protocol::Udp),
            // What there is to say is said anyway.
            _ => continue,
        };
        let act = act.with_context(|| format!("--{name} {shown}: say --add or --delete before it"))?;
        let rules = read_all(&[shown], protocol, ephemeral()).map_err(|why| anyhow!("--{name} {why}"))?;
        order.rules.extend(rules.unwrap_or_default().into_iter().map(|rule| (act, which, rule)));
    }
    Ok(order)
}

fn apply(order: &Order, tables: &mut [Table]) -> anyhow::Result<()> {
    for which in &order.clear {
        tables.iter_mut().filter(|table| table.which == *which).for_each(|table| table.rules.clear());
    }
    for (act, which, rule) in &order.rules {
        let table = tables.iter_mut().find(|table| table.which == *which);
        let table = table.context("pasta there has no such table")?;
        let rules = &mut table.rules;
        match (act, rules.iter().position(|known| known == rule)) {
            (Act::Add, Some(_)) => {}
            (Act::Add, None) => {
                if let Some(other) = rules.iter().find(|known| known.overlaps(rule)) {
                    bail!("{}: some of its ports are forwarded already: {}", spec(rule), spec(other));
                }
                if rules.len() == MOST_RULES {
                    bail!("there are {MOST_RULES} rules already");
                }
                rules.push(*rule);
            }
            (Act::Delete, Some(at)) => {
                rules.remove(at);
            }
            (Act::Delete, None) => say_error(&format!("pesto: {}: was not forwarded", spec(rule))),
        }
    }
    Ok(())
}

fn shown(table: &Table) -> String {
    let line = |rule: &Rule| format!("{} {} {}\n", table.name, rule.protocol, spec(rule));
    table.rules.iter().map(line).collect()
}

/// A rule as it would be given.
fn spec(rule: &Rule) -> String {
    let Rule { first, last, to, .. } = *rule;
    let ip = |ip: Option<IpAddr>| match ip {
        None => String::new(),
        Some(IpAddr::V4(ip)) => format!("{ip}/"),
        Some(IpAddr::V6(ip)) => format!("[{ip}]/"),
    };
    let range = |first: u16| match first.saturating_add(last - rule.first) {
        last if last == first => first.to_string(),
        last => format!("{first}-{last}"),
    };
    let behind = match (rule.target, to == first) {
        (None, true) => String::new(),
        (target, _) => format!(":{}{}", ip(target), range(to)),
    };
    format!("{}{}{behind}{}", ip(rule.at), range(first), if rule.scan { ",auto" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(args: &str, tables: &mut [Table]) -> String {
        let args: Vec<OsString> = args.split_whitespace().map(OsString::from).collect();
        let order = getopt::read(&OPTS, &args, false).map_err(anyhow::Error::new).and_then(order);
        match order.and_then(|order| apply(&order, tables)) {
            Err(error) => format!("{error:#}"),
            Ok(()) => tables.iter().map(shown).collect::<String>().replace('\n', "; "),
        }
    }

    #[test]
    fn rules_are_added_once_and_taken_away() {
        let table =
            |which, name: &str| Table { which, name: name.to_owned(), abilities: 31, rules: Vec::new() };
        let mut tables = [table(HOST, "HOST"), table(SPLICE, "SPLICE")];
        let podman = "--add -t 0.0.0.0/8080 -t [::]/8080 -u 127.0.0.1/53-54:5353-5354 /s";
        let want = "HOST TCP 0.0.0.0/8080; HOST TCP [::]/8080; HOST UDP 127.0.0.1/53-54:5353-5354; ";
        assert_eq!(said(podman, &mut tables).to_uppercase(), want.to_uppercase());
        assert_eq!(said(podman, &mut tables).to_uppercase(), want.to_uppercase(), "twice is once");
        let more = said("-A -T 5432 -D -u 127.0.0.1/53-54:5353-5354 -t 9 /s", &mut tables).to_uppercase();
        assert_eq!(more, "HOST TCP 0.0.0.0/8080; HOST TCP [::]/8080; SPLICE TCP 5432; ");
        assert!(said("-A -t 8080:81 /s", &mut tables).contains("forwarded already: 0.0.0.0/8080"));
        assert_eq!(
            said("-C host --clear SPLICE -A -t auto /s", &mut tables).to_uppercase(),
            "HOST TCP 1-65535,AUTO; "
        );
        for (args, why) in [
            ("-t 80 /s", "say --add or --delete before it"),
            ("-A -t x /s", "--tcp-ports x: x: is no port"),
            ("-C OTHER /s", "there are HOST and SPLICE"),
            ("-A", "name one socket"),
            ("-A /a /b", "name one socket"),
            ("--nonsense /s", "unrecognized option '--nonsense'"),
        ] {
            assert!(said(args, &mut tables).contains(why), "{args}: {}", said(args, &mut tables));
        }
    }
}
