//! Runs requirements, several at a time: most of the time of a trial is waiting.

use super::contender::Contender;
use super::trial::{Notes, Trial};
use super::{Fault, GROUPS, Group, Requirement};
use crate::lab::programs::now;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// How a requirement came out for one contender.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is met.
    Met,
    /// It is met with an option, and not without: which, and what was seen without.
    ByOption(String),
    /// It is not: what was seen.
    NotMet(String),
    /// It asks for something that this contender does not have: why.
    NotApplicable(String),
    /// The lab failed: how.
    Broken(String),
}

impl Outcome {
    /// One word or two for it.
    pub fn word(&self) -> &'static str {
        match self {
            Outcome::Met => "met",
            Outcome::ByOption(_) => "by option",
            Outcome::NotMet(_) => "not met",
            Outcome::NotApplicable(_) => "n/a",
            Outcome::Broken(_) => "broken",
        }
    }

    /// What was seen, if it is not met by the settings it was asked with.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Outcome::Met => None,
            Outcome::ByOption(why)
            | Outcome::NotMet(why)
            | Outcome::NotApplicable(why)
            | Outcome::Broken(why) => Some(why),
        }
    }
}

/// A requirement's result.
#[derive(Clone, PartialEq, Debug)]
pub struct Finding {
    /// How it came out.
    pub outcome: Outcome,
    /// The packets that show it.
    pub packets: Vec<String>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// Requirements by the words of a person: numbers, names of groups, parts of names; all for none.
pub fn choose(words: &[String]) -> Vec<(&'static Group, &'static Requirement)> {
    let wanted = |group: &Group, requirement: &Requirement| {
        words.is_empty()
            || words.iter().any(|word| {
                word.parse() == Ok(requirement.number)
                    || word == group.name
                    || (word.parse::<u16>().is_err() && requirement.slug().contains(word.as_str()))
            })
    };
    let groups: &'static [Group] = &GROUPS;
    let all = groups
        .iter()
        .flat_map(|group| group.requirements.iter().map(move |requirement| (group, requirement)));
    all.filter(|(group, requirement)| wanted(group, requirement)).collect()
}

/// Puts one requirement to one contender; where its settings do not meet it, to the same with the option
/// that is there for it.
pub fn one(contender: &Contender, requirement: &Requirement) -> Finding {
    let mut finding = as_it_is(contender, requirement);
    if let Outcome::NotMet(without) = &finding.outcome
        && let Some(contender) = contender.with(requirement.option)
    {
        let with = as_it_is(&contender, requirement);
        finding.seconds += with.seconds;
        if with.outcome == Outcome::Met {
            finding.outcome =
                Outcome::ByOption(format!("{}; without: {without}", requirement.option.join(" ")));
            finding.packets = with.packets;
        }
    }
    finding
}

fn as_it_is(contender: &Contender, requirement: &Requirement) -> Finding {
    let began = now();
    let (result, notes) = match Trial::start(contender, &requirement.setup) {
        Ok(mut trial) => {
            let result = catch_unwind(AssertUnwindSafe(|| (requirement.test)(&mut trial)));
            let result =
                result.unwrap_or_else(|_| Err(Fault::Broken("the requirement's function panicked".into())));
            (result, trial.finish())
        }
        Err(fault) => (Err(fault), Notes { lines: Vec::new(), violation: None }),
    };
    let outcome = match (result, notes.violation) {
        (Ok(()), None) => Outcome::Met,
        (Ok(()), Some(violation)) => Outcome::NotMet(violation),
        (Err(Fault::NotMet(why)), _) => Outcome::NotMet(why),
        (Err(Fault::NotApplicable(why)), _) => Outcome::NotApplicable(why),
        (Err(Fault::Broken(why)), _) => Outcome::Broken(why),
    };
    Finding { outcome, packets: notes.lines, seconds: (now() - began).as_secs_f64() }
}

/// Puts requirements to contenders, `at_once` at a time. `heard` is told of each as it is done:
/// which requirement, which contender.
///
/// The result has a row for each requirement, with a finding for each contender.
pub fn all(
    contenders: &[Contender],
    requirements: &[(&Group, &Requirement)],
    at_once: usize,
    heard: impl Fn(usize, usize, &Finding) + Sync,
) -> Vec<Vec<Finding>> {
    // Those that wait longest come first, so that nothing is waited for alone at the end.
    let mut order: Vec<(usize, usize)> = (0..requirements.len())
        .flat_map(|row| (0..contenders.len()).map(move |column| (row, column)))
        .collect();
    order.sort_by_key(|&(row, _)| requirements[row].1.setup.lives.is_empty());
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<Vec<Option<Finding>>>> =
        Mutex::new(vec![vec![None; contenders.len()]; requirements.len()]);
    let work = || {
        while let Some(&(row, column)) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            let finding = one(&contenders[column], requirements[row].1);
            heard(row, column, &finding);
            done.lock().unwrap_or_else(PoisonError::into_inner)[row][column] = Some(finding);
        }
    };
    thread::scope(|scope| {
        for _ in 0..at_once.max(1) {
            scope.spawn(work);
        }
    });
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.into_iter().map(|row| row.into_iter().flatten().collect()).collect()
}
