//! The lab of one requirement: a contender in its namespace, and around it wires whose far ends this
//! program holds. It *is* the hosts A, B, C and the world: it answers ARP for their addresses, sends
//! the packets it is told to, and judges every packet that arrives.
//!
//! Whether a packet was dropped is not a matter of waiting long enough. [`Trial::sync`] asks ARP
//! questions over the same wires; when they are answered, what was sent before has been dealt with.

mod cast;
pub mod four;
mod neighbours;
pub mod six;
mod wires;

pub use Who::{A, B, C, GI, R9, S1, S2, X, X2};
pub use cast::{Named, Who};
pub use neighbours::arp_frame;
pub use wires::{HOSTS, Place, place_of};

use super::contender::{BRIDGE, Contender, OUTSIDE, Running, Setup, Word};
use super::packet::{ACK, Packet, SYN, Told, data, fresh, pong, tcp, udp_with};
use super::{Fault, Shown, demand};
use crate::io::netlink::{Family, Netlink};
use crate::io::sys::netns::Netns;
use crate::io::sys::wiretap::Wiretap;
use crate::lab::netns::Lab;
use crate::lab::programs::now;
use crate::lab::topology::{End, Host, Six, Topology, Wire};
use Place::World;
use ipnet::{Ipv4Net, Ipv6Net};
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use wires::{GRACE, PATIENCE, PROMPT, Port};

/// Lines kept of what passed.
const KEEP_LINES: usize = 60;

/// A requirement's lab with the contender at work in it.
#[derive(Debug)]
pub struct Trial {
    /// The contender.
    pub gateway: Running,
    /// The family of its addresses.
    pub family: Family,
    lab: Lab,
    ports: [Port; 4],
    lines: Vec<String>,
    hidden: usize,
    quiet: bool,
    violations: Vec<String>,
    /// Packets with wrong transport checksums are part of the trial.
    pub bad_sums_wanted: bool,
    /// A destination that packets may reach with their inside source (RFC 6888 REQ-6).
    pub exempt: Option<IpAddr>,
}

/// What this trial has written down.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notes {
    /// The packets that passed, a line each.
    pub lines: Vec<String>,
    /// The first thing that no NAT may ever do.
    pub violation: Option<String>,
}

fn topology(setup: &Setup) -> Topology {
    let end = |host, interface, bridge| End { host, interface, address: None, bridge };
    let wire = |port, far| Wire {
        ends: [end("gateway", port, Some(BRIDGE)), end("far", far, None)],
        mtu: 1500,
        offloads: false,
    };
    let mut gateway = Host { bridges: vec![BRIDGE], ..Host::new("gateway") };
    let mut address = None;
    match setup.family {
        Family::Four => {
            address = Some(Ipv4Net::new_assert(four::X, four::PREFIX));
            gateway.default_route = Some(four::R);
        }
        Family::Six => {
            gateway.six = Some(Six {
                addresses: vec![(OUTSIDE, Ipv6Net::new_assert(six::X, six::PREFIX))],
                default_route: Some(six::R),
                advertisements: false,
            });
        }
    }
    let outside = Wire {
        ends: [End { address, ..end("gateway", OUTSIDE, None) }, end("far", "world", None)],
        mtu: setup.outside_mtu,
        offloads: false,
    };
    Topology {
        hosts: vec![gateway, Host::new("far")],
        wires: vec![wire("to-a", "a"), wire("to-b", "b"), wire("to-c", "c"), outside],
    }
}

impl Trial {
    /// Builds the lab, starts the contender, and waits until packets pass for every host.
    ///
    /// # Errors
    /// See [`Contender::start`]; [`Fault::NotMet`] if nothing passes.
    pub fn start(contender: &Contender, setup: &Setup) -> Shown<Trial> {
        let lab = Lab::build(&topology(setup))?;
        if setup.externals > 1 {
            let second = || {
                let netlink = Netlink::open()?;
                let link = netlink.link(OUTSIDE)?.ok_or_else(|| io::Error::other("no outside"))?;
                let prefix = if setup.family == Family::Four { four::PREFIX } else { six::PREFIX };
                netlink.add_address(link.index, X2.of(setup.family), prefix)
            };
            lab.host("gateway").run(second)??;
        }
        let open = |name: &str, place: Place| {
            lab.host("far").run(|| {
                let link = Netlink::open()?.link(name)?.ok_or_else(|| io::Error::other("a wire is gone"))?;
                let tap = Wiretap::open(link.index)?;
                Ok::<_, io::Error>(Port {
                    tap,
                    mac: place.mac(),
                    gateway_mac: [0xff; 6],
                    arrived: VecDeque::new(),
                    answers: Vec::new(),
                    heard: VecDeque::new(),
                })
            })?
        };
        let ports = [open("a", Place::A)?, open("b", Place::B)?, open("c", Place::C)?, open("world", World)?];
        let gateway = contender.start(lab.host("gateway"), setup, fresh())?;
        let mut trial = Trial {
            gateway,
            family: setup.family,
            lab,
            ports,
            lines: Vec::new(),
            hidden: 0,
            quiet: true,
            violations: Vec::new(),
            bad_sums_wanted: false,
            exempt: None,
        };
        trial.quiet = false;
        trial.learn()?;
        Ok(trial)
    }

    /// Learns the gateway's MACs, and lets it learn those around it, with a ping from each host.
    ///
    /// # Errors
    /// [`Fault::NotMet`] if nothing passes.
    pub fn learn(&mut self) -> Shown {
        self.unwritten(Trial::warm_up)
    }

    fn warm_up(&mut self) -> Shown {
        for place in HOSTS {
            self.ports[place as usize].gateway_mac = self.resolve(place, self.ip(GI))?;
        }
        self.ports[World as usize].gateway_mac = self.resolve(World, self.ip(X))?;
        let deadline = now() + PATIENCE;
        for address in [A, B, C].map(|who| self.ip(who)) {
            loop {
                let ping = self.echo(address, R9, 9);
                let print = ping.fingerprint();
                self.send(place_of(address), &ping)?;
                let passed =
                    self.take(World, now() + Duration::from_millis(300), |p| p.fingerprint() == print)?;
                if let Some(passed) = passed {
                    let pong = pong(&passed);
                    let print = pong.fingerprint();
                    self.send(World, &pong)?;
                    let back =
                        self.take(place_of(address), now() + PROMPT * 4, |p| p.fingerprint() == print)?;
                    if back.is_some() {
                        break;
                    }
                }
                demand(now() < deadline, format!("nothing passes: a ping from {address} is never answered"))?;
            }
        }
        self.forget();
        Ok(())
    }

    /// What was written down, the trial being over.
    pub fn finish(mut self) -> Notes {
        if let Some(words) = self.gateway.fell() {
            self.violations.insert(0, words);
        }
        let mut lines = std::mem::take(&mut self.lines);
        if self.hidden > 0 {
            lines.push(format!("... {} more", self.hidden));
        }
        Notes { lines, violation: self.violations.first().cloned() }
    }

    /// Writes a remark between the packets.
    pub fn say(&mut self, words: impl Into<String>) {
        self.line(words.into());
    }

    fn line(&mut self, line: String) {
        if self.quiet {
            return;
        }
        if self.lines.len() < KEEP_LINES {
            self.lines.push(line);
        } else {
            self.hidden += 1;
        }
    }

    /// Does `work` without writing its packets down: many that are alike.
    ///
    /// # Errors
    /// As `work`.
    pub fn unwritten<T>(&mut self, work: impl FnOnce(&mut Trial) -> Shown<T>) -> Shown<T> {
        let before = std::mem::replace(&mut self.quiet, true);
        let result = work(self);
        self.quiet = before;
        result
    }

    // ---- what the rows say ---------------------------------------------------------------------

    /// Sends `packet` at `from` and expects it at `to`, changed in nothing but what a NAT changes.
    ///
    /// # Errors
    /// [`Fault::NotMet`] if it does not arrive, or spoilt.
    pub fn pass(&mut self, from: Place, packet: &Packet, to: Place) -> Shown<Packet> {
        let print = packet.fingerprint();
        self.send(from, packet)?;
        let found = self.look(to, |p| p.fingerprint() == print)?;
        let found = found.ok_or_else(|| {
            self.line(format!("{:>5} ⇒ ∅", to.word()));
            Fault::NotMet(format!("did not reach {}: {packet}", to.word()))
        })?;
        match found.changed_since(packet) {
            Some(words) => Err(Fault::NotMet(words)),
            None => Ok(found),
        }
    }

    /// Sends `packet` from its inside host and expects it outside, its source translated.
    ///
    /// # Errors
    /// [`Fault::NotMet`].
    pub fn out(&mut self, packet: &Packet) -> Shown<Packet> {
        let passed = self.pass(place_of(packet.source), packet, World)?;
        demand(
            passed.destination == packet.destination && (passed.source == X || passed.source == X2),
            format!("not translated as it should be: {packet} left as {passed}"),
        )?;
        Ok(passed)
    }

    /// Sends `packet` in the world and expects it at the inside endpoint `to`.
    ///
    /// # Errors
    /// [`Fault::NotMet`].
    pub fn back(&mut self, packet: &Packet, to: SocketAddr) -> Shown<Packet> {
        let passed = self.pass(World, packet, place_of(to.ip()))?;
        let port_right = passed.offset > 0 || passed.is_error() || passed.to().port() == to.port();
        demand(
            passed.destination == to.ip() && port_right && passed.source == packet.source,
            format!("{packet} came in as {passed}, not for {to}"),
        )?;
        Ok(passed)
    }

    /// Sends `packet` at `from`; no packet may arrive at any of `nowhere`.
    ///
    /// # Errors
    /// [`Fault::NotMet`].
    pub fn blocked(&mut self, from: Place, packet: &Packet, nowhere: &[Place]) -> Shown {
        self.forget();
        self.send(from, packet)?;
        self.nothing(nowhere, &packet.to_string())
    }

    /// Nothing has come to any of `nowhere` when everything sent has been dealt with.
    ///
    /// # Errors
    /// [`Fault::NotMet`].
    pub fn nothing(&mut self, nowhere: &[Place], after: &str) -> Shown {
        self.sync()?;
        let deadline = now() + GRACE;
        while now() < deadline {
            self.pump(deadline)?;
        }
        for &place in nowhere {
            if let Some(packet) = self.ports[place as usize].arrived.pop_front() {
                return Err(Fault::NotMet(format!("after {after}, {} got {packet}", place.word())));
            }
            self.line(format!("{:>5} ⇒ ∅", place.word()));
        }
        Ok(())
    }

    /// Whether `packet`, sent at `from`, arrives at `to`: for what depends on policy.
    ///
    /// # Errors
    /// [`Fault::Broken`].
    pub fn reaches(&mut self, from: Place, packet: &Packet, to: Place) -> Shown<bool> {
        let print = packet.fingerprint();
        self.send(from, packet)?;
        let found = self.look(to, |p| p.fingerprint() == print)?.is_some();
        if !found {
            self.line(format!("{:>5} ⇒ ∅", to.word()));
        }
        Ok(found)
    }

    /// Sends `packet` at `from` and expects an ICMP error in return that says this.
    ///
    /// # Errors
    /// [`Fault::NotMet`].
    pub fn refused(&mut self, from: Place, packet: &Packet, told: Told) -> Shown<Packet> {
        self.send(from, packet)?;
        let found = self.look(from, |p| p.is_error())?;
        let Some(found) = found else {
            self.line(format!("{:>5} ⇒ ∅", from.word()));
            return Err(Fault::NotMet(format!("no ICMP error about {packet}")));
        };
        demand(found.tells(told), format!("{packet} was answered with {found}, not {told:?}"))?;
        Ok(found)
    }

    /// Opens a UDP flow from inside and gives back its external endpoint.
    ///
    /// # Errors
    /// [`Fault::NotMet`].
    pub fn open(&mut self, inside: SocketAddr, remote: SocketAddr) -> Shown<SocketAddr> {
        Ok(self.out(&udp_with(inside, remote, &data(24)))?.from())
    }

    /// Opens a TCP connection from inside, with a full handshake.
    ///
    /// # Errors
    /// [`Fault::NotMet`].
    pub fn connect(&mut self, inside: SocketAddr, remote: SocketAddr) -> Shown<Connection> {
        let (seq, peer) = (fresh() << 8, fresh() << 8);
        let external = self.out(&tcp(inside, remote, SYN, seq, 0, &[]))?.from();
        self.back(&tcp(remote, external, SYN | ACK, peer, seq.wrapping_add(1), &[]), inside)?;
        let connection =
            Connection { inside, external, remote, seq: seq.wrapping_add(1), peer: peer.wrapping_add(1) };
        self.out(&tcp(inside, remote, ACK, connection.seq, connection.peer, &[]))?;
        Ok(connection)
    }

    /// What the contender says of this endpoint's session.
    ///
    /// # Errors
    /// See [`Running::word`].
    pub fn word(&mut self, protocol: u8, inside: SocketAddr) -> Shown<Word> {
        let word = self.gateway.word(protocol, inside)?;
        self.line(format!("      · it says of {inside}: {} s left {}", word.seconds, word.state));
        Ok(word)
    }

    /// The namespace that the gateway is in.
    pub fn gateway_netns(&self) -> &Netns {
        self.lab.host("gateway")
    }
}

/// A TCP connection as both of its ends know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connection {
    /// The inside end.
    pub inside: SocketAddr,
    /// Its external endpoint.
    pub external: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The inside end's next sequence number.
    pub seq: u32,
    /// The other end's next sequence number.
    pub peer: u32,
}

impl Connection {
    /// The next segment of the inside end.
    pub fn out(&mut self, flags: u8, data: &[u8]) -> Packet {
        let segment = tcp(self.inside, self.remote, flags | ACK, self.seq, self.peer, data);
        self.seq = self.seq.wrapping_add(length(flags, data));
        segment
    }

    /// The next segment of the other end.
    pub fn back(&mut self, flags: u8, data: &[u8]) -> Packet {
        let segment = tcp(self.remote, self.external, flags | ACK, self.peer, self.seq, data);
        self.peer = self.peer.wrapping_add(length(flags, data));
        segment
    }

    /// Data both ways and its acknowledgement, by the same external endpoint as before.
    ///
    /// # Errors
    /// [`Fault::NotMet`].
    pub fn works(&mut self, lab: &mut Trial) -> Shown {
        let segment = self.out(0, &data(24));
        let left = lab.out(&segment)?.from();
        demand(left == self.external, format!("the connection left as {left}, before as {}", self.external))?;
        let segment = self.back(0, &data(24));
        lab.back(&segment, self.inside)?;
        let segment = self.out(0, &[]);
        lab.out(&segment)?;
        Ok(())
    }
}

/// What a segment takes of the sequence space.
fn length(flags: u8, data: &[u8]) -> u32 {
    data.len() as u32 + u32::from(flags & 3 != 0)
}
