//! How long an acknowledgement takes, and how long to wait for one (RFC 6298).

use std::time::Duration;

/// The wait before anything was measured (RFC 6298 §2.1).
const FIRST: Duration = Duration::from_secs(1);
/// The shortest wait: that of Linux, whose delayed acknowledgements take up to 40 ms.
const LEAST: Duration = Duration::from_millis(200);
/// The longest wait (RFC 6298 §2.5).
const MOST: Duration = Duration::from_secs(60);

/// The estimate of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Rtt {
    smoothed: Option<(Duration, Duration)>,
    doublings: u32,
}

impl Rtt {
    /// Nothing measured yet.
    pub fn new() -> Rtt {
        Rtt { smoothed: None, doublings: 0 }
    }

    /// A segment that was sent once was acknowledged after `sample` (RFC 6298 §2.2, §2.3).
    pub fn measured(&mut self, sample: Duration) {
        self.smoothed = Some(match self.smoothed {
            None => (sample, sample / 2),
            Some((mean, deviation)) => {
                (mean * 7 / 8 + sample / 8, deviation * 3 / 4 + mean.abs_diff(sample) / 4)
            }
        });
    }

    /// The wait has run out: the next is twice as long (§5.5).
    pub fn back_off(&mut self) {
        self.doublings = (self.doublings + 1).min(16);
    }

    /// Something new was acknowledged.
    pub fn progress(&mut self) {
        self.doublings = 0;
    }

    /// How long to wait.
    pub fn timeout(&self) -> Duration {
        let plain = match self.smoothed {
            None => FIRST,
            Some((mean, deviation)) => (mean + deviation * 4).max(LEAST),
        };
        (plain * (1 << self.doublings)).min(MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_follows_what_is_measured_and_doubles() {
        let mut rtt = Rtt::new();
        assert_eq!(rtt.timeout(), FIRST);
        rtt.measured(Duration::from_micros(80));
        assert_eq!(rtt.timeout(), LEAST);
        rtt.measured(Duration::from_secs(4));
        assert!(rtt.timeout() > Duration::from_secs(4));
        for _ in 0..40 {
            rtt.back_off();
        }
        assert_eq!(rtt.timeout(), MOST);
        rtt.progress();
        assert!(rtt.timeout() < Duration::from_secs(10));
    }
}
