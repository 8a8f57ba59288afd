//! Fragments without reassembly: the first fragment of a datagram decides, the others follow it.
//!
//! Only the first fragment has ports. Its decision is kept under (link, source, destination,
//! protocol, identification) and gives later fragments the same addresses. A fragment that comes
//! before its first one is held for a short time and follows as soon as the first one is there.
//! Memory is bounded twice: by the number of datagrams and by the number of held fragments; when
//! a bound is met, what is newest is dropped, so that a flood cannot push out a datagram that is
//! under way (RFC 4787 REQ-14a). Datagrams that have passed whole, and refused ones, are kept for
//! the sake of duplicates only and make room first.
//!
//! Each datagram leaves with an identification of its own, since two inside hosts may use the
//! same one towards one remote (RFC 6864 §5.3.1); a first fragment that comes twice gets the same
//! one twice.

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
/// Datagrams under way at a time.
const DATAGRAMS: usize = 4096;
/// Settled datagrams that make it worth while to look for them all.
const SWEEP: usize = DATAGRAMS / 4;
/// Datagrams whose first fragment has not come, at a time.
const ORPHANS: usize = 256;
/// Fragments held for one datagram: 64 KiB at the least MTU a sender would use.
const HELD: usize = 64;
/// Fragments held in all.
const HELD_IN_ALL: usize = 1024;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Key {
    from: LinkId,
    source: IpAddr,
    destination: IpAddr,
    protocol: Protocol,
    identification: u16,
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
    /// Bytes of payload that have come. Duplicates are counted too, so it may look whole too early.
    seen: u32,
    /// Bytes of payload in all, as the last fragment says.
    whole: Option<u32>,
}

impl Decided {
    /// Whether it is there for late duplicates only: refused, or passed whole.
    fn settled(&self) -> bool {
        let refused = matches!(self.decision, Decision::Refuse(_));
        refused || self.whole.is_some_and(|whole| self.seen >= whole)
    }

    fn count(&mut self, fragment: Fragment, length: u32) {
        self.seen = self.seen.saturating_add(length);
        if !fragment.more {
            self.whole = Some(u32::from(fragment.offset) + length);
        }
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
}

/// Datagrams whose fragments are under way.
#[derive(Debug)]
pub struct Fragments {
    datagrams: HashMap<Key, Datagram>,
    orphans: usize,
    settled: usize,
    held: usize,
    identification: u16,
    /// When something may end; may be early.
    due: Option<Time>,
}

/// What a fragment's bookkeeping says.
enum Turn {
    Follow(Decision),
    Wait,
    Refuse(DropReason),
}

impl Fragments {
    /// None under way; identifications start somewhere that the seed says.
    pub fn new(seed: &[u8; 32]) -> Self {
        Fragments {
            datagrams: HashMap::new(),
            orphans: 0,
            settled: 0,
            held: 0,
            identification: u16::from_le_bytes([seed[7], seed[19]]),
            due: None,
        }
    }

    /// A later fragment: follow the first, or wait for it. `length` is that of its payload.
    fn later(&mut self, key: Key, fragment: Fragment, length: u32, buffer: &Buffer, now: Time) -> Turn {
        match self.datagrams.get_mut(&key) {
            Some(Datagram::Decided(decided)) => {
                let was = decided.settled();
                decided.count(fragment, length);
                self.settled += usize::from(decided.settled() && !was);
                Turn::Follow(decided.decision)
            }
            Some(Datagram::Waiting { held, .. }) => {
                if held.len() >= HELD || self.held >= HELD_IN_ALL {
                    return Turn::Refuse(DropReason::FragmentLimit);
                }
                held.push(Buffer::from_bytes(buffer.bytes()));
                self.held += 1;
                Turn::Wait
            }
            None => {
                let full = self.orphans >= ORPHANS || self.held >= HELD_IN_ALL;
                if full || !self.make_room() {
                    return Turn::Refuse(DropReason::FragmentLimit);
                }
                let held = vec![Buffer::from_bytes(buffer.bytes())];
                self.insert(key, Datagram::Waiting { held, since: now });
                self.orphans += 1;
                self.held += 1;
                Turn::Wait
            }
        }
    }

    /// The first fragment's decision is known: keep it, and return those that waited.
    fn first(
        &mut self,
        key: Key,
        decision: Decision,
        length: u32,
        now: Time,
    ) -> Result<Vec<Buffer>, DropReason> {
        if !self.datagrams.contains_key(&key) && !self.make_room() {
            return Err(DropReason::FragmentLimit);
        }
        let decided = Datagram::Decided(Decided { decision, since: now, seen: length, whole: None });
        self.settled += usize::from(decided.settled());
        match self.insert(key, decided) {
            Some(Datagram::Waiting { held, .. }) => {
                self.orphans -= 1;
                self.held -= held.len();
                Ok(held)
            }
            Some(before @ Datagram::Decided(_)) => {
                self.settled -= usize::from(before.settled());
                Ok(Vec::new())
            }
            None => Ok(Vec::new()),
        }
    }

    /// Whether there is room for another datagram. What is settled goes if there is enough of it
    /// to be worth the look.
    fn make_room(&mut self) -> bool {
        if self.datagrams.len() >= DATAGRAMS && self.settled >= SWEEP {
            self.datagrams.retain(|_, datagram| !datagram.settled());
            self.settled = 0;
        }
        self.datagrams.len() < DATAGRAMS
    }

    fn insert(&mut self, key: Key, datagram: Datagram) -> Option<Datagram> {
        let ends = datagram.ends();
        self.due = Some(self.due.map_or(ends, |due| due.min(ends)));
        self.datagrams.insert(key, datagram)
    }

    /// Forgets what has taken too long; returns how many held fragments were lost with it.
    pub fn expire(&mut self, now: Time) -> usize {
        if self.due.is_none_or(|due| now < due) {
            return 0;
        }
        let held = self.held;
        let (mut orphans, mut settled, mut left) = (0, 0, 0);
        self.datagrams.retain(|_, datagram| {
            let keep = datagram.ends() > now;
            settled += usize::from(keep && datagram.settled());
            if let (true, Datagram::Waiting { held, .. }) = (keep, &*datagram) {
                orphans += 1;
                left += held.len();
            }
            keep
        });
        (self.orphans, self.settled, self.held) = (orphans, settled, left);
        self.due = self.datagrams.values().map(Datagram::ends).min();
        held - left
    }

    /// When [`Fragments::expire`] has something to do next.
    pub fn next_deadline(&self) -> Option<Time> {
        self.due
    }

    /// An identification for a datagram that leaves in fragments.
    pub(super) fn next_identification(&mut self) -> u16 {
        self.identification = self.identification.wrapping_add(1);
        self.identification
    }

    /// The identification with which this datagram leaves: what its first fragment has been given
    /// if that comes once more, else a new one.
    fn identification(&mut self, key: &Key) -> u16 {
        let known = match self.datagrams.get(key) {
            Some(Datagram::Decided(Decided { decision: Decision::Translate { edit, .. }, .. })) => {
                edit.identification
            }
            _ => None,
        };
        known.unwrap_or_else(|| self.next_identification())
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
            from,
            source: packet.summary.source(),
            destination: packet.summary.destination(),
            protocol: packet.summary.protocol(),
            identification: packet.identification,
        };
        let length = packet.length - u32::from(packet.header);
        if fragment.offset > 0 {
            return match self.fragments.later(key, fragment, length, buffer, now) {
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
        let decision = self.with_identification(decision, &key);
        let waited = self.fragments.first(key, portless(decision), length, now).map_err(Fate::Dropped)?;
        for held in waited {
            self.release(from, held, now, out, seen);
        }
        Ok(decision)
    }

    fn with_identification(&mut self, decision: Decision, key: &Key) -> Decision {
        match decision {
            Decision::Translate { mut edit, exit } => {
                if exit == Exit::Outside || exit == Exit::Hairpin {
                    edit.identification = Some(self.fragments.identification(key));
                }
                Decision::Translate { edit, exit }
            }
            refuse @ Decision::Refuse(_) => refuse,
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
            Fate::Dropped(reason) => self.counters.dropped(reason),
            Fate::Cut(_) | Fate::Held | Fate::Taken(_) => {}
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
        refuse @ Decision::Refuse(_) => refuse,
    }
}
