//! Segments, events and times in any order: no panic, no endless turn, bounds kept, and what is sent can
//! be read.

use crate::inside::on_the_wire;
use crate::remote::{Remote, Script};
use proptest::prelude::*;
use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;
use tapnat::flow::{Endpoint, Flow, Protocol, Segment, TcpFlags, Time};
use tapnat::io::uplink::sockets::tcp::connection::{Connection, Shared, Turn};
use tapnat::io::uplink::sockets::tcp::header;
use tapnat::io::uplink::sockets::tcp::machine::{Bounds, Incoming, Machine};
use tapnat::wire::Buffer;

#[derive(Clone, Debug)]
enum Event {
    /// A segment: flags, sequence and acknowledgment from where they should be, window, payload.
    Segment(u8, i32, i32, u16, u16),
    /// The remote sends, ends, fails, takes.
    Remote(u32, bool, bool, u32),
    Ready(bool, bool, bool),
    /// So many milliseconds pass.
    Wait(u32),
    Shrink(u16),
}

fn near() -> impl Strategy<Value = i32> {
    prop_oneof![4 => Just(0), 2 => -3000..3000i32, 1 => any::<i32>()]
}

fn event() -> impl Strategy<Value = Event> {
    let flags =
        prop_oneof![4 => Just(0x10u8), 2 => Just(0x11), 1 => Just(0x02), 1 => Just(0x12), 1 => any::<u8>()];
    let length = prop_oneof![2 => Just(0u16), 2 => 0..3000u16, 1 => 0..60_000u16];
    prop_oneof![
        6 => (flags, near(), near(), any::<u16>(), length).prop_map(|(f, s, a, w, l)| Event::Segment(f, s, a, w, l)),
        3 => (0..100_000u32, any::<bool>(), 0..30u8, 0..50_000u32)
            .prop_map(|(sends, ends, fails, takes)| Event::Remote(sends, ends, fails == 0, takes)),
        2 => any::<(bool, bool, bool)>().prop_map(|(r, w, c)| Event::Ready(r, w, c)),
        2 => (0..100_000u32).prop_map(Event::Wait),
        1 => any::<u16>().prop_map(Event::Shrink),
    ]
}

const KEPT: u32 = 40_000;

struct Odd {
    connection: Connection<Script>,
    remote: Rc<RefCell<Remote>>,
    shared: Shared,
    now: Time,
    buffer: Buffer,
    /// The last header that the mirror sent: sequence behind it, acknowledgment.
    last: (u32, u32),
    over: bool,
}

impl Odd {
    fn new(calling: bool) -> Odd {
        let endpoint = |ip: &str, port| Endpoint::new(ip.parse::<IpAddr>().unwrap(), port);
        let flow = Flow {
            protocol: Protocol::Tcp,
            source: endpoint("192.0.2.1", 61000),
            destination: endpoint("198.51.100.7", 80),
        };
        let largest = header::largest(flow.source.ip);
        let bounds =
            Bounds { kept: KEPT, largest, idle: Duration::from_secs(600), linger: Duration::from_secs(2) };
        let segment = Segment { sequence: u32::MAX - 5, window: 9000, scale: Some(9), ..Segment::default() };
        let syn = Incoming { flags: TcpFlags::SYN, segment, mss: Some(1460), sack: true };
        let machine = match calling {
            true => Machine::calling(u32::MAX - 3, bounds, Time::ZERO),
            false => Machine::connecting(&syn, u32::MAX - 3, bounds, Time::ZERO),
        };
        let remote = Rc::new(RefCell::new(Remote { connected: Some(Ok(())), ..Remote::default() }));
        Odd {
            connection: Connection::new(flow, machine, Script(remote.clone())),
            remote,
            shared: Shared::new(100_000),
            now: Time::ZERO,
            buffer: Buffer::new(),
            last: (u32::MAX - 2, u32::MAX - 4),
            over: false,
        }
    }

    fn apply(&mut self, event: &Event) {
        match *event {
            Event::Segment(flags, sequence, acknowledgment, window, payload) => {
                let segment = Segment {
                    sequence: self.last.1.wrapping_add_signed(sequence),
                    acknowledgement: self.last.0.wrapping_add_signed(acknowledgment),
                    window,
                    payload,
                    scale: (flags & 2 != 0).then_some(7),
                };
                let incoming = Incoming {
                    flags: TcpFlags(flags),
                    segment,
                    mss: (window % 3 == 0).then_some(window),
                    sack: true,
                };
                let bytes = vec![7; usize::from(payload)];
                self.connection.arrive(&incoming, &bytes, &mut self.shared, self.now);
            }
            Event::Remote(sends, ends, fails, takes) => {
                let mut remote = self.remote.borrow_mut();
                if !remote.ended {
                    remote.queue.extend(std::iter::repeat_n(5, sends as usize));
                }
                remote.ended |= ends;
                remote.error = fails.then_some(libc::ECONNRESET);
                remote.room = takes as usize;
            }
            Event::Ready(readable, writable, closed) => self.connection.ready(readable, writable, closed),
            Event::Wait(milliseconds) => {
                self.now = self.now + Duration::from_millis(milliseconds.into());
                self.connection.machine.tick(self.now);
            }
            Event::Shrink(mss) => self.connection.machine.shrink(mss),
        }
        self.turns();
    }

    fn turns(&mut self) {
        for turn in 0.. {
            assert!(turn < 20_000, "an endless turn: {:?}", self.connection.machine);
            match self.connection.turn(&mut self.buffer, &mut self.shared, self.now) {
                Turn::Idle => return,
                Turn::Packet => {}
                Turn::Unconnected(error) => panic!("{error}"),
                Turn::Over { packet, .. } => {
                    self.over = true;
                    assert!(self.remote.borrow().closed);
                    if !packet {
                        return;
                    }
                }
            }
            for packet in on_the_wire(&mut self.buffer) {
                let (said, payload) = crate::world::incoming(&packet);
                let length = (packet.len() - payload) as u32;
                self.last = (said.segment.sequence.wrapping_add(length), said.segment.acknowledgement);
            }
            if self.over {
                return;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_events_is_too_odd(calling: bool, events in prop::collection::vec(event(), 1..120)) {
        let mut odd = Odd::new(calling);
        odd.connection.ready(false, true, false);
        odd.turns();
        for event in &events {
            odd.apply(event);
            prop_assert!(odd.shared.kept <= KEPT as usize + 128, "{} kept", odd.shared.kept);
            if odd.over {
                break;
            }
        }
        odd.connection.close(true, &mut odd.shared);
        prop_assert_eq!(odd.shared.kept + odd.shared.kept_early, 0);
    }
}
