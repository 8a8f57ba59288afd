//! `tapnat exec`: run a command in namespaces of its own behind the gateway.
//!
//! ```text
//! shell ── tapnat exec: the gateway, in the shell's namespaces
//!             └── the command: same terminal and process group, its own network and resolv.conf
//! ```
//!
//! Keys of the terminal reach the whole process group, so the command is told by the kernel. The
//! gateway lets them pass, and goes when the command has gone. What other processes send to the
//! gateway it hands on. When the command alone is stopped, the gateway stops with it, or the shell would
//! never know.

use super::args::runtime_dir;
use super::guest::{Defaults, GuestArgs, Plan, plan};
use super::run::log_to_stderr;
use crate::config::{RunFlags, Settings};
use crate::io::guest::{Fresh, Launched, NetChoice, Target, launch, resolver};
use crate::io::sys::signal::Blocked;
use crate::runtime::{Around, run_with};
use anyhow::Context;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getpid, kill_process, waitid};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};
use std::thread;
use std::time::Duration;

/// How long to look whether a command that was stopped was so only for a moment.
const STOPPED: Duration = Duration::from_millis(20);

/// Options of `tapnat exec`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_arg("bridge", |arg| arg.hide(true)), mut_arg("lone", |arg| arg.hide(true)), mut_arg("tap_fd", |arg| arg.hide(true)))]
pub struct ExecArgs {
    /// The command is root of its namespaces, and may change its addresses and routes
    #[arg(long, help_heading = "Namespace")]
    pub root: bool,
    /// The address.
    #[command(flatten)]
    pub guest: GuestArgs,
    /// The settings.
    #[command(flatten)]
    pub flags: RunFlags,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

const EXAMPLES: &str = "\
The exit code is the command's: 128 and the signal's number if one ended it, 127 if it was not found, 126
if it cannot be run. It keeps its user, terminal and folder; it has its own network and /etc/resolv.conf.
Only warnings are logged unless --log says otherwise.

Examples:
  tapnat exec -- curl http://example.org
  tapnat exec --publish 8080:10.0.2.100:80/tcp --root -- python3 -m http.server 80
  tapnat exec --profile symmetric -- sh";

/// Runs the command; gives its exit code.
///
/// # Errors
/// The settings are wrong, namespaces cannot be made, or the gateway cannot run.
pub fn run(args: &ExecArgs) -> anyhow::Result<ExitCode> {
    let runtime_dir = runtime_dir();
    let name = format!("exec-{}", std::process::id());
    let defaults = Defaults { name: Some(&name), log: Some("warn") };
    let plan = plan(&args.flags, &args.guest, defaults, runtime_dir.as_deref())?;
    log_to_stderr(plan.settings.log);
    for warning in &plan.settings.warnings {
        tracing::warn!("{warning}");
    }
    plan.keep_ready_fd()?;
    let fresh = Fresh { root: args.root, resolver: resolver_file(&plan.settings) };
    accompanied(plan, &fresh, &args.command, |_| Ok(Around::default()))
}

/// Runs a command in namespaces of its own, behind the gateway of `plan`, with what `around` makes for
/// the namespaces around it; gives
/// its exit code.
///
/// # Errors
/// Namespaces cannot be made, or the gateway cannot run.
pub fn accompanied(
    plan: Plan,
    fresh: &Fresh,
    command: &[OsString],
    around: impl FnOnce(&Target) -> anyhow::Result<Around>,
) -> anyhow::Result<ExitCode> {
    let Launched { guest, mut child, go } = launch(fresh, &plan.guest, command)?;
    for warning in &guest.warnings {
        tracing::warn!("{warning}");
    }
    let pid = Pid::from_child(&child);
    let around = around(&Target { net: NetChoice::Pid(pid.as_raw_nonzero().get()), user: None })?;
    // After the start of the command, which is to have none of this; before that of any thread.
    let signals = Blocked::new(&[SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2]);
    let signals = signals.context("signals")?;
    // The thread comes when the process has given up its rights, and without them.
    let before = around.ready;
    let ready = move |engine| {
        before.map_or(Ok(()), |before| before(engine))?;
        let companion = thread::Builder::new().name("command".into());
        companion.spawn(move || accompany(pid, &signals)).context("a thread")?;
        go.go().context("starting the command")
    };

    let around = Around {
        endings: around.endings.into_iter().chain(guest.ending).collect(),
        ready: Some(Box::new(ready)),
        control_optional: !plan.control_named,
        removes: around.removes,
        counters: around.counters,
        passing: true,
        ..Around::default()
    };
    let plan = plan.with_tap(guest.tap);
    run_with(&plan.settings, &plan.flags, runtime_dir().as_deref(), around)?;
    let status = child.wait().context("the command's end")?;
    Ok(ExitCode::from(code(status)))
}

/// The command's `/etc/resolv.conf`: servers that were named, else the gateway as a way to the host's
/// resolver, else those of the host that can be reached from elsewhere.
fn resolver_file(settings: &Settings) -> Option<String> {
    let servers = settings.dns.as_ref().unwrap_or(&settings.dns_forward);
    match servers.as_slice() {
        [] => resolver::of_host(),
        servers => Some(resolver::naming(servers, settings.search.as_deref())),
    }
}

/// What a shell would say of how a command ended.
fn code(status: ExitStatus) -> u8 {
    let by_signal = status.signal().map(|signal| signal.saturating_add(128));
    status.code().or(by_signal).and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Hands signals on to the command, and stops with it.
fn accompany(pid: Pid, signals: &Blocked) {
    while let Ok(caught) = signals.wait() {
        if caught.signal == SIGCHLD {
            stop_with(pid);
            continue;
        }
        // The kernel tells the command itself.
        let foreign = caught.sender.is_some_and(|sender| sender != pid.as_raw_nonzero().get());
        if foreign && let Some(signal) = Signal::from_named_raw(caught.signal) {
            match kill_process(pid, signal) {
                // It may have ended meanwhile.
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => tracing::warn!("the command cannot be given {signal:?}: {error}"),
            }
        }
    }
}

/// Stops this process if the command was stopped.
fn stop_with(pid: Pid) {
    let stopped = |more| {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | more;
        waitid(WaitId::Pid(pid), options).is_ok_and(|status| status.is_some_and(|status| status.stopped()))
    };
    if !stopped(WaitIdOptions::NOWAIT) {
        return;
    }
    // A key of the terminal has stopped both, perhaps this one while it slept here; who continues both may
    // have begun with this one.
    thread::sleep(STOPPED);
    if !stopped(WaitIdOptions::NOWAIT) {
        return;
    }
    thread::sleep(STOPPED);
    if stopped(WaitIdOptions::empty()) {
        // With nobody there to continue it, the kernel does not stop it.
        let _ = kill_process(getpid(), Signal::TSTP);
    }
}
