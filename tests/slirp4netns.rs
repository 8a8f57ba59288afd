//! Called as `slirp4netns`, the binary does what that program's own test scripts check, for a user
//! without any capability: command line, descriptors, exit codes, the API socket, and traffic.
//!
//! Runs as root, since it becomes somebody else; wants `udhcpc`. Where it cannot run, it says why and
//! skips; with `CI` set, skipping is failing.
#![allow(clippy::unwrap_used)]

#[path = "support/lab_harness.rs"]
mod lab_harness;
#[allow(dead_code, reason = "these tests start the gateway in their own way")]
#[path = "support/lab_setup.rs"]
mod lab_setup;
#[path = "support/slirp_rig.rs"]
mod slirp_rig;
#[path = "support/slirp_scripts.rs"]
mod slirp_scripts;

use lab_harness::Test;
use std::process::{Command, ExitCode};

fn tests() -> Vec<Test> {
    let impossible = slirp_rig::impossible();
    let no_client = Command::new("udhcpc").arg("--help").output().err();
    let no_client = no_client.map(|error| format!("udhcpc: {error}"));
    let test = |(name, run): (&str, fn())| {
        let missing = no_client.clone().filter(|_| name.starts_with("dhcp"));
        Test { name: name.to_owned(), run: Box::new(run), impossible: impossible.clone().or(missing) }
    };
    slirp_scripts::TESTS.into_iter().map(test).collect()
}

fn main() -> ExitCode {
    lab_harness::main(tests)
}
