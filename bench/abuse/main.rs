//! `cargo bench --bench abuse`: what a flood of bad packets costs others.
//!
//! In a lab, the container red sends one TCP stream through the gateway without pause. Phases take
//! turns: nobody floods; blue floods a MAC that the bridge drops at once; blue floods the gateway, and
//! does so from a MAC of its own for each frame; blue sends as much to a host that nobody knows;
//! the internet floods the gateway. The second phase is what making and sending so many frames costs
//! on this machine, whoever receives them: the sender has its processor from the same few as the
//! gateway. What is reported is the median goodput of each phase, and its ratio to the first two.
//!
//! Before that, without any network: what one packet of each kind costs the gateway's core.

mod bad;
mod cost;
mod flood;

use clap::Parser;
use cost::{MAC, SENDER};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use std::{fs, io, thread};
use tapnat::io::netlink::Netlink;
use tapnat::io::sys::netns::{Netns, enter_private};
use tapnat::lab::netns::Lab;
use tapnat::lab::product::Product;
use tapnat::lab::programs::now;
use tapnat::lab::topology::{self, BRIDGE, INSIDE, SERVERS, UPLINK};
use tapnat::wire::ethernet::IPV4;
use tapnat::wire::{Frame, MacAddr};

/// Packets of each kind in the flood.
const VARIANTS: u16 = 500;
/// The gateway's TAP.
const TAP: &str = "tapnat0";

/// Measures what floods of bad packets cost others.
#[derive(Parser, Debug)]
#[command(name = "cargo bench --bench abuse --", version)]
struct Options {
    /// How many rounds of all phases
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long a phase lasts, in seconds
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Bad packets a second
    #[arg(long, default_value_t = 500_000.0)]
    rate: f64,
    /// Only what a packet costs the core
    #[arg(long)]
    core: bool,
    /// What Cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// Who floods whom.
const PHASES: [&str; 6] = [
    "nobody",
    "blue, nowhere",
    "blue, the gateway",
    "blue, from new MACs",
    "blue, astray",
    "internet, the gateway",
];
/// Nobody's.
const UNKNOWN: MacAddr = MacAddr([2, 0, 0, 0, 0x77, 0x77]);

fn main() -> std::process::ExitCode {
    if std::env::args().len() == 1 {
        // As `cargo test --all-targets` starts it: measuring a debug build says nothing.
        println!("abuse: run me with `cargo bench --bench abuse`");
        return std::process::ExitCode::SUCCESS;
    }
    let options = Options::parse();
    cost::lines().iter().for_each(|line| println!("{line}"));
    if options.core {
        return std::process::ExitCode::SUCCESS;
    }
    match run(&options) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("abuse: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> io::Result<()> {
    enter_private(!rustix::process::geteuid().is_root())?;
    let folder = tempfile::tempdir()?;
    let control = folder.path().join("control").display().to_string();
    let lab = Lab::build(&topology::standard(topology::Options::default()))?;
    let host = lab.host("host");
    let program = Path::new(env!("CARGO_BIN_EXE_tapnat"));
    let mac = MAC.to_string();
    let arguments = [
        "run",
        "--tap",
        TAP,
        "--bridge",
        BRIDGE,
        "--inside",
        INSIDE,
        "--outside",
        UPLINK,
        "--mac",
        &mac,
        "--control",
        &control,
    ];
    let _gateway = Product::start(program, host, &arguments, Duration::from_secs(10))?;
    let outside =
        host.run(|| Netlink::open()?.link(UPLINK)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound)))??;
    let host_mac = MacAddr(outside.mac);
    let inside = bad::mixed(&bad::INSIDE, VARIANTS);
    let floods = [
        // What is for who sent it does not leave the bridge.
        framed(&inside, SENDER, |_| SENDER),
        framed(&inside, MAC, |_| SENDER),
        framed(&inside, MAC, |number| {
            let [.., high, low] = number.to_be_bytes();
            MacAddr([2, 0, 0, 9, high, low])
        }),
        framed(&inside, UNKNOWN, |_| SENDER),
        framed(&bad::mixed(&bad::OUTSIDE, VARIANTS), host_mac, |_| SENDER),
    ];
    let (red, internet) = (lab.host("red"), lab.host("internet"));
    let blue = lab.host("blue");
    let senders = [blue, blue, blue, blue, internet];
    let phase = |number: usize, read: &AtomicU64| {
        let length = Duration::from_secs_f64(options.seconds);
        let (before, start) = (read.load(Relaxed), now());
        let sent = match number.checked_sub(1) {
            None => {
                thread::sleep(length);
                0
            }
            Some(which) => flood::flood(senders[which], &floods[which], options.rate, length)?,
        };
        let seconds = start.elapsed().as_secs_f64();
        io::Result::Ok(((read.load(Relaxed) - before) as f64 * 8e-9 / seconds, sent as f64 / seconds))
    };
    let mut results = vec![Vec::new(); PHASES.len()];
    let mut counted = vec![BTreeMap::new(); PHASES.len()];
    flood::beside_a_transfer(red, internet, SERVERS[0], |read| {
        thread::sleep(Duration::from_millis(500));
        for round in 0..options.rounds {
            eprintln!("round {} of {}", round + 1, options.rounds);
            for number in 0..PHASES.len() {
                let before = count(program, host, &control)?;
                results[number].push(phase(number, read)?);
                for (word, many) in count(program, host, &control)? {
                    *counted[number].entry(word.clone()).or_insert(0) +=
                        many - before.get(&word).copied().unwrap_or(0);
                }
                thread::sleep(Duration::from_millis(200));
            }
        }
        Ok(())
    })?;
    report(&results, &counted, options);
    Ok(())
}

fn framed(packets: &[Vec<u8>], destination: MacAddr, source: impl Fn(usize) -> MacAddr) -> Vec<Vec<u8>> {
    let header = |number| Frame { destination, source: source(number), ethertype: IPV4 }.to_bytes();
    let numbered = packets.iter().enumerate();
    numbered.map(|(number, packet)| [&header(number)[..], packet].concat()).collect()
}

/// What the gateway has dropped by word, and what its TAP has dropped because the queue was full or its sender floods.
fn count(program: &Path, host: &Netns, control: &str) -> io::Result<BTreeMap<String, u64>> {
    let mut command = Command::new(program);
    command.args(["stats", "--json", "--control", control]);
    host.confine(&mut command);
    let text = command.output()?.stdout;
    let stats: serde_json::Value = serde_json::from_slice(&text).map_err(io::Error::other)?;
    let dropped = stats.get("dropped").and_then(|dropped| dropped.as_object());
    let counts =
        dropped.into_iter().flatten().filter_map(|(word, many)| Some((word.clone(), many.as_u64()?)));
    let mut counts: BTreeMap<String, u64> = counts.collect();
    let devices = host.run(|| fs::read_to_string("/proc/thread-self/net/dev"))??;
    let tap = devices.lines().find_map(|line| line.trim().strip_prefix(TAP)?.strip_prefix(':'));
    // After eight columns of what was received: bytes, packets, errs, drop.
    let full = tap.and_then(|line| line.split_whitespace().nth(11)?.parse().ok());
    counts.insert("(queue of the TAP full, or a flooder's)".to_owned(), full.unwrap_or(0));
    Ok(counts)
}

fn report(results: &[Vec<(f64, f64)>], counted: &[BTreeMap<String, u64>], options: &Options) {
    let median = |values: &[(f64, f64)], of: fn(&(f64, f64)) -> f64| {
        let mut values: Vec<f64> = values.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let goodput: Vec<f64> = results.iter().map(|phase| median(phase, |sample| sample.0)).collect();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    println!(
        "\n{} rounds, {} s a phase, medians; {cores} processors, load average {}",
        options.rounds,
        options.seconds,
        load.split(' ').next().unwrap_or_default()
    );
    println!("{:22} {:>12} {:>9} {:>11} {:>12}", "flood", "packets/s", "Gbit/s", "to nobody", "to nowhere");
    for (number, phase) in PHASES.iter().enumerate() {
        let offered = median(&results[number], |sample| sample.1);
        println!(
            "{phase:22} {offered:>12.0} {:>9.2} {:>11.2} {:>12.2}",
            goodput[number],
            goodput[number] / goodput[0],
            goodput[number] / goodput[1]
        );
    }
    for (phase, counts) in PHASES.iter().zip(counted) {
        let shown: Vec<String> = counts
            .iter()
            .filter(|(_, many)| **many > 0)
            .map(|(word, many)| format!("{word} {many}"))
            .collect();
        println!("dropped while {phase}: {}", shown.join(", "));
    }
}
