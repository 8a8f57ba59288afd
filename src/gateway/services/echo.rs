//! Echo: `ping` of the gateway's inside address (RFC 1812 §4.3.3.6).

use crate::wire::{Buffer, Packet, craft};

/// The reply, if the packet in `buffer` (from its IP header on) is a whole echo request.
pub fn offer(packet: &Packet, buffer: &Buffer) -> Option<Buffer> {
    if packet.icmp != Some((8, 0)) || packet.fragment.is_some() {
        return None;
    }
    craft::echo_reply(buffer.bytes()).map(|reply| Buffer::from_bytes(&reply))
}
