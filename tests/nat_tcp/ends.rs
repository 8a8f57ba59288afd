//! Two honest TCP ends with the translator between them, on wires that lose, double and reorder on
//! both of its sides. The ends know RFC 9293 well enough to misuse all of its freedoms: windows of
//! any size that open and close, segments of any length, retransmissions of any part, probes of a
//! closed window, keep-alives, data behind a FIN of the other side.

use crate::rig::{PASSES, Rig, Seg, seg};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use tapnat::flow::{Segment, TcpFlags};

/// What one end knows.
#[derive(Debug)]
struct End {
    first: u32,
    /// Oldest number not acknowledged, next to send, next to come.
    una: u32,
    next: u32,
    expects: u32,
    /// What the peer lets it send: the window, and the numbers of the segment that said so.
    window: u32,
    said: (u32, u32),
    /// Option of its own SYN; the shifts that hold once both SYNs were seen.
    scale: Option<u8>,
    shifts: (u8, u8),
    /// The window field that it offers.
    offers: u16,
    open: bool,
    /// It has sent its FIN, whose number is `next - 1`.
    closed: bool,
    /// The peer's FIN has come.
    peer_closed: bool,
    left: u32,
}

fn behind(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

impl End {
    fn new(first: u32, scale: Option<u8>, left: u32) -> End {
        let (una, next) = (first, first.wrapping_add(1));
        End {
            first,
            una,
            next,
            expects: 0,
            window: 0,
            said: (0, 0),
            scale,
            shifts: (0, 0),
            offers: 65535,
            open: false,
            closed: false,
            peer_closed: false,
            left,
        }
    }

    fn ack(&self) -> Seg {
        seg(".", self.next, self.expects).window(self.offers)
    }

    fn syn(&self, answers: bool) -> Seg {
        let mut syn =
            seg(if answers { "S." } else { "S" }, self.first, if answers { self.expects } else { 0 });
        (syn.segment.scale, syn.segment.window) = (self.scale, 65535);
        syn
    }

    /// How many bytes it may still send.
    fn room(&self) -> u32 {
        let used = self.next.wrapping_sub(self.una);
        self.window.saturating_sub(used)
    }

    /// Part of what has been sent and not acknowledged, once more; with the FIN if it comes to it.
    fn again(&self, random: u32) -> Seg {
        let flight = self.next.wrapping_sub(self.una);
        let start = random % flight.max(1);
        let data = flight - u32::from(self.closed && flight > 0);
        let length = data.saturating_sub(start).min(65_000).min(1 + random % 70_000);
        let fin = self.closed && flight > 0 && start + length == data;
        let mut segment = if fin { seg("F.", 0, 0) } else { seg(".", 0, 0) };
        segment.segment = Segment {
            sequence: self.una.wrapping_add(start),
            acknowledgement: self.expects,
            window: self.offers,
            payload: length as u16,
            scale: None,
        };
        segment
    }

    /// Takes a segment; tells whether it is to be acknowledged.
    fn take(&mut self, peer_scale: Option<u8>, segment: Seg) -> bool {
        let Seg { flags, segment } = segment;
        if flags.has(TcpFlags::SYN) {
            if !self.open {
                self.expects = segment.sequence.wrapping_add(1);
                self.window = u32::from(segment.window);
                if let (Some(own), Some(peer)) = (self.scale, peer_scale) {
                    self.shifts = (own, peer);
                }
            }
            if flags.has(TcpFlags::ACK) && segment.acknowledgement == self.next {
                (self.open, self.una) = (true, self.next);
                self.said = (segment.sequence, segment.acknowledgement);
            }
            return true;
        }
        if self.expects == 0 || behind(self.next, segment.acknowledgement) {
            return false;
        }
        if !self.open {
            self.open = segment.acknowledgement == self.first.wrapping_add(1);
            self.said = (segment.sequence, segment.acknowledgement);
        }
        if behind(self.una, segment.acknowledgement) {
            self.una = segment.acknowledgement;
        }
        let says = (segment.sequence, segment.acknowledgement);
        if behind(self.said.0, says.0) || self.said.0 == says.0 && !behind(says.1, self.said.1) {
            (self.said, self.window) = (says, u32::from(segment.window) << self.shifts.1);
        }
        // In order or not at all; what is already there is cut off. What exceeds the window is not
        // taken, so that probes of a closed window stay unanswered by progress.
        let end = segment.sequence.wrapping_add(u32::from(segment.payload));
        let allowed = u32::from(self.offers) << self.shifts.0;
        if !behind(self.expects, segment.sequence) && behind(self.expects, end) {
            let new = end.wrapping_sub(self.expects).min(allowed);
            self.expects = self.expects.wrapping_add(new);
        }
        if flags.has(TcpFlags::FIN) && self.expects == end && !self.peer_closed {
            self.expects = self.expects.wrapping_add(1);
            self.peer_closed = true;
        }
        segment.payload > 0 || flags.has(TcpFlags::FIN) || segment.sequence != self.expects
    }
}

/// The settings of a run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub seed: u64,
    pub first: [u32; 2],
    pub scales: [Option<u8>; 2],
    /// Bytes that each end wants to send.
    pub bytes: u32,
    /// Lost, doubled: of a hundred.
    pub loses: u32,
    pub doubles: u32,
    /// How many segments may overtake one.
    pub overtakes: u32,
    /// How many forged segments for each true one.
    pub forged: u32,
    /// The remote begins, by a published port.
    pub published: bool,
}

/// The ends (0 is inside), and the wires before and behind the translator, by direction.
pub struct Connection {
    run: Run,
    rng: ChaCha8Rng,
    pub rig: Rig,
    ends: [End; 2],
    before: [Vec<Seg>; 2],
    behind: [Vec<Seg>; 2],
    pub passed: usize,
    pub forged: usize,
}

impl Connection {
    pub fn new(run: Run) -> Connection {
        let end = |side: usize| End::new(run.first[side], run.scales[side], run.bytes);
        let rng = ChaCha8Rng::seed_from_u64(run.seed);
        let opener = usize::from(run.published);
        let ends = [end(0), end(1)];
        let rig = if run.published { Rig::published() } else { Rig::syn_sent(ends[0].syn(false)) };
        let (mut before, mut behind) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        let wire = if run.published { &mut before } else { &mut behind };
        wire[opener].push(ends[opener].syn(false));
        Connection { run, rng, rig, ends, before, behind, passed: 0, forged: 0 }
    }

    fn below(&mut self, limit: u32) -> u32 {
        self.rng.next_u32() % limit.max(1)
    }

    /// One step: something is sent, passes the translator, or arrives. True once all is over.
    pub fn step(&mut self) -> bool {
        let side = self.below(2) as usize;
        match self.below(8) {
            0 | 1 => self.sends(side),
            2..=4 => self.translates(side),
            _ => self.arrives(side),
        }
        self.ends.iter().all(|end| end.closed && end.peer_closed && end.una == end.next)
    }

    /// An end sends one of the segments that it may send.
    fn sends(&mut self, side: usize) {
        let random = self.rng.next_u32();
        let opener = usize::from(self.run.published);
        let end = &mut self.ends[side];
        if !end.open {
            if side == opener || end.expects != 0 {
                let syn = end.syn(end.expects != 0 && side != opener);
                self.before[side].push(syn);
            }
            return;
        }
        let mut out = None;
        match random % 16 {
            0..=6 if end.left > 0 && end.room() > 0 && !end.closed => {
                let length = end.room().min(end.left).min(65_000).min(1 + random / 16 % 70_000);
                out = Some(end.ack().payload(length as u16));
                end.next = end.next.wrapping_add(length);
                end.left -= length;
            }
            7 | 8 if end.una != end.next => out = Some(end.again(random / 16)),
            // The window opens and closes; what it has offered it may take back.
            9 | 10 => {
                end.offers = if random & 16 == 0 { 0 } else { (random >> 8) as u16 };
                out = Some(end.ack());
            }
            11 => end.offers = 65535,
            // A keep-alive, empty or with a byte that has long been sent.
            12 if end.una == end.next && end.next != end.first.wrapping_add(1) && !end.closed => {
                let mut probe = end.ack().payload((random / 16 % 2) as u16);
                probe.segment.sequence = end.next.wrapping_sub(1);
                out = Some(probe);
            }
            // A probe of a closed window: one byte too far.
            13 if end.window == 0 && end.left > 0 && end.una == end.next && !end.closed => {
                out = Some(end.ack().payload(1));
                end.next = end.next.wrapping_add(1);
                end.left -= 1;
            }
            14 if end.left == 0 && !end.closed && end.room() > 0 => {
                end.closed = true;
                let mut fin = seg("F.", end.next, end.expects);
                fin.segment.window = end.offers;
                end.next = end.next.wrapping_add(1);
                out = Some(fin);
            }
            _ => out = Some(end.ack()),
        }
        self.before[side].extend(out);
    }

    /// One of the first segments of a wire, or none; it may be lost, or be met again.
    fn pick(&mut self, wire: fn(&mut Connection) -> &mut [Vec<Seg>; 2], side: usize) -> Option<Seg> {
        let length = wire(self)[side].len() as u32;
        if length == 0 {
            return None;
        }
        let at = self.below(length.min(1 + self.run.overtakes)) as usize;
        let fate = self.below(100);
        if fate < self.run.loses {
            wire(self)[side].remove(at);
            return None;
        }
        if fate < self.run.loses + self.run.doubles {
            return Some(wire(self)[side][at]);
        }
        Some(wire(self)[side].remove(at))
    }

    fn translates(&mut self, side: usize) {
        for _ in 0..self.run.forged {
            self.forge();
        }
        let Some(segment) = self.pick(|all| &mut all.before, side) else { return };
        self.rig.now = self.rig.now + std::time::Duration::from_millis(1);
        let decided = if side == 0 { self.rig.a(segment) } else { self.rig.s(segment) };
        assert_eq!(decided, PASSES, "after {} from {side}: {segment:x?}\n{:x?}", self.passed, self.ends);
        self.passed += 1;
        self.behind[side].push(segment);
    }

    /// Somebody who knows all but the numbers sends in the remote's name.
    fn forge(&mut self) {
        if !self.rig.alive() {
            return;
        }
        let flags = ["S", "S.", ".", "F.", "R", "R.", "."][self.below(7) as usize];
        let forged = seg(flags, self.rng.next_u32(), self.rng.next_u32());
        let mut forged = forged.payload(self.below(2000) as u16).window(self.rng.next_u32() as u16);
        forged.segment.scale = Some(14).filter(|_| self.below(2) == 0);
        let _ = self.rig.s(forged);
        self.forged += 1;
    }

    fn arrives(&mut self, side: usize) {
        let Some(segment) = self.pick(|all| &mut all.behind, side) else { return };
        let scale = self.run.scales[side];
        let opener = usize::from(self.run.published);
        let receiver = &mut self.ends[1 - side];
        let answer = receiver.take(scale, segment);
        if answer && receiver.open {
            let ack = receiver.ack();
            self.before[1 - side].push(ack);
        } else if answer && 1 - side != opener {
            let syn = receiver.syn(true);
            self.before[1 - side].push(syn);
        }
    }
}
