//! From settings to open devices: what is chosen, and why, in the order in which it is needed.

use super::clock::Clock;
use super::host::Host;
use super::links::Links;
use super::reload::describe;
use super::stock::Stock;
use crate::config::{GuardChoice, Settings, TapChoice, TapOffload, UplinkChoice};
use crate::control::About;
use crate::flow::LinkInfo;
use crate::gateway::{Gateway, GatewayConfig};
use crate::io::filter::Wanted;
use crate::io::guard::{self, Guard};
use crate::io::netlink::Netlink;
use crate::io::proxy::ArpProxy;
use crate::io::setup::{self, InsideConfig, Outside};
use crate::io::uplink::raw::RawUplink;
use crate::io::uplink::{self, Chosen};
use crate::io::{Link, tap::Tap};
use crate::nat::NatConfig;
use crate::nat::blocks::Blocks;
use crate::nat::config::DEFAULT_PORTS;
use crate::wire::MacAddr;
use anyhow::{Context, bail};
use ipnet::Ipv4Net;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::thread;

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
    refuse_ipv6(settings)?;
    let netlink = Netlink::open().context("netlink socket")?;
    let outside = setup::outside(&netlink, settings.outside.as_deref())?;
    let external = external_addresses(settings, &outside)?;
    let host_addresses = other_addresses(&netlink, settings, &external)?;
    check_overlap(settings, &external, &host_addresses)?;
    let foreign = foreign_addresses(&netlink, &outside, &external)?;

    let inside = inside_config(settings);
    let (tap, made) = setup::inside(&inside)?;
    let wanted = Wanted { addresses: external.clone(), ports: wanted_ports(settings) };
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
    let guard = Guard::new(ask, packet, outside.interface.index, &external)?;

    let [seed, stock_seed, mac_seed] = seeds()?;
    let mac = MacAddr(settings.mac.unwrap_or_else(|| made_up_mac(&mac_seed)));
    let nat = nat_config(settings, &external, &host_addresses, guard.kind() != guard::Kind::Off);
    Blocks::of(&nat).context("profile cgnat")?;
    let stock = nat.leased.then(|| Stock::new(&nat.external, &nat.ports, stock_seed));
    let lost = foreign.iter().map(|foreign| IpAddr::V4(foreign.address)).collect();
    answer_for(&foreign, &outside);
    let config = GatewayConfig::new(Vec::new(), mac, tap.info(), uplink.link.info(), nat);
    let config = settings.gateway(config);
    let about = about(settings, &tap, &outside, &uplink, &guard, &config, clock);
    let links = Links::new(vec![Box::new(tap), uplink.link, Box::new(to_host)]);
    let host = Host { outside: outside.interface.name, inside, made, lost };
    Ok(Started { gateway: Gateway::new(config, seed), links, guard, stock, host, about })
}

/// The gateway's settings for changed `settings`, where everything that needs a restart is as
/// before: that is in `config`. `external` are the addresses to go on with, `None` to find them anew.
///
/// # Errors
/// The thing, the cause and the cure; what the host says of addresses is asked again.
pub fn again(
    settings: &Settings,
    config: &GatewayConfig,
    outside: &str,
    external: Option<&[IpAddr]>,
) -> anyhow::Result<GatewayConfig> {
    refuse_ipv6(settings)?;
    let netlink = Netlink::open().context("netlink socket")?;
    let external = match external {
        Some(external) => four(external),
        None => {
            let outside = setup::outside(&netlink, Some(outside))?;
            let external = external_addresses(settings, &outside)?;
            let foreign = foreign_addresses(&netlink, &outside, &external)?;
            if let (Some(foreign), true) = (foreign.first(), config.nat.leased) {
                bail!(guard::GuardError::NotLocal(foreign.address));
            }
            let before = foreign_addresses(&netlink, &outside, &four(&config.nat.external))?;
            let mut odd = before.iter().chain(&foreign).filter(|one| one.on_link);
            let both = |one: &Foreign| {
                [&before, &foreign].iter().all(|all| all.iter().any(|it| it.address == one.address))
            };
            if let Some(one) = odd.find(|one| !both(one)) {
                bail!(
                    "external {}: ARP is answered for it from the start on; start the gateway again",
                    one.address
                );
            }
            external
        }
    };
    let host_addresses = other_addresses(&netlink, settings, &external)?;
    check_overlap(settings, &external, &host_addresses)?;
    let nat = nat_config(settings, &external, &host_addresses, config.nat.leased);
    Blocks::of(&nat).context("profile cgnat")?;
    Ok(settings.gateway(GatewayConfig { nat, ..config.clone() }))
}

/// Links, guard and netlink carry IPv4 alone.
fn refuse_ipv6(settings: &Settings) -> anyhow::Result<()> {
    let inside = settings.inside.iter().find(|net| net.addr().is_ipv6()).map(|net| format!("inside {net}"));
    let external = settings.external.iter().find(|address| address.is_ipv6());
    match inside.or_else(|| external.map(|address| format!("external {address}"))) {
        Some(what) => bail!("{what}: IPv6 is not carried; give IPv4 addresses alone"),
        None => Ok(()),
    }
}

fn inside_config(settings: &Settings) -> InsideConfig {
    let (tap, tap_fd) = match &settings.tap {
        TapChoice::Name(name) => (name.clone(), None),
        TapChoice::Fd(number) => (String::new(), Some(*number)),
    };
    let offload = settings.tap_offload == TapOffload::Auto;
    InsideConfig { tap, tap_fd, offload, bridge: settings.bridge.clone(), mtu: settings.mtu }
}

fn external_addresses(settings: &Settings, outside: &Outside) -> anyhow::Result<Vec<Ipv4Addr>> {
    if settings.external.is_empty() {
        return Ok(outside.addresses.clone());
    }
    Ok(four(&settings.external))
}

/// The IPv4 ones.
fn four(addresses: &[IpAddr]) -> Vec<Ipv4Addr> {
    let four = |address: &IpAddr| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    };
    addresses.iter().filter_map(four).collect()
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
        .filter(|address| !settings.inside.iter().any(|net| net.contains(&IpAddr::V4(*address))))
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
        if let Some(address) =
            external.iter().chain(others).find(|address| net.contains(&IpAddr::V4(**address)))
        {
            bail!(
                "inside {net}: overlaps with {address}, an address of this host outside; \
                 choose another subnet with --inside"
            );
        }
    }
    Ok(())
}

/// The ports, and the published ones that lie outside them.
fn wanted_ports(settings: &Settings) -> Vec<RangeInclusive<u16>> {
    let published = settings.publish.iter().map(|spec| spec.ports.clone());
    settings.ports.clone().unwrap_or_else(|| DEFAULT_PORTS.to_vec()).into_iter().chain(published).collect()
}

fn nat_config(settings: &Settings, external: &[Ipv4Addr], others: &[Ipv4Addr], leased: bool) -> NatConfig {
    NatConfig {
        host_addresses: others.iter().copied().map(IpAddr::V4).collect(),
        leased,
        ..settings.nat(external.iter().copied().map(IpAddr::V4).collect())
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

fn about(
    settings: &Settings,
    tap: &Tap,
    outside: &Outside,
    uplink: &Chosen,
    guard: &Guard,
    config: &GatewayConfig,
    clock: Clock,
) -> About {
    let mut about = About {
        name: settings.name.clone(),
        pid: std::process::id(),
        started: humantime::format_rfc3339_seconds(clock.base()).to_string(),
        tap: tap.name().to_owned(),
        tap_offload: offloads(tap.info()),
        bridge: settings.bridge.clone(),
        mac: config.mac.to_string(),
        mtu: settings.mtu,
        outside: outside.interface.name.clone(),
        uplink: uplink.kind.word().to_owned(),
        guard: guard.kind().word().to_owned(),
        reasons: vec![
            format!("uplink {}: {}", uplink.kind.word(), uplink.why),
            format!("guard {}: {}", guard.kind().word(), guard.why()),
        ],
        ..About::default()
    };
    describe(settings, config, &mut about);
    about
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
