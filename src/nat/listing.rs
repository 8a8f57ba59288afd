//! What lives, told a page at a time; and sessions forgotten on request.

use super::mapping::Mapping;
use super::slab::NONE;
use super::{Closed, MappingView, Nat, Observer, SessionView};
use crate::flow::{Protocol, Time};

/// Rows that one call of [`Nat::sessions`] or [`Nat::mappings`] looks at, at most.
const LISTED: u32 = 1 << 16;

impl Nat {
    /// The outside ports, and identifiers of ICMP queries, that mappings have, of all external addresses. A
    /// port on two of them is told twice.
    pub fn mapped_ports(&self) -> impl Iterator<Item = (Protocol, u16)> + '_ {
        self.ports.mapped()
    }

    /// Up to `limit` sessions from `cursor` on, and the cursor for the next call (`None` at the
    /// end). Sessions that come or go between calls may or may not be seen; none is seen twice.
    /// A call looks at 65,536 rows at most, so it may tell few sessions, or none, and a cursor.
    pub fn sessions(&self, cursor: u32, limit: usize, now: Time) -> (Vec<SessionView>, Option<u32>) {
        list(cursor, limit, self.sessions.end(), |row| self.live(row, now).then(|| self.view(row, now)))
    }

    /// Up to `limit` mappings from `cursor` on, in the manner of [`Nat::sessions`].
    pub fn mappings(&self, cursor: u32, limit: usize) -> (Vec<MappingView>, Option<u32>) {
        list(cursor, limit, self.mappings.end(), |row| self.mapping_view(row))
    }

    /// A copy of the mapping in a row, if there is one.
    pub(super) fn mapping_view(&self, row: u32) -> Option<MappingView> {
        let Mapping { protocol, inside, sessions, host, .. } = self.mappings[row];
        (host != NONE).then(|| MappingView {
            protocol,
            inside,
            outside: self.outside(row),
            sessions: sessions as usize,
            published: self.mappings[row].published(),
        })
    }

    /// Forgets the session with this number, if it is still the one it was.
    pub fn forget(&mut self, id: u64, now: Time, seen: &mut impl Observer) -> bool {
        let row = (id & u64::from(u32::MAX)) as u32;
        if !self.live(row, now) || self.sessions.id(row) != id {
            return false;
        }
        self.close(row, Closed::Flushed, now, seen);
        true
    }
}

/// Pages through rows `cursor..end`.
fn list<T>(cursor: u32, limit: usize, end: u32, view: impl Fn(u32) -> Option<T>) -> (Vec<T>, Option<u32>) {
    let mut listed = Vec::new();
    let mut row = cursor;
    while row < end && row - cursor < LISTED && listed.len() < limit {
        listed.extend(view(row));
        row += 1;
    }
    (listed, (row < end).then_some(row))
}
