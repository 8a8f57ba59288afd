//! What a probe has found, and what it could not find and why.

use crate::nat::Behaviour;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Something found, or why it cannot be known.
pub type Found<T> = Result<T, String>;

/// What is known about the way to a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The server.
    pub server: SocketAddr,
    /// What it says that it is.
    pub software: Option<String>,
    /// Its other address and port, if it has them.
    pub other: Option<SocketAddr>,
    /// The endpoint of the first socket, as this host sees it.
    pub local: SocketAddr,
    /// The same as the server sees it.
    pub mapped: SocketAddr,
    /// How long an answer takes.
    pub round_trip: Option<Duration>,
    /// What the mapped endpoint depends on (RFC 5780 §4.3).
    pub mapping: Found<Behaviour>,
    /// Whom the filter lets in (§4.4).
    pub filtering: Found<Behaviour>,
    /// Whether two sockets here reach each other by their mapped endpoints (§3.4).
    pub hairpin: Found<Hairpin>,
    /// What becomes of ports.
    pub ports: Found<Ports>,
    /// Whether somebody on the way changes addresses in payloads (§3.6).
    pub alg: Found<bool>,
    /// What becomes of fragments (§3.5).
    pub fragments: Found<Fragments>,
    /// The largest IP packet that reaches the server uncut, in bytes.
    pub mtu: Found<u16>,
    /// How long an idle mapping lives (§4.6).
    pub lifetime: Found<Lifetime>,
}

/// Whether packets to one's own outside come back in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hairpin {
    /// They do not.
    No,
    /// They do, from the sender's mapped endpoint (RFC 4787 REQ-9a).
    External,
    /// They do, from an endpoint that the server never saw.
    Internal,
}

/// What became of the ports of several sockets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ports {
    /// How many sockets asked.
    pub sockets: usize,
    /// How many kept their port.
    pub preserved: usize,
    /// How many kept its parity (RFC 4787 REQ-4).
    pub parity: usize,
    /// The addresses that they were mapped to; one, if pooling is paired (RFC 4787 REQ-2).
    pub addresses: Vec<IpAddr>,
}

/// What became of a datagram in fragments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fragments {
    /// It arrived at the server.
    pub out: bool,
    /// The answer in fragments arrived here.
    pub back: Found<bool>,
}

/// How long an idle mapping lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lifetime {
    /// It was there after the first, and gone after the second.
    Between(Duration, Duration),
    /// It was there after the longest wait.
    AtLeast(Duration),
}

impl Report {
    /// Whether the server sees another endpoint than this host.
    pub fn translated(&self) -> bool {
        self.mapped != self.local
    }

    /// The name that RFC 3489 §5 gave to this mapping and filtering.
    pub fn class(&self) -> Option<&'static str> {
        use Behaviour::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
        Some(match (self.mapping.as_ref().ok()?, self.filtering.as_ref().ok()) {
            (AddressDependent | AddressAndPortDependent, _) => "symmetric",
            (EndpointIndependent, Some(EndpointIndependent)) => "full-cone",
            (EndpointIndependent, Some(AddressDependent)) => "restricted-cone",
            (EndpointIndependent, Some(AddressAndPortDependent)) => "port-restricted",
            (EndpointIndependent, None) => return None,
        })
    }
}
