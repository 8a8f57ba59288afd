//! The loop: wait, receive, decide, send; and between bursts of packets everything else.
//!
//! One thread does it all. A turn takes at most `BURST` packets or `BURST_BYTES` from each
//! link, then the other links have theirs, so that no direction starves another and commands,
//! timers and port leases are never far away. A super-frame is read, edited and sent at once, in
//! one buffer that stays in the cache.

use super::clock::Clock;
use super::host::Host;
use super::links::{Links, Turned};
use super::mailbox::Mailbox;
use super::memory::PortMemory;
use super::pages::Pages;
use super::poller::{LINKS, Poller, Woken};
use super::sandbox;
use super::signals::Signals;
use super::spin::Spin;
use super::stock::Stock;
use super::{Counter, Member};
use crate::flow::{Endpoint, LinkId, Protocol, Summary, Time};
use crate::gateway::overload::Admission;
use crate::gateway::{Command, Fate, Gateway, INSIDE, OUTSIDE, Outbox, Reply};
use crate::io::ending::Ending;
use crate::io::guard::Guard;
use crate::io::netlink::{Change, Watcher};
use crate::nat::{Observer, Step};
use crate::observe::event::{Event, Kind, Note, PacketSeen, What};
use crate::observe::{Feed, FlowBoard};
use crate::wire::{Buffer, Packet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Packets from one link in a turn.
const BURST: usize = 64;
/// Bytes from one link in a turn.
const BURST_BYTES: usize = 256 * 1024;
/// Sessions copied for readers in a turn.
const BOARD_PAGE: usize = 512;
/// How long the readers' table is kept after the last request.
const BOARD_KEPT: Duration = Duration::from_secs(10);
/// How often leased ports are looked through for some to give back.
pub(super) const SHRINK: Duration = Duration::from_secs(5);
/// How often a link that is down is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Ports that are asked of the host for one packet, before it is dropped.
const LEASES_OF_A_PACKET: usize = 8;

/// A sleep of the host that is worth a word.
const A_NAP: Duration = Duration::from_secs(2);

/// Why the loop ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ended {
    /// A signal, by its name.
    Signal(&'static str),
    /// What it may not outlive has ended; what that was.
    Over(String),
}

/// All that one worker owns.
#[derive(Debug)]
pub struct Worker {
    /// The box.
    pub gateway: Gateway,
    /// Its links.
    pub links: Links,
    /// The ports it holds.
    pub guard: Guard,
    /// The ports it will ask for; `None` where none need asking.
    pub stock: Option<Stock>,
    /// What wakes it.
    pub poller: Poller,
    /// Commands.
    pub mailbox: Mailbox,
    /// The readers' table.
    pub board: Arc<FlowBoard>,
    /// The watchers.
    pub feed: Feed,
    /// The time.
    pub clock: Clock,
    /// SIGINT and SIGTERM.
    pub signals: Signals,
    /// What the gateway may not outlive.
    pub endings: Vec<Ending>,
    /// What others count.
    pub counters: Vec<Counter>,
    /// The ends of single namespaces where there are several.
    pub members: Vec<Member>,
    /// Tells of changed interfaces, addresses and routes.
    pub watcher: Watcher,
    /// What it made on the host, and what it needs to know of it.
    pub host: Host,
    /// Which ports are in use, for a successor; `None` where that cannot be noted.
    pub memory: Option<PortMemory>,
    /// What is not for every turn.
    pub chores: Chores,
}

/// When what is not for every turn was done, and what is under way.
#[derive(Debug, Default)]
pub struct Chores {
    spin: Spin,
    /// The last turn had packets.
    pub(super) busy: bool,
    sweep: Option<u32>,
    swept: Option<Time>,
    pub(super) shrunk: Time,
    retried: Time,
    pub(super) lease_failing: bool,
    pub(super) more_leases: bool,
    refused_calls: u64,
    slept: Duration,
    looked: Time,
    pub(super) admission: Admission,
    pages: Pages,
}

impl Chores {
    /// Nothing is under way, and the host has slept for so long before.
    pub fn awake(slept: Duration) -> Chores {
        Chores { slept, ..Chores::default() }
    }
}

/// Tells the watchers what the translator does.
pub(super) struct Watching<'a> {
    feed: &'a Feed,
    wanted: bool,
}

impl Watching<'_> {
    pub(super) fn new(feed: &Feed) -> Watching<'_> {
        let kinds = [Kind::Opened, Kind::Changed, Kind::Closed, Kind::Refused];
        let wanted = kinds.into_iter().any(|kind| feed.listeners(kind) > 0);
        Watching { feed, wanted: wanted || tracing::enabled!(tracing::Level::DEBUG) }
    }
}

impl Observer for Watching<'_> {
    fn wants(&self) -> bool {
        self.wanted
    }

    fn step(&mut self, step: Step, now: Time) {
        tracing::debug!(?step);
        let event = Event::from_step(step, now);
        if let What::Note(note) = &event.what {
            tracing::info!("{}", note.text());
        }
        self.feed.push(event);
    }
}

impl Worker {
    /// Serves until a signal comes, or one of `endings`.
    ///
    /// # Errors
    /// If waiting itself fails.
    pub fn run(&mut self) -> io::Result<Ended> {
        let mut packet = Buffer::new();
        let mut out = Outbox::default();
        self.gateway.greet(&mut out);
        self.flush(&mut out, self.clock.now());
        loop {
            let woken = self.wait()?;
            let now = self.clock.now();
            self.links.tick(now);
            self.links.wake(&mut self.poller);
            let mut took = false;
            for link in (0..LINKS as u8).map(LinkId) {
                if self.poller.is_ready(link) {
                    took |= self.turn(link, &mut packet, now, &mut out);
                }
            }
            self.chores.busy = took;
            if took {
                self.chores.spin.packets(now);
            }
            self.flush(&mut out, now);
            if let Some(ended) = self.ended(woken) {
                let why = match &ended {
                    Ended::Signal(name) => (*name).to_owned(),
                    Ended::Over(what) => what.clone(),
                };
                self.note(Note::Stopping(why), now);
                self.gateway.farewell(&mut out);
                self.flush(&mut out, now);
                return Ok(ended);
            }
            self.between_bursts(woken, &mut out);
        }
    }

    /// Whether this turn is the last one.
    fn ended(&mut self, woken: Woken) -> Option<Ended> {
        if woken.signal
            && let Some(name) = self.signals.take_one()
        {
            return Some(Ended::Signal(name));
        }
        if !woken.endings {
            return None;
        }
        let over =
            self.endings.iter_mut().find_map(|ending| ending.ended().then(|| ending.what().to_owned()));
        over.map(Ended::Over).or_else(|| self.part_members())
    }

    /// Takes the TAPs of namespaces away that have ended; with the last one the gateway ends.
    fn part_members(&mut self) -> Option<Ended> {
        let now = self.clock.now();
        let ended = |member: &mut Member| member.ending.ended();
        for member in self.members.extract_if(.., ended).collect::<Vec<_>>() {
            let what = member.ending.what().to_owned();
            let left = self.links.part(INSIDE, member.port);
            if left == 0 {
                return Some(Ended::Over(what));
            }
            self.note(Note::NamespaceGone(what, left), now);
        }
        None
    }

    /// Waits for something: looks again for a while if packets follow each other closely, then
    /// sleeps until the next deadline.
    fn wait(&mut self) -> io::Result<Woken> {
        self.links.wake(&mut self.poller);
        let until = self.chores.spin.until();
        while self.clock.now() < until {
            let woken = self.poller.wait(Some(Duration::ZERO))?;
            if woken != Woken::default() || self.poller.any_ready() {
                return Ok(woken);
            }
            if self.lease_one() {
                continue;
            }
            // The programs at both ends may need this processor.
            std::thread::yield_now();
        }
        self.poller.wait(self.timeout())
    }

    /// Ends everything but what is to be undone on the host.
    pub fn into_host(self) -> Host {
        self.host
    }

    /// One link's share of a turn; whether it had packets.
    fn turn(&mut self, link: LinkId, packet: &mut Buffer, now: Time, out: &mut Outbox) -> bool {
        let mut bytes = 0;
        for _ in 0..BURST {
            match self.links.receive(link, packet) {
                Turned::Packet => {}
                Turned::Unusable => continue,
                Turned::Empty => {
                    self.poller.set_ready(link, false);
                    break;
                }
                Turned::Down(why) => {
                    self.note(Note::LinkDown(self.links.name(link), why), now);
                    self.poller.set_ready(link, false);
                    break;
                }
            }
            bytes += packet.len();
            self.one_packet(link, packet, now, out);
            if bytes > BURST_BYTES {
                break;
            }
        }
        bytes > 0
    }

    fn one_packet(&mut self, link: LinkId, packet: &mut Buffer, now: Time, out: &mut Outbox) {
        let looking = self.feed.listeners(Kind::Packet) + self.feed.listeners(Kind::Dropped) > 0;
        let before = if looking { Some(self.look(link, packet)) } else { None };
        let fate = self.decide(link, packet, now, out);
        if let Some(before) = before {
            self.tell(before, fate, packet, now);
        }
        tracing::trace!(?link, ?fate);
        if let Fate::Pass(to) = fate {
            if self.gateway.admission_changed() {
                self.admit(now);
            }
            self.send(to, packet, now);
        }
        // What goes out behind this packet must not wait for the end of the burst: fragments that
        // waited for it keep their order.
        if !out.packets.is_empty() {
            self.flush(out, now);
        }
    }

    /// The fate of a packet; ports that it needs are asked of the host on the way.
    fn decide(&mut self, link: LinkId, packet: &mut Buffer, now: Time, out: &mut Outbox) -> Fate {
        for _ in 0..LEASES_OF_A_PACKET {
            let fate = self.gateway.receive(link, packet, now, out, &mut Watching::new(&self.feed));
            self.remember(now);
            let Fate::Wants(protocol, outside) = fate else { return fate };
            match &mut self.stock {
                Some(stock) => stock.on_demand(&mut self.gateway, &mut self.guard, protocol, outside, now),
                None => self.gateway.lease_refused(protocol, outside, now),
            }
        }
        self.gateway.give_up()
    }

    /// Notes what ports were taken and given up.
    fn remember(&mut self, now: Time) {
        if let Some(memory) = &mut self.memory {
            memory.note(&mut self.gateway, now);
        }
    }

    pub(super) fn flush(&mut self, out: &mut Outbox, now: Time) {
        for (link, mut packet) in out.packets.drain(..) {
            self.send(link, &mut packet, now);
        }
        for _ in 0..self.links.flush() {
            self.gateway.send_failed();
        }
    }

    fn send(&mut self, link: LinkId, packet: &mut Buffer, now: Time) {
        if link == OUTSIDE {
            let external = &self.gateway.config().nat.external;
            if let Some(new) = self.host.portless.first(self.links.ip(link, packet), external) {
                self.expect_answers(new, now);
            }
        }
        if !self.links.send(link, packet) {
            self.gateway.send_failed();
        }
    }

    /// A protocol without ports leaves for the first time: its answers may come in, and the host is
    /// to be silent about them.
    fn expect_answers(&mut self, (number, address): (u8, IpAddr), now: Time) {
        let (protocol, outside) = (Protocol::Other(number), Endpoint::new(address, 0));
        if let Err(error) = self.guard.lease(protocol, outside) {
            tracing::warn!("the host may answer {protocol} to {address} beside us: {error}");
        }
        self.let_in(now);
    }

    fn look(&self, link: LinkId, packet: &Buffer) -> Box<PacketSeen> {
        let bytes = self.links.ip(link, packet);
        let parsed = Packet::parse(bytes, &packet.offload).ok();
        Box::new(PacketSeen {
            fate: "",
            dropped: false,
            from: self.links.name(link),
            to: None,
            flow: parsed.map(|packet| packet.summary.flow()),
            translated: None,
            length: parsed.map_or(bytes.len() as u32, |packet| packet.length),
            before: PacketSeen::snap(bytes),
            after: Vec::new(),
        })
    }

    fn tell(&self, mut seen: Box<PacketSeen>, fate: Fate, packet: &Buffer, now: Time) {
        seen.dropped = matches!(fate, Fate::Dropped(_));
        seen.fate = match fate {
            Fate::Pass(_) => "translated",
            Fate::Cut(_) => "fragmented",
            Fate::Held => "held",
            Fate::Taken(answer) => answer.word(),
            Fate::Dropped(reason) => reason.word(),
            Fate::Wants(..) => "port-unleased",
        };
        if let Fate::Pass(to) = fate {
            let bytes = self.links.ip(to, packet);
            seen.to = Some(self.links.name(to));
            seen.translated = Packet::parse(bytes, &packet.offload).ok().map(|packet| match packet.summary {
                Summary::Data(data) => data.flow,
                Summary::Error(error) => error.about,
            });
            seen.after = PacketSeen::snap(bytes);
            if seen.flow.is_some() && seen.flow == seen.translated {
                seen.fate = "forwarded";
            }
        }
        self.feed.push(Event { at: now, what: What::Packet(seen) });
    }

    pub(super) fn note(&self, note: Note, now: Time) {
        match &note {
            Note::FloodOver(_)
            | Note::LinkUp(_)
            | Note::Reloaded(..)
            | Note::ResolverChanged(_)
            | Note::ResolverBack(_)
            | Note::NamespaceGone(..)
            | Note::Stopping(_) => {
                tracing::info!("{}", note.text());
            }
            _ => tracing::warn!("{}", note.text()),
        }
        self.feed.push(Event { at: now, what: What::Note(note) });
    }

    /// What is done between bursts: changed interfaces, commands, timers, leases, readers.
    fn between_bursts(&mut self, woken: Woken, out: &mut Outbox) {
        let now = self.clock.now();
        if woken.changes {
            self.read_changes();
        }
        self.revive(now);
        if woken.mailbox {
            self.read_mail(now);
        }
        if self.gateway.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.gateway.tick(now, out, &mut Watching::new(&self.feed));
            self.flush(out, now);
        }
        self.ask_another(now);
        self.admit(now);
        self.remember(now);
        self.lease_in_time(now);
        self.give_back(now);
        self.publish_board(now);
        self.chores.pages.look(self.gateway.sessions(), || self.gateway.spans());
        // The clock goes on while the host sleeps: no time for a nap has passed where none has been.
        if now.since(std::mem::replace(&mut self.chores.looked, now)) >= A_NAP {
            let slept = self.clock.slept();
            let nap = slept.saturating_sub(std::mem::replace(&mut self.chores.slept, slept));
            if nap >= A_NAP {
                self.note(Note::Slept(nap), now);
            }
        }
        self.chores.refused_calls = sandbox::look(self.chores.refused_calls);
    }

    /// Changed interfaces are looked at when a link is down; the links follow routes and
    /// neighbours by themselves.
    fn read_changes(&mut self) {
        let mut addresses = false;
        while let Ok(Some(change)) = self.watcher.next() {
            match change {
                Change::Link { .. } => self.links.changed(),
                Change::Address => addresses = true,
                Change::Lost => {
                    self.links.changed();
                    addresses = true;
                }
                // Which address the host uses depends on its routes.
                Change::Route => addresses |= self.gateway.config().host_by_uplink,
                Change::Neighbor { .. } => {}
            }
        }
        // By sockets the address is but a name.
        if addresses && !self.host.follows && !self.gateway.config().host_by_uplink {
            self.host.check_addresses(&self.gateway.config().nat.external);
        }
        if addresses && self.gateway.config().host_by_uplink {
            self.leave_lost();
        }
        if let Some(info) = self.links.outside_info() {
            self.gateway.set_outside(info);
        }
    }

    /// Opens links again that were down.
    fn revive(&mut self, now: Time) {
        if !self.links.any_down() || (now.since(self.chores.retried) < RETRY && !self.links.news()) {
            return;
        }
        self.chores.retried = now;
        for link in self.links.revive(&mut self.poller) {
            self.note(Note::LinkUp(self.links.name(link)), now);
            if link == OUTSIDE {
                self.host.outside_is_back(&mut self.guard);
            }
        }
        if self.links.is_down(INSIDE) && self.host.make_tap_again(&mut self.links, &mut self.poller) {
            self.note(Note::LinkUp(self.links.name(INSIDE)), now);
            self.admit_again(now);
        }
    }

    /// The uplink's filter follows what is translated; published ports may lie outside the range. False if
    /// it could not be changed.
    pub(super) fn let_in(&mut self, now: Time) -> bool {
        let Reply::Published(published) = self.gateway.apply(Command::Published, now, &mut ()) else {
            return false;
        };
        let wanted =
            self.host.wanted(self.gateway.config(), published.iter().map(|(_, outside, _)| outside.port));
        let changed = self.links.set_wanted(&wanted, &mut self.poller);
        if let Err(error) = &changed {
            tracing::warn!("the packet filter could not be changed: {error}");
        }
        changed.is_ok()
    }

    fn publish_board(&mut self, now: Time) {
        if self.chores.sweep.is_none() && self.board.wanted() {
            self.board.begin(now);
            self.chores.sweep = Some(0);
        }
        if let Some(cursor) = self.chores.sweep {
            let page = Command::Sessions { cursor, limit: BOARD_PAGE };
            let Reply::Sessions(sessions, next) = self.gateway.apply(page, now, &mut ()) else { return };
            self.board.put(&sessions);
            self.chores.sweep = next;
            if next.is_none() {
                self.board.finish();
                self.chores.swept = Some(now);
            }
        } else if self.chores.swept.is_some_and(|swept| now.since(swept) > BOARD_KEPT) {
            self.board.forget();
            self.chores.swept = None;
        }
    }

    /// How long the worker may sleep.
    fn timeout(&self) -> Option<Duration> {
        if self.chores.sweep.is_some() || self.chores.more_leases || self.board.wanted() {
            return Some(Duration::ZERO);
        }
        let now = self.clock.now();
        let shrink = (self.stock.is_some() && self.gateway.counts().sessions > 0)
            .then_some(self.chores.shrunk + SHRINK);
        let deadlines = [
            self.gateway.next_deadline(),
            self.links.next_deadline(),
            self.stock.as_ref().and_then(|stock| stock.next_deadline(now)),
            self.links.any_down().then_some(self.chores.retried + RETRY),
            self.chores.swept.map(|swept| swept + BOARD_KEPT + Duration::from_millis(1)),
            shrink,
        ];
        deadlines.into_iter().flatten().min().map(|deadline| deadline.since(now))
    }
}
