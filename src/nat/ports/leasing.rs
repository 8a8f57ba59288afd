//! Leases of the host: ports it gives, ports it refuses, how many are wanted, and which go back.

use super::{Ports, number, tick};
use crate::flow::{Protocol, Time};
use crate::nat::pool::{List, State};
use std::ops::RangeInclusive;
use std::time::Duration;

/// How long a port that the host has refused is not asked for again.
const REFUSED: Duration = Duration::from_secs(60);
/// Refused ports that are remembered, at most.
const REFUSALS: usize = 4096;
/// Low ports refused in a row after which no more are asked for during `REFUSED`: the host gives
/// none.
const LOW_REFUSALS: u8 = 6;

/// Ports wanted from the host: of this protocol, external address and parity, so many more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::nat) struct Want {
    pub protocol: Protocol,
    pub external: u16,
    pub odd: bool,
    pub count: usize,
    /// Fewer than half of what is hoped for are left.
    pub soon: bool,
}

impl Ports {
    /// Adds a leased port. One that is known already is left as it is.
    pub(in crate::nat) fn lease(&mut self, protocol: Protocol, external: u16, port: u16, now: Time) {
        if !self.needs_lease(protocol) || port == 0 {
            return;
        }
        let ours = self.has(protocol, external, port);
        let Some(pool) = number(protocol, external) else { return };
        let pool = &mut self.pools[pool];
        let list = pool.list(port);
        if !ours && matches!(pool.state(port), State::Nobody | State::Refused) {
            // It was asked for under other ranges.
            if !self.surplus.contains(&(protocol, external, port)) {
                self.surplus.push((protocol, external, port));
            }
            return;
        }
        match pool.state(port) {
            State::Nobody | State::Refused => pool.push(port, Some(tick(now))),
            State::Held(row) if !self.holds.is_leased(row) => self.holds.set_leased(row, true),
            _ => return,
        }
        pool.lists[list].leases += 1;
        if port < 1024 {
            pool.low_refused = 0;
        }
    }

    /// The host does not give this port: it is not asked for again for a while.
    pub(in crate::nat) fn refuse(&mut self, protocol: Protocol, external: u16, port: u16, now: Time) {
        let Some(number) = number(protocol, external) else { return };
        if !self.needs_lease(protocol) {
            return;
        }
        let again = (now + REFUSED).as_nanos();
        let pool = &mut self.pools[number];
        if pool.state(port) != State::Nobody {
            return;
        }
        pool.set(port, State::Refused);
        if port < 1024 {
            pool.low_refused += 1;
            if pool.low_refused >= LOW_REFUSALS {
                (pool.low_refused, pool.low_rests) = (0, again);
            }
        }
        if self.refused.len() >= REFUSALS
            && let Some((_, pool, port)) = self.refused.pop_front()
        {
            self.refusals_forgotten += 1;
            self.forget_refusal(pool, port);
        }
        self.refused.push_back((again, number as u16, port));
    }

    /// What each leased pool would like to be given.
    pub(in crate::nat) fn wanted(&self) -> impl Iterator<Item = Want> + '_ {
        let leases = self.leased && !self.blocks;
        let externals = 0..self.in_use.len() as u16;
        let kinds =
            [(Protocol::Tcp, false), (Protocol::Tcp, true), (Protocol::Udp, false), (Protocol::Udp, true)];
        externals
            .filter(|external| self.in_use[usize::from(*external)])
            .flat_map(move |external| kinds.map(|(protocol, odd)| (protocol, odd, external)))
            .filter_map(move |(protocol, odd, external)| {
                let list: &List = &self.pool(protocol, external)?.lists[usize::from(odd)];
                // Asked after every burst, and hardly ever with a yes: only then are ports counted.
                let wanted = if leases { list.want() } else { 0 };
                let most = if wanted > 0 { self.width(odd) } else { 0 };
                let count = wanted.min(most.saturating_sub(list.leases));
                Some(Want { protocol, external, odd, count, soon: wanted > list.hoped() / 2 })
            })
            .filter(|want| want.count > 0)
    }

    /// Takes out one leased port: one that is not ours to use any more, or one that has been free
    /// for `idle` ticks, from a pool that has more than it wants.
    pub(in crate::nat) fn give_back(&mut self, now: Time, idle: u32) -> Option<(Protocol, u16, u16)> {
        if !self.leased {
            return None;
        }
        if let Some(port) = self.surplus.pop() {
            return Some(port);
        }
        for external in 0..self.in_use.len() as u16 {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let pool = &mut self.pools[number(protocol, external)?];
                if let Some(port) = pool.take_idle(now, tick(now), idle) {
                    return Some((protocol, external, port));
                }
            }
        }
        None
    }

    /// Refusals forgotten before their time, because there were too many.
    pub(in crate::nat) fn refusals_forgotten(&self) -> u64 {
        self.refusals_forgotten
    }

    /// How many ports from 1024 on the ranges hold, odd ones or even ones. Asked after every burst
    /// while ports are wanted: by arithmetic, not by counting.
    fn width(&self, odd: bool) -> usize {
        let up_to = |port: u16| (usize::from(port) + usize::from(odd)) / 2;
        let ports = |range: &RangeInclusive<u16>| {
            let first = (*range.start()).max(1024);
            up_to(*range.end()).saturating_sub(up_to(first - 1))
        };
        self.ranges.iter().map(ports).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::NatConfig;

    #[test]
    fn ports_of_a_parity_are_counted_as_one_by_one() {
        for ranges in [vec![1..=1024], vec![1024..=1024], vec![1025..=1025, 2000..=2001], vec![0..=u16::MAX]]
        {
            let config = NatConfig { ports: ranges.clone(), ..NatConfig::new(Vec::new()) };
            let ports = Ports::new(&config, Vec::new(), false);
            for odd in [false, true] {
                let counted = ranges.iter().cloned().flatten();
                let counted = counted.filter(|port| *port >= 1024 && (port % 2 == 1) == odd).count();
                assert_eq!(ports.width(odd), counted, "{ranges:?} {odd}");
            }
        }
    }
}
