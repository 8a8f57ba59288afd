//! Rows with stable numbers, in pieces that never move.
//!
//! A slab grows by one piece at a time, so no packet pays for copying what is there. The room of a piece
//! costs no memory until it is used, since the system gives it when it is first written; and a large
//! slab lies in few places, which large pages of memory can cover. A freed row is the next one given out.
//! Freed rows are chained through the rows themselves.

use super::span::Span;
use std::ops::{Index, IndexMut};

/// The number that is no row.
pub(super) const NONE: u32 = u32::MAX;

const PIECE_BITS: u32 = 18;
/// Rows of a piece.
const PIECE: usize = 1 << PIECE_BITS;

/// A row: while it is free, it keeps the number of the next free row.
pub(super) trait Row: Copy + Default {
    /// The next free row. Asked of free rows only.
    fn next_free(&self) -> u32;
    /// Makes this a free row whose successor is `next`.
    fn set_free(&mut self, next: u32);
}

/// The rows.
#[derive(Debug)]
pub(super) struct Slab<T> {
    pieces: Vec<Vec<T>>,
    free: u32,
    used: u32,
    len: u32,
}

/// In which piece a row is, and where there.
#[inline]
fn place(id: u32) -> (usize, usize) {
    ((id >> PIECE_BITS) as usize, id as usize & (PIECE - 1))
}

impl<T: Row> Slab<T> {
    pub(super) fn new() -> Self {
        Slab { pieces: Vec::new(), free: NONE, used: 0, len: 0 }
    }

    /// How many rows are taken.
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// One more than the highest number ever given out.
    pub(super) fn end(&self) -> u32 {
        self.used
    }

    /// Bytes in use, now or before.
    pub(super) fn bytes(&self) -> usize {
        self.used as usize * size_of::<T>()
    }

    /// Where the pieces are.
    pub(super) fn spans(&self) -> impl Iterator<Item = Span> + '_ {
        self.pieces.iter().map(Span::of)
    }

    /// Takes a row. Its content is what its last owner left, or the default.
    pub(super) fn take(&mut self) -> u32 {
        self.len += 1;
        if self.free != NONE {
            let id = self.free;
            self.free = self[id].next_free();
            return id;
        }
        let id = self.used;
        let (piece, _) = place(id);
        if piece == self.pieces.len() {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        self.pieces[piece].push(T::default());
        self.used += 1;
        id
    }

    /// Frees a taken row.
    pub(super) fn give_back(&mut self, id: u32) {
        let next = self.free;
        self[id].set_free(next);
        self.free = id;
        self.len -= 1;
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    #[inline]
    fn index(&self, id: u32) -> &T {
        let (piece, at) = place(id);
        &self.pieces[piece][at]
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, id: u32) -> &mut T {
        let (piece, at) = place(id);
        &mut self.pieces[piece][at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Row for u32 {
        fn next_free(&self) -> u32 {
            *self
        }
        fn set_free(&mut self, next: u32) {
            *self = next;
        }
    }

    #[test]
    fn freed_rows_come_again_and_numbers_stay() {
        let mut slab: Slab<u32> = Slab::new();
        let ids: Vec<u32> = (0..300_000)
            .map(|n| {
                let id = slab.take();
                slab[id] = n;
                id
            })
            .collect();
        slab.give_back(ids[5]);
        slab.give_back(ids[2000]);
        assert_eq!(slab.len(), 299_998);
        assert_eq!(slab.take(), ids[2000]);
        assert_eq!(slab.take(), ids[5]);
        assert_eq!(slab.take(), 300_000);
        for n in [0, 1, PIECE - 1, PIECE, 299_999] {
            assert_eq!(slab[ids[n]], n as u32);
        }
        assert_eq!(slab.spans().map(|span| span.length).sum::<usize>(), 2 * PIECE * size_of::<u32>());
    }
}
