//! How often the gateway speaks: ICMP errors and resets of its own (RFC 1812 §4.3.2.8, RFC 5508
//! REQ-10f).
//!
//! One bucket for all who are told something would be an oracle: who has emptied it by provoking
//! answers can see from its level whether a packet in somebody else's name was answered too, which
//! is how SAD DNS (CVE-2020-25705) found open ports. So each receiver has a bucket, and the common
//! one loses a random number of tokens for each answer, so that its level says nothing exact.

use crate::flow::Time;
use crate::flow::bucket::TokenBucket;
use foldhash::quality::FixedState;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::hash::BuildHasher;
use std::net::IpAddr;

/// Buckets for receivers; those whose addresses hash alike share one.
const RECEIVERS: usize = 1024;
/// Answers to one receiver at once.
const BURST: u32 = 20;
/// Answers to one receiver a second.
const PER_SECOND: u32 = 50;

/// The limits of one side.
#[derive(Debug)]
pub struct Speech {
    all: TokenBucket,
    receivers: Vec<TokenBucket>,
    hash: FixedState,
    random: ChaCha8Rng,
}

impl Speech {
    /// At most `burst` answers at once and `per_second` a second to all receivers together.
    /// `stream` tells the sides of one gateway apart.
    pub fn new(burst: u32, per_second: u32, seed: &[u8; 32], stream: u64) -> Self {
        let mut random = ChaCha8Rng::from_seed(*seed);
        random.set_stream(stream);
        Speech {
            all: TokenBucket::new(burst, per_second),
            receivers: vec![TokenBucket::new(BURST, PER_SECOND); RECEIVERS],
            hash: FixedState::with_seed(random.next_u64()),
            random,
        }
    }

    /// Changes the rate for all receivers together.
    pub fn set_rate(&mut self, burst: u32, per_second: u32) {
        self.all = TokenBucket::new(burst, per_second);
    }

    /// Whether `receiver` may be told something at `now`; if so it counts as told.
    pub fn may(&mut self, receiver: IpAddr, now: Time) -> bool {
        let place = self.hash.hash_one(receiver) as usize % RECEIVERS;
        if !self.receivers[place].take(now) || !self.all.take(now) {
            return false;
        }
        // One answer in four costs the common bucket two.
        if self.random.next_u32().is_multiple_of(4) {
            self.all.take(now);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn told(speech: &mut Speech, receiver: u8, times: usize, at: u64) -> usize {
        let receiver = Ipv4Addr::new(198, 51, 100, receiver).into();
        (0..times).filter(|_| speech.may(receiver, Time::from_millis(at))).count()
    }

    #[test]
    fn who_provokes_answers_silences_only_himself() {
        let mut speech = Speech::new(100, 1000, &[3; 32], 2);
        assert_eq!(told(&mut speech, 1, 500, 0), 20);
        assert_eq!(told(&mut speech, 2, 5, 0), 5);
        assert_eq!(told(&mut speech, 1, 500, 1000), 20);
    }

    #[test]
    fn the_common_limit_is_never_exceeded_and_never_exact() {
        let spent: std::collections::BTreeSet<_> = (0..16u8)
            .map(|seed| {
                let mut speech = Speech::new(50, 1000, &[seed; 32], 2);
                (1..=200).map(|receiver| told(&mut speech, receiver, 1, 0)).sum::<usize>()
            })
            .collect();
        assert!(spent.iter().all(|told| (30..=50).contains(told)), "{spent:?}");
        assert!(spent.len() > 3, "{spent:?}");
    }
}
