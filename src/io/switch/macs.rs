//! Behind which port of a switch a hardware address was last seen. Pure: no descriptor, no clock.
//!
//! A port can make up addresses without end. So each keeps only its own latest few: what one namespace
//! does takes no room from the others.

use crate::flow::Time;
use crate::wire::MacAddr;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// Addresses that are remembered of one port. One namespace has few: its TAP's, perhaps those of a
/// bridge of its own.
pub const PER_PORT: usize = 64;

/// How long an address that is not heard of is believed to be where it was (IEEE 802.1Q §8.8.3
/// recommends this).
pub const AGE: Duration = Duration::from_secs(300);

/// Where a frame is to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// To the gateway alone.
    Gateway,
    /// To this port alone.
    Port(usize),
    /// To the gateway and every other port: a group.
    Everybody,
    /// To every other port, since nobody knows behind which one it is; it is not the gateway.
    AnyPort,
}

/// What a source address was to the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Learned {
    /// It is where it was.
    Known,
    /// It was not there before.
    New,
    /// It was not there before, and the port's oldest had to go.
    Replaced,
    /// It was behind another port.
    Moved,
    /// No host has it: a group, or zeros.
    Invalid,
    /// It is the gateway's own.
    Forged,
}

/// The table of a switch.
#[derive(Debug)]
pub struct Macs {
    gateway: MacAddr,
    places: HashMap<MacAddr, (usize, Time)>,
    /// Of each port the addresses in `places`, the one learned first in front.
    ports: Vec<VecDeque<MacAddr>>,
}

impl Macs {
    /// An empty table of a switch with `ports` ports, and the gateway behind none of them.
    pub fn new(gateway: MacAddr, ports: usize) -> Macs {
        Macs { gateway, places: HashMap::new(), ports: vec![VecDeque::new(); ports] }
    }

    /// Learns from the source of a frame that came in by `port`.
    pub fn learn(&mut self, source: MacAddr, port: usize, now: Time) -> Learned {
        if source.is_multicast() || source.is_zero() {
            return Learned::Invalid;
        }
        if source == self.gateway {
            return Learned::Forged;
        }
        let before = match self.places.get_mut(&source) {
            Some((known, seen)) if *known == port => {
                *seen = now;
                return Learned::Known;
            }
            Some((known, _)) => Some(*known),
            None => None,
        };
        if let Some(list) = before.and_then(|before| self.ports.get_mut(before)) {
            list.retain(|mac| *mac != source);
        }
        let Some(list) = self.ports.get_mut(port) else { return Learned::Invalid };
        let oldest = if list.len() >= PER_PORT { list.pop_front() } else { None };
        list.push_back(source);
        self.places.insert(source, (port, now));
        if let Some(oldest) = oldest {
            self.places.remove(&oldest);
        }
        match (before, oldest) {
            (Some(_), _) => Learned::Moved,
            (None, Some(_)) => Learned::Replaced,
            (None, None) => Learned::New,
        }
    }

    /// Where a frame for `destination` is to go.
    pub fn find(&self, destination: MacAddr, now: Time) -> Place {
        if destination == self.gateway || reserved(destination) {
            return Place::Gateway;
        }
        if destination.is_multicast() {
            return Place::Everybody;
        }
        match self.places.get(&destination) {
            Some((port, seen)) if now.since(*seen) <= AGE => Place::Port(*port),
            _ => Place::AnyPort,
        }
    }

    /// Forgets what was behind a port.
    pub fn forget(&mut self, port: usize) {
        for mac in self.ports.get_mut(port).map(std::mem::take).unwrap_or_default() {
            self.places.remove(&mac);
        }
    }

    /// Addresses that are remembered.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}

/// Addresses of link-local protocols, spanning tree for one, which no bridge passes on (IEEE 802.1Q
/// §8.6.3).
fn reserved(mac: MacAddr) -> bool {
    matches!(mac.0, [0x01, 0x80, 0xc2, 0x00, 0x00, 0x00..=0x0f])
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);

    fn mac(number: u32) -> MacAddr {
        let [a, b, c, d] = number.to_be_bytes();
        MacAddr([2, 1, a, b, c, d])
    }

    #[test]
    fn what_was_heard_is_found_until_it_is_old_or_its_port_is_gone() {
        let mut macs = Macs::new(GATEWAY, 3);
        assert_eq!(macs.find(mac(1), Time::ZERO), Place::AnyPort);
        assert_eq!(macs.learn(mac(1), 2, Time::ZERO), Learned::New);
        assert_eq!(macs.learn(mac(1), 2, Time::ZERO), Learned::Known);
        assert_eq!(macs.find(mac(1), Time::ZERO + AGE), Place::Port(2));
        let later = Time::ZERO + AGE + Duration::from_nanos(1);
        assert_eq!(macs.find(mac(1), later), Place::AnyPort);
        macs.learn(mac(1), 2, later);
        assert_eq!(macs.find(mac(1), later), Place::Port(2), "a word makes it young again");
        macs.forget(2);
        assert_eq!(macs.find(mac(1), later), Place::AnyPort);
        assert!(macs.is_empty());
    }

    #[test]
    fn groups_reserved_addresses_and_the_gateway_have_their_places() {
        let mut macs = Macs::new(GATEWAY, 2);
        assert_eq!(macs.find(GATEWAY, Time::ZERO), Place::Gateway);
        assert_eq!(macs.find(MacAddr::BROADCAST, Time::ZERO), Place::Everybody);
        assert_eq!(macs.find(MacAddr([0x33, 0x33, 0, 0, 0, 1]), Time::ZERO), Place::Everybody);
        assert_eq!(macs.find(MacAddr([0x01, 0x80, 0xc2, 0, 0, 0]), Time::ZERO), Place::Gateway);
        assert_eq!(macs.find(MacAddr([0x01, 0x80, 0xc2, 0, 0, 0x10]), Time::ZERO), Place::Everybody);
        assert_eq!(macs.learn(GATEWAY, 0, Time::ZERO), Learned::Forged);
        assert_eq!(macs.learn(MacAddr::BROADCAST, 0, Time::ZERO), Learned::Invalid);
        assert_eq!(macs.learn(MacAddr::default(), 0, Time::ZERO), Learned::Invalid);
        assert_eq!(macs.learn(mac(1), 2, Time::ZERO), Learned::Invalid, "there is no such port");
        assert_eq!(macs.find(GATEWAY, Time::ZERO), Place::Gateway);
    }

    #[test]
    fn a_port_that_makes_addresses_up_harms_itself_alone() {
        let mut macs = Macs::new(GATEWAY, 2);
        macs.learn(mac(1), 0, Time::ZERO);
        let all = u32::try_from(PER_PORT).unwrap();
        for number in 0..all {
            assert_eq!(macs.learn(mac(1000 + number), 1, Time::ZERO), Learned::New);
        }
        for number in 0..5000 {
            assert_eq!(macs.learn(mac(9000 + number), 1, Time::ZERO), Learned::Replaced);
            assert_eq!(macs.len(), PER_PORT + 1);
        }
        assert_eq!(macs.find(mac(1000), Time::ZERO), Place::AnyPort);
        assert_eq!(macs.find(mac(1), Time::ZERO), Place::Port(0));
    }

    #[test]
    fn an_address_moves_with_who_speaks() {
        let mut macs = Macs::new(GATEWAY, 2);
        macs.learn(mac(1), 0, Time::ZERO);
        assert_eq!(macs.learn(mac(1), 1, Time::ZERO), Learned::Moved);
        assert_eq!(macs.find(mac(1), Time::ZERO), Place::Port(1));
        macs.forget(0);
        assert_eq!(macs.find(mac(1), Time::ZERO), Place::Port(1), "it is not that port's any more");
        assert_eq!(macs.len(), 1);
    }
}
