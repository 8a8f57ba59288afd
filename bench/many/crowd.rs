//! Many TCP streams on one thread, each with its turns: the kernel's readiness list goes round, and a
//! stream that is ready moves at most one block a turn. A writer moves what its send buffer has room for,
//! so all of them have the same one. So neither end prefers any of them.

use rustix::event::{Timespec, epoll};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

/// What is read or written in a turn, in bytes.
const BLOCK: usize = 64 << 10;
/// The send buffer of a stream that is written to, in bytes.
const SEND_BUFFER: usize = 256 << 10;
/// Streams that one look at the poll tells of.
const EVENTS: usize = 64;
/// The time to get going before shares are measured.
const WARM_UP: Duration = Duration::from_secs(1);

/// What is done with each stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Job {
    /// Read all that comes.
    Read,
    /// Write without end.
    Write,
    /// Send back what comes, which is never more than the socket takes.
    Echo,
}

/// Streams with their counts.
pub struct Watched {
    streams: Vec<TcpStream>,
    job: Job,
    counts: Vec<AtomicU64>,
    over: AtomicBool,
}

impl Watched {
    /// Nothing has been moved yet.
    pub fn new(streams: Vec<TcpStream>, job: Job) -> Watched {
        let counts = streams.iter().map(|_| AtomicU64::new(0)).collect();
        Watched { streams, job, counts, over: AtomicBool::new(false) }
    }

    /// What each stream moved in a time, after some to get going. Then `last` runs, and all are closed.
    pub fn during(self, length: Duration, last: impl FnOnce()) -> io::Result<Vec<u64>> {
        thread::scope(|scope| {
            let pump = scope.spawn(|| self.pump());
            thread::sleep(WARM_UP);
            let before = self.read();
            thread::sleep(length);
            let after = self.read();
            last();
            self.over.store(true, Relaxed);
            pump.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok(after.iter().zip(before).map(|(after, before)| after - before).collect())
        })
    }

    /// Goes on until the other end has closed a stream, while `meanwhile` runs.
    pub fn until_closed(self, meanwhile: impl FnOnce()) -> io::Result<()> {
        thread::scope(|scope| {
            let pump = scope.spawn(|| self.pump());
            thread::sleep(WARM_UP);
            meanwhile();
            // The other end's end is the end in good order.
            let _ = pump.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok(())
        })
    }

    fn read(&self) -> Vec<u64> {
        self.counts.iter().map(|count| count.load(Relaxed)).collect()
    }

    /// Moves bytes until it is over, or a stream breaks.
    fn pump(&self) -> io::Result<()> {
        let events = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let interest = if self.job == Job::Write { epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
        for (number, stream) in self.streams.iter().enumerate() {
            stream.set_nonblocking(true)?;
            if self.job == Job::Write {
                rustix::net::sockopt::set_socket_send_buffer_size(stream, SEND_BUFFER)?;
            }
            epoll::add(&events, stream.as_fd(), epoll::EventData::new_u64(number as u64), interest)?;
        }
        let none = epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
        let (mut ready, mut block) = ([none; EVENTS], vec![0x5a; BLOCK]);
        while !self.over.load(Relaxed) {
            let tick = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            let count = epoll::wait(&events, &mut ready[..], Some(&tick))?;
            for event in &ready[..count] {
                let number = event.data.u64() as usize;
                match self.turn(&self.streams[number], &mut block) {
                    Ok(moved) => {
                        self.counts[number].fetch_add(moved as u64, Relaxed);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    fn turn(&self, mut stream: &TcpStream, block: &mut [u8]) -> io::Result<usize> {
        if self.job == Job::Write {
            return stream.write(block);
        }
        let count = stream.read(block)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.job == Job::Echo {
            stream.write_all(&block[..count])?;
        }
        Ok(count)
    }
}

/// Has this process open as many files as it may at most.
pub fn more_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where that fails, the connections that find no descriptor say so.
    let _ = setrlimit(Resource::Nofile, limit);
}
