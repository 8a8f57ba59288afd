//! The addresses of remotes in four bytes each.
//!
//! A session's row is one cache line, and an IPv6 address would be a quarter of it. An IPv4 address
//! stands for itself; an IPv6 address is kept here once, however many sessions talk to it, and the
//! session keeps its row number. So there are never more rows than sessions.

use super::hash::Hash;
use super::index::Index;
use super::slab::{NONE, Row, Slab};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One IPv6 address.
#[derive(Clone, Copy, Debug)]
struct Known {
    ip: Ipv6Addr,
    /// Sessions that talk to it; of a free row, the next free row.
    sessions: u32,
}

impl Default for Known {
    fn default() -> Self {
        Known { ip: Ipv6Addr::UNSPECIFIED, sessions: NONE }
    }
}

impl Row for Known {
    fn next_free(&self) -> u32 {
        self.sessions
    }

    fn set_free(&mut self, next: u32) {
        self.sessions = next;
    }
}

/// An address in four bytes, and which kind it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Short {
    pub bits: u32,
    pub v6: bool,
}

/// The IPv6 addresses.
#[derive(Debug)]
pub(super) struct Remotes {
    rows: Slab<Known>,
    by_ip: Index,
}

impl Remotes {
    pub(super) fn new() -> Self {
        Remotes { rows: Slab::new(), by_ip: Index::with_room(16) }
    }

    pub(super) fn bytes(&self) -> usize {
        self.rows.bytes() + self.by_ip.bytes()
    }

    /// The short form of an address, for one more session. To be given back.
    pub(super) fn take(&mut self, hash: &Hash, ip: IpAddr) -> Short {
        let ip = match ip {
            IpAddr::V4(ip) => return Short { bits: ip.to_bits(), v6: false },
            IpAddr::V6(ip) => ip,
        };
        let key = hash.address(NONE, ip.into());
        let known = self.by_ip.find(key, |row| self.rows[row].ip == ip);
        let row = known.unwrap_or_else(|| {
            let row = self.rows.take();
            self.rows[row] = Known { ip, sessions: 0 };
            let rows = &self.rows;
            self.by_ip.insert(key, row, |row| hash.address(NONE, rows[row].ip.into()));
            row
        });
        self.rows[row].sessions += 1;
        Short { bits: row, v6: true }
    }

    /// A session with this address has ended.
    pub(super) fn give_back(&mut self, hash: &Hash, short: Short) {
        if !short.v6 {
            return;
        }
        self.rows[short.bits].sessions -= 1;
        if self.rows[short.bits].sessions == 0 {
            let key = hash.address(NONE, self.rows[short.bits].ip.into());
            let rows = &self.rows;
            self.by_ip.remove(key, short.bits, |row| hash.address(NONE, rows[row].ip.into()));
            self.rows.give_back(short.bits);
        }
    }

    /// The address.
    pub(super) fn ip(&self, short: Short) -> IpAddr {
        if short.v6 { self.rows[short.bits].ip.into() } else { Ipv4Addr::from_bits(short.bits).into() }
    }

    /// Whether it is this address.
    #[inline]
    pub(super) fn is(&self, short: Short, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => !short.v6 && short.bits == ip.to_bits(),
            IpAddr::V6(ip) => short.v6 && self.rows[short.bits].ip == ip,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_address_is_kept_once_and_as_long_as_it_is_used() {
        let (mut remotes, hash) = (Remotes::new(), Hash::new(1, 2));
        let ips: Vec<IpAddr> =
            (0..100u16).map(|n| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n).into()).collect();
        let first: Vec<_> = ips.iter().map(|ip| remotes.take(&hash, *ip)).collect();
        let again: Vec<_> = ips.iter().map(|ip| remotes.take(&hash, *ip)).collect();
        assert_eq!(first, again);
        let zero: IpAddr = Ipv4Addr::UNSPECIFIED.into();
        assert!(!remotes.is(first[0], zero) && !remotes.is(remotes_v4(), ips[0]));
        for short in first {
            remotes.give_back(&hash, short);
        }
        assert!(
            again.iter().zip(&ips).all(|(short, ip)| remotes.ip(*short) == *ip && remotes.is(*short, *ip))
        );
        for short in again {
            remotes.give_back(&hash, short);
        }
        assert_eq!(remotes.rows.len(), 0);
    }

    fn remotes_v4() -> Short {
        Short { bits: 0, v6: false }
    }
}
