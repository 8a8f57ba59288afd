//! What the control interface needs from a running gateway.

use crate::flow::Time;
use crate::gateway::{Command, Reply};
use crate::observe::{Feed, FlowBoard};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::time::SystemTime;

/// A running gateway, as the control interface sees it. Called from several threads.
pub trait Engine: Send + Sync {
    /// Has a command carried out between packets, and waits for the answer.
    ///
    /// # Errors
    /// [`Gone`] if the gateway is ending, or does not answer in a few seconds.
    fn ask(&self, command: Command) -> Result<Reply, Gone>;

    /// Wakes the worker, so that it looks at [`FlowBoard::wanted`].
    fn wake(&self);

    /// The live flow table.
    fn board(&self) -> &FlowBoard;

    /// Events.
    fn feed(&self) -> &Feed;

    /// What the gateway is.
    fn about(&self) -> About;

    /// The wall-clock time of [`Time::ZERO`].
    fn wall_clock_base(&self) -> SystemTime;

    /// The time.
    fn now(&self) -> Time;
}

/// The gateway does not answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the gateway does not answer")]
pub struct Gone;

/// What a gateway is: what it was told and what it chose. Texts are for people; port
/// forwards are checked against `inside` and `external`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// Instance name.
    pub name: String,
    /// Process id.
    pub pid: u32,
    /// When it began, RFC 3339 UTC.
    pub started: String,
    /// The TAP's name.
    pub tap: String,
    /// What the TAP offloads: `checksum+tso+uso` or `none`.
    pub tap_offload: String,
    /// The bridge it is a port of.
    pub bridge: Option<String>,
    /// The gateway's own addresses inside, with prefixes.
    pub inside: Vec<IpNet>,
    /// Its MAC inside.
    pub mac: String,
    /// MTU inside, in bytes.
    pub mtu: u16,
    /// The outside interface.
    pub outside: String,
    /// The addresses it translates to.
    pub external: Vec<IpAddr>,
    /// The ports it uses there: `FIRST-LAST`.
    pub ports: String,
    /// The uplink in use: `packet` or `raw`.
    pub uplink: String,
    /// The guard in use: `tcx`, `hold` or `off`.
    pub guard: String,
    /// Why these were chosen, one line each.
    pub reasons: Vec<String>,
}
