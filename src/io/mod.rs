//! Bytes in and out of the process: devices and sockets. Reads headers where a socket makes it,
//! never sees a translator.

pub mod deliver;
pub mod ending;
pub mod filter;
pub mod guard;
pub mod guest;
pub mod listening;
pub mod memory;
pub mod netlink;
pub mod nexthop;
pub mod portlog;
pub mod protect;
pub mod proxy;
pub mod relay;
pub mod resolver;
pub mod setup;
pub mod switch;
pub mod sys;
pub mod tap;
pub mod uplink;
pub mod virtio;

pub use deliver::deliver;

use crate::flow::{Alias, Domain, Endpoint, LinkInfo, Protocol, Time};
use crate::wire::Buffer;
use filter::{Thinned, Wanted};
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

/// An interface that packets come from and go to. A `send` or `recv` never blocks.
pub trait Link {
    /// What to call it in messages: `tapnat0`, `eth0 (packet)`.
    fn name(&self) -> &str;

    /// What it can take.
    fn info(&self) -> LinkInfo;

    /// Receives one packet into `buffer`, replacing what is there, offload included.
    /// `buffer.bytes()` then starts with the link header if [`LinkInfo::header`] is not 0, else
    /// with the IP header.
    ///
    /// # Errors
    /// `WouldBlock` when there is none now. `Interrupted` when a packet was consumed that cannot be
    /// used: counted in [`Link::counters`], call again. Anything else: the link is gone or down.
    fn recv(&mut self, buffer: &mut Buffer) -> io::Result<()>;

    /// Sends the packet in `buffer`, which starts as `recv` leaves it and asks for nothing that
    /// [`LinkInfo`] does not promise (see [`deliver()`]). The buffer's contents are undefined after.
    ///
    /// # Errors
    /// The kernel's word; the packet is lost. `EMSGSIZE` if it is above the path's MTU.
    fn send(&mut self, buffer: &mut Buffer) -> io::Result<()>;

    /// Hands over to the kernel what `send` may have gathered. Called at the end of each turn.
    ///
    /// # Errors
    /// The kernel's word about the first packet that was lost.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Says which of the addresses that packets leave with are on their way out: what is only there
    /// for others may go.
    fn retire(&mut self, _addresses: &[IpAddr]) {}

    /// Descriptors whose readability means that `recv` has something.
    fn readable(&self) -> Vec<BorrowedFd<'_>>;

    /// Opens the link again after an error of `recv` that said it is gone or down. The
    /// descriptors of [`Link::readable`] may be others then.
    ///
    /// # Errors
    /// It is still gone or down.
    fn reopen(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Does what time asks for. Called in every turn, before anything is received or sent in it: a
    /// link knows no other time.
    fn tick(&mut self, now: Time) {
        let _ = now;
    }

    /// When [`Link::tick`] has something to do that should not wait for the next packet.
    fn next_deadline(&self) -> Option<Time> {
        None
    }

    /// Whether `recv` may have something although no descriptor says so: what was sent, or time, has
    /// brought it about.
    fn pending(&self) -> bool {
        false
    }

    /// Listens on the published endpoint `outside`, or does so no more, where packets to it do not come
    /// by themselves.
    ///
    /// # Errors
    /// The kernel's word: most often that a program of the host has the port.
    fn publish(&mut self, protocol: Protocol, outside: Endpoint, on: bool) -> io::Result<()> {
        let _ = (protocol, outside, on);
        Ok(())
    }

    /// Takes these aliases in the place of those that there were.
    fn set_aliases(&mut self, aliases: &[Alias]) {
        let _ = aliases;
    }

    /// Takes these domains, whose names are asked of other resolvers than the host's, in the place of
    /// those that there were.
    fn set_domains(&mut self, domains: &[Domain]) {
        let _ = domains;
    }

    /// Ends what has the host's end at an address that is not among `present` and could have another now;
    /// says of each such address how many. Where the host's end is not the link's, nothing happens.
    fn leave_lost(&mut self, present: &[IpAddr]) -> Vec<(IpAddr, usize)> {
        let _ = present;
        Vec::new()
    }

    /// Lets in other packets from the next one on, where the link has a filter. There may be more
    /// descriptors in [`Link::readable`] then.
    ///
    /// # Errors
    /// The kernel's word; the old filter then stays, in part or whole.
    fn set_wanted(&mut self, wanted: &Wanted) -> io::Result<()> {
        let _ = wanted;
        Ok(())
    }

    /// Closes the interface of this number, counted from 0, where the link joins several; how many are
    /// left.
    fn part(&mut self, port: usize) -> usize {
        let _ = port;
        0
    }

    /// Whether [`Link::set_wanted`] has the kernel drop what is not wanted.
    fn filters(&self) -> bool {
        false
    }

    /// Reads few of these frames from the next one on, and all others, where the kernel can see to it.
    ///
    /// # Errors
    /// `Unsupported` where it cannot; the kernel's word. All frames are then read.
    fn thin_out(&mut self, thinned: &Thinned) -> io::Result<()> {
        let _ = thinned;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Losses that the link saw itself, by a stable word, since it was opened.
    fn counters(&mut self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}
