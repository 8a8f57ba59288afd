//! RFC 5508 (BCP 148): what a NAT must do with ICMP.

use super::contender::{Life, PLAIN, Setup};
use super::packet::{ICMP, Packet, Told, checksum, data, udp};
use super::trial::Place::World;
use super::trial::{A, B, GI, HOSTS, Place, R9, S1, S2, Trial, Who, X};
use super::{Fault, Shown, demand, requirements};
use crate::lab::programs::now;
use std::collections::BTreeSet;
use std::time::Duration;

const SHORT: Setup = Setup { lives: &[(Life::Icmp, 4)], ..PLAIN };
const TWENTY_PORTS: Setup = Setup { ports: Some((40_000, 40_019)), ..PLAIN };

requirements! {
    41 Must "RFC 5508 REQ-1" echo_and_its_reply_pass
        "an echo request passes, and its reply comes back with the sender's identifier";
    41 May "RFC 5508 REQ-1" timestamp_and_its_reply_pass
        "so do a timestamp request and its reply";
    42 Should "RFC 5508 REQ-1a" query_identifier_does_not_depend_on_the_destination
        "one inside identifier has one external identifier, whatever the destination";
    43 Must "RFC 5508 REQ-2" query_session_lives_a_minute
        "an ICMP query session lives at least 60 s, by the NAT's own word";
    43 Should "RFC 5508 REQ-2a" query_timer_can_be_set
        "the timer can be set: alive before it, gone after it" in SHORT;
    44 Should "RFC 5508 REQ-3" error_with_a_bad_checksum_is_dropped
        "an ICMP error with a wrong checksum is dropped";
    45 Should "RFC 5508 REQ-3a" error_with_a_bad_quoted_header_is_dropped
        "an ICMP error whose quoted IP header has a wrong checksum is dropped";
    46 Must "RFC 5508 REQ-3b" options_in_a_quote_are_skipped
        "an ICMP error quoting a header with options is delivered, ports reverted";
    47 Should "RFC 5508 REQ-3c" quoted_transport_checksum_is_not_judged
        "an ICMP error quoting a packet with a wrong UDP checksum is delivered";
    48 Must "RFC 5508 REQ-3d" extensions_pass_untouched
        "ICMP extensions (RFC 4884) and the length byte pass untouched";
    49 Must "RFC 5508 REQ-4" errors_from_outside_are_translated_with_their_quote
        "errors from outside: quote restored, type and code kept, to the host that sent it";
    49 Should "RFC 5508 REQ-4" errors_about_nothing_are_dropped
        "an ICMP error about no session is dropped";
    50 Must "RFC 5508 REQ-5" errors_from_inside_are_translated_with_their_quote
        "errors from inside, of the host or a router there: no inside address leaves, outside or quoted";
    51 Must "RFC 5508 REQ-6" errors_do_not_refresh_queries
        "ICMP errors neither prolong nor end a query session" in SHORT;
    52 Must "RFC 5508 REQ-7" hairpinned_errors_come_back
        "an error about a hairpinned packet returns to its sender, from X, quoting what was sent";
    54 Should "RFC 5508 REQ-8" exhaustion_is_told
        "no port left: the sender is told by ICMP, and no live session pays" in TWENTY_PORTS;
    57 May "RFC 5508 REQ-10b" odd_types_never_leak
        "redirects, address mask, router discovery: passed or dropped, never untranslated";
    58 Should "RFC 5508 REQ-10c" obsolete_types_are_dropped
        "source quench and information requests are dropped";
    59 Should "RFC 5508 REQ-10d" generated_errors_copy_the_ds_field
        "an ICMP error of the NAT's own carries the DSCP of the packet it is about";
    61 Should "RFC 5508 REQ-10f" generated_errors_are_rate_limited
        "5000 packets with TTL 1 get a bounded number of answers, and others still pass";
    63 Must "RFC 5508 7.1" too_big_comes_in_unchanged
        "a 3/4 from outside reaches the inside host with its MTU field";
    64 Must "RFC 5508 7.2" ttl_is_counted_and_its_end_told
        "TTL 1 gets 11/0 from the gateway's inside address: traceroute sees a hop";
    65 Should "RFC 5508 7.3" source_routes_are_dropped
        "packets with source-route options, outer or quoted, are dropped";
    66 May "RFC 5508 REQ-11" unknown_types_never_leak
        "an unknown ICMP type is dropped or translated, never leaked";
}

fn echo_and_its_reply_pass(lab: &mut Trial) -> Shown {
    let out = lab.out(&lab.ask(A, S1, 500, &data(12)))?;
    lab.back(&lab.reply(S1, X, out.from().port(), &data(12)), lab.at(A, 500))?;
    Ok(())
}

fn timestamp_and_its_reply_pass(lab: &mut Trial) -> Shown {
    let out = lab.out(&lab.query(A, S1, 13, 501, &data(12)))?;
    lab.back(&lab.query(S1, X, 14, out.from().port(), &data(12)), lab.at(A, 501))?;
    Ok(())
}

fn query_identifier_does_not_depend_on_the_destination(lab: &mut Trial) -> Shown {
    let mut seen = [BTreeSet::new(), BTreeSet::new()];
    for (a, b) in [(S1, S2), (S2, S1), (R9, R9)] {
        seen[0].insert(lab.out(&lab.echo(A, a, 600))?.from().port());
        seen[1].insert(lab.out(&lab.echo(B, b, 600))?.from().port());
    }
    demand(seen[0].len() == 1 && seen[1].len() == 1 && seen[0] != seen[1], format!("A and B had {seen:?}"))
}

fn query_session_lives_a_minute(lab: &mut Trial) -> Shown {
    let start = now();
    lab.out(&lab.echo(A, S1, 601))?;
    let word = lab.word(ICMP, lab.at(A, 601))?;
    // Asking takes its time on a busy machine.
    demand(
        word.seconds + 1 + (now() - start).as_secs() >= 60,
        format!("a query session lives {} s", word.seconds),
    )
}

fn query_timer_can_be_set(lab: &mut Trial) -> Shown {
    let [early, late] = [602, 603].map(|id| lab.echo(A, S1, id));
    let (early, late) = (lab.out(&early)?.from().port(), lab.out(&late)?.from().port());
    lab.wait(Duration::from_millis(2400))?;
    lab.back(&lab.reply(S1, X, early, &data(24)), lab.at(A, 602))?;
    lab.wait(Duration::from_millis(2400))?;
    lab.blocked(World, &lab.reply(S1, X, late, &data(24)), &HOSTS)
}

/// An outbound datagram as it left, for errors about it.
fn sent(lab: &mut Trial, port: u16) -> Shown<Packet> {
    let packet = lab.out(&udp(lab.at(A, port), lab.at(S1, 4000)))?;
    lab.forget();
    Ok(packet)
}

/// An error reached A, and its quote is about the datagram from `port`.
fn right(lab: &Trial, got: &Packet, from: Who, port: u16) -> Shown {
    let quote = got.quote().ok_or_else(|| Fault::NotMet("its quote cannot be read".into()))?;
    let right = got.source == from && quote.from() == lab.at(A, port) && quote.to() == lab.at(S1, 4000);
    demand(right, format!("A got {got}"))?;
    let header = 20 + quote.options.len();
    let summed = got.source.is_ipv6() || checksum(&[&got.quoted_bytes()[..header]]) == 0;
    demand(summed, "the quoted IP header has a wrong checksum")
}

fn error_with_a_bad_checksum_is_dropped(lab: &mut Trial) -> Shown {
    let sent = sent(lab, 6100)?;
    let good = lab.tell(R9, X, Told::Port, &sent);
    let mut bad = good.clone();
    bad.payload[2] ^= 0x55;
    lab.blocked(World, &bad, &HOSTS)?;
    let got = lab.back(&good, lab.at(A, 0))?;
    right(lab, &got, R9, 6100)
}

fn error_with_a_bad_quoted_header_is_dropped(lab: &mut Trial) -> Shown {
    let sent = sent(lab, 6101)?;
    let good = lab.tell(R9, X, Told::Port, &sent);
    let mut bad = good.clone();
    bad.payload[8 + 10] ^= 0x55;
    bad.sum();
    lab.blocked(World, &bad, &HOSTS)?;
    let got = lab.back(&good, lab.at(A, 0))?;
    right(lab, &got, R9, 6101)
}

fn options_in_a_quote_are_skipped(lab: &mut Trial) -> Shown {
    let sent = sent(lab, 6102)?;
    // No-operations, a record route without room, and the end: 12 bytes.
    let with = Packet { options: vec![1, 1, 1, 1, 7, 7, 8, 192, 0, 2, 9, 0], ..sent };
    let got = lab.back(&lab.tell(R9, X, Told::Port, &with), lab.at(A, 0))?;
    right(lab, &got, R9, 6102)
}

fn quoted_transport_checksum_is_not_judged(lab: &mut Trial) -> Shown {
    let mut sent = sent(lab, 6103)?;
    sent.payload[6] ^= 0x55;
    let whole = lab.icmp(R9, X, 3, 3, [0; 4], &sent.bytes());
    let got = lab.back(&whole, lab.at(A, 0))?;
    right(lab, &got, R9, 6103)
}

fn extensions_pass_untouched(lab: &mut Trial) -> Shown {
    let sent = sent(lab, 6104)?;
    let mut body = sent.bytes();
    body.resize(128, 0);
    // An extension header (version 2), and an MPLS label stack object of one entry.
    let mut extension = vec![0x20, 0, 0, 0, 0, 8, 1, 1, 0x00, 0x3e, 0x81, 0x01];
    let sum = checksum(&[&extension]);
    extension[2..4].copy_from_slice(&sum.to_be_bytes());
    body.extend_from_slice(&extension);
    let got = lab.back(&lab.icmp(R9, X, 11, 0, [0, 32, 0, 0], &body), lab.at(A, 0))?;
    right(lab, &got, R9, 6104)?;
    demand(got.payload[5] == 32, format!("the length byte became {}", got.payload[5]))?;
    demand(got.payload.ends_with(&extension), "the extension changed")?;
    demand(got.payload.len() == 8 + 128 + extension.len(), "the message changed its length")
}

fn errors_from_outside_are_translated_with_their_quote(lab: &mut Trial) -> Shown {
    let all = [Told::Port, Told::Host, Told::Hops, Told::Reassembly, Told::Parameter];
    for (port, told) in (6105..).zip(all) {
        let sent = sent(lab, port)?;
        let got = lab.back(&lab.tell(R9, X, told, &sent), lab.at(A, 0))?;
        right(lab, &got, R9, port)?;
        demand(got.tells(told), format!("{told:?} became {got}"))?;
    }
    Ok(())
}

fn errors_about_nothing_are_dropped(lab: &mut Trial) -> Shown {
    sent(lab, 6111)?;
    let never = udp(lab.at(X, 61_999), lab.at(S1, 4000));
    lab.blocked(World, &lab.tell(R9, X, Told::Port, &never), &HOSTS)
}

fn errors_from_inside_are_translated_with_their_quote(lab: &mut Trial) -> Shown {
    for (from, port) in [(A, 6112), (Who::Absent, 6113)] {
        let external = lab.open(lab.at(A, port), lab.at(S1, 4000))?;
        let got = lab.back(&udp(lab.at(S1, 4000), external), lab.at(A, port))?;
        lab.forget();
        lab.send(Place::A, &lab.tell(from, S1, Told::Port, &got))?;
        let left = lab.look(World, Packet::is_error)?;
        let left = left.ok_or_else(|| Fault::NotMet(format!("the error of {from} did not leave")))?;
        let quote = left.quote().ok_or_else(|| Fault::NotMet("its quote cannot be read".into()))?;
        let right = left.source == X && quote.from() == lab.at(S1, 4000) && quote.to() == external;
        demand(right && left.tells(Told::Port), format!("the error of {from} left as {left}"))?;
        let summed = left.source.is_ipv6() || checksum(&[&left.quoted_bytes()[..20]]) == 0;
        demand(summed, "the quoted IP header has a wrong checksum")?;
    }
    Ok(())
}

fn errors_do_not_refresh_queries(lab: &mut Trial) -> Shown {
    let ping = lab.out(&lab.echo(A, S1, 604))?;
    let id = ping.from().port();
    for _ in 0..4 {
        lab.wait(Duration::from_millis(1150))?;
        lab.send(World, &lab.tell(R9, X, Told::Host, &ping))?;
    }
    lab.sync()?;
    lab.blocked(World, &lab.reply(S1, X, id, &data(24)), &HOSTS)?;
    let ping = lab.out(&lab.echo(A, S1, 605))?;
    lab.send(World, &lab.tell(R9, X, Told::Host, &ping))?;
    lab.sync()?;
    lab.back(&lab.reply(S1, X, ping.from().port(), &data(24)), lab.at(A, 605))?;
    Ok(())
}

fn hairpinned_errors_come_back(lab: &mut Trial) -> Shown {
    let (a, b) = (lab.at(A, 6114), lab.at(B, 6115));
    let (xa, xb) = (lab.open(a, lab.at(S1, 4000))?, lab.open(b, lab.at(S1, 4000))?);
    lab.reaches(Place::B, &udp(b, xa), Place::A)?;
    let got = lab.pass(Place::A, &udp(a, xb), Place::B)?;
    lab.forget();
    lab.send(Place::B, &lab.tell(B, got.source, Told::Port, &got))?;
    let back = lab.look(Place::A, Packet::is_error)?;
    let back = back.ok_or_else(|| Fault::NotMet("B's error did not come back to A".into()))?;
    let quote = back.quote().ok_or_else(|| Fault::NotMet("its quote cannot be read".into()))?;
    let right = back.source == X && quote.from() == a && quote.to() == xb;
    demand(right, format!("A got {back}"))
}

fn exhaustion_is_told(lab: &mut Trial) -> Shown {
    let remote = lab.at(S1, 4000);
    let mut open = Vec::new();
    let mut told = 0;
    for port in 6200..6225 {
        let packet = udp(lab.at(A, port), remote);
        let print = packet.fingerprint();
        lab.send(Place::A, &packet)?;
        match lab.look(World, |p| p.fingerprint() == print)? {
            Some(left) => open.push((port, left.from())),
            None => told += usize::from(lab.look(Place::A, Packet::is_unreachable)?.is_some()),
        }
    }
    demand((1..=20).contains(&open.len()), format!("{} of 25 flows got one of 20 ports", open.len()))?;
    demand(told == 25 - open.len(), format!("{} flows were refused, {told} were told", 25 - open.len()))?;
    for (port, external) in open {
        lab.back(&udp(remote, external), lab.at(A, port))?;
    }
    Ok(())
}

fn never_leak(lab: &mut Trial, messages: &[Packet]) -> Shown {
    lab.forget();
    for message in messages {
        lab.send(Place::A, message)?;
    }
    let came = lab.collect(World)?;
    let odd = came.iter().find(|packet| packet.source != X);
    demand(odd.is_none(), odd.map(Packet::to_string).unwrap_or_default())
}

fn odd_types_never_leak(lab: &mut Trial) -> Shown {
    let sent = udp(lab.at(S1, 4000), lab.at(A, 6116));
    let redirect = lab.error(A, S1, 5, 1, [10, 0, 0, 9], &sent);
    let others = [(9, 0), (10, 0), (17, 0), (18, 0), (12, 0)];
    let mut all = vec![redirect];
    all.extend(others.map(|(kind, code)| lab.icmp(A, S1, kind, code, [0, 9, 0, 1], &data(12))));
    never_leak(lab, &all)
}

fn obsolete_types_are_dropped(lab: &mut Trial) -> Shown {
    let sent = sent(lab, 6117)?;
    lab.blocked(World, &lab.error(R9, X, 4, 0, [0; 4], &sent), &HOSTS)?;
    for kind in [15, 16] {
        lab.blocked(Place::A, &lab.icmp(A, S1, kind, 0, [0, 9, 0, 1], &[]), &[World])?;
    }
    Ok(())
}

fn generated_errors_copy_the_ds_field(lab: &mut Trial) -> Shown {
    let packet = Packet { ttl: 1, tos: 0xb8, ..udp(lab.at(A, 6118), lab.at(S1, 4000)) };
    let told = lab.refused(Place::A, &packet, Told::Hops)?;
    // RFC 1812 §4.3.2.5 asks for precedence 6 or 7 of an error; RFC 5508 came later.
    demand(told.tos >> 2 == 46, format!("the error has TOS {:#04x}", told.tos))
}

fn generated_errors_are_rate_limited(lab: &mut Trial) -> Shown {
    for _ in 0..5 {
        lab.say("A sends 5000 packets with TTL 1");
        lab.forget();
        let start = now();
        let came = lab.unwritten(|lab| {
            for number in 0..5000u16 {
                let to = lab.at(S1, 4000 + number % 64);
                lab.send(Place::A, &Packet { ttl: 1, ..udp(lab.at(A, 6119), to) })?;
                if number % 500 == 499 {
                    lab.sync()?;
                }
            }
            lab.collect(Place::A)
        })?;
        lab.say(format!("{} errors came", came.len()));
        // A busy machine sends them more slowly than a limit may be.
        if came.len() >= 4000 && now() - start > Duration::from_secs(2) {
            continue;
        }
        demand(
            !came.is_empty() && came.len() < 4000,
            format!("5000 packets were answered by {} errors", came.len()),
        )?;
        lab.open(lab.at(B, 6120), lab.at(S1, 4000))?;
        return Ok(());
    }
    Err(Fault::Broken("5000 packets take longer than 2 s".into()))
}

fn too_big_comes_in_unchanged(lab: &mut Trial) -> Shown {
    let sent = sent(lab, 6121)?;
    let got = lab.back(&lab.tell(R9, X, Told::TooBig(1300), &sent), lab.at(A, 0))?;
    right(lab, &got, R9, 6121)?;
    demand(got.mtu() == 1300, format!("the MTU became {}", got.mtu()))
}

fn ttl_is_counted_and_its_end_told(lab: &mut Trial) -> Shown {
    let packet = Packet { ttl: 1, ..udp(lab.at(A, 6122), lab.at(S1, 33_434)) };
    let told = lab.refused(Place::A, &packet, Told::Hops)?;
    demand(told.source == GI, format!("it comes from {}", told.source))?;
    let next = lab.out(&Packet { ttl: 2, ..udp(lab.at(A, 6122), lab.at(S1, 33_435)) })?;
    demand(next.ttl == 1, format!("TTL 2 became {}", next.ttl))
}

fn source_routes_are_dropped(lab: &mut Trial) -> Shown {
    for kind in [131, 137] {
        let options = vec![kind, 7, 4, 198, 51, 100, 8, 0];
        let packet = Packet { options: options.clone(), ..udp(lab.at(A, 6123), lab.at(S1, 4000)) };
        lab.blocked(Place::A, &packet, &[World])?;
        let sent = sent(lab, 6124)?;
        let quoted = Packet { options, ..sent };
        lab.blocked(World, &lab.tell(R9, X, Told::Port, &quoted), &HOSTS)?;
    }
    Ok(())
}

fn unknown_types_never_leak(lab: &mut Trial) -> Shown {
    never_leak(
        lab,
        &[lab.icmp(A, S1, 42, 0, [0, 9, 0, 1], &data(12)), lab.icmp(A, S1, 253, 1, [0; 4], &data(12))],
    )
}
