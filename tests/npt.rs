//! Prefix translation (RFC 6296): the arithmetic, and packets through the gateway.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use std::net::Ipv6Addr;
use tapnat::flow::Prefix;
use tapnat::nat::{PrefixTranslation, PrefixTranslationError, Unmapped};
use tapnat::wire::checksum;

fn ip(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn prefix(text: &str, length: u8) -> Prefix {
    Prefix::new(ip(text), length)
}

fn pair(inside: (&str, u8), outside: (&str, u8)) -> PrefixTranslation {
    PrefixTranslation::new(prefix(inside.0, inside.1), prefix(outside.0, outside.1)).unwrap()
}

fn both_ways(pair: PrefixTranslation, inside: &str, outside: &str) {
    assert_eq!(pair.outward(ip(inside)), Ok(ip(outside)));
    assert_eq!(pair.inward(ip(outside)), Ok(ip(inside)));
}

#[test]
fn the_example_of_rfc_6296() {
    let pair = pair(("fd01:203:405::", 48), ("2001:db8:1::", 48));
    both_ways(pair, "fd01:203:405:1::1234", "2001:db8:1:d550::1234");
}

#[test]
fn prefixes_longer_than_48_bits_adjust_the_first_free_word_of_the_identifier() {
    let pair = pair(("fd01:203:405:600::", 56), ("2001:db8:1:200::", 56));
    let adjustment: u16 = 0xd54f + 0x0400;
    both_ways(pair, "fd01:203:405:6ab:1:0:0:7", &format!("2001:db8:1:2ab:{:x}::7", adjustment + 1));
    let next = format!("2001:db8:1:2ab:ffff:{:x}::7", adjustment + 2);
    both_ways(pair, "fd01:203:405:6ab:ffff:2:0:7", &next);
    let last = format!("2001:db8:1:2ab:ffff:ffff:ffff:{:x}", adjustment + 3);
    both_ways(pair, "fd01:203:405:6ab:ffff:ffff:ffff:3", &last);
}

#[test]
fn ffff_is_written_as_zero_and_a_subnet_ffff_is_not_mapped() {
    let pair = pair(("fd01:203:405::", 48), ("2001:db8:1::", 48));
    // 2ab0 + d54f = ffff.
    both_ways(pair, "fd01:203:405:2ab0::1", "2001:db8:1::1");
    assert_eq!(pair.outward(ip("fd01:203:405:ffff::1")), Err(Unmapped::Subnet));
    assert_eq!(pair.inward(ip("2001:db8:1:ffff::1")), Err(Unmapped::Subnet));
}

#[test]
fn identifiers_of_all_zeros_or_all_ones_are_not_mapped() {
    let short = pair(("fd01:203:405::", 48), ("2001:db8:1::", 48));
    assert_eq!(short.outward(ip("fd01:203:405:1::")), Err(Unmapped::Identifier));
    assert_eq!(short.inward(ip("2001:db8:1:1::")), Err(Unmapped::Identifier));
    let long = pair(("fd01:203:405:1::", 64), ("2001:db8:1:1::", 64));
    assert_eq!(long.outward(ip("fd01:203:405:1:ffff:ffff:ffff:ffff")), Err(Unmapped::Identifier));
    // It would come out as all zeros, and its answers could not come back.
    assert_eq!(long.outward(ip("fd01:203:405:1:2ab0::")), Err(Unmapped::Identifier));
}

#[test]
fn of_two_lengths_the_shorter_prefix_has_only_its_first_subnets_translated() {
    let pair = pair(("fd01:203:405::", 48), ("2001:db8:1:500::", 56));
    let adjustment: u16 = 0xd54f - 0x500;
    both_ways(pair, "fd01:203:405:7:1:0:0:2", &format!("2001:db8:1:507:{:x}::2", adjustment + 1));
    assert_eq!(pair.outward(ip("fd01:203:405:107:1:0:0:2")), Err(Unmapped::Subnet));
}

#[test]
fn prefixes_that_make_no_translation_are_refused() {
    let new = |inside, outside| PrefixTranslation::new(inside, outside).unwrap_err();
    let (ours, theirs) = (prefix("fd01::", 48), prefix("2001:db8::", 65));
    assert_eq!(new(ours, theirs), PrefixTranslationError::Length);
    assert_eq!(new(prefix("fd01::", 0), ours), PrefixTranslationError::Length);
    assert_eq!(new(ours, prefix("fd01::", 64)), PrefixTranslationError::Overlap);
    let v4 = Prefix::new(std::net::Ipv4Addr::LOCALHOST, 8);
    assert_eq!(new(ours, v4), PrefixTranslationError::Family);
}

/// The sum of an address as a checksum takes it, with one form of zero.
fn sum(ip: Ipv6Addr) -> u16 {
    match checksum::sum(&ip.octets()) {
        0xffff => 0,
        sum => sum,
    }
}

proptest! {
    #[test]
    fn every_mapped_address_comes_back_and_no_checksum_notices(
        inside in any::<u128>(), outside in any::<u128>(), host in any::<u128>(),
        lengths in (1u8..=64, 1u8..=64), ones in 0usize..5,
    ) {
        let inside = Prefix::new(Ipv6Addr::from_bits(inside), lengths.0);
        let outside = Prefix::new(Ipv6Addr::from_bits(outside), lengths.1);
        let Ok(pair) = PrefixTranslation::new(inside, outside) else { return Ok(()) };
        let longest = lengths.0.max(lengths.1);
        let std::net::IpAddr::V6(first) = pair.inside().ip else { unreachable!() };
        // Identifiers that begin with words of ones are the ones to look at.
        let words = (u128::from(u64::MAX) << 64 >> (16 * ones)) & u128::from(u64::MAX);
        let host = (host | if ones > 0 { words } else { 0 }) & (u128::MAX >> longest);
        let ip = Ipv6Addr::from_bits(first.to_bits() | host);
        if let Ok(mapped) = pair.outward(ip) {
            prop_assert!(outside.covers(mapped.into()));
            prop_assert_eq!(sum(mapped), sum(ip));
            prop_assert_eq!(pair.inward(mapped), Ok(ip));
        }
    }
}
