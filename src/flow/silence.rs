//! Notices that a resolver does not answer, so that another is asked.
//!
//! Questions are not kept: whoever asked repeats his own, and by then they go to the next server. So it
//! must be known before that: stub resolvers wait 2.5 s (musl) or 5 s (glibc) for an answer.
//!
//! There are questions that nobody answers, because whoever knows is away. So a resolver that answered
//! of late is silent only if it leaves several names unanswered, and nothing else is answered meanwhile.

use super::Time;
use std::time::Duration;

/// How long a resolver may be silent while it is being asked.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// For how long after an answer one name is not enough.
const TRUST: Duration = Duration::from_secs(30);
/// How many names are enough even then.
const SEVERAL: usize = 3;

/// Whether somebody waits for a resolver.
#[derive(Clone, Default, Debug)]
pub struct Silence {
    /// Since when it has been asked and has answered nothing to anybody.
    since: Option<Time>,
    /// When it answered last, as far as anybody saw.
    heard: Option<Time>,
    /// What it has been asked since then, [`SEVERAL`] at most, none twice.
    names: Vec<String>,
}

impl Silence {
    /// A question for `name` goes there.
    pub fn asked(&mut self, name: &str, now: Time) {
        self.since.get_or_insert(now);
        if self.names.len() < SEVERAL && !self.names.iter().any(|known| known == name) {
            self.names.push(name.to_owned());
        }
    }

    /// Something came back, to whatever question: it is there.
    pub fn answered(&mut self, now: Time) {
        self.since = None;
        self.heard = Some(now);
        self.names.clear();
    }

    /// When it counts as silent, if nothing is answered or asked until then.
    pub fn deadline(&self) -> Option<Time> {
        let patient = self.since? + PATIENCE;
        let trusted = self.heard.filter(|_| self.names.len() < SEVERAL).map(|heard| heard + TRUST);
        Some(trusted.map_or(patient, |trusted| trusted.max(patient)))
    }

    /// Whether it is silent.
    pub fn is_over(&self, now: Time) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_nobody_answers_does_not_condemn_a_resolver_that_answered() {
        let at = Time::from_secs;
        let mut silence = Silence::default();
        silence.asked("a", at(10));
        assert!(!silence.is_over(at(11)) && silence.is_over(at(12)), "it never answered");
        silence.answered(at(12));
        assert_eq!(silence.deadline(), None);
        for second in 13..20 {
            silence.asked("unanswerable", at(second));
            silence.asked("other", at(second));
        }
        assert!(!silence.is_over(at(41)) && silence.is_over(at(42)), "it answered at 12");
        silence.asked("third", at(20));
        assert!(silence.is_over(at(20)), "several names");
        silence.answered(at(20));
        assert!(!silence.is_over(at(100)), "nobody waits");
    }
}
