//! Settings as text: every key with the value in force, and what two settings differ in.

use super::exempt;
use super::services;
use super::settings::{ProfiledRule, Settings, TapChoice, TapOffload};
use super::six;
use super::translation::{BEHAVIOURS, LIMITS, TIMEOUTS};
use crate::flow::{Alias, Domain};
use crate::nat::config::DEFAULT_PORTS;
use crate::nat::{Behaviour, Policy, PortChoice};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

/// Keys that are looked at once, at start.
const AT_START: [&str; 18] = [
    "name",
    "control",
    "tap",
    "tap-fd",
    "tap-offload",
    "bridge",
    "lone",
    "mac",
    "mtu",
    "dhcp",
    "dns-forward",
    "outside",
    "uplink",
    "raw-fd",
    "guard",
    "sandbox",
    "ready-fd",
    "log",
];

/// A key whose value is another one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Change {
    /// The key, with its table before it: `timeouts.udp`, `rule 10.88.0.64/26: filtering`.
    pub key: String,
    /// What it was; empty if it was not there.
    pub old: String,
    /// What it is to be; empty if it is not there.
    pub new: String,
    /// A running gateway cannot make this change.
    pub restart: bool,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |text: &'_ str| if text.is_empty() { "nothing".to_owned() } else { text.to_owned() };
        write!(f, "{}: {} -> {}", self.key, shown(&self.old), shown(&self.new))?;
        if self.restart { f.write_str(" (needs a restart)") } else { Ok(()) }
    }
}

/// What has to change for `old` to become `new`, by key. Of a rule that comes or goes its profile is
/// told, and where it departs from it.
pub fn difference(old: &Settings, new: &Settings) -> Vec<Change> {
    let (old, new) = (compared(old, new), compared(new, old));
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let value = |of: &BTreeMap<String, String>, key: &String| of.get(key).cloned().unwrap_or_default();
    let change = |key: &String| Change {
        key: key.clone(),
        old: value(&old, key),
        new: value(&new, key),
        restart: AT_START.contains(&key.as_str()),
    };
    keys.into_iter().map(change).filter(|change| change.old != change.new).collect()
}

/// The keys of `one` that are to be compared with those of `other`.
fn compared(one: &Settings, other: &Settings) -> BTreeMap<String, String> {
    let mut keys = all(one);
    let alone = |rule: &&ProfiledRule| other.rules.iter().all(|other| other.rule.inside != rule.rule.inside);
    for ProfiledRule { profile, rule } in one.rules.iter().filter(alone) {
        for (key, value) in policy(&profile.policy(rule.policy.choice)) {
            let key = format!("rule {}: {key}", rule.inside);
            if keys.get(&key) == Some(&value) {
                keys.remove(&key);
            }
        }
    }
    keys
}

/// Every key with its value, as the options would say it. What was not said has its default, or is
/// not there if only the host can tell.
pub fn all(settings: &Settings) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut put = |key: &str, value: String| {
        if !value.is_empty() {
            all.insert(key.to_owned(), value);
        }
    };
    put("name", settings.name.clone());
    put("control", settings.control.display().to_string());
    match &settings.tap {
        TapChoice::Name(name) => put("tap", name.clone()),
        TapChoice::Fd(number) => put("tap-fd", number.to_string()),
    }
    put("tap-offload", word(settings.tap_offload, &[("auto", TapOffload::Auto), ("off", TapOffload::Off)]));
    put("bridge", settings.bridge.clone().unwrap_or_default());
    let nets: Vec<_> = settings.inside.iter().filter(|net| settings.lone(net).is_none()).collect();
    put("inside", listed(&nets));
    put("lone", listed(&settings.lone));
    put("mac", settings.mac.map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":")).unwrap_or_default());
    put("advertise", on_off(settings.advertise));
    put("dns", settings.dns.as_deref().map(or_off).unwrap_or_default());
    put("search", settings.search.as_deref().map(or_off).unwrap_or_default());
    put("dns-forward", or_off(&settings.dns_forward));
    for Domain { name, servers } in &settings.dns_domains {
        let servers: Vec<String> = servers.iter().map(services::server_text).collect();
        put(&format!("dns-domain.{name}"), servers.join(", "));
    }
    put("dhcp", settings.dhcp.map_or("off".to_owned(), |(first, last)| format!("{first}-{last}")));
    if settings.dhcp.is_some() {
        put("dhcp-lease", time(settings.dhcp_lease));
    }
    put("prefix-translation", settings.translations.iter().map(six::text).collect::<Vec<_>>().join(", "));
    put("mtu", settings.mtu.to_string());
    put("outside", settings.outside.clone().unwrap_or_default());
    put("external", listed(&settings.external));
    put("uplink", word(settings.uplink, &super::resolve::UPLINKS));
    put("raw-fd", settings.raw_fd.map(|fd| fd.to_string()).unwrap_or_default());
    put("guard", word(settings.guard, &super::resolve::GUARDS));
    put("sandbox", word(settings.sandbox, &super::resolve::SANDBOXES));
    put("ready-fd", settings.ready_fd.map(|fd| fd.to_string()).unwrap_or_default());
    put("log", word(settings.log, &super::resolve::LEVELS));
    put("ports", ports_text(settings.ports.as_deref().unwrap_or(&DEFAULT_PORTS)));
    put("publish", listed(&settings.publish));
    put("exempt", settings.exempt.iter().map(exempt::text).collect::<Vec<_>>().join(", "));
    put("egress", settings.egress.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    put("host-access", on_off(settings.host_access));
    put("host-loopback", host_loopback(&settings.aliases));
    put("bind-mac", on_off(settings.bind_mac));
    put("refusal", word(settings.refusal, &super::resolve::REFUSALS));
    put("profile", settings.profile.word().to_owned());
    for (key, value) in policy(&settings.policy) {
        put(&key, value);
    }
    for rule in &settings.rules {
        let of = format!("rule {}: ", rule.rule.inside);
        put(&format!("{of}profile"), rule.profile.word().to_owned());
        for (key, value) in policy(&rule.rule.policy) {
            put(&format!("{of}{key}"), value);
        }
    }
    let mut limits = settings.limits;
    for (name, field) in LIMITS {
        put(&format!("limits.{name}"), field(&mut limits).to_string());
    }
    all
}

/// The addresses that stand for the host's loopback.
fn host_loopback(aliases: &[Alias]) -> String {
    let whole = |alias: &&Alias| alias.port.is_none() && alias.host.ip().is_loopback();
    let addresses: Vec<_> = aliases.iter().filter(whole).map(|alias| alias.inside).collect();
    if addresses.is_empty() { "off".to_owned() } else { listed(&addresses) }
}

/// A policy's keys and values.
fn policy(policy: &Policy) -> Vec<(String, String)> {
    let mut keys = vec![
        ("mapping".to_owned(), word(policy.mapping, &BEHAVIOURS)),
        ("filtering".to_owned(), word(policy.filtering, &BEHAVIOURS)),
        ("hairpin".to_owned(), on_off(policy.hairpin)),
    ];
    if let PortChoice::Block { subscribers, size } = policy.choice {
        keys.push(("subscribers".to_owned(), subscribers.to_string()));
        keys.push(("block-size".to_owned(), size.to_string()));
    }
    let mut timeouts = policy.timeouts;
    for (name, _, _, field) in TIMEOUTS {
        keys.push((format!("timeouts.{name}"), time(*field(&mut timeouts))));
    }
    keys
}

/// A duration as `--timeout` reads it.
pub fn time(duration: Duration) -> String {
    humantime::format_duration(duration).to_string().replace(' ', "")
}

/// The word of a behaviour.
pub fn behaviour(behaviour: Behaviour) -> String {
    word(behaviour, &BEHAVIOURS)
}

/// Ranges as `--ports` reads them.
pub fn ports_text(ports: &[RangeInclusive<u16>]) -> String {
    ports.iter().map(|range| format!("{}-{}", range.start(), range.end())).collect::<Vec<_>>().join(",")
}

fn word<T: Copy + PartialEq>(value: T, words: &[(&'static str, T)]) -> String {
    words.iter().find(|(_, known)| *known == value).map_or_else(String::new, |(word, _)| (*word).to_owned())
}

fn on_off(on: bool) -> String {
    if on { "on" } else { "off" }.to_owned()
}

fn or_off<T: ToString>(values: &[T]) -> String {
    if values.is_empty() { "off".to_owned() } else { listed(values) }
}

fn listed<T: ToString>(values: &[T]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
