//! A flood of frames at a given rate, and a TCP transfer beside it.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;
use tapnat::io::netlink::Netlink;
use tapnat::io::sys::netns::Netns;
use tapnat::io::sys::wiretap::Wiretap;
use tapnat::lab::programs::now;
use tapnat::lab::topology::UPLINK;

/// Frames that are handed to the kernel at once.
const BATCH: usize = 64;

/// Sends `frames` over and over at `rate` a second for `length`, from the host's only interface.
/// Gives back how many were sent.
pub fn flood(host: &Netns, frames: &[Vec<u8>], rate: f64, length: Duration) -> io::Result<u64> {
    host.run(|| {
        let link = Netlink::open()?.link(UPLINK)?.ok_or(io::ErrorKind::NotFound)?;
        let wire = Wiretap::open_to_send(link.index)?;
        let (start, mut sent, mut at) = (now(), 0u64, 0);
        loop {
            let passed = start.elapsed();
            if passed >= length {
                return Ok(sent);
            }
            if sent as f64 > rate * passed.as_secs_f64() {
                thread::sleep(Duration::from_micros(50));
                continue;
            }
            let batch = &frames[at..frames.len().min(at + BATCH)];
            match wire.send_all(batch) {
                Ok(count) => {
                    sent += count as u64;
                    at = (at + count) % frames.len();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::yield_now(),
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {
                    thread::yield_now();
                }
                Err(error) => return Err(error),
            }
        }
    })?
}

/// A TCP stream from `client` to a server at `address`, at full speed while `work` runs. `work` is
/// given the count of bytes that the server's program has read.
pub fn beside_a_transfer<T: Send>(
    client: &Netns,
    server: &Netns,
    address: Ipv4Addr,
    work: impl FnOnce(&AtomicU64) -> io::Result<T> + Send,
) -> io::Result<T> {
    let listener = server.run(|| TcpListener::bind((address, 0)))??;
    let to = listener.local_addr()?;
    let mut stream = client.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)))??;
    let (mut accepted, _) = listener.accept()?;
    // Nothing waits for longer than this when it is over.
    let tick = Some(Duration::from_millis(200));
    stream.set_write_timeout(tick)?;
    accepted.set_read_timeout(tick)?;
    let (read, over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let block = vec![0x5a; 128 << 10];
            while !over.load(Relaxed) {
                let _ = stream.write(&block);
            }
        });
        scope.spawn(|| {
            let mut block = vec![0; 128 << 10];
            while !over.load(Relaxed) {
                read.fetch_add(accepted.read(&mut block).unwrap_or(0) as u64, Relaxed);
            }
        });
        let result = work(&read);
        over.store(true, Relaxed);
        result
    })
}
