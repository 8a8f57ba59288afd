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
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::Duration;
use tcp::Tcp;
use udp::Udp;

/// How long its thread may take to let a socket go.
const PATIENCE: Duration = Duration::from_secs(5);
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

impl Counters {
    /// What each says, with its name.
    pub fn named(&self) -> [(&'static str, u64); 3] {
        let Counters { begun, full, unanswered } = self;
        [("relay: begun", begun), ("relay: full", full), ("relay: unanswered", unanswered)]
            .map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

enum Change {
    Add(usize, Way),
    Remove(usize, SyncSender<()>),
}

/// A relay that runs. Its thread ends when this is dropped.
#[derive(Debug)]
pub struct Relay {
    changes: Option<Sender<Change>>,
    waker: Arc<Waker>,
    last: usize,
}

impl Relay {
    /// Starts its thread, which counts in `counters` and has `tells` closed when it ends, however it ends.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn start(sockets: Box<dyn Sockets>, counters: Arc<Counters>, tells: OwnedFd) -> io::Result<Relay> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        let (changes, received) = channel();
        let turn = Turn::new(poll, sockets, received, counters)?;
        let kept = Arc::clone(&waker);
        let run = move || {
            // A waker that is dropped takes back what it has woken for.
            let _both = (kept, tells);
            turn.run();
        };
        thread::Builder::new().name("relay".into()).spawn(run)?;
        Ok(Relay { changes: Some(changes), waker, last: 0 })
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

    /// Takes a way away: nothing new comes through it; what has come goes on. Then its socket is closed.
    ///
    /// # Errors
    /// The relay has ended, or does not answer.
    pub fn remove(&self, number: usize) -> io::Result<()> {
        let (done, waits) = sync_channel(1);
        self.tell(Change::Remove(number, done))?;
        waits.recv_timeout(PATIENCE).map_err(|_| io::ErrorKind::TimedOut.into())
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
    ticks: bool,
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
        let mut source = mio::unix::SourceFd(&timer.as_raw_fd());
        poll.registry().register(&mut source, TICK, mio::Interest::READABLE)?;
        let (tcp, udp) = (Tcp::default(), Udp::default());
        let udp_ways = HashMap::new();
        Ok(Turn { poll, sockets, changes, counters, timer, ticks: false, udp_ways, tcp, udp })
    }

    /// Has the timer tick each second, or not at all where nothing waits for it.
    fn wind(&mut self) -> io::Result<()> {
        let ticks = self.tcp.ticks() || self.udp.ticks();
        if ticks != self.ticks {
            let each = Timespec { tv_sec: ticks.into(), tv_nsec: 0 };
            let each = Itimerspec { it_interval: each, it_value: each };
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &each)?;
            self.ticks = ticks;
        }
        Ok(())
    }

    /// Serves until nobody can tell of changes any more.
    fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            // What had its turn and has more to do comes again after the others.
            let wait = (self.tcp.waits() || self.udp.waits()).then_some(Duration::ZERO);
            match self.wind().and_then(|()| self.poll.poll(&mut events, wait)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => events.clear(),
                Err(error) => return tracing::error!("the relay of ports ends: {error}"),
                Ok(()) => {}
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
                    Token(token) if token >= CONNECTIONS => {
                        self.tcp.ready(token - CONNECTIONS, event.is_error());
                    }
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
                Ok(Change::Remove(number, done)) => {
                    match self.udp_ways.remove(&number) {
                        Some(true) => self.udp.remove(number),
                        _ => self.tcp.remove(number),
                    }
                    // Who waited may have given up.
                    let _ = done.try_send(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::guest::agent::{listening, to_connect};
    use std::io::Read;
    use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};

    struct Plain;

    impl Sockets for Plain {
        fn make(&self, _: Side, udp: bool, six: bool) -> io::Result<OwnedFd> {
            to_connect(udp, six)
        }
    }

    /// A relay, what it counts, and what becomes readable when it ends.
    fn relay() -> (Relay, Arc<Counters>, io::PipeReader) {
        let (reader, writer) = io::pipe().unwrap();
        let counters = Arc::new(Counters::default());
        (Relay::start(Box::new(Plain), Arc::clone(&counters), writer.into()).unwrap(), counters, reader)
    }

    fn way(relay: &mut Relay, udp: bool, to: SocketAddr) -> (usize, SocketAddr) {
        let socket = listening(udp, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let at = rustix::net::getsockname(&socket).unwrap().try_into().unwrap();
        (relay.add(Way { udp, socket, side: Side::Host, to }).unwrap(), at)
    }

    #[test]
    fn a_way_that_is_removed_leaves_its_port_at_once() {
        let (mut relay, _, mut ends) = relay();
        for round in 0..100 {
            let udp = round % 2 == 0;
            let (number, at) = way(&mut relay, udp, (Ipv4Addr::LOCALHOST, 9).into());
            relay.remove(number).unwrap();
            listening(udp, at).unwrap();
        }
        drop(relay);
        assert_eq!(ends.read(&mut [0]).unwrap(), 0, "its end is told");
    }

    #[test]
    fn a_reset_goes_through_where_nothing_is_read() {
        let (mut relay, counters, _ends) = relay();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (_, at) = way(&mut relay, false, listener.local_addr().unwrap());
        let client = TcpStream::connect(at).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        let mut rounds = 0;
        while server.take_error().unwrap().is_none() {
            rounds += 1;
            assert!(rounds < 1000, "the server is not told");
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(counters.named()[0], ("relay: begun", 1));
    }

    #[test]
    fn a_full_table_of_flows_makes_room() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
        let (mut relay, counters, _ends) = relay();
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (_, at) = way(&mut relay, true, server.local_addr().unwrap());
        let speak = || {
            let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            client.send_to(b"word", at).unwrap();
            server.recv_from(&mut [0; 9]).map(|_| client)
        };
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let _clients: Vec<UdpSocket> = (0..1024).map(|_| speak().unwrap()).collect();
        server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        // Who has spoken in this second is not the idlest.
        assert!((0..40).any(|_| speak().is_ok()), "nobody is ever let in again");
        assert!(counters.named()[1].1 > 0);
    }
}
