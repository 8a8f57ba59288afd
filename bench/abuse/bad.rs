//! Packets that nobody should send, each kind in as many variants as the flood repeats.

use std::net::Ipv4Addr;
use tapnat::lab::selftest::packet::{ACK, Packet, SYN, UDP, at, data, error, ip, tcp, udp};
use tapnat::lab::topology::{CONTAINERS, HOST, ROUTER, SERVERS};

/// A kind of bad packet: its word, and the `n`th of its packets, without an Ethernet header.
pub type Kind = (&'static str, fn(u16) -> Vec<u8>);

/// The container that sends them.
const BLUE: Ipv4Addr = CONTAINERS[1];

/// What a container can send.
pub const INSIDE: [Kind; 7] = [
    ("broken-checksum", |n| broken(udp(at(BLUE, n), at(SERVERS[0], 9)))),
    ("spoofed-source", |n| udp(at(SERVERS[1], n), at(SERVERS[0], 9)).bytes()),
    ("martian-destination", |n| udp(at(BLUE, n), at(Ipv4Addr::new(240, 0, 0, 1), 9)).bytes()),
    ("orphan-fragment", |n| orphan(udp(at(BLUE, n), at(SERVERS[0], 9)), n)),
    ("no-connection", |n| tcp(at(BLUE, n), at(SERVERS[0], 9), ACK, 1, 1, &[]).bytes()),
    ("protocol-253", |_| ip(BLUE, SERVERS[0], 253, data(24)).bytes()),
    ("syn-to-closed-port", |n| tcp(at(BLUE, n), at(SERVERS[0], 9), SYN, 1, 0, &[]).bytes()),
];

/// What the internet can send.
pub const OUTSIDE: [Kind; 7] = [
    ("broken-checksum", |n| broken(udp(at(SERVERS[1], 9), at(HOST, n)))),
    ("our-own-source", |n| udp(at(HOST, n), at(HOST, n)).bytes()),
    ("orphan-fragment", |n| orphan(udp(at(SERVERS[1], 9), at(HOST, n)), n)),
    ("unasked-datagram", |n| udp(at(SERVERS[1], 9), at(HOST, n)).bytes()),
    ("error-about-nothing", |n| {
        error(ROUTER, HOST, 3, 1, [0; 4], &ip(HOST, SERVERS[1], UDP, n.to_be_bytes().repeat(4))).bytes()
    }),
    ("protocol-253", |_| ip(SERVERS[1], HOST, 253, data(24)).bytes()),
    ("syn-to-closed-port", |n| tcp(at(SERVERS[1], 9), at(HOST, n), SYN, 1, 0, &[]).bytes()),
];

fn broken(packet: Packet) -> Vec<u8> {
    let mut bytes = packet.bytes();
    bytes[11] ^= 1;
    bytes
}

fn orphan(packet: Packet, id: u16) -> Vec<u8> {
    Packet { offset: 1480, id: id.into(), ..packet }.bytes()
}

/// `count` packets of each kind, the kinds taking turns, from varied ports.
pub fn mixed(kinds: &[Kind], count: u16) -> Vec<Vec<u8>> {
    (0..count).flat_map(|n| kinds.iter().map(move |(_, make)| make(port(n)))).collect()
}

/// The `n`th port, within the range of a gateway without options.
pub fn port(n: u16) -> u16 {
    32_768 + n.wrapping_mul(17) % 32_768
}
