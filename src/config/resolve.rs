//! From text to checked settings.
//!
//! Every rule that can be judged without looking at the host is judged here; the first that is
//! broken is named with its place and its cure.

use super::egress;
use super::error::{ConfigError, did_you_mean};
use super::networks::{self, private};
use super::raw::Raw;
use super::rule;
use super::services;
use super::settings::{
    GuardChoice, LogLevel, Lone, SandboxChoice, Settings, TapChoice, TapOffload, UplinkChoice,
};
use super::six;
use super::translation::{self, short_timeouts};
use crate::gateway::RefusalAnswer;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What was read, or the first thing that is wrong with it.
pub type Checked<T> = Result<T, ConfigError>;

/// Where sockets are when `$XDG_RUNTIME_DIR` is not set.
const RUN: &str = "/run";

/// The longest path of a Unix socket, in bytes (`sun_path` less its final zero).
const LONGEST_SOCKET: usize = 107;

/// Reads and checks settings. `runtime_dir` is `$XDG_RUNTIME_DIR`.
///
/// # Errors
/// The first thing that is wrong.
pub fn resolve(raw: &Raw, runtime_dir: Option<&Path>) -> Checked<Settings> {
    let name = instance_name(raw)?;
    let limits = translation::limits(raw)?;
    let lone = networks::lone(raw)?;
    let inside = networks::inside(raw, &lone)?;
    let external = networks::external(raw, &inside)?;
    let ports = raw.one("ports").map(networks::ports).transpose()?;
    let four: Vec<_> = external.iter().filter(|address| address.is_ipv4()).copied().collect();
    let block = translation::blocks(raw, &inside, &four, ports.as_deref())?;
    let profile = translation::profile(raw)?.unwrap_or_default();
    let policy = translation::overridden(raw, profile.policy(block.unwrap_or_default()))?;
    let rules = rule::rules(raw, &inside, (profile, &policy), block)?;
    let exempt = networks::exemptions(raw, &inside)?;
    let advertise = choose(raw, "advertise", &SWITCH)?.unwrap_or(true);
    let dhcp = services::dhcp(raw, &inside)?;
    let dhcp_lease = services::lease(raw, dhcp.is_some())?;
    let dns = services::dns(raw, &inside, advertise, dhcp.is_some())?;
    let search = services::search(raw, dhcp.is_some())?;
    let dns_forward = services::dns_forward(raw, &inside, dhcp.is_some())?;
    let dns_domains = services::dns_domains(raw, !dns_forward.is_empty())?;
    let egress =
        egress::rules(raw, &inside, !dns_forward.is_empty() || dns.iter().flatten().next().is_some())?;
    let translations = six::translations(raw, &inside)?;
    let uplink = choose(raw, "uplink", &UPLINKS)?.unwrap_or_default();
    // Sockets listen on whatever address the host has.
    let known = if uplink == UplinkChoice::Sockets { &[][..] } else { &external };
    let publish = networks::publish_specs(raw, (&inside, &lone), known, limits.publish)?;
    if let (Some(written), true) = (raw.many("lone").first(), uplink != UplinkChoice::Sockets) {
        // Only sockets share an address with the host without sharing its packets.
        let cure = "add --uplink sockets, or give the gateway an address with --inside";
        return Err(ConfigError::at(written, "is for the sockets uplink", cure));
    }
    let mut aliases = networks::host_loopback(raw, &inside, &lone)?;
    aliases.extend(lone.iter().filter_map(Lone::itself));
    let settings = Settings {
        control: control(raw, &name, runtime_dir)?,
        name,
        tap: tap(raw)?,
        tap_offload: choose(raw, "tap-offload", &[("auto", TapOffload::Auto), ("off", TapOffload::Off)])?
            .unwrap_or_default(),
        bridge: interface(raw, "bridge")?,
        inside,
        lone,
        mac: mac(raw)?,
        advertise,
        dns,
        search,
        dns_forward,
        dns_domains,
        dhcp,
        dhcp_lease,
        mtu: number(raw, "mtu", 68..=65521, "bytes")?.unwrap_or(1500),
        outside: interface(raw, "outside")?,
        external,
        uplink,
        raw_fd: raw_fd(raw, uplink)?,
        guard: choose(raw, "guard", &GUARDS)?.unwrap_or_default(),
        ports,
        publish,
        exempt,
        egress,
        translations,
        profile,
        policy,
        rules,
        host_access: choose(raw, "host-access", &SWITCH)?.unwrap_or(true),
        aliases,
        bind_mac: choose(raw, "bind-mac", &SWITCH)?.unwrap_or(true),
        refusal: choose(raw, "refusal", &REFUSALS)?.unwrap_or_default(),
        limits,
        sandbox: choose(raw, "sandbox", &SANDBOXES)?.unwrap_or_default(),
        ready_fd: number(raw, "ready-fd", 3..=i32::MAX, "the number of an inherited descriptor")?,
        log: choose(raw, "log", &LEVELS)?.unwrap_or_default(),
        warnings: Vec::new(),
    };
    distinct_interfaces(raw, &settings)?;
    distinct(raw, &settings.tap, [("raw-fd", settings.raw_fd), ("ready-fd", settings.ready_fd)])?;
    Ok(Settings { warnings: warnings(raw, &settings), ..settings })
}

/// Words of a key that is on or off.
pub const SWITCH: [(&str, bool); 2] = [("on", true), ("off", false)];

/// Words of `refusal`.
pub const REFUSALS: [(&str, RefusalAnswer); 3] = [
    ("prohibited", RefusalAnswer::Prohibited),
    ("host-unreachable", RefusalAnswer::HostUnreachable),
    ("silence", RefusalAnswer::Silence),
];

/// Words of `uplink`.
pub const UPLINKS: [(&str, UplinkChoice); 4] = [
    ("auto", UplinkChoice::Auto),
    ("packet", UplinkChoice::Packet),
    ("raw", UplinkChoice::Raw),
    ("sockets", UplinkChoice::Sockets),
];

/// Words of `guard`.
pub const GUARDS: [(&str, GuardChoice); 5] = [
    ("auto", GuardChoice::Auto),
    ("tcx", GuardChoice::Tcx),
    ("hold", GuardChoice::Hold),
    ("sockets", GuardChoice::Sockets),
    ("off", GuardChoice::Off),
];

/// Words of `sandbox`.
pub const SANDBOXES: [(&str, SandboxChoice); 3] =
    [("auto", SandboxChoice::Auto), ("strict", SandboxChoice::Strict), ("off", SandboxChoice::Off)];

/// Words of `log`.
pub const LEVELS: [(&str, LogLevel); 5] = [
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];

/// A key that takes one of a few words.
///
/// # Errors
/// It has another.
pub fn choose<T: Copy>(raw: &Raw, key: &str, words: &[(&str, T)]) -> Checked<Option<T>> {
    let Some(written) = raw.one(key) else { return Ok(None) };
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == written.text) {
        return Ok(Some(*value));
    }
    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    Err(ConfigError::at(written, "is not a value of it", did_you_mean(&written.text, &known)))
}

/// A key that takes a number in a range.
///
/// # Errors
/// It has another.
pub fn number<T>(raw: &Raw, key: &str, range: RangeInclusive<T>, unit: &str) -> Checked<Option<T>>
where
    T: FromStr + PartialOrd + Display,
{
    let Some(written) = raw.one(key) else { return Ok(None) };
    match written.text.parse::<T>() {
        Ok(value) if range.contains(&value) => Ok(Some(value)),
        _ => {
            let (first, last) = range.into_inner();
            let cure = format!("give a number from {first} to {last} ({unit})");
            Err(ConfigError::at(written, "is not possible", cure))
        }
    }
}

fn instance_name(raw: &Raw) -> Checked<String> {
    let Some(written) = raw.one("name") else { return Ok("default".to_owned()) };
    match check_name(&written.text) {
        Ok(()) => Ok(written.text.clone()),
        Err(cure) => Err(ConfigError::at(written, "is no instance name", cure)),
    }
}

/// Checks an instance name, which becomes part of a path.
///
/// # Errors
/// The cure.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if letters && !name.starts_with('.') && (1..=64).contains(&name.len()) {
        return Ok(());
    }
    Err("use 1 to 64 letters, digits, `-`, `_` and `.`, not beginning with a dot")
}

/// Where the control socket of an instance is if nothing else is said.
pub fn default_control(name: &str, runtime_dir: Option<&Path>) -> PathBuf {
    let absolute = runtime_dir.filter(|dir| dir.is_absolute());
    absolute.unwrap_or(Path::new(RUN)).join("tapnat").join(format!("{name}.sock"))
}

fn control(raw: &Raw, name: &str, runtime_dir: Option<&Path>) -> Checked<PathBuf> {
    let Some(written) = raw.one("control") else { return Ok(default_control(name, runtime_dir)) };
    if written.text.is_empty() || written.text.len() > LONGEST_SOCKET || written.text.contains('\0') {
        let cure = format!("give a path of 1 to {LONGEST_SOCKET} bytes");
        return Err(ConfigError::at(written, "is no path for a Unix socket", cure));
    }
    Ok(PathBuf::from(&written.text))
}

fn tap(raw: &Raw) -> Checked<TapChoice> {
    if let (Some(fd), true) = (raw.one("tap-fd"), raw.has("tap")) {
        return Err(ConfigError::at(fd, "is given beside `tap`", "give one of the two"));
    }
    if let Some(fd) = number(raw, "tap-fd", 3..=i32::MAX, "the number of an inherited descriptor")? {
        return Ok(TapChoice::Fd(fd));
    }
    Ok(TapChoice::Name(interface(raw, "tap")?.unwrap_or_else(|| "tapnat0".to_owned())))
}

fn raw_fd(raw: &Raw, uplink: UplinkChoice) -> Checked<Option<i32>> {
    let number = number(raw, "raw-fd", 3..=i32::MAX, "the number of an inherited descriptor")?;
    match (raw.one("raw-fd"), uplink) {
        (Some(written), UplinkChoice::Raw | UplinkChoice::Sockets) => {
            let cure = "leave `uplink` out, or give packet";
            Err(ConfigError::at(written, "is given beside another `uplink` than packet", cure))
        }
        _ => Ok(number),
    }
}

/// Sees to it that no descriptor is given for two purposes: each is taken over by one who closes it.
fn distinct(raw: &Raw, tap: &TapChoice, others: [(&'static str, Option<i32>); 2]) -> Checked<()> {
    let tap = if let TapChoice::Fd(number) = tap { Some(*number) } else { None };
    let mut before = vec![tap];
    for (key, number) in others {
        if let (Some(written), true) = (raw.one(key), number.is_some() && before.contains(&number)) {
            let cure = "give each descriptor for one purpose";
            return Err(ConfigError::at(written, "is the number of another descriptor's option", cure));
        }
        before.push(number);
    }
    Ok(())
}

fn interface(raw: &Raw, key: &str) -> Checked<Option<String>> {
    let Some(written) = raw.one(key) else { return Ok(None) };
    let name = &written.text;
    let odd = |byte: u8| !byte.is_ascii_graphic() || b"/:%".contains(&byte);
    if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.bytes().any(odd) {
        let cure = "use 1 to 15 visible characters without `/`, `:` and `%`";
        return Err(ConfigError::at(written, "is no interface name", cure));
    }
    Ok(Some(name.clone()))
}

fn distinct_interfaces(raw: &Raw, settings: &Settings) -> Checked<()> {
    let tap = match &settings.tap {
        TapChoice::Name(name) => Some(name),
        TapChoice::Fd(_) => None,
    };
    let names = [("bridge", settings.bridge.as_ref()), ("outside", settings.outside.as_ref())];
    for (key, name) in names {
        if let (Some(name), Some(written)) = (name, raw.one(key))
            && Some(name) == tap
        {
            return Err(ConfigError::at(written, "is the TAP's name too", "give them different names"));
        }
    }
    if settings.bridge.is_some() && settings.bridge == settings.outside {
        let written = raw.one("outside").expect("settings have it from there");
        let cure = "the bridge is the inside: give the interface that leads to the network";
        return Err(ConfigError::at(written, "is the bridge's name too", cure));
    }
    Ok(())
}

fn mac(raw: &Raw) -> Checked<Option<[u8; 6]>> {
    let Some(written) = raw.one("mac") else { return Ok(None) };
    let bytes: Option<Vec<u8>> = written
        .text
        .split([':', '-'])
        .map(|byte| if byte.len() == 2 { u8::from_str_radix(byte, 16).ok() } else { None })
        .collect();
    let example = "give one such as 02:00:00:00:00:01";
    let Some(mac) = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok()) else {
        return Err(ConfigError::at(written, "is no MAC address", example));
    };
    if mac[0] & 1 != 0 {
        let cure = format!("the first byte must be even; {example}");
        return Err(ConfigError::at(written, "is a multicast address", cure));
    }
    if mac == [0; 6] {
        return Err(ConfigError::at(written, "is no host's address", example));
    }
    Ok(Some(mac))
}

/// What is allowed and probably not wanted.
fn warnings(raw: &Raw, settings: &Settings) -> Vec<String> {
    let mut warnings = Vec::new();
    short_timeouts(raw, settings.policy.timeouts, "", &mut warnings);
    for (written, rule) in raw.rules().iter().zip(&settings.rules) {
        let of = format!("rule {}: ", rule.rule.inside);
        short_timeouts(&written.keys, rule.rule.policy.timeouts, &of, &mut warnings);
    }
    for net in settings.inside.iter().filter(|net| !private(net.addr()) && settings.lone(net).is_none()) {
        warnings.push(format!(
            "inside {net} is not a private range: hosts inside cannot reach the real owners of {}",
            net.trunc()
        ));
    }
    for range in settings.ports.iter().flatten().filter(|range| *range.start() < 1024) {
        warnings.push(format!(
            "ports {}-{} include those below 1024, which some servers refuse as source ports",
            range.start(),
            range.end()
        ));
    }
    warnings
}
