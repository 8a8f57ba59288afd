//! A relay between two loopbacks: what reaches a socket on one side goes on from a socket on the
//! other, the bytes as they are.
//!
//! ```text
//!   client ─▶ listening socket │ relay thread │ socket ─▶ server
//!             one namespace    │              │ the other namespace
//! ```
//!
//! One thread with one poll serves all. Whoever uses it makes the listening sockets ([`Way`]); those to
//! connect come from [`Sockets`]. Connections of TCP are in `tcp`, datagrams in `udp`.

mod tcp;
mod udp;

use mio::{Events, Poll, Registry, Token, Waker};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;
use tcp::Tcp;
use udp::Udp;

/// Events of one turn.
const EVENTS: usize = 256;
const WAKE: Token = Token(0);
const TICK: Token = Token(1);
/// Where the tokens of ways begin, then those of connections, then those of flows.
const WAYS: usize = 1 << 16;
const CONNECTIONS: usize = 1 << 24;
const FLOWS: usize = 1 << 25;

/// Which side something is on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Side {
    /// The host's namespace.
    Host,
    /// The namespace inside.
    Inside,
}

/// Who makes sockets to connect: not blocking, of UDP or TCP, of IPv6 or IPv4.
pub trait Sockets: Send {
    /// Makes one on a side.
    ///
    /// # Errors
    /// The kernel's word.
    fn make(&self, side: Side, udp: bool, six: bool) -> io::Result<OwnedFd>;
}

/// From a socket that listens to an address on the other side.
#[derive(Debug)]
pub struct Way {
    /// Whether it is of UDP.
    pub udp: bool,
    /// It is bound and does not block; of TCP it listens.
    pub socket: OwnedFd,
    /// The side of `to`.
    pub side: Side,
    /// Who answers.
    pub to: SocketAddr,
}

/// What has happened.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections and flows that were begun.
    pub begun: AtomicU64,
    /// Those that found all places taken, or no descriptor.
    pub full: AtomicU64,
    /// Those that nobody answered on the other side.
    pub unanswered: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

enum Change {
    Add(usize, Way),
    Remove(usize),
}

/// A relay that runs. Its thread ends when this is dropped.
#[derive(Debug)]
pub struct Relay {
    changes: Option<Sender<Change>>,
    waker: Waker,
    last: usize,
    counters: Arc<Counters>,
}

impl Relay {
    /// Starts its thread.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn start(sockets: Box<dyn Sockets>) -> io::Result<Relay> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        let (changes, received) = channel();
        let counters = Arc::new(Counters::default());
        let turn = Turn::new(poll, sockets, received, Arc::clone(&counters))?;
        thread::Builder::new().name("relay".into()).spawn(move || turn.run())?;
        Ok(Relay { changes: Some(changes), waker, last: 0, counters })
    }

    /// Adds a way; gives its number.
    ///
    /// # Errors
    /// The relay has ended.
    pub fn add(&mut self, way: Way) -> io::Result<usize> {
        // Numbers come back after more ways than there can be at once.
        self.last = (self.last + 1) % (CONNECTIONS - WAYS);
        self.tell(Change::Add(self.last, way))?;
        Ok(self.last)
    }

    /// Takes a way away: nothing new comes through it; what has come goes on.
    ///
    /// # Errors
    /// The relay has ended.
    pub fn remove(&self, number: usize) -> io::Result<()> {
        self.tell(Change::Remove(number))
    }

    /// What has happened.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn tell(&self, change: Change) -> io::Result<()> {
        let changes = self.changes.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        changes.send(change).map_err(|_| io::ErrorKind::BrokenPipe)?;
        self.waker.wake()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.changes = None;
        // It has ended already if this fails.
        let _ = self.waker.wake();
    }
}

/// What handlers share.
struct Around<'a> {
    registry: &'a Registry,
    sockets: &'a dyn Sockets,
    counters: &'a Counters,
}

struct Turn {
    poll: Poll,
    sockets: Box<dyn Sockets>,
    changes: Receiver<Change>,
    counters: Arc<Counters>,
    timer: OwnedFd,
    udp_ways: HashMap<usize, bool>,
    tcp: Tcp,
    udp: Udp,
}

impl Turn {
    fn new(
        poll: Poll,
        sockets: Box<dyn Sockets>,
        changes: Receiver<Change>,
        counters: Arc<Counters>,
    ) -> io::Result<Turn> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        let each = Itimerspec { it_interval: second, it_value: second };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &each)?;
        let mut source = mio::unix::SourceFd(&timer.as_raw_fd());
        poll.registry().register(&mut source, TICK, mio::Interest::READABLE)?;
        let (tcp, udp) = (Tcp::default(), Udp::default());
        Ok(Turn { poll, sockets, changes, counters, timer, udp_ways: HashMap::new(), tcp, udp })
    }

    /// Serves until nobody can tell of changes any more.
    fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            // What had its turn and has more to do comes again after the others.
            let wait = (self.tcp.waits() || self.udp.waits()).then_some(Duration::ZERO);
            match self.poll.poll(&mut events, wait) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return,
                _ => {}
            }
            if !self.change() {
                return;
            }
            let around =
                Around { registry: self.poll.registry(), sockets: &*self.sockets, counters: &self.counters };
            for event in &events {
                match event.token() {
                    WAKE => {}
                    TICK => {
                        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
                        self.tcp.tick();
                        self.udp.tick();
                    }
                    Token(token) if token >= FLOWS => self.udp.answered(token - FLOWS),
                    Token(token) if token >= CONNECTIONS => self.tcp.ready(token - CONNECTIONS),
                    Token(token) => match self.udp_ways.get(&(token - WAYS)) {
                        Some(true) => self.udp.called(token - WAYS),
                        _ => self.tcp.called(token - WAYS),
                    },
                }
            }
            self.tcp.work(&around);
            self.udp.work(&around);
        }
    }

    /// Takes what was told; whether there may be more.
    fn change(&mut self) -> bool {
        use std::sync::mpsc::TryRecvError::{Disconnected, Empty};
        loop {
            let registry = self.poll.registry();
            match self.changes.try_recv() {
                Err(Empty) => return true,
                Err(Disconnected) => return false,
                Ok(Change::Add(number, way)) => {
                    let (udp, token) = (way.udp, Token(WAYS + number));
                    let added = match udp {
                        true => self.udp.add(number, way, registry, token),
                        false => self.tcp.add(number, way, registry, token),
                    };
                    if let Err(error) = added {
                        tracing::warn!("a socket cannot be watched: {error}");
                        continue;
                    }
                    self.udp_ways.insert(number, udp);
                }
                Ok(Change::Remove(number)) => match self.udp_ways.remove(&number) {
                    Some(true) => self.udp.remove(number),
                    _ => self.tcp.remove(number),
                },
            }
        }
    }
}
