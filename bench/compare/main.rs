//! `cargo bench --bench compare`: tapnat beside the kernel's MASQUERADE, slirp4netns and pasta.
//!
//! Each contender gets a lab of its own, all of them wired alike: a container, a host, and an
//! internet with a server. In every round all contenders are set up afresh, and then each load runs
//! on one after the other (A B C D, A B C D, ...), the next round starting with the next contender.
//! So a noisy machine is noisy to all alike; what is reported is the median of the rounds, and the
//! ratio of medians. The load generators are the same for all: threads of this process inside the
//! namespaces, bounded in time and count. Contenders that wait for their turn sleep in the kernel.
//!
//! Nothing leaves the namespaces, and nothing is left of them when this process ends.

mod bare;
mod conditions;
mod contender;
mod load;
mod metric;
mod plot;
mod report;

use clap::Parser;
use conditions::{Conditions, busy_during};
use contender::{Contender, Kind};
use load::Load;
use report::{Column, Results};
use std::path::Path;
use std::time::Duration;
use std::{fs, io, thread};
use tapnat::io::sys::netns::enter_private;

/// How long the machine may calm down after contenders came or went.
const CALM: Duration = Duration::from_millis(300);
/// How long the machine is watched for what else it does.
const NOISE: Duration = Duration::from_millis(500);
/// How long it may calm down after a load.
const PAUSE: Duration = Duration::from_millis(60);

/// Compares tapnat with the kernel's MASQUERADE, slirp4netns and pasta.
#[derive(Parser, Debug)]
#[command(name = "cargo bench --bench compare --", version)]
struct Options {
    /// Three rounds of a third of a second: a first impression within a minute
    #[arg(long)]
    quick: bool,
    /// How many rounds
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// How long each load lasts, in seconds
    #[arg(long)]
    seconds: Option<f64>,
    /// Who takes part, in this order
    #[arg(long, value_delimiter = ',', default_value = "kernel,tapnat,slirp4netns,pasta")]
    only: Vec<Kind>,
    /// Which loads run; all of those whose name starts so
    #[arg(long, value_delimiter = ',')]
    load: Vec<String>,
    /// The MTU of every wire, in bytes
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(576..=65520))]
    mtu: u32,
    /// Writes docs/performance.md, .svg and .json
    #[arg(long)]
    write: bool,
    /// What Cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> std::process::ExitCode {
    if std::env::args().len() == 1 {
        // As `cargo test --all-targets` starts it: measuring a debug build says nothing.
        println!("compare: run me with `cargo bench --bench compare`");
        return std::process::ExitCode::SUCCESS;
    }
    match run(&Options::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> io::Result<()> {
    let rounds = options.rounds.unwrap_or(if options.quick { 3 } else { 5 });
    let seconds = options.seconds.unwrap_or(if options.quick { 0.3 } else { 1.5 });
    if !(0.05..=60.0).contains(&seconds) {
        return Err(io::Error::other("--seconds must be between 0.05 and 60"));
    }
    let loads = chosen(&options.load)?;
    let root = rustix::process::geteuid().is_root();
    enter_private(!root)?;
    let conditions = Conditions::gather(rounds, seconds, options.mtu, root);
    let columns = options.only.iter().map(|kind| Column::new(kind.name(), kind.version())).collect();
    let mut results = Results::new(conditions, columns);
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        self::round(options, round, &loads, Duration::from_secs_f64(seconds), &mut results)?;
        thread::sleep(CALM);
    }
    let table = report::markdown(&results);
    println!("{table}");
    if options.write {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
        fs::write(docs.join("performance.md"), report::page(&results, &table))?;
        fs::write(docs.join("performance.svg"), plot::draw(&results))?;
        fs::write(docs.join("performance.json"), report::json(&results)?)?;
        println!("written: docs/performance.md, docs/performance.svg, docs/performance.json");
    }
    Ok(())
}

fn chosen(names: &[String]) -> io::Result<Vec<Load>> {
    let wanted = |load: &Load| names.is_empty() || names.iter().any(|name| load.name().starts_with(name));
    let loads: Vec<Load> = Load::ALL.into_iter().filter(wanted).collect();
    if loads.is_empty() {
        let all = Load::ALL.map(|load| load.name()).join(", ");
        return Err(io::Error::other(format!("no load is called so; there are {all}")));
    }
    Ok(loads)
}

/// Sets everybody up, runs every load on each in turn, and takes everything down.
fn round(
    options: &Options,
    round: u32,
    loads: &[Load],
    length: Duration,
    results: &mut Results,
) -> io::Result<()> {
    let mut present: Vec<(usize, Contender)> = Vec::new();
    for (column, &kind) in options.only.iter().enumerate() {
        match Contender::start(kind, options.mtu) {
            Ok(contender) => present.push((column, contender)),
            Err(error) => results.absent(column, &error),
        }
    }
    if present.is_empty() {
        return Err(io::Error::other("not one contender could be set up"));
    }
    let first = round as usize % present.len();
    present.rotate_left(first);
    thread::sleep(CALM);
    results.noise.push(busy_during(NOISE));
    for (column, contender) in &present {
        if let Some(said) = contender.said() {
            results.says(*column, said);
        }
        results.memory(*column, metric::Metric::MemoryAtStart, contender.resident());
    }
    for load in loads {
        for (column, contender) in &present {
            match load.run(&contender.place(), length) {
                Ok(figures) => results.add(*column, &figures),
                Err(error) => results.failed(*column, load.name(), &error),
            }
            thread::sleep(PAUSE);
        }
        present.retain_mut(|(column, contender)| match contender.gone() {
            Some(how) => {
                results.died(*column, load.name(), &how);
                false
            }
            None => true,
        });
    }
    for (column, contender) in &present {
        results.memory(*column, metric::Metric::MemoryAfter, contender.resident());
    }
    Ok(())
}
