//! The wires of a trial: frames out and in at the four places, ARP, and the look at every packet that
//! comes out of the gateway.

use super::{A, B, C, GI, R, Trial, X};
use crate::io::sys::wiretap::{VNET_HEADER, Wiretap};
use crate::lab::programs::now;
use crate::lab::selftest::packet::{Packet, checksum};
use crate::lab::selftest::{Fault, Shown};
use ipnet::Ipv4Net;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
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

    pub(super) fn owns(self, address: Ipv4Addr) -> bool {
        match self {
            Place::A => address == A,
            Place::B => address == B,
            Place::C => address == C,
            // The lower half is the gateway's.
            World => Ipv4Net::new_assert(R, 25).contains(&address),
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
    /// ARP answers: who, and with which MAC.
    pub(super) answers: Vec<(Ipv4Addr, [u8; 6])>,
}

/// The place whose wire packets of this source come from.
pub fn place_of(address: Ipv4Addr) -> Place {
    let own = HOSTS.into_iter().find(|place| place.owns(address));
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

    /// Puts bytes on the wire at `place` as the payload of an IPv4 frame to the gateway.
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
        frame.extend_from_slice(&[8, 0]);
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

    /// Gives the host at `place` another MAC, which it announces.
    ///
    /// # Errors
    /// [`Fault::Broken`].
    pub fn change_mac(&mut self, place: Place, address: Ipv4Addr, mac: [u8; 6]) -> Shown {
        self.ports[place as usize].mac = mac;
        let announcement = arp_frame(mac, [0xff; 6], 1, (mac, address), ([0; 6], address));
        self.send_frame(place, &announcement, "ARP announcement of a new MAC")
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
        match frame.get(12..14) {
            Some([8, 6]) => self.arrive_arp(place, frame),
            Some([8, 0]) => {
                let to = &frame[..6];
                // Other multicast is chatter of the gateway's kernel about groups.
                if to == self.ports[place as usize].mac || to == [0xff; 6] {
                    self.judge(place, &frame[14..]);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn arrive_arp(&mut self, place: Place, frame: &[u8]) -> Shown {
        let Some(arp) = frame.get(14..42) else { return Ok(()) };
        let address = |at: usize| Ipv4Addr::new(arp[at], arp[at + 1], arp[at + 2], arp[at + 3]);
        if arp[7] == 2 {
            let mut mac = [0; 6];
            mac.copy_from_slice(&arp[8..14]);
            self.ports[place as usize].answers.push((address(14), mac));
        } else if arp[7] == 1 && place.owns(address(24)) {
            let mut asker = [0; 6];
            asker.copy_from_slice(&arp[8..14]);
            let own = self.ports[place as usize].mac;
            let reply = arp_frame(own, asker, 2, (own, address(24)), (asker, address(14)));
            self.ports[place as usize].tap.send(&reply)?;
        }
        Ok(())
    }

    /// Looks at a packet that arrived: is it one that no NAT may send?
    fn judge(&mut self, place: Place, bytes: &[u8]) {
        let Some(packet) = Packet::read(bytes) else {
            self.violations.push(format!(
                "{} bytes that are no IPv4 packet came to {}",
                bytes.len(),
                place.word()
            ));
            return;
        };
        self.line(format!("{:>5} ⇒ {packet}", place.word()));
        let header = 20 + packet.options.len();
        let mut wrong = Vec::new();
        if checksum(&[&bytes[..header]]) != 0 {
            wrong.push(format!("wrong IP header checksum: {packet}"));
        }
        let leaks = place == World && Ipv4Net::new_assert(GI, 24).contains(&packet.source);
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
    /// [`Fault::Broken`] if it does not answer ARP any more.
    pub fn sync(&mut self) -> Shown {
        let quiet = std::mem::replace(&mut self.quiet, false);
        self.arp(World, X)?;
        for _ in 0..2 {
            self.arp(Place::A, GI)?;
        }
        self.quiet = quiet;
        Ok(())
    }

    /// Asks at `place` who has `address` and gives back the MAC, asking again while nobody answers.
    pub(super) fn arp(&mut self, place: Place, address: Ipv4Addr) -> Shown<[u8; 6]> {
        let deadline = now() + PATIENCE;
        loop {
            if let Some(mac) = self.arp_once(place, address, Duration::from_millis(500))? {
                return Ok(mac);
            }
            if now() > deadline {
                let fell = self.gateway.fell().unwrap_or_default();
                return Err(Fault::Broken(format!(
                    "nobody answers ARP for {address} at {}; {fell}",
                    place.word()
                )));
            }
        }
    }

    /// Asks once at `place` who has `address`.
    ///
    /// # Errors
    /// [`Fault::Broken`].
    pub fn arp_once(
        &mut self,
        place: Place,
        address: Ipv4Addr,
        patience: Duration,
    ) -> Shown<Option<[u8; 6]>> {
        let own = match place {
            Place::A => A,
            Place::B => B,
            Place::C => C,
            World => R,
        };
        let mac = self.ports[place as usize].mac;
        let question = arp_frame(mac, [0xff; 6], 1, (mac, own), ([0; 6], address));
        self.ports[place as usize].answers.clear();
        self.ports[place as usize].tap.send(&question)?;
        let deadline = now() + patience;
        loop {
            let answers = &self.ports[place as usize].answers;
            if let Some((_, mac)) = answers.iter().find(|(who, _)| *who == address) {
                return Ok(Some(*mac));
            }
            if now() >= deadline {
                return Ok(None);
            }
            self.pump(deadline)?;
        }
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

/// An ARP frame; 1 asks, 2 answers.
pub fn arp_frame(
    source: [u8; 6],
    destination: [u8; 6],
    operation: u8,
    sender: ([u8; 6], Ipv4Addr),
    target: ([u8; 6], Ipv4Addr),
) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend_from_slice(&destination);
    frame.extend_from_slice(&source);
    frame.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
    for (mac, address) in [sender, target] {
        frame.extend_from_slice(&mac);
        frame.extend_from_slice(&address.octets());
    }
    frame
}
