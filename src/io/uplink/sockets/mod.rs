//! The uplink without privileges: what the translator sends becomes calls of ordinary sockets, and
//! what sockets say becomes packets.
//!
//! # Theory of operation
//!
//! ```text
//!   translator          this link                             the host
//!   E:P -> remote UDP   socket bound to P: sendmsg        ->  datagram from P
//!   remote -> E:P UDP   recvmsg, headers put in front     <-  datagram to P, from anybody
//!   E:P -> remote TCP   tcp: a host socket and a mirror   <-> connection from P
//!   E:id -> remote echo ping socket bound to id           <-> echo with that identifier
//!   ICMP errors         the sockets' error queues         <-  what routers and receivers say
//! ```
//!
//! `E` is the external address. It is nominal: sockets are bound to any address of the host, unless
//! one was named, and the kernel chooses. TTL, TOS and "don't fragment" go with each datagram both
//! ways. Datagrams that the inside sent in fragments are put together first ([`reassembly`]); many
//! datagrams may go and come as one super-frame.
//!
//! The link has an epoll instance of its own (`poll`), which is what the worker watches: sockets
//! come and go without the worker. It is edge-triggered: a socket that was reported stays in `ready`
//! until it has nothing more, and takes turns with the others.

pub mod alias;
pub mod errors;
pub mod inbox;
mod listeners;
pub mod ping;
pub mod ports;
pub mod reassembly;
pub mod split;
pub mod tcp;
mod udp;

use super::UplinkError;
use crate::flow::{Alias, Domain, Endpoint, LinkInfo, Protocol, Summary, Time};
use crate::io::Link;
use crate::io::sys::{datagram, fd};
use crate::wire::craft::IcmpError;
use crate::wire::{Buffer, Offload, Packet, checksum};
use alias::Aliases;
pub use alias::Shared;
use inbox::Inbox;
use listeners::Listeners;
use mio::{Events, Poll};
use ping::Pings;
use ports::{Ports, Which};
use reassembly::Reassembly;
use split::Split;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;
use tcp::{Tcp, TcpLimits};

/// Tokens of the poll, by what they are for.
const UDP: Range<usize> = 0..1 << 24;
const PING: Range<usize> = 1 << 24..2 << 24;
const LISTEN: Range<usize> = 2 << 24..3 << 24;
const TCP: Range<usize> = 3 << 24..4 << 24;

/// Packets taken from one socket before others have their turn.
const BURST: u32 = 32;
/// Sockets that one look at the poll tells of.
const EVENTS: usize = 256;
/// How long after a connection that could not be accepted the next attempt is made.
const RETRY: Duration = Duration::from_secs(1);

/// What the link is to know of its surroundings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The external addresses; the first of each family speaks for the link itself.
    pub external: Vec<IpAddr>,
    /// Those of them that stand for any address of the host.
    pub anywhere: Vec<IpAddr>,
    /// Addresses of the host that sockets of those are bound to instead, one of a family at most.
    pub bound: Vec<IpAddr>,
    /// The gateway's own addresses inside.
    pub gateways: Vec<IpAddr>,
    /// What stands for something on the host.
    pub aliases: Vec<Alias>,
    /// Addresses of the host that inside hosts have too.
    pub shared: Vec<Shared>,
    /// The TAP's MTU, in bytes.
    pub inside_mtu: u16,
    /// Open files that the process may have.
    pub descriptors: usize,
    /// The outside ports are another link's: this one only leads to what aliases stand for, from
    /// whatever ports the host gives.
    pub beside: bool,
}

/// Why a packet did not leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trouble {
    /// The socket takes no more now, or there can be no more sockets.
    Full,
    /// Too big for the path; the error queue says by how much.
    TooBig,
    /// A router would say this.
    Answer(IcmpError),
    /// Sockets cannot send such a packet.
    Unsupported,
    /// An ICMP error: sockets cannot tell the world.
    Untold,
    /// Ping sockets are not permitted here.
    NoPing,
    /// The kernel does not take it.
    Invalid,
}

impl Trouble {
    /// What the kernel's word about a datagram of `socket` means.
    fn of(error: &io::Error, socket: impl AsFd) -> Trouble {
        let errno = error.raw_os_error().unwrap_or(0);
        match errno {
            libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::EMFILE | libc::ENFILE => Trouble::Full,
            libc::EMSGSIZE => datagram::told_mtu(socket)
                .map_or(Trouble::TooBig, |mtu| Trouble::Answer(IcmpError::TooBig { mtu })),
            _ => errors::of_errno(errno).map_or(Trouble::Invalid, Trouble::Answer),
        }
    }
}

#[derive(Debug, Default)]
struct Losses {
    malformed: u64,
    bad_checksum: u64,
    unsupported: u64,
    untold: u64,
    no_ping: u64,
    full: u64,
    too_big: u64,
    refused: u64,
    invalid: u64,
    no_port: u64,
    unusable: u64,
}

/// Ordinary sockets as a link.
pub struct Sockets {
    poll: Poll,
    events: Events,
    ports: Ports,
    pings: Pings,
    listeners: Listeners,
    tcp: Tcp,
    aliases: Aliases,
    split: Split,
    reassembly: Reassembly,
    inbox: Inbox,
    /// Tokens of sockets that may have something.
    ready: VecDeque<usize>,
    /// Whether it is TCP's turn, and how many packets whoever has it has given in a row.
    tcp_turn: bool,
    given: u32,
    now: Time,
    /// When connections were accepted again that could not be before.
    retried: Time,
    config: Config,
    losses: Losses,
}

impl std::fmt::Debug for Sockets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sockets").field("config", &self.config).field("losses", &self.losses).finish()
    }
}

impl Sockets {
    /// A link without any port yet: those come by [`Sockets::ports`].
    ///
    /// # Errors
    /// The kernel gives no epoll instance.
    pub fn open(config: Config) -> Result<Sockets, UplinkError> {
        let failed = || UplinkError::other("epoll for sockets");
        let poll = Poll::new().map_err(failed())?;
        let registry = || poll.registry().try_clone().map_err(failed());
        let ports = Ports::new(registry()?, config.anywhere.clone(), config.beside);
        ports.bind(config.bound.clone());
        // UDP ports, connections and the rest share what there is.
        let shares = config.external.len().max(1);
        ports.set_room(config.descriptors / 8 * 3, config.descriptors / 8 * 3 / shares);
        let pings = Pings::new(registry()?, (config.descriptors / 16).max(1));
        let listeners = Listeners::new(registry()?);
        let limits = TcpLimits::default();
        let connections = limits.connections.min(config.descriptors / 2);
        // Those under way leave room for others.
        let half_open = limits.half_open.min(connections / 2).max(1);
        let calling = limits.calling.min(connections / 4).max(1);
        let tcp = Tcp::new(registry()?, TCP, TcpLimits { connections, half_open, calling, ..limits });
        Ok(Sockets {
            events: Events::with_capacity(EVENTS),
            ports,
            pings,
            listeners,
            tcp,
            aliases: Aliases::new(config.aliases.clone(), config.gateways.clone())
                .sharing(config.shared.clone()),
            split: Split::default(),
            reassembly: Reassembly::default(),
            inbox: Inbox::new(config.inside_mtu),
            ready: VecDeque::new(),
            tcp_turn: false,
            given: 0,
            now: Time::ZERO,
            retried: Time::ZERO,
            losses: Losses::default(),
            poll,
            config,
        })
    }

    /// The leased ports, for the guard.
    pub fn ports(&self) -> Ports {
        self.ports.clone()
    }

    /// Whether echo of IPv4 and of IPv6 is possible.
    pub fn can_ping(&self) -> [bool; 2] {
        self.pings.permitted()
    }

    /// The address that speaks for the link, of the family of `like`.
    fn own(&self, like: IpAddr) -> IpAddr {
        let own = self.config.external.iter().find(|own| own.is_ipv4() == like.is_ipv4());
        own.copied().unwrap_or(like)
    }

    /// Sends the packet in `buffer`.
    fn outbound(&mut self, buffer: &mut Buffer) -> Result<(), Trouble> {
        let Ok(mut packet) = Packet::read(buffer, 0) else {
            self.losses.malformed += 1;
            return Err(Trouble::Invalid);
        };
        let whole = packet.fragment.is_some();
        if whole {
            if !self.reassembly.take(&packet, buffer, self.now) {
                return Ok(());
            }
            packet = Packet::read(buffer, 0).map_err(|_| Trouble::Invalid)?;
        }
        let data = match packet.summary {
            Summary::Data(data) => data,
            Summary::Error(error) => {
                // To connections it matters.
                if error.about.protocol != Protocol::Tcp {
                    return Err(Trouble::Untold);
                }
                let mtu = packet.next_hop_mtu(buffer.bytes()).and_then(|mtu| u16::try_from(mtu).ok());
                self.tcp.complained(error.about, mtu);
                return Ok(());
            }
        };
        // The kernel makes checksums anew; one that was wrong must not become right. TCP looks itself.
        let plain = buffer.offload == Offload::default() && data.flow.protocol != Protocol::Tcp;
        if plain && checksum::transport_is_right(buffer.bytes()) == Some(false) {
            self.losses.bad_checksum += 1;
            return Err(Trouble::Invalid);
        }
        match data.flow.protocol {
            Protocol::Tcp => {
                let mut to = self.aliases.host(Protocol::Tcp, data.flow.destination);
                if !self.split.is_empty() && self.aliases.resolves(Protocol::Tcp, data.flow.destination) {
                    let opens = data.tcp.opens();
                    to = self.split.connection(data.flow.source, opens, self.now).unwrap_or(to);
                }
                let bind = (!self.config.beside).then(|| self.ports.local(data.flow.source));
                let bind = bind.filter(|bind| bind.is_ipv4() == to.is_ipv4());
                self.tcp.outbound(&packet, buffer, to, bind, self.now);
                Ok(())
            }
            Protocol::Udp => self.outbound_udp(&packet, buffer, whole),
            Protocol::Icmp => {
                let outside = data.flow.source;
                let local = self.ports.local(outside).ip();
                self.pings.send(&packet, buffer, local, &self.aliases, self.now)
            }
            Protocol::Other(_) => Err(Trouble::Unsupported),
        }
    }

    fn outbound_udp(&mut self, packet: &Packet, buffer: &Buffer, whole: bool) -> Result<(), Trouble> {
        let outside = packet.summary.flow().source;
        if self.config.beside {
            self.ports.lease(outside).map_err(|_| Trouble::Full)?;
        }
        let remote = packet.summary.flow().destination;
        if self.aliases.resolves(Protocol::Udp, remote) {
            let general = self.aliases.host(Protocol::Udp, remote);
            if general.is_ipv4() != outside.ip.is_ipv4() || self.split.crosses(outside) {
                self.ports.widen(outside).map_err(|_| Trouble::Full)?;
            }
        }
        let (aliases, ready, now) = (&self.aliases, &mut self.ready, self.now);
        let split = &mut self.split;
        let sent = self.ports.with(Which::Outside(outside), |slot, port| {
            port.used = now;
            let sent = udp::send(port, packet, buffer, whole, aliases, split, now);
            if port.complaints && !std::mem::replace(&mut port.queued, true) {
                ready.push_back(UDP.start + slot);
            }
            sent
        });
        sent.unwrap_or_else(|| {
            self.losses.no_port += 1;
            Err(Trouble::Full)
        })
    }

    /// Counts a packet that did not leave, and tells its sender why where a router would.
    fn lose(&mut self, trouble: Trouble, buffer: &Buffer) {
        let answer = match trouble {
            Trouble::Full => {
                self.losses.full += 1;
                None
            }
            Trouble::TooBig => {
                self.losses.too_big += 1;
                None
            }
            Trouble::Answer(error) => {
                self.losses.refused += 1;
                Some(error)
            }
            Trouble::Unsupported => {
                self.losses.unsupported += 1;
                Some(IcmpError::Prohibited)
            }
            Trouble::Untold => {
                self.losses.untold += 1;
                None
            }
            Trouble::NoPing => {
                self.losses.no_ping += 1;
                Some(IcmpError::Prohibited)
            }
            Trouble::Invalid => {
                self.losses.invalid += 1;
                None
            }
        };
        if let Some(error) = answer
            && let Ok(packet) = Packet::parse(buffer.bytes(), &buffer.offload)
            && let Some(told) = errors::about(error, self.own(packet.summary.source()), buffer.bytes())
        {
            self.inbox.push(told);
        }
    }

    /// Asks the poll who has something; whether anybody has.
    fn look(&mut self) -> io::Result<bool> {
        match self.poll.poll(&mut self.events, Some(Duration::ZERO)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(false),
            other => other?,
        }
        let mut any = false;
        for event in &self.events {
            any = true;
            let token = event.token().0;
            let queue = if UDP.contains(&token) {
                let fresh = |_, port: &mut ports::Port| {
                    port.complaints |= event.is_error();
                    !std::mem::replace(&mut port.queued, true)
                };
                self.ports.with(Which::Slot(token - UDP.start), fresh).unwrap_or(false)
            } else if PING.contains(&token) {
                self.pings.ready(token - PING.start, event.is_error())
            } else if LISTEN.contains(&token) {
                self.listeners.ready(token - LISTEN.start)
            } else {
                let closed = event.is_error() || event.is_read_closed() || event.is_write_closed();
                self.tcp.ready(token, event.is_readable(), event.is_writable(), closed);
                false
            };
            if queue {
                self.ready.push_back(token);
            }
        }
        Ok(any)
    }

    /// Accepts what could not be accepted before, for want of descriptors.
    fn accept_again(&mut self) {
        for slot in self.listeners.take_stuck() {
            if self.listeners.ready(slot) {
                self.ready.push_back(LISTEN.start + slot);
            }
        }
    }

    /// The next packet of the sockets that have something, but for TCP.
    fn receive_datagram(&mut self, buffer: &mut Buffer) -> io::Result<()> {
        while let Some(token) = self.ready.front().copied() {
            if LISTEN.contains(&token) {
                self.ready.pop_front();
                if accept(&mut self.listeners, token - LISTEN.start, &mut self.tcp, &self.aliases, self.now) {
                    self.ready.push_back(token);
                    // What they bring is TCP's, which has its turn first.
                    break;
                }
                continue;
            }
            let (aliases, inbox, split, now) = (&self.aliases, &mut self.inbox, &mut self.split, self.now);
            let own = |like: IpAddr| {
                let own = self.config.external.iter().find(|own| own.is_ipv4() == like.is_ipv4());
                own.copied().unwrap_or(like)
            };
            let got = if UDP.contains(&token) {
                let receive = |_, port: &mut ports::Port| {
                    let got =
                        udp::receive(port, (aliases, split), inbox, (own(port.outside.ip), now), buffer);
                    port.queued = !matches!(&got, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
                    got
                };
                let got = self.ports.with(Which::Slot(token - UDP.start), receive);
                got.unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()))
            } else {
                let slot = token - PING.start;
                let own = self.pings.outside(slot).map_or(IpAddr::from([0; 4]), own);
                let got = self.pings.receive(slot, aliases, inbox, own, buffer);
                if matches!(&got, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                    self.pings.done(slot);
                }
                got
            };
            match got {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ready.pop_front();
                }
                Err(error) => {
                    self.losses.unusable += 1;
                    return Err(error);
                }
                Ok(()) => return Ok(()),
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// The next packet of TCP, or of the others.
    fn receive_from(&mut self, tcp: bool, buffer: &mut Buffer) -> io::Result<()> {
        let got = if tcp { self.tcp.recv(buffer, self.now) } else { self.receive_datagram(buffer) };
        if !matches!(&got, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            self.given = if tcp == self.tcp_turn { self.given + 1 } else { 1 };
            self.tcp_turn = tcp;
        }
        got
    }
}

/// Accepts connections that wait in a listening socket. Whether more may wait.
fn accept(listeners: &mut Listeners, slot: usize, tcp: &mut Tcp, aliases: &Aliases, now: Time) -> bool {
    listeners.accept(slot, |socket, from, outside| match aliases.seen(from) {
        Some(remote) => tcp.accepted(socket, remote, outside, now),
        // It is refused, and not told of an end in good order.
        None => drop(socket.set_linger(Some(Duration::ZERO))),
    })
}

impl Link for Sockets {
    fn name(&self) -> &'static str {
        "sockets"
    }

    fn info(&self) -> LinkInfo {
        LinkInfo::offloading(u16::MAX, 0)
    }

    fn recv(&mut self, buffer: &mut Buffer) -> io::Result<()> {
        if self.inbox.pop(buffer) {
            return Ok(());
        }
        if self.given >= BURST {
            self.given = 0;
            self.tcp_turn = !self.tcp_turn;
            let rotated = self.ready.pop_front();
            self.ready.extend(rotated);
            self.look()?;
        }
        loop {
            for tcp in [self.tcp_turn, !self.tcp_turn] {
                match self.receive_from(tcp, buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    done => return done,
                }
            }
            // What was just accepted has something to say.
            if !self.look()? && !self.tcp.has_work() {
                break;
            }
        }
        if self.inbox.pop(buffer) {
            return Ok(());
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn send(&mut self, buffer: &mut Buffer) -> io::Result<()> {
        match self.outbound(buffer) {
            Ok(()) => Ok(()),
            Err(trouble) => {
                self.lose(trouble, buffer);
                Err(io::Error::other(match trouble {
                    Trouble::Full => "no room in the socket",
                    Trouble::TooBig => "too big",
                    Trouble::Answer(_) => "refused by the host",
                    Trouble::Unsupported => "not a packet that sockets can send",
                    Trouble::Untold => "an ICMP error, which sockets cannot send",
                    Trouble::NoPing => "ping sockets are not permitted",
                    Trouble::Invalid => "not taken by the host",
                }))
            }
        }
    }

    fn readable(&self) -> Vec<BorrowedFd<'_>> {
        vec![fd::of_poll(&self.poll)]
    }

    fn tick(&mut self, now: Time) {
        self.now = now;
        if self.tcp.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.tcp.tick(now);
        }
        self.pings.tick(now);
        self.ports.tick(now);
        if self.listeners.stuck() && now.since(self.retried) >= RETRY {
            self.retried = now;
            self.accept_again();
        }
        self.reassembly.tick(now);
    }

    fn next_deadline(&self) -> Option<Time> {
        let deadlines = [
            self.tcp.next_deadline(),
            self.pings.next_deadline(),
            self.reassembly.next_deadline(),
            self.ports.next_deadline(),
            self.listeners.stuck().then_some(self.retried + RETRY),
        ];
        deadlines.into_iter().flatten().min()
    }

    fn pending(&self) -> bool {
        self.tcp.has_work() || !self.inbox.is_empty() || !self.ready.is_empty()
    }

    fn publish(&mut self, protocol: Protocol, outside: Endpoint, on: bool) -> io::Result<()> {
        // Published ports are the uplink's.
        if self.config.beside {
            return Ok(());
        }
        let local: SocketAddr = self.ports.listening(outside);
        match (protocol, on) {
            (Protocol::Tcp, true) => self.listeners.open(outside, local),
            (Protocol::Tcp, false) => {
                self.listeners.close(outside);
                Ok(())
            }
            (Protocol::Udp, _) if self.ports.publish(outside, on) || !on => Ok(()),
            _ => Err(io::ErrorKind::AddrNotAvailable.into()),
        }
    }

    fn set_aliases(&mut self, aliases: &[Alias]) {
        self.aliases.set(aliases.to_vec());
    }

    fn set_domains(&mut self, domains: &[Domain]) {
        self.split.set(domains);
    }

    fn leave_lost(&mut self, present: &[IpAddr]) -> Vec<(IpAddr, usize)> {
        self.tcp.leave_lost(present)
    }

    fn counters(&mut self) -> Vec<(&'static str, u64)> {
        let losses = &self.losses;
        let mut counters = vec![
            ("malformed", losses.malformed),
            ("bad-checksum", losses.bad_checksum),
            ("unsupported-protocol", losses.unsupported),
            ("icmp-error-untold", losses.untold),
            ("ping-not-permitted", losses.no_ping),
            ("send-buffer-full", losses.full),
            ("too-big", losses.too_big),
            ("refused-by-host", losses.refused),
            ("not-taken", losses.invalid),
            ("port-without-socket", losses.no_port),
            ("port-given-up", self.ports.given_up()),
            ("dns-domain-turned", self.split.turned),
            ("dns-referral-forgotten", self.split.forgotten),
            ("unusable", losses.unusable),
            ("inbox-full", self.inbox.lost),
            ("reassembly-failed", self.reassembly.lost),
            ("accept-failed", self.listeners.failed),
        ];
        counters.extend(self.tcp.counters());
        counters
    }
}
