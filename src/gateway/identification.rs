//! Identifications of fragmented datagrams that are neither repeated soon nor guessed.
//!
//! A box that rewrites source addresses is the source of what leaves, and has to give datagrams
//! that are or may be fragmented identifications of its own, unique while the datagram lives (RFC
//! 6864 §4.3, §5.3.1). Those that are whole and stay so need none: nobody looks at it. Counting up would tell how many datagrams leave, and would let somebody elsewhere put
//! fragments of his own between (Gilad and Herzberg, "Fragmentation considered vulnerable"). So a
//! counter goes through a secret permutation of the 65,536 numbers: each comes once a round. IPv6 has
//! room for 16 bits more, which are drawn at random.
//!
//! Of a super-frame, the first packet gets the number drawn, and whoever cuts it counts on from
//! there, as all do (Linux `inet_gso_segment`): it has one number of the permutation, and not as many
//! as it has packets.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Rounds of the permutation.
const ROUNDS: usize = 4;

/// A source of identifications.
#[derive(Debug)]
pub struct Identifications {
    next: u16,
    /// A table for each round: what one half of the number adds to the other.
    rounds: [[u8; 256]; ROUNDS],
    random: ChaCha8Rng,
}

impl Identifications {
    /// A permutation of its own for every seed.
    pub fn new(seed: &[u8; 32]) -> Self {
        let mut random = ChaCha8Rng::from_seed(*seed);
        // The translator draws from the same seed: another stream of it.
        random.set_stream(1);
        let mut rounds = [[0; 256]; ROUNDS];
        rounds.iter_mut().for_each(|round| random.fill_bytes(round));
        Identifications { next: 0, rounds, random }
    }

    /// The next one, for IPv6.
    pub fn draw(&mut self) -> u32 {
        self.random.next_u32() << 16 | u32::from(self.draw_short())
    }

    /// The next one, for IPv4.
    pub fn draw_short(&mut self) -> u16 {
        self.next = self.next.wrapping_add(1);
        let [mut left, mut right] = self.next.to_be_bytes();
        for round in &self.rounds {
            (left, right) = (right, left ^ round[usize::from(right)]);
        }
        u16::from_be_bytes([left, right])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_comes_once_a_round_and_none_tells_the_next() {
        let mut source = Identifications::new(&[7; 32]);
        let round: Vec<_> = (0..=u16::MAX).map(|_| source.draw_short()).collect();
        let unique: std::collections::BTreeSet<_> = round.iter().collect();
        assert_eq!(unique.len(), 65_536);
        let steps = round.windows(2).filter(|pair| pair[1].wrapping_sub(pair[0]) <= 2).count();
        assert!(steps < 30, "{steps} of 65,535 steps are of 2 at most; chance would give 6");
        assert_ne!(round[0], Identifications::new(&[8; 32]).draw_short());
    }
}
