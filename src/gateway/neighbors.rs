//! Who on the inside has which MAC: answers ARP for the gateway, asks for hosts, holds a few
//! packets while asking (RFC 826, RFC 5227).
//!
//! An entry is made by a host that asks us, or by a packet that needs one. An answer nobody asked
//! for changes an entry that exists and makes none, so a flood of them costs nothing. A host that
//! announces a new MAC, or asks with one, is believed at once. An entry that nothing has confirmed
//! for `CONFIRM` is asked for again while it is in use, and goes when nobody answers.

use super::DropReason;
use crate::flow::{LinkId, Time};
use crate::wire::Buffer;
use crate::wire::ethernet::{self, Frame, MacAddr};
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;

/// How long an entry is used without a sign of life before it is asked for again.
const CONFIRM: Duration = Duration::from_secs(30);
/// Time between two questions, and after the last one before giving up.
const RETRY: Duration = Duration::from_secs(1);
/// Questions before giving up.
const TRIES: u8 = 3;
/// Packets held for one host while asking; the oldest goes first.
const HELD_PER_HOST: usize = 8;
/// Packets held for all hosts together.
const HELD_IN_ALL: usize = 256;
/// Of the table, the part that hosts may have whom nobody has heard of yet: one in so many.
const UNHEARD_SHARE: usize = 4;
/// A full table is looked through for idle hosts once in so long.
const SWEEP: Duration = Duration::from_secs(1);
/// Questions that fall due within this time are asked together.
const GRAIN: Duration = Duration::from_millis(50);

/// A packet that waits for a MAC.
#[derive(Debug)]
pub struct Held {
    /// From its IP header on, as it is to be delivered.
    pub packet: Buffer,
    /// The link it came in by; `None` if the gateway itself wrote it.
    pub from: Option<LinkId>,
}

#[derive(Debug)]
struct Neighbor {
    mac: Option<MacAddr>,
    confirmed: Time,
    /// When the last question went out, and how many have without an answer.
    asked: Time,
    tries: u8,
    held: Vec<Held>,
}

/// The ARP table of the inside.
#[derive(Debug)]
pub struct Neighbors {
    mac: MacAddr,
    hosts: HashMap<Ipv4Addr, Neighbor>,
    limit: usize,
    held: usize,
    /// Hosts whose MAC is not known.
    unheard: usize,
    /// When a full table was last looked through for idle hosts.
    swept: Option<Time>,
    /// The earliest moment at which a question may be due again; may be early.
    due: Option<Time>,
}

/// What an ARP frame leads to.
#[derive(Debug, Default)]
pub struct ArpOutcome {
    /// A frame to send.
    pub reply: Option<Buffer>,
    /// Packets that waited for this MAC, in the order they came, and the MAC.
    pub released: Vec<Held>,
}

/// What to do with a packet for an inside host.
#[derive(Debug)]
pub enum Lookup {
    /// Send it to this MAC. A question goes out too if one is given: the entry needs confirming.
    Known(MacAddr, Option<Buffer>),
    /// Hold it with [`Neighbors::hold`], and send this question if there is one.
    Unknown(Option<Buffer>),
    /// There is no room for another host.
    Full,
}

impl Neighbors {
    /// An empty table for a gateway with this MAC, of at most `limit` hosts.
    pub fn new(mac: MacAddr, limit: usize) -> Self {
        Neighbors { mac, hosts: HashMap::new(), limit, held: 0, unheard: 0, swept: None, due: None }
    }

    /// Changes how many hosts there may be. What exceeds a lower limit stays until it is idle.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Takes an ARP packet (behind its Ethernet header). `ours` says for an address whether it is
    /// the gateway's own; `local` whether it may be a host's.
    ///
    /// # Errors
    /// Why it is dropped.
    pub fn arp(
        &mut self,
        bytes: &[u8],
        ours: impl Fn(Ipv4Addr) -> bool,
        local: impl Fn(Ipv4Addr) -> bool,
        now: Time,
    ) -> Result<ArpOutcome, DropReason> {
        let packet = ArpPacket::new_checked(bytes).map_err(|_| DropReason::BadArp)?;
        let ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr: sender,
            target_protocol_addr: target,
            ..
        } = ArpRepr::parse(&packet).map_err(|_| DropReason::BadArp)?
        else {
            return Err(DropReason::BadArp);
        };
        let mac = MacAddr(source_hardware_addr.0);
        if mac.is_multicast() || mac.is_zero() || mac == self.mac || ours(sender) {
            return Err(DropReason::BadArp);
        }
        let probe = sender.is_unspecified();
        if !probe && !local(sender) {
            return Err(DropReason::BadArp);
        }
        let asks_us = operation == ArpOperation::Request && ours(target);
        let mut outcome = ArpOutcome::default();
        if !probe {
            outcome.released = self.learn(sender, mac, asks_us, now)?;
        }
        if asks_us {
            outcome.reply = Some(self.frame(ArpOperation::Reply, mac, target, mac, sender));
        }
        Ok(outcome)
    }

    /// Believes `mac`; makes an entry if `create`. Returns what waited for it.
    fn learn(
        &mut self,
        ip: Ipv4Addr,
        mac: MacAddr,
        create: bool,
        now: Time,
    ) -> Result<Vec<Held>, DropReason> {
        if !self.hosts.contains_key(&ip) {
            if !create {
                return Ok(Vec::new());
            }
            self.make_room(now)?;
        }
        let fresh =
            Neighbor { mac: Some(mac), confirmed: now, asked: Time::ZERO, tries: 0, held: Vec::new() };
        let host = self.hosts.entry(ip).or_insert(fresh);
        self.unheard -= usize::from(host.mac.is_none());
        host.mac = Some(mac);
        host.confirmed = now;
        host.tries = 0;
        let released = std::mem::take(&mut host.held);
        self.held -= released.len();
        Ok(released)
    }

    fn make_room(&mut self, now: Time) -> Result<(), DropReason> {
        if self.hosts.len() < self.limit {
            return Ok(());
        }
        if self.swept.is_some_and(|swept| now.since(swept) < SWEEP) {
            return Err(DropReason::NeighborLimit);
        }
        self.swept = Some(now);
        let idle = |host: &Neighbor| host.tries == 0 && now.since(host.confirmed) > CONFIRM * 10;
        self.hosts.retain(|_, host| !idle(host));
        if self.hosts.len() < self.limit { Ok(()) } else { Err(DropReason::NeighborLimit) }
    }

    /// Where a packet for `ip` goes; `from` is the gateway's address to ask with.
    pub fn lookup(&mut self, ip: Ipv4Addr, from: Ipv4Addr, now: Time) -> Lookup {
        if !self.hosts.contains_key(&ip) {
            let unheard = (self.limit / UNHEARD_SHARE).max(1);
            if self.unheard >= unheard || self.make_room(now).is_err() {
                return Lookup::Full;
            }
            self.unheard += 1;
            let fresh = Neighbor { mac: None, confirmed: now, asked: now, tries: 1, held: Vec::new() };
            self.hosts.insert(ip, fresh);
            self.due = Some(self.due.map_or(now + RETRY, |due| due.min(now + RETRY)));
            return Lookup::Unknown(Some(self.question(ip, from)));
        }
        let question = self.question(ip, from);
        let Some(host) = self.hosts.get_mut(&ip) else { return Lookup::Full };
        match host.mac {
            Some(mac) if host.tries > 0 || now.since(host.confirmed) <= CONFIRM => Lookup::Known(mac, None),
            Some(mac) => {
                host.tries = 1;
                host.asked = now;
                self.due = Some(self.due.map_or(now + RETRY, |due| due.min(now + RETRY)));
                Lookup::Known(mac, Some(question))
            }
            None => Lookup::Unknown(None),
        }
    }

    /// Keeps `packet` until the MAC of `ip` is known. Returns the packet that had to make room, if
    /// one had to.
    pub fn hold(&mut self, ip: Ipv4Addr, packet: Held) -> Option<Held> {
        let Some(host) = self.hosts.get_mut(&ip) else { return Some(packet) };
        if host.held.len() >= HELD_PER_HOST {
            host.held.push(packet);
            return Some(host.held.remove(0));
        }
        if self.held >= HELD_IN_ALL {
            return Some(packet);
        }
        host.held.push(packet);
        self.held += 1;
        None
    }

    /// Asks again or gives up where it is time. `from` gives the gateway's address for a host.
    /// Returns questions to send, and packets whose host never answered.
    pub fn tick(
        &mut self,
        now: Time,
        from: impl Fn(Ipv4Addr) -> Option<Ipv4Addr>,
    ) -> (Vec<Buffer>, Vec<Held>) {
        let (mut questions, mut lost) = (Vec::new(), Vec::new());
        if self.due.is_none_or(|due| now < due) {
            return (questions, lost);
        }
        let mut due: Vec<_> = self
            .hosts
            .iter()
            .filter(|(_, host)| host.tries > 0 && now.since(host.asked) >= RETRY)
            .map(|(ip, _)| *ip)
            .collect();
        due.sort_unstable();
        for ip in due {
            let Some(host) = self.hosts.get_mut(&ip) else { continue };
            if host.tries < TRIES {
                host.tries += 1;
                host.asked = now;
                questions.extend(from(ip).map(|from| self.question(ip, from)));
            } else if let Some(host) = self.hosts.remove(&ip) {
                self.held -= host.held.len();
                self.unheard -= usize::from(host.mac.is_none());
                lost.extend(host.held);
            }
        }
        let due = self.hosts.values().filter(|host| host.tries > 0).map(|host| host.asked + RETRY).min();
        self.due = due.map(|due| due.max(now + GRAIN));
        (questions, lost)
    }

    /// When [`Neighbors::tick`] has something to do next.
    pub fn next_deadline(&self) -> Option<Time> {
        self.due
    }

    fn question(&self, ip: Ipv4Addr, from: Ipv4Addr) -> Buffer {
        self.frame(ArpOperation::Request, MacAddr::BROADCAST, from, MacAddr([0; 6]), ip)
    }

    fn frame(
        &self,
        operation: ArpOperation,
        to: MacAddr,
        from: Ipv4Addr,
        target: MacAddr,
        ip: Ipv4Addr,
    ) -> Buffer {
        let repr = ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: EthernetAddress(self.mac.0),
            source_protocol_addr: from,
            target_hardware_addr: EthernetAddress(target.0),
            target_protocol_addr: ip,
        };
        let mut bytes = vec![0; repr.buffer_len()];
        repr.emit(&mut ArpPacket::new_unchecked(&mut bytes));
        let mut frame = Buffer::from_bytes(&bytes);
        let header = Frame { destination: to, source: self.mac, ethertype: ethernet::ARP };
        frame.push_front(&header.to_bytes());
        frame
    }
}
