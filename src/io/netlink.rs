//! Asks the kernel about interfaces, addresses, routes and neighbours, and changes them, through
//! rtnetlink and without any helper program.
//!
//! A [`Netlink`] belongs to the network namespace of the thread that opened it and stays there. One
//! request is in flight at a time: it is sent, and the answers that carry its sequence number are
//! read until the kernel says that there are no more. What the kernel refuses becomes an
//! [`io::Error`] that names the operation and the interface; [`errno`] takes the number out again.
//! [`Watcher`] hears of changes that anybody makes.

mod facts;
mod routes;
mod watcher;

pub use facts::{Address, Family, LinkFacts, Neighbor, NeighborState, Route, WayTo};
pub use watcher::{Change, Watcher};

use facts::link_facts;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
    NlaBuffer, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeMulticastRouterType, In6AddrGenMode, InfoBridgePort, InfoData, InfoKind,
    InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use std::cell::Cell;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::{fmt, io};

/// The largest batch of answers the kernel puts into one datagram, with room to spare.
const RECEIVE_BYTES: usize = 64 * 1024;

/// What the kernel said no to.
#[derive(Debug)]
struct Refused {
    operation: String,
    errno: i32,
    because: Option<String>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.operation, io::Error::from_raw_os_error(self.errno))?;
        match &self.because {
            Some(because) => write!(f, ": {because}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Refused {}

/// The kernel's error number inside an error of this module, or of a plain system call.
pub fn errno(error: &io::Error) -> Option<i32> {
    error.raw_os_error().or_else(|| {
        error.get_ref().and_then(|inner| inner.downcast_ref::<Refused>()).map(|refused| refused.errno)
    })
}

fn refused(operation: impl Into<String>, errno: i32, because: Option<String>) -> io::Error {
    let kind = io::Error::from_raw_os_error(errno).kind();
    io::Error::new(kind, Refused { operation: operation.into(), errno, because })
}

fn named(operation: &str, error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(errno) => refused(operation, errno, None),
        None => io::Error::new(error.kind(), format!("{operation}: {error}")),
    }
}

/// A conversation with the kernel about one network namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: Cell<u32>,
}

impl Netlink {
    /// Opens a conversation about the calling thread's network namespace. Reading needs no
    /// privilege; changing needs `CAP_NET_ADMIN` there.
    ///
    /// # Errors
    /// The kernel's word: no descriptors left, or netlink forbidden by a seccomp filter.
    pub fn open() -> io::Result<Netlink> {
        let mut socket =
            Socket::new(NETLINK_ROUTE).map_err(|error| named("open a netlink socket", &error))?;
        socket.bind_auto().map_err(|error| named("bind the netlink socket", &error))?;
        socket
            .connect(&SocketAddr::new(0, 0))
            .map_err(|error| named("connect the netlink socket", &error))?;
        // Both only make error messages richer, so an old kernel may refuse them.
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_ext_ack(true);
        Ok(Netlink { socket, sequence: Cell::new(0) })
    }

    /// The interface called `name`, or `None`.
    ///
    /// # Errors
    /// As [`Netlink`] describes.
    pub fn link(&self, name: &str) -> io::Result<Option<LinkFacts>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_string()));
        self.one_link(message, &format!("look up interface {name}"))
    }

    /// The interface with this index, or `None`.
    ///
    /// # Errors
    /// As [`Netlink`] describes.
    pub fn link_by_index(&self, index: u32) -> io::Result<Option<LinkFacts>> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.one_link(message, &format!("look up interface number {index}"))
    }

    /// All interfaces of the namespace.
    ///
    /// # Errors
    /// As [`Netlink`] describes.
    pub fn links(&self) -> io::Result<Vec<LinkFacts>> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self.ask(request, NLM_F_DUMP, "list the interfaces")?;
        Ok(answers.iter().filter_map(new_link).map(link_facts).collect())
    }

    /// Makes a bridge. It starts down.
    ///
    /// # Errors
    /// `EEXIST` if the name is taken; otherwise as [`Netlink`] describes.
    pub fn add_bridge(&self, name: &str) -> io::Result<()> {
        self.add_link(name, vec![LinkInfo::Kind(InfoKind::Bridge)], &format!("add bridge {name}"))
    }

    /// Makes two interfaces joined by a wire. Both start down.
    ///
    /// # Errors
    /// `EEXIST` if a name is taken; otherwise as [`Netlink`] describes.
    pub fn add_veth(&self, a: &str, b: &str) -> io::Result<()> {
        let mut peer = LinkMessage::default();
        peer.attributes.push(LinkAttribute::IfName(b.to_string()));
        let info = vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)))];
        self.add_link(a, info, &format!("add veth pair {a}, {b}"))
    }

    /// Removes an interface.
    ///
    /// # Errors
    /// `ENODEV` if it is gone already; otherwise as [`Netlink`] describes.
    pub fn delete(&self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.change_named(RouteNetlinkMessage::DelLink(message), 0, index, "delete")
    }

    /// Switches an interface on or off.
    ///
    /// # Errors
    /// As [`Netlink`] describes.
    pub fn set_up(&self, index: u32, up: bool) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.change_mask = LinkFlags::Up;
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        self.change_named(
            RouteNetlinkMessage::SetLink(message),
            0,
            index,
            if up { "switch on" } else { "switch off" },
        )
    }

    /// Makes an interface a port of the bridge `master`, or of none.
    ///
    /// # Errors
    /// As [`Netlink`] describes.
    pub fn set_master(&self, index: u32, master: Option<u32>) -> io::Result<()> {
        self.set(index, LinkAttribute::Controller(master.unwrap_or(0)), "change the bridge of")
    }

    /// Sets the largest IP packet an interface takes, in bytes.
    ///
    /// # Errors
    /// As [`Netlink`] describes.
    pub fn set_mtu(&self, index: u32, mtu: u32) -> io::Result<()> {
        self.set(index, LinkAttribute::Mtu(mtu), "set the MTU of")
    }

    /// Sets how many packets may wait to be sent, which on a TAP is how many may wait to be read.
    ///
    /// # Errors
    /// As [`Netlink`] describes.
    pub fn set_txqlen(&self, index: u32, packets: u32) -> io::Result<()> {
        self.set(index, LinkAttribute::TxQueueLen(packets), "set the queue length of")
    }

    /// Sets an interface's own MAC address.
    ///
    /// # Errors
    /// As [`Netlink`] describes.
    pub fn set_mac(&self, index: u32, mac: [u8; 6]) -> io::Result<()> {
        self.set(index, LinkAttribute::Address(mac.to_vec()), "set the MAC address of")
    }

    /// Renames an interface, which must be down on most kernels.
    ///
    /// # Errors
    /// As [`Netlink`] describes.
    pub fn rename(&self, index: u32, name: &str) -> io::Result<()> {
        self.set(index, LinkAttribute::IfName(name.to_string()), "rename")
    }

    /// Moves an interface into another network namespace. It loses its addresses and goes down.
    ///
    /// # Errors
    /// As [`Netlink`] describes.
    pub fn move_to(&self, index: u32, netns: BorrowedFd<'_>) -> io::Result<()> {
        self.set(index, LinkAttribute::NetNsFd(netns.as_raw_fd()), "move to another namespace")
    }

    /// Whether an interface makes itself an IPv6 address of the link when it is switched on, with
    /// which go duplicate address detection, router solicitations and multicast reports.
    ///
    /// # Errors
    /// `EAFNOSUPPORT` without IPv6; otherwise as [`Netlink`] describes.
    pub fn set_link_local(&self, index: u32, makes: bool) -> io::Result<()> {
        let mode = if makes { In6AddrGenMode::Eui64 } else { In6AddrGenMode::None };
        let six = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)]);
        self.set(index, LinkAttribute::AfSpecUnspec(vec![six]), "set the address generation of")
    }

    /// Has a bridge send every multicast frame to this port of it, whatever it has learnt about
    /// who listens (`multicast_snooping`).
    ///
    /// # Errors
    /// `EINVAL` if the bridge does not learn that; otherwise as [`Netlink`] describes.
    pub fn flood_multicast_to(&self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let router = InfoBridgePort::MulticastRouter(BridgeMulticastRouterType::Permanent);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![router])),
        ]));
        self.change_named(RouteNetlinkMessage::NewLink(message), 0, index, "flood multicast to")
    }

    fn one_link(&self, message: LinkMessage, operation: &str) -> io::Result<Option<LinkFacts>> {
        match self.ask(RouteNetlinkMessage::GetLink(message), 0, operation) {
            Ok(answers) => Ok(answers.iter().find_map(new_link).map(link_facts)),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn add_link(&self, name: &str, info: Vec<LinkInfo>, operation: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_string()));
        message.attributes.push(LinkAttribute::LinkInfo(info));
        self.ask(RouteNetlinkMessage::NewLink(message), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, operation)
            .map(drop)
    }

    fn set(&self, index: u32, attribute: LinkAttribute, operation: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(attribute);
        self.change_named(RouteNetlinkMessage::SetLink(message), 0, index, operation)
    }

    /// Changes an interface; an error names it, which costs a look-up only then.
    fn change_named(
        &self,
        request: RouteNetlinkMessage,
        flags: u16,
        index: u32,
        operation: &str,
    ) -> io::Result<()> {
        let Err(error) = self.ask(request, NLM_F_ACK | flags, operation) else {
            return Ok(());
        };
        let name = match self.link_by_index(index) {
            Ok(Some(link)) => link.name,
            _ => format!("number {index}"),
        };
        let because = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<Refused>())
            .and_then(|inner| inner.because.clone());
        match errno(&error) {
            Some(errno) => Err(refused(format!("{operation} interface {name}"), errno, because)),
            None => Err(error),
        }
    }

    /// Sends one request and collects its answers: one for a look-up, all for a dump, none for a
    /// change that asks for an acknowledgement.
    fn ask(
        &self,
        request: RouteNetlinkMessage,
        flags: u16,
        operation: &str,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(|error| named(operation, &error))?;

        let until_done = flags & NLM_F_DUMP == NLM_F_DUMP;
        let mut answers = Vec::new();
        let mut bytes = Vec::with_capacity(RECEIVE_BYTES);
        loop {
            bytes.clear();
            match self.socket.recv(&mut bytes, 0) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(named(operation, &error)),
            }
            for message in messages(&bytes) {
                if message.header.sequence_number != sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(answers),
                            Some(code) => Err(refused(
                                operation,
                                code.get().saturating_abs(),
                                explanation(&error.header),
                            )),
                        };
                    }
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(refused(operation, done.code.saturating_abs(), None));
                    }
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::InnerMessage(answer) => {
                        answers.push(answer);
                        if !until_done {
                            return Ok(answers);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

fn new_link(answer: &RouteNetlinkMessage) -> Option<&LinkMessage> {
    match answer {
        RouteNetlinkMessage::NewLink(message) => Some(message),
        _ => None,
    }
}

/// The messages of one datagram. One that the parser does not understand is left out: a kernel
/// newer than the parser must not stop us from reading the rest.
fn messages(datagram: &[u8]) -> Vec<NetlinkMessage<RouteNetlinkMessage>> {
    const HEADER: usize = 16;
    let mut found = Vec::new();
    let mut rest = datagram;
    while rest.len() >= HEADER {
        let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        if length < HEADER || length > rest.len() {
            break;
        }
        if let Ok(message) = NetlinkMessage::deserialize(&rest[..length]) {
            found.push(message);
        }
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
    found
}

/// The kernel's own words about a refusal, which follow the 16 bytes of the refused header.
fn explanation(error: &[u8]) -> Option<String> {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let attributes = error.get(16..)?;
    NlasIterator::new(attributes)
        .flatten()
        .find(|attribute: &NlaBuffer<&[u8]>| attribute.kind() == NLMSGERR_ATTR_MSG)
        .map(|attribute| String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_known() {
        let netlink = Netlink::open().unwrap();
        let lo = netlink.link("lo").unwrap().unwrap();
        assert_eq!(netlink.link_by_index(lo.index).unwrap().unwrap().name, "lo");
        assert!(netlink.links().unwrap().contains(&lo));
    }

    #[test]
    fn an_unknown_interface_is_none() {
        assert_eq!(Netlink::open().unwrap().link("no-such-link").unwrap(), None);
    }

    #[test]
    fn a_refusal_names_operation_interface_and_number() {
        let error = Netlink::open().unwrap().set_mtu(0x7fff_fff0, 1500).unwrap_err();
        assert!(error.to_string().starts_with("set the MTU of interface number 2147483632: "), "{error}");
        assert!(matches!(errno(&error), Some(libc::ENODEV | libc::EPERM)));
    }

    #[test]
    fn truncated_datagrams_are_harmless() {
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetLink(LinkMessage::default()));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        for length in 0..bytes.len() {
            assert!(messages(&bytes[..length]).is_empty());
        }
        assert_eq!(messages(&bytes).len(), 1);
    }
}
