//! The loads: each runs between a container and a server, for a given time, and gives its figures.

mod bulk;
mod ping;
mod short;
mod udp;

use crate::metric::Metric;
use socket2::SockRef;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;
use tapnat::io::sys::netns::Netns;

/// How long a blocking call may take before its thread looks whether it is over.
const TICK: Duration = Duration::from_millis(100);
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(4);

/// Where a load runs.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The container.
    pub client: &'a Netns,
    /// The host with the gateway.
    pub host: &'a Netns,
    /// The server's namespace.
    pub server: &'a Netns,
    /// The server's address.
    pub address: Ipv4Addr,
}

/// Which way the bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Container to server.
    Up,
    /// Server to container.
    Down,
}

/// A load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Load {
    /// TCP streams at full speed.
    Bulk(usize, Direction),
    /// Datagrams at full speed towards the server.
    UdpUp,
    /// Datagrams that are answered.
    UdpEcho,
    /// Short connections, so many at a time.
    Short(usize),
    /// One byte to and fro.
    Ping,
}

impl Load {
    /// All, in the order they run.
    pub const ALL: [Load; 9] = [
        Load::Bulk(1, Direction::Up),
        Load::Bulk(1, Direction::Down),
        Load::Bulk(8, Direction::Up),
        Load::Bulk(8, Direction::Down),
        Load::UdpUp,
        Load::UdpEcho,
        Load::Short(1),
        Load::Short(8),
        Load::Ping,
    ];

    /// What `--load` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Load::Bulk(1, Direction::Up) => "tcp-1-up",
            Load::Bulk(1, Direction::Down) => "tcp-1-down",
            Load::Bulk(_, Direction::Up) => "tcp-8-up",
            Load::Bulk(_, Direction::Down) => "tcp-8-down",
            Load::UdpUp => "udp-up",
            Load::UdpEcho => "udp-echo",
            Load::Short(1) => "http-1",
            Load::Short(_) => "http-8",
            Load::Ping => "trip",
        }
    }

    /// Runs it for `length`, and a little longer to get going.
    ///
    /// # Errors
    /// A connection that did not come about or broke, or no descriptor or thread left.
    pub fn run(self, place: &Place<'_>, length: Duration) -> io::Result<Vec<(Metric, f64)>> {
        match self {
            Load::Bulk(streams, direction) => {
                let metric = match (streams, direction) {
                    (1, Direction::Up) => Metric::TcpOneUp,
                    (1, Direction::Down) => Metric::TcpOneDown,
                    (_, Direction::Up) => Metric::TcpEightUp,
                    (_, Direction::Down) => Metric::TcpEightDown,
                };
                Ok(vec![(metric, bulk::run(place, streams, direction, length)?)])
            }
            Load::UdpUp => udp::up(place, length),
            Load::UdpEcho => udp::echo(place, length),
            Load::Short(clients) => short::run(place, clients, length),
            Load::Ping => ping::run(place, length),
        }
    }
}

/// The time to get going before `length` is measured.
fn warm_up(length: Duration) -> Duration {
    (length / 5).max(TICK)
}

/// Listens in the server's namespace; `accept` gives up after [`CONNECT`].
fn listen(place: &Place<'_>) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = place.server.run(|| TcpListener::bind((place.address, 0)))??;
    SockRef::from(&listener).set_read_timeout(Some(CONNECT))?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Nothing in this program waits for longer than a [`TICK`], and no segment waits for another.
fn ready(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TICK))?;
    stream.set_write_timeout(Some(TICK))?;
    Ok(stream)
}

/// Whether a blocking call only ran out of time.
fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// The result of a thread, or its panic.
fn joined<T>(handle: std::thread::ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
