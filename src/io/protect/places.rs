//! Confines the process to some places of the file system, by Landlock.
//!
//! Rules are for the files as they are when the rules are made: a file that is replaced later by
//! renaming is a new one. Who reads such a file names its directory.

use crate::io::sys::landlock;
use ::landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use std::io;
use std::path::PathBuf;

/// The newest interface whose rights are asked for; older kernels give what they know.
const NEWEST: ABI = ABI::V7;

/// The version from which on abstract sockets and signals can be kept in.
const SCOPES: u32 = 6;

/// What may be done in a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Right {
    /// Names are looked up, links followed; nothing is opened.
    Look,
    /// Files are read, directories listed.
    Read,
    /// Files that are there are read and written.
    Write,
    /// A device is opened and driven by ioctl(2).
    Device,
    /// Files are removed.
    Remove,
}

/// A file, or a directory with all beneath it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Which.
    pub path: PathBuf,
    /// What may be done there.
    pub right: Right,
}

impl Place {
    /// A place and a right.
    pub fn new(path: impl Into<PathBuf>, right: Right) -> Place {
        Place { path: path.into(), right }
    }
}

fn rights(right: Right) -> BitFlags<AccessFs> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    match right {
        // Landlock never forbids it.
        Right::Look => BitFlags::empty(),
        Right::Read => read,
        Right::Write => read | AccessFs::WriteFile | AccessFs::Truncate,
        Right::Device => AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev,
        Right::Remove => AccessFs::RemoveFile.into(),
    }
}

/// Confines this thread and those it starts to `places`; tells in words how far. One that does not
/// exist is left out. With `signals` the processes of others stay in reach.
///
/// # Errors
/// `Unsupported` where the kernel has no Landlock or has it switched off; else what it says.
pub fn confine(places: &[Place], signals: bool) -> io::Result<String> {
    let version = version().map_err(|why| io::Error::new(io::ErrorKind::Unsupported, why))?;
    let failed = |error: RulesetError| io::Error::other(error.to_string());
    let scopes = if signals { Scope::AbstractUnixSocket.into() } else { Scope::from_all(NEWEST) };
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    let ruleset = ruleset.handle_access(AccessFs::from_all(NEWEST)).map_err(failed)?;
    let mut ruleset = ruleset.scope(scopes).map_err(failed)?.create().map_err(failed)?;
    let mut count = 0;
    for place in places.iter().filter(|place| place.right != Right::Look) {
        let Ok(handle) = PathFd::new(&place.path) else { continue };
        let mut access = rights(place.right);
        if !place.path.is_dir() {
            access &= AccessFs::from_file(NEWEST);
        }
        ruleset = ruleset.add_rule(PathBeneath::new(handle, access)).map_err(failed)?;
        count += 1;
    }
    let status = ruleset.restrict_self().map_err(failed)?;
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err(io::Error::other("the kernel has taken no rule"));
    }
    let scoped = match (version >= SCOPES, signals) {
        (false, _) => "",
        (true, false) => "; no abstract sockets or processes of others",
        (true, true) => "; no abstract sockets of others",
    };
    Ok(format!("ABI {version}, {count} places{scoped}"))
}

/// Which version of Landlock the kernel has.
///
/// # Errors
/// Why it has none, in words.
pub fn version() -> Result<u32, &'static str> {
    landlock::version().map_err(|error| match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => "switched off: add `landlock` to the kernel's lsm= parameter",
        Some(libc::ENOSYS) => "this kernel has none (Linux 5.13 with CONFIG_SECURITY_LANDLOCK has)",
        _ => "not allowed here (a container needs a seccomp profile that allows landlock_*)",
    })
}
