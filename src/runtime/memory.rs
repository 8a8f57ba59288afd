//! What is remembered of outside ports beyond the end of the process.

use super::clock::Clock;
use crate::config::Settings;
use crate::flow::Time;
use crate::gateway::Gateway;
use crate::io::portlog::PortLog;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// The log of ports in use, kept by the worker.
#[derive(Debug)]
pub struct PortMemory {
    log: PortLog,
    /// The second of the wall clock at [`Time::ZERO`].
    base: u32,
}

/// The file beside the control socket.
fn path(settings: &Settings) -> PathBuf {
    settings.control.with_extension("ports")
}

impl PortMemory {
    /// Opens the log, and keeps the gateway from ports that it was using until a moment ago. `None`
    /// if there can be no log; why is logged. The control socket must be ours already: it keeps a
    /// second gateway of the same name from this file.
    pub fn open(settings: &Settings, gateway: &mut Gateway, clock: Clock) -> Option<PortMemory> {
        let base = clock.base().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = clock.now();
        let wall = base + now.since(Time::ZERO);
        let hold = gateway.config().nat.policy.timeouts.port_hold;
        let since = seconds(wall.saturating_sub(hold));
        let external = gateway.config().nat.external.clone();
        let (log, used) = match PortLog::open(&path(settings), &external, seconds(wall), since) {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!("ports in use will not be remembered over a restart: {error}");
                return None;
            }
        };
        for port in &used {
            // A second is counted whole, so that none is let go early.
            let until = Duration::from_secs(u64::from(port.last) + 1) + hold;
            gateway.hold(port.protocol, port.outside, now + until.saturating_sub(wall));
        }
        if !used.is_empty() {
            tracing::info!("{} ports of an earlier run rest for a while", used.len());
        }
        gateway.record_port_uses();
        Some(PortMemory { log, base: seconds(base) })
    }

    /// Notes the ports that were taken and given up since the last call. Called before what was
    /// sent from a new port leaves.
    pub fn note(&mut self, gateway: &mut Gateway, now: Time) {
        let now = self.second(now);
        for port in gateway.port_uses() {
            self.log.note(port.protocol, port.outside, port.in_use, now);
        }
        self.log.alive(now);
    }

    fn second(&self, now: Time) -> u32 {
        self.base.saturating_add(seconds(now.since(Time::ZERO)))
    }
}

fn seconds(time: Duration) -> u32 {
    // Below the mark of ports in use.
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX).min(u32::MAX - 1)
}
