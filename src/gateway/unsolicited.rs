//! SYNs from outside that nobody asked for wait in silence (RFC 5382 REQ-4).
//!
//! Two hosts may open a connection to each other at the same moment, each behind its own NAT. The
//! SYN that arrives first finds nothing, and an answer at once would end the attempt. So for six
//! seconds nothing is said. If the inside has opened the connection by then, the SYN is forgotten;
//! else its sender is told that the port is unreachable. Whether there was no mapping or only a
//! filter does not show in the answer, so it tells a scanner nothing.

use super::errors::Reason;
use super::{Answer, Gateway, OUTSIDE, Outbox};
use crate::flow::{Flow, Summary, Time};
use crate::nat::Refusal;
use crate::wire::{Buffer, Packet};
use std::collections::{HashSet, VecDeque};
use std::time::Duration;

/// The least time without an answer that RFC 5382 REQ-4 allows.
const SILENCE: Duration = Duration::from_secs(6);
/// SYNs that wait at most. While so many do, further ones are dropped without a word.
const MOST: usize = 1024;
/// Longest SYN kept, in bytes: IP and TCP headers with all options.
const KEPT: usize = 120;

/// The SYNs that wait, oldest first.
#[derive(Debug, Default)]
pub struct Unsolicited {
    waiting: VecDeque<(Time, Flow, Buffer)>,
    /// The flows of those that wait: a SYN is often sent again.
    flows: HashSet<Flow>,
}

impl Unsolicited {
    /// Keeps the packet. False if too many wait.
    fn keep(&mut self, flow: Flow, packet: &Buffer, now: Time) -> bool {
        if self.flows.contains(&flow) {
            return true;
        }
        if self.waiting.len() >= MOST {
            return false;
        }
        self.flows.insert(flow);
        self.waiting.push_back((now + SILENCE, flow, Buffer::from_bytes(packet.bytes())));
        true
    }

    /// The next one whose time has come.
    fn due(&mut self, now: Time) -> Option<Buffer> {
        let (when, ..) = self.waiting.front()?;
        if *when > now {
            return None;
        }
        let (_, flow, packet) = self.waiting.pop_front()?;
        self.flows.remove(&flow);
        Some(packet)
    }

    /// When the next one's time comes.
    pub fn next_deadline(&self) -> Option<Time> {
        self.waiting.front().map(|(when, ..)| *when)
    }
}

impl Gateway {
    /// Remembers a SYN that the translator refused, if it came by the wire to a port of ours.
    pub(super) fn note_unsolicited(&mut self, refusal: Refusal, packet: &Packet, buffer: &Buffer, now: Time) {
        let Summary::Data(data) = &packet.summary else { return };
        let refused = matches!(refusal, Refusal::NoMapping | Refusal::Filtered);
        let whole = packet.fragment.is_none() && buffer.bytes().len() <= KEPT;
        let ours =
            refused && whole && data.tcp.opens() && self.nat.holds(data.flow.protocol, data.flow.destination);
        if ours && !self.unsolicited.keep(data.flow, buffer, now) {
            self.counters.answered(Answer::RateLimited);
        }
    }

    /// Answers those whose silence is over, unless the inside has opened the connection meanwhile.
    pub(super) fn answer_unsolicited(&mut self, now: Time, out: &mut Outbox) {
        while let Some(mut buffer) = self.unsolicited.due(now) {
            let Ok(packet) = Packet::read(&mut buffer, 0) else { continue };
            let Summary::Data(data) = &packet.summary else { continue };
            let refused = self.nat.would_admit(data, true, now);
            let ours = self.nat.holds(data.flow.protocol, data.flow.destination);
            if ours && matches!(refused, Err(Refusal::NoMapping | Refusal::Filtered)) {
                self.complain(OUTSIDE, Reason::PortUnreachable, &packet, &buffer, now, out);
            }
        }
    }
}
