//! The wires of a trial: frames out and in at the four places, and the look at every packet that comes
//! out of the gateway.

use super::neighbours::is_discovery;
use super::{GI, Trial, Who, X, four, six};
use crate::io::netlink::Family;
use crate::io::sys::wiretap::{VNET_HEADER, Wiretap};
use crate::lab::programs::now;
use crate::lab::selftest::packet::{Packet, checksum};
use crate::lab::selftest::{Fault, Shown};
use ipnet::{Ipv4Net, Ipv6Net};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How long an answer of the lab itself may take on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long after everything sent has been dealt with something may still come.
pub(super) const GRACE: Duration = Duration::from_millis(120);
/// How long a packet may take before the lab begins to ask whether it was dealt with.
pub(super) const PROMPT: Duration = Duration::from_millis(80);
/// Packets that may wait to be looked at, on each wire; the oldest are forgotten.
pub(super) const KEEP_PACKETS: usize = 20_000;

/// One end of a wire to the gateway.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place {
    /// Inside host A.
    A,
    /// Inside host B.
    B,
    /// Inside host C.
    C,
    /// All that is outside: router, servers, everybody else.
    World,
}

use Place::World;

/// The inside hosts.
pub const HOSTS: [Place; 3] = [Place::A, Place::B, Place::C];

impl Place {
    pub(super) fn word(self) -> &'static str {
        ["A", "B", "C", "world"][self as usize]
    }

    /// Its MAC address at first.
    pub(super) fn mac(self) -> [u8; 6] {
        [2, 0x5e, 0x1f, 0, 0, 0x0a + self as u8]
    }

    /// The host there; outside, the router.
    pub(super) fn host(self) -> Who {
        [Who::A, Who::B, Who::C, Who::R][self as usize]
    }

    pub(super) fn owns(self, address: IpAddr) -> bool {
        match (self, address) {
            // The lower half is the gateway's.
            (World, IpAddr::V4(ip)) => Ipv4Net::new_assert(four::R, 25).contains(&ip),
            (World, IpAddr::V6(ip)) => Ipv6Net::new_assert(six::R, 121).contains(&ip),
            _ => address == self.host(),
        }
    }
}

/// A wire's end.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) tap: Wiretap,
    pub(super) mac: [u8; 6],
    pub(super) gateway_mac: [u8; 6],
    pub(super) arrived: VecDeque<Packet>,
    /// Answers of ARP and neighbour discovery: who, and with which MAC.
    pub(super) answers: Vec<(IpAddr, [u8; 6])>,
    /// What neighbour and router discovery said beside answers and questions, and to which MAC.
    pub(super) heard: VecDeque<([u8; 6], Packet)>,
}

/// The place whose wire packets of this source come from.
pub fn place_of(address: impl PartialEq<Who>) -> Place {
    let own = HOSTS.into_iter().find(|place| address == place.host());
    own.unwrap_or(World)
}

impl Trial {
    /// Puts a packet on the wire at `place`.
    ///
    /// # Errors
    /// [`Fault::Broken`].
    pub fn send(&mut self, place: Place, packet: &Packet) -> Shown {
        self.line(format!("{:<5} → {packet}", place.word()));
        self.frame(place, &packet.bytes())
    }

    /// Puts bytes on the wire at `place` as the payload of a frame of this family to the gateway.
    ///
    /// # Errors
    /// [`Fault::Broken`].
    pub fn send_bytes(&mut self, place: Place, bytes: &[u8], what: &str) -> Shown {
        self.line(format!("{:<5} → {what}", place.word()));
        self.frame(place, bytes)
    }

    /// Puts a frame on the wire at `place` as it is, Ethernet header included.
    ///
    /// # Errors
    /// [`Fault::Broken`].
    pub fn send_frame(&mut self, place: Place, frame: &[u8], what: &str) -> Shown {
        self.line(format!("{:<5} → {what}", place.word()));
        self.ports[place as usize].tap.send(frame)?;
        Ok(())
    }

    fn frame(&mut self, place: Place, bytes: &[u8]) -> Shown {
        let port = &self.ports[place as usize];
        let mut frame = Vec::with_capacity(14 + bytes.len());
        frame.extend_from_slice(&port.gateway_mac);
        frame.extend_from_slice(&port.mac);
        let ethertype: u16 = if self.family == Family::Four { 0x0800 } else { 0x86dd };
        frame.extend_from_slice(&ethertype.to_be_bytes());
        frame.extend_from_slice(bytes);
        loop {
            match port.tap.send(&frame) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                result => return Ok(result?),
            }
        }
    }

    /// The Ethernet header of a frame from `place` to the gateway.
    pub fn ethernet(&self, place: Place, ethertype: [u8; 2]) -> Vec<u8> {
        let port = &self.ports[place as usize];
        [&port.gateway_mac[..], &port.mac[..], &ethertype[..]].concat()
    }

    /// Reads what has arrived everywhere, waiting for something until `deadline`.
    pub(super) fn pump(&mut self, deadline: Instant) -> Shown {
        let left = deadline.saturating_duration_since(now());
        let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let [a, b, c, world] = &self.ports;
        let mut fds = [a, b, c, world].map(|port| PollFd::from_borrowed_fd(port.tap.as_fd(), PollFlags::IN));
        match poll(&mut fds, Some(&left)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Fault::Broken(error.to_string())),
        }
        let mut buffer = vec![0; VNET_HEADER + 65_550];
        for place in [Place::A, Place::B, Place::C, World] {
            loop {
                match self.ports[place as usize].tap.recv(&mut buffer) {
                    Ok(caught) if !caught.outgoing => {
                        let frame = buffer.get(VNET_HEADER..caught.length).unwrap_or(&[]);
                        self.arrive(place, frame)?;
                    }
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    fn arrive(&mut self, place: Place, frame: &[u8]) -> Shown {
        let to = frame.get(..6).unwrap_or(&[]);
        // Other multicast is chatter of the gateway's kernel about groups.
        let ours = to == self.ports[place as usize].mac || to == [0xff; 6];
        match frame.get(12..14) {
            Some([8, 6]) => self.arrive_arp(place, frame),
            Some([0x86, 0xdd]) if is_discovery(&frame[14..]) => self.arrive_discovery(place, frame),
            Some([8, 0] | [0x86, 0xdd]) => {
                if ours {
                    self.judge(place, &frame[14..]);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Looks at a packet that arrived: is it one that no NAT may send?
    fn judge(&mut self, place: Place, bytes: &[u8]) {
        let Some(packet) = Packet::read(bytes) else {
            self.violations.push(format!(
                "{} bytes that are no IP packet came to {}",
                bytes.len(),
                place.word()
            ));
            return;
        };
        self.line(format!("{:>5} ⇒ {packet}", place.word()));
        let mut wrong = Vec::new();
        let inside = match packet.source {
            IpAddr::V4(source) => {
                if checksum(&[&bytes[..20 + packet.options.len()]]) != 0 {
                    wrong.push(format!("wrong IP header checksum: {packet}"));
                }
                Ipv4Net::new_assert(four::GI, four::PREFIX).contains(&source)
            }
            IpAddr::V6(source) => Ipv6Net::new_assert(six::GI, six::PREFIX).contains(&source),
        };
        let leaks = place == World && inside;
        if leaks && self.exempt != Some(packet.destination) {
            wrong.push(format!("an inside source address outside: {packet}"));
        }
        if !self.bad_sums_wanted {
            wrong.extend(packet.bad_sum());
        }
        for word in wrong {
            self.line(format!("      ! {word}"));
            self.violations.push(word);
        }
        let arrived = &mut self.ports[place as usize].arrived;
        if arrived.len() >= KEEP_PACKETS {
            arrived.pop_front();
        }
        arrived.push_back(packet);
    }

    /// The first packet at `place` that `wanted` agrees to, now or until `deadline`.
    pub(super) fn take(
        &mut self,
        place: Place,
        deadline: Instant,
        wanted: impl Fn(&Packet) -> bool,
    ) -> Shown<Option<Packet>> {
        loop {
            let arrived = &mut self.ports[place as usize].arrived;
            if let Some(found) = arrived.iter().position(&wanted) {
                return Ok(arrived.remove(found));
            }
            if now() >= deadline {
                return Ok(None);
            }
            self.pump(deadline)?;
        }
    }

    /// Waits for a packet at `place` that `wanted` agrees to; gives up when everything sent so far
    /// has been dealt with.
    ///
    /// # Errors
    /// [`Fault::Broken`].
    pub fn look(&mut self, place: Place, wanted: impl Fn(&Packet) -> bool) -> Shown<Option<Packet>> {
        if let Some(found) = self.take(place, now() + PROMPT, &wanted)? {
            return Ok(Some(found));
        }
        self.sync()?;
        self.take(place, now() + GRACE, wanted)
    }

    /// Waits for `time`, reading what arrives.
    ///
    /// # Errors
    /// [`Fault::Broken`].
    pub fn wait(&mut self, time: Duration) -> Shown {
        self.line(format!("      · {:.1} s pass", time.as_secs_f64()));
        let deadline = now() + time;
        while now() < deadline {
            self.pump(deadline)?;
        }
        Ok(())
    }

    /// Returns when the gateway has dealt with everything that was sent.
    ///
    /// # Errors
    /// [`Fault::Broken`] if it does not say any more where it is.
    pub fn sync(&mut self) -> Shown {
        let quiet = std::mem::replace(&mut self.quiet, false);
        self.resolve(World, self.ip(X))?;
        for _ in 0..2 {
            self.resolve(Place::A, self.ip(GI))?;
        }
        self.quiet = quiet;
        Ok(())
    }

    /// Forgets what has arrived so far.
    pub fn forget(&mut self) {
        self.ports.iter_mut().for_each(|port| port.arrived.clear());
    }

    /// Takes what has arrived at `place` by the time that everything sent has been dealt with.
    ///
    /// # Errors
    /// [`Fault::Broken`].
    pub fn collect(&mut self, place: Place) -> Shown<Vec<Packet>> {
        self.sync()?;
        let deadline = now() + GRACE;
        while now() < deadline {
            self.pump(deadline)?;
        }
        Ok(self.ports[place as usize].arrived.drain(..).collect())
    }
}
