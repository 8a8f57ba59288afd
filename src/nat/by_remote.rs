//! Sessions by (protocol, outside endpoint, remote): for outside endpoints that several inside hosts
//! have, where the remote alone tells whose an inbound packet is.
//!
//! Without ports all of an external address is one outside endpoint, so only one inside host can
//! talk to a remote. With overloaded ports ([`super::PortChoice::Overload`]) a port is one.

use super::hash::Hash;
use super::index::Index;
use super::mapping::Mappings;
use super::ports::Place;
use super::session::Sessions;
use super::{Closed, Nat, Observer};
use crate::flow::{Endpoint, Protocol, Time};
use std::net::{IpAddr, Ipv4Addr};

impl Place {
    fn key(self, hash: &Hash, remote: Endpoint) -> u64 {
        let ip = IpAddr::V4(Ipv4Addr::from_bits(u32::from(self.external)));
        hash.pair(self.protocol, Endpoint { ip, port: self.port }, remote)
    }

    fn of(mappings: &Mappings, sessions: &Sessions, id: u32) -> Place {
        let mapping = &mappings[sessions[id].mapping];
        Place { protocol: mapping.protocol, external: mapping.external, port: mapping.outside_port }
    }
}

impl Nat {
    /// Whether a mapping's outside endpoint is one that several may have.
    pub(super) fn shares(&self, mapping: u32) -> Option<Place> {
        let row = &self.mappings[mapping];
        let shared = Place { protocol: row.protocol, external: row.external, port: row.outside_port };
        let by_remote = matches!(shared.protocol, Protocol::Other(_))
            || self.ports.is_shared(shared.protocol, shared.external, shared.port);
        by_remote.then_some(shared)
    }

    /// The live session at this outside endpoint with `remote`. One that is overdue is closed.
    pub(super) fn find_shared(
        &mut self,
        shared: Place,
        remote: Endpoint,
        now: Time,
        seen: &mut impl Observer,
    ) -> Option<u32> {
        let id = self.look_up_shared(shared, remote)?;
        if self.overdue(id, now) {
            self.close(id, Closed::Expired, now, seen);
            return None;
        }
        Some(id)
    }

    /// The session at this outside endpoint with `remote`, overdue or not.
    pub(super) fn look_up_shared(&self, shared: Place, remote: Endpoint) -> Option<u32> {
        self.by_remote.find(shared.key(&self.hash, remote), |id| {
            self.sessions.remote(id) == remote && Place::of(&self.mappings, &self.sessions, id) == shared
        })
    }

    pub(super) fn insert_shared(&mut self, shared: Place, id: u32) {
        let key = shared.key(&self.hash, self.sessions.remote(id));
        let (sessions, mappings, hash) = (&self.sessions, &self.mappings, &self.hash);
        self.by_remote.insert(key, id, |id| Place::of(mappings, sessions, id).key(hash, sessions.remote(id)));
    }

    pub(super) fn remove_shared(&mut self, shared: Place, id: u32) {
        let key = shared.key(&self.hash, self.sessions.remote(id));
        let (sessions, mappings, hash) = (&self.sessions, &self.mappings, &self.hash);
        self.by_remote.remove(key, id, |id| Place::of(mappings, sessions, id).key(hash, sessions.remote(id)));
    }
}

/// An index for them; it grows when such sessions come.
pub(super) fn index() -> Index {
    Index::with_room(16)
}
