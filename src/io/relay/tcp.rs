//! Connections of a relay: bytes both ways, each end of a direction by itself, resets as resets.

use super::{Around, CONNECTIONS, Side, Way, count};
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;

/// Connections at once, at most.
const MOST: usize = 1024;
/// Bytes that are read at once; no more of a direction waits for its other end.
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
    /// It is among the callers.
    queued: bool,
}

/// What one end says, on its way to the other.
#[derive(Debug, Default)]
struct Direction {
    /// What the other end did not take yet.
    held: Vec<u8>,
    /// Of that, what is written already.
    written: usize,
    /// No more comes, and the other end was told so.
    told: bool,
}

#[derive(Debug)]
struct Connection {
    /// The client's and the server's.
    ends: [TcpStream; 2],
    connected: bool,
    /// One of the ends has an error.
    failed: bool,
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
    /// Listeners that could not be accepted from for want of descriptors.
    stuck: BTreeSet<usize>,
    queue: VecDeque<usize>,
    buffer: Vec<u8>,
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
        self.listeners.insert(number, Listener { socket, side: way.side, to: way.to, queued: false });
        Ok(())
    }

    pub(super) fn remove(&mut self, number: usize) {
        self.listeners.remove(&number);
        self.stuck.remove(&number);
    }

    /// Whether something has more to do without being told.
    pub(super) fn waits(&self) -> bool {
        !self.queue.is_empty() || !self.callers.is_empty()
    }

    /// Somebody waits in a listening socket.
    pub(super) fn called(&mut self, number: usize) {
        if let Some(listener) = self.listeners.get_mut(&number)
            && !listener.queued
        {
            listener.queued = true;
            self.callers.push_back(number);
        }
    }

    /// Something has happened at an end of a connection, perhaps an error.
    pub(super) fn ready(&mut self, place: usize, failed: bool) {
        if let Some(Some(connection)) = self.connections.get_mut(place / 2) {
            connection.failed |= failed;
        }
        self.enqueue(place / 2);
    }

    /// Whether a second that goes by is to be told.
    pub(super) fn ticks(&self) -> bool {
        !self.stuck.is_empty()
    }

    /// A second has gone by. Who could not be accepted for want of descriptors is not told of again.
    pub(super) fn tick(&mut self) {
        for number in std::mem::take(&mut self.stuck) {
            self.called(number);
        }
    }

    /// Gives everybody who waits a turn.
    pub(super) fn work(&mut self, around: &Around<'_>) {
        for _ in 0..self.callers.len() {
            let Some(number) = self.callers.pop_front() else { break };
            if let Some(listener) = self.listeners.get_mut(&number) {
                listener.queued = false;
            }
            if self.accept(number, around) {
                self.called(number);
            }
        }
        self.buffer.resize(BUFFER, 0);
        for _ in 0..self.queue.len() {
            let Some(slot) = self.queue.pop_front() else { break };
            let Some(Some(connection)) = self.connections.get_mut(slot) else { continue };
            connection.queued = false;
            match connection.turn(around, &mut self.buffer) {
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
                    self.stuck.insert(number);
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
        let directions = Default::default();
        let connection = Connection { ends, connected: false, failed: false, directions, queued: false };
        match self.connections.get_mut(slot) {
            Some(vacant) => *vacant = Some(connection),
            None => self.connections.push(Some(connection)),
        }
        self.enqueue(slot);
    }
}

impl Connection {
    fn turn(&mut self, around: &Around<'_>, buffer: &mut [u8]) -> Outcome {
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
        // An end that is not read from does not say otherwise that it was reset.
        let error = |end: &TcpStream| !matches!(end.take_error(), Ok(None));
        if std::mem::take(&mut self.failed) && self.ends.iter().any(error) {
            return self.reset();
        }
        let mut again = false;
        for from in 0..2 {
            match self.carry(from, buffer) {
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

    /// Carries what one end says to the other, by way of `buffer`; whether there may be more.
    fn carry(&mut self, from: usize, buffer: &mut [u8]) -> io::Result<bool> {
        let [client, server] = &mut self.ends;
        let (source, sink) = if from == 0 { (client, server) } else { (server, client) };
        let direction = &mut self.directions[from];
        for _ in 0..ROUNDS {
            if direction.told || !direction.empty(sink)? {
                return Ok(false);
            }
            let Some(count) = read(source, buffer)? else { return Ok(false) };
            if count == 0 {
                direction.told = true;
                sink.shutdown(Shutdown::Write)?;
                return Ok(false);
            }
            let written = write(sink, &buffer[..count])?;
            if written < count {
                direction.held.extend_from_slice(&buffer[written..count]);
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
    /// Writes what is held; whether nothing is left.
    fn empty(&mut self, sink: &mut TcpStream) -> io::Result<bool> {
        self.written += write(sink, &self.held[self.written..])?;
        let all = self.written == self.held.len();
        if all {
            // Nothing is held for those who say nothing.
            (self.held, self.written) = (Vec::new(), 0);
        }
        Ok(all)
    }
}

/// Reads what there is; `None` if there is nothing yet.
fn read(source: &mut TcpStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            read => return read.map(Some),
        }
    }
}

/// Writes as much as is taken.
fn write(sink: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match sink.write(&bytes[written..]) {
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(written)
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
