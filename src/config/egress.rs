//! Who may talk to whom, as text: `[INSIDE=]allow|deny:TO`, where `TO` is a destination as in
//! [`super::exempt`], or `any` or a name in the place of its prefix.

use super::error::ConfigError;
use super::exempt;
use super::publish::BadSpec;
use super::raw::{Raw, Written};
use super::resolve::Checked;
use super::rule::prefix;
use crate::flow::Prefix;
use crate::nat::{EgressRule, Exemption, NamePattern};
use ipnet::IpNet;

/// How to write one.
const SHAPE: &str = "write [INSIDE=]allow:TO or [INSIDE=]deny:TO, where TO is any, ADDR[/LEN], NAME or *.NAME, \
                     and may end with [:PORT[-PORT]][/tcp|udp|icmp]; e.g. deny:10.0.0.0/8, \
                     10.88.0.7=allow:any:443/tcp or allow:*.example.org:443/tcp";
/// Rules at most; each costs whoever opens a session.
const MOST: usize = 1024;
/// What every destination begins with in [`exempt`]'s words.
const EVERYWHERE: &str = "0.0.0.0/0";

/// Reads the rules, with those that are always there. `resolvers` says whether hosts have a resolver that
/// is known.
///
/// # Errors
/// The first thing that is wrong.
pub fn rules(raw: &Raw, inside: &[IpNet], resolvers: bool) -> Checked<Vec<EgressRule>> {
    let mut rules: Vec<EgressRule> = Vec::new();
    for written in raw.many("egress") {
        let rule = rule(written, inside)?;
        if rule.name.is_some() && !resolvers {
            let cure = "add --dns-forward gateway, or --dns with the servers that hosts ask";
            return Err(ConfigError::at(written, "is about a name, and no resolver is to be believed", cure));
        }
        if rules.contains(&rule) {
            return Err(ConfigError::at(written, "is given twice", "give it once"));
        }
        if rules.len() == MOST {
            let cure = format!("give {MOST} at most");
            return Err(ConfigError::at(written, "is one rule too many", cure));
        }
        rules.push(rule);
    }
    Ok(EgressRule::before_wider(rules))
}

fn rule(written: &Written, nets: &[IpNet]) -> Checked<EgressRule> {
    let (inside, said) = match written.text.split_once('=') {
        Some((inside, said)) => (Some(inside), said),
        None => (None, written.text.as_str()),
    };
    let (allow, to) = match said.split_once(':') {
        Some(("allow", to)) => (true, to),
        Some(("deny", to)) => (false, to),
        _ => return Err(ConfigError::at(written, "neither allows nor denies", SHAPE)),
    };
    let inside = inside.map(|inside| of_inside(written, inside, nets)).transpose()?;
    let To { remote, name, rest } =
        destination(to).map_err(|bad| ConfigError::at(written, bad.problem, bad.cure))?;
    let Exemption { protocol, ports, .. } = rest;
    if let (Some(inside), Some(remote)) = (inside, remote)
        && inside.ip.is_ipv4() != remote.ip.is_ipv4()
    {
        let cure = "name a destination of the inside hosts' family";
        return Err(ConfigError::at(written, "is about addresses of two families", cure));
    }
    Ok(EgressRule { allow, inside, remote, name, protocol, ports })
}

fn of_inside(written: &Written, text: &str, nets: &[IpNet]) -> Checked<Prefix> {
    let inside = prefix(&Written { text: text.to_owned(), place: written.place.clone() })?;
    let net = |net: &IpNet| Prefix::new(net.addr(), net.prefix_len());
    if !nets.iter().any(|ours| net(ours).overlaps(inside)) {
        let cure = "name hosts of an --inside subnet before the =";
        return Err(ConfigError::at(written, "is about hosts outside every inside subnet", cure));
    }
    Ok(inside)
}

/// Where to.
struct To {
    remote: Option<Prefix>,
    name: Option<NamePattern>,
    /// Protocol and ports.
    rest: Exemption,
}

fn destination(text: &str) -> Result<To, BadSpec> {
    // An IPv6 address may begin like a name.
    if let Ok(rest) = exempt::parse(text) {
        return Ok(To { remote: Some(rest.remote), name: None, rest });
    }
    let (front, behind) = text.split_at(text.find([':', '/']).unwrap_or(text.len()));
    let name = NamePattern::parse(front).filter(|_| front != "any");
    if name.is_none() && front != "any" {
        let rest = exempt::parse(text)?;
        return Ok(To { remote: Some(rest.remote), name, rest });
    }
    Ok(To { remote: None, name, rest: exempt::parse(&format!("{EVERYWHERE}{behind}"))? })
}
