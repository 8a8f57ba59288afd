//! New settings for a running gateway, up to the plan that the worker carries out.
//!
//! Reading, checking and asking the host happen in the thread of who asked, so that no packet waits
//! for a file system. The worker gets a [`Plan`], which it carries out wholly or not at all.

use super::follow::{self, Routed, routed};
use super::said::said;
use super::start;
use crate::config::show::{self, difference};
use crate::config::{Change, ConfigError, ProfiledRule, RunFlags, Settings, load, load_text};
use crate::control::protocol::Problem;
use crate::control::{About, AboutRule, Reloaded, Source};
use crate::flow::{Endpoint, Protocol};
use crate::gateway::GatewayConfig;
use crate::observe::event::Note;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// A port forward: protocol, outside, inside.
pub type Forward = (Protocol, Endpoint, Endpoint);

/// What the worker has to do for new settings to be in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The gateway's settings. What the links can take is as it was at start.
    pub config: GatewayConfig,
    /// Port forwards that the settings name and did not name before.
    pub add: Vec<Forward>,
    /// Port forwards that they named before.
    pub remove: Vec<Forward>,
    /// How many keys differ.
    pub changes: usize,
    /// What the host has become, if it is that which is followed.
    pub news: Option<Vec<Note>>,
    /// The interface that the way out leads over, if that is another one.
    pub outside: Option<String>,
}

/// What a plan has left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settled {
    /// Sessions that live on.
    pub kept: usize,
    /// Sessions that had to end.
    pub ended: usize,
}

/// Knows the settings in force and where they came from.
#[derive(Debug)]
pub struct Reloader {
    flags: RunFlags,
    runtime_dir: Option<PathBuf>,
    in_force: Mutex<InForce>,
}

/// What the gateway does at the moment.
#[derive(Debug)]
pub(super) struct InForce {
    pub settings: Settings,
    pub config: GatewayConfig,
    pub outside: String,
    pub packet: bool,
    pub routed: Routed,
}

impl Reloader {
    /// For a gateway that was started with these options, and chose `config` and the interface
    /// `outside`, with an uplink of AF_PACKET or not.
    pub fn new(
        flags: RunFlags,
        runtime_dir: Option<PathBuf>,
        settings: Settings,
        config: GatewayConfig,
        outside: String,
        packet: bool,
    ) -> Self {
        let in_force = Mutex::new(InForce { settings, config, outside, packet, routed: routed() });
        Reloader { flags, runtime_dir, in_force }
    }

    /// Reads what is at `source`, and hands a plan to `settle` unless it is a dry run. One at a time.
    ///
    /// # Errors
    /// The settings are wrong, need a restart, or `settle` refuses; those in force stay.
    pub fn reload(
        &self,
        source: Source<'_>,
        dry_run: bool,
        settle: impl FnOnce(Box<Plan>) -> Result<Settled, Problem>,
    ) -> Result<Reloaded, Problem> {
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        let settings = self.read(source)?;
        let changes = difference(&in_force.settings, &settings);
        if !dry_run && let Some(problem) = needs_restart(&changes) {
            return Err(problem);
        }
        let mut reloaded = Reloaded { changes, ..Reloaded::default() };
        if reloaded.changes.iter().any(|change| change.restart) {
            return Ok(reloaded);
        }
        let plan = in_force.plan(&settings, reloaded.changes.len())?;
        if dry_run {
            return Ok(reloaded);
        }
        let config = plan.config.clone();
        let Settled { kept, ended } = settle(Box::new(plan))?;
        settings.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        in_force.settings = settings;
        in_force.config = config;
        reloaded.kept = kept;
        reloaded.ended = ended;
        Ok(reloaded)
    }

    /// Looks what the host has become, and hands a plan to `settle` if that is a matter here. One at a
    /// time. Whether there was something to do.
    ///
    /// # Errors
    /// The host does not say, or `settle` refuses; what is in force stays.
    pub fn follow(
        &self,
        settle: impl FnOnce(Box<Plan>) -> Result<Settled, Problem>,
    ) -> Result<bool, Problem> {
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |error: anyhow::Error| Problem::new("host", said(&error), "wait");
        let Some(plan) = follow::plan(&mut in_force).map_err(failed)? else { return Ok(false) };
        let (config, outside) = (plan.config.clone(), plan.outside.clone());
        settle(Box::new(plan))?;
        in_force.config = config;
        in_force.outside = outside.unwrap_or_else(|| std::mem::take(&mut in_force.outside));
        Ok(true)
    }

    /// Writes what can change into `about`.
    pub fn describe(&self, about: &mut About) {
        let in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        about.outside.clone_from(&in_force.outside);
        describe(&in_force.settings, &in_force.config, about);
    }

    fn read(&self, source: Source<'_>) -> Result<Settings, Problem> {
        let (flags, runtime_dir) = (&self.flags, self.runtime_dir.as_deref());
        let read = match source {
            Source::Text(name, text) => load_text(flags, name, text, runtime_dir),
            Source::File(path) => {
                load(&RunFlags { config: Some(path.to_owned()), ..flags.clone() }, runtime_dir)
            }
            Source::Start if flags.config.is_none() => {
                let message = "the gateway was started without --config, so there is no file to read again";
                return Err(Problem::new("no-file", message, "give one: tapnat reload --config FILE"));
            }
            Source::Start => load(flags, runtime_dir),
        };
        read.map_err(|error| {
            let ConfigError { place, problem, cure, .. } = error;
            Problem::new("bad-config", format!("{place}: {problem}"), cure)
        })
    }
}

impl InForce {
    fn plan(&self, settings: &Settings, changes: usize) -> Result<Plan, Problem> {
        let host = |error: anyhow::Error| {
            let line = said(&error);
            let halves = line.split_once("; ").or_else(|| line.rsplit_once(": "));
            let (message, cure) = halves.unwrap_or((&line, "see `tapnat doctor`"));
            Problem::new("bad-config", message, cure)
        };
        // Addresses that nobody names stay those of the start, which the host may not have any more.
        let keep = settings.external == self.settings.external;
        let external = keep.then_some(self.config.nat.external.as_slice());
        let config =
            start::again(settings, &self.config, &self.outside, self.packet, external).map_err(host)?;
        let before = (&self.settings, &self.config.nat.external[..]);
        let (add, remove) = changed_forwards(before, (settings, &config.nat.external));
        Ok(Plan { add, remove, config, changes, news: None, outside: None })
    }
}

/// The port forwards of settings with these external addresses that others do not have: those of `after`
/// alone, and those of `before` alone.
pub(super) fn changed_forwards(
    before: (&Settings, &[IpAddr]),
    after: (&Settings, &[IpAddr]),
) -> (Vec<Forward>, Vec<Forward>) {
    let of = |(settings, external): (&Settings, &[IpAddr])| -> BTreeSet<Forward> {
        settings.publish.iter().flat_map(|spec| spec.forwards(external)).collect()
    };
    let (before, after) = (of(before), of(after));
    (after.difference(&before).copied().collect(), before.difference(&after).copied().collect())
}

fn needs_restart(changes: &[Change]) -> Option<Problem> {
    let keys: Vec<String> =
        changes.iter().filter(|change| change.restart).map(|change| format!("`{}`", change.key)).collect();
    if keys.is_empty() {
        return None;
    }
    let message = format!("{} cannot change while the gateway runs", keys.join(", "));
    Some(Problem::new("needs-restart", message, "put it back, or start the gateway again"))
}

/// Writes what settings say into `about`.
pub fn describe(settings: &Settings, config: &GatewayConfig, about: &mut About) {
    about.inside.clone_from(&settings.inside);
    about.external.clone_from(&config.nat.external);
    about.ports = show::ports_text(&config.nat.ports);
    settings.profile.word().clone_into(&mut about.profile);
    let rule = |rule: &ProfiledRule| AboutRule {
        inside: rule.rule.inside.to_string(),
        profile: rule.profile.word().to_owned(),
    };
    about.rules = settings.rules.iter().map(rule).collect();
    about.config = show::all(settings);
}
