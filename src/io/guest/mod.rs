//! A TAP inside another network namespace, while this process stays where it is.
//!
//! ```text
//!   gateway (host's namespaces)              helper (the same program, `tapnat inside`)
//!   opens the namespaces ── order, descriptors ──▶ joins them, or makes new ones
//!                                                  opens the TAP there, configures it
//!   serves it  ◀────── answer, TAP descriptor ──── ends, or waits
//!                ────────────── go ──────────────▶ becomes the command (`tapnat exec`)
//! ```
//!
//! A user namespace can only be joined by a process with one thread, and whoever has joined one does
//! not come back: hence a process of its own, and a new image of the program in it. An open TAP works
//! from anywhere, so that its descriptor is all that has to come back.

pub mod agent;
pub mod configure;
pub mod fresh;
pub mod helper;
pub mod resolver;
mod talk;
pub mod target;
pub mod template;

pub use agent::Agent;
pub use fresh::{Fresh, Go, Launched, launch};
pub use target::{NetChoice, Target};
pub use template::Template;

use crate::io::ending::Ending;
use crate::io::sys::netns::inherit;
use helper::{Made, Order, Place, Task, VERB};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use talk::Talk;

/// How this program finds itself, whatever has become of its file.
const SELF: &str = "/proc/self/exe";

/// What is made of the TAP in the namespace.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GuestConfig {
    /// Its name, 1 to 15 bytes. One that exists is attached to.
    pub tap: String,
    /// Whether frames come with offloads, as in [`crate::io::tap::Tap::open`].
    pub offload: bool,
    /// Its MTU, in bytes.
    pub mtu: u16,
    /// Its MAC, unicast; `None` to leave it to the kernel. Given even if nothing else is done to it.
    pub mac: Option<[u8; 6]>,
    /// Addresses with their prefixes, both families.
    pub addresses: Vec<IpNet>,
    /// Routes through the TAP.
    pub routes: Vec<GuestRoute>,
    /// Whether router advertisements are believed; `None` to leave it to the namespace.
    pub advertisements: Option<bool>,
    /// Whether `lo` is switched on.
    pub loopback: bool,
    /// Whether anything is done to the TAP beyond opening it: MTU, MAC, addresses, switching it on,
    /// routes. Without, it is as somebody else made it, or down.
    pub configure: bool,
}

/// A route of the namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GuestRoute {
    /// Where to; `0.0.0.0/0` and `::/0` are default routes.
    pub to: IpNet,
    /// Through whom; `None` for what is on the wire itself.
    pub via: Option<IpAddr>,
}

impl GuestRoute {
    /// The default route of the gateway's family.
    pub fn default(via: IpAddr) -> GuestRoute {
        let any = match via {
            IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
            IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
        };
        GuestRoute { to: any, via: Some(via) }
    }
}

/// Why there is no TAP in the namespace. Each says the thing, the cause and the cure.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// There is no such process.
    #[error("there is no process {0}: it has ended, or it is a number of another PID namespace")]
    NoProcess(i32),
    /// The process may not be looked at.
    #[error(
        "process {0} is not this user's: its namespaces may not be opened; run tapnat as the user that owns it, or as root"
    )]
    ForeignProcess(i32),
    /// The process ended while its namespace was being joined.
    #[error("{0} while its namespace was being joined: there is nothing left to serve")]
    Vanished(String),
    /// The file cannot be opened.
    #[error("{what} {path}: {source}; {cure}")]
    Open {
        /// What it was to be.
        what: &'static str,
        /// The file.
        path: String,
        /// What the kernel said.
        source: io::Error,
        /// What to do.
        cure: &'static str,
    },
    /// It is something else than a namespace of that kind.
    #[error("{0} is no {1}: name one such as /run/netns/NAME (`ip netns add NAME`) or /proc/PID/ns/{2}")]
    NoNamespace(String, &'static str, &'static str),
    /// What the helper says.
    #[error("{0}")]
    Inside(String),
    /// The helper cannot be asked.
    #[error("the helper process (tapnat {VERB}): {doing}: {source}")]
    Helper {
        /// What was tried.
        doing: &'static str,
        /// What came of it.
        source: io::Error,
    },
}

fn helper(doing: &'static str) -> impl Fn(io::Error) -> GuestError {
    move |source| GuestError::Helper { doing, source }
}

/// A TAP in a namespace.
#[derive(Debug)]
pub struct Guest {
    /// Its descriptor, for [`crate::io::tap::Tap::adopt`]: not blocking, number 3 or above. The TAP
    /// goes with it, if it was made here.
    pub tap: OwnedFd,
    /// Its name there.
    pub name: String,
    /// Its MAC.
    pub mac: [u8; 6],
    /// What of the configuration could not be had, one line each.
    pub warnings: Vec<String>,
    /// The end of the namespace, as far as it can be told.
    pub ending: Option<Ending>,
}

/// Opens a TAP in the namespace that `target` names, through a helper process.
///
/// # Errors
/// See [`GuestError`]. Nothing is left behind then but `lo` switched on.
pub fn attach(target: &Target, config: &GuestConfig) -> Result<Guest, GuestError> {
    let mut opened = target.open()?;
    let (talk, mut child) = spawn(&[], |command| {
        command.stdin(Stdio::null()).stdout(Stdio::null());
    })?;
    let order = Order {
        place: Place::Join { what: opened.what.clone(), user: opened.user.is_some() },
        task: Task::Tap(config.clone()),
    };
    let descriptors: Vec<BorrowedFd<'_>> = opened.descriptors().collect();
    let answer = ask(&talk, &order, &descriptors);
    drop(talk);
    let status = child.wait().map_err(helper("waiting for it"))?;
    let (made, tap) = match answer {
        // A namespace that ends meanwhile makes any call fail; that it ended is the cause to tell.
        Err(_) if opened.ending.as_mut().is_some_and(Ending::ended) => {
            return Err(GuestError::Vanished(opened.ended()));
        }
        Err(GuestError::Helper { doing, source }) if source.kind() == io::ErrorKind::UnexpectedEof => {
            let source = io::Error::other(format!("it ended without an answer ({status})"));
            return Err(GuestError::Helper { doing, source });
        }
        answer => answer?,
    };
    if opened.ending.as_mut().is_some_and(Ending::ended) {
        return Err(GuestError::Vanished(opened.ended()));
    }
    let warnings = opened.warnings.into_iter().chain(made.warnings).collect();
    Ok(Guest { tap, name: made.name, mac: made.mac, warnings, ending: opened.ending })
}

/// Starts the helper, which is to become `command` in the end.
fn spawn(command: &[OsString], prepare: impl FnOnce(&mut Command)) -> Result<(Talk, Child), GuestError> {
    let (ours, theirs) = Talk::pair().map_err(helper("making a socket pair"))?;
    let mut program = Command::new(SELF);
    program.arg0("tapnat").arg(VERB).arg(theirs.as_raw_fd().to_string()).arg("--").args(command);
    prepare(&mut program);
    inherit(&mut program, theirs);
    let child = program.spawn().map_err(helper("starting it"))?;
    // The command holds the other end, without which this one would never see the helper's end.
    drop(program);
    Ok((ours, child))
}

/// Gives the order and waits for the answer.
fn ask(talk: &Talk, order: &Order, descriptors: &[BorrowedFd<'_>]) -> Result<(Made, OwnedFd), GuestError> {
    talk.send(order, descriptors).map_err(helper("giving it the order"))?;
    let (answer, mut received) = talk.receive::<Result<Made, String>>().map_err(helper("its answer"))?;
    let made = answer.map_err(GuestError::Inside)?;
    let tap = received.pop().ok_or(io::ErrorKind::InvalidData.into()).map_err(helper("its answer"))?;
    // Numbers 0 to 2 are free if the caller has closed them, but no place for a TAP.
    let tap = rustix::io::fcntl_dupfd_cloexec(&tap, 3).map_err(io::Error::from);
    Ok((made, tap.map_err(helper("keeping its descriptor"))?))
}
