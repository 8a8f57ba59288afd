//! What comes from the inside: which bytes are next, and how many more it may send.
//!
//! Bytes are acknowledged when they are ours to deliver: the host socket has taken them, or they are
//! kept for it. What is kept counts against the window; so while the host socket takes everything the
//! window stays open, and when it does not the inside is stopped by a window of zero and not by
//! retransmissions. Windows of all connections together promise more than may be kept in all; a connection
//! that finds no room for its bytes is told a window of zero as well, until its host socket takes more.

use super::serial::{ahead, before, later};
use crate::flow::Segment;

/// The window at the start, in bytes.
const START: u32 = 256 * 1024;
/// The smallest window that an unwilling host socket brings about, in bytes; and in segments, since a
/// sender with room for a single one waits for each acknowledgement.
const LEAST: u32 = 64 * 1024;
const LEAST_SEGMENTS: u32 = 4;
/// So much must the host socket have taken at a stretch before the window grows, by a quarter of it.
const GROWS_AFTER: u32 = 16 * 1024;
/// The window scale that we offer.
pub const SHIFT: u8 = 7;

/// The receiving half.
#[derive(Clone, Debug)]
pub struct Receiver {
    initial: u32,
    nxt: u32,
    /// What the inside was last told of `nxt`.
    told: u32,
    /// The right edge of the window as the inside knows it. Moves left (RFC 9293 §3.8.6) only where
    /// bytes within it had to be thrown away, as Linux does it.
    edge: u32,
    /// How much may be kept.
    limit: u32,
    most: u32,
    least: u32,
    /// How much all others leave to this one.
    share: u32,
    /// How much is kept.
    kept: u32,
    /// How much more may be kept in all; without limit while the host socket takes everything.
    room: u32,
    /// How much the host socket took since the window grew last.
    taken: u32,
    shift: u8,
    /// Where a FIN is that came before bytes in front of it.
    fin: Option<u32>,
    finished: bool,
}

/// What of a segment is new and within the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct New {
    /// Bytes at the front that were received before.
    pub skip: usize,
    /// Bytes behind them that are new.
    pub length: usize,
    /// A FIN follows directly behind them.
    pub fin: bool,
    /// Others are missing before them.
    pub early: bool,
}

impl Receiver {
    /// A receiver of the connection that the SYN `initial` opens, which keeps at most `most` bytes.
    pub fn new(initial: u32, most: u32, scaled: bool) -> Receiver {
        let most = if scaled { most } else { most.min(65535) };
        let nxt = initial.wrapping_add(1);
        let limit = START.min(most);
        Receiver {
            initial,
            nxt,
            told: nxt,
            // A SYN's window is not scaled.
            edge: nxt.wrapping_add(limit.min(65535)),
            limit,
            most,
            least: LEAST,
            share: most,
            kept: 0,
            room: u32::MAX,
            taken: 0,
            shift: if scaled { SHIFT } else { 0 },
            fin: None,
            finished: false,
        }
    }

    /// The same, whose segments have `mss` bytes.
    pub fn of_segments(self, mss: u16) -> Receiver {
        Receiver { least: (LEAST_SEGMENTS * u32::from(mss)).max(LEAST).min(self.most), ..self }
    }

    /// The sequence number of the inside's SYN.
    pub fn initial(&self) -> u32 {
        self.initial
    }

    /// The next sequence number: what to acknowledge.
    pub fn next(&self) -> u32 {
        self.nxt
    }

    /// Bytes that are not acknowledged yet.
    pub fn untold(&self) -> u32 {
        self.nxt.wrapping_sub(self.told)
    }

    /// Whether the inside's FIN has come, and all before it.
    pub fn finished(&self) -> bool {
        self.finished
    }

    /// Bytes that are kept.
    pub fn kept(&self) -> u32 {
        self.kept
    }

    /// Whether `sequence` is within the window.
    pub fn within(&self, sequence: u32) -> bool {
        !before(sequence, self.nxt) && before(sequence, self.edge)
    }

    /// Notes where a FIN is.
    pub fn note_fin(&mut self, segment: &Segment) {
        let at = segment.sequence.wrapping_add(u32::from(segment.payload));
        if !before(at, self.nxt) && !before(self.edge, at) {
            self.fin = Some(at);
        }
    }

    /// What of a segment is to be taken.
    pub fn new_part(&self, segment: &Segment) -> New {
        let (start, length) = (segment.sequence, u32::from(segment.payload));
        if self.finished || before(start.wrapping_add(length), self.nxt) || before(self.edge, start) {
            return New::default();
        }
        let early = before(self.nxt, start);
        let first = later(self.nxt, start);
        let skip = first.wrapping_sub(start);
        let fresh = (length - skip).min(ahead(first, self.edge));
        let fin = !early && self.fin == Some(first.wrapping_add(fresh));
        New { skip: skip as usize, length: fresh as usize, fin, early }
    }

    /// What of a segment was there before: first and next sequence number.
    pub fn known_part(&self, segment: &Segment) -> Option<(u32, u32)> {
        let (start, end) = (segment.sequence, segment.sequence.wrapping_add(u32::from(segment.payload)));
        let known = if before(end, self.nxt) { end } else { self.nxt };
        (before(start, known) && segment.payload > 0).then_some((start, known))
    }

    /// Of what [`Receiver::new_part`] said, `written` bytes went into the host socket and `kept` are
    /// kept. `fin`: all were taken, and the FIN behind them.
    pub fn took(&mut self, written: u32, kept: u32, fin: bool) {
        let all = written + kept + u32::from(fin);
        self.nxt = self.nxt.wrapping_add(all);
        if before(self.edge, self.nxt) {
            self.edge = self.nxt;
        }
        self.kept += kept;
        self.finished |= fin;
        self.taken += written;
        if kept > 0 {
            self.limit = (self.limit / 2).max(self.least).min(self.share);
            self.taken = 0;
        } else if self.taken >= GROWS_AFTER {
            self.limit = (self.limit + self.taken / 4).min(self.share);
            self.taken = 0;
        }
    }

    /// There is so much for this connection besides what it keeps, in bytes.
    pub fn allow(&mut self, share: u32) {
        self.share = share.saturating_add(self.kept).min(self.most);
        self.limit = self.limit.min(self.share);
    }

    /// So many of the kept bytes went into the host socket. Whether the inside should be told at once.
    pub fn drained(&mut self, count: u32) -> bool {
        self.kept = self.kept.saturating_sub(count);
        self.has_opened()
    }

    /// Whether the window is so much larger than the inside knows that it should be told.
    pub fn has_opened(&self) -> bool {
        let gain = self.open().saturating_sub(ahead(self.nxt, self.edge));
        gain > 0 && gain >= self.limit / 4
    }

    /// So many more bytes may be kept in all.
    pub fn room(&mut self, room: u32) {
        // A window field says it in such steps; rounding up would promise too much.
        self.room = if room == u32::MAX { room } else { room >> self.shift << self.shift };
    }

    /// Whether there is a limit to that.
    pub fn is_short(&self) -> bool {
        self.room != u32::MAX
    }

    /// There was no memory for bytes within the window: it is closed, and small when it opens again.
    pub fn starve(&mut self) {
        self.limit = self.least.min(self.share);
        self.room = 0;
        self.edge = self.nxt;
    }

    /// How many bytes may come behind those that are acknowledged.
    fn open(&self) -> u32 {
        self.limit.saturating_sub(self.kept).min(self.room)
    }

    /// The window field of the next segment, which acknowledges all.
    pub fn offer(&mut self) -> u16 {
        self.told = self.nxt;
        let wanted = self.nxt.wrapping_add(self.open());
        if before(self.edge, wanted) {
            self.edge = wanted;
        }
        // Rounded up, since down would move the edge to the left.
        let field = ahead(self.nxt, self.edge).div_ceil(1 << self.shift);
        let field = u16::try_from(field).unwrap_or(u16::MAX);
        let edge = self.nxt.wrapping_add(u32::from(field) << self.shift);
        if before(self.edge, edge) {
            self.edge = edge;
        }
        field
    }

    /// The window field of a SYN, which is not scaled.
    pub fn first_offer(&self) -> u16 {
        u16::try_from(self.limit).unwrap_or(u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unwilling_socket_leaves_room_for_several_segments() {
        for (mss, most, left) in
            [(1460, 1 << 20, LEAST), (65_480, 1 << 20, 4 * 65_480), (65_480, 100_000, 100_000)]
        {
            let mut receiver = Receiver::new(0, most, true).of_segments(mss);
            (0..10).for_each(|_| receiver.took(0, 1, false));
            assert_eq!(receiver.limit, left);
        }
    }

    #[test]
    fn small_segments_make_the_window_grow_too() {
        let mut receiver = Receiver::new(0, 1 << 20, true);
        (0..4096).for_each(|_| receiver.took(1460, 0, false));
        assert_eq!(receiver.limit, 1 << 20);
    }

    #[test]
    fn what_was_there_is_named_and_the_edge_stays() {
        let mut receiver = Receiver::new(u32::MAX - 4, 1 << 20, true);
        let start = u32::MAX - 3;
        receiver.took(10, 0, false);
        let segment = |sequence: u32, payload| Segment { sequence, payload, ..Segment::default() };
        assert_eq!(receiver.known_part(&segment(start, 4)), Some((start, 0)));
        assert_eq!(receiver.known_part(&segment(start, 100)), Some((start, 6)));
        assert_eq!(receiver.known_part(&segment(6, 100)), None);
        assert_eq!(receiver.known_part(&segment(start, 0)), None);
        let edge = |receiver: &mut Receiver| {
            let field = receiver.offer();
            receiver.next().wrapping_add(u32::from(field) << SHIFT)
        };
        let before = edge(&mut receiver);
        receiver.allow(32 * 1024);
        assert_eq!(edge(&mut receiver), before, "what was offered stays offered");
        receiver.took(START, 0, false);
        assert_eq!(u32::from(receiver.offer()) << SHIFT, 32 * 1024, "but no more is");
        receiver.allow(1 << 30);
        receiver.took(64 * 1024, 0, false);
        assert!(u32::from(receiver.offer()) << SHIFT > 32 * 1024, "it grows again");
    }
}
