//! Who may send in whose name: packets from inside are held to the MAC that their source is known to have
//! (row 157).
#![allow(clippy::unwrap_used)]

mod support;
#[path = "support/v6.rs"]
mod v6;

use std::net::Ipv4Addr;
use support::*;
use tapnat::gateway::{DropReason, Fate, INSIDE, OUTSIDE};
use tapnat::wire::ethernet::{ARP, IPV6};
use tapnat::wire::{Frame, MacAddr, craft};

const MAC_C: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xc]);
const MISMATCH: Fate = Fate::Dropped(DropReason::MacMismatch);

fn query(source: Ipv4Addr) -> Vec<u8> {
    craft::udp(at(source, 1000), at(S1, 53), b"query")
}

fn query6() -> Vec<u8> {
    craft::udp((v6::A6, 1000), (v6::S1_6, 53), b"query")
}

/// Frames of this type sent inside since the last call: to whom.
fn asked(rig: &mut Rig, ethertype: u16) -> Vec<MacAddr> {
    let frames = rig.take(INSIDE);
    let headers = frames.iter().map(|frame| Frame::parse(frame).unwrap());
    headers.filter(|header| header.ethertype == ethertype).map(|header| header.destination).collect()
}

#[test]
fn a_packet_in_a_neighbours_name_is_dropped_and_everybody_is_asked_who_has_the_address() {
    let mut rig = Rig::new();
    assert_eq!(rig.from(MAC_A, &query(A)), Fate::Pass(OUTSIDE));
    assert_eq!(rig.from(MAC_B, &query(A)), MISMATCH);
    assert_eq!(asked(&mut rig, ARP), [MacAddr::BROADCAST]);
    rig.frame(&arp(2, MAC_A, A, MAC, GATEWAY));
    for _ in 0..100 {
        assert_eq!(rig.from(MAC_B, &query(A)), MISMATCH);
    }
    assert!(asked(&mut rig, ARP).is_empty(), "once a second at most");
    assert_eq!(rig.from(MAC_A, &query(A)), Fate::Pass(OUTSIDE));
    assert_eq!(rig.from(MAC_B, &query(B)), Fate::Pass(OUTSIDE));
    rig.wait(1_000);
    assert_eq!(rig.from(MAC_B, &query(A)), MISMATCH);
    assert_eq!(asked(&mut rig, ARP).len(), 1);
}

#[test]
fn not_even_the_gateway_answers_a_borrowed_name() {
    let mut rig = Rig::new();
    assert_eq!(rig.from(MAC_B, &craft::echo(A, GATEWAY, true, 1, 1, b"ping")), MISMATCH);
    assert!(rig.sent_inside().is_empty());
}

#[test]
fn a_host_with_a_new_mac_that_says_nothing_is_known_again_when_it_answers() {
    let mut rig = Rig::new();
    rig.from(MAC_A, &query(A));
    assert_eq!(rig.from(MAC_C, &query(A)), MISMATCH);
    assert_eq!(asked(&mut rig, ARP), [MacAddr::BROADCAST]);
    rig.frame(&arp(2, MAC_C, A, MAC, GATEWAY));
    assert_eq!(rig.from(MAC_C, &query(A)), Fate::Pass(OUTSIDE));
    assert_eq!(rig.from(MAC_A, &query(A)), MISMATCH, "the old one is the stranger then");
}

#[test]
fn the_same_holds_for_ipv6_where_the_question_goes_to_the_group() {
    let mut rig = v6::rig();
    assert_eq!(v6::from6(&mut rig, MAC_A, &query6()), Fate::Pass(OUTSIDE));
    assert_eq!(v6::from6(&mut rig, MAC_C, &query6()), MISMATCH);
    assert_eq!(asked(&mut rig, IPV6), [v6::group_mac(v6::group(v6::A6))]);
    assert_eq!(v6::from6(&mut rig, MAC_C, &query6()), MISMATCH);
    assert!(asked(&mut rig, IPV6).is_empty());
    const SOLICITED_OVERRIDE: u8 = 0x60;
    rig.frame(&v6::advertisement(MAC_C, v6::A6, SOLICITED_OVERRIDE));
    assert_eq!(v6::from6(&mut rig, MAC_C, &query6()), Fate::Pass(OUTSIDE));
}

#[test]
fn an_address_whose_holder_answers_no_more_is_free_after_three_questions() {
    let mut rig = Rig::new();
    assert_eq!(rig.from(MAC_C, &query(A)), MISMATCH);
    let mut questions = asked(&mut rig, ARP).len();
    for _ in 0..3 {
        rig.wait(1_000);
        questions += asked(&mut rig, ARP).len();
    }
    assert_eq!(questions, 3);
    assert_eq!(rig.from(MAC_C, &query(A)), Fate::Pass(OUTSIDE));
}

#[test]
fn who_is_not_known_may_send_and_is_not_believed_for_it() {
    let mut rig = Rig::new();
    let nobody = Ipv4Addr::new(10, 0, 0, 9);
    assert_eq!(rig.from(MAC_C, &query(nobody)), Fate::Pass(OUTSIDE));
    rig.frame(&arp(1, MAC_B, nobody, MacAddr([0; 6]), GATEWAY));
    assert_eq!(rig.from(MAC_C, &query(nobody)), MISMATCH, "what was remembered is forgotten");
    assert_eq!(rig.from(MAC_B, &query(nobody)), Fate::Pass(OUTSIDE));
}

#[test]
fn where_macs_are_not_bound_any_of_them_may_send() {
    let mut config = config();
    config.bind_mac = false;
    let mut rig = Rig::with(config);
    assert_eq!(rig.from(MAC_B, &query(A)), Fate::Pass(OUTSIDE));
    assert!(asked(&mut rig, ARP).is_empty());
}
