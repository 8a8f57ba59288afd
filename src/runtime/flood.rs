//! The worker's part while somebody floods: has the kernel leave unread what the gateway says.

use super::worker::Worker;
use crate::flow::Time;
use crate::gateway::overload::{Admission, InUse, ONE_IN};
use crate::gateway::{INSIDE, OUTSIDE};
use crate::io::filter::First;
use crate::observe::event::Note;
use std::io::ErrorKind;
use std::time::Duration;

/// How long everything is read after the kernel had no room for a filter.
const AGAIN: Duration = Duration::from_secs(10);

impl Worker {
    /// Has the links read what the gateway wants read, if that has changed.
    pub(super) fn admit(&mut self, now: Time) {
        let Some(admission) = self.gateway.admission() else { return };
        let before = std::mem::replace(&mut self.chores.admission, admission.clone());
        self.admit_inside(&before, &admission, now);
        self.admit_outside(&before, admission, now);
    }

    fn admit_inside(&mut self, before: &Admission, admission: &Admission, now: Time) {
        if before.flooders == admission.flooders {
            return;
        }
        let mut thinned = admission.flooders.clone();
        let sources: Vec<[u8; 6]> = thinned.iter().map(|mac| mac.0).collect();
        // Without sources a failure says that the device is gone, and its filter with it.
        if let Err(error) = self.links.thin_out(INSIDE, &sources, ONE_IN)
            && let Some(mac) = thinned.first()
        {
            tracing::warn!("{mac} floods, and all its frames are read: {error}");
            // Of several devices some may have taken it.
            let _ = self.links.thin_out(INSIDE, &[], ONE_IN);
            let again = (error.kind() != ErrorKind::Unsupported).then_some(AGAIN);
            self.gateway.cannot_restrict(INSIDE, again, now);
            thinned.clear();
            self.chores.admission.flooders.clear();
        }
        for mac in thinned.iter().filter(|mac| !before.flooders.contains(mac)) {
            self.note(Note::Flood(Some(*mac)), now);
        }
        for mac in before.flooders.iter().filter(|mac| !thinned.contains(mac)) {
            self.note(Note::FloodOver(Some(*mac)), now);
        }
    }

    fn admit_outside(&mut self, before: &Admission, admission: Admission, now: Time) {
        if before.outside == admission.outside {
            return;
        }
        if !self.links.filters(OUTSIDE) {
            self.gateway.cannot_restrict(OUTSIDE, None, now);
            return;
        }
        match (&before.outside, &admission.outside) {
            (None, Some(_)) => self.note(Note::Flood(None), now),
            (Some(_), None) => self.note(Note::FloodOver(None), now),
            _ => {}
        }
        let first = |InUse { ports, protocols }| First { ports, protocols, one_in: ONE_IN };
        self.host.first = admission.outside.map(first);
        if !self.let_in(now) && self.host.first.take().is_some() {
            self.gateway.cannot_restrict(OUTSIDE, Some(AGAIN), now);
            self.chores.admission.outside = None;
            self.let_in(now);
            self.note(Note::FloodOver(None), now);
        }
    }
}
