//! Fragments a packet for a smaller MTU (RFC 791 §3.2, RFC 1812 §4.2.2.7): in order, as few as
//! possible, offsets in units of 8 bytes, options copied or not by their copy bit. Of IPv6 nothing
//! is fragmented on the way (RFC 8200 §5).

use super::packet::tlv_options;
use super::{Buffer, Packet, ParseError, checksum, ipv6};

/// The smallest MTU that a link may have (RFC 791): the longest header and 8 bytes of payload.
pub const MIN_MTU: u16 = 68;

/// Places in the IPv4 header.
const TOTAL_LENGTH: usize = 2;
const FRAGMENT: usize = 6;
const HEADER_CHECKSUM: usize = 10;
const OPTIONS: usize = 20;

/// More fragments follow, in the word at [`FRAGMENT`].
const MORE: u16 = 0x2000;

/// The fragments that the source of the IPv6 packet `packet` would have sent, of at most `limit` bytes
/// each (RFC 8200 §4.5). It has no extension headers, and its checksum is whole. `None` if it is no
/// such packet, or no fragment is that short.
pub fn at_source(packet: &[u8], limit: usize, identification: u32) -> Option<Vec<Vec<u8>>> {
    let (header, data) = packet.split_at_checked(ipv6::HEADER)?;
    let room = limit.checked_sub(ipv6::HEADER + ipv6::FRAGMENT_HEADER)? & !7;
    if room == 0 {
        return None;
    }
    let piece = |(number, part): (usize, &[u8])| {
        let offset = u16::try_from(number * room).ok()?;
        let more = usize::from(offset) + part.len() < data.len();
        let length = u16::try_from(ipv6::FRAGMENT_HEADER + part.len()).ok()?;
        let mut piece = Vec::with_capacity(ipv6::HEADER + usize::from(length));
        piece.extend_from_slice(header);
        piece[4..6].copy_from_slice(&length.to_be_bytes());
        piece[6] = ipv6::FRAGMENT;
        piece.extend_from_slice(&[header[6], 0]);
        piece.extend_from_slice(&(offset | u16::from(more)).to_be_bytes());
        piece.extend_from_slice(&identification.to_be_bytes());
        piece.extend_from_slice(part);
        Some(piece)
    };
    data.chunks(room).enumerate().map(piece).collect()
}

/// The fragments of one packet, written one after the other into a buffer of the caller's.
#[derive(Debug)]
pub struct Fragments<'a> {
    /// The link header, copied to each.
    link: &'a [u8],
    /// The IP header as it is, for the first.
    header: &'a [u8],
    /// The IP payload.
    payload: &'a [u8],
    /// The header of all but the first, and its length.
    later: [u8; 60],
    later_length: usize,
    mtu: usize,
    /// The packet's own place, if it is a fragment itself, in bytes.
    base: usize,
    /// The packet is a fragment that others follow.
    more: bool,
    /// Payload bytes written so far.
    done: usize,
    finished: bool,
}

impl<'a> Fragments<'a> {
    /// The fragments of the packet at `packet.bytes()[skip..]`, none above `mtu` bytes of IP. A
    /// packet that fits is its only fragment. A fragment may be fragmented again.
    ///
    /// # Errors
    /// As [`Packet::parse`]; [`ParseError::Fragment`] if the sender forbids it or the MTU is below
    /// [`MIN_MTU`]; [`ParseError::Offload`] if checksum or cutting are left to a device, which must
    /// be done first (`checksum::complete`, `Segments`).
    pub fn new(packet: &'a Buffer, skip: usize, mtu: u16) -> Result<Self, ParseError> {
        if packet.offload.checksum.is_some() || packet.offload.segment.is_some() {
            return Err(ParseError::Offload("to be finished before the packet is fragmented"));
        }
        let ip = packet.bytes().get(skip..).unwrap_or(&[]);
        let parsed = Packet::parse(ip, &packet.offload)?;
        if mtu < MIN_MTU {
            return Err(ParseError::Fragment("the MTU is below 68 bytes"));
        }
        if parsed.dont_fragment && parsed.length > u32::from(mtu) {
            return Err(ParseError::Fragment("the sender forbids fragmentation"));
        }
        let (header, payload) = ip[..parsed.length as usize].split_at(usize::from(parsed.header));
        // A packet of IPv6 fits, or has been refused.
        let (later, later_length) = if parsed.is_ipv6() { ([0; 60], 0) } else { later_header(header) };
        Ok(Fragments {
            link: &packet.bytes()[..skip],
            header,
            payload,
            later,
            later_length,
            mtu: usize::from(mtu),
            base: parsed.fragment.map_or(0, |fragment| usize::from(fragment.offset)),
            more: parsed.fragment.is_some_and(|fragment| fragment.more),
            done: 0,
            finished: false,
        })
    }

    /// Writes the next fragment into `out`, in place of what is there, link header and all. False
    /// when there is none left, or when `out` has less room than the fragment needs.
    pub fn write_next(&mut self, out: &mut Buffer) -> bool {
        let first = self.done == 0;
        let header = if first { self.header } else { &self.later[..self.later_length] };
        let rest = &self.payload[self.done..];
        let last = header.len() + rest.len() <= self.mtu;
        let length = if last { rest.len() } else { (self.mtu - header.len()) & !7 };
        let total = self.link.len() + header.len() + length;
        out.clear();
        if self.finished || out.spare().len() < total {
            return false;
        }
        let (link, ip) = out.spare()[..total].split_at_mut(self.link.len());
        link.copy_from_slice(self.link);
        ip[..header.len()].copy_from_slice(header);
        ip[header.len()..].copy_from_slice(&rest[..length]);
        if !(first && last) {
            // The place is at most 65535 / 8 and so has 13 bits.
            let place = ((self.base + self.done) / 8) as u16;
            let more = if self.more || !last { MORE } else { 0 };
            write_place(&mut ip[..header.len()], header.len() + length, place | more);
        }
        out.set_len(total);
        self.done += length;
        self.finished = last;
        true
    }
}

/// All fragments of an IP packet, each in bytes of its own.
///
/// # Errors
/// As [`Fragments::new`].
pub fn fragments(packet: &[u8], mtu: u16) -> Result<Vec<Vec<u8>>, ParseError> {
    let buffer = Buffer::from_bytes(packet);
    let mut cut = Fragments::new(&buffer, 0, mtu)?;
    let mut out = Buffer::with_capacity(packet.len());
    let mut all = Vec::new();
    while cut.write_next(&mut out) {
        all.push(out.bytes().to_vec());
    }
    Ok(all)
}

/// Writes total length, place and checksum into a fragment's header.
fn write_place(header: &mut [u8], total: usize, place: u16) {
    let mut put = |at: usize, word: u16| header[at..at + 2].copy_from_slice(&word.to_be_bytes());
    // Not above the total length of the packet that it is a part of.
    put(TOTAL_LENGTH, total as u16);
    put(FRAGMENT, place);
    put(HEADER_CHECKSUM, 0);
    let sum = checksum::internet(header);
    header[HEADER_CHECKSUM..HEADER_CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
}

/// The header of all fragments but the first: options with the copy bit only, padded to whole
/// words.
fn later_header(header: &[u8]) -> ([u8; 60], usize) {
    const COPIED: u8 = 0x80;
    let mut later = [0; 60];
    later[..OPTIONS].copy_from_slice(&header[..OPTIONS]);
    let mut end = OPTIONS;
    let options = &header[OPTIONS..];
    for (kind, at, length) in tlv_options(options) {
        if kind & COPIED != 0 {
            later[end..end + length].copy_from_slice(&options[at..at + length]);
            end += length;
        }
    }
    let end = end.next_multiple_of(4);
    later[0] = 0x40 | (end / 4) as u8;
    (later, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_options_with_the_copy_bit_go_on() {
        let mut header = vec![0x4b; 20];
        // Record route (not copied), no operation, router alert (copied), security (copied).
        header.extend([7, 7, 4, 0, 0, 0, 0, 1, 0x94, 4, 0, 0, 0x82, 3, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let (later, length) = later_header(&header);
        assert_eq!(length, 28);
        assert_eq!(later[0], 0x47);
        assert_eq!(later[20..28], [0x94, 4, 0, 0, 0x82, 3, 9, 0]);
    }
}
