//! RFC 7857 (BCP 127), the updates to RFC 4787, 5382 and 5508, and RFC 6864 on identifications.

use super::contender::{Life, PLAIN, Setup};
use super::packet::{FIN, Packet, RST, SYN, TCP, Told, data, fresh, tcp, tcp_with, udp, udp_with};
use super::rfc4787::whole;
use super::trial::Place::World;
use super::trial::{A, B, HOSTS, Place, S1, S2, Trial};
use super::{Fault, Shown, demand, requirements};
use crate::lab::programs::now;
use std::collections::BTreeSet;
use std::time::Duration;

const SHORT_UDP: Setup = Setup { lives: &[(Life::Udp, 2), (Life::Dns, 2)], ..PLAIN };
const SHORT_TCP: Setup =
    Setup { lives: &[(Life::Opening, 2), (Life::Closing, 5), (Life::Established, 60)], ..PLAIN };

/// Two external addresses with ten ports each.
const SMALL_POOL: Setup = Setup { externals: 2, ports: Some((40_000, 40_009)), ..PLAIN };

requirements! {
    80 Should "RFC 7857 2" the_tcp_states_are_walked
        "opening, established, half-closed, closing, by the NAT's own word";
    81 Should "RFC 7857 2.1" opening_and_closing_have_timers_of_their_own
        "opening and closing end by timers that are set apart" in SHORT_TCP;
    82 Must "RFC 7857 2.2" a_reset_is_translated
        "a RST of the connection reaches the other end";
    82 Should "RFC 7857 2.2" mapping_outlives_a_reset
        "after a RST what still comes passes by the same external port, for 4 min by the NAT's own word";
    82 Should "RFC 7857 2.2" a_stray_reset_has_no_effect
        "a RST that is not of the connection, by its numbers, has no effect";
    84 Should "RFC 7857 4" paired_pooling_holds_when_ports_run_out
        "a host whose address has no port left is refused rather than given another address" in SMALL_POOL;
    85 Must "RFC 7857 5" mappings_are_of_one_protocol
        "a TCP mapping lets no UDP in, and the other way round";
    87 Should "RFC 7857 7" refused_packets_do_not_refresh
        "packets of strangers that are refused do not keep a mapping alive" in SHORT_UDP;
    88 Should "RFC 7857 7.1" outbound_errors_do_not_refresh
        "ICMP errors sent in answer do not keep a mapping alive" in SHORT_UDP;
    90 Should "RFC 7857 9" changed_ports_are_random
        "where the port has to change, it changes to a random one";
    92 Must "RFC 6864 5.3.1" fragments_of_two_hosts_never_mix
        "fragmented datagrams of two hosts with one identification leave with two";
    92 Must "RFC 6864 4.1" identifications_are_not_repeated
        "identifications of datagrams to one destination do not repeat soon";
}

fn the_tcp_states_are_walked(lab: &mut Trial) -> Shown {
    let (inside, remote) = (lab.at(A, 6600), lab.at(S1, 80));
    let (seq, peer) = (fresh() << 8, fresh() << 8);
    let external = lab.out(&tcp(inside, remote, SYN, seq, 0, &[]))?.from();
    let mut states = vec![lab.word(TCP, inside)?.state];
    let (one, other) = (seq.wrapping_add(1), peer.wrapping_add(1));
    lab.back(&tcp(remote, external, SYN | 16, peer, one, &[]), inside)?;
    let mut c = super::trial::Connection { inside, external, remote, seq: one, peer: other };
    let ack = c.out(0, &[]);
    lab.out(&ack)?;
    c.works(lab)?;
    states.push(lab.word(TCP, inside)?.state);
    let fin = c.out(FIN, &[]);
    lab.out(&fin)?;
    let ack = c.back(0, &[]);
    lab.back(&ack, inside)?;
    states.push(lab.word(TCP, inside)?.state);
    let fin = c.back(FIN, &[]);
    lab.back(&fin, inside)?;
    let ack = c.out(0, &[]);
    lab.out(&ack)?;
    states.push(lab.word(TCP, inside)?.state);
    let distinct: BTreeSet<&String> = states.iter().collect();
    demand(distinct.len() == 4, format!("the states were {}", states.join(", ")))
}

fn opening_and_closing_have_timers_of_their_own(lab: &mut Trial) -> Shown {
    let (opening, remote) = (lab.at(A, 6601), lab.at(S1, 80));
    let mut c = lab.connect(lab.at(A, 6602), remote)?;
    let fins = [c.out(FIN, &[]), c.back(FIN, &[])];
    lab.out(&fins[0])?;
    lab.back(&fins[1], c.inside)?;
    let last = c.out(0, &[]);
    lab.out(&last)?;
    let external = lab.out(&tcp(opening, remote, SYN, 0x1000, 0, &[]))?.from();
    lab.wait(Duration::from_millis(2400))?;
    lab.back(&fins[1], c.inside)?;
    lab.blocked(World, &tcp(remote, external, SYN | 16, 0x9000, 0x1001, &[]), &HOSTS)?;
    lab.wait(Duration::from_millis(5600))?;
    lab.blocked(World, &fins[1], &HOSTS)
}

fn a_reset_is_translated(lab: &mut Trial) -> Shown {
    let mut c = lab.connect(lab.at(A, 6603), lab.at(S1, 80))?;
    c.works(lab)?;
    let reset = c.back(RST, &[]);
    lab.back(&reset, c.inside)?;
    Ok(())
}

fn mapping_outlives_a_reset(lab: &mut Trial) -> Shown {
    let mut c = lab.connect(lab.at(A, 6604), lab.at(S1, 80))?;
    c.works(lab)?;
    let (reset, start) = (c.back(RST, &[]), now());
    lab.back(&reset, c.inside)?;
    let word = lab.word(TCP, c.inside)?;
    demand(
        word.seconds + 2 + (now() - start).as_secs() >= 240,
        format!("after a RST it lives {} s more ({})", word.seconds, word.state),
    )?;
    c.works(lab)
}

fn a_stray_reset_has_no_effect(lab: &mut Trial) -> Shown {
    let mut c = lab.connect(lab.at(A, 6605), lab.at(S1, 80))?;
    c.works(lab)?;
    let before = lab.word(TCP, c.inside)?;
    for seq in [0, 1, c.peer.wrapping_add(0x2000_0000)] {
        lab.send(World, &tcp_with(c.remote, c.external, RST, seq, 0, &[], &[]))?;
    }
    lab.sync()?;
    let after = lab.word(TCP, c.inside)?;
    demand(
        after.state == before.state && after.seconds + 30 >= before.seconds,
        format!(
            "it was {} for {} s and is {} for {} s",
            before.state, before.seconds, after.state, after.seconds
        ),
    )?;
    c.works(lab)
}

fn paired_pooling_holds_when_ports_run_out(lab: &mut Trial) -> Shown {
    let mut open = BTreeSet::new();
    for port in 6680..6695 {
        let packet = udp(lab.at(A, port), lab.at(S1, 4000));
        let print = packet.fingerprint();
        lab.send(Place::A, &packet)?;
        if let Some(left) = lab.look(World, |p| p.fingerprint() == print)? {
            open.insert(left.from());
        }
    }
    let addresses: BTreeSet<_> = open.iter().map(|external| external.ip()).collect();
    demand(addresses.len() == 1, format!("15 flows of one host left from {addresses:?}"))?;
    demand(open.len() >= 8, format!("{} of 15 flows got one of ten ports", open.len()))
}

fn mappings_are_of_one_protocol(lab: &mut Trial) -> Shown {
    let c = lab.connect(lab.at(A, 6606), lab.at(S1, 80))?;
    lab.blocked(World, &udp(lab.at(S1, 80), c.external), &HOSTS)?;
    let external = lab.open(lab.at(A, 6607), lab.at(S1, 4000))?;
    lab.blocked(World, &tcp(lab.at(S1, 4000), external, SYN, 0x1000, 0, &[]), &HOSTS)
}

fn refused_packets_do_not_refresh(lab: &mut Trial) -> Shown {
    let a = lab.at(A, 6608);
    let external = lab.open(a, lab.at(S1, 4000))?;
    for _ in 0..4 {
        lab.wait(Duration::from_millis(650))?;
        if lab.reaches(World, &udp(lab.at(S2, 4000), external), Place::A)? {
            return Err(Fault::NotApplicable("strangers get in: there is no refused packet".into()));
        }
    }
    lab.blocked(World, &udp(lab.at(S1, 4000), external), &HOSTS)
}

fn outbound_errors_do_not_refresh(lab: &mut Trial) -> Shown {
    let a = lab.at(A, 6609);
    let external = lab.open(a, lab.at(S1, 4000))?;
    let got = lab.back(&udp(lab.at(S1, 4000), external), a)?;
    for _ in 0..4 {
        lab.wait(Duration::from_millis(650))?;
        lab.send(Place::A, &lab.tell(A, S1, Told::Port, &got))?;
    }
    lab.sync()?;
    lab.blocked(World, &udp(lab.at(S1, 4000), external), &HOSTS)
}

fn changed_ports_are_random(lab: &mut Trial) -> Shown {
    let mut ports = Vec::new();
    for port in 6610..6670 {
        lab.open(lab.at(B, port), lab.at(S1, 4000))?;
        let external = lab.open(lab.at(A, port), lab.at(S1, 4000))?.port();
        if external != port {
            ports.push(i32::from(external));
        }
    }
    let steps = ports.windows(2).filter(|pair| (pair[1] - pair[0]).abs() <= 2).count();
    demand(
        ports.len() > 30 && steps < 5,
        format!("{} ports changed, {steps} steps are of 2 or less", ports.len()),
    )
}

fn fragments_of_two_hosts_never_mix(lab: &mut Trial) -> Shown {
    let (a, b, remote) = (lab.at(A, 6671), lab.at(B, 6671), lab.at(S1, 4000));
    let (xa, xb) = (lab.open(a, remote)?, lab.open(b, remote)?);
    let [of_a, of_b] = [a, b].map(|from| Packet { id: 0x4242, ..udp_with(from, remote, &data(2500)) });
    lab.forget();
    for (one, other) in of_a.cut(1000).iter().zip(&of_b.cut(1000)) {
        lab.send(Place::A, one)?;
        lab.send(Place::B, other)?;
    }
    let came = lab.collect(World)?;
    let ids: BTreeSet<u32> = came.iter().map(|piece| piece.id).collect();
    demand(ids.len() == 2, format!("the fragments of two datagrams have {} identifications", ids.len()))?;
    for id in ids {
        let pieces: Vec<Packet> = came.iter().filter(|piece| piece.id == id).cloned().collect();
        let first = pieces.iter().find(|piece| piece.offset == 0);
        let (sent, from) = if first.is_some_and(|p| p.from() == xa) { (&of_a, xa) } else { (&of_b, xb) };
        whole(&pieces, sent, from)?;
    }
    Ok(())
}

fn identifications_are_not_repeated(lab: &mut Trial) -> Shown {
    let mut ids = Vec::new();
    for number in 0..40 {
        let host = if number % 2 == 0 { A } else { B };
        let packet = Packet { id: 0x4300 + number / 2, ..udp(lab.at(host, 6672), lab.at(S1, 4000)) };
        ids.push(lab.out(&packet)?.id);
    }
    let distinct: BTreeSet<u32> = ids.iter().copied().collect();
    let words = format!("40 datagrams of two hosts to one server had {} identifications", distinct.len());
    demand(distinct.len() == ids.len(), words)
}
