//! Which version of Landlock the kernel has.

use std::io;

/// `LANDLOCK_CREATE_RULESET_VERSION` of <linux/landlock.h>.
const VERSION: u32 = 1;

/// The version of the interface, from 1.
///
/// # Errors
/// `ENOSYS` if the kernel is built without it, `EOPNOTSUPP` if it is switched off.
pub fn version() -> io::Result<u32> {
    // SAFETY: with this flag and no attributes the kernel answers with a number, and reads no memory.
    let answer =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { u32::try_from(answer).map_err(io::Error::other) }
}
