//! What is not translated by ports: protocols that have none, and exempt destinations; and SYNs that
//! nobody asked for.

use crate::lab_setup::*;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;
use tapnat::io::netlink::Netlink;
use tapnat::lab::programs::counters::Counters;
use tapnat::lab::programs::udp;
use tapnat::lab::topology::{
    CONTAINERS, CONTAINERS_SIX, HOST, HOST_SIX, INSIDE, INSIDE_SIX, Options, SERVERS, SERVERS_SIX, WithSix,
};

/// How long nothing may come before it counts as nothing.
const QUIET: Duration = Duration::from_millis(300);
const SCTP: u8 = 132;
const GRE: u8 = 47;
const ESP: u8 = 50;
/// For experiments (RFC 3692).
const NOBODYS: u8 = 253;

/// One end of a protocol without ports.
struct Talker(Socket);

impl Talker {
    /// Sends to and hears from `peer` alone.
    fn open(protocol: u8, own: IpAddr, peer: IpAddr) -> io::Result<Talker> {
        let any = |ip| SockAddr::from(SocketAddr::new(ip, 0));
        let domain = if own.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(protocol))))?;
        socket.bind(&any(own))?;
        socket.connect(&any(peer))?;
        Ok(Talker(socket))
    }

    fn say(&self, text: &[u8]) {
        self.0.send(text).unwrap();
    }

    /// Whether the next that comes, in the time given, ends with `text`.
    fn hears(&self, text: &[u8], patience: Duration) -> bool {
        self.0.set_read_timeout(Some(patience)).unwrap();
        let mut buffer = [0; 2048];
        (&self.0).read(&mut buffer).is_ok_and(|length| buffer[..length].ends_with(text))
    }
}

pub fn other_protocols_are_answered_and_the_host_is_silent(form: Form) {
    let six = Options { six: WithSix::Fixed, ..Options::default() };
    let mut setup = Setup::new(form, six, &["--inside", INSIDE, "--inside", INSIDE_SIX]);
    let talkers = |protocol, red: IpAddr, server: IpAddr, host: IpAddr| {
        let server_end = setup.on("internet").run(|| Talker::open(protocol, server, host)).unwrap().unwrap();
        let red_end = setup.on("red").run(|| Talker::open(protocol, red, server)).unwrap().unwrap();
        (red_end, server_end)
    };
    let complaints = || {
        let counters = Counters::read(setup.on("host")).unwrap();
        (counters.get("Icmp: OutDestUnreachs"), counters.get("Icmp6OutParmProblems"))
    };
    let before = complaints();
    // What nobody has sent is the host's own affair.
    let (_, server) = talkers(NOBODYS, CONTAINERS[0].into(), SERVERS[0].into(), HOST.into());
    server.say(b"out of the blue");
    eventually("the host complains", SOON, || complaints().0 == before.0 + 1);
    let before = complaints();
    for protocol in [SCTP, GRE, ESP, NOBODYS] {
        for (red, server, stranger, host) in [
            (CONTAINERS[0].into(), SERVERS[0].into(), SERVERS[1].into(), HOST.into()),
            (CONTAINERS_SIX[0].into(), SERVERS_SIX[0].into(), SERVERS_SIX[1].into(), HOST_SIX.into()),
        ] {
            let (inside, outside) = talkers(protocol, red, server, host);
            // The server hears whom it expects, by the host's address: else it would hear nothing.
            eventually("the way is known", SOON, || {
                inside.say(b"a question, long enough for a header");
                outside.hears(b"a question, long enough for a header", QUIET)
            });
            for _ in 0..3 {
                outside.say(b"an answer, long enough for a header");
                assert!(inside.hears(b"an answer, long enough for a header", SOON), "{protocol} to {red}");
            }
            let other = setup.on("internet").run(|| Talker::open(protocol, stranger, host)).unwrap().unwrap();
            other.say(b"from nobody whom red knows of");
            assert!(!inside.hears(b"from nobody whom red knows of", QUIET));
        }
    }
    assert_eq!(complaints(), before);
    setup.world.assert_checksums_right();
    setup.assert_running();
}

pub fn exempt_destinations_see_the_containers_own_address(form: Form) {
    let exempt = SERVERS[1].to_string();
    let setup = Setup::new(form, Options::default(), &["--exempt", &exempt]);
    let before = setup.world.complaints();
    setup.on("internet").run(|| Netlink::open().unwrap().add_default_route(HOST.into()).unwrap()).unwrap();
    for (name, container) in ["red", "blue"].into_iter().zip(CONTAINERS) {
        assert_eq!(*seen_as(setup.on(name), at(SERVERS[1], 80)).ip(), container);
        assert_eq!(*seen_as(setup.on(name), at(SERVERS[0], 80)).ip(), HOST);
        assert_eq!(page(setup.on(name), at(SERVERS[1], 80), "/bytes/500000").unwrap().length, 500_000);
    }
    // The other way round, nothing is kept about them either.
    let _echo = udp::serve(setup.on("red"), at(CONTAINERS[0], 7)).unwrap();
    let ask = |from, patience| {
        let asked = setup.on("internet").run(|| -> io::Result<usize> {
            let socket = UdpSocket::bind(at(from, 0))?;
            socket.connect(at(CONTAINERS[0], 7))?;
            socket.set_read_timeout(Some(patience))?;
            socket.send(b"who is there")?;
            socket.recv(&mut [0; 64])
        });
        asked.unwrap()
    };
    assert_eq!(ask(SERVERS[1], SOON).unwrap(), 12);
    assert!(ask(SERVERS[0], SOON / 5).is_err(), "a remote that is not exempt reached an inside address");
    assert_eq!(setup.world.complaints(), before);
    setup.world.assert_checksums_right();
}

pub fn syns_to_ports_that_nobody_has_are_met_by_silence(form: Form) {
    let six = Options { six: WithSix::Fixed, ..Options::default() };
    let setup = Setup::new(form, six, &["--inside", INSIDE, "--inside", INSIDE_SIX]);
    for host in [IpAddr::V4(HOST), IpAddr::V6(HOST_SIX)] {
        let knock = |port| {
            let there = SocketAddr::new(host, port);
            setup.on("internet").run(|| TcpStream::connect_timeout(&there, SOON / 3).map(drop)).unwrap()
        };
        // Beyond the range the host is as it was.
        eventually("the way is known", SOON, || {
            knock(5000).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        });
        let before = setup.world.complaints();
        for port in [45_000, 61_234] {
            assert_eq!(knock(port).unwrap_err().kind(), ErrorKind::TimedOut, "{host} {port}");
        }
        assert_eq!(setup.world.complaints(), before);
        // A program of the host has its port, in our range too.
        let service = setup.on("host").run(|| TcpListener::bind(SocketAddr::new(host, 0)).unwrap()).unwrap();
        let port = service.local_addr().unwrap().port();
        assert!(port >= 32_768, "not of the range: {port}");
        knock(port).unwrap();
        drop(service);
        assert_eq!(knock(port).unwrap_err().kind(), ErrorKind::TimedOut, "{host} {port}, given up");
    }
}
