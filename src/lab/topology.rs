//! Which hosts a lab has and how they are wired: data, built by [`crate::lab::netns`].

use ipnet::{Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The containers' network as the gateway sees it.
pub const INSIDE: &str = "10.88.0.1/24";
/// The gateway's address inside.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
/// The two containers.
pub const CONTAINERS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 88, 0, 2), Ipv4Addr::new(10, 88, 0, 3)];
/// The host's own address outside.
pub const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The router that the host's default route names; it is on the host's own network.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);
/// Servers behind the router.
pub const SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 51, 100, 7), Ipv4Addr::new(198, 51, 100, 8)];
/// The containers' IPv6 network as the gateway sees it.
pub const INSIDE_SIX: &str = "fd00:88::1/64";
/// The gateway's IPv6 address inside.
pub const GATEWAY_SIX: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x88, 0, 0, 0, 0, 0, 1);
/// The two containers, where they have fixed IPv6 addresses.
pub const CONTAINERS_SIX: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0x88, 0, 0, 0, 0, 0, 2), Ipv6Addr::new(0xfd00, 0x88, 0, 0, 0, 0, 0, 3)];
/// The host's own IPv6 address outside.
pub const HOST_SIX: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 1);
/// The router that the host's IPv6 default route names.
pub const ROUTER_SIX: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0xfe);
/// Servers behind the router, by IPv6.
pub const SERVERS_SIX: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 7), Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 8)];
/// The bridge that the containers are ports of.
pub const BRIDGE: &str = "tapnat-br0";
/// The interface of the standard lab's containers, host and internet that leads away from them.
pub const UPLINK: &str = "eth0";

/// A host: a name and what it is, apart from its wires.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// Its name in the lab.
    pub name: &'static str,
    /// Bridges it has, each switched on and without an address.
    pub bridges: Vec<&'static str>,
    /// Addresses that belong to no wire.
    pub own: Vec<Ipv4Net>,
    /// Where it sends what is for no connected network.
    pub default_route: Option<Ipv4Addr>,
    /// What it has of IPv6; none switches IPv6 off, which makes a quiet wire and a readable capture.
    pub six: Option<Six>,
}

/// What a host has of IPv6, beside the link-local addresses that its kernel makes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Six {
    /// Its addresses, by interface.
    pub addresses: Vec<(&'static str, Ipv6Net)>,
    /// Where it sends what is for no connected network.
    pub default_route: Option<Ipv6Addr>,
    /// It believes router advertisements.
    pub advertisements: bool,
}

impl Host {
    /// A host without bridges, own addresses, default route or IPv6.
    pub fn new(name: &'static str) -> Host {
        Host { name, bridges: Vec::new(), own: Vec::new(), default_route: None, six: None }
    }
}

/// One end of a wire.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct End {
    /// The host it is on.
    pub host: &'static str,
    /// What the interface is called there, at most 15 bytes.
    pub interface: &'static str,
    /// Its address, if any.
    pub address: Option<Ipv4Net>,
    /// The bridge it is a port of, if any.
    pub bridge: Option<&'static str>,
}

/// Two interfaces and what joins them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wire {
    /// Its ends.
    pub ends: [End; 2],
    /// The largest IP packet, in bytes.
    pub mtu: u32,
    /// Super-frames and unfinished checksums may cross it. Without, every frame on it is as on a
    /// real wire.
    pub offloads: bool,
}

/// A network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Topology {
    /// Its hosts.
    pub hosts: Vec<Host>,
    /// Its wires.
    pub wires: Vec<Wire>,
}

/// What may differ from lab to lab.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Offloads on the containers' wires.
    pub inside_offloads: bool,
    /// Offloads on the wire between host and internet.
    pub outside_offloads: bool,
    /// MTU of the containers' wires, in bytes.
    pub inside_mtu: u32,
    /// MTU of the wire between host and internet, in bytes.
    pub outside_mtu: u32,
    /// What the hosts have of IPv6.
    pub six: WithSix,
}

/// What the hosts of the standard lab have of IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WithSix {
    /// Nothing.
    #[default]
    No,
    /// Addresses and routes, beside those of IPv4.
    Fixed,
    /// The same outside; the containers have only what a router tells them.
    Advertised,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            inside_offloads: true,
            outside_offloads: true,
            inside_mtu: 1500,
            outside_mtu: 1500,
            six: WithSix::default(),
        }
    }
}

/// The standard lab.
///
/// ```text
///   red  10.88.0.2 ─┐
///                   ├─ tapnat-br0 ─ [gateway 10.88.0.1] ─ host 203.0.113.1 ─ 203.0.113.254 internet
///   blue 10.88.0.3 ─┘                                                        198.51.100.7, .8
/// ```
///
/// The internet has no route to 10.88.0.0/24: what comes from there untranslated is never answered.
/// With IPv6, the same in fd00:88::/64, 2001:db8:113::/64 and 2001:db8:51::7, ::8.
pub fn standard(options: Options) -> Topology {
    let container = |name, address: Ipv4Addr, six: Ipv6Addr, port| {
        let six = container_six(options.six, six);
        let host = Host { default_route: Some(GATEWAY), six, ..Host::new(name) };
        let wire = Wire {
            ends: [
                End { host: name, interface: UPLINK, address: Some(net(address, 24)), bridge: None },
                End { host: "host", interface: port, address: None, bridge: Some(BRIDGE) },
            ],
            mtu: options.inside_mtu,
            offloads: options.inside_offloads,
        };
        (host, wire)
    };
    let (red, red_wire) = container("red", CONTAINERS[0], CONTAINERS_SIX[0], "to-red");
    let (blue, blue_wire) = container("blue", CONTAINERS[1], CONTAINERS_SIX[1], "to-blue");
    let [host_six, internet_six] = outside_six(options.six);
    let bridges = vec![BRIDGE];
    let host = Host { bridges, default_route: Some(ROUTER), six: host_six, ..Host::new("host") };
    let own = SERVERS.iter().map(|&ip| net(ip, 32)).collect();
    let internet = Host { own, six: internet_six, ..Host::new("internet") };
    let outside = Wire {
        ends: [
            End { host: "host", interface: UPLINK, address: Some(net(HOST, 24)), bridge: None },
            End { host: "internet", interface: UPLINK, address: Some(net(ROUTER, 24)), bridge: None },
        ],
        mtu: options.outside_mtu,
        offloads: options.outside_offloads,
    };
    Topology { hosts: vec![red, blue, host, internet], wires: vec![red_wire, blue_wire, outside] }
}

fn container_six(with: WithSix, address: Ipv6Addr) -> Option<Six> {
    match with {
        WithSix::No => None,
        WithSix::Fixed => Some(Six {
            addresses: vec![(UPLINK, net_six(address, 64))],
            default_route: Some(GATEWAY_SIX),
            advertisements: false,
        }),
        WithSix::Advertised => Some(Six { advertisements: true, ..Six::default() }),
    }
}

/// Host and internet. The host believes advertisements, as hosts do that forward nothing.
fn outside_six(with: WithSix) -> [Option<Six>; 2] {
    if with == WithSix::No {
        return [None, None];
    }
    let host = Six {
        addresses: vec![(UPLINK, net_six(HOST_SIX, 64))],
        default_route: Some(ROUTER_SIX),
        advertisements: true,
    };
    let servers = SERVERS_SIX.iter().map(|&ip| ("lo", net_six(ip, 128)));
    let addresses = std::iter::once((UPLINK, net_six(ROUTER_SIX, 64))).chain(servers).collect();
    [Some(host), Some(Six { addresses, ..Six::default() })]
}

fn net_six(ip: Ipv6Addr, prefix: u8) -> Ipv6Net {
    Ipv6Net::new(ip, prefix).expect("the prefixes above are at most 128")
}

fn net(ip: Ipv4Addr, prefix: u8) -> Ipv4Net {
    Ipv4Net::new(ip, prefix).expect("the prefixes above are at most 32")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_is_on_a_host_and_names_fit() {
        let topology = standard(Options::default());
        for end in topology.wires.iter().flat_map(|wire| &wire.ends) {
            let host = topology.hosts.iter().find(|host| host.name == end.host).unwrap();
            assert!(end.bridge.is_none_or(|bridge| host.bridges.contains(&bridge)));
            assert!(end.interface.len() <= 15);
        }
    }
}
