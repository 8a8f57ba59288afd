//! The TCP mirror: each connection of the inside ends here and goes on in a TCP socket of the host.
//!
//! There is no second TCP stack that holds data. A connection has two legs, and the sequence numbers of
//! the inside leg are a mirror of what the host socket has done:
//!
//! * **from the inside**: the payload of a segment, a super-frame as a rule, goes straight into the host
//!   socket, and what the socket has taken is acknowledged. What it does not take is kept, within
//!   bounds; the window offered to the inside is what may still be kept, so an unwilling remote end
//!   becomes a window of zero. When the socket can take more (EPOLLOUT), the window opens.
//! * **towards the inside**: bytes are *peeked* at in the host socket's receive queue, at the offset of
//!   the next sequence number (`SO_PEEK_OFF`), right behind the headers of a super-frame as large as
//!   the inside's window allows. They leave the queue when the inside has acknowledged them. So the
//!   kernel's queue is the retransmission buffer, and the remote is stopped by the kernel's own window.
//! * **ends**: the inside's FIN is a `shutdown` of the host socket once all before it is written; the end
//!   of the host's stream is a FIN; a RST or a failure on one leg is a RST on the other.
//! * **beginnings**: a SYN from the inside is answered when the host socket has connected: refused is a
//!   RST, unreachable an ICMP error about the SYN. An accepted connection becomes a SYN towards the
//!   inside.
//!
//! Retransmission towards the inside: a timer (RFC 6298), fast retransmission and NewReno's partial
//! acknowledgements (RFC 6582); after a timeout, slow start. Before the first loss only the inside's
//! window limits the flight: this leg is one link, and there is no queue to be fair in. From the inside, busy
//! connections are offered an equal [`share`], and bytes that come out of order wait in [`early`].
//! What waits out of order, and what has come twice, is told in SACK blocks (RFC 2018, RFC 2883), so that an
//! inside end whose segments were only late takes back what it did about their loss. Those that come from
//! the inside are not looked at. There are no timestamps, and so no PAWS to go wrong.
//! **Urgent data** is delivered inline in both directions, as RFC 6093 §6 advises to treat it.
//!
//! Layout: [`machine`] is pure and decides; [`connection`] joins a machine and a host socket
//! ([`stream`]); this file finds the connection of a packet or an event, keeps the bounds and the
//! deadlines, and hands out packets, one connection after the other.

mod begun;
pub mod connection;
mod counters;
pub mod early;
pub mod header;
pub mod kept;
pub mod machine;
pub mod share;
pub mod stream;

use crate::flow::{Data, Endpoint, Flow, Protocol, Summary, TcpFlags, Time};
use crate::wire::craft::{self, IcmpError};
use crate::wire::{Buffer, Packet, checksum};
use begun::Begun;
use connection::{Connection, Shared, Turn};
use counters::Counters;
use hashbrown::HashMap;
use machine::{Age, Bounds, Incoming, Machine};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::time::Duration;
use stream::{HostStream, Stream};

/// Answers without a connection (RST, ICMP) that may wait to be received.
const REPLIES: usize = 256;
/// IP and TCP header of a SYN with all options: what an ICMP error quotes.
const QUOTE: usize = 140;

/// Bounds of the mirror.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpLimits {
    /// Connections that have a socket. [`super::Sockets`] sets it to half of the descriptors that the
    /// process may have, if that is less than here.
    pub connections: usize,
    /// Connections of the inside to which one end has not agreed yet.
    pub half_open: usize,
    /// Connections accepted on the host to which the inside has not agreed yet.
    pub calling: usize,
    /// Bytes kept for one host socket: the largest window that the inside is offered.
    pub kept_per_connection: u32,
    /// Bytes kept for all host sockets; a quarter as much more may wait out of order.
    pub kept: usize,
    /// Silence of an inside end before it is probed.
    pub idle: Duration,
    /// Ended connections that are remembered in case their last FIN is sent again.
    pub lingering: usize,
    /// How long they are.
    pub linger: Duration,
}

impl Default for TcpLimits {
    fn default() -> Self {
        TcpLimits {
            connections: 16384,
            half_open: 4096,
            calling: 1024,
            kept_per_connection: 1 << 20,
            kept: 32 << 20,
            idle: Duration::from_secs(600),
            lingering: 1024,
            linger: Duration::from_secs(2),
        }
    }
}

/// All mirrored connections.
#[derive(Debug)]
pub struct Tcp {
    registry: Registry,
    tokens: Range<usize>,
    limits: TcpLimits,
    slots: Vec<Option<Box<Connection<HostStream>>>>,
    free: Vec<u32>,
    index: HashMap<Flow, u32, foldhash::fast::RandomState>,
    /// Connections that may have something to do.
    queue: VecDeque<u32>,
    deadlines: BTreeSet<(Time, u32)>,
    replies: VecDeque<Vec<u8>>,
    shared: Shared,
    half_open: usize,
    begun: Begun,
    calling: usize,
    ended: usize,
    secret: RandomState,
    peek_offset: bool,
    counters: Counters,
}

impl Tcp {
    /// A mirror without connections, whose sockets are watched through `registry` under `tokens`, one
    /// for each connection.
    pub fn new(registry: Registry, tokens: Range<usize>, limits: TcpLimits) -> Tcp {
        Tcp {
            registry,
            tokens,
            limits,
            slots: Vec::new(),
            free: Vec::new(),
            index: HashMap::default(),
            queue: VecDeque::new(),
            deadlines: BTreeSet::new(),
            replies: VecDeque::new(),
            shared: Shared::new(limits.kept),
            half_open: 0,
            begun: Begun::default(),
            calling: 0,
            ended: 0,
            secret: RandomState::new(),
            peek_offset: true,
            counters: Counters::default(),
        }
    }

    /// Does without `SO_PEEK_OFF`, as on kernels before 6.9: for tests.
    #[must_use]
    pub fn without_peek_offset(mut self) -> Tcp {
        self.peek_offset = false;
        self
    }

    /// Whether [`Tcp::recv`] may have a packet.
    pub fn has_work(&self) -> bool {
        !self.queue.is_empty() || !self.replies.is_empty()
    }

    /// How many connections there are, those included that have just ended.
    pub fn connections(&self) -> usize {
        self.index.len()
    }

    /// One TCP packet that the translator sent out: `packet` parsed from `buffer` (IP header first),
    /// `to` where its remote really is, `bind` the local address and port to bind to (`None`: any).
    pub fn outbound(
        &mut self,
        packet: &Packet,
        buffer: &Buffer,
        to: SocketAddr,
        bind: Option<SocketAddr>,
        now: Time,
    ) {
        let Summary::Data(data) = &packet.summary else { return };
        if data.flow.protocol != Protocol::Tcp || packet.fragment.is_some() {
            self.counters.fragments += 1;
            return;
        }
        let bytes = buffer.bytes().get(..packet.length as usize).unwrap_or_default();
        if buffer.offload.checksum.is_none()
            && !buffer.offload.verified
            && checksum::transport_is_right(bytes) != Some(true)
        {
            self.counters.bad_checksums += 1;
            return;
        }
        let incoming = Incoming {
            flags: data.tcp,
            segment: data.segment,
            mss: packet.mss.map(|(mss, _)| mss),
            sack: data.tcp.has(TcpFlags::SYN) && header::permits_sack(packet, bytes),
        };
        let known = self.index.get(&data.flow).copied();
        if let Some(id) = known {
            let replace = incoming.flags.opens()
                && self.get(id).is_some_and(|connection| connection.machine.is_replaceable());
            if !replace {
                let payload = bytes.get(usize::from(packet.payload)..).unwrap_or_default();
                self.arrive(id, &incoming, payload, now);
                return;
            }
            self.remove(id, true);
        }
        if incoming.flags.opens() {
            self.open(data, &incoming, bytes, to, bind, now);
        } else if !incoming.flags.has(TcpFlags::RST) {
            self.counters.strangers += 1;
            self.reply(craft::tcp_reset(bytes));
        }
    }

    fn arrive(&mut self, id: u32, incoming: &Incoming, payload: &[u8], now: Time) {
        let Some(connection) = self.slots.get_mut(id as usize).and_then(Option::as_mut) else { return };
        connection.arrive(incoming, payload, &mut self.shared, now);
        self.recount(id);
        self.enqueue(id);
        if self.shared.is_crowded() {
            self.thin_early();
        }
    }

    /// Throws away what waits out of order for the connections that have most of it.
    fn thin_early(&mut self) {
        let waiting = |(id, slot): (usize, &Option<Box<Connection<HostStream>>>)| {
            slot.as_ref().map(|connection| (connection.early(), id as u32)).filter(|(bytes, _)| *bytes > 0)
        };
        let mut most: Vec<(usize, u32)> = self.slots.iter().enumerate().filter_map(waiting).collect();
        most.sort_unstable();
        while !self.shared.is_thinned()
            && let Some((_, id)) = most.pop()
        {
            if let Some(connection) = self.slots.get_mut(id as usize).and_then(Option::as_mut) {
                connection.forget_early(&mut self.shared);
            }
            self.counters.early_full += 1;
            self.enqueue(id);
        }
    }

    /// Keeps the numbers of connections that begin and that have just ended.
    fn recount(&mut self, id: u32) {
        let Some(connection) = self.slots.get_mut(id as usize).and_then(Option::as_mut) else { return };
        let (old, new) = (connection.age, connection.machine.age());
        if old == new {
            return;
        }
        connection.age = new;
        // One whose end is still to be told has its turn.
        let lingers = connection.machine.is_lingering();
        self.count(old, new);
        if lingers && self.ended > self.limits.lingering {
            self.counters.linger_full += 1;
            self.remove(id, false);
        }
    }

    fn count(&mut self, old: Age, new: Age) {
        self.half_open -= usize::from(old == Age::HalfOpen);
        self.half_open += usize::from(new == Age::HalfOpen);
        self.calling -= usize::from(old == Age::Calling);
        self.calling += usize::from(new == Age::Calling);
        self.ended -= usize::from(old == Age::Ended);
        self.ended += usize::from(new == Age::Ended);
    }

    /// Whether there may be no more sockets. What has ended has none, and does not count.
    fn is_full(&self) -> bool {
        self.index.len() - self.ended >= self.limits.connections || self.index.len() >= self.tokens.len()
    }

    /// A SYN from the inside.
    fn open(
        &mut self,
        data: &Data,
        incoming: &Incoming,
        bytes: &[u8],
        to: SocketAddr,
        bind: Option<SocketAddr>,
        now: Time,
    ) {
        let quote = &bytes[..bytes.len().min(QUOTE)];
        if self.half_open >= self.limits.half_open {
            self.counters.half_open_full += 1;
            self.forget_oldest();
        }
        if self.is_full() {
            self.counters.connections_full += 1;
            self.report(data.flow, quote, IcmpError::HostUnreachable);
            return;
        }
        let stream = match HostStream::connect(to, bind) {
            Ok(stream) => stream,
            Err(error) => {
                self.unconnected(data.flow, Some(quote), incoming, &error);
                return;
            }
        };
        let machine =
            Machine::connecting(incoming, self.initial(data.flow, now), self.bounds(data.flow), now);
        if let Some(id) = self.insert(data.flow, machine, stream)
            && let Some(connection) = self.get_mut(id)
        {
            connection.quote = Some(quote.into());
            self.counters.opened += 1;
            let slots = &self.slots;
            let serial = self.begun.add(id, self.half_open, |id, serial| has_begun(slots, id, serial));
            if let Some(connection) = self.get_mut(id) {
                connection.begun = serial;
            }
        }
    }

    /// Forgets the connection that has been under way for longest. Its SYN may come again, as if it had
    /// been lost on the way.
    fn forget_oldest(&mut self) {
        let slots = &self.slots;
        if let Some(id) = self.begun.oldest(|id, serial| has_begun(slots, id, serial)) {
            self.remove(id, true);
        }
    }

    /// A connection accepted on a listening socket: from `remote`, as the inside is to see it, to
    /// `outside`.
    pub fn accepted(&mut self, socket: socket2::Socket, remote: Endpoint, outside: Endpoint, now: Time) {
        let flow = Flow { protocol: Protocol::Tcp, source: outside, destination: remote };
        if self
            .index
            .get(&flow)
            .is_some_and(|id| self.get(*id).is_none_or(|old| old.machine.is_replaceable()))
            && let Some(id) = self.index.get(&flow).copied()
        {
            self.remove(id, false);
        }
        let (full, known) = (self.is_full(), self.index.contains_key(&flow));
        if full || known || self.calling >= self.limits.calling {
            self.counters.connections_full += u64::from(full);
            self.counters.calling_full += u64::from(!full);
            // What cannot be served is refused at once.
            let _ = socket.set_linger(Some(Duration::ZERO));
            return;
        }
        let Ok(stream) = HostStream::accepted(socket) else {
            self.counters.failed += 1;
            return;
        };
        let machine = Machine::calling(self.initial(flow, now), self.bounds(flow), now);
        if let Some(id) = self.insert(flow, machine, stream) {
            self.counters.accepted += 1;
            self.enqueue(id);
        }
    }

    /// An ICMP error about one of our packets towards the inside, whose flow is `flow`. With an `mtu`
    /// packets become that small (RFC 1191, RFC 8201).
    pub fn complained(&mut self, flow: Flow, mtu: Option<u16>) {
        let (Some(id), Some(mtu)) = (self.index.get(&flow.reversed()).copied(), mtu) else { return };
        let headers = header::ip_length(flow.source.ip) as u16 + 20;
        if let Some(connection) = self.get_mut(id) {
            connection.machine.shrink(mtu.saturating_sub(headers));
            self.enqueue(id);
            self.arm(id);
        }
    }

    /// What the poll says of one of the tokens.
    pub fn ready(&mut self, token: usize, readable: bool, writable: bool, closed: bool) {
        let Some(id) = token.checked_sub(self.tokens.start).and_then(|id| u32::try_from(id).ok()) else {
            return;
        };
        if let Some(connection) = self.get_mut(id) {
            connection.ready(readable, writable, closed);
            self.enqueue(id);
        }
    }

    /// The next packet towards the gateway: segments, and ICMP errors about SYNs.
    ///
    /// # Errors
    /// `WouldBlock` if there is none.
    pub fn recv(&mut self, buffer: &mut Buffer, now: Time) -> io::Result<()> {
        loop {
            if let Some(reply) = self.replies.pop_front() {
                buffer.fill(&reply);
                return Ok(());
            }
            let Some(id) = self.queue.pop_front() else { return Err(io::ErrorKind::WouldBlock.into()) };
            if self.turn(id, buffer, now) {
                return Ok(());
            }
        }
    }

    /// One connection's turn; whether there is a packet in the buffer.
    fn turn(&mut self, id: u32, buffer: &mut Buffer, now: Time) -> bool {
        let Some(connection) = self.slots.get_mut(id as usize).and_then(Option::as_mut) else { return false };
        connection.queued = false;
        let before = connection.machine.sent_again();
        let turn = connection.turn(buffer, &mut self.shared, now);
        self.counters.sent_again += u64::from(connection.machine.sent_again().wrapping_sub(before));
        match turn {
            Turn::Packet => {
                self.enqueue(id);
                self.arm(id);
                true
            }
            Turn::Idle => {
                self.recount(id);
                self.arm(id);
                false
            }
            Turn::Unconnected(error) => {
                let (flow, quote) = (connection.flow, connection.quote.take());
                if refused(&error) {
                    self.counters.refused += 1;
                    connection.machine.refused();
                    self.enqueue(id);
                } else {
                    self.remove(id, false);
                    self.explain(flow, quote.as_deref(), &error);
                }
                false
            }
            Turn::Over { packet, silent } => {
                self.counters.silent += u64::from(silent);
                self.counters.resets += u64::from(packet && !silent);
                self.remove(id, false);
                packet
            }
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Time) {
        while let Some((at, id)) = self.deadlines.first().copied()
            && at <= now
        {
            self.deadlines.pop_first();
            if let Some(connection) = self.get_mut(id) {
                connection.armed = None;
                connection.machine.tick(now);
                self.enqueue(id);
            }
        }
    }

    /// When [`Tcp::tick`] has something to do.
    pub fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Ends the connections whose address is not among `present`, the host's, if the host would use another
    /// one now: without a way at all, the address may come back. How many of each address.
    pub fn leave_lost(&mut self, present: &[IpAddr]) -> Vec<(IpAddr, usize)> {
        let mut lost: BTreeMap<IpAddr, (bool, usize)> = BTreeMap::new();
        for id in 0..self.slots.len() as u32 {
            let ends = self.get(id).and_then(Connection::stream).and_then(HostStream::ends);
            let Some((local, remote)) = ends.filter(|(local, _)| !local.is_loopback()) else { continue };
            if present.contains(&local.to_canonical()) {
                continue;
            }
            let (ends, count) = lost.entry(local).or_insert_with(|| (elsewhere(local, remote), 0));
            if *ends && let Some(connection) = self.get_mut(id) {
                *count += 1;
                connection.machine.failed();
                self.enqueue(id);
            }
        }
        self.counters.address_lost += lost.values().map(|(_, count)| *count as u64).sum::<u64>();
        lost.into_iter().filter(|(_, (ends, _))| *ends).map(|(ip, (_, count))| (ip, count)).collect()
    }

    /// What has happened, by a stable word, since the start.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        self.counters.words(self.shared.kept_full, self.shared.early)
    }

    /// Notes a deadline that is earlier than the one noted; a later one is looked at when the time of
    /// the earlier has come, so that packets need not touch the order of deadlines.
    fn arm(&mut self, id: u32) {
        let Some(connection) = self.slots.get_mut(id as usize).and_then(Option::as_mut) else { return };
        let Some(deadline) = connection.machine.deadline() else { return };
        match connection.armed {
            Some(armed) if armed <= deadline => return,
            Some(armed) => {
                self.deadlines.remove(&(armed, id));
            }
            None => {}
        }
        connection.armed = Some(deadline);
        self.deadlines.insert((deadline, id));
    }

    fn enqueue(&mut self, id: u32) {
        if let Some(connection) = self.slots.get_mut(id as usize).and_then(Option::as_mut)
            && !connection.queued
        {
            connection.queued = true;
            self.queue.push_back(id);
        }
    }

    fn get(&self, id: u32) -> Option<&Connection<HostStream>> {
        self.slots.get(id as usize)?.as_deref()
    }

    fn get_mut(&mut self, id: u32) -> Option<&mut Connection<HostStream>> {
        self.slots.get_mut(id as usize)?.as_deref_mut()
    }

    fn insert(&mut self, flow: Flow, machine: Machine, stream: HostStream) -> Option<u32> {
        let mut stream = if self.peek_offset { stream } else { stream.without_peek_offset() };
        let id = self.free.pop().unwrap_or(self.slots.len() as u32);
        let token = Token(self.tokens.start + id as usize);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self.registry.register(&mut SourceFd(&stream.number()), token, interest).is_err() {
            self.counters.failed += 1;
            stream.reset();
            if (id as usize) < self.slots.len() {
                self.free.push(id);
            }
            return None;
        }
        if id as usize == self.slots.len() {
            self.slots.push(None);
        }
        self.count(Age::Open, machine.age());
        self.slots[id as usize] = Some(Box::new(Connection::new(flow, machine, stream)));
        self.index.insert(flow, id);
        Some(id)
    }

    /// Forgets a connection; its socket, if it is still open, is closed or reset.
    fn remove(&mut self, id: u32, reset: bool) {
        let Some(mut connection) = self.slots.get_mut(id as usize).and_then(Option::take) else { return };
        connection.close(reset, &mut self.shared);
        if let Some(armed) = connection.armed {
            self.deadlines.remove(&(armed, id));
        }
        self.index.remove(&connection.flow);
        self.count(connection.age, Age::Open);
        self.free.push(id);
    }

    /// A connection could not even be begun.
    fn unconnected(&mut self, flow: Flow, quote: Option<&[u8]>, incoming: &Incoming, error: &io::Error) {
        if refused(error) {
            self.counters.refused += 1;
            let header = craft::Tcp {
                flags: TcpFlags::RST.with(TcpFlags::ACK),
                sequence: 0,
                acknowledgment: incoming.segment.sequence.wrapping_add(1),
                window: 0,
                mss: None,
            };
            let (outside, remote) = (flow.source, flow.destination);
            let packet = header.packet((remote.ip, remote.port), (outside.ip, outside.port), &[]);
            self.reply(Some(packet));
        } else {
            self.explain(flow, quote, error);
        }
    }

    /// Tells the inside why there is no connection.
    fn explain(&mut self, flow: Flow, quote: Option<&[u8]>, error: &io::Error) {
        let said = match error.raw_os_error() {
            Some(libc::EACCES | libc::EPERM) => IcmpError::Prohibited,
            Some(libc::ENETUNREACH | libc::ENETDOWN) => IcmpError::NetUnreachable,
            _ => IcmpError::HostUnreachable,
        };
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS) => {
                self.counters.no_descriptors += 1
            }
            _ => self.counters.unreachable += 1,
        }
        if let Some(quote) = quote {
            self.report(flow, quote, said);
        }
    }

    fn report(&mut self, flow: Flow, quote: &[u8], said: IcmpError) {
        self.reply(Some(craft::icmp_error(said, flow.destination.ip, flow.source.ip, quote)));
    }

    fn reply(&mut self, packet: Option<Vec<u8>>) {
        let Some(packet) = packet else { return };
        if self.replies.len() < REPLIES {
            self.replies.push_back(packet);
        } else {
            self.counters.replies_full += 1;
        }
    }

    fn bounds(&self, flow: Flow) -> Bounds {
        Bounds {
            kept: self.limits.kept_per_connection,
            largest: header::largest(flow.source.ip),
            idle: self.limits.idle,
            linger: self.limits.linger,
        }
    }

    /// The initial sequence number of our leg (RFC 6528): a clock that ticks every 4 µs, and a secret
    /// for each flow.
    fn initial(&self, flow: Flow, now: Time) -> u32 {
        ((now.as_nanos() / 4000) as u32).wrapping_add(self.secret.hash_one(flow) as u32)
    }
}

/// Whether the connection in a slot is the one with this number in the order of beginnings, and waits.
fn has_begun(slots: &[Option<Box<Connection<HostStream>>>], id: u32, serial: u64) -> bool {
    let connection = slots.get(id as usize).and_then(Option::as_ref);
    connection.is_some_and(|connection| connection.begun == serial && connection.age == Age::HalfOpen)
}

/// Whether the error means that the remote host answers, and does not want.
fn refused(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ECONNREFUSED | libc::ECONNRESET))
}

/// Whether the host would talk to `remote` from another address than `local`.
fn elsewhere(local: IpAddr, remote: SocketAddr) -> bool {
    let any: IpAddr =
        if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // Connecting a socket for datagrams asks for the way and sends nothing.
    let asked = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect(remote)?;
        socket.local_addr()
    });
    asked.is_ok_and(|now| now.ip() != local)
}
