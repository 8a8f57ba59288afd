//! May this remote come in? Asked only about packets for which there is no session.
//!
//! Endpoint-independent filtering lets everybody in, address-and-port-dependent nobody (a remote
//! that may come in has a session). Address-dependent filtering asks whether the mapping has a
//! session with that address at any port. The sessions of one mapping with one address form a
//! list, and an index keyed (mapping, address) holds the head of each list. A head that is
//! overdue is closed on the spot, so a question costs O(1) apart from expiry that is due anyway.
//! The list and the index are kept for all mappings if any inside host is filtered so.

use super::hash::Hash;
use super::index::Index;
use super::session::{Links, Sessions};
use super::slab::NONE;
use super::{Behaviour, Closed, Nat, Observer};
use crate::flow::Time;
use std::net::IpAddr;

/// The heads of the lists of peers.
#[derive(Debug)]
pub(super) struct Peers {
    heads: Option<Index>,
}

fn key(hash: &Hash, sessions: &Sessions, id: u32) -> u64 {
    hash.address(sessions[id].mapping, sessions.remote(id).ip)
}

impl Peers {
    pub(super) fn new(kept: bool, room: usize) -> Self {
        Peers { heads: kept.then(|| Index::with_room(room)) }
    }

    /// From now on lists are kept or not.
    pub(super) fn keep(&mut self, kept: bool, hash: &Hash, sessions: &mut Sessions) {
        if kept == self.heads.is_some() {
            return;
        }
        *self = Peers::new(kept, sessions.len());
        if kept {
            for id in 0..sessions.end() {
                if sessions[id].taken() {
                    self.insert(hash, sessions, id);
                }
            }
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.heads.as_ref().map_or(0, Index::bytes)
    }

    /// The first of the sessions of `mapping` with `remote`.
    fn head(&self, hash: &Hash, sessions: &Sessions, mapping: u32, remote: IpAddr) -> Option<u32> {
        self.heads.as_ref()?.find(hash.address(mapping, remote), |id| {
            sessions[id].mapping == mapping && sessions.talks_to_address(id, remote)
        })
    }

    /// Adds a session, whose mapping and remote are set.
    pub(super) fn insert(&mut self, hash: &Hash, sessions: &mut Sessions, id: u32) {
        let (mapping, remote) = (sessions[id].mapping, sessions.remote(id));
        let head = self.head(hash, sessions, mapping, remote.ip);
        let Some(heads) = &mut self.heads else { return };
        sessions.links[id].peer_prev = NONE;
        sessions.links[id].peer_next = NONE;
        let Some(head) = head else {
            heads.insert(key(hash, sessions, id), id, |id| key(hash, sessions, id));
            return;
        };
        let second = sessions.links[head].peer_next;
        sessions.links[id].peer_prev = head;
        sessions.links[id].peer_next = second;
        sessions.links[head].peer_next = id;
        if second != NONE {
            sessions.links[second].peer_prev = id;
        }
    }

    /// Removes a session.
    pub(super) fn remove(&mut self, hash: &Hash, sessions: &mut Sessions, id: u32) {
        let Some(heads) = &mut self.heads else { return };
        let Links { peer_prev: prev, peer_next: next, .. } = sessions.links[id];
        if next != NONE {
            sessions.links[next].peer_prev = prev;
        }
        if prev != NONE {
            sessions.links[prev].peer_next = next;
        } else if next != NONE {
            heads.replace(key(hash, sessions, id), id, next, |id| key(hash, sessions, id));
        } else {
            heads.remove(key(hash, sessions, id), id, |id| key(hash, sessions, id));
        }
    }
}

impl Nat {
    /// What [`Nat::admits`] says, without closing what is overdue.
    pub(super) fn would_pass_filter(&self, mapping: u32, remote: IpAddr, now: Time) -> bool {
        self.without_peers(mapping).unwrap_or_else(|| {
            let head = self.peers.head(&self.hash, &self.sessions, mapping, remote);
            let next = |id: &u32| Some(self.sessions.links[*id].peer_next).filter(|next| *next != NONE);
            std::iter::successors(head, next).any(|id| !self.overdue(id, now))
        })
    }

    /// What the filter says if it need not look at the mapping's peers.
    fn without_peers(&self, mapping: u32) -> Option<bool> {
        match self.policies.get(self.mappings[mapping].policy).filtering {
            _ if self.mappings[mapping].published() => Some(true),
            Behaviour::EndpointIndependent => Some(true),
            Behaviour::AddressAndPortDependent => Some(false),
            Behaviour::AddressDependent => None,
        }
    }

    /// Whether the mapping lets a packet from `remote` in although there is no session
    /// (RFC 4787 §5).
    pub(super) fn admits(
        &mut self,
        mapping: u32,
        remote: IpAddr,
        now: Time,
        seen: &mut impl Observer,
    ) -> bool {
        if let Some(answer) = self.without_peers(mapping) {
            return answer;
        }
        while let Some(id) = self.peers.head(&self.hash, &self.sessions, mapping, remote) {
            if !self.overdue(id, now) {
                return true;
            }
            self.close(id, Closed::Expired, now, seen);
        }
        false
    }
}
