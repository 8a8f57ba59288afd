//! May this remote come in? Asked only about packets for which there is no session.
//!
//! Endpoint-independent filtering lets everybody in, address-and-port-dependent nobody (a remote
//! that may come in has a session). Address-dependent filtering asks whether the mapping has a
//! session with that address at any port. The sessions of one mapping with one address form a
//! list, and an index keyed (mapping, address) holds the head of each list. A head that is
//! overdue is closed on the spot, so a question costs O(1) apart from expiry that is due anyway.
//! The list and the index are kept under address-dependent filtering only.

use super::hash::Hash;
use super::index::Index;
use super::session::Session;
use super::slab::{NONE, Slab};
use super::{Behaviour, Closed, Nat, Observer};
use crate::flow::Time;
use std::net::IpAddr;

/// The heads of the lists of peers.
#[derive(Debug)]
pub(super) struct Peers {
    heads: Option<Index>,
}

fn key(hash: &Hash, sessions: &Slab<Session>, id: u32) -> u64 {
    hash.address(sessions[id].mapping, sessions[id].remote.ip)
}

impl Peers {
    pub(super) fn new(filtering: Behaviour, room: usize) -> Self {
        let kept = filtering == Behaviour::AddressDependent;
        Peers { heads: kept.then(|| Index::with_room(room)) }
    }

    pub(super) fn bytes(&self) -> usize {
        self.heads.as_ref().map_or(0, Index::bytes)
    }

    /// The first of the sessions of `mapping` with `remote`.
    fn head(&self, hash: &Hash, sessions: &Slab<Session>, mapping: u32, remote: IpAddr) -> Option<u32> {
        self.heads.as_ref()?.find(hash.address(mapping, remote), |id| {
            sessions[id].mapping == mapping && sessions[id].remote.ip == remote
        })
    }

    /// Adds a session, whose mapping and remote are set.
    pub(super) fn insert(&mut self, hash: &Hash, sessions: &mut Slab<Session>, id: u32) {
        let Session { mapping, remote, .. } = sessions[id];
        let head = self.head(hash, sessions, mapping, remote.ip);
        let Some(heads) = &mut self.heads else { return };
        sessions[id].peer_prev = NONE;
        sessions[id].peer_next = NONE;
        let Some(head) = head else {
            heads.insert(key(hash, sessions, id), id, |id| key(hash, sessions, id));
            return;
        };
        let second = sessions[head].peer_next;
        sessions[id].peer_prev = head;
        sessions[id].peer_next = second;
        sessions[head].peer_next = id;
        if second != NONE {
            sessions[second].peer_prev = id;
        }
    }

    /// Removes a session.
    pub(super) fn remove(&mut self, hash: &Hash, sessions: &mut Slab<Session>, id: u32) {
        let Some(heads) = &mut self.heads else { return };
        let Session { peer_prev: prev, peer_next: next, .. } = sessions[id];
        if next != NONE {
            sessions[next].peer_prev = prev;
        }
        if prev != NONE {
            sessions[prev].peer_next = next;
        } else if next != NONE {
            heads.replace(key(hash, sessions, id), id, next);
        } else {
            heads.remove(key(hash, sessions, id), id, |id| key(hash, sessions, id));
        }
    }
}

impl Nat {
    /// Whether the mapping lets a packet from `remote` in although there is no session
    /// (RFC 4787 §5).
    pub(super) fn admits(
        &mut self,
        mapping: u32,
        remote: IpAddr,
        now: Time,
        seen: &mut impl Observer,
    ) -> bool {
        if self.mappings[mapping].published {
            return true;
        }
        match self.config.filtering {
            Behaviour::EndpointIndependent => true,
            Behaviour::AddressAndPortDependent => false,
            Behaviour::AddressDependent => {
                while let Some(id) = self.peers.head(&self.hash, &self.sessions, mapping, remote) {
                    if !self.overdue(id, now) {
                        return true;
                    }
                    self.close(id, Closed::Expired, now, seen);
                }
                false
            }
        }
    }
}
