//! Plain copies of mappings and sessions, for those who look.

use crate::flow::{Endpoint, Protocol, Time};
use std::time::Duration;

/// A session as it was at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionView {
    /// Unique while the translator lives.
    pub id: u64,
    /// What carries the ports.
    pub protocol: Protocol,
    /// Who the inside host is.
    pub inside: Endpoint,
    /// Who we say it is.
    pub outside: Endpoint,
    /// Who it talks to.
    pub remote: Endpoint,
    /// The TCP state; `None` for other protocols.
    pub tcp: Option<TcpState>,
    /// A packet has come from the remote.
    pub answered: bool,
    /// The mapping is a port forward.
    pub published: bool,
    /// When it was opened.
    pub opened: Time,
    /// How long it still lives if nothing more comes.
    pub expires_in: Duration,
    /// Packets from the inside; a super-frame counts as one.
    pub packets_out: u64,
    /// Packets from the remote; a super-frame counts as one.
    pub packets_in: u64,
    /// Bytes of IP packets from the inside.
    pub bytes_out: u64,
    /// Bytes of IP packets from the remote.
    pub bytes_in: u64,
}

/// A mapping as it was at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MappingView {
    /// What carries the ports.
    pub protocol: Protocol,
    /// Who the inside host is.
    pub inside: Endpoint,
    /// Who we say it is.
    pub outside: Endpoint,
    /// Its sessions.
    pub sessions: usize,
    /// It is a port forward.
    pub published: bool,
}

/// The state of a TCP session (RFC 7857 §2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TcpState {
    /// A SYN has gone one way.
    Opening,
    /// SYNs have gone both ways.
    Established,
    /// A FIN has come from the inside; half-closed counts as established.
    InsideClosed,
    /// A FIN has come from the remote; half-closed counts as established.
    RemoteClosed,
    /// FINs have gone both ways.
    Closing,
    /// A RST has been seen and nothing since (RFC 7857 §2.2: kept for the closing time).
    Reset,
}

impl TcpState {
    /// The stable word for scripts and tables.
    pub fn word(self) -> &'static str {
        match self {
            TcpState::Opening => "opening",
            TcpState::Established => "established",
            TcpState::InsideClosed => "inside-closed",
            TcpState::RemoteClosed => "remote-closed",
            TcpState::Closing => "closing",
            TcpState::Reset => "reset",
        }
    }
}
