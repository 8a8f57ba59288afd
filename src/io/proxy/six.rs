//! Answers neighbour solicitations outside for external addresses that the host does not have
//! (RFC 4861 §7.2).
//!
//! Questions go to a group made of the address asked for, which the host is a member of for its own
//! addresses only: cards and switches keep those of others away. So a socket joins the groups, by
//! which the kernel listens to them and tells switches so (MLD, RFC 3810).

use crate::io::sys::packet::{self, LinkAddress};
use rustix::net::{RecvFlags, SendFlags, recv, sendto};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet,
    Ipv6Repr, NdiscNeighborFlags, NdiscRepr,
};
use socket2::{Domain, SockFilter, Socket, Type};
use std::io;
use std::net::Ipv6Addr;

/// Hop limit of messages that have passed no router; no other is believed.
const HOP_LIMIT: u8 = 255;
/// All hosts of the link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// The longest solicitation that is read, in bytes: headers, and options that nobody needs.
const LONGEST: usize = 256;

/// A responder on one interface.
#[derive(Debug)]
pub struct NdpProxy {
    socket: Socket,
    /// Holds the memberships of the addresses' groups.
    _member: Socket,
    interface: LinkAddress,
    mac: EthernetAddress,
    addresses: Vec<Ipv6Addr>,
}

impl NdpProxy {
    /// Listens on the interface numbered `interface` with this MAC, for questions about `addresses`,
    /// and tells its neighbours of them.
    ///
    /// # Errors
    /// The kernel's word: packet sockets need CAP_NET_RAW, and a socket has a limit of groups.
    pub fn open(interface: u32, mac: [u8; 6], addresses: &[Ipv6Addr]) -> io::Result<NdpProxy> {
        let member = Socket::new(Domain::IPV6, Type::DGRAM.cloexec(), None)?;
        let mut groups: Vec<_> = addresses.iter().map(|address| solicited_node(*address)).collect();
        groups.sort_unstable();
        groups.dedup();
        for group in groups {
            member.join_multicast_v6(&group, interface)?;
        }
        let socket = Socket::new(Domain::PACKET, Type::RAW.cloexec(), None)?;
        packet::ignore_outgoing(&socket)?;
        socket.attach_filter(&solicitations())?;
        let interface = LinkAddress::new(interface, libc::ETH_P_IPV6 as u16);
        rustix::net::bind(&socket, &interface)?;
        let mac = EthernetAddress(mac);
        let proxy = NdpProxy { socket, _member: member, interface, mac, addresses: addresses.to_vec() };
        for address in addresses {
            // RFC 4861 §7.2.6: who has an old MAC in mind gives it up.
            proxy.send(&proxy.advertisement(*address, NdiscNeighborFlags::OVERRIDE, everybody()))?;
        }
        Ok(proxy)
    }

    /// Waits for questions and answers them until the interface is gone.
    ///
    /// # Errors
    /// Why it cannot go on.
    pub fn serve(&self) -> io::Result<()> {
        let mut bytes = [0; LONGEST];
        loop {
            match recv(&self.socket, &mut bytes[..], RecvFlags::TRUNC) {
                Ok((_, length)) => {
                    if let Some(answer) = bytes.get(..length).and_then(|frame| self.answer(frame)) {
                        // A full queue loses the answer; who asks will ask again.
                        let _ = self.send(&answer);
                    }
                }
                // The interface went down; it is heard again when it comes up.
                Err(rustix::io::Errno::NETDOWN | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        sendto(&self.socket, frame, SendFlags::empty(), &self.interface)?;
        Ok(())
    }

    /// The answer to this frame, if it asks for one of the addresses. Who has no address yet and looks
    /// whether this one is free (RFC 4862 §5.4) is answered too, with everybody: it is in use.
    fn answer(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let frame = EthernetFrame::new_checked(frame).ok()?;
        let ip = Ipv6Packet::new_checked(frame.payload()).ok()?;
        let (source, destination) = (ip.src_addr(), ip.dst_addr());
        if ip.hop_limit() != HOP_LIMIT || ip.next_header() != IpProtocol::Icmpv6 || source.is_multicast() {
            return None;
        }
        let message = Icmpv6Packet::new_checked(ip.payload()).ok()?;
        if message.msg_code() != 0 || !message.verify_checksum(&source, &destination) {
            return None;
        }
        let NdiscRepr::NeighborSolicit { target_addr, .. } = NdiscRepr::parse(&message).ok()? else {
            return None;
        };
        if !self.addresses.contains(&target_addr) || source == target_addr {
            return None;
        }
        let solicited = NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE;
        Some(match source.is_unspecified() {
            true => self.advertisement(target_addr, NdiscNeighborFlags::OVERRIDE, everybody()),
            false => self.advertisement(target_addr, solicited, (frame.src_addr(), source)),
        })
    }

    /// A frame that says that our address `ip` is here.
    fn advertisement(
        &self,
        ip: Ipv6Addr,
        flags: NdiscNeighborFlags,
        to: (EthernetAddress, Ipv6Addr),
    ) -> Vec<u8> {
        let message = NdiscRepr::NeighborAdvert { flags, target_addr: ip, lladdr: Some(self.mac.into()) };
        let message = Icmpv6Repr::Ndisc(message);
        let header = Ipv6Repr {
            src_addr: ip,
            dst_addr: to.1,
            next_header: IpProtocol::Icmpv6,
            payload_len: message.buffer_len(),
            hop_limit: HOP_LIMIT,
        };
        let mut bytes = vec![0; 14 + header.buffer_len() + message.buffer_len()];
        let mut frame = EthernetFrame::new_unchecked(&mut bytes);
        frame.set_dst_addr(to.0);
        frame.set_src_addr(self.mac);
        frame.set_ethertype(EthernetProtocol::Ipv6);
        let mut packet = Ipv6Packet::new_unchecked(frame.payload_mut());
        header.emit(&mut packet);
        let mut inner = Icmpv6Packet::new_unchecked(packet.payload_mut());
        message.emit(&ip, &to.1, &mut inner, &ChecksumCapabilities::default());
        bytes
    }
}

/// The group of those who might have `ip` (RFC 4291 §2.7.1).
fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = ip.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, u16::from_be_bytes([0xff, a]), u16::from_be_bytes([b, c]))
}

fn everybody() -> (EthernetAddress, Ipv6Addr) {
    (EthernetAddress([0x33, 0x33, 0, 0, 0, 1]), ALL_NODES)
}

/// A filter that takes neighbour solicitations without extension headers (RFC 6980): the socket sees
/// every IPv6 frame of the interface, and the rest is not worth waking for.
fn solicitations() -> [SockFilter; 6] {
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let (next_header, kind) = (14 + 6, 14 + 40);
    [
        SockFilter::new(LOAD_BYTE, 0, 0, next_header),
        SockFilter::new(JUMP_EQUAL, 0, 3, 58),
        SockFilter::new(LOAD_BYTE, 0, 0, kind),
        SockFilter::new(JUMP_EQUAL, 0, 1, 135),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x12, 0x3456);
    const ASKER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);
    const ASKER_MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 9]);

    fn proxy() -> NdpProxy {
        NdpProxy {
            socket: Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap(),
            _member: Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap(),
            interface: LinkAddress::new(1, 0),
            mac: EthernetAddress([2, 0, 0, 0, 0, 1]),
            addresses: vec![OURS],
        }
    }

    fn question(source: Ipv6Addr, target: Ipv6Addr, hop_limit: u8) -> Vec<u8> {
        let message = NdiscRepr::NeighborSolicit { target_addr: target, lladdr: Some(ASKER_MAC.into()) };
        let message = Icmpv6Repr::Ndisc(message);
        let group = solicited_node(target);
        let header = Ipv6Repr {
            src_addr: source,
            dst_addr: group,
            next_header: IpProtocol::Icmpv6,
            payload_len: message.buffer_len(),
            hop_limit,
        };
        let mut bytes = vec![0; 54 + message.buffer_len()];
        bytes[..14].copy_from_slice(&[0x33, 0x33, 0xff, 0x12, 0x34, 0x56, 2, 0, 0, 0, 0, 9, 0x86, 0xdd]);
        header.emit(&mut Ipv6Packet::new_unchecked(&mut bytes[14..]));
        let mut inner = Icmpv6Packet::new_unchecked(&mut bytes[54..]);
        message.emit(&source, &group, &mut inner, &ChecksumCapabilities::default());
        bytes
    }

    /// Destination MAC and address, and what the advertisement says.
    fn told(frame: &[u8]) -> (EthernetAddress, Ipv6Addr, NdiscNeighborFlags, Ipv6Addr) {
        let frame = EthernetFrame::new_checked(frame).unwrap();
        let ip = Ipv6Packet::new_checked(frame.payload()).unwrap();
        assert_eq!((ip.hop_limit(), ip.src_addr()), (255, OURS));
        let message = Icmpv6Packet::new_checked(ip.payload()).unwrap();
        assert!(message.verify_checksum(&ip.src_addr(), &ip.dst_addr()));
        let NdiscRepr::NeighborAdvert { flags, target_addr, lladdr } = NdiscRepr::parse(&message).unwrap()
        else {
            panic!("no advertisement")
        };
        assert_eq!(lladdr.unwrap().as_bytes(), [2, 0, 0, 0, 0, 1]);
        (frame.dst_addr(), ip.dst_addr(), flags, target_addr)
    }

    #[test]
    fn questions_about_our_addresses_are_answered_and_no_others() {
        let proxy = proxy();
        let answer = proxy.answer(&question(ASKER, OURS, 255)).unwrap();
        let flags = NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE;
        assert_eq!(told(&answer), (ASKER_MAC, ASKER, flags, OURS));
        let probe = proxy.answer(&question(Ipv6Addr::UNSPECIFIED, OURS, 255)).unwrap();
        assert_eq!(told(&probe), (everybody().0, ALL_NODES, NdiscNeighborFlags::OVERRIDE, OURS));
        assert_eq!(proxy.answer(&question(ASKER, ASKER, 255)), None);
        assert_eq!(proxy.answer(&question(OURS, OURS, 255)), None);
        assert_eq!(proxy.answer(&question(ASKER, OURS, 254)), None, "it has passed a router");
    }

    #[test]
    fn broken_questions_are_not_answered() {
        let (proxy, good) = (proxy(), question(ASKER, OURS, 255));
        for length in 0..good.len() {
            assert_eq!(proxy.answer(&good[..length]), None, "{length} bytes");
        }
        for at in 14..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x41;
            // Traffic class and flow label are nobody's proof of anything.
            assert!(proxy.answer(&bad).is_none() || at < 18, "byte {at}");
        }
    }
}
