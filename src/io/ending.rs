//! What a gateway may outlive no longer than to say goodbye: a process, the name of a namespace, or
//! whoever holds the other end of a descriptor.
//!
//! An open TAP keeps its network namespace alive, so the end of a container is not seen on the TAP.
//! It is seen on the process that was named, on the bind mount that was named, or on a pipe.

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::fs::{AtFlags, Mode, OFlags, inotify};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Something whose end is the gateway's end. Its descriptor becomes readable, or hung up, when there
/// is reason to ask [`Ending::ended`].
#[derive(Debug)]
pub struct Ending {
    what: String,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// Any event is the end.
    Event(OwnedFd),
    /// The file is gone, or is another one.
    File(FileWatch),
}

impl Ending {
    /// The end of a process.
    ///
    /// # Errors
    /// `ESRCH` if there is none of that number; `EINVAL` if it is a thread's.
    pub fn process(pid: Pid) -> io::Result<Ending> {
        let fd = pidfd_open(pid, PidfdFlags::empty())?;
        let what = format!("process {} has ended", pid.as_raw_nonzero());
        Ok(Ending { what, source: Source::Event(fd) })
    }

    /// Any event on a descriptor: bytes, or that the other end was closed. `what` says what that
    /// means, as in "the caller has closed its end".
    pub fn event(fd: OwnedFd, what: impl Into<String>) -> Ending {
        Ending { what: what.into(), source: Source::Event(fd) }
    }

    /// The end of a file as what it is: it is removed, unmounted, or something else is mounted there.
    ///
    /// # Errors
    /// There is no such file; or its directory cannot be watched.
    pub fn file(path: &Path) -> io::Result<Ending> {
        let what = format!("{} is gone", path.display());
        Ok(Ending { what, source: Source::File(FileWatch::new(path)?) })
    }

    /// Whether the end has come.
    pub fn ended(&mut self) -> bool {
        match &mut self.source {
            Source::Event(fd) => has_event(fd),
            Source::File(watch) => watch.gone(),
        }
    }

    /// What the end is, as a sentence without a full stop.
    pub fn what(&self) -> &str {
        &self.what
    }
}

impl AsFd for Ending {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::Event(fd) => fd.as_fd(),
            Source::File(watch) => watch.events.as_fd(),
        }
    }
}

fn has_event(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN | PollFlags::RDHUP)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

/// Watches a name in a directory, and the mount table, since the end of a bind mount is no change of
/// its directory. The directory is held open: it is looked at even if this process's root changes.
#[derive(Debug)]
struct FileWatch {
    /// Joins the two below.
    events: OwnedFd,
    changes: OwnedFd,
    _mounts: OwnedFd,
    directory: OwnedFd,
    name: OsString,
    identity: (u64, u64),
}

impl FileWatch {
    fn new(path: &Path) -> io::Result<FileWatch> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let changes = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let leaving = inotify::WatchFlags::DELETE
            | inotify::WatchFlags::MOVED_FROM
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::DELETE_SELF
            | inotify::WatchFlags::MOVE_SELF;
        inotify::add_watch(&changes, parent, leaving)?;
        let mounts =
            rustix::fs::open("/proc/self/mountinfo", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let events = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&events, &changes, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        epoll::add(&events, &mounts, epoll::EventData::new_u64(1), epoll::EventFlags::PRI)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(parent, flags, Mode::empty())?;
        let mut watch = FileWatch { events, changes, _mounts: mounts, directory, name, identity: (0, 0) };
        watch.identity = watch.look()?;
        Ok(watch)
    }

    fn look(&self) -> io::Result<(u64, u64)> {
        let data = rustix::fs::statat(&self.directory, &self.name, AtFlags::empty())?;
        Ok((data.st_dev, data.st_ino))
    }

    /// Takes the events, and looks for itself.
    fn gone(&mut self) -> bool {
        let mut bytes = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.changes, &mut bytes);
        while reader.next().is_ok() {}
        let mut ready =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 2];
        let _ = epoll::wait(&self.events, &mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        // What cannot be looked at for another reason may still be there.
        match self.look() {
            Ok(identity) => identity != self.identity,
            Err(error) => matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ESTALE)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn wait(ending: &Ending) {
        let mut fds = [PollFd::new(ending, PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&Timespec { tv_sec: 5, tv_nsec: 0 })).unwrap(), 1, "no event");
    }

    #[test]
    fn a_process_ends() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_child(&child);
        let mut ending = Ending::process(pid).unwrap();
        assert!(!ending.ended());
        drop(child.stdin.take());
        wait(&ending);
        assert!(ending.ended());
        child.wait().unwrap();
        assert!(ending.ended(), "also when nobody remembers it");
    }

    #[test]
    fn the_other_end_of_a_pipe_is_closed() {
        let (read, write) = io::pipe().unwrap();
        let mut ending = Ending::event(read.into(), "the caller is gone");
        assert!(!ending.ended());
        drop(write);
        wait(&ending);
        assert!(ending.ended());
    }

    #[test]
    fn a_file_is_removed_or_replaced_and_others_do_not_matter() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("it"), folder.path().join("other"));
        std::fs::write(&path, "").unwrap();
        std::fs::write(&other, "").unwrap();
        let mut ending = Ending::file(&path).unwrap();
        let mut replaced = Ending::file(&path).unwrap();
        std::fs::remove_file(&other).unwrap();
        wait(&ending);
        assert!(!ending.ended(), "another file was removed");
        std::fs::write(&other, "").unwrap();
        std::fs::rename(&other, &path).unwrap();
        wait(&replaced);
        assert!(replaced.ended());
        std::fs::remove_file(&path).unwrap();
        wait(&ending);
        assert!(ending.ended());
        assert!(Ending::file(&path).is_err());
    }
}
