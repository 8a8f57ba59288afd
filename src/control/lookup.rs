//! Who has an outside port, and which ones an inside host has.

use super::engine::Engine;
use super::protocol::{HolderRecord, Problem};
use super::requests::{Done, astray, published};
use crate::flow::{Endpoint, Protocol, Time};
use crate::gateway::{Command, Reply};
use crate::nat::SessionView;
use crate::observe::Filter;
use crate::observe::filter::{EndpointMatch, ProtocolMatch};
use crate::observe::record::utc;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A mapping: whether it is a port forward, its protocol, inside, outside.
type Held = (bool, Protocol, Endpoint, Endpoint);

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    text: String,
    protocol: Option<Protocol>,
    /// Whom it is about.
    ip: IpAddr,
    port: Option<u16>,
    /// It is about an outside endpoint.
    outside: bool,
    /// At what time, if not now.
    at: Option<Time>,
}

impl Question {
    /// Reads `ADDRESS`, `ADDRESS:PORT` or either with `/tcp`, `/udp` or `/icmp`; and a time in RFC 3339.
    ///
    /// # Errors
    /// It is none of these, or an outside address without a port.
    pub fn new(who: &str, at: Option<&str>, engine: &dyn Engine) -> Done<Question> {
        let shape = "write ADDRESS:PORT[/tcp|udp|icmp], or the address of an inside host";
        let bad = |message: String| Err(Problem::new("bad-request", message, shape));
        let (end, protocol) = match who.rsplit_once('/') {
            None => (who, None),
            Some((end, "tcp")) => (end, Some(Protocol::Tcp)),
            Some((end, "udp")) => (end, Some(Protocol::Udp)),
            Some((end, "icmp")) => (end, Some(Protocol::Icmp)),
            Some(_) => return bad(format!("`{who}` has no known protocol at its end")),
        };
        let ends = end.parse::<SocketAddr>().map(|end| (end.ip(), Some(end.port())));
        let Ok((ip, port)) = ends.or_else(|_| end.parse().map(|ip| (ip, None))) else {
            return bad(format!("`{who}` is no endpoint"));
        };
        let outside = engine.about().external.contains(&ip);
        if outside && port.is_none() {
            return bad(format!("`{who}` is an outside address without a port"));
        }
        let at = at.map(|text| time(text, engine)).transpose()?;
        Ok(Question { text: who.to_owned(), protocol, ip, port, outside, at })
    }

    /// The sessions that matter.
    pub fn filter(&self) -> Filter {
        let end = match self.port {
            Some(port) => Endpoint { ip: self.ip, port }.to_string(),
            None => self.ip.to_string(),
        };
        let end = end.parse::<EndpointMatch>().ok();
        let (inside, outside) = if self.outside { (None, end) } else { (end, None) };
        let protocol = self.protocol.map(ProtocolMatch);
        Filter { protocol, inside, outside, ..Filter::default() }
    }

    fn is(&self, end: Endpoint) -> bool {
        end.ip == self.ip && self.port.is_none_or(|port| port == end.port)
    }

    /// Adds the blocks of ports that follow from the inside address, or were lent.
    fn blocks(&self, engine: &dyn Engine, holders: &mut Vec<HolderRecord>) -> Done<()> {
        let command = match (self.outside, self.port) {
            (true, Some(port)) => Command::LookUpOutside(Endpoint { ip: self.ip, port }),
            _ => Command::LookUpInside(self.ip),
        };
        let looked = match engine.ask(command)? {
            Reply::Looked(looked) => looked,
            other => return Err(astray(&other)),
        };
        let base = engine.wall_clock_base();
        let mut add =
            |why: &str, inside: IpAddr, (external, first, last), since: Option<Time>, until: Option<Time>| {
                let begin = Endpoint { ip: external, port: first };
                holders.push(HolderRecord {
                    why: why.to_owned(),
                    protocol: None,
                    inside: inside.to_string(),
                    outside: format!("{begin}-{last}"),
                    flows: 0,
                    since: since.map(|since| utc(since, base)),
                    until: until.map(|until| utc(until, base)),
                });
            };
        if let Some((inside, external, first, last)) = looked.own {
            add("block", inside, (external, first, last), None, None);
        }
        for block in looked.lent {
            let then = match self.at {
                Some(at) => block.from <= at && block.until.is_none_or(|until| at < until),
                None => block.until.is_none(),
            };
            if then {
                let ports = (block.external, block.first, block.last);
                add("lent-block", block.inside, ports, Some(block.from), block.until);
            }
        }
        Ok(())
    }

    /// Who has it; `sessions` are those of [`Question::filter`].
    ///
    /// # Errors
    /// Nobody has it, or the gateway does not answer.
    pub fn holders(&self, engine: &dyn Engine, sessions: &[SessionView]) -> Done<Vec<HolderRecord>> {
        let base = engine.wall_clock_base();
        let mut found: BTreeMap<Held, (u64, Option<Time>)> = BTreeMap::new();
        for (protocol, outside, inside) in published(engine)? {
            let ours = self.is(if self.outside { outside } else { inside });
            if ours && self.protocol.is_none_or(|wanted| wanted == protocol) {
                found.insert((true, protocol, inside, outside), (0, None));
            }
        }
        for session in sessions.iter().filter(|session| self.at.is_none_or(|at| session.opened <= at)) {
            let key = (session.published, session.protocol, session.inside, session.outside);
            let (flows, since) = found.entry(key).or_insert((0, Some(session.opened)));
            *flows += 1;
            *since = since.map(|since| since.min(session.opened));
        }
        let mut holders = Vec::with_capacity(found.len());
        for ((published, protocol, inside, outside), (flows, since)) in found {
            holders.push(HolderRecord {
                why: if published { "forward" } else { "mapping" }.to_owned(),
                protocol: Some(protocol.to_string()),
                inside: inside.to_string(),
                outside: outside.to_string(),
                flows,
                since: since.map(|since| utc(since, base)),
                until: None,
            });
        }
        self.blocks(engine, &mut holders)?;
        if holders.is_empty() {
            let message = match self.outside {
                true => format!("nobody has {}", self.text),
                false => format!("{} has no outside port", self.text),
            };
            return Err(Problem::new("not-found", message, "`tapnat flows` shows what is in use"));
        }
        Ok(holders)
    }
}

/// A time in RFC 3339, on the gateway's clock.
fn time(text: &str, engine: &dyn Engine) -> Done<Time> {
    let wanted = humantime::parse_rfc3339_weak(text).map_err(|_| {
        let cure = "write one such as 2026-11-22T18:00:00Z";
        Problem::new("bad-request", format!("`{text}` is no time"), cure)
    })?;
    Ok(Time::ZERO + wanted.duration_since(engine.wall_clock_base()).unwrap_or(Duration::ZERO))
}
