//! Going to the background as C's daemons do, for callers that wait for it: the first process ends well
//! once the second one says that packets can flow, or else as that one ended.
//!
//! ```text
//!   caller ── pasta ARGS ── /proc/self/exe --background=FD ARGS: the gateway
//!                │  waits for one byte at FD       │  starts up, says what is wrong on standard error
//!   exit 0  ◀────┘ ◀────────────── "1" ────────────┘  standard streams to /dev/null
//! ```

use crate::io::sys::fd;
use crate::io::sys::netns::inherit;
use anyhow::Context;
use rustix::fs::{Mode, OFlags};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// What the first word of the second process begins with. No option of a face does.
const WORD: &str = "--background=";

/// The second process's end.
#[derive(Debug)]
pub struct Background {
    tell: File,
    nothing: OwnedFd,
}

/// Starts this program again, as `face` with `args`, and waits until it is ready or has ended; gives the
/// exit code for the first process.
///
/// # Errors
/// It cannot be started.
pub fn start(face: &str, args: &[OsString]) -> io::Result<ExitCode> {
    // The caller's locks and pipes are not to live as long as the gateway.
    fd::keep_all();
    let (mut ready, tell) = io::pipe()?;
    let mut program = Command::new("/proc/self/exe");
    program.arg0(face).arg(format!("{WORD}{}", tell.as_raw_fd())).args(args);
    inherit(&mut program, tell.into());
    let mut child = program.spawn()?;
    // It holds the other end, without which this one would never see the child's end.
    drop(program);
    if ready.read(&mut [0])? == 1 {
        return Ok(ExitCode::SUCCESS);
    }
    let code = child.wait()?.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1).max(1)))
}

impl Background {
    /// What a second process was started with, and its arguments; `None` in a first one.
    ///
    /// # Errors
    /// The word is there, and nobody waits behind it.
    pub fn of(args: &[OsString]) -> io::Result<Option<(Background, &[OsString])>> {
        let Some((word, rest)) = args.split_first() else { return Ok(None) };
        let Some(number) = word.as_bytes().strip_prefix(WORD.as_bytes()) else { return Ok(None) };
        let number = OsStr::from_bytes(number).to_str().and_then(|text| text.parse().ok());
        let number = number.ok_or(io::ErrorKind::InvalidInput)?;
        fd::keep(number)?;
        let tell = File::from(fd::adopt(number)?);
        let nothing = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        // Of the caller's terminal nothing may end the gateway, nor keep a file system busy.
        let _ = rustix::process::setsid();
        Ok(Some((Background { tell, nothing }, rest)))
    }

    /// Tells the first process, after which nobody hears what this one says.
    ///
    /// # Errors
    /// The first process has gone; the kernel's word.
    pub fn ready(mut self) -> anyhow::Result<()> {
        rustix::stdio::dup2_stdin(&self.nothing).context("standard input")?;
        rustix::stdio::dup2_stdout(&self.nothing).context("standard output")?;
        rustix::stdio::dup2_stderr(&self.nothing).context("standard error")?;
        self.tell.write_all(b"1").context("telling who called")
    }
}
