//! So many a second: a bucket of tokens in one number (the virtual scheduling of ITU-T I.371).

use crate::flow::Time;

/// When the bucket is full again, in nanoseconds. A new one is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Pace(u64);

const SECOND: u64 = 1_000_000_000;

impl Pace {
    /// Takes one of `per_second` tokens, which is also how many there are at once; false if there
    /// is none.
    pub(super) fn take(&mut self, now: Time, per_second: usize) -> bool {
        let rate = u64::try_from(per_second).unwrap_or(u64::MAX).clamp(1, SECOND);
        let full = self.0.max(now.as_nanos()) + SECOND / rate;
        let may = full - now.as_nanos() <= SECOND;
        if may {
            self.0 = full;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_at_once_as_a_second_and_then_one_by_one() {
        let mut pace = Pace::default();
        let mut passed = |at| (0..30).filter(|_| pace.take(Time::from_millis(at), 10)).count();
        assert_eq!(passed(5000), 10);
        assert_eq!(passed(5099), 0);
        assert_eq!(passed(5100), 1);
        assert_eq!(passed(5350), 2);
        assert_eq!(passed(60_000), 10);
    }
}
