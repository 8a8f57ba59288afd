//! `tapnat lookup`: whose an outside port is, and which ones a host has.

use super::args::GatewayArgs;
use super::text::{Cell, Column, Ink, Paint, table};
use crate::control::protocol::{Body, HolderRecord, Request};
use std::io::{self, BufWriter, Write};

/// Options of `tapnat lookup`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct LookupArgs {
    /// An outside endpoint, ADDRESS:PORT with /tcp, /udp or /icmp if only that is meant; or an inside
    /// host, with or without a port
    #[arg(value_name = "WHO")]
    pub who: String,
    /// At this time instead of now, e.g. 2026-11-22T18:00:00Z
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// Which gateway.
    #[command(flatten)]
    pub gateway: GatewayArgs,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

const EXAMPLES: &str = "\
Why somebody has a port: mapping (flows use it at the moment), forward (it is published), block (it
follows from the inside address, profile cgnat), lent-block (lent to a host that had used up its own).
Of times that are gone, blocks are known, and mappings that still live.

Examples:
  tapnat lookup 203.0.113.1:5100
  tapnat lookup 203.0.113.1:5100/tcp --at 2026-11-22T18:00:00Z
  tapnat lookup 10.88.0.7
  tapnat lookup 203.0.113.1:5100 --json | jq -r .inside";

/// Shows who has outside ports.
///
/// # Errors
/// The gateway is not there, nobody has them, or standard output is closed.
pub fn run(args: &LookupArgs) -> anyhow::Result<()> {
    let request = Request::Lookup { who: args.who.clone(), at: args.at.clone() };
    let (bodies, _) = args.gateway.connect()?.all(&request)?;
    let holders: Vec<HolderRecord> = bodies
        .into_iter()
        .filter_map(|body| match body {
            Body::Holder(holder) => Some(holder),
            _ => None,
        })
        .collect();
    let mut out = BufWriter::new(io::stdout().lock());
    if args.json {
        for holder in &holders {
            writeln!(out, "{}", serde_json::to_string(holder)?)?;
        }
    } else {
        for line in lines(&holders, Paint::stdout()) {
            writeln!(out, "{line}")?;
        }
    }
    Ok(out.flush()?)
}

fn lines(holders: &[HolderRecord], paint: Paint) -> Vec<String> {
    let columns = ["WHY", "PROTO", "INSIDE", "OUTSIDE", "FLOWS", "SINCE", "UNTIL"]
        .map(|heading| Column { heading, right: heading == "FLOWS" });
    let time = |time: &Option<String>| {
        let seconds =
            |text: &String| text.split('.').next().unwrap_or_default().trim_end_matches('Z').to_owned() + "Z";
        Cell::from(time.as_ref().map(seconds).unwrap_or_default())
    };
    let row = |holder: &HolderRecord| {
        let protocol = holder.protocol.clone().unwrap_or_else(|| "all".to_owned());
        vec![
            holder.why.clone().into(),
            Cell::inked(Ink::Cyan, protocol),
            holder.inside.clone().into(),
            holder.outside.clone().into(),
            holder.flows.to_string().into(),
            time(&holder.since),
            time(&holder.until),
        ]
    };
    table(&columns, &holders.iter().map(row).collect::<Vec<_>>(), paint)
}
