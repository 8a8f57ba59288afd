//! How hosts are treated, side by side in one translator: the four classes that people know NATs by
//! (RFC 3489 §5), rules for some hosts, exempt destinations, and what a new configuration leaves.

#![allow(clippy::unwrap_used)]

#[path = "support/tuples.rs"]
mod tuples;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use tapnat::flow::{Edit, Endpoint, Prefix, Protocol, Summary, Time};
use tapnat::nat::{
    Behaviour, Closed, Decision, EgressRule, Exemption, Exit, Nat, NatConfig, Policy, Reconfigured, Refusal,
    Rule, Step,
};
use tuples::{end, error, gre, ping, pong, tcp, to, udp};

const X: &str = "203.0.113.1";
const A: &str = "10.0.0.2:1000";
const B: &str = "10.0.0.3:1000";
const C: &str = "10.0.0.4:1000";
const S1: &str = "198.51.100.7";
const S2: &str = "198.51.100.8";

use Behaviour::{AddressAndPortDependent, AddressDependent, EndpointIndependent};

/// A class by its name; its mapping and its filtering.
#[derive(Clone, Copy)]
struct Class(&'static str, Behaviour, Behaviour);

const FULL_CONE: Class = Class("full-cone", EndpointIndependent, EndpointIndependent);
const RESTRICTED_CONE: Class = Class("restricted-cone", EndpointIndependent, AddressDependent);
const PORT_RESTRICTED: Class = Class("port-restricted", EndpointIndependent, AddressAndPortDependent);
const SYMMETRIC: Class = Class("symmetric", AddressAndPortDependent, AddressAndPortDependent);
const CLASSES: [Class; 4] = [FULL_CONE, RESTRICTED_CONE, PORT_RESTRICTED, SYMMETRIC];

impl Class {
    fn policy(self) -> Policy {
        Policy { mapping: self.1, filtering: self.2, ..Policy::default() }
    }
}

fn rule(inside: &str, length: u8, policy: Policy) -> Rule {
    Rule { inside: Prefix::new(end(inside).ip, length), policy }
}

fn exempt(remote: &str, length: u8) -> Exemption {
    Exemption { remote: Prefix::new(end(remote).ip, length), protocol: None, ports: None }
}

/// A packet that may open something.
fn packet(protocol: Protocol, source: &str, destination: &str) -> Summary {
    let text = format!("{source} > {destination}");
    if protocol == Protocol::Tcp { tcp(&text, "S") } else { udp(&text) }
}

/// A translator, its clock and what it told.
struct Bench {
    nat: Nat,
    now: Time,
    steps: Vec<Step>,
}

fn nat(change: impl FnOnce(&mut NatConfig)) -> Bench {
    let mut config = NatConfig::new(vec![end(X).ip]);
    change(&mut config);
    Bench { nat: Nat::new(config, [42; 32]), now: Time::from_secs(1), steps: Vec::new() }
}

fn of_class(class: Class) -> Bench {
    nat(|config| config.policy = class.policy())
}

const EXEMPT_OUT: Decision = Decision::Translate { edit: EMPTY, exit: Exit::Outside };
const EXEMPT_IN: Decision = Decision::Translate { edit: EMPTY, exit: Exit::Inside };
const EMPTY: Edit = Edit {
    source: None,
    destination: None,
    quoted: None,
    spend_hop: false,
    clamp_mss: None,
    identification: None,
};

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
    #[track_caller]
    fn leaves(&mut self, packet: &Summary) -> Endpoint {
        match self.out(packet) {
            Decision::Translate { edit: Edit { source: Some(source), .. }, exit: Exit::Outside } => source,
            other => panic!("{packet:?}: {other:?}"),
        }
    }

    /// Whether a packet from `remote` to an outside endpoint gets to this inside host.
    #[track_caller]
    fn comes_in(&mut self, protocol: Protocol, remote: &str, outside: Endpoint, inside: &str) -> bool {
        match self.back(&to(&packet(protocol, remote, "0.0.0.0"), outside)) {
            Decision::Translate { edit, exit: Exit::Inside } => {
                assert_eq!(edit.destination, Some(end(inside)));
                true
            }
            Decision::Refuse(Refusal::Filtered) => false,
            other => panic!("{other:?}"),
        }
    }

    fn reconfigure(&mut self, change: impl FnOnce(&mut NatConfig)) -> Reconfigured {
        let mut config = self.nat.config().clone();
        change(&mut config);
        self.steps.clear();
        let done = self.nat.reconfigure(config, self.now, &mut self.steps);
        let told = self.steps.iter().filter(|step| matches!(step, Step::Closed(_, Closed::Reconfigured)));
        assert_eq!(told.count(), done.ended, "each ended session is told");
        assert_eq!(self.nat.sessions(0, usize::MAX, self.now).0.len(), done.kept);
        done
    }
}

// ---- the classes -----------------------------------------------------------------------------

/// Rows 1, 18 and 27: A, B and C all send from port 1000, so that a NAT that keeps ports where it
/// can meets two clashes; the class is the same before and after them.
#[test]
fn a_mapping_depends_on_the_remote_as_the_class_says_for_every_host() {
    for class in CLASSES {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            let mut nat = of_class(class);
            let mut all = BTreeSet::new();
            let mut each = Vec::new();
            for inside in [A, B, C] {
                let remotes = [format!("{S1}:80"), format!("{S2}:80"), format!("{S1}:81")];
                let ports: BTreeSet<_> = remotes.map(|s| nat.leaves(&packet(protocol, inside, &s))).into();
                each.push(ports.len());
                all.extend(ports);
            }
            let expected = if class.1 == EndpointIndependent { 1 } else { 3 };
            assert_eq!((each, all.len()), (vec![expected; 3], 3 * expected), "{}", class.0);
        }
    }
}

/// Rows 12, 13, 18, 30 and 73.
#[test]
fn the_class_says_who_may_answer_for_every_host() {
    for class in CLASSES {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            let mut nat = of_class(class);
            for inside in [A, B, C] {
                let x = nat.leaves(&packet(protocol, inside, &format!("{S1}:80")));
                let same = nat.comes_in(protocol, &format!("{S1}:80"), x, inside);
                let other_host = nat.comes_in(protocol, &format!("{S2}:80"), x, inside);
                let other_port = nat.comes_in(protocol, &format!("{S1}:81"), x, inside);
                let expected = match class.2 {
                    EndpointIndependent => [true, true, true],
                    AddressDependent => [true, true, false],
                    AddressAndPortDependent => [true, false, false],
                };
                assert_eq!([same, other_port, other_host], expected, "{} {inside}", class.0);
            }
        }
    }
}

/// Rows 3 and 36: not even towards different destinations, in any class (row 83 is an option of the
/// port choice).
#[test]
fn two_inside_endpoints_never_share_an_outside_endpoint_in_any_class() {
    for class in CLASSES {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            let mut nat = nat(|config| {
                config.policy = class.policy();
                config.ports = vec![40_000..=40_003];
            });
            let hosts = ["10.0.0.2:7", "10.0.0.3:7", "10.0.0.4:7", "10.0.0.5:7"];
            let given: BTreeSet<_> =
                hosts.map(|host| nat.leaves(&packet(protocol, host, &format!("{S1}:80")))).into();
            assert_eq!(given.len(), 4);
            let fifth = nat.out(&packet(protocol, "10.0.0.6:7", &format!("{S2}:80")));
            assert_eq!(fifth, Decision::Refuse(Refusal::PortsExhausted), "{}", class.0);
        }
    }
}

/// Rows 14, 15 and 37.
#[test]
fn a_hairpinned_packet_carries_its_senders_outside_endpoint_and_the_targets_filter_decides() {
    for class in CLASSES {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            let mut nat = nat(|config| config.rules = vec![rule(B, 32, class.policy())]);
            let xa = nat.leaves(&packet(protocol, A, &format!("{S1}:80")));
            let xb = nat.leaves(&packet(protocol, B, &format!("{S1}:80")));
            let hello = to(&packet(protocol, A, "0.0.0.0"), xb);
            let hairpinned = Decision::Translate {
                edit: Edit { source: Some(xa), destination: Some(end(B)), ..Edit::default() },
                exit: Exit::Hairpin,
            };
            let first = nat.out(&hello);
            if class.2 == EndpointIndependent {
                assert_eq!(first, hairpinned, "{}", class.0);
                continue;
            }
            assert_eq!(first, Decision::Refuse(Refusal::Filtered), "{}", class.0);
            // B talks to A's outside endpoint, which A has let in by its own packet to B.
            let answer = nat.out(&to(&packet(protocol, B, "0.0.0.0"), xa));
            if class.1 == EndpointIndependent {
                let edit = Edit { source: Some(xb), destination: Some(end(A)), ..Edit::default() };
                assert_eq!(answer, Decision::Translate { edit, exit: Exit::Hairpin }, "{}", class.0);
                assert_eq!(nat.out(&hello), hairpinned, "{}", class.0);
            } else {
                // A symmetric host has another endpoint for each remote, so the first one stays shut.
                assert_eq!(nat.out(&hello), Decision::Refuse(Refusal::Filtered), "{}", class.0);
            }
        }
    }
}

/// Row 14, by host: the sender's policy says whether it may hairpin at all.
#[test]
fn the_senders_policy_decides_whether_it_may_hairpin() {
    let off = Policy { hairpin: false, ..FULL_CONE.policy() };
    let mut nat = nat(|config| {
        config.policy = FULL_CONE.policy();
        config.rules = vec![rule(A, 32, off)];
    });
    let xa = nat.leaves(&packet(Protocol::Udp, A, &format!("{S1}:80")));
    let xb = nat.leaves(&packet(Protocol::Udp, B, &format!("{S1}:80")));
    let refused = nat.out(&to(&packet(Protocol::Udp, A, "0.0.0.0"), xb));
    assert_eq!(refused, Decision::Refuse(Refusal::HairpinOff));
    let passed = nat.out(&to(&packet(Protocol::Udp, B, "0.0.0.0"), xa));
    assert!(matches!(passed, Decision::Translate { exit: Exit::Hairpin, .. }), "{passed:?}");
}

/// Rows 85 and 86.
#[test]
fn a_mapping_of_one_protocol_is_nothing_to_another_in_any_class() {
    for class in CLASSES {
        let mut nat = of_class(class);
        let x = nat.leaves(&packet(Protocol::Tcp, A, &format!("{S1}:80")));
        let other = nat.back(&to(&udp(&format!("{S1}:80 > 0.0.0.0")), x));
        assert_eq!(other, Decision::Refuse(Refusal::NoMapping), "{}", class.0);
        let mut narrow = nat_of_one_port(class);
        let tcp = narrow.leaves(&packet(Protocol::Tcp, A, &format!("{S1}:80")));
        let udp = narrow.leaves(&packet(Protocol::Udp, B, &format!("{S1}:80")));
        assert_eq!(tcp, udp, "one number, two ports");
        assert!(narrow.comes_in(Protocol::Udp, &format!("{S1}:80"), udp, B));
    }
}

fn nat_of_one_port(class: Class) -> Bench {
    nat(|config| {
        config.policy = class.policy();
        config.ports = vec![40_000..=40_000];
    })
}

/// Row 87.
#[test]
fn what_the_filter_refuses_refreshes_nothing_in_any_class() {
    for class in [RESTRICTED_CONE, PORT_RESTRICTED, SYMMETRIC] {
        let mut nat = of_class(class);
        let x = nat.leaves(&packet(Protocol::Udp, A, &format!("{S1}:5000")));
        for _ in 0..9 {
            assert!(!nat.after(30.0).comes_in(Protocol::Udp, &format!("{S2}:5000"), x, A));
        }
        let late = nat.after(30.0).back(&to(&udp(&format!("{S1}:5000 > 0.0.0.0")), x));
        assert_eq!(late, Decision::Refuse(Refusal::NoMapping), "{}", class.0);
    }
}

// ---- rules -----------------------------------------------------------------------------------

#[test]
fn every_host_is_treated_by_its_own_rule_and_the_longest_prefix_holds() {
    let mut nat = nat(|config| {
        config.policy = SYMMETRIC.policy();
        config.rules = vec![
            rule("10.0.0.0", 8, PORT_RESTRICTED.policy()),
            rule("10.0.0.2", 32, FULL_CONE.policy()),
            rule("10.0.0.2", 31, RESTRICTED_CONE.policy()),
        ];
    });
    let cases = [(A, FULL_CONE), (B, RESTRICTED_CONE), (C, PORT_RESTRICTED), ("172.16.0.1:1000", SYMMETRIC)];
    for (inside, class) in cases {
        let x = nat.leaves(&packet(Protocol::Udp, inside, &format!("{S1}:80")));
        let again = nat.leaves(&packet(Protocol::Udp, inside, &format!("{S2}:90")));
        assert_eq!(x == again, class.1 == EndpointIndependent, "{}", class.0);
        let other_port = nat.comes_in(Protocol::Udp, &format!("{S1}:81"), x, inside);
        let stranger = nat.comes_in(Protocol::Udp, "192.0.2.99:9", x, inside);
        assert_eq!(other_port, class.2 != AddressAndPortDependent, "{}", class.0);
        assert_eq!(stranger, class.2 == EndpointIndependent, "{}", class.0);
    }
}

#[test]
fn timeouts_are_those_of_the_hosts_rule() {
    let mut quick = Policy::default();
    quick.timeouts.udp_unreplied = Duration::from_secs(130);
    quick.timeouts.tcp_opening = Duration::from_secs(10);
    quick.timeouts.tcp_reset = Duration::from_secs(5);
    let mut nat = nat(|config| config.rules = vec![rule(B, 32, quick)]);
    let lives = |nat: &mut Bench, summary: &Summary| {
        nat.leaves(summary);
        let (sessions, _) = nat.nat.sessions(0, 99, nat.now);
        sessions.iter().find(|session| session.inside == summary.flow().source).unwrap().expires_in.as_secs()
    };
    assert_eq!(lives(&mut nat, &udp(&format!("{A} > {S1}:9"))), 300);
    assert_eq!(lives(&mut nat, &udp(&format!("{B} > {S1}:9"))), 130);
    assert_eq!(lives(&mut nat, &tcp("10.0.0.2:1 > 198.51.100.7:80", "S")), 240);
    assert_eq!(lives(&mut nat, &tcp("10.0.0.3:1 > 198.51.100.7:80", "S")), 10);
    // A RST shortens a life, by the host's own policy too.
    nat.leaves(&tcp("10.0.0.3:1 > 198.51.100.7:80", "R"));
    nat.after(5.0);
    nat.nat.expire(nat.now, &mut ());
    assert_eq!(nat.nat.counts().sessions, 3);
    nat.after(125.0);
    nat.nat.expire(nat.now, &mut ());
    let left: Vec<_> = nat.nat.sessions(0, 99, nat.now).0.iter().map(|session| session.inside.ip).collect();
    assert_eq!(left, [end(A).ip; 2]);
}

#[test]
fn a_port_forward_filters_nothing_whatever_its_hosts_rule() {
    for class in CLASSES {
        let mut nat = of_class(class);
        let x = end("203.0.113.1:8080");
        nat.nat.publish(Protocol::Tcp, x, end(A)).unwrap();
        assert!(nat.comes_in(Protocol::Tcp, &format!("{S1}:4"), x, A));
        assert!(nat.comes_in(Protocol::Tcp, &format!("{S2}:4"), x, A));
        assert_eq!(nat.leaves(&tcp(&format!("{A} > {S2}:4"), "S.")), x, "{}", class.0);
    }
}

// ---- exemptions ------------------------------------------------------------------------------

/// Row 72.
#[test]
fn an_exempt_destination_is_reached_with_the_hosts_own_source_and_answers_there() {
    let mut nat = nat(|config| config.exempt = vec![exempt("198.51.100.0", 29)]);
    for out in [
        udp(&format!("{A} > {S1}:53")),
        tcp(&format!("{A} > {S1}:80"), "S"),
        tcp(&format!("{A} > {S1}:80"), "."),
        ping(&format!("{A} > {S1}")),
        gre(&format!("10.0.0.2 > {S1}")),
    ] {
        assert_eq!(nat.out(&out), EXEMPT_OUT, "{out:?}");
    }
    for back in [
        udp(&format!("{S1}:53 > {A}")),
        tcp(&format!("{S1}:80 > {A}"), "S."),
        pong(&format!("{S1} > {A}")),
        gre(&format!("{S1} > 10.0.0.2")),
    ] {
        assert_eq!(nat.back(&back), EXEMPT_IN, "{back:?}");
        let Summary::Data(data) = back else { unreachable!() };
        assert_eq!(nat.nat.would_admit(&data, true, nat.now), Ok(()));
        assert!(nat.nat.may_exempt(&back, false));
    }
    assert_eq!((nat.nat.counts().sessions, nat.nat.counts().mappings), (0, 0), "nothing is kept");
    assert_eq!(nat.leaves(&udp(&format!("{A} > {S2}:53"))).ip, end(X).ip, "others are translated");
}

#[test]
fn an_exempt_remote_may_ping_an_inside_host_and_is_answered() {
    let mut nat = nat(|config| config.exempt = vec![exempt(S1, 32)]);
    assert_eq!(nat.back(&ping(&format!("{S1}:7 > 10.0.0.2"))), EXEMPT_IN);
    assert_eq!(nat.out(&pong(&format!("10.0.0.2 > {S1}:7"))), EXEMPT_OUT);
    let stranger = nat.out(&pong(&format!("10.0.0.2 > {S2}:7")));
    assert_eq!(stranger, Decision::Refuse(Refusal::UnsolicitedQuery));
}

/// Row 72: by protocol and port.
#[test]
fn an_exemption_may_name_a_protocol_and_ports() {
    let only = Exemption { protocol: Some(Protocol::Tcp), ports: Some(443..=445), ..exempt(S1, 32) };
    let ports = Exemption { ports: Some(53..=53), ..exempt(S2, 32) };
    let mut nat = nat(|config| config.exempt = vec![only, ports]);
    assert_eq!(nat.out(&tcp(&format!("{A} > {S1}:443"), "S")), EXEMPT_OUT);
    assert_eq!(nat.back(&tcp(&format!("{S1}:445 > {A}"), "S.")), EXEMPT_IN);
    nat.leaves(&tcp(&format!("{A} > {S1}:446"), "S"));
    nat.leaves(&udp(&format!("{A} > {S1}:443")));
    assert_eq!(nat.out(&udp(&format!("{A} > {S2}:53"))), EXEMPT_OUT);
    assert_eq!(nat.out(&tcp(&format!("{A} > {S2}:53"), "S")), EXEMPT_OUT);
    nat.leaves(&ping(&format!("{A} > {S2}")));
    let other = nat.back(&tcp(&format!("{S1}:80 > {A}"), "S"));
    assert_eq!(other, Decision::Refuse(Refusal::NoMapping));
    assert!(!nat.nat.may_exempt(&tcp(&format!("{S1}:80 > {A}"), "S"), false));
    assert!(nat.nat.may_exempt(&tcp(&format!("{S1}:0 > {A}"), "S"), true), "a later fragment has no ports");
}

#[test]
fn icmp_errors_about_exempt_packets_pass_both_ways_and_others_do_not() {
    let mut nat = nat(|config| config.exempt = vec![exempt(S1, 32)]);
    let sent = udp(&format!("{A} > {S1}:53"));
    let came = udp(&format!("{S1}:53 > {A}"));
    assert_eq!(nat.back(&error("192.0.2.9 > 10.0.0.2", &sent)), EXEMPT_IN);
    assert_eq!(nat.out(&error(&format!("10.0.0.2 > {S1}"), &came)), EXEMPT_OUT);
    let misaddressed = Decision::Refuse(Refusal::ErrorMisaddressed);
    assert_eq!(nat.back(&error("192.0.2.9 > 10.0.0.3", &sent)), misaddressed);
    assert_eq!(nat.out(&error("10.0.0.2 > 192.0.2.9", &came)), misaddressed);
    let unknown = Decision::Refuse(Refusal::ErrorWithoutSession);
    assert_eq!(nat.back(&error("192.0.2.9 > 10.0.0.2", &udp(&format!("{A} > {S2}:53")))), unknown);
    assert_eq!(nat.out(&error(&format!("10.0.0.2 > {S2}"), &udp(&format!("{S2}:53 > {A}")))), unknown);
    // Nor one that says that we sent it from an outside endpoint, or that claims to be from us.
    assert_eq!(nat.back(&error(&format!("192.0.2.9 > {X}"), &udp(&format!("{X}:40000 > {S1}:53")))), unknown);
    let ours = nat.back(&error(&format!("{X} > 10.0.0.2"), &sent));
    assert_eq!(ours, Decision::Refuse(Refusal::SourceIsOurs));
}

#[test]
fn errors_to_exempt_remotes_are_asked_of_the_egress_rules() {
    let mut nat = nat(|config| {
        config.exempt = vec![exempt("198.51.100.0", 24)];
        config.egress = EgressRule::before_wider(vec![EgressRule::deny(Prefix::new(end(S1).ip, 32))]);
    });
    let about = |remote: &str| error(&format!("10.0.0.2 > {remote}"), &udp(&format!("{remote}:53 > {A}")));
    assert_eq!(nat.out(&about(S1)), Decision::Refuse(Refusal::EgressDenied));
    assert_eq!(nat.out(&about(S2)), EXEMPT_OUT);
}

#[test]
fn a_syn_from_inside_is_asked_of_the_egress_rules_whoever_began() {
    let mut nat = nat(|config| {
        config.policy = FULL_CONE.policy();
        config.egress = EgressRule::before_wider(vec![EgressRule::deny(Prefix::new(end(S1).ip, 32))]);
    });
    let outside = end("203.0.113.1:8080");
    nat.nat.publish(Protocol::Tcp, outside, end(A)).unwrap();
    for (remote, denied) in [(S1, true), (S2, false)] {
        let came = tcp(&format!("{remote}:22 > {outside}"), "S");
        assert!(matches!(nat.back(&came), Decision::Translate { .. }), "a remote may come");
        let syn = nat.out(&tcp(&format!("{A} > {remote}:22"), "S"));
        assert_eq!(syn == Decision::Refuse(Refusal::EgressDenied), denied, "{syn:?}");
        let answer = nat.out(&tcp(&format!("{A} > {remote}:22"), "S."));
        assert!(matches!(answer, Decision::Translate { .. }), "and is answered: {answer:?}");
    }
}

#[test]
fn our_own_addresses_are_never_exempt() {
    let mut nat = nat(|config| config.exempt = vec![exempt("0.0.0.0", 0)]);
    let host = nat.out(&udp(&format!("{A} > {X}:53")));
    assert!(matches!(host, Decision::Translate { exit: Exit::Host, .. }), "{host:?}");
    assert_eq!(nat.back(&udp(&format!("{X}:53 > {A}"))), Decision::Refuse(Refusal::SourceIsOurs));
    assert_eq!(nat.back(&udp(&format!("{S1}:53 > {X}:99"))), Decision::Refuse(Refusal::NoMapping));
    let odd = nat.back(&tcp(&format!("{S1}:53 > {A}"), "SF"));
    assert_eq!(odd, Decision::Refuse(Refusal::BadFlags));
}

#[test]
fn an_exempt_remote_that_talks_to_a_port_forward_is_answered_from_there() {
    let mut nat = nat(|config| config.exempt = vec![exempt(S1, 32)]);
    let x = end("203.0.113.1:8080");
    nat.nat.publish(Protocol::Tcp, x, end(A)).unwrap();
    assert!(nat.comes_in(Protocol::Tcp, &format!("{S1}:4"), x, A));
    assert_eq!(nat.leaves(&tcp(&format!("{A} > {S1}:4"), "S.")), x);
    assert_eq!(nat.out(&tcp(&format!("{A} > {S1}:5"), "S")), EXEMPT_OUT);
    assert_eq!(nat.reconfigure(|_| {}), Reconfigured { kept: 1, ended: 0 });
}

// ---- a new configuration ---------------------------------------------------------------------

#[test]
fn a_configuration_that_changes_nothing_ends_nothing() {
    let mut nat = nat(|config| config.rules = vec![rule(B, 32, SYMMETRIC.policy())]);
    let a = nat.leaves(&packet(Protocol::Tcp, A, &format!("{S1}:80")));
    nat.leaves(&packet(Protocol::Tcp, B, &format!("{S1}:80")));
    nat.leaves(&ping(&format!("{A} > {S1}")));
    nat.leaves(&gre(&format!("10.0.0.2 > {S1}")));
    nat.out(&udp(&format!("{A} > {X}:53")));
    nat.out(&to(&packet(Protocol::Tcp, B, "0.0.0.0"), a));
    let kept = nat.nat.counts().sessions;
    assert_eq!(nat.reconfigure(|_| {}), Reconfigured { kept, ended: 0 });
    assert!(nat.comes_in(Protocol::Tcp, &format!("{S1}:80"), a, A));
}

#[test]
fn an_external_address_that_goes_takes_its_sessions_and_forwards_and_no_others() {
    let mut nat = nat(|config| config.external = vec![end(X).ip, end("203.0.113.2").ip]);
    let hosts: Vec<String> = (2..40).map(|n| format!("10.0.0.{n}:7")).collect();
    let given: Vec<_> = hosts.iter().map(|host| nat.leaves(&udp(&format!("{host} > {S1}:9")))).collect();
    let stays = end("203.0.113.2").ip;
    let staying = given.iter().filter(|x| x.ip == stays).count();
    assert!((5..33).contains(&staying));
    for ip in [X, "203.0.113.2"] {
        nat.nat.publish(Protocol::Tcp, Endpoint::new(end(ip).ip, 80), end(A)).unwrap();
    }
    let done = nat.reconfigure(|config| config.external = vec![stays]);
    assert_eq!(done, Reconfigured { kept: staying, ended: given.len() - staying });
    assert_eq!(nat.nat.published().len(), 1);
    for (host, x) in hosts.iter().zip(given) {
        let answer = nat.back(&to(&udp(&format!("{S1}:9 > 0.0.0.0")), x));
        if x.ip == stays {
            assert!(matches!(answer, Decision::Translate { .. }));
            assert_eq!(nat.leaves(&udp(&format!("{host} > {S1}:9"))), x);
        } else {
            assert_eq!(answer, Decision::Refuse(Refusal::NoMapping));
            let again = udp(&format!("{host} > {S1}:9"));
            assert_eq!(nat.out(&again), Decision::Refuse(Refusal::AddressLost), "its host is told once");
            assert_eq!(nat.leaves(&again).ip, stays);
        }
    }
}

/// Rows 2 and 68: paired pooling holds while addresses come, go and change places.
#[test]
fn a_host_keeps_its_external_address_while_it_has_a_mapping_there() {
    let three = ["203.0.113.1", "203.0.113.2", "203.0.113.3"].map(|ip| end(ip).ip);
    let mut nat = nat(|config| config.external = vec![three[0]]);
    let hosts: Vec<String> = (2..40).map(|n| format!("10.0.0.{n}")).collect();
    for host in &hosts {
        nat.leaves(&udp(&format!("{host}:1 > {S1}:9")));
    }
    assert_eq!(nat.reconfigure(|config| config.external = vec![three[2], three[1], three[0]]).ended, 0);
    for host in &hosts {
        assert_eq!(nat.leaves(&udp(&format!("{host}:2 > {S1}:9"))).ip, three[0]);
    }
    // A host that comes now, or has nothing left, is given any of them.
    let fresh: BTreeSet<IpAddr> =
        (2..40).map(|n| nat.leaves(&udp(&format!("10.0.1.{n}:1 > {S1}:9"))).ip).collect();
    assert_eq!(fresh.len(), 3);
    let done = nat.reconfigure(|config| config.external = vec![three[1], three[0]]);
    assert!(done.ended > 0);
    let mut told = 0;
    for n in 2..40 {
        let again = udp(&format!("10.0.1.{n}:1 > {S1}:9"));
        told += usize::from(nat.out(&again) == Decision::Refuse(Refusal::AddressLost));
        assert_ne!(nat.leaves(&again).ip, three[2]);
    }
    assert_eq!(told, done.ended);
    for host in &hosts {
        assert_eq!(nat.leaves(&udp(&format!("{host}:3 > {S1}:9"))).ip, three[0]);
    }
}

#[test]
fn addresses_may_come_and_go_for_ever() {
    let mut nat = nat(|config| config.leased = true);
    let bytes = nat.nat.counts().bytes;
    for turn in 0..2000u32 {
        let ip = IpAddr::from([198, 18, (turn >> 8) as u8, turn as u8]);
        nat.reconfigure(|config| config.external = vec![ip]);
        nat.nat.lease(Protocol::Udp, Endpoint::new(ip, 40_000));
        let again = udp(&format!("10.0.0.2:2000 > {S1}:9"));
        if turn > 0 {
            assert_eq!(nat.out(&again), Decision::Refuse(Refusal::AddressLost));
        }
        assert_eq!(nat.leaves(&again), Endpoint::new(ip, 40_000));
        if turn > 0 {
            // It has rested first, as every port that was in use does.
            assert_eq!(nat.nat.give_back(nat.now), None);
            nat.after(120.0);
            let gone = IpAddr::from([198, 18, ((turn - 1) >> 8) as u8, (turn - 1) as u8]);
            assert_eq!(nat.nat.give_back(nat.now), Some((Protocol::Udp, Endpoint::new(gone, 40_000))));
        }
        assert_eq!(nat.nat.give_back(nat.now), None);
    }
    assert!(nat.nat.counts().bytes < bytes + 1_000_000, "numbers are used again");
}

#[test]
fn sessions_on_ports_that_leave_the_ranges_end_and_published_ones_stay() {
    let mut nat = nat(|config| config.ports = vec![40_000..=40_019]);
    let x = end("203.0.113.1:40019");
    nat.nat.publish(Protocol::Udp, x, end("10.0.0.9:9")).unwrap();
    assert!(nat.comes_in(Protocol::Udp, &format!("{S1}:4"), x, "10.0.0.9:9"));
    let hosts: Vec<String> = (2..12).map(|n| format!("10.0.0.{n}:7")).collect();
    let given: Vec<_> = hosts.iter().map(|host| nat.leaves(&udp(&format!("{host} > {S1}:9")))).collect();
    let inside = |x: &&Endpoint| (40_005..=40_014).contains(&x.port);
    let staying = given.iter().filter(inside).count();
    nat.leaves(&ping(&format!("{A} > {S1}")));
    nat.leaves(&gre(&format!("10.0.0.2 > {S1}")));
    let done = nat.reconfigure(|config| config.ports = vec![40_005..=40_009, 40_010..=40_014]);
    assert_eq!(done, Reconfigured { kept: staying + 3, ended: given.len() - staying });
    for host in &hosts {
        let now = nat.leaves(&udp(&format!("{host} > {S1}:9")));
        assert!(inside(&&now), "{now}");
    }
    let eleventh = nat.out(&udp(&format!("10.0.0.77:7 > {S1}:9")));
    assert_eq!(eleventh, Decision::Refuse(Refusal::PortsExhausted));
    assert!(nat.nat.unpublish(Protocol::Udp, x, nat.now, &mut ()));
    let still = nat.out(&udp(&format!("10.0.0.77:7 > {S1}:9")));
    assert_eq!(still, Decision::Refuse(Refusal::PortsExhausted), "a removed forward's port is not ours");
}

#[test]
fn leased_ports_that_leave_the_ranges_go_back_to_the_host_at_once() {
    let mut nat = nat(|config| {
        config.leased = true;
        config.ports = vec![40_000..=40_009];
    });
    for port in 40_000..=40_009 {
        nat.nat.lease(Protocol::Udp, Endpoint::new(end(X).ip, port));
    }
    let used: BTreeSet<_> =
        (2000..2006).map(|n| nat.leaves(&udp(&format!("10.0.0.2:{n} > {S1}:9"))).port).collect();
    nat.reconfigure(|config| config.ports = vec![40_005..=40_020]);
    let mut back: Vec<_> = std::iter::from_fn(|| nat.nat.give_back(nat.now)).collect();
    assert!(back.iter().all(|(_, outside)| !used.contains(&outside.port)), "what was in use rests first");
    nat.after(120.0);
    back.extend(std::iter::from_fn(|| nat.nat.give_back(nat.now)));
    back.sort_unstable();
    let expected: Vec<_> =
        (40_000..=40_004).map(|port| (Protocol::Udp, Endpoint::new(end(X).ip, port))).collect();
    assert_eq!(back, expected);
    for n in 2010..2015 {
        if let Decision::Translate { edit, .. } = nat.out(&udp(&format!("10.0.0.2:{n} > {S1}:9"))) {
            assert!(edit.source.unwrap().port >= 40_005);
        }
    }
    // A range that comes back before its ports were given back has them still.
    nat.reconfigure(|config| config.ports = vec![50_000..=50_001]);
    assert_eq!(nat.nat.counts().free_ports, 0);
    nat.reconfigure(|config| config.ports = vec![40_000..=40_009]);
    let counts = nat.nat.counts();
    assert_eq!(counts.free_ports + counts.held_ports, 5, "free, or at rest after use");
    assert_eq!(nat.nat.give_back(nat.now), None);
}

#[test]
fn a_host_whose_mapping_class_changes_keeps_what_it_has_and_opens_in_the_new_way() {
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let mut nat = of_class(FULL_CONE);
        let x = nat.leaves(&packet(protocol, A, &format!("{S1}:80")));
        assert_eq!(nat.reconfigure(|config| config.policy = SYMMETRIC.policy()).ended, 0);
        assert_eq!(nat.leaves(&packet(protocol, A, &format!("{S1}:80"))), x, "its session goes on");
        assert!(nat.comes_in(protocol, &format!("{S1}:80"), x, A));
        let y = nat.leaves(&packet(protocol, A, &format!("{S2}:80")));
        let z = nat.leaves(&packet(protocol, A, &format!("{S2}:81")));
        assert_eq!(BTreeSet::from([x, y, z]).len(), 3, "and new ones have ports of their own");
        assert!(!nat.comes_in(protocol, &format!("{S2}:99"), x, A), "the filter holds for what opens");
        assert_eq!(nat.reconfigure(|config| config.policy = RESTRICTED_CONE.policy()).ended, 0);
        assert_eq!(nat.leaves(&packet(protocol, A, &format!("{S2}:81"))), z);
        let new = nat.leaves(&packet(protocol, A, "192.0.2.1:1"));
        assert_eq!(new, x, "the endpoint-independent mapping is there still");
        assert!(nat.comes_in(protocol, &format!("{S1}:81"), x, A), "peers of old sessions are known");
        assert!(nat.comes_in(protocol, &format!("{S2}:99"), z, A));
        assert!(!nat.comes_in(protocol, &format!("{S2}:98"), x, A));
    }
}

#[test]
fn a_rule_that_comes_or_goes_changes_the_host_and_no_other() {
    let mut nat = of_class(FULL_CONE);
    let xa = nat.leaves(&packet(Protocol::Udp, A, &format!("{S1}:80")));
    let xb = nat.leaves(&packet(Protocol::Udp, B, &format!("{S1}:80")));
    nat.reconfigure(|config| config.rules = vec![rule(A, 32, PORT_RESTRICTED.policy())]);
    assert!(!nat.comes_in(Protocol::Udp, &format!("{S2}:1"), xa, A));
    assert!(nat.comes_in(Protocol::Udp, &format!("{S2}:1"), xb, B));
    nat.reconfigure(|config| config.rules = vec![rule(B, 32, PORT_RESTRICTED.policy())]);
    assert!(nat.comes_in(Protocol::Udp, &format!("{S2}:2"), xa, A));
    assert!(!nat.comes_in(Protocol::Udp, &format!("{S2}:2"), xb, B));
}

#[test]
fn sessions_with_what_becomes_exempt_end_and_others_stay() {
    let mut nat = nat(|_| {});
    let x = nat.leaves(&udp(&format!("{A} > {S1}:80")));
    nat.leaves(&udp(&format!("{A} > {S2}:80")));
    let done = nat.reconfigure(|config| config.exempt = vec![exempt(S1, 32)]);
    assert_eq!(done, Reconfigured { kept: 1, ended: 1 });
    assert_eq!(nat.out(&udp(&format!("{A} > {S1}:80"))), EXEMPT_OUT);
    assert_eq!(nat.reconfigure(|config| config.exempt.clear()), Reconfigured { kept: 1, ended: 0 });
    assert_eq!(nat.leaves(&udp(&format!("{A} > {S1}:80"))), x);
    let lost = nat.back(&udp(&format!("{S1}:80 > {A}")));
    assert_eq!(lost, Decision::Refuse(Refusal::NoMapping));
}

#[test]
fn sessions_with_a_remote_that_becomes_our_own_address_end() {
    let mut nat = nat(|_| {});
    nat.leaves(&udp(&format!("{A} > {S1}:80")));
    let done = nat.reconfigure(|config| config.host_addresses = vec![end(S1).ip]);
    assert_eq!(done, Reconfigured { kept: 0, ended: 1 });
    let local = nat.out(&udp(&format!("{A} > {S1}:80")));
    assert!(matches!(local, Decision::Translate { exit: Exit::Host, .. }), "{local:?}");
    let done = nat.reconfigure(|config| config.host_addresses.clear());
    assert_eq!(done, Reconfigured { kept: 0, ended: 1 });
    nat.leaves(&udp(&format!("{A} > {S1}:80")));
}

#[test]
fn hairpin_and_host_access_that_are_closed_end_what_used_them() {
    let mut nat = of_class(FULL_CONE);
    let xb = nat.leaves(&packet(Protocol::Udp, B, &format!("{S1}:80")));
    nat.out(&to(&packet(Protocol::Udp, A, "0.0.0.0"), xb));
    nat.out(&udp(&format!("{C} > {X}:53")));
    assert_eq!(nat.nat.counts().sessions, 4);
    // A's half goes; B may still answer, and its half stays.
    let off = Policy { hairpin: false, ..FULL_CONE.policy() };
    let done = nat.reconfigure(|config| config.rules = vec![rule(A, 32, off)]);
    assert_eq!(done, Reconfigured { kept: 3, ended: 1 });
    let done = nat.reconfigure(|config| config.host_access = false);
    assert_eq!(done, Reconfigured { kept: 1, ended: 2 }, "A has no mapping left for B to answer to");
}

#[test]
fn lower_limits_let_live_what_exceeds_them() {
    let mut nat = nat(|_| {});
    let given: Vec<_> = (0..5).map(|n| nat.leaves(&udp(&format!("10.0.0.2:{n} > {S1}:9")))).collect();
    let done = nat.reconfigure(|config| {
        (config.limits.sessions, config.limits.mappings_per_host) = (4, 2);
        config.limits.sessions_per_host = 3;
    });
    assert_eq!(done, Reconfigured { kept: 5, ended: 0 });
    for (n, x) in given.iter().enumerate() {
        assert_eq!(nat.leaves(&udp(&format!("10.0.0.2:{n} > {S1}:9"))), *x);
    }
    let refused = nat.out(&udp(&format!("10.0.0.2:77 > {S1}:9")));
    assert_eq!(refused, Decision::Refuse(Refusal::HostSessionLimit));
}

#[test]
fn shorter_timeouts_end_what_is_overdue_and_are_kept_to_the_second() {
    let mut nat = nat(|_| {});
    nat.leaves(&udp(&format!("10.0.0.2:1 > {S1}:9")));
    nat.after(100.0).leaves(&udp(&format!("10.0.0.2:2 > {S1}:9")));
    let done = nat.reconfigure(|config| config.policy.timeouts.udp_unreplied = Duration::from_secs(60));
    assert_eq!(done, Reconfigured { kept: 1, ended: 0 });
    assert!(matches!(nat.steps[..], [Step::Closed(_, Closed::Expired)]));
    let due = nat.nat.next_deadline().unwrap();
    assert!(due.since(nat.now) <= Duration::from_millis(60_125), "the timer knows");
    nat.after(60.2);
    nat.nat.expire(nat.now, &mut nat.steps);
    assert_eq!(nat.nat.counts().sessions, 0);
}

#[test]
fn hosts_that_are_no_longer_inside_lose_what_they_have() {
    let mut nat = nat(|_| {});
    nat.leaves(&udp(&format!("{A} > {S1}:9")));
    nat.leaves(&udp(&format!("{B} > {S1}:9")));
    nat.nat.publish(Protocol::Tcp, end("203.0.113.1:80"), end(A)).unwrap();
    let done = nat.nat.retain(|ip| ip != end(A).ip, nat.now, &mut nat.steps);
    assert_eq!(done, Reconfigured { kept: 1, ended: 1 });
    assert_eq!((nat.nat.published().len(), nat.nat.counts().mappings), (0, 1));
}
