//! Makes packets: the answers that a gateway gives in its own name, and whole packets for tests
//! and lessons. Every result is a whole IPv4 packet with right checksums.

use super::icmp::{self, Kind};
use super::{Packet, ParseError, checksum};
use crate::flow::{Protocol, Summary, TcpFlags};
use etherparse::icmpv4::{DestUnreachableHeader, ParameterProblemHeader, TimeExceededCode};
use etherparse::{
    Icmpv4Type, IpDscp, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, PacketBuilder, TcpHeader,
    TcpOptionElement,
};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

/// The time to live that crafted packets start with (the recommended default, RFC 1700).
pub const TTL: u8 = 64;

/// The longest ICMP error, in bytes of IP: what every host takes (RFC 1812 §4.3.2.3).
pub const ERROR_LENGTH: usize = 576;

/// Longest payload that [`udp`], [`tcp`] and [`echo`] take, in bytes.
pub const MAX_PAYLOAD: usize = 65535 - 60 - 60;

/// What an ICMP error says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IcmpError {
    /// No route to the network (3/0).
    NetUnreachable,
    /// The host does not answer (3/1); also: no resources for its sender (RFC 6888 REQ-11).
    HostUnreachable,
    /// Nobody listens on the port (3/3).
    PortUnreachable,
    /// Too big for the next link, and the sender forbids fragmentation (3/4).
    TooBig {
        /// MTU of the next link, in bytes (RFC 1191).
        mtu: u16,
    },
    /// Forbidden by policy (3/13).
    Prohibited,
    /// The time to live has run out on the way (11/0).
    TtlExceeded,
    /// Fragments have not arrived in time (11/1).
    ReassemblyTimeExceeded,
    /// A header field is wrong (12/0).
    ParameterProblem {
        /// Offset of the byte that is wrong.
        pointer: u8,
    },
}

impl IcmpError {
    fn header(self) -> Icmpv4Type {
        use DestUnreachableHeader as Unreachable;
        match self {
            IcmpError::NetUnreachable => Icmpv4Type::DestinationUnreachable(Unreachable::Network),
            IcmpError::HostUnreachable => Icmpv4Type::DestinationUnreachable(Unreachable::Host),
            IcmpError::PortUnreachable => Icmpv4Type::DestinationUnreachable(Unreachable::Port),
            IcmpError::TooBig { mtu } => {
                Icmpv4Type::DestinationUnreachable(Unreachable::FragmentationNeeded { next_hop_mtu: mtu })
            }
            IcmpError::Prohibited => Icmpv4Type::DestinationUnreachable(Unreachable::FilterProhibited),
            IcmpError::TtlExceeded => Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit),
            IcmpError::ReassemblyTimeExceeded => {
                Icmpv4Type::TimeExceeded(TimeExceededCode::FragmentReassemblyTimeExceeded)
            }
            IcmpError::ParameterProblem { pointer } => {
                Icmpv4Type::ParameterProblem(ParameterProblemHeader::PointerIndicatesError(pointer))
            }
        }
    }
}

/// An ICMP error about the IP packet `about`, quoting as much of it as fits ([`ERROR_LENGTH`]).
///
/// It has the DSCP of the packet it is about (RFC 5508 REQ-10d) and a TTL of its own. The quote is
/// the packet as received: pass it before it is edited. A partial checksum is quoted as it is, for
/// the sender knows its packet, and nobody may check a quoted transport checksum.
///
/// Whether an error may be sent at all (RFC 1812 §4.3.2.7) is the caller's to decide: see
/// [`may_be_reported`].
pub fn icmp_error(error: IcmpError, source: Ipv4Addr, destination: Ipv4Addr, about: &[u8]) -> Vec<u8> {
    let whole = match about.get(2..4) {
        Some(length) => usize::from(u16::from_be_bytes([length[0], length[1]])).min(about.len()),
        None => about.len(),
    };
    let quote = &about[..whole.min(ERROR_LENGTH - 20 - icmp::HEADER)];
    let dscp = about.get(1).and_then(|tos| IpDscp::try_new(tos >> 2).ok()).unwrap_or_default();
    let mut header = ip_header(source, destination, IpNumber::ICMP);
    header.dscp = dscp;
    let mut packet = Vec::with_capacity(ERROR_LENGTH);
    PacketBuilder::ip(IpHeaders::Ipv4(header, Ipv4Extensions::default()))
        .icmpv4(error.header())
        .write(&mut packet, quote)
        .expect("576 bytes are an IP packet");
    packet
}

/// Whether the packet is of a kind that an ICMP error may be about (RFC 1812 §4.3.2.7): no ICMP
/// error, no later fragment, from one host to one host. Subnet broadcasts are not known here.
pub fn may_be_reported(packet: &Packet) -> bool {
    if packet.is_later_fragment() || packet.icmp.is_some_and(|(icmp_type, _)| Kind::silences(icmp_type)) {
        return false;
    }
    let Summary::Data(data) = packet.summary else { return false };
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (data.flow.source.ip, data.flow.destination.ip)
    else {
        return false;
    };
    let class_d_or_e = |ip: Ipv4Addr| ip.octets()[0] >= 224;
    let nobody = source.octets()[0] == 0 || source.is_loopback();
    !nobody && !class_d_or_e(source) && !class_d_or_e(destination)
}

/// The reply to the echo request `request`: its identifier, sequence number, data and DSCP, a TTL
/// of its own, no IP options. `None` if it is not a whole echo request with a right checksum.
pub fn echo_reply(request: &[u8]) -> Option<Vec<u8>> {
    let parsed = Packet::parse(request, &super::Offload::default()).ok()?;
    let (source, destination) = addresses(&parsed)?;
    let message = request.get(usize::from(parsed.header)..parsed.length as usize)?;
    if parsed.icmp != Some((icmp::ECHO_REQUEST, 0))
        || parsed.fragment.is_some()
        || checksum::internet(message) != 0
    {
        return None;
    }
    let mut header = ip_header(destination, source, IpNumber::ICMP);
    header.dscp = IpDscp::try_new(parsed.tos >> 2).unwrap_or_default();
    let echo = etherparse::IcmpEchoHeader {
        id: u16::from_be_bytes([message[4], message[5]]),
        seq: u16::from_be_bytes([message[6], message[7]]),
    };
    let mut packet = Vec::with_capacity(request.len());
    PacketBuilder::ip(IpHeaders::Ipv4(header, Ipv4Extensions::default()))
        .icmpv4(Icmpv4Type::EchoReply(echo))
        .write(&mut packet, icmp_payload(message))
        .ok()?;
    Some(packet)
}

/// The reset that answers the TCP segment `segment` (RFC 9293 §3.10.7.1). `None` if it is no TCP
/// segment, or is a reset itself. The segment's checksum is not asked for: it may be partial.
pub fn tcp_reset(segment: &[u8]) -> Option<Vec<u8>> {
    let parsed = Packet::parse(segment, &super::Offload::default()).ok()?;
    let Summary::Data(data) = parsed.summary else { return None };
    if data.flow.protocol != Protocol::Tcp || parsed.fragment.is_some() || data.tcp.has(TcpFlags::RST) {
        return None;
    }
    let (source, destination) = addresses(&parsed)?;
    let tcp = etherparse::TcpHeaderSlice::from_slice(segment.get(usize::from(parsed.header)..)?).ok()?;
    let counted = u32::from(tcp.syn()) + u32::from(tcp.fin());
    let length = parsed.length - u32::from(parsed.payload) + counted;
    let (sequence, acknowledgment, flags) = if tcp.ack() {
        (tcp.acknowledgment_number(), 0, TcpFlags::RST)
    } else {
        (0, tcp.sequence_number().wrapping_add(length), TcpFlags::RST.with(TcpFlags::ACK))
    };
    let to = SocketAddrV4::new(source, data.flow.source.port);
    let from = SocketAddrV4::new(destination, data.flow.destination.port);
    Some(Tcp { flags, sequence, acknowledgment, window: 0, ..Tcp::default() }.packet(from, to, &[]))
}

/// A UDP datagram.
///
/// # Panics
/// If `payload` is longer than [`MAX_PAYLOAD`].
pub fn udp(source: SocketAddrV4, destination: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(28 + payload.len());
    PacketBuilder::ipv4(source.ip().octets(), destination.ip().octets(), TTL)
        .udp(source.port(), destination.port())
        .write(&mut packet, payload)
        .expect("the payload fits an IP packet");
    packet
}

/// A TCP segment with these flags and sequence number, no acknowledgment and no options.
///
/// # Panics
/// If `payload` is longer than [`MAX_PAYLOAD`].
pub fn tcp(
    source: SocketAddrV4,
    destination: SocketAddrV4,
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
    /// If `payload` is longer than [`MAX_PAYLOAD`].
    pub fn packet(self, source: SocketAddrV4, destination: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
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
        let mut packet = Vec::with_capacity(44 + payload.len());
        PacketBuilder::ipv4(source.ip().octets(), destination.ip().octets(), TTL)
            .tcp_header(header)
            .write(&mut packet, payload)
            .expect("the payload fits an IP packet");
        packet
    }
}

/// An echo request, or a reply if `request` is false.
///
/// # Panics
/// If `payload` is longer than [`MAX_PAYLOAD`].
pub fn echo(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    request: bool,
    identifier: u16,
    sequence: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = Vec::with_capacity(28 + payload.len());
    let builder = PacketBuilder::ipv4(source.octets(), destination.octets(), TTL);
    let builder = if request {
        builder.icmpv4_echo_request(identifier, sequence)
    } else {
        builder.icmpv4_echo_reply(identifier, sequence)
    };
    builder.write(&mut packet, payload).expect("the payload fits an IP packet");
    packet
}

/// Puts an IPv4 header with `options` (a multiple of 4 bytes, at most 40) in place of the one of
/// `packet`, with right length and checksum.
///
/// # Errors
/// As [`Packet::parse`] if `packet` cannot be read; [`ParseError::Length`] if the options do not
/// fit a header, or the result does not fit an IP packet.
pub fn with_ip_options(packet: &[u8], options: &[u8]) -> Result<Vec<u8>, ParseError> {
    let parsed = Packet::parse(packet, &super::Offload::default())?;
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

/// An IPv4 header of our own; etherparse fills length and checksum when it is written.
fn ip_header(source: Ipv4Addr, destination: Ipv4Addr, protocol: IpNumber) -> Ipv4Header {
    Ipv4Header {
        time_to_live: TTL,
        protocol,
        source: source.octets(),
        destination: destination.octets(),
        ..Ipv4Header::default()
    }
}

/// Source and destination of a packet that is no ICMP error.
fn addresses(packet: &Packet) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let Summary::Data(data) = packet.summary else { return None };
    match (data.flow.source.ip, data.flow.destination.ip) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Some((source, destination)),
        _ => None,
    }
}

fn icmp_payload(message: &[u8]) -> &[u8] {
    message.get(icmp::HEADER..).unwrap_or(&[])
}
