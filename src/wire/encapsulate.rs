//! Puts headers in front of a payload that came without them, as sockets give it.

use super::{Buffer, Offload, PartialChecksum, Segment, SegmentKind, checksum, ipv6};
use std::net::IpAddr;

/// What an IP header is to say. Both addresses are of one family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outer {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Time to live, or hop limit.
    pub hops: u8,
    /// TOS byte, or traffic class.
    pub tos: u8,
    /// IPv4: forbid fragmentation. IPv6 always does.
    pub dont_fragment: bool,
    /// IPv4: identification.
    pub identification: u16,
}

/// The longest IP packet, as its length field counts, in bytes.
const LONGEST: usize = 65535;
const HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Makes a UDP packet of the payload in `buffer`, with the source and destination `ports`. The
/// checksum is left partial. With `segment` the payload is that of many datagrams, of which all but
/// the last have so many bytes: a super-frame. False if no IP packet is that long, or the addresses
/// are of two families; the buffer is then as it was.
#[must_use]
pub fn udp(buffer: &mut Buffer, outer: &Outer, ports: (u16, u16), segment: Option<u16>) -> bool {
    let length = UDP_HEADER + buffer.len();
    let Some(begun) = begun(outer, UDP, length) else { return false };
    let (Ok(short), true) = (u16::try_from(length), fits(outer, length)) else { return false };
    let mut header = [0; UDP_HEADER];
    header[..2].copy_from_slice(&ports.0.to_be_bytes());
    header[2..4].copy_from_slice(&ports.1.to_be_bytes());
    header[4..6].copy_from_slice(&short.to_be_bytes());
    header[6..].copy_from_slice(&begun.to_be_bytes());
    buffer.push_front(&header);
    let start = push_ip(buffer, outer, UDP);
    let segment = segment.filter(|size| *size > 0 && usize::from(*size) < length - UDP_HEADER);
    buffer.offload = Offload {
        checksum: Some(PartialChecksum { start, offset: 6 }),
        segment: segment.map(|size| Segment {
            kind: SegmentKind::Udp,
            size,
            header: start + UDP_HEADER as u16,
            ecn: false,
        }),
        verified: false,
    };
    true
}

/// Makes an ICMP packet of the message in `buffer`, whose checksum is written anew. False as in
/// [`udp`], or if there is no whole ICMP header.
#[must_use]
pub fn icmp(buffer: &mut Buffer, outer: &Outer) -> bool {
    let length = buffer.len();
    if length < super::icmp::HEADER || !fits(outer, length) {
        return false;
    }
    buffer.bytes_mut()[2..4].fill(0);
    let sum = checksum::icmp(outer.source, outer.destination, buffer.bytes());
    buffer.bytes_mut()[2..4].copy_from_slice(&sum.to_be_bytes());
    push_ip(buffer, outer, if outer.source.is_ipv4() { ICMP } else { ICMPV6 });
    buffer.offload = Offload::default();
    true
}

fn fits(outer: &Outer, length: usize) -> bool {
    match (outer.source, outer.destination) {
        (IpAddr::V4(_), IpAddr::V4(_)) => HEADER + length <= LONGEST,
        (IpAddr::V6(_), IpAddr::V6(_)) => length <= LONGEST,
        _ => false,
    }
}

/// The checksum field of a transport that is `length` bytes long, as it is left to a device.
fn begun(outer: &Outer, protocol: u8, length: usize) -> Option<u16> {
    match (outer.source, outer.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            Some(checksum::pseudo_header(source, destination, protocol, u16::try_from(length).ok()?))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            Some(checksum::pseudo_header_ipv6(source, destination, protocol, u32::try_from(length).ok()?))
        }
        _ => None,
    }
}

/// Puts the IP header in front of a transport that fits; its length.
fn push_ip(buffer: &mut Buffer, outer: &Outer, protocol: u8) -> u16 {
    match (outer.source, outer.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = [0; HEADER];
            (header[0], header[1]) = (0x45, outer.tos);
            header[2..4].copy_from_slice(&((HEADER + buffer.len()) as u16).to_be_bytes());
            header[4..6].copy_from_slice(&outer.identification.to_be_bytes());
            header[6] = u8::from(outer.dont_fragment) << 6;
            (header[8], header[9]) = (outer.hops, protocol);
            header[12..16].copy_from_slice(&source.octets());
            header[16..].copy_from_slice(&destination.octets());
            let sum = checksum::internet(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            buffer.push_front(&header);
            HEADER as u16
        }
        (source, destination) => {
            let octets = |ip| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            let mut header = [0; ipv6::HEADER];
            header[..4].copy_from_slice(&(6 << 28 | u32::from(outer.tos) << 20).to_be_bytes());
            header[4..6].copy_from_slice(&(buffer.len() as u16).to_be_bytes());
            (header[6], header[7]) = (protocol, outer.hops);
            header[8..24].copy_from_slice(&octets(source));
            header[24..].copy_from_slice(&octets(destination));
            buffer.push_front(&header);
            ipv6::HEADER as u16
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Packet, craft};
    use std::net::SocketAddr;

    fn outer(six: bool) -> Outer {
        let ends: (IpAddr, IpAddr) = match six {
            true => ([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1].into(), [0xfd; 16].into()),
            false => ([192, 0, 2, 1].into(), [198, 51, 100, 7].into()),
        };
        let (source, destination) = ends;
        Outer { source, destination, hops: craft::TTL, tos: 0, dont_fragment: true, identification: 0 }
    }

    #[test]
    fn a_payload_becomes_the_packet_that_another_maker_makes() {
        for six in [false, true] {
            let outer = outer(six);
            let mut buffer = Buffer::new();
            buffer.fill(b"payload");
            assert!(udp(&mut buffer, &outer, (53, 4000), None));
            Packet::read(&mut buffer, 0).unwrap();
            checksum::complete(&mut buffer, 0);
            let ends = (SocketAddr::new(outer.source, 53), SocketAddr::new(outer.destination, 4000));
            assert_eq!(buffer.bytes(), craft::udp(ends.0, ends.1, b"payload"));
            let mut buffer = Buffer::new();
            let want = craft::echo(outer.source, outer.destination, false, 7, 9, b"echo");
            let header = if six { ipv6::HEADER } else { HEADER };
            buffer.fill(&want[header..]);
            assert!(icmp(&mut buffer, &outer));
            assert_eq!(buffer.bytes(), want);
        }
    }

    #[test]
    fn many_datagrams_are_a_super_frame_and_too_many_bytes_are_none() {
        for six in [false, true] {
            let mut buffer = Buffer::new();
            buffer.fill(&[7; 5000]);
            assert!(udp(&mut buffer, &outer(six), (53, 4000), Some(1200)));
            assert_eq!(Packet::read(&mut buffer, 0).unwrap().length as usize, buffer.len());
            assert_eq!(buffer.offload.segment.map(|segment| segment.size), Some(1200));
            buffer.fill(&[7; LONGEST]);
            assert!(!udp(&mut buffer, &outer(six), (1, 2), None));
            assert_eq!(buffer.len(), LONGEST);
        }
        let mut buffer = Buffer::new();
        buffer.fill(&[8, 0, 0]);
        assert!(!icmp(&mut buffer, &outer(false)));
    }
}
