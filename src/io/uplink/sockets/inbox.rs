//! What is to be given to the gateway beside what sockets have: errors, fragments, parts.

use crate::io::sys::datagram::Received;
use crate::wire::encapsulate::{self, Outer};
use crate::wire::{Buffer, checksum, fragment};
use std::collections::VecDeque;
use std::net::IpAddr;

/// Packets that may wait; further ones are lost.
const MOST: usize = 1024;

/// Packets that wait to be given, and how packets must be to fit the inside.
#[derive(Debug)]
pub struct Inbox {
    queue: VecDeque<Buffer>,
    inside_mtu: u16,
    identification: u32,
    /// Packets for which there was no room.
    pub lost: u64,
}

impl Inbox {
    /// An empty one. `inside_mtu` is the TAP's MTU in bytes.
    pub fn new(inside_mtu: u16) -> Self {
        Inbox { queue: VecDeque::new(), inside_mtu, identification: std::process::id(), lost: 0 }
    }

    /// Has a packet wait.
    pub fn push(&mut self, packet: Buffer) {
        if self.queue.len() >= MOST {
            self.lost += 1;
        } else {
            self.queue.push_back(packet);
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Puts the next packet into `buffer`, if one waits.
    pub fn pop(&mut self, buffer: &mut Buffer) -> bool {
        let Some(packet) = self.queue.pop_front() else { return false };
        buffer.fill(packet.bytes());
        buffer.offload = packet.offload;
        true
    }

    /// The IP header for what a socket received, so that its packet of `length` bytes may pass: what
    /// is too big for the inside was cut on its way, or never was on one, and may be cut again.
    pub fn outer(
        &mut self,
        source: IpAddr,
        destination: IpAddr,
        received: &Received,
        length: usize,
    ) -> Outer {
        let dont_fragment = length <= usize::from(self.inside_mtu);
        if !dont_fragment {
            self.identification = self.identification.wrapping_add(1);
        }
        Outer {
            source,
            destination,
            hops: received.hops.max(1),
            tos: received.tos,
            dont_fragment,
            identification: if dont_fragment { 0 } else { self.identification as u16 },
        }
    }

    /// Cuts a packet of IPv6 that is too big for the inside into fragments, as nobody behind us may
    /// (RFC 8200 §5): the first is in `buffer` then, the others wait. False if it cannot be cut.
    pub fn fit(&mut self, buffer: &mut Buffer) -> bool {
        let six = buffer.bytes().first().is_some_and(|byte| byte >> 4 == 6);
        if !six || buffer.len() <= usize::from(self.inside_mtu) || buffer.offload.segment.is_some() {
            return true;
        }
        checksum::complete(buffer, 0);
        self.identification = self.identification.wrapping_add(1);
        let cut = fragment::at_source(buffer.bytes(), self.inside_mtu.into(), self.identification);
        let mut pieces = cut.unwrap_or_default().into_iter();
        let Some(first) = pieces.next() else { return false };
        buffer.fill(&first);
        pieces.for_each(|piece| self.push(Buffer::from_bytes(&piece)));
        true
    }

    /// Whether datagrams of `size` bytes of payload fit the inside, with `headers` in front.
    pub fn fits(&self, size: usize, headers: usize) -> bool {
        size + headers <= usize::from(self.inside_mtu)
    }

    /// Has datagrams that are too big for the inside wait, one by one: `payload` in parts of `size`.
    pub fn push_parts(
        &mut self,
        payload: &[u8],
        size: usize,
        ends: ((IpAddr, u16), (IpAddr, u16)),
        received: &Received,
    ) {
        let ((source, from), (destination, to)) = ends;
        for part in payload.chunks(size.max(1)) {
            let outer = self.outer(source, destination, received, usize::MAX);
            let mut packet = Buffer::with_capacity(part.len());
            packet.fill(part);
            if encapsulate::udp(&mut packet, &outer, (from, to), None) && self.fit(&mut packet) {
                self.push(packet);
            } else {
                self.lost += 1;
            }
        }
    }
}
