//! A packet from the uplink or from the host itself, to a host inside.

use super::errors::Reason;
use super::{DropReason, Fate, Gateway, HOST, OUTSIDE, Outbox, Way, hop};
use crate::flow::{LinkId, Summary, Time};
use crate::nat::{Decision, Exit, Observer};
use crate::wire::{Buffer, Packet};
use std::net::IpAddr;

impl Gateway {
    pub(super) fn receive_outside(
        &mut self,
        from: LinkId,
        buffer: &mut Buffer,
        now: Time,
        out: &mut Outbox,
        seen: &mut impl Observer,
    ) -> Fate {
        let packet = match Packet::read(buffer, 0) {
            Ok(packet) => packet,
            Err(error) => return Fate::Dropped(DropReason::Malformed(error)),
        };
        let destination = packet.summary.destination();
        let exempt = || from == OUTSIDE && self.may_exempt(&packet, destination);
        if !self.config.nat.external.contains(&destination) && !exempt() {
            return Fate::Dropped(DropReason::NotOurAddress);
        }
        let IpAddr::V4(source) = packet.summary.source() else {
            return Fate::Dropped(DropReason::MartianSource);
        };
        if hop::martian_source(source) || (self.is_inside(source) && from == OUTSIDE) {
            return Fate::Dropped(DropReason::MartianSource);
        }
        if packet.source_routed {
            return Fate::Dropped(DropReason::SourceRoute);
        }
        if !hop::translatable(&packet) {
            return Fate::Dropped(DropReason::IcmpType);
        }
        self.forward_in(from, &packet, buffer, now, out, seen)
    }

    /// Whether a packet is to an inside host's own address, and may be so (RFC 6888 REQ-6).
    fn may_exempt(&self, packet: &Packet, destination: IpAddr) -> bool {
        let IpAddr::V4(ip) = destination else { return false };
        self.config.subnets.iter().any(|subnet| subnet.has_host(ip) && subnet.gateway != ip)
            && self.nat.may_exempt(&packet.summary, packet.is_later_fragment())
    }

    /// The way of a packet to an inside host: hop, translator, edit, exit.
    pub(super) fn forward_in(
        &mut self,
        from: LinkId,
        packet: &Packet,
        buffer: &mut Buffer,
        now: Time,
        out: &mut Outbox,
        seen: &mut impl Observer,
    ) -> Fate {
        if let Err(fate) = self.check_hop_in(from, packet, buffer, now, out) {
            return fate;
        }
        let decision = match packet.fragment {
            None if from == HOST => self.nat.from_host(&packet.summary, now, seen),
            None => self.nat.inbound(&packet.summary, now, seen),
            Some(fragment) => match self.fragment_decision(from, packet, fragment, buffer, now, out, seen) {
                Ok(decision) => decision,
                Err(fate) => return fate,
            },
        };
        let (mut edit, exit) = match decision {
            Decision::Translate { edit, exit } => (edit, exit),
            Decision::Refuse(refusal) => {
                if from == OUTSIDE {
                    self.note_unsolicited(refusal, packet, buffer, now);
                }
                return Fate::Dropped(DropReason::Refused(refusal));
            }
        };
        edit.spend_hop = from != HOST;
        edit.clamp_mss = self.mss_limit(packet);
        packet.apply(&edit, buffer, 0);
        match (exit, edit.destination) {
            (Exit::Inside | Exit::Hairpin, Some(destination)) => {
                self.deliver_inside(destination.ip, buffer, Some(from), now, out)
            }
            (Exit::Inside, None) => {
                self.counters.passed(Way::ExemptIn, buffer.len());
                self.deliver_inside(packet.summary.destination(), buffer, Some(from), now, out)
            }
            _ => Fate::Dropped(DropReason::NotOurAddress),
        }
    }

    /// Time to live and size. Only a packet that the translator would let in is answered: others
    /// are the host's own, whose stack has a copy and answers as it sees fit, or a scan, which must
    /// not learn which ports are mapped.
    fn check_hop_in(
        &mut self,
        from: LinkId,
        packet: &Packet,
        buffer: &Buffer,
        now: Time,
        out: &mut Outbox,
    ) -> Result<(), Fate> {
        let expired = packet.ttl <= 1 && from == OUTSIDE;
        if !expired && !hop::refuses_cut(packet, buffer, self.config.inside.mtu) {
            return Ok(());
        }
        // About errors and later fragments nothing is said anyway.
        if let Summary::Data(data) = &packet.summary
            && !packet.is_later_fragment()
            && let Err(refusal) = self.nat.would_admit(data, from != HOST, now)
        {
            return Err(Fate::Dropped(DropReason::Refused(refusal)));
        }
        let (reason, dropped) = if expired {
            (Reason::TimeExceeded, DropReason::TtlExpired)
        } else {
            (Reason::TooBig(self.config.inside.mtu), DropReason::TooBig)
        };
        self.complain(from, reason, packet, buffer, now, out);
        Err(Fate::Dropped(dropped))
    }
}
