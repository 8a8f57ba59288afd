//! Addresses, routes and neighbours: what there is, and what is added.

use super::facts::{
    address_facts, destination, family_of, neighbor_facts, route_address, route_facts, way_to,
};
use super::{Address, Family, Neighbor, Netlink, Route, WayTo, errno, refused};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::io;
use std::net::IpAddr;

impl Netlink {
    /// Every address of every interface: interface index, address, prefix length.
    ///
    /// # Errors
    /// As [`Netlink`] describes.
    pub fn addresses(&self) -> io::Result<Vec<(u32, IpAddr, u8)>> {
        let known = self.address_facts()?;
        Ok(known.into_iter().map(|address| (address.ifindex, address.ip, address.prefix)).collect())
    }

    /// Every address of every interface, and what may be done with it.
    ///
    /// # Errors
    /// As [`Netlink`] describes.
    pub fn address_facts(&self) -> io::Result<Vec<Address>> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.ask(request, NLM_F_DUMP, "list the addresses")?;
        let address = |answer: &RouteNetlinkMessage| match answer {
            RouteNetlinkMessage::NewAddress(message) => address_facts(message),
            _ => None,
        };
        Ok(answers.iter().filter_map(address).collect())
    }

    /// Gives an interface an address, for use at once: without duplicate address detection.
    ///
    /// # Errors
    /// `EEXIST` if it has it already; otherwise as [`Netlink`] describes.
    pub fn add_address(&self, index: u32, ip: IpAddr, prefix: u8) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family_of(ip);
        message.header.prefix_len = prefix;
        message.header.index = index;
        if ip.is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        message.attributes.push(AddressAttribute::Local(ip));
        message.attributes.push(AddressAttribute::Address(ip));
        self.change_named(
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_EXCL,
            index,
            &format!("add address {ip}/{prefix} to"),
        )
    }

    /// The default route of a family with the lowest metric in the main table.
    ///
    /// # Errors
    /// As [`Netlink`] describes.
    pub fn default_route(&self, family: Family) -> io::Result<Option<Route>> {
        let ways = self.routes(family)?.into_iter().filter(|way| way.prefix == 0);
        Ok(ways.min_by_key(|way| way.metric).map(|way| way.route))
    }

    /// The destinations of a family's unicast routes in the main table: address and prefix length.
    ///
    /// # Errors
    /// As [`Netlink`] describes.
    pub fn destinations(&self, family: Family) -> io::Result<Vec<(IpAddr, u8)>> {
        Ok(self.main_routes(family)?.iter().map(|route| destination(route, family)).collect())
    }

    /// The unicast routes of a family in the main table.
    ///
    /// # Errors
    /// As [`Netlink`] describes.
    pub fn routes(&self, family: Family) -> io::Result<Vec<WayTo>> {
        Ok(self.main_routes(family)?.iter().filter_map(|route| way_to(route, family)).collect())
    }

    fn main_routes(&self, family: Family) -> io::Result<Vec<RouteMessage>> {
        let family = match family {
            Family::Four => AddressFamily::Inet,
            Family::Six => AddressFamily::Inet6,
        };
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        let answers = self.ask(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP, "list the routes")?;
        let ours = |route: &&RouteMessage| {
            route.header.table == RouteHeader::RT_TABLE_MAIN
                && route.header.kind == RouteType::Unicast
                && route.header.address_family == family
        };
        Ok(answers.iter().filter_map(new_route).filter(ours).cloned().collect())
    }

    /// How the kernel would send to `destination`, if need be through the interface `oif`.
    ///
    /// # Errors
    /// `ENETUNREACH` or `EHOSTUNREACH` if there is no way; otherwise as [`Netlink`] describes.
    pub fn route_to(&self, destination: IpAddr, oif: Option<u32>) -> io::Result<Route> {
        let mut message = RouteMessage::default();
        message.header.address_family = family_of(destination);
        message.header.destination_prefix_length = if destination.is_ipv4() { 32 } else { 128 };
        message.attributes.push(RouteAttribute::Destination(route_address(destination)));
        if let Some(oif) = oif {
            message.attributes.push(RouteAttribute::Oif(oif));
        }
        let operation = format!("find the route to {destination}");
        let answers = self.ask(RouteNetlinkMessage::GetRoute(message), 0, &operation)?;
        answers.iter().filter_map(new_route).find_map(route_facts).ok_or_else(|| {
            refused(operation, libc::ENETUNREACH, Some("the answer names no interface".into()))
        })
    }

    /// Adds a default route through `gateway`, which must be on a connected network.
    ///
    /// # Errors
    /// `EEXIST` if there is one; `ENETUNREACH` if the gateway is on no connected network.
    pub fn add_default_route(&self, gateway: IpAddr) -> io::Result<()> {
        let operation = format!("add a default route through {gateway}");
        self.new_route(gateway, 0, Some(gateway), None, false, &operation)
    }

    /// Adds a route through an interface, and through the gateway `via` if there is one; with
    /// `off_link` even if that is on no connected network.
    ///
    /// # Errors
    /// `EEXIST` if there is one; `ENETUNREACH` if the gateway is on no connected network.
    pub fn add_route(
        &self,
        net: IpAddr,
        prefix: u8,
        via: Option<IpAddr>,
        index: u32,
        off_link: bool,
    ) -> io::Result<()> {
        let through = via.map(|via| format!(" through {via}")).unwrap_or_default();
        let operation = format!("add a route to {net}/{prefix}{through}");
        self.new_route(net, prefix, via, Some(index), off_link, &operation)
    }

    /// What the kernel knows of a neighbour, or `None` if it has never heard of it.
    ///
    /// # Errors
    /// As [`Netlink`] describes.
    pub fn neighbor(&self, ifindex: u32, ip: IpAddr) -> io::Result<Option<Neighbor>> {
        let mut message = NeighbourMessage::default();
        message.header.family = family_of(ip);
        message.header.ifindex = ifindex;
        message.attributes.push(NeighbourAttribute::Destination(match ip {
            IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
            IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
        }));
        let operation = format!("look up neighbour {ip}");
        match self.ask(RouteNetlinkMessage::GetNeighbour(message), 0, &operation) {
            Ok(answers) => Ok(answers.iter().find_map(|answer| match answer {
                RouteNetlinkMessage::NewNeighbour(message) => {
                    neighbor_facts(message).map(|(_, _, neighbor)| neighbor)
                }
                _ => None,
            })),
            Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn new_route(
        &self,
        net: IpAddr,
        prefix: u8,
        gateway: Option<IpAddr>,
        oif: Option<u32>,
        off_link: bool,
        operation: &str,
    ) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = family_of(net);
        message.header.destination_prefix_length = prefix;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Boot;
        message.header.kind = RouteType::Unicast;
        message.header.scope = if gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
        if off_link {
            message.header.flags = RouteFlags::Onlink;
        }
        if prefix != 0 {
            message.attributes.push(RouteAttribute::Destination(route_address(net)));
        }
        if let Some(gateway) = gateway {
            message.attributes.push(RouteAttribute::Gateway(route_address(gateway)));
        }
        if let Some(oif) = oif {
            message.attributes.push(RouteAttribute::Oif(oif));
        }
        self.ask(RouteNetlinkMessage::NewRoute(message), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, operation)
            .map(drop)
    }
}

fn new_route(answer: &RouteNetlinkMessage) -> Option<&RouteMessage> {
    match answer {
        RouteNetlinkMessage::NewRoute(message) => Some(message),
        _ => None,
    }
}
