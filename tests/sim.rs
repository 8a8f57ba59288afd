//! A whole network in virtual time: two containers and a server, each a TCP/IP stack of its own,
//! around the gateway, on wires that lose, double, delay and reorder what they carry. Hours pass in
//! milliseconds, and the same seed gives the same packets.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "sim/network.rs"]
mod network;
mod support;

use network::{Faults, Network, Node};
use smoltcp::socket::tcp::State;
use std::time::Duration;
use support::*;
use tapnat::flow::{Endpoint, Protocol, Time};
use tapnat::gateway::{Command, GatewayConfig, Reply};
use tapnat::lab::host::Socket;
use tapnat::wire::craft;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// Bytes that each side sends in a transfer.
const LENGTH: usize = 100 * 1024;

/// Bytes that are different everywhere, so that nothing can be swapped unnoticed.
fn pattern(salt: u8) -> Vec<u8> {
    (0..LENGTH as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8 ^ salt).collect()
}

/// One end of a transfer: what it has still to send, and what it has received.
struct End {
    node: Node,
    socket: Socket,
    sends: Vec<u8>,
    sent: usize,
    received: Vec<u8>,
}

impl End {
    fn new(node: Node, socket: Socket, sends: Vec<u8>) -> Self {
        End { node, socket, sends, sent: 0, received: Vec::new() }
    }

    /// Does what its socket allows; closes when all is sent.
    fn work(&mut self, network: &mut Network) {
        let host = network.host(self.node);
        self.received.extend(host.tcp_recv(self.socket));
        if self.sent < self.sends.len() {
            self.sent += host.tcp_send(self.socket, &self.sends[self.sent..]).unwrap_or(0);
            if self.sent == self.sends.len() {
                host.tcp_close(self.socket);
            }
        }
    }
}

/// Moves [`LENGTH`] bytes both ways at once between sockets that are about to connect.
fn transfer(network: &mut Network, (from, client): (Node, Socket), (to, server): (Node, Socket)) {
    let mut ends = [End::new(from, client, pattern(0x11)), End::new(to, server, pattern(0x22))];
    let limit = network.now + HOUR;
    network.run(limit, |network| {
        ends.iter_mut().for_each(|end| end.work(network));
        let over = |end: &End| {
            let state = network.peek(end.node).tcp_state(end.socket);
            end.received.len() >= LENGTH && matches!(state, State::Closed | State::TimeWait)
        };
        ends.iter().all(over)
    });
    let [client, server] = ends;
    assert!(client.received == server.sends, "{} bytes came to the client", client.received.len());
    assert!(server.received == client.sends, "{} bytes came to the server", server.received.len());
}

/// A downloads from and uploads to the server.
fn outgoing_transfer(faults: Faults, seed: u64) -> Network {
    let mut network = Network::new(config(), faults, seed);
    let server = network.host(Node::Server).listen(80).unwrap();
    let client = network.host(Node::A).connect(at(S1, 80).into()).unwrap();
    transfer(&mut network, (Node::A, client), (Node::Server, server));
    network
}

#[test]
fn tcp_arrives_whole_both_ways_over_clean_wires() {
    let mut network = outgoing_transfer(Faults::NONE, 1);
    assert!(network.dropped().is_empty(), "{:?}", network.dropped());
    assert!(network.now.since(Time::ZERO) < MINUTE);
}

#[test]
fn tcp_arrives_whole_both_ways_over_bad_wires() {
    for seed in 1..=5 {
        let mut network = outgoing_transfer(Faults::BAD, seed);
        assert!(network.lost > 0 && network.doubled > 0 && network.delayed > 0, "seed {seed}");
        assert!(network.dropped().iter().all(|(word, _)| *word != "out-of-window"), "seed {seed}");
    }
}

#[test]
fn a_published_port_serves_the_outside_over_bad_wires() {
    let mut network = Network::new(config(), Faults::BAD, 6);
    network.publish(Protocol::Tcp, Endpoint::new(X, 8080), Endpoint::new(B, 80));
    let server = network.host(Node::B).listen(80).unwrap();
    let client = network.host(Node::Server).connect(at(X, 8080).into()).unwrap();
    transfer(&mut network, (Node::Server, client), (Node::B, server));
}

#[test]
fn one_container_reaches_another_by_its_published_port() {
    let mut network = Network::new(config(), Faults::BAD, 7);
    network.publish(Protocol::Tcp, Endpoint::new(X, 8080), Endpoint::new(B, 80));
    let server = network.host(Node::B).listen(80).unwrap();
    let client = network.host(Node::A).connect(at(X, 8080).into()).unwrap();
    transfer(&mut network, (Node::A, client), (Node::B, server));
    assert_eq!(network.sent_outside, 0, "it never leaves the bridge");
}

#[test]
fn both_containers_get_their_own_udp_answers() {
    let mut network = Network::new(config(), Faults::NONE, 8);
    let server = network.host(Node::Server).udp_bind(53).unwrap();
    let clients = [Node::A, Node::B].map(|node| (node, network.host(node).udp_bind(4000).unwrap()));
    for round in 0..10u8 {
        for (node, socket) in clients {
            network.host(node).udp_send(socket, at(S1, 53).into(), &[node as u8, round]).unwrap();
        }
        // A stack that has to ask for a MAC first sends a second later.
        let limit = network.now + Duration::from_secs(5);
        network.run(limit, |network| {
            while let Some((from, question)) = network.host(Node::Server).udp_recv(server) {
                assert_eq!(from.ip(), X);
                network.host(Node::Server).udp_send(server, from, &question).unwrap();
            }
            false
        });
        for (node, socket) in clients {
            let answer = network.host(node).udp_recv(socket);
            assert_eq!(answer, Some((at(S1, 53).into(), vec![node as u8, round])));
            assert_eq!(network.host(node).udp_recv(socket), None);
        }
    }
}

#[test]
fn pings_are_answered_and_come_back_to_who_asked() {
    let mut network = Network::new(config(), Faults::NONE, 9);
    // Who has to ask for a MAC first loses its reply: the first round is for that.
    for sequence in 0..=3 {
        for (node, ip) in [(Node::A, A), (Node::B, B)] {
            network.send(node, &craft::echo(ip, S1, true, 7, sequence, b"ping"));
            network.send(node, &craft::echo(ip, GATEWAY, true, 7, sequence, b"ping"));
        }
        network.run_for(Duration::from_secs(2));
    }
    for (node, ip) in [(Node::A, A), (Node::B, B)] {
        let sequences = network.received_icmp(node).iter().map(|packet| word(packet, 26));
        assert_eq!(sequences.filter(|sequence| *sequence > 0).collect::<Vec<_>>(), [1, 1, 2, 2, 3, 3]);
        for packet in network.received_icmp(node) {
            assert_eq!((destination(packet), packet[20], word(packet, 24)), (ip, 0, 7));
        }
    }
}

/// An established connection from A to the server.
fn connected(config: GatewayConfig) -> (Network, Socket, Socket) {
    let mut network = Network::new(config, Faults::NONE, 10);
    let server = network.host(Node::Server).listen(80).unwrap();
    let client = network.host(Node::A).connect(at(S1, 80).into()).unwrap();
    network.run_for(Duration::from_secs(5));
    assert_eq!(network.host(Node::A).tcp_state(client), State::Established);
    (network, client, server)
}

/// Whether `word` sent by one end comes to the other within a minute.
fn arrives(network: &mut Network, from: (Node, Socket), to: (Node, Socket), word: &[u8]) -> bool {
    network.host(from.0).tcp_send(from.1, word).unwrap();
    network.run_for(MINUTE);
    network.host(to.0).tcp_recv(to.1) == word
}

#[test]
fn a_connection_that_speaks_within_its_timeout_lives_for_hours() {
    let (mut network, client, server) = connected(config());
    let timeout = network.config().nat.policy.timeouts.tcp_established;
    assert_eq!(timeout, 2 * HOUR + 4 * MINUTE, "RFC 5382 REQ-5");
    for _ in 0..3 {
        network.run_for(timeout - 2 * MINUTE);
        assert!(arrives(&mut network, (Node::A, client), (Node::Server, server), b"still there?"));
        network.run_for(timeout - 2 * MINUTE);
        assert!(arrives(&mut network, (Node::Server, server), (Node::A, client), b"yes"));
    }
    assert!(network.now.since(Time::ZERO) > 12 * HOUR);
    assert!(network.dropped().is_empty(), "{:?}", network.dropped());
}

#[test]
fn a_connection_that_is_silent_for_longer_is_forgotten() {
    let mut config = config();
    config.nat.policy.timeouts.tcp_established = 10 * MINUTE;
    let (mut network, client, server) = connected(config);
    network.run_for(9 * MINUTE);
    assert!(arrives(&mut network, (Node::Server, server), (Node::A, client), b"one"));
    assert_eq!(network.sessions(), 1);
    network.run_for(11 * MINUTE);
    assert_eq!(network.sessions(), 0, "it ends by itself, without a packet");
    assert!(!arrives(&mut network, (Node::Server, server), (Node::A, client), b"two"));
    assert!(!arrives(&mut network, (Node::A, client), (Node::Server, server), b"three"));
    let words: Vec<_> = network.dropped().into_iter().map(|(word, _)| word).collect();
    assert_eq!(words, ["no-mapping", "no-session"]);
}

#[test]
fn an_idle_gateway_asks_for_nothing() {
    let (mut network, ..) = connected(config());
    let ticks = network.ticks;
    network.run_for(24 * HOUR);
    assert!(network.ticks - ticks < 1000, "{} ticks in a day", network.ticks - ticks);
    assert_eq!(network.next_deadline(), None, "nothing is left to end");
}

#[test]
fn the_same_seed_gives_the_same_packets_and_another_does_not() {
    let [first, again, other] = [3, 3, 4].map(|seed| outgoing_transfer(Faults::BAD, seed).log);
    assert!(first.len() > 300, "{} packets", first.len());
    assert!(first == again);
    assert!(first != other);
}

#[test]
fn commands_between_packets_are_part_of_a_run() {
    let mut network = Network::new(config(), Faults::NONE, 11);
    network.publish(Protocol::Udp, Endpoint::new(X, 8053), Endpoint::new(B, 53));
    let server = network.host(Node::B).udp_bind(53).unwrap();
    let client = network.host(Node::Server).udp_bind(0).unwrap();
    let ask = |network: &mut Network| {
        network.host(Node::Server).udp_send(client, at(X, 8053).into(), b"who?").unwrap();
        network.run_for(Duration::from_secs(5));
        network.host(Node::B).udp_recv(server).is_some()
    };
    assert!(ask(&mut network));
    let outside = Endpoint::new(X, 8053);
    assert_eq!(network.apply(Command::Unpublish { protocol: Protocol::Udp, outside }), Reply::Done);
    assert!(!ask(&mut network));
}
