//! RFC 5382 (BCP 142): what a NAT must do with TCP.

use super::contender::{Life, PLAIN, Setup};
use super::packet::{ACK, FIN, Packet, RST, SYN, TCP, Told, data, fresh, tcp, tcp_with};
use super::trial::Place::World;
use super::trial::{A, B, HOSTS, Place, R9, S1, S2, Trial, Who, X};
use super::{Fault, Shown, demand, requirements};
use crate::lab::programs::now;
use std::time::{Duration, Instant};

/// Two external ports, so that an unsolicited SYN can be for the one that is given next.
const TWO_PORTS: Setup = Setup { ports: Some((45_000, 45_001)), ..PLAIN };
/// Established connections end after six seconds, all others after two.
const SHORT: Setup =
    Setup { lives: &[(Life::Established, 6), (Life::Opening, 2), (Life::Closing, 2)], ..PLAIN };
/// An address of the outside network that only the NAT has.
const OWN_ADDRESS: Setup = Setup { tapnat: &["--external", "203.0.113.5", "--guard", "off"], ..PLAIN };
const FULL_CONE: Setup = Setup { tapnat: &["--filtering", "endpoint-independent"], ..PLAIN };

requirements! {
    27 Must "RFC 5382 REQ-1" tcp_mapping_does_not_depend_on_the_destination
        "one inside port has one external port, whatever the destination, also after a clash";
    28 Must "RFC 5382 REQ-2" handshake_data_and_both_closes_pass
        "a connection passes whole: handshake, data, half-close, data, the other close";
    28 Must "RFC 5382 REQ-2" simultaneous_close_passes
        "both ends close at once, and each other's acknowledgements pass";
    28 Must "RFC 5382 REQ-2" retransmitted_and_reordered_segments_pass
        "segments sent again or out of order pass";
    28 Must "RFC 5382 REQ-2" reset_passes
        "a RST of either end reaches the other";
    29 Must "RFC 5382 REQ-2a" simultaneous_open_passes
        "SYNs of both ends cross, and the connection is made";
    30 Should "RFC 5382 REQ-3" tcp_filtering_is_no_stricter_than_by_address
        "a SYN of a remote that was talked to gets in, from its other ports too";
    30 May "RFC 5382 REQ-3a" tcp_filtering_can_be_endpoint_independent
        "filtering can be set: everybody's SYN gets in" in FULL_CONE;
    31 Must "RFC 5382 REQ-4" a_strangers_syn_to_a_mapping_is_not_answered_for_six_seconds
        "a stranger's SYN to a mapped port gets no answer for six seconds";
    31 Must "RFC 5382 REQ-4" unsolicited_syn_is_not_answered_for_six_seconds
        "nor does a SYN to a port of the NAT's range that nobody has";
    31 Must "RFC 5382 REQ-4" unsolicited_syn_to_an_own_address_is_not_answered_for_six_seconds
        "nor does one to an address that only the NAT has" in OWN_ADDRESS;
    31 Must "RFC 5382 REQ-4" syn_is_forgiven_if_a_host_meets_it
        "if an outbound SYN meets an unsolicited one meanwhile, no error is ever sent" in TWO_PORTS;
    32 Must "RFC 5382 REQ-4a" syns_to_ports_out_of_the_range_are_dropped_silently
        "a SYN to a port that policy keeps from hosts is never answered" in OWN_ADDRESS;
    33 Must "RFC 5382 REQ-5" established_lives_two_hours_four_minutes
        "an idle established connection lives 2 h 4 min, by the NAT's own word";
    33 Must "RFC 5382 REQ-5" half_closed_lives_as_long_as_established
        "so does a half-closed one";
    33 Must "RFC 5382 REQ-5" opening_lives_four_minutes
        "a connection being opened lives 4 min, by the NAT's own word";
    33 Must "RFC 5382 REQ-5" closing_lives_four_minutes
        "a connection closed by both lives 4 min more, by the NAT's own word";
    33 May "RFC 5382 REQ-5a" tcp_timers_can_be_set
        "the timers can be set: opening ends by its own, established lives on" in SHORT;
    34 May "RFC 5382 5" segments_without_a_connection_never_leak
        "SYN-ACK, ACK, FIN and RST of no connection never leave with an inside address";
    35 Should "RFC 5382 REQ-6" no_alg_touches_ftp
        "an FTP PORT command with an inside address passes byte for byte";
    36 Must "RFC 5382 REQ-7" two_hosts_never_share_a_tcp_port
        "no port overloading: two inside hosts get two external ports";
    37 Must "RFC 5382 REQ-8" tcp_hairpins_with_external_source
        "hairpinning: handshake and data between inside hosts by external endpoints";
    38 Should "RFC 5382 REQ-9" too_big_about_tcp_comes_in
        "ICMP 3/4 quoting eight bytes of TCP reaches the inside host, MTU kept";
    39 Must "RFC 5382 REQ-10" no_icmp_error_ends_a_connection
        "a storm of ICMP errors ends neither mapping nor connection";
    40 Should "RFC 5382 9" segments_outside_the_window_change_nothing
        "RST and FIN with a wild sequence number leave the connection as it is";
    105 Should "RFC 5961 3.2" challenge_acks_pass
        "a RST in the window is forwarded, and the challenge ACK that answers it passes";
    106 Should "RFC 5961 4.2" a_rebooted_client_gets_its_port_again
        "after a reboot: SYN on an old connection, challenge ACK, RST, SYN, SYN-ACK all pass";
    109 Must "RFC 6092 REC-32" connections_are_picked_up_or_refused_cleanly
        "data of a connection begun before the NAT's time never leaves untranslated";
}

fn tcp_mapping_does_not_depend_on_the_destination(lab: &mut Trial) -> Shown {
    let (a, b) = (lab.at(A, 6000), lab.at(B, 6000));
    let syn = |inside, remote| tcp(inside, remote, SYN, fresh() << 8, 0, &[]);
    let first = [lab.out(&syn(a, lab.at(S1, 80)))?.from(), lab.out(&syn(b, lab.at(S2, 80)))?.from()];
    for (inside, remote, before) in
        [(a, lab.at(S2, 80), first[0]), (b, lab.at(S1, 80), first[1]), (a, lab.at(S1, 81), first[0])]
    {
        let external = lab.out(&syn(inside, remote))?.from();
        demand(external == before, format!("{inside} was {before}, and is {external} towards {remote}"))?;
    }
    demand(first[0] != first[1], format!("both hosts are {}", first[0]))
}

fn handshake_data_and_both_closes_pass(lab: &mut Trial) -> Shown {
    let mut c = lab.connect(lab.at(A, 6001), lab.at(S1, 80))?;
    c.works(lab)?;
    let fin = c.out(FIN, &[]);
    lab.out(&fin)?;
    let ack = c.back(0, &[]);
    lab.back(&ack, c.inside)?;
    for _ in 0..3 {
        let more = c.back(0, &data(800));
        lab.back(&more, c.inside)?;
        let ack = c.out(0, &[]);
        lab.out(&ack)?;
    }
    let fin = c.back(FIN, &[]);
    lab.back(&fin, c.inside)?;
    let last = c.out(0, &[]);
    lab.out(&last)?;
    lab.back(&fin, c.inside)?;
    lab.out(&last)?;
    Ok(())
}

fn simultaneous_close_passes(lab: &mut Trial) -> Shown {
    let mut c = lab.connect(lab.at(A, 6002), lab.at(S1, 80))?;
    c.works(lab)?;
    let (out, mut back) = (c.out(FIN, &[]), c.back(FIN, &[]));
    // The other end has not seen our FIN when it sends its own.
    back.payload[8..12].copy_from_slice(&c.seq.wrapping_sub(1).to_be_bytes());
    back.sum();
    lab.out(&out)?;
    lab.back(&back, c.inside)?;
    let (out, back) = (c.out(0, &[]), c.back(0, &[]));
    lab.out(&out)?;
    lab.back(&back, c.inside)?;
    Ok(())
}

fn retransmitted_and_reordered_segments_pass(lab: &mut Trial) -> Shown {
    let (inside, remote) = (lab.at(A, 6003), lab.at(S1, 80));
    let (seq, peer) = (fresh() << 8, fresh() << 8);
    let syn = tcp(inside, remote, SYN, seq, 0, &[]);
    let external = lab.out(&syn)?.from();
    let again = lab.out(&syn)?.from();
    demand(again == external, format!("the SYN left as {external}, again as {again}"))?;
    let synack = tcp(remote, external, SYN | ACK, peer, seq.wrapping_add(1), &[]);
    lab.back(&synack, inside)?;
    lab.back(&synack, inside)?;
    let mut c = super::trial::Connection {
        inside,
        external,
        remote,
        seq: seq.wrapping_add(1),
        peer: peer.wrapping_add(1),
    };
    lab.out(&c.out(0, &[]))?;
    let segments = [c.out(0, &data(100)), c.out(0, &data(100)), c.out(0, &data(100))];
    for at in [2, 0, 1, 1] {
        lab.out(&segments[at])?;
    }
    let segments = [c.back(0, &data(100)), c.back(0, &data(100)), c.back(FIN, &[])];
    for at in [2, 1, 0, 2] {
        lab.back(&segments[at], inside)?;
    }
    Ok(())
}

fn reset_passes(lab: &mut Trial) -> Shown {
    let mut c = lab.connect(lab.at(A, 6004), lab.at(S1, 80))?;
    let reset = c.back(RST, &[]);
    lab.back(&reset, c.inside)?;
    let mut c = lab.connect(lab.at(A, 6005), lab.at(S1, 80))?;
    let reset = c.out(RST, &[]);
    lab.out(&reset)?;
    Ok(())
}

fn simultaneous_open_passes(lab: &mut Trial) -> Shown {
    let (inside, remote) = (lab.at(A, 6006), lab.at(S1, 8080));
    let (seq, peer) = (fresh() << 8, fresh() << 8);
    let external = lab.out(&tcp(inside, remote, SYN, seq, 0, &[]))?.from();
    lab.back(&tcp(remote, external, SYN, peer, 0, &[]), inside)?;
    lab.out(&tcp(inside, remote, SYN | ACK, seq, peer.wrapping_add(1), &[]))?;
    lab.back(&tcp(remote, external, SYN | ACK, peer, seq.wrapping_add(1), &[]), inside)?;
    let (seq, peer) = (seq.wrapping_add(1), peer.wrapping_add(1));
    super::trial::Connection { inside, external, remote, seq, peer }.works(lab)
}

fn tcp_filtering_is_no_stricter_than_by_address(lab: &mut Trial) -> Shown {
    let c = lab.connect(lab.at(A, 6007), lab.at(S1, 80))?;
    lab.back(&tcp(lab.at(S1, 9999), c.external, SYN, fresh() << 8, 0, &[]), c.inside)?;
    Ok(())
}

fn tcp_filtering_can_be_endpoint_independent(lab: &mut Trial) -> Shown {
    let c = lab.connect(lab.at(A, 6008), lab.at(S1, 80))?;
    lab.back(&tcp(lab.at(S2, 9999), c.external, SYN, fresh() << 8, 0, &[]), c.inside)?;
    Ok(())
}

fn a_strangers_syn_to_a_mapping_is_not_answered_for_six_seconds(lab: &mut Trial) -> Shown {
    let mut c = lab.connect(lab.at(A, 6035), lab.at(S1, 80))?;
    c.works(lab)?;
    six_seconds(lab, |lab, turn| {
        let syn = tcp(lab.at(S2, 8080 + turn), c.external, SYN, fresh() << 8, 0, &[]);
        if lab.reaches(World, &syn, Place::A)? {
            return Err(Fault::NotApplicable("strangers get in: it is delivered".into()));
        }
        lab.nothing(&[World], "a stranger's SYN")
    })
}

/// Nothing comes back in six seconds, but for a last half, after what `ask` sends. A machine that was
/// too busy to look in time has shown nothing: then it is asked again.
fn six_seconds(lab: &mut Trial, mut ask: impl FnMut(&mut Trial, u16) -> Shown) -> Shown {
    let mut turn = 0;
    loop {
        lab.forget();
        let start = now();
        let silent = ask(lab, turn).and_then(|()| {
            lab.wait(Duration::from_millis(5300).saturating_sub(now() - start))?;
            lab.nothing(&[World], "5.5 s")
        });
        let late = now() - start >= Duration::from_secs(6);
        match silent {
            Err(Fault::NotMet(_)) if late && turn < 4 => lab.say("the lab was too slow to tell"),
            silent => return silent,
        }
        turn += 1;
        // The answers that were due.
        lab.wait(Duration::from_secs(2))?;
    }
}

fn unsolicited_syn_is_not_answered_for_six_seconds(lab: &mut Trial) -> Shown {
    silent(lab, X)
}

fn unsolicited_syn_to_an_own_address_is_not_answered_for_six_seconds(lab: &mut Trial) -> Shown {
    silent(lab, Who::Pooled)
}

fn silent(lab: &mut Trial, address: Who) -> Shown {
    six_seconds(lab, |lab, turn| {
        for port in [45_000, 61_234] {
            let (remote, to) = (lab.at(S2, 8080 + turn), lab.at(address, port + turn));
            lab.send(World, &tcp(remote, to, SYN, fresh() << 8, 0, &[]))?;
            lab.nothing(&[World], "an unsolicited SYN")?;
        }
        Ok(())
    })
}

fn syns_to_ports_out_of_the_range_are_dropped_silently(lab: &mut Trial) -> Shown {
    let own = Who::Pooled;
    lab.forget();
    for port in [80, 8080, 32_767] {
        lab.send(World, &tcp(lab.at(S2, 8080), lab.at(own, port), SYN, fresh() << 8, 0, &[]))?;
    }
    lab.nothing(&[World], "SYNs to ports out of the range")?;
    lab.wait(Duration::from_millis(7000))?;
    lab.nothing(&[World], "7 s")
}

fn syn_is_forgiven_if_a_host_meets_it(lab: &mut Trial) -> Shown {
    let (inside, remote) = (lab.at(A, 45_000), lab.at(S2, 8080));
    lab.forget();
    for port in [45_000, 45_001] {
        lab.send(World, &tcp(remote, lab.at(X, port), SYN, 0x4000, 0, &[]))?;
    }
    lab.nothing(&[World], "the SYNs")?;
    lab.wait(Duration::from_millis(2000))?;
    let external = lab.out(&tcp(inside, remote, SYN, fresh() << 8, 0, &[]))?.from();
    lab.back(&tcp(remote, external, SYN, 0x4000, 0, &[]), inside)?;
    lab.wait(Duration::from_millis(5000))?;
    let about = |packet: &Packet| packet.quote().is_some_and(|quote| quote.to() == external);
    let came = lab.collect(World)?;
    demand(!came.iter().any(about), format!("an error about the SYN to {external} came"))
}

/// What is idle since `start` or later lives for so many seconds.
fn lives(lab: &mut Trial, port: u16, seconds: u64, start: Instant) -> Shown {
    let word = lab.word(TCP, lab.at(A, port))?;
    // Asking takes its time on a busy machine.
    let known = word.seconds + 2 + (now() - start).as_secs();
    demand(known >= seconds, format!("it lives {} s more ({})", word.seconds, word.state))
}

fn established_lives_two_hours_four_minutes(lab: &mut Trial) -> Shown {
    let mut c = lab.connect(lab.at(A, 6009), lab.at(S1, 80))?;
    let start = now();
    c.works(lab)?;
    lives(lab, 6009, 7440, start)
}

fn half_closed_lives_as_long_as_established(lab: &mut Trial) -> Shown {
    let mut c = lab.connect(lab.at(A, 6010), lab.at(S1, 80))?;
    let fin = c.out(FIN, &[]);
    lab.out(&fin)?;
    let (ack, start) = (c.back(0, &[]), now());
    lab.back(&ack, c.inside)?;
    lives(lab, 6010, 7440, start)
}

fn opening_lives_four_minutes(lab: &mut Trial) -> Shown {
    let (inside, remote) = (lab.at(A, 6011), lab.at(S1, 80));
    let start = now();
    let external = lab.out(&tcp(inside, remote, SYN, 0x1000, 0, &[]))?.from();
    lives(lab, 6011, 240, start)?;
    let start = now();
    lab.back(&tcp(remote, external, SYN | ACK, 0x9000, 0x1001, &[]), inside)?;
    lives(lab, 6011, 240, start)
}

fn closing_lives_four_minutes(lab: &mut Trial) -> Shown {
    let mut c = lab.connect(lab.at(A, 6012), lab.at(S1, 80))?;
    let fin = c.out(FIN, &[]);
    lab.out(&fin)?;
    let fin = c.back(FIN, &[]);
    lab.back(&fin, c.inside)?;
    let (ack, start) = (c.out(0, &[]), now());
    lab.out(&ack)?;
    lives(lab, 6012, 240, start)
}

fn tcp_timers_can_be_set(lab: &mut Trial) -> Shown {
    let mut c = lab.connect(lab.at(A, 6013), lab.at(S1, 80))?;
    let (inside, remote) = (lab.at(A, 6014), lab.at(S1, 80));
    let external = lab.out(&tcp(inside, remote, SYN, 0x1000, 0, &[]))?.from();
    lab.wait(Duration::from_millis(2800))?;
    lab.blocked(World, &tcp(remote, external, SYN | ACK, 0x9000, 0x1001, &[]), &HOSTS)?;
    c.works(lab)
}

fn segments_without_a_connection_never_leak(lab: &mut Trial) -> Shown {
    let remote = lab.at(S1, 80);
    for (port, flags) in [(6015, SYN | ACK), (6016, ACK), (6017, FIN | ACK), (6018, RST), (6019, RST | ACK)] {
        lab.send(Place::A, &tcp(lab.at(A, port), remote, flags, 0x5000, 0x6000, &[]))?;
    }
    for (port, flags) in [(6020, 0), (6021, SYN | FIN), (6022, SYN | RST), (6023, FIN)] {
        lab.send(Place::A, &tcp(lab.at(A, port), remote, flags, 0x5000, 0, &[]))?;
    }
    let came = lab.collect(World)?;
    let odd = came.iter().find(|packet| packet.source != X);
    demand(odd.is_none(), odd.map(Packet::to_string).unwrap_or_default())
}

fn no_alg_touches_ftp(lab: &mut Trial) -> Shown {
    let mut c = lab.connect(lab.at(A, 6024), lab.at(S1, 21))?;
    let command = c.out(8, b"PORT 10,0,0,2,156,64\r\n");
    lab.out(&command)?;
    c.works(lab)?;
    lab.blocked(World, &tcp(lab.at(S1, 20), lab.at(X, 40_000), SYN, 0x1000, 0, &[]), &HOSTS)
}

fn two_hosts_never_share_a_tcp_port(lab: &mut Trial) -> Shown {
    let mut a = lab.connect(lab.at(A, 6025), lab.at(S1, 80))?;
    let mut b = lab.connect(lab.at(B, 6025), lab.at(S1, 80))?;
    demand(a.external != b.external, format!("both are {}", a.external))?;
    a.works(lab)?;
    b.works(lab)?;
    let a = lab.connect(lab.at(A, 6026), lab.at(S1, 80))?;
    let b = lab.connect(lab.at(B, 6026), lab.at(S2, 80))?;
    demand(a.external != b.external, format!("towards two servers, both are {}", a.external))
}

fn tcp_hairpins_with_external_source(lab: &mut Trial) -> Shown {
    // Each has asked the other, as hosts do that punch holes.
    let (a, b) = (lab.at(A, 6027), lab.at(B, 6028));
    let server = lab.at(S1, 80);
    let syn = |inside| tcp(inside, server, SYN, fresh() << 8, 0, &[]);
    let (xa, xb) = (lab.out(&syn(a))?.from(), lab.out(&syn(b))?.from());
    let (seq, peer) = (fresh() << 8, fresh() << 8);
    lab.reaches(Place::B, &tcp(b, xa, SYN, peer, 0, &[]), Place::A)?;
    let there = lab.pass(Place::A, &tcp(a, xb, SYN, seq, 0, &[]), Place::B)?;
    demand(there.from() == xa && there.to() == b, format!("B got {there}, and A is {xa} outside"))?;
    let synack = tcp(b, xa, SYN | ACK, peer, seq.wrapping_add(1), &[]);
    let back = lab.pass(Place::B, &synack, Place::A)?;
    demand(back.from() == xb && back.to() == a, format!("A got {back}, and B is {xb} outside"))?;
    let (seq, peer) = (seq.wrapping_add(1), peer.wrapping_add(1));
    lab.pass(Place::A, &tcp(a, xb, ACK, seq, peer, &data(100)), Place::B)?;
    lab.pass(Place::B, &tcp(b, xa, ACK, peer, seq.wrapping_add(100), &data(100)), Place::A)?;
    Ok(())
}

fn too_big_about_tcp_comes_in(lab: &mut Trial) -> Shown {
    let mut c = lab.connect(lab.at(A, 6029), lab.at(S1, 80))?;
    let sent = lab.out(&c.out(0, &data(1400)))?;
    let told = lab.tell(R9, X, Told::TooBig(1380), &sent);
    lab.forget();
    let got = lab.back(&told, lab.at(A, 0))?;
    let quote = got.quote().ok_or_else(|| Fault::NotMet("its quote cannot be read".into()))?;
    demand(got.mtu() == 1380, format!("the MTU became {}", got.mtu()))?;
    demand(quote.from() == c.inside && quote.to() == c.remote, format!("A got {got}"))?;
    demand(quote.seq() == sent.seq(), "the quoted sequence number changed")
}

fn no_icmp_error_ends_a_connection(lab: &mut Trial) -> Shown {
    let mut c = lab.connect(lab.at(A, 6030), lab.at(S1, 80))?;
    let sent = lab.out(&c.out(0, &data(100)))?;
    lab.say("60 times from S1: no way to the network, the host, the port of it");
    lab.unwritten(|lab| {
        for turn in 0..60 {
            let told = [Told::Network, Told::Host, Told::Port][turn % 3];
            lab.send(World, &lab.tell(S1, X, told, &sent))?;
        }
        lab.collect(Place::A)
    })?;
    let before = lab.word(TCP, c.inside)?;
    c.works(lab)?;
    demand(before.seconds > 60, format!("it lives {} s more ({})", before.seconds, before.state))
}

fn segments_outside_the_window_change_nothing(lab: &mut Trial) -> Shown {
    let mut c = lab.connect(lab.at(A, 6031), lab.at(S1, 80))?;
    c.works(lab)?;
    let before = lab.word(TCP, c.inside)?;
    for flags in [RST, RST | ACK, FIN | ACK] {
        for away in [0x1000_0000u32, 0x7fff_0000, 0xc000_0000] {
            let seq = c.peer.wrapping_add(away);
            lab.send(World, &tcp_with(c.remote, c.external, flags, seq, c.seq, &[], &[]))?;
        }
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

fn challenge_acks_pass(lab: &mut Trial) -> Shown {
    let mut c = lab.connect(lab.at(A, 6032), lab.at(S1, 80))?;
    c.works(lab)?;
    let inexact = tcp(c.remote, c.external, RST, c.peer.wrapping_add(100), 0, &[]);
    lab.back(&inexact, c.inside)?;
    let challenge = c.out(0, &[]);
    lab.out(&challenge)?;
    c.works(lab)
}

fn a_rebooted_client_gets_its_port_again(lab: &mut Trial) -> Shown {
    let mut c = lab.connect(lab.at(A, 6033), lab.at(S1, 80))?;
    c.works(lab)?;
    let (inside, remote) = (c.inside, c.remote);
    let seq = c.seq.wrapping_add(0x0400_0000);
    lab.out(&tcp(inside, remote, SYN, seq, 0, &[]))?;
    // The server still knows the old connection.
    lab.back(&tcp(remote, c.external, ACK, c.peer, c.seq, &[]), inside)?;
    lab.out(&tcp(inside, remote, RST, c.seq, 0, &[]))?;
    let external = lab.out(&tcp(inside, remote, SYN, seq, 0, &[]))?.from();
    let peer = c.peer.wrapping_add(0x0900_0000);
    lab.back(&tcp(remote, external, SYN | ACK, peer, seq.wrapping_add(1), &[]), inside)?;
    let (seq, peer) = (seq.wrapping_add(1), peer.wrapping_add(1));
    let mut c = super::trial::Connection { inside, external, remote, seq, peer };
    lab.out(&c.out(0, &[]))?;
    c.works(lab)
}

fn connections_are_picked_up_or_refused_cleanly(lab: &mut Trial) -> Shown {
    let (inside, remote) = (lab.at(A, 6034), lab.at(S1, 80));
    for turn in 0..3u32 {
        let segment = tcp(inside, remote, ACK, 0x5000 + turn * 100, 0x9000, &data(100));
        lab.send(Place::A, &segment)?;
    }
    let came = lab.collect(World)?;
    let Some(first) = came.first() else { return Ok(()) };
    // It was picked up without its window scale: no window may be enforced.
    demand(first.source == X, format!("it left as {first}"))?;
    lab.back(&tcp(remote, first.from(), ACK, 0x9000, 0x512c, &data(1000)), inside)?;
    lab.back(&tcp(remote, first.from(), ACK, 0x9000 + 900_000, 0x512c, &data(1000)), inside)?;
    Ok(())
}
