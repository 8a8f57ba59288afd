//! Protocols without ports: sessions by (protocol, outside address, remote address).
//!
//! All of an external address is one outside endpoint here, so the remote alone tells whose an
//! inbound packet is, and only one inside host can talk to a remote.

use super::hash::Hash;
use super::index::Index;
use super::mapping::Mappings;
use super::session::Sessions;
use super::{Closed, Nat, Observer};
use crate::flow::{Endpoint, Protocol, Time};
use std::net::{IpAddr, Ipv4Addr};

/// The external address's number in the place of a port, so that it joins the key.
fn outside(external: u16) -> Endpoint {
    Endpoint { ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: external }
}

fn key(hash: &Hash, sessions: &Sessions, mappings: &Mappings, id: u32) -> u64 {
    let mapping = &mappings[sessions[id].mapping];
    hash.pair(mapping.protocol, outside(mapping.external), sessions.remote(id))
}

impl Nat {
    /// The live session of `protocol` with `remote` at this external address.
    pub(super) fn find_portless(
        &mut self,
        protocol: Protocol,
        external: u16,
        remote: Endpoint,
        now: Time,
        seen: &mut impl Observer,
    ) -> Option<u32> {
        let id = self.look_up_portless(protocol, external, remote)?;
        if self.overdue(id, now) {
            self.close(id, Closed::Expired, now, seen);
            return None;
        }
        Some(id)
    }

    /// The session of `protocol` with `remote` at this external address, overdue or not.
    pub(super) fn look_up_portless(
        &self,
        protocol: Protocol,
        external: u16,
        remote: Endpoint,
    ) -> Option<u32> {
        self.portless.find(self.hash.pair(protocol, outside(external), remote), |id| {
            let mapping = &self.mappings[self.sessions[id].mapping];
            self.sessions.talks_to(&self.sessions[id], remote)
                && mapping.protocol == protocol
                && mapping.external == external
        })
    }

    pub(super) fn insert_portless(&mut self, protocol: Protocol, external: u16, id: u32) {
        let hashed = self.hash.pair(protocol, outside(external), self.sessions.remote(id));
        let (sessions, mappings, hash) = (&self.sessions, &self.mappings, &self.hash);
        self.portless.insert(hashed, id, |id| key(hash, sessions, mappings, id));
    }

    pub(super) fn remove_portless(&mut self, protocol: Protocol, external: u16, id: u32) {
        let hashed = self.hash.pair(protocol, outside(external), self.sessions.remote(id));
        let (sessions, mappings, hash) = (&self.sessions, &self.mappings, &self.hash);
        self.portless.remove(hashed, id, |id| key(hash, sessions, mappings, id));
    }
}

/// An index for them; it grows when such sessions come.
pub(super) fn index() -> Index {
    Index::with_room(16)
}
