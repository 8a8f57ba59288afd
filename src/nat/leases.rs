//! Where outside ports come from and what becomes of them: leases of the host, ports that were in use
//! before a restart, and questions about who has which.

use super::blocks::BlockView;
use super::ports::Place;
use super::{Blocks, MappingView, Nat, wheel};
use crate::flow::{Endpoint, Protocol, Time};
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// Ports that would be welcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The external address.
    pub address: IpAddr,
    /// Odd ports, or even ones.
    pub odd: bool,
    /// How many more.
    pub count: usize,
    /// Fewer than half of what is hoped for are left.
    pub soon: bool,
}

/// A port was taken or given up that must not be another inside host's for a while after its use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortUse {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The address and port.
    pub outside: Endpoint,
    /// It was taken, and not given up.
    pub in_use: bool,
}

/// Who has ports, as far as the translator knows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Looked {
    /// The inside host and its own block: external address, first and last port (RFC 7422).
    pub own: Option<(IpAddr, IpAddr, u16, u16)>,
    /// Blocks that are lent or were, the latest last.
    pub lent: Vec<BlockView>,
    /// Mappings as they are now.
    pub mappings: Vec<MappingView>,
}

/// Mappings that one look-up tells of, at most.
const LOOKED: usize = 1024;

impl Nat {
    /// Gives an outside port to the pool: the host has agreed that it is ours. Ports of foreign
    /// addresses, of protocols without ports, and all if ports need no lease, are passed over.
    pub fn lease(&mut self, protocol: Protocol, outside: Endpoint) {
        if let Some(external) = self.addresses.external(&self.hash, outside.ip) {
            self.ports.lease(protocol, external, outside.port, self.clock);
        }
    }

    /// The host does not give this port: it is not asked for again within 60 s.
    pub fn lease_refused(&mut self, protocol: Protocol, outside: Endpoint, now: Time) {
        if let Some(external) = self.addresses.external(&self.hash, outside.ip) {
            self.ports.refuse(protocol, external, outside.port, now);
        }
    }

    /// Keeps a port that was in use before a restart from everybody until `until` (RFC 6888 REQ-8).
    /// One that is in use again, or not one of ours, is passed over.
    pub fn hold(&mut self, protocol: Protocol, outside: Endpoint, until: Time) {
        if let Some(external) = self.addresses.external(&self.hash, outside.ip) {
            let most = self.config.limits.held_ports;
            let until = until.as_nanos();
            let place = Place { protocol, external, port: outside.port };
            self.ports.hold_unused(&self.hash, place, until, most, self.clock);
        }
    }

    /// Whether this outside port is ours to answer for, mapped or not.
    pub fn holds(&self, protocol: Protocol, outside: Endpoint) -> bool {
        let external = self.addresses.external(&self.hash, outside.ip);
        external.is_some_and(|external| self.ports.answers(protocol, external, outside.port))
    }

    /// From here on, remembers which ports are taken and given up, for [`Nat::port_uses`]. Who asks
    /// for that must read them after every call that takes a packet or the time.
    pub fn record_port_uses(&mut self) {
        self.uses.get_or_insert_default();
    }

    /// TCP and UDP ports taken and given up since the last call, in order.
    pub fn port_uses(&mut self) -> impl Iterator<Item = PortUse> + '_ {
        self.uses.iter_mut().flat_map(|uses| uses.drain(..))
    }

    /// How many more leased ports the pool would like to have, so that the next burst of new flows
    /// finds them ready. Nothing if nothing is wanted.
    pub fn wanted(&self) -> impl Iterator<Item = Wanted> + '_ {
        self.ports.wanted().map(|want| Wanted {
            protocol: want.protocol,
            address: self.addresses.ip(want.external),
            odd: want.odd,
            count: want.count,
            soon: want.soon,
        })
    }

    /// Takes one leased port that has been unused for long out of the pool, to be given back to
    /// the host.
    pub fn give_back(&mut self, now: Time) -> Option<(Protocol, Endpoint)> {
        self.clock = self.clock.max(now);
        let idle = self.config.policy.timeouts.lease.as_nanos() / u128::from(wheel::GRAIN);
        let idle = u32::try_from(idle).unwrap_or(u32::MAX);
        self.ports.settle_now(&self.hash, now);
        let (protocol, external, port) = self.ports.give_back(now, idle)?;
        Some((protocol, Endpoint { ip: self.addresses.ip(external), port }))
    }

    /// The fixed blocks of ports, if ports are given out so.
    pub fn blocks(&self) -> Option<&Blocks> {
        self.lending.as_ref().map(|lending| &lending.blocks)
    }

    /// Whose this outside port is and was.
    pub fn who_had(&self, outside: Endpoint) -> Looked {
        let own = self.blocks().and_then(|blocks| {
            let inside = blocks.owner_of(outside.ip, outside.port)?;
            own(blocks, inside)
        });
        let lent = self
            .lent(|block| block.external == outside.ip && (block.first..=block.last).contains(&outside.port));
        Looked { own, lent, mappings: self.mappings_where(|view| view.outside == outside) }
    }

    /// Which outside ports are and were this inside host's.
    pub fn ports_of(&self, inside: IpAddr) -> Looked {
        let own = self.blocks().and_then(|blocks| own(blocks, inside));
        let lent = self.lent(|block| block.inside == inside);
        Looked { own, lent, mappings: self.mappings_where(|view| view.inside.ip == inside) }
    }

    fn lent(&self, wanted: impl Fn(&BlockView) -> bool) -> Vec<BlockView> {
        let all = self.lending.as_ref().map(|lending| lending.all()).unwrap_or_default();
        all.into_iter().filter(wanted).collect()
    }

    /// Looks at every mapping.
    fn mappings_where(&self, wanted: impl Fn(&MappingView) -> bool) -> Vec<MappingView> {
        let views = (0..self.mappings.end()).filter_map(|row| self.mapping_view(row));
        views.filter(wanted).take(LOOKED).collect()
    }
}

fn own(blocks: &Blocks, inside: IpAddr) -> Option<(IpAddr, IpAddr, u16, u16)> {
    let (external, range): (IpAddr, RangeInclusive<u16>) = blocks.ports_of(inside)?;
    Some((inside, external, *range.start(), *range.end()))
}
