//! `tapnat stats`: counters.

use super::args::GatewayArgs;
use super::text::{Ink, Paint, bytes, plural};
use crate::control::protocol::{Body, Request};
use crate::control::{About, Client};
use crate::observe::StatsRecord;
use crate::observe::metrics::Words;
use anyhow::Context;
use std::io::{self, BufWriter, Write};

/// Options of `tapnat stats`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct StatsArgs {
    /// Which gateway.
    #[command(flatten)]
    pub gateway: GatewayArgs,
    /// One JSON object; its key `about` has what the gateway is, and every setting in force
    #[arg(long)]
    pub json: bool,
    /// Prometheus text, for a textfile collector
    #[arg(long, conflicts_with = "json")]
    pub prometheus: bool,
    /// Show counters that are zero too
    #[arg(long)]
    pub all: bool,
}

const EXAMPLES: &str = "\
Every drop has a reason with a stable word; docs/drop-reasons.md says cause and cure of each.

Examples:
  tapnat stats
  tapnat stats --json | jq .dropped
  tapnat stats --json | jq -r '.about.config[\"timeouts.udp\"]'
  tapnat stats --prometheus > /var/lib/node_exporter/tapnat.prom";

/// Shows the counters of a running gateway.
///
/// # Errors
/// It is not there, or standard output is closed.
pub fn run(args: &StatsArgs) -> anyhow::Result<()> {
    let mut client = args.gateway.connect()?;
    let stats = fetch(&mut client)?;
    let mut out = BufWriter::new(io::stdout().lock());
    if args.json {
        let mut whole = serde_json::to_value(&stats)?;
        whole["about"] = serde_json::to_value(about(&mut client)?)?;
        writeln!(out, "{whole}")?;
    } else if args.prometheus {
        let name = client.greeting().name.clone();
        write!(out, "{}", stats.prometheus(&name))?;
    } else {
        let about = about(&mut client)?;
        for line in lines(&about, &stats, args.all, Paint::stdout()) {
            writeln!(out, "{line}")?;
        }
    }
    Ok(out.flush()?)
}

fn fetch(client: &mut Client) -> anyhow::Result<StatsRecord> {
    let (bodies, _) = client.all(&Request::Stats {})?;
    let stats = bodies.into_iter().find_map(|body| match body {
        Body::Stats(stats) => Some(*stats),
        _ => None,
    });
    stats.context("the gateway sent no counters; use the tapnat that it was started with")
}

fn about(client: &mut Client) -> anyhow::Result<About> {
    let (bodies, _) = client.all(&Request::About {})?;
    let about = bodies.into_iter().find_map(|body| match body {
        Body::About(about) => Some(*about),
        _ => None,
    });
    about.context("the gateway did not say what it is; use the tapnat that it was started with")
}

/// The counters for a person; those that are zero only with `all`.
pub fn lines(about: &About, stats: &StatsRecord, all: bool, paint: Paint) -> Vec<String> {
    let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(", ");
    let mut lines = vec![
        format!("{} (pid {}), since {}", paint.ink(Ink::Bold, &about.name), about.pid, about.started),
        format!(
            "  inside   {} on {}{}, offload {}",
            list(&mut about.inside.iter().map(ToString::to_string)),
            about.tap,
            about.bridge.as_ref().map(|bridge| format!(" in {bridge}")).unwrap_or_default(),
            about.tap_offload
        ),
        format!(
            "  outside  {} ports {} on {}, uplink {}, guard {}",
            list(&mut about.external.iter().map(ToString::to_string)),
            about.ports,
            about.outside,
            about.uplink,
            about.guard
        ),
        format!("  profile  {}", profiles(about)),
        format!("  gave up  {}", gave_up(about)),
        format!(
            "  tables   {}, {}, {}, {}",
            plural(stats.sessions, "session"),
            plural(stats.mappings, "mapping"),
            plural(stats.free_ports, "free port"),
            bytes(stats.table_bytes)
        ),
    ];
    let groups = [
        ("passed", &stats.passed),
        ("answered", &stats.answered),
        ("dropped", &stats.dropped),
        ("lost by links", &stats.links),
    ];
    for (heading, words) in groups {
        group(&mut lines, heading, words, all, paint);
    }
    lines
}

/// The profile, and those of the rules.
fn profiles(about: &About) -> String {
    let rules = about.rules.iter().map(|rule| format!("; {} for {}", rule.profile, rule.inside));
    std::iter::once(about.profile.clone()).chain(rules).collect()
}

/// What the process has given up; a gateway from before this was known says nothing of it.
fn gave_up(about: &About) -> String {
    if about.protection.is_empty() {
        "nothing (--sandbox off)".to_owned()
    } else {
        about.protection.join("; ")
    }
}

fn group(lines: &mut Vec<String>, heading: &str, Words(words): &Words, all: bool, paint: Paint) {
    lines.push(paint.ink(Ink::Bold, heading));
    let shown: Vec<&(String, u64)> = words.iter().filter(|(_, count)| all || *count > 0).collect();
    let width = shown.iter().map(|(word, _)| word.chars().count()).max().unwrap_or(0);
    let digits = shown.iter().map(|(_, count)| count.to_string().len()).max().unwrap_or(0);
    for (word, count) in &shown {
        lines.push(format!("  {word:<width$}  {count:>digits$}"));
    }
    match (shown.is_empty(), words.len() - shown.len()) {
        (true, _) => lines.push(paint.ink(Ink::Dim, "  nothing")),
        (false, 0) => {}
        (false, zeros) => lines.push(paint.ink(Ink::Dim, &format!("  {zeros} others are 0 (--all)"))),
    }
}
