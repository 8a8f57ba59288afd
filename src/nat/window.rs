//! The sequence numbers of a TCP session: what each end has sent, expects and allows.
//!
//! After "Real Stateful TCP Packet Filtering in IP Filter" (van Rooij, 2000), as `nf_conntrack` has
//! it. An end may send what the other end's window allows, and acknowledge what the other end has
//! sent. Both are known here, because every segment between them passes here:
//!
//! ```text
//!                    in: it belongs                 ahead: an overshoot
//!   old │<─────────────────┬──────────────────────>│<───────────────────>│ beyond
//!       │       back       │        width          │        width        │
//!  ─────┴──────────────────┴───────────────────────┴─────────────────────┴──> sequence numbers
//!                          acked: what the receiver expects next
//! ```
//!
//! The window is anchored at what the *receiver* has acknowledged, not at what the sender seems to
//! have sent: a forged segment that happens to hit the window then moves nothing by which later
//! segments of the true sender are judged.
//!
//! Nothing that a TCP may legally send is *beyond*: the bounds take the largest window ever offered
//! (a receiver may take space back, and senders may have missed that), a zero-window probe may lie
//! one byte further, and what is older than the window but not older than the connection may be a
//! duplicate that was long on its way. Who has sent how much is read from the session's byte counts.
//!
//! Numbers are kept only if both SYNs were seen, for without them the scale of the windows is not
//! known; such a session is not judged at all (RFC 6092 REC-32).

use super::session::Way;
use crate::flow::Segment;

/// How far behind the window an acknowledgement or a retransmission may be and still belong: as
/// `nf_conntrack`, the largest window without scaling and a little.
const BACK: u32 = 66_000;
/// The scale of a side whose SYN had no such option, or whose peer's had none.
const UNSCALED: u8 = 15;
/// The largest shift (RFC 7323 §2.3).
const STEEPEST: u8 = 14;
/// Beyond so many bytes sent, the age of a SYN no longer tells whether it opened the session.
const YOUNG: u64 = 1 << 26;

/// `[side]`: 0 is the inside host, 1 the remote, as in `Way as usize` of what they send. Packed so
/// that a session fits a cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, packed(2))]
pub(super) struct Windows {
    /// The number after the last that the side has sent.
    end: [u32; 2],
    /// What the side expects next: its highest acknowledgement, or what the other's SYN says.
    acked: [u32; 2],
    /// The largest window that the side has offered, before scaling.
    width: [u16; 2],
    /// The shifts of both, four bits each.
    scales: u8,
    /// Bits 0 and 1: the side's SYN is known. Bit 2: all numbers are good.
    known: u8,
}

/// All numbers are good.
const WHOLE: u8 = 4;

/// Where a number lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// Where it should.
    In,
    /// So old that it can only be a late duplicate.
    Old,
    /// One window too far.
    Ahead,
    /// Where no TCP at this end can have sent it.
    Beyond,
}

/// Where a RST lies (RFC 5961 §3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Aim {
    /// At the very number that its receiver expects.
    Exact,
    /// In the window: its receiver answers with a challenge.
    Near,
    /// Its receiver does not look at it.
    Off,
}

/// What a segment adds to its first number. SYN and FIN count one each.
fn span(segment: &Segment, flags: u32) -> u32 {
    segment.sequence.wrapping_add(u32::from(segment.payload)).wrapping_add(flags)
}

/// How far `number` is ahead of `from`; negative if it is behind.
#[inline]
fn ahead(number: u32, from: u32) -> i64 {
    i64::from(number.wrapping_sub(from) as i32)
}

impl Windows {
    #[inline]
    fn scale(&self, side: usize) -> u8 {
        let scale = self.scales >> (4 * side) & 15;
        if scale == UNSCALED { 0 } else { scale }
    }

    fn set_scale(&mut self, side: usize, scale: u8) {
        self.scales = self.scales & !(15 << (4 * side)) | scale << (4 * side);
    }

    /// The largest window that a side has offered, in bytes.
    #[inline]
    fn allowed(&self, side: usize) -> u32 {
        u32::from(self.width[side]) << self.scale(side)
    }

    /// Whether both sides' numbers are known, so that segments can be judged.
    #[inline]
    pub(super) fn whole(&self) -> bool {
        self.known & WHOLE != 0
    }

    /// The handshake and what follows do not fit: judge no more.
    pub(super) fn loosen(&mut self) {
        self.known &= !WHOLE;
    }

    /// Where a segment's sequence numbers lie. `sent`: bytes that each side has sent in all.
    #[inline]
    pub(super) fn sequence(&self, way: Way, segment: &Segment, flags: u32, sent: [u64; 2]) -> Place {
        let (sender, receiver) = (way as usize, 1 - way as usize);
        let lead = ahead(span(segment, flags), self.acked[receiver]);
        let width = i64::from(self.allowed(receiver));
        let back = width.max(i64::from(BACK));
        if (-back..=width + 1).contains(&lead) {
            Place::In
        } else if lead < 0 {
            old(-lead, back, sent[sender])
        } else if lead <= 2 * width + 1 {
            Place::Ahead
        } else {
            Place::Beyond
        }
    }

    /// Where a segment's acknowledgement lies (RFC 5961 §5.2).
    #[inline]
    pub(super) fn acknowledgement(&self, way: Way, segment: &Segment, sent: [u64; 2]) -> Place {
        let (sender, receiver) = (way as usize, 1 - way as usize);
        if ahead(segment.acknowledgement, self.end[receiver]) > 0 {
            return Place::Beyond;
        }
        let behind = -ahead(segment.acknowledgement, self.acked[sender]);
        let back = i64::from(self.allowed(sender).max(BACK));
        if behind <= back { Place::In } else { old(behind, back, sent[receiver]) }
    }

    /// What the inside host expects next: what it has acknowledged, or, if that acknowledgement is
    /// still to come, what follows all that the remote has sent. `None` if that is not known.
    pub(super) fn expected_inside(&self) -> Option<[u32; 2]> {
        self.whole().then(|| [self.acked[Way::Out as usize], self.end[Way::In as usize]])
    }

    /// Where a RST lies. What its receiver expects next is what it has acknowledged, or, if that
    /// acknowledgement is still to come, all that the sender has sent.
    pub(super) fn aim(&self, way: Way, sequence: u32) -> Aim {
        let (sender, receiver) = (way as usize, 1 - way as usize);
        if sequence == self.acked[receiver] || sequence == self.end[sender] {
            return Aim::Exact;
        }
        let lead = ahead(sequence, self.acked[receiver]);
        if (0..=i64::from(self.allowed(receiver)) + 1).contains(&lead) { Aim::Near } else { Aim::Off }
    }

    /// Learns from a segment that belongs.
    #[inline]
    pub(super) fn learn(&mut self, way: Way, segment: &Segment, flags: u32, syn: bool) {
        let side = way as usize;
        let end = span(segment, flags);
        if ahead(end, self.end[side]) > 0 {
            self.end[side] = end;
        }
        if ahead(segment.acknowledgement, self.acked[side]) > 0 {
            self.acked[side] = segment.acknowledgement;
        }
        if !syn && segment.window > self.width[side] {
            self.width[side] = segment.window;
        }
    }

    /// Learns that a side has sent more than it may: the other side may take it all the same.
    pub(super) fn overshot(&mut self, way: Way, segment: &Segment) {
        let (side, end) = (way as usize, span(segment, 0));
        if ahead(end, self.end[side]) > 0 {
            self.end[side] = end;
        }
    }

    /// Whether this SYN is the one that is known of this side.
    pub(super) fn repeats(&self, way: Way, segment: &Segment) -> bool {
        self.knows(way) && segment.sequence.wrapping_add(1) == self.acked[1 - way as usize]
    }

    /// Whether the side that sends this way has begun.
    pub(super) fn knows(&self, way: Way) -> bool {
        self.known & 1 << way as u8 != 0
    }

    /// A side begins with this SYN.
    pub(super) fn begin(&mut self, way: Way, segment: &Segment) {
        let (side, other) = (way as usize, 1 - way as usize);
        self.end[side] = span(segment, 1);
        self.acked[other] = segment.sequence.wrapping_add(1);
        self.width[side] = segment.window;
        self.set_scale(side, segment.scale.map_or(UNSCALED, |scale| scale.min(STEEPEST)));
        self.known = self.known & !WHOLE | 1 << side;
    }

    /// Whether this acknowledges the SYN of the side that it goes to, with the data in it or not.
    pub(super) fn answers(&self, way: Way, segment: &Segment) -> bool {
        let (side, other) = (way as usize, 1 - way as usize);
        self.knows(way.back())
            && ahead(segment.acknowledgement, self.acked[side]) >= 0
            && ahead(segment.acknowledgement, self.end[other]) <= 0
    }

    /// A side answers the other's SYN with a SYN of its own. From here on both are known, unless it
    /// answers a SYN that is not known here, or is a second answer that disagrees about scaling.
    pub(super) fn answer(&mut self, way: Way, segment: &Segment) {
        let (side, other) = (way as usize, 1 - way as usize);
        let (known, again) = (self.answers(way, segment), self.whole());
        let asked = self.scales >> (4 * other) & 15 != UNSCALED;
        self.begin(way, segment);
        if !known || again && asked != segment.scale.is_some() {
            return;
        }
        self.acked[side] = segment.acknowledgement;
        if !asked || segment.scale.is_none() {
            self.scales = UNSCALED | UNSCALED << 4;
        }
        // The windows of SYNs are never scaled (RFC 7323 §2.2).
        self.width[side] = self.width[side].div_ceil(1 << self.scale(side));
        if !again {
            self.width[other] = self.width[other].div_ceil(1 << self.scale(other));
        }
        self.known |= WHOLE;
    }

    /// Whether a SYN in mid-connection can be the one that opened it, late.
    pub(super) fn opened_with(&self, way: Way, segment: &Segment, sent: [u64; 2]) -> bool {
        match self.sequence(way, segment, 1, sent) {
            Place::In => self.whole(),
            Place::Old => self.whole() && sent[way as usize] < YOUNG,
            Place::Ahead | Place::Beyond => false,
        }
    }

    /// The same of a SYN after the end: a new connection on the old ports begins further on (RFC 9293
    /// §3.4.3), though not every TCP sees to that.
    pub(super) fn repeats_the_past(&self, way: Way, segment: &Segment, sent: [u64; 2]) -> bool {
        ahead(segment.sequence, self.end[way as usize]) < 0 && self.opened_with(way, segment, sent)
    }

    /// Whether the side that sends this way has sent a segment that begins here, so far as known
    /// (RFC 5927 §4.1: an ICMP error about one that it has not sent is forged).
    pub(super) fn has_sent(&self, way: Way, sequence: u32) -> bool {
        let (side, other) = (way as usize, 1 - way as usize);
        if !self.knows(way) {
            return true;
        }
        let back = i64::from(self.allowed(other).max(BACK));
        ahead(sequence, self.end[side]) <= 0 && ahead(sequence, self.acked[other]) >= -back
    }
}

/// What is `behind` by more than `back`, of a side that has sent `sent` bytes in all.
fn old(behind: i64, back: i64, sent: u64) -> Place {
    let oldest = i64::try_from(sent).unwrap_or(i64::MAX).saturating_add(back);
    if behind <= oldest { Place::Old } else { Place::Beyond }
}
