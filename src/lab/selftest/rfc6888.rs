//! RFC 6888 (BCP 127): what a NAT for many subscribers must do.

use super::contender::{Life, PLAIN, Setup};
use super::packet::{Packet, UDP, udp};
use super::trial::Place::World;
use super::trial::{A, B, HOSTS, Place, S1, S2, Trial, Who, X};
use super::{Shown, demand, requirements};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

const POOL: Setup = Setup { externals: 2, ..PLAIN };
/// Twenty ports for one host.
const QUOTA: Setup = Setup { tapnat: &["--limit", "mappings-per-host=20"], ..PLAIN };
const FEW_REMOTES: Setup = Setup { tapnat: &["--limit", "sessions-per-mapping=20"], ..PLAIN };
/// Few ports that are soon given back by their users.
const SCARCE: Setup = Setup { ports: Some((40_000, 40_099)), lives: &[(Life::Udp, 1)], ..PLAIN };
const TWENTY_PORTS: Setup = Setup { ports: Some((40_000, 40_019)), ..PLAIN };

/// Two ranges with a gap, ten ports in all.
const RANGES: Setup = Setup { tapnat: &["--ports", "40000-40004,50001-50005"], ..PLAIN };
/// One server is reached with the hosts' own addresses.
const EXEMPT: Setup = Setup { tapnat: &["--exempt", "198.51.100.20/32:4000/udp"], ..PLAIN };
/// What [`EXEMPT`] exempts.
const UNTOUCHED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 20);

requirements! {
    68 Must "RFC 6888 REQ-2" pooling_is_paired_across_protocols
        "all protocols of a host leave from the same of several external addresses" in POOL;
    69 Must "RFC 6888 REQ-3" port_ranges_may_have_gaps
        "several ranges of ports, not next to each other, are used to the last" in RANGES;
    70 Must "RFC 6888 REQ-4" ports_of_a_host_can_be_limited
        "a quota of external ports a host: one host's greed does not hurt another" in QUOTA;
    71 Should "RFC 6888 REQ-5" sessions_of_a_mapping_can_be_limited
        "sessions of one mapping can be limited, and those there live on" in FEW_REMOTES;
    72 Must "RFC 6888 REQ-6" exempt_destinations_see_the_inside_address
        "what goes to an exempt destination is not translated, and everything else is" in EXEMPT;
    72 Must "RFC 6888 REQ-6" answers_of_exempt_destinations_come_in
        "and the answer, sent to the inside address, comes in; a stranger's does not" in EXEMPT;
    73 Should "RFC 6888 REQ-7" strangers_get_in
        "endpoint-independent filtering: whoever knows the external endpoint gets in",
        by ["--filtering", "endpoint-independent"];
    74 Should "RFC 6888 REQ-8" a_freed_port_rests
        "a freed UDP port goes to no other host for two minutes" in SCARCE;
    74 Should "RFC 6888 REQ-8" freed_ports_rest_across_a_restart
        "nor after a restart of the NAT" in SCARCE;
    76 Should "RFC 6888 REQ-10" counters_can_be_read
        "sessions and drops are counted, and the counters can be read";
    77 Must "RFC 6888 REQ-11" no_session_is_ended_to_make_room
        "out of ports, the newcomer is dropped and no live session pays" in TWENTY_PORTS;
    77 Should "RFC 6888 REQ-11b" the_newcomer_is_told
        "and the newcomer is told by an ICMP Destination Unreachable" in TWENTY_PORTS;
    78 Should "RFC 6888 REQ-12" destinations_are_not_logged
        "by default nothing is logged that names the destination of a session";
    79 Should "RFC 6888 REQ-15" external_ports_are_hard_to_guess
        "successive mappings have no pattern";
}

fn pooling_is_paired_across_protocols(lab: &mut Trial) -> Shown {
    for host in [A, B] {
        let mut seen = BTreeSet::new();
        for number in 0..8 {
            let server = Ipv4Addr::new(198, 51, 100, 30 + number as u8);
            seen.insert(lab.open(lab.at(host, 6300 + number), lab.at(server, 4000))?.ip());
            seen.insert(lab.connect(lab.at(host, 6300 + number), lab.at(server, 80))?.external.ip());
            seen.insert(lab.out(&lab.echo(host, server, 710 + number))?.source);
        }
        demand(seen.len() == 1, format!("24 flows of {host} left from {seen:?}"))?;
    }
    Ok(())
}

fn ports_of_a_host_can_be_limited(lab: &mut Trial) -> Shown {
    let remote = lab.at(S1, 4000);
    let greedy = open_many(lab, A, 6310..6340)?;
    demand(greedy.len() <= 20, format!("A has {} ports", greedy.len()))?;
    demand(greedy.len() >= 18, format!("A has only {} ports", greedy.len()))?;
    for port in 6310..6320 {
        lab.open(lab.at(B, port), remote)?;
    }
    for (port, external) in greedy {
        lab.back(&udp(remote, external), lab.at(A, port))?;
    }
    Ok(())
}

fn port_ranges_may_have_gaps(lab: &mut Trial) -> Shown {
    let open = open_many(lab, A, 6350..6360)?;
    let used: BTreeSet<u16> = open.iter().map(|(_, external)| external.port()).collect();
    let wanted: BTreeSet<u16> = (40_000..=40_004).chain(50_001..=50_005).collect();
    demand(used == wanted, format!("ten flows over {wanted:?} left from {used:?}"))?;
    for (port, external) in open {
        lab.back(&udp(lab.at(S1, 4000), external), lab.at(A, port))?;
    }
    Ok(())
}

fn exempt_destinations_see_the_inside_address(lab: &mut Trial) -> Shown {
    lab.exempt = Some(UNTOUCHED.into());
    let (a, remote) = (lab.at(A, 6360), lab.at(UNTOUCHED, 4000));
    let left = lab.pass(Place::A, &udp(a, remote), World)?;
    demand(left.from() == a, format!("to the exempt destination it left as {left}"))?;
    for other in [lab.at(UNTOUCHED, 4001), lab.at(S1, 4000)] {
        lab.open(a, other)?;
    }
    Ok(())
}

fn answers_of_exempt_destinations_come_in(lab: &mut Trial) -> Shown {
    lab.exempt = Some(UNTOUCHED.into());
    let (a, remote) = (lab.at(A, 6361), lab.at(UNTOUCHED, 4000));
    lab.pass(Place::A, &udp(a, remote), World)?;
    let answer = lab.pass(World, &udp(remote, a), Place::A)?;
    demand(answer.to() == a && answer.from() == remote, format!("the answer came in as {answer}"))?;
    lab.blocked(World, &udp(lab.at(S2, 4000), a), &HOSTS)
}

/// Opens a flow to S1 from each port; gives back those that passed, with their external endpoints.
fn open_many(
    lab: &mut Trial,
    host: Who,
    ports: std::ops::Range<u16>,
) -> Shown<Vec<(u16, std::net::SocketAddr)>> {
    let mut open = Vec::new();
    let place = super::trial::place_of(host);
    for port in ports {
        let packet = udp(lab.at(host, port), lab.at(S1, 4000));
        let print = packet.fingerprint();
        lab.send(place, &packet)?;
        if let Some(left) = lab.look(World, |p| p.fingerprint() == print)? {
            open.push((port, left.from()));
        }
    }
    Ok(open)
}

fn sessions_of_a_mapping_can_be_limited(lab: &mut Trial) -> Shown {
    let a = lab.at(A, 6341);
    let external = lab.open(a, lab.at(S1, 4000))?;
    let mut passed = 1;
    for number in 1..30 {
        let packet = udp(a, lab.at(S1, 4000 + number));
        let print = packet.fingerprint();
        lab.send(Place::A, &packet)?;
        passed += usize::from(lab.look(World, |p| p.fingerprint() == print)?.is_some());
    }
    demand(passed == 20, format!("{passed} remotes of one mapping, and 20 is the limit"))?;
    lab.back(&udp(lab.at(S1, 4000), external), a)?;
    Ok(())
}

fn strangers_get_in(lab: &mut Trial) -> Shown {
    let a = lab.at(A, 6342);
    let external = lab.open(a, lab.at(S1, 4000))?;
    lab.back(&udp(lab.at(S2, 4000), external), a)?;
    Ok(())
}

fn rested(lab: &mut Trial, restart: bool) -> Shown {
    let mut freed = BTreeSet::new();
    for port in 6343..6353 {
        freed.insert(lab.open(lab.at(A, port), lab.at(S1, 4000))?);
    }
    if restart {
        lab.gateway.restart()?;
        lab.say("the gateway is restarted");
        lab.learn()?;
    } else {
        lab.wait(Duration::from_millis(2000))?;
        let gone = lab.gateway.word(UDP, lab.at(A, 6343)).is_err();
        demand(gone, "the sessions do not end")?;
    }
    // As many as there are left besides those that rest.
    for port in 6353..6423 {
        if let Some((_, external)) = open_many(lab, B, port..port + 1)?.first() {
            demand(!freed.contains(external), format!("B got {external}, which A had a moment ago"))?;
        }
    }
    Ok(())
}

fn a_freed_port_rests(lab: &mut Trial) -> Shown {
    rested(lab, false)
}

fn freed_ports_rest_across_a_restart(lab: &mut Trial) -> Shown {
    rested(lab, true)
}

fn counters_can_be_read(lab: &mut Trial) -> Shown {
    lab.open(lab.at(A, 6430), lab.at(S1, 4000))?;
    lab.blocked(World, &udp(lab.at(S1, 4000), lab.at(X, 61_000)), &HOSTS)?;
    let text = match lab.gateway.sysctl("count")? {
        Some(count) => return demand(count > 0, "it counts no session"),
        None => lab.gateway.ask(&["stats", "--json"])?,
    };
    let stats: serde_json::Value = serde_json::from_str(text.trim()).unwrap_or_default();
    let sessions = stats.get("sessions").and_then(serde_json::Value::as_u64).unwrap_or(0);
    let dropped = stats.get("dropped").and_then(|dropped| dropped.as_object()).map_or(0, |words| words.len());
    demand(sessions > 0 && dropped > 10, format!("{sessions} sessions, {dropped} words for drops"))
}

fn no_session_is_ended_to_make_room(lab: &mut Trial) -> Shown {
    let open = open_many(lab, A, 6431..6456)?;
    demand((1..=20).contains(&open.len()), format!("{} of 25 flows got one of 20 ports", open.len()))?;
    for (port, external) in open {
        lab.back(&udp(lab.at(S1, 4000), external), lab.at(A, port))?;
    }
    Ok(())
}

fn the_newcomer_is_told(lab: &mut Trial) -> Shown {
    open_many(lab, A, 6457..6482)?;
    lab.forget();
    lab.send(Place::B, &udp(lab.at(B, 6482), lab.at(S1, 4000)))?;
    let told = lab.look(Place::B, Packet::is_unreachable)?;
    demand(told.is_some(), "a 26th flow over 20 ports is dropped in silence")
}

fn destinations_are_not_logged(lab: &mut Trial) -> Shown {
    lab.open(lab.at(A, 6483), lab.at(S1, 4000))?;
    lab.connect(lab.at(A, 6484), lab.at(S2, 80))?;
    lab.sync()?;
    let said = lab.gateway.said();
    let line = said.lines().find(|line| line.contains("198.51.100."));
    demand(line.is_none(), format!("it logs: {}", line.unwrap_or_default()))
}

fn external_ports_are_hard_to_guess(lab: &mut Trial) -> Shown {
    // Every port clashes, so that keeping the inside port is no answer.
    let mut ports = Vec::new();
    for port in 6490..6550 {
        lab.open(lab.at(B, port), lab.at(S1, 4000))?;
        ports.push(i32::from(lab.open(lab.at(A, port), lab.at(S1, 4000))?.port()));
    }
    let steps = ports.windows(2).filter(|pair| (pair[1] - pair[0]).abs() <= 2).count();
    demand(steps < 5, format!("{steps} of 59 steps are of 2 or less"))?;
    let distinct: BTreeSet<i32> = ports.windows(2).map(|pair| pair[1] - pair[0]).collect();
    demand(distinct.len() > 40, format!("only {} different steps in 59", distinct.len()))
}
