//! Ports asked from the host: ahead of need, or on demand, and given back when long unused.
//!
//! The translator says how many it would like; the stock asks the guard for ports of the ranges in
//! an order nobody can guess, a few at a time when packets leave time for it. What the host refuses
//! (a program has it) is tried again later. A port that a packet needs is asked for at once. Ports
//! below 1024 are only leased so.

use crate::flow::{Endpoint, Protocol, Time};
use crate::gateway::Gateway;
use crate::io::guard::{Guard, LeaseError};
use crate::nat::Wanted;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Leases a turn: each is a few system calls, and packets wait meanwhile.
pub const A_TURN: usize = 16;
/// How long a refused port rests.
const REST: Duration = Duration::from_secs(30);
/// How long nothing is asked after the host ran out of descriptors.
const PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Shelf {
    protocol: Protocol,
    address: IpAddr,
    /// Even and odd ports to ask for, in random order. Some may have been leased on demand since.
    candidates: [Vec<u16>; 2],
    /// Which ports are among the candidates, a bit each.
    listed: Box<[u64; 1024]>,
    /// Ports that the host has, and when they may be asked for again.
    resting: VecDeque<(Time, u16)>,
}

/// What the host was asked for, by protocol and address.
#[derive(Debug)]
pub struct Stock {
    shelves: Vec<Shelf>,
    random: ChaCha8Rng,
    paused_until: Time,
    /// Ports that the host refused because a program of its own has them.
    pub taken: u64,
    /// Leases that failed for want of descriptors or memory.
    pub failed: u64,
}

impl Stock {
    /// A stock for these addresses and these ranges.
    pub fn new(addresses: &[IpAddr], ranges: &[RangeInclusive<u16>], seed: [u8; 32]) -> Self {
        let random = ChaCha8Rng::from_seed(seed);
        let mut stock = Stock { shelves: Vec::new(), random, paused_until: Time::ZERO, taken: 0, failed: 0 };
        stock.follow(addresses, ranges);
        stock
    }

    /// Follows changed addresses and ranges. What we have already is passed over when its turn comes.
    pub fn follow(&mut self, addresses: &[IpAddr], ranges: &[RangeInclusive<u16>]) {
        self.shelves.clear();
        for address in addresses {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let mut shelf = Shelf::new(protocol, *address);
                for port in ranges.iter().cloned().flatten() {
                    let place = self.random.next_u32();
                    shelf.add(port, place);
                }
                self.shelves.push(shelf);
            }
        }
    }

    /// Leases a port that a packet needs, or tells the gateway that the host refuses.
    pub fn on_demand(
        &mut self,
        gateway: &mut Gateway,
        guard: &mut Guard,
        protocol: Protocol,
        outside: Endpoint,
        now: Time,
    ) {
        match guard.lease(protocol, outside) {
            Ok(()) => gateway.lease(protocol, outside),
            Err(error) => {
                let taken = matches!(error, LeaseError::Taken { .. } | LeaseError::Forbidden { .. });
                *(if taken { &mut self.taken } else { &mut self.failed }) += 1;
                gateway.lease_refused(protocol, outside, now);
            }
        }
    }

    /// Leases up to `most` of what the gateway would like. Returns the error that stopped it, if
    /// one did; true in `Ok` if the gateway would like more at once.
    ///
    /// # Errors
    /// The host is out of descriptors or memory; nothing more is asked for a while.
    pub fn fill(
        &mut self,
        gateway: &mut Gateway,
        guard: &mut Guard,
        now: Time,
        most: usize,
    ) -> Result<bool, LeaseError> {
        if now < self.paused_until {
            return Ok(false);
        }
        let wanted: Vec<_> = gateway.wanted().collect();
        let mut left = most;
        for Wanted { protocol, address, odd, count, .. } in wanted {
            for _ in 0..count {
                if left == 0 {
                    return Ok(true);
                }
                let Some(port) = self.next(guard, protocol, address, odd, now) else { break };
                left -= 1;
                let outside = Endpoint { ip: address, port };
                match guard.lease(protocol, outside) {
                    Ok(()) => gateway.lease(protocol, outside),
                    Err(LeaseError::Taken { .. }) => {
                        self.taken += 1;
                        self.rest(protocol, address, port, now);
                    }
                    Err(error) => {
                        self.failed += 1;
                        self.put_back(protocol, address, port);
                        self.paused_until = now + PAUSE;
                        return Err(error);
                    }
                }
            }
        }
        Ok(false)
    }

    /// Gives ports that have long been unused back to the host.
    pub fn shrink(&mut self, gateway: &mut Gateway, guard: &mut Guard, now: Time) {
        for _ in 0..A_TURN {
            let Some((protocol, outside)) = gateway.give_back(now) else { return };
            guard.release(protocol, outside);
            self.given_back(gateway, protocol, outside);
        }
    }

    /// A port was given back to the host: it may be asked for again, if it is one of the range.
    pub fn given_back(&mut self, gateway: &Gateway, protocol: Protocol, outside: Endpoint) {
        if gateway.config().nat.has_port(outside.port) {
            self.put_back(protocol, outside.ip, outside.port);
        }
    }

    /// When the stock wants to be filled again, if it paused.
    pub fn next_deadline(&self, now: Time) -> Option<Time> {
        (self.paused_until > now).then_some(self.paused_until)
    }

    fn shelf(&mut self, protocol: Protocol, address: IpAddr) -> Option<&mut Shelf> {
        self.shelves.iter_mut().find(|shelf| shelf.protocol == protocol && shelf.address == address)
    }

    /// The next port of this parity to ask for, one that we do not have already.
    fn next(
        &mut self,
        guard: &Guard,
        protocol: Protocol,
        address: IpAddr,
        odd: bool,
        now: Time,
    ) -> Option<u16> {
        let places = self.random.next_u32();
        let shelf = self.shelf(protocol, address)?;
        loop {
            while let Some(port) = shelf.take(odd) {
                if !guard.holds(protocol, Endpoint { ip: address, port }) {
                    return Some(port);
                }
            }
            // Those that have rested are candidates again.
            let mut rested = false;
            while let Some((_, port)) = shelf.resting.pop_front_if(|(until, _)| *until <= now) {
                shelf.add(port, places);
                rested |= (port % 2 == 1) == odd;
            }
            if !rested {
                return None;
            }
        }
    }

    fn rest(&mut self, protocol: Protocol, address: IpAddr, port: u16, now: Time) {
        if let Some(shelf) = self.shelf(protocol, address) {
            shelf.resting.push_back((now + REST, port));
        }
    }

    fn put_back(&mut self, protocol: Protocol, address: IpAddr, port: u16) {
        let draw = self.random.next_u32();
        if let Some(shelf) = self.shelf(protocol, address) {
            shelf.add(port, draw);
        }
    }
}

impl Shelf {
    fn new(protocol: Protocol, address: IpAddr) -> Self {
        let (candidates, listed) = ([Vec::new(), Vec::new()], Box::new([0; 1024]));
        Shelf { protocol, address, candidates, listed, resting: VecDeque::new() }
    }

    /// Makes a port a candidate, at the place that `draw` says. What is one already, or is not
    /// leased ahead of need, is passed over.
    fn add(&mut self, port: u16, draw: u32) {
        let (word, bit) = (usize::from(port / 64), 1 << (port % 64));
        if port < 1024 || self.listed[word] & bit != 0 {
            return;
        }
        self.listed[word] |= bit;
        let candidates = &mut self.candidates[usize::from(port % 2)];
        candidates.push(port);
        let last = candidates.len() - 1;
        let place = (u64::from(draw) * candidates.len() as u64) >> 32;
        candidates.swap(last, place as usize);
    }

    fn take(&mut self, odd: bool) -> Option<u16> {
        let port = self.candidates[usize::from(odd)].pop()?;
        self.listed[usize::from(port / 64)] &= !(1 << (port % 64));
        Some(port)
    }
}
