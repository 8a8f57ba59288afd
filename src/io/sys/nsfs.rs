//! What the descriptor of a namespace says of it (`include/uapi/linux/nsfs.h`).

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

const NS_GET_USERNS: libc::Ioctl = 0xb701;
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

/// Which kind of namespace, of those that are asked about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Of the network.
    Network,
    /// Of users.
    User,
    /// Another one.
    Other,
}

/// The kind of namespace behind a descriptor.
///
/// # Errors
/// `ENOTTY` if it is of something else.
pub fn kind(namespace: impl AsFd) -> io::Result<Kind> {
    // SAFETY: NS_GET_NSTYPE takes no argument, and is refused on descriptors of anything else.
    let found = unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), NS_GET_NSTYPE) };
    match found {
        libc::CLONE_NEWNET => Ok(Kind::Network),
        libc::CLONE_NEWUSER => Ok(Kind::User),
        0.. => Ok(Kind::Other),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The user namespace that a namespace belongs to: whoever may administer that one may administer
/// this one.
///
/// # Errors
/// `EPERM` if it is above the caller's own.
pub fn owner(namespace: impl AsFd) -> io::Result<OwnedFd> {
    // SAFETY: NS_GET_USERNS takes no argument.
    let owner = unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), NS_GET_USERNS) };
    if owner < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, close-on-exec, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(owner) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn namespaces_tell_their_kind_and_owner() {
        let net = File::open("/proc/self/ns/net").unwrap();
        assert_eq!(kind(&net).unwrap(), Kind::Network);
        assert_eq!(kind(File::open("/proc/self/ns/uts").unwrap()).unwrap(), Kind::Other);
        if let Ok(owner) = owner(&net) {
            assert_eq!(kind(owner).unwrap(), Kind::User);
        }
        let plain = kind(File::open("/proc/self/stat").unwrap());
        assert_eq!(plain.unwrap_err().raw_os_error(), Some(libc::ENOTTY));
    }
}
