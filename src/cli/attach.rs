//! `tapnat attach`: be the gateway of network namespaces that somebody else made.

use super::args::runtime_dir;
use super::guest::{Defaults, GuestArgs, plan_many, usage};
use super::run::log_to_stderr;
use crate::config::RunFlags;
use crate::io::guest::{NetChoice, Target, attach};
use crate::runtime::{Around, Member, run_with};
use anyhow::{Context, bail};
use std::path::PathBuf;

/// Options of `tapnat attach`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_arg("bridge", |arg| arg.hide(true)), mut_arg("lone", |arg| arg.hide(true)), mut_arg("tap_fd", |arg| arg.hide(true)))]
pub struct AttachArgs {
    /// The namespace of this process; the gateway ends with it. May be repeated: one gateway for several
    #[arg(long, value_name = "PID", required_unless_present = "netns", help_heading = "Namespace")]
    pub pid: Vec<i32>,
    /// The namespace of this file, or of this name under /run/netns; the gateway ends when it is
    /// removed. May be repeated, also beside --pid; processes come first
    #[arg(long, value_name = "PATH", help_heading = "Namespace")]
    pub netns: Vec<PathBuf>,
    /// Join the user namespace of this file first; one for all, or one for each namespace
    /// [default: the one that owns the network namespace, if need be]
    #[arg(long, value_name = "PATH", help_heading = "Namespace")]
    pub userns: Vec<PathBuf>,
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
  tapnat attach --netns blue --netns red --guest 10.0.2.15/24   # red's is the next free one
  tapnat attach --netns blue --no-config --tap tap0";

/// Runs a gateway until a signal or the end of the namespace; of the last one, if there are several.
///
/// # Errors
/// The settings are wrong, a namespace cannot be joined, or the gateway cannot run.
pub fn run(args: Box<AttachArgs>) -> anyhow::Result<()> {
    let runtime_dir = runtime_dir();
    let targets = targets(args.pid, args.netns, args.userns)?;
    let count = targets.len();
    let mut plan = plan_many(&args.flags, &args.guest, count, Defaults::default(), runtime_dir.as_deref())?;
    if args.no_config {
        for guest in plan.guests_mut() {
            guest.configure = false;
            guest.loopback = false;
        }
    }
    log_to_stderr(plan.settings.log);
    for warning in &plan.settings.warnings {
        tracing::warn!("{warning}");
    }
    plan.keep_ready_fd()?;
    let mut around = Around::default();
    let mut first = None;
    for (port, (target, config)) in targets.iter().zip(plan.guests()).enumerate() {
        let guest = match attach(target, config) {
            Err(error) if count > 1 => bail!("{target}: {error}"),
            guest => guest?,
        };
        for warning in &guest.warnings {
            tracing::warn!("{warning}");
        }
        match guest.ending {
            Some(ending) if count > 1 => around.members.push(Member { port, ending }),
            ending => around.endings.extend(ending),
        }
        match first {
            None => first = Some(guest.tap),
            Some(_) => around.taps.push(guest.tap),
        }
    }
    for (target, config) in targets.iter().zip(plan.guests()).filter(|_| count > 1) {
        let addresses: Vec<String> = config.addresses.iter().map(ToString::to_string).collect();
        tracing::info!("{target}: {}", addresses.join(" "));
    }
    // clap has seen to it that there is one.
    let plan = plan.with_tap(first.context("no namespace is named: give --pid or --netns")?);
    run_with(&plan.settings, &plan.flags, runtime_dir.as_deref(), around)
}

/// The namespaces in order: those of processes, then those of files.
fn targets(pids: Vec<i32>, files: Vec<PathBuf>, users: Vec<PathBuf>) -> anyhow::Result<Vec<Target>> {
    let count = pids.len() + files.len();
    let named = pids.into_iter().map(NetChoice::Pid).chain(files.into_iter().map(NetChoice::Path));
    if users.len() > 1 && users.len() != count {
        let problem = format!("{} are given for {count} namespaces", users.len());
        let cure = "give one for all, or one for each in their order, which is processes first";
        return Err(usage("--userns", problem, cure).into());
    }
    let user = |number: usize| users.get(number).or(users.first().filter(|_| users.len() == 1)).cloned();
    let targets: Vec<Target> =
        named.enumerate().map(|(number, net)| Target { net, user: user(number) }).collect();
    let mut names: Vec<String> = targets.iter().map(ToString::to_string).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(twice) => {
            let problem = format!("{} is named twice", twice[0]);
            Err(usage("--pid or --netns", problem, "name each namespace once").into())
        }
        None => Ok(targets),
    }
}
