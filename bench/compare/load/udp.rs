//! Datagrams of 64 bytes: as many as one thread can send, and as many as come back.

use super::{Place, TICK, joined, timed_out, warm_up};
use crate::metric::Metric;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;
use tapnat::lab::programs::now;

/// Bytes of payload.
const SIZE: usize = 64;
/// Datagrams under way at most when they are answered.
const WINDOW: usize = 64;
/// Bytes that may wait for the server's thread.
const WAITING: usize = 16 << 20;
/// After this long without an answer, what is under way counts as lost.
const LOST: Duration = Duration::from_millis(20);

/// What the threads of one run share.
#[derive(Default)]
struct Shared {
    sent: AtomicU64,
    arrived: AtomicU64,
    over: AtomicBool,
}

impl Shared {
    /// Thousands sent and arrived a second, after a time to get going; then it is over.
    fn watch(&self, length: Duration) -> (f64, f64) {
        thread::sleep(warm_up(length));
        let (start, sent, arrived) = (now(), self.sent.load(Relaxed), self.arrived.load(Relaxed));
        thread::sleep(length);
        let thousands = start.elapsed().as_secs_f64() * 1e3;
        let (sent, arrived) = (self.sent.load(Relaxed) - sent, self.arrived.load(Relaxed) - arrived);
        self.over.store(true, Relaxed);
        (sent as f64 / thousands, arrived as f64 / thousands)
    }
}

/// Datagrams delivered to the server while the container sends as fast as it can.
pub fn up(place: &Place<'_>, length: Duration) -> io::Result<Vec<(Metric, f64)>> {
    let shared = Shared::default();
    let (server, address) = bind(place)?;
    let send = || {
        let socket = connect(address)?;
        while !shared.over.load(Relaxed) {
            // Refused by a full queue on the way: it was offered, and is lost like any other.
            let _ = socket.send(&[0x5a; SIZE]);
            shared.sent.fetch_add(1, Relaxed);
        }
        io::Result::Ok(())
    };
    let receive = || {
        let mut datagram = [0; 2 * SIZE];
        while !shared.over.load(Relaxed) {
            if server.recv(&mut datagram).is_ok_and(|length| length == SIZE) {
                shared.arrived.fetch_add(1, Relaxed);
            }
        }
    };
    let (sent, arrived) = thread::scope(|scope| {
        scope.spawn(receive);
        let client = scope.spawn(|| place.client.run(send)?);
        let rates = shared.watch(length);
        joined(client).map(|()| rates)
    })?;
    let lost = if sent > 0.0 { (100.0 * (1.0 - arrived / sent)).max(0.0) } else { 0.0 };
    Ok(vec![(Metric::UdpUp, arrived), (Metric::UdpLost, lost)])
}

/// Datagrams answered, with at most [`WINDOW`] of them under way.
pub fn echo(place: &Place<'_>, length: Duration) -> io::Result<Vec<(Metric, f64)>> {
    let shared = Shared::default();
    let (server, address) = bind(place)?;
    let answer = || {
        let mut datagram = [0; 2 * SIZE];
        while !shared.over.load(Relaxed) {
            if let Ok((length, peer)) = server.recv_from(&mut datagram) {
                let _ = server.send_to(&datagram[..length], peer);
            }
        }
    };
    let ask = || {
        let socket = connect(address)?;
        socket.set_read_timeout(Some(LOST))?;
        let (mut datagram, mut under_way) = ([0x5a; 2 * SIZE], 0_usize);
        while !shared.over.load(Relaxed) {
            while under_way < WINDOW {
                let _ = socket.send(&datagram[..SIZE]);
                under_way += 1;
            }
            match socket.recv(&mut datagram) {
                Ok(_) => {
                    shared.arrived.fetch_add(1, Relaxed);
                    under_way = under_way.saturating_sub(1);
                }
                Err(error) if timed_out(&error) => under_way = 0,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        scope.spawn(answer);
        let client = scope.spawn(|| place.client.run(ask)?);
        let (_, answered) = shared.watch(length);
        joined(client)?;
        Ok(vec![(Metric::UdpEcho, answered)])
    })
}

fn bind(place: &Place<'_>) -> io::Result<(UdpSocket, SocketAddr)> {
    let socket = place.server.run(|| UdpSocket::bind((place.address, 0)))??;
    socket.set_read_timeout(Some(TICK))?;
    // What waits while the server's thread waits for a processor is not the gateway's loss. Without
    // the privilege, the machine's own limit has to do.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, WAITING);
    let address = socket.local_addr()?;
    Ok((socket, address))
}

fn connect(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(address)?;
    Ok(socket)
}
