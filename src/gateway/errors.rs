//! What the gateway says when it cannot pass a packet: ICMP errors, where they are due, at a
//! limited rate (RFC 1812 §4.3.2).

use super::{Answer, Fate, Gateway, INSIDE, Outbox};
use crate::flow::{LinkId, Summary, Time};
use crate::nat::Refusal;
use crate::wire::{Buffer, Packet, craft};
use std::net::IpAddr;

/// Why a packet cannot pass, in ICMP's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// 11/0.
    TimeExceeded,
    /// 3/4 with the MTU of the next link (RFC 1191).
    TooBig(u16),
    /// 3/3.
    PortUnreachable,
    /// 3/1.
    HostUnreachable,
    /// 3/13: communication administratively prohibited (RFC 5508 REQ-8).
    Prohibited,
}

impl Reason {
    /// What a refusal of the translator is answered with, to a sender inside; `None` is silence.
    pub(super) fn of_refusal(refusal: Refusal) -> Option<Reason> {
        match refusal {
            Refusal::PortsExhausted
            | Refusal::SessionLimit
            | Refusal::HostSessionLimit
            | Refusal::HostMappingLimit
            | Refusal::MappingSessionLimit
            | Refusal::HairpinOff
            | Refusal::HostAccessOff
            | Refusal::ProtocolTaken => Some(Reason::Prohibited),
            Refusal::NoMapping
            | Refusal::Filtered
            | Refusal::NoSession
            | Refusal::BadFlags
            | Refusal::ErrorWithoutSession
            | Refusal::ErrorMisaddressed
            | Refusal::UnsolicitedQuery
            | Refusal::SourceIsOurs => None,
        }
    }

    /// ICMP type, code and the 32 bits behind the checksum.
    fn icmp(self) -> (u8, u8, u32) {
        match self {
            Reason::TimeExceeded => (11, 0, 0),
            Reason::TooBig(mtu) => (3, 4, u32::from(mtu)),
            Reason::PortUnreachable => (3, 3, 0),
            Reason::HostUnreachable => (3, 1, 0),
            Reason::Prohibited => (3, 13, 0),
        }
    }

    fn answer(self) -> Answer {
        match self {
            Reason::TimeExceeded => Answer::TimeExceeded,
            Reason::TooBig(_) => Answer::FragmentationNeeded,
            Reason::PortUnreachable | Reason::HostUnreachable | Reason::Prohibited => Answer::Unreachable,
        }
    }
}

impl Gateway {
    /// Tells the sender of `packet`, which came in by `from` and stands in `buffer` as it was
    /// sent, why it does not pass. Says nothing where RFC 1812 §4.3.2.7 forbids it: about ICMP
    /// errors and other ICMP that is no query, and about later fragments.
    pub(super) fn complain(
        &mut self,
        from: LinkId,
        reason: Reason,
        packet: &Packet,
        buffer: &Buffer,
        now: Time,
        out: &mut Outbox,
    ) {
        let about_error = matches!(packet.summary, Summary::Error(_));
        let later_fragment = packet.fragment.is_some_and(|fragment| fragment.offset > 0);
        let about_answer = packet.icmp.is_some_and(|(kind, _)| !matches!(kind, 0 | 8 | 13 | 14));
        if about_error || later_fragment || about_answer {
            return;
        }
        let to = packet.summary.source();
        // An error leaves with the address of the interface it leaves by (RFC 1812 §4.3.2.4).
        let source = match (from, to) {
            (INSIDE, IpAddr::V4(to)) => self.address_for(to).map(IpAddr::V4),
            _ => Some(packet.summary.destination()),
        };
        let (Some(IpAddr::V4(source)), true) = (source, self.errors.take(now)) else {
            self.counters.answered(Answer::RateLimited);
            return;
        };
        let (kind, code, rest) = reason.icmp();
        let Some(error) = craft::icmp_error(source, kind, code, rest, buffer.bytes()) else { return };
        self.counters.answered(reason.answer());
        if from == INSIDE {
            self.answer_inside(to, error, now, out);
        } else {
            out.push(from, error);
        }
    }

    /// Sends an IP packet of our own to an inside host.
    pub(super) fn answer_inside(&mut self, to: IpAddr, mut packet: Buffer, now: Time, out: &mut Outbox) {
        if self.to_inside(to, &mut packet, now, out) == Fate::Pass(INSIDE) {
            out.push(INSIDE, packet);
        }
    }
}
