//! Why bytes are not a packet.

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
    /// The version field is neither 4 nor 6.
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
    /// The IPv4 header checksum (of the packet, or of the header that an ICMP error quotes) is wrong.
    #[error("{0}: bad checksum")]
    Checksum(&'static str),
    /// The offload data that came with the packet contradicts the packet.
    #[error("offload: {0}")]
    Offload(&'static str),
    /// IPv6, which this version does not carry.
    #[error("IPv6 is not carried")]
    Ipv6,
}

impl ParseError {
    /// The stable word for counters.
    pub fn word(self) -> &'static str {
        match self {
            ParseError::Truncated { .. } => "truncated",
            ParseError::Version(_) => "bad-version",
            ParseError::HeaderLength(_) => "bad-header-length",
            ParseError::Length { .. } => "bad-length",
            ParseError::Checksum(_) => "bad-checksum",
            ParseError::Offload(_) => "bad-offload",
            ParseError::Ipv6 => "ipv6",
        }
    }
}
