//! Every drop reason is met by a packet: one line of a table for each word, and nothing else is
//! counted on the way.
#![allow(clippy::unwrap_used)]

#[path = "support/bytes.rs"]
mod bytes;
mod support;
#[path = "support/v6.rs"]
mod v6;

use bytes::{fix_header, fix_icmp, fragmentable, unfragmentable, with_protocol, with_ttl};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use support::*;
use tapnat::flow::{Endpoint, Prefix, Protocol, TcpFlags};
use tapnat::gateway::{Command, Dhcp, DropReason, Fate, GatewayConfig, INSIDE, Reply};
use tapnat::nat::{PortChoice, Refusal};
use tapnat::wire::craft::{self, IcmpError};
use tapnat::wire::{Frame, MacAddr, Offload, PartialChecksum, fragment};

/// The reason that only the runtime can meet: the kernel would not take a packet.
const OF_THE_RUNTIME: &str = "send-failed";

/// The word, and what provokes it.
type Row = (&'static str, fn() -> Rig);

const TABLE: [Row; DropReason::COUNT - 1] = [
    ("truncated", || inside(&[0x45; 10])),
    ("bad-version", || inside(&changed(|packet| packet[0] = 0x55))),
    ("bad-header-length", || inside(&changed(|packet| packet[0] = 0x44))),
    ("bad-length", || inside(&changed(|packet| packet[3] += 1))),
    ("bad-checksum", || inside(&changed(|packet| packet[11] ^= 1))),
    ("bad-offload", bad_offload),
    ("bad-fragment", bad_fragment),
    ("bad-extension", bad_extension),
    ("no-mapping", || outside(&craft::udp(at(S1, 53), at(X, 40000), b"scan"))),
    ("filtered", filtered),
    ("ports-exhausted", || with(|config| config.nat.ports = vec![40000..=40000], two_ports)),
    ("session-limit", || with(|config| config.nat.limits.sessions = 1, two_ports)),
    ("host-session-limit", || with(|config| config.nat.limits.sessions_per_host = 1, two_ports)),
    ("host-mapping-limit", || with(|config| config.nat.limits.mappings_per_host = 1, two_ports)),
    ("host-rate-limit", || with(|config| config.nat.limits.new_sessions_per_host = 1, two_ports)),
    ("port-unleased", || with(in_leased_blocks, a_host_that_refuses)),
    ("mapping-session-limit", || with(|config| config.nat.limits.sessions_per_mapping = 1, two_remotes)),
    ("no-session", || inside(&craft::tcp(at(A, 1000), at(S1, 80), TcpFlags::ACK, 1, b"late"))),
    ("bad-flags", || inside(&craft::tcp(at(A, 1000), at(S1, 80), TcpFlags::SYN.with(TcpFlags::FIN), 1, b""))),
    ("out-of-window", out_of_window),
    ("error-without-session", || outside(&error_about(at(X, 40000), X))),
    ("error-misaddressed", error_misaddressed),
    ("error-out-of-window", error_out_of_window),
    ("unsolicited-query", || outside(&craft::echo(S1, X, true, 7, 1, b"ping"))),
    ("hairpin-off", || with(|config| config.nat.policy.hairpin = false, to_a_published_port)),
    ("host-access-off", || with(|config| config.nat.host_access = false, to_the_host)),
    ("egress-denied", || inside(&craft::udp(at(A, 1000), at(Ipv4Addr::new(169, 254, 169, 254), 53), b""))),
    ("address-lost", address_lost),
    ("protocol-taken", protocol_taken),
    ("source-is-ours", || outside(&craft::udp(at(X, 53), at(X, 40000), b"loop"))),
    ("short-frame", short_frame),
    ("other-mac", || frame(|header| header.destination = MAC_B)),
    ("unknown-ethertype", || frame(|header| header.ethertype = 0x88cc)),
    ("bad-arp", bad_arp),
    ("bad-ndp", || neighbor(&v6::advertisement(MAC_A, v6::GATEWAY6, 0))),
    ("router-advertisement", || neighbor(&router_advertisement())),
    ("multicast-listener", || neighbor(&v6::listener_report())),
    ("bad-dhcp", || asked_for_an_address((15, 30), 0)),
    ("dhcp-exhausted", || asked_for_an_address((1, 1), 255)),
    ("dhcp-mac-limit", asked_under_many_names),
    ("ttl-expired", || inside(&with_ttl(query(), 1))),
    ("too-big", || inside(&unfragmentable(craft::udp(at(A, 1000), at(S1, 53), &[0; 1473])))),
    ("martian-source", || inside(&craft::udp(at(Ipv4Addr::LOCALHOST, 1000), at(S1, 53), b""))),
    ("martian-destination", || {
        inside(&craft::udp(at(A, 1000), at(Ipv4Addr::new(224, 0, 0, 251), 5353), b""))
    }),
    ("spoofed-source", || inside(&craft::udp(at(S2, 1000), at(S1, 53), b""))),
    ("mac-mismatch", mac_mismatch),
    ("inside-destination", || inside(&craft::udp(at(A, 1000), at(B, 53), b""))),
    ("not-our-address", || outside(&craft::udp(at(S1, 53), at(S2, 53), b""))),
    ("icmp-type", || inside(&redirect())),
    ("bad-mtu", bad_mtu),
    ("unmapped-address", unmapped_address),
    ("source-route", || inside(&craft::with_ip_options(&query(), &[0x83, 7, 4, 1, 2, 3, 4, 0]).unwrap())),
    ("fragment-orphan", fragment_orphan),
    ("fragment-limit", fragment_limit),
    ("fragment-overlap", fragment_overlap),
    ("no-neighbor", no_neighbor),
    ("neighbor-limit", neighbor_limit),
    ("no-route", || {
        with(
            |config| config.reach.four = Some(Vec::new()),
            |rig| {
                rig.from(MAC_A, &craft::udp(at(A, 1000), at(S1, 53), b"where to"));
            },
        )
    }),
];

#[test]
fn each_word_is_met_by_a_packet_and_counted_alone() {
    let mut wrong = Vec::new();
    for (word, provoke) in TABLE {
        let mut rig = provoke();
        let counted = dropped(&mut rig);
        let words: Vec<_> = counted.iter().map(|(word, _)| *word).collect();
        if words != [word] {
            wrong.push(format!("{word}: counted {counted:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_table_has_every_word_but_that_of_the_runtime() {
    let mut table: BTreeSet<_> = TABLE.iter().map(|(word, _)| *word).collect();
    assert_eq!(table.len(), TABLE.len(), "a word stands twice");
    table.insert(OF_THE_RUNTIME);
    assert_eq!(table, DropReason::words().collect::<BTreeSet<_>>());
}

#[test]
fn what_the_kernel_refuses_is_counted_too() {
    let mut rig = Rig::new();
    rig.gateway.send_failed();
    assert_eq!(dropped(&mut rig), [(OF_THE_RUNTIME, 1)]);
}

/// The drop counters that are not zero.
fn dropped(rig: &mut Rig) -> Vec<(&'static str, u64)> {
    let reply = rig.gateway.apply(Command::Counters, rig.now, &mut ());
    let Reply::Counters(view, _) = reply else { panic!("{reply:?}") };
    view.dropped.into_iter().filter(|(_, count)| *count > 0).collect()
}

/// A rig that gives addresses from `first` to `last`, after a host asked for one; `end` is the mark
/// behind the options.
fn asked_for_an_address((first, last): (u8, u8), end: u8) -> Rig {
    let ip = |last| Ipv4Addr::new(10, 0, 0, last);
    let mut config = config();
    let lease = Duration::from_secs(60);
    config.dhcp = Some(Dhcp { first: ip(first), last: ip(last), lease, dns: None, search: None });
    let mut rig = Rig::with(config);
    rig.frame(&asking_for_an_address(&[end]));
    rig
}

/// A frame from host A with these options at its end.
fn asking_for_an_address(end: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 240];
    message[..3].copy_from_slice(&[1, 1, 6]);
    message[28..34].copy_from_slice(&MAC_A.0);
    message[236..].copy_from_slice(&[99, 130, 83, 99]);
    message.extend([53, 1, 1]);
    message.extend(end);
    let packet = craft::udp(at(Ipv4Addr::UNSPECIFIED, 68), at(Ipv4Addr::BROADCAST, 67), &message);
    let ethertype = tapnat::wire::ethernet::IPV4;
    let header = Frame { destination: MacAddr::BROADCAST, source: MAC_A, ethertype };
    [&header.to_bytes()[..], &packet].concat()
}

fn address_lost() -> Rig {
    let mut rig = inside(&query());
    let mut config = config();
    config.nat.external = vec![S2.into()];
    rig.gateway.apply(Command::Reconfigure(Box::new(config)), rig.now, &mut ());
    rig.from(MAC_A, &query());
    rig
}

fn asked_under_many_names() -> Rig {
    let mut rig = asked_for_an_address((15, 30), 255);
    for name in 0..8 {
        rig.frame(&asking_for_an_address(&[61, 2, 0, name, 255]));
    }
    rig
}

fn query() -> Vec<u8> {
    craft::udp(at(A, 1000), at(S1, 53), b"query")
}

/// A rig that has received this packet from host A.
fn inside(packet: &[u8]) -> Rig {
    let mut rig = Rig::new();
    rig.from(MAC_A, packet);
    rig
}

/// A rig that has received this packet from the uplink.
fn outside(packet: &[u8]) -> Rig {
    let mut rig = Rig::new();
    rig.outside(packet);
    rig
}

/// A rig with changed settings, after `packets`.
fn with(change: fn(&mut GatewayConfig), packets: fn(&mut Rig)) -> Rig {
    let mut config = config();
    change(&mut config);
    let mut rig = Rig::with(config);
    packets(&mut rig);
    rig
}

/// A query from A in a frame with a changed header.
fn frame(change: fn(&mut Frame)) -> Rig {
    let mut header = Frame { destination: MAC, source: MAC_A, ethertype: tapnat::wire::ethernet::IPV4 };
    change(&mut header);
    let mut rig = Rig::new();
    rig.frame(&[&header.to_bytes()[..], &query()].concat());
    rig
}

fn changed(change: fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut packet = query();
    change(&mut packet);
    packet
}

fn bad_offload() -> Rig {
    let mut rig = Rig::new();
    let header = Frame { destination: MAC, source: MAC_A, ethertype: tapnat::wire::ethernet::IPV4 };
    let checksum = Some(PartialChecksum { start: 20, offset: 2 });
    let frame = [&header.to_bytes()[..], &query()].concat();
    rig.receive(INSIDE, &frame, Offload { checksum, ..Offload::default() });
    rig
}

/// A jumbogram: payload length 0 and hop-by-hop options.
fn bad_extension() -> Rig {
    let mut packet = [0; 48];
    packet[0] = 0x60;
    outside(&packet)
}

fn bad_fragment() -> Rig {
    let mut packet = craft::tcp(at(A, 1000), at(S1, 80), TcpFlags::SYN, 1, b"");
    packet[7] = 1;
    fix_header(&mut packet);
    inside(&packet)
}

fn filtered() -> Rig {
    let mut rig = inside(&query());
    let port = source_port(&rig.sent_outside()[0]);
    rig.outside(&craft::udp(at(S2, 53), at(X, port), b"uninvited"));
    rig
}

/// Every port is a certain one of a block, and the host must agree.
fn in_leased_blocks(config: &mut GatewayConfig) {
    config.nat.leased = true;
    config.nat.policy.choice = PortChoice::Block { subscribers: Prefix::new(A, 24), size: 64 };
}

/// As the runtime does it: a packet that wants port after port is dropped in the end.
fn a_host_that_refuses(rig: &mut Rig) {
    let packet = craft::udp(at(A, 1000), at(S1, 53), b"");
    let mut asked = BTreeSet::new();
    for _ in 0..8 {
        let Fate::Wants(protocol, outside) = rig.from(MAC_A, &packet) else { panic!("it was given a port") };
        assert!(asked.insert(outside), "{outside} is asked for again");
        rig.gateway.lease_refused(protocol, outside, rig.now);
    }
    assert_eq!(rig.gateway.give_up(), Fate::Dropped(DropReason::Refused(Refusal::PortUnleased)));
}

fn two_ports(rig: &mut Rig) {
    for port in [1000, 1001] {
        rig.from(MAC_A, &craft::udp(at(A, port), at(S1, 53), b""));
    }
}

fn two_remotes(rig: &mut Rig) {
    for remote in [S1, S2] {
        rig.from(MAC_A, &craft::udp(at(A, 1000), at(remote, 53), b""));
    }
}

/// What a router says about a packet from `source` to S1:53.
fn error_about(source: std::net::SocketAddrV4, to: Ipv4Addr) -> Vec<u8> {
    craft::icmp_error(IcmpError::HostUnreachable, R9, to, &craft::udp(source, at(S1, 53), b"query"))
}

fn error_misaddressed() -> Rig {
    let other = Ipv4Addr::new(203, 0, 113, 2);
    let mut config = config();
    config.nat.external.push(IpAddr::V4(other));
    let mut rig = Rig::with(config);
    rig.from(MAC_A, &query());
    let sent = rig.sent_outside().remove(0);
    let receiver = if source(&sent) == X { other } else { X };
    rig.outside(&error_about(at(source(&sent), source_port(&sent)), receiver));
    rig
}

/// A SYN from A, and A's port at the uplink.
fn syn_sent() -> (Rig, u16) {
    let mut rig = inside(&craft::tcp(at(A, 1000), at(S1, 80), TcpFlags::SYN, 1, b""));
    let port = source_port(&rig.sent_outside()[0]);
    (rig, port)
}

fn out_of_window() -> Rig {
    let (mut rig, port) = syn_sent();
    rig.outside(&craft::tcp(at(S1, 80), at(X, port), TcpFlags::RST, 1, b""));
    rig
}

fn error_out_of_window() -> Rig {
    let (mut rig, port) = syn_sent();
    let never_sent = craft::tcp(at(X, port), at(S1, 80), TcpFlags::ACK, 1_000_000, b"");
    rig.outside(&craft::icmp_error(IcmpError::HostUnreachable, R9, X, &never_sent));
    rig
}

fn to_a_published_port(rig: &mut Rig) {
    let (outside, inside) = (Endpoint::new(X, 8053), Endpoint::new(B, 53));
    let publish = Command::Publish { protocol: Protocol::Udp, outside, inside };
    assert_eq!(rig.gateway.apply(publish, rig.now, &mut ()), Reply::Done);
    rig.from(MAC_A, &craft::udp(at(A, 1000), at(X, 8053), b""));
}

fn to_the_host(rig: &mut Rig) {
    rig.from(MAC_A, &craft::tcp(at(A, 1000), at(X, 22), TcpFlags::SYN, 1, b""));
}

fn protocol_taken() -> Rig {
    const GRE: u8 = 47;
    let mut rig = Rig::new();
    for (mac, ip) in [(MAC_A, A), (MAC_B, B)] {
        rig.from(mac, &with_protocol(craft::udp(at(ip, 0), at(S1, 0), b""), GRE));
    }
    rig
}

/// B sends in A's name.
fn mac_mismatch() -> Rig {
    let mut rig = Rig::new();
    rig.from(MAC_B, &query());
    rig
}

fn short_frame() -> Rig {
    let mut rig = Rig::new();
    rig.frame(&[0; 13]);
    rig
}

fn bad_arp() -> Rig {
    let mut rig = Rig::new();
    rig.frame(&arp(1, MAC_A, GATEWAY, MacAddr([0; 6]), GATEWAY));
    rig
}

/// A rig with IPv6 that has received this frame.
fn neighbor(frame: &[u8]) -> Rig {
    let mut rig = v6::rig();
    rig.frame(frame);
    rig
}

fn router_advertisement() -> Vec<u8> {
    let message = [&[134, 0, 0, 0, 64, 0, 7, 8][..], &[0; 8]].concat();
    let packet = v6::icmp6(v6::LINK_LOCAL_A, v6::ALL_NODES, 255, &message);
    v6::framed(MAC_A, v6::group_mac(v6::ALL_NODES), &packet)
}

fn bad_mtu() -> Rig {
    let mut rig = v6::rig();
    rig.outside(&v6::too_big(v6::X6, 1279, &craft::udp((v6::X6, 40000), (v6::S1_6, 53), b"query")));
    rig
}

fn unmapped_address() -> Rig {
    let mut rig = v6::rig_with(v6::translating());
    rig.outside(&craft::udp((v6::S1_6, 53), (Ipv6Addr::new(0x2001, 0xdb8, 1, 0xffff, 0, 0, 0, 1), 53), b""));
    rig
}

fn redirect() -> Vec<u8> {
    const REDIRECT: u8 = 5;
    let mut packet = craft::echo(A, S1, true, 1, 1, &query());
    packet[20] = REDIRECT;
    fix_icmp(&mut packet);
    packet
}

/// The second fragment of a datagram from A, and those behind it: 48 bytes of payload each.
fn later_fragments() -> Vec<Vec<u8>> {
    let whole = fragmentable(craft::udp(at(A, 1000), at(S1, 53), &[7; 4000]), 77);
    fragment::fragments(&whole, 68).unwrap().split_off(1)
}

fn fragment_orphan() -> Rig {
    let mut rig = inside(&later_fragments()[0]);
    rig.wait(20_000);
    rig
}

fn fragment_limit() -> Rig {
    let mut rig = Rig::new();
    for piece in &later_fragments()[..65] {
        rig.from(MAC_A, piece);
    }
    rig
}

fn fragment_overlap() -> Rig {
    let mut rig = Rig::new();
    let datagram = |length| fragmentable(craft::udp(at(A, 1000), at(S1, 53), &vec![0; length]), 9);
    let pieces = fragment::fragments(&datagram(3000), 1500).unwrap();
    let others = fragment::fragments(&datagram(3000), 1000).unwrap();
    rig.from(MAC_A, &pieces[0]);
    rig.from(MAC_A, &others[1]);
    rig
}

fn no_neighbor() -> Rig {
    let silent = Ipv4Addr::new(10, 0, 0, 4);
    let mut rig = Rig::new();
    rig.from(MAC_B, &craft::udp(at(silent, 1000), at(S1, 53), b""));
    let port = source_port(&rig.sent_outside()[0]);
    rig.outside(&craft::udp(at(S1, 53), at(X, port), b""));
    for _ in 0..4 {
        rig.wait(1000);
    }
    rig
}

fn neighbor_limit() -> Rig {
    with(
        |config| config.hosts = 2,
        |rig| {
            let third = Ipv4Addr::new(10, 0, 0, 4);
            rig.frame(&arp(1, MAC_B, third, MacAddr([0; 6]), GATEWAY));
        },
    )
}
