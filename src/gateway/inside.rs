//! A frame from the TAP: for us, for a neighbour, or for the world.

use super::errors::Reason;
use super::ndp::Message;
use super::neighbors::{Heard, OtherMac};
use super::npt::NoCounterpart;
use super::{
    ALIASES, Answer, DropReason, Fate, Gateway, HOST, INSIDE, OUTSIDE, Outbox, Way, arp, hop, ndp, services,
};
use crate::flow::{Edit, Flow, LinkId, LinkInfo, Protocol, Summary, Time};
use crate::nat::{Decision, Exit, Observer, Refusal};
use crate::wire::ethernet::{self, Frame, MacAddr};
use crate::wire::{Buffer, Packet, ParseError, icmp};
use std::net::IpAddr;

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
            ethernet::IPV6 if ndp::is_message(frame.bytes().get(ethernet::HEADER..).unwrap_or_default()) => {
                self.ndp(frame, from, now, out)
            }
            ethernet::IPV6 => self.ip_from_inside(frame, to, from, now, out, seen),
            _ => Fate::Dropped(DropReason::UnknownEtherType),
        }
    }

    fn arp(&mut self, frame: &Buffer, now: Time, out: &mut Outbox) -> Fate {
        let bytes = frame.bytes().get(ethernet::HEADER..).unwrap_or_default();
        let heard = arp::read(bytes, &self.config);
        self.hear(heard, Answer::Arp, now, out)
    }

    fn ndp(&mut self, frame: &Buffer, from: MacAddr, now: Time, out: &mut Outbox) -> Fate {
        let bytes = frame.bytes().get(ethernet::HEADER..).unwrap_or_default();
        match ndp::read(bytes, from, &self.config) {
            Ok(Message::Neighbor(heard)) => self.hear(Ok(heard), Answer::Ndp, now, out),
            Ok(Message::RouterSolicitation(claim)) => {
                self.router_asked(now);
                self.hear(Ok(Heard { claim, reply: None }), Answer::Ndp, now, out)
            }
            Err(reason) => Fate::Dropped(reason),
        }
    }

    /// Learns from what a host said of itself, and answers it.
    fn hear(
        &mut self,
        heard: Result<Heard, DropReason>,
        answer: Answer,
        now: Time,
        out: &mut Outbox,
    ) -> Fate {
        let learnt = heard.and_then(|heard| match heard.claim {
            Some(claim) => Ok((self.neighbors.learn(claim, now)?, heard.reply)),
            None => Ok((Vec::new(), heard.reply)),
        });
        let (released, reply) = match learnt {
            Ok(learnt) => learnt,
            Err(reason) => return Fate::Dropped(reason),
        };
        for held in released {
            self.release_inside(held, now, out);
        }
        if let Some(reply) = reply {
            out.push(INSIDE, reply);
            self.counters.answered(answer);
        }
        Fate::Taken(answer)
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
        let type_is_ipv6 = frame.bytes().get(12..14) == Some(&ethernet::IPV6.to_be_bytes());
        frame.drop_front(ethernet::HEADER);
        let packet = match Packet::read(frame, 0) {
            Ok(packet) if packet.is_ipv6() == type_is_ipv6 => packet,
            Ok(packet) => {
                let version = if packet.is_ipv6() { 6 } else { 4 };
                return Fate::Dropped(DropReason::Malformed(ParseError::Version(version)));
            }
            Err(error) => return Fate::Dropped(DropReason::Malformed(error)),
        };
        if packet.is_ipv6()
            && let Some(reason) = of_the_link(&packet)
        {
            return Fate::Dropped(reason);
        }
        if self.is_for_dhcp(&packet, to) {
            return self.dhcp(&packet, frame, from, now, out);
        }
        let (source, destination) = (packet.summary.source(), packet.summary.destination());
        let speaker = match self.check_inside_source(source, from) {
            Err(DropReason::SpoofedSource) if self.answers_by_router(&packet, now) => {
                self.config.next_hop(source).unwrap_or(source)
            }
            Err(reason) => return Fate::Dropped(reason),
            Ok(()) => source,
        };
        if self.config.bind_mac
            && let Err(OtherMac { question }) = self.neighbors.check(speaker, from, now)
        {
            if let Some(question) = question {
                self.ask(question, out);
            }
            return Fate::Dropped(DropReason::MacMismatch);
        }
        let ours = self.config.owns(destination);
        if to.is_multicast() || (hop::martian_destination(destination) && !ours) {
            return Fate::Dropped(DropReason::MartianDestination);
        }
        if packet.source_routed {
            return Fate::Dropped(DropReason::SourceRoute);
        }
        let here = ours || self.config.is_inside(destination);
        if here && !(ours && self.stands_for_host(&packet, now)) {
            return self.for_inside_address(&packet, frame, destination, now, out);
        }
        let fate = self.forward_out(&packet, frame, now, out, seen);
        if let Fate::Wants(..) = fate {
            // The packet comes again, as it came.
            let ethertype = if type_is_ipv6 { ethernet::IPV6 } else { ethernet::IPV4 };
            frame.push_front(&Frame { destination: to, source: from, ethertype }.to_bytes());
        }
        fate
    }

    /// Whether a packet to an address of ours inside is for something on the host: an alias says so, or
    /// somebody there has come in by a published port, and is seen as the gateway.
    fn stands_for_host(&self, packet: &Packet, now: Time) -> bool {
        match &packet.summary {
            // Who asks whether the address is there is answered at once.
            Summary::Data(data) if data.flow.protocol == Protocol::Icmp => false,
            Summary::Data(data) => {
                let end = data.flow.destination;
                self.config.aliases.iter().any(|alias| alias.covers(data.flow.protocol, end))
                    || (self.config.host_by_uplink && self.nat.knows(&data.flow, now))
            }
            Summary::Error(error) => {
                let about = error.about.reversed();
                self.config.host_by_uplink && self.nat.knows(&about, now)
            }
        }
    }

    /// Whether the only host inside brings a packet of somebody behind it, to whom a port is forwarded:
    /// from there come answers alone.
    fn answers_by_router(&self, packet: &Packet, now: Time) -> bool {
        let known = match &packet.summary {
            Summary::Data(data) => self.nat.knows(&data.flow, now),
            Summary::Error(error) => self.nat.knows(&error.about.reversed(), now),
        };
        known && self.config.next_hop(packet.summary.source()).is_some()
    }

    pub(super) fn check_inside_source(&self, source: IpAddr, from: MacAddr) -> Result<(), DropReason> {
        if from.is_multicast() || from == self.config.mac || hop::martian_source(source) {
            return Err(DropReason::MartianSource);
        }
        if self.config.has_host(source) { Ok(()) } else { Err(DropReason::SpoofedSource) }
    }

    /// The gateway's own addresses answer echo; everything else there is closed. Hosts of one
    /// subnet reach each other without us, and those of another by us.
    fn for_inside_address(
        &mut self,
        packet: &Packet,
        frame: &mut Buffer,
        destination: IpAddr,
        now: Time,
        out: &mut Outbox,
    ) -> Fate {
        let from = self.config.address_for(packet.summary.source());
        if !self.config.owns(destination) {
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
        destination: IpAddr,
        now: Time,
        out: &mut Outbox,
    ) -> Fate {
        if hop::is_link_local(packet.summary.source()) {
            return Fate::Dropped(DropReason::MartianSource);
        }
        let mtu = self.config.inside.mtu;
        if packet.ttl <= 1 {
            self.complain(INSIDE, Reason::TimeExceeded, packet, frame, now, out);
            return Fate::Dropped(DropReason::TtlExpired);
        }
        if hop::refuses_cut(packet, frame, mtu) {
            self.complain(INSIDE, Reason::TooBig(hop::told_mtu(packet, mtu)), packet, frame, now, out);
            return Fate::Dropped(DropReason::TooBig);
        }
        packet.apply(&Edit { spend_hop: true, ..Edit::default() }, frame, 0);
        self.deliver_inside(destination, frame, Some(INSIDE), now, out)
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
        let destination = packet.summary.destination();
        // Who speaks to the gateway's own link-local address does so from one, also to what that
        // stands for on the host.
        let on_link = hop::is_link_local(destination) && self.config.owns(destination);
        if hop::is_link_local(packet.summary.source()) && !on_link {
            return Fate::Dropped(DropReason::MartianSource);
        }
        if !hop::translatable(packet) {
            return Fate::Dropped(DropReason::IcmpType);
        }
        if hop::tells_a_lie(packet, frame) {
            return Fate::Dropped(DropReason::BadMtu);
        }
        let to_host = self.is_host(packet.summary.destination());
        if packet.ttl <= 1 && !to_host {
            self.complain(INSIDE, Reason::TimeExceeded, packet, frame, now, out);
            return Fate::Dropped(DropReason::TtlExpired);
        }
        let outward = self.way_out(&packet.summary);
        let whole = to_host || outward == ALIASES;
        let link = if whole { LinkInfo::plain(u16::MAX, 0) } else { self.config.outside };
        let too_big = hop::too_big(frame, link.mtu);
        if hop::refuses_cut(packet, frame, link.mtu) {
            self.complain(INSIDE, Reason::TooBig(hop::told_mtu(packet, link.mtu)), packet, frame, now, out);
            return Fate::Dropped(DropReason::TooBig);
        }
        if !self.may_be_reached(destination, outward) {
            self.complain(INSIDE, Reason::NoRoute, packet, frame, now, out);
            return Fate::Dropped(DropReason::NoRoute);
        }
        let (mut edit, exit) = match self.decide_out(packet, frame, now, out, seen) {
            Ok(decided) => decided,
            Err(fate) => return fate,
        };
        edit.spend_hop = exit != Exit::Host;
        // An address of ours may turn out to be another inside host's: a hop like any other.
        if edit.spend_hop && packet.ttl <= 1 {
            self.complain(INSIDE, Reason::TimeExceeded, packet, frame, now, out);
            return Fate::Dropped(DropReason::TtlExpired);
        }
        let inward = matches!(exit, Exit::Hairpin | Exit::Inside);
        if inward && hop::refuses_cut(packet, frame, self.config.inside.mtu) {
            let mtu = hop::told_mtu(packet, self.config.inside.mtu);
            self.complain(INSIDE, Reason::TooBig(mtu), packet, frame, now, out);
            return Fate::Dropped(DropReason::TooBig);
        }
        if self.overload.wants_ports()
            && let Some(source) = edit.source
        {
            self.overload.used(packet.summary.protocol(), source.port, now);
        }
        let exempt = exit == Exit::Outside && edit.source.is_none();
        if exempt {
            self.counters.passed(Way::ExemptOut, frame.len());
        } else if !packet.dont_fragment && packet.fragment.is_none() && exit != Exit::Host {
            // Who gives it a source of ours is its source (RFC 6864 §5.3.1).
            edit.identification = Some(self.fragments.next_identification());
        }
        edit.clamp_mss = self.mss_limit(packet);
        self.hear_question(packet, frame, now);
        packet.apply(&edit, frame, 0);
        match exit {
            Exit::Host => Fate::Pass(HOST),
            Exit::Hairpin | Exit::Inside => match edit.destination {
                Some(destination) => self.deliver_inside(destination.ip, frame, Some(INSIDE), now, out),
                None => Fate::Dropped(DropReason::InsideDestination),
            },
            Exit::Outside if too_big => self.cut(frame, outward, link.mtu, out),
            Exit::Outside => Fate::Pass(outward),
        }
    }

    /// Whether there is a way to `destination`: asked before a session is opened, which would take a port
    /// for nothing. What stays on the host, or comes back inside, needs no route of it.
    fn may_be_reached(&self, destination: IpAddr, outward: LinkId) -> bool {
        self.config.reach.covers(destination)
            || outward == ALIASES
            || self.config.aliases.iter().any(|alias| alias.inside == destination)
            || self.is_host(destination)
            || self.is_translated(destination)
    }

    /// The link by which a packet leaves that is for the world or for an alias. Who serves one port of
    /// the host's loopback may want to be asked from there, and not from an address of the uplink.
    pub(super) fn way_out(&self, packet: &Summary) -> LinkId {
        if self.config.aliases.is_empty() {
            return OUTSIDE;
        }
        let Flow { protocol, destination, .. } = match packet {
            Summary::Data(data) => data.flow,
            Summary::Error(error) => error.about.reversed(),
        };
        let alias = self.config.aliases.iter().find(|alias| alias.covers(protocol, destination));
        match alias {
            Some(alias) if alias.port.is_some() || !self.config.host_by_uplink => ALIASES,
            _ => OUTSIDE,
        }
    }

    /// What a translator says about a packet from the inside. Its sender is told of a refusal.
    fn decide_out(
        &mut self,
        packet: &Packet,
        frame: &Buffer,
        now: Time,
        out: &mut Outbox,
        seen: &mut impl Observer,
    ) -> Result<(Edit, Exit), Fate> {
        let decision = match (self.translate_out(&packet.summary), packet.fragment) {
            (Some(Ok(decision)), _) => self.unless_denied(packet, decision, now, seen),
            (Some(Err(NoCounterpart(reason))), _) => {
                self.complain(INSIDE, reason, packet, frame, now, out);
                return Err(Fate::Dropped(DropReason::UnmappedAddress));
            }
            // Between the two ways of translating there is no hairpin; inside addresses serve.
            (None, _) if self.is_translated(packet.summary.destination()) => {
                self.complain(INSIDE, Reason::Prohibited, packet, frame, now, out);
                return Err(Fate::Dropped(DropReason::InsideDestination));
            }
            (None, None) => self.nat.outbound(&packet.summary, now, seen),
            (None, Some(fragment)) => {
                self.fragment_decision(INSIDE, packet, fragment, frame, now, out, seen)?
            }
        };
        match decision {
            Decision::Translate { edit, exit } => Ok((edit, exit)),
            Decision::Lease(protocol, outside) => Err(Fate::Wants(protocol, outside)),
            Decision::Refuse(refusal) => {
                if let Some(reason) = Reason::of_refusal(refusal, self.config.refusal) {
                    self.complain(INSIDE, reason, packet, frame, now, out);
                }
                Err(Fate::Dropped(DropReason::Refused(refusal)))
            }
        }
    }

    /// The decision about a packet of a translated prefix, which has no session and is asked about
    /// each time. An error carries what the sender writes into it, as data do.
    fn unless_denied(
        &self,
        packet: &Packet,
        decision: Decision,
        now: Time,
        seen: &mut impl Observer,
    ) -> Decision {
        let Flow { protocol, source, destination } = match packet.summary {
            Summary::Data(data) => data.flow,
            Summary::Error(error) => error.about.reversed(),
        };
        let later = packet.fragment.is_some_and(|fragment| fragment.offset > 0);
        let allowed = match later {
            true => self.nat.may_follow(protocol, source.ip, destination.ip, now),
            false => self.nat.may_leave(protocol, source.ip, destination, Some(now)),
        };
        let refusal = match decision {
            Decision::Refuse(refusal) => refusal,
            _ if !allowed => Refusal::EgressDenied,
            _ => return decision,
        };
        if seen.wants() {
            seen.step(self.nat.refused(packet.summary.flow(), refusal, now), now);
        }
        Decision::Refuse(refusal)
    }

    /// What the MSS option of this packet may say at most, if it has one: what fits both links.
    pub(super) fn mss_limit(&self, packet: &Packet) -> Option<u16> {
        packet.mss?;
        let mtu = self.config.inside.mtu.min(self.config.outside.mtu);
        Some(hop::segment_size(packet, mtu))
    }
}

/// Why an ICMPv6 message that concerns the link alone goes no further. Neighbour discovery has been
/// taken before, unless it hides behind extension headers.
fn of_the_link(packet: &Packet) -> Option<DropReason> {
    match packet.icmp? {
        (130..=132 | 143, _) => Some(DropReason::MulticastListener),
        (icmp::V6_ROUTER_SOLICITATION..=icmp::V6_REDIRECT, _) => Some(DropReason::BadNdp),
        _ => None,
    }
}
