//! The AF_PACKET uplink: frames of one Ethernet interface, super-frames whole.
//!
//! The gateway sees IP packets: the Ethernet header is taken off and put on here. A filter in the
//! kernel lets in what is for our addresses and ports only. Such a socket takes copies: the host's
//! own stack sees the same packets, which is the business of `io/guard.rs`.

use super::sender::{RawSender, destination};
use super::{UplinkError, mtu};
use crate::flow::LinkInfo;
use crate::io::filter::{self, Form, Wanted};
use crate::io::netlink::{LinkFacts, Netlink};
use crate::io::nexthop::{NextHop, NextHops};
use crate::io::sys::packet::{self as kernel, LinkAddress};
use crate::io::{Link, deliver, virtio};
use crate::wire::{Buffer, SegmentKind};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg_addr, sockopt};
use socket2::{Domain, Socket, Type};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};

/// How much may wait in the socket, each way, in bytes: tens of milliseconds at 10 Gbit/s.
const SOCKET_BUFFER: usize = 32 << 20;
const ETHERNET_HEADER: u8 = 14;
/// Packets received in a row before news of neighbours are looked for all the same.
const LISTEN: u32 = 256;

#[derive(Debug, Default)]
struct Counters {
    kernel_dropped: u64,
    short_frame: u64,
    bad_offload: u64,
    through_kernel: u64,
    queue_full: u64,
    too_big: u64,
    send_failed: u64,
}

/// An AF_PACKET socket on one interface.
#[derive(Debug)]
pub struct PacketUplink {
    /// What it is called in messages.
    name: String,
    interface: LinkFacts,
    socket: Socket,
    info: LinkInfo,
    wanted: Wanted,
    hops: NextHops,
    /// The way out for packets whose next hop only the kernel can find.
    kernel: RawSender,
    scratch: Buffer,
    /// Packets received since news of neighbours were looked for.
    unheard: u32,
    counters: Counters,
}

impl PacketUplink {
    /// Opens the uplink on `interface`, in the caller's network namespace, and lets in what is
    /// `wanted`.
    ///
    /// # Errors
    /// See [`UplinkError`].
    pub fn open(interface: &str, wanted: Wanted) -> Result<Self, UplinkError> {
        let fail = || UplinkError::other("netlink");
        let facts = Netlink::open().and_then(|netlink| netlink.link(interface)).map_err(fail())?;
        let facts = facts.ok_or_else(|| UplinkError::NoInterface(interface.to_owned()))?;
        if !facts.up {
            return Err(UplinkError::Down(interface.to_owned()));
        }
        let socket = open_socket(&facts, &wanted)?;
        let mtu = mtu(&facts);
        Ok(PacketUplink {
            name: format!("{interface} (packet)"),
            socket,
            info: LinkInfo::offloading(mtu, 0),
            wanted,
            hops: NextHops::open(facts.index).map_err(fail())?,
            kernel: RawSender::open(Some(interface), mtu)?,
            scratch: Buffer::new(),
            unheard: 0,
            interface: facts,
            counters: Counters::default(),
        })
    }

    /// The interface as it was when last looked at.
    pub fn interface(&self) -> &LinkFacts {
        &self.interface
    }

    /// Takes in changes of routes, neighbours and the interface's own address and MTU.
    fn update(&mut self) {
        self.unheard = 0;
        if !self.hops.update() {
            return;
        }
        let facts = Netlink::open().and_then(|netlink| netlink.link_by_index(self.interface.index));
        if let Ok(Some(facts)) = facts {
            self.info.mtu = mtu(&facts);
            self.kernel.set_mtu(self.info.mtu);
            self.interface = facts;
        }
    }

    fn send_frame(&mut self, mac: [u8; 6], buffer: &mut Buffer) -> io::Result<()> {
        let mut ethernet = [0; ETHERNET_HEADER as usize];
        ethernet[..6].copy_from_slice(&mac);
        ethernet[6..12].copy_from_slice(&self.interface.mac);
        let kind = ethertype(buffer.bytes());
        ethernet[12..].copy_from_slice(&kind.to_be_bytes());
        let header = virtio::write(&buffer.offload, ETHERNET_HEADER)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let parts = [IoSlice::new(&header), IoSlice::new(&ethernet), IoSlice::new(buffer.bytes())];
        let mut control = SendAncillaryBuffer::default();
        // The kernel asks the protocol of the address, not the frame, what a super-frame is made of.
        let address = LinkAddress::new(self.interface.index, kind);
        sendmsg_addr(&self.socket, &address, &parts, &mut control, SendFlags::empty())?;
        Ok(())
    }

    fn count_failure(&mut self, error: &io::Error, kind: Option<SegmentKind>) {
        match error.raw_os_error() {
            Some(libc::ENOBUFS | libc::EAGAIN) => self.counters.queue_full += 1,
            Some(libc::EMSGSIZE) => self.counters.too_big += 1,
            errno => {
                self.counters.send_failed += 1;
                if errno == Some(libc::EINVAL) && kind == Some(SegmentKind::Udp) {
                    // Kernels before 6.2 do not know UDP super-frames: the next ones are cut.
                    self.info.udp = false;
                }
            }
        }
    }
}

/// The type of a frame that carries this packet.
fn ethertype(packet: &[u8]) -> u16 {
    match packet.first().map(|first| first >> 4) {
        Some(6) => libc::ETH_P_IPV6 as u16,
        _ => libc::ETH_P_IP as u16,
    }
}

/// A socket that is filtered before it is bound, so that nothing unfiltered is ever queued.
fn open_socket(facts: &LinkFacts, wanted: &Wanted) -> Result<Socket, UplinkError> {
    let fail = || UplinkError::other("packet socket");
    let kind = Type::RAW.nonblocking().cloexec();
    let socket = Socket::new(Domain::PACKET, kind, None).map_err(fail())?;
    socket.attach_filter(&filter::build(wanted, Form::Frames)).map_err(fail())?;
    kernel::ignore_outgoing(&socket).map_err(fail())?;
    kernel::use_virtio_header(&socket).map_err(fail())?;
    // Buffers beyond the host's limit need CAP_NET_ADMIN; without it the limit has to do.
    if sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER).is_err() {
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    }
    if sockopt::set_socket_send_buffer_size_force(&socket, SOCKET_BUFFER).is_err() {
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    }
    let address = LinkAddress::new(facts.index, libc::ETH_P_ALL as u16);
    rustix::net::bind(&socket, &address).map_err(io::Error::from).map_err(fail())?;
    if kernel::hardware_type(&socket).map_err(fail())? != libc::ARPHRD_ETHER {
        return Err(UplinkError::NotEthernet(facts.name.clone()));
    }
    Ok(socket)
}

impl Link for PacketUplink {
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
        self.socket.attach_filter(&filter::build(wanted, Form::Frames))?;
        self.wanted = wanted.clone();
        Ok(())
    }

    fn recv(&mut self, buffer: &mut Buffer) -> io::Result<()> {
        buffer.clear();
        self.unheard += 1;
        if self.unheard > LISTEN {
            self.update();
        }
        let mut header = [0; virtio::LENGTH];
        let received = loop {
            let parts = &mut [IoSliceMut::new(&mut header), IoSliceMut::new(buffer.spare())];
            match rustix::io::readv(&self.socket, parts) {
                Ok(received) => break received,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.update();
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Err(Errno::INVAL) => {
                    // The kernel had a super-frame of a kind that the header cannot express.
                    self.counters.bad_offload += 1;
                    return Err(io::ErrorKind::Interrupted.into());
                }
                Err(error) => return Err(error.into()),
            }
        };
        let length = received.saturating_sub(virtio::LENGTH);
        buffer.set_len(length);
        if length < usize::from(ETHERNET_HEADER) {
            self.counters.short_frame += 1;
            return Err(io::ErrorKind::Interrupted.into());
        }
        match virtio::read(&header, buffer.bytes(), ETHERNET_HEADER) {
            Ok(offload) => buffer.offload = offload,
            Err(_) => {
                self.counters.bad_offload += 1;
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
        buffer.drop_front(usize::from(ETHERNET_HEADER));
        Ok(())
    }

    fn send(&mut self, buffer: &mut Buffer) -> io::Result<()> {
        let destination = destination(buffer.bytes()).ok_or(io::ErrorKind::InvalidInput)?;
        let kind = buffer.offload.segment.map(|segment| segment.kind);
        let result = match self.hops.find(destination) {
            NextHop::Mac(mac) => self.send_frame(mac, buffer),
            NextHop::Kernel => {
                self.counters.through_kernel += 1;
                deliver(&mut self.kernel, buffer, &mut self.scratch)
            }
        };
        result.inspect_err(|error| self.count_failure(error, kind))
    }

    fn readable(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.socket.as_fd(), self.hops.as_fd()]
    }

    fn counters(&mut self) -> Vec<(&'static str, u64)> {
        if let Ok((_, dropped)) = kernel::statistics(&self.socket) {
            self.counters.kernel_dropped += u64::from(dropped);
        }
        let counters = &self.counters;
        vec![
            ("receive-queue-full", counters.kernel_dropped),
            ("short-frame", counters.short_frame),
            ("bad-offload", counters.bad_offload),
            ("sent-through-kernel", counters.through_kernel),
            ("next-hop-not-asked", self.hops.not_asked()),
            ("send-queue-full", counters.queue_full),
            ("too-big", counters.too_big),
            ("send-failed", counters.send_failed),
        ]
    }

    fn reopen(&mut self) -> io::Result<()> {
        let again = PacketUplink::open(&self.interface.name, self.wanted.clone());
        let mut again = again.map_err(UplinkError::into_io)?;
        again.counters = std::mem::take(&mut self.counters);
        *self = again;
        Ok(())
    }
}
