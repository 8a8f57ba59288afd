//! Tries what this host allows, without changing anything: what `doctor` tells.

use super::sys::bpf::BitMap;
use super::sys::tun;
use rustix::fs::{Mode, OFlags};
use rustix::thread::{CapabilitySet, capabilities};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;

/// Whether something is allowed, and the kernel's word if not.
pub type Allowed = io::Result<()>;

/// Whether `/dev/net/tun` is there and may be opened.
///
/// # Errors
/// `ENOENT` or `ENODEV` if it is missing, `EACCES` or `EPERM` if it may not be opened.
pub fn tun_device() -> Allowed {
    rustix::fs::open("/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    Ok(())
}

/// Whether a TAP may be created here: one is, and is gone when this returns.
///
/// # Errors
/// `EPERM` without CAP_NET_ADMIN; otherwise as [`tun_device`].
pub fn new_tap() -> Allowed {
    let fd = rustix::fs::open("/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    tun::attach(fd, "tapprobe%d", tun::TAP | tun::NO_PI | tun::VNET_HDR).map(drop)
}

/// Whether AF_PACKET sockets may be opened.
///
/// # Errors
/// `EPERM` without CAP_NET_RAW.
pub fn packet_socket() -> Allowed {
    Socket::new(Domain::PACKET, Type::RAW.cloexec(), None).map(drop)
}

/// Whether raw IP sockets may be opened.
///
/// # Errors
/// `EPERM` without CAP_NET_RAW.
pub fn raw_socket() -> Allowed {
    Socket::new(Domain::IPV4, Type::RAW.cloexec(), Some(Protocol::from(libc::IPPROTO_RAW))).map(drop)
}

/// Whether BPF maps as the tcx guard needs them may be made.
///
/// # Errors
/// `EPERM` without CAP_BPF, `ENOSYS` or `EINVAL` on kernels without them.
pub fn bpf() -> Allowed {
    BitMap::new(4096).map(drop)
}

/// The effective capabilities that matter here, by name, and whether this process has them.
///
/// # Errors
/// The kernel's word.
pub fn capability_list() -> io::Result<[(&'static str, bool); 5]> {
    let has = capabilities(None)?.effective;
    Ok([
        ("CAP_NET_ADMIN", has.contains(CapabilitySet::NET_ADMIN)),
        ("CAP_NET_RAW", has.contains(CapabilitySet::NET_RAW)),
        ("CAP_NET_BIND_SERVICE", has.contains(CapabilitySet::NET_BIND_SERVICE)),
        ("CAP_SYS_ADMIN", has.contains(CapabilitySet::SYS_ADMIN)),
        ("CAP_BPF", has.contains(CapabilitySet::BPF)),
    ])
}

/// How many user namespaces may be made here; 0 forbids them.
///
/// # Errors
/// If `/proc` is not mounted.
pub fn user_namespaces() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/sys/user/max_user_namespaces")?;
    text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The range from which the kernel chooses ports for the host's own connections.
///
/// # Errors
/// If `/proc` is not mounted.
pub fn ephemeral_ports() -> io::Result<(u16, u16)> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let mut numbers = text.split_whitespace().map_while(|word| word.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) => Ok((first, last)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_answer_as_the_capabilities_say() {
        let has = |wanted| capability_list().unwrap().iter().any(|(name, has)| *name == wanted && *has);
        assert_eq!(packet_socket().is_ok(), has("CAP_NET_RAW"));
        assert_eq!(raw_socket().is_ok(), has("CAP_NET_RAW"));
        assert!(new_tap().is_err() || tun_device().is_ok());
        assert!(bpf().is_ok() || bpf().unwrap_err().raw_os_error().is_some());
        let (first, last) = ephemeral_ports().unwrap();
        assert!(first <= last);
        user_namespaces().unwrap();
    }
}
