//! Watches an interface and judges every frame that passes: are its checksums right, does an inside
//! address show where it must not. An oracle that shares no code with the gateway: it computes
//! checksums with pnet.

use crate::io::netlink::Netlink;
use crate::io::sys::netns::Netns;
use crate::io::sys::wiretap::{VNET_HEADER, Wiretap};
use crate::lab::programs::server::{Server, Stop};
use ipnet::IpNet;
use pnet::packet::ethernet::{EtherTypes, EthernetPacket};
use pnet::packet::icmp::IcmpPacket;
use pnet::packet::icmpv6::Icmpv6Packet;
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::Ipv4Packet;
use pnet::packet::ipv6::Ipv6Packet;
use pnet::packet::tcp::TcpPacket;
use pnet::packet::udp::UdpPacket;
use pnet::packet::{Packet, icmp, icmpv6, ipv4, tcp, udp};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes kept of each frame.
const KEEP_BYTES: usize = 256;
/// Frames kept; those after it are judged and counted only.
const KEEP_FRAMES: usize = 100_000;
/// Faults described; those after it are counted only.
const KEEP_FAULTS: usize = 20;
/// The kernel still owes this frame its checksum (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
const NEEDS_CHECKSUM: u8 = 1;

/// A frame as it was seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Its length in bytes, Ethernet header included.
    pub length: usize,
    /// Its start, at most 256 bytes.
    pub start: Vec<u8>,
    /// The interface's own host sent it.
    pub outgoing: bool,
    /// The kernel still owes it its checksum.
    pub partial: bool,
}

/// What a sniffer saw.
#[derive(Clone, Default, Debug)]
pub struct Report {
    /// Frames that passed.
    pub frames: u64,
    /// Frames whose checksum the kernel still owes.
    pub partial: u64,
    /// Length of the longest, in bytes, Ethernet header included.
    pub longest: usize,
    /// Checksums and lengths that are wrong.
    pub faults: u64,
    /// The first of them in words.
    pub fault_words: Vec<String>,
    /// Frames (ARP too) whose source is an inside address.
    pub inside_sources: u64,
    /// Frames that passed unjudged because they came too fast.
    pub missed: u64,
    /// The frames' beginnings.
    pub kept: Vec<Seen>,
}

/// A sniffer at work.
#[derive(Debug)]
pub struct Sniffer {
    server: Server,
    report: Arc<Mutex<Report>>,
}

impl Sniffer {
    /// Watches `interface` of `netns`; a frame from a source in `inside` counts as a leak.
    ///
    /// # Errors
    /// `NotFound` if there is no such interface; `EPERM` without `CAP_NET_RAW`.
    pub fn start(netns: &Netns, interface: &str, inside: IpNet) -> io::Result<Sniffer> {
        Sniffer::start_for(netns, interface, vec![inside])
    }

    /// As [`Sniffer::start`], for several inside networks.
    ///
    /// # Errors
    /// As [`Sniffer::start`].
    pub fn start_for(netns: &Netns, interface: &str, inside: Vec<IpNet>) -> io::Result<Sniffer> {
        let report = Arc::new(Mutex::new(Report::default()));
        let shared = Arc::clone(&report);
        let open = || {
            let link = Netlink::open()?.link(interface)?;
            let link = link.ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, format!("no interface {interface}"))
            })?;
            Ok((Wiretap::open(link.index)?, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)))
        };
        let server =
            Server::start(netns, "sniffer", open, move |tap, stop| watch(&tap, &stop, &inside, &shared))?;
        Ok(Sniffer { server, report })
    }

    /// Stops and tells what it saw.
    pub fn stop(self) -> Report {
        drop(self.server);
        std::mem::take(&mut *self.report.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn watch(tap: &Wiretap, stop: &Stop, inside: &[IpNet], report: &Mutex<Report>) {
    let mut buffer = vec![0; VNET_HEADER + 14 + 65536];
    let mut serving = true;
    while serving {
        serving = stop.wait(tap.as_fd());
        // What is queued at the end was on the wire before it: read that too.
        loop {
            match tap.recv(&mut buffer) {
                Ok(caught) => {
                    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
                    note(&mut report, &buffer[..caught.length], caught.outgoing, inside);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The interface went down: it may come back.
                Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => break,
                Err(_) => break,
            }
        }
    }
    let missed = tap.missed().unwrap_or(0);
    report.lock().unwrap_or_else(PoisonError::into_inner).missed += u64::from(missed);
}

fn note(report: &mut Report, caught: &[u8], outgoing: bool, inside: &[IpNet]) {
    let Some((header, frame)) = caught.split_at_checked(VNET_HEADER) else { return };
    let partial = header[0] & NEEDS_CHECKSUM != 0;
    report.frames += 1;
    report.partial += u64::from(partial);
    report.longest = report.longest.max(frame.len());
    let verdict = judge(frame, partial);
    if verdict.source.is_some_and(|source| inside.iter().any(|net| net.contains(&source))) {
        report.inside_sources += 1;
    }
    if let Some(fault) = verdict.fault {
        report.faults += 1;
        if report.fault_words.len() < KEEP_FAULTS {
            report
                .fault_words
                .push(format!("{} bytes, outgoing {outgoing}, partial {partial}: {fault}", frame.len()));
        }
    }
    if report.kept.len() < KEEP_FRAMES {
        let start = frame[..frame.len().min(KEEP_BYTES)].to_vec();
        report.kept.push(Seen { length: frame.len(), start, outgoing, partial });
    }
}

/// What a frame is worth.
struct Verdict {
    source: Option<IpAddr>,
    fault: Option<String>,
}

fn judge(frame: &[u8], partial: bool) -> Verdict {
    let nothing = Verdict { source: None, fault: None };
    let Some(ethernet) = EthernetPacket::new(frame) else { return nothing };
    match ethernet.get_ethertype() {
        EtherTypes::Arp => {
            let source: Option<[u8; 4]> =
                ethernet.payload().get(14..18).and_then(|bytes| bytes.try_into().ok());
            Verdict { source: source.map(IpAddr::from), fault: None }
        }
        EtherTypes::Ipv4 => {
            let Some(packet) = Ipv4Packet::new(ethernet.payload()) else {
                return Verdict { source: None, fault: Some("too short for an IPv4 header".into()) };
            };
            Verdict { source: Some(packet.get_source().into()), fault: ipv4_fault(&packet, partial) }
        }
        EtherTypes::Ipv6 => {
            let Some(packet) = Ipv6Packet::new(ethernet.payload()) else {
                return Verdict { source: None, fault: Some("too short for an IPv6 header".into()) };
            };
            Verdict { source: Some(packet.get_source().into()), fault: ipv6_fault(&packet, partial) }
        }
        _ => nothing,
    }
}

fn ipv4_fault(packet: &Ipv4Packet<'_>, partial: bool) -> Option<String> {
    let header = usize::from(packet.get_header_length()) * 4;
    let total = usize::from(packet.get_total_length());
    if packet.get_version() != 4 || header < 20 || total < header || total > packet.packet().len() {
        return Some(format!(
            "header of {header} bytes, {total} bytes in all, {} there",
            packet.packet().len()
        ));
    }
    if packet.get_checksum() != ipv4::checksum(packet) {
        return Some("wrong IPv4 header checksum".into());
    }
    if packet.get_flags() & 1 != 0 || packet.get_fragment_offset() != 0 {
        // Its transport checksum is over the whole datagram, which is not here.
        return None;
    }
    let (source, destination) = (packet.get_source(), packet.get_destination());
    let payload = &packet.packet()[header..total];
    let (name, found, right) = match packet.get_next_level_protocol() {
        IpNextHeaderProtocols::Tcp => {
            let segment = TcpPacket::new(payload)?;
            ("TCP", segment.get_checksum(), tcp::ipv4_checksum(&segment, &source, &destination))
        }
        IpNextHeaderProtocols::Udp => {
            let datagram = UdpPacket::new(payload)?;
            if datagram.get_checksum() == 0 {
                return None;
            }
            ("UDP", datagram.get_checksum(), udp::ipv4_checksum(&datagram, &source, &destination))
        }
        IpNextHeaderProtocols::Icmp => {
            let message = IcmpPacket::new(payload)?;
            ("ICMP", message.get_checksum(), icmp::checksum(&message))
        }
        _ => return None,
    };
    let right = if partial { pseudo_sum(packet, payload.len()) } else { right };
    differs(name, (source.into(), destination.into()), partial, found, right)
}

fn ipv6_fault(packet: &Ipv6Packet<'_>, partial: bool) -> Option<String> {
    let length = usize::from(packet.get_payload_length());
    if packet.get_version() != 6 || length > packet.packet().len() - 40 {
        return Some(format!("{length} bytes behind the header, {} there", packet.packet().len() - 40));
    }
    let (source, destination) = (packet.get_source(), packet.get_destination());
    let payload = &packet.packet()[40..40 + length];
    // Behind extension headers, fragments among them, nothing is judged.
    let (name, found, right) = match packet.get_next_header() {
        IpNextHeaderProtocols::Tcp => {
            let segment = TcpPacket::new(payload)?;
            ("TCP", segment.get_checksum(), tcp::ipv6_checksum(&segment, &source, &destination))
        }
        IpNextHeaderProtocols::Udp => {
            let datagram = UdpPacket::new(payload)?;
            if datagram.get_checksum() == 0 {
                return Some(format!("UDP {source} > {destination}: no checksum (RFC 8200 section 8.1)"));
            }
            ("UDP", datagram.get_checksum(), udp::ipv6_checksum(&datagram, &source, &destination))
        }
        IpNextHeaderProtocols::Icmpv6 => {
            let message = Icmpv6Packet::new(payload)?;
            ("ICMPv6", message.get_checksum(), icmpv6::checksum(&message, &source, &destination))
        }
        _ => return None,
    };
    let right = if partial { pseudo_sum_six(packet, length) } else { right };
    differs(name, (source.into(), destination.into()), partial, found, right)
}

fn differs(name: &str, ends: (IpAddr, IpAddr), partial: bool, found: u16, right: u16) -> Option<String> {
    // In ones' complement arithmetic there are two zeros.
    let plain = |sum: u16| if sum == 0xffff { 0 } else { sum };
    if plain(found) == plain(right) {
        return None;
    }
    let kind = if partial { "pseudo-header sum" } else { "checksum" };
    Some(format!("{name} {} > {}: {kind} {found:#06x}, should be {right:#06x}", ends.0, ends.1))
}

/// The same for IPv6 (RFC 8200 section 8.1).
fn pseudo_sum_six(packet: &Ipv6Packet<'_>, length: usize) -> u16 {
    let mut bytes = Vec::with_capacity(40);
    bytes.extend_from_slice(&packet.get_source().octets());
    bytes.extend_from_slice(&packet.get_destination().octets());
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, packet.get_next_header().0]);
    !pnet::util::checksum(&bytes, usize::MAX)
}

/// What the checksum field holds while the kernel owes the rest: the sum of the pseudo-header,
/// folded and not complemented.
fn pseudo_sum(packet: &Ipv4Packet<'_>, length: usize) -> u16 {
    let mut bytes = Vec::with_capacity(12);
    bytes.extend_from_slice(&packet.get_source().octets());
    bytes.extend_from_slice(&packet.get_destination().octets());
    bytes.extend_from_slice(&[0, packet.get_next_level_protocol().0]);
    bytes.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
    !pnet::util::checksum(&bytes, usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    fn frame() -> Vec<u8> {
        let mut frame = vec![0; 14 + 20 + 8 + 3];
        frame[12] = 8;
        frame[14..24].copy_from_slice(&[0x45, 0, 0, 31, 0, 1, 0, 0, 64, 17]);
        frame[26..34].copy_from_slice(&[10, 88, 0, 2, 198, 51, 100, 7]);
        frame[34..42].copy_from_slice(&[0x10, 0, 0, 53, 0, 11, 0, 0]);
        let sum = ipv4::checksum(&Ipv4Packet::new(&frame[14..]).unwrap());
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        let (source, destination) = (Ipv4Addr::new(10, 88, 0, 2), Ipv4Addr::new(198, 51, 100, 7));
        let sum = udp::ipv4_checksum(&UdpPacket::new(&frame[34..]).unwrap(), &source, &destination);
        frame[40..42].copy_from_slice(&sum.to_be_bytes());
        frame
    }

    #[test]
    fn a_right_frame_has_no_fault_and_shows_its_source() {
        let verdict = judge(&frame(), false);
        assert_eq!((verdict.fault, verdict.source), (None, Some(Ipv4Addr::new(10, 88, 0, 2).into())));
    }

    #[test]
    fn every_flipped_byte_of_the_packet_is_noticed() {
        for at in 14..frame().len() {
            let mut frame = frame();
            frame[at] ^= 0x41;
            // The checksum field set to 0 would mean none, which no flip of this frame makes.
            assert!(judge(&frame, false).fault.is_some(), "byte {at}");
        }
    }

    #[test]
    fn of_ipv6_every_flipped_byte_that_is_summed_is_noticed() {
        let (source, destination) = (Ipv6Addr::new(0xfd00, 0x88, 0, 0, 0, 0, 0, 2), Ipv6Addr::LOCALHOST);
        let mut right = vec![0; 14];
        right[12..14].copy_from_slice(&[0x86, 0xdd]);
        right.extend([0x60, 0, 0, 0, 0, 11, 17, 64]);
        right.extend(source.octets());
        right.extend(destination.octets());
        right.extend([0x10, 0, 0, 53, 0, 11, 0, 0, 1, 2, 3]);
        let sum = udp::ipv6_checksum(&UdpPacket::new(&right[54..]).unwrap(), &source, &destination);
        right[60..62].copy_from_slice(&sum.to_be_bytes());
        let verdict = judge(&right, false);
        assert_eq!((verdict.fault, verdict.source), (None, Some(source.into())));
        assert!(judge(&right, true).fault.is_some());
        for at in 22..right.len() {
            let mut frame = right.clone();
            frame[at] ^= 0x41;
            assert!(judge(&frame, false).fault.is_some(), "byte {at}");
        }
    }

    #[test]
    fn a_finished_checksum_is_wrong_where_the_kernel_owes_one() {
        assert!(judge(&frame(), true).fault.is_some());
    }
}
