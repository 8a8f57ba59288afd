//! AF_PACKET: link-layer addresses and the socket options of `SOL_PACKET`
//! (`include/uapi/linux/if_packet.h`).

use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

/// An interface, and what to take from it or what is sent: a `struct sockaddr_ll`.
#[derive(Clone, Copy)]
pub struct LinkAddress(libc::sockaddr_ll);

impl LinkAddress {
    /// The interface numbered `index` and an Ethernet protocol number, `ETH_P_ALL` for any.
    pub fn new(index: u32, protocol: u16) -> Self {
        LinkAddress(libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as libc::sa_family_t,
            sll_protocol: protocol.to_be(),
            sll_ifindex: index.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        })
    }
}

impl std::fmt::Debug for LinkAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkAddress").field("index", &self.0.sll_ifindex).finish_non_exhaustive()
    }
}

// SAFETY: the closure is given a valid `sockaddr_ll`, its real length, and both outlive the call.
unsafe impl SocketAddrArg for LinkAddress {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        f((&raw const self.0).cast(), size_of::<libc::sockaddr_ll>() as SocketAddrLen)
    }
}

/// The hardware type (`ARPHRD_*`) of the interface that a packet socket is bound to.
///
/// # Errors
/// The kernel's word; `EAFNOSUPPORT` if it is no packet socket.
pub fn hardware_type(fd: impl AsFd) -> io::Result<u16> {
    local_address(fd).map(|address| address.sll_hatype)
}

/// The number of the interface that a packet socket is bound to, if it is to one.
///
/// # Errors
/// The kernel's word; `EAFNOSUPPORT` if it is no packet socket.
pub fn bound_to(fd: impl AsFd) -> io::Result<Option<u32>> {
    // A socket whose interface was deleted says -1.
    let index = local_address(fd)?.sll_ifindex;
    Ok(u32::try_from(index).ok().filter(|index| *index != 0))
}

fn local_address(fd: impl AsFd) -> io::Result<libc::sockaddr_ll> {
    let mut address = MaybeUninit::<libc::sockaddr_ll>::zeroed();
    let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: address and length describe one writable `sockaddr_ll`.
    let result =
        unsafe { libc::getsockname(fd.as_fd().as_raw_fd(), address.as_mut_ptr().cast(), &raw mut length) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all bytes were zeroed before, and any bytes are a valid `sockaddr_ll`.
    let address = unsafe { address.assume_init() };
    if i32::from(address.sll_family) != libc::AF_PACKET {
        return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
    }
    Ok(address)
}

/// A number that all sockets of one network namespace have in common (`SO_NETNS_COOKIE`, Linux 5.14).
///
/// # Errors
/// `ENOPROTOOPT` on older kernels.
pub fn namespace_cookie(fd: impl AsFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: pointer and length describe one writable u64.
    let result = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// Turns a `SOL_PACKET` switch on.
fn switch_on(fd: impl AsFd, option: i32) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: these options read one int.
    let result = unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_PACKET,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Keeps the host's own outgoing frames away (`PACKET_IGNORE_OUTGOING`, Linux 4.20).
///
/// # Errors
/// `ENOPROTOOPT` on older kernels.
pub fn ignore_outgoing(fd: impl AsFd) -> io::Result<()> {
    switch_on(fd, libc::PACKET_IGNORE_OUTGOING)
}

/// Puts a `virtio_net_hdr` before each frame, both ways (`PACKET_VNET_HDR`).
///
/// # Errors
/// The kernel's word.
pub fn use_virtio_header(fd: impl AsFd) -> io::Result<()> {
    switch_on(fd, libc::PACKET_VNET_HDR)
}

/// Packets that passed the filter, and those of them that found the queue full, since the last
/// call (`PACKET_STATISTICS`).
///
/// # Errors
/// The kernel's word.
pub fn statistics(fd: impl AsFd) -> io::Result<(u32, u32)> {
    let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: pointer and length describe one writable `tpacket_stats`.
    let result = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((statistics.tp_packets, statistics.tp_drops))
}
