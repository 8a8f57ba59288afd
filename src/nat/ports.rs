//! Who may have which outside port.
//!
//! One pool per external address and protocol. A pool knows the owner of each port, in pages of
//! 8,192 made when first written, and keeps the free ports in a vector, from which a random one is
//! taken by swapping it with the last: O(1), and nobody can guess the next (RFC 6056 §3.3.1).
//!
//! On an address shared with the host, free means *leased and free*: the host has agreed. Leases
//! are asked for ahead of need. The stock grows with the rate at which ports are taken, up to
//! [`MOST`], and shrinks again when they lie unused.

use super::rng::Rng;
use super::wheel;
use crate::flow::{Protocol, Time};
use std::ops::RangeInclusive;

/// Free ports that a leased pool wants at least.
const LEAST: usize = 128;
/// Free ports that a leased pool wants at most.
const MOST: usize = 4096;
/// Free ports that one call of [`Ports::give_back`] looks at, at most, in each pool.
const LOOK: usize = 4096;

/// The owner of a port that nobody has.
const NOBODY: u32 = 0;
/// The owner of a port that is leased and free.
const FREE: u32 = u32::MAX;

/// Ports in a page.
const PAGE: usize = 8192;
const PAGES: usize = 65536 / PAGE;

/// The ports of one external address for one protocol.
#[derive(Debug)]
struct Pool {
    /// Owners: mapping row + 1, or `NOBODY`, or `FREE`.
    pages: [Option<Box<[u32]>>; PAGES],
    free: Vec<u16>,
    /// When each free port became free, in the wheel's ticks. Kept for leased ports only.
    since: Vec<u32>,
    /// `free` has been filled with the range. Never set in leased pools.
    filled: bool,
    /// Leased ports, free and taken.
    leases: usize,
    /// How many free ports are wanted.
    target: usize,
    /// Ports taken in the second `second`.
    taken: usize,
    second: u64,
    /// Where the next search for ports to give back begins.
    look: usize,
}

impl Pool {
    fn new() -> Self {
        Pool {
            pages: [const { None }; PAGES],
            free: Vec::new(),
            since: Vec::new(),
            filled: false,
            leases: 0,
            target: LEAST,
            taken: 0,
            second: 0,
            look: 0,
        }
    }

    #[inline]
    fn owner(&self, port: u16) -> u32 {
        match &self.pages[usize::from(port) / PAGE] {
            Some(page) => page[usize::from(port) % PAGE],
            None => NOBODY,
        }
    }

    fn set_owner(&mut self, port: u16, owner: u32) {
        // A vector of zeros is untouched memory until it is written.
        let page = self.pages[usize::from(port) / PAGE].get_or_insert_with(|| vec![NOBODY; PAGE].into());
        page[usize::from(port) % PAGE] = owner;
    }

    fn fill(&mut self, ranges: &[RangeInclusive<u16>]) {
        if !self.filled {
            self.filled = true;
            let ports = ranges.iter().cloned().flatten();
            self.free = ports.filter(|port| *port != 0 && self.owner(*port) == NOBODY).collect();
        }
    }

    fn push_leased(&mut self, port: u16, tick: u32) {
        self.set_owner(port, FREE);
        self.free.push(port);
        self.since.push(tick);
    }

    fn remove_free(&mut self, place: usize) -> u16 {
        if !self.since.is_empty() {
            self.since.swap_remove(place);
        }
        self.free.swap_remove(place)
    }

    /// Halves the target for every second that has passed, down to what the last one took.
    fn settle(&mut self, now: Time) {
        let second = now.as_nanos() / 1_000_000_000;
        if second > self.second {
            let halved = self.target >> (second - self.second).min(32);
            let recent = if second - self.second == 1 { self.taken * 2 } else { 0 };
            self.target = halved.max(recent.next_power_of_two()).clamp(LEAST, MOST);
            self.second = second;
            self.taken = 0;
        }
    }

    fn note_taken(&mut self, now: Time) {
        self.settle(now);
        self.taken += 1;
        if self.taken * 2 > self.target {
            self.target = (self.target * 2).min(MOST);
        }
    }
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
}

/// The protocols with a pool: TCP, UDP, ICMP.
const POOLED: usize = 3;

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
    /// `ranges` do not overlap; port 0 in them is passed over.
    pub(super) fn new(externals: usize, ranges: Vec<RangeInclusive<u16>>, leased: bool) -> Self {
        Ports {
            pools: (0..externals * POOLED).map(|_| Pool::new()).collect(),
            in_use: vec![true; externals],
            surplus: Vec::new(),
            ranges,
            leased,
        }
    }

    /// Takes other external addresses, by number whether they are in use, and other ranges. No
    /// mapping may have a port that they exclude, but for port forwards on addresses in use. Free
    /// leased ports that they exclude are given back.
    pub(super) fn reconfigure(&mut self, in_use: Vec<bool>, ranges: Vec<RangeInclusive<u16>>, now: Time) {
        self.pools.resize_with(in_use.len() * POOLED, Pool::new);
        (self.in_use, self.ranges) = (in_use, ranges);
        if !self.leased {
            for pool in &mut self.pools {
                pool.filled = false;
                pool.free = Vec::new();
            }
            return;
        }
        let surplus = std::mem::take(&mut self.surplus);
        for (protocol, external, port) in surplus {
            if self.has(external, port) {
                self.lease(protocol, external, port, now);
            } else {
                self.surplus.push((protocol, external, port));
            }
        }
        for external in 0..self.in_use.len() as u16 {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                self.sift(protocol, external);
            }
        }
    }

    /// Whether a port is one of the configured ones.
    fn has(&self, external: u16, port: u16) -> bool {
        self.in_use[usize::from(external)] && self.ranges.iter().any(|range| range.contains(&port))
    }

    /// Moves free leased ports that are not ours to use to the surplus.
    fn sift(&mut self, protocol: Protocol, external: u16) {
        let Some(number) = number(protocol, external) else { return };
        let mut place = 0;
        while let Some(&port) = self.pools[number].free.get(place) {
            if self.has(external, port) {
                place += 1;
                continue;
            }
            let pool = &mut self.pools[number];
            pool.remove_free(place);
            pool.set_owner(port, NOBODY);
            pool.leases -= 1;
            self.surplus.push((protocol, external, port));
        }
    }

    /// Whether no leased port of this external address waits to be given back.
    pub(super) fn drained(&self, external: u16) -> bool {
        self.surplus.iter().all(|(_, other, _)| *other != external)
    }

    pub(super) fn bytes(&self) -> usize {
        self.pools.iter().fold(0, |sum, pool| {
            let pages = pool.pages.iter().flatten().count() * size_of::<[u32; PAGE]>();
            sum + size_of::<Pool>() + pages + pool.free.capacity() * 2 + pool.since.capacity() * 4
        })
    }

    /// Whether ports of `protocol` must be leased.
    fn needs_lease(&self, protocol: Protocol) -> bool {
        self.leased && protocol != Protocol::Icmp
    }

    /// How many ports the ranges hold.
    fn width(&self) -> usize {
        self.ranges.iter().map(|range| range.clone().filter(|port| *port != 0).count()).sum()
    }

    /// The mapping that has this port.
    #[inline]
    pub(super) fn owner(&self, protocol: Protocol, external: u16, port: u16) -> Option<u32> {
        match self.pools[number(protocol, external)?].owner(port) {
            NOBODY | FREE => None,
            owner => Some(owner - 1),
        }
    }

    /// Whether the port is ours to answer for: leased, or of our ranges where none needs a lease.
    pub(super) fn holds(&self, protocol: Protocol, external: u16, port: u16) -> bool {
        let Some(pool) = number(protocol, external) else { return false };
        let free = !self.needs_lease(protocol) && self.ranges.iter().any(|range| range.contains(&port));
        free || self.pools[pool].owner(port) != NOBODY
    }

    /// Takes a free port, any, out of the pool. The caller sets its owner.
    pub(super) fn take(
        &mut self,
        protocol: Protocol,
        external: u16,
        now: Time,
        rng: &mut Rng,
    ) -> Option<u16> {
        let lease = self.needs_lease(protocol);
        let pool = &mut self.pools[number(protocol, external)?];
        if lease {
            pool.note_taken(now);
        } else if protocol == Protocol::Icmp {
            // Identifiers of queries are nobody else's: the ranges are for ports.
            pool.fill(&[1..=u16::MAX]);
        } else {
            pool.fill(&self.ranges);
        }
        if pool.free.is_empty() {
            return None;
        }
        Some(pool.remove_free(rng.below(pool.free.len())))
    }

    /// Makes mapping row `mapping` the owner of a port that was taken or claimed.
    pub(super) fn set_owner(&mut self, protocol: Protocol, external: u16, port: u16, mapping: u32) {
        if let Some(pool) = number(protocol, external) {
            self.pools[pool].set_owner(port, mapping + 1);
        }
    }

    /// Puts a taken port back.
    pub(super) fn release(&mut self, protocol: Protocol, external: u16, port: u16, now: Time) {
        let lease = self.needs_lease(protocol);
        let Some(pool) = number(protocol, external) else { return };
        let pool = &mut self.pools[pool];
        if lease {
            pool.push_leased(port, tick(now));
        } else {
            pool.set_owner(port, NOBODY);
            pool.free.push(port);
        }
    }

    /// Takes this very port for a port forward; false if a mapping has it.
    pub(super) fn claim(&mut self, protocol: Protocol, external: u16, port: u16) -> bool {
        let Some(pool) = number(protocol, external) else { return false };
        let pool = &mut self.pools[pool];
        if !matches!(pool.owner(port), NOBODY | FREE) {
            return false;
        }
        self.surplus.retain(|surplus| *surplus != (protocol, external, port));
        if let Some(place) = pool.free.iter().position(|free| *free == port) {
            pool.leases = pool.leases.saturating_sub(usize::from(pool.owner(port) == FREE));
            pool.remove_free(place);
        }
        true
    }

    /// Ends a claim. A leased port stays out of the pool: the lease is its publisher's.
    pub(super) fn unclaim(&mut self, protocol: Protocol, external: u16, port: u16) {
        let back = !self.needs_lease(protocol) && self.ranges.iter().any(|range| range.contains(&port));
        let Some(pool) = number(protocol, external) else { return };
        let pool = &mut self.pools[pool];
        pool.set_owner(port, NOBODY);
        if back && pool.filled {
            pool.free.push(port);
        }
    }

    /// Adds a leased port. One that is known already is left as it is.
    pub(super) fn lease(&mut self, protocol: Protocol, external: u16, port: u16, now: Time) {
        if !self.needs_lease(protocol) || port == 0 {
            return;
        }
        let ours = self.has(external, port);
        let Some(pool) = number(protocol, external) else { return };
        let pool = &mut self.pools[pool];
        if pool.owner(port) == NOBODY && !ours {
            // It was asked for under other ranges.
            if !self.surplus.contains(&(protocol, external, port)) {
                self.surplus.push((protocol, external, port));
            }
        } else if pool.owner(port) == NOBODY {
            pool.leases += 1;
            pool.push_leased(port, tick(now));
        }
    }

    /// How many ports each leased pool would like to be given: protocol, external address, count.
    pub(super) fn wanted(&self) -> impl Iterator<Item = (Protocol, u16, usize)> + '_ {
        let most = if self.leased { self.width() } else { 0 };
        let externals = 0..self.in_use.len() as u16;
        externals
            .filter(|external| self.in_use[usize::from(*external)])
            .flat_map(|external| [(Protocol::Tcp, external), (Protocol::Udp, external)])
            .filter_map(move |(protocol, external)| {
                let pool = &self.pools[number(protocol, external)?];
                let want = pool.target.saturating_sub(pool.free.len());
                Some((protocol, external, want.min(most.saturating_sub(pool.leases))))
            })
            .filter(|(_, _, want)| *want > 0)
    }

    /// Takes out one leased port: one that is not ours to use any more, or one that has been free
    /// for `idle` ticks, from a pool that has more than it wants.
    pub(super) fn give_back(&mut self, now: Time, idle: u32) -> Option<(Protocol, u16, u16)> {
        if !self.leased {
            return None;
        }
        if let Some(port) = self.surplus.pop() {
            return Some(port);
        }
        for external in 0..self.in_use.len() as u16 {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let pool = &mut self.pools[number(protocol, external)?];
                pool.settle(now);
                for _ in 0..pool.free.len().min(LOOK) {
                    if pool.free.len() <= pool.target {
                        break;
                    }
                    pool.look = if pool.look + 1 < pool.free.len() { pool.look + 1 } else { 0 };
                    if tick(now).saturating_sub(pool.since[pool.look]) >= idle {
                        let port = pool.remove_free(pool.look);
                        pool.set_owner(port, NOBODY);
                        pool.leases -= 1;
                        return Some((protocol, external, port));
                    }
                }
            }
        }
        None
    }

    /// Free TCP and UDP ports.
    pub(super) fn free(&self) -> usize {
        let in_use = self.pools.chunks(POOLED).zip(&self.in_use).filter(|(_, in_use)| **in_use);
        let pools = in_use.flat_map(|(pools, _)| &pools[..2]);
        pools.fold(0, |sum, pool| {
            let untouched = !self.leased && !pool.filled;
            sum + if untouched { self.width() } else { pool.free.len() }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stock(ports: &Ports) -> usize {
        ports.wanted().filter(|(protocol, ..)| *protocol == Protocol::Tcp).map(|(.., want)| want).sum()
    }

    #[test]
    fn the_stock_follows_the_rate_and_goes_back() {
        let mut ports = Ports::new(1, vec![1024..=65535], true);
        let mut rng = Rng::new([1; 32]);
        let mut next = 1024;
        let mut lease_all = |ports: &mut Ports, now| {
            for _ in 0..stock(ports) {
                ports.lease(Protocol::Tcp, 0, next, now);
                next += 1;
            }
        };
        assert_eq!(stock(&ports), LEAST);
        lease_all(&mut ports, Time::ZERO);
        assert_eq!(stock(&ports), 0);
        let mut taken = Vec::new();
        for n in 0..3000u32 {
            let now = Time::from_millis(u64::from(n));
            let port = ports.take(Protocol::Tcp, 0, now, &mut rng).expect("the stock keeps ahead");
            ports.set_owner(Protocol::Tcp, 0, port, n);
            taken.push(port);
            lease_all(&mut ports, now);
        }
        let stocked = ports.pools[0].free.len();
        assert!((2000..=MOST).contains(&stocked), "{stocked}");
        for port in taken {
            ports.release(Protocol::Tcp, 0, port, Time::from_secs(3));
        }
        assert_eq!(ports.give_back(Time::from_secs(10), 60 * 8), None);
        let mut back = 0;
        while ports.give_back(Time::from_secs(64), 60 * 8).is_some() {
            back += 1;
        }
        assert_eq!(ports.pools[0].free.len(), LEAST);
        assert!(back > 2000);
        assert_eq!(ports.pools[0].leases, LEAST);
    }

    #[test]
    fn a_port_leased_twice_is_one_port() {
        let mut ports = Ports::new(1, vec![1024..=65535], true);
        ports.lease(Protocol::Udp, 0, 5000, Time::ZERO);
        ports.lease(Protocol::Udp, 0, 5000, Time::ZERO);
        assert_eq!(ports.free(), 1);
        let port = ports.take(Protocol::Udp, 0, Time::ZERO, &mut Rng::new([0; 32]));
        assert_eq!(port, Some(5000));
        ports.set_owner(Protocol::Udp, 0, 5000, 7);
        ports.lease(Protocol::Udp, 0, 5000, Time::ZERO);
        assert_eq!(ports.free(), 0);
        assert_eq!(ports.owner(Protocol::Udp, 0, 5000), Some(7));
    }
}
