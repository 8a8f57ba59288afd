//! What each inside host has: the accounts that its limits are held against.

use super::hash::Hash;
use super::index::Index;
use super::slab::{NONE, Row, Slab};
use std::net::{IpAddr, Ipv4Addr};

/// The account of one inside address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Host {
    pub ip: IpAddr,
    /// The number of its policy.
    pub policy: u8,
    /// The external address of its mappings, once it has had one: it stays with it as long as it has
    /// anything, also if addresses come and go (paired pooling, RFC 4787 REQ-2).
    pub external: Option<u16>,
    pub sessions: u32,
    /// Dynamic mappings: outside ports it has taken.
    pub mappings: u32,
    /// Port forwards to it; of a free row, the next free row.
    pub forwards: u32,
}

impl Default for Host {
    fn default() -> Self {
        Host {
            ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            policy: 0,
            external: None,
            sessions: 0,
            mappings: 0,
            forwards: 0,
        }
    }
}

impl Row for Host {
    fn next_free(&self) -> u32 {
        self.forwards
    }

    fn set_free(&mut self, next: u32) {
        self.forwards = next;
    }
}

/// The accounts. One exists while its host has anything.
#[derive(Debug)]
pub(super) struct Hosts {
    rows: Slab<Host>,
    by_ip: Index,
}

impl Hosts {
    pub(super) fn new() -> Self {
        Hosts { rows: Slab::new(), by_ip: Index::with_room(64) }
    }

    pub(super) fn bytes(&self) -> usize {
        self.rows.bytes() + self.by_ip.bytes()
    }

    /// The account of `ip`, if it has anything.
    pub(super) fn find(&self, hash: &Hash, ip: IpAddr) -> Option<u32> {
        self.by_ip.find(hash.address(NONE, ip), |id| self.rows[id].ip == ip)
    }

    /// The account of `ip`, new if need be, and then with this policy.
    pub(super) fn open(&mut self, hash: &Hash, ip: IpAddr, policy: u8) -> u32 {
        if let Some(id) = self.find(hash, ip) {
            return id;
        }
        let id = self.rows.take();
        self.rows[id] = Host { ip, policy, ..Host::default() };
        let rows = &self.rows;
        self.by_ip.insert(hash.address(NONE, ip), id, |id| hash.address(NONE, rows[id].ip));
        id
    }

    /// Changes every account.
    pub(super) fn each(&mut self, change: impl Fn(&mut Host)) {
        for id in 0..self.rows.end() {
            change(&mut self.rows[id]);
        }
    }

    /// Removes the account if it is empty.
    pub(super) fn settle(&mut self, hash: &Hash, id: u32) {
        let Host { ip, sessions, mappings, forwards, .. } = self.rows[id];
        if sessions == 0 && mappings == 0 && forwards == 0 {
            let rows = &self.rows;
            self.by_ip.remove(hash.address(NONE, ip), id, |id| hash.address(NONE, rows[id].ip));
            self.rows.give_back(id);
        }
    }
}

impl std::ops::Index<u32> for Hosts {
    type Output = Host;

    fn index(&self, id: u32) -> &Host {
        &self.rows[id]
    }
}

impl std::ops::IndexMut<u32> for Hosts {
    fn index_mut(&mut self, id: u32) -> &mut Host {
        &mut self.rows[id]
    }
}
