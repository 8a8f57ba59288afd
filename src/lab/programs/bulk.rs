//! Bulk TCP transfers in both directions, checked by their sum.
//!
//! The client opens with 17 bytes: what it wants (`G` to get, `P` to put), the seed and the length,
//! big endian. Who sends, sends that much of the [`Pattern`]; a server that took it answers with the
//! 8 bytes of its [`Sum`].

use crate::io::sys::netns::Netns;
use crate::lab::programs::now;
use crate::lab::programs::pattern::{Pattern, Sum, expected};
use crate::lab::programs::server::Server;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const BLOCK: usize = 256 * 1024;

/// Serves at `address` in `netns`.
///
/// # Errors
/// `EADDRINUSE` and its kin.
pub fn serve(netns: &Netns, address: impl Into<SocketAddr>) -> io::Result<Server> {
    Server::tcp(netns, "bulk", address, |mut stream| {
        let mut opening = [0; 17];
        stream.read_exact(&mut opening)?;
        let (seed, length) = (u64_at(&opening, 1), u64_at(&opening, 9));
        match opening[0] {
            b'G' => send(&mut stream, seed, length),
            b'P' => {
                let sum = take(&mut stream, length)?;
                stream.write_all(&sum.to_be_bytes())
            }
            _ => Ok(()),
        }
    })
}

/// Gets `length` bytes from `server`, checks them, and says how long it took.
///
/// # Errors
/// The kernel's word; `InvalidData` if the bytes are not the ones that were sent.
pub fn get(server: impl Into<SocketAddr>, length: u64, timeout: Duration) -> io::Result<Duration> {
    let seed = length ^ 0x6765_7400;
    let (mut stream, start) = open(server.into(), b'G', seed, length, timeout)?;
    let sum = take(&mut stream, length)?;
    check(sum, seed, length)?;
    Ok(now() - start)
}

/// Puts `length` bytes to `server`, checks that it took just those, and says how long it took.
///
/// # Errors
/// The kernel's word; `InvalidData` if the bytes that arrived are not the ones that were sent.
pub fn put(server: impl Into<SocketAddr>, length: u64, timeout: Duration) -> io::Result<Duration> {
    let seed = length ^ 0x7075_7400;
    let (mut stream, start) = open(server.into(), b'P', seed, length, timeout)?;
    send(&mut stream, seed, length)?;
    let mut sum = [0; 8];
    stream.read_exact(&mut sum)?;
    check(u64::from_be_bytes(sum), seed, length)?;
    Ok(now() - start)
}

fn open(
    server: SocketAddr,
    what: u8,
    seed: u64,
    length: u64,
    timeout: Duration,
) -> io::Result<(TcpStream, std::time::Instant)> {
    let mut stream = TcpStream::connect_timeout(&server, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let mut opening = [what; 17];
    opening[1..9].copy_from_slice(&seed.to_be_bytes());
    opening[9..].copy_from_slice(&length.to_be_bytes());
    let start = now();
    stream.write_all(&opening)?;
    Ok((stream, start))
}

fn send(stream: &mut TcpStream, seed: u64, length: u64) -> io::Result<()> {
    let mut pattern = Pattern::new(seed);
    let mut block = vec![0; BLOCK];
    let mut left = length;
    while left > 0 {
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(BLOCK);
        pattern.fill(&mut block[..take]);
        stream.write_all(&block[..take])?;
        left -= take as u64;
    }
    Ok(())
}

fn take(stream: &mut TcpStream, length: u64) -> io::Result<u64> {
    let mut sum = Sum::default();
    let mut block = vec![0; BLOCK];
    let mut left = length;
    while left > 0 {
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(BLOCK);
        let read = stream.read(&mut block[..take])?;
        if read == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("closed {left} bytes before the end"),
            ));
        }
        sum.add(&block[..read]);
        left -= read as u64;
    }
    Ok(sum.value())
}

fn check(sum: u64, seed: u64, length: u64) -> io::Result<()> {
    if sum == expected(seed, length) {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{length} bytes arrived, but not the ones that were sent"),
    ))
}

fn u64_at(bytes: &[u8; 17], at: usize) -> u64 {
    bytes[at..at + 8].iter().fold(0, |value, &byte| value << 8 | u64::from(byte))
}
