//! From text to a policy: profile, single behaviours, blocks of ports, timeouts and limits.

use super::error::{ConfigError, did_you_mean};
use super::profile::Profile;
use super::raw::{Raw, Written};
use super::resolve::{Checked, SWITCH, choose, number};
use super::rule::prefix;
use crate::flow::Prefix;
use crate::nat::blocks::Blocks;
use crate::nat::config::DEFAULT_PORTS;
use crate::nat::{Behaviour, Limits, Policy, PortChoice, Timeouts};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

/// The longest an idle session may be told to live.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Words of `mapping` and `filtering`.
pub const BEHAVIOURS: [(&str, Behaviour); 3] = [
    ("endpoint-independent", Behaviour::EndpointIndependent),
    ("address-dependent", Behaviour::AddressDependent),
    ("address-and-port-dependent", Behaviour::AddressAndPortDependent),
];

/// The profile that is named.
///
/// # Errors
/// There is none of this name.
pub fn profile(raw: &Raw) -> Checked<Option<Profile>> {
    let Some(written) = raw.one("profile") else { return Ok(None) };
    let known = Profile::WORDS.map(|(word, _)| word);
    match Profile::WORDS.iter().find(|(word, _)| *word == written.text) {
        Some((_, profile)) => Ok(Some(*profile)),
        None => Err(ConfigError::at(written, "is no profile", did_you_mean(&written.text, &known))),
    }
}

/// `policy` with what is said about single behaviours.
///
/// # Errors
/// The first thing that is wrong.
pub fn overridden(raw: &Raw, mut policy: Policy) -> Checked<Policy> {
    policy.mapping = choose(raw, "mapping", &BEHAVIOURS)?.unwrap_or(policy.mapping);
    policy.filtering = choose(raw, "filtering", &BEHAVIOURS)?.unwrap_or(policy.filtering);
    policy.hairpin = choose(raw, "hairpin", &SWITCH)?.unwrap_or(policy.hairpin);
    timeouts(raw, &mut policy.timeouts)?;
    Ok(policy)
}

/// How the profile `cgnat` chooses ports; `None` if nothing names that profile.
///
/// # Errors
/// The blocks do not fit, or are described and not used.
pub fn blocks(
    raw: &Raw,
    nets: &[IpNet],
    external: &[IpAddr],
    ports: Option<&[RangeInclusive<u16>]>,
) -> Checked<Option<PortChoice>> {
    let names = |raw: &Raw| raw.one("profile").is_some_and(|written| written.text == Profile::Cgnat.word());
    if !names(raw) && !raw.rules().iter().any(|rule| names(&rule.keys)) {
        return match ["subscribers", "block-size"].iter().find_map(|key| raw.one(key)) {
            None => Ok(None),
            Some(written) => {
                let cure = "add --profile cgnat, or leave it out";
                Err(ConfigError::at(written, "is only for the profile cgnat", cure))
            }
        };
    }
    let subscribers = subscribers(raw, nets)?;
    let ports = ports.unwrap_or(&DEFAULT_PORTS);
    // Without external addresses those of the interface are taken, of which there is at least one.
    let guessed = [IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
    let known = if external.is_empty() { &guessed } else { external };
    let asked = number(raw, "block-size", 1..=u16::MAX, "ports")?;
    let size = asked.unwrap_or_else(|| even(subscribers, known.len(), ports));
    if let (Err(error), true) =
        (Blocks::new(subscribers, size, known, ports), !external.is_empty() || asked.is_none())
    {
        let place = ["block-size", "subscribers", "profile"].iter().find_map(|key| raw.one(key));
        let place = place.or_else(|| raw.rules().iter().find_map(|rule| rule.keys.one("profile")));
        let place = place.expect("one of them names the profile");
        let line = error.to_string();
        let (problem, cure) =
            line.split_once("; ").unwrap_or((&line, "give fewer subscribers or more ports"));
        return Err(ConfigError::new(&place.place, problem, cure));
    }
    Ok(Some(PortChoice::Block { subscribers, size }))
}

/// The size of blocks that share seven eighths of the ports evenly, at least 1.
fn even(subscribers: Prefix, externals: usize, ports: &[RangeInclusive<u16>]) -> u16 {
    let high =
        |range: &RangeInclusive<u16>| usize::from(*range.end()) + 1 - usize::from(*range.start()).max(1024);
    let all: usize = ports.iter().filter(|range| *range.end() >= 1024).map(high).sum();
    let hosts = 1usize.checked_shl(32 - u32::from(subscribers.length)).unwrap_or(usize::MAX);
    u16::try_from(all * externals / 8 * 7 / hosts).unwrap_or(u16::MAX).max(1)
}

fn subscribers(raw: &Raw, nets: &[IpNet]) -> Checked<Prefix> {
    let four: Vec<Prefix> = nets
        .iter()
        .filter(|net| net.addr().is_ipv4())
        .map(|net| Prefix::new(net.network(), net.prefix_len()))
        .collect();
    let Some(written) = raw.one("subscribers") else {
        if let [one] = four[..] {
            return Ok(one);
        }
        let place =
            raw.one("profile").or_else(|| raw.rules().iter().find_map(|rule| rule.keys.one("profile")));
        let place = place.expect("something names the profile");
        let problem = format!("needs `subscribers`: there are {} inside IPv4 subnets", four.len());
        let cure = "say which hosts have a block of ports each, e.g. --subscribers 10.88.0.0/23";
        return Err(ConfigError::at(place, problem, cure));
    };
    let prefix = prefix(written)?;
    if !four.iter().any(|net| net.overlaps(prefix)) {
        let cure = "name hosts of an IPv4 --inside subnet";
        return Err(ConfigError::at(written, "is outside every inside subnet", cure));
    }
    Ok(prefix)
}

/// A name, the least that its RFC asks for in seconds, and where it goes.
type TimeoutKey = (&'static str, u64, &'static str, fn(&mut Timeouts) -> &mut Duration);

/// Every timeout.
pub const TIMEOUTS: [TimeoutKey; 13] = [
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

fn timeouts(raw: &Raw, timeouts: &mut Timeouts) -> Checked<()> {
    let (udp, alike) = (timeouts.udp, timeouts.udp == timeouts.udp_unreplied);
    for (name, written) in raw.table("timeouts") {
        let Some((_, _, _, field)) = TIMEOUTS.iter().find(|(known, ..)| *known == name) else {
            let known = TIMEOUTS.map(|(known, ..)| known);
            return Err(ConfigError::new(
                &written.place,
                format!("no timeout `{name}`"),
                did_you_mean(name, &known),
            ));
        };
        *field(timeouts) = duration(written)?;
    }
    // Where nobody tells the two apart, one says both.
    let said = raw.table("timeouts").any(|(name, _)| name == "udp-unreplied");
    if alike && !said && timeouts.udp != udp {
        timeouts.udp_unreplied = timeouts.udp;
    }
    Ok(())
}

/// Reads a duration.
///
/// # Errors
/// It is none, nothing, or more than a year.
pub fn duration(written: &Written) -> Checked<Duration> {
    let duration = humantime::parse_duration(&written.text).map_err(|_| {
        ConfigError::at(written, "is no duration", "write a number and a unit, e.g. 90s, 5m, 2h4m")
    })?;
    if duration.is_zero() || duration > LONGEST {
        let cure = "give more than nothing and at most 365days";
        return Err(ConfigError::at(written, "is not possible", cure));
    }
    Ok(duration)
}

/// Warns of each timeout that is given and below what its RFC asks for. `of` says whose it is.
pub fn short_timeouts(raw: &Raw, mut timeouts: Timeouts, of: &str, warnings: &mut Vec<String>) {
    for (name, least, rfc, field) in TIMEOUTS {
        let (duration, least) = (*field(&mut timeouts), Duration::from_secs(least));
        let given = raw.table("timeouts").any(|(given, _)| given == name);
        if given && duration < least {
            let (duration, least) = (humantime::format_duration(duration), humantime::format_duration(least));
            warnings.push(format!("{of}timeout {name}={duration} is below the {least} that {rfc} asks for"));
        }
    }
}

type LimitKey = (&'static str, fn(&mut Limits) -> &mut usize);

/// Every limit.
pub const LIMITS: [LimitKey; 7] = [
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

/// Reads the limits.
///
/// # Errors
/// One is not known, or not possible.
pub fn limits(raw: &Raw) -> Checked<Limits> {
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
