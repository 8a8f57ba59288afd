//! Which bytes of a datagram its fragments have brought.
//!
//! Fragments of an honest sender never overlap, but for whole copies that the network made. Those
//! of a dishonest one do, so that a filter and the receiver put together different datagrams (RFC
//! 1858, RFC 3128, RFC 5722).

/// Pieces that are kept at most: 64 KiB in fragments of 512 bytes.
const PIECES: usize = 128;

/// The pieces that have come, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Coverage {
    pieces: Vec<(u32, u32)>,
    bytes: u32,
}

/// What a fragment adds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Added {
    /// Bytes that had not come.
    New,
    /// A piece that had come just so: a copy.
    Copy,
    /// Bytes of another piece, or more pieces than are kept: somebody deceives.
    Overlap,
}

impl Coverage {
    /// Adds the bytes from `start` up to `end`.
    pub(super) fn add(&mut self, start: u32, end: u32) -> Added {
        let place = self.pieces.partition_point(|(_, their_end)| *their_end <= start);
        match self.pieces.get(place) {
            Some(piece) if *piece == (start, end) => return Added::Copy,
            Some((their_start, _)) if *their_start < end => return Added::Overlap,
            _ if self.pieces.len() >= PIECES => return Added::Overlap,
            _ => {}
        }
        self.pieces.insert(place, (start, end));
        self.bytes += end - start;
        Added::New
    }

    /// How many bytes have come.
    pub(super) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Where the last piece ends.
    pub(super) fn end(&self) -> u32 {
        self.pieces.last().map_or(0, |(_, end)| *end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn says_what_a_bit_for_each_byte_would(parts in prop::collection::vec((0u32..40, 1u32..9), 1..30)) {
            let (mut coverage, mut bits) = (Coverage::default(), [false; 64]);
            let mut pieces = Vec::new();
            for (start, length) in parts {
                let piece = start..start + length;
                let bytes = &mut bits[start as usize..(start + length) as usize];
                let want = match bytes.contains(&true) {
                    false => Added::New,
                    true if pieces.contains(&piece) => Added::Copy,
                    true => Added::Overlap,
                };
                prop_assert_eq!(coverage.add(start, start + length), want);
                if want == Added::New {
                    bytes.fill(true);
                    pieces.push(piece);
                }
                prop_assert_eq!(coverage.bytes() as usize, bits.iter().filter(|had| **had).count());
                prop_assert_eq!(coverage.end() as usize, bits.iter().rposition(|had| *had).map_or(0, |at| at + 1));
            }
        }
    }

    #[test]
    fn pieces_are_bounded() {
        let mut coverage = Coverage::default();
        let added: Vec<_> = (0..129).map(|n| coverage.add(n * 8, n * 8 + 8)).collect();
        assert!(added[..128].iter().all(|added| *added == Added::New));
        assert_eq!(added[128], Added::Overlap);
    }
}
