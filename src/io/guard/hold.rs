//! A socket that holds a port and is deaf.
//!
//! For TCP it must *listen*: only then is a segment that belongs to no connection given to the
//! socket's filter, which drops it before the stack thinks of an answer. A socket that is merely
//! bound does not keep the stack from answering RST. The filter is attached first, so that the
//! port never answers, not even for a moment.

use crate::flow::{Endpoint, Protocol};
use crate::io::filter;
use crate::io::sys::bpf::{self, Instruction};
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// What makes a socket deaf: a filter that lets nothing in. Attaching a classic one has the kernel
/// translate and compile it anew for each socket, which is half the cost of a lease; with
/// CAP_BPF one compiled program serves them all.
#[derive(Debug)]
pub struct Deafness {
    shared: Option<OwnedFd>,
}

impl Deafness {
    /// The cheapest way that this process may use.
    pub fn new() -> Self {
        // r0 = 0; exit
        let nothing = [
            Instruction { code: 0xb7, registers: 0, offset: 0, constant: 0 },
            Instruction { code: 0x95, registers: 0, offset: 0, constant: 0 },
        ];
        Deafness { shared: bpf::load_socket_filter("tapnat_deaf", &nothing).ok() }
    }

    fn give(&self, socket: &Socket) -> io::Result<()> {
        match &self.shared {
            Some(program) => bpf::attach_to_socket(socket, program),
            None => socket.attach_filter(&filter::nothing()),
        }
    }
}

impl Default for Deafness {
    fn default() -> Self {
        Deafness::new()
    }
}

/// Takes a port from the host. No address sharing is asked for, so that any socket of the host
/// with this port (listening, bound to any address, connected, or waiting after its end) refuses
/// it to us, and ours refuses it to everybody.
///
/// # Errors
/// `EADDRINUSE` if the host has it; the kernel's word otherwise.
pub fn hold(protocol: Protocol, endpoint: Endpoint, deafness: &Deafness) -> io::Result<Socket> {
    let address = SocketAddr::new(endpoint.ip, endpoint.port);
    let kind = if protocol == Protocol::Tcp { Type::STREAM } else { Type::DGRAM };
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking().cloexec(), None)?;
    deafness.give(&socket)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    if protocol == Protocol::Tcp {
        socket.listen(1)?;
    } else {
        socket.set_recv_buffer_size(0)?;
    }
    Ok(socket)
}
