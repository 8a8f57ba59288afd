//! What the host's own network looks like, for a guest that is to have the same: interface, addresses,
//! gateway and routes of each family.

use super::GuestRoute;
use crate::io::netlink::{Address, Family, LinkFacts, Netlink};
use ipnet::IpNet;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

/// Addresses of a family that are taken over, at most.
const MOST: usize = 16;
/// Routes of a family that are taken over, at most.
const ROUTES: usize = 256;

/// One family of an interface of the host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Template {
    /// The interface.
    pub interface: LinkFacts,
    /// Its addresses that mean something beyond its link, with their prefixes; at least one.
    pub addresses: Vec<IpNet>,
    /// The gateway of its default route; `None` if everybody is on its link.
    pub gateway: Option<IpAddr>,
    /// Its routes, but for those that come with the addresses.
    pub routes: Vec<GuestRoute>,
}

impl Template {
    /// That of the interface called `name`, or of the one with the default route of this family. `None`
    /// if there is no such route, or the interface has no address that can be used.
    ///
    /// # Errors
    /// There is no interface of that name; or the kernel's word.
    pub fn of(netlink: &Netlink, family: Family, name: Option<&str>) -> io::Result<Option<Template>> {
        let interface = match name {
            Some(name) => {
                let missing =
                    || io::Error::new(io::ErrorKind::NotFound, format!("there is no interface {name}"));
                Some(netlink.link(name)?.ok_or_else(missing)?)
            }
            None => match netlink.default_route(family)? {
                Some(route) => netlink.link_by_index(route.ifindex)?,
                None => None,
            },
        };
        let Some(interface) = interface else { return Ok(None) };
        let known = netlink.address_facts()?;
        let here = known.iter().filter(|address| address.ifindex == interface.index);
        let addresses: Vec<IpNet> = here.filter_map(|address| usable(address, family)).take(MOST).collect();
        if addresses.is_empty() {
            return Ok(None);
        }
        let mut ways = netlink.routes(family)?;
        ways.retain(|way| way.route.ifindex == interface.index);
        // The best of two for one destination comes first.
        ways.sort_by_key(|way| way.metric);
        let mut routes: Vec<GuestRoute> = Vec::new();
        for way in ways {
            let Ok(to) = IpNet::new(way.to, way.prefix) else { continue };
            let own = way.route.gateway.is_none() && addresses.iter().any(|net| net.trunc() == to);
            if !own && !of_the_link(to.addr()) && routes.iter().all(|known| known.to != to) {
                routes.push(GuestRoute { to, via: way.route.gateway });
            }
        }
        let gateway = routes.iter().find(|route| route.to.prefix_len() == 0).and_then(|route| route.via);
        // Who is on the link comes before those behind him.
        routes.sort_by_key(|route| route.via.is_some());
        routes.truncate(ROUTES);
        Ok(Some(Template { interface, addresses, gateway, routes }))
    }
}

fn usable(address: &Address, family: Family) -> Option<IpNet> {
    let good = Family::of(address.ip) == family
        && !address.tentative
        && !address.ip.is_loopback()
        && !of_the_link(address.ip);
    let net = IpNet::new(address.ip, address.prefix).ok()?;
    good.then_some(net)
}

fn of_the_link(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local() || ip.is_multicast() || ip == Ipv6Addr::LOCALHOST)
}
