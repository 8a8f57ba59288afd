//! A host in memory: an Ethernet interface, ARP or neighbour discovery, IPv4 or IPv6, TCP, UDP and
//! ICMP echo replies from smoltcp, in virtual time.
//!
//! Frames go in through [`Host::receive`] and come out of [`Host::transmit`]; in between, time is
//! what [`Host::poll`] says it is. So a whole network of hosts and a gateway runs in one thread,
//! the same way every time.

use crate::flow::Time;
use ipnet::IpNet;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, IpListenEndpoint};
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// Frames that may wait in each direction; more are lost, as on a wire.
const QUEUE: usize = 1024;
/// Bytes of each socket's buffers.
const BUFFER: usize = 64 * 1024;
/// Datagrams that may wait in each direction of a UDP socket.
const DATAGRAMS: usize = 64;

/// Which socket of a host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Socket(SocketHandle);

/// A host.
pub struct Host {
    interface: Interface,
    sockets: SocketSet<'static>,
    port: Port,
    mac: [u8; 6],
    next_port: u16,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host")
            .field("mac", &self.mac)
            .field("addresses", &self.interface.ip_addrs())
            .finish_non_exhaustive()
    }
}

impl Host {
    /// A host with this MAC address, address and, if it has one, default gateway. The seed decides
    /// its sequence numbers; the MTU is of its IP packets.
    pub fn new(mac: [u8; 6], address: IpNet, gateway: Option<IpAddr>, mtu: usize, seed: u64) -> Host {
        let mut port = Port { incoming: VecDeque::new(), outgoing: VecDeque::new(), mtu };
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut port, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            let cidr = IpCidr::new(address.addr().into(), address.prefix_len());
            addresses.push(cidr).expect("an interface has room for one address");
        });
        if let Some(gateway) = gateway {
            let routes = interface.routes_mut();
            let added = match gateway {
                IpAddr::V4(gateway) => routes.add_default_ipv4_route(gateway),
                IpAddr::V6(gateway) => routes.add_default_ipv6_route(gateway),
            };
            added.expect("a new routing table has room for one route");
        }
        Host { interface, sockets: SocketSet::new(Vec::new()), port, mac, next_port: 49152 }
    }

    /// Its MAC address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// A frame arrives.
    pub fn receive(&mut self, frame: Vec<u8>) {
        if self.port.incoming.len() < QUEUE {
            self.port.incoming.push_back(frame);
        }
    }

    /// The next frame it sends.
    pub fn transmit(&mut self) -> Option<Vec<u8>> {
        self.port.outgoing.pop_front()
    }

    /// Works on what arrived and on what is due at `now`.
    pub fn poll(&mut self, now: Time) {
        self.interface.poll(instant(now), &mut self.port, &mut self.sockets);
    }

    /// When it wants to be polled next if nothing arrives: in so many microseconds.
    pub fn poll_delay(&mut self, now: Time) -> Option<u64> {
        self.interface.poll_delay(instant(now), &self.sockets).map(|delay| delay.total_micros())
    }

    /// Opens a TCP connection from a port of its choice.
    ///
    /// # Errors
    /// If the host has no route or source address for it.
    pub fn connect(&mut self, server: SocketAddr) -> io::Result<Socket> {
        let local = self.choose_port();
        let mut socket = tcp_socket();
        socket
            .connect(self.interface.context(), server, IpListenEndpoint::from(local))
            .map_err(|error| io::Error::new(io::ErrorKind::AddrNotAvailable, error.to_string()))?;
        Ok(Socket(self.sockets.add(socket)))
    }

    /// Waits for one TCP connection at `port`.
    ///
    /// # Errors
    /// `InvalidInput` for port 0.
    pub fn listen(&mut self, port: u16) -> io::Result<Socket> {
        let mut socket = tcp_socket();
        socket
            .listen(port)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))?;
        Ok(Socket(self.sockets.add(socket)))
    }

    /// The state of a TCP socket.
    pub fn tcp_state(&self, socket: Socket) -> tcp::State {
        self.sockets.get::<tcp::Socket<'_>>(socket.0).state()
    }

    /// Queues bytes on a TCP connection; says how many there was room for.
    ///
    /// # Errors
    /// `NotConnected` before the connection is established or after it was closed.
    pub fn tcp_send(&mut self, socket: Socket, bytes: &[u8]) -> io::Result<usize> {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(socket.0);
        socket
            .send_slice(bytes)
            .map_err(|error| io::Error::new(io::ErrorKind::NotConnected, error.to_string()))
    }

    /// Takes what has arrived on a TCP connection.
    pub fn tcp_recv(&mut self, socket: Socket) -> Vec<u8> {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(socket.0);
        let mut bytes = vec![0; socket.recv_queue()];
        let length = socket.recv_slice(&mut bytes).unwrap_or(0);
        bytes.truncate(length);
        bytes
    }

    /// Says that no more will be sent on a TCP connection.
    pub fn tcp_close(&mut self, socket: Socket) {
        self.sockets.get_mut::<tcp::Socket<'_>>(socket.0).close();
    }

    /// Opens a UDP socket at `port`, or at one of its choice for 0.
    ///
    /// # Errors
    /// `AddrInUse` if the port is taken.
    pub fn udp_bind(&mut self, port: u16) -> io::Result<Socket> {
        let port = if port == 0 { self.choose_port() } else { port };
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; DATAGRAMS], vec![0; BUFFER]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).map_err(|error| io::Error::new(io::ErrorKind::AddrInUse, error.to_string()))?;
        Ok(Socket(self.sockets.add(socket)))
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// `WouldBlock` if too many wait already.
    pub fn udp_send(&mut self, socket: Socket, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(socket.0);
        socket
            .send_slice(bytes, to)
            .map_err(|error| io::Error::new(io::ErrorKind::WouldBlock, error.to_string()))
    }

    /// The next datagram that arrived, and who sent it.
    pub fn udp_recv(&mut self, socket: Socket) -> Option<(SocketAddr, Vec<u8>)> {
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(socket.0);
        let (bytes, metadata) = socket.recv().ok()?;
        let from = SocketAddr::new(metadata.endpoint.addr.into(), metadata.endpoint.port);
        Some((from, bytes.to_vec()))
    }

    /// Forgets a socket.
    pub fn close(&mut self, socket: Socket) {
        self.sockets.remove(socket.0);
    }

    fn choose_port(&mut self) -> u16 {
        let port = self.next_port;
        self.next_port = self.next_port.checked_add(1).unwrap_or(49152);
        port
    }
}

fn tcp_socket() -> tcp::Socket<'static> {
    tcp::Socket::new(tcp::SocketBuffer::new(vec![0; BUFFER]), tcp::SocketBuffer::new(vec![0; BUFFER]))
}

fn instant(now: Time) -> Instant {
    Instant::from_micros(i64::try_from(now.as_nanos() / 1000).unwrap_or(i64::MAX))
}

/// The host's end of a wire.
struct Port {
    incoming: VecDeque<Vec<u8>>,
    outgoing: VecDeque<Vec<u8>>,
    mtu: usize,
}

/// A frame that arrived.
struct Arrived(Vec<u8>);

/// Room for a frame to send.
struct Room<'a>(&'a mut VecDeque<Vec<u8>>);

impl Device for Port {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Arrived, Room<'_>)> {
        self.incoming.pop_front().map(|frame| (Arrived(frame), Room(&mut self.outgoing)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Room<'_>> {
        (self.outgoing.len() < QUEUE).then_some(Room(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + 14;
        capabilities
    }
}

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, work: F) -> R {
        work(&self.0)
    }
}

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, work: F) -> R {
        let mut frame = vec![0; length];
        let result = work(&mut frame);
        self.0.push_back(frame);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two hosts on one wire, a millisecond at a time.
    fn run(a: &mut Host, b: &mut Host, from: u64, milliseconds: u64) {
        for millisecond in from..from + milliseconds {
            let now = Time::from_nanos(millisecond * 1_000_000);
            a.poll(now);
            b.poll(now);
            while let Some(frame) = a.transmit() {
                b.receive(frame);
            }
            while let Some(frame) = b.transmit() {
                a.receive(frame);
            }
        }
    }

    fn pair() -> (Host, Host) {
        let host = |last| {
            Host::new([2, 0, 0, 0, 0, last], format!("10.0.0.{last}/24").parse().unwrap(), None, 1500, 1)
        };
        (host(1), host(2))
    }

    #[test]
    fn tcp_from_one_to_the_other() {
        let (mut a, mut b) = pair();
        let server = b.listen(80).unwrap();
        let client = a.connect("10.0.0.2:80".parse().unwrap()).unwrap();
        run(&mut a, &mut b, 0, 20);
        assert_eq!(a.tcp_state(client), tcp::State::Established);
        assert_eq!(a.tcp_send(client, b"hello").unwrap(), 5);
        run(&mut a, &mut b, 20, 20);
        assert_eq!(b.tcp_recv(server), b"hello");
    }

    #[test]
    fn udp_there_and_back() {
        let (mut a, mut b) = pair();
        let server = b.udp_bind(53).unwrap();
        let client = a.udp_bind(0).unwrap();
        a.udp_send(client, "10.0.0.2:53".parse().unwrap(), b"who").unwrap();
        run(&mut a, &mut b, 0, 10);
        let (from, question) = b.udp_recv(server).unwrap();
        assert_eq!((from, question.as_slice()), ("10.0.0.1:49152".parse().unwrap(), b"who".as_slice()));
    }
}
