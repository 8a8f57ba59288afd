//! When to look at which session: a hashed timer wheel with lazy re-arming.
//!
//! A packet only writes `last_seen`; it moves nothing. When the slot of a session's old deadline
//! comes round, its true deadline is reckoned from `last_seen` and the timeout in force, and the
//! session is closed or linked where it now belongs:
//!
//! ```text
//!              cursor                       the furthest slot: all later deadlines wait here
//!                 v                         v
//!   slots … │ 17 │ 18 │ 19 │ … 4096 slots … │     1/8 s each, 512 s in all
//!                   │
//!                   └─ session <-> session <-> session     links are in the sessions
//! ```
//!
//! Linking and unlinking are O(1); the next occupied slot is found in a bitmap.

use super::session::{Links, Sessions};
use super::slab::NONE;

/// The length of a slot in nanoseconds: 1/8 s.
pub(super) const GRAIN: u64 = 125_000_000;
const SLOTS: usize = 4096;
/// Marks the `wheel_prev` of a slot's first session; the slot is in the bits below.
const FIRST: u32 = 1 << 31;

/// The wheel.
#[derive(Debug)]
pub(super) struct Wheel {
    heads: Vec<u32>,
    occupied: [u64; SLOTS / 64],
    /// The first tick whose slot has not been emptied. Linked sessions are less than `SLOTS` ahead.
    cursor: u64,
    len: usize,
}

impl Wheel {
    pub(super) fn new() -> Self {
        Wheel { heads: vec![NONE; SLOTS], occupied: [0; SLOTS / 64], cursor: 0, len: 0 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.heads.len() * size_of::<u32>() + size_of::<Self>()
    }

    /// Links session `id`, to be looked at when `deadline` (in nanoseconds) has come.
    pub(super) fn link(&mut self, sessions: &mut Sessions, id: u32, deadline: u64, now: u64) {
        if self.len == 0 {
            self.cursor = self.cursor.max(now / GRAIN);
        }
        let tick = deadline.div_ceil(GRAIN).clamp(self.cursor, self.cursor + SLOTS as u64 - 1);
        let slot = tick as usize % SLOTS;
        let next = self.heads[slot];
        if next != NONE {
            sessions.links[next].wheel_prev = id;
        }
        let links = &mut sessions.links[id];
        links.wheel_prev = FIRST | slot as u32;
        links.wheel_next = next;
        self.heads[slot] = id;
        self.occupied[slot / 64] |= 1 << (slot % 64);
        self.len += 1;
    }

    /// Unlinks session `id`.
    pub(super) fn unlink(&mut self, sessions: &mut Sessions, id: u32) {
        let Links { wheel_prev: prev, wheel_next: next, .. } = sessions.links[id];
        if next != NONE {
            sessions.links[next].wheel_prev = prev;
        }
        if prev & FIRST == 0 {
            sessions.links[prev].wheel_next = next;
        } else {
            let slot = (prev & !FIRST) as usize;
            self.heads[slot] = next;
            if next == NONE {
                self.occupied[slot / 64] &= !(1 << (slot % 64));
            }
        }
        self.len -= 1;
    }

    /// The first session of a slot whose time has come by `now`; `None` if there is none.
    pub(super) fn due(&mut self, now: u64) -> Option<u32> {
        let tick = now / GRAIN;
        match self.first_tick() {
            Some(first) if first <= tick => {
                self.cursor = first;
                Some(self.heads[first as usize % SLOTS])
            }
            _ => {
                self.cursor = self.cursor.max(tick + 1);
                None
            }
        }
    }

    /// When the first occupied slot is due, in nanoseconds.
    pub(super) fn next(&self) -> Option<u64> {
        self.first_tick().map(|tick| tick.saturating_mul(GRAIN))
    }

    fn first_tick(&self) -> Option<u64> {
        if self.len == 0 {
            return None;
        }
        let start = self.cursor as usize % SLOTS;
        // Word by word from the cursor on; the cursor's own word comes first and again last.
        for step in 0..=SLOTS / 64 {
            let word = (start / 64 + step) % (SLOTS / 64);
            let mut bits = self.occupied[word];
            if step == 0 {
                bits &= u64::MAX << (start % 64);
            }
            if bits != 0 {
                let slot = word * 64 + bits.trailing_zeros() as usize;
                let ahead = (slot + SLOTS - start) % SLOTS;
                return Some(self.cursor + ahead as u64);
            }
        }
        None
    }
}
