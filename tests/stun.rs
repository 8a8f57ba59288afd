//! The STUN server and the probe around the translator, in memory: what the probe says is what the
//! translator was told to be, and what the server answers is what RFC 8489, 5780 and 3489 ask for.
//! Time is virtual: minutes of waiting take none.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tapnat::flow::{Data, Endpoint, Flow, Protocol, Segment, Summary, TcpFlags, Time};
use tapnat::nat::{Behaviour, Decision, Exit, Nat, NatConfig, PortChoice};
use tapnat::stun::exchange::{Progress, Socket, World};
use tapnat::stun::lifetime::Span;
use tapnat::stun::message::BINDING;
use tapnat::stun::probe::{Wish, probe};
use tapnat::stun::report::{Hairpin, Lifetime, Report};
use tapnat::stun::{Attribute, Class, Message, Place, Places, Server, Silence, Transaction};

use Behaviour::{AddressAndPortDependent, AddressDependent, EndpointIndependent};

const INSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const EXTERNAL: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
const PRIMARY: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
const ALTERNATE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 8));
const LATENCY: Duration = Duration::from_millis(10);
const NONE: Place = Place { other_ip: false, other_port: false };

/// A host behind the translator, and a server outside.
struct Net {
    nat: Option<Nat>,
    server: Server,
    now: Time,
    /// By number: the port, and whether packets must not be cut.
    sockets: Vec<Option<(u16, bool)>>,
    next_port: u16,
    /// What is on its way to a socket's port: when it arrives, port, sender, bytes.
    coming: VecDeque<(Time, u16, SocketAddr, Vec<u8>)>,
    randoms: u64,
    /// How many were sent, and that every so manieth is lost.
    sent: u32,
    lossy: Option<u32>,
    /// The narrowest link of the path, in bytes.
    path: u16,
    /// Fragments out, and in, pass.
    fragments: [bool; 2],
    /// Somebody replaces the plain mapped address in answers.
    meddles: bool,
    told: Vec<Progress>,
}

fn places(alternate: bool) -> Places {
    Places { address: PRIMARY, port: 3478, alternate: alternate.then_some((ALTERNATE, 3479)) }
}

fn net(alternate: bool, change: impl FnOnce(&mut NatConfig)) -> Net {
    let mut config = NatConfig::new(vec![EXTERNAL]);
    change(&mut config);
    Net {
        nat: Some(Nat::new(config, [42; 32])),
        server: Server::new(places(alternate), 1_000_000, 7),
        now: Time::from_secs(1),
        sockets: Vec::new(),
        next_port: 40_000,
        coming: VecDeque::new(),
        randoms: 0,
        sent: 0,
        lossy: None,
        path: 1500,
        fragments: [true; 2],
        meddles: false,
        told: Vec::new(),
    }
}

fn class(mapping: Behaviour, filtering: Behaviour) -> Net {
    net(true, |config| (config.policy.mapping, config.policy.filtering) = (mapping, filtering))
}

impl Net {
    fn probe(&mut self) -> Report {
        probe(self, SocketAddr::new(PRIMARY, 3478), &Wish::default()).unwrap()
    }

    fn lifetime(&mut self, most: u64) -> Report {
        let span = Span { least: Duration::ZERO, most: Duration::from_secs(most) };
        let wish = Wish { rto: None, lifetime: Some(span) };
        probe(self, SocketAddr::new(PRIMARY, 3478), &wish).unwrap()
    }

    /// Whether the wire loses this one: for its size, or because it is one in so many.
    fn lost(&mut self, size: usize, whole: bool, outwards: bool) -> bool {
        self.sent += 1;
        let cut = size > usize::from(self.path);
        let stopped = cut && (whole || !self.fragments[usize::from(!outwards)]);
        stopped || self.lossy.is_some_and(|lossy| self.sent.is_multiple_of(lossy))
    }

    /// The translator's word on a packet from the inside: its source then, and where it goes.
    fn leave(&mut self, source: SocketAddr, to: SocketAddr) -> Option<(SocketAddr, Option<SocketAddr>)> {
        let now = self.now;
        let Some(nat) = &mut self.nat else { return Some((source, None)) };
        nat.expire(now, &mut ());
        match nat.outbound(&packet(source, to), now, &mut ()) {
            Decision::Translate { edit, exit: Exit::Outside } => Some((endpoint(edit.source?), None)),
            Decision::Translate { edit, exit: Exit::Hairpin } => {
                Some((endpoint(edit.source?), Some(endpoint(edit.destination?))))
            }
            _ => None,
        }
    }

    fn come(&mut self, source: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        let now = self.now;
        let Some(nat) = &mut self.nat else { return Some(to) };
        nat.expire(now, &mut ());
        match nat.inbound(&packet(source, to), now, &mut ()) {
            Decision::Translate { edit, exit: Exit::Inside } => Some(endpoint(edit.destination?)),
            _ => None,
        }
    }

    /// A datagram's way, and its answer's.
    fn carry(&mut self, source: SocketAddr, to: SocketAddr, whole: bool, bytes: &[u8]) -> Option<()> {
        let (seen, hairpin) = self.leave(source, to)?;
        if let Some(inside) = hairpin {
            self.coming.push_back((self.now + LATENCY, inside.port(), seen, bytes.to_vec()));
            return Some(());
        }
        if self.lost(bytes.len() + 28, whole, true) {
            return None;
        }
        let places = *self.server.places();
        let at = places.all().into_iter().find(|&place| places.endpoint(place) == to)?;
        let answer = self.server.answer(at, seen, bytes, self.now).ok()?;
        if self.lost(answer.bytes.len() + 28, false, false) {
            return None;
        }
        let from = places.endpoint(answer.from);
        let inside = self.come(from, answer.to)?;
        let bytes = if self.meddles { meddled(&answer.bytes) } else { answer.bytes };
        self.coming.push_back((self.now + LATENCY, inside.port(), from, bytes));
        Some(())
    }
}

fn endpoint(end: Endpoint) -> SocketAddr {
    SocketAddr::new(end.ip, end.port)
}

fn packet(source: SocketAddr, destination: SocketAddr) -> Summary {
    let [source, destination] = [source, destination].map(|end| Endpoint::new(end.ip(), end.port()));
    let flow = Flow { protocol: Protocol::Udp, source, destination };
    let (tcp, segment) = (TcpFlags::default(), Segment::default());
    Summary::Data(Data { flow, tcp, segment, asks: true, length: 100 })
}

/// As an application-level gateway does that takes every address in a payload for its own business.
fn meddled(bytes: &[u8]) -> Vec<u8> {
    let mut message = Message::parse(bytes).unwrap();
    for attribute in &mut message.attributes {
        if let Attribute::MappedAddress(address) = attribute {
            address.set_ip(INSIDE);
        }
    }
    message.write()
}

impl World for Net {
    fn now(&self) -> Time {
        self.now
    }

    fn random(&mut self) -> [u8; 12] {
        self.randoms += 1;
        let mut bytes = [9; 12];
        bytes[..8].copy_from_slice(&self.randoms.to_be_bytes());
        bytes
    }

    fn open(&mut self, whole: bool) -> Result<Socket, String> {
        // Odd and even, and not one after the other.
        self.next_port += 7;
        self.sockets.push(Some((self.next_port, whole)));
        Ok(self.sockets.len() - 1)
    }

    fn close(&mut self, socket: Socket) {
        self.sockets[socket] = None;
    }

    fn local(&self, socket: Socket) -> SocketAddr {
        SocketAddr::new(INSIDE, self.sockets[socket].unwrap().0)
    }

    fn mtu(&self) -> u16 {
        1500
    }

    fn send(&mut self, socket: Socket, to: SocketAddr, bytes: &[u8]) -> Result<(), String> {
        let whole = self.sockets[socket].unwrap().1;
        if whole && bytes.len() + 28 > 1500 {
            return Err("message too long".to_owned());
        }
        self.carry(self.local(socket), to, whole, bytes);
        Ok(())
    }

    fn receive(&mut self, until: Time) -> Option<(Socket, SocketAddr, Vec<u8>)> {
        while let Some((when, port, from, bytes)) = self.coming.front().cloned() {
            if when > until {
                break;
            }
            self.coming.pop_front();
            self.now = self.now.max(when);
            if let Some(socket) = self.sockets.iter().position(|s| s.is_some_and(|(own, _)| own == port)) {
                return Some((socket, from, bytes));
            }
        }
        self.now = self.now.max(until);
        None
    }

    fn progress(&mut self, what: Progress) {
        self.told.push(what);
    }
}

// ---- what the probe says ---------------------------------------------------------------------------

#[test]
fn mapping_and_filtering_are_told_as_they_are_for_every_pair_of_classes() {
    let all = [EndpointIndependent, AddressDependent, AddressAndPortDependent];
    for mapping in all {
        for filtering in all {
            let report = class(mapping, filtering).probe();
            assert_eq!((report.mapping, report.filtering), (Ok(mapping), Ok(filtering)));
            assert_eq!(report.mapped.ip(), EXTERNAL);
        }
    }
}

#[test]
fn the_four_classes_have_their_names() {
    for (mapping, filtering, name) in [
        (EndpointIndependent, EndpointIndependent, "full-cone"),
        (EndpointIndependent, AddressDependent, "restricted-cone"),
        (EndpointIndependent, AddressAndPortDependent, "port-restricted"),
        (AddressAndPortDependent, AddressAndPortDependent, "symmetric"),
    ] {
        assert_eq!(class(mapping, filtering).probe().class(), Some(name));
    }
}

#[test]
fn hairpinning_is_told_with_the_endpoint_that_it_comes_from() {
    for filtering in [EndpointIndependent, AddressDependent, AddressAndPortDependent] {
        assert_eq!(class(EndpointIndependent, filtering).probe().hairpin, Ok(Hairpin::External));
    }
    assert_eq!(net(true, |config| config.policy.hairpin = false).probe().hairpin, Ok(Hairpin::No));
    let strict = class(AddressAndPortDependent, AddressAndPortDependent).probe().hairpin;
    assert!(strict.unwrap_err().contains("let nothing be seen"));
}

#[test]
fn kept_ports_and_parity_are_counted() {
    let kept = net(true, |config| config.policy.choice = PortChoice::Overload).probe().ports.unwrap();
    assert_eq!((kept.sockets, kept.preserved, kept.parity), (8, 8, 8));
    let random = net(true, |_| {}).probe().ports.unwrap();
    assert_eq!((random.sockets, random.parity, random.addresses), (8, 8, vec![EXTERNAL]));
    assert!(random.preserved < 8);
}

#[test]
fn the_lifetime_of_a_mapping_is_found_between_two_waits() {
    let seconds = Duration::from_secs;
    for udp in [2, 30, 120, 300] {
        let mut net = net(true, |config| config.policy.timeouts.udp = seconds(udp));
        let Ok(Lifetime::Between(alive, gone)) = net.lifetime(600).lifetime else { panic!("{udp}") };
        assert!(alive <= seconds(udp) && seconds(udp) <= gone + LATENCY * 2, "{udp}: {alive:?} {gone:?}");
        let closely = Duration::from_millis(250).max(gone / 50);
        assert!(gone - alive <= closely, "{udp}: {alive:?} {gone:?}");
        assert!(net.told.iter().any(|told| matches!(told, Progress::Idle { less_than: Some(_), .. })));
    }
    let longer = net(true, |config| config.policy.timeouts.udp = seconds(900)).lifetime(600).lifetime;
    assert_eq!(longer, Ok(Lifetime::AtLeast(seconds(600))));
    assert!(net(true, |_| {}).probe().lifetime.is_err(), "nobody asked");
}

#[test]
fn fragments_are_told_apart_by_direction() {
    for (passing, expected) in [([true, true], (true, Ok(true))), ([true, false], (true, Ok(false)))] {
        let mut net = net(true, |_| {});
        net.fragments = passing;
        let found = net.probe().fragments.unwrap();
        assert_eq!((found.out, found.back), expected);
    }
    let mut net = net(true, |_| {});
    net.fragments = [false, true];
    let found = net.probe().fragments.unwrap();
    assert!(!found.out && found.back.is_err());
}

#[test]
fn the_path_mtu_is_found_to_four_bytes() {
    for path in [1500, 1492, 1480, 1400, 1281, 580, 576] {
        let mut net = net(true, |_| {});
        net.path = path;
        assert_eq!(net.probe().mtu, Ok(path & !3), "{path}");
    }
}

#[test]
fn a_gateway_that_changes_payloads_is_found_out() {
    let mut net = net(true, |_| {});
    assert_eq!(net.probe().alg, Ok(false));
    net.meddles = true;
    assert_eq!(net.probe().alg, Ok(true));
}

#[test]
fn lost_packets_change_no_verdict() {
    for lossy in [3, 5, 7] {
        let mut net = class(EndpointIndependent, AddressDependent);
        net.lossy = Some(lossy);
        let report = net.probe();
        assert_eq!((report.mapping, report.filtering), (Ok(EndpointIndependent), Ok(AddressDependent)));
        assert_eq!(report.hairpin, Ok(Hairpin::External));
    }
}

#[test]
fn without_a_nat_that_is_said() {
    let mut net = net(true, |_| {});
    net.nat = None;
    let report = net.probe();
    assert!(!report.translated());
    assert_eq!(report.mapping, Err("there is no translation".to_owned()));
    assert_eq!(report.filtering, Ok(EndpointIndependent));
}

#[test]
fn a_server_with_one_address_leaves_open_what_needs_two_and_says_so() {
    let report = net(false, |_| {}).probe();
    for unknown in [report.mapping, report.filtering] {
        assert!(unknown.unwrap_err().contains("OTHER-ADDRESS"));
    }
    assert_eq!(report.hairpin, Ok(Hairpin::External));
    assert_eq!((report.mtu, report.alg), (Ok(1500), Ok(false)));
}

#[test]
fn silence_ends_after_79_first_waits_and_seven_requests() {
    let mut net = net(true, |_| {});
    net.lossy = Some(1);
    let before = net.now;
    let wish = Wish { rto: Some(Duration::from_millis(100)), lifetime: None };
    let nobody = probe(&mut net, SocketAddr::new(PRIMARY, 3478), &wish);
    assert_eq!(nobody, Err("198.51.100.7:3478 does not answer".to_owned()));
    assert_eq!((net.now.since(before), net.sent), (Duration::from_millis(7900), 7));
}

// ---- what the server answers -----------------------------------------------------------------------

const CLIENT: &str = "203.0.113.9:4000";

fn modern() -> Message {
    Message::request(Transaction::modern([5; 12]))
}

fn classic() -> Message {
    Message::request(Transaction::classic([5; 12]))
}

/// Asks at a place; gives where the answer leaves, where it goes and what it is.
fn ask(server: &mut Server, at: Place, request: &Message) -> (Place, SocketAddr, Message) {
    let answer = server.answer(at, CLIENT.parse().unwrap(), &request.write(), Time::ZERO).unwrap();
    let message = Message::parse(&answer.bytes).unwrap();
    assert_eq!(message.transaction, request.transaction);
    (answer.from, answer.to, message)
}

fn server(alternate: bool) -> Server {
    Server::new(places(alternate), 1000, 7)
}

fn error(message: &Message) -> Option<(u16, Vec<u16>)> {
    assert_eq!(message.class, Class::Error);
    let unknown = message.find(|attribute| match attribute {
        Attribute::UnknownAttributes(kinds) => Some(kinds.clone()),
        _ => None,
    });
    message.find(|attribute| match attribute {
        Attribute::ErrorCode(code, _) => Some((*code, unknown.clone().unwrap_or_default())),
        _ => None,
    })
}

#[test]
fn answers_leave_from_where_change_request_asks() {
    let mut server = server(true);
    for at in places(true).all() {
        for (ip, port) in [(false, false), (false, true), (true, false), (true, true)] {
            let request = modern().with(Attribute::ChangeRequest { ip, port });
            let (from, to, answer) = ask(&mut server, at, &request);
            assert_eq!(from, Place { other_ip: at.other_ip ^ ip, other_port: at.other_port ^ port });
            assert_eq!(to, CLIENT.parse().unwrap());
            let origin = places(true).endpoint(from);
            let opposite = Place { other_ip: !at.other_ip, other_port: !at.other_port };
            let other = places(true).endpoint(opposite);
            for expected in [
                Attribute::XorMappedAddress(to),
                Attribute::MappedAddress(to),
                Attribute::ResponseOrigin(origin),
                Attribute::OtherAddress(other),
            ] {
                assert!(answer.attributes.contains(&expected), "{expected:?} in {answer:?}");
            }
        }
    }
}

#[test]
fn with_one_address_change_request_is_refused_with_420_and_no_other_address_is_named() {
    let mut server = server(false);
    let plain = ask(&mut server, NONE, &modern()).2;
    assert!(!plain.attributes.iter().any(|a| matches!(a, Attribute::OtherAddress(_))));
    for (ip, port) in [(false, true), (true, false), (true, true)] {
        let request = modern().with(Attribute::ChangeRequest { ip, port });
        assert_eq!(error(&ask(&mut server, NONE, &request).2), Some((420, vec![3])));
    }
    // Classic clients always send it; without a flag it asks for nothing.
    let nothing = modern().with(Attribute::ChangeRequest { ip: false, port: false });
    assert_eq!(ask(&mut server, NONE, &nothing).2.class, Class::Success);
}

#[test]
fn classic_clients_get_classic_answers() {
    let mut server = server(true);
    let request = classic().with(Attribute::ChangeRequest { ip: true, port: true });
    let (from, to, answer) = ask(&mut server, NONE, &request);
    let opposite = places(true).endpoint(Place { other_ip: true, other_port: true });
    assert_eq!(places(true).endpoint(from), opposite);
    assert_eq!(
        answer.attributes,
        [
            Attribute::MappedAddress(to),
            Attribute::SourceAddress(opposite),
            Attribute::ChangedAddress(opposite)
        ]
    );
    // RESPONSE-ADDRESS let a client choose a victim; the list of unknown types has an even number.
    let victim = classic().with(Attribute::Other(2, vec![0, 1, 0, 80, 192, 0, 2, 1]));
    let (_, to, answer) = ask(&mut server, NONE, &victim);
    assert_eq!((to, error(&answer)), (CLIENT.parse().unwrap(), Some((420, vec![2, 2]))));
}

#[test]
fn response_port_is_answered_at_the_same_address_only_and_never_with_padding() {
    let mut server = server(true);
    let (_, to, _) = ask(&mut server, NONE, &modern().with(Attribute::ResponsePort(5000)));
    assert_eq!(to, "203.0.113.9:5000".parse().unwrap());
    let both = modern().with(Attribute::ResponsePort(5000)).with(Attribute::Padding(1500));
    let (_, to, answer) = ask(&mut server, NONE, &both);
    assert_eq!((to, error(&answer)), (CLIENT.parse().unwrap(), Some((400, vec![]))));
    let nowhere = ask(&mut server, NONE, &modern().with(Attribute::ResponsePort(0))).2;
    assert_eq!(error(&nowhere), Some((400, vec![])));
}

#[test]
fn padding_is_never_more_than_was_asked_with() {
    let mut server = server(true);
    for (asked, given) in [(0, 0), (4, 4), (1500, 1500), (60_000, 9216)] {
        let answer = ask(&mut server, NONE, &modern().with(Attribute::Padding(asked))).2;
        assert!(answer.attributes.contains(&Attribute::Padding(given)), "{asked}");
    }
    let plain = ask(&mut server, NONE, &modern()).2;
    assert!(!plain.attributes.iter().any(|a| matches!(a, Attribute::Padding(_))));
    assert!(plain.write().len() <= 6 * 20, "{} bytes for 20", plain.write().len());
}

#[test]
fn unknown_attributes_that_matter_are_named_and_others_passed_over() {
    let mut server = server(true);
    let strange = modern().with(Attribute::Other(0x7ffe, vec![])).with(Attribute::Other(0x8099, vec![1; 5]));
    assert_eq!(error(&ask(&mut server, NONE, &strange).2), Some((420, vec![0x7ffe])));
    let credentials =
        modern().with(Attribute::Other(6, b"user".to_vec())).with(Attribute::Other(8, vec![0; 20]));
    assert_eq!(ask(&mut server, NONE, &credentials).2.class, Class::Success);
}

#[test]
fn a_fingerprint_is_answered_with_one() {
    let mut server = server(true);
    let request = Message { fingerprint: true, ..modern() };
    assert!(ask(&mut server, NONE, &request).2.fingerprint);
    assert!(!ask(&mut server, NONE, &modern()).2.fingerprint);
}

#[test]
fn only_requests_are_ever_answered() {
    let mut server = server(true);
    let client: SocketAddr = CLIENT.parse().unwrap();
    for class in [Class::Indication, Class::Success, Class::Error] {
        let bytes = Message { class, ..modern() }.write();
        assert_eq!(server.answer(NONE, client, &bytes, Time::ZERO), Err(Silence::NotARequest));
    }
    let allocate = Message { method: BINDING + 2, ..modern() }.write();
    assert_eq!(server.answer(NONE, client, &allocate, Time::ZERO), Err(Silence::NotARequest));
    let bad = server.answer(NONE, client, b"GET / HTTP/1.1\r\n\r\n", Time::ZERO);
    assert!(matches!(bad, Err(Silence::Malformed(_))));
    let nowhere = server.answer(NONE, SocketAddr::new(client.ip(), 0), &modern().write(), Time::ZERO);
    assert_eq!(nowhere, Err(Silence::NoReturn));
    assert_eq!((server.counters().served, server.counters().ignored), (0, 6));
}

#[test]
fn each_client_has_its_rate_and_a_flood_costs_others_nothing() {
    let mut server = Server::new(places(true), 10, 7);
    let (flood, other): (SocketAddr, SocketAddr) = (CLIENT.parse().unwrap(), "192.0.2.1:9".parse().unwrap());
    let mut by_result = BTreeMap::new();
    for _ in 0..1000 {
        *by_result.entry(server.answer(NONE, flood, &modern().write(), Time::ZERO).is_ok()).or_insert(0) += 1;
    }
    assert_eq!(by_result, BTreeMap::from([(true, 10), (false, 990)]));
    assert!(server.answer(NONE, other, &modern().write(), Time::ZERO).is_ok());
    assert_eq!(server.counters().too_many, 990);
}
