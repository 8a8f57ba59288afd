//! How sessions and mappings begin and end.
//!
//! A live session is never ended to make room (RFC 6888 REQ-11d). When the table or a pool is
//! full, what is overdue goes first; then the TCP session that closed both ways longest ago,
//! which its ends have done with; then the newcomer is refused.

use super::mapping::Mapping;
use super::session::{Kind, Session, Way};
use super::slab::NONE;
use super::tcp::{self, Next, State};
use super::{Closed, Nat, Observer, Refusal, SessionView, Step};
use crate::flow::{Data, Endpoint, Flow, Protocol, Time};
use std::net::IpAddr;

/// How many closed connections are remembered as first to be recycled. Older ones expire as usual.
const CLOSING: usize = 65_536;
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
        let session = &self.sessions[id];
        session.deadline(self.policies.lives(self.mappings[session.mapping].policy))
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
        self.host_may_open(inside)?;
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
            && self.find_portless(protocol, external, remote, now, seen).is_some();
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
        let paired = host.and_then(|host| self.hosts[host].external);
        let external = paired.or_else(|| self.addresses.pick(&self.hash, inside.ip));
        let external = external.ok_or(Refusal::PortsExhausted)?;
        self.portless_free_at(protocol, external, remote, now, seen)?;
        let outside_port = match protocol {
            Protocol::Other(_) => 0,
            _ => self.take_port(protocol, external, now, seen).ok_or(Refusal::PortsExhausted)?,
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
            published: false,
            recent: NONE,
        };
        let behaviour = self.policies.get(policy).mapping;
        let mapping = self.mappings.insert(&self.hash, row, remote, behaviour);
        self.ports.set_owner(protocol, external, outside_port, mapping);
        Ok(mapping)
    }

    fn take_port(
        &mut self,
        protocol: Protocol,
        external: u16,
        now: Time,
        seen: &mut impl Observer,
    ) -> Option<u16> {
        if let Some(port) = self.ports.take(protocol, external, now, &mut self.rng) {
            return Some(port);
        }
        self.sweep(now, seen);
        if let Some(port) = self.ports.take(protocol, external, now, &mut self.rng) {
            return Some(port);
        }
        if protocol == Protocol::Tcp && self.recycle(Some(external), now, seen) {
            return self.ports.take(protocol, external, now, &mut self.rng);
        }
        None
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

    /// Ends the session that closed both ways longest ago; with `external`, one whose end frees a
    /// TCP port of that address. False if there is none among the first candidates.
    fn recycle(&mut self, external: Option<u16>, now: Time, seen: &mut impl Observer) -> bool {
        let mut at = 0;
        for _ in 0..CANDIDATES {
            let Some(&(id, generation)) = self.closing.get(at) else { return false };
            let session = &self.sessions[id];
            let closing = session.kind == Kind::Tcp
                && session.state == State::Closing
                && self.sessions.links[id].generation == generation;
            if !closing {
                self.closing.remove(at);
                continue;
            }
            let mapping = &self.mappings[session.mapping];
            let frees = !mapping.published && mapping.sessions == 1;
            if external.is_none_or(|external| frees && mapping.external == external) {
                self.closing.remove(at);
                self.close(id, Closed::Recycled, now, seen);
                return true;
            }
            at += 1;
        }
        false
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
        let Mapping { protocol, inside, host, external, .. } = self.mappings[mapping];
        let session = Session {
            mapping,
            remote,
            kind: Kind::of(protocol, remote),
            state: State::opened_by(way),
            local,
            ..Session::default()
        };
        let id = self.sessions.insert(session, now);
        self.mappings[mapping].recent = id;
        self.mappings[mapping].sessions += 1;
        self.hosts[host].sessions += 1;
        let key = self.hash.pair(protocol, inside, remote);
        let (sessions, mappings, hash) = (&self.sessions, &self.mappings, &self.hash);
        self.by_flow.insert(key, id, |id| flow_key(hash, sessions, mappings, id));
        self.peers.insert(&self.hash, &mut self.sessions, id);
        if matches!(protocol, Protocol::Other(_)) {
            self.insert_portless(protocol, external, id);
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
        let Session { mapping, remote, .. } = self.sessions[id];
        let Mapping { protocol, inside, host, external, .. } = self.mappings[mapping];
        self.wheel.unlink(&mut self.sessions, id);
        self.peers.remove(&self.hash, &mut self.sessions, id);
        if matches!(protocol, Protocol::Other(_)) {
            self.remove_portless(protocol, external, id);
        }
        let key = self.hash.pair(protocol, inside, remote);
        let (sessions, mappings, hash) = (&self.sessions, &self.mappings, &self.hash);
        self.by_flow.remove(key, id, |id| flow_key(hash, sessions, mappings, id));
        self.sessions.remove(id);
        self.hosts[host].sessions -= 1;
        self.mappings[mapping].sessions -= 1;
        if self.mappings[mapping].sessions == 0 && !self.mappings[mapping].published {
            self.close_mapping(mapping, now);
        }
        self.hosts.settle(&self.hash, host);
    }

    fn close_mapping(&mut self, id: u32, now: Time) {
        let Mapping { protocol, external, outside_port, host, .. } = self.mappings[id];
        self.hosts[host].mappings -= 1;
        self.ports.release(protocol, external, outside_port, now);
        self.mappings.remove(&self.hash, id);
    }

    /// Lets a packet through a session: counts it, refreshes the session, moves its TCP state.
    #[inline]
    pub(super) fn pass(&mut self, id: u32, way: Way, data: &Data, now: Time, seen: &mut impl Observer) {
        if self.sessions[id].kind == Kind::Tcp {
            self.pass_tcp(id, way, data, now, seen);
        } else {
            let session = &mut self.sessions[id];
            session.last_seen = now.as_nanos();
            session.count(way, data.length);
        }
    }

    fn pass_tcp(&mut self, id: u32, way: Way, data: &Data, now: Time, seen: &mut impl Observer) {
        let was = self.sessions[id].state;
        let next = tcp::next(was, way, data.tcp);
        if next == Next::Reopen {
            self.reopen(id, way, now, seen);
        }
        // A RST does not refresh (RFC 7857 §7.1).
        let refreshes = !data.tcp.has(crate::flow::TcpFlags::RST);
        let session = &mut self.sessions[id];
        if refreshes {
            session.last_seen = now.as_nanos();
        }
        session.count(way, data.length);
        match next {
            Next::Stay | Next::Reopen => return,
            Next::Go(state) => session.state = state,
            Next::Resume => session.state = session.before_reset,
            Next::Rst => self.reset(id, now),
        }
        let is = self.sessions[id].state;
        if is == State::Closing {
            self.rearm(id, now);
            if self.closing.len() == CLOSING {
                self.closing.pop_front();
            }
            self.closing.push_back((id, self.sessions.links[id].generation));
        } else if is == State::Reset {
            self.rearm(id, now);
        }
        if is.view() != was.view() && seen.wants() {
            seen.step(Step::Changed(self.view(id, now)), now);
        }
    }

    /// A RST: the session lives for the closing time from here, but never longer than it would
    /// have lived without the RST (RFC 7857 §2.2 and §7.1 together).
    fn reset(&mut self, id: u32, now: Time) {
        let lives = *self.policies.lives(self.mappings[self.sessions[id].mapping].policy);
        let session = &mut self.sessions[id];
        let closing = lives.of(Kind::Tcp, State::Reset);
        let without = session.deadline(&lives);
        session.before_reset = session.state;
        session.state = State::Reset;
        session.last_seen = now.as_nanos().min(without.saturating_sub(closing));
    }

    /// A new connection takes the place of a closed one; mapping, port and row stay.
    fn reopen(&mut self, id: u32, way: Way, now: Time, seen: &mut impl Observer) {
        if seen.wants() {
            seen.step(Step::Closed(self.view(id, now), Closed::Reopened), now);
        }
        let Session { mapping, remote, kind, local, .. } = self.sessions[id];
        let state = State::opened_by(way);
        let fresh = Session { mapping, remote, kind, state, local, ..Session::default() };
        self.sessions.begin(id, fresh, now);
        self.rearm(id, now);
        if seen.wants() {
            seen.step(Step::Opened(self.view(id, now)), now);
        }
    }

    /// A copy for those who look.
    pub(super) fn view(&self, id: u32, now: Time) -> SessionView {
        let session = &self.sessions[id];
        let mapping = &self.mappings[session.mapping];
        SessionView {
            id: self.sessions.id(id),
            protocol: mapping.protocol,
            inside: mapping.inside,
            outside: Endpoint::new(self.addresses.ip(mapping.external), mapping.outside_port),
            remote: session.remote,
            tcp: (session.kind == Kind::Tcp).then(|| session.state.view()),
            answered: session.packets_in > 0,
            published: mapping.published,
            opened: self.sessions.opened(id),
            expires_in: Time::from_nanos(self.deadline(id)).since(now),
            packets_out: u64::from(session.packets_out),
            packets_in: u64::from(session.packets_in),
            bytes_out: session.bytes_out,
            bytes_in: session.bytes_in,
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
    let session = &sessions[id];
    let mapping = &mappings[session.mapping];
    hash.pair(mapping.protocol, mapping.inside, session.remote)
}
