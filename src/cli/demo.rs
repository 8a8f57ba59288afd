//! `tapnat demo`: two containers, a bridge, a host that forwards nothing and an "internet", built
//! from namespaces; the real gateway started in the middle; and what changes when it is there.
//!
//! Without root it happens in a user namespace. Nothing outside the namespaces is touched, nothing
//! has a name there, and all of it ends with the process.

mod acts;
mod story;

use crate::io::guest::fresh::namespace_cure;
use crate::io::sys::netns::enter_private;
use crate::lab::netns::Lab;
use crate::lab::product::Product;
use crate::lab::topology::{BRIDGE, INSIDE, Options, UPLINK, standard};
use acts::Stage;
use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, mount};
use signal_hook::consts::SIGINT;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use story::Story;

/// Where the gateway of the demo can be asked. `/run` is the demo's own there.
const CONTROL: &str = "/run/tapnat-demo.sock";
/// The gateway's TAP.
const TAP: &str = "tapnat0";
/// The limit of the gateway's start and end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Build two containers, a bridge and an "internet", and show the gateway at work between them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::Args)]
pub struct Demo {
    /// Afterwards, open a shell on the host of the demo, with the gateway still running
    #[arg(long)]
    keep: bool,

    /// Print without colours, as when NO_COLOR is set
    #[arg(long, alias = "no-color")]
    no_colour: bool,
}

impl Demo {
    /// Shows it all.
    ///
    /// # Errors
    /// If the host forbids what the demo needs, with the cure; or if a step did not go as told.
    pub fn run(self) -> Result<()> {
        let root = rustix::process::geteuid().is_root();
        enter(root, "the demo")?;
        let program = std::env::current_exe().context("find the tapnat program itself")?;
        let mut story = Story::new(self.no_colour);
        story.title("Two containers reach the world through a process");
        acts::network(&mut story, root);
        let lab = Lab::build(&standard(Options::default())).context("build the lab")?;
        let mut stage = Stage::new(lab, program, CONTROL, story.coloured())?;
        acts::without_gateway(&mut story, &stage)?;
        let mut gateway = start(&mut story, &stage)?;
        acts::with_gateway(&mut story, &stage)?;
        acts::table(&mut story, &stage)?;
        acts::one_packet(&mut story, &stage)?;
        acts::no_rules(&mut story, &stage)?;
        if self.keep {
            shell(&mut story, &stage)?;
        }
        acts::end(&mut story, &mut stage, &mut gateway)?;
        story.closing();
        if story.failures() > 0 {
            bail!(
                "{} steps of the demo did not go as told above; `tapnat doctor` may know why",
                story.failures()
            );
        }
        Ok(())
    }
}

/// Takes the process, which must have one thread, to where everything is allowed and `/run` is its
/// own; or says what `who` is missing, and the cure.
pub(super) fn enter(root: bool, who: &str) -> Result<()> {
    if let Err(error) = enter_private(!root) {
        bail!("{who} needs namespaces of its own and cannot {error}; {}", namespace_cure(&error, root));
    }
    if let Err(error) = File::options().read(true).write(true).open("/dev/net/tun") {
        let cure = match error.kind() {
            io::ErrorKind::NotFound => {
                "as root: modprobe tun (in a container: run it with --device /dev/net/tun)"
            }
            io::ErrorKind::PermissionDenied => "as root: chmod 666 /dev/net/tun (as it is on most systems)",
            _ => "as root: modprobe tun",
        };
        bail!("{who} needs a TAP device and cannot open /dev/net/tun: {error}; {cure}");
    }
    // The control socket lives here, and ends with the mount namespace.
    mount(c"tmpfs", c"/run", c"tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755")
        .map_err(io::Error::from)
        .context("mount a private /run")?;
    Ok(())
}

/// Starts the real gateway on the host, the way a person would.
fn start(story: &mut Story, stage: &Stage) -> Result<Product> {
    story.heading("The gateway");
    let arguments = [
        "run",
        "--tap",
        TAP,
        "--bridge",
        BRIDGE,
        "--inside",
        INSIDE,
        "--outside",
        UPLINK,
        "--control",
        CONTROL,
    ];
    story.command("host", &format!("tapnat {}", arguments.join(" ")));
    let started = Product::start(&stage.program, stage.host(), &arguments, PATIENCE);
    match started {
        Ok(gateway) => {
            gateway.wait_for_words(Duration::from_secs(1));
            story.block(&gateway.said());
            story.good(&format!("ready: process {} of its own, no route and no rule added", gateway.id()));
            Ok(gateway)
        }
        Err(error) => bail!("the gateway did not start: {error}"),
    }
}

/// A shell on the demo's host, while everything runs.
fn shell(story: &mut Story, stage: &Stage) -> Result<()> {
    story.heading("Look around");
    let shell = std::env::var_os("SHELL").map_or_else(|| PathBuf::from("/bin/sh"), PathBuf::from);
    let path = |host: &str| format!("/proc/{}/fd/{}", std::process::id(), stage.lab.host(host).number());
    story.text("This shell is on the demo's host, the gateway is running. To try:");
    story.text("  tapnat flows --control $CONTROL        (also: events, stats)");
    story.text("  nsenter --net=$RED ping 198.51.100.7   (container red; $BLUE and $INTERNET are there too)");
    story.text("The end of the shell is the end of the demo.");
    // An interrupt is for what runs in the shell.
    let interrupted = Arc::new(AtomicBool::new(false));
    let handler = signal_hook::flag::register(SIGINT, interrupted).context("set aside the interrupt key")?;
    // Names of users' runtime folders make no sense with a /run of our own.
    let mut command = Command::new(&shell);
    command
        .env("CONTROL", CONTROL)
        .env("RED", path("red"))
        .env("BLUE", path("blue"))
        .env("INTERNET", path("internet"));
    command.env_remove("XDG_RUNTIME_DIR").env("PATH", path_with(&stage.program));
    stage.host().confine(&mut command);
    let status = command.status().with_context(|| format!("start {}", shell.display()))?;
    signal_hook::low_level::unregister(handler);
    story.text(&format!("({} ended: {status})", shell.display()));
    Ok(())
}

/// The search path with this program's folder in front, so that `tapnat` is found.
fn path_with(program: &Path) -> std::ffi::OsString {
    let old = std::env::var_os("PATH").unwrap_or_default();
    let folders = program.parent().map(Path::to_path_buf).into_iter().chain(std::env::split_paths(&old));
    std::env::join_paths(folders).unwrap_or(old.clone())
}
