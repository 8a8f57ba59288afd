//! Packets of every kind, and a judge of checksums that shares no code with the gateway (pnet).

#![allow(dead_code, clippy::unwrap_used)]

pub mod ipv6;

use pnet::packet::icmp::IcmpPacket;
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::Ipv4Packet;
use pnet::packet::tcp::TcpPacket;
use pnet::packet::udp::UdpPacket;
use pnet::packet::{Packet as _, icmp, ipv4, tcp, udp};
use std::net::{Ipv4Addr, SocketAddrV4};
use tapnat::flow::TcpFlags;
use tapnat::wire::craft::{self, IcmpError, Tcp};
use tapnat::wire::fragment::fragments;
use tapnat::wire::{Buffer, Offload, PartialChecksum, Segment, SegmentKind};

pub const A: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 1000);
pub const S: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 7), 80);
pub const R9: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
pub const X: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// Record route, no operation, and the end of the list.
pub const RECORD_ROUTE: [u8; 8] = [7, 7, 4, 0, 0, 0, 0, 0];

pub fn put(bytes: &mut [u8], at: usize, word: u16) {
    bytes[at..at + 2].copy_from_slice(&word.to_be_bytes());
}

pub fn get(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Length of the IP header.
pub fn header(packet: &[u8]) -> usize {
    usize::from(packet[0] & 15) * 4
}

/// Writes the IP header checksum that pnet computes.
pub fn fix_ip(packet: &mut [u8]) {
    let sum = ipv4::checksum(&Ipv4Packet::new(packet).unwrap());
    put(packet, 10, sum);
}

/// Writes the checksum that pnet computes into the ICMP message of the packet.
pub fn fix_icmp(packet: &mut [u8]) {
    let at = header(packet);
    let sum = icmp::checksum(&IcmpPacket::new(&packet[at..]).unwrap());
    put(packet, at + 2, sum);
}

/// Fails unless every checksum in the packet is right in pnet's judgement: IP header, transport
/// where the packet is whole, quoted IP header.
pub fn assert_right(packet: &[u8]) {
    let ip = Ipv4Packet::new(packet).unwrap();
    assert_eq!(ip.get_checksum(), ipv4::checksum(&ip), "IP header checksum");
    if ip.get_fragment_offset() != 0 || ip.get_flags() & 1 != 0 {
        return;
    }
    let (source, destination) = (ip.get_source(), ip.get_destination());
    let payload = &packet[header(packet)..usize::from(ip.get_total_length())];
    match ip.get_next_level_protocol() {
        IpNextHeaderProtocols::Tcp => {
            let segment = TcpPacket::new(payload).unwrap();
            assert_eq!(
                segment.get_checksum(),
                tcp::ipv4_checksum(&segment, &source, &destination),
                "TCP checksum"
            );
        }
        IpNextHeaderProtocols::Udp => {
            let datagram = UdpPacket::new(payload).unwrap();
            let computed = udp::ipv4_checksum(&datagram, &source, &destination);
            match datagram.get_checksum() {
                0 => {}
                0xffff => assert!(computed == 0 || computed == 0xffff, "UDP checksum"),
                checksum => assert_eq!(checksum, computed, "UDP checksum"),
            }
        }
        IpNextHeaderProtocols::Icmp => {
            let message = IcmpPacket::new(payload).unwrap();
            assert_eq!(message.get_checksum(), icmp::checksum(&message), "ICMP checksum");
            if matches!(message.get_icmp_type().0, 3 | 11 | 12) {
                let quoted = Ipv4Packet::new(&message.payload()[4..]).unwrap();
                assert_eq!(quoted.get_checksum(), ipv4::checksum(&quoted), "quoted IP header checksum");
            }
        }
        _ => {}
    }
}

/// An ICMP error with a quote of exactly `quote`, and what follows it (extensions).
pub fn error_with(kind: (u8, u8), rest: [u8; 4], quote: &[u8], behind: &[u8]) -> Vec<u8> {
    let mut packet = craft::echo(R9, X, true, 0, 0, &[quote, behind].concat());
    let at = header(&packet);
    packet[at] = kind.0;
    packet[at + 1] = kind.1;
    packet[at + 4..at + 8].copy_from_slice(&rest);
    fix_icmp(&mut packet);
    packet
}

/// A SYN with window scale, an MSS option at an odd offset if asked for, and one at an even one
/// otherwise.
pub fn syn(mss: u16, odd: bool) -> Vec<u8> {
    let mut packet = Tcp { flags: TcpFlags::SYN, mss: Some(mss), ..Tcp::default() }.packet(A, S, &[0; 8]);
    let [high, low] = mss.to_be_bytes();
    let options = if odd {
        [1, 2, 4, high, low, 3, 3, 7, 0, 0, 0, 0]
    } else {
        [2, 4, high, low, 3, 3, 7, 1, 0, 0, 0, 0]
    };
    packet[40..52].copy_from_slice(&options);
    packet[32] = 8 << 4;
    fix_transport(&mut packet);
    packet
}

/// Writes the checksum that pnet computes into TCP or UDP header of the packet.
pub fn fix_transport(packet: &mut [u8]) {
    let at = header(packet);
    let ip = Ipv4Packet::new(packet).unwrap();
    let (source, destination) = (ip.get_source(), ip.get_destination());
    let (field, sum) = match ip.get_next_level_protocol() {
        IpNextHeaderProtocols::Tcp => {
            (16, tcp::ipv4_checksum(&TcpPacket::new(&packet[at..]).unwrap(), &source, &destination))
        }
        _ => (6, udp::ipv4_checksum(&UdpPacket::new(&packet[at..]).unwrap(), &source, &destination)),
    };
    put(packet, at + field, sum);
}

/// A packet that may be fragmented, with an identification.
pub fn fragmentable(mut packet: Vec<u8>, identification: u16) -> Vec<u8> {
    put(&mut packet, 4, identification);
    put(&mut packet, 6, 0);
    fix_ip(&mut packet);
    packet
}

/// Plain packets, one of each kind, all right.
pub fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let udp = craft::udp(A, S, b"hello, world");
    let tcp = craft::tcp(A, S, TcpFlags::ACK.with(TcpFlags::PSH), 7, b"GET / HTTP/1.1");
    let mut no_checksum = udp.clone();
    put(&mut no_checksum, 26, 0);
    let mut timestamp = craft::echo(*A.ip(), *S.ip(), true, 9, 1, &[0; 12]);
    timestamp[20] = 13;
    fix_icmp(&mut timestamp);
    let mut gre = udp.clone();
    gre[9] = 47;
    fix_ip(&mut gre);
    let optioned = craft::with_ip_options(&udp, &RECORD_ROUTE).unwrap();
    let parts = fragments(&fragmentable(craft::udp(A, S, &[5; 3000]), 77), 1500).unwrap();
    let echo = craft::echo(*A.ip(), *S.ip(), true, 500, 1, &[7; 56]);
    vec![
        ("syn", syn(1460, false)),
        ("syn with an odd option", syn(1460, true)),
        ("tcp data", tcp.clone()),
        ("udp", udp.clone()),
        ("udp without checksum", no_checksum),
        ("udp with IP options", optioned.clone()),
        ("echo request", echo.clone()),
        ("echo reply", craft::echo(*S.ip(), *A.ip(), false, 500, 1, &[7; 56])),
        ("timestamp", timestamp),
        ("gre", gre),
        ("unreachable, udp in full", craft::icmp_error(IcmpError::PortUnreachable, R9, X, &udp)),
        ("too big, tcp in full", craft::icmp_error(IcmpError::TooBig { mtu: 1280 }, R9, X, &tcp)),
        ("ttl exceeded, 8 bytes of tcp", error_with((11, 0), [0; 4], &tcp[..28], &[])),
        ("ttl exceeded, 8 bytes of udp with options", error_with((11, 0), [0; 4], &optioned[..36], &[])),
        ("parameter problem, echo", error_with((12, 0), [8, 0, 0, 0], &echo, &[])),
        ("ttl exceeded about a later fragment", error_with((11, 1), [0; 4], &parts[1][..48], &[])),
        ("first fragment", parts[0].clone()),
        ("middle fragment", parts[1].clone()),
        ("last fragment", parts[2].clone()),
    ]
}

/// Super-frames with partial checksums, and their payloads' lengths.
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

/// Puts the pseudo-header sum into the checksum field, as a sending kernel does.
pub fn make_partial(buffer: &mut Buffer, field: u16) {
    let bytes = buffer.bytes_mut();
    let at = header(bytes);
    let length = bytes.len() - at;
    let mut words: Vec<u16> = (12..20).step_by(2).map(|at| get(bytes, at)).collect();
    words.extend([u16::from(bytes[9]), u16::try_from(length).unwrap()]);
    let mut sum: u32 = words.into_iter().map(u32::from).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    put(bytes, at + usize::from(field), sum as u16);
    let start = u16::try_from(at).unwrap();
    buffer.offload =
        Offload { checksum: Some(PartialChecksum { start, offset: field }), ..Offload::default() };
}
