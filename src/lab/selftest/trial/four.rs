//! The addresses of a trial over IPv4.

use std::net::Ipv4Addr;

/// Inside host A.
pub const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// Inside host B.
pub const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
/// Inside host C.
pub const C: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 4);
/// The gateway's address inside.
pub const GI: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The external address.
pub const X: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The second external address, where a setup has two.
pub const X2: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// The router outside.
pub const R: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);
/// A server.
pub const S1: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// Another server.
pub const S2: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 8);
/// A router on the way to the servers.
pub const R9: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
/// Length of the prefixes of both subnets.
pub const PREFIX: u8 = 24;
