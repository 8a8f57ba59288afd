//! Why bytes are not a packet.

use etherparse::err::ipv4::{HeaderError, HeaderSliceError};
use etherparse::err::{LenError, ipv6, tcp};

/// Why bytes are not a packet we can read. Each names what was read and the numbers that clash.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseError {
    /// Fewer bytes than the header needs.
    #[error("{what}: {need} bytes needed, {have} there")]
    Truncated {
        /// The header.
        what: &'static str,
        /// Bytes it needs.
        need: usize,
        /// Bytes there are.
        have: usize,
    },
    /// The version field is neither 4 nor 6, or that of a quoted packet is not that of the error.
    #[error("IP version {0}")]
    Version(u8),
    /// The IPv4 header length field is below 5 words.
    #[error("IPv4 header length {0} words")]
    HeaderLength(u8),
    /// A length field says more than there is, or less than its own header.
    #[error("{what}: length field says {says}, {have} there")]
    Length {
        /// The header.
        what: &'static str,
        /// What its length field says.
        says: usize,
        /// What there is.
        have: usize,
    },
    /// A checksum is wrong: the IPv4 header's, an ICMP error's, or that of the IPv4 header it quotes.
    #[error("{0}: bad checksum")]
    Checksum(&'static str),
    /// A fragment that no honest sender makes (RFC 1858, RFC 3128, RFC 7112), or a packet that
    /// cannot be fragmented as asked.
    #[error("fragment: {0}")]
    Fragment(&'static str),
    /// The offload data that came with the packet contradicts the packet.
    #[error("offload: {0}")]
    Offload(&'static str),
    /// IPv6 extension headers that no honest sender makes: hop-by-hop options that are not first,
    /// two fragment headers, more headers than `MAX_EXTENSIONS` (RFC 8200 §4.1), or a jumbogram (RFC
    /// 2675).
    #[error("IPv6 extension headers: {0}")]
    Extension(&'static str),
}

impl ParseError {
    /// The words of all variants, in the order of [`ParseError::index`].
    pub const WORDS: [&'static str; 8] = [
        "truncated",
        "bad-version",
        "bad-header-length",
        "bad-length",
        "bad-checksum",
        "bad-offload",
        "bad-fragment",
        "bad-extension",
    ];

    /// The stable word for counters.
    pub fn word(self) -> &'static str {
        Self::WORDS[self.index()]
    }

    /// This variant's place among the counters.
    pub fn index(self) -> usize {
        match self {
            ParseError::Truncated { .. } => 0,
            ParseError::Version(_) => 1,
            ParseError::HeaderLength(_) => 2,
            ParseError::Length { .. } => 3,
            ParseError::Checksum(_) => 4,
            ParseError::Offload(_) => 5,
            ParseError::Fragment(_) => 6,
            ParseError::Extension(_) => 7,
        }
    }

    /// What etherparse found wrong with the IPv4 header that is called `what`.
    pub(super) fn ipv4(what: &'static str, error: HeaderSliceError) -> Self {
        match error {
            HeaderSliceError::Len(error) => ParseError::truncated(what, error),
            HeaderSliceError::Content(HeaderError::UnexpectedVersion { version_number }) => {
                ParseError::Version(version_number)
            }
            HeaderSliceError::Content(HeaderError::HeaderLengthSmallerThanHeader { ihl }) => {
                ParseError::HeaderLength(ihl)
            }
        }
    }

    /// What etherparse found wrong with the fixed IPv6 header that is called `what`.
    pub(super) fn ipv6(what: &'static str, error: ipv6::HeaderSliceError) -> Self {
        match error {
            ipv6::HeaderSliceError::Len(error) => ParseError::truncated(what, error),
            ipv6::HeaderSliceError::Content(ipv6::HeaderError::UnexpectedVersion { version_number }) => {
                ParseError::Version(version_number)
            }
        }
    }

    /// What etherparse found wrong with a TCP header.
    pub(super) fn tcp(error: tcp::HeaderSliceError) -> Self {
        match error {
            tcp::HeaderSliceError::Len(error) => ParseError::truncated("TCP header", error),
            tcp::HeaderSliceError::Content(tcp::HeaderError::DataOffsetTooSmall { data_offset }) => {
                ParseError::Length { what: "TCP data offset", says: usize::from(data_offset) * 4, have: 20 }
            }
        }
    }

    /// Fewer bytes than the header called `what` needs.
    pub(super) fn truncated(what: &'static str, error: LenError) -> Self {
        ParseError::Truncated { what, need: error.required_len, have: error.len }
    }
}
