//! Protocols without ports (SCTP, GRE, ESP and so on): which of them we translate.
//!
//! Their answers are let in, and the host kept silent about them, from the first packet on that leaves
//! with an address of ours. Before that they are the host's own affair, and none of its packets
//! wakes us. The first that have left keep their places until their address is given up.

use crate::io::guard::PROTOCOLS;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Numbers that name no such protocol: hop-by-hop options, ICMP, TCP, UDP, routing and fragment
/// headers, ICMPv6, no next header, destination options, and the one the kernel reserves.
const OTHERS: [u8; 10] = [0, 1, 6, 17, 43, 44, 58, 59, 60, 255];

/// Protocols without ports that have left, by the address they left with.
#[derive(Debug, Default)]
pub struct Portless {
    seen: BTreeSet<(u8, IpAddr)>,
    /// Packets that left although their protocol found no place: nothing comes back to them.
    pub unanswered: u64,
}

impl Portless {
    /// The protocol and source of an IP packet that leaves, if it is the first of them.
    #[inline]
    pub fn first(&mut self, packet: &[u8], external: &[IpAddr]) -> Option<(u8, IpAddr)> {
        let protocol = match packet.first()? >> 4 {
            4 => *packet.get(9)?,
            _ => *packet.get(6)?,
        };
        if matches!(protocol, 1 | 6 | 17 | 58) { None } else { self.note(protocol, packet, external) }
    }

    #[cold]
    fn note(&mut self, protocol: u8, packet: &[u8], external: &[IpAddr]) -> Option<(u8, IpAddr)> {
        let source = source(packet).filter(|source| external.contains(source))?;
        if OTHERS.contains(&protocol) || self.seen.contains(&(protocol, source)) {
            return None;
        }
        let protocols = self.protocols();
        if !protocols.contains(&protocol) && protocols.len() >= PROTOCOLS {
            self.unanswered += 1;
            return None;
        }
        self.seen.insert((protocol, source));
        Some((protocol, source))
    }

    /// The numbers of the protocols, `PROTOCOLS` at most.
    pub fn protocols(&self) -> Vec<u8> {
        let mut protocols: Vec<u8> = self.seen.iter().map(|(protocol, _)| *protocol).collect();
        protocols.dedup();
        protocols
    }

    /// Forgets what left with other addresses than these, and tells what.
    pub fn keep(&mut self, external: &[IpAddr]) -> Vec<(u8, IpAddr)> {
        self.seen.extract_if(.., |(_, address)| !external.contains(address)).collect()
    }
}

fn source(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => <[u8; 4]>::try_from(packet.get(12..16)?).ok().map(|bytes| Ipv4Addr::from(bytes).into()),
        6 => <[u8; 16]>::try_from(packet.get(8..24)?).ok().map(|bytes| Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const OURS_SIX: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

    fn packet(protocol: u8, source: IpAddr) -> Vec<u8> {
        let mut bytes = vec![0; 60];
        match source {
            IpAddr::V4(source) => {
                bytes[0] = 0x45;
                bytes[9] = protocol;
                bytes[12..16].copy_from_slice(&source.octets());
            }
            IpAddr::V6(source) => {
                bytes[0] = 0x60;
                bytes[6] = protocol;
                bytes[8..24].copy_from_slice(&source.octets());
            }
        }
        bytes
    }

    #[test]
    fn a_protocol_is_new_once_for_each_address_of_ours() {
        let mut portless = Portless::default();
        let external = [OURS, OURS_SIX];
        for source in external {
            let gre = packet(47, source);
            assert_eq!(portless.first(&gre, &external), Some((47, source)));
            assert_eq!(portless.first(&gre, &external), None);
            for with_ports in [1, 6, 17, 58, 0, 44, 60] {
                assert_eq!(portless.first(&packet(with_ports, source), &external), None);
            }
            for length in 0..60 {
                portless.first(&gre[..length], &external);
            }
        }
        assert_eq!(portless.first(&packet(50, Ipv4Addr::new(10, 0, 0, 2).into()), &external), None);
        assert_eq!(portless.protocols(), [47]);
        assert_eq!(portless.keep(&[OURS]), [(47, OURS_SIX)]);
        assert_eq!(portless.protocols(), [47]);
    }

    #[test]
    fn there_is_no_place_for_more_than_sixteen_protocols() {
        let mut portless = Portless::default();
        for number in 100..200 {
            portless.first(&packet(number, OURS), &[OURS]);
        }
        assert_eq!(portless.protocols().len(), PROTOCOLS);
        assert_eq!(portless.unanswered, 100 - PROTOCOLS as u64);
    }
}
