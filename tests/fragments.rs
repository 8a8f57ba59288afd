//! Fragments under load, under attack and after duplication.
#![allow(clippy::unwrap_used)]

#[path = "support/bytes.rs"]
mod bytes;
mod support;

use bytes::{fix_header, fragmentable, with_ttl};
use std::net::Ipv4Addr;
use support::*;
use tapnat::flow::{Endpoint, Protocol, TcpFlags};
use tapnat::gateway::{Command, DropReason, Fate, INSIDE, OUTSIDE, Reply};
use tapnat::wire::{Frame, Offload, Segment, SegmentKind, craft, fragment};

/// A datagram of 3000 bytes from an inside host to S1, in three fragments.
fn three(from: Ipv4Addr, identification: u16) -> Vec<Vec<u8>> {
    let whole = fragmentable(craft::udp(at(from, 1000), at(S1, 5000), &[1; 3000]), identification);
    fragment::fragments(&whole, 1500).unwrap()
}

/// The identification of each packet sent outside since the last call.
fn identifications(rig: &mut Rig) -> Vec<u16> {
    rig.sent_outside().iter().map(|packet| word(packet, 4)).collect()
}

#[test]
fn a_fast_sender_of_fragmented_datagrams_is_not_held_up() {
    let mut rig = Rig::new();
    for number in 0..20_000 {
        for piece in three(A, number) {
            assert_eq!(rig.from(MAC_A, &piece), Fate::Pass(OUTSIDE), "datagram {number}");
        }
        rig.sent.clear();
    }
}

#[test]
fn refused_datagrams_from_outside_do_not_keep_those_of_the_inside_out() {
    let mut rig = Rig::new();
    for number in 0..20_000 {
        let whole = fragmentable(craft::udp(at(S2, 1), at(X, 40000), &[0; 1600]), number);
        rig.outside(&fragment::fragments(&whole, 1500).unwrap()[0]);
    }
    for piece in three(A, 1) {
        assert_eq!(rig.from(MAC_A, &piece), Fate::Pass(OUTSIDE));
    }
}

/// How many of these datagrams from `host` may begin and not end.
fn begun(rig: &mut Rig, host: Ipv4Addr, numbers: std::ops::Range<u16>) -> usize {
    let fates = numbers.map(|number| rig.from(MAC_A, &three(host, number)[0]));
    fates.filter(|fate| *fate == Fate::Pass(OUTSIDE)).count()
}

#[test]
fn unfinished_datagrams_are_bounded_for_each_host_and_in_all_and_end() {
    let mut rig = Rig::new();
    assert_eq!(begun(&mut rig, A, 0..1000), 512);
    let others: Vec<_> = (10..30).map(|last| Ipv4Addr::new(10, 0, 0, last)).collect();
    let of_others: Vec<_> = others.iter().map(|host| begun(&mut rig, *host, 0..600)).collect();
    assert_eq!(of_others[..7], [512; 7]);
    assert_eq!(512 + of_others.iter().sum::<usize>(), 4096);
    rig.wait(16_000);
    for piece in three(A, 6001) {
        assert_eq!(rig.from(MAC_A, &piece), Fate::Pass(OUTSIDE));
    }
    assert_eq!(begun(&mut rig, A, 0..1000), 512, "what has passed whole is no part of the share");
}

#[test]
fn one_host_s_orphans_leave_room_for_those_of_others() {
    let mut rig = Rig::new();
    let orphans = |rig: &mut Rig, host, number: u16| {
        let mac = if host == A { MAC_A } else { MAC_B };
        let fates = three(host, number).into_iter().skip(1).map(|piece| rig.from(mac, &piece));
        fates.filter(|fate| *fate == Fate::Held).count()
    };
    assert_eq!((0..500).map(|number| orphans(&mut rig, A, number)).sum::<usize>(), 2 * 32);
    assert_eq!(orphans(&mut rig, B, 1), 2);
    // The first fragment frees the share of its datagram.
    assert_eq!(rig.from(MAC_A, &three(A, 1)[0]), Fate::Pass(OUTSIDE));
    assert_eq!(orphans(&mut rig, A, 501), 2);
    rig.wait(4000);
    assert_eq!((600..700).map(|number| orphans(&mut rig, A, number)).sum::<usize>(), 2 * 32);
}

#[test]
fn fragments_from_outside_take_no_room_from_the_inside() {
    let mut rig = Rig::new();
    for number in 0..5000 {
        let whole = fragmentable(craft::udp(at(S2, 1), at(X, 40000), &[0; 1600]), number);
        rig.outside(&fragment::fragments(&whole, 1500).unwrap()[1]);
    }
    let mut pieces = three(A, 1);
    pieces.rotate_left(1);
    let fates: Vec<_> = pieces.iter().map(|piece| rig.from(MAC_A, piece)).collect();
    assert_eq!(fates, [Fate::Held, Fate::Held, Fate::Pass(OUTSIDE)]);
    assert_eq!(rig.sent_outside().len(), 3);
}

#[test]
fn a_datagram_that_ends_twice_is_booked_once() {
    let mut rig = Rig::new();
    let (small, large) = (three(A, 7), {
        let whole = fragmentable(craft::udp(at(A, 1000), at(S1, 5000), &[1; 6000]), 7);
        fragment::fragments(&whole, 1500).unwrap()
    });
    let last = large.last().unwrap();
    for piece in small.iter().chain([last]).chain(&small).chain(&large) {
        rig.from(MAC_A, piece);
    }
    rig.wait(16_000);
    assert_eq!(begun(&mut rig, A, 0..1000), 512);
}

#[test]
fn a_first_fragment_that_comes_twice_belongs_to_one_datagram() {
    let mut rig = Rig::new();
    let pieces = three(A, 7);
    for number in [0, 1, 0, 2] {
        rig.from(MAC_A, &pieces[number]);
    }
    let seen = identifications(&mut rig);
    assert!(seen.len() == 4 && seen.iter().all(|id| *id == seen[0]), "{seen:?}");
}

#[test]
fn overlapping_fragments_end_their_datagram() {
    let mut rig = Rig::new();
    let datagram = fragmentable(craft::udp(at(A, 1000), at(S1, 5000), &[1; 3000]), 7);
    let (honest, other) =
        (fragment::fragments(&datagram, 1500).unwrap(), fragment::fragments(&datagram, 1000).unwrap());
    assert_eq!(rig.from(MAC_A, &honest[0]), Fate::Pass(OUTSIDE));
    assert_eq!(rig.from(MAC_A, &other[1]), Fate::Dropped(DropReason::FragmentOverlap));
    for piece in &honest[1..] {
        assert_eq!(rig.from(MAC_A, piece), Fate::Dropped(DropReason::FragmentOverlap));
    }
    assert_eq!(rig.from(MAC_A, &three(A, 8)[0]), Fate::Pass(OUTSIDE), "others are not concerned");
}

#[test]
fn overlapping_fragments_that_came_before_the_first_do_not_pass_either() {
    let mut rig = Rig::new();
    let datagram = fragmentable(craft::udp(at(A, 1000), at(S1, 5000), &[1; 3000]), 7);
    let (honest, other) =
        (fragment::fragments(&datagram, 1500).unwrap(), fragment::fragments(&datagram, 1000).unwrap());
    for piece in [&honest[1], &other[2]] {
        assert_eq!(rig.from(MAC_A, piece), Fate::Held);
    }
    rig.from(MAC_A, &honest[0]);
    rig.from(MAC_A, &honest[2]);
    assert_eq!(rig.sent_outside().len(), 2, "the first, and the one that came before the contradiction");
}

#[test]
fn a_datagram_has_one_end() {
    let mut rig = Rig::new();
    let large = fragmentable(craft::udp(at(A, 1000), at(S1, 5000), &[1; 6000]), 7);
    let large = fragment::fragments(&large, 1500).unwrap();
    let pieces = three(A, 7);
    assert_eq!(rig.from(MAC_A, &pieces[0]), Fate::Pass(OUTSIDE));
    assert_eq!(rig.from(MAC_A, &pieces[2]), Fate::Pass(OUTSIDE));
    assert_eq!(rig.from(MAC_A, &large[3]), Fate::Dropped(DropReason::FragmentOverlap));
}

#[test]
fn copies_of_fragments_are_not_contradictions() {
    let mut rig = Rig::new();
    let pieces = three(A, 7);
    for number in [0, 1, 1, 0, 2, 2] {
        assert_eq!(rig.from(MAC_A, &pieces[number]), Fate::Pass(OUTSIDE), "{number}");
    }
}

#[test]
fn identifications_cannot_be_guessed_from_earlier_ones() {
    let mut rig = Rig::new();
    for number in 0..500 {
        rig.from(MAC_A, &three(A, number)[0]);
        rig.wait(1);
    }
    let seen = identifications(&mut rig);
    let steps = seen.windows(2).filter(|pair| pair[1].wrapping_sub(pair[0]) <= 16).count();
    assert!(seen.len() == 500 && steps < 10, "{steps}");
}

#[test]
fn datagrams_that_the_gateway_cuts_do_not_mix() {
    let mut config = config();
    config.outside.mtu = 1280;
    let mut rig = Rig::with(config);
    for (mac, ip) in [(MAC_A, A), (MAC_B, B)] {
        let packet = fragmentable(craft::udp(at(ip, 1000), at(S1, 5000), &[1; 1400]), 7);
        assert_eq!(rig.from(mac, &packet), Fate::Cut(OUTSIDE));
    }
    let sent = rig.sent_outside();
    let seen: Vec<_> = sent.iter().map(|packet| word(packet, 4)).collect();
    assert!(seen.len() == 4 && seen[0] == seen[1] && seen[2] == seen[3] && seen[0] != seen[2], "{seen:?}");
    assert!(sent.iter().all(|packet| sums_are_right(packet)));
}

/// Rows 92 and 171.
#[test]
fn what_may_be_cut_on_its_way_leaves_with_an_identification_of_our_own_and_what_may_not_keeps_its_own() {
    let mut rig = Rig::new();
    let query = || craft::udp(at(A, 1000), at(S1, 53), b"query");
    for number in 0..1000 {
        assert_eq!(rig.from(MAC_A, &fragmentable(query(), number)), Fate::Pass(OUTSIDE));
    }
    let sent = rig.sent_outside();
    assert!(sent.iter().all(|packet| sums_are_right(packet)));
    let seen: Vec<_> = sent.iter().map(|packet| word(packet, 4)).collect();
    let unique: std::collections::BTreeSet<_> = seen.iter().collect();
    assert_eq!(unique.len(), 1000);
    let steps = seen.windows(2).filter(|pair| pair[1].wrapping_sub(pair[0]) <= 16).count();
    assert!(steps < 10, "{steps}: nothing counts up that could be told from another host's count");
    let mut whole = fragmentable(query(), 0x4242);
    whole[6] = 0x40;
    fix_header(&mut whole);
    rig.from(MAC_A, &whole);
    assert_eq!(identifications(&mut rig), [0x4242], "an atomic datagram: nobody looks at it");
}

/// Row 92.
#[test]
fn a_super_frame_that_may_be_cut_starts_from_an_identification_of_our_own() {
    let mut rig = Rig::new();
    rig.from(MAC_A, &craft::tcp(at(A, 1000), at(S1, 80), TcpFlags::SYN, 1, b""));
    rig.sent_outside();
    for flags in [0, 0x40] {
        let mut packet =
            fragmentable(craft::tcp(at(A, 1000), at(S1, 80), TcpFlags::ACK, 2, &[5; 5000]), 0x4242);
        packet[6] = flags;
        fix_header(&mut packet);
        let header = Frame { destination: MAC, source: MAC_A, ethertype: tapnat::wire::ethernet::IPV4 };
        let segment = Segment { kind: SegmentKind::Tcp4, size: 1400, header: 40, ecn: false };
        let offload = Offload { segment: Some(segment), verified: true, ..Offload::default() };
        let fate = rig.receive(INSIDE, &[&header.to_bytes()[..], &packet].concat(), offload);
        assert_eq!(fate, Fate::Pass(OUTSIDE));
        assert_eq!(identifications(&mut rig) == [0x4242], flags == 0x40);
    }
}

/// What comes from outside has its sender's identification, which is unique there already.
#[test]
fn what_comes_in_keeps_its_identification() {
    let mut rig = Rig::new();
    rig.from(MAC_A, &craft::udp(at(A, 1000), at(S1, 53), b"query"));
    let port = source_port(&rig.sent_outside()[0]);
    rig.outside(&fragmentable(craft::udp(at(S1, 53), at(X, port), b"answer"), 0x4242));
    assert_eq!(word(&rig.sent_inside()[0].1, 4), 0x4242);
}

#[test]
fn a_hairpin_is_a_hop() {
    let mut rig = Rig::new();
    let (outside, inside) = (Endpoint::new(X, 8080), Endpoint::new(B, 80));
    let publish = Command::Publish { protocol: Protocol::Tcp, outside, inside };
    assert_eq!(rig.gateway.apply(publish, rig.now, &mut ()), Reply::Done);
    let syn = craft::tcp(at(A, 1000), at(X, 8080), TcpFlags::SYN, 1, b"");
    assert_eq!(rig.from(MAC_A, &with_ttl(syn.clone(), 1)), Fate::Dropped(DropReason::TtlExpired));
    let (mac, error) = rig.sent_inside().remove(0);
    assert_eq!(
        (mac, source(&error), error[20], &error[28..]),
        (MAC_A, GATEWAY, 11, &with_ttl(syn.clone(), 1)[..])
    );
    assert_eq!(rig.from(MAC_A, &with_ttl(syn, 2)), Fate::Pass(INSIDE));
    assert_eq!(rig.sent_inside().remove(0).1[8], 1);
}

#[test]
fn only_ports_are_said_to_be_unreachable() {
    let mut rig = Rig::new();
    let ping = fragmentable(craft::echo(A, GATEWAY, true, 7, 1, &[0; 2000]), 7);
    for piece in fragment::fragments(&ping, 1500).unwrap() {
        assert_eq!(rig.from(MAC_A, &piece), Fate::Dropped(DropReason::InsideDestination));
    }
    assert!(rig.sent.is_empty());
}
