//! SIGINT and SIGTERM as something to poll.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

/// The end that becomes readable when a signal has come.
#[derive(Debug)]
pub struct Signals {
    /// One stream for each signal, so that its name can be told.
    streams: [(UnixStream, &'static str); 2],
}

impl Signals {
    /// Takes over SIGINT and SIGTERM of the process.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn take() -> io::Result<Self> {
        let catch = |signal, name| -> io::Result<_> {
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            pipe::register(signal, write)?;
            Ok((read, name))
        };
        Ok(Signals { streams: [catch(SIGINT, "SIGINT")?, catch(SIGTERM, "SIGTERM")?] })
    }

    /// Descriptors to poll.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.streams.iter().map(|(stream, _)| stream.as_fd())
    }

    /// The name of a signal that has come.
    pub fn take_one(&mut self) -> Option<&'static str> {
        let mut byte = [0; 1];
        self.streams
            .iter_mut()
            .find_map(|(stream, name)| matches!(stream.read(&mut byte), Ok(1)).then_some(*name))
    }
}
