//! Answers ARP outside for external addresses that the host does not have (RFC 3022 §6.2).
//!
//! An address of the outside network that only the gateway uses has nobody to say where it is: the
//! kernel answers for its own addresses only, and its proxy ARP wants forwarding on. So a packet
//! socket of our own hears the questions and answers them with the interface's MAC. Frames to that
//! MAC then reach the uplink, while the host's stack, whose address it is not, drops its copy.

mod six;

pub use six::NdpProxy;

use crate::io::sys::packet::{self, LinkAddress};
use pnet::packet::arp::{ArpHardwareTypes, ArpOperation, ArpOperations, ArpPacket, MutableArpPacket};
use pnet::packet::ethernet::{EtherTypes, EthernetPacket, MutableEthernetPacket};
use pnet::packet::{MutablePacket, Packet};
use pnet::util::MacAddr;
use rustix::net::{RecvFlags, SendFlags, recv, sendto};
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::Ipv4Addr;

/// An Ethernet header and an ARP packet for IPv4, in bytes.
const FRAME: usize = 14 + 28;

/// A responder on one interface.
#[derive(Debug)]
pub struct ArpProxy {
    socket: Socket,
    interface: LinkAddress,
    mac: MacAddr,
    addresses: Vec<Ipv4Addr>,
}

impl ArpProxy {
    /// Listens on the interface numbered `interface` with this MAC, for questions about `addresses`,
    /// and tells its neighbours of them.
    ///
    /// # Errors
    /// The kernel's word: packet sockets need CAP_NET_RAW.
    pub fn open(interface: u32, mac: [u8; 6], addresses: &[Ipv4Addr]) -> io::Result<ArpProxy> {
        let socket = Socket::new(Domain::PACKET, Type::RAW.cloexec(), None)?;
        packet::ignore_outgoing(&socket)?;
        let interface = LinkAddress::new(interface, libc::ETH_P_ARP as u16);
        rustix::net::bind(&socket, &interface)?;
        let proxy = ArpProxy { socket, interface, mac: mac.into(), addresses: addresses.to_vec() };
        for address in addresses {
            // RFC 5227 §2.3: an announcement asks for the address itself.
            let everybody = (MacAddr::broadcast(), MacAddr::zero());
            proxy.send(&proxy.frame(ArpOperations::Request, *address, everybody, *address))?;
        }
        Ok(proxy)
    }

    /// Waits for questions and answers them until the interface is gone.
    ///
    /// # Errors
    /// Why it cannot go on.
    pub fn serve(&self) -> io::Result<()> {
        let mut bytes = [0; 64];
        loop {
            match recv(&self.socket, &mut bytes[..], RecvFlags::TRUNC) {
                Ok((_, length)) => {
                    if let Some(answer) = self.answer(&bytes[..length.min(64)]) {
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

    /// The answer to this frame, if it asks for one of the addresses. A probe (RFC 5227 §2.1.1),
    /// whose sender has no address yet, is answered too: the address is in use.
    fn answer(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let ethernet = EthernetPacket::new(frame)?;
        let question = ArpPacket::new(ethernet.payload())?;
        let for_ipv4 = ethernet.get_ethertype() == EtherTypes::Arp
            && question.get_hardware_type() == ArpHardwareTypes::Ethernet
            && question.get_protocol_type() == EtherTypes::Ipv4
            && (question.get_hw_addr_len(), question.get_proto_addr_len()) == (6, 4);
        let wanted = question.get_target_proto_addr();
        let asks = for_ipv4 && question.get_operation() == ArpOperations::Request;
        let by_another = question.get_sender_proto_addr() != wanted;
        if !asks || !by_another || !self.addresses.contains(&wanted) {
            return None;
        }
        let asker = question.get_sender_hw_addr();
        Some(self.frame(ArpOperations::Reply, wanted, (asker, asker), question.get_sender_proto_addr()))
    }

    /// A frame about our address `ip`; `to` is the Ethernet destination and the ARP target.
    fn frame(
        &self,
        operation: ArpOperation,
        ip: Ipv4Addr,
        to: (MacAddr, MacAddr),
        target: Ipv4Addr,
    ) -> Vec<u8> {
        let mut bytes = vec![0; FRAME];
        let mut ethernet = MutableEthernetPacket::new(&mut bytes).expect("the frame has room for its header");
        ethernet.set_destination(to.0);
        ethernet.set_source(self.mac);
        ethernet.set_ethertype(EtherTypes::Arp);
        let mut arp = MutableArpPacket::new(ethernet.payload_mut()).expect("the frame has room for ARP");
        arp.set_hardware_type(ArpHardwareTypes::Ethernet);
        arp.set_protocol_type(EtherTypes::Ipv4);
        arp.set_hw_addr_len(6);
        arp.set_proto_addr_len(4);
        arp.set_operation(operation);
        arp.set_sender_hw_addr(self.mac);
        arp.set_sender_proto_addr(ip);
        arp.set_target_hw_addr(to.1);
        arp.set_target_proto_addr(target);
        bytes
    }
}
