//! Neighbour discovery: how hosts ask for each other's MAC, and for routers, in IPv6 (RFC 4861).
//!
//! Messages are ICMPv6 and could be routed; a hop limit of 255 proves that one was not, and every
//! other is dropped. Questions go to a multicast group made from the last three bytes of the
//! address asked for, so that only a few hosts hear them.

use super::neighbors::{Claim, Heard};
use super::{DropReason, GatewayConfig};
use crate::wire::Buffer;
use crate::wire::ethernet::{self, Frame, MacAddr};
use smoltcp::phy::{ChecksumCapabilities, Medium};
use smoltcp::wire::{
    EthernetAddress, HardwareAddress, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr,
    NdiscNeighborFlags, NdiscRepr, RawHardwareAddress,
};
use std::net::Ipv6Addr;

/// Hop limit of all messages.
pub const HOP_LIMIT: u8 = 255;
/// All hosts of the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Length of an IPv6 header, in bytes.
const HEADER: usize = 40;

/// A message, checked.
#[derive(Debug)]
pub enum Message {
    /// About who has which MAC.
    Neighbor(Heard),
    /// A host asks for routers; what it says of itself.
    RouterSolicitation(Option<Claim>),
}

/// The link-local address of a host with this MAC (RFC 4291 appendix A).
pub fn link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let [a, d] = [u16::from_be_bytes([a ^ 2, b]), u16::from_be_bytes([0xfe, d])];
    Ipv6Addr::new(0xfe80, 0, 0, 0, a, u16::from_be_bytes([c, 0xff]), d, u16::from_be_bytes([e, f]))
}

/// The multicast group of those who might have `ip` (RFC 4291 §2.7.1).
pub fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = ip.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, u16::from_be_bytes([0xff, a]), u16::from_be_bytes([b, c]))
}

/// The MAC to which packets for a multicast group go (RFC 2464 §7).
pub fn multicast_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

/// Whether the IPv6 packet in `bytes` is a message of neighbour discovery without extension
/// headers. With them it is none (RFC 6980 forbids fragments, and nobody sends others).
pub fn is_message(bytes: &[u8]) -> bool {
    const ICMPV6: u8 = 58;
    bytes.get(6) == Some(&ICMPV6) && bytes.get(HEADER).is_some_and(|kind| matches!(kind, 133..=137))
}

/// Reads the message in `bytes`, an IPv6 packet from its header on, that came to `us` in a frame
/// from `sender`.
///
/// # Errors
/// [`DropReason::BadNdp`] for what RFC 4861 §6.1 and §7.1 call invalid, or claims what its sender
/// cannot have; [`DropReason::RouterAdvertisement`] and [`DropReason::IcmpType`] (redirects) for
/// what only a router may say.
pub fn read(bytes: &[u8], sender: MacAddr, us: &GatewayConfig) -> Result<Message, DropReason> {
    let bad = |_| DropReason::BadNdp;
    let ip = Ipv6Packet::new_checked(bytes).map_err(bad)?;
    let (source, destination) = (ip.src_addr(), ip.dst_addr());
    let packet = Icmpv6Packet::new_checked(ip.payload()).map_err(bad)?;
    let right = ip.hop_limit() == HOP_LIMIT
        && packet.msg_code() == 0
        && packet.verify_checksum(&source, &destination)
        && (destination.is_multicast()
            || us.owns(destination.into())
            || us.stands_in_for(destination.into()))
        && !us.owns(source.into());
    if !right {
        return Err(DropReason::BadNdp);
    }
    let said = Said { source, destination, sender, us };
    match NdiscRepr::parse(&packet).map_err(bad)? {
        NdiscRepr::RouterSolicit { lladdr } => Ok(Message::RouterSolicitation(said.itself(lladdr, true)?)),
        NdiscRepr::NeighborSolicit { target_addr, lladdr } => {
            said.solicitation(target_addr, lladdr).map(Message::Neighbor)
        }
        NdiscRepr::NeighborAdvert { flags, target_addr, lladdr } => {
            said.advertisement(flags, target_addr, lladdr).map(Message::Neighbor)
        }
        NdiscRepr::RouterAdvert { .. } => Err(DropReason::RouterAdvertisement),
        NdiscRepr::Redirect { .. } => Err(DropReason::IcmpType),
    }
}

/// A message whose headers are right.
struct Said<'a> {
    source: Ipv6Addr,
    destination: Ipv6Addr,
    /// Who sent the frame.
    sender: MacAddr,
    us: &'a GatewayConfig,
}

impl Said<'_> {
    /// What the sender of a solicitation says of itself. One who has no address yet says nothing,
    /// and may not (RFC 4861 §6.1.1, §7.1.1).
    fn itself(&self, lladdr: Option<RawHardwareAddress>, asks_us: bool) -> Result<Option<Claim>, DropReason> {
        let Some(mac) = lladdr.map(|lladdr| self.mac(lladdr)).transpose()? else {
            let nameless = self.source.is_unspecified() || self.us.has_host(self.source.into());
            return if nameless { Ok(None) } else { Err(DropReason::BadNdp) };
        };
        if !self.us.has_host(self.source.into()) {
            return Err(DropReason::BadNdp);
        }
        Ok(Some(Claim { ip: self.source.into(), mac, asks_us, overrides: true }))
    }

    fn solicitation(
        &self,
        target: Ipv6Addr,
        lladdr: Option<RawHardwareAddress>,
    ) -> Result<Heard, DropReason> {
        let probe = self.source.is_unspecified();
        if target.is_multicast() || (probe && self.destination != solicited_node(target)) {
            return Err(DropReason::BadNdp);
        }
        // Of whom we only stand in for, an address may be free: who probes must find out elsewhere.
        let asks_us = self.us.owns(target.into()) || (!probe && self.us.stands_in_for(target.into()));
        let claim = self.itself(lladdr, asks_us)?;
        let asker = claim.map_or(self.sender, |claim| claim.mac);
        let reply = asks_us.then(|| {
            // Who asks from no address wants to have ours: everybody shall hear that it is taken.
            let (to, mac) = if probe { (ALL_NODES, multicast_mac(ALL_NODES)) } else { (self.source, asker) };
            let mut flags = NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::OVERRIDE;
            flags.set(NdiscNeighborFlags::SOLICITED, !probe);
            let lladdr = Some(raw(self.us.mac));
            let answer = NdiscRepr::NeighborAdvert { flags, target_addr: target, lladdr };
            frame(&answer, (self.us.mac, target), (mac, to))
        });
        Ok(Heard { claim, reply })
    }

    /// An advertisement without a link-layer address is about the sender of its frame.
    fn advertisement(
        &self,
        flags: NdiscNeighborFlags,
        target: Ipv6Addr,
        lladdr: Option<RawHardwareAddress>,
    ) -> Result<Heard, DropReason> {
        let solicited = flags.contains(NdiscNeighborFlags::SOLICITED);
        let mac = lladdr.map_or(Ok(self.sender), |lladdr| self.mac(lladdr))?;
        if !self.us.has_host(target.into())
            || !self.us.has_host(self.source.into())
            || (solicited && self.destination.is_multicast())
        {
            return Err(DropReason::BadNdp);
        }
        let overrides = flags.contains(NdiscNeighborFlags::OVERRIDE);
        Ok(Heard { claim: Some(Claim { ip: target.into(), mac, asks_us: false, overrides }), reply: None })
    }

    fn mac(&self, lladdr: RawHardwareAddress) -> Result<MacAddr, DropReason> {
        let Ok(HardwareAddress::Ethernet(EthernetAddress(mac))) = lladdr.parse(Medium::Ethernet) else {
            return Err(DropReason::BadNdp);
        };
        let mac = MacAddr(mac);
        if mac.is_multicast() || mac.is_zero() || mac == self.us.mac {
            return Err(DropReason::BadNdp);
        }
        Ok(mac)
    }
}

/// The gateway, who has `mac` and `from`, asks who has `ip`: the host that had it, if one is
/// `known`, else all who might have it.
pub fn question(mac: MacAddr, from: Ipv6Addr, ip: Ipv6Addr, known: Option<MacAddr>) -> Buffer {
    let group = solicited_node(ip);
    let to = known.map_or((multicast_mac(group), group), |known| (known, ip));
    let solicitation = NdiscRepr::NeighborSolicit { target_addr: ip, lladdr: Some(raw(mac)) };
    frame(&solicitation, (mac, from), to)
}

/// The gateway tells everybody unasked that `ip` is at `mac` (RFC 4861 §7.2.6).
pub fn announcement(mac: MacAddr, ip: Ipv6Addr) -> Buffer {
    let flags = NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::OVERRIDE;
    let message = NdiscRepr::NeighborAdvert { flags, target_addr: ip, lladdr: Some(raw(mac)) };
    frame(&message, (mac, ip), (multicast_mac(ALL_NODES), ALL_NODES))
}

fn raw(mac: MacAddr) -> RawHardwareAddress {
    EthernetAddress(mac.0).into()
}

fn frame(message: &NdiscRepr<'_>, source: (MacAddr, Ipv6Addr), to: (MacAddr, Ipv6Addr)) -> Buffer {
    let message = Icmpv6Repr::Ndisc(*message);
    let mut bytes = vec![0; message.buffer_len()];
    let sums = ChecksumCapabilities::default();
    message.emit(&source.1, &to.1, &mut Icmpv6Packet::new_unchecked(&mut bytes), &sums);
    wrap(&bytes, source, to)
}

/// Puts headers before an ICMPv6 message of ours: a frame from and to these.
pub(super) fn wrap(message: &[u8], source: (MacAddr, Ipv6Addr), to: (MacAddr, Ipv6Addr)) -> Buffer {
    let ip = Ipv6Repr {
        src_addr: source.1,
        dst_addr: to.1,
        next_header: IpProtocol::Icmpv6,
        payload_len: message.len(),
        hop_limit: HOP_LIMIT,
    };
    let mut bytes = vec![0; HEADER + message.len()];
    ip.emit(&mut Ipv6Packet::new_unchecked(&mut bytes));
    bytes[HEADER..].copy_from_slice(message);
    let mut frame = Buffer::from_bytes(&bytes);
    let header = Frame { destination: to.0, source: source.0, ethertype: ethernet::IPV6 };
    frame.push_front(&header.to_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_from_macs_and_groups_from_addresses() {
        let mac = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        let ip: Ipv6Addr = "fe80::5054:ff:fe12:3456".parse().unwrap_or(Ipv6Addr::UNSPECIFIED);
        assert_eq!(link_local(mac), ip);
        let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff12, 0x3456);
        assert_eq!(solicited_node(ip), group);
        assert_eq!(multicast_mac(group), MacAddr([0x33, 0x33, 0xff, 0x12, 0x34, 0x56]));
    }
}
