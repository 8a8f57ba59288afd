//! The translator: decides on tuples. Pure; imports `flow` only.
//!
//! # Theory of operation
//!
//! *Outbound*: is there a session for this flow? Touch it. Else is there a mapping for this inside
//! endpoint? Else ask the port pool. Open the session; the edit changes the source. *Inbound*: is
//! there a session? Touch it. Else is there a mapping for this outside endpoint? Ask the filter.
//! Open the session; the edit changes the destination. That is all of NAT.
//!
//! ```text
//!        inside                        mapping                          remote
//!   10.0.0.2:1000 ──┐        10.0.0.2:1000 <-> 192.0.2.1:40000   ┌── 198.51.100.7:53
//!                   │          │ session with 198.51.100.7:53    │
//!                   │          │ session with 203.0.113.9:443    │
//!                   v          v                                 v
//!   outbound   (protocol, inside, remote) ─────────────> session ─> mapping ─> outside
//!   inbound    outside port ─> mapping ─> (protocol, inside, remote) ─> session ─> inside
//! ```
//!
//! One index finds sessions both ways: an inbound packet learns its inside endpoint from the
//! owner of the outside port and then asks as an outbound one does.
//!
//! Where to read on: `session` and `mapping` are the two rows, in `slab`s under an
//! `index`; `life` opens and ends them, and `pass` is what packets do to them; `choose` says what
//! the outside is, from `addresses`, `ports` (a `pool` each, and the `held` ones) and `blocks`;
//! `leases` is where they come from; `policies` how each host is treated, `exempt` which packets are
//! not translated at all; `egress` who may go out, by `names` too, `filter` who may come in, and `admit` asks without consequences; `tcp`
//! says what a segment means, `window` whether its numbers can be true, and `knocks` keeps SYNs in
//! mid-connection; `wheel` when things end; `icmp` what errors mean; `reconfigure` what a new
//! configuration leaves alive.
//!
//! # Choices that RFCs leave open
//!
//! * Inbound packets refresh a session too, once they are let in (RFC 4787 REQ-6a). What is
//!   refused refreshes nothing (RFC 7857 §7), nor does an ICMP error or a RST (§7.1).
//! * A policy whose mapping changes keeps the mappings there are, for the sessions that they have
//!   (`reconfigure`).
//! * Ports are random in the whole range (RFC 7857 §9), of the inside port's parity and side of 1024
//!   as long as there are such (RFC 4787 REQ-3a, REQ-4): the other parity comes before a refusal,
//!   and a port from 1024 on before one that the host does not give below.
//! * A port that was given up is kept from others for `port-hold` (RFC 6888 REQ-8) but where its
//!   connection was seen closing both ways, which lasts longer (REQ-8 A).
//! * A non-SYN segment never opens a session.
//! * The packet that a hairpin target's filter refuses still opens its sender's own filter, as it
//!   would if it had gone round by the outside: two inside hosts can punch holes for each other.

pub mod blocks;
mod by_remote;
pub mod config;
pub mod decision;
pub mod egress;
pub mod leases;
pub mod npt;
pub mod step;
pub mod view;

mod addresses;
mod admit;
mod choose;
mod counts;
mod exempt;
mod filter;
mod forward;
mod hash;
mod held;
mod hosts;
mod icmp;
mod index;
mod knocks;
mod life;
mod listing;
mod mapping;
pub mod names;
mod orphans;
mod pace;
mod pass;
mod policies;
mod pool;
mod ports;
mod reconfigure;
mod remotes;
mod rng;
mod session;
mod slab;
mod span;
mod tcp;
mod wheel;
mod window;

pub use blocks::{BlockView, Blocks, BlocksError};
pub use config::{Behaviour, Exemption, Limits, NatConfig, Policy, PortChoice, Rule, Timeouts};
pub use counts::Counts;
pub use decision::{Decision, Exit, Refusal};
pub use egress::EgressRule;
pub use forward::PublishError;
pub use leases::{Looked, PortUse, Wanted};
pub use names::{Asked, NameCounts, NamePattern};
pub use npt::{PrefixTranslation, PrefixTranslationError, Unmapped};
pub use reconfigure::{Cut, Reconfigured};
pub use span::Span;
pub use step::{Closed, Observer, Step};
pub use view::{MappingView, SessionView, TcpState};

use crate::flow::{Data, Edit, Endpoint, Flow, Protocol, Summary, Time};
use addresses::Addresses;
use blocks::Lending;
use choose::Asking;
use filter::Peers;
use forward::Forwards;
use hash::Hash;
use hosts::Hosts;
use index::Index;
use knocks::Knocks;
use mapping::{Mapping, Mappings};
use names::Names;
use orphans::Orphans;
use policies::Policies;
use ports::{Place, Ports};
use rng::Rng;
use session::{Sessions, Way};
use slab::NONE;
use std::collections::VecDeque;
use std::net::IpAddr;
use wheel::Wheel;

/// Indices are made for this many sessions at most; beyond, they grow when needed.
const ROOM: usize = 1 << 21;
/// Sessions up to which the tables are taken to be in a cache: four megabytes of them.
const CACHED: usize = 1 << 15;

/// A decision while it is being made.
type Verdict = Result<(Edit, Exit), Refusal>;

/// How a packet leaves.
enum Left {
    /// With the outside endpoint of the mapping in this row. What that is, is written where the decision
    /// stands: copied there field by field, it would cost more than finding it.
    By(u32),
    /// Anything else.
    Otherwise(Edit, Exit),
}

impl Left {
    fn otherwise((edit, exit): (Edit, Exit)) -> Left {
        Left::Otherwise(edit, exit)
    }
}

/// The translator of one gateway: mappings, sessions, ports, timers.
#[derive(Debug)]
pub struct Nat {
    config: NatConfig,
    policies: Policies,
    hash: Hash,
    rng: Rng,
    addresses: Addresses,
    sessions: Sessions,
    /// Sessions by (protocol, inside, remote).
    by_flow: Index,
    /// Sessions by (protocol, outside endpoint, remote), where that endpoint is not one host's.
    by_remote: Index,
    mappings: Mappings,
    peers: Peers,
    ports: Ports,
    /// Ports by blocks, if they are given out so.
    lending: Option<Lending>,
    asking: Asking,
    /// Ports taken and given up since they were last read, if anybody reads them.
    uses: Option<Vec<PortUse>>,
    hosts: Hosts,
    forwards: Forwards,
    wheel: Wheel,
    /// Sessions (row, generation) in the order in which they closed both ways.
    closing: VecDeque<(u32, u32)>,
    /// SYNs in mid-connection.
    knocks: Knocks,
    /// Names that rules are about, and their addresses.
    names: Names,
    /// What the last new configuration has cut.
    cut: Vec<Cut>,
    /// What it has cut that is no connection.
    orphans: Orphans,
    /// The latest time that was handed in, for calls that hand in none.
    clock: Time,
}

impl Nat {
    /// An empty translator. `seed` feeds the port choice and the hash tables; the same seed and
    /// the same calls give the same decisions.
    pub fn new(config: NatConfig, seed: [u8; 32]) -> Self {
        let mut rng = Rng::new(seed);
        let hash = Hash::new(rng.next(), rng.next());
        let room = config.limits.sessions.min(ROOM);
        // Blocks that do not fit are refused where the configuration is checked.
        let blocks = Blocks::of(&config).ok().flatten();
        let policies = Policies::new(&config);
        let addresses = Addresses::new(&hash, &config.external, &config.retired, &config.host_addresses);
        Nat {
            sessions: Sessions::new(),
            by_flow: Index::with_room(room),
            by_remote: by_remote::index(),
            mappings: Mappings::new(room),
            peers: Peers::new(policies.ask_for_peers(), room),
            ports: Ports::new(&config, addresses.in_use(), blocks.is_some()),
            lending: blocks.map(Lending::new),
            asking: Asking::default(),
            uses: None,
            hosts: Hosts::new(),
            forwards: Forwards::default(),
            wheel: Wheel::new(),
            closing: VecDeque::new(),
            knocks: Knocks::default(),
            names: Names::default(),
            cut: Vec::new(),
            orphans: Orphans::default(),
            clock: Time::ZERO,
            policies,
            addresses,
            config,
            hash,
            rng,
        }
    }

    /// The configuration in force.
    pub fn config(&self) -> &NatConfig {
        &self.config
    }

    /// Decides on a packet from the inside that is not for the gateway itself.
    pub fn outbound(&mut self, packet: &Summary, now: Time, seen: &mut impl Observer) -> Decision {
        let verdict = match packet {
            Summary::Data(data) => match self.leave(data, now, seen) {
                Ok(Left::By(mapping)) => {
                    self.clock = self.clock.max(now);
                    let source = Some(self.outside(mapping));
                    return Decision::Translate {
                        edit: Edit { source, ..Edit::default() },
                        exit: Exit::Outside,
                    };
                }
                Ok(Left::Otherwise(edit, exit)) => Ok((edit, exit)),
                Err(refusal) => Err(refusal),
            },
            Summary::Error(error) => self.error_outbound(error, now, seen),
        };
        self.decided(packet, verdict, now, seen)
    }

    /// Decides on a packet that came by the wire to one of the outside addresses, or to an inside
    /// host's own address if [`Nat::may_exempt`] says that it is to be asked about.
    pub fn inbound(&mut self, packet: &Summary, now: Time, seen: &mut impl Observer) -> Decision {
        self.come_in(packet, true, now, seen)
    }

    /// Decides on a packet that the host itself sent to one of the outside addresses: as
    /// [`Nat::inbound`], but its source may be an address of ours.
    pub fn from_host(&mut self, packet: &Summary, now: Time, seen: &mut impl Observer) -> Decision {
        self.come_in(packet, false, now, seen)
    }

    #[inline]
    fn come_in(&mut self, packet: &Summary, wire: bool, now: Time, seen: &mut impl Observer) -> Decision {
        let verdict = match packet {
            Summary::Data(data) => match self.arrive(data, wire, now, seen) {
                Ok(mapping) => {
                    self.clock = self.clock.max(now);
                    let destination = Some(self.mappings[mapping].inside);
                    return Decision::Translate {
                        edit: Edit { destination, ..Edit::default() },
                        exit: Exit::Inside,
                    };
                }
                Err(refusal) if wire => self.arrive_exempt(data, refusal),
                Err(refusal) => Err(refusal),
            },
            Summary::Error(error) => self.error_inbound(error, wire, now, seen),
        };
        self.decided(packet, verdict, now, seen)
    }

    #[inline]
    fn decided(
        &mut self,
        packet: &Summary,
        verdict: Verdict,
        now: Time,
        seen: &mut impl Observer,
    ) -> Decision {
        self.clock = self.clock.max(now);
        match verdict {
            Ok((edit, exit)) => Decision::Translate { edit, exit },
            Err(refusal) => {
                if refusal == Refusal::PortUnleased
                    && let Some((protocol, outside)) = self.asking.wanted.take()
                {
                    return Decision::Lease(protocol, outside);
                }
                if seen.wants() {
                    seen.step(self.refused(packet.flow(), refusal, now), now);
                }
                Decision::Refuse(refusal)
            }
        }
    }

    /// A packet from the inside.
    #[inline]
    fn leave(&mut self, data: &Data, now: Time, seen: &mut impl Observer) -> Result<Left, Refusal> {
        let Flow { protocol, source: inside, destination: remote } = data.flow;
        if protocol == Protocol::Tcp && !data.tcp.plausible() {
            return Err(Refusal::BadFlags);
        }
        if protocol == Protocol::Icmp && !data.asks {
            if !self.leave_exempt(data.flow) {
                return Err(Refusal::UnsolicitedQuery);
            }
            return self.pass_exempt(data.flow, now).map(Left::otherwise);
        }
        let id = match self.find(protocol, inside, remote, now, seen) {
            Some(id) if !self.sessions[id].local() => id,
            Some(_) => return self.leave_to_us(data, now, seen).map(Left::otherwise),
            None if self.addresses.home(&self.hash, remote.ip).is_some() => {
                return self.leave_to_us(data, now, seen).map(Left::otherwise);
            }
            None if self.leave_exempt(data.flow) => {
                return self.pass_exempt(data.flow, now).map(Left::otherwise);
            }
            None => self.open_outbound(data, false, now, seen)?,
        };
        self.pass(id, Way::Out, data, now, seen)?;
        Ok(Left::By(self.sessions[id].mapping))
    }

    /// A packet from the inside to an address of ours: for another inside host, if one has that
    /// outside endpoint, else for the host itself.
    #[inline(never)]
    fn leave_to_us(&mut self, data: &Data, now: Time, seen: &mut impl Observer) -> Verdict {
        let Flow { protocol, source: inside, destination: remote } = data.flow;
        let hairpin = self.may_reach_us(self.policy_of(inside.ip), protocol, remote)?;
        let id = match self.find(protocol, inside, remote, now, seen) {
            Some(id) => id,
            None => self.open_outbound(data, true, now, seen)?,
        };
        self.pass(id, Way::Out, data, now, seen)?;
        let outside = self.outside(self.sessions[id].mapping);
        let mut edit = Edit { source: Some(outside), ..Edit::default() };
        if !hairpin {
            return Ok((edit, Exit::Host));
        }
        let arriving = Data { flow: Flow { protocol, source: outside, destination: remote }, ..*data };
        let mapping = self.arrive(&arriving, false, now, seen)?;
        edit.destination = Some(self.mappings[mapping].inside);
        Ok((edit, Exit::Hairpin))
    }

    /// Whether an inside host with this policy may send to this address of ours: to another inside
    /// host (true), or to the host itself (false).
    fn may_reach_us(&self, policy: u8, protocol: Protocol, remote: Endpoint) -> Result<bool, Refusal> {
        let hairpin = self.is_hairpin(protocol, remote);
        if hairpin && !self.policies.get(policy).hairpin {
            return Err(Refusal::HairpinOff);
        }
        if !hairpin && !self.config.host_access {
            return Err(Refusal::HostAccessOff);
        }
        Ok(hairpin)
    }

    /// A packet to an outside endpoint; tells whose it is: the row of the mapping.
    #[inline]
    fn arrive(
        &mut self,
        data: &Data,
        wire: bool,
        now: Time,
        seen: &mut impl Observer,
    ) -> Result<u32, Refusal> {
        let Flow { protocol, source: remote, destination: outside } = data.flow;
        let Some(mapping) = self.owner(data, now, seen) else {
            let query = protocol == Protocol::Icmp;
            let unknown = if query { Refusal::UnsolicitedQuery } else { Refusal::NoMapping };
            return Err(self.unless_ours(remote, wire, unknown));
        };
        if protocol == Protocol::Tcp && !data.tcp.plausible() {
            return Err(self.unless_ours(remote, wire, Refusal::BadFlags));
        }
        let inside = self.mappings[mapping].inside;
        let guess = self.guess(mapping, remote, now);
        if let Some(id) = guess.or_else(|| self.find(protocol, inside, remote, now, seen)) {
            if wire && self.sessions[id].local() {
                return Err(Refusal::SourceIsOurs);
            }
            // The inside endpoint already talks to this remote by another outside endpoint.
            if self.sessions[id].mapping != mapping {
                return Err(Refusal::Filtered);
            }
            self.pass(id, Way::In, data, now, seen)?;
            return Ok(mapping);
        }
        let local = self.addresses.home(&self.hash, remote.ip).is_some();
        if local && wire {
            return Err(Refusal::SourceIsOurs);
        }
        if protocol == Protocol::Icmp {
            return Err(Refusal::UnsolicitedQuery);
        }
        // The search may have met an overdue session, the last of its mapping.
        let mapping = self.owner(data, now, seen).ok_or(Refusal::NoMapping)?;
        if protocol == Protocol::Tcp && !data.tcp.opens() {
            return Err(Refusal::NoSession);
        }
        if !self.admits(mapping, remote.ip, now, seen) {
            return Err(Refusal::Filtered);
        }
        let id = self.open_inbound(mapping, remote, local, now, seen)?;
        debug_assert_eq!(self.outside(mapping), outside);
        self.pass(id, Way::In, data, now, seen)?;
        Ok(mapping)
    }

    fn unless_ours(&self, remote: Endpoint, wire: bool, refusal: Refusal) -> Refusal {
        let ours = wire && self.addresses.home(&self.hash, remote.ip).is_some();
        if ours { Refusal::SourceIsOurs } else { refusal }
    }

    /// The mapping that has the outside endpoint to which a packet came.
    #[inline]
    fn owner(&mut self, data: &Data, now: Time, seen: &mut impl Observer) -> Option<u32> {
        let Flow { protocol, source: remote, destination: outside } = data.flow;
        let external = self.addresses.external(&self.hash, outside.ip)?;
        match protocol {
            Protocol::Icmp if data.asks => None,
            _ => self.owner_at(protocol, external, outside.port, remote, now, seen),
        }
    }

    /// The mapping that has this port of an external address, towards this remote if it is not
    /// alone.
    #[inline]
    fn owner_at(
        &mut self,
        protocol: Protocol,
        external: u16,
        port: u16,
        remote: Endpoint,
        now: Time,
        seen: &mut impl Observer,
    ) -> Option<u32> {
        let sole = self.ports.owner(protocol, external, port);
        if sole.is_some() || self.by_remote.is_empty() {
            return sole;
        }
        let id = self.find_shared(Place { protocol, external, port }, remote, now, seen)?;
        Some(self.sessions[id].mapping)
    }

    /// The latest session of a mapping, if it is the one with this remote.
    #[inline]
    fn guess(&self, mapping: u32, remote: Endpoint, now: Time) -> Option<u32> {
        let Mapping { recent, policy, .. } = self.mappings[mapping];
        if recent == NONE {
            return None;
        }
        let session = &self.sessions[recent];
        let right = session.taken() && session.mapping == mapping && self.sessions.talks_to(session, remote);
        let alive = now.as_nanos() < session.deadline(self.policies.lives(policy));
        (right && alive).then_some(recent)
    }

    /// The live session of this inside endpoint with this remote. One that is overdue is closed.
    #[inline]
    fn find(
        &mut self,
        protocol: Protocol,
        inside: Endpoint,
        remote: Endpoint,
        now: Time,
        seen: &mut impl Observer,
    ) -> Option<u32> {
        let id = self.look_up(protocol, inside, remote)?;
        if self.overdue(id, now) {
            self.close(id, Closed::Expired, now, seen);
            return None;
        }
        Some(id)
    }

    /// The session of this inside endpoint with this remote, overdue or not.
    #[inline]
    fn look_up(&self, protocol: Protocol, inside: Endpoint, remote: Endpoint) -> Option<u32> {
        let (sessions, mappings) = (&self.sessions, &self.mappings);
        // Which mapping it is stands in the session. Where neither is in a cache, both are fetched at once.
        let likely =
            if sessions.len() > CACHED { mappings.likely(&self.hash, protocol, inside) } else { NONE };
        self.by_flow.find(self.hash.pair(protocol, inside, remote), |id| {
            let session = &sessions[id];
            let is_it = |mapping: &Mapping| mapping.inside == inside && mapping.protocol == protocol;
            sessions.talks_to(session, remote)
                && (session.mapping == likely || is_it(&mappings[session.mapping]))
        })
    }

    /// Who we say that the inside host of a mapping is.
    #[inline]
    fn outside(&self, mapping: u32) -> Endpoint {
        let Mapping { external, outside_port, .. } = self.mappings[mapping];
        Endpoint { ip: self.addresses.ip(external), port: outside_port }
    }

    /// Closes sessions whose time has come; does a bounded amount of work a call (1,024 sessions).
    pub fn expire(&mut self, now: Time, seen: &mut impl Observer) {
        self.clock = self.clock.max(now);
        self.sweep(now, seen);
    }

    /// When [`Nat::expire`] has something to do next; may be early, never late by more than the
    /// timer's grain (1/8 s), or 8 s for ports that come free. In the past if the last call left something undone.
    pub fn next_deadline(&self) -> Option<Time> {
        [self.wheel.next().map(Time::from_nanos), self.ports.next_look()].into_iter().flatten().min()
    }

    /// Whether `ip` is an external address, if only for port forwards.
    pub fn is_external(&self, ip: IpAddr) -> bool {
        self.addresses.external(&self.hash, ip).is_some()
    }
}
