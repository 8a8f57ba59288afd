//! The box as a whole, packet in and packet out, in virtual time and without a kernel.
#![allow(clippy::unwrap_used)]

mod support;

use proptest::prelude::*;
use std::net::Ipv4Addr;
use support::*;
use tapnat::flow::{Endpoint, LinkInfo, Protocol, TcpFlags};
use tapnat::gateway::{Answer, Command, DropReason, Fate, HOST, INSIDE, OUTSIDE, Reply, Subnet};
use tapnat::nat::Refusal;
use tapnat::wire::craft::{self, Tcp};
use tapnat::wire::{MacAddr, Offload, PartialChecksum, Segment, SegmentKind, fragment};

fn dropped(reason: DropReason) -> Fate {
    Fate::Dropped(reason)
}

fn syn(mss: u16) -> Tcp {
    Tcp { flags: TcpFlags::SYN, mss: Some(mss), ..Tcp::default() }
}

#[test]
fn arp_for_the_gateway_is_answered_with_its_own_mac_and_for_others_not() {
    let mut rig = Rig::new();
    let asker = Ipv4Addr::new(10, 0, 0, 9);
    assert_eq!(rig.frame(&arp(1, MAC_A, asker, MacAddr([0; 6]), GATEWAY)), Fate::Taken(Answer::Arp));
    let answers = rig.take(INSIDE);
    assert_eq!(answers, [arp(2, MAC, GATEWAY, MAC_A, asker)]);
    rig.frame(&arp(1, MAC_A, asker, MacAddr([0; 6]), B));
    assert!(rig.sent.is_empty());
}

#[test]
fn arp_that_lies_is_dropped() {
    let mut rig = Rig::new();
    let outside_subnet = Ipv4Addr::new(192, 168, 0, 1);
    for (mac, ip) in [(MAC_A, GATEWAY), (MAC_A, outside_subnet), (MAC, A), (MacAddr::BROADCAST, A)] {
        assert_eq!(rig.frame(&arp(1, mac, ip, MacAddr([0; 6]), GATEWAY)), dropped(DropReason::BadArp));
    }
    assert_eq!(rig.frame(&arp(1, MAC_A, A, MAC, GATEWAY)[..30]), dropped(DropReason::BadArp));
    assert!(rig.sent.is_empty());
}

#[test]
fn an_arp_flood_is_bounded_and_leaves_known_hosts_alone() {
    let mut config = config();
    config.hosts = 8;
    let mut rig = Rig::with(config);
    let fates: Vec<_> = (10..200)
        .map(|last| rig.frame(&arp(1, MAC_A, Ipv4Addr::new(10, 0, 0, last), MacAddr([0; 6]), GATEWAY)))
        .collect();
    assert_eq!(fates.iter().filter(|fate| **fate == dropped(DropReason::NeighborLimit)).count(), 184);
    rig.from(MAC_A, &craft::udp(at(A, 1000), at(S1, 53), b"q"));
    let out = rig.sent_outside().remove(0);
    assert_eq!(rig.outside(&craft::udp(at(S1, 53), at(X, source_port(&out)), b"r")), Fate::Pass(INSIDE));
}

#[test]
fn who_claims_every_address_keeps_no_newcomer_out() {
    const MAC_C: MacAddr = MacAddr([2, 0, 0, 0, 0xc, 0xc]);
    let newcomer = Ipv4Addr::new(10, 0, 0, 250);
    // From one MAC, and each from a MAC of its own.
    for many in [false, true] {
        let mut config = config();
        config.hosts = 8;
        let mut rig = Rig::with(config);
        // Something is delivered to B before.
        rig.from(MAC_B, &craft::udp(at(B, 1000), at(S1, 53), b"q"));
        let out = rig.sent_outside().remove(0);
        let answer = craft::udp(at(S1, 53), at(X, source_port(&out)), b"r");
        assert_eq!(rig.outside(&answer), Fate::Pass(INSIDE));
        for last in 10..200 {
            let mac = if many { MacAddr([2, 0, 0, 0, 9, last]) } else { MAC_A };
            rig.frame(&arp(1, mac, Ipv4Addr::new(10, 0, 0, last), MacAddr([0; 6]), GATEWAY));
        }
        rig.sent.clear();
        assert_eq!(rig.outside(&answer), Fate::Pass(INSIDE), "who is delivered to stays");
        rig.sent.clear();
        assert_eq!(rig.frame(&arp(1, MAC_C, newcomer, MacAddr([0; 6]), GATEWAY)), Fate::Taken(Answer::Arp));
        assert_eq!(rig.sent.len(), 1, "it is answered");
        rig.sent.clear();
        rig.from(MAC_C, &craft::udp(at(newcomer, 1000), at(S1, 53), b"q"));
        let out = rig.sent_outside().remove(0);
        rig.sent.clear();
        let answer = craft::udp(at(S1, 53), at(X, source_port(&out)), b"r");
        assert_eq!(rig.outside(&answer), Fate::Pass(INSIDE));
        assert_eq!(rig.sent_inside().remove(0).0, MAC_C);
    }
}

#[test]
fn out_and_back_again_changes_addresses_ports_hop_and_nothing_else() {
    let mut rig = Rig::new();
    let sent = craft::udp(at(A, 1000), at(S1, 53), b"question");
    assert_eq!(rig.from(MAC_A, &sent), Fate::Pass(OUTSIDE));
    let out = rig.sent_outside().remove(0);
    assert_eq!((source(&out), destination(&out), destination_port(&out)), (X, S1, 53));
    assert_eq!((out[8], &out[28..]), (sent[8] - 1, &b"question"[..]));
    assert!(sums_are_right(&out));
    assert_eq!(rig.outside(&craft::udp(at(S1, 53), at(X, source_port(&out)), b"answer")), Fate::Pass(INSIDE));
    let (mac, back) = rig.sent_inside().remove(0);
    assert_eq!((mac, source(&back), destination(&back)), (MAC_A, S1, A));
    assert_eq!((source_port(&back), destination_port(&back), back[8]), (53, 1000, 63));
    assert!(sums_are_right(&back));
}

#[test]
fn padding_of_short_frames_is_not_payload() {
    let mut rig = Rig::new();
    let mut padded = craft::udp(at(A, 1000), at(S1, 53), b"q");
    let length = padded.len();
    padded.resize(46, 0xee);
    rig.from(MAC_A, &padded);
    assert_eq!(rig.sent_outside().remove(0).len(), length);
}

#[test]
fn echo_to_the_gateway_is_answered_and_other_ports_there_are_closed() {
    let mut rig = Rig::new();
    assert_eq!(rig.from(MAC_A, &craft::echo(A, GATEWAY, true, 7, 1, b"hi")), Fate::Taken(Answer::Echo));
    let (mac, reply) = rig.sent_inside().remove(0);
    assert_eq!((mac, source(&reply), reply[20], word(&reply, 24)), (MAC_A, GATEWAY, 0, 7));
    let closed = rig.from(MAC_A, &craft::udp(at(A, 5), at(GATEWAY, 22), b""));
    assert_eq!(closed, dropped(DropReason::InsideDestination));
    let (_, error) = rig.sent_inside().remove(0);
    assert_eq!((error[20], error[21]), (3, 3));
    let opens = craft::tcp(at(A, 5), at(GATEWAY, 22), TcpFlags::SYN, 9, b"");
    assert_eq!(rig.from(MAC_A, &opens), dropped(DropReason::InsideDestination));
    let (mac, reset) = rig.sent_inside().remove(0);
    assert_eq!((mac, source(&reset), destination(&reset), reset[9]), (MAC_A, GATEWAY, A, 6));
    assert_eq!((source_port(&reset), destination_port(&reset), reset[33]), (22, 5, 0x14));
    assert_eq!(word(&reset, 30), 10, "acknowledges the SYN");
    assert!(sums_are_right(&reset));
    let resets = craft::tcp(at(A, 5), at(GATEWAY, 22), TcpFlags::RST, 9, b"");
    assert_eq!(rig.from(MAC_A, &resets), dropped(DropReason::InsideDestination));
    assert!(rig.sent.is_empty(), "a reset is not answered");
    assert_eq!(
        rig.from(MAC_A, &craft::udp(at(A, 5), at(B, 22), b"")),
        dropped(DropReason::InsideDestination)
    );
}

#[test]
fn hosts_of_two_inside_subnets_reach_each_other_by_a_hop_without_translation() {
    let (other, c) = (Ipv4Addr::new(10, 0, 1, 1), Ipv4Addr::new(10, 0, 1, 2));
    let mac_c = MacAddr([2, 0, 0, 0, 0, 0xc]);
    let mut config = config();
    config.subnets.push(Subnet { gateway: other.into(), prefix: 24, only: None });
    let mut rig = Rig::with(config);
    let sent = craft::udp(at(A, 1000), at(c, 53), b"over there");
    assert_eq!(rig.from(MAC_A, &sent), Fate::Held);
    assert_eq!(rig.take(INSIDE), [arp(1, MAC, other, MacAddr([0; 6]), c)]);
    rig.frame(&arp(2, mac_c, c, MAC, other));
    let (mac, arrived) = rig.sent_inside().remove(0);
    let mut expected = sent.clone();
    set_ttl(&mut expected, 63);
    assert_eq!((mac, &arrived), (mac_c, &expected));
    assert_eq!(passed(&mut rig, "hairpin-packets"), 1);
    for piece in fragment::fragments(&no_df(craft::udp(at(c, 53), at(A, 1000), &[1; 2000])), 1500).unwrap() {
        assert_eq!(rig.from(mac_c, &piece), Fate::Pass(INSIDE));
    }
    assert_eq!(rig.gateway.counts().sessions, 0);
    rig.sent.clear();

    let mut last_hop = sent.clone();
    set_ttl(&mut last_hop, 1);
    assert_eq!(rig.from(MAC_A, &last_hop), dropped(DropReason::TtlExpired));
    let (mac, error) = rig.sent_inside().remove(0);
    assert_eq!((mac, source(&error), error[20]), (MAC_A, GATEWAY, 11));
    let broadcast = craft::udp(at(A, 1000), at(Ipv4Addr::new(10, 0, 1, 255), 53), b"");
    assert_eq!(rig.from(MAC_A, &broadcast), dropped(DropReason::MartianDestination));

    let silent = craft::udp(at(A, 1000), at(Ipv4Addr::new(10, 0, 1, 9), 53), b"anybody?");
    assert_eq!(rig.from(MAC_A, &silent), Fate::Held);
    (0..4).for_each(|_| rig.wait(1000));
    let (mac, error) = rig.sent_inside().remove(0);
    assert_eq!((mac, source(&error), destination(&error)), (MAC_A, GATEWAY, A));
    assert_eq!((error[20], error[21], destination(&error[28..])), (3, 1, Ipv4Addr::new(10, 0, 1, 9)));
}

#[test]
fn time_exceeded_inside_comes_from_the_gateway_and_quotes_the_packet_as_sent() {
    let mut rig = Rig::new();
    let mut packet = craft::udp(at(A, 1000), at(S1, 33434), b"traceroute");
    set_ttl(&mut packet, 1);
    packet[1] = 0xb8;
    fix_header(&mut packet);
    assert_eq!(rig.from(MAC_A, &packet), dropped(DropReason::TtlExpired));
    let (_, error) = rig.sent_inside().remove(0);
    assert_eq!((source(&error), destination(&error), error[20], error[21]), (GATEWAY, A, 11, 0));
    assert_eq!(&error[28..], &packet[..]);
    assert_eq!(error[1] >> 2, 46, "DSCP of the offending packet (RFC 5508 REQ-10d)");
    assert!(rig.sent_outside().is_empty());
}

#[test]
fn time_exceeded_outside_comes_from_the_external_address_and_only_for_our_flows() {
    let mut rig = Rig::new();
    rig.from(MAC_A, &craft::udp(at(A, 1000), at(S1, 53), b"q"));
    let port = source_port(&rig.sent_outside().remove(0));
    let mut back = craft::udp(at(S1, 53), at(X, port), b"r");
    set_ttl(&mut back, 1);
    assert_eq!(rig.outside(&back), dropped(DropReason::TtlExpired));
    let error = rig.sent_outside().remove(0);
    assert_eq!((source(&error), destination(&error), error[20]), (X, S1, 11));
    assert_eq!(&error[28..], &back[..], "no inside address in it");
    let mut stray = craft::udp(at(S1, 53), at(X, port ^ 1), b"r");
    set_ttl(&mut stray, 1);
    assert_eq!(rig.outside(&stray), dropped(DropReason::Refused(Refusal::NoMapping)));
    let mut scan = craft::udp(at(S2, 53), at(X, port), b"r");
    set_ttl(&mut scan, 1);
    assert_eq!(rig.outside(&scan), dropped(DropReason::Refused(Refusal::Filtered)));
    let large = unfragmentable(craft::udp(at(S2, 53), at(X, port), &[0; 1600]));
    assert_eq!(rig.outside(&large), dropped(DropReason::Refused(Refusal::Filtered)));
    assert!(rig.sent.is_empty(), "a scan learns nothing from hops or sizes");
}

#[test]
fn a_packet_whose_hops_are_used_up_keeps_no_session_alive() {
    let mut rig = Rig::new();
    rig.from(MAC_A, &craft::udp(at(A, 1000), at(S1, 5000), b"q"));
    let port = source_port(&rig.sent_outside().remove(0));
    let mut late = craft::udp(at(S1, 5000), at(X, port), b"r");
    set_ttl(&mut late, 1);
    for _ in 0..4 {
        rig.wait(100_000);
        rig.outside(&late);
    }
    assert_eq!(rig.sent_outside().len(), 2, "told while the session lived: at 100 s and at 200 s");
    assert_eq!(rig.gateway.counts().sessions, 0);
}

#[test]
fn too_big_with_df_is_answered_with_the_mtu_of_the_next_link() {
    let mut config = config();
    config.outside.mtu = 1280;
    let mut rig = Rig::with(config);
    let mut packet = craft::udp(at(A, 1000), at(S1, 53), &[1; 1400]);
    packet[6] = 0x40;
    fix_header(&mut packet);
    assert_eq!(rig.from(MAC_A, &packet), dropped(DropReason::TooBig));
    let (_, error) = rig.sent_inside().remove(0);
    assert_eq!((error[20], error[21], word(&error, 26)), (3, 4, 1280));
    assert_eq!(&error[28..56], &packet[..28]);
    assert!(rig.sent_outside().is_empty());
}

#[test]
fn too_big_without_df_is_fragmented_in_order() {
    let mut config = config();
    config.outside.mtu = 1280;
    let mut rig = Rig::with(config);
    let packet = no_df(craft::udp(at(A, 1000), at(S1, 53), &[1; 1400]));
    assert_eq!(rig.from(MAC_A, &packet), Fate::Cut(OUTSIDE));
    let pieces = rig.sent_outside();
    assert_eq!(pieces.len(), 2);
    let offsets: Vec<_> = pieces.iter().map(|piece| word(piece, 6) & 0x1fff).collect();
    assert!(offsets[0] == 0 && offsets[1] > 0);
    for piece in &pieces {
        assert!(piece.len() <= 1280 && source(piece) == X && sums_are_right(piece));
    }
}

#[test]
fn a_super_frame_passes_whole_with_its_partial_checksum() {
    let mut rig = Rig::new();
    rig.from(MAC_A, &syn(1460).packet(at(A, 1000), at(S1, 80), &[]));
    let port = source_port(&rig.sent_outside().remove(0));
    let answer = Tcp { flags: TcpFlags::SYN.with(TcpFlags::ACK), acknowledgment: 1, ..Tcp::default() };
    rig.outside(&answer.packet(at(S1, 80), at(X, port), &[]));
    let data = Tcp { sequence: 1, acknowledgment: 1, ..Tcp::default() };
    let mut packet = data.packet(at(A, 1000), at(S1, 80), &[5; 20000]);
    packet[6] = 0x40;
    fix_header(&mut packet);
    let offload = Offload {
        checksum: Some(PartialChecksum { start: 20, offset: 16 }),
        segment: Some(Segment { kind: SegmentKind::Tcp4, size: 1460, header: 40, ecn: false }),
        verified: false,
    };
    let header =
        tapnat::wire::Frame { destination: MAC, source: MAC_A, ethertype: tapnat::wire::ethernet::IPV4 };
    let frame = [&header.to_bytes()[..], &packet].concat();
    assert_eq!(rig.receive(INSIDE, &frame, offload), Fate::Pass(OUTSIDE));
    let out = rig.sent_outside().remove(1 - 1);
    assert_eq!((out.len(), source(&out), source_port(&out)), (packet.len(), X, port));
}

#[test]
fn the_mss_of_syns_is_clamped_to_the_smaller_link_both_ways() {
    let mut config = config();
    config.outside.mtu = 1400;
    let mut rig = Rig::with(config);
    rig.from(MAC_A, &syn(1460).packet(at(A, 1000), at(S1, 80), &[]));
    let out = rig.sent_outside().remove(0);
    assert_eq!(word(&out, 42), 1360);
    assert!(sums_are_right(&out));
    let flags = TcpFlags::SYN.with(TcpFlags::ACK);
    let answer = Tcp { flags, acknowledgment: 1, mss: Some(1460), ..Tcp::default() };
    rig.outside(&answer.packet(at(S1, 80), at(X, source_port(&out)), &[]));
    let (_, back) = rig.sent_inside().remove(0);
    assert_eq!(word(&back, 42), 1360);
    assert!(sums_are_right(&back));
    rig.from(MAC_B, &syn(500).packet(at(B, 1000), at(S1, 80), &[]));
    assert_eq!(word(&rig.sent_outside().remove(0), 42), 500, "never raised");
}

#[test]
fn spoofed_and_martian_addresses_go_nowhere() {
    let mut rig = Rig::new();
    let from = |ip: [u8; 4]| craft::udp(at(Ipv4Addr::from(ip), 1000), at(S1, 53), b"x");
    for ip in [[8, 8, 8, 8], [172, 30, 0, 1], [10, 0, 0, 255], [10, 0, 0, 0], [10, 0, 0, 1], [203, 0, 113, 1]]
    {
        assert_eq!(rig.from(MAC_A, &from(ip)), dropped(DropReason::SpoofedSource), "{ip:?}");
    }
    for ip in [[127, 0, 0, 1], [0, 0, 0, 0], [224, 0, 0, 1], [255, 255, 255, 255], [240, 0, 0, 1]] {
        assert_eq!(rig.from(MAC_A, &from(ip)), dropped(DropReason::MartianSource), "{ip:?}");
        let to = craft::udp(at(A, 1000), at(Ipv4Addr::from(ip), 53), b"x");
        assert_eq!(rig.from(MAC_A, &to), dropped(DropReason::MartianDestination), "{ip:?}");
        let inbound = craft::udp(at(Ipv4Addr::from(ip), 1000), at(X, 53), b"x");
        assert_eq!(rig.outside(&inbound), dropped(DropReason::MartianSource), "{ip:?}");
    }
    let inside_source = craft::udp(at(A, 1000), at(X, 53), b"x");
    assert_eq!(rig.outside(&inside_source), dropped(DropReason::MartianSource));
    let elsewhere = craft::udp(at(S1, 53), at(S2, 53), b"x");
    assert_eq!(rig.outside(&elsewhere), dropped(DropReason::NotOurAddress));
    assert!(rig.sent.is_empty());
}

#[test]
fn frames_that_are_not_for_us_are_named_and_dropped() {
    let mut rig = Rig::new();
    assert_eq!(rig.frame(&[0; 13]), dropped(DropReason::ShortFrame));
    let mut frame = arp(1, MAC_A, A, MAC, GATEWAY);
    frame[..6].copy_from_slice(&MAC_B.0);
    assert_eq!(rig.frame(&frame), dropped(DropReason::OtherMac));
    let mut lldp = arp(1, MAC_A, A, MAC, GATEWAY);
    lldp[12..14].copy_from_slice(&[0x88, 0xcc]);
    assert_eq!(rig.frame(&lldp), dropped(DropReason::UnknownEtherType));
    let mut routed = craft::udp(at(A, 1), at(S1, 2), b"");
    routed = craft::with_ip_options(&routed, &[0x83, 7, 4, 1, 2, 3, 4, 0]).unwrap();
    assert_eq!(rig.from(MAC_A, &routed), dropped(DropReason::SourceRoute));
    let mut quench = craft::echo(A, S1, true, 1, 1, b"");
    quench[20] = 4;
    fix_icmp(&mut quench);
    assert_eq!(rig.from(MAC_A, &quench), dropped(DropReason::IcmpType));
    assert!(rig.sent.is_empty());
}

#[test]
fn a_packet_for_an_unknown_host_waits_for_the_arp_answer() {
    let mut rig = Rig::new();
    let (c, mac_c) = (Ipv4Addr::new(10, 0, 0, 4), MacAddr([2, 0, 0, 0, 0, 0xc]));
    rig.from(mac_c, &craft::udp(at(c, 1000), at(S1, 53), b"q"));
    let port = source_port(&rig.sent_outside().remove(0));
    assert_eq!(rig.outside(&craft::udp(at(S1, 53), at(X, port), b"1")), Fate::Held);
    assert_eq!(rig.outside(&craft::udp(at(S1, 53), at(X, port), b"2")), Fate::Held);
    assert_eq!(rig.take(INSIDE), [arp(1, MAC, GATEWAY, MacAddr([0; 6]), c)]);
    rig.frame(&arp(2, mac_c, c, MAC, GATEWAY));
    let payloads: Vec<_> = rig.sent_inside().into_iter().map(|(mac, packet)| (mac, packet[28])).collect();
    assert_eq!(payloads, [(mac_c, b'1'), (mac_c, b'2')]);
    assert_eq!((passed(&mut rig, "in-packets"), passed(&mut rig, "in-bytes")), (2, 2 * 29));
}

#[test]
fn a_packet_too_big_for_the_inside_waits_whole_and_is_counted_once() {
    let mut config = config();
    config.inside.mtu = 1280;
    let mut rig = Rig::with(config);
    let (c, mac_c) = (Ipv4Addr::new(10, 0, 0, 4), MacAddr([2, 0, 0, 0, 0, 0xc]));
    rig.from(mac_c, &craft::udp(at(c, 1000), at(S1, 53), b"q"));
    let port = source_port(&rig.sent_outside().remove(0));
    let answer = no_df(craft::udp(at(S1, 53), at(X, port), &[3; 1400]));
    assert_eq!(rig.outside(&answer), Fate::Held);
    rig.frame(&arp(2, mac_c, c, MAC, GATEWAY));
    let pieces: Vec<_> = rig.sent_inside().into_iter().map(|(_, packet)| packet).collect();
    assert_eq!(pieces.len(), 2);
    assert!(sums_are_right(&reassemble(&pieces)));
    assert_eq!(rig.outside(&answer), Fate::Cut(INSIDE));
    assert_eq!(rig.sent_inside().len(), 2);
    assert_eq!((passed(&mut rig, "in-packets"), passed(&mut rig, "in-bytes")), (2, 2 * 1428));
}

#[test]
fn fragments_that_waited_are_counted_when_they_are_cut() {
    let mut config = config();
    config.outside.mtu = 1280;
    let mut rig = Rig::with(config);
    let whole = no_df(craft::udp(at(A, 1000), at(S1, 53), &[3; 2800]));
    let mut pieces = fragment::fragments(&whole, 1500).unwrap();
    pieces.rotate_left(1);
    let fates: Vec<_> = pieces.iter().map(|piece| rig.from(MAC_A, piece)).collect();
    assert_eq!(fates, [Fate::Held, Fate::Cut(OUTSIDE)]);
    assert_eq!(rig.sent_outside().len(), 4);
    assert_eq!(passed(&mut rig, "out-packets"), 2);
}

#[test]
fn hosts_nobody_has_heard_of_fill_a_part_of_the_table_only() {
    let mut config = config();
    config.hosts = 40;
    let mut rig = Rig::with(config);
    let held = (10..40u8).filter(|last| {
        let inside = Endpoint::new(Ipv4Addr::new(10, 0, 0, *last), 80);
        publish(&mut rig, Endpoint::new(X, 8000 + u16::from(*last)), inside);
        rig.outside(&craft::udp(at(S1, 9), at(X, 8000 + u16::from(*last)), b"")) == Fate::Held
    });
    assert_eq!(held.count(), 10);
    let c = Ipv4Addr::new(10, 0, 0, 99);
    assert_eq!(rig.frame(&arp(1, MAC_A, c, MacAddr([0; 6]), GATEWAY)), Fate::Taken(Answer::Arp));
    (0..4).for_each(|_| rig.wait(1000));
    assert_eq!(rig.outside(&craft::udp(at(S1, 9), at(X, 8039), b"")), Fate::Held, "there is room again");
}

#[test]
fn a_host_that_never_answers_is_given_up_and_its_packets_counted() {
    let mut rig = Rig::new();
    let c = Ipv4Addr::new(10, 0, 0, 4);
    rig.from(MAC_B, &craft::udp(at(c, 1000), at(S1, 53), b"q"));
    let port = source_port(&rig.sent_outside().remove(0));
    rig.outside(&craft::udp(at(S1, 53), at(X, port), b"1"));
    for _ in 0..4 {
        rig.wait(1000);
    }
    assert_eq!(rig.take(INSIDE).len(), 3, "three questions");
    assert_eq!(drops(&mut rig, DropReason::NoNeighbor), 1);
    assert_eq!(passed(&mut rig, "in-packets"), 0);
    assert_eq!(rig.sent_outside().len(), 1, "and the remote is told");
}

#[test]
fn the_remote_of_a_silent_host_is_told_in_outside_terms() {
    let mut rig = Rig::new();
    let c = Ipv4Addr::new(10, 0, 0, 4);
    for (outside, inside) in [(8080, 80), (8081, 81)] {
        publish(&mut rig, Endpoint::new(X, outside), Endpoint::new(c, inside));
    }
    let (udp, tcp) = (
        craft::udp(at(S1, 53), at(X, 8080), b"anybody in?"),
        craft::tcp(at(S1, 1234), at(X, 8081), TcpFlags::SYN, 7, b""),
    );
    let (hairpin, own) =
        (craft::udp(at(A, 1000), at(X, 8080), b"neighbour?"), craft::udp(at(X, 99), at(X, 8080), b"host"));
    assert_eq!((rig.outside(&udp), rig.outside(&tcp)), (Fate::Held, Fate::Held));
    assert_eq!((rig.from(MAC_A, &hairpin), rig.host(&own)), (Fate::Held, Fate::Held));
    (0..4).for_each(|_| rig.wait(1000));
    let told = [rig.sent_outside(), rig.sent_to_host()].concat();
    for (error, sent) in told.iter().zip([&udp, &tcp, &own]) {
        assert_eq!((source(error), destination(error)), (X, source(sent)));
        assert_eq!((error[20], error[21]), (3, 1));
        // The packet as it was sent, but for the hop that it has spent here.
        let mut quoted = error[28..].to_vec();
        set_ttl(&mut quoted, sent[8]);
        assert_eq!(&quoted[..28], &sent[..28]);
        assert!(!error.windows(4).any(|bytes| bytes == c.octets()) && sums_are_right(error));
    }
    assert_eq!(told.len(), 3);
    let (mac, error) = rig.sent_inside().remove(0);
    assert_eq!((mac, source(&error), destination(&error), error[20], error[21]), (MAC_A, X, A, 3, 1));
    let quoted = &error[28..];
    assert_eq!((source(quoted), source_port(quoted)), (A, 1000));
    assert_eq!((destination(quoted), destination_port(quoted)), (X, 8080));
    assert_eq!(drops(&mut rig, DropReason::NoNeighbor), 4);
}

#[test]
fn a_new_mac_is_believed_when_its_host_says_so() {
    let mut rig = Rig::new();
    rig.from(MAC_A, &craft::udp(at(A, 1000), at(S1, 53), b"q"));
    let port = source_port(&rig.sent_outside().remove(0));
    let new = MacAddr([2, 0, 0, 0, 9, 9]);
    rig.frame(&arp(1, new, A, MacAddr([0; 6]), A));
    rig.outside(&craft::udp(at(S1, 53), at(X, port), b"r"));
    assert_eq!(rig.sent_inside().remove(0).0, new);
}

#[test]
fn fragments_follow_the_first_in_and_out_of_order_both_ways() {
    let payload: Vec<u8> = (0..4000u32).map(|n| n as u8).collect();
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let mut rig = Rig::new();
        let whole = no_df(craft::udp(at(A, 1000), at(S1, 53), &payload));
        let pieces = fragment::fragments(&whole, 1500).unwrap();
        for at in order {
            rig.from(MAC_A, &pieces[at]);
        }
        let out = rig.sent_outside();
        assert_eq!(out.len(), 3, "{order:?}");
        let joined = reassemble(&out);
        assert!(sums_are_right(&joined) && source(&joined) == X, "{order:?}");
        assert_eq!(&joined[28..], &payload[..]);
        let back = no_df(craft::udp(at(S1, 53), at(X, source_port(&joined)), &payload));
        let pieces = fragment::fragments(&back, 1500).unwrap();
        for at in order {
            rig.outside(&pieces[at]);
        }
        let inside: Vec<_> = rig.sent_inside().into_iter().map(|(_, packet)| packet).collect();
        let joined = reassemble(&inside);
        assert!(sums_are_right(&joined) && destination(&joined) == A, "{order:?}");
        assert_eq!((destination_port(&joined), &joined[28..]), (1000, &payload[..]));
    }
}

#[test]
fn two_hosts_with_one_identification_do_not_mix_outside() {
    let mut rig = Rig::new();
    let piece = |ip, mac, rig: &mut Rig| {
        let whole = no_df(craft::udp(at(ip, 1000), at(S1, 53), &[1; 2000]));
        for piece in fragment::fragments(&whole, 1500).unwrap() {
            rig.from(mac, &piece);
        }
    };
    piece(A, MAC_A, &mut rig);
    piece(B, MAC_B, &mut rig);
    let ids: Vec<_> = rig.sent_outside().iter().map(|packet| word(packet, 4)).collect();
    assert_eq!(ids.len(), 4);
    assert!(ids[0] == ids[1] && ids[2] == ids[3] && ids[0] != ids[2], "{ids:?}");
}

#[test]
fn orphan_fragments_are_bounded_and_expire() {
    let mut rig = Rig::new();
    let mut refused = 0;
    for id in 0..2500u16 {
        let mut orphan =
            fragment::fragments(&no_df(craft::udp(at(A, 1), at(S1, 2), &[0; 2000])), 1500).unwrap().remove(1);
        orphan[4..6].copy_from_slice(&id.to_be_bytes());
        fix_header(&mut orphan);
        refused += usize::from(rig.from(MAC_A, &orphan) == dropped(DropReason::FragmentLimit));
    }
    assert!(refused >= 2500 - 256);
    assert_eq!(rig.from(MAC_B, &craft::udp(at(B, 1), at(S1, 2), b"")), Fate::Pass(OUTSIDE));
    rig.wait(20_000);
    assert!(drops(&mut rig, DropReason::FragmentOrphan) > 0);
    let fresh = fragment::fragments(&no_df(craft::udp(at(A, 1), at(S1, 2), &[0; 2000])), 1500).unwrap();
    assert_eq!(rig.from(MAC_A, &fresh[0]), Fate::Pass(OUTSIDE));
    assert_eq!(rig.from(MAC_A, &fresh[1]), Fate::Pass(OUTSIDE));
}

#[test]
fn hairpinned_packets_arrive_with_the_senders_outside_endpoint() {
    let mut rig = Rig::new();
    rig.from(MAC_B, &craft::udp(at(B, 2000), at(X, 9), b""));
    rig.sent.clear();
    rig.from(MAC_B, &craft::udp(at(B, 2000), at(S1, 53), b"q"));
    let port_b = source_port(&rig.sent_outside().remove(0));
    let reply = rig.gateway.apply(
        Command::Publish {
            protocol: Protocol::Udp,
            outside: Endpoint::new(X, 8053),
            inside: Endpoint::new(B, 53),
        },
        rig.now,
        &mut (),
    );
    assert_eq!(reply, Reply::Done);
    assert_eq!(rig.from(MAC_A, &craft::udp(at(A, 1000), at(X, 8053), b"hi")), Fate::Pass(INSIDE));
    let (mac, packet) = rig.sent_inside().remove(0);
    assert_eq!((mac, source(&packet), destination(&packet), destination_port(&packet)), (MAC_B, X, B, 53));
    assert!(sums_are_right(&packet));
    let port_a = source_port(&packet);
    rig.from(MAC_B, &craft::udp(at(B, 53), at(X, port_a), b"ho"));
    let (mac, packet) = rig.sent_inside().remove(0);
    assert_eq!((mac, source(&packet), source_port(&packet), destination(&packet)), (MAC_A, X, 8053, A));
    assert_ne!(port_a, port_b);
}

#[test]
fn the_hosts_own_services_are_reached_through_the_host_link() {
    let mut rig = Rig::new();
    assert_eq!(rig.from(MAC_A, &craft::tcp(at(A, 1000), at(X, 22), TcpFlags::SYN, 1, &[])), Fate::Pass(HOST));
    let out = rig.sent_to_host().remove(0);
    assert_eq!((source(&out), destination(&out), destination_port(&out)), (X, X, 22));
    let answer = Tcp { flags: TcpFlags::SYN.with(TcpFlags::ACK), acknowledgment: 2, ..Tcp::default() };
    let answer = answer.packet(at(X, 22), at(X, source_port(&out)), &[]);
    assert_eq!(
        rig.outside(&answer),
        dropped(DropReason::Refused(Refusal::SourceIsOurs)),
        "not from the wire"
    );
    assert_eq!(rig.host(&answer), Fate::Pass(INSIDE));
    let (_, back) = rig.sent_inside().remove(0);
    assert_eq!((source(&back), source_port(&back), destination(&back)), (X, 22, A));
}

#[test]
fn icmp_errors_find_their_way_both_ways_without_inside_addresses() {
    let mut rig = Rig::new();
    rig.from(MAC_A, &craft::udp(at(A, 1000), at(S1, 53), b"q"));
    let out = rig.sent_outside().remove(0);
    let error = craft::icmp_error(craft::IcmpError::PortUnreachable, R9, X, &out);
    assert_eq!(rig.outside(&error), Fate::Pass(INSIDE));
    let (_, packet) = rig.sent_inside().remove(0);
    assert_eq!((source(&packet), destination(&packet)), (R9, A));
    assert_eq!(
        (source(&packet[28..]), source_port(&packet[28..]), destination(&packet[28..])),
        (A, 1000, S1)
    );
    assert!(sums_are_right(&packet) && sums_are_right(&packet[28..]));

    let inbound = craft::udp(at(S1, 53), at(X, source_port(&out)), b"late");
    rig.outside(&inbound);
    let (_, arrived) = rig.sent_inside().remove(0);
    let error = craft::icmp_error(craft::IcmpError::PortUnreachable, A, S1, &arrived);
    assert_eq!(rig.from(MAC_A, &error), Fate::Pass(OUTSIDE));
    let packet = rig.sent_outside().remove(0);
    assert_eq!((source(&packet), destination(&packet)), (X, S1));
    assert_eq!((destination(&packet[28..]), destination_port(&packet[28..])), (X, source_port(&out)));
    assert!(sums_are_right(&packet));
}

#[test]
fn own_errors_are_rate_limited() {
    let mut config = config();
    (config.error_burst, config.errors_per_second) = (5, 1);
    let mut rig = Rig::with(config);
    let mut packet = craft::udp(at(A, 1000), at(S1, 33434), b"");
    set_ttl(&mut packet, 1);
    for _ in 0..5000 {
        rig.from(MAC_A, &packet);
    }
    let told = rig.sent_inside().len();
    assert!((3..=5).contains(&told), "{told}");
    rig.from(MAC_A, &craft::udp(at(A, 1000), at(S1, 53), b"q"));
    let port = source_port(&rig.sent_outside().remove(0));
    let mut back = craft::udp(at(S1, 53), at(X, port), b"r");
    set_ttl(&mut back, 1);
    for _ in 0..100 {
        rig.outside(&back);
    }
    let told = rig.sent_outside().len();
    assert!((3..=5).contains(&told), "each side has a rate of its own: {told}");
}

#[test]
fn a_link_that_takes_less_is_still_described_by_its_mtu() {
    let mut rig = Rig::new();
    rig.gateway.set_outside(LinkInfo::plain(1000, 0));
    let mut packet = craft::udp(at(A, 1000), at(S1, 53), &[0; 1200]);
    packet[6] = 0x40;
    fix_header(&mut packet);
    assert_eq!(rig.from(MAC_A, &packet), dropped(DropReason::TooBig));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whatever comes in on either side: no panic, nothing with an inside source outside, and
    /// every checksum of what leaves is right.
    #[test]
    fn no_bytes_make_it_panic_or_leak(
        steps in prop::collection::vec((any::<bool>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..120)), 1..30)
    ) {
        let mut rig = Rig::new();
        for (inside, kind, noise) in steps {
            let from = |a, b| (a, b);
            let (source, destination) = if inside { from(A, S1) } else { from(S1, X) };
            let mut packet = match kind % 4 {
                0 => noise.clone(),
                1 => craft::udp(at(source, 1000), at(destination, 53), &noise),
                2 => craft::tcp(at(source, 1000), at(destination, 80), TcpFlags(kind), 1, &noise),
                _ => craft::icmp_error(craft::IcmpError::TtlExceeded, source, destination, &noise),
            };
            if kind % 3 == 0 && !packet.is_empty() && kind % 4 != 0 {
                let at = noise.first().map_or(0, |byte| usize::from(*byte) % packet.len());
                packet[at] ^= kind;
            }
            if inside { rig.from(MAC_A, &packet) } else { rig.outside(&packet) };
        }
        for packet in rig.sent_outside() {
            prop_assert_eq!(source(&packet), X);
            prop_assert!(!packet.windows(4).skip(28).take(20).any(|bytes| bytes == A.octets()) || packet[9] != 1);
        }
    }
}

fn publish(rig: &mut Rig, outside: Endpoint, inside: Endpoint) {
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let reply = rig.gateway.apply(Command::Publish { protocol, outside, inside }, rig.now, &mut ());
        assert_eq!(reply, Reply::Done);
    }
}

fn passed(rig: &mut Rig, word: &str) -> u64 {
    let reply = rig.gateway.apply(Command::Counters, rig.now, &mut ());
    let Reply::Counters(view, _) = reply else { panic!("{reply:?}") };
    view.passed.iter().find(|(name, _)| *name == word).unwrap().1
}

fn drops(rig: &mut Rig, reason: DropReason) -> u64 {
    let reply = rig.gateway.apply(Command::Counters, rig.now, &mut ());
    let Reply::Counters(view, _) = reply else { panic!("{reply:?}") };
    view.dropped.iter().find(|(word, _)| *word == reason.word()).unwrap().1
}

fn reassemble(pieces: &[Vec<u8>]) -> Vec<u8> {
    let mut pieces = pieces.to_vec();
    pieces.sort_by_key(|piece| word(piece, 6) & 0x1fff);
    let mut whole = pieces[0].clone();
    for piece in &pieces[1..] {
        whole.extend(&piece[20..]);
    }
    let length = u16::try_from(whole.len()).unwrap();
    whole[2..4].copy_from_slice(&length.to_be_bytes());
    whole[6..8].fill(0);
    fix_header(&mut whole);
    whole
}

fn no_df(mut packet: Vec<u8>) -> Vec<u8> {
    packet[6] = 0;
    packet[4..6].copy_from_slice(&[0x42, 0x42]);
    fix_header(&mut packet);
    packet
}

fn unfragmentable(mut packet: Vec<u8>) -> Vec<u8> {
    packet[6] = 0x40;
    fix_header(&mut packet);
    packet
}

fn set_ttl(packet: &mut [u8], ttl: u8) {
    packet[8] = ttl;
    fix_header(packet);
}

fn fix_header(packet: &mut [u8]) {
    let header = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let sum = tapnat::wire::checksum::internet(&packet[..header]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn fix_icmp(packet: &mut [u8]) {
    packet[22..24].fill(0);
    let sum = tapnat::wire::checksum::internet(&packet[20..]);
    packet[22..24].copy_from_slice(&sum.to_be_bytes());
}
