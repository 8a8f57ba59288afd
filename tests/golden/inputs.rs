//! What is said in each case: A and B are containers, S1 and S2 servers, R9 a router on the way,
//! X the gateway's external address.

use crate::bytes::{fix_header, fix_icmp, fragmentable, unfragmentable, with_ttl};
use crate::script::Script;
use crate::support::{A, B, GATEWAY, MAC, MAC_A, MAC_B, R9, S1, S2, X, arp, at, source_port};
use std::time::Duration;
use tapnat::flow::TcpFlags;
use tapnat::wire::craft::{self, IcmpError, Tcp};
use tapnat::wire::ethernet::IPV6;
use tapnat::wire::{Frame, MacAddr, fragment};

const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;
const SYN_ACK: TcpFlags = TcpFlags::SYN.with(TcpFlags::ACK);
const PSH_ACK: TcpFlags = TcpFlags::PSH.with(TcpFlags::ACK);
const FIN_ACK: TcpFlags = TcpFlags::FIN.with(TcpFlags::ACK);

/// A question and its answer; a second answer comes after the session's 30 seconds.
pub fn udp_dns(script: &mut Script) {
    hosts(script);
    script.from(A, craft::udp(at(A, 51000), at(S1, 53), &dns(false)));
    let us = script.outside_endpoint();
    script.remote(craft::udp(at(S1, 53), us, &dns(true)));
    script.wait(Duration::from_secs(31));
    script.remote(craft::udp(at(S1, 53), us, &dns(true)));
}

/// Handshake, request, response in two segments, and both sides close.
pub fn tcp_http_whole_connection(script: &mut Script) {
    hosts(script);
    let (client, server) = (at(A, 51000), at(S1, 80));
    let request = b"GET / HTTP/1.1\r\nHost: server.example\r\nConnection: close\r\n\r\n";
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n";
    let body = b"hello\n";
    let [asked, answered, whole] = [request.len(), head.len(), head.len() + body.len()].map(offset);

    script.from(A, segment(SYN, 1000, 0).packet(client, server, b""));
    let us = script.outside_endpoint();
    script.remote(segment(SYN_ACK, 5000, 1001).packet(server, us, b""));
    script.from(A, segment(ACK, 1001, 5001).packet(client, server, b""));
    script.from(A, segment(PSH_ACK, 1001, 5001).packet(client, server, request));
    script.remote(segment(ACK, 5001, 1001 + asked).packet(server, us, head));
    script.remote(segment(PSH_ACK, 5001 + answered, 1001 + asked).packet(server, us, body));
    script.remote(segment(FIN_ACK, 5001 + whole, 1001 + asked).packet(server, us, b""));
    script.from(A, segment(ACK, 1001 + asked, 5002 + whole).packet(client, server, b""));
    script.from(A, segment(FIN_ACK, 1001 + asked, 5002 + whole).packet(client, server, b""));
    script.remote(segment(ACK, 5002 + whole, 1002 + asked).packet(server, us, b""));
}

/// Two hosts ping one server with one identifier; A pings the gateway too.
pub fn ping(script: &mut Script) {
    hosts(script);
    let payload: Vec<u8> = (0..56).collect();
    script.from(A, craft::echo(A, GATEWAY, true, 7, 1, &payload));
    for sequence in 1..=2 {
        for host in [A, B] {
            script.from(host, craft::echo(host, S1, true, 7, sequence, &payload));
            let request = script.seen_outside();
            script.remote(craft::echo_reply(&request).unwrap());
        }
    }
}

/// The gateway, a router and the server answer for one hop each.
pub fn traceroute(script: &mut Script) {
    hosts(script);
    for (ttl, port) in [(1, 33434), (2, 33435), (3, 33436)] {
        script.from(A, with_ttl(craft::udp(at(A, 51000), at(S1, port), &[0x40; 32]), ttl));
        let (reporter, error) = match ttl {
            1 => continue,
            2 => (R9, IcmpError::TtlExceeded),
            _ => (S1, IcmpError::PortUnreachable),
        };
        let probe = script.seen_outside();
        script.remote(craft::icmp_error(error, reporter, X, &probe));
    }
}

/// One socket of A keeps its outside port towards every remote; B's gets another.
pub fn one_port_for_all_remotes(script: &mut Script) {
    hosts(script);
    for remote in [at(S1, 3478), at(S1, 3479), at(S2, 3478)] {
        for host in [A, B] {
            script.from(host, craft::udp(at(host, 51000), remote, b"bind"));
            let us = script.outside_endpoint();
            script.remote(craft::udp(remote, us, b"bound"));
        }
    }
}

/// Three fragments out and three back, the last one first; the middle one comes twice.
pub fn fragments_out_of_order(script: &mut Script) {
    hosts(script);
    let payload: Vec<u8> = (0..3000u32).map(|number| number as u8).collect();
    let question = fragmentable(craft::udp(at(A, 51000), at(S1, 5000), &payload), 0x1111);
    let pieces = fragment::fragments(&question, 1500).unwrap();
    for number in [2, 1, 1, 0] {
        script.from(A, pieces[number].clone());
    }
    let first = craft::udp(at(A, 51000), at(S1, 5000), b"which port?");
    script.from(A, first);
    let us = script.outside_endpoint();
    let answer = fragmentable(craft::udp(at(S1, 5000), us, &payload), 0x2222);
    let pieces = fragment::fragments(&answer, 1500).unwrap();
    for number in [2, 0, 1, 1] {
        script.remote(pieces[number].clone());
    }
    // Nobody sends the first of this one.
    let lost = fragmentable(craft::udp(at(A, 51000), at(S1, 5000), &payload), 0x3333);
    script.from(A, fragment::fragments(&lost, 1500).unwrap().remove(1));
}

/// The server has nobody at the port; then A's socket is closed when an answer comes.
pub fn icmp_port_unreachable_both_ways(script: &mut Script) {
    hosts(script);
    script.from(A, craft::udp(at(A, 51000), at(S1, 7), b"anybody?"));
    let (us, question) = (script.outside_endpoint(), script.seen_outside());
    script.remote(craft::icmp_error(IcmpError::PortUnreachable, S1, X, &question));
    script.remote(craft::udp(at(S1, 7), us, b"late"));
    let late = script.seen_inside();
    script.from(A, craft::icmp_error(IcmpError::PortUnreachable, A, S1, &late));
    // About a packet that nobody sent.
    let never = craft::udp(at(X, 40001), at(S1, 7), b"never");
    script.remote(craft::icmp_error(IcmpError::PortUnreachable, S1, X, &never));
}

/// A reaches B's published port by the external address, and B's answers come back from there.
pub fn hairpin(script: &mut Script) {
    hosts(script);
    let (client, published) = (at(A, 51000), at(X, 8080));
    script.from(A, segment(SYN, 1000, 0).packet(client, published, b""));
    let seen = script.seen_inside();
    let client_outside = at(X, source_port(&seen));
    script.from(B, segment(SYN_ACK, 5000, 1001).packet(at(B, 80), client_outside, b""));
    script.from(A, segment(ACK, 1001, 5001).packet(client, published, b""));
    script.from(A, segment(PSH_ACK, 1001, 5001).packet(client, published, b"hello"));
    let unheard = script.seen_inside();
    script.from(B, craft::icmp_error(IcmpError::Prohibited, B, X, &unheard));
    // One hop is spent on the way, as on any other.
    script.from(A, with_ttl(segment(PSH_ACK, 1006, 5001).packet(client, published, b"far"), 1));
}

/// Anybody outside reaches the published ports, and nothing else.
pub fn publish(script: &mut Script) {
    hosts(script);
    let client = at(S1, 51000);
    script.remote(segment(SYN, 1000, 0).packet(client, at(X, 8080), b""));
    script.from(A, segment(SYN_ACK, 5000, 1001).packet(at(A, 80), client, b""));
    script.remote(segment(ACK, 1001, 5001).packet(client, at(X, 8080), b""));
    script.remote(craft::udp(at(S2, 51000), at(X, 5353), &dns(false)));
    script.from(B, craft::udp(at(B, 53), at(S2, 51000), &dns(true)));
    script.remote(segment(SYN, 1000, 0).packet(client, at(X, 80), b""));
}

/// A moves to another MAC and says so; B says nothing for a while and is asked.
pub fn arp_relearn(script: &mut Script) {
    hosts(script);
    for host in [A, B] {
        script.from(host, craft::udp(at(host, 51000), at(S1, 9000), b"hello"));
    }
    let moved = MacAddr([2, 0, 0, 0, 1, 0xa]);
    script.frame(arp(1, moved, A, MacAddr([0; 6]), A));
    for host in [A, B] {
        script.from(host, craft::udp(at(host, 51000), at(S1, 9000), b"again"));
        let us = script.outside_endpoint();
        script.remote(craft::udp(at(S1, 9000), us, b"welcome"));
    }
    let us = script.outside_endpoint();
    script.wait(Duration::from_secs(60));
    // The entry of B is old: it is used, and asked for.
    script.remote(craft::udp(at(S1, 9000), us, b"still there?"));
    script.frame(arp(2, MAC_B, B, MAC, GATEWAY));
    script.wait(Duration::from_secs(60));
    // This time nobody answers the three questions, and the packet behind them is lost.
    script.remote(craft::udp(at(S1, 9000), us, b"and now?"));
    script.wait(Duration::from_secs(5));
    script.remote(craft::udp(at(S1, 9000), us, b"hello?"));
}

/// Jumbo frames inside, 1500 outside: DF is answered, without DF it is cut. Then a router further
/// on has 1280.
pub fn pmtu_df(script: &mut Script) {
    hosts(script);
    let datagram = |length| craft::udp(at(A, 51000), at(S1, 9000), &vec![0x55; length]);
    script.from(A, unfragmentable(datagram(4000)));
    script.from(A, fragmentable(datagram(4000), 0x4444));
    script.from(A, unfragmentable(datagram(1472)));
    let sent = script.seen_outside();
    script.remote(craft::icmp_error(IcmpError::TooBig { mtu: 1280 }, R9, X, &sent));
}

/// 1400 inside, 1500 outside: SYNs both ways say 1360 at most; a lower MSS stays. A packet from
/// outside that does not fit is answered, or cut.
pub fn mss_clamp(script: &mut Script) {
    hosts(script);
    let (client, server) = (at(A, 51000), at(S1, 80));
    let syn = |flags, sequence, mss| Tcp { flags, sequence, mss: Some(mss), ..Tcp::default() };
    script.from(A, syn(SYN, 1000, 1460).packet(client, server, b""));
    let us = script.outside_endpoint();
    let answer = Tcp { acknowledgment: 1001, ..syn(SYN_ACK, 5000, 1460) };
    script.remote(answer.packet(server, us, b""));
    script.from(B, syn(SYN, 1000, 536).packet(at(B, 51000), server, b""));
    let large = segment(ACK, 5001, 1001).packet(server, us, &[0x55; 1400]);
    script.remote(unfragmentable(large.clone()));
    script.remote(fragmentable(large, 0x5555));
}

/// What comes to a mapping from elsewhere, to no mapping, and unasked.
pub fn filtered_and_unsolicited(script: &mut Script) {
    hosts(script);
    script.from(A, craft::udp(at(A, 51000), at(S1, 3478), b"hello"));
    let us = script.outside_endpoint();
    script.remote(craft::udp(at(S1, 9999), us, b"another port of S1 may"));
    script.remote(craft::udp(at(S2, 3478), us, b"S2 may not"));
    script.remote(craft::udp(at(S1, 3478), at(X, us.port() ^ 1), b"to nobody"));
    script.remote(craft::echo(S1, X, true, 7, 1, b"is X up?"));
    script.remote(craft::echo(S1, X, false, 7, 1, b"nobody asked"));
    script.remote(segment(SYN, 1000, 0).packet(at(S1, 51000), at(X, 22), b""));
    script.remote(segment(SYN_ACK, 1000, 0).packet(at(S1, 80), us, b""));
    script.remote(craft::udp(at(A, 53), us, b"from an inside address"));
    script.remote(craft::udp(at(X, 53), us, b"from ourselves"));
    script.from(A, segment(ACK, 1000, 5000).packet(at(A, 51001), at(S1, 80), b"no connection"));
    script.from(A, craft::udp(at(S2, 51000), at(S1, 53), b"not my address"));
}

/// Bytes that are no packets, on both sides; the last packet is whole and passes.
pub fn malformed(script: &mut Script) {
    hosts(script);
    let whole = craft::udp(at(A, 51000), at(S1, 9000), b"whole");
    let with = |change: fn(&mut Vec<u8>)| {
        let mut packet = whole.clone();
        change(&mut packet);
        packet
    };
    let broken = [
        with(|packet| packet.truncate(19)),
        with(|packet| packet.truncate(27)),
        with(|packet| packet[0] = 0x65),
        with(|packet| packet[0] = 0x95),
        with(|packet| packet[0] = 0x44),
        with(|packet| packet[10] ^= 0x80),
        with(|packet| {
            packet[3] = 19;
            fix_header(packet);
        }),
        with(|packet| {
            packet[25] = 200;
            fix_header(packet);
        }),
        with(|packet| {
            packet[7] = 1;
            packet[9] = 6;
            fix_header(packet);
        }),
    ];
    for packet in &broken {
        script.from(A, packet.clone());
        script.remote(packet.clone());
    }
    script.remote(Vec::new());
    let quoted = with(|packet| packet[10] ^= 0x80);
    script.remote(craft::icmp_error(IcmpError::PortUnreachable, R9, X, &quoted));
    let mut error = craft::icmp_error(IcmpError::PortUnreachable, R9, X, &whole[..20]);
    fix_icmp(&mut error);
    script.remote(error);
    script.frame(vec![2; 13]);
    script.frame(Frame { destination: MAC, source: MAC_A, ethertype: IPV6 }.to_bytes().to_vec());
    script.frame(arp(1, MAC_A, A, MacAddr([0; 6]), GATEWAY)[..30].to_vec());
    script.from(A, whole);
}

/// Both hosts ask who the gateway is, as every host does first.
fn hosts(script: &mut Script) {
    for (mac, ip) in [(MAC_A, A), (MAC_B, B)] {
        script.frame(arp(1, mac, ip, MacAddr([0; 6]), GATEWAY));
    }
}

fn segment(flags: TcpFlags, sequence: u32, acknowledgment: u32) -> Tcp {
    Tcp { flags, sequence, acknowledgment, ..Tcp::default() }
}

fn offset(length: usize) -> u32 {
    u32::try_from(length).unwrap()
}

/// The question for the address of server.example, or the answer to it.
fn dns(answer: bool) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
    message.extend(b"\x06server\x07example\0\0\x01\0\x01");
    if answer {
        (message[2], message[3], message[7]) = (0x81, 0x80, 1);
        message.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0x0e, 0x10, 0, 4]);
        message.extend(S1.octets());
    }
    message
}
