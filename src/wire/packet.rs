//! One IP packet: read once into a [`Packet`], changed only by [`Packet::apply`].
//!
//! Reading asks every question about lengths, so that nothing behind it has to: whoever holds a
//! `Packet` may index the bytes it was read from by its offsets. It does not ask whether the
//! transport checksum is right; the receiver will, and a translator keeps a wrong one as wrong as
//! it was.

use super::icmp::{self, Kind, Quote};
use super::ipv6::{self, Chain};
use super::{Buffer, Offload, ParseError, checksum};
use crate::flow::{Data, Endpoint, ErrorAbout, Flow, Protocol, Segment, Summary, TcpFlags};
use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice, TcpHeaderSlice, UdpHeaderSlice};
use std::net::IpAddr;

/// The layout of one checked IP packet, and its summary. It borrows nothing: offsets count from
/// the IP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// What a translator must know. For a later fragment the ports in it are 0.
    pub summary: Summary,
    /// Length of the IP header with its options or extension headers: where the transport begins.
    pub header: u16,
    /// Where the payload of the transport begins: the length of IP and transport header together.
    /// Equal to `header` for later fragments and for protocols that we do not read.
    pub payload: u16,
    /// Length of the IP packet by its length field.
    pub length: u32,
    /// Time to live; the hop limit of IPv6.
    pub ttl: u8,
    /// The TOS byte or traffic class: DSCP and ECN.
    pub tos: u8,
    /// The sender forbids fragmentation; every sender of IPv6 does.
    pub dont_fragment: bool,
    /// Set if the packet is a fragment.
    pub fragment: Option<Fragment>,
    /// Identification: 16 bits of IPv4, 32 of IPv6 fragments; 0 for other IPv6 packets.
    pub identification: u32,
    /// IPv4: there is a source-route option (LSRR or SSRR). IPv6: there is a routing header of
    /// type 0 (RFC 5095) or with segments left. The same in the packet that an ICMP error quotes.
    pub source_routed: bool,
    /// The MSS option of a SYN: its value and where the value stands.
    pub mss: Option<(u16, u16)>,
    /// ICMP type and code, if the packet is ICMP (and not a later fragment).
    pub icmp: Option<(u8, u8)>,
    /// The packet is an ICMP error about an ICMP error (or about an ICMP message that nobody may
    /// answer): RFC 1122 §3.2.2 and RFC 4443 §2.4 forbid it.
    pub quotes_error: bool,
}

/// A fragment's place in its datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    /// Offset of its payload in the datagram, in bytes.
    pub offset: u16,
    /// More fragments follow.
    pub more: bool,
    /// How much of the datagram is in it, in bytes. Of a first fragment of IPv6 this counts the
    /// extension headers behind the fragment header too.
    pub length: u16,
}

impl Packet {
    /// Reads the packet at `buffer[skip..]` as it was received and makes the buffer fit it:
    /// padding behind the packet is cut off, the offload's header length is set right
    /// ([`Offload::fitted`]), and a super-frame whose checksum the device only verified gets a
    /// partial one, which is what a link that sends it expects.
    ///
    /// # Errors
    /// As [`Packet::parse`]; the buffer is then as it was.
    pub fn read(buffer: &mut Buffer, skip: usize) -> Result<Packet, ParseError> {
        let packet = Packet::parse(buffer.bytes().get(skip..).unwrap_or(&[]), &buffer.offload)?;
        buffer.truncate(skip + packet.length as usize);
        buffer.offload = buffer.offload.fitted(&packet);
        if buffer.offload.segment.is_some() && buffer.offload.checksum.is_none() {
            checksum::make_partial(buffer, skip);
        }
        Ok(packet)
    }

    /// Reads the IP packet at `bytes` (from the IP header on; bytes behind the packet's own length
    /// are padding and ignored). Checks version, header length or extension headers, total length
    /// and header checksum, that TCP, UDP and ICMP headers are whole where the packet is not a later
    /// fragment, and for ICMP errors the checksum of message and quoted header (RFC 5508 REQ-3).
    /// Checks that `offload` fits the packet, all but `Segment::header`, which kernels use as a mere
    /// hint.
    ///
    /// # Errors
    /// What is wrong, with numbers.
    pub fn parse(bytes: &[u8], offload: &Offload) -> Result<Packet, ParseError> {
        match bytes.first().map(|byte| byte >> 4) {
            Some(6) => Packet::parse_ipv6(bytes, offload),
            _ => Packet::parse_ipv4(bytes, offload),
        }
    }

    #[inline]
    fn parse_ipv4(bytes: &[u8], offload: &Offload) -> Result<Packet, ParseError> {
        let ip =
            Ipv4HeaderSlice::from_slice(bytes).map_err(|error| ParseError::ipv4("IPv4 header", error))?;
        let header = ip.slice().len();
        let length = usize::from(ip.total_len());
        if length < header {
            return Err(ParseError::Length { what: "IPv4 header", says: length, have: header });
        }
        let Some(payload) = bytes.get(header..length) else {
            return Err(ParseError::Length { what: "IPv4 total length", says: length, have: bytes.len() });
        };
        if checksum::sum(ip.slice()) != 0xffff {
            return Err(ParseError::Checksum("IPv4 header"));
        }
        let mut packet = Packet::of_ipv4(&ip);
        if ip.is_fragmenting_payload() {
            packet.fragment = Some(Fragment::of_ipv4(&ip, payload.len())?);
        }
        packet.with_transport(payload, offload)
    }

    fn parse_ipv6(bytes: &[u8], offload: &Offload) -> Result<Packet, ParseError> {
        let ip =
            Ipv6HeaderSlice::from_slice(bytes).map_err(|error| ParseError::ipv6("IPv6 header", error))?;
        let length = ipv6::length(bytes);
        let Some(whole) = bytes.get(..length) else {
            let (says, have) = (usize::from(ip.payload_length()), bytes.len() - ipv6::HEADER);
            return Err(ParseError::Length { what: "IPv6 payload length", says, have });
        };
        if ip.payload_length() == 0 && ip.next_header().0 == ipv6::HOP_BY_HOP {
            return Err(ParseError::Extension("a jumbogram"));
        }
        let chain = Chain::read(whole, "IPv6 extension header")?;
        let mut packet = Packet::of_ipv6(&ip, &chain);
        if let (Some(place), Some(at)) = (chain.fragment, chain.fragment_at) {
            packet.fragment = Some(Fragment::of_ipv6(place, at, length, chain.protocol)?);
        }
        packet.with_transport(whole.get(chain.header..).unwrap_or(&[]), offload)
    }

    /// The packet with its transport header read too, and checked against its offload.
    #[inline]
    fn with_transport(mut self, payload: &[u8], offload: &Offload) -> Result<Packet, ParseError> {
        if !self.is_later_fragment() {
            self.read_transport(payload, offload)?;
        }
        if offload.checksum.is_some() || offload.segment.is_some() {
            offload.check(&self)?;
        }
        Ok(self)
    }

    /// Whether it is a packet of IPv6.
    #[inline]
    pub fn is_ipv6(&self) -> bool {
        self.summary.source().is_ipv6()
    }

    /// What the ICMP message is to a translator, if the packet is ICMP of its family.
    #[inline]
    pub fn icmp_kind(&self) -> Option<Kind> {
        let (icmp_type, _) = self.icmp?;
        Some(if self.is_ipv6() { Kind::of_ipv6(icmp_type) } else { Kind::of(icmp_type) })
    }

    /// The MTU of the next link that an ICMP error tells: IPv4's 3/4 (RFC 1191; 0 from a router that
    /// does not know it) or IPv6's Packet Too Big (RFC 4443 §3.2). `bytes` is the packet that was
    /// read.
    pub fn next_hop_mtu(&self, bytes: &[u8]) -> Option<u32> {
        let message = bytes.get(usize::from(self.header)..)?;
        let &[_, _, _, _, a, b, c, d] = message.first_chunk()?;
        match (self.is_ipv6(), self.icmp?) {
            (true, (icmp::V6_TOO_BIG, _)) => Some(u32::from_be_bytes([a, b, c, d])),
            (false, (icmp::UNREACHABLE, 4)) => Some(u32::from(u16::from_be_bytes([c, d]))),
            _ => None,
        }
    }

    /// Whether the packet is a fragment other than the first, which has no ports.
    #[inline]
    pub fn is_later_fragment(&self) -> bool {
        self.fragment.is_some_and(|fragment| fragment.offset != 0)
    }

    /// What the IPv4 header says; the transport is still to be read.
    #[inline]
    fn of_ipv4(ip: &Ipv4HeaderSlice) -> Packet {
        let header = ip.slice().len();
        Packet {
            summary: Summary::Data(Data {
                flow: Flow {
                    protocol: Protocol::from_ipv4_number(ip.protocol().0),
                    source: Endpoint::new(ip.source_addr(), 0),
                    destination: Endpoint::new(ip.destination_addr(), 0),
                },
                tcp: TcpFlags::default(),
                segment: Segment::default(),
                asks: true,
                length: u32::from(ip.total_len()),
            }),
            header: header as u16,
            payload: header as u16,
            length: u32::from(ip.total_len()),
            ttl: ip.ttl(),
            tos: ip.slice()[1],
            dont_fragment: ip.dont_fragment(),
            fragment: None,
            identification: u32::from(ip.identification()),
            source_routed: header > 20 && has_source_route(ip.options()),
            mss: None,
            icmp: None,
            quotes_error: false,
        }
    }

    /// What the IPv6 headers say; the transport is still to be read.
    fn of_ipv6(ip: &Ipv6HeaderSlice, chain: &Chain) -> Packet {
        let length = ipv6::HEADER as u32 + u32::from(ip.payload_length());
        // At most MAX_EXTENSIONS headers of at most 2048 bytes each.
        let header = chain.header as u16;
        Packet {
            summary: Summary::Data(Data {
                flow: Flow {
                    protocol: Protocol::from_ipv6_number(chain.protocol),
                    source: Endpoint::new(ip.source_addr(), 0),
                    destination: Endpoint::new(ip.destination_addr(), 0),
                },
                tcp: TcpFlags::default(),
                segment: Segment::default(),
                asks: true,
                length,
            }),
            header,
            payload: header,
            length,
            ttl: ip.hop_limit(),
            tos: ip.traffic_class(),
            dont_fragment: true,
            fragment: None,
            identification: chain.identification,
            source_routed: chain.source_routed,
            mss: None,
            icmp: None,
            quotes_error: false,
        }
    }

    /// Reads the transport header at the front of `payload`, the packet's bytes behind the IP
    /// header.
    #[inline]
    fn read_transport(&mut self, payload: &[u8], offload: &Offload) -> Result<(), ParseError> {
        let first = self.fragment.is_some();
        let Summary::Data(data) = &mut self.summary else { return Ok(()) };
        match data.flow.protocol {
            Protocol::Tcp => {
                let tcp = TcpHeaderSlice::from_slice(payload).map_err(|error| {
                    if first {
                        ParseError::Fragment("the first fragment does not hold the whole TCP header")
                    } else {
                        ParseError::tcp(error)
                    }
                })?;
                data.flow.source.port = tcp.source_port();
                data.flow.destination.port = tcp.destination_port();
                data.tcp = TcpFlags(tcp.slice()[13]);
                let mut segment = Segment {
                    sequence: tcp.sequence_number(),
                    acknowledgement: tcp.acknowledgment_number(),
                    window: tcp.window_size(),
                    payload: (payload.len() - tcp.slice().len()) as u16,
                    scale: None,
                };
                if data.tcp.has(TcpFlags::SYN) {
                    self.mss = mss_option(tcp.slice(), self.header);
                    segment.scale = window_scale(tcp.slice());
                }
                data.segment = segment;
                self.payload += tcp.slice().len() as u16;
            }
            Protocol::Udp => {
                let udp = UdpHeaderSlice::from_slice(payload)
                    .map_err(|error| ParseError::truncated("UDP header", error))?;
                let says = usize::from(udp.length());
                // The rest of a fragment's datagram comes later; a super-frame's length field is
                // rewritten when it is cut.
                let whole = !first && offload.segment.is_none();
                if says < 8 || (whole && says > payload.len()) {
                    return Err(ParseError::Length { what: "UDP length", says, have: payload.len() });
                }
                data.flow.source.port = udp.source_port();
                data.flow.destination.port = udp.destination_port();
                self.payload += 8;
            }
            Protocol::Icmp => return self.read_icmp(payload),
            Protocol::Other(_) => {}
        }
        Ok(())
    }

    /// Reads the ICMP message.
    fn read_icmp(&mut self, message: &[u8]) -> Result<(), ParseError> {
        let Some([icmp_type, code, _, _, id_high, id_low, _, _]) = message.first_chunk() else {
            return Err(ParseError::Truncated {
                what: "ICMP header",
                need: icmp::HEADER,
                have: message.len(),
            });
        };
        self.icmp = Some((*icmp_type, *code));
        self.payload += icmp::HEADER as u16;
        let Summary::Data(data) = &mut self.summary else { return Ok(()) };
        let identifier = u16::from_be_bytes([*id_high, *id_low]);
        let ends = (data.flow.source.ip, data.flow.destination.ip);
        let kind = if ends.0.is_ipv6() { Kind::of_ipv6(*icmp_type) } else { Kind::of(*icmp_type) };
        match kind {
            Kind::Asks => data.flow.source.port = identifier,
            Kind::Answers => {
                data.flow.destination.port = identifier;
                data.asks = false;
            }
            Kind::Other => data.asks = false,
            Kind::Error => {
                if self.fragment.is_some() {
                    return Err(ParseError::Fragment("an ICMP error that is fragmented cannot be checked"));
                }
                if checksum::icmp(ends.0, ends.1, message) != 0 {
                    return Err(ParseError::Checksum("ICMP error"));
                }
                let quote = match ends.0 {
                    IpAddr::V4(_) => Quote::read(message)?,
                    IpAddr::V6(_) => Quote::read_ipv6(message)?,
                };
                self.quotes_error = quote.is_error;
                self.source_routed |= quote.source_routed;
                self.summary = Summary::Error(ErrorAbout {
                    from: ends.0,
                    to: ends.1,
                    about: quote.flow,
                    sequence: quote.sequence,
                    length: self.length,
                });
            }
        }
        Ok(())
    }
}

impl Fragment {
    /// Reads the place of a fragment with `payload` bytes behind its IPv4 header.
    fn of_ipv4(ip: &Ipv4HeaderSlice, payload: usize) -> Result<Fragment, ParseError> {
        let offset = ip.fragments_offset().value() * 8;
        let tcp = ip.protocol() == etherparse::IpNumber::TCP;
        Fragment::checked(offset, ip.more_fragments(), payload, ip.slice().len(), tcp)
    }

    /// Reads the place of a fragment whose fragment header stands at `at` of the `length` bytes of
    /// its packet. The datagram it belongs to is bounded by its payload length field, which counts
    /// the extension headers before the fragment header.
    fn of_ipv6(place: ipv6::Place, at: usize, length: usize, protocol: u8) -> Result<Fragment, ParseError> {
        let tcp = Protocol::from_ipv6_number(protocol) == Protocol::Tcp;
        let payload = length - at - ipv6::FRAGMENT_HEADER;
        Fragment::checked(place.offset, place.more, payload, at - ipv6::HEADER, tcp)
    }

    /// A fragment with `payload` bytes of a datagram whose length field counts `headers` bytes more.
    /// Refuses those that are made to deceive.
    #[inline]
    fn checked(
        offset: u16,
        more: bool,
        payload: usize,
        headers: usize,
        tcp: bool,
    ) -> Result<Fragment, ParseError> {
        if payload == 0 {
            return Err(ParseError::Fragment("without payload"));
        }
        if more && !payload.is_multiple_of(8) {
            return Err(ParseError::Fragment("payload of all but the last is a multiple of 8 bytes"));
        }
        if usize::from(offset) + headers + payload > 65535 {
            return Err(ParseError::Fragment("ends beyond the largest datagram"));
        }
        if offset == 8 && tcp {
            return Err(ParseError::Fragment("begins inside the TCP header"));
        }
        Ok(Fragment { offset, more, length: payload as u16 })
    }
}

/// Whether IPv4 options have a loose or strict source route.
pub(super) fn has_source_route(options: &[u8]) -> bool {
    const LOOSE: u8 = 0x83;
    const STRICT: u8 = 0x89;
    tlv_options(options).any(|(kind, _, _)| matches!(kind, LOOSE | STRICT))
}

/// The value of the MSS option of a TCP header, and where it stands, counted from an IP header of
/// `ip_header` bytes.
fn mss_option(header: &[u8], ip_header: u16) -> Option<(u16, u16)> {
    const MSS: u8 = 2;
    let (_, at, _) = tlv_options(&header[20..]).find(|(kind, _, length)| *kind == MSS && *length == 4)?;
    let at = 20 + at + 2;
    let value = u16::from_be_bytes([header[at], header[at + 1]]);
    Some((value, ip_header + at as u16))
}

/// The window scale option of a TCP header; more than 14 counts as 14 (RFC 7323 §2.3).
fn window_scale(header: &[u8]) -> Option<u8> {
    const WINDOW_SCALE: u8 = 3;
    let (_, at, _) =
        tlv_options(&header[20..]).find(|(kind, _, length)| *kind == WINDOW_SCALE && *length == 3)?;
    Some(header[20 + at + 2].min(14))
}

/// The options of an IPv4 or TCP header, which share their format: kind, offset, length. Ends at
/// the end-of-list option, or where an option runs out of the header.
pub(super) fn tlv_options(options: &[u8]) -> impl Iterator<Item = (u8, usize, usize)> + '_ {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    let mut at = 0;
    std::iter::from_fn(move || {
        let kind = *options.get(at)?;
        let length = match kind {
            END => return None,
            NO_OPERATION => 1,
            _ => usize::from(*options.get(at + 1)?),
        };
        if length == 0 || (kind != NO_OPERATION && length < 2) || at + length > options.len() {
            return None;
        }
        let found = (kind, at, length);
        at += length;
        Some(found)
    })
}
