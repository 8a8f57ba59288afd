//! The ports of one external address for one protocol: one word for the state of each, and lists of
//! the free ones.
//!
//! The words are in pages of 8,192, made when first written. A free port stands in one of four
//! lists, by parity and by side of 1024; its word says at which place, so that a random port and a
//! certain one are both taken in O(1), by swapping with the last of the list.

use super::rng::Rng;
use crate::flow::Time;

/// Free ports of one list that a leased pool wants at least.
pub(super) const LEAST: usize = 64;
/// Free ports of one list that a leased pool wants at most.
pub(super) const MOST: usize = 4096;
/// Twice what is taken in so long is wanted free: 134 ms, as a power of two of nanoseconds. Ports come
/// faster than that, and what is asked of the host for nothing takes time from packets.
const SPAN: u32 = 27;
/// Free ports that one call of [`List::idle`] looks at, at most.
const LOOK: usize = 4096;

/// Ports in a page.
const PAGE: usize = 8192;
const PAGES: usize = 65536 / PAGE;

/// Words below are mapping rows + 1; 0 is nobody.
const TAGGED: u32 = 1 << 31;
const FREE: u32 = TAGGED;
const HELD: u32 = TAGGED | 1 << 28;
const SHARED: u32 = TAGGED | 2 << 28;
const REFUSED: u32 = TAGGED | 3 << 28;
const TAG: u32 = TAGGED | 7 << 28;

/// What a port is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Nobody has it. Where ports are leased, we have not got it; else it is to be had if it is in
    /// the range.
    Nobody,
    /// The mapping in this row has it, or a port forward.
    Mapping(u32),
    /// It is free, and ours.
    Free,
    /// It was given up a moment ago; its row among the held ports.
    Held(u32),
    /// So many mappings share it, each with remotes of its own.
    Shared(u32),
    /// The host has refused it a moment ago.
    Refused,
}

/// Where free ports are: lists by parity and side of 1024.
pub(super) fn list_of(port: u16) -> usize {
    usize::from(port % 2) + 2 * usize::from(port < 1024)
}

/// Free ports of one kind.
#[derive(Debug)]
pub(super) struct List {
    pub ports: Vec<u16>,
    /// When each became free, in the wheel's ticks. Kept for leased ports only.
    since: Vec<u32>,
    /// Leased ports, whatever their state; port forwards not.
    pub leases: usize,
    /// How many free ports are wanted.
    target: usize,
    least: usize,
    /// Ports taken in the span of time `span`.
    taken: usize,
    span: u64,
    /// Where the next search for ports to give back begins.
    look: usize,
}

impl List {
    fn new(least: usize) -> Self {
        let (ports, since) = (Vec::new(), Vec::new());
        List { ports, since, leases: 0, target: least, least, taken: 0, span: 0, look: 0 }
    }

    fn bytes(&self) -> usize {
        self.ports.capacity() * 2 + self.since.capacity() * 4
    }

    /// How many more are wanted.
    pub(super) fn want(&self) -> usize {
        self.target.saturating_sub(self.ports.len())
    }

    /// How many free ports it would like to have.
    pub(super) fn hoped(&self) -> usize {
        self.target
    }

    /// Halves the target for every span that has passed, down to what the last one took.
    fn settle(&mut self, now: Time) {
        let span = now.as_nanos() >> SPAN;
        if span > self.span {
            let halved = self.target >> (span - self.span).min(32);
            let recent = if span - self.span == 1 { self.taken * 2 } else { 0 };
            self.target = halved.max(recent.next_power_of_two()).clamp(self.least, MOST);
            self.span = span;
            self.taken = 0;
        }
    }

    fn note_taken(&mut self, now: Time) {
        self.settle(now);
        self.taken += 1;
        if self.taken * 2 > self.target {
            self.target = (self.target * 2).min(MOST);
        }
    }

    /// A port that has been free for `idle` ticks at `tick`, if there are more than wanted.
    fn idle(&mut self, now: Time, tick: u32, idle: u32) -> Option<u16> {
        self.settle(now);
        for _ in 0..self.ports.len().min(LOOK) {
            if self.ports.len() <= self.target {
                break;
            }
            self.look = if self.look + 1 < self.ports.len() { self.look + 1 } else { 0 };
            if tick.saturating_sub(self.since[self.look]) >= idle {
                return Some(self.ports[self.look]);
            }
        }
        None
    }
}

/// The ports of one external address for one protocol.
#[derive(Debug)]
pub(super) struct Pool {
    pages: [Option<Box<[u32]>>; PAGES],
    pub lists: [List; 4],
    /// Identifiers of ICMP queries have neither parity nor class: all are in the first list.
    one_kind: bool,
    /// Free ports have been filled in. Never set where ports are leased.
    pub filled: bool,
    /// Low ports that the host has refused since it last gave one.
    pub low_refused: u8,
    /// Until when no low port is asked for, in nanoseconds.
    pub low_rests: u64,
}

impl Pool {
    /// `stocked`: free ports are wanted ahead of need. Low ports never are.
    pub(super) fn new(one_kind: bool, stocked: bool) -> Self {
        let high = if stocked { LEAST } else { 0 };
        Pool {
            pages: [const { None }; PAGES],
            lists: [high, high, 0, 0].map(List::new),
            one_kind,
            filled: false,
            low_refused: 0,
            low_rests: 0,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let pages = self.pages.iter().flatten().count() * size_of::<[u32; PAGE]>();
        size_of::<Self>() + pages + self.lists.iter().map(List::bytes).sum::<usize>()
    }

    #[inline]
    fn word(&self, port: u16) -> u32 {
        match &self.pages[usize::from(port) / PAGE] {
            Some(page) => page[usize::from(port) % PAGE],
            None => 0,
        }
    }

    fn set_word(&mut self, port: u16, word: u32) {
        // A vector of zeros is untouched memory until it is written.
        let page = self.pages[usize::from(port) / PAGE].get_or_insert_with(|| vec![0; PAGE].into());
        page[usize::from(port) % PAGE] = word;
    }

    /// The mapping that alone has this port.
    #[inline]
    pub(super) fn owner(&self, port: u16) -> Option<u32> {
        let word = self.word(port);
        (word.wrapping_sub(1) < TAGGED - 1).then(|| word - 1)
    }

    /// The ports that mappings have.
    pub(super) fn mapped(&self) -> impl Iterator<Item = u16> + '_ {
        let mapped = |word: u32| word.wrapping_sub(1) < TAGGED - 1 || word & TAG == SHARED;
        let pages = (0..=u16::MAX).step_by(PAGE).zip(&self.pages).filter(|(_, page)| page.is_some());
        let ports = pages.flat_map(|(first, _)| first..=first + (PAGE - 1) as u16);
        ports.filter(move |port| mapped(self.word(*port)))
    }

    pub(super) fn state(&self, port: u16) -> State {
        let word = self.word(port);
        match word & TAG {
            FREE => State::Free,
            HELD => State::Held(word & !TAG),
            SHARED => State::Shared(word & !TAG),
            REFUSED => State::Refused,
            _ if word == 0 => State::Nobody,
            _ => State::Mapping(word - 1),
        }
    }

    /// Says what a port is that is not in a list and will not be.
    pub(super) fn set(&mut self, port: u16, state: State) {
        let word = match state {
            State::Nobody => 0,
            State::Mapping(row) => row + 1,
            State::Held(row) => HELD | row,
            State::Shared(count) => SHARED | count,
            State::Refused => REFUSED,
            State::Free => return self.push(port, None),
        };
        self.set_word(port, word);
    }

    /// The list of a port.
    pub(super) fn list(&self, port: u16) -> usize {
        if self.one_kind { 0 } else { list_of(port) }
    }

    /// Makes a port free; `tick` where ports are leased.
    pub(super) fn push(&mut self, port: u16, tick: Option<u32>) {
        let list = self.list(port);
        let list = &mut self.lists[list];
        let place = list.ports.len() as u32;
        list.ports.push(port);
        list.since.extend(tick);
        self.set_word(port, FREE | place);
    }

    /// Takes a free port out of its list; the caller says what it is then.
    fn pull(&mut self, list: usize, place: usize) -> u16 {
        let from = &mut self.lists[list];
        if !from.since.is_empty() {
            from.since.swap_remove(place);
        }
        let port = from.ports.swap_remove(place);
        if let Some(&moved) = from.ports.get(place) {
            self.set_word(moved, FREE | place as u32);
        }
        self.set_word(port, 0);
        port
    }

    /// Takes this port out of its list, if it is free.
    pub(super) fn take_this(&mut self, port: u16) -> bool {
        let word = self.word(port);
        if word & TAG != FREE {
            return false;
        }
        self.pull(self.list(port), (word & !TAG) as usize);
        true
    }

    /// Whether free ports are wanted ahead of need.
    pub(super) fn set_stocked(&mut self, stocked: bool) {
        for list in &mut self.lists[..2] {
            list.least = if stocked { LEAST } else { 0 };
            list.target = list.target.max(list.least);
        }
    }

    /// Every free port.
    pub(super) fn all_free(&self) -> Vec<u16> {
        self.lists.iter().flat_map(|list| &list.ports).copied().collect()
    }

    /// Takes every free port out, to be filled anew.
    pub(super) fn empty(&mut self) {
        self.filled = false;
        for port in self.all_free() {
            self.set_word(port, 0);
        }
        self.lists.iter_mut().for_each(|list| list.ports = Vec::new());
    }

    /// Takes a random port out of a list.
    pub(super) fn take_any(&mut self, list: usize, rng: &mut Rng) -> Option<u16> {
        let free = self.lists[list].ports.len();
        (free > 0).then(|| self.pull(list, rng.below(free)))
    }

    /// A port of this list was asked for.
    pub(super) fn note_taken(&mut self, list: usize, now: Time) {
        self.lists[list].note_taken(now);
    }

    /// Takes out a leased port that has been free for `idle` ticks.
    pub(super) fn take_idle(&mut self, now: Time, tick: u32, idle: u32) -> Option<u16> {
        let port = self.lists.iter_mut().find_map(|list| list.idle(now, tick, idle))?;
        self.take_this(port);
        let list = self.list(port);
        self.lists[list].leases -= 1;
        Some(port)
    }

    /// Free ports.
    pub(super) fn free(&self) -> usize {
        self.lists.iter().map(|list| list.ports.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::rng::Rng;
    use proptest::prelude::{prop, prop_assert, prop_assert_eq, proptest};
    use std::collections::BTreeSet;

    #[test]
    fn mapped_ports_are_told_up_to_the_last_one() {
        let mut pool = Pool::new(false, false);
        let mapped = [1, 8191, 8192, u16::MAX];
        for port in mapped {
            pool.set(port, State::Mapping(0));
        }
        pool.set(40_000, State::Shared(2));
        pool.set(40_001, State::Held(3));
        pool.set(40_002, State::Refused);
        pool.set(40_003, State::Free);
        assert_eq!(pool.mapped().collect::<Vec<_>>(), [1, 8191, 8192, 40_000, u16::MAX]);
    }

    proptest! {
        #[test]
        fn words_and_lists_agree(ops in prop::collection::vec((0..3u8, 1000..1048u16), 0..300)) {
            let mut pool = Pool::new(false, false);
            let mut free = BTreeSet::new();
            let mut rng = Rng::new([1; 32]);
            for (op, port) in ops {
                match op {
                    0 if pool.state(port) == State::Nobody => {
                        pool.push(port, Some(1));
                        free.insert(port);
                    }
                    1 => prop_assert_eq!(pool.take_this(port), free.remove(&port)),
                    _ => {
                        let list = list_of(port);
                        let taken = pool.take_any(list, &mut rng);
                        prop_assert_eq!(taken.is_none(), !free.iter().any(|port| list_of(*port) == list));
                        prop_assert!(taken.is_none_or(|port| free.remove(&port) && list_of(port) == list));
                    }
                }
                prop_assert_eq!(pool.free(), free.len());
                prop_assert!((1000..1048).all(|port| (pool.state(port) == State::Free) == free.contains(&port)));
            }
        }
    }
}
