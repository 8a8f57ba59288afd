//! Which addresses hosts inside have been told for the names that egress rules are about.
//!
//! A rule about a name holds for the addresses that the host in question has been told for it, by a
//! resolver that the configuration trusts, in answer to a question that the host asked: what one host
//! is told opens nothing to another. Two things keep an answer from opening what it should not. An
//! address that is not public, or is ours, is never taken: whoever owns a name could point it at the
//! inside of somebody's network. And what a rule denies by prefix no name allows
//! ([`super::egress`]).
//!
//! An address counts for as long as its record says, but at least [`SHORTEST`] and at most
//! [`LONGEST`]. It is kept beyond, while there is room, so that a new configuration still knows why a
//! session was allowed.

use super::Nat;
use crate::flow::prefix::carried;
use crate::flow::{Flow, Time};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// How long an address counts at least: programs use it some time after they were told.
pub const SHORTEST: Duration = Duration::from_secs(60);
/// How long it counts at most.
pub const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Questions of one host that wait for their answer; the oldest gives way.
const QUESTIONS: usize = 64;
/// Pairs of name and address that one host knows; the one that ends first gives way.
const PER_HOST: usize = 512;
/// Pairs that all of them know.
const PAIRS: usize = 1 << 16;
/// Hosts of which something is known.
const HOSTS: usize = 4096;

/// The names that a rule is about: one, or all below one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamePattern {
    /// In lower case, without a final dot.
    name: Box<str>,
    below: bool,
}

impl NamePattern {
    /// Reads `NAME` or `*.NAME`; `None` if that is no name of a host. The last label has a letter in
    /// it, so that no address is taken for a name.
    pub fn parse(text: &str) -> Option<NamePattern> {
        let (below, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let label = |label: &str| (1..64).contains(&label.len()) && label.bytes().all(fine);
        let last = name.rsplit('.').next()?;
        let named = last.bytes().any(|byte| byte.is_ascii_alphabetic());
        (name.len() <= 253 && name.split('.').all(label) && named)
            .then(|| NamePattern { name: name.into(), below })
    }

    /// Whether `name`, in lower case and without a final dot, is one of them. `*.example.org` is about
    /// names below `example.org` at any depth, not about `example.org` itself.
    pub fn covers(&self, name: &str) -> bool {
        match name.strip_suffix(&*self.name) {
            Some("") => !self.below,
            Some(front) => self.below && front.len() > 1 && front.ends_with('.'),
            None => false,
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*." } else { "" }, self.name)
    }
}

/// A question that a host inside asked of a resolver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// From the host inside to the resolver.
    pub flow: Flow,
    /// What asker and answerer know it by.
    pub id: u16,
    /// For addresses of IPv6; else of IPv4.
    pub six: bool,
    /// The name in lower case, without a final dot.
    pub name: Box<str>,
}

/// How names fare.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NameCounts {
    /// Pairs of host and address that are known.
    pub known: usize,
    /// Addresses that were not taken because they are not public, or ours.
    pub refused: u64,
    /// Questions and addresses that gave way to others, or found no room.
    pub lost: u64,
    /// Answers that could not be used: truncated, in pieces, or broken.
    pub unread: u64,
}

#[derive(Default, Debug)]
struct Host {
    /// Questions without an answer, and until when one is waited for.
    questions: VecDeque<(Asked, Time)>,
    /// Addresses, what for, and until when.
    told: BTreeMap<(IpAddr, Box<str>), Time>,
}

/// What hosts inside have asked and were told.
#[derive(Default, Debug)]
pub(super) struct Names {
    hosts: BTreeMap<IpAddr, Host>,
    pub(super) counts: NameCounts,
    /// When it was last looked for hosts of which nothing counts any more.
    swept: Time,
}

impl Names {
    /// Whether the host `inside` was told `address` for a name of `pattern`, as far as that counts at
    /// `now`; with `None`, ever.
    pub(super) fn says(
        &self,
        inside: IpAddr,
        address: IpAddr,
        pattern: &NamePattern,
        now: Option<Time>,
    ) -> bool {
        let Some(host) = self.hosts.get(&inside) else { return false };
        let about = host.told.range((address, Box::from(""))..).take_while(|((ip, _), _)| *ip == address);
        about.into_iter().any(|((_, name), until)| pattern.covers(name) && now.is_none_or(|now| now < *until))
    }

    /// A host asks.
    fn asked(&mut self, asked: Asked, now: Time) {
        let inside = asked.flow.source.ip;
        if self.hosts.len() >= HOSTS && !self.hosts.contains_key(&inside) {
            self.sweep(now);
            if self.hosts.len() >= HOSTS {
                self.counts.lost += 1;
                return;
            }
        }
        let host = self.hosts.entry(inside).or_default();
        host.questions.retain(|(other, until)| *other != asked && now < *until);
        if host.questions.len() >= QUESTIONS {
            host.questions.pop_front();
            self.counts.lost += 1;
        }
        host.questions.push_back((asked, now + PATIENCE));
    }

    /// Whether somebody waits for this answer; who is waited for no longer from here on.
    fn answered(&mut self, asked: &Asked, now: Time) -> bool {
        let Some(host) = self.hosts.get_mut(&asked.flow.source.ip) else { return false };
        let place = host.questions.iter().position(|(other, until)| other == asked && now < *until);
        place.and_then(|place| host.questions.remove(place)).is_some()
    }

    /// A host is told an address.
    fn tell(&mut self, inside: IpAddr, name: &str, address: IpAddr, until: Time) {
        let known = &mut self.counts.known;
        let Some(host) = self.hosts.get_mut(&inside) else { return };
        let key = (address, Box::from(name));
        if let Some(before) = host.told.get_mut(&key) {
            *before = until.max(*before);
            return;
        }
        if host.told.len() >= PER_HOST || *known >= PAIRS {
            self.counts.lost += 1;
            let first = host.told.iter().min_by_key(|(_, until)| **until).map(|(key, _)| key.clone());
            let Some(first) = first else { return };
            host.told.remove(&first);
            *known -= 1;
        }
        host.told.insert(key, until);
        *known += 1;
    }

    /// Forgets hosts of which nothing counts any more; looks at most once a second.
    fn sweep(&mut self, now: Time) {
        if now < self.swept + Duration::from_secs(1) {
            return;
        }
        self.swept = now;
        let waits = |host: &Host| host.questions.iter().any(|(_, until)| now < *until);
        self.hosts.retain(|_, host| waits(host) || host.told.values().any(|until| now < *until));
        self.counts.known = self.hosts.values().map(|host| host.told.len()).sum();
    }
}

impl Nat {
    /// A host inside asks a trusted resolver. Only names that a rule is about are remembered.
    pub fn name_asked(&mut self, asked: Asked, now: Time) {
        let mut patterns = self.config.egress.iter().filter_map(|rule| rule.name.as_ref());
        if patterns.any(|pattern| pattern.covers(&asked.name)) {
            self.names.asked(asked, now);
        }
    }

    /// A host inside is answered by the resolver it asked: with addresses and for how many seconds
    /// each holds, `None` if they cannot be read. Nothing comes of it if the host did not ask.
    pub fn name_answered(&mut self, asked: &Asked, addresses: Option<&[(IpAddr, u32)]>, now: Time) {
        if !self.names.answered(asked, now) {
            return;
        }
        let Some(addresses) = addresses else {
            self.names.counts.unread += 1;
            return;
        };
        for (address, seconds) in addresses {
            if !public(*address) || self.addresses.home(&self.hash, *address).is_some() {
                self.names.counts.refused += 1;
                continue;
            }
            let lives = Duration::from_secs(u64::from(*seconds)).clamp(SHORTEST, LONGEST);
            self.names.tell(asked.flow.source.ip, &asked.name, *address, now + lives);
        }
    }

    /// Whether a rule is about names.
    pub fn heeds_names(&self) -> bool {
        self.config.egress.iter().any(|rule| rule.name.is_some())
    }
}

/// Whether anybody on the Internet may have this address: it is no private, shared, local, mapped or
/// multicast one (RFC 6890), by way of NAT64 (RFC 6052) neither.
fn public(ip: IpAddr) -> bool {
    let four = |ip: Ipv4Addr| {
        let [a, b, ..] = ip.octets();
        let shared = a == 100 && (64..128).contains(&b);
        !(a == 0 || a >= 224 || shared || ip.is_private() || ip.is_loopback() || ip.is_link_local())
    };
    match ip {
        IpAddr::V4(ip) => four(ip),
        IpAddr::V6(six) => carried(ip).map_or_else(|| six.segments()[0] & 0xe000 == 0x2000, four),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Endpoint, Protocol};

    fn host(last: u16) -> IpAddr {
        Ipv4Addr::from_bits(0x0a00_0000 | u32::from(last)).into()
    }

    fn asked(inside: IpAddr, id: u16, name: &str) -> Asked {
        let server = Endpoint::new(IpAddr::from([10, 0, 0, 1]), 53);
        let flow = Flow { protocol: Protocol::Udp, source: Endpoint::new(inside, 1000), destination: server };
        Asked { flow, id, six: false, name: name.into() }
    }

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0b00_0000 | number).into()
    }

    #[test]
    fn a_star_is_about_what_is_below() {
        for (pattern, name, covers) in [
            ("example.org", "example.org", true),
            ("Example.ORG.", "example.org", true),
            ("example.org", "www.example.org", false),
            ("*.example.org", "www.example.org", true),
            ("*.example.org", "a.b.example.org", true),
            ("*.example.org", "example.org", false),
            ("*.example.org", "badexample.org", false),
            ("*.example.org", ".example.org", false),
            ("*.example.org", "example.org.evil.test", false),
        ] {
            assert_eq!(NamePattern::parse(pattern).unwrap().covers(name), covers, "{pattern} {name}");
        }
        let long = "a.".repeat(126) + "bc";
        for bad in ["", "*", "*.", "a..b", "10.0.0.1", "10.0.0.300", "*.*.org", "a b.org", "a*.org", &long] {
            assert_eq!(NamePattern::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn every_table_has_a_bound_and_counts_what_is_lost() {
        let mut names = Names::default();
        let (one, now) = (host(1), Time::ZERO);
        (0..QUESTIONS as u16 + 3).for_each(|id| names.asked(asked(one, id, "a.example"), now));
        assert_eq!((names.hosts[&one].questions.len(), names.counts.lost), (QUESTIONS, 3));
        assert!(!names.answered(&asked(one, 2, "a.example"), now));
        assert!(names.answered(&asked(one, 3, "a.example"), now));
        assert!(!names.answered(&asked(one, 3, "a.example"), now), "only the first answer counts");
        assert!(!names.answered(&asked(one, 4, "a.example"), now + PATIENCE));
        for number in 0..PER_HOST as u32 + 2 {
            let until = now + Duration::from_secs(u64::from(number));
            names.tell(one, "a.example", address(number), until);
        }
        assert_eq!((names.counts.known, names.counts.lost), (PER_HOST, 5));
        let pattern = NamePattern::parse("a.example").unwrap();
        assert!(!names.says(one, address(1), &pattern, None), "what ends first gives way");
        assert!(names.says(one, address(2), &pattern, None));
        assert!(!names.says(one, address(2), &pattern, Some(now + Duration::from_secs(2))));
        (1..HOSTS as u16 + 3).for_each(|last| names.asked(asked(host(last), 1, "a.example"), now));
        assert_eq!((names.hosts.len(), names.counts.lost), (HOSTS, 7));
        let later = now + Duration::from_secs(3600);
        names.asked(asked(host(9999), 1, "a.example"), later);
        assert_eq!((names.hosts.len(), names.counts.known), (1, 0), "who is not heard of gives way");
    }

    #[test]
    fn all_hosts_together_have_a_bound() {
        let mut names = Names::default();
        let hosts = (PAIRS / PER_HOST) as u16;
        for last in 1..=hosts {
            names.asked(asked(host(last), 1, "a.example"), Time::ZERO);
            (0..PER_HOST as u32).for_each(|n| names.tell(host(last), "a.example", address(n), Time::ZERO));
        }
        names.asked(asked(host(hosts + 1), 1, "a.example"), Time::ZERO);
        names.tell(host(hosts + 1), "a.example", address(1), Time::ZERO);
        names.tell(host(1), "a.example", address(9_999), Time::ZERO);
        assert_eq!((names.counts.known, names.counts.lost), (PAIRS, 2));
    }

    #[test]
    fn addresses_that_are_not_public_are_known() {
        for ip in
            ["10.1.1.1", "127.0.0.1", "169.254.169.254", "100.64.0.1", "192.168.0.1", "224.0.0.1", "0.1.1.1"]
        {
            assert!(!public(ip.parse().unwrap()), "{ip}");
        }
        let six = [
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
        ];
        for ip in six {
            assert!(!public(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["198.51.100.7", "100.128.0.1", "2001:db8::1", "64:ff9b::c633:6407", "2002:c633:6407::1"] {
            assert!(public(ip.parse().unwrap()), "{ip}");
        }
    }
}
