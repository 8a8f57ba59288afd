//! A long transfer whose bytes both ends hash.

use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;
use tapnat::lab::programs::pattern::Pattern;

/// What is moved at once, in bytes.
const BLOCK: usize = 256 << 10;
/// How long nothing may move.
const STALL: Duration = Duration::from_secs(20);

/// The server's end: sends or takes `length` bytes, and gives the hash of them.
pub fn serve(stream: &mut TcpStream, send: bool, length: u64) -> io::Result<String> {
    if send { self::send(stream, length) } else { take(stream, length) }
}

/// Sends bytes that do not repeat, then says that these were all and waits for the other end to close.
pub fn send(stream: &mut TcpStream, length: u64) -> io::Result<String> {
    stream.set_write_timeout(Some(STALL))?;
    stream.set_read_timeout(Some(STALL))?;
    let (mut pattern, mut hash, mut block) = (Pattern::new(length), Sha256::new(), vec![0; BLOCK]);
    let mut left = length;
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
        pattern.fill(&mut block[..count]);
        hash.update(&block[..count]);
        stream.write_all(&block[..count])?;
        left -= count as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    match stream.read(&mut block)? {
        0 => Ok(hex(&hash.finalize())),
        _ => Err(io::Error::other("the receiver says something")),
    }
}

/// Takes all bytes to the end, which must be as many as announced.
pub fn take(stream: &mut TcpStream, length: u64) -> io::Result<String> {
    stream.set_read_timeout(Some(STALL))?;
    let (mut hash, mut block, mut taken) = (Sha256::new(), vec![0; BLOCK], 0);
    loop {
        match stream.read(&mut block)? {
            0 if taken == length => return Ok(hex(&hash.finalize())),
            0 => return Err(io::Error::other(format!("{taken} of {length} bytes came"))),
            count => {
                hash.update(&block[..count]);
                taken += count as u64;
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
