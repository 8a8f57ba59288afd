//! Whose MAC address a packet of the packet uplink goes to.
//!
//! The kernel stays the one who knows routes and speaks ARP and NDP. It is asked through netlink,
//! once for each destination (route) and each next hop (neighbour), and the answers are kept until
//! netlink tells of a change. Where it does not know a neighbour, the packet takes the kernel's own
//! way out (a raw IP socket), which makes the kernel ask for the MAC address; without such a socket
//! it waits while the kernel is made to ask (`uplink/asker.rs`).
//!
//! A question costs a few system calls, and an inside host can name a new destination with every
//! packet. So only so many are asked in a second; what comes beyond takes the kernel's way, which
//! is right for every packet and only slower.
//!
//! Packets sent past the kernel do not tell it that a neighbour is in use, so an entry turns
//! *stale* there. A stale entry is used, but one packet in thirty seconds goes the kernel's way and
//! makes it verify the neighbour.

use super::netlink::{Change, Neighbor, Netlink, Watcher};
use rustix::time::{ClockId, clock_gettime};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// Destinations whose next hop is remembered; when they are more, all are asked for again.
const DESTINATIONS: usize = 16_384;
/// Next hops whose MAC address is remembered; when they are more, all are asked for again.
const NEIGHBORS: usize = 4_096;
/// How often a stale neighbour in use is verified.
const VERIFY: Duration = Duration::from_secs(30);
/// How often the kernel is asked about a neighbour that it does not know.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Questions to the kernel at once.
const QUESTIONS: u32 = 512;
/// Questions to the kernel in a second, in the long run: a few percent of a processor.
const QUESTIONS_A_SECOND: u32 = 4096;
/// Changes read in one go; the rest waits for the next.
const CHANGES: usize = 256;

/// Where a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NextHop {
    /// To this MAC address.
    Mac([u8; 6]),
    /// The kernel's own way: it has to find the neighbour, or the route leads elsewhere.
    Kernel,
}

#[derive(Debug)]
struct Entry {
    mac: Option<[u8; 6]>,
    stale: bool,
    /// When a packet last went the kernel's way for this entry, or the kernel was last asked.
    asked: Option<Duration>,
}

impl Entry {
    fn new(neighbor: Option<Neighbor>, asked: Option<Duration>) -> Self {
        let usable = neighbor.filter(|neighbor| neighbor.state.usable());
        let stale = usable.is_some_and(|neighbor| neighbor.state.stale());
        Entry { mac: usable.and_then(|neighbor| neighbor.mac), stale, asked }
    }
}

/// The next hops behind one interface.
#[derive(Debug)]
pub struct NextHops {
    netlink: Netlink,
    watcher: Watcher,
    interface: u32,
    /// The destination before this one, while nothing about it is in doubt.
    last: Option<(IpAddr, [u8; 6])>,
    /// The next hop of a destination; `None` if the kernel's way is the only one.
    hops: HashMap<IpAddr, Option<IpAddr>, foldhash::fast::RandomState>,
    neighbors: HashMap<IpAddr, Entry, foldhash::fast::RandomState>,
    interface_changed: bool,
    budget: Budget,
    /// Packets that took the kernel's way because too much was asked already.
    not_asked: u64,
}

/// How many questions may still be asked.
#[derive(Debug)]
struct Budget {
    left: u32,
    refilled: Duration,
}

impl Budget {
    fn new(now: Duration) -> Self {
        Budget { left: QUESTIONS, refilled: now }
    }

    fn take(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.refilled).as_micros();
        let more = passed.saturating_mul(u128::from(QUESTIONS_A_SECOND)) / 1_000_000;
        if more > 0 {
            let more = u32::try_from(more).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(more).min(QUESTIONS);
            self.refilled = now;
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

impl NextHops {
    /// The next hops behind the interface numbered `interface`, in the caller's network namespace.
    ///
    /// # Errors
    /// The kernel's word about the netlink sockets.
    pub fn open(interface: u32) -> io::Result<Self> {
        Ok(NextHops {
            watcher: Watcher::open()?,
            netlink: Netlink::open()?,
            interface,
            last: None,
            hops: HashMap::default(),
            neighbors: HashMap::default(),
            interface_changed: false,
            budget: Budget::new(coarse_now()),
            not_asked: 0,
        })
    }

    /// Where a packet to `destination` goes. O(1) but for the first packet to it.
    pub fn find(&mut self, destination: IpAddr) -> NextHop {
        if let Some((last, mac)) = self.last
            && last == destination
        {
            return NextHop::Mac(mac);
        }
        let Some(hop) = self.hop(destination) else { return NextHop::Kernel };
        if self.neighbors.get(&hop).is_some_and(|entry| entry.mac.is_none()) {
            // The answer may be here already.
            self.listen();
        }
        if !self.neighbors.contains_key(&hop) && self.may_ask() {
            self.learn(hop);
        }
        let Some(entry) = self.neighbors.get_mut(&hop) else { return NextHop::Kernel };
        match entry.mac {
            Some(mac) if !entry.stale => {
                self.last = Some((destination, mac));
                NextHop::Mac(mac)
            }
            Some(mac) => {
                let now = coarse_now();
                if entry.asked.is_none_or(|asked| now.saturating_sub(asked) >= VERIFY) {
                    entry.asked = Some(now);
                    return NextHop::Kernel;
                }
                NextHop::Mac(mac)
            }
            None => {
                if entry.asked.is_none_or(|asked| coarse_now().saturating_sub(asked) >= ASK_AGAIN) {
                    self.neighbors.remove(&hop);
                }
                NextHop::Kernel
            }
        }
    }

    /// What is known of the way to `destination` without asking: the next hop, and its MAC address.
    pub fn known(&self, destination: IpAddr) -> Option<(IpAddr, Option<[u8; 6]>)> {
        let hop = (*self.hops.get(&destination)?)?;
        Some((hop, self.neighbors.get(&hop).and_then(|entry| entry.mac)))
    }

    fn hop(&mut self, destination: IpAddr) -> Option<IpAddr> {
        if let Some(hop) = self.hops.get(&destination) {
            return *hop;
        }
        if !self.may_ask() {
            return None;
        }
        let hop = match self.netlink.route_to(destination, Some(self.interface)) {
            Ok(route) if route.ifindex == self.interface => Some(route.gateway.unwrap_or(destination)),
            _ => None,
        };
        if self.hops.len() >= DESTINATIONS {
            self.hops.clear();
        }
        self.hops.insert(destination, hop);
        hop
    }

    fn learn(&mut self, hop: IpAddr) {
        let neighbor = self.netlink.neighbor(self.interface, hop).unwrap_or(None);
        let entry = Entry::new(neighbor, None);
        let asked = if entry.mac.is_none() { Some(coarse_now()) } else { None };
        if self.neighbors.len() >= NEIGHBORS {
            self.neighbors.clear();
        }
        self.neighbors.insert(hop, Entry { asked, ..entry });
    }

    fn may_ask(&mut self) -> bool {
        let may = self.budget.take(coarse_now());
        self.not_asked += u64::from(!may);
        may
    }

    /// Packets that took the kernel's way because the kernel was asked too much already.
    pub fn not_asked(&self) -> u64 {
        self.not_asked
    }

    /// Takes in what netlink has told. True if the interface itself changed since the last call.
    pub fn update(&mut self) -> bool {
        self.listen();
        std::mem::take(&mut self.interface_changed)
    }

    fn listen(&mut self) {
        for _ in 0..CHANGES {
            match self.watcher.next() {
                Ok(None) => break,
                Ok(Some(change)) => self.take_in(change),
                Err(_) => {
                    // Without news nothing may be believed for long.
                    self.take_in(Change::Lost);
                    if let Ok(watcher) = Watcher::open() {
                        self.watcher = watcher;
                    }
                    break;
                }
            }
        }
    }

    fn take_in(&mut self, change: Change) {
        match change {
            Change::Neighbor { ifindex, ip, neighbor, gone } if ifindex == self.interface => {
                self.last = None;
                if gone {
                    self.neighbors.remove(&ip);
                } else if let Some(entry) = self.neighbors.get_mut(&ip) {
                    *entry = Entry::new(Some(neighbor), entry.asked);
                }
            }
            Change::Neighbor { .. } => {}
            Change::Link { index, .. } => self.interface_changed |= index == self.interface,
            Change::Route | Change::Address => self.forget(),
            Change::Lost => {
                self.forget();
                self.interface_changed = true;
            }
        }
    }

    fn forget(&mut self) {
        self.last = None;
        self.hops.clear();
        self.neighbors.clear();
    }
}

impl AsFd for NextHops {
    /// Readable when [`NextHops::update`] has something to take in.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watcher.as_fd()
    }
}

/// A clock that costs no system call, a few milliseconds coarse. Only asked for about entries that
/// are in doubt.
fn coarse_now() -> Duration {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::netlink::NeighborState;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(1_000_000 + millis)
    }

    #[test]
    fn questions_are_bounded_and_come_back_with_time() {
        let mut budget = Budget::new(at(0));
        let taken = |budget: &mut Budget, now| (0..10_000).filter(|_| budget.take(now)).count();
        assert_eq!(taken(&mut budget, at(0)), QUESTIONS as usize);
        assert_eq!(taken(&mut budget, at(1)), 4);
        assert_eq!(taken(&mut budget, at(1)), 0);
        assert_eq!(taken(&mut budget, at(60_000)), QUESTIONS as usize);
        let steady: usize = (60_001..61_001).map(|milli| taken(&mut budget, at(milli))).sum();
        assert!(steady <= QUESTIONS_A_SECOND as usize, "{steady}");
    }

    /// A stale neighbour is used, and verified once in thirty seconds: the one packet that goes the
    /// kernel's way makes the kernel look.
    #[test]
    fn a_stale_neighbour_in_use_is_verified_now_and_then() {
        let ip = IpAddr::from([192, 0, 2, 1]);
        let mac = [2, 0, 0, 0, 0, 1];
        let known = |state| Neighbor { mac: Some(mac), state };
        let mut hops = NextHops::open(1).unwrap();
        hops.hops.insert(ip, Some(ip));
        hops.neighbors.insert(ip, Entry::new(Some(known(NeighborState::Stale)), None));
        assert_eq!(hops.find(ip), NextHop::Kernel, "the first packet verifies");
        assert_eq!(hops.find(ip), NextHop::Mac(mac), "the next ones do not wait for the outcome");
        assert_eq!(hops.find(ip), NextHop::Mac(mac));
        let entry = hops.neighbors.get_mut(&ip).unwrap();
        entry.asked = entry.asked.map(|asked| asked.saturating_sub(VERIFY));
        assert_eq!(hops.find(ip), NextHop::Kernel, "thirty seconds later again");
        let verified =
            Change::Neighbor { ifindex: 1, ip, neighbor: known(NeighborState::Reachable), gone: false };
        hops.take_in(verified);
        assert_eq!((hops.find(ip), hops.last), (NextHop::Mac(mac), Some((ip, mac))));
    }
}
