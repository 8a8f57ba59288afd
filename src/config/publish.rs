//! Port forwards as text: `[ADDR:]PORT[-PORT]:INSIDE[:PORT[-PORT]]/tcp|udp`.

use super::settings::PublishSpec;
use crate::flow::Protocol;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Why text is no port forward.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{problem}; {cure}")]
pub struct BadSpec {
    /// What is wrong with it, to be read after the text itself.
    pub problem: String,
    /// What to do about it.
    pub cure: String,
}

fn bad(problem: impl Into<String>, cure: impl Into<String>) -> BadSpec {
    BadSpec { problem: problem.into(), cure: cure.into() }
}

/// How to write one.
const SHAPE: &str = "write [ADDR:]PORT[-PORT]:INSIDE[:PORT[-PORT]]/tcp or /udp, e.g. 8080:10.88.0.2:80/tcp";

impl FromStr for PublishSpec {
    type Err = BadSpec;

    fn from_str(text: &str) -> Result<PublishSpec, BadSpec> {
        parse(text)
    }
}

/// Reads a port forward.
///
/// # Errors
/// What is wrong, and the cure.
pub fn parse(text: &str) -> Result<PublishSpec, BadSpec> {
    let Some((ends, protocol)) = text.rsplit_once('/') else {
        return Err(bad("names no protocol", "end it with /tcp or /udp"));
    };
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        other => return Err(bad(format!("has the protocol `{other}`"), "end it with /tcp or /udp")),
    };
    let pieces = split(ends).ok_or_else(|| bad("has a [ without ]", SHAPE))?;
    let (address, pieces) = match pieces.as_slice() {
        [first, rest @ ..] if first.contains(['.', ':']) && rest.len() >= 2 => (Some(address(first)?), rest),
        all => (None, all),
    };
    let (ports, inside, inside_ports) = match pieces {
        [ports, inside] => (range(ports)?, inside, None),
        [ports, inside, inside_ports] => (range(ports)?, inside, Some(range(inside_ports)?)),
        _ => return Err(bad("is not a port forward", SHAPE)),
    };
    let inside = self::address(inside)?;
    let inside_ports = inside_ports.unwrap_or_else(|| ports.clone());
    if ports.len() != inside_ports.len() {
        let problem = format!("maps {} ports to {}", ports.len(), inside_ports.len());
        return Err(bad(problem, "give two ranges of the same length"));
    }
    if address.is_some_and(|address: IpAddr| address.is_ipv4() != inside.is_ipv4()) {
        return Err(bad("forwards to another family of addresses", "give both ends IPv4 or both IPv6"));
    }
    if inside.is_unspecified() {
        return Err(bad("forwards to no host", SHAPE));
    }
    Ok(PublishSpec { protocol, address, ports, inside, inside_ports })
}

/// Splits at colons that are not within brackets, and takes the brackets off.
fn split(text: &str) -> Option<Vec<&str>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    loop {
        let (piece, after) = match rest.strip_prefix('[') {
            Some(inner) => inner.split_once(']')?,
            None => rest.split_at(rest.find(':').unwrap_or(rest.len())),
        };
        pieces.push(piece);
        match after.strip_prefix(':') {
            Some(after) => rest = after,
            None if after.is_empty() => return Some(pieces),
            None => return None,
        }
    }
}

fn address(text: &str) -> Result<IpAddr, BadSpec> {
    text.parse().map_err(|_| bad(format!("has `{text}` where an address belongs"), SHAPE))
}

fn range(text: &str) -> Result<RangeInclusive<u16>, BadSpec> {
    parse_range(text).map_err(|why| bad(format!("has `{text}`, which {why}"), SHAPE))
}

/// Reads `PORT` or `FIRST-LAST`.
///
/// # Errors
/// Why not, to be read after the text itself.
pub fn parse_range(text: &str) -> Result<RangeInclusive<u16>, &'static str> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<u16>().map_err(|_| "is no port or range of ports"),
        false => Err("is no port or range of ports"),
    };
    match (port(first)?, port(last)?) {
        (0, _) | (_, 0) => Err("has port 0"),
        (first, last) if first > last => Err("ends before it begins"),
        (first, last) => Ok(first..=last),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for text in [
            "8080:10.88.0.2:80/tcp",
            "203.0.113.1:53:10.88.0.3:53/udp",
            "8000-8010:10.88.0.2:9000-9010/tcp",
            "[2001:db8::1]:443:[fd00:88::2]:443/tcp",
            "80:[fd00:88::2]:8080/tcp",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        assert_eq!(parse("80:10.88.0.2/tcp").unwrap().to_string(), "80:10.88.0.2:80/tcp");
        assert_eq!(parse("7-9:10.88.0.2/udp").unwrap().pairs().collect::<Vec<_>>(), [(7, 7), (8, 8), (9, 9)]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, problem) in [
            ("8080:10.88.0.2:80", "names no protocol"),
            ("8080:10.88.0.2:80/sctp", "has the protocol `sctp`"),
            ("0:10.88.0.2:80/tcp", "has `0`, which has port 0"),
            ("90-80:10.88.0.2/tcp", "has `90-80`, which ends before it begins"),
            ("80-90:10.88.0.2:80-89/tcp", "maps 11 ports to 10"),
            ("80:web:80/tcp", "has `web` where an address belongs"),
            ("80/tcp", "is not a port forward"),
            ("/tcp", "is not a port forward"),
            ("[::1:80:10.88.0.2/tcp", "has a [ without ]"),
            ("65536:10.88.0.2/tcp", "has `65536`, which is no port or range of ports"),
            ("+80:10.88.0.2/tcp", "has `+80`, which is no port or range of ports"),
            ("203.0.113.1:80:[fd00::2]:80/tcp", "forwards to another family of addresses"),
        ] {
            assert_eq!(parse(text).unwrap_err().problem, problem, "{text}");
        }
    }
}
