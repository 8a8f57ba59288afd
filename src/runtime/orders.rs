//! What others ask of the worker between bursts of packets: commands of the control socket and of other threads.
//!
//! A command that concerns a port goes to the host first: what cannot be held cannot be promised.

use super::mailbox::Letter;
use super::worker::{Watching, Worker};
use crate::flow::{Endpoint, Protocol, Time};
use crate::gateway::{Command, CountersView, Reply};
use crate::io::guard::LeaseError;
use crate::io::protect;

impl Worker {
    pub(super) fn read_mail(&mut self, now: Time) {
        while let Some(letter) = self.mailbox.next() {
            // Who asked may have given up.
            match letter {
                Letter::Command(command, answer) => drop(answer.try_send(self.carry_out(command, now))),
                Letter::Resolver(conf) => self.resolver_changed(&conf, now),
                Letter::Plan(plan, answer) => drop(answer.try_send(self.settle(*plan, now))),
            }
        }
    }

    /// Carries out a command; for a port forward the host is asked for the port first.
    pub fn carry_out(&mut self, mut command: Command, now: Time) -> Reply {
        match &mut command {
            Command::Publish { protocol, outside, .. } => {
                *outside = self.host.published(*outside);
                let (protocol, outside) = (*protocol, *outside);
                self.publish(protocol, outside, command, now)
            }
            Command::Unpublish { protocol, outside } => {
                *outside = self.host.published(*outside);
                let (protocol, outside) = (*protocol, *outside);
                self.unpublish(protocol, outside, command, now)
            }
            _ => {
                if let Command::SetAliases(aliases) = &command {
                    self.links.set_aliases(aliases);
                }
                let mut reply = self.gateway.apply(command, now, &mut Watching::new(&self.feed));
                if let Reply::Counters(counters, _) = &mut reply {
                    self.count_around(counters);
                }
                reply
            }
        }
    }

    fn publish(&mut self, protocol: Protocol, outside: Endpoint, command: Command, now: Time) -> Reply {
        let mut leased_now = false;
        if self.stock.is_some() && !self.guard.holds(protocol, outside) {
            match self.guard.lease(protocol, outside) {
                Ok(()) => leased_now = true,
                Err(error) => return Reply::NotLeased(error.to_string()),
            }
        }
        let mut reply = self.gateway.apply(command, now, &mut Watching::new(&self.feed));
        if reply == Reply::Done
            && let Err(error) = self.links.publish(protocol, outside, true)
        {
            let command = Command::Unpublish { protocol, outside };
            self.gateway.apply(command, now, &mut Watching::new(&self.feed));
            reply = Reply::NotLeased(LeaseError::of(protocol, outside, error).to_string());
        }
        if reply == Reply::Done {
            self.let_in(now);
        } else if leased_now {
            self.guard.release(protocol, outside);
        }
        reply
    }

    fn unpublish(&mut self, protocol: Protocol, outside: Endpoint, command: Command, now: Time) -> Reply {
        let reply = self.gateway.apply(command, now, &mut Watching::new(&self.feed));
        if reply == Reply::Done {
            self.let_in(now);
            // What listens no more cannot refuse to.
            let _ = self.links.publish(protocol, outside, false);
            if let Some(stock) = &mut self.stock {
                self.guard.release(protocol, outside);
                stock.given_back(&self.gateway, protocol, outside);
            }
        }
        reply
    }

    /// Adds what stands around the gateway.
    fn count_around(&mut self, counters: &mut CountersView) {
        let counts = self.gateway.counts();
        let (inside, outside) = self.gateway.left_unread();
        let around = [
            ("flood: inside-left-unread-about", inside),
            ("flood: outside-left-unread-about", outside),
            ("guard: held-sockets", self.guard.held() as u64),
            ("sandbox: refused-calls", protect::refused().0),
            ("guard: protocol-without-place", self.host.portless.unanswered),
            ("ports: resting", counts.held_ports as u64),
            ("ports: rested-too-short", counts.held_early),
            ("ports: not-asked-for", counts.leases_skipped),
            ("ports: refusals-forgotten", counts.refusals_forgotten),
            ("sessions: syns-forgotten", counts.knocks_lost),
            ("names: known", counts.names.known as u64),
            ("names: not-public", counts.names.refused),
            ("names: forgotten", counts.names.lost),
            ("names: unread", counts.names.unread),
        ];
        let stock = self.stock.iter();
        let stock = stock
            .flat_map(|stock| [("guard: taken-by-host", stock.taken), ("guard: lease-failed", stock.failed)]);
        let others = self.counters.iter().map(|counter| (counter.name, (counter.count)()));
        counters.links = self.links.counters();
        counters.links.extend(
            around.into_iter().chain(stock).chain(others).map(|(name, count)| (name.to_owned(), count)),
        );
    }
}
