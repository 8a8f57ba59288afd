//! Where the host has a way to, so that who asks for the rest is told at once.

use crate::flow::Prefix;
use std::net::IpAddr;

/// Destinations that the host has routes to, by family: `None` is everywhere, as with a default route.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reach {
    /// Of IPv4.
    pub four: Option<Vec<Prefix>>,
    /// Of IPv6.
    pub six: Option<Vec<Prefix>>,
}

impl Reach {
    /// Whether there is a way to `ip`.
    #[inline]
    pub fn covers(&self, ip: IpAddr) -> bool {
        let known = if ip.is_ipv4() { &self.four } else { &self.six };
        known.as_ref().is_none_or(|known| known.iter().any(|prefix| prefix.covers(ip)))
    }
}
