//! Sends whole IPv4 packets through the kernel's routing: an `IPPROTO_RAW` socket, the `transport`
//! channel of pnet.
//!
//! The kernel finds route and neighbour, and fills total length and header checksum. It never cuts:
//! a packet above the device's MTU is answered with `EMSGSIZE`.

use super::UplinkError;
use crate::flow::LinkInfo;
use crate::io::Link;
use crate::io::filter;
use crate::io::sys::fd;
use crate::wire::Buffer;
use pnet::packet::Packet;
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::transport::{TransportChannelType, TransportSender, transport_channel};
use rustix::io::{FdFlags, fcntl_setfd, ioctl_fionbio};
use socket2::SockRef;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;

/// How much the socket may hold on its way out, in bytes.
const SEND_BUFFER: usize = 4 << 20;

/// A packet as pnet sends it: header and all.
struct Whole<'a>(&'a [u8]);

impl Packet for Whole<'_> {
    fn packet(&self) -> &[u8] {
        self.0
    }

    fn payload(&self) -> &[u8] {
        self.0
    }
}

/// The sending side of a raw uplink. It never receives anything.
pub struct RawSender {
    name: String,
    channel: TransportSender,
    info: LinkInfo,
    failed: u64,
}

impl std::fmt::Debug for RawSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawSender").field("name", &self.name).finish_non_exhaustive()
    }
}

impl RawSender {
    /// A sender; through `interface` only, if one is given. `mtu` in bytes.
    ///
    /// # Errors
    /// [`UplinkError::Forbidden`] without CAP_NET_RAW.
    pub fn open(interface: Option<&str>, mtu: u16) -> Result<Self, UplinkError> {
        let fail = || UplinkError::other("raw IP socket");
        let kind = TransportChannelType::Layer3(IpNextHeaderProtocols::Reserved);
        // The receiving half shares the socket and is never read.
        let (channel, _) = transport_channel(0, kind).map_err(fail())?;
        let name = match interface {
            Some(interface) => format!("{interface} (raw)"),
            None => "host (raw)".to_owned(),
        };
        let sender = RawSender { name, channel, info: LinkInfo::plain(mtu, 0), failed: 0 };
        let socket = fd::of_channel(&sender.channel);
        fcntl_setfd(socket, FdFlags::CLOEXEC).map_err(io::Error::from).map_err(fail())?;
        ioctl_fionbio(socket, true).map_err(io::Error::from).map_err(fail())?;
        let socket = SockRef::from(&socket);
        socket.attach_filter(&filter::nothing()).map_err(fail())?;
        if let Some(interface) = interface {
            socket.bind_device(Some(interface.as_bytes())).map_err(fail())?;
        }
        // A smaller buffer than wished for is no reason to fail.
        let _ = socket.set_send_buffer_size(SEND_BUFFER);
        Ok(sender)
    }

    /// Says that the interface has another MTU, in bytes.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.info.mtu = mtu;
    }
}

/// The destination in an IPv4 header, or nothing if it is none.
pub(super) fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    (packet[0] >> 4 == 4).then(|| octets.into())
}

impl Link for RawSender {
    fn name(&self) -> &str {
        &self.name
    }

    fn info(&self) -> LinkInfo {
        self.info
    }

    fn recv(&mut self, _: &mut Buffer) -> io::Result<()> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn send(&mut self, buffer: &mut Buffer) -> io::Result<()> {
        let destination = destination(buffer.bytes()).ok_or(io::ErrorKind::InvalidInput)?;
        match self.channel.send_to(Whole(buffer.bytes()), destination.into()) {
            Ok(_) => Ok(()),
            Err(error) => {
                self.failed += 1;
                Err(error)
            }
        }
    }

    fn readable(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn counters(&mut self) -> Vec<(&'static str, u64)> {
        vec![("send-failed", self.failed)]
    }
}
