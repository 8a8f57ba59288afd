//! Being a router: who may send and be sent to, what is translated at all, and cutting packets
//! that are too big for the next link.

use super::{Fate, Gateway, Outbox};
use crate::flow::LinkId;
use crate::wire::icmp::Kind;
use crate::wire::{Buffer, Packet, fragment, ipv6};
use std::net::IpAddr;

/// IP and TCP headers without options, in bytes: what an MSS leaves of an MTU.
const IP_AND_TCP_HEADERS: u16 = 40;
const IPV6_AND_TCP_HEADERS: u16 = 60;

/// The least MTU of IPv4, in bytes (RFC 791 §3.2).
const MIN_MTU: u32 = 68;

/// No host sends from here (RFC 1812 §5.3.7, RFC 4291 §2): 0/8, 127/8, multicast, class E and
/// broadcast; the unspecified address, loopback, multicast, and IPv4 in disguise.
pub(super) fn martian_source(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => matches!(ip.octets()[0], 0 | 127 | 224..),
        IpAddr::V6(ip) => {
            // ::/96 holds the unspecified address, loopback and IPv4-compatible addresses.
            ip.is_multicast() || ip.to_bits() >> 32 == 0 || ip.to_ipv4_mapped().is_some()
        }
    }
}

/// Nothing is forwarded there: what cannot be a source, and what means something on its own link
/// only. (There is no multicast routing.)
pub(super) fn martian_destination(ip: IpAddr) -> bool {
    martian_source(ip) || is_link_local(ip)
}

/// Whether `ip` means something on one link only. (An IPv4 one is an address like any other here.)
pub(super) fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// Whether `ip` is a private address of IPv6 (RFC 4193), which does not come from the world.
pub(super) fn is_unique_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unique_local())
}

/// Whether the packet is one the translator can decide on. Of ICMP these are echo, timestamp and
/// the errors that quote a packet (RFC 5508 REQ-10); not an error about an error.
pub(super) fn translatable(packet: &Packet) -> bool {
    packet.icmp_kind().is_none_or(|kind| kind != Kind::Other && !packet.quotes_error)
}

/// Whether it tells of an MTU that no link of its family has (RFC 791 §3.2, RFC 8201 §4). An IPv4
/// router that does not know it says 0 (RFC 1191 §5).
pub(super) fn tells_a_lie(packet: &Packet, buffer: &Buffer) -> bool {
    match packet.next_hop_mtu(buffer.bytes()) {
        Some(mtu) if packet.is_ipv6() => mtu < ipv6::MIN_MTU.into(),
        Some(mtu) => (1..MIN_MTU).contains(&mtu),
        None => false,
    }
}

/// What a segment may carry if no packet shall be longer than `mtu`.
pub(super) fn segment_size(packet: &Packet, mtu: u16) -> u16 {
    mtu.saturating_sub(if packet.is_ipv6() { IPV6_AND_TCP_HEADERS } else { IP_AND_TCP_HEADERS })
}

/// The MTU that a sender is told of a link with this one: IPv6 knows none below 1280.
pub(super) fn told_mtu(packet: &Packet, mtu: u16) -> u16 {
    if packet.is_ipv6() { mtu.max(ipv6::MIN_MTU) } else { mtu }
}

/// Whether the IP packet in `buffer`, or a part of the super-frame, is longer than this MTU.
pub(super) fn too_big(buffer: &Buffer, mtu: u16) -> bool {
    buffer.offload.wire_length(buffer.len()) > usize::from(mtu)
}

/// Whether it is too big for this MTU and must not be cut: an ICMP error is due.
pub(super) fn refuses_cut(packet: &Packet, buffer: &Buffer, mtu: u16) -> bool {
    too_big(buffer, mtu) && (packet.dont_fragment || buffer.offload.segment.is_some())
}

/// The fragments of the IP packet in `buffer` for a link of this MTU; none if it forbids them.
pub(super) fn pieces(buffer: &Buffer, mtu: u16) -> Vec<Buffer> {
    let mut whole = buffer.clone();
    crate::wire::checksum::complete(&mut whole, 0);
    let cut = fragment::fragments(whole.bytes(), mtu).unwrap_or_default();
    cut.iter().map(|piece| Buffer::from_bytes(piece)).collect()
}

impl Gateway {
    /// Sends the packet in pieces.
    pub(super) fn cut(&mut self, buffer: &Buffer, to: LinkId, mtu: u16, out: &mut Outbox) -> Fate {
        for piece in pieces(buffer, mtu) {
            out.push(to, piece);
        }
        Fate::Cut(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn martians_of_both_families() {
        let v6 = |text: &str| IpAddr::V6(text.parse().unwrap_or(Ipv6Addr::UNSPECIFIED));
        for ip in ["::", "::1", "::10.0.0.1", "ff02::1", "::ffff:10.0.0.1"] {
            assert!(martian_source(v6(ip)) && martian_destination(v6(ip)), "{ip}");
        }
        assert!(martian_destination(v6("fe80::1")) && !martian_source(v6("fe80::1")));
        for ip in ["2001:db8::1", "fd00::1", "64:ff9b::1"] {
            assert!(!martian_source(v6(ip)) && !martian_destination(v6(ip)), "{ip}");
        }
        for first in [0, 127, 224, 240, 255] {
            assert!(martian_source(Ipv4Addr::new(first, 0, 0, 1).into()));
        }
        assert!(!martian_destination(Ipv4Addr::new(169, 254, 0, 1).into()));
    }
}
