//! Reading ahead: a batch's rows are fetched together instead of one after another.
//!
//! In a large table each decision waits for three cache lines that depend on each other: place in
//! the index, session, mapping. Other packets' lines do not depend on them:
//!
//! ```text
//!   one by one   place─session─mapping place─session─mapping place─session─mapping …
//!   read ahead   place─┐
//!                place─┤ session─┐
//!                place─┘ session─┤ mapping─┐
//!                        session─┘ mapping─┤  then all decisions, from the cache
//!                                  mapping─┘
//! ```
//!
//! Nothing is changed and nothing is decided here, so a wrong guess costs a little time only.

use super::Nat;
use super::slab::NONE;
use crate::flow::{Flow, Summary};
use std::hint::black_box;

/// Packets whose lines are asked for at a time: about what a processor can have under way.
const AHEAD: usize = 32;

impl Nat {
    /// Fetches what [`Nat::outbound`] will need for these packets. Worth its while for batches
    /// when there are more sessions than the processor's caches hold (tens of thousands).
    pub fn read_ahead_outbound(&self, packets: &[Summary]) {
        for batch in packets.chunks(AHEAD) {
            let mut keys = [0; AHEAD];
            for (packet, key) in batch.iter().zip(&mut keys) {
                let Flow { protocol, source, destination } = packet.flow();
                *key = self.hash.pair(protocol, source, destination);
                black_box(self.by_flow.touch(*key));
            }
            let mut rows = [NONE; AHEAD];
            for (key, row) in keys[..batch.len()].iter().zip(&mut rows) {
                *row = self.by_flow.find(*key, |_| true).unwrap_or(NONE);
                if *row != NONE {
                    black_box(self.sessions[*row].last_seen);
                }
            }
            for row in rows.into_iter().filter(|row| *row != NONE) {
                black_box(self.mappings[self.sessions[row].mapping].host);
            }
        }
    }

    /// Fetches what [`Nat::inbound`] will need for these packets, as
    /// [`Nat::read_ahead_outbound`] does.
    pub fn read_ahead_inbound(&self, packets: &[Summary]) {
        for batch in packets.chunks(AHEAD) {
            let mut rows = [NONE; AHEAD];
            for (packet, row) in batch.iter().zip(&mut rows) {
                let Flow { protocol, destination: outside, .. } = packet.flow();
                let external = self.addresses.external(&self.hash, outside.ip);
                let owner = external.and_then(|number| self.ports.owner(protocol, number, outside.port));
                *row = owner.unwrap_or(NONE);
            }
            for row in rows.iter_mut().filter(|row| **row != NONE) {
                *row = self.mappings[*row].recent;
            }
            for row in rows.into_iter().filter(|row| *row != NONE) {
                black_box(self.sessions[row].last_seen);
            }
        }
    }
}
