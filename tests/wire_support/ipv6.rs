//! Packets of IPv6 of every kind, and pnet as their judge.

use super::{get, put};
use pnet::packet::icmpv6::{self, Icmpv6Packet};
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv6::Ipv6Packet;
use pnet::packet::tcp::{self, TcpPacket};
use pnet::packet::udp::{self, UdpPacket};
use std::net::{Ipv6Addr, SocketAddrV6};
use tapnat::flow::TcpFlags;
use tapnat::wire::craft::{self, IcmpError, Tcp};
use tapnat::wire::{Buffer, Offload, PartialChecksum, Segment, SegmentKind};

const fn at(ip: Ipv6Addr, port: u16) -> SocketAddrV6 {
    SocketAddrV6::new(ip, port, 0, 0)
}

pub const A: SocketAddrV6 = at(Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 2), 1000);
pub const S: SocketAddrV6 = at(Ipv6Addr::new(0x2001, 0xdb8, 0, 0x100, 0, 0, 0, 7), 80);
pub const R9: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 9, 0, 0, 0, 9);
pub const X: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0xffff, 0, 0, 1);

pub const HOP_BY_HOP: u8 = 0;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const DESTINATION: u8 = 60;

/// Router alert and padding; a hop-by-hop or destination header of one unit.
pub const OPTIONS: [u8; 6] = [5, 2, 0, 0, 1, 0];
/// 14 bytes of padding option: a header of two units.
pub const LONG_OPTIONS: [u8; 14] = [1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Where the transport is, and its protocol: a walk of the test's own.
pub fn transport(packet: &[u8]) -> (usize, u8) {
    let (mut at, mut protocol) = (40, packet[6]);
    loop {
        let length = match protocol {
            FRAGMENT => 8,
            HOP_BY_HOP | ROUTING | DESTINATION => 8 + usize::from(packet[at + 1]) * 8,
            _ => return (at, protocol),
        };
        protocol = packet[at];
        at += length;
    }
}

/// The packet with an extension header behind the last that it has. `body` is what follows next
/// header and length, 6 bytes or 8 more each time.
pub fn extended(packet: &[u8], kind: u8, body: &[u8]) -> Vec<u8> {
    let (at, protocol) = transport(packet);
    let units = if kind == FRAGMENT { 0 } else { (body.len() + 2) / 8 - 1 };
    let header = [&[protocol, units as u8], body].concat();
    let mut result = [&packet[..at], &header, &packet[at..]].concat();
    // The field that named the transport: in the fixed header or in the last extension.
    let mut field = 6;
    let (mut next, mut place) = (packet[6], 40);
    while place < at {
        field = place;
        place += if next == FRAGMENT { 8 } else { 8 + usize::from(packet[place + 1]) * 8 };
        next = packet[field];
    }
    result[field] = kind;
    let length = (result.len() - 40) as u16;
    put(&mut result, 4, length);
    result
}

/// A fragment of `packet`: the bytes `from..to` behind its fixed header.
pub fn fragment(packet: &[u8], from: usize, to: usize, identification: u32) -> Vec<u8> {
    let all = &packet[40..];
    let more = u16::from(to < all.len());
    let mut result = packet[..40].to_vec();
    result[6] = FRAGMENT;
    result.extend([packet[6], 0]);
    result.extend((from as u16 | more).to_be_bytes());
    result.extend(identification.to_be_bytes());
    result.extend(&all[from..to]);
    let length = (result.len() - 40) as u16;
    put(&mut result, 4, length);
    result
}

/// The checksum that pnet computes for the transport at `at`, and where it belongs.
fn computed(packet: &[u8]) -> Option<(usize, u16)> {
    let ip = Ipv6Packet::new(packet).unwrap();
    let (source, destination) = (ip.get_source(), ip.get_destination());
    let (at, protocol) = transport(packet);
    let bytes = &packet[at..40 + usize::from(ip.get_payload_length())];
    Some(match protocol {
        6 => (at + 16, tcp::ipv6_checksum(&TcpPacket::new(bytes).unwrap(), &source, &destination)),
        17 => (at + 6, udp::ipv6_checksum(&UdpPacket::new(bytes).unwrap(), &source, &destination)),
        58 => (at + 2, icmpv6::checksum(&Icmpv6Packet::new(bytes).unwrap(), &source, &destination)),
        _ => return None,
    })
}

/// Writes the checksum that pnet computes.
pub fn fix(packet: &mut [u8]) {
    assert_eq!(IpNextHeaderProtocols::Icmpv6.0, 58);
    if let Some((at, sum)) = computed(packet) {
        put(packet, at, sum);
    }
}

/// Fails unless the transport checksum of a whole packet is right in pnet's judgement.
pub fn assert_right(packet: &[u8]) {
    let walked = (40..transport(packet).0).step_by(8);
    let fragmented = packet[6] == FRAGMENT && get(packet, 42) & !6 != 0;
    if fragmented || walked.len() > 64 {
        return;
    }
    let Some((at, sum)) = computed(packet) else { return };
    match (transport(packet).1, get(packet, at)) {
        (17, 0) => {}
        (17, 0xffff) => assert!(sum == 0 || sum == 0xffff, "UDP checksum"),
        (_, there) => assert_eq!(there, sum, "checksum"),
    }
}

/// An ICMPv6 error with a quote of exactly `quote`, and what follows it (extensions).
pub fn error_with(kind: (u8, u8), rest: [u8; 4], quote: &[u8], behind: &[u8]) -> Vec<u8> {
    let mut packet = craft::echo(R9, X, true, 0, 0, &[quote, behind].concat());
    packet[40] = kind.0;
    packet[41] = kind.1;
    packet[44..48].copy_from_slice(&rest);
    fix(&mut packet);
    packet
}

/// A SYN with an MSS option.
pub fn syn(mss: u16) -> Vec<u8> {
    Tcp { flags: TcpFlags::SYN, mss: Some(mss), ..Tcp::default() }.packet(A, S, &[0; 8])
}

/// Plain packets, one of each kind, all right.
pub fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let udp = craft::udp(A, S, b"hello, world");
    let tcp = craft::tcp(A, S, TcpFlags::ACK.with(TcpFlags::PSH), 7, b"GET / HTTP/1.1");
    let mut no_checksum = udp.clone();
    put(&mut no_checksum, 46, 0);
    let mut esp = udp.clone();
    esp[6] = 50;
    let mut nothing = udp[..40].to_vec();
    nothing[6] = 59;
    put(&mut nothing, 4, 0);
    let chained = extended(&extended(&udp, HOP_BY_HOP, &OPTIONS), DESTINATION, &LONG_OPTIONS);
    let echo = craft::echo(*A.ip(), *S.ip(), true, 500, 1, &[7; 56]);
    let mut solicitation = craft::echo(*A.ip(), *S.ip(), true, 0, 0, &[0xfe; 16]);
    solicitation[40] = 135;
    fix(&mut solicitation);
    let long = craft::udp(A, S, &[5; 3000]);
    let middle = fragment(&long, 1440, 2880, 0x1234_5678);
    vec![
        ("syn", syn(1440)),
        ("tcp data", tcp.clone()),
        ("udp", udp.clone()),
        ("udp without checksum", no_checksum),
        ("udp behind two headers", chained.clone()),
        ("tcp behind a used routing header", extended(&tcp, ROUTING, &[4, 0, 0, 0, 0, 0])),
        ("atomic fragment", extended(&udp, FRAGMENT, &[0, 0, 1, 2, 3, 4])),
        ("echo request", echo.clone()),
        ("echo reply", craft::echo(*S.ip(), *A.ip(), false, 500, 1, &[7; 56])),
        ("neighbor solicitation", solicitation),
        ("esp", esp),
        ("no next header", nothing),
        ("unreachable, udp in full", craft::icmp_error(IcmpError::PortUnreachable, R9, X, &udp)),
        ("too big, tcp in full", craft::icmp_error(IcmpError::TooBig { mtu: 1400 }, R9, X, &tcp)),
        ("ttl exceeded, 8 bytes of tcp", error_with((3, 0), [0; 4], &tcp[..48], &[])),
        ("ttl exceeded, 8 bytes behind headers", error_with((3, 0), [0; 4], &chained[..72], &[])),
        ("parameter problem, echo", error_with((4, 0), [0, 0, 0, 6], &echo, &[])),
        ("ttl exceeded about a later fragment", error_with((3, 1), [0; 4], &middle[..68], &[])),
        ("first fragment", fragment(&long, 0, 1440, 0x1234_5678)),
        ("middle fragment", middle),
        ("last fragment", fragment(&long, 2880, 3008, 0x1234_5678)),
    ]
}

/// Puts the pseudo-header sum into the checksum field, as a sending kernel does.
pub fn make_partial(buffer: &mut Buffer, field: u16) {
    let bytes = buffer.bytes_mut();
    let (at, protocol) = transport(bytes);
    let mut sum: u32 = (8..40).step_by(2).map(|at| u32::from(get(bytes, at))).sum();
    sum += u32::from(protocol) + (bytes.len() - at) as u32;
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    put(bytes, at + usize::from(field), sum as u16);
    let start = u16::try_from(at).unwrap();
    buffer.offload =
        Offload { checksum: Some(PartialChecksum { start, offset: field }), ..Offload::default() };
}

/// A super-frame with a partial checksum.
pub fn super_frame(kind: SegmentKind, payload: &[u8], size: u16) -> Buffer {
    let (bytes, field) = match kind {
        SegmentKind::Udp => (craft::udp(A, S, payload), 6),
        _ => (craft::tcp(A, S, TcpFlags(0x80 | 0x19), 0xffff_fff0, payload), 16),
    };
    let mut buffer = Buffer::from_bytes(&bytes);
    make_partial(&mut buffer, field);
    buffer.offload.segment = Some(Segment { kind, size, header: 1, ecn: true });
    buffer
}
