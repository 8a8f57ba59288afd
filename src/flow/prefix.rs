//! A block of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// An address prefix of either family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix {
    /// An address in it; the bits behind the length mean nothing.
    pub ip: IpAddr,
    /// Its length in bits, at most 32 or 128 by the family.
    pub length: u8,
}

impl Prefix {
    /// The prefix of this length around `ip`. A length beyond the address counts as its whole length.
    pub fn new(ip: impl Into<IpAddr>, length: u8) -> Self {
        let ip = ip.into();
        Prefix { ip, length: length.min(if ip.is_ipv4() { 32 } else { 128 }) }
    }

    /// Whether `ip` is in it, or carries an IPv4 address that is: who translates for it on the way leads it
    /// there.
    pub fn covers_carried(self, ip: IpAddr) -> bool {
        self.covers(ip) || carried(ip).is_some_and(|four| self.covers(four.into()))
    }

    /// Whether `ip` is in it. An address of the other family never is.
    #[inline]
    pub fn covers(self, ip: IpAddr) -> bool {
        match (self.ip, ip) {
            (IpAddr::V4(ours), IpAddr::V4(ip)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0);
                (ours.to_bits() ^ ip.to_bits()) & mask == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(ip)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.length)).unwrap_or(0);
                (ours.to_bits() ^ ip.to_bits()) & mask == 0
            }
            _ => false,
        }
    }

    /// Whether some address is in both.
    pub fn overlaps(self, other: Prefix) -> bool {
        self.covers(other.ip) && self.length <= other.length
            || other.covers(self.ip) && other.length <= self.length
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.length)
    }
}

/// The IPv4 address that an IPv6 one carries: by the well-known prefix of NAT64 (RFC 6052 §2.1), or 6to4
/// (RFC 3056 §2).
pub fn carried(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(ip) = ip else { return None };
    match ip.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn covers_what_shares_its_first_bits_and_only_its_own_family() {
        let ten = Prefix::new(Ipv4Addr::new(10, 1, 0, 9), 16);
        assert!(ten.covers(Ipv4Addr::new(10, 1, 255, 255).into()));
        assert!(!ten.covers(Ipv4Addr::new(10, 2, 0, 0).into()));
        assert!(!ten.covers(Ipv6Addr::LOCALHOST.into()));
        assert!(Prefix::new(Ipv4Addr::UNSPECIFIED, 0).covers(Ipv4Addr::BROADCAST.into()));
        assert!(Prefix::new(Ipv6Addr::UNSPECIFIED, 0).covers(Ipv6Addr::LOCALHOST.into()));
        assert!(Prefix::new(Ipv6Addr::LOCALHOST, 128).covers(Ipv6Addr::LOCALHOST.into()));
        assert!(ten.overlaps(Prefix::new(Ipv4Addr::new(10, 1, 2, 3), 32)));
        assert!(Prefix::new(Ipv4Addr::new(10, 0, 0, 0), 8).overlaps(ten));
        assert!(!ten.overlaps(Prefix::new(Ipv4Addr::new(10, 2, 0, 0), 16)));
    }
}
