//! The one place that asks for the time.

use crate::flow::Time;
use std::time::{Instant, SystemTime};

/// A clock that counts from when it was made: monotonic, with the wall-clock time of its start.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    base: SystemTime,
}

impl Clock {
    /// A clock that begins now.
    #[expect(clippy::disallowed_methods, reason = "the one place that asks for the time")]
    pub fn start() -> Self {
        Clock { start: Instant::now(), base: SystemTime::now() }
    }

    /// The time.
    pub fn now(&self) -> Time {
        Time::ZERO + self.start.elapsed()
    }

    /// The wall-clock time of [`Time::ZERO`].
    pub fn base(&self) -> SystemTime {
        self.base
    }
}
