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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Places of an index for 4096 rows, and how many of these tuples begin their search in one.
    fn fullest(hash: &Hash, ports: &[(u16, u16)]) -> usize {
        let mut places = BTreeMap::new();
        for ports in ports {
            *places.entry(place(hash, *ports)).or_insert(0) += 1;
        }
        places.into_values().max().unwrap_or(0)
    }

    fn place(hash: &Hash, (a, b): (u16, u16)) -> u64 {
        let a = Endpoint::new(IpAddr::from([10, 0, 0, 2]), a);
        let b = Endpoint::new(IpAddr::from([198, 51, 100, 7]), b);
        hash.pair(Protocol::Udp, a, b) % 4096
    }

    /// Row 162: who does not know the seed cannot make long chains.
    #[test]
    fn tuples_made_to_collide_under_one_seed_do_not_under_another() {
        let known = Hash::new(1, 2);
        let all = (0..1_000_000u32).map(|n| ((n >> 10) as u16, n as u16 & 1023));
        let crafted: Vec<_> = all.filter(|ports| place(&known, *ports) == 0).collect();
        assert!(crafted.len() > 150 && fullest(&known, &crafted) == crafted.len());
        for seed in 3..20 {
            // Chance puts 250 tuples in 4096 places, four in one hardly ever and six never.
            for other in [Hash::new(seed, 2), Hash::new(seed, seed)] {
                assert!(fullest(&other, &crafted) < 6, "{seed}: {}", fullest(&other, &crafted));
            }
        }
    }
}
