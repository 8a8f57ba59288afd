//! Hears of changes to interfaces, addresses, routes and neighbours.

use super::facts::{Neighbor, link_facts, neighbor_facts};
use super::{RECEIVE_BYTES, messages, named};
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

/// Multicast groups of rtnetlink that carry what [`Change`] tells.
const GROUPS: [u32; 6] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
];

/// Something changed in the namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// An interface appeared, changed or went away.
    Link {
        /// Its number.
        index: u32,
        /// Its name.
        name: String,
        /// Switched on.
        up: bool,
        /// Able to pass packets.
        running: bool,
        /// It is no more.
        gone: bool,
    },
    /// A neighbour was learnt, changed or forgotten.
    Neighbor {
        /// The interface it is behind.
        ifindex: u32,
        /// Its address.
        ip: IpAddr,
        /// What is known of it.
        neighbor: Neighbor,
        /// It was forgotten.
        gone: bool,
    },
    /// A route came or went: ask again.
    Route,
    /// An address came or went: ask again.
    Address,
    /// Changes came faster than they were read, and some are lost: ask everything again.
    Lost,
}

/// A stream of [`Change`]s in the namespace of the thread that opened it. Never blocks.
#[derive(Debug)]
pub struct Watcher {
    socket: Socket,
    pending: VecDeque<Change>,
    bytes: Vec<u8>,
}

impl Watcher {
    /// Starts to listen. Needs no privilege.
    ///
    /// # Errors
    /// The kernel's word: no descriptors left, or netlink forbidden by a seccomp filter.
    pub fn open() -> io::Result<Watcher> {
        let mut socket =
            Socket::new(NETLINK_ROUTE).map_err(|error| named("open a netlink socket", &error))?;
        socket.bind_auto().map_err(|error| named("bind the netlink socket", &error))?;
        socket.set_non_blocking(true)?;
        for group in GROUPS {
            socket.add_membership(group).map_err(|error| named("listen for network changes", &error))?;
        }
        Ok(Watcher { socket, pending: VecDeque::new(), bytes: Vec::with_capacity(RECEIVE_BYTES) })
    }

    /// The next change, or `None` when all were told.
    ///
    /// # Errors
    /// The kernel's word; the watcher is then of no more use.
    #[expect(clippy::should_implement_trait, reason = "an iterator would end for good at the first None")]
    pub fn next(&mut self) -> io::Result<Option<Change>> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                return Ok(Some(change));
            }
            self.bytes.clear();
            match self.socket.recv(&mut self.bytes, 0) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(Some(Change::Lost)),
                Err(error) => return Err(named("listen for network changes", &error)),
            }
            for message in messages(&self.bytes) {
                if let NetlinkPayload::InnerMessage(message) = message.payload {
                    self.pending.extend(change(&message));
                }
            }
        }
    }
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn change(message: &RouteNetlinkMessage) -> Option<Change> {
    match message {
        RouteNetlinkMessage::NewLink(link) => link_change(link, false),
        RouteNetlinkMessage::DelLink(link) => link_change(link, true),
        RouteNetlinkMessage::NewNeighbour(message) => neighbor_change(message, false),
        RouteNetlinkMessage::DelNeighbour(message) => neighbor_change(message, true),
        RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_) => Some(Change::Route),
        RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => Some(Change::Address),
        _ => None,
    }
}

fn link_change(message: &LinkMessage, gone: bool) -> Option<Change> {
    // A bridge tells of its ports by link messages of its own family, and "deleted" there means
    // only that the interface left the bridge.
    if message.header.interface_family == AddressFamily::Bridge {
        return None;
    }
    let facts = link_facts(message);
    Some(Change::Link { index: facts.index, name: facts.name, up: facts.up, running: facts.running, gone })
}

fn neighbor_change(message: &NeighbourMessage, gone: bool) -> Option<Change> {
    neighbor_facts(message).map(|(ifindex, ip, neighbor)| Change::Neighbor { ifindex, ip, neighbor, gone })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaving_a_bridge_is_not_going_away() {
        let mut message = LinkMessage::default();
        message.header.interface_family = AddressFamily::Bridge;
        assert_eq!(change(&RouteNetlinkMessage::DelLink(message.clone())), None);
        message.header.interface_family = AddressFamily::Unspec;
        assert!(matches!(
            change(&RouteNetlinkMessage::DelLink(message)),
            Some(Change::Link { gone: true, .. })
        ));
    }

    #[test]
    fn nothing_to_tell_does_not_block() {
        let mut watcher = Watcher::open().unwrap();
        while watcher.next().unwrap().is_some() {}
        assert_eq!(watcher.next().unwrap(), None);
    }
}
