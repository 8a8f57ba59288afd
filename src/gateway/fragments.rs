//! Fragments without reassembly: the first fragment of a datagram decides, the others follow it.
//!
//! Only the first fragment has ports. Its decision is kept under (link, source, destination,
//! protocol, identification) and gives later fragments the same addresses. A fragment that comes
//! before its first one is held for a short time and follows as soon as the first one is there.
//! Memory is bounded twice: by the number of datagrams and by the number of held fragments; when
//! a bound is met, what is newest is dropped, so that a flood cannot push out a datagram that is
//! under way (RFC 4787 REQ-14a). Each link has tables and bounds of its own, and of those of the
//! inside each host has a share, so that neither the outside nor one host can shut out others.
//! Datagrams that have passed whole, and refused ones, are kept for the sake of duplicates only;
//! they count for no share, and make room first.
//!
//! Each datagram leaves with an identification of its own, since two inside hosts may use the
//! same one towards one remote (RFC 6864 §5.3.1); a first fragment that comes twice gets the same
//! one twice.

use super::coverage::{Added, Coverage};
use super::identification::Identifications;
use super::{DropReason, Fate, Gateway, HOST, INSIDE, Outbox};
use crate::flow::{Edit, Endpoint, LinkId, Protocol, Summary, Time};
use crate::nat::{Decision, Exit, Observer};
use crate::wire::{Buffer, Fragment, Packet};
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// How long a datagram's fragments may take to come (RFC 6146 §3.4 asks for at least 2 s; Linux
/// reassembles for 30 s).
const LIFE: Duration = Duration::from_secs(15);
/// How long a fragment waits for its first one.
const PATIENCE: Duration = Duration::from_secs(3);
/// Datagrams of one link at a time, settled ones included.
const DATAGRAMS: usize = 4096;
/// Settled datagrams that make it worth while to look for them all.
const SWEEP: usize = DATAGRAMS / 4;
/// Fragments held for one datagram: 64 KiB at the least MTU a sender would use.
const HELD: usize = 64;
/// What one link may have under way.
const OF_A_LINK: Load = Load { open: DATAGRAMS, orphans: 256, held: 1024 };
/// What one inside host may have under way.
const OF_A_HOST: Load = Load { open: DATAGRAMS / 8, orphans: 256 / 8, held: 1024 / 8 };
/// What ends within this time ends together.
const GRAIN: Duration = Duration::from_millis(50);

/// What is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Load {
    /// Datagrams that are not settled.
    open: usize,
    /// Datagrams whose first fragment has not come.
    orphans: usize,
    /// Fragments held.
    held: usize,
}

impl Load {
    fn add(&mut self, more: Load) {
        self.open += more.open;
        self.orphans += more.orphans;
        self.held += more.held;
    }

    fn take(&mut self, less: Load) {
        self.open -= less.open;
        self.orphans -= less.orphans;
        self.held -= less.held;
    }

    /// Whether `more` can be added within `bound`; only what grows is held against it.
    fn fits(self, more: Load, bound: Load) -> bool {
        let within = |has: usize, more: usize, most: usize| more == 0 || has + more <= most;
        within(self.open, more.open, bound.open)
            && within(self.orphans, more.orphans, bound.orphans)
            && within(self.held, more.held, bound.held)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    protocol: Protocol,
    identification: u32,
}

#[derive(Debug)]
enum Datagram {
    Decided(Decided),
    Waiting { held: Vec<Buffer>, since: Time },
}

/// A datagram whose first fragment has come.
#[derive(Debug)]
struct Decided {
    decision: Decision,
    since: Time,
    /// Bytes of payload that have come.
    seen: Coverage,
    /// Bytes of payload in all, as the last fragment says.
    whole: Option<u32>,
    /// Its fragments contradict each other: none of them passes any more.
    contradicts: bool,
}

impl Decided {
    /// Whether it is there for late duplicates only: refused, or passed whole.
    fn settled(&self) -> bool {
        let refused = matches!(self.decision, Decision::Refuse(_)) || self.contradicts;
        refused || self.whole.is_some_and(|whole| self.seen.bytes() >= whole)
    }

    fn load(&self) -> Load {
        Load { open: usize::from(!self.settled()), ..Load::default() }
    }

    /// Books a fragment. What comes after the whole datagram is a copy, or the start of another
    /// one that has the same identification.
    fn count(&mut self, fragment: Fragment) {
        if self.settled() {
            return;
        }
        let start = u32::from(fragment.offset);
        let end = start + u32::from(fragment.length);
        let added = self.seen.add(start, end);
        let two_ends = self.whole.is_some_and(|whole| end > whole || (!fragment.more && end != whole));
        if !fragment.more {
            self.whole = Some(end);
        }
        let beyond = self.whole.is_some_and(|whole| self.seen.end() > whole);
        self.contradicts = added == Added::Overlap || two_ends || beyond;
    }
}

impl Datagram {
    fn ends(&self) -> Time {
        match self {
            Datagram::Decided(decided) => decided.since + LIFE,
            Datagram::Waiting { since, .. } => *since + PATIENCE,
        }
    }

    fn settled(&self) -> bool {
        matches!(self, Datagram::Decided(decided) if decided.settled())
    }

    fn load(&self) -> Load {
        match self {
            Datagram::Decided(decided) => decided.load(),
            Datagram::Waiting { held, .. } => Load { open: 1, orphans: 1, held: held.len() },
        }
    }
}

/// The datagrams of one link.
#[derive(Debug, Default)]
struct Table {
    datagrams: HashMap<Key, Datagram>,
    load: Load,
    /// Of the inside: what each host has under way.
    hosts: Option<HashMap<IpAddr, Load>>,
    /// When something may end; may be early.
    due: Option<Time>,
}

impl Table {
    fn settled(&self) -> usize {
        self.datagrams.len() - self.load.open
    }

    /// Whether there is room for `more` from this source.
    fn has_room(&self, source: IpAddr, more: Load) -> bool {
        let of_host = self.hosts.as_ref().and_then(|hosts| hosts.get(&source)).copied().unwrap_or_default();
        let host_may = self.hosts.is_none() || of_host.fits(more, OF_A_HOST);
        host_may && self.load.fits(more, OF_A_LINK)
    }

    /// Whether there is room for another datagram that weighs this. What is settled goes if there
    /// is enough of it to be worth the look.
    fn make_room(&mut self, source: IpAddr, more: Load) -> bool {
        if self.datagrams.len() >= DATAGRAMS && self.settled() >= SWEEP {
            self.datagrams.retain(|_, datagram| !datagram.settled());
        }
        self.datagrams.len() < DATAGRAMS && self.has_room(source, more)
    }

    /// Books that what `source` has under way has changed.
    fn book(&mut self, source: IpAddr, less: Load, more: Load) {
        self.load.add(more);
        self.load.take(less);
        let Some(hosts) = &mut self.hosts else { return };
        let load = hosts.entry(source).or_default();
        load.add(more);
        load.take(less);
        if *load == Load::default() {
            hosts.remove(&source);
        }
    }

    fn insert(&mut self, key: Key, datagram: Datagram) -> Option<Datagram> {
        let (ends, more) = (datagram.ends(), datagram.load());
        self.due = Some(self.due.map_or(ends, |due| due.min(ends)));
        let before = self.datagrams.insert(key, datagram);
        self.book(key.source, before.as_ref().map(Datagram::load).unwrap_or_default(), more);
        before
    }

    /// A later fragment: follow the first, or wait for it.
    fn later(&mut self, key: Key, fragment: Fragment, buffer: &Buffer, now: Time) -> Turn {
        const ONE_MORE: Load = Load { open: 0, orphans: 0, held: 1 };
        match self.datagrams.get_mut(&key) {
            Some(Datagram::Decided(decided)) => {
                let was = decided.load();
                decided.count(fragment);
                let (is, decision, contradicts) = (decided.load(), decided.decision, decided.contradicts);
                if is != was {
                    self.book(key.source, was, is);
                }
                if contradicts {
                    return Turn::Refuse(DropReason::FragmentOverlap);
                }
                Turn::Follow(decision)
            }
            Some(Datagram::Waiting { held, .. }) if held.len() >= HELD => {
                Turn::Refuse(DropReason::FragmentLimit)
            }
            Some(Datagram::Waiting { .. }) => {
                if !self.has_room(key.source, ONE_MORE) {
                    return Turn::Refuse(DropReason::FragmentLimit);
                }
                if let Some(Datagram::Waiting { held, .. }) = self.datagrams.get_mut(&key) {
                    held.push(Buffer::from_bytes(buffer.bytes()));
                    self.book(key.source, Load::default(), ONE_MORE);
                }
                Turn::Wait
            }
            None => {
                let held = vec![Buffer::from_bytes(buffer.bytes())];
                let waiting = Datagram::Waiting { held, since: now };
                if !self.make_room(key.source, waiting.load()) {
                    return Turn::Refuse(DropReason::FragmentLimit);
                }
                self.insert(key, waiting);
                Turn::Wait
            }
        }
    }

    /// The first fragment is decided: keep that, and return those that waited.
    fn first(&mut self, key: Key, decided: Decided, fragment: Fragment) -> Result<Vec<Buffer>, DropReason> {
        if let Some(Datagram::Decided(before)) = self.datagrams.get_mut(&key)
            && !before.settled()
        {
            let was = before.load();
            before.count(fragment);
            let (is, contradicts) = (before.load(), before.contradicts);
            self.book(key.source, was, is);
            return if contradicts { Err(DropReason::FragmentOverlap) } else { Ok(Vec::new()) };
        }
        let datagram = Datagram::Decided(decided);
        if !self.datagrams.contains_key(&key) && !self.make_room(key.source, datagram.load()) {
            return Err(DropReason::FragmentLimit);
        }
        match self.insert(key, datagram) {
            Some(Datagram::Waiting { held, .. }) => Ok(held),
            Some(Datagram::Decided(_)) | None => Ok(Vec::new()),
        }
    }

    /// See [`Fragments::expire`].
    fn expire(&mut self, now: Time) -> usize {
        if self.due.is_none_or(|due| now < due) {
            return 0;
        }
        let ended: Vec<_> = self.datagrams.extract_if(|_, datagram| datagram.ends() <= now).collect();
        let held = self.load.held;
        for (key, datagram) in &ended {
            self.book(key.source, datagram.load(), Load::default());
        }
        let due = self.datagrams.values().map(Datagram::ends).min();
        self.due = due.map(|due| due.max(now + GRAIN));
        held - self.load.held
    }
}

/// Datagrams whose fragments are under way.
#[derive(Debug)]
pub struct Fragments {
    inside: Table,
    outside: Table,
    host: Table,
    identifications: Identifications,
}

/// What a fragment's bookkeeping says.
enum Turn {
    Follow(Decision),
    Wait,
    Refuse(DropReason),
}

impl Fragments {
    /// None under way; identifications follow from the seed.
    pub fn new(seed: &[u8; 32]) -> Self {
        Fragments {
            inside: Table { hosts: Some(HashMap::new()), ..Table::default() },
            outside: Table::default(),
            host: Table::default(),
            identifications: Identifications::new(seed),
        }
    }

    fn table(&mut self, from: LinkId) -> &mut Table {
        match from {
            INSIDE => &mut self.inside,
            HOST => &mut self.host,
            _ => &mut self.outside,
        }
    }

    /// Forgets what has taken too long; returns how many held fragments were lost with it.
    pub fn expire(&mut self, now: Time) -> usize {
        [&mut self.inside, &mut self.outside, &mut self.host].map(|table| table.expire(now)).iter().sum()
    }

    /// Forgets what has been decided: it need not hold any more. The rest of those datagrams waits
    /// in vain.
    pub fn forget_decisions(&mut self) {
        for table in [&mut self.inside, &mut self.outside, &mut self.host] {
            let decided = |_: &Key, datagram: &mut Datagram| matches!(datagram, Datagram::Decided(_));
            let gone: Vec<_> = table.datagrams.extract_if(decided).collect();
            for (key, datagram) in gone {
                table.book(key.source, datagram.load(), Load::default());
            }
        }
    }

    /// When [`Fragments::expire`] has something to do next.
    pub fn next_deadline(&self) -> Option<Time> {
        [self.inside.due, self.outside.due, self.host.due].into_iter().flatten().min()
    }

    /// An identification for a datagram of IPv4 that is whole, and may be cut on its way.
    #[inline]
    pub(super) fn next_identification(&mut self) -> u32 {
        u32::from(self.identifications.draw_short())
    }

    /// The identification with which this datagram leaves: what its first fragment has been given
    /// if that comes once more, else a new one.
    fn identification(&mut self, from: LinkId, key: &Key) -> u32 {
        let known = match self.table(from).datagrams.get(key) {
            Some(Datagram::Decided(Decided { decision: Decision::Translate { edit, .. }, .. })) => {
                edit.identification
            }
            _ => None,
        };
        known.unwrap_or_else(|| self.identifications.draw())
    }
}

impl Gateway {
    /// What is to be done with a fragment: its datagram's decision, or the fate it meets here.
    /// When a first fragment comes, those that waited for it go out behind it.
    #[allow(clippy::too_many_arguments, reason = "the arguments of the packet walk and the fragment")]
    pub(super) fn fragment_decision(
        &mut self,
        from: LinkId,
        packet: &Packet,
        fragment: Fragment,
        buffer: &Buffer,
        now: Time,
        out: &mut Outbox,
        seen: &mut impl Observer,
    ) -> Result<Decision, Fate> {
        let key = Key {
            source: packet.summary.source(),
            destination: packet.summary.destination(),
            // In IPv6 the later fragments need not know it (RFC 8200 §4.5).
            protocol: if packet.is_ipv6() { Protocol::Other(0) } else { packet.summary.protocol() },
            identification: packet.identification,
        };
        if fragment.offset > 0 {
            return match self.fragments.table(from).later(key, fragment, buffer, now) {
                Turn::Follow(decision) => Ok(decision),
                Turn::Wait => Err(Fate::Held),
                Turn::Refuse(reason) => Err(Fate::Dropped(reason)),
            };
        }
        let decision = match from {
            INSIDE => self.nat.outbound(&packet.summary, now, seen),
            HOST => self.nat.from_host(&packet.summary, now, seen),
            _ => self.nat.inbound(&packet.summary, now, seen),
        };
        if let Decision::Lease(protocol, outside) = decision {
            return Err(Fate::Wants(protocol, outside));
        }
        let decision = self.with_identification(decision, from, &key);
        let mut decided = Decided {
            decision: portless(decision),
            since: now,
            seen: Coverage::default(),
            whole: None,
            contradicts: false,
        };
        decided.count(fragment);
        let waited = self.fragments.table(from).first(key, decided, fragment).map_err(Fate::Dropped)?;
        for held in waited {
            self.release(from, held, now, out, seen);
        }
        Ok(decision)
    }

    fn with_identification(&mut self, decision: Decision, from: LinkId, key: &Key) -> Decision {
        match decision {
            Decision::Translate { mut edit, exit } => {
                // What keeps its source keeps its sender's identification.
                if (exit == Exit::Outside || exit == Exit::Hairpin) && edit.source.is_some() {
                    edit.identification = Some(self.fragments.identification(from, key));
                }
                Decision::Translate { edit, exit }
            }
            other @ (Decision::Refuse(_) | Decision::Lease(..)) => other,
        }
    }

    /// Sends a fragment that waited on the way of its datagram, which is decided.
    fn release(
        &mut self,
        from: LinkId,
        mut held: Buffer,
        now: Time,
        out: &mut Outbox,
        seen: &mut impl Observer,
    ) {
        let Ok(packet) = Packet::parse(held.bytes(), &held.offload) else { return };
        let fate = match (from, packet.summary) {
            (INSIDE, Summary::Data(_)) => self.forward_out(&packet, &mut held, now, out, seen),
            _ => self.forward_in(from, &packet, &mut held, now, out, seen),
        };
        match fate {
            Fate::Pass(to) => {
                self.counters.passed(super::way(from, to), packet.length as usize);
                out.push(to, held);
            }
            Fate::Cut(to) => self.counters.passed(super::way(from, to), packet.length as usize),
            Fate::Dropped(reason) => self.counters.dropped(reason),
            // Only a first fragment opens anything, so none of these wants a port.
            Fate::Held | Fate::Taken(_) | Fate::Wants(..) => {}
        }
    }
}

/// The decision for fragments without ports: addresses only.
fn portless(decision: Decision) -> Decision {
    let bare = |endpoint: Option<Endpoint>| endpoint.map(|endpoint| Endpoint { port: 0, ..endpoint });
    match decision {
        Decision::Translate { edit, exit } => Decision::Translate {
            edit: Edit {
                source: bare(edit.source),
                destination: bare(edit.destination),
                quoted: None,
                ..edit
            },
            exit,
        },
        other @ (Decision::Refuse(_) | Decision::Lease(..)) => other,
    }
}
