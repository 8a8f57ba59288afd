//! A session: one mapping that talks to one remote.

use super::slab::{NONE, Row};
use super::tcp::State;
use super::{Timeouts, wheel};
use crate::flow::{Endpoint, Protocol, Time};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// A session's row. 88 bytes; who the inside host is stands in its mapping.
#[derive(Clone, Copy, Debug)]
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
    /// Neighbours in the timer wheel's slot; the first one's `wheel_prev` names the slot.
    pub wheel_prev: u32,
    pub wheel_next: u32,
    /// Neighbours among the sessions of this mapping with the same remote address.
    pub peer_prev: u32,
    pub peer_next: u32,
    /// Which of the sessions that have lived in this row this is.
    pub generation: u32,
    /// In the wheel's ticks.
    pub opened: u32,
    pub remote: Endpoint,
    pub kind: Kind,
    pub state: State,
    /// The state that data after a RST leads back to.
    pub before_reset: State,
    pub taken: bool,
    /// The remote is one of our own addresses: hairpin or the host itself.
    pub local: bool,
    pub answered: bool,
}

/// What decides a session's timeout, besides the TCP state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
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
    /// The number that names this session and no other: its row and its generation.
    pub(super) fn id(&self, row: u32) -> u64 {
        u64::from(self.generation) << 32 | u64::from(row)
    }

    /// When it was opened, to the wheel's grain.
    pub(super) fn opened(&self) -> Time {
        Time::from_nanos(u64::from(self.opened) * wheel::GRAIN)
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
                self.answered = true;
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
            wheel_prev: NONE,
            wheel_next: NONE,
            peer_prev: NONE,
            peer_next: NONE,
            generation: 0,
            opened: 0,
            remote: Endpoint { ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: 0 },
            kind: Kind::Udp,
            state: State::Established,
            before_reset: State::Established,
            taken: false,
            local: false,
            answered: false,
        }
    }
}

impl Row for Session {
    fn next_free(&self) -> u32 {
        self.mapping
    }

    fn set_free(&mut self, next: u32) {
        self.mapping = next;
        self.taken = false;
    }
}

/// The timeouts in nanoseconds, ready for the packet path.
#[derive(Clone, Copy, Debug)]
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
        assert!(size_of::<Session>() <= 88, "{}", size_of::<Session>());
    }
}
