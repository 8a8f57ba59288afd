//! Listens to what hosts inside ask their resolvers and are told: for egress rules about names, and to
//! notice a resolver of the host that does not answer.
//!
//! Only resolvers are believed that the configuration names: a host may have a friend outside who
//! answers whatever it likes. Of TCP what is read lies whole in a segment, as ordinary answers do.

use super::{Gateway, HOST};
use crate::flow::{Alias, Data, Domain, Endpoint, Flow, LinkId, Protocol, Summary, Time};
use crate::nat::Asked;
use crate::wire::dns::{self, Message};
use crate::wire::{Buffer, Packet};

impl Gateway {
    /// Listens to a packet that leaves; as it came, with the IP header in front.
    #[inline]
    pub(super) fn hear_question(&mut self, packet: &Packet, buffer: &Buffer, now: Time) {
        let Summary::Data(Data { flow, .. }) = &packet.summary else { return };
        if flow.destination.port != dns::PORT {
            return;
        }
        if self.forwards_names(flow.protocol, flow.destination) {
            for datagram in payloads(packet, buffer).1 {
                // Domains with resolvers of their own say nothing about the host's.
                match dns::about(datagram).map(|about| about.name) {
                    Some(name) if Domain::of(&self.config.domains, &name).is_some() => {}
                    name => self.silence.asked(name.as_deref().unwrap_or_default(), now),
                }
            }
        }
        if !self.believes(flow.protocol, flow.destination) {
            return;
        }
        for message in messages(packet, buffer).filter(|message| !message.answer) {
            self.nat.name_asked(asked(*flow, &message), now);
        }
    }

    /// Listens to a packet for the host at `inside`, or, with `None`, at its destination.
    #[inline]
    pub(super) fn hear_answer(
        &mut self,
        from: LinkId,
        packet: &Packet,
        inside: Option<Endpoint>,
        buffer: &Buffer,
        now: Time,
    ) {
        let flow = match &packet.summary {
            Summary::Data(Data { flow, .. }) => flow,
            Summary::Error(error) => {
                let about = error.about;
                if from == HOST && self.forwards_names(about.protocol, about.destination) {
                    self.silence.refused();
                }
                return;
            }
        };
        if flow.source.port != dns::PORT {
            return;
        }
        if from == HOST && self.forwards_names(flow.protocol, flow.source) {
            let own = |datagram: &[u8]| {
                let name = dns::about(datagram).map(|about| about.name);
                name.is_none_or(|name| Domain::of(&self.config.domains, &name).is_none())
            };
            if payloads(packet, buffer).1.any(own) {
                self.silence.answered(now);
            }
        }
        if !self.believes(flow.protocol, flow.source) {
            return;
        }
        let source = inside.unwrap_or(flow.destination);
        let flow = Flow { protocol: flow.protocol, source, destination: flow.source };
        for message in messages(packet, buffer).filter(|message| message.answer) {
            let whole = message.complete && packet.fragment.is_none();
            // No such name is an answer too; it has no addresses.
            let addresses = if message.failed { Some(Vec::new()) } else { message.addresses() };
            let addresses = addresses.filter(|_| whole || message.failed);
            self.nat.name_answered(&asked(flow, &message), addresses.as_deref(), now);
        }
    }

    /// Whether somebody asked there by UDP is asking the host's resolver.
    fn forwards_names(&self, protocol: Protocol, end: Endpoint) -> bool {
        let dns = |alias: &Alias| alias.port == Some(dns::PORT) && alias.covers(protocol, end);
        protocol == Protocol::Udp && self.config.aliases.iter().any(dns)
    }

    /// Whether the host's resolver does not answer, and another should be asked; says so once.
    pub fn resolver_is_silent(&mut self) -> bool {
        self.silence.take()
    }

    /// Whether what this resolver says counts.
    fn believes(&self, protocol: Protocol, resolver: Endpoint) -> bool {
        matches!(protocol, Protocol::Tcp | Protocol::Udp)
            && self.config.resolvers.contains(&resolver.ip)
            && self.nat.heeds_names()
    }
}

fn asked(flow: Flow, message: &Message) -> Asked {
    let question = &message.question;
    Asked { flow, id: question.id, six: question.six, name: question.name.as_str().into() }
}

/// The messages in a packet.
fn messages<'a>(packet: &Packet, buffer: &'a Buffer) -> impl Iterator<Item = Message<'a>> {
    let (stream, datagrams) = payloads(packet, buffer);
    dns::framed(stream).chain(datagrams).filter_map(Message::parse)
}

/// What a packet carries of a stream, and its datagrams. A super-frame of UDP has several.
fn payloads<'a>(packet: &Packet, buffer: &'a Buffer) -> (&'a [u8], impl Iterator<Item = &'a [u8]>) {
    let payload = buffer.bytes().get(usize::from(packet.payload)..).unwrap_or_default();
    let (stream, datagrams) = match packet.summary.protocol() {
        Protocol::Tcp => (payload, &payload[..0]),
        _ => (&payload[..0], payload),
    };
    let size = buffer.offload.segment.map_or(payload.len(), |segment| usize::from(segment.size));
    (stream, datagrams.chunks(size.max(1)))
}
