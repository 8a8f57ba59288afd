//! One packet into many: super-frames into segments, packets into fragments; and crafted packets.

#![allow(clippy::unwrap_used)]

mod wire_support;

use proptest::prelude::*;
use tapnat::flow::{Summary, TcpFlags};
use tapnat::wire::craft::{self, IcmpError, Tcp};
use tapnat::wire::fragment::fragments;
use tapnat::wire::{Buffer, Fragments, Offload, Packet, ParseError, SegmentKind, Segments, display};
use wire_support::*;

/// All segments of a super-frame, with the link header that each carries.
fn segments(buffer: &Buffer, skip: usize) -> Vec<Vec<u8>> {
    let mut cut = Segments::new(buffer, skip).unwrap();
    let expected = cut.count();
    let mut out = Buffer::new();
    let mut all = Vec::new();
    while cut.write_next(&mut out) {
        assert_eq!(out.offload, Offload::default());
        all.push(out.bytes().to_vec());
    }
    assert_eq!(all.len(), expected);
    all
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
}

#[test]
fn tcp_segments_count_on_and_flags_are_where_they_belong() {
    let payload = bytes(65000);
    let mut buffer = super_frame(SegmentKind::Tcp4, &payload, 1448);
    put(buffer.bytes_mut(), 4, 0xfffe);
    fix_ip(buffer.bytes_mut());
    buffer.push_front(&[0xaa; 14]);
    let all = segments(&buffer, 14);
    assert_eq!(all.len(), 45);
    let mut joined: Vec<u8> = Vec::new();
    for (index, segment) in all.iter().enumerate() {
        assert_eq!(segment[..14], [0xaa; 14]);
        let ip = &segment[14..];
        assert_right(ip);
        assert_eq!(get(ip, 4), 0xfffeu16.wrapping_add(index as u16));
        let sequence = u32::from_be_bytes(ip[24..28].try_into().unwrap());
        assert_eq!(sequence, 0xffff_fff0u32.wrapping_add(joined.len() as u32));
        let (first, last) = (index == 0, index == 44);
        let flags = 0x10 | if first { 0x80 } else { 0 } | if last { 0x09 } else { 0 };
        assert_eq!(ip[33], flags, "segment {index}");
        joined.extend(&ip[40..]);
    }
    assert_eq!(joined, payload);
}

#[test]
fn udp_segments_are_datagrams_of_their_own() {
    let payload = bytes(5001);
    let all = segments(&super_frame(SegmentKind::Udp, &payload, 1200), 0);
    assert_eq!(all.len(), 5);
    for datagram in &all {
        assert_right(datagram);
        assert_ne!(get(datagram, 26), 0);
        assert_eq!(usize::from(get(datagram, 24)), datagram.len() - 20);
    }
    assert_eq!(all.iter().flat_map(|datagram| &datagram[28..]).copied().collect::<Vec<u8>>(), payload);
}

#[test]
fn a_plain_packet_is_no_super_frame() {
    let buffer = Buffer::from_bytes(&craft::udp(A, S, &[0; 100]));
    assert!(matches!(Segments::new(&buffer, 0), Err(ParseError::Offload(_))));
    assert!(Segments::new(&buffer, 1000).is_err());
}

#[test]
fn a_packet_that_fits_is_its_only_fragment() {
    for (_, packet) in samples() {
        if packet.len() <= 1500 {
            assert_eq!(fragments(&packet, 1500).unwrap(), [packet]);
        }
    }
}

#[test]
fn fragmenting_is_refused_where_it_must_not_be() {
    let packet = craft::udp(A, S, &[0; 2000]);
    assert!(matches!(fragments(&packet, 1500), Err(ParseError::Fragment(_))), "DF is set");
    let packet = fragmentable(packet, 1);
    assert_eq!(fragments(&packet, 1500).unwrap().len(), 2);
    assert!(matches!(fragments(&packet, 67), Err(ParseError::Fragment(_))), "MTU below 68");
    let buffer = super_frame(SegmentKind::Udp, &[0; 2000], 500);
    assert!(matches!(Fragments::new(&buffer, 0, 1500), Err(ParseError::Offload(_))));
}

#[test]
fn errors_quote_548_bytes_keep_the_dscp_and_leave_padding_out() {
    let mut about = craft::udp(A, S, &bytes(1000));
    about[1] = 0xb8 | 1;
    fix_ip(&mut about);
    let error = craft::icmp_error(IcmpError::TooBig { mtu: 1280 }, R9, *A.ip(), &about);
    assert_right(&error);
    assert_eq!(error.len(), 576);
    assert_eq!(error[28..], about[..548]);
    assert_eq!((error[1], error[8], error[20], error[21]), (0xb8, 64, 3, 4));
    assert_eq!(get(&error, 26), 1280);

    let short = craft::udp(A, S, b"x");
    let padded = [&short[..], &[0; 17]].concat();
    let error = craft::icmp_error(IcmpError::TtlExceeded, R9, *A.ip(), &padded);
    assert_eq!(error[28..], short);
}

#[test]
fn what_may_be_reported_about_and_what_not() {
    let may = |packet: &[u8]| craft::may_be_reported(&Packet::parse(packet, &Offload::default()).unwrap());
    let to = |ip: [u8; 4]| craft::udp(A, std::net::SocketAddrV4::new(ip.into(), 5), b"");
    let from = |ip: [u8; 4]| craft::udp(std::net::SocketAddrV4::new(ip.into(), 5), S, b"");
    assert!(may(&to([198, 51, 100, 7])));
    for refused in [[224, 0, 0, 1], [255, 255, 255, 255], [240, 0, 0, 1]] {
        assert!(!may(&to(refused)) && !may(&from(refused)), "{refused:?}");
    }
    assert!(!may(&from([0, 0, 0, 0])) && !may(&from([127, 0, 0, 1])));
    for (name, packet) in samples() {
        let silent = name.contains("about a later")
            || name.contains("full")
            || name.contains("8 bytes")
            || name.starts_with("parameter")
            || matches!(name, "middle fragment" | "last fragment");
        assert_eq!(may(&packet), !silent, "{name}");
    }
}

#[test]
fn an_echo_reply_mirrors_its_request_and_damage_is_not_answered() {
    let request = craft::echo(*A.ip(), X, true, 77, 3, b"payload");
    let reply = craft::echo_reply(&request).unwrap();
    assert_eq!(reply, craft::echo(X, *A.ip(), false, 77, 3, b"payload"));
    let mut damaged = request.clone();
    damaged[30] ^= 1;
    assert_eq!(craft::echo_reply(&damaged), None);
    assert_eq!(craft::echo_reply(&reply), None);
    let optioned = craft::with_ip_options(&request, &RECORD_ROUTE).unwrap();
    assert_eq!(craft::echo_reply(&optioned), Some(reply));
}

#[test]
fn resets_answer_as_rfc_9293_says() {
    let line = |packet: Vec<u8>| display::Line(&craft::tcp_reset(&packet).unwrap()).to_string();
    assert_eq!(
        line(craft::tcp(A, S, TcpFlags::SYN, 99, b"abc")),
        "TCP 198.51.100.7:80 > 10.0.0.2:1000 [R.] seq 0 ack 103 len 0 ttl 64"
    );
    let acking = Tcp { sequence: 5, acknowledgment: 4242, ..Tcp::default() }.packet(A, S, b"");
    assert_eq!(line(acking), "TCP 198.51.100.7:80 > 10.0.0.2:1000 [R] seq 4242 len 0 ttl 64");
    assert_eq!(craft::tcp_reset(&craft::tcp(A, S, TcpFlags::RST, 1, b"")), None);
    assert_eq!(craft::tcp_reset(&craft::udp(A, S, b"")), None);
    assert_right(&craft::tcp_reset(&craft::tcp(A, S, TcpFlags::SYN, 99, b"")).unwrap());
}

#[test]
fn lines_say_what_a_packet_is() {
    let lines: Vec<String> = samples().iter().map(|(_, packet)| display::Line(packet).to_string()).collect();
    let expected = [
        "TCP 10.0.0.2:1000 > 198.51.100.7:80 [S] seq 0 len 0 ttl 64",
        "TCP 10.0.0.2:1000 > 198.51.100.7:80 [S] seq 0 len 0 ttl 64",
        "TCP 10.0.0.2:1000 > 198.51.100.7:80 [P.] seq 7 ack 0 len 14 ttl 64",
        "UDP 10.0.0.2:1000 > 198.51.100.7:80 len 12 ttl 64",
        "UDP 10.0.0.2:1000 > 198.51.100.7:80 len 12 ttl 64",
        "UDP 10.0.0.2:1000 > 198.51.100.7:80 len 12 ttl 64",
        "ICMP 10.0.0.2 > 198.51.100.7 echo request id 500 seq 1 len 56 ttl 64",
        "ICMP 198.51.100.7 > 10.0.0.2 echo reply id 500 seq 1 len 56 ttl 64",
        "ICMP 10.0.0.2 > 198.51.100.7 timestamp request id 9 seq 1 len 12 ttl 64",
        "PROTO-47 10.0.0.2 > 198.51.100.7 len 20 ttl 64",
        "ICMP 192.0.2.9 > 203.0.113.1 port unreachable about UDP 10.0.0.2:1000 > 198.51.100.7:80 ttl 64",
        "ICMP 192.0.2.9 > 203.0.113.1 too big mtu 1280 about TCP 10.0.0.2:1000 > 198.51.100.7:80 ttl 64",
        "ICMP 192.0.2.9 > 203.0.113.1 ttl exceeded about TCP 10.0.0.2:1000 > 198.51.100.7:80 ttl 64",
        "ICMP 192.0.2.9 > 203.0.113.1 ttl exceeded about UDP 10.0.0.2:1000 > 198.51.100.7:80 ttl 64",
        "ICMP 192.0.2.9 > 203.0.113.1 parameter problem about ICMP 10.0.0.2 > 198.51.100.7 ttl 64",
        "ICMP 192.0.2.9 > 203.0.113.1 reassembly time exceeded about UDP 10.0.0.2 > 198.51.100.7 ttl 64",
        "UDP 10.0.0.2:1000 > 198.51.100.7:80 len 1472 fragment 0+ id 0x004d ttl 64",
        "UDP 10.0.0.2 > 198.51.100.7 len 1480 fragment 1480+ id 0x004d ttl 64",
        "UDP 10.0.0.2 > 198.51.100.7 len 48 fragment 2960 id 0x004d ttl 64",
    ];
    assert_eq!(lines, expected);
    assert_eq!(display::Line(&[0x45, 0, 0]).to_string(), "IPv4, cut short after 3 bytes");
    assert_eq!(display::Line(&[]).to_string(), "no IP packet, 0 bytes");
}

#[test]
fn a_diff_marks_bytes_and_names_fields() {
    let before = craft::udp(A, S, b"0123456789");
    let mut after = before.clone();
    after[8] -= 1;
    after[14] = 9;
    after[21] ^= 1;
    after[37] = b'x';
    let lines = display::diff(&before, &after);
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0].fields, ["ttl", "source address"]);
    assert_eq!(lines[1].fields, ["source port"]);
    assert_eq!(lines[2].fields, ["payload"]);
    let marked = |line: &display::DiffLine| line.after.iter().filter(|(_, differs)| *differs).count();
    assert_eq!(lines.iter().map(marked).collect::<Vec<_>>(), [2, 1, 1]);
    assert_eq!(lines[0].before[8], (64, true));
    assert!(display::diff(&before, &before).iter().all(|line| !line.changed()));
    assert!(display::diff(&before, &before[..20]).iter().skip(1).all(|line| line.changed()));

    let error = craft::icmp_error(IcmpError::TooBig { mtu: 1280 }, R9, X, &before);
    for (at, name) in [
        (20, "icmp type"),
        (22, "icmp checksum"),
        (26, "next-hop mtu"),
        (28 + 10, "quoted header checksum"),
        (28 + 12, "quoted source address"),
        (28 + 20, "quoted source port"),
        (28 + 26, "quoted udp checksum"),
        (28 + 30, "quoted payload"),
        (1000, "beyond the packet"),
    ] {
        assert_eq!(display::field_at(&error, at), name, "{at}");
    }
    let tcp = craft::tcp(A, S, TcpFlags::ACK, 1, b"data");
    for (at, name) in [(33, "tcp flags"), (36, "tcp checksum"), (40, "payload")] {
        assert_eq!(display::field_at(&tcp, at), name, "{at}");
    }
    assert_eq!(display::field_at(&syn(1000, true), 43), "tcp options");
}

proptest! {
    #[test]
    fn segments_join_to_the_payload_and_are_all_right(length in 0..9000usize, size in 64..9000u16, udp in any::<bool>()) {
        let payload = bytes(length);
        let kind = if udp { SegmentKind::Udp } else { SegmentKind::Tcp4 };
        let mut joined: Vec<u8> = Vec::new();
        let all = segments(&super_frame(kind, &payload, size), 0);
        prop_assert_eq!(all.len(), length.div_ceil(usize::from(size)).max(1));
        for segment in all {
            assert_right(&segment);
            let packet = Packet::parse(&segment, &Offload::default()).unwrap();
            prop_assert!(matches!(packet.summary, Summary::Data(data) if data.flow.source.port == 1000));
            joined.extend(&segment[usize::from(packet.payload)..]);
        }
        prop_assert_eq!(joined, payload);
    }

    #[test]
    fn fragments_join_to_the_packet_in_order_and_are_as_few_as_can_be(length in 0..9000usize, mtu in 68..2000u16, options in any::<bool>()) {
        let options: &[u8] = if options { &[0x94, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0, 0] } else { &[] };
        let whole = craft::with_ip_options(&fragmentable(craft::udp(A, S, &bytes(length)), 7), options).unwrap();
        let all = fragments(&whole, mtu).unwrap();
        let mut joined: Vec<u8> = Vec::new();
        for (index, part) in all.iter().enumerate() {
            assert_right(part);
            prop_assert!(part.len() <= usize::from(mtu));
            let packet = Packet::parse(part, &Offload::default()).unwrap();
            let place = packet.fragment.map_or((0, false), |fragment| (usize::from(fragment.offset), fragment.more));
            prop_assert_eq!(place, (joined.len(), index + 1 < all.len()));
            let header = if index == 0 { 20 + options.len() } else { 20 + options.len().min(4) };
            prop_assert_eq!(usize::from(packet.header), header);
            if place.1 {
                prop_assert!(part.len() + 8 > usize::from(mtu), "room for 8 bytes more");
            }
            joined.extend(&part[header..]);
        }
        prop_assert_eq!(&joined[..], &whole[20 + options.len()..]);
    }

    /// Fragments of fragments join just as well.
    #[test]
    fn fragments_of_fragments_join_too(length in 1500..4000usize) {
        let whole = fragmentable(craft::udp(A, S, &bytes(length)), 7);
        let mut end = 0;
        for part in fragments(&whole, 1000).unwrap().iter().flat_map(|part| fragments(part, 300).unwrap()) {
            let fragment = Packet::parse(&part, &Offload::default()).unwrap().fragment.unwrap();
            prop_assert_eq!(usize::from(fragment.offset), end);
            prop_assert_eq!(&part[20..], &whole[20 + end..end + part.len()]);
            end += part.len() - 20;
            prop_assert_eq!(fragment.more, end < whole.len() - 20);
        }
        prop_assert_eq!(end, whole.len() - 20);
    }
}
