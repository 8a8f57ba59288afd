//! What is fuzzed: bytes in, and what must hold whatever they are. The same functions run under
//! `cargo test` over the committed corpus and over random bytes (`tests/fuzzed.rs`).
#![allow(dead_code, missing_docs, reason = "each fuzz target uses one of them")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tapnat::config::{file, resolve};
use tapnat::control::protocol::parse_request;
use tapnat::flow::{LinkId, LinkInfo, Prefix, Time};
use tapnat::gateway::{Advertise, Dhcp, Fate, Gateway, GatewayConfig, HOST, INSIDE, OUTSIDE, Outbox, Subnet};
use tapnat::nat::{Behaviour, NatConfig, PrefixTranslation};
use tapnat::stun::{Message, Place, Places, Server};
use tapnat::wire::dns;
use tapnat::wire::{
    Buffer, Frame, MacAddr, Offload, Packet, PartialChecksum, Segment, SegmentKind, checksum, ethernet,
};

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const HOST_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const SUBNET: Subnet = Subnet { gateway: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), prefix: 24, only: None };

const EXTERNAL6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const SUBNET6: Subnet =
    Subnet { gateway: IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 1)), prefix: 64, only: None };

/// A run of a gateway: a byte that chooses its settings, then steps of a byte that says what comes,
/// two that say how much, and that much.
///
/// ```text
/// step: bits 0-1 from the inside, outside, host; or time passes
///       bit  2   as it is, without a link header of ours and without a right header checksum or
///                length (a packet that begins with 6 is given those of IPv6)
///       bit  3   with an unfinished checksum, bit 4 as a super-frame
///       bits 5-7 milliseconds that pass before, as a power of eight
/// ```
pub fn frame(data: &[u8]) {
    let Some((choice, mut rest)) = data.split_first() else { return };
    let mut gateway = Gateway::new(settings(*choice), [9; 32]);
    let mut now = Time::from_secs(1);
    for _ in 0..256 {
        let Some(([step, high, low], more)) = rest.split_first_chunk() else { break };
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(more.len());
        let (bytes, after) = more.split_at(length);
        rest = after;
        now = now + Duration::from_millis(8u64.pow(u32::from(step >> 5)) - 1);
        let mut out = Outbox::default();
        let link = [INSIDE, OUTSIDE, HOST, LinkId(3)][usize::from(step & 3)];
        if link == LinkId(3) {
            gateway.tick(now, &mut out, &mut ());
        } else {
            let mut buffer = packet(*step, link, bytes);
            if let Fate::Pass(to) = gateway.receive(link, &mut buffer, now, &mut out, &mut ()) {
                out.packets.push((to, buffer));
            }
        }
        for (to, packet) in &out.packets {
            check(*to, packet);
        }
    }
}

fn settings(choice: u8) -> GatewayConfig {
    const CLASSES: [Behaviour; 3] =
        [Behaviour::EndpointIndependent, Behaviour::AddressDependent, Behaviour::AddressAndPortDependent];
    let mut nat = NatConfig::new(vec![IpAddr::V4(EXTERNAL), IpAddr::V6(EXTERNAL6)]);
    nat.policy.mapping = CLASSES[usize::from(choice & 3) % 3];
    nat.policy.filtering = CLASSES[usize::from(choice >> 2 & 3) % 3];
    nat.limits.sessions = 64;
    let small = LinkInfo::plain(if choice & 16 == 0 { 1500 } else { 576 }, 0);
    let outside = if choice & 32 == 0 { LinkInfo::offloading(1500, 0) } else { small };
    let inside = LinkInfo::offloading(1500, 14);
    let mut config = GatewayConfig::new(vec![SUBNET, SUBNET6], MAC, inside, outside, nat);
    let (first, last) = (Ipv4Addr::new(10, 0, 0, 100), Ipv4Addr::new(10, 0, 0, 103));
    let lease = Duration::from_secs(60);
    config.dhcp = Some(Dhcp { first, last, lease, dns: None, search: None });
    config.advertise = (choice & 64 != 0).then(Advertise::default);
    if choice & 128 != 0 {
        let outside = Prefix::new(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0), 48);
        config.translations.extend(PrefixTranslation::new(Prefix::new(SUBNET6.gateway, 48), outside));
    }
    config
}

/// The packet as a link would hand it over.
fn packet(step: u8, link: LinkId, bytes: &[u8]) -> Buffer {
    let mut bytes = bytes.to_vec();
    let raw = step & 4 != 0;
    let six = bytes.len() >= 40 && bytes[0] >> 4 == 6;
    if !raw && six {
        let length = u16::try_from(bytes.len() - 40).unwrap_or(u16::MAX).to_be_bytes();
        bytes[4..6].copy_from_slice(&length);
        fix_icmp6(&mut bytes);
    } else if !raw && bytes.len() >= 20 {
        bytes[0] = 0x40 | (bytes[0] & 15).max(5);
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes();
        bytes[2..4].copy_from_slice(&length);
        let header = (usize::from(bytes[0] & 15) * 4).min(bytes.len());
        bytes[10..12].fill(0);
        let sum = checksum::internet(&bytes[..header]).to_be_bytes();
        bytes[10..12].copy_from_slice(&sum);
    }
    let header = if link == INSIDE && !raw { ethernet::HEADER } else { 0 };
    let mut buffer = Buffer::from_bytes(&bytes);
    if header != 0 {
        let ethertype = if six { ethernet::IPV6 } else { ethernet::IPV4 };
        let frame = Frame { destination: MAC, source: HOST_MAC, ethertype };
        buffer.push_front(&frame.to_bytes());
    }
    let (length, protocol) = if six { (40, 6) } else { (20, 9) };
    let transport = u16::try_from(header + length).unwrap_or(0);
    let tcp = bytes.get(protocol) == Some(&6);
    let offset = if tcp { 16 } else { 6 };
    if step & 8 != 0 {
        buffer.offload.checksum = Some(PartialChecksum { start: transport, offset });
    }
    if step & 16 != 0 {
        let kind = match (tcp, six) {
            (true, true) => SegmentKind::Tcp6,
            (true, false) => SegmentKind::Tcp4,
            (false, _) => SegmentKind::Udp,
        };
        buffer.offload.segment = Some(Segment { kind, size: 536, header: transport + 20, ecn: false });
    }
    buffer
}

/// Puts the right checksum into an ICMPv6 message right behind its IPv6 header.
fn fix_icmp6(packet: &mut [u8]) {
    const ICMPV6: u8 = 58;
    if packet[6] != ICMPV6 || packet.len() < 44 {
        return;
    }
    packet[42..44].fill(0);
    let addressed = checksum::sum(&packet[8..40]);
    let length = checksum::sum(&(packet.len() as u32 - 40).to_be_bytes());
    let pseudo = checksum::add(checksum::add(addressed, length), ICMPV6.into());
    let sum = !checksum::add(pseudo, checksum::sum(&packet[40..]));
    packet[42..44].copy_from_slice(&sum.to_be_bytes());
}

/// What leaves is a right packet, and outside never from an inside address.
fn check(to: LinkId, packet: &Buffer) {
    let skip = if to == INSIDE { ethernet::HEADER } else { 0 };
    let bytes = packet.bytes().get(skip..).expect("what goes inside has a link header");
    if to == INSIDE && Frame::parse(packet.bytes()).is_ok_and(|frame| frame.ethertype == ethernet::ARP) {
        return;
    }
    if packet.offload.segment.is_none() {
        let read = Packet::parse(bytes, &Offload::default());
        assert!(read.is_ok(), "what is sent can be read: {read:?}: {bytes:02x?}");
    }
    let source = match bytes[0] >> 4 {
        6 => IpAddr::from(*bytes[8..].first_chunk::<16>().expect("sixteen bytes")),
        _ => IpAddr::from(*bytes[12..].first_chunk::<4>().expect("four bytes")),
    };
    let inside = SUBNET.covers(source) || SUBNET6.covers(source);
    assert!(to == INSIDE || !inside, "an inside address leaves: {bytes:02x?}");
}

/// A configuration file.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match file::parse("fuzz.toml", text).and_then(|raw| resolve(&raw, None)) {
        Ok(settings) => assert!(!settings.inside.is_empty()),
        Err(error) => assert_eq!(error.to_string().lines().count(), 1, "{error}"),
    }
}

/// A line that a client of the control socket sends.
pub fn control(data: &[u8]) {
    let (_, request) = parse_request(data);
    if let Err(problem) = request {
        assert!(!problem.word.is_empty() && !problem.message.is_empty());
    }
}

/// A datagram to a STUN server. What can be read is written and read alike; an answer is a message
/// with the same transaction, goes to the address that asked, and is no larger than a request with all
/// its padding and the addresses that it must name.
pub fn stun(data: &[u8]) {
    if let Ok(message) = Message::parse(data) {
        assert_eq!(Message::parse(&message.write()), Ok(message));
    }
    let ip = |last| IpAddr::V4(Ipv4Addr::new(198, 51, 100, last));
    for alternate in [None, Some((ip(8), 3479))] {
        let mut server = Server::new(Places { address: ip(7), port: 3478, alternate }, 10, 0);
        let client = SocketAddr::new(IpAddr::V4(EXTERNAL), 4000);
        let Ok(answer) = server.answer(Place::default(), client, data, Time::ZERO) else { continue };
        let (asked, told) = (Message::parse(data), Message::parse(&answer.bytes));
        let (asked, told) = (asked.expect("it was answered"), told.expect("what is sent can be read"));
        assert_eq!((asked.transaction, client.ip()), (told.transaction, answer.to.ip()));
        assert!(answer.to.port() != 0 && answer.bytes.len() <= data.len() + 128, "{answer:?}");
    }
}

/// A DNS message from anybody, or several in a stream. A name that is read is one of host names' letters in
/// lower case, and all readers read the same one.
pub fn dns(data: &[u8]) {
    for message in std::iter::once(data).chain(dns::framed(data)) {
        let about = dns::about(message);
        if let Some(about) = &about {
            let fine =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
            assert!(!about.name.is_empty() && about.name.len() <= 253 && about.name.bytes().all(fine));
        }
        let Some(read) = dns::Message::parse(message) else { continue };
        let about = about.expect("what is read whole is read in part");
        assert_eq!((&about.name, about.answer), (&read.question.name, read.answer));
        assert_eq!(about.truncated, !read.complete);
        let right = |(ip, _): &(IpAddr, u32)| ip.is_ipv6() == read.question.six;
        assert!(read.addresses().is_none_or(|all| all.iter().all(right)));
    }
}
