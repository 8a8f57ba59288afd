//! Network namespaces held by a descriptor, and nothing else: no name under `/run`, no mount.
//!
//! A namespace lives as long as a descriptor or a thread inside holds it; an interface's
//! peer does not count. So everything built from [`Netns`] is gone when the process is, however it
//! ends. A thread enters a namespace for good: work inside one happens on threads of its own.

use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::{fs, io, thread};

/// The calling thread's own network namespace, as the kernel names it.
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace.
#[derive(Clone, Debug)]
pub struct Netns {
    fd: Arc<OwnedFd>,
}

impl Netns {
    /// Makes an empty namespace: a loopback interface that is down, and nothing else.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN`; `ENOSPC` at the limit of `/proc/sys/user/max_net_namespaces`.
    pub fn create() -> io::Result<Netns> {
        on_own_thread("netns-create", || {
            // SAFETY: the descriptor table is not unshared, so no thread loses sight of a descriptor.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
                .map_err(|error| saying("create a network namespace", error))?;
            Netns::current()
        })?
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// If `/proc` is not mounted, or no descriptor is left.
    pub fn current() -> io::Result<Netns> {
        let file =
            File::open(OWN).map_err(|error| io::Error::new(error.kind(), format!("open {OWN}: {error}")))?;
        Ok(Netns { fd: Arc::new(file.into()) })
    }

    /// Runs `work` inside, on a thread of its own, and waits for it.
    ///
    /// # Errors
    /// `EPERM` if the namespace may not be entered; or no thread could be started.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_own_thread("netns-run", || {
            self.enter()?;
            Ok(work())
        })?
    }

    /// Runs `work` inside, on a thread called `name`, and does not wait. The thread's result is
    /// never `None` once this has returned a handle.
    ///
    /// # Errors
    /// `EPERM` if the namespace may not be entered; or no thread could be started.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<Option<T>>> {
        let (entered, outcome) = std::sync::mpsc::channel();
        let netns = self.clone();
        let thread = thread::Builder::new().name(name.to_string()).spawn(move || {
            let result = netns.enter();
            // The thread itself holds the namespace: a second hold would only outlive it.
            drop(netns);
            let inside = result.is_ok();
            let _ = entered.send(result);
            inside.then(work)
        })?;
        outcome.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended before it began")))?;
        Ok(thread)
    }

    /// Makes `command` start inside, and die with the thread that starts it.
    pub fn confine(&self, command: &mut Command) {
        let fd = Arc::clone(&self.fd);
        // SAFETY: between fork and exec the closure makes two system calls on values made before the
        // fork; it allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(move || {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(())
            });
        }
    }

    /// Moves the calling thread inside, for good.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN` over the namespace.
    pub fn enter(&self) -> io::Result<()> {
        move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|error| saying("enter a network namespace", error))
    }

    /// The descriptor's number, for `/proc/PID/fd/N`.
    pub fn number(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Lets `command` inherit `fd` under its own number.
pub fn inherit(command: &mut Command, fd: OwnedFd) {
    // SAFETY: between fork and exec the closure makes one system call on a descriptor that it owns.
    unsafe {
        command.pre_exec(move || {
            rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty())?;
            Ok(())
        });
    }
}

/// Whom the caller is to be in a user namespace of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Maps {
    /// Its user there.
    pub uid: u32,
    /// Its group there.
    pub gid: u32,
}

/// Takes the calling process into namespaces of its own: network and mounts, and with `maps` a user
/// namespace first, in which it may do everything until it becomes another program.
///
/// # Errors
/// `EINVAL` if the process has more than one thread; `EPERM`, `ENOSPC` or `EACCES` where the host
/// forbids user namespaces. The text says what was tried.
pub fn unshare_into(maps: Option<Maps>) -> io::Result<()> {
    let own = own_ids();
    let mut flags = UnshareFlags::NEWNET | UnshareFlags::NEWNS;
    if maps.is_some() {
        flags |= UnshareFlags::NEWUSER;
    }
    // SAFETY: the descriptor table is not unshared, so no thread loses sight of a descriptor.
    unsafe { unshare_unsafe(flags) }.map_err(|error| {
        saying(
            if maps.is_some() {
                "create user, network and mount namespaces"
            } else {
                "create network and mount namespaces"
            },
            error,
        )
    })?;
    maps.map_or(Ok(()), |maps| map_ids(maps, own))
}

/// User and group of the caller, as which no new user namespace knows it yet.
pub(super) fn own_ids() -> (u32, u32) {
    (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw())
}

/// Says in the user namespace that the caller has just entered who it is there; `own` was it outside.
pub(super) fn map_ids(Maps { uid, gid }: Maps, own: (u32, u32)) -> io::Result<()> {
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &format!("{uid} {} 1\n", own.0))?;
    write("/proc/self/gid_map", &format!("{gid} {} 1\n", own.1))
}

/// Takes the calling process into namespaces of its own, as [`unshare_into`]; with `user` as root of
/// a user namespace. There it may do as it likes; nobody outside notices.
///
/// # Errors
/// See [`unshare_into`].
pub fn enter_private(user: bool) -> io::Result<()> {
    unshare_into(user.then_some(Maps { uid: 0, gid: 0 }))?;
    use rustix::mount::{MountPropagationFlags, mount_change};
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|error| saying("make the mounts private", error))?;
    Ok(())
}

fn write(path: &str, text: &str) -> io::Result<()> {
    fs::write(path, text).map_err(|error| io::Error::new(error.kind(), format!("write {path}: {error}")))
}

fn on_own_thread<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let handle = thread::Builder::new().name(name.to_string()).spawn_scoped(scope, work)?;
        Ok(handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn saying(operation: &str, error: rustix::io::Errno) -> io::Error {
    let error = io::Error::from(error);
    io::Error::new(error.kind(), format!("{operation}: {error}"))
}
