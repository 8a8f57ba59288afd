//! A mapping: inside ↔ outside. It has no timer; it lives while a session does.
//!
//! Hosts may have different mapping behaviours, and one host another than it had when a mapping was
//! made. What part of the remote a mapping depends on is therefore kept with it: mappings of all
//! kinds stand in one index, and a packet finds those that its host's behaviour would make.

use super::Behaviour;
use super::hash::Hash;
use super::index::Index;
use super::slab::{NONE, Row, Slab};
use super::span::Span;
use crate::flow::{Endpoint, Protocol};
use std::net::{IpAddr, Ipv4Addr};

/// The remote of a key that does not depend on the remote.
const ANY: Endpoint = Endpoint { ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: 0 };

/// A mapping's row. 40 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapping {
    /// Sessions; of a free row, the next free row.
    pub sessions: u32,
    /// The row of the inside host's account; `NONE` in a free row.
    pub host: u32,
    /// Its latest session, if that still lives: a guess that saves inbound packets a search.
    pub recent: u32,
    pub inside: Endpoint,
    pub outside_port: u16,
    /// Which of the external addresses.
    pub external: u16,
    pub protocol: Protocol,
    /// The number of its inside host's policy.
    pub policy: u8,
    pub standing: Standing,
}

/// What a mapping is, and how its sessions have ended so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// Those that have ended were all seen closing both ways.
    Tidy,
    /// One has ended otherwise: its remote may still send.
    Untidy,
    /// It is a port forward: it outlives its sessions and filters nothing.
    Published,
}

impl Mapping {
    /// Whether it is a port forward.
    pub(super) fn published(&self) -> bool {
        self.standing == Standing::Published
    }
}

impl Default for Mapping {
    fn default() -> Self {
        Mapping {
            sessions: 0,
            host: NONE,
            recent: NONE,
            inside: ANY,
            outside_port: 0,
            external: 0,
            protocol: Protocol::Udp,
            policy: 0,
            standing: Standing::Tidy,
        }
    }
}

impl Row for Mapping {
    fn next_free(&self) -> u32 {
        self.sessions
    }

    fn set_free(&mut self, next: u32) {
        self.sessions = next;
        self.host = NONE;
    }
}

/// What part of the remote a mapping depends on.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Part(Option<Endpoint>);

impl Row for Part {
    fn next_free(&self) -> u32 {
        NONE
    }

    fn set_free(&mut self, _: u32) {}
}

/// The mappings and their index by (protocol, inside, part of the remote).
#[derive(Debug)]
pub(super) struct Mappings {
    rows: Slab<Mapping>,
    /// Parts of the remotes by mapping row; ends behind the last one that depends on the remote.
    parts: Slab<Part>,
    by_inside: Index,
}

impl Mappings {
    pub(super) fn new(room: usize) -> Self {
        Mappings { rows: Slab::new(), parts: Slab::new(), by_inside: Index::with_room(room) }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// One more than the highest row number.
    pub(super) fn end(&self) -> u32 {
        self.rows.end()
    }

    pub(super) fn bytes(&self) -> usize {
        self.rows.bytes() + self.parts.bytes() + self.by_inside.bytes()
    }

    /// Where rows and index are.
    pub(super) fn spans(&self) -> impl Iterator<Item = Span> + '_ {
        self.rows.spans().chain([self.by_inside.span()])
    }

    /// The part of the remote in row `id`'s key.
    fn part_of(&self, id: u32) -> Option<Endpoint> {
        if id < self.parts.end() { self.parts[id].0 } else { None }
    }

    /// The dynamic mapping for packets from `inside`, whose mappings behave so, to `remote`.
    pub(super) fn find(
        &self,
        hash: &Hash,
        protocol: Protocol,
        inside: Endpoint,
        remote: Endpoint,
        behaviour: Behaviour,
    ) -> Option<u32> {
        let part = part(behaviour, protocol, remote);
        self.by_inside.find(hash.pair(protocol, inside, part.unwrap_or(ANY)), |id| {
            let row = &self.rows[id];
            row.inside == inside && row.protocol == protocol && self.part_of(id) == part
        })
    }

    /// Most often the row of the mapping of `inside`, if it depends on no remote; else no row. For tables in
    /// no cache: costs one look at the index.
    #[inline]
    pub(super) fn likely(&self, hash: &Hash, protocol: Protocol, inside: Endpoint) -> u32 {
        let id = self.by_inside.likely(hash.pair(protocol, inside, ANY));
        match id < self.rows.end() {
            true if self.rows[id].inside == inside && self.rows[id].protocol == protocol => id,
            _ => NONE,
        }
    }

    /// Adds a dynamic mapping that behaves so, made for a packet to `remote`.
    pub(super) fn insert(
        &mut self,
        hash: &Hash,
        mapping: Mapping,
        remote: Endpoint,
        behaviour: Behaviour,
    ) -> u32 {
        let id = self.add(mapping);
        let part = part(behaviour, mapping.protocol, remote);
        if part.is_some() || id < self.parts.end() {
            while self.parts.end() <= id {
                self.parts.take();
            }
            self.parts[id] = Part(part);
        }
        let key = hash.pair(mapping.protocol, mapping.inside, part.unwrap_or(ANY));
        let (rows, parts) = (&self.rows, &self.parts);
        self.by_inside.insert(key, id, |id| key_of(hash, rows, parts, id));
        id
    }

    /// Adds a mapping that outbound packets do not find: a port forward.
    pub(super) fn add(&mut self, mapping: Mapping) -> u32 {
        let id = self.rows.take();
        self.rows[id] = mapping;
        id
    }

    /// Removes a mapping.
    pub(super) fn remove(&mut self, hash: &Hash, id: u32) {
        if !self.rows[id].published() {
            let (rows, parts) = (&self.rows, &self.parts);
            self.by_inside.remove(key_of(hash, rows, parts, id), id, |id| key_of(hash, rows, parts, id));
        }
        self.rows.give_back(id);
    }
}

/// The part of `remote` that a mapping of `protocol` depends on (RFC 4787 §4.1).
fn part(behaviour: Behaviour, protocol: Protocol, remote: Endpoint) -> Option<Endpoint> {
    match (behaviour, protocol) {
        // Without ports there is nothing to tell two mappings of one host apart.
        (_, Protocol::Other(_)) | (Behaviour::EndpointIndependent, _) => None,
        (Behaviour::AddressDependent, _) => Some(Endpoint::new(remote.ip, 0)),
        (Behaviour::AddressAndPortDependent, _) => Some(remote),
    }
}

fn key_of(hash: &Hash, rows: &Slab<Mapping>, parts: &Slab<Part>, id: u32) -> u64 {
    let part = if id < parts.end() { parts[id].0 } else { None };
    hash.pair(rows[id].protocol, rows[id].inside, part.unwrap_or(ANY))
}

impl std::ops::Index<u32> for Mappings {
    type Output = Mapping;

    #[inline]
    fn index(&self, id: u32) -> &Mapping {
        &self.rows[id]
    }
}

impl std::ops::IndexMut<u32> for Mappings {
    #[inline]
    fn index_mut(&mut self, id: u32) -> &mut Mapping {
        &mut self.rows[id]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_fits_its_budget() {
        assert!(size_of::<Mapping>() <= 40, "{}", size_of::<Mapping>());
    }
}
