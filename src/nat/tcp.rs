//! What a TCP segment does to its session: RFC 7857 §2, with an eye on its numbers (RFC 5961).
//!
//! ```text
//!            SYN           SYN+ACK             ACK                 FIN          FIN the other way
//!   (none) ──────> OutSyn ────────> OutAnswered ──> Established ─────> …Closed ────────> Closing
//!              or  InSyn        or  InAnswered           │ ^                                │ SYN
//!                                                    RST │ │ data                           v
//!                                                        v │                         a new session
//!                                                       Reset ── SYN ──> a new session
//! ```
//!
//! What is true of all of it:
//!
//! * A segment changes state, or keeps a session alive, only if its numbers belong. What is too old
//!   or a little too far passes and changes nothing; its receiver knows best. What no TCP at this
//!   end can have sent is refused: nobody misses it.
//! * A SYN in mid-connection passes, for the receiver will challenge it; it is remembered aside, and
//!   counts once the other side accepts it.
//! * A RST never ends a session (RFC 7857 §2.2), and only one that is exactly right starts the time
//!   after which the session goes. Any other meets a challenge, which must find its way.
//! * During the handshake the inside host is believed: whoever forges from outside cannot know what
//!   it has seen. A remote must acknowledge the inside host's SYN to be.

use super::TcpState;
use super::session::{Phase, Session, Way};
use super::window::{Aim, Place};
use crate::flow::{Data, Segment, TcpFlags};

/// The state of a TCP session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// A SYN has gone out.
    OutSyn,
    /// A SYN has come in.
    InSyn,
    /// The remote has answered the SYN that went out.
    OutAnswered,
    /// The inside host has answered the SYN that came in.
    InAnswered,
    /// The answer has been acknowledged.
    Established,
    /// A FIN has gone out.
    InsideClosed,
    /// A FIN has come in.
    RemoteClosed,
    /// FINs have gone both ways.
    Closing,
    /// A RST has been seen and nothing since.
    Reset,
}

use State::{
    Closing, Established, InAnswered, InSyn, InsideClosed, OutAnswered, OutSyn, RemoteClosed, Reset,
};

/// What a segment does to a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    /// It is refused: no TCP at the end that it claims to come from can have sent it.
    Refuse,
    /// It passes and changes nothing.
    Ignore,
    /// It passes; what it sends too much may be acknowledged.
    Overshoot,
    /// It keeps the session alive; its numbers say nothing new.
    Refresh,
    /// It belongs: its numbers are learned, the session is kept alive and goes to this state.
    Take(State),
    /// The sender begins here; the session goes to this state.
    Begin(State),
    /// The sender answers the other's SYN; the session goes to this state.
    Answer(State),
    /// A SYN in mid-connection, to be remembered.
    Knock,
    /// The sender accepts such a SYN: the connection begins anew, in this state.
    Resync(Segment, State),
    /// It belongs, but not to the handshake that was seen: the session is judged no more.
    Loosen,
    /// A RST that counts.
    Reset,
    /// A new connection takes the place of this one.
    Reopen,
}

/// One segment against one session.
pub(super) struct Case<'a, K> {
    pub session: &'a Session,
    pub way: Way,
    pub data: &'a Data,
    /// The SYN in mid-connection from the other side that an acknowledgement accepts.
    pub knock: K,
}

impl<K: Fn(u32) -> Option<Segment>> Case<'_, K> {
    /// What the segment does.
    #[inline]
    pub(super) fn effect(&self) -> Effect {
        let Phase::Tcp(state) = self.session.phase else { return Effect::Ignore };
        let flags = self.data.tcp;
        if flags.has(TcpFlags::RST) {
            self.rst(state)
        } else if flags.opens() {
            self.syn(state)
        } else if flags.has(TcpFlags::SYN) {
            self.syn_ack(state)
        } else {
            match state {
                Established | InsideClosed | RemoteClosed | Closing => self.data(state),
                Reset => self.after_reset(),
                OutSyn | InSyn | OutAnswered | InAnswered => self.handshake(state),
            }
        }
    }

    fn fin(&self) -> bool {
        self.data.tcp.has(TcpFlags::FIN)
    }

    fn sequence(&self) -> Place {
        let flags = self.data.tcp.0 & (TcpFlags::SYN.0 | TcpFlags::FIN.0);
        let Session { windows, .. } = self.session;
        windows.sequence(self.way, &self.data.segment, u32::from(flags != 0), self.session.bytes())
    }

    fn acknowledgement(&self) -> Place {
        self.session.windows.acknowledgement(self.way, &self.data.segment, self.session.bytes())
    }

    fn belongs(&self) -> bool {
        self.session.windows.whole() && (self.sequence(), self.acknowledgement()) == (Place::In, Place::In)
    }

    /// Data, acknowledgements and FINs of a connection.
    #[inline]
    fn data(&self, state: State) -> Effect {
        let next = if self.fin() { state.closed(self.way) } else { state };
        if !self.session.windows.whole() {
            return Effect::Take(next);
        }
        match (self.sequence(), self.acknowledgement()) {
            (Place::In, Place::In) => Effect::Take(next),
            (_, Place::Beyond) | (Place::Beyond, _) => Effect::Refuse,
            (Place::Old | Place::Ahead, _) if self.fin() => Effect::Refuse,
            (Place::Ahead, _) => Effect::Overshoot,
            (Place::In | Place::Old, _) => Effect::Ignore,
        }
    }

    /// The same after a RST: whoever still speaks was not reset.
    fn after_reset(&self) -> Effect {
        match self.session.before_reset() {
            before @ (Established | InsideClosed | RemoteClosed | Closing | Reset) => self.data(before),
            before => match self.handshake(before) {
                Effect::Take(state) => Effect::Take(state),
                _ => Effect::Ignore,
            },
        }
    }

    /// The same while the connection is being opened.
    fn handshake(&self, state: State) -> Effect {
        match state {
            OutSyn if self.way == Way::Out => Effect::Refresh,
            // A connection of a remote is open once the remote has acknowledged: others cannot. An
            // inside host acknowledges too when somebody forges a second SYN (RFC 5961 §4).
            InAnswered if self.way == Way::Out && self.belongs() => Effect::Take(state),
            OutAnswered | InAnswered if self.belongs() => {
                Effect::Take(if self.fin() { Established.closed(self.way) } else { Established })
            }
            OutAnswered | InAnswered if self.way == Way::Out => Effect::Loosen,
            _ => Effect::Ignore,
        }
    }

    fn syn(&self, state: State) -> Effect {
        let Session { windows, .. } = self.session;
        let segment = &self.data.segment;
        match (state, self.way) {
            // The SYN of the connection that is over may come late.
            (Closing | Reset, _) if windows.repeats_the_past(self.way, segment, self.session.bytes()) => {
                Effect::Knock
            }
            (Closing | Reset, Way::Out) => Effect::Reopen,
            // Anybody can send one in the remote's name, while the last FIN is still on its way.
            (Closing | Reset, Way::In) => Effect::Knock,
            (OutSyn, Way::Out) | (InSyn, Way::In) if windows.repeats(self.way, segment) => Effect::Refresh,
            (OutSyn, _) | (InSyn, Way::Out) => Effect::Begin(OutSyn),
            (InSyn, Way::In) if !windows.knows(self.way) => Effect::Begin(InSyn),
            (InSyn, Way::In) => Effect::Knock,
            (OutAnswered, Way::Out) | (InAnswered, Way::In)
                if windows.knows(self.way) && self.sequence() == Place::In =>
            {
                Effect::Refresh
            }
            (OutAnswered | InAnswered, Way::Out) => Effect::Begin(OutSyn),
            (OutAnswered, Way::In) => Effect::Ignore,
            _ if windows.opened_with(self.way, segment, self.session.bytes()) => Effect::Ignore,
            _ => Effect::Knock,
        }
    }

    fn syn_ack(&self, state: State) -> Effect {
        let Session { windows, .. } = self.session;
        let segment = &self.data.segment;
        match state {
            OutAnswered | InAnswered if self.belongs() => {
                Effect::Take(if state.opener() == Some(self.way) { Established } else { state })
            }
            OutSyn | InSyn | OutAnswered | InAnswered => {
                let answered = State::answered(self.way.back());
                if windows.answers(self.way, segment) {
                    return Effect::Answer(answered);
                }
                match (self.knock)(segment.acknowledgement) {
                    Some(syn) => Effect::Resync(syn, answered),
                    None if self.way == Way::Out => Effect::Answer(answered),
                    None => Effect::Refuse,
                }
            }
            Established | InsideClosed | RemoteClosed | Closing | Reset => {
                if let Some(syn) = (self.knock)(segment.acknowledgement) {
                    return Effect::Resync(syn, State::answered(self.way.back()));
                }
                match (self.sequence(), self.acknowledgement()) {
                    _ if !windows.whole() => Effect::Ignore,
                    (Place::In | Place::Old, Place::In | Place::Old) => Effect::Ignore,
                    _ => Effect::Refuse,
                }
            }
        }
    }

    fn rst(&self, state: State) -> Effect {
        let Session { windows, .. } = self.session;
        let Segment { sequence, acknowledgement, .. } = self.data.segment;
        let acknowledges = self.data.tcp.has(TcpFlags::ACK);
        match state {
            OutSyn | InSyn | OutAnswered | InAnswered if state.opener() != Some(self.way) => {
                let judged = matches!(state, OutAnswered | InAnswered) && windows.whole();
                let aim = if judged { windows.aim(self.way, sequence) } else { Aim::Off };
                if aim == Aim::Exact || acknowledges && windows.answers(self.way, &self.data.segment) {
                    Effect::Reset
                } else if aim == Aim::Near || self.way == Way::Out {
                    Effect::Ignore
                } else {
                    Effect::Refuse
                }
            }
            // An answer to something from an earlier connection may lie anywhere.
            OutSyn | InSyn | OutAnswered | InAnswered => match windows.aim(self.way, sequence) {
                Aim::Exact if windows.knows(self.way) => Effect::Reset,
                _ => Effect::Ignore,
            },
            _ if acknowledges && (self.knock)(acknowledgement).is_some() => Effect::Reset,
            _ if !windows.whole() => Effect::Ignore,
            _ => match windows.aim(self.way, sequence) {
                Aim::Exact if matches!(state, Closing | Reset) => Effect::Ignore,
                Aim::Exact => Effect::Reset,
                Aim::Near => Effect::Ignore,
                Aim::Off => Effect::Refuse,
            },
        }
    }
}

impl State {
    /// Every state, in its place.
    pub(super) const ALL: [State; 9] =
        [OutSyn, InSyn, OutAnswered, InAnswered, Established, InsideClosed, RemoteClosed, Closing, Reset];

    /// The state of a session that a SYN going this way opens.
    pub(super) fn opened_by(way: Way) -> State {
        match way {
            Way::Out => OutSyn,
            Way::In => InSyn,
        }
    }

    /// The state once such a SYN has been answered.
    fn answered(way: Way) -> State {
        match way {
            Way::Out => OutAnswered,
            Way::In => InAnswered,
        }
    }

    /// Which way the SYN went, while the connection is being opened.
    pub(super) fn opener(self) -> Option<Way> {
        match self {
            OutSyn | OutAnswered => Some(Way::Out),
            InSyn | InAnswered => Some(Way::In),
            _ => None,
        }
    }

    /// The state after a FIN that goes this way.
    fn closed(self, way: Way) -> State {
        match (self, way) {
            (Established, Way::Out) => InsideClosed,
            (Established, Way::In) => RemoteClosed,
            (InsideClosed, Way::In) | (RemoteClosed, Way::Out) => Closing,
            _ => self,
        }
    }

    /// The state as others see it.
    pub(super) fn view(self) -> TcpState {
        match self {
            OutSyn | InSyn | OutAnswered | InAnswered => TcpState::Opening,
            Established => TcpState::Established,
            InsideClosed => TcpState::InsideClosed,
            RemoteClosed => TcpState::RemoteClosed,
            Closing => TcpState::Closing,
            Reset => TcpState::Reset,
        }
    }
}
