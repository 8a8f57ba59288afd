//! What a NAT is, said as shortly as it can be: two lists, searched from end to end.
//!
//! Port choice is the one thing left open: the real translator's choice is handed in as `offered`,
//! and must be a port that is ours and nobody's, on the address that the host's other mappings have.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use tapnat::flow::{Data, Edit, Endpoint, Flow, Protocol, TcpFlags, Time};
use tapnat::nat::{Behaviour, Decision, Exit, NatConfig, Policy, Reconfigured, Refusal, TcpState};

#[derive(Clone, PartialEq, Debug)]
pub struct Mapping {
    pub protocol: Protocol,
    pub inside: Endpoint,
    pub outside: Endpoint,
    /// What part of the remote it was made for.
    part: Option<Endpoint>,
    published: bool,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Session {
    pub mapping: Mapping,
    pub remote: Endpoint,
    /// The remote was an address of ours when it was opened.
    local: bool,
    counts_from: Time,
    syn: [bool; 2],
    fin: [bool; 2],
    reset: bool,
    /// When FINs had gone both ways: the turn, and which way the last went.
    closed: Option<(u64, usize)>,
}

pub struct Spec {
    pub config: NatConfig,
    pub forwards: Vec<Mapping>,
    pub sessions: Vec<Session>,
    /// Ports that the host has leased to us; those outside the ranges are to be given back.
    pub leased: BTreeSet<(Protocol, Endpoint)>,
    /// Counts packets.
    turn: u64,
}

type Verdict<T> = Result<T, Refusal>;
const OUT: usize = 0;
const IN: usize = 1;

/// How an inside host is treated: of the rules that fit, the first of the longest.
fn policy(config: &NatConfig, inside: IpAddr) -> &Policy {
    let rules = config.rules.iter().filter(|rule| rule.inside.covers(inside));
    rules.min_by_key(|rule| 32 - rule.inside.length).map_or(&config.policy, |rule| &rule.policy)
}

impl Session {
    fn closing(&self) -> bool {
        self.fin == [true, true]
    }

    fn established(&self) -> bool {
        self.syn == [true, true]
    }

    fn life(&self, config: &NatConfig) -> Duration {
        let times = &policy(config, self.mapping.inside.ip).timeouts;
        match self.mapping.protocol {
            Protocol::Tcp if self.reset || self.closing() => times.tcp_closing,
            Protocol::Tcp if self.established() => times.tcp_established,
            Protocol::Tcp => times.tcp_opening,
            Protocol::Udp if self.remote.port == 53 => times.udp_dns,
            Protocol::Udp => times.udp,
            Protocol::Icmp => times.icmp,
            Protocol::Other(_) => times.other,
        }
    }

    /// The TCP state and how long it still lives.
    pub fn view(&self, config: &NatConfig, now: Time) -> (Option<TcpState>, Duration) {
        let state = match self.fin {
            _ if self.reset => TcpState::Reset,
            [true, true] => TcpState::Closing,
            [true, false] => TcpState::InsideClosed,
            [false, true] => TcpState::RemoteClosed,
            _ if self.established() => TcpState::Established,
            _ => TcpState::Opening,
        };
        let left = (self.counts_from + self.life(config)).since(now);
        ((self.mapping.protocol == Protocol::Tcp).then_some(state), left)
    }

    fn pass(&mut self, way: usize, data: &Data, now: Time, turn: u64, config: &NatConfig) {
        let flags = data.tcp;
        if data.flow.protocol == Protocol::Tcp && flags.has(TcpFlags::RST) {
            if !self.closing() && !self.reset {
                let without = self.counts_from + self.life(config);
                self.reset = true;
                let nanos = without
                    .since(Time::ZERO)
                    .saturating_sub(policy(config, self.mapping.inside.ip).timeouts.tcp_closing);
                self.counts_from = now.min(Time::ZERO + nanos);
            }
            return;
        }
        if flags.opens() && (self.closing() || self.reset) {
            (self.syn, self.fin, self.reset, self.closed) = ([false; 2], [false; 2], false, None);
        }
        let resumed = std::mem::replace(&mut self.reset, false);
        if flags.has(TcpFlags::FIN) && self.established() && !resumed {
            self.fin[way] = true;
            self.closed = self.closed.or(self.closing().then_some((turn, way)));
        }
        if flags.has(TcpFlags::SYN) && !resumed {
            self.syn[way] = true;
        }
        self.counts_from = now;
    }
}

impl Spec {
    pub fn new(config: NatConfig) -> Self {
        Spec { config, forwards: Vec::new(), sessions: Vec::new(), leased: BTreeSet::new(), turn: 0 }
    }

    pub fn ours(&self, ip: IpAddr) -> bool {
        self.config.external.contains(&ip) || self.config.host_addresses.contains(&ip)
    }

    fn exempt(&self, protocol: Protocol, remote: Endpoint) -> bool {
        let ported = matches!(protocol, Protocol::Tcp | Protocol::Udp);
        !self.ours(remote.ip)
            && self.config.exempt.iter().any(|exempt| {
                exempt.remote.covers(remote.ip)
                    && exempt.protocol.is_none_or(|only| only == protocol)
                    && exempt.ports.clone().is_none_or(|mut ports| ported && ports.any(|p| p == remote.port))
            })
    }

    /// Whether a leased port may be used.
    pub fn usable(&self, outside: Endpoint) -> bool {
        self.config.external.contains(&outside.ip) && self.config.has_port(outside.port)
    }

    pub fn expire(&mut self, now: Time) {
        let config = &self.config;
        self.sessions.retain(|session| now < session.counts_from + session.life(config));
    }

    pub fn owner(&self, protocol: Protocol, outside: Endpoint) -> Option<Mapping> {
        let mut mappings = self.forwards.iter().chain(self.sessions.iter().map(|session| &session.mapping));
        mappings.find(|m| m.protocol == protocol && m.outside == outside).cloned()
    }

    fn find(&mut self, protocol: Protocol, inside: Endpoint, remote: Endpoint) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|session| {
            session.mapping.protocol == protocol
                && session.mapping.inside == inside
                && session.remote == remote
        })
    }

    fn open(&mut self, mapping: Mapping, remote: Endpoint, now: Time) {
        let (syn, fin, reset, closed) = ([false; 2], [false; 2], false, None);
        let local = self.ours(remote.ip);
        self.sessions.push(Session { mapping, remote, local, counts_from: now, syn, fin, reset, closed });
    }

    fn mapping_for(&mut self, flow: Flow, offered: Option<Endpoint>) -> Verdict<Mapping> {
        let Flow { protocol, source: inside, destination: remote } = flow;
        let part = match policy(&self.config, inside.ip).mapping {
            Behaviour::EndpointIndependent => None,
            Behaviour::AddressDependent => Some(Endpoint::new(remote.ip, 0)),
            Behaviour::AddressAndPortDependent => Some(remote),
        };
        let mut dynamic = self.sessions.iter().map(|session| &session.mapping).filter(|m| !m.published);
        if let Some(known) = dynamic.find(|m| m.protocol == protocol && m.inside == inside && m.part == part)
        {
            let known = known.clone();
            self.mapping_may_open(&known)?;
            return Ok(known);
        }
        if let Some(forward) = self.forwards.iter().find(|m| m.protocol == protocol && m.inside == inside) {
            self.mapping_may_open(forward)?;
            return Ok(forward.clone());
        }
        let others = self.mappings_of(inside.ip);
        if others.len() >= self.config.limits.mappings_per_host {
            return Err(Refusal::HostMappingLimit);
        }
        let paired = others.first().map(|other| other.outside.ip);
        let addresses = paired.map_or(self.config.external.clone(), |ip| vec![ip]);
        let Some(outside) = offered else {
            let full =
                |ip: &IpAddr| !self.has_free(protocol, *ip) && self.recyclable(protocol, *ip).is_none();
            assert!(protocol != Protocol::Icmp && addresses.iter().any(full), "a port was free");
            return Err(Refusal::PortsExhausted);
        };
        assert!(addresses.contains(&outside.ip), "{outside} is not paired with {paired:?}");
        if protocol != Protocol::Icmp && !self.has_free(protocol, outside.ip) {
            let recycled = self.recyclable(protocol, outside.ip).expect("no port was free");
            self.sessions.remove(recycled);
        }
        assert!(self.owner(protocol, outside).is_none(), "two owners of {outside}");
        let leased = self.leased.contains(&(protocol, outside)) && self.usable(outside);
        assert!(protocol == Protocol::Icmp || leased);
        Ok(Mapping { protocol, inside, outside, part, published: false })
    }

    fn has_free(&self, protocol: Protocol, external: IpAddr) -> bool {
        self.leased.iter().any(|(leased, port)| {
            let fits = *leased == protocol && port.ip == external && self.usable(*port);
            fits && self.owner(protocol, *port).is_none()
        })
    }

    /// The dynamic mappings of an inside host.
    fn mappings_of(&self, inside: IpAddr) -> Vec<&Mapping> {
        let mut found: Vec<&Mapping> = Vec::new();
        for Session { mapping, .. } in &self.sessions {
            if mapping.inside.ip == inside && !mapping.published && !found.contains(&mapping) {
                found.push(mapping);
            }
        }
        found
    }

    fn host_may_open(&self, inside: IpAddr) -> Verdict<()> {
        let count = self.sessions.iter().filter(|s| s.mapping.inside.ip == inside).count();
        if count >= self.config.limits.sessions_per_host { Err(Refusal::HostSessionLimit) } else { Ok(()) }
    }

    fn mapping_may_open(&self, mapping: &Mapping) -> Verdict<()> {
        let count = self.sessions.iter().filter(|s| s.mapping == *mapping).count();
        let full = count >= self.config.limits.sessions_per_mapping;
        if full { Err(Refusal::MappingSessionLimit) } else { Ok(()) }
    }

    /// The connection closed longest ago whose end frees a port of this address.
    fn recyclable(&self, protocol: Protocol, external: IpAddr) -> Option<usize> {
        let alone = |m: &Mapping| self.sessions.iter().filter(|s| s.mapping == *m).count() == 1;
        let done = self.sessions.iter().enumerate().filter(|(_, s)| {
            let there = s.mapping.protocol == protocol && s.mapping.outside.ip == external;
            there && s.closing() && !s.mapping.published && alone(&s.mapping)
        });
        done.min_by_key(|(_, s)| s.closed).map(|(at, _)| at)
    }

    fn opens(data: &Data) -> Verdict<()> {
        let ok = data.flow.protocol != Protocol::Tcp || data.tcp.opens();
        if ok { Ok(()) } else { Err(Refusal::NoSession) }
    }

    pub fn outbound(&mut self, data: &Data, now: Time, offered: Option<Endpoint>) -> Decision {
        self.turn += 1;
        match self.leave(data, now, offered) {
            Ok((edit, exit)) => Decision::Translate { edit, exit },
            Err(why) => Decision::Refuse(why),
        }
    }

    fn leave(&mut self, data: &Data, now: Time, offered: Option<Endpoint>) -> Verdict<(Edit, Exit)> {
        let Flow { protocol, source: inside, destination: remote } = data.flow;
        if protocol == Protocol::Icmp && !data.asks {
            return Err(Refusal::UnsolicitedQuery);
        }
        let ours = self.ours(remote.ip);
        let hairpin = self.may_reach_us(protocol, inside, remote)?;
        if self.find(protocol, inside, remote).is_none() && self.exempt(protocol, remote) {
            return Ok((Edit::default(), Exit::Outside));
        }
        if self.find(protocol, inside, remote).is_none() {
            Self::opens(data)?;
            self.host_may_open(inside.ip)?;
            let mapping = self.mapping_for(data.flow, offered)?;
            self.open(mapping, remote, now);
        }
        let (config, turn) = (self.config.clone(), self.turn);
        let session = self.find(protocol, inside, remote).expect("opened above");
        session.pass(OUT, data, now, turn, &config);
        let outside = session.mapping.outside;
        let mut edit = Edit { source: Some(outside), ..Edit::default() };
        if hairpin {
            let arriving = Data { flow: Flow { source: outside, ..data.flow }, ..*data };
            edit.destination = Some(self.arrive(&arriving, now)?);
        }
        let exit = if hairpin {
            Exit::Hairpin
        } else if ours {
            Exit::Host
        } else {
            Exit::Outside
        };
        Ok((edit, exit))
    }

    /// Whether an inside host may send to an address of ours; true if to another inside host.
    fn may_reach_us(&self, protocol: Protocol, inside: Endpoint, remote: Endpoint) -> Verdict<bool> {
        let hairpin = protocol != Protocol::Icmp && self.owner(protocol, remote).is_some();
        match self.ours(remote.ip) {
            true if hairpin && !policy(&self.config, inside.ip).hairpin => Err(Refusal::HairpinOff),
            true if !hairpin && !self.config.host_access => Err(Refusal::HostAccessOff),
            ours => Ok(ours && hairpin),
        }
    }

    /// A packet from the wire to an inside host's own address.
    pub fn direct(&self, data: &Data) -> Decision {
        let Flow { protocol, source: remote, .. } = data.flow;
        match protocol {
            _ if self.exempt(protocol, remote) => {
                Decision::Translate { edit: Edit::default(), exit: Exit::Inside }
            }
            _ if self.ours(remote.ip) => Decision::Refuse(Refusal::SourceIsOurs),
            Protocol::Icmp => Decision::Refuse(Refusal::UnsolicitedQuery),
            _ => Decision::Refuse(Refusal::NoMapping),
        }
    }

    /// Takes another configuration.
    pub fn reconfigure(&mut self, config: NatConfig, now: Time) -> Reconfigured {
        self.config = config;
        self.expire(now);
        let stays = |s: &Session| {
            let Mapping { protocol, inside, outside, published, .. } = s.mapping;
            let port = published || protocol == Protocol::Icmp || self.config.has_port(outside.port);
            let ours = self.ours(s.remote.ip);
            let reached = if ours {
                self.may_reach_us(protocol, inside, s.remote).is_ok()
            } else {
                published || !self.exempt(protocol, s.remote)
            };
            self.config.external.contains(&outside.ip) && port && s.local == ours && reached
        };
        let before = self.sessions.len();
        let kept: Vec<Session> = self.sessions.iter().filter(|s| stays(s)).cloned().collect();
        self.sessions = kept;
        self.forwards.retain(|forward| self.config.external.contains(&forward.outside.ip));
        Reconfigured { kept: self.sessions.len(), ended: before - self.sessions.len() }
    }

    pub fn inbound(&mut self, data: &Data, now: Time) -> Decision {
        self.turn += 1;
        match self.arrive(data, now) {
            Ok(inside) => {
                let edit = Edit { destination: Some(inside), ..Edit::default() };
                Decision::Translate { edit, exit: Exit::Inside }
            }
            Err(why) => Decision::Refuse(why),
        }
    }

    fn arrive(&mut self, data: &Data, now: Time) -> Verdict<Endpoint> {
        let Flow { protocol, source: remote, destination: outside } = data.flow;
        let icmp = protocol == Protocol::Icmp;
        let unknown = if icmp { Refusal::UnsolicitedQuery } else { Refusal::NoMapping };
        let mapping = self.owner(protocol, outside).filter(|_| !(icmp && data.asks)).ok_or(unknown)?;
        let (config, turn) = (self.config.clone(), self.turn);
        if let Some(session) = self.find(protocol, mapping.inside, remote) {
            if session.mapping.outside != outside {
                return Err(Refusal::Filtered);
            }
            session.pass(IN, data, now, turn, &config);
            return Ok(mapping.inside);
        }
        if icmp {
            return Err(Refusal::UnsolicitedQuery);
        }
        Self::opens(data)?;
        let known = |s: &Session| s.mapping.outside == outside && s.mapping.protocol == protocol;
        let admitted = match policy(&self.config, mapping.inside.ip).filtering {
            _ if mapping.published => true,
            Behaviour::EndpointIndependent => true,
            Behaviour::AddressDependent => self.sessions.iter().any(|s| known(s) && s.remote.ip == remote.ip),
            Behaviour::AddressAndPortDependent => false,
        };
        if !admitted {
            return Err(Refusal::Filtered);
        }
        let inside = mapping.inside;
        self.host_may_open(inside.ip)?;
        self.mapping_may_open(&mapping)?;
        self.open(mapping, remote, now);
        self.find(protocol, inside, remote).expect("opened above").pass(IN, data, now, turn, &config);
        Ok(inside)
    }

    pub fn publish(&mut self, protocol: Protocol, outside: Endpoint, inside: Endpoint) -> bool {
        if self.owner(protocol, outside).is_some() || !self.config.external.contains(&outside.ip) {
            return false;
        }
        self.leased.remove(&(protocol, outside));
        self.forwards.push(Mapping { protocol, inside, outside, part: None, published: true });
        true
    }

    pub fn unpublish(&mut self, protocol: Protocol, outside: Endpoint) -> bool {
        let before = self.forwards.len();
        self.forwards.retain(|m| m.protocol != protocol || m.outside != outside);
        if self.forwards.len() == before {
            return false;
        }
        self.sessions.retain(|s| s.mapping.protocol != protocol || s.mapping.outside != outside);
        true
    }
}
