//! Socket options that no crate covers.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Has a TCP socket ignore, without a word, every packet whose TTL is below `ttl` when it arrives
/// (`IP_MINTTL`; `tcp_v4_rcv` looks before anything else). Needs no privilege.
///
/// # Errors
/// The kernel's word.
pub fn set_min_ttl(socket: impl AsFd, ttl: u8) -> io::Result<()> {
    set(socket, libc::IPPROTO_IP, libc::IP_MINTTL, ttl.into())
}

/// The same for IPv6: every packet whose hop limit is below `limit` (`IPV6_MINHOPCOUNT`).
///
/// # Errors
/// The kernel's word.
pub fn set_min_hop_limit(socket: impl AsFd, limit: u8) -> io::Result<()> {
    set(socket, libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, limit.into())
}

/// Where the next peek begins, in bytes from the front of what was received; -1: always at the front
/// (`SO_PEEK_OFF`; TCP has it from Linux 6.9 on).
///
/// # Errors
/// The kernel's word.
pub fn set_peek_offset(socket: impl AsFd, offset: i32) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF, offset)
}

fn set(socket: impl AsFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the option's value is one readable C integer of the size given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
