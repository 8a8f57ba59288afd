//! Several uplinks as one: the way of today, and those of addresses that are on their way out.
//!
//! When the host's way out moves to another interface, flows that have begun keep their address
//! while it exists, and so they keep its interface: a packet leaves by the way that its source belongs
//! to. A way goes when none of its addresses is wanted any more, or when it fails.

use crate::flow::{LinkInfo, Time};
use crate::io::filter::Wanted;
use crate::io::{Link, deliver};
use crate::wire::Buffer;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;
use std::{fmt, io};

/// A way of before, and the addresses that leave by it.
struct Older {
    link: Box<dyn Link>,
    addresses: Vec<IpAddr>,
}

/// An uplink, and those before it.
pub struct Ways {
    latest: Box<dyn Link>,
    older: Vec<Older>,
    scratch: Buffer,
}

impl Ways {
    /// `latest` for all but `addresses`, which stay with `before`.
    pub fn new(latest: Box<dyn Link>, before: Box<dyn Link>, addresses: Vec<IpAddr>) -> Ways {
        Ways { latest, older: vec![Older { link: before, addresses }], scratch: Buffer::new() }
    }
}

impl fmt::Debug for Ways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} and {} older", self.latest.name(), self.older.len())
    }
}

/// The source address of an IP packet.
fn source(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(12..16)?).ok()?).into()),
        6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(8..24)?).ok()?).into()),
        _ => None,
    }
}

impl Link for Ways {
    fn name(&self) -> &str {
        self.latest.name()
    }

    fn info(&self) -> LinkInfo {
        let mut info = self.latest.info();
        info.mtu = self.older.iter().map(|older| older.link.info().mtu).fold(info.mtu, u16::min);
        info
    }

    fn recv(&mut self, buffer: &mut Buffer) -> io::Result<()> {
        let mut at = 0;
        while let Some(older) = self.older.get_mut(at) {
            match older.link.recv(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => at += 1,
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    self.older.remove(at);
                }
                received => return received,
            }
        }
        self.latest.recv(buffer)
    }

    fn send(&mut self, buffer: &mut Buffer) -> io::Result<()> {
        let source = source(buffer.bytes());
        let of = |older: &&mut Older| source.is_some_and(|source| older.addresses.contains(&source));
        match self.older.iter_mut().find(of) {
            Some(older) => deliver(older.link.as_mut(), buffer, &mut self.scratch),
            None => self.latest.send(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let older = self.older.iter_mut().map(|older| older.link.flush()).fold(Ok(()), io::Result::and);
        self.latest.flush().and(older)
    }

    fn readable(&self) -> Vec<BorrowedFd<'_>> {
        let older = self.older.iter().flat_map(|older| older.link.readable());
        self.latest.readable().into_iter().chain(older).collect()
    }

    fn tick(&mut self, now: Time) {
        self.older.iter_mut().for_each(|older| older.link.tick(now));
        self.latest.tick(now);
    }

    fn next_deadline(&self) -> Option<Time> {
        let older = self.older.iter().filter_map(|older| older.link.next_deadline());
        self.latest.next_deadline().into_iter().chain(older).min()
    }

    fn pending(&self) -> bool {
        self.latest.pending() || self.older.iter().any(|older| older.link.pending())
    }

    fn filters(&self) -> bool {
        self.latest.filters()
    }

    fn set_wanted(&mut self, wanted: &Wanted) -> io::Result<()> {
        let older = self.older.iter_mut().map(|older| older.link.set_wanted(wanted));
        let older = older.fold(Ok(()), io::Result::and);
        self.latest.set_wanted(wanted).and(older)
    }

    fn retire(&mut self, addresses: &[IpAddr]) {
        for older in &mut self.older {
            older.addresses.retain(|address| addresses.contains(address));
            older.link.retire(addresses);
        }
        self.older.retain(|older| !older.addresses.is_empty());
        self.latest.retire(addresses);
    }

    fn counters(&mut self) -> Vec<(&'static str, u64)> {
        let mut counters = self.latest.counters();
        for (word, count) in self.older.iter_mut().flat_map(|older| older.link.counters()) {
            match counters.iter_mut().find(|(known, _)| *known == word) {
                Some((_, sum)) => *sum += count,
                None => counters.push((word, count)),
            }
        }
        counters
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.latest.reopen()
    }
}
