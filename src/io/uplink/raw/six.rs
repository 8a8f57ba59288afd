//! IPv6 by raw sockets, which are given what stands behind the IPv6 headers, reassembled.
//!
//! The header is built again from what the kernel tells beside each packet: addresses, hop limit,
//! traffic class and flow label. Extension headers that the sender put in are gone with it; but for
//! the fragment header none of them concerns a receiver's transport. A datagram that was put
//! together from fragments is cut into fragments again, by one identification, since nobody behind
//! us may do so (RFC 8200 §5).

use super::{TCP, Unusable};
use crate::io::sys::raw6;
use crate::wire::{Buffer, Segment, SegmentKind, checksum, fragment};
use std::io;
use std::os::fd::AsFd;

/// Length of an IPv6 header.
pub(super) const HEADER: usize = 40;
const CWR: u8 = 0x80;

/// Receives one packet of a socket of the IP protocol numbered `protocol`, with a header as it had;
/// whether it was put together from fragments.
///
/// # Errors
/// As [`raw6::receive`]; `InvalidData` for one that does not fit an IPv6 packet.
pub(super) fn receive(socket: impl AsFd, protocol: u8, buffer: &mut Buffer) -> io::Result<bool> {
    let spare = buffer.spare();
    let (header, behind) = spare.split_at_mut_checked(HEADER).ok_or(io::ErrorKind::InvalidData)?;
    let beside = raw6::receive(socket, behind)?;
    let length = u16::try_from(beside.length).ok().filter(|_| !beside.truncated);
    let length = length.ok_or(io::ErrorKind::InvalidData)?;
    header[..4].copy_from_slice(&(6 << 28 | beside.flow_information).to_be_bytes());
    header[4..6].copy_from_slice(&length.to_be_bytes());
    header[6] = protocol;
    header[7] = beside.hop_limit;
    header[8..24].copy_from_slice(&beside.source.octets());
    header[24..40].copy_from_slice(&beside.destination.octets());
    buffer.set_len(HEADER + usize::from(length));
    Ok(beside.reassembled)
}

/// Describes as offload what is unfinished in the packet, as its IPv4 namesake does. A datagram of
/// more than `limit` bytes that was `reassembled`, or that nobody could have sent whole because it
/// has more than `sent`, is cut: its first fragment is in the buffer then, the others are returned.
pub(super) fn describe(
    buffer: &mut Buffer,
    limit: usize,
    sent: usize,
    reassembled: bool,
    identification: u32,
) -> Result<Vec<Vec<u8>>, Unusable> {
    let total = buffer.len();
    let protocol = *buffer.bytes().get(6).filter(|_| total > HEADER).ok_or(Unusable::Malformed)?;
    checksum::mark_looped(buffer, 0);
    if total <= limit {
        return Ok(Vec::new());
    }
    if protocol != TCP || reassembled {
        checksum::complete(buffer, 0);
        return if total > sent || reassembled { cut(buffer, limit, identification) } else { Ok(Vec::new()) };
    }
    if buffer.offload.checksum.is_none() && total > sent {
        if checksum::transport_is_right(buffer.bytes()) != Some(true) {
            return Err(Unusable::Checksum);
        }
        checksum::make_partial(buffer, 0);
    }
    if buffer.offload.checksum.is_some() {
        buffer.offload.segment = Some(merged(buffer.bytes(), limit).ok_or(Unusable::Malformed)?);
    }
    Ok(Vec::new())
}

/// How to cut a merged TCP packet so that its parts have at most `limit` bytes.
fn merged(packet: &[u8], limit: usize) -> Option<Segment> {
    let tcp = usize::from(packet.get(HEADER + 12)? >> 4) * 4;
    let headers = HEADER + tcp;
    if tcp < 20 || headers > packet.len() {
        return None;
    }
    Some(Segment {
        kind: SegmentKind::Tcp6,
        size: u16::try_from(limit.checked_sub(headers).filter(|size| *size > 0)?).ok()?,
        header: u16::try_from(headers).ok()?,
        ecn: packet[HEADER + 13] & CWR != 0,
    })
}

/// Cuts the packet into fragments of at most `limit` bytes.
fn cut(buffer: &mut Buffer, limit: usize, identification: u32) -> Result<Vec<Vec<u8>>, Unusable> {
    let pieces = fragment::at_source(buffer.bytes(), limit, identification).ok_or(Unusable::Malformed)?;
    let mut pieces = pieces.into_iter();
    if let Some(first) = pieces.next() {
        buffer.fill(&first);
    }
    Ok(pieces.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ipv6::FRAGMENT;

    fn packet(protocol: u8, length: usize) -> Buffer {
        let mut bytes = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
        bytes.resize(length, 0xab);
        let payload = u16::try_from(length - HEADER).unwrap();
        bytes[4..6].copy_from_slice(&payload.to_be_bytes());
        Buffer::from_bytes(&bytes)
    }

    #[test]
    fn a_reassembled_datagram_is_cut_into_fragments_again() {
        let mut buffer = packet(58, 4000);
        let whole = buffer.bytes().to_vec();
        let rest = describe(&mut buffer, 1400, 1500, false, 7).unwrap_or_else(|_| panic!("it is whole"));
        let mut data = Vec::new();
        for (number, piece) in std::iter::once(buffer.bytes().to_vec()).chain(rest).enumerate() {
            assert!(piece.len() <= 1400);
            assert_eq!(usize::from(u16::from_be_bytes([piece[4], piece[5]])), piece.len() - HEADER);
            assert_eq!((piece[6], piece[40], &piece[44..48]), (FRAGMENT, 58, &[0, 0, 0, 7][..]));
            let place = u16::from_be_bytes([piece[42], piece[43]]);
            assert_eq!((usize::from(place & !7), place & 1), (data.len(), u16::from(number < 2)));
            data.extend_from_slice(&piece[48..]);
        }
        assert_eq!(data, whole[HEADER..]);
        let mut fitting = packet(17, 1450);
        let rest = describe(&mut fitting, 1400, 1500, true, 7).unwrap_or_else(|_| panic!("it is whole"));
        assert_eq!((fitting.bytes()[6], rest.len()), (FRAGMENT, 1), "its sender sent fragments");
        let mut genuine = packet(58, 1450);
        assert!(describe(&mut genuine, 1400, 1500, false, 7).is_ok_and(|rest| rest.is_empty()));
        assert_eq!(genuine.bytes()[6], 58, "too big for the inside, which the gateway tells");
    }

    #[test]
    fn no_bytes_are_too_odd() {
        for protocol in [6, 17, 58] {
            let whole = packet(protocol, 2000);
            for length in 0..100 {
                let _ = describe(&mut Buffer::from_bytes(&whole.bytes()[..length]), 60, 1500, false, 0);
            }
            for at in 0..60 {
                for value in 0..=255 {
                    let mut odd = whole.clone();
                    odd.bytes_mut()[at] = value;
                    let _ = describe(&mut odd, 90, 1500, value & 1 != 0, 0);
                }
            }
        }
    }
}
