//! From settings to open devices: what is chosen, and why, in the order in which it is needed.

use super::addresses::{self, Answering, Foreign};
use super::clock::Clock;
use super::host::{Host, prefixes};
use super::links::Links;
use super::portless::Portless;
use super::reload::describe;
use super::stock::Stock;
use crate::config::{GuardChoice, Settings, TapChoice, TapOffload, UplinkChoice, exempt};
use crate::control::About;
use crate::flow::{LinkInfo, Prefix};
use crate::gateway::{Gateway, GatewayConfig, Subnet};
use crate::io::filter::Wanted;
use crate::io::guard::{self, Guard};
use crate::io::netlink::{Family, Netlink};
use crate::io::setup::{self, InsideConfig, Outside};
use crate::io::uplink::raw::RawUplink;
use crate::io::uplink::{self, Chosen};
use crate::io::{Link, tap::Tap};
use crate::nat::NatConfig;
use crate::nat::blocks::Blocks;
use crate::nat::config::DEFAULT_PORTS;
use crate::wire::MacAddr;
use anyhow::{Context, bail};
use ipnet::IpNet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

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
    /// ARP that is to be answered.
    pub arp: Option<Answering>,
    /// All of it in words.
    pub about: About,
}

/// Opens all that `settings` name.
///
/// # Errors
/// The thing, the cause and the cure.
pub fn start(settings: &Settings, clock: Clock) -> anyhow::Result<Started> {
    let netlink = Netlink::open().context("netlink socket")?;
    let outside = setup::outside(&netlink, settings.outside.as_deref(), &addresses::families(settings))?;
    let external = addresses::external(settings, &outside)?;
    let host_addresses = addresses::others(&netlink, settings, &external)?;
    addresses::check_overlap(settings, &external, &host_addresses)?;
    let foreign = Foreign::among(&external, &netlink, &outside)?;

    let inside = inside_config(settings);
    let (tap, made) = setup::inside(&inside)?;
    let nets = settings.inside.iter().map(|net| Prefix::new(net.addr(), net.prefix_len()));
    let prefixes = prefixes(&settings.translations, &settings.exempt, nets);
    let (addresses, ports) = (external.clone(), wanted_ports(settings));
    let wanted = Wanted { addresses, ports, prefixes, protocols: Vec::new() };
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
    check_uplink(settings, packet)?;
    let guard = Guard::new(ask, packet, outside.interface.index, &external)?;

    let [seed, stock_seed, mac_seed] = seeds()?;
    let mac = MacAddr(settings.mac.unwrap_or_else(|| made_up_mac(&mac_seed)));
    let nat = nat_config(settings, &external, &host_addresses, guard.kind() != guard::Kind::Off);
    Blocks::of(&nat).context("profile cgnat")?;
    let stock = nat.leased.then(|| Stock::new(&nat.external, &nat.ports, stock_seed));
    let lost = foreign.iter().map(|foreign| foreign.address).collect();
    let arp = addresses::answer_for(&foreign, &outside);
    let config = GatewayConfig::new(Vec::new(), mac, tap.info(), uplink.link.info(), nat);
    let config = settings.gateway(config);
    let about = about(settings, &tap, &outside, &uplink, &guard, &config, clock);
    let links = Links::new(vec![Box::new(tap), uplink.link, Box::new(to_host)]);
    guard.silence(&config.nat.ports);
    let portless = Portless::default();
    let host = Host { outside: outside.interface.name, packet, inside, made, lost, portless };
    Ok(Started { gateway: Gateway::new(config, seed), links, guard, stock, host, arp, about })
}

/// Raw IP sockets are given nothing to addresses that the host does not have.
fn check_uplink(settings: &Settings, packet: bool) -> anyhow::Result<()> {
    let translation =
        settings.translations.first().map(|pair| format!("prefix-translation {}", pair.inside()));
    let exemption = settings.exempt.first().map(|exemption| format!("exempt {}", exempt::text(exemption)));
    match translation.or(exemption) {
        Some(setting) if !packet => bail!(
            "{setting}: raw IP sockets are given nothing to addresses that the host does not have; \
             use --uplink packet"
        ),
        _ => Ok(()),
    }
}

/// The gateway's settings for changed `settings`, where everything that needs a restart is as
/// before: that is in `config`. `packet` says whether the uplink is of AF_PACKET. `external` are the addresses to go on with, `None` to find them anew.
///
/// # Errors
/// The thing, the cause and the cure; what the host says of addresses is asked again.
pub fn again(
    settings: &Settings,
    config: &GatewayConfig,
    outside: &str,
    packet: bool,
    external: Option<&[IpAddr]>,
) -> anyhow::Result<GatewayConfig> {
    check_families(settings, config)?;
    check_uplink(settings, packet)?;
    let netlink = Netlink::open().context("netlink socket")?;
    let external = match external {
        Some(external) => external.to_vec(),
        None => {
            let outside = setup::outside(&netlink, Some(outside), &addresses::families(settings))?;
            let external = addresses::external(settings, &outside)?;
            let foreign = Foreign::among(&external, &netlink, &outside)?;
            if let (Some(foreign), true) = (foreign.first(), config.nat.leased) {
                bail!(guard::GuardError::NotLocal(foreign.address));
            }
            let before = Foreign::among(&config.nat.external, &netlink, &outside)?;
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
    let host_addresses = addresses::others(&netlink, settings, &external)?;
    addresses::check_overlap(settings, &external, &host_addresses)?;
    let nat = nat_config(settings, &external, &host_addresses, config.nat.leased);
    Blocks::of(&nat).context("profile cgnat")?;
    Ok(settings.gateway(GatewayConfig { nat, ..config.clone() }))
}

/// Bridge and outside addresses are made ready for the families that the inside speaks at start.
fn check_families(settings: &Settings, config: &GatewayConfig) -> anyhow::Result<()> {
    let before = |net: &&IpNet| {
        let same = |subnet: &Subnet| Family::of(subnet.gateway) == Family::of(net.addr());
        config.subnets.iter().any(same)
    };
    match settings.inside.iter().find(|net| !before(net)) {
        Some(net) => {
            bail!("inside {net}: {} was not served at start; start the gateway again", Family::of(net.addr()))
        }
        None => Ok(()),
    }
}

fn inside_config(settings: &Settings) -> InsideConfig {
    let (tap, tap_fd) = match &settings.tap {
        TapChoice::Name(name) => (name.clone(), None),
        TapChoice::Fd(number) => (String::new(), Some(*number)),
    };
    let offload = settings.tap_offload == TapOffload::Auto;
    let six = addresses::families(settings).contains(&Family::Six);
    InsideConfig { tap, tap_fd, offload, bridge: settings.bridge.clone(), mtu: settings.mtu, six }
}

/// The ports, and the published ones that lie outside them.
fn wanted_ports(settings: &Settings) -> Vec<RangeInclusive<u16>> {
    let published = settings.publish.iter().map(|spec| spec.ports.clone());
    settings.ports.clone().unwrap_or_else(|| DEFAULT_PORTS.to_vec()).into_iter().chain(published).collect()
}

fn nat_config(settings: &Settings, external: &[IpAddr], others: &[IpAddr], leased: bool) -> NatConfig {
    NatConfig { host_addresses: others.to_vec(), leased, ..settings.nat(external.to_vec()) }
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
