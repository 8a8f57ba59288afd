//! Tuples in, decisions out. Each group is headed by the configuration that means it; rows of
//! RFC demands are named in the comments.

#![allow(clippy::unwrap_used)]

#[path = "support/tuples.rs"]
mod tuples;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use tapnat::flow::{Edit, Endpoint, Protocol, QuotedEdit, Summary, Time};
use tapnat::nat::{
    Behaviour, Closed, Decision, Exit, Nat, NatConfig, PublishError, Refusal, SessionView, Step, TcpState,
    Wanted,
};
use tuples::{at, end, error, from, gre, ping, pong, tcp, to, udp};

const X: &str = "203.0.113.1";

fn config() -> NatConfig {
    NatConfig {
        host_addresses: vec!["192.168.7.1".parse().unwrap()],
        ..NatConfig::new(vec![X.parse().unwrap()])
    }
}

/// A translator, its clock and what it told.
struct Bench {
    nat: Nat,
    now: Time,
    steps: Vec<Step>,
}

fn nat(change: impl FnOnce(&mut NatConfig)) -> Bench {
    let mut config = config();
    change(&mut config);
    Bench { nat: Nat::new(config, [42; 32]), now: Time::from_secs(1), steps: Vec::new() }
}

impl Bench {
    fn after(&mut self, seconds: f64) -> &mut Self {
        self.now = self.now + Duration::from_secs_f64(seconds);
        self
    }

    fn out(&mut self, packet: &Summary) -> Decision {
        self.nat.outbound(packet, self.now, &mut self.steps)
    }

    fn back(&mut self, packet: &Summary) -> Decision {
        self.nat.inbound(packet, self.now, &mut self.steps)
    }

    /// The packet goes out by the uplink; tells its new source.
    fn leaves(&mut self, packet: &Summary) -> Endpoint {
        match self.out(packet) {
            Decision::Translate { edit: Edit { source: Some(source), destination: None, .. }, exit } => {
                assert_eq!(exit, Exit::Outside);
                source
            }
            other => panic!("{packet:?}: {other:?}"),
        }
    }

    /// The packet comes in to this inside endpoint.
    fn reaches(&mut self, packet: &Summary, inside: &str) {
        let edit = Edit { destination: Some(end(inside)), ..Edit::default() };
        assert_eq!(self.back(packet), Decision::Translate { edit, exit: Exit::Inside }, "{packet:?}");
    }

    fn refuses_out(&mut self, packet: &Summary, why: Refusal) {
        assert_eq!(self.out(packet), Decision::Refuse(why), "{packet:?}");
        assert_eq!(self.steps.last(), Some(&Step::Refused(packet.flow(), why)));
    }

    fn refuses_in(&mut self, packet: &Summary, why: Refusal) {
        assert_eq!(self.back(packet), Decision::Refuse(why), "{packet:?}");
        assert_eq!(self.steps.last(), Some(&Step::Refused(packet.flow(), why)));
    }

    fn sessions(&self) -> Vec<SessionView> {
        self.nat.sessions(0, usize::MAX, self.now).0
    }

    fn state(&self) -> Option<TcpState> {
        self.sessions()[0].tcp
    }

    fn expire(&mut self) {
        while self.nat.next_deadline().is_some_and(|deadline| deadline <= self.now) {
            self.nat.expire(self.now, &mut self.steps);
        }
    }

    fn closed(&self) -> Vec<Closed> {
        let closed = |step: &Step| if let Step::Closed(_, why) = step { Some(*why) } else { None };
        self.steps.iter().filter_map(closed).collect()
    }

    /// A TCP connection of A to S1:80, open; tells A's outside endpoint.
    fn connect(&mut self) -> Endpoint {
        let x = self.leaves(&tcp(A_OUT, "S"));
        self.reaches(&to(&tcp("198.51.100.7:80 > 0.0.0.0", "S."), x), "10.0.0.2:5000");
        self.leaves(&tcp(A_OUT, "."));
        x
    }
}

const A_OUT: &str = "10.0.0.2:5000 > 198.51.100.7:80";

// ---- mapping ---------------------------------------------------------------------------------

// --mapping endpoint-independent. Rows 1, 3, 18, 27, 36, 42, 85.
#[test]
fn one_outside_endpoint_for_one_inside_endpoint() {
    let mut nat = nat(|_| {});
    for send in [udp as fn(&str) -> Summary, |text| tcp(text, "S"), |text| ping(text)] {
        let a = nat.leaves(&send("10.0.0.2:1000 > 198.51.100.7:53"));
        let b = nat.leaves(&send("10.0.0.3:1000 > 198.51.100.8:53"));
        assert_ne!(a, b);
        assert_eq!(a.ip.to_string(), X);
        for remote in ["198.51.100.8:53", "198.51.100.7:54", "192.0.2.77:1"] {
            assert_eq!(nat.leaves(&send(&format!("10.0.0.2:1000 > {remote}"))), a);
            assert_eq!(nat.leaves(&send(&format!("10.0.0.3:1000 > {remote}"))), b);
        }
        assert_ne!(nat.leaves(&send("10.0.0.2:1001 > 198.51.100.7:53")), a);
    }
}

// --mapping address-dependent, then address-and-port-dependent.
#[test]
fn mappings_by_remote() {
    for (mapping, same_port) in
        [(Behaviour::AddressDependent, true), (Behaviour::AddressAndPortDependent, false)]
    {
        let mut nat = nat(|config| config.policy.mapping = mapping);
        let first = nat.leaves(&udp("10.0.0.2:1000 > 198.51.100.7:53"));
        assert_eq!(nat.leaves(&udp("10.0.0.2:1000 > 198.51.100.7:54")) == first, same_port);
        assert_ne!(nat.leaves(&udp("10.0.0.2:1000 > 198.51.100.8:53")), first);
        assert_eq!(nat.leaves(&udp("10.0.0.2:1000 > 198.51.100.7:53")), first);
        nat.reaches(&to(&udp("198.51.100.7:53 > 0.0.0.0"), first), "10.0.0.2:1000");
    }
}

// --external X1 --external X2 .. X4. Rows 2, 68, 84: every protocol of a host leaves from one address.
#[test]
fn a_host_keeps_one_external_address() {
    let mut nat = nat(|config| {
        config.external = (1..=4).map(|n| IpAddr::from([203, 0, 113, n])).collect();
    });
    let mut used = BTreeSet::new();
    for host in 2..40 {
        let mut addresses = BTreeSet::new();
        for port in 1..20 {
            let text = format!("10.0.0.{host}:{port} > 198.51.100.{port}:9");
            addresses.insert(nat.leaves(&udp(&text)).ip);
            addresses.insert(nat.leaves(&tcp(&text, "S")).ip);
            addresses.insert(nat.leaves(&ping(&text.replace(":9", ""))).ip);
        }
        assert_eq!(addresses.len(), 1);
        used.extend(addresses);
    }
    assert_eq!(used.len(), 4);
}

// IPv6 beside IPv4: an address of the packet's own family.
#[test]
fn families_do_not_mix() {
    let mut nat = nat(|config| config.external.push("2001:db8::1".parse().unwrap()));
    let x = nat.leaves(&udp("fd00::2:1000 > 2001:db8:9::7:53"));
    assert!(x.ip.is_ipv6());
    let mut only4 = self::nat(|_| {});
    only4.refuses_out(&udp("fd00::2:1000 > 2001:db8:9::7:53"), Refusal::PortsExhausted);
}

// Row 26: source port 0 crashes nothing and is never handed out.
#[test]
fn port_zero() {
    let mut nat = nat(|config| config.ports = vec![0..=3]);
    let mut given = BTreeSet::new();
    for host in 2..5 {
        given.insert(nat.leaves(&udp(&format!("10.0.0.{host}:0 > 198.51.100.7:53"))).port);
    }
    assert_eq!(given, BTreeSet::from([1, 2, 3]));
    nat.refuses_out(&udp("10.0.0.9:0 > 198.51.100.7:53"), Refusal::PortsExhausted);
}

// ---- filtering -------------------------------------------------------------------------------

// Rows 12, 13, 30, 86: who comes in after A:1000 > S1:53.
#[test]
fn filtering_by_mode() {
    use Behaviour::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
    for (filtering, other_port, other_host) in [
        (EndpointIndependent, true, true),
        (AddressDependent, true, false),
        (AddressAndPortDependent, false, false),
    ] {
        let mut nat = nat(|config| config.policy.filtering = filtering);
        let x = nat.leaves(&udp("10.0.0.2:1000 > 198.51.100.7:53"));
        let y = nat.leaves(&tcp("10.0.0.2:1000 > 198.51.100.7:53", "S"));
        for (remote, passes) in [("198.51.100.7:99", other_port), ("198.51.100.8:53", other_host)] {
            let datagram = to(&udp(&format!("{remote} > 0.0.0.0")), x);
            let syn = to(&tcp(&format!("{remote} > 0.0.0.0"), "S"), y);
            for packet in [datagram, syn] {
                if passes {
                    nat.reaches(&packet, "10.0.0.2:1000");
                } else {
                    nat.refuses_in(&packet, Refusal::Filtered);
                }
            }
        }
        nat.reaches(&to(&udp("198.51.100.7:53 > 0.0.0.0"), x), "10.0.0.2:1000");
        // Row 85: a mapping is of one protocol.
        if x != y {
            nat.refuses_in(&to(&udp("198.51.100.7:53 > 0.0.0.0"), y), Refusal::NoMapping);
        }
    }
}

#[test]
fn nothing_comes_in_where_nothing_is() {
    let mut nat = nat(|_| {});
    nat.refuses_in(&udp("198.51.100.7:53 > 203.0.113.1:40000"), Refusal::NoMapping);
    nat.refuses_in(&udp("198.51.100.7:53 > 203.0.113.99:40000"), Refusal::NoMapping);
    nat.refuses_in(&gre("198.51.100.7 > 203.0.113.1"), Refusal::NoMapping);
    nat.refuses_in(&ping("198.51.100.7:9 > 203.0.113.1"), Refusal::UnsolicitedQuery);
    nat.refuses_in(&pong("198.51.100.7 > 203.0.113.1:9"), Refusal::UnsolicitedQuery);
    nat.refuses_in(&udp("203.0.113.1:53 > 203.0.113.1:40000"), Refusal::SourceIsOurs);
    nat.refuses_in(&udp("192.168.7.1:53 > 203.0.113.1:40000"), Refusal::SourceIsOurs);
    assert_eq!(nat.nat.counts().sessions, 0);
}

// ---- timers at their defaults ----------------------------------------------------------------

// Rows 6, 7, 8, 10, 43: alive until the timeout, dead from it on, swept or not.
#[test]
fn idle_for_its_timeout() {
    let dns = "10.0.0.2:1000 > 198.51.100.7:53";
    let other = "10.0.0.2:1000 > 198.51.100.7:5000";
    for (packet, lives) in [(udp(other), 300.0), (udp(dns), 120.0), (gre("10.0.0.2 > 198.51.100.7"), 600.0)] {
        for sweep in [false, true] {
            let mut nat = nat(|config| config.limits.held_ports = 0);
            let x = nat.leaves(&packet);
            let answer = to(&from(&packet, packet.flow().destination), x);
            nat.after(lives - 0.000_001);
            if sweep {
                nat.expire();
            }
            nat.reaches(&answer, &packet.flow().source.to_string());
            // It was let in, so it refreshed.
            nat.after(lives - 0.000_001);
            nat.reaches(&answer, &packet.flow().source.to_string());
            nat.after(lives);
            if sweep {
                nat.expire();
            }
            nat.refuses_in(&answer, Refusal::NoMapping);
            assert_eq!(nat.closed(), [Closed::Expired]);
            assert_eq!(nat.nat.counts().mappings, 0);
            assert_eq!(nat.nat.next_deadline(), None);
        }
    }
    let mut nat = nat(|_| {});
    let x = nat.leaves(&ping("10.0.0.2:7 > 198.51.100.7"));
    nat.after(59.9).reaches(&to(&pong("198.51.100.7 > 0.0.0.0"), x), "10.0.0.2:7");
    nat.after(60.0).refuses_in(&to(&pong("198.51.100.7 > 0.0.0.0"), x), Refusal::UnsolicitedQuery);
}

// Rows 9, 87: outbound refreshes; what is refused does not.
#[test]
fn what_refreshes() {
    let mut nat = nat(|_| {});
    let out = udp("10.0.0.2:1000 > 198.51.100.7:5000");
    let x = nat.leaves(&out);
    for _ in 0..5 {
        nat.after(270.0).leaves(&out);
        nat.expire();
    }
    nat.after(270.0).reaches(&to(&udp("198.51.100.7:5000 > 0.0.0.0"), x), "10.0.0.2:1000");
    for _ in 0..10 {
        nat.after(29.9).refuses_in(&to(&udp("198.51.100.8:5000 > 0.0.0.0"), x), Refusal::Filtered);
    }
    nat.after(1.0).refuses_in(&to(&udp("198.51.100.7:5000 > 0.0.0.0"), x), Refusal::NoMapping);
}

#[test]
fn changed_timeouts_hold_at_once() {
    let mut nat = nat(|_| {});
    let x = nat.leaves(&udp("10.0.0.2:1000 > 198.51.100.7:5000"));
    let mut config = nat.nat.config().clone();
    config.policy.timeouts.udp_unreplied = Duration::from_secs(10);
    nat.nat.reconfigure(config, nat.now, &mut nat.steps);
    nat.after(10.0).refuses_in(&to(&udp("198.51.100.7:5000 > 0.0.0.0"), x), Refusal::NoMapping);
}

#[test]
fn expiry_is_bounded_and_says_so() {
    let mut nat = nat(|config| config.limits.held_ports = 0);
    for n in 0..3000 {
        nat.leaves(&udp(&format!("10.0.0.2:{} > 198.51.100.7:5000", n + 1000)));
    }
    nat.after(301.0);
    for left in [1976, 952, 0] {
        assert!(nat.nat.next_deadline().unwrap() <= nat.now);
        nat.nat.expire(nat.now, &mut nat.steps);
        assert_eq!(nat.nat.counts().sessions, left);
    }
    assert_eq!(nat.nat.next_deadline(), None);
}

// ---- TCP -------------------------------------------------------------------------------------

// Rows 33, 80: the walk, with the time each state lives.
#[test]
fn tcp_states_and_their_times() {
    let mut nat = nat(|_| {});
    let x = nat.leaves(&tcp(A_OUT, "S"));
    let back = |flags| to(&tcp("198.51.100.7:80 > 0.0.0.0", flags), x);
    assert_eq!(nat.state(), Some(TcpState::Opening));
    nat.after(239.0).reaches(&back("S."), "10.0.0.2:5000");
    assert_eq!(nat.state(), Some(TcpState::Opening));
    nat.after(239.0).leaves(&tcp(A_OUT, "."));
    assert_eq!(nat.state(), Some(TcpState::Established));
    nat.after(7439.0).expire();
    nat.leaves(&tcp(A_OUT, "."));
    nat.leaves(&tcp(A_OUT, "F."));
    assert_eq!(nat.state(), Some(TcpState::InsideClosed));
    nat.after(7439.0).reaches(&back("."), "10.0.0.2:5000");
    nat.reaches(&back("F."), "10.0.0.2:5000");
    assert_eq!(nat.state(), Some(TcpState::Closing));
    nat.after(239.0).leaves(&tcp(A_OUT, "."));
    nat.after(240.0).refuses_out(&tcp(A_OUT, "."), Refusal::NoSession);
    assert_eq!(nat.closed(), [Closed::Expired]);
}

#[test]
fn a_syn_alone_lives_four_minutes() {
    let mut nat = nat(|_| {});
    let x = nat.leaves(&tcp(A_OUT, "S"));
    nat.after(240.0).refuses_in(&to(&tcp("198.51.100.7:80 > 0.0.0.0", "S."), x), Refusal::NoMapping);
}

// Rows 28, 29: simultaneous open.
#[test]
fn simultaneous_open() {
    let mut nat = nat(|_| {});
    let x = nat.leaves(&tcp(A_OUT, "S"));
    for flags in ["S", "S.", "."] {
        nat.reaches(&to(&tcp("198.51.100.7:80 > 0.0.0.0", flags), x), "10.0.0.2:5000");
    }
    nat.leaves(&tcp(A_OUT, "S."));
    assert_eq!(nat.state(), Some(TcpState::Established));
}

// Rows 28, 80: the remote closes first; the last FIN both ways.
#[test]
fn remote_closes_first() {
    let mut nat = nat(|_| {});
    let x = nat.connect();
    nat.reaches(&to(&tcp("198.51.100.7:80 > 0.0.0.0", "F."), x), "10.0.0.2:5000");
    assert_eq!(nat.state(), Some(TcpState::RemoteClosed));
    nat.leaves(&tcp(A_OUT, "F."));
    assert_eq!(nat.state(), Some(TcpState::Closing));
}

// Row 82: a RST ends nothing; data goes on by the same port.
#[test]
fn a_rst_ends_nothing() {
    for rst_from_inside in [true, false] {
        let mut nat = nat(|_| {});
        let x = nat.connect();
        let rst = to(&tcp("198.51.100.7:80 > 0.0.0.0", "R"), x);
        if rst_from_inside {
            nat.leaves(&tcp(A_OUT, "R"));
        } else {
            nat.reaches(&rst, "10.0.0.2:5000");
        }
        assert_eq!(nat.state(), Some(TcpState::Reset));
        nat.after(239.0).expire();
        assert_eq!(nat.leaves(&tcp(A_OUT, ".")), x);
        assert_eq!(nat.state(), Some(TcpState::Established));
        nat.after(7000.0).reaches(&to(&tcp("198.51.100.7:80 > 0.0.0.0", "."), x), "10.0.0.2:5000");
        nat.reaches(&rst, "10.0.0.2:5000");
        nat.after(240.0).refuses_out(&tcp(A_OUT, "."), Refusal::NoSession);
    }
}

// Row 88: RSTs from the inside refresh nothing.
#[test]
fn rsts_do_not_refresh() {
    let mut nat = nat(|_| {});
    nat.leaves(&tcp(A_OUT, "S"));
    for _ in 0..2 {
        nat.after(80.0).leaves(&tcp(A_OUT, "R"));
    }
    nat.after(80.0).refuses_out(&tcp(A_OUT, "R"), Refusal::NoSession);
    // Nor does a RST at the end of an established session's life add to it.
    nat.connect();
    nat.after(7400.0).leaves(&tcp(A_OUT, "R"));
    nat.after(39.0).leaves(&tcp(A_OUT, "R"));
    nat.after(1.0).refuses_out(&tcp(A_OUT, "R"), Refusal::NoSession);
}

// A SYN of the inside host on a session that is done with is a new one on the old port.
#[test]
fn reopened() {
    for ending in ["F.", "R"] {
        let mut nat = nat(|_| {});
        let x = nat.connect();
        let back = |flags| to(&tcp("198.51.100.7:80 > 0.0.0.0", flags), x);
        nat.leaves(&tcp(A_OUT, ending));
        nat.reaches(&back(ending), "10.0.0.2:5000");
        let before = nat.sessions()[0];
        nat.steps.clear();
        nat.reaches(&at(&back("S"), 1_000_000), "10.0.0.2:5000");
        assert_eq!(nat.sessions()[0].id, before.id, "of a remote it only asks");
        assert_eq!(nat.leaves(&at(&tcp(A_OUT, "S"), 1_000_000)), x);
        let after = nat.sessions()[0];
        assert_ne!(before.id, after.id);
        assert_eq!((after.tcp, after.packets_out + after.packets_in), (Some(TcpState::Opening), 1));
        assert!(matches!(nat.steps[..], [Step::Closed(_, Closed::Reopened), Step::Opened(_)]));
        assert!(!nat.nat.forget(before.id, nat.now, &mut ()));
        assert!(nat.nat.forget(after.id, nat.now, &mut ()));
        assert_eq!(nat.nat.counts().sessions, 0);
    }
}

// Rows 34, 106: a SYN in mid-connection passes and changes nothing; segments without a session do not.
#[test]
fn odd_segments() {
    let mut nat = nat(|_| {});
    for flags in [".", "S.", "F.", "R", "R."] {
        nat.refuses_out(&tcp(A_OUT, flags), Refusal::NoSession);
    }
    for flags in ["SF", "", "F", "SR", "P"] {
        nat.refuses_out(&tcp(A_OUT, flags), Refusal::BadFlags);
    }
    assert_eq!(nat.nat.counts().mappings, 0);
    let x = nat.connect();
    nat.leaves(&tcp(A_OUT, "S"));
    assert_eq!(nat.state(), Some(TcpState::Established));
    for flags in [".", "S.", "F.", "R"] {
        nat.refuses_in(&to(&tcp("198.51.100.7:81 > 0.0.0.0", flags), x), Refusal::NoSession);
    }
    nat.refuses_in(&to(&tcp("198.51.100.7:80 > 0.0.0.0", "SF"), x), Refusal::BadFlags);
    nat.refuses_in(&tcp("198.51.100.7:80 > 203.0.113.1:9", "SF"), Refusal::NoMapping);
}

// ---- hairpinning and the host ----------------------------------------------------------------

fn hairpinned(source: Endpoint, destination: &str) -> Decision {
    let edit = Edit { source: Some(source), destination: Some(end(destination)), ..Edit::default() };
    Decision::Translate { edit, exit: Exit::Hairpin }
}

// --hairpin on, --filtering endpoint-independent. Rows 14, 15, 37.
#[test]
fn hairpin() {
    let mut nat = nat(|config| config.policy.filtering = Behaviour::EndpointIndependent);
    let b = nat.leaves(&udp("10.0.0.3:2000 > 198.51.100.7:53"));
    let a = nat.leaves(&udp("10.0.0.2:1000 > 198.51.100.7:53"));
    assert_eq!(nat.out(&to(&udp("10.0.0.2:1000 > 0.0.0.0"), b)), hairpinned(a, "10.0.0.3:2000"));
    assert_eq!(nat.out(&to(&udp("10.0.0.3:2000 > 0.0.0.0"), a)), hairpinned(b, "10.0.0.2:1000"));
    assert_eq!(nat.nat.counts().sessions, 4);
    // The wire may not bring what only hairpinning can.
    nat.refuses_in(&to(&from(&udp("1.1.1.1:1 > 0.0.0.0"), b), a), Refusal::SourceIsOurs);
}

// --filtering address-dependent: two hosts behind one gateway punch holes for each other.
#[test]
fn hairpin_hole_punching() {
    let mut nat = nat(|_| {});
    let b = nat.leaves(&udp("10.0.0.3:2000 > 198.51.100.7:53"));
    let a = nat.leaves(&udp("10.0.0.2:1000 > 198.51.100.7:53"));
    nat.refuses_out(&to(&udp("10.0.0.2:1000 > 0.0.0.0"), b), Refusal::Filtered);
    assert_eq!(nat.out(&to(&udp("10.0.0.3:2000 > 0.0.0.0"), a)), hairpinned(b, "10.0.0.2:1000"));
    assert_eq!(nat.out(&to(&udp("10.0.0.2:1000 > 0.0.0.0"), b)), hairpinned(a, "10.0.0.3:2000"));
}

// --publish 8080:10.0.0.3:80/tcp: reached from the inside by the outside endpoint, both states kept.
#[test]
fn hairpin_to_a_published_port() {
    let mut nat = nat(|_| {});
    nat.nat.publish(Protocol::Tcp, end("203.0.113.1:8080"), end("10.0.0.3:80")).unwrap();
    let syn = nat.out(&tcp("10.0.0.2:1000 > 203.0.113.1:8080", "S"));
    let Decision::Translate { edit: Edit { source: Some(a), .. }, .. } = syn else { panic!("{syn:?}") };
    assert_eq!(syn, hairpinned(a, "10.0.0.3:80"));
    let answer = nat.out(&to(&tcp("10.0.0.3:80 > 0.0.0.0", "S."), a));
    assert_eq!(answer, hairpinned(end("203.0.113.1:8080"), "10.0.0.2:1000"));
    nat.out(&tcp("10.0.0.2:1000 > 203.0.113.1:8080", "."));
    assert!(nat.sessions().iter().all(|session| session.tcp == Some(TcpState::Established)));
}

// --hairpin off; host-access = false.
#[test]
fn hairpin_and_host_access_off() {
    let mut nat = nat(|config| {
        config.policy.hairpin = false;
        config.host_access = false;
    });
    let b = nat.leaves(&udp("10.0.0.3:2000 > 198.51.100.7:53"));
    nat.refuses_out(&to(&udp("10.0.0.2:1000 > 0.0.0.0"), b), Refusal::HairpinOff);
    nat.refuses_out(&tcp("10.0.0.2:1000 > 203.0.113.1:22", "S"), Refusal::HostAccessOff);
    nat.refuses_out(&ping("10.0.0.2:1000 > 192.168.7.1"), Refusal::HostAccessOff);
    assert_eq!(nat.nat.counts().sessions, 1);
}

// Services of the host, on its external address and on another.
#[test]
fn host_services() {
    let mut nat = nat(|_| {});
    for host in ["203.0.113.1", "192.168.7.1"] {
        let packets =
            [(tcp(&format!("10.0.0.2:1000 > {host}:22"), "S"), tcp(&format!("{host}:22 > 0.0.0.0"), "S."))];
        let pings = [(ping(&format!("10.0.0.2:77 > {host}")), pong(&format!("{host} > 0.0.0.0")))];
        for (out, answer) in packets.into_iter().chain(pings) {
            let Decision::Translate { edit, exit: Exit::Host } = nat.out(&out) else {
                panic!("not to the host")
            };
            let x = edit.source.unwrap();
            assert_eq!((x.ip.to_string().as_str(), edit.destination), (X, None));
            let answer = to(&answer, x);
            nat.refuses_in(&answer, Refusal::SourceIsOurs);
            let decision = nat.nat.from_host(&answer, nat.now, &mut ());
            let edit = Edit { destination: Some(out.flow().source), ..Edit::default() };
            assert_eq!(decision, Decision::Translate { edit, exit: Exit::Inside });
        }
    }
}

// ---- ICMP errors -----------------------------------------------------------------------------

fn told_inside(inside: &str) -> Decision {
    let edit = Edit {
        destination: Some(Endpoint { port: 0, ..end(inside) }),
        quoted: Some(QuotedEdit { source: Some(end(inside)), destination: None }),
        ..Edit::default()
    };
    Decision::Translate { edit, exit: Exit::Inside }
}

// Rows 19, 20, 21, 38, 39, 49, 51: errors come in from anybody, change both layers, end nothing.
#[test]
fn errors_from_outside() {
    let mut nat = nat(|_| {});
    let quotes = [
        (udp("10.0.0.2:1000 > 198.51.100.7:5000"), "10.0.0.2:1000"),
        (tcp("10.0.0.2:1000 > 198.51.100.7:80", "S"), "10.0.0.2:1000"),
        (ping("10.0.0.2:9 > 198.51.100.7"), "10.0.0.2:9"),
        (gre("10.0.0.2 > 198.51.100.7"), "10.0.0.2"),
    ];
    for (packet, inside) in quotes {
        let sent = from(&packet, nat.leaves(&packet));
        let before = nat.sessions();
        for reporter in ["192.0.2.9", "198.51.100.7"] {
            let report = error(&format!("{reporter} > {X}"), &sent);
            assert_eq!(nat.back(&report), told_inside(inside));
        }
        assert_eq!(nat.sessions(), before);
        nat.refuses_in(&error("192.0.2.9 > 203.0.113.2", &sent), Refusal::ErrorMisaddressed);
        nat.refuses_in(&error("203.0.113.1 > 203.0.113.1", &sent), Refusal::SourceIsOurs);
        let stranger = to(&sent, Endpoint { port: sent.flow().destination.port, ..end("198.51.100.99") });
        nat.refuses_in(&error("192.0.2.9 > 203.0.113.1", &stranger), Refusal::ErrorWithoutSession);
    }
    nat.after(55.0);
    let id = nat.sessions().iter().find(|s| s.protocol == Protocol::Icmp).unwrap().outside;
    let sent = from(&ping("0.0.0.0 > 198.51.100.7"), id);
    assert_eq!(nat.back(&error("192.0.2.9 > 203.0.113.1", &sent)), told_inside("10.0.0.2:9"));
    nat.after(5.0).refuses_in(&error("192.0.2.9 > 203.0.113.1", &sent), Refusal::ErrorWithoutSession);
}

// Rows 50, 88: errors from the inside, by the host or by a router there.
#[test]
fn errors_from_inside() {
    let mut nat = nat(|_| {});
    let x = nat.leaves(&udp("10.0.0.2:1000 > 198.51.100.7:5000"));
    let came = udp("198.51.100.7:5000 > 10.0.0.2:1000");
    for reporter in ["10.0.0.2", "10.0.0.200"] {
        let edit = Edit {
            source: Some(Endpoint { port: 0, ..x }),
            quoted: Some(QuotedEdit { source: None, destination: Some(x) }),
            ..Edit::default()
        };
        let report = error(&format!("{reporter} > 198.51.100.7"), &came);
        assert_eq!(nat.out(&report), Decision::Translate { edit, exit: Exit::Outside });
        nat.refuses_out(&error(&format!("{reporter} > 198.51.100.8"), &came), Refusal::ErrorMisaddressed);
    }
    let unknown = udp("198.51.100.7:5000 > 10.0.0.2:1001");
    nat.refuses_out(&error("10.0.0.2 > 198.51.100.7", &unknown), Refusal::ErrorWithoutSession);
    for _ in 0..3 {
        nat.after(99.0).out(&error("10.0.0.2 > 198.51.100.7", &came));
    }
    nat.after(3.0).refuses_in(&to(&udp("198.51.100.7:5000 > 0.0.0.0"), x), Refusal::NoMapping);
}

// Rows 52, 53: a hairpinned error goes back to the sender in the sender's own terms.
#[test]
fn hairpinned_errors() {
    let mut nat = nat(|config| config.policy.filtering = Behaviour::EndpointIndependent);
    let b = nat.leaves(&udp("10.0.0.3:2000 > 198.51.100.7:53"));
    let decision = nat.out(&to(&udp("10.0.0.2:1000 > 0.0.0.0"), b));
    let Decision::Translate { edit: Edit { source: Some(a), .. }, .. } = decision else { panic!() };
    let at_b = from(&udp("0.0.0.0 > 10.0.0.3:2000"), a);
    let edit = Edit {
        source: Some(Endpoint { port: 0, ..b }),
        destination: Some(end("10.0.0.2")),
        quoted: Some(QuotedEdit { source: Some(end("10.0.0.2:1000")), destination: Some(b) }),
        ..Edit::default()
    };
    let report = error("10.0.0.3 > 203.0.113.1", &at_b);
    assert_eq!(nat.out(&report), Decision::Translate { edit, exit: Exit::Hairpin });
}

// The host reports to the inside, and the inside to the host.
#[test]
fn errors_with_the_host() {
    let mut nat = nat(|_| {});
    let out = udp("10.0.0.2:1000 > 203.0.113.1:9");
    let Decision::Translate { edit: Edit { source: Some(x), .. }, exit: Exit::Host } = nat.out(&out) else {
        panic!()
    };
    let report = error("203.0.113.1 > 203.0.113.1", &from(&out, x));
    nat.refuses_in(&report, Refusal::SourceIsOurs);
    nat.refuses_in(&error("192.0.2.9 > 203.0.113.1", &from(&out, x)), Refusal::ErrorWithoutSession);
    assert_eq!(nat.nat.from_host(&report, nat.now, &mut ()), told_inside("10.0.0.2:1000"));
    let came = udp("203.0.113.1:9 > 10.0.0.2:1000");
    let decision = nat.out(&error("10.0.0.2 > 203.0.113.1", &came));
    assert!(matches!(decision, Decision::Translate { exit: Exit::Host, .. }), "{decision:?}");
}

// ---- queries and protocols without ports ------------------------------------------------------

// Rows 41, 42.
#[test]
fn queries() {
    let mut nat = nat(|_| {});
    let a = nat.leaves(&ping("10.0.0.2:500 > 198.51.100.7"));
    let b = nat.leaves(&ping("10.0.0.3:500 > 198.51.100.7"));
    assert!(a != b && a.port != 0 && b.port != 0);
    nat.reaches(&to(&pong("198.51.100.7 > 0.0.0.0"), a), "10.0.0.2:500");
    nat.reaches(&to(&pong("198.51.100.7 > 0.0.0.0"), b), "10.0.0.3:500");
    nat.refuses_in(&to(&pong("198.51.100.8 > 0.0.0.0"), b), Refusal::UnsolicitedQuery);
    nat.refuses_out(&pong("10.0.0.2 > 198.51.100.7:500"), Refusal::UnsolicitedQuery);
}

#[test]
fn one_host_a_remote_without_ports() {
    let mut nat = nat(|_| {});
    let x = nat.leaves(&gre("10.0.0.2 > 198.51.100.7"));
    assert_eq!(x, end(X));
    nat.refuses_out(&gre("10.0.0.3 > 198.51.100.7"), Refusal::ProtocolTaken);
    nat.leaves(&gre("10.0.0.3 > 198.51.100.8"));
    nat.refuses_out(&gre("10.0.0.2 > 198.51.100.8"), Refusal::ProtocolTaken);
    nat.reaches(&gre("198.51.100.7 > 203.0.113.1"), "10.0.0.2");
    nat.reaches(&gre("198.51.100.8 > 203.0.113.1"), "10.0.0.3");
    nat.refuses_in(&gre("198.51.100.9 > 203.0.113.1"), Refusal::NoMapping);
    nat.after(600.0).leaves(&gre("10.0.0.3 > 198.51.100.7"));
}

// ---- limits ----------------------------------------------------------------------------------

// Rows 54, 70, 71, 77: refused by name; who is in stays in, others are not touched.
#[test]
fn limits() {
    let full = |change: fn(&mut NatConfig), why: Refusal, packets: &dyn Fn(u16) -> Summary| {
        let mut nat = nat(change);
        let first: Vec<_> = (0..20).map(|n| nat.leaves(&packets(n))).collect();
        for n in 20..25 {
            nat.refuses_out(&packets(n), why);
        }
        for (n, x) in (0..20).zip(first) {
            assert_eq!(nat.leaves(&packets(n)), x);
        }
        assert_eq!(nat.nat.counts().sessions, 20);
    };
    let ports = |n| udp(&format!("10.0.0.2:{} > 198.51.100.7:5000", 1000 + n));
    let remotes = |n| udp(&format!("10.0.0.2:1000 > 198.51.100.7:{}", 5000 + n));
    full(|config| config.ports = vec![40000..=40019], Refusal::PortsExhausted, &ports);
    full(|config| config.limits.sessions = 20, Refusal::SessionLimit, &ports);
    full(|config| config.limits.sessions_per_host = 20, Refusal::HostSessionLimit, &ports);
    full(|config| config.limits.mappings_per_host = 20, Refusal::HostMappingLimit, &ports);
    full(|config| config.limits.sessions_per_mapping = 20, Refusal::MappingSessionLimit, &remotes);
}

#[test]
fn limits_of_one_host_are_not_anothers() {
    let mut nat = nat(|config| {
        config.limits.sessions_per_host = 3;
        config.limits.mappings_per_host = 2;
    });
    for host in ["10.0.0.2", "10.0.0.3"] {
        nat.leaves(&udp(&format!("{host}:1 > 198.51.100.7:1")));
        nat.leaves(&udp(&format!("{host}:2 > 198.51.100.7:1")));
        nat.refuses_out(&udp(&format!("{host}:3 > 198.51.100.7:1")), Refusal::HostMappingLimit);
        nat.leaves(&udp(&format!("{host}:1 > 198.51.100.7:2")));
        nat.refuses_out(&udp(&format!("{host}:1 > 198.51.100.7:3")), Refusal::HostSessionLimit);
    }
    let x = nat.leaves(&udp("10.0.0.4:1 > 198.51.100.7:1"));
    for port in 2..=3 {
        nat.reaches(&to(&udp(&format!("198.51.100.7:{port} > 0.0.0.0")), x), "10.0.0.4:1");
    }
    nat.refuses_in(&to(&udp("198.51.100.7:4 > 0.0.0.0"), x), Refusal::HostSessionLimit);
}

// --ports 40000-40001: the connection that closed first makes room, an open one never does.
#[test]
fn closed_connections_make_room() {
    for by_table in [false, true] {
        let mut nat = nat(|config| {
            if by_table {
                config.limits.sessions = 2;
            } else {
                config.ports = vec![40000..=40001];
            }
        });
        let line = |port: u16| format!("10.0.0.2:{port} > 198.51.100.7:80");
        let connect = |nat: &mut Bench, port| {
            let x = nat.leaves(&tcp(&line(port), "S"));
            for flags in ["S.", "F."] {
                nat.reaches(&to(&tcp("198.51.100.7:80 > 0.0.0.0", flags), x), &format!("10.0.0.2:{port}"));
            }
            x
        };
        let first = connect(&mut nat, 1);
        connect(&mut nat, 2);
        nat.refuses_out(
            &tcp(&line(3), "S"),
            if by_table { Refusal::SessionLimit } else { Refusal::PortsExhausted },
        );
        nat.leaves(&tcp(&line(1), "F."));
        assert_eq!(nat.state(), Some(TcpState::Closing));
        let third = nat.leaves(&tcp(&line(3), "S"));
        assert_eq!(nat.closed(), [Closed::Recycled]);
        assert!(by_table || third == first);
        nat.leaves(&tcp(&line(2), "."));
        nat.refuses_out(&tcp(&line(1), "."), Refusal::NoSession);
    }
}

// ---- leases ----------------------------------------------------------------------------------

#[test]
fn only_leased_ports_are_used() {
    let mut nat = nat(|config| (config.leased, config.ports) = (true, vec![32768..=65535]));
    nat.refuses_out(&udp("10.0.0.2:1 > 198.51.100.7:1"), Refusal::PortsExhausted);
    nat.leaves(&ping("10.0.0.2:1 > 198.51.100.7"));
    let wanted: Vec<_> = nat.nat.wanted().collect();
    let x: IpAddr = X.parse().unwrap();
    let kinds =
        [(Protocol::Tcp, false), (Protocol::Tcp, true), (Protocol::Udp, false), (Protocol::Udp, true)];
    assert_eq!(
        wanted,
        kinds.map(|(protocol, odd)| Wanted { protocol, address: x, odd, count: 64, soon: true })
    );
    nat.nat.lease(Protocol::Udp, end("203.0.113.1:41000"));
    nat.nat.lease(Protocol::Udp, end("203.0.113.2:41001"));
    assert_eq!(nat.nat.counts().free_ports, 1);
    assert_eq!(nat.leaves(&udp("10.0.0.2:1 > 198.51.100.7:1")).port, 41000);
    nat.refuses_out(&udp("10.0.0.3:1 > 198.51.100.7:1"), Refusal::PortsExhausted);
    nat.refuses_out(&tcp("10.0.0.3:1 > 198.51.100.7:1", "S"), Refusal::PortsExhausted);
}

#[test]
fn unused_leases_go_back() {
    let mut nat = nat(|config| (config.leased, config.ports) = (true, vec![32768..=65535]));
    for port in 40000..40200 {
        nat.nat.lease(Protocol::Tcp, Endpoint::new(end(X).ip, port));
    }
    nat.after(58.0);
    assert_eq!(nat.nat.give_back(nat.now), None);
    nat.after(3.0);
    let mut back = BTreeSet::new();
    while let Some((protocol, outside)) = nat.nat.give_back(nat.now) {
        assert_eq!(protocol, Protocol::Tcp);
        back.insert(outside.port);
    }
    assert_eq!((back.len(), nat.nat.counts().free_ports), (72, 128));
    for n in 0..128 {
        let x = nat.leaves(&tcp(&format!("10.0.0.2:{} > 198.51.100.7:80", n + 1), "S"));
        assert!(!back.contains(&x.port));
    }
}

// ---- publishing ------------------------------------------------------------------------------

// --publish 8080:10.0.0.3:80/tcp --publish 9090:10.0.0.3:80/tcp
#[test]
fn published_ports() {
    let mut nat = nat(|_| {});
    let (x, y, inside) = (end("203.0.113.1:8080"), end("203.0.113.1:9090"), end("10.0.0.3:80"));
    nat.nat.publish(Protocol::Tcp, x, inside).unwrap();
    nat.nat.publish(Protocol::Tcp, y, inside).unwrap();
    assert_eq!(nat.nat.publish(Protocol::Tcp, x, end("10.0.0.4:80")), Err(PublishError::Taken));
    let foreign = nat.nat.publish(Protocol::Tcp, end("203.0.113.9:1"), inside);
    assert_eq!(foreign, Err(PublishError::ForeignAddress));
    assert_eq!(nat.nat.published(), [(Protocol::Tcp, x, inside), (Protocol::Tcp, y, inside)]);
    nat.reaches(&tcp("198.51.100.7:1 > 203.0.113.1:8080", "S"), "10.0.0.3:80");
    nat.reaches(&tcp("198.51.100.8:1 > 203.0.113.1:9090", "S"), "10.0.0.3:80");
    nat.refuses_in(&udp("198.51.100.8:1 > 203.0.113.1:9090"), Refusal::NoMapping);
    assert_eq!(nat.leaves(&tcp("10.0.0.3:80 > 198.51.100.7:1", "S.")), x);
    assert_eq!(nat.leaves(&tcp("10.0.0.3:80 > 198.51.100.8:1", "S.")), y);
    assert_eq!(nat.leaves(&tcp("10.0.0.3:80 > 198.51.100.9:1", "S")), x);
    assert!(nat.sessions().iter().all(|session| session.published));
    nat.after(100_000.0).expire();
    assert_eq!((nat.nat.counts().sessions, nat.nat.counts().mappings), (0, 2));
    nat.reaches(&tcp("198.51.100.7:1 > 203.0.113.1:8080", "S"), "10.0.0.3:80");
    nat.steps.clear();
    assert!(nat.nat.unpublish(Protocol::Tcp, x, nat.now, &mut nat.steps));
    assert_eq!(nat.closed(), [Closed::Unpublished]);
    assert!(!nat.nat.unpublish(Protocol::Tcp, x, nat.now, &mut ()));
    nat.refuses_in(&tcp("198.51.100.7:1 > 203.0.113.1:8080", "S"), Refusal::NoMapping);
    assert_eq!(nat.leaves(&tcp("10.0.0.3:80 > 198.51.100.9:1", "S")), y);
}

#[test]
fn a_published_port_leaves_the_pool() {
    let mut nat = nat(|config| config.ports = vec![40000..=40002]);
    nat.leaves(&udp("10.0.0.2:1 > 198.51.100.7:1"));
    let free = (40000..=40002).map(|port| Endpoint::new(end(X).ip, port));
    let published: Vec<_> =
        free.filter(|x| nat.nat.publish(Protocol::Udp, *x, end("10.0.0.3:53")).is_ok()).collect();
    assert_eq!(published.len(), 2);
    nat.refuses_out(&udp("10.0.0.2:2 > 198.51.100.7:1"), Refusal::PortsExhausted);
    assert!(nat.nat.unpublish(Protocol::Udp, published[0], nat.now, &mut ()));
    assert_eq!(nat.leaves(&udp("10.0.0.2:2 > 198.51.100.7:1")), published[0]);
    let mut config = nat.nat.config().clone();
    config.limits.publish = 1;
    nat.nat.reconfigure(config, nat.now, &mut nat.steps);
    let limit = nat.nat.publish(Protocol::Udp, end("203.0.113.1:99"), end("10.0.0.3:53"));
    assert_eq!(limit, Err(PublishError::Limit));
}

// ---- listing ---------------------------------------------------------------------------------

#[test]
fn sessions_are_listed_page_by_page() {
    let mut nat = nat(|_| {});
    for n in 1..=25 {
        nat.leaves(&udp(&format!("10.0.0.2:{n} > 198.51.100.7:1")));
    }
    let (mut cursor, mut ids, mut pages) = (Some(0), BTreeSet::new(), 0);
    while let Some(from) = cursor {
        let (page, next) = nat.nat.sessions(from, 10, nat.now);
        ids.extend(page.iter().map(|session| session.id));
        (cursor, pages) = (next, pages + 1);
    }
    assert_eq!((ids.len(), pages), (25, 3));
    assert_eq!(nat.nat.mappings(0, 100).0.len(), 25);
    for id in &ids {
        assert!(nat.nat.forget(*id, nat.now, &mut nat.steps));
        assert!(!nat.nat.forget(*id, nat.now, &mut nat.steps));
    }
    assert!(nat.closed().iter().all(|why| *why == Closed::Flushed));
    assert_eq!(nat.nat.counts().mappings, 0);
    assert!(!nat.nat.forget(u64::MAX, nat.now, &mut ()));
}

#[test]
fn a_view_tells_all() {
    let mut nat = nat(|_| {});
    let x = nat.leaves(&udp("10.0.0.2:1 > 198.51.100.7:5000"));
    nat.after(10.0).reaches(&to(&udp("198.51.100.7:5000 > 0.0.0.0"), x), "10.0.0.2:1");
    nat.after(20.0);
    let view = nat.sessions()[0];
    let want = SessionView {
        id: view.id,
        protocol: Protocol::Udp,
        inside: end("10.0.0.2:1"),
        outside: x,
        remote: end("198.51.100.7:5000"),
        tcp: None,
        answered: true,
        published: false,
        opened: Time::from_secs(1),
        expires_in: Duration::from_secs(280),
        packets_out: 1,
        packets_in: 1,
        bytes_out: 100,
        bytes_in: 100,
    };
    assert_eq!(view, want);
}

/// An address that is there for port forwards alone is ours for as long as it has one.
#[test]
fn addresses_of_port_forwards_are_given_up_with_the_last_one() {
    let mut nat = nat(|config| {
        config.publish_anywhere = true;
        config.limits.publish = 2;
    });
    let inside = end("10.0.0.2:80");
    let (elsewhere, hosts) = (end("192.0.2.8:80"), end("192.168.7.1:80"));
    let leaves = tcp("10.0.0.2:5000 > 192.0.2.8:80", "S");
    // More than there may be at a time, one after another.
    for last in 1..=200 {
        let other = end(&format!("192.0.2.{last}:80"));
        nat.nat.publish(Protocol::Tcp, other, inside).unwrap();
        assert!(nat.nat.is_external(other.ip));
        assert!(nat.nat.unpublish(Protocol::Tcp, other, nat.now, &mut ()));
        assert!(!nat.nat.is_external(other.ip));
    }
    nat.leaves(&leaves);
    // Of two the last one counts.
    let second = end("192.0.2.8:81");
    nat.nat.publish(Protocol::Tcp, elsewhere, inside).unwrap();
    nat.nat.publish(Protocol::Tcp, second, inside).unwrap();
    assert_eq!(nat.nat.publish(Protocol::Tcp, end("192.0.2.9:80"), inside), Err(PublishError::Limit));
    assert!(!nat.nat.is_external("192.0.2.9".parse().unwrap()), "what fails leaves nothing");
    assert!(nat.nat.unpublish(Protocol::Tcp, elsewhere, nat.now, &mut ()));
    nat.reaches(&tcp("198.51.100.7:9 > 192.0.2.8:81", "S"), "10.0.0.2:80");
    for (outside, inside) in [
        (end("192.0.2.9:0"), inside),
        (end("192.0.2.9:80"), Endpoint::new("fd00::2".parse::<IpAddr>().unwrap(), 80)),
    ] {
        assert!(nat.nat.publish(Protocol::Tcp, outside, inside).is_err());
        assert!(!nat.nat.is_external(outside.ip));
    }
    assert!(nat.nat.unpublish(Protocol::Tcp, second, nat.now, &mut nat.steps));
    // The host's own is the host's again.
    let to_host = tcp("10.0.0.2:5000 > 192.168.7.1:80", "S");
    nat.nat.publish(Protocol::Tcp, hosts, end("10.0.0.3:80")).unwrap();
    assert!(nat.nat.unpublish(Protocol::Tcp, hosts, nat.now, &mut ()));
    let decision = nat.out(&to_host);
    assert!(matches!(decision, Decision::Translate { exit: Exit::Host, .. }), "{decision:?}");
}

/// Tables that are in no cache are searched in another order; what is found is the same.
#[test]
fn large_tables_tell_the_same_as_small_ones() {
    // Two remotes for each inside endpoint, which TCP and UDP both have.
    let packet = |n: u32| {
        let inside = std::net::Ipv4Addr::from_bits(0x0a00_0002 + n / 400);
        let flow = format!("{inside}:{} > 198.51.100.7:{}", 5000 + n % 400 / 4, [80, 443][n as usize % 2]);
        if n % 4 < 2 { tcp(&flow, "S") } else { udp(&flow) }
    };
    for mapping in [Behaviour::EndpointIndependent, Behaviour::AddressAndPortDependent] {
        let mut nat = nat(|config| {
            config.external.push("203.0.113.2".parse().unwrap());
            config.policy.mapping = mapping;
        });
        for _ in 0..2 {
            let outside: Vec<Endpoint> = (0..80_000).map(|n| nat.leaves(&packet(n))).collect();
            assert_eq!(nat.nat.live_sessions(), 80_000);
            for pair in outside.chunks(2) {
                assert_eq!(pair[0] == pair[1], mapping == Behaviour::EndpointIndependent);
            }
            for n in (0..80_000).rev() {
                assert_eq!(nat.leaves(&packet(n)), outside[n as usize], "{n}");
            }
            assert_eq!(nat.nat.live_sessions(), 80_000, "all were known");
            // Rows are used again, by others.
            let mut cursor = Some(0);
            while let Some(from) = cursor {
                let (sessions, next) = nat.nat.sessions(from, 1000, nat.now);
                for session in sessions.iter().filter(|session| (session.id as u32).is_multiple_of(5)) {
                    assert!(nat.nat.forget(session.id, nat.now, &mut nat.steps));
                }
                cursor = next;
            }
            assert_eq!(nat.nat.live_sessions(), 64_000);
        }
    }
}
