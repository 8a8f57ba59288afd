//! What goes towards the inside: which bytes are sent, acknowledged, lost, and may be sent next.
//!
//! The bytes themselves stay in the host socket's receive queue until the inside has acknowledged
//! them; this file only counts. In order of sequence numbers:
//!
//! ```text
//! base           una            nxt            max            (una + window)
//!  | acknowledged | in flight    | sent, to be  | never sent   |
//!  | to discard   |              | sent again   |
//! ```
//!
//! `nxt` is `max` unless a retransmission timeout has put it back to `una`.

use super::rtt::Rtt;
use super::serial::{ahead, before, later};
use crate::flow::{Segment, Time};

/// The most that may be in flight, in bytes, whatever the inside's window.
pub const IN_FLIGHT: u32 = 4 << 20;
/// Room that is not worth a packet while others are on their way, in bytes: a super-frame costs
/// hardly more than a small packet, so small ones wait for more acknowledgements.
const WORTH_IT: u32 = 32 * 1024;
/// Duplicate acknowledgements that mean a loss (RFC 5681 §3.2).
const DUPLICATES: u8 = 3;

/// What an acknowledgement meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acked {
    /// Something new.
    New,
    /// Nothing new.
    Old,
    /// It acknowledges what was never sent.
    Unsent,
}

/// The sending half.
#[derive(Clone, Debug)]
pub struct Sender {
    base: u32,
    una: u32,
    nxt: u32,
    max: u32,
    /// Sequence number of the FIN, once the host socket has come to its end.
    end: Option<u32>,
    /// The inside's window in bytes, and from which segment it is (RFC 9293 §3.10.7.4).
    window: u32,
    window_from: (u32, u32),
    shift: u8,
    mss: u16,
    /// How much may be in flight after a loss (RFC 5681).
    congestion: u32,
    duplicates: u8,
    /// In fast recovery until this is acknowledged (RFC 6582).
    recover: Option<u32>,
    resend: bool,
    rtt: Rtt,
    timed: Option<(u32, Time)>,
    retries: u32,
    due: Option<Time>,
}

impl Sender {
    /// A sender whose SYN has the sequence number `initial`.
    pub fn new(initial: u32) -> Sender {
        Sender {
            base: initial.wrapping_add(1),
            una: initial,
            nxt: initial,
            max: initial,
            end: None,
            window: 0,
            window_from: (0, 0),
            shift: 0,
            mss: super::MSS_DEFAULT,
            congestion: IN_FLIGHT,
            duplicates: 0,
            recover: None,
            resend: false,
            rtt: Rtt::new(),
            timed: None,
            retries: 0,
            due: None,
        }
    }

    /// Takes the options of the inside's SYN, and the window in it, which is never scaled.
    pub fn options(&mut self, mss: Option<u16>, shift: Option<u8>, segment: &Segment) {
        self.mss = mss.unwrap_or(super::MSS_DEFAULT).max(super::MSS_LEAST);
        self.shift = shift.unwrap_or(0).min(14);
        self.window = u32::from(segment.window);
        self.window_from = (segment.sequence, 0);
    }

    /// Bytes of payload in one packet.
    pub fn mss(&self) -> u16 {
        self.mss
    }

    /// The path to the inside takes less: what is in flight is sent again in smaller packets.
    pub fn shrink(&mut self, mss: u16) {
        let mss = mss.max(super::MSS_LEAST);
        if mss < self.mss {
            self.mss = mss;
            self.rewind();
        }
    }

    /// The sequence number of a segment without data: behind all that was sent.
    pub fn sequence(&self) -> u32 {
        self.max
    }

    /// The sequence number of a probe: one that the inside has, so that it answers.
    pub fn probe(&self) -> u32 {
        self.una.wrapping_sub(1)
    }

    /// The initial sequence number is sent, for the first time or again.
    pub fn syn_sent(&mut self, now: Time) {
        if self.max == self.una {
            self.nxt = self.una.wrapping_add(1);
            self.max = self.nxt;
            self.timed = Some((self.max, now));
        } else {
            self.timed = None;
        }
        self.due = Some(now + self.rtt.timeout());
    }

    /// The initial sequence number.
    pub fn initial(&self) -> u32 {
        self.base.wrapping_sub(1)
    }

    /// Whether something sent is not acknowledged.
    pub fn outstanding(&self) -> bool {
        self.max != self.una
    }

    /// Whether the inside has acknowledged the FIN.
    pub fn finished(&self) -> bool {
        self.end.is_some_and(|end| before(end, self.una))
    }

    /// Whether the host socket has come to its end.
    pub fn has_end(&self) -> bool {
        self.end.is_some()
    }

    /// What the inside acknowledges, and its window. `bare`: the segment has nothing else in it, so it
    /// may be a duplicate acknowledgement.
    pub fn acknowledged(&mut self, segment: &Segment, bare: bool, now: Time) -> Acked {
        let ack = segment.acknowledgement;
        if before(self.max, ack) {
            return Acked::Unsent;
        }
        if before(ack, self.una) {
            return Acked::Old;
        }
        let window = u32::from(segment.window) << self.shift;
        let same = window == self.window;
        let (sequence, acked) = self.window_from;
        if before(sequence, segment.sequence)
            || (sequence == segment.sequence && !before(ack, acked))
            || ack != self.una
        {
            self.window = window;
            self.window_from = (segment.sequence, ack);
        }
        if ack == self.una {
            if bare && same && self.outstanding() {
                self.duplicate();
            }
            return Acked::Old;
        }
        self.progress(ack, now);
        Acked::New
    }

    fn progress(&mut self, ack: u32, now: Time) {
        let fresh = ack.wrapping_sub(self.una);
        self.una = ack;
        self.nxt = later(self.nxt, ack);
        self.duplicates = 0;
        self.retries = 0;
        self.rtt.progress();
        self.congestion = self.congestion.saturating_add(fresh).min(IN_FLIGHT);
        if let Some((sequence, sent)) = self.timed
            && !before(ack, sequence)
        {
            self.rtt.measured(now.since(sent));
            self.timed = None;
        }
        match self.recover {
            // Another hole in the same flight (RFC 6582 §3.2).
            Some(recover) if before(ack, recover) => self.resend = true,
            _ => {
                self.recover = None;
                self.resend = false;
            }
        }
        self.due = if self.outstanding() { Some(now + self.rtt.timeout()) } else { None };
    }

    fn duplicate(&mut self) {
        self.duplicates = self.duplicates.saturating_add(1);
        if self.duplicates == DUPLICATES && self.recover.is_none() {
            self.recover = Some(self.max);
            self.resend = true;
            self.timed = None;
            let flight = self.max.wrapping_sub(self.una);
            self.congestion = (flight / 2).max(2 * u32::from(self.mss));
        }
    }

    /// The end of data that exists: the FIN, or `max`.
    fn data_end(&self) -> u32 {
        match self.end {
            Some(end) if before(end, self.max) => end,
            _ => self.max,
        }
    }

    /// Bytes in the host socket's queue that the inside has.
    pub fn to_discard(&self) -> u32 {
        let end = match self.end {
            Some(end) if before(end, self.una) => end,
            _ => self.una,
        };
        ahead(self.base, end)
    }

    /// So many bytes are gone from the front of the host socket's queue.
    pub fn discarded(&mut self, count: u32) {
        self.base = self.base.wrapping_add(count);
    }

    /// Which one segment a fast retransmission is to send: offset in the queue and length; (_, 0) is
    /// the FIN.
    pub fn to_resend(&self) -> Option<(u32, u32)> {
        if !self.resend || !self.outstanding() {
            return None;
        }
        let length = ahead(self.una, self.data_end()).min(u32::from(self.mss));
        Some((ahead(self.base, self.una), length))
    }

    /// The segment of [`Sender::to_resend`] is sent; its sequence number.
    pub fn resent(&mut self, now: Time) -> u32 {
        self.resend = false;
        self.timed = None;
        self.due = Some(now + self.rtt.timeout());
        self.una
    }

    /// Whether the next bytes were sent before, so that they are there to be read.
    pub fn sends_again(&self) -> bool {
        before(self.nxt, self.data_end())
    }

    /// Where in the host socket's queue the next bytes are, and how many the inside may be sent:
    /// at least 1, at most `most`. `None` if none, or too few to be worth a packet.
    pub fn room(&self, most: u32) -> Option<(u32, u32)> {
        if self.end.is_some_and(|end| !before(self.nxt, end)) {
            return None;
        }
        let flight = self.nxt.wrapping_sub(self.una);
        let window = self.window.min(self.congestion);
        let room = window.saturating_sub(flight);
        let worth = (window / 4).min(WORTH_IT).max(u32::from(self.mss)).min(most);
        if room == 0 || (room < worth && flight > 0) {
            return None;
        }
        let mut count = room.min(most);
        if let Some(end) = self.end {
            count = count.min(ahead(self.nxt, end));
        }
        Some((ahead(self.base, self.nxt), count))
    }

    /// Whether the inside takes nothing at the moment.
    pub fn is_shut(&self) -> bool {
        self.window == 0
    }

    /// So many bytes of [`Sender::room`] are sent; the sequence number of the first.
    pub fn sent(&mut self, count: u32, now: Time) -> u32 {
        let first = self.nxt;
        self.nxt = first.wrapping_add(count);
        if before(self.max, self.nxt) {
            self.max = self.nxt;
            if self.timed.is_none() && self.recover.is_none() && self.retries == 0 {
                self.timed = Some((self.max, now));
            }
        }
        if self.due.is_none() {
            self.due = Some(now + self.rtt.timeout());
        }
        first
    }

    /// The host socket has come to its end, behind all that was sent.
    pub fn ends(&mut self) {
        if self.end.is_none() {
            self.end = Some(self.max);
        }
    }

    /// Whether the FIN is to be sent.
    pub fn fin_due(&self) -> bool {
        self.end == Some(self.nxt)
    }

    /// What is in flight counts as lost: it is sent again from the first byte.
    fn rewind(&mut self) {
        if self.una != self.initial() {
            self.nxt = self.una;
        }
        self.resend = false;
        self.recover = None;
        self.duplicates = 0;
        self.timed = None;
    }

    /// When to send again what is not acknowledged.
    pub fn due(&self) -> Option<Time> {
        self.due
    }

    /// The time of [`Sender::due`] has come. Returns how often it has come since the last
    /// acknowledgement.
    pub fn timed_out(&mut self, now: Time) -> u32 {
        self.retries += 1;
        self.rtt.back_off();
        self.rewind();
        self.congestion = u32::from(self.mss);
        self.due = Some(now + self.rtt.timeout());
        self.retries
    }
}
