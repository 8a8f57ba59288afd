//! A frame from the TAP: for us, for a neighbour, or for the world.

use super::errors::Reason;
use super::{Answer, DropReason, Fate, Gateway, HOST, INSIDE, OUTSIDE, Outbox, Way, hop, services};
use crate::flow::{Edit, LinkInfo, Protocol, Time};
use crate::nat::{Decision, Exit, Observer};
use crate::wire::ethernet::{self, Frame, MacAddr};
use crate::wire::{Buffer, Packet};
use std::net::{IpAddr, Ipv4Addr};

impl Gateway {
    pub(super) fn receive_inside(
        &mut self,
        frame: &mut Buffer,
        now: Time,
        out: &mut Outbox,
        seen: &mut impl Observer,
    ) -> Fate {
        let Ok(Frame { destination: to, source: from, ethertype }) = Frame::parse(frame.bytes()) else {
            return Fate::Dropped(DropReason::ShortFrame);
        };
        if to != self.config.mac && !to.is_multicast() {
            return Fate::Dropped(DropReason::OtherMac);
        }
        match ethertype {
            ethernet::ARP => self.arp(frame, now, out),
            ethernet::IPV4 => self.ip_from_inside(frame, to, from, now, out, seen),
            ethernet::IPV6 => Fate::Dropped(DropReason::Malformed(crate::wire::ParseError::Ipv6)),
            _ => Fate::Dropped(DropReason::UnknownEtherType),
        }
    }

    fn arp(&mut self, frame: &Buffer, now: Time, out: &mut Outbox) -> Fate {
        let subnets = &self.config.subnets;
        let ours = |ip| subnets.iter().any(|subnet| subnet.gateway == ip);
        let local = |ip| subnets.iter().any(|subnet| subnet.has_host(ip));
        let bytes = frame.bytes().get(ethernet::HEADER..).unwrap_or_default();
        let outcome = match self.neighbors.arp(bytes, ours, local, now) {
            Ok(outcome) => outcome,
            Err(reason) => return Fate::Dropped(reason),
        };
        for held in outcome.released {
            self.release_inside(held, now, out);
        }
        if let Some(reply) = outcome.reply {
            out.push(INSIDE, reply);
            self.counters.answered(Answer::Arp);
        }
        Fate::Taken(Answer::Arp)
    }

    fn ip_from_inside(
        &mut self,
        frame: &mut Buffer,
        to: MacAddr,
        from: MacAddr,
        now: Time,
        out: &mut Outbox,
        seen: &mut impl Observer,
    ) -> Fate {
        // From here on the buffer starts with the IP header.
        frame.drop_front(ethernet::HEADER);
        let packet = match Packet::read(frame, 0) {
            Ok(packet) => packet,
            Err(error) => return Fate::Dropped(DropReason::Malformed(error)),
        };
        let flow_ends = (packet.summary.source(), packet.summary.destination());
        let (IpAddr::V4(source), IpAddr::V4(destination)) = flow_ends else {
            return Fate::Dropped(DropReason::Malformed(crate::wire::ParseError::Ipv6));
        };
        if let Err(reason) = self.check_inside_source(source, from) {
            return Fate::Dropped(reason);
        }
        if to.is_multicast() || hop::martian_destination(destination) {
            return Fate::Dropped(DropReason::MartianDestination);
        }
        if packet.source_routed {
            return Fate::Dropped(DropReason::SourceRoute);
        }
        if self.is_inside(destination) {
            return self.for_inside_address(&packet, frame, destination, now, out);
        }
        self.forward_out(&packet, frame, now, out, seen)
    }

    fn check_inside_source(&self, source: Ipv4Addr, from: MacAddr) -> Result<(), DropReason> {
        if from.is_multicast() || from == self.config.mac || hop::martian_source(source) {
            return Err(DropReason::MartianSource);
        }
        let subnet = self.config.subnets.iter().find(|subnet| subnet.has_host(source));
        match subnet {
            Some(subnet) if subnet.gateway != source => Ok(()),
            _ => Err(DropReason::SpoofedSource),
        }
    }

    /// The gateway's own addresses answer echo; everything else there is closed. Hosts of one
    /// subnet reach each other without us, and those of another by us.
    fn for_inside_address(
        &mut self,
        packet: &Packet,
        frame: &mut Buffer,
        destination: Ipv4Addr,
        now: Time,
        out: &mut Outbox,
    ) -> Fate {
        let from = match packet.summary.source() {
            IpAddr::V4(source) => self.address_for(source),
            IpAddr::V6(_) => None,
        };
        if !self.config.subnets.iter().any(|subnet| subnet.gateway == destination) {
            return match self.config.subnets.iter().find(|subnet| subnet.covers(destination)) {
                Some(subnet) if from == Some(subnet.gateway) => Fate::Dropped(DropReason::InsideDestination),
                Some(subnet) if subnet.has_host(destination) => {
                    self.forward_between(packet, frame, destination, now, out)
                }
                // A broadcast to another subnet is not forwarded (RFC 2644).
                _ => Fate::Dropped(DropReason::MartianDestination),
            };
        }
        if let Some(reply) = services::echo::offer(packet, frame) {
            self.answer_inside(packet.summary.source(), reply, now, out);
            self.counters.answered(Answer::Echo);
            return Fate::Taken(Answer::Echo);
        }
        match packet.summary.protocol() {
            Protocol::Tcp => self.reset(packet, frame, now, out),
            Protocol::Udp => self.complain(INSIDE, Reason::PortUnreachable, packet, frame, now, out),
            Protocol::Icmp | Protocol::Other(_) => {}
        }
        Fate::Dropped(DropReason::InsideDestination)
    }

    /// From one inside subnet to another: a hop, and no translation.
    fn forward_between(
        &mut self,
        packet: &Packet,
        frame: &mut Buffer,
        destination: Ipv4Addr,
        now: Time,
        out: &mut Outbox,
    ) -> Fate {
        let mtu = self.config.inside.mtu;
        if packet.ttl <= 1 {
            self.complain(INSIDE, Reason::TimeExceeded, packet, frame, now, out);
            return Fate::Dropped(DropReason::TtlExpired);
        }
        if hop::refuses_cut(packet, frame, mtu) {
            self.complain(INSIDE, Reason::TooBig(mtu), packet, frame, now, out);
            return Fate::Dropped(DropReason::TooBig);
        }
        packet.apply(&Edit { spend_hop: true, ..Edit::default() }, frame, 0);
        self.deliver_inside(destination.into(), frame, Some(INSIDE), now, out)
    }

    /// The way of a packet for the world, or for the host: hop, translator, edit, exit.
    pub(super) fn forward_out(
        &mut self,
        packet: &Packet,
        frame: &mut Buffer,
        now: Time,
        out: &mut Outbox,
        seen: &mut impl Observer,
    ) -> Fate {
        if !hop::translatable(packet) {
            return Fate::Dropped(DropReason::IcmpType);
        }
        let to_host = self.is_host(packet.summary.destination());
        if packet.ttl <= 1 && !to_host {
            self.complain(INSIDE, Reason::TimeExceeded, packet, frame, now, out);
            return Fate::Dropped(DropReason::TtlExpired);
        }
        let link = if to_host { LinkInfo::plain(u16::MAX, 0) } else { self.config.outside };
        let too_big = hop::too_big(frame, link.mtu);
        if hop::refuses_cut(packet, frame, link.mtu) {
            self.complain(INSIDE, Reason::TooBig(link.mtu), packet, frame, now, out);
            return Fate::Dropped(DropReason::TooBig);
        }
        let decision = match packet.fragment {
            None => self.nat.outbound(&packet.summary, now, seen),
            Some(fragment) => match self.fragment_decision(INSIDE, packet, fragment, frame, now, out, seen) {
                Ok(decision) => decision,
                Err(fate) => return fate,
            },
        };
        let (mut edit, exit) = match decision {
            Decision::Translate { edit, exit } => (edit, exit),
            Decision::Refuse(refusal) => {
                if let Some(reason) = Reason::of_refusal(refusal, self.config.refusal) {
                    self.complain(INSIDE, reason, packet, frame, now, out);
                }
                return Fate::Dropped(DropReason::Refused(refusal));
            }
        };
        edit.spend_hop = exit != Exit::Host;
        // An address of ours may turn out to be another inside host's: a hop like any other.
        if edit.spend_hop && packet.ttl <= 1 {
            self.complain(INSIDE, Reason::TimeExceeded, packet, frame, now, out);
            return Fate::Dropped(DropReason::TtlExpired);
        }
        let exempt = exit == Exit::Outside && edit.source.is_none();
        if exempt {
            self.counters.passed(Way::ExemptOut, frame.len());
        } else if too_big && packet.fragment.is_none() {
            edit.identification = Some(self.fragments.next_identification());
        }
        edit.clamp_mss = self.mss_limit(packet);
        packet.apply(&edit, frame, 0);
        match exit {
            Exit::Host => Fate::Pass(HOST),
            Exit::Hairpin | Exit::Inside => match edit.destination {
                Some(destination) => self.deliver_inside(destination.ip, frame, Some(INSIDE), now, out),
                None => Fate::Dropped(DropReason::InsideDestination),
            },
            Exit::Outside if too_big => self.cut(frame, OUTSIDE, link.mtu, out),
            Exit::Outside => Fate::Pass(OUTSIDE),
        }
    }

    /// What the MSS option of this packet may say at most, if it has one: what fits both links.
    pub(super) fn mss_limit(&self, packet: &Packet) -> Option<u16> {
        packet.mss?;
        let mtu = self.config.inside.mtu.min(self.config.outside.mtu);
        Some(mtu.saturating_sub(hop::IP_AND_TCP_HEADERS))
    }
}
