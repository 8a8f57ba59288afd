//! Echo: `ping` of the gateway's inside addresses (RFC 1812 §4.3.3.6, RFC 4443 §4.2).

use crate::wire::icmp::Kind;
use crate::wire::{Buffer, Packet, craft};

/// The reply, if the packet in `buffer` (from its IP header on) is a whole echo request.
pub fn offer(packet: &Packet, buffer: &Buffer) -> Option<Buffer> {
    if packet.icmp_kind() != Some(Kind::Asks) || packet.fragment.is_some() {
        return None;
    }
    craft::echo_reply(buffer.bytes()).map(|reply| Buffer::from_bytes(&reply))
}
