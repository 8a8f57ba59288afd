//! Makes packets: the answers that a gateway gives in its own name, and whole packets for tests
//! and lessons. Every result is a whole IP packet with right checksums, of the family of the
//! addresses it is made for.

use super::icmp::{self, Kind};
use super::{Packet, ParseError, checksum, ipv6};
use crate::flow::{Protocol, Summary, TcpFlags};
use etherparse::icmpv4::{DestUnreachableHeader, ParameterProblemHeader, TimeExceededCode};
use etherparse::{
    Icmpv4Type, Icmpv6Type, IpDscp, IpHeaders, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6Header,
    PacketBuilder, PacketBuilderStep, TcpHeader, TcpOptionElement, icmpv6,
};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The time to live that crafted packets start with (the recommended default, RFC 1700).
pub const TTL: u8 = 64;

/// The longest ICMP error of IPv4, in bytes of IP: what every host takes (RFC 1812 §4.3.2.3).
pub const ERROR_LENGTH: usize = 576;

/// The longest ICMP error of IPv6, in bytes of IP: the least MTU (RFC 4443 §2.4).
pub const ERROR_LENGTH_IPV6: usize = ipv6::MIN_MTU as usize;

/// Longest payload that [`udp`], [`tcp`] and [`echo`] take, in bytes.
pub const MAX_PAYLOAD: usize = 65535 - 60 - 60;

/// What an ICMP error says; its type and code in IPv4 and in IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IcmpError {
    /// No route to the network (3/0; 1/0).
    NetUnreachable,
    /// The host does not answer (3/1; 1/3); also: no resources for its sender (RFC 6888 REQ-11).
    HostUnreachable,
    /// Nobody listens on the port (3/3; 1/4).
    PortUnreachable,
    /// Too big for the next link, and the sender forbids fragmentation (3/4; 2/0).
    TooBig {
        /// MTU of the next link, in bytes (RFC 1191, RFC 8201).
        mtu: u16,
    },
    /// Forbidden by policy (3/13; 1/1).
    Prohibited,
    /// Such a source address may not send here (3/13; 1/5).
    SourceProhibited,
    /// The time to live has run out on the way (11/0; 3/0).
    TtlExceeded,
    /// Fragments have not arrived in time (11/1; 3/1).
    ReassemblyTimeExceeded,
    /// A header field is wrong (12/0; 4/0).
    ParameterProblem {
        /// Offset of the byte that is wrong.
        pointer: u8,
    },
}

impl IcmpError {
    fn icmpv4(self) -> Icmpv4Type {
        use DestUnreachableHeader as Unreachable;
        match self {
            IcmpError::NetUnreachable => Icmpv4Type::DestinationUnreachable(Unreachable::Network),
            IcmpError::HostUnreachable => Icmpv4Type::DestinationUnreachable(Unreachable::Host),
            IcmpError::PortUnreachable => Icmpv4Type::DestinationUnreachable(Unreachable::Port),
            IcmpError::TooBig { mtu } => {
                Icmpv4Type::DestinationUnreachable(Unreachable::FragmentationNeeded { next_hop_mtu: mtu })
            }
            IcmpError::Prohibited | IcmpError::SourceProhibited => {
                Icmpv4Type::DestinationUnreachable(Unreachable::FilterProhibited)
            }
            IcmpError::TtlExceeded => Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit),
            IcmpError::ReassemblyTimeExceeded => {
                Icmpv4Type::TimeExceeded(TimeExceededCode::FragmentReassemblyTimeExceeded)
            }
            IcmpError::ParameterProblem { pointer } => {
                Icmpv4Type::ParameterProblem(ParameterProblemHeader::PointerIndicatesError(pointer))
            }
        }
    }

    fn icmpv6(self) -> Icmpv6Type {
        use icmpv6::{DestUnreachableCode as Unreachable, ParameterProblemCode, TimeExceededCode};
        match self {
            IcmpError::NetUnreachable => Icmpv6Type::DestinationUnreachable(Unreachable::NoRoute),
            IcmpError::HostUnreachable => Icmpv6Type::DestinationUnreachable(Unreachable::Address),
            IcmpError::PortUnreachable => Icmpv6Type::DestinationUnreachable(Unreachable::Port),
            IcmpError::TooBig { mtu } => Icmpv6Type::PacketTooBig { mtu: u32::from(mtu) },
            IcmpError::Prohibited => Icmpv6Type::DestinationUnreachable(Unreachable::Prohibited),
            IcmpError::SourceProhibited => {
                Icmpv6Type::DestinationUnreachable(Unreachable::SourceAddressFailedPolicy)
            }
            IcmpError::TtlExceeded => Icmpv6Type::TimeExceeded(TimeExceededCode::HopLimitExceeded),
            IcmpError::ReassemblyTimeExceeded => {
                Icmpv6Type::TimeExceeded(TimeExceededCode::FragmentReassemblyTimeExceeded)
            }
            IcmpError::ParameterProblem { pointer } => {
                Icmpv6Type::ParameterProblem(icmpv6::ParameterProblemHeader {
                    code: ParameterProblemCode::ErroneousHeaderField,
                    pointer: u32::from(pointer),
                })
            }
        }
    }
}

/// An ICMP error about the IP packet `about`, quoting as much of it as fits ([`ERROR_LENGTH`],
/// [`ERROR_LENGTH_IPV6`]).
///
/// It has the DSCP of the packet it is about (RFC 5508 REQ-10d) and a TTL of its own. The quote is
/// the packet as received: pass it before it is edited. A partial checksum is quoted as it is, for
/// the sender knows its packet, and nobody may check a quoted transport checksum.
///
/// Whether an error may be sent at all (RFC 1812 §4.3.2.7) is the caller's to decide: see
/// [`may_be_reported`].
///
/// # Panics
/// If the addresses are not of one family.
pub fn icmp_error(
    error: IcmpError,
    source: impl Into<IpAddr>,
    destination: impl Into<IpAddr>,
    about: &[u8],
) -> Vec<u8> {
    let (source, destination) = (source.into(), destination.into());
    let (most, ip_header) = match source {
        IpAddr::V4(_) => (ERROR_LENGTH, 20),
        IpAddr::V6(_) => (ERROR_LENGTH_IPV6, ipv6::HEADER),
    };
    let (tos, length) = said(about);
    let quote = &about[..length.min(about.len()).min(most - ip_header - icmp::HEADER)];
    let builder = ip(source, destination, tos & DSCP);
    let mut packet = Vec::with_capacity(most);
    let builder = match source {
        IpAddr::V4(_) => builder.icmpv4(error.icmpv4()).write(&mut packet, quote),
        IpAddr::V6(_) => builder.icmpv6(error.icmpv6()).write(&mut packet, quote),
    };
    builder.expect("an error of bounded length is an IP packet");
    packet
}

/// TOS or traffic class of an IP packet that may be cut short, and its length by its length field.
fn said(packet: &[u8]) -> (u8, usize) {
    match *packet {
        [a, b, c, d, ..] if a >> 4 != 6 => (b, usize::from(u16::from_be_bytes([c, d]))),
        [a, b, ..] if packet.len() >= ipv6::HEADER => (a << 4 | b >> 4, ipv6::length(packet)),
        _ => (0, packet.len()),
    }
}

/// Whether the packet is of a kind that an ICMP error may be about (RFC 1812 §4.3.2.7, RFC 4443
/// §2.4): no ICMP error, no later fragment, from one host to one host. Subnet broadcasts are not
/// known here. IPv6 does not forbid errors about later fragments, but no receiver can tell whose
/// they are.
pub fn may_be_reported(packet: &Packet) -> bool {
    if packet.is_later_fragment() || packet.icmp_kind().is_some_and(Kind::silences) {
        return false;
    }
    let Summary::Data(data) = packet.summary else { return false };
    match (data.flow.source.ip, data.flow.destination.ip) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let class_d_or_e = |ip: Ipv4Addr| ip.octets()[0] >= 224;
            let nobody = source.octets()[0] == 0 || source.is_loopback();
            !nobody && !class_d_or_e(source) && !class_d_or_e(destination)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let nobody = source.is_unspecified() || source.is_loopback();
            !nobody && !source.is_multicast() && !destination.is_multicast()
        }
        _ => false,
    }
}

/// The reply to the echo request `request`: its identifier, sequence number, data and DSCP, a TTL
/// of its own, no IP options. `None` if it is not a whole echo request with a right checksum, or
/// one to many hosts, who cannot all be the source of an answer.
pub fn echo_reply(request: &[u8]) -> Option<Vec<u8>> {
    let parsed = Packet::parse(request, &super::Offload::default()).ok()?;
    let (source, destination) = (parsed.summary.source(), parsed.summary.destination());
    let message = request.get(usize::from(parsed.header)..parsed.length as usize)?;
    if parsed.icmp_kind() != Some(Kind::Asks)
        || !matches!(parsed.icmp, Some((icmp::ECHO_REQUEST | icmp::V6_ECHO_REQUEST, 0)))
        || parsed.fragment.is_some()
        || destination.is_multicast()
        || checksum::icmp(source, destination, message) != 0
    {
        return None;
    }
    let (identifier, sequence) = (word(message, 4)?, word(message, 6)?);
    echo_message(
        destination,
        source,
        parsed.tos & DSCP,
        false,
        identifier,
        sequence,
        message.get(icmp::HEADER..)?,
    )
}

/// The reset that answers the TCP segment `segment` (RFC 9293 §3.10.7.1). `None` if it is no TCP
/// segment, or is a reset itself. The segment's checksum is not asked for: it may be partial.
pub fn tcp_reset(segment: &[u8]) -> Option<Vec<u8>> {
    let parsed = Packet::parse(segment, &super::Offload::default()).ok()?;
    let Summary::Data(data) = parsed.summary else { return None };
    if data.flow.protocol != Protocol::Tcp || parsed.fragment.is_some() || data.tcp.has(TcpFlags::RST) {
        return None;
    }
    let tcp = etherparse::TcpHeaderSlice::from_slice(segment.get(usize::from(parsed.header)..)?).ok()?;
    let counted = u32::from(tcp.syn()) + u32::from(tcp.fin());
    let length = parsed.length - u32::from(parsed.payload) + counted;
    let (sequence, acknowledgment, flags) = if tcp.ack() {
        (tcp.acknowledgment_number(), 0, TcpFlags::RST)
    } else {
        (0, tcp.sequence_number().wrapping_add(length), TcpFlags::RST.with(TcpFlags::ACK))
    };
    let to = SocketAddr::new(data.flow.source.ip, data.flow.source.port);
    let from = SocketAddr::new(data.flow.destination.ip, data.flow.destination.port);
    Some(Tcp { flags, sequence, acknowledgment, window: 0, ..Tcp::default() }.packet(from, to, &[]))
}

/// A UDP datagram.
///
/// # Panics
/// If `payload` is longer than [`MAX_PAYLOAD`], or the addresses are not of one family.
pub fn udp(source: impl Into<SocketAddr>, destination: impl Into<SocketAddr>, payload: &[u8]) -> Vec<u8> {
    let (source, destination) = (source.into(), destination.into());
    let mut packet = Vec::with_capacity(48 + payload.len());
    ip(source.ip(), destination.ip(), 0)
        .udp(source.port(), destination.port())
        .write(&mut packet, payload)
        .expect("the payload fits an IP packet");
    packet
}

/// A TCP segment with these flags and sequence number, no acknowledgment and no options.
///
/// # Panics
/// If `payload` is longer than [`MAX_PAYLOAD`], or the addresses are not of one family.
pub fn tcp(
    source: impl Into<SocketAddr>,
    destination: impl Into<SocketAddr>,
    flags: TcpFlags,
    sequence: u32,
    payload: &[u8],
) -> Vec<u8> {
    Tcp { flags, sequence, ..Tcp::default() }.packet(source, destination, payload)
}

/// What a TCP header says beyond its ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tcp {
    /// The flags; PSH and URG among them, ECE and CWR as 0x40 and 0x80.
    pub flags: TcpFlags,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number.
    pub acknowledgment: u32,
    /// Window, in bytes.
    pub window: u16,
    /// An MSS option, in bytes.
    pub mss: Option<u16>,
}

impl Default for Tcp {
    fn default() -> Self {
        Tcp { flags: TcpFlags::ACK, sequence: 0, acknowledgment: 0, window: 64240, mss: None }
    }
}

impl Tcp {
    /// A segment with this header.
    ///
    /// # Panics
    /// If `payload` is longer than [`MAX_PAYLOAD`], or the addresses are not of one family.
    pub fn packet(
        self,
        source: impl Into<SocketAddr>,
        destination: impl Into<SocketAddr>,
        payload: &[u8],
    ) -> Vec<u8> {
        let (source, destination) = (source.into(), destination.into());
        let mut header = TcpHeader::new(source.port(), destination.port(), self.sequence, self.window);
        header.acknowledgment_number = self.acknowledgment;
        header.fin = self.flags.has(TcpFlags::FIN);
        header.syn = self.flags.has(TcpFlags::SYN);
        header.rst = self.flags.has(TcpFlags::RST);
        header.psh = self.flags.has(TcpFlags::PSH);
        header.ack = self.flags.has(TcpFlags::ACK);
        header.urg = self.flags.has(TcpFlags::URG);
        header.ece = self.flags.has(TcpFlags(0x40));
        header.cwr = self.flags.has(TcpFlags(0x80));
        if let Some(mss) = self.mss {
            header
                .set_options(&[TcpOptionElement::MaximumSegmentSize(mss)])
                .expect("one option of 4 bytes fits");
        }
        let mut packet = Vec::with_capacity(64 + payload.len());
        ip(source.ip(), destination.ip(), 0)
            .tcp_header(header)
            .write(&mut packet, payload)
            .expect("the payload fits an IP packet");
        packet
    }
}

/// An echo request, or a reply if `request` is false.
///
/// # Panics
/// If `payload` is longer than [`MAX_PAYLOAD`], or the addresses are not of one family.
pub fn echo(
    source: impl Into<IpAddr>,
    destination: impl Into<IpAddr>,
    request: bool,
    identifier: u16,
    sequence: u16,
    payload: &[u8],
) -> Vec<u8> {
    echo_message(source.into(), destination.into(), 0, request, identifier, sequence, payload)
        .expect("the payload fits an IP packet")
}

/// An echo request or reply; `None` if it would not fit an IP packet.
fn echo_message(
    source: IpAddr,
    destination: IpAddr,
    tos: u8,
    request: bool,
    identifier: u16,
    sequence: u16,
    payload: &[u8],
) -> Option<Vec<u8>> {
    let mut packet = Vec::with_capacity(48 + payload.len());
    let builder = ip(source, destination, tos);
    match (source, request) {
        (IpAddr::V4(_), true) => {
            builder.icmpv4_echo_request(identifier, sequence).write(&mut packet, payload)
        }
        (IpAddr::V4(_), false) => builder.icmpv4_echo_reply(identifier, sequence).write(&mut packet, payload),
        (IpAddr::V6(_), true) => {
            builder.icmpv6_echo_request(identifier, sequence).write(&mut packet, payload)
        }
        (IpAddr::V6(_), false) => builder.icmpv6_echo_reply(identifier, sequence).write(&mut packet, payload),
    }
    .ok()?;
    Some(packet)
}

/// Puts an IPv4 header with `options` (a multiple of 4 bytes, at most 40) in place of the one of
/// the IPv4 `packet`, with right length and checksum.
///
/// # Errors
/// As [`Packet::parse`] if `packet` cannot be read; [`ParseError::Length`] if the options do not
/// fit a header, or the result does not fit an IP packet.
pub fn with_ip_options(packet: &[u8], options: &[u8]) -> Result<Vec<u8>, ParseError> {
    let parsed = Packet::parse(packet, &super::Offload::default())?;
    if parsed.is_ipv6() {
        return Err(ParseError::Version(6));
    }
    let payload = &packet[usize::from(parsed.header)..parsed.length as usize];
    let total = 20 + options.len() + payload.len();
    if options.len() > 40 || !options.len().is_multiple_of(4) || total > 65535 {
        return Err(ParseError::Length { what: "IPv4 options", says: options.len(), have: 40 });
    }
    let mut result = packet[..20].to_vec();
    result.extend_from_slice(options);
    result[0] = 0x40 | (5 + options.len() / 4) as u8;
    result[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    result[10..12].fill(0);
    let sum = checksum::internet(&result);
    result[10..12].copy_from_slice(&sum.to_be_bytes());
    result.extend_from_slice(payload);
    Ok(result)
}

/// The DSCP part of a TOS or traffic class.
const DSCP: u8 = 0xfc;

/// The beginning of a packet of our own; etherparse fills in lengths and checksums when it is
/// written.
fn ip(source: IpAddr, destination: IpAddr, tos: u8) -> PacketBuilderStep<IpHeaders> {
    PacketBuilder::ip(match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let header = Ipv4Header {
                dscp: IpDscp::try_new(tos >> 2).unwrap_or_default(),
                time_to_live: TTL,
                source: source.octets(),
                destination: destination.octets(),
                ..Ipv4Header::default()
            };
            IpHeaders::Ipv4(header, Ipv4Extensions::default())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = Ipv6Header {
                traffic_class: tos,
                hop_limit: TTL,
                source: source.octets(),
                destination: destination.octets(),
                ..Ipv6Header::default()
            };
            IpHeaders::Ipv6(header, Ipv6Extensions::default())
        }
        _ => panic!("both addresses of a packet are of one family"),
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}
