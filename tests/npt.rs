//! Prefix translation (RFC 6296): the arithmetic, and packets through the gateway.
#![allow(clippy::unwrap_used)]

mod support;
#[path = "support/v6.rs"]
mod v6;

use proptest::prelude::*;
use std::net::Ipv6Addr;
use support::{MAC, MAC_A, MAC_B, Rig};
use tapnat::flow::{LinkInfo, Prefix, Protocol, TcpFlags};
use tapnat::gateway::{DropReason, Fate, HOST, INSIDE, OUTSIDE, Outbox, Subnet};
use tapnat::nat::{EgressRule, PrefixTranslation, PrefixTranslationError, Refusal, Step, Unmapped};
use tapnat::wire::craft::{self, IcmpError};
use tapnat::wire::{Buffer, checksum};
use v6::*;

fn ip(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn prefix(text: &str, length: u8) -> Prefix {
    Prefix::new(ip(text), length)
}

fn pair(inside: (&str, u8), outside: (&str, u8)) -> PrefixTranslation {
    PrefixTranslation::new(prefix(inside.0, inside.1), prefix(outside.0, outside.1)).unwrap()
}

fn both_ways(pair: PrefixTranslation, inside: &str, outside: &str) {
    assert_eq!(pair.outward(ip(inside)), Ok(ip(outside)));
    assert_eq!(pair.inward(ip(outside)), Ok(ip(inside)));
}

#[test]
fn the_example_of_rfc_6296() {
    let pair = pair(("fd01:203:405::", 48), ("2001:db8:1::", 48));
    both_ways(pair, "fd01:203:405:1::1234", "2001:db8:1:d550::1234");
}

#[test]
fn prefixes_longer_than_48_bits_adjust_the_first_free_word_of_the_identifier() {
    let pair = pair(("fd01:203:405:600::", 56), ("2001:db8:1:200::", 56));
    let adjustment: u16 = 0xd54f + 0x0400;
    both_ways(pair, "fd01:203:405:6ab:1:0:0:7", &format!("2001:db8:1:2ab:{:x}::7", adjustment + 1));
    let next = format!("2001:db8:1:2ab:ffff:{:x}::7", adjustment + 2);
    both_ways(pair, "fd01:203:405:6ab:ffff:2:0:7", &next);
    let last = format!("2001:db8:1:2ab:ffff:ffff:ffff:{:x}", adjustment + 3);
    both_ways(pair, "fd01:203:405:6ab:ffff:ffff:ffff:3", &last);
}

#[test]
fn ffff_is_written_as_zero_and_a_subnet_ffff_is_not_mapped() {
    let pair = pair(("fd01:203:405::", 48), ("2001:db8:1::", 48));
    // 2ab0 + d54f = ffff.
    both_ways(pair, "fd01:203:405:2ab0::1", "2001:db8:1::1");
    assert_eq!(pair.outward(ip("fd01:203:405:ffff::1")), Err(Unmapped::Subnet));
    assert_eq!(pair.inward(ip("2001:db8:1:ffff::1")), Err(Unmapped::Subnet));
}

#[test]
fn identifiers_of_all_zeros_or_all_ones_are_not_mapped() {
    let short = pair(("fd01:203:405::", 48), ("2001:db8:1::", 48));
    assert_eq!(short.outward(ip("fd01:203:405:1::")), Err(Unmapped::Identifier));
    assert_eq!(short.inward(ip("2001:db8:1:1::")), Err(Unmapped::Identifier));
    let long = pair(("fd01:203:405:1::", 64), ("2001:db8:1:1::", 64));
    assert_eq!(long.outward(ip("fd01:203:405:1:ffff:ffff:ffff:ffff")), Err(Unmapped::Identifier));
    // It would come out as all zeros, and its answers could not come back.
    assert_eq!(long.outward(ip("fd01:203:405:1:2ab0::")), Err(Unmapped::Identifier));
}

#[test]
fn of_two_lengths_the_shorter_prefix_has_only_its_first_subnets_translated() {
    let pair = pair(("fd01:203:405::", 48), ("2001:db8:1:500::", 56));
    let adjustment: u16 = 0xd54f - 0x500;
    both_ways(pair, "fd01:203:405:7:1:0:0:2", &format!("2001:db8:1:507:{:x}::2", adjustment + 1));
    assert_eq!(pair.outward(ip("fd01:203:405:107:1:0:0:2")), Err(Unmapped::Subnet));
}

#[test]
fn prefixes_that_make_no_translation_are_refused() {
    let new = |inside, outside| PrefixTranslation::new(inside, outside).unwrap_err();
    let (ours, theirs) = (prefix("fd01::", 48), prefix("2001:db8::", 65));
    assert_eq!(new(ours, theirs), PrefixTranslationError::Length);
    assert_eq!(new(prefix("fd01::", 0), ours), PrefixTranslationError::Length);
    assert_eq!(new(ours, prefix("fd01::", 64)), PrefixTranslationError::Overlap);
    let v4 = Prefix::new(std::net::Ipv4Addr::LOCALHOST, 8);
    assert_eq!(new(ours, v4), PrefixTranslationError::Family);
}

/// The sum of an address as a checksum takes it, with one form of zero.
fn sum(ip: Ipv6Addr) -> u16 {
    match checksum::sum(&ip.octets()) {
        0xffff => 0,
        sum => sum,
    }
}

proptest! {
    #[test]
    fn every_mapped_address_comes_back_and_no_checksum_notices(
        inside in any::<u128>(), outside in any::<u128>(), host in any::<u128>(),
        lengths in (1u8..=64, 1u8..=64), ones in 0usize..5,
    ) {
        let inside = Prefix::new(Ipv6Addr::from_bits(inside), lengths.0);
        let outside = Prefix::new(Ipv6Addr::from_bits(outside), lengths.1);
        let Ok(pair) = PrefixTranslation::new(inside, outside) else { return Ok(()) };
        let longest = lengths.0.max(lengths.1);
        let std::net::IpAddr::V6(first) = pair.inside().ip else { unreachable!() };
        // Identifiers that begin with words of ones are the ones to look at.
        let words = (u128::from(u64::MAX) << 64 >> (16 * ones)) & u128::from(u64::MAX);
        let host = (host | if ones > 0 { words } else { 0 }) & (u128::MAX >> longest);
        let ip = Ipv6Addr::from_bits(first.to_bits() | host);
        if let Ok(mapped) = pair.outward(ip) {
            prop_assert!(outside.covers(mapped.into()));
            prop_assert_eq!(sum(mapped), sum(ip));
            prop_assert_eq!(pair.inward(mapped), Ok(ip));
        }
    }
}

/// A and B as the world knows them behind [`translating`]: fd00:0:0 sums to cf46 more than
/// 2001:db8:1 in ones' complement.
const OUT_A: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0xcf47, 0, 0, 0, 0xa);
const OUT_B: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0xcf47, 0, 0, 0, 0xb);

fn dropped(reason: DropReason) -> Fate {
    Fate::Dropped(reason)
}

/// One packet of every kind that has a checksum or hides one.
fn kinds(source: Ipv6Addr, destination: Ipv6Addr) -> Vec<Vec<u8>> {
    let udp = craft::udp((source, 1000), (destination, 53), &[7; 2001]);
    let mut kinds = vec![
        craft::udp((source, 1000), (destination, 53), b"query"),
        craft::tcp((source, 1000), (destination, 80), TcpFlags::ACK, 9, b"in the middle"),
        craft::tcp((source, 1000), (destination, 80), TcpFlags::SYN, 9, b""),
        craft::echo(source, destination, true, 7, 1, b"ping"),
        craft::echo(source, destination, false, 7, 1, b"pong"),
        ip6(source, destination, 50, 64, &[9; 60]),
        ip6(source, destination, 132, 64, &[9; 60]),
        extended(&craft::udp((source, 1), (destination, 2), b""), 60, &[0, 0, 1, 4, 0, 0, 0, 0]),
    ];
    kinds.extend(fragments6(&udp, 77, 1200).into_iter().rev());
    kinds
}

#[test]
fn packets_pass_both_ways_with_every_byte_behind_the_header_as_it_was() {
    let mut rig = rig_with(translating());
    for sent in kinds(A6, S1_6) {
        assert_eq!(from6(&mut rig, MAC_A, &sent), Fate::Pass(OUTSIDE));
        let out = rig.sent_outside().remove(0);
        assert_eq!((source6(&out), destination6(&out), out[7]), (OUT_A, S1_6, sent[7] - 1));
        assert_eq!(out[40..], sent[40..]);
    }
    for sent in kinds(S2_6, OUT_B) {
        assert_eq!(rig.outside(&sent), Fate::Pass(INSIDE), "nobody was asked before");
        let (mac, back) = sent6(&mut rig).remove(0);
        assert_eq!((mac, source6(&back), destination6(&back), back[7]), (MAC_B, S2_6, B6, sent[7] - 1));
        assert_eq!(back[40..], sent[40..]);
    }
    assert_eq!(rig.gateway.counts().sessions, 0, "no state");
}

#[test]
fn hairpinned_packets_are_translated_twice() {
    let mut rig = rig_with(translating());
    let sent = craft::udp((A6, 1000), (OUT_B, 53), b"query");
    assert_eq!(from6(&mut rig, MAC_A, &sent), Fate::Pass(INSIDE));
    let (mac, at_b) = sent6(&mut rig).remove(0);
    assert_eq!((mac, source6(&at_b), destination6(&at_b), &at_b[40..]), (MAC_B, OUT_A, B6, &sent[40..]));
    let refuses = craft::icmp_error(IcmpError::PortUnreachable, B6, OUT_A, &at_b);
    assert_eq!(from6(&mut rig, MAC_B, &refuses), Fate::Pass(INSIDE));
    let (mac, error) = sent6(&mut rig).remove(0);
    assert_eq!((mac, source6(&error), destination6(&error)), (MAC_A, OUT_B, A6));
    assert_eq!((source6(&error[48..]), destination6(&error[48..])), (A6, OUT_B));
    assert!(icmp6_is_right(&error));
}

#[test]
fn errors_have_their_quotes_translated_both_ways() {
    let mut rig = rig_with(translating());
    from6(&mut rig, MAC_A, &craft::udp((A6, 1000), (S1_6, 53), b"query"));
    let out = rig.sent_outside().remove(0);
    rig.outside(&craft::icmp_error(IcmpError::TtlExceeded, R9_6, OUT_A, &out));
    let (mac, error) = sent6(&mut rig).remove(0);
    assert_eq!((mac, source6(&error), destination6(&error)), (MAC_A, R9_6, A6));
    assert_eq!((source6(&error[48..]), destination6(&error[48..])), (A6, S1_6));
    assert!(icmp6_is_right(&error));
    let incoming = craft::udp((S1_6, 53), (A6, 1000), b"answer");
    from6(&mut rig, MAC_A, &craft::icmp_error(IcmpError::PortUnreachable, A6, S1_6, &incoming));
    let out = rig.sent_outside().remove(0);
    assert_eq!((source6(&out), destination6(&out)), (OUT_A, S1_6));
    assert_eq!((source6(&out[48..]), destination6(&out[48..])), (S1_6, OUT_A));
    assert!(icmp6_is_right(&out));

    let strange = craft::icmp_error(IcmpError::PortUnreachable, R9_6, OUT_B, &out[48..]);
    let misaddressed = dropped(DropReason::Refused(Refusal::ErrorMisaddressed));
    assert_eq!(rig.outside(&strange), misaddressed);
    let about_others = craft::udp((S1_6, 53), (S2_6, 1000), b"");
    let strange = craft::icmp_error(IcmpError::PortUnreachable, A6, S1_6, &about_others);
    let without = dropped(DropReason::Refused(Refusal::ErrorWithoutSession));
    assert_eq!(from6(&mut rig, MAC_A, &strange), without);
}

/// Type, code, pointer and quote of the ICMPv6 error that `packet` is.
fn error_in(packet: &[u8]) -> (u8, u8, u8, &[u8]) {
    assert!(icmp6_is_right(packet));
    (packet[40], packet[41], packet[47], &packet[48..])
}

#[test]
fn unmapped_addresses_are_answered_from_both_sides() {
    let mut config = translating();
    config.subnets.push(Subnet { gateway: ip("fd00:0:0:ffff::1").into(), prefix: 64, only: None });
    let mut rig = rig_with(config);
    let host = ip("fd00:0:0:ffff::7");
    rig.frame(&solicitation(MAC_A, host, ip("fd00:0:0:ffff::1")));
    sent6(&mut rig);
    let sent = craft::udp((host, 1000), (S1_6, 53), b"");
    assert_eq!(from6(&mut rig, MAC_A, &sent), dropped(DropReason::UnmappedAddress));
    let (mac, error) = sent6(&mut rig).remove(0);
    assert_eq!((mac, error_in(&error)), (MAC_A, (1, 0, 0, &sent[..])));

    let gateway = ip("2001:db8:1:cf47::1");
    for (to, said) in [
        ("2001:db8:1:ffff::7", (1, 0, 0)),
        ("2001:db8:1:cf47::", (4, 0, 32)),
        ("2001:db8:1:1::7", (1, 0, 0)),
        ("2001:db8:1:cf47::1", (1, 0, 0)),
    ] {
        let sent = craft::udp((S1_6, 53), (ip(to), 1000), b"");
        assert_eq!(rig.outside(&sent), dropped(DropReason::UnmappedAddress), "{to}");
        let error = rig.sent_outside().remove(0);
        let (kind, code, pointer, quote) = error_in(&error);
        assert_eq!(((kind, code, pointer), quote), (said, &sent[..]), "{to}");
        assert_eq!(destination6(&error), S1_6);
        assert_eq!(source6(&error), gateway, "the gateway's own address as the world knows it");
    }
}

#[test]
fn errors_of_our_own_come_from_the_gateway_s_translated_address() {
    let mut config = translating();
    config.inside = LinkInfo::offloading(1300, 14);
    let mut rig = rig_with(config);
    let last = with_hops(craft::udp((S1_6, 53), (OUT_A, 1000), b""), 1);
    assert_eq!(rig.outside(&last), dropped(DropReason::TtlExpired));
    let large = craft::udp((S1_6, 53), (OUT_A, 1000), &[0; 1300]);
    assert_eq!(rig.outside(&large), dropped(DropReason::TooBig));
    let errors = rig.sent_outside();
    for (error, kind) in errors.iter().zip([3, 2]) {
        assert_eq!((source6(error), error[40]), (ip("2001:db8:1:cf47::1"), kind));
    }
}

#[test]
fn a_silent_host_is_reported_by_its_outside_address() {
    let mut rig = rig_with(translating());
    let silent = ip("2001:db8:1:cf47::99");
    let sent = craft::udp((S1_6, 53), (silent, 1000), b"anybody?");
    assert_eq!(rig.outside(&sent), Fate::Held);
    (0..4).for_each(|_| rig.wait(1000));
    let error = rig.sent_outside().remove(0);
    let (kind, code, _, quote) = error_in(&error);
    assert_eq!((source6(&error), kind, code, destination6(quote)), (silent, 1, 3, silent));
}

#[test]
fn the_host_is_reached_and_answers_by_the_host_link() {
    let mut rig = rig_with(translating());
    assert_eq!(from6(&mut rig, MAC_A, &craft::udp((A6, 1000), (X6, 53), b"q")), Fate::Pass(HOST));
    assert_eq!(source6(&rig.sent_to_host()[0]), OUT_A);
    assert_eq!(rig.host(&craft::udp((X6, 53), (OUT_A, 1000), b"r")), Fate::Pass(INSIDE));
    assert_eq!(sent6(&mut rig)[0].0, MAC_A);
}

#[test]
fn a_source_of_ours_from_the_wire_is_a_lie() {
    let mut rig = rig_with(translating());
    for source in [OUT_B, X6] {
        let fate = rig.outside(&craft::udp((source, 53), (OUT_A, 1000), b""));
        assert_eq!(fate, dropped(DropReason::Refused(Refusal::SourceIsOurs)), "{source}");
    }
}

// --egress allow:any:443/udp --egress deny:any
#[test]
fn egress_rules_hold_for_fragments_and_errors_too() {
    let mut config = translating();
    let (protocol, ports) = (Some(Protocol::Udp), Some(443..=443));
    let allowed = EgressRule { protocol, ports, ..EgressRule::about_all(true) };
    config.nat.egress =
        vec![EgressRule::deny(prefix("2001:db8:bad::", 48)), allowed, EgressRule::about_all(false)];
    let mut rig = rig_with(config);
    let denied = dropped(DropReason::Refused(Refusal::EgressDenied));
    let datagram = |remote, port| craft::udp((A6, 1000), (remote, port), &[7; 2001]);
    for fragment in fragments6(&datagram(S1_6, 443), 77, 1200) {
        assert_eq!(from6(&mut rig, MAC_A, &fragment), Fate::Pass(OUTSIDE));
    }
    // Where some port may be reached, the first fragment decides for the datagram.
    let fates = fragments6(&datagram(S1_6, 53), 78, 1200)
        .iter()
        .map(|sent| from6(&mut rig, MAC_A, sent))
        .collect::<Vec<_>>();
    assert_eq!(fates, [denied, Fate::Pass(OUTSIDE)]);
    for fragment in fragments6(&datagram(ip("2001:db8:bad::1"), 443), 79, 1200) {
        assert_eq!(from6(&mut rig, MAC_A, &fragment), denied);
    }
    let error = |remote, port| {
        let incoming = craft::udp((remote, port), (A6, 1000), b"what the container may write into a quote");
        craft::icmp_error(IcmpError::PortUnreachable, A6, remote, &incoming)
    };
    assert_eq!(from6(&mut rig, MAC_A, &error(S1_6, 443)), Fate::Pass(OUTSIDE));
    assert_eq!(from6(&mut rig, MAC_A, &error(S1_6, 53)), denied);
    assert_eq!(from6(&mut rig, MAC_A, &error(ip("2001:db8:bad::1"), 443)), denied);

    let (mut frame, mut steps) = (Buffer::new(), Vec::new());
    frame.fill(&framed(MAC_A, MAC, &craft::udp((A6, 1000), (S1_6, 53), b"query")));
    rig.gateway.receive(INSIDE, &mut frame, rig.now, &mut Outbox::default(), &mut steps);
    assert!(matches!(&steps[..], [Step::Denied(_, rule)] if rule.to_string() == "deny:any"), "{steps:?}");
}

/// A rig whose second subnet, with the host B, is not translated by prefix but by port.
fn mixed() -> (Rig, Ipv6Addr) {
    let mut config = translating();
    let gateway = ip("fd99::1");
    config.subnets.push(Subnet { gateway: gateway.into(), prefix: 64, only: None });
    let mut rig = rig_with(config);
    rig.frame(&solicitation(MAC_B, ip("fd99::b"), gateway));
    sent6(&mut rig);
    (rig, ip("fd99::b"))
}

#[test]
fn hosts_of_other_prefixes_are_translated_by_port() {
    let (mut rig, host) = mixed();
    assert_eq!(from6(&mut rig, MAC_B, &craft::udp((host, 1000), (S1_6, 53), b"")), Fate::Pass(OUTSIDE));
    assert_eq!(source6(&rig.sent_outside()[0]), X6);
    let between = craft::udp((host, 1000), (OUT_A, 53), b"");
    assert_eq!(from6(&mut rig, MAC_B, &between), dropped(DropReason::InsideDestination));
    let (_, error) = sent6(&mut rig).remove(0);
    assert_eq!(error_in(&error), (1, 1, 0, &between[..]));
}
