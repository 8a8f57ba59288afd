//! A root directory in which there is nothing but what the process needs.
//!
//! The places of [`places`](super::places) are cloned mounts in an empty, read-only file system of a mount
//! namespace of the process's own; then that is the root, and the old one is let go. Landlock refuses to
//! open what is elsewhere: here it is not there, for calls that Landlock does not know either, and on
//! kernels without Landlock.
//!
//! ```text
//! /                          tmpfs, read-only
//! ├── etc/                   the host's, read-only: resolv.conf is a link to
//! ├── run/systemd/resolve/   the host's, read-only
//! ├── run/tapnat/            the host's: the control socket is removed at the end
//! └── proc/sys/              the host's, read-only
//! ```
//!
//! Mounts of the host that come or go beneath a place later do so here too, if the host shares them, as
//! systemd has it.

use super::places::{Place, Right};
use crate::io::sys::mount::{self, Limit};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change,
    move_mount, open_tree, unmount,
};
use rustix::process::pivot_root;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::{fs, io};

/// Where the new root is put together: what is there already is hidden for that long.
const STAGES: [&str; 4] = ["/tmp", "/run", "/var", "/mnt"];

/// Symbolic links that one path may lead through, as in the kernel.
const LINKS: usize = 40;

/// A name on the way to a place.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Name {
    Directory,
    File,
    Link(PathBuf),
}

/// What the new root is to have: names by their path, and the paths at which it has the host's files,
/// with whether they may be changed.
#[derive(Debug, Default)]
struct Plan {
    names: BTreeMap<PathBuf, Name>,
    mounts: BTreeMap<PathBuf, bool>,
}

/// Has this process see nothing but `places`, from a mount namespace of its own; with `user` by way of a
/// user namespace, in which it has no capability that counts outside. Tells in words how far.
///
/// # Errors
/// Where the host does not allow it. Files are as they were then.
pub fn confine(places: &[Place], user: bool) -> io::Result<String> {
    let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let plan = plan(places, &cwd)?;
    mount::unshare(user)?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    let clone = |(path, writable): (&PathBuf, &bool)| clone(path, *writable).map(|tree| (path.clone(), tree));
    let trees = plan.mounts.iter().map(clone).collect::<io::Result<Vec<(PathBuf, OwnedFd)>>>()?;

    let stage = STAGES.into_iter().find(|stage| Path::new(stage).is_dir());
    let stage = Path::new(stage.ok_or_else(|| io::Error::other("there is no directory to mount it on"))?);
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tapnat", stage, "tmpfs", flags, Some(c"mode=0755,size=256k"))?;
    if let Err(error) = furnish(stage, &plan, &trees).and_then(|()| enter(stage, &cwd)) {
        let _ = unmount(stage, UnmountFlags::DETACH);
        let _ = std::env::set_current_dir(&cwd);
        return Err(error);
    }
    let by = if user { "user and mount namespace" } else { "mount namespace" };
    Ok(format!("own {by}, {} places", trees.len()))
}

/// Follows the paths of the places as the kernel would.
fn plan(places: &[Place], cwd: &Path) -> io::Result<Plan> {
    let mut plan = Plan::default();
    plan.follow(cwd);
    for place in places {
        let Some(end) = plan.follow(&place.path) else { continue };
        if end == Path::new("/") {
            return Err(io::Error::other("the root directory itself is needed"));
        }
        *plan.mounts.entry(end).or_default() |= !matches!(place.right, Right::Look | Right::Read);
    }
    // What is beneath a place that allows as much comes with it.
    let all = plan.mounts.clone();
    let within = |path: &Path, writable: bool| {
        path.ancestors().skip(1).any(|above| all.get(above).is_some_and(|allows| *allows || !writable))
    };
    plan.mounts.retain(|path, writable| !within(path, *writable));
    Ok(plan)
}

impl Plan {
    /// Notes every name on the way to `path`; where it ends, if it is there.
    fn follow(&mut self, path: &Path) -> Option<PathBuf> {
        let mut rest = names_of(path);
        let (mut at, mut links) = (PathBuf::from("/"), 0);
        while let Some(name) = rest.pop_front() {
            if name == OsStr::new("..") {
                at.pop();
                continue;
            }
            let next = at.join(name);
            let kind = fs::symlink_metadata(&next).ok()?.file_type();
            if kind.is_symlink() {
                let target = fs::read_link(&next).ok()?;
                links += 1;
                if links > LINKS {
                    return None;
                }
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                rest = names_of(&target).into_iter().chain(rest).collect();
                self.names.insert(next, Name::Link(target));
                continue;
            }
            self.names.insert(next.clone(), if kind.is_dir() { Name::Directory } else { Name::File });
            at = next;
        }
        Some(at)
    }
}

/// The names of a path, `..` among them.
fn names_of(path: &Path) -> VecDeque<OsString> {
    let kept = |part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(kept).collect()
}

/// The mounts at `path` once more, to be put elsewhere.
fn clone(path: &Path, writable: bool) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, path, flags)?;
    // Landlock and the files' own rights say the same; kernels before 5.12 do without.
    let _ = mount::limit(&tree, if writable { Limit::NoPrograms } else { Limit::ReadOnly }, true);
    Ok(tree)
}

/// Makes the names in the empty root at `stage`, and puts the host's files in their places: parents come
/// before what is in them.
fn furnish(stage: &Path, plan: &Plan, trees: &[(PathBuf, OwnedFd)]) -> io::Result<()> {
    let there = |path: &Path| stage.join(path.strip_prefix("/").unwrap_or(path));
    for (path, name) in &plan.names {
        let path = there(path);
        match name {
            Name::Directory => fs::create_dir(&path)?,
            Name::File => drop(fs::File::create_new(&path)?),
            Name::Link(target) => std::os::unix::fs::symlink(target, &path)?,
        }
    }
    for (path, tree) in trees {
        move_mount(tree, "", CWD, there(path), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    }
    Ok(())
}

/// Makes `stage` the root, and the directory that was the current one the current one again.
fn enter(stage: &Path, cwd: &Path) -> io::Result<()> {
    std::env::set_current_dir(stage)?;
    // The old root lies on top of the new one then, and the current directory is in neither's way.
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let _ = mount::limit(root, Limit::ReadOnly, false);
    std::env::set_current_dir(cwd).or_else(|_| std::env::set_current_dir("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(places: &[(&Path, Right)], cwd: &Path) -> Plan {
        let places: Vec<Place> = places.iter().map(|(path, right)| Place::new(*path, *right)).collect();
        plan(&places, cwd).unwrap()
    }

    #[test]
    fn links_are_laid_as_they_are_and_ends_are_mounted() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().canonicalize().unwrap().join(name);
        fs::create_dir_all(at("real/deep")).unwrap();
        fs::write(at("real/deep/file"), "").unwrap();
        std::os::unix::fs::symlink("real", at("one")).unwrap();
        std::os::unix::fs::symlink(at("one/deep"), at("two")).unwrap();
        std::os::unix::fs::symlink("loop", at("loop")).unwrap();
        let (two, twisted) = (at("two/file"), at("real/deep/../deep/file"));
        let found =
            wanted(&[(&two, Right::Read), (&twisted, Right::Read), (&at("loop"), Right::Read)], &at(""));
        assert_eq!(found.mounts, BTreeMap::from([(at("real/deep/file"), false)]));
        assert_eq!(found.names.get(&at("two")), Some(&Name::Link(at("one/deep"))));
        assert_eq!(found.names.get(&at("one")), Some(&Name::Link("real".into())));
        assert_eq!(found.names.get(&at("real/deep/file")), Some(&Name::File));
        // A place that is not there is left out.
        assert!(wanted(&[(&at("none"), Right::Write)], Path::new("/")).mounts.is_empty());
    }

    #[test]
    fn what_is_within_another_place_is_mounted_only_if_it_may_be_changed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().canonicalize().unwrap().join(name);
        fs::create_dir_all(at("a/b/c")).unwrap();
        let both = [(&*at("a"), Right::Read), (&at("a/b"), Right::Write), (&at("a/b/c"), Right::Read)];
        let both = wanted(&both, Path::new("/"));
        assert_eq!(both.mounts, BTreeMap::from([(at("a"), false), (at("a/b"), true)]));
        let places = [Place::new("/", Right::Read)];
        assert!(plan(&places, Path::new("/")).unwrap_err().to_string().contains("root directory itself"));
    }
}
