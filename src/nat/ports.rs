//! Who may have which outside port: one pool for each external address and protocol, the ports that
//! are held after use, and those that the host has refused.
//!
//! On an address shared with the host, free means *leased and free*: the host has agreed. Leases
//! are asked for ahead of need. The stock of each parity grows with the rate at which ports are
//! taken, and shrinks again when they lie unused. Ports below 1024 are never stocked: they are
//! leased one by one, when an inside port below 1024 needs one.
//!
//! ```text
//!              lease                take                    release
//!   the host's ─────> free, ours ─────────> a mapping's ──────────────────> held ──┐
//!        ^               │  ^                    │ closed both ways                │ 120 s
//!        └── give back ──┘  └────────────────────┴─────────────────────────────────┘
//! ```

mod leasing;

use super::NatConfig;
use super::hash::Hash;
use super::held::{self, Held, Holds};
use super::pool::{Pool, State, list_of};
use super::rng::Rng;
use super::wheel;
use crate::flow::{Endpoint, Protocol, Time};
use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::Duration;

/// How often held ports are looked at where nobody asks for one.
const LOOK: Duration = Duration::from_secs(8);

/// The lists in which a port is looked for, by the list of the inside port.
const ORDER: [&[usize]; 4] = [&[0, 1], &[1, 0], &[2, 3, 0, 1], &[3, 2, 1, 0]];

/// The protocols with a pool: TCP, UDP, ICMP.
const POOLED: usize = 3;

/// An outside endpoint: the number of the external address, and the port; 0 where there are none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub protocol: Protocol,
    pub external: u16,
    pub port: u16,
}

/// All pools.
#[derive(Debug)]
pub(super) struct Ports {
    pools: Vec<Pool>,
    /// By external address: whether it is one to take ports of.
    in_use: Vec<bool>,
    /// Leased ports that a new configuration has no use for: protocol, external address, port.
    surplus: Vec<(Protocol, u16, u16)>,
    ranges: Vec<RangeInclusive<u16>>,
    leased: bool,
    /// Ports are given out by blocks: there are no lists, and nothing is stocked.
    blocks: bool,
    holds: Holds,
    /// When which port of which pool may be asked for again.
    refused: VecDeque<(u64, u16, u16)>,
    refusals_forgotten: u64,
    /// Ports that mappings share.
    shared: usize,
    /// When held ports are looked at next, in nanoseconds; never if there are none.
    look: u64,
}

fn number(protocol: Protocol, external: u16) -> Option<usize> {
    let protocol = match protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => 1,
        Protocol::Icmp => 2,
        Protocol::Other(_) => return None,
    };
    Some(usize::from(external) * POOLED + protocol)
}

fn tick(now: Time) -> u32 {
    u32::try_from(now.as_nanos() / wheel::GRAIN).unwrap_or(u32::MAX)
}

impl Ports {
    /// `in_use`: the external addresses by number. The ranges of `config` do not overlap; port 0 in
    /// them is passed over.
    pub(super) fn new(config: &NatConfig, in_use: Vec<bool>, blocks: bool) -> Self {
        let mut ports = Ports {
            pools: Vec::new(),
            in_use: Vec::new(),
            surplus: Vec::new(),
            ranges: Vec::new(),
            leased: config.leased,
            blocks,
            holds: Holds::new(0),
            refused: VecDeque::new(),
            refusals_forgotten: 0,
            shared: 0,
            look: u64::MAX,
        };
        ports.reconfigure(in_use, config.ports.clone(), blocks, Time::ZERO);
        ports
    }

    /// Takes other external addresses, by number whether they are in use, and other ranges. No
    /// mapping may have a port that they exclude, but for port forwards on addresses in use. Free
    /// leased ports that they exclude are given back.
    pub(super) fn reconfigure(
        &mut self,
        in_use: Vec<bool>,
        ranges: Vec<RangeInclusive<u16>>,
        blocks: bool,
        now: Time,
    ) {
        let stocked = self.leased && !blocks;
        while self.pools.len() < in_use.len() * POOLED {
            self.pools.push(Pool::new(self.pools.len() % POOLED == 2, stocked));
        }
        self.pools.iter_mut().for_each(|pool| pool.set_stocked(stocked));
        self.holds.resize(self.pools.len());
        (self.in_use, self.ranges, self.blocks) = (in_use, ranges, blocks);
        if !self.leased {
            self.pools.iter_mut().for_each(Pool::empty);
            return;
        }
        let surplus = std::mem::take(&mut self.surplus);
        for (protocol, external, port) in surplus {
            self.lease(protocol, external, port, now);
        }
        for external in 0..self.in_use.len() as u16 {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                self.sift(protocol, external);
            }
        }
    }

    /// Whether a port is one of the configured ones.
    fn has(&self, protocol: Protocol, external: u16, port: u16) -> bool {
        self.in_use.get(usize::from(external)) == Some(&true) && self.in_range(protocol, port)
    }

    /// Moves free leased ports that are not ours to use to the surplus.
    fn sift(&mut self, protocol: Protocol, external: u16) {
        let Some(number) = number(protocol, external) else { return };
        for port in self.pools[number].all_free() {
            if !self.has(protocol, external, port) {
                self.pools[number].take_this(port);
                self.make_surplus(number, port);
            }
        }
    }

    /// A leased port is not ours to use any more.
    fn make_surplus(&mut self, number: usize, port: u16) {
        let pool = &mut self.pools[number];
        let list = pool.list(port);
        pool.lists[list].leases = pool.lists[list].leases.saturating_sub(1);
        pool.set(port, State::Nobody);
        let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Icmp][number % POOLED];
        self.surplus.push((protocol, (number / POOLED) as u16, port));
    }

    /// Whether nothing is left of an external address: no leased port that waits to be given back,
    /// and none that rests.
    pub(super) fn drained(&self, external: u16) -> bool {
        let pools = usize::from(external) * POOLED..(usize::from(external) + 1) * POOLED;
        self.surplus.iter().all(|(_, other, _)| *other != external)
            && pools.into_iter().all(|pool| self.holds.len_of(pool as u16) == 0)
    }

    /// Puts a port that nobody has any more where it belongs.
    fn put_free(&mut self, number: usize, port: u16, leased: bool, now: Time) {
        let needs_lease = self.leased && number % POOLED != 2;
        let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Icmp][number % POOLED];
        let ours = self.has(protocol, (number / POOLED) as u16, port);
        let pool = &mut self.pools[number];
        if needs_lease && leased {
            if ours { pool.push(port, Some(tick(now))) } else { self.make_surplus(number, port) }
        } else if !needs_lease && !self.blocks && ours && pool.filled {
            pool.push(port, None);
        } else {
            pool.set(port, State::Nobody);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.pools.iter().map(Pool::bytes).sum::<usize>() + self.holds.bytes() + self.refused.capacity() * 16
    }

    /// Whether ports of `protocol` must be leased.
    pub(super) fn needs_lease(&self, protocol: Protocol) -> bool {
        self.leased && protocol != Protocol::Icmp
    }

    fn pool(&self, protocol: Protocol, external: u16) -> Option<&Pool> {
        self.pools.get(number(protocol, external)?)
    }

    /// Every port that a pool may give out. Identifiers of queries are nobody else's: the ranges
    /// are for ports.
    fn every(&self, protocol: Protocol) -> Vec<RangeInclusive<u16>> {
        if protocol == Protocol::Icmp { vec![1..=u16::MAX] } else { self.ranges.clone() }
    }

    /// Whether `port` is one to give out.
    pub(super) fn in_range(&self, protocol: Protocol, port: u16) -> bool {
        port != 0 && (protocol == Protocol::Icmp || self.ranges.iter().any(|range| range.contains(&port)))
    }

    /// How many ports a pool has in all.
    fn all(&self, protocol: Protocol) -> usize {
        self.every(protocol).iter().map(ExactSizeIterator::len).sum()
    }

    /// The mapping that alone has this port.
    #[inline]
    pub(super) fn owner(&self, protocol: Protocol, external: u16, port: u16) -> Option<u32> {
        self.pools[number(protocol, external)?].owner(port)
    }

    /// Whether mappings share this port.
    pub(super) fn is_shared(&self, protocol: Protocol, external: u16, port: u16) -> bool {
        self.shared > 0 && matches!(self.state(protocol, external, port), State::Shared(_))
    }

    /// Whether the port is ours to answer for: leased, or of our ranges where none needs a lease.
    pub(super) fn answers(&self, protocol: Protocol, external: u16, port: u16) -> bool {
        match self.state(protocol, external, port) {
            State::Mapping(_) | State::Shared(_) | State::Free => true,
            State::Held(row) if self.holds.is_leased(row) => true,
            _ => !self.needs_lease(protocol) && self.in_range(protocol, port),
        }
    }

    /// The ports that mappings have, of all external addresses.
    pub(super) fn mapped(&self) -> impl Iterator<Item = (Protocol, u16)> + '_ {
        let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Icmp].into_iter().cycle();
        let pools = protocols.zip(&self.pools);
        pools.flat_map(|(protocol, pool)| pool.mapped().map(move |port| (protocol, port)))
    }

    /// What a port is.
    pub(super) fn state(&self, protocol: Protocol, external: u16, port: u16) -> State {
        self.pool(protocol, external).map_or(State::Nobody, |pool| pool.state(port))
    }

    /// Puts ports of one pool whose time has come back into it.
    pub(super) fn settle(&mut self, hash: &Hash, protocol: Protocol, external: u16, now: Time) {
        if let Some(pool) = number(protocol, external) {
            self.settle_pool(hash, pool as u16, now);
        }
        while let Some(&(until, pool, port)) = self.refused.front()
            && until <= now.as_nanos()
        {
            self.refused.pop_front();
            self.forget_refusal(pool, port);
        }
    }

    /// As [`Ports::settle`], for every pool, when it is time for that.
    pub(super) fn settle_all(&mut self, hash: &Hash, now: Time) {
        if now.as_nanos() < self.look {
            return;
        }
        self.settle_now(hash, now);
        self.look = if self.holds.len() > 0 { (now + LOOK).as_nanos() } else { u64::MAX };
    }

    /// As [`Ports::settle_all`], whatever the time.
    pub(super) fn settle_now(&mut self, hash: &Hash, now: Time) {
        (0..self.pools.len() as u16).for_each(|pool| self.settle_pool(hash, pool, now));
    }

    /// When [`Ports::settle_all`] has something to do next.
    pub(super) fn next_look(&self) -> Option<Time> {
        (self.look != u64::MAX).then(|| Time::from_nanos(self.look))
    }

    fn settle_pool(&mut self, hash: &Hash, pool: u16, now: Time) {
        while let Some((row, until)) = self.holds.oldest(pool)
            && until <= now.as_nanos()
        {
            self.end_hold(hash, row, now);
        }
    }

    fn forget_refusal(&mut self, pool: u16, port: u16) {
        let pool = &mut self.pools[usize::from(pool)];
        if pool.state(port) == State::Refused {
            pool.set(port, State::Nobody);
        }
    }

    /// Fills a pool that owns its ports.
    fn fill(&mut self, protocol: Protocol, number: usize) {
        if self.needs_lease(protocol) || self.blocks || self.pools[number].filled {
            return;
        }
        let ranges = self.every(protocol);
        let pool = &mut self.pools[number];
        pool.filled = true;
        for port in ranges.into_iter().flatten() {
            if port != 0 && pool.state(port) == State::Nobody {
                pool.push(port, None);
            }
        }
    }

    /// Takes a random free port: of the inside port's parity (RFC 4787 REQ-4) and side of 1024
    /// (REQ-3a) if there is one. A low inside port takes a high outside port before none; a high
    /// one never takes a low one. The caller sets its owner.
    pub(super) fn take(
        &mut self,
        protocol: Protocol,
        external: u16,
        inside: u16,
        now: Time,
        rng: &mut Rng,
    ) -> Option<u16> {
        let number = number(protocol, external)?;
        self.fill(protocol, number);
        let stocked = self.needs_lease(protocol);
        let pool = &mut self.pools[number];
        let first = pool.list(inside);
        if stocked {
            // What a low port misses in the end is a high one.
            pool.note_taken(first % 2, now);
        }
        ORDER[first].iter().find_map(|list| pool.take_any(*list, rng))
    }

    /// Takes a free port below 1024 of this parity, else of the other.
    pub(super) fn take_low(
        &mut self,
        protocol: Protocol,
        external: u16,
        inside: u16,
        rng: &mut Rng,
    ) -> Option<u16> {
        let pool = &mut self.pools[number(protocol, external)?];
        let list = list_of(inside % 2);
        pool.take_any(list, rng).or_else(|| pool.take_any(list ^ 1, rng))
    }

    /// A random port below 1024 that may be asked of the host, of the parity of `inside` if there
    /// is one.
    pub(super) fn low_candidate(
        &self,
        protocol: Protocol,
        external: u16,
        inside: u16,
        now: Time,
        rng: &mut Rng,
    ) -> Option<u16> {
        let pool = self.pool(protocol, external)?;
        if now.as_nanos() < pool.low_rests {
            return None;
        }
        let low = self.ranges.iter().cloned().flatten().filter(|port| (1..1024).contains(port));
        let (same, other): (Vec<u16>, Vec<u16>) =
            low.filter(|port| pool.state(*port) == State::Nobody).partition(|port| port % 2 == inside % 2);
        let candidates = if same.is_empty() { other } else { same };
        candidates.get(rng.below(candidates.len())).copied()
    }

    /// Takes this very port if it is free. The caller sets its owner.
    pub(super) fn take_this(&mut self, protocol: Protocol, external: u16, port: u16) -> bool {
        let Some(number) = number(protocol, external) else { return false };
        self.fill(protocol, number);
        let ours = self.blocks && !self.needs_lease(protocol) && self.in_range(protocol, port);
        let pool = &mut self.pools[number];
        pool.take_this(port) || ours && pool.state(port) == State::Nobody
    }

    /// Whether this very port is free.
    pub(super) fn is_free(&mut self, protocol: Protocol, external: u16, port: u16) -> bool {
        let Some(number) = number(protocol, external) else { return false };
        self.fill(protocol, number);
        self.pools[number].state(port) == State::Free
    }

    /// Makes mapping row `mapping` the owner of a port that was taken or claimed.
    pub(super) fn set_owner(&mut self, protocol: Protocol, external: u16, port: u16, mapping: u32) {
        if let Some(pool) = number(protocol, external) {
            self.pools[pool].set(port, State::Mapping(mapping));
        }
    }

    /// Adds a mapping to those that share a port, which is free or shared already.
    pub(super) fn share(&mut self, protocol: Protocol, external: u16, port: u16) {
        let Some(number) = number(protocol, external) else { return };
        let pool = &mut self.pools[number];
        let others = if let State::Shared(count) = pool.state(port) { count } else { 0 };
        if others == 0 {
            pool.take_this(port);
            self.shared += 1;
        }
        pool.set(port, State::Shared(others + 1));
    }

    /// Takes a mapping out of those that share a port; true if it was the last.
    pub(super) fn unshare(&mut self, protocol: Protocol, external: u16, port: u16) -> bool {
        let Some(number) = number(protocol, external) else { return false };
        let pool = &mut self.pools[number];
        match pool.state(port) {
            State::Shared(count) if count > 1 => {
                pool.set(port, State::Shared(count - 1));
                false
            }
            State::Shared(_) => {
                self.shared -= 1;
                true
            }
            _ => false,
        }
    }

    /// Puts a port back that a mapping had.
    pub(super) fn release(&mut self, protocol: Protocol, external: u16, port: u16, now: Time) {
        if let Some(number) = number(protocol, external) {
            self.put_free(number, port, true, now);
        }
    }

    /// Keeps a port that `inside` had from everybody else until `until` (nanoseconds). At most
    /// `most` ports of a pool are kept so, and at most half of what it has; the oldest leave early.
    pub(super) fn hold(
        &mut self,
        hash: &Hash,
        place: Place,
        inside: Endpoint,
        until: u64,
        most: usize,
        now: Time,
    ) {
        let Place { protocol, external, port } = place;
        let Some(number) = number(protocol, external) else { return };
        let most = most.min(self.all(protocol) / 2);
        let leased = self.needs_lease(protocol);
        if most == 0 {
            self.holds.early += 1;
            return self.release(protocol, external, port, now);
        }
        let pool = number as u16;
        while self.holds.len_of(pool) >= most {
            let Some((oldest, _)) = self.holds.oldest(pool) else { break };
            self.holds.early += 1;
            self.end_hold(hash, oldest, now);
        }
        self.look = self.look.min((now + LOOK).as_nanos());
        let row = self.holds.push(hash, Held { until, inside, pool, port, leased, ..Held::default() });
        self.pools[number].set(port, State::Held(row));
    }

    /// As [`Ports::hold`], for a port that was in use before a restart. One that is in use again
    /// is left alone.
    pub(super) fn hold_unused(&mut self, hash: &Hash, place: Place, until: u64, most: usize, now: Time) {
        let Place { protocol, external, port } = place;
        let Some(number) = number(protocol, external) else { return };
        if !self.in_range(protocol, port) || until <= now.as_nanos() {
            return;
        }
        self.fill(protocol, number);
        let leased = match self.pools[number].state(port) {
            State::Free => {
                self.pools[number].take_this(port);
                self.needs_lease(protocol)
            }
            State::Nobody | State::Refused => false,
            State::Mapping(_) | State::Held(_) | State::Shared(_) => return,
        };
        if self.holds.len_of(number as u16) >= most.min(self.all(protocol) / 2) {
            self.holds.early += 1;
            return self.put_free(number, port, leased, now);
        }
        self.hold(hash, place, held::UNKNOWN, until, most, now);
        if let State::Held(row) = self.pools[number].state(port) {
            self.holds.set_leased(row, leased);
        }
    }

    /// Ends a hold: the port is free again, or the host's if it never was leased.
    fn end_hold(&mut self, hash: &Hash, row: u32, now: Time) {
        let Held { pool, port, leased, .. } = self.holds.remove(hash, row);
        self.put_free(usize::from(pool), port, leased, now);
    }

    /// Takes the held port that `inside` had. The caller sets its owner.
    pub(super) fn take_back(
        &mut self,
        hash: &Hash,
        protocol: Protocol,
        external: u16,
        inside: Endpoint,
    ) -> Option<u16> {
        let number = number(protocol, external)?;
        let row = self.holds.of(hash, number as u16, inside, |port| self.has(protocol, external, port))?;
        let port = self.holds.remove(hash, row).port;
        self.pools[number].set(port, State::Nobody);
        Some(port)
    }

    /// Takes this very port for a port forward; false if a mapping has it.
    pub(super) fn claim(&mut self, hash: &Hash, protocol: Protocol, external: u16, port: u16) -> bool {
        let Some(number) = number(protocol, external) else { return false };
        let leased = match self.pools[number].state(port) {
            State::Mapping(_) | State::Shared(_) => return false,
            State::Nobody | State::Refused => false,
            State::Free => self.pools[number].take_this(port) && self.needs_lease(protocol),
            State::Held(row) => self.holds.remove(hash, row).leased && self.needs_lease(protocol),
        };
        self.surplus.retain(|surplus| *surplus != (protocol, external, port));
        let list = self.pools[number].list(port);
        self.pools[number].lists[list].leases -= usize::from(leased);
        true
    }

    /// Ends a claim. A leased port stays out of the pool: the lease is its publisher's.
    pub(super) fn unclaim(&mut self, protocol: Protocol, external: u16, port: u16) {
        let own = !self.needs_lease(protocol) && !self.blocks;
        let back = own && self.has(protocol, external, port);
        let Some(pool) = number(protocol, external) else { return };
        let pool = &mut self.pools[pool];
        pool.set(port, State::Nobody);
        if back && pool.filled {
            pool.push(port, None);
        }
    }

    /// Free TCP and UDP ports.
    pub(super) fn free(&self) -> usize {
        let all: usize = self.all(Protocol::Udp);
        let in_use = self.pools.chunks(POOLED).zip(&self.in_use).filter(|(_, in_use)| **in_use);
        let pools = in_use.flat_map(|(pools, _)| &pools[..2]);
        pools.fold(0, |sum, pool| {
            let untouched = !self.leased && !pool.filled;
            sum + if untouched { all } else { pool.free() }
        })
    }

    /// Held ports, and how many were let go before their time.
    pub(super) fn held(&self) -> (usize, u64) {
        (self.holds.len(), self.holds.early)
    }
}
