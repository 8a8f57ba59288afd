//! `tapnat attach`: be the gateway of a network namespace that somebody else made.

use super::args::runtime_dir;
use super::guest::{Defaults, GuestArgs, plan};
use super::run::log_to_stderr;
use crate::config::RunFlags;
use crate::io::guest::{NetChoice, Target, attach};
use crate::runtime::{Around, run_with};
use std::path::PathBuf;

/// Options of `tapnat attach`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_arg("bridge", |arg| arg.hide(true)), mut_arg("tap_fd", |arg| arg.hide(true)))]
pub struct AttachArgs {
    /// The namespace of this process; the gateway ends with it
    #[arg(long, value_name = "PID", required_unless_present = "netns", help_heading = "Namespace")]
    pub pid: Option<i32>,
    /// The namespace of this file, or of this name under /run/netns; the gateway ends when it is removed
    #[arg(long, value_name = "PATH", conflicts_with = "pid", help_heading = "Namespace")]
    pub netns: Option<PathBuf>,
    /// Join the user namespace of this file first [default: the one that owns the network namespace,
    /// if need be]
    #[arg(long, value_name = "PATH", help_heading = "Namespace")]
    pub userns: Option<PathBuf>,
    /// Leave the namespace's addresses and routes alone, and the TAP down unless somebody has made it
    #[arg(long, conflicts_with = "guest", help_heading = "Namespace")]
    pub no_config: bool,
    /// The address.
    #[command(flatten)]
    pub guest: GuestArgs,
    /// The settings.
    #[command(flatten)]
    pub flags: RunFlags,
}

const EXAMPLES: &str = "\
The TAP is made in the namespace, given address, route and MTU, and goes with the gateway, which itself
stays outside. Without --inside the gateway is 10.0.2.2/24, and fd00::2/64 where the host has IPv6, and
the namespace 10.0.2.100 and fd00::100. The gateway's own address is a resolver, and DHCP is answered. Files
of the namespace are left alone, so its /etc/resolv.conf must name the gateway, or a server outside.

Examples:
  tapnat attach --pid 4711
  tapnat attach --netns /run/netns/blue --inside 10.88.0.1/24 --guest 10.88.0.2/24
  tapnat attach --pid 4711 --publish 8080:10.0.2.100:80/tcp --mtu 65520
  tapnat attach --netns blue --no-config --tap tap0";

/// Runs a gateway until a signal or the end of the namespace.
///
/// # Errors
/// The settings are wrong, the namespace cannot be joined, or the gateway cannot run.
pub fn run(args: Box<AttachArgs>) -> anyhow::Result<()> {
    let runtime_dir = runtime_dir();
    let mut plan = plan(&args.flags, &args.guest, Defaults::default(), runtime_dir.as_deref())?;
    if args.no_config {
        plan.guest.configure = false;
        plan.guest.loopback = false;
    }
    log_to_stderr(plan.settings.log);
    for warning in &plan.settings.warnings {
        tracing::warn!("{warning}");
    }
    plan.keep_ready_fd()?;
    let net = match (args.pid, args.netns) {
        (Some(pid), _) => NetChoice::Pid(pid),
        // clap has seen to it that one of the two is there.
        (None, path) => NetChoice::Path(path.unwrap_or_default()),
    };
    let guest = attach(&Target { net, user: args.userns }, &plan.guest)?;
    for warning in &guest.warnings {
        tracing::warn!("{warning}");
    }
    let around = Around { endings: guest.ending.into_iter().collect(), ..Around::default() };
    let plan = plan.with_tap(guest.tap);
    run_with(&plan.settings, &plan.flags, runtime_dir.as_deref(), around)
}
