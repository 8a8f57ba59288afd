//! A token bucket whose clock is handed in.

use super::Time;
use std::time::Duration;

/// Allows `burst` at once and then one every `interval`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TokenBucket {
    burst: u32,
    interval: Duration,
    tokens: u32,
    filled: Time,
}

impl TokenBucket {
    /// A full bucket of `burst` tokens that gains `per_second` tokens a second (at least one).
    pub fn new(burst: u32, per_second: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        TokenBucket { burst, interval, tokens: burst, filled: Time::ZERO }
    }

    /// Takes a token; false if there is none.
    pub fn take(&mut self, now: Time) -> bool {
        let gained = now.since(self.filled).as_nanos() / self.interval.as_nanos().max(1);
        if gained >= u128::from(self.burst) {
            self.tokens = self.burst;
            self.filled = now;
        } else if let Ok(gained) = u32::try_from(gained) {
            self.tokens = (self.tokens + gained).min(self.burst);
            self.filled = self.filled + self.interval * gained;
        }
        self.tokens.checked_sub(1).map(|left| self.tokens = left).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_the_rate() {
        let mut bucket = TokenBucket::new(3, 10);
        let passed =
            |bucket: &mut TokenBucket, at| (0..10).filter(|_| bucket.take(Time::from_millis(at))).count();
        assert_eq!(passed(&mut bucket, 5), 3);
        assert_eq!(passed(&mut bucket, 50), 0);
        assert_eq!(passed(&mut bucket, 105), 1);
        assert_eq!(passed(&mut bucket, 299), 1);
        assert_eq!(passed(&mut bucket, 60_000), 3);
    }
}
