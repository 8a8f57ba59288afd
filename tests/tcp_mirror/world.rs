//! One connection between an inside end and a scripted remote, in virtual time.

use crate::inside::{Inside, on_the_wire};
use crate::remote::{Remote, Script};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use tapnat::flow::{Endpoint, Flow, Protocol, Summary, Time};
use tapnat::io::uplink::sockets::tcp::connection::{Connection, Shared, Turn};
use tapnat::io::uplink::sockets::tcp::header;
use tapnat::io::uplink::sockets::tcp::machine::{Bounds, Incoming, Machine};
use tapnat::wire::{Buffer, Offload, Packet};

/// How the wire and the ends behave.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Lost packets in a hundred.
    pub loss: u32,
    /// Up to so many microseconds a packet is late.
    pub jitter: u64,
    pub seed: u64,
    pub mtu: usize,
    /// Bytes from the inside.
    pub up: usize,
    /// Bytes towards it.
    pub down: usize,
    /// The inside's buffers.
    pub buffer: usize,
    /// Bytes that the remote takes in a pause.
    pub remote_takes: usize,
    /// Bytes that the inside reads in a pause.
    pub inside_takes: usize,
    /// Microseconds between two looks of the ends.
    pub pause: u64,
    pub six: bool,
    /// The connection comes from the host.
    pub calling: bool,
    pub kept: u32,
    /// Nobody ends.
    pub stays: bool,
}

impl Plan {
    pub fn clean() -> Plan {
        Plan {
            loss: 0,
            jitter: 0,
            seed: 1,
            mtu: 1500,
            up: 0,
            down: 0,
            buffer: 65535,
            remote_takes: usize::MAX,
            inside_takes: usize::MAX,
            pause: 100,
            six: false,
            calling: false,
            kept: 65536,
            stays: false,
        }
    }
}

/// Bytes that tell where they are.
pub fn pattern(salt: u64, length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| ((at + salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

/// When a packet arrives, its number, whether at the inside, and the packet.
type OnTheWay = (Time, u64, bool, Vec<u8>);

pub struct World {
    plan: Plan,
    pub now: Time,
    pub connection: Connection<Script>,
    pub remote: Rc<RefCell<Remote>>,
    pub shared: Shared,
    pub received: Vec<u8>,
    pub over: bool,
    pub silent: bool,
    /// Until when nobody reads.
    pub frozen: Option<Time>,
    /// From when on the wire is cut.
    pub cut: Option<Time>,
    pub most_kept: usize,
    /// Bytes that the inside's program writes at once.
    pub writes: usize,
    up: Vec<u8>,
    down: Vec<u8>,
    inside: Inside,
    handle: SocketHandle,
    random: u64,
    /// Of the last 32 packets those that were lost.
    lately: u32,
    wire: BinaryHeap<Reverse<OnTheWay>>,
    serial: u64,
    sent: usize,
    given: usize,
    next_look: Time,
    buffer: Buffer,
}

impl World {
    pub fn new(plan: &Plan) -> World {
        let (outside, remote_ip): (IpAddr, IpAddr) = match plan.six {
            false => ("192.0.2.2".parse().unwrap(), "198.51.100.7".parse().unwrap()),
            true => ("2001:db8::2".parse().unwrap(), "2001:db8:1::7".parse().unwrap()),
        };
        let (outside, remote) = (Endpoint::new(outside, 61000), Endpoint::new(remote_ip, 80));
        let mut inside = Inside::new(outside.ip, plan.mtu, plan.seed);
        let flow = Flow { protocol: Protocol::Tcp, source: outside, destination: remote };
        let bounds = Bounds {
            kept: plan.kept,
            largest: header::largest(outside.ip),
            idle: Duration::from_secs(600),
            linger: Duration::from_secs(2),
        };
        let script = Rc::new(RefCell::new(Remote { connected: Some(Ok(())), ..Remote::default() }));
        let (handle, machine) = if plan.calling {
            (inside.listen(61000, plan.buffer), Machine::calling(plan.seed as u32, bounds, Time::ZERO))
        } else {
            let handle = inside.connect(SocketAddr::new(remote_ip, 80), 61000, plan.buffer);
            inside.poll(Time::ZERO);
            let syn = inside.transmit().unwrap();
            (handle, Machine::connecting(&incoming(&syn).0, plan.seed as u32, bounds, Time::ZERO))
        };
        let mut connection = Connection::new(flow, machine, Script(script.clone()));
        connection.ready(false, true, false);
        World {
            plan: plan.clone(),
            now: Time::ZERO,
            connection,
            remote: script,
            shared: Shared::new(1 << 20),
            received: Vec::new(),
            over: false,
            silent: false,
            frozen: None,
            cut: None,
            most_kept: 0,
            writes: usize::MAX,
            up: pattern(1, plan.up),
            down: pattern(2, plan.down),
            inside,
            handle,
            random: plan.seed | 1,
            lately: 0,
            wire: BinaryHeap::new(),
            serial: 0,
            sent: 0,
            given: 0,
            next_look: Time::ZERO,
            buffer: Buffer::new(),
        }
    }

    fn chance(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        if below == 0 { 0 } else { self.random % below }
    }

    fn put(&mut self, to_inside: bool, packet: Vec<u8>) {
        // With as many as it takes to give a connection up, it is given up, which is another test.
        let lost = self.chance(100) < u64::from(self.plan.loss) && self.lately.count_ones() < 8;
        self.lately = self.lately << 1 | u32::from(lost);
        if lost || self.cut.is_some_and(|cut| self.now >= cut) {
            return;
        }
        let jitter = self.chance(self.plan.jitter + 1);
        let at = self.now + Duration::from_micros(20 + jitter);
        self.serial += 1;
        self.wire.push(Reverse((at, self.serial, to_inside, packet)));
    }

    /// The inside's socket.
    pub fn inside_socket(&mut self) -> &mut tcp::Socket<'static> {
        self.inside.tcp(self.handle)
    }

    /// What is not as it should be at the end of a connection that ended well.
    pub fn wrong(&mut self) -> Option<String> {
        let remote = self.remote.borrow();
        let same = remote.taken == self.up && self.received == self.down;
        let ended = remote.shut || remote.closed;
        if same && ended && !remote.reset && self.over && self.shared.kept + self.shared.kept_early == 0 {
            return None;
        }
        let (got, sent) = (remote.taken.len(), self.up.len());
        let state = self.inside.tcp(self.handle).state();
        Some(format!(
            "at {}: up {got} of {sent}, down {} of {}, over {}, shut {}, reset {}, inside {state}, {:?}",
            self.now,
            self.received.len(),
            self.down.len(),
            self.over,
            remote.shut,
            remote.reset,
            self.connection.machine
        ))
    }

    /// What the inside has sent and nobody has acknowledged, in bytes.
    pub fn unacknowledged(&mut self) -> usize {
        self.inside.tcp(self.handle).send_queue()
    }

    /// Goes on until the connection is over, or it is `until`.
    pub fn run(&mut self, until: Time) {
        while self.now < until && !self.over {
            self.ends();
            self.mirror();
            self.inside.poll(self.now);
            while let Some(packet) = self.inside.transmit() {
                self.put(false, packet);
            }
            self.step(until);
        }
        // What has arrived may still be unread.
        let socket = self.inside.tcp(self.handle);
        while self.over && socket.recv_queue() > 0 {
            let mut bytes = vec![0; socket.recv_queue()];
            let count = socket.recv_slice(&mut bytes).unwrap();
            self.received.extend_from_slice(&bytes[..count]);
        }
    }

    /// Moves time to the next event and lets it happen.
    fn step(&mut self, until: Time) {
        let mut next = self.next_look.min(until);
        if let Some(Reverse((at, ..))) = self.wire.peek() {
            next = next.min(*at);
        }
        if let Some(due) = self.inside.due(self.now) {
            next = next.min(due.max(self.now + Duration::from_micros(1)));
        }
        if let Some(due) = self.connection.machine.deadline() {
            next = next.min(due);
        }
        self.now = self.now.max(next);
        self.connection.machine.tick(self.now);
        while let Some(Reverse((at, ..))) = self.wire.peek()
            && *at <= self.now
        {
            let Reverse((_, _, to_inside, packet)) = self.wire.pop().unwrap();
            if to_inside {
                self.inside.receive(packet);
            } else {
                let (incoming, payload) = incoming(&packet);
                self.connection.arrive(&incoming, &packet[payload..], &mut self.shared, self.now);
            }
        }
        self.most_kept = self.most_kept.max(self.shared.kept);
    }

    /// The programs at both ends: they write, read and end.
    fn ends(&mut self) {
        if self.now < self.next_look {
            return;
        }
        let frozen = self.frozen.is_some_and(|until| self.now < until);
        let idle = self.given == self.plan.down && self.sent == self.plan.up;
        let pause = if frozen || idle { self.plan.pause.max(100_000) } else { self.plan.pause.max(1) };
        self.next_look = self.now + Duration::from_micros(pause);
        let (up, down) = (&self.up, &self.down);
        let socket = self.inside.tcp(self.handle);
        if socket.may_send() && self.sent < up.len() {
            let count = self.writes.min(up.len() - self.sent);
            self.sent += socket.send_slice(&up[self.sent..self.sent + count]).unwrap();
        }
        if self.sent == up.len() && !self.plan.stays && socket.state() == tcp::State::Established
            || socket.state() == tcp::State::CloseWait && self.sent == up.len()
        {
            socket.close();
        }
        if !frozen && socket.recv_queue() > 0 {
            let mut bytes = vec![0; socket.recv_queue().min(self.plan.inside_takes)];
            let count = socket.recv_slice(&mut bytes).unwrap();
            self.received.extend_from_slice(&bytes[..count]);
        }
        let mut remote = self.remote.borrow_mut();
        if !frozen {
            remote.room = self.plan.remote_takes;
        }
        let more = 30_000.min(down.len() - self.given);
        remote.queue.extend(&down[self.given..self.given + more]);
        self.given += more;
        remote.ended = self.given == down.len() && !self.plan.stays;
        drop(remote);
        self.connection.ready(true, !frozen, false);
    }

    fn mirror(&mut self) {
        for turn in 0.. {
            assert!(turn < 10_000, "an endless turn: {:?}", self.connection.machine);
            match self.connection.turn(&mut self.buffer, &mut self.shared, self.now) {
                Turn::Idle => return,
                Turn::Packet => {}
                Turn::Over { packet, silent } => {
                    (self.over, self.silent) = (true, silent);
                    if !packet {
                        return;
                    }
                }
                Turn::Unconnected(error) => panic!("{error}"),
            }
            for packet in on_the_wire(&mut self.buffer) {
                assert!(packet.len() <= self.plan.mtu.max(120));
                self.put(true, packet);
            }
            if self.over {
                return;
            }
        }
    }
}

/// A packet as the mirror is given it, and where its payload is.
pub fn incoming(packet: &[u8]) -> (Incoming, usize) {
    let parsed = Packet::parse(packet, &Offload::default()).unwrap();
    let Summary::Data(data) = parsed.summary else { panic!("no data") };
    let incoming =
        Incoming { flags: data.tcp, segment: data.segment, mss: parsed.mss.map(|(mss, _)| mss), sack: true };
    (incoming, usize::from(parsed.payload))
}
