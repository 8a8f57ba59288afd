//! Rows with stable numbers, in chunks that never move.
//!
//! A slab grows by one chunk at a time, so no packet pays for copying what is there, and a freed
//! row is the next one given out. Freed rows are chained through the rows themselves.

use std::ops::{Index, IndexMut};

/// The number that is no row.
pub(super) const NONE: u32 = u32::MAX;

const CHUNK_BITS: u32 = 10;
const CHUNK: usize = 1 << CHUNK_BITS;

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
    chunks: Vec<Box<[T; CHUNK]>>,
    free: u32,
    used: u32,
    len: u32,
}

impl<T: Row> Slab<T> {
    pub(super) fn new() -> Self {
        Slab { chunks: Vec::new(), free: NONE, used: 0, len: 0 }
    }

    /// How many rows are taken.
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// One more than the highest number ever given out.
    pub(super) fn end(&self) -> u32 {
        self.used
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.chunks.len() * size_of::<[T; CHUNK]>() + self.chunks.capacity() * size_of::<Box<[T; CHUNK]>>()
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
        if id as usize == self.chunks.len() * CHUNK {
            let rows = vec![T::default(); CHUNK].into_boxed_slice();
            self.chunks.push(rows.try_into().ok().expect("the slice has exactly CHUNK rows"));
        }
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
        &self.chunks[(id >> CHUNK_BITS) as usize][id as usize & (CHUNK - 1)]
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, id: u32) -> &mut T {
        &mut self.chunks[(id >> CHUNK_BITS) as usize][id as usize & (CHUNK - 1)]
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
        let ids: Vec<u32> = (0..3000)
            .map(|n| {
                let id = slab.take();
                slab[id] = n;
                id
            })
            .collect();
        slab.give_back(ids[5]);
        slab.give_back(ids[2000]);
        assert_eq!(slab.len(), 2998);
        assert_eq!(slab.take(), ids[2000]);
        assert_eq!(slab.take(), ids[5]);
        assert_eq!(slab.take(), 3000);
        assert_eq!(slab[ids[2999]], 2999);
    }
}
