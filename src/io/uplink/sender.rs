//! Sends whole IP packets through the kernel's routing: an `IPPROTO_RAW` socket for each family; for
//! IPv4 it is the `transport` channel of pnet, which has none for whole IPv6 packets.
//!
//! The kernel finds route and neighbour, and fills total length and header checksum of IPv4. It
//! never cuts: a packet above the device's MTU is answered with `EMSGSIZE`.

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
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
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
    /// None on a host without IPv6.
    six: Option<Socket>,
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
        let four = fd::of_channel(&channel);
        fcntl_setfd(four, FdFlags::CLOEXEC).map_err(io::Error::from).map_err(fail())?;
        ioctl_fionbio(four, true).map_err(io::Error::from).map_err(fail())?;
        prepare(&SockRef::from(&four), interface).map_err(fail())?;
        let six = open_six(interface).map_err(fail())?;
        Ok(RawSender { name, channel, six, info: LinkInfo::plain(mtu, 0), failed: 0 })
    }

    /// Says that the interface has another MTU, in bytes.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.info.mtu = mtu;
    }
}

/// Makes a sending socket deaf and ties it to its interface.
fn prepare(socket: &SockRef<'_>, interface: Option<&str>) -> io::Result<()> {
    socket.attach_filter(&filter::nothing())?;
    if let Some(interface) = interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    // A smaller buffer than wished for is no reason to fail.
    let _ = socket.set_send_buffer_size(SEND_BUFFER);
    Ok(())
}

/// The socket for IPv6, whose packets start with their header because its protocol is RAW.
fn open_six(interface: Option<&str>) -> io::Result<Option<Socket>> {
    let kind = Type::RAW.nonblocking().cloexec();
    match Socket::new(Domain::IPV6, kind, Some(Protocol::from(libc::IPPROTO_RAW))) {
        Ok(socket) => prepare(&SockRef::from(&socket), interface).map(|()| Some(socket)),
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The destination in an IP header, or nothing if it is none.
pub(super) fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(Ipv4Addr::from(*packet.get(16..)?.first_chunk::<4>()?).into()),
        6 => Some(Ipv6Addr::from(*packet.get(24..)?.first_chunk::<16>()?).into()),
        _ => None,
    }
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
        let sent = match (destination, &self.six) {
            (IpAddr::V4(_), _) => self.channel.send_to(Whole(buffer.bytes()), destination),
            (IpAddr::V6(destination), Some(six)) => {
                // A port here would be taken for a protocol number.
                let address = SocketAddr::V6(SocketAddrV6::new(destination, 0, 0, 0));
                six.send_to(buffer.bytes(), &address.into())
            }
            (IpAddr::V6(_), None) => Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
        };
        sent.map(drop).inspect_err(|_| self.failed += 1)
    }

    fn readable(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn counters(&mut self) -> Vec<(&'static str, u64)> {
        vec![("send-failed", self.failed)]
    }
}
