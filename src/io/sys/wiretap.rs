//! A packet socket on one interface that shows every frame passing, each with what the kernel still
//! owes it (the `virtio_net_hdr`), and that can put frames of any bytes on the wire.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Bytes of the header before each frame that [`Wiretap::recv`] returns (`struct virtio_net_hdr`).
pub const VNET_HEADER: usize = 10;

/// From the kernel's include/uapi/linux/if_packet.h.
const PACKET_VNET_HDR: libc::c_int = 15;

/// Bytes of frames that may wait to be looked at.
const BUFFER: libc::c_int = 64 << 20;

/// An open tap on a wire.
#[derive(Debug)]
pub struct Wiretap {
    fd: OwnedFd,
}

/// A frame as seen on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caught {
    /// Bytes in the buffer, [`VNET_HEADER`] included.
    pub length: usize,
    /// The interface's own host sent it.
    pub outgoing: bool,
}

impl Wiretap {
    /// Taps the interface with this index, in the calling thread's namespace.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_RAW`; `ENODEV` if there is no such interface.
    pub fn open(ifindex: u32) -> io::Result<Wiretap> {
        Wiretap::bound(ifindex, libc::ETH_P_ALL)
    }

    /// A socket on the interface that hears nothing and can only send.
    ///
    /// # Errors
    /// See [`Wiretap::open`].
    pub fn open_to_send(ifindex: u32) -> io::Result<Wiretap> {
        Wiretap::bound(ifindex, 0)
    }

    fn bound(ifindex: u32, protocol: libc::c_int) -> io::Result<Wiretap> {
        // SAFETY: a plain system call; the result is checked before it is owned.
        let fd = unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is fresh and nobody else owns it.
        let tap = Wiretap { fd: unsafe { OwnedFd::from_raw_fd(fd) } };
        tap.set(libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
        // Root of the machine may pass the limit on buffers; others get as much as the limit.
        if tap.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER).is_err() {
            tap.set(libc::SOL_SOCKET, libc::SO_RCVBUF, BUFFER)?;
        }
        // SAFETY: an all-zero sockaddr_ll is a valid one.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (protocol as u16).to_be();
        address.sll_ifindex = ifindex.cast_signed();
        // SAFETY: the address is a whole sockaddr_ll and its size is given.
        let result = unsafe {
            libc::bind(fd, (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t)
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(tap) }
    }

    fn set(&self, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
        // SAFETY: the value is an int of the size given.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The next frame that passed, with its header in front, cut to the buffer.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; the kernel's word otherwise.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<Caught> {
        // SAFETY: an all-zero sockaddr_ll is a valid one.
        let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: buffer and address are valid for writes of the lengths given.
        let result = unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
                (&raw mut from).cast(),
                &raw mut size,
            )
        };
        match usize::try_from(result) {
            Ok(length) => Ok(Caught { length, outgoing: from.sll_pkttype == libc::PACKET_OUTGOING }),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }

    /// Puts one frame on the wire as it is.
    ///
    /// # Errors
    /// `EMSGSIZE` above the MTU; `EINVAL` below an Ethernet header; the kernel's word otherwise.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        let mut whole = vec![0; VNET_HEADER];
        whole.extend_from_slice(frame);
        rustix::io::write(&self.fd, &whole)?;
        Ok(())
    }

    /// Puts frames on the wire as they are, at most 64 of them, with one system call. Gives back how
    /// many the kernel took.
    ///
    /// # Errors
    /// If the kernel took none: `WouldBlock` or `ENOBUFS` when its queues are full; see
    /// [`Wiretap::send`].
    pub fn send_all(&self, frames: &[Vec<u8>]) -> io::Result<usize> {
        const MOST: usize = 64;
        let mut header = [0u8; VNET_HEADER];
        let nothing = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let mut parts = [[nothing; 2]; MOST];
        // SAFETY: an all-zero mmsghdr is a valid one: no name, no parts, no control data.
        let mut messages: [libc::mmsghdr; MOST] = unsafe { std::mem::zeroed() };
        let count = frames.len().min(MOST);
        for ((frame, parts), message) in frames.iter().zip(&mut parts).zip(&mut messages) {
            // The kernel only reads through these pointers.
            parts[0] = libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: VNET_HEADER };
            parts[1] = libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() };
            message.msg_hdr.msg_iov = parts.as_mut_ptr();
            message.msg_hdr.msg_iovlen = parts.len();
        }
        // SAFETY: the first `count` messages point to parts, and these to bytes, that outlive the
        // call and have the lengths given; `count` is at most 64.
        let sent =
            unsafe { libc::sendmmsg(self.fd.as_raw_fd(), messages.as_mut_ptr(), count as libc::c_uint, 0) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Frames that passed unseen since the last call, because the buffer was full.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn missed(&self) -> io::Result<u32> {
        let mut statistics = [0u32; 2];
        let mut size = size_of::<[u32; 2]>() as libc::socklen_t;
        // SAFETY: the statistics are two u32 (`struct tpacket_stats`) and their size is given.
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                statistics.as_mut_ptr().cast(),
                &raw mut size,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(statistics[1]) }
    }
}

impl AsFd for Wiretap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
