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
    /// Packets have gone this way.
    passed: [bool; 2],
    tcp: Tcp,
    reset: bool,
    /// When FINs had gone both ways: the turn, and which way the last went.
    closed: Option<(u64, usize)>,
}

/// What TCP has shown. Ends send nothing but SYN and FIN here, so that a first sequence number says
/// all about an end's numbers; those of two connections are far apart.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Tcp {
    /// First sequence numbers, so far as known.
    pub first: [Option<u32>; 2],
    /// Which way the SYN went that is to be answered, or was.
    opener: usize,
    answered: bool,
    acknowledged: bool,
    /// Both numbers are known to be right.
    whole: bool,
    fin: [bool; 2],
    /// The latest SYN in mid-connection.
    knock: [Option<u32>; 2],
}

/// What becomes of a segment.
#[derive(PartialEq)]
enum Fate {
    Refused,
    Ignored,
    /// It keeps the session alive.
    Alive,
    /// It is a RST that counts.
    Reset,
    /// A new connection begins.
    Anew(Tcp),
}

pub struct Spec {
    pub config: NatConfig,
    pub forwards: Vec<Mapping>,
    pub sessions: Vec<Session>,
    /// Ports that the host has leased to us; those outside the ranges are to be given back.
    pub leased: BTreeSet<(Protocol, Endpoint)>,
    /// Ports given up a moment ago, who had them, and when others may.
    held: Vec<(Protocol, Endpoint, Endpoint, Time)>,
    /// Mappings of which a session ended otherwise than by closing both ways.
    untidy: Vec<(Protocol, Endpoint)>,
    /// Flows of datagrams that have lost their address, and until when their hosts are to be told.
    orphans: Vec<(Flow, Time)>,
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

impl Tcp {
    fn closing(&self) -> bool {
        self.fin == [true, true]
    }

    /// A SYN, where there is a connection or none.
    fn syn(&mut self, way: usize, first: u32, over: bool) -> Fate {
        let repeated = self.first[way] == Some(first);
        if over {
            if repeated && self.whole || way == IN {
                self.knock[way] = Some(first);
                return Fate::Ignored;
            }
            let mut anew = Tcp { opener: way, ..Tcp::default() };
            anew.first[way] = Some(first);
            return Fate::Anew(anew);
        }
        if !self.acknowledged && way == self.opener && (repeated || self.first == [None; 2]) {
            self.first[way] = Some(first);
            return Fate::Alive;
        }
        if !self.acknowledged && way == OUT {
            (self.opener, self.answered, self.whole, self.first[OUT]) = (OUT, false, false, Some(first));
            return Fate::Alive;
        }
        if !self.acknowledged && self.opener == OUT {
            if !self.answered {
                self.first[IN] = Some(first);
            }
        } else if !(repeated && self.whole) {
            self.knock[way] = Some(first);
        }
        Fate::Ignored
    }

    /// A SYN+ACK whose acknowledgement means the SYN with this first number.
    fn syn_ack(&mut self, way: usize, first: u32, means: u32, over: bool) -> Fate {
        let other = 1 - way;
        let fits = self.whole && self.first[way] == Some(first) && self.first[other] == Some(means);
        let open = self.acknowledged || over;
        if !open && self.answered && fits {
            self.acknowledged = way == self.opener;
            return Fate::Alive;
        }
        let knocked = self.knock[other] == Some(means);
        let answers = !open && self.first[other] == Some(means);
        if !answers && knocked {
            let mut tcp = Tcp { knock: self.knock, first: [Some(means); 2], ..Tcp::default() };
            tcp.first[way] = Some(first);
            tcp.knock[other] = None;
            (tcp.opener, tcp.answered, tcp.whole) = (other, true, true);
            if over {
                tcp.knock = [None; 2];
                return Fate::Anew(tcp);
            }
            *self = tcp;
            return Fate::Alive;
        }
        if open {
            return if fits || !self.whole { Fate::Ignored } else { Fate::Refused };
        }
        if !answers && way == IN {
            return Fate::Refused;
        }
        (self.opener, self.answered, self.whole, self.first[way]) = (other, true, answers, Some(first));
        Fate::Alive
    }

    fn rst(&self, way: usize, first: u32, means: Option<u32>, over: bool) -> Fate {
        let exact = self.first[way] == Some(first);
        let acknowledges = |numbers: [Option<u32>; 2]| means.is_some() && numbers[1 - way] == means;
        if !self.acknowledged && !over {
            return match way == self.opener {
                true if exact => Fate::Reset,
                true => Fate::Ignored,
                false if exact && self.whole && self.answered || acknowledges(self.first) => Fate::Reset,
                false if way == OUT => Fate::Ignored,
                false => Fate::Refused,
            };
        }
        match exact {
            _ if acknowledges(self.knock) => Fate::Reset,
            _ if !self.whole => Fate::Ignored,
            true if over => Fate::Ignored,
            true => Fate::Reset,
            false => Fate::Refused,
        }
    }

    /// An acknowledgement or a FIN.
    fn rest(&mut self, way: usize, fin: bool, fits: bool, reset: bool) -> Fate {
        if self.acknowledged {
            if self.whole && !fits {
                return Fate::Refused;
            }
            self.fin[way] |= fin;
            return Fate::Alive;
        }
        let fits = fits && self.whole;
        match (self.answered, self.opener, way) {
            (false, OUT, OUT) if !reset => return Fate::Alive,
            (false, ..) => return Fate::Ignored,
            (true, IN, OUT) if fits => return Fate::Alive,
            (true, ..) if fits => self.fin[way] = fin,
            (true, _, OUT) if !reset => self.whole = false,
            (true, ..) => return Fate::Ignored,
        }
        self.acknowledged = true;
        Fate::Alive
    }
}

impl Session {
    fn closing(&self) -> bool {
        self.tcp.closing()
    }

    fn life(&self, config: &NatConfig) -> Duration {
        let (times, tcp) = (&policy(config, self.mapping.inside.ip).timeouts, &self.tcp);
        match self.mapping.protocol {
            Protocol::Tcp if self.reset => times.tcp_reset,
            Protocol::Tcp if self.closing() => times.tcp_closing,
            Protocol::Tcp if tcp.fin != [false, false] => times.tcp_half_closed,
            Protocol::Tcp if tcp.acknowledged => times.tcp_established,
            Protocol::Tcp if tcp.answered => times.tcp_syn_received,
            Protocol::Tcp => times.tcp_opening,
            Protocol::Udp if self.remote.port == 53 => times.udp_dns,
            Protocol::Udp if self.passed != [true, true] => times.udp_unreplied,
            Protocol::Udp => times.udp,
            Protocol::Icmp => times.icmp,
            Protocol::Other(_) => times.other,
        }
    }

    /// The TCP state and how long it still lives.
    pub fn view(&self, config: &NatConfig, now: Time) -> (Option<TcpState>, Duration) {
        let state = match self.tcp.fin {
            _ if self.reset => TcpState::Reset,
            [true, true] => TcpState::Closing,
            [true, false] => TcpState::InsideClosed,
            [false, true] => TcpState::RemoteClosed,
            _ if self.tcp.acknowledged => TcpState::Established,
            _ => TcpState::Opening,
        };
        let left = (self.counts_from + self.life(config)).since(now);
        ((self.mapping.protocol == Protocol::Tcp).then_some(state), left)
    }

    /// The first sequence numbers, so far as known.
    pub fn first(&self) -> [Option<u32>; 2] {
        self.tcp.first
    }

    fn pass(&mut self, way: usize, data: &Data, now: Time, turn: u64, config: &NatConfig) -> Verdict<()> {
        if data.flow.protocol != Protocol::Tcp {
            self.passed[way] = true;
            self.counts_from = now;
            return Ok(());
        }
        match self.segment(way, data) {
            Fate::Refused => return Err(Refusal::OutOfWindow),
            Fate::Ignored => {}
            Fate::Alive => {
                self.counts_from = now;
                self.closed = self.closed.or(self.closing().then_some((turn, way)));
            }
            Fate::Reset if self.reset => {}
            Fate::Reset => {
                let without = self.counts_from + self.life(config);
                self.reset = true;
                let reset = policy(config, self.mapping.inside.ip).timeouts.tcp_reset;
                let nanos = without.since(Time::ZERO).saturating_sub(reset);
                self.counts_from = now.min(Time::ZERO + nanos);
            }
            Fate::Anew(tcp) => {
                (self.tcp, self.reset, self.closed, self.counts_from) = (tcp, false, None, now);
            }
        }
        Ok(())
    }

    fn segment(&mut self, way: usize, data: &Data) -> Fate {
        let (flags, numbers) = (data.tcp, data.segment);
        let over = self.closing() || self.reset;
        let first = numbers.sequence.wrapping_sub(u32::from(!flags.has(TcpFlags::SYN)));
        let means = flags.has(TcpFlags::ACK).then_some(numbers.acknowledgement.wrapping_sub(1));
        if flags.has(TcpFlags::RST) {
            return self.tcp.rst(way, first, means, over);
        }
        match means {
            None => self.tcp.syn(way, first, over),
            Some(means) if flags.has(TcpFlags::SYN) => self.tcp.syn_ack(way, first, means, over),
            Some(means) => {
                let fits = self.tcp.first[way] == Some(first) && self.tcp.first[1 - way] == Some(means);
                let fate = self.tcp.rest(way, flags.has(TcpFlags::FIN), fits, self.reset);
                self.reset &= fate != Fate::Alive;
                fate
            }
        }
    }
}

impl Spec {
    pub fn new(config: NatConfig) -> Self {
        let (forwards, sessions, held, untidy) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (leased, orphans) = (BTreeSet::new(), Vec::new());
        Spec { config, forwards, sessions, leased, held, untidy, orphans, turn: 0 }
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
        let config = self.config.clone();
        self.end(now, |session| now >= session.counts_from + session.life(&config));
        self.held.retain(|(.., until)| now < *until);
    }

    /// Ends sessions; a mapping ends with its last one, and its port rests.
    pub fn end(&mut self, now: Time, ends: impl Fn(&Session) -> bool) {
        let (ended, left): (Vec<_>, Vec<_>) = self.sessions.drain(..).partition(ends);
        self.sessions = left;
        for Session { mapping, tcp, reset, .. } in ended.iter().filter(|session| !session.mapping.published) {
            if *reset || !tcp.closing() {
                self.untidy.push((mapping.protocol, mapping.outside));
            }
        }
        for Mapping { protocol, inside, outside, .. } in ended.iter().map(|session| &session.mapping) {
            let lives = self.owner(*protocol, *outside).is_some();
            if !lives && self.untidy.contains(&(*protocol, *outside)) {
                let until = now + self.config.policy.timeouts.port_hold;
                self.held.push((*protocol, *outside, *inside, until));
            }
            if !lives {
                self.untidy.retain(|untidy| *untidy != (*protocol, *outside));
            }
        }
    }

    pub fn rests(&self, protocol: Protocol, outside: Endpoint) -> bool {
        self.held.iter().any(|held| (held.0, held.1) == (protocol, outside))
    }

    pub fn owner(&self, protocol: Protocol, outside: Endpoint) -> Option<Mapping> {
        let mut mappings = self.forwards.iter().chain(self.sessions.iter().map(|session| &session.mapping));
        mappings.find(|m| m.protocol == protocol && m.outside == outside).cloned()
    }

    /// The session of an inside endpoint with a remote.
    pub fn find(&mut self, protocol: Protocol, inside: Endpoint, remote: Endpoint) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|session| {
            session.mapping.protocol == protocol
                && session.mapping.inside == inside
                && session.remote == remote
        })
    }

    fn open(&mut self, mapping: Mapping, remote: Endpoint, way: usize, now: Time) {
        let (passed, tcp) = ([false; 2], Tcp { opener: way, ..Tcp::default() });
        let (local, reset, closed) = (self.ours(remote.ip), false, None);
        let counts_from = now;
        self.sessions.push(Session { mapping, remote, local, counts_from, passed, tcp, reset, closed });
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
        let back = |ip: IpAddr| self.may_have_back(protocol, inside, ip);
        let Some(outside) = offered else {
            let full = |ip: &IpAddr| {
                self.free(protocol, *ip).is_empty()
                    && back(*ip).is_empty()
                    && self.recyclable(protocol, *ip).is_none()
            };
            assert!(protocol != Protocol::Icmp && addresses.iter().any(full), "a port was free");
            return Err(Refusal::PortsExhausted);
        };
        assert!(addresses.contains(&outside.ip), "{outside} is not paired with {paired:?}");
        let (free, back) = (self.free(protocol, outside.ip), back(outside.ip));
        if protocol != Protocol::Icmp && free.is_empty() && back.is_empty() {
            let recycled = self.recyclable(protocol, outside.ip).expect("no port was free");
            self.sessions.remove(recycled);
        }
        assert!(self.owner(protocol, outside).is_none(), "two owners of {outside}");
        let leased = self.leased.contains(&(protocol, outside)) && self.usable(outside);
        assert!(protocol == Protocol::Icmp || leased);
        if back.is_empty() {
            assert!(!self.rests(protocol, outside), "{outside} was another's a moment ago");
            let parity = |port: u16| port % 2 == inside.port % 2;
            assert!(parity(outside.port) || !free.into_iter().any(parity), "{outside} for {inside}");
        } else {
            assert!(back.contains(&outside), "{outside}, and not one of {back:?}");
            self.held.retain(|held| (held.0, held.1) != (protocol, outside));
        }
        Ok(Mapping { protocol, inside, outside, part, published: false })
    }

    /// The free ports of an external address.
    fn free(&self, protocol: Protocol, external: IpAddr) -> Vec<u16> {
        let fits = |(leased, port): &&(Protocol, Endpoint)| {
            let there = *leased == protocol && port.ip == external && self.usable(*port);
            there && self.owner(protocol, *port).is_none() && !self.rests(protocol, *port)
        };
        self.leased.iter().filter(fits).map(|(_, port)| port.port).collect()
    }

    /// Ports that this inside endpoint has given up a moment ago.
    fn may_have_back(&self, protocol: Protocol, inside: Endpoint, external: IpAddr) -> Vec<Endpoint> {
        let had = |held: &&(Protocol, Endpoint, Endpoint, Time)| {
            let usable = protocol == Protocol::Icmp || self.usable(held.1);
            (held.0, held.2) == (protocol, inside) && held.1.ip == external && usable
        };
        self.held.iter().filter(had).map(|held| held.1).collect()
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
            let rests = self.untidy.contains(&(protocol, s.mapping.outside));
            there && s.closing() && !s.mapping.published && !rests && alone(&s.mapping)
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
            if let Some(orphan) =
                self.orphans.iter().position(|(flow, until)| *flow == data.flow && now < *until)
            {
                self.orphans.remove(orphan);
                return Err(Refusal::AddressLost);
            }
            self.host_may_open(inside.ip)?;
            let mapping = self.mapping_for(data.flow, offered)?;
            self.open(mapping, remote, OUT, now);
        }
        let (config, turn) = (self.config.clone(), self.turn);
        let session = self.find(protocol, inside, remote).expect("opened above");
        session.pass(OUT, data, now, turn, &config)?;
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
        let lost = |s: &&Session| {
            s.mapping.protocol == Protocol::Udp && !self.config.external.contains(&s.mapping.outside.ip)
        };
        let flow =
            |s: &Session| Flow { protocol: Protocol::Udp, source: s.mapping.inside, destination: s.remote };
        let lost: Vec<Flow> = self.sessions.iter().filter(lost).map(flow).collect();
        let before = self.sessions.len();
        let gone: Vec<_> = self.sessions.iter().filter(|s| !stays(s)).cloned().collect();
        self.end(now, |session| gone.contains(session));
        self.orphans.extend(lost.into_iter().map(|flow| (flow, now + Duration::from_secs(300))));
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
            session.pass(IN, data, now, turn, &config)?;
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
        self.open(mapping, remote, IN, now);
        self.find(protocol, inside, remote).expect("opened above").pass(IN, data, now, turn, &config)?;
        Ok(inside)
    }

    pub fn publish(&mut self, protocol: Protocol, outside: Endpoint, inside: Endpoint) -> bool {
        if self.owner(protocol, outside).is_some() || !self.config.external.contains(&outside.ip) {
            return false;
        }
        self.leased.remove(&(protocol, outside));
        self.held.retain(|held| (held.0, held.1) != (protocol, outside));
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
