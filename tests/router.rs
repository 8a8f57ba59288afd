//! What a router owes: answers to those whose packets it cannot pass, and none where none is due
//! (RFC 1812, RFC 5508, RFC 6888).
#![allow(clippy::unwrap_used)]

#[path = "support/bytes.rs"]
mod bytes;
mod support;

use bytes::{fix_header, fix_icmp, fragmentable, with_ttl};
use std::net::Ipv4Addr;
use support::*;
use tapnat::flow::TcpFlags;
use tapnat::gateway::{DropReason, Fate, INSIDE, OUTSIDE, RefusalAnswer};
use tapnat::nat::Refusal;
use tapnat::wire::craft::{self, IcmpError};
use tapnat::wire::fragment;

/// Type, code and bytes of the ICMP packets sent inside since the last call.
fn told(rig: &mut Rig) -> Vec<(u8, u8, Vec<u8>)> {
    let sent = rig.sent_inside().into_iter().filter(|(_, packet)| packet[9] == 1);
    sent.map(|(_, packet)| (packet[20], packet[21], packet)).collect()
}

/// A gateway with 20 ports, and 25 hosts' worth of flows of A.
fn exhausted(refusal: RefusalAnswer) -> (Rig, Vec<u16>) {
    let mut config = config();
    config.nat.ports = vec![40_000..=40_019];
    config.refusal = refusal;
    let mut rig = Rig::with(config);
    let mut live = Vec::new();
    for port in 1_000..1_025 {
        let fate = rig.from(MAC_A, &craft::udp(at(A, port), at(S1, 5000), b"q"));
        match fate {
            Fate::Pass(OUTSIDE) => live.push(source_port(&rig.sent_outside()[0])),
            other => assert_eq!(other, Fate::Dropped(DropReason::Refused(Refusal::PortsExhausted))),
        }
    }
    (rig, live)
}

#[test]
fn ports_that_run_out_are_told_and_no_live_flow_pays() {
    let (mut rig, live) = exhausted(RefusalAnswer::Prohibited);
    let answers = told(&mut rig);
    assert_eq!(answers.len(), 5);
    for (icmp_type, code, packet) in answers {
        assert_eq!((icmp_type, code, source(&packet), destination(&packet)), (3, 13, GATEWAY, A));
    }
    assert_eq!(live.len(), 20);
    for port in live {
        assert!(matches!(rig.outside(&craft::udp(at(S1, 5000), at(X, port), b"r")), Fate::Pass(_)));
    }
}

#[test]
fn what_is_told_when_ports_run_out_is_as_configured() {
    let (mut rig, _) = exhausted(RefusalAnswer::HostUnreachable);
    assert!(told(&mut rig).iter().all(|(icmp_type, code, _)| (*icmp_type, *code) == (3, 1)));
    let (mut rig, live) = exhausted(RefusalAnswer::Silence);
    assert!(told(&mut rig).is_empty() && live.len() == 20);
}

#[test]
fn no_error_is_sent_about_errors_groups_bad_headers_or_later_fragments() {
    let mut rig = Rig::new();
    let udp = || craft::udp(at(A, 1000), at(S1, 53), &[0; 100]);
    let error = craft::icmp_error(IcmpError::PortUnreachable, A, S1, &craft::udp(at(S1, 1), at(A, 2), b""));
    let mut bad_header = with_ttl(udp(), 1);
    bad_header[10] ^= 1;
    let pieces =
        fragment::fragments(&fragmentable(craft::udp(at(A, 1), at(S1, 2), &[0; 3000]), 5), 1500).unwrap();
    let group = craft::udp(at(A, 1000), at(Ipv4Addr::new(224, 0, 0, 5), 53), b"");
    let broadcast = craft::udp(at(A, 1000), at(Ipv4Addr::new(10, 0, 0, 255), 53), b"");
    let nobody = craft::udp(at(Ipv4Addr::new(0, 0, 0, 9), 1000), at(S1, 53), b"");
    let silent = [error, group, broadcast, nobody, pieces[1].clone()];
    for packet in silent.into_iter().map(|packet| with_ttl(packet, 1)).chain([bad_header]) {
        rig.from(MAC_A, &packet);
        assert!(told(&mut rig).is_empty(), "{packet:02x?}");
    }
    rig.from(MAC_A, &with_ttl(udp(), 1));
    assert_eq!(told(&mut rig).len(), 1, "and about one that deserves it there is");
}

#[test]
fn errors_keep_the_dscp_of_what_they_are_about() {
    let mut rig = Rig::new();
    let mut packet = with_ttl(craft::udp(at(A, 1000), at(S1, 53), b"q"), 1);
    packet[1] = 0xb8;
    fix_header(&mut packet);
    rig.from(MAC_A, &packet);
    assert_eq!(told(&mut rig)[0].2[1] >> 2, 0xb8 >> 2);
}

#[test]
fn frames_that_fail_header_checks_vanish_on_both_sides() {
    let mut rig = Rig::new();
    let whole = craft::udp(at(A, 1000), at(S1, 53), b"q");
    let changes: [fn(&mut Vec<u8>); 6] = [
        |packet| packet.truncate(19),
        |packet| packet[10] ^= 1,
        |packet| packet[0] = 0x55,
        |packet| packet[0] = 0x44,
        |packet| packet[3] = 19,
        |packet| packet[2] = 9,
    ];
    for change in changes {
        let mut packet = whole.clone();
        change(&mut packet);
        assert!(matches!(rig.from(MAC_A, &packet), Fate::Dropped(DropReason::Malformed(_))));
        assert!(matches!(rig.outside(&packet), Fate::Dropped(DropReason::Malformed(_))));
    }
    assert!(rig.sent.is_empty());
}

#[test]
fn dscp_ecn_options_and_payload_pass_untouched() {
    let mut rig = Rig::new();
    let mut packet = craft::udp(at(A, 1000), at(S1, 53), b"REGISTER sip:10.0.0.2 Via: 10.0.0.2:5060");
    packet[1] = 0xb9;
    // Eight bytes of options: no operation, and a time stamp that nobody has filled.
    packet[0] = 0x47;
    packet.splice(20..20, [1, 1, 1, 1, 1, 1, 1, 0]);
    let length = (packet.len() as u16).to_be_bytes();
    packet[2..4].copy_from_slice(&length);
    fix_header(&mut packet);
    assert_eq!(rig.from(MAC_A, &packet), Fate::Pass(OUTSIDE));
    let sent = rig.sent_outside().remove(0);
    assert_eq!((sent[1], &sent[20..28], &sent[36..]), (packet[1], &packet[20..28], &packet[36..]));
    assert!(sums_are_right(&sent));
}

/// No payload is read, so none can make a hole: NAT slipstreaming finds no helper to talk to.
#[test]
fn no_payload_opens_a_port() {
    let mut rig = Rig::new();
    rig.from(
        MAC_A,
        &craft::udp(
            at(A, 5060),
            at(S1, 5060),
            b"REGISTER sip:a SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.2:5060\r\n",
        ),
    );
    let mapped = source_port(&rig.sent_outside()[0]);
    for port in [5060, 5061, 10_000, 40_000] {
        if port != mapped {
            rig.outside(&craft::udp(at(S2, 5060), at(X, port), b"INVITE"));
        }
    }
    assert!(rig.sent_inside().is_empty());
}

#[test]
fn time_to_live_of_two_is_forwarded_as_one() {
    let mut rig = Rig::new();
    rig.from(MAC_A, &with_ttl(craft::udp(at(A, 1000), at(S1, 53), b"q"), 2));
    assert_eq!(rig.sent_outside()[0][8], 1);
}

#[test]
fn an_error_with_a_quoted_header_full_of_options_finds_its_flow() {
    let mut rig = Rig::new();
    rig.from(MAC_A, &craft::udp(at(A, 1000), at(S1, 53), b"q"));
    let mut quoted = rig.sent_outside().remove(0);
    quoted[0] = 0x48;
    quoted.splice(20..20, [1; 12]);
    let length = (quoted.len() as u16).to_be_bytes();
    quoted[2..4].copy_from_slice(&length);
    fix_header(&mut quoted);
    let mut error = craft::icmp_error(IcmpError::PortUnreachable, R9, X, &quoted);
    fix_icmp(&mut error);
    rig.outside(&error);
    let (_, delivered) = rig.sent_inside().remove(0);
    assert_eq!((source(&delivered), destination(&delivered)), (R9, A));
    assert_eq!(word(&delivered, 28 + 32), 1000, "the quoted port is the one A used");
    assert_eq!(delivered[28 + 12..28 + 16], A.octets());
}

/// Row 65: the route in the quote would show who is inside.
#[test]
fn an_error_about_a_source_routed_packet_does_not_pass_either_way() {
    let route = |kind| [kind, 7, 4, 10, 0, 0, 9, 0];
    for (kind, passes) in [(0x83, false), (0x89, false), (0x07, true)] {
        let mut rig = Rig::new();
        rig.from(MAC_A, &craft::udp(at(A, 1000), at(S1, 53), b"q"));
        let out = rig.sent_outside().remove(0);
        let about = craft::with_ip_options(&out, &route(kind)).unwrap();
        let fate = rig.outside(&craft::icmp_error(IcmpError::PortUnreachable, R9, X, &about));
        let dropped = Fate::Dropped(DropReason::SourceRoute);
        assert_eq!(fate, if passes { Fate::Pass(INSIDE) } else { dropped }, "{kind:#x}");
        let answer = craft::udp(at(S1, 53), at(A, 1000), b"r");
        let about = craft::with_ip_options(&answer, &route(kind)).unwrap();
        let fate = rig.from(MAC_A, &craft::icmp_error(IcmpError::PortUnreachable, A, S1, &about));
        assert_eq!(fate, if passes { Fate::Pass(OUTSIDE) } else { dropped }, "{kind:#x}");
    }
}

/// Rows 124 and 166: no link has an MTU below 68, and 0 is said by who does not know.
#[test]
fn an_error_that_tells_of_an_mtu_no_link_has_is_dropped_and_one_of_zero_passes_as_it_is() {
    let mut rig = Rig::new();
    rig.from(MAC_A, &craft::tcp(at(A, 1000), at(S1, 80), TcpFlags::SYN, 1, b""));
    let about = rig.sent_outside().remove(0);
    for (mtu, passes) in [(0, true), (1, false), (67, false), (68, true), (1400, true), (u16::MAX, true)] {
        let fate = rig.outside(&craft::icmp_error(IcmpError::TooBig { mtu }, R9, X, &about));
        let dropped = Fate::Dropped(DropReason::BadMtu);
        assert_eq!(fate, if passes { Fate::Pass(INSIDE) } else { dropped }, "{mtu}");
        let told: Vec<_> = rig.sent_inside().iter().map(|(_, packet)| word(packet, 26)).collect();
        assert_eq!(told, if passes { vec![mtu] } else { vec![] });
    }
}
