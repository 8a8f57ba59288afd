//! `tapnat selftest serve`: a STUN server outside, for our own probe and anybody else's client.

use crate::config::ConfigError;
use crate::config::raw::Place as Where;
use crate::flow::Time;
use crate::runtime::clock::Clock;
use crate::runtime::signals::Signals;
use crate::stun::{Answer, Place, Places, Server};
use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::json;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

/// Datagrams of one socket before the next has its turn.
const TURN: usize = 64;
/// Longer than any UDP datagram.
const LONGEST: usize = 65_536;

/// Options of `tapnat selftest serve`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ServeArgs {
    /// Address of this host to answer at
    #[arg(long, value_name = "IP")]
    pub address: IpAddr,
    /// A second one of the same family, without which mapping and filtering cannot be told
    #[arg(long, value_name = "IP")]
    pub alternate: Option<IpAddr>,
    /// UDP port at each address
    #[arg(long, default_value_t = 3478, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// A second port at each address
    #[arg(long, value_name = "PORT", default_value_t = 3479, value_parser = clap::value_parser!(u16).range(1..))]
    pub alternate_port: u16,
    /// Answers a second that each client may have
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: u32,
    /// Write a line for each answer
    #[arg(long, short = 'v')]
    pub verbose: bool,
    /// Write a JSON object for each answer
    #[arg(long)]
    pub json: bool,
}

const EXAMPLES: &str = "\
It serves until SIGINT or SIGTERM. No rights are needed. Both addresses must be of this host itself and
reachable without a NAT in between.

Examples:
  tapnat selftest serve --address 198.51.100.7 --alternate 198.51.100.8
  tapnat selftest serve --address 2001:db8::7 --alternate 2001:db8::8 --json";

/// The places of a server that make sense together.
fn places(args: &ServeArgs) -> Result<Places, ConfigError> {
    let wrong = |flag, problem: String, cure: &str| Err(ConfigError::new(&Where::Flag(flag), problem, cure));
    for (flag, address) in [("--address", Some(args.address)), ("--alternate", args.alternate)] {
        if address.is_some_and(|address| address.is_unspecified() || address.is_multicast()) {
            let problem = "is no address of one host".to_owned();
            return wrong(flag, problem, "name an address that `ip address` shows");
        }
    }
    let Some(alternate) = args.alternate else {
        return Ok(Places { address: args.address, port: args.port, alternate: None });
    };
    if alternate == args.address || alternate.is_ipv4() != args.address.is_ipv4() {
        let problem = format!("{alternate} beside {} tells a client nothing", args.address);
        return wrong("--alternate", problem, "name a second address of the same family");
    }
    if args.alternate_port == args.port {
        let problem = format!("{} is the port itself", args.port);
        return wrong("--alternate-port", problem, "name a second port");
    }
    Ok(Places { address: args.address, port: args.port, alternate: Some((alternate, args.alternate_port)) })
}

/// Serves until a signal comes.
///
/// # Errors
/// The addresses are not usable.
pub fn run(args: &ServeArgs) -> Result<()> {
    let places = places(args)?;
    let (mut signals, clock) = (Signals::take()?, Clock::start());
    let mut sockets = Vec::new();
    for place in places.all() {
        let endpoint = places.endpoint(place);
        let socket = UdpSocket::bind(endpoint).with_context(|| format!("listen on UDP {endpoint}"))?;
        socket.set_nonblocking(true)?;
        sockets.push((place, socket));
    }
    let mut seed = [0; 8];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
        .context("ask for randomness")?;
    let mut server = Server::new(places, args.rate, u64::from_ne_bytes(seed));
    let mut log = Log { json: args.json, verbose: args.verbose };
    let mut buffer = vec![0; LONGEST];
    log.listening(&server)?;
    let signal = loop {
        if let Some(signal) = signals.take_one() {
            break signal;
        }
        let mut fds: Vec<PollFd<'_>> = sockets
            .iter()
            .map(|(_, socket)| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN))
            .collect();
        fds.extend(signals.descriptors().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for requests"),
        }
        for number in 0..sockets.len() {
            turn(&mut server, &sockets, number, &mut buffer, clock.now(), &mut log)?;
        }
    };
    log.ended(&server, signal)
}

/// Answers what has come to one socket.
fn turn(
    server: &mut Server,
    sockets: &[(Place, UdpSocket)],
    number: usize,
    buffer: &mut [u8],
    now: Time,
    log: &mut Log,
) -> Result<()> {
    let (place, socket) = &sockets[number];
    for _ in 0..TURN {
        // An error is news about an earlier answer: nobody listens there any more.
        let Ok((length, from)) = socket.recv_from(buffer) else { break };
        let Ok(answer) = server.answer(*place, from, &buffer[..length], now) else { continue };
        if let Some((_, leaves)) = sockets.iter().find(|(place, _)| *place == answer.from) {
            // One that cannot be sent is one that was lost: the client asks again.
            let sent = leaves.send_to(&answer.bytes, answer.to);
            log.answered(server, *place, from, &answer, sent.err())?;
        }
    }
    Ok(())
}

/// What is said on standard output.
struct Log {
    json: bool,
    verbose: bool,
}

impl Log {
    fn listening(&mut self, server: &Server) -> Result<()> {
        let places = server.places();
        let all: Vec<String> =
            places.all().into_iter().map(|place| places.endpoint(place).to_string()).collect();
        if self.json {
            return say(&json!({ "event": "listening", "at": all }).to_string());
        }
        say(&format!("listening on UDP {}", all.join(", ")))?;
        if places.alternate.is_none() {
            say("without --alternate, clients cannot tell mapping and filtering")?;
        }
        Ok(())
    }

    fn answered(
        &mut self,
        server: &Server,
        at: Place,
        client: SocketAddr,
        answer: &Answer,
        trouble: Option<io::Error>,
    ) -> Result<()> {
        let place = |place| server.places().endpoint(place).to_string();
        let (at, from) = (place(at), place(answer.from));
        if self.json {
            return say(&json!({
                "event": "answered",
                "client": client.to_string(),
                "at": at,
                "from": from,
                "to": answer.to.to_string(),
                "bytes": answer.bytes.len(),
                "error": answer.error,
                "trouble": trouble.map(|trouble| trouble.to_string()),
            })
            .to_string());
        }
        if !self.verbose {
            return Ok(());
        }
        let error = answer.error.map(|code| format!(" with {code}")).unwrap_or_default();
        let trouble = trouble.map(|trouble| format!(": {trouble}")).unwrap_or_default();
        let length = answer.bytes.len();
        say(&format!(
            "{client} asked {at}, answered{error} from {from} to {}, {length} bytes{trouble}",
            answer.to
        ))
    }

    fn ended(&mut self, server: &Server, signal: &str) -> Result<()> {
        let counters = server.counters();
        let (served, refused) = (counters.served, counters.refused);
        let (too_many, ignored) = (counters.too_many, counters.ignored);
        if self.json {
            return say(&json!({
                "event": "ended", "signal": signal, "served": served, "refused": refused,
                "too_many": too_many, "ignored": ignored,
            })
            .to_string());
        }
        say(&format!(
            "{signal}: {served} served, {refused} refused, {too_many} left alone as too many, {ignored} as no request"
        ))
    }
}

fn say(line: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
