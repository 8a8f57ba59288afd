//! One mirrored connection as a pure machine: segments from the inside, what the host socket says,
//! and the time go in; what to do next comes out of [`Machine::next`], one [`Ask`] at a time.
//!
//! ```text
//!   SYN from inside                    accepted on the host
//!         |                                    |
//!    Connecting --- connected ---> Answering   Calling
//!         |        (SYN-ACK sent)      |          | (SYN sent)
//!       refused                        |ACK       |SYN-ACK
//!         v                            v          v
//!       Over <--- RST, errors ---       Open --- both FINs acknowledged ---> Lingering --> Over
//! ```

mod receiver;
mod rtt;
mod sender;
pub mod serial;
mod words;

pub use receiver::New;
pub use sender::IN_FLIGHT;
pub use words::{Age, Ask, Behind, Blocks, Bounds, End, Header, Incoming, Options};

use crate::flow::{Segment, TcpFlags, Time};
use crate::wire::offload::MAX_SEGMENTS;
use receiver::{Receiver, SHIFT};
use sender::{Acked, Sender};
use std::time::Duration;

/// The MSS of who does not say one (RFC 9293 §3.7.1).
const MSS_DEFAULT: u16 = 536;
/// The least MSS that is believed: a smaller one is a way to make much work with few bytes.
const MSS_LEAST: u16 = 64;
/// How often a SYN or SYN-ACK is sent again: for about a minute.
const SYN_RETRIES: u32 = 5;
/// How often data is sent again without an answer: for about four minutes.
const RETRIES: u32 = 10;
/// How many probes may stay without an answer.
const PROBES: u32 = 9;
/// The first wait of a probe of a window of zero.
const PERSIST: Duration = Duration::from_millis(200);
/// The longest wait between such probes (RFC 9293 §3.8.6.1).
const PERSIST_MOST: Duration = Duration::from_secs(60);
/// Between probes of an inside end that was silent for long.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long the acknowledgement of few bytes may wait for bytes of ours to go with. Far below the 40 ms of
/// Linux, since a sender that holds back small segments (Nagle) waits for it.
const ACK_DELAY: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Connecting,
    Answering,
    Calling,
    Open,
    Lingering(Time),
    Over(End),
}

/// One connection.
#[derive(Clone, Debug)]
pub struct Machine {
    phase: Phase,
    bounds: Bounds,
    sender: Sender,
    receiver: Receiver,
    readable: bool,
    ack_due: bool,
    ack_at: Option<Time>,
    syn_due: bool,
    probe_due: bool,
    shut: bool,
    closed: bool,
    scaled: bool,
    sack: bool,
    /// What has come out of order.
    early: Blocks,
    /// What has just come although it was there (RFC 2883).
    twice: Option<(u32, u32)>,
    heard: Time,
    probe_at: Option<Time>,
    probe_wait: Duration,
    unanswered: u32,
    /// Segments sent again.
    again: u32,
}

impl Machine {
    fn new(phase: Phase, initial: u32, bounds: Bounds, now: Time) -> Machine {
        Machine {
            phase,
            bounds,
            sender: Sender::new(initial),
            receiver: Receiver::new(0, bounds.kept, true),
            readable: false,
            ack_due: false,
            ack_at: None,
            syn_due: false,
            probe_due: false,
            shut: false,
            closed: false,
            scaled: true,
            sack: true,
            early: Blocks::default(),
            twice: None,
            heard: now,
            probe_at: None,
            probe_wait: PERSIST,
            unanswered: 0,
            again: 0,
        }
    }

    /// The connection that the SYN `incoming` asks for; the host socket has begun to connect. Our own
    /// sequence numbers begin with `initial`.
    pub fn connecting(incoming: &Incoming, initial: u32, bounds: Bounds, now: Time) -> Machine {
        let mut machine = Machine::new(Phase::Connecting, initial, bounds, now);
        machine.take_options(incoming);
        machine
    }

    /// A connection accepted on the host, which the inside is asked to take.
    pub fn calling(initial: u32, bounds: Bounds, now: Time) -> Machine {
        Machine { syn_due: true, ..Machine::new(Phase::Calling, initial, bounds, now) }
    }

    fn take_options(&mut self, syn: &Incoming) {
        self.scaled = syn.segment.scale.is_some();
        self.sack = syn.sack;
        self.sender.options(syn.mss, syn.segment.scale, &syn.segment);
        let receiver = Receiver::new(syn.segment.sequence, self.bounds.kept, self.scaled);
        self.receiver = receiver.of_segments(self.sender.mss());
    }

    /// Whether the host socket is still connecting.
    pub fn is_connecting(&self) -> bool {
        self.phase == Phase::Connecting
    }

    /// How far it is.
    pub fn age(&self) -> Age {
        match self.phase {
            Phase::Connecting | Phase::Answering => Age::HalfOpen,
            Phase::Calling => Age::Calling,
            Phase::Open => Age::Open,
            Phase::Lingering(_) | Phase::Over(_) => Age::Ended,
        }
    }

    /// Whether it has ended but for a last FIN that may come again.
    pub fn is_lingering(&self) -> bool {
        matches!(self.phase, Phase::Lingering(_))
    }

    /// Whether a SYN may open another connection in its place.
    pub fn is_replaceable(&self) -> bool {
        self.age() == Age::Ended
    }

    /// Payload in a packet towards the inside, in bytes.
    pub fn mss(&self) -> u16 {
        self.sender.mss()
    }

    /// Bytes of the inside that are kept.
    pub fn kept(&self) -> u32 {
        self.receiver.kept()
    }

    /// How many segments were sent again.
    pub fn sent_again(&self) -> u32 {
        self.again
    }

    /// The host socket has connected.
    pub fn connected(&mut self) {
        if self.is_connecting() {
            self.phase = Phase::Answering;
            self.syn_due = true;
        }
    }

    /// The host refused the connection.
    pub fn refused(&mut self) {
        let header = Header {
            flags: TcpFlags::RST.with(TcpFlags::ACK),
            sequence: 0,
            acknowledgment: self.receiver.next(),
            window: 0,
            options: Options::None,
        };
        self.over(End { reset_inside: Some(header), reset_host: false, silent: false });
    }

    /// The host socket has failed, or there is reason to reset both ends.
    pub fn failed(&mut self) {
        self.abort(false);
    }

    /// Nothing is to be said to anybody.
    pub fn forget(&mut self) {
        self.over(End { reset_inside: None, reset_host: true, silent: false });
    }

    fn abort(&mut self, silent: bool) {
        let calling = self.phase == Phase::Calling;
        let header = Header {
            flags: if calling { TcpFlags::RST } else { TcpFlags::RST.with(TcpFlags::ACK) },
            sequence: self.sender.sequence(),
            acknowledgment: if calling { 0 } else { self.receiver.next() },
            window: 0,
            options: Options::None,
        };
        self.over(End { reset_inside: Some(header), reset_host: true, silent });
    }

    fn over(&mut self, end: End) {
        if !matches!(self.phase, Phase::Over(_)) {
            self.phase = Phase::Over(end);
        }
    }

    /// The host socket may have something to read: data, its end, or an error.
    pub fn readable(&mut self) {
        self.readable = true;
    }

    /// The path to the inside takes packets with this much payload at most.
    pub fn shrink(&mut self, mss: u16) {
        self.sender.shrink(mss);
    }

    /// Bytes from the inside were lost for want of memory: it is to stop.
    pub fn starved(&mut self) {
        self.receiver.starve();
        self.ack_due = true;
    }

    /// The host socket does not take everything, and all connections together may keep `left` more bytes.
    pub fn room(&mut self, left: usize) {
        self.receiver.room(u32::try_from(left).unwrap_or(u32::MAX));
    }

    /// Whether the window hangs on how much may be kept.
    pub fn is_short(&self) -> bool {
        self.receiver.is_short()
    }

    /// The host socket takes everything again.
    pub fn relieved(&mut self) {
        self.receiver.room(u32::MAX);
        self.ack_due |= self.receiver.has_opened() && !self.receiver.finished();
    }

    /// So many bytes may be on their way from the inside besides those that are kept, since others are too.
    pub fn allow(&mut self, share: u32) {
        self.receiver.allow(share);
    }

    /// A segment from the inside. What of its payload is to be delivered; [`Machine::took`] then.
    pub fn arrive(&mut self, incoming: &Incoming, now: Time) -> New {
        self.heard = now;
        self.unanswered = 0;
        match self.phase {
            Phase::Connecting => self.arrive_early(incoming),
            Phase::Calling => self.arrive_answer(incoming, now),
            Phase::Answering | Phase::Open | Phase::Lingering(_) => return self.arrive_open(incoming, now),
            Phase::Over(_) => {}
        }
        New::default()
    }

    /// While the host socket connects there is nothing to say.
    fn arrive_early(&mut self, incoming: &Incoming) {
        if incoming.flags.has(TcpFlags::RST) {
            self.forget();
        } else if incoming.flags.opens() && incoming.segment.sequence != self.receiver.initial() {
            self.take_options(incoming);
        }
    }

    /// The answer to our SYN (RFC 9293 §3.10.7.3).
    fn arrive_answer(&mut self, incoming: &Incoming, now: Time) {
        let (flags, segment) = (incoming.flags, &incoming.segment);
        let right = flags.has(TcpFlags::ACK) && segment.acknowledgement == self.sender.sequence();
        match (flags.has(TcpFlags::RST), flags.has(TcpFlags::SYN)) {
            (true, _) if right => self.forget(),
            (false, true) if right => {
                self.sender.acknowledged(segment, false, now);
                self.take_options(incoming);
                self.phase = Phase::Open;
                self.readable = true;
                self.ack_due = true;
            }
            _ => {}
        }
    }

    fn arrive_open(&mut self, incoming: &Incoming, now: Time) -> New {
        let (flags, segment) = (incoming.flags, &incoming.segment);
        if flags.has(TcpFlags::SYN) {
            if self.phase == Phase::Answering && segment.sequence == self.receiver.initial() {
                self.syn_due = true;
            } else {
                // An end that has forgotten the connection answers this with a RST (RFC 5961 §4).
                self.ack_due = true;
            }
            return New::default();
        }
        if flags.has(TcpFlags::RST) {
            if self.is_done_inside() {
                // Its last bytes are still on their way to the host socket.
            } else if segment.sequence == self.receiver.next() {
                self.forget();
            } else if self.receiver.within(segment.sequence) {
                self.ack_due = true;
            }
            return New::default();
        }
        if !flags.has(TcpFlags::ACK) || !self.is_near(segment) {
            self.ack_due |= segment.payload > 0 || flags.has(TcpFlags::FIN);
            return New::default();
        }
        let fin = flags.has(TcpFlags::FIN);
        let bare = segment.payload == 0 && !fin;
        let acked = self.sender.acknowledged(segment, bare, now);
        if acked == Acked::Unsent {
            self.ack_due = true;
            return New::default();
        }
        if self.phase == Phase::Answering && acked == Acked::New {
            self.phase = Phase::Open;
            self.readable = true;
        }
        if !self.sender.is_shut() {
            self.probe_at = None;
            self.probe_wait = PERSIST;
        }
        self.deliver(segment, fin)
    }

    fn deliver(&mut self, segment: &Segment, fin: bool) -> New {
        if segment.payload == 0 && !fin {
            // A probe or keep-alive repeats a sequence number that we have (RFC 9293 §3.8.4).
            self.ack_due |= segment.sequence != self.receiver.next();
            return New::default();
        }
        let new = match self.phase {
            Phase::Open => {
                if fin {
                    self.receiver.note_fin(segment);
                }
                self.receiver.new_part(segment)
            }
            _ => New::default(),
        };
        // A sender that hears so knows that it was only late, and goes on as fast as before.
        self.twice = self.receiver.known_part(segment);
        // What was there before, or is not next, was lost on the way, or its acknowledgement was.
        self.ack_due |= new.early || new.skip > 0 || new.length < usize::from(segment.payload);
        self.ack_due |= new.length == 0 && !new.fin;
        new
    }

    /// Whether a segment's numbers are anywhere near what is expected; others are old or forged.
    fn is_near(&self, segment: &Segment) -> bool {
        const NEAR: u32 = 1 << 24;
        segment.sequence.wrapping_sub(self.receiver.next().wrapping_sub(NEAR)) <= 2 * NEAR
    }

    /// What became of the bytes that [`Machine::arrive`] spoke of: `written` went into the host
    /// socket, and behind them `kept` are kept. `fin`: with them all has come.
    pub fn took(&mut self, written: u32, kept: u32, fin: bool, now: Time) {
        self.receiver.took(written, kept, fin);
        // A sender with more to say fills its segments, and its rate hangs on acknowledgements.
        let few = self.receiver.untold() < u32::from(self.sender.mss());
        if few && kept == 0 && !fin {
            self.ack_at = self.ack_at.or(Some(now + ACK_DELAY));
        } else {
            self.ack_due = true;
        }
    }

    /// The sequence number of the next byte.
    pub fn expects(&self) -> u32 {
        self.receiver.next()
    }

    /// A piece that came early has its turn: what of it is to be delivered, as [`Machine::arrive`] says.
    pub fn in_turn(&self, sequence: u32, length: usize) -> New {
        // Bounded by the length of one packet.
        let segment = Segment { sequence, payload: length as u16, ..Segment::default() };
        self.receiver.new_part(&segment)
    }

    /// What waits out of order.
    pub fn early(&mut self, blocks: Blocks) {
        self.early = blocks;
        self.ack_due = true;
    }

    /// So many of the kept bytes went into the host socket.
    pub fn drained(&mut self, count: u32) {
        self.ack_due |= self.receiver.drained(count) && !self.receiver.finished();
    }

    /// Whether nothing more is to be said between the inside and us.
    fn is_done_inside(&self) -> bool {
        self.sender.finished() && self.receiver.finished()
    }

    /// So many bytes are gone from the front of the host socket's queue.
    pub fn discarded(&mut self, count: u32) {
        self.sender.discarded(count);
    }

    /// What [`Ask::Read`] asked for has these many bytes, at least 1, and `behind` them; the header to
    /// send them with.
    pub fn read(&mut self, again: bool, count: u32, behind: Behind, now: Time) -> Header {
        self.again += u32::from(again);
        if again && self.sender.to_resend().is_some() {
            let sequence = self.sender.resent(now);
            return Header { flags: TcpFlags::ACK.with(TcpFlags::PSH), ..self.header(sequence) };
        }
        let sequence = self.sender.sent(count, now);
        match behind {
            Behind::Unknown => {}
            Behind::Nothing => self.readable = false,
            Behind::End => {
                self.readable = false;
                self.sender.ends();
            }
        }
        let mut flags = TcpFlags::ACK.with(TcpFlags::PSH);
        if self.sender.fin_due() {
            self.sender.sent(1, now);
            flags = flags.with(TcpFlags::FIN);
        }
        Header { flags, ..self.header(sequence) }
    }

    /// There was nothing to read; what was sent before must be there.
    pub fn dry(&mut self, again: bool) {
        self.readable = false;
        if again {
            self.failed();
        }
    }

    /// The host socket has come to its end.
    pub fn ended(&mut self, again: bool) {
        self.dry(again);
        self.sender.ends();
    }

    /// Whether the host socket has come to its end.
    pub fn has_end(&self) -> bool {
        self.sender.has_end()
    }

    /// A header with what we have to say at any time.
    fn header(&mut self, sequence: u32) -> Header {
        self.ack_due = false;
        self.ack_at = None;
        Header {
            flags: TcpFlags::ACK,
            sequence,
            acknowledgment: self.receiver.next(),
            window: self.receiver.offer(),
            options: Options::None,
        }
    }

    /// What to do next. To be asked again until it says [`Ask::Nothing`] or [`Ask::Over`].
    pub fn next(&mut self, now: Time) -> Ask {
        match self.phase {
            Phase::Connecting => Ask::Nothing,
            Phase::Answering | Phase::Calling if self.syn_due => Ask::Send(self.syn(now)),
            Phase::Answering | Phase::Calling => Ask::Nothing,
            Phase::Open => self.next_open(now),
            Phase::Lingering(_) if self.ack_due => {
                let header = self.header(self.sender.sequence());
                Ask::Send(header)
            }
            Phase::Lingering(_) => Ask::Nothing,
            Phase::Over(end) => Ask::Over(end),
        }
    }

    fn syn(&mut self, now: Time) -> Header {
        self.syn_due = false;
        self.ack_due = false;
        self.sender.syn_sent(now);
        let answer = self.phase == Phase::Answering;
        Header {
            flags: if answer { TcpFlags::SYN.with(TcpFlags::ACK) } else { TcpFlags::SYN },
            sequence: self.sender.initial(),
            acknowledgment: if answer { self.receiver.next() } else { 0 },
            window: self.receiver.first_offer(),
            options: Options::Syn(self.scaled.then_some(SHIFT), self.sack),
        }
    }

    fn next_open(&mut self, now: Time) -> Ask {
        let discard = self.sender.to_discard();
        if discard > 0 {
            return Ask::Discard(discard);
        }
        if self.receiver.finished() && self.receiver.kept() == 0 && !self.shut {
            self.shut = true;
            // The close that follows says so too.
            if !self.sender.finished() {
                return Ask::Shut;
            }
        }
        if self.ack_due && !self.early.all().is_empty() {
            // Before data, which has no room for options.
            return Ask::Send(self.ack());
        }
        match self.sender.to_resend() {
            Some((_, 0)) => {
                self.again += 1;
                let sequence = self.sender.resent(now);
                return Ask::Send(self.fin(sequence));
            }
            Some((offset, most)) => return Ask::Read { offset, most, again: true },
            None => {}
        }
        let again = self.sender.sends_again();
        if again || self.readable {
            if let Some((offset, most)) = self.sender.room(self.largest()) {
                return Ask::Read { offset, most, again };
            }
            if self.sender.is_shut() && self.probe_at.is_none() && !self.sender.outstanding() {
                self.probe_at = Some(now + self.probe_wait);
            }
        }
        if self.sender.fin_due() {
            let sequence = self.sender.sent(1, now);
            return Ask::Send(self.fin(sequence));
        }
        if self.sender.finished() && self.shut {
            return self.finish(now);
        }
        if self.probe_due {
            self.probe_due = false;
            let header = self.header(self.sender.probe());
            return Ask::Send(header);
        }
        if self.ack_due {
            return Ask::Send(self.ack());
        }
        Ask::Nothing
    }

    fn ack(&mut self) -> Header {
        let header = self.header(self.sender.sequence());
        let mut blocks = Blocks::default();
        self.twice.take().iter().chain(self.early.all()).for_each(|block| blocks.push(*block));
        let tells = self.sack && !blocks.all().is_empty();
        Header { options: if tells { Options::Sack(blocks) } else { Options::None }, ..header }
    }

    fn fin(&mut self, sequence: u32) -> Header {
        Header { flags: TcpFlags::FIN.with(TcpFlags::ACK), ..self.header(sequence) }
    }

    /// Both directions have ended and the inside knows of ours. If its FIN came last, it may miss our
    /// acknowledgement and send the FIN again; else it is the one to wait (RFC 9293 §3.6).
    fn finish(&mut self, now: Time) -> Ask {
        if !self.closed {
            self.closed = true;
            return Ask::Close;
        }
        if self.ack_due {
            self.phase = Phase::Lingering(now + self.bounds.linger);
        } else {
            self.over(End { reset_inside: None, reset_host: false, silent: false });
        }
        self.next(now)
    }

    /// The most payload of one super-frame: whole segments.
    fn largest(&self) -> u32 {
        let mss = u32::from(self.sender.mss());
        let segments = (self.bounds.largest / mss).clamp(1, MAX_SEGMENTS as u32);
        (segments * mss).min(self.bounds.largest)
    }

    /// When [`Machine::tick`] has something to do.
    pub fn deadline(&self) -> Option<Time> {
        match self.phase {
            Phase::Connecting | Phase::Over(_) => None,
            Phase::Answering | Phase::Calling => self.sender.due(),
            Phase::Open => {
                let rest = self.sender.due().or(self.probe_at).unwrap_or(self.heard + self.bounds.idle);
                Some(self.ack_at.map_or(rest, |at| at.min(rest)))
            }
            Phase::Lingering(until) => Some(until),
        }
    }

    /// The time of [`Machine::deadline`] has come.
    pub fn tick(&mut self, now: Time) {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return;
        }
        if self.ack_at.is_some_and(|at| at <= now) {
            self.ack_at = None;
            self.ack_due = true;
            return;
        }
        match self.phase {
            Phase::Answering | Phase::Calling => {
                self.syn_due = true;
                if self.sender.timed_out(now) > SYN_RETRIES {
                    self.abort(true);
                }
            }
            Phase::Open if self.sender.due().is_some() => self.retransmit(now),
            Phase::Open => self.probe(now),
            Phase::Lingering(_) => self.over(End { reset_inside: None, reset_host: false, silent: false }),
            Phase::Connecting | Phase::Over(_) => {}
        }
    }

    fn retransmit(&mut self, now: Time) {
        let retries = self.sender.timed_out(now);
        self.unanswered += 1;
        // An inside end that answers with a window of zero is alive.
        if retries > RETRIES && self.unanswered > RETRIES {
            self.abort(true);
        } else if self.sender.is_shut() {
            self.probe_due = true;
        }
    }

    fn probe(&mut self, now: Time) {
        if self.is_done_inside() {
            self.heard = now;
            return;
        }
        self.unanswered += 1;
        if self.unanswered > PROBES {
            self.abort(true);
            return;
        }
        self.probe_due = true;
        let shut = self.sender.is_shut();
        self.probe_at = Some(now + if shut { self.probe_wait } else { KEEP_ALIVE });
        self.probe_wait = (self.probe_wait * 2).min(PERSIST_MOST);
    }
}
