//! IPv6 on the bench: a gateway with an IPv6 inside, and neighbour discovery written by hand.
#![allow(dead_code, clippy::unwrap_used, missing_docs, reason = "each test program uses a part")]

use crate::support::{MAC, MAC_A, MAC_B, Rig};
use std::net::{IpAddr, Ipv6Addr};
use tapnat::flow::{LinkInfo, Prefix, Time};
use tapnat::gateway::{Fate, Gateway, GatewayConfig, INSIDE, Subnet};
use tapnat::nat::{NatConfig, PrefixTranslation};
use tapnat::wire::ethernet::IPV6;
use tapnat::wire::{Frame, MacAddr, checksum};

pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 1);
pub const A6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 0xa);
pub const B6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 0xb);
pub const X6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub const S1_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 7);
pub const S2_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 8);
pub const R9_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xee, 0, 0, 0, 0, 9);
/// What follows from the gateway's MAC, 02:00:00:00:00:01.
pub const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0x00ff, 0xfe00, 1);
pub const LINK_LOCAL_A: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0x00ff, 0xfe00, 0xa);
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

pub const SOURCE_MAC: u8 = 1;
pub const TARGET_MAC: u8 = 2;
pub const ROUTER: u8 = 0x80;
pub const SOLICITED: u8 = 0x40;
pub const OVERRIDE: u8 = 0x20;

pub fn config() -> GatewayConfig {
    let nat = NatConfig::new(vec![IpAddr::V6(X6)]);
    let subnets = vec![Subnet { gateway: GATEWAY6.into(), prefix: 64, only: None }];
    GatewayConfig::new(subnets, MAC, LinkInfo::offloading(1500, 14), LinkInfo::offloading(1500, 0), nat)
}

/// A gateway that knows nobody yet.
pub fn stranger(config: GatewayConfig) -> Rig {
    Rig { gateway: Gateway::new(config, [7; 32]), now: Time::from_secs(1), sent: Vec::new() }
}

/// A gateway that knows the hosts A and B.
pub fn rig_with(config: GatewayConfig) -> Rig {
    let mut rig = stranger(config);
    for (ip, mac) in [(A6, MAC_A), (B6, MAC_B)] {
        rig.frame(&solicitation(mac, ip, GATEWAY6));
    }
    rig.sent.clear();
    rig
}

pub fn rig() -> Rig {
    rig_with(config())
}

/// The group of those who might have `ip`.
pub fn group(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = ip.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, u16::from_be_bytes([0xff, a]), u16::from_be_bytes([b, c]))
}

pub fn group_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

/// An IPv6 header and what it carries.
pub fn ip6(source: Ipv6Addr, destination: Ipv6Addr, next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, hops]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// Puts the right checksum into the ICMPv6 message right behind the IPv6 header.
pub fn fix_icmp6(packet: &mut [u8]) {
    packet[42..44].fill(0);
    let mut summed = packet[8..40].to_vec();
    summed.extend((packet.len() as u32 - 40).to_be_bytes());
    summed.extend([0, 0, 0, 58]);
    summed.extend(&packet[40..]);
    let sum = !checksum::sum(&summed);
    packet[42..44].copy_from_slice(&sum.to_be_bytes());
}

/// An ICMPv6 message with its checksum.
pub fn icmp6(source: Ipv6Addr, destination: Ipv6Addr, hops: u8, message: &[u8]) -> Vec<u8> {
    let mut packet = ip6(source, destination, 58, hops, message);
    fix_icmp6(&mut packet);
    packet
}

pub fn option(kind: u8, mac: MacAddr) -> Vec<u8> {
    [&[kind, 1][..], &mac.0].concat()
}

pub fn framed(source: MacAddr, destination: MacAddr, packet: &[u8]) -> Vec<u8> {
    [&Frame { destination, source, ethertype: IPV6 }.to_bytes()[..], packet].concat()
}

/// The message of a neighbour solicitation (135) or advertisement (136).
pub fn neighbor(kind: u8, flags: u8, target: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0, flags, 0, 0, 0][..], &target.octets(), options].concat()
}

/// The host with `mac` and `ip` asks who has `target`.
pub fn solicitation(mac: MacAddr, ip: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let message = neighbor(135, 0, target, &option(SOURCE_MAC, mac));
    framed(mac, group_mac(group(target)), &icmp6(ip, group(target), 255, &message))
}

/// The host with `mac` says to the gateway that it has `ip`.
pub fn advertisement(mac: MacAddr, ip: Ipv6Addr, flags: u8) -> Vec<u8> {
    let message = neighbor(136, flags, ip, &option(TARGET_MAC, mac));
    framed(mac, MAC, &icmp6(ip, GATEWAY6, 255, &message))
}

/// A host without an address yet asks for routers.
pub fn router_solicitation(mac: MacAddr) -> Vec<u8> {
    let packet = icmp6(Ipv6Addr::UNSPECIFIED, ALL_ROUTERS, 255, &[133, 0, 0, 0, 0, 0, 0, 0]);
    framed(mac, group_mac(ALL_ROUTERS), &packet)
}

pub fn source6(packet: &[u8]) -> Ipv6Addr {
    Ipv6Addr::from(*packet[8..].first_chunk::<16>().unwrap())
}

pub fn destination6(packet: &[u8]) -> Ipv6Addr {
    Ipv6Addr::from(*packet[24..].first_chunk::<16>().unwrap())
}

/// Frames sent inside since the last call: to whom, and the IPv6 packet.
pub fn sent6(rig: &mut Rig) -> Vec<(MacAddr, Vec<u8>)> {
    let frames = rig.take(INSIDE).into_iter();
    let parsed = frames.map(|frame| (Frame::parse(&frame).unwrap(), frame));
    parsed
        .filter(|(header, _)| header.ethertype == IPV6)
        .map(|(header, frame)| (header.destination, frame[14..].to_vec()))
        .collect()
}

/// Whether the ICMPv6 message right behind the IPv6 header has the right checksum.
pub fn icmp6_is_right(packet: &[u8]) -> bool {
    let mut fixed = packet.to_vec();
    fix_icmp6(&mut fixed);
    fixed == packet && usize::from(u16::from_be_bytes([packet[4], packet[5]])) == packet.len() - 40
}

/// A frame with the multicast listener report that every host sends (RFC 3810 §5.2).
pub fn listener_report() -> Vec<u8> {
    let routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
    let record = [&[4, 0, 0, 0][..], &group(A6).octets()].concat();
    let mut message = [&[143, 0, 0, 0, 0, 0, 0, 1][..], &record].concat();
    let alone = icmp6(LINK_LOCAL_A, routers, 1, &message);
    message.copy_from_slice(&alone[40..]);
    // Hop-by-hop options: router alert.
    let options = [58, 0, 5, 2, 0, 0, 1, 0];
    let packet = ip6(LINK_LOCAL_A, routers, 0, 1, &[&options[..], &message].concat());
    framed(MAC_A, group_mac(routers), &packet)
}

/// What R9 says to `to` about a packet that was too big.
pub fn too_big(to: Ipv6Addr, mtu: u32, about: &[u8]) -> Vec<u8> {
    let message = [&[2, 0, 0, 0][..], &mtu.to_be_bytes(), about].concat();
    icmp6(R9_6, to, 64, &message)
}

/// A gateway that translates the prefix of A and B to 2001:db8:1::/48.
pub fn translating() -> GatewayConfig {
    let mut config = config();
    let (inside, outside) =
        (Prefix::new(GATEWAY6, 48), Prefix::new("2001:db8:1::".parse::<Ipv6Addr>().unwrap(), 48));
    config.translations.push(PrefixTranslation::new(inside, outside).unwrap());
    config
}

/// Receives an IPv6 packet from `host` inside.
pub fn from6(rig: &mut Rig, host: MacAddr, packet: &[u8]) -> Fate {
    rig.frame(&framed(host, MAC, packet))
}

/// The packet (without extension headers) in fragments of `size` bytes of payload, a multiple of 8.
pub fn fragments6(packet: &[u8], identification: u32, size: usize) -> Vec<Vec<u8>> {
    let (header, payload) = packet.split_at(40);
    let pieces = payload.chunks(size).enumerate();
    let made = pieces.map(|(number, piece)| {
        let more = u16::from((number + 1) * size < payload.len());
        let place = (number * size) as u16 | more;
        let mut fragment = vec![header[6], 0];
        fragment.extend(place.to_be_bytes());
        fragment.extend(identification.to_be_bytes());
        fragment.extend(piece);
        let mut made = ip6(source6(packet), destination6(packet), 44, header[7], &fragment);
        made[..4].copy_from_slice(&header[..4]);
        made
    });
    made.collect()
}

/// Puts an extension header of this kind before what the packet carries.
pub fn extended(packet: &[u8], kind: u8, extension: &[u8]) -> Vec<u8> {
    let mut extension = extension.to_vec();
    extension[0] = packet[6];
    let payload = [&extension[..], &packet[40..]].concat();
    ip6(source6(packet), destination6(packet), kind, packet[7], &payload)
}

pub fn with_hops(mut packet: Vec<u8>, hops: u8) -> Vec<u8> {
    packet[7] = hops;
    packet
}

pub fn source_port6(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[40], packet[41]])
}

pub fn destination_port6(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[42], packet[43]])
}
