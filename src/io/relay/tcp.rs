//! Connections of a relay: bytes both ways, each end of a direction by itself, resets as resets.

use super::{Around, CONNECTIONS, Side, Way, count};
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;

/// Connections at once, at most.
const MOST: usize = 1024;
/// Bytes that a direction holds, at most.
const BUFFER: usize = 64 * 1024;
/// Buffers that one direction may fill in its turn.
const ROUNDS: usize = 16;
/// Connections that one way may bring in its turn.
const ACCEPTS: usize = 64;

#[derive(Debug)]
struct Listener {
    socket: TcpListener,
    side: Side,
    to: SocketAddr,
}

/// What one end says, on its way to the other.
#[derive(Debug, Default)]
struct Direction {
    buffer: Vec<u8>,
    /// Of the buffer, what is written already.
    written: usize,
    /// No more comes.
    ended: bool,
    /// The other end was told so.
    told: bool,
}

#[derive(Debug)]
struct Connection {
    /// The client's and the server's.
    ends: [TcpStream; 2],
    connected: bool,
    /// What each end says.
    directions: [Direction; 2],
    queued: bool,
}

/// What has come of a connection's turn.
enum Outcome {
    Waits,
    Again,
    Over,
}

/// All connections.
#[derive(Debug, Default)]
pub(super) struct Tcp {
    listeners: HashMap<usize, Listener>,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    callers: VecDeque<usize>,
    queue: VecDeque<usize>,
}

impl Tcp {
    pub(super) fn add(
        &mut self,
        number: usize,
        way: Way,
        registry: &Registry,
        token: Token,
    ) -> io::Result<()> {
        let mut socket = TcpListener::from_std(way.socket.into());
        registry.register(&mut socket, token, Interest::READABLE)?;
        self.listeners.insert(number, Listener { socket, side: way.side, to: way.to });
        Ok(())
    }

    pub(super) fn remove(&mut self, number: usize) {
        self.listeners.remove(&number);
    }

    /// Whether something has more to do without being told.
    pub(super) fn waits(&self) -> bool {
        !self.queue.is_empty() || !self.callers.is_empty()
    }

    /// Somebody waits in a listening socket.
    pub(super) fn called(&mut self, number: usize) {
        if !self.callers.contains(&number) {
            self.callers.push_back(number);
        }
    }

    /// Something has happened at an end of a connection.
    pub(super) fn ready(&mut self, place: usize) {
        self.enqueue(place / 2);
    }

    /// A second has gone by. Who could not be accepted for want of descriptors is not told of again.
    pub(super) fn tick(&mut self) {
        let numbers: Vec<usize> = self.listeners.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.called(number));
    }

    /// Gives everybody who waits a turn.
    pub(super) fn work(&mut self, around: &Around<'_>) {
        for _ in 0..self.callers.len() {
            if let Some(number) = self.callers.pop_front()
                && self.accept(number, around)
            {
                self.callers.push_back(number);
            }
        }
        for _ in 0..self.queue.len() {
            let Some(slot) = self.queue.pop_front() else { break };
            let Some(Some(connection)) = self.connections.get_mut(slot) else { continue };
            connection.queued = false;
            match connection.turn(around) {
                Outcome::Waits => {}
                Outcome::Again => self.enqueue(slot),
                Outcome::Over => {
                    self.connections[slot] = None;
                    self.free.push(slot);
                }
            }
        }
    }

    fn enqueue(&mut self, slot: usize) {
        if let Some(Some(connection)) = self.connections.get_mut(slot)
            && !connection.queued
        {
            connection.queued = true;
            self.queue.push_back(slot);
        }
    }

    /// Accepts those who wait; whether there may be more.
    fn accept(&mut self, number: usize, around: &Around<'_>) -> bool {
        for _ in 0..ACCEPTS {
            let Some(listener) = self.listeners.get(&number) else { return false };
            let (client, _) = match listener.socket.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(_) => {
                    count(&around.counters.full);
                    return false;
                }
            };
            let (side, to) = (listener.side, listener.to);
            if self.free.is_empty() && self.connections.len() >= MOST {
                count(&around.counters.full);
                reset(&client);
                continue;
            }
            match around.sockets.make(side, false, to.is_ipv6()).and_then(|socket| connect(socket, to)) {
                Ok(server) => self.begin(client, server, around),
                Err(_) => {
                    count(&around.counters.unanswered);
                    reset(&client);
                }
            }
        }
        true
    }

    fn begin(&mut self, client: TcpStream, server: TcpStream, around: &Around<'_>) {
        let slot = self.free.pop().unwrap_or(self.connections.len());
        let mut ends = [client, server];
        let both = Interest::READABLE | Interest::WRITABLE;
        for (at, end) in ends.iter_mut().enumerate() {
            let _ = end.set_nodelay(true);
            let _ = socket2::SockRef::from(&*end).set_keepalive(true);
            if around.registry.register(end, Token(CONNECTIONS + slot * 2 + at), both).is_err() {
                count(&around.counters.full);
                ends.iter().for_each(reset);
                if slot < self.connections.len() {
                    self.free.push(slot);
                }
                return;
            }
        }
        count(&around.counters.begun);
        let connection = Connection { ends, connected: false, directions: Default::default(), queued: false };
        match self.connections.get_mut(slot) {
            Some(vacant) => *vacant = Some(connection),
            None => self.connections.push(Some(connection)),
        }
        self.enqueue(slot);
    }
}

impl Connection {
    fn turn(&mut self, around: &Around<'_>) -> Outcome {
        if !self.connected {
            match arrived(&self.ends[1]) {
                Ok(true) => self.connected = true,
                Ok(false) => return Outcome::Waits,
                Err(_) => {
                    count(&around.counters.unanswered);
                    return self.reset();
                }
            }
        }
        let mut again = false;
        for from in 0..2 {
            match self.carry(from) {
                Ok(more) => again |= more,
                Err(_) => return self.reset(),
            }
        }
        match (self.directions.iter().all(|direction| direction.told), again) {
            (true, _) => Outcome::Over,
            (false, true) => Outcome::Again,
            (false, false) => Outcome::Waits,
        }
    }

    /// Carries what one end says to the other; whether there may be more.
    fn carry(&mut self, from: usize) -> io::Result<bool> {
        let [client, server] = &mut self.ends;
        let (source, sink) = if from == 0 { (client, server) } else { (server, client) };
        let direction = &mut self.directions[from];
        for _ in 0..ROUNDS {
            if direction.written == direction.buffer.len() && !direction.fill(source)? {
                return Ok(false);
            }
            if !direction.empty(sink)? || direction.told {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What one end does not accept any more is reset at the other.
    fn reset(&self) -> Outcome {
        self.ends.iter().for_each(reset);
        Outcome::Over
    }
}

impl Direction {
    /// Reads; whether there is something to do then.
    fn fill(&mut self, source: &mut TcpStream) -> io::Result<bool> {
        self.written = 0;
        if self.ended {
            self.buffer.clear();
            return Ok(!self.told);
        }
        self.buffer.resize(BUFFER, 0);
        let read = loop {
            match source.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        // Nothing is held for those who say nothing.
        let count = match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.buffer = Vec::new();
                return Ok(false);
            }
            read => read.inspect_err(|_| self.buffer.clear())?,
        };
        self.buffer.truncate(count);
        self.ended = count == 0;
        Ok(true)
    }

    /// Writes; whether all is written.
    fn empty(&mut self, sink: &mut TcpStream) -> io::Result<bool> {
        while self.written < self.buffer.len() {
            match sink.write(&self.buffer[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        if self.ended && !self.told {
            self.told = true;
            sink.shutdown(Shutdown::Write)?;
        }
        Ok(true)
    }
}

fn connect(socket: OwnedFd, to: SocketAddr) -> io::Result<TcpStream> {
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(TcpStream::from_std(socket.into())),
        Err(error) => Err(error.into()),
    }
}

/// Whether a connection has been made.
fn arrived(stream: &TcpStream) -> io::Result<bool> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    match stream.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Has a connection reset when it is closed.
fn reset(stream: &TcpStream) {
    // It is over already if this fails.
    let _ = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
}
