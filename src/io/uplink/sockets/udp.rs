//! UDP: packets of a leased port to and from its socket.

use super::alias::Aliases;
use super::inbox::Inbox;
use super::ports::Port;
use super::split::Split;
use super::{Trouble, errors};
use crate::flow::{Endpoint, Protocol, Time};
use crate::io::sys::datagram::{self, Cutting, Received, Sent};
use crate::wire::craft::IcmpError;
use crate::wire::encapsulate;
use crate::wire::{Buffer, Packet, craft, ipv6};
use std::io;
use std::net::IpAddr;

/// Datagrams that the kernel takes as one super-frame, at most (before Linux 6.9).
const MOST_SEGMENTS: usize = 64;

/// How often sending is tried where an earlier error came instead.
const ATTEMPTS: usize = 4;

/// IPv4 and UDP headers, IPv6 and UDP headers, in bytes.
const HEADERS: usize = 28;
const HEADERS_SIX: usize = ipv6::HEADER + 8;

/// Errors that a socket may report late, about a datagram that it sent before.
pub(super) fn may_be_late(errno: i32) -> bool {
    matches!(
        errno,
        libc::ECONNREFUSED
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::ENETDOWN
            | libc::EPROTO
            | libc::ENOPROTOOPT
            | libc::EOPNOTSUPP
            | libc::EACCES
    )
}

/// Sends a packet of the translator's, whole in `buffer`, by the socket of its outside port. `whole`
/// says that it was put together from fragments.
pub(super) fn send(
    port: &mut Port,
    packet: &Packet,
    buffer: &Buffer,
    whole: bool,
    aliases: &Aliases,
    split: &mut Split,
    now: Time,
) -> Result<(), Trouble> {
    let remote = packet.summary.flow().destination;
    // A client of the host itself that is seen as somebody who is no alias for it.
    let client = port.talks.host(remote, |ip| aliases.poses(ip));
    let host = client.unwrap_or_else(|| aliases.host(Protocol::Udp, remote));
    let forbidden = packet.dont_fragment && !whole;
    port.cut(if forbidden { Cutting::Forbidden } else { Cutting::Allowed });
    let start = usize::from(packet.payload);
    let says = match (buffer.offload.segment, buffer.bytes().get(start - 4..start - 2)) {
        (None, Some(&[a, b])) => start - 8 + usize::from(u16::from_be_bytes([a, b])),
        _ => packet.length as usize,
    };
    let payload = buffer.bytes().get(start..says.min(packet.length as usize)).unwrap_or_default();
    let segment = buffer.offload.segment.map(|segment| segment.size);
    let size = segment.map_or(payload.len(), usize::from).max(1);
    let from = port.asked(host);
    let to = |to| Sent { to, from, hops: packet.ttl.max(1), tos: packet.tos, segment };
    if !split.is_empty() && aliases.resolves(Protocol::Udp, remote) {
        return payload.chunks(size).try_for_each(|question| {
            let host = split.question(question, now).unwrap_or(host);
            port.talks.note(host, remote);
            send_one(port, question, &Sent { segment: None, ..to(host) })
        });
    }
    if client.is_none() {
        port.talks.note(host, remote);
    }
    match segment {
        None => send_one(port, payload, &to(host)),
        Some(_) => {
            payload.chunks(size * MOST_SEGMENTS).try_for_each(|part| send_many(port, part, size, &to(host)))
        }
    }
}

/// Sends datagrams of `size` bytes as one super-frame, or one by one where the kernel does not
/// take that.
fn send_many(port: &mut Port, part: &[u8], size: usize, sent: &Sent) -> Result<(), Trouble> {
    let one = Sent { segment: None, ..*sent };
    if part.len() <= size {
        return send_one(port, part, &one);
    }
    match send_one(port, part, sent) {
        Err(Trouble::Invalid | Trouble::TooBig | Trouble::Answer(IcmpError::TooBig { .. })) => {
            part.chunks(size).try_for_each(|datagram| send_one(port, datagram, &one))
        }
        done => done,
    }
}

fn send_one(port: &mut Port, payload: &[u8], sent: &Sent) -> Result<(), Trouble> {
    let mut last = Trouble::Invalid;
    for _ in 0..ATTEMPTS {
        let Err(error) = datagram::send(port.socket_to(sent.to), payload, sent) else { return Ok(()) };
        last = Trouble::of(&error, port.socket_to(sent.to));
        let errno = error.raw_os_error().unwrap_or(0);
        // Whatever it is about, the error queue knows more.
        port.complaints |= may_be_late(errno);
        if !may_be_late(errno) {
            break;
        }
    }
    Err(last)
}

/// Receives the next packet of a port: a complaint or a datagram.
///
/// # Errors
/// `WouldBlock` when there is none; `Interrupted` if one was consumed that cannot be used.
pub(super) fn receive(
    port: &mut Port,
    (aliases, split): (&Aliases, &mut Split),
    inbox: &mut Inbox,
    (own, now): (IpAddr, Time),
    buffer: &mut Buffer,
) -> io::Result<()> {
    for _ in 0..ATTEMPTS {
        if port.complaints {
            match complaint(port, (aliases, split), (own, now), buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => port.complaints = false,
                told => return told,
            }
        }
        buffer.clear();
        match receive_from(port, buffer) {
            Ok(received) => {
                hear(&received, aliases, port, split, buffer, now);
                return take(port, &received, aliases, inbox, buffer);
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => return Err(error),
                _ => port.complaints = true,
            },
        }
    }
    Err(io::ErrorKind::Interrupted.into())
}

/// Receives from the port's socket, and then from that of the other family, where only those are heard
/// to whom it talks.
fn receive_from(port: &Port, buffer: &mut Buffer) -> io::Result<Received> {
    let first = datagram::receive(&port.socket, buffer.spare());
    let (Err(error), Some(other)) = (&first, &port.other) else { return first };
    if error.kind() != io::ErrorKind::WouldBlock {
        return first;
    }
    let received = datagram::receive(other, buffer.spare())?;
    let known = port.talks.seen(received.from).is_some();
    if known { Ok(received) } else { Err(io::ErrorKind::Interrupted.into()) }
}

/// Has split DNS hear what a resolver says.
fn hear(
    received: &Received,
    aliases: &Aliases,
    port: &Port,
    split: &mut Split,
    buffer: &mut Buffer,
    now: Time,
) {
    let remote = if split.is_empty() { None } else { port.talks.seen(received.from) };
    if remote.is_none_or(|remote| !aliases.resolves(Protocol::Udp, remote)) {
        return;
    }
    let size = received.segment.map_or(received.length, usize::from).max(1);
    let whole = buffer.spare().get(..received.length).unwrap_or_default();
    whole.chunks(size).for_each(|answer| split.answer(received.from, answer, now));
}

/// Makes a packet of the datagrams in `buffer`.
fn take(
    port: &mut Port,
    received: &Received,
    aliases: &Aliases,
    inbox: &mut Inbox,
    buffer: &mut Buffer,
) -> io::Result<()> {
    let unusable = || io::Error::from(io::ErrorKind::Interrupted);
    let known = port.talks.seen(received.from).or_else(|| aliases.seen(received.from));
    let remote = known.filter(|_| !received.truncated).ok_or_else(unusable)?;
    if aliases.poses(received.from.ip()) {
        port.talks.keep(received.from, remote);
    }
    port.note_asked(received.from, received.to);
    buffer.set_len(received.length);
    let outside = port.outside;
    let headers = if outside.ip.is_ipv6() { HEADERS_SIX } else { HEADERS };
    let segment = received.segment.filter(|size| usize::from(*size) < received.length);
    if let Some(size) = segment.filter(|size| !inbox.fits(usize::from(*size), headers)) {
        let ends = ((remote.ip, remote.port), (outside.ip, outside.port));
        inbox.push_parts(buffer.bytes(), size.into(), ends, received);
        return if inbox.pop(buffer) { Ok(()) } else { Err(unusable()) };
    }
    let largest = segment.map_or(received.length, usize::from) + headers;
    let outer = inbox.outer(remote.ip, outside.ip, received, largest);
    let made = encapsulate::udp(buffer, &outer, (remote.port, outside.port), segment);
    if made && inbox.fit(buffer) { Ok(()) } else { Err(unusable()) }
}

/// Makes a packet of the next complaint.
fn complaint(
    port: &mut Port,
    (aliases, split): (&Aliases, &mut Split),
    (own, now): (IpAddr, Time),
    buffer: &mut Buffer,
) -> io::Result<()> {
    let mut quoted = [0; craft::ERROR_LENGTH_IPV6];
    let (told, other) = match (datagram::receive_error(&port.socket, &mut quoted), &port.other) {
        (Err(error), Some(other)) if error.kind() == io::ErrorKind::WouldBlock => {
            (datagram::receive_error(other, &mut quoted)?, true)
        }
        (told, _) => (told?, false),
    };
    // Whoever asked repeats the question, and the next server answers. To the gateway it would be the
    // host's resolver that refuses; and what another family says cannot be told in this one.
    let remote = told.as_ref().and_then(|told| port.talks.seen(told.about));
    let resolver = remote.is_some_and(|remote| aliases.resolves(Protocol::Udp, remote));
    let refused = resolver && told.as_ref().is_some_and(|told| split.refused(told.about, now));
    let Some(told) = told.filter(|_| !refused && !other) else {
        return Err(io::ErrorKind::Interrupted.into());
    };
    let seen = |host| port.talks.seen(host).or_else(|| aliases.seen(host));
    let packet = seen(told.about).and_then(|remote: Endpoint| {
        let from = match told.offender {
            Some(ip) if ip == told.about.ip() => remote.ip,
            Some(ip) if ip.is_loopback() => own,
            Some(ip) if told.icmp.is_some() => ip,
            _ => own,
        };
        let quoted = quoted.get(..told.length)?;
        errors::of_queue(&told, Protocol::Udp, port.outside, remote, from, quoted)
    });
    let packet = packet.ok_or(io::ErrorKind::Interrupted)?;
    buffer.fill(packet.bytes());
    Ok(())
}
