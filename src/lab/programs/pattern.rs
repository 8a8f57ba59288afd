//! Bytes that can be checked at the other end: a stream from a seed, and a sum over a stream.

/// An endless stream of bytes, different for each seed and never repeating within a transfer.
#[derive(Clone, Debug)]
pub struct Pattern {
    state: u64,
    word: [u8; 8],
    used: usize,
}

impl Pattern {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Pattern {
        Pattern { state: seed, word: [0; 8], used: 8 }
    }

    /// Fills `out` with the next bytes of the stream.
    pub fn fill(&mut self, out: &mut [u8]) {
        let mut out = out;
        let left = (8 - self.used).min(out.len());
        let (head, rest) = out.split_at_mut(left);
        head.copy_from_slice(&self.word[self.used..self.used + left]);
        self.used += left;
        out = rest;
        let mut words = out.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.next().to_le_bytes());
        }
        let tail = words.into_remainder();
        if !tail.is_empty() {
            self.word = self.next().to_le_bytes();
            tail.copy_from_slice(&self.word[..tail.len()]);
            self.used = tail.len();
        }
    }

    /// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

/// A sum over a stream that notices any changed, lost, doubled or moved byte (FNV-1a, 64 bits).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sum(u64);

impl Default for Sum {
    fn default() -> Self {
        Sum(0xcbf2_9ce4_8422_2325)
    }
}

impl Sum {
    /// Adds the next bytes of the stream.
    pub fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    /// The sum so far.
    pub fn value(self) -> u64 {
        self.0
    }
}

/// The sum of the first `length` bytes of the stream of `seed`.
pub fn expected(seed: u64, length: u64) -> u64 {
    let mut pattern = Pattern::new(seed);
    let mut sum = Sum::default();
    let mut block = [0; 4096];
    let mut left = length;
    while left > 0 {
        let take = usize::try_from(left.min(block.len() as u64)).expect("at most the block's length");
        pattern.fill(&mut block[..take]);
        sum.add(&block[..take]);
        left -= take as u64;
    }
    sum.value()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_does_not_depend_on_how_it_is_taken() {
        let mut whole = [0; 100];
        Pattern::new(7).fill(&mut whole);
        let mut pattern = Pattern::new(7);
        let mut pieces = Vec::new();
        for length in [1, 2, 3, 0, 8, 16, 5, 7, 9, 49] {
            let mut piece = vec![0; length];
            pattern.fill(&mut piece);
            pieces.extend(piece);
        }
        assert_eq!(pieces, whole);
    }

    #[test]
    fn a_swap_changes_the_sum() {
        let (mut a, mut b) = (Sum::default(), Sum::default());
        a.add(&[1, 2]);
        b.add(&[2, 1]);
        assert_ne!(a.value(), b.value());
    }
}
