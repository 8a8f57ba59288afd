//! Rules: another policy for some inside hosts.

use super::error::ConfigError;
use super::profile::Profile;
use super::raw::{Place, Raw, RawRule, Written};
use super::resolve::Checked;
use super::settings::ProfiledRule;
use super::translation::{self, profile};
use crate::flow::Prefix;
use crate::nat::{NatConfig, Policy, PortChoice, Rule};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Timeouts that are the whole gateway's and no host's.
const COMMON: [&str; 1] = ["lease"];

/// The rule that the text `INSIDE=PROFILE` says.
///
/// # Errors
/// It has no `=`.
pub fn split(written: Written) -> Checked<RawRule> {
    let Some((inside, profile)) = written.text.split_once('=') else {
        let cure = "write INSIDE=PROFILE, e.g. 10.88.0.64/26=symmetric";
        return Err(ConfigError::at(&written, "has no =", cure));
    };
    let place = written.place.clone();
    let mut keys = Raw::default();
    keys.add("inside", None, Written { text: inside.to_owned(), place: place.clone() });
    keys.add("profile", None, Written { text: profile.to_owned(), place: place.clone() });
    Ok(RawRule { place, keys })
}

/// Reads the rules. What a rule without a profile does not say is as in the default policy.
///
/// # Errors
/// The first thing that is wrong.
pub fn rules(
    raw: &Raw,
    nets: &[IpNet],
    (default, default_policy): (Profile, &Policy),
    block: Option<PortChoice>,
) -> Checked<Vec<ProfiledRule>> {
    let mut rules: Vec<ProfiledRule> = Vec::new();
    let mut prefixes = BTreeSet::new();
    let mut policies = vec![default_policy.clone()];
    for RawRule { place, keys } in raw.rules() {
        let inside = inside(keys, place, nets)?;
        if !prefixes.insert(inside) {
            let written = keys.one("inside").expect("it was just read");
            return Err(ConfigError::at(written, "has a rule already", "write one rule for a prefix"));
        }
        if let Some((_, written)) = keys.table("timeouts").find(|(name, _)| COMMON.contains(name)) {
            let cure = "give it for all in [timeouts], or with --timeout";
            return Err(ConfigError::at(written, "is a time of the whole gateway, not of some hosts", cure));
        }
        let given = profile(keys)?;
        let base =
            given.map_or_else(|| default_policy.clone(), |profile| profile.policy(block.unwrap_or_default()));
        let policy = translation::overridden(keys, base)?;
        if let (PortChoice::Block { subscribers, .. }, Some(written)) = (policy.choice, keys.one("inside"))
            && !(subscribers.covers(inside.ip) && inside.length >= subscribers.length)
        {
            let cure = format!("name hosts of `subscribers` ({subscribers}), or widen that");
            return Err(ConfigError::at(written, "has hosts that have no block of ports", cure));
        }
        if !policies.contains(&policy) {
            policies.push(policy.clone());
        }
        if policies.len() > NatConfig::POLICIES {
            let problem = format!("is the first of more than {} different policies", NatConfig::POLICIES);
            let written = keys.one("inside").expect("it was just read");
            return Err(ConfigError::at(written, problem, "let rules share profiles and timeouts"));
        }
        rules.push(ProfiledRule { profile: given.unwrap_or(default), rule: Rule { inside, policy } });
    }
    Ok(rules)
}

fn inside(keys: &Raw, place: &Place, nets: &[IpNet]) -> Checked<Prefix> {
    let Some(written) = keys.one("inside") else {
        let cure = "say for whom it is: inside = \"10.88.0.64/26\"";
        return Err(ConfigError::new(place, "has no `inside`", cure));
    };
    let prefix = prefix(written)?;
    let net = |net: &IpNet| Prefix::new(net.addr(), net.prefix_len());
    if !nets.iter().any(|inside| net(inside).overlaps(prefix)) {
        let cure = "name hosts of an --inside subnet";
        return Err(ConfigError::at(written, "is outside every inside subnet", cure));
    }
    Ok(prefix)
}

/// Reads `ADDR` or `ADDR/LEN`, the bits behind the length being zero.
///
/// # Errors
/// It is none.
pub fn prefix(written: &Written) -> Checked<Prefix> {
    let text = &written.text;
    let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let Ok(net) = net else {
        return Err(ConfigError::at(written, "is no prefix", "give one such as 10.88.0.64/26"));
    };
    if net.trunc() != net {
        let cure = format!("write {}, or {} for the one host", net.trunc(), net.addr());
        return Err(ConfigError::at(written, "is one host's address with a shorter prefix", cure));
    }
    Ok(Prefix::new(net.addr(), net.prefix_len()))
}
