//! Several TAPs as one link: a learning switch with the gateway at one port of its own.
//!
//! ```text
//!   TAP of blue ──┐
//!   TAP of red  ──┼── switch ── recv, send ── the gateway
//!   TAP of ...  ──┘
//! ```
//!
//! Each namespace has its own TAP, and all are in one inside network: what one sends to another goes
//! from TAP to TAP and never reaches the gateway; the gateway sees what is for it, and what is for
//! everybody. Super-frames pass whole where both TAPs take them.
//!
//! Ports are read in turns, a frame each, so that a busy one does not starve the others. Which of them
//! have a frame is asked of an epoll instance of the switch's own: its descriptor stands for all of
//! them in the worker's loop.

pub mod macs;

use super::filter::Thinned;
use super::{Link, deliver};
use crate::flow::bucket::TokenBucket;
use crate::flow::{LinkInfo, Time};
use crate::wire::{Buffer, MacAddr};
use macs::{Learned, Macs, Place};
use rustix::event::{Timespec, epoll};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Ports that are asked for in one look.
const LOOK: usize = 64;
/// Frames of a port that are sent to all others since nobody knows where their receiver is, at once;
const FLOODED: u32 = 1000;
/// and a second. A receiver that hears one of them and answers is known then.
const FLOODED_PER_SECOND: u32 = 1000;
/// Frames of a port to groups, at once and a second: there may be programs that stream so.
const SPREAD: u32 = 10_000;

/// How often something happened to a frame here, beside what its ports count.
#[derive(Debug, Default)]
struct Counters {
    /// From TAP to TAP.
    switched: u64,
    /// To every port, since its address was not known.
    flooded: u64,
    /// Not sent on to all, since its port had many such frames already.
    flood_limited: u64,
    /// Lost on the way to a port.
    lost: u64,
    /// For the port that it came from.
    own_port: u64,
    /// From an address that no host can have.
    bad_source: u64,
    /// From the gateway's own address.
    forged_source: u64,
    /// From an address that was behind another port.
    moved: u64,
    /// From an address that took an older one's place in a full table.
    replaced: u64,
    /// Ports whose TAP somebody has deleted.
    ports_gone: u64,
}

struct Port {
    link: Box<dyn Link>,
    /// What may be sent to all others of what comes by it to nobody knows whom,
    flood: TokenBucket,
    /// and to everybody.
    spread: TokenBucket,
}

impl Port {
    fn new(link: Box<dyn Link>) -> Port {
        let flood = TokenBucket::new(FLOODED, FLOODED_PER_SECOND);
        Port { link, flood, spread: TokenBucket::new(SPREAD, SPREAD) }
    }
}

/// The switch.
pub struct Switch {
    name: String,
    /// By number; `None` where a port was taken away.
    ports: Vec<Option<Port>>,
    events: OwnedFd,
    /// Ports that may have a frame, the next one in front.
    ready: VecDeque<usize>,
    macs: Macs,
    now: Time,
    info: LinkInfo,
    counters: Counters,
    /// What ports had counted that are not there any more.
    former: Vec<(&'static str, u64)>,
    copy: Buffer,
    scratch: Buffer,
}

impl std::fmt::Debug for Switch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Switch")
            .field("name", &self.name)
            .field("ports", &self.left())
            .finish_non_exhaustive()
    }
}

impl Switch {
    /// A switch of these TAPs, numbered from 0, in front of the gateway whose address is `gateway`.
    /// It is called as the first of them, and takes what all of them take.
    ///
    /// # Errors
    /// The kernel's word; `InvalidInput` if there is no port.
    pub fn new(ports: Vec<Box<dyn Link>>, gateway: MacAddr) -> io::Result<Switch> {
        let first = ports.first().ok_or(io::ErrorKind::InvalidInput)?;
        let (name, info) = (first.name().to_owned(), first.info());
        let info = ports.iter().map(|port| port.info()).fold(info, common);
        let events = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (number, port) in ports.iter().enumerate() {
            for fd in port.readable() {
                let data = epoll::EventData::new_u64(number as u64);
                epoll::add(&events, fd, data, epoll::EventFlags::IN)?;
            }
        }
        Ok(Switch {
            name,
            macs: Macs::new(gateway, ports.len()),
            ports: ports.into_iter().map(|link| Some(Port::new(link))).collect(),
            events,
            ready: VecDeque::new(),
            now: Time::ZERO,
            info,
            counters: Counters::default(),
            former: Vec::new(),
            copy: Buffer::new(),
            scratch: Buffer::new(),
        })
    }

    /// Ports that are there.
    fn left(&self) -> usize {
        self.ports.iter().flatten().count()
    }

    /// Looks which ports have a frame.
    fn look(&mut self) -> io::Result<()> {
        let none = epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
        let mut events = [none; LOOK];
        let count = epoll::wait(&self.events, &mut events[..], Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        let told = events.iter().take(count).filter_map(|event| usize::try_from(event.data.u64()).ok());
        self.ready.extend(told);
        for (number, port) in self.ports.iter().enumerate() {
            if port.as_ref().is_some_and(|port| port.link.pending()) && !self.ready.contains(&number) {
                self.ready.push_back(number);
            }
        }
        Ok(())
    }

    /// Takes a port away, and with it what was behind it.
    fn take_away(&mut self, number: usize) {
        let Some(mut port) = self.ports.get_mut(number).and_then(Option::take) else { return };
        for fd in port.link.readable() {
            // What is closed is watched no more in any case.
            let _ = epoll::delete(&self.events, fd);
        }
        self.ready.retain(|ready| *ready != number);
        self.macs.forget(number);
        for (word, count) in port.link.counters() {
            add(&mut self.former, word, count);
        }
    }

    /// What becomes of a frame from a port: `Ok` if the gateway is to have it.
    fn switch(&mut self, from: usize, frame: &mut Buffer) -> io::Result<()> {
        // Dealt with: `recv` has nothing to hand on.
        let taken = || Err(io::ErrorKind::Interrupted.into());
        let Some((destination, source)) = addresses(frame.bytes()) else {
            self.counters.bad_source += 1;
            return taken();
        };
        match self.macs.learn(source, from, self.now) {
            Learned::Known | Learned::New => {}
            Learned::Moved => self.counters.moved += 1,
            Learned::Replaced => self.counters.replaced += 1,
            Learned::Invalid => {
                self.counters.bad_source += 1;
                return taken();
            }
            Learned::Forged => {
                self.counters.forged_source += 1;
                return taken();
            }
        }
        match self.macs.find(destination, self.now) {
            Place::Gateway => Ok(()),
            Place::Everybody => {
                if self.may(from, |port| &mut port.spread) {
                    self.send_to_all(Some(from), frame);
                } else {
                    self.counters.flood_limited += 1;
                }
                Ok(())
            }
            Place::AnyPort if self.may(from, |port| &mut port.flood) => {
                self.counters.flooded += 1;
                self.send_to_all(Some(from), frame);
                taken()
            }
            Place::AnyPort => {
                // The gateway counts it as what its port floods with.
                self.counters.flood_limited += 1;
                Ok(())
            }
            Place::Port(port) if port == from => {
                self.counters.own_port += 1;
                taken()
            }
            Place::Port(port) => {
                self.counters.switched += 1;
                // Counted there; who sent it learns of the loss as of any on a wire.
                let _ = self.send_to(port, frame);
                taken()
            }
        }
    }

    fn may(&mut self, from: usize, bucket: impl Fn(&mut Port) -> &mut TokenBucket) -> bool {
        let port = self.ports.get_mut(from).and_then(Option::as_mut);
        port.is_some_and(|port| bucket(port).take(self.now))
    }

    /// Sends a frame to one port; its contents are undefined after.
    fn send_to(&mut self, number: usize, frame: &mut Buffer) -> io::Result<()> {
        let port = self.ports.get_mut(number).and_then(Option::as_mut).ok_or(io::ErrorKind::NotConnected)?;
        let result = deliver(port.link.as_mut(), frame, &mut self.scratch);
        if result.is_err() {
            self.counters.lost += 1;
        }
        result
    }

    /// Sends copies of a frame to all ports but the one that it came from.
    fn send_to_all(&mut self, from: Option<usize>, frame: &Buffer) {
        for (number, port) in self.ports.iter_mut().enumerate() {
            let Some(port) = port.as_mut().filter(|_| Some(number) != from) else { continue };
            self.copy.fill(frame.bytes());
            self.copy.offload = frame.offload;
            if deliver(port.link.as_mut(), &mut self.copy, &mut self.scratch).is_err() {
                self.counters.lost += 1;
            }
        }
    }
}

impl Link for Switch {
    fn name(&self) -> &str {
        &self.name
    }

    fn info(&self) -> LinkInfo {
        self.info
    }

    fn recv(&mut self, buffer: &mut Buffer) -> io::Result<()> {
        loop {
            let Some(number) = self.ready.pop_front() else {
                self.look()?;
                if self.ready.is_empty() {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                continue;
            };
            let Some(port) = self.ports.get_mut(number).and_then(Option::as_mut) else { continue };
            match port.link.recv(buffer) {
                Ok(()) => {
                    self.ready.push_back(number);
                    buffer.port = u16::try_from(number).ok();
                    return self.switch(number, buffer);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    self.ready.push_back(number);
                    return Err(error);
                }
                Err(error) if self.left() <= 1 => return Err(error),
                Err(_) => {
                    self.counters.ports_gone += 1;
                    self.take_away(number);
                }
            }
        }
    }

    fn send(&mut self, buffer: &mut Buffer) -> io::Result<()> {
        let Some((destination, _)) = addresses(buffer.bytes()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        match self.macs.find(destination, self.now) {
            Place::Port(port) => self.send_to(port, buffer),
            Place::Everybody => {
                self.send_to_all(None, buffer);
                Ok(())
            }
            Place::AnyPort => {
                self.counters.flooded += 1;
                self.send_to_all(None, buffer);
                Ok(())
            }
            Place::Gateway => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.ports.iter_mut().flatten().map(|port| port.link.flush()).fold(Ok(()), io::Result::and)
    }

    fn readable(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.events.as_fd()]
    }

    fn reopen(&mut self) -> io::Result<()> {
        let mut last = Err(io::ErrorKind::NotConnected.into());
        for port in self.ports.iter_mut().flatten() {
            last = port.link.reopen();
        }
        last
    }

    fn tick(&mut self, now: Time) {
        self.now = now;
        self.ports.iter_mut().flatten().for_each(|port| port.link.tick(now));
    }

    fn next_deadline(&self) -> Option<Time> {
        self.ports.iter().flatten().filter_map(|port| port.link.next_deadline()).min()
    }

    fn pending(&self) -> bool {
        !self.ready.is_empty() || self.ports.iter().flatten().any(|port| port.link.pending())
    }

    fn part(&mut self, port: usize) -> usize {
        self.take_away(port);
        self.left()
    }

    fn thin_out(&mut self, thinned: &Thinned) -> io::Result<()> {
        let mut result = Ok(());
        for (number, port) in self.ports.iter_mut().enumerate() {
            let Some(port) = port else { continue };
            let all = thinned.all || thinned.ports.iter().any(|port| usize::from(*port) == number);
            let of_port = Thinned { all, ports: Vec::new(), ..thinned.clone() };
            result = result.and(port.link.thin_out(&of_port));
        }
        result
    }

    fn counters(&mut self) -> Vec<(&'static str, u64)> {
        let mut all = self.former.clone();
        for port in self.ports.iter_mut().flatten() {
            for (word, count) in port.link.counters() {
                add(&mut all, word, count);
            }
        }
        let own = &self.counters;
        all.extend([
            ("ports", self.ports.iter().flatten().count() as u64),
            ("hosts", self.macs.len() as u64),
            ("switched", own.switched),
            ("flooded", own.flooded),
            ("flood-limited", own.flood_limited),
            ("switch-lost", own.lost),
            ("own-port", own.own_port),
            ("bad-source", own.bad_source),
            ("forged-source", own.forged_source),
            ("host-moved", own.moved),
            ("hosts-full", own.replaced),
            ("ports-gone", own.ports_gone),
        ]);
        all
    }
}

/// What two ports both take.
fn common(one: LinkInfo, other: LinkInfo) -> LinkInfo {
    LinkInfo {
        mtu: one.mtu.min(other.mtu),
        header: one.header,
        checksum: one.checksum && other.checksum,
        tcp4: one.tcp4 && other.tcp4,
        tcp6: one.tcp6 && other.tcp6,
        udp: one.udp && other.udp,
    }
}

/// Destination and source of a frame.
fn addresses(frame: &[u8]) -> Option<(MacAddr, MacAddr)> {
    let (destination, rest) = frame.split_first_chunk()?;
    let (source, _) = rest.split_first_chunk()?;
    Some((MacAddr(*destination), MacAddr(*source)))
}

fn add(counters: &mut Vec<(&'static str, u64)>, word: &'static str, count: u64) {
    match counters.iter_mut().find(|(known, _)| *known == word) {
        Some((_, sum)) => *sum += count,
        None => counters.push((word, count)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);

    /// A port with a socket for a TAP.
    struct Fake(UnixDatagram);

    impl Link for Fake {
        fn name(&self) -> &str {
            "fake"
        }

        fn info(&self) -> LinkInfo {
            LinkInfo::plain(1500, 14)
        }

        fn recv(&mut self, buffer: &mut Buffer) -> io::Result<()> {
            buffer.clear();
            let length = self.0.recv(buffer.spare())?;
            buffer.set_len(length);
            // As of a TAP that somebody has deleted.
            if length == 1 { Err(io::ErrorKind::NotConnected.into()) } else { Ok(()) }
        }

        fn send(&mut self, buffer: &mut Buffer) -> io::Result<()> {
            self.0.send(buffer.bytes()).map(drop)
        }

        fn readable(&self) -> Vec<BorrowedFd<'_>> {
            vec![self.0.as_fd()]
        }

        fn counters(&mut self) -> Vec<(&'static str, u64)> {
            vec![("seen", 1)]
        }

        fn thin_out(&mut self, thinned: &Thinned) -> io::Result<()> {
            self.0.send(format!("all: {}, {:?}", thinned.all, thinned.sources).as_bytes()).map(drop)
        }
    }

    fn switch(count: usize) -> (Switch, Vec<UnixDatagram>) {
        let pair = |_| {
            let (ours, theirs) = UnixDatagram::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            theirs.set_nonblocking(true).unwrap();
            (Box::new(Fake(ours)) as Box<dyn Link>, theirs)
        };
        let (ports, ends): (Vec<_>, Vec<_>) = (0..count).map(pair).unzip();
        (Switch::new(ports, GATEWAY).unwrap(), ends)
    }

    fn mac(last: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, last])
    }

    fn frame(to: MacAddr, from: MacAddr, text: &str) -> Vec<u8> {
        [&to.0[..], &from.0, &[0x08, 0x00], text.as_bytes()].concat()
    }

    /// Lets the switch work; what the gateway gets.
    fn turn(switch: &mut Switch) -> Vec<Vec<u8>> {
        let (mut buffer, mut got) = (Buffer::new(), Vec::new());
        loop {
            match switch.recv(&mut buffer).map_err(|error| error.kind()) {
                Ok(()) => got.push(buffer.bytes().to_vec()),
                Err(io::ErrorKind::Interrupted) => {}
                Err(io::ErrorKind::WouldBlock) => return got,
                Err(other) => panic!("{other}"),
            }
        }
    }

    fn got(end: &UnixDatagram) -> Vec<Vec<u8>> {
        let mut bytes = [0; 200];
        std::iter::from_fn(|| end.recv(&mut bytes).ok().map(|length| bytes[..length].to_vec())).collect()
    }

    fn count(switch: &mut Switch, word: &str) -> u64 {
        switch.counters().into_iter().find(|(known, _)| *known == word).unwrap().1
    }

    #[test]
    fn groups_reach_everybody_and_what_is_known_only_its_port() {
        let (mut switch, ends) = switch(3);
        let hello = frame(MacAddr::BROADCAST, mac(1), "who is there?");
        ends[0].send(&hello).unwrap();
        assert_eq!(turn(&mut switch), std::slice::from_ref(&hello));
        assert_eq!((got(&ends[0]), got(&ends[1]), got(&ends[2])), (vec![], vec![hello.clone()], vec![hello]));
        let answer = frame(mac(1), mac(2), "I am");
        ends[1].send(&answer).unwrap();
        assert!(turn(&mut switch).is_empty(), "it is not the gateway's");
        assert_eq!((got(&ends[0]), got(&ends[2])), (vec![answer], vec![]));
        let out = frame(GATEWAY, mac(2), "to the world");
        ends[1].send(&out).unwrap();
        assert_eq!(turn(&mut switch), [out]);
        let back = frame(mac(2), GATEWAY, "from the world");
        switch.send(&mut Buffer::from_bytes(&back)).unwrap();
        assert_eq!((got(&ends[0]), got(&ends[1]), got(&ends[2])), (vec![], vec![back], vec![]));
        assert_eq!((count(&mut switch, "switched"), count(&mut switch, "hosts")), (1, 2));
    }

    #[test]
    fn what_nobody_knows_is_sent_everywhere_but_back() {
        let (mut switch, ends) = switch(3);
        let lost = frame(mac(9), mac(1), "hello?");
        ends[0].send(&lost).unwrap();
        assert!(turn(&mut switch).is_empty(), "it is not the gateway's");
        assert_eq!((got(&ends[0]), got(&ends[1]), got(&ends[2])), (vec![], vec![lost.clone()], vec![lost]));
        assert_eq!(count(&mut switch, "flooded"), 1);
        let own = frame(mac(1), mac(1), "to myself");
        ends[0].send(&own).unwrap();
        assert!(turn(&mut switch).is_empty());
        assert_eq!((got(&ends[0]).len(), count(&mut switch, "own-port")), (0, 1));
    }

    #[test]
    fn who_sends_too_much_that_nobody_knows_is_heard_by_the_gateway_alone() {
        let (mut switch, ends) = switch(3);
        let lost = frame(mac(9), mac(1), "");
        let mut heard = 0;
        for _ in 0..FLOODED + 5 {
            ends[0].send(&lost).unwrap();
            let told = turn(&mut switch).len();
            assert_eq!(got(&ends[1]).len(), 1 - told, "either they or the gateway");
            assert_eq!(got(&ends[2]).len(), 1 - told);
            heard += told;
        }
        assert_eq!((heard, count(&mut switch, "flood-limited")), (5, 5));
        ends[1].send(&frame(mac(9), mac(2), "")).unwrap();
        assert!(turn(&mut switch).is_empty(), "each port has its own");
        switch.tick(Time::from_millis(2));
        got(&ends[2]);
        for _ in 0..5 {
            ends[0].send(&lost).unwrap();
        }
        let mut buffer = Buffer::new();
        while switch.recv(&mut buffer).is_err_and(|error| error.kind() == io::ErrorKind::Interrupted) {}
        assert_eq!((buffer.port, got(&ends[2]).len()), (Some(0), 2), "and some more after a while");
    }

    #[test]
    fn who_calls_everybody_without_end_is_heard_by_the_gateway_alone() {
        let (mut switch, ends) = switch(2);
        let call = frame(MacAddr::BROADCAST, mac(1), "");
        let mut copies = 0;
        for _ in 0..SPREAD + 5 {
            ends[0].send(&call).unwrap();
            assert_eq!(turn(&mut switch).len(), 1, "the gateway hears all");
            copies += got(&ends[1]).len();
        }
        assert_eq!((copies, count(&mut switch, "flood-limited")), (SPREAD as usize, 5));
    }

    #[test]
    fn one_port_is_thinned_out_and_the_others_are_not() {
        let (mut switch, ends) = switch(2);
        let thinned = Thinned { ports: vec![1], one_in: 64, ..Thinned::default() };
        switch.thin_out(&thinned).unwrap();
        let said = |end| String::from_utf8(got(end).concat()).unwrap();
        assert_eq!((said(&ends[0]).as_str(), said(&ends[1]).as_str()), ("all: false, []", "all: true, []"));
    }

    #[test]
    fn nobody_speaks_as_the_gateway() {
        let (mut switch, ends) = switch(2);
        ends[0].send(&frame(MacAddr::BROADCAST, GATEWAY, "I am the gateway")).unwrap();
        ends[0].send(&frame(GATEWAY, MacAddr::BROADCAST, "and I everybody")).unwrap();
        ends[0].send(&[7; 11]).unwrap();
        assert!(turn(&mut switch).is_empty());
        assert_eq!(got(&ends[1]).len(), 0);
        assert_eq!((count(&mut switch, "forged-source"), count(&mut switch, "bad-source")), (1, 2));
    }

    #[test]
    fn a_busy_port_leaves_the_others_their_turns() {
        let (mut switch, ends) = switch(2);
        for _ in 0..5 {
            ends[0].send(&frame(GATEWAY, mac(1), "a")).unwrap();
        }
        ends[1].send(&frame(GATEWAY, mac(2), "b")).unwrap();
        let texts: Vec<u8> = turn(&mut switch).into_iter().map(|frame| frame[14]).collect();
        assert_eq!(texts.iter().position(|text| *text == b'b').unwrap(), 1, "{texts:?}");
    }

    #[test]
    fn a_port_goes_and_the_others_stay() {
        let (mut switch, ends) = switch(3);
        ends[0].send(&frame(GATEWAY, mac(1), "")).unwrap();
        ends[1].send(&frame(GATEWAY, mac(2), "")).unwrap();
        assert_eq!(turn(&mut switch).len(), 2);
        assert_eq!(switch.part(0), 2);
        assert_eq!(switch.part(0), 2, "it is gone already");
        assert!(ends[0].send(b"anybody?").is_err(), "closed");
        assert_eq!(count(&mut switch, "seen"), 3, "what it had counted stays");
        switch.send(&mut Buffer::from_bytes(&frame(mac(1), GATEWAY, "where?"))).unwrap();
        assert_eq!((got(&ends[1]).len(), got(&ends[2]).len()), (1, 1), "nobody is known there");
        ends[1].send(&[0]).unwrap();
        assert!(turn(&mut switch).is_empty());
        assert_eq!((count(&mut switch, "ports"), count(&mut switch, "ports-gone")), (1, 1));
        ends[2].send(&[0]).unwrap();
        let error = switch.recv(&mut Buffer::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotConnected, "the last one's end is the link's");
        assert_eq!(switch.part(2), 0);
    }
}
