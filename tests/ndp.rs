//! Neighbour discovery and router advertisements, frame in and frame out (RFC 4861).
#![allow(clippy::unwrap_used)]

mod support;
#[path = "support/v6.rs"]
mod v6;

use std::net::Ipv6Addr;
use std::time::Duration;
use support::{MAC, MAC_A, MAC_B, Rig};
use tapnat::gateway::{Advertise, Answer, Command, DropReason, Fate, Outbox, Reply, Subnet};
use tapnat::wire::{Frame, MacAddr};
use v6::*;

const TAKEN: Fate = Fate::Taken(Answer::Ndp);

fn dropped(reason: DropReason) -> Fate {
    Fate::Dropped(reason)
}

#[test]
fn a_question_for_the_gateway_s_addresses_is_answered_and_for_others_not() {
    for ours in [GATEWAY6, LINK_LOCAL] {
        let mut rig = stranger(config());
        assert_eq!(rig.frame(&solicitation(MAC_A, A6, ours)), TAKEN);
        let (mac, answer) = sent6(&mut rig).remove(0);
        assert_eq!((mac, source6(&answer), destination6(&answer), answer[7]), (MAC_A, ours, A6, 255));
        let flags = ROUTER | SOLICITED | OVERRIDE;
        assert_eq!(answer[40], 136);
        assert_eq!(answer[44..], neighbor(136, flags, ours, &option(TARGET_MAC, MAC))[4..]);
        assert!(icmp6_is_right(&answer));
    }
    let mut rig = stranger(config());
    assert_eq!(rig.frame(&solicitation(MAC_A, A6, B6)), TAKEN);
    assert!(rig.sent.is_empty());
}

#[test]
fn a_host_s_link_local_address_is_a_neighbour_too() {
    let mut rig = stranger(config());
    assert_eq!(rig.frame(&solicitation(MAC_A, LINK_LOCAL_A, LINK_LOCAL)), TAKEN);
    let (mac, answer) = sent6(&mut rig).remove(0);
    assert_eq!((mac, destination6(&answer)), (MAC_A, LINK_LOCAL_A));
}

#[test]
fn a_probe_for_the_gateway_s_address_is_answered_to_all() {
    let mut rig = stranger(config());
    let probe = |target| {
        let message = neighbor(135, 0, target, &[]);
        let packet = icmp6(Ipv6Addr::UNSPECIFIED, group(target), 255, &message);
        framed(MAC_A, group_mac(group(target)), &packet)
    };
    assert_eq!(rig.frame(&probe(GATEWAY6)), TAKEN);
    let (mac, answer) = sent6(&mut rig).remove(0);
    assert_eq!((mac, destination6(&answer)), (group_mac(ALL_NODES), ALL_NODES));
    assert_eq!(answer[44..], neighbor(136, ROUTER | OVERRIDE, GATEWAY6, &option(TARGET_MAC, MAC))[4..]);
    assert_eq!(rig.frame(&probe(A6)), TAKEN);
    assert!(rig.sent.is_empty());
}

/// What is wrong, and the packet from A to the gateway in which it is.
fn invalid() -> Vec<(&'static str, Vec<u8>)> {
    let with = option(SOURCE_MAC, MAC_A);
    let asks = |target, options: &[u8]| neighbor(135, 0, target, options);
    let right = icmp6(A6, GATEWAY6, 255, &asks(GATEWAY6, &with));
    let changed = |at: usize, byte: u8| {
        let mut packet = right.clone();
        packet[at] = byte;
        packet
    };
    let nobody = Ipv6Addr::UNSPECIFIED;
    let strange = Ipv6Addr::new(0xfd00, 0, 0, 2, 0, 0, 0, 1);
    let says = |flags, target, options: &[u8]| neighbor(136, flags, target, options);
    let fixed = |at: usize, byte: u8| {
        let mut packet = changed(at, byte);
        fix_icmp6(&mut packet);
        packet
    };
    vec![
        ("hop limit 254", changed(7, 254)),
        ("checksum", changed(43, right[43] ^ 1)),
        ("code 1", fixed(41, 1)),
        ("shorter than a target", icmp6(A6, GATEWAY6, 255, &asks(GATEWAY6, &[])[..20])),
        ("option of length 0", icmp6(A6, GATEWAY6, 255, &asks(GATEWAY6, &[1, 0, 0, 0, 0, 0, 0, 0]))),
        ("option beyond the end", icmp6(A6, GATEWAY6, 255, &asks(GATEWAY6, &[1, 2, 0, 0, 0, 0, 0, 0]))),
        ("half an option", icmp6(A6, GATEWAY6, 255, &asks(GATEWAY6, &[1, 1, 0, 0]))),
        ("multicast target", icmp6(A6, GATEWAY6, 255, &asks(group(GATEWAY6), &with))),
        ("probe to one host", icmp6(nobody, GATEWAY6, 255, &asks(GATEWAY6, &[]))),
        ("probe with a MAC", icmp6(nobody, group(GATEWAY6), 255, &asks(GATEWAY6, &with))),
        ("our address as source", icmp6(GATEWAY6, GATEWAY6, 255, &asks(GATEWAY6, &with))),
        ("source of another subnet", icmp6(strange, GATEWAY6, 255, &asks(GATEWAY6, &with))),
        ("multicast MAC", icmp6(A6, GATEWAY6, 255, &asks(GATEWAY6, &option(1, MacAddr::BROADCAST)))),
        ("our MAC", icmp6(A6, GATEWAY6, 255, &asks(GATEWAY6, &option(1, MAC)))),
        ("no MAC", icmp6(A6, GATEWAY6, 255, &asks(GATEWAY6, &option(1, MacAddr([0; 6]))))),
        ("claims our address", icmp6(A6, ALL_NODES, 255, &says(OVERRIDE, GATEWAY6, &option(2, MAC_A)))),
        ("solicited to all", icmp6(A6, ALL_NODES, 255, &says(SOLICITED, A6, &option(2, MAC_A)))),
        ("to somebody else", icmp6(A6, B6, 255, &says(OVERRIDE, A6, &option(2, MAC_A)))),
        ("router question with a MAC from nobody", {
            let message = [&[133, 0, 0, 0, 0, 0, 0, 0][..], &with].concat();
            icmp6(nobody, ALL_ROUTERS, 255, &message)
        }),
    ]
}

#[test]
fn invalid_messages_are_dropped_and_change_nothing() {
    for (what, packet) in invalid() {
        let mut rig = rig();
        assert_eq!(rig.frame(&framed(MAC_A, MAC, &packet)), dropped(DropReason::BadNdp), "{what}");
        assert!(rig.sent.is_empty(), "{what}");
    }
}

#[test]
fn no_message_cut_anywhere_or_with_any_byte_changed_makes_it_panic() {
    let mut rig = rig();
    let frames = [solicitation(MAC_A, A6, GATEWAY6), advertisement(MAC_A, A6, SOLICITED)];
    for frame in frames.iter().chain([&router_solicitation(MAC_A)]) {
        for end in 0..frame.len() {
            rig.frame(&frame[..end]);
        }
        for at in 14..frame.len() {
            for byte in [0, 1, 2, 4, 0x7f, 0x80, 0xff] {
                let mut frame = frame.clone();
                frame[at] = byte;
                rig.frame(&frame);
                if frame.len() > 58 && at >= 54 {
                    fix_icmp6(&mut frame[14..]);
                    rig.frame(&frame);
                }
            }
        }
    }
}

#[test]
fn only_routers_advertise_and_redirect_and_hosts_are_no_routers() {
    let mut rig = rig();
    let advertisement = [&[134, 0, 0, 0, 64, 0, 7, 8][..], &[0; 8]].concat();
    let packet = icmp6(LINK_LOCAL_A, ALL_NODES, 255, &advertisement);
    let fate = rig.frame(&framed(MAC_A, group_mac(ALL_NODES), &packet));
    assert_eq!(fate, dropped(DropReason::RouterAdvertisement));
    let redirect = [&[137, 0, 0, 0, 0, 0, 0, 0][..], &A6.octets(), &S1_6.octets()].concat();
    let packet = icmp6(LINK_LOCAL_A, GATEWAY6, 255, &redirect);
    assert_eq!(rig.frame(&framed(MAC_A, MAC, &packet)), dropped(DropReason::IcmpType));
    assert!(rig.sent.is_empty());
}

#[test]
fn a_gateway_without_ipv6_answers_no_neighbour() {
    let mut rig = Rig::new();
    assert_eq!(rig.frame(&solicitation(MAC_A, A6, LINK_LOCAL)), dropped(DropReason::BadNdp));
    assert!(rig.sent.is_empty());
}

#[test]
fn a_flood_of_questions_is_bounded() {
    let mut config = config();
    config.hosts = 8;
    let mut rig = rig_with(config);
    let fates: Vec<_> = (0x10..0x80)
        .map(|last| {
            let ip = Ipv6Addr::from_bits(A6.to_bits() & !0xff | last);
            rig.frame(&solicitation(MAC_A, ip, GATEWAY6))
        })
        .collect();
    assert_eq!(fates.iter().filter(|fate| **fate == TAKEN).count(), 6);
    assert_eq!(fates.iter().filter(|fate| **fate == dropped(DropReason::NeighborLimit)).count(), 106);
    let unasked = Ipv6Addr::from_bits(A6.to_bits() & !0xff | 0x90);
    assert_eq!(rig.frame(&advertisement(MAC_A, unasked, OVERRIDE)), TAKEN, "makes no entry");
}

fn advertising() -> Rig {
    let mut config = config();
    let dns = vec![GATEWAY6, S1_6];
    config.advertise = Some(Advertise { dns, ..Advertise::default() });
    config.subnets.push(Subnet {
        gateway: Ipv6Addr::new(0xfd00, 0, 0, 2, 0, 0, 0, 1).into(),
        prefix: 80,
        only: None,
    });
    stranger(config)
}

#[test]
fn an_advertisement_tells_prefixes_mtu_and_dns_servers() {
    let mut rig = advertising();
    assert_eq!(rig.gateway.next_deadline(), Some(tapnat::flow::Time::ZERO));
    rig.wait(0);
    let (mac, packet) = sent6(&mut rig).remove(0);
    assert_eq!((mac, source6(&packet), destination6(&packet)), (group_mac(ALL_NODES), LINK_LOCAL, ALL_NODES));
    assert_eq!(packet[7], 255);
    assert!(icmp6_is_right(&packet));
    let lifetimes = [&2_592_000u32.to_be_bytes()[..], &604_800u32.to_be_bytes(), &[0; 4]].concat();
    let prefix = |length, flags, third| {
        let prefix = Ipv6Addr::new(0xfd00, 0, 0, third, 0, 0, 0, 0).octets();
        [&[3, 4, length, flags][..], &lifetimes, &prefix].concat()
    };
    let expected = [
        &[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0][..],
        &option(SOURCE_MAC, MAC),
        &[5, 1, 0, 0, 0, 0, 5, 220],
        &prefix(64, 0xc0, 1),
        &prefix(80, 0x80, 2),
        &[25, 5, 0, 0, 0, 0, 7, 8],
        &GATEWAY6.octets(),
        &S1_6.octets(),
    ];
    assert_eq!((packet[40], packet[41]), (134, 0));
    assert_eq!(packet[44..], expected.concat());
}

#[test]
fn who_asks_for_routers_is_answered_soon_and_many_together() {
    let mut rig = advertising();
    (0..60).for_each(|_| rig.wait(1000));
    sent6(&mut rig);
    for host in 0..50 {
        assert_eq!(rig.frame(&router_solicitation(MacAddr([2, 0, 0, 0, 1, host]))), TAKEN);
    }
    assert!(rig.sent.is_empty(), "not at once");
    let due = rig.gateway.next_deadline().unwrap();
    assert!(due.since(rig.now) <= Duration::from_millis(500), "{due}");
    rig.wait(500);
    assert_eq!(sent6(&mut rig).len(), 1);
    rig.frame(&router_solicitation(MAC_A));
    (0..5).for_each(|_| rig.wait(500));
    assert!(rig.sent.is_empty(), "not within three seconds of the last");
    rig.wait(1000);
    assert_eq!(sent6(&mut rig).len(), 1);
}

#[test]
fn who_asks_for_routers_with_an_address_is_known_from_then_on() {
    let mut rig = advertising();
    let message = [&[133, 0, 0, 0, 0, 0, 0, 0][..], &option(SOURCE_MAC, MAC_A)].concat();
    let packet = icmp6(LINK_LOCAL_A, ALL_ROUTERS, 255, &message);
    assert_eq!(rig.frame(&framed(MAC_A, group_mac(ALL_ROUTERS), &packet)), TAKEN);
}

#[test]
fn the_last_advertisement_takes_the_router_back() {
    let mut rig = advertising();
    let mut out = Outbox::default();
    rig.gateway.farewell(&mut out);
    assert!(out.packets.is_empty(), "nobody was told of a router");
    rig.wait(0);
    let (_, told) = sent6(&mut rig).remove(0);
    rig.gateway.farewell(&mut out);
    let last = &out.packets[0].1.bytes()[14..];
    assert_eq!(last[46..48], [0, 0], "router lifetime");
    assert_eq!(last[48..], told[48..]);
    assert!(icmp6_is_right(last));
    let Reply::Counters(view, _) = rig.gateway.apply(Command::Counters, rig.now, &mut ()) else { panic!() };
    assert!(view.answered.contains(&("router-advertisement", 2)));
}

#[test]
fn without_the_setting_nothing_is_advertised() {
    let mut rig = stranger(config());
    rig.frame(&router_solicitation(MAC_B));
    (0..30).for_each(|_| rig.wait(1000));
    rig.gateway.farewell(&mut Outbox::default());
    assert!(rig.sent.is_empty());
}

#[test]
fn a_new_configuration_is_advertised_soon_and_the_end_of_advertisements_too() {
    let mut rig = advertising();
    (0..60).for_each(|_| rig.wait(1000));
    sent6(&mut rig);
    let mut config = rig.gateway.config().clone();
    config.advertise.as_mut().unwrap().dns.clear();
    rig.gateway.reconfigure(config.clone(), rig.now, &mut ());
    rig.wait(0);
    let (_, told) = sent6(&mut rig).remove(0);
    assert_eq!(told.len(), 40 + 16 + 8 + 8 + 2 * 32, "no servers");
    config.advertise = None;
    rig.gateway.reconfigure(config, rig.now, &mut ());
    rig.wait(0);
    let (_, last) = sent6(&mut rig).remove(0);
    assert_eq!(last[46..48], [0, 0], "router lifetime");
    assert_eq!(rig.gateway.next_deadline(), None);
    rig.gateway.farewell(&mut Outbox::default());
    (0..20).for_each(|_| rig.wait(1000));
    assert!(rig.sent.is_empty());
}

#[test]
fn a_gateway_says_at_its_start_where_its_addresses_are() {
    let mut rig = Rig::new();
    let mut out = Outbox::default();
    rig.gateway.greet(&mut out);
    let frames: Vec<_> = out.packets.iter().map(|(_, frame)| Frame::parse(frame.bytes()).unwrap()).collect();
    assert_eq!(frames.len(), rig.gateway.config().subnets.len());
    assert!(frames.iter().all(|frame| frame.destination.is_multicast() && frame.source == MAC));
}
