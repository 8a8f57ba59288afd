//! SIGINT and SIGTERM as something to poll, SIGHUP as something to wait for.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
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

/// Calls something each time that SIGHUP comes, in a thread of its own, until it is dropped. Several
/// that come together count as one.
#[derive(Debug)]
pub struct Hangups {
    stream: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Hangups {
    /// Takes over SIGHUP of the process, whose default would end it; the stream becomes readable when
    /// one has come.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn take() -> io::Result<UnixStream> {
        let (read, write) = UnixStream::pair()?;
        pipe::register(SIGHUP, write)?;
        Ok(read)
    }

    /// Calls `act` for those that come, and that have come since [`Hangups::take`].
    ///
    /// # Errors
    /// The kernel gives no thread.
    pub fn watch(stream: UnixStream, act: impl Fn() + Send + 'static) -> io::Result<Hangups> {
        let mut read = stream.try_clone()?;
        let watch = move || {
            let mut bytes = [0; 64];
            while matches!(read.read(&mut bytes), Ok(1..)) {
                act();
            }
        };
        let thread = std::thread::Builder::new().name("hangups".into()).spawn(watch)?;
        Ok(Hangups { stream, thread: Some(thread) })
    }
}

impl Drop for Hangups {
    fn drop(&mut self) {
        // The thread's read then ends; if that fails it goes with the process.
        if self.stream.shutdown(Shutdown::Read).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}
