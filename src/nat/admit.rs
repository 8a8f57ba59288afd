//! Would a packet from outside be let in? The question alone: nothing is opened, refreshed, closed
//! or told.
//!
//! A router answers a packet whose hops are used up, but a NAT must not tell a stranger by such an
//! answer which of its ports are mapped, and the packet must not keep a mapping alive.

use super::ports::Place;
use super::session::Way;
use super::tcp::Effect;
use super::{Nat, Refusal};
use crate::flow::{Data, Endpoint, Flow, Protocol, Time};

impl Nat {
    /// Whether [`Nat::inbound`] (or, if it did not come by the `wire`, [`Nat::from_host`]) would
    /// let this packet in, but for the limit of sessions in all, which is met only by making room.
    ///
    /// # Errors
    /// Why it would be refused.
    pub fn would_admit(&self, data: &Data, wire: bool, now: Time) -> Result<(), Refusal> {
        let Flow { protocol, source: remote, .. } = data.flow;
        let local = self.addresses.home(&self.hash, remote.ip).is_some();
        if local && wire {
            return Err(Refusal::SourceIsOurs);
        }
        let unknown = if protocol == Protocol::Icmp { Refusal::UnsolicitedQuery } else { Refusal::NoMapping };
        let Some(mapping) = self.owner_now(data, now) else {
            return if wire { self.arrive_exempt(data, unknown).map(|_| ()) } else { Err(unknown) };
        };
        if protocol == Protocol::Tcp && !data.tcp.plausible() {
            return Err(Refusal::BadFlags);
        }
        let row = &self.mappings[mapping];
        let known = self.look_up(protocol, row.inside, remote);
        if let Some(id) = known.filter(|id| !self.overdue(*id, now)) {
            return match self.effect(id, Way::In, data) {
                _ if self.sessions[id].mapping != mapping => Err(Refusal::Filtered),
                Effect::Refuse => Err(Refusal::OutOfWindow),
                _ => Ok(()),
            };
        }
        if protocol == Protocol::Icmp {
            return Err(Refusal::UnsolicitedQuery);
        }
        // A mapping ends with its last session.
        let last = known.is_some_and(|id| self.sessions[id].mapping == mapping) && row.sessions == 1;
        if last && !row.published() {
            return Err(Refusal::NoMapping);
        }
        if protocol == Protocol::Tcp && !data.tcp.opens() {
            return Err(Refusal::NoSession);
        }
        if !self.would_pass_filter(mapping, remote.ip, now) {
            return Err(Refusal::Filtered);
        }
        self.host_may_open(row.inside)?;
        self.mapping_may_open(mapping)
    }

    /// Whether a packet of this flow from inside would go on with a session that there is.
    pub fn knows(&self, flow: &Flow, now: Time) -> bool {
        let known = self.look_up(flow.protocol, flow.source, flow.destination);
        known.is_some_and(|id| !self.overdue(id, now))
    }

    /// The mapping that has the outside endpoint to which a packet came.
    fn owner_now(&self, data: &Data, now: Time) -> Option<u32> {
        let Flow { protocol, source: remote, destination: outside } = data.flow;
        let external = self.addresses.external(&self.hash, outside.ip)?;
        match protocol {
            Protocol::Icmp if data.asks => None,
            Protocol::Other(_) => self.shared_owner_now(Place { protocol, external, port: 0 }, remote, now),
            _ => self.ports.owner(protocol, external, outside.port).or_else(|| {
                self.shared_owner_now(Place { protocol, external, port: outside.port }, remote, now)
            }),
        }
    }

    fn shared_owner_now(&self, shared: Place, remote: Endpoint, now: Time) -> Option<u32> {
        let id = self.look_up_shared(shared, remote).filter(|id| !self.overdue(*id, now))?;
        Some(self.sessions[id].mapping)
    }
}
