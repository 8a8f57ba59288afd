//! What a translator must know of a packet, and nothing else.

use super::{Flow, Protocol};
use std::net::IpAddr;

/// A packet as the translator sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Summary {
    /// A packet that carries something from one endpoint to another.
    Data(Data),
    /// An ICMP error about an earlier packet.
    Error(ErrorAbout),
}

/// A packet that carries something from one endpoint to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Data {
    /// Who talks to whom.
    pub flow: Flow,
    /// The flags of a TCP segment; empty for other protocols.
    pub tcp: TcpFlags,
    /// The numbers of a TCP segment; all zero for other protocols.
    pub segment: Segment,
    /// Whether an ICMP query asks (its identifier is at the source) or answers (at the
    /// destination). True for every other protocol.
    pub asks: bool,
    /// Length of the IP packet in bytes; a super-frame counts whole.
    pub length: u32,
}

/// An ICMP error about an earlier packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ErrorAbout {
    /// Who reports it.
    pub from: IpAddr,
    /// Who it is reported to.
    pub to: IpAddr,
    /// The flow of the quoted packet, as quoted.
    pub about: Flow,
    /// The sequence number of a quoted TCP segment; `None` for other protocols and later fragments.
    pub sequence: Option<u32>,
    /// Length of the IP packet in bytes.
    pub length: u32,
}

/// The numbers of a TCP segment (RFC 9293 §3.1), as far as a window tracker reads them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Segment {
    /// Sequence number of the first byte, or of the SYN.
    pub sequence: u32,
    /// Acknowledgement number; means nothing without the ACK flag.
    pub acknowledgement: u32,
    /// The window field as written, not scaled.
    pub window: u16,
    /// Payload in bytes; a super-frame counts whole. SYN and FIN are not counted.
    pub payload: u16,
    /// The window scale option of a SYN (RFC 7323 §2.2), 14 at most.
    pub scale: Option<u8>,
}

impl Summary {
    /// The flow that the packet belongs to or reports about, as written in it.
    pub fn flow(&self) -> Flow {
        match self {
            Summary::Data(data) => data.flow,
            Summary::Error(error) => error.about,
        }
    }

    /// The source address of the packet itself.
    pub fn source(&self) -> IpAddr {
        match self {
            Summary::Data(data) => data.flow.source.ip,
            Summary::Error(error) => error.from,
        }
    }

    /// The destination address of the packet itself.
    pub fn destination(&self) -> IpAddr {
        match self {
            Summary::Data(data) => data.flow.destination.ip,
            Summary::Error(error) => error.to,
        }
    }

    /// The protocol of [`Summary::flow`].
    pub fn protocol(&self) -> Protocol {
        self.flow().protocol
    }

    /// Length of the IP packet in bytes.
    pub fn length(&self) -> u32 {
        match self {
            Summary::Data(data) => data.length,
            Summary::Error(error) => error.length,
        }
    }
}

/// The TCP flags a translator reads, in their places in the header's flag byte (RFC 9293 §3.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: TcpFlags = TcpFlags(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: TcpFlags = TcpFlags(0x02);
    /// Reset the connection.
    pub const RST: TcpFlags = TcpFlags(0x04);
    /// Push.
    pub const PSH: TcpFlags = TcpFlags(0x08);
    /// The acknowledgement number is valid.
    pub const ACK: TcpFlags = TcpFlags(0x10);
    /// The urgent pointer is valid.
    pub const URG: TcpFlags = TcpFlags(0x20);

    /// Whether all flags of `other` are set.
    pub const fn has(self, other: TcpFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// The flags of both.
    #[must_use]
    pub const fn with(self, other: TcpFlags) -> TcpFlags {
        TcpFlags(self.0 | other.0)
    }

    /// A SYN without ACK: somebody opens a connection.
    pub const fn opens(self) -> bool {
        self.has(TcpFlags::SYN) && !self.has(TcpFlags::ACK)
    }

    /// Whether the set of flags is one that a TCP may send: exactly one of SYN, RST or ACK-only
    /// kinds, no SYN+FIN, no FIN without ACK, not empty (as Linux `tcp_valid_flags`; PSH, ECE and
    /// CWR are ignored).
    pub const fn plausible(self) -> bool {
        matches!(self.0 & 0x37, 0x02 | 0x22 | 0x12 | 0x04 | 0x14 | 0x11 | 0x31 | 0x10 | 0x30)
    }
}

impl std::fmt::Debug for TcpFlags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = [(0x02, 'S'), (0x01, 'F'), (0x04, 'R'), (0x08, 'P'), (0x10, '.'), (0x20, 'U')];
        for (bit, name) in names {
            if self.0 & bit != 0 {
                write!(f, "{name}")?;
            }
        }
        Ok(())
    }
}
