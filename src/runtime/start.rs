//! From settings to open devices: what is chosen, and why, in the order in which it is needed.

use super::clock::Clock;
use super::host::Host;
use super::links::Links;
use super::stock::Stock;
use crate::config::{GuardChoice, Settings, TapChoice, TapOffload, UplinkChoice};
use crate::control::About;
use crate::flow::LinkInfo;
use crate::gateway::{Gateway, GatewayConfig, Subnet};
use crate::io::filter::Wanted;
use crate::io::guard::{self, Guard};
use crate::io::netlink::{Family, Netlink};
use crate::io::proxy::ArpProxy;
use crate::io::setup::{self, InsideConfig, Outside};
use crate::io::uplink::raw::RawUplink;
use crate::io::uplink::{self, Chosen};
use crate::io::{Link, tap::Tap};
use crate::nat::{NatConfig, Policy};
use crate::wire::MacAddr;
use anyhow::{Context, bail};
use ipnet::{IpNet, Ipv4Net};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::thread;

/// The host's usual ephemeral range and above: where no service expects its port to be free.
const PORTS: RangeInclusive<u16> = 32768..=65535;

/// Everything open and chosen.
#[derive(Debug)]
pub struct Started {
    /// The box.
    pub gateway: Gateway,
    /// Its links.
    pub links: Links,
    /// The guard of its ports.
    pub guard: Guard,
    /// Where its ports come from; `None` where the host has no say.
    pub stock: Option<Stock>,
    /// The host around it.
    pub host: Host,
    /// All of it in words.
    pub about: About,
}

/// Opens all that `settings` name.
///
/// # Errors
/// The thing, the cause and the cure.
pub fn start(settings: &Settings, clock: Clock) -> anyhow::Result<Started> {
    let netlink = Netlink::open().context("netlink socket")?;
    let outside = setup::outside(&netlink, settings.outside.as_deref(), &[Family::Four])?;
    let external = external_addresses(settings, &outside)?;
    let host_addresses = other_addresses(&netlink, settings, &external)?;
    check_overlap(settings, &external, &host_addresses)?;
    let foreign = foreign_addresses(&netlink, &outside, &external)?;
    let ports = settings.ports.clone().unwrap_or(PORTS);

    let inside = inside_config(settings);
    let (tap, made) = setup::inside(&inside)?;
    let wanted = Wanted {
        addresses: external.iter().copied().map(IpAddr::V4).collect(),
        ports: wanted_ports(settings, &ports),
    };
    let wanted_addresses = wanted.addresses.clone();
    let kind = match settings.uplink {
        UplinkChoice::Auto => None,
        UplinkChoice::Packet => Some(uplink::Kind::Packet),
        UplinkChoice::Raw => Some(uplink::Kind::Raw),
    };
    let uplink = uplink::open(kind, &outside.interface.name, &wanted, settings.mtu)?;
    let to_host = RawUplink::host(wanted, settings.mtu)?;
    let ask = match settings.guard {
        GuardChoice::Auto => None,
        GuardChoice::Tcx => Some(guard::Kind::Tcx),
        GuardChoice::Hold => Some(guard::Kind::Hold),
        GuardChoice::Off => Some(guard::Kind::Off),
    };
    let packet = uplink.kind == uplink::Kind::Packet;
    let guard = Guard::new(ask, packet, outside.interface.index, &wanted_addresses)?;

    let [seed, stock_seed, mac_seed] = seeds()?;
    let mac = MacAddr(settings.mac.unwrap_or_else(|| made_up_mac(&mac_seed)));
    let nat = nat_config(settings, &external, &host_addresses, &ports, guard.kind());
    let stock = nat.leased.then(|| Stock::new(&nat.external, &ports, stock_seed));
    let about = about(settings, &tap, &outside, &uplink, &guard, &nat, mac, clock);
    let lost = foreign.iter().map(|foreign| IpAddr::V4(foreign.address)).collect();
    answer_for(&foreign, &outside);
    let subnets =
        settings.inside.iter().map(|net| Subnet { gateway: net.addr(), prefix: net.prefix_len() }).collect();
    let config = GatewayConfig::new(subnets, mac, tap.info(), uplink.link.info(), nat);
    let links = Links::new(vec![Box::new(tap), uplink.link, Box::new(to_host)]);
    let host = Host { outside: outside.interface.name, inside, made, lost };
    Ok(Started { gateway: Gateway::new(config, seed), links, guard, stock, host, about })
}

fn inside_config(settings: &Settings) -> InsideConfig {
    let (tap, tap_fd) = match &settings.tap {
        TapChoice::Name(name) => (name.clone(), None),
        TapChoice::Fd(number) => (String::new(), Some(*number)),
    };
    let offload = settings.tap_offload == TapOffload::Auto;
    InsideConfig { tap, tap_fd, offload, bridge: settings.bridge.clone(), mtu: settings.mtu, six: false }
}

fn external_addresses(settings: &Settings, outside: &Outside) -> anyhow::Result<Vec<Ipv4Addr>> {
    if settings.external.is_empty() {
        let four = |address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        };
        return Ok(outside.externals(Family::Four)?.into_iter().filter_map(four).collect());
    }
    let given = settings.external.iter().map(|address| match address {
        IpAddr::V4(address) => Ok(*address),
        IpAddr::V6(address) => bail!("external {address}: IPv6 is not translated; name an IPv4 address"),
    });
    given.collect()
}

/// The host's addresses that are not translated to: packets to them go to the host.
fn other_addresses(
    netlink: &Netlink,
    settings: &Settings,
    external: &[Ipv4Addr],
) -> anyhow::Result<Vec<Ipv4Addr>> {
    let all = netlink.addresses().context("list the host's addresses")?;
    let mut others: Vec<_> = all
        .into_iter()
        .filter_map(|(_, address, _)| match address {
            IpAddr::V4(address) if !address.is_loopback() && !external.contains(&address) => Some(address),
            _ => None,
        })
        // What is inside is reached over the bridge, not through the gateway.
        .filter(|address| !settings.inside.iter().any(|net| net.contains(address)))
        .collect();
    others.sort_unstable();
    others.dedup();
    Ok(others)
}

/// An address to translate to that no interface of the host has.
struct Foreign {
    address: Ipv4Addr,
    /// It lies in a network that the outside interface is on.
    on_link: bool,
}

/// Answers ARP for the foreign addresses of the outside network, from a thread of its own: nothing
/// else waits for it.
fn answer_for(foreign: &[Foreign], outside: &Outside) {
    let here: Vec<_> =
        foreign.iter().filter(|foreign| foreign.on_link).map(|foreign| foreign.address).collect();
    if here.is_empty() {
        return;
    }
    let (name, list) =
        (outside.interface.name.clone(), here.iter().map(Ipv4Addr::to_string).collect::<Vec<_>>());
    let served = ArpProxy::open(outside.interface.index, outside.interface.mac, &here).and_then(|proxy| {
        let lost = move |error| tracing::warn!("ARP on {name} is not answered any more: {error}");
        thread::Builder::new().name("arp".to_owned()).spawn(move || proxy.serve().unwrap_or_else(lost))
    });
    match served {
        Ok(_) => tracing::info!("answering ARP for {} on {}", list.join(", "), outside.interface.name),
        Err(error) => tracing::warn!(
            "external {}: nobody answers ARP for it on {} ({error}), so no answer will come back: give it to \
             the interface (and leave --guard at auto), or have the router send it to this host",
            list.join(", "),
            outside.interface.name
        ),
    }
}

/// Those of the external addresses that no interface has.
fn foreign_addresses(
    netlink: &Netlink,
    outside: &Outside,
    external: &[Ipv4Addr],
) -> anyhow::Result<Vec<Foreign>> {
    let all = netlink.addresses().context("list the host's addresses")?;
    let beside = |address: Ipv4Addr, ip: IpAddr, prefix| match ip {
        IpAddr::V4(ip) => Ipv4Net::new(ip, prefix).is_ok_and(|net| net.contains(&address)),
        IpAddr::V6(_) => false,
    };
    let on_link = |address| {
        let mut here = all.iter().filter(|(index, ..)| *index == outside.interface.index);
        here.any(|(_, ip, prefix)| beside(address, *ip, *prefix))
    };
    let foreign = external.iter().filter(|address| !all.iter().any(|(_, ip, _)| ip == *address));
    Ok(foreign.map(|address| Foreign { address: *address, on_link: on_link(*address) }).collect())
}

/// Inside and outside must not overlap (RFC 4787 REQ-7), and the gateway's own address must be
/// nobody else's.
fn check_overlap(settings: &Settings, external: &[Ipv4Addr], others: &[Ipv4Addr]) -> anyhow::Result<()> {
    for net in &settings.inside {
        if let Some(address) = external.iter().chain(others).find(|address| net.contains(*address)) {
            bail!(
                "inside {net}: overlaps with {address}, an address of this host outside; \
                 choose another subnet with --inside"
            );
        }
    }
    Ok(())
}

/// The range, and the published ports that lie outside it.
fn wanted_ports(settings: &Settings, ports: &RangeInclusive<u16>) -> Vec<RangeInclusive<u16>> {
    let published = settings.publish.iter().map(|spec| spec.ports.clone());
    std::iter::once(ports.clone()).chain(published).collect()
}

fn nat_config(
    settings: &Settings,
    external: &[Ipv4Addr],
    others: &[Ipv4Addr],
    ports: &RangeInclusive<u16>,
    guard: guard::Kind,
) -> NatConfig {
    NatConfig {
        external: external.iter().copied().map(IpAddr::V4).collect(),
        host_addresses: others.iter().copied().map(IpAddr::V4).collect(),
        ports: vec![ports.clone()],
        leased: guard != guard::Kind::Off,
        policy: Policy {
            mapping: settings.nat.mapping,
            filtering: settings.nat.filtering,
            hairpin: settings.nat.hairpin,
            timeouts: settings.nat.timeouts,
            ..Policy::default()
        },
        rules: Vec::new(),
        exempt: Vec::new(),
        host_access: settings.nat.host_access,
        limits: settings.nat.limits,
    }
}

/// Randomness from the kernel: for the translator, the port stock and the MAC.
fn seeds() -> anyhow::Result<[[u8; 32]; 3]> {
    let mut seeds = [[0; 32]; 3];
    for seed in &mut seeds {
        let mut filled = 0;
        while filled < seed.len() {
            let rest = &mut seed[filled..];
            filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty())
                .context("random numbers from the kernel")?;
        }
    }
    Ok(seeds)
}

/// A unicast address of the local kind (IEEE 802: the second lowest bit of the first byte).
fn made_up_mac(random: &[u8; 32]) -> [u8; 6] {
    [random[0] & 0xfc | 2, random[1], random[2], random[3], random[4], random[5]]
}

#[expect(clippy::too_many_arguments, reason = "one of each thing that was chosen")]
fn about(
    settings: &Settings,
    tap: &Tap,
    outside: &Outside,
    uplink: &Chosen,
    guard: &Guard,
    nat: &NatConfig,
    mac: MacAddr,
    clock: Clock,
) -> About {
    About {
        name: settings.name.clone(),
        pid: std::process::id(),
        started: humantime::format_rfc3339_seconds(clock.base()).to_string(),
        tap: tap.name().to_owned(),
        tap_offload: offloads(tap.info()),
        bridge: settings.bridge.clone(),
        inside: settings.inside.iter().copied().map(IpNet::V4).collect(),
        mac: mac.to_string(),
        mtu: settings.mtu,
        outside: outside.interface.name.clone(),
        external: nat.external.clone(),
        ports: nat
            .ports
            .iter()
            .map(|range| format!("{}-{}", range.start(), range.end()))
            .collect::<Vec<_>>()
            .join(","),
        uplink: uplink.kind.word().to_owned(),
        guard: guard.kind().word().to_owned(),
        reasons: vec![
            format!("uplink {}: {}", uplink.kind.word(), uplink.why),
            format!("guard {}: {}", guard.kind().word(), guard.why()),
        ],
    }
}

fn offloads(info: LinkInfo) -> String {
    let has = [("checksum", info.checksum), ("tso", info.tcp4), ("uso", info.udp)];
    let words: Vec<_> = has.into_iter().filter(|(_, has)| *has).map(|(word, _)| word).collect();
    if words.is_empty() { "none".to_owned() } else { words.join("+") }
}

fn listed(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

/// What was chosen, and why, on one line.
pub fn line(about: &About) -> String {
    let bridge = about.bridge.as_ref().map(|bridge| format!(" on {bridge}")).unwrap_or_default();
    format!(
        "serving {} as {} ports {}: tap {}{bridge} (offload {}), gateway MAC {}, outside {}; {}",
        listed(&about.inside),
        listed(&about.external),
        about.ports,
        about.tap,
        about.tap_offload,
        about.mac,
        about.outside,
        about.reasons.join("; "),
    )
}
