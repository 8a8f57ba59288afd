//! Notices that the resolver behind the forwarding addresses does not answer, so that another is asked.
//!
//! Questions are not kept: whoever asked repeats his own, and by then they go to the next server. So it
//! must be known before that: stub resolvers wait 2.5 s (musl) or 5 s (glibc) for an answer.

use crate::flow::Time;
use std::time::Duration;

/// How long a resolver may be silent while it is being asked.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Whether somebody waits for the resolver.
#[derive(Default, Debug)]
pub(super) struct Silence {
    /// Since when it has been asked and has answered nothing to anybody.
    since: Option<Time>,
    broken: bool,
}

impl Silence {
    /// A question goes there.
    pub(super) fn asked(&mut self, now: Time) {
        self.since.get_or_insert(now);
    }

    /// Something came back, to whatever question: it is there.
    pub(super) fn answered(&mut self) {
        self.since = None;
    }

    /// It is said not to be there.
    pub(super) fn refused(&mut self) {
        *self = Silence { since: None, broken: true };
    }

    pub(super) fn tick(&mut self, now: Time) {
        if self.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.refused();
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.since.map(|since| since + PATIENCE)
    }

    /// Whether another should be asked; says so once.
    pub(super) fn take(&mut self) -> bool {
        std::mem::take(&mut self.broken)
    }
}
