//! SYNs from outside that nobody asked for: silence for six seconds, then one answer (RFC 5382 REQ-4).
#![allow(clippy::unwrap_used)]

mod support;

use std::net::Ipv4Addr;
use support::*;
use tapnat::flow::{Protocol, TcpFlags};
use tapnat::gateway::{DropReason, Fate};
use tapnat::nat::{Behaviour, Refusal};
use tapnat::wire::craft;

const PORT: u16 = 45_000;

fn syn(from: Ipv4Addr, port: u16) -> Vec<u8> {
    craft::tcp(at(from, 8080), at(X, port), TcpFlags::SYN, 77, b"")
}

/// Type and code of the ICMP errors sent outside since the last call, with their receivers.
fn errors(rig: &mut Rig) -> Vec<(Ipv4Addr, u8, u8)> {
    let sent = rig.sent_outside().into_iter().filter(|packet| packet[9] == 1);
    sent.map(|packet| (destination(&packet), packet[20], packet[21])).collect()
}

#[test]
fn an_unsolicited_syn_is_met_with_silence_for_six_seconds_then_with_port_unreachable() {
    let mut rig = Rig::new();
    assert_eq!(rig.outside(&syn(S2, PORT)), Fate::Dropped(DropReason::Refused(Refusal::NoMapping)));
    rig.wait(5_999);
    assert!(rig.sent.is_empty());
    assert!(
        rig.gateway.next_deadline().is_some_and(|due| due <= rig.now + std::time::Duration::from_millis(1))
    );
    rig.wait(1);
    assert_eq!(errors(&mut rig), [(S2, 3, 3)]);
    rig.wait(60_000);
    assert!(rig.sent.is_empty());
}

#[test]
fn a_syn_that_is_sent_again_is_answered_once_and_with_no_more_bytes_than_it_has() {
    let mut rig = Rig::new();
    for _ in 0..3 {
        rig.outside(&syn(S2, PORT));
        rig.wait(1_000);
    }
    rig.wait(10_000);
    let answers = rig.sent_outside();
    assert_eq!(answers.len(), 1);
    // Ethernet pads both to 60 bytes or carries an ICMP error of a SYN without options whole.
    assert!(answers[0].len() <= 28 + syn(S2, PORT).len());
}

/// The answer must not tell a port that is mapped from one that is not.
#[test]
fn a_filtered_syn_is_answered_as_one_to_a_free_port_is() {
    let mut rig = Rig::new();
    rig.from(MAC_A, &craft::tcp(at(A, 1000), at(S1, 80), TcpFlags::SYN, 1, b""));
    let mapped = source_port(&rig.sent_outside()[0]);
    assert_eq!(rig.outside(&syn(S2, mapped)), Fate::Dropped(DropReason::Refused(Refusal::Filtered)));
    rig.outside(&syn(S2, if mapped == PORT { PORT + 1 } else { PORT }));
    rig.wait(6_000);
    let answers = rig.sent_outside();
    assert_eq!(answers.len(), 2);
    let bare = |packet: &[u8]| {
        let mut packet = packet.to_vec();
        // Its own and the quoted identification, checksums and port differ.
        for at in [4, 5, 10, 11, 22, 23, 50, 51, 44, 45, 38, 39] {
            if at < packet.len() {
                packet[at] = 0;
            }
        }
        packet.truncate(52);
        packet
    };
    assert_eq!(bare(&answers[0]), bare(&answers[1]));
}

#[test]
fn a_syn_out_within_six_seconds_takes_the_answer_back() {
    let mut config = config();
    config.nat.policy.filtering = Behaviour::AddressAndPortDependent;
    config.nat.ports = vec![PORT..=PORT];
    let mut rig = Rig::with(config);
    rig.outside(&syn(S2, PORT));
    rig.wait(3_000);
    rig.from(MAC_A, &craft::tcp(at(A, 1000), at(S2, 8080), TcpFlags::SYN, 5, b""));
    assert_eq!(source_port(&rig.sent_outside()[0]), PORT);
    rig.wait(10_000);
    assert!(errors(&mut rig).is_empty());
    rig.outside(&syn(S2, PORT));
    assert_eq!(destination(&rig.sent_inside()[0].1), A, "sent again, it is let in: simultaneous open");
}

#[test]
fn ports_that_are_the_hosts_are_answered_by_the_host_alone() {
    let mut config = config();
    config.nat.leased = true;
    let mut rig = Rig::with(config);
    rig.outside(&syn(S2, PORT));
    rig.outside(&syn(S2, 22));
    rig.gateway.lease(Protocol::Tcp, tapnat::flow::Endpoint::new(X, PORT + 1));
    rig.outside(&syn(S2, PORT + 1));
    rig.wait(6_000);
    assert_eq!(errors(&mut rig).len(), 1);
}

#[test]
fn a_flood_of_syns_is_bounded_and_answered_at_the_limited_rate() {
    let mut rig = Rig::new();
    for number in 0..5_000u16 {
        rig.outside(&syn(Ipv4Addr::from(0xc633_6400 + u32::from(number)), 40_000 + number));
    }
    rig.wait(6_000);
    let answers = errors(&mut rig).len();
    assert!((20..=50).contains(&answers), "{answers}");
    assert_eq!(rig.gateway.next_deadline(), None);
}
