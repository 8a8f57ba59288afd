//! TCP streams at full speed: bytes that the receiving program has read, over time.

use super::{CONNECT, Direction, Place, joined, listen, ready, timed_out, warm_up};
use socket2::SockRef;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;
use tapnat::lab::programs::now;

/// What a program writes and reads at once, in bytes.
const BLOCK: usize = 128 << 10;

/// What the threads of one run share.
#[derive(Default)]
struct Shared {
    read: AtomicU64,
    over: AtomicBool,
}

/// Gbit/s over all streams together.
pub fn run(place: &Place<'_>, streams: usize, direction: Direction, length: Duration) -> io::Result<f64> {
    let (listener, address) = listen(place)?;
    let shared = Shared::default();
    let serve = || {
        let accept = |_| ready(listener.accept()?.0);
        let accepted: io::Result<Vec<_>> = (0..streams).map(accept).collect();
        all(accepted?, direction == Direction::Down, &shared)
    };
    let connect = || {
        let connect = |_| ready(TcpStream::connect_timeout(&address, CONNECT)?);
        let connected: io::Result<Vec<_>> = (0..streams).map(connect).collect();
        all(connected?, direction == Direction::Up, &shared)
    };
    thread::scope(|scope| {
        let server = scope.spawn(|| place.server.run(serve)?);
        let client = scope.spawn(|| place.client.run(connect)?);
        thread::sleep(warm_up(length));
        let (start, before) = (now(), shared.read.load(Relaxed));
        thread::sleep(length);
        let (time, read) = (start.elapsed(), shared.read.load(Relaxed) - before);
        shared.over.store(true, Relaxed);
        joined(client)?;
        joined(server)?;
        Ok(read as f64 * 8.0 / time.as_secs_f64() / 1e9)
    })
}

/// Runs one thread a stream until it is over.
fn all(streams: Vec<TcpStream>, send: bool, shared: &Shared) -> io::Result<()> {
    thread::scope(|scope| {
        let start = |stream| scope.spawn(move || pump(stream, send, shared));
        let threads: Vec<_> = streams.into_iter().map(start).collect();
        threads.into_iter().try_for_each(joined)
    })
}

fn pump(mut stream: TcpStream, send: bool, shared: &Shared) -> io::Result<()> {
    let mut block = vec![0x5a; BLOCK];
    while !shared.over.load(Relaxed) {
        let moved = if send { stream.write(&block) } else { stream.read(&mut block) };
        match moved {
            Ok(0) if !shared.over.load(Relaxed) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) if !send => {
                shared.read.fetch_add(bytes as u64, Relaxed);
            }
            Err(error) if !timed_out(&error) && !shared.over.load(Relaxed) => return Err(error),
            _ => {}
        }
    }
    // A reset throws away what is still under way, which would run into the next contender's time.
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))
}
