//! Egress rules about names: what a resolver's answer opens, and everything that it must not.
#![allow(clippy::unwrap_used)]

mod support;

use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use support::*;
use tapnat::flow::{Alias, Prefix, Protocol, TcpFlags};
use tapnat::gateway::{ALIASES, Command, DropReason, Fate, GatewayConfig, OUTSIDE, Reply};
use tapnat::nat::{EgressRule, NameCounts, NamePattern, Refusal};
use tapnat::wire::craft::IcmpError;
use tapnat::wire::dns::Message;
use tapnat::wire::{MacAddr, Offload, Segment, SegmentKind, craft};

const PASSES: Fate = Fate::Pass(OUTSIDE);
const DENIED: Fate = Fate::Dropped(DropReason::Refused(Refusal::EgressDenied));
/// The resolver that is believed.
const RESOLVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);
const NAME: &str = "www.example.org";
const A_RECORD: u16 = 1;
const ALIAS: u16 = 5;

fn allow(name: &str, ports: u16) -> EgressRule {
    let name = Some(NamePattern::parse(name).unwrap());
    let (protocol, ports) = (Some(Protocol::Tcp), Some(ports..=ports));
    EgressRule { name, protocol, ports, ..EgressRule::about_all(true) }
}

fn deny(ip: impl Into<IpAddr>, length: u8) -> EgressRule {
    EgressRule::deny(Prefix::new(ip, length))
}

/// Names are allowed that end in `.example.org`, and questions; nothing else.
fn with(rules: &[EgressRule]) -> GatewayConfig {
    let mut config = config();
    config.nat.limits.sessions = 1000;
    config.resolvers = vec![RESOLVER.into()];
    let questions = EgressRule { ports: Some(53..=53), ..EgressRule::about_all(true) };
    let mut all = rules.to_vec();
    all.extend([questions, EgressRule::about_all(false)]);
    config.nat.egress = EgressRule::before_wider(all);
    config
}

fn usual() -> Rig {
    Rig::with(with(&[allow("*.example.org", 443)]))
}

fn wire_name(name: &str) -> Vec<u8> {
    let labels = name.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat());
    labels.chain([0]).collect()
}

/// A question, or the begin of an answer with this many records.
fn begin(id: u16, flags: u16, name: &str, records: u8) -> Vec<u8> {
    let mut bytes = [id.to_be_bytes(), flags.to_be_bytes()].concat();
    bytes.extend([0, 1, 0, records, 0, 0, 0, 0]);
    bytes.extend([&wire_name(name)[..], &[0, 1, 0, 1]].concat());
    bytes
}

fn record(owner: &str, kind: u16, lives: u32, data: &[u8]) -> Vec<u8> {
    let head = [&wire_name(owner)[..], &kind.to_be_bytes(), &[0, 1], &lives.to_be_bytes()].concat();
    [&head[..], &(data.len() as u16).to_be_bytes(), data].concat()
}

fn question(id: u16, name: &str) -> Vec<u8> {
    begin(id, 0x0100, name, 0)
}

fn answer(id: u16, name: &str, addresses: &[Ipv4Addr]) -> Vec<u8> {
    let records = addresses.iter().flat_map(|ip| record(name, A_RECORD, 300, &ip.octets()));
    begin(id, 0x8180, name, addresses.len() as u8).into_iter().chain(records).collect()
}

impl Rig {
    /// The host sends a question; tells the port from which it comes outside.
    fn asks(&mut self, mac: MacAddr, from: Ipv4Addr, to: Ipv4Addr, question: &[u8]) -> u16 {
        assert_eq!(self.from(mac, &craft::udp(at(from, 1053), at(to, 53), question)), PASSES);
        source_port(&self.sent_outside().pop().unwrap())
    }

    /// A host asks for a name and is told these addresses.
    fn told(&mut self, mac: MacAddr, from: Ipv4Addr, name: &str, addresses: &[Ipv4Addr]) {
        let port = self.asks(mac, from, RESOLVER, &question(7, name));
        self.outside(&craft::udp(at(RESOLVER, 53), at(X, port), &answer(7, name, addresses)));
    }

    fn opens(&mut self, mac: MacAddr, from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Fate {
        self.from(mac, &craft::tcp(at(from, 1000), at(to, port), TcpFlags::SYN, 1, b""))
    }

    fn counts(&self) -> NameCounts {
        self.gateway.counts().names
    }
}

#[test]
fn an_answer_opens_its_addresses_to_who_asked_and_on_the_ports_of_the_rule() {
    let mut rig = usual();
    assert_eq!(rig.opens(MAC_A, A, S1, 443), DENIED);
    rig.told(MAC_A, A, NAME, &[S1]);
    assert_eq!(rig.opens(MAC_A, A, S1, 443), PASSES);
    assert_eq!(rig.opens(MAC_A, A, S1, 80), DENIED, "another port");
    assert_eq!(rig.opens(MAC_A, A, S2, 443), DENIED, "another address");
    assert_eq!(rig.opens(MAC_B, B, S1, 443), DENIED, "another host");
    rig.told(MAC_A, A, "www.example.net", &[S2]);
    assert_eq!(rig.opens(MAC_A, A, S2, 443), DENIED, "another name");
    assert_eq!(rig.counts(), NameCounts { known: 1, ..NameCounts::default() });
}

#[test]
fn only_what_was_asked_of_a_resolver_that_is_believed_counts() {
    // What is wrong, who is asked, what is asked, who answers, the answer.
    let good = answer(7, NAME, &[S1]);
    let not_one = [&good[..4], &[0, 2], &good[6..]].concat();
    let cases = [
        ("all is well", RESOLVER, question(7, NAME), good.clone(), true),
        ("in other letters", RESOLVER, question(7, "wWw.EXAMPLE.org"), good.clone(), true),
        ("a friend of the host's", R9, question(7, NAME), good.clone(), false),
        ("another number", RESOLVER, question(8, NAME), good.clone(), false),
        ("another question", RESOLVER, question(7, "ftp.example.org"), good.clone(), false),
        ("two questions", RESOLVER, question(7, NAME), not_one, false),
        ("an answer as the question", RESOLVER, good.clone(), good, false),
    ];
    for (what, resolver, question, answer, opens) in cases {
        let mut rig = usual();
        let port = rig.asks(MAC_A, A, resolver, &question);
        rig.outside(&craft::udp(at(resolver, 53), at(X, port), &answer));
        assert_eq!(rig.opens(MAC_A, A, S1, 443), if opens { PASSES } else { DENIED }, "{what}");
    }
}

#[test]
fn only_the_first_answer_counts_and_only_within_time() {
    let mut rig = usual();
    let port = rig.asks(MAC_A, A, RESOLVER, &question(7, NAME));
    for ip in [S1, S2] {
        rig.outside(&craft::udp(at(RESOLVER, 53), at(X, port), &answer(7, NAME, &[ip])));
    }
    assert_eq!((rig.opens(MAC_A, A, S1, 443), rig.opens(MAC_A, A, S2, 443)), (PASSES, DENIED));
    let port = rig.asks(MAC_A, A, RESOLVER, &question(8, NAME));
    rig.wait(31_000);
    rig.outside(&craft::udp(at(RESOLVER, 53), at(X, port), &answer(8, NAME, &[S2])));
    assert_eq!(rig.opens(MAC_A, A, S2, 443), DENIED);
}

#[test]
fn no_name_opens_what_is_not_public_or_ours_or_denied_by_prefix() {
    let metadata = Ipv4Addr::new(169, 254, 169, 254);
    let private = Ipv4Addr::new(192, 168, 1, 1);
    let mut rig = usual();
    rig.told(MAC_A, A, NAME, &[metadata, private, Ipv4Addr::LOCALHOST, X, GATEWAY]);
    for ip in [metadata, private, X] {
        assert_eq!(rig.opens(MAC_A, A, ip, 443), DENIED, "{ip}");
    }
    assert_eq!(rig.counts(), NameCounts { refused: 5, ..NameCounts::default() });
    // The denial stands behind the name, and is wider.
    for denial in [deny(S1, 32), deny(S1, 8), EgressRule { ports: Some(443..=443), ..deny(S1, 24) }] {
        let mut rig = Rig::with(with(&[allow("*.example.org", 443), denial]));
        rig.told(MAC_A, A, NAME, &[S1]);
        assert_eq!(rig.opens(MAC_A, A, S1, 443), DENIED);
    }
    // One for other ports, and one for other hosts, are not about this.
    for denial in [
        EgressRule { ports: Some(80..=80), ..deny(S1, 24) },
        EgressRule { inside: Some(Prefix::new(B, 32)), ..deny(S1, 24) },
    ] {
        let mut rig = Rig::with(with(&[allow("*.example.org", 443), denial]));
        rig.told(MAC_A, A, NAME, &[S1]);
        assert_eq!(rig.opens(MAC_A, A, S1, 443), PASSES);
    }
    // An allowed prefix still is.
    let prefix = EgressRule { remote: Some(Prefix::new(S1, 32)), ..EgressRule::about_all(true) };
    let mut rig = Rig::with(with(&[prefix, deny(S1, 24), allow("*.example.org", 443)]));
    assert_eq!(rig.opens(MAC_A, A, S1, 443), PASSES);
}

#[test]
fn a_name_may_be_denied() {
    let mut rule = allow("*.example.org", 443);
    rule.allow = false;
    let mut config = with(&[rule]);
    config.nat.egress.truncate(config.nat.egress.len() - 1);
    let mut rig = Rig::with(config);
    assert_eq!(rig.opens(MAC_A, A, S1, 443), PASSES);
    rig.told(MAC_B, B, NAME, &[S1]);
    assert_eq!((rig.opens(MAC_B, B, S1, 443), rig.opens(MAC_B, B, S1, 80)), (DENIED, PASSES));
}

#[test]
fn addresses_hold_for_their_time_and_sessions_beyond() {
    let mut rig = usual();
    rig.told(MAC_A, A, NAME, &[S1, S2]);
    assert_eq!(rig.opens(MAC_A, A, S1, 443), PASSES);
    rig.wait(299_000);
    assert_eq!(rig.opens(MAC_A, A, S1, 443), PASSES, "it was repeated");
    rig.wait(1_000);
    assert_eq!(rig.opens(MAC_A, A, S2, 443), DENIED, "300 s are over");
    let answer = TcpFlags::SYN.with(TcpFlags::ACK);
    let tcp = craft::Tcp { flags: answer, sequence: 9, acknowledgment: 2, ..craft::Tcp::default() };
    let port = source_port(rig.sent_outside().last().unwrap());
    assert!(matches!(rig.outside(&tcp.packet(at(S1, 443), at(X, port), b"")), Fate::Pass(_)));
    // A new configuration knows why the session was allowed.
    let mut change = with(&[allow("*.example.org", 443)]);
    change.nat.limits.sessions_per_host += 1;
    let reply = rig.gateway.apply(Command::Reconfigure(Box::new(change)), rig.now, &mut ());
    assert!(matches!(reply, Reply::Reconfigured { kept, ended: 0 } if kept > 0), "{reply:?}");
    let change = Command::Reconfigure(Box::new(with(&[allow("*.example.net", 443)])));
    assert!(matches!(rig.gateway.apply(change, rig.now, &mut ()), Reply::Reconfigured { ended: 1, .. }));
}

#[test]
fn short_lives_are_lengthened_and_long_ones_cut() {
    for (lives, holds, ends) in [(0, 59, 61), (u32::MAX, 59, 61), (1 << 30, 86_399, 86_401)] {
        for (after, fate) in [(holds, PASSES), (ends, DENIED)] {
            let mut rig = usual();
            let port = rig.asks(MAC_A, A, RESOLVER, &question(7, NAME));
            let bytes = [begin(7, 0x8180, NAME, 1), record(NAME, A_RECORD, lives, &S1.octets())].concat();
            rig.outside(&craft::udp(at(RESOLVER, 53), at(X, port), &bytes));
            rig.now = rig.now + Duration::from_secs(after);
            rig.frame(&arp(1, MAC_A, A, MacAddr([0; 6]), GATEWAY));
            assert_eq!(rig.opens(MAC_A, A, S1, 443), fate, "{lives} s, after {after}");
        }
    }
}

#[test]
fn aliases_count_from_the_name_asked_for_only() {
    let alias = record(NAME, ALIAS, 300, &wire_name("cdn.example.net"));
    let address = record("cdn.example.net", A_RECORD, 300, &S1.octets());
    let mut rig = usual();
    let port = rig.asks(MAC_A, A, RESOLVER, &question(7, NAME));
    let bytes = [begin(7, 0x8180, NAME, 2), alias, address].concat();
    rig.outside(&craft::udp(at(RESOLVER, 53), at(X, port), &bytes));
    assert_eq!(rig.opens(MAC_A, A, S1, 443), PASSES);
    // Whoever owns a name cannot borrow one that is allowed.
    let alias = record("evil.test", ALIAS, 300, &wire_name(NAME));
    let address = record(NAME, A_RECORD, 300, &S2.octets());
    let port = rig.asks(MAC_A, A, RESOLVER, &question(8, "evil.test"));
    let bytes = [begin(8, 0x8180, "evil.test", 2), alias, address].concat();
    rig.outside(&craft::udp(at(RESOLVER, 53), at(X, port), &bytes));
    assert_eq!(rig.opens(MAC_A, A, S2, 443), DENIED);
}

#[test]
fn answers_by_tcp_and_in_super_frames_are_read_and_broken_ones_counted() {
    let mut rig = usual();
    let framed = |message: Vec<u8>| [&(message.len() as u16).to_be_bytes()[..], &message].concat();
    let both = [framed(question(1, NAME)), framed(question(2, "ftp.example.org"))].concat();
    let segment = |sequence, acknowledgment| craft::Tcp {
        flags: TcpFlags::ACK,
        sequence,
        acknowledgment,
        ..craft::Tcp::default()
    };
    rig.from(MAC_A, &craft::tcp(at(A, 1053), at(RESOLVER, 53), TcpFlags::SYN, 1, b""));
    let port = source_port(&rig.sent_outside()[0]);
    let accepts = craft::Tcp { flags: TcpFlags::SYN.with(TcpFlags::ACK), ..segment(100, 2) };
    rig.outside(&accepts.packet(at(RESOLVER, 53), at(X, port), b""));
    assert_eq!(rig.from(MAC_A, &segment(2, 101).packet(at(A, 1053), at(RESOLVER, 53), &both)), PASSES);
    let both = [framed(answer(1, NAME, &[S1])), framed(answer(2, "ftp.example.org", &[S2]))].concat();
    let answered = segment(101, 2 + 64).packet(at(RESOLVER, 53), at(X, port), &both);
    assert!(matches!(rig.outside(&answered), Fate::Pass(_)));
    assert_eq!((rig.opens(MAC_A, A, S1, 443), rig.opens(MAC_A, A, S2, 443)), (PASSES, PASSES));

    let mut rig = usual();
    let port = rig.asks(MAC_A, A, RESOLVER, &question(1, NAME));
    rig.asks(MAC_A, A, RESOLVER, &question(2, NAME));
    let one = answer(1, NAME, &[S1]);
    let two = [one.clone(), answer(2, NAME, &[S2])].concat();
    let packet = craft::udp(at(RESOLVER, 53), at(X, port), &two);
    let segment = Segment { kind: SegmentKind::Udp, size: one.len() as u16, header: 28, ecn: false };
    let offload = Offload { segment: Some(segment), verified: true, ..Offload::default() };
    rig.receive(OUTSIDE, &packet, offload);
    assert_eq!((rig.opens(MAC_A, A, S1, 443), rig.opens(MAC_A, A, S2, 443)), (PASSES, PASSES));

    let truncated = begin(7, 0x8380, NAME, 0);
    let broken = [begin(8, 0x8180, NAME, 1), vec![0xc0]].concat();
    for (id, bytes) in [(7, truncated), (8, broken), (9, begin(9, 0x8183, NAME, 0))] {
        rig.asks(MAC_A, A, RESOLVER, &question(id, NAME));
        rig.outside(&craft::udp(at(RESOLVER, 53), at(X, port), &bytes));
    }
    assert_eq!(rig.counts(), NameCounts { known: 2, unread: 2, ..NameCounts::default() });
}

#[test]
fn a_resolver_of_the_hosts_that_is_silent_is_noticed() {
    let host = at(Ipv4Addr::new(127, 0, 0, 53), 53).into();
    let mut config = config();
    config.aliases = vec![Alias { inside: GATEWAY.into(), port: Some(53), host }];
    let mut rig = Rig::with(config);
    let ask = |rig: &mut Rig| {
        let packet = craft::udp(at(A, 1053), at(GATEWAY, 53), &question(7, NAME));
        assert_eq!(rig.from(MAC_A, &packet), Fate::Pass(ALIASES));
        rig.take(ALIASES).pop().unwrap()
    };
    let asked = ask(&mut rig);
    rig.wait(1_999);
    assert!(!rig.gateway.resolver_is_silent());
    let reply = craft::udp(at(GATEWAY, 53), at(X, source_port(&asked)), &answer(7, NAME, &[S1]));
    rig.receive(ALIASES, &reply, Offload::default());
    rig.wait(3_600_000);
    assert!(!rig.gateway.resolver_is_silent(), "it has answered, and is not asked");
    ask(&mut rig);
    rig.wait(1_000);
    ask(&mut rig);
    rig.wait(1_000);
    assert_eq!((rig.gateway.resolver_is_silent(), rig.gateway.resolver_is_silent()), (true, false));
    // Who says that nobody is there is believed if it is the host, not if it comes by the uplink.
    let asked = ask(&mut rig);
    let error = |from: Ipv4Addr| craft::icmp_error(IcmpError::PortUnreachable, from, X, &asked);
    rig.outside(&error(R9));
    assert!(!rig.gateway.resolver_is_silent());
    rig.receive(ALIASES, &error(GATEWAY), Offload::default());
    assert!(rig.gateway.resolver_is_silent());
}

#[test]
fn hours_of_sleep_end_what_is_over_at_once_and_no_more() {
    let mut rig = usual();
    rig.told(MAC_A, A, NAME, &[S1]);
    for port in 0..200 {
        rig.from(MAC_A, &craft::tcp(at(A, 2000 + port), at(S1, 443), TcpFlags::SYN, 1, b""));
    }
    assert_eq!(rig.gateway.counts().sessions, 201);
    rig.sent.clear();
    rig.wait(9 * 3_600_000);
    assert_eq!(rig.gateway.counts().sessions, 0);
    assert!(rig.sent.len() <= 2, "nobody is told of it packet by packet: {}", rig.sent.len());
    assert!(rig.gateway.next_deadline().is_none_or(|next| next > rig.now), "nothing is left to do");
    assert_eq!(rig.opens(MAC_A, A, S1, 443), DENIED, "what was told is over");
    rig.told(MAC_A, A, NAME, &[S1]);
    assert_eq!(rig.opens(MAC_A, A, S1, 443), PASSES);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever a resolver says, nothing panics, and it opens nothing on the port that no rule allows.
    #[test]
    fn nonsense_opens_nothing(
        bytes in prop::collection::vec(any::<u8>(), 0..120),
        spoilt in prop::collection::vec((0usize..80, any::<u8>()), 0..6),
        noise in any::<bool>(),
    ) {
        let mut message = if noise { bytes } else { answer(7, NAME, &[S1, R9]) };
        for (place, byte) in spoilt {
            if let Some(there) = message.get_mut(place) {
                *there = byte;
            }
        }
        let _ = Message::parse(&message).and_then(|message| message.addresses());
        let mut rig = usual();
        let port = rig.asks(MAC_A, A, RESOLVER, &question(7, NAME));
        rig.outside(&craft::udp(at(RESOLVER, 53), at(X, port), &message));
        prop_assert!(rig.counts().known <= 2);
        prop_assert_eq!(rig.opens(MAC_A, A, S1, 80), DENIED);
        let said = message.windows(4).any(|four| four == S2.octets());
        prop_assert!(said || rig.opens(MAC_A, A, S2, 443) == DENIED);
        prop_assert_eq!(rig.opens(MAC_B, B, S1, 443), DENIED);
    }
}
