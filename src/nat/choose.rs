//! Which outside port a new mapping gets.
//!
//! * A published port or one in use is never given, nor one that another inside endpoint gave up a
//!   moment ago, nor one that the host has not leased to us: so nobody inside can sit on a port
//!   where the host or a neighbour is expected.
//! * A live session is never ended for it (RFC 6888 REQ-11d). When nothing is free, what is overdue
//!   goes first; then a TCP session that closed both ways, longest ago; then the newcomer is refused.
//! * A certain port of a leased address may have to be leased first. Then the refusal is
//!   [`Refusal::PortUnleased`], which [`Nat::outbound`] hands to the runtime as a question; nothing
//!   has changed, and the same packet comes again.

use super::mapping::{Mapping, Standing};
use super::pace::Pace;
use super::pool::State;
use super::ports::Place;
use super::{Nat, Observer, Policy, PortChoice, Refusal, Step};
use crate::flow::{Endpoint, Protocol, Time};
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// Leases asked of the host for one inside host, a second. Each is a few system calls.
const ASKS_OF_A_HOST: usize = 256;
/// Leases asked of the host in all, a second.
const ASKS: usize = 1024;
/// Ports looked at in one place, as Linux does before it tries another (`nf_nat_core.c`).
const ATTEMPTS: u16 = 128;
/// Fewer than so many are not looked at in yet another place.
const FEWEST: u16 = 16;
/// Random draws in a block before it is searched from end to end.
const DRAWS: usize = 16;

/// What asking the host for certain ports is held against.
#[derive(Debug, Default)]
pub(super) struct Asking {
    /// The lease that the packet at hand waits for.
    pub wanted: Option<(Protocol, Endpoint)>,
    /// For whom which port was asked for last: it is back for it now, if the host gave it.
    last: Option<(Newcomer, u16)>,
    pace: Pace,
    /// Leases that were not asked for because too many were.
    pub skipped: u64,
}

/// The new mapping for which a port is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Newcomer {
    pub protocol: Protocol,
    pub inside: Endpoint,
    pub remote: Endpoint,
    /// The number of the external address.
    pub external: u16,
}

impl Nat {
    /// How an inside host is treated.
    fn treats(&self, inside: IpAddr) -> &Policy {
        self.policies.get(self.policy_of(inside))
    }

    /// The number of the external address on which an inside host has a block of its own.
    pub(super) fn block_address(&self, inside: IpAddr) -> Option<u16> {
        let external = self.lending.as_ref()?.blocks.external_of(inside)?;
        self.addresses.external(&self.hash, external)
    }

    /// Takes a port for a newcomer. The caller makes it its owner.
    pub(super) fn take_port(
        &mut self,
        newcomer: Newcomer,
        now: Time,
        seen: &mut impl Observer,
    ) -> Result<u16, Refusal> {
        self.ports.settle(&self.hash, newcomer.protocol, newcomer.external, now);
        let mut got = self.choose(newcomer, now);
        if got == Err(Refusal::PortsExhausted) {
            self.sweep(now, seen);
            got = self.choose(newcomer, now);
        }
        if got == Err(Refusal::PortsExhausted)
            && newcomer.protocol == Protocol::Tcp
            && self.recycle(Some(newcomer), now, seen)
        {
            got = self.choose(newcomer, now);
        }
        got
    }

    fn choose(&mut self, newcomer: Newcomer, now: Time) -> Result<u16, Refusal> {
        if self.lending.is_some() {
            return self.choose_in_block(newcomer, now);
        }
        match self.treats(newcomer.inside.ip).choice {
            PortChoice::Overload => self.choose_overloaded(newcomer, now),
            PortChoice::Random | PortChoice::Block { .. } => self.choose_random(newcomer, now),
        }
    }

    /// [`PortChoice::Random`].
    fn choose_random(&mut self, newcomer: Newcomer, now: Time) -> Result<u16, Refusal> {
        let Newcomer { protocol, inside, external, .. } = newcomer;
        if let Some(port) = self.ports.take_back(&self.hash, protocol, external, inside) {
            return Ok(port);
        }
        if inside.port < 1024 && self.ports.needs_lease(protocol) {
            if let Some(port) = self.ports.take_low(protocol, external, inside.port, &mut self.rng) {
                return Ok(port);
            }
            let wish = self.ports.low_candidate(protocol, external, inside.port, now, &mut self.rng);
            if let Some(port) = wish.filter(|_| self.may_ask(inside.ip, now)) {
                return Err(self.ask(newcomer, port));
            }
        }
        let port = self.ports.take(protocol, external, inside.port, now, &mut self.rng);
        port.ok_or(Refusal::PortsExhausted)
    }

    /// [`PortChoice::Overload`]: the inside port, else any that is free, else one that others use
    /// with other remotes, from a random place on.
    fn choose_overloaded(&mut self, newcomer: Newcomer, now: Time) -> Result<u16, Refusal> {
        let Newcomer { protocol, inside, external, .. } = newcomer;
        if self.ports.in_range(protocol, inside.port) {
            if self.may_share(newcomer, inside.port, now) {
                return Ok(inside.port);
            }
            let unleased = self.ports.needs_lease(protocol)
                && self.ports.state(protocol, external, inside.port) == State::Nobody;
            if unleased && self.may_ask(inside.ip, now) {
                return Err(self.ask(newcomer, inside.port));
            }
        }
        if let Some(port) = self.ports.take(protocol, external, inside.port, now, &mut self.rng) {
            return Ok(port);
        }
        let mut attempts = ATTEMPTS;
        while attempts >= FEWEST {
            let start = self.rng.below(usize::from(u16::MAX)) as u16;
            for port in (0..attempts).map(|step| start.wrapping_add(step)) {
                if self.may_share(newcomer, port, now) {
                    return Ok(port);
                }
            }
            attempts /= 2;
        }
        Err(Refusal::PortsExhausted)
    }

    /// Whether a newcomer can have this port beside those that have it: it is free, or they all
    /// talk to other remotes.
    fn may_share(&mut self, newcomer: Newcomer, port: u16, now: Time) -> bool {
        let Newcomer { protocol, remote, external, .. } = newcomer;
        if self.ports.is_free(protocol, external, port) {
            return true;
        }
        let shared = Place { protocol, external, port };
        self.ports.is_shared(protocol, external, port)
            && self.look_up_shared(shared, remote).is_none_or(|id| self.overdue(id, now))
    }

    /// [`PortChoice::Block`]: a random one of the host's own block, then of a block it is lent.
    fn choose_in_block(&mut self, newcomer: Newcomer, now: Time) -> Result<u16, Refusal> {
        let Newcomer { inside, external, .. } = newcomer;
        if let Some((_, port)) = self.asking.last.take().filter(|(asker, _)| *asker == newcomer)
            && self.ports.is_free(newcomer.protocol, external, port)
            && self.ports.take_this(newcomer.protocol, external, port)
        {
            return Ok(port);
        }
        let hold = self.treats(inside.ip).timeouts.port_hold;
        let address = self.addresses.ip(external);
        let Some(lending) = &self.lending else { return Err(Refusal::PortsExhausted) };
        let mut ranges = lending.ranges(inside.ip, address);
        ranges.extend(lending.lendable(inside.ip, address, hold, now));
        for range in ranges {
            if let Some(port) = self.draw(newcomer, &range) {
                if self.ports.take_this(newcomer.protocol, external, port) {
                    return Ok(port);
                }
                if self.may_ask(inside.ip, now) {
                    return Err(self.ask(newcomer, port));
                }
            }
            if let Some(port) = self.leased_in(newcomer, &range) {
                return Ok(port);
            }
        }
        Err(Refusal::PortsExhausted)
    }

    /// A random port of the range that is free or may be asked of the host, of the inside port's
    /// parity if there is one.
    fn draw(&mut self, newcomer: Newcomer, range: &RangeInclusive<u16>) -> Option<u16> {
        let Newcomer { protocol, inside, external, .. } = newcomer;
        let usable = |nat: &Nat, port| {
            matches!(nat.ports.state(protocol, external, port), State::Nobody | State::Free)
        };
        for _ in 0..DRAWS {
            let port = *range.start() + self.rng.below(range.len()) as u16;
            if port % 2 == inside.port % 2 && usable(self, port) {
                return Some(port);
            }
        }
        let skip = self.rng.below(range.len());
        let all = range.clone().skip(skip).chain(range.clone().take(skip)).filter(|port| usable(self, *port));
        let same = all.clone().find(|port| port % 2 == inside.port % 2);
        let mut all = all;
        same.or_else(|| all.next())
    }

    /// A leased free port of the range, for when no more may be asked for.
    fn leased_in(&mut self, newcomer: Newcomer, range: &RangeInclusive<u16>) -> Option<u16> {
        let Newcomer { protocol, external, .. } = newcomer;
        range.clone().find(|port| self.ports.take_this(protocol, external, *port))
    }

    /// Whether the host may be asked for one more port, for this inside host.
    fn may_ask(&mut self, inside: IpAddr, now: Time) -> bool {
        // A host without an account has nothing yet, and will have one by the end of this packet.
        let host = self.hosts.find(&self.hash, inside);
        let may = host.is_none_or(|host| self.hosts[host].asks.take(now, ASKS_OF_A_HOST))
            && self.asking.pace.take(now, ASKS);
        self.asking.skipped += u64::from(!may);
        may
    }

    fn ask(&mut self, newcomer: Newcomer, port: u16) -> Refusal {
        let outside = Endpoint { ip: self.addresses.ip(newcomer.external), port };
        self.asking.wanted = Some((newcomer.protocol, outside));
        self.asking.last = Some((newcomer, port));
        Refusal::PortUnleased
    }

    /// Makes a mapping the owner of the port that was taken for it, or one of its owners.
    pub(super) fn own_port(&mut self, mapping: u32, now: Time, seen: &mut impl Observer) {
        let Mapping { protocol, external, outside_port, inside, .. } = self.mappings[mapping];
        let overloads = self.treats(inside.ip).choice == PortChoice::Overload && self.lending.is_none();
        if overloads && !matches!(protocol, Protocol::Other(_)) {
            self.ports.share(protocol, external, outside_port);
            return;
        }
        self.ports.set_owner(protocol, external, outside_port, mapping);
        let lent = self
            .lending
            .as_mut()
            .and_then(|lending| lending.taken(inside.ip, self.addresses.ip(external), outside_port, now));
        if let Some(block) = lent {
            seen.step(Step::Lent(block), now);
        }
        if self.is_held_after(external, outside_port) {
            self.note_use(protocol, external, outside_port, true);
        }
    }

    /// Gives up the port of a mapping that ends. If all its sessions were seen closing both ways,
    /// nothing more is to come for it, and anybody may have it at once (RFC 6888 REQ-8 A).
    pub(super) fn give_up_port(&mut self, mapping: Mapping, now: Time, seen: &mut impl Observer) {
        let Mapping { protocol, external, outside_port: port, inside, standing, .. } = mapping;
        if matches!(protocol, Protocol::Other(_)) {
            return;
        }
        if self.ports.is_shared(protocol, external, port) {
            // Who else has the port has other remotes, and nobody else may come in (REQ-8 C).
            if self.ports.unshare(protocol, external, port) {
                self.ports.release(protocol, external, port, now);
            }
            return;
        }
        if self.is_held_after(external, port) {
            self.note_use(protocol, external, port, false);
        }
        let timeouts = &self.treats(inside.ip).timeouts;
        let until = super::held::until(now, timeouts.port_hold);
        if let Some(lending) = &mut self.lending {
            // A block is its host's own, always (REQ-8 B) or until it has rested as a whole.
            let ended = lending.given_up(self.addresses.ip(external), port, now);
            self.ports.release(protocol, external, port, now);
            if let Some(block) = ended {
                seen.step(Step::Returned(block), now);
            }
        } else if standing != Standing::Untidy {
            self.ports.release(protocol, external, port, now);
        } else {
            let most = self.config.limits.held_ports;
            self.ports.hold(&self.hash, Place { protocol, external, port }, inside, until, most, now);
        }
    }

    /// Whether a port must not be another host's for a while after its use.
    fn is_held_after(&self, external: u16, port: u16) -> bool {
        self.lending.as_ref().is_none_or(|lending| lending.is_lent(self.addresses.ip(external), port))
    }

    fn note_use(&mut self, protocol: Protocol, external: u16, port: u16, in_use: bool) {
        let recorded = matches!(protocol, Protocol::Tcp | Protocol::Udp);
        if let Some(uses) = self.uses.as_mut().filter(|_| recorded) {
            let outside = Endpoint { ip: self.addresses.ip(external), port };
            uses.push(super::PortUse { protocol, outside, in_use });
        }
    }
}
