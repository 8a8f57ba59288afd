//! The settings of a translator: plain data, RFC defaults.

use crate::flow::{Prefix, Protocol};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// RFC 4787 §4.1 and §5: what a mapping or a filter depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Behaviour {
    /// Not on the remote at all.
    EndpointIndependent,
    /// On the remote's address.
    #[default]
    AddressDependent,
    /// On the remote's address and port.
    AddressAndPortDependent,
}

/// Settings of a translator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NatConfig {
    /// Addresses to translate to. Never empty.
    pub external: Vec<IpAddr>,
    /// The host's other addresses: packets to them go to the host, never to the wire.
    pub host_addresses: Vec<IpAddr>,
    /// Ports to use on each external address; the ranges may have gaps between them (RFC 6888 REQ-3).
    pub ports: Vec<RangeInclusive<u16>>,
    /// Ports must be leased with [`super::Nat::lease`] before use (the addresses are shared with
    /// the host). If false every port of the range is ours from the start.
    pub leased: bool,
    /// How inside hosts are treated that no rule names.
    pub policy: Policy,
    /// How some of them are treated instead; of those that fit, the longest prefix holds.
    pub rules: Vec<Rule>,
    /// Packets that pass with their own source (RFC 6888 REQ-6).
    pub exempt: Vec<Exemption>,
    /// Inside hosts may reach services of the host itself on its external address.
    pub host_access: bool,
    /// How many things may live.
    pub limits: Limits,
}

/// How inside hosts are treated: what a profile is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Mapping behaviour; RFC 4787 REQ-1 asks for endpoint-independent.
    pub mapping: Behaviour,
    /// Filtering behaviour; RFC 4787 REQ-8.
    pub filtering: Behaviour,
    /// Inside hosts may reach each other by their outside endpoints (RFC 4787 REQ-9).
    pub hairpin: bool,
    /// How outside ports are chosen.
    pub choice: PortChoice,
    /// How long things live.
    pub timeouts: Timeouts,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            mapping: Behaviour::EndpointIndependent,
            filtering: Behaviour::AddressDependent,
            hairpin: true,
            choice: PortChoice::Random,
            timeouts: Timeouts::default(),
        }
    }
}

/// A policy of its own for some inside hosts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Which inside hosts.
    pub inside: Prefix,
    /// How they are treated.
    pub policy: Policy,
}

/// How outside ports are chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PortChoice {
    /// At random in the whole range (RFC 6056 §3.3.1), of the inside port's parity (RFC 4787
    /// REQ-4) and, where the host allows, on its side of 1024 (REQ-3a).
    #[default]
    Random,
    /// The inside port if no other session towards the same remote has it, else a random one; one
    /// outside port may serve several inside endpoints with different remotes (RFC 7857 §3). As
    /// Linux `nf_nat_core.c` chooses; it breaks endpoint-independent mapping.
    Overload,
    /// At random within a block that follows from the inside address (RFC 7422).
    Block {
        /// The inside hosts that share the external addresses.
        subscribers: Prefix,
        /// Ports a block.
        size: u16,
    },
}

/// Packets that are not translated (RFC 6888 REQ-6), and their answers. Nothing is kept about them,
/// so any packet from such a remote to an inside host's own address counts as an answer, and
/// needs a filter elsewhere if it should not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exemption {
    /// The destinations.
    pub remote: Prefix,
    /// Only this protocol.
    pub protocol: Option<Protocol>,
    /// Only these ports of the remote; packets of protocols without ports are then not exempt.
    pub ports: Option<RangeInclusive<u16>>,
}

impl NatConfig {
    /// How many different policies there may be, that of hosts without a rule included. A rule whose
    /// policy is beyond that is treated as if its policy were that one.
    pub const POLICIES: usize = 256;

    /// Whether `port` is one of ours to use.
    pub fn has_port(&self, port: u16) -> bool {
        self.ports.iter().any(|range| range.contains(&port))
    }

    /// RFC defaults for these external addresses.
    pub fn new(external: Vec<IpAddr>) -> Self {
        NatConfig {
            external,
            host_addresses: Vec::new(),
            ports: vec![32768..=65535],
            leased: false,
            policy: Policy::default(),
            rules: Vec::new(),
            exempt: Vec::new(),
            host_access: true,
            limits: Limits::default(),
        }
    }
}

/// How long an idle session lives. Names in brackets are those of `--timeout`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// (`udp`) RFC 4787 REQ-5: at least 2 min, 5 min recommended.
    pub udp: Duration,
    /// (`udp-dns`) UDP to port 53 (RFC 4787 REQ-5a allows less for well-known ports).
    pub udp_dns: Duration,
    /// (`tcp-opening`) TCP until both sides have acknowledged (RFC 5382 REQ-5: at least 4 min).
    pub tcp_opening: Duration,
    /// (`tcp-established`) RFC 5382 REQ-5: at least 2 h 4 min; half-closed counts as established.
    pub tcp_established: Duration,
    /// (`tcp-closing`) after a FIN both ways or a RST (RFC 5382 REQ-5, RFC 7857 §2.2: 4 min).
    pub tcp_closing: Duration,
    /// (`icmp`) RFC 5508 REQ-2: at least 60 s.
    pub icmp: Duration,
    /// (`other`) protocols without ports.
    pub other: Duration,
    /// (`lease`) how long a leased port stays unused before it goes back to the host.
    pub lease: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            udp: Duration::from_secs(300),
            udp_dns: Duration::from_secs(120),
            tcp_opening: Duration::from_secs(240),
            tcp_established: Duration::from_secs(7440),
            tcp_closing: Duration::from_secs(240),
            icmp: Duration::from_secs(60),
            other: Duration::from_secs(600),
            lease: Duration::from_secs(60),
        }
    }
}

/// How many things may live. Names in brackets are those of `--limit`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// (`sessions`) in all.
    pub sessions: usize,
    /// (`sessions-per-host`) of one inside address.
    pub sessions_per_host: usize,
    /// (`mappings-per-host`) outside ports of one inside address (RFC 6888 REQ-4).
    pub mappings_per_host: usize,
    /// (`sessions-per-mapping`) remotes of one mapping (RFC 6888 REQ-5).
    pub sessions_per_mapping: usize,
    /// (`publish`) port forwards.
    pub publish: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            sessions: 1_000_000,
            sessions_per_host: 50_000,
            mappings_per_host: 32_768,
            sessions_per_mapping: 20_000,
            publish: 4_096,
        }
    }
}

impl Timeouts {
    /// How long an idle session of `protocol` lives in a state without one of its own.
    pub fn of(&self, protocol: Protocol) -> Duration {
        match protocol {
            Protocol::Tcp => self.tcp_established,
            Protocol::Udp => self.udp,
            Protocol::Icmp => self.icmp,
            Protocol::Other(_) => self.other,
        }
    }
}
