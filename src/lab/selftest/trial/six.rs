//! The addresses of a trial over IPv6: a unique local prefix inside, one for documentation outside.

use std::net::Ipv6Addr;

/// Inside host A.
pub const A: Ipv6Addr = inside(2);
/// Inside host B.
pub const B: Ipv6Addr = inside(3);
/// Inside host C.
pub const C: Ipv6Addr = inside(4);
/// The gateway's address inside.
pub const GI: Ipv6Addr = inside(1);
/// The external address.
pub const X: Ipv6Addr = outside(1);
/// The second external address, where a setup has two.
pub const X2: Ipv6Addr = outside(2);
/// The router outside.
pub const R: Ipv6Addr = outside(0xfe);
/// A server.
pub const S1: Ipv6Addr = remote(7);
/// Another server.
pub const S2: Ipv6Addr = remote(8);
/// A router on the way to the servers.
pub const R9: Ipv6Addr = remote(9);
/// Length of the prefixes of both subnets.
pub const PREFIX: u8 = 64;

/// An address of the inside subnet, fd00:10::/64.
pub const fn inside(host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, host)
}

/// An address of the outside subnet, 2001:db8:113::/64.
pub const fn outside(host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, host)
}

/// An address far away, in 2001:db8:51::/64.
pub const fn remote(host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, host)
}
