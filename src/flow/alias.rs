//! Addresses inside that stand for something on the host.

use super::{Endpoint, Protocol};
use std::net::{IpAddr, SocketAddr};

/// An address that inside hosts use for something on the host that has no address of its own for
/// them: its loopback, or its resolver.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Alias {
    /// The address inside; may be the gateway's own.
    pub inside: IpAddr,
    /// The one port of TCP and UDP that it is an alias for; `None` for every port, and for echo.
    pub port: Option<u16>,
    /// Whom it stands for; port 0 leaves the port as it is.
    pub host: SocketAddr,
}

impl Alias {
    /// Whether a packet to (or from) this endpoint inside is meant for the alias.
    pub fn covers(&self, protocol: Protocol, end: Endpoint) -> bool {
        let ported = matches!(protocol, Protocol::Tcp | Protocol::Udp);
        self.inside == end.ip && self.port.is_none_or(|port| ported && port == end.port)
    }

    /// Where a packet to `end`, which the alias covers, is to go on the host.
    pub fn host_of(&self, end: Endpoint) -> SocketAddr {
        let mut host = self.host;
        if host.port() == 0 {
            host.set_port(end.port);
        }
        host
    }

    /// How what comes from `host` is seen inside, if this alias stands for it.
    pub fn seen(&self, host: SocketAddr) -> Option<Endpoint> {
        let whole = self.port.is_none() && self.host.port() == 0;
        (whole && self.host.ip() == host.ip()).then(|| Endpoint::new(self.inside, host.port()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_of_one_port_is_for_that_port_of_tcp_and_udp_only() {
        let inside: IpAddr = [10, 0, 2, 3].into();
        let host = SocketAddr::from(([127, 0, 0, 53], 53));
        let dns = Alias { inside, port: Some(53), host };
        let end = |port| Endpoint::new(inside, port);
        assert!(dns.covers(Protocol::Udp, end(53)) && dns.covers(Protocol::Tcp, end(53)));
        assert!(!dns.covers(Protocol::Udp, end(54)) && !dns.covers(Protocol::Icmp, end(53)));
        assert_eq!(dns.host_of(end(53)), host);
        assert_eq!(dns.seen(host), None, "others talk to the resolver by its own name");
        let whole = Alias { inside, port: None, host: ([127, 0, 0, 1], 0).into() };
        assert!(whole.covers(Protocol::Icmp, end(0)) && whole.covers(Protocol::Tcp, end(8080)));
        assert_eq!(whole.host_of(end(8080)), ([127, 0, 0, 1], 8080).into());
        assert_eq!(whole.seen(([127, 0, 0, 1], 7).into()), Some(end(7)));
    }
}
