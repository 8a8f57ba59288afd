//! What TCP flags do to a session: RFC 7857 §2 as one table.
//!
//! ```text
//!            SYN one way        SYN the other way       FIN          FIN the other way
//!   (none) ──────────────> OutSyn / InSyn ──> Established ──> …Closed ──────────────> Closing
//!                                                                                       │ SYN
//!   any but Closing ── RST ──> Reset ── data ──> the state before the RST               v
//!                                └───── SYN ──────────────────────────────────────> a new session
//! ```
//!
//! A RST never ends a session (RFC 7857 §2.2): a forged one would cost the ends their mapping.
//! Sequence numbers are not read.

use super::TcpState;
use super::session::Way;
use crate::flow::TcpFlags;

/// The state of a TCP session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// A SYN has gone out.
    OutSyn,
    /// A SYN has come in.
    InSyn,
    /// SYNs have gone both ways.
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

/// What a segment does to a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// Nothing.
    Stay,
    /// It goes to this state.
    Go(State),
    /// It goes to `Reset` and remembers where it was.
    Rst,
    /// It goes back to where it was before the RST.
    Resume,
    /// It ends, and a new one takes its place.
    Reopen,
}

use Next::{Go, Reopen, Resume, Rst, Stay};
use State::{Closing, Established, InsideClosed, RemoteClosed};

/// `[state][way][kind]`; the kinds are SYN, SYN+ACK, FIN, RST, anything else.
#[rustfmt::skip]
const TABLE: [[[Next; 5]; 2]; 7] = [
    //                  SYN                SYN+ACK            FIN                RST   else
    /* OutSyn, out */ [[Stay,              Stay,              Stay,              Rst,  Stay],
    /*         in  */  [Go(Established),   Go(Established),   Stay,              Rst,  Stay]],
    /* InSyn,  out */ [[Go(Established),   Go(Established),   Stay,              Rst,  Stay],
    /*         in  */  [Stay,              Stay,              Stay,              Rst,  Stay]],
    // A SYN here meets a challenge ACK (RFC 5961 §4), which must pass.
    /* Established */ [[Stay,              Stay,              Go(InsideClosed),  Rst,  Stay],
                       [Stay,              Stay,              Go(RemoteClosed),  Rst,  Stay]],
    /* InsideClosed*/ [[Stay,              Stay,              Stay,              Rst,  Stay],
                       [Stay,              Stay,              Go(Closing),       Rst,  Stay]],
    /* RemoteClosed*/ [[Stay,              Stay,              Go(Closing),       Rst,  Stay],
                       [Stay,              Stay,              Stay,              Rst,  Stay]],
    /* Closing     */ [[Reopen,            Stay,              Stay,              Stay, Stay],
                       [Reopen,            Stay,              Stay,              Stay, Stay]],
    /* Reset       */ [[Reopen,            Resume,            Resume,            Stay, Resume],
                       [Reopen,            Resume,            Resume,            Stay, Resume]],
];

/// What a segment with these flags does to a session in this state.
#[inline]
pub(super) fn next(state: State, way: Way, flags: TcpFlags) -> Next {
    let kind = if flags.has(TcpFlags::RST) {
        3
    } else if flags.has(TcpFlags::SYN) {
        usize::from(flags.has(TcpFlags::ACK))
    } else if flags.has(TcpFlags::FIN) {
        2
    } else {
        4
    };
    TABLE[state as usize][way as usize][kind]
}

impl State {
    /// The state of a session that a SYN going this way opens.
    pub(super) fn opened_by(way: Way) -> State {
        match way {
            Way::Out => State::OutSyn,
            Way::In => State::InSyn,
        }
    }

    /// The state as others see it.
    pub(super) fn view(self) -> TcpState {
        match self {
            State::OutSyn | State::InSyn => TcpState::Opening,
            State::Established => TcpState::Established,
            State::InsideClosed => TcpState::InsideClosed,
            State::RemoteClosed => TcpState::RemoteClosed,
            State::Closing => TcpState::Closing,
            State::Reset => TcpState::Reset,
        }
    }
}
