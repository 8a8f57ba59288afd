//! On what machine, when and how it was measured.

use serde::Serialize;
use std::time::{Duration, SystemTime};
use std::{fs, thread};

/// Everything that a reader needs to judge the figures.
#[derive(Clone, Debug, Serialize)]
pub struct Conditions {
    /// UTC, RFC 3339.
    pub date: String,
    /// The kernel's release.
    pub kernel: String,
    /// What the processor calls itself.
    pub cpu: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// The load average of the last minute before the start: what else the machine was doing.
    pub load_before: f64,
    /// Rounds.
    pub rounds: u32,
    /// Seconds that each load was measured.
    pub seconds: f64,
    /// MTU of every wire, in bytes.
    pub mtu: u32,
    /// As root, or in a user namespace.
    pub user: &'static str,
}

impl Conditions {
    /// Looks at the machine.
    pub fn gather(rounds: u32, seconds: f64, mtu: u32, root: bool) -> Conditions {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let cpu = text("/proc/cpuinfo")
            .lines()
            .find_map(|line| {
                line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name.to_string())
            })
            .unwrap_or_else(|| std::env::consts::ARCH.to_string());
        #[expect(clippy::disallowed_methods, reason = "the date of the measurement")]
        let date = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        Conditions {
            date,
            kernel: text("/proc/sys/kernel/osrelease").trim().to_string(),
            cpu,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            load_before: text("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|word| word.parse().ok())
                .unwrap_or(f64::NAN),
            rounds,
            seconds,
            mtu,
            user: if root { "root" } else { "an ordinary user in a user namespace" },
        }
    }
}

/// Sleeps for `time`, and gives the percentage of it that the machine's processors were at work.
/// Called while every gateway waits for its first packet, so it is the noise of the machine, and the
/// cost of idle gateways if they have any.
pub fn busy_during(time: Duration) -> f64 {
    let (idle, all) = ticks();
    thread::sleep(time);
    let (still_idle, by_now) = ticks();
    let passed = by_now.saturating_sub(all).max(1);
    100.0 * (1.0 - still_idle.saturating_sub(idle) as f64 / passed as f64).max(0.0)
}

/// Ticks of all processors since boot: idle or waiting for a disk, and all.
fn ticks() -> (u64, u64) {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let words = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    // The eight before the guests' time, which is counted in them already.
    let ticks: Vec<u64> = words.take(8).filter_map(|word| word.parse().ok()).collect();
    let at = |place: usize| ticks.get(place).copied().unwrap_or(0);
    (at(3) + at(4), ticks.iter().sum())
}
