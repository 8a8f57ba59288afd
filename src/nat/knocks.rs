//! SYNs in mid-connection: remembered, and without effect until the other end accepts one.
//!
//! A client that has rebooted, or whose server has, may use its old port for a new connection. Its
//! SYN looks like any forged one. What tells them apart is a SYN+ACK (or a RST) from the other side
//! that acknowledges it; until then the session stays as it is (RFC 5961 §4). Such SYNs are rare, so
//! the latest few are kept aside and not in the sessions' rows. One that is pushed out by others
//! comes again when its sender repeats it.

use super::session::Way;
use crate::flow::Segment;
use std::collections::VecDeque;

/// How many are kept; the oldest gives way.
const MOST: usize = 256;

/// A SYN in mid-connection.
#[derive(Clone, Copy, Debug)]
struct Knock {
    row: u32,
    generation: u32,
    way: Way,
    syn: Segment,
}

/// The latest of them, oldest first.
#[derive(Default, Debug)]
pub(super) struct Knocks {
    latest: VecDeque<Knock>,
    /// How many were pushed out by others.
    pub lost: u64,
}

impl Knocks {
    /// Remembers the SYN of one side of a session, instead of that side's former one.
    pub(super) fn remember(&mut self, row: u32, generation: u32, way: Way, syn: Segment) {
        self.forget(row, way);
        if self.latest.len() == MOST {
            self.latest.pop_front();
            self.lost += 1;
        }
        self.latest.push_back(Knock { row, generation, way, syn });
    }

    /// The SYN that went `way` has been accepted: what repeats it says nothing new.
    pub(super) fn forget(&mut self, row: u32, way: Way) {
        self.latest.retain(|knock| (knock.row, knock.way) != (row, way));
    }

    /// The SYN that went `way` and that `acknowledgement` accepts, with the data in it or not.
    pub(super) fn find(&self, row: u32, generation: u32, way: Way, acknowledgement: u32) -> Option<Segment> {
        let knock = self.latest.iter().find(|knock| (knock.row, knock.way) == (row, way))?;
        let accepted = acknowledgement.wrapping_sub(knock.syn.sequence.wrapping_add(1));
        (knock.generation == generation && accepted <= u32::from(knock.syn.payload)).then_some(knock.syn)
    }

    /// Whether an ICMP error can be about one of them.
    pub(super) fn began_at(&self, row: u32, generation: u32, way: Way, sequence: u32) -> bool {
        self.latest.iter().any(|knock| {
            (knock.row, knock.generation, knock.way) == (row, generation, way)
                && knock.syn.sequence == sequence
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_gives_way_to_the_latest_and_is_counted() {
        let mut knocks = Knocks::default();
        let syn = Segment { sequence: 7, ..Segment::default() };
        (0..MOST as u32 + 3).for_each(|row| knocks.remember(row, 0, Way::Out, syn));
        assert_eq!((knocks.latest.len(), knocks.lost), (MOST, 3));
        assert_eq!(knocks.find(2, 0, Way::Out, 8), None);
        assert_eq!(knocks.find(3, 0, Way::Out, 8), Some(syn));
    }
}
