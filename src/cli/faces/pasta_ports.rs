//! Port specifications of `pasta`, as in `-t 127.0.0.1/8080-8090:80-90,~8085`.

use super::forwards::{Forward, anywhere};
use crate::config::publish::parse_range;
use crate::flow::Protocol;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

/// Ports of one option, at most: each costs the host a socket.
const MOST: usize = 4096;

/// What one option asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ports {
    /// No port.
    None,
    /// These: where the host listens (any address if `None`), its port, the port inside.
    These(Vec<(Option<IpAddr>, u16, u16)>),
}

/// Reads the value of `-t` or `-u`.
///
/// # Errors
/// What is wrong with it, or why it is refused.
pub fn read(text: &str) -> Result<Ports, String> {
    match text {
        "none" => return Ok(Ports::None),
        "auto" => {
            return Err("auto: tapnat does not look for what listens inside; name the ports, or none".into());
        }
        "all" => return Err("all: that is every port of this host; name those that are wanted".into()),
        _ => {}
    }
    let (address, list) = match text.rsplit_once('/') {
        Some((address, list)) => (Some(self::address(address)?), list),
        None => (None, text),
    };
    let wrong = |piece: &str| format!("{piece}: is no port or range of ports");
    let (mut excluded, mut wanted) = (Vec::new(), Vec::new());
    for piece in list.split(',') {
        if let Some(not) = piece.strip_prefix('~') {
            excluded.push(parse_range(not).map_err(|_| wrong(piece))?);
            continue;
        }
        let (from, to) = piece.split_once(':').unwrap_or((piece, piece));
        let (from, to) =
            (parse_range(from).map_err(|_| wrong(piece))?, parse_range(to).map_err(|_| wrong(piece))?);
        if from.len() != to.len() {
            return Err(format!("{piece}: the two ranges differ in length"));
        }
        wanted.push((from, to));
    }
    if wanted.is_empty() {
        return Err(
            "only exclusions: that is every other port of this host; name those that are wanted".into()
        );
    }
    let out = |port: &u16| excluded.iter().any(|range: &RangeInclusive<u16>| range.contains(port));
    let pairs = wanted.into_iter().flat_map(|(from, to)| from.zip(to));
    let these: Vec<_> =
        pairs.filter(|(port, _)| !out(port)).map(|(port, to)| (address, port, to)).take(MOST + 1).collect();
    if these.len() > MOST {
        return Err(format!("more than {MOST} ports"));
    }
    Ok(Ports::These(these))
}

fn address(text: &str) -> Result<IpAddr, String> {
    let (text, interface) = text.split_once('%').unwrap_or((text, ""));
    if !interface.is_empty() {
        return Err(format!(
            "%{interface}: tapnat listens on addresses, not on interfaces; name its address"
        ));
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_| format!("{text}: is no address"))
}

/// The forwards to `guests`, one of each family at most. Without an address of the host they are on
/// any of each family that there is inside.
pub fn forwards(ports: &Ports, protocol: Protocol, guests: &[IpAddr]) -> Vec<Forward> {
    let Ports::These(these) = ports else { return Vec::new() };
    let each = |(host, port, to): &(Option<IpAddr>, u16, u16)| {
        let (host, port, to) = (*host, *port, *to);
        let meant = move |guest: &&IpAddr| host.is_none_or(|host| host.is_ipv4() == guest.is_ipv4());
        guests.iter().filter(meant).map(move |guest| Forward {
            protocol,
            host: SocketAddr::new(host.unwrap_or_else(|| anywhere(*guest)), port),
            guest: SocketAddr::new(*guest, to),
        })
    };
    these.iter().flat_map(each).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn said(text: &str) -> String {
        match read(text) {
            Err(why) => why,
            Ok(ports) => {
                let guests = [IpAddr::from(Ipv4Addr::new(10, 0, 2, 100)), IpAddr::from(Ipv6Addr::LOCALHOST)];
                let all = forwards(&ports, Protocol::Tcp, &guests);
                all.iter()
                    .map(|one| format!("{}>{}", one.host, one.guest.port()))
                    .collect::<Vec<_>>()
                    .join(" ")
            }
        }
    }

    #[test]
    fn specifications_are_read() {
        for (text, want) in [
            ("none", ""),
            ("22", "0.0.0.0:22>22 [::]:22>22"),
            ("0.0.0.0/8080-8081:80-81", "0.0.0.0:8080>80 0.0.0.0:8081>81"),
            ("[::1]/80", "[::1]:80>80"),
            ("::1/80", "[::1]:80>80"),
            ("127.0.0.1/5-8,~6-7", "127.0.0.1:5>5 127.0.0.1:8>8"),
            ("127.0.0.1/1,3:4", "127.0.0.1:1>1 127.0.0.1:3>4"),
        ] {
            assert_eq!(said(text), want, "{text}");
        }
        for (text, why) in [
            ("auto", "does not look for what listens"),
            ("all", "every port"),
            ("~25", "only exclusions"),
            ("1-4:1-3", "differ in length"),
            ("0", "no port"),
            ("x/80", "no address"),
            ("127.0.0.1%lo/80", "not on interfaces"),
            ("1-65535", "more than 4096"),
        ] {
            assert!(said(text).contains(why), "{text}: {}", said(text));
        }
    }
}
