//! `tapnat run`: be the gateway.

use super::args::runtime_dir;
use super::handed;
use crate::config::{LogLevel, RunFlags, load};
use std::io::{self, IsTerminal};
use tracing::Level;
use tracing_subscriber::fmt::MakeWriter;

/// Options of `tapnat run`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// The settings.
    #[command(flatten)]
    pub flags: RunFlags,
}

const EXAMPLES: &str = "\
Every option but --config is also a key of the file; --timeout and --limit are the tables [timeouts]
and [limits]. Options win over the file: values and lists replace, tables are merged by name.

Examples:
  tapnat run --bridge br0 --inside 10.88.0.1/24
  tapnat run --tap tap0 --inside 10.0.2.2/24 --mtu 65520 --uplink raw --guard hold
  tapnat run --inside 10.88.0.1/24 --publish 8080:10.88.0.2:80/tcp --timeout udp=5m
  tapnat run --config /etc/tapnat.toml --log debug

A file that says the same as the first and third together:
  bridge = \"br0\"
  inside = [\"10.88.0.1/24\"]
  publish = [\"8080:10.88.0.2:80/tcp\"]
  [timeouts]
  udp = \"5m\"";

/// Runs a gateway until a signal ends it.
///
/// # Errors
/// The settings are wrong, or the gateway cannot run with them.
pub fn run(args: &RunArgs) -> anyhow::Result<()> {
    let runtime_dir = runtime_dir();
    let mut flags = args.flags.clone();
    handed::take(&mut flags)?;
    let settings = load(&flags, runtime_dir.as_deref())?;
    // Later, a number that was not inherited may be that of something that the gateway has opened.
    handed::check(&settings)?;
    log_to_stderr(settings.log);
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    crate::runtime::run(&settings, &flags, runtime_dir.as_deref())
}

/// Has the log written to standard error.
pub fn log_to_stderr(level: LogLevel) {
    log_to(level, io::stderr, io::stderr().is_terminal());
}

/// Has the log written by `writer`, in colour or not.
pub fn log_to<W>(level: LogLevel, writer: W, colour: bool)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let level = match level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    };
    let log = tracing_subscriber::fmt().with_max_level(level).with_target(false).with_writer(writer);
    // An error says that somebody listens already, which is as good.
    let _ = log.with_ansi(colour).try_init();
}
