//! An inside end: smoltcp's TCP on a wire of IP packets, and that wire, which loses and reorders.

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpCidr};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use tapnat::flow::Time;
use tapnat::wire::{Buffer, Packet, Segments, checksum};

/// A host with TCP sockets.
pub struct Inside {
    interface: Interface,
    sockets: SocketSet<'static>,
    port: Port,
}

struct Port {
    incoming: VecDeque<Vec<u8>>,
    outgoing: VecDeque<Vec<u8>>,
    mtu: usize,
}

impl Inside {
    pub fn new(address: IpAddr, mtu: usize, seed: u64) -> Inside {
        let mut port = Port { incoming: VecDeque::new(), outgoing: VecDeque::new(), mtu };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut port, Instant::ZERO);
        interface.update_ip_addrs(|all| all.push(IpCidr::new(address.into(), 0)).unwrap());
        Inside { interface, sockets: SocketSet::new(Vec::new()), port }
    }

    pub fn connect(&mut self, to: SocketAddr, from: u16, buffer: usize) -> SocketHandle {
        let mut socket = socket(buffer);
        socket.connect(self.interface.context(), to, from).unwrap();
        self.sockets.add(socket)
    }

    pub fn listen(&mut self, port: u16, buffer: usize) -> SocketHandle {
        let mut socket = socket(buffer);
        socket.listen(port).unwrap();
        self.sockets.add(socket)
    }

    pub fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub fn poll(&mut self, now: Time) {
        self.interface.poll(instant(now), &mut self.port, &mut self.sockets);
    }

    /// When it wants to be polled.
    pub fn due(&mut self, now: Time) -> Option<Time> {
        let delay = self.interface.poll_delay(instant(now), &self.sockets)?;
        Some(now + std::time::Duration::from_micros(delay.total_micros()))
    }

    pub fn receive(&mut self, packet: Vec<u8>) {
        self.port.incoming.push_back(packet);
    }

    pub fn transmit(&mut self) -> Option<Vec<u8>> {
        self.port.outgoing.pop_front()
    }
}

fn socket(buffer: usize) -> tcp::Socket<'static> {
    let mut socket =
        tcp::Socket::new(tcp::SocketBuffer::new(vec![0; buffer]), tcp::SocketBuffer::new(vec![0; buffer]));
    socket.set_nagle_enabled(false);
    socket
}

fn instant(now: Time) -> Instant {
    Instant::from_micros((now.as_nanos() / 1000) as i64)
}

/// The packets that a device would put on the wire for what is in `buffer`: cut, with whole checksums.
pub fn on_the_wire(buffer: &mut Buffer) -> Vec<Vec<u8>> {
    // The gateway would refuse what cannot be read.
    Packet::parse(buffer.bytes(), &buffer.offload).unwrap();
    if buffer.offload.segment.is_none() {
        checksum::complete(buffer, 0);
        return vec![buffer.bytes().to_vec()];
    }
    let mut segments = Segments::new(buffer, 0).unwrap();
    let (mut packets, mut out) = (Vec::new(), Buffer::new());
    while segments.write_next(&mut out) {
        packets.push(out.bytes().to_vec());
    }
    packets
}

struct Arrived(Vec<u8>);
struct Room<'a>(&'a mut VecDeque<Vec<u8>>);

impl Device for Port {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Arrived, Room<'_>)> {
        self.incoming.pop_front().map(|packet| (Arrived(packet), Room(&mut self.outgoing)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Room<'_>> {
        Some(Room(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
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
        let mut packet = vec![0; length];
        let result = work(&mut packet);
        self.0.push_back(packet);
        result
    }
}
