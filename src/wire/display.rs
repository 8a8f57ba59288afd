//! Packets as text for people: one line each, the name of the field at an offset, two versions of
//! a packet side by side. Takes any bytes; what is cut short is shown as far as it goes. What both
//! families have is called by one name: a hop limit is a ttl, a traffic class a type of service.

use super::icmp::{self, Kind};
use super::ipv6::{self, Chain};
use crate::flow::{Protocol, TcpFlags};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// An IP packet as one line:
/// `TCP 10.0.0.2:1000 > 198.51.100.7:80 [S] seq 1 len 0 ttl 64`,
/// `TCP [fd00::2]:1000 > [2001:db8::7]:80 [S] seq 1 len 0 ttl 64`.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a>(pub &'a [u8]);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(ip) = Header::read(self.0) else {
            return match self.0.first().map(|byte| byte >> 4) {
                Some(6) => write!(f, "IPv6, cut short after {} bytes", self.0.len()),
                Some(4) => write!(f, "IPv4, cut short after {} bytes", self.0.len()),
                _ => write!(f, "no IP packet, {} bytes", self.0.len()),
            };
        };
        ip.write_flow(f)?;
        ip.write_details(f)?;
        write!(f, " ttl {}", ip.ttl)
    }
}

/// The parts of an IP packet that text shows.
struct Header<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: Protocol,
    ttl: u8,
    identification: u32,
    offset: usize,
    more: bool,
    /// Length of the header with its options or extension headers, in bytes.
    header: usize,
    /// Where a fragment header of IPv6 stands.
    fragment_at: Option<usize>,
    /// Length of the payload by the length field.
    says: usize,
    /// The payload, as much as is there.
    payload: &'a [u8],
}

impl<'a> Header<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            6 => Header::read_ipv6(bytes),
            _ => Header::read_ipv4(bytes),
        }
    }

    fn read_ipv4(bytes: &'a [u8]) -> Option<Self> {
        let ip = etherparse::Ipv4HeaderSlice::from_slice(bytes).ok()?;
        let header = ip.slice().len();
        let says = usize::from(ip.total_len()).saturating_sub(header);
        let payload = &bytes[header..];
        Some(Header {
            source: ip.source_addr().into(),
            destination: ip.destination_addr().into(),
            protocol: Protocol::from_ipv4_number(ip.protocol().0),
            ttl: ip.ttl(),
            identification: ip.identification().into(),
            offset: usize::from(ip.fragments_offset().value()) * 8,
            more: ip.more_fragments(),
            header,
            fragment_at: None,
            says,
            payload: &payload[..payload.len().min(says)],
        })
    }

    fn read_ipv6(bytes: &'a [u8]) -> Option<Self> {
        let ip = etherparse::Ipv6HeaderSlice::from_slice(bytes).ok()?;
        let length = ipv6::length(bytes);
        let there = &bytes[..bytes.len().min(length)];
        let chain = Chain::read(there, "IPv6 extension header").ok()?;
        let place = chain.fragment.unwrap_or(ipv6::Place { offset: 0, more: false });
        Some(Header {
            source: ip.source_addr().into(),
            destination: ip.destination_addr().into(),
            protocol: Protocol::from_ipv6_number(chain.protocol),
            ttl: ip.hop_limit(),
            identification: chain.identification,
            offset: usize::from(place.offset),
            more: place.more,
            header: chain.header,
            fragment_at: chain.fragment_at,
            says: length.saturating_sub(chain.header),
            payload: there.get(chain.header..).unwrap_or(&[]),
        })
    }

    /// What a message of this type is.
    fn kind(&self, icmp_type: u8) -> Kind {
        if self.source.is_ipv6() { Kind::of_ipv6(icmp_type) } else { Kind::of(icmp_type) }
    }

    fn word(&self, at: usize) -> Option<u16> {
        word(self.payload, at)
    }

    /// The ports, if the packet has them and they are there.
    fn ports(&self) -> Option<(u16, u16)> {
        match self.protocol {
            Protocol::Tcp | Protocol::Udp if self.offset == 0 => Some((self.word(0)?, self.word(2)?)),
            _ => None,
        }
    }

    /// `TCP 10.0.0.2:1000 > 198.51.100.7:80`.
    fn write_flow(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            Protocol::Tcp => write!(f, "TCP")?,
            Protocol::Udp => write!(f, "UDP")?,
            Protocol::Icmp if self.source.is_ipv6() => write!(f, "ICMPv6")?,
            Protocol::Icmp => write!(f, "ICMP")?,
            Protocol::Other(number) => write!(f, "PROTO-{number}")?,
        }
        let (source, destination) = (self.source, self.destination);
        match self.ports() {
            Some((from, to)) => {
                write!(f, " {} > {}", SocketAddr::new(source, from), SocketAddr::new(destination, to))
            }
            None => write!(f, " {source} > {destination}"),
        }
    }

    fn write_details(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.offset == 0 {
            match self.protocol {
                Protocol::Tcp => self.write_tcp(f)?,
                Protocol::Udp => write!(f, " len {}", self.says.saturating_sub(8))?,
                Protocol::Icmp => self.write_icmp(f)?,
                Protocol::Other(_) => write!(f, " len {}", self.says)?,
            }
        } else {
            write!(f, " len {}", self.says)?;
        }
        if self.offset != 0 || self.more {
            let plus = if self.more { "+" } else { "" };
            let width = if self.source.is_ipv6() { 10 } else { 6 };
            write!(f, " fragment {}{plus} id {:#0width$x}", self.offset, self.identification)?;
        }
        Ok(())
    }

    fn write_tcp(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(high), Some(low), Some(flags)) = (self.word(4), self.word(6), self.word(12)) else {
            return f.write_str(" cut short");
        };
        let header = usize::from(flags >> 12) * 4;
        let sequence = u32::from(high) << 16 | u32::from(low);
        write!(f, " [{:?}] seq {sequence}", TcpFlags(flags as u8))?;
        if flags & 0x10 != 0
            && let (Some(high), Some(low)) = (self.word(8), self.word(10))
        {
            write!(f, " ack {}", u32::from(high) << 16 | u32::from(low))?;
        }
        write!(f, " len {}", self.says.saturating_sub(header))
    }

    fn write_icmp(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let &[icmp_type, code, ..] = self.payload else { return f.write_str(" cut short") };
        let name = match self.source {
            IpAddr::V4(_) => message_name(icmp_type, code),
            IpAddr::V6(_) => message_name_ipv6(icmp_type, code),
        };
        match name {
            Some(name) => write!(f, " {name}")?,
            None => write!(f, " type {icmp_type} code {code}")?,
        }
        match self.kind(icmp_type) {
            Kind::Asks | Kind::Answers => {
                if let (Some(identifier), Some(sequence)) = (self.word(4), self.word(6)) {
                    write!(f, " id {identifier} seq {sequence}")?;
                }
                write!(f, " len {}", self.says.saturating_sub(icmp::HEADER))
            }
            Kind::Error => {
                match (self.source, icmp_type, code, self.word(4), self.word(6)) {
                    (IpAddr::V4(_), icmp::UNREACHABLE, 4, _, Some(mtu)) => write!(f, " mtu {mtu}")?,
                    (IpAddr::V6(_), icmp::V6_TOO_BIG, _, Some(high), Some(low)) => {
                        write!(f, " mtu {}", u32::from(high) << 16 | u32::from(low))?;
                    }
                    _ => {}
                }
                // One level of quotes only: no error is about an error.
                if let Some(quoted) = self.payload.get(icmp::HEADER..).and_then(Header::read) {
                    f.write_str(" about ")?;
                    quoted.write_flow(f)?;
                }
                Ok(())
            }
            Kind::Other => write!(f, " len {}", self.says.saturating_sub(icmp::HEADER)),
        }
    }
}

/// The name of an ICMP message of IPv4.
fn message_name(icmp_type: u8, code: u8) -> Option<&'static str> {
    Some(match (icmp_type, code) {
        (icmp::ECHO_REPLY, _) => "echo reply",
        (icmp::ECHO_REQUEST, _) => "echo request",
        (icmp::TIMESTAMP, _) => "timestamp request",
        (icmp::TIMESTAMP_REPLY, _) => "timestamp reply",
        (icmp::SOURCE_QUENCH, _) => "source quench",
        (icmp::REDIRECT, _) => "redirect",
        (icmp::UNREACHABLE, 0) => "network unreachable",
        (icmp::UNREACHABLE, 1) => "host unreachable",
        (icmp::UNREACHABLE, 2) => "protocol unreachable",
        (icmp::UNREACHABLE, 3) => "port unreachable",
        (icmp::UNREACHABLE, 4) => "too big",
        (icmp::UNREACHABLE, 9 | 10 | 13) => "prohibited",
        (icmp::TIME_EXCEEDED, 0) => "ttl exceeded",
        (icmp::TIME_EXCEEDED, 1) => "reassembly time exceeded",
        (icmp::PARAMETER_PROBLEM, _) => "parameter problem",
        _ => return None,
    })
}

/// The name of an ICMP message of IPv6.
fn message_name_ipv6(icmp_type: u8, code: u8) -> Option<&'static str> {
    Some(match (icmp_type, code) {
        (icmp::V6_ECHO_REPLY, _) => "echo reply",
        (icmp::V6_ECHO_REQUEST, _) => "echo request",
        (icmp::V6_UNREACHABLE, 0) => "network unreachable",
        (icmp::V6_UNREACHABLE, 1) => "prohibited",
        (icmp::V6_UNREACHABLE, 3) => "host unreachable",
        (icmp::V6_UNREACHABLE, 4) => "port unreachable",
        (icmp::V6_UNREACHABLE, 5) => "source prohibited",
        (icmp::V6_TOO_BIG, _) => "too big",
        (icmp::V6_TIME_EXCEEDED, 0) => "ttl exceeded",
        (icmp::V6_TIME_EXCEEDED, 1) => "reassembly time exceeded",
        (icmp::V6_PARAMETER_PROBLEM, _) => "parameter problem",
        (icmp::V6_ROUTER_SOLICITATION, _) => "router solicitation",
        (icmp::V6_ROUTER_ADVERTISEMENT, _) => "router advertisement",
        (icmp::V6_NEIGHBOR_SOLICITATION, _) => "neighbor solicitation",
        (icmp::V6_NEIGHBOR_ADVERTISEMENT, _) => "neighbor advertisement",
        (icmp::V6_REDIRECT, _) => "redirect",
        _ => return None,
    })
}

/// A field of a header: where it ends (it begins where the one before it ends), its name, and its
/// name in the packet that an ICMP error quotes.
type Field = (usize, &'static str, &'static str);

const IP_FIELDS: [Field; 12] = [
    (1, "version and header length", "quoted version and header length"),
    (2, "type of service", "quoted type of service"),
    (4, "total length", "quoted total length"),
    (6, "identification", "quoted identification"),
    (8, "fragment offset", "quoted fragment offset"),
    (9, "ttl", "quoted ttl"),
    (10, "protocol", "quoted protocol"),
    (12, "header checksum", "quoted header checksum"),
    (16, "source address", "quoted source address"),
    (20, "destination address", "quoted destination address"),
    (60, "ip options", "quoted ip options"),
    (usize::MAX, "payload", "quoted payload"),
];

const IPV6_FIELDS: [Field; 8] = [
    (2, "type of service", "quoted type of service"),
    (4, "flow label", "quoted flow label"),
    (6, "payload length", "quoted payload length"),
    (7, "protocol", "quoted protocol"),
    (8, "ttl", "quoted ttl"),
    (24, "source address", "quoted source address"),
    (40, "destination address", "quoted destination address"),
    (usize::MAX, "extension headers", "quoted extension headers"),
];

const FRAGMENT_FIELDS: [Field; 3] = [
    (2, "protocol", "quoted protocol"),
    (4, "fragment offset", "quoted fragment offset"),
    (8, "identification", "quoted identification"),
];

const TCP_FIELDS: [Field; 10] = [
    (2, "source port", "quoted source port"),
    (4, "destination port", "quoted destination port"),
    (8, "sequence number", "quoted sequence number"),
    (12, "acknowledgment number", "quoted acknowledgment number"),
    (13, "data offset", "quoted data offset"),
    (14, "tcp flags", "quoted tcp flags"),
    (16, "window", "quoted window"),
    (18, "tcp checksum", "quoted tcp checksum"),
    (20, "urgent pointer", "quoted urgent pointer"),
    (usize::MAX, "tcp options", "quoted tcp options"),
];

const UDP_FIELDS: [Field; 4] = [
    (2, "source port", "quoted source port"),
    (4, "destination port", "quoted destination port"),
    (6, "udp length", "quoted udp length"),
    (8, "udp checksum", "quoted udp checksum"),
];

const QUERY_FIELDS: [Field; 5] = [
    (1, "icmp type", "quoted icmp type"),
    (2, "icmp code", "quoted icmp code"),
    (4, "icmp checksum", "quoted icmp checksum"),
    (6, "icmp identifier", "quoted icmp identifier"),
    (8, "icmp sequence", "quoted icmp sequence"),
];

const ERROR_FIELDS: [Field; 6] = [
    (1, "icmp type", "quoted icmp type"),
    (2, "icmp code", "quoted icmp code"),
    (4, "icmp checksum", "quoted icmp checksum"),
    (5, "icmp pointer", "quoted icmp pointer"),
    (6, "icmp quote length", "quoted icmp quote length"),
    (8, "next-hop mtu", "quoted next-hop mtu"),
];

const ERROR_FIELDS_IPV6: [Field; 4] = [
    (1, "icmp type", "quoted icmp type"),
    (2, "icmp code", "quoted icmp code"),
    (4, "icmp checksum", "quoted icmp checksum"),
    // Quote length, MTU or pointer, by the type.
    (8, "icmp parameter", "quoted icmp parameter"),
];

/// The name of the header field that the byte at `offset` of the IP packet belongs to; `"payload"`
/// behind the headers, `"beyond the packet"` behind its end, `"unknown"` if it is no IP packet.
pub fn field_at(packet: &[u8], offset: usize) -> &'static str {
    if offset >= packet.len() {
        return "beyond the packet";
    }
    name_in(packet, offset, false)
}

/// The same, in a packet that is quoted or not.
fn name_in(packet: &[u8], offset: usize, quoted: bool) -> &'static str {
    let pick = |fields: &[Field], at: usize| {
        fields
            .iter()
            .find(|(end, _, _)| at < *end)
            .map(|(_, plain, quote)| if quoted { *quote } else { *plain })
    };
    let payload = if quoted { "quoted payload" } else { "payload" };
    let Some(ip) = Header::read(packet) else {
        return if quoted { "quoted bytes" } else { "unknown" };
    };
    let Some(at) = offset.checked_sub(ip.header) else {
        let in_fragment_header = ip.fragment_at.and_then(|start| offset.checked_sub(start));
        let found = match in_fragment_header.filter(|at| *at < ipv6::FRAGMENT_HEADER) {
            Some(at) => pick(&FRAGMENT_FIELDS, at),
            None if ip.source.is_ipv6() => pick(&IPV6_FIELDS, offset),
            None => pick(&IP_FIELDS, offset),
        };
        return found.unwrap_or(payload);
    };
    if ip.offset != 0 || at >= ip.says {
        return payload;
    }
    let name = match ip.protocol {
        Protocol::Tcp => {
            let header = ip.payload.get(12).map_or(20, |byte| usize::from(byte >> 4) * 4);
            if at < header.max(20) { pick(&TCP_FIELDS, at) } else { None }
        }
        Protocol::Udp => pick(&UDP_FIELDS, at),
        Protocol::Icmp => match ip.kind(ip.payload.first().copied().unwrap_or(0)) {
            Kind::Error if at >= icmp::HEADER && !quoted => {
                return name_in(&ip.payload[icmp::HEADER..], at - icmp::HEADER, true);
            }
            Kind::Error if ip.source.is_ipv6() => pick(&ERROR_FIELDS_IPV6, at),
            Kind::Error => pick(&ERROR_FIELDS, at),
            _ => pick(&QUERY_FIELDS, at),
        },
        Protocol::Other(_) => None,
    };
    name.unwrap_or(payload)
}

/// Bytes in one line of a [`diff`].
pub const DIFF_WIDTH: usize = 16;

/// Sixteen bytes of two versions of a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiffLine {
    /// Offset of the first byte.
    pub offset: usize,
    /// The bytes before, and whether each differs from the one after.
    pub before: Vec<(u8, bool)>,
    /// The bytes after, and whether each differs from the one before.
    pub after: Vec<(u8, bool)>,
    /// The names of the fields that differ in this line.
    pub fields: Vec<&'static str>,
}

impl DiffLine {
    /// Whether anything differs.
    pub fn changed(&self) -> bool {
        !self.fields.is_empty()
    }
}

/// Two versions of an IP packet side by side. A byte that only one of them has differs.
pub fn diff(before: &[u8], after: &[u8]) -> Vec<DiffLine> {
    let length = before.len().max(after.len());
    (0..length)
        .step_by(DIFF_WIDTH)
        .map(|offset| {
            let range = offset..(offset + DIFF_WIDTH).min(length);
            let differs = |at: &usize| before.get(*at) != after.get(*at);
            let marked =
                |bytes: &[u8]| range.clone().filter_map(|at| Some((*bytes.get(at)?, differs(&at)))).collect();
            let mut fields: Vec<&'static str> = Vec::new();
            for at in range.clone().filter(differs) {
                let name = field_at(if at < after.len() { after } else { before }, at);
                if fields.last() != Some(&name) {
                    fields.push(name);
                }
            }
            DiffLine { offset, before: marked(before), after: marked(after), fields }
        })
        .collect()
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}
