//! The worker's part while somebody floods: has the kernel leave unread what the gateway says.

use super::host::prefixes_of;
use super::worker::Worker;
use crate::flow::Time;
use crate::gateway::overload::{Admission, InUse, ONE_IN, Source};
use crate::gateway::{INSIDE, OUTSIDE};
use crate::io::filter::{First, Thinned};
use crate::observe::event::Note;
use crate::wire::MacAddr;
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

    /// Has a TAP that was made anew read what the last one did.
    pub(super) fn admit_again(&mut self, now: Time) {
        let flooders = all(&self.chores.admission);
        if flooders.is_empty() {
            return;
        }
        let thinned = thinned(&self.chores.admission, self.gateway.config().mac);
        if let Err(error) = self.links.thin_out(INSIDE, &thinned) {
            self.read_all_inside(&error, now);
            flooders.into_iter().for_each(|source| self.note(Note::FloodOver(Some(source)), now));
        }
    }

    /// Takes that nothing can be left unread inside, for a while or for good.
    fn read_all_inside(&mut self, error: &std::io::Error, now: Time) {
        tracing::warn!("there is a flood from inside, and all its frames are read: {error}");
        // Of several devices some may have taken it.
        let _ = self.links.thin_out(INSIDE, &Thinned::default());
        let again = (error.kind() != ErrorKind::Unsupported).then_some(AGAIN);
        self.gateway.cannot_restrict(INSIDE, again, now);
        self.chores.admission.flooders.clear();
        self.chores.admission.guests = None;
    }

    fn admit_inside(&mut self, before: &Admission, admission: &Admission, now: Time) {
        if (&before.flooders, &before.guests) == (&admission.flooders, &admission.guests) {
            return;
        }
        let mut flooders = all(admission);
        // Without sources a failure says that the device is gone, and its filter with it.
        if let Err(error) = self.links.thin_out(INSIDE, &thinned(admission, self.gateway.config().mac))
            && !flooders.is_empty()
        {
            self.read_all_inside(&error, now);
            flooders.clear();
        }
        let before = all(before);
        for source in flooders.iter().filter(|source| !before.contains(source)) {
            self.note(Note::Flood(Some(*source)), now);
        }
        for source in before.iter().filter(|source| !flooders.contains(source)) {
            self.note(Note::FloodOver(Some(*source)), now);
        }
    }

    fn admit_outside(&mut self, before: &Admission, mut admission: Admission, now: Time) {
        if admission.outside.is_some() && !prefixes_of(self.gateway.config()).is_empty() {
            // What is let in by prefix is let in whole. Other settings may come.
            self.gateway.cannot_restrict(OUTSIDE, Some(AGAIN), now);
            self.chores.admission.outside = None;
            admission.outside = None;
        }
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

/// Who is restricted inside.
fn all(admission: &Admission) -> Vec<Source> {
    let strangers = admission.guests.is_some().then_some(Source::Strangers);
    admission.flooders.iter().copied().chain(strangers).collect()
}

/// What they send is to be thinned out; `gateway` is whom frames are to that are for us.
fn thinned(admission: &Admission, gateway: MacAddr) -> Thinned {
    let but_of = admission.guests.clone();
    let mut thinned = Thinned { but_of, one_in: ONE_IN, ..Thinned::default() };
    for source in &admission.flooders {
        match source {
            Source::Strangers => {}
            Source::Mac(mac) => thinned.sources.push(*mac),
            Source::Port(port) => thinned.ports.push(*port),
            Source::Astray => thinned.but_to = Some(gateway),
        }
    }
    thinned
}
