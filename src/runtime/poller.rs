//! Waiting for any of the worker's descriptors, through mio.
//!
//! mio is edge triggered: an event says that something has come since the last one. The poller
//! therefore remembers who is ready until the worker has read to the end and says so.

use crate::flow::LinkId;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

const WAKER: Token = Token(usize::MAX);
const SIGNAL: Token = Token(usize::MAX - 1);
const CHANGES: Token = Token(usize::MAX - 2);
const ENDINGS: Token = Token(usize::MAX - 3);

/// Links that a worker may have.
pub const LINKS: usize = 4;

/// What has woken the worker, besides links.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Woken {
    /// A command or a request for a sweep.
    pub mailbox: bool,
    /// A signal.
    pub signal: bool,
    /// An interface, address or route has changed.
    pub changes: bool,
    /// Something that the gateway may not outlive has an event.
    pub endings: bool,
}

/// The descriptors of a worker, and which links may have something.
#[derive(Debug)]
pub struct Poller {
    poll: Poll,
    events: Events,
    ready: [bool; LINKS],
}

impl Poller {
    /// A poller without descriptors.
    ///
    /// # Errors
    /// If the kernel gives no epoll instance.
    pub fn new() -> io::Result<Self> {
        Ok(Poller { poll: Poll::new()?, events: Events::with_capacity(16), ready: [false; LINKS] })
    }

    /// What other threads wake the worker with.
    ///
    /// # Errors
    /// If the kernel gives no eventfd.
    pub fn waker(&self) -> io::Result<Arc<Waker>> {
        Waker::new(self.poll.registry(), WAKER).map(Arc::new)
    }

    /// Watches a descriptor of a link. The link counts as ready until it has been read to the end.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn watch_link(&mut self, link: LinkId, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.watch(Token(usize::from(link.0)), fd)?;
        self.ready[usize::from(link.0)] = true;
        Ok(())
    }

    /// Watches the descriptor that signals come by.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn watch_signals(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.watch(SIGNAL, fd)
    }

    /// Watches the descriptor that tells of changed interfaces.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn watch_changes(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.watch(CHANGES, fd)
    }

    /// Watches the descriptor of an [`Ending`](crate::io::ending::Ending).
    ///
    /// # Errors
    /// The kernel's word; `EPERM` for a plain file, which never has an event.
    pub fn watch_ending(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.watch(ENDINGS, fd)
    }

    fn watch(&self, token: Token, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.poll.registry().register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)
    }

    /// Waits for something, at most for `timeout`; not at all while a link is still ready.
    ///
    /// # Errors
    /// The kernel's word, but for interruptions.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Woken> {
        let timeout = if self.ready.contains(&true) { Some(Duration::ZERO) } else { timeout };
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        let mut woken = Woken::default();
        for event in &self.events {
            match event.token() {
                WAKER => woken.mailbox = true,
                SIGNAL => woken.signal = true,
                CHANGES => woken.changes = true,
                ENDINGS => woken.endings = true,
                Token(link) => {
                    if let Some(ready) = self.ready.get_mut(link) {
                        *ready = true;
                    }
                }
            }
        }
        Ok(woken)
    }

    /// Whether any link may have something.
    pub fn any_ready(&self) -> bool {
        self.ready.contains(&true)
    }

    /// Whether the link may have something.
    pub fn is_ready(&self, link: LinkId) -> bool {
        self.ready[usize::from(link.0)]
    }

    /// The link was read to the end, or it may have something again.
    pub fn set_ready(&mut self, link: LinkId, ready: bool) {
        self.ready[usize::from(link.0)] = ready;
    }
}
