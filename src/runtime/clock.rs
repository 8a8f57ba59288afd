//! The one place that asks for the time.

use crate::flow::Time;
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::time::{Duration, SystemTime};

/// A clock that counts from when it was made, with the wall-clock time of its start. It goes on while
/// the host sleeps, as it does for the remotes and for every NAT and firewall on the way: what has run
/// out there has run out here.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Duration,
    base: SystemTime,
}

impl Clock {
    /// A clock that begins now.
    #[expect(clippy::disallowed_methods, reason = "the one place that asks for the time")]
    pub fn start() -> Self {
        Clock { start: read(ClockId::Boottime), base: SystemTime::now() }
    }

    /// The time.
    pub fn now(&self) -> Time {
        Time::ZERO + read(ClockId::Boottime).saturating_sub(self.start)
    }

    /// The wall-clock time of [`Time::ZERO`].
    pub fn base(&self) -> SystemTime {
        self.base
    }

    /// How long the host has slept since it was started.
    pub fn slept(&self) -> Duration {
        // In this order the difference is never short of what it was before.
        let awake = read(ClockId::Monotonic);
        read(ClockId::Boottime).saturating_sub(awake)
    }
}

fn read(clock: ClockId) -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
    Duration::new(u64::try_from(tv_sec).unwrap_or(0), u32::try_from(tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_and_nobody_sleeps_meanwhile() {
        let clock = Clock::start();
        let (first, slept) = (clock.now(), clock.slept());
        std::thread::sleep(Duration::from_millis(2));
        assert!(clock.now().since(first) >= Duration::from_millis(2));
        assert!(clock.slept().saturating_sub(slept) < Duration::from_secs(1));
    }
}
