//! Split DNS: of questions to the host's resolver, those in some domains go to resolvers of their own.
//!
//! Of UDP every question says itself where it belongs. A connection is made before anything is said in
//! it; but programs ask by TCP when an answer had no room, and nearly at once. So the next connection
//! after such an answer goes where that came from, and one without goes to the host's resolver.

use crate::flow::{Domain, Endpoint, Silence, Time};
use crate::wire::dns;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

/// How long another server is asked before the first one has its turn again.
const INSTEAD: Duration = Duration::from_secs(30);
/// For how long after an answer without room a connection is expected.
const SOON: Duration = Duration::from_secs(5);
/// For how long a SYN of a connection may come again: that of the host, with `tcp_syn_retries` at 6.
const CALLING: Duration = Duration::from_secs(127);
/// Connections that are expected or remembered at most; the oldest gives way.
const REFERRALS: usize = 64;

/// One domain, and which of its servers is asked.
#[derive(Debug)]
struct Place {
    turn: usize,
    /// Since when it is not the first one's turn.
    since: Time,
    silence: Silence,
}

impl Place {
    fn new() -> Self {
        Place { turn: 0, since: Time::ZERO, silence: Silence::default() }
    }

    /// The next server has its turn.
    fn next(&mut self, servers: usize, now: Time) {
        if self.turn == 0 {
            self.since = now;
        }
        self.turn = (self.turn + 1) % servers.max(1);
        self.silence = Silence::default();
    }
}

/// A connection that an answer without room leads to expect.
#[derive(Debug)]
struct Referral {
    until: Time,
    /// Who gave the answer; `None` for the host's resolver.
    server: Option<SocketAddr>,
    /// Who made the connection.
    taken: Option<Endpoint>,
}

/// The domains.
#[derive(Debug, Default)]
pub struct Split {
    domains: Vec<Domain>,
    /// One of each domain.
    places: Vec<Place>,
    referrals: VecDeque<Referral>,
    /// How often another server of a domain had its turn because one was silent or refused.
    pub turned: u64,
    /// Connections that were forgotten for newer ones.
    pub forgotten: u64,
}

impl Split {
    /// Takes these domains in the place of those that there were. Those that stay go on as before.
    pub fn set(&mut self, domains: &[Domain]) {
        if self.domains == domains {
            return;
        }
        let mut old: Vec<(Domain, Place)> = self.domains.drain(..).zip(self.places.drain(..)).collect();
        self.places = domains
            .iter()
            .map(|domain| {
                let same = old.iter().position(|(known, _)| known == domain);
                same.map_or_else(Place::new, |same| old.swap_remove(same).1)
            })
            .collect();
        self.domains = domains.to_vec();
        self.referrals.clear();
    }

    /// Whether there is no domain.
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }

    /// Whether a server is of another family than `like`.
    pub fn crosses(&self, like: Endpoint) -> bool {
        let mut servers = self.domains.iter().flat_map(|domain| &domain.servers);
        servers.any(|server| server.is_ipv4() != like.ip.is_ipv4())
    }

    /// Whom to ask what `message` asks; `None` for the host's resolver.
    pub fn question(&mut self, message: &[u8], now: Time) -> Option<SocketAddr> {
        let about = dns::about(message).filter(|about| !about.answer)?;
        let at = Domain::of(&self.domains, &about.name)?;
        let (domain, place) = (self.domains.get(at)?, self.places.get_mut(at)?);
        if place.silence.is_over(now) {
            self.turned += u64::from(domain.servers.len() > 1);
            place.next(domain.servers.len(), now);
        } else if place.turn != 0 && now.since(place.since) >= INSTEAD {
            *place = Place::new();
        }
        place.silence.asked(&about.name, now);
        domain.servers.get(place.turn).copied()
    }

    /// Hears what comes from `server` for somebody who asked the host's resolver.
    pub fn answer(&mut self, server: SocketAddr, message: &[u8], now: Time) {
        let Some(about) = dns::about(message).filter(|about| about.answer) else { return };
        let at = Domain::of(&self.domains, &about.name);
        let place = at.and_then(|at| Some((self.domains.get(at)?, self.places.get_mut(at)?)));
        let own = place.is_some_and(|(domain, place)| {
            if domain.servers.get(place.turn) == Some(&server) {
                place.silence.answered(now);
            }
            domain.servers.contains(&server)
        });
        if about.truncated {
            if self.referrals.len() >= REFERRALS {
                self.referrals.pop_front();
                self.forgotten += 1;
            }
            let server = own.then_some(server);
            self.referrals.push_back(Referral { until: now + SOON, server, taken: None });
        }
    }

    /// Hears that nobody is at `host`; whether that is a server of a domain.
    pub fn refused(&mut self, host: SocketAddr, now: Time) -> bool {
        let mut any = false;
        for (domain, place) in self.domains.iter().zip(&mut self.places) {
            any |= domain.servers.contains(&host);
            if domain.servers.len() > 1 && domain.servers.get(place.turn) == Some(&host) {
                self.turned += 1;
                place.next(domain.servers.len(), now);
            }
        }
        any
    }

    /// Where a connection from the outside endpoint `source` to the host's resolver really goes; `None`
    /// for there. `opens` says that it is a SYN.
    pub fn connection(&mut self, source: Endpoint, opens: bool, now: Time) -> Option<SocketAddr> {
        if let Some(at) = self.referrals.iter().position(|known| known.taken == Some(source)) {
            match self.referrals.get(at) {
                Some(known) if !opens || now < known.until => return known.server,
                // Another connection of the same port.
                _ => drop(self.referrals.remove(at)),
            }
        }
        self.referrals.retain(|known| known.taken.is_some() || known.until > now);
        let expected = self.referrals.iter_mut().find(|known| opens && known.taken.is_none())?;
        (expected.taken, expected.until) = (Some(source), now + CALLING);
        expected.server
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 53).into()
    }

    fn split() -> Split {
        let mut split = Split::default();
        let domain = |name: &str, servers: &[u8]| Domain {
            name: name.to_owned(),
            servers: servers.iter().map(|last| server(*last)).collect(),
        };
        split.set(&[domain("corp.example", &[1, 2]), domain("lab.corp.example", &[3])]);
        split
    }

    /// A message about `name`, with these flags.
    fn message(flags: u16, name: &str) -> Vec<u8> {
        let mut bytes = vec![0, 7];
        bytes.extend(flags.to_be_bytes());
        bytes.extend([0, 1, 0, 0, 0, 0, 0, 0]);
        for label in name.split('.') {
            bytes.push(label.len() as u8);
            bytes.extend(label.bytes());
        }
        bytes.extend([0, 0, 16, 0, 1]);
        bytes
    }

    #[test]
    fn questions_go_to_the_server_of_the_longest_domain() {
        let (mut split, now) = (split(), Time::from_secs(1));
        for (name, to) in [
            ("www.CORP.example", Some(server(1))),
            ("x.lab.corp.example", Some(server(3))),
            ("www.mycorp.example", None),
        ] {
            assert_eq!(split.question(&message(0x0100, name), now), to, "{name}");
        }
        assert_eq!(split.question(b"nothing of the kind", now), None);
    }

    #[test]
    fn a_silent_server_of_a_domain_gives_way_for_a_while_and_others_do_not() {
        let (mut split, at) = (split(), Time::from_secs);
        let ask = |split: &mut Split, now| split.question(&message(0x0100, "a.corp.example"), at(now));
        assert_eq!((ask(&mut split, 1), ask(&mut split, 2)), (Some(server(1)), Some(server(1))));
        assert_eq!(ask(&mut split, 3), Some(server(2)));
        split.answer(server(2), &message(0x8180, "a.corp.example"), at(3));
        assert_eq!(ask(&mut split, 32), Some(server(2)));
        assert_eq!(ask(&mut split, 33), Some(server(1)));
        assert!(split.refused(server(1), at(33)) && !split.refused(server(9), at(33)));
        assert_eq!(ask(&mut split, 34), Some(server(2)));
        assert_eq!(split.turned, 2);
        let other = split.question(&message(0x0100, "lab.corp.example"), at(34));
        assert_eq!(other, Some(server(3)));
    }

    #[test]
    fn a_connection_follows_the_answer_that_had_no_room() {
        let (mut split, at) = (split(), Time::from_secs);
        let client = |port| Endpoint::new([203, 0, 113, 1], port);
        assert_eq!(split.connection(client(1), true, at(1)), None);
        split.answer(server(1), &message(0x8380, "a.corp.example"), at(1));
        assert_eq!(split.connection(client(2), true, at(2)), Some(server(1)));
        assert_eq!(split.connection(client(2), true, at(3)), Some(server(1)), "the SYN again");
        assert_eq!(split.connection(client(2), false, at(500)), Some(server(1)), "the connection lives");
        assert_eq!(split.connection(client(2), true, at(500)), None, "another one of the same port");
        split.answer(server(9), &message(0x8380, "a.example.org"), at(3));
        assert_eq!(split.connection(client(3), true, at(3)), None, "the other answer's");
        split.answer(server(3), &message(0x8380, "lab.corp.example"), at(4));
        assert_eq!(split.connection(client(4), true, at(9)), None, "too late");
    }

    #[test]
    fn too_many_answers_without_room_are_counted() {
        let mut split = split();
        for _ in 0..REFERRALS + 3 {
            split.answer(server(1), &message(0x8380, "a.corp.example"), Time::from_secs(1));
        }
        assert_eq!((split.referrals.len(), split.forgotten), (REFERRALS, 3));
    }
}
