//! Which hosts inside are known, by their MACs, while frames come from ever new ones.

use super::gate::Seen;
use crate::wire::ethernet::MacAddr;

/// MACs that are told apart from strangers, at most.
pub const MOST_GUESTS: usize = 128;

/// MACs of whom something was forwarded in this spell and in the one before, and neighbours of before.
#[derive(Debug, Default)]
pub(super) struct Guests {
    latest: Vec<MacAddr>,
    before: Vec<MacAddr>,
    neighbors: Option<Vec<MacAddr>>,
}

impl Guests {
    /// Notes that something was forwarded for this host; whether it was a stranger.
    pub fn note(&mut self, mac: MacAddr) -> bool {
        if self.latest.contains(&mac) || self.latest.len() >= MOST_GUESTS {
            return false;
        }
        // What is read whole is the list, which may have had no room for a neighbour.
        let stranger = !self.list().contains(&mac);
        self.latest.push(mac);
        stranger
    }

    pub fn has(&self, mac: MacAddr) -> bool {
        self.all().any(|guest| guest == mac)
    }

    /// Takes who was a neighbour when the flood began, those heard of last in front. Later ones may be part
    /// of it.
    pub fn set_neighbors(&mut self, neighbors: impl FnOnce() -> Vec<MacAddr>) {
        self.neighbors.get_or_insert_with(neighbors);
    }

    /// Whose frames are to be read whole: ascending, [`MOST_GUESTS`] at most, the busy before the idle.
    pub fn list(&self) -> Vec<MacAddr> {
        let mut guests: Vec<MacAddr> = Vec::new();
        for mac in self.all() {
            if guests.len() < MOST_GUESTS && !guests.contains(&mac) {
                guests.push(mac);
            }
        }
        guests.sort_unstable();
        guests
    }

    fn all(&self) -> impl Iterator<Item = MacAddr> + '_ {
        self.latest.iter().chain(&self.before).chain(self.neighbors.iter().flatten()).copied()
    }
}

impl Seen for Guests {
    fn turn(&mut self) {
        self.before = std::mem::take(&mut self.latest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(n: usize) -> MacAddr {
        MacAddr([2, 0, 0, 0, (n >> 8) as u8, n as u8])
    }

    #[test]
    fn who_is_busy_stays_and_there_is_room_for_so_many() {
        let mut guests = Guests::default();
        guests.set_neighbors(|| vec![mac(1), mac(2)]);
        guests.set_neighbors(|| vec![mac(3)]);
        assert!(!guests.note(mac(1)) && guests.note(mac(7)) && !guests.note(mac(7)));
        assert_eq!(guests.list(), [mac(1), mac(2), mac(7)], "neighbours are those of the beginning");
        guests.turn();
        assert!(!guests.note(mac(7)));
        guests.turn();
        guests.turn();
        assert_eq!(guests.list(), [mac(1), mac(2)], "two spells without a packet");
        for n in 100..1000 {
            guests.note(mac(n));
        }
        assert_eq!(guests.list().len(), MOST_GUESTS);
        assert!(guests.has(mac(100)) && !guests.has(mac(999)));
        guests.turn();
        for n in 100..150 {
            guests.note(mac(n));
        }
        assert!(guests.note(mac(1)), "a neighbour for whom the list had no room");
    }
}
