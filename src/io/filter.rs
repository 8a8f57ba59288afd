//! Classic BPF programs that keep packets which cannot be ours from waking the process.
//!
//! ```text
//! for the host itself, not tagged     (frames only)
//! IPv4, or IPv6                       (frames only)
//! by loopback, or not by loopback     (packets only)
//! to one of our external addresses of that family
//! ICMP: yes       TCP, UDP: a later fragment, or to one of our ports
//! protocols without ports: those that we translate       the rest: no
//! ICMPv6: errors and echo; what neighbours, routers and multicast need is the kernel's own
//! IPv6 with extension headers: yes, since a program without loops cannot look behind them
//! ```
//!
//! While there is a flood, what is not to be read first is thinned out before that.

#[cfg(test)]
mod machine;
mod six;
mod thin;

pub use thin::{First, Thinned};

use crate::flow::{Prefix, Protocol};
use socket2::SockFilter;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF_INDEXED: u16 = 0x48;
const LOAD_BYTE_INDEXED: u16 = 0x50;
const HEADER_LENGTH_TO_X: u16 = 0xb1;
const CONSTANT_TO_X: u16 = 0x01;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_ABOVE: u16 = 0x25;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;
const ANCILLARY: u32 = libc::SKF_AD_OFF.cast_unsigned();
const PACKET_TYPE: u32 = ANCILLARY + libc::SKF_AD_PKTTYPE.cast_unsigned();
const VLAN_PRESENT: u32 = ANCILLARY + libc::SKF_AD_VLAN_TAG_PRESENT.cast_unsigned();
const DEVICE: u32 = ANCILLARY + libc::SKF_AD_IFINDEX.cast_unsigned();
/// The number of `lo` in every network namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;

/// The kernel takes at most this many instructions (`BPF_MAXINSNS`).
const LONGEST: usize = 4096;
/// More addresses than this are not told apart by the program; the gateway looks at them anyway.
const MOST_ADDRESSES: usize = 512;
/// Of more prefixes of a family than this all packets are let in.
const MOST_PREFIXES: usize = 32;

/// Which packets are wanted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// The addresses that we translate to. If they are too many for a program, all are let in.
    pub addresses: Vec<IpAddr>,
    /// The ports that we translate to. If they are too many for a program, all are let in.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Protocols without ports that we translate, by their numbers. Not by loopback, where our own
    /// packets could not be told from answers.
    pub protocols: Vec<u8>,
    /// Prefixes that we translate to whole (RFC 6296) or do not translate (RFC 6888 REQ-6): every
    /// packet to them, of an AF_PACKET socket. The kernel gives raw IP sockets nothing to addresses
    /// that the host does not have.
    pub prefixes: Vec<Prefix>,
    /// While there is a flood: what of all this is to be read first.
    pub first: Option<First>,
}

impl Wanted {
    fn four(&self) -> Vec<Ipv4Addr> {
        let four = |address: &IpAddr| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        };
        self.addresses.iter().filter_map(four).collect()
    }

    fn six(&self) -> Vec<Ipv6Addr> {
        let six = |address: &IpAddr| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(*address),
        };
        self.addresses.iter().filter_map(six).collect()
    }
}

/// Where a program reads, and what else it looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// Ethernet frames of an AF_PACKET socket.
    Frames,
    /// Packets of a raw IP socket that came by a wire.
    Packets,
    /// Packets of a raw IP socket that came by loopback, without ICMP queries: there these are our
    /// own.
    Looped,
}

/// A program under construction; labels are not needed, since every test leaves by a jump of its
/// own and short jumps skip exactly that.
#[derive(Debug, Default)]
struct Program(Vec<(u16, u8, u8, u32)>);

impl Program {
    fn load(&mut self, code: u16, at: u32) {
        self.0.push((code, 0, 0, at));
    }

    fn accept(&mut self) {
        self.0.push((RETURN, 0, 0, u32::MAX));
    }

    fn drop(&mut self) {
        self.0.push((RETURN, 0, 0, 0));
    }

    /// Drops the packet unless the test holds.
    fn require(&mut self, code: u16, value: u32) {
        self.0.push((code, 1, 0, value));
        self.drop();
    }

    /// Accepts the packet if the test holds.
    fn accept_if(&mut self, code: u16, value: u32) {
        self.0.push((code, 0, 1, value));
        self.accept();
    }

    /// Drops the packet if the test holds.
    fn drop_if(&mut self, code: u16, value: u32) {
        self.0.push((code, 0, 1, value));
        self.drop();
    }

    /// Goes on after this many more instructions.
    fn jump(&mut self, over: usize) {
        self.0.push((JUMP, 0, 0, u32::try_from(over).unwrap_or(u32::MAX)));
    }

    /// Goes on behind the block if the value equals one of `values`, else drops.
    fn require_one_of(&mut self, values: &[u32]) {
        for (index, value) in values.iter().enumerate() {
            let rest = 2 * (values.len() - index - 1) + 1;
            self.0.push((JUMP_EQUAL, 0, 1, *value));
            self.jump(rest);
        }
        self.drop();
    }
}

/// A filter that takes nothing: what a socket has until it knows what it wants.
pub fn nothing() -> Vec<SockFilter> {
    let mut program = Program::default();
    program.drop();
    finish(program)
}

/// The filter for an AF_PACKET socket, or for an AF_INET raw socket.
pub fn build(wanted: &Wanted, form: Form) -> Vec<SockFilter> {
    finish(thin::out(wanted, write(wanted, form)))
}

/// The filter for an AF_INET6 raw socket of `protocol`. Such a socket is given what stands behind
/// the IPv6 headers.
pub fn build_six(wanted: &Wanted, form: Form, protocol: Protocol) -> Vec<SockFilter> {
    finish(thin::out(wanted, six::raw(wanted, form, protocol)))
}

fn write(wanted: &Wanted, form: Form) -> Program {
    let mut program = Program::default();
    let ip = if form == Form::Frames { 14 } else { 0 };
    let mut four = four(wanted, ip, form);
    if form == Form::Frames {
        program.load(LOAD_BYTE, PACKET_TYPE);
        program.require(JUMP_EQUAL, u32::from(libc::PACKET_HOST));
        program.load(LOAD_BYTE, VLAN_PRESENT);
        program.require(JUMP_EQUAL, 0);
        program.load(LOAD_HALF, 12);
        let mut six = six::in_frame(wanted, ip);
        program.0.push((JUMP_EQUAL, 0, 1, libc::ETH_P_IP.cast_unsigned()));
        program.jump(six.0.len() + 1);
        program.0.append(&mut six.0);
        program.jump(four.0.len());
    } else {
        came_by(&mut program, form);
    }
    program.0.append(&mut four.0);
    program.load(LOAD_HALF_INDEXED, ip + 2);
    ports(&mut program, wanted);
    program
}

/// Looks at the device by which a packet of a raw IP socket came. Binding the socket to a device
/// does not tell the wire from loopback: the kernel says of a looped packet that it came by the
/// device that owns the address.
fn came_by(program: &mut Program, form: Form) {
    program.load(LOAD_WORD, DEVICE);
    match form {
        Form::Looped => program.require(JUMP_EQUAL, LOOPBACK),
        Form::Packets | Form::Frames => program.drop_if(JUMP_EQUAL, LOOPBACK),
    }
}

/// Decides about an IPv4 packet, but for its port: leaves the length of its header in X.
fn four(wanted: &Wanted, ip: u32, form: Form) -> Program {
    let mut program = Program::default();
    let addresses = wanted.four();
    if form == Form::Frames {
        accept_prefixes(&mut program, wanted, ip);
    }
    if addresses.len() <= MOST_ADDRESSES {
        program.load(LOAD_WORD, ip + 16);
        let addresses: Vec<u32> = addresses.iter().map(|address| address.to_bits()).collect();
        program.require_one_of(&addresses);
    }
    program.load(LOAD_BYTE, ip + 9);
    icmp(&mut program, ip, form);
    if form != Form::Looped {
        accept_protocols(&mut program, wanted);
    }
    program.require_one_of(&[6, 17]);
    program.load(LOAD_HALF, ip + 6);
    program.accept_if(JUMP_ANY_BIT, 0x1fff);
    program.load(HEADER_LENGTH_TO_X, ip);
    program
}

/// Accepts IPv4 packets to any of the prefixes.
fn accept_prefixes(program: &mut Program, wanted: &Wanted, ip: u32) {
    let prefixes = wanted.prefixes.iter().filter_map(|prefix| match prefix.ip {
        IpAddr::V4(address) => Some((address, prefix.length)),
        IpAddr::V6(_) => None,
    });
    for (done, (address, length)) in prefixes.enumerate() {
        if done == MOST_PREFIXES {
            program.accept();
            return;
        }
        let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
        program.load(LOAD_WORD, ip + 16);
        program.load(AND, mask);
        program.accept_if(JUMP_EQUAL, address.to_bits() & mask);
    }
}

/// Accepts packets of our protocols without ports; the protocol is in the accumulator.
fn accept_protocols(program: &mut Program, wanted: &Wanted) {
    for protocol in &wanted.protocols {
        program.accept_if(JUMP_EQUAL, u32::from(*protocol));
    }
}

/// Decides by the destination port, which is in the accumulator.
fn ports(program: &mut Program, wanted: &Wanted) {
    if program.0.len() + 4 * wanted.ports.len() < LONGEST {
        for range in &wanted.ports {
            program.0.push((JUMP_AT_LEAST, 0, 2, u32::from(*range.start())));
            program.0.push((JUMP_ABOVE, 1, 0, u32::from(*range.end())));
            program.accept();
        }
        program.drop();
    } else {
        program.accept();
    }
}

/// Decides about ICMP; the protocol is in the accumulator and is there again afterwards.
fn icmp(program: &mut Program, ip: u32, form: Form) {
    const ICMP: u32 = 1;
    if form != Form::Looped {
        program.accept_if(JUMP_EQUAL, ICMP);
        return;
    }
    let mut queries = Program::default();
    queries.load(LOAD_HALF, ip + 6);
    queries.accept_if(JUMP_ANY_BIT, 0x1fff);
    queries.load(HEADER_LENGTH_TO_X, ip);
    queries.load(LOAD_BYTE_INDEXED, ip);
    queries.drop_if(JUMP_EQUAL, 8);
    queries.drop_if(JUMP_EQUAL, 13);
    queries.accept();
    let length = u8::try_from(queries.0.len()).expect("ten instructions");
    program.0.push((JUMP_EQUAL, 0, length, ICMP));
    program.0.append(&mut queries.0);
}

fn finish(program: Program) -> Vec<SockFilter> {
    program.0.into_iter().map(|(code, yes, no, value)| SockFilter::new(code, yes, no, value)).collect()
}

#[cfg(test)]
mod tests {
    use super::machine::*;
    use super::*;

    #[test]
    fn what_is_ours_passes_and_nothing_else() {
        let wanted = Wanted {
            addresses: vec![Ipv4Addr::LOCALHOST.into(), OURS_SIX.into(), OURS.into()],
            ports: vec![80..=80, 61000..=65535],
            protocols: vec![132],
            prefixes: vec![Prefix::new(Ipv4Addr::new(10, 88, 0, 1), 24), Prefix::new(OURS_SIX, 64)],
            first: None,
        };
        let other = Ipv4Addr::new(192, 0, 2, 2);
        let cases = [
            (packet(6, OURS, 0x4000, to_port(61000)), true, true),
            (packet(17, OURS, 0x2000, to_port(65535)), true, true),
            (packet(6, OURS, 0, to_port(80)), true, true),
            (packet(6, OURS, 0, to_port(81)), false, false),
            (packet(6, OURS, 0, to_port(60999)), false, false),
            (packet(17, OURS, 1, to_port(7)), true, true),
            (packet(6, other, 0, to_port(61000)), false, false),
            (packet(1, other, 0, [0; 4]), false, false),
            (packet(1, OURS, 0, [0; 4]), true, true),
            (packet(1, OURS, 0, [8, 0, 0, 0]), true, false),
            (packet(1, OURS, 0, [13, 0, 0, 0]), true, false),
            (packet(1, OURS, 0, [3, 4, 0, 0]), true, true),
            (packet(1, OURS, 2, [8, 0, 0, 0]), true, true),
            (packet(47, OURS, 0, to_port(61000)), false, false),
            (packet(132, OURS, 0, to_port(7)), true, false),
            (packet(132, other, 0, to_port(7)), false, false),
            (packet(6, Ipv4Addr::new(10, 88, 1, 7), 0, to_port(61000)), false, false),
        ];
        let not_translated = packet(6, Ipv4Addr::new(10, 88, 0, 7), 0, to_port(7));
        let framed = [&[0; 12][..], &[8, 0], &not_translated].concat();
        assert!(run(&write(&wanted, Form::Frames).0, &framed, 2));
        assert!(!run(&write(&wanted, Form::Packets).0, &not_translated, 2));
        let programs = [Form::Frames, Form::Packets, Form::Looped].map(|form| (form, write(&wanted, form).0));
        for (ip, outside, inside) in cases {
            for (form, program) in &programs {
                let mut bytes = vec![0; 14];
                bytes[12] = 0x08;
                let bytes = if *form == Form::Frames { [bytes, ip.clone()].concat() } else { ip.clone() };
                let expected = if *form == Form::Looped { inside } else { outside };
                let device = if *form == Form::Looped { 1 } else { 2 };
                assert_eq!(run(program, &bytes, device), expected, "{form:?} {ip:?}");
                assert!(*form == Form::Frames || !run(program, &bytes, 3 - device));
                for length in 0..bytes.len() - 4 {
                    run(program, &bytes[..length], device);
                }
            }
        }
    }

    /// An IPv6 header, and what stands behind it.
    #[test]
    fn of_ipv6_the_kernel_keeps_what_neighbours_need() {
        let other = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 1, 0, 0, 1);
        let wanted = Wanted {
            addresses: vec![OURS.into(), other.into(), OURS_SIX.into()],
            ports: vec![61000..=65535],
            protocols: vec![50],
            prefixes: vec![Prefix::new(Ipv6Addr::new(0x2001, 0xdb8, 0xf000, 0x8000, 0, 0, 0, 0), 52)],
            first: None,
        };
        let translated = Ipv6Addr::new(0x2001, 0xdb8, 0xf000, 0x8fff, 9, 9, 9, 9);
        let beside = Ipv6Addr::new(0x2001, 0xdb8, 0xf000, 0x9000, 0, 0, 0, 0);
        let elsewhere = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, 1);
        let cases = [
            (six(6, OURS_SIX, &to_port(61000)), true),
            (six(17, other, &to_port(65535)), true),
            (six(6, OURS_SIX, &to_port(22)), false),
            (six(6, elsewhere, &to_port(61000)), false),
            (six(44, OURS_SIX, &[17, 0, 0, 9]), true),
            (six(44, elsewhere, &[17, 0, 0, 9]), false),
            (six(0, OURS_SIX, &[6, 0, 1, 4]), true),
            (six(58, OURS_SIX, &[1, 4, 0, 0]), true),
            (six(58, OURS_SIX, &[2, 0, 0, 0]), true),
            (six(58, OURS_SIX, &[129, 0, 0, 0]), true),
            (six(58, OURS_SIX, &[130, 0, 0, 0]), false),
            (six(58, OURS_SIX, &[135, 0, 0, 0]), false),
            (six(58, OURS_SIX, &[136, 0, 0, 0]), false),
            (six(47, OURS_SIX, &to_port(61000)), false),
            (six(50, OURS_SIX, &to_port(7)), true),
            (six(47, translated, &to_port(22)), true),
            (six(6, beside, &to_port(61000)), false),
        ];
        let program = write(&wanted, Form::Frames).0;
        for (ip, expected) in cases {
            let mut frame = vec![0; 14];
            frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            frame.extend(&ip);
            assert_eq!(run(&program, &frame, 2), expected, "{ip:?}");
            for length in 0..frame.len() {
                run(&program, &frame[..length], 2);
            }
            frame[12..14].copy_from_slice(&[0x88, 0xcc]);
            assert!(!run(&program, &frame, 2), "neither IPv4 nor IPv6");
        }
    }

    #[test]
    fn raw_sockets_of_ipv6_look_at_the_header_before_what_they_are_given() {
        let wanted =
            Wanted { addresses: vec![OURS_SIX.into()], ports: vec![61000..=65535], ..Wanted::default() };
        let header = six(0, OURS_SIX, &[]);
        let cases = [
            (Protocol::Tcp, to_port(61000), true, true),
            (Protocol::Udp, to_port(80), false, false),
            (Protocol::Icmp, [128, 0, 0, 0], true, false),
            (Protocol::Icmp, [129, 0, 0, 0], true, true),
            (Protocol::Icmp, [1, 0, 0, 0], true, true),
            (Protocol::Icmp, [135, 0, 0, 0], false, false),
            (Protocol::Other(132), to_port(7), true, false),
        ];
        for (protocol, behind, outside, looped) in cases {
            for (form, device, expected) in [(Form::Packets, 2, outside), (Form::Looped, 1, looped)] {
                let program = six::raw(&wanted, form, protocol).0;
                assert_eq!(run_behind(&program, &header, &behind, device), expected, "{protocol} {form:?}");
                assert!(!run_behind(&program, &header, &behind, 3 - device));
                assert!(!run_behind(&program, &six(0, Ipv6Addr::LOCALHOST, &[]), &behind, device));
            }
        }
    }

    #[test]
    fn the_kernel_takes_every_program_however_much_is_wanted() {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        for count in
            [0, 1, six::MOST_ADDRESSES, six::MOST_ADDRESSES + 1, MOST_ADDRESSES, MOST_ADDRESSES + 1, 5000]
        {
            let four = (0..count as u32).map(|number| IpAddr::from(Ipv4Addr::from_bits(number)));
            let six = (0..count as u128).map(|number| IpAddr::from(Ipv6Addr::from_bits(number)));
            let ports = (0..count as u16).map(|port| port..=port).collect();
            let prefixes = (0..count as u8).map(|length| Prefix::new(OURS_SIX, length));
            let prefixes = prefixes.chain((0..count as u8).map(|length| Prefix::new(OURS, length))).collect();
            let protocols = (0..count.min(16) as u8).map(|number| 100 + number).collect();
            let wanted =
                Wanted { addresses: four.chain(six).collect(), ports, protocols, prefixes, first: None };
            let spread = (0..=u16::MAX).step_by(65536 / count.clamp(1, 128)).map(|port| port..=port);
            let first = First { ports: spread.collect(), protocols: wanted.protocols.clone(), one_in: 64 };
            let flooded = Wanted { first: Some(first), prefixes: Vec::new(), ..wanted.clone() };
            for form in [Form::Frames, Form::Packets, Form::Looped] {
                socket.attach_filter(&build(&flooded, form)).unwrap();
                socket.attach_filter(&build_six(&flooded, form, Protocol::Udp)).unwrap();
                socket.attach_filter(&build(&wanted, form)).unwrap();
                for protocol in [Protocol::Tcp, Protocol::Icmp, Protocol::Other(47)] {
                    socket.attach_filter(&build_six(&wanted, form, protocol)).unwrap();
                }
            }
        }
        socket.attach_filter(&nothing()).unwrap();
    }
}
