//! Large pages for large tables (`madvise(2)`, `Documentation/admin-guide/mm/transhuge.rst`).

use std::io;

/// Bytes of a large page: of x86-64, and of AArch64 with small pages of 4 KiB. Where they are larger, nothing
/// is moved.
pub const LARGE_PAGE: usize = 2 << 20;

/// `include/uapi/asm-generic/mman-common.h`; libc has it for glibc alone.
const MADV_COLLAPSE: libc::c_int = 25;

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
    if whole == 0 { Ok(()) } else { advise(first, whole, libc::MADV_HUGEPAGE) }
}

/// Moves what stands in the [`LARGE_PAGE`] bytes from `address` on, a multiple of that, into one page, at once.
///
/// # Errors
/// `EINVAL` from a kernel before 6.1, or where nothing was written; `ENOMEM` or `EAGAIN` if there is no
/// large page to be had.
pub fn move_into_large_pages(address: usize) -> io::Result<()> {
    advise(address, LARGE_PAGE, MADV_COLLAPSE)
}

fn advise(address: usize, length: usize, advice: libc::c_int) -> io::Result<()> {
    let address = std::ptr::with_exposed_provenance_mut(address);
    // SAFETY: the advices given here change neither what is mapped nor what stands there, whose ever it is.
    let result = unsafe { libc::madvise(address, length, advice) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
