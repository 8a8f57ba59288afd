//! Descriptors that come as bare numbers: inherited ones, and those of crates without `AsFd`.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

/// Takes over descriptor `fd`, which the process inherited (`--tap-fd`). Standard input, output
/// and error are refused, and so is a number that is not open.
///
/// The caller must be the only one to adopt this number.
///
/// # Errors
/// `EBADF` if it is not an open descriptor above 2.
pub fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    if fd <= libc::STDERR_FILENO {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: F_GETFD takes no pointer and is harmless on any number.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and whoever started the process handed it to us by its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Keeps the programs that this process starts from inheriting descriptor `fd`.
///
/// # Errors
/// `EBADF` if it is not open.
pub fn keep(fd: RawFd) -> io::Result<()> {
    // SAFETY: F_SETFD takes no pointer and leaves what the descriptor refers to alone.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The same for all that are open above 2. Linux before 5.11 cannot, and nothing is done there.
pub fn keep_all() {
    // SAFETY: it takes no pointer; with this flag no descriptor is closed here.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Takes the descriptor out of a type that gives it up only as a number.
pub fn release(owner: impl IntoRawFd) -> OwnedFd {
    // SAFETY: `into_raw_fd` hands over ownership of an open descriptor.
    unsafe { OwnedFd::from_raw_fd(owner.into_raw_fd()) }
}

/// The descriptor of a pnet channel, for as long as the channel lives.
pub fn of_channel(channel: &pnet::transport::TransportSender) -> BorrowedFd<'_> {
    // SAFETY: the channel keeps its socket open while it lives, and the result borrows it.
    unsafe { BorrowedFd::borrow_raw(channel.socket.fd) }
}

/// The descriptor of a poll, for as long as the poll lives.
pub fn of_poll(poll: &mio::Poll) -> BorrowedFd<'_> {
    // SAFETY: the poll keeps its descriptor open while it lives, and the result borrows it.
    unsafe { BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(poll)) }
}
