//! How often each client is answered. Whoever forges a source makes the server talk to a victim:
//! a bound for each address keeps that from being worth it.

use crate::flow::Time;
use foldhash::fast::FixedState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::time::Duration;

/// Clients are told apart by a hash of their address; those that meet in a slot share its rate, so
/// that memory has a bound whoever asks.
const SLOTS: usize = 4096;
/// A client may have saved up the answers of this long.
const SAVED: Duration = Duration::from_secs(1);

/// A rate for each client.
#[derive(Debug)]
pub struct Limiter {
    /// When each slot will have paid for what it was given.
    paid: Vec<Time>,
    interval: Duration,
    hash: FixedState,
}

impl Limiter {
    /// Lets each client have `per_second` answers a second (at least one). `seed` keeps clients from
    /// choosing whom they share a slot with.
    pub fn new(per_second: u32, seed: u64) -> Limiter {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Limiter { paid: vec![Time::ZERO; SLOTS], interval, hash: FixedState::with_seed(seed) }
    }

    /// Whether the client at `ip` may have an answer; IPv6 clients are networks of 64 bits.
    pub fn admits(&mut self, ip: IpAddr, now: Time) -> bool {
        let client = match ip {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            IpAddr::V6(ip) => u64::try_from(ip.to_bits() >> 64).unwrap_or(0),
        };
        let slot = usize::try_from(self.hash.hash_one(client)).unwrap_or(0) % SLOTS;
        let paid = self.paid[slot].max(now);
        let admitted = paid.since(now) + self.interval <= SAVED;
        if admitted {
            self.paid[slot] = paid + self.interval;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_may_be_saved_up_and_then_the_rate_holds() {
        let mut limiter = Limiter::new(10, 1);
        let client = IpAddr::from([198, 51, 100, 7]);
        let mut admitted =
            |millis| (0..30).filter(|_| limiter.admits(client, Time::from_millis(millis))).count();
        assert_eq!([admitted(0), admitted(100), admitted(350), admitted(60_000)], [10, 1, 2, 10]);
    }

    #[test]
    fn clients_do_not_pay_for_each_other() {
        let mut limiter = Limiter::new(1, 1);
        let admitted = (0..100u8).filter(|&last| limiter.admits([203, 0, 113, last].into(), Time::ZERO));
        assert!(admitted.count() > 90);
    }
}
