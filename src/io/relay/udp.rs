//! Datagrams of a relay: for each client of a way a socket on the other side, whose answers go back.

use super::{Around, FLOWS, Side, Way, count};
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// Flows at once, at most.
const MOST: usize = 1024;
/// Seconds without a datagram after which a flow ends (RFC 4787 REQ-5: two minutes at least).
const IDLE: u64 = 120;
/// Datagrams that one socket may bring in its turn.
const DATAGRAMS: usize = 64;
/// The longest datagram, in bytes.
const LONGEST: usize = 65535;

#[derive(Debug)]
struct Listener {
    socket: UdpSocket,
    side: Side,
    to: SocketAddr,
    queued: bool,
}

#[derive(Debug)]
struct Flow {
    socket: UdpSocket,
    way: usize,
    client: SocketAddr,
    /// The second of the last datagram.
    last: u64,
    queued: bool,
}

/// Who has something to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Speaker {
    Way(usize),
    Flow(usize),
}

/// All flows.
#[derive(Debug, Default)]
pub(super) struct Udp {
    listeners: HashMap<usize, Listener>,
    flows: Vec<Option<Flow>>,
    free: Vec<usize>,
    by_client: HashMap<(usize, SocketAddr), usize>,
    queue: VecDeque<Speaker>,
    buffer: Vec<u8>,
    now: u64,
}

impl Udp {
    pub(super) fn add(
        &mut self,
        number: usize,
        way: Way,
        registry: &Registry,
        token: Token,
    ) -> io::Result<()> {
        let mut socket = UdpSocket::from_std(way.socket.into());
        registry.register(&mut socket, token, Interest::READABLE)?;
        self.listeners.insert(number, Listener { socket, side: way.side, to: way.to, queued: false });
        Ok(())
    }

    /// Its flows have nobody to answer for them and end too.
    pub(super) fn remove(&mut self, number: usize) {
        self.listeners.remove(&number);
        self.end(|flow| flow.way == number);
    }

    pub(super) fn waits(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(super) fn called(&mut self, number: usize) {
        self.enqueue(Speaker::Way(number));
    }

    pub(super) fn answered(&mut self, slot: usize) {
        self.enqueue(Speaker::Flow(slot));
    }

    /// Whether a second that goes by is to be told.
    pub(super) fn ticks(&self) -> bool {
        !self.by_client.is_empty()
    }

    pub(super) fn tick(&mut self) {
        self.now += 1;
        let oldest = self.now.saturating_sub(IDLE);
        self.end(|flow| flow.last < oldest);
    }

    pub(super) fn work(&mut self, around: &Around<'_>) {
        self.buffer.resize(LONGEST, 0);
        for _ in 0..self.queue.len() {
            let Some(speaker) = self.queue.pop_front() else { break };
            if let Some(queued) = self.queued(speaker) {
                *queued = false;
            }
            let more = match speaker {
                Speaker::Way(number) => self.forward(number, around),
                Speaker::Flow(slot) => self.back(slot, around),
            };
            if more {
                self.enqueue(speaker);
            }
        }
    }

    fn enqueue(&mut self, speaker: Speaker) {
        if let Some(queued) = self.queued(speaker)
            && !std::mem::replace(queued, true)
        {
            self.queue.push_back(speaker);
        }
    }

    /// Whether somebody is in the queue.
    fn queued(&mut self, speaker: Speaker) -> Option<&mut bool> {
        match speaker {
            Speaker::Way(number) => Some(&mut self.listeners.get_mut(&number)?.queued),
            Speaker::Flow(slot) => Some(&mut self.flows.get_mut(slot)?.as_mut()?.queued),
        }
    }

    /// Carries what clients say; whether there may be more.
    fn forward(&mut self, number: usize, around: &Around<'_>) -> bool {
        for _ in 0..DATAGRAMS {
            let Some(listener) = self.listeners.get(&number) else { return false };
            let (length, client) = match listener.socket.recv_from(&mut self.buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // What the network said of an earlier one.
                Err(_) => continue,
            };
            let Some(slot) = self.flow(number, client, around) else { continue };
            if let Some(Some(flow)) = self.flows.get_mut(slot) {
                flow.last = self.now;
                // As on any wire, what cannot be sent is lost; refusals of earlier ones are told here.
                let sent = flow.socket.send(&self.buffer[..length]);
                if sent.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
                    count(&around.counters.unanswered);
                }
            }
        }
        true
    }

    /// Carries what a server says; whether there may be more.
    fn back(&mut self, slot: usize, around: &Around<'_>) -> bool {
        for _ in 0..DATAGRAMS {
            let Some(Some(flow)) = self.flows.get_mut(slot) else { return false };
            let Some(listener) = self.listeners.get(&flow.way) else { return false };
            match flow.socket.recv(&mut self.buffer) {
                Ok(length) => {
                    flow.last = self.now;
                    let _ = listener.socket.send_to(&self.buffer[..length], flow.client);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    count(&around.counters.unanswered);
                }
                Err(_) => {}
            }
        }
        true
    }

    /// The flow of a client, made if there is none, in the place of the idlest if there is no other.
    fn flow(&mut self, way: usize, client: SocketAddr, around: &Around<'_>) -> Option<usize> {
        if let Some(slot) = self.by_client.get(&(way, client)) {
            return Some(*slot);
        }
        if self.by_client.len() >= MOST {
            count(&around.counters.full);
            let idlest = self.flows.iter().flatten().map(|flow| (flow.last, flow.way, flow.client)).min();
            let (last, way, client) = idlest.filter(|(last, ..)| *last < self.now)?;
            self.end(|flow| (flow.last, flow.way, flow.client) == (last, way, client));
        }
        let listener = self.listeners.get(&way)?;
        let slot = self.free.pop().unwrap_or(self.flows.len());
        let made = around.sockets.make(listener.side, true, listener.to.is_ipv6());
        let made = made.and_then(|socket| open(socket, listener.to, around.registry, Token(FLOWS + slot)));
        let Ok(socket) = made else {
            if slot < self.flows.len() {
                self.free.push(slot);
            }
            count(&around.counters.full);
            return None;
        };
        count(&around.counters.begun);
        let flow = Flow { socket, way, client, last: self.now, queued: false };
        match self.flows.get_mut(slot) {
            Some(vacant) => *vacant = Some(flow),
            None => self.flows.push(Some(flow)),
        }
        self.by_client.insert((way, client), slot);
        Some(slot)
    }

    fn end(&mut self, which: impl Fn(&Flow) -> bool) {
        for (slot, place) in self.flows.iter_mut().enumerate() {
            if let Some(flow) = place.take_if(|flow| which(flow)) {
                self.by_client.remove(&(flow.way, flow.client));
                self.free.push(slot);
            }
        }
    }
}

fn open(socket: OwnedFd, to: SocketAddr, registry: &Registry, token: Token) -> io::Result<UdpSocket> {
    rustix::net::connect(&socket, &to)?;
    let mut socket = UdpSocket::from_std(socket.into());
    registry.register(&mut socket, token, Interest::READABLE)?;
    Ok(socket)
}
