//! Keeps a flood of bad packets from costing others their share: says what the links may leave unread.
//!
//! A packet that is dropped here has cost a system call and a walk through the checks; a kernel that is
//! told beforehand drops it for the processor time of who sent it. So while more packets are dropped than
//! [`TOO_MANY`] a second,
//!
//! * **inside**, of the frames of each [`Source`] that sends most of them only one in [`ONE_IN`] is read; if
//!   they come from ever new MACs, one in [`ONE_IN`] of all that are not from hosts which were served before;
//! * **outside**, where sources can be forged, all packets to ports that were in use lately or have an idle
//!   mapping are read, and one in [`ONE_IN`] of the rest.
//!
//! The packets that are still read tell when the flood is over.

mod gate;
mod guests;
mod in_use;

pub use guests::MOST_GUESTS;
pub use in_use::{InUse, MOST_RANGES};

use super::{DropReason, Gateway, INSIDE, OUTSIDE};
use crate::flow::{LinkId, Protocol, Time};
use crate::wire::ethernet::MacAddr;
use gate::Gate;
use guests::Guests;
use in_use::Ports;
use std::time::Duration;

/// Dropped packets a second from which on a link is flooded: a few hundredths of a processor.
pub const TOO_MANY: u32 = 50_000;
/// What is left of a flood that the kernel thins out: one packet in so many, a power of two.
pub const ONE_IN: u32 = 64;

/// How long packets are counted before it is said that they are too many.
const WINDOW: Duration = Duration::from_millis(20);
/// How long a restriction lasts before it is seen whether it is still needed.
const SPELL: Duration = Duration::from_secs(1);
/// Sources that are counted at once, and restricted at once. Who has an eighth of what is dropped is
/// certainly found among so many (Misra and Gries, 1982).
const SOURCES: usize = 16;
const SHARE: u32 = 8;

/// Whose frames are counted together inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// One MAC's.
    Mac(MacAddr),
    /// Those that come by this port of a switch of ours, whatever MAC they bear.
    Port(u16),
    /// Those to other hosts, which a bridge sends to all of its ports while it does not know where the
    /// receiver is. Who sent them has done nothing wrong.
    Astray,
    /// Those of MACs that nothing was forwarded for: there are too many to restrict each.
    Strangers,
}

impl Source {
    /// Of a frame that was dropped.
    fn new(port: Option<u16>, mac: MacAddr, why: DropReason) -> Source {
        match (port, why) {
            (Some(port), _) => Source::Port(port),
            (None, DropReason::OtherMac) => Source::Astray,
            (None, _) => Source::Mac(mac),
        }
    }
}

/// What links are to read of a flood.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Admission {
    /// Who sends most of what is dropped, in no order: of their frames one in [`ONE_IN`].
    pub flooders: Vec<Source>,
    /// Whose frames are read whole inside, ascending, if there are too many flooders to tell.
    pub guests: Option<Vec<MacAddr>>,
    /// What is in use outside, if only that is to be read whole.
    pub outside: Option<InUse>,
}

#[derive(Clone, Copy, Debug)]
struct Flooder {
    source: Source,
    since: Time,
    read: u32,
}

/// Whether trying to leave something unread makes sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Hopeless {
    #[default]
    Never,
    Before(Time),
    Always,
}

impl Hopeless {
    fn is(self, now: Time) -> bool {
        self == Hopeless::Always || matches!(self, Hopeless::Before(then) if now < then)
    }
}

/// Counts what is dropped, and says what to leave unread.
#[derive(Debug, Default)]
pub struct Overload {
    /// Since when the windows last.
    inside_since: Time,
    inside_read: u32,
    sources: Vec<(Source, u32)>,
    flooders: Vec<Flooder>,
    strangers: Gate<Guests>,
    outside_since: Time,
    outside_read: u32,
    outside: Gate<Box<Ports>>,
    /// Until when nothing can be left unread of each link.
    hopeless: [Hopeless; 2],
    changed: bool,
    left_inside: u64,
    left_outside: u64,
}

fn too_many(count: u32, window: Duration) -> bool {
    u128::from(count) * Duration::from_secs(1).as_nanos() > u128::from(TOO_MANY) * window.as_nanos()
}

/// Whether what is read of a restricted source, one packet in [`ONE_IN`], is a flood no more.
fn is_over(read: u32) -> bool {
    u64::from(read) * u64::from(ONE_IN) * 4 < u64::from(TOO_MANY)
}

impl Overload {
    /// Whether ports in use are to be told by [`Overload::used`].
    pub fn wants_ports(&self) -> bool {
        !self.outside.is_open()
    }

    /// Notes that a session of this outside port had a packet.
    pub fn used(&mut self, protocol: Protocol, port: u16, now: Time) {
        // Before the packet leaves that the first answer is to.
        self.changed |= self.outside.note(now, |ports| ports.note(protocol, port));
    }

    /// Whether hosts are to be told by [`Overload::served`].
    pub fn wants_guests(&self) -> bool {
        !self.strangers.is_open()
    }

    /// Notes that something was forwarded for an inside host.
    pub fn served(&mut self, mac: MacAddr, now: Time) {
        self.changed |= self.strangers.note(now, |guests| guests.note(mac));
    }

    /// Notes that a packet was dropped. Inside, `port` and `mac` are whence the frame came.
    pub fn dropped(&mut self, from: LinkId, port: Option<u16>, mac: MacAddr, why: DropReason, now: Time) {
        match from {
            INSIDE if !self.hopeless[0].is(now) => self.dropped_inside(Source::new(port, mac, why), now),
            OUTSIDE if !self.hopeless[1].is(now) => self.dropped_outside(now),
            _ => {}
        }
    }

    fn dropped_inside(&mut self, source: Source, now: Time) {
        if let Some(known) = self.flooders.iter_mut().find(|flooder| flooder.source == source) {
            known.read += 1;
            self.left_inside += u64::from(ONE_IN) - 1;
            return;
        }
        if let Source::Mac(mac) = source
            && let Some(narrow) = self.strangers.narrow()
            && !narrow.seen.has(mac)
        {
            narrow.dropped();
            self.left_inside += u64::from(ONE_IN) - 1;
            return;
        }
        let passed = now.since(self.inside_since);
        if passed >= WINDOW {
            if too_many(self.inside_read, passed) && !self.restrict_sources(now) {
                self.strangers.narrow_down(Guests::default, now);
            }
            (self.inside_since, self.inside_read) = (now, 0);
            self.sources.clear();
        }
        self.inside_read += 1;
        if let Some((_, count)) = self.sources.iter_mut().find(|(known, _)| *known == source) {
            *count += 1;
        } else if self.sources.len() < SOURCES {
            self.sources.push((source, 1));
        } else {
            self.sources.iter_mut().for_each(|(_, count)| *count -= 1);
            self.sources.retain(|(_, count)| *count > 0);
        }
    }

    /// Restricts who sends most; false if nobody stands out.
    fn restrict_sources(&mut self, now: Time) -> bool {
        let before = self.flooders.len();
        // What such a table counts of a source is too little by a share of 1 / (SOURCES + 1) at most.
        let least = self.inside_read / SHARE - self.inside_read / (SOURCES as u32 + 1);
        for (source, count) in &self.sources {
            if *count >= least && self.flooders.len() < SOURCES {
                self.flooders.push(Flooder { source: *source, since: now, read: 0 });
                self.changed = true;
            }
        }
        self.flooders.len() > before
    }

    fn dropped_outside(&mut self, now: Time) {
        if let Some(narrow) = self.outside.narrow() {
            narrow.dropped();
            self.left_outside += u64::from(ONE_IN) - 1;
            return;
        }
        let passed = now.since(self.outside_since);
        if passed >= WINDOW {
            if too_many(self.outside_read, passed) {
                self.outside.narrow_down(Ports::new, now);
            }
            (self.outside_since, self.outside_read) = (now, 0);
        }
        self.outside_read += 1;
    }

    /// Does what time asks for.
    pub fn tick(&mut self, now: Time) {
        for flooder in &mut self.flooders {
            if now.since(flooder.since) >= SPELL && !is_over(flooder.read) {
                (flooder.since, flooder.read) = (now, 0);
            }
        }
        let before = self.flooders.len();
        self.flooders.retain(|flooder| now.since(flooder.since) < SPELL);
        self.changed |= self.flooders.len() != before;
        self.changed |= self.strangers.tick(now) | self.outside.tick(now);
    }

    /// When [`Overload::tick`] has something to do.
    pub fn next_deadline(&self) -> Option<Time> {
        let inside = self.flooders.iter().map(|flooder| flooder.since + SPELL).min();
        let gates = [self.strangers.next_deadline(), self.outside.next_deadline()];
        inside.into_iter().chain(gates.into_iter().flatten()).min()
    }

    /// About how many packets were left unread inside and outside: for each that was read of a flood,
    /// those that it stands for.
    pub fn left_unread(&self) -> (u64, u64) {
        (self.left_inside, self.left_outside)
    }
}

impl Gateway {
    /// What the links are to read of what comes, if that has changed.
    pub fn admission(&mut self) -> Option<Admission> {
        if !std::mem::take(&mut self.overload.changed) {
            return None;
        }
        let outside = self.overload.outside.narrow().map(|narrow| {
            if std::mem::take(&mut narrow.stale) {
                narrow.seen.set_mapped(self.nat.mapped_ports());
            }
            let published = self.nat.published();
            narrow.seen.in_use(published.iter().map(|(protocol, outside, _)| (*protocol, outside.port)))
        });
        let guests = self.overload.strangers.narrow().map(|narrow| {
            narrow.seen.set_neighbors(|| self.neighbors.macs(MOST_GUESTS));
            narrow.seen.list()
        });
        let flooders = self.overload.flooders.iter().map(|flooder| flooder.source).collect();
        Some(Admission { flooders, guests, outside })
    }

    /// Whether [`Gateway::admission`] has something to say, which should be done before a packet is sent.
    pub fn admission_changed(&self) -> bool {
        self.overload.changed
    }

    /// See [`Overload::left_unread`].
    pub fn left_unread(&self) -> (u64, u64) {
        self.overload.left_unread()
    }

    /// Takes that nothing that comes by `link` can be left unread: not before so much time, or never.
    pub fn cannot_restrict(&mut self, link: LinkId, again: Option<Duration>, now: Time) {
        let hopeless = again.map_or(Hopeless::Always, |again| Hopeless::Before(now + again));
        match link {
            INSIDE => {
                self.overload.hopeless[0] = hopeless;
                self.overload.flooders.clear();
                self.overload.strangers = Gate::Open;
                self.overload.left_inside = 0;
            }
            _ => {
                self.overload.hopeless[1] = hopeless;
                self.overload.outside = Gate::Open;
                self.overload.left_outside = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::RangeInclusive;

    const RED: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
    const BLUE: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);

    fn drop_one(overload: &mut Overload, from: LinkId, source: MacAddr, millis: u64) {
        overload.dropped(from, None, source, DropReason::ShortFrame, Time::from_millis(millis));
    }

    /// `per_second` packets of `source` are dropped in each of `times`.
    fn drop_some(
        overload: &mut Overload,
        from: LinkId,
        source: MacAddr,
        per_second: u64,
        times: RangeInclusive<u64>,
    ) {
        for millis in times {
            for _ in 0..per_second / 1000 {
                drop_one(overload, from, source, millis);
            }
            overload.tick(Time::from_millis(millis));
        }
    }

    fn flooders(overload: &Overload) -> Vec<Source> {
        overload.flooders.iter().map(|flooder| flooder.source).collect()
    }

    #[test]
    fn who_floods_is_restricted_alone_and_not_for_longer_than_it_floods() {
        let mut overload = Overload::default();
        for millis in 0..100 {
            drop_some(&mut overload, INSIDE, BLUE, 500_000, millis..=millis);
            drop_some(&mut overload, INSIDE, RED, 2_000, millis..=millis);
        }
        assert_eq!(flooders(&overload), [Source::Mac(BLUE)]);
        assert_eq!(overload.next_deadline(), Some(overload.flooders[0].since + SPELL));
        drop_some(&mut overload, INSIDE, BLUE, 500_000 / u64::from(ONE_IN), 100..=3000);
        assert_eq!(flooders(&overload), [Source::Mac(BLUE)], "what is read says that it goes on");
        assert!(overload.left_unread().0 > 1_000_000);
        drop_some(&mut overload, INSIDE, BLUE, 0, 3001..=5100);
        assert!(flooders(&overload).is_empty());
        assert_eq!(overload.next_deadline(), None);
    }

    #[test]
    fn who_speaks_to_others_is_not_blamed_and_a_port_is_whatever_its_macs_are() {
        let mut overload = Overload::default();
        for n in 0..6000u64 {
            let now = Time::from_millis(n / 60);
            overload.dropped(INSIDE, None, BLUE, DropReason::OtherMac, now);
            let [.., low] = n.to_be_bytes();
            overload.dropped(INSIDE, Some(3), MacAddr([2, 0, 0, 0, 0, low]), DropReason::ShortFrame, now);
        }
        assert_eq!(flooders(&overload), [Source::Astray, Source::Port(3)]);
    }

    #[test]
    fn a_noisy_host_is_no_flood() {
        let mut overload = Overload::default();
        drop_some(&mut overload, INSIDE, BLUE, u64::from(TOO_MANY) - 2000, 0..=500);
        drop_some(&mut overload, OUTSIDE, BLUE, u64::from(TOO_MANY) - 2000, 0..=500);
        assert!(flooders(&overload).is_empty() && !overload.wants_ports() && !overload.changed);
    }

    #[test]
    fn many_macs_do_not_hide_who_floods() {
        let mut overload = Overload::default();
        for millis in 0..100u64 {
            for n in 0..600u64 {
                let [.., high, low] = (millis * 600 + n).to_be_bytes();
                let source = if n % 4 == 0 { BLUE } else { MacAddr([2, 0, 0, 9, high, low]) };
                drop_one(&mut overload, INSIDE, source, millis);
            }
        }
        assert!(flooders(&overload).contains(&Source::Mac(BLUE)));
        assert!(overload.flooders.len() <= SOURCES && overload.sources.len() <= SOURCES);
    }

    #[test]
    fn of_ever_new_macs_all_are_left_but_hosts_that_are_served() {
        let mut overload = Overload::default();
        let from_new_macs = |overload: &mut Overload, per_milli: u64, times: RangeInclusive<u64>| {
            for millis in times {
                for n in 0..per_milli {
                    let [.., high, low] = n.to_be_bytes();
                    drop_one(overload, INSIDE, MacAddr([2, 0, 0, 9, high, low]), millis);
                }
                overload.tick(Time::from_millis(millis));
            }
        };
        from_new_macs(&mut overload, 60, 0..=30);
        assert!(overload.wants_guests() && !overload.changed, "everything is read while hosts are learnt");
        overload.served(RED, Time::from_millis(31));
        from_new_macs(&mut overload, 60, 31..=100);
        assert!(std::mem::take(&mut overload.changed) && flooders(&overload).is_empty());
        overload.served(RED, Time::from_millis(101));
        assert!(!overload.changed, "it is known");
        overload.served(BLUE, Time::from_millis(102));
        assert!(std::mem::take(&mut overload.changed), "before its packet leaves");
        assert_eq!(overload.strangers.narrow().unwrap().seen.list(), [RED, BLUE]);
        let (before, _) = overload.left_unread();
        drop_some(&mut overload, INSIDE, BLUE, 100_000, 103..=200);
        assert_eq!(flooders(&overload), [Source::Mac(BLUE)], "a host that is known is restricted alone");
        from_new_macs(&mut overload, 2, 201..=3000);
        assert!(
            overload.wants_guests() && overload.left_unread().0 > before,
            "what is read says that it goes on"
        );
        drop_some(&mut overload, INSIDE, RED, 0, 3001..=6000);
        assert!(!overload.wants_guests() && flooders(&overload).is_empty());
    }

    #[test]
    fn ports_in_use_are_learnt_before_the_rest_is_left() {
        let mut overload = Overload::default();
        drop_some(&mut overload, OUTSIDE, BLUE, 500_000, 0..=30);
        assert!(overload.wants_ports() && !overload.changed, "everything is read while ports are learnt");
        overload.used(Protocol::Tcp, 4000, Time::from_millis(31));
        overload.tick(Time::from_millis(200));
        assert!(std::mem::take(&mut overload.changed));
        overload.used(Protocol::Tcp, 4000, Time::from_millis(202));
        assert_eq!(overload.next_deadline(), Some(Time::from_millis(1200)), "nothing new");
        assert!(!overload.changed);
        overload.used(Protocol::Other(47), 5000, Time::from_millis(203));
        assert!(std::mem::take(&mut overload.changed), "before the packet leaves");
        (0..gate::BURST as u16 - 1)
            .for_each(|n| overload.used(Protocol::Udp, 5001 + n, Time::from_millis(203)));
        overload.changed = false;
        overload.used(Protocol::Udp, 6000, Time::from_millis(203));
        overload.used(Protocol::Udp, 6001, Time::from_millis(204));
        assert!(!overload.changed, "too many at once");
        assert_eq!(overload.next_deadline(), Some(Time::from_millis(208)));
        overload.tick(Time::from_millis(208));
        assert!(std::mem::take(&mut overload.changed));
        let ports = &overload.outside.narrow().unwrap().seen;
        let published = [(Protocol::Tcp, 80), (Protocol::Udp, 4001)];
        let expected =
            InUse { ports: vec![80..=80, 4000..=4001, 5001..=5049, 6000..=6001], protocols: vec![47] };
        assert_eq!(ports.in_use(published.into_iter()), expected);
        drop_some(&mut overload, OUTSIDE, BLUE, 10_000, 207..=1300);
        assert!(overload.wants_ports());
        drop_some(&mut overload, OUTSIDE, BLUE, 0, 1301..=4000);
        assert!(!overload.wants_ports() && overload.changed);
    }
}
