//! `tapnat doctor`: what this host allows, what is missing, and the command that mends it.
//!
//! Each thing is tried, not guessed from versions, wherever trying leaves nothing behind. What has to
//! be tried in namespaces of its own is tried by a child: this program again, with a hidden option.

mod checks;

use super::text::{Cell, Column, Ink, Paint, table};
use serde::{Deserialize, Serialize};
use std::io::{self, BufWriter, Write};

/// Options of `tapnat doctor`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArgs {
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
    /// Enter namespaces of its own, check there, and write JSON: for the child
    #[arg(long, hide = true)]
    pub in_namespaces: bool,
}

const EXAMPLES: &str = "\
Not everything is needed: the last lines say what works for this user as things are. Run it as the
user that will run tapnat.

Examples:
  tapnat doctor
  tapnat doctor --json | jq -r 'select(.ok | not) | .cure // empty'";

/// One thing that a host allows or not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Check {
    /// Its stable word.
    pub check: String,
    /// Whether it is allowed.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// The command that mends it, or what to do.
    pub cure: Option<String>,
}

impl Check {
    fn yes(check: &str, detail: impl Into<String>) -> Check {
        Check { check: check.to_owned(), ok: true, detail: detail.into(), cure: None }
    }

    fn no(check: &str, detail: impl Into<String>, cure: impl Into<String>) -> Check {
        Check { check: check.to_owned(), ok: false, detail: detail.into(), cure: Some(cure.into()) }
    }
}

/// Looks at this host.
///
/// # Errors
/// Standard output is closed.
pub fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let found = if args.in_namespaces { checks::in_namespaces() } else { checks::all() };
    let mut out = BufWriter::new(io::stdout().lock());
    if args.json || args.in_namespaces {
        for check in &found {
            writeln!(out, "{}", serde_json::to_string(check)?)?;
        }
    } else {
        for line in lines(&found, Paint::stdout()) {
            writeln!(out, "{line}")?;
        }
    }
    Ok(out.flush()?)
}

fn lines(found: &[Check], paint: Paint) -> Vec<String> {
    let columns = ["CHECK", "OK", "FOUND"].map(|heading| Column { heading, right: false });
    let row = |check: &Check| {
        let ok = if check.ok { Cell::inked(Ink::Green, "yes") } else { Cell::inked(Ink::Red, "no") };
        vec![check.check.clone().into(), ok, check.detail.clone().into()]
    };
    let rows: Vec<Vec<Cell>> = found.iter().map(row).collect();
    let mut lines = table(&columns, &rows, paint);
    let cures: Vec<&Check> = found.iter().filter(|check| check.cure.is_some()).collect();
    if !cures.is_empty() {
        lines.push(String::new());
        lines.push(paint.ink(Ink::Bold, "To mend what is missing"));
    }
    // One command often mends several things.
    let mut said: Vec<&str> = Vec::new();
    for cure in cures.iter().filter_map(|check| check.cure.as_deref()) {
        if said.contains(&cure) {
            continue;
        }
        let mended: Vec<&str> = cures
            .iter()
            .filter(|check| check.cure.as_deref() == Some(cure))
            .map(|check| &*check.check)
            .collect();
        lines.push(format!("  {}: {}", mended.join(", "), paint.ink(Ink::Cyan, cure)));
        said.push(cure);
    }
    lines.push(String::new());
    lines.push(paint.ink(Ink::Bold, "As things are, this user can"));
    lines.extend(verdict(found).into_iter().map(|line| format!("  {line}")));
    lines.push(String::new());
    lines.push(paint.ink(Ink::Bold, "The uplinks, best first (docs/uplinks.md)"));
    lines.extend(ladder(found).into_iter().map(|line| format!("  {line}")));
    lines
}

/// Each step of privilege: whether this user stands on it, and how to climb it.
fn ladder(found: &[Check]) -> Vec<String> {
    let check = |word: &str| found.iter().find(|check| check.check == word);
    let step = |uplink: &str, word: &str, gives: &str| match check(word) {
        Some(Check { ok: true, .. }) => format!("{uplink:<8} yes: {gives}"),
        Some(Check { cure: Some(cure), .. }) => format!("{uplink:<8} no; to have it: {cure}"),
        _ => format!("{uplink:<8} not known"),
    };
    let ping = match check("ping-socket") {
        Some(Check { ok: false, cure: Some(cure), .. }) => format!("without ping; to have it: {cure}"),
        _ => "ping".to_owned(),
    };
    vec![
        step("packet", "packet-socket", "every protocol, super-frames whole"),
        step(
            "handed",
            "raw-helper",
            "uplink packet by a socket that tapnat-raw opens (tapnat-raw eth0 run ...)",
        ),
        step("raw", "raw-socket", "every protocol, also where there is no Ethernet"),
        step(
            "inside",
            "tap-in-namespace",
            "full rights in namespaces of its own (tapnat exec, tapnat attach)",
        ),
        format!("{:<8} always: UDP, TCP, {ping}", "sockets"),
    ]
}

/// What the checks come to.
fn verdict(found: &[Check]) -> Vec<String> {
    let ok = |word: &str| found.iter().any(|check| check.check == word && check.ok);
    let mut lines = Vec::new();
    let (uplink, guard) = match (ok("packet-socket"), ok("raw-socket")) {
        (true, _) => ("packet", if ok("tcx") { "tcx" } else { "hold" }),
        (false, true) => ("raw", "hold"),
        (false, false) => ("sockets", "sockets"),
    };
    match (ok("tun-device"), ok("cap-net-admin")) {
        (true, true) => lines.push(format!("run a gateway on this host: uplink {uplink}, guard {guard}")),
        (true, false) => lines.push(format!(
            "run a gateway (uplink {uplink}) only on a TAP that an administrator has made for it: \
             sudo ip tuntap add tapnat0 mode tap user $USER && sudo ip link set tapnat0 up"
        )),
        (false, _) => lines.push("not run a gateway on this host".to_owned()),
    }
    lines.push(match ok("user-namespaces") && ok("tap-in-namespace") {
        true => "run a gateway in namespaces of its own, without root (tapnat demo)".to_owned(),
        false => "not run a gateway in namespaces of its own".to_owned(),
    });
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lack_has_a_cure_and_the_verdict_follows_from_the_checks() {
        let with = |words: &[&str]| words.iter().map(|word| Check::yes(word, "")).collect::<Vec<Check>>();
        let full = with(&["tun-device", "cap-net-admin", "packet-socket", "raw-socket", "tcx"]);
        assert!(verdict(&full)[0].ends_with("uplink packet, guard tcx"));
        let raw = with(&["tun-device", "cap-net-admin", "raw-socket", "tcx"]);
        assert!(verdict(&raw)[0].ends_with("uplink raw, guard hold"), "tcx needs the packet uplink");
        let owned = with(&["tun-device"]);
        assert!(verdict(&owned)[0].starts_with("run a gateway (uplink sockets) only on a TAP"));
        let steps =
            ladder(&[Check::no("packet-socket", "EPERM", "sudo setcap"), Check::yes("raw-socket", "")]);
        assert!(steps[0].contains("no; to have it: sudo setcap") && steps[2].contains("yes"), "{steps:?}");
        assert!(steps[1].starts_with("handed   not known") && steps[4].starts_with("sockets  always"));
        let bare = with(&["user-namespaces", "tap-in-namespace"]);
        assert!(verdict(&bare)[0].starts_with("not run") && verdict(&bare)[1].starts_with("run"));
        let text = lines(&[Check::no("tcx", "EPERM", "setcap")], Paint { on: false }).join("\n");
        assert!(text.contains("tcx    no  EPERM") && text.contains("tcx: setcap"), "{text}");
    }
}
