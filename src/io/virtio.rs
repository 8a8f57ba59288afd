//! The 10 bytes of `struct virtio_net_hdr` that stand before each frame of an offloading device,
//! to and from [`Offload`].
//!
//! ```text
//! byte  0       1         2        4         6           8
//!       flags   gso_type  hdr_len  gso_size  csum_start  csum_offset     (16-bit, host order)
//! ```
//!
//! The kernel counts from the link header, [`Offload`] from the IP header. What the kernel calls
//! `hdr_len` on the way to us is only the linear part of its buffer, so that the length of the
//! headers is read from the packet.

use crate::wire::{Offload, PartialChecksum, Segment, SegmentKind};

/// Length of the header.
pub const LENGTH: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_UDP: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// Why a header was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    /// A place it names lies outside the packet.
    #[error("the offload header points outside the packet")]
    Outside,
    /// A super-frame without segment size, or without a checksum to complete.
    #[error("the offload header contradicts itself")]
    Contradiction,
    /// A kind of super-frame that we do not know.
    #[error("unknown kind of super-frame")]
    UnknownKind,
}

/// Reads the header of a frame; `frame` starts with a link header of `link` bytes.
///
/// # Errors
/// If it does not fit the frame; nobody may then touch the frame.
pub fn read(header: &[u8; LENGTH], frame: &[u8], link: u8) -> Result<Offload, Malformed> {
    let field = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let mut offload = Offload::default();
    if header[0] & NEEDS_CHECKSUM != 0 {
        let offset = field(8);
        let start = field(6).checked_sub(u16::from(link)).ok_or(Malformed::Outside)?;
        let end = usize::from(field(6)) + usize::from(offset) + 2;
        if end > frame.len() {
            return Err(Malformed::Outside);
        }
        offload.checksum = Some(PartialChecksum { start, offset });
    } else {
        offload.verified = header[0] & DATA_VALID != 0;
    }
    if header[1] != GSO_NONE {
        offload.segment = Some(segment(header[1], field(4), &offload, frame, link)?);
    }
    Ok(offload)
}

fn segment(kind: u8, size: u16, offload: &Offload, frame: &[u8], link: u8) -> Result<Segment, Malformed> {
    let (Some(checksum), true) = (offload.checksum, size != 0) else {
        return Err(Malformed::Contradiction);
    };
    let transport = usize::from(link) + usize::from(checksum.start);
    let (kind, ecn) = match kind & !GSO_ECN {
        GSO_TCP4 => (SegmentKind::Tcp4, kind & GSO_ECN != 0),
        GSO_TCP6 => (SegmentKind::Tcp6, kind & GSO_ECN != 0),
        GSO_UDP => (SegmentKind::Udp, false),
        _ => return Err(Malformed::UnknownKind),
    };
    let length = match kind {
        SegmentKind::Udp => 8,
        SegmentKind::Tcp4 | SegmentKind::Tcp6 => {
            let words = frame.get(transport + 12).ok_or(Malformed::Outside)? >> 4;
            u16::from(words.max(5)) * 4
        }
    };
    if transport + usize::from(length) > frame.len() {
        return Err(Malformed::Outside);
    }
    let header = checksum.start.checked_add(length).ok_or(Malformed::Outside)?;
    Ok(Segment { kind, size, header, ecn })
}

/// The header that asks a device for `offload`, the frame having a link header of `link` bytes.
///
/// # Errors
/// If an offset does not fit its 16 bits.
pub fn write(offload: &Offload, link: u8) -> Result<[u8; LENGTH], Malformed> {
    let mut header = [0; LENGTH];
    let link = u16::from(link);
    let mut put = |at: usize, value: u16| {
        header[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    };
    if let Some(checksum) = offload.checksum {
        put(6, checksum.start.checked_add(link).ok_or(Malformed::Outside)?);
        put(8, checksum.offset);
    }
    if let Some(segment) = offload.segment {
        put(2, segment.header.checked_add(link).ok_or(Malformed::Outside)?);
        put(4, segment.size);
        let kind = match segment.kind {
            SegmentKind::Tcp4 => GSO_TCP4,
            SegmentKind::Tcp6 => GSO_TCP6,
            SegmentKind::Udp => GSO_UDP,
        };
        header[1] = kind | if segment.ecn { GSO_ECN } else { 0 };
    }
    if offload.checksum.is_some() {
        header[0] = NEEDS_CHECKSUM;
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn super_frame() -> (Offload, Vec<u8>) {
        let mut frame = vec![0; 14 + 20 + 32 + 4000];
        frame[14 + 20 + 12] = 8 << 4;
        let offload = Offload {
            checksum: Some(PartialChecksum { start: 20, offset: 16 }),
            segment: Some(Segment { kind: SegmentKind::Tcp4, size: 1448, header: 52, ecn: true }),
            verified: false,
        };
        (offload, frame)
    }

    #[test]
    fn what_is_written_is_read_again() {
        let (offload, frame) = super_frame();
        let header = write(&offload, 14).unwrap();
        assert_eq!(header[2..4], 66u16.to_ne_bytes(), "hdr_len counts the link header");
        assert_eq!(read(&header, &frame, 14), Ok(offload));
        assert_eq!(read(&write(&Offload::default(), 0).unwrap(), &[], 0), Ok(Offload::default()));
    }

    #[test]
    fn headers_that_lie_are_refused_on_every_length_of_the_frame() {
        let (offload, frame) = super_frame();
        let header = write(&offload, 14).unwrap();
        for length in 0..14 + 20 + 32 {
            assert_eq!(read(&header, &frame[..length], 14), Err(Malformed::Outside), "{length}");
        }
        let mut unknown = header;
        unknown[1] = 3;
        assert_eq!(read(&unknown, &frame, 14), Err(Malformed::UnknownKind));
        let mut sizeless = header;
        sizeless[4..6].fill(0);
        assert_eq!(read(&sizeless, &frame, 14), Err(Malformed::Contradiction));
        let mut whole = header;
        whole[0] = DATA_VALID;
        assert_eq!(read(&whole, &frame, 14), Err(Malformed::Contradiction));
        let mut inside_link = header;
        inside_link[6..8].copy_from_slice(&13u16.to_ne_bytes());
        assert_eq!(read(&inside_link, &frame, 14), Err(Malformed::Outside));
    }
}
