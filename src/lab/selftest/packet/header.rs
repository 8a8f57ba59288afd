//! IP headers of both families, written and read.

use super::{Packet, checksum, long, word};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv6 extension header: its number, and its bytes after next header and length, filled up to a
/// multiple of 8 with those two.
pub type Extension = (u8, Vec<u8>);

/// The extension header of a fragment (RFC 8200 section 4.5).
const FRAGMENT: u8 = 44;

impl Packet {
    /// The packet's bytes, header checksum and lengths filled in.
    pub fn bytes(&self) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V6(source), IpAddr::V6(destination)) => self.bytes_six(source, destination),
            (IpAddr::V4(source), IpAddr::V4(destination)) => self.bytes_four(source, destination),
            (source, destination) => panic!("{source} and {destination} are not of one family"),
        }
    }

    fn bytes_four(&self, source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
        let header = 20 + self.options.len();
        let mut bytes = Vec::with_capacity(header + self.payload.len());
        bytes.extend_from_slice(&[0x40 | (header / 4) as u8, self.tos]);
        bytes.extend_from_slice(&((header + self.payload.len()) as u16).to_be_bytes());
        bytes.extend_from_slice(&(self.id as u16).to_be_bytes());
        let flags = u16::from(self.df) << 14 | u16::from(self.mf) << 13 | (self.offset / 8);
        bytes.extend_from_slice(&flags.to_be_bytes());
        bytes.extend_from_slice(&[self.ttl, self.protocol, 0, 0]);
        bytes.extend_from_slice(&source.octets());
        bytes.extend_from_slice(&destination.octets());
        bytes.extend_from_slice(&self.options);
        let sum = checksum(&[&bytes]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    fn bytes_six(&self, source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
        let fragment = self.is_fragment().then(|| {
            let place = (self.offset & !7) | u16::from(self.mf);
            (FRAGMENT, [place.to_be_bytes().as_slice(), &self.id.to_be_bytes()].concat())
        });
        let chain: Vec<&Extension> = self.extensions.iter().chain(&fragment).collect();
        let number = |at: usize| chain.get(at).map_or(self.protocol, |(number, _)| *number);
        let mut rest = Vec::with_capacity(self.payload.len() + 16 * chain.len());
        for (at, (own, body)) in chain.iter().enumerate() {
            // The fragment header has no length: the byte is reserved.
            let length = if *own == FRAGMENT { 0 } else { ((body.len() + 2) / 8).saturating_sub(1) as u8 };
            rest.extend_from_slice(&[number(at + 1), length]);
            rest.extend_from_slice(body);
        }
        rest.extend_from_slice(&self.payload);
        let mut bytes = Vec::with_capacity(40 + rest.len());
        let first = 6 << 28 | u32::from(self.tos) << 20 | (self.flow & 0xf_ffff);
        bytes.extend_from_slice(&first.to_be_bytes());
        bytes.extend_from_slice(&(rest.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&[number(0), self.ttl]);
        bytes.extend_from_slice(&source.octets());
        bytes.extend_from_slice(&destination.octets());
        bytes.extend_from_slice(&rest);
        bytes
    }

    /// Reads a packet; `None` if it is none. Its payload may be cut short, as a quote's is.
    pub fn read(bytes: &[u8]) -> Option<Packet> {
        match bytes.first()? >> 4 {
            4 => read_four(bytes),
            6 => read_six(bytes),
            _ => None,
        }
    }
}

fn read_four(bytes: &[u8]) -> Option<Packet> {
    let header = usize::from(bytes.first()? & 15) * 4;
    let total = usize::from(word(bytes, 2));
    if bytes.len() < 20 || header < 20 || bytes.len() < header || total < header {
        return None;
    }
    let address = |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
    Some(Packet {
        tos: bytes[1],
        flow: 0,
        id: word(bytes, 4).into(),
        df: bytes[6] & 0x40 != 0,
        mf: bytes[6] & 0x20 != 0,
        offset: (word(bytes, 6) & 0x1fff) * 8,
        ttl: bytes[8],
        protocol: bytes[9],
        source: address(12).into(),
        destination: address(16).into(),
        options: bytes[20..header].to_vec(),
        extensions: Vec::new(),
        payload: bytes[header..bytes.len().min(total)].to_vec(),
    })
}

fn read_six(bytes: &[u8]) -> Option<Packet> {
    let address = |at: usize| {
        let octets: Option<[u8; 16]> = bytes.get(at..at + 16)?.try_into().ok();
        octets.map(Ipv6Addr::from)
    };
    let (source, destination) = (address(8)?.into(), address(24)?.into());
    let first = long(bytes, 0);
    let end = bytes.len().min(40 + usize::from(word(bytes, 4)));
    let mut packet = Packet {
        tos: (first >> 20) as u8,
        flow: first & 0xf_ffff,
        id: 0,
        df: false,
        mf: false,
        offset: 0,
        ttl: bytes[7],
        protocol: bytes[6],
        source,
        destination,
        options: Vec::new(),
        extensions: Vec::new(),
        payload: Vec::new(),
    };
    let mut at = 40;
    while packet.offset == 0 && matches!(packet.protocol, 0 | 43 | 60 | FRAGMENT) {
        let head = bytes.get(at..at + 8)?;
        let place = word(head, 2);
        let number = packet.protocol;
        packet.protocol = head[0];
        // One that is of no fragment is kept as any other.
        if number == FRAGMENT && place & 0xfff9 != 0 {
            (packet.offset, packet.mf, packet.id) = (place & !7, place & 1 != 0, long(head, 4));
            at += 8;
            continue;
        }
        let length = if number == FRAGMENT { 8 } else { 8 + 8 * usize::from(head[1]) };
        packet.extensions.push((number, bytes.get(at + 2..(at + length).min(end))?.to_vec()));
        at += length;
    }
    packet.payload = bytes.get(at..end)?.to_vec();
    Some(packet)
}
