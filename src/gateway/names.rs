//! Listens to what hosts inside ask their resolvers and are told, for egress rules about names.
//!
//! Only resolvers are believed that the configuration names: a host may have a friend outside who
//! answers whatever it likes. Of TCP what is read lies whole in a segment, as ordinary answers do.

use super::Gateway;
use crate::flow::{Data, Endpoint, Flow, Protocol, Summary, Time};
use crate::nat::Asked;
use crate::wire::dns::{self, Message};
use crate::wire::{Buffer, Packet};

impl Gateway {
    /// Listens to a packet that leaves; as it came, with the IP header in front.
    #[inline]
    pub(super) fn hear_question(&mut self, packet: &Packet, buffer: &Buffer, now: Time) {
        let Summary::Data(Data { flow, .. }) = &packet.summary else { return };
        if flow.destination.port != dns::PORT || !self.believes(flow.protocol, flow.destination) {
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
        packet: &Packet,
        inside: Option<Endpoint>,
        buffer: &Buffer,
        now: Time,
    ) {
        let Summary::Data(Data { flow, .. }) = &packet.summary else { return };
        if flow.source.port != dns::PORT || !self.believes(flow.protocol, flow.source) {
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

/// The messages in a packet. A super-frame of UDP has one in each of its datagrams.
fn messages<'a>(packet: &Packet, buffer: &'a Buffer) -> impl Iterator<Item = Message<'a>> {
    let payload = buffer.bytes().get(usize::from(packet.payload)..).unwrap_or_default();
    let (stream, datagrams) = match packet.summary.protocol() {
        Protocol::Tcp => (payload, &payload[..0]),
        _ => (&payload[..0], payload),
    };
    let size = buffer.offload.segment.map_or(payload.len(), |segment| usize::from(segment.size));
    let all = dns::framed(stream).chain(datagrams.chunks(size.max(1)));
    all.filter_map(Message::parse)
}
