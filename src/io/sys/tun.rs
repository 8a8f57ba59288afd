//! The ioctls of `/dev/net/tun` (`include/uapi/linux/if_tun.h`).

use rustix::ioctl::{self, IntegerSetter, Opcode, Setter, Updater};
use socket2::SockFilter;
use std::io;
use std::os::fd::AsFd;

/// `IFF_TAP`: the device carries Ethernet frames.
pub const TAP: u16 = libc::IFF_TAP as u16;
/// `IFF_NO_PI`: frames come without the four bytes of packet information.
pub const NO_PI: u16 = libc::IFF_NO_PI as u16;
/// `IFF_VNET_HDR`: frames come behind a `virtio_net_hdr`.
pub const VNET_HDR: u16 = libc::IFF_VNET_HDR as u16;
/// `IFF_MULTI_QUEUE`: several descriptors may serve the device.
pub const MULTI_QUEUE: u16 = libc::IFF_MULTI_QUEUE as u16;
/// `IFF_PERSIST`: the device stays when the descriptor is closed. Only read.
pub const PERSIST: u16 = libc::IFF_PERSIST as u16;

/// What a reader of the device can take (`TUNSETOFFLOAD`).
pub mod offload {
    /// Checksums left to do.
    pub const CSUM: u32 = libc::TUN_F_CSUM;
    /// TCP super-frames over IPv4.
    pub const TSO4: u32 = libc::TUN_F_TSO4;
    /// TCP super-frames over IPv6.
    pub const TSO6: u32 = libc::TUN_F_TSO6;
    /// TCP super-frames of connections with ECN.
    pub const ECN: u32 = libc::TUN_F_TSO_ECN;
    /// UDP super-frames of both families; the kernel takes the two only together.
    pub const USO: u32 = libc::TUN_F_USO4 | libc::TUN_F_USO6;
}

/// `struct ifreq` as TUNSETIFF and TUNGETIFF use it: name, flags, and room up to its size.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: u16,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<InterfaceRequest>() == size_of::<libc::ifreq>());

impl InterfaceRequest {
    fn name(&self) -> String {
        let end = self.name.iter().position(|byte| *byte == 0).unwrap_or(self.name.len());
        String::from_utf8_lossy(&self.name[..end]).into_owned()
    }
}

/// Creates the device `name`, or attaches to it if it exists (`TUNSETIFF`). Gives its name.
///
/// # Errors
/// `EPERM` without CAP_NET_ADMIN (and not the device's owner), `EBUSY` if another process holds
/// it, `EINVAL` if the name is taken by something else or the device has several queues,
/// `ENAMETOOLONG` if the name is empty or does not fit IFNAMSIZ.
pub fn attach(fd: impl AsFd, name: &str, flags: u16) -> io::Result<String> {
    let mut request = InterfaceRequest { name: [0; libc::IFNAMSIZ], flags, rest: [0; 22] };
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, whose size this has.
    unsafe {
        let call = Updater::<{ libc::TUNSETIFF as Opcode }, InterfaceRequest>::new(&mut request);
        ioctl::ioctl(fd, call)?;
    }
    Ok(request.name())
}

/// Has the kernel run a classic BPF program on each frame before it is queued for the reader
/// (`TUNATTACHFILTER`). The device keeps the address of the program and reads it again when another
/// descriptor is attached: not for devices that outlive this process.
///
/// # Errors
/// `EINVAL` if it is no TAP, or no program.
pub fn attach_filter(fd: impl AsFd, program: &[SockFilter]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: TUNATTACHFILTER reads one `struct sock_fprog` and as many instructions as that says, of
    // which a `SockFilter` is one by its documentation (`repr(transparent)`).
    unsafe {
        ioctl::ioctl(fd, Setter::<{ libc::TUNATTACHFILTER as Opcode }, libc::sock_fprog>::new(program))?
    };
    Ok(())
}

/// Takes the program away (`TUNDETACHFILTER`).
///
/// # Errors
/// The kernel's word.
pub fn detach_filter(fd: impl AsFd) -> io::Result<()> {
    let none = libc::sock_fprog { len: 0, filter: std::ptr::null_mut() };
    // SAFETY: TUNDETACHFILTER reads nothing.
    unsafe { ioctl::ioctl(fd, Setter::<{ libc::TUNDETACHFILTER as Opcode }, libc::sock_fprog>::new(none))? };
    Ok(())
}

/// Name and flags of the device that a descriptor is attached to (`TUNGETIFF`).
///
/// # Errors
/// `ENOTTY` if it is not a TUN descriptor, `EBADFD` if it is not attached.
pub fn interface(fd: impl AsFd) -> io::Result<(String, u16)> {
    let mut request = InterfaceRequest { name: [0; libc::IFNAMSIZ], flags: 0, rest: [0; 22] };
    // SAFETY: TUNGETIFF writes one `struct ifreq`, whose size this has.
    unsafe {
        let call = Updater::<{ libc::TUNGETIFF as Opcode }, InterfaceRequest>::new(&mut request);
        ioctl::ioctl(fd, call)?;
    }
    Ok((request.name(), request.flags))
}

/// The MAC of the device that a descriptor is attached to (`SIOCGIFHWADDR`), whichever network
/// namespace it is in.
///
/// # Errors
/// `EBADFD` if it is not attached.
pub fn mac(fd: impl AsFd) -> io::Result<[u8; 6]> {
    let mut request = InterfaceRequest { name: [0; libc::IFNAMSIZ], flags: 0, rest: [0; 22] };
    // SAFETY: SIOCGIFHWADDR writes one `struct ifreq`, whose size this has.
    unsafe {
        let call = Updater::<{ libc::SIOCGIFHWADDR as Opcode }, InterfaceRequest>::new(&mut request);
        ioctl::ioctl(fd, call)?;
    }
    // The union is a `struct sockaddr`: a family of two bytes, which `flags` is, then the address.
    let [a, b, c, d, e, f, ..] = request.rest;
    Ok([a, b, c, d, e, f])
}

/// Sets the length of the header before each frame (`TUNSETVNETHDRSZ`).
///
/// # Errors
/// `EINVAL` if it is shorter than the kernel's 10 bytes.
pub fn set_header_length(fd: impl AsFd, length: i32) -> io::Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    unsafe {
        let call = Setter::<{ libc::TUNSETVNETHDRSZ as Opcode }, i32>::new(length);
        ioctl::ioctl(fd, call)?;
    }
    Ok(())
}

/// Says what the reader of the device can take (`TUNSETOFFLOAD`), from [`offload`].
///
/// # Errors
/// `EINVAL` if the kernel does not know a bit, or a combination.
pub fn set_offload(fd: impl AsFd, mask: u32) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument as a number, and refuses bits it does not know.
    unsafe {
        let call = IntegerSetter::<{ libc::TUNSETOFFLOAD as Opcode }>::new_usize(mask as usize);
        ioctl::ioctl(fd, call)?;
    }
    Ok(())
}
