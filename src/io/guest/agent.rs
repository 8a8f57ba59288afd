//! A process that stays inside a network namespace and makes sockets there, for a gateway that
//! cannot enter it.
//!
//! ```text
//!   gateway ── listen, connect, tables ──▶ agent: the helper (see [`mod@super::helper`]) that has joined
//!           ◀── descriptor ───────────────        the namespace, and stays
//! ```
//!
//! A socket belongs to the namespace that it was made in for good, so that the gateway uses it from
//! where it is. The agent gives up all rights but that to ports below 1024, and ends with the gateway.
//!
//! It stands in the container's user namespace with the host's files as its root directory: whoever is
//! root in there could go through it to the user's files. So nobody may look into it (see
//! [`mod@super::helper`]), and it may open no file itself.

use super::helper::{Order, Place, Task};
use super::talk::Talk;
use super::{GuestError, Target, helper, spawn};
use crate::io::listening::Tables;
use crate::io::protect;
use rustix::net::sockopt::{Timeout, set_ipv6_v6only, set_socket_reuseaddr, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// Connections that wait in a listening socket.
const BACKLOG: i32 = 128;
/// How long the agent may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the agent is asked for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Wish {
    /// A socket that listens.
    Listen { udp: bool, at: SocketAddr },
    /// A socket to connect.
    Connect { udp: bool, six: bool },
    /// The tables of sockets.
    Tables,
}

/// An agent, from the gateway's side.
#[derive(Debug)]
pub struct Agent {
    /// `None` once an answer was lost: a later one would be taken for that to another question.
    talk: Mutex<Option<Talk>>,
    _process: Child,
}

impl Agent {
    /// Starts one in the namespace that `target` names. It ends with the calling thread.
    ///
    /// # Errors
    /// See [`GuestError`].
    pub fn start(target: &Target) -> Result<Agent, GuestError> {
        let opened = target.open()?;
        let (talk, process) = spawn(&[], |command| {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        })?;
        let place = Place::Join { what: opened.what.clone(), user: opened.user.is_some() };
        let descriptors: Vec<BorrowedFd<'_>> = opened.descriptors().collect();
        let order = Order { place, task: Task::Sockets };
        talk.send(&order, &descriptors).map_err(helper("giving it the order"))?;
        let (answer, _) = talk.receive::<Result<(), String>>().map_err(helper("its answer"))?;
        answer.map_err(GuestError::Inside)?;
        talk.hurry(PATIENCE).map_err(helper("talking to it"))?;
        Ok(Agent { talk: Mutex::new(Some(talk)), _process: process })
    }

    /// A socket of the namespace that is bound to `at`, and of TCP listens there. It does not block.
    ///
    /// # Errors
    /// `EADDRINUSE` and others of the kernel's; the agent has gone.
    pub fn listen(&self, udp: bool, at: SocketAddr) -> io::Result<OwnedFd> {
        self.one(Wish::Listen { udp, at })
    }

    /// A socket of the namespace that is to be connected. It does not block.
    ///
    /// # Errors
    /// As [`Agent::listen`].
    pub fn socket(&self, udp: bool, six: bool) -> io::Result<OwnedFd> {
        self.one(Wish::Connect { udp, six })
    }

    /// The namespace's tables of sockets.
    ///
    /// # Errors
    /// As [`Agent::listen`].
    pub fn tables(&self) -> io::Result<Tables> {
        Tables::of(self.ask(Wish::Tables)?)
    }

    fn one(&self, wish: Wish) -> io::Result<OwnedFd> {
        self.ask(wish)?.pop().ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn ask(&self, wish: Wish) -> io::Result<Vec<OwnedFd>> {
        // Who panicked while talking has left half a conversation.
        let mut place = self.talk.lock().map_err(|_| io::ErrorKind::BrokenPipe)?;
        let talk = place.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        match talk.send(&wish, &[]).and_then(|()| talk.receive::<Result<(), i32>>()) {
            Ok((answer, descriptors)) => {
                answer.map_err(io::Error::from_raw_os_error)?;
                Ok(descriptors)
            }
            Err(error) => {
                *place = None;
                Err(error)
            }
        }
    }
}

/// Is the agent, once the namespace is joined.
pub(super) fn serve(talk: &Talk) -> ExitCode {
    // Later no file can be opened.
    let tables = Tables::open();
    let ready = set_parent_process_death_signal(Some(Signal::KILL)).is_ok()
        && protect::for_sockets().is_ok()
        && talk.send(&Ok::<_, String>(()), &[]).is_ok();
    if !ready {
        return ExitCode::FAILURE;
    }
    while let Ok((wish, _)) = talk.receive::<Wish>() {
        let sent = match wish {
            Wish::Listen { udp, at } => {
                answer(talk, listening(udp, at).as_ref().map(|one| vec![one.as_fd()]))
            }
            Wish::Connect { udp, six } => {
                answer(talk, unconnected(udp, six).as_ref().map(|one| vec![one.as_fd()]))
            }
            Wish::Tables => answer(talk, tables.as_ref().map(Tables::descriptors)),
        };
        if sent.is_err() {
            break;
        }
    }
    ExitCode::SUCCESS
}

fn answer(talk: &Talk, made: Result<Vec<BorrowedFd<'_>>, &io::Error>) -> io::Result<()> {
    let word = made.as_ref().map(|_| ()).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO));
    talk.send(&word, &made.unwrap_or_default())
}

fn unconnected(udp: bool, six: bool) -> io::Result<OwnedFd> {
    let family = if six { AddressFamily::INET6 } else { AddressFamily::INET };
    let kind = if udp { SocketType::DGRAM } else { SocketType::STREAM };
    Ok(socket_with(family, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?)
}

/// A socket of this process's namespace that is bound to `at`, and of TCP listens there. It does not
/// block.
///
/// # Errors
/// The kernel's word.
pub fn listening(udp: bool, at: SocketAddr) -> io::Result<OwnedFd> {
    let socket = unconnected(udp, at.is_ipv6())?;
    if !udp {
        set_socket_reuseaddr(&socket, true)?;
    }
    if at.is_ipv6() {
        set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &at)?;
    if !udp {
        listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

/// A socket of this process's namespace that is to be connected. It does not block.
///
/// # Errors
/// The kernel's word.
pub fn to_connect(udp: bool, six: bool) -> io::Result<OwnedFd> {
    unconnected(udp, six)
}

impl Talk {
    /// Waits no longer than this for an answer.
    fn hurry(&self, patience: Duration) -> io::Result<()> {
        Ok(set_socket_timeout(self.socket(), Timeout::Recv, Some(patience))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_late_answers_nothing_else() {
        let (ours, theirs) = Talk::pair().unwrap();
        let theirs = Talk::on(theirs);
        ours.hurry(Duration::from_millis(1)).unwrap();
        let process = std::process::Command::new("true").spawn().unwrap();
        let agent = Agent { talk: Mutex::new(Some(ours)), _process: process };
        assert!(agent.socket(true, false).is_err());
        let _ = answer(&theirs, unconnected(true, false).as_ref().map(|one| vec![one.as_fd()]));
        assert_eq!(agent.socket(false, false).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
