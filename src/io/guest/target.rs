//! Naming a network namespace that exists, and opening it with what is needed to join it.

use super::GuestError;
use crate::io::ending::Ending;
use crate::io::sys::nsfs::{self, Kind};
use rustix::fs::{Mode, OFlags, fstat};
use rustix::process::Pid;
use rustix::thread::{CapabilitySet, capabilities};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Where names without a directory are looked for, as `ip netns` does.
const NAMED: &str = "/run/netns";

/// How a network namespace is named.
#[derive(Debug)]
pub enum NetChoice {
    /// That of a process.
    Pid(i32),
    /// That of a file: a bind mount, a file under `/proc`, or a name under `/run/netns`.
    Path(PathBuf),
    /// That of a descriptor, which was inherited. Its end cannot be told.
    Fd(OwnedFd),
}

/// A network namespace, and the user namespace to join before it.
#[derive(Debug)]
pub struct Target {
    /// The network namespace.
    pub net: NetChoice,
    /// The user namespace; `None` to join the one that owns the network namespace where this process
    /// could not enter otherwise.
    pub user: Option<PathBuf>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.net {
            NetChoice::Pid(pid) => write!(f, "namespace of process {pid}"),
            NetChoice::Path(path) => write!(f, "namespace {}", path.display()),
            NetChoice::Fd(_) => write!(f, "inherited namespace"),
        }
    }
}

/// Namespaces that are open, to be joined.
#[derive(Debug)]
pub struct Opened {
    /// What the namespace is called in messages.
    pub what: String,
    /// The network namespace.
    pub net: OwnedFd,
    /// The user namespace, if one is to be joined first.
    pub user: Option<OwnedFd>,
    /// The end of it all.
    pub ending: Option<Ending>,
    /// What is missing of that, one line each.
    pub warnings: Vec<String>,
}

impl Opened {
    /// The descriptors, in the order in which the helper expects them.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.net.as_fd()).chain(self.user.as_ref().map(AsFd::as_fd))
    }

    /// What the end is.
    pub fn ended(&self) -> String {
        self.ending.as_ref().map_or_else(|| self.what.clone(), |ending| ending.what().to_owned())
    }
}

impl Target {
    /// Opens what is named.
    ///
    /// # Errors
    /// It is not there, is something else, or may not be opened.
    pub fn open(&self) -> Result<Opened, GuestError> {
        let mut warnings = Vec::new();
        let (what, net, ending) = match &self.net {
            NetChoice::Pid(pid) => of_process(*pid, &mut warnings)?,
            NetChoice::Path(path) => of_path(path, &mut warnings)?,
            NetChoice::Fd(fd) => {
                let net = fd.try_clone().map_err(|source| GuestError::Open {
                    what: "network namespace",
                    path: "of an inherited descriptor".to_owned(),
                    source,
                    cure: "allow more open files (ulimit -n)",
                })?;
                ("the inherited namespace".to_owned(), net, None)
            }
        };
        check(&net, &what, Kind::Network)?;
        let user = self.user(&net)?;
        Ok(Opened { what, net, user, ending, warnings })
    }

    /// The user namespace to join, if it is another one than ours.
    fn user(&self, net: &OwnedFd) -> Result<Option<OwnedFd>, GuestError> {
        let user = match &self.user {
            Some(path) => {
                let user = open_file(path, "user namespace")?;
                check(&user, &path.display().to_string(), Kind::User)?;
                user
            }
            // Root of this namespace, or of one above, may enter without becoming anybody else.
            None if administers() => return Ok(None),
            // An owner that cannot be seen is above us: joining fails then, and says so.
            None => match nsfs::owner(net) {
                Ok(owner) => owner,
                Err(_) => return Ok(None),
            },
        };
        // The kernel refuses to join the one where one is.
        let ours = rustix::fs::open("/proc/self/ns/user", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let identity = |fd: &OwnedFd| fstat(fd).map(|data| (data.st_dev, data.st_ino)).ok();
        let same = ours.is_ok_and(|ours| identity(&ours) == identity(&user));
        Ok((!same).then_some(user))
    }
}

/// Whether this process may enter namespaces of its user namespace and of those below.
fn administers() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

fn of_process(
    number: i32,
    warnings: &mut Vec<String>,
) -> Result<(String, OwnedFd, Option<Ending>), GuestError> {
    let gone = || GuestError::NoProcess(number);
    let pid = Pid::from_raw(number).filter(|_| number > 0).ok_or_else(gone)?;
    // First a hold of the process: the number may become another's at any time.
    let mut ending = match Ending::process(pid) {
        Ok(ending) => Some(ending),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Err(gone()),
        // A thread that leads no group, or a kernel that forbids it.
        Err(error) => {
            warnings.push(unseen(number, &error));
            None
        }
    };
    let path = format!("/proc/{number}/ns/net");
    let opened = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    if ending.as_mut().is_some_and(Ending::ended) {
        return Err(gone());
    }
    match opened.map_err(io::Error::from) {
        Ok(net) => Ok((format!("the network namespace of process {number}"), net, ending)),
        Err(error) => Err(match error.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH) => gone(),
            Some(libc::EACCES | libc::EPERM) => GuestError::ForeignProcess(number),
            _ => opening("network namespace", Path::new(&path), error),
        }),
    }
}

fn unseen(number: i32, error: &io::Error) -> String {
    format!("the end of process {number} will not be seen: {error}; end this gateway by a signal")
}

fn of_path(path: &Path, warnings: &mut Vec<String>) -> Result<(String, OwnedFd, Option<Ending>), GuestError> {
    let named = path.components().count() == 1 && path.is_relative() && !path.starts_with(".");
    let path = if named { Path::new(NAMED).join(path) } else { path.to_owned() };
    if let Some(pid) = in_proc(&path) {
        let ending = Pid::from_raw(pid).map(Ending::process);
        let net = open_file(&path, "network namespace")?;
        if let Some(Err(error)) = &ending {
            warnings.push(unseen(pid, error));
        }
        return Ok((path.display().to_string(), net, ending.and_then(Result::ok)));
    }
    let net = open_file(&path, "network namespace")?;
    let ending = Ending::file(&path);
    if let Err(error) = &ending {
        let path = path.display();
        warnings
            .push(format!("the end of {path} will not be seen: its directory cannot be watched: {error}"));
    }
    Ok((path.display().to_string(), net, ending.ok()))
}

/// The process of a path under `/proc`, where nothing is ever removed that could be watched.
fn in_proc(path: &Path) -> Option<i32> {
    let rest = path.strip_prefix("/proc").ok()?;
    rest.components().next()?.as_os_str().to_str()?.parse().ok()
}

fn open_file(path: &Path, what: &'static str) -> Result<OwnedFd, GuestError> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
        .map_err(|error| opening(what, path, error.into()))
}

fn opening(what: &'static str, path: &Path, source: io::Error) -> GuestError {
    let cure = match source.kind() {
        io::ErrorKind::NotFound => "see `ip netns` and `lsns -t net` for those that exist",
        io::ErrorKind::PermissionDenied => "run tapnat as the user that owns it, or as root",
        _ => "name the file of a namespace",
    };
    GuestError::Open { what, path: path.display().to_string(), source, cure }
}

fn check(fd: &OwnedFd, what: &str, wanted: Kind) -> Result<(), GuestError> {
    if nsfs::kind(fd).is_ok_and(|kind| kind == wanted) {
        return Ok(());
    }
    let (kind, file) = match wanted {
        Kind::User => ("user namespace", "user"),
        _ => ("network namespace", "net"),
    };
    Err(GuestError::NoNamespace(what.to_owned(), kind, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(net: NetChoice, user: Option<&str>) -> String {
        Target { net, user: user.map(PathBuf::from) }.open().unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_namespace_is_told_with_the_cure() {
        assert!(said(NetChoice::Pid(0), None).starts_with("there is no process 0"));
        assert!(said(NetChoice::Pid(i32::MAX), None).starts_with("there is no process 2147483647"));
        let missing = said(NetChoice::Path("no-such-name".into()), None);
        assert!(missing.contains("/run/netns/no-such-name: No such file"), "{missing}");
        let plain = said(NetChoice::Path("/proc/self/stat".into()), None);
        assert!(plain.starts_with("/proc/self/stat is no network namespace: "), "{plain}");
        let other = said(NetChoice::Path("/proc/self/ns/uts".into()), None);
        assert!(other.contains("is no network namespace"), "{other}");
        let own = std::process::id().cast_signed();
        let user = said(NetChoice::Pid(own), Some("/proc/self/ns/net"));
        assert!(user.starts_with("/proc/self/ns/net is no user namespace: "), "{user}");
    }

    #[test]
    fn the_namespace_of_a_process_ends_with_it_and_ours_needs_no_joining() {
        let own = std::process::id().cast_signed();
        let opened = Target { net: NetChoice::Pid(own), user: Some("/proc/self/ns/user".into()) }.open();
        let mut opened = opened.unwrap();
        assert!(opened.user.is_none() && !opened.ending.as_mut().unwrap().ended());
        assert_eq!(opened.descriptors().count(), 1);
        assert_eq!(in_proc(Path::new("/proc/17/ns/net")), Some(17));
        assert_eq!(in_proc(Path::new("/proc/self/ns/net")), None);
    }

    /// Its namespace can be opened, but no pidfd tells of its end.
    #[test]
    fn a_thread_whose_end_cannot_be_seen_is_told() {
        let open = || {
            let thread = rustix::thread::gettid().as_raw_nonzero().get();
            let path = format!("/proc/{thread}/ns/net").into();
            [NetChoice::Pid(thread), NetChoice::Path(path)]
                .map(|net| Target { net, user: None }.open().unwrap())
        };
        for opened in std::thread::spawn(open).join().unwrap() {
            assert!(opened.ending.is_none());
            let told = opened.warnings.first().expect("it is told");
            assert!(told.contains("will not be seen") && opened.warnings.len() == 1, "{told}");
        }
    }
}
