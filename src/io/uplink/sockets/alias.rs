//! Who is meant, and who is seen: addresses inside that stand for something on the host.

use crate::flow::{Alias, Endpoint, Protocol};
use crate::wire::dns;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An address of the host that an inside host has too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shared {
    /// The address.
    pub ip: IpAddr,
    /// That of the inside host's gateway, as whom clients of the host itself are seen.
    pub gateway: IpAddr,
}

/// The aliases, and the gateway's own addresses inside, which stand for the host's loopback where
/// no alias does: a client there is seen as the gateway.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Aliases {
    list: Vec<Alias>,
    gateways: Vec<IpAddr>,
    shared: Vec<Shared>,
}

impl Aliases {
    /// These aliases, and the gateway's own addresses inside.
    pub fn new(list: Vec<Alias>, gateways: Vec<IpAddr>) -> Self {
        Aliases { list, gateways, shared: Vec::new() }
    }

    /// With addresses of the host that inside hosts have too.
    #[must_use]
    pub fn sharing(self, shared: Vec<Shared>) -> Self {
        Aliases { shared, ..self }
    }

    /// Whether an inside host has this address of the host too.
    fn shares(&self, ip: IpAddr) -> bool {
        self.shared.iter().any(|shared| shared.ip == ip)
    }

    /// Whether clients with this address may be seen inside as a gateway that is somebody else's, or are
    /// that gateway, so that it has to be remembered which they are.
    pub fn poses(&self, ip: IpAddr) -> bool {
        !self.shared.is_empty() && (ip.is_loopback() || self.shares(ip) || self.is_router(ip))
    }

    /// Whether this is the address of a gateway that is somebody else's, who is a client like others.
    fn is_router(&self, ip: IpAddr) -> bool {
        self.shared.iter().any(|shared| shared.gateway == ip)
    }

    /// Takes other aliases.
    pub fn set(&mut self, list: Vec<Alias>) {
        self.list = list;
    }

    /// Where a packet to `remote` is really to go.
    pub fn host(&self, protocol: Protocol, remote: Endpoint) -> SocketAddr {
        if let Some(alias) = self.list.iter().find(|alias| alias.covers(protocol, remote)) {
            return alias.host_of(remote);
        }
        let ip = match remote.ip {
            // The gateway lets this through only to somebody who has knocked from there.
            ip if self.gateways.contains(&ip) => loopback(ip),
            ip => ip,
        };
        SocketAddr::new(ip, remote.port)
    }

    /// Whether `remote` stands for the host's resolver.
    pub fn resolves(&self, protocol: Protocol, remote: Endpoint) -> bool {
        let dns = |alias: &Alias| alias.port == Some(dns::PORT) && alias.covers(protocol, remote);
        remote.port == dns::PORT && self.list.iter().any(dns)
    }

    /// How what comes from `host` unasked is seen inside: the host's loopback, and an address that an
    /// inside host has too, as their alias or as the gateway. `None` if nobody inside could answer (it
    /// is the loopback of a family that is not spoken inside), or if it has the address by which
    /// the gateway or an alias is known there: a neighbour outside is not to pass for the host.
    pub fn seen(&self, host: SocketAddr) -> Option<Endpoint> {
        let ip = host.ip();
        if !ip.is_loopback() && !self.shares(ip) {
            let poses =
                |alias: &Alias| alias.inside == ip && alias.port.is_none_or(|port| port == host.port());
            let known = self.gateways.contains(&ip) || (self.list.iter().any(poses) && !self.is_router(ip));
            return (!known).then(|| Endpoint::new(ip, host.port()));
        }
        let alias = self.list.iter().find_map(|alias| alias.seen(host));
        let gateway = || {
            let shared = self.shared.iter().filter(|shared| shared.ip == ip || ip.is_loopback());
            let mut all = shared.map(|shared| &shared.gateway).chain(&self.gateways);
            all.find(|gateway| gateway.is_ipv4() == ip.is_ipv4())
        };
        alias.or_else(|| gateway().map(|gateway| Endpoint::new(*gateway, host.port())))
    }
}

fn loopback(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

/// Remotes that a socket has talked to by an alias, the latest last: what comes back from the host is
/// to be seen as whom it was sent to.
#[derive(Debug, Default)]
pub struct Talks(Vec<(SocketAddr, Endpoint)>);

/// Remotes that are remembered for one socket.
const TALKS: usize = 32;

impl Talks {
    /// Notes that a packet for `remote` goes to `host`.
    pub fn note(&mut self, host: SocketAddr, remote: Endpoint) {
        let plain = remote.ip == host.ip() && remote.port == host.port();
        if plain && self.0.is_empty() {
            return;
        }
        match plain {
            true => self.0.retain(|(known, _)| *known != host),
            false => self.keep(host, remote),
        }
    }

    /// Notes that a packet from `host` was seen as one from `remote`.
    pub fn keep(&mut self, host: SocketAddr, remote: Endpoint) {
        if self.0.last() == Some(&(host, remote)) {
            return;
        }
        self.0.retain(|(known, _)| *known != host);
        if self.0.len() >= TALKS {
            self.0.remove(0);
        }
        self.0.push((host, remote));
    }

    /// Who was seen as `remote`, if that is one that `wanted` holds for.
    pub fn host(&self, remote: Endpoint, wanted: impl Fn(IpAddr) -> bool) -> Option<SocketAddr> {
        let known = self.0.iter().rev().find(|(host, known)| *known == remote && wanted(host.ip()));
        known.map(|(host, _)| *host)
    }

    /// Whom `host` is to be seen as.
    pub fn seen(&self, host: SocketAddr) -> Option<Endpoint> {
        self.0.iter().rev().find(|(known, _)| *known == host).map(|(_, remote)| *remote)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(ip: [u8; 4], port: u16) -> Endpoint {
        Endpoint::new(IpAddr::from(ip), port)
    }

    #[test]
    fn loopback_is_seen_as_its_alias_or_as_the_gateway_and_never_as_itself() {
        let gateway = end([10, 0, 2, 1], 0).ip;
        let mut aliases = Aliases::new(Vec::new(), vec![gateway]);
        let client = SocketAddr::from(([127, 0, 0, 1], 4000));
        assert_eq!(aliases.seen(client), Some(end([10, 0, 2, 1], 4000)));
        assert_eq!(aliases.host(Protocol::Tcp, end([10, 0, 2, 1], 4000)), client);
        assert_eq!(aliases.seen((Ipv6Addr::LOCALHOST, 4000).into()), None);
        let inside = end([10, 0, 2, 2], 0).ip;
        aliases.set(vec![Alias { inside, port: None, host: ([127, 0, 0, 1], 0).into() }]);
        assert_eq!(aliases.seen(client), Some(end([10, 0, 2, 2], 4000)));
        assert_eq!(aliases.host(Protocol::Tcp, end([10, 0, 2, 2], 80)), ([127, 0, 0, 1], 80).into());
        let far = SocketAddr::from(([192, 0, 2, 1], 80));
        assert_eq!(aliases.seen(far), Some(end([192, 0, 2, 1], 80)));
        for posing in [[10, 0, 2, 1], [10, 0, 2, 2]] {
            assert_eq!(aliases.seen((posing, 80).into()), None);
        }
    }

    #[test]
    fn the_host_is_seen_as_the_gateway_where_its_address_is_inside_too() {
        let (ip, gateway) = (end([192, 0, 2, 50], 0).ip, end([192, 0, 2, 1], 0).ip);
        let mut aliases = Aliases::new(Vec::new(), Vec::new()).sharing(vec![Shared { ip, gateway }]);
        let client = SocketAddr::new(ip, 4000);
        assert_eq!(aliases.seen(client), Some(end([192, 0, 2, 1], 4000)));
        assert_eq!(aliases.seen(([127, 0, 0, 1], 5).into()), Some(end([192, 0, 2, 1], 5)));
        // The router itself is a remote like others, unless it is an alias.
        let router = SocketAddr::new(gateway, 53);
        assert_eq!(aliases.host(Protocol::Udp, end([192, 0, 2, 1], 53)), router);
        assert_eq!(aliases.seen(router), Some(end([192, 0, 2, 1], 53)));
        let mut talks = Talks::default();
        talks.note(client, end([192, 0, 2, 1], 4000));
        assert_eq!(talks.host(end([192, 0, 2, 1], 4000), |ip| aliases.poses(ip)), Some(client));
        assert_eq!(talks.host(end([192, 0, 2, 1], 4001), |ip| aliases.poses(ip)), None);
        // Where it is an alias, it comes in all the same, and is answered itself.
        aliases.set(vec![Alias { inside: gateway, port: None, host: ([127, 0, 0, 1], 0).into() }]);
        assert_eq!(aliases.seen(router), Some(end([192, 0, 2, 1], 53)));
        assert!(aliases.poses(gateway));
        talks.keep(router, end([192, 0, 2, 1], 53));
        assert_eq!(talks.host(end([192, 0, 2, 1], 53), |ip| aliases.poses(ip)), Some(router));
        let host = end([169, 254, 1, 2], 0).ip;
        aliases.set(vec![Alias { inside: host, port: None, host: (ip, 0).into() }]);
        assert_eq!(aliases.seen(client), Some(end([169, 254, 1, 2], 4000)));
        assert_eq!(aliases.host(Protocol::Tcp, end([169, 254, 1, 2], 80)), SocketAddr::new(ip, 80));
    }

    #[test]
    fn who_was_asked_by_an_alias_answers_by_it() {
        let mut talks = Talks::default();
        let host = SocketAddr::from(([127, 0, 0, 53], 53));
        talks.note(host, end([10, 0, 2, 3], 53));
        assert_eq!(talks.seen(host), Some(end([10, 0, 2, 3], 53)));
        talks.note(host, end([127, 0, 0, 53], 53));
        assert_eq!(talks.seen(host), None, "asked by its own name since");
        for port in 0..100 {
            talks.note(([127, 0, 0, 1], port).into(), end([10, 0, 2, 2], port));
        }
        assert_eq!(talks.0.len(), TALKS);
    }
}
