//! Lines over a socket that neither side can block: the server's half of a connection.
//!
//! The socket never blocks; all waiting is in [`Connection::wait`], which also watches the bell that
//! ends the server. A client that does not read its answers is dropped after a while; one that does
//! not read its events loses events, not the connection.

use super::protocol::{Answer, Body, LONGEST_REQUEST, Problem};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use serde::Serialize;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

/// How long a client may leave an answer unread.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How much is gathered before it is written, in bytes.
const GATHER: usize = 32 * 1024;

/// A descriptor that becomes readable when somebody rings, from any thread. Clones are one bell.
#[derive(Clone, Debug)]
pub struct Bell {
    fd: Arc<OwnedFd>,
}

impl Bell {
    /// A bell that has not been rung.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn new() -> io::Result<Bell> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Bell { fd: Arc::new(fd) })
    }

    /// Makes it readable. Never blocks.
    pub fn ring(&self) {
        // The one failure there is says that it has been rung to the limit already.
        let _ = rustix::io::write(&*self.fd, &1u64.to_ne_bytes());
    }

    /// Makes it unreadable until it is rung again.
    pub fn hush(&self) {
        let _ = rustix::io::read(&*self.fd, &mut [0u8; 8]);
    }

    /// Whether it has been rung; does not change it.
    pub fn rung(&self) -> bool {
        let mut fds = [PollFd::new(&*self.fd, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What ended a wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ready {
    /// The client has sent something, or will send nothing more.
    pub input: bool,
    /// The client takes something.
    pub output: bool,
    /// The client is gone.
    pub hung_up: bool,
    /// The given bell has rung.
    pub bell: bool,
}

/// One client.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    stop: Bell,
    input: Vec<u8>,
    output: Vec<u8>,
    /// The client will send nothing more.
    ended: bool,
    /// How long it may take nothing; `None` to wait until it hangs up.
    patience: Option<Duration>,
}

/// What came from a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Line {
    /// A line, without its newline.
    Whole(Vec<u8>),
    /// A line above [`LONGEST_REQUEST`]; what follows cannot be understood.
    TooLong,
    /// Nothing more will come.
    End,
}

impl Connection {
    /// A connection that ends when `stop` rings.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn new(stream: UnixStream, stop: Bell) -> io::Result<Connection> {
        stream.set_nonblocking(true)?;
        Ok(Connection {
            stream,
            stop,
            input: Vec::new(),
            output: Vec::new(),
            ended: false,
            patience: Some(PATIENCE),
        })
    }

    /// Sets how long the client may take nothing before it is dropped; `None` to wait until it
    /// hangs up. [`PATIENCE`] at first.
    pub fn set_patience(&mut self, patience: Option<Duration>) {
        self.patience = patience;
    }

    /// Whether the client will send nothing more.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Whether a whole line, or the end, can be had without waiting.
    pub fn has_line(&mut self) -> io::Result<bool> {
        self.fill()?;
        Ok(self.ended || self.input.contains(&b'\n') || self.input.len() >= LONGEST_REQUEST)
    }

    /// Waits for the next line.
    ///
    /// # Errors
    /// The connection is broken, or the server stops.
    pub fn line(&mut self) -> io::Result<Line> {
        loop {
            if let Some(end) = self.input.iter().take(LONGEST_REQUEST).position(|byte| *byte == b'\n') {
                let rest = self.input.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.input, rest);
                line.pop();
                return Ok(Line::Whole(line));
            }
            if self.input.len() >= LONGEST_REQUEST {
                return Ok(Line::TooLong);
            }
            if self.ended {
                let line = std::mem::take(&mut self.input);
                return Ok(if line.is_empty() { Line::End } else { Line::Whole(line) });
            }
            self.wait(PollFlags::IN, None, None)?;
            self.fill()?;
        }
    }

    /// Takes what has come, up to the longest request.
    fn fill(&mut self) -> io::Result<()> {
        let mut piece = [0u8; 4096];
        while !self.ended && self.input.len() < LONGEST_REQUEST {
            match self.stream.read(&mut piece) {
                Ok(0) => self.ended = true,
                Ok(count) => self.input.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Adds an answer's line; it is sent when enough is gathered, or by [`Connection::flush`].
    ///
    /// # Errors
    /// The connection is broken, the client does not read, or the server stops.
    pub fn say(&mut self, id: Option<u64>, body: Body, count: Option<u64>) -> io::Result<()> {
        self.put(&Answer { id, body, count })
    }

    /// Adds the last line of an answer and sends all.
    ///
    /// # Errors
    /// As [`Connection::say`].
    pub fn finish(&mut self, id: Option<u64>, result: Result<u64, Problem>) -> io::Result<()> {
        match result {
            Ok(count) => self.say(id, Body::Done(true), Some(count))?,
            Err(problem) => self.say(id, Body::Error(problem), None)?,
        }
        self.flush()
    }

    /// Adds any line.
    ///
    /// # Errors
    /// As [`Connection::say`].
    pub fn put(&mut self, line: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.output, line)?;
        self.output.push(b'\n');
        if self.output.len() >= GATHER { self.flush() } else { Ok(()) }
    }

    /// Sends what is gathered.
    ///
    /// # Errors
    /// As [`Connection::say`].
    pub fn flush(&mut self) -> io::Result<()> {
        let mut sent = 0;
        while sent < self.output.len() {
            match self.stream.write(&self.output[sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.wait(PollFlags::OUT, None, self.patience)? == Ready::default() {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        Ok(())
    }

    /// Waits for the client (`IN`, `OUT`, or nothing but its end), a bell, or the time.
    ///
    /// # Errors
    /// `Interrupted` if the server stops; else the kernel's word.
    pub fn wait(&self, client: PollFlags, bell: Option<&Bell>, time: Option<Duration>) -> io::Result<Ready> {
        let mut fds = vec![PollFd::new(&self.stop, PollFlags::IN), PollFd::new(&self.stream, client)];
        fds.extend(bell.map(|bell| PollFd::new(bell, PollFlags::IN)));
        let time = time.and_then(|time| Timespec::try_from(time).ok());
        match poll(&mut fds, time.as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok(Ready { input: true, ..Ready::default() }),
            other => other?,
        };
        if !fds[0].revents().is_empty() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server stops"));
        }
        let seen = fds[1].revents();
        Ok(Ready {
            input: seen.contains(PollFlags::IN),
            output: seen.contains(PollFlags::OUT),
            hung_up: seen.intersects(PollFlags::HUP | PollFlags::ERR),
            bell: fds.get(2).is_some_and(|bell| !bell.revents().is_empty()),
        })
    }
}
