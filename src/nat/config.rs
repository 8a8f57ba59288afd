//! The settings of a translator: plain data, RFC defaults.

use super::egress::EgressRule;
use crate::flow::{Prefix, Protocol};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The ports used if nothing else is said: for inside ports below 1024 some of their own kind
/// (RFC 4787 REQ-3a); for all others the host's usual ephemeral range and above, where no service
/// expects its port to be free.
pub const DEFAULT_PORTS: [RangeInclusive<u16>; 2] = [512..=1023, 32768..=65535];

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
    /// Those of them that are on their way out: their mappings live on, and none is made anew.
    pub retired: Vec<IpAddr>,
    /// The host's other addresses: packets to them go to the host, never to the wire.
    pub host_addresses: Vec<IpAddr>,
    /// Ports to use on each external address; the ranges may have gaps between them (RFC 6888
    /// REQ-3), but do not overlap. Those below 1024 are for inside ports below 1024.
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
    /// With whom inside hosts may open sessions; the first rule that fits decides.
    pub egress: Vec<EgressRule>,
    /// Port forwards may be made on any address, not only on external ones: the host's sockets
    /// listen there.
    pub publish_anywhere: bool,
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
            retired: Vec::new(),
            host_addresses: Vec::new(),
            ports: DEFAULT_PORTS.to_vec(),
            leased: false,
            policy: Policy::default(),
            rules: Vec::new(),
            exempt: Vec::new(),
            egress: EgressRule::defaults(),
            publish_anywhere: false,
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
    /// (`udp-unreplied`) UDP, but to port 53, until a packet has gone back (RFC 4787 REQ-5).
    pub udp_unreplied: Duration,
    /// (`udp-dns`) UDP to port 53 (RFC 4787 REQ-5a allows less for well-known ports).
    pub udp_dns: Duration,
    /// (`tcp-opening`) TCP until the SYN is answered (RFC 5382 REQ-5: at least 4 min).
    pub tcp_opening: Duration,
    /// (`tcp-syn-received`) then until the answer is acknowledged (RFC 5382 REQ-5: at least 4 min).
    pub tcp_syn_received: Duration,
    /// (`tcp-established`) RFC 5382 REQ-5: at least 2 h 4 min.
    pub tcp_established: Duration,
    /// (`tcp-half-closed`) after a FIN one way, which counts as established (RFC 5382 REQ-5).
    pub tcp_half_closed: Duration,
    /// (`tcp-closing`) after a FIN both ways (RFC 5382 REQ-5: at least 4 min).
    pub tcp_closing: Duration,
    /// (`tcp-reset`) after a RST (RFC 7857 §2.2: 4 min).
    pub tcp_reset: Duration,
    /// (`icmp`) RFC 5508 REQ-2: at least 60 s.
    pub icmp: Duration,
    /// (`other`) protocols without ports.
    pub other: Duration,
    /// (`lease`) how long a leased port stays unused before it goes back to the host.
    pub lease: Duration,
    /// (`port-hold`) how long a port that was given up is kept from other inside endpoints, a
    /// restart included (RFC 6888 REQ-8: at least 120 s).
    pub port_hold: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            udp: Duration::from_secs(300),
            udp_unreplied: Duration::from_secs(300),
            udp_dns: Duration::from_secs(120),
            tcp_opening: Duration::from_secs(240),
            tcp_syn_received: Duration::from_secs(240),
            tcp_established: Duration::from_secs(7440),
            tcp_half_closed: Duration::from_secs(7440),
            tcp_closing: Duration::from_secs(240),
            tcp_reset: Duration::from_secs(240),
            icmp: Duration::from_secs(60),
            other: Duration::from_secs(600),
            lease: Duration::from_secs(60),
            port_hold: Duration::from_secs(120),
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
    /// (`held-ports`) ports of one external address and protocol that wait for the end of
    /// `port-hold`; never more than half of the ports there are. The oldest leave early.
    pub held_ports: usize,
    /// (`new-sessions-per-host`) sessions that one inside address may open a second, and at once
    /// (RFC 6888 REQ-4c); 0 for any number.
    pub new_sessions_per_host: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            sessions: 1_000_000,
            sessions_per_host: 50_000,
            mappings_per_host: 32_768,
            sessions_per_mapping: 20_000,
            publish: 4_096,
            held_ports: 16_384,
            new_sessions_per_host: 0,
        }
    }
}

impl Policy {
    /// The mapping behaviour in force: one outside port can serve several inside endpoints only if
    /// each mapping is for one remote.
    pub fn mapping_in_force(&self) -> Behaviour {
        match self.choice {
            PortChoice::Overload => Behaviour::AddressAndPortDependent,
            PortChoice::Random | PortChoice::Block { .. } => self.mapping,
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
