//! The parts of the filters that thin a flood out: of what is not to be read first, one packet in so many.

use super::six::NETWORK;
use super::{
    ANCILLARY, AND, HEADER_LENGTH_TO_X, JUMP_ABOVE, JUMP_ANY_BIT, JUMP_AT_LEAST, JUMP_EQUAL, LOAD_BYTE,
    LOAD_BYTE_INDEXED, LOAD_HALF, LOAD_HALF_INDEXED, LOAD_WORD, Program, Wanted, finish,
};
use crate::wire::MacAddr;
use socket2::SockFilter;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// `SKF_AD_RANDOM`: a random word.
pub(super) const RANDOM: u32 = ANCILLARY + libc::SKF_AD_RANDOM.cast_unsigned();
const SIX_HEADER: u32 = 40;
/// How many times as often as others the frames of neighbours who ask for each other are read.
const TALK: u32 = 8;

/// What of the wanted packets is read while there is a flood.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct First {
    /// To these ports, and echo replies with these identifiers, whole; ascending, apart from each other.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Of these protocols without ports, whole.
    pub protocols: Vec<u8>,
    /// Of everything else one packet in so many, a power of two.
    pub one_in: u32,
}

/// Where a test leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum To {
    /// The wanted packets' own program, which stands behind this one.
    Whole,
    /// Chance decides.
    Chance,
    /// A place in this program.
    Label(usize),
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Do(u16, u32),
    /// Goes on if the test holds, else leads elsewhere.
    Unless(u16, u32, To),
    /// Leads elsewhere if the test holds, else goes on.
    If(u16, u32, To),
    Go(To),
    Here(usize),
}

/// A program whose jumps, all forward, are to labels.
#[derive(Debug, Default)]
struct Labelled {
    steps: Vec<Step>,
    labels: usize,
}

impl Labelled {
    fn label(&mut self) -> usize {
        self.labels += 1;
        self.labels - 1
    }

    fn add(&mut self, steps: impl IntoIterator<Item = Step>) {
        self.steps.extend(steps);
    }

    /// Leads on by the port in the accumulator.
    fn search(&mut self, ports: &[RangeInclusive<u16>]) {
        match ports {
            [] => self.add([Step::Go(To::Chance)]),
            [range] => self.add([
                Step::Unless(JUMP_AT_LEAST, u32::from(*range.start()), To::Chance),
                Step::If(JUMP_ABOVE, u32::from(*range.end()), To::Chance),
                Step::Go(To::Whole),
            ]),
            _ => {
                let (lower, upper) = ports.split_at(ports.len() / 2);
                let below = self.label();
                let from = upper.first().map_or(0, |range| u32::from(*range.start()));
                self.add([Step::Unless(JUMP_AT_LEAST, from, To::Label(below))]);
                self.search(upper);
                self.add([Step::Here(below)]);
                self.search(lower);
            }
        }
    }

    /// The instructions, if chance and then the wanted packets' own program stand behind them.
    fn resolve(&self, chance: &Program) -> Program {
        let length = |step: &Step| match step {
            Step::Do(..) | Step::Go(_) => 1,
            Step::Unless(..) | Step::If(..) => 2,
            Step::Here(_) => 0,
        };
        let end: usize = self.steps.iter().map(length).sum();
        let mut places = vec![end; self.labels];
        let mut at = 0;
        for step in &self.steps {
            if let Step::Here(label) = step {
                places[*label] = at;
            }
            at += length(step);
        }
        let mut program = Program::default();
        for step in &self.steps {
            let (skip, to) = match step {
                Step::Here(_) => continue,
                Step::Do(code, value) => {
                    program.load(*code, *value);
                    continue;
                }
                Step::Go(to) => (None, to),
                Step::Unless(code, value, to) => (Some((*code, 1, 0, *value)), to),
                Step::If(code, value, to) => (Some((*code, 0, 1, *value)), to),
            };
            program.0.extend(skip);
            let target = match to {
                To::Chance => end,
                To::Whole => end + chance.0.len(),
                To::Label(label) => places[*label],
            };
            program.jump(target - program.0.len() - 1);
        }
        program
    }
}

/// Longer programs are not made: the old one and the new one must both have room in what the kernel lets
/// a socket have for such (`net.core.optmem_max`, 128 KiB as of Linux 6.7), where an instruction takes up
/// to sixteen bytes.
const LONGEST: usize = 2048;

/// Puts before the program of what is wanted what thins it out, if there is a flood. A program that
/// would be too long stays as it is.
pub(super) fn out(wanted: &Wanted, program: Program) -> Program {
    let Some(first) = &wanted.first else { return program };
    let mut head = Labelled::default();
    by_port(&mut head, wanted, first);
    let chance = chance(first.one_in);
    let mut all = head.resolve(&chance);
    if all.0.len() + chance.0.len() + program.0.len() > LONGEST {
        return program;
    }
    all.0.extend(chance.0);
    all.0.extend(program.0);
    all
}

/// Goes on with one packet in `one_in`, and drops the others.
fn chance(one_in: u32) -> Program {
    let mut program = Program::default();
    program.load(LOAD_WORD, RANDOM);
    program.drop_if(JUMP_ANY_BIT, one_in.wrapping_sub(1));
    program
}

/// Finds the port or identifier of a packet, and looks it up. What is wanted by prefix has no ports of
/// ours, and is left alone.
fn by_port(head: &mut Labelled, wanted: &Wanted, first: &First) {
    if !wanted.prefixes.is_empty() {
        head.add([Step::Go(To::Whole)]);
        return;
    }
    let (six, four_ports, six_ports, lookup) = (head.label(), head.label(), head.label(), head.label());
    head.add([
        Step::Do(LOAD_BYTE, NETWORK),
        Step::Do(AND, 0xf0),
        Step::Unless(JUMP_EQUAL, 0x40, To::Label(six)),
        Step::Do(LOAD_HALF, NETWORK + 6),
        Step::If(JUMP_ANY_BIT, 0x1fff, To::Chance),
        Step::Do(LOAD_BYTE, NETWORK + 9),
    ]);
    let portless = |head: &mut Labelled| {
        let whole = |protocol: &u8| Step::If(JUMP_EQUAL, u32::from(*protocol), To::Whole);
        head.add(first.protocols.iter().map(whole));
    };
    portless(head);
    head.add([
        Step::If(JUMP_EQUAL, 6, To::Label(four_ports)),
        Step::If(JUMP_EQUAL, 17, To::Label(four_ports)),
        Step::Unless(JUMP_EQUAL, 1, To::Chance),
        Step::Do(HEADER_LENGTH_TO_X, NETWORK),
        Step::Do(LOAD_BYTE_INDEXED, NETWORK),
        // An echo reply.
        Step::Unless(JUMP_EQUAL, 0, To::Chance),
        Step::Do(LOAD_HALF_INDEXED, NETWORK + 4),
        Step::Go(To::Label(lookup)),
        Step::Here(four_ports),
        Step::Do(HEADER_LENGTH_TO_X, NETWORK),
        Step::Do(LOAD_HALF_INDEXED, NETWORK + 2),
        Step::Go(To::Label(lookup)),
        Step::Here(six),
        Step::Do(LOAD_BYTE, NETWORK + 6),
    ]);
    portless(head);
    head.add([
        Step::If(JUMP_EQUAL, 6, To::Label(six_ports)),
        Step::If(JUMP_EQUAL, 17, To::Label(six_ports)),
        Step::Unless(JUMP_EQUAL, 58, To::Chance),
        Step::Do(LOAD_BYTE, NETWORK + SIX_HEADER),
        Step::Unless(JUMP_EQUAL, 129, To::Chance),
        Step::Do(LOAD_HALF, NETWORK + SIX_HEADER + 4),
        Step::Go(To::Label(lookup)),
        Step::Here(six_ports),
        Step::Do(LOAD_HALF, NETWORK + SIX_HEADER + 2),
        Step::Here(lookup),
    ]);
    head.search(&first.ports);
}

/// Which of the frames that containers send are read one in so many only; of others all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Thinned {
    /// All.
    pub all: bool,
    /// Of a switch: all that come by these of its ports.
    pub ports: Vec<u16>,
    /// Those of these MACs.
    pub sources: Vec<MacAddr>,
    /// Those to a single host that is not this one.
    pub but_to: Option<MacAddr>,
    /// Those of MACs that are not among these; questions and answers of neighbours are read more often.
    pub but_of: Option<Vec<MacAddr>>,
    /// One in so many, a power of two.
    pub one_in: u32,
}

impl Thinned {
    /// Whether everything is read of one TAP.
    pub fn is_nothing(&self) -> bool {
        !self.all && self.sources.is_empty() && self.but_to.is_none() && self.but_of.is_none()
    }

    /// The filter of one TAP.
    pub fn filter(&self) -> Vec<SockFilter> {
        finish(of_frames(self))
    }
}

const DESTINATION: u32 = 0;
const SOURCE: u32 = 6;
const ETHER_TYPE: u32 = 12;
const BEHIND: u32 = 14;

/// The first two bytes of a MAC, and the other four.
fn halves(MacAddr([a, b, rest @ ..]): MacAddr) -> (u32, u32) {
    (u32::from(u16::from_be_bytes([a, b])), u32::from_be_bytes(rest))
}

pub(super) fn of_frames(thinned: &Thinned) -> Program {
    let mut head = Labelled::default();
    if let Some(mac) = thinned.but_to {
        let (high, low) = halves(mac);
        let next = head.label();
        head.add([
            Step::Do(LOAD_BYTE, DESTINATION),
            // To a group.
            Step::If(JUMP_ANY_BIT, 1, To::Label(next)),
            Step::Do(LOAD_WORD, DESTINATION + 2),
            Step::Unless(JUMP_EQUAL, low, To::Chance),
            Step::Do(LOAD_HALF, DESTINATION),
            Step::Unless(JUMP_EQUAL, high, To::Chance),
            Step::Here(next),
        ]);
    }
    for mac in &thinned.sources {
        let (high, low) = halves(*mac);
        let next = head.label();
        head.add([
            Step::Do(LOAD_WORD, SOURCE + 2),
            Step::Unless(JUMP_EQUAL, low, To::Label(next)),
            Step::Do(LOAD_HALF, SOURCE),
            Step::If(JUMP_EQUAL, high, To::Chance),
            Step::Here(next),
        ]);
    }
    match &thinned.but_of {
        Some(guests) if !thinned.all => strangers(&mut head, guests, thinned.one_in),
        _ => head.add([Step::Go(if thinned.all { To::Chance } else { To::Whole })]),
    }
    let chance = chance(thinned.one_in);
    let mut program = head.resolve(&chance);
    program.0.extend(chance.0);
    program.accept();
    program
}

/// Leads on by whether a frame is of one of these MACs.
fn strangers(head: &mut Labelled, guests: &[MacAddr], one_in: u32) {
    let mut by_low: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (high, low) in guests.iter().map(|mac| halves(*mac)) {
        by_low.entry(low).or_default().push(high);
    }
    head.add([Step::Do(LOAD_WORD, SOURCE + 2)]);
    let known: Vec<_> = by_low.into_iter().map(|(low, highs)| (low, highs, head.label())).collect();
    head.add(known.iter().map(|(low, _, label)| Step::If(JUMP_EQUAL, *low, To::Label(*label))));
    let (stranger, talk) = (head.label(), head.label());
    head.add([Step::Go(To::Label(stranger))]);
    for (_, highs, label) in known {
        head.add([Step::Here(label), Step::Do(LOAD_HALF, SOURCE)]);
        head.add(highs.into_iter().map(|high| Step::If(JUMP_EQUAL, high, To::Whole)));
        head.add([Step::Go(To::Label(stranger))]);
    }
    head.add([
        Step::Here(stranger),
        Step::Do(LOAD_HALF, ETHER_TYPE),
        // ARP; and neighbour discovery, whose types are the last that are defined.
        Step::If(JUMP_EQUAL, 0x0806, To::Label(talk)),
        Step::Unless(JUMP_EQUAL, 0x86dd, To::Chance),
        Step::Do(LOAD_BYTE, BEHIND + 6),
        Step::Unless(JUMP_EQUAL, 58, To::Chance),
        Step::Do(LOAD_BYTE, BEHIND + SIX_HEADER),
        Step::Unless(JUMP_AT_LEAST, 133, To::Chance),
        Step::Here(talk),
        Step::Do(LOAD_WORD, RANDOM),
        Step::Unless(JUMP_ANY_BIT, (one_in / TALK).wrapping_sub(1), To::Whole),
        Step::Go(To::Chance),
    ]);
}

#[cfg(test)]
mod tests {
    use super::super::machine::*;
    use super::super::{Form, write};
    use super::*;
    use crate::flow::Prefix;
    use std::net::Ipv4Addr;

    #[test]
    fn in_a_flood_what_is_in_use_is_read_and_the_rest_by_chance() {
        let first = First {
            ports: vec![61000..=61001, 62000..=62000, 65535..=65535],
            protocols: vec![47],
            one_in: 64,
        };
        let wanted = Wanted {
            addresses: vec![OURS.into(), OURS_SIX.into()],
            ports: vec![61000..=65535],
            protocols: vec![47, 132],
            first: Some(first.clone()),
            ..Wanted::default()
        };
        let echo = |kind: u8, id: u16| [&[kind, 0, 0, 0][..], &id.to_be_bytes(), &[0, 1]].concat();
        let four = |protocol, fragment, behind: &[u8]| {
            let mut bytes = packet(protocol, OURS, fragment, [0; 4]);
            bytes.truncate(24);
            bytes.extend(behind);
            (bytes, 0x0800u16)
        };
        let six = |next, behind: &[u8]| (six(next, OURS_SIX, behind), 0x86ddu16);
        // Read whole; read by chance.
        let cases = [
            (four(6, 0, &to_port(61000)), true, true),
            (four(6, 0x4000, &to_port(61001)), true, true),
            (four(17, 0, &to_port(61002)), false, true),
            (four(17, 0, &to_port(62000)), true, true),
            (four(17, 0, &to_port(65535)), true, true),
            (four(17, 0, &to_port(65534)), false, true),
            (four(17, 0, &to_port(80)), false, false),
            (four(6, 5, &to_port(61000)), false, true),
            (four(1, 0, &echo(0, 61001)), true, true),
            (four(1, 0, &echo(0, 61002)), false, true),
            (four(1, 0, &echo(3, 61001)), false, true),
            (four(47, 0, &[0; 8]), true, true),
            (four(132, 0, &to_port(61000)), false, true),
            (six(6, &to_port(61001)), true, true),
            (six(6, &to_port(61002)), false, true),
            (six(17, &to_port(80)), false, false),
            (six(58, &echo(129, 61000)), true, true),
            (six(58, &echo(129, 6)), false, true),
            (six(58, &echo(1, 61000)), false, true),
            (six(44, &[17, 0, 0, 9]), false, true),
        ];
        let program: Vec<_> = out(&wanted, write(&wanted, Form::Frames)).0;
        for ((ip, kind), whole, by_chance) in cases {
            let frame = [&[0; 12][..], &kind.to_be_bytes(), &ip].concat();
            for (word, expected) in [(1, whole), (32, whole), (64, by_chance), (0, by_chance)] {
                CHANCE.set(word);
                assert_eq!(run_behind(&program, &ip, &frame, 2), expected, "{word} {ip:?}");
            }
            for length in 0..ip.len() {
                run_behind(&program, &ip[..length], &frame[..14 + length], 2);
            }
        }
        // What has no ports of ours is left alone.
        let prefixes = vec![Prefix::new(Ipv4Addr::new(10, 88, 0, 1), 24)];
        let wanted = Wanted { prefixes, ..wanted };
        let program = out(&wanted, write(&wanted, Form::Packets)).0;
        CHANCE.set(1);
        let (ip, _) = four(17, 0, &to_port(61002));
        assert!(run_behind(&program, &ip, &ip, 2));
    }

    #[test]
    fn of_a_flooder_one_frame_in_so_many_is_read() {
        let sources = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 1, 0, 1], [6, 0, 0, 0, 0, 1]].map(MacAddr).to_vec();
        let thinned = Thinned { sources, one_in: 64, ..Thinned::default() };
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        socket.attach_filter(&thinned.filter()).unwrap();
        let program = of_frames(&thinned).0;
        let cases = [([2, 0, 0, 0, 0, 1], true), ([6, 0, 0, 0, 0, 1], true), ([2, 0, 0, 1, 0, 1], true)];
        let others = [([2, 0, 0, 0, 0, 2], false), ([6, 0, 0, 1, 0, 1], false), ([0xff; 6], false)];
        for (mac, floods) in cases.into_iter().chain(others) {
            let frame = [&[9; 6][..], &mac, &[8, 0, 0x45]].concat();
            for (word, read) in [(64, true), (63, false), (128, true), (7, false)] {
                CHANCE.set(word);
                assert_eq!(run(&program, &frame, 2), read || !floods, "{mac:?} {word}");
            }
        }
    }

    #[test]
    fn of_strangers_little_is_read_and_more_of_what_makes_them_neighbours() {
        let guests = [[2, 0, 0, 0, 0, 1], [6, 0, 0, 0, 0, 1], [2, 0, 9, 9, 9, 9]].map(MacAddr).to_vec();
        let flooder = MacAddr([2, 0, 9, 9, 9, 9]);
        let thinned =
            Thinned { but_of: Some(guests), sources: vec![flooder], one_in: 64, ..Thinned::default() };
        let many = (0..=127).map(|n| MacAddr([2, n, 7, 7, 7, n / 2])).collect();
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        socket.attach_filter(&Thinned { but_of: Some(many), ..thinned.clone() }.filter()).unwrap();
        socket.attach_filter(&thinned.filter()).unwrap();
        let program = of_frames(&thinned).0;
        let ip = [0x08, 0x00, 0x45];
        let solicitation = [&[0x86, 0xdd, 0x60][..], &[0; 5], &[58], &[0; 33], &[135]].concat();
        let echo = [&[0x86, 0xdd, 0x60][..], &[0; 5], &[58], &[0; 33], &[128]].concat();
        let cases: [(_, &[u8], _, _); 8] = [
            ([2, 0, 0, 0, 0, 1], &ip, true, true),
            ([6, 0, 0, 0, 0, 1], &ip, true, true),
            // Only the last four bytes are a guest's.
            ([7, 0, 0, 0, 0, 1], &ip, false, false),
            ([2, 0, 0, 0, 0, 2], &ip, false, false),
            ([2, 0, 9, 9, 9, 9], &ip, false, false),
            ([2, 0, 0, 0, 0, 2], &[0x08, 0x06, 0], false, true),
            ([2, 0, 0, 0, 0, 2], &solicitation, false, true),
            ([2, 0, 0, 0, 0, 2], &echo, false, false),
        ];
        for (from, rest, whole, talk) in cases {
            let frame = [&[0xff; 6][..], &from, rest].concat();
            for (word, read) in [(64, true), (0, true), (63, whole), (8, talk), (16, talk), (9, whole)] {
                CHANCE.set(word);
                assert_eq!(run(&program, &frame, 2), read, "{from:?} {word} {rest:?}");
            }
        }
    }

    #[test]
    fn frames_to_others_and_a_whole_port_can_be_thinned_out() {
        const OURS: [u8; 6] = [2, 0, 0, 0, 0, 9];
        const BLUE: [u8; 6] = [2, 0, 0, 0, 0, 1];
        let to_others = Thinned {
            but_to: Some(MacAddr(OURS)),
            sources: vec![MacAddr(BLUE)],
            one_in: 64,
            ..Thinned::default()
        };
        let all = Thinned { all: true, one_in: 64, ..Thinned::default() };
        let elsewhere = [4, 0, 0, 0, 0, 9];
        // To whom, from whom, and whether the frame is read whatever chance says.
        let cases = [
            (OURS, OURS, true),
            (OURS, BLUE, false),
            ([0xff; 6], OURS, true),
            ([1, 0, 0x5e, 0, 0, 1], OURS, true),
            ([2, 0, 0, 0, 0, 8], OURS, false),
            (elsewhere, OURS, false),
            (elsewhere, BLUE, false),
        ];
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        for (to, from, whole) in cases {
            let frame = [&to[..], &from, &[8, 0, 0x45]].concat();
            for (thinned, whole) in [(&to_others, whole), (&all, false)] {
                socket.attach_filter(&thinned.filter()).unwrap();
                for (word, read) in [(64, true), (63, whole)] {
                    CHANCE.set(word);
                    assert_eq!(run(&of_frames(thinned).0, &frame, 2), read, "{to:?} {from:?} {word}");
                }
            }
        }
        assert!(Thinned::default().is_nothing() && !to_others.is_nothing() && !all.is_nothing());
    }
}
