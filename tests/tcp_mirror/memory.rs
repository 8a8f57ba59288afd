//! Many connections and little memory: who finds no room is told so, and who leaves gaps takes nobody's.

use crate::inside::on_the_wire;
use crate::remote::{Remote, Script};
use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;
use tapnat::flow::{Endpoint, Flow, Protocol, Segment, TcpFlags, Time};
use tapnat::io::uplink::sockets::tcp::connection::{Connection, Shared, Turn};
use tapnat::io::uplink::sockets::tcp::header;
use tapnat::io::uplink::sockets::tcp::machine::{Bounds, Incoming, Machine};
use tapnat::wire::Buffer;

const INITIAL: u32 = 5000;
const SCALE: u8 = 7;

/// An open connection whose remote takes nothing until it is told to.
struct Stopped {
    connection: Connection<Script>,
    remote: Rc<RefCell<Remote>>,
    /// What the mirror said last: acknowledgment, and window in bytes.
    said: (u32, u32),
}

impl Stopped {
    fn new(shared: &mut Shared) -> Stopped {
        let endpoint = |ip: &str, port| Endpoint::new(ip.parse::<IpAddr>().unwrap(), port);
        let flow = Flow {
            protocol: Protocol::Tcp,
            source: endpoint("192.0.2.1", 61000),
            destination: endpoint("198.51.100.7", 80),
        };
        let bounds = Bounds {
            kept: 1 << 20,
            largest: header::largest(flow.source.ip),
            idle: Duration::from_secs(600),
            linger: Duration::from_secs(2),
        };
        let segment = Segment { sequence: 0, window: 9000, scale: Some(SCALE), ..Segment::default() };
        let syn = Incoming { flags: TcpFlags::SYN, segment, mss: Some(1460), sack: true };
        let remote = Rc::new(RefCell::new(Remote { connected: Some(Ok(())), ..Remote::default() }));
        let machine = Machine::connecting(&syn, INITIAL, bounds, Time::ZERO);
        let connection = Connection::new(flow, machine, Script(remote.clone()));
        let mut stopped = Stopped { connection, remote, said: (0, 0) };
        stopped.connection.ready(false, true, false);
        stopped.turns(shared);
        stopped.bring(1, 0, shared);
        stopped
    }

    /// A segment from the inside.
    fn bring(&mut self, sequence: u32, payload: u16, shared: &mut Shared) {
        let segment =
            Segment { sequence, acknowledgement: INITIAL + 1, window: 9000, payload, ..Segment::default() };
        let incoming = Incoming { flags: TcpFlags::ACK, segment, mss: None, sack: false };
        self.connection.arrive(&incoming, &vec![7; usize::from(payload)], shared, Time::ZERO);
        self.turns(shared);
    }

    /// Brings up to `most` bytes, as far as there is a window.
    fn fill(&mut self, most: u32, shared: &mut Shared) {
        self.bring(1, 1000, shared);
        while self.said.0 < most && self.said.1 > 0 {
            let length = self.said.1.min(50_000).min(most - self.said.0 + 1);
            self.bring(self.said.0, length as u16, shared);
        }
    }

    fn turns(&mut self, shared: &mut Shared) {
        let mut buffer = Buffer::new();
        while let Turn::Packet = self.connection.turn(&mut buffer, shared, Time::ZERO) {
            for packet in on_the_wire(&mut buffer) {
                let (said, _) = crate::world::incoming(&packet);
                self.said = (said.segment.acknowledgement, u32::from(said.segment.window) << SCALE);
            }
        }
    }
}

#[test]
fn who_finds_no_room_is_stopped_by_a_window_of_zero_and_goes_on_later() {
    let mut shared = Shared::new(128 * 1000);
    let mut full: Vec<Stopped> = (0..3).map(|_| Stopped::new(&mut shared)).collect();
    let mut late = Stopped::new(&mut shared);
    late.bring(1, 1000, &mut shared);
    assert!(late.said.1 > 0, "there is room yet");
    full.iter_mut().for_each(|one| one.fill(1 << 20, &mut shared));
    assert!(shared.kept > 127 * 1000, "{}", shared.kept);
    assert!(full.iter().all(|one| one.said.1 == 0), "more is promised than there is room");
    let lost = shared.kept_full;

    // Within the window it was offered while there was room.
    late.bring(1001, 20_000, &mut shared);
    assert_eq!(shared.kept_full, lost + 1);
    assert_eq!(late.said.1, 0, "it would send again and again");
    let next = late.said.0;
    late.bring(next, 1, &mut shared);
    assert_eq!(late.said, (next, 0), "a probe finds out nothing else");

    late.remote.borrow_mut().room = usize::MAX;
    late.connection.ready(false, true, false);
    late.turns(&mut shared);
    assert!(late.said.1 >= 32 * 1024, "nothing tells it to go on: {:?}", late.said);
    late.bring(next, 20_000, &mut shared);
    assert_eq!(late.remote.borrow().taken.len(), next as usize - 1 + 20_000);
}

#[test]
fn who_has_written_all_but_cannot_write_more_is_told_too() {
    let mut shared = Shared::new(10_000);
    let mut first = Stopped::new(&mut shared);
    first.fill(10_000, &mut shared);
    let mut late = Stopped::new(&mut shared);
    late.remote.borrow_mut().room = 500;
    late.bring(1, 1000, &mut shared);
    assert_eq!(late.said, (501, 0));
    late.remote.borrow_mut().room = usize::MAX;
    late.connection.ready(false, true, false);
    late.turns(&mut shared);
    assert!(late.said.1 > 0);
}
