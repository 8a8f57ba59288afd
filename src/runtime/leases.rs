//! When the worker asks the host for ports ahead of need, and when it gives some back.
//!
//! A lease is a handful of system calls, and packets wait meanwhile: while they follow each other closely,
//! the stock is filled in the gaps between them, or once half of what is hoped for is gone.

use super::stock::A_TURN;
use super::worker::{SHRINK, Worker};
use crate::flow::Time;
use crate::observe::event::Note;

impl Worker {
    /// Fills the stock of ports before the first packet.
    pub fn stock_up(&mut self) {
        let now = self.clock.now();
        self.lease(now, A_TURN);
        while self.chores.more_leases {
            self.lease(now, A_TURN);
        }
    }

    /// Leases ports after a turn, unless it had packets and there are enough for some more.
    pub(super) fn lease_in_time(&mut self, now: Time) {
        if self.stock.is_none() {
            return;
        }
        if self.chores.busy && !self.gateway.wanted().any(|wanted| wanted.soon) {
            self.chores.more_leases = self.gateway.wanted().next().is_some();
        } else {
            self.lease(now, A_TURN);
        }
    }

    /// Leases one port in a gap between packets; false if none is wanted.
    pub(super) fn lease_one(&mut self) -> bool {
        let wanted = self.chores.more_leases;
        if wanted {
            self.lease(self.clock.now(), 1);
        }
        wanted
    }

    fn lease(&mut self, now: Time, most: usize) {
        let Some(stock) = &mut self.stock else { return };
        match stock.fill(&mut self.gateway, &mut self.guard, now, most) {
            Ok(more) => {
                self.chores.more_leases = more;
                if stock.next_deadline(now).is_none() {
                    self.chores.lease_failing = false;
                }
            }
            Err(error) => {
                self.chores.more_leases = false;
                if !std::mem::replace(&mut self.chores.lease_failing, true) {
                    tracing::warn!("cannot hold more ports: {error}");
                    let free = self.gateway.counts().free_ports;
                    for address in self.gateway.config().nat.external.clone() {
                        self.note(Note::PortsLow(address, free), now);
                    }
                }
            }
        }
    }

    /// Gives ports back to the host that have long been unused, now and then.
    pub(super) fn give_back(&mut self, now: Time) {
        if now.since(self.chores.shrunk) < SHRINK {
            return;
        }
        self.chores.shrunk = now;
        if let Some(stock) = &mut self.stock {
            stock.shrink(&mut self.gateway, &mut self.guard, now);
        }
    }
}
