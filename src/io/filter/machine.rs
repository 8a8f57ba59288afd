//! A classic BPF machine in a few lines, and the packets that programs are held against.

use super::*;

thread_local! {
    /// What the machine draws.
    pub static CHANCE: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// Whether the program lets the packet through. `network` is where the IP header is, if not at the start
/// of what the program is given.
pub fn run_behind(program: &[(u16, u8, u8, u32)], network: &[u8], packet: &[u8], device: u32) -> bool {
    let (mut at, mut a, mut x) = (0, 0u32, 0u32);
    let read = |from: u32, count: usize| {
        let (packet, from) = match from.checked_sub(six::NETWORK) {
            Some(from) if from < 65536 => (network, from as usize),
            _ => (packet, from as usize),
        };
        packet.get(from..from + count).map(|bytes| bytes.iter().fold(0, |n, b| n << 8 | u32::from(*b)))
    };
    loop {
        let (code, yes, no, k) = program[at];
        at += 1;
        let test = match code {
            LOAD_WORD if k == DEVICE => {
                a = device;
                continue;
            }
            LOAD_BYTE if k == PACKET_TYPE || k == VLAN_PRESENT => {
                a = 0;
                continue;
            }
            LOAD_WORD if k == thin::RANDOM => {
                a = CHANCE.get();
                continue;
            }
            LOAD_WORD | LOAD_HALF | LOAD_BYTE | LOAD_HALF_INDEXED | LOAD_BYTE_INDEXED => {
                let (base, count) = match code {
                    LOAD_WORD => (k, 4),
                    LOAD_HALF => (k, 2),
                    LOAD_BYTE => (k, 1),
                    LOAD_HALF_INDEXED => (k + x, 2),
                    _ => (k + x, 1),
                };
                let Some(value) = read(base, count) else { return false };
                a = value;
                continue;
            }
            AND => {
                a &= k;
                continue;
            }
            CONSTANT_TO_X => {
                x = k;
                continue;
            }
            HEADER_LENGTH_TO_X => {
                x = (read(k, 1).unwrap() & 15) * 4;
                continue;
            }
            JUMP => {
                at += k as usize;
                continue;
            }
            RETURN => return k != 0,
            JUMP_EQUAL => a == k,
            JUMP_ABOVE => a > k,
            JUMP_AT_LEAST => a >= k,
            JUMP_ANY_BIT => a & k != 0,
            other => panic!("no such instruction: {other:#x}"),
        };
        at += usize::from(if test { yes } else { no });
    }
}

pub fn run(program: &[(u16, u8, u8, u32)], packet: &[u8], device: u32) -> bool {
    run_behind(program, &[], packet, device)
}

pub const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

pub const OURS_SIX: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

pub fn packet(protocol: u8, destination: Ipv4Addr, fragment: u16, word: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![0; 24];
    bytes[0] = 0x46;
    bytes[6..8].copy_from_slice(&fragment.to_be_bytes());
    bytes[9] = protocol;
    bytes[16..20].copy_from_slice(&destination.octets());
    bytes.extend(word);
    bytes
}

pub fn to_port(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [0, 0, high, low]
}

pub fn six(next: u8, destination: Ipv6Addr, behind: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0, 0, 0, next, 64];
    bytes.extend([0xfe; 16]);
    bytes.extend(destination.octets());
    bytes.extend(behind);
    bytes
}
