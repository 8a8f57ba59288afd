//! Published ports of the whole uplink, over sockets of this host's loopback.

use std::net::{IpAddr, SocketAddr, TcpStream};
use tapnat::flow::{Endpoint, Protocol, Time};
use tapnat::io::Link;
use tapnat::io::uplink::sockets::{Config, Sockets};
use tapnat::wire::Buffer;

#[test]
fn many_that_wait_in_a_listening_socket_come_without_a_pause() {
    let outside: IpAddr = "192.0.2.2".parse().unwrap();
    let mut link = Sockets::open(Config {
        external: vec![outside],
        anywhere: vec![outside],
        bound: Vec::new(),
        gateways: vec!["10.88.0.1".parse().unwrap()],
        aliases: Vec::new(),
        shared: Vec::new(),
        inside_mtu: 1500,
        descriptors: 4096,
        beside: false,
    })
    .unwrap();
    link.tick(Time::from_secs(10));
    let free = |port: &u16| link.publish(Protocol::Tcp, Endpoint::new(outside, *port), true).is_ok();
    let port = (20_000..30_000u16).find(free).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let clients: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(address).unwrap()).collect();
    let (mut buffer, mut came) = (Buffer::new(), 0);
    // No time passes.
    for _ in 0..100 {
        while link.recv(&mut buffer).is_ok() {
            came += 1;
        }
    }
    assert_eq!(came, clients.len());
    assert!(!link.pending());
}
