//! Hashes of keys, seeded, so that nobody outside can choose keys that collide.

use crate::flow::{Endpoint, Protocol};
use foldhash::{SharedSeed, quality::FoldHasher};
use std::hash::Hasher;
use std::net::IpAddr;

/// The seed.
#[derive(Debug)]
pub(super) struct Hash {
    seed: u64,
    shared: SharedSeed,
}

/// A protocol as a number: IP protocol numbers for the three with ports or identifiers of their
/// own, the others above them.
#[inline]
fn code(protocol: Protocol) -> u128 {
    match protocol {
        Protocol::Other(number) => 256 | u128::from(number),
        known => u128::from(known.ipv4_number()),
    }
}

fn wide(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

impl Hash {
    pub(super) fn new(seed: u64, shared: u64) -> Self {
        Hash { seed, shared: SharedSeed::from_u64(shared) }
    }

    #[inline]
    fn hasher(&self) -> FoldHasher<'_> {
        FoldHasher::with_seed(self.seed, &self.shared)
    }

    /// Of a protocol and two endpoints.
    #[inline]
    pub(super) fn pair(&self, protocol: Protocol, a: Endpoint, b: Endpoint) -> u64 {
        let mut hasher = self.hasher();
        let rest = code(protocol) << 96 | u128::from(a.port) << 80 | u128::from(b.port) << 64;
        match (a.ip, b.ip) {
            (IpAddr::V4(x), IpAddr::V4(y)) => {
                hasher.write_u128(rest | u128::from(x.to_bits()) << 32 | u128::from(y.to_bits()));
            }
            (x, y) => {
                hasher.write_u128(rest);
                hasher.write_u128(wide(x));
                hasher.write_u128(wide(y));
            }
        }
        hasher.finish()
    }

    /// Of an address and a number.
    #[inline]
    pub(super) fn address(&self, number: u32, ip: IpAddr) -> u64 {
        let mut hasher = self.hasher();
        match ip {
            IpAddr::V4(ip) => hasher.write_u128(u128::from(number) << 64 | u128::from(ip.to_bits())),
            IpAddr::V6(ip) => {
                hasher.write_u128(u128::from(number));
                hasher.write_u128(ip.to_bits());
            }
        }
        hasher.finish()
    }
}
