//! Which ports are forwarded: what the rules ask for and somebody listens to is made, what they do not
//! is taken away.
//!
//! ```text
//!   rules of -t, -u ─▶ forwards of the gateway: a client of the host's network reaches the namespace;
//!                      with lo_to_lo those on the host's loopback are splices
//!   rules of -T, -U ─▶ splices: from the namespace's loopback to the host's
//! ```

use super::forwards::{Forward, Forwarder};
use super::pasta_ports::{MOST, Rule, SOCKETS, forwards};
use crate::flow::Protocol;
use crate::io::listening::Listening;
use crate::io::relay::Side;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Rounds until what failed is tried again.
const AGAIN: u32 = 5;

/// A way between two loopbacks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Splice {
    /// Whether it is of UDP.
    pub udp: bool,
    /// The side where is listened.
    pub listens: Side,
    /// Where is listened.
    pub at: SocketAddr,
    /// Who answers on the other side.
    pub to: SocketAddr,
}

/// Who makes splices.
pub trait Splicer {
    /// Makes one; gives its number.
    ///
    /// # Errors
    /// Why not.
    fn add(&mut self, splice: Splice) -> Result<usize, String>;

    /// Takes it away.
    fn remove(&mut self, number: usize);
}

/// Something that rules ask for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Wanted {
    /// A forward of the gateway.
    Published(Forward),
    /// A way between two loopbacks.
    Spliced(Splice),
}

impl Wanted {
    /// Where is listened: only one of those can be.
    fn place(&self) -> (bool, Side, SocketAddr) {
        match self {
            Wanted::Published(forward) => (forward.protocol == Protocol::Udp, Side::Host, forward.host),
            Wanted::Spliced(splice) => (splice.udp, splice.listens, splice.at),
        }
    }
}

/// Who listens on each side.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// In the namespace.
    pub inside: BTreeSet<Listening>,
    /// On the host.
    pub host: BTreeSet<Listening>,
}

/// The rules of both tables.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    /// From the host to the namespace.
    pub host: Vec<Rule>,
    /// From the namespace's loopback to the host's.
    pub splice: Vec<Rule>,
}

/// What is known of both sides.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Around {
    /// The namespace's addresses, one of each family at most.
    pub guests: Vec<IpAddr>,
    /// Clients of the host's loopback come from the namespace's.
    pub lo_to_lo: bool,
    /// The host's addresses, without its loopback.
    pub own: Vec<IpAddr>,
}

/// The rules, and what is made of them.
#[derive(Debug)]
pub struct Board<F, S> {
    forwarder: F,
    splicer: S,
    around: Around,
    /// What is asked for.
    pub rules: Rules,
    made: HashMap<Wanted, Option<usize>>,
    failed: HashMap<Wanted, u32>,
}

impl Rules {
    /// Whether rules can be carried out that come from elsewhere than the options.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), String> {
        for table in [&self.host, &self.splice] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let named = table.iter().filter(|rule| !rule.scan && rule.protocol == protocol);
                if named.map(|rule| rule.pairs().count()).sum::<usize>() > MOST {
                    return Err(format!("more than {MOST} ports of {protocol}"));
                }
            }
        }
        let nobody = |ip: &IpAddr| ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
        match self.host.iter().filter_map(|rule| rule.target).find(nobody) {
            Some(ip) => Err(format!("{ip}: is no address inside that a client elsewhere can reach")),
            None => Ok(()),
        }
    }
}

/// All that rules ask for by explicit ports: whether or not anybody listens.
pub fn at_start(rules: &Rules, around: &Around) -> Vec<Wanted> {
    wanted(rules, around, &Seen::default()).into_keys().collect()
}

impl<F: Forwarder, S: Splicer> Board<F, S> {
    /// Where `forwarder` has made those that are published of [`at_start`] already.
    ///
    /// # Errors
    /// A splice among them cannot be made.
    pub fn new(forwarder: F, mut splicer: S, around: Around, rules: Rules) -> Result<Self, String> {
        let mut made = HashMap::new();
        for one in at_start(&rules, &around) {
            let number = match one {
                Wanted::Published(_) => None,
                Wanted::Spliced(splice) => Some(splicer.add(splice)?),
            };
            made.insert(one, number);
        }
        Ok(Board { forwarder, splicer, around, rules, made, failed: HashMap::new() })
    }

    /// Makes what is missing and takes away what nobody asks for. What is asked for by its port and
    /// cannot be made is told, once.
    pub fn settle(&mut self, seen: &Seen) -> Vec<String> {
        let seen = self.of_others(seen);
        let wanted = wanted(&self.rules, &self.around, &seen);
        let mut told = Vec::new();
        let over: Vec<Wanted> = self.made.keys().filter(|one| !wanted.contains_key(one)).copied().collect();
        for one in over {
            let number = self.made.remove(&one).flatten();
            match one {
                Wanted::Published(forward) => told.extend(self.forwarder.remove(forward).err()),
                Wanted::Spliced(_) => number.into_iter().for_each(|number| self.splicer.remove(number)),
            }
        }
        self.failed.retain(|one, rounds| {
            *rounds = rounds.saturating_sub(1);
            wanted.contains_key(one)
        });
        for (one, scan) in wanted {
            if self.made.contains_key(&one) || self.failed.get(&one).is_some_and(|rounds| *rounds > 0) {
                continue;
            }
            let made = match one {
                _ if self.made.len() >= SOCKETS => {
                    Err(format!("more than {SOCKETS} sockets for ports at once"))
                }
                Wanted::Published(forward) => self.forwarder.add(forward).map(|()| None),
                Wanted::Spliced(splice) => self.splicer.add(splice).map(Some),
            };
            match made {
                Ok(number) => {
                    self.failed.remove(&one);
                    self.made.insert(one, number);
                }
                Err(why) => {
                    // A port that only happens to be there as well is somebody's own.
                    tracing::debug!("not forwarded: {why}");
                    let first = self.failed.insert(one, AGAIN).is_none();
                    told.extend(Some(why).filter(|_| first && !scan));
                }
            }
        }
        told
    }

    /// Takes which addresses the host has, without its loopback.
    pub fn set_own(&mut self, own: Vec<IpAddr>) {
        self.around.own = own;
    }

    /// Whether something could not be made, and is tried again.
    pub fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Without the sockets of this board's own: they listen because others do.
    fn of_others(&self, seen: &Seen) -> Seen {
        let places: BTreeSet<_> = self.made.keys().map(Wanted::place).collect();
        let others = |side: Side, all: &BTreeSet<Listening>| {
            let ours = |one: &Listening| places.contains(&(one.udp, side, SocketAddr::new(one.ip, one.port)));
            all.iter().filter(|one| !ours(one)).copied().collect()
        };
        Seen { inside: others(Side::Inside, &seen.inside), host: others(Side::Host, &seen.host) }
    }
}

/// What the rules ask for, and whether it is only because somebody listens. Of two that would listen at
/// one place, one is wanted.
fn wanted(rules: &Rules, around: &Around, seen: &Seen) -> BTreeMap<Wanted, bool> {
    let mut all = BTreeMap::new();
    let mut places = BTreeSet::new();
    let mut want = |one: Wanted, scan: bool| {
        if places.insert(one.place()) {
            all.insert(one, scan);
        }
    };
    // Those that are named go before those that are found.
    for scan in [false, true] {
        for rule in rules.host.iter().filter(|rule| rule.scan == scan) {
            let udp = rule.protocol == Protocol::Udp;
            let ports = |six| ports(&seen.inside, udp, six, around.lo_to_lo, true);
            for forward in forwards(rule, &around.guests, &[ports(false), ports(true)]) {
                publish(rule, forward, around).into_iter().for_each(|one| want(one, scan));
            }
        }
        for rule in rules.splice.iter().filter(|rule| rule.scan == scan) {
            splice(rule, seen).into_iter().for_each(|one| want(one, scan));
        }
    }
    all
}

fn publish(rule: &Rule, forward: Forward, around: &Around) -> Vec<Wanted> {
    let Forward { protocol, host, guest } = forward;
    let ip = host.ip();
    if !around.lo_to_lo || rule.target.is_some() || !(ip.is_loopback() || ip.is_unspecified()) {
        return vec![Wanted::Published(forward)];
    }
    let at = if ip.is_loopback() { ip } else { loopback(ip) };
    let spliced = Wanted::Spliced(Splice {
        udp: protocol == Protocol::Udp,
        listens: Side::Host,
        at: SocketAddr::new(at, host.port()),
        to: SocketAddr::new(loopback(ip), guest.port()),
    });
    // A socket on any address would be in the way of that on the loopback.
    let own = around.own.iter().filter(|own| ip.is_unspecified() && own.is_ipv4() == ip.is_ipv4());
    let each = own.map(|own| {
        let host = SocketAddr::new(*own, host.port());
        Wanted::Published(Forward { protocol, host, guest })
    });
    each.chain([spliced]).collect()
}

fn splice(rule: &Rule, seen: &Seen) -> Vec<Wanted> {
    let udp = rule.protocol == Protocol::Udp;
    let both: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let named = rule.at.or(rule.target);
    let mut all = Vec::new();
    for local in both {
        if named.is_some_and(|ip| ip.is_ipv4() != local.is_ipv4()) {
            continue;
        }
        let pairs = match rule.scan {
            true => rule.pairs_to(&ports(&seen.host, udp, local.is_ipv6(), true, false)),
            false => rule.pairs().collect(),
        };
        for (port, to) in pairs {
            let at = SocketAddr::new(rule.at.unwrap_or(local), port);
            let to = SocketAddr::new(rule.target.unwrap_or(local), to);
            all.push(Wanted::Spliced(Splice { udp, listens: Side::Inside, at, to }));
        }
    }
    all
}

/// The ports that somebody listens to: on the loopback if `near`, on other addresses if `far`.
fn ports(all: &BTreeSet<Listening>, udp: bool, six: bool, near: bool, far: bool) -> BTreeSet<u16> {
    let reached = |one: &&Listening| {
        let family = one.ip.is_ipv6() == six || (one.ip.is_ipv6() && one.ip.is_unspecified());
        let place = one.ip.is_unspecified() || if one.ip.is_loopback() { near } else { far };
        one.udp == udp && family && place
    };
    all.iter().filter(reached).map(|one| one.port).collect()
}

/// The loopback of the same family.
fn loopback(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::faces::pasta_ports::read;

    #[derive(Default)]
    struct Fake(BTreeSet<String>, usize);

    impl Forwarder for Fake {
        fn add(&mut self, forward: Forward) -> Result<(), String> {
            let refused = forward.host.port() < 1024 && forward.host.port() != 80;
            if refused { Err("permission denied".to_owned()) } else { Ok(()) }.inspect(|()| {
                self.0.insert(format!("{}>{}", forward.host, forward.guest));
            })
        }

        fn remove(&mut self, forward: Forward) -> Result<(), String> {
            assert!(self.0.remove(&format!("{}>{}", forward.host, forward.guest)));
            Ok(())
        }
    }

    impl Splicer for Fake {
        fn add(&mut self, splice: Splice) -> Result<usize, String> {
            self.1 += 1;
            self.0.insert(format!("{} {:?} {}>{}", self.1, splice.listens, splice.at, splice.to));
            Ok(self.1)
        }

        fn remove(&mut self, number: usize) {
            self.0.retain(|text| !text.starts_with(&format!("{number} ")));
        }
    }

    fn rules(host: &str, splice: &str) -> Rules {
        let read = |text| read(text, Protocol::Tcp, 32768).unwrap();
        Rules { host: read(host), splice: read(splice) }
    }

    fn at(ip: &str, port: u16) -> Listening {
        Listening { udp: false, ip: ip.parse().unwrap(), port }
    }

    fn around(lo_to_lo: bool) -> Around {
        let ip = |text: &str| text.parse().unwrap();
        Around { guests: vec![ip("10.0.2.100"), ip("fd00::64")], lo_to_lo, own: vec![ip("192.0.2.1")] }
    }

    fn board(rules: Rules, around: Around) -> Board<Fake, Fake> {
        Board::new(Fake::default(), Fake::default(), around, rules).unwrap()
    }

    fn listed(fake: &Fake) -> Vec<&str> {
        fake.0.iter().map(String::as_str).collect()
    }

    #[test]
    fn what_listens_is_forwarded_while_it_does() {
        let mut board = board(rules("auto", "auto"), around(false));
        let mut seen = Seen::default();
        seen.inside.extend([at("0.0.0.0", 8080), at("127.0.0.1", 9090), at("::", 7070)]);
        seen.host.extend([at("127.0.0.1", 5432), at("192.0.2.1", 6000)]);
        assert!(board.settle(&seen).is_empty());
        let want =
            ["0.0.0.0:7070>10.0.2.100:7070", "0.0.0.0:8080>10.0.2.100:8080", "[::]:7070>[fd00::64]:7070"];
        assert_eq!(listed(&board.forwarder), want);
        assert_eq!(listed(&board.splicer), ["1 Inside 127.0.0.1:5432>127.0.0.1:5432"]);
        // What the board has opened itself is not forwarded back.
        seen.inside.insert(at("127.0.0.1", 5432));
        seen.host.extend([at("0.0.0.0", 8080), at("0.0.0.0", 7070), at("::", 7070)]);
        assert!(board.settle(&seen).is_empty());
        assert_eq!((board.forwarder.0.len(), board.splicer.0.len()), (3, 1));
        seen = Seen::default();
        assert!(board.settle(&seen).is_empty());
        assert!(board.forwarder.0.is_empty() && board.splicer.0.is_empty());
    }

    #[test]
    fn from_loopback_to_loopback() {
        let around = around(true);
        let rules = rules("8080:80", "none");
        let board = board(rules.clone(), around.clone());
        let want = ["1 Host 127.0.0.1:8080>127.0.0.1:80", "2 Host [::1]:8080>[::1]:80"];
        assert_eq!(listed(&board.splicer), want);
        let published = at_start(&rules, &around).into_iter().filter_map(|one| match one {
            Wanted::Published(forward) => Some(forward.host.to_string()),
            Wanted::Spliced(_) => None,
        });
        assert_eq!(published.collect::<Vec<_>>(), ["192.0.2.1:8080"]);
    }

    #[test]
    fn rules_come_and_go_and_failures_are_told_once() {
        let mut board = board(rules("none", "none"), around(false));
        let seen = Seen::default();
        board.rules = rules("0.0.0.0/22", "7:9");
        assert_eq!(board.settle(&seen), ["permission denied"]);
        assert!(board.settle(&seen).is_empty());
        assert_eq!(board.splicer.0.len(), 2);
        board.rules = rules("0.0.0.0/80", "none");
        assert!(board.settle(&seen).is_empty());
        assert_eq!(listed(&board.forwarder), ["0.0.0.0:80>10.0.2.100:80"]);
        assert!(board.splicer.0.is_empty());
    }
}
