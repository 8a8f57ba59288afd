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

    /// Places of an index that keys fall on, and how many on each.
    fn places(hash: &Hash, remotes: &[Endpoint]) -> BTreeMap<u64, usize> {
        let inside = Endpoint::new([10, 0, 0, 2], 1000);
        let mut places = BTreeMap::new();
        for remote in remotes {
            *places.entry(hash.pair(Protocol::Udp, inside, *remote) & 1023).or_default() += 1;
        }
        places
    }

    #[test]
    fn remotes_chosen_to_collide_under_one_seed_do_not_under_another() {
        let known = Hash::new(1, 2);
        let inside = Endpoint::new([10, 0, 0, 2], 1000);
        let all = (0..200_000u32).map(|n| Endpoint::new((0xc633_0000 + n).to_be_bytes(), 53));
        let chosen: Vec<_> =
            all.filter(|remote| known.pair(Protocol::Udp, inside, *remote) & 1023 == 7).take(100).collect();
        assert_eq!(places(&known, &chosen), BTreeMap::from([(7, 100)]));
        for seed in 3..20 {
            let most = places(&Hash::new(seed, seed + 1), &chosen).into_values().max();
            assert!(most < Some(6), "{most:?} of 100 keys on one of 1024 places");
        }
    }
}
