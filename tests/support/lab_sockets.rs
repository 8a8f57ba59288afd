//! A gateway over ordinary sockets without capabilities, and what its containers do every day.

use crate::lab_setup::*;
use rustix::io::{FdFlags, fcntl_setfd};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use tapnat::io::setup::{self, InsideConfig, Made};
use tapnat::io::sys::netns::Netns;
use tapnat::io::tap::Tap;
use tapnat::lab::netns::set_sysctl;
use tapnat::lab::product::Product;
use tapnat::lab::programs::icmp::{Answer, Ping};
use tapnat::lab::programs::pattern::Pattern;
use tapnat::lab::programs::{bulk, dns, udp};
use tapnat::lab::topology::{
    BRIDGE, GATEWAY, HOST, INSIDE, INSIDE_SIX, Options, ROUTER, SERVERS, SERVERS_SIX, WithSix,
};

/// Bytes of a bulk transfer in each direction.
const BULK: u64 = 64 << 20;

/// What runs its arguments without a capability, and without a way to get one.
const BARE: [&str; 5] =
    ["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--no-new-privs", "--"];

/// The lab, and a TAP on its bridge that is there for whoever is given it.
pub struct Rootless {
    pub gateway: Gateway,
    pub world: World,
    _made: Made,
}

/// A lab with a TAP for a gateway that is still to be started.
pub struct Ready {
    pub world: World,
    tap: Tap,
    made: Made,
}

impl Ready {
    pub fn new(options: Options) -> Ready {
        let world = World::new(options);
        let config = InsideConfig {
            tap: TAP.into(),
            tap_fd: None,
            offload: true,
            bridge: Some(BRIDGE.into()),
            mtu: 1500,
            six: false,
        };
        let open = || {
            set_sysctl("net/ipv4/ping_group_range", "0\t0").unwrap();
            setup::inside(&config).unwrap()
        };
        let (tap, made) = world.on("host").run(open).unwrap();
        Ready { world, tap, made }
    }

    /// The program and its arguments as a process without capabilities.
    pub fn words(&self, prefix: &[&str], more: &[&str]) -> Vec<String> {
        // The number is the same in the child.
        fcntl_setfd(self.tap.as_fd(), FdFlags::empty()).unwrap();
        let control = self.world.control();
        let tap = self.tap.as_fd().as_raw_fd().to_string();
        let own = ["run", "--control", control.to_str().unwrap(), "--tap-fd", &tap, "--inside", INSIDE];
        let uplink: &[&str] = if more.contains(&"--uplink") { &[] } else { &["--uplink", "sockets"] };
        let words = BARE.iter().chain(prefix).chain(&[PROGRAM]).chain(&own).chain(uplink).chain(more);
        words.map(|word| (*word).to_owned()).collect()
    }

    pub fn start(self, prefix: &[&str], more: &[&str]) -> Rootless {
        let words = self.words(prefix, more);
        let started = Product::start(Path::new("setpriv"), self.world.on("host"), &words, SOON * 2);
        let product = started.unwrap_or_else(|error| panic!("the gateway did not start: {error}"));
        // Only the gateway has the TAP from here on.
        let Ready { world, tap, made } = self;
        drop(tap);
        Rootless { gateway: Gateway(product), world, _made: made }
    }
}

impl Rootless {
    pub fn new(options: Options, more: &[&str]) -> Rootless {
        Ready::new(options).start(&[], more)
    }

    pub fn plain() -> Rootless {
        Rootless::new(Options::default(), &[])
    }

    pub fn on(&self, host: &str) -> &Netns {
        self.world.on(host)
    }
}

/// A UDP socket in a namespace, which waits for answers a little while.
pub fn socket(netns: &Netns, local: impl Into<SocketAddr>) -> UdpSocket {
    let local = local.into();
    let socket = netns.run(|| UdpSocket::bind(local).unwrap()).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

/// The gateway has no capability, and the containers reach everybody.
pub fn works_without_a_capability(setup: &Rootless) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", setup.gateway.0.id())).unwrap();
    for set in ["CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let line = status.lines().find(|line| line.starts_with(set)).unwrap();
        println!("    {line}");
        assert_eq!(line.split_whitespace().nth(1), Some("0000000000000000"), "{line}");
    }
    for container in ["red", "blue"] {
        for destination in [GATEWAY, ROUTER, SERVERS[0], SERVERS[1]] {
            assert_ping(setup.on(container), destination);
        }
        assert_eq!(*seen_as(setup.on(container), at(SERVERS[0], 80)).ip(), HOST);
    }
}

pub fn no_capability_is_needed() {
    let setup = Rootless::plain();
    works_without_a_capability(&setup);
    for container in ["red", "blue"] {
        let ask =
            |name| setup.on(container).run(|| dns::resolve(at(ROUTER, 53), name, SOON)).unwrap().unwrap();
        assert_eq!(ask("www.example.org"), Some(SERVERS[0]));
        assert_eq!(ask("no.example.org"), None);
    }
    setup.world.assert_checksums_right();
}

pub fn auto_takes_sockets_and_says_why() {
    let setup = Rootless::new(Options::default(), &["--uplink", "auto"]);
    let why = "uplink sockets: packet and raw sockets are not permitted here";
    eventually(why, SOON, || setup.gateway.0.said().contains(why));
    assert_ping(setup.on("red"), SERVERS[0]);
}

pub fn udp_of_every_size() {
    let options = Options { six: WithSix::Fixed, ..Options::default() };
    let setup = Rootless::new(options, &["--inside", INSIDE_SIX]);
    let six = SocketAddr::new(SERVERS_SIX[0].into(), 7);
    let _echo = udp::serve(setup.on("internet"), six).unwrap();
    for server in [at(SERVERS[0], 7).into(), six] {
        for length in [0, 1, 100, 1452, 1453, 1472, 1473, 4000, 9000, 60000] {
            let mut message = vec![0; length];
            Pattern::new(length as u64).fill(&mut message);
            let answer = setup.on("red").run(|| udp::ask(server, &message, SOON)).unwrap();
            let answer = answer.unwrap_or_else(|error| panic!("{length} bytes to {server}: {error}"));
            assert!(answer == message, "{length} bytes to {server}");
        }
    }

    setup.world.assert_checksums_right();
}

pub fn bulk_both_ways() {
    let setup = Rootless::plain();
    let both = || {
        let got = bulk::get(at(SERVERS[0], 5001), BULK, LATER).unwrap();
        (got, bulk::put(at(SERVERS[1], 5001), BULK, LATER).unwrap())
    };
    let (got, put) = setup.on("red").run(both).unwrap();
    let rate = |took: std::time::Duration| BULK as f64 / took.as_secs_f64() / (1 << 20) as f64;
    println!("    get {:.0} MiB/s, put {:.0} MiB/s", rate(got), rate(put));
    setup.world.assert_checksums_right();
}

pub fn many_short_connections() {
    let setup = Rootless::plain();
    for round in 0..200 {
        let server = SERVERS[round % 2];
        assert_eq!(*seen_as(setup.on("red"), at(server, 80)).ip(), HOST, "round {round}");
    }
}

pub fn closed_ports_are_told() {
    let setup = Rootless::plain();
    for _ in 0..3 {
        let asked = setup.on("red").run(|| udp::ask(at(SERVERS[0], 9), b"anybody?", SOON)).unwrap();
        assert_eq!(asked.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        let asked = page(setup.on("red"), at(SERVERS[0], 81), "/");
        assert_eq!(asked.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    }
}

pub fn hops_are_counted() {
    let setup = Rootless::plain();
    let ping = |ttl| {
        let ping = Ping { ttl, ..Ping::new(SERVERS[0], ttl.into()) };
        setup.on("red").run(|| ping.send(SOON).unwrap()).unwrap()
    };
    assert_eq!(ping(1), Answer::Error { from: GATEWAY, kind: 11, code: 0, mtu: 0 });
    assert!(matches!(ping(2), Answer::Reply { ttl: 63, .. }));
    // What is received has the hops that the sender gave it.
    let (server, client) =
        (socket(setup.on("internet"), at(SERVERS[0], 4000)), socket(setup.on("red"), any()));
    server.set_ttl(9).unwrap();
    client.send_to(b"hello", at(SERVERS[0], 4000)).unwrap();
    let (_, from) = server.recv_from(&mut [0; 100]).unwrap();
    server.set_ttl(1).unwrap();
    server.send_to(b"expires at the gateway", from).unwrap();
    server.set_ttl(2).unwrap();
    server.send_to(b"arrives", from).unwrap();
    let mut buffer = [0; 100];
    let (length, _) = client.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"arrives");
}

pub fn too_big_for_outside_is_told() {
    let setup = Rootless::new(Options { outside_mtu: 1280, ..Options::default() }, &[]);
    let ping = |length, dont_fragment, sequence| {
        let ping = Ping { length, dont_fragment, ..Ping::new(SERVERS[0], sequence) };
        setup.on("red").run(|| ping.send(SOON).unwrap()).unwrap()
    };
    let told = ping(1400, true, 1);
    assert!(matches!(told, Answer::Error { kind: 3, code: 4, mtu: 1280, .. }), "{told:?}");
    assert!(matches!(ping(1280, true, 2), Answer::Reply { .. }));
    assert!(matches!(ping(1400, false, 3), Answer::Reply { .. }));
    let transfers = || {
        udp::ask(at(SERVERS[0], 7), &[7; 1400], SOON).unwrap();
        bulk::put(at(SERVERS[0], 5001), 4 << 20, SOON).unwrap();
        bulk::get(at(SERVERS[0], 5001), 4 << 20, SOON).unwrap();
    };
    // The first datagram that is too big teaches its sender the MTU of the path.
    let _ = setup.on("blue").run(|| udp::ask(at(SERVERS[0], 7), &[7; 1400], SOON / 5));
    setup.on("blue").run(transfers).unwrap();
}

pub fn ping_that_is_not_permitted_is_told() {
    let ready = Ready::new(Options::default());
    ready.world.on("host").run(|| set_sysctl("net/ipv4/ping_group_range", "1\t0").unwrap()).unwrap();
    let setup = ready.start(&[], &[]);
    let answer = ping(setup.on("red"), SERVERS[0], 1);
    assert!(matches!(answer, Answer::Error { kind: 3, code: 13, .. }), "{answer:?}");
    assert_ping(setup.on("red"), GATEWAY);
    let said = "no ping since net.ipv4.ping_group_range leaves this user out";
    eventually(said, SOON, || setup.gateway.0.said().contains(said));
}

/// Any port of any address.
pub fn any() -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, 0).into()
}
