//! A host socket by script: what the remote has sent waits in it, and it takes what it is told to.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use tapnat::io::uplink::sockets::tcp::stream::{SCRATCH, Stream};

/// What a test sees and sets of the host's end.
#[derive(Debug, Default)]
pub struct Remote {
    /// Sent by the remote, not yet taken by the mirror.
    pub queue: VecDeque<u8>,
    /// The remote says no more.
    pub ended: bool,
    /// Bytes that can be taken at the moment.
    pub room: usize,
    /// What was taken.
    pub taken: Vec<u8>,
    /// The mirror has said that no more will come.
    pub shut: bool,
    /// The mirror asked for a RST.
    pub reset: bool,
    /// The mirror has closed it.
    pub closed: bool,
    /// How connecting came out.
    pub connected: Option<Result<(), i32>>,
    /// An error that every call meets.
    pub error: Option<i32>,
    /// The farthest that was peeked at.
    pub peeked: usize,
}

/// The socket.
#[derive(Debug)]
pub struct Script(pub Rc<RefCell<Remote>>);

impl Remote {
    fn check(&self) -> io::Result<()> {
        assert!(!self.closed, "a closed socket is used");
        self.error.map_or(Ok(()), |error| Err(io::Error::from_raw_os_error(error)))
    }
}

impl Stream for Script {
    fn outcome(&self) -> io::Result<bool> {
        match self.0.borrow().connected {
            None => Ok(false),
            Some(Ok(())) => Ok(true),
            Some(Err(error)) => Err(io::Error::from_raw_os_error(error)),
        }
    }

    fn error(&self) -> Option<io::Error> {
        self.0.borrow().error.map(io::Error::from_raw_os_error)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut remote = self.0.borrow_mut();
        remote.check()?;
        assert!(!remote.shut, "data behind the end");
        assert!(!bytes.is_empty(), "an empty send");
        let count = remote.room.min(bytes.len());
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        remote.room -= count;
        remote.taken.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn peek(&mut self, offset: usize, into: &mut [u8], scratch: &mut [u8]) -> io::Result<usize> {
        let mut remote = self.0.borrow_mut();
        assert!(offset <= scratch.len() && scratch.len() == SCRATCH && !into.is_empty());
        let count = remote.queue.len().saturating_sub(offset).min(into.len());
        if count == 0 {
            remote.check()?;
            return if remote.ended { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        for (place, byte) in into.iter_mut().zip(remote.queue.range(offset..offset + count)) {
            *place = *byte;
        }
        remote.peeked = remote.peeked.max(offset + count);
        Ok(count)
    }

    fn discard(&mut self, count: usize, _scratch: &mut [u8]) -> io::Result<usize> {
        let mut remote = self.0.borrow_mut();
        assert!(count <= remote.queue.len(), "more is discarded than there is");
        remote.queue.drain(..count);
        Ok(count)
    }

    fn shut(&mut self) -> io::Result<()> {
        let mut remote = self.0.borrow_mut();
        remote.check()?;
        remote.shut = true;
        Ok(())
    }

    fn reset(&mut self) {
        self.0.borrow_mut().reset = true;
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.0.borrow_mut().closed = true;
    }
}
