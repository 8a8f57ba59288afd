//! How sessions and mappings begin and end.
//!
//! A live session is never ended to make room (RFC 6888 REQ-11d). When the table is
//! full, what is overdue goes first; then the TCP session that closed both ways longest ago,
//! which its ends have done with; then the newcomer is refused.

use super::choose::Newcomer;
use super::mapping::{Mapping, Standing};
use super::ports::Place;
use super::session::{Lives, Marks, Phase, Way};
use super::slab::NONE;
use super::tcp::State;
use super::{Closed, Nat, Observer, Refusal, SessionView, Step};
use crate::flow::{Data, Endpoint, Flow, Protocol, Time};
use std::net::IpAddr;

/// How many of them are looked at for one newcomer.
const CANDIDATES: usize = 64;
/// How many sessions one call of `expire` looks at.
const WORK: usize = 1024;

impl Nat {
    /// Whether the session's time has come, swept or not.
    #[inline]
    pub(super) fn overdue(&self, id: u32, now: Time) -> bool {
        now.as_nanos() >= self.deadline(id)
    }

    /// The moment from which a session counts as dead, in nanoseconds.
    #[inline]
    pub(super) fn deadline(&self, id: u32) -> u64 {
        self.sessions[id].deadline(self.lives(id))
    }

    /// The timeouts that hold for a session.
    #[inline]
    pub(super) fn lives(&self, id: u32) -> &Lives {
        self.policies.lives(self.mappings[self.sessions[id].mapping].policy)
    }

    /// What [`Nat::expire`] does.
    pub(super) fn sweep(&mut self, now: Time, seen: &mut impl Observer) {
        for _ in 0..WORK {
            let Some(id) = self.wheel.due(now.as_nanos()) else { break };
            if self.overdue(id, now) {
                self.close(id, Closed::Expired, now, seen);
            } else {
                self.rearm(id, now);
            }
        }
        self.ports.settle_all(&self.hash, now);
    }

    /// Links the session in the wheel anew, by its true deadline.
    pub(super) fn rearm(&mut self, id: u32, now: Time) {
        let deadline = self.deadline(id);
        self.wheel.unlink(&mut self.sessions, id);
        self.wheel.link(&mut self.sessions, id, deadline, now.as_nanos());
    }

    /// Opens a session for a packet from the inside: finds or makes its mapping.
    #[inline(never)]
    pub(super) fn open_outbound(
        &mut self,
        data: &Data,
        local: bool,
        now: Time,
        seen: &mut impl Observer,
    ) -> Result<u32, Refusal> {
        let Flow { protocol, source: inside, destination: remote } = data.flow;
        if protocol == Protocol::Tcp && !data.tcp.opens() {
            return Err(Refusal::NoSession);
        }
        self.ask_egress(data.flow, now)?;
        if protocol == Protocol::Udp && self.orphans.tell(data.flow, now) {
            return Err(Refusal::AddressLost);
        }
        self.host_may_open(inside)?;
        self.host_may_open_now(inside, now)?;
        self.make_room(now, seen)?;
        let policy = self.policy_of(inside.ip);
        let behaviour = self.policies.get(policy).mapping;
        let known = self.mappings.find(&self.hash, protocol, inside, remote, behaviour);
        let mapping = match known.or_else(|| self.forwards.first(protocol, inside)) {
            Some(mapping) => {
                self.mapping_may_open(mapping)?;
                self.portless_free(mapping, remote, now, seen)?;
                mapping
            }
            None => self.open_mapping(data.flow, policy, now, seen)?,
        };
        self.count_opened(self.mappings[mapping].host, now);
        Ok(self.open(mapping, remote, Way::Out, local, now, seen))
    }

    /// Opens a session for a packet from outside that the filter has let in.
    #[inline(never)]
    pub(super) fn open_inbound(
        &mut self,
        mapping: u32,
        remote: Endpoint,
        local: bool,
        now: Time,
        seen: &mut impl Observer,
    ) -> Result<u32, Refusal> {
        let Mapping { protocol, external, outside_port, inside, .. } = self.mappings[mapping];
        self.host_may_open(inside)?;
        self.mapping_may_open(mapping)?;
        self.make_room(now, seen)?;
        // Making room may have ended the mapping.
        match self.ports.owner(protocol, external, outside_port) {
            Some(owner) if owner == mapping => Ok(self.open(mapping, remote, Way::In, local, now, seen)),
            _ => Err(Refusal::NoMapping),
        }
    }

    pub(super) fn host_may_open(&self, inside: Endpoint) -> Result<(), Refusal> {
        match self.hosts.find(&self.hash, inside.ip) {
            Some(host) if self.hosts[host].sessions as usize >= self.config.limits.sessions_per_host => {
                Err(Refusal::HostSessionLimit)
            }
            _ => Ok(()),
        }
    }

    /// Whether the rate of new sessions allows this host one more (RFC 6888 REQ-4c).
    fn host_may_open_now(&self, inside: Endpoint, now: Time) -> Result<(), Refusal> {
        let most = self.config.limits.new_sessions_per_host;
        let host = self.hosts.find(&self.hash, inside.ip).filter(|_| most > 0);
        match host {
            // A copy is asked: what is refused later must not count.
            Some(host) if !{ self.hosts[host].opens }.take(now, most) => Err(Refusal::HostRateLimit),
            _ => Ok(()),
        }
    }

    fn count_opened(&mut self, host: u32, now: Time) {
        let most = self.config.limits.new_sessions_per_host;
        if most > 0 {
            self.hosts[host].opens.take(now, most);
        }
    }

    pub(super) fn mapping_may_open(&self, mapping: u32) -> Result<(), Refusal> {
        if self.mappings[mapping].sessions as usize >= self.config.limits.sessions_per_mapping {
            return Err(Refusal::MappingSessionLimit);
        }
        Ok(())
    }

    /// Without ports, only one inside host can talk to a remote from one external address.
    fn portless_free(
        &mut self,
        mapping: u32,
        remote: Endpoint,
        now: Time,
        seen: &mut impl Observer,
    ) -> Result<(), Refusal> {
        let Mapping { protocol, external, .. } = self.mappings[mapping];
        self.portless_free_at(protocol, external, remote, now, seen)
    }

    fn portless_free_at(
        &mut self,
        protocol: Protocol,
        external: u16,
        remote: Endpoint,
        now: Time,
        seen: &mut impl Observer,
    ) -> Result<(), Refusal> {
        let taken = matches!(protocol, Protocol::Other(_))
            && self.find_shared(Place { protocol, external, port: 0 }, remote, now, seen).is_some();
        if taken { Err(Refusal::ProtocolTaken) } else { Ok(()) }
    }

    /// The number of the policy for this inside host.
    pub(super) fn policy_of(&self, inside: IpAddr) -> u8 {
        if self.policies.alike() {
            return 0;
        }
        match self.hosts.find(&self.hash, inside) {
            Some(host) => self.hosts[host].policy,
            None => self.policies.number(inside),
        }
    }

    /// Makes a mapping for packets of this flow. The caller opens its first session.
    fn open_mapping(
        &mut self,
        flow: Flow,
        policy: u8,
        now: Time,
        seen: &mut impl Observer,
    ) -> Result<u32, Refusal> {
        let Flow { protocol, source: inside, destination: remote } = flow;
        let host = self.hosts.find(&self.hash, inside.ip);
        if let Some(host) = host
            && self.hosts[host].mappings as usize >= self.config.limits.mappings_per_host
        {
            return Err(Refusal::HostMappingLimit);
        }
        // A block says which address it is on; else the host keeps the one that it has had.
        let paired = host.and_then(|host| self.hosts[host].external);
        let external = self.block_address(inside.ip).or(paired);
        let external = external.or_else(|| self.addresses.pick(&self.hash, inside.ip));
        let external = external.ok_or(Refusal::PortsExhausted)?;
        self.portless_free_at(protocol, external, remote, now, seen)?;
        let outside_port = match protocol {
            Protocol::Other(_) => 0,
            _ => self.take_port(Newcomer { protocol, inside, remote, external }, now, seen)?,
        };
        let host = self.hosts.open(&self.hash, inside.ip, policy);
        self.hosts[host].mappings += 1;
        self.hosts[host].external = Some(external);
        let row = Mapping {
            sessions: 0,
            host,
            inside,
            outside_port,
            external,
            protocol,
            policy,
            standing: Standing::Tidy,
            recent: NONE,
        };
        let behaviour = self.policies.get(policy).mapping;
        let mapping = self.mappings.insert(&self.hash, row, remote, behaviour);
        self.own_port(mapping, now, seen);
        Ok(mapping)
    }

    fn make_room(&mut self, now: Time, seen: &mut impl Observer) -> Result<(), Refusal> {
        let most = self.config.limits.sessions;
        if self.sessions.len() < most {
            return Ok(());
        }
        self.sweep(now, seen);
        if self.sessions.len() < most || self.recycle(None, now, seen) {
            return Ok(());
        }
        Err(Refusal::SessionLimit)
    }

    /// Ends the session that closed both ways longest ago; for a newcomer, one whose end frees a
    /// TCP port that it can have. False if there is none among the first candidates.
    pub(super) fn recycle(
        &mut self,
        newcomer: Option<Newcomer>,
        now: Time,
        seen: &mut impl Observer,
    ) -> bool {
        let mut at = 0;
        for _ in 0..CANDIDATES {
            let Some(&(id, generation)) = self.closing.get(at) else { return false };
            let session = &self.sessions[id];
            let closing = session.phase == Phase::Tcp(State::Closing)
                && self.sessions.links[id].generation == generation;
            if !closing {
                self.closing.remove(at);
                continue;
            }
            if newcomer.is_none_or(|newcomer| self.frees_port_for(newcomer, id)) {
                self.closing.remove(at);
                self.close(id, Closed::Recycled, now, seen);
                return true;
            }
            at += 1;
        }
        false
    }

    /// Whether the end of session `id` frees a port that the newcomer can have.
    fn frees_port_for(&self, newcomer: Newcomer, id: u32) -> bool {
        let mapping = &self.mappings[self.sessions[id].mapping];
        let frees = !mapping.published() && mapping.sessions == 1 && mapping.external == newcomer.external;
        let same_side = mapping.outside_port >= 1024 || newcomer.inside.port < 1024;
        let shared = self.ports.is_shared(mapping.protocol, mapping.external, mapping.outside_port);
        let same_remote = self.sessions.remote(id) == newcomer.remote;
        let same_host = mapping.inside.ip == newcomer.inside.ip;
        if self.lending.is_some() {
            return frees && same_host;
        }
        // What rests first is of no use now.
        frees && same_side && if shared { same_remote } else { mapping.standing == Standing::Tidy }
    }

    fn open(
        &mut self,
        mapping: u32,
        remote: Endpoint,
        way: Way,
        local: bool,
        now: Time,
        seen: &mut impl Observer,
    ) -> u32 {
        let Mapping { protocol, inside, host, .. } = self.mappings[mapping];
        let phase = Phase::opened_by(protocol, remote, way);
        let marks = Marks { local, outward: way == Way::Out };
        let id = self.sessions.insert(&self.hash, mapping, remote, (phase, marks), now);
        self.mappings[mapping].recent = id;
        self.mappings[mapping].sessions += 1;
        self.hosts[host].sessions += 1;
        let key = self.hash.pair(protocol, inside, remote);
        let (sessions, mappings, hash) = (&self.sessions, &self.mappings, &self.hash);
        self.by_flow.insert(key, id, |id| flow_key(hash, sessions, mappings, id));
        self.peers.insert(&self.hash, &mut self.sessions, id);
        if let Some(shared) = self.shares(mapping) {
            self.insert_shared(shared, id);
        }
        let deadline = self.deadline(id);
        self.wheel.link(&mut self.sessions, id, deadline, now.as_nanos());
        if seen.wants() {
            seen.step(Step::Opened(self.view(id, now)), now);
        }
        id
    }

    /// Ends a session, and its mapping if this was its last.
    #[inline(never)]
    pub(super) fn close(&mut self, id: u32, why: Closed, now: Time, seen: &mut impl Observer) {
        if seen.wants() {
            seen.step(Step::Closed(self.view(id, now), why), now);
        }
        let (mapping, remote) = (self.sessions[id].mapping, self.sessions.remote(id));
        let closed = self.sessions[id].phase == Phase::Tcp(State::Closing);
        let Mapping { protocol, inside, host, .. } = self.mappings[mapping];
        self.wheel.unlink(&mut self.sessions, id);
        self.peers.remove(&self.hash, &mut self.sessions, id);
        if let Some(shared) = self.shares(mapping) {
            self.remove_shared(shared, id);
        }
        let key = self.hash.pair(protocol, inside, remote);
        let (sessions, mappings, hash) = (&self.sessions, &self.mappings, &self.hash);
        self.by_flow.remove(key, id, |id| flow_key(hash, sessions, mappings, id));
        self.sessions.remove(&self.hash, id);
        self.hosts[host].sessions -= 1;
        self.mappings[mapping].sessions -= 1;
        if !closed && !self.mappings[mapping].published() {
            self.mappings[mapping].standing = Standing::Untidy;
        }
        if self.mappings[mapping].sessions == 0 && !self.mappings[mapping].published() {
            self.close_mapping(mapping, now, seen);
        }
        self.hosts.settle(&self.hash, host);
    }

    fn close_mapping(&mut self, id: u32, now: Time, seen: &mut impl Observer) {
        let mapping = self.mappings[id];
        self.hosts[mapping.host].mappings -= 1;
        self.give_up_port(mapping, now, seen);
        self.mappings.remove(&self.hash, id);
    }

    /// A copy for those who look.
    pub(super) fn view(&self, id: u32, now: Time) -> SessionView {
        let session = &self.sessions[id];
        let mapping = &self.mappings[session.mapping];
        let [bytes_out, bytes_in] = session.bytes();
        let [packets_out, packets_in] = session.packets.map(u64::from);
        SessionView {
            id: self.sessions.id(id),
            protocol: mapping.protocol,
            inside: mapping.inside,
            outside: Endpoint::new(self.addresses.ip(mapping.external), mapping.outside_port),
            remote: self.sessions.remote(id),
            tcp: if let Phase::Tcp(state) = session.phase { Some(state.view()) } else { None },
            answered: packets_in > 0,
            published: mapping.published(),
            opened: self.sessions.opened(id),
            expires_in: Time::from_nanos(self.deadline(id)).since(now),
            packets_out,
            packets_in,
            bytes_out,
            bytes_in,
        }
    }

    /// The session in this row, if it has not been closed.
    pub(super) fn live(&self, row: u32, now: Time) -> bool {
        row != NONE && row < self.sessions.end() && self.sessions[row].taken() && !self.overdue(row, now)
    }
}

/// The hash under which session `id` stands in the index by flow.
pub(super) fn flow_key(
    hash: &super::hash::Hash,
    sessions: &super::session::Sessions,
    mappings: &super::mapping::Mappings,
    id: u32,
) -> u64 {
    let mapping = &mappings[sessions[id].mapping];
    hash.pair(mapping.protocol, mapping.inside, sessions.remote(id))
}
