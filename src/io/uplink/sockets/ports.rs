//! The ports that the guard leases and the uplink uses: of UDP a socket each, which is the
//! mapping's own. All that leaves from an outside port leaves there, and whoever answers to it is
//! heard there: mapping and filtering stay the translator's.
//!
//! TCP ports take no socket: a connection binds to its port when it is opened, and does without if
//! the host has given it to somebody else meanwhile.

use super::UDP;
use super::alias::Talks;
use crate::flow::{Endpoint, Time};
use crate::io::sys::datagram::{self, Cutting};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Socket, Type};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

/// How much may wait in a socket that is in use, in bytes, as far as the host allows.
const SOCKET_BUFFER: usize = 4 << 20;

/// How long an unused socket is kept where the ports are another's, and how often such are looked for.
const IDLE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_secs(30);

/// Clients of a published port of whom is remembered which address of the host they asked.
const ASKED: usize = 1024;

/// The leased ports, shared by guard and uplink.
#[derive(Clone, Debug)]
pub struct Ports(Rc<RefCell<Table>>);

/// The leased ports by number and by outside endpoint.
#[derive(Debug)]
pub struct Table {
    registry: Registry,
    /// Outside addresses that stand for any of the host's.
    anywhere: Vec<IpAddr>,
    /// Those that sockets are bound to for them; of other families to any.
    bound: Vec<IpAddr>,
    beside: bool,
    looked: Time,
    /// Sockets at most: in all, and of one outside address.
    room: (usize, usize),
    slots: Vec<Option<Port>>,
    vacant: Vec<usize>,
    by_outside: HashMap<Endpoint, usize, foldhash::fast::RandomState>,
    /// Sockets by outside address.
    counts: HashMap<IpAddr, usize>,
    /// Sockets that were given up for others.
    given_up: u64,
}

/// A leased UDP port.
#[derive(Debug)]
pub struct Port {
    /// Bound to it.
    pub socket: Socket,
    /// Towards remotes of the other family that an alias stands for, from whatever port the host gives.
    pub other: Option<Socket>,
    /// What the translator calls it.
    pub outside: Endpoint,
    /// It waits to be read.
    pub queued: bool,
    /// Its error queue may have something.
    pub complaints: bool,
    /// Whom it talks to by an alias.
    pub talks: Talks,
    /// When something was last sent.
    pub used: Time,
    cutting: Option<Cutting>,
    buffered: bool,
    /// If it is published: which address of the host each client asked.
    asked: Option<HashMap<SocketAddr, IpAddr, foldhash::fast::RandomState>>,
}

impl Ports {
    /// Ports whose sockets `registry` watches. Addresses of `anywhere` stand for any of the host's;
    /// others are bound to.
    /// With `beside` the ports are another's: sockets are bound to whatever port the host gives, and
    /// are given up when they are not used.
    pub fn new(registry: Registry, anywhere: Vec<IpAddr>, beside: bool) -> Self {
        let (slots, vacant, by_outside) = (Vec::new(), Vec::new(), HashMap::default());
        let (room, counts) = ((usize::MAX, usize::MAX), HashMap::new());
        let table = Table {
            registry,
            anywhere,
            bound: Vec::new(),
            beside,
            looked: Time::ZERO,
            room,
            slots,
            vacant,
            by_outside,
            counts,
            given_up: 0,
        };
        Ports(Rc::new(RefCell::new(table)))
    }

    /// Has sockets that are for any address of the host be bound to these, one of a family.
    pub fn bind(&self, bound: Vec<IpAddr>) {
        self.0.borrow_mut().bound = bound;
    }

    /// Sets how many sockets there may be at most: `all`, and of `one` outside address, so that no family
    /// takes all.
    pub fn set_room(&self, all: usize, one: usize) {
        self.0.borrow_mut().room = (all, one);
    }

    /// How many sockets were given up for others.
    pub fn given_up(&self) -> u64 {
        self.0.borrow().given_up
    }

    /// Takes a UDP port from the host. One that is taken already stays. Where there is no room and the ports
    /// are another's, those that were used longest ago make some.
    ///
    /// # Errors
    /// `EADDRINUSE` if the host has it, `EMFILE` if there are too many; the kernel's word otherwise.
    pub fn lease(&self, outside: Endpoint) -> io::Result<()> {
        self.0.borrow_mut().lease(outside)
    }

    /// Gives a UDP port back.
    pub fn release(&self, outside: Endpoint) {
        self.0.borrow_mut().release(outside);
    }

    /// Gives up sockets that have not been used for long, where the ports are another's.
    pub fn tick(&self, now: Time) {
        let mut table = self.0.borrow_mut();
        if !table.beside || now.since(table.looked) < LOOK {
            return;
        }
        table.looked = now;
        let idle = |port: &&Port| now.since(port.used) >= IDLE;
        let gone: Vec<Endpoint> =
            table.slots.iter().flatten().filter(idle).map(|port| port.outside).collect();
        gone.into_iter().for_each(|outside| table.release(outside));
    }

    /// When [`Ports::tick`] has something to do.
    pub fn next_deadline(&self) -> Option<Time> {
        let table = self.0.borrow();
        (table.beside && !table.by_outside.is_empty()).then_some(table.looked + LOOK)
    }

    /// A published port, or one that is none any more. True if it is leased.
    pub fn publish(&self, outside: Endpoint, on: bool) -> bool {
        let mut table = self.0.borrow_mut();
        let slot = table.by_outside.get(&outside).copied();
        let Some(port) = slot.and_then(|slot| table.port(slot)) else { return false };
        port.asked = on.then(HashMap::default);
        true
    }

    /// The address that a socket listens on for this outside endpoint.
    pub fn listening(&self, outside: Endpoint) -> SocketAddr {
        self.0.borrow().listening(outside)
    }

    /// The address that a socket for this outside endpoint is bound to.
    pub fn local(&self, outside: Endpoint) -> SocketAddr {
        self.0.borrow().local(outside)
    }

    /// Gives a leased port a way to remotes of the other family. One that it has stays.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn widen(&self, outside: Endpoint) -> io::Result<()> {
        self.0.borrow_mut().widen(outside)
    }

    /// Does something with the port in a slot, or with that of an outside endpoint.
    pub fn with<T>(&self, which: Which, work: impl FnOnce(usize, &mut Port) -> T) -> Option<T> {
        let mut table = self.0.borrow_mut();
        let slot = match which {
            Which::Slot(slot) => slot,
            Which::Outside(outside) => *table.by_outside.get(&outside)?,
        };
        table.port(slot).map(|port| work(slot, port))
    }
}

/// Names a leased port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// By its number, which is its token less the first.
    Slot(usize),
    /// By what the translator calls it.
    Outside(Endpoint),
}

impl Table {
    fn port(&mut self, slot: usize) -> Option<&mut Port> {
        self.slots.get_mut(slot)?.as_mut()
    }

    fn release(&mut self, outside: Endpoint) {
        let Some(slot) = self.by_outside.remove(&outside) else { return };
        self.slots[slot] = None;
        self.vacant.push(slot);
        if let Some(count) = self.counts.get_mut(&outside.ip) {
            *count = count.saturating_sub(1);
        }
    }

    /// Whether there may be another socket of this outside address.
    fn has_room(&self, ip: IpAddr) -> bool {
        let (all, one) = self.room;
        let most = all.min(UDP.len());
        self.by_outside.len() < most && (one >= all || self.of(ip) < one)
    }

    /// Gives up the eighth of an address's sockets that were used longest ago: where the ports are another's,
    /// most are of one question and its answer, and whoever sends again has a socket again.
    fn give_up_oldest(&mut self, ip: IpAddr) {
        let ports = self.slots.iter().flatten().filter(|port| port.outside.ip == ip);
        let mut ages: Vec<(Time, Endpoint)> = ports.map(|port| (port.used, port.outside)).collect();
        let count = ages.len().div_ceil(8);
        if count < ages.len() {
            ages.select_nth_unstable_by_key(count, |(used, _)| *used);
        }
        for (_, outside) in ages.into_iter().take(count) {
            self.release(outside);
            self.given_up += 1;
        }
    }

    /// How many sockets are of an outside address.
    fn of(&self, ip: IpAddr) -> usize {
        self.counts.get(&ip).copied().unwrap_or(0)
    }

    fn local(&self, outside: Endpoint) -> SocketAddr {
        let bound = self.bound.iter().find(|bound| bound.is_ipv4() == outside.ip.is_ipv4());
        match bound {
            Some(bound) if self.anywhere.contains(&outside.ip) => SocketAddr::new(*bound, outside.port),
            _ => self.listening(outside),
        }
    }

    fn listening(&self, outside: Endpoint) -> SocketAddr {
        let ip = match outside.ip {
            ip if !self.anywhere.contains(&ip) => ip,
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        SocketAddr::new(ip, outside.port)
    }

    fn widen(&mut self, outside: Endpoint) -> io::Result<()> {
        let Some(slot) = self.by_outside.get(&outside).copied() else { return Ok(()) };
        let Some(port) = self.slots.get_mut(slot).and_then(Option::as_mut) else { return Ok(()) };
        if port.other.is_some() {
            return Ok(());
        }
        let six = outside.ip.is_ipv4();
        let any: IpAddr = if six { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let local = SocketAddr::new(any, 0);
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM.nonblocking().cloexec(), None)?;
        if six {
            socket.set_only_v6(true)?;
        }
        socket.bind(&local.into())?;
        datagram::prepare(&socket, six, true)?;
        let token = Token(UDP.start + slot);
        self.registry.register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE)?;
        port.other = Some(socket);
        Ok(())
    }

    fn lease(&mut self, outside: Endpoint) -> io::Result<()> {
        if self.by_outside.contains_key(&outside) {
            return Ok(());
        }
        if self.beside && !self.has_room(outside.ip) {
            self.give_up_oldest(outside.ip);
        }
        if !self.has_room(outside.ip) {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        let slot = self.vacant.last().copied().unwrap_or(self.slots.len());
        let (mut local, six) = (self.local(outside), outside.ip.is_ipv6());
        if self.beside {
            local.set_port(0);
        }
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM.nonblocking().cloexec(), None)?;
        if six {
            socket.set_only_v6(true)?;
        }
        socket.bind(&local.into())?;
        datagram::prepare(&socket, six, true)?;
        let token = Token(UDP.start + slot);
        self.registry.register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE)?;
        let port = Port {
            socket,
            other: None,
            outside,
            queued: false,
            complaints: false,
            talks: Talks::default(),
            cutting: None,
            used: self.looked,
            buffered: false,
            asked: None,
        };
        if self.vacant.pop().is_some() {
            self.slots[slot] = Some(port);
        } else {
            self.slots.push(Some(port));
        }
        self.by_outside.insert(outside, slot);
        *self.counts.entry(outside.ip).or_default() += 1;
        Ok(())
    }
}

impl Port {
    /// The socket that reaches `host`.
    pub fn socket_to(&self, host: SocketAddr) -> &Socket {
        let other = self.other.as_ref().filter(|_| host.is_ipv4() != self.outside.ip.is_ipv4());
        other.unwrap_or(&self.socket)
    }

    /// Has what is sent next be fragmented or not.
    pub fn cut(&mut self, cutting: Cutting) {
        if self.cutting != Some(cutting) {
            // A kernel that refuses goes on as before; the packet is more than its DF bit.
            let _ = datagram::set_cutting(&self.socket, self.outside.ip.is_ipv6(), cutting);
            self.cutting = Some(cutting);
        }
        if !std::mem::replace(&mut self.buffered, true) {
            let _ = self.socket.set_recv_buffer_size(SOCKET_BUFFER);
            let _ = self.socket.set_send_buffer_size(SOCKET_BUFFER);
        }
    }

    /// Notes that `client` asked the address `here` of the host.
    pub fn note_asked(&mut self, client: SocketAddr, here: Option<IpAddr>) {
        if let (Some(asked), Some(here)) = (&mut self.asked, here) {
            if asked.len() >= ASKED
                && !asked.contains_key(&client)
                && let Some(other) = asked.keys().next().copied()
            {
                asked.remove(&other);
            }
            asked.insert(client, here);
        }
    }

    /// Which address of the host `client` asked, and is to be answered from.
    pub fn asked(&self, client: SocketAddr) -> Option<IpAddr> {
        self.asked.as_ref()?.get(&client).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(beside: bool, room: usize) -> (mio::Poll, Ports) {
        let poll = mio::Poll::new().unwrap();
        let ports = Ports::new(poll.registry().try_clone().unwrap(), vec![outside(0).ip], beside);
        ports.set_room(room, room);
        (poll, ports)
    }

    fn outside(port: u16) -> Endpoint {
        Endpoint::new(IpAddr::from([192, 0, 2, 1]), port)
    }

    fn has(ports: &Ports, port: u16) -> bool {
        ports.with(Which::Outside(outside(port)), |_, _| ()).is_some()
    }

    #[test]
    fn ports_beside_make_room_for_the_newest() {
        let (_poll, ports) = ports(true, 16);
        for port in 1..=200 {
            ports.lease(outside(port)).unwrap();
            let now = Time::from_millis(u64::from(port));
            ports.with(Which::Outside(outside(port)), |_, port| port.used = now).unwrap();
            // Somebody who goes on is not given up.
            ports.with(Which::Outside(outside(1)), |_, port| port.used = now).unwrap();
        }
        assert!(has(&ports, 1) && (190..=200).all(|port| has(&ports, port)));
        assert!(!has(&ports, 100));
        assert_eq!(ports.given_up(), 200 - (1..=200).filter(|port| has(&ports, *port)).count() as u64);
    }

    #[test]
    fn leased_ports_are_never_given_up() {
        let (_poll, ports) = ports(false, 2);
        // Any free port of the host.
        let mut taken = 0;
        for port in 40_000..60_000 {
            match ports.lease(outside(port)) {
                Ok(()) => taken += 1,
                Err(error) if error.raw_os_error() == Some(libc::EMFILE) => break,
                Err(_) => {}
            }
        }
        assert_eq!((taken, ports.given_up()), (2, 0));
    }

    #[test]
    fn one_client_more_makes_one_forgotten() {
        let (_poll, ports) = ports(true, 16);
        ports.lease(outside(1)).unwrap();
        assert!(ports.publish(outside(1), true));
        let client = |port: usize| SocketAddr::from((Ipv4Addr::LOCALHOST, port as u16));
        let here = IpAddr::from(Ipv4Addr::LOCALHOST);
        let known = ports.with(Which::Outside(outside(1)), |_, port| {
            (1..=ASKED + 1).for_each(|number| port.note_asked(client(number), Some(here)));
            port.note_asked(client(ASKED + 1), Some(here));
            assert_eq!(port.asked(client(ASKED + 1)), Some(here));
            (1..=ASKED + 1).filter(|number| port.asked(client(*number)).is_some()).count()
        });
        assert_eq!(known, Some(ASKED));
    }
}
