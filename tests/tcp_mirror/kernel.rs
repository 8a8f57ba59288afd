//! The whole mirror over real sockets of this host, on its loopback; the inside end is smoltcp.

use crate::inside::{Inside, on_the_wire};
use crate::world::pattern;
use mio::{Events, Poll};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};
use tapnat::flow::{Endpoint, Summary, TcpFlags, Time};
use tapnat::io::uplink::sockets::tcp::{Tcp, TcpLimits};
use tapnat::wire::{Buffer, Offload, Packet, craft};

/// What the translator calls the inside end.
const OUTSIDE: &str = "192.0.2.2";
/// What the inside end calls the server.
const REMOTE: &str = "198.51.100.7";
const FIRST_TOKEN: usize = 100;
/// Longer than any test.
const LONG: Duration = Duration::from_secs(600);

struct Rig {
    poll: Poll,
    tcp: Tcp,
    inside: Inside,
    /// Where the remote really is.
    to: SocketAddr,
    start: Instant,
    buffer: Buffer,
    /// ICMP errors that the inside was sent, as (type, code).
    errors: Vec<(u8, u8)>,
}

#[expect(clippy::disallowed_methods, reason = "real sockets take real time")]
fn clock() -> Instant {
    Instant::now()
}

impl Rig {
    fn new(to: SocketAddr, limits: TcpLimits) -> Rig {
        let poll = Poll::new().unwrap();
        let registry = poll.registry().try_clone().unwrap();
        Rig {
            poll,
            tcp: Tcp::new(registry, FIRST_TOKEN..FIRST_TOKEN + 1000, limits),
            inside: Inside::new(OUTSIDE.parse().unwrap(), 1500, 7),
            to,
            start: clock(),
            buffer: Buffer::new(),
            errors: Vec::new(),
        }
    }

    fn now(&self) -> Time {
        Time::ZERO + (clock() - self.start)
    }

    fn connect(&mut self, port: u16) -> SocketHandle {
        let remote: IpAddr = REMOTE.parse().unwrap();
        self.inside.connect(SocketAddr::new(remote, 80), port, 65535)
    }

    /// Moves packets and events until `done` says so.
    fn until(&mut self, mut done: impl FnMut(&mut Inside, &Tcp) -> bool) {
        let mut events = Events::with_capacity(64);
        for _ in 0..200_000 {
            let now = self.now();
            self.inside.poll(now);
            if done(&mut self.inside, &self.tcp) {
                return;
            }
            while let Some(packet) = self.inside.transmit() {
                let parsed = Packet::parse(&packet, &Offload::default()).unwrap();
                self.tcp.outbound(&parsed, &Buffer::from_bytes(&packet), self.to, None, now);
            }
            if self.tcp.next_deadline().is_some_and(|due| due <= now) {
                self.tcp.tick(now);
            }
            while self.tcp.recv(&mut self.buffer, now).is_ok() {
                for packet in on_the_wire(&mut self.buffer) {
                    let parsed = Packet::parse(&packet, &Offload::default()).unwrap();
                    if let Summary::Error(about) = parsed.summary {
                        assert_eq!(about.to, OUTSIDE.parse::<IpAddr>().unwrap());
                        self.errors.extend(parsed.icmp);
                    }
                    self.inside.receive(packet);
                }
            }
            self.poll.poll(&mut events, Some(Duration::from_micros(200))).unwrap();
            for event in &events {
                let closed = event.is_read_closed() || event.is_write_closed() || event.is_error();
                self.tcp.ready(event.token().0, event.is_readable(), event.is_writable(), closed);
            }
        }
        panic!("not done: {:?}", self.tcp.counters());
    }

    fn counter(&self, word: &str) -> u64 {
        self.tcp.counters().into_iter().find(|(name, _)| *name == word).unwrap().1
    }
}

/// A server for one connection: reads all, then writes `down`, then ends.
fn server(up: usize, down: usize) -> (SocketAddr, thread::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut got = Vec::with_capacity(up);
        stream.read_to_end(&mut got).unwrap();
        stream.write_all(&pattern(2, down)).unwrap();
        got
    });
    (address, thread)
}

/// Sends, ends, and reads to the end: the half-closed way.
fn exchange(rig: &mut Rig, up: usize, down: usize) -> Vec<u8> {
    let handle = rig.connect(61000);
    let (bytes, mut sent, mut received) = (pattern(1, up), 0, Vec::new());
    rig.until(|inside, tcp| {
        let socket = inside.tcp(handle);
        if socket.may_send() && sent < up {
            sent += socket.send_slice(&bytes[sent..]).unwrap();
        }
        if sent == up && socket.state() == State::Established {
            socket.close();
        }
        let mut some = vec![0; socket.recv_queue()];
        let count = socket.recv_slice(&mut some).unwrap_or(0);
        received.extend_from_slice(&some[..count]);
        received.len() == down && tcp.connections() == 0
    });
    received
}

#[test]
fn both_ways_over_real_sockets() {
    for peeks in [true, false] {
        let (up, down) = (3_000_000, 3_000_000);
        let (address, server) = server(up, down);
        let mut rig = Rig::new(address, TcpLimits::default());
        if !peeks {
            rig.tcp = rig.tcp.without_peek_offset();
        }
        let received = exchange(&mut rig, up, down);
        assert!(received == pattern(2, down), "wrong bytes, peeks: {peeks}");
        assert!(server.join().unwrap() == pattern(1, up), "wrong bytes, peeks: {peeks}");
        assert_eq!(rig.counter("tcp-opened"), 1);
    }
}

#[test]
fn who_does_not_listen_refuses() {
    // Bound, so that nobody else gets the port meanwhile.
    let deaf = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    deaf.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    let unused = deaf.local_addr().unwrap().as_socket().unwrap();
    let mut rig = Rig::new(unused, TcpLimits::default());
    let handle = rig.connect(61000);
    rig.until(|inside, tcp| inside.tcp(handle).state() == State::Closed && tcp.connections() == 0);
    assert_eq!(rig.counter("tcp-refused"), 1);
    assert!(rig.errors.is_empty());
}

#[test]
fn what_is_not_allowed_is_an_icmp_error() {
    // The kernel does not let a TCP socket connect to a broadcast address.
    let mut rig = Rig::new("255.255.255.255:80".parse().unwrap(), TcpLimits::default());
    rig.connect(61000);
    let mut turns = 0;
    rig.until(|_, _| {
        turns += 1;
        turns > 5
    });
    assert_eq!(rig.counter("tcp-unreachable"), 1);
    assert_eq!(rig.errors.len(), 1);
    assert_eq!(rig.tcp.connections(), 0);
}

#[test]
fn an_accepted_connection_reaches_the_inside() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.write_all(b"question").unwrap();
    let (socket, _) = listener.accept().unwrap();
    let mut rig = Rig::new(listener.local_addr().unwrap(), TcpLimits::default());
    let handle = rig.inside.listen(8080, 65535);
    let remote = Endpoint::new(REMOTE.parse::<IpAddr>().unwrap(), 40000);
    let outside = Endpoint::new(OUTSIDE.parse::<IpAddr>().unwrap(), 8080);
    rig.tcp.accepted(socket.into(), remote, outside, rig.now());
    rig.until(|inside, _| inside.tcp(handle).recv_queue() == 8);
    assert_eq!(rig.inside.tcp(handle).remote_endpoint().unwrap().port, 40000);
    rig.inside.tcp(handle).send_slice(b"answer").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    rig.until(|inside, _| inside.tcp(handle).state() == State::CloseWait);
    rig.inside.tcp(handle).close();
    rig.until(|inside, _| inside.tcp(handle).state() == State::Closed);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"answer");
}

#[test]
fn nobody_inside_is_a_reset_for_the_client() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, _) = listener.accept().unwrap();
    let mut rig = Rig::new(listener.local_addr().unwrap(), TcpLimits::default());
    let remote = Endpoint::new(REMOTE.parse::<IpAddr>().unwrap(), 40000);
    let outside = Endpoint::new(OUTSIDE.parse::<IpAddr>().unwrap(), 8080);
    rig.tcp.accepted(socket.into(), remote, outside, rig.now());
    rig.until(|_, tcp| tcp.connections() == 0);
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn what_has_ended_takes_no_room_and_what_is_too_much_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut rig = Rig::new(
        listener.local_addr().unwrap(),
        TcpLimits { connections: 1, linger: LONG, ..TcpLimits::default() },
    );
    // The inside closes last: its FIN may come again, so the connection is remembered for a while.
    let first = rig.connect(61000);
    rig.until(|inside, _| inside.tcp(first).state() == State::Established);
    drop(listener.accept().unwrap());
    rig.until(|inside, _| inside.tcp(first).state() == State::CloseWait);
    rig.inside.tcp(first).close();
    rig.until(|inside, _| inside.tcp(first).state() == State::Closed);
    assert_eq!(rig.tcp.connections(), 1, "it is not remembered");
    let second = rig.connect(61001);
    rig.until(|inside, _| inside.tcp(second).state() == State::Established);
    assert_eq!(rig.counter("tcp-connections-full"), 0);
    let third = rig.connect(61002);
    let mut turns = 0;
    rig.until(|_, _| {
        turns += 1;
        turns > 5
    });
    assert_ne!(rig.inside.tcp(third).state(), State::Established);
    assert_eq!((rig.counter("tcp-connections-full"), rig.errors.len()), (1, 1));
}

#[test]
fn of_very_many_that_end_at_once_some_are_forgotten_and_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let limits = TcpLimits { lingering: 2, linger: LONG, ..TcpLimits::default() };
    let mut rig = Rig::new(listener.local_addr().unwrap(), limits);
    for port in 61000..61005 {
        let handle = rig.connect(port);
        rig.until(|inside, _| inside.tcp(handle).state() == State::Established);
        drop(listener.accept().unwrap());
        rig.until(|inside, _| inside.tcp(handle).state() == State::CloseWait);
        rig.inside.tcp(handle).close();
        rig.until(|inside, _| inside.tcp(handle).state() == State::Closed);
    }
    assert!(rig.tcp.connections() <= 2, "{}", rig.tcp.connections());
    assert!(rig.counter("tcp-linger-full") >= 1);
}

#[test]
fn a_reset_stays_a_reset_where_too_many_have_ended() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let limits = TcpLimits { lingering: 0, ..TcpLimits::default() };
    let mut rig = Rig::new(listener.local_addr().unwrap(), limits);
    let handle = rig.connect(61000);
    rig.until(|inside, _| inside.tcp(handle).state() == State::Established);
    let (mut remote, _) = listener.accept().unwrap();
    rig.inside.tcp(handle).abort();
    rig.until(|_, tcp| tcp.connections() == 0);
    let error = remote.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(rig.counter("tcp-linger-full"), 0);
}

/// The inside's end of a connection by hand: packets with whatever sequence numbers.
struct Hand {
    port: u16,
    /// What the mirror said last: its next sequence number and its acknowledgment.
    said: (u32, u32),
}

impl Hand {
    fn say(&self, rig: &mut Rig, flags: TcpFlags, sequence: u32, payload: &[u8]) {
        let header =
            craft::Tcp { flags, sequence, acknowledgment: self.said.0, window: 60_000, mss: Some(1460) };
        let [inside, remote] =
            [(OUTSIDE, self.port), (REMOTE, 80)].map(|(ip, port)| (ip.parse::<IpAddr>().unwrap(), port));
        let packet = header.packet(inside, remote, payload);
        let parsed = Packet::parse(&packet, &Offload::default()).unwrap();
        rig.tcp.outbound(&parsed, &Buffer::from_bytes(&packet), rig.to, None, rig.now());
    }

    /// Takes what the mirror has to say, until it has said `flags` to this port.
    fn hear(&mut self, rig: &mut Rig, flags: TcpFlags) {
        let mut events = Events::with_capacity(64);
        for _ in 0..100_000 {
            let now = rig.now();
            while rig.tcp.recv(&mut rig.buffer, now).is_ok() {
                let parsed = Packet::parse(rig.buffer.bytes(), &rig.buffer.offload).unwrap();
                let Summary::Data(data) = parsed.summary else { continue };
                if data.flow.destination.port == self.port && data.tcp.has(flags) {
                    let next = data.segment.sequence.wrapping_add(u32::from(data.tcp.has(TcpFlags::SYN)));
                    self.said = (next, data.segment.acknowledgement);
                    return;
                }
            }
            if rig.tcp.next_deadline().is_some_and(|due| due <= rig.now()) {
                rig.tcp.tick(rig.now());
            }
            rig.poll.poll(&mut events, Some(Duration::from_millis(1))).unwrap();
            for event in &events {
                rig.tcp.ready(event.token().0, event.is_readable(), event.is_writable(), false);
            }
        }
        panic!("the mirror says nothing: {:?}", rig.tcp.counters());
    }

    fn open(rig: &mut Rig, port: u16) -> Hand {
        let mut hand = Hand { port, said: (0, 0) };
        hand.say(rig, TcpFlags::SYN, 0, &[]);
        hand.hear(rig, TcpFlags::SYN);
        hand.say(rig, TcpFlags::ACK, 1, &[]);
        hand
    }
}

#[test]
fn who_leaves_gaps_takes_no_room_from_others() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let limits = TcpLimits { kept: 400_000, ..TcpLimits::default() };
    let mut rig = Rig::new(listener.local_addr().unwrap(), limits);
    // The first byte is missing.
    for port in 61000..61020 {
        let hand = Hand::open(&mut rig, port);
        (0..20).for_each(|piece| hand.say(&mut rig, TcpFlags::ACK, 2 + piece * 1000, &[7; 1000]));
    }
    assert!(rig.counter("tcp-out-of-order-full") > 0);
    let mut other = Hand::open(&mut rig, 62000);
    other.say(&mut rig, TcpFlags::ACK, 1001, &[7; 1000]);
    other.say(&mut rig, TcpFlags::ACK, 1, &[7; 1000]);
    other.hear(&mut rig, TcpFlags::ACK);
    assert_eq!(other.said.1, 2001, "what came early was thrown away");
    assert_eq!(rig.counter("tcp-kept-full"), 0);
}

/// A listening socket that answers no SYN, since as many connections wait in it as may.
fn deaf() -> (socket2::Socket, SocketAddr, Vec<socket2::Socket>) {
    let tcp =
        || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM.nonblocking(), None).unwrap();
    let listener = tcp();
    listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let waiting = (0..4).map(|_| tcp()).collect::<Vec<_>>();
    waiting.iter().for_each(|socket| drop(socket.connect(&address)));
    (listener, address.as_socket().unwrap(), waiting)
}

#[test]
fn a_scan_of_dead_addresses_takes_nobodys_place() {
    let (_listener, dead, _waiting) = deaf();
    let alive = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut rig = Rig::new(dead, TcpLimits { half_open: 8, ..TcpLimits::default() });
    for port in 61000..61020 {
        Hand { port, said: (0, 0) }.say(&mut rig, TcpFlags::SYN, 0, &[]);
    }
    assert_eq!((rig.counter("tcp-opened"), rig.counter("tcp-half-open-full")), (20, 12));
    assert_eq!(rig.tcp.connections(), 8);
    rig.to = alive.local_addr().unwrap();
    Hand::open(&mut rig, 62000);
    // It is the oldest that go.
    rig.to = dead;
    let again = Hand { port: 61019, said: (0, 0) };
    again.say(&mut rig, TcpFlags::SYN, 0, &[]);
    assert_eq!(rig.counter("tcp-opened"), 21, "it was under way");
}

#[test]
fn connections_that_the_inside_does_not_take_leave_room_for_its_own() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let limits = TcpLimits { half_open: 1, calling: 1, ..TcpLimits::default() };
    let mut rig = Rig::new(listener.local_addr().unwrap(), limits);
    let mut clients = Vec::new();
    for port in [40000, 40001] {
        clients.push(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let (socket, _) = listener.accept().unwrap();
        let remote = Endpoint::new(REMOTE.parse::<IpAddr>().unwrap(), port);
        let outside = Endpoint::new(OUTSIDE.parse::<IpAddr>().unwrap(), 8080);
        rig.tcp.accepted(socket.into(), remote, outside, rig.now());
    }
    let counters = |rig: &Rig| (rig.counter("tcp-calling-full"), rig.counter("tcp-half-open-full"));
    assert_eq!((rig.tcp.connections(), counters(&rig)), (1, (1, 0)));
    let error = clients[1].read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    Hand::open(&mut rig, 61000);
    assert_eq!((rig.tcp.connections(), counters(&rig)), (2, (1, 0)));
}
