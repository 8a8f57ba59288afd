//! Who on the inside has which MAC: one table for both families. [`super::arp`] and [`super::ndp`]
//! are the two spellings of its questions and of what it hears.
//!
//! An entry is made by a host that asks us, or by a packet that needs one. An answer nobody asked
//! for changes an entry that exists and makes none, so a flood of them costs nothing. A host that
//! announces a new MAC, or asks with one, is believed at once. An IP packet makes nobody believe
//! anything: one that comes from another MAC than its source is known to have is not believed, and
//! makes us ask everybody. An entry that nothing has confirmed
//! for `CONFIRM` is asked for again while it is in use, and goes when nobody answers. The times are
//! those of RFC 4861 §10, which suit ARP as well.
//!
//! In a full table a newcomer takes the place of a host whose MAC has more of it, or that nothing was ever
//! delivered to: so nobody who claims addresses without end keeps others out.

use super::DropReason;
use crate::flow::{LinkId, Time};
use crate::wire::Buffer;
use crate::wire::ethernet::MacAddr;
use std::collections::HashMap;
use std::net::IpAddr;
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
/// Hosts that are looked at for one that gives way to a newcomer: of a table that somebody has filled one of
/// his is almost certainly among them.
const SAMPLE: usize = 8;
/// Questions that fall due within this time are asked together.
const GRAIN: Duration = Duration::from_millis(50);

/// Senders that are remembered to be right.
const SPEAKERS: usize = 64;

/// The place of a sender among those that are remembered.
fn speaker(ip: IpAddr) -> usize {
    let last = match ip {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(ip) => ip.octets()[15],
    };
    usize::from(last) % SPEAKERS
}

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
    /// Something was delivered to it.
    used: bool,
    /// Its place in the order.
    place: usize,
}

/// The neighbours of the inside.
#[derive(Debug)]
pub struct Neighbors {
    hosts: HashMap<IpAddr, Neighbor>,
    /// The hosts, in an order that means nothing, so that one can be drawn.
    order: Vec<IpAddr>,
    drawn: u64,
    /// How many hosts have this MAC.
    shares: HashMap<MacAddr, usize>,
    limit: usize,
    held: usize,
    /// Hosts whose MAC is not known.
    unheard: usize,
    /// When a full table was last looked through for idle hosts.
    swept: Option<Time>,
    /// The earliest moment at which a question may be due again; may be early.
    due: Option<Time>,
    /// Pairs that may send, by the last bits of the address; hosts of a subnet differ there.
    speakers: [Option<(IpAddr, MacAddr)>; SPEAKERS],
}

/// What an ARP packet or a neighbour discovery message comes to.
#[derive(Debug)]
pub struct Heard {
    /// What its sender says of itself.
    pub claim: Option<Claim>,
    /// The frame to answer with.
    pub reply: Option<Buffer>,
}

/// "I am `ip`, and `mac` is my MAC."
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// The address.
    pub ip: IpAddr,
    /// The MAC.
    pub mac: MacAddr,
    /// Whether it comes with a question to us: only then is a host believed who is not known.
    pub asks_us: bool,
    /// Whether it holds against another MAC that is known (RFC 4861 §7.2.5).
    pub overrides: bool,
}

/// "Who has `ip`?"
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question {
    /// The address.
    pub ip: IpAddr,
    /// Who had it when last heard of.
    pub known: Option<MacAddr>,
}

/// A packet came from another MAC than its source is known to have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OtherMac {
    /// Who has it really? Not asked too often.
    pub question: Option<Question>,
}

/// What to do with a packet for an inside host.
#[derive(Debug)]
pub enum Lookup {
    /// Send it to this MAC. A question goes out too if one is given: the entry needs confirming.
    Known(MacAddr, Option<Question>),
    /// Hold it with [`Neighbors::hold`], and send this question if there is one.
    Unknown(Option<Question>),
    /// There is no room for another host.
    Full,
}

impl Neighbors {
    /// An empty table of at most `limit` hosts.
    pub fn new(limit: usize) -> Self {
        Neighbors {
            hosts: HashMap::new(),
            order: Vec::new(),
            drawn: 0,
            shares: HashMap::new(),
            limit,
            held: 0,
            unheard: 0,
            swept: None,
            due: None,
            speakers: [None; SPEAKERS],
        }
    }

    /// Changes how many hosts there may be. What exceeds a lower limit stays until it is idle.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Takes what a host says of itself. Returns the packets that waited for its MAC, in the order
    /// they came.
    ///
    /// # Errors
    /// [`DropReason::NeighborLimit`] if there is no room for another host.
    pub fn learn(&mut self, claim: Claim, now: Time) -> Result<Vec<Held>, DropReason> {
        let Claim { ip, mac, asks_us, overrides } = claim;
        self.speakers[speaker(ip)] = None;
        if !self.hosts.contains_key(&ip) {
            if !asks_us {
                return Ok(Vec::new());
            }
            self.make_room(Some(mac), now)?;
            self.insert(ip, Some(mac), now);
        }
        let Some(host) = self.hosts.get_mut(&ip) else { return Ok(Vec::new()) };
        if !overrides && host.mac.is_some_and(|known| known != mac) {
            return Ok(Vec::new());
        }
        self.unheard -= usize::from(host.mac.is_none());
        let before = host.mac.replace(mac);
        if before != Some(mac) {
            share(&mut self.shares, before, Some(mac));
        }
        host.confirmed = now;
        host.tries = 0;
        let released = std::mem::take(&mut host.held);
        self.held -= released.len();
        Ok(released)
    }

    /// Makes room for a host with this MAC, or of one that is asked for.
    fn make_room(&mut self, newcomer: Option<MacAddr>, now: Time) -> Result<(), DropReason> {
        if self.hosts.len() < self.limit {
            return Ok(());
        }
        if self.swept.is_none_or(|swept| now.since(swept) >= SWEEP) {
            self.swept = Some(now);
            let idle = |host: &Neighbor| host.tries == 0 && now.since(host.confirmed) > CONFIRM * 10;
            let idle: Vec<IpAddr> =
                self.hosts.iter().filter(|(_, host)| idle(host)).map(|(ip, _)| *ip).collect();
            idle.into_iter().for_each(|ip| drop(self.remove(ip)));
            if self.hosts.len() < self.limit {
                return Ok(());
            }
        }
        // More than one too many, if the limit was lowered, are not for one newcomer to put out.
        match self.gives_way(newcomer) {
            Some(ip) if self.hosts.len() == self.limit => {
                self.remove(ip);
                Ok(())
            }
            _ => Err(DropReason::NeighborLimit),
        }
    }

    /// Who of some that are drawn gives way to a newcomer.
    fn gives_way(&mut self, newcomer: Option<MacAddr>) -> Option<IpAddr> {
        let own = newcomer.map_or(0, |mac| self.share(mac));
        let mut least: Option<(usize, bool, IpAddr)> = None;
        for _ in 0..SAMPLE {
            // Knuth's MMIX generator. Who guesses the draw gains nothing: what decides is who has most.
            self.drawn =
                self.drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let place = ((u128::from(self.drawn) * self.order.len() as u128) >> 64) as usize;
            let Some(ip) = self.order.get(place).copied() else { continue };
            // Who is asked for is waited for.
            let Some(&Neighbor { mac: Some(mac), used, tries: 0, .. }) = self.hosts.get(&ip) else {
                continue;
            };
            let candidate = (self.share(mac), !used, ip);
            if least.is_none_or(|least| (least.0, least.1) < (candidate.0, candidate.1)) {
                least = Some(candidate);
            }
        }
        let (share, unused, ip) = least?;
        (share > own + 1 || own == 0 && unused).then_some(ip)
    }

    fn share(&self, mac: MacAddr) -> usize {
        self.shares.get(&mac).copied().unwrap_or_default()
    }

    fn insert(&mut self, ip: IpAddr, mac: Option<MacAddr>, now: Time) {
        let (asked, tries) = if mac.is_some() { (Time::ZERO, 0) } else { (now, 1) };
        let place = self.order.len();
        let host = Neighbor { mac, confirmed: now, asked, tries, held: Vec::new(), used: false, place };
        self.order.push(ip);
        self.hosts.insert(ip, host);
        share(&mut self.shares, None, mac);
    }

    fn remove(&mut self, ip: IpAddr) -> Option<Neighbor> {
        let host = self.hosts.remove(&ip)?;
        self.order.swap_remove(host.place);
        if let Some(moved) = self.order.get(host.place).and_then(|moved| self.hosts.get_mut(moved)) {
            moved.place = host.place;
        }
        share(&mut self.shares, host.mac, None);
        Some(host)
    }

    /// The MACs of hosts that are known, those heard of last in front; so many at most.
    pub fn macs(&self, most: usize) -> Vec<MacAddr> {
        let known = |host: &Neighbor| Some((std::cmp::Reverse(host.confirmed), host.mac?));
        let mut known: Vec<_> = self.hosts.values().filter_map(known).collect();
        known.sort_unstable();
        known.truncate(most);
        known.into_iter().map(|(_, mac)| mac).collect()
    }

    /// The MAC that `ip` is known to have.
    pub fn mac_of(&self, ip: IpAddr) -> Option<MacAddr> {
        self.hosts.get(&ip)?.mac
    }

    /// Forgets that `mac` has `ip`, which its host has given up.
    pub fn forget(&mut self, ip: IpAddr, mac: MacAddr) {
        // Nothing waits for a host whose MAC is known.
        if self.mac_of(ip) == Some(mac) {
            self.remove(ip);
            self.speakers[speaker(ip)] = None;
        }
    }

    /// Where a packet for `ip` goes.
    pub fn lookup(&mut self, ip: IpAddr, now: Time) -> Lookup {
        let Some(host) = self.hosts.get_mut(&ip) else {
            return self.look_for(ip, now);
        };
        host.used |= host.mac.is_some();
        match host.mac {
            Some(mac) if host.tries > 0 || now.since(host.confirmed) <= CONFIRM => Lookup::Known(mac, None),
            Some(mac) => {
                host.tries = 1;
                host.asked = now;
                self.due = Some(self.due.map_or(now + RETRY, |due| due.min(now + RETRY)));
                Lookup::Known(mac, Some(Question { ip, known: Some(mac) }))
            }
            None => Lookup::Unknown(None),
        }
    }

    /// Whether `mac` may send from `ip`: nobody is known to have the address, or this MAC is.
    ///
    /// # Errors
    /// Another MAC has it, as far as is known.
    #[inline]
    pub fn check(&mut self, ip: IpAddr, mac: MacAddr, now: Time) -> Result<(), OtherMac> {
        if self.speakers[speaker(ip)] == Some((ip, mac)) {
            return Ok(());
        }
        self.check_slowly(ip, mac, now)
    }

    fn check_slowly(&mut self, ip: IpAddr, mac: MacAddr, now: Time) -> Result<(), OtherMac> {
        if let Some(host) = self.hosts.get_mut(&ip)
            && host.mac.is_some_and(|known| known != mac)
        {
            if now.since(host.asked) < RETRY {
                return Err(OtherMac { question: None });
            }
            // Asking on, if nobody answers, is as for a host that needs confirming.
            host.tries = host.tries.max(1);
            host.asked = now;
            self.due = Some(self.due.map_or(now + RETRY, |due| due.min(now + RETRY)));
            // Whoever was known is not asked alone: it may be gone.
            return Err(OtherMac { question: Some(Question { ip, known: None }) });
        }
        self.speakers[speaker(ip)] = Some((ip, mac));
        Ok(())
    }

    /// Begins to ask for a host that nobody has heard of.
    fn look_for(&mut self, ip: IpAddr, now: Time) -> Lookup {
        let unheard = (self.limit / UNHEARD_SHARE).max(1);
        if self.unheard >= unheard || self.make_room(None, now).is_err() {
            return Lookup::Full;
        }
        self.unheard += 1;
        self.insert(ip, None, now);
        self.due = Some(self.due.map_or(now + RETRY, |due| due.min(now + RETRY)));
        Lookup::Unknown(Some(Question { ip, known: None }))
    }

    /// Keeps `packet` until the MAC of `ip` is known. Returns the packet that had to make room, if
    /// one had to.
    pub fn hold(&mut self, ip: IpAddr, packet: Held) -> Option<Held> {
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

    /// Asks again or gives up where it is time. Returns questions to send, and packets whose host
    /// never answered.
    pub fn tick(&mut self, now: Time) -> (Vec<Question>, Vec<Held>) {
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
                questions.push(Question { ip, known: host.mac });
            } else if let Some(host) = self.remove(ip) {
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
}

/// A host has another MAC now.
fn share(shares: &mut HashMap<MacAddr, usize>, before: Option<MacAddr>, now: Option<MacAddr>) {
    if let Some(mac) = now {
        *shares.entry(mac).or_default() += 1;
    }
    if let Some(mac) = before
        && let Some(count) = shares.get_mut(&mac)
    {
        *count -= 1;
        if *count == 0 {
            shares.remove(&mac);
        }
    }
}
