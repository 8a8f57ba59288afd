//! `tapnat flush`: forget flows.

use super::args::{FilterArgs, GatewayArgs};
use super::text::plural;
use crate::control::protocol::Request;
use std::io::{self, Write};

/// Options of `tapnat flush`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct FlushArgs {
    /// Which gateway.
    #[command(flatten)]
    pub gateway: GatewayArgs,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    /// Which flows.
    #[command(flatten)]
    pub filter: FilterArgs,
}

const EXAMPLES: &str = "\
Without a filter every flow is forgotten. Hosts are not told: a forgotten TCP connection hangs until
one side gives up. Port forwards stay.

Examples:
  tapnat flush --inside 10.88.0.2
  tapnat flush --protocol udp --remote 198.51.100.7:53
  tapnat flush";

/// Has a running gateway forget flows.
///
/// # Errors
/// It is not there, or standard output is closed.
pub fn run(args: &FlushArgs) -> anyhow::Result<()> {
    let mut client = args.gateway.connect()?;
    let (_, count) = client.all(&Request::Flush { filter: args.filter.filter() })?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{{\"forgotten\":{count}}}")?;
    } else {
        writeln!(out, "forgot {}", plural(count, "flow"))?;
    }
    Ok(())
}
