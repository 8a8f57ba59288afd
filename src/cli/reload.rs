//! `tapnat reload`: new settings for a running gateway.

use super::args::GatewayArgs;
use super::text::{Ink, Paint, plural};
use crate::config::file;
use crate::control::protocol::{Body, Request};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

/// Options of `tapnat reload`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ReloadArgs {
    /// Which gateway.
    #[command(flatten)]
    pub gateway: GatewayArgs,
    /// Take the settings of this file, once, instead of those that the gateway was started with
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
    // The gateway may have given up what it takes to open a file that the caller may read.
    let text = args.config.as_deref().map(file::text).transpose()?;
    let config = args.config.as_ref().map(|path| path.to_string_lossy().into_owned().into());
    let request = Request::Reload { config, text, dry_run: args.dry_run };
    let (bodies, count) = args.gateway.connect()?.all(&request)?;
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
