//! A packet from the uplink or from the host itself, to a host inside.

use super::errors::Reason;
use super::npt::NoCounterpart;
use super::{ALIASES, DropReason, Fate, Gateway, HOST, OUTSIDE, Outbox, Way, hop};
use crate::flow::{Edit, LinkId, Summary, Time};
use crate::nat::{Decision, Exit, Observer, Refusal};
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
        let ours = self.nat.is_external(destination) || self.is_translated(destination);
        let exempt = !ours && from == OUTSIDE && self.may_exempt(&packet, destination);
        if !ours && !exempt {
            return Fate::Dropped(DropReason::NotOurAddress);
        }
        let source = packet.summary.source();
        let host = (self.config.host_by_uplink || from == ALIASES) && self.may_be_host(source);
        if from == ALIASES && !host {
            return Fate::Dropped(DropReason::MartianSource);
        }
        let from = if host { HOST } else { from };
        if hop::martian_source(source)
            || (hop::is_link_local(source) && !host)
            || (from == OUTSIDE && self.cannot_be_outside(source, exempt))
        {
            return Fate::Dropped(DropReason::MartianSource);
        }
        if packet.source_routed {
            return Fate::Dropped(DropReason::SourceRoute);
        }
        if !hop::translatable(&packet) {
            return Fate::Dropped(DropReason::IcmpType);
        }
        if hop::tells_a_lie(&packet, buffer) {
            return Fate::Dropped(DropReason::BadMtu);
        }
        self.forward_in(from, &packet, buffer, now, out, seen)
    }

    /// Whether `ip` is one that the host's own packets come with.
    fn may_be_host(&self, ip: IpAddr) -> bool {
        self.is_host(ip) || self.config.owns(ip) || self.config.has_alias(ip)
    }

    /// Whether a packet is to an inside host's own address, and may be so (RFC 6888 REQ-6).
    fn may_exempt(&self, packet: &Packet, destination: IpAddr) -> bool {
        self.config.is_inside(destination)
            && self.config.has_host(destination)
            && self.nat.may_exempt(&packet.summary, packet.is_later_fragment())
    }

    /// Whether `ip` is who we say that a host inside is, or the host's own.
    fn is_ours_outside(&self, ip: IpAddr) -> bool {
        self.is_translated(ip) || self.is_host(ip)
    }

    /// Whether nobody beyond the uplink has `ip`: the hosts inside, and if no address of ours is a
    /// private one of IPv6, those who have one (RFC 4193 §4.3), unless they are `exempt`.
    fn cannot_be_outside(&self, ip: IpAddr, exempt: bool) -> bool {
        let nat = &self.config.nat;
        let ours = nat.external.iter().chain(&nat.host_addresses);
        // The only host of a subnet has its neighbours out there.
        let mut ours = ours.copied().chain(self.config.subnets.iter().filter_map(|subnet| subnet.only));
        let mut private = || ours.any(hop::is_unique_local);
        self.config.is_inside(ip) || (hop::is_unique_local(ip) && !exempt && !private())
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
        let (mut edit, exit) = match self.decide_in(from, packet, buffer, now, out, seen) {
            Ok(decided) => decided,
            Err(fate) => return fate,
        };
        if self.overload.wants_ports()
            && let Summary::Data(data) = &packet.summary
        {
            self.overload.used(data.flow.protocol, data.flow.destination.port, now);
        }
        edit.spend_hop = from != HOST;
        edit.clamp_mss = self.mss_limit(packet);
        self.hear_answer(from, packet, edit.destination, buffer, now);
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

    /// What a translator says about a packet to an inside host.
    fn decide_in(
        &mut self,
        from: LinkId,
        packet: &Packet,
        buffer: &Buffer,
        now: Time,
        out: &mut Outbox,
        seen: &mut impl Observer,
    ) -> Result<(Edit, Exit), Fate> {
        let decision = match (self.translate_in(&packet.summary), packet.fragment) {
            (Some(_), _) if from == OUTSIDE && self.is_ours_outside(packet.summary.source()) => {
                Decision::Refuse(Refusal::SourceIsOurs)
            }
            (Some(Ok(decision)), _) => decision,
            (Some(Err(NoCounterpart(reason))), _) => {
                self.complain(from, reason, packet, buffer, now, out);
                return Err(Fate::Dropped(DropReason::UnmappedAddress));
            }
            (None, None) if from == HOST => self.nat.from_host(&packet.summary, now, seen),
            (None, None) => self.nat.inbound(&packet.summary, now, seen),
            (None, Some(fragment)) => {
                self.fragment_decision(from, packet, fragment, buffer, now, out, seen)?
            }
        };
        match decision {
            Decision::Translate { edit, exit } => Ok((edit, exit)),
            Decision::Lease(protocol, outside) => Err(Fate::Wants(protocol, outside)),
            Decision::Refuse(refusal) => {
                if from == OUTSIDE {
                    self.note_unsolicited(refusal, packet, buffer, now);
                }
                Err(Fate::Dropped(DropReason::Refused(refusal)))
            }
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
            && !self.is_translated(data.flow.destination.ip)
            && !packet.is_later_fragment()
            && let Err(refusal) = self.nat.would_admit(data, from != HOST, now)
        {
            return Err(Fate::Dropped(DropReason::Refused(refusal)));
        }
        let (reason, dropped) = if expired {
            (Reason::TimeExceeded, DropReason::TtlExpired)
        } else {
            (Reason::TooBig(hop::told_mtu(packet, self.config.inside.mtu)), DropReason::TooBig)
        };
        self.complain(from, reason, packet, buffer, now, out);
        Err(Fate::Dropped(dropped))
    }
}
