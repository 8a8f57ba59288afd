//! Packets of `AF_INET6` raw sockets, with what the kernel tells beside them (RFC 3542 §6, §9):
//! such a socket is given only what stands behind the IPv6 headers.

use super::datagram::each;
use std::io;
use std::mem::MaybeUninit;
use std::net::Ipv6Addr;
use std::os::fd::{AsFd, AsRawFd};

/// What the kernel tells of a packet's IPv6 header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Beside {
    /// Bytes received: transport header and data.
    pub length: usize,
    /// The packet was longer than the buffer, and is cut.
    pub truncated: bool,
    /// The header's source.
    pub source: Ipv6Addr,
    /// The header's destination.
    pub destination: Ipv6Addr,
    /// The header's hop limit as it arrived.
    pub hop_limit: u8,
    /// The kernel put it together from fragments.
    pub reassembled: bool,
    /// Traffic class (8 bits) and flow label (20 bits), as in the header's first word.
    pub flow_information: u32,
}

/// What is told beside a packet: addresses, hop limit, traffic class, flow label, and whether it came
/// in fragments (Linux 4.16).
const TOLD: [libc::c_int; 5] = [
    libc::IPV6_RECVPKTINFO,
    libc::IPV6_RECVHOPLIMIT,
    libc::IPV6_RECVTCLASS,
    libc::IPV6_FLOWINFO,
    libc::IPV6_RECVFRAGSIZE,
];

/// Asks for what [`receive`] tells, of every packet from then on.
///
/// # Errors
/// The kernel's word.
pub fn ask_for_headers(socket: impl AsFd) -> io::Result<()> {
    for option in TOLD {
        let on: libc::c_int = 1;
        // SAFETY: the option's value is one readable C integer of the size given.
        let result = unsafe {
            libc::setsockopt(
                socket.as_fd().as_raw_fd(),
                libc::IPPROTO_IPV6,
                option,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Room for five control messages, of which the largest has 20 bytes; aligned for their headers.
#[repr(C, align(8))]
struct Control([MaybeUninit<u8>; 256]);

/// Receives one packet into `buffer`.
///
/// # Errors
/// `WouldBlock` when there is none; `InvalidData` if the kernel did not tell source and
/// destination; the kernel's word otherwise.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Beside> {
    let mut name = MaybeUninit::<libc::sockaddr_in6>::zeroed();
    let mut control = Control([MaybeUninit::uninit(); 256]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeros are a valid `msghdr`, which has private padding on some targets.
    let mut message = unsafe { MaybeUninit::<libc::msghdr>::zeroed().assume_init() };
    message.msg_name = name.as_mut_ptr().cast();
    message.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Control>() as _;
    // SAFETY: each pointer in the message goes to writable memory of the length beside it, which
    // outlives the call.
    let result = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, 0) };
    let length = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
    let complete = message.msg_namelen as usize >= size_of::<libc::sockaddr_in6>();
    // SAFETY: all bytes were zeroed before, and any bytes are a valid `sockaddr_in6`.
    let name = unsafe { name.assume_init() };
    let mut beside = Beside {
        length,
        truncated: message.msg_flags & libc::MSG_TRUNC != 0,
        source: name.sin6_addr.s6_addr.into(),
        destination: Ipv6Addr::UNSPECIFIED,
        hop_limit: 0,
        reassembled: false,
        flow_information: 0,
    };
    let told = read_control(&message, &mut beside);
    let whole = complete && i32::from(name.sin6_family) == libc::AF_INET6 && told;
    if whole { Ok(beside) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Takes over what the control messages say; whether the destination was among it.
fn read_control(message: &libc::msghdr, beside: &mut Beside) -> bool {
    let mut told = false;
    each(message, |level, kind, data| {
        if level != libc::IPPROTO_IPV6 {
            return;
        }
        if kind == libc::IPV6_PKTINFO {
            // `struct in6_pktinfo`: the address (16), then an interface's number.
            if let Some(address) = data.first_chunk::<16>() {
                beside.destination = (*address).into();
                told = true;
            }
            return;
        }
        let Some(value) = data.first_chunk().copied().map(u32::from_ne_bytes) else { return };
        match kind {
            libc::IPV6_HOPLIMIT => beside.hop_limit = value as u8,
            libc::IPV6_RECVFRAGSIZE => beside.reassembled = true,
            libc::IPV6_TCLASS => beside.flow_information |= (value & 0xff) << 20,
            // In network order, traffic class and flow label together.
            libc::IPV6_FLOWINFO => beside.flow_information |= u32::from_be(value) & 0x0fff_ffff,
            _ => {}
        }
    });
    told
}
