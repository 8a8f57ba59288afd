//! What goes into the machine of a connection, and what comes out of it.

use crate::flow::{Segment, TcpFlags};
use std::time::Duration;

/// What a machine must know that is the same for all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Bytes from the inside that may be kept while the host socket does not take them.
    pub kept: u32,
    /// The most payload that fits a packet of this family.
    pub largest: u32,
    /// Silence of the inside end before it is probed.
    pub idle: Duration,
    /// How long an inside end that closed last may send its FIN again.
    pub linger: Duration,
}

/// A segment from the inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Incoming {
    /// Its flags.
    pub flags: TcpFlags,
    /// Its numbers.
    pub segment: Segment,
    /// The MSS option of a SYN.
    pub mss: Option<u16>,
    /// A SYN permits SACK (RFC 2018 §2).
    pub sack: bool,
}

/// SACK blocks, three at most: first and next sequence number (RFC 2018 §3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Blocks {
    blocks: [(u32, u32); 3],
    count: usize,
}

impl Blocks {
    /// One more; too many are left out.
    pub fn push(&mut self, block: (u32, u32)) {
        if let Some(place) = self.blocks.get_mut(self.count) {
            *place = block;
            self.count += 1;
        }
    }

    /// Those there are.
    pub fn all(&self) -> &[(u32, u32)] {
        &self.blocks[..self.count]
    }
}

/// The options of a segment towards the inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Options {
    /// None.
    None,
    /// Those of a SYN: MSS, window scale if there is one, whether SACK is permitted.
    Syn(Option<u8>, bool),
    /// What has come out of order.
    Sack(Blocks),
}

/// The header of a segment towards the inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The flags.
    pub flags: TcpFlags,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number.
    pub acknowledgment: u32,
    /// The window field.
    pub window: u16,
    /// The options; a segment with options has no payload.
    pub options: Options,
}

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// Nothing until something happens.
    Nothing,
    /// Discard so many bytes from the front of the host socket's queue, then [`super::Machine::discarded`].
    Discard(u32),
    /// Read up to `most` bytes at `offset` of the host socket's queue without taking them away, then
    /// [`super::Machine::read`], [`super::Machine::dry`] or [`super::Machine::ended`].
    Read {
        /// Where, from the front of the queue, in bytes.
        offset: u32,
        /// How many bytes at most; at least 1.
        most: u32,
        /// They were sent before, and count as lost.
        again: bool,
    },
    /// Send a segment without data.
    Send(Header),
    /// Tell the host socket that no more data follows.
    Shut,
    /// Close the host socket: both directions have ended.
    Close,
    /// The connection is over; forget it.
    Over(End),
}

/// What is behind the bytes that were read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Behind {
    /// More, or nobody has looked.
    Unknown,
    /// Nothing yet.
    Nothing,
    /// The end.
    End,
}

/// How a connection is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    /// Send this to the inside.
    pub reset_inside: Option<Header>,
    /// Reset the host socket instead of closing it.
    pub reset_host: bool,
    /// The inside did not answer for too long.
    pub silent: bool,
}

/// How far a connection is, as its table counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Age {
    /// It began inside, and one end has not agreed to it yet.
    HalfOpen,
    /// It was accepted on the host, and the inside has not agreed to it yet.
    Calling,
    /// Both have.
    Open,
    /// Nothing more will be carried.
    Ended,
}
