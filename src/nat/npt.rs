//! IPv6 prefix translation without state (RFC 6296): one prefix for another, and one more word
//! changed so that no checksum notices.
//!
//! # Theory of operation
//!
//! A checksum of TCP, UDP or ICMPv6 covers the addresses as 16-bit words in ones' complement. If
//! the outside prefix sums to less than the inside one by some **adjustment**, adding the
//! adjustment to any other word of the address leaves the sum of the whole as it was. So the
//! translator need not know the transport, nor find it: fragments, encryption and protocols to come
//! all pass, each way, from anybody.
//!
//! ```text
//!   fd01:0203:0405 | 0001 | 0000:0000:0000:1234     sum of the prefix 030a
//!   2001:0db8:0001 | d550 | 0000:0000:0000:1234     sum of the prefix 2dba
//!   prefix           subnet   interface identifier
//!   030a - 2dba = d54f (ones' complement);  0001 + d54f = d550
//! ```
//!
//! With prefixes of 48 bits or less the subnet takes the adjustment; with longer ones (up to 64) the
//! first word of the interface identifier that is not ffff does. Zero has two forms in ones'
//! complement: ffff is never written, and an address that has it where the adjustment goes cannot
//! be mapped.

use crate::flow::Prefix;
use std::net::{IpAddr, Ipv6Addr};

/// The word that takes the adjustment of prefixes of 48 bits or less: bits 48 to 63.
const SUBNET: usize = 3;
/// The longest prefix whose subnet word is free for the adjustment.
const SHORT: u8 = 48;
/// The longest prefix that can be translated.
const LONGEST: u8 = 64;
/// The other form of zero.
const ONES: u16 = 0xffff;

/// A pair of prefixes, one for each side. If they are not of one length, the shorter counts as
/// followed by zeros, and only its first subnets are translated (RFC 6296 §3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrefixTranslation {
    inside: Prefix,
    outside: Prefix,
    /// Bits that are replaced: the length of the longer prefix.
    length: u8,
    /// What is added to a word on the way out.
    adjustment: u16,
}

/// Why two prefixes make no translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PrefixTranslationError {
    /// One of them is of IPv4.
    #[error("prefix translation is for IPv6 only; IPv4 hosts are translated by port")]
    Family,
    /// One of them is longer than 64 bits, or empty.
    #[error("a prefix to translate has 1 to 64 bits")]
    Length,
    /// An address is in both.
    #[error("the two prefixes overlap")]
    Overlap,
}

/// Why an address of a prefix cannot be translated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Unmapped {
    /// Its subnet is ffff, or one that the other prefix has no room for.
    Subnet,
    /// Its interface identifier is all zeros or all ones, or would become all zeros (RFC 6296 §3.7).
    Identifier,
}

impl PrefixTranslation {
    /// The translation between these prefixes.
    ///
    /// # Errors
    /// If they are not two prefixes of IPv6 of 1 to 64 bits, with no address in common.
    pub fn new(inside: Prefix, outside: Prefix) -> Result<Self, PrefixTranslationError> {
        let (IpAddr::V6(ours), IpAddr::V6(theirs)) = (inside.ip, outside.ip) else {
            return Err(PrefixTranslationError::Family);
        };
        if ![inside.length, outside.length].iter().all(|length| (1..=LONGEST).contains(length)) {
            return Err(PrefixTranslationError::Length);
        }
        if inside.overlaps(outside) {
            return Err(PrefixTranslationError::Overlap);
        }
        let length = inside.length.max(outside.length);
        let inside = Prefix::new(first(ours, inside.length), inside.length);
        let outside = Prefix::new(first(theirs, outside.length), outside.length);
        let sum = |prefix: Prefix| match prefix.ip {
            IpAddr::V6(ip) => ip.segments().into_iter().fold(0, add),
            IpAddr::V4(_) => 0,
        };
        let adjustment = add(sum(inside), !sum(outside));
        Ok(PrefixTranslation { inside, outside, length, adjustment })
    }

    /// The prefix of the hosts, with zeros behind its length.
    pub fn inside(&self) -> Prefix {
        self.inside
    }

    /// The prefix that the world sees, with zeros behind its length.
    pub fn outside(&self) -> Prefix {
        self.outside
    }

    /// The outside address of an inside one.
    ///
    /// # Errors
    /// If it has none. So too for an address that is not in the inside prefix.
    pub fn outward(&self, ip: Ipv6Addr) -> Result<Ipv6Addr, Unmapped> {
        self.translate(ip, self.inside, self.outside, self.adjustment)
    }

    /// The inside address of an outside one.
    ///
    /// # Errors
    /// If it has none. So too for an address that is not in the outside prefix.
    pub fn inward(&self, ip: Ipv6Addr) -> Result<Ipv6Addr, Unmapped> {
        self.translate(ip, self.outside, self.inside, !self.adjustment)
    }

    fn translate(
        &self,
        ip: Ipv6Addr,
        from: Prefix,
        to: Prefix,
        adjustment: u16,
    ) -> Result<Ipv6Addr, Unmapped> {
        if !Prefix::new(from.ip, self.length).covers(ip.into()) {
            return Err(Unmapped::Subnet);
        }
        if identifier(ip) == 0 {
            return Err(Unmapped::Identifier);
        }
        let IpAddr::V6(prefix) = to.ip else { return Err(Unmapped::Subnet) };
        let rest = ip.to_bits() & u128::MAX.checked_shr(self.length.into()).unwrap_or(0);
        let mut words = Ipv6Addr::from_bits(prefix.to_bits() | rest).segments();
        let place = if self.length > SHORT {
            let free = (SUBNET + 1..words.len()).find(|place| words[*place] != ONES);
            free.ok_or(Unmapped::Identifier)?
        } else if words[SUBNET] == ONES {
            return Err(Unmapped::Subnet);
        } else {
            SUBNET
        };
        let sum = add(words[place], adjustment);
        words[place] = if sum == ONES { 0 } else { sum };
        let mapped = Ipv6Addr::from(words);
        if identifier(mapped) == 0 { Err(Unmapped::Identifier) } else { Ok(mapped) }
    }
}

/// The last 64 bits.
fn identifier(ip: Ipv6Addr) -> u64 {
    ip.to_bits() as u64
}

/// The first `length` bits of an address, and zeros.
fn first(ip: Ipv6Addr, length: u8) -> Ipv6Addr {
    Ipv6Addr::from_bits(ip.to_bits() & !u128::MAX.checked_shr(length.into()).unwrap_or(0))
}

/// Ones' complement sum.
fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}
