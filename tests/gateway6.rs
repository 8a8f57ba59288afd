//! The box as a whole for IPv6, packet in and packet out, in virtual time and without a kernel.
#![allow(clippy::unwrap_used)]

mod support;
#[path = "support/v6.rs"]
mod v6;

use proptest::prelude::*;
use std::net::{IpAddr, Ipv6Addr};
use support::{A, GATEWAY, MAC, MAC_A, MAC_B, R9, Rig, S1, X, arp, at};
use tapnat::flow::{Endpoint, LinkInfo, Protocol, TcpFlags};
use tapnat::gateway::{Answer, Command, DropReason, Fate, HOST, INSIDE, OUTSIDE, Reply, Subnet};
use tapnat::nat::{Behaviour, Refusal};
use tapnat::wire::craft::{self, IcmpError, Tcp};
use tapnat::wire::{MacAddr, Offload, ParseError, PartialChecksum, Segment, SegmentKind, checksum};
use v6::*;

const TCP: u8 = 6;

fn dropped(reason: DropReason) -> Fate {
    Fate::Dropped(reason)
}

fn sums_are_right(packet: &[u8]) -> bool {
    checksum::transport_is_right(packet) != Some(false)
}

/// A's question to S1, port 53, and the outside port it left by.
fn asked(rig: &mut Rig) -> (Vec<u8>, u16) {
    assert_eq!(from6(rig, MAC_A, &craft::udp((A6, 1000), (S1_6, 53), b"question")), Fate::Pass(OUTSIDE));
    let out = rig.sent_outside().remove(0);
    let port = source_port6(&out);
    (out, port)
}

/// Type, code and quote of the ICMPv6 error that `packet` is.
fn error_in(packet: &[u8]) -> (u8, u8, &[u8]) {
    assert_eq!(packet[6], 58, "{packet:?}");
    assert!(icmp6_is_right(packet));
    (packet[40], packet[41], &packet[48..])
}

#[test]
fn out_and_back_again_changes_addresses_ports_hop_limit_and_nothing_else() {
    let mut rig = rig();
    let mut sent = craft::udp((A6, 1000), (S1_6, 53), b"question");
    sent[..4].copy_from_slice(&[0x6b, 0x81, 0x23, 0x45]);
    assert_eq!(from6(&mut rig, MAC_A, &sent), Fate::Pass(OUTSIDE));
    let out = rig.sent_outside().remove(0);
    assert_eq!((source6(&out), destination6(&out), destination_port6(&out)), (X6, S1_6, 53));
    assert_eq!((&out[..7], out[7], &out[48..]), (&sent[..7], sent[7] - 1, &b"question"[..]));
    assert!(sums_are_right(&out));
    let answer = craft::udp((S1_6, 53), (X6, source_port6(&out)), b"answer");
    assert_eq!(rig.outside(&answer), Fate::Pass(INSIDE));
    let (mac, back) = sent6(&mut rig).remove(0);
    assert_eq!((mac, source6(&back), destination6(&back)), (MAC_A, S1_6, A6));
    assert_eq!((source_port6(&back), destination_port6(&back), back[7]), (53, 1000, 63));
    assert!(sums_are_right(&back));
}

#[test]
fn echo_goes_out_and_comes_back_with_its_identifier() {
    let mut rig = rig();
    from6(&mut rig, MAC_A, &craft::echo(A6, S1_6, true, 500, 3, b"ping"));
    let out = rig.sent_outside().remove(0);
    assert_eq!((source6(&out), out[40]), (X6, 128));
    assert!(icmp6_is_right(&out));
    let identifier = u16::from_be_bytes([out[44], out[45]]);
    rig.outside(&craft::echo(S1_6, X6, false, identifier, 3, b"ping"));
    let (_, back) = sent6(&mut rig).remove(0);
    assert_eq!((destination6(&back), &back[44..]), (A6, &[1, 244, 0, 3, b'p', b'i', b'n', b'g'][..]));
    assert!(icmp6_is_right(&back));
}

#[test]
fn one_port_for_all_remotes_and_another_for_another_host() {
    let mut config = config();
    config.nat.policy.filtering = Behaviour::EndpointIndependent;
    let mut rig = rig_with(config);
    let port = |rig: &mut Rig, mac, host, remote| {
        from6(rig, mac, &craft::udp((host, 1000), (remote, 53), b""));
        source_port6(&rig.sent_outside().remove(0))
    };
    let ours = port(&mut rig, MAC_A, A6, S1_6);
    assert_ne!(port(&mut rig, MAC_B, B6, S1_6), ours);
    assert_eq!(port(&mut rig, MAC_A, A6, S2_6), ours);
    assert_eq!(rig.outside(&craft::udp((R9_6, 1), (X6, ours), b"")), Fate::Pass(INSIDE));
}

#[test]
fn a_spent_hop_limit_is_answered_inside_by_the_gateway_and_2_goes_on_as_1() {
    let mut rig = rig();
    let packet = craft::udp((A6, 1000), (S1_6, 33434), b"traceroute");
    assert_eq!(from6(&mut rig, MAC_A, &with_hops(packet.clone(), 2)), Fate::Pass(OUTSIDE));
    assert_eq!(rig.sent_outside()[0][7], 1);
    let last = with_hops(packet, 1);
    assert_eq!(from6(&mut rig, MAC_A, &last), dropped(DropReason::TtlExpired));
    let (mac, error) = sent6(&mut rig).remove(0);
    assert_eq!((mac, source6(&error), destination6(&error)), (MAC_A, GATEWAY6, A6));
    assert_eq!(error_in(&error), (3, 0, &last[..]));
}

#[test]
fn a_spent_hop_limit_is_answered_outside_by_the_external_address_and_only_for_our_flows() {
    let mut rig = rig();
    let (_, port) = asked(&mut rig);
    let last = with_hops(craft::udp((S1_6, 53), (X6, port), b"answer"), 1);
    assert_eq!(rig.outside(&last), dropped(DropReason::TtlExpired));
    let error = rig.sent_outside().remove(0);
    assert_eq!((source6(&error), destination6(&error)), (X6, S1_6));
    assert_eq!(error_in(&error), (3, 0, &last[..]), "no inside address in it");
    let stray = with_hops(craft::udp((S1_6, 53), (X6, port ^ 1), b""), 1);
    assert_eq!(rig.outside(&stray), dropped(DropReason::Refused(Refusal::NoMapping)));
    assert!(rig.sent.is_empty());
}

#[test]
fn what_is_too_big_is_never_fragmented_but_answered_with_the_mtu_of_the_next_link() {
    let mut config = config();
    config.outside = LinkInfo::offloading(1400, 0);
    let mut rig = rig_with(config);
    let packet = craft::udp((A6, 1000), (S1_6, 53), &[7; 1400]);
    assert_eq!(from6(&mut rig, MAC_A, &packet), dropped(DropReason::TooBig));
    let (_, error) = sent6(&mut rig).remove(0);
    assert_eq!(error.len(), 1280, "as much of it as fits the least MTU");
    assert_eq!(u32::from_be_bytes(*error[44..].first_chunk().unwrap()), 1400);
    assert_eq!(error_in(&error), (2, 0, &packet[..1232]));
    assert!(rig.sent_outside().is_empty());
    assert_eq!(from6(&mut rig, MAC_A, &packet[..]), dropped(DropReason::TooBig));
}

#[test]
fn what_is_too_big_for_the_inside_is_answered_outside() {
    let mut config = config();
    config.inside = LinkInfo::offloading(1300, 14);
    let mut rig = rig_with(config);
    let (_, port) = asked(&mut rig);
    assert_eq!(rig.outside(&craft::udp((S1_6, 53), (X6, port), &[7; 1300])), dropped(DropReason::TooBig));
    let error = rig.sent_outside().remove(0);
    assert_eq!((source6(&error), destination6(&error)), (X6, S1_6));
    assert_eq!((error_in(&error).0, &error[44..48]), (2, &[0, 0, 5, 20][..]));
}

#[test]
fn no_mtu_below_1280_is_told() {
    let mut config = config();
    config.outside = LinkInfo::offloading(1000, 0);
    let mut rig = rig_with(config);
    from6(&mut rig, MAC_A, &craft::udp((A6, 1000), (S1_6, 53), &[7; 1100]));
    let (_, error) = sent6(&mut rig).remove(0);
    assert_eq!((error_in(&error).0, &error[44..48]), (2, &[0, 0, 5, 0][..]));
}

#[test]
fn errors_of_a_router_reach_the_inside_host_with_their_quotes_translated() {
    let errors = [
        (IcmpError::NetUnreachable, 1, 0),
        (IcmpError::Prohibited, 1, 1),
        (IcmpError::HostUnreachable, 1, 3),
        (IcmpError::PortUnreachable, 1, 4),
        (IcmpError::TooBig { mtu: 1280 }, 2, 0),
        (IcmpError::TtlExceeded, 3, 0),
        (IcmpError::ParameterProblem { pointer: 40 }, 4, 0),
    ];
    for (error, kind, code) in errors {
        let mut rig = rig();
        let (out, _) = asked(&mut rig);
        let report = craft::icmp_error(error, R9_6, X6, &out);
        assert_eq!(rig.outside(&report), Fate::Pass(INSIDE), "{error:?}");
        let (mac, back) = sent6(&mut rig).remove(0);
        assert_eq!((mac, source6(&back), destination6(&back)), (MAC_A, R9_6, A6));
        let (got_kind, got_code, quote) = error_in(&back);
        assert_eq!((got_kind, got_code, &back[44..48]), (kind, code, &report[44..48]));
        assert_eq!((source6(quote), destination6(quote), source_port6(quote)), (A6, S1_6, 1000));
        assert!(sums_are_right(quote));
    }
}

#[test]
fn a_packet_too_big_with_an_mtu_below_1280_is_dropped_from_both_sides() {
    let mut rig = rig();
    let (out, port) = asked(&mut rig);
    assert_eq!(rig.outside(&too_big(X6, 1279, &out)), dropped(DropReason::BadMtu));
    assert_eq!(rig.outside(&too_big(X6, 1280, &out)), Fate::Pass(INSIDE));
    rig.outside(&craft::udp((S1_6, 53), (X6, port), b"answer"));
    sent6(&mut rig);
    let answer = craft::udp((S1_6, 53), (A6, 1000), b"answer");
    let message = |mtu: u32| [&[2, 0, 0, 0][..], &mtu.to_be_bytes(), &answer].concat();
    let lie = icmp6(A6, S1_6, 64, &message(68));
    assert_eq!(from6(&mut rig, MAC_A, &lie), dropped(DropReason::BadMtu));
    let word = icmp6(A6, S1_6, 64, &message(1400));
    assert_eq!(from6(&mut rig, MAC_A, &word), Fate::Pass(OUTSIDE));
}

#[test]
fn an_error_from_the_inside_shows_no_inside_address() {
    let mut rig = rig();
    let (_, port) = asked(&mut rig);
    rig.outside(&craft::udp((S1_6, 53), (X6, port), b"answer"));
    let (_, answer) = sent6(&mut rig).remove(0);
    let report = craft::icmp_error(IcmpError::PortUnreachable, A6, S1_6, &answer);
    assert_eq!(from6(&mut rig, MAC_A, &report), Fate::Pass(OUTSIDE));
    let out = rig.sent_outside().remove(0);
    let (kind, code, quote) = error_in(&out);
    assert_eq!((source6(&out), destination6(&out), kind, code), (X6, S1_6, 1, 4));
    assert_eq!((source6(quote), destination6(quote), destination_port6(quote)), (S1_6, X6, port));
    assert!(!out.windows(16).any(|window| window == A6.octets()));
}

#[test]
fn martians_and_liars_are_dropped() {
    let ip = |text: &str| text.parse::<Ipv6Addr>().unwrap();
    let inside = |source: &str, destination: &str| {
        let mut rig = rig();
        let fate = from6(&mut rig, MAC_A, &craft::udp((ip(source), 1000), (ip(destination), 53), b""));
        assert!(rig.sent_outside().is_empty());
        fate
    };
    for source in ["::", "::1", "ff02::1", "::ffff:10.0.0.2", "::10.0.0.2"] {
        assert_eq!(inside(source, "2001:db8::53"), dropped(DropReason::MartianSource), "{source}");
    }
    for destination in ["::", "::1", "ff02::fb", "ff0e::1", "fe80::1", "::ffff:10.0.0.2"] {
        assert_eq!(inside("fd00:0:0:1::a", destination), dropped(DropReason::MartianDestination));
    }
    for source in ["2001:db8::7", "fd00:0:0:2::a", "fd00:0:0:1::1", "fd00:0:0:1::"] {
        assert_eq!(inside(source, "2001:db8::53"), dropped(DropReason::SpoofedSource), "{source}");
    }
    let beyond = inside("fe80::ff:fe00:a", "2001:db8::53");
    assert_eq!(beyond, dropped(DropReason::MartianSource), "link-local addresses stay on the link");
    for source in ["::1", "fe80::1", "ff02::1", "fd00:0:0:1::a", "fd99::1", "::ffff:198.51.100.7"] {
        let mut rig = rig();
        let (_, port) = asked(&mut rig);
        let fate = rig.outside(&craft::udp((ip(source), 53), (X6, port), b""));
        assert_eq!(fate, dropped(DropReason::MartianSource), "{source}");
    }
    let fate = rig().outside(&craft::udp((S1_6, 53), (R9_6, 1), b""));
    assert_eq!(fate, dropped(DropReason::NotOurAddress));
}

#[test]
fn private_remotes_are_heard_where_our_own_address_outside_is_private() {
    let (ours, theirs) =
        (Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 9));
    let mut config = config();
    config.nat.external = vec![ours.into()];
    let mut rig = rig_with(config);
    from6(&mut rig, MAC_A, &craft::udp((A6, 1000), (theirs, 53), b""));
    let port = source_port6(&rig.sent_outside()[0]);
    assert_eq!(rig.outside(&craft::udp((theirs, 53), (ours, port), b"")), Fate::Pass(INSIDE));
}

#[test]
fn a_frame_whose_type_and_version_disagree_is_dropped() {
    let mut rig = rig();
    let four = framed(MAC_A, MAC, &craft::udp(at(A, 1000), at(S1, 53), b""));
    assert_eq!(rig.frame(&four), dropped(DropReason::Malformed(ParseError::Version(4))));
    let six = rig.from(MAC_A, &craft::udp((A6, 1000), (S1_6, 53), b""));
    assert_eq!(six, dropped(DropReason::Malformed(ParseError::Version(6))));
}

#[test]
fn about_errors_later_fragments_and_groups_nothing_is_said() {
    let mut rig = rig();
    let (out, _) = asked(&mut rig);
    let error = craft::icmp_error(IcmpError::PortUnreachable, A6, S1_6, &out);
    from6(&mut rig, MAC_A, &with_hops(error, 1));
    let whole = craft::udp((A6, 1000), (S1_6, 53), &[0; 2000]);
    from6(&mut rig, MAC_A, &with_hops(fragments6(&whole, 1, 1200).remove(1), 1));
    from6(&mut rig, MAC_A, &with_hops(craft::udp((A6, 1000), (group(A6), 53), b""), 1));
    assert!(rig.sent.is_empty());
}

#[test]
fn errors_of_our_own_have_a_rate() {
    let mut rig = rig();
    for _ in 0..1000 {
        from6(&mut rig, MAC_A, &with_hops(craft::udp((A6, 1000), (S1_6, 53), b""), 1));
    }
    assert!((1..=50).contains(&sent6(&mut rig).len()));
}

#[test]
fn fragments_pass_in_any_order_both_ways_with_a_fresh_identification() {
    let mut rig = rig();
    let whole = craft::udp((A6, 1000), (S1_6, 53), &[7; 3000]);
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let pieces = fragments6(&whole, 0x0102_0304, 1200);
        for number in order {
            from6(&mut rig, MAC_A, &pieces[number]);
        }
        let mut out = rig.sent_outside();
        assert_eq!(out.len(), 3, "{order:?}");
        out.sort_by_key(|piece| u16::from_be_bytes([piece[42], piece[43]]));
        let identification = &out[0][44..48];
        assert_ne!(identification, [1, 2, 3, 4]);
        for (piece, sent) in out.iter().zip(&pieces) {
            assert_eq!((source6(piece), &piece[44..48], &piece[40..44]), (X6, identification, &sent[40..44]));
            assert_eq!(piece[7], 63);
        }
        let payload = out.iter().flat_map(|piece| &piece[48..]).copied().collect::<Vec<_>>();
        let joined = ip6(X6, S1_6, 17, 63, &payload);
        assert_eq!(checksum::transport_is_right(&joined), Some(true));
    }
    let (_, port) = asked(&mut rig);
    let back = fragments6(&craft::udp((S1_6, 53), (X6, port), &[9; 3000]), 7, 1200);
    assert_eq!(rig.outside(&back[2]), Fate::Held);
    assert_eq!(rig.outside(&back[1]), Fate::Held);
    assert_eq!(rig.outside(&back[0]), Fate::Pass(INSIDE));
    let arrived = sent6(&mut rig);
    assert_eq!(arrived.len(), 3);
    for (mac, piece) in arrived {
        assert_eq!((mac, destination6(&piece), &piece[44..48]), (MAC_A, A6, &[0, 0, 0, 7][..]));
    }
}

#[test]
fn datagrams_of_two_hosts_with_one_identification_do_not_mix() {
    let mut rig = rig();
    let mut identifications = Vec::new();
    for (mac, host) in [(MAC_A, A6), (MAC_B, B6)] {
        let pieces = fragments6(&craft::udp((host, 1000), (S1_6, 53), &[7; 2000]), 0x4242, 1200);
        for piece in &pieces {
            from6(&mut rig, mac, piece);
        }
        let out = rig.sent_outside();
        assert_eq!(out[0][44..48], out[1][44..48]);
        identifications.push(out[0][44..48].to_vec());
    }
    assert_ne!(identifications[0], identifications[1]);
}

#[test]
fn fragments_that_overlap_end_their_datagram() {
    let mut rig = rig();
    let mut pieces = fragments6(&craft::udp((A6, 1000), (S1_6, 53), &[7; 3000]), 1, 1200);
    pieces[1][43] -= 8;
    assert_eq!(from6(&mut rig, MAC_A, &pieces[0]), Fate::Pass(OUTSIDE));
    assert_eq!(from6(&mut rig, MAC_A, &pieces[1]), dropped(DropReason::FragmentOverlap));
    assert_eq!(from6(&mut rig, MAC_A, &pieces[2]), dropped(DropReason::FragmentOverlap));
}

#[test]
fn a_fragmented_part_that_begins_with_options_is_one_datagram() {
    let mut rig = rig();
    // The first fragment says "options", and UDP comes behind those; later ones do not see it.
    let inner = extended(&craft::udp((A6, 1000), (S1_6, 53), &[7; 2000]), 60, &[0, 0, 1, 4, 0, 0, 0, 0]);
    for piece in fragments6(&inner, 1, 1200) {
        assert_eq!(from6(&mut rig, MAC_A, &piece), Fate::Pass(OUTSIDE));
    }
}

#[test]
fn echo_to_the_gateway_is_answered_and_other_ports_there_are_closed() {
    for ours in [GATEWAY6, LINK_LOCAL] {
        let mut rig = rig();
        let host = if ours == LINK_LOCAL { LINK_LOCAL_A } else { A6 };
        rig.frame(&solicitation(MAC_A, host, ours));
        rig.sent.clear();
        let ping = craft::echo(host, ours, true, 7, 1, b"hi");
        assert_eq!(from6(&mut rig, MAC_A, &ping), Fate::Taken(Answer::Echo));
        let (mac, reply) = sent6(&mut rig).remove(0);
        assert_eq!((mac, source6(&reply), destination6(&reply), reply[40]), (MAC_A, ours, host, 129));
        assert_eq!(reply[44..], ping[44..]);
        assert!(icmp6_is_right(&reply));
        let closed = craft::udp((host, 5), (ours, 22), b"");
        assert_eq!(from6(&mut rig, MAC_A, &closed), dropped(DropReason::InsideDestination));
        let (_, error) = sent6(&mut rig).remove(0);
        assert_eq!((source6(&error), error_in(&error)), (ours, (1, 4, &closed[..])));
        let opens = craft::tcp((host, 5), (ours, 22), TcpFlags::SYN, 9, b"");
        assert_eq!(from6(&mut rig, MAC_A, &opens), dropped(DropReason::InsideDestination));
        let (_, reset) = sent6(&mut rig).remove(0);
        assert_eq!((source6(&reset), reset[6], reset[53]), (ours, TCP, 0x14));
        assert!(sums_are_right(&reset));
    }
}

#[test]
fn extension_headers_pass_untouched_and_routing_headers_do_not() {
    let mut rig = rig();
    let plain = craft::udp((A6, 1000), (S1_6, 53), b"query");
    for kind in [0, 60] {
        let options = [0, 0, 1, 4, 0, 0, 0, 0];
        assert_eq!(from6(&mut rig, MAC_A, &extended(&plain, kind, &options)), Fate::Pass(OUTSIDE));
        let out = rig.sent_outside().remove(0);
        assert_eq!((source6(&out), &out[40..48]), (X6, &[17, 0, 1, 4, 0, 0, 0, 0][..]));
        let joined = ip6(X6, S1_6, 17, 63, &out[48..]);
        assert!(sums_are_right(&joined));
    }
    let routed = |kind, left| {
        let header = [&[0, 2, kind, left, 0, 0, 0, 0][..], &R9_6.octets()].concat();
        extended(&plain, 43, &header)
    };
    for (kind, left) in [(0, 1), (0, 0), (4, 1)] {
        assert_eq!(from6(&mut rig, MAC_A, &routed(kind, left)), dropped(DropReason::SourceRoute));
    }
    assert_eq!(from6(&mut rig, MAC_A, &routed(4, 0)), Fate::Pass(OUTSIDE));
}

#[test]
fn the_mss_of_a_syn_fits_both_links_both_ways() {
    let mut config = config();
    config.outside = LinkInfo::offloading(1400, 0);
    let mut rig = rig_with(config);
    let opens = Tcp { flags: TcpFlags::SYN, mss: Some(1440), ..Tcp::default() };
    from6(&mut rig, MAC_A, &opens.packet((A6, 1000), (S1_6, 80), b""));
    let out = rig.sent_outside().remove(0);
    assert_eq!(out[60..64], [2, 4, 5, 60], "1340");
    assert!(sums_are_right(&out));
    let accepts = Tcp { flags: TcpFlags::SYN.with(TcpFlags::ACK), acknowledgment: 1, ..opens };
    rig.outside(&accepts.packet((S1_6, 80), (X6, source_port6(&out)), b""));
    let (_, back) = sent6(&mut rig).remove(0);
    assert_eq!(back[60..64], [2, 4, 5, 60]);
    assert!(sums_are_right(&back));
}

/// Row 169: a probe of closed ports is told nothing, so nothing can be told from how it is told.
#[test]
fn closed_ports_outside_are_silent_to_udp() {
    let mut rig = rig();
    for port in 40_000..41_000 {
        let fate = rig.outside(&craft::udp((S1_6, 53), (X6, port), b"probe"));
        assert_eq!(fate, dropped(DropReason::Refused(Refusal::NoMapping)));
    }
    rig.wait(10_000);
    assert!(rig.sent.is_empty());
}

#[test]
fn super_frames_and_partial_checksums_pass_whole() {
    let mut rig = rig();
    from6(&mut rig, MAC_A, &craft::tcp((A6, 1000), (S1_6, 80), TcpFlags::SYN, 1, b""));
    rig.sent_outside();
    let mut packet = craft::tcp((A6, 1000), (S1_6, 80), TcpFlags::ACK, 2, &[5; 20_000]);
    // The field of a partial checksum holds the sum of the pseudo header.
    let pseudo = |packet: &[u8]| {
        let mut summed = packet[8..40].to_vec();
        summed.extend((packet.len() as u32 - 40).to_be_bytes());
        summed.extend([0, 0, 0, TCP]);
        checksum::sum(&summed).to_be_bytes()
    };
    let sum = pseudo(&packet);
    packet[56..58].copy_from_slice(&sum);
    let offload = Offload {
        checksum: Some(PartialChecksum { start: 40, offset: 16 }),
        segment: Some(Segment { kind: SegmentKind::Tcp6, size: 1400, header: 60, ecn: false }),
        ..Offload::default()
    };
    let fate = rig.receive(INSIDE, &framed(MAC_A, MAC, &packet), offload);
    assert_eq!(fate, Fate::Pass(OUTSIDE));
    let out = rig.sent_outside().remove(0);
    assert_eq!((source6(&out), out.len()), (X6, packet.len()));
    assert_eq!(out[56..58], pseudo(&out));
}

#[test]
fn the_host_s_own_addresses_are_reached_through_the_host_link_and_answer() {
    let host = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x99);
    let mut config = config();
    config.nat.host_addresses.push(host.into());
    for ours in [X6, host] {
        let mut rig = rig_with(config.clone());
        let opens = craft::tcp((A6, 1000), (ours, 22), TcpFlags::SYN, 1, b"");
        assert_eq!(from6(&mut rig, MAC_A, &opens), Fate::Pass(HOST));
        let at_host = rig.sent_to_host().remove(0);
        assert_eq!((source6(&at_host), destination6(&at_host), at_host[7]), (X6, ours, 64));
        let flags = TcpFlags::SYN.with(TcpFlags::ACK);
        let accepts = Tcp { flags, acknowledgment: 2, ..Tcp::default() };
        rig.host(&accepts.packet((ours, 22), (X6, source_port6(&at_host)), b""));
        let (_, back) = sent6(&mut rig).remove(0);
        assert_eq!((source6(&back), destination6(&back)), (ours, A6));
    }
    config.nat.host_access = false;
    let mut rig = rig_with(config);
    let opens = craft::tcp((A6, 1000), (X6, 22), TcpFlags::SYN, 1, b"");
    assert_eq!(from6(&mut rig, MAC_A, &opens), dropped(DropReason::Refused(Refusal::HostAccessOff)));
    let (_, error) = sent6(&mut rig).remove(0);
    assert_eq!(error_in(&error), (1, 1, &opens[..]));
}

fn publish(rig: &mut Rig, port: u16, inside: Ipv6Addr) {
    let (outside, inside) = (Endpoint::new(X6, port), Endpoint::new(inside, 53));
    let publish = Command::Publish { protocol: Protocol::Udp, outside, inside };
    assert_eq!(rig.gateway.apply(publish, rig.now, &mut ()), Reply::Done);
}

#[test]
fn a_published_port_is_reached_from_outside() {
    let mut rig = rig();
    publish(&mut rig, 8053, B6);
    assert_eq!(rig.outside(&craft::udp((S2_6, 1), (X6, 8053), b"query")), Fate::Pass(INSIDE));
    let (mac, arrived) = sent6(&mut rig).remove(0);
    assert_eq!((mac, destination6(&arrived), destination_port6(&arrived)), (MAC_B, B6, 53));
}

#[test]
fn hairpinned_packets_and_their_errors_carry_outside_endpoints() {
    let mut rig = rig();
    publish(&mut rig, 8053, B6);
    assert_eq!(from6(&mut rig, MAC_A, &craft::udp((A6, 1000), (X6, 8053), b"query")), Fate::Pass(INSIDE));
    let (mac, at_b) = sent6(&mut rig).remove(0);
    assert_eq!((mac, source6(&at_b), destination6(&at_b), at_b[7]), (MAC_B, X6, B6, 63));
    let port = source_port6(&at_b);
    assert_ne!(port, 1000);
    let refuses = craft::icmp_error(IcmpError::PortUnreachable, B6, X6, &at_b);
    assert_eq!(from6(&mut rig, MAC_B, &refuses), Fate::Pass(INSIDE));
    let (mac, error) = sent6(&mut rig).remove(0);
    assert_eq!((mac, source6(&error), destination6(&error)), (MAC_A, X6, A6));
    let (_, _, quote) = error_in(&error);
    assert_eq!((source6(quote), source_port6(quote)), (A6, 1000));
    assert_eq!((destination6(quote), destination_port6(quote)), (X6, 8053));
}

#[test]
fn who_is_refused_for_want_of_ports_is_told_so() {
    let mut config = config();
    config.nat.ports = vec![40000..=40000];
    let mut rig = rig_with(config);
    from6(&mut rig, MAC_A, &craft::udp((A6, 1000), (S1_6, 53), b""));
    let second = craft::udp((A6, 1001), (S1_6, 53), b"");
    assert_eq!(from6(&mut rig, MAC_A, &second), dropped(DropReason::Refused(Refusal::PortsExhausted)));
    let (_, error) = sent6(&mut rig).remove(0);
    assert_eq!(error_in(&error), (1, 1, &second[..]));
}

#[test]
fn a_host_is_asked_for_by_its_group_then_directly_and_given_up_when_silent() {
    let mut rig = stranger(config());
    let (_, port) = asked(&mut rig);
    let answer = craft::udp((S1_6, 53), (X6, port), b"answer");
    assert_eq!(rig.outside(&answer), Fate::Held);
    let (mac, question) = sent6(&mut rig).remove(0);
    assert_eq!(
        (mac, source6(&question), destination6(&question)),
        (group_mac(group(A6)), GATEWAY6, group(A6))
    );
    assert_eq!(question[44..], neighbor(135, 0, A6, &option(SOURCE_MAC, MAC))[4..]);
    assert!(icmp6_is_right(&question));
    rig.frame(&advertisement(MAC_A, A6, SOLICITED | OVERRIDE));
    let (mac, released) = sent6(&mut rig).remove(0);
    assert_eq!((mac, destination6(&released)), (MAC_A, A6));
    // Unconfirmed for half a minute: used, and asked for.
    rig.wait(31_000);
    assert_eq!(rig.outside(&answer), Fate::Pass(INSIDE));
    let sent = sent6(&mut rig);
    assert_eq!((sent[0].0, destination6(&sent[0].1), sent.len()), (MAC_A, A6, 2));
    assert_eq!(sent[1].1[40], 135, "asks the host itself: {:?}", sent[1].0);
    (0..3).for_each(|_| rig.wait(1000));
    assert_eq!(sent6(&mut rig).len(), 2, "asks twice more");
    assert_eq!(rig.outside(&answer), Fate::Held, "it is forgotten");
    sent6(&mut rig);
    (0..3).for_each(|_| rig.wait(1000));
    let error = rig.sent_outside().remove(0);
    assert_eq!((source6(&error), destination6(&error)), (X6, S1_6));
    let (kind, code, quote) = error_in(&error);
    assert_eq!((kind, code, destination6(quote)), (1, 3, X6), "address unreachable");
}

#[test]
fn a_new_mac_is_believed_if_it_overrides_and_not_otherwise() {
    let mut rig = rig();
    let (_, port) = asked(&mut rig);
    let answer = craft::udp((S1_6, 53), (X6, port), b"answer");
    let mac = |rig: &mut Rig| {
        rig.outside(&answer);
        sent6(rig).remove(0).0
    };
    rig.frame(&advertisement(MAC_B, A6, SOLICITED));
    assert_eq!(mac(&mut rig), MAC_A);
    rig.frame(&advertisement(MAC_B, A6, OVERRIDE));
    assert_eq!(mac(&mut rig), MAC_B);
    rig.frame(&solicitation(MacAddr([2, 0, 0, 0, 0, 0xc]), A6, GATEWAY6));
    assert_eq!(mac(&mut rig), MacAddr([2, 0, 0, 0, 0, 0xc]));
}

#[test]
fn hosts_of_two_inside_subnets_reach_each_other_by_a_hop_without_translation() {
    let (other, c) =
        (Ipv6Addr::new(0xfd00, 0, 0, 2, 0, 0, 0, 1), Ipv6Addr::new(0xfd00, 0, 0, 2, 0, 0, 0, 0xc));
    let mut config = config();
    config.subnets.push(Subnet { gateway: other.into(), prefix: 64, only: None });
    let mut rig = rig_with(config);
    rig.frame(&solicitation(MAC_B, c, other));
    sent6(&mut rig);
    let sent = craft::udp((A6, 1000), (c, 53), b"over there");
    assert_eq!(from6(&mut rig, MAC_A, &sent), Fate::Pass(INSIDE));
    assert_eq!(sent6(&mut rig), [(MAC_B, with_hops(sent, 63))]);
    assert_eq!(rig.gateway.counts().sessions, 0);
    let neighbor = craft::udp((A6, 1000), (B6, 53), b"");
    assert_eq!(from6(&mut rig, MAC_A, &neighbor), dropped(DropReason::InsideDestination));
}

#[test]
fn both_families_run_side_by_side() {
    let mut config = config();
    config.subnets.push(Subnet { gateway: GATEWAY.into(), prefix: 24, only: None });
    config.nat.external.push(IpAddr::V4(X));
    let mut rig = rig_with(config);
    rig.frame(&arp(1, MAC_A, A, MacAddr([0; 6]), GATEWAY));
    rig.sent.clear();
    let (_, port) = asked(&mut rig);
    assert_eq!(rig.from(MAC_A, &craft::udp(at(A, 1000), at(S1, 53), b"q")), Fate::Pass(OUTSIDE));
    let four = rig.sent_outside().remove(0);
    assert_eq!(support::source(&four), X);
    assert_eq!(rig.outside(&craft::udp((S1_6, 53), (X6, port), b"r")), Fate::Pass(INSIDE));
    let back = craft::udp(at(S1, 53), at(X, support::source_port(&four)), b"r");
    assert_eq!(rig.outside(&back), Fate::Pass(INSIDE));
    let error = craft::icmp_error(IcmpError::HostUnreachable, R9, X, &four);
    assert_eq!(rig.outside(&error), Fate::Pass(INSIDE));
}

#[test]
fn another_protocol_passes_for_one_host_a_remote() {
    let mut rig = rig();
    let esp = |host| ip6(host, S1_6, 50, 64, &[7; 40]);
    assert_eq!(from6(&mut rig, MAC_A, &esp(A6)), Fate::Pass(OUTSIDE));
    assert_eq!(rig.sent_outside()[0][40..], [7; 40]);
    let taken = dropped(DropReason::Refused(Refusal::ProtocolTaken));
    assert_eq!(from6(&mut rig, MAC_B, &esp(B6)), taken);
    assert_eq!(rig.outside(&ip6(S1_6, X6, 50, 64, &[8; 40])), Fate::Pass(INSIDE));
    assert_eq!(sent6(&mut rig).last().map(|(mac, _)| *mac), Some(MAC_A));
}

/// Right packets of every kind, from the inside and from outside, some in answer to others.
fn samples() -> Vec<Vec<u8>> {
    let outside = Ipv6Addr::new(0x2001, 0xdb8, 1, 0xcf47, 0, 0, 0, 0xa);
    let mut samples = Vec::new();
    for (source, destination) in
        [(A6, S1_6), (S1_6, X6), (S1_6, outside), (A6, X6), (A6, GATEWAY6), (A6, outside)]
    {
        let udp = craft::udp((source, 1000), (destination, 53), &[7; 600]);
        samples.push(craft::udp((source, 1000), (destination, 8053), b"query"));
        samples.push(craft::tcp((source, 1000), (destination, 80), TcpFlags::SYN, 9, b""));
        samples.push(craft::echo(source, destination, true, 7, 1, b"ping"));
        samples.push(craft::icmp_error(IcmpError::TtlExceeded, source, destination, &udp));
        samples.push(too_big(destination, 1300, &craft::udp((destination, 53), (source, 1000), b"q")));
        samples.push(extended(&udp, 0, &[0, 0, 1, 4, 0, 0, 0, 0]));
        samples.extend(fragments6(&udp, 5, 200));
    }
    samples.push(listener_report()[14..].to_vec());
    samples.push(solicitation(MAC_A, A6, GATEWAY6)[14..].to_vec());
    samples.push(router_solicitation(MAC_A)[14..].to_vec());
    samples
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// The invariants hold for whatever comes: what leaves outside has no inside source, and can be
    /// read.
    #[test]
    fn whatever_comes_no_inside_address_leaves_and_what_leaves_can_be_read(
        steps in prop::collection::vec(
            (any::<prop::sample::Index>(), any::<bool>(), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), any::<bool>(), 0u64..2000),
            1..40,
        ),
        by_prefix in any::<bool>(),
    ) {
        let samples = samples();
        let mut rig = rig_with(if by_prefix { translating() } else { config() });
        publish(&mut rig, 8053, B6);
        for (which, inside, changes, fix, wait) in steps {
            let mut packet = which.get(&samples).clone();
            for (at, byte) in changes {
                let at = at.index(packet.len());
                packet[at] = byte;
            }
            if fix && packet[6] == 58 {
                fix_icmp6(&mut packet);
            }
            if inside {
                from6(&mut rig, MAC_A, &packet);
            } else {
                rig.outside(&packet);
            }
            rig.wait(wait);
            let sent = std::mem::take(&mut rig.sent);
            for (to, bytes) in sent {
                let ip = if to == INSIDE { &bytes[14..] } else { &bytes[..] };
                prop_assert!(tapnat::wire::Packet::parse(ip, &Offload::default()).is_ok(), "{:02x?}", ip);
                if to == OUTSIDE {
                    let source = source6(ip);
                    prop_assert!(source == X6 || source.segments()[..3] == [0x2001, 0xdb8, 1], "{source}");
                }
            }
        }
    }
}

#[test]
fn hosts_that_come_under_prefix_translation_lose_their_ports() {
    let mut rig = rig();
    let (_, port) = asked(&mut rig);
    let done = rig.gateway.reconfigure(translating(), rig.now, &mut ());
    assert_eq!((done.kept, done.ended), (0, 1));
    let late = craft::udp((S1_6, 53), (X6, port), b"");
    assert_eq!(rig.outside(&late), dropped(DropReason::Refused(Refusal::NoMapping)));
    assert_eq!(from6(&mut rig, MAC_A, &craft::udp((A6, 1000), (S1_6, 53), b"")), Fate::Pass(OUTSIDE));
    assert_ne!(source6(&rig.sent_outside()[0]), X6);
}

#[test]
fn exempt_remotes_see_the_host_s_own_address_private_or_not() {
    let remote = Ipv6Addr::new(0xfd50, 0, 0, 0, 0, 0, 0, 7);
    let mut config = config();
    config.nat.exempt.push(tapnat::nat::Exemption {
        remote: tapnat::flow::Prefix::new(remote, 64),
        protocol: None,
        ports: None,
    });
    let mut rig = rig_with(config);
    assert_eq!(from6(&mut rig, MAC_A, &craft::udp((A6, 1000), (remote, 53), b"")), Fate::Pass(OUTSIDE));
    let out = rig.sent_outside().remove(0);
    assert_eq!((source6(&out), source_port6(&out)), (A6, 1000));
    assert_eq!(rig.outside(&craft::udp((remote, 53), (A6, 1000), b"")), Fate::Pass(INSIDE));
}
