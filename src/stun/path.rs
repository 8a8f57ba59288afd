//! Large packets: do fragments pass (RFC 5780 §3.5), and how large may a packet be that must not be cut?
//!
//! A large question should have a small answer, lest one not know which of the two was lost. An attribute
//! that no server knows does it: every server of RFC 8489 answers 420 in a few bytes.

use super::attribute::Attribute;
use super::exchange::{Asker, FEW_TRIES, Question, Socket, World};
use super::message::{HEADER, Message};
use super::report::{Found, Fragments};
use super::server::LONGEST_PADDING;
use std::net::SocketAddr;

/// A type that must be understood (RFC 8489 §14) and that IANA gave to nobody.
const UNKNOWN: u16 = 0x7ffe;
/// How many sizes are tried at once.
const AT_ONCE: usize = 8;

/// Asks in fragments, for an answer in fragments.
///
/// # Errors
/// Why it cannot be known.
pub fn fragments<W: World>(asker: &mut Asker<'_, W>, server: SocketAddr) -> Found<Fragments> {
    let socket = asker.world.open(false)?;
    let found = fragments_by(asker, server, socket);
    asker.world.close(socket);
    found
}

fn fragments_by<W: World>(asker: &mut Asker<'_, W>, server: SocketAddr, socket: Socket) -> Found<Fragments> {
    let mtu = asker.world.mtu();
    if mtu > LONGEST_PADDING {
        return Err(format!("the own link carries {mtu} bytes in one piece"));
    }
    // As RFC 5780 §7.6 has it: as much as the link carries, and more with headers.
    let padding = Attribute::Padding(mtu.next_multiple_of(4));
    let request = asker.request().with(padding.clone());
    if let Some(reply) = asker.ask(Question::new(socket, server, request)) {
        let padded = |attribute: &Attribute| (*attribute == padding).then_some(());
        let back = match reply.message.find(padded) {
            Some(()) => Ok(true),
            None => Err("the server answers without PADDING".to_owned()),
        };
        return Ok(Fragments { out: true, back });
    }
    let request = asker.request().with(padding).with(Attribute::Other(UNKNOWN, Vec::new()));
    if asker.ask(Question::new(socket, server, request)).is_some() {
        return Ok(Fragments { out: true, back: Ok(false) });
    }
    Ok(Fragments { out: false, back: Err("fragments do not reach the server".to_owned()) })
}

/// Finds the largest packet that reaches the server uncut, by packets that must not be cut.
///
/// # Errors
/// Why it cannot be known.
pub fn mtu<W: World>(asker: &mut Asker<'_, W>, server: SocketAddr) -> Found<u16> {
    let socket = asker.world.open(true)?;
    let found = mtu_by(asker, server, socket);
    asker.world.close(socket);
    found
}

fn mtu_by<W: World>(asker: &mut Asker<'_, W>, server: SocketAddr, socket: Socket) -> Found<u16> {
    // RFC 791 and RFC 8200 ask as much of every link, or every host.
    let least: u16 = if server.is_ipv4() { 576 } else { 1280 };
    let most = asker.world.mtu().max(least) & !3;
    let passed = |asker: &mut Asker<'_, W>, sizes: &[u16]| {
        let questions: Vec<Question> = sizes
            .iter()
            .map(|&size| Question::new(socket, server, sized(asker.request(), server, size)))
            .collect();
        let replies = asker.ask_all(&questions, FEW_TRIES);
        sizes.iter().zip(replies).filter(|(_, reply)| reply.is_some()).map(|(&size, _)| size).max()
    };
    let (mut low, mut high) = match passed(asker, &[least, most]) {
        Some(size) if size == most => return Ok(most),
        Some(size) => (size, most),
        None => return Err(format!("not even {least} bytes are answered")),
    };
    while high - low > 4 {
        let sizes = between(low, high);
        match passed(asker, &sizes) {
            Some(size) => {
                high = sizes.iter().copied().find(|&other| other > size).unwrap_or(high);
                low = size;
            }
            None => high = sizes[0],
        }
    }
    Ok(low)
}

/// Up to [`AT_ONCE`] multiples of 4 between the two, evenly and in order; at least one.
fn between(low: u16, high: u16) -> Vec<u16> {
    let steps = usize::from((high - low) / 4).saturating_sub(1).clamp(1, AT_ONCE);
    let part = |number: usize| usize::from(high - low) * number / (steps + 1);
    let size = |number| (low + u16::try_from(part(number)).unwrap_or(0)) & !3;
    let mut sizes: Vec<u16> = (1..=steps).map(size).filter(|&size| size > low && size < high).collect();
    sizes.dedup();
    if sizes.is_empty() { vec![low + 4] } else { sizes }
}

/// A request that makes an IP packet of `size` bytes, a multiple of 4, and has a small answer.
fn sized(request: Message, server: SocketAddr, size: u16) -> Message {
    let ip = if server.is_ipv4() { 20 } else { 40 };
    let headers = ip + 8 + HEADER + 4 + 4;
    let padding = usize::from(size).saturating_sub(headers);
    let padding = u16::try_from(padding).unwrap_or(0);
    request.with(Attribute::Other(UNKNOWN, Vec::new())).with(Attribute::Padding(padding))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stun::Transaction;

    #[test]
    fn a_sized_request_makes_a_packet_of_that_size() {
        for (server, headers) in [("192.0.2.1:3478", 28), ("[2001:db8::1]:3478", 48)] {
            for size in [576, 1280, 1500] {
                let request = Message::request(Transaction::modern([0; 12]));
                let bytes = sized(request, server.parse().unwrap(), size).write();
                assert_eq!(bytes.len() + headers, usize::from(size));
            }
        }
    }

    #[test]
    fn sizes_tried_are_between_what_passed_and_what_did_not() {
        for (low, high) in [(576, 1500), (1280, 1288), (1492, 1500), (576, 65532)] {
            let sizes = between(low, high);
            assert!(sizes.is_sorted() && sizes.len() <= AT_ONCE, "{sizes:?}");
            assert!(sizes.iter().all(|&size| size > low && size < high && size % 4 == 0), "{sizes:?}");
        }
    }
}
