//! What netlink messages say, in plain words.

use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteVia;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What the kernel says of an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkFacts {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// Its MAC address; zeros if it has none.
    pub mac: [u8; 6],
    /// The largest IP packet it takes, in bytes.
    pub mtu: u32,
    /// Switched on by the administrator.
    pub up: bool,
    /// Switched on, with a carrier, and able to pass packets.
    pub running: bool,
    /// The bridge or bond it is a port of.
    pub master: Option<u32>,
    /// `bridge`, `veth`, `tun`...; none for hardware and loopback.
    pub kind: Option<String>,
    /// Packets that may wait to be sent.
    pub txqlen: u32,
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4.
    Four,
    /// IPv6.
    Six,
}

impl Family {
    /// The family of an address.
    pub fn of(ip: IpAddr) -> Family {
        if ip.is_ipv4() { Family::Four } else { Family::Six }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Family::Four => "IPv4",
            Family::Six => "IPv6",
        })
    }
}

/// An address of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address {
    /// The interface's number.
    pub ifindex: u32,
    /// The address.
    pub ip: IpAddr,
    /// Length of its network's prefix, in bits.
    pub prefix: u8,
    /// It is still being checked whether somebody else has it, or somebody has (RFC 4862 §5.4).
    /// Nobody may use it.
    pub tentative: bool,
    /// It should not be used for what begins now (RFC 4862 §5.5.4).
    pub deprecated: bool,
    /// It is changed every day or so, for privacy (RFC 8981).
    pub temporary: bool,
}

/// A way to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// The interface it leaves by.
    pub ifindex: u32,
    /// Who takes it further; none on a connected network.
    pub gateway: Option<IpAddr>,
    /// The address the host would send from.
    pub source: Option<IpAddr>,
}

/// A route of a table: where to, and the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WayTo {
    /// The destination.
    pub to: IpAddr,
    /// Length of its prefix, in bits; 0 for the default route.
    pub prefix: u8,
    /// Of two routes to one destination the lower one counts.
    pub metric: u32,
    /// The way.
    pub route: Route,
}

/// What the kernel knows of a neighbour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbor {
    /// Its MAC address, if known.
    pub mac: Option<[u8; 6]>,
    /// How sure the kernel is.
    pub state: NeighborState,
}

/// How sure the kernel is of a neighbour's MAC address (RFC 4861 section 7.3.2, used for ARP too).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NeighborState {
    /// Asked for, no answer yet.
    Incomplete,
    /// Heard from lately.
    Reachable,
    /// Not heard from for a while; usable, and to be checked on next use.
    Stale,
    /// Used while stale; the check comes soon.
    Delay,
    /// Being checked.
    Probe,
    /// Did not answer.
    Failed,
    /// Needs no resolution.
    NoArp,
    /// Set by an administrator.
    Permanent,
    /// A state that this program does not know.
    Unknown,
}

impl NeighborState {
    /// The MAC address may be sent to.
    pub fn usable(self) -> bool {
        match self {
            NeighborState::Reachable
            | NeighborState::Stale
            | NeighborState::Delay
            | NeighborState::Probe
            | NeighborState::NoArp
            | NeighborState::Permanent => true,
            NeighborState::Incomplete | NeighborState::Failed | NeighborState::Unknown => false,
        }
    }

    /// Usable, but whoever uses it without the kernel should have the kernel check it.
    pub fn stale(self) -> bool {
        self == NeighborState::Stale
    }

    /// The kernel has given up on it.
    pub fn failed(self) -> bool {
        self == NeighborState::Failed
    }
}

impl From<NeighbourState> for NeighborState {
    fn from(state: NeighbourState) -> Self {
        match state {
            NeighbourState::Incomplete => NeighborState::Incomplete,
            NeighbourState::Reachable => NeighborState::Reachable,
            NeighbourState::Stale => NeighborState::Stale,
            NeighbourState::Delay => NeighborState::Delay,
            NeighbourState::Probe => NeighborState::Probe,
            NeighbourState::Failed => NeighborState::Failed,
            NeighbourState::Noarp => NeighborState::NoArp,
            NeighbourState::Permanent => NeighborState::Permanent,
            _ => NeighborState::Unknown,
        }
    }
}

pub(super) fn family_of(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

pub(super) fn route_address(ip: IpAddr) -> RouteAddress {
    match ip {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    }
}

pub(super) fn link_facts(message: &LinkMessage) -> LinkFacts {
    let mut facts = LinkFacts {
        index: message.header.index,
        name: String::new(),
        mac: [0; 6],
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        running: message.header.flags.contains(LinkFlags::Running),
        master: None,
        kind: None,
        txqlen: 0,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => facts.name.clone_from(name),
            LinkAttribute::Address(bytes) => facts.mac = bytes.as_slice().try_into().unwrap_or([0; 6]),
            LinkAttribute::Mtu(mtu) => facts.mtu = *mtu,
            LinkAttribute::Controller(index) if *index != 0 => facts.master = Some(*index),
            LinkAttribute::TxQueueLen(packets) => facts.txqlen = *packets,
            LinkAttribute::LinkInfo(infos) => {
                facts.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    facts
}

/// On a point-to-point link "address" is the peer; "local" is ours where both are given.
pub(super) fn address_facts(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut address) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let ip = local.or(address)?;
    Some(Address {
        ifindex: message.header.index,
        ip,
        prefix: message.header.prefix_len,
        tentative: flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed)
            && !flags.contains(AddressFlags::Optimistic),
        deprecated: flags.contains(AddressFlags::Deprecated),
        // With IPv4 the same bit says "secondary".
        temporary: ip.is_ipv6() && flags.contains(AddressFlags::Secondary),
    })
}

/// The interface, gateway and source of a route; of the first hop where there are several.
pub(super) fn route_facts(message: &RouteMessage) -> Option<Route> {
    let mut ifindex = None;
    let mut gateway = None;
    let mut source = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Gateway(address) => gateway = ip_of(address),
            // A gateway of the other family (RFC 8950).
            RouteAttribute::Via(RouteVia::Inet(ip)) => gateway = Some(IpAddr::V4(*ip)),
            RouteAttribute::Via(RouteVia::Inet6(ip)) => gateway = Some(IpAddr::V6(*ip)),
            RouteAttribute::PrefSource(address) => source = ip_of(address),
            RouteAttribute::MultiPath(hops) => {
                if let (None, Some(hop)) = (ifindex, hops.first()) {
                    ifindex = Some(hop.interface_index);
                    gateway = hop.attributes.iter().find_map(|attribute| match attribute {
                        RouteAttribute::Gateway(address) => ip_of(address),
                        _ => None,
                    });
                }
            }
            _ => {}
        }
    }
    ifindex.map(|ifindex| Route { ifindex, gateway, source })
}

/// Where a route of this family leads: address and prefix length.
pub(super) fn destination(message: &RouteMessage, family: Family) -> (IpAddr, u8) {
    let named = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip_of(address),
        _ => None,
    });
    let everywhere = match family {
        Family::Four => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::Six => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    (named.unwrap_or(everywhere), message.header.destination_prefix_length)
}

/// A route and where it leads; of the first hop where there are several.
pub(super) fn way_to(message: &RouteMessage, family: Family) -> Option<WayTo> {
    let metric = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    let (to, prefix) = destination(message, family);
    route_facts(message).map(|route| WayTo { to, prefix, metric: metric.unwrap_or(0), route })
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

/// Interface, address and facts of an IP neighbour; `None` for entries of a bridge's own table.
pub(super) fn neighbor_facts(message: &NeighbourMessage) -> Option<(u32, IpAddr, Neighbor)> {
    let mut ip = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                ip = Some(IpAddr::V4(*address))
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
                ip = Some(IpAddr::V6(*address))
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    ip.map(|ip| (message.header.ifindex, ip, Neighbor { mac, state: message.header.state.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_that_may_be_sent_to() {
        assert!(
            NeighborState::Reachable.usable()
                && NeighborState::Stale.usable()
                && NeighborState::Permanent.usable()
        );
        assert!(
            !NeighborState::Incomplete.usable()
                && !NeighborState::Failed.usable()
                && !NeighborState::Unknown.usable()
        );
        assert!(NeighborState::Stale.stale() && NeighborState::Failed.failed());
    }
}
