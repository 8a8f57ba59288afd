//! A hash index from keys to row numbers; the keys stay in their rows.
//!
//! Lines of 16 places of four bytes each, one cache line; a row is in the line that its hash
//! names or, if that is full, in the next. A place holds a row number and, in the bits above it,
//! a tag of the hash, so that one cache line settles nearly every search:
//!
//! ```text
//! 0                        the place is empty
//! [ tag | row number + 1 ] 11 and 21 bits in an index for a million rows
//! ```
//!
//! All places of a line are compared at once: no branch depends on where in the line the row is,
//! so the processor goes on to the next packet while it waits for this one's memory.
//!
//! All-zero means empty, so a large index made at start costs no memory until it is used: the
//! system hands out zero pages. (A `hashbrown` table writes its control bytes at once, and asks
//! for two cache lines a search.) A removal from a full line moves back what had to go on, so
//! there are no tombstones. At most three quarters of the places are taken.

/// Places in a line.
const LINE: usize = 16;

/// The index.
#[derive(Debug)]
pub(super) struct Index {
    /// The lines, from `skip` on, where the first cache line begins.
    places: Vec<u32>,
    skip: usize,
    /// Number of lines less one.
    mask: usize,
    /// log2 of the number of places: also how many bits of a place are the row number.
    bits: u32,
    len: usize,
}

impl Index {
    /// An index with room for `rows` rows.
    pub(super) fn with_room(rows: usize) -> Self {
        let count = (rows.max(LINE) / 3 * 4 + 4).next_power_of_two();
        let places = vec![0; count + LINE];
        // Where the allocation begins is chance; it moves time, never a result.
        let skip = places.as_ptr().align_offset(LINE * size_of::<u32>()).min(LINE);
        Index { places, skip, mask: count / LINE - 1, bits: count.trailing_zeros(), len: 0 }
    }

    /// Bytes held, touched or not.
    pub(super) fn bytes(&self) -> usize {
        self.places.len() * size_of::<u32>()
    }

    #[inline]
    fn line(&self, line: usize) -> &[u32; LINE] {
        let line = self.places[self.skip + line * LINE..].first_chunk();
        line.expect("every line ends before the places do")
    }

    fn home(&self, hash: u64) -> usize {
        hash as usize & self.mask
    }

    /// What the place of row `id` with this hash holds.
    fn entry(&self, hash: u64, id: u32) -> u32 {
        self.tag(hash) | (id + 1)
    }

    #[inline]
    fn tag(&self, hash: u64) -> u32 {
        // The high bits of the hash: the low ones name the line.
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
        let mut at = self.home(hash);
        loop {
            let line = self.line(at);
            // Bit n: place n is taken and has this tag.
            let mut hits = 0u32;
            for (n, entry) in line.iter().enumerate() {
                hits |= u32::from((entry ^ tag).wrapping_sub(1) >> self.bits == 0) << n;
            }
            while hits != 0 {
                let row = self.row(line[hits.trailing_zeros() as usize % LINE]);
                if same(row) {
                    return Some(row);
                }
                hits &= hits - 1;
            }
            if line.contains(&0) {
                return None;
            }
            at = (at + 1) & self.mask;
        }
    }

    /// Adds row `id`. `hash_of` tells the hash of any row in the index, should it have to grow.
    pub(super) fn insert(&mut self, hash: u64, id: u32, hash_of: impl Fn(u32) -> u64) {
        let need = (self.len + 1).max(id as usize + 2);
        if need > (self.mask + 1) * LINE / 4 * 3 {
            self.grow(need, hash_of);
        }
        self.put(hash, id);
        self.len += 1;
    }

    fn put(&mut self, hash: u64, id: u32) {
        let mut line = self.home(hash);
        let place = loop {
            match self.line(line).iter().position(|entry| *entry == 0) {
                Some(place) => break place,
                None => line = (line + 1) & self.mask,
            }
        };
        self.places[self.skip + line * LINE + place] = self.entry(hash, id);
    }

    fn grow(&mut self, rows: usize, hash_of: impl Fn(u32) -> u64) {
        let mut larger = Index::with_room(rows.max((self.mask + 1) * LINE));
        for &entry in self.places.iter().filter(|entry| **entry != 0) {
            let id = self.row(entry);
            larger.put(hash_of(id), id);
        }
        larger.len = self.len;
        *self = larger;
    }

    /// The line and the place in `places` of row `id`.
    fn place_of(&self, hash: u64, id: u32) -> Option<(usize, usize)> {
        let wanted = self.entry(hash, id);
        let mut line = self.home(hash);
        loop {
            if let Some(place) = self.line(line).iter().position(|entry| *entry == wanted) {
                return Some((line, self.skip + line * LINE + place));
            }
            if self.line(line).contains(&0) {
                return None;
            }
            line = (line + 1) & self.mask;
        }
    }

    /// Puts row `new` where row `old` was; both have this hash.
    pub(super) fn replace(&mut self, hash: u64, old: u32, new: u32) {
        if let Some((_, place)) = self.place_of(hash, old) {
            self.places[place] = self.entry(hash, new);
        }
    }

    /// Removes row `id`. `hash_of` tells the hash of any row in the index.
    pub(super) fn remove(&mut self, hash: u64, id: u32, hash_of: impl Fn(u32) -> u64) {
        let Some((mut hole_line, mut hole)) = self.place_of(hash, id) else { return };
        self.len -= 1;
        let mut line = hole_line;
        // While lines are full, a later one may hold a row whose search passes the hole.
        while !self.line(line).contains(&0) {
            line = (line + 1) & self.mask;
            let passes = |entry: &u32| {
                *entry != 0 && {
                    let home = self.home(hash_of(self.row(*entry)));
                    line.wrapping_sub(home) & self.mask >= line.wrapping_sub(hole_line) & self.mask
                }
            };
            if line == hole_line {
                break;
            }
            if let Some(place) = self.line(line).iter().position(passes) {
                let from = self.skip + line * LINE + place;
                self.places[hole] = self.places[from];
                (hole_line, hole) = (line, from);
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
        u64::from(id % 3) | u64::from(id % 2) << 62
    }

    proptest! {
        #[test]
        fn holds_what_was_put_in(ids in prop::collection::vec(0u32..90, 0..400)) {
            let mut index = Index::with_room(4);
            let mut want = BTreeSet::new();
            for id in ids {
                if want.remove(&id) {
                    index.remove(hash(id), id, hash);
                } else {
                    want.insert(id);
                    index.insert(hash(id), id, hash);
                }
                for probe in 0..90 {
                    let found = index.find(hash(probe), |row| row == probe);
                    prop_assert_eq!(found.is_some(), want.contains(&probe));
                }
            }
        }
    }
}
