//! A session: one mapping that talks to one remote.

use super::hash::Hash;
use super::remotes::{Remotes, Short};
use super::slab::{NONE, Row, Slab};
use super::span::Span;
use super::tcp::State;
use super::window::Windows;
use super::{Timeouts, wheel};
use crate::flow::{Endpoint, Protocol, Time};
use std::net::IpAddr;
use std::time::Duration;

/// Nanoseconds in the unit of `last_seen`.
const MICROSECOND: u64 = 1_000;

/// What packets read and write of a session: exactly one cache line. Who the inside host is stands
/// in its mapping.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Session {
    /// The moment its timeout counts from, in microseconds (enough for nine years).
    last_seen: Narrow,
    bytes: [Narrow; 2],
    /// `[way]`; stop at `u32::MAX`.
    pub packets: [u32; 2],
    /// The mapping's row; of a free row, the next free row.
    pub mapping: u32,
    /// In the wheel's ticks.
    opened: u32,
    remote_ip: u32,
    remote_port: u16,
    /// The numbers of a TCP session; nothing for the others.
    pub windows: Windows,
    pub phase: Phase,
    marks: u8,
}

/// The remote is one of our own addresses: hairpin or the host itself.
const LOCAL: u8 = 1;
/// `remote_ip` is the row of an IPv6 address.
const IPV6: u8 = 2;
/// A packet from the inside opened it.
const OUTWARD: u8 = 4;
/// The bits of `marks` that say where data after a RST leads back to.
const BEFORE_RESET: u32 = 4;

/// What is known of a session when it is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Marks {
    /// The remote is one of our own addresses: hairpin or the host itself.
    pub local: bool,
    /// A packet from the inside opens it.
    pub outward: bool,
}

impl Marks {
    fn bits(self) -> u8 {
        let bit = |set, bit| if set { bit } else { 0 };
        bit(self.local, LOCAL) | bit(self.outward, OUTWARD)
    }
}

/// A number of 48 bits; stops at the largest.
#[derive(Clone, Copy, Default, Debug)]
struct Narrow([u16; 3]);

impl Narrow {
    #[inline]
    fn get(self) -> u64 {
        let [low, middle, high] = self.0;
        u64::from(low) | u64::from(middle) << 16 | u64::from(high) << 32
    }

    #[inline]
    fn set(&mut self, number: u64) {
        let number = number.min((1 << 48) - 1);
        self.0 = [number as u16, (number >> 16) as u16, (number >> 32) as u16];
    }
}

/// What decides how long a session lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// The row is free.
    Free,
    /// UDP, and nothing has come back.
    UdpUnreplied,
    Udp,
    Dns,
    Icmp,
    Other,
    Tcp(State),
}

impl Phase {
    /// All but those of TCP.
    const OTHERS: [Phase; 6] =
        [Phase::Free, Phase::UdpUnreplied, Phase::Udp, Phase::Dns, Phase::Icmp, Phase::Other];

    /// Its place in a table.
    #[inline]
    fn place(self) -> usize {
        match self {
            Phase::Tcp(state) => state as usize,
            Phase::Free => 9,
            Phase::UdpUnreplied => 10,
            Phase::Udp => 11,
            Phase::Dns => 12,
            Phase::Icmp => 13,
            Phase::Other => 14,
        }
    }

    /// The phase of a session that a packet going this way opens.
    pub(super) fn opened_by(protocol: Protocol, remote: Endpoint, way: Way) -> Phase {
        match protocol {
            Protocol::Tcp => Phase::Tcp(State::opened_by(way)),
            Protocol::Udp if remote.port == 53 => Phase::Dns,
            Protocol::Udp => Phase::UdpUnreplied,
            Protocol::Icmp => Phase::Icmp,
            Protocol::Other(_) => Phase::Other,
        }
    }
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
    remotes: Remotes,
}

impl Sessions {
    pub(super) fn new() -> Self {
        Sessions { rows: Slab::new(), links: Slab::new(), remotes: Remotes::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// One more than the highest row number.
    pub(super) fn end(&self) -> u32 {
        self.rows.end()
    }

    pub(super) fn bytes(&self) -> usize {
        self.rows.bytes() + self.links.bytes() + self.remotes.bytes()
    }

    /// Where the rows are that packets read.
    pub(super) fn spans(&self) -> impl Iterator<Item = Span> + '_ {
        self.rows.spans()
    }

    /// Takes a row for a session that begins at `now`.
    pub(super) fn insert(
        &mut self,
        hash: &Hash,
        mapping: u32,
        remote: Endpoint,
        (phase, marks): (Phase, Marks),
        now: Time,
    ) -> u32 {
        let row = self.rows.take();
        if row == self.links.end() {
            self.links.take();
        }
        let Short { bits, v6 } = self.remotes.take(hash, remote.ip);
        let marks = marks.bits() | if v6 { IPV6 } else { 0 };
        let session =
            Session { mapping, remote_ip: bits, remote_port: remote.port, marks, ..Session::default() };
        self.begin(row, session, phase, now);
        row
    }

    /// Makes this row a new session with the same remote, which a packet going this way begins at
    /// `now`.
    pub(super) fn renew(&mut self, row: u32, way: Way, phase: Phase, now: Time) {
        let Session { mapping, remote_ip, remote_port, marks, .. } = self.rows[row];
        let opened = Marks { local: marks & LOCAL != 0, outward: way == Way::Out };
        let marks = opened.bits() | marks & IPV6;
        let session = Session { mapping, remote_ip, remote_port, marks, ..Session::default() };
        self.begin(row, session, phase, now);
    }

    fn begin(&mut self, row: u32, session: Session, phase: Phase, now: Time) {
        let opened = u32::try_from(now.as_nanos() / wheel::GRAIN).unwrap_or(u32::MAX);
        self.rows[row] = Session { opened, phase, ..session };
        self.rows[row].see(now.as_nanos());
        let links = &mut self.links[row];
        links.generation = links.generation.wrapping_add(1);
    }

    pub(super) fn remove(&mut self, hash: &Hash, row: u32) {
        self.remotes.give_back(hash, self.rows[row].short());
        self.rows.give_back(row);
    }

    /// The remote of the session in this row.
    pub(super) fn remote(&self, row: u32) -> Endpoint {
        Endpoint { ip: self.remotes.ip(self.rows[row].short()), port: self.rows[row].remote_port }
    }

    /// Whether this session is with `remote`.
    #[inline]
    pub(super) fn talks_to(&self, session: &Session, remote: Endpoint) -> bool {
        session.remote_port == remote.port && self.remotes.is(session.short(), remote.ip)
    }

    /// Whether the session in this row is with `ip`, at any port.
    pub(super) fn talks_to_address(&self, row: u32, ip: IpAddr) -> bool {
        self.remotes.is(self.rows[row].short(), ip)
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

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// From the inside to the remote.
    Out,
    /// From the remote to the inside.
    In,
}

impl Way {
    /// The other way.
    #[inline]
    pub(super) fn back(self) -> Way {
        match self {
            Way::Out => Way::In,
            Way::In => Way::Out,
        }
    }
}

impl Session {
    /// Whether the row holds a session.
    #[inline]
    pub(super) fn taken(&self) -> bool {
        self.phase != Phase::Free
    }

    #[inline]
    fn short(&self) -> Short {
        Short { bits: self.remote_ip, v6: self.marks & IPV6 != 0 }
    }

    /// The remote is one of our own addresses: hairpin or the host itself.
    #[inline]
    pub(super) fn local(&self) -> bool {
        self.marks & LOCAL != 0
    }

    /// A packet from the inside opened it.
    pub(super) fn outward(&self) -> bool {
        self.marks & OUTWARD != 0
    }

    /// A packet from the inside has asked for a connection of its own.
    pub(super) fn set_outward(&mut self) {
        self.marks |= OUTWARD;
    }

    /// Its timeout counts from this moment, in nanoseconds.
    #[inline]
    pub(super) fn see(&mut self, nanos: u64) {
        self.last_seen.set(nanos / MICROSECOND);
    }

    /// The moment from which it counts as dead, in nanoseconds.
    #[inline]
    pub(super) fn deadline(&self, lives: &Lives) -> u64 {
        (self.last_seen.get() * MICROSECOND).saturating_add(lives.of(self.phase))
    }

    /// Counts a packet.
    #[inline]
    pub(super) fn count(&mut self, way: Way, length: u32) {
        let way = way as usize;
        self.packets[way] = self.packets[way].saturating_add(1);
        let bytes = self.bytes[way].get() + u64::from(length);
        self.bytes[way].set(bytes);
    }

    /// Bytes of its IP packets, `[way]`.
    #[inline]
    pub(super) fn bytes(&self) -> [u64; 2] {
        [self.bytes[0].get(), self.bytes[1].get()]
    }

    /// Where data after a RST leads back to.
    pub(super) fn before_reset(&self) -> State {
        State::ALL[usize::from(self.marks >> BEFORE_RESET) % State::ALL.len()]
    }

    /// Remembers where data after a RST leads back to.
    pub(super) fn set_before_reset(&mut self, state: State) {
        self.marks = self.marks & ((1 << BEFORE_RESET) - 1) | (state as u8) << BEFORE_RESET;
    }
}

impl Default for Session {
    fn default() -> Self {
        Session {
            last_seen: Narrow::default(),
            bytes: [Narrow::default(); 2],
            packets: [0; 2],
            mapping: NONE,
            opened: 0,
            remote_ip: 0,
            remote_port: 0,
            windows: Windows::default(),
            phase: Phase::Free,
            marks: 0,
        }
    }
}

impl Row for Session {
    fn next_free(&self) -> u32 {
        self.mapping
    }

    fn set_free(&mut self, next: u32) {
        self.mapping = next;
        self.phase = Phase::Free;
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
    /// By [`Phase::place`]: a load and no branch, for a guess that goes wrong here is dear.
    nanos: [u64; State::ALL.len() + Phase::OTHERS.len()],
}

impl Lives {
    pub(super) fn new(timeouts: &Timeouts) -> Self {
        let of = |phase| match phase {
            Phase::Free => Duration::ZERO,
            Phase::UdpUnreplied => timeouts.udp_unreplied,
            Phase::Udp => timeouts.udp,
            Phase::Dns => timeouts.udp_dns,
            Phase::Icmp => timeouts.icmp,
            Phase::Other => timeouts.other,
            Phase::Tcp(State::OutSyn | State::InSyn) => timeouts.tcp_opening,
            Phase::Tcp(State::OutAnswered | State::InAnswered) => timeouts.tcp_syn_received,
            Phase::Tcp(State::Established) => timeouts.tcp_established,
            Phase::Tcp(State::InsideClosed | State::RemoteClosed) => timeouts.tcp_half_closed,
            Phase::Tcp(State::Closing) => timeouts.tcp_closing,
            Phase::Tcp(State::Reset) => timeouts.tcp_reset,
        };
        let mut lives = Lives { nanos: [0; State::ALL.len() + Phase::OTHERS.len()] };
        for phase in State::ALL.map(Phase::Tcp).into_iter().chain(Phase::OTHERS) {
            lives.nanos[phase.place()] = u64::try_from(of(phase).as_nanos()).unwrap_or(u64::MAX);
        }
        lives
    }

    /// How long a session lives in this phase.
    #[inline]
    pub(super) fn of(&self, phase: Phase) -> u64 {
        self.nanos[phase.place()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_fits_its_budget() {
        assert_eq!((size_of::<Session>(), size_of::<Links>()), (64, 20));
    }

    #[test]
    fn what_is_packed_comes_out_again() {
        let mut session = Session { marks: LOCAL, ..Session::default() };
        for state in State::ALL {
            session.set_before_reset(state);
            assert_eq!((session.before_reset(), session.local()), (state, true));
        }
        for number in [0, 1, 0xffff, 0x1_0000, 0xffff_ffff_ffff, u64::MAX] {
            let mut narrow = Narrow::default();
            narrow.set(number);
            assert_eq!(narrow.get(), number.min(0xffff_ffff_ffff));
        }
    }
}
