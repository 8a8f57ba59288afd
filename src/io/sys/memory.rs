//! Large pages for large tables (`madvise(2)`, `Documentation/admin-guide/mm/transhuge.rst`).

use std::io;

/// Asks for large pages where `length` bytes from `address` on are, or will be when they are first
/// written: a table of many megabytes that is read at random places then costs no search for its pages.
/// Only advice: the host may have switched them off, and memory that is in use is moved when the
/// kernel gets round to it.
///
/// # Errors
/// `EINVAL` if the kernel has no large pages, `ENOMEM` if a part of that is not mapped.
pub fn prefer_large_pages(address: usize, length: usize) -> io::Result<()> {
    let page = rustix::param::page_size();
    let first = address.next_multiple_of(page);
    let whole = (address + length).saturating_sub(first) / page * page;
    if whole == 0 {
        return Ok(());
    }
    // SAFETY: this advice changes neither what is mapped nor what stands there, whose ever it is.
    let result =
        unsafe { libc::madvise(std::ptr::with_exposed_provenance_mut(first), whole, libc::MADV_HUGEPAGE) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
