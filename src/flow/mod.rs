//! The vocabulary of the whole program. Imports nothing of ours.
//!
//! Two sets of words, never mixed:
//!
//! * header words belong to bytes: **source, destination**. They swap meaning with direction.
//! * role words belong to state and never swap: **inside** (who the host is), **outside** (who
//!   we say it is), **remote** (who it talks to).
//!
//! A **mapping** is inside ↔ outside. A **session** is a mapping talking to one remote.
//! `port` holds the identifier of an ICMP query on the side of the host that asks, and 0 on the
//! other side; protocols without ports have 0 on both.

pub mod alias;
pub mod bucket;
pub mod domain;
pub mod edit;
pub mod link;
pub mod prefix;
pub mod silence;
pub mod summary;
pub mod time;

pub use alias::Alias;
pub use domain::Domain;
pub use edit::{Edit, QuotedEdit};
pub use link::{LinkId, LinkInfo};
pub use prefix::Prefix;
pub use silence::Silence;
pub use summary::{Data, ErrorAbout, Segment, Summary, TcpFlags};
pub use time::Time;

use std::fmt;
use std::net::IpAddr;

/// What carries the ports of a flow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Protocol {
    /// TCP, IP protocol 6.
    Tcp,
    /// UDP, IP protocol 17.
    Udp,
    /// ICMP queries (echo and its kin), IP protocol 1 or 58 by the family of the addresses.
    Icmp,
    /// Any other IP protocol, by its number. It has no ports.
    Other(u8),
}

impl Protocol {
    /// The protocol with this IPv4 protocol number.
    pub fn from_ipv4_number(number: u8) -> Self {
        match number {
            1 => Protocol::Icmp,
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            other => Protocol::Other(other),
        }
    }

    /// The IPv4 protocol number.
    pub fn ipv4_number(self) -> u8 {
        match self {
            Protocol::Icmp => 1,
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Other(number) => number,
        }
    }

    /// The protocol with this number in the last next-header field of an IPv6 packet: 58 is ICMP,
    /// and IPv4's ICMP is a stranger there.
    pub fn from_ipv6_number(number: u8) -> Self {
        match number {
            58 => Protocol::Icmp,
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            other => Protocol::Other(other),
        }
    }

    /// The IPv6 next-header number.
    pub fn ipv6_number(self) -> u8 {
        match self {
            Protocol::Icmp => 58,
            known => known.ipv4_number(),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Protocol::Tcp => f.write_str("tcp"),
            Protocol::Udp => f.write_str("udp"),
            Protocol::Icmp => f.write_str("icmp"),
            Protocol::Other(number) => write!(f, "proto-{number}"),
        }
    }
}

/// An address and a port (or query identifier, see the module's text).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Endpoint {
    /// The address.
    pub ip: IpAddr,
    /// The port, or an ICMP query identifier, or 0.
    pub port: u16,
}

impl Endpoint {
    /// The endpoint at `ip` and `port`.
    pub fn new(ip: impl Into<IpAddr>, port: u16) -> Self {
        Endpoint { ip: ip.into(), port }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            IpAddr::V4(ip) => write!(f, "{ip}:{}", self.port),
            IpAddr::V6(ip) => write!(f, "[{ip}]:{}", self.port),
        }
    }
}

/// Who talks to whom, as written in one header.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Flow {
    /// What carries the ports.
    pub protocol: Protocol,
    /// The header's source.
    pub source: Endpoint,
    /// The header's destination.
    pub destination: Endpoint,
}

impl Flow {
    /// The flow of an answer to a packet of this flow.
    #[must_use]
    pub fn reversed(self) -> Flow {
        Flow { protocol: self.protocol, source: self.destination, destination: self.source }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} > {}", self.protocol, self.source, self.destination)
    }
}
