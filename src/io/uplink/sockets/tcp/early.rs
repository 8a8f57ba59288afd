//! Bytes from the inside that came before the ones that are next: two processors of the sender may
//! overtake each other, and a queue on the way may lose a packet.

use super::machine::{Blocks, serial};
use serial::{ahead, before, later};

/// Pieces of one connection that may wait.
const PIECES: usize = 64;

/// Pieces in the order of their sequence numbers; none touches the bytes of another.
#[derive(Debug, Default)]
pub struct Early {
    pieces: Vec<(u32, Vec<u8>)>,
    /// Where the piece is that came last.
    latest: u32,
    bytes: usize,
}

fn end(piece: &(u32, Vec<u8>)) -> u32 {
    piece.0.wrapping_add(piece.1.len() as u32)
}

impl Early {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Keeps what is new of `bytes` at `start`, up to the piece behind, and at most `room` bytes; how many.
    pub fn put(&mut self, start: u32, bytes: &[u8], room: usize) -> usize {
        let at = self.pieces.partition_point(|piece| !before(start, piece.0));
        let from = at.checked_sub(1).map_or(start, |at| later(start, end(&self.pieces[at])));
        let skip = ahead(start, from) as usize;
        let mut stop = bytes.len();
        if let Some(next) = self.pieces.get(at) {
            stop = stop.min(ahead(start, next.0) as usize);
        }
        let Some(fresh) = bytes.get(skip..stop).filter(|fresh| !fresh.is_empty()) else { return 0 };
        if self.pieces.len() >= PIECES || fresh.len() > room {
            return 0;
        }
        self.latest = from;
        self.bytes += fresh.len();
        self.pieces.insert(at, (from, fresh.to_vec()));
        fresh.len()
    }

    /// Takes the first piece if nothing is missing before it: its sequence number and its bytes.
    pub fn pop(&mut self, next: u32) -> Option<(u32, Vec<u8>)> {
        if self.pieces.first().is_none_or(|piece| before(next, piece.0)) {
            return None;
        }
        let piece = self.pieces.remove(0);
        self.bytes -= piece.1.len();
        if self.pieces.is_empty() {
            self.pieces = Vec::new();
        }
        Some(piece)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Early::default();
    }

    /// What waits as SACK blocks, the one that grew last first (RFC 2018 §4).
    pub fn blocks(&self) -> Blocks {
        let mut blocks = Blocks::default();
        let mut merged: Option<(u32, u32)> = None;
        let mut rest: Vec<(u32, u32)> = Vec::new();
        for piece in &self.pieces {
            match &mut merged {
                Some(block) if block.1 == piece.0 => block.1 = end(piece),
                _ => {
                    rest.extend(merged.take());
                    merged = Some((piece.0, end(piece)));
                }
            }
        }
        rest.extend(merged);
        let newest =
            rest.iter().position(|(first, last)| !before(self.latest, *first) && before(self.latest, *last));
        if let Some(at) = newest {
            blocks.push(rest.remove(at));
        }
        rest.into_iter().rev().for_each(|block| blocks.push(block));
        blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_put_in_order_without_overlap() {
        let start = u32::MAX - 10;
        let mut early = Early::default();
        let at = |offset: u32| start.wrapping_add(offset);
        assert_eq!(early.put(at(20), b"cccc", 99), 4);
        assert_eq!(early.put(at(10), b"aaaa", 99), 4);
        assert_eq!(early.put(at(12), b"xxbbbbbbxxx", 99), 6);
        assert_eq!(early.put(at(11), b"zz", 99), 0);
        assert_eq!(early.put(at(40), b"dd", 1), 0);
        assert_eq!(early.put(at(40), b"dd", 2), 2);
        assert_eq!(early.blocks().all(), [(at(40), at(42)), (at(10), at(24))]);
        assert_eq!(early.pop(at(9)), None);
        assert_eq!(early.pop(at(10)).unwrap(), (at(10), b"aaaa".to_vec()));
        assert_eq!(early.pop(at(14)).unwrap().1, b"bbbbbb");
        assert_eq!(early.pop(at(20)).unwrap().1, b"cccc");
        assert_eq!((early.pop(at(24)), early.len()), (None, 2));
    }
}
