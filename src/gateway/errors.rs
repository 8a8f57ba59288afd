//! What the gateway says when it cannot pass a packet: ICMP errors, where they are due, at a
//! limited rate (RFC 1812 §4.3.2, RFC 4443 §2.4).

use super::neighbors::Held;
use super::{Answer, Gateway, HOST, INSIDE, OUTSIDE, Outbox};
use crate::flow::{LinkId, Time};
use crate::nat::{Decision, Exit, Observer, Refusal};
use crate::wire::craft::{self, IcmpError};
use crate::wire::{Buffer, Packet};
use std::net::IpAddr;

/// Why a packet cannot pass, in ICMP's words: type and code of IPv4, and of IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// 11/0, and 3/0.
    TimeExceeded,
    /// 3/4, and 2/0, with the MTU of the next link (RFC 1191, RFC 8201).
    TooBig(u16),
    /// 3/0, and 1/0.
    NoRoute,
    /// 3/1, and 1/3.
    HostUnreachable,
    /// 3/3, and 1/4.
    PortUnreachable,
    /// 3/13, and 1/1: communication administratively prohibited (RFC 5508 REQ-8).
    Prohibited,
    /// 12/0, and 4/0: the header is wrong at this byte.
    ParameterProblem(u8),
}

/// What an inside host is told when ports or a limit keep it from opening a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RefusalAnswer {
    /// 3/13, which ends the attempt at once (RFC 5508 REQ-8).
    #[default]
    Prohibited,
    /// 3/1, a soft error: a TCP tries again (RFC 6888 REQ-11).
    HostUnreachable,
    /// Nothing.
    Silence,
}

impl RefusalAnswer {
    fn reason(self) -> Option<Reason> {
        match self {
            RefusalAnswer::Prohibited => Some(Reason::Prohibited),
            RefusalAnswer::HostUnreachable => Some(Reason::HostUnreachable),
            RefusalAnswer::Silence => None,
        }
    }
}

impl Reason {
    /// What a refusal of the translator is answered with, to a sender inside; `None` is silence.
    pub(super) fn of_refusal(refusal: Refusal, limits: RefusalAnswer) -> Option<Reason> {
        match refusal {
            Refusal::PortsExhausted
            | Refusal::SessionLimit
            | Refusal::HostSessionLimit
            | Refusal::HostMappingLimit
            | Refusal::HostRateLimit
            | Refusal::MappingSessionLimit => limits.reason(),
            Refusal::HairpinOff
            | Refusal::HostAccessOff
            | Refusal::ProtocolTaken
            | Refusal::EgressDenied
            | Refusal::AddressLost => Some(Reason::Prohibited),
            Refusal::NoMapping
            | Refusal::Filtered
            | Refusal::NoSession
            | Refusal::BadFlags
            | Refusal::OutOfWindow
            | Refusal::ErrorOutOfWindow
            | Refusal::ErrorWithoutSession
            | Refusal::ErrorMisaddressed
            | Refusal::UnsolicitedQuery
            | Refusal::PortUnleased
            | Refusal::SourceIsOurs => None,
        }
    }

    fn icmp(self) -> IcmpError {
        match self {
            Reason::TimeExceeded => IcmpError::TtlExceeded,
            Reason::TooBig(mtu) => IcmpError::TooBig { mtu },
            Reason::NoRoute => IcmpError::NetUnreachable,
            Reason::HostUnreachable => IcmpError::HostUnreachable,
            Reason::PortUnreachable => IcmpError::PortUnreachable,
            Reason::Prohibited => IcmpError::Prohibited,
            Reason::ParameterProblem(pointer) => IcmpError::ParameterProblem { pointer },
        }
    }

    fn answer(self) -> Answer {
        match self {
            Reason::TimeExceeded => Answer::TimeExceeded,
            Reason::TooBig(_) => Answer::FragmentationNeeded,
            Reason::ParameterProblem(_) => Answer::ParameterProblem,
            Reason::NoRoute | Reason::HostUnreachable | Reason::PortUnreachable | Reason::Prohibited => {
                Answer::Unreachable
            }
        }
    }
}

impl Gateway {
    /// Tells the sender of `packet`, which came in by `from` and stands in `buffer` as it was
    /// sent, why it does not pass. Says nothing where RFC 1812 §4.3.2.7 and RFC 4443 §2.4 forbid it: about ICMP
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
        if !craft::may_be_reported(packet) {
            return;
        }
        let to = packet.summary.source();
        // An error leaves with the address of the interface it leaves by (RFC 1812 §4.3.2.4).
        let source = match from {
            INSIDE => self.config.address_for(to),
            _ => self.outside_address(packet.summary.destination()),
        };
        let Some(source) = source.filter(|source| source.is_ipv6() == to.is_ipv6()) else { return };
        if !self.may_speak(from, to, now) {
            return;
        }
        let error = craft::icmp_error(reason.icmp(), source, to, buffer.bytes());
        let error = Buffer::from_bytes(&error);
        self.counters.answered(reason.answer());
        if from == INSIDE {
            self.answer_inside(to, error, now, out);
        } else {
            out.push(from, error);
        }
    }

    /// The external address that speaks about a packet from outside: where it was sent, unless that
    /// is an inside host.
    fn outside_address(&self, destination: IpAddr) -> Option<IpAddr> {
        let external = &self.config.nat.external;
        if external.contains(&destination) {
            return Some(destination);
        }
        if self.is_translated(destination) {
            return self.translated_gateway(destination);
        }
        external.iter().find(|ip| ip.is_ipv4() == destination.is_ipv4()).copied()
    }

    /// Whether the rate allows an answer to `receiver` on this side; counts it if not.
    fn may_speak(&mut self, side: LinkId, receiver: IpAddr, now: Time) -> bool {
        let speech = if side == INSIDE { &mut self.speech_inside } else { &mut self.speech_outside };
        let may = speech.may(receiver, now);
        if !may {
            self.counters.answered(Answer::RateLimited);
        }
        may
    }

    /// Resets a TCP connection to one of our own addresses, where nothing listens (RFC 9293
    /// §3.10.7.1).
    pub(super) fn reset(&mut self, packet: &Packet, buffer: &Buffer, now: Time, out: &mut Outbox) {
        let Some(reset) = craft::tcp_reset(buffer.bytes()) else { return };
        if !self.may_speak(INSIDE, packet.summary.source(), now) {
            return;
        }
        self.counters.answered(Answer::Reset);
        self.answer_inside(packet.summary.source(), Buffer::from_bytes(&reset), now, out);
    }

    /// Tells the sender of a packet that waited for an inside host who was never heard of (RFC 1812
    /// §4.3.3.1). The packet is as it would have been delivered: the error is written in the same
    /// terms, as if by the host itself, and goes out through the translator, so that it names
    /// outside endpoints only.
    pub(super) fn tell_of_silence(
        &mut self,
        held: Held,
        now: Time,
        out: &mut Outbox,
        seen: &mut impl Observer,
    ) {
        let mut about = held.packet;
        let Ok(packet) = Packet::read(&mut about, 0) else { return };
        let (remote, inside) = (packet.summary.source(), packet.summary.destination());
        if held.from.is_none() || !craft::may_be_reported(&packet) {
            return;
        }
        if self.config.is_inside(remote) {
            return self.complain(INSIDE, Reason::HostUnreachable, &packet, &about, now, out);
        }
        let error = craft::icmp_error(Reason::HostUnreachable.icmp(), inside, remote, about.bytes());
        let mut error = Buffer::from_bytes(&error);
        let Ok(packet) = Packet::read(&mut error, 0) else { return };
        let decision = match self.translate_out(&packet.summary) {
            Some(translated) => translated,
            None => Ok(self.nat.outbound(&packet.summary, now, seen)),
        };
        let Ok(Decision::Translate { edit, exit }) = decision else { return };
        let side = if matches!(exit, Exit::Inside | Exit::Hairpin) { INSIDE } else { OUTSIDE };
        if !self.may_speak(side, remote, now) {
            return;
        }
        self.counters.answered(Reason::HostUnreachable.answer());
        let outward = self.way_out(&packet.summary);
        packet.apply(&edit, &mut error, 0);
        match (exit, edit.destination) {
            (Exit::Outside, _) => out.push(outward, error),
            (Exit::Host, _) => out.push(HOST, error),
            (Exit::Inside | Exit::Hairpin, Some(sender)) => self.answer_inside(sender.ip, error, now, out),
            (Exit::Inside | Exit::Hairpin, None) => {}
        }
    }
}
