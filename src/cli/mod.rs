//! The verbs a person types: one file each.
//!
//! A verb gives back `anyhow::Result`; [`main`] alone turns errors into one line and an exit code:
//! 0 done, 1 it failed, 2 wrong usage.

pub mod args;
pub mod attach;
pub mod conntrack;
pub mod demo;
pub mod doctor;
pub mod events;
pub mod exec;
pub mod faces;
pub mod flows;
pub mod flush;
pub mod guest;
pub mod handed;
pub mod inside;
pub mod lookup;
pub mod packet;
pub mod publish;
pub mod reload;
pub mod run;
pub mod selftest;
pub mod stats;
pub mod text;

use crate::config::ConfigError;
use crate::runtime::said::said;
use clap::{Parser, Subcommand};
use std::io::{self, Write};
use std::process::ExitCode;

/// A NAT gateway wholly in user space: a TAP device in front of containers, a packet or raw socket
/// behind, no netfilter rule and no IP forwarding between.
#[derive(Parser, Debug)]
#[command(name = "tapnat", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  tapnat demo                                      see it at work, with nothing to set up
  tapnat exec -- curl http://example.org           run a command behind a gateway of its own
  tapnat doctor                                    what this host allows
  tapnat selftest --against kernel                 which demands of the RFCs are met, side by side
  tapnat run --bridge br0 --inside 10.88.0.1/24    be the gateway of the containers on br0
  tapnat flows --watch                             who talks to whom, live
  tapnat publish add 8080:10.88.0.2:80/tcp         let the world in to one of them";

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Be the gateway until SIGINT or SIGTERM
    Run(Box<run::RunArgs>),
    /// Put the gateway in front of a network namespace that exists
    Attach(Box<attach::AttachArgs>),
    /// Run a command in namespaces of its own behind the gateway
    Exec(Box<exec::ExecArgs>),
    /// What `attach` and `exec` start in the namespace
    #[command(hide = true)]
    Inside(inside::InsideArgs),
    /// Two containers, a bridge and an internet, built, shown at work and taken down; no root needed
    Demo(demo::Demo),
    /// The translation table of a running gateway
    Flows(flows::FlowsArgs),
    /// What happens in a running gateway, as it happens
    Events(events::EventsArgs),
    /// Counters of a running gateway, every drop by its reason
    Stats(stats::StatsArgs),
    /// Forget flows of a running gateway
    Flush(flush::FlushArgs),
    /// Port forwards of a running gateway
    Publish(publish::PublishArgs),
    /// The NAT behaviour report: every demand of the RFCs put to this gateway, or to the kernel beside it
    Selftest(selftest::SelftestArgs),
    /// Who has an outside port, or which outside ports an inside host has
    Lookup(lookup::LookupArgs),
    /// Have a running gateway read its settings again
    Reload(reload::ReloadArgs),
    /// What this host allows, what is missing, and the command that mends it
    Doctor(doctor::DoctorArgs),
}

/// Reads the command line, does what it says, and gives the exit code.
pub fn main() -> ExitCode {
    let mut words = std::env::args_os();
    if let Some((face, rest)) = faces::called(words.next(), words.collect()) {
        return face.run(&rest);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come here too, for standard output; a closed pipe is no failure.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match dispatch(cli.verb) {
        Ok(code) => code,
        Err(error) if reader_left(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let usage = error.downcast_ref::<ConfigError>().is_some_and(|error| error.usage);
            let line = said(&error).split('\n').map(str::trim).collect::<Vec<_>>().join(" ");
            let _ = writeln!(io::stderr(), "tapnat: {line}");
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

fn dispatch(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Exec(args) => return exec::run(&args),
        Verb::Inside(args) => return Ok(inside::run(&args)),
        Verb::Run(args) => run::run(&args),
        Verb::Attach(args) => attach::run(args),
        Verb::Demo(args) => args.run(),
        Verb::Flows(args) => flows::run(&args),
        Verb::Events(args) => events::run(&args),
        Verb::Stats(args) => stats::run(&args),
        Verb::Flush(args) => flush::run(&args),
        Verb::Publish(args) => publish::run(&args),
        Verb::Selftest(args) => selftest::run(&args),
        Verb::Lookup(args) => lookup::run(&args),
        Verb::Reload(args) => reload::run(&args),
        Verb::Doctor(args) => doctor::run(&args),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// Whether the reader of our output has seen enough (`tapnat flows | head`).
fn reader_left(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
