//! Who inside may talk to whom: a list of rules, of which the first that fits decides.
//!
//! A rule is asked when a session is opened from the inside, never again while it lives; a new
//! configuration asks for every session at once. What is opened from outside, by a port forward or
//! a filter that lets it in, is not asked about: the answers belong to it. Packets that have no
//! session (exempt ones, those of translated prefixes) are asked about one by one; those of a datagram's
//! fragments that do not say their port pass if some port may be reached: the first one says it, and
//! without that no datagram comes about (RFC 1858).
//!
//! A rule about a name is about the addresses that the host was told for it (see `names`). A name
//! is what its owner makes of it, so such a rule allows nothing that another one denies by prefix,
//! wherever that stands in the list.

use super::names::NamePattern;
use super::{Nat, Refusal, Step};
use crate::flow::{Endpoint, Flow, Prefix, Protocol, Time};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

/// Where clouds hand out credentials to whoever asks from the machine: the instance metadata of
/// EC2, Google, Azure and others, of EC2 and of Google by IPv6, and the credentials of ECS tasks and
/// EKS pods.
pub const METADATA: [IpAddr; 6] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Allows or denies inside hosts to open sessions with some remotes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EgressRule {
    /// Allows; else denies.
    pub allow: bool,
    /// Only these inside hosts.
    pub inside: Option<Prefix>,
    /// Only these remotes.
    pub remote: Option<Prefix>,
    /// Only addresses that the host was told for these names.
    pub name: Option<NamePattern>,
    /// Only this protocol.
    pub protocol: Option<Protocol>,
    /// Only these ports of the remote; protocols without ports then do not fit.
    pub ports: Option<RangeInclusive<u16>>,
}

impl EgressRule {
    /// Denies everybody everything with `remote`.
    pub fn deny(remote: Prefix) -> Self {
        EgressRule { remote: Some(remote), ..EgressRule::about_all(false) }
    }

    /// Allows or denies everybody everything.
    pub fn about_all(allow: bool) -> Self {
        EgressRule { allow, inside: None, remote: None, name: None, protocol: None, ports: None }
    }

    /// The rules if nobody gives others: cloud metadata is denied.
    pub fn defaults() -> Vec<Self> {
        Self::before_wider(Vec::new())
    }

    /// `rules` with cloud metadata denied: each of its addresses before the first rule that is about
    /// more than that address, so that only a rule about it alone can allow it.
    pub fn before_wider(mut rules: Vec<Self>) -> Vec<Self> {
        for ip in METADATA {
            let alone = Prefix::new(ip, u8::MAX);
            let wider = |rule: &Self| match rule.remote {
                None => true,
                Some(remote) => remote.covers(ip) && remote.length < alone.length,
            };
            let place = rules.iter().position(wider).unwrap_or(rules.len());
            rules.insert(place, Self::deny(alone));
        }
        rules
    }

    /// Whether the rule is about what is asked, if the remote has the right name.
    fn covers(&self, request: &Request) -> bool {
        self.inside.is_none_or(|only| only.covers(request.inside))
            && self.remote.is_none_or(|only| only.covers_carried(request.remote))
            && self.protocol.is_none_or(|only| only == request.protocol)
            && self.ports.as_ref().is_none_or(|ports| match request.port {
                Port::None => false,
                Port::Is(port) => ports.contains(&port),
                Port::Unknown => self.allow,
            })
    }
}

/// As `--egress` takes it: `[INSIDE=]allow|deny:TO`.
impl fmt::Display for EgressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(inside) = self.inside {
            write!(f, "{inside}=")?;
        }
        f.write_str(if self.allow { "allow:" } else { "deny:" })?;
        match (&self.name, self.remote) {
            (Some(name), _) => write!(f, "{name}")?,
            (None, None) => f.write_str("any")?,
            (None, Some(Prefix { ip: IpAddr::V4(ip), length })) => write!(f, "{ip}/{length}")?,
            (None, Some(Prefix { ip: IpAddr::V6(ip), length })) => write!(f, "[{ip}]/{length}")?,
        }
        match &self.ports {
            Some(ports) if ports.start() == ports.end() => write!(f, ":{}", ports.start())?,
            Some(ports) => write!(f, ":{}-{}", ports.start(), ports.end())?,
            None => {}
        }
        self.protocol.map_or(Ok(()), |protocol| write!(f, "/{protocol}"))
    }
}

/// What the rules are asked about.
struct Request {
    protocol: Protocol,
    inside: IpAddr,
    remote: IpAddr,
    port: Port,
}

impl Request {
    fn about(protocol: Protocol, inside: IpAddr, remote: Endpoint) -> Request {
        let ported = matches!(protocol, Protocol::Tcp | Protocol::Udp);
        let port = if ported { Port::Is(remote.port) } else { Port::None };
        Request { protocol, inside, remote: remote.ip, port }
    }
}

/// The remote's port.
enum Port {
    /// The protocol has none.
    None,
    Is(u16),
    /// It stands in another fragment.
    Unknown,
}

impl Nat {
    /// Whether the inside host `inside` may talk to `remote`: the first rule that fits decides, and
    /// what none fits is allowed. Names count that the host was told and that hold at `now`; with
    /// `None`, those that it was ever told.
    pub fn may_leave(&self, protocol: Protocol, inside: IpAddr, remote: Endpoint, now: Option<Time>) -> bool {
        self.deciding(&Request::about(protocol, inside, remote), now).is_none_or(|rule| rule.allow)
    }

    /// The same for a fragment that does not say its port: whether any port may be talked to.
    pub fn may_follow(&self, protocol: Protocol, inside: IpAddr, remote: IpAddr, now: Time) -> bool {
        let request = Request { protocol, inside, remote, port: Port::Unknown };
        self.deciding(&request, Some(now)).is_none_or(|rule| rule.allow)
    }

    /// What is told of a refusal: with the rule that refused it, if one did.
    pub fn refused(&self, flow: Flow, refusal: Refusal, now: Time) -> Step {
        let Flow { protocol, source, destination } = flow;
        let rule = (refusal == Refusal::EgressDenied)
            .then(|| self.deciding(&Request::about(protocol, source.ip, destination), Some(now)))
            .flatten();
        match rule {
            Some(rule) if !rule.allow => Step::Denied(flow, Box::new(rule.clone())),
            _ => Step::Refused(flow, refusal),
        }
    }

    /// The first rule that fits.
    fn deciding(&self, request: &Request, now: Option<Time>) -> Option<&EgressRule> {
        let fits = |rule: &&EgressRule| {
            rule.covers(request)
                && rule.name.as_ref().is_none_or(|name| {
                    self.names.says(request.inside, request.remote, name, now)
                        && !(rule.allow && self.denied_by_prefix(request))
                })
        };
        self.config.egress.iter().find(fits)
    }

    /// Whether some rule denies this for the address it is about, and not for all there are.
    fn denied_by_prefix(&self, request: &Request) -> bool {
        self.config.egress.iter().any(|rule| {
            let prefix = rule.name.is_none() && rule.remote.is_some_and(|remote| remote.length > 0);
            !rule.allow && prefix && rule.covers(request)
        })
    }

    /// Asks the rules about a packet from the inside.
    pub(super) fn ask_egress(&self, flow: Flow, now: Time) -> Result<(), Refusal> {
        match self.may_leave(flow.protocol, flow.source.ip, flow.destination, Some(now)) {
            true => Ok(()),
            false => Err(Refusal::EgressDenied),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::NatConfig;

    fn all(allow: bool, remote: Option<Prefix>) -> EgressRule {
        EgressRule { remote, ..EgressRule::about_all(allow) }
    }

    #[test]
    fn what_carries_an_address_is_denied_as_the_address_is() {
        let inside = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2));
        let mut config = NatConfig::new(vec![inside]);
        let denied = Prefix::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)), 8);
        config.egress = EgressRule::before_wider(vec![all(false, Some(denied))]);
        let nat = Nat::new(config, [0; 32]);
        let may = |remote: &str| {
            nat.may_leave(Protocol::Tcp, inside, Endpoint::new(remote.parse::<IpAddr>().unwrap(), 80), None)
        };
        for remote in ["64:ff9b::a00:1", "2002:a00:1::1", "64:ff9b::a9fe:a9fe", "10.0.0.1"] {
            assert!(!may(remote), "{remote}");
        }
        for remote in ["64:ff9b::b00:1", "2002:b00:1::1", "2001:db8::a00:1", "64:ff9b:1::a00:1"] {
            assert!(may(remote), "{remote}");
        }
    }

    #[test]
    fn only_a_rule_about_it_alone_allows_metadata() {
        let inside = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
        let may = |rules: Vec<EgressRule>| {
            let mut config = NatConfig::new(vec![inside]);
            config.egress = EgressRule::before_wider(rules);
            let nat = Nat::new(config, [0; 32]);
            nat.may_leave(Protocol::Tcp, inside, Endpoint::new(METADATA[0], 80), None)
        };
        let (one, wide) = (Prefix::new(METADATA[0], 32), Prefix::new(METADATA[0], 16));
        assert!(!may(vec![]));
        assert!(!may(vec![all(true, None)]));
        assert!(!may(vec![all(true, Some(wide))]));
        assert!(may(vec![all(true, Some(one))]));
        assert!(may(vec![all(true, Some(one)), all(false, None)]));
        assert!(!may(vec![all(true, None), all(true, Some(one))]));
    }
}
