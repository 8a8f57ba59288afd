//! What pure code may know of an interface.

/// Which interface, in the worker's own numbering.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkId(pub u8);

/// What an interface can take. A packet that asks for more is cut or completed before it is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkInfo {
    /// The largest IP packet, in bytes (68 to 65535).
    pub mtu: u16,
    /// Length of the link header before the IP header in each buffer: 14 on Ethernet, 0 where the
    /// link speaks IP.
    pub header: u8,
    /// It completes transport checksums that hold only the pseudo-header sum.
    pub checksum: bool,
    /// It takes TCP super-frames over IPv4.
    pub tcp4: bool,
    /// It takes TCP super-frames over IPv6.
    pub tcp6: bool,
    /// It takes UDP super-frames.
    pub udp: bool,
}

impl LinkInfo {
    /// A link that takes only what fits the wire: whole checksums, one packet at a time.
    pub fn plain(mtu: u16, header: u8) -> Self {
        LinkInfo { mtu, header, checksum: false, tcp4: false, tcp6: false, udp: false }
    }

    /// A link that takes every offload.
    pub fn offloading(mtu: u16, header: u8) -> Self {
        LinkInfo { mtu, header, checksum: true, tcp4: true, tcp6: true, udp: true }
    }
}
