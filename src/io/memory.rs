//! Two in-process links joined back to back: for tests and lessons without a kernel's network.

use super::Link;
use crate::flow::LinkInfo;
use crate::wire::{Buffer, Offload};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One direction: packets on their way, and an eventfd that is readable while there are any.
#[derive(Debug)]
struct Queue {
    packets: Mutex<VecDeque<(Vec<u8>, Offload)>>,
    ready: OwnedFd,
    limit: usize,
}

impl Queue {
    fn new(limit: usize) -> io::Result<Arc<Self>> {
        let ready = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Arc::new(Queue { packets: Mutex::default(), ready, limit }))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Vec<u8>, Offload)>> {
        // A queue is whole after every operation, so a panic elsewhere does not spoil it.
        self.packets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One end of a pair.
#[derive(Debug)]
pub struct Memory {
    name: String,
    info: LinkInfo,
    incoming: Arc<Queue>,
    outgoing: Arc<Queue>,
    overflows: u64,
}

impl Memory {
    /// Two ends, each taking what its `info` says; a direction holds `limit` packets at most, and
    /// loses those beyond.
    ///
    /// # Errors
    /// The kernel's word if there are no descriptors left.
    pub fn pair(names: [&str; 2], infos: [LinkInfo; 2], limit: usize) -> io::Result<(Memory, Memory)> {
        let (there, back) = (Queue::new(limit)?, Queue::new(limit)?);
        let end = |name: &str, info, incoming: &Arc<Queue>, outgoing: &Arc<Queue>| Memory {
            name: name.to_owned(),
            info,
            incoming: Arc::clone(incoming),
            outgoing: Arc::clone(outgoing),
            overflows: 0,
        };
        Ok((end(names[0], infos[0], &back, &there), end(names[1], infos[1], &there, &back)))
    }
}

impl Link for Memory {
    fn name(&self) -> &str {
        &self.name
    }

    fn info(&self) -> LinkInfo {
        self.info
    }

    fn recv(&mut self, buffer: &mut Buffer) -> io::Result<()> {
        let mut packets = self.incoming.lock();
        let Some((bytes, offload)) = packets.pop_front() else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        if packets.is_empty() {
            // WouldBlock would mean that it was not raised; then there is nothing to lower.
            let _ = rustix::io::read(&self.incoming.ready, &mut [0; 8]);
        }
        buffer.fill(&bytes);
        buffer.offload = offload;
        Ok(())
    }

    fn send(&mut self, buffer: &mut Buffer) -> io::Result<()> {
        let mut packets = self.outgoing.lock();
        if packets.len() >= self.outgoing.limit {
            self.overflows += 1;
            return Err(io::Error::from_raw_os_error(libc::ENOBUFS));
        }
        packets.push_back((buffer.bytes().to_vec(), buffer.offload));
        rustix::io::write(&self.outgoing.ready, &1u64.to_ne_bytes())?;
        Ok(())
    }

    fn readable(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.incoming.ready.as_fd()]
    }

    fn counters(&mut self) -> Vec<(&'static str, u64)> {
        vec![("overflow", self.overflows)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_cross_in_order_up_to_the_limit_and_readiness_follows() {
        let info = LinkInfo::plain(1500, 0);
        let (mut a, mut b) = Memory::pair(["a", "b"], [info; 2], 2).unwrap();
        let ready = |link: &Memory| {
            let fds = link.readable();
            let mut poll = [rustix::event::PollFd::new(&fds[0], rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut poll, Some(&rustix::time::Timespec::default())).unwrap() > 0
        };
        assert!(!ready(&b));
        for byte in 1..=3 {
            let sent = a.send(&mut Buffer::from_bytes(&[byte]));
            assert_eq!(sent.is_ok(), byte < 3);
        }
        assert!(ready(&b) && !ready(&a));
        let mut buffer = Buffer::with_capacity(64);
        for byte in 1..=2 {
            b.recv(&mut buffer).unwrap();
            assert_eq!(buffer.bytes(), [byte]);
        }
        assert_eq!(b.recv(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(!ready(&b));
        assert_eq!(a.counters(), [("overflow", 1)]);
    }
}
