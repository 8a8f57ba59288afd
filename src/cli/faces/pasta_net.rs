//! The network that `pasta` gives a namespace: that of the host, as far as no option says otherwise.

use super::pasta::Options;
use crate::config::Lone;
use crate::io::guest::{GuestRoute, Template};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The gateway where the host has none, or nobody knows one: link-local addresses, as the original has.
const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 2, 2));
const GATEWAY_SIX: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2));
/// The namespace's address on a host without any network.
const ALONE: (IpAddr, u8) = (IpAddr::V4(Ipv4Addr::new(169, 254, 2, 1)), 16);
/// The interface where none of the host gives its name.
const TAP: &str = "tap0";

/// What the namespace has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Net {
    /// Its interface.
    pub tap: String,
    /// Its addresses, those of IPv4 first.
    pub hosts: Vec<Lone>,
    /// Its routes, in the order in which they can be made.
    pub routes: Vec<GuestRoute>,
    /// Addresses that stand for the host's loopback.
    pub loopback: Vec<IpAddr>,
}

/// Joins what the host has and what the options say.
///
/// # Errors
/// They do not fit together, or nothing is left.
pub fn net(options: &Options, four: Option<&Template>, six: Option<&Template>) -> Result<Net, String> {
    let name = four.or(six).map(|template| template.interface.name.clone());
    let tap = options.tap.clone().or(name).unwrap_or_else(|| TAP.to_owned());
    let mut net = Net { tap, hosts: Vec::new(), routes: Vec::new(), loopback: Vec::new() };
    let bare = four.is_none() && six.is_none() && options.addresses.is_empty();
    for (is_six, spoken, template) in [(false, options.four, four), (true, options.six, six)] {
        let alone = (bare && !is_six).then_some(ALONE);
        if spoken {
            net.add(options, is_six, template, alone)?;
        }
    }
    if net.hosts.is_empty() {
        let family = if options.four { "IPv4" } else { "IPv6" };
        return Err(format!("this host has no {family} address to share: name one with --address"));
    }
    Ok(net)
}

impl Net {
    /// Adds a family; nothing if there is no address of it.
    fn add(
        &mut self,
        options: &Options,
        six: bool,
        template: Option<&Template>,
        alone: Option<(IpAddr, u8)>,
    ) -> Result<(), String> {
        let of_family = |ip: &&IpAddr| ip.is_ipv6() == six;
        let addresses = addresses(options, six, template, alone);
        let given = options.gateways.iter().find(of_family).copied();
        let known = template.and_then(|template| template.gateway);
        let router = given.or(known).unwrap_or(if six { GATEWAY_SIX } else { GATEWAY });
        let mut alias = options.map_guest.iter().find(of_family).copied();
        for host in &addresses {
            if [Some(host.addr()), Some(router)].contains(&alias) || host.addr() == router {
                return Err(format!(
                    "{}: is the namespace's address, and the gateway's or another's",
                    host.addr()
                ));
            }
            self.hosts.push(Lone { host: *host, router, alias: alias.take() });
        }
        if addresses.is_empty() {
            return Ok(());
        }
        match template {
            Some(template) if given.is_none() && options.copy_routes => self.routes.extend(&template.routes),
            // On a link without a gateway everybody is a neighbour.
            _ => self.routes.push(GuestRoute::default(router)),
        }
        let gateway = options.map_gateway.then_some(router);
        self.loopback.extend(options.map_loopback.iter().find(of_family).copied().or(gateway));
        Ok(())
    }

    /// The first address of each family.
    pub fn guests(&self) -> Vec<IpAddr> {
        let first =
            |six| self.hosts.iter().map(|lone| lone.host.addr()).find(|ip: &IpAddr| ip.is_ipv6() == six);
        [first(false), first(true)].into_iter().flatten().collect()
    }
}

fn addresses(
    options: &Options,
    six: bool,
    template: Option<&Template>,
    alone: Option<(IpAddr, u8)>,
) -> Vec<IpNet> {
    let known = template.map(|template| template.addresses.as_slice()).unwrap_or_default();
    let given = options.addresses.iter().find(|(ip, _)| ip.is_ipv6() == six);
    if let Some((ip, length)) = given {
        let same = known.iter().find(|net| net.addr() == *ip).map(IpNet::prefix_len);
        let mask = options.netmask.filter(|_| !six);
        let length = mask.or(*length).or(same).unwrap_or_else(|| by_class(*ip));
        return IpNet::new(*ip, length).into_iter().collect();
    }
    let most = if options.config_net && options.copy_addresses { usize::MAX } else { 1 };
    let mut all: Vec<IpNet> = known.iter().take(most).copied().collect();
    all.extend(alone.and_then(|(ip, length)| IpNet::new(ip, length).ok()));
    if let (Some(first), Some(mask), false) = (all.first_mut(), options.netmask, six) {
        *first = IpNet::new(first.addr(), mask).unwrap_or(*first);
    }
    all
}

/// The length of a prefix of which nobody says it: of IPv4 by the classes there once were, as the
/// original has it.
fn by_class(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(ip) => match ip.octets()[0] {
            0..128 => 8,
            128..192 => 16,
            192..224 => 24,
            224.. => 32,
        },
        IpAddr::V6(_) => 64,
    }
}

/// A specification of ports without its interface, `ADDR%IF/...`, if that `has` the address.
///
/// # Errors
/// It has not, or no address is named.
pub fn on_address(text: &str, has: impl Fn(&str, IpAddr) -> bool) -> Result<String, String> {
    let Some((at, ports)) = text.split_once('/') else { return Ok(text.to_owned()) };
    let Some((address, interface)) = at.split_once('%') else { return Ok(text.to_owned()) };
    let interface = interface.trim_end_matches(']');
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    match bare.parse() {
        Ok(ip) if has(interface, ip) => Ok(format!("{bare}/{ports}")),
        _ => Err(format!("interface {interface} does not have the address `{bare}`: name one that it has")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::faces::pasta::{Asked, read};
    use crate::io::netlink::LinkFacts;
    use std::ffi::OsString;

    fn template(addresses: &[&str], gateway: &str, more: &[(&str, &str)]) -> Template {
        let interface = LinkFacts {
            index: 2,
            name: "eth7".to_owned(),
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            up: true,
            running: true,
            master: None,
            kind: None,
            txqlen: 1000,
        };
        let gateway: IpAddr = gateway.parse().unwrap();
        let route = |(to, via): &(&str, &str)| GuestRoute { to: to.parse().unwrap(), via: via.parse().ok() };
        let mut routes: Vec<GuestRoute> = more.iter().map(route).collect();
        routes.push(GuestRoute::default(gateway));
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Template { interface, addresses, gateway: Some(gateway), routes }
    }

    fn said(args: &str) -> Result<String, String> {
        let four =
            template(&["192.0.2.50/24", "192.0.2.51/24"], "192.0.2.1", &[("198.51.100.0/24", "192.0.2.9")]);
        let six = template(&["2001:db8::50/64"], "fe80::1", &[]);
        said_of(args, Some(&four), Some(&six))
    }

    fn said_of(args: &str, four: Option<&Template>, six: Option<&Template>) -> Result<String, String> {
        let args: Vec<_> = args.split_whitespace().map(OsString::from).collect();
        let Ok(Asked::Run(options)) = read(&args) else { panic!("{args:?}") };
        let net = net(&options, four, six)?;
        let hosts = net.hosts.iter().map(ToString::to_string);
        let via = |route: &GuestRoute| route.via.map_or("link".to_owned(), |via| via.to_string());
        let routes = net.routes.iter().map(|route| format!("{}>{}", route.to, via(route)));
        let loopback = net.loopback.iter().map(|ip| format!("lo={ip}"));
        let all: Vec<_> = std::iter::once(net.tap).chain(hosts).chain(routes).chain(loopback).collect();
        Ok(all.join(" "))
    }

    #[test]
    fn the_network_is_the_hosts_unless_options_say_otherwise() {
        for (args, want) in [
            (
                "--config-net 42",
                "eth7 192.0.2.50/24=192.0.2.1 192.0.2.51/24=192.0.2.1 2001:db8::50/64=fe80::1 \
                 198.51.100.0/24>192.0.2.9 0.0.0.0/0>192.0.2.1 ::/0>fe80::1 lo=192.0.2.1 lo=fe80::1",
            ),
            (
                "--config-net --no-copy-addrs --no-copy-routes --no-map-gw -4 42",
                "eth7 192.0.2.50/24=192.0.2.1 0.0.0.0/0>192.0.2.1",
            ),
            (
                "--config-net -4 -a 10.0.2.100 -n 24 -g 10.0.2.2 -I tap3 --map-guest-addr 169.254.1.2 42",
                "tap3 10.0.2.100/24=10.0.2.2=169.254.1.2 0.0.0.0/0>10.0.2.2 lo=10.0.2.2",
            ),
            (
                "--config-net -6 -a 2001:db8::9 --map-host-loopback 2001:db8::7 42",
                "eth7 2001:db8::9/64=fe80::1 ::/0>fe80::1 lo=2001:db8::7",
            ),
            (
                "-4 -a 172.16.0.9 --no-copy-routes 42",
                "eth7 172.16.0.9/16=192.0.2.1 0.0.0.0/0>192.0.2.1 lo=192.0.2.1",
            ),
            (
                "-4 -a 192.0.2.50 --no-copy-routes 42",
                "eth7 192.0.2.50/24=192.0.2.1 0.0.0.0/0>192.0.2.1 lo=192.0.2.1",
            ),
            ("-4 -n 32 --no-copy-routes 42", "eth7 192.0.2.50/32=192.0.2.1 0.0.0.0/0>192.0.2.1 lo=192.0.2.1"),
        ] {
            assert_eq!(said(args).as_deref(), Ok(want), "{args}");
        }
        assert!(said("-a 192.0.2.1 42").unwrap_err().starts_with("192.0.2.1: "));
    }

    #[test]
    fn an_interface_stands_for_the_address_that_it_has() {
        let has = |name: &str, ip: IpAddr| name == "eth7" && ip.to_string() == "192.0.2.50" || name == "lo";
        let said = |text| on_address(text, has);
        assert_eq!(said("192.0.2.50%eth7/80:81").as_deref(), Ok("192.0.2.50/80:81"));
        assert_eq!(said("[::1%lo]/80").as_deref(), Ok("::1/80"));
        assert_eq!(said("192.0.2.50/80,~90").as_deref(), Ok("192.0.2.50/80,~90"));
        assert_eq!(said("8080-8080:80-80").as_deref(), Ok("8080-8080:80-80"));
        assert!(said("192.0.2.51%eth7/80").unwrap_err().contains("interface eth7 does not have"));
        assert!(said("%eth7/80").is_err());
    }

    #[test]
    fn without_a_network_of_the_host_there_is_a_local_one() {
        let alone = said_of("--config-net 42", None, None);
        let want = "tap0 169.254.2.1/16=169.254.2.2 0.0.0.0/0>169.254.2.2 lo=169.254.2.2";
        assert_eq!(alone.as_deref(), Ok(want));
        assert!(said_of("-6 42", None, None).unwrap_err().contains("no IPv6 address"));
        let given = said_of("-a 10.0.2.100 -g 10.0.2.2 42", None, None);
        assert_eq!(given.as_deref(), Ok("tap0 10.0.2.100/8=10.0.2.2 0.0.0.0/0>10.0.2.2 lo=10.0.2.2"));
    }
}
