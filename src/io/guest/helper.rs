//! The helper's side: joins or makes the namespaces, opens the TAP, answers, and if there is a
//! command, becomes it when told to.
//!
//! It runs as `tapnat inside FD -- [COMMAND...]`, a process with one thread. What fails is sent
//! back as one line.

use super::configure::configure;
use super::fresh::{Fresh, enter};
use super::talk::Talk;
use super::{GuestConfig, agent};
use crate::io::Link;
use crate::io::sys::fd;
use crate::io::tap::Tap;
use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// The hidden verb that starts the program as helper.
pub const VERB: &str = "inside";

/// Exit code when the command is not there, as of a shell.
const NOT_FOUND: u8 = 127;
/// Exit code when it cannot be run, as of a shell.
const NOT_EXECUTABLE: u8 = 126;

/// What the helper is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) place: Place,
    pub(super) task: Task,
}

/// What it is to do there.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Task {
    /// To make a TAP.
    Tap(GuestConfig),
    /// To stay, and make sockets.
    Sockets,
}

/// Where it is to do that.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Place {
    /// In the namespaces whose descriptors come with the order: network, then user if `user`.
    Join { what: String, user: bool },
    /// In namespaces of its own.
    Fresh(Fresh),
}

/// What it has made.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Made {
    pub(super) name: String,
    pub(super) mac: [u8; 6],
    pub(super) warnings: Vec<String>,
}

/// Is the helper that talks through descriptor `number`. Comes back with an exit code, unless it
/// becomes `command`.
pub fn run(number: RawFd, command: &[OsString]) -> ExitCode {
    let Ok(socket) = fd::adopt(number) else {
        let _ = writeln!(
            io::stderr(),
            "tapnat: {VERB} is for tapnat itself: see `tapnat attach` and `tapnat exec`"
        );
        return ExitCode::from(2);
    };
    // What the command is to inherit does not include this.
    let _ = rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC);
    let talk = Talk::on(socket);
    let Ok((order, descriptors)) = talk.receive::<Order>() else { return ExitCode::FAILURE };
    let Order { place, task } = order;
    let mut warnings = Vec::new();
    // Root of the namespaces that are joined is not to reach the host's files through this process. (One
    // that makes its own namespaces writes its own maps, which who cannot be looked into may not.)
    if matches!(place, Place::Join { .. }) && set_dumpable_behavior(DumpableBehavior::NotDumpable).is_err() {
        return ExitCode::FAILURE;
    }
    let there = go(place, descriptors, &mut warnings);
    let made = match task {
        Task::Sockets if there.is_ok() => return agent::serve(&talk),
        Task::Sockets => there.and(Err(String::new())),
        Task::Tap(guest) => there.and_then(|()| make(&guest, warnings)),
    };
    match made {
        Ok((tap, made)) => {
            if talk.send(&Ok::<_, String>(made), &[tap.as_fd()]).is_err() {
                return ExitCode::FAILURE;
            }
        }
        Err(why) => {
            let _ = talk.send(&Err::<Made, _>(why), &[]);
            return ExitCode::FAILURE;
        }
    }
    match command.split_first() {
        None => ExitCode::SUCCESS,
        Some((program, arguments)) => become_command(&talk, program, arguments),
    }
}

/// Waits until packets can flow, and runs the command in this process's place.
fn become_command(talk: &Talk, program: &OsString, arguments: &[OsString]) -> ExitCode {
    // Without its gateway the command has no network: it ends with it.
    if set_parent_process_death_signal(Some(Signal::KILL)).is_err() || talk.receive::<()>().is_err() {
        return ExitCode::FAILURE;
    }
    let error = Command::new(program).args(arguments).exec();
    let program = program.to_string_lossy();
    let missing = error.kind() == io::ErrorKind::NotFound;
    let cure = if missing { "; give a command that is in PATH, or its path" } else { "" };
    let _ = writeln!(io::stderr(), "tapnat: exec: cannot run {program}: {error}{cure}");
    ExitCode::from(if missing { NOT_FOUND } else { NOT_EXECUTABLE })
}

fn go(place: Place, descriptors: Vec<OwnedFd>, warnings: &mut Vec<String>) -> Result<(), String> {
    match place {
        Place::Join { what, user } => join(&what, user, descriptors),
        Place::Fresh(fresh) => enter(&fresh, warnings),
    }
}

fn make(guest: &GuestConfig, warnings: Vec<String>) -> Result<(Tap, Made), String> {
    let tap = Tap::open(&guest.tap, guest.offload, guest.mtu).map_err(|error| error.to_string())?;
    let mac = configure(tap.name(), guest)?;
    let name = tap.name().to_owned();
    Ok((tap, Made { name, mac, warnings }))
}

fn join(what: &str, user: bool, descriptors: Vec<OwnedFd>) -> Result<(), String> {
    let mut descriptors = descriptors.into_iter();
    let net = descriptors.next().ok_or("the order came without the network namespace")?;
    if user {
        let user = descriptors.next().ok_or("the order came without the user namespace")?;
        move_into_link_name_space(user.as_fd(), Some(LinkNameSpaceType::User)).map_err(|error| {
            let error = io::Error::from(error);
            format!(
                "the user namespace of {what} may not be joined: {error}; run tapnat as the user that made it, \
                 or as root"
            )
        })?;
    }
    move_into_link_name_space(net.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|error| {
        let error = io::Error::from(error);
        format!(
            "{what} may not be joined: {error}; run tapnat as the user that made it, or as root, or name the user \
             namespace that it belongs to with --userns"
        )
    })
}
