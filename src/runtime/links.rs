//! The worker's links: sends what a link can take, and keeps count of those that are down.

use super::poller::{LINKS, Poller};
use crate::flow::{Alias, Domain, Endpoint, LinkId, LinkInfo, Protocol, Time};
use crate::gateway::OUTSIDE;
use crate::io::filter::{Thinned, Wanted};
use crate::io::uplink::ways::Ways;
use crate::io::{Link, deliver};
use crate::wire::Buffer;
use std::fmt;
use std::io::ErrorKind;
use std::net::IpAddr;

/// What a receive came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Turned {
    /// A packet is in the buffer.
    Packet,
    /// One was there that cannot be used; it is counted by the link.
    Unusable,
    /// None is there.
    Empty,
    /// The link is down, and was not before; why.
    Down(String),
}

struct Slot {
    id: LinkId,
    link: Box<dyn Link>,
    info: LinkInfo,
    down: bool,
}

/// The links of a worker, by [`LinkId`].
pub struct Links {
    slots: Vec<Slot>,
    /// Where in `slots` what is sent to a link goes, by its number.
    places: [usize; LINKS],
    scratch: Buffer,
    news: bool,
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.slots.iter().map(|slot| slot.link.name())).finish()
    }
}

impl Links {
    /// These links, the inside and the uplink among them. What has no link of its own is reached by the
    /// uplink.
    pub fn new(links: Vec<(LinkId, Box<dyn Link>)>) -> Self {
        let slot = |(id, link): (LinkId, Box<dyn Link>)| Slot { id, info: link.info(), link, down: false };
        let slots: Vec<Slot> = links.into_iter().map(slot).collect();
        let at = |id| slots.iter().position(|slot| slot.id == LinkId(id));
        let places = std::array::from_fn(|id| at(id as u8).or(at(OUTSIDE.0)).unwrap_or_default());
        Links { slots, places, scratch: Buffer::new(), news: false }
    }

    /// Has the poller watch every link.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn watch(&self, poller: &mut Poller) -> std::io::Result<()> {
        for slot in &self.slots {
            let id = slot.id;
            for fd in slot.link.readable() {
                poller.watch_link(id, fd)?;
            }
        }
        Ok(())
    }

    /// Tells the links the time.
    pub fn tick(&mut self, now: Time) {
        self.slots.iter_mut().for_each(|slot| slot.link.tick(now));
    }

    /// When a link wants to be told the time next.
    pub fn next_deadline(&self) -> Option<Time> {
        self.slots.iter().filter_map(|slot| slot.link.next_deadline()).min()
    }

    /// Has the poller look at links that have something which no descriptor tells of.
    pub fn wake(&self, poller: &mut Poller) {
        for slot in &self.slots {
            let id = slot.id;
            if slot.link.pending() && !slot.down {
                poller.set_ready(id, true);
            }
        }
    }

    /// Has the uplink listen on a published endpoint, or do so no more. Sockets that stand beside
    /// another uplink, for aliases, never do: the guard holds the port.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn publish(&mut self, protocol: Protocol, outside: Endpoint, on: bool) -> std::io::Result<()> {
        let uplink = self.slots.get_mut(usize::from(OUTSIDE.0));
        uplink.map_or(Ok(()), |slot| slot.link.publish(protocol, outside, on))
    }

    /// Tells links of changed aliases.
    pub fn set_aliases(&mut self, aliases: &[Alias]) {
        self.slots.iter_mut().for_each(|slot| slot.link.set_aliases(aliases));
    }

    /// Tells links whose names are asked elsewhere.
    pub fn set_domains(&mut self, domains: &[Domain]) {
        self.slots.iter_mut().for_each(|slot| slot.link.set_domains(domains));
    }

    /// See [`Link::leave_lost`].
    pub fn leave_lost(&mut self, present: &[IpAddr]) -> Vec<(IpAddr, usize)> {
        self.slots.iter_mut().flat_map(|slot| slot.link.leave_lost(present)).collect()
    }

    /// The place of a link.
    fn number(&self, id: LinkId) -> usize {
        self.places.get(usize::from(id.0)).copied().unwrap_or(usize::MAX)
    }

    /// Receives one packet.
    pub fn receive(&mut self, id: LinkId, packet: &mut Buffer) -> Turned {
        let number = self.number(id);
        let Some(slot) = self.slots.get_mut(number) else { return Turned::Empty };
        match slot.link.recv(packet) {
            Ok(()) => Turned::Packet,
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => Turned::Empty,
                ErrorKind::Interrupted => Turned::Unusable,
                _ if slot.down => Turned::Empty,
                _ => {
                    slot.down = true;
                    Turned::Down(error.to_string())
                }
            },
        }
    }

    /// Sends a packet as the link can take it. False if it, or a part of it, was lost.
    pub fn send(&mut self, id: LinkId, packet: &mut Buffer) -> bool {
        let number = self.number(id);
        let Some(slot) = self.slots.get_mut(number) else { return false };
        !slot.down && deliver(slot.link.as_mut(), packet, &mut self.scratch).is_ok()
    }

    /// Hands over what links have gathered; how many packets were lost.
    pub fn flush(&mut self) -> usize {
        self.slots.iter_mut().map(|slot| slot.link.flush()).filter(Result::is_err).count()
    }

    /// The IP packet in a buffer of this link.
    pub fn ip<'a>(&self, id: LinkId, packet: &'a Buffer) -> &'a [u8] {
        let header = self.slots.get(self.number(id)).map_or(0, |slot| usize::from(slot.info.header));
        packet.bytes().get(header..).unwrap_or_default()
    }

    /// The link's name.
    pub fn name(&self, id: LinkId) -> String {
        self.slots.get(self.number(id)).map_or_else(String::new, |slot| slot.link.name().to_owned())
    }

    /// Something has changed among the interfaces.
    pub fn changed(&mut self) {
        self.news = true;
    }

    /// Whether something has changed since links were last revived.
    pub fn news(&self) -> bool {
        self.news
    }

    /// Whether a link is down.
    pub fn any_down(&self) -> bool {
        self.slots.iter().any(|slot| slot.down)
    }

    /// Opens links that are down; those that are up again.
    pub fn revive(&mut self, poller: &mut Poller) -> Vec<LinkId> {
        self.news = false;
        let mut up = Vec::new();
        for slot in &mut self.slots {
            let id = slot.id;
            if slot.down && slot.link.reopen().is_ok() {
                slot.down = false;
                slot.info = slot.link.info();
                for fd in slot.link.readable() {
                    // A descriptor that stayed open is watched already.
                    let _ = poller.watch_link(id, fd);
                }
                poller.set_ready(id, true);
                up.push(id);
            }
        }
        up
    }

    /// What the uplink can take, as it is at the moment.
    pub fn outside_info(&mut self) -> Option<LinkInfo> {
        let number = self.number(OUTSIDE);
        let slot = self.slots.get_mut(number)?;
        slot.info = slot.link.info();
        Some(slot.info)
    }

    /// Puts a link that was opened anew in the place of one that is gone.
    ///
    /// # Errors
    /// The kernel's word; the new link is then dropped.
    pub fn replace(&mut self, id: LinkId, link: Box<dyn Link>, poller: &mut Poller) -> std::io::Result<()> {
        let number = self.number(id);
        let Some(slot) = self.slots.get_mut(number) else { return Ok(()) };
        for fd in link.readable() {
            poller.watch_link(id, fd)?;
        }
        *slot = Slot { id, info: link.info(), link, down: false };
        Ok(())
    }

    /// Puts another uplink in front of the one that there is, which goes on for packets of `addresses`.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn add_way(
        &mut self,
        way: Box<dyn Link>,
        addresses: Vec<IpAddr>,
        poller: &mut Poller,
    ) -> std::io::Result<()> {
        for fd in way.readable() {
            poller.watch_link(OUTSIDE, fd)?;
        }
        let at = self.number(OUTSIDE);
        if at < self.slots.len() {
            let before = self.slots.remove(at).link;
            let link: Box<dyn Link> = Box::new(Ways::new(way, before, addresses));
            self.slots.insert(at, Slot { id: OUTSIDE, info: link.info(), link, down: false });
        }
        Ok(())
    }

    /// Says which addresses are on their way out.
    pub fn retire(&mut self, addresses: &[IpAddr]) {
        self.slots.iter_mut().for_each(|slot| slot.link.retire(addresses));
    }

    /// Closes one of the interfaces that a link joins; how many are left.
    pub fn part(&mut self, id: LinkId, port: usize) -> usize {
        let number = self.number(id);
        self.slots.get_mut(number).map_or(0, |slot| slot.link.part(port))
    }

    /// Whether the link is down.
    pub fn is_down(&self, id: LinkId) -> bool {
        self.slots.get(self.number(id)).is_some_and(|slot| slot.down)
    }

    /// Has links that filter let in these packets.
    ///
    /// # Errors
    /// The kernel's word, of the first link that could not.
    pub fn set_wanted(&mut self, wanted: &Wanted, poller: &mut Poller) -> std::io::Result<()> {
        let mut result = Ok(());
        for slot in &mut self.slots {
            let id = slot.id;
            result = result.and(slot.link.set_wanted(wanted));
            for fd in slot.link.readable() {
                // Most are watched already.
                let _ = poller.watch_link(id, fd);
            }
        }
        result
    }

    /// Whether the link leaves unread what is not wanted.
    pub fn filters(&self, id: LinkId) -> bool {
        self.slots.get(self.number(id)).is_some_and(|slot| slot.link.filters())
    }

    /// Has a link read few of these frames.
    ///
    /// # Errors
    /// See [`Link::thin_out`].
    pub fn thin_out(&mut self, id: LinkId, thinned: &Thinned) -> std::io::Result<()> {
        let number = self.number(id);
        self.slots.get_mut(number).map_or(Ok(()), |slot| slot.link.thin_out(thinned))
    }

    /// What the links have lost, `link: word`.
    pub fn counters(&mut self) -> Vec<(String, u64)> {
        let named = |slot: &mut Slot| {
            let name = slot.link.name().to_owned();
            let counters = slot.link.counters();
            counters.into_iter().map(move |(word, count)| (format!("{name}: {word}"), count))
        };
        self.slots.iter_mut().flat_map(named).collect()
    }
}
