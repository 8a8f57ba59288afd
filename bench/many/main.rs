//! `cargo bench --bench many`: the uplink `sockets`, of a user without any capability, under many
//! connections at once and with long transfers.
//!
//! Each measurement has a gateway of its own: `tapnat exec` as user 65534, in front of this program
//! as the client. The server is in the lab's internet. What is measured: how evenly connections at
//! full speed share it, how much memory many of them take, and whether long transfers arrive whole.
//!
//! Nothing leaves the namespaces, and nothing is left of them when this process ends.

mod client;
mod crowd;
mod place;
mod transfer;

use clap::{Parser, ValueEnum};
use crowd::{Job, Watched};
use place::{Gateway, Place, Said};
use std::net::TcpListener;
use std::process::ExitCode;
use std::time::Duration;
use std::{io, thread};
use tapnat::io::sys::netns::enter_private;

/// The most that one connection may get of what another gets.
const FAIR: f64 = 2.0;
/// The most memory that the gateway may take, in MiB.
const MEMORY: f64 = 100.0;
/// How long all connections together may take to come about.
const CONNECT: Duration = Duration::from_secs(20);

/// Measures the uplink `sockets`, without privileges, with many connections and long transfers.
#[derive(Parser, Debug)]
#[command(name = "cargo bench --bench many --", version)]
struct Options {
    /// Which measurements
    #[arg(long, value_delimiter = ',', default_value = "up,down,memory,transfer")]
    only: Vec<What>,
    /// How many connections share the gateway at full speed
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    connections: u32,
    /// How many connections are held open for the memory that they take
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    held: u32,
    /// How long the shares are measured, in seconds
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How much is transferred each way, in GiB
    #[arg(long, default_value_t = 1.0)]
    gib: f64,
    /// How often each is measured
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// The MTU of every wire, in bytes
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(1280..=65520))]
    mtu: u32,
    /// What Cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// A measurement.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum What {
    /// Uploads at full speed: what the quickest gets of what the slowest gets
    Up,
    /// Downloads at full speed, likewise
    Down,
    /// Connections that are held open, after some bytes to and fro on each: resident memory
    Memory,
    /// A long transfer each way, compared by SHA-256
    Transfer,
}

/// One line of the table.
struct Row {
    what: String,
    figure: String,
    kept: Option<bool>,
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    match words.next().as_deref() {
        None => {
            // As `cargo test --all-targets` starts it: measuring a debug build says nothing.
            println!("many: run me with `cargo bench --bench many`");
            return ExitCode::SUCCESS;
        }
        Some(client::WORD) => return client::main(words),
        Some(_) => {}
    }
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("many: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every transfer arrived whole; other goals depend on the machine.
fn run(options: &Options) -> io::Result<bool> {
    if !(0.1..=600.0).contains(&options.seconds) || !(0.001..=1024.0).contains(&options.gib) {
        return Err(io::Error::other("--seconds must be between 0.1 and 600, --gib between 0.001 and 1024"));
    }
    let root = rustix::process::geteuid().is_root();
    enter_private(!root)?;
    crowd::more_descriptors();
    let place = Place::new(options.mtu, root)?;
    let mut rows = Vec::new();
    for round in 0..options.rounds {
        for what in &options.only {
            let name = what.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
            eprintln!("round {} of {}: {name}", round + 1, options.rounds);
            match what {
                What::Up => rows.extend(up(options, &place)?),
                What::Down => rows.extend(down(options, &place)?),
                What::Memory => rows.extend(memory(options, &place)?),
                What::Transfer => rows.extend(transfer(options, &place)?),
            }
        }
    }
    println!("| MTU {} | figure | goal |\n|---|---:|---|", options.mtu);
    for Row { what, figure, kept } in &rows {
        let kept = kept.map_or("", |kept| if kept { "kept" } else { "missed" });
        println!("| {what} | {figure} | {kept} |");
    }
    if let Some(who) = place.who() {
        println!("\nThe gateway was {who}.");
    }
    Ok(rows.iter().all(|row| !row.what.contains("SHA-256") || row.kept == Some(true)))
}

/// Uploads: the server counts.
fn up(options: &Options, place: &Place) -> io::Result<Vec<Row>> {
    let listener = place.listen()?;
    let gateway = place.start(&[
        "up".to_owned(),
        listener.local_addr()?.to_string(),
        options.connections.to_string(),
    ])?;
    let streams = accept(&listener, options.connections, &gateway)?;
    let mut memory = Err(io::ErrorKind::NotFound.into());
    let length = Duration::from_secs_f64(options.seconds);
    let bytes = Watched::new(streams, Job::Read).during(length, || memory = place.resident(&gateway))?;
    // The server's end is gone, which ends the client.
    gateway.end()?;
    Ok(shares("uploads", options, &bytes, memory?))
}

/// Downloads: the client counts.
fn down(options: &Options, place: &Place) -> io::Result<Vec<Row>> {
    let listener = place.listen()?;
    let gateway = place.start(&[
        "down".to_owned(),
        listener.local_addr()?.to_string(),
        options.connections.to_string(),
        options.seconds.to_string(),
    ])?;
    let streams = accept(&listener, options.connections, &gateway)?;
    let watched = Watched::new(streams, Job::Write);
    let mut memory = Err(io::ErrorKind::NotFound.into());
    watched.until_closed(|| {
        // The client's time ends a little later.
        thread::sleep(Duration::from_secs_f64(options.seconds * 0.9));
        memory = place.resident(&gateway);
    })?;
    let said: Said = gateway.end()?;
    Ok(shares("downloads", options, &said.bytes, memory?))
}

/// Many connections, a few bytes on each.
fn memory(options: &Options, place: &Place) -> io::Result<Vec<Row>> {
    let listener = place.listen()?;
    let gateway =
        place.start(&["hold".to_owned(), listener.local_addr()?.to_string(), options.held.to_string()])?;
    let streams = accept(&listener, options.held, &gateway)?;
    let mut peak = None;
    // The client says a line when all have been answered, and waits then.
    Watched::new(streams, Job::Echo).until_closed(|| {
        if gateway.wait_for_line().is_ok() {
            peak = place.resident(&gateway).ok();
        }
        gateway.let_go();
    })?;
    gateway.end()?;
    let (resident, peak) = peak.ok_or_else(|| io::Error::other("the client did not come to its end"))?;
    Ok(vec![Row {
        what: format!("{} connections, resident memory at most (then), MiB", options.held),
        figure: format!("{peak:.1} ({resident:.1})"),
        kept: Some(peak < MEMORY),
    }])
}

fn transfer(options: &Options, place: &Place) -> io::Result<Vec<Row>> {
    let length = (options.gib * f64::from(1 << 30)) as u64;
    let mut rows = Vec::new();
    for direction in ["put", "get"] {
        let listener = place.listen()?;
        let gateway =
            place.start(&[direction.to_owned(), listener.local_addr()?.to_string(), length.to_string()])?;
        let mut stream = accept(&listener, 1, &gateway)?.remove(0);
        let ours = transfer::serve(&mut stream, direction == "get", length)?;
        drop(stream);
        let said = gateway.end()?;
        let same = said.hash == ours;
        let rate = length as f64 * 8.0 / said.seconds.max(1e-9) / 1e9;
        let name = if direction == "get" { "download" } else { "upload" };
        rows.push(Row {
            what: format!("{name} of {} GiB, SHA-256 {}", options.gib, ours.get(..16).unwrap_or_default()),
            figure: format!("{} ({rate:.2} Gbit/s)", if same { "the same" } else { "DIFFERENT" }),
            kept: Some(same),
        });
    }
    Ok(rows)
}

/// What `bytes` of each connection say.
fn shares(name: &str, options: &Options, bytes: &[u64], (_, peak): (f64, f64)) -> Vec<Row> {
    let (least, most) = (bytes.iter().min(), bytes.iter().max());
    let (least, most) = (least.copied().unwrap_or(0), most.copied().unwrap_or(0));
    let ratio = most as f64 / least.max(1) as f64;
    let rate = bytes.iter().sum::<u64>() as f64 * 8.0 / options.seconds / 1e9;
    let kib = |bytes: u64| bytes / 1024;
    vec![
        Row {
            what: format!("{} {name}, most / least (KiB)", bytes.len()),
            figure: format!("{ratio:.2} ({} / {})", kib(most), kib(least)),
            kept: Some(ratio <= FAIR),
        },
        Row {
            what: format!("{} {name}, together, Gbit/s", bytes.len()),
            figure: format!("{rate:.2}"),
            kept: None,
        },
        Row {
            what: format!("{} {name}, resident memory at most, MiB", bytes.len()),
            figure: format!("{peak:.1}"),
            kept: Some(peak < MEMORY),
        },
    ]
}

/// Accepts so many connections, or says why they do not come.
fn accept(listener: &TcpListener, count: u32, gateway: &Gateway) -> io::Result<Vec<std::net::TcpStream>> {
    socket2::SockRef::from(listener).set_read_timeout(Some(CONNECT))?;
    let mut streams = Vec::new();
    while streams.len() < count as usize {
        match listener.accept() {
            Ok((stream, _)) => streams.push(stream),
            Err(error) => {
                let text =
                    format!("{} of {count} connections came: {error}; {}", streams.len(), gateway.words());
                return Err(io::Error::new(error.kind(), text));
            }
        }
    }
    Ok(streams)
}
