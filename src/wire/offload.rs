//! What a packet leaves for a later device to do: fill a checksum, cut a super-frame.
//!
//! The meaning of a `virtio_net_hdr` (`include/uapi/linux/virtio_net.h`), with all offsets
//! counted from the start of the IP header. Links add their own header's length.

use super::{Packet, ParseError, checksum};
use crate::flow::{Protocol, Summary};

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

/// The most packets that one super-frame may become. Senders that know their path's MTU stay far
/// below: 65535 bytes in segments of 64.
pub const MAX_SEGMENTS: usize = 1024;

impl Offload {
    /// The offload with the header length of a super-frame set to what the packet has. What comes
    /// with a received packet is a hint at best: kernels write the length of the first memory
    /// fragment there, but take it at its word when it is sent to them.
    #[must_use]
    pub fn fitted(mut self, packet: &Packet) -> Offload {
        if let Some(segment) = &mut self.segment {
            segment.header = packet.payload;
        }
        self
    }

    /// Checks that the offload fits the packet it came with.
    ///
    /// # Errors
    /// [`ParseError::Offload`] if not: somebody would otherwise write a checksum into data, or cut
    /// a packet that cannot be cut.
    pub(super) fn check(&self, packet: &Packet) -> Result<(), ParseError> {
        let refuse = |why| Err(ParseError::Offload(why));
        let protocol = packet.summary.protocol();
        if matches!(packet.summary, Summary::Error(_)) || !matches!(protocol, Protocol::Tcp | Protocol::Udp) {
            return refuse("only TCP and UDP leave work to a device");
        }
        if packet.fragment.is_some() {
            return refuse("a fragment leaves no work to a device");
        }
        if let Some(checksum) = self.checksum {
            if checksum.start != packet.header {
                return refuse("the checksum does not start at the transport header");
            }
            // That the field is within the packet follows: the whole header is.
            if checksum::field(protocol) != Some(usize::from(checksum.offset)) {
                return refuse("the checksum field is not where the protocol has it");
            }
        }
        let Some(segment) = self.segment else { return Ok(()) };
        match (segment.kind, protocol, packet.is_ipv6()) {
            (SegmentKind::Tcp4, Protocol::Tcp, false)
            | (SegmentKind::Tcp6, Protocol::Tcp, true)
            | (SegmentKind::Udp, Protocol::Udp, _) => {}
            _ => return refuse("the kind of super-frame is not that of the packet"),
        }
        if segment.size == 0 {
            return refuse("segments of no size");
        }
        let payload = packet.length as usize - usize::from(packet.payload);
        if payload.div_ceil(usize::from(segment.size)) > MAX_SEGMENTS {
            return refuse("too many segments");
        }
        if self.checksum.is_none() && !self.verified {
            return refuse("the checksum of a super-frame is neither partial nor verified");
        }
        Ok(())
    }

    /// The largest IP packet that leaves the last device, in bytes, given the length of the
    /// packet as it is now.
    pub fn wire_length(&self, length: usize) -> usize {
        match self.segment {
            Some(segment) => length.min(usize::from(segment.header) + usize::from(segment.size)),
            None => length,
        }
    }
}
