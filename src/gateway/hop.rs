//! Being a router: who may send and be sent to, what is translated at all, and cutting packets
//! that are too big for the next link.

use super::{Fate, Gateway, Outbox};
use crate::flow::LinkId;
use crate::wire::{Buffer, Packet, fragment};
use std::net::Ipv4Addr;

/// IPv4 and TCP headers without options, in bytes: what an MSS leaves of an MTU.
pub(super) const IP_AND_TCP_HEADERS: u16 = 40;

/// No host sends from here (RFC 1812 §5.3.7): 0/8, 127/8, multicast, class E and broadcast.
pub(super) fn martian_source(ip: Ipv4Addr) -> bool {
    matches!(ip.octets()[0], 0 | 127 | 224..)
}

/// Nothing is forwarded there: 0/8, 127/8, multicast (there is no multicast routing), class E and
/// broadcast.
pub(super) fn martian_destination(ip: Ipv4Addr) -> bool {
    martian_source(ip)
}

/// Whether the packet is one the translator can decide on. Of ICMP these are echo, timestamp and
/// the errors that quote a packet (RFC 5508 REQ-10); not an error about an error.
pub(super) fn translatable(packet: &Packet) -> bool {
    match packet.icmp {
        Some((kind, _)) => matches!(kind, 0 | 8 | 13 | 14 | 3 | 11 | 12) && !packet.quotes_error,
        None => true,
    }
}

/// Whether the IP packet in `buffer`, or a part of the super-frame, is longer than this MTU.
pub(super) fn too_big(buffer: &Buffer, mtu: u16) -> bool {
    buffer.offload.wire_length(buffer.len()) > usize::from(mtu)
}

/// Whether it is too big for this MTU and must not be cut: an ICMP error is due.
pub(super) fn refuses_cut(packet: &Packet, buffer: &Buffer, mtu: u16) -> bool {
    too_big(buffer, mtu) && (packet.dont_fragment || buffer.offload.segment.is_some())
}

/// The fragments of the IP packet in `buffer` for a link of this MTU; it does not forbid them.
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
