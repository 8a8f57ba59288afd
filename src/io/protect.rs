//! Gives up what the process does not need any more, in five stages, for good.
//!
//! 1. *no-new-privs*: no program that it might start has more rights than it;
//! 2. *namespaces*: nothing but the named places is there, in a mount namespace of its own ([`root`]);
//! 3. *capabilities*: only those that are named stay; none can come back;
//! 4. *landlock*: files are reached in the named places only, abstract sockets and processes of
//!    others not at all ([`places`]);
//! 5. *seccomp*: only the system calls of a list are possible ([`calls`]).
//!
//! All but the first and last are for the calling thread and those that it starts later: the caller has one
//! thread only. A stage that the host does not allow is told and left out; the others still stand.

pub mod calls;
pub mod places;
pub mod root;

use crate::io::sys::seccomp;
use places::Place;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use std::io;

/// What a process still needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Needs {
    /// Capabilities, of those that it has.
    pub capabilities: CapabilitySet,
    /// Where it uses files.
    pub places: Vec<Place>,
    /// It sends signals to processes that are not protected likewise.
    pub signals: bool,
    /// It makes BPF maps and programs.
    pub bpf: bool,
}

/// A stage of the protection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// No rights are gained by starting programs.
    NoNewPrivs,
    /// Files are not there.
    Namespaces,
    /// Capabilities are dropped.
    Capabilities,
    /// Files are out of reach.
    Landlock,
    /// System calls are refused.
    Seccomp,
}

impl Stage {
    /// The stable word.
    pub fn word(self) -> &'static str {
        match self {
            Stage::NoNewPrivs => "no-new-privs",
            Stage::Namespaces => "namespaces",
            Stage::Capabilities => "capabilities",
            Stage::Landlock => "landlock",
            Stage::Seccomp => "seccomp",
        }
    }
}

/// What has come of a stage: what it leaves, in words; or why the host does not allow it.
#[derive(Debug)]
pub struct Outcome {
    /// Which.
    pub stage: Stage,
    /// What has come of it.
    pub result: io::Result<String>,
}

/// Goes through all stages. Each is tried, whatever became of the ones before.
pub fn enter(needs: &Needs) -> Vec<Outcome> {
    enter_but(needs, &[])
}

/// Goes through the stages, but not those of `without`: to see what the others do by themselves.
pub fn enter_but(needs: &Needs, without: &[Stage]) -> Vec<Outcome> {
    // In a user namespace there are others that look alike and do not count outside.
    let had = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.permitted);
    let kept = had & needs.capabilities;
    let all = [Stage::NoNewPrivs, Stage::Namespaces, Stage::Capabilities, Stage::Landlock, Stage::Seccomp];
    let enter = |stage| match stage {
        Stage::NoNewPrivs => no_new_privs(),
        Stage::Namespaces => namespaces(had, kept, &needs.places),
        Stage::Capabilities => drop_capabilities(kept),
        Stage::Landlock => places::confine(&needs.places, needs.signals),
        Stage::Seccomp => calls::confine(needs.bpf),
    };
    let wanted = all.into_iter().filter(|stage| !without.contains(stage));
    wanted.map(|stage| Outcome { stage, result: enter(stage) }).collect()
}

/// Leaves a process that makes sockets for others no more than that takes: no file, no other process, and
/// ports below 1024 as the only right. Where the host has no Landlock or no filter of system calls, it does
/// without those.
///
/// # Errors
/// The kernel's word.
pub fn for_sockets() -> io::Result<()> {
    no_new_privs()?;
    drop_capabilities(CapabilitySet::NET_BIND_SERVICE)?;
    let _ = places::confine(&[], false);
    let _ = calls::confine(false);
    Ok(())
}

/// How many system calls were refused, and the number of the last one.
pub fn refused() -> (u64, Option<i64>) {
    seccomp::refused()
}

fn no_new_privs() -> io::Result<String> {
    set_no_new_privs(true)?;
    Ok("on".to_owned())
}

/// A root directory of its own. A process that keeps no capability gets it by way of a user namespace;
/// one that does would lose it there.
fn namespaces(had: CapabilitySet, kept: CapabilitySet, places: &[Place]) -> io::Result<String> {
    match (had.contains(CapabilitySet::SYS_ADMIN), kept.is_empty()) {
        (true, _) => root::confine(places, false),
        (false, true) => root::confine(places, true),
        (false, false) => Err(io::Error::other(
            "the capabilities that are kept would not count in a user namespace, and without one \
             CAP_SYS_ADMIN is needed",
        )),
    }
}

/// Keeps `kept` of the capabilities that there are.
fn drop_capabilities(kept: CapabilitySet) -> io::Result<String> {
    // Kernels before 4.3 have no ambient set, and nothing to clear.
    let _ = clear_ambient_capability_set();
    let bounded = empty_bounding_set();
    let kept = capabilities(None)?.permitted & kept;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets)?;
    let words = names(kept);
    let words = if words.is_empty() { "none kept".to_owned() } else { format!("kept {}", words.join(", ")) };
    Ok(if bounded { words } else { format!("{words} (bounding set as it was: CAP_SETPCAP is missing)") })
}

/// Whether the bounding set is empty now, or was.
fn empty_bounding_set() -> bool {
    let every = (0..u64::BITS).map(|bit| CapabilitySet::from_bits_retain(1 << bit));
    // The first number that the kernel does not know is after the last capability.
    let known = every.take_while(|one| capability_is_in_bounding_set(*one).is_ok());
    let mut empty = true;
    for one in known.filter(|one| capability_is_in_bounding_set(*one).unwrap_or(false)) {
        empty &= remove_capability_from_bounding_set(one).is_ok();
    }
    empty
}

/// The names of capabilities as tools write them: `cap_net_raw`.
pub fn names(set: CapabilitySet) -> Vec<String> {
    set.iter_names().map(|(name, _)| format!("cap_{}", name.to_lowercase())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_the_names_of_other_tools() {
        let set = CapabilitySet::NET_RAW | CapabilitySet::NET_BIND_SERVICE;
        assert_eq!(names(set), ["cap_net_bind_service", "cap_net_raw"]);
        assert!(names(CapabilitySet::empty()).is_empty());
    }
}
