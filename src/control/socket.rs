//! The control socket's file: private from its first moment, never stolen from a living gateway,
//! never left behind.

use rustix::fs::{FlockOperation, Mode, OFlags};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why there is no control socket: one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another gateway is there.
    #[error("control socket {0}: another gateway answers there; stop it, or give --name or --control")]
    InUse(PathBuf),
    /// Something else is there.
    #[error("control socket {0}: a file that is no socket is there; remove it, or give another --control")]
    Foreign(PathBuf),
    /// The kernel refuses.
    #[error("control socket {path}: {doing}: {error}; give a --control path that this user may write")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The kernel's word.
        error: io::Error,
    },
}

/// A listening socket; its file goes when this does.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode of the file, so that a successor's is left alone.
    identity: (u64, u64),
    listener: UnixListener,
}

impl SocketFile {
    /// Makes the socket, mode 0600, and its directory, mode 0700, if there is none. The socket of a
    /// gateway that has died is replaced.
    ///
    /// # Errors
    /// Somebody else is there, or the kernel refuses.
    pub fn bind(path: &Path) -> Result<SocketFile, SocketError> {
        let fail = |doing| move |error: io::Error| SocketError::Io { path: path.to_owned(), doing, error };
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        match fs::DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(fail("making its directory")(error));
            }
            _ => {}
        }
        // Two gateways that start together must not both find the same dead socket.
        let _turn = take_turn(directory).map_err(fail("locking its directory"))?;
        remove_dead(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(fail("making a socket"))?;
        // Linux gives the file the mode of the socket, so it is never open to others, not even
        // for a moment, and the process's umask stays as it is.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)
            .map_err(|error| fail("setting its mode")(error.into()))?;
        let address = SockAddr::unix(path).map_err(fail("its path"))?;
        socket.bind(&address).map_err(fail("binding"))?;
        let data = fs::symlink_metadata(path).map_err(fail("looking at it"))?;
        let listener = UnixListener::from(std::os::fd::OwnedFd::from(socket));
        let made = SocketFile { path: path.to_owned(), identity: (data.dev(), data.ino()), listener };
        if data.permissions().mode() & 0o077 != 0 {
            let open = io::Error::other("the file system opens it to other users");
            return Err(fail("setting its mode")(open));
        }
        rustix::net::listen(&made.listener, 16).map_err(|error| fail("listening")(error.into()))?;
        made.listener.set_nonblocking(true).map_err(fail("listening"))?;
        Ok(made)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where clients come in; never blocks.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|data| (data.dev(), data.ino()) == self.identity) {
            // Nobody is left to tell if it does not go; the next gateway replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Locks a directory against other gateways for as long as the result lives.
fn take_turn(directory: &Path) -> io::Result<std::os::fd::OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let handle = rustix::fs::open(directory, flags, Mode::empty())?;
    let mut tries = 100;
    loop {
        match rustix::fs::flock(&handle, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) if tries > 0 => {
                tries -= 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error.into()),
            Ok(()) => return Ok(handle),
        }
    }
}

/// Removes a socket at which nobody answers.
fn remove_dead(path: &Path) -> Result<(), SocketError> {
    let fail = |doing| move |error: io::Error| SocketError::Io { path: path.to_owned(), doing, error };
    let data = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(fail("looking at it"))?,
    };
    if !data.file_type().is_socket() {
        return Err(SocketError::Foreign(path.to_owned()));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(fail("making a socket"))?;
    probe.set_nonblocking(true).map_err(fail("making a socket"))?;
    let address = SockAddr::unix(path).map_err(fail("its path"))?;
    match probe.connect(&address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(fail("removing that of a dead gateway"))
        }
        // EAGAIN is a living one with a full queue.
        Ok(()) => Err(SocketError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(SocketError::InUse(path.to_owned())),
        Err(error) => Err(fail("asking whether somebody is there")(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_private_replaced_when_dead_and_removed() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("new/gw.sock");
        let made = SocketFile::bind(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert!(matches!(SocketFile::bind(&path), Err(SocketError::InUse(_))));
        drop(made);
        assert!(!path.exists());

        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a plain listener leaves its file, as a killed gateway does");
        let again = SocketFile::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let successor = SocketFile::bind(&path).unwrap();
        drop(again);
        assert!(path.exists(), "the successor's file stays");
        drop(successor);

        fs::write(&path, "mine").unwrap();
        assert!(matches!(SocketFile::bind(&path), Err(SocketError::Foreign(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
