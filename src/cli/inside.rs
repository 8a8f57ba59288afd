//! `tapnat inside`: the helper of `attach` and `exec`. Not for persons, so it is not in the help.

use crate::io::guest::helper;
use std::ffi::OsString;
use std::process::ExitCode;

/// What the helper is started with.
#[derive(clap::Args, Debug)]
pub struct InsideArgs {
    /// The descriptor to talk through
    pub fd: i32,
    /// What to become in the end
    #[arg(last = true)]
    pub command: Vec<OsString>,
}

/// Is the helper.
pub fn run(args: &InsideArgs) -> ExitCode {
    helper::run(args.fd, &args.command)
}
