//! Small changes to packets that tests make by hand; the checksum is right again afterwards.
#![allow(dead_code, missing_docs, reason = "each test program uses a part")]

use tapnat::wire::checksum;

/// Makes the checksum of an IPv4 header right.
pub fn fix_header(packet: &mut [u8]) {
    let header = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let sum = checksum::internet(&packet[..header]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Makes the checksum of an ICMP message right (IP header without options).
pub fn fix_icmp(packet: &mut [u8]) {
    packet[22..24].fill(0);
    let sum = checksum::internet(&packet[20..]);
    packet[22..24].copy_from_slice(&sum.to_be_bytes());
}

pub fn with_ttl(mut packet: Vec<u8>, ttl: u8) -> Vec<u8> {
    packet[8] = ttl;
    fix_header(&mut packet);
    packet
}

/// The packet with this identification, and fragmentation allowed.
pub fn fragmentable(mut packet: Vec<u8>, identification: u16) -> Vec<u8> {
    packet[4..6].copy_from_slice(&identification.to_be_bytes());
    packet[6] = 0;
    fix_header(&mut packet);
    packet
}

/// The packet with "don't fragment".
pub fn unfragmentable(mut packet: Vec<u8>) -> Vec<u8> {
    packet[6] = 0x40;
    fix_header(&mut packet);
    packet
}

/// The packet with another IP protocol number; its payload stays.
pub fn with_protocol(mut packet: Vec<u8>, number: u8) -> Vec<u8> {
    packet[9] = number;
    fix_header(&mut packet);
    packet
}
