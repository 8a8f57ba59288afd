//! Which ports are in use outside, as ranges that a filter can look through.

use super::gate::Seen;
use crate::flow::Protocol;
use std::ops::RangeInclusive;

/// Ranges of ports that are told apart, at most; of more the nearest are joined.
pub const MOST_RANGES: usize = 128;
/// Ports that nobody uses and that are let in all the same, to be let in with idle ones, at most: as many of
/// all as chance lets in.
const MOST_SPARE: usize = (u16::MAX as usize + 1) / super::ONE_IN as usize;

/// What was in use outside lately.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct InUse {
    /// Ports and echo identifiers; ascending, apart from each other.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Protocols without ports, by their numbers.
    pub protocols: Vec<u8>,
}

/// Words of a bit for each port and, behind those, for each protocol without ports.
const WORDS: usize = 1024 + 4;

type Bits = [u64; WORDS];

/// What was in use in this spell and in the one before, and what has a mapping besides.
#[derive(Debug)]
pub(super) struct Ports {
    latest: Bits,
    before: Bits,
    /// Ports with a mapping for TCP, whose connections are long idle now and then and cannot be made anew
    /// without a trace.
    tcp: Bits,
    mapped: Bits,
}

fn place(protocol: Protocol, port: u16) -> (usize, u64) {
    match protocol {
        Protocol::Other(number) => (1024 + usize::from(number >> 6), 1 << (number & 63)),
        _ => (usize::from(port >> 6), 1 << (port & 63)),
    }
}

impl Ports {
    pub(super) fn new() -> Box<Ports> {
        let none = [0; WORDS];
        Box::new(Ports { latest: none, before: none, tcp: none, mapped: none })
    }

    /// Whether it was not in use before.
    pub(super) fn note(&mut self, protocol: Protocol, port: u16) -> bool {
        let (word, bit) = place(protocol, port);
        let new = (self.latest[word] | self.before[word]) & bit == 0;
        self.latest[word] |= bit;
        new
    }

    /// Takes which ports have a mapping now.
    pub(super) fn set_mapped(&mut self, mapped: impl Iterator<Item = (Protocol, u16)>) {
        (self.tcp, self.mapped) = ([0; WORDS], [0; WORDS]);
        for (protocol, port) in mapped {
            let (word, bit) = place(protocol, port);
            self.mapped[word] |= bit;
            if protocol == Protocol::Tcp {
                self.tcp[word] |= bit;
            }
        }
    }

    /// What is to be let in: what was in use lately; and ports with an idle mapping, all or those of TCP, as
    /// long as not too many ports have to be let in with them.
    pub(super) fn in_use(&self, published: impl Iterator<Item = (Protocol, u16)>) -> InUse {
        let mut busy = either(&self.latest, &self.before);
        for (protocol, port) in published {
            let (word, bit) = place(protocol, port);
            busy[word] |= bit;
        }
        let has = |(word, bit): (usize, u64)| busy[word] & bit != 0;
        let protocols = (0..=u8::MAX).filter(|number| has(place(Protocol::Other(*number), 0))).collect();
        let ports = [&self.mapped, &self.tcp]
            .into_iter()
            .map(|idle| join_nearest(&either(&busy, idle)))
            .find(|(_, spare)| *spare <= MOST_SPARE);
        let (ports, _) = ports.unwrap_or_else(|| join_nearest(&busy));
        InUse { ports, protocols }
    }
}

impl Seen for Box<Ports> {
    fn turn(&mut self) {
        self.before = std::mem::replace(&mut self.latest, [0; WORDS]);
    }
}

fn either(one: &Bits, other: &Bits) -> Bits {
    std::array::from_fn(|word| one[word] | other[word])
}

fn ranges(bits: &Bits) -> Vec<RangeInclusive<u16>> {
    let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
    for port in 0..=u16::MAX {
        let (word, bit) = place(Protocol::Tcp, port);
        match ranges.last_mut() {
            _ if bits[word] & bit == 0 => {}
            Some(last) if last.end().checked_add(1) == Some(port) => *last = *last.start()..=port,
            _ => ranges.push(port..=port),
        }
    }
    ranges
}

/// Joins neighbours across the narrowest gaps until few enough are left; how many ports that are not among
/// them lie in those gaps.
fn join_nearest(bits: &Bits) -> (Vec<RangeInclusive<u16>>, usize) {
    let ranges = ranges(bits);
    let Some(excess) = ranges.len().checked_sub(MOST_RANGES).filter(|excess| *excess > 0) else {
        return (ranges, 0);
    };
    let gap = |pair: &[RangeInclusive<u16>]| match pair {
        [left, right] => right.start() - left.end(),
        _ => u16::MAX,
    };
    let mut gaps: Vec<u16> = ranges.windows(2).map(gap).collect();
    gaps.sort_unstable();
    let widest = gaps[excess - 1];
    let mut joined: Vec<RangeInclusive<u16>> = Vec::with_capacity(ranges.len());
    let mut spare = 0;
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start() - last.end() <= widest => {
                spare += usize::from(range.start() - last.end()) - 1;
                *last = *last.start()..=*range.end();
            }
            _ => joined.push(range),
        }
    }
    (joined, spare)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_without_packets_is_forgotten_after_two_spells() {
        let mut ports = Ports::new();
        assert!(ports.note(Protocol::Udp, 7) && !ports.note(Protocol::Icmp, 7));
        ports.turn();
        assert_eq!(ports.in_use([].into_iter()).ports, [7..=7]);
        assert!(!ports.note(Protocol::Udp, 7));
        ports.turn();
        ports.turn();
        assert_eq!(ports.in_use([].into_iter()), InUse::default());
    }

    #[test]
    fn idle_mappings_are_let_in_unless_too_much_would_come_with_them() {
        let mut ports = Ports::new();
        ports.note(Protocol::Udp, 40_000);
        let few = [(Protocol::Tcp, 50_000), (Protocol::Udp, 60_000)];
        ports.set_mapped(few.into_iter());
        assert_eq!(ports.in_use([].into_iter()).ports, [40_000..=40_000, 50_000..=50_000, 60_000..=60_000]);
        let many_udp = (0..u16::MAX).step_by(100).map(|port| (Protocol::Udp, port));
        ports.set_mapped(many_udp.chain(few));
        assert_eq!(ports.in_use([].into_iter()).ports, [40_000..=40_000, 50_000..=50_000], "those of TCP");
        ports.set_mapped((0..u16::MAX).step_by(100).map(|port| (Protocol::Tcp, port)));
        assert_eq!(ports.in_use([].into_iter()).ports, [40_000..=40_000], "none but what is in use");
        ports.set_mapped((0..u16::MAX).map(|port| (Protocol::Tcp, port)));
        assert_eq!(ports.in_use([].into_iter()).ports, [0..=u16::MAX - 1], "many, and none besides");
    }

    #[test]
    fn too_many_ranges_are_joined_where_they_are_nearest() {
        let mut ports = Ports::new();
        for port in (0..=u16::MAX).step_by(10) {
            ports.note(Protocol::Tcp, port);
        }
        (1000..2000).for_each(|port| assert!(ports.note(Protocol::Tcp, port) || port % 10 == 0));
        let ranges = ports.in_use([(Protocol::Udp, 0), (Protocol::Udp, u16::MAX)].into_iter()).ports;
        assert!(ranges.len() <= MOST_RANGES);
        assert!(ranges.iter().any(|range| range.contains(&1500)));
        for port in (0..=u16::MAX).step_by(10) {
            assert!(ranges.iter().any(|range| range.contains(&port)), "{port}");
        }
    }
}
