//! Switches an interface's offloads off, as `ethtool -K` does.

use std::io;
use std::os::fd::AsRawFd;

/// `struct ethtool_value` of the kernel.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

// From the kernel's include/uapi/linux/ethtool.h, in an order that leaves nothing to depend on what
// is already off.
const OFF: [(u32, &str); 5] = [(0x1f, "tso"), (0x24, "gso"), (0x2c, "gro"), (0x17, "tx"), (0x15, "rx")];

/// Makes the interface `name` of the calling thread's namespace send and take only whole packets
/// that fit its MTU, each with a whole checksum: `tso off gso off gro off tx off rx off`.
///
/// # Errors
/// `ENODEV` if there is no such interface; `EPERM` without `CAP_NET_ADMIN`. A feature that the
/// device does not have is already off.
pub fn offloads_off(name: &str) -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    for (command, word) in OFF {
        let mut value = Value { command, data: 0 };
        // SAFETY: an all-zero ifreq is a valid one.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        let bytes = name.as_bytes();
        if bytes.len() >= request.ifr_name.len() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("interface name {name} is too long"),
            ));
        }
        for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: the request names a terminated interface name and points to a value of the size
        // that these commands read and write; both outlive the call.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
        if result < 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EOPNOTSUPP) {
                return Err(io::Error::new(error.kind(), format!("switch {word} off on {name}: {error}")));
            }
        }
    }
    Ok(())
}
