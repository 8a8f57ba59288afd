//! The inside subnets: who is in them, and who the gateway is there.

use super::hop::{is_link_local, martian_destination};
use super::{GatewayConfig, ndp};
use crate::flow::Prefix;
use std::net::{IpAddr, Ipv6Addr};

/// An inside subnet and the gateway's address in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subnet {
    /// The gateway's address.
    pub gateway: IpAddr,
    /// Length of the prefix: 1 to 30 for IPv4, 1 to 127 for IPv6; with `only` to 32 and 128.
    pub prefix: u8,
    /// The one host that is inside, if all its neighbours are outside, beyond the uplink. To the host
    /// they are all on its link: the gateway answers for each of them (RFC 1027, RFC 4389). The
    /// gateway's address is then that of the host's router, which may be outside the prefix or
    /// link-local; what is sent to it goes outside too, unless it is link-local or an alias.
    pub only: Option<IpAddr>,
}

impl Subnet {
    /// A subnet whose hosts are all inside.
    pub fn new(gateway: IpAddr, prefix: u8) -> Subnet {
        Subnet { gateway, prefix, only: None }
    }

    /// The addresses that are inside.
    pub fn prefix(self) -> Prefix {
        match self.only {
            Some(only) => Prefix::new(only, if only.is_ipv4() { 32 } else { 128 }),
            None => self.link(),
        }
    }

    /// The addresses that its hosts take for their neighbours'.
    pub fn link(self) -> Prefix {
        Prefix::new(self.only.unwrap_or(self.gateway), self.prefix)
    }

    /// Whether `ip` is in the subnet, and inside, whatever it means there.
    pub fn covers(self, ip: IpAddr) -> bool {
        self.prefix().covers(ip)
    }

    /// Whether `ip` can be a host's: in the subnet, and not the address of the subnet itself (in
    /// IPv6 that of all its routers, RFC 4291 §2.6.1) nor the broadcast address of IPv4.
    pub fn has_host(self, ip: IpAddr) -> bool {
        if self.only.is_some() {
            return self.covers(ip);
        }
        let host = match ip {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shr(self.prefix.into()).unwrap_or(0);
                ip.to_bits() & mask != 0 && ip.to_bits() & mask != mask
            }
            IpAddr::V6(ip) => ip.to_bits() & u128::MAX.checked_shr(self.prefix.into()).unwrap_or(0) != 0,
        };
        host && self.covers(ip)
    }
}

impl GatewayConfig {
    /// The gateway's own IPv6 address on the link inside, which hosts know it by as their router: one
    /// that a subnet gives it, or one made from its MAC.
    pub fn link_local(&self) -> Ipv6Addr {
        let given = self.subnets.iter().find_map(|subnet| match subnet.gateway {
            IpAddr::V6(ip) if ip.is_unicast_link_local() => Some(ip),
            _ => None,
        });
        given.unwrap_or_else(|| ndp::link_local(self.mac))
    }

    /// Whether IPv6 is spoken inside.
    pub fn speaks_v6(&self) -> bool {
        self.subnets.iter().any(|subnet| subnet.gateway.is_ipv6())
    }

    /// Whether `ip` is an address of the gateway inside: one of its own, that of a service, or an alias
    /// in a subnet.
    pub fn owns(&self, ip: IpAddr) -> bool {
        let own = |subnet: &Subnet| subnet.gateway == ip && (subnet.only.is_none() || is_link_local(ip));
        self.subnets.iter().any(own)
            || self.services.contains(&ip)
            || (self.has_alias(ip) && (self.is_inside(ip) || self.stands_in_for(ip)))
            || (self.speaks_v6() && ip == IpAddr::V6(self.link_local()))
    }

    /// Whether the gateway answers on the link for `ip`, somebody outside whom the only host inside may
    /// take for a neighbour. (Link-local neighbours are out of everybody's reach.)
    pub fn stands_in_for(&self, ip: IpAddr) -> bool {
        let lone = |subnet: &Subnet| subnet.only.is_some_and(|only| only.is_ipv4() == ip.is_ipv4());
        self.subnets.iter().any(lone) && !self.is_inside(ip) && !martian_destination(ip)
    }

    /// The host on the link that a packet inside to `ip` goes to: `ip` itself, or the only host, which is
    /// then the router of those behind it. `None` if `ip` is not inside.
    pub fn next_hop(&self, ip: IpAddr) -> Option<IpAddr> {
        if self.address_for(ip).is_some() {
            return Some(ip);
        }
        let only = self.subnets.iter().filter_map(|subnet| subnet.only);
        let mut only = only.filter(|only| only.is_ipv4() == ip.is_ipv4() && self.stands_in_for(ip));
        only.next()
    }

    /// Whether `ip` is an alias of something on the host.
    pub fn has_alias(&self, ip: IpAddr) -> bool {
        self.aliases.iter().any(|alias| alias.inside == ip)
    }

    /// Whether `ip` is in an inside subnet.
    pub fn is_inside(&self, ip: IpAddr) -> bool {
        self.subnets.iter().any(|subnet| subnet.covers(ip))
    }

    /// Whether `ip` may be the address of a neighbour inside, link-local addresses included.
    pub fn has_host(&self, ip: IpAddr) -> bool {
        let on_link = self.speaks_v6() && is_link_local(ip);
        (on_link || self.subnets.iter().any(|subnet| subnet.has_host(ip))) && !self.owns(ip)
    }

    /// The gateway's address in the subnet of `ip`, or on its link.
    pub fn address_for(&self, ip: IpAddr) -> Option<IpAddr> {
        if is_link_local(ip) {
            return self.speaks_v6().then(|| self.link_local().into());
        }
        self.subnets.iter().find(|subnet| subnet.covers(ip)).map(|subnet| subnet.gateway)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn hosts_are_neither_the_first_address_nor_the_broadcast_of_ipv4() {
        let v4 = Subnet { gateway: Ipv4Addr::new(10, 0, 0, 1).into(), prefix: 24, only: None };
        for (last, host) in [(0, false), (1, true), (254, true), (255, false)] {
            assert_eq!(v4.has_host(Ipv4Addr::new(10, 0, 0, last).into()), host, "{last}");
        }
        assert!(!v4.has_host(Ipv4Addr::new(10, 0, 1, 7).into()));
        let v6 =
            Subnet { gateway: Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 1).into(), prefix: 64, only: None };
        assert!(!v6.has_host(Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 0).into()));
        assert!(v6.has_host(Ipv6Addr::new(0xfd00, 0, 0, 1, 0xffff, 0xffff, 0xffff, 0xffff).into()));
        assert!(!v6.has_host(Ipv6Addr::new(0xfd00, 0, 0, 2, 0, 0, 0, 7).into()));
        assert!(!v6.has_host(Ipv4Addr::new(10, 0, 0, 7).into()));
    }

    #[test]
    fn an_only_host_is_inside_alone() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let lone = Subnet { gateway: ip("192.0.2.1"), prefix: 24, only: Some(ip("192.0.2.50")) };
        assert!(lone.has_host(ip("192.0.2.50")) && lone.covers(ip("192.0.2.50")));
        assert!(!lone.covers(ip("192.0.2.1")) && !lone.has_host(ip("192.0.2.51")));
        assert_eq!(lone.prefix(), Prefix::new(ip("192.0.2.50"), 32));
        assert!(lone.link().covers(ip("192.0.2.1")) && !lone.link().covers(ip("192.0.3.1")));
    }
}
