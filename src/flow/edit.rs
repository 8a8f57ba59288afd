//! What a translator wants changed in a packet.

use super::Endpoint;

/// Changes to one packet. Everything is optional; `Edit::default()` changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Edit {
    /// The new source: address, and port or query identifier where the packet has one.
    pub source: Option<Endpoint>,
    /// The new destination: address, and port or query identifier where the packet has one.
    pub destination: Option<Endpoint>,
    /// For ICMP errors: the change to the packet they quote.
    pub quoted: Option<QuotedEdit>,
    /// Spend one hop: TTL or hop limit less one. The caller has made sure that it is above one.
    pub spend_hop: bool,
    /// Lower the MSS option of a SYN to this, in bytes, if it is higher.
    pub clamp_mss: Option<u16>,
    /// A new identification (RFC 6864: the rewriting box is the source of non-atomic datagrams).
    /// IPv4 has room for the low 16 bits; an IPv6 packet has an identification only if it is a
    /// fragment, and is otherwise left as it is.
    pub identification: Option<u32>,
}

/// Changes to the header that an ICMP error quotes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct QuotedEdit {
    /// The new quoted source.
    pub source: Option<Endpoint>,
    /// The new quoted destination.
    pub destination: Option<Endpoint>,
}
