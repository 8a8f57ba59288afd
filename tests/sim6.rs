//! IPv6 hosts with stacks of their own around the gateway, in virtual time: a container and a server,
//! on wires that lose packets.
#![allow(clippy::unwrap_used)]

mod support;
#[path = "support/v6.rs"]
mod v6;

use ipnet::Ipv6Net;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use smoltcp::socket::tcp::State;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use support::{MAC_A, Rig};
use tapnat::flow::{Endpoint, Protocol};
use tapnat::gateway::{Command, GatewayConfig, INSIDE, OUTSIDE, Reply};
use tapnat::lab::host::{Host, Socket};
use tapnat::wire::ethernet::IPV6;
use tapnat::wire::{Frame, MacAddr, checksum};
use v6::*;

/// The router on the server's link.
const ROUTER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 1);
const MAC_ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);
const MAC_SERVER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x51]);
const LENGTH: usize = 100 * 1024;

struct Network {
    rig: Rig,
    container: Host,
    server: Host,
    /// What is on the wires for another millisecond.
    wire: VecDeque<(bool, Vec<u8>)>,
    random: ChaCha8Rng,
    loses: u32,
    lost: usize,
}

impl Network {
    /// `loses` packets of a thousand, on the gateway's wires.
    fn new(config: GatewayConfig, router: Ipv6Addr, loses: u32) -> Self {
        let host = |mac: MacAddr, ip, router: Ipv6Addr, seed| {
            Host::new(mac.0, Ipv6Net::new(ip, 64).unwrap().into(), Some(IpAddr::V6(router)), 1500, seed)
        };
        Network {
            rig: stranger(config),
            container: host(MAC_A, A6, router, 1),
            server: host(MAC_SERVER, S1_6, ROUTER, 2),
            wire: VecDeque::new(),
            random: ChaCha8Rng::seed_from_u64(3),
            loses,
            lost: 0,
        }
    }

    /// A millisecond passes.
    fn step(&mut self) {
        for (inside, bytes) in std::mem::take(&mut self.wire) {
            if inside {
                self.rig.frame(&bytes)
            } else {
                self.rig.outside(&bytes)
            };
        }
        self.rig.wait(1);
        for frame in self.rig.take(INSIDE) {
            self.container.receive(frame);
        }
        for packet in self.rig.take(OUTSIDE) {
            assert_ne!(source6(&packet).segments()[0], 0xfd00, "an inside source outside");
            assert_ne!(checksum::transport_is_right(&packet), Some(false));
            let header = Frame { destination: MAC_SERVER, source: MAC_ROUTER, ethertype: IPV6 };
            self.server.receive([&header.to_bytes()[..], &packet].concat());
        }
        self.container.poll(self.rig.now);
        self.server.poll(self.rig.now);
        while let Some(frame) = self.container.transmit() {
            self.carry(true, frame);
        }
        while let Some(frame) = self.server.transmit() {
            let header = Frame::parse(&frame).unwrap();
            if header.destination == MAC_ROUTER {
                self.carry(false, frame[14..].to_vec());
            } else if frame[54] == 135 && frame[62..78] == ROUTER.octets() {
                let flags = ROUTER_FLAGS;
                let message = neighbor(136, flags, ROUTER, &option(TARGET_MAC, MAC_ROUTER));
                let answer = icmp6(ROUTER, source6(&frame[14..]), 255, &message);
                self.server.receive(framed(MAC_ROUTER, MAC_SERVER, &answer));
            }
        }
    }

    fn carry(&mut self, inside: bool, bytes: Vec<u8>) {
        if self.random.next_u32() % 1000 < self.loses {
            self.lost += 1;
        } else {
            self.wire.push_back((inside, bytes));
        }
    }

    /// Moves [`LENGTH`] bytes both ways at once.
    fn transfer(&mut self, client: Socket, server: Socket, container_opens: bool) {
        let pattern: Vec<u8> =
            (0..LENGTH as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let sockets = if container_opens { [client, server] } else { [server, client] };
        let (mut sent, mut received) = ([0; 2], [Vec::new(), Vec::new()]);
        for _ in 0..600_000 {
            self.step();
            for (end, host) in [&mut self.container, &mut self.server].into_iter().enumerate() {
                received[end].extend(host.tcp_recv(sockets[end]));
                if sent[end] < LENGTH {
                    sent[end] += host.tcp_send(sockets[end], &pattern[sent[end]..]).unwrap_or(0);
                    if sent[end] == LENGTH {
                        host.tcp_close(sockets[end]);
                    }
                }
            }
            let over =
                |host: &Host, socket| matches!(host.tcp_state(socket), State::Closed | State::TimeWait);
            if over(&self.container, sockets[0]) && over(&self.server, sockets[1]) {
                break;
            }
        }
        assert!(received[0] == pattern, "{} bytes came to the container", received[0].len());
        assert!(received[1] == pattern, "{} bytes came to the server", received[1].len());
    }
}

const ROUTER_FLAGS: u8 = v6::ROUTER | SOLICITED | OVERRIDE;

fn at(ip: Ipv6Addr, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

/// The container downloads from and uploads to the server.
fn outgoing(config: GatewayConfig, router: Ipv6Addr, loses: u32) -> Network {
    let mut network = Network::new(config, router, loses);
    let server = network.server.listen(80).unwrap();
    let client = network.container.connect(at(S1_6, 80)).unwrap();
    network.transfer(client, server, true);
    network
}

#[test]
fn tcp_arrives_whole_both_ways_by_the_gateway_s_address_in_the_subnet() {
    let network = outgoing(config(), GATEWAY6, 0);
    assert_eq!(network.rig.gateway.counts().sessions, 1);
}

#[test]
fn tcp_arrives_whole_both_ways_over_bad_wires() {
    let network = outgoing(config(), GATEWAY6, 20);
    assert!(network.lost > 0);
}

#[test]
fn tcp_arrives_whole_both_ways_with_a_translated_prefix() {
    let network = outgoing(translating(), GATEWAY6, 20);
    assert_eq!(network.rig.gateway.counts().sessions, 0);
}

#[test]
fn a_published_port_serves_the_outside() {
    let mut network = Network::new(config(), GATEWAY6, 20);
    let (outside, inside) = (Endpoint::new(X6, 8080), Endpoint::new(A6, 80));
    let publish = Command::Publish { protocol: Protocol::Tcp, outside, inside };
    assert_eq!(network.rig.gateway.apply(publish, network.rig.now, &mut ()), Reply::Done);
    let server = network.container.listen(80).unwrap();
    let client = network.server.connect(at(X6, 8080)).unwrap();
    network.transfer(client, server, false);
}

#[test]
fn a_host_that_has_only_the_router_s_link_local_address_gets_out() {
    let network = outgoing(config(), LINK_LOCAL, 0);
    assert_eq!(network.rig.gateway.counts().sessions, 1);
}
