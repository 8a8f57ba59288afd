//! Port specifications of `pasta`, as in `-t 127.0.0.1/8080-8090:80-90,~8085`.
//!
//! ```text
//!   none | all | auto | [ADDR/]PIECE,PIECE...
//!   PIECE: PORTS          to the same ports      ~PORTS   but not these
//!          PORTS:PORTS    to others              auto     only what is listened to
//!          PORTS:ADDR/PORTS  to somebody else    PORTS:   FIRST or FIRST-LAST
//!   ADDR:  192.0.2.1, ::1 or [::1]; behind PORTS: in brackets if it is of IPv6
//! ```
//!
//! Only exclusions mean all others; `all` is all that are not ephemeral.

use super::forwards::{Forward, anywhere};
use crate::config::publish::parse_range;
use crate::flow::Protocol;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

/// Ports that the rules of one direction may name, at most: each costs a socket.
pub const MOST: usize = 4096;
/// Sockets for ports at once, at most: of both protocols and families as many as may be named.
pub const SOCKETS: usize = 4 * MOST;
/// Rules that one specification may make, at most.
const MOST_RULES: usize = 1024;
/// Where the kernel's ephemeral ports begin, where it does not say.
const EPHEMERAL: u16 = 32768;

/// Consecutive ports that lead elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rule {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where is listened; any address if `None`, any of one family if unspecified.
    pub at: Option<IpAddr>,
    /// The first port there, above 0.
    pub first: u16,
    /// The last port there.
    pub last: u16,
    /// Who answers; whoever is meant where nobody is named if `None`.
    pub target: Option<IpAddr>,
    /// The port there that `first` leads to; that of `last` is no more than 65535.
    pub to: u16,
    /// Only while somebody listens there.
    pub scan: bool,
}

impl Rule {
    /// The ports, with those that they lead to.
    pub fn pairs(&self) -> impl Iterator<Item = (u16, u16)> + use<> {
        let Rule { first, last, to, .. } = *self;
        (first..=last).map(move |port| (port, to.saturating_add(port - first)))
    }

    /// Those of the pairs that lead to one of `ports`, which are in order.
    pub fn pairs_to(&self, ports: &BTreeSet<u16>) -> Vec<(u16, u16)> {
        let Rule { first, last, to, .. } = *self;
        let end = to.saturating_add(last - first);
        ports.range(to..=end).map(|port| (first + (port - to), *port)).collect()
    }

    /// Whether both listen at one place.
    pub fn overlaps(&self, other: &Rule) -> bool {
        let family = |rule: &Rule| rule.at.filter(IpAddr::is_unspecified).map(|ip| ip.is_ipv4());
        let apart = self.at.is_some() && other.at.is_some() && self.at != other.at;
        let apart = apart && (family(self).is_none() || family(self) != family(other));
        self.protocol == other.protocol && !apart && self.first <= other.last && other.first <= self.last
    }
}

/// Where ephemeral ports begin on this host.
pub fn ephemeral() -> u16 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first = text.split_whitespace().next().and_then(|word| word.parse().ok());
    first.filter(|port| *port > 1).unwrap_or(EPHEMERAL)
}

/// Reads the values of all options of one name; `None` if there are none. `ephemeral` is where the
/// ephemeral ports begin.
///
/// # Errors
/// What is wrong with which of them, or why it is refused.
pub fn read_all(texts: &[String], protocol: Protocol, ephemeral: u16) -> Result<Option<Vec<Rule>>, String> {
    let mut all: Vec<Rule> = Vec::new();
    for text in texts {
        let alone = texts.len() == 1 || texts.iter().all(|text| text == "none");
        if !alone && matches!(text.as_str(), "none" | "all" | "auto") {
            return Err(format!("{text}: stands alone, and cannot be joined with other ports"));
        }
        for rule in read(text, protocol, ephemeral).map_err(|why| format!("{text}: {why}"))? {
            if all.iter().any(|other| other.overlaps(&rule)) {
                return Err(format!("{text}: some of its ports are named twice"));
            }
            all.push(rule);
        }
    }
    let ports: usize = all.iter().filter(|rule| !rule.scan).map(|rule| rule.pairs().count()).sum();
    if ports > MOST {
        return Err(format!(
            "{}: {ports} ports, each of which costs a socket; name {MOST} at most",
            texts.join(" ")
        ));
    }
    Ok((!texts.is_empty()).then_some(all))
}

/// Reads one specification.
///
/// # Errors
/// What is wrong with it, or why it is refused.
pub fn read(text: &str, protocol: Protocol, ephemeral: u16) -> Result<Vec<Rule>, String> {
    if text == "none" {
        return Ok(Vec::new());
    }
    let (at, list) = match text.split_once('/') {
        // The first `/` may be that of a target.
        Some((before, list)) if !begins_with_ports(before) => (Some(address(before)?), list),
        _ => (None, text),
    };
    let whole = Rule { protocol, at, first: 1, last: u16::MAX, target: None, to: 1, scan: false };
    let mut pieces = Pieces::default();
    for piece in list.split(',') {
        pieces.take(piece, whole)?;
    }
    let Pieces { mut wanted, excluded, scan, all } = pieces;
    if wanted.is_empty() {
        if !scan && !all && excluded.is_empty() {
            return Err("names no port".into());
        }
        // Programs have sockets of UDP open at ephemeral ports without serving anybody.
        let every = scan && protocol == Protocol::Tcp;
        wanted.push(Rule { last: if every { u16::MAX } else { ephemeral - 1 }, ..whole });
    } else if all {
        return Err("all: stands alone, and cannot be joined with other ports".into());
    }
    for range in excluded {
        wanted = wanted.iter().flat_map(|rule| without(rule, &range)).collect();
        if wanted.len() > MOST_RULES {
            return Err(format!("too many exclusions: it makes more than {MOST_RULES} ranges"));
        }
    }
    wanted.iter_mut().for_each(|rule| rule.scan = scan);
    if wanted.is_empty() {
        return Err("names no port that it does not exclude".into());
    }
    Ok(wanted)
}

#[derive(Default)]
struct Pieces {
    wanted: Vec<Rule>,
    excluded: Vec<RangeInclusive<u16>>,
    scan: bool,
    all: bool,
}

impl Pieces {
    fn take(&mut self, piece: &str, whole: Rule) -> Result<(), String> {
        let wrong = |why: &str| format!("{piece}: {why}");
        match piece {
            "auto" => self.scan = true,
            "all" => self.all = true,
            _ => {
                if let Some(not) = piece.strip_prefix('~') {
                    self.excluded.push(parse_range(not).map_err(wrong)?);
                    return Ok(());
                }
                let (from, to) = piece.split_once(':').unwrap_or((piece, piece));
                let (target, to) = match to.split_once('/') {
                    Some((target, to)) => (Some(address(target)?), to),
                    None => (None, to),
                };
                let (from, to) = (parse_range(from).map_err(wrong)?, parse_range(to).map_err(wrong)?);
                if from.len() != to.len() {
                    return Err(wrong("the two ranges differ in length"));
                }
                if whole.at.zip(target).is_some_and(|(at, target)| at.is_ipv4() != target.is_ipv4()) {
                    return Err(wrong("leads to another family of addresses"));
                }
                self.wanted.push(Rule {
                    first: *from.start(),
                    last: *from.end(),
                    target,
                    to: *to.start(),
                    ..whole
                });
            }
        }
        Ok(())
    }
}

/// Whether this is no address, but ports and the begin of a target.
fn begins_with_ports(text: &str) -> bool {
    let ports = text.split_once(':').map(|(ports, _)| ports);
    text.parse::<IpAddr>().is_err() && ports.is_some_and(|ports| parse_range(ports).is_ok())
}

/// What is left of a rule.
fn without(rule: &Rule, range: &RangeInclusive<u16>) -> Vec<Rule> {
    let (first, last) = (*range.start(), *range.end());
    if first > rule.last || last < rule.first {
        return vec![*rule];
    }
    let before = (first > rule.first).then(|| Rule { last: first - 1, ..*rule });
    let after = (last < rule.last).then(|| {
        let first = last + 1;
        Rule { first, to: rule.to + (first - rule.first), ..*rule }
    });
    before.into_iter().chain(after).collect()
}

fn address(text: &str) -> Result<IpAddr, String> {
    let (text, interface) = text.split_once('%').map_or((text, None), |(text, name)| (text, Some(name)));
    if let Some(interface) = interface {
        let why = "tapnat listens on addresses, not on interfaces; name its address";
        return Err(format!("%{interface}: {why}"));
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_| format!("{text}: is no address"))
}

/// The forwards of a rule to `guests`, one of each family at most; if it scans, to the ports that
/// `listening` has, by family, IPv4 first. Without an address of the host they are on any of each family that there is inside.
pub fn forwards(rule: &Rule, guests: &[IpAddr], listening: &[BTreeSet<u16>; 2]) -> Vec<Forward> {
    let meant = |guest: &IpAddr| rule.at.or(rule.target).is_none_or(|ip| ip.is_ipv4() == guest.is_ipv4());
    let guests: Vec<IpAddr> = guests.iter().copied().filter(meant).collect();
    let pairs = |guest: &IpAddr| match rule.scan {
        true => rule.pairs_to(&listening[usize::from(guest.is_ipv6())]),
        false => rule.pairs().collect(),
    };
    let each = |guest: IpAddr| {
        let forward = move |(port, to)| Forward {
            protocol: rule.protocol,
            host: SocketAddr::new(rule.at.unwrap_or_else(|| anywhere(guest)), port),
            guest: SocketAddr::new(rule.target.unwrap_or(guest), to),
        };
        pairs(&guest).into_iter().map(forward)
    };
    guests.into_iter().flat_map(each).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn said(texts: &[&str]) -> String {
        let texts: Vec<String> = texts.iter().map(|text| text.to_string()).collect();
        let show = |rule: &Rule| {
            let ip = |ip: Option<IpAddr>| ip.map_or(String::new(), |ip| format!("{ip}/"));
            let scan = if rule.scan { "?" } else { "" };
            format!("{}{}-{}>{}{}{scan}", ip(rule.at), rule.first, rule.last, ip(rule.target), rule.to)
        };
        match read_all(&texts, Protocol::Tcp, 32768) {
            Err(why) => why,
            Ok(None) => "nothing said".to_owned(),
            Ok(Some(rules)) => rules.iter().map(show).collect::<Vec<_>>().join(" "),
        }
    }

    #[test]
    fn specifications_are_read() {
        for (text, want) in [
            ("none", ""),
            ("22", "22-22>22"),
            ("22:23,25", "22-22>23 25-25>25"),
            ("22-80:32-90", "22-80>32"),
            ("0.0.0.0/8080-8081:80-81", "0.0.0.0/8080-8081>80"),
            ("[::1]/80", "::1/80-80>80"),
            ("::1/80", "::1/80-80>80"),
            ("[::]/80", "::/80-80>80"),
            ("2000-5000,~3000-3010", "2000-2999>2000 3011-5000>3011"),
            ("192.0.2.1/20-30:120-130,~25", "192.0.2.1/20-24>120 192.0.2.1/26-30>126"),
            ("5-8,~9-10", "5-8>5"),
            ("~1-32000", "32001-32767>32001"),
            ("auto", "1-65535>1?"),
            ("8000-8010,auto", "8000-8010>8000?"),
            ("127.0.0.1/auto,~22", "127.0.0.1/1-21>1? 127.0.0.1/23-65535>23?"),
            ("8080:10.0.2.7/80", "8080-8080>10.0.2.7/80"),
            ("::/8080:[fd00::7]/80", "::/8080-8080>fd00::7/80"),
        ] {
            assert_eq!(said(&[text]), want, "{text}");
        }
        assert_eq!(said(&[]), "nothing said");
        assert_eq!(said(&["0.0.0.0/80", "[::]/80", "22"]), "0.0.0.0/80-80>80 ::/80-80>80 22-22>22");
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for (text, why) in [
            ("", "is no port"),
            ("x", "x: is no port or range of ports"),
            ("0", "0: has port 0"),
            ("65536", "is no port"),
            ("22-", "is no port"),
            ("-22", "is no port"),
            ("22-20", "22-20: ends before it begins"),
            ("1-4:1-3", "differ in length"),
            ("22,,23", "is no port"),
            ("22:", "is no port"),
            ("80:81:82", "is no port"),
            ("~", "is no port"),
            ("~1-65535", "names no port that it does not exclude"),
            ("5,~5", "names no port that it does not exclude"),
            ("1.2.3.4/", "is no port"),
            ("/22", "is no address"),
            ("x/80", "x: is no address"),
            ("1.2.3.4.5/22", "is no address"),
            ("[::1/80", "is no address"),
            ("127.0.0.1%lo/80", "%lo: tapnat listens on addresses, not on interfaces"),
            ("%lo/80", "not on interfaces"),
            ("none,80", "is no port"),
            ("all,80", "stands alone"),
            ("22,20-25", "named twice"),
            ("all", "all: 32767 ports, each of which costs a socket"),
            ("~22", "32766 ports"),
            ("1-65535", "65535 ports"),
            ("0.0.0.0/80:[::1]/80", "another family"),
        ] {
            assert!(said(&[text]).contains(why), "{text}: {}", said(&[text]));
        }
        for (texts, why) in [
            (["none", "22"], "none: stands alone"),
            (["22", "auto"], "auto: stands alone"),
            (["22", "0.0.0.0/22"], "0.0.0.0/22: some of its ports are named twice"),
        ] {
            assert!(said(&texts).contains(why), "{texts:?}: {}", said(&texts));
        }
    }

    #[test]
    fn rules_are_forwards_of_each_family() {
        let guests = [IpAddr::from(Ipv4Addr::new(10, 0, 2, 100)), IpAddr::from(Ipv6Addr::LOCALHOST)];
        let listed = |text: &str| {
            let rules = read(text, Protocol::Udp, 32768).unwrap();
            let listening = [BTreeSet::from([53]), BTreeSet::new()];
            let all = rules.iter().flat_map(|rule| forwards(rule, &guests, &listening));
            all.map(|one| format!("{}>{}", one.host, one.guest)).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(listed("22"), "0.0.0.0:22>10.0.2.100:22 [::]:22>[::1]:22");
        assert_eq!(listed("127.0.0.1/7-8:9-10"), "127.0.0.1:7>10.0.2.100:9 127.0.0.1:8>10.0.2.100:10");
        assert_eq!(listed("auto"), "0.0.0.0:53>10.0.2.100:53");
        assert_eq!(listed("22:10.0.2.7/80"), "0.0.0.0:22>10.0.2.7:80");
    }
}
