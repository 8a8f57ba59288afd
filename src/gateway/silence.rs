//! Whether the resolver behind the forwarding addresses is there.

use crate::flow::{Silence, Time};

/// What is known of it.
#[derive(Default, Debug)]
pub(super) struct Resolver {
    silence: Silence,
    broken: bool,
}

impl Resolver {
    /// A question for `name` goes there.
    pub(super) fn asked(&mut self, name: &str, now: Time) {
        self.silence.asked(name, now);
    }

    /// Something came back, to whatever question: it is there.
    pub(super) fn answered(&mut self, now: Time) {
        self.silence.answered(now);
    }

    /// It is said not to be there.
    pub(super) fn refused(&mut self) {
        *self = Resolver { silence: Silence::default(), broken: true };
    }

    pub(super) fn tick(&mut self, now: Time) {
        if self.silence.is_over(now) {
            self.refused();
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.silence.deadline()
    }

    /// Whether another should be asked; says so once.
    pub(super) fn take(&mut self) -> bool {
        std::mem::take(&mut self.broken)
    }
}
