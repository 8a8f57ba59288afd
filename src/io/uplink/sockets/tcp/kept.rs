//! Bytes from the inside that the host socket does not take yet.

/// A queue of bytes. It takes at most two thirds more memory than there are bytes, and none without.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    bytes: Vec<u8>,
    start: usize,
}

impl Kept {
    /// The bytes, first in first.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// Puts `more` behind the others.
    pub fn push(&mut self, more: &[u8]) {
        if self.bytes.len() + more.len() > self.bytes.capacity() {
            self.bytes.drain(..self.start);
            self.start = 0;
            // Doubling, as a vector grows by itself, may take twice what is counted.
            self.bytes.reserve_exact(more.len().max(self.bytes.len() / 4));
        }
        self.bytes.extend_from_slice(more);
    }

    /// Takes `count` bytes off the front; all, if there are fewer.
    pub fn pop(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.bytes.len());
        if self.is_empty() {
            *self = Kept::default();
        } else if self.start > (self.bytes.len() - self.start) / 4 {
            self.bytes.drain(..self.start);
            self.start = 0;
            self.bytes.shrink_to(self.bytes.len() / 4 * 5);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_their_order() {
        let mut kept = Kept::default();
        let (mut put, mut got) = (0u8, 0u8);
        for round in 0..200usize {
            let more: Vec<u8> = (0..round % 7)
                .map(|_| {
                    put = put.wrapping_add(1);
                    put
                })
                .collect();
            kept.push(&more);
            let count = (round % 5).min(kept.bytes().len());
            for byte in &kept.bytes()[..count] {
                got = got.wrapping_add(1);
                assert_eq!(*byte, got);
            }
            kept.pop(count);
        }
        kept.pop(usize::MAX);
        assert!(kept.is_empty() && kept.bytes.capacity() == 0);
    }

    #[test]
    fn memory_is_not_much_more_than_the_bytes() {
        let mut kept = Kept::default();
        let within = |kept: &Kept| kept.bytes.capacity() <= kept.bytes().len() / 3 * 5 + 10;
        for _ in 0..1000 {
            kept.push(&[7; 1460]);
            assert!(within(&kept), "{} for {}", kept.bytes.capacity(), kept.bytes().len());
        }
        while !kept.is_empty() {
            kept.pop(2000);
            assert!(within(&kept), "{} for {}", kept.bytes.capacity(), kept.bytes().len());
        }
    }
}
