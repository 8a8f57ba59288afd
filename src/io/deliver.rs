//! Sends any packet through any link: whole where the link can take it, finished and cut where
//! it cannot.

use super::Link;
use crate::flow::LinkInfo;
use crate::wire::{Buffer, ParseError, Segment, SegmentKind, Segments, checksum};
use std::io;

/// Sends the packet in `packet`, which starts as [`Link::recv`] leaves it, through `link`. A
/// super-frame that the link cannot take is cut, piece by piece in `scratch`, which must be as
/// large as `Buffer::new`; a checksum that it cannot complete is completed. Contents of both
/// buffers are undefined after.
///
/// # Errors
/// As [`Link::send`], for the first piece that was lost; the pieces after it are not sent.
/// `InvalidInput` if the packet is not what its offload says.
pub fn deliver(link: &mut dyn Link, packet: &mut Buffer, scratch: &mut Buffer) -> io::Result<()> {
    let info = link.info();
    let skip = usize::from(info.header);
    if packet.offload.segment.is_some_and(|segment| !takes(&info, segment)) {
        let mut pieces = Segments::new(packet, skip).map_err(invalid)?;
        while pieces.write_next(scratch) {
            link.send(scratch)?;
        }
        return Ok(());
    }
    if !info.checksum && packet.offload.checksum.is_some() {
        checksum::complete(packet, skip);
        if packet.offload.checksum.is_some() {
            return Err(invalid(ParseError::Offload("the checksum field is outside the packet")));
        }
    }
    link.send(packet)
}

fn takes(info: &LinkInfo, segment: Segment) -> bool {
    info.checksum
        && match segment.kind {
            SegmentKind::Tcp4 => info.tcp4,
            SegmentKind::Tcp6 => info.tcp6,
            SegmentKind::Udp => info.udp,
        }
}

fn invalid(error: ParseError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}
