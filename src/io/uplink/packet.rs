//! The AF_PACKET uplink: frames of one Ethernet interface, super-frames whole.
//!
//! The gateway sees IP packets: the Ethernet header is taken off and put on here. A filter in the
//! kernel lets in what is for our addresses and ports only. Such a socket takes copies: the host's
//! own stack sees the same packets, which is the business of `io/guard.rs`.

use super::asker::Asker;
use super::inherited::Inherited;
use super::sender::{RawSender, destination};
use super::{UplinkError, mtu};
use crate::flow::{LinkInfo, Time};
use crate::io::filter::{self, Form, Wanted};
use crate::io::netlink::{LinkFacts, Netlink};
use crate::io::nexthop::{NextHop, NextHops};
use crate::io::sys::packet::{self as kernel, LinkAddress};
use crate::io::{Link, deliver, virtio};
use crate::wire::{Buffer, SegmentKind};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, sendmsg_addr, sockopt};
use socket2::{Domain, Socket, Type};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

/// How much may wait in the socket, each way, in bytes: tens of milliseconds at 10 Gbit/s.
const SOCKET_BUFFER: usize = 32 << 20;
const ETHERNET_HEADER: u8 = 14;
/// Packets received in a row before news of neighbours are looked for all the same.
const LISTEN: u32 = 256;
/// What may be queued in a socket that was handed over, in packets: more cannot be in its buffer.
const QUEUED: u32 = 1 << 16;

/// What becomes of a packet whose next hop only the kernel can find.
#[derive(Debug)]
enum Unresolved {
    /// The kernel sends it.
    Sent(RawSender),
    /// It waits, while the kernel is asked.
    Held(Asker),
}

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
    unresolved: Unresolved,
    /// Its socket cannot be opened anew: it was handed over.
    inherited: bool,
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
        let facts = usable(interface)?;
        let kind = Type::RAW.nonblocking().cloexec();
        let socket = Socket::new(Domain::PACKET, kind, None).map_err(UplinkError::other("packet socket"))?;
        let sender = RawSender::open(Some(interface), mtu(&facts))?;
        Self::with(socket, facts, wanted, Unresolved::Sent(sender))
    }

    /// Is the uplink on `interface` by a socket that was handed over. Where this process may not open
    /// raw IP sockets, packets wait for neighbours that the kernel does not know yet.
    ///
    /// # Errors
    /// See [`UplinkError`].
    pub fn adopt(inherited: Inherited, interface: &str, wanted: Wanted) -> Result<Self, UplinkError> {
        let facts = usable(interface)?;
        let unresolved = by_kernel_or_held(&facts)?;
        let number = inherited.number();
        let mut uplink = Self::with(inherited.into_socket(), facts, wanted, unresolved).map_err(|error| {
            match error {
                // What may be done with such a socket was settled when it was opened.
                UplinkError::Forbidden(_) => UplinkError::Descriptor(number, "its filter is locked"),
                UplinkError::Other { source, .. } if source.raw_os_error() == Some(libc::EBUSY) => {
                    UplinkError::Descriptor(number, "somebody has mapped rings of it into memory")
                }
                other => other,
            }
        })?;
        uplink.inherited = true;
        uplink.drain();
        Ok(uplink)
    }

    fn with(
        socket: Socket,
        facts: LinkFacts,
        wanted: Wanted,
        unresolved: Unresolved,
    ) -> Result<Self, UplinkError> {
        prepare(&socket, &wanted)?;
        bind(&socket, &facts)?;
        Ok(PacketUplink {
            name: format!("{} (packet)", facts.name),
            socket,
            info: LinkInfo::offloading(mtu(&facts), 0),
            wanted,
            hops: NextHops::open(facts.index).map_err(UplinkError::other("netlink"))?,
            unresolved,
            inherited: false,
            scratch: Buffer::new(),
            unheard: 0,
            interface: facts,
            counters: Counters::default(),
        })
    }

    /// Forgets what came before the filter was there.
    fn drain(&mut self) {
        let mut byte = [0; 1];
        for _ in 0..QUEUED {
            // Other errors go with being told: that the interface was down, for one.
            let received = rustix::net::recv(&self.socket, &mut byte[..], RecvFlags::TRUNC);
            if received.is_err_and(|error| error == Errno::AGAIN) {
                return;
            }
        }
    }

    /// Binds the socket anew: its interface was down, or is another of the same name.
    fn rebind(&mut self) -> Result<(), UplinkError> {
        let facts = usable(&self.interface.name)?;
        self.unresolved = by_kernel_or_held(&facts)?;
        self.hops = NextHops::open(facts.index).map_err(UplinkError::other("netlink"))?;
        bind(&self.socket, &facts)?;
        self.info.mtu = mtu(&facts);
        self.interface = facts;
        Ok(())
    }

    /// Whether packets to neighbours that the kernel does not know wait here, since this process may
    /// not open raw IP sockets.
    pub fn holds(&self) -> bool {
        matches!(self.unresolved, Unresolved::Held(_))
    }

    /// The interface as it was when last looked at.
    pub fn interface(&self) -> &LinkFacts {
        &self.interface
    }

    /// Takes in changes of routes, neighbours and the interface's own address and MTU.
    fn update(&mut self) {
        self.unheard = 0;
        let changed = self.hops.update();
        self.send_held();
        if !changed {
            return;
        }
        let facts = Netlink::open().and_then(|netlink| netlink.link_by_index(self.interface.index));
        if let Ok(Some(facts)) = facts {
            self.info.mtu = mtu(&facts);
            if let Unresolved::Sent(sender) = &mut self.unresolved {
                sender.set_mtu(self.info.mtu);
            }
            self.interface = facts;
        }
    }

    /// Sends what waited for neighbours that are known by now.
    fn send_held(&mut self) {
        let Unresolved::Held(asker) = &mut self.unresolved else { return };
        if asker.is_empty() {
            return;
        }
        let hops = &mut self.hops;
        let known = |destination| match hops.known(destination) {
            Some((_, mac)) => mac.is_some(),
            // Routes have changed meanwhile.
            None => matches!(hops.find(destination), NextHop::Mac(_)),
        };
        for mut held in asker.take(known) {
            if let Some((_, Some(mac))) = self.hops.known(held.destination)
                && let Err(error) = self.send_frame(mac, &mut held.packet)
            {
                let kind = held.packet.offload.segment.map(|segment| segment.kind);
                self.count_failure(&error, kind);
            }
        }
    }

    /// Sends a packet whose next hop is not known, or has to be verified.
    fn send_unresolved(&mut self, destination: IpAddr, buffer: &mut Buffer) -> io::Result<()> {
        match &mut self.unresolved {
            Unresolved::Sent(sender) => {
                self.counters.through_kernel += 1;
                deliver(sender, buffer, &mut self.scratch)
            }
            Unresolved::Held(asker) => match self.hops.known(destination) {
                Some((hop, Some(mac))) => {
                    asker.ask(hop);
                    self.send_frame(mac, buffer)
                }
                Some((hop, None)) => {
                    asker.ask(hop);
                    asker.hold(destination, buffer)
                }
                None => {
                    asker.lost += 1;
                    Err(io::Error::from_raw_os_error(libc::ENETUNREACH))
                }
            },
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

/// The interface, if it is there and up.
fn usable(interface: &str) -> Result<LinkFacts, UplinkError> {
    let facts = Netlink::open().and_then(|netlink| netlink.link(interface));
    let facts = facts.map_err(UplinkError::other("netlink"))?;
    let facts = facts.ok_or_else(|| UplinkError::NoInterface(interface.to_owned()))?;
    if facts.up { Ok(facts) } else { Err(UplinkError::Down(interface.to_owned())) }
}

/// The kernel as the one who sends to neighbours that only it can find; without the right to that,
/// packets wait for them.
fn by_kernel_or_held(facts: &LinkFacts) -> Result<Unresolved, UplinkError> {
    match RawSender::open(Some(&facts.name), mtu(facts)) {
        Ok(sender) => Ok(Unresolved::Sent(sender)),
        Err(UplinkError::Forbidden(_)) => Ok(Unresolved::Held(Asker::open(facts))),
        Err(other) => Err(other),
    }
}

/// Filters a socket, which is not bound yet if it is our own: nothing unfiltered is ever queued then.
fn prepare(socket: &Socket, wanted: &Wanted) -> Result<(), UplinkError> {
    let fail = || UplinkError::other("packet socket");
    socket.attach_filter(&filter::build(wanted, Form::Frames)).map_err(fail())?;
    kernel::ignore_outgoing(socket).map_err(fail())?;
    kernel::use_virtio_header(socket).map_err(fail())?;
    // Buffers beyond the host's limit need CAP_NET_ADMIN; without it the limit has to do.
    if sockopt::set_socket_recv_buffer_size_force(socket, SOCKET_BUFFER).is_err() {
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    }
    if sockopt::set_socket_send_buffer_size_force(socket, SOCKET_BUFFER).is_err() {
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    }
    Ok(())
}

/// Binds a socket to an Ethernet interface.
fn bind(socket: &Socket, facts: &LinkFacts) -> Result<(), UplinkError> {
    let fail = || UplinkError::other("packet socket");
    let address = LinkAddress::new(facts.index, libc::ETH_P_ALL as u16);
    rustix::net::bind(socket, &address).map_err(io::Error::from).map_err(fail())?;
    if kernel::hardware_type(socket).map_err(fail())? != libc::ARPHRD_ETHER {
        return Err(UplinkError::NotEthernet(facts.name.clone()));
    }
    Ok(())
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
            NextHop::Kernel => self.send_unresolved(destination, buffer),
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
        let unresolved = match &self.unresolved {
            Unresolved::Sent(_) => 0,
            Unresolved::Held(asker) => asker.lost,
        };
        vec![
            ("next-hop-not-found", unresolved),
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

    fn tick(&mut self, now: Time) {
        if let Unresolved::Held(asker) = &mut self.unresolved {
            asker.tick(now);
        }
    }

    fn next_deadline(&self) -> Option<Time> {
        match &self.unresolved {
            Unresolved::Sent(_) => None,
            Unresolved::Held(asker) => asker.next_deadline(),
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        if self.inherited {
            return self.rebind().map_err(UplinkError::into_io);
        }
        let again = PacketUplink::open(&self.interface.name, self.wanted.clone());
        let mut again = again.map_err(UplinkError::into_io)?;
        again.counters = std::mem::take(&mut self.counters);
        *self = again;
        Ok(())
    }
}
