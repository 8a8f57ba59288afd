//! RFC 4787 (BCP 127): what a NAT must do with UDP.

use super::contender::{Life, PLAIN, Setup};
use super::packet::{Packet, Told, UDP, data, joined, udp, udp_with};
use super::trial::Place::World;
use super::trial::{A, B, C, GI, HOSTS, Place, R9, S1, S2, Trial, Who, X, place_of};
use super::{Fault, Shown, demand, requirements};
use crate::io::netlink::Family;
use crate::lab::programs::now;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

/// UDP sessions end after four seconds.
const SHORT: Setup = Setup { lives: &[(Life::Udp, 4), (Life::Dns, 4)], ..PLAIN };
/// Ordinary flows live longer than those of the domain name system.
const DNS_SHORTER: Setup = Setup { lives: &[(Life::Udp, 8), (Life::Dns, 2)], ..PLAIN };
/// Two external addresses.
const POOL: Setup = Setup { externals: 2, ..PLAIN };
/// A smaller MTU outside than inside.
const NARROW: Setup = Setup { outside_mtu: 1280, ..PLAIN };
const FULL_CONE: Setup = Setup { tapnat: &["--filtering", "endpoint-independent"], ..PLAIN };
const PORT_RESTRICTED: Setup = Setup { tapnat: &["--filtering", "address-and-port-dependent"], ..PLAIN };

/// More than half of [`SHORT`]'s four seconds, with time left for a busy machine.
const MOST: Duration = Duration::from_millis(2400);
/// More than [`SHORT`]'s four seconds.
const OVER: Duration = Duration::from_millis(4800);

requirements! {
    1 Must "RFC 4787 REQ-1" mapping_does_not_depend_on_the_destination
        "one inside port has one external port, whatever the destination, also after a clash";
    2 Should "RFC 4787 REQ-2" one_host_keeps_one_external_address
        "with several external addresses, all flows of a host leave from one" in POOL;
    3 Must "RFC 4787 REQ-3" two_hosts_never_share_an_external_port
        "no port overloading: two inside hosts get two external ports";
    4 Should "RFC 4787 REQ-3a" low_ports_stay_low_and_high_ports_high
        "0-1023 map into 0-1023, 1024-65535 into 1024-65535";
    5 Should "RFC 4787 REQ-4" parity_is_kept
        "even ports map to even ports, odd to odd";
    6 Must "RFC 4787 REQ-5" mapping_lives_two_minutes
        "an idle mapping lives for at least two minutes, by the NAT's own word";
    7 May "RFC 4787 REQ-5a" only_well_known_ports_may_end_earlier
        "a shorter timer holds for its well-known port only" in DNS_SHORTER;
    8 Should "RFC 4787 REQ-5c" mapping_lives_five_minutes_by_default
        "the default timer is five minutes or more, by the NAT's own word";
    8 May "RFC 4787 REQ-5b" mapping_ends_by_the_configured_timer
        "the timer can be set: alive before it, gone after it" in SHORT;
    9 Must "RFC 4787 REQ-6" outbound_packets_refresh
        "outbound packets keep the mapping alive" in SHORT;
    10 May "RFC 4787 REQ-6a" inbound_packets_refresh
        "inbound packets of a known remote keep the mapping alive" in SHORT;
    11 Must "RFC 4787 REQ-7" an_overlap_of_inside_and_outside_is_refused
        "an inside subnet with an outside address of the host in it is refused at start";
    12 Should "RFC 4787 REQ-8" filtering_is_no_stricter_than_by_address
        "a remote that was talked to gets in from its other ports too";
    12 Should "RFC 4787 REQ-8" strangers_are_kept_out_or_let_in_alike
        "a stranger's packet is treated the same at every mapping";
    13 May "RFC 4787 REQ-8a" filtering_can_be_endpoint_independent
        "filtering can be set: everybody gets in" in FULL_CONE;
    13 May "RFC 4787 REQ-8a" filtering_can_be_by_address_and_port
        "filtering can be set: only address and port talked to" in PORT_RESTRICTED;
    14 Must "RFC 4787 REQ-9" inside_hosts_reach_each_other_by_external_endpoints
        "hairpinning: a packet to X:xB from inside arrives at B";
    15 Must "RFC 4787 REQ-9a" hairpinned_packets_show_the_external_source
        "a hairpinned packet carries the sender's external address and port; the answer returns";
    16 Should "RFC 4787 REQ-10" no_alg_touches_sip
        "a SIP message with inside addresses passes byte for byte, and opens nothing";
    18 Must "RFC 4787 REQ-11" behaviour_is_the_same_after_a_clash
        "deterministic: three hosts with one source port see the same behaviour";
    19 Must "RFC 4787 REQ-12" no_icmp_error_ends_a_mapping
        "a hundred ICMP errors about a flow, and its mapping lives";
    20 Should "RFC 4787 REQ-12a" errors_from_any_router_come_in
        "an ICMP error from a router never talked to reaches the inside host";
    21 Should "RFC 4787 REQ-12b" destination_unreachable_comes_in
        "Destination Unreachable, any code, reaches the inside host";
    22 Must "RFC 4787 REQ-13" too_big_with_df_is_told
        "DF set and too big for the outside: ICMP 3/4 with its MTU, quoting what was sent" in NARROW;
    23 Must "RFC 4787 REQ-13a" too_big_without_df_is_fragmented
        "DF clear and too big: fragments in order that make the datagram" in NARROW;
    24 Must "RFC 4787 REQ-14" fragments_pass_in_and_out_of_order
        "fragments pass both ways, the last one first too";
    25 Must "RFC 4787 REQ-14a" fragment_flood_does_not_stop_others
        "2000 orphan fragments do not hurt other flows, fragmented or not";
    26 May "RFC 4787 4.2.1" source_port_0_is_harmless
        "a datagram from port 0 harms nobody and does not leave from port 0 untranslated";
}

fn mapping_does_not_depend_on_the_destination(lab: &mut Trial) -> Shown {
    let (a, b) = (lab.at(A, 5070), lab.at(B, 5070));
    let first = [lab.open(a, lab.at(S1, 4000))?, lab.open(b, lab.at(S2, 4000))?];
    for (inside, remote, before) in
        [(a, lab.at(S2, 4000), first[0]), (b, lab.at(S1, 4000), first[1]), (a, lab.at(S1, 4001), first[0])]
    {
        let external = lab.open(inside, remote)?;
        demand(external == before, format!("{inside} was {before}, and is {external} towards {remote}"))?;
    }
    demand(first[0] != first[1], format!("both hosts are {}", first[0]))
}

fn one_host_keeps_one_external_address(lab: &mut Trial) -> Shown {
    let mut seen = BTreeSet::new();
    for port in 0..16 {
        let remote = lab.at(Who::Server(20 + port as u8), 4000 + port);
        seen.insert(lab.open(lab.at(A, 20_000 + port), remote)?.ip());
        seen.insert(lab.connect(lab.at(A, 20_000 + port), remote)?.external.ip());
        let ping = lab.echo(A, remote.ip(), 700 + port);
        seen.insert(lab.out(&ping)?.source);
    }
    demand(seen.len() == 1, format!("48 flows of one host left from {seen:?}"))
}

fn two_hosts_never_share_an_external_port(lab: &mut Trial) -> Shown {
    let remote = lab.at(S1, 4000);
    let (a, b) = (lab.at(A, 5071), lab.at(B, 5071));
    let (xa, xb) = (lab.open(a, remote)?, lab.open(b, remote)?);
    demand(xa != xb, format!("both are {xa}"))?;
    lab.back(&udp(remote, xa), a)?;
    lab.back(&udp(remote, xb), b)?;
    let (xa, xb) =
        (lab.open(lab.at(A, 5072), lab.at(S1, 4000))?, lab.open(lab.at(B, 5072), lab.at(S2, 4000))?);
    demand(xa != xb, format!("towards two servers, both are {xa}"))
}

fn low_ports_stay_low_and_high_ports_high(lab: &mut Trial) -> Shown {
    let remote = lab.at(S1, 4000);
    for port in [700, 701, 702] {
        for host in [B, A] {
            let external = lab.open(lab.at(host, port), remote)?;
            let right = (1..1024).contains(&external.port());
            demand(right, format!("{host}:{port} became {external}"))?;
        }
    }
    for port in 2000..2030 {
        for host in [B, A] {
            let external = lab.open(lab.at(host, port), remote)?;
            demand(external.port() >= 1024, format!("{host}:{port} became {external}"))?;
        }
    }
    Ok(())
}

fn parity_is_kept(lab: &mut Trial) -> Shown {
    let remote = lab.at(S1, 4000);
    for port in 3000..3030 {
        for host in [B, A] {
            let external = lab.open(lab.at(host, port), remote)?;
            demand(external.port() % 2 == port % 2, format!("{host}:{port} became {external}"))?;
        }
    }
    Ok(())
}

fn lives(lab: &mut Trial, seconds: u64) -> Shown {
    let (a, start) = (lab.at(A, 5073), now());
    lab.open(a, lab.at(S1, 5000))?;
    let word = lab.word(UDP, a)?;
    // Asking takes its time on a busy machine.
    demand(
        word.seconds + 1 + (now() - start).as_secs() >= seconds,
        format!("a UDP session with one packet lives {} s", word.seconds),
    )
}

fn mapping_lives_two_minutes(lab: &mut Trial) -> Shown {
    lives(lab, 120)
}

fn mapping_lives_five_minutes_by_default(lab: &mut Trial) -> Shown {
    lives(lab, 300)
}

fn only_well_known_ports_may_end_earlier(lab: &mut Trial) -> Shown {
    let (dns, other) = (lab.at(A, 5074), lab.at(A, 5075));
    lab.open(dns, lab.at(S1, 53))?;
    let external = lab.open(other, lab.at(S1, 5000))?;
    lab.wait(OVER)?;
    lab.back(&udp(lab.at(S1, 5000), external), other)?;
    Ok(())
}

fn mapping_ends_by_the_configured_timer(lab: &mut Trial) -> Shown {
    let (early, late) = (lab.at(A, 5076), lab.at(A, 5077));
    let (xe, xl) = (lab.open(early, lab.at(S1, 5000))?, lab.open(late, lab.at(S1, 5000))?);
    lab.wait(MOST)?;
    lab.back(&udp(lab.at(S1, 5000), xe), early)?;
    lab.wait(OVER - MOST)?;
    lab.blocked(World, &udp(lab.at(S1, 5000), xl), &HOSTS)
}

fn outbound_packets_refresh(lab: &mut Trial) -> Shown {
    let (a, remote) = (lab.at(A, 5078), lab.at(S1, 5000));
    let external = lab.open(a, remote)?;
    for _ in 0..3 {
        lab.wait(MOST)?;
        let again = lab.open(a, remote)?;
        demand(again == external, format!("{a} was {external} and became {again}"))?;
    }
    lab.wait(MOST)?;
    lab.back(&udp(remote, external), a)?;
    Ok(())
}

fn inbound_packets_refresh(lab: &mut Trial) -> Shown {
    let (a, remote) = (lab.at(A, 5079), lab.at(S1, 5000));
    let external = lab.open(a, remote)?;
    for _ in 0..3 {
        lab.wait(MOST)?;
        lab.back(&udp(remote, external), a)?;
    }
    Ok(())
}

fn an_overlap_of_inside_and_outside_is_refused(lab: &mut Trial) -> Shown {
    for inside in ["203.0.113.129/24", "203.0.113.62/26", "203.0.0.1/16"] {
        let said = lab.gateway.refusal_of(&["--tap", "second", "--inside", inside])?;
        let said = said.ok_or_else(|| Fault::NotMet(format!("it starts with {inside} inside")))?;
        lab.say(format!("--inside {inside}: {said}"));
        let told = said.contains(inside) && said.contains("203.0.113.");
        demand(told, format!("the refusal does not say what overlaps: {said}"))?;
    }
    Ok(())
}

fn filtering_is_no_stricter_than_by_address(lab: &mut Trial) -> Shown {
    let a = lab.at(A, 5080);
    let external = lab.open(a, lab.at(S1, 4000))?;
    lab.back(&udp(lab.at(S1, 4999), external), a)?;
    Ok(())
}

fn strangers_are_kept_out_or_let_in_alike(lab: &mut Trial) -> Shown {
    let mut seen = BTreeSet::new();
    for (host, port) in [(A, 5081), (B, 5081), (C, 5081), (A, 5082)] {
        let external = lab.open(lab.at(host, port), lab.at(S1, 4000))?;
        seen.insert(lab.reaches(World, &udp(lab.at(S2, 4000), external), place_of(host))?);
    }
    demand(seen.len() == 1, "strangers reached some mappings and not others")
}

fn filtering_can_be_endpoint_independent(lab: &mut Trial) -> Shown {
    let a = lab.at(A, 5083);
    let external = lab.open(a, lab.at(S1, 4000))?;
    lab.back(&udp(lab.at(S2, 1234), external), a)?;
    Ok(())
}

fn filtering_can_be_by_address_and_port(lab: &mut Trial) -> Shown {
    let a = lab.at(A, 5084);
    let external = lab.open(a, lab.at(S1, 4000))?;
    lab.back(&udp(lab.at(S1, 4000), external), a)?;
    lab.blocked(World, &udp(lab.at(S1, 4999), external), &HOSTS)?;
    lab.blocked(World, &udp(lab.at(S2, 4000), external), &HOSTS)
}

fn inside_hosts_reach_each_other_by_external_endpoints(lab: &mut Trial) -> Shown {
    let xb = lab.open(lab.at(B, 5085), lab.at(S1, 4000))?;
    // The sender is known to B, so that no filtering stands in the way.
    let xa = lab.open(lab.at(A, 5085), lab.at(S1, 4000))?;
    lab.reaches(Place::B, &udp(lab.at(B, 5085), xa), Place::A)?;
    let passed = lab.pass(Place::A, &udp(lab.at(A, 5085), xb), Place::B)?;
    demand(passed.to() == lab.at(B, 5085), format!("B got {passed}"))
}

fn hairpinned_packets_show_the_external_source(lab: &mut Trial) -> Shown {
    let (a, b) = (lab.at(A, 5086), lab.at(B, 5087));
    let (xa, xb) = (lab.open(a, lab.at(S1, 4000))?, lab.open(b, lab.at(S1, 4000))?);
    lab.reaches(Place::B, &udp(b, xa), Place::A)?;
    let there = lab.pass(Place::A, &udp(a, xb), Place::B)?;
    demand(there.from() == xa, format!("A is {xa} outside, and B saw {}", there.from()))?;
    let back = lab.pass(Place::B, &udp(b, there.from()), Place::A)?;
    demand(back.from() == xb && back.to() == a, format!("the answer came as {back}"))
}

fn no_alg_touches_sip(lab: &mut Trial) -> Shown {
    let (a, remote) = (lab.at(A, 5060), lab.at(S1, 5060));
    let text = "INVITE sip:b@198.51.100.7 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.2:5060;branch=z9hG4bK1\r\n\
                Contact: <sip:a@10.0.0.2:5060>\r\nContent-Type: application/sdp\r\nContent-Length: 80\r\n\r\n\
                v=0\r\no=- 1 1 IN IP4 10.0.0.2\r\nc=IN IP4 10.0.0.2\r\nm=audio 40000 RTP/AVP 0\r\n";
    lab.out(&udp_with(a, remote, text.as_bytes()))?;
    lab.blocked(World, &udp(lab.at(S2, 9), lab.at(X, 40_000)), &HOSTS)
}

fn behaviour_is_the_same_after_a_clash(lab: &mut Trial) -> Shown {
    // A and B clash crosswise, C is alone with its port.
    let hosts =
        [(lab.at(A, 5088), [S1, S2, R9]), (lab.at(B, 5088), [S2, S1, R9]), (lab.at(C, 5097), [S1, S2, R9])];
    let mut seen = [BTreeSet::new(), BTreeSet::new(), BTreeSet::new()];
    for turn in 0..3 {
        for (seen, (inside, remotes)) in seen.iter_mut().zip(&hosts) {
            seen.insert(lab.open(*inside, lab.at(remotes[turn], 4000))?);
        }
    }
    let mut classes = BTreeSet::new();
    for (seen, (inside, _)) in seen.iter().zip(&hosts) {
        let external = *seen.first().ok_or_else(|| Fault::Broken("no mapping".into()))?;
        let packet = udp(lab.at(Who::Stranger, 4000), external);
        let stranger = lab.reaches(World, &packet, place_of(inside.ip()))?;
        classes.insert((seen.len(), stranger));
    }
    let told = "external ports towards three destinations, whether a stranger gets in";
    demand(classes.len() == 1, format!("the hosts saw different behaviour ({told}): {classes:?}"))
}

fn no_icmp_error_ends_a_mapping(lab: &mut Trial) -> Shown {
    let (a, remote) = (lab.at(A, 5089), lab.at(S1, 4000));
    let sent = lab.out(&udp(a, remote))?;
    let external = sent.from();
    lab.say("100 times from R9: every code of Destination Unreachable, and Time Exceeded, about it");
    lab.unwritten(|lab| {
        let kinds = [Told::Network, Told::Host, Told::Port, Told::Prohibited, Told::Hops, Told::Reassembly];
        for &told in kinds.iter().cycle().take(100) {
            lab.send(World, &lab.tell(R9, X, told, &sent))?;
        }
        lab.collect(Place::A)
    })?;
    lab.back(&udp(remote, external), a)?;
    let again = lab.open(a, remote)?;
    demand(again == external, format!("{a} was {external} and became {again}"))
}

fn error_reaches(lab: &mut Trial, from: Who, kind: u8, code: u8) -> Shown {
    let (a, remote) = (lab.at(A, 5090 + u16::from(code)), lab.at(S1, 4000));
    let sent = lab.out(&udp(a, remote))?;
    lab.forget();
    let got = lab.back(&lab.error(from, sent.source, kind, code, [0; 4], &sent), lab.at(A, 0))?;
    let quote = got.quote().ok_or_else(|| Fault::NotMet("its quote cannot be read".into()))?;
    let right = got.source == from && quote.from() == a && quote.to() == remote;
    demand(right, format!("A got {got}"))
}

fn errors_from_any_router_come_in(lab: &mut Trial) -> Shown {
    for told in [Told::Hops, Told::Host] {
        let (kind, code, _) = told.numbers(lab.family);
        error_reaches(lab, R9, kind, code)?;
    }
    Ok(())
}

fn destination_unreachable_comes_in(lab: &mut Trial) -> Shown {
    // RFC 792 and 1812; RFC 4443 and those that came after it.
    let (kind, last) = if lab.family == Family::Four { (3, 15) } else { (1, 8) };
    (0..=last).try_for_each(|code| error_reaches(lab, S1, kind, code))
}

fn too_big_with_df_is_told(lab: &mut Trial) -> Shown {
    let (a, remote) = (lab.at(A, 5100), lab.at(S1, 4000));
    lab.open(a, remote)?;
    let packet = Packet { df: true, ..udp_with(a, remote, &data(1400)) };
    lab.forget();
    let told = lab.refused(Place::A, &packet, Told::TooBig(0))?;
    let sent = packet.bytes();
    let quoted = told.quoted_bytes();
    demand(told.mtu() == 1280, format!("it tells MTU {}", told.mtu()))?;
    demand(told.source == GI, format!("it comes from {}", told.source))?;
    demand(quoted.len() >= 28 && sent.starts_with(quoted), "it does not quote the packet as A sent it")?;
    lab.nothing(&[World], "it")
}

fn too_big_without_df_is_fragmented(lab: &mut Trial) -> Shown {
    let (a, remote) = (lab.at(A, 5101), lab.at(S1, 4000));
    let external = lab.open(a, remote)?;
    let packet = udp_with(a, remote, &data(1400));
    lab.forget();
    lab.send(Place::A, &packet)?;
    let pieces = lab.collect(World)?;
    demand(pieces.len() >= 2, format!("{} fragments came", pieces.len()))?;
    let ascending = pieces.is_sorted_by_key(|piece| piece.offset);
    let fitting = pieces.iter().all(|piece| piece.bytes().len() <= 1280);
    demand(ascending && fitting, "the fragments are out of order or too big")?;
    whole(&pieces, &packet, external)
}

/// The pieces make the datagram that was sent, with a right checksum.
pub(super) fn whole(pieces: &[Packet], sent: &Packet, from: SocketAddr) -> Shown {
    let made = joined(pieces).ok_or_else(|| {
        Fault::NotMet(format!("{} fragments came and do not make a datagram", pieces.len()))
    })?;
    demand(made.bad_sum().is_none(), "the datagram has a wrong checksum")?;
    demand(made.payload[8..] == sent.payload[8..], "the datagram has other data")?;
    demand(made.from() == from, format!("the datagram is from {}, not {from}", made.from()))
}

fn fragments_pass_in_and_out_of_order(lab: &mut Trial) -> Shown {
    let (a, remote) = (lab.at(A, 5102), lab.at(S1, 4000));
    let external = lab.open(a, remote)?;
    for backwards in [false, true] {
        let packet = udp_with(a, remote, &data(3000));
        both(lab, Place::A, &packet, World, backwards, external)?;
        let packet = udp_with(remote, external, &data(3000));
        both(lab, World, &packet, Place::A, backwards, remote)?;
    }
    Ok(())
}

fn both(
    lab: &mut Trial,
    from: Place,
    packet: &Packet,
    to: Place,
    backwards: bool,
    source: SocketAddr,
) -> Shown {
    let mut pieces = packet.cut(1000);
    if backwards {
        pieces.reverse();
    }
    lab.forget();
    pieces.iter().try_for_each(|piece| lab.send(from, piece))?;
    let came = lab.collect(to)?;
    whole(&came, packet, source)
}

fn fragment_flood_does_not_stop_others(lab: &mut Trial) -> Shown {
    let (b, remote) = (lab.at(B, 5103), lab.at(S1, 4000));
    let external = lab.open(b, remote)?;
    lab.say("A and S2 send 2000 later fragments whose first one never comes");
    lab.unwritten(|lab| {
        for number in 0..2000u16 {
            let place = if number % 2 == 0 { Place::A } else { World };
            let whole = match place {
                World => udp_with(lab.at(S2, 1), lab.at(X, 40_000), &data(2000)),
                _ => udp_with(lab.at(A, 1), lab.at(S2, 4000), &data(2000)),
            };
            let mut pieces = whole.cut(1000);
            pieces.iter_mut().for_each(|piece| piece.id = number.into());
            lab.send(place, &pieces[1])?;
            if number % 100 == 0 {
                lab.sync()?;
            }
        }
        lab.sync()
    })?;
    lab.back(&udp(remote, external), b)?;
    lab.open(lab.at(C, 5104), remote)?;
    both(lab, Place::B, &udp_with(b, remote, &data(3000)), World, false, external)?;
    both(lab, World, &udp_with(remote, external, &data(3000)), Place::B, false, remote)
}

fn source_port_0_is_harmless(lab: &mut Trial) -> Shown {
    let packet = udp(lab.at(A, 0), lab.at(S1, 53));
    let print = packet.fingerprint();
    lab.send(Place::A, &packet)?;
    if let Some(left) = lab.look(World, |p| p.fingerprint() == print)? {
        demand(left.source == X, format!("it left as {left}"))?;
    }
    lab.open(lab.at(B, 5105), lab.at(S1, 4000))?;
    Ok(())
}
