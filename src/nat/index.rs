//! A hash index from keys to row numbers; the keys stay in their rows.
//!
//! Open addressing with linear probing over one array of `u32`. A place holds a row number and,
//! in the bits above it, a tag of the hash, so that one cache line usually settles a search:
//!
//! ```text
//! 0                        the place is empty
//! [ tag | row number + 1 ] 11 and 21 bits in an index for a million rows
//! ```
//!
//! An index begins small, since what is spread over megabytes is in no cache, and becomes as large as it
//! will ever have to be in one step, while few rows have to be put anew. All-zero means empty, so a
//! large one costs no memory until it is used: the system hands out zero pages. (A `hashbrown` table
//! writes its control bytes at once, and asks for two cache lines a search.) A removal moves the places after it back, so there are no
//! tombstones and nothing ever needs cleaning. At most three quarters of the places are taken.

use super::span::Span;

/// The index.
#[derive(Debug)]
pub(super) struct Index {
    places: Vec<u32>,
    /// log2 of the number of places: also how many bits of a place are the row number.
    bits: u32,
    len: usize,
    /// Rows that there is to be room for when it grows.
    room: usize,
}

/// Rows that an index has room for at first: 32 KiB.
const AT_FIRST: usize = 6_000;

impl Index {
    /// An index that will have room for `rows` rows.
    pub(super) fn with_room(rows: usize) -> Self {
        Index { room: rows, ..Index::of_size(rows.min(AT_FIRST)) }
    }

    fn of_size(rows: usize) -> Self {
        let places = (rows.max(12) / 3 * 4 + 4).next_power_of_two();
        Index { places: vec![0; places], bits: places.trailing_zeros(), len: 0, room: rows }
    }

    /// Whether no row is in it.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes held, touched or not.
    pub(super) fn bytes(&self) -> usize {
        self.places.len() * size_of::<u32>()
    }

    /// Where it lies.
    pub(super) fn span(&self) -> Span {
        Span::of(&self.places)
    }

    #[inline]
    fn mask(&self) -> usize {
        self.places.len() - 1
    }

    /// What the place of row `id` with this hash holds.
    #[inline]
    fn entry(&self, hash: u64, id: u32) -> u32 {
        self.tag(hash) | (id + 1)
    }

    #[inline]
    fn tag(&self, hash: u64) -> u32 {
        // The high bits of the hash: the low ones say where the search starts.
        (hash >> 32) as u32 >> self.bits << self.bits
    }

    #[inline]
    fn row(&self, entry: u32) -> u32 {
        (entry & ((1 << self.bits) - 1)) - 1
    }

    /// The row with this hash for which `same` holds.
    #[inline]
    pub(super) fn find(&self, hash: u64, mut same: impl FnMut(u32) -> bool) -> Option<u32> {
        let tag = self.tag(hash);
        let row_bits = (1u32 << self.bits) - 1;
        let mut place = hash as usize & self.mask();
        loop {
            let entry = self.places[place];
            if entry == 0 {
                return None;
            }
            if entry & !row_bits == tag && same(self.row(entry)) {
                return Some(self.row(entry));
            }
            place = (place + 1) & self.mask();
        }
    }

    /// The row at the very place of this hash: most likely the one with it, if there is one.
    #[inline]
    pub(super) fn likely(&self, hash: u64) -> u32 {
        let entry = self.places[hash as usize & self.mask()];
        (entry & ((1 << self.bits) - 1)).wrapping_sub(1)
    }

    /// Adds row `id`. `hash_of` tells the hash of any row in the index, should it have to grow.
    pub(super) fn insert(&mut self, hash: u64, id: u32, hash_of: impl Fn(u32) -> u64) {
        self.make_room(self.len + 1, id, hash_of);
        self.put(hash, id);
        self.len += 1;
    }

    fn put(&mut self, hash: u64, id: u32) {
        let mut place = hash as usize & self.mask();
        while self.places[place] != 0 {
            place = (place + 1) & self.mask();
        }
        self.places[place] = self.entry(hash, id);
    }

    /// Grows if `rows` rows, or the number of row `id`, would not fit.
    fn make_room(&mut self, rows: usize, id: u32, hash_of: impl Fn(u32) -> u64) {
        let need = rows.max(id as usize + 2);
        if need > self.places.len() / 4 * 3 {
            self.grow(need, hash_of);
        }
    }

    fn grow(&mut self, rows: usize, hash_of: impl Fn(u32) -> u64) {
        let mut larger = Index::of_size(rows.max(self.places.len()).max(self.room));
        for &entry in self.places.iter().filter(|entry| **entry != 0) {
            let id = self.row(entry);
            larger.put(hash_of(id), id);
        }
        larger.len = self.len;
        *self = larger;
    }

    fn place_of(&self, hash: u64, id: u32) -> Option<usize> {
        let wanted = self.entry(hash, id);
        let mut place = hash as usize & self.mask();
        while self.places[place] != wanted {
            if self.places[place] == 0 {
                return None;
            }
            place = (place + 1) & self.mask();
        }
        Some(place)
    }

    /// Puts row `new` where row `old` was; both have this hash. `hash_of` as for `insert`.
    pub(super) fn replace(&mut self, hash: u64, old: u32, new: u32, hash_of: impl Fn(u32) -> u64) {
        self.make_room(self.len, new, hash_of);
        if let Some(place) = self.place_of(hash, old) {
            self.places[place] = self.entry(hash, new);
        }
    }

    /// Removes row `id`. `hash_of` tells the hash of any row in the index.
    pub(super) fn remove(&mut self, hash: u64, id: u32, hash_of: impl Fn(u32) -> u64) {
        let Some(mut hole) = self.place_of(hash, id) else { return };
        self.len -= 1;
        let mask = self.mask();
        let mut place = hole;
        loop {
            place = (place + 1) & mask;
            let entry = self.places[place];
            if entry == 0 {
                break;
            }
            let home = hash_of(self.row(entry)) as usize & mask;
            // An entry may fill the hole unless its search starts after the hole.
            if place.wrapping_sub(home) & mask >= place.wrapping_sub(hole) & mask {
                self.places[hole] = entry;
                hole = place;
            }
        }
        self.places[hole] = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Hashes that collide a lot, in the low bits and in the tag.
    fn hash(id: u32) -> u64 {
        u64::from(id % 7) | u64::from(id % 3) << 60
    }

    #[test]
    fn a_row_too_high_for_the_index_makes_it_grow() {
        let mut index = Index::with_room(4);
        index.insert(hash(1), 1, hash);
        index.replace(hash(1), 1, 90_001, |_| hash(1));
        assert_eq!(index.find(hash(1), |_| true), Some(90_001));
        index.remove(hash(1), 90_001, |_| hash(1));
        assert_eq!(index.find(hash(1), |_| true), None);
    }

    proptest! {
        #[test]
        fn holds_what_was_put_in(ids in prop::collection::vec(0u32..60, 0..200)) {
            let mut index = Index::with_room(4);
            let mut want = BTreeSet::new();
            for id in ids {
                if want.remove(&id) {
                    index.remove(hash(id), id, hash);
                } else {
                    want.insert(id);
                    index.insert(hash(id), id, hash);
                }
                for probe in 0..60 {
                    let found = index.find(hash(probe), |row| row == probe);
                    prop_assert_eq!(found.is_some(), want.contains(&probe));
                }
            }
        }
    }
}
