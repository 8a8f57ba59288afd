//! `tapnat selftest probe`: asks a STUN server what the NATs on the way do.

mod sockets;
mod words;

use crate::config::ConfigError;
use crate::config::raw::Place;
use crate::stun::lifetime::Span;
use crate::stun::probe::{Wish, probe};
use anyhow::{Context, Result, bail};
use sockets::Sockets;
use std::io::{self, BufWriter, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// The port of STUN over UDP (RFC 8489 §9).
const PORT: u16 = 3478;

/// Options of `tapnat selftest probe`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ProbeArgs {
    /// A STUN server: a name or an address, and a port if it is not 3478
    #[arg(value_name = "SERVER[:PORT]")]
    pub server: String,
    /// Ask by IPv4 only
    #[arg(long, short = '4')]
    pub ipv4: bool,
    /// Ask by IPv6 only
    #[arg(long, short = '6', conflicts_with = "ipv4")]
    pub ipv6: bool,
    /// Wait so long before a question is repeated the first time [default: 500ms, then as measured]
    #[arg(long, value_name = "DURATION", value_parser = rto)]
    pub rto: Option<Duration>,
    /// Find how long an idle mapping lives, waiting at most so long
    #[arg(long, value_name = "off|DURATION", default_value = "off", value_parser = wait)]
    pub lifetime: Wait,
    /// Begin with waits of that long
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    pub lifetime_min: Duration,
    /// One JSON object for each address family
    #[arg(long)]
    pub json: bool,
}

/// How long to wait for the end of a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wait(Option<Duration>);

const EXAMPLES: &str = "\
The server should know RFC 5780 (`tapnat selftest serve`, coturn): another one leaves some questions open.
Every question is repeated 6 times before silence counts as an answer, 79 times the first wait in all.
Looking for a lifetime of minutes takes a few times as long; it is done by several sockets at once.

Examples:
  tapnat selftest probe stun.example.org
  tapnat selftest probe 198.51.100.7 --json | jq .mapping
  tapnat selftest probe 198.51.100.7 --lifetime 10m --lifetime-min 1m";

fn rto(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let (least, most) = (Duration::from_millis(1), Duration::from_secs(60));
    if duration < least || duration > most { Err("it is from 1ms to 1m".to_owned()) } else { Ok(duration) }
}

fn wait(text: &str) -> Result<Wait, String> {
    if text == "off" {
        return Ok(Wait(None));
    }
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let (least, most) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
    if duration < least || duration > most {
        return Err("it is `off` or from 1s to 1day".to_owned());
    }
    Ok(Wait(Some(duration)))
}

/// Probes each address family of the server and reports.
///
/// # Errors
/// The server is not known, or does not answer by any family.
pub fn run(args: &ProbeArgs) -> Result<()> {
    let servers = resolve(args)?;
    if let Wait(Some(most)) = args.lifetime
        && args.lifetime_min >= most
    {
        let (place, most) = (Place::Flag("--lifetime-min"), humantime::format_duration(most));
        return Err(ConfigError::new(&place, "is not less than --lifetime", format!("below {most}")).into());
    }
    let span = args.lifetime.0.map(|most| Span { least: args.lifetime_min, most });
    let wish = Wish { rto: args.rto, lifetime: span };
    let mut out = BufWriter::new(io::stdout().lock());
    let mut trouble = Vec::new();
    for (number, &server) in servers.iter().enumerate() {
        let asked = Sockets::towards(server)
            .map_err(|error| format!("{server} cannot be asked: {error}"))
            .and_then(|mut sockets| probe(&mut sockets, server, &wish));
        match asked {
            Ok(report) if args.json => writeln!(out, "{}", words::json(&report))?,
            Ok(report) => {
                if number > trouble.len() {
                    writeln!(out)?;
                }
                for line in words::text(&report, crate::cli::text::Paint::stdout()) {
                    writeln!(out, "{line}")?;
                }
            }
            Err(why) => trouble.push(why),
        }
        out.flush()?;
    }
    if trouble.len() == servers.len() {
        bail!("{}", trouble.join("; "));
    }
    for why in trouble {
        let _ = writeln!(io::stderr(), "tapnat: {why}");
    }
    Ok(())
}

/// The server's first address of each family that is wished for.
fn resolve(args: &ProbeArgs) -> Result<Vec<SocketAddr>> {
    let text = args.server.as_str();
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let all: Vec<SocketAddr> = if let Ok(ip) = bare.parse() {
        vec![SocketAddr::new(ip, PORT)]
    } else if text.contains(':') {
        text.to_socket_addrs().with_context(|| format!("find the server {text}"))?.collect()
    } else {
        (text, PORT).to_socket_addrs().with_context(|| format!("find the server {text}"))?.collect()
    };
    let families = [(true, args.ipv6), (false, args.ipv4)];
    let first = |(ipv4, unwanted): (bool, bool)| {
        all.iter().copied().find(|server| server.is_ipv4() == ipv4 && !unwanted)
    };
    let servers: Vec<SocketAddr> = families.into_iter().filter_map(first).collect();
    if servers.is_empty() {
        bail!("{text} has no address of that family");
    }
    Ok(servers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ProbeArgs,
    }

    fn args(words: &[&str]) -> Result<ProbeArgs, clap::Error> {
        Ok(Line::try_parse_from([&["probe"], words].concat())?.args)
    }

    #[test]
    fn a_server_is_an_address_with_or_without_port() {
        let resolved = |text: &str| resolve(&args(&[text]).unwrap()).unwrap()[0].to_string();
        assert_eq!(resolved("192.0.2.1"), "192.0.2.1:3478");
        assert_eq!(resolved("192.0.2.1:9"), "192.0.2.1:9");
        assert_eq!(resolved("2001:db8::1"), "[2001:db8::1]:3478");
        assert_eq!(resolved("[2001:db8::1]:9"), "[2001:db8::1]:9");
        assert!(resolve(&args(&["192.0.2.1", "-6"]).unwrap()).is_err());
    }

    #[test]
    fn durations_out_of_range_are_refused() {
        for words in [["--rto", "0s"], ["--rto", "2m"], ["--lifetime", "2days"], ["--lifetime", "soon"]] {
            assert!(args(&["192.0.2.1", words[0], words[1]]).is_err(), "{words:?}");
        }
        let wait = args(&["192.0.2.1", "--lifetime", "10m"]).unwrap().lifetime;
        assert_eq!(wait, Wait(Some(Duration::from_secs(600))));
    }
}
