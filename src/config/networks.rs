//! From text to addresses and ports: inside, external, ports, forwards, exemptions.

use super::error::ConfigError;
use super::exempt;
use super::publish::{self, parse_range};
use super::raw::{Place, Raw, Written};
use super::resolve::Checked;
use super::settings::{Lone, PublishSpec};
use crate::flow::{Alias, Prefix};
use crate::nat::Exemption;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

/// Lone hosts at most: each is the same one with another address.
const MOST_LONE: usize = 64;

/// Reads the gateway's own addresses inside, and adds those of lone hosts: at least one, no two with a
/// common address.
///
/// # Errors
/// The first thing that is wrong.
pub fn inside(raw: &Raw, lone: &[Lone]) -> Checked<Vec<IpNet>> {
    let mut nets: Vec<IpNet> = Vec::new();
    let own = raw.many("inside").iter().map(|here| (here, inside_net(here)));
    let single = |lone: &Lone| IpNet::from(lone.host.addr());
    let hosts = raw.many("lone").iter().zip(lone).map(|(here, lone)| (here, Ok(single(lone))));
    for (here, net) in own.chain(hosts) {
        let net = net?;
        if let Some(other) =
            nets.iter().find(|other| other.contains(&net.network()) || net.contains(&other.network()))
        {
            let cure = "give subnets that have no address in common";
            return Err(ConfigError::at(here, format!("overlaps {other}"), cure));
        }
        nets.push(net);
    }
    if nets.is_empty() {
        let cure = "give the gateway's own address and prefix, e.g. --inside 10.88.0.1/24";
        return Err(ConfigError::new(&Place::Flag("--inside"), "is missing", cure));
    }
    Ok(nets)
}

/// Reads which hosts inside have their neighbours outside.
///
/// # Errors
/// The first thing that is wrong.
pub fn lone(raw: &Raw) -> Checked<Vec<Lone>> {
    let written = raw.many("lone");
    if let Some(beyond) = written.get(MOST_LONE) {
        return Err(ConfigError::at(beyond, "is one too many", format!("give {MOST_LONE} at most")));
    }
    written.iter().map(lone_host).collect()
}

fn lone_host(written: &Written) -> Checked<Lone> {
    let example = "write ADDRESS/LENGTH=ROUTER[=SELF], e.g. 192.0.2.50/24=192.0.2.1";
    let wrong = |problem: &str| ConfigError::at(written, problem, example);
    let mut pieces = written.text.split('=');
    let (host, router, alias) = (pieces.next(), pieces.next(), pieces.next());
    let host: IpNet =
        host.and_then(|text| text.parse().ok()).ok_or_else(|| wrong("has no address with prefix"))?;
    let router: IpAddr =
        router.and_then(|text| text.parse().ok()).ok_or_else(|| wrong("has no address of a router"))?;
    let alias: Option<IpAddr> = alias
        .map(|text| text.parse())
        .transpose()
        .map_err(|_| wrong("has no address for the host itself"))?;
    let on_link = matches!(router, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let bad = !usable(host.addr())
        || host.prefix_len() == 0
        || !(usable(router) || on_link)
        || alias.is_some_and(|alias| !usable(alias));
    if bad || pieces.next().is_some() {
        return Err(wrong("is not of addresses for hosts"));
    }
    let others = [Some(router), alias];
    if others.iter().flatten().any(|ip| ip.is_ipv4() != host.addr().is_ipv4()) {
        return Err(ConfigError::at(written, "is of two families", "give addresses of one family"));
    }
    if others.contains(&Some(host.addr())) || alias == Some(router) {
        return Err(ConfigError::at(written, "has an address twice", "give addresses that differ"));
    }
    Ok(Lone { host, router, alias })
}

fn inside_net(written: &Written) -> Checked<IpNet> {
    let example = "give the gateway's own address and prefix, e.g. 10.88.0.1/24 or fd00:88::1/64";
    let net: IpNet =
        written.text.parse().map_err(|_| ConfigError::at(written, "is no address with prefix", example))?;
    if !usable(net.addr()) {
        return Err(ConfigError::at(written, "is not an address for a host", example));
    }
    let (lengths, cure) = match net {
        IpNet::V4(_) => (8..=30, "give one from /8 to /30"),
        IpNet::V6(_) => (16..=126, "give one from /16 to /126"),
    };
    if !lengths.contains(&net.prefix_len()) {
        return Err(ConfigError::at(written, "has an impossible prefix", cure));
    }
    // The last address of an IPv6 subnet is like any other; its first means all routers (RFC 4291 §2.6.1).
    let ends = match net {
        IpNet::V4(_) => vec![(net.network(), "network"), (net.broadcast(), "broadcast")],
        IpNet::V6(_) => vec![(net.network(), "anycast")],
    };
    for (address, what) in ends {
        if net.addr() == address {
            let first = net.hosts().find(|host| *host != net.network()).unwrap_or(address);
            let cure = format!("give one of its hosts, e.g. {first}/{}", net.prefix_len());
            return Err(ConfigError::at(written, format!("is the {what} address of its subnet"), cure));
        }
    }
    Ok(net)
}

/// Whether a host can have this address and speak from it to others on other links.
pub fn usable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let first = address.octets()[0];
            first != 0 && first != 127 && first < 224
        }
        IpAddr::V6(address) => {
            let common = address.is_unspecified() || address.is_loopback() || address.is_multicast();
            !common && !address.is_unicast_link_local() && address.to_ipv4_mapped().is_none()
        }
    }
}

/// Reads an address; `example` is the cure.
///
/// # Errors
/// It is none.
pub fn parse_address(written: &Written, example: &str) -> Checked<IpAddr> {
    written.text.parse().map_err(|_| ConfigError::at(written, "is no IP address", example))
}

/// Reads the addresses to translate to.
///
/// # Errors
/// The first thing that is wrong.
pub fn external(raw: &Raw, inside: &[IpNet]) -> Checked<Vec<IpAddr>> {
    let mut all = Vec::new();
    for written in raw.many("external") {
        let example = "give an address of this host, e.g. 203.0.113.1";
        let address = parse_address(written, example)?;
        // Sockets may be bound to the host's loopback, and then reach that alone.
        let sockets = raw.one("uplink").is_some_and(|uplink| uplink.text == "sockets");
        let may = usable(address) || (sockets && address.is_loopback());
        if !may {
            return Err(ConfigError::at(written, "is not an address for a host", example));
        }
        // A lone host may have the very address that packets leave from.
        let lone = |net: &IpNet| net.prefix_len() == net.max_prefix_len();
        if let Some(net) = inside.iter().find(|net| net.contains(&address) && !lone(net)) {
            let cure = "translate to an address that no inside host can have, or choose another --inside";
            return Err(ConfigError::at(written, format!("lies in the inside subnet {net}"), cure));
        }
        if all.contains(&address) {
            return Err(ConfigError::at(written, "is given twice", "give it once"));
        }
        all.push(address);
    }
    Ok(all)
}

/// Reads the external ports: ranges with commas between them, in ascending order.
///
/// # Errors
/// The first thing that is wrong.
pub fn ports(written: &Written) -> Checked<Vec<RangeInclusive<u16>>> {
    let cure =
        "give FIRST-LAST with numbers from 1 to 65535, e.g. 32768-60999, or several with commas between";
    let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
    for piece in written.text.split(',').map(str::trim) {
        let here = Written { text: piece.to_owned(), place: written.place.clone() };
        if !piece.contains('-') {
            return Err(ConfigError::at(&here, "is not a range", cure));
        }
        let range = parse_range(piece).map_err(|why| ConfigError::at(&here, why, cure))?;
        if let Some(other) = ranges.iter().find(|other| !apart(other, &range)) {
            let problem = format!("overlaps {}-{}", other.start(), other.end());
            return Err(ConfigError::at(&here, problem, "give each port once"));
        }
        ranges.push(range);
    }
    ranges.sort_unstable_by_key(|range| *range.start());
    Ok(ranges)
}

fn apart(one: &RangeInclusive<u16>, other: &RangeInclusive<u16>) -> bool {
    one.end() < other.start() || other.end() < one.start()
}

/// Reads what is not translated.
///
/// # Errors
/// The first thing that is wrong.
pub fn exemptions(raw: &Raw, inside: &[IpNet]) -> Checked<Vec<Exemption>> {
    let mut all: Vec<Exemption> = Vec::new();
    for written in raw.many("exempt") {
        let exemption = exempt::parse(&written.text)
            .map_err(|error| ConfigError::at(written, error.problem, error.cure))?;
        let within = |net: &&IpNet| {
            let net = Prefix::new(net.addr(), net.prefix_len());
            net.covers(exemption.remote.ip) && net.length <= exemption.remote.length
        };
        if let Some(net) = inside.iter().find(within) {
            let cure = "name destinations outside; hosts of one subnet reach each other without the gateway";
            return Err(ConfigError::at(written, format!("lies in the inside subnet {net}"), cure));
        }
        if !inside.iter().any(|net| net.addr().is_ipv4() == exemption.remote.ip.is_ipv4()) {
            let cure = "add an --inside of that family, or leave it out";
            return Err(ConfigError::at(written, "is of a family that no inside subnet has", cure));
        }
        if all.contains(&exemption) {
            return Err(ConfigError::at(written, "is given twice", "give it once"));
        }
        all.push(exemption);
    }
    Ok(all)
}

/// Reads the port forwards, `limit` ports at most, to hosts in the subnets of `inside` or behind the lone
/// hosts in it.
///
/// # Errors
/// The first thing that is wrong.
pub fn publish_specs(
    raw: &Raw,
    (inside, lone): (&[IpNet], &[Lone]),
    external: &[IpAddr],
    limit: usize,
) -> Checked<Vec<PublishSpec>> {
    let mut specs: Vec<PublishSpec> = Vec::new();
    for written in raw.many("publish") {
        let spec = publish::parse(&written.text)
            .map_err(|error| ConfigError::at(written, error.problem, error.cure))?;
        // Of a family without a given address those of the interface are taken.
        let known = |address: &IpAddr| external.iter().any(|ours| ours.is_ipv4() == address.is_ipv4());
        if let Some(address) = spec.address.filter(|address| known(address) && !external.contains(address)) {
            let cure = format!("add --external {address}, or leave the address out");
            return Err(ConfigError::at(written, "names an address that is not external", cure));
        }
        target(written, &spec, inside, lone)?;
        if let Some(other) = specs.iter().find(|other| clash(&spec, other)) {
            let cure = "give each external port once for a protocol and address";
            return Err(ConfigError::at(written, format!("clashes with `{other}`"), cure));
        }
        specs.push(spec);
        if specs.iter().map(|spec| spec.ports.len()).sum::<usize>() > limit {
            let cure = "publish fewer ports, or raise --limit publish=N";
            return Err(ConfigError::at(
                written,
                format!("goes beyond the limit of {limit} published ports"),
                cure,
            ));
        }
    }
    Ok(specs)
}

/// Whether a forward leads to a host behind the gateway.
fn target(written: &Written, spec: &PublishSpec, inside: &[IpNet], lone: &[Lone]) -> Checked<()> {
    if inside.contains(&IpNet::from(spec.inside)) {
        return Ok(());
    }
    // A lone host may be the router of others, of whom nobody else knows.
    let somebody = !(spec.inside.is_unspecified() || spec.inside.is_loopback() || spec.inside.is_multicast());
    let like = |lone: &Lone| lone.host.addr().is_ipv4() == spec.inside.is_ipv4();
    let routed = lone.iter().any(|lone| like(lone) && lone.router != spec.inside);
    if somebody && routed {
        return Ok(());
    }
    let Some(net) = inside.iter().find(|net| net.contains(&spec.inside)) else {
        let problem = format!("forwards to {}, which is not inside", spec.inside);
        return Err(ConfigError::at(written, problem, "name a host of an --inside subnet"));
    };
    if net.addr() == spec.inside {
        let cure = "name a host behind the gateway";
        return Err(ConfigError::at(written, "forwards to the gateway itself", cure));
    }
    let broadcast = net.addr().is_ipv4() && net.broadcast() == spec.inside;
    if broadcast || net.network() == spec.inside {
        let cure = "name one host of the subnet";
        return Err(ConfigError::at(written, "forwards to an address that no host has", cure));
    }
    Ok(())
}

/// Reads which addresses inside stand for the host's loopback: none, the gateway's own, or those that
/// are named, one of each family at most.
///
/// # Errors
/// The first thing that is wrong.
pub fn host_loopback(raw: &Raw, inside: &[IpNet], lone: &[Lone]) -> Checked<Vec<Alias>> {
    let mut aliases: Vec<Alias> = Vec::new();
    let router =
        |net: &IpNet| lone.iter().find(|lone| lone.host.addr() == net.addr()).map(|lone| lone.router);
    let written = raw.many("host-loopback");
    for here in written {
        let cure = "give off, on, or an address that no inside host has";
        let alone = |text: &str| here.text == text && written.len() == 1;
        if alone("off") {
            return Ok(Vec::new());
        }
        let named: Vec<IpAddr> = if alone("on") {
            inside.iter().map(|net| router(net).unwrap_or(net.addr())).collect()
        } else {
            vec![here.text.parse().map_err(|_| ConfigError::at(here, "is no address", cure))?]
        };
        for address in named {
            if !usable(address) && !lone.iter().any(|lone| lone.router == address) {
                return Err(ConfigError::at(here, "is not an address for a host", cure));
            }
            let first = !aliases.iter().any(|alias| alias.inside.is_ipv4() == address.is_ipv4());
            if first {
                let host: IpAddr = match address {
                    IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                    IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
                };
                aliases.push(Alias { inside: address, port: None, host: (host, 0).into() });
            } else if here.text != "on" {
                return Err(ConfigError::at(here, "is a second one of its family", "give one of each"));
            }
        }
    }
    Ok(aliases)
}

/// Whether two forwards want the same external port.
fn clash(one: &PublishSpec, other: &PublishSpec) -> bool {
    let elsewhere = one.inside.is_ipv4() != other.inside.is_ipv4()
        || matches!((one.address, other.address), (Some(one), Some(other)) if one != other);
    one.protocol == other.protocol && !apart(&one.ports, &other.ports) && !elsewhere
}

/// Whether an inside prefix is one that nobody outside has: RFC 1918, RFC 6598, RFC 3927, RFC 2544
/// and the documentation ranges of RFC 5737; RFC 4193 and RFC 3849.
pub fn private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [a, b, ..] = address.octets();
            let shared = a == 100 && (64..128).contains(&b) || a == 198 && (18..20).contains(&b);
            address.is_private() || address.is_link_local() || address.is_documentation() || shared
        }
        IpAddr::V6(address) => {
            let [first, second, ..] = address.segments();
            first & 0xfe00 == 0xfc00 || (first, second) == (0x2001, 0x0db8)
        }
    }
}
