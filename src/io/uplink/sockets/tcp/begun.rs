//! The order in which connections of the inside began that one end has not agreed to yet: when there are
//! too many, the oldest is forgotten. Whoever is there answers soon, so this falls on dead addresses, and a
//! scan of those takes nobody's place.

use std::collections::VecDeque;

/// Entries beyond twice the number of connections, before those of the past are taken out.
const SLACK: usize = 64;

/// Numbers of connections, oldest first; some of them are of the past.
#[derive(Debug, Default)]
pub(super) struct Begun {
    order: VecDeque<(u32, u64)>,
    serial: u64,
}

impl Begun {
    /// One more, and what tells it from others that had its number. There are `count`; `waits` says
    /// whether an entry is one of them.
    pub fn add(&mut self, id: u32, count: usize, waits: impl Fn(u32, u64) -> bool) -> u64 {
        if self.order.len() > 2 * count + SLACK {
            self.order.retain(|(id, serial)| waits(*id, *serial));
        }
        self.serial += 1;
        self.order.push_back((id, self.serial));
        self.serial
    }

    /// Takes the oldest of which `waits` says that it is no entry of the past.
    pub fn oldest(&mut self, waits: impl Fn(u32, u64) -> bool) -> Option<u32> {
        while let Some((id, serial)) = self.order.pop_front() {
            if waits(id, serial) {
                return Some(id);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_comes_first_and_the_past_takes_no_room() {
        let mut begun = Begun::default();
        let first = begun.add(7, 1, |_, _| true);
        for _ in 0..10_000 {
            begun.add(8, 1, |_, serial| serial == first);
        }
        assert!(begun.order.len() <= 2 + SLACK + 1, "{}", begun.order.len());
        let last = begun.serial;
        let waits = |_: u32, serial: u64| serial == first || serial == last;
        assert_eq!(begun.oldest(waits), Some(7));
        assert_eq!(begun.oldest(waits), Some(8));
        assert_eq!(begun.oldest(waits), None);
    }
}
