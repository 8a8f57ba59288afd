//! A command in namespaces of its own: network and mounts, and of users where that is needed.
//!
//! In a user namespace everybody may make the others. The command does not need to be root there:
//! it keeps its own user and group, so that files have the owners that they have outside.

use super::helper::{Order, Place, Task};
use super::talk::Talk;
use super::{Guest, GuestConfig, GuestError, ask, helper, resolver, spawn};
use crate::io::ending::Ending;
use crate::io::sys::netns::{Maps, unshare_into};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{Pid, getgid, getuid};
use rustix::thread::{CapabilitySet, capabilities};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::process::Child;

/// How the namespaces of a command are.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Fresh {
    /// The command is root of its namespaces, even where its user is another outside.
    pub root: bool,
    /// The text of its `/etc/resolv.conf`; `None` to leave the host's in place.
    pub resolver: Option<String>,
}

/// A command that waits in its namespaces for [`Go::go`].
#[derive(Debug)]
pub struct Launched {
    /// The TAP, and the end of the command.
    pub guest: Guest,
    /// The process that is to be the command.
    pub child: Child,
    /// What has it run.
    pub go: Go,
}

/// Has a command run. If this is dropped instead, the command ends without having run.
#[derive(Debug)]
pub struct Go {
    talk: Talk,
}

impl Go {
    /// Has the command run.
    ///
    /// # Errors
    /// Its process has ended.
    pub fn go(self) -> io::Result<()> {
        self.talk.send(&(), &[])
    }
}

/// Makes namespaces with a TAP in them, and a process that waits there to become `command`. It ends
/// with the calling thread, and has this process's standard input, output and error.
///
/// # Errors
/// See [`GuestError`]. Nothing is left behind then.
pub fn launch(fresh: &Fresh, guest: &GuestConfig, command: &[OsString]) -> Result<Launched, GuestError> {
    let (talk, mut child) = spawn(command, |_| ())?;
    let order = Order { place: Place::Fresh(fresh.clone()), task: Task::Tap(guest.clone()) };
    let (made, tap) = match ask(&talk, &order, &[]) {
        Ok(answer) => answer,
        Err(error) => {
            drop(talk);
            let _ = child.wait();
            return Err(error);
        }
    };
    let ending = Ending::process(Pid::from_child(&child)).map_err(helper("watching it"))?;
    let guest = Guest { tap, name: made.name, mac: made.mac, warnings: made.warnings, ending: Some(ending) };
    Ok(Launched { guest, child, go: Go { talk } })
}

/// Takes the helper into namespaces of its own.
///
/// # Errors
/// One line with the cure.
pub(super) fn enter(fresh: &Fresh, warnings: &mut Vec<String>) -> Result<(), String> {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    let able = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
    // Who may make namespaces and is root anyway gains nothing from another user namespace.
    let user = !able || (fresh.root && uid != 0);
    let maps = user.then_some(if fresh.root { Maps { uid: 0, gid: 0 } } else { Maps { uid, gid } });
    unshare_into(maps)
        .map_err(|error| format!("exec cannot {error}; {}", namespace_cure(&error, uid == 0)))?;
    // What is mounted outside later still appears; what is mounted in here does not get out.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(|error| format!("the mounts cannot be set apart: {}", io::Error::from(error)))?;
    if let Some(text) = &fresh.resolver
        && let Err(error) = resolver::put(text)
    {
        warnings.push(format!("/etc/resolv.conf stays the host's: {error}; names may not be resolved"));
    }
    // A new network namespace lets nobody ping without a right of its own.
    let group = if fresh.root && user { 0 } else { gid };
    let _ = fs::write("/proc/sys/net/ipv4/ping_group_range", format!("{group} {group}"));
    Ok(())
}

/// The cure where namespaces cannot be made, for root and for others.
pub fn namespace_cure(error: &io::Error, root: bool) -> String {
    let is = |name: &str, bad: &str| {
        let value = fs::read_to_string(format!("/proc/sys/{name}"));
        value.is_ok_and(|value| value.trim() == bad)
    };
    if is("kernel/unprivileged_userns_clone", "0") && !root {
        "as root: sysctl -w kernel.unprivileged_userns_clone=1".to_owned()
    } else if is("user/max_user_namespaces", "0") {
        "as root: sysctl -w user.max_user_namespaces=10000".to_owned()
    } else if is("kernel/apparmor_restrict_unprivileged_userns", "1") && !root {
        "as root: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0".to_owned()
    } else if root {
        "this root lacks CAP_SYS_ADMIN (in a container: run it with --privileged)".to_owned()
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        "a container or security module forbids it: run it as root, or outside".to_owned()
    } else {
        "run it as root".to_owned()
    }
}
