//! `tapnat-raw`: opens the packet socket that its user may not open, and becomes tapnat with it.
//!
//! ```text
//! tapnat-raw eth0 run --tap tapnat0 --inside 10.88.0.1/24
//!     socket(AF_PACKET)          the only thing that needs CAP_NET_RAW
//!     no capability, no way to get one
//!     bound to eth0, where it receives nothing yet
//!     execve("tapnat", run --raw-fd 3 --tap tapnat0 --inside 10.88.0.1/24)
//! ```
//!
//! A file capability makes it powerful for everybody who may run it, so it does as little as possible. It
//! has no options, reads no file and no variable, and starts nothing but the `tapnat` beside
//! it, if nobody but the owner of both could have put that there. The loader's variables do
//! not reach tapnat, which has no file capability of its own to make the loader careful.

use rustix::fs::{Mode, OFlags, fstat, open, openat};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities,
    set_no_new_privs,
};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use tapnat::io::sys::packet::{LinkAddress, hardware_type};

const USAGE: &str = "usage: tapnat-raw IFACE run|attach|exec ..., the rest as for tapnat";

/// What tapnat may be asked to do with the socket.
const VERBS: [&str; 3] = ["run", "attach", "exec"];

/// Variables that change what a program loads or where its library looks, as the C library knows them
/// (glibc, sysdeps/generic/unsecvars.h); those that begin with `LD_` besides.
const UNSAFE: [&str; 13] = [
    "GCONV_PATH",
    "GETCONF_DIR",
    "GLIBC_TUNABLES",
    "HOSTALIASES",
    "LOCALDOMAIN",
    "LOCPATH",
    "MALLOC_TRACE",
    "NIS_PATH",
    "NLSPATH",
    "RESOLV_HOST_CONF",
    "RES_OPTIONS",
    "TMPDIR",
    "TZDIR",
];

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [interface, verb, rest @ ..] = words.as_slice() else { return refuse(2, USAGE) };
    if !VERBS.iter().any(|known| verb == known) {
        return refuse(2, USAGE);
    }
    match become_tapnat(interface, verb, rest) {
        Ok(never) => match never {},
        Err(why) => refuse(1, &why),
    }
}

fn refuse(code: u8, why: &str) -> ExitCode {
    eprintln!("tapnat-raw: {why}");
    ExitCode::from(code)
}

/// The type of what does not come back.
enum Never {}

fn become_tapnat(interface: &OsStr, verb: &OsStr, rest: &[OsString]) -> Result<Never, String> {
    let (program, path) = beside()?;
    let socket = packet_socket(interface)?;
    let failed = |error: rustix::io::Errno| format!("descriptors: {error}");
    // Whoever closed standard input has it as number 0, which tapnat does not take.
    let socket = fcntl_dupfd_cloexec(&socket, 3).map_err(failed)?;
    fcntl_setfd(&socket, FdFlags::empty()).map_err(failed)?;
    let number = socket.as_raw_fd().to_string();

    // What was looked at is started, whatever has its name meanwhile.
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.arg0("tapnat").arg(verb).args(["--raw-fd", &number]).args(rest);
    for (name, _) in std::env::vars_os() {
        if name.as_bytes().starts_with(b"LD_") || UNSAFE.iter().any(|odd| name == *odd) {
            command.env_remove(name);
        }
    }
    Err(format!("{}: {}", path.display(), command.exec()))
}

/// The `tapnat` in the directory of this program, open; and its path.
fn beside() -> Result<(OwnedFd, PathBuf), String> {
    let own = std::fs::read_link("/proc/self/exe").map_err(|error| format!("/proc/self/exe: {error}"))?;
    let folder = own.parent().unwrap_or(Path::new("/"));
    let path = folder.join("tapnat");
    let look = |path: &Path, flags| open(path, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    let failed =
        |path: &Path, error| format!("{}: {error}; install tapnat and tapnat-raw together", path.display());
    let owner = look(&own, OFlags::PATH).and_then(fstat).map_err(|error| failed(&own, error))?.st_uid;
    let directory = look(folder, OFlags::PATH | OFlags::DIRECTORY).map_err(|error| failed(folder, error))?;
    let program =
        openat(&directory, "tapnat", OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| failed(&path, error))?;
    for (fd, what) in [(&directory, folder), (&program, &*path)] {
        let stat = fstat(fd).map_err(|error| failed(what, error))?;
        if stat.st_uid != owner || stat.st_mode & 0o022 != 0 {
            return Err(format!(
                "{}: others than the owner of {} may write to it: give it that owner, and take the rest the right to write",
                what.display(),
                own.display()
            ));
        }
    }
    Ok((program, path))
}

/// A packet socket, bound to an Ethernet interface; this process has no capability after that.
fn packet_socket(interface: &OsStr) -> Result<OwnedFd, String> {
    let shown = interface.display();
    let name =
        interface.to_str().filter(|name| (1..16).contains(&name.len()) && !name.contains(['/', ':', '%']));
    let name = name.ok_or_else(|| format!("`{shown}` is no interface name"))?;
    // Of no protocol: it receives nothing until tapnat has filtered it.
    let opened = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None);
    give_up_capabilities().map_err(|error| format!("giving up capabilities: {error}"))?;
    let socket = opened.map_err(|error| match error {
        rustix::io::Errno::PERM => {
            "packet socket: not permitted: `sudo setcap cap_net_raw=ep` on this program, \
             on a file system that is not mounted nosuid"
                .to_owned()
        }
        other => format!("packet socket: {other}"),
    })?;
    let index =
        name_to_index(&socket, name).map_err(|error| format!("interface {shown}: {error}: see `ip link`"))?;
    bind(&socket, &LinkAddress::new(index, 0)).map_err(|error| format!("interface {shown}: {error}"))?;
    match hardware_type(&socket) {
        Ok(libc::ARPHRD_ETHER) => Ok(socket),
        Ok(_) => Err(format!("interface {shown} is not Ethernet: tapnat-raw has nothing for it")),
        Err(error) => Err(format!("interface {shown}: {error}")),
    }
}

/// Gives up all capabilities, and the ways to get new ones by starting programs.
fn give_up_capabilities() -> io::Result<()> {
    set_no_new_privs(true)?;
    // Kernels before 4.3 have no ambient set, and nothing to clear.
    let _ = clear_ambient_capability_set();
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    let left = capabilities(None)?;
    match (left.permitted | left.effective | left.inheritable).is_empty() {
        true => Ok(()),
        false => Err(io::Error::other("some are left")),
    }
}
