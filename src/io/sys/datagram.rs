//! Datagrams of UDP and ping sockets, with what a header says beside their payload: TTL, TOS, how
//! a super-frame is cut; and the ICMP errors that sockets gather about them (`IP_RECVERR`).

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// What a datagram is sent with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sent {
    /// To whom.
    pub to: SocketAddr,
    /// From which address of the host, where it should not choose.
    pub from: Option<IpAddr>,
    /// Time to live, or hop limit; not 0.
    pub hops: u8,
    /// TOS byte, or traffic class.
    pub tos: u8,
    /// The payload is that of many datagrams, of so many bytes each (UDP only).
    pub segment: Option<u16>,
}

/// What came with a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// Bytes of it.
    pub length: usize,
    /// It was longer than the buffer, and is cut.
    pub truncated: bool,
    /// From whom.
    pub from: SocketAddr,
    /// To which address of the host, if the kernel told.
    pub to: Option<IpAddr>,
    /// Time to live, or hop limit, as it arrived; 64 if the kernel did not tell.
    pub hops: u8,
    /// TOS byte, or traffic class.
    pub tos: u8,
    /// It is many datagrams, of so many bytes each but the last.
    pub segment: Option<u16>,
}

/// An error about a datagram that was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Complaint {
    /// The kernel's number for it.
    pub errno: i32,
    /// ICMP type and code, if somebody sent such a message; else the host itself complains.
    pub icmp: Option<(u8, u8)>,
    /// The MTU, where it is about size.
    pub info: u32,
    /// Who the datagram was for.
    pub about: SocketAddr,
    /// Who says so.
    pub offender: Option<IpAddr>,
    /// Bytes of the datagram that are quoted.
    pub length: usize,
}

/// Whether datagrams may be fragmented by the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cutting {
    /// The host cuts what is too big, and nobody on the way is forbidden to.
    Allowed,
    /// Nobody may: what is too big is refused with `EMSGSIZE`.
    Forbidden,
}

/// Has the socket tell what [`Received`] and [`Complaint`] say. `udp` also has it gather datagrams to
/// super-frames, where the kernel can (Linux 5.0).
///
/// # Errors
/// The kernel's word.
pub fn prepare(socket: impl AsFd, six: bool, udp: bool) -> io::Result<()> {
    let socket = socket.as_fd();
    let told: [(libc::c_int, libc::c_int); 4] = match six {
        false => [
            (libc::IPPROTO_IP, libc::IP_RECVERR),
            (libc::IPPROTO_IP, libc::IP_RECVTTL),
            (libc::IPPROTO_IP, libc::IP_RECVTOS),
            (libc::IPPROTO_IP, libc::IP_PKTINFO),
        ],
        true => [
            (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
            (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT),
            (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
            (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        ],
    };
    for (level, option) in told {
        set(socket, level, option, 1)?;
    }
    if udp {
        // A kernel without it gives them one by one.
        let _ = set(socket, libc::IPPROTO_UDP, libc::UDP_GRO, 1);
    }
    Ok(())
}

/// Says whether what is sent from now on may be fragmented.
///
/// # Errors
/// The kernel's word.
pub fn set_cutting(socket: impl AsFd, six: bool, cutting: Cutting) -> io::Result<()> {
    let (level, option) = match six {
        false => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
        true => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
    };
    let value = match cutting {
        Cutting::Allowed => libc::IP_PMTUDISC_DONT,
        Cutting::Forbidden => libc::IP_PMTUDISC_DO,
    };
    set(socket.as_fd(), level, option, value)
}

fn set(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the option's value is one readable C integer of the size given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Room for the control messages of one datagram; aligned for their headers.
#[repr(C, align(8))]
struct Control {
    bytes: [u8; 256],
    used: usize,
}

impl Control {
    fn new() -> Self {
        Control { bytes: [0; 256], used: 0 }
    }

    /// Adds a control message, if there is room: a header as `struct cmsghdr` has it, and `data`.
    fn add(&mut self, level: libc::c_int, kind: libc::c_int, data: &[u8]) {
        const HEADER: usize = size_of::<libc::cmsghdr>();
        let length = HEADER + data.len();
        let Some(room) = self.bytes.get_mut(self.used..self.used + length.next_multiple_of(8)) else {
            return;
        };
        let word = size_of::<usize>();
        room[..word].copy_from_slice(&length.to_ne_bytes());
        room[word..word + 4].copy_from_slice(&level.to_ne_bytes());
        room[word + 4..word + 8].copy_from_slice(&kind.to_ne_bytes());
        room[HEADER..length].copy_from_slice(data);
        self.used += length.next_multiple_of(8);
    }

    fn add_int(&mut self, level: libc::c_int, kind: libc::c_int, value: u8) {
        self.add(level, kind, &libc::c_int::from(value).to_ne_bytes());
    }
}

/// Sends one datagram, or one super-frame of them.
///
/// # Errors
/// The kernel's word; it may be an earlier complaint, and nothing was sent then.
pub fn send(socket: impl AsFd, payload: &[u8], sent: &Sent) -> io::Result<()> {
    let mut control = Control::new();
    match sent.to {
        SocketAddr::V4(_) => {
            control.add_int(libc::IPPROTO_IP, libc::IP_TTL, sent.hops);
            control.add_int(libc::IPPROTO_IP, libc::IP_TOS, sent.tos);
        }
        SocketAddr::V6(_) => {
            control.add_int(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, sent.hops);
            control.add_int(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, sent.tos);
        }
    }
    match sent.from {
        Some(IpAddr::V4(from)) => {
            // struct in_pktinfo: interface, the address to send from, and one that is not read.
            let mut info = [0; 12];
            info[4..8].copy_from_slice(&from.octets());
            control.add(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        }
        Some(IpAddr::V6(from)) => {
            // struct in6_pktinfo: the address to send from, and interface.
            let mut info = [0; 20];
            info[..16].copy_from_slice(&from.octets());
            control.add(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        }
        None => {}
    }
    if let Some(segment) = sent.segment {
        control.add(libc::IPPROTO_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
    }
    let mut name = Name::of(sent.to);
    let mut part = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    // SAFETY: all zeros are a valid `msghdr`, which has private padding on some targets.
    let mut message = unsafe { MaybeUninit::<libc::msghdr>::zeroed().assume_init() };
    message.msg_name = name.bytes.as_mut_ptr().cast();
    message.msg_namelen = name.length;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.bytes.as_mut_ptr().cast();
    message.msg_controllen = control.used as _;
    // SAFETY: each pointer in the message goes to readable memory of the length beside it, which
    // outlives the call and is not written to.
    let result = unsafe {
        libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Receives one datagram, or one super-frame of them, into `buffer`.
///
/// # Errors
/// `WouldBlock` when there is none; `InvalidData` if the kernel did not tell the sender; the
/// kernel's word otherwise, which may be a complaint.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    let (mut name, mut control) = (Name::empty(), Control::new());
    let (message, length) = receive_message(socket.as_fd(), buffer, &mut name, &mut control, 0)?;
    let from = name.read().ok_or(io::ErrorKind::InvalidData)?;
    let mut received = Received {
        length,
        truncated: message.msg_flags & libc::MSG_TRUNC != 0,
        from,
        to: None,
        hops: 64,
        tos: 0,
        segment: None,
    };
    each(&message, |level, kind, data| match (level, kind, data) {
        (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, _) | (libc::IPPROTO_IP, libc::IP_TTL, _) => {
            received.hops = int(data).and_then(|value| u8::try_from(value).ok()).unwrap_or(received.hops);
        }
        // One byte in IPv4, an integer in IPv6.
        (libc::IPPROTO_IP, libc::IP_TOS, [tos, ..]) => received.tos = *tos,
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, _) => {
            received.tos = int(data).and_then(|value| u8::try_from(value).ok()).unwrap_or(0);
        }
        (libc::IPPROTO_IP, libc::IP_PKTINFO, [_, _, _, _, _, _, _, _, a, b, c, d, ..]) => {
            received.to = Some(Ipv4Addr::new(*a, *b, *c, *d).into());
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, _) => {
            received.to = data.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets).into());
        }
        (libc::IPPROTO_UDP, libc::UDP_GRO, _) => {
            received.segment = int(data).and_then(|value| u16::try_from(value).ok());
        }
        _ => {}
    });
    Ok(received)
}

/// Takes one error from the socket's queue; what it quotes of the datagram's payload goes to
/// `buffer`. What the kernel queues beside errors is `Ok(None)`.
///
/// # Errors
/// `WouldBlock` when there is none.
pub fn receive_error(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<Complaint>> {
    let (mut name, mut control) = (Name::empty(), Control::new());
    let (message, length) =
        receive_message(socket.as_fd(), buffer, &mut name, &mut control, libc::MSG_ERRQUEUE)?;
    let Some(about) = name.read() else { return Ok(None) };
    let mut complaint = None;
    each(&message, |level, kind, data| {
        let error = matches!(
            (level, kind),
            (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
        );
        // struct sock_extended_err: errno, origin, type, code, padding, info, data; then an address.
        let Some((&[a, b, c, d, origin, icmp_type, code, _, e, f, g, h], rest)) = data.split_first_chunk()
        else {
            return;
        };
        if !error {
            return;
        }
        let sent = matches!(origin, SO_EE_ORIGIN_ICMP | SO_EE_ORIGIN_ICMP6);
        complaint = Some(Complaint {
            errno: i32::from_ne_bytes([a, b, c, d]),
            icmp: sent.then_some((icmp_type, code)),
            info: u32::from_ne_bytes([e, f, g, h]),
            about,
            offender: rest.get(4..).and_then(read_address).map(|offender| offender.ip()),
            length,
        });
    });
    Ok(complaint)
}

/// The MTU of the path of a datagram that was refused with `EMSGSIZE` just now, if the error queue
/// tells. Other errors that are in it are lost.
pub fn told_mtu(socket: impl AsFd) -> Option<u16> {
    let socket = socket.as_fd();
    while let Ok(told) = receive_error(socket, &mut []) {
        if let Some(Complaint { errno: libc::EMSGSIZE, icmp: None, info, .. }) = told {
            return u16::try_from(info).ok();
        }
    }
    None
}

/// Origins of an error, from `linux/errqueue.h`.
const SO_EE_ORIGIN_ICMP: u8 = 2;
const SO_EE_ORIGIN_ICMP6: u8 = 3;

fn int(data: &[u8]) -> Option<libc::c_int> {
    data.first_chunk().map(|bytes| libc::c_int::from_ne_bytes(*bytes))
}

fn receive_message(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    name: &mut Name,
    control: &mut Control,
    flags: libc::c_int,
) -> io::Result<(libc::msghdr, usize)> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeros are a valid `msghdr`, which has private padding on some targets.
    let mut message = unsafe { MaybeUninit::<libc::msghdr>::zeroed().assume_init() };
    message.msg_name = name.bytes.as_mut_ptr().cast();
    message.msg_namelen = name.length;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.bytes.as_mut_ptr().cast();
    message.msg_controllen = control.bytes.len() as _;
    // SAFETY: each pointer in the message goes to writable memory of the length beside it, which
    // outlives the call.
    let result = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags | libc::MSG_DONTWAIT) };
    let length = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
    name.length = message.msg_namelen;
    Ok((message, length))
}

/// Hands each control message of a received `message`, whose control buffer must still be there, to
/// `see`: level, type, data.
pub(super) fn each(message: &libc::msghdr, mut see: impl FnMut(libc::c_int, libc::c_int, &[u8])) {
    // SAFETY: the kernel filled `msg_control` up to `msg_controllen` with whole control messages,
    // and these macros stay within that.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !next.is_null() {
        // SAFETY: not null, so a header within the buffer, which is aligned for it.
        let header = unsafe { *next };
        // SAFETY: as above; the data follow the header. `CMSG_LEN` only computes.
        let (data, before) = unsafe { (libc::CMSG_DATA(next), libc::CMSG_LEN(0) as usize) };
        let length = (header.cmsg_len as usize).saturating_sub(before);
        // SAFETY: the kernel wrote `length` bytes of data behind the header.
        see(header.cmsg_level, header.cmsg_type, unsafe { std::slice::from_raw_parts(data, length) });
        // SAFETY: `next` is a header of this message.
        next = unsafe { libc::CMSG_NXTHDR(message, next) };
    }
}

/// A `sockaddr_in` or `sockaddr_in6`, as bytes: family (2), port (2, network order), then for IPv4
/// the address (4), for IPv6 flow label (4), address (16), scope (4).
#[repr(C, align(8))]
struct Name {
    bytes: [u8; 32],
    length: libc::socklen_t,
}

impl Name {
    fn empty() -> Self {
        Name { bytes: [0; 32], length: 32 }
    }

    fn of(address: SocketAddr) -> Self {
        let mut name = Name::empty();
        name.bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        let family = match address {
            SocketAddr::V4(four) => {
                name.bytes[4..8].copy_from_slice(&four.ip().octets());
                name.length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
                libc::AF_INET
            }
            SocketAddr::V6(six) => {
                name.bytes[8..24].copy_from_slice(&six.ip().octets());
                name.bytes[24..28].copy_from_slice(&six.scope_id().to_ne_bytes());
                name.length = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
                libc::AF_INET6
            }
        };
        name.bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
        name
    }

    fn read(&self) -> Option<SocketAddr> {
        read_address(self.bytes.get(..self.length as usize)?)
    }
}

fn read_address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*bytes.first_chunk()?);
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
    match i32::from(family) {
        libc::AF_INET => {
            let ip: [u8; 4] = *bytes.get(4..)?.first_chunk()?;
            Some(SocketAddrV4::new(ip.into(), port).into())
        }
        libc::AF_INET6 => {
            let ip: [u8; 16] = *bytes.get(8..)?.first_chunk()?;
            let scope = u32::from_ne_bytes(*bytes.get(24..)?.first_chunk()?);
            Some(SocketAddrV6::new(ip.into(), port, 0, scope).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Duration;

    fn pair(local: &str) -> Option<(UdpSocket, UdpSocket)> {
        let (one, two) = (UdpSocket::bind(local).ok()?, UdpSocket::bind(local).ok()?);
        for socket in [&one, &two] {
            socket.set_nonblocking(true).unwrap();
            prepare(socket, local.starts_with('['), true).unwrap();
        }
        Some((one, two))
    }

    fn to(address: SocketAddr) -> Sent {
        Sent { to: address, from: None, hops: 9, tos: 0x28, segment: None }
    }

    /// What comes in the next moments: also on the loopback, a busy kernel delivers later.
    fn soon<T>(mut read: impl FnMut() -> io::Result<T>) -> T {
        let mut turns = 0..5000;
        loop {
            match read() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && turns.next().is_some() => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                result => return result.unwrap(),
            }
        }
    }

    #[test]
    fn headers_go_and_come_beside_the_payload() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let Some((one, two)) = pair(local) else { continue };
            send(&one, b"hello", &to(two.local_addr().unwrap())).unwrap();
            let mut buffer = [0; 100];
            let received = soon(|| receive(&two, &mut buffer));
            let want = Received {
                length: 5,
                truncated: false,
                from: one.local_addr().unwrap(),
                to: Some(two.local_addr().unwrap().ip()),
                hops: 9,
                tos: 0x28,
                segment: None,
            };
            assert_eq!((received, &buffer[..5]), (want, &b"hello"[..]));
            assert_eq!(receive(&two, &mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    }

    #[test]
    fn a_super_frame_goes_and_comes_whole() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let Some((one, two)) = pair(local) else { continue };
            let how = Sent { segment: Some(1000), ..to(two.local_addr().unwrap()) };
            send(&one, &[3; 4500], &how).unwrap();
            let mut buffer = [0; 9000];
            let received = soon(|| receive(&two, &mut buffer));
            assert_eq!((received.length, received.segment), (4500, Some(1000)));
        }
    }

    #[test]
    fn a_closed_port_and_too_big_a_datagram_are_told_by_the_error_queue() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let Some((one, two)) = pair(local) else { continue };
            let (six, gone) = (local.starts_with('['), two.local_addr().unwrap());
            drop(two);
            let mut buffer = [0; 100];
            assert_eq!(receive_error(&one, &mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            send(&one, b"anybody?", &to(gone)).unwrap();
            let complaint = soon(|| receive_error(&one, &mut buffer)).unwrap();
            assert_eq!(complaint.icmp, Some(if six { (1, 4) } else { (3, 3) }));
            assert_eq!((complaint.about, complaint.offender), (gone, Some(gone.ip())));
            assert_eq!(&buffer[..complaint.length], b"anybody?");
        }
    }
}
