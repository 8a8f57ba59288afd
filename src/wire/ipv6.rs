//! IPv6 headers (RFC 8200): the fixed one, and the chain of extension headers behind it.
//!
//! ```text
//!   IPv6 header    hop-by-hop    destination    routing    fragment    destination    TCP
//!   next: 0 ─────► next: 60 ───► next: 43 ────► next: 44 ► next: 60 ─► next: 6 ─────► ...
//!                  at most the first, and only here        at most one
//! ```
//!
//! Each header says what follows it and, the fragment header apart, how long it is. A middlebox
//! must walk the chain to find the ports, and somebody who wants to hide them makes it long: the
//! walk is bounded. Beyond hop-by-hop options first (the only header that every router may read)
//! the order is a recommendation (RFC 8200 §4.1) and not asked for. Authentication (51) and
//! encryption (50) end the chain: what is behind them is not ours to read, and they are protocols
//! without ports.
//!
//! Behind the fragment header of a later fragment there is no header but the middle of a payload,
//! so the chain ends there. A fragment header on a whole packet (offset 0, nothing to follow) is an
//! **atomic fragment** (RFC 6946): it is no fragment, and meets no other with its identification.

use super::ParseError;

/// Length of the fixed header, in bytes.
pub const HEADER: usize = 40;
/// The smallest MTU of a link (RFC 8200 §5), in bytes.
pub const MIN_MTU: u16 = 1280;
/// The most extension headers in one packet: each kind once, destination options twice (RFC 8200
/// §4.1), and some to spare.
pub const MAX_EXTENSIONS: usize = 8;

/// Next-header number of hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// Next-header number of a routing header.
pub const ROUTING: u8 = 43;
/// Next-header number of a fragment header.
pub const FRAGMENT: u8 = 44;
/// Next-header number of destination options.
pub const DESTINATION_OPTIONS: u8 = 60;
/// Next-header number that says that nothing follows.
pub const NOTHING: u8 = 59;

/// Places in the fixed header.
const PAYLOAD_LENGTH: usize = 4;
const NEXT_HEADER: usize = 6;

/// Length of a fragment header, in bytes.
pub const FRAGMENT_HEADER: usize = 8;
/// All other extension headers are a multiple of this long, in bytes.
const UNIT: usize = 8;
/// What the headers before the transport say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Chain {
    /// The number of what follows the last header read. For a later fragment, what its fragment
    /// header says: the first header of the fragmented part, which may be another extension.
    pub protocol: u8,
    /// Length of all headers before it.
    pub header: usize,
    /// Where the fragment header stands, if there is one.
    pub fragment_at: Option<usize>,
    /// The place of the fragment; `None` for whole packets, atomic fragments among them.
    pub fragment: Option<Place>,
    /// Identification of the fragment header, 0 if there is none.
    pub identification: u32,
    /// A routing header of type 0 (RFC 5095), or any with segments left.
    pub source_routed: bool,
}

/// Where a fragment belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// Offset in the fragmented part, in bytes.
    pub offset: u16,
    /// More fragments follow.
    pub more: bool,
}

/// Length of the packet by its length field, with the fixed header.
///
/// # Panics
/// If `packet` has no whole fixed header.
pub(super) fn length(packet: &[u8]) -> usize {
    HEADER + usize::from(u16::from_be_bytes([packet[PAYLOAD_LENGTH], packet[PAYLOAD_LENGTH + 1]]))
}

impl Chain {
    /// Reads the extension headers of `packet`, which begins at the fixed header, has all of it and
    /// ends where the packet ends (or the quote of it). `what` names them in errors.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] if a header runs out of the packet, [`ParseError::Fragment`] if it
    /// does in a first fragment (RFC 7112), [`ParseError::Extension`] for an impossible chain.
    ///
    /// # Panics
    /// If `packet` has no whole fixed header.
    pub fn read(packet: &[u8], what: &'static str) -> Result<Chain, ParseError> {
        let mut chain = Chain {
            protocol: packet[NEXT_HEADER],
            header: HEADER,
            fragment_at: None,
            fragment: None,
            identification: 0,
            source_routed: false,
        };
        for _ in 0..MAX_EXTENSIONS {
            if !chain.step(packet, what)? {
                return Ok(chain);
            }
        }
        match is_extension(chain.protocol) && !chain.is_later_fragment() {
            true => Err(ParseError::Extension("more than anybody needs")),
            false => Ok(chain),
        }
    }

    /// Whether the packet is a fragment other than the first.
    pub fn is_later_fragment(&self) -> bool {
        self.fragment.is_some_and(|place| place.offset != 0)
    }

    /// Reads the next extension header; false if there is none.
    fn step(&mut self, packet: &[u8], what: &'static str) -> Result<bool, ParseError> {
        if !is_extension(self.protocol) || self.is_later_fragment() {
            return Ok(false);
        }
        if self.protocol == HOP_BY_HOP && self.header != HEADER {
            return Err(ParseError::Extension("hop-by-hop options are not first"));
        }
        if self.protocol == FRAGMENT && self.fragment_at.is_some() {
            return Err(ParseError::Extension("two fragment headers"));
        }
        let rest = packet.get(self.header..).unwrap_or(&[]);
        let short = |need| {
            if self.fragment.is_some() {
                ParseError::Fragment("the first fragment does not hold all headers")
            } else {
                ParseError::Truncated { what, need, have: rest.len() }
            }
        };
        let Some(&[next, units, b2, b3, b4, b5, b6, b7]) = rest.first_chunk() else {
            return Err(short(UNIT));
        };
        let mut length = FRAGMENT_HEADER;
        if self.protocol == FRAGMENT {
            let place = u16::from_be_bytes([b2, b3]);
            let (offset, more) = (place & !7, place & 1 != 0);
            self.fragment_at = Some(self.header);
            self.fragment = (offset != 0 || more).then_some(Place { offset, more });
            self.identification = u32::from_be_bytes([b4, b5, b6, b7]);
        } else {
            length = UNIT + usize::from(units) * UNIT;
            if rest.len() < length {
                return Err(short(length));
            }
            let (kind, segments_left) = (b2, b3);
            self.source_routed |= self.protocol == ROUTING && (kind == 0 || segments_left != 0);
        }
        self.protocol = next;
        self.header += length;
        Ok(true)
    }
}

/// Whether a header with this number belongs to the chain that is walked.
const fn is_extension(number: u8) -> bool {
    matches!(number, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS)
}
