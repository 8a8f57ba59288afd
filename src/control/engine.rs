//! What the control interface needs from a running gateway.

use super::protocol::Problem;
use crate::config::Change;
use crate::flow::Time;
use crate::gateway::{Command, Reply};
use crate::observe::{Feed, FlowBoard};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

/// A running gateway, as the control interface sees it. Called from several threads.
pub trait Engine: Send + Sync {
    /// Has a command carried out between packets, and waits for the answer.
    ///
    /// # Errors
    /// [`Gone`] if the gateway is ending, or does not answer in a few seconds.
    fn ask(&self, command: Command) -> Result<Reply, Gone>;

    /// Reads the settings again and has them take effect. With `dry_run` they are only checked and
    /// compared.
    ///
    /// # Errors
    /// They are wrong, or cannot take effect; those in force then stay as they are, wholly.
    fn reload(&self, source: Source<'_>, dry_run: bool) -> Result<Reloaded, Problem>;

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

/// Where new settings are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source<'a> {
    /// In the file that the gateway was started with.
    Start,
    /// In a file that the gateway is to read.
    File(&'a Path),
    /// Here, read by who asks, who calls them this.
    Text(&'a str, &'a str),
}

/// What a reload has done, or would do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reloaded {
    /// The keys that differ.
    pub changes: Vec<Change>,
    /// Sessions that live on; none of a dry run.
    pub kept: usize,
    /// Sessions that had to end; none of a dry run.
    pub ended: usize,
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
    /// The ports it uses there: `FIRST-LAST`, several with commas between.
    pub ports: String,
    /// The profile of inside hosts that no rule names.
    pub profile: String,
    /// The rules.
    pub rules: Vec<AboutRule>,
    /// Every key with the value in force, as the options would say it: `timeouts.udp`, `limits.sessions`.
    pub config: BTreeMap<String, String>,
    /// The uplink in use: `packet` or `raw`.
    pub uplink: String,
    /// The guard in use: `tcx`, `hold` or `off`.
    pub guard: String,
    /// Why these were chosen, one line each.
    pub reasons: Vec<String>,
    /// What the process has given up, a line for each stage: `seccomp: 121 system calls`.
    pub protection: Vec<String>,
}

/// A policy of its own for some inside hosts.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AboutRule {
    /// Which.
    pub inside: String,
    /// The profile that it comes from; `config` has every value of it.
    pub profile: String,
}
