//! Destinations that are not translated, as text: `ADDR[/LEN][:PORT[-PORT]][/tcp|udp|icmp]`.

use super::publish::{BadSpec, parse_range};
use crate::flow::{Prefix, Protocol};
use crate::nat::Exemption;
use ipnet::IpNet;
use std::net::IpAddr;

/// How to write one.
const SHAPE: &str = "write ADDR[/LEN][:PORT[-PORT]][/tcp|udp|icmp], e.g. 198.51.100.0/24, \
                     198.51.100.20/32:443/tcp or [2001:db8::]/64";

fn bad(problem: impl Into<String>, cure: impl Into<String>) -> BadSpec {
    BadSpec { problem: problem.into(), cure: cure.into() }
}

/// Reads an exemption.
///
/// # Errors
/// What is wrong, and the cure.
pub fn parse(text: &str) -> Result<Exemption, BadSpec> {
    let (rest, protocol) = match text.rsplit_once('/') {
        Some((rest, word))
            if word.starts_with(|first: char| first.is_ascii_alphabetic()) && !word.contains([':', ']']) =>
        {
            (rest, Some(protocol(word)?))
        }
        _ => (text, None),
    };
    let (prefix, ports) = split(rest).ok_or_else(|| bad("has a [ without ]", SHAPE))?;
    let remote = remote(&prefix)?;
    let ports = match ports {
        None => None,
        Some(ports) => {
            Some(parse_range(ports).map_err(|why| bad(format!("has `{ports}`, which {why}"), SHAPE))?)
        }
    };
    if ports.is_some() && !matches!(protocol, Some(Protocol::Tcp | Protocol::Udp)) {
        return Err(bad("has ports of no protocol", "end it with /tcp or /udp"));
    }
    Ok(Exemption { remote, protocol, ports })
}

fn protocol(word: &str) -> Result<Protocol, BadSpec> {
    match word {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "icmp" => Ok(Protocol::Icmp),
        other => Err(bad(
            format!("has the protocol `{other}`"),
            "end it with /tcp, /udp or /icmp, or leave that out",
        )),
    }
}

/// The prefix without brackets, and the ports behind it.
fn split(text: &str) -> Option<(String, Option<&str>)> {
    let Some(inner) = text.strip_prefix('[') else {
        // An IPv6 address without brackets can have no ports behind it.
        return Some(match text.split_once(':') {
            Some((prefix, ports)) if !ports.contains(':') => (prefix.to_owned(), Some(ports)),
            _ => (text.to_owned(), None),
        });
    };
    let (address, behind) = inner.split_once(']')?;
    let (length, ports) =
        behind.split_once(':').map_or((behind, None), |(length, ports)| (length, Some(ports)));
    Some((format!("{address}{length}"), ports))
}

/// Reads `ADDR` or `ADDR/LEN`; the bits behind the length must be zero, or somebody meant another prefix.
fn remote(text: &str) -> Result<Prefix, BadSpec> {
    let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let net = net.map_err(|_| bad("does not begin with an address or prefix", SHAPE))?;
    if net.trunc() != net {
        return Err(bad(
            "is one host's address with a shorter prefix",
            format!("write {} or {}", net.trunc(), net.addr()),
        ));
    }
    Ok(Prefix::new(net.addr(), net.prefix_len()))
}

/// Writes what [`parse`] reads.
pub fn text(exemption: &Exemption) -> String {
    let Prefix { ip, length } = exemption.remote;
    let mut text = match ip {
        IpAddr::V4(ip) => format!("{ip}/{length}"),
        IpAddr::V6(ip) => format!("[{ip}]/{length}"),
    };
    match &exemption.ports {
        Some(ports) if ports.start() == ports.end() => text += &format!(":{}", ports.start()),
        Some(ports) => text += &format!(":{}-{}", ports.start(), ports.end()),
        None => {}
    }
    if let Some(protocol) = exemption.protocol {
        text += &format!("/{protocol}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for written in [
            "198.51.100.0/24",
            "198.51.100.20/32:443/tcp",
            "198.51.100.0/24:5000-5010/udp",
            "198.51.100.0/24/icmp",
            "[2001:db8::]/64",
            "[2001:db8::1]/128:53/udp",
            "0.0.0.0/0:25/tcp",
        ] {
            assert_eq!(text(&parse(written).unwrap()), written);
        }
        assert_eq!(text(&parse("198.51.100.20").unwrap()), "198.51.100.20/32");
        assert_eq!(text(&parse("198.51.100.20/tcp").unwrap()), "198.51.100.20/32/tcp");
        assert_eq!(text(&parse("2001:db8::/32").unwrap()), "[2001:db8::]/32");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (written, problem) in [
            ("198.51.100.0/24:443", "has ports of no protocol"),
            ("198.51.100.0/24:443/icmp", "has ports of no protocol"),
            ("198.51.100.0/24/sctp", "has the protocol `sctp`"),
            ("198.51.100.7/24", "is one host's address with a shorter prefix"),
            ("198.51.100.0/33", "does not begin with an address or prefix"),
            ("example.org", "does not begin with an address or prefix"),
            ("198.51.100.0/24:0/tcp", "has `0`, which has port 0"),
            ("[2001:db8::/64", "has a [ without ]"),
            ("", "does not begin with an address or prefix"),
        ] {
            assert_eq!(parse(written).unwrap_err().problem, problem, "{written}");
        }
    }
}
