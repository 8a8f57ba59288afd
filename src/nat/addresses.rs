//! Which addresses are ours, and which of them an inside host is given.

use super::hash::Hash;
use super::slab::NONE;
use hashbrown::HashTable;
use std::net::IpAddr;

/// What an address of ours is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Home {
    /// The external address with this number.
    External(u16),
    /// Another address of the host.
    Host,
}

/// The addresses of the gateway and its host.
#[derive(Debug)]
pub(super) struct Addresses {
    table: HashTable<(IpAddr, Home)>,
    external: Vec<IpAddr>,
    v4: Vec<u16>,
    v6: Vec<u16>,
}

impl Addresses {
    pub(super) fn new(hash: &Hash, external: &[IpAddr], host: &[IpAddr]) -> Self {
        let mut ours = Addresses {
            table: HashTable::new(),
            external: external.to_vec(),
            v4: Vec::new(),
            v6: Vec::new(),
        };
        for (number, ip) in (0u16..).zip(external) {
            if ours.home(hash, *ip).is_none() {
                ours.insert(hash, *ip, Home::External(number));
                if ip.is_ipv4() { ours.v4.push(number) } else { ours.v6.push(number) }
            }
        }
        for ip in host {
            if ours.home(hash, *ip).is_none() {
                ours.insert(hash, *ip, Home::Host);
            }
        }
        ours
    }

    fn insert(&mut self, hash: &Hash, ip: IpAddr, home: Home) {
        self.table.insert_unique(hash.address(NONE, ip), (ip, home), |(ip, _)| hash.address(NONE, *ip));
    }

    /// What `ip` is, if it is ours.
    #[inline]
    pub(super) fn home(&self, hash: &Hash, ip: IpAddr) -> Option<Home> {
        self.table.find(hash.address(NONE, ip), |(ours, _)| *ours == ip).map(|(_, home)| *home)
    }

    /// The number of the external address `ip`.
    #[inline]
    pub(super) fn external(&self, hash: &Hash, ip: IpAddr) -> Option<u16> {
        match self.home(hash, ip) {
            Some(Home::External(number)) => Some(number),
            _ => None,
        }
    }

    /// The external address with this number.
    #[inline]
    pub(super) fn ip(&self, number: u16) -> IpAddr {
        self.external[usize::from(number)]
    }

    /// The external address of an inside host: always the same one, for every protocol (paired
    /// pooling, RFC 4787 REQ-2, RFC 6888 REQ-2). `None` if none is of its family.
    pub(super) fn pick(&self, hash: &Hash, inside: IpAddr) -> Option<u16> {
        let choice = if inside.is_ipv4() { &self.v4 } else { &self.v6 };
        let number = hash.address(0, inside) % (choice.len().max(1) as u64);
        choice.get(number as usize).copied()
    }
}
