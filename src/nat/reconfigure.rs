//! A new configuration for a translator that is at work.
//!
//! Sessions and mappings stay wherever the new configuration allows what they do:
//!
//! * their external address is still there, and their port in the ranges and in the block of their
//!   host, or published;
//! * the remote has not become an address of ours, or ceased to be one, or become exempt, and
//!   their host may talk to it, if it was the one who began;
//! * their host may still reach the host or other inside hosts, where that is what they do.
//!
//! A host whose mapping behaviour changes keeps the mappings that it has, for the sessions that they
//! have; packets that open a session find or make a mapping of the new kind. A changed filter holds
//! for packets that open a session, changed timeouts for all sessions at once. Where a limit gets
//! lower, what exceeds it stays until it ends.
//!
//! Everything is judged by what was alive before the first session is ended, so that the order of
//! ending makes no difference.

use super::blocks::{Blocks, Lending};
use super::mapping::Mapping;
use super::policies::Policies;
use super::slab::NONE;
use super::{Closed, Nat, NatConfig, Observer};
use crate::flow::{Endpoint, Flow, Protocol, Time};
use std::net::IpAddr;

/// What a new configuration has left.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reconfigured {
    /// Sessions that live on.
    pub kept: usize,
    /// Sessions that the new configuration does not allow.
    pub ended: usize,
}

/// A TCP connection that has lost its outside endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// Who the inside host talks to.
    pub remote: Endpoint,
    /// The inside host.
    pub inside: Endpoint,
    /// What the inside host has said that it expects next of the remote.
    pub acknowledged: u32,
    /// What follows all that has been sent to it.
    pub sent: u32,
}

impl Nat {
    /// Takes a new configuration; [`NatConfig::leased`] stays as it was. Sessions that it does not
    /// allow are ended and told as [`Closed::Reconfigured`]. Port forwards go with their external
    /// address; others stay, whatever the ranges. Leased ports that are not to be used any more come
    /// out of [`Nat::give_back`].
    ///
    /// Looks at every session a few times and at every mapping once.
    pub fn reconfigure(&mut self, config: NatConfig, now: Time, seen: &mut impl Observer) -> Reconfigured {
        self.clock = self.clock.max(now);
        // Longer timeouts do not wake the dead.
        self.end_overdue(now, seen);
        let config = NatConfig { leased: self.config.leased, ..config };
        self.change_blocks(&config);
        let policies = Policies::new(&config);
        let rearm = !policies.live_alike(&self.policies);
        self.policies = policies;
        self.config = config;
        let ports = &self.ports;
        let NatConfig { external, retired, host_addresses: host, .. } = &self.config;
        self.addresses.change(&self.hash, external, retired, host, |number| ports.drained(number));
        self.assign_policies();
        self.cut = self.connections_cut(now);
        let orphans = self.flows_cut(now);
        self.orphans.add(orphans.into_iter(), now);
        let ended = self.end(Nat::allows, now, seen);
        self.end_forwards(|nat, mapping| !nat.addresses.uses(mapping.external));
        let blocks = self.lending.is_some();
        self.ports.reconfigure(self.addresses.in_use(), self.config.ports.clone(), blocks, now);
        self.peers.keep(self.policies.ask_for_peers(), &self.hash, &mut self.sessions);
        for id in 0..if rearm { self.sessions.end() } else { 0 } {
            if self.sessions[id].taken() {
                self.rearm(id, now);
            }
        }
        Reconfigured { kept: self.sessions.len(), ended }
    }

    /// The TCP connections that the last new configuration has ended because their external address is
    /// gone: at most `most` of them, each once.
    pub fn cut(&mut self, most: usize) -> Vec<Cut> {
        let rest = self.cut.len().saturating_sub(most);
        self.cut.split_off(rest)
    }

    fn connections_cut(&self, now: Time) -> Vec<Cut> {
        let cut = |id: u32| {
            let session = &self.sessions[id];
            let Mapping { protocol, external, inside, .. } = self.mappings[session.mapping];
            let ends = protocol == Protocol::Tcp && !self.addresses.uses(external) && !self.overdue(id, now);
            let [acknowledged, sent] = session.windows.expected_inside().filter(|_| ends)?;
            Some(Cut { remote: self.sessions.remote(id), inside, acknowledged, sent })
        };
        (0..self.sessions.end()).filter(|id| self.sessions[*id].taken()).filter_map(cut).collect()
    }

    /// The flows of datagrams that lose their external address.
    fn flows_cut(&self, now: Time) -> Vec<Flow> {
        let cut = |id: u32| {
            let Mapping { protocol, external, inside, .. } = self.mappings[self.sessions[id].mapping];
            let ends = protocol == Protocol::Udp && !self.addresses.uses(external) && !self.overdue(id, now);
            ends.then(|| Flow { protocol, source: inside, destination: self.sessions.remote(id) })
        };
        (0..self.sessions.end()).filter(|id| self.sessions[*id].taken()).filter_map(cut).collect()
    }

    /// Ends the sessions and port forwards of inside hosts that are not among those which `keep`
    /// names; tells how many sessions. They are told as [`Closed::Reconfigured`].
    pub fn retain(
        &mut self,
        keep: impl Fn(IpAddr) -> bool,
        now: Time,
        seen: &mut impl Observer,
    ) -> Reconfigured {
        self.clock = self.clock.max(now);
        let stays = |nat: &Nat, id| keep(nat.mappings[nat.sessions[id].mapping].inside.ip);
        let ended = self.end(stays, now, seen);
        self.end_forwards(|_, mapping| !keep(mapping.inside.ip));
        Reconfigured { kept: self.sessions.len(), ended }
    }

    /// Takes other blocks of ports. Those that are lent stay so if the blocks are the same.
    fn change_blocks(&mut self, config: &NatConfig) {
        let blocks = Blocks::of(config).ok().flatten();
        if self.blocks() != blocks.as_ref() {
            self.lending = blocks.map(Lending::new);
        }
    }

    /// Whether a port is its host's by the blocks in force, if there are any.
    fn in_block(&self, mapping: &Mapping) -> bool {
        let Some(lending) = &self.lending else { return true };
        let external = self.addresses.ip(mapping.external);
        let owner = lending.blocks.owner_of(external, mapping.outside_port);
        owner == Some(mapping.inside.ip) || lending.is_lent(external, mapping.outside_port)
    }

    /// Numbers the new policies to hosts and mappings.
    fn assign_policies(&mut self) {
        let (policies, addresses) = (&self.policies, &self.addresses);
        self.hosts.each(|host| {
            host.policy = policies.number(host.ip);
            host.external = host.external.filter(|external| addresses.gives(*external));
        });
        for id in 0..self.mappings.end() {
            let host = self.mappings[id].host;
            if host != NONE {
                self.mappings[id].policy = self.hosts[host].policy;
            }
        }
    }

    /// Whether the configuration allows this session.
    fn allows(&self, id: u32) -> bool {
        let (mapping, local) = (self.sessions[id].mapping, self.sessions[id].local());
        let remote = self.sessions.remote(id);
        let Mapping { protocol, external, outside_port, policy, inside, .. } = self.mappings[mapping];
        let published = self.mappings[mapping].published();
        let ported = matches!(protocol, Protocol::Tcp | Protocol::Udp);
        let block = matches!(protocol, Protocol::Other(_)) || self.in_block(&self.mappings[mapping]);
        let port = published || block && (!ported || self.config.has_port(outside_port));
        let reached = match self.addresses.home(&self.hash, remote.ip) {
            Some(_) => local && self.may_reach_us(policy, protocol, remote).is_ok(),
            None => !local && (published || !self.exempts(protocol, remote)),
        };
        let leaves = !self.sessions[id].outward() || self.may_leave(protocol, inside.ip, remote, None);
        self.addresses.uses(external) && port && reached && leaves
    }

    /// Ends the sessions that may not stay; tells how many. What is overdue goes first and is not
    /// counted.
    fn end(&mut self, stays: impl Fn(&Nat, u32) -> bool, now: Time, seen: &mut impl Observer) -> usize {
        self.end_overdue(now, seen);
        let gone = self.those(|nat, id| !stays(nat, id));
        for id in &gone {
            self.close(*id, Closed::Reconfigured, now, seen);
        }
        gone.len()
    }

    fn end_overdue(&mut self, now: Time, seen: &mut impl Observer) {
        for id in self.those(|nat, id| nat.overdue(id, now)) {
            self.close(id, Closed::Expired, now, seen);
        }
    }

    /// The sessions of which this holds.
    fn those(&self, holds: impl Fn(&Nat, u32) -> bool) -> Vec<u32> {
        (0..self.sessions.end()).filter(|id| self.sessions[*id].taken() && holds(self, *id)).collect()
    }

    /// Removes port forwards, whose sessions have been ended.
    fn end_forwards(&mut self, goes: impl Fn(&Nat, &Mapping) -> bool) {
        let gone: Vec<u32> = self.forwards.iter().filter(|id| goes(self, &self.mappings[*id])).collect();
        for mapping in gone {
            self.remove_forward(mapping);
        }
    }
}
