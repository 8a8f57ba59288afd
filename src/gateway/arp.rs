//! ARP: how hosts ask for each other's MAC in IPv4 (RFC 826, RFC 5227).

use super::neighbors::{Claim, Heard};
use super::{DropReason, GatewayConfig};
use crate::wire::Buffer;
use crate::wire::ethernet::{self, Frame, MacAddr};
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};
use std::net::Ipv4Addr;

/// Reads an ARP packet (behind its Ethernet header) that came to `us`.
///
/// # Errors
/// [`DropReason::BadArp`] for what is no ARP, or claims what its sender cannot have.
pub fn read(bytes: &[u8], us: &GatewayConfig) -> Result<Heard, DropReason> {
    let packet = ArpPacket::new_checked(bytes).map_err(|_| DropReason::BadArp)?;
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr: sender,
        target_protocol_addr: target,
        ..
    } = ArpRepr::parse(&packet).map_err(|_| DropReason::BadArp)?
    else {
        return Err(DropReason::BadArp);
    };
    let theirs = MacAddr(source_hardware_addr.0);
    if theirs.is_multicast() || theirs.is_zero() || theirs == us.mac || us.owns(sender.into()) {
        return Err(DropReason::BadArp);
    }
    // A probe asks whether an address is free, and claims none (RFC 5227 §1.1).
    let probe = sender.is_unspecified();
    if !probe && !us.has_host(sender.into()) {
        return Err(DropReason::BadArp);
    }
    // Of whom we only stand in for, an address may be free: who probes must find out elsewhere.
    let ours = us.owns(target.into()) || (!probe && us.stands_in_for(target.into()));
    let asks_us = operation == ArpOperation::Request && ours;
    let claim = Claim { ip: sender.into(), mac: theirs, asks_us, overrides: true };
    Ok(Heard {
        claim: (!probe).then_some(claim),
        reply: asks_us.then(|| frame(ArpOperation::Reply, (us.mac, target), (theirs, sender), theirs)),
    })
}

/// The gateway, who has `mac` and `from`, asks everybody who has `ip`.
pub fn question(mac: MacAddr, from: Ipv4Addr, ip: Ipv4Addr) -> Buffer {
    frame(ArpOperation::Request, (mac, from), (MacAddr([0; 6]), ip), MacAddr::BROADCAST)
}

/// The gateway tells everybody unasked that `ip` is at `mac`: it asks for its own address (RFC 5227
/// §2.3).
pub fn announcement(mac: MacAddr, ip: Ipv4Addr) -> Buffer {
    question(mac, ip, ip)
}

fn frame(
    operation: ArpOperation,
    source: (MacAddr, Ipv4Addr),
    target: (MacAddr, Ipv4Addr),
    to: MacAddr,
) -> Buffer {
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(source.0.0),
        source_protocol_addr: source.1,
        target_hardware_addr: EthernetAddress(target.0.0),
        target_protocol_addr: target.1,
    };
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(&mut ArpPacket::new_unchecked(&mut bytes));
    let mut frame = Buffer::from_bytes(&bytes);
    let header = Frame { destination: to, source: source.0, ethertype: ethernet::ARP };
    frame.push_front(&header.to_bytes());
    frame
}
