//! The Internet checksum: summed whole (RFC 1071), changed in place (RFC 1624), finished where a
//! sender left only the pseudo-header sum.
//!
//! A checksum field can hold one of three things, and every rewrite has to know which:
//!
//! * a **whole** checksum: the complement of the sum of pseudo header, header and data. A change
//!   of addresses *and* of ports goes into it, as a [`Difference`].
//! * a **partial** one (`Offload::checksum`): the sum of the pseudo header alone, *not*
//!   complemented. Only the addresses are in it. A later device sums the rest.
//! * **none**: 0 in UDP (RFC 768). It stays 0; a checksum that computes to 0 is written as 0xFFFF,
//!   its other form. Over IPv6 only tunnels may send that, but a box on the way must let it pass and
//!   must not put another in its place (RFC 6936 §5): it cannot know who has agreed on what.
//!
//! A change that cancels out leaves a checksum as it stands, bit by bit: that is how a prefix
//! translation that is checksum-neutral (RFC 6296 §2.6) needs no transport header at all.
//!
//! Whole checksums are never recomputed on the way through: a packet that was damaged before it
//! reached us must still look damaged behind us.

use super::ipv6::{self, Chain};
use super::{Buffer, PartialChecksum};
use crate::flow::Protocol;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Sum of `bytes` as big-endian 16-bit words in ones' complement; an odd last byte counts as the
/// high half of a word.
pub fn sum(bytes: &[u8]) -> u16 {
    // Ones' complement addition does not care about byte order or word size (RFC 1071 §2), so
    // this adds native 32-bit words in 64-bit lanes, which cannot overflow below 16 GiB.
    let (blocks, rest) = bytes.as_chunks::<32>();
    let mut lanes = [0u64; 8];
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut total: u64 = lanes.iter().sum();
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    if !rest.is_empty() {
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        total += u64::from(u32::from_ne_bytes(last));
    }
    u16::from_be(fold(total))
}

/// Adds the carries back in until 16 bits are left.
const fn fold(total: u64) -> u16 {
    let total = (total >> 32) + (total & 0xffff_ffff);
    let total = (total >> 16) + (total & 0xffff);
    let total = (total >> 16) + (total & 0xffff);
    let total = (total >> 16) + (total & 0xffff);
    total as u16
}

/// Ones' complement sum of two words.
pub const fn add(a: u16, b: u16) -> u16 {
    let (total, carry) = a.overflowing_add(b);
    total + carry as u16
}

/// The checksum of `bytes` that contain their own checksum field: 0 if that is right. With the
/// field zero, what belongs into it.
pub fn internet(bytes: &[u8]) -> u16 {
    !sum(bytes)
}

/// Sum of the IPv4 pseudo header, uncomplemented (RFC 9293 §3.1). `length` is that of transport
/// header and data.
pub fn pseudo_header(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, length: u16) -> u16 {
    let half =
        |address: Ipv4Addr| (u64::from(address.to_bits()) >> 16) + u64::from(address.to_bits() & 0xffff);
    fold(half(source) + half(destination) + u64::from(protocol) + u64::from(length))
}

/// Sum of the IPv6 pseudo header, uncomplemented (RFC 8200 §8.1). `length` is that of transport
/// header and data; `protocol` is theirs, whatever extension headers are before them.
pub fn pseudo_header_ipv6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, length: u32) -> u16 {
    let addresses = add(sum(&source.octets()), sum(&destination.octets()));
    fold(u64::from(addresses) + u64::from(protocol) + u64::from(length))
}

/// Sum of the pseudo header of these addresses, which are of one family.
pub(super) fn pseudo(source: IpAddr, destination: IpAddr, protocol: Protocol, length: u16) -> u16 {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            pseudo_header(source, destination, protocol.ipv4_number(), length)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            pseudo_header_ipv6(source, destination, protocol.ipv6_number(), length.into())
        }
        _ => unreachable!("both addresses of a header are of its family"),
    }
}

/// The checksum of an ICMP message that contains its own checksum field: 0 if that is right. With
/// the field zero, what belongs into it. The message of IPv6 has a pseudo header (RFC 4443 §2.3).
pub fn icmp(source: IpAddr, destination: IpAddr, message: &[u8]) -> u16 {
    match (source, destination) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let number = Protocol::Icmp.ipv6_number();
            !add(pseudo_header_ipv6(source, destination, number, message.len() as u32), sum(message))
        }
        _ => internet(message),
    }
}

/// Where a transport header keeps its checksum, if the pseudo header is summed into it: TCP, UDP,
/// DCCP (RFC 4340 §9.1) and UDP-Lite (RFC 3828 §3.1).
pub const fn field(protocol: Protocol) -> Option<usize> {
    match protocol {
        Protocol::Tcp => Some(16),
        Protocol::Udp | Protocol::Other(33 | 136) => Some(6),
        Protocol::Icmp | Protocol::Other(_) => None,
    }
}

/// A computed checksum as it is written: 0 means "none" in UDP and is forbidden in UDP-Lite.
pub const fn written(protocol: Protocol, checksum: u16) -> u16 {
    match (protocol, checksum) {
        (Protocol::Udp | Protocol::Other(136), 0) => 0xffff,
        _ => checksum,
    }
}

/// The sum of changes to 16-bit words, to be worked into a checksum that covers them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Difference(u32);

impl Difference {
    /// The word `old` became `new`. Up to 30000 changes can be gathered.
    #[inline]
    pub const fn word(&mut self, old: u16, new: u16) {
        self.0 += !old as u32 + new as u32;
    }

    /// The four bytes `old` became `new`, at an even place.
    #[inline]
    pub const fn address(&mut self, old: u32, new: u32) {
        self.word((old >> 16) as u16, (new >> 16) as u16);
        self.word(old as u16, new as u16);
    }

    /// The sixteen bytes `old` became `new`, at an even place.
    #[inline]
    pub const fn address_ipv6(&mut self, old: u128, new: u128) {
        let mut shift = 0;
        while shift < 128 {
            self.address((old >> shift) as u32, (new >> shift) as u32);
            shift += 32;
        }
    }

    /// Both changes.
    #[must_use]
    pub const fn and(self, other: Difference) -> Difference {
        Difference(self.0 + other.0)
    }

    /// What a whole checksum becomes: `HC' = ~(~HC + ~m + m')` (RFC 1624 equation 3).
    #[inline]
    pub const fn whole(self, checksum: u16) -> u16 {
        !self.partial(!checksum)
    }

    /// What an uncomplemented sum becomes.
    #[inline]
    pub const fn partial(self, sum: u16) -> u16 {
        // 0xffff is zero's other form: to add it would turn a sum of 0 into the other one.
        match fold(self.0 as u64) {
            0xffff => sum,
            change => add(sum, change),
        }
    }
}

/// Whether the transport checksum of a whole packet (no fragment, no offload, padding removed) is
/// right. `None` if it has none that we know, or the packet is cut short.
pub fn transport_is_right(packet: &[u8]) -> Option<bool> {
    let view = View::of(packet)?;
    let field = match view.protocol {
        Protocol::Icmp => return Some(icmp(view.source, view.destination, view.transport) == 0),
        protocol => field(protocol)?,
    };
    if view.protocol == Protocol::Udp && view.word(field)? == 0 {
        return None;
    }
    // UDP-Lite and DCCP may cover less than everything: not judged here.
    if matches!(view.protocol, Protocol::Other(_)) || view.word(field).is_none() {
        return None;
    }
    Some(add(view.pseudo(), sum(view.transport)) == 0xffff)
}

/// Makes a partial checksum whole, in the packet at `buffer[skip..]`, and clears
/// `offload.checksum`. Does nothing to a packet without one, nor to a super-frame: that is
/// finished by being cut (`Segments`).
pub fn complete(buffer: &mut Buffer, skip: usize) {
    let Some(partial) = buffer.offload.checksum else { return };
    if buffer.offload.segment.is_some() {
        return;
    }
    let Some(packet) = buffer.bytes_mut().get_mut(skip..) else { return };
    let Some((protocol, length)) = extent(packet) else { return };
    let length = length.min(packet.len());
    let Some(part) = packet.get_mut(usize::from(partial.start)..length) else { return };
    let field = usize::from(partial.offset);
    if field + 2 > part.len() {
        return;
    }
    // The pseudo-header sum is in the field and so in this sum.
    let checksum = written(protocol, internet(part));
    part[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    buffer.offload.checksum = None;
}

/// The transport protocol of a packet of either family, and its length by its length field.
fn extent(packet: &[u8]) -> Option<(Protocol, usize)> {
    if packet.first()? >> 4 == 6 && packet.len() >= ipv6::HEADER {
        let chain = Chain::read(packet, "IPv6 extension header").ok()?;
        return Some((Protocol::from_ipv6_number(chain.protocol), ipv6::length(packet)));
    }
    let length = u16::from_be_bytes(*packet.get(2..)?.first_chunk()?);
    Some((Protocol::from_ipv4_number(*packet.get(9)?), usize::from(length)))
}

/// Recognises a packet whose checksum field holds only the pseudo-header sum although nothing says
/// so, which an `AF_INET` raw socket reads of a sender on the same host, and says so in
/// `offload.checksum`. Returns whether it was one. A whole checksum may have that value by chance,
/// so the packet is then summed: one whose checksum is right as it stands is left alone.
pub fn mark_looped(buffer: &mut Buffer, skip: usize) -> bool {
    if buffer.offload.checksum.is_some() || buffer.offload.verified {
        return false;
    }
    let Some(view) = buffer.bytes().get(skip..).and_then(View::of) else { return false };
    let (Protocol::Tcp | Protocol::Udp, Some(field)) = (view.protocol, field(view.protocol)) else {
        return false;
    };
    let pseudo = view.pseudo();
    if view.word(field) != Some(pseudo) || add(pseudo, sum(view.transport)) == 0xffff {
        return false;
    }
    let (Ok(start), Ok(offset)) = (u16::try_from(view.header), u16::try_from(field)) else { return false };
    buffer.offload.checksum = Some(PartialChecksum { start, offset });
    true
}

/// Writes the pseudo-header sum into the checksum field of the TCP or UDP packet at
/// `buffer[skip..]` and says so in `offload.checksum`: for a super-frame whose checksum the
/// receiving device verified and then left meaningless.
pub fn make_partial(buffer: &mut Buffer, skip: usize) {
    let Some(view) = buffer.bytes().get(skip..).and_then(View::of) else { return };
    let (Some(field), Ok(start)) = (field(view.protocol), u16::try_from(view.header)) else { return };
    let (pseudo, at) = (view.pseudo(), skip + view.header + field);
    if let Some(place) = buffer.bytes_mut().get_mut(at..at + 2) {
        place.copy_from_slice(&pseudo.to_be_bytes());
        buffer.offload.checksum = Some(super::PartialChecksum { start, offset: field as u16 });
    }
}

/// The parts of an unfragmented packet that its transport checksum is made of.
struct View<'a> {
    header: usize,
    source: IpAddr,
    destination: IpAddr,
    protocol: Protocol,
    transport: &'a [u8],
}

impl<'a> View<'a> {
    fn of(packet: &'a [u8]) -> Option<Self> {
        let mut view = match packet.first()? >> 4 {
            6 => View::of_ipv6(packet)?,
            _ => View::of_ipv4(packet)?,
        };
        if view.protocol == Protocol::Udp {
            // Bytes behind the datagram's own length are in neither sum nor pseudo header.
            let length = view.word(4)?;
            view.transport = view.transport.get(..usize::from(length)).unwrap_or(view.transport);
        }
        Some(view)
    }

    fn of_ipv4(packet: &'a [u8]) -> Option<Self> {
        let ip = etherparse::Ipv4HeaderSlice::from_slice(packet).ok()?;
        let header = ip.slice().len();
        let whole = !ip.is_fragmenting_payload();
        whole.then_some(View {
            header,
            source: ip.source_addr().into(),
            destination: ip.destination_addr().into(),
            protocol: Protocol::from_ipv4_number(ip.protocol().0),
            transport: packet.get(header..usize::from(ip.total_len()))?,
        })
    }

    fn of_ipv6(packet: &'a [u8]) -> Option<Self> {
        let ip = etherparse::Ipv6HeaderSlice::from_slice(packet).ok()?;
        let packet = packet.get(..ipv6::length(packet))?;
        let chain = Chain::read(packet, "IPv6 extension header").ok()?;
        // On its way through a routing header a packet has not the destination it is summed with.
        let whole = chain.fragment.is_none() && !chain.source_routed;
        whole.then_some(View {
            header: chain.header,
            source: ip.source_addr().into(),
            destination: ip.destination_addr().into(),
            protocol: Protocol::from_ipv6_number(chain.protocol),
            transport: packet.get(chain.header..)?,
        })
    }

    fn word(&self, at: usize) -> Option<u16> {
        self.transport.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
    }

    fn pseudo(&self) -> u16 {
        let length = u16::try_from(self.transport.len()).expect("shorter than a 16-bit length field");
        pseudo(self.source, self.destination, self.protocol, length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow_sum(bytes: &[u8]) -> u16 {
        bytes.chunks(2).fold(0, |total, pair| {
            add(total, u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))
        })
    }

    #[test]
    fn sums_of_every_length_agree_with_the_definition() {
        let bytes: Vec<u8> = (0..200u32).map(|i| (i * 151 + 77) as u8).collect();
        for length in 0..bytes.len() {
            assert_eq!(sum(&bytes[..length]), slow_sum(&bytes[..length]), "{length} bytes");
        }
        assert_eq!(sum(&[0xff; 65535]), slow_sum(&[0xff; 65535]));
        assert_eq!(sum(&[0; 64]), 0);
    }

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624() {
        let mut change = Difference::default();
        change.word(0x5555, 0x3285);
        assert_eq!(change.whole(0xdd2f), 0x0000);
    }

    #[test]
    fn a_change_that_cancels_out_leaves_every_checksum_as_it_stands() {
        // The example of RFC 6296 §3.4: FD01:203:405:1::1234 and
        // 2001:DB8:1:D550::1234.
        let (inside, outside): (Ipv6Addr, Ipv6Addr) =
            ("fd01:203:405:1::1234".parse().unwrap(), "2001:db8:1:d550::1234".parse().unwrap());
        let mut change = Difference::default();
        change.address_ipv6(inside.to_bits(), outside.to_bits());
        for checksum in [0, 1, 0x1234, 0xfffe, 0xffff] {
            assert_eq!((change.whole(checksum), change.partial(checksum)), (checksum, checksum));
        }
    }

    #[test]
    fn a_computed_zero_is_written_by_protocol() {
        assert_eq!(written(Protocol::Udp, 0), 0xffff);
        assert_eq!(written(Protocol::Tcp, 0), 0);
        assert_eq!(written(Protocol::Udp, 5), 5);
    }
}
