//! The box: joins bytes to decisions. Pure: what it receives, when, and what it was configured
//! with decide what it sends.
//!
//! [`Gateway::receive`] takes one packet and says its fate. The packet that passes stays in the
//! buffer it came in, edited in place; whatever else has to be sent (answers, questions,
//! fragments, packets that waited) goes into the [`Outbox`]. The walk through [`inside`] and
//! [`outside`] is in strict order: checks, then hop, then the translator, then the one edit, then
//! the link header. Nothing is changed before everything that may refuse the packet has spoken, so
//! an ICMP error always quotes what its receiver sent.

pub mod advertise;
pub mod arp;
pub mod command;
pub mod counters;
mod coverage;
mod deliver;
pub mod drop_reason;
pub mod errors;
pub mod fragments;
pub mod hop;
pub mod identification;
pub mod inside;
mod names;
pub mod ndp;
pub mod neighbors;
mod npt;
pub mod outside;
pub mod overload;
pub mod reach;
pub mod reconfigure;
pub mod services;
pub mod silence;
pub mod speech;
pub mod subnet;
pub mod unsolicited;

pub use advertise::Advertise;
pub use command::{Command, Reply};
pub use counters::{Answer, CountersView, Way};
pub use drop_reason::DropReason;
pub use errors::RefusalAnswer;
pub use reach::Reach;
pub use services::dhcp::{Dhcp, Names};
pub use subnet::Subnet;

use crate::flow::{Alias, Domain, Endpoint, LinkId, LinkInfo, Protocol, Time};
use crate::nat::{
    Counts, Nat, NatConfig, Observer, PortUse, PrefixTranslation, Reconfigured, Refusal, Span, Wanted,
};
use crate::wire::Buffer;
use crate::wire::ethernet::{self, MacAddr};
use advertise::Schedule;
use counters::Counters;
use fragments::Fragments;
use neighbors::Neighbors;
use overload::Overload;
use services::dhcp::Leases;
use silence::Resolver;
use speech::Speech;
use std::net::IpAddr;
use unsolicited::Unsolicited;

/// The TAP: Ethernet frames of the containers.
pub const INSIDE: LinkId = LinkId(0);
/// The uplink: IP packets.
pub const OUTSIDE: LinkId = LinkId(1);
/// The host's own stack: IP packets.
pub const HOST: LinkId = LinkId(2);
/// What aliases stand for on the host, where the uplink does not lead there, or not from the right
/// address: IP packets.
pub const ALIASES: LinkId = LinkId(3);

/// Settings of a gateway: plain data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GatewayConfig {
    /// The inside subnets; at least one.
    pub subnets: Vec<Subnet>,
    /// The gateway's MAC inside.
    pub mac: MacAddr,
    /// What the TAP can take.
    pub inside: LinkInfo,
    /// What the uplink can take.
    pub outside: LinkInfo,
    /// The translator's settings.
    pub nat: NatConfig,
    /// Inside hosts at most.
    pub hosts: usize,
    /// Packets from inside are dropped whose source address is known to be another MAC's.
    pub bind_mac: bool,
    /// What an inside host is told when a limit keeps it from opening a session.
    pub refusal: RefusalAnswer,
    /// ICMP errors of our own, to each side: how many at once.
    pub error_burst: u32,
    /// ICMP errors of our own, to each side: how many a second.
    pub errors_per_second: u32,
    /// Router advertisements to the IPv6 subnets; `None` sends none.
    pub advertise: Option<Advertise>,
    /// Addresses of the gateway inside beside those of its subnets, such as that of its resolver.
    pub services: Vec<IpAddr>,
    /// Resolvers, as hosts inside know them, whose answers egress rules about names believe.
    pub resolvers: Vec<IpAddr>,
    /// Addresses for hosts inside by DHCP; `None` gives none.
    pub dhcp: Option<Dhcp>,
    /// Prefixes whose hosts are not translated by port but by prefix (RFC 6296). No two of their
    /// inside or outside prefixes overlap.
    pub translations: Vec<PrefixTranslation>,
    /// Where there is a way to.
    pub reach: Reach,
    /// Addresses that stand for something on the host. The uplink knows what.
    pub aliases: Vec<Alias>,
    /// Domains that are not asked of the host's own resolver. The uplink sends the questions there.
    pub domains: Vec<Domain>,
    /// The uplink is one of sockets: what the host itself sends comes by it too, its loopback as an
    /// alias or the gateway's own address inside.
    pub host_by_uplink: bool,
}

impl GatewayConfig {
    /// Defaults for these subnets and links.
    pub fn new(
        subnets: Vec<Subnet>,
        mac: MacAddr,
        inside: LinkInfo,
        outside: LinkInfo,
        nat: NatConfig,
    ) -> Self {
        GatewayConfig {
            subnets,
            mac,
            inside,
            outside,
            nat,
            hosts: 4096,
            bind_mac: true,
            refusal: RefusalAnswer::default(),
            error_burst: 50,
            errors_per_second: 1000,
            advertise: None,
            services: Vec::new(),
            resolvers: Vec::new(),
            dhcp: None,
            translations: Vec::new(),
            reach: Reach::default(),
            aliases: Vec::new(),
            domains: Vec::new(),
            host_by_uplink: false,
        }
    }
}

/// What became of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It passes: send the buffer on this link.
    Pass(LinkId),
    /// It was cut into fragments, which are in the outbox.
    Cut(LinkId),
    /// It waits, for the MAC of its host or for its first fragment.
    Held,
    /// The gateway took it for itself; an answer, if there is one, is in the outbox.
    Taken(Answer),
    /// It is dropped.
    Dropped(DropReason),
    /// It needs this outside port. Ask the host for it, say [`Gateway::lease`] or
    /// [`Gateway::lease_refused`], and hand the packet in again: the buffer is as it was. Who has
    /// done so often enough says [`Gateway::give_up`].
    Wants(Protocol, Endpoint),
}

/// Packets to send besides the one that was received.
#[derive(Debug, Default)]
pub struct Outbox {
    /// In order: where, and what.
    pub packets: Vec<(LinkId, Buffer)>,
}

impl Outbox {
    fn push(&mut self, link: LinkId, packet: Buffer) {
        self.packets.push((link, packet));
    }
}

/// The gateway.
#[derive(Debug)]
pub struct Gateway {
    config: GatewayConfig,
    nat: Nat,
    neighbors: Neighbors,
    fragments: Fragments,
    /// Errors of our own, by the side of their receiver: noise outside does not silence them inside.
    speech_inside: Speech,
    speech_outside: Speech,
    unsolicited: Unsolicited,
    schedule: Schedule,
    leases: Leases,
    names: Names,
    silence: Resolver,
    counters: Counters,
    overload: Overload,
}

impl Gateway {
    /// A gateway that knows nobody yet. The same seed and inputs give the same outputs.
    pub fn new(config: GatewayConfig, seed: [u8; 32]) -> Self {
        Gateway {
            nat: Nat::new(config.nat.clone(), seed),
            neighbors: Neighbors::new(config.hosts),
            fragments: Fragments::new(&seed),
            speech_inside: Speech::new(config.error_burst, config.errors_per_second, &seed, 2),
            speech_outside: Speech::new(config.error_burst, config.errors_per_second, &seed, 3),
            unsolicited: Unsolicited::default(),
            schedule: Schedule::new(&seed),
            leases: Leases::default(),
            names: Names::default(),
            silence: Resolver::default(),
            counters: Counters::default(),
            overload: Overload::default(),
            config,
        }
    }

    /// The settings in force.
    pub fn config(&self) -> &GatewayConfig {
        &self.config
    }

    /// Takes one packet that came in by `from`, which must be one of [`INSIDE`], [`OUTSIDE`] and
    /// [`HOST`]. If the fate is [`Fate::Pass`], `packet` holds what to send.
    pub fn receive(
        &mut self,
        from: LinkId,
        packet: &mut Buffer,
        now: Time,
        out: &mut Outbox,
        seen: &mut impl Observer,
    ) -> Fate {
        let length = packet.len();
        let source = if from == INSIDE { ethernet::source(packet.bytes()) } else { MacAddr::default() };
        let fate = if from == INSIDE {
            self.receive_inside(packet, now, out, seen)
        } else {
            self.receive_outside(from, packet, now, out, seen)
        };
        match fate {
            Fate::Dropped(reason) => {
                self.counters.dropped(reason);
                self.overload.dropped(from, packet.port, source, reason, now);
            }
            Fate::Pass(to) | Fate::Cut(to) => {
                if from == INSIDE && packet.port.is_none() && self.overload.wants_guests() {
                    self.overload.served(source, now);
                }
                let header = if from == INSIDE { usize::from(self.config.inside.header) } else { 0 };
                self.counters.passed(way(from, to), length.saturating_sub(header));
            }
            Fate::Taken(_) | Fate::Held | Fate::Wants(..) => {}
        }
        fate
    }

    /// Drops a packet whose fate was [`Fate::Wants`] again and again.
    pub fn give_up(&mut self) -> Fate {
        let reason = DropReason::Refused(Refusal::PortUnleased);
        self.counters.dropped(reason);
        Fate::Dropped(reason)
    }

    /// Takes the kernel's word that a packet could not be sent.
    pub fn send_failed(&mut self) {
        self.counters.dropped(DropReason::SendFailed);
    }

    /// Takes what the uplink can take, which changes with its interface.
    pub fn set_outside(&mut self, info: LinkInfo) {
        self.config.outside = info;
    }

    /// Takes how the host looks names up, which changes with its network.
    pub fn set_names(&mut self, names: Names) {
        self.names = names;
    }

    /// Carries out a change or answers a question.
    pub fn apply(&mut self, command: Command, now: Time, seen: &mut impl Observer) -> Reply {
        match command {
            Command::Publish { protocol, outside, inside } => {
                match self.nat.publish(protocol, outside, inside) {
                    Ok(()) => Reply::Done,
                    Err(error) => Reply::NotPublished(error),
                }
            }
            Command::Unpublish { protocol, outside } => {
                if self.nat.unpublish(protocol, outside, now, seen) {
                    Reply::Done
                } else {
                    Reply::NotFound
                }
            }
            Command::Published => Reply::Published(self.nat.published()),
            Command::Sessions { cursor, limit } => {
                let (sessions, next) = self.nat.sessions(cursor, limit, now);
                Reply::Sessions(sessions, next)
            }
            Command::Forget(ids) => {
                Reply::Forgotten(ids.into_iter().filter(|id| self.nat.forget(*id, now, seen)).count())
            }
            Command::LookUpOutside(outside) => Reply::Looked(Box::new(self.nat.who_had(outside))),
            Command::LookUpInside(inside) => Reply::Looked(Box::new(self.nat.ports_of(inside))),
            Command::SetAliases(aliases) => {
                self.config.aliases = aliases;
                Reply::Done
            }
            Command::Reconfigure(config) => {
                let Reconfigured { kept, ended } = self.reconfigure(*config, now, seen);
                Reply::Reconfigured { kept, ended }
            }
            Command::Counters => Reply::Counters(Box::new(self.counters.view()), self.nat.counts()),
        }
    }

    /// Does what time asks for: ends sessions, repeats questions, lets held packets go.
    pub fn tick(&mut self, now: Time, out: &mut Outbox, seen: &mut impl Observer) {
        self.nat.expire(now, seen);
        for _ in 0..self.fragments.expire(now) {
            self.counters.dropped(DropReason::FragmentOrphan);
        }
        self.advertise(now, out);
        self.answer_unsolicited(now, out);
        self.overload.tick(now);
        self.silence.tick(now);
        let (questions, lost) = self.neighbors.tick(now);
        for question in questions {
            self.ask(question, out);
        }
        for held in lost {
            self.counters.dropped(DropReason::NoNeighbor);
            self.tell_of_silence(held, now, out, seen);
        }
    }

    /// When [`Gateway::tick`] has something to do next.
    pub fn next_deadline(&self) -> Option<Time> {
        let deadlines = [
            self.nat.next_deadline(),
            self.neighbors.next_deadline(),
            self.fragments.next_deadline(),
            self.next_advertisement(),
            self.unsolicited.next_deadline(),
            self.overload.next_deadline(),
            self.silence.next_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// See [`Nat::lease`].
    pub fn lease(&mut self, protocol: Protocol, outside: Endpoint) {
        self.nat.lease(protocol, outside);
    }

    /// See [`Nat::lease_refused`].
    pub fn lease_refused(&mut self, protocol: Protocol, outside: Endpoint, now: Time) {
        self.nat.lease_refused(protocol, outside, now);
    }

    /// See [`Nat::hold`].
    pub fn hold(&mut self, protocol: Protocol, outside: Endpoint, until: Time) {
        self.nat.hold(protocol, outside, until);
    }

    /// See [`Nat::record_port_uses`].
    pub fn record_port_uses(&mut self) {
        self.nat.record_port_uses();
    }

    /// See [`Nat::port_uses`].
    pub fn port_uses(&mut self) -> impl Iterator<Item = PortUse> + '_ {
        self.nat.port_uses()
    }

    /// See [`Nat::wanted`].
    pub fn wanted(&self) -> impl Iterator<Item = Wanted> + '_ {
        self.nat.wanted()
    }

    /// See [`Nat::give_back`].
    pub fn give_back(&mut self, now: Time) -> Option<(Protocol, Endpoint)> {
        self.nat.give_back(now)
    }

    /// How many sessions there are.
    pub fn sessions(&self) -> usize {
        self.nat.live_sessions()
    }

    /// See [`Nat::spans`].
    pub fn spans(&self) -> impl Iterator<Item = Span> + '_ {
        self.nat.spans()
    }

    /// How full the tables are.
    pub fn counts(&self) -> Counts {
        self.nat.counts()
    }

    /// Whether `ip` is an address of the host: packets to it do not go to the wire.
    fn is_host(&self, ip: IpAddr) -> bool {
        self.config.nat.external.contains(&ip) || self.config.nat.host_addresses.contains(&ip)
    }
}

fn way(from: LinkId, to: LinkId) -> Way {
    match (from, to) {
        (INSIDE, INSIDE) => Way::Hairpin,
        (INSIDE, HOST | ALIASES) => Way::ToHost,
        (INSIDE, _) => Way::Out,
        (HOST | ALIASES, _) => Way::FromHost,
        _ => Way::In,
    }
}
