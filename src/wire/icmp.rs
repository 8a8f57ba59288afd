//! ICMP for IPv4 (RFC 792): which messages ask, answer or report, and what a report quotes.
//!
//! The quote is the trap of this protocol. It is a packet cut short, often after 8 bytes of its
//! transport header, so nothing that reads whole packets can read it; the total length in it says
//! more than there is; its transport checksum can hardly ever be checked and must not be (RFC 5508
//! REQ-3c). Behind it there may be extensions (RFC 4884) that are not part of the quoted packet.

use super::{ParseError, checksum};
use crate::flow::{Endpoint, Flow, Protocol};
use etherparse::Ipv4HeaderSlice;

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
    /// link or nobody.
    Other,
}

impl Kind {
    /// The kind of messages of this type.
    pub const fn of(icmp_type: u8) -> Kind {
        match icmp_type {
            ECHO_REQUEST | TIMESTAMP => Kind::Asks,
            ECHO_REPLY | TIMESTAMP_REPLY => Kind::Answers,
            UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM => Kind::Error,
            _ => Kind::Other,
        }
    }

    /// Whether messages of this type must never be answered with an ICMP error (RFC 1122 §3.2.2):
    /// all that report something, and all that we do not know.
    pub const fn silences(icmp_type: u8) -> bool {
        !matches!(Kind::of(icmp_type), Kind::Asks | Kind::Answers)
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

    /// Reads the quote in `message`, which begins at the ICMP header. Checks the quoted header's
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
            has_ports: false,
            sequence: None,
            transport: HEADER + header,
            end: HEADER + end,
        };
        if quote.first {
            quote.read_transport(&quoted[header..end])?;
        }
        Ok(quote)
    }

    /// Reads the first 8 bytes of the quoted transport header.
    fn read_transport(&mut self, transport: &[u8]) -> Result<(), ParseError> {
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
        let kind = Kind::of(*a);
        self.asks = kind == Kind::Asks;
        self.is_error = Kind::silences(*a);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirect_and_quench_are_neither_errors_to_translate_nor_answered() {
        for icmp_type in [REDIRECT, SOURCE_QUENCH, 9, 42] {
            assert_eq!(Kind::of(icmp_type), Kind::Other);
            assert!(Kind::silences(icmp_type));
        }
        assert!(!Kind::silences(ECHO_REQUEST));
        assert!(Kind::silences(TIME_EXCEEDED));
    }

    #[test]
    fn a_quote_ends_where_extensions_begin() {
        assert_eq!(quote_length(&[11, 0, 0, 0, 0, 32, 0, 0], 200), 128);
        assert_eq!(quote_length(&[11, 0, 0, 0, 0, 0, 0, 0], 200), 200);
        assert_eq!(quote_length(&[11, 0, 0, 0, 0, 33, 0, 0], 130), 130);
        assert_eq!(quote_length(&[11, 0, 0, 0, 0, 7, 0, 0], 200), 200);
    }
}
