//! The translator against the reference in `support/spec.rs`, by lists of operations; and what
//! holds of any NAT, one sentence each.

#![allow(clippy::unwrap_used)]

#[path = "support/spec.rs"]
mod spec;
#[path = "support/tuples.rs"]
mod tuples;

use proptest::prelude::*;
use spec::Spec;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;
use tapnat::flow::{Data, Endpoint, Flow, Prefix, Protocol, Segment, Summary, TcpFlags, Time};
use tapnat::nat::{
    Behaviour, Closed, Decision, Exemption, Exit, Nat, NatConfig, Policy, Refusal, Rule, Step, Timeouts,
};
use tuples::{end, error, from, to, udp};

const X: &str = "203.0.113.1";
/// All external addresses that a configuration may have; the first one has, at first.
const EXTERNALS: [&str; 3] = [X, "203.0.113.2", "203.0.113.3"];
const FIRST: u16 = 40_000;
const PORTS: u16 = 12;
/// Ports that the host never leases: with them, all others may rest at once.
const UNLEASED: RangeInclusive<u16> = 60_000..=60_099;

/// One thing that happens. Numbers are small so that they meet.
#[derive(Clone, Debug)]
enum Op {
    /// Host, its port, remote, its port, segment; remote 3 is our own address.
    Out(Protocol, u8, u16, u8, u16, Kind),
    /// Remote, its port, outside port from the first of the range on, segment.
    In(Protocol, u8, u16, u16, Kind),
    /// A packet of the nth session, from the inside or from the remote, or from another port of the
    /// remote; segment.
    Of(usize, bool, u16, Kind),
    /// Time goes on by so many eighths of a second.
    Wait(u64),
    Lease(Protocol, u16),
    Publish(Protocol, u16, u8, u16),
    Unpublish(Protocol, u16),
    Flush(usize),
    GiveBack,
    /// A packet from the wire to an inside host's own address: remote, its port, host, its port, flags.
    Direct(Protocol, u8, u16, u8, u16, u8),
    Reconfigure(Change),
}

/// Mapping, filtering, hairpin, and whether sessions live shorter.
type Treatment = (Behaviour, Behaviour, bool, bool);

/// A configuration, in choices among few.
#[derive(Clone, Debug)]
struct Change {
    externals: Vec<usize>,
    ranges: usize,
    others: Treatment,
    rules: Vec<(usize, Treatment)>,
    exempt: usize,
    /// The last remote is an address of the host.
    host: bool,
    access: bool,
    limits: usize,
}

fn treatment() -> impl Strategy<Value = Treatment> {
    (behaviour(), behaviour(), prop::bool::weighted(0.8), prop::bool::weighted(0.3))
}

fn change() -> impl Strategy<Value = Change> {
    let externals = prop::sample::select(vec![
        vec![0],
        vec![0],
        vec![0, 1],
        vec![2, 0],
        vec![0, 1, 2],
        vec![1, 0],
        vec![1],
        vec![2, 1],
    ]);
    let rules = prop::collection::vec((0..4usize, treatment()), 0..3);
    let flags = (prop::bool::weighted(0.2), prop::bool::weighted(0.8));
    let limits = prop_oneof![3 => Just(0usize), 1 => 1..4usize];
    (externals, 0..4usize, treatment(), rules, 0..4usize, flags, limits).prop_map(
        |(externals, ranges, others, rules, exempt, (host, access), limits)| Change {
            externals,
            ranges,
            others,
            rules,
            exempt,
            host,
            access,
            limits,
        },
    )
}

fn policy((mapping, filtering, hairpin, short): Treatment) -> Policy {
    let mut timeouts = Timeouts::default();
    if short {
        let seconds = Duration::from_secs;
        (timeouts.udp, timeouts.udp_dns, timeouts.icmp) = (seconds(60), seconds(30), seconds(30));
        (timeouts.tcp_opening, timeouts.tcp_closing) = (seconds(30), seconds(61));
        timeouts.tcp_established = seconds(600);
    }
    Policy { mapping, filtering, hairpin, timeouts, ..Policy::default() }
}

impl Change {
    fn config(&self) -> NatConfig {
        let mut config = NatConfig::new(self.externals.iter().map(|n| end(EXTERNALS[*n]).ip).collect());
        config.leased = true;
        config.host_addresses = if self.host { vec![end("198.51.100.9").ip] } else { Vec::new() };
        let ranges = [vec![0..=11], vec![0..=5], vec![3..=6, 9..=11], vec![6..=11]];
        config.ports =
            ranges[self.ranges].iter().map(|range| FIRST + range.start()..=FIRST + range.end()).collect();
        config.ports.push(UNLEASED);
        config.policy = policy(self.others);
        let insides = [("10.0.0.2", 32), ("10.0.0.3", 32), ("10.0.0.2", 31), ("10.0.0.0", 24)]
            .map(|(ip, length)| Prefix::new(end(ip).ip, length));
        config.rules = self
            .rules
            .iter()
            .map(|(inside, of)| Rule { inside: insides[*inside], policy: policy(*of) })
            .collect();
        let remote = Prefix::new(end("198.51.100.8").ip, 31);
        config.exempt = match self.exempt {
            2 => vec![Exemption { remote, protocol: None, ports: None }],
            3 => vec![
                Exemption { remote, protocol: None, ports: Some(53..=53) },
                Exemption { remote, protocol: Some(Protocol::Icmp), ports: None },
            ],
            _ => Vec::new(),
        };
        config.host_access = self.access;
        match self.limits {
            1 => config.limits.sessions_per_host = 4,
            2 => config.limits.mappings_per_host = 3,
            3 => config.limits.sessions_per_mapping = 2,
            _ => {}
        }
        config
    }
}

/// Flags, by their place in [`flags`], and numbers: 0 are right, 1 far from everything, 2 begin
/// anew, 3 acknowledge something else.
type Kind = (u8, u8);

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Udp), Just(Protocol::Tcp), Just(Protocol::Icmp)]
}

fn ported() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Udp), Just(Protocol::Tcp)]
}

/// A segment that may open something: SYN, mostly.
fn opening() -> impl Strategy<Value = Kind> {
    prop_oneof![3 => Just((0, 0)), 1 => kind()]
}

fn kind() -> impl Strategy<Value = Kind> {
    (0..6u8, prop_oneof![5 => Just(0u8), 1 => 1..4u8])
}

fn op() -> impl Strategy<Value = Op> {
    let seconds = prop::sample::select(vec![1u64, 30, 59, 60, 61, 120, 239, 240, 300, 600, 7200, 7440]);
    prop_oneof![
        12 => (protocol(), 0..2u8, 0..2u16, 0..4u8, 0..4u16, opening())
            .prop_map(|(p, host, port, remote, to, flags)| Op::Out(p, host, port, remote, to, flags)),
        12 => (protocol(), 0..3u8, 0..4u16, 0..PORTS, opening())
            .prop_map(|(p, remote, port, to, flags)| Op::In(p, remote, port, to, flags)),
        2 => (protocol(), 0..3u8, 0..4u16, PORTS..PORTS * 3, opening())
            .prop_map(|(p, remote, port, to, flags)| Op::In(p, remote, port, to, flags)),
        2 => (protocol(), 0..3u8, 0..4u16, 0..2u8, 0..2u16, 0..5u8)
            .prop_map(|(p, remote, port, host, to, flags)| Op::Direct(p, remote, port, host, to, flags)),
        3 => change().prop_map(Op::Reconfigure),
        40 => (0..12usize, any::<bool>(), prop_oneof![4 => Just(0u16), 1 => 1..3u16], kind())
            .prop_map(|(nth, out, other, flags)| Op::Of(nth, out, other, flags)),
        1 => (0..9u64).prop_map(Op::Wait),
        2 => seconds.prop_map(|seconds| Op::Wait(seconds * 8)),
        8 => (ported(), 0..PORTS).prop_map(|(p, port)| Op::Lease(p, port)),
        6 => (ported(), PORTS..PORTS * 3).prop_map(|(p, port)| Op::Lease(p, port)),
        1 => (ported(), 0..PORTS * 2, 0..3u8, 0..3u16).prop_map(|(p, x, host, port)| Op::Publish(p, x, host, port)),
        1 => (ported(), 0..PORTS * 2).prop_map(|(p, x)| Op::Unpublish(p, x)),
        3 => (0..8usize).prop_map(Op::Flush),
        1 => Just(Op::GiveBack),
    ]
}

fn behaviour() -> impl Strategy<Value = Behaviour> {
    prop_oneof![
        2 => Just(Behaviour::EndpointIndependent),
        2 => Just(Behaviour::AddressDependent),
        1 => Just(Behaviour::AddressAndPortDependent),
    ]
}

/// The translator and its reference, side by side.
struct Pair {
    nat: Nat,
    spec: Spec,
    now: Time,
    /// The host refuses every second port that it is asked for.
    asked: u32,
}

fn inside(host: u8, port: u16) -> Endpoint {
    Endpoint::new(IpAddr::from([10, 0, 0, 2 + host]), 5000 + port)
}

fn outside(port: u16) -> Endpoint {
    Endpoint::new(end(EXTERNALS[usize::from(port / PORTS)]).ip, FIRST + port % PORTS)
}

fn flags(protocol: Protocol, choice: u8) -> TcpFlags {
    let all = [
        TcpFlags::SYN,
        TcpFlags::SYN.with(TcpFlags::ACK),
        TcpFlags::ACK,
        TcpFlags::FIN.with(TcpFlags::ACK),
        TcpFlags::RST,
        TcpFlags::RST.with(TcpFlags::ACK),
    ];
    if protocol == Protocol::Tcp { all[usize::from(choice)] } else { TcpFlags::default() }
}

/// The numbers of a segment of a session whose ends began at `first`, so far as known.
fn numbers(tcp: TcpFlags, kind: u8, [from, to]: [Option<u32>; 2]) -> Segment {
    const WILD: u32 = 0x4000_0000;
    const ANEW: u32 = 0x0100_0000;
    let right = tuples::numbers(tcp);
    let (sequence, acknowledgement) = match kind {
        1 => (WILD, WILD),
        2 => (ANEW, 0),
        3 => (0, ANEW),
        _ => (0, 0),
    };
    let more =
        |number: u32, first: Option<u32>, off: u32| number.wrapping_add(first.unwrap_or(0)).wrapping_add(off);
    Segment {
        sequence: more(right.sequence, from, sequence),
        acknowledgement: more(right.acknowledgement, to, acknowledgement),
        ..right
    }
}

impl Pair {
    fn new(mapping: Behaviour, filtering: Behaviour, seed: u8) -> Self {
        let mut config = NatConfig::new(vec![end(X).ip]);
        (config.policy.mapping, config.policy.filtering, config.leased) = (mapping, filtering, true);
        config.ports = vec![FIRST..=FIRST + PORTS - 1, UNLEASED];
        let times = &mut config.policy.timeouts;
        (times.udp_unreplied, times.tcp_reset) = (Duration::from_secs(61), Duration::from_secs(60));
        (times.tcp_syn_received, times.tcp_half_closed) =
            (Duration::from_secs(120), Duration::from_secs(600));
        let nat = Nat::new(config.clone(), [seed; 32]);
        Pair { nat, spec: Spec::new(config), now: Time::ZERO, asked: 0 }
    }

    fn remote(&self, protocol: Protocol, remote: u8, port: u16) -> Endpoint {
        let query = protocol == Protocol::Icmp;
        if remote == 3 {
            let port = if port < 2 { port } else { port + PORTS };
            return if query { Endpoint::new(outside(port).ip, 0) } else { outside(port) };
        }
        let port = if query { 0 } else { 52 + port };
        Endpoint::new(IpAddr::from([198, 51, 100, 7 + remote]), port)
    }

    fn run(&mut self, op: &Op) {
        while self.nat.next_deadline().is_some_and(|deadline| deadline <= self.now) {
            self.nat.expire(self.now, &mut ());
        }
        self.spec.expire(self.now);
        match *op {
            Op::Out(protocol, host, port, remote, remote_port, kind) => {
                let destination = self.remote(protocol, remote, remote_port);
                self.leave(Flow { protocol, source: inside(host, port), destination }, kind);
            }
            Op::In(protocol, remote, remote_port, port, kind) => {
                let source = self.remote(protocol, remote, remote_port);
                self.arrive(Flow { protocol, source, destination: outside(port) }, kind);
            }
            Op::Of(nth, out, other, kind) => {
                let Some(session) = self.spec.sessions.get(nth) else { return };
                let (mapping, mut remote) = (session.mapping.clone(), session.remote);
                let protocol = mapping.protocol;
                if protocol != Protocol::Icmp {
                    remote.port += other;
                }
                if out {
                    self.leave(Flow { protocol, source: mapping.inside, destination: remote }, kind);
                } else {
                    self.arrive(Flow { protocol, source: remote, destination: mapping.outside }, kind);
                }
            }
            Op::Wait(eighths) => self.now = self.now + Duration::from_millis(eighths * 125),
            Op::Lease(protocol, port) => {
                self.asked += 1;
                let forwarded =
                    self.spec.forwards.iter().any(|m| m.protocol == protocol && m.outside == outside(port));
                if self.asked.is_multiple_of(2) && !forwarded {
                    self.nat.lease(protocol, outside(port));
                    if self.spec.config.external.contains(&outside(port).ip) {
                        self.spec.leased.insert((protocol, outside(port)));
                    }
                }
            }
            Op::Publish(protocol, x, host, port) => {
                let got = self.nat.publish(protocol, outside(x), inside(host, port)).is_ok();
                assert_eq!(got, self.spec.publish(protocol, outside(x), inside(host, port)));
            }
            Op::Unpublish(protocol, x) => {
                let got = self.nat.unpublish(protocol, outside(x), self.now, &mut ());
                assert_eq!(got, self.spec.unpublish(protocol, outside(x)));
            }
            Op::Flush(nth) => {
                let (sessions, _) = self.nat.sessions(0, usize::MAX, self.now);
                if let Some(view) = sessions.get(nth) {
                    assert!(self.nat.forget(view.id, self.now, &mut ()));
                    self.spec.end(self.now, |s| {
                        (s.mapping.protocol, s.mapping.inside, s.remote)
                            == (view.protocol, view.inside, view.remote)
                    });
                }
            }
            Op::GiveBack => {
                let back = self.nat.give_back(self.now);
                let spec = &mut self.spec;
                match back {
                    Some(port) => assert!(spec.leased.remove(&port) && !spec.usable(port.1), "{port:?}"),
                    None => assert!(
                        spec.leased.iter().all(|(p, port)| spec.usable(*port) || spec.rests(*p, *port))
                    ),
                }
            }
            Op::Direct(protocol, remote, remote_port, host, port, kind) => {
                let source = self.remote(protocol, remote, remote_port);
                self.direct(Flow { protocol, source, destination: inside(host, port) }, kind);
            }
            Op::Reconfigure(ref change) => {
                let mut steps = Vec::new();
                let got = self.nat.reconfigure(change.config(), self.now, &mut steps);
                assert_eq!(got, self.spec.reconfigure(change.config(), self.now));
                let told = steps.iter().filter(|step| matches!(step, Step::Closed(_, Closed::Reconfigured)));
                assert_eq!(told.count(), got.ended);
                assert_eq!(self.nat.published().len(), self.spec.forwards.len());
            }
        }
        self.compare();
    }

    fn leave(&mut self, flow: Flow, (kind, off): Kind) {
        let tcp = flags(flow.protocol, kind);
        let first = self.spec.find(flow.protocol, flow.source, flow.destination).map(|s| s.first());
        let segment = numbers(tcp, off, first.unwrap_or_default());
        let data = Data { flow, tcp, segment, asks: true, length: 100 };
        let mut steps = Vec::new();
        let got = self.nat.outbound(&Summary::Data(data), self.now, &mut steps);
        let offered = steps.iter().find_map(|step| match step {
            Step::Opened(view) if view.inside == flow.source => Some(view.outside),
            _ => None,
        });
        assert_eq!(got, self.spec.outbound(&data, self.now, offered), "{data:?}");
    }

    /// To an inside host's own address.
    fn direct(&mut self, flow: Flow, kind: u8) {
        let asks = flow.protocol != Protocol::Icmp || kind == 0;
        let tcp = flags(flow.protocol, kind);
        let data = Data { flow, tcp, segment: tuples::numbers(tcp), asks, length: 100 };
        let packet = Summary::Data(data);
        let want = self.spec.direct(&data);
        let passes = matches!(want, Decision::Translate { .. });
        assert_eq!(self.nat.may_exempt(&packet, false), passes, "{data:?}");
        assert_eq!(self.nat.would_admit(&data, true, self.now).is_ok(), passes, "{data:?}");
        assert_eq!(self.nat.inbound(&packet, self.now, &mut ()), want, "{data:?}");
    }

    /// From the wire, or from the host where the source is ours, as only the host can send that.
    fn arrive(&mut self, flow: Flow, (kind, off): Kind) {
        if !self.spec.config.external.contains(&flow.destination.ip) {
            return;
        }
        let local = self.spec.ours(flow.source.ip);
        let asks = flow.protocol != Protocol::Icmp || kind == 0;
        let tcp = flags(flow.protocol, kind);
        let owner = self.spec.owner(flow.protocol, flow.destination);
        let session = owner.and_then(|owner| self.spec.find(flow.protocol, owner.inside, flow.source));
        let [inside, remote] = session.map(|session| session.first()).unwrap_or_default();
        let segment = numbers(tcp, off, [remote, inside]);
        let data = Data { flow, tcp, segment, asks, length: 100 };
        let packet = Summary::Data(data);
        let foretold = self.nat.would_admit(&data, !local, self.now);
        let got = if local {
            let refused = Decision::Refuse(Refusal::SourceIsOurs);
            let silent = [refused, Decision::Refuse(Refusal::UnsolicitedQuery)];
            assert!(silent.contains(&self.nat.inbound(&packet, self.now, &mut ())));
            self.nat.from_host(&packet, self.now, &mut ())
        } else {
            self.nat.inbound(&packet, self.now, &mut ())
        };
        match got {
            Decision::Translate { .. } => assert_eq!(foretold, Ok(()), "{data:?}"),
            Decision::Refuse(Refusal::SessionLimit) => {}
            Decision::Refuse(refusal) => assert_eq!(foretold, Err(refusal), "{data:?}"),
            Decision::Lease(..) => panic!("a port that no packet asked for: {data:?}"),
        }
        assert_eq!(got, self.spec.inbound(&data, self.now), "{data:?}");
    }

    fn compare(&self) {
        let (sessions, _) = self.nat.sessions(0, usize::MAX, self.now);
        let mut got: Vec<_> = sessions
            .iter()
            .map(|s| {
                format!("{} {} {} {} {:?}", s.protocol, s.inside, s.outside, s.remote, (s.tcp, s.expires_in))
            })
            .collect();
        let alive = |s: &&spec::Session| s.view(&self.spec.config, self.now).1 > Duration::ZERO;
        let mut want: Vec<_> = self
            .spec
            .sessions
            .iter()
            .filter(alive)
            .map(|s| {
                let (m, view) = (&s.mapping, s.view(&self.spec.config, self.now));
                format!("{} {} {} {} {view:?}", m.protocol, m.inside, m.outside, s.remote)
            })
            .collect();
        got.sort();
        want.sort();
        assert_eq!(got, want);
        let mut owners = BTreeMap::new();
        for view in self.nat.mappings(0, usize::MAX).0 {
            assert!(owners.insert((view.protocol, view.outside), view.inside).is_none(), "two owners");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn translates_as_the_reference_does(
        mapping in behaviour(),
        filtering in behaviour(),
        seed: u8,
        ops in prop::collection::vec(op(), 1..400),
    ) {
        let mut pair = Pair::new(mapping, filtering, seed);
        for op in &ops {
            pair.run(op);
        }
    }

    #[test]
    fn out_and_back_is_identity(
        seed: u8, host in 2..9u8, port: u16, remote: u32, remote_port in 1..u16::MAX, icmp: bool, mode in behaviour(),
    ) {
        let mut nat = Nat::new(NatConfig { policy: Policy { mapping: mode, filtering: mode, ..Policy::default() }, ..config() }, [seed; 32]);
        let protocol = if icmp { Protocol::Icmp } else { Protocol::Udp };
        let source = Endpoint::new(IpAddr::from([10, 0, 0, host]), port);
        let remote_port = if icmp { 0 } else { remote_port };
        let destination = Endpoint::new(std::net::Ipv4Addr::from_bits(remote | 1 << 31), remote_port);
        let flow = Flow { protocol, source, destination };
        let mut data = Data { flow, tcp: TcpFlags::default(), segment: Segment::default(), asks: true, length: 100 };
        prop_assume!(destination.ip != end(X).ip);
        let Decision::Translate { edit, exit: Exit::Outside } = out(&mut nat, &Summary::Data(data)) else {
            panic!("refused");
        };
        let sent = Flow { source: edit.source.unwrap(), ..flow };
        (data.flow, data.asks) = (sent.reversed(), !icmp);
        let Decision::Translate { edit, exit: Exit::Inside } = back(&mut nat, &Summary::Data(data)) else {
            panic!("refused");
        };
        let returned = Flow { destination: edit.destination.unwrap(), ..sent.reversed() };
        prop_assert_eq!(returned, flow.reversed());
    }

    #[test]
    fn silent_when_filtered(seed: u8, remotes in prop::collection::vec((0..4u8, 1..5u16), 1..40)) {
        let mut nat = Nat::new(config(), [seed; 32]);
        let x = source(out(&mut nat, &udp("10.0.0.2:1000 > 198.51.100.1:1")));
        let before = nat.sessions(0, 9, Time::ZERO).0;
        for (remote, port) in remotes {
            let stranger = Endpoint::new(IpAddr::from([198, 51, 100, 2 + remote]), port);
            let packet = to(&from(&udp("0.0.0.0 > 0.0.0.0"), stranger), x);
            prop_assert_eq!(back(&mut nat, &packet), Decision::Refuse(Refusal::Filtered));
        }
        prop_assert_eq!(before, nat.sessions(0, 9, Time::ZERO).0);
    }

    #[test]
    fn expired_is_forgotten(seed: u8, nanos in 0..2_000_000_000u64) {
        let mut nat = Nat::new(config(), [seed; 32]);
        let x = source(out(&mut nat, &udp("10.0.0.2:1000 > 198.51.100.1:1")));
        let now = Time::from_secs(300) + Duration::from_nanos(nanos);
        let packet = to(&udp("198.51.100.1:1 > 0.0.0.0"), x);
        prop_assert_eq!(nat.inbound(&packet, now, &mut ()), Decision::Refuse(Refusal::NoMapping));
        prop_assert_eq!((nat.counts().sessions, nat.counts().mappings), (0, 0));
    }

    #[test]
    fn errors_never_end_a_session(seed: u8, reporters in prop::collection::vec((any::<u32>(), any::<bool>()), 1..100)) {
        let mut nat = Nat::new(config(), [seed; 32]);
        let packet = udp("10.0.0.2:1000 > 198.51.100.1:1");
        let sent = from(&packet, source(out(&mut nat, &packet)));
        let before = nat.sessions(0, 9, Time::ZERO).0;
        for (reporter, outward) in reporters {
            let reporter = std::net::Ipv4Addr::from_bits(reporter);
            if outward {
                let came = Summary::Data(Data {
                    flow: packet.flow().reversed(), tcp: TcpFlags::default(), segment: Segment::default(), asks: true, length: 100,
                });
                out(&mut nat, &error(&format!("{reporter} > 198.51.100.1"), &came));
            } else {
                back(&mut nat, &error(&format!("{reporter} > {X}"), &sent));
            }
        }
        prop_assert_eq!(before, nat.sessions(0, 9, Time::ZERO).0);
    }

    #[test]
    fn same_seed_same_decisions(seed: u8, ops in prop::collection::vec(op(), 1..60)) {
        let run = || {
            let mut nat = Nat::new(config(), [seed; 32]);
            let mut steps = Vec::new();
            for op in &ops {
                if let Op::Out(protocol, host, port, remote, to, (kind, _)) = *op {
                    let destination = Endpoint::new(IpAddr::from([198, 51, 100, remote]), to);
                    let flow = Flow { protocol, source: inside(host, port), destination };
                    let data = Data { flow, tcp: flags(protocol, kind), segment: Segment::default(), asks: true, length: 100 };
                    nat.outbound(&Summary::Data(data), Time::ZERO, &mut steps);
                }
            }
            steps
        };
        prop_assert_eq!(run(), run());
    }
}

fn config() -> NatConfig {
    NatConfig::new(vec![end(X).ip])
}

fn out(nat: &mut Nat, packet: &Summary) -> Decision {
    nat.outbound(packet, Time::ZERO, &mut ())
}

fn back(nat: &mut Nat, packet: &Summary) -> Decision {
    nat.inbound(packet, Time::ZERO, &mut ())
}

fn source(decision: Decision) -> Endpoint {
    match decision {
        Decision::Translate { edit, .. } => edit.source.unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Every port of the range is given out, each to one inside endpoint; then there are none.
#[test]
fn never_two_owners_of_a_port() {
    let mut config = NatConfig { ports: vec![1024..=65535], ..config() };
    (config.limits.sessions_per_host, config.limits.mappings_per_host) = (usize::MAX, usize::MAX);
    let mut nat = Nat::new(config, [9; 32]);
    let packet = |n: u16| from(&udp("0.0.0.0 > 198.51.100.1:1"), Endpoint::new(end("10.0.0.2").ip, n));
    let given: BTreeSet<u16> = (1024..=65535).map(|n| source(out(&mut nat, &packet(n))).port).collect();
    assert_eq!((given.len(), given.first(), given.last()), (64_512, Some(&1024), Some(&65535)));
    assert_eq!(out(&mut nat, &packet(1)), Decision::Refuse(Refusal::PortsExhausted));
}

/// Row 90: successive ports are far apart, all over the range, and another seed gives others.
#[test]
fn ports_look_random() {
    let ports = |seed| -> Vec<u16> {
        let mut nat = Nat::new(config(), [seed; 32]);
        let packet = |n| from(&udp("0.0.0.0 > 198.51.100.1:1"), Endpoint::new(end("10.0.0.2").ip, n));
        (2001..=3000).map(|n| source(out(&mut nat, &packet(n))).port).collect()
    };
    let one = ports(1);
    let near = one.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) <= 2).count();
    assert!(near < 5, "{near}");
    let mut octants = [0; 8];
    for port in &one {
        octants[usize::from((port - 32768) / 4096)] += 1;
    }
    assert!(octants.iter().all(|count| (80..175).contains(count)), "{octants:?}");
    let shared = one.iter().zip(ports(2)).filter(|(a, b)| *a == b).count();
    assert!(shared < 5, "{shared}");
}
