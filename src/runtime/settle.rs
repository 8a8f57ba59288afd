//! The worker's part of new settings: between two bursts of packets, wholly or not at all.
//!
//! What can be refused comes first: the host gives the ports of new forwards, then the translator
//! makes those that a session might have the port of. Only then anything is taken away.

use super::reload::{Forward, Plan, Settled};
use super::worker::{Watching, Worker};
use crate::control::protocol::Problem;
use crate::flow::{Endpoint, Protocol, Time};
use crate::gateway::{Command, GatewayConfig, Outbox, Reply};
use crate::io::Link;
use crate::io::guard::LeaseError;
use crate::io::uplink::{self, UplinkError};
use crate::nat::{NatConfig, PublishError};
use crate::observe::event::Note;
use std::collections::BTreeSet;

impl Worker {
    /// Has new settings take effect.
    ///
    /// # Errors
    /// A port forward cannot be made; nothing has changed then.
    pub fn settle(&mut self, mut plan: Plan, now: Time) -> Result<Settled, Problem> {
        for (_, outside, _) in plan.add.iter_mut().chain(&mut plan.remove) {
            *outside = self.host.published(*outside);
        }
        let before: BTreeSet<Forward> = self.published(now).into_iter().collect();
        let gone: Vec<Forward> = plan.remove.iter().filter(|old| before.contains(old)).copied().collect();
        let add: Vec<Forward> = plan.add.iter().filter(|new| !before.contains(new)).copied().collect();
        let stay = before.len() - gone.len();
        let limit = plan.config.nat.limits.publish;
        if stay + add.len() > limit {
            let Some((protocol, outside, _)) = add.last() else {
                let message = format!("{stay} ports are published, more than the limit of {limit}");
                return Err(Problem::new("limit", message, "remove some, or raise --limit publish=N"));
            };
            return Err(Problem::not_published(*protocol, *outside, PublishError::Limit));
        }
        let way = plan.outside.as_deref().map(|name| self.open_way(name, &plan.config)).transpose()?;
        let leased = self.lease_all(&add)?;
        // A port that a removed forward gives up, or one of a new address, is nobody's.
        let given_up: BTreeSet<(Protocol, Endpoint)> = gone.iter().map(|old| (old.0, old.1)).collect();
        let external = &self.gateway.config().nat.external;
        let freed = |new: &Forward| !external.contains(&new.1.ip) || given_up.contains(&(new.0, new.1));
        let (late, early): (Vec<Forward>, Vec<Forward>) = add.into_iter().partition(freed);
        if let Err(problem) = self.publish_early(&early, limit, now) {
            self.give_up(leased);
            return Err(problem);
        }
        for (protocol, outside, _) in gone {
            let command = Command::Unpublish { protocol, outside };
            self.gateway.apply(command, now, &mut Watching::new(&self.feed));
        }
        let old = self.gateway.config().clone();
        let (inside, outside) = (old.inside, old.outside);
        let aliases = self.host.aliases(&plan.config.aliases);
        let config = GatewayConfig { inside, outside, aliases, ..plan.config };
        let command = Command::Reconfigure(Box::new(config));
        let reply = self.gateway.apply(command, now, &mut Watching::new(&self.feed));
        for (protocol, outside, inside) in late {
            let command = Command::Publish { protocol, outside, inside };
            if let Reply::NotPublished(why) = self.gateway.apply(command, now, &mut ()) {
                self.guard.release(protocol, outside);
                tracing::warn!("publish {protocol} {outside}: {why}");
            }
        }
        if let (Some(way), Some(name)) = (way, plan.outside) {
            self.take_way(way, name);
        }
        self.follow(&before, &old.nat, now);
        let mut out = Outbox::default();
        while self.gateway.tell_cut(now, &mut out) {
            self.flush(&mut out, now);
        }
        let Reply::Reconfigured { kept, ended } = reply else {
            return Err(Problem::new("gone", format!("the gateway answered {reply:?}"), "report it"));
        };
        match plan.news {
            None => self.note(Note::Reloaded(plan.changes, kept, ended), now),
            Some(news) => news.into_iter().for_each(|news| self.note(news, now)),
        }
        Ok(Settled { kept, ended })
    }

    /// Opens an uplink on another interface, of the same kind.
    fn open_way(&mut self, name: &str, config: &GatewayConfig) -> Result<Box<dyn Link>, Problem> {
        let kind = if self.host.packet { uplink::Kind::Packet } else { uplink::Kind::Raw };
        let wanted = self.host.wanted(config, std::iter::empty());
        let failed = |error: UplinkError| Problem::new("uplink", error.to_string(), "wait for the interface");
        uplink::open(Some(kind), name, &wanted, self.host.inside.mtu).map(|open| open.link).map_err(failed)
    }

    /// Goes over to an uplink on the interface `name`. What is in flight on retiring addresses goes on
    /// by the old one.
    fn take_way(&mut self, way: Box<dyn Link>, name: String) {
        let retired = self.gateway.config().nat.retired.clone();
        if let Err(error) = self.links.add_way(way, retired, &mut self.poller) {
            tracing::warn!("the new way out is not watched: {error}");
        }
        self.host.outside = name;
        self.gateway_learns_of_the_way();
    }

    /// What the way out can take.
    fn gateway_learns_of_the_way(&mut self) {
        if let Some(info) = self.links.outside_info() {
            self.gateway.set_outside(info);
        }
    }

    fn published(&mut self, now: Time) -> Vec<Forward> {
        match self.gateway.apply(Command::Published, now, &mut ()) {
            Reply::Published(forwards) => forwards,
            _ => Vec::new(),
        }
    }

    /// Asks the host for the ports of new forwards; those that were not ours before.
    fn lease_all(&mut self, add: &[Forward]) -> Result<Vec<(Protocol, Endpoint)>, Problem> {
        let mut leased = Vec::new();
        if self.stock.is_none() {
            return Ok(leased);
        }
        for (protocol, outside, _) in add {
            if self.guard.holds(*protocol, *outside) {
                continue;
            }
            let given = self.guard.lease(*protocol, *outside).and_then(|()| {
                let listens = self.links.publish(*protocol, *outside, true);
                listens.map_err(|error| LeaseError::of(*protocol, *outside, error))
            });
            if let Err(error) = given {
                leased.push((*protocol, *outside));
                self.give_up(leased);
                return Err(Problem::not_leased(*protocol, *outside, &error.to_string()));
            }
            leased.push((*protocol, *outside));
        }
        Ok(leased)
    }

    /// Gives back the ports of forwards that will not be.
    fn give_up(&mut self, leased: Vec<(Protocol, Endpoint)>) {
        for (protocol, outside) in leased {
            // What does not listen cannot fail to stop.
            let _ = self.links.publish(protocol, outside, false);
            self.guard.release(protocol, outside);
        }
    }

    /// Makes forwards that may be refused, all or none. `limit` is that of the new settings.
    fn publish_early(&mut self, early: &[Forward], limit: usize, now: Time) -> Result<(), Problem> {
        if early.is_empty() {
            return Ok(());
        }
        let before = self.gateway.config().clone();
        if limit > before.nat.limits.publish {
            let mut raised = before.clone();
            raised.nat.limits.publish = limit;
            self.gateway.apply(Command::Reconfigure(Box::new(raised)), now, &mut ());
        }
        for (made, (protocol, outside, inside)) in early.iter().enumerate() {
            let command = Command::Publish { protocol: *protocol, outside: *outside, inside: *inside };
            if let Reply::NotPublished(why) = self.gateway.apply(command, now, &mut ()) {
                for (protocol, outside, _) in &early[..made] {
                    let command = Command::Unpublish { protocol: *protocol, outside: *outside };
                    self.gateway.apply(command, now, &mut ());
                }
                if limit > before.nat.limits.publish {
                    self.gateway.apply(Command::Reconfigure(Box::new(before)), now, &mut ());
                }
                return Err(Problem::not_published(*protocol, *outside, why));
            }
        }
        Ok(())
    }

    /// Leases, the stock and the links' filters follow what the gateway has become.
    fn follow(&mut self, before: &BTreeSet<Forward>, old: &NatConfig, now: Time) {
        let after = self.published(now);
        let nat = &self.gateway.config().nat;
        if let Some(stock) = &mut self.stock {
            let held: BTreeSet<(Protocol, Endpoint)> = after.iter().map(|new| (new.0, new.1)).collect();
            for (protocol, outside, _) in before.iter().filter(|old| !held.contains(&(old.0, old.1))) {
                self.guard.release(*protocol, *outside);
                stock.given_back(&self.gateway, *protocol, *outside);
            }
            if (&nat.external, &nat.ports) != (&old.external, &old.ports) {
                stock.follow(&nat.external, &nat.ports);
            }
        }
        for (number, address) in self.host.portless.keep(&nat.external) {
            self.guard.release(Protocol::Other(number), Endpoint::new(address, 0));
        }
        if nat.external != old.external {
            self.host.guard_follows(&mut self.guard, &nat.external);
        }
        self.guard.silence(&nat.ports);
        self.links.retire(&nat.retired);
        self.links.set_aliases(&self.gateway.config().aliases);
        self.links.set_domains(&self.gateway.config().domains);
        for (protocol, outside, _) in before.iter().filter(|old| !after.contains(old)) {
            let _ = self.links.publish(*protocol, *outside, false);
        }
        for (protocol, outside, _) in after.iter().filter(|new| !before.contains(*new)) {
            if let Err(error) = self.links.publish(*protocol, *outside, true) {
                tracing::warn!("publish {protocol} {outside}: {error}");
            }
        }
        let new = nat.external.iter().any(|address| !old.external.contains(address));
        if new && self.memory.is_some() {
            tracing::warn!("ports of new external addresses rest over a restart only from the next start on");
        }
        self.let_in(now);
    }
}
