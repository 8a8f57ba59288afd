//! What is done to the TAP and to `lo` in the namespace, through netlink, by the helper.

use super::{GuestConfig, GuestRoute};
use crate::io::netlink::{Family, Netlink, errno};
use crate::io::setup::QUEUE;
use std::io;
use std::net::IpAddr;

/// Configures the TAP called `name` in the calling thread's namespace; gives its MAC.
///
/// # Errors
/// The thing, the cause and the cure, in one line.
pub fn configure(name: &str, guest: &GuestConfig) -> Result<[u8; 6], String> {
    let netlink = Netlink::open().map_err(|error| error.to_string())?;
    if guest.loopback {
        switch_on_loopback(&netlink)?;
    }
    let look = || -> Result<_, String> {
        let link = netlink.link(name).map_err(|error| error.to_string())?;
        link.ok_or_else(|| format!("TAP {name} vanished while it was configured: somebody removed it"))
    };
    let link = look()?;
    // Without a longer queue, bursts are lost; a TAP that somebody else made may forbid it.
    let _ = netlink.set_txqlen(link.index, QUEUE);
    if let Some(mac) = guest.mac {
        netlink.set_mac(link.index, mac).map_err(explained)?;
    }
    if !guest.configure {
        return Ok(guest.mac.unwrap_or(link.mac));
    }
    netlink.set_mtu(link.index, guest.mtu.into()).map_err(explained)?;
    six(name, guest);
    for net in &guest.addresses {
        add_address(&netlink, link.index, net.addr(), net.prefix_len())?;
    }
    netlink.set_up(link.index, true).map_err(explained)?;
    for route in &guest.routes {
        add_route(&netlink, link.index, guest, route)?;
    }
    Ok(look()?.mac)
}

fn switch_on_loopback(netlink: &Netlink) -> Result<(), String> {
    match netlink.link("lo").map_err(|error| error.to_string())? {
        Some(lo) if !lo.up => netlink.set_up(lo.index, true).map_err(explained),
        _ => Ok(()),
    }
}

/// Readies the interface for IPv6, as far as the namespace lets us: what is missing then shows when
/// an address is added.
fn six(name: &str, guest: &GuestConfig) {
    let set = |key: &str, value: &str| {
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/{key}"), value);
    };
    if let Some(believe) = guest.advertisements {
        set("accept_ra", if believe { "1" } else { "0" });
    }
    if guest.addresses.iter().any(|net| net.addr().is_ipv6()) {
        set("disable_ipv6", "0");
        // Nobody but the gateway is on the wire, whose addresses are known to be others.
        set("accept_dad", "0");
    }
}

fn add_address(netlink: &Netlink, index: u32, ip: IpAddr, prefix: u8) -> Result<(), String> {
    match netlink.add_address(index, ip, prefix) {
        // A TAP that was there before may have it.
        Err(error) if errno(&error) != Some(libc::EEXIST) => {
            let cure = match errno(&error) {
                Some(libc::EACCES | libc::EOPNOTSUPP | libc::EAFNOSUPPORT) if ip.is_ipv6() => {
                    "; IPv6 is switched off in this namespace: give --inside and --guest of IPv4 only"
                }
                Some(libc::EINVAL) if ip.is_ipv6() => "; IPv6 needs an --mtu of 1280 or more",
                _ => "",
            };
            Err(format!("{error}{cure}"))
        }
        _ => Ok(()),
    }
}

fn add_route(netlink: &Netlink, index: u32, guest: &GuestConfig, route: &GuestRoute) -> Result<(), String> {
    let near = |via: IpAddr| guest.addresses.iter().any(|net| net.contains(&via));
    let off_link = route.via.is_some_and(|via| !near(via));
    let Err(error) = netlink.add_route(route.to.addr(), route.to.prefix_len(), route.via, index, off_link)
    else {
        return Ok(());
    };
    if errno(&error) != Some(libc::EEXIST) {
        return Err(explained(error));
    }
    // A TAP that was there before may have it.
    let family = Family::of(route.to.addr());
    let ours = |found: crate::io::netlink::Route| found.ifindex == index && found.gateway == route.via;
    match netlink.default_route(family) {
        Ok(Some(found)) if route.to.prefix_len() == 0 && ours(found) => Ok(()),
        _ => Err(format!(
            "{error}: the namespace has a route to {} already; remove it (`ip route del {}`), or give --no-config \
             and set addresses and routes yourself",
            route.to, route.to
        )),
    }
}

fn explained(error: io::Error) -> String {
    match errno(&error) {
        Some(libc::EPERM | libc::EACCES) => {
            format!("{error}; join the user namespace that owns this network namespace with --userns")
        }
        _ => error.to_string(),
    }
}
