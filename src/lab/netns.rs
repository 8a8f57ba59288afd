//! Builds a [`Topology`] from Linux network namespaces.
//!
//! Needs `CAP_SYS_ADMIN` and `CAP_NET_ADMIN`, which anybody has in a user namespace of their own
//! ([`crate::io::sys::netns::enter_private`]). Nothing has a name outside: when the process ends,
//! the kernel takes the lab down.

use crate::io::netlink::Netlink;
use crate::io::sys::ethtool;
use crate::io::sys::netns::Netns;
use crate::lab::programs::now;
use crate::lab::topology::{Host, Six, Topology, Wire};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;
use std::{fs, io, thread};

/// The kernel looks at links at least once a second; the rest is for a busy machine.
const NOTICED: Duration = Duration::from_secs(5);

/// A running lab.
#[derive(Debug)]
pub struct Lab {
    hosts: Vec<(&'static str, Netns)>,
}

impl Lab {
    /// Builds `topology`. Every host has a loopback, and forwards nothing.
    ///
    /// # Errors
    /// What the kernel refused, and where.
    pub fn build(topology: &Topology) -> io::Result<Lab> {
        let mut lab = Lab { hosts: Vec::new() };
        for host in &topology.hosts {
            let netns = Netns::create()?;
            netns.run(|| prepare(host))?.map_err(|error| at(host.name, error))?;
            lab.hosts.push((host.name, netns));
        }
        for (number, wire) in topology.wires.iter().enumerate() {
            lab.join(number, wire)?;
        }
        for end in topology.wires.iter().flat_map(|wire| &wire.ends) {
            lab.host(end.host)
                .run(|| wait_until_running(end.interface))?
                .map_err(|error| at(end.host, error))?;
        }
        for host in &topology.hosts {
            if let Some(six) = &host.six {
                lab.host(host.name).run(|| give_six(six))?.map_err(|error| at(host.name, error))?;
            }
            if let Some(gateway) = host.default_route {
                lab.host(host.name)
                    .run(|| Netlink::open()?.add_default_route(IpAddr::V4(gateway)))?
                    .map_err(|error| at(host.name, error))?;
            }
        }
        Ok(lab)
    }

    /// The namespace of the host called `name`.
    ///
    /// # Panics
    /// If the topology has no such host.
    pub fn host(&self, name: &str) -> &Netns {
        let found = self.hosts.iter().find(|(host, _)| *host == name);
        &found.unwrap_or_else(|| panic!("the lab has no host called {name}")).1
    }

    /// The lab's hosts by name, in the topology's order.
    pub fn hosts(&self) -> impl Iterator<Item = (&'static str, &Netns)> {
        self.hosts.iter().map(|(name, netns)| (*name, netns))
    }

    /// Makes a pair of interfaces where the first end lives, and moves the second to its host. The
    /// names on the way are the wire's own, so that two ends may be called alike.
    fn join(&self, number: usize, wire: &Wire) -> io::Result<()> {
        let [a, b] = &wire.ends;
        let passing = [format!("wire{number}a"), format!("wire{number}b")];
        let far = self.host(b.host);
        self.host(a.host)
            .run(|| {
                let netlink = Netlink::open()?;
                netlink.add_veth(&passing[0], &passing[1])?;
                let moved = known(&netlink, &passing[1])?;
                netlink.move_to(moved, far.as_fd())
            })?
            .map_err(|error| at(a.host, error))?;
        for (end, passing) in wire.ends.iter().zip(&passing) {
            let finish = || {
                let netlink = Netlink::open()?;
                let index = known(&netlink, passing)?;
                netlink.rename(index, end.interface)?;
                netlink.set_mtu(index, wire.mtu)?;
                if !wire.offloads {
                    ethtool::offloads_off(end.interface)?;
                }
                if let Some(bridge) = end.bridge {
                    netlink.set_master(index, Some(known(&netlink, bridge)?))?;
                }
                if let Some(address) = end.address {
                    netlink.add_address(index, IpAddr::V4(address.addr()), address.prefix_len())?;
                }
                netlink.set_up(index, true)
            };
            self.host(end.host).run(finish)?.map_err(|error| at(end.host, error))?;
        }
        Ok(())
    }
}

fn prepare(host: &Host) -> io::Result<()> {
    let netlink = Netlink::open()?;
    let lo = known(&netlink, "lo")?;
    netlink.set_up(lo, true)?;
    for address in &host.own {
        netlink.add_address(lo, IpAddr::V4(address.addr()), address.prefix_len())?;
    }
    // A new namespace copies this from the machine's first one, where it may be 1.
    set_sysctl("net/ipv4/ip_forward", "0")?;
    match &host.six {
        Some(six) => prepare_six(six)?,
        // Kernels without IPv6 have no such file.
        None if fs::exists("/proc/sys/net/ipv6/conf/default/disable_ipv6")? => {
            set_sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        }
        None => {}
    }
    for bridge in &host.bridges {
        netlink.add_bridge(bridge)?;
        netlink.set_up(known(&netlink, bridge)?, true)?;
    }
    Ok(())
}

/// What interfaces of IPv6 hosts begin with.
fn prepare_six(six: &Six) -> io::Result<()> {
    let word = |yes| if yes { "1" } else { "0" };
    set_sysctl("net/ipv6/conf/default/disable_ipv6", "0")?;
    set_sysctl("net/ipv6/conf/all/forwarding", "0")?;
    set_sysctl("net/ipv6/conf/default/accept_ra", word(six.advertisements))?;
    // A host with fixed addresses is there at once; another one looks first whether its own are free.
    set_sysctl("net/ipv6/conf/default/accept_dad", word(six.addresses.is_empty()))
}

fn give_six(six: &Six) -> io::Result<()> {
    let netlink = Netlink::open()?;
    for (interface, net) in &six.addresses {
        netlink.add_address(known(&netlink, interface)?, IpAddr::V6(net.addr()), net.prefix_len())?;
    }
    match six.default_route {
        Some(gateway) => netlink.add_default_route(IpAddr::V6(gateway)),
        None => Ok(()),
    }
}

/// Waits until the kernel has noticed that both ends of a wire are up, which it does at its leisure:
/// until then a bridge forwards nothing from there.
fn wait_until_running(interface: &str) -> io::Result<()> {
    let netlink = Netlink::open()?;
    let deadline = now() + NOTICED;
    while !netlink.link(interface)?.is_some_and(|link| link.running) {
        if now() > deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{interface} does not come up")));
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Sets a value under `/proc/sys` that belongs to the calling thread's namespace, unless it is so.
///
/// # Errors
/// The kernel's word, and the file.
pub fn set_sysctl(name: &str, value: &str) -> io::Result<()> {
    if sysctl(name)? == value {
        return Ok(());
    }
    let path = format!("/proc/sys/{name}");
    fs::write(&path, value)
        .map_err(|error| io::Error::new(error.kind(), format!("write {value} to {path}: {error}")))
}

/// A value under `/proc/sys` as the calling thread's namespace has it, without the line end.
///
/// # Errors
/// The kernel's word, and the file.
pub fn sysctl(name: &str) -> io::Result<String> {
    let path = format!("/proc/sys/{name}");
    let text = fs::read_to_string(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("read {path}: {error}")))?;
    Ok(text.trim_end().to_string())
}

fn known(netlink: &Netlink, name: &str) -> io::Result<u32> {
    let link = netlink.link(name)?;
    link.map(|link| link.index)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no interface {name}")))
}

fn at(host: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("lab host {host}: {error}"))
}
