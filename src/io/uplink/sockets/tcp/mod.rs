//! TCP between the inside and host sockets: nothing passes.

use crate::flow::{Endpoint, Flow, Time};
use crate::wire::{Buffer, Packet};
use socket2::Socket;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;

/// Bounds.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpLimits {}

/// All connections.
#[derive(Debug)]
pub struct Tcp {}

#[allow(missing_docs, clippy::needless_pass_by_value, reason = "a stand-in")]
impl Tcp {
    pub fn new(_: mio::Registry, _: Range<usize>, _: TcpLimits) -> Tcp {
        Tcp {}
    }
    pub fn outbound(&mut self, _: &Packet, _: &Buffer, _: SocketAddr, _: Option<SocketAddr>, _: Time) {}
    pub fn complained(&mut self, _: Flow, _: Option<u16>, _: Time) {}
    pub fn ready(&mut self, _: usize, _: bool, _: bool, _: bool) {}
    pub fn recv(&mut self, _: &mut Buffer, _: Time) -> io::Result<()> {
        Err(io::ErrorKind::WouldBlock.into())
    }
    pub fn accepted(&mut self, _: Socket, _: Endpoint, _: Endpoint, _: Time) {}
    pub fn tick(&mut self, _: Time) {}
    pub fn next_deadline(&self) -> Option<Time> {
        None
    }
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}
