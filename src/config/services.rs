//! From text to the services for hosts inside: addresses by DHCP, and where they find a resolver.

use super::error::ConfigError;
use super::networks::{parse_address, usable};
use super::raw::{Raw, Written};
use super::resolve::Checked;
use super::translation::duration;
use crate::flow::Domain;
use crate::gateway::services::dhcp::MOST;
use crate::io::resolver::{PORT, is_domain};
use ipnet::{IpNet, Ipv4Net};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// DNS servers that one family's hosts are told at most: what one advertisement has room for.
const SERVERS: usize = 8;
/// Domains that hosts are told, at most.
const DOMAINS: usize = 16;
/// Addresses at which DNS is forwarded, at most.
const FORWARDERS: usize = 8;
/// Domains with resolvers of their own, at most.
const SPLITS: usize = 64;
/// For how long an address is given.
const LEASE: Duration = Duration::from_secs(3600);
/// The shortest time for which one is given.
const SHORTEST: Duration = Duration::from_secs(60);
/// Addresses of the range if nobody gives one, at most.
const SHARE: u32 = 1024;

/// Reads which addresses are given out by DHCP: the first and the last.
///
/// # Errors
/// The first thing that is wrong.
pub fn dhcp(raw: &Raw, inside: &[IpNet]) -> Checked<Option<(Ipv4Addr, Ipv4Addr)>> {
    let Some(written) = raw.one("dhcp") else { return Ok(None) };
    let four = inside.iter().find_map(|net| if let IpNet::V4(net) = net { Some(*net) } else { None });
    match (written.text.as_str(), four) {
        ("off", _) => Ok(None),
        // A lone host's: the one address that there is.
        ("on", Some(net)) if net.prefix_len() == 32 => Ok(Some((net.addr(), net.addr()))),
        ("on", Some(net)) => Ok(Some(share(net))),
        ("on", None) => {
            let cure = "add an IPv4 --inside; IPv6 hosts configure themselves by advertisements";
            Err(ConfigError::at(written, "has no addresses to give", cure))
        }
        _ => range(written, inside).map(Some),
    }
}

/// The part of a subnet that is given out if nobody says which: where slirp gives it if the gateway
/// has slirp's place, else the upper half, for those who choose their address begin below.
fn share(net: Ipv4Net) -> (Ipv4Addr, Ipv4Addr) {
    let base = net.network().to_bits();
    if net.addr().to_bits() == base + 2 && net.prefix_len() <= 26 {
        return (Ipv4Addr::from_bits(base + 15), Ipv4Addr::from_bits(base + 30));
    }
    let last = net.broadcast().to_bits() - 1;
    let half = match net.prefix_len() {
        // One of the two is the gateway's.
        30 => 2,
        length => (1u32 << (31 - u32::from(length))) - 1,
    };
    (Ipv4Addr::from_bits(last + 1 - half.min(SHARE)), Ipv4Addr::from_bits(last))
}

fn range(written: &Written, inside: &[IpNet]) -> Checked<(Ipv4Addr, Ipv4Addr)> {
    let ends = written
        .text
        .split_once('-')
        .and_then(|(first, last)| Some((first.parse::<Ipv4Addr>().ok()?, last.parse::<Ipv4Addr>().ok()?)));
    let Some((first, last)) = ends else {
        let cure = "give on, off or FIRST-LAST, e.g. 10.88.0.100-10.88.0.199";
        return Err(ConfigError::at(written, "is no range of addresses", cure));
    };
    let holds = |net: &&IpNet| net.contains(&IpAddr::V4(first)) && net.contains(&IpAddr::V4(last));
    let Some(net) = inside.iter().find(holds) else {
        let cure = "give addresses of one --inside subnet";
        return Err(ConfigError::at(written, "is not in an inside subnet", cure));
    };
    if net.network() == first || net.broadcast() == last {
        let cure = "leave out the subnet's first and last address, which no host has";
        return Err(ConfigError::at(written, "goes to the end of the subnet", cure));
    }
    match last.to_bits().checked_sub(first.to_bits()) {
        Some(more) if more < MOST => Ok((first, last)),
        Some(_) => Err(ConfigError::at(written, "is too large", format!("give {MOST} addresses at most"))),
        None => Err(ConfigError::at(written, "ends before it begins", "give FIRST-LAST")),
    }
}

/// Reads for how long an address is given.
///
/// # Errors
/// The first thing that is wrong, also that none is given.
pub fn lease(raw: &Raw, given: bool) -> Checked<Duration> {
    let Some(written) = raw.one("dhcp-lease") else { return Ok(LEASE) };
    if !given {
        return Err(ConfigError::at(written, "is only for DHCP", "add --dhcp on, or leave it out"));
    }
    let lease = duration(written)?;
    if lease < SHORTEST {
        return Err(ConfigError::at(written, "is too short", "give at least 1m"));
    }
    Ok(lease)
}

/// The values of a key, none of them for the one value `off`; `None` if it was not given.
///
/// # Errors
/// There is `off` among others.
fn many_or_off<'a>(raw: &'a Raw, key: &str) -> Checked<Option<&'a [Written]>> {
    match raw.many(key) {
        [] => Ok(None),
        [one] if one.text == "off" => Ok(Some(&[])),
        given => match given.iter().find(|written| written.text == "off") {
            Some(off) => {
                let cure = "give it alone, or leave it out";
                Err(ConfigError::at(off, "is given beside something else", cure))
            }
            None => Ok(Some(given)),
        },
    }
}

/// Reads the DNS servers that hosts inside are told of; `None` if nobody says which.
///
/// # Errors
/// The first thing that is wrong, also that nobody would be told.
pub fn dns(raw: &Raw, inside: &[IpNet], advertise: bool, dhcp: bool) -> Checked<Option<Vec<IpAddr>>> {
    let Some(given) = many_or_off(raw, "dns")? else { return Ok(None) };
    let mut servers: Vec<IpAddr> = Vec::new();
    for written in given {
        let example = "give one such as 10.88.0.53 or fd00:88::53";
        let address = parse_address(written, example)?;
        if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
            return Err(ConfigError::at(written, "is not an address of a server", example));
        }
        if address.is_ipv6() && (!advertise || !inside.iter().any(|net| net.addr().is_ipv6())) {
            let cure = "add an IPv6 --inside and leave --advertise on, or leave it out";
            return Err(ConfigError::at(written, "would be told to nobody: nothing is advertised", cure));
        }
        if address.is_ipv4() && !dhcp {
            let cure = "add --dhcp on, or leave it out";
            return Err(ConfigError::at(written, "would be told to nobody: there is no DHCP", cure));
        }
        if servers.iter().filter(|known| known.is_ipv4() == address.is_ipv4()).count() == SERVERS {
            let cure = format!("give {SERVERS} of a family at most");
            return Err(ConfigError::at(written, "is one DNS server too many", cure));
        }
        servers.push(address);
    }
    Ok(Some(servers))
}

/// Reads the domains that hosts are told to look short names up in; `None` for those of the host.
///
/// # Errors
/// The first thing that is wrong, also that nobody would be told.
pub fn search(raw: &Raw, dhcp: bool) -> Checked<Option<Vec<String>>> {
    let Some(given) = many_or_off(raw, "search")? else { return Ok(None) };
    let mut domains: Vec<String> = Vec::new();
    for written in given {
        if !dhcp {
            let cure = "add --dhcp on, or leave it out";
            return Err(ConfigError::at(written, "would be told to nobody: there is no DHCP", cure));
        }
        if !is_domain(&written.text) {
            let cure = "give one such as example.org";
            return Err(ConfigError::at(written, "is no domain name", cure));
        }
        if domains.len() == DOMAINS {
            return Err(ConfigError::at(
                written,
                "is one domain too many",
                format!("give {DOMAINS} at most"),
            ));
        }
        domains.push(written.text.trim_end_matches('.').to_owned());
    }
    Ok(Some(domains))
}

/// Reads at which addresses inside DNS is forwarded to the host's resolver. Without a word about it:
/// at the gateway's, if hosts are given addresses.
///
/// # Errors
/// The first thing that is wrong.
pub fn dns_forward(raw: &Raw, inside: &[IpNet], dhcp: bool) -> Checked<Vec<IpAddr>> {
    // A lone host's gateway is somebody else.
    let gateways = || inside.iter().filter(|net| net.prefix_len() < net.max_prefix_len()).map(IpNet::addr);
    let Some(given) = many_or_off(raw, "dns-forward")? else {
        return Ok(if dhcp { gateways().collect() } else { Vec::new() });
    };
    let mut all: Vec<IpAddr> = Vec::new();
    for written in given {
        let these = match written.text.as_str() {
            "gateway" => gateways().collect(),
            _ => vec![forwarder(written, inside)?],
        };
        for address in these.into_iter().filter(|address| !all.contains(address)).collect::<Vec<_>>() {
            all.push(address);
        }
        if all.len() > FORWARDERS {
            let cure = format!("give {FORWARDERS} at most");
            return Err(ConfigError::at(written, "is one address too many", cure));
        }
    }
    Ok(all)
}

/// Reads in which domains names are asked of others than the host's resolver. `forwarded` says that hosts
/// inside have a resolver at the gateway at all.
///
/// # Errors
/// The first thing that is wrong.
pub fn dns_domains(raw: &Raw, forwarded: bool) -> Checked<Vec<Domain>> {
    let mut domains: Vec<Domain> = Vec::new();
    for (name, written) in raw.table("dns-domain") {
        let wrong = |problem: String, cure: &str| Err(ConfigError::new(&written.place, problem, cure));
        if !forwarded {
            let cure = "add --dns-forward gateway, or leave it out";
            return wrong(format!("nobody asks the gateway for `{name}`"), cure);
        }
        if !is_domain(name) {
            return wrong(format!("`{name}` is no domain name"), "give one such as corp.example");
        }
        let servers = written.text.split(',').map(str::trim).map(|text| resolver(written, text));
        let servers = servers.collect::<Checked<Vec<SocketAddr>>>()?;
        if servers.len() > SERVERS {
            return wrong(
                format!("`{name}` has {} servers", servers.len()),
                &format!("give {SERVERS} at most"),
            );
        }
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let domain = Domain { name, servers };
        // What is given as an option comes last, and holds.
        domains.retain(|known| known.name != domain.name);
        if domains.len() == SPLITS {
            return wrong(
                format!("`{}` is one domain too many", domain.name),
                &format!("give {SPLITS} at most"),
            );
        }
        domains.push(domain);
    }
    Ok(domains)
}

/// A resolver: an address, and its port if that is another than 53.
fn resolver(written: &Written, text: &str) -> Checked<SocketAddr> {
    let read = text.parse().map(|ip| SocketAddr::new(ip, PORT)).or_else(|_| text.parse::<SocketAddr>());
    let usable = |server: &SocketAddr| {
        !server.ip().is_unspecified() && !server.ip().is_multicast() && server.port() != 0
    };
    read.ok().filter(usable).ok_or_else(|| {
        let cure = "give ADDR or ADDR:PORT, several with commas between them, e.g. 10.1.2.3,[fd00::53]:5353";
        ConfigError::new(&written.place, format!("`{text}` is no resolver's address"), cure)
    })
}

/// Writes a resolver as it is read.
pub fn server_text(server: &SocketAddr) -> String {
    if server.port() == PORT { server.ip().to_string() } else { server.to_string() }
}

fn forwarder(written: &Written, inside: &[IpNet]) -> Checked<IpAddr> {
    let example = "give off, gateway, or an address that no host has, e.g. 10.88.0.53";
    let address = parse_address(written, example)?;
    if !usable(address) {
        return Err(ConfigError::at(written, "is not an address for a host", example));
    }
    let end = |net: &&IpNet| net.network() == address || (address.is_ipv4() && net.broadcast() == address);
    if inside.iter().find(end).is_some() {
        return Err(ConfigError::at(written, "is an address that no host can have", example));
    }
    if !inside.iter().any(|net| net.addr().is_ipv4() == address.is_ipv4()) {
        let cure = "add an --inside of that family, or leave it out";
        return Err(ConfigError::at(written, "is of a family that no inside subnet has", cure));
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_a_subnet_is_in_it_and_leaves_the_lower_half() {
        for (net, first, last) in [
            ("10.0.2.2/24", "10.0.2.15", "10.0.2.30"),
            ("10.0.2.2/26", "10.0.2.15", "10.0.2.30"),
            ("10.88.0.1/24", "10.88.0.128", "10.88.0.254"),
            ("10.88.0.1/16", "10.88.251.255", "10.88.255.254"),
            ("10.88.0.1/29", "10.88.0.4", "10.88.0.6"),
            ("10.88.0.1/30", "10.88.0.1", "10.88.0.2"),
        ] {
            let found = share(net.parse().unwrap());
            assert_eq!(found, (first.parse().unwrap(), last.parse().unwrap()), "{net}");
        }
    }
}
