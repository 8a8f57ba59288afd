//! A way in that is narrowed while it is flooded: what is in use is learnt first, then that is let in whole
//! and little of the rest, until the flood is over.

use super::{SPELL, is_over};
use crate::flow::Time;
use crate::flow::bucket::TokenBucket;
use std::time::Duration;

/// How long what is in use is looked for before the rest is left unread.
const LEARNING: Duration = Duration::from_millis(50);
/// What comes into use is let in at once so often, which costs a new program in the kernel each time:
pub(super) const BURST: u32 = 50;
/// and so often a second;
const PER_SECOND: u32 = 200;
/// else so soon, with what else has come into use.
const SOON: Duration = Duration::from_millis(5);

/// What was seen in use.
pub(super) trait Seen {
    /// A spell has passed.
    fn turn(&mut self);
}

/// A way in.
#[derive(Debug, Default)]
pub(super) enum Gate<S> {
    /// All is let in.
    #[default]
    Open,
    /// What is in use is noted until then.
    Learning(Time, S),
    Narrow(Narrow<S>),
}

/// A way by which only what is in use is let in whole.
#[derive(Debug)]
pub(super) struct Narrow<S> {
    pub seen: S,
    /// What may be in use besides is to be looked at anew.
    pub stale: bool,
    since: Time,
    read: u32,
    /// How often something that comes into use is let in at once, and when it is else.
    at_once: TokenBucket,
    more: Option<Time>,
}

impl<S: Seen> Gate<S> {
    pub fn is_open(&self) -> bool {
        matches!(self, Gate::Open)
    }

    /// Begins to note what is in use, if all was let in.
    pub fn narrow_down(&mut self, seen: impl FnOnce() -> S, now: Time) {
        if self.is_open() {
            *self = Gate::Learning(now + LEARNING, seen());
        }
    }

    /// What is let in whole, if not all is.
    pub fn narrow(&mut self) -> Option<&mut Narrow<S>> {
        match self {
            Gate::Narrow(narrow) => Some(narrow),
            _ => None,
        }
    }

    /// Has something noted that is in use; `note` says whether it is new. True if it is to be let in at
    /// once.
    pub fn note(&mut self, now: Time, note: impl FnOnce(&mut S) -> bool) -> bool {
        match self {
            Gate::Open => false,
            Gate::Learning(_, seen) => {
                note(seen);
                false
            }
            Gate::Narrow(Narrow { seen, at_once, more, .. }) => {
                if !note(seen) {
                    return false;
                }
                let take = at_once.take(now);
                if take {
                    *more = None;
                } else if more.is_none() {
                    *more = Some(now + SOON);
                }
                take
            }
        }
    }

    /// Does what time asks for; true if something else is to be let in then.
    pub fn tick(&mut self, now: Time) -> bool {
        match std::mem::take(self) {
            Gate::Learning(until, seen) if until <= now => {
                let at_once = TokenBucket::new(BURST, PER_SECOND);
                *self = Gate::Narrow(Narrow { seen, stale: true, since: now, read: 0, at_once, more: None });
                true
            }
            Gate::Narrow(narrow) if now.since(narrow.since) >= SPELL && is_over(narrow.read) => true,
            Gate::Narrow(mut narrow) if now.since(narrow.since) >= SPELL => {
                narrow.seen.turn();
                *self = Gate::Narrow(Narrow { stale: true, since: now, read: 0, more: None, ..narrow });
                true
            }
            Gate::Narrow(narrow) if narrow.more.is_some_and(|more| more <= now) => {
                *self = Gate::Narrow(Narrow { more: None, ..narrow });
                true
            }
            as_it_was => {
                *self = as_it_was;
                false
            }
        }
    }

    /// When [`Gate::tick`] has something to do.
    pub fn next_deadline(&self) -> Option<Time> {
        match self {
            Gate::Open => None,
            Gate::Learning(until, _) => Some(*until),
            Gate::Narrow(Narrow { since, more, .. }) => {
                Some(more.map_or(*since + SPELL, |more| more.min(*since + SPELL)))
            }
        }
    }
}

impl<S> Narrow<S> {
    /// Notes that one packet of the rest was read, and dropped.
    pub fn dropped(&mut self) {
        self.read += 1;
    }
}
