//! The network: hosts A and B on a bridge, the gateway, a router, and the server behind it.
//!
//! ```text
//!   A --.                            .-- (answers ARP for the server)
//!        >-- bridge == gateway == wire -- router -- server
//!   B --'    Ethernet          IP                Ethernet
//! ```
//!
//! The two wires marked with `==` have the faults. What the gateway sends is checked as it leaves.

use crate::support::*;
use ipnet::Ipv4Net;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use tapnat::flow::{Endpoint, LinkId, Protocol, Time};
use tapnat::gateway::{Command, Fate, Gateway, GatewayConfig, INSIDE, OUTSIDE, Outbox, Reply};
use tapnat::lab::host::Host;
use tapnat::wire::display::Line;
use tapnat::wire::ethernet::{ARP, IPV4};
use tapnat::wire::{Buffer, Frame, MacAddr};

/// The router's address and MAC on the server's wire.
const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const MAC_ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);
const MAC_SERVER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x51]);
/// The TTL that every host starts with.
const TTL: u8 = 64;
/// Time on a wire without faults.
const DELAY: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Node {
    A,
    B,
    Server,
}

impl Node {
    const ALL: [Node; 3] = [Node::A, Node::B, Node::Server];

    fn mac(self) -> MacAddr {
        [MAC_A, MAC_B, MAC_SERVER][self as usize]
    }
}

/// What a wire does to packets, in packets of a thousand.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    pub loses: u32,
    pub doubles: u32,
    /// Delays by up to [`Faults::LATE`], so that later packets overtake.
    pub delays: u32,
}

impl Faults {
    pub const NONE: Faults = Faults { loses: 0, doubles: 0, delays: 0 };
    pub const BAD: Faults = Faults { loses: 20, doubles: 10, delays: 50 };
    const LATE: Duration = Duration::from_millis(20);
}

/// Where a packet arrives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Stop {
    /// The gateway, by one of its links.
    Gateway(LinkId),
    /// A host, as a frame.
    Host(Node),
}

/// When, in which order among equals, where, what.
type Arrival = Reverse<(Time, u64, Stop, Vec<u8>)>;

pub struct Network {
    gateway: Gateway,
    hosts: [Host; 3],
    wire: BinaryHeap<Arrival>,
    rng: ChaCha8Rng,
    faults: Faults,
    pub now: Time,
    /// All that the gateway sent.
    pub log: Vec<(Time, LinkId, Vec<u8>)>,
    icmp: [Vec<Vec<u8>>; 3],
    pub sent_outside: usize,
    pub ticks: usize,
    pub lost: usize,
    pub doubled: usize,
    pub delayed: usize,
    number: u64,
}

impl Network {
    pub fn new(config: GatewayConfig, faults: Faults, seed: u64) -> Self {
        let host = |node: Node, ip, gateway, seed| {
            Host::new(
                node.mac().0,
                Ipv4Net::new(ip, 24).unwrap().into(),
                Some(IpAddr::V4(gateway)),
                1500,
                seed,
            )
        };
        Network {
            gateway: Gateway::new(config, [seed as u8; 32]),
            hosts: [
                host(Node::A, A, GATEWAY, seed * 3),
                host(Node::B, B, GATEWAY, seed * 3 + 1),
                host(Node::Server, S1, ROUTER, seed * 3 + 2),
            ],
            wire: BinaryHeap::new(),
            rng: ChaCha8Rng::seed_from_u64(seed),
            faults,
            now: Time::from_secs(1),
            log: Vec::new(),
            icmp: Default::default(),
            sent_outside: 0,
            ticks: 0,
            lost: 0,
            doubled: 0,
            delayed: 0,
            number: 0,
        }
    }

    pub fn host(&mut self, node: Node) -> &mut Host {
        &mut self.hosts[node as usize]
    }

    pub fn peek(&self, node: Node) -> &Host {
        &self.hosts[node as usize]
    }

    pub fn config(&self) -> &GatewayConfig {
        self.gateway.config()
    }

    pub fn sessions(&self) -> usize {
        self.gateway.counts().sessions
    }

    pub fn next_deadline(&self) -> Option<Time> {
        self.gateway.next_deadline()
    }

    pub fn apply(&mut self, command: Command) -> Reply {
        self.gateway.apply(command, self.now, &mut ())
    }

    pub fn publish(&mut self, protocol: Protocol, outside: Endpoint, inside: Endpoint) {
        assert_eq!(self.apply(Command::Publish { protocol, outside, inside }), Reply::Done);
    }

    /// The drop counters that are not zero.
    pub fn dropped(&mut self) -> Vec<(&'static str, u64)> {
        let reply = self.apply(Command::Counters);
        let Reply::Counters(view, _) = reply else { panic!("{reply:?}") };
        view.dropped.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// The ICMP packets that have come to a host.
    pub fn received_icmp(&self, node: Node) -> &[Vec<u8>] {
        &self.icmp[node as usize]
    }

    /// An inside host sends this IP packet, besides what its own stack sends.
    pub fn send(&mut self, node: Node, packet: &[u8]) {
        let header = Frame { destination: MAC, source: node.mac(), ethertype: IPV4 }.to_bytes();
        self.leave(node, [&header[..], packet].concat());
    }

    pub fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        self.run(until, |_| false);
    }

    /// Goes from event to event until `done` says so or it is `until`. `done` is asked after every
    /// event and may work with the hosts' sockets.
    pub fn run(&mut self, until: Time, mut done: impl FnMut(&mut Network) -> bool) {
        loop {
            self.poll_hosts();
            let finished = done(self);
            self.poll_hosts();
            if finished {
                return;
            }
            let next = self.next_event();
            if next.is_none_or(|next| next > until) {
                self.now = until;
                self.tick();
                return;
            }
            self.now = next.unwrap_or(until);
            self.tick();
            while self.wire.peek().is_some_and(|Reverse((time, ..))| *time <= self.now) {
                let Some(Reverse((_, _, stop, bytes))) = self.wire.pop() else { break };
                self.arrive(stop, bytes);
            }
        }
    }

    fn next_event(&mut self) -> Option<Time> {
        let now = self.now;
        let arrival = self.wire.peek().map(|Reverse((time, ..))| *time);
        // Hosts count in microseconds, and a deadline of the gateway may be early: never stand still.
        let step = now + Duration::from_micros(1);
        let deadline = self.gateway.next_deadline().map(|due| due.max(step));
        let polls = self.hosts.iter_mut().filter_map(|host| host.poll_delay(now));
        let poll = polls.min().map(|micros| (now + Duration::from_micros(micros)).max(step));
        [arrival, deadline, poll].into_iter().flatten().min()
    }

    fn tick(&mut self) {
        if self.gateway.next_deadline().is_some_and(|due| due <= self.now) {
            self.ticks += 1;
            let mut out = Outbox::default();
            self.gateway.tick(self.now, &mut out, &mut ());
            self.send_all(out);
        }
    }

    fn poll_hosts(&mut self) {
        for node in Node::ALL {
            let now = self.now;
            let host = self.host(node);
            host.poll(now);
            while let Some(frame) = self.host(node).transmit() {
                self.leave(node, frame);
            }
        }
    }

    /// A frame leaves a host.
    fn leave(&mut self, node: Node, frame: Vec<u8>) {
        let header = Frame::parse(&frame).unwrap();
        if node == Node::Server {
            return self.router(&header, frame);
        }
        let all = header.destination.is_multicast();
        for other in [Node::A, Node::B] {
            if other != node && (all || header.destination == other.mac()) {
                self.carry(DELAY, Stop::Host(other), frame.clone());
            }
        }
        if all || header.destination == MAC {
            self.faulty(Stop::Gateway(INSIDE), frame);
        }
    }

    /// The router answers ARP for itself and takes packets to the gateway.
    fn router(&mut self, header: &Frame, frame: Vec<u8>) {
        if header.ethertype == ARP && frame[21] == 1 && frame[38..42] == ROUTER.octets() {
            let answer = arp(2, MAC_ROUTER, ROUTER, MAC_SERVER, S1);
            self.carry(DELAY, Stop::Host(Node::Server), answer);
        } else if header.ethertype == IPV4 && header.destination == MAC_ROUTER {
            self.faulty(Stop::Gateway(OUTSIDE), frame[14..].to_vec());
        }
    }

    fn arrive(&mut self, stop: Stop, bytes: Vec<u8>) {
        match stop {
            Stop::Gateway(link) => {
                let mut packet = Buffer::from_bytes(&bytes);
                let mut out = Outbox::default();
                let fate = self.gateway.receive(link, &mut packet, self.now, &mut out, &mut ());
                if let Fate::Pass(to) = fate {
                    self.sent(to, packet.bytes());
                }
                self.send_all(out);
            }
            Stop::Host(node) => {
                if bytes[12..14] == [8, 0] && bytes.get(14 + 9) == Some(&1) {
                    self.icmp[node as usize].push(bytes[14..].to_vec());
                }
                self.host(node).receive(bytes);
            }
        }
    }

    fn send_all(&mut self, out: Outbox) {
        for (to, packet) in out.packets {
            self.sent(to, packet.bytes());
        }
    }

    /// The gateway sends a packet: it is checked, and goes where it belongs.
    fn sent(&mut self, to: LinkId, bytes: &[u8]) {
        self.log.push((self.now, to, bytes.to_vec()));
        if to == OUTSIDE {
            self.sent_outside += 1;
            check_outside(bytes);
            let header = Frame { destination: MAC_SERVER, source: MAC_ROUTER, ethertype: IPV4 }.to_bytes();
            return self.faulty(Stop::Host(Node::Server), [&header[..], bytes].concat());
        }
        assert_eq!(to, INSIDE, "there is no host behind this gateway");
        let header = Frame::parse(bytes).unwrap();
        check_inside(&header, &bytes[14..]);
        for node in [Node::A, Node::B] {
            if header.destination.is_multicast() || header.destination == node.mac() {
                self.faulty(Stop::Host(node), bytes.to_vec());
            }
        }
    }

    /// Carries a packet over a wire with faults.
    fn faulty(&mut self, stop: Stop, bytes: Vec<u8>) {
        if self.happens(self.faults.loses) {
            self.lost += 1;
            return;
        }
        if self.happens(self.faults.doubles) {
            self.doubled += 1;
            self.carry(DELAY, stop, bytes.clone());
        }
        let mut delay = DELAY;
        if self.happens(self.faults.delays) {
            self.delayed += 1;
            let late = Faults::LATE.as_micros() as u64;
            delay += Duration::from_micros(self.rng.next_u64() % late);
        }
        self.carry(delay, stop, bytes);
    }

    fn happens(&mut self, of_a_thousand: u32) -> bool {
        self.rng.next_u32() % 1000 < of_a_thousand
    }

    fn carry(&mut self, delay: Duration, stop: Stop, bytes: Vec<u8>) {
        self.number += 1;
        self.wire.push(Reverse((self.now + delay, self.number, stop, bytes)));
    }
}

/// What must hold for every packet that leaves by the uplink.
fn check_outside(packet: &[u8]) {
    let shown = Line(packet);
    assert_eq!(source(packet), X, "an inside source outside: {shown}");
    assert!(sums_are_right(packet), "a wrong checksum: {shown}");
    assert_eq!(packet[8], TTL - 1, "a hop that was not spent: {shown}");
    assert!(!matches!(destination(packet).octets(), [10, ..]), "an inside destination outside: {shown}");
}

/// What must hold for every frame that goes to a host.
fn check_inside(header: &Frame, packet: &[u8]) {
    assert_eq!(header.source, MAC);
    if header.ethertype != IPV4 {
        return assert_eq!(header.ethertype, ARP);
    }
    let shown = Line(packet);
    let node = if destination(packet) == A { Node::A } else { Node::B };
    assert_eq!(header.destination, node.mac(), "{shown}");
    assert!([A, B].contains(&destination(packet)), "{shown}");
    assert!(sums_are_right(packet), "a wrong checksum: {shown}");
    let hops = if source(packet) == GATEWAY { 0 } else { 1 };
    assert_eq!(packet[8], TTL - hops, "a hop that was not spent: {shown}");
}
