//! How full the tables are, and where they lie.

use super::names::NameCounts;
use super::{Nat, Span};

/// How full the tables are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Sessions.
    pub sessions: usize,
    /// Mappings, port forwards included.
    pub mappings: usize,
    /// Leased ports that no mapping has.
    pub free_ports: usize,
    /// Ports that were given up a moment ago and are kept from others (RFC 6888 REQ-8).
    pub held_ports: usize,
    /// Ports that came free before that time was over, because too many waited.
    pub held_early: u64,
    /// Leases of certain ports that were not asked of the host, because too many were.
    pub leases_skipped: u64,
    /// Ports refused by the host that were asked for again too early, because too many were refused.
    pub refusals_forgotten: u64,
    /// SYNs in mid-connection that were forgotten because too many came.
    pub knocks_lost: u64,
    /// Names that egress rules are about.
    pub names: NameCounts,
    /// Bytes held by tables and indices.
    pub bytes: usize,
}

impl Nat {
    /// How many sessions there are.
    pub fn live_sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Where those tables lie in memory that packets read: others when there are more of them than before.
    pub fn spans(&self) -> impl Iterator<Item = Span> + '_ {
        self.sessions.spans().chain(self.mappings.spans()).chain([self.by_flow.span(), self.by_remote.span()])
    }

    /// How full the tables are.
    pub fn counts(&self) -> Counts {
        let indices = self.by_flow.bytes() + self.by_remote.bytes() + self.peers.bytes();
        let (held_ports, held_early) = self.ports.held();
        let closing = self.closing.capacity() * size_of::<(u32, u32)>();
        Counts {
            sessions: self.sessions.len(),
            mappings: self.mappings.len(),
            free_ports: self.ports.free(),
            held_ports,
            held_early,
            leases_skipped: self.asking.skipped,
            refusals_forgotten: self.ports.refusals_forgotten(),
            knocks_lost: self.knocks.lost,
            names: self.names.counts,
            bytes: self.sessions.bytes()
                + self.mappings.bytes()
                + self.hosts.bytes()
                + self.ports.bytes()
                + self.wheel.bytes()
                + indices
                + closing,
        }
    }
}
