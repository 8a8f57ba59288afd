//! What a packet leaves for a later device to do: fill a checksum, cut a super-frame.
//!
//! The meaning of a `virtio_net_hdr` (`include/uapi/linux/virtio_net.h`), with all offsets
//! counted from the start of the IP header. Links add their own header's length.

/// Work left to a later device. `Offload::default()` leaves none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offload {
    /// The transport checksum field holds only the folded pseudo-header sum, uncomplemented.
    pub checksum: Option<PartialChecksum>,
    /// The packet is a super-frame, to be cut into segments.
    pub segment: Option<Segment>,
    /// A device has already verified the transport checksum.
    pub verified: bool,
}

/// Where a checksum is to be filled in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartialChecksum {
    /// Where the sum begins: the transport header.
    pub start: u16,
    /// Where the checksum field is, from `start`.
    pub offset: u16,
}

/// How a super-frame is to be cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// What is in it.
    pub kind: SegmentKind,
    /// Payload bytes in each segment but the last; never 0.
    pub size: u16,
    /// IP and transport headers together, in bytes.
    pub header: u16,
    /// The sender uses ECN: CWR belongs to the first segment only.
    pub ecn: bool,
}

/// What a super-frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over either; every segment becomes a datagram of its own.
    Udp,
}

impl Offload {
    /// The largest IP packet that leaves the last device, in bytes, given the length of the
    /// packet as it is now.
    pub fn wire_length(&self, length: usize) -> usize {
        match self.segment {
            Some(segment) => length.min(usize::from(segment.header) + usize::from(segment.size)),
            None => length,
        }
    }
}
