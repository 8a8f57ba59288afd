//! How much a busy connection may have on its way from the inside, so that many share the TAP evenly.
//!
//! A window is a promise to keep as much, and the TAP's queue holds what all of them allow together.
//! With a MiB for each of hundreds, frames wait there for longer than their senders' retransmission
//! timers: some connections are thrown back to one segment for nothing, and starve. So the busy
//! connections share what may still be kept in all: what others keep whose remotes have stopped reading is
//! promised to nobody. Who brings little takes no share.

use crate::flow::Time;
use std::time::Duration;

/// The smallest share, in bytes; less than this in a [`PERIOD`] is little.
const LEAST: u32 = 32 * 1024;
/// What all busy connections may have on the way together where they are many: with more, their frames fill
/// the TAP's queue, and whoever loses one falls behind.
const ON_THE_WAY: usize = 16 << 20;
/// For how long a connection counts that was busy.
const PERIOD: Duration = Duration::from_millis(500);

/// What a connection brought lately.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lately {
    period: u64,
    bytes: u32,
}

/// Counts the busy connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Share {
    period: u64,
    /// How many were busy in the period before, and have been in this one.
    before: u32,
    busy: u32,
}

impl Share {
    /// The share of `left`, in bytes, of a connection that has brought `bytes` more.
    pub fn of(&mut self, lately: &mut Lately, bytes: usize, left: usize, now: Time) -> u32 {
        let period = now.as_nanos() / PERIOD.as_nanos() as u64;
        if period != self.period {
            self.before = if period == self.period + 1 { self.busy } else { 0 };
            (self.period, self.busy) = (period, 0);
        }
        if lately.period != period {
            *lately = Lately { period, bytes: 0 };
        }
        let was_busy = lately.bytes >= LEAST;
        lately.bytes = lately.bytes.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.busy += u32::from(!was_busy && lately.bytes >= LEAST);
        let busy = self.before.max(self.busy).max(1) as usize;
        u32::try_from(left.min(ON_THE_WAY) / busy).unwrap_or(u32::MAX).max(LEAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn busy_connections_share_and_others_take_nothing() {
        let (mut share, mut many) = (Share::default(), [Lately::default(); 100]);
        let mut of = |lately: &mut Lately, bytes, at| share.of(lately, bytes, 32 * MIB, at);
        let at = |half: u32| Time::ZERO + PERIOD * half;
        assert_eq!(of(&mut many[0], MIB, at(1)), ON_THE_WAY as u32);
        for lately in &mut many[1..] {
            of(lately, 100, at(1));
        }
        assert_eq!(of(&mut many[0], MIB, at(1)), ON_THE_WAY as u32, "they bring little");
        for lately in &mut many {
            of(lately, 40_000, at(1));
        }
        let hundredth = ON_THE_WAY as u32 / 100;
        assert_eq!(of(&mut many[0], 1, at(1)), hundredth);
        assert_eq!(of(&mut many[0], MIB, at(2)), hundredth, "they were busy a moment ago");
        assert_eq!(of(&mut many[0], MIB, at(3)), ON_THE_WAY as u32);
        of(&mut many[1], MIB, at(3));
        assert_eq!(of(&mut many[0], MIB, at(60)), ON_THE_WAY as u32, "nobody was for long");
    }

    #[test]
    fn the_share_is_never_useless() {
        let mut share = Share::default();
        let mut least = u32::MAX;
        for _ in 0..1000 {
            least = share.of(&mut Lately::default(), MIB, MIB, Time::ZERO);
        }
        assert_eq!(least, LEAST);
        assert_eq!(Share::default().of(&mut Lately::default(), 1, usize::MAX, Time::ZERO), ON_THE_WAY as u32);
        assert_eq!(Share::default().of(&mut Lately::default(), 1, 0, Time::ZERO), LEAST);
    }
}
