//! Listening sockets of published TCP ports.

use super::LISTEN;
use crate::flow::Endpoint;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

/// Connections that wait in a listening socket.
const BACKLOG: i32 = 1024;

/// Connections that one turn may bring, before others have theirs.
const MOST: usize = 64;

#[derive(Debug)]
struct Listener {
    socket: Socket,
    outside: Endpoint,
    /// Connections wait that could not be accepted.
    stuck: bool,
    /// It waits for its turn.
    queued: bool,
}

/// The listening sockets.
#[derive(Debug)]
pub struct Listeners {
    registry: Registry,
    slots: Vec<Option<Listener>>,
    /// Connections that could not be accepted, for want of descriptors.
    pub failed: u64,
}

impl Listeners {
    /// None yet.
    pub fn new(registry: Registry) -> Self {
        Listeners { registry, slots: Vec::new(), failed: 0 }
    }

    /// Listens on `local` for the published endpoint `outside`. Where it listens already, it goes on.
    ///
    /// # Errors
    /// `EADDRINUSE` if a program of the host has the port; the kernel's word otherwise.
    pub fn open(&mut self, outside: Endpoint, local: SocketAddr) -> io::Result<()> {
        if self.slots.iter().flatten().any(|listener| listener.outside == outside) {
            return Ok(());
        }
        let socket = Socket::new(Domain::for_address(local), Type::STREAM.nonblocking().cloexec(), None)?;
        socket.set_reuse_address(true)?;
        if local.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&local.into())?;
        socket.listen(BACKLOG)?;
        let slot = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if slot >= LISTEN.len() {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        let token = Token(LISTEN.start + slot);
        self.registry.register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE)?;
        let listener = Some(Listener { socket, outside, stuck: false, queued: false });
        match self.slots.get_mut(slot) {
            Some(vacant) => *vacant = listener,
            None => self.slots.push(listener),
        }
        Ok(())
    }

    /// Listens no more for `outside`.
    pub fn close(&mut self, outside: Endpoint) {
        for slot in &mut self.slots {
            if slot.as_ref().is_some_and(|listener| listener.outside == outside) {
                *slot = None;
            }
        }
    }

    /// Hands connections that wait in a socket to `take`: the socket, who called, and whom. Whether more may
    /// wait, of which nothing tells again.
    pub fn accept(&mut self, slot: usize, mut take: impl FnMut(Socket, SocketAddr, Endpoint)) -> bool {
        let Some(Some(listener)) = self.slots.get_mut(slot) else { return false };
        listener.queued = false;
        for _ in 0..MOST {
            match listener.socket.accept4(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) {
                Ok((socket, from)) => {
                    if let Some(from) = from.as_socket() {
                        take(socket, from, listener.outside);
                    }
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return false,
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => {}
                    _ => {
                        self.failed += 1;
                        listener.stuck = true;
                        return false;
                    }
                },
            }
        }
        listener.queued = true;
        true
    }

    /// Connections wait in a socket. Whether it is to wait for its turn, and does not yet.
    pub fn ready(&mut self, slot: usize) -> bool {
        let listener = self.slots.get_mut(slot).and_then(Option::as_mut);
        listener.is_some_and(|listener| !std::mem::replace(&mut listener.queued, true))
    }

    /// Whether connections wait that could not be accepted: nothing tells of them again.
    pub fn stuck(&self) -> bool {
        self.slots.iter().flatten().any(|listener| listener.stuck)
    }

    /// The sockets where they wait, to be tried again.
    pub fn take_stuck(&mut self) -> Vec<usize> {
        let stuck = |(slot, listener): (usize, &mut Option<Listener>)| {
            let was = std::mem::take(&mut listener.as_mut()?.stuck);
            was.then_some(slot)
        };
        self.slots.iter_mut().enumerate().filter_map(stuck).collect()
    }
}
