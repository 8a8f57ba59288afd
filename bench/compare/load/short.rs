//! Short HTTP exchanges, each on a connection of its own: one after the other, or some at a time.

use super::{CONNECT, Place, TICK, joined, timed_out, warm_up};
use crate::metric::Metric;
use socket2::SockRef;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use std::{fs, thread};
use tapnat::io::sys::netns::Netns;
use tapnat::lab::programs::now;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: server.example\r\nConnection: close\r\n\r\n";
const BODY: usize = 128;

/// What the threads of one run share.
#[derive(Default)]
struct Shared {
    done: AtomicU64,
    failed: AtomicU64,
    over: AtomicBool,
}

/// Exchanges a second, SYNs that were sent again, and exchanges that failed, with so many clients
/// at work at once. Each has a server port of its own, with a thread that accepts there.
pub fn run(place: &Place<'_>, clients: usize, length: Duration) -> io::Result<Vec<(Metric, f64)>> {
    let shared = Shared::default();
    let bind = |_| {
        let listener = TcpListener::bind((place.address, 0))?;
        SockRef::from(&listener).set_read_timeout(Some(TICK))?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    let bound: io::Result<Vec<(TcpListener, SocketAddr)>> =
        place.server.run(|| (0..clients).map(bind).collect())?;
    let (listeners, addresses): (Vec<_>, Vec<_>) = bound?.into_iter().unzip();
    let response =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\nConnection: close\r\n\r\n{}", "x".repeat(BODY));
    let syns = sent_again(place)?;
    let rate = thread::scope(|scope| {
        let mut threads = Vec::new();
        for listener in &listeners {
            let serve = || serve(listener, response.as_bytes(), &shared);
            threads.push(scope.spawn(move || place.server.run(serve)));
        }
        for address in &addresses {
            let ask = || ask(*address, response.len(), &shared);
            threads.push(scope.spawn(move || place.client.run(ask)));
        }
        thread::sleep(warm_up(length));
        let (start, before) = (now(), shared.done.load(Relaxed));
        thread::sleep(length);
        let (time, done) = (start.elapsed(), shared.done.load(Relaxed) - before);
        shared.over.store(true, Relaxed);
        threads.into_iter().try_for_each(joined)?;
        io::Result::Ok(done as f64 / time.as_secs_f64())
    })?;
    let syns = sent_again(place)? - syns;
    Ok(vec![
        (if clients == 1 { Metric::ShortOne } else { Metric::ShortEight }, rate),
        (Metric::ShortSyns, syns as f64),
        (Metric::ShortFailed, shared.failed.load(Relaxed) as f64),
    ])
}

/// Answers one connection after the other, and closes first, as servers do that were asked to.
fn serve(listener: &TcpListener, response: &[u8], shared: &Shared) {
    let mut request = [0; 512];
    while !shared.over.load(Relaxed) {
        let Ok((mut stream, _)) = listener.accept() else { continue };
        // What goes wrong here goes wrong for the client too, who counts it.
        let _ = stream.set_read_timeout(Some(CONNECT));
        let mut have = 0;
        while !request[..have].ends_with(b"\r\n\r\n") {
            match stream.read(&mut request[have..]) {
                Ok(more) if more > 0 => have += more,
                _ => break,
            }
        }
        let _ = stream.write_all(response);
    }
}

fn ask(server: SocketAddr, expected: usize, shared: &Shared) {
    while !shared.over.load(Relaxed) {
        match exchange(server) {
            Ok(length) if length == expected => shared.done.fetch_add(1, Relaxed),
            // The server's thread may be gone by the time of the last request.
            Err(_) | Ok(_) if shared.over.load(Relaxed) => 0,
            Err(error) if timed_out(&error) => shared.failed.fetch_add(1, Relaxed),
            Err(_) | Ok(_) => {
                // A gateway that refuses at once must not be asked a million times.
                thread::sleep(Duration::from_millis(1));
                shared.failed.fetch_add(1, Relaxed)
            }
        };
    }
}

/// The length of the whole answer.
fn exchange(server: SocketAddr) -> io::Result<usize> {
    let mut stream = TcpStream::connect_timeout(&server, CONNECT)?;
    stream.set_read_timeout(Some(CONNECT))?;
    stream.write_all(REQUEST)?;
    let (mut answer, mut length) = ([0; 1024], 0);
    loop {
        match stream.read(&mut answer)? {
            0 => return Ok(length),
            more => length += more,
        }
    }
}

/// SYNs sent again so far by the container and by the host, where a proxy's connections start.
fn sent_again(place: &Place<'_>) -> io::Result<i64> {
    let count = |netns: &Netns| {
        let text = netns.run(|| fs::read_to_string("/proc/thread-self/net/netstat"))??;
        let lines = || text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
        let column =
            lines().next().and_then(|names| names.split(' ').position(|name| name == "TCPSynRetrans"));
        let value = column.and_then(|column| lines().nth(1)?.split(' ').nth(column)?.parse().ok());
        io::Result::Ok(value.unwrap_or(0))
    };
    Ok(count(place.client)? + count(place.host)?)
}
