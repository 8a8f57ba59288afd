//! Exempt packets and new configurations in the box as a whole: what holds for packets that are
//! not translated, and what is left when subnets go.
#![allow(clippy::unwrap_used)]

#[path = "support/bytes.rs"]
mod bytes;
mod support;

use bytes::{fragmentable, with_ttl};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use support::*;
use tapnat::flow::{Alias, LinkInfo, Prefix, Protocol, TcpFlags};
use tapnat::gateway::{ALIASES, Command, DropReason, Fate, GatewayConfig, INSIDE, OUTSIDE, Reply, Subnet};
use tapnat::nat::{Exemption, Refusal};
use tapnat::wire::craft::{self, IcmpError, Tcp};
use tapnat::wire::fragment;

/// S1 is exempt, S2 is not.
fn exempting() -> GatewayConfig {
    let mut config = config();
    config.nat.exempt = vec![Exemption { remote: Prefix::new(S1, 32), protocol: None, ports: None }];
    config
}

fn passed(rig: &mut Rig, word: &str) -> u64 {
    let reply = rig.gateway.apply(Command::Counters, rig.now, &mut ());
    let Reply::Counters(view, _) = reply else { panic!("{reply:?}") };
    view.passed.iter().find(|(known, _)| *known == word).unwrap().1
}

fn reconfigure(rig: &mut Rig, config: GatewayConfig) -> (usize, usize) {
    let reply = rig.gateway.apply(Command::Reconfigure(Box::new(config)), rig.now, &mut ());
    let Reply::Reconfigured { kept, ended } = reply else { panic!("{reply:?}") };
    (kept, ended)
}

/// Row 72.
#[test]
fn an_exempt_packet_loses_a_hop_and_nothing_else_and_its_answer_comes_back() {
    let mut rig = Rig::with(exempting());
    let sent = craft::udp(at(A, 1000), at(S1, 53), b"question");
    assert_eq!(rig.from(MAC_A, &sent), Fate::Pass(OUTSIDE));
    let out = rig.sent_outside().remove(0);
    assert_eq!((source(&out), out[8], &out[20..]), (A, sent[8] - 1, &sent[20..]));
    assert_eq!(word(&out, 4), word(&sent, 4), "the identification is its sender's");
    assert!(sums_are_right(&out));
    let answer = craft::udp(at(S1, 53), at(A, 1000), b"answer");
    assert_eq!(rig.outside(&answer), Fate::Pass(INSIDE));
    let (mac, back) = rig.sent_inside().remove(0);
    assert_eq!((mac, source(&back), destination(&back), back[8]), (MAC_A, S1, A, answer[8] - 1));
    assert_eq!(back[20..], answer[20..]);
    assert!(sums_are_right(&back));
    assert_eq!((passed(&mut rig, "exempt-out-packets"), passed(&mut rig, "exempt-in-packets")), (1, 1));
    assert_eq!(passed(&mut rig, "exempt-out-bytes"), sent.len() as u64);
    assert_eq!(rig.gateway.counts().sessions, 0);
}

/// The invariant that no inside address leaves, but for exempt packets.
#[test]
fn to_others_no_inside_address_leaves_and_from_others_none_is_reached() {
    let mut rig = Rig::with(exempting());
    rig.from(MAC_A, &craft::udp(at(A, 1000), at(S2, 53), b""));
    assert_eq!(source(&rig.sent_outside().remove(0)), X);
    let not_ours = Fate::Dropped(DropReason::NotOurAddress);
    assert_eq!(rig.outside(&craft::udp(at(S2, 53), at(A, 1000), b"")), not_ours);
    // Not even an exempt remote reaches the gateway's own address, or the subnet's broadcast.
    assert_eq!(rig.outside(&craft::udp(at(S1, 53), at(GATEWAY, 1000), b"")), not_ours);
    let broadcast = Ipv4Addr::new(10, 0, 0, 255);
    assert_eq!(rig.outside(&craft::udp(at(S1, 53), at(broadcast, 1000), b"")), not_ours);
    assert_eq!(rig.outside(&craft::udp(at(S1, 53), at(Ipv4Addr::new(10, 9, 9, 9), 1), b"")), not_ours);
    let mut plain = Rig::new();
    assert_eq!(plain.outside(&craft::udp(at(S1, 53), at(A, 1000), b"")), not_ours);
}

#[test]
fn the_other_checks_hold_for_exempt_packets_too() {
    let mut rig = Rig::with(exempting());
    let spoofed = craft::udp(at(Ipv4Addr::new(10, 9, 9, 9), 1), at(S1, 53), b"");
    assert_eq!(rig.from(MAC_A, &spoofed), Fate::Dropped(DropReason::SpoofedSource));
    let mut config = exempting();
    config.nat.exempt[0].remote = Prefix::new(Ipv4Addr::UNSPECIFIED, 0);
    let mut all = Rig::with(config);
    let martian = Fate::Dropped(DropReason::MartianDestination);
    assert_eq!(all.from(MAC_A, &craft::udp(at(A, 1), at(Ipv4Addr::LOCALHOST, 1), b"")), martian);
    let from_inside = craft::udp(at(B, 1), at(A, 1), b"");
    assert_eq!(all.outside(&from_inside), Fate::Dropped(DropReason::MartianSource));
    let ours = craft::udp(at(X, 1), at(A, 1), b"");
    assert_eq!(all.outside(&ours), Fate::Dropped(DropReason::NotOurAddress));
    // A packet for our own address is translated as ever.
    all.outside(&craft::udp(at(S2, 1), at(X, 9), b""));
    assert!(all.sent.is_empty());
}

#[test]
fn an_exempt_packet_whose_hops_are_used_up_is_reported_to_its_sender() {
    let mut rig = Rig::with(exempting());
    let out = with_ttl(craft::udp(at(A, 1000), at(S1, 53), b""), 1);
    assert_eq!(rig.from(MAC_A, &out), Fate::Dropped(DropReason::TtlExpired));
    let (_, error) = rig.sent_inside().remove(0);
    assert_eq!((source(&error), error[20], &error[28..]), (GATEWAY, 11, &out[..]));
    let back = with_ttl(craft::udp(at(S1, 53), at(A, 1000), b""), 1);
    assert_eq!(rig.outside(&back), Fate::Dropped(DropReason::TtlExpired));
    let error = rig.sent_outside().remove(0);
    assert_eq!((source(&error), destination(&error), error[20]), (X, S1, 11), "in our own name");
    assert!(sums_are_right(&error));
}

#[test]
fn size_and_mss_are_looked_after_for_exempt_packets() {
    let mut config = exempting();
    config.outside = LinkInfo::plain(1280, 0);
    let mut rig = Rig::with(config);
    let syn = Tcp { flags: TcpFlags::SYN, mss: Some(1460), ..Tcp::default() };
    rig.from(MAC_A, &syn.packet(at(A, 1000), at(S1, 80), b""));
    let out = rig.sent_outside().remove(0);
    assert_eq!((source(&out), word(&out, 42)), (A, 1240));
    assert!(sums_are_right(&out));
    let whole = craft::udp(at(A, 1000), at(S1, 53), &[7; 1400]);
    let big = fragmentable(whole.clone(), 77);
    assert_eq!(rig.from(MAC_A, &big), Fate::Cut(OUTSIDE));
    let pieces = rig.sent_outside();
    assert!(pieces.iter().all(|piece| source(piece) == A && word(piece, 4) == 77));
    assert_eq!(rig.from(MAC_A, &whole), Fate::Dropped(DropReason::TooBig));
    let (_, error) = rig.sent_inside().remove(0);
    assert_eq!((error[20], error[21], word(&error, 26)), (3, 4, 1280));
}

#[test]
fn fragments_of_exempt_datagrams_follow_their_first_in_any_order() {
    let mut config = exempting();
    config.nat.exempt[0].ports = Some(53..=53);
    let mut rig = Rig::with(config);
    let cut = |packet: Vec<u8>, number| fragment::fragments(&fragmentable(packet, number), 800).unwrap();
    let out = cut(craft::udp(at(A, 1000), at(S1, 53), &[7; 1400]), 1);
    assert_eq!(rig.from(MAC_A, &out[1]), Fate::Held);
    assert_eq!(rig.from(MAC_A, &out[0]), Fate::Pass(OUTSIDE));
    let sent = rig.sent_outside();
    assert_eq!(sent.len(), 2);
    assert!(sent.iter().all(|piece| source(piece) == A && word(piece, 4) == 1));
    let back = cut(craft::udp(at(S1, 53), at(A, 1000), &[7; 1400]), 2);
    assert_eq!(rig.outside(&back[1]), Fate::Held);
    assert_eq!(rig.outside(&back[0]), Fate::Pass(INSIDE));
    assert!(rig.sent_inside().iter().all(|(mac, piece)| *mac == MAC_A && destination(piece) == A));
    // Of another port only the first fragment shows that it is not exempt; the rest waits in vain.
    let other = cut(craft::udp(at(S1, 54), at(A, 1000), &[7; 1400]), 3);
    assert_eq!(rig.outside(&other[1]), Fate::Held);
    assert_eq!(rig.outside(&other[0]), Fate::Dropped(DropReason::NotOurAddress));
    rig.wait(60_000);
    assert!(rig.sent_inside().is_empty());
}

#[test]
fn a_router_may_report_about_an_exempt_packet_to_its_sender() {
    let mut rig = Rig::with(exempting());
    let sent = craft::udp(at(A, 1000), at(S1, 53), b"question");
    let error = craft::icmp_error(IcmpError::TooBig { mtu: 1300 }, R9, A, &sent);
    assert_eq!(rig.outside(&error), Fate::Pass(INSIDE));
    let (mac, back) = rig.sent_inside().remove(0);
    assert_eq!((mac, source(&back), &back[20..]), (MAC_A, R9, &error[20..]));
    let other = craft::udp(at(A, 1000), at(S2, 53), b"question");
    let error = craft::icmp_error(IcmpError::PortUnreachable, R9, A, &other);
    assert_eq!(rig.outside(&error), Fate::Dropped(DropReason::NotOurAddress));
    let came = craft::udp(at(S1, 53), at(A, 1000), b"answer");
    let error = craft::icmp_error(IcmpError::PortUnreachable, A, S1, &came);
    assert_eq!(rig.from(MAC_A, &error), Fate::Pass(OUTSIDE));
    let out = rig.sent_outside().remove(0);
    assert_eq!((source(&out), &out[20..]), (A, &error[20..]));
}

// ---- a new configuration ---------------------------------------------------------------------

const SECOND: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);
const D: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 2);

fn two_subnets() -> GatewayConfig {
    let mut config = config();
    config.subnets.push(Subnet { gateway: SECOND.into(), prefix: 24, only: None });
    config
}

#[test]
fn a_subnet_that_is_added_works_and_flows_of_the_others_go_on() {
    let mut rig = Rig::new();
    rig.from(MAC_A, &craft::udp(at(A, 1000), at(S1, 53), b""));
    let x = source_port(&rig.sent_outside().remove(0));
    assert_eq!(reconfigure(&mut rig, two_subnets()), (1, 0));
    let answer = craft::udp(at(S1, 53), at(X, x), b"");
    assert_eq!(rig.outside(&answer), Fate::Pass(INSIDE));
    assert_eq!(rig.from(MAC_B, &craft::udp(at(D, 1), at(S1, 53), b"")), Fate::Pass(OUTSIDE));
}

#[test]
fn a_subnet_that_goes_takes_its_sessions_and_forwards() {
    let mut rig = Rig::with(two_subnets());
    for (mac, host) in [(MAC_A, A), (MAC_B, D)] {
        rig.from(mac, &craft::udp(at(host, 1000), at(S1, 53), b""));
    }
    let [a, d] = [0, 1].map(|n| source_port(&rig.sent[n].1));
    for (port, inside) in [(80, A), (81, D)] {
        let outside = at(X, port).into();
        let (outside, inside) = (endpoint(outside), endpoint(at(inside, 80).into()));
        let publish = Command::Publish { protocol: Protocol::Tcp, outside, inside };
        assert_eq!(rig.gateway.apply(publish, rig.now, &mut ()), Reply::Done);
    }
    assert_eq!(reconfigure(&mut rig, config()), (1, 1));
    assert_eq!(rig.outside(&craft::udp(at(S1, 53), at(X, a), b"")), Fate::Pass(INSIDE));
    let gone = Fate::Dropped(DropReason::Refused(Refusal::NoMapping));
    assert_eq!(rig.outside(&craft::udp(at(S1, 53), at(X, d), b"")), gone);
    let Reply::Published(left) = rig.gateway.apply(Command::Published, rig.now, &mut ()) else { panic!() };
    assert_eq!(left.len(), 1);
    let spoofed = Fate::Dropped(DropReason::SpoofedSource);
    assert_eq!(rig.from(MAC_B, &craft::udp(at(D, 1000), at(S1, 53), b"")), spoofed);
}

fn endpoint(address: std::net::SocketAddr) -> tapnat::flow::Endpoint {
    tapnat::flow::Endpoint::new(address.ip(), address.port())
}

#[test]
fn sizes_and_bounds_change_without_ending_anything() {
    let mut rig = Rig::new();
    rig.from(MAC_A, &craft::udp(at(A, 1000), at(S1, 53), b""));
    rig.sent.clear();
    let mut changed = config();
    changed.outside.mtu = 1300;
    (changed.hosts, changed.error_burst) = (2, 1);
    assert_eq!(reconfigure(&mut rig, changed), (1, 0));
    let big = craft::udp(at(A, 1000), at(S1, 53), &[7; 1400]);
    for _ in 0..3 {
        assert_eq!(rig.from(MAC_A, &big), Fate::Dropped(DropReason::TooBig));
    }
    let errors = rig.sent_inside();
    assert_eq!((errors.len(), word(&errors[0].1, 26)), (1, 1300), "told once: the burst is one");
}

/// Of a datagram under way the rest must not go by a decision that does not hold any more.
#[test]
fn a_fragment_never_follows_a_decision_from_before_the_change() {
    let mut rig = Rig::new();
    let packet = fragmentable(craft::udp(at(A, 1000), at(S1, 53), &[7; 1400]), 1);
    let pieces = fragment::fragments(&packet, 800).unwrap();
    assert_eq!(rig.from(MAC_A, &pieces[0]), Fate::Pass(OUTSIDE));
    let mut changed = config();
    changed.nat.external = vec![IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9))];
    assert_eq!(reconfigure(&mut rig, changed), (0, 1));
    assert_eq!(rig.from(MAC_A, &pieces[1]), Fate::Held);
    rig.wait(60_000);
    assert_eq!(rig.sent_outside().len(), 1);
}

#[test]
fn what_belongs_to_the_links_stays_as_it_is() {
    let mut rig = Rig::new();
    let mut changed = config();
    changed.mac = MAC_B;
    changed.outside = LinkInfo::plain(1400, 0);
    changed.nat.leased = true;
    reconfigure(&mut rig, changed);
    let now = rig.gateway.config();
    assert_eq!((now.mac, now.outside, now.nat.leased), (MAC, LinkInfo::offloading(1400, 0), false));
}

/// Another external address.
const Y: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

fn with_externals(external: &[Ipv4Addr], retired: &[Ipv4Addr]) -> GatewayConfig {
    let all = |ips: &[Ipv4Addr]| ips.iter().copied().map(IpAddr::V4).collect();
    let mut config = config();
    config.nat.external = all(external);
    config.nat.retired = all(retired);
    config
}

/// A TCP connection of A with S1; the outside port. The remote has sent 1000..1011, of which A has
/// acknowledged what is before 1006.
fn connected(rig: &mut Rig) -> u16 {
    let (a, s1) = (at(A, 1000), at(S1, 80));
    let (ack, syn_ack) = (TcpFlags::ACK, TcpFlags::SYN.with(TcpFlags::ACK));
    rig.from(MAC_A, &craft::tcp(a, s1, TcpFlags::SYN, 500, b""));
    let port = source_port(&rig.sent_outside().remove(0));
    let tcp = |flags, sequence, acknowledgment| Tcp { flags, sequence, acknowledgment, ..Tcp::default() };
    rig.outside(&tcp(syn_ack, 999, 501).packet(s1, at(X, port), b""));
    rig.from(MAC_A, &tcp(ack, 501, 1000).packet(a, s1, b""));
    rig.outside(&tcp(ack, 1000, 501).packet(s1, at(X, port), b"hello!"));
    rig.from(MAC_A, &tcp(ack, 501, 1006).packet(a, s1, b""));
    rig.outside(&tcp(ack, 1006, 501).packet(s1, at(X, port), b"more."));
    rig.sent.clear();
    port
}

#[test]
fn connections_of_an_address_that_is_gone_are_reset_inside() {
    let mut rig = Rig::with(with_externals(&[X], &[]));
    connected(&mut rig);
    rig.from(MAC_B, &craft::udp(at(B, 1000), at(S1, 53), b"no connection"));
    assert_eq!(reconfigure(&mut rig, with_externals(&[Y], &[])), (0, 2));
    let mut out = tapnat::gateway::Outbox::default();
    assert!(rig.gateway.tell_cut(rig.now, &mut out));
    assert!(!rig.gateway.tell_cut(rig.now, &mut out), "each is told once");
    let resets: Vec<Vec<u8>> = out.packets.iter().map(|(_, frame)| frame.bytes()[14..].to_vec()).collect();
    let sequence = |packet: &[u8]| u32::from_be_bytes(packet[24..28].try_into().unwrap());
    assert_eq!(resets.iter().map(|reset| sequence(reset)).collect::<Vec<_>>(), [1006, 1011]);
    for reset in &resets {
        assert_eq!((source(reset), source_port(reset)), (S1, 80));
        assert_eq!((destination(reset), destination_port(reset), reset[33]), (A, 1000, 4));
        assert!(sums_are_right(reset));
    }
    rig.sent.clear();
    // Of datagrams the next one is told, and the one after it goes on.
    let datagram = craft::udp(at(B, 1000), at(S1, 53), b"goes on by itself");
    let lost = Fate::Dropped(DropReason::Refused(Refusal::AddressLost));
    assert_eq!(rig.from(MAC_B, &datagram), lost);
    let (mac, told) = rig.sent_inside().remove(0);
    assert_eq!((mac, told[20], told[21]), (MAC_B, 3, 13));
    assert_eq!(rig.from(MAC_B, &datagram), Fate::Pass(OUTSIDE));
    assert_eq!(source(&rig.sent_outside().remove(0)), Y);
}

#[test]
fn a_retired_address_keeps_its_flows_and_gets_no_new_ones() {
    let mut rig = Rig::with(with_externals(&[X], &[]));
    let port = connected(&mut rig);
    assert_eq!(reconfigure(&mut rig, with_externals(&[Y, X], &[X])), (1, 0));
    let on = Tcp { flags: TcpFlags::ACK, sequence: 501, acknowledgment: 1011, ..Tcp::default() };
    rig.from(MAC_A, &on.packet(at(A, 1000), at(S1, 80), b"on"));
    let sent = rig.sent_outside().remove(0);
    assert_eq!((source(&sent), source_port(&sent)), (X, port));
    for (mac, from) in [(MAC_A, at(A, 1001)), (MAC_B, at(B, 1000))] {
        rig.from(mac, &craft::tcp(from, at(S1, 80), TcpFlags::SYN, 1, b""));
        assert_eq!(source(&rig.sent_outside().remove(0)), Y, "{from}");
    }
    let mut out = tapnat::gateway::Outbox::default();
    assert!(!rig.gateway.tell_cut(rig.now, &mut out));
    assert_eq!(reconfigure(&mut rig, with_externals(&[Y], &[])), (2, 1));
    assert!(rig.gateway.tell_cut(rig.now, &mut out));
}

#[test]
fn where_no_route_leads_is_told_to_who_asks() {
    let mut rig = Rig::new();
    let question = craft::udp(at(A, 1000), at(S1, 53), b"question");
    assert_eq!(rig.from(MAC_A, &question), Fate::Pass(OUTSIDE));
    let mut without = config();
    without.reach.four = Some(vec![Prefix::new(S2, 32)]);
    without.aliases =
        vec![Alias { inside: GATEWAY.into(), port: Some(53), host: SocketAddr::from(([127, 0, 0, 53], 53)) }];
    assert_eq!(reconfigure(&mut rig, without), (1, 0));
    rig.sent.clear();
    assert_eq!(rig.from(MAC_A, &question), Fate::Dropped(DropReason::NoRoute));
    let (mac, told) = rig.sent_inside().remove(0);
    assert_eq!((mac, &told[20..22], destination(&told)), (MAC_A, &[3, 0][..], A), "network unreachable");
    assert_eq!(rig.from(MAC_A, &craft::udp(at(A, 1000), at(S2, 53), b"")), Fate::Pass(OUTSIDE));
    assert_eq!(
        rig.from(MAC_B, &craft::udp(at(B, 1000), at(S1, 53), b"")),
        Fate::Dropped(DropReason::NoRoute)
    );
    // What stays on the host needs no route, and neither does what comes back inside.
    let resolver = craft::udp(at(A, 1000), at(GATEWAY, 53), b"question");
    assert_eq!(rig.from(MAC_A, &resolver), Fate::Pass(ALIASES));
    assert_eq!(reconfigure(&mut rig, config()), (3, 0), "what leads nowhere opens no session");
    assert_eq!(rig.from(MAC_A, &question), Fate::Pass(OUTSIDE));
}
