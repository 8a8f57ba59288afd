//! From text to checked settings.
//!
//! Every rule that can be judged without looking at the host is judged here; the first that is
//! broken is named with its place and its cure.

use super::error::{ConfigError, did_you_mean};
use super::publish::{self, parse_range};
use super::raw::{Place, Raw, Written};
use super::settings::{
    GuardChoice, LogLevel, NatSettings, PublishSpec, Settings, TapChoice, TapOffload, UplinkChoice,
};
use crate::nat::{Behaviour, Limits, Timeouts};
use ipnet::Ipv4Net;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

type Checked<T> = Result<T, ConfigError>;

/// The longest an idle session may be told to live.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

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
    let nat = NatSettings {
        mapping: choose(raw, "mapping", &BEHAVIOURS)?.unwrap_or(Behaviour::EndpointIndependent),
        filtering: choose(raw, "filtering", &BEHAVIOURS)?.unwrap_or(Behaviour::AddressDependent),
        hairpin: choose(raw, "hairpin", &SWITCH)?.unwrap_or(true),
        host_access: choose(raw, "host-access", &SWITCH)?.unwrap_or(true),
        timeouts: timeouts(raw)?,
        limits: limits(raw)?,
    };
    let inside = inside(raw)?;
    let external = external(raw, &inside)?;
    let publish = publish_specs(raw, &inside, &external, nat.limits.publish)?;
    let settings = Settings {
        control: control(raw, &name, runtime_dir)?,
        name,
        tap: tap(raw)?,
        tap_offload: choose(raw, "tap-offload", &[("auto", TapOffload::Auto), ("off", TapOffload::Off)])?
            .unwrap_or_default(),
        bridge: interface(raw, "bridge")?,
        inside,
        mac: mac(raw)?,
        mtu: number(raw, "mtu", 68..=65521, "bytes")?.unwrap_or(1500),
        outside: interface(raw, "outside")?,
        external,
        uplink: choose(raw, "uplink", &UPLINKS)?.unwrap_or_default(),
        guard: choose(raw, "guard", &GUARDS)?.unwrap_or_default(),
        ports: raw.one("ports").map(ports).transpose()?,
        publish,
        nat,
        ready_fd: number(raw, "ready-fd", 1..=i32::MAX, "the number of an open descriptor")?,
        log: choose(raw, "log", &LEVELS)?.unwrap_or_default(),
        warnings: Vec::new(),
    };
    distinct_interfaces(raw, &settings)?;
    Ok(Settings { warnings: warnings(&settings), ..settings })
}

const SWITCH: [(&str, bool); 2] = [("on", true), ("off", false)];

const BEHAVIOURS: [(&str, Behaviour); 3] = [
    ("endpoint-independent", Behaviour::EndpointIndependent),
    ("address-dependent", Behaviour::AddressDependent),
    ("address-and-port-dependent", Behaviour::AddressAndPortDependent),
];

const UPLINKS: [(&str, UplinkChoice); 3] =
    [("auto", UplinkChoice::Auto), ("packet", UplinkChoice::Packet), ("raw", UplinkChoice::Raw)];

const GUARDS: [(&str, GuardChoice); 4] = [
    ("auto", GuardChoice::Auto),
    ("tcx", GuardChoice::Tcx),
    ("hold", GuardChoice::Hold),
    ("off", GuardChoice::Off),
];

const LEVELS: [(&str, LogLevel); 5] = [
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];

/// A key that takes one of a few words.
fn choose<T: Copy>(raw: &Raw, key: &str, words: &[(&str, T)]) -> Checked<Option<T>> {
    let Some(written) = raw.one(key) else { return Ok(None) };
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == written.text) {
        return Ok(Some(*value));
    }
    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    Err(ConfigError::at(written, "is not a value of it", did_you_mean(&written.text, &known)))
}

/// A key that takes a number in a range.
fn number<T>(raw: &Raw, key: &str, range: RangeInclusive<T>, unit: &str) -> Checked<Option<T>>
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

fn inside(raw: &Raw) -> Checked<Vec<Ipv4Net>> {
    let written = raw.many("inside");
    let mut nets: Vec<Ipv4Net> = Vec::new();
    for here in written {
        let net = inside_net(here)?;
        if let Some(other) =
            nets.iter().find(|other| other.contains(&net.network()) || net.contains(&other.network()))
        {
            let cure = "give subnets that have no address in common";
            return Err(ConfigError::at(here, format!("overlaps {other}"), cure));
        }
        nets.push(net);
    }
    if nets.is_empty() {
        let cure = "give the gateway's own address and prefix, e.g. --inside 10.88.0.1/24";
        return Err(ConfigError::new(&Place::Flag("--inside"), "is missing", cure));
    }
    Ok(nets)
}

fn inside_net(written: &Written) -> Checked<Ipv4Net> {
    let example = "give the gateway's own address and prefix, e.g. 10.88.0.1/24";
    if written.text.contains(':') {
        return Err(ConfigError::at(written, "is IPv6, which this version does not carry", example));
    }
    let net: Ipv4Net = written
        .text
        .parse()
        .map_err(|_| ConfigError::at(written, "is no IPv4 address with prefix", example))?;
    if !usable(net.addr()) {
        return Err(ConfigError::at(written, "is not an address for a host", example));
    }
    if !(8..=30).contains(&net.prefix_len()) {
        return Err(ConfigError::at(written, "has an impossible prefix", "give one from /8 to /30"));
    }
    let ends = [(net.network(), "network"), (net.broadcast(), "broadcast")];
    for (address, what) in ends {
        if net.addr() == address {
            let first = net.hosts().next().unwrap_or(address);
            let cure = format!("give one of its hosts, e.g. {first}/{}", net.prefix_len());
            return Err(ConfigError::at(written, format!("is the {what} address of its subnet"), cure));
        }
    }
    Ok(net)
}

/// Whether a host can have this address and speak from it to others.
fn usable(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    first != 0 && first != 127 && first < 224
}

fn external(raw: &Raw, inside: &[Ipv4Net]) -> Checked<Vec<IpAddr>> {
    let mut all = Vec::new();
    for written in raw.many("external") {
        let example = "give an IPv4 address of this host, e.g. 203.0.113.1";
        let address = match written.text.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => address,
            Ok(IpAddr::V6(_)) => {
                return Err(ConfigError::at(written, "is IPv6, which this version does not carry", example));
            }
            Err(_) => return Err(ConfigError::at(written, "is no IP address", example)),
        };
        if !usable(address) {
            return Err(ConfigError::at(written, "is not an address for a host", example));
        }
        if let Some(net) = inside.iter().find(|net| net.contains(&address)) {
            let cure = "translate to an address that no inside host can have, or choose another --inside";
            return Err(ConfigError::at(written, format!("lies in the inside subnet {net}"), cure));
        }
        if all.contains(&IpAddr::V4(address)) {
            return Err(ConfigError::at(written, "is given twice", "give it once"));
        }
        all.push(IpAddr::V4(address));
    }
    Ok(all)
}

fn ports(written: &Written) -> Checked<RangeInclusive<u16>> {
    let cure = "give FIRST-LAST with numbers from 1 to 65535, e.g. 32768-60999";
    if !written.text.contains('-') {
        return Err(ConfigError::at(written, "is not a range", cure));
    }
    parse_range(&written.text).map_err(|why| ConfigError::at(written, why, cure))
}

fn publish_specs(
    raw: &Raw,
    inside: &[Ipv4Net],
    external: &[IpAddr],
    limit: usize,
) -> Checked<Vec<PublishSpec>> {
    let mut specs: Vec<PublishSpec> = Vec::new();
    for written in raw.many("publish") {
        let spec = publish::parse(&written.text)
            .map_err(|error| ConfigError::at(written, error.problem, error.cure))?;
        if let Some(address) =
            spec.address.filter(|address| !external.is_empty() && !external.contains(address))
        {
            let cure = format!("add --external {address}, or leave the address out");
            return Err(ConfigError::at(written, "names an address that is not external", cure));
        }
        match inside.iter().find(|net| net.contains(&spec.inside)) {
            None => {
                let cure = "name a host of an --inside subnet";
                return Err(ConfigError::at(
                    written,
                    format!("forwards to {}, which is not inside", spec.inside),
                    cure,
                ));
            }
            Some(net) if net.addr() == spec.inside => {
                let cure = "name a host behind the gateway";
                return Err(ConfigError::at(written, "forwards to the gateway itself", cure));
            }
            Some(net) if [net.network(), net.broadcast()].contains(&spec.inside) => {
                let cure = "name one host of the subnet";
                return Err(ConfigError::at(written, "forwards to an address that no host has", cure));
            }
            Some(_) => {}
        }
        if let Some(other) = specs.iter().find(|other| clash(&spec, other)) {
            let cure = "give each external port once for a protocol and address";
            return Err(ConfigError::at(written, format!("clashes with `{other}`"), cure));
        }
        specs.push(spec);
        if specs.iter().map(|spec| spec.ports.len()).sum::<usize>() > limit {
            let cure = "publish fewer ports, or raise --limit publish=N";
            return Err(ConfigError::at(
                written,
                format!("goes beyond the limit of {limit} published ports"),
                cure,
            ));
        }
    }
    Ok(specs)
}

/// Whether two forwards want the same external port.
fn clash(one: &PublishSpec, other: &PublishSpec) -> bool {
    let apart = one.ports.end() < other.ports.start() || other.ports.end() < one.ports.start();
    let elsewhere = matches!((one.address, other.address), (Some(one), Some(other)) if one != other);
    one.protocol == other.protocol && !apart && !elsewhere
}

/// A name, the least that its RFC asks for in seconds, and where it goes.
type TimeoutKey = (&'static str, u64, &'static str, fn(&mut Timeouts) -> &mut Duration);

const TIMEOUTS: [TimeoutKey; 13] = [
    ("udp", 120, "RFC 4787 REQ-5", |t| &mut t.udp),
    ("udp-unreplied", 120, "RFC 4787 REQ-5", |t| &mut t.udp_unreplied),
    ("udp-dns", 0, "", |t| &mut t.udp_dns),
    ("tcp-opening", 240, "RFC 5382 REQ-5", |t| &mut t.tcp_opening),
    ("tcp-syn-received", 240, "RFC 5382 REQ-5", |t| &mut t.tcp_syn_received),
    ("tcp-established", 7440, "RFC 5382 REQ-5", |t| &mut t.tcp_established),
    ("tcp-half-closed", 7440, "RFC 5382 REQ-5", |t| &mut t.tcp_half_closed),
    ("tcp-closing", 240, "RFC 5382 REQ-5", |t| &mut t.tcp_closing),
    ("tcp-reset", 240, "RFC 7857 §2.2", |t| &mut t.tcp_reset),
    ("icmp", 60, "RFC 5508 REQ-2", |t| &mut t.icmp),
    ("other", 0, "", |t| &mut t.other),
    ("lease", 0, "", |t| &mut t.lease),
    ("port-hold", 120, "RFC 6888 REQ-8", |t| &mut t.port_hold),
];

fn timeouts(raw: &Raw) -> Checked<Timeouts> {
    let mut timeouts = Timeouts::default();
    for (name, written) in raw.table("timeouts") {
        let Some((_, _, _, field)) = TIMEOUTS.iter().find(|(known, ..)| *known == name) else {
            let known = TIMEOUTS.map(|(known, ..)| known);
            return Err(ConfigError::new(
                &written.place,
                format!("no timeout `{name}`"),
                did_you_mean(name, &known),
            ));
        };
        let duration = humantime::parse_duration(&written.text).map_err(|_| {
            ConfigError::at(written, "is no duration", "write a number and a unit, e.g. 90s, 5m, 2h4m")
        })?;
        if duration.is_zero() || duration > LONGEST {
            return Err(ConfigError::at(
                written,
                "is not possible",
                "give more than nothing and at most 365days",
            ));
        }
        *field(&mut timeouts) = duration;
    }
    if !raw.table("timeouts").any(|(name, _)| name == "udp-unreplied") {
        timeouts.udp_unreplied = timeouts.udp;
    }
    Ok(timeouts)
}

type LimitKey = (&'static str, fn(&mut Limits) -> &mut usize);

const LIMITS: [LimitKey; 7] = [
    ("sessions", |l| &mut l.sessions),
    ("sessions-per-host", |l| &mut l.sessions_per_host),
    ("mappings-per-host", |l| &mut l.mappings_per_host),
    ("sessions-per-mapping", |l| &mut l.sessions_per_mapping),
    ("publish", |l| &mut l.publish),
    ("held-ports", |l| &mut l.held_ports),
    ("new-sessions-per-host", |l| &mut l.new_sessions_per_host),
];

/// Ids of sessions and mappings have 32 bits, and a table of this size is over ten gigabytes.
const MOST: usize = 1 << 27;

fn limits(raw: &Raw) -> Checked<Limits> {
    let mut limits = Limits::default();
    for (name, written) in raw.table("limits") {
        let Some((_, field)) = LIMITS.iter().find(|(known, _)| *known == name) else {
            let known = LIMITS.map(|(known, _)| known);
            return Err(ConfigError::new(
                &written.place,
                format!("no limit `{name}`"),
                did_you_mean(name, &known),
            ));
        };
        let least = usize::from(!["publish", "held-ports", "new-sessions-per-host"].contains(&name));
        match written.text.replace('_', "").parse::<usize>() {
            Ok(value) if (least..=MOST).contains(&value) => *field(&mut limits) = value,
            _ => {
                let cure = format!("give a number from {least} to {MOST}");
                return Err(ConfigError::at(written, "is not possible", cure));
            }
        }
    }
    Ok(limits)
}

/// What is allowed and probably not wanted.
fn warnings(settings: &Settings) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut timeouts = settings.nat.timeouts;
    for (name, least, rfc, field) in TIMEOUTS {
        let duration = *field(&mut timeouts);
        if duration < Duration::from_secs(least) {
            let given = humantime::format_duration(duration);
            let least = humantime::format_duration(Duration::from_secs(least));
            warnings.push(format!("timeout {name}={given} is below the {least} that {rfc} asks for"));
        }
    }
    for net in settings.inside.iter().filter(|net| !private(net.addr())) {
        warnings.push(format!(
            "inside {net} is not a private range: hosts inside cannot reach the real owners of {}",
            net.trunc()
        ));
    }
    if let Some(ports) = settings.ports.as_ref().filter(|ports| *ports.start() < 1024) {
        warnings.push(format!(
            "ports {}-{} include those below 1024, which some servers refuse as source ports",
            ports.start(),
            ports.end()
        ));
    }
    warnings
}

/// RFC 1918, RFC 6598, RFC 3927, RFC 2544 and the documentation ranges of RFC 5737.
fn private(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    let shared = a == 100 && (64..128).contains(&b) || a == 198 && (18..20).contains(&b);
    address.is_private() || address.is_link_local() || address.is_documentation() || shared
}
