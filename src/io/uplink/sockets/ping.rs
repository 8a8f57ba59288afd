//! Echo by ping sockets, which the kernel gives to the groups of `net.ipv4.ping_group_range`.
//!
//! A socket is bound to the identifier that the translator chose, as a port; the kernel puts it in
//! what is sent and gives the socket the answers to it. Sockets live as long as they are used.

use super::alias::{Aliases, Talks};
use super::inbox::Inbox;
use super::udp::may_be_late;
use super::{PING, Trouble, errors};
use crate::flow::{Endpoint, Protocol, Time};
use crate::io::sys::datagram::{self, Cutting, Sent};
use crate::wire::{Buffer, Packet, craft, encapsulate, icmp, ipv6};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// Ping sockets at most; the one that was used longest ago goes.
const MOST: usize = 128;
/// How long an unused one is kept: as long as an ICMP session (RFC 5508 REQ-2).
const IDLE: Duration = Duration::from_secs(60);
/// How often unused ones are looked for.
const LOOK: Duration = Duration::from_secs(15);
const ATTEMPTS: usize = 4;

#[derive(Debug)]
struct Ping {
    socket: Socket,
    outside: Endpoint,
    talks: Talks,
    used: Time,
    cutting: Option<Cutting>,
    complaints: bool,
    /// It waits to be read.
    queued: bool,
}

/// The ping sockets.
#[derive(Debug)]
pub struct Pings {
    registry: Registry,
    slots: Vec<Option<Ping>>,
    most: usize,
    looked: Time,
    /// Of IPv4, of IPv6: whether this process may have them.
    permitted: [bool; 2],
}

impl Pings {
    /// None yet; asks the host whether there may be any. At most `most` at once.
    pub fn new(registry: Registry, most: usize) -> Self {
        let permitted = [false, true].map(|six| open(six).is_ok());
        Pings { registry, slots: Vec::new(), most: most.min(MOST), looked: Time::ZERO, permitted }
    }

    /// Whether echo of IPv4 and of IPv6 is possible.
    pub fn permitted(&self) -> [bool; 2] {
        self.permitted
    }

    /// Sends the echo request of `packet`.
    pub(super) fn send(
        &mut self,
        packet: &Packet,
        buffer: &Buffer,
        local: IpAddr,
        aliases: &Aliases,
        now: Time,
    ) -> Result<(), Trouble> {
        let flow = packet.summary.flow();
        let (outside, remote, six) = (flow.source, flow.destination, flow.source.ip.is_ipv6());
        if !matches!(packet.icmp, Some((icmp::ECHO_REQUEST | icmp::V6_ECHO_REQUEST, 0))) {
            return Err(Trouble::Unsupported);
        }
        if !self.permitted[usize::from(six)] {
            return Err(Trouble::NoPing);
        }
        let host = aliases.host(Protocol::Icmp, remote).ip();
        let slot = self.slot(outside, local, now)?;
        let Some(Some(ping)) = self.slots.get_mut(slot) else { return Err(Trouble::Full) };
        ping.used = now;
        ping.talks.note(SocketAddr::new(host, 0), Endpoint::new(remote.ip, 0));
        let cutting = if packet.dont_fragment { Cutting::Forbidden } else { Cutting::Allowed };
        if ping.cutting.replace(cutting) != Some(cutting) {
            let _ = datagram::set_cutting(&ping.socket, six, cutting);
        }
        let message = buffer.bytes().get(usize::from(packet.header)..packet.length as usize);
        let sent = Sent {
            to: SocketAddr::new(host, 0),
            from: None,
            hops: packet.ttl.max(1),
            tos: packet.tos,
            segment: None,
        };
        let mut last = Trouble::Invalid;
        for _ in 0..ATTEMPTS {
            let Err(error) = datagram::send(&ping.socket, message.unwrap_or_default(), &sent) else {
                return Ok(());
            };
            last = Trouble::of(&error, &ping.socket);
            let errno = error.raw_os_error().unwrap_or(0);
            ping.complaints |= may_be_late(errno);
            if !may_be_late(errno) {
                break;
            }
        }
        Err(last)
    }

    /// The socket of an identifier, opened if need be.
    fn slot(&mut self, outside: Endpoint, local: IpAddr, now: Time) -> Result<usize, Trouble> {
        let has = |slot: &Option<Ping>| slot.as_ref().is_some_and(|ping| ping.outside == outside);
        if let Some(slot) = self.slots.iter().position(has) {
            return Ok(slot);
        }
        let slot = match self.slots.iter().position(Option::is_none) {
            Some(vacant) => vacant,
            None if self.slots.len() < self.most => {
                self.slots.push(None);
                self.slots.len() - 1
            }
            None => {
                let used = |slot: &Option<Ping>| slot.as_ref().map(|ping| ping.used);
                let oldest = self.slots.iter().enumerate().min_by_key(|(_, slot)| used(slot));
                oldest.map(|(slot, _)| slot).ok_or(Trouble::Full)?
            }
        };
        self.slots[slot] = None;
        let socket = open(outside.ip.is_ipv6()).map_err(|_| Trouble::Full)?;
        let bound = socket.bind(&SocketAddr::new(local, outside.port).into());
        // Another program has the identifier: an answer to it would be that program's.
        bound.map_err(|_| Trouble::Full)?;
        datagram::prepare(&socket, outside.ip.is_ipv6(), false).map_err(|_| Trouble::Full)?;
        let token = Token(PING.start + slot);
        let watched = self.registry.register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE);
        watched.map_err(|_| Trouble::Full)?;
        let (talks, cutting) = (Talks::default(), None);
        let ping = Ping { socket, outside, talks, used: now, cutting, complaints: false, queued: false };
        self.slots[slot] = Some(ping);
        Ok(slot)
    }

    /// What the poll says of a socket; whether it is to be read, and is not waiting for that already.
    pub(super) fn ready(&mut self, slot: usize, complaints: bool) -> bool {
        let Some(Some(ping)) = self.slots.get_mut(slot) else { return false };
        ping.complaints |= complaints;
        !std::mem::replace(&mut ping.queued, true)
    }

    /// The outside address of a socket.
    pub(super) fn outside(&self, slot: usize) -> Option<IpAddr> {
        self.slots.get(slot)?.as_ref().map(|ping| ping.outside.ip)
    }

    /// It is read to the end.
    pub(super) fn done(&mut self, slot: usize) {
        if let Some(Some(ping)) = self.slots.get_mut(slot) {
            ping.queued = false;
        }
    }

    /// Receives the next packet of a socket, as [`super::udp::receive`] does.
    pub(super) fn receive(
        &mut self,
        slot: usize,
        aliases: &Aliases,
        inbox: &mut Inbox,
        own: IpAddr,
        buffer: &mut Buffer,
    ) -> io::Result<()> {
        let unusable = || io::Error::from(io::ErrorKind::Interrupted);
        let Some(Some(ping)) = self.slots.get_mut(slot) else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        for _ in 0..ATTEMPTS {
            if ping.complaints {
                match complaint(ping, aliases, own, buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => ping.complaints = false,
                    told => return told,
                }
            }
            buffer.clear();
            let received = match datagram::receive(&ping.socket, buffer.spare()) {
                Ok(received) => received,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => return Err(error),
                    _ => {
                        ping.complaints = true;
                        continue;
                    }
                },
            };
            let from = SocketAddr::new(received.from.ip(), 0);
            let remote = ping.talks.seen(from).or_else(|| aliases.seen(from));
            let remote = remote.filter(|_| !received.truncated).ok_or_else(unusable)?;
            buffer.set_len(received.length);
            let header = if remote.ip.is_ipv6() { ipv6::HEADER } else { 20 };
            let outer = inbox.outer(remote.ip, ping.outside.ip, &received, received.length + header);
            let made = encapsulate::icmp(buffer, &outer) && inbox.fit(buffer);
            return if made { Ok(()) } else { Err(unusable()) };
        }
        Err(unusable())
    }

    /// Closes sockets that have not been used for long.
    pub fn tick(&mut self, now: Time) {
        if now.since(self.looked) < LOOK {
            return;
        }
        self.looked = now;
        for slot in &mut self.slots {
            if slot.as_ref().is_some_and(|ping| now.since(ping.used) >= IDLE) {
                *slot = None;
            }
        }
    }

    /// When [`Pings::tick`] has something to do.
    pub fn next_deadline(&self) -> Option<Time> {
        self.slots.iter().any(Option::is_some).then_some(self.looked + LOOK)
    }
}

/// A ping socket that is not bound.
fn open(six: bool) -> io::Result<Socket> {
    let (domain, protocol) = match six {
        false => (Domain::IPV4, socket2::Protocol::ICMPV4),
        true => (Domain::IPV6, socket2::Protocol::ICMPV6),
    };
    Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(protocol))
}

/// Makes a packet of the next complaint.
fn complaint(ping: &mut Ping, aliases: &Aliases, own: IpAddr, buffer: &mut Buffer) -> io::Result<()> {
    let mut quoted = [0; craft::ERROR_LENGTH_IPV6];
    let Some(told) = datagram::receive_error(&ping.socket, &mut quoted)? else {
        return Err(io::ErrorKind::Interrupted.into());
    };
    let about = SocketAddr::new(told.about.ip(), 0);
    let packet = ping.talks.seen(about).or_else(|| aliases.seen(about)).and_then(|remote| {
        let from = match told.offender {
            Some(ip) if ip == about.ip() => remote.ip,
            Some(ip) if told.icmp.is_some() && !ip.is_loopback() => ip,
            _ => own,
        };
        errors::of_queue(&told, Protocol::Icmp, ping.outside, remote, from, quoted.get(..told.length)?)
    });
    let packet = packet.ok_or(io::ErrorKind::Interrupted)?;
    buffer.fill(packet.bytes());
    Ok(())
}
