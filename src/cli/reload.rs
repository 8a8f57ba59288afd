//! `tapnat reload`: new settings for a running gateway.

use super::args::GatewayArgs;
use super::text::{Ink, Paint, plural};
use crate::control::protocol::{Body, Request};
use anyhow::Context;
use std::io::{self, BufWriter, Write};
use std::path::{PathBuf, absolute};

/// Options of `tapnat reload`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ReloadArgs {
    /// Which gateway.
    #[command(flatten)]
    pub gateway: GatewayArgs,
    /// Read this file, once, instead of the one that the gateway was started with
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Only check the settings and show what would change
    #[arg(long)]
    pub dry_run: bool,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

const EXAMPLES: &str = "\
The options that the gateway was started with still win over the file. The new settings take effect
wholly or not at all; flows live on wherever the new settings allow them. What belongs to devices and
sockets (tap, bridge, mac, mtu, outside, uplink, guard, sandbox, name, control, log) needs a restart and is
refused. SIGHUP does the same and says in the log what came of it.

Examples:
  tapnat reload --dry-run
  tapnat reload
  tapnat reload --config /etc/tapnat-night.toml --json";

/// Has a running gateway read its settings again.
///
/// # Errors
/// It is not there or refuses the settings, or standard output is closed.
pub fn run(args: &ReloadArgs) -> anyhow::Result<()> {
    let config = match &args.config {
        Some(path) => Some(absolute(path).with_context(|| format!("--config {}", path.display()))?),
        None => None,
    };
    let (bodies, count) = args.gateway.connect()?.all(&Request::Reload { config, dry_run: args.dry_run })?;
    let mut out = BufWriter::new(io::stdout().lock());
    for body in bodies {
        match body {
            Body::Change(change) if args.json => writeln!(out, "{}", serde_json::to_string(&change)?)?,
            Body::Change(change) => writeln!(out, "{change}")?,
            Body::Reloaded(record) if args.json => writeln!(out, "{}", serde_json::to_string(&record)?)?,
            Body::Reloaded(record) => {
                let line = match (count, record.dry_run) {
                    (0, true) => "nothing would change".to_owned(),
                    (_, true) => format!("{} would change", plural(count, "key")),
                    _ => format!("kept {}, ended {}", plural(record.kept, "flow"), record.ended),
                };
                writeln!(out, "{}", Paint::stdout().ink(Ink::Dim, &line))?;
            }
            _ => {}
        }
    }
    Ok(out.flush()?)
}
