//! What a running gateway still needs of its host's rights; the rest is given up before its first
//! packet, in the stages of `io/protect`.
//!
//! The table of docs/protection.md says of each right that is kept what would not work without it.

use crate::config::{RunFlags, SandboxChoice, Settings, TapChoice};
use crate::control::About;
use crate::io::protect::places::{Place, Right};
use crate::io::protect::{self, Needs, Stage};
use crate::io::resolver;
use anyhow::bail;
use rustix::process::{WaitId, WaitIdOptions, geteuid, waitid};
use rustix::thread::CapabilitySet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf, absolute};

/// Gives up what is not needed, as `settings` say; what was chosen is in `about`, `removes` are files
/// that are removed at the end. A line for each
/// stage, or none with `--sandbox off`.
///
/// # Errors
/// `--sandbox strict`, and a stage that this host does not allow.
pub fn enter(
    settings: &Settings,
    flags: &RunFlags,
    about: &About,
    removes: &[PathBuf],
) -> anyhow::Result<Vec<String>> {
    if settings.sandbox == SandboxChoice::Off {
        tracing::debug!("nothing is given up: --sandbox off");
        return Ok(Vec::new());
    }
    let strict = settings.sandbox == SandboxChoice::Strict;
    if let Some(others) = other_threads() {
        let told = format!("{others} threads run already, and keep their capabilities and files");
        if strict {
            bail!("--sandbox strict: {told}; use --sandbox auto");
        }
        tracing::warn!("{told}");
    }
    let mut lines = Vec::new();
    let needs = needs(settings, flags, about, removes);
    if needs.places.iter().any(is_everything) {
        let told =
            "the configuration, a socket or resolv.conf is right in /, so every file stays within reach";
        if strict {
            bail!("--sandbox strict: {told}; put it into a directory of its own");
        }
        tracing::warn!("{told}: put it into a directory of its own");
    }
    for outcome in protect::enter(&needs) {
        let stage = outcome.stage.word();
        match outcome.result {
            Ok(left) => lines.push(format!("{stage}: {left}")),
            // Where a host has no namespace for us, Landlock still keeps the same files away.
            Err(why) if strict && outcome.stage != Stage::Namespaces => {
                bail!("--sandbox strict: {stage}: {why}; use --sandbox auto, which does without")
            }
            Err(why) => lines.push(format!("{stage}: not on this host ({why})")),
        }
    }
    lines.iter().for_each(|line| tracing::debug!("{line}"));
    Ok(lines)
}

/// Says which system call was refused, if more were than `before`; tells how many were.
pub fn look(before: u64) -> u64 {
    let (count, last) = protect::refused();
    if count != before
        && let Some(call) = last
    {
        tracing::warn!(
            "system call {call} was refused by seccomp (`ausyscall {call}` names it): \
             please report it; --sandbox off does without"
        );
    }
    count
}

fn needs(settings: &Settings, flags: &RunFlags, about: &About, removes: &[PathBuf]) -> Needs {
    let config = flags.config.as_deref().map(directory);
    let control = directory(&settings.control);
    let removes: Vec<PathBuf> = removes.iter().map(|file| directory(file)).collect();
    let mut capabilities = capabilities(settings, about);
    // A file of somebody else: root reaches it by this alone.
    let foreign = |path: &PathBuf| path.metadata().is_ok_and(|data| data.uid() != geteuid().as_raw());
    let used = |of: &dyn Fn(&PathBuf) -> bool| {
        flags.config.iter().chain(&config).chain([&control]).chain(&removes).any(of)
    };
    if geteuid().is_root() && used(&foreign) {
        capabilities |= CapabilitySet::DAC_OVERRIDE;
    }
    if has_children() {
        // A command that became another user is still handed its signals.
        capabilities |= CapabilitySet::KILL;
    }
    let mut places = places(settings, config, control);
    // The file may be a link to one elsewhere.
    let linked = flags.config.as_deref().and_then(|file| file.canonicalize().ok());
    places.extend(linked.map(|file| Place::new(directory(&file), Right::Read)));
    places.extend(removes.into_iter().map(|folder| Place::new(folder, Right::Remove)));
    Needs { capabilities, places, signals: has_children(), bpf: about.guard == "tcx" }
}

/// What the uplink, the guard and the TAP that were chosen will need again.
fn capabilities(settings: &Settings, about: &About) -> CapabilitySet {
    let named_tap = matches!(settings.tap, TapChoice::Name(_));
    let sockets = about.uplink == "sockets";
    // Ports below 1024 are leased when they are asked for.
    let mut kept = CapabilitySet::NET_BIND_SERVICE;
    if !sockets {
        // A link that was down is opened anew; a protocol without ports is held when it leaves.
        kept |= CapabilitySet::NET_RAW;
    }
    if !sockets || named_tap {
        // The TAP is made again if it is deleted, the bridge removed at the end; buffers and filters
        // of new sockets.
        kept |= CapabilitySet::NET_ADMIN;
    }
    if about.guard == "tcx" {
        kept |= CapabilitySet::BPF;
    }
    kept
}

fn places(settings: &Settings, config: Option<PathBuf>, control: PathBuf) -> Vec<Place> {
    let mut places = vec![
        // The socket goes when the gateway ends.
        Place::new(control, Right::Remove),
        Place::new("/proc/sys", Right::Read),
    ];
    // A file that is edited is often a new one under the same name.
    places.extend(config.map(|folder| Place::new(folder, Right::Read)));
    if settings.tells_names() {
        places.extend(resolver::directories().into_iter().map(|folder| Place::new(folder, Right::Read)));
        // The file there may be a link, today or tomorrow.
        places.push(Place::new(directory(Path::new(resolver::PATH)), Right::Look));
    }
    if matches!(settings.tap, TapChoice::Name(_)) {
        places.push(Place::new("/dev/net/tun", Right::Device));
    }
    if settings.bridge.is_some() {
        // Whether a bridge takes router advertisements is put back at the end.
        places.push(Place::new("/proc/sys/net/ipv6/conf", Right::Write));
    }
    places
}

/// Whether a place has all files in it.
fn is_everything(place: &Place) -> bool {
    place.right != Right::Look && place.path.canonicalize().is_ok_and(|path| path == Path::new("/"))
}

/// The directory that a file is in.
fn directory(file: &Path) -> PathBuf {
    let whole = absolute(file).unwrap_or_else(|_| file.to_owned());
    whole.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned)
}

/// Whether this process has started others, which it may have to end.
fn has_children() -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::All, look).is_ok()
}

/// How many threads there are besides this one, if any.
fn other_threads() -> Option<usize> {
    let threads = std::fs::read_dir("/proc/self/task").ok()?.count();
    threads.checked_sub(1).filter(|others| *others > 0)
}
