//! From settings to open devices: what is chosen, and why, in the order in which it is needed.

use super::addresses::{self, Answering, Foreign};
use super::clock::Clock;
use super::host::Host;
use super::links::Links;
use super::portless::Portless;
use super::reload::describe;
use super::stock::Stock;
use super::way::{self, Way};
use crate::config::{Settings, TapChoice, TapOffload, UplinkChoice, exempt};
use crate::control::About;
use crate::flow::{LinkId, LinkInfo};
use crate::gateway::{ALIASES, Gateway, GatewayConfig, HOST, INSIDE, OUTSIDE, Subnet};
use crate::io::guard::{self, Guard};
use crate::io::netlink::{Family, Netlink};
use crate::io::setup::{self, InsideConfig};
use crate::io::switch::Switch;
use crate::io::uplink::{self, Chosen};
use crate::io::{Link, tap::Tap};
use crate::nat::NatConfig;
use crate::nat::blocks::Blocks;
use crate::wire::MacAddr;
use anyhow::{Context, bail};
use ipnet::IpNet;
use std::net::IpAddr;
use std::os::fd::{IntoRawFd, OwnedFd};

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
    /// Questions for addresses outside that are to be answered.
    pub answering: Vec<Answering>,
    /// All of it in words.
    pub about: About,
}

/// Opens all that `settings` name. `taps` are switched with the TAP of the settings, if there are any.
///
/// # Errors
/// The thing, the cause and the cure.
pub fn start(settings: &Settings, taps: Vec<OwnedFd>, clock: Clock) -> anyhow::Result<Started> {
    let netlink = Netlink::open().context("netlink socket")?;
    let Way { uplink, to_host, to_aliases, guard, external, anywhere, host_addresses, foreign, outside } =
        way::open(settings, &netlink)?;
    let packet = uplink.kind == uplink::Kind::Packet;
    check_uplink(settings, packet, Some(&uplink.why))?;
    let inside = inside_config(settings);
    let (tap, made) = setup::inside(&inside)?;

    let [seed, stock_seed, mac_seed] = seeds()?;
    let mac = MacAddr(settings.mac.unwrap_or_else(|| made_up_mac(&mac_seed)));
    let nat = nat_config(settings, &external, &host_addresses, guard.kind() != guard::Kind::Off);
    let publish_anywhere = guard.kind() == guard::Kind::Sockets;
    let nat = NatConfig { publish_anywhere, ..nat };
    Blocks::of(&nat).context("profile cgnat")?;
    let stock = nat.leased.then(|| Stock::new(&nat.external, &nat.ports, stock_seed));
    let lost = foreign.iter().map(|foreign| foreign.address).collect();
    let answering = outside.as_ref().map(|outside| addresses::answer_for(&foreign, outside));
    let answering = answering.unwrap_or_default();
    let outside = outside.map_or_else(|| "sockets".to_owned(), |outside| outside.interface.name);
    let tap = switched(tap, taps, mac, settings.mtu)?;
    let config = GatewayConfig::new(Vec::new(), mac, tap.info(), uplink.link.info(), nat);
    let host_by_uplink = uplink.kind == uplink::Kind::Sockets;
    let config = GatewayConfig { host_by_uplink, ..settings.gateway(config) };
    let about = about(settings, tap.as_ref(), &outside, &uplink, &guard, &config, clock);
    let mut links: Vec<(LinkId, Box<dyn Link>)> = vec![(INSIDE, tap), (OUTSIDE, uplink.link)];
    links.extend(to_host.map(|link| (HOST, link)));
    links.extend(to_aliases.map(|link| (ALIASES, link)));
    let mut links = Links::new(links);
    links.set_domains(&config.domains);
    guard.silence(&config.nat.ports);
    let portless = Portless::default();
    let follows = settings.external.is_empty();
    let (forward, resolver, instead) = (settings.dns_forward.clone(), None, None);
    let first = None;
    let host = Host {
        forward,
        resolver,
        instead,
        outside,
        packet,
        inside,
        made,
        lost,
        follows,
        portless,
        first,
        anywhere,
    };
    Ok(Started { gateway: Gateway::new(config, seed), links, guard, stock, host, answering, about })
}

/// The TAP, and what it is switched with, as one link.
fn switched(first: Tap, taps: Vec<OwnedFd>, mac: MacAddr, mtu: u16) -> anyhow::Result<Box<dyn Link>> {
    if taps.is_empty() {
        return Ok(Box::new(first));
    }
    let mut ports: Vec<Box<dyn Link>> = vec![Box::new(first)];
    for tap in taps {
        ports.push(Box::new(Tap::adopt(tap.into_raw_fd(), mtu)?));
    }
    Ok(Box::new(Switch::new(ports, mac).context("a switch of the namespaces' TAPs")?))
}

/// Other sockets than those of AF_PACKET are given nothing to addresses that the host does not have.
/// `why` are the words for the uplink that was chosen, where one was.
fn check_uplink(settings: &Settings, packet: bool, why: Option<&str>) -> anyhow::Result<()> {
    let translation =
        settings.translations.first().map(|pair| format!("prefix-translation {}", pair.inside()));
    let exemption = settings.exempt.first().map(|exemption| format!("exempt {}", exempt::text(exemption)));
    let Some(setting) = translation.or(exemption).filter(|_| !packet) else { return Ok(()) };
    match why.filter(|_| settings.uplink == UplinkChoice::Auto) {
        Some(why) => bail!(
            "{setting}: takes --uplink packet, and this host has no way for it: {why}; see tapnat doctor"
        ),
        None => bail!(
            "{setting}: sockets are given nothing to addresses that the host does not have; \
             use --uplink packet"
        ),
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
    check_uplink(settings, packet, None)?;
    let netlink = Netlink::open().context("netlink socket")?;
    let external = match external {
        Some(external) => external.to_vec(),
        None if config.host_by_uplink => {
            let families = addresses::families(settings);
            let outside = setup::outside(&netlink, settings.outside.as_deref(), &families);
            way::socket_addresses(settings, outside.ok().as_ref()).external
        }
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
    let kept = |ip: &&IpAddr| external.contains(ip);
    let retired = config.nat.retired.iter().filter(kept).copied().collect();
    let nat = NatConfig { publish_anywhere: config.nat.publish_anywhere, retired, ..nat };
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
    tap: &dyn Link,
    outside: &str,
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
        outside: outside.to_owned(),
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
