//! One IP packet: read once into a [`Packet`], changed only by [`Packet::apply`].

use super::{Buffer, Offload, ParseError};
use crate::flow::{Edit, Summary};

/// The layout of one checked IP packet, and its summary. It borrows nothing: offsets count from
/// the IP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// What a translator must know. For a later fragment the ports in it are 0.
    pub summary: Summary,
    /// Length of the IP header with its options.
    pub header: u16,
    /// Length of the IP packet by its length field.
    pub length: u32,
    /// Time to live.
    pub ttl: u8,
    /// The TOS byte: DSCP and ECN.
    pub tos: u8,
    /// The sender forbids fragmentation.
    pub dont_fragment: bool,
    /// Set if the packet is a fragment.
    pub fragment: Option<Fragment>,
    /// IPv4 identification.
    pub identification: u16,
    /// The IP header has a source-route option (LSRR or SSRR).
    pub source_routed: bool,
    /// The MSS option of a SYN: its value and where the value stands.
    pub mss: Option<(u16, u16)>,
    /// ICMP type and code, if the packet is ICMP (and not a later fragment).
    pub icmp: Option<(u8, u8)>,
}

/// A fragment's place in its datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    /// Offset of its payload in the datagram, in bytes.
    pub offset: u16,
    /// More fragments follow.
    pub more: bool,
}

impl Packet {
    /// Reads the IP packet at `bytes` (from the IP header on; bytes behind the packet's own length
    /// are padding and ignored). Checks version, header length, total length and header checksum,
    /// that TCP, UDP and ICMP headers are whole where the packet is not a later fragment, and for
    /// ICMP errors the checksum of message and quoted header (RFC 5508 REQ-3).
    ///
    /// # Errors
    /// What is wrong, with numbers.
    pub fn parse(bytes: &[u8], offload: &Offload) -> Result<Packet, ParseError> {
        let _ = (bytes, offload);
        todo!()
    }

    /// Applies `edit` to the packet at `buffer[skip..]`: addresses, ports, hop and checksums
    /// together, whole or partial as the buffer's offload says. The only place that writes into
    /// forwarded packets. Everything that could be refused has been refused before.
    pub fn apply(&self, edit: &Edit, buffer: &mut Buffer, skip: usize) {
        let _ = (edit, buffer, skip);
        todo!()
    }
}
