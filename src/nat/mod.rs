//! The translator: decides on tuples. Pure; imports `flow` only.
//!
//! *Outbound*: is there a session for this flow? Touch it. Else is there a mapping for this inside
//! endpoint? Else ask the port pool. Open the session; the edit changes the source. *Inbound*: is
//! there a session? Touch it. Else is there a mapping for this outside endpoint? Ask the filter.
//! Open the session; the edit changes the destination. That is all of NAT.

pub mod config;
pub mod decision;
pub mod step;
pub mod view;

pub use config::{Behaviour, Limits, NatConfig, Timeouts};
pub use decision::{Decision, Exit, Refusal};
pub use step::{Closed, Observer, Step};
pub use view::{MappingView, SessionView, TcpState};

use crate::flow::{Endpoint, Protocol, Summary, Time};
use std::net::IpAddr;

/// The translator of one gateway: mappings, sessions, ports, timers.
#[derive(Debug)]
pub struct Nat {
    config: NatConfig,
}

impl Nat {
    /// An empty translator. `seed` feeds the port choice and the hash tables; the same seed and
    /// the same calls give the same decisions.
    pub fn new(config: NatConfig, seed: [u8; 32]) -> Self {
        let _ = seed;
        Nat { config }
    }

    /// The configuration in force.
    pub fn config(&self) -> &NatConfig {
        &self.config
    }

    /// Decides on a packet from the inside that is not for the gateway itself.
    pub fn outbound(&mut self, packet: &Summary, now: Time, seen: &mut impl Observer) -> Decision {
        let _ = (packet, now, seen);
        todo!()
    }

    /// Decides on a packet that came to one of the outside addresses.
    pub fn inbound(&mut self, packet: &Summary, now: Time, seen: &mut impl Observer) -> Decision {
        let _ = (packet, now, seen);
        todo!()
    }

    /// stub
    pub fn from_host(&mut self, packet: &Summary, now: Time, seen: &mut impl Observer) -> Decision {
        self.inbound(packet, now, seen)
    }
    /// stub
    pub fn owns(&self, protocol: Protocol, outside: Endpoint) -> bool {
        let _ = (protocol, outside);
        todo!()
    }

    /// Closes sessions whose time has come; does a bounded amount of work a call.
    pub fn expire(&mut self, now: Time, seen: &mut impl Observer) {
        let _ = (now, seen);
        todo!()
    }

    /// When [`Nat::expire`] has something to do next; may be early, never late by more than the
    /// timer's grain (1/8 s).
    pub fn next_deadline(&self) -> Option<Time> {
        todo!()
    }

    /// Gives an outside port to the pool: the host has agreed that it is ours.
    pub fn lease(&mut self, protocol: Protocol, outside: Endpoint) {
        let _ = (protocol, outside);
        todo!()
    }

    /// How many more leased ports the pool would like to have, by protocol and address, so that
    /// the next burst of new flows finds them ready. Nothing if nothing is wanted.
    pub fn wanted(&self) -> impl Iterator<Item = (Protocol, IpAddr, usize)> + '_ {
        std::iter::empty()
    }

    /// Takes one leased port that has been unused for long out of the pool, to be given back to
    /// the host.
    pub fn give_back(&mut self, now: Time) -> Option<(Protocol, Endpoint)> {
        let _ = now;
        todo!()
    }

    /// Adds a port forward: packets to `outside` go to `inside`, from any remote. The port must
    /// have been leased to us by the host (the caller has seen to it); it leaves the pool.
    ///
    /// # Errors
    /// Why not.
    pub fn publish(
        &mut self,
        protocol: Protocol,
        outside: Endpoint,
        inside: Endpoint,
    ) -> Result<(), PublishError> {
        let _ = (protocol, outside, inside);
        todo!()
    }

    /// Removes a port forward and its sessions. False if there was none.
    pub fn unpublish(
        &mut self,
        protocol: Protocol,
        outside: Endpoint,
        now: Time,
        seen: &mut impl Observer,
    ) -> bool {
        let _ = (protocol, outside, now, seen);
        todo!()
    }

    /// The port forwards: protocol, outside, inside.
    pub fn published(&self) -> Vec<(Protocol, Endpoint, Endpoint)> {
        todo!()
    }

    /// Up to `limit` sessions from `cursor` on, and the cursor for the next call (`None` at the
    /// end). Sessions that come or go between calls may or may not be seen; none is seen twice.
    pub fn sessions(&self, cursor: u32, limit: usize, now: Time) -> (Vec<SessionView>, Option<u32>) {
        let _ = (cursor, limit, now);
        todo!()
    }

    /// Forgets the session with this number, if it is still the one it was.
    pub fn forget(&mut self, id: u64, now: Time, seen: &mut impl Observer) -> bool {
        let _ = (id, now, seen);
        todo!()
    }

    /// How full the tables are.
    pub fn counts(&self) -> Counts {
        todo!()
    }
}

/// Why a port forward was not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PublishError {
    /// Another forward or a mapping has this outside port.
    #[error("outside port is in use by another forward or mapping")]
    Taken,
    /// The outside address is not one of ours.
    #[error("outside address is not one of the gateway's external addresses")]
    ForeignAddress,
    /// The limit of forwards is reached.
    #[error("limit of published ports reached")]
    Limit,
}

/// How full the tables are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Sessions.
    pub sessions: usize,
    /// Mappings, port forwards included.
    pub mappings: usize,
    /// Leased ports that no mapping has.
    pub free_ports: usize,
    /// Bytes held by tables and indices.
    pub bytes: usize,
}
