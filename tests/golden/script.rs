//! How a case is written: hosts and remotes say things to a running gateway, which is what lets a
//! remote answer to the port it saw. What they say becomes the incoming captures.

use crate::capture::Stamped;
use crate::replay::Replay;
use crate::support::{A, B, MAC, MAC_A, MAC_B, source_port};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::time::Duration;
use tapnat::flow::Time;
use tapnat::gateway::{INSIDE, OUTSIDE};
use tapnat::wire::ethernet::IPV4;
use tapnat::wire::{Frame, MacAddr};

/// Between two things that are said without a [`Script::wait`].
const PAUSE: Duration = Duration::from_millis(10);

pub struct Script {
    replay: Replay,
    now: Time,
    /// What was said on each side.
    pub inside: Vec<Stamped>,
    pub outside: Vec<Stamped>,
}

impl Script {
    /// Nobody has said anything yet to the gateway of this configuration.
    pub fn new(config: &Path) -> Self {
        let replay = Replay::new(config);
        Script { replay, now: Time::from_secs(1), inside: Vec::new(), outside: Vec::new() }
    }

    /// Time goes by.
    pub fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    /// A frame on the bridge.
    pub fn frame(&mut self, frame: Vec<u8>) {
        self.now = self.now + PAUSE;
        self.replay.receive(self.now, INSIDE, &frame);
        self.inside.push((self.now, frame));
    }

    /// An IP packet from the inside host whose address it has.
    pub fn from(&mut self, host: Ipv4Addr, packet: Vec<u8>) {
        let source = match host {
            A => MAC_A,
            B => MAC_B,
            _ => MacAddr([2, 0, 0, 0, 0, host.octets()[3]]),
        };
        let header = Frame { destination: MAC, source, ethertype: IPV4 }.to_bytes();
        self.frame([&header[..], &packet].concat());
    }

    /// An IP packet from the uplink.
    pub fn remote(&mut self, packet: Vec<u8>) {
        self.now = self.now + PAUSE;
        self.replay.receive(self.now, OUTSIDE, &packet);
        self.outside.push((self.now, packet));
    }

    /// The last packet that the gateway sent outside.
    pub fn seen_outside(&self) -> Vec<u8> {
        self.replay.outside.last().expect("something was sent outside").1.clone()
    }

    /// The last IP packet that the gateway sent inside.
    pub fn seen_inside(&self) -> Vec<u8> {
        self.replay.inside.last().expect("something was sent inside").1[14..].to_vec()
    }

    /// Who sent the last packet outside, as its receiver sees it.
    pub fn outside_endpoint(&self) -> SocketAddrV4 {
        let packet = self.seen_outside();
        SocketAddrV4::new(crate::support::source(&packet), source_port(&packet))
    }
}
