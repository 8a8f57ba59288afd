//! Reading packets: what is in each kind, what is refused, and that no bytes whatever do harm.

#![allow(clippy::unwrap_used)]

mod wire_support;

use proptest::prelude::*;
use tapnat::flow::{Edit, Endpoint, Protocol, QuotedEdit, Summary, TcpFlags};
use tapnat::wire::craft::{self, IcmpError};
use tapnat::wire::fragment::fragments;
use tapnat::wire::{
    Buffer, Fragment, Fragments, Offload, Packet, ParseError, PartialChecksum, Segment, SegmentKind,
    Segments, checksum, display,
};
use wire_support::*;

const PLAIN: Offload = Offload { checksum: None, segment: None, verified: false };

fn parse(bytes: &[u8]) -> Result<Packet, ParseError> {
    Packet::parse(bytes, &PLAIN)
}

fn sample(name: &str) -> Vec<u8> {
    samples().into_iter().find(|(found, _)| *found == name).unwrap().1
}

fn flow(packet: &Packet) -> String {
    packet.summary.flow().to_string()
}

#[test]
fn samples_are_right_by_an_independent_judge() {
    for (name, packet) in samples() {
        println!("{name}: {}", display::Line(&packet));
        assert_right(&packet);
        parse(&packet).unwrap();
    }
}

#[test]
fn every_truncation_of_every_packet_is_an_error_and_none_panics() {
    for (name, packet) in samples() {
        for length in 0..packet.len() {
            assert!(parse(&packet[..length]).is_err(), "{name} cut to {length} bytes");
            look(&packet[..length], &PLAIN);
        }
    }
}

/// Truncation with a total length that admits it: the transport's own checks must hold.
#[test]
fn every_consistent_truncation_is_read_or_refused_and_none_panics() {
    for (name, packet) in samples() {
        for length in header(&packet)..packet.len() {
            let mut short = packet[..length].to_vec();
            put(&mut short, 2, length as u16);
            fix_ip(&mut short);
            let needs = match short[9] {
                6 => 20,
                1 | 17 => 8,
                _ => 0,
            };
            let later = get(&short, 6) & 0x1fff != 0;
            if !later && length - header(&short) < needs {
                assert!(parse(&short).is_err(), "{name} of {length} bytes");
            }
            look(&short, &PLAIN);
        }
    }
}

#[test]
fn padding_behind_the_packet_is_ignored() {
    for (name, packet) in samples() {
        let padded = [&packet[..], &[0xee; 46]].concat();
        assert_eq!(parse(&padded), parse(&packet), "{name}");
        let mut buffer = Buffer::from_bytes(&padded);
        Packet::read(&mut buffer, 0).unwrap();
        assert_eq!(buffer.bytes(), packet, "{name}");
    }
}

#[test]
fn ports_flags_and_identifiers_are_where_the_flow_module_says() {
    let syn = parse(&sample("syn")).unwrap();
    assert_eq!(flow(&syn), "tcp 10.0.0.2:1000 > 198.51.100.7:80");
    let Summary::Data(data) = syn.summary else { panic!() };
    assert!(data.tcp.opens() && data.asks);
    assert_eq!(syn.mss, Some((1460, 42)));
    assert_eq!((syn.header, syn.payload, syn.length, syn.ttl), (20, 52, 52, 64));
    assert_eq!(parse(&sample("syn with an odd option")).unwrap().mss, Some((1460, 43)));

    let request = parse(&sample("echo request")).unwrap();
    assert_eq!(flow(&request), "icmp 10.0.0.2:500 > 198.51.100.7:0");
    assert_eq!(request.icmp, Some((8, 0)));
    let reply = parse(&sample("echo reply")).unwrap();
    assert_eq!(flow(&reply), "icmp 198.51.100.7:0 > 10.0.0.2:500");
    assert!(matches!(reply.summary, Summary::Data(data) if !data.asks));
    assert_eq!(flow(&parse(&sample("timestamp")).unwrap()), "icmp 10.0.0.2:9 > 198.51.100.7:0");
    assert_eq!(flow(&parse(&sample("gre")).unwrap()), "proto-47 10.0.0.2:0 > 198.51.100.7:0");
    assert_eq!(parse(&sample("udp with IP options")).unwrap().header, 28);
}

#[test]
fn errors_show_the_flow_they_quote() {
    for (name, about) in [
        ("unreachable, udp in full", "udp 10.0.0.2:1000 > 198.51.100.7:80"),
        ("too big, tcp in full", "tcp 10.0.0.2:1000 > 198.51.100.7:80"),
        ("ttl exceeded, 8 bytes of tcp", "tcp 10.0.0.2:1000 > 198.51.100.7:80"),
        ("ttl exceeded, 8 bytes of udp with options", "udp 10.0.0.2:1000 > 198.51.100.7:80"),
        ("parameter problem, echo", "icmp 10.0.0.2:500 > 198.51.100.7:0"),
        ("ttl exceeded about a later fragment", "udp 10.0.0.2:0 > 198.51.100.7:0"),
    ] {
        let packet = parse(&sample(name)).unwrap();
        let Summary::Error(error) = packet.summary else { panic!("{name}") };
        assert_eq!(error.about.to_string(), about, "{name}");
        assert_eq!((error.from, error.to), (R9.into(), X.into()), "{name}");
        assert!(!packet.quotes_error, "{name}");
    }
    let reply = error_with((3, 1), [0; 4], &sample("echo reply"), &[]);
    assert_eq!(flow(&parse(&reply).unwrap()), "icmp 198.51.100.7:0 > 10.0.0.2:500");
}

#[test]
fn an_error_about_an_error_is_recognised() {
    let inner = sample("unreachable, udp in full");
    let packet = parse(&error_with((11, 0), [0; 4], &inner, &[])).unwrap();
    assert!(packet.quotes_error);
    assert_eq!(packet.summary.protocol(), Protocol::Icmp);
    assert!(!craft::may_be_reported(&packet));
}

#[test]
fn errors_with_a_wrong_checksum_outside_or_inside_are_refused_but_not_for_the_quoted_transport() {
    let good = sample("unreachable, udp in full");
    let mut bad = good.clone();
    bad[60] ^= 1;
    assert_eq!(parse(&bad), Err(ParseError::Checksum("ICMP error")));

    let mut bad = good.clone();
    bad[20 + 8 + 10] ^= 1;
    fix_icmp(&mut bad);
    assert_eq!(parse(&bad), Err(ParseError::Checksum("quoted IPv4 header")));

    let mut fine = good;
    fine[20 + 8 + 20 + 6] ^= 1;
    fix_icmp(&mut fine);
    assert!(parse(&fine).is_ok());
}

#[test]
fn redirects_and_quench_are_told_by_type_alone() {
    for icmp_type in [4, 5, 9, 10, 15, 17, 42] {
        let packet = parse(&error_with((icmp_type, 1), [0; 4], &sample("udp"), &[])).unwrap();
        assert_eq!(packet.icmp, Some((icmp_type, 1)));
        let Summary::Data(data) = packet.summary else { panic!("type {icmp_type}") };
        assert_eq!((data.asks, data.flow.source.port, data.flow.destination.port), (false, 0, 0));
    }
}

#[test]
fn lying_length_fields_are_refused() {
    let length = |what, says, have| Err(ParseError::Length { what, says, have });
    let udp = sample("udp");
    let mut bad = udp.clone();
    put(&mut bad, 24, 21);
    assert_eq!(parse(&bad), length("UDP length", 21, 20));
    put(&mut bad, 24, 7);
    assert_eq!(parse(&bad), length("UDP length", 7, 20));
    put(&mut bad, 24, 8);
    assert!(parse(&bad).is_ok(), "bytes behind a datagram are allowed");

    let tcp = sample("tcp data");
    let mut bad = tcp.clone();
    bad[32] = 4 << 4;
    assert_eq!(parse(&bad), length("TCP data offset", 16, 20));
    bad[32] = 15 << 4;
    assert_eq!(
        parse(&bad),
        Err(ParseError::Truncated { what: "TCP header", need: 60, have: tcp.len() - 20 })
    );

    let mut bad = udp.clone();
    put(&mut bad, 2, 19);
    fix_ip(&mut bad);
    assert_eq!(parse(&bad), length("IPv4 header", 19, 20));
    put(&mut bad, 2, 41);
    assert_eq!(parse(&bad), length("IPv4 total length", 41, 40));
}

#[test]
fn headers_that_are_no_ipv4_are_refused_by_name() {
    let mut udp = sample("udp");
    udp[0] = 0x65;
    assert!(matches!(parse(&udp), Err(ParseError::Length { what: "IPv6 payload length", .. })));
    udp[0] = 0x55;
    assert_eq!(parse(&udp), Err(ParseError::Version(5)));
    udp[0] = 0x44;
    assert_eq!(parse(&udp), Err(ParseError::HeaderLength(4)));
    udp[0] = 0x45;
    udp[8] ^= 1;
    assert_eq!(parse(&udp), Err(ParseError::Checksum("IPv4 header")));
    assert_eq!(parse(&[]), Err(ParseError::Truncated { what: "IPv4 header", need: 20, have: 0 }));
}

#[test]
fn source_routes_are_seen_and_other_options_are_not_taken_for_them() {
    for (options, routed) in [
        (vec![0x83, 7, 4, 192, 0, 2, 9, 0], true),
        (vec![1, 0x89, 7, 4, 192, 0, 2, 9], true),
        (RECORD_ROUTE.to_vec(), false),
        (vec![0, 0x83, 3, 4], false),
        (vec![0x94, 0x04, 0x83, 0x89], false),
    ] {
        let packet = craft::with_ip_options(&sample("udp"), &options).unwrap();
        assert_eq!(parse(&packet).unwrap().source_routed, routed, "{options:02x?}");
    }
}

#[test]
fn fragments_have_ports_in_the_first_only() {
    let first = parse(&sample("first fragment")).unwrap();
    assert_eq!(first.fragment, Some(Fragment { offset: 0, more: true, length: 1480 }));
    assert_eq!(flow(&first), "udp 10.0.0.2:1000 > 198.51.100.7:80");
    let middle = parse(&sample("middle fragment")).unwrap();
    assert_eq!(middle.fragment, Some(Fragment { offset: 1480, more: true, length: 1480 }));
    assert_eq!(flow(&middle), "udp 10.0.0.2:0 > 198.51.100.7:0");
    assert_eq!((middle.header, middle.payload, middle.identification), (20, 20, 77));
    let last = parse(&sample("last fragment")).unwrap();
    assert_eq!(last.fragment, Some(Fragment { offset: 2960, more: false, length: 48 }));
}

/// RFC 1858 and RFC 3128: ports or flags pushed out of the first fragment, or overwritten later;
/// and the ping of death.
#[test]
fn deceitful_fragments_are_refused() {
    let place = |mut packet: Vec<u8>, word: u16| {
        put(&mut packet, 6, word);
        fix_ip(&mut packet);
        parse(&packet)
    };
    let tcp = fragmentable(craft::tcp(A, S, TcpFlags::SYN, 1, &[0; 60]), 1);
    let tiny = {
        let mut tiny = tcp[..36].to_vec();
        put(&mut tiny, 2, 36);
        tiny
    };
    assert!(
        matches!(place(tiny.clone(), 0x2000), Err(ParseError::Fragment(_))),
        "16 of 20 bytes of TCP header"
    );
    assert!(matches!(place(tcp.clone(), 0x2001), Err(ParseError::Fragment(_))), "TCP at offset 8");
    assert!(place(tcp.clone(), 0x2000).is_ok());
    assert!(place(tcp.clone(), 0x2003).is_ok());
    assert!(matches!(place(tcp, 0x1fff), Err(ParseError::Fragment(_))), "ends beyond 65535");
    let odd = sample("udp");
    assert!(matches!(place(odd, 0x2000), Err(ParseError::Fragment(_))), "a multiple of 8 is not 20");
    let mut empty = sample("udp")[..20].to_vec();
    put(&mut empty, 2, 20);
    assert!(matches!(place(empty, 0x0005), Err(ParseError::Fragment(_))), "no payload");
    let error = place(sample("unreachable, udp in full"), 0x2000);
    assert!(matches!(error, Err(ParseError::Fragment(_))), "a fragmented ICMP error");
}

#[test]
fn an_offload_must_fit_its_packet() {
    let refused = |packet: &[u8], offload: Offload| {
        matches!(Packet::parse(packet, &offload), Err(ParseError::Offload(_)))
    };
    let partial = |start, offset| Offload { checksum: Some(PartialChecksum { start, offset }), ..PLAIN };
    let tcp = sample("tcp data");
    assert!(!refused(&tcp, partial(20, 16)));
    for (start, offset) in [(20, 6), (24, 16), (0, 16), (20, 65535), (65535, 65535), (20, 17)] {
        assert!(refused(&tcp, partial(start, offset)), "{start} {offset}");
    }
    assert!(!refused(&sample("udp with IP options"), partial(28, 6)));
    assert!(refused(&sample("udp with IP options"), partial(20, 6)));
    for name in ["echo request", "gre", "unreachable, udp in full", "first fragment", "last fragment"] {
        assert!(refused(&sample(name), partial(20, 6)), "{name}");
    }

    let cut = |kind, size| Offload {
        segment: Some(Segment { kind, size, header: 0, ecn: false }),
        ..partial(20, 16)
    };
    assert!(!refused(&tcp, cut(SegmentKind::Tcp4, 5)));
    assert!(refused(&tcp, cut(SegmentKind::Tcp4, 0)));
    assert!(refused(&tcp, cut(SegmentKind::Tcp6, 5)));
    assert!(refused(&tcp, cut(SegmentKind::Udp, 5)));
    assert!(refused(&tcp, Offload { checksum: None, ..cut(SegmentKind::Tcp4, 5) }));
    assert!(!refused(&tcp, Offload { checksum: None, verified: true, ..cut(SegmentKind::Tcp4, 5) }));
    assert!(
        refused(&craft::tcp(A, S, TcpFlags::ACK, 1, &[0; 2000]), cut(SegmentKind::Tcp4, 1)),
        "2000 segments"
    );
}

#[test]
fn reading_sets_the_header_length_and_makes_a_verified_super_frame_partial() {
    let mut buffer = super_frame(SegmentKind::Tcp4, &[3; 5000], 1448);
    let partial = buffer.clone();
    Packet::read(&mut buffer, 0).unwrap();
    assert_eq!(buffer.offload.segment.unwrap().header, 40);
    assert_eq!(buffer.offload.wire_length(buffer.len()), 1488);

    buffer.offload.checksum = None;
    buffer.offload.verified = true;
    put(buffer.bytes_mut(), 36, 0x1234);
    Packet::read(&mut buffer, 0).unwrap();
    assert_eq!(buffer.offload.checksum, Some(PartialChecksum { start: 20, offset: 16 }));
    assert_eq!(buffer.bytes(), partial.bytes());
}

/// Hands bytes to everything that takes bytes.
fn look(bytes: &[u8], offload: &Offload) {
    let _ = display::Line(bytes).to_string();
    for at in 0..bytes.len().min(120) {
        let _ = display::field_at(bytes, at);
    }
    let _ = display::diff(bytes, &bytes[bytes.len() / 2..]);
    let _ = checksum::transport_is_right(bytes);
    let _ = craft::icmp_error(IcmpError::TtlExceeded, R9, X, bytes);
    let _ = craft::echo_reply(bytes);
    let _ = craft::tcp_reset(bytes);
    let _ = craft::with_ip_options(bytes, &RECORD_ROUTE);
    let _ = fragments(bytes, 68);
    let mut buffer = Buffer::from_bytes(bytes);
    buffer.offload = *offload;
    let mut out = Buffer::new();
    if let Ok(mut cut) = Segments::new(&buffer, 0) {
        while cut.write_next(&mut out) {
            assert!(out.len() <= bytes.len());
        }
    }
    if let Ok(mut cut) = Fragments::new(&buffer, 0, 100) {
        while cut.write_next(&mut out) {
            assert!(out.len() <= 100);
        }
    }
    checksum::mark_looped(&mut buffer.clone(), 0);
    checksum::complete(&mut buffer.clone(), 0);
    if let Ok(packet) = Packet::read(&mut buffer, 0) {
        let _ = craft::may_be_reported(&packet);
        let end = Some(Endpoint::new(X, 61000));
        let quoted = Some(QuotedEdit { source: end, destination: end });
        let edit = Edit {
            source: end,
            destination: end,
            quoted,
            spend_hop: true,
            clamp_mss: Some(500),
            identification: Some(1),
        };
        packet.apply(&edit, &mut buffer, 0);
    }
}

fn any_offload() -> impl Strategy<Value = Offload> {
    let checksum = proptest::option::of((
        prop_oneof![Just(20), any::<u16>()],
        prop_oneof![Just(16), Just(6), any::<u16>()],
    ));
    let kind = prop_oneof![Just(SegmentKind::Tcp4), Just(SegmentKind::Tcp6), Just(SegmentKind::Udp)];
    let segment = proptest::option::of((kind, prop_oneof![0..200u16, any::<u16>()], any::<u16>()));
    (checksum, segment, any::<bool>()).prop_map(|(checksum, segment, verified)| Offload {
        checksum: checksum.map(|(start, offset)| PartialChecksum { start, offset }),
        segment: segment.map(|(kind, size, header)| Segment { kind, size, header, ecn: false }),
        verified,
    })
}

proptest! {
    #[test]
    fn random_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200), offload in any_offload()) {
        look(&bytes, &offload);
    }

    /// Bytes changed at random in good packets, with the checksums mended so that readers go deep.
    #[test]
    fn mutated_packets_do_no_harm(
        which in 0..19usize,
        changes in proptest::collection::vec((0..80usize, any::<u8>()), 0..6),
        offload in any_offload(),
        plain in any::<bool>(),
    ) {
        let mut packet = samples().swap_remove(which).1;
        for (at, value) in changes {
            let length = packet.len();
            packet[at % length] = value;
        }
        if header(&packet) >= 20 && header(&packet) <= packet.len() {
            if packet[9] == 1 && header(&packet) + 8 <= packet.len() {
                fix_icmp(&mut packet);
            }
            fix_ip(&mut packet);
        }
        look(&packet, if plain { &PLAIN } else { &offload });
    }
}
