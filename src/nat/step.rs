//! What an observer of the translator is told. `()` observes nothing and costs nothing.

use super::{BlockView, EgressRule, Refusal, SessionView};
use crate::flow::{Flow, Time};

/// One thing that happened in the translator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// A session was opened.
    Opened(SessionView),
    /// A TCP session changed its state; the view shows the new one.
    Changed(SessionView),
    /// A session ended.
    Closed(SessionView, Closed),
    /// A packet was refused.
    Refused(Flow, Refusal),
    /// A packet was refused by this egress rule ([`Refusal::EgressDenied`]).
    Denied(Flow, Box<EgressRule>),
    /// A block of ports was lent to an inside host that had used up its own (RFC 7422 §2).
    Lent(BlockView),
    /// A lent block of ports was given up.
    Returned(BlockView),
}

/// Why a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Closed {
    /// Idle for its timeout.
    Expired,
    /// Forgotten on request.
    Flushed,
    /// Its port forward was removed.
    Unpublished,
    /// Closed both ways and its port was needed.
    Recycled,
    /// A new connection took its place.
    Reopened,
    /// A new configuration does not allow it.
    Reconfigured,
}

/// Somebody who looks at the translator's steps.
pub trait Observer {
    /// Whether steps are wanted at all; if false, none is built but [`Step::Lent`] and
    /// [`Step::Returned`], which must be logged whoever looks.
    fn wants(&self) -> bool {
        true
    }

    /// A step was taken at `now`.
    fn step(&mut self, step: Step, now: Time);
}

impl Observer for () {
    fn wants(&self) -> bool {
        false
    }

    fn step(&mut self, _: Step, _: Time) {}
}

impl Observer for Vec<Step> {
    fn step(&mut self, step: Step, _: Time) {
        self.push(step);
    }
}
