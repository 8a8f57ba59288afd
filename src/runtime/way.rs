//! The way out: which uplink, with which addresses and guard. The best that the host allows, if
//! nothing is asked for: `packet`, `raw`, `sockets`.

use super::addresses::{self, Foreign};
use super::host::prefixes;
use crate::config::{GuardChoice, Lone, Settings, UplinkChoice};
use crate::flow::Prefix;
use crate::io::Link;
use crate::io::filter::Wanted;
use crate::io::guard::{self, Guard};
use crate::io::netlink::{Family, Netlink};
use crate::io::setup::{self, Outside, SetupError};
use crate::io::uplink::inherited::Inherited;
use crate::io::uplink::raw::RawUplink;
use crate::io::uplink::{self, Chosen, UplinkError, sockets};
use crate::nat::config::DEFAULT_PORTS;
use anyhow::Context;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

/// The external address where no other is known: the dummy address of IPv4 (RFC 7600), and one of
/// the discard prefix (RFC 6666). Sockets are bound to any address then, and no packet has it.
const NOMINAL: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 0, 8));
const NOMINAL_SIX: IpAddr = IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1));

/// The way out, open.
pub struct Way {
    /// The uplink.
    pub uplink: Chosen,
    /// The way to the host itself; `None` where the uplink is that too.
    pub to_host: Option<Box<dyn Link>>,
    /// The way to what aliases stand for; `None` where the uplink is that too, and the host's resolver
    /// is not among them.
    pub to_aliases: Option<Box<dyn Link>>,
    /// The guard of the ports.
    pub guard: Guard,
    /// The addresses to translate to.
    pub external: Vec<IpAddr>,
    /// Those of them that stand for any address of the host.
    pub anywhere: Vec<IpAddr>,
    /// The host's other addresses.
    pub host_addresses: Vec<IpAddr>,
    /// Those of the external addresses that no interface has.
    pub foreign: Vec<Foreign>,
    /// The outside interface; sockets need none.
    pub outside: Option<Outside>,
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Way").field("uplink", &self.uplink).field("guard", &self.guard).finish()
    }
}

/// Opens the way out that the settings ask for.
///
/// # Errors
/// The thing, the cause and the cure.
pub fn open(settings: &Settings, netlink: &Netlink) -> anyhow::Result<Way> {
    if settings.uplink == UplinkChoice::Sockets {
        return by_sockets(settings, netlink, None);
    }
    let inherited = settings.raw_fd.map(Inherited::take).transpose()?;
    let outside = match &inherited {
        Some(inherited) => outside_of(inherited, settings, netlink),
        None => outside(settings, netlink),
    };
    let auto = settings.uplink == UplinkChoice::Auto;
    let outside = match outside {
        Err(SetupError::NoDefaultRoute(family))
            if auto && settings.outside.is_none() && inherited.is_none() =>
        {
            let why = format!("there is no {family} default route, so no outside interface");
            return by_sockets(settings, netlink, Some(&why));
        }
        other => other?,
    };
    let handed = inherited.is_some();
    let external = addresses::external(settings, &outside)?;
    let host_addresses = addresses::others(netlink, settings, &external)?;
    addresses::check_overlap(settings, &external, &host_addresses)?;
    let foreign = Foreign::among(&external, netlink, &outside)?;
    let nets = settings.inside.iter().map(|net| Prefix::new(net.addr(), net.prefix_len()));
    let prefixes = prefixes(&settings.translations, &settings.exempt, nets);
    let (addresses, ports) = (external.clone(), wanted_ports(settings));
    let wanted = Wanted { addresses, ports, prefixes, ..Wanted::default() };
    let kind = match settings.uplink {
        UplinkChoice::Packet => Some(uplink::Kind::Packet),
        UplinkChoice::Raw => Some(uplink::Kind::Raw),
        UplinkChoice::Auto | UplinkChoice::Sockets => None,
    };
    let opened = match inherited {
        Some(inherited) => uplink::adopt(inherited, &outside.interface.name, &wanted),
        None => uplink::open(kind, &outside.interface.name, &wanted, settings.mtu),
    };
    let uplink = match opened {
        Err(UplinkError::Forbidden(_)) if auto => {
            let why = "packet and raw sockets are not permitted here (CAP_NET_RAW; see tapnat doctor)";
            return by_sockets(settings, netlink, Some(why));
        }
        other => other?,
    };
    let to_host = match RawUplink::host(wanted, settings.mtu) {
        Ok(link) => Box::new(link) as Box<dyn Link>,
        Err(UplinkError::Forbidden(_)) if handed => to_aliases(settings, &external)?,
        Err(error) => return Err(error.into()),
    };
    let packet = uplink.kind == uplink::Kind::Packet;
    let guard = Guard::new(asked(settings), packet, outside.interface.index, &external)?;
    let (to_host, outside) = (Some(to_host), Some(outside));
    let to_aliases = Some(to_aliases(settings, &external)?);
    let anywhere = Vec::new();
    Ok(Way { uplink, to_host, to_aliases, guard, external, anywhere, host_addresses, foreign, outside })
}

fn outside(settings: &Settings, netlink: &Netlink) -> Result<Outside, SetupError> {
    setup::outside(netlink, settings.outside.as_deref(), &addresses::families(settings))
}

/// The interface that a packet socket is bound to, or the one that is named, or that of the default
/// route.
fn outside_of(inherited: &Inherited, settings: &Settings, netlink: &Netlink) -> Result<Outside, SetupError> {
    let failed = |source| SetupError::Other { what: "look up", name: "the outside interface".into(), source };
    let bound = match inherited.interface() {
        Some(index) => netlink.link_by_index(index).map_err(failed)?.map(|link| link.name),
        None => None,
    };
    if let (Some(bound), Some(named)) = (&bound, &settings.outside)
        && bound != named
    {
        let (number, bound, named) = (inherited.number(), bound.clone(), named.clone());
        return Err(SetupError::BoundElsewhere { number, bound, named });
    }
    let name = settings.outside.as_deref().or(bound.as_deref());
    setup::outside(netlink, name, &addresses::families(settings))
}

fn asked(settings: &Settings) -> Option<guard::Kind> {
    match settings.guard {
        GuardChoice::Auto => None,
        GuardChoice::Tcx => Some(guard::Kind::Tcx),
        GuardChoice::Hold => Some(guard::Kind::Hold),
        GuardChoice::Sockets => Some(guard::Kind::Sockets),
        GuardChoice::Off => Some(guard::Kind::Off),
    }
}

/// The ports, and the published ones that lie outside them.
fn wanted_ports(settings: &Settings) -> Vec<RangeInclusive<u16>> {
    let published = settings.publish.iter().map(|spec| spec.ports.clone());
    settings.ports.clone().unwrap_or_else(|| DEFAULT_PORTS.to_vec()).into_iter().chain(published).collect()
}

/// The way by ordinary sockets; `refused` says why there is no better one.
fn by_sockets(settings: &Settings, netlink: &Netlink, refused: Option<&str>) -> anyhow::Result<Way> {
    // An interface that is named must be there; else its address is but a name.
    let outside = match outside(settings, netlink) {
        Err(error) if settings.outside.is_some() => return Err(error.into()),
        found => found.ok(),
    };
    let Named { external, anywhere, .. } = socket_addresses(settings, outside.as_ref());
    let host_addresses = addresses::others(netlink, settings, &external)?;
    addresses::check_overlap(settings, &external, &host_addresses)?;
    let config = sockets_config(settings, external.clone(), anywhere.clone(), false);
    let (uplink, ports) = uplink::open_sockets(config, refused).context("uplink sockets")?;
    let guard = Guard::of_sockets(asked(settings), ports)?;
    let (to_host, foreign) = (None, Vec::new());
    // A resolver on the loopback answers only who asks from there, and not from an address of the uplink.
    let forwards = !settings.dns_forward.is_empty();
    let to_aliases = forwards.then(|| to_aliases(settings, &external)).transpose()?;
    Ok(Way { uplink, to_host, to_aliases, guard, external, anywhere, host_addresses, foreign, outside })
}

/// Sockets beside the uplink, bound to none of its addresses.
fn to_aliases(settings: &Settings, external: &[IpAddr]) -> anyhow::Result<Box<dyn Link>> {
    let beside = sockets_config(settings, external.to_vec(), external.to_vec(), true);
    Ok(Box::new(sockets::Sockets::open(beside).context("sockets for aliases")?))
}

/// What a link of sockets is to know; `beside` one that the ports belong to.
fn sockets_config(
    settings: &Settings,
    external: Vec<IpAddr>,
    anywhere: Vec<IpAddr>,
    beside: bool,
) -> sockets::Config {
    let limit = usize::try_from(guard::raise_descriptor_limit()).unwrap_or(usize::MAX);
    let left = limit.saturating_sub(guard::RESERVE).max(limit / 2);
    sockets::Config {
        external,
        anywhere,
        gateways: settings.own_addresses().collect(),
        shared: settings.lone.iter().map(shared).collect(),
        bound: settings.external.iter().filter(|ip| !beside && has_inside(settings, ip)).copied().collect(),
        aliases: settings.aliases.clone(),
        inside_mtu: settings.mtu,
        descriptors: if beside { left / 8 } else { left },
        beside,
    }
}

fn shared(lone: &Lone) -> sockets::Shared {
    sockets::Shared { ip: lone.host.addr(), gateway: lone.router }
}

/// Whether a host inside has this address.
fn has_inside(settings: &Settings, address: &IpAddr) -> bool {
    settings.inside.iter().any(|net| net.contains(address))
}

/// The addresses to translate to by sockets.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Named {
    /// All of them.
    pub external: Vec<IpAddr>,
    /// Those that are but names for whatever address the host sends from: all that nobody asked for, and
    /// of those that were asked for the ones that a host inside has too.
    pub anywhere: Vec<IpAddr>,
}

/// The addresses to translate to by sockets.
pub fn socket_addresses(settings: &Settings, outside: Option<&Outside>) -> Named {
    let own = settings.external.iter().filter(|address| !has_inside(settings, address));
    let (mut external, mut anywhere) = (own.copied().collect::<Vec<_>>(), Vec::new());
    for family in addresses::families(settings) {
        if external.iter().any(|address| Family::of(*address) == family) {
            continue;
        }
        let found = outside.and_then(|outside| {
            // One that the inside has too would be a name for two.
            let mut own = outside.addresses.iter().copied();
            own.find(|address| Family::of(*address) == family && !has_inside(settings, address))
        });
        let nominal = if family == Family::Four { NOMINAL } else { NOMINAL_SIX };
        let address = found.unwrap_or(nominal);
        external.push(address);
        // Of an interface that was named the address counts.
        if settings.outside.is_none() || found.is_none() {
            anywhere.push(address);
        }
    }
    Named { external, anywhere }
}
