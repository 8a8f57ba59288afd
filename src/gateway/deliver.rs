//! The last step to an inside host: its MAC, or the question for it; in pieces if it must be.

use super::hop::{pieces, too_big};
use super::neighbors::{Held, Lookup, Question};
use super::{Answer, DropReason, Fate, Gateway, INSIDE, Outbox, arp, ndp, way};
use crate::flow::{LinkId, Time};
use crate::wire::Buffer;
use crate::wire::ethernet::{self, Frame};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

impl Gateway {
    /// Puts the Ethernet header of the inside host `to`, or of the one that it is behind, before the IP packet in `packet`, in pieces
    /// if it is too big for the TAP; or holds it while asking who has `to`. `from` is the link it
    /// came in by, `None` for a packet of our own.
    pub(super) fn deliver_inside(
        &mut self,
        to: IpAddr,
        packet: &mut Buffer,
        from: Option<LinkId>,
        now: Time,
        out: &mut Outbox,
    ) -> Fate {
        let Some(hop) = self.config.next_hop(to) else {
            return Fate::Dropped(DropReason::NoNeighbor);
        };
        match self.neighbors.lookup(hop, now) {
            Lookup::Known(mac, question) => {
                let ethertype = if to.is_ipv4() { ethernet::IPV4 } else { ethernet::IPV6 };
                let frame = Frame { destination: mac, source: self.config.mac, ethertype };
                if let Some(question) = question {
                    self.ask(question, out);
                }
                let mtu = self.config.inside.mtu;
                if too_big(packet, mtu) {
                    let pieces = pieces(packet, mtu);
                    if pieces.is_empty() {
                        return Fate::Dropped(DropReason::TooBig);
                    }
                    for mut piece in pieces {
                        piece.push_front(&frame.to_bytes());
                        out.push(INSIDE, piece);
                    }
                    return Fate::Cut(INSIDE);
                }
                packet.push_front(&frame.to_bytes());
                Fate::Pass(INSIDE)
            }
            Lookup::Unknown(question) => {
                if let Some(question) = question {
                    self.ask(question, out);
                }
                let mut copy = Buffer::from_bytes(packet.bytes());
                copy.offload = packet.offload;
                if self.neighbors.hold(hop, Held { packet: copy, from }).is_some() {
                    self.counters.dropped(DropReason::NeighborLimit);
                }
                Fate::Held
            }
            Lookup::Full => Fate::Dropped(DropReason::NeighborLimit),
        }
    }

    /// Sends a packet that has waited for the MAC of its host.
    pub(super) fn release_inside(&mut self, held: Held, now: Time, out: &mut Outbox) {
        let Held { mut packet, from } = held;
        let Some(to) = destination(packet.bytes()) else { return };
        let length = packet.len();
        let fate = self.deliver_inside(to, &mut packet, from, now, out);
        if let (Fate::Pass(INSIDE) | Fate::Cut(INSIDE), Some(from)) = (fate, from) {
            self.counters.passed(way(from, INSIDE), length);
        }
        if fate == Fate::Pass(INSIDE) {
            out.push(INSIDE, packet);
        }
    }

    /// Sends an IP packet of our own to an inside host.
    pub(super) fn answer_inside(&mut self, to: IpAddr, mut packet: Buffer, now: Time, out: &mut Outbox) {
        if self.deliver_inside(to, &mut packet, None, now, out) == Fate::Pass(INSIDE) {
            out.push(INSIDE, packet);
        }
    }

    /// Puts a question to the inside, in the words of its family.
    pub(super) fn ask(&mut self, question: Question, out: &mut Outbox) {
        let Question { ip, known } = question;
        let mac = self.config.mac;
        let (words, question) = match (self.config.address_for(ip), ip) {
            (Some(IpAddr::V4(from)), IpAddr::V4(ip)) => (Answer::ArpQuestion, arp::question(mac, from, ip)),
            (Some(IpAddr::V6(from)), IpAddr::V6(ip)) => {
                (Answer::NdpQuestion, ndp::question(mac, from, ip, known))
            }
            _ => return,
        };
        self.counters.answered(words);
        out.push(INSIDE, question);
    }
}

/// The destination of an IP packet.
fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(Ipv4Addr::from(*packet.get(16..)?.first_chunk::<4>()?).into()),
        6 => Some(Ipv6Addr::from(*packet.get(24..)?.first_chunk::<16>()?).into()),
        _ => None,
    }
}
