//! Packets of both families as a requirement writes them down and as it finds them on a wire.
//!
//! Built and read here by hand, with checksums of its own: the judge shares no code with what it
//! judges.

mod header;

pub use header::Extension;

use crate::io::netlink::Family;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of ICMPv6.
pub const ICMP6: u8 = 58;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;

/// TCP flag.
pub const FIN: u8 = 1;
/// TCP flag.
pub const SYN: u8 = 2;
/// TCP flag.
pub const RST: u8 = 4;
/// TCP flag.
pub const ACK: u8 = 16;

/// A packet. Its payload holds the transport header, with the checksum as it was or will be on the
/// wire; lengths, the IPv4 header checksum and the IPv6 fragment header follow from the rest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Type of service, or traffic class: DSCP and ECN.
    pub tos: u8,
    /// Flow label; 0 for IPv4.
    pub flow: u32,
    /// Identification; 16 bits with IPv4, and with IPv6 of a fragment only.
    pub id: u32,
    /// Don't fragment; never set with IPv6, where it is the rule.
    pub df: bool,
    /// More fragments follow.
    pub mf: bool,
    /// Fragment offset in bytes.
    pub offset: u16,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Protocol number: the last next header.
    pub protocol: u8,
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// IPv4 options, a multiple of 4 bytes and at most 40.
    pub options: Vec<u8>,
    /// IPv6 extension headers in order; that of a fragment follows from the fields above, and comes
    /// after them.
    pub extensions: Vec<Extension>,
    /// All after the headers.
    pub payload: Vec<u8>,
}

/// A number that no packet of this process has carried before.
pub fn fresh() -> u32 {
    static LAST: AtomicU32 = AtomicU32::new(0x1000);
    LAST.fetch_add(1, Ordering::Relaxed)
}

/// `length` bytes that no packet of this process has carried before; tell them apart by the first
/// four, if there are as many.
pub fn data(length: usize) -> Vec<u8> {
    let number = fresh().to_be_bytes();
    number.into_iter().chain((4..length).map(|at| at as u8)).take(length).collect()
}

/// `address:port`.
pub fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

/// The ones' complement sum of RFC 1071, complemented.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    !(sum as u16)
}

/// The pseudo header of either family: the length in four bytes where IPv4 has two sums the same.
fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(40);
    for address in [source, destination] {
        match address {
            IpAddr::V4(ip) => bytes.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => bytes.extend_from_slice(&ip.octets()),
        }
    }
    bytes.extend_from_slice(&(length as u32).to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, protocol]);
    bytes
}

fn word(bytes: &[u8], at: usize) -> u16 {
    match bytes.get(at..at + 2) {
        Some(pair) => u16::from_be_bytes([pair[0], pair[1]]),
        None => 0,
    }
}

fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from(word(bytes, at)) << 16 | u32::from(word(bytes, at + 2))
}

/// A packet of `protocol` with this payload and plain header fields.
pub fn ip(
    source: impl Into<IpAddr>,
    destination: impl Into<IpAddr>,
    protocol: u8,
    payload: Vec<u8>,
) -> Packet {
    let (source, destination) = (source.into(), destination.into());
    let id = if source.is_ipv4() { u32::from(fresh() as u16 | 1) } else { 0 };
    Packet {
        tos: 0,
        flow: 0,
        id,
        df: false,
        mf: false,
        offset: 0,
        ttl: 64,
        protocol,
        source,
        destination,
        options: Vec::new(),
        extensions: Vec::new(),
        payload,
    }
}

/// A datagram with fresh data.
pub fn udp(from: SocketAddr, to: SocketAddr) -> Packet {
    udp_with(from, to, &data(24))
}

/// A datagram with this data.
pub fn udp_with(from: SocketAddr, to: SocketAddr, data: &[u8]) -> Packet {
    let length = 8 + data.len();
    let mut payload = Vec::with_capacity(length);
    for word in [from.port(), to.port(), length as u16, 0] {
        payload.extend_from_slice(&word.to_be_bytes());
    }
    payload.extend_from_slice(data);
    let mut packet = ip(from.ip(), to.ip(), UDP, payload);
    packet.sum();
    packet
}

/// A segment with these flags and numbers, a window of 64240 and this data.
pub fn tcp(from: SocketAddr, to: SocketAddr, flags: u8, seq: u32, ack: u32, data: &[u8]) -> Packet {
    tcp_with(from, to, flags, seq, ack, &[], data)
}

/// The same with TCP options, a multiple of 4 bytes.
pub fn tcp_with(
    from: SocketAddr,
    to: SocketAddr,
    flags: u8,
    seq: u32,
    ack: u32,
    options: &[u8],
    data: &[u8],
) -> Packet {
    let mut payload = Vec::with_capacity(20 + options.len() + data.len());
    payload.extend_from_slice(&from.port().to_be_bytes());
    payload.extend_from_slice(&to.port().to_be_bytes());
    payload.extend_from_slice(&seq.to_be_bytes());
    payload.extend_from_slice(&ack.to_be_bytes());
    payload.extend_from_slice(&[((20 + options.len()) << 2) as u8, flags]);
    payload.extend_from_slice(&64240u16.to_be_bytes());
    payload.extend_from_slice(&[0; 4]);
    payload.extend_from_slice(options);
    payload.extend_from_slice(data);
    let mut packet = ip(from.ip(), to.ip(), TCP, payload);
    packet.df = packet.source.is_ipv4();
    packet.sum();
    packet
}

/// An ICMP message: type, code, the four bytes after the checksum, and what follows.
pub fn icmp(
    source: impl Into<IpAddr>,
    destination: impl Into<IpAddr>,
    kind: u8,
    code: u8,
    rest: [u8; 4],
    data: &[u8],
) -> Packet {
    let source = source.into();
    let mut payload = vec![kind, code, 0, 0];
    payload.extend_from_slice(&rest);
    payload.extend_from_slice(data);
    let mut packet = ip(source, destination, if source.is_ipv4() { ICMP } else { ICMP6 }, payload);
    packet.sum();
    packet
}

/// A query of type `kind` (8 echo, 13 timestamp; 128 with IPv6) or its reply (0, 14; 129) with this
/// identifier.
pub fn query(
    source: impl Into<IpAddr>,
    destination: impl Into<IpAddr>,
    kind: u8,
    id: u16,
    data: &[u8],
) -> Packet {
    let [a, b] = id.to_be_bytes();
    icmp(source, destination, kind, 0, [a, b, 0, 1], data)
}

/// An echo request with fresh data.
pub fn echo(source: impl Into<IpAddr>, destination: impl Into<IpAddr>, id: u16) -> Packet {
    let source = source.into();
    query(source, destination, if source.is_ipv4() { 8 } else { 128 }, id, &data(24))
}

/// The reply to an echo request, as its receiver would send it.
pub fn pong(ping: &Packet) -> Packet {
    let kind = if ping.source.is_ipv4() { 0 } else { 129 };
    query(ping.destination, ping.source, kind, ping.from().port(), ping.payload.get(8..).unwrap_or(&[]))
}

/// An ICMP error about `quoted`, `rest` in the header: with IPv4 its header and eight bytes, with IPv6
/// as much as fits the smallest MTU (RFC 4443 section 2.4).
pub fn error(
    source: impl Into<IpAddr>,
    destination: impl Into<IpAddr>,
    kind: u8,
    code: u8,
    rest: [u8; 4],
    quoted: &Packet,
) -> Packet {
    let bytes = quoted.bytes();
    let keep = if quoted.source.is_ipv4() { 20 + quoted.options.len() + 8 } else { 1280 - 48 };
    icmp(source, destination, kind, code, rest, &bytes[..keep.min(bytes.len())])
}

/// What an ICMP error says, in the numbers of both families.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// There is no way to the network.
    Network,
    /// The host does not answer.
    Host,
    /// Nobody listens on the port.
    Port,
    /// It is not allowed.
    Prohibited,
    /// The hops are used up.
    Hops,
    /// Fragments are missing.
    Reassembly,
    /// A header field makes no sense.
    Parameter,
    /// It is larger than this, in bytes.
    TooBig(u16),
}

impl Told {
    /// Type, code, and the four bytes after the checksum.
    pub fn numbers(self, family: Family) -> (u8, u8, [u8; 4]) {
        let (four, six) = match self {
            Told::Network => ((3, 0), (1, 0)),
            Told::Host => ((3, 1), (1, 3)),
            Told::Port => ((3, 3), (1, 4)),
            Told::Prohibited => ((3, 13), (1, 1)),
            Told::Hops => ((11, 0), (3, 0)),
            Told::Reassembly => ((11, 1), (3, 1)),
            Told::Parameter => ((12, 0), (4, 0)),
            Told::TooBig(_) => ((3, 4), (2, 0)),
        };
        let (kind, code) = if family == Family::Four { four } else { six };
        let [a, b] = if let Told::TooBig(mtu) = self { mtu.to_be_bytes() } else { [0; 2] };
        (kind, code, [0, 0, a, b])
    }
}

impl Packet {
    /// Puts the right transport checksum in, after a change.
    pub fn sum(&mut self) {
        let Some(at) = self.checksum_at() else { return };
        self.payload[at..at + 2].fill(0);
        let mut sum = self.transport_sum();
        if self.protocol == UDP && sum == 0 {
            sum = 0xffff;
        }
        self.payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }

    /// Where the transport checksum is, if there is one.
    pub fn checksum_at(&self) -> Option<usize> {
        let at = match self.protocol {
            ICMP | ICMP6 => 2,
            TCP => 16,
            UDP => 6,
            _ => return None,
        };
        (self.offset == 0 && self.payload.len() >= at + 2).then_some(at)
    }

    fn transport_sum(&self) -> u16 {
        if self.protocol == ICMP {
            return checksum(&[&self.payload]);
        }
        checksum(&[&pseudo(self.source, self.destination, self.protocol, self.payload.len()), &self.payload])
    }

    /// What is wrong with the transport checksum of a whole packet, if anything. UDP over IPv6 has
    /// one always.
    pub fn bad_sum(&self) -> Option<String> {
        let at = self.checksum_at()?;
        let none = self.protocol == UDP && word(&self.payload, at) == 0;
        if self.is_fragment() || (none && self.source.is_ipv4()) {
            return None;
        }
        if none {
            return Some(format!("UDP without a checksum over IPv6: {self}"));
        }
        (!matches!(self.transport_sum(), 0 | 0xffff)).then(|| format!("wrong transport checksum: {self}"))
    }

    /// Whether it is a piece of a datagram.
    pub fn is_fragment(&self) -> bool {
        self.mf || self.offset > 0
    }

    /// Source address and port; the identifier of an ICMP request; port 0 where there is none.
    pub fn from(&self) -> SocketAddr {
        let port = match self.protocol {
            TCP | UDP if self.offset == 0 => word(&self.payload, 0),
            ICMP if self.offset == 0 && matches!(self.kind(), 8 | 13) => word(&self.payload, 4),
            ICMP6 if self.offset == 0 && self.kind() == 128 => word(&self.payload, 4),
            _ => 0,
        };
        at(self.source, port)
    }

    /// Destination address and port; the identifier of an ICMP reply; port 0 where there is none.
    pub fn to(&self) -> SocketAddr {
        let port = match self.protocol {
            TCP | UDP if self.offset == 0 => word(&self.payload, 2),
            ICMP if self.offset == 0 && matches!(self.kind(), 0 | 14) => word(&self.payload, 4),
            ICMP6 if self.offset == 0 && self.kind() == 129 => word(&self.payload, 4),
            _ => 0,
        };
        at(self.destination, port)
    }

    /// ICMP type.
    pub fn kind(&self) -> u8 {
        self.payload.first().copied().unwrap_or(255)
    }

    /// ICMP code.
    pub fn code(&self) -> u8 {
        self.payload.get(1).copied().unwrap_or(255)
    }

    /// Whether it is an ICMP error (or redirect) about another packet.
    pub fn is_error(&self) -> bool {
        let kind = match self.protocol {
            ICMP => matches!(self.kind(), 3 | 4 | 5 | 11 | 12),
            ICMP6 => self.kind() < 128,
            _ => false,
        };
        kind && self.offset == 0
    }

    /// Whether it is a Destination Unreachable, whatever the reason.
    pub fn is_unreachable(&self) -> bool {
        self.is_error() && self.kind() == if self.protocol == ICMP { 3 } else { 1 }
    }

    /// Whether it is this ICMP error.
    pub fn is(&self, kind: u8, code: u8) -> bool {
        self.is_error() && self.kind() == kind && self.code() == code
    }

    /// Whether it is the ICMP error that says this, whatever MTU it tells.
    pub fn tells(&self, told: Told) -> bool {
        let (kind, code, _) = told.numbers(self.family());
        self.is(kind, code)
    }

    /// The family it is of.
    pub fn family(&self) -> Family {
        if self.source.is_ipv4() { Family::Four } else { Family::Six }
    }

    /// The next-hop MTU of a 3/4, or of a Packet Too Big.
    pub fn mtu(&self) -> u32 {
        if self.protocol == ICMP6 { long(&self.payload, 4) } else { word(&self.payload, 6).into() }
    }

    /// TCP flags.
    pub fn flags(&self) -> u8 {
        if self.protocol == TCP { self.payload.get(13).copied().unwrap_or(0) } else { 0 }
    }

    /// TCP sequence number.
    pub fn seq(&self) -> u32 {
        long(&self.payload, 4)
    }

    /// The packet that an ICMP error quotes.
    pub fn quote(&self) -> Option<Packet> {
        if self.is_error() { Packet::read(self.payload.get(8..)?) } else { None }
    }

    /// The quoted packet's bytes.
    pub fn quoted_bytes(&self) -> &[u8] {
        self.payload.get(8..).unwrap_or(&[])
    }

    /// What is left of it on its way through a translator: by this it is found again.
    pub fn fingerprint(&self) -> Vec<u8> {
        let mut print = vec![self.protocol, (self.offset >> 8) as u8, self.offset as u8];
        let payload = &self.payload;
        let rest: &[u8] = match self.protocol {
            _ if self.offset > 0 => payload,
            UDP => payload.get(8..).unwrap_or(payload),
            TCP => {
                print.extend_from_slice(payload.get(4..16).unwrap_or(payload));
                payload.get(20..).unwrap_or(&[])
            }
            ICMP | ICMP6 if self.is_error() => payload.get(..2).unwrap_or(payload),
            ICMP | ICMP6 => {
                print.extend_from_slice(payload.get(..2).unwrap_or(payload));
                payload.get(6..).unwrap_or(&[])
            }
            _ => payload,
        };
        print.extend_from_slice(rest);
        print
    }

    /// What a translator has changed of `sent` that it must not, `self` being what came out.
    pub fn changed_since(&self, sent: &Packet) -> Option<String> {
        let hops = sent.ttl.wrapping_sub(self.ttl);
        let fields = [
            ("TOS", self.tos != sent.tos),
            ("flow label", self.flow != sent.flow),
            ("DF", self.df != sent.df && sent.source.is_ipv4()),
            ("MF", self.mf != sent.mf),
            ("fragment offset", self.offset != sent.offset),
            ("IP options", self.options != sent.options),
            ("extension headers", self.extensions != sent.extensions),
            ("length", self.payload.len() != sent.payload.len()),
            ("TTL by other than a hop", !(1..=2).contains(&hops)),
        ];
        let field = fields.iter().find(|(_, changed)| *changed).map(|(name, _)| *name);
        let may_change: &[std::ops::Range<usize>] = match self.protocol {
            _ if self.offset > 0 => &[],
            UDP => &[0..4, 6..8],
            TCP => &[0..4, 16..18],
            ICMP | ICMP6 if self.is_error() => {
                return field.map(|name| format!("{name} changed: {sent} to {self}"));
            }
            // Checksum, then identifier.
            ICMP | ICMP6 => &[2..4, 4..6],
            _ => &[],
        };
        let byte = || {
            let pairs = self.payload.iter().zip(&sent.payload).enumerate();
            let mut changed =
                pairs.filter(|(at, (a, b))| a != b && !may_change.iter().any(|r| r.contains(at)));
            changed.next().map(|(at, _)| format!("payload byte {at}"))
        };
        let what = field.map(str::to_owned).or_else(byte)?;
        Some(format!("{what} changed: {sent} to {self}"))
    }

    /// Cuts it into fragments with at most `room` bytes of payload each, a multiple of 8.
    pub fn cut(&self, room: usize) -> Vec<Packet> {
        let id = if self.id == 0 { fresh() } else { self.id };
        let pieces = self.payload.chunks(room).enumerate();
        let last = self.payload.len().div_ceil(room) - 1;
        pieces
            .map(|(number, piece)| Packet {
                id,
                mf: number < last,
                offset: (number * room) as u16,
                payload: piece.to_vec(),
                ..self.clone()
            })
            .collect()
    }
}

/// The datagram that these fragments make, if they make one.
pub fn joined(pieces: &[Packet]) -> Option<Packet> {
    let mut pieces: Vec<&Packet> = pieces.iter().collect();
    pieces.sort_by_key(|piece| piece.offset);
    let first = *pieces.first()?;
    let mut whole = Packet { mf: false, payload: Vec::new(), ..first.clone() };
    for piece in &pieces {
        let same = piece.id == first.id
            && piece.source == first.source
            && piece.destination == first.destination
            && piece.protocol == first.protocol;
        if !same || usize::from(piece.offset) != whole.payload.len() {
            return None;
        }
        whole.payload.extend_from_slice(&piece.payload);
    }
    (!pieces.last()?.mf && first.offset == 0).then_some(whole)
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.offset > 0 {
            write!(f, "{} {} > {} later fragment", protocol(self.protocol), self.source, self.destination)?;
        } else if self.is_error() {
            let (name, kind, code) = (protocol(self.protocol), self.kind(), self.code());
            write!(f, "{name} {kind}/{code} {} > {}", self.source, self.destination)?;
            if self.tells(Told::TooBig(0)) {
                write!(f, " mtu {}", self.mtu())?;
            }
            match self.quote() {
                Some(quote) => {
                    write!(f, " about [{} {} > {}]", protocol(quote.protocol), quote.from(), quote.to())?
                }
                None => write!(f, " about nothing readable")?,
            }
            return Ok(());
        } else {
            write!(f, "{} {} > {}", protocol(self.protocol), end(self.from()), end(self.to()))?;
        }
        match self.protocol {
            TCP if self.offset == 0 => {
                let names = [(SYN, 'S'), (FIN, 'F'), (RST, 'R'), (8, 'P'), (ACK, '.')];
                let set: String =
                    names.iter().filter(|(bit, _)| self.flags() & bit != 0).map(|(_, name)| *name).collect();
                write!(f, " [{set}] seq {}", self.seq())?;
            }
            ICMP | ICMP6 if self.offset == 0 => write!(f, " type {}", self.kind())?,
            _ => {}
        }
        if self.is_fragment() {
            write!(f, " id {:#06x} offset {}{}", self.id, self.offset, if self.mf { "+" } else { "" })?;
        }
        for (number, _) in &self.extensions {
            write!(f, " after header {number}")?;
        }
        let hops = if self.source.is_ipv4() { "ttl" } else { "hop limit" };
        write!(f, " len {} {hops} {}", self.bytes().len(), self.ttl)?;
        if self.tos != 0 {
            write!(f, " tos {:#04x}", self.tos)?;
        }
        Ok(())
    }
}

fn end(end: SocketAddr) -> String {
    if end.port() == 0 { end.ip().to_string() } else { end.to_string() }
}

fn protocol(number: u8) -> String {
    match number {
        ICMP => "ICMP".into(),
        ICMP6 => "ICMPv6".into(),
        TCP => "TCP".into(),
        UDP => "UDP".into(),
        other => format!("protocol {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn packet() -> Packet {
        udp(at(Ipv4Addr::new(10, 0, 0, 2), 1000), at(Ipv4Addr::new(198, 51, 100, 7), 53))
    }

    #[test]
    fn what_is_written_is_read_back() {
        let packet = Packet { options: vec![7, 7, 4, 0, 0, 0, 0, 0], df: true, tos: 0xb8, ..packet() };
        let bytes = packet.bytes();
        assert_eq!(checksum(&[&bytes[..28]]), 0);
        assert_eq!(Packet::read(&bytes).unwrap(), packet);
        assert_eq!(packet.bad_sum(), None);
    }

    #[test]
    fn ipv6_packets_are_read_back_whole_and_in_pieces() {
        let (from, to) = (at(Ipv6Addr::LOCALHOST, 1), at(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7), 2));
        let whole = Packet { flow: 0xabcde, tos: 0xb8, ..udp_with(from, to, &data(3000)) };
        assert_eq!(Packet::read(&whole.bytes()).unwrap(), whole);
        assert_eq!(whole.bad_sum(), None);
        let with = Packet { extensions: vec![(0, vec![1, 4, 0, 0, 0, 0]), (60, vec![0; 14])], ..whole };
        let pieces: Vec<Packet> =
            with.cut(1000).iter().map(|piece| Packet::read(&piece.bytes()).unwrap()).collect();
        assert_eq!(
            pieces,
            with.cut(1000).iter().map(|p| Packet { id: pieces[0].id, ..p.clone() }).collect::<Vec<_>>()
        );
        assert_eq!(joined(&pieces).unwrap().payload, with.payload);
        assert_eq!(pieces[0].extensions, with.extensions);
    }

    #[test]
    fn a_flipped_byte_of_the_payload_is_a_bad_sum_and_a_change() {
        let sent = packet();
        let mut got = Packet { ttl: 63, ..sent.clone() };
        assert_eq!(got.changed_since(&sent), None);
        got.payload[20] ^= 1;
        assert!(got.bad_sum().is_some() && got.changed_since(&sent).is_some());
    }

    #[test]
    fn fragments_join_in_any_order() {
        let whole = udp_with(at(Ipv4Addr::LOCALHOST, 1), at(Ipv4Addr::LOCALHOST, 2), &data(3000));
        let mut pieces = whole.cut(1000);
        assert_eq!(pieces.len(), 4);
        pieces.reverse();
        assert_eq!(joined(&pieces).unwrap(), whole);
        assert_eq!(joined(&pieces[1..]), None);
    }
}
