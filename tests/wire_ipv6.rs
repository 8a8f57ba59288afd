//! Packets of IPv6: what is in each kind, what is refused, what an edit changes, how a super-frame
//! is cut, what the gateway says in its own name.

#![allow(clippy::unwrap_used)]

mod wire_support;

use proptest::prelude::*;
use std::net::{Ipv6Addr, SocketAddrV6};
use tapnat::flow::{Edit, Endpoint, Protocol, QuotedEdit, Summary, TcpFlags};
use tapnat::wire::craft::{self, IcmpError};
use tapnat::wire::fragment::fragments;
use tapnat::wire::icmp::Kind;
use tapnat::wire::{Buffer, Fragment, Offload, Packet, ParseError, SegmentKind, Segments, checksum, display};
use wire_support::ipv6::*;
use wire_support::{get, put};

fn parse(bytes: &[u8]) -> Result<Packet, ParseError> {
    Packet::parse(bytes, &Offload::default())
}

fn sample(name: &str) -> Vec<u8> {
    samples().into_iter().find(|(found, _)| *found == name).unwrap().1
}

fn edited(packet: &[u8], edit: &Edit) -> Vec<u8> {
    let mut buffer = Buffer::from_bytes(packet);
    Packet::read(&mut buffer, 0).unwrap().apply(edit, &mut buffer, 0);
    buffer.bytes().to_vec()
}

fn end(ip: Ipv6Addr, port: u16) -> Option<Endpoint> {
    Some(Endpoint::new(ip, port))
}

/// Everything that reads, shows and changes, with any bytes.
fn look(bytes: &[u8], offload: &Offload) {
    let _ = display::Line(bytes).to_string();
    display::diff(bytes, &bytes.iter().map(|byte| !byte).collect::<Vec<u8>>());
    let _ = (craft::echo_reply(bytes), craft::tcp_reset(bytes), checksum::transport_is_right(bytes));
    craft::icmp_error(IcmpError::TtlExceeded, R9, X, bytes);
    let mut buffer = Buffer::from_bytes(bytes);
    buffer.offload = *offload;
    if let Ok(mut cut) = Segments::new(&buffer, 0) {
        let mut out = Buffer::new();
        while cut.write_next(&mut out) {}
    }
    let _ = fragments(bytes, 1280);
    checksum::mark_looped(&mut buffer.clone(), 0);
    checksum::make_partial(&mut buffer.clone(), 0);
    checksum::complete(&mut buffer.clone(), 0);
    if let Ok(packet) = Packet::read(&mut buffer, 0)
        && packet.is_ipv6()
    {
        let _ = (craft::may_be_reported(&packet), packet.next_hop_mtu(bytes), packet.icmp_kind());
        let all = end(X, 61000);
        let edit = Edit {
            source: all,
            destination: all,
            quoted: Some(QuotedEdit { source: all, destination: all }),
            spend_hop: true,
            clamp_mss: Some(500),
            identification: Some(1),
        };
        packet.apply(&edit, &mut buffer, 0);
    }
}

#[test]
fn every_sample_is_right_and_every_truncation_of_it_an_error() {
    for (name, packet) in samples() {
        assert_right(&packet);
        parse(&packet).unwrap_or_else(|error| panic!("{name}: {error}"));
        for length in 0..packet.len() {
            assert!(parse(&packet[..length]).is_err(), "{name} cut to {length} bytes");
            look(&packet[..length], &Offload::default());
        }
        assert_eq!(parse(&[&packet[..], &[0xee; 46]].concat()), parse(&packet), "{name}: padding");
    }
}

/// Truncation with a payload length that admits it: extension headers and transport must notice.
#[test]
fn every_consistent_truncation_is_read_or_refused_and_none_panics() {
    for (name, packet) in samples() {
        for length in 40..packet.len() {
            let mut short = packet[..length].to_vec();
            put(&mut short, 4, (length - 40) as u16);
            let first_fragment = name == "first fragment";
            let (at, protocol) = if first_fragment { (48, 17) } else { transport(&packet) };
            let needs = at
                + match protocol {
                    6 => 20,
                    17 | 58 => 8,
                    _ => 0,
                };
            let later = name == "middle fragment" || name == "last fragment";
            if length < needs && !later {
                assert!(parse(&short).is_err(), "{name} of {length} bytes");
            }
            look(&short, &Offload::default());
        }
    }
}

#[test]
fn ports_flags_and_identifiers_are_where_those_of_ipv4_are() {
    let flow = |name| parse(&sample(name)).unwrap().summary.flow().to_string();
    let syn = parse(&sample("syn")).unwrap();
    let Summary::Data(data) = syn.summary else { panic!() };
    assert!(data.tcp.opens() && data.asks && syn.dont_fragment && syn.is_ipv6());
    assert_eq!((syn.mss, syn.header, syn.payload, syn.length, syn.ttl), (Some((1440, 62)), 40, 64, 72, 64));
    assert_eq!(flow("syn"), "tcp [fd00:0:0:1::2]:1000 > [2001:db8:0:100::7]:80");
    assert_eq!(flow("udp behind two headers"), "udp [fd00:0:0:1::2]:1000 > [2001:db8:0:100::7]:80");
    assert_eq!(parse(&sample("udp behind two headers")).unwrap().header, 64);
    assert_eq!(flow("echo request"), "icmp [fd00:0:0:1::2]:500 > [2001:db8:0:100::7]:0");
    assert_eq!(flow("echo reply"), "icmp [2001:db8:0:100::7]:0 > [fd00:0:0:1::2]:500");
    assert_eq!(flow("esp"), "proto-50 [fd00:0:0:1::2]:0 > [2001:db8:0:100::7]:0");
    assert_eq!(flow("no next header"), "proto-59 [fd00:0:0:1::2]:0 > [2001:db8:0:100::7]:0");
    let kind = |name| parse(&sample(name)).unwrap().icmp_kind();
    assert_eq!(kind("echo request"), Some(Kind::Asks));
    assert_eq!(kind("neighbor solicitation"), Some(Kind::Other));
    assert_eq!(kind("udp"), None);

    let mut classed = sample("udp");
    classed[0] = 0x6b;
    classed[1] = 0x81;
    assert_eq!(parse(&classed).unwrap().tos, 0xb8);
    let mut icmp_of_ipv4 = sample("udp");
    icmp_of_ipv4[6] = 1;
    assert_eq!(parse(&icmp_of_ipv4).unwrap().summary.protocol(), Protocol::Other(1));
}

#[test]
fn errors_show_the_flow_they_quote() {
    let about = "[fd00:0:0:1::2]:1000 > [2001:db8:0:100::7]:80";
    for (name, expected) in [
        ("unreachable, udp in full", format!("udp {about}")),
        ("too big, tcp in full", format!("tcp {about}")),
        ("ttl exceeded, 8 bytes of tcp", format!("tcp {about}")),
        ("ttl exceeded, 8 bytes behind headers", format!("udp {about}")),
        ("parameter problem, echo", "icmp [fd00:0:0:1::2]:500 > [2001:db8:0:100::7]:0".into()),
        ("ttl exceeded about a later fragment", "udp [fd00:0:0:1::2]:0 > [2001:db8:0:100::7]:0".into()),
    ] {
        let bytes = sample(name);
        let packet = parse(&bytes).unwrap();
        let Summary::Error(error) = packet.summary else { panic!("{name}") };
        assert_eq!(error.about.to_string(), expected, "{name}");
        assert_eq!((error.from, error.to), (R9.into(), X.into()), "{name}");
        assert_eq!(error.sequence, name.contains("tcp").then_some(7), "{name}");
        assert!(!packet.quotes_error, "{name}");
        assert_eq!(packet.next_hop_mtu(&bytes), name.starts_with("too big").then_some(1400), "{name}");
    }
}

#[test]
fn an_error_about_an_error_or_a_message_of_the_link_is_recognised() {
    for inner in ["unreachable, udp in full", "too big, tcp in full", "neighbor solicitation"] {
        let packet = parse(&error_with((3, 0), [0; 4], &sample(inner), &[])).unwrap();
        assert!(packet.quotes_error, "{inner}");
        assert!(!craft::may_be_reported(&packet));
    }
}

#[test]
fn an_error_with_a_wrong_checksum_or_too_short_a_quote_is_refused() {
    let mut bad = sample("unreachable, udp in full");
    bad[90] ^= 1;
    assert_eq!(parse(&bad), Err(ParseError::Checksum("ICMP error")));
    // Right but for the pseudo header.
    let mut moved = sample("unreachable, udp in full");
    moved[39] ^= 1;
    assert_eq!(parse(&moved), Err(ParseError::Checksum("ICMP error")));

    let (tcp, chained) = (sample("tcp data"), sample("udp behind two headers"));
    let quoting = |quote: &[u8]| parse(&error_with((1, 4), [0; 4], quote, &[]));
    let short = |what, need, have| Err(ParseError::Truncated { what, need, have });
    assert_eq!(quoting(&tcp[..47]), short("quoted TCP header", 8, 7));
    assert_eq!(quoting(&tcp[..39]), short("quoted IPv6 header", 40, 39));
    assert_eq!(quoting(&chained[..60]), short("quoted IPv6 extension header", 16, 12));
    let of_ipv4 = craft::udp(wire_support::A, wire_support::S, &[0; 40]);
    assert_eq!(quoting(&of_ipv4), Err(ParseError::Version(4)));
}

#[test]
fn extension_headers_are_walked_in_any_order_but_hop_by_hop_comes_first() {
    let udp = sample("udp");
    let two = |first, second| parse(&extended(&extended(&udp, first, &OPTIONS), second, &OPTIONS));
    for (first, second) in [(HOP_BY_HOP, DESTINATION), (DESTINATION, DESTINATION), (HOP_BY_HOP, ROUTING)] {
        assert_eq!(two(first, second).unwrap().header, 56);
    }
    assert_eq!(two(DESTINATION, HOP_BY_HOP), Err(ParseError::Extension("hop-by-hop options are not first")));
    assert_eq!(two(HOP_BY_HOP, HOP_BY_HOP), Err(ParseError::Extension("hop-by-hop options are not first")));
    let atomic = sample("atomic fragment");
    let again = extended(&atomic, FRAGMENT, &[0; 6]);
    assert_eq!(parse(&again), Err(ParseError::Extension("two fragment headers")));

    let mut many = udp.clone();
    for _ in 0..8 {
        many = extended(&many, DESTINATION, &OPTIONS);
    }
    assert_eq!(parse(&many).unwrap().header, 40 + 64);
    many = extended(&many, DESTINATION, &OPTIONS);
    assert_eq!(parse(&many), Err(ParseError::Extension("more than anybody needs")));
}

#[test]
fn lying_lengths_and_jumbograms_are_refused() {
    let length = |what, says, have| Err(ParseError::Length { what, says, have });
    let mut bad = sample("udp");
    put(&mut bad, 4, 21);
    assert_eq!(parse(&bad), length("IPv6 payload length", 21, 20));
    let mut bad = sample("udp");
    put(&mut bad, 44, 21);
    assert_eq!(parse(&bad), length("UDP length", 21, 20));
    put(&mut bad, 44, 7);
    assert_eq!(parse(&bad), length("UDP length", 7, 20));
    let mut bad = sample("udp behind two headers");
    bad[41] = 5;
    let what = "IPv6 extension header";
    assert_eq!(parse(&bad), Err(ParseError::Truncated { what, need: 48, have: 44 }));
    let mut jumbo = extended(&sample("udp"), HOP_BY_HOP, &[0xc2, 4, 0, 1, 0, 0]);
    put(&mut jumbo, 4, 0);
    assert_eq!(parse(&jumbo), Err(ParseError::Extension("a jumbogram")));
}

#[test]
fn a_routing_header_of_type_0_or_with_segments_left_is_source_routing() {
    let routed = |kind, left| {
        parse(&extended(&sample("tcp data"), ROUTING, &[kind, left, 0, 0, 0, 0])).unwrap().source_routed
    };
    assert!(routed(0, 0) && routed(0, 1) && routed(4, 1));
    assert!(!routed(4, 0) && !parse(&sample("udp behind two headers")).unwrap().source_routed);
}

#[test]
fn fragments_have_a_place_and_impossible_ones_are_refused() {
    let place = |name| parse(&sample(name)).unwrap().fragment;
    assert_eq!(place("first fragment"), Some(Fragment { offset: 0, more: true, length: 1440 }));
    assert_eq!(place("middle fragment"), Some(Fragment { offset: 1440, more: true, length: 1440 }));
    assert_eq!(place("last fragment"), Some(Fragment { offset: 2880, more: false, length: 128 }));
    let middle = parse(&sample("middle fragment")).unwrap();
    assert_eq!((middle.header, middle.payload, middle.identification), (48, 48, 0x1234_5678));
    assert_eq!(middle.summary.flow().source.port, 0);
    assert_eq!(parse(&sample("first fragment")).unwrap().summary.flow().source.port, 1000);
    let atomic = parse(&sample("atomic fragment")).unwrap();
    assert_eq!((atomic.fragment, atomic.identification), (None, 0x0102_0304));

    // Extension headers behind the fragment header are part of what is fragmented.
    let chained = extended(&craft::udp(A, S, &[1; 64]), DESTINATION, &OPTIONS);
    let first = parse(&fragment(&chained, 0, 32, 1)).unwrap();
    assert_eq!((first.header, first.fragment.unwrap().length), (56, 32));
    assert_eq!(first.summary.flow().source.port, 1000);
    let later = parse(&fragment(&chained, 32, 80, 1)).unwrap();
    assert_eq!(later.summary.protocol(), Protocol::Other(60));

    let refused = |packet: &[u8]| match parse(packet) {
        Err(ParseError::Fragment(why)) => why,
        other => panic!("{other:?}"),
    };
    let tcp = craft::tcp(A, S, TcpFlags::ACK, 1, &[0; 64]);
    assert_eq!(
        refused(&fragment(&chained, 0, 28, 1)),
        "payload of all but the last is a multiple of 8 bytes"
    );
    assert_eq!(
        refused(&fragment(&extended(&tcp, DESTINATION, &LONG_OPTIONS), 0, 8, 1)),
        "the first fragment does not hold all headers"
    );
    assert_eq!(refused(&fragment(&tcp, 0, 16, 1)), "the first fragment does not hold the whole TCP header");
    assert_eq!(refused(&fragment(&tcp, 8, 24, 1)), "begins inside the TCP header");
    assert_eq!(refused(&fragment(&tcp, 16, 16, 1)), "without payload");
    let mut beyond = fragment(&tcp, 16, 32, 1);
    put(&mut beyond, 42, 0xfff9);
    assert_eq!(refused(&beyond), "ends beyond the largest datagram");
}

#[test]
fn every_sample_stays_right_through_every_edit() {
    for (name, packet) in samples() {
        let before = parse(&packet).unwrap();
        for edit in [
            Edit::default(),
            Edit { source: end(X, 61001), spend_hop: true, ..Edit::default() },
            Edit { destination: end(X, 0), identification: Some(0xffff_0001), ..Edit::default() },
            Edit { clamp_mss: Some(1220), ..Edit::default() },
            Edit {
                destination: end(*A.ip(), 1000),
                quoted: Some(QuotedEdit { source: end(X, 61001), destination: end(R9, 7) }),
                spend_hop: true,
                ..Edit::default()
            },
        ] {
            let after = edited(&packet, &edit);
            assert_right(&after);
            let read = parse(&after).unwrap();
            assert_eq!(read.ttl, before.ttl - u8::from(edit.spend_hop), "{name}");
            if edit == Edit::default() {
                assert_eq!(after, packet, "{name}");
            }
            let kept = before.fragment.is_none() || edit.identification.is_none();
            let expected = if kept { before.identification } else { 0xffff_0001 };
            assert_eq!(read.identification, expected, "{name}");
        }
    }
}

#[test]
fn an_edit_writes_what_it_says_and_nothing_else() {
    let edit = Edit { source: end(X, 61001), spend_hop: true, identification: Some(7), ..Edit::default() };
    let mut expected = craft::udp(SocketAddrV6::new(X, 61001, 0, 0), S, b"payload");
    expected[7] -= 1;
    assert_eq!(edited(&craft::udp(A, S, b"payload"), &edit), expected);

    let before = sample("middle fragment");
    let mut expected = before.clone();
    expected[7] -= 1;
    expected[8..24].copy_from_slice(&X.octets());
    expected[44..48].copy_from_slice(&[0, 0, 0, 7]);
    assert_eq!(edited(&before, &edit), expected);
}

#[test]
fn a_udp_checksum_of_zero_stays_zero() {
    let after = edited(&sample("udp without checksum"), &Edit { source: end(X, 5), ..Edit::default() });
    assert_eq!(get(&after, 46), 0);
    assert_eq!(checksum::transport_is_right(&after), None);
}

/// The example of RFC 6296: fd01:203:405::/48 and 2001:db8:1::/48.
#[test]
fn a_checksum_neutral_prefix_leaves_every_checksum_bit_by_bit() {
    let inside: Ipv6Addr = "fd01:203:405:1::1234".parse().unwrap();
    let outside: Ipv6Addr = "2001:db8:1:d550::1234".parse().unwrap();
    let from = SocketAddrV6::new(inside, 1000, 0, 0);
    for (packet, field) in [
        (craft::tcp(from, S, TcpFlags::ACK, 1, b"data"), 56),
        (craft::udp(from, S, b"data"), 46),
        (craft::echo(inside, *S.ip(), true, 1000, 1, b"data"), 42),
    ] {
        for wrong in [None, Some(0), Some(0xffff), Some(1)] {
            let mut before = packet.clone();
            if let Some(wrong) = wrong {
                put(&mut before, field, wrong);
            }
            let after = edited(&before, &Edit { source: end(outside, 1000), ..Edit::default() });
            assert_eq!(after[8..24], outside.octets());
            assert_eq!(after[24..], before[24..], "{wrong:?} at {field}");
        }
    }
    let error = craft::icmp_error(
        IcmpError::TtlExceeded,
        R9,
        outside,
        &craft::udp(SocketAddrV6::new(outside, 1000, 0, 0), S, b"data"),
    );
    let edit = Edit {
        destination: end(inside, 0),
        quoted: Some(QuotedEdit { source: end(inside, 1000), destination: None }),
        ..Edit::default()
    };
    let after = edited(&error, &edit);
    assert_right(&after);
    assert_eq!((get(&after, 42), get(&after, 48 + 46)), (get(&error, 42), get(&error, 48 + 46)));
}

#[test]
fn extensions_behind_a_quote_are_not_touched() {
    let mut quote = craft::udp(A, S, b"short");
    let long = quote.len();
    quote.resize(128, 0);
    let extension = [0x20, 0, 0xdb, 0x3a, 0, 8, 1, 1, 0, 0x3e, 0x81, 1];
    let before = error_with((3, 0), [16, 0, 0, 0], &quote, &extension);
    let edit = Edit {
        destination: end(*A.ip(), 0),
        quoted: Some(QuotedEdit { source: end(X, 61001), destination: None }),
        ..Edit::default()
    };
    let after = edited(&before, &edit);
    assert_right(&after);
    assert_right(&after[48..48 + long]);
    assert_eq!(after[48 + long..], before[48 + long..]);
}

#[test]
fn a_partial_checksum_learns_addresses_and_a_looped_one_is_recognised() {
    for (bytes, field) in
        [(syn(1440), 16), (craft::udp(A, S, b"data"), 6), (sample("udp behind two headers"), 6)]
    {
        let mut buffer = Buffer::from_bytes(&bytes);
        assert!(!checksum::mark_looped(&mut buffer, 0), "it is whole");
        make_partial(&mut buffer, field);
        let marked = buffer.offload.checksum;
        buffer.offload = Offload::default();
        assert!(checksum::mark_looped(&mut buffer, 0));
        assert_eq!(buffer.offload.checksum, marked);
        let edit = Edit { source: end(X, 61001), clamp_mss: Some(1000), ..Edit::default() };
        Packet::read(&mut buffer, 0).unwrap().apply(&edit, &mut buffer, 0);
        checksum::complete(&mut buffer, 0);
        assert_eq!(buffer.offload.checksum, None);
        assert_eq!(buffer.bytes(), edited(&bytes, &edit));
        assert_right(buffer.bytes());
        assert_eq!(checksum::transport_is_right(buffer.bytes()), Some(true));
    }
}

#[test]
fn super_frames_become_packets_with_lengths_and_checksums_of_their_own() {
    let payload: Vec<u8> = (0..65000usize).map(|at| (at * 31 + at / 251) as u8).collect();
    for (kind, header, size) in [(SegmentKind::Tcp6, 60, 1428), (SegmentKind::Udp, 48, 1232)] {
        let mut buffer = super_frame(kind, &payload, size);
        buffer.push_front(&[0xaa; 14]);
        let mut cut = Segments::new(&buffer, 14).unwrap();
        let (count, mut out, mut joined) = (cut.count(), Buffer::new(), Vec::<u8>::new());
        for index in 0..count {
            assert!(cut.write_next(&mut out));
            let ip = &out.bytes()[14..];
            assert_right(ip);
            assert_eq!(usize::from(get(ip, 4)), ip.len() - 40);
            if kind == SegmentKind::Tcp6 {
                let sequence = u32::from_be_bytes(ip[44..48].try_into().unwrap());
                assert_eq!(sequence, 0xffff_fff0u32.wrapping_add(joined.len() as u32));
                let cwr = if index == 0 { 0x80 } else { 0 };
                assert_eq!(ip[53], 0x10 | cwr | if index + 1 == count { 9 } else { 0 });
            } else {
                assert_eq!(usize::from(get(ip, 44)), ip.len() - 40);
            }
            joined.extend(&ip[header..]);
        }
        assert!(!cut.write_next(&mut out) && joined == payload);
    }
    let wrong = super_frame(SegmentKind::Tcp4, &payload[..3000], 1000);
    assert!(matches!(Packet::parse(wrong.bytes(), &wrong.offload), Err(ParseError::Offload(_))));
}

#[test]
fn errors_quote_what_fits_1280_bytes_and_say_it_with_the_numbers_of_rfc_4443() {
    let mut about = craft::udp(A, S, &[9; 3000]);
    about[0] = 0x6b;
    about[1] = 0x90;
    for (error, kind, word) in [
        (IcmpError::NetUnreachable, (1, 0), 0),
        (IcmpError::Prohibited, (1, 1), 0),
        (IcmpError::HostUnreachable, (1, 3), 0),
        (IcmpError::PortUnreachable, (1, 4), 0),
        (IcmpError::SourceProhibited, (1, 5), 0),
        (IcmpError::TooBig { mtu: 1400 }, (2, 0), 1400),
        (IcmpError::TtlExceeded, (3, 0), 0),
        (IcmpError::ReassemblyTimeExceeded, (3, 1), 0),
        (IcmpError::ParameterProblem { pointer: 24 }, (4, 0), 24),
    ] {
        let packet = craft::icmp_error(error, R9, *A.ip(), &about);
        assert_right(&packet);
        assert_eq!((packet[40], packet[41]), kind);
        assert_eq!(u32::from_be_bytes(packet[44..48].try_into().unwrap()), word);
        assert_eq!((packet.len(), &packet[48..]), (1280, &about[..1232]));
        assert_eq!(parse(&packet).unwrap().tos, 0xb8, "DSCP without ECN");
    }
    let short = craft::udp(A, S, b"x");
    let padded = [&short[..], &[0; 17]].concat();
    assert_eq!(craft::icmp_error(IcmpError::TtlExceeded, R9, X, &padded)[48..], short);
}

#[test]
fn what_may_be_reported_about_and_what_not() {
    let may = |packet: &[u8]| craft::may_be_reported(&parse(packet).unwrap());
    for (name, packet) in samples() {
        let silent = name.contains("full")
            || name.contains("exceeded")
            || name.starts_with("parameter")
            || matches!(name, "neighbor solicitation" | "middle fragment" | "last fragment");
        assert_eq!(may(&packet), !silent, "{name}");
    }
    let group = SocketAddrV6::new("ff02::fb".parse().unwrap(), 5353, 0, 0);
    let nobody = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 1, 0, 0);
    assert!(!may(&craft::udp(A, group, b"")) && !may(&craft::udp(group, S, b"")));
    assert!(!may(&craft::udp(nobody, S, b"")));
}

#[test]
fn echo_is_answered_and_segments_are_reset() {
    let request = craft::echo(*A.ip(), X, true, 77, 3, b"payload");
    let reply = craft::echo(X, *A.ip(), false, 77, 3, b"payload");
    assert_eq!(craft::echo_reply(&request), Some(reply.clone()));
    assert_eq!(craft::echo_reply(&extended(&request, HOP_BY_HOP, &OPTIONS)), Some(reply.clone()));
    assert_eq!(craft::echo_reply(&reply), None);
    let mut damaged = request.clone();
    damaged[50] ^= 1;
    assert_eq!(craft::echo_reply(&damaged), None);
    let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
    assert_eq!(craft::echo_reply(&craft::echo(*A.ip(), all_nodes, true, 1, 1, b"")), None);

    let reset = craft::tcp_reset(&craft::tcp(A, S, TcpFlags::SYN, 99, b"abc")).unwrap();
    assert_right(&reset);
    assert_eq!(
        display::Line(&reset).to_string(),
        "TCP [2001:db8:0:100::7]:80 > [fd00:0:0:1::2]:1000 [R.] seq 0 ack 103 len 0 ttl 64"
    );
}

#[test]
fn lines_and_fields_are_named_as_those_of_ipv4() {
    let line = |name| display::Line(&sample(name)).to_string();
    assert_eq!(
        line("udp behind two headers"),
        "UDP [fd00:0:0:1::2]:1000 > [2001:db8:0:100::7]:80 len 12 ttl 64"
    );
    assert_eq!(
        line("echo request"),
        "ICMPv6 fd00:0:0:1::2 > 2001:db8:0:100::7 echo request id 500 seq 1 len 56 ttl 64"
    );
    assert_eq!(
        line("too big, tcp in full"),
        "ICMPv6 2001:db8:0:9::9 > 2001:db8:ffff:0:ffff::1 too big mtu 1400 about TCP [fd00:0:0:1::2]:1000 > [2001:db8:0:100::7]:80 ttl 64"
    );
    assert_eq!(
        line("neighbor solicitation"),
        "ICMPv6 fd00:0:0:1::2 > 2001:db8:0:100::7 neighbor solicitation len 16 ttl 64"
    );
    assert_eq!(
        line("middle fragment"),
        "UDP fd00:0:0:1::2 > 2001:db8:0:100::7 len 1440 fragment 1440+ id 0x12345678 ttl 64"
    );
    assert_eq!(display::Line(&[0x60, 0]).to_string(), "IPv6, cut short after 2 bytes");

    let field = |name, at| display::field_at(&sample(name), at);
    assert_eq!(field("udp", 7), "ttl");
    assert_eq!(field("udp", 23), "source address");
    assert_eq!(field("udp", 46), "udp checksum");
    assert_eq!(field("udp behind two headers", 50), "extension headers");
    assert_eq!(field("udp behind two headers", 64), "source port");
    assert_eq!(field("middle fragment", 45), "identification");
    assert_eq!(field("unreachable, udp in full", 48 + 8), "quoted source address");
    assert_eq!(field("unreachable, udp in full", 48 + 40), "quoted source port");
}

fn address() -> impl Strategy<Value = SocketAddrV6> {
    let special = prop_oneof![Just(0u128), Just(u128::MAX), Just(0xffff << 64), any::<u128>()];
    let port = prop_oneof![Just(0u16), Just(0xffff), Just(0x00ff), any::<u16>()];
    (special, port).prop_map(|(ip, port)| SocketAddrV6::new(Ipv6Addr::from_bits(ip), port, 0, 0))
}

fn any_end() -> impl Strategy<Value = Option<Endpoint>> {
    proptest::option::of(address().prop_map(|address| Endpoint::new(*address.ip(), address.port())))
}

fn any_edit() -> impl Strategy<Value = Edit> {
    let quoted = (any_end(), any_end()).prop_map(|(source, destination)| QuotedEdit { source, destination });
    (
        any_end(),
        any_end(),
        proptest::option::of(quoted),
        any::<bool>(),
        any::<Option<u16>>(),
        any::<Option<u32>>(),
    )
        .prop_map(|(source, destination, quoted, spend_hop, clamp_mss, identification)| Edit {
            source,
            destination,
            quoted,
            spend_hop,
            clamp_mss,
            identification,
        })
}

fn any_offload() -> impl Strategy<Value = Offload> {
    use tapnat::wire::{PartialChecksum, Segment};
    let checksum = proptest::option::of((
        prop_oneof![Just(40u16), Just(48), any::<u16>()],
        prop_oneof![Just(16u16), Just(6), any::<u16>()],
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
    fn random_bytes_of_version_6_do_no_harm(
        mut bytes in proptest::collection::vec(any::<u8>(), 1..200),
        next in prop_oneof![Just(0u8), Just(6), Just(17), Just(43), Just(44), Just(58), Just(60), any::<u8>()],
        offload in any_offload(),
        fit in any::<bool>(),
    ) {
        bytes[0] = 0x60 | bytes[0] & 15;
        if bytes.len() >= 40 && fit {
            bytes[6] = next;
            let length = (bytes.len() - 40) as u16;
            put(&mut bytes, 4, length);
        }
        look(&bytes, &offload);
    }

    /// Bytes changed at random in good packets, with the checksum mended so that readers go deep.
    #[test]
    fn mutated_packets_do_no_harm(
        which in 0..samples().len(),
        changes in proptest::collection::vec((0..120usize, any::<u8>()), 0..6),
        offload in any_offload(),
    ) {
        let mut packet = samples().swap_remove(which).1;
        for (at, value) in changes {
            let at = 1 + at % (packet.len() - 1);
            packet[at] = value;
        }
        if packet[6] == 58 && packet.len() >= 48 {
            let length = (packet.len() - 40) as u16;
            put(&mut packet, 4, length);
            fix(&mut packet);
        }
        look(&packet, &offload);
    }

    #[test]
    fn checksums_stay_right_by_an_independent_judge(
        kind in 0..5, from in address(), to in address(), bytes in proptest::collection::vec(any::<u8>(), 0..120), edit in any_edit(),
    ) {
        let packet = match kind {
            0 => craft::udp(from, to, &bytes),
            1 => craft::tcp(from, to, TcpFlags::ACK, 9, &bytes),
            2 => craft::echo(*from.ip(), *to.ip(), bytes.len() & 1 == 0, 7, 1, &bytes),
            3 => syn(1440),
            _ => craft::icmp_error(IcmpError::PortUnreachable, R9, *from.ip(), &craft::udp(from, to, &bytes)),
        };
        assert_right(&packet);
        let after = edited(&packet, &edit);
        assert_right(&after);
        if kind == 4 {
            assert_right(&after[48..]);
        }
        // Headers between change nothing of it.
        let far = extended(&extended(&packet, HOP_BY_HOP, &OPTIONS), DESTINATION, &LONG_OPTIONS);
        let far = edited(&far, &edit);
        prop_assert_eq!(&far[64..], &after[40..]);
        prop_assert_eq!(&far[7..40], &after[7..40]);
    }

    #[test]
    fn partial_then_complete_equals_whole(from in address(), to in address(), edit in any_edit(), bytes in any::<[u8; 13]>(), udp in any::<bool>()) {
        let (packet, field) = match udp {
            true => (craft::udp(from, to, &bytes), 6),
            false => (craft::tcp(from, to, TcpFlags::ACK, 5, &bytes), 16),
        };
        let mut buffer = Buffer::from_bytes(&packet);
        make_partial(&mut buffer, field);
        buffer.push_front(&[0xaa; 14]);
        Packet::read(&mut buffer, 14).unwrap().apply(&edit, &mut buffer, 14);
        checksum::complete(&mut buffer, 14);
        prop_assert_eq!(&buffer.bytes()[14..], edited(&packet, &edit));
    }
}
