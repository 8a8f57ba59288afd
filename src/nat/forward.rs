//! Port forwards: mappings that an operator made. They never age and filter nothing.

use super::mapping::{Mapping, Standing};
use super::slab::NONE;
use super::{Closed, Nat, Observer};
use crate::flow::{Endpoint, Protocol, Time};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The port forwards by inside endpoint, in the order in which they were made.
#[derive(Default, Debug)]
pub(super) struct Forwards {
    by_inside: BTreeMap<(Protocol, Endpoint), Vec<u32>>,
    len: usize,
}

impl Forwards {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The mapping for outbound packets of a published endpoint: its first forward.
    pub(super) fn first(&self, protocol: Protocol, inside: Endpoint) -> Option<u32> {
        if self.len == 0 {
            return None;
        }
        self.by_inside.get(&(protocol, inside))?.first().copied()
    }

    pub(super) fn insert(&mut self, protocol: Protocol, inside: Endpoint, mapping: u32) {
        self.by_inside.entry((protocol, inside)).or_default().push(mapping);
        self.len += 1;
    }

    pub(super) fn remove(&mut self, protocol: Protocol, inside: Endpoint, mapping: u32) {
        if let Some(mappings) = self.by_inside.get_mut(&(protocol, inside)) {
            let before = mappings.len();
            mappings.retain(|other| *other != mapping);
            self.len -= before - mappings.len();
            if mappings.is_empty() {
                self.by_inside.remove(&(protocol, inside));
            }
        }
    }

    /// Their mappings.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.by_inside.values().flatten().copied()
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

impl Nat {
    /// Adds a port forward: packets to `outside` go to `inside`, from any remote. The port must
    /// have been leased to us by the host (the caller has seen to it); it leaves the pool, and
    /// does not return to it when the forward is removed: the lease is the caller's.
    ///
    /// # Errors
    /// [`PublishError::ForeignAddress`] also if `inside` is of the other family, and
    /// [`PublishError::Taken`] also for port 0 and protocols other than TCP and UDP, which have
    /// no port to publish.
    pub fn publish(
        &mut self,
        protocol: Protocol,
        outside: Endpoint,
        inside: Endpoint,
    ) -> Result<(), PublishError> {
        let known = self.addresses.external(&self.hash, outside.ip);
        let foreign = known.is_none() && !self.config.publish_anywhere;
        if foreign || outside.ip.is_ipv4() != inside.ip.is_ipv4() {
            return Err(PublishError::ForeignAddress);
        }
        if self.forwards.len() >= self.config.limits.publish {
            return Err(PublishError::Limit);
        }
        if !matches!(protocol, Protocol::Tcp | Protocol::Udp) || outside.port == 0 {
            return Err(PublishError::Taken);
        }
        let external = known.map_or_else(|| self.add_for_forwards(outside.ip), Ok)?;
        if !self.ports.claim(&self.hash, protocol, external, outside.port) {
            self.give_up_if_bare(external);
            return Err(PublishError::Taken);
        }
        let policy = self.policy_of(inside.ip);
        let host = self.hosts.open(&self.hash, inside.ip, policy);
        self.hosts[host].forwards += 1;
        let mapping = self.mappings.add(Mapping {
            sessions: 0,
            host,
            recent: NONE,
            inside,
            outside_port: outside.port,
            external,
            protocol,
            policy,
            standing: Standing::Published,
        });
        self.ports.set_owner(protocol, external, outside.port, mapping);
        self.forwards.insert(protocol, inside, mapping);
        Ok(())
    }

    /// Makes an address one that port forwards may be on; its number.
    fn add_for_forwards(&mut self, ip: IpAddr) -> Result<u16, PublishError> {
        let ports = &self.ports;
        let number = self.addresses.add_for_forwards(&self.hash, ip, |number| ports.drained(number));
        let number = number.ok_or(PublishError::Limit)?;
        let (in_use, ranges) = (self.addresses.in_use(), self.config.ports.clone());
        self.ports.reconfigure(in_use, ranges, self.lending.is_some(), self.clock);
        Ok(number)
    }

    /// Gives up an address that is there for port forwards alone, if it has none: it is anybody's again.
    fn give_up_if_bare(&mut self, external: u16) {
        if self.addresses.forwards_only(external)
            && !self.forwards.iter().any(|id| self.mappings[id].external == external)
        {
            let host = &self.config.host_addresses;
            self.addresses.give_up(&self.hash, external, |ip| host.contains(&ip));
        }
    }

    /// Removes a port forward and its sessions. False if there was none. Looks at every session
    /// if the forward has any.
    pub fn unpublish(
        &mut self,
        protocol: Protocol,
        outside: Endpoint,
        now: Time,
        seen: &mut impl Observer,
    ) -> bool {
        let external = self.addresses.external(&self.hash, outside.ip);
        let owner = external.and_then(|external| self.ports.owner(protocol, external, outside.port));
        let Some(mapping) = owner.filter(|owner| self.mappings[*owner].published()) else { return false };
        for id in 0..self.sessions.end() {
            if self.mappings[mapping].sessions == 0 {
                break;
            }
            if self.sessions[id].taken() && self.sessions[id].mapping == mapping {
                self.close(id, Closed::Unpublished, now, seen);
            }
        }
        self.remove_forward(mapping);
        true
    }

    /// Removes a port forward that has no sessions.
    pub(super) fn remove_forward(&mut self, mapping: u32) {
        let Mapping { protocol, inside, outside_port, host, external, .. } = self.mappings[mapping];
        self.ports.unclaim(protocol, external, outside_port);
        self.forwards.remove(protocol, inside, mapping);
        self.mappings.remove(&self.hash, mapping);
        self.hosts[host].forwards -= 1;
        self.hosts.settle(&self.hash, host);
        self.give_up_if_bare(external);
    }

    /// The port forwards: protocol, outside, inside; sorted.
    pub fn published(&self) -> Vec<(Protocol, Endpoint, Endpoint)> {
        let forward = |id| {
            let Mapping { protocol, inside, .. } = self.mappings[id];
            (protocol, self.outside(id), inside)
        };
        let mut forwards: Vec<_> = self.forwards.iter().map(forward).collect();
        forwards.sort_unstable();
        forwards
    }
}
