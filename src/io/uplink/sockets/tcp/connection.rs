//! A [`Machine`] and the host's end of its connection: does what the machine asks.

use super::early::Early;
use super::header;
use super::kept::Kept;
use super::machine::{Age, Ask, Behind, End, Header, Incoming, Machine, New};
use super::share::{Lately, Share};
use super::stream::{SCRATCH, Stream};
use crate::flow::{Flow, Time};
use crate::wire::Buffer;
use std::io;

/// Memory that all connections share.
#[derive(Debug)]
pub struct Shared {
    /// Bytes that are kept for host sockets, of all connections.
    pub kept: usize,
    /// How many there may be.
    pub kept_most: usize,
    /// Bytes that came out of order and wait for others, of all connections. They have room of their own,
    /// a quarter as much: whoever leaves gaps takes none from those who do not.
    pub kept_early: usize,
    /// What each that brings much may have on its way.
    pub share: Share,
    /// Room that [`Stream::peek`] asks for.
    pub scratch: Vec<u8>,
    /// How often bytes from the inside found no room.
    pub kept_full: u64,
    /// Segments from the inside that came out of order.
    pub early: u64,
}

impl Shared {
    /// Nothing is kept yet, and never more than `kept_most` bytes.
    pub fn new(kept_most: usize) -> Shared {
        // Never written to where the kernel knows SO_PEEK_OFF, so never more than a promise.
        let scratch = vec![0; SCRATCH];
        Shared { kept: 0, kept_most, kept_early: 0, share: Share::default(), scratch, kept_full: 0, early: 0 }
    }

    /// How many more bytes may be kept.
    fn left(&self) -> usize {
        self.kept_most.saturating_sub(self.kept)
    }

    /// How many more bytes may wait out of order.
    fn left_early(&self) -> usize {
        (self.kept_most / 4).saturating_sub(self.kept_early)
    }

    /// Whether so much waits out of order that those with most must lose it, for the next one to find room.
    pub fn is_crowded(&self) -> bool {
        self.left_early() < self.kept_most / 32
    }

    /// Whether they have lost enough.
    pub fn is_thinned(&self) -> bool {
        self.kept_early <= self.kept_most / 8
    }
}

/// What a turn of a connection came to.
#[derive(Debug)]
pub enum Turn {
    /// A packet for the inside is in the buffer; there may be more.
    Packet,
    /// Nothing to do now.
    Idle,
    /// The connection could not be made; why.
    Unconnected(io::Error),
    /// The connection is over. If there is a packet in the buffer, it is to be sent.
    Over {
        /// Whether a RST is in the buffer.
        packet: bool,
        /// The inside end did not answer.
        silent: bool,
    },
}

/// One connection.
#[derive(Debug)]
pub struct Connection<S> {
    /// Its flow as packets from the inside have it: outside endpoint to remote.
    pub flow: Flow,
    /// Its state.
    pub machine: Machine,
    stream: Option<S>,
    kept: Kept,
    early: Early,
    lately: Lately,
    writable: bool,
    /// The host's end may have connected, or failed.
    look: bool,
    /// The SYN that opened it, for an ICMP error's quote, until it is answered.
    pub quote: Option<Box<[u8]>>,
    /// What it was last counted as.
    pub age: Age,
    /// Its number in the order in which connections began; 0 for those accepted on the host.
    pub begun: u64,
    /// It waits for its turn.
    pub queued: bool,
    /// The deadline that is noted for it.
    pub armed: Option<Time>,
}

impl<S: Stream> Connection<S> {
    /// A connection whose host end is `stream`.
    pub fn new(flow: Flow, machine: Machine, stream: S) -> Connection<S> {
        Connection {
            flow,
            age: machine.age(),
            begun: 0,
            machine,
            stream: Some(stream),
            kept: Kept::default(),
            early: Early::default(),
            lately: Lately::default(),
            writable: true,
            look: false,
            quote: None,
            queued: false,
            armed: None,
        }
    }

    /// The host's end, if it is open.
    pub fn stream(&self) -> Option<&S> {
        self.stream.as_ref()
    }

    /// What the poll says of the host's end.
    pub fn ready(&mut self, readable: bool, writable: bool, closed: bool) {
        if self.machine.is_connecting() {
            self.look |= writable || closed;
            return;
        }
        self.writable |= writable || closed;
        self.look |= closed;
        if readable || closed {
            self.machine.readable();
        }
    }

    /// A segment from the inside, with its payload.
    pub fn arrive(&mut self, incoming: &Incoming, payload: &[u8], shared: &mut Shared, now: Time) {
        let new = self.machine.arrive(incoming, now);
        if new == New::default() {
            return;
        }
        let Some(bytes) = payload.get(new.skip..new.skip + new.length) else { return };
        if new.early {
            shared.early += 1;
            let room = shared.left_early();
            let start = incoming.segment.sequence.wrapping_add(new.skip as u32);
            shared.kept_early += self.early.put(start, bytes, room);
            self.machine.early(self.early.blocks());
            return;
        }
        self.take(bytes, new.fin, shared, now);
        self.take_early(shared, now);
    }

    /// How many bytes wait out of order.
    pub fn early(&self) -> usize {
        self.early.len()
    }

    /// Throws away what waits out of order, which the inside sends again: what was told in SACK blocks is
    /// no promise (RFC 2018 §8).
    pub fn forget_early(&mut self, shared: &mut Shared) {
        shared.kept_early = shared.kept_early.saturating_sub(self.early.len());
        self.early.clear();
        self.machine.early(self.early.blocks());
    }

    /// Takes what came early and is next now.
    fn take_early(&mut self, shared: &mut Shared, now: Time) {
        if self.early.is_empty() {
            return;
        }
        while let Some((sequence, piece)) = self.early.pop(self.machine.expects()) {
            shared.kept_early = shared.kept_early.saturating_sub(piece.len());
            let new = self.machine.in_turn(sequence, piece.len());
            if let Some(bytes) = piece.get(new.skip..new.skip + new.length) {
                self.take(bytes, new.fin, shared, now);
            }
        }
        self.machine.early(self.early.blocks());
    }

    /// Takes bytes that are next, and the FIN behind them: the host socket first, the rest is kept.
    fn take(&mut self, bytes: &[u8], fin: bool, shared: &mut Shared, now: Time) {
        let mut written = 0;
        if !bytes.is_empty() && self.kept.is_empty() && self.writable {
            match self.send(bytes) {
                Some(count) => written = count,
                None => return,
            }
        }
        let rest = &bytes[written..];
        let kept = rest.len().min(shared.left());
        self.kept.push(&rest[..kept]);
        shared.kept += kept;
        self.machine.allow(shared.share.of(&mut self.lately, bytes.len(), shared.left(), now));
        if !self.writable || !self.kept.is_empty() {
            self.machine.room(shared.left());
        }
        let whole = kept == rest.len();
        // Bounded by the length of one packet.
        self.machine.took(written as u32, kept as u32, fin && whole, now);
        if !whole {
            shared.kept_full += 1;
            self.machine.starved();
        }
    }

    /// Sends to the host; how many bytes it took. `None`: it has failed.
    fn send(&mut self, bytes: &[u8]) -> Option<usize> {
        let result = match &mut self.stream {
            Some(stream) => stream.send(bytes),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        match result {
            Ok(count) => {
                self.writable = count == bytes.len();
                Some(count)
            }
            Err(error) if waits(&error) => {
                self.writable = false;
                Some(0)
            }
            Err(_) => {
                self.machine.failed();
                None
            }
        }
    }

    /// Sends what was kept, as far as the host takes it.
    fn drain(&mut self, shared: &mut Shared) {
        while self.writable && !self.kept.is_empty() {
            let kept = std::mem::take(&mut self.kept);
            let sent = self.send(kept.bytes());
            self.kept = kept;
            let Some(count) = sent else { return };
            self.kept.pop(count);
            shared.kept = shared.kept.saturating_sub(count);
            self.machine.room(shared.left());
            // Bounded by `Bounds::kept`.
            self.machine.drained(count as u32);
        }
        if self.machine.is_short() && self.writable && self.kept.is_empty() {
            self.machine.relieved();
        }
    }

    /// Does what there is to do, up to the next packet, which is then in `buffer`.
    pub fn turn(&mut self, buffer: &mut Buffer, shared: &mut Shared, now: Time) -> Turn {
        if self.look {
            self.look = false;
            if let Err(error) = self.look() {
                return Turn::Unconnected(error);
            }
        }
        self.drain(shared);
        loop {
            match self.machine.next(now) {
                Ask::Nothing => return Turn::Idle,
                Ask::Discard(count) => self.discard(count, shared),
                Ask::Read { offset, most, again } => {
                    if self.read(offset, most, again, buffer, shared, now) {
                        return Turn::Packet;
                    }
                }
                Ask::Send(header) => {
                    buffer.clear();
                    self.write(buffer, &header, 0);
                    return Turn::Packet;
                }
                Ask::Shut => {
                    if self.stream.as_mut().is_some_and(|stream| stream.shut().is_err()) {
                        self.machine.failed();
                    }
                }
                Ask::Close => self.stream = None,
                Ask::Over(end) => return self.over(end, buffer, shared),
            }
        }
    }

    /// Looks what became of connecting. Of a connection whose host end has said its last byte, an error
    /// is seen in no other way.
    fn look(&mut self) -> io::Result<()> {
        let Some(stream) = &self.stream else { return Ok(()) };
        if self.machine.is_connecting() {
            if stream.outcome()? {
                self.machine.connected();
                self.quote = None;
            }
        } else if self.machine.has_end() && stream.error().is_some() {
            self.machine.failed();
        }
        Ok(())
    }

    fn discard(&mut self, count: u32, shared: &mut Shared) {
        let result = match &mut self.stream {
            Some(stream) => stream.discard(count as usize, &mut shared.scratch),
            None => Ok(0),
        };
        match result {
            // At most `count`.
            Ok(gone) if gone > 0 => self.machine.discarded(gone as u32),
            // What was read before is not there.
            _ => self.machine.failed(),
        }
    }

    /// Reads for a packet; whether there is one.
    fn read(
        &mut self,
        offset: u32,
        most: u32,
        again: bool,
        buffer: &mut Buffer,
        shared: &mut Shared,
        now: Time,
    ) -> bool {
        let Some(stream) = &mut self.stream else {
            self.machine.failed();
            return false;
        };
        buffer.clear();
        let front = header::payload_at(self.flow.source.ip);
        let room = buffer.spare().get_mut(front..).unwrap_or_default();
        let most = room.len().min(most as usize);
        match stream.peek(offset as usize, &mut room[..most], &mut shared.scratch) {
            Ok(0) => self.machine.ended(again),
            Ok(mut count) => {
                let mut behind = Behind::Unknown;
                if count < most && !again {
                    // The end may go with the last bytes; and short may be due to an urgent mark.
                    let after = offset as usize + count;
                    behind = match stream.peek(after, &mut room[count..most], &mut shared.scratch) {
                        Ok(0) => Behind::End,
                        Ok(more) => {
                            count += more;
                            Behind::Unknown
                        }
                        Err(error) if waits(&error) => Behind::Nothing,
                        // The next read says so again.
                        Err(_) => Behind::Unknown,
                    };
                }
                // At most `most`.
                let header = self.machine.read(again, count as u32, behind, now);
                self.write(buffer, &header, count);
                return true;
            }
            Err(error) if waits(&error) => self.machine.dry(again),
            Err(_) => self.machine.failed(),
        }
        false
    }

    fn write(&self, buffer: &mut Buffer, header: &Header, payload: usize) {
        let Flow { source: outside, destination: remote, .. } = self.flow;
        header::write(buffer, remote, outside, header, payload, self.machine.mss());
    }

    fn over(&mut self, end: End, buffer: &mut Buffer, shared: &mut Shared) -> Turn {
        buffer.clear();
        if let Some(header) = &end.reset_inside {
            self.write(buffer, header, 0);
        }
        self.close(end.reset_host, shared);
        Turn::Over { packet: end.reset_inside.is_some(), silent: end.silent }
    }

    /// Gives everything back.
    pub fn close(&mut self, reset: bool, shared: &mut Shared) {
        if let Some(mut stream) = self.stream.take()
            && reset
        {
            stream.reset();
        }
        shared.kept = shared.kept.saturating_sub(self.kept.bytes().len());
        shared.kept_early = shared.kept_early.saturating_sub(self.early.len());
        self.kept = Kept::default();
        self.early.clear();
    }
}

/// Whether the call may be made again later.
fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
