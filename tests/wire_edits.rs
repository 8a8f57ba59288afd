//! Changing packets: every checksum stays as right, or as wrong, as it was.

#![allow(clippy::unwrap_used)]

mod wire_support;

use proptest::prelude::*;
use std::net::{Ipv4Addr, SocketAddrV4};
use tapnat::flow::{Edit, Endpoint, Protocol, QuotedEdit, Summary, TcpFlags};
use tapnat::wire::craft::{self, IcmpError};
use tapnat::wire::{Buffer, Packet, SegmentKind, checksum};
use wire_support::*;

fn edited(packet: &[u8], edit: &Edit) -> Vec<u8> {
    let mut buffer = Buffer::from_bytes(packet);
    Packet::read(&mut buffer, 0).unwrap().apply(edit, &mut buffer, 0);
    buffer.bytes().to_vec()
}

fn outside(port: u16) -> Option<Endpoint> {
    Some(Endpoint::new(X, port))
}

fn inside() -> Option<Endpoint> {
    Some(Endpoint::new(*A.ip(), A.port()))
}

/// Sum over pseudo header and transport: 0xffff if right, anything else measures the damage.
fn residue(packet: &[u8]) -> u16 {
    let ip = header(packet);
    let pseudo = checksum::pseudo_header(
        Ipv4Addr::from_octets(packet[12..16].try_into().unwrap()),
        Ipv4Addr::from_octets(packet[16..20].try_into().unwrap()),
        packet[9],
        (packet.len() - ip) as u16,
    );
    // 0 and 0xffff are the same number in ones' complement.
    checksum::add(pseudo, checksum::sum(&packet[ip..])) % 0xffff
}

#[test]
fn every_sample_stays_right_through_every_edit() {
    for (name, packet) in samples() {
        for edit in [
            Edit::default(),
            Edit { source: outside(61001), spend_hop: true, ..Edit::default() },
            Edit { destination: outside(0), identification: Some(0xffff), ..Edit::default() },
            Edit { clamp_mss: Some(1220), ..Edit::default() },
            Edit {
                destination: inside(),
                quoted: Some(QuotedEdit { source: outside(61001), destination: inside() }),
                spend_hop: true,
                ..Edit::default()
            },
        ] {
            let after = edited(&packet, &edit);
            assert_right(&after);
            assert_eq!(after.len(), packet.len(), "{name}");
            let before = Packet::parse(&packet, &Default::default()).unwrap();
            let read = Packet::parse(&after, &Default::default()).unwrap();
            assert_eq!(read.ttl, before.ttl - u8::from(edit.spend_hop), "{name}");
            if edit == Edit::default() {
                assert_eq!(after, packet, "{name}");
            }
        }
    }
}

#[test]
fn an_edit_writes_what_it_says_and_nothing_else() {
    let before = craft::udp(A, S, b"payload");
    let edit = Edit { source: outside(61001), spend_hop: true, ..Edit::default() };
    let after = edited(&before, &edit);
    assert_eq!(after, {
        let mut expected = craft::udp(SocketAddrV4::new(X, 61001), S, b"payload");
        expected[8] -= 1;
        fix_ip(&mut expected);
        expected
    });
}

#[test]
fn later_fragments_change_addresses_only_and_first_ones_ports_too() {
    let edit = Edit { source: outside(61001), identification: Some(9), ..Edit::default() };
    for (name, before) in samples().into_iter().filter(|(name, _)| name.ends_with("fragment")) {
        let after = edited(&before, &edit);
        if name == "first fragment" {
            assert_eq!(get(&after, 20), 61001);
            assert_eq!(after[28..], before[28..]);
        } else if name.contains("about") {
            continue;
        } else {
            assert_eq!(after[20..], before[20..], "{name}");
        }
        assert_eq!((&after[12..16], get(&after, 4)), (&X.octets()[..], 9));
    }
}

#[test]
fn a_udp_checksum_of_zero_stays_and_one_that_becomes_zero_is_written_as_all_ones() {
    let edit = |port| Edit { source: outside(port), ..Edit::default() };
    let mut none = craft::udp(A, S, b"x");
    put(&mut none, 26, 0);
    assert_eq!(get(&edited(&none, &edit(61001)), 26), 0);

    // One port of all makes the sum come out at zero.
    let some = craft::udp(A, S, b"x");
    let hit =
        (1..=65535).map(|port| edited(&some, &edit(port))).find(|after| get(after, 26) == 0xffff).unwrap();
    assert_right(&hit);
    assert!((1..=65535).all(|port| get(&edited(&some, &edit(port)), 26) != 0));
}

#[test]
fn the_mss_is_lowered_never_raised_at_even_and_odd_places() {
    for odd in [false, true] {
        let before = syn(1460, odd);
        for (clamp, expected) in [(1220, 1220), (0x00ff, 0x00ff), (1460, 1460), (9000, 1460)] {
            let after =
                edited(&before, &Edit { clamp_mss: Some(clamp), source: outside(5), ..Edit::default() });
            assert_right(&after);
            assert_eq!(Packet::parse(&after, &Default::default()).unwrap().mss.unwrap().0, expected);
        }
    }
}

#[test]
fn a_partial_checksum_learns_addresses_but_neither_ports_nor_mss() {
    let mut buffer = Buffer::from_bytes(&syn(1460, true));
    make_partial(&mut buffer, 16);
    let before = get(buffer.bytes(), 36);
    let packet = Packet::read(&mut buffer, 0).unwrap();
    let ports =
        Edit { source: Some(Endpoint::new(*A.ip(), 61001)), clamp_mss: Some(1000), ..Edit::default() };
    packet.apply(&ports, &mut buffer, 0);
    assert_eq!(get(buffer.bytes(), 36), before);
    packet.apply(&Edit { source: outside(61001), ..Edit::default() }, &mut buffer, 0);
    assert_ne!(get(buffer.bytes(), 36), before);
    checksum::complete(&mut buffer, 0);
    assert_eq!(buffer.offload.checksum, None);
    assert_right(buffer.bytes());
}

#[test]
fn the_header_length_of_a_super_frame_is_right_after_an_edit() {
    let mut buffer = super_frame(SegmentKind::Udp, &[1; 3000], 1400);
    let packet = Packet::parse(buffer.bytes(), &buffer.offload).unwrap();
    packet.apply(&Edit { source: outside(7), ..Edit::default() }, &mut buffer, 0);
    assert_eq!(buffer.offload.segment.unwrap().header, 28);
}

#[test]
fn a_looped_packet_is_told_from_a_whole_one() {
    for (bytes, field) in
        [(craft::udp(A, S, b"looped"), 6), (craft::tcp(A, S, TcpFlags::ACK, 1, b"looped"), 16)]
    {
        let mut buffer = Buffer::from_bytes(&bytes);
        assert!(!checksum::mark_looped(&mut buffer, 0));
        assert_eq!(buffer.bytes(), bytes);

        make_partial(&mut buffer, field);
        buffer.offload = Default::default();
        buffer.push_front(&[0; 14]);
        assert!(checksum::mark_looped(&mut buffer, 14));
        checksum::complete(&mut buffer, 14);
        assert_eq!(&buffer.bytes()[14..], bytes);

        // Damage is not taken for it.
        let mut buffer = Buffer::from_bytes(&bytes);
        let last = bytes.len() - 1;
        buffer.bytes_mut()[last] ^= 1;
        assert!(!checksum::mark_looped(&mut buffer, 0));
    }
}

#[test]
fn extensions_behind_a_quote_are_not_touched() {
    // 128 bytes of quote, padded with zeros as RFC 4884 demands, then an extension with an object.
    let mut quote = craft::udp(A, S, b"short");
    let long = quote.len();
    quote.resize(128, 0);
    let extension = [0x20, 0, 0xdb, 0x3a, 0, 8, 1, 1, 0, 0x3e, 0x81, 1];
    let before = error_with((11, 0), [0, 32, 0, 0], &quote, &extension);
    let edit = Edit {
        destination: inside(),
        quoted: Some(QuotedEdit { source: outside(61001), destination: None }),
        ..Edit::default()
    };
    let after = edited(&before, &edit);
    assert_right(&after);
    assert_eq!(after[25], 32);
    assert_eq!(after[28 + long..], before[28 + long..]);
    assert_right(&after[28..28 + long]);
}

/// A quote that ends before the transport checksum has none to change; what is there is changed.
#[test]
fn a_short_quote_has_no_transport_checksum() {
    let tcp = craft::tcp(A, S, TcpFlags::ACK, 1, b"data");
    for length in 28..44 {
        let before = error_with((3, 3), [0; 4], &tcp[..length], &[]);
        let edit = Edit {
            quoted: Some(QuotedEdit { source: outside(61001), destination: None }),
            ..Edit::default()
        };
        let after = edited(&before, &edit);
        assert_right(&after);
        assert_eq!(get(&after, 28 + 20), 61001);
        if length >= 38 {
            assert_ne!(get(&after, 28 + 36), get(&before, 28 + 36), "{length}: checksum is in the quote");
        } else {
            assert_eq!(after[28 + 22..], before[28 + 22..], "{length}");
        }
    }
}

#[test]
fn what_lies_behind_the_quoted_packet_is_not_its_checksum() {
    let mut tcp = craft::tcp(A, S, TcpFlags::ACK, 1, &[0; 8]);
    put(&mut tcp, 2, 28);
    fix_ip(&mut tcp);
    let before = error_with((3, 3), [0; 4], &tcp, &[]);
    let edit =
        Edit { quoted: Some(QuotedEdit { source: outside(61001), destination: None }), ..Edit::default() };
    let after = edited(&before, &edit);
    assert_eq!(after[28 + 28..], before[28 + 28..]);
    assert_eq!(get(&after, 28 + 20), 61001);
}

#[test]
fn a_quoted_query_has_its_identifier_on_the_side_that_asked() {
    let ask = craft::echo(*A.ip(), *S.ip(), true, 500, 1, b"data");
    let answer = craft::echo(*S.ip(), *A.ip(), false, 500, 1, b"data");
    let quoted = QuotedEdit { source: outside(1), destination: outside(2) };
    for (query, identifier) in [(ask, 1), (answer, 2)] {
        let before = error_with((11, 0), [0; 4], &query, &[]);
        let after = edited(&before, &Edit { quoted: Some(quoted), ..Edit::default() });
        assert_eq!(get(&after, 28 + 24), identifier);
        assert_right(&after);
        assert_right(&after[28..]);
    }
    let error = error_with((3, 3), [0; 4], &craft::udp(A, S, b""), &[]);
    let before = error_with((11, 0), [0; 4], &error, &[]);
    let after = edited(&before, &Edit { quoted: Some(quoted), ..Edit::default() });
    assert_eq!(after[28 + 20..], before[28 + 20..], "an error has no identifier to write over");
}

fn address() -> impl Strategy<Value = SocketAddrV4> {
    let special = prop_oneof![Just(0u32), Just(u32::MAX), Just(0xffff_0000), Just(0x0000_ffff), any::<u32>()];
    let port = prop_oneof![Just(0u16), Just(0xffff), Just(0x00ff), any::<u16>()];
    (special, port).prop_map(|(ip, port)| SocketAddrV4::new(Ipv4Addr::from_bits(ip), port))
}

fn end() -> impl Strategy<Value = Option<Endpoint>> {
    proptest::option::of(address().prop_map(|address| Endpoint::new(*address.ip(), address.port())))
}

fn edit() -> impl Strategy<Value = Edit> {
    let quoted = (end(), end()).prop_map(|(source, destination)| QuotedEdit { source, destination });
    (end(), end(), proptest::option::of(quoted), any::<bool>(), any::<Option<u16>>(), any::<Option<u32>>())
        .prop_map(|(source, destination, quoted, spend_hop, clamp_mss, identification)| Edit {
            source,
            destination,
            quoted,
            spend_hop,
            clamp_mss,
            identification,
        })
}

/// A plain packet of any kind between any two ends.
fn plain() -> impl Strategy<Value = Vec<u8>> {
    of_kinds(0..5)
}

/// UDP, TCP, echo, SYN, ICMP error, by number.
fn of_kinds(kinds: std::ops::Range<i32>) -> impl Strategy<Value = Vec<u8>> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..120);
    (kinds, address(), address(), bytes, any::<u16>(), proptest::bool::ANY).prop_map(
        |(kind, from, to, bytes, word, options)| {
            let packet = match kind {
                0 => craft::udp(from, to, &bytes),
                1 => craft::tcp(from, to, TcpFlags::ACK, word.into(), &bytes),
                2 => craft::echo(*from.ip(), *to.ip(), word & 1 == 0, word, 1, &bytes),
                3 => syn(word, bytes.len() & 1 == 0),
                _ => craft::icmp_error(
                    IcmpError::PortUnreachable,
                    R9,
                    *from.ip(),
                    &craft::udp(from, to, &bytes),
                ),
            };
            if options { craft::with_ip_options(&packet, &RECORD_ROUTE).unwrap() } else { packet }
        },
    )
}

proptest! {
    #[test]
    fn checksums_stay_right_by_an_independent_judge(packet in plain(), edit in edit()) {
        assert_right(&packet);
        assert_right(&edited(&packet, &edit));
    }

    #[test]
    fn out_and_back_is_identity_but_for_the_hops(from in address(), to in address(), out in address(), bytes in any::<[u8; 9]>(), udp in any::<bool>()) {
        let make = |from, to| if udp { craft::udp(from, to, &bytes) } else { craft::tcp(from, to, TcpFlags::ACK, 5, &bytes) };
        let end = |address: SocketAddrV4| Some(Endpoint::new(*address.ip(), address.port()));
        let there = Edit { source: end(out), spend_hop: true, ..Edit::default() };
        let back = Edit { source: end(from), spend_hop: true, ..Edit::default() };
        let mut after = edited(&edited(&make(from, to), &there), &back);
        after[8] += 2;
        fix_ip(&mut after);
        prop_assert_eq!(after, make(from, to));
    }

    #[test]
    fn a_wrong_checksum_stays_exactly_as_wrong(from in address(), to in address(), edit in edit(), wrong in any::<u16>(), udp in any::<bool>()) {
        let mut packet = if udp { craft::udp(from, to, b"data") } else { craft::tcp(from, to, TcpFlags::ACK, 5, b"data") };
        let field = if udp { 26 } else { 36 };
        prop_assume!(!udp || wrong != 0);
        put(&mut packet, field, wrong);
        let after = edited(&packet, &edit);
        prop_assert_eq!(residue(&after), residue(&packet));
    }

    /// Finishing a partial checksum behind an edit gives what the edit of the whole one gives.
    #[test]
    fn partial_then_complete_equals_whole(from in address(), to in address(), edit in edit(), bytes in any::<[u8; 13]>(), kind in 0..3) {
        let (packet, field) = match kind {
            0 => (craft::udp(from, to, &bytes), 6),
            1 => (craft::tcp(from, to, TcpFlags::ACK, 5, &bytes), 16),
            _ => (syn(1460, true), 16),
        };
        let mut buffer = Buffer::from_bytes(&packet);
        make_partial(&mut buffer, field);
        buffer.push_front(&[0xaa; 14]);
        Packet::read(&mut buffer, 14).unwrap().apply(&edit, &mut buffer, 14);
        checksum::complete(&mut buffer, 14);
        prop_assert_eq!(&buffer.bytes()[14..], edited(&packet, &edit));
    }

    /// The edited quote of a whole packet is itself a right packet, and reads as the edited flow.
    #[test]
    fn a_whole_quote_stays_a_right_packet(inner in of_kinds(0..4), edit in edit()) {
        let after = edited(&error_with((3, 1), [0; 4], &inner, &[]), &edit);
        assert_right(&after);
        assert_right(&after[28..]);
        let Summary::Error(error) = Packet::parse(&after, &Default::default()).unwrap().summary else { panic!() };
        let before = Packet::parse(&inner, &Default::default()).unwrap().summary.flow();
        let quoted = edit.quoted.unwrap_or_default();
        let (source, destination) = (quoted.source.unwrap_or(before.source), quoted.destination.unwrap_or(before.destination));
        prop_assert_eq!(error.about.source.ip, source.ip);
        prop_assert_eq!(error.about.destination.ip, destination.ip);
        if before.protocol != Protocol::Icmp {
            prop_assert_eq!((error.about.source.port, error.about.destination.port), (source.port, destination.port));
        }
    }
}
