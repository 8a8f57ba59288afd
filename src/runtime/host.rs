//! What the worker made on the host, and how it follows the host's changes.

use super::links::Links;
use super::poller::Poller;
use super::portless::Portless;
use crate::flow::{Endpoint, Prefix, Time};
use crate::gateway::{GatewayConfig, INSIDE};
use crate::io::filter::{First, Wanted};
use crate::io::guard::Guard;
use crate::io::netlink::Netlink;
use crate::io::resolver::ResolvConf;
use crate::io::setup::{self, InsideConfig, Made};
use crate::nat::{Exemption, PrefixTranslation};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The host around the worker.
#[derive(Debug)]
pub struct Host {
    /// The outside interface's name.
    pub outside: String,
    /// The uplink is of AF_PACKET.
    pub packet: bool,
    /// How the TAP is made.
    pub inside: InsideConfig,
    /// What was made, to be undone.
    pub made: Made,
    /// External addresses that the host has lost.
    pub lost: BTreeSet<IpAddr>,
    /// External addresses that nobody has named follow those of the host.
    pub follows: bool,
    /// Protocols without ports that have left.
    pub portless: Portless,
    /// What is read first while there is a flood.
    pub first: Option<First>,
    /// External addresses that stand for any address of the host.
    pub anywhere: Vec<IpAddr>,
    /// Addresses inside at which DNS goes to the host's resolver.
    pub forward: Vec<IpAddr>,
    /// How the host looks names up, if that is of interest.
    pub resolver: Option<ResolvConf>,
    /// Which of its servers is asked first instead of the first one, and since when.
    pub instead: Option<(usize, Time)>,
}

impl Host {
    /// The outside endpoint of a port forward: any address of the host has a name of its own where
    /// sockets carry, so that inside hosts find each other by it.
    pub fn published(&self, outside: Endpoint) -> Endpoint {
        let same = |ip: &&IpAddr| ip.is_ipv4() == outside.ip.is_ipv4();
        let name = self.anywhere.iter().find(same).filter(|_| outside.ip.is_unspecified());
        Endpoint { ip: *name.unwrap_or(&outside.ip), ..outside }
    }

    /// Makes the TAP again if it was deleted under us. False if that is not possible yet.
    pub fn make_tap_again(&mut self, links: &mut Links, poller: &mut Poller) -> bool {
        if self.inside.tap_fd.is_some() {
            return false;
        }
        let Ok((tap, mut made)) = setup::inside(&self.inside) else { return false };
        if links.replace(INSIDE, Box::new(tap), poller).is_err() {
            return false;
        }
        made.take_over(&mut self.made);
        self.made = made;
        true
    }

    /// The outside interface came back, perhaps with another number.
    pub fn outside_is_back(&self, guard: &mut Guard) {
        let found = Netlink::open().and_then(|netlink| netlink.link(&self.outside));
        if let Ok(Some(interface)) = found
            && let Err(error) = guard.reattach(interface.index)
        {
            tracing::warn!("{error}; held sockets go on keeping the host silent");
        }
    }

    /// The guard's program looks at other addresses.
    pub fn guard_follows(&self, guard: &mut Guard, external: &[IpAddr]) {
        let found = Netlink::open().and_then(|netlink| netlink.link(&self.outside));
        if let Ok(Some(interface)) = found
            && let Err(error) = guard.follow(interface.index, external)
        {
            tracing::warn!("{error}; held sockets go on keeping the host silent");
        }
    }

    /// Says when the host loses or regains an external address: without it no answer comes back.
    pub fn check_addresses(&mut self, external: &[IpAddr]) {
        let Ok(present) = Netlink::open().and_then(|netlink| netlink.addresses()) else { return };
        for address in external {
            let there = present.iter().any(|(_, ip, _)| ip == address);
            if !there && self.lost.insert(*address) {
                tracing::warn!(
                    "external address {address} is gone from this host: nothing comes back to it; give it back, or start again with another"
                );
            } else if there && self.lost.remove(address) {
                tracing::info!("external address {address} is back");
            }
        }
    }

    /// What the uplink's filter lets in: the range, published ports outside it, protocols without
    /// ports, and prefixes that are translated whole or not at all.
    pub fn wanted(&self, config: &GatewayConfig, published: impl Iterator<Item = u16>) -> Wanted {
        let nat = &config.nat;
        let prefixes = prefixes_of(config);
        let addresses = nat.external.clone();
        let single: BTreeSet<u16> = published.filter(|port| !nat.has_port(*port)).collect();
        let ports = nat.ports.iter().cloned().chain(single.into_iter().map(|port| port..=port));
        let (protocols, first) = (self.portless.protocols(), self.first.clone());
        Wanted { addresses, ports: ports.collect(), protocols, prefixes, first }
    }
}

/// See [`prefixes`].
pub fn prefixes_of(config: &GatewayConfig) -> Vec<Prefix> {
    let inside = config.subnets.iter().map(|subnet| subnet.prefix());
    prefixes(&config.translations, &config.nat.exempt, inside)
}

/// The prefixes of which every packet is let in: those translated whole, and those of inside
/// networks, `inside`, where the answers of exempt destinations go.
pub fn prefixes(
    translations: &[PrefixTranslation],
    exempt: &[Exemption],
    inside: impl Iterator<Item = Prefix>,
) -> Vec<Prefix> {
    let answered = inside.filter(|net| exempt.iter().any(|to| to.remote.ip.is_ipv4() == net.ip.is_ipv4()));
    translations.iter().map(PrefixTranslation::outside).chain(answered).collect()
}
