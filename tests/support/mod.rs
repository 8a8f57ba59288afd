//! What several test programs share: a gateway on a bench, with wires that remember.
#![allow(dead_code, clippy::unwrap_used, missing_docs, reason = "each test program uses a part")]

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use tapnat::flow::{LinkId, LinkInfo, Time};
use tapnat::gateway::{Fate, Gateway, GatewayConfig, HOST, INSIDE, OUTSIDE, Outbox, Subnet};
use tapnat::nat::NatConfig;
use tapnat::wire::ethernet::{ARP, IPV4};
use tapnat::wire::{Buffer, Frame, MacAddr, Offload, checksum};

pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
pub const X: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub const S1: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
pub const S2: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 8);
pub const R9: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
pub const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub const MAC_A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
pub const MAC_B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);

pub fn at(ip: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(ip, port)
}

/// A gateway with two inside hosts, and everything it has sent.
pub struct Rig {
    pub gateway: Gateway,
    pub now: Time,
    /// Frames for the inside, packets for the uplink and for the host, in order.
    pub sent: Vec<(LinkId, Vec<u8>)>,
}

pub fn config() -> GatewayConfig {
    let nat = NatConfig::new(vec![IpAddr::V4(X)]);
    let subnets = vec![Subnet { gateway: GATEWAY.into(), prefix: 24, only: None }];
    GatewayConfig::new(subnets, MAC, LinkInfo::offloading(1500, 14), LinkInfo::offloading(1500, 0), nat)
}

impl Rig {
    pub fn new() -> Self {
        Self::with(config())
    }

    pub fn with(config: GatewayConfig) -> Self {
        let mut rig =
            Rig { gateway: Gateway::new(config, [7; 32]), now: Time::from_secs(1), sent: Vec::new() };
        for (ip, mac) in [(A, MAC_A), (B, MAC_B)] {
            rig.frame(&arp(1, mac, ip, MacAddr([0; 6]), GATEWAY));
        }
        rig.sent.clear();
        rig
    }

    /// Receives a frame from the inside.
    pub fn frame(&mut self, frame: &[u8]) -> Fate {
        self.receive(INSIDE, frame, Offload::default())
    }

    /// Receives an IP packet from `host` inside.
    pub fn from(&mut self, host: MacAddr, packet: &[u8]) -> Fate {
        let header = Frame { destination: MAC, source: host, ethertype: IPV4 }.to_bytes();
        self.frame(&[&header[..], packet].concat())
    }

    /// Receives an IP packet from the uplink.
    pub fn outside(&mut self, packet: &[u8]) -> Fate {
        self.receive(OUTSIDE, packet, Offload::default())
    }

    /// Receives an IP packet from the host itself.
    pub fn host(&mut self, packet: &[u8]) -> Fate {
        self.receive(HOST, packet, Offload::default())
    }

    pub fn receive(&mut self, link: LinkId, bytes: &[u8], offload: Offload) -> Fate {
        let mut buffer = Buffer::new();
        buffer.fill(bytes);
        buffer.offload = offload;
        let mut out = Outbox::default();
        let fate = self.gateway.receive(link, &mut buffer, self.now, &mut out, &mut ());
        if let Fate::Pass(to) = fate {
            self.sent.push((to, buffer.bytes().to_vec()));
        }
        self.sent.extend(out.packets.into_iter().map(|(to, packet)| (to, packet.bytes().to_vec())));
        fate
    }

    pub fn wait(&mut self, millis: u64) {
        self.now = self.now + std::time::Duration::from_millis(millis);
        let mut out = Outbox::default();
        self.gateway.tick(self.now, &mut out, &mut ());
        self.sent.extend(out.packets.into_iter().map(|(to, packet)| (to, packet.bytes().to_vec())));
    }

    /// What was sent outside since the last call, as IP packets.
    pub fn sent_outside(&mut self) -> Vec<Vec<u8>> {
        self.take(OUTSIDE)
    }

    /// What was sent to the host since the last call, as IP packets.
    pub fn sent_to_host(&mut self) -> Vec<Vec<u8>> {
        self.take(HOST)
    }

    /// IP packets sent inside since the last call, with the MAC they were sent to.
    pub fn sent_inside(&mut self) -> Vec<(MacAddr, Vec<u8>)> {
        let frames = self.take(INSIDE).into_iter();
        let parsed = frames.map(|frame| (Frame::parse(&frame).unwrap(), frame));
        parsed
            .filter(|(header, _)| header.ethertype == IPV4)
            .map(|(header, frame)| (header.destination, frame[14..].to_vec()))
            .collect()
    }

    pub fn take(&mut self, link: LinkId) -> Vec<Vec<u8>> {
        let mut taken = Vec::new();
        self.sent.retain(|(to, bytes)| {
            if *to == link {
                taken.push(bytes.clone());
            }
            *to != link
        });
        taken
    }
}

/// An ARP frame: operation 1 asks, 2 answers.
pub fn arp(operation: u8, mac: MacAddr, ip: Ipv4Addr, target: MacAddr, target_ip: Ipv4Addr) -> Vec<u8> {
    let destination = if operation == 1 { MacAddr::BROADCAST } else { target };
    let mut frame = Frame { destination, source: mac, ethertype: ARP }.to_bytes().to_vec();
    frame.extend([0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(mac.0);
    frame.extend(ip.octets());
    frame.extend(target.0);
    frame.extend(target_ip.octets());
    frame
}

pub fn source(packet: &[u8]) -> Ipv4Addr {
    Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15])
}

pub fn destination(packet: &[u8]) -> Ipv4Addr {
    Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19])
}

/// A 16-bit field of a packet without IP options, by its offset.
pub fn word(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

pub fn source_port(packet: &[u8]) -> u16 {
    word(packet, 20)
}

pub fn destination_port(packet: &[u8]) -> u16 {
    word(packet, 22)
}

/// Whether the IP header's checksum and, where there is one, the transport's are right.
pub fn sums_are_right(packet: &[u8]) -> bool {
    let header = usize::from(packet[0] & 15) * 4;
    let fragment = word(packet, 6) & 0x3fff != 0;
    checksum::sum(&packet[..header]) == 0xffff
        && (fragment || checksum::transport_is_right(packet) != Some(false))
}
