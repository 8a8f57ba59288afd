//! `tapnat attach` and `tapnat exec`: the gateway in front of namespaces that others made, and of
//! commands in namespaces of their own; what is served, what ends when, and what is told.
//!
//! Runs where `netns` runs. Where it cannot run, it says why and skips; with `CI` set, skipping is
//! failing.
#![allow(clippy::unwrap_used)]

#[path = "support/attach_exec.rs"]
mod attach_exec;
#[path = "support/attach_guest.rs"]
mod attach_guest;
#[path = "support/attach_many.rs"]
mod attach_many;
#[path = "support/attach_rig.rs"]
mod attach_rig;
#[path = "support/attach_rootless.rs"]
mod attach_rootless;
#[path = "support/lab_harness.rs"]
mod lab_harness;
#[allow(dead_code, reason = "these tests start the gateway in their own way")]
#[path = "support/lab_setup.rs"]
mod lab_setup;

use lab_harness::Test;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

fn tests() -> Vec<Test> {
    let test =
        |(name, run): (&str, fn())| Test { name: name.to_owned(), run: Box::new(run), impossible: None };
    let terminal = |(name, run): (&str, fn())| {
        let impossible = attach_exec::without_a_terminal();
        Test { name: name.to_owned(), run: Box::new(run), impossible }
    };
    let mut all: Vec<Test> = attach_guest::TESTS.into_iter().map(test).collect();
    all.extend(attach_many::TESTS.into_iter().map(test));
    all.extend(attach_exec::TESTS.into_iter().map(test));
    let rootless = attach_rootless::TESTS.into_iter().map(|(name, run)| Test {
        name: format!("rootless/{name}"),
        run: Box::new(run),
        impossible: attach_rootless::impossible(),
    });
    all.extend(rootless);
    all.extend(attach_exec::ON_A_TERMINAL.into_iter().map(terminal));
    all
}

fn main() -> ExitCode {
    // As a command behind the gateway, this program is a client that needs no other program.
    match std::env::args().nth(1).as_deref() {
        Some("fetch") => attach_rig::fetch(),
        Some("serve") => attach_rig::serve(),
        Some("resolve") => attach_rig::resolve(),
        _ => {
            with_default_signals();
            lab_harness::main(tests)
        }
    }
}

/// Starts this program anew if keys of the terminal are ignored, as they are behind `nohup` and a
/// shell's `&`: the commands of these tests would inherit that, and never end of them.
fn with_default_signals() {
    const DONE: &str = "TAPNAT_TEST_SIGNALS";
    let reset = "--default-signal=HUP,INT,QUIT";
    let knows = Command::new("env").args([reset, "true"]).status().is_ok_and(|status| status.success());
    if std::env::var_os(DONE).is_some() || !knows {
        return;
    }
    let mut again = Command::new("env");
    again.arg(reset).arg(format!("{DONE}=default")).arg(std::env::current_exe().unwrap());
    panic!("{}", again.args(std::env::args_os().skip(1)).exec());
}
