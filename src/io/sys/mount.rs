//! Mounts: what no safe crate does about them.

use super::netns::{Maps, map_ids, own_ids};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Takes the calling process into a mount namespace of its own, with `user` into a user namespace
/// first, in which it is who it was. Mounts are as they were, and as far as the kernel is concerned still the others' too.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN or where user namespaces are forbidden; `EINVAL` if the process has more
/// than one thread.
pub fn unshare(user: bool) -> io::Result<()> {
    let own @ (uid, gid) = own_ids();
    let more = if user { UnshareFlags::NEWUSER } else { UnshareFlags::empty() };
    // SAFETY: the descriptor table is not unshared, so no thread loses sight of a descriptor.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | more) }?;
    if user { map_ids(Maps { uid, gid }, own) } else { Ok(()) }
}

/// What a mount does not allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// No programs are run from there.
    NoPrograms,
    /// Nothing is changed there either.
    ReadOnly,
}

/// Limits what can be done through `mount` and, with `all`, the mounts beneath it (`mount_setattr(2)`,
/// Linux 5.12).
///
/// # Errors
/// `ENOSYS` on older kernels; `EINVAL` if it is not the root of a mount.
pub fn limit(mount: impl AsFd, limit: Limit, all: bool) -> io::Result<()> {
    let set = match limit {
        Limit::NoPrograms => libc::MOUNT_ATTR_NOEXEC | libc::MOUNT_ATTR_NOSUID,
        Limit::ReadOnly => libc::MOUNT_ATTR_NOEXEC | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_RDONLY,
    };
    let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if all { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: path and attributes are readable, of the size given, and outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
