//! Which addresses the gateway translates to, which are the host's, and whether they go together
//! with the inside: of both families, by the same rules.

use crate::config::Settings;
use crate::io::netlink::{Family, Netlink};
use crate::io::proxy::{ArpProxy, NdpProxy};
use crate::io::setup::Outside;
use anyhow::{Context, bail};
use ipnet::IpNet;
use std::io;
use std::net::IpAddr;
use std::thread;

/// The families that the inside speaks, IPv4 first.
pub fn families(settings: &Settings) -> Vec<Family> {
    let spoken = |family: &Family| settings.inside.iter().any(|net| Family::of(net.addr()) == *family);
    [Family::Four, Family::Six].into_iter().filter(spoken).collect()
}

/// The addresses to translate to: of each family that the inside speaks those that are named, or else
/// those of the outside interface.
///
/// # Errors
/// An address is named that nobody inside could use, or none is left for a family.
pub fn external(settings: &Settings, outside: &Outside) -> anyhow::Result<Vec<IpAddr>> {
    let families = families(settings);
    for address in &settings.external {
        let family = Family::of(*address);
        if !families.contains(&family) {
            bail!(
                "external {address}: no inside network is {family}; name one with --inside, or leave it out"
            );
        }
        if matches!(address, IpAddr::V6(ip) if ip.is_unicast_link_local()) {
            bail!("external {address}: means something on one link only; name a global address");
        }
    }
    let mut external = settings.external.clone();
    for family in families {
        if !external.iter().any(|address| Family::of(*address) == family) {
            external.extend(outside.externals(family)?);
        }
    }
    Ok(external)
}

/// The host's addresses that are not translated to: packets to them go to the host.
///
/// # Errors
/// The kernel's word.
pub fn others(netlink: &Netlink, settings: &Settings, external: &[IpAddr]) -> anyhow::Result<Vec<IpAddr>> {
    let families = families(settings);
    let of_the_link = |address: &IpAddr| match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let all = netlink.addresses().context("list the host's addresses")?;
    let mut others: Vec<_> = all
        .into_iter()
        .map(|(_, address, _)| address)
        .filter(|address| families.contains(&Family::of(*address)))
        .filter(|address| !address.is_loopback() && !of_the_link(address) && !external.contains(address))
        // What is inside is reached over the bridge, not through the gateway.
        .filter(|address| !settings.inside.iter().any(|net| net.contains(address)))
        .collect();
    others.sort_unstable();
    others.dedup();
    Ok(others)
}

/// Inside and outside must not overlap (RFC 4787 REQ-7), and the gateway's own address must be
/// nobody else's.
///
/// # Errors
/// They do.
pub fn check_overlap(settings: &Settings, external: &[IpAddr], others: &[IpAddr]) -> anyhow::Result<()> {
    for net in &settings.inside {
        if let Some(address) = external.iter().chain(others).find(|address| net.contains(*address)) {
            bail!(
                "inside {net}: overlaps with {address}, an address of this host outside; \
                 choose another subnet with --inside"
            );
        }
    }
    Ok(())
}

/// An address to translate to that no interface of the host has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Foreign {
    /// The address.
    pub address: IpAddr,
    /// It lies in a network that the outside interface is on.
    pub on_link: bool,
}

impl Foreign {
    /// Those of the external addresses that no interface has.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn among(external: &[IpAddr], netlink: &Netlink, outside: &Outside) -> anyhow::Result<Vec<Foreign>> {
        let all = netlink.addresses().context("list the host's addresses")?;
        let on_link = |address: IpAddr| {
            let mut here = all.iter().filter(|(index, ..)| *index == outside.interface.index);
            here.any(|(_, ip, prefix)| IpNet::new(*ip, *prefix).is_ok_and(|net| net.contains(&address)))
        };
        let foreign = external.iter().filter(|address| !all.iter().any(|(_, ip, _)| ip == *address));
        Ok(foreign.map(|address| Foreign { address: *address, on_link: on_link(*address) }).collect())
    }
}

/// Sees to it that foreign addresses of the outside network are found there: questions of ARP and
/// neighbour discovery are to be answered for them.
pub fn answer_for(foreign: &[Foreign], outside: &Outside) -> Vec<Answering> {
    let (mut four, mut six) = (Vec::new(), Vec::new());
    for foreign in foreign.iter().filter(|foreign| foreign.on_link) {
        match foreign.address {
            IpAddr::V4(address) => four.push(address),
            IpAddr::V6(address) => six.push(address),
        }
    }
    let (index, mac) = (outside.interface.index, outside.interface.mac);
    let answering = |what, list: Vec<String>, proxy| {
        let name = outside.interface.name.clone();
        Answering { what, name, list: list.join(", "), proxy }
    };
    let mut all = Vec::new();
    if !four.is_empty() {
        let list = four.iter().map(ToString::to_string).collect();
        all.push(answering("ARP", list, ArpProxy::open(index, mac, &four).map(Proxy::Four)));
    }
    if !six.is_empty() {
        let list = six.iter().map(ToString::to_string).collect();
        let proxy = NdpProxy::open(index, mac, &six).map(Proxy::Six);
        all.push(answering("neighbour solicitations", list, proxy));
    }
    all
}

#[derive(Debug)]
enum Proxy {
    Four(ArpProxy),
    Six(NdpProxy),
}

impl Proxy {
    fn serve(&self) -> io::Result<()> {
        match self {
            Proxy::Four(proxy) => proxy.serve(),
            Proxy::Six(proxy) => proxy.serve(),
        }
    }
}

/// Questions that are to be answered: ARP, or neighbour discovery.
#[derive(Debug)]
pub struct Answering {
    what: &'static str,
    name: String,
    list: String,
    proxy: io::Result<Proxy>,
}

impl Answering {
    /// Answers from a thread of its own, so that nothing else waits for it. Says if that cannot be.
    pub fn start(self) {
        let Answering { what, name, list, proxy } = self;
        let on = name.clone();
        let served = proxy.and_then(|proxy| {
            let thread = if matches!(proxy, Proxy::Four(_)) { "arp" } else { "ndp" };
            let lost = move |error| tracing::warn!("{what} on {on}: not answered any more: {error}");
            thread::Builder::new().name(thread.to_owned()).spawn(move || proxy.serve().unwrap_or_else(lost))
        });
        match served {
            Ok(_) => tracing::info!("answering {what} for {list} on {name}"),
            Err(error) => tracing::warn!(
                "external {list}: nobody answers {what} for it on {name} ({error}), so no answer will come \
                 back: give it to the interface (and leave --guard at auto), or have the router send it to \
                 this host"
            ),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::{RunFlags, load};
    use crate::io::netlink::LinkFacts;

    fn settings(inside: &[&str], external: &[&str]) -> Settings {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let flags = RunFlags { inside: owned(inside), external: owned(external), ..RunFlags::default() };
        load(&flags, None).unwrap()
    }

    /// An interface with these addresses.
    pub fn outside(addresses: &[&str]) -> Outside {
        let interface = LinkFacts {
            index: 1,
            name: "eth0".into(),
            mac: [0; 6],
            mtu: 1500,
            up: true,
            running: true,
            master: None,
            kind: None,
            txqlen: 0,
        };
        Outside { interface, addresses: ips(addresses) }
    }

    pub fn ips(words: &[&str]) -> Vec<IpAddr> {
        words.iter().map(|word| word.parse().unwrap()).collect()
    }

    #[test]
    fn each_family_inside_gets_an_address_outside_by_itself() {
        let both = outside(&["192.0.2.1", "2001:db8::1"]);
        let (four, six) = ("10.88.0.1/24", "fd00:88::1/64");
        let found = |inside: &[&str], external: &[&str]| external_of(inside, external, &both);
        assert_eq!(found(&[four], &[]).unwrap(), ips(&["192.0.2.1"]));
        assert_eq!(found(&[six], &[]).unwrap(), ips(&["2001:db8::1"]));
        assert_eq!(found(&[four, six], &[]).unwrap(), ips(&["192.0.2.1", "2001:db8::1"]));
        assert_eq!(found(&[four, six], &["2001:db8::9"]).unwrap(), ips(&["2001:db8::9", "192.0.2.1"]));
        assert!(found(&[four], &["2001:db8::9"]).unwrap_err().contains("no inside network is IPv6"));
        let only_four = outside(&["192.0.2.1"]);
        let told = external_of(&[four, six], &[], &only_four).unwrap_err();
        assert!(told.contains("eth0 has no IPv6 address"), "{told}");
    }

    fn external_of(inside: &[&str], named: &[&str], outside: &Outside) -> Result<Vec<IpAddr>, String> {
        external(&settings(inside, named), outside).map_err(|error| error.to_string())
    }
}
