//! Who has which address on the wires of a trial: ARP, and neighbour discovery over IPv6 (RFC 4861).

use super::wires::{PATIENCE, Place};
use super::{Named, Trial, Who};
use crate::io::netlink::Family;
use crate::lab::programs::now;
use crate::lab::selftest::packet::{ICMP6, Packet, icmp};
use crate::lab::selftest::{Fault, Shown};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Type of a router advertisement.
pub const ROUTER_ADVERTISEMENT: u8 = 134;
/// Type of a neighbour solicitation.
const SOLICITATION: u8 = 135;
/// Type of a neighbour advertisement.
const ADVERTISEMENT: u8 = 136;
/// Things heard that are kept, on each wire.
const KEEP_HEARD: usize = 1000;

/// Whether these bytes of an IPv6 frame are of neighbour or router discovery, or of multicast groups.
pub(super) fn is_discovery(bytes: &[u8]) -> bool {
    let Some(packet) = Packet::read(bytes) else { return false };
    packet.protocol == ICMP6 && matches!(packet.kind(), 130..=137 | 143)
}

/// The group of those whose address ends like this one's, and its MAC (RFC 4291 section 2.7.1).
fn solicited(target: Ipv6Addr) -> (Ipv6Addr, [u8; 6]) {
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    (group, [0x33, 0x33, 0xff, a, b, c])
}

/// A frame with a message of neighbour discovery in it.
fn discovery(source: [u8; 6], destination: [u8; 6], packet: &Packet) -> Vec<u8> {
    let packet = Packet { ttl: 255, ..packet.clone() };
    [&destination[..], &source, &[0x86, 0xdd], &packet.bytes()].concat()
}

/// The address asked for or told of, and the option that follows: a MAC.
fn body(target: Ipv6Addr, option: u8, mac: [u8; 6]) -> Vec<u8> {
    [&target.octets()[..], &[option, 1], &mac].concat()
}

impl Trial {
    pub(super) fn arrive_arp(&mut self, place: Place, frame: &[u8]) -> Shown {
        let Some(arp) = frame.get(14..42) else { return Ok(()) };
        let address = |at: usize| Ipv4Addr::new(arp[at], arp[at + 1], arp[at + 2], arp[at + 3]);
        if arp[7] == 2 {
            let mut mac = [0; 6];
            mac.copy_from_slice(&arp[8..14]);
            self.ports[place as usize].answers.push((address(14).into(), mac));
        } else if arp[7] == 1 && place.owns(address(24).into()) {
            let mut asker = [0; 6];
            asker.copy_from_slice(&arp[8..14]);
            let own = self.ports[place as usize].mac;
            let reply = arp_frame(own, asker, 2, (own, address(24)), (asker, address(14)));
            self.ports[place as usize].tap.send(&reply)?;
        }
        Ok(())
    }

    /// Answers who asks for an address of this place, and keeps what is told.
    pub(super) fn arrive_discovery(&mut self, place: Place, frame: &[u8]) -> Shown {
        let Some(packet) = Packet::read(&frame[14..]) else { return Ok(()) };
        let target: Option<[u8; 16]> = packet.payload.get(8..24).and_then(|bytes| bytes.try_into().ok());
        let port = &mut self.ports[place as usize];
        match (packet.kind(), target.map(Ipv6Addr::from)) {
            (ADVERTISEMENT, Some(target)) if packet.ttl == 255 => {
                let option = packet.payload.get(24..32).filter(|option| option.starts_with(&[2, 1]));
                let said = option.and_then(|option| option.get(2..8)?.try_into().ok());
                if let Some(mac) = said {
                    port.answers.push((target.into(), mac));
                }
            }
            (SOLICITATION, Some(target)) if packet.ttl == 255 && place.owns(target.into()) => {
                let mut asker = [0; 6];
                asker.copy_from_slice(&frame[6..12]);
                let (own, body) = (port.mac, body(target, 2, port.mac));
                // Solicited, and to override what was known.
                let reply = icmp(target, packet.source, ADVERTISEMENT, 0, [0x60, 0, 0, 0], &body);
                port.tap.send(&discovery(own, asker, &reply))?;
            }
            _ => {
                let mut to = [0; 6];
                to.copy_from_slice(&frame[..6]);
                if port.heard.len() >= KEEP_HEARD {
                    port.heard.pop_front();
                }
                port.heard.push_back((to, packet));
            }
        }
        Ok(())
    }

    /// Asks at `place` who has `address` and gives back the MAC, asking again while nobody answers.
    pub(super) fn resolve(&mut self, place: Place, address: IpAddr) -> Shown<[u8; 6]> {
        let deadline = now() + PATIENCE;
        loop {
            if let Some(mac) = self.ask_once(place, address, Duration::from_millis(500))? {
                return Ok(mac);
            }
            if now() > deadline {
                let fell = self.gateway.fell().unwrap_or_default();
                let place = place.word();
                return Err(Fault::Broken(format!("nobody says at {place} where {address} is; {fell}")));
            }
        }
    }

    /// Asks once at `place` who has this address, by ARP or neighbour discovery.
    ///
    /// # Errors
    /// [`Fault::Broken`].
    pub fn ask_once(
        &mut self,
        place: Place,
        address: impl Named,
        patience: Duration,
    ) -> Shown<Option<[u8; 6]>> {
        let (own, address) = (self.ip(place.host()), self.ip(address));
        let port = &mut self.ports[place as usize];
        let mac = port.mac;
        let question = match (own, address) {
            (IpAddr::V4(own), IpAddr::V4(address)) => {
                arp_frame(mac, [0xff; 6], 1, (mac, own), ([0; 6], address))
            }
            (own, IpAddr::V6(address)) => {
                let (group, to) = solicited(address);
                discovery(mac, to, &icmp(own, group, SOLICITATION, 0, [0; 4], &body(address, 1, mac)))
            }
            (own, address) => return Err(Fault::Broken(format!("{own} cannot ask for {address}"))),
        };
        port.answers.clear();
        port.tap.send(&question)?;
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

    /// Gives the host at `place` another MAC, which it announces.
    ///
    /// # Errors
    /// [`Fault::Broken`].
    pub fn change_mac(&mut self, place: Place, mac: [u8; 6]) -> Shown {
        self.ports[place as usize].mac = mac;
        match self.ip(place.host()) {
            IpAddr::V4(own) => {
                let announcement = arp_frame(mac, [0xff; 6], 1, (mac, own), ([0; 6], own));
                self.send_frame(place, &announcement, "ARP announcement of a new MAC")
            }
            IpAddr::V6(own) => {
                let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
                let told = icmp(own, all, ADVERTISEMENT, 0, [0x20, 0, 0, 0], &body(own, 2, mac));
                let frame = discovery(mac, [0x33, 0x33, 0, 0, 0, 1], &told);
                self.send_frame(place, &frame, "unsolicited neighbour advertisement of a new MAC")
            }
        }
    }

    /// Claims at `place` to be at somebody's address, with the hop limit that the claim arrives with.
    ///
    /// # Errors
    /// [`Fault::Broken`].
    pub fn claim(&mut self, place: Place, who: Who, to: Ipv6Addr, hops: u8) -> Shown {
        let (mac, gateway) = (self.ports[place as usize].mac, self.ports[place as usize].gateway_mac);
        let IpAddr::V6(own) = self.ip(who) else {
            return Err(Fault::Broken(format!("{who} has no IPv6 address here")));
        };
        let told = icmp(own, to, ADVERTISEMENT, 0, [0x60, 0, 0, 0], &body(own, 2, mac));
        let to = if to.is_multicast() { [0x33, 0x33, 0, 0, 0, 1] } else { gateway };
        let packet = Packet { ttl: hops, ..told };
        let frame = [&to[..], &mac, &[0x86, 0xdd], &packet.bytes()].concat();
        self.send_frame(place, &frame, &format!("a claim to be {who}, hop limit {hops}"))
    }

    /// The first message of discovery heard at `place`, neither answer nor question about it, that
    /// `wanted` agrees to.
    pub fn overheard(&mut self, place: Place, wanted: impl Fn(&Packet) -> bool) -> Option<Packet> {
        let heard = &mut self.ports[place as usize].heard;
        let found = heard.iter().position(|(_, packet)| wanted(packet))?;
        heard.remove(found).map(|(_, packet)| packet)
    }

    /// Asks at an inside place for routers and gives back the first advertisement, its Ethernet
    /// destination, and all that it says.
    ///
    /// # Errors
    /// [`Fault::Broken`].
    pub fn solicit_router(&mut self, place: Place, patience: Duration) -> Shown<Option<([u8; 6], Packet)>> {
        let mac = self.ports[place as usize].mac;
        let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
        let own = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5e, 0x1f00, 0, 0x0a + place as u16);
        let asked = icmp(own, all, 133, 0, [0; 4], &[1, 1, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]]);
        self.ports[place as usize].heard.clear();
        let frame = discovery(mac, [0x33, 0x33, 0, 0, 0, 2], &asked);
        self.send_frame(place, &frame, "router solicitation")?;
        let deadline = now() + patience;
        loop {
            let heard = &mut self.ports[place as usize].heard;
            let found = heard.iter().position(|(_, packet)| packet.kind() == ROUTER_ADVERTISEMENT);
            if let Some(found) = found {
                return Ok(heard.remove(found));
            }
            if now() >= deadline || self.family == Family::Four {
                return Ok(None);
            }
            self.pump(deadline)?;
        }
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
