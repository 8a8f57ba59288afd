//! The command lines of other programs: called by the name of one of them, or with it as first
//! argument, tapnat reads that program's options, does what it would do, and ends as it would.
//!
//! ```text
//!   slirp4netns           a network namespace that exists; port forwards through a JSON socket
//!   pasta                 the same, or a command in namespaces of its own; the host's own addresses inside
//!   pesto                 changes the port forwards of a running pasta
//!   passt                 refused, with what to use instead
//! ```
//!
//! A program has a file that turns its command line into plain data, and one that turns the data into the
//! settings of a gateway. The uplink is always `sockets`: these programs open ordinary sockets, and who
//! calls them relies on that.

pub mod background;
pub mod forwards;
pub mod getopt;
pub mod log_file;
pub mod pasta;
pub mod pasta_board;
pub mod pasta_live;
pub mod pasta_net;
pub mod pasta_ports;
pub mod pasta_run;
pub mod pesto;
pub mod pesto_wire;
pub mod slirp4netns;
pub mod slirp_api;
pub mod slirp_run;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

/// A program that tapnat can be called as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Face {
    /// `slirp4netns`.
    Slirp4netns,
    /// `pasta`.
    Pasta,
    /// `pesto`.
    Pesto,
    /// One that tapnat cannot stand in for: its name, and what to do.
    Refused(&'static str, &'static str),
}

const NAMES: [(&str, Face); 4] = [
    ("slirp4netns", Face::Slirp4netns),
    ("pasta", Face::Pasta),
    ("pesto", Face::Pesto),
    (
        "passt",
        Face::Refused(
            "passt",
            "tapnat serves network namespaces, not virtual machines through a socket; give such a machine a \
             TAP, and run `tapnat run --tap NAME`",
        ),
    ),
];

impl Face {
    fn of(name: &OsStr) -> Option<Face> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, face)| *face)
    }

    /// Is that program; its exit code.
    pub fn run(self, args: &[OsString]) -> ExitCode {
        match self {
            Face::Slirp4netns => slirp_run::main(args),
            Face::Pasta => pasta_run::main(args),
            Face::Pesto => pesto::main(args),
            Face::Refused(name, cure) => {
                say_error(&format!("{name}: {cure}"));
                ExitCode::FAILURE
            }
        }
    }
}

/// Which program is meant, and its arguments: by the name that this one was called by, or by its first
/// argument.
pub fn called(program: Option<OsString>, mut args: Vec<OsString>) -> Option<(Face, Vec<OsString>)> {
    let name = program.as_deref().map(Path::new).and_then(Path::file_name);
    if let Some(face) = name.and_then(Face::of) {
        return Some((face, args));
    }
    let face = Face::of(args.first()?)?;
    args.remove(0);
    Some((face, args))
}

/// Removes the control sockets, beside `ours`, of gateways of a face that were killed: some callers know no
/// other end, and each gateway has a name of its own.
fn sweep(ours: &Path, face: &str) {
    let entries = ours.parent().map(fs::read_dir).into_iter().flatten().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let pid =
            name.to_str().and_then(|name| name.strip_prefix(face)?.strip_prefix('-')?.strip_suffix(".sock"));
        let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok()) else { continue };
        // One of another PID namespace answers; one that is only starting has its process.
        let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        if !runs(pid) && UnixStream::connect(entry.path()).is_err_and(refused) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether there is such a process, and not only what is left of it until somebody asks how it ended.
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
}

/// A line on standard error; nothing can be done if that is closed.
fn say_error(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Text on standard output.
fn say(text: &str) {
    let _ = write!(io::stdout(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_or_a_first_word_chooses() {
        let called = |line: &str| {
            let mut words = line.split(' ').map(OsString::from);
            called(words.next(), words.collect()).map(|(face, rest)| (face, rest.len()))
        };
        assert_eq!(called("/opt/compat/slirp4netns -c 42 tap0"), Some((Face::Slirp4netns, 3)));
        assert_eq!(called("tapnat slirp4netns -c 42 tap0"), Some((Face::Slirp4netns, 3)));
        assert!(matches!(called("passt"), Some((Face::Refused("passt", _), 0))));
        assert_eq!(called("tapnat pasta --version"), Some((Face::Pasta, 1)));
        assert_eq!(called("tapnat run slirp4netns"), None);
        assert_eq!(called("slirp4netns.bak -c"), None);
    }
}
