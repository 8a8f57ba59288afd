//! A session: one mapping that talks to one remote.

use super::slab::{NONE, Row, Slab};
use super::tcp::State;
use super::{Timeouts, wheel};
use crate::flow::{Endpoint, Protocol, Time};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// What packets read and write of a session: exactly one cache line. Who the inside host is stands
/// in its mapping.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Session {
    /// The moment its timeout counts from, in nanoseconds.
    pub last_seen: u64,
    pub bytes_out: u64,
    pub bytes_in: u64,
    /// Stop at `u32::MAX`.
    pub packets_out: u32,
    pub packets_in: u32,
    /// The mapping's row; of a free row, the next free row.
    pub mapping: u32,
    /// In the wheel's ticks.
    pub opened: u32,
    pub remote: Endpoint,
    pub kind: Kind,
    pub state: State,
    /// The state that data after a RST leads back to.
    pub before_reset: State,
    /// The remote is one of our own addresses: hairpin or the host itself.
    pub local: bool,
}

/// What only opening, ending and listing need: 20 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Links {
    /// Neighbours in the timer wheel's slot; the first one's `wheel_prev` names the slot.
    pub wheel_prev: u32,
    pub wheel_next: u32,
    /// Neighbours among the sessions of this mapping with the same remote address.
    pub peer_prev: u32,
    pub peer_next: u32,
    /// Which of the sessions that have lived in this row this is.
    pub generation: u32,
}

/// The sessions: two slabs with the same row numbers.
#[derive(Debug)]
pub(super) struct Sessions {
    rows: Slab<Session>,
    pub links: Slab<Links>,
}

impl Sessions {
    pub(super) fn new() -> Self {
        Sessions { rows: Slab::new(), links: Slab::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// One more than the highest row number.
    pub(super) fn end(&self) -> u32 {
        self.rows.end()
    }

    pub(super) fn bytes(&self) -> usize {
        self.rows.bytes() + self.links.bytes()
    }

    /// Takes a row for this session, which begins at `now`.
    pub(super) fn insert(&mut self, session: Session, now: Time) -> u32 {
        let row = self.rows.take();
        if row == self.links.end() {
            self.links.take();
        }
        self.begin(row, session, now);
        row
    }

    /// Makes this row a new session, which begins at `now`.
    pub(super) fn begin(&mut self, row: u32, session: Session, now: Time) {
        let opened = u32::try_from(now.as_nanos() / wheel::GRAIN).unwrap_or(u32::MAX);
        self.rows[row] = Session { last_seen: now.as_nanos(), opened, ..session };
        let links = &mut self.links[row];
        links.generation = links.generation.wrapping_add(1);
    }

    pub(super) fn remove(&mut self, row: u32) {
        self.rows.give_back(row);
    }

    /// The number that names this session and no other: its row and its generation.
    pub(super) fn id(&self, row: u32) -> u64 {
        u64::from(self.links[row].generation) << 32 | u64::from(row)
    }

    /// When it was opened, to the wheel's grain.
    pub(super) fn opened(&self, row: u32) -> Time {
        Time::from_nanos(u64::from(self.rows[row].opened) * wheel::GRAIN)
    }
}

impl std::ops::Index<u32> for Sessions {
    type Output = Session;

    #[inline]
    fn index(&self, row: u32) -> &Session {
        &self.rows[row]
    }
}

impl std::ops::IndexMut<u32> for Sessions {
    #[inline]
    fn index_mut(&mut self, row: u32) -> &mut Session {
        &mut self.rows[row]
    }
}

/// What decides a session's timeout, besides the TCP state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// The row is free.
    Free,
    Tcp,
    Udp,
    Dns,
    Icmp,
    Other,
}

impl Kind {
    pub(super) fn of(protocol: Protocol, remote: Endpoint) -> Kind {
        match protocol {
            Protocol::Tcp => Kind::Tcp,
            Protocol::Udp if remote.port == 53 => Kind::Dns,
            Protocol::Udp => Kind::Udp,
            Protocol::Icmp => Kind::Icmp,
            Protocol::Other(_) => Kind::Other,
        }
    }
}

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// From the inside to the remote.
    Out,
    /// From the remote to the inside.
    In,
}

impl Session {
    /// Whether the row holds a session.
    #[inline]
    pub(super) fn taken(&self) -> bool {
        self.kind != Kind::Free
    }

    /// The moment from which it counts as dead.
    #[inline]
    pub(super) fn deadline(&self, lives: &Lives) -> u64 {
        self.last_seen.saturating_add(lives.of(self.kind, self.state))
    }

    /// Counts a packet.
    #[inline]
    pub(super) fn count(&mut self, way: Way, length: u32) {
        match way {
            Way::Out => {
                self.packets_out = self.packets_out.saturating_add(1);
                self.bytes_out += u64::from(length);
            }
            Way::In => {
                self.packets_in = self.packets_in.saturating_add(1);
                self.bytes_in += u64::from(length);
            }
        }
    }
}

impl Default for Session {
    fn default() -> Self {
        Session {
            last_seen: 0,
            bytes_out: 0,
            bytes_in: 0,
            packets_out: 0,
            packets_in: 0,
            mapping: NONE,
            remote: Endpoint { ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: 0 },
            opened: 0,
            kind: Kind::Free,
            state: State::Established,
            before_reset: State::Established,
            local: false,
        }
    }
}

impl Row for Session {
    fn next_free(&self) -> u32 {
        self.mapping
    }

    fn set_free(&mut self, next: u32) {
        self.mapping = next;
        self.kind = Kind::Free;
    }
}

impl Default for Links {
    fn default() -> Self {
        Links { wheel_prev: NONE, wheel_next: NONE, peer_prev: NONE, peer_next: NONE, generation: 0 }
    }
}

impl Row for Links {
    fn next_free(&self) -> u32 {
        NONE
    }

    fn set_free(&mut self, _: u32) {}
}

/// The timeouts in nanoseconds, ready for the packet path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lives {
    udp: u64,
    dns: u64,
    icmp: u64,
    other: u64,
    opening: u64,
    established: u64,
    closing: u64,
}

impl Lives {
    pub(super) fn new(timeouts: &Timeouts) -> Self {
        let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        Lives {
            udp: nanos(timeouts.udp),
            dns: nanos(timeouts.udp_dns),
            icmp: nanos(timeouts.icmp),
            other: nanos(timeouts.other),
            opening: nanos(timeouts.tcp_opening),
            established: nanos(timeouts.tcp_established),
            closing: nanos(timeouts.tcp_closing),
        }
    }

    /// How long a session of this kind lives in this state.
    #[inline]
    pub(super) fn of(&self, kind: Kind, state: State) -> u64 {
        match kind {
            Kind::Free => 0,
            Kind::Udp => self.udp,
            Kind::Dns => self.dns,
            Kind::Icmp => self.icmp,
            Kind::Other => self.other,
            Kind::Tcp => match state {
                State::OutSyn | State::InSyn => self.opening,
                State::Established | State::InsideClosed | State::RemoteClosed => self.established,
                State::Closing | State::Reset => self.closing,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_fits_its_budget() {
        assert_eq!((size_of::<Session>(), size_of::<Links>()), (64, 20));
    }
}
