//! The raw IP uplink: one receiving socket for each family and protocol, and those that send. Sockets
//! of protocols without ports are opened when such a protocol is first translated.
//!
//! The kernel routes, resolves and reassembles. What comes has no offload metadata although it may
//! need some: packets of local senders carry a checksum that is only begun, and the kernel merges
//! TCP segments to packets of up to 64 KiB. Both are recognised by looking, and described as
//! [`Offload`](crate::wire::Offload) again, so that nobody takes a merged packet for one that is too big.
//!
//! The same sockets serve two roles, which never see each other's packets because their filters
//! look at the device by which a packet came:
//!
//! * **wire**: on the outside interface;
//! * **host**: on loopback, where answers of the host's own services to our addresses come by.
//!   What is sent to the host's own address loops through the kernel to its sockets.

mod six;

use super::sender::RawSender;
use super::{UplinkError, mtu};
use crate::flow::{self, LinkInfo};
use crate::io::Link;
use crate::io::filter::{self, Form, Wanted};
use crate::io::netlink::{Change, LinkFacts, Netlink, Watcher};
use crate::io::sys::raw6;
use crate::wire::{Buffer, Segment, SegmentKind, checksum};
use rustix::net::{RecvFlags, recv, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// How much may wait in each socket, in bytes.
const SOCKET_BUFFER: usize = 16 << 20;
/// Packets taken from one socket before the others have their turn.
const BURST: u32 = 32;
const LOOPBACK: &str = "lo";
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const CWR: u8 = 0x80;
const DONT_FRAGMENT: u8 = 0x40;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Wire,
    Host,
}

#[derive(Debug, Default)]
struct Counters {
    malformed: u64,
    bad_checksum: u64,
    too_big: u64,
    send_failed: u64,
}

/// Of which family and IP protocol a receiver is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Sort {
    /// Of `AF_INET6`, and so not given the header.
    six: bool,
    protocol: u8,
}

impl Sort {
    fn program(self, role: Role, wanted: &Wanted) -> Vec<socket2::SockFilter> {
        let form = match role {
            Role::Wire => Form::Packets,
            Role::Host => Form::Looped,
        };
        if !self.six {
            return filter::build(wanted, form);
        }
        let protocol = match self.protocol {
            TCP => flow::Protocol::Tcp,
            UDP => flow::Protocol::Udp,
            ICMPV6 => flow::Protocol::Icmp,
            other => flow::Protocol::Other(other),
        };
        filter::build_six(wanted, form, protocol)
    }

    fn domain(self) -> Domain {
        if self.six { Domain::IPV6 } else { Domain::IPV4 }
    }
}

/// A socket that receives, and what it needs to be opened and read.
#[derive(Debug)]
struct Receiver {
    socket: Socket,
    sort: Sort,
}

impl Receiver {
    fn open(sort: Sort, role: Role, device: Option<&str>, wanted: &Wanted) -> io::Result<Receiver> {
        let protocol = Protocol::from(i32::from(sort.protocol));
        let socket = open_receiver(sort.domain(), protocol, device, &sort.program(role, wanted))?;
        Ok(Receiver { socket, sort })
    }

    /// Receives one packet, from its IP header on; whether it is known to be put together from
    /// fragments, which the header of IPv4 tells by itself.
    fn receive(&self, buffer: &mut Buffer) -> io::Result<bool> {
        if self.sort.six {
            return six::receive(&self.socket, self.sort.protocol, buffer);
        }
        let (_, received) = recv(&self.socket, buffer.spare(), RecvFlags::empty())?;
        buffer.set_len(received);
        Ok(false)
    }
}

/// Raw IP sockets in one of the two roles.
#[derive(Debug)]
pub struct RawUplink {
    name: String,
    role: Role,
    /// Where packets come by.
    device: LinkFacts,
    /// Tells of the device's end, which the sockets do not notice.
    watcher: Watcher,
    /// Three of IPv4, and three of IPv6 where the host has it; then those of protocols without ports.
    receivers: Vec<Receiver>,
    /// Which receiver is read, and how many packets it has given in a row.
    turn: usize,
    given: u32,
    /// Fragments that follow the packet that was given last.
    fragments: VecDeque<Vec<u8>>,
    identification: u32,
    sender: RawSender,
    info: LinkInfo,
    inside_mtu: u16,
    wanted: Wanted,
    counters: Counters,
}

impl RawUplink {
    /// The way out through `interface`. `inside_mtu` is the TAP's MTU in bytes: merged packets are
    /// described so that their parts fit it.
    ///
    /// # Errors
    /// See [`UplinkError`].
    pub fn wire(interface: &str, wanted: Wanted, inside_mtu: u16) -> Result<Self, UplinkError> {
        Self::open(Role::Wire, interface, wanted, inside_mtu)
    }

    /// The way to the host's own services, on those of its addresses that we translate to.
    ///
    /// # Errors
    /// See [`UplinkError`].
    pub fn host(wanted: Wanted, inside_mtu: u16) -> Result<Self, UplinkError> {
        Self::open(Role::Host, LOOPBACK, wanted, inside_mtu)
    }

    fn open(role: Role, device: &str, wanted: Wanted, inside_mtu: u16) -> Result<Self, UplinkError> {
        let facts = Netlink::open().and_then(|netlink| netlink.link(device));
        let facts = facts
            .map_err(UplinkError::other("netlink"))?
            .ok_or_else(|| UplinkError::NoInterface(device.to_owned()))?;
        if !facts.up {
            return Err(UplinkError::Down(device.to_owned()));
        }
        let (name, through) = match role {
            Role::Wire => (format!("{device} (raw)"), Some(device)),
            Role::Host => ("host (raw)".to_owned(), None),
        };
        let mtu = mtu(&facts);
        let receivers = open_receivers(role, through, &wanted)?;
        Ok(RawUplink {
            name,
            role,
            device: facts,
            watcher: Watcher::open().map_err(UplinkError::other("netlink"))?,
            receivers,
            turn: 0,
            given: 0,
            fragments: VecDeque::new(),
            identification: std::process::id(),
            sender: RawSender::open(through, mtu)?,
            info: LinkInfo::plain(mtu, 0),
            inside_mtu,
            wanted,
            counters: Counters::default(),
        })
    }

    /// Takes in what netlink has told: another MTU.
    ///
    /// # Errors
    /// `ENETDOWN` if the device is down or gone: its successor has another number, so that the
    /// sockets stay deaf until they are opened again.
    fn update(&mut self) -> io::Result<()> {
        let mut changed = false;
        while let Some(change) = self.watcher.next()? {
            changed |= match change {
                Change::Link { index, .. } => index == self.device.index,
                Change::Lost => true,
                _ => false,
            };
        }
        if !changed {
            return Ok(());
        }
        match Netlink::open()?.link_by_index(self.device.index)? {
            Some(facts) if facts.up => {
                self.info.mtu = mtu(&facts);
                self.sender.set_mtu(self.info.mtu);
                Ok(())
            }
            _ => Err(io::Error::from_raw_os_error(libc::ENETDOWN)),
        }
    }

    fn next_receiver(&mut self) {
        self.turn = (self.turn + 1) % self.receivers.len();
        self.given = 0;
    }

    /// Describes as offload what the kernel has merged or not finished.
    fn describe(&mut self, buffer: &mut Buffer, reassembled: bool) -> io::Result<()> {
        let limit = self.info.mtu.min(self.inside_mtu);
        // On a wire a packet up to the MTU may be one that its sender made so; the host's own
        // services never mean the size that loopback lets them send.
        let sent = match self.role {
            Role::Wire => self.info.mtu,
            Role::Host => limit,
        };
        let (limit, sent) = (usize::from(limit), usize::from(sent));
        let described = if self.receivers.get(self.turn).is_some_and(|receiver| receiver.sort.six) {
            self.identification = self.identification.wrapping_add(1);
            six::describe(buffer, limit, sent, reassembled, self.identification)
                .map(|rest| self.fragments.extend(rest))
        } else {
            describe(buffer, limit, sent)
        };
        match described {
            Ok(()) => Ok(()),
            Err(Unusable::Malformed) => {
                self.counters.malformed += 1;
                Err(io::ErrorKind::Interrupted.into())
            }
            Err(Unusable::Checksum) => {
                self.counters.bad_checksum += 1;
                Err(io::ErrorKind::Interrupted.into())
            }
        }
    }
}

/// The sockets of both families, those of IPv6 where the host has it.
fn open_receivers(role: Role, device: Option<&str>, wanted: &Wanted) -> Result<Vec<Receiver>, UplinkError> {
    let fail = || UplinkError::other("raw IP socket");
    let mut receivers = Vec::new();
    for protocol in [TCP, UDP, ICMP] {
        let sort = Sort { six: false, protocol };
        receivers.push(Receiver::open(sort, role, device, wanted).map_err(fail())?);
    }
    for protocol in [TCP, UDP, ICMPV6] {
        match Receiver::open(Sort { six: true, protocol }, role, device, wanted) {
            Ok(receiver) => receivers.push(receiver),
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => break,
            Err(error) => return Err(fail()(error)),
        }
    }
    // Those that can be had: a packet less of theirs is no reason to have no uplink.
    let _ = open_portless(&mut receivers, role, device, wanted);
    Ok(receivers)
}

/// Opens receivers for the protocols without ports that have none, in the families that are there.
///
/// # Errors
/// The kernel's word about the last one that could not be opened.
fn open_portless(
    receivers: &mut Vec<Receiver>,
    role: Role,
    device: Option<&str>,
    wanted: &Wanted,
) -> io::Result<()> {
    let mut result = Ok(());
    if role == Role::Host {
        return result;
    }
    for six in [false, true] {
        if !receivers.iter().any(|receiver| receiver.sort.six == six) {
            continue;
        }
        for protocol in &wanted.protocols {
            let sort = Sort { six, protocol: *protocol };
            if receivers.iter().any(|receiver| receiver.sort == sort) {
                continue;
            }
            match Receiver::open(sort, role, device, wanted) {
                Ok(receiver) => receivers.push(receiver),
                Err(error) => result = Err(error),
            }
        }
    }
    result
}

fn open_receiver(
    domain: Domain,
    protocol: Protocol,
    device: Option<&str>,
    program: &[socket2::SockFilter],
) -> io::Result<Socket> {
    let kind = Type::RAW.nonblocking().cloexec();
    let socket = Socket::new(domain, kind, Some(protocol))?;
    // A raw socket receives from its first moment on: shut, emptied, and only then opened.
    socket.attach_filter(&filter::nothing())?;
    if let Some(device) = device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    if domain == Domain::IPV6 {
        raw6::ask_for_headers(&socket)?;
    }
    while recv(&socket, &mut [0; 1][..], RecvFlags::empty()).is_ok() {}
    if sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER).is_err() {
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    }
    socket.attach_filter(program)?;
    Ok(socket)
}

enum Unusable {
    Malformed,
    Checksum,
}

/// Describes as offload what is unfinished in the packet: a checksum that is only begun, and a TCP
/// packet of more than `limit` bytes that was merged, which any of more than `sent` bytes must
/// have been. Other packets above `sent` may be fragmented: on a wire they were, before.
fn describe(buffer: &mut Buffer, limit: usize, sent: usize) -> Result<(), Unusable> {
    let bytes = buffer.bytes();
    let header = usize::from(*bytes.first().ok_or(Unusable::Malformed)? & 15) * 4;
    if header < 20 || bytes.len() < header {
        return Err(Unusable::Malformed);
    }
    let total = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
    if total < header || total > bytes.len() {
        return Err(Unusable::Malformed);
    }
    let (protocol, flags) = (bytes[9], bytes[6]);
    buffer.truncate(total);
    checksum::mark_looped(buffer, 0);
    if total <= limit {
        return Ok(());
    }
    if protocol != TCP {
        if flags & DONT_FRAGMENT != 0 && total > sent {
            allow_fragments(buffer.bytes_mut(), header);
        }
        checksum::complete(buffer, 0);
        return Ok(());
    }
    if buffer.offload.checksum.is_none() && total > sent {
        if checksum::transport_is_right(buffer.bytes()) != Some(true) {
            return Err(Unusable::Checksum);
        }
        checksum::make_partial(buffer, 0);
    }
    if buffer.offload.checksum.is_some() {
        buffer.offload.segment = Some(merged(buffer.bytes(), header, limit).ok_or(Unusable::Malformed)?);
    }
    Ok(())
}

/// How to cut a merged TCP packet so that its parts have at most `limit` bytes.
fn merged(packet: &[u8], header: usize, limit: usize) -> Option<Segment> {
    let tcp = usize::from(packet.get(header + 12)? >> 4) * 4;
    let headers = header + tcp;
    if tcp < 20 || headers > packet.len() {
        return None;
    }
    Some(Segment {
        kind: SegmentKind::Tcp4,
        size: u16::try_from(limit.checked_sub(headers).filter(|size| *size > 0)?).ok()?,
        header: u16::try_from(headers).ok()?,
        ecn: packet[header + 13] & CWR != 0,
    })
}

/// Clears DF in a datagram that was put together from fragments, or never was on a wire.
fn allow_fragments(packet: &mut [u8], header: usize) {
    packet[6] &= !DONT_FRAGMENT;
    packet[10..12].fill(0);
    let sum = checksum::internet(&packet[..header]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

impl Link for RawUplink {
    fn name(&self) -> &str {
        &self.name
    }

    fn info(&self) -> LinkInfo {
        self.info
    }

    fn filters(&self) -> bool {
        true
    }

    fn set_wanted(&mut self, wanted: &Wanted) -> io::Result<()> {
        for receiver in &self.receivers {
            receiver.socket.attach_filter(&receiver.sort.program(self.role, wanted))?;
        }
        self.wanted = wanted.clone();
        let device = self.device.name.clone();
        open_portless(&mut self.receivers, self.role, Some(&device), wanted)
    }

    fn recv(&mut self, buffer: &mut Buffer) -> io::Result<()> {
        buffer.clear();
        if let Some(fragment) = self.fragments.pop_front() {
            buffer.fill(&fragment);
            return Ok(());
        }
        if self.given >= BURST {
            self.next_receiver();
        }
        let mut empty = 0;
        while empty < self.receivers.len() {
            match self.receivers[self.turn].receive(buffer) {
                Ok(reassembled) => {
                    self.given += 1;
                    return self.describe(buffer, reassembled);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => {
                        empty += 1;
                        self.next_receiver();
                    }
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::InvalidData => {
                        self.counters.malformed += 1;
                        return Err(io::ErrorKind::Interrupted.into());
                    }
                    _ => return Err(error),
                },
            }
        }
        self.update()?;
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn send(&mut self, buffer: &mut Buffer) -> io::Result<()> {
        self.sender.send(buffer).inspect_err(|error| match error.raw_os_error() {
            Some(libc::EMSGSIZE) => self.counters.too_big += 1,
            _ => self.counters.send_failed += 1,
        })
    }

    fn readable(&self) -> Vec<BorrowedFd<'_>> {
        self.receivers.iter().map(|receiver| receiver.socket.as_fd()).chain([self.watcher.as_fd()]).collect()
    }

    fn counters(&mut self) -> Vec<(&'static str, u64)> {
        vec![
            ("malformed", self.counters.malformed),
            ("bad-checksum", self.counters.bad_checksum),
            ("too-big", self.counters.too_big),
            ("send-failed", self.counters.send_failed),
        ]
    }

    fn reopen(&mut self) -> io::Result<()> {
        let again = Self::open(self.role, &self.device.name, self.wanted.clone(), self.inside_mtu);
        let mut again = again.map_err(UplinkError::into_io)?;
        again.counters = std::mem::take(&mut self.counters);
        *self = again;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::PartialChecksum;

    /// A TCP or UDP packet with DF, of `length` bytes, its checksum whole or only begun.
    fn packet(protocol: u8, length: u16, begun: bool) -> Buffer {
        let mut bytes = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        bytes.resize(usize::from(length), 0xab);
        let sum = checksum::internet(&bytes[..20]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        let field = if protocol == TCP { 36 } else { 26 };
        (bytes[32], bytes[33]) = (0x50, 0x18);
        bytes[24..26].copy_from_slice(&(length - 20).to_be_bytes());
        bytes[field..field + 2].fill(0);
        let mut buffer = Buffer::from_bytes(&bytes);
        checksum::make_partial(&mut buffer, 0);
        if !begun {
            checksum::complete(&mut buffer, 0);
        }
        buffer.offload = crate::wire::Offload::default();
        buffer
    }

    fn described(mut buffer: Buffer, limit: usize, sent: usize) -> Option<Buffer> {
        describe(&mut buffer, limit, sent).is_ok().then_some(buffer)
    }

    #[test]
    fn merged_segments_are_super_frames_again() {
        for begun in [true, false] {
            let buffer = described(packet(TCP, 9000, begun), 1400, 1500).unwrap();
            assert_eq!(buffer.offload.checksum, Some(PartialChecksum { start: 20, offset: 16 }));
            let segment = buffer.offload.segment.unwrap();
            assert_eq!((segment.size, segment.header), (1360, 40));
        }
        let mut damaged = packet(TCP, 9000, false);
        damaged.bytes_mut()[8999] ^= 1;
        assert!(described(damaged, 1400, 1500).is_none());
    }

    #[test]
    fn a_packet_too_big_for_the_inside_is_left_to_the_gateway_unless_it_was_merged() {
        let genuine = described(packet(TCP, 1450, false), 1400, 1500).unwrap();
        assert_eq!(genuine.offload, crate::wire::Offload::default());
        let merged = described(packet(TCP, 1450, true), 1400, 1500).unwrap();
        assert!(merged.offload.segment.is_some());
        let small = described(packet(TCP, 700, true), 1400, 1500).unwrap();
        assert!(small.offload.segment.is_none() && small.offload.checksum.is_some());
    }

    #[test]
    fn big_datagrams_may_be_fragmented_and_have_whole_checksums() {
        for begun in [true, false] {
            let buffer = described(packet(UDP, 4000, begun), 1400, 1500).unwrap();
            assert_eq!(buffer.offload, crate::wire::Offload::default());
            assert_eq!(buffer.bytes()[6] & DONT_FRAGMENT, 0);
            assert_eq!(checksum::internet(&buffer.bytes()[..20]), 0);
            assert_eq!(checksum::transport_is_right(buffer.bytes()), Some(true));
        }
        let genuine = described(packet(UDP, 1450, false), 1400, 1500).unwrap();
        assert_eq!(genuine.bytes()[6] & DONT_FRAGMENT, DONT_FRAGMENT);
    }

    #[test]
    fn no_bytes_are_too_odd() {
        for protocol in [TCP, UDP, 1] {
            let whole = packet(protocol, 2000, true);
            for length in 0..80 {
                let _ = described(Buffer::from_bytes(&whole.bytes()[..length]), 40, 1500);
            }
            for at in 0..40 {
                for value in 0..=255 {
                    let mut odd = whole.clone();
                    odd.bytes_mut()[at] = value;
                    let _ = described(odd, 60, 1500);
                }
            }
        }
    }
}
