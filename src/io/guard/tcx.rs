//! A program at the interface's ingress that drops what comes to leased ports.
//!
//! AF_PACKET sockets bound to all protocols have their copy by then; the host's stack never sees
//! the packet. The program, where anything unclear goes on to the stack:
//!
//! ```text
//! for the host itself, not tagged, IPv4 or IPv6, to one of our addresses, not a later fragment,
//! TCP or UDP: is the bit of the destination port set in the 8 KiB of the map that belong to this
//! address and protocol? drop
//! a SYN of TCP to a port of the range: has the host no socket for it? drop
//! ```
//!
//! The second test is for ports that nobody has leased: there the stack would answer with a RST at
//! once, where RFC 5382 REQ-4 wants silence. What the host's programs listen on goes up as ever. A port
//! that the host sends on by a rule of netfilter alone, without a socket, must be kept out of the range.
//!
//! Unclear is what has no ports to look at: later fragments, and IPv6 packets with any extension
//! header. They go up the stack, where the held sockets are deaf to them. Neighbour discovery and
//! all else of ICMP is never touched.
//!
//! Bits are written through memory that the map shares: a lease costs no system call here.

use crate::flow::{Endpoint, Protocol};
use crate::io::sys::bpf::{self, BitMap, Instruction};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, OwnedFd};

/// Bytes of one protocol's bits: 65536 ports.
const BITS: u32 = 8192;
/// Bytes of one address's bits: TCP, then UDP.
const OF_ADDRESS: u32 = 2 * BITS;
/// The bits of the range, for all addresses, stand before those of leases.
const OF_RANGE: u32 = BITS;
/// Addresses that fit a program; more are left to the held sockets alone.
const ADDRESSES: usize = 256;
/// Those of IPv6 among them: each is four comparisons.
const ADDRESSES_SIX: usize = 64;

/// What the program returns: the next program, or the stack, decides.
const NEXT: i32 = -1;
const DROP: i32 = 2;

/// Offsets in `struct __sk_buff`.
const PACKET_TYPE: i16 = 4;
const VLAN_PRESENT: i16 = 20;

/// A program with its interface.
#[derive(Debug)]
pub struct Tcx {
    bits: BitMap,
    program: OwnedFd,
    /// Its being open is what keeps the program attached.
    link: OwnedFd,
    externals: Vec<IpAddr>,
}

impl Tcx {
    /// Puts a program in front of the interface numbered `interface`, for packets to `externals`.
    ///
    /// # Errors
    /// `EPERM` without CAP_BPF and CAP_NET_ADMIN, `EINVAL` before Linux 6.6.
    pub fn attach(interface: u32, externals: &[IpAddr]) -> io::Result<Tcx> {
        let externals = fitting(externals);
        let bits = BitMap::new(length(&externals))?;
        let program = bpf::load_classifier("tapnat_guard", &assemble(&externals, bits.map()))?;
        let link = bpf::attach_ingress(&program, interface)?;
        Ok(Tcx { bits, program, link, externals })
    }

    /// Moves the program to another interface.
    ///
    /// # Errors
    /// As [`Tcx::attach`].
    pub fn reattach(&mut self, interface: u32) -> io::Result<()> {
        self.link = bpf::attach_ingress(&self.program, interface)?;
        Ok(())
    }

    /// Says whether packets to this endpoint are dropped. Those of protocols other than TCP and
    /// UDP, and to addresses that the program does not look at, never are.
    pub fn set(&self, protocol: Protocol, endpoint: Endpoint, drop: bool) {
        let Some(number) = self.externals.iter().position(|ip| endpoint.ip == *ip) else { return };
        let offset = match protocol {
            Protocol::Tcp => 0,
            Protocol::Udp => BITS as usize,
            Protocol::Icmp | Protocol::Other(_) => return,
        };
        let byte = OF_RANGE as usize + number * OF_ADDRESS as usize + offset;
        self.bits.set(byte * 8 + usize::from(endpoint.port), drop);
    }

    /// Says to which ports SYNs are dropped where the host has no socket for them.
    pub fn set_range(&self, ports: &[RangeInclusive<u16>]) {
        for port in 0..=u16::MAX {
            self.bits.set(usize::from(port), ports.iter().any(|range| range.contains(&port)));
        }
    }
}

/// Bytes of the map for these addresses: a power of two.
fn length(externals: &[IpAddr]) -> u32 {
    let addresses = u32::try_from(externals.len().max(1)).unwrap_or(1);
    (OF_RANGE + OF_ADDRESS * addresses).next_power_of_two()
}

fn fitting(externals: &[IpAddr]) -> Vec<IpAddr> {
    let six = externals.iter().filter(|ip| ip.is_ipv6()).take(ADDRESSES_SIX);
    externals.iter().filter(|ip| ip.is_ipv4()).chain(six).copied().take(ADDRESSES).collect()
}

/// Where a jump goes that is not written yet.
#[derive(Clone, Copy)]
enum Label {
    /// The end: the next program decides.
    Next,
    /// The IPv6 part.
    Six,
    /// The IPv4 header is to one of our addresses, whose bits start at r7.
    OursFour,
    /// The IPv6 header is.
    OursSix,
    /// What follows an address that did not fit.
    Other,
    /// The protocol is in r0, the length of the header in r8.
    Transport,
    /// It has ports, and their bits start at r7.
    Port,
    /// The bit of the port is not set.
    Unleased,
    /// A SYN over IPv6 to a port of the range.
    SynSix,
    /// The tuple is on the stack, its length in r3.
    Ask,
    /// The packet is not to reach the stack.
    Drop,
}

const LABELS: usize = 11;

/// Instructions, and for each label the jumps to it.
#[derive(Default)]
struct Assembler {
    program: Vec<Instruction>,
    jumps: [Vec<usize>; LABELS],
}

impl Assembler {
    fn put(&mut self, code: u8, destination: u8, source: u8, offset: i16, constant: i32) {
        let registers = if cfg!(target_endian = "little") {
            source << 4 | destination
        } else {
            destination << 4 | source
        };
        self.program.push(Instruction { code, registers, offset, constant });
    }

    fn move_register(&mut self, to: u8, from: u8) {
        self.put(0xbf, to, from, 0, 0);
    }

    fn set(&mut self, to: u8, constant: i32) {
        self.put(0xb7, to, 0, 0, constant);
    }

    fn add_constant(&mut self, to: u8, constant: i32) {
        self.put(0x07, to, 0, 0, constant);
    }

    fn and(&mut self, register: u8, constant: i32) {
        self.put(0x57, register, 0, 0, constant);
    }

    fn shift_left(&mut self, register: u8, constant: i32) {
        self.put(0x67, register, 0, 0, constant);
    }

    fn shift_right(&mut self, register: u8, constant: i32) {
        self.put(0x77, register, 0, 0, constant);
    }

    fn shift_right_by(&mut self, register: u8, by: u8) {
        self.put(0x7f, register, by, 0, 0);
    }

    fn add(&mut self, to: u8, from: u8) {
        self.put(0x0f, to, from, 0, 0);
    }

    /// r0 = packet bytes at a fixed place, in host order; ends the program if they are not there.
    fn packet(&mut self, width: Width, at: i32) {
        self.put(0x20 | width as u8, 0, 0, 0, at);
    }

    /// r0 = packet bytes at `register` + `at`.
    fn packet_at(&mut self, width: Width, register: u8, at: i32) {
        self.put(0x40 | width as u8, 0, register, 0, at);
    }

    /// to = 32 bits of the context in r6.
    fn context(&mut self, to: u8, offset: i16) {
        self.put(0x61, to, 6, offset, 0);
    }

    fn load_byte(&mut self, to: u8, address: u8) {
        self.put(0x71, to, address, 0, 0);
    }

    /// to = address of the map's value.
    fn map_value(&mut self, to: u8, map: &OwnedFd) {
        const PSEUDO_MAP_VALUE: u8 = 2;
        self.put(0x18, to, PSEUDO_MAP_VALUE, 0, map.as_raw_fd());
        self.put(0, 0, 0, 0, 0);
    }

    /// On to the next program unless register (32 bits) and constant are equal.
    fn require(&mut self, register: u8, constant: i32) {
        self.unless(register, constant, Label::Next);
    }

    /// On to the next program if they are equal.
    fn refuse(&mut self, register: u8, constant: i32) {
        self.branch(register, constant, Label::Next);
    }

    fn branch(&mut self, register: u8, constant: i32, label: Label) {
        self.to(label);
        self.put(0x16, register, 0, 0, constant);
    }

    fn unless(&mut self, register: u8, constant: i32, label: Label) {
        self.to(label);
        self.put(0x56, register, 0, 0, constant);
    }

    fn jump(&mut self, label: Label) {
        self.to(label);
        self.put(0x05, 0, 0, 0, 0);
    }

    fn to(&mut self, label: Label) {
        self.jumps[label as usize].push(self.program.len());
    }

    /// The jumps to `label` that were written so far lead to what is written next.
    fn here(&mut self, label: Label) {
        for jump in std::mem::take(&mut self.jumps[label as usize]) {
            let distance = self.program.len() - jump - 1;
            self.program[jump].offset = i16::try_from(distance).expect("some two thousand instructions");
        }
    }

    fn finish(mut self) -> Vec<Instruction> {
        self.here(Label::Next);
        self.set(0, NEXT);
        self.exit();
        self.program
    }

    fn exit(&mut self) {
        self.put(0x95, 0, 0, 0, 0);
    }

    /// r0 = what the kernel's function says of r1 to r5, which are undefined then.
    fn call(&mut self, function: Function) {
        self.put(0x85, 0, 0, 0, function as i32);
    }

    /// Copies `length` bytes of the packet from `header` (a register, if any) + `at` to the
    /// stack at `to`, in the order in which they are.
    fn copy(&mut self, header: Option<u8>, at: i32, to: i32, length: i32) {
        self.move_register(1, 6);
        self.set(2, at);
        if let Some(header) = header {
            self.add(2, header);
        }
        self.move_register(3, 10);
        self.add_constant(3, to);
        self.set(4, length);
        self.call(Function::LoadBytes);
        self.require(0, 0);
    }

    /// r3 = 0 or 1: the bit of the port in r0 among those that start at r7. `map` has `length` bytes, a
    /// power of two.
    ///
    /// Without CAP_PERFMON the kernel wants the same bounds for a place in the map on each way that leads
    /// here, and r7 is another number on each. So something is added that is zero, which the kernel
    /// cannot know: the upper half of what was read from a packet.
    fn bit_of_port(&mut self, map: &OwnedFd, length: u32) {
        self.move_register(1, 0);
        self.shift_right(1, 3);
        self.and(1, BITS.cast_signed() - 1);
        self.add(1, 7);
        self.move_register(4, 0);
        self.shift_right(4, 32);
        self.add(1, 4);
        self.and(1, length.cast_signed() - 1);
        self.map_value(2, map);
        self.add(2, 1);
        self.load_byte(3, 2);
        self.and(0, 7);
        self.shift_right_by(3, 0);
        self.and(3, 1);
    }
}

/// Functions of the kernel (`include/uapi/linux/bpf.h`).
#[derive(Clone, Copy)]
enum Function {
    LoadBytes = 26,
    ReleaseSocket = 86,
    LookUpTcp = 99,
}

#[derive(Clone, Copy)]
enum Width {
    Word = 0x00,
    Half = 0x08,
    Byte = 0x10,
}

/// Length of the Ethernet header before each packet.
const LINK: i32 = 14;
const IPV4: i32 = 0x0800;
const IPV6: i32 = 0x86dd;
const TCP: i32 = 6;
const UDP: i32 = 17;

fn assemble(externals: &[IpAddr], map: &OwnedFd) -> Vec<Instruction> {
    let mut code = Assembler::default();
    let (mut four, mut six) = (Vec::new(), Vec::new());
    for (base, external) in (OF_RANGE.cast_signed()..).step_by(OF_ADDRESS as usize).zip(externals) {
        match external {
            IpAddr::V4(address) => four.push((base, *address)),
            IpAddr::V6(address) => six.push((base, *address)),
        }
    }
    if externals.is_empty() {
        // What no jump leads to is refused by the kernel.
        return code.finish();
    }
    code.move_register(6, 1);
    code.context(2, PACKET_TYPE);
    code.require(2, 0);
    code.context(2, VLAN_PRESENT);
    code.require(2, 0);
    code.packet(Width::Half, 12);
    if !four.is_empty() {
        code.unless(0, IPV4, if six.is_empty() { Label::Next } else { Label::Six });
        ipv4(&mut code, &four);
        code.here(Label::Six);
    }
    if !six.is_empty() {
        code.require(0, IPV6);
        ipv6(&mut code, &six);
    }
    let length = length(externals);
    transport(&mut code, map, length);
    unsolicited(&mut code, map, length, !four.is_empty(), !six.is_empty());
    code.here(Label::Drop);
    code.set(0, DROP);
    code.exit();
    code.finish()
}

/// From an IPv4 header to its transport.
fn ipv4(code: &mut Assembler, externals: &[(i32, Ipv4Addr)]) {
    code.packet(Width::Word, LINK + 16);
    for (base, external) in externals {
        code.set(7, *base);
        code.branch(0, external.to_bits().cast_signed(), Label::OursFour);
    }
    code.jump(Label::Next);
    code.here(Label::OursFour);
    code.packet(Width::Half, LINK + 6);
    code.and(0, 0x1fff);
    code.require(0, 0);
    code.packet(Width::Byte, LINK);
    code.and(0, 0x0f);
    code.shift_left(0, 2);
    code.move_register(8, 0);
    code.packet(Width::Byte, LINK + 9);
    code.jump(Label::Transport);
}

/// From an IPv6 header to its transport, which must follow at once. The last word of addresses is
/// looked at first: it is the one in which addresses of a network differ.
fn ipv6(code: &mut Assembler, externals: &[(i32, Ipv6Addr)]) {
    for (base, external) in externals {
        for word in [3, 2, 1, 0] {
            let bits = (external.to_bits() >> (96 - 32 * word)) as u32;
            code.packet(Width::Word, LINK + 24 + 4 * word);
            code.unless(0, bits.cast_signed(), Label::Other);
        }
        code.set(7, *base);
        code.jump(Label::OursSix);
        code.here(Label::Other);
    }
    code.jump(Label::Next);
    code.here(Label::OursSix);
    code.set(8, 40);
    code.packet(Width::Byte, LINK + 6);
}

/// Drops the packet if the bit of its destination port is set.
fn transport(code: &mut Assembler, map: &OwnedFd, length: u32) {
    code.here(Label::Transport);
    code.move_register(9, 0);
    code.branch(0, TCP, Label::Port);
    code.add_constant(7, BITS.cast_signed());
    code.require(0, UDP);
    code.here(Label::Port);
    code.packet_at(Width::Half, 8, LINK + 2);
    code.bit_of_port(map, length);
    code.branch(3, 0, Label::Unleased);
    code.jump(Label::Drop);
}

/// Goes on to the drop if the packet is a SYN to a port of the range and the host has no socket for
/// it. The protocol is in r9, the length of the IP header in r8.
fn unsolicited(code: &mut Assembler, map: &OwnedFd, length: u32, four: bool, six: bool) {
    const FIN_SYN_RST_ACK: i32 = 0x17;
    const SYN: i32 = 0x02;
    const TUPLE: i32 = -40;
    const CURRENT_NAMESPACE: i32 = -1;
    code.here(Label::Unleased);
    code.require(9, TCP);
    code.packet_at(Width::Half, 8, LINK + 2);
    code.set(7, 0);
    code.bit_of_port(map, length);
    code.refuse(3, 0);
    code.packet_at(Width::Byte, 8, LINK + 13);
    code.and(0, FIN_SYN_RST_ACK);
    code.require(0, SYN);
    code.packet(Width::Half, 12);
    // Addresses and ports stand in `struct bpf_sock_tuple` as they do in the packet.
    if four {
        code.unless(0, IPV4, if six { Label::SynSix } else { Label::Next });
        code.copy(None, LINK + 12, TUPLE, 8);
        code.copy(Some(8), LINK, TUPLE + 8, 4);
        code.set(3, 12);
        code.jump(Label::Ask);
    }
    if six {
        code.here(Label::SynSix);
        code.copy(None, LINK + 8, TUPLE, 32);
        code.copy(Some(8), LINK, TUPLE + 32, 4);
        code.set(3, 36);
    }
    code.here(Label::Ask);
    code.move_register(1, 6);
    code.move_register(2, 10);
    code.add_constant(2, TUPLE);
    code.set(4, CURRENT_NAMESPACE);
    code.set(5, 0);
    code.call(Function::LookUpTcp);
    // As wide as a pointer: only then does the kernel know that it has none.
    code.to(Label::Drop);
    code.put(0x15, 0, 0, 0, 0);
    code.move_register(1, 0);
    code.call(Function::ReleaseSocket);
    code.jump(Label::Next);
}
