//! ICMP of both families (RFC 792, RFC 4443): which messages ask, answer or report, and what a
//! report quotes.
//!
//! The quote is the trap of this protocol. It is a packet cut short, often after 8 bytes of its
//! transport header, so nothing that reads whole packets can read it; the total length in it says
//! more than there is; its transport checksum can hardly ever be checked and must not be (RFC 5508
//! REQ-3c). Behind it there may be extensions (RFC 4884) that are not part of the quoted packet.
//!
//! The numbers of the families have nothing in common: type 3 is unreachable in one and time
//! exceeded in the other. Names without a family are IPv4's.

use super::ipv6::{self, Chain};
use super::packet::has_source_route;
use super::{ParseError, checksum};
use crate::flow::{Endpoint, Flow, Protocol};
use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice};

/// Echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Destination unreachable.
pub const UNREACHABLE: u8 = 3;
/// Source quench (deprecated by RFC 6633).
pub const SOURCE_QUENCH: u8 = 4;
/// Redirect.
pub const REDIRECT: u8 = 5;
/// Echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Time exceeded.
pub const TIME_EXCEEDED: u8 = 11;
/// Parameter problem.
pub const PARAMETER_PROBLEM: u8 = 12;
/// Timestamp request.
pub const TIMESTAMP: u8 = 13;
/// Timestamp reply.
pub const TIMESTAMP_REPLY: u8 = 14;

/// IPv6: destination unreachable.
pub const V6_UNREACHABLE: u8 = 1;
/// IPv6: packet too big.
pub const V6_TOO_BIG: u8 = 2;
/// IPv6: time exceeded.
pub const V6_TIME_EXCEEDED: u8 = 3;
/// IPv6: parameter problem.
pub const V6_PARAMETER_PROBLEM: u8 = 4;
/// IPv6: echo request.
pub const V6_ECHO_REQUEST: u8 = 128;
/// IPv6: echo reply.
pub const V6_ECHO_REPLY: u8 = 129;
/// IPv6: router solicitation (RFC 4861; this and the next four are of the link).
pub const V6_ROUTER_SOLICITATION: u8 = 133;
/// IPv6: router advertisement.
pub const V6_ROUTER_ADVERTISEMENT: u8 = 134;
/// IPv6: neighbor solicitation.
pub const V6_NEIGHBOR_SOLICITATION: u8 = 135;
/// IPv6: neighbor advertisement.
pub const V6_NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// IPv6: redirect.
pub const V6_REDIRECT: u8 = 137;

/// Length of the part that every ICMP message has, in bytes.
pub const HEADER: usize = 8;

/// What an ICMP message is to a translator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It asks for an answer and carries an identifier.
    Asks,
    /// It answers one that asks, with the same identifier.
    Answers,
    /// It reports about a packet, which it quotes, and may be translated.
    Error,
    /// Anything else. Redirect and source quench are here: they quote a packet, but concern the
    /// link or nobody. So are neighbor discovery and multicast listener discovery of IPv6.
    Other,
}

impl Kind {
    /// The kind of IPv4 messages of this type.
    pub const fn of(icmp_type: u8) -> Kind {
        match icmp_type {
            ECHO_REQUEST | TIMESTAMP => Kind::Asks,
            ECHO_REPLY | TIMESTAMP_REPLY => Kind::Answers,
            UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM => Kind::Error,
            _ => Kind::Other,
        }
    }

    /// The kind of IPv6 messages of this type.
    pub const fn of_ipv6(icmp_type: u8) -> Kind {
        match icmp_type {
            V6_ECHO_REQUEST => Kind::Asks,
            V6_ECHO_REPLY => Kind::Answers,
            V6_UNREACHABLE | V6_TOO_BIG | V6_TIME_EXCEEDED | V6_PARAMETER_PROBLEM => Kind::Error,
            _ => Kind::Other,
        }
    }

    /// Whether messages of this kind must never be answered with an ICMP error (RFC 1122 §3.2.2,
    /// RFC 4443 §2.4): all that report something, and all that we do not know.
    pub const fn silences(self) -> bool {
        !matches!(self, Kind::Asks | Kind::Answers)
    }
}

/// The packet that an ICMP error quotes. Offsets count from the start of the ICMP message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Quote {
    /// The quoted flow; ports 0 where the quote has none.
    pub flow: Flow,
    /// The quoted packet is an ICMP query that asks (its identifier is at the source).
    pub asks: bool,
    /// The quoted packet is itself an ICMP error, or may be: it has no session.
    pub is_error: bool,
    /// The quoted packet is whole or the first fragment: its transport header is in the quote.
    pub first: bool,
    /// The quoted packet is source-routed, as [`super::Packet::source_routed`] says.
    pub source_routed: bool,
    /// The quoted packet has ports or an identifier in the quote.
    pub has_ports: bool,
    /// The sequence number of a quoted TCP segment, if the quote holds it.
    pub sequence: Option<u32>,
    /// Where the quoted transport header begins.
    pub transport: usize,
    /// Where the quoted packet ends, extensions and padding left out.
    pub end: usize,
}

impl Quote {
    /// Where every quoted IP header begins.
    pub const IP: usize = HEADER;

    /// Reads the quote in the IPv4 `message`, which begins at the ICMP header. Checks the quoted header's
    /// checksum (RFC 5508 REQ-3a), not that of the message.
    ///
    /// # Errors
    /// What is wrong with the quote.
    pub fn read(message: &[u8]) -> Result<Quote, ParseError> {
        let quoted = message.get(HEADER..).unwrap_or(&[]);
        let ip = Ipv4HeaderSlice::from_slice(quoted)
            .map_err(|error| ParseError::ipv4("quoted IPv4 header", error))?;
        if checksum::sum(ip.slice()) != 0xffff {
            return Err(ParseError::Checksum("quoted IPv4 header"));
        }
        let header = ip.slice().len();
        let says = usize::from(ip.total_len());
        if says < header {
            return Err(ParseError::Length { what: "quoted IPv4 header", says, have: header });
        }
        let end = quote_length(message, quoted.len()).max(header).min(says);
        let protocol = Protocol::from_ipv4_number(ip.protocol().0);
        let mut quote = Quote {
            flow: Flow {
                protocol,
                source: Endpoint::new(ip.source_addr(), 0),
                destination: Endpoint::new(ip.destination_addr(), 0),
            },
            asks: true,
            is_error: false,
            first: ip.fragments_offset().value() == 0,
            source_routed: has_source_route(ip.options()),
            has_ports: false,
            sequence: None,
            transport: HEADER + header,
            end: HEADER + end,
        };
        if quote.first {
            quote.read_transport(&quoted[header..end], Kind::of)?;
        }
        Ok(quote)
    }

    /// Reads the quote in the IPv6 `message`, which begins at the ICMP header. Its headers have no
    /// checksum that could be checked.
    ///
    /// # Errors
    /// What is wrong with the quote.
    pub fn read_ipv6(message: &[u8]) -> Result<Quote, ParseError> {
        let quoted = message.get(HEADER..).unwrap_or(&[]);
        let ip = Ipv6HeaderSlice::from_slice(quoted)
            .map_err(|error| ParseError::ipv6("quoted IPv6 header", error))?;
        let end = quote_length_ipv6(message, quoted.len()).max(ipv6::HEADER).min(ipv6::length(quoted));
        let quoted = &quoted[..end];
        let chain = Chain::read(quoted, "quoted IPv6 extension header")?;
        let header = chain.header.min(end);
        let mut quote = Quote {
            flow: Flow {
                protocol: Protocol::from_ipv6_number(chain.protocol),
                source: Endpoint::new(ip.source_addr(), 0),
                destination: Endpoint::new(ip.destination_addr(), 0),
            },
            asks: true,
            is_error: false,
            first: !chain.is_later_fragment(),
            source_routed: chain.source_routed,
            has_ports: false,
            sequence: None,
            transport: HEADER + header,
            end: HEADER + end,
        };
        if quote.first {
            quote.read_transport(&quoted[header..], Kind::of_ipv6)?;
        }
        Ok(quote)
    }

    /// Reads the first 8 bytes of the quoted transport header. `kind` tells ICMP messages apart.
    fn read_transport(&mut self, transport: &[u8], kind: fn(u8) -> Kind) -> Result<(), ParseError> {
        let what = match self.flow.protocol {
            Protocol::Tcp => "quoted TCP header",
            Protocol::Udp => "quoted UDP header",
            Protocol::Icmp => "quoted ICMP header",
            Protocol::Other(_) => return Ok(()),
        };
        let Some([a, b, c, d, e, f, g, h]) = transport.first_chunk() else {
            return Err(ParseError::Truncated { what, need: 8, have: transport.len() });
        };
        if self.flow.protocol != Protocol::Icmp {
            self.flow.source.port = u16::from_be_bytes([*a, *b]);
            self.flow.destination.port = u16::from_be_bytes([*c, *d]);
            self.has_ports = true;
            if self.flow.protocol == Protocol::Tcp {
                self.sequence = Some(u32::from_be_bytes([*e, *f, *g, *h]));
            }
            return Ok(());
        }
        let identifier = u16::from_be_bytes([*e, *f]);
        let kind = kind(*a);
        self.asks = kind == Kind::Asks;
        self.is_error = kind.silences();
        match kind {
            Kind::Asks => self.flow.source.port = identifier,
            Kind::Answers => self.flow.destination.port = identifier,
            Kind::Error | Kind::Other => {}
        }
        self.has_ports = matches!(kind, Kind::Asks | Kind::Answers);
        Ok(())
    }
}

/// How many of the `there` bytes behind the ICMP header are the quote: all, unless the message
/// has extensions. It then says in its sixth byte how many 32-bit words are quoted, 32 at least
/// (RFC 4884 §3); anything that does not fit that is left-over bytes of an old sender.
fn quote_length(message: &[u8], there: usize) -> usize {
    match message.get(5).map(|words| usize::from(*words) * 4) {
        Some(length) if length >= 128 && length <= there => length,
        _ => there,
    }
}

/// The same for IPv6, where only unreachable and time exceeded have extensions, and the fifth byte
/// counts words of 64 bits (RFC 4884 §4.4, §4.5).
fn quote_length_ipv6(message: &[u8], there: usize) -> usize {
    let length = match message.first_chunk() {
        Some([V6_UNREACHABLE | V6_TIME_EXCEEDED, _, _, _, words]) => usize::from(*words) * 8,
        _ => 0,
    };
    if length >= 128 && length <= there { length } else { there }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirect_and_quench_are_neither_errors_to_translate_nor_answered() {
        for icmp_type in [REDIRECT, SOURCE_QUENCH, 9, 42] {
            assert_eq!(Kind::of(icmp_type), Kind::Other);
            assert!(Kind::of(icmp_type).silences());
        }
        assert!(!Kind::of(ECHO_REQUEST).silences());
        assert!(Kind::of(TIME_EXCEEDED).silences());
    }

    #[test]
    fn neighbor_and_listener_discovery_of_ipv6_are_for_the_link() {
        for icmp_type in (130..=137).chain([0, 5, 100, 127, 143, 255]) {
            assert_eq!(Kind::of_ipv6(icmp_type), Kind::Other);
            assert!(Kind::of_ipv6(icmp_type).silences());
        }
        for icmp_type in 1..=4 {
            assert_eq!(Kind::of_ipv6(icmp_type), Kind::Error);
        }
        assert_eq!((Kind::of_ipv6(128), Kind::of_ipv6(129)), (Kind::Asks, Kind::Answers));
        assert!(!Kind::of_ipv6(V6_ECHO_REQUEST).silences());
    }

    #[test]
    fn a_quote_ends_where_extensions_begin() {
        assert_eq!(quote_length(&[11, 0, 0, 0, 0, 32, 0, 0], 200), 128);
        assert_eq!(quote_length(&[11, 0, 0, 0, 0, 0, 0, 0], 200), 200);
        assert_eq!(quote_length(&[11, 0, 0, 0, 0, 33, 0, 0], 130), 130);
        assert_eq!(quote_length(&[11, 0, 0, 0, 0, 7, 0, 0], 200), 200);
        assert_eq!(quote_length_ipv6(&[3, 0, 0, 0, 16, 0, 0, 0], 200), 128);
        assert_eq!(quote_length_ipv6(&[2, 0, 0, 0, 16, 0, 0, 0], 200), 200, "the MTU of Packet Too Big");
        assert_eq!(quote_length_ipv6(&[1, 0, 0, 0, 15, 0, 0, 0], 200), 200);
        assert_eq!(quote_length_ipv6(&[1, 0, 0, 0, 26, 0, 0, 0], 200), 200);
    }
}
