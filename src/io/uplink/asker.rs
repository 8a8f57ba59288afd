//! How the kernel is asked for a neighbour where no raw IP socket may be opened.
//!
//! Only the kernel speaks ARP and NDP here, and it does so when something of the host's own is to be
//! sent. So a datagram without content goes to the neighbour's discard port (RFC 863), with a TTL of
//! 1; what brought it about waits until netlink tells the MAC address, or until the kernel
//! would have given up.

use crate::flow::Time;
use crate::io::filter;
use crate::io::netlink::LinkFacts;
use crate::wire::Buffer;
use socket2::{Domain, Socket, Type};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Duration;

/// Where nobody reads.
const DISCARD: u16 = 9;
/// How long the kernel looks for a neighbour: three questions, a second apart.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often the same neighbour is asked for.
const AGAIN: Duration = Duration::from_secs(1);
/// Packets that wait, at most; and their bytes.
const PACKETS: usize = 256;
const BYTES: usize = 1 << 20;
/// Neighbours whose last question is remembered; when they are more, all may be asked for again.
const NEIGHBORS: usize = 1024;

/// A packet that waits for its next hop.
#[derive(Debug)]
pub struct Held {
    /// Where it goes in the end.
    pub destination: IpAddr,
    /// It is lost then.
    until: Time,
    /// The packet, from its IP header on.
    pub packet: Buffer,
}

/// Asks for neighbours of one interface, and keeps what waits for them.
#[derive(Debug)]
pub struct Asker {
    interface: u32,
    /// None where the host does not have the family.
    four: Option<Socket>,
    six: Option<Socket>,
    asked: HashMap<IpAddr, Time, foldhash::fast::RandomState>,
    held: VecDeque<Held>,
    bytes: usize,
    now: Time,
    /// Packets that found no room, or no neighbour in time.
    pub lost: u64,
}

impl Asker {
    /// One for the neighbours on `interface`.
    pub fn open(interface: &LinkFacts) -> Asker {
        Asker {
            interface: interface.index,
            four: socket(Domain::IPV4, &interface.name).ok(),
            six: socket(Domain::IPV6, &interface.name).ok(),
            asked: HashMap::default(),
            held: VecDeque::new(),
            bytes: 0,
            now: Time::ZERO,
            lost: 0,
        }
    }

    /// Tells the time, and drops what has waited too long.
    pub fn tick(&mut self, now: Time) {
        self.now = now;
        while let Some(held) = self.held.pop_front_if(|held| held.until <= now) {
            self.bytes -= held.packet.len();
            self.lost += 1;
        }
    }

    /// Has the kernel look for `neighbor`, or look again whether it is still there.
    pub fn ask(&mut self, neighbor: IpAddr) {
        if self.asked.get(&neighbor).is_some_and(|asked| self.now < *asked + AGAIN) {
            return;
        }
        if self.asked.len() >= NEIGHBORS {
            self.asked.clear();
        }
        self.asked.insert(neighbor, self.now);
        let (socket, address) = match neighbor {
            IpAddr::V4(_) => (&self.four, SocketAddr::new(neighbor, DISCARD)),
            IpAddr::V6(ip) => (&self.six, SocketAddrV6::new(ip, DISCARD, 0, self.interface).into()),
        };
        if let Some(socket) = socket {
            // Whether it could be sent or not, a neighbour that is found is told by netlink.
            let _ = socket.send_to(&[], &address.into());
        }
    }

    /// Keeps a packet until its next hop is known.
    ///
    /// # Errors
    /// `ENOBUFS` if too much waits already; the packet is lost.
    pub fn hold(&mut self, destination: IpAddr, packet: &Buffer) -> io::Result<()> {
        if self.held.len() >= PACKETS || self.bytes + packet.len() > BYTES {
            self.lost += 1;
            return Err(io::Error::from_raw_os_error(libc::ENOBUFS));
        }
        self.bytes += packet.len();
        let until = self.now + PATIENCE;
        let mut kept = Buffer::from_bytes(packet.bytes());
        kept.offload = packet.offload;
        self.held.push_back(Held { destination, until, packet: kept });
        Ok(())
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// What waits and has its next hop by now, as `known` says.
    pub fn take(&mut self, mut known: impl FnMut(IpAddr) -> bool) -> VecDeque<Held> {
        let held = std::mem::take(&mut self.held).into_iter();
        let (taken, left): (VecDeque<Held>, VecDeque<Held>) = held.partition(|held| known(held.destination));
        self.held = left;
        self.bytes -= taken.iter().map(|held| held.packet.len()).sum::<usize>();
        taken
    }

    /// When the next packet has waited too long.
    pub fn next_deadline(&self) -> Option<Time> {
        self.held.front().map(|held| held.until)
    }
}

/// A socket that sends to neighbours on the interface only, and hears nothing.
fn socket(domain: Domain, interface: &str) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), None)?;
    socket.attach_filter(&filter::nothing())?;
    // Kernels before 5.7 want a privilege for it, and routes then choose the interface.
    let _ = socket.bind_device(Some(interface.as_bytes()));
    match domain {
        Domain::IPV6 => socket.set_unicast_hops_v6(1)?,
        _ => socket.set_ttl_v4(1)?,
    }
    Ok(socket)
}
