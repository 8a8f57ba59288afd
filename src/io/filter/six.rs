//! The IPv6 parts of the packet filters.

use super::{
    AND, CONSTANT_TO_X, Form, JUMP_AT_LEAST, JUMP_EQUAL, LOAD_BYTE, LOAD_HALF, LOAD_WORD, MOST_PREFIXES,
    Program, Wanted, accept_protocols, came_by, ports,
};
use crate::flow::Protocol;
use std::net::{IpAddr, Ipv6Addr};

/// Places in the IPv6 header, wherever the program's packet starts (`SKF_NET_OFF`).
pub(super) const NETWORK: u32 = libc::SKF_NET_OFF.cast_unsigned();
/// More addresses than this are not told apart by the program; each takes nine instructions.
pub(super) const MOST_ADDRESSES: usize = 128;

const HEADER: u32 = 40;
const NEXT_HEADER: u32 = 6;
const DESTINATION: u32 = 24;
const ICMPV6: u32 = 58;
/// Hop-by-hop options, routing, fragment, destination options: what may stand before a transport.
const EXTENSIONS: [u32; 4] = [0, 43, 44, 60];
const ECHO_REQUEST: u32 = 128;
/// The first ICMPv6 type behind errors (below 128) and echo: multicast listeners, neighbours,
/// routers (RFC 4890 §4).
const OF_THE_LINK: u32 = 130;

/// Decides about a frame whose type is in the accumulator and is not IPv4, but for the port: leaves
/// the length of the header in X.
pub(super) fn in_frame(wanted: &Wanted, ip: u32) -> Program {
    let mut program = Program::default();
    program.require(JUMP_EQUAL, libc::ETH_P_IPV6.cast_unsigned());
    let prefixes = wanted.prefixes.iter().filter_map(|prefix| match prefix.ip {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some((address, prefix.length)),
    });
    for (done, (address, length)) in prefixes.enumerate() {
        if done == MOST_PREFIXES {
            program.accept();
            break;
        }
        accept_prefix(&mut program, address, length, ip);
    }
    to_one_of(&mut program, &wanted.six(), ip);
    program.load(LOAD_BYTE, ip + NEXT_HEADER);
    for extension in EXTENSIONS {
        program.accept_if(JUMP_EQUAL, extension);
    }
    program.0.push((JUMP_EQUAL, 0, 4, ICMPV6));
    program.load(LOAD_BYTE, ip + HEADER);
    program.drop_if(JUMP_AT_LEAST, OF_THE_LINK);
    program.accept();
    accept_protocols(&mut program, wanted);
    program.require_one_of(&[6, 17]);
    program.0.push((CONSTANT_TO_X, 0, 0, HEADER));
    program
}

/// Accepts a packet to an address that begins with the first `length` bits of `address`.
fn accept_prefix(program: &mut Program, address: Ipv6Addr, length: u8, ip: u32) {
    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    let word = |bits: u128, number: u32| (bits >> (96 - 32 * number)) as u32;
    let words: Vec<u32> = (0..4).filter(|number| word(mask, *number) != 0).collect();
    for (done, number) in words.iter().enumerate() {
        program.load(LOAD_WORD, ip + DESTINATION + 4 * number);
        program.load(AND, word(mask, *number));
        let rest = u8::try_from(3 * (words.len() - done - 1) + 1).expect("four words at most");
        program.0.push((JUMP_EQUAL, 0, rest, word(address.to_bits() & mask, *number)));
    }
    program.accept();
}

/// The program of a raw socket of `protocol`.
pub(super) fn raw(wanted: &Wanted, form: Form, protocol: Protocol) -> Program {
    let mut program = Program::default();
    came_by(&mut program, form);
    to_one_of(&mut program, &wanted.six(), NETWORK);
    match protocol {
        Protocol::Tcp | Protocol::Udp => {
            program.load(LOAD_HALF, 2);
            ports(&mut program, wanted);
        }
        Protocol::Icmp => {
            program.load(LOAD_BYTE, 0);
            if form == Form::Looped {
                program.drop_if(JUMP_EQUAL, ECHO_REQUEST);
            }
            program.drop_if(JUMP_AT_LEAST, OF_THE_LINK);
            program.accept();
        }
        Protocol::Other(_) if form == Form::Packets => program.accept(),
        Protocol::Other(_) => program.drop(),
    }
    program
}

/// Goes on if the destination of the header at `ip` is one of `addresses`, else drops. The last
/// word is looked at first: it is the one in which addresses of a network differ.
fn to_one_of(program: &mut Program, addresses: &[Ipv6Addr], ip: u32) {
    const OF_ADDRESS: usize = 9;
    if addresses.len() > MOST_ADDRESSES {
        return;
    }
    for (index, address) in addresses.iter().enumerate() {
        let bits = address.to_bits();
        for (word, to_next) in [(3, 7), (2, 5), (1, 3), (0, 1)] {
            program.load(LOAD_WORD, ip.wrapping_add(DESTINATION + 4 * word));
            let value = (bits >> (96 - 32 * word)) as u32;
            program.0.push((JUMP_EQUAL, 0, to_next, value));
        }
        program.jump((addresses.len() - index - 1) * OF_ADDRESS + 1);
    }
    program.drop();
}
