//! When each outside port was last in use, in a file that survives us: after a restart, however it
//! came about, such ports rest before another inside host may have them (RFC 6888 REQ-8).
//!
//! The file is mapped, so a note costs a store and no system call, and SIGKILL loses none. Numbers
//! have the machine's byte order; the file is of no use to another.
//!
//! ```text
//!   0   "tapnat ports 1\n\0"
//!   16  seconds since 1970 at which the gateway was last alive
//!   20  number of addresses, at most 128
//!   64  the addresses, 16 bytes each; IPv4 as ::ffff:a.b.c.d
//!   4096  for each address: 65,536 words for TCP, 65,536 for UDP
//!         0 never used, 0xffffffff in use, else the second at which it was given up
//! ```

use crate::flow::{Endpoint, Protocol};
use crate::io::sys::shared::SharedWords;
use rustix::fs::{Mode, OFlags};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 16] = b"tapnat ports 1\n\0";
const HEADER: usize = 4096;
const ADDRESSES: usize = 64;
/// Addresses that are logged, at most: 64 MiB.
const MOST: usize = 128;
/// Ports of one address and protocol.
const TABLE: usize = 65536;
const IN_USE: u32 = u32::MAX;

/// A port that was in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Used {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The address and port.
    pub outside: Endpoint,
    /// When it was last in use, in seconds since 1970.
    pub last: u32,
}

/// Why there is no log, or what was lost.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Something else has this name.
    #[error("{0} is not a log of ports; it is left alone: remove it, or give another --control")]
    Foreign(PathBuf),
    /// It cannot be read or written.
    #[error("{path}: {error}; let this user write there, or give another --control")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
}

/// The log of a running gateway.
#[derive(Debug)]
pub struct PortLog {
    words: SharedWords,
    addresses: Vec<IpAddr>,
    alive: u32,
}

impl PortLog {
    /// Starts a log for these addresses in the place of the one that may be at `path`, and tells
    /// what the old one knew: ports last in use at `since` or later, oldest first. The new one
    /// knows that too. Addresses beyond 128 are not logged.
    ///
    /// # Errors
    /// See [`LogError`]; the old file is then as it was.
    pub fn open(
        path: &Path,
        addresses: &[IpAddr],
        now: u32,
        since: u32,
    ) -> Result<(PortLog, Vec<Used>), LogError> {
        let fail = |error| LogError::Io { path: path.to_owned(), error };
        let old = match read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(fail(error)),
        };
        if !old.is_empty() && !old.starts_with(MAGIC) {
            return Err(LogError::Foreign(path.to_owned()));
        }
        let mut used: Vec<Used> = parse(&old, now).into_iter().filter(|used| used.last >= since).collect();
        used.sort_by_key(|used| used.last);
        let addresses: Vec<IpAddr> = addresses.iter().copied().take(MOST).collect();
        let words = write(path, &addresses, now).map_err(fail)?;
        let log = PortLog { words, addresses, alive: now };
        for Used { protocol, outside, last } in &used {
            log.set(*protocol, *outside, *last);
        }
        // Only now does the new file take the place of the old one: nothing is lost on the way.
        fs::rename(temporary(path), path).map_err(fail)?;
        Ok((log, used))
    }

    /// Notes that a port was taken, or given up at `now`.
    pub fn note(&self, protocol: Protocol, outside: Endpoint, in_use: bool, now: u32) {
        self.set(protocol, outside, if in_use { IN_USE } else { now });
    }

    /// Notes that the gateway is alive: ports in use were so at least until now.
    pub fn alive(&mut self, now: u32) {
        if now != self.alive {
            self.alive = now;
            self.words.set(4, now);
        }
    }

    fn set(&self, protocol: Protocol, outside: Endpoint, word: u32) {
        let Some(table) = table(protocol) else { return };
        let Some(address) = self.addresses.iter().position(|ip| *ip == outside.ip) else { return };
        let at = HEADER / 4 + (address * 2 + table) * TABLE + usize::from(outside.port);
        self.words.set(at, word);
    }
}

fn table(protocol: Protocol) -> Option<usize> {
    match protocol {
        Protocol::Tcp => Some(0),
        Protocol::Udp => Some(1),
        Protocol::Icmp | Protocol::Other(_) => None,
    }
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    file.take((HEADER + MOST * 2 * TABLE * 4) as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(word.try_into().ok()?))
}

/// What a log knows; what is missing or makes no sense is passed over. A time to come (the clock
/// was set back) counts as now.
fn parse(bytes: &[u8], now: u32) -> Vec<Used> {
    let mut all = Vec::new();
    let (Some(alive), Some(count)) = (word(bytes, 16), word(bytes, 20)) else { return all };
    for address in 0..MOST.min(count as usize) {
        let at = ADDRESSES + address * 16;
        let Some(ip) = bytes.get(at..at + 16).and_then(|ip| <[u8; 16]>::try_from(ip).ok()) else { break };
        let ip = Ipv6Addr::from(ip).to_canonical();
        for (table, protocol) in [Protocol::Tcp, Protocol::Udp].into_iter().enumerate() {
            let start = HEADER + (address * 2 + table) * TABLE * 4;
            let words = bytes.get(start..).unwrap_or_default().chunks_exact(4).take(TABLE);
            for (port, stamp) in (0u16..=u16::MAX).zip(words) {
                let last = match word(stamp, 0) {
                    None | Some(0) => continue,
                    Some(IN_USE) => alive,
                    Some(last) => last,
                };
                all.push(Used { protocol, outside: Endpoint { ip, port }, last: last.min(now) });
            }
        }
    }
    all
}

/// Writes an empty log beside `path`, every byte of it, so that no store can meet a full disk.
fn write(path: &Path, addresses: &[IpAddr], now: u32) -> io::Result<SharedWords> {
    let path = temporary(path);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?);
    let mut header = vec![0; HEADER];
    header[..16].copy_from_slice(MAGIC);
    header[16..20].copy_from_slice(&now.to_ne_bytes());
    header[20..24].copy_from_slice(&(addresses.len() as u32).to_ne_bytes());
    for (place, ip) in header[ADDRESSES..].chunks_exact_mut(16).zip(addresses) {
        let ip = match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => *ip,
        };
        place.copy_from_slice(&ip.octets());
    }
    file.write_all(&header)?;
    let empty = vec![0; TABLE * 4];
    for _ in 0..addresses.len() * 2 {
        file.write_all(&empty)?;
    }
    SharedWords::map(&file, HEADER / 4 + addresses.len() * 2 * TABLE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const X: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
    const Y: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 2));

    fn end(ip: IpAddr, port: u16) -> Endpoint {
        Endpoint { ip, port }
    }

    #[test]
    fn a_new_log_knows_what_the_old_one_did_whoever_ended_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("default.ports");
        let (mut log, used) = PortLog::open(&path, &[X, Y], 1000, 0).unwrap();
        assert_eq!(used, []);
        log.note(Protocol::Tcp, end(X, 40000), true, 1001);
        log.note(Protocol::Udp, end(Y, 65535), true, 1002);
        log.note(Protocol::Udp, end(Y, 65535), false, 1003);
        log.note(Protocol::Udp, end(X, 1), false, 500);
        log.note(Protocol::Icmp, end(X, 2), true, 1003);
        log.alive(1050);
        // As after SIGKILL: nothing is written on the way out.
        std::mem::forget(log);
        let wanted = |outside, protocol, last| Used { protocol, outside, last };
        for (now, since) in [(1060, 900), (1061, 1003)] {
            let (_, used) = PortLog::open(&path, &[Y, X], now, since).unwrap();
            let udp = wanted(end(Y, 65535), Protocol::Udp, 1003);
            assert_eq!(used, [udp, wanted(end(X, 40000), Protocol::Tcp, 1050)]);
        }
        let (_, used) = PortLog::open(&path, &[X], 1020, 0).unwrap();
        assert!(used.iter().all(|used| used.last <= 1020), "a clock that was set back: {used:?}");
    }

    #[test]
    fn a_broken_log_is_begun_anew_and_a_foreign_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("default.ports");
        for broken in [&MAGIC[..], &[&MAGIC[..], &[0xff; 5000]].concat(), b""] {
            fs::write(&path, broken).unwrap();
            let (log, used) = PortLog::open(&path, &[X], 1000, 0).unwrap();
            assert!(used.len() <= TABLE, "{}", used.len());
            log.note(Protocol::Tcp, end(X, 9), true, 1000);
            assert!(PortLog::open(&path, &[X], 1000, 0).unwrap().1.contains(&Used {
                protocol: Protocol::Tcp,
                outside: end(X, 9),
                last: 1000
            }));
        }
        fs::write(&path, "a letter").unwrap();
        assert!(matches!(PortLog::open(&path, &[X], 1000, 0), Err(LogError::Foreign(_))));
        assert_eq!(fs::read(&path).unwrap(), b"a letter");
        let missing = folder.path().join("none/default.ports");
        assert!(matches!(PortLog::open(&missing, &[X], 1000, 0), Err(LogError::Io { .. })));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(matches!(PortLog::open(&path, &[X], 1000, 0), Err(LogError::Io { .. })));
    }
}
