//! Which ports somebody listens to in a network namespace, from the kernel's tables of sockets.
//!
//! The files are opened once, in the namespace, and read again each time: they show the namespace
//! that they were opened in, whoever reads them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// The files, with whether they are of UDP.
const FILES: [(&str, bool); 4] = [("tcp", false), ("tcp6", false), ("udp", true), ("udp6", true)];
/// Of each, no more is read than this, in bytes.
const MOST: usize = 4 << 20;
/// The state of a socket that listens, and of one of UDP that is not connected.
const LISTEN: &str = "0A";
const UNCONNECTED: &str = "07";

/// Where somebody listens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Listening {
    /// By UDP rather than TCP.
    pub udp: bool,
    /// The address; one of IPv6 that is unspecified takes IPv4 too, mostly.
    pub ip: IpAddr,
    /// The port.
    pub port: u16,
}

/// The tables of a namespace.
#[derive(Debug)]
pub struct Tables {
    files: Vec<File>,
}

impl Tables {
    /// Those of this thread's namespace.
    ///
    /// # Errors
    /// There is no `/proc`, or it may not be read.
    pub fn open() -> io::Result<Tables> {
        let open = |(name, _): &(&str, bool)| File::open(format!("/proc/thread-self/net/{name}"));
        // Without IPv6 there are no tables of it.
        let empty = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => File::open("/dev/null"),
            _ => Err(error),
        };
        let files = FILES.iter().map(|file| open(file).or_else(empty)).collect::<io::Result<_>>()?;
        Ok(Tables { files })
    }

    /// Those that were opened elsewhere, in their order.
    ///
    /// # Errors
    /// They are not as many as there should be.
    pub fn of(descriptors: Vec<OwnedFd>) -> io::Result<Tables> {
        if descriptors.len() != FILES.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Tables { files: descriptors.into_iter().map(File::from).collect() })
    }

    /// Their descriptors, in their order.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.files.iter().map(AsFd::as_fd).collect()
    }

    /// Who listens.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn read(&self) -> io::Result<BTreeSet<Listening>> {
        let mut all = BTreeSet::new();
        for (file, (_, udp)) in self.files.iter().zip(FILES) {
            read_table(file, udp, &mut all)?;
        }
        Ok(all)
    }
}

/// Reads one table. Those that listen by TCP come before all others, which are not read.
fn read_table(file: &File, udp: bool, all: &mut BTreeSet<Listening>) -> io::Result<()> {
    let (mut bytes, mut rest, mut offset) = (vec![0; 64 * 1024], Vec::new(), 0);
    while offset < MOST {
        let count = file.read_at(&mut bytes, offset as u64)?;
        if count == 0 {
            return Ok(());
        }
        offset += count;
        rest.extend_from_slice(&bytes[..count]);
        let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let lines: Vec<u8> = rest.drain(..whole).collect();
        for line in String::from_utf8_lossy(&lines).lines() {
            match parse(line, udp) {
                Some((listening, true)) => {
                    all.insert(listening);
                }
                Some((_, false)) if !udp => return Ok(()),
                _ => {}
            }
        }
    }
    Ok(())
}

/// A socket of a line, and whether it listens. The line with the titles has none.
fn parse(line: &str, udp: bool) -> Option<(Listening, bool)> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (ip, port) = words.next()?.split_once(':')?;
    let state = words.nth(1)?;
    let word = |at: usize| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok();
    // Words of 32 bits as they lie in memory.
    let ip = match ip.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?.to_ne_bytes())),
        32 => {
            let mut octets = [0; 16];
            for (at, piece) in octets.chunks_mut(4).enumerate() {
                piece.copy_from_slice(&word(at * 8)?.to_ne_bytes());
            }
            Ipv6Addr::from(octets).to_canonical()
        }
        _ => return None,
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    Some((Listening { udp, ip, port }, state == if udp { UNCONNECTED } else { LISTEN }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_are_read() {
        let said =
            |line: &str, udp| parse(line, udp).map(|(one, listens)| (one.ip.to_string(), one.port, listens));
        let line = "   0: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1";
        assert_eq!(said(line, false), Some(("127.0.0.1".to_owned(), 22, true)));
        assert_eq!(said(line, true), Some(("127.0.0.1".to_owned(), 22, false)));
        let line = "  12: B80D0120000000000000000001000000:1F90 00000000000000000000000000000000:0000 07 x";
        assert_eq!(said(line, true), Some(("2001:db8::1".to_owned(), 8080, true)));
        for nonsense in
            ["", "sl local_address rem_address st", "0: x:1 y 0A", "0: 01:1 y 0A", "0: 0100007F:zz y 0A"]
        {
            assert_eq!(said(nonsense, false), None, "{nonsense}");
        }
    }

    #[test]
    fn the_kernels_tables_are_read_again_and_again() {
        let opened = Tables::open().unwrap();
        let sent = opened.descriptors().into_iter().map(|one| one.try_clone_to_owned().unwrap()).collect();
        let tables = Tables::of(sent).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("[::1]:0");
        let port = tcp.local_addr().unwrap().port();
        let ours = Listening { udp: false, ip: [127, 0, 0, 1].into(), port };
        assert!(tables.read().unwrap().contains(&ours));
        if let Ok(udp) = udp {
            let at = udp.local_addr().unwrap();
            assert!(tables.read().unwrap().contains(&Listening { udp: true, ip: at.ip(), port: at.port() }));
        }
        drop(tcp);
        // Somebody else may get a port as soon as it is free, but not each time.
        let gone = |_| {
            let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
            let ours = Listening { port: tcp.local_addr().unwrap().port(), ..ours };
            assert!(tables.read().unwrap().contains(&ours));
            drop(tcp);
            !tables.read().unwrap().contains(&ours)
        };
        assert!((0..20).any(gone));
        assert!(Tables::of(Vec::new()).is_err());
    }
}
