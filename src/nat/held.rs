//! Ports that were given up a moment ago: kept from everybody but their last owner (RFC 6888 REQ-8).
//!
//! A remote that still sends to such a port must not reach another inside host. Each pool of ports
//! has a queue in the order in which ports were given up, which is the order in which they come
//! free; nothing is searched. The last owner finds its port by an index, and may have it back at
//! once.

use super::hash::Hash;
use super::index::Index;
use super::slab::{NONE, Row, Slab};
use crate::flow::{Endpoint, Protocol, Time};
use std::net::{IpAddr, Ipv4Addr};

/// The last owner of a port that was in use before a restart: no inside endpoint.
pub(super) const UNKNOWN: Endpoint = Endpoint { ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: 0 };

/// A held port.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// When it comes free, in nanoseconds.
    pub until: u64,
    /// Its last owner.
    pub inside: Endpoint,
    /// Its neighbours in the queue; of a free row, `next` is the next free row.
    pub prev: u32,
    pub next: u32,
    /// Its pool's number.
    pub pool: u16,
    pub port: u16,
    /// The host has leased it to us.
    pub leased: bool,
}

impl Default for Held {
    fn default() -> Self {
        Held { until: 0, inside: UNKNOWN, prev: NONE, next: NONE, pool: 0, port: 0, leased: false }
    }
}

impl Row for Held {
    fn next_free(&self) -> u32 {
        self.next
    }

    fn set_free(&mut self, next: u32) {
        self.next = next;
    }
}

/// One pool's queue.
#[derive(Clone, Copy, Debug)]
struct Queue {
    first: u32,
    last: u32,
    len: usize,
}

/// All held ports.
#[derive(Debug)]
pub(super) struct Holds {
    rows: Slab<Held>,
    by_inside: Index,
    queues: Vec<Queue>,
    /// Ports that left before their time because too many waited.
    pub early: u64,
}

/// Pools have one protocol each, so the pool's number stands for it.
fn key(hash: &Hash, held: &Held) -> u64 {
    let pool = Endpoint { ip: UNKNOWN.ip, port: held.pool };
    hash.pair(Protocol::Other(0), held.inside, pool)
}

impl Holds {
    pub(super) fn new(pools: usize) -> Self {
        let empty = Queue { first: NONE, last: NONE, len: 0 };
        Holds { rows: Slab::new(), by_inside: Index::with_room(16), queues: vec![empty; pools], early: 0 }
    }

    /// Makes room for so many pools.
    pub(super) fn resize(&mut self, pools: usize) {
        self.queues.resize(pools.max(self.queues.len()), Queue { first: NONE, last: NONE, len: 0 });
    }

    pub(super) fn bytes(&self) -> usize {
        self.rows.bytes() + self.by_inside.bytes()
    }

    /// How many ports are held.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// How many of a pool are held.
    pub(super) fn len_of(&self, pool: u16) -> usize {
        self.queues[usize::from(pool)].len
    }

    /// Adds a port at the end of its pool's queue; its row.
    pub(super) fn push(&mut self, hash: &Hash, held: Held) -> u32 {
        let row = self.rows.take();
        let queue = &mut self.queues[usize::from(held.pool)];
        self.rows[row] = Held { prev: queue.last, next: NONE, ..held };
        let before = std::mem::replace(&mut queue.last, row);
        queue.len += 1;
        if before == NONE {
            queue.first = row;
        } else {
            self.rows[before].next = row;
        }
        if held.inside != UNKNOWN {
            let rows = &self.rows;
            self.by_inside.insert(key(hash, &held), row, |row| key(hash, &rows[row]));
        }
        row
    }

    /// Takes a port out, wherever it stands.
    pub(super) fn remove(&mut self, hash: &Hash, row: u32) -> Held {
        let held = self.rows[row];
        let queue = &mut self.queues[usize::from(held.pool)];
        queue.len -= 1;
        if held.prev == NONE {
            queue.first = held.next
        } else {
            self.rows[held.prev].next = held.next
        }
        if held.next == NONE {
            queue.last = held.prev
        } else {
            self.rows[held.next].prev = held.prev
        }
        if held.inside != UNKNOWN {
            let rows = &self.rows;
            self.by_inside.remove(key(hash, &held), row, |row| key(hash, &rows[row]));
        }
        self.rows.give_back(row);
        held
    }

    /// The row of the port of a pool that was given up longest ago, and when it comes free.
    pub(super) fn oldest(&self, pool: u16) -> Option<(u32, u64)> {
        let first = self.queues[usize::from(pool)].first;
        (first != NONE).then(|| (first, self.rows[first].until))
    }

    /// The row of a port of this pool that `inside` had, one that will do.
    pub(super) fn of(
        &self,
        hash: &Hash,
        pool: u16,
        inside: Endpoint,
        will_do: impl Fn(u16) -> bool,
    ) -> Option<u32> {
        let wanted = Held { pool, inside, ..Held::default() };
        self.by_inside.find(key(hash, &wanted), |row| {
            let held = &self.rows[row];
            held.pool == pool && held.inside == inside && will_do(held.port)
        })
    }

    /// Says whether the host has leased a held port to us.
    pub(super) fn set_leased(&mut self, row: u32, leased: bool) {
        self.rows[row].leased = leased;
    }

    /// Whether the host has leased a held port to us.
    pub(super) fn is_leased(&self, row: u32) -> bool {
        self.rows[row].leased
    }
}

/// When a port that is given up now comes free.
pub(super) fn until(now: Time, hold: std::time::Duration) -> u64 {
    (now + hold).as_nanos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::rng::Rng;

    #[test]
    fn ports_leave_in_order_or_go_back_to_their_last_owner() {
        let mut rng = Rng::new([3; 32]);
        let hash = Hash::new(rng.next(), rng.next());
        let mut holds = Holds::new(2);
        let inside = |n: u16| Endpoint::new(Ipv4Addr::new(10, 0, 0, 2), n);
        let rows: Vec<u32> = (1..=5u16)
            .map(|n| {
                let held = Held { until: u64::from(n), inside: inside(n), port: 100 + n, ..Held::default() };
                holds.push(&hash, held)
            })
            .collect();
        assert_eq!(holds.oldest(0), Some((rows[0], 1)));
        assert_eq!(holds.of(&hash, 1, inside(3), |_| true), None);
        let third = holds.of(&hash, 0, inside(3), |_| true).unwrap();
        assert_eq!(holds.remove(&hash, third).port, 103);
        assert_eq!(holds.of(&hash, 0, inside(3), |_| true), None);
        let mut left = Vec::new();
        while let Some((row, _)) = holds.oldest(0) {
            left.push(holds.remove(&hash, row).port);
        }
        assert_eq!((left, holds.len(), holds.len_of(0)), (vec![101, 102, 104, 105], 0, 0));
    }
}
