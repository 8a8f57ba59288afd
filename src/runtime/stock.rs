//! Ports asked from the host ahead of need, and given back when long unused.
//!
//! The translator says how many it would like; the stock asks the guard for ports of the range in
//! an order nobody can guess, a few at a time between bursts of packets. What the host refuses
//! (a program has it) is tried again later.

use crate::flow::{Endpoint, Protocol, Time};
use crate::gateway::Gateway;
use crate::io::guard::{Guard, LeaseError};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Leases a turn: each is a few system calls, and packets wait meanwhile.
const A_TURN: usize = 16;
/// How long a refused port rests.
const REST: Duration = Duration::from_secs(30);
/// How long nothing is asked after the host ran out of descriptors.
const PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Shelf {
    protocol: Protocol,
    address: IpAddr,
    /// Ports to ask for, in random order.
    candidates: Vec<u16>,
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
    /// A stock for these addresses and ports.
    pub fn new(addresses: &[IpAddr], ports: &[RangeInclusive<u16>], seed: [u8; 32]) -> Self {
        let random = ChaCha8Rng::from_seed(seed);
        let mut stock = Stock { shelves: Vec::new(), random, paused_until: Time::ZERO, taken: 0, failed: 0 };
        stock.fill_shelves(addresses, ports, |_, _| false);
        stock
    }

    /// Follows changed addresses and ports. What the guard holds is not asked for again.
    pub fn follow(&mut self, addresses: &[IpAddr], ports: &[RangeInclusive<u16>], guard: &Guard) {
        self.fill_shelves(addresses, ports, |protocol, endpoint| guard.holds(protocol, endpoint));
    }

    fn fill_shelves(
        &mut self,
        addresses: &[IpAddr],
        ports: &[RangeInclusive<u16>],
        held: impl Fn(Protocol, Endpoint) -> bool,
    ) {
        self.shelves.clear();
        for address in addresses {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let free = |port: &u16| !held(protocol, Endpoint { ip: *address, port: *port });
                let mut candidates: Vec<u16> = ports.iter().cloned().flatten().filter(free).collect();
                for last in (1..candidates.len()).rev() {
                    candidates.swap(last, pick(&mut self.random, last + 1));
                }
                let shelf = Shelf { protocol, address: *address, candidates, resting: VecDeque::new() };
                self.shelves.push(shelf);
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
        for (protocol, address, count) in wanted {
            for _ in 0..count {
                if left == 0 {
                    return Ok(true);
                }
                let Some(port) = self.next(protocol, address, now) else { break };
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

    /// The number of leases for one turn of the worker.
    pub const fn a_turn() -> usize {
        A_TURN
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

    fn next(&mut self, protocol: Protocol, address: IpAddr, now: Time) -> Option<u16> {
        let shelf = self.shelf(protocol, address)?;
        if let Some(port) = shelf.candidates.pop() {
            return Some(port);
        }
        match shelf.resting.front() {
            Some((until, _)) if *until <= now => shelf.resting.pop_front().map(|(_, port)| port),
            _ => None,
        }
    }

    fn rest(&mut self, protocol: Protocol, address: IpAddr, port: u16, now: Time) {
        if let Some(shelf) = self.shelf(protocol, address) {
            shelf.resting.push_back((now + REST, port));
        }
    }

    fn put_back(&mut self, protocol: Protocol, address: IpAddr, port: u16) {
        let draw = self.random.next_u32() as usize;
        if let Some(shelf) = self.shelf(protocol, address) {
            shelf.candidates.push(port);
            let last = shelf.candidates.len() - 1;
            shelf.candidates.swap(last, draw % (last + 1));
        }
    }
}

fn pick(random: &mut ChaCha8Rng, below: usize) -> usize {
    ((u64::from(random.next_u32()) * below as u64) >> 32) as usize
}
