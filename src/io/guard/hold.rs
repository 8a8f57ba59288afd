//! A socket that holds a port and is deaf.
//!
//! For TCP it must *listen*: only then is a segment that belongs to no connection given to the
//! socket's filter, which drops it before the stack thinks of an answer. A socket that is merely
//! bound does not keep the stack from answering RST. The filter is attached first, so that the
//! port never answers, not even for a moment.

use crate::flow::{Endpoint, Protocol};
use crate::io::filter;
use crate::io::sys::bpf::{self, Instruction};
use crate::io::sys::inet;
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// What makes a socket deaf, the best that this process may use:
///
/// * one compiled filter that all sockets share: needs CAP_BPF;
/// * a classic filter for each, which the kernel translates and compiles anew: twice the cost of a
///   lease. Some kernels (6.18 among them) want CAP_NET_ADMIN for it on TCP sockets;
/// * else, for TCP, a least TTL of 255, which no packet that has crossed a router has. A sender on
///   the host's own network that sends with TTL 255 would be answered.
#[derive(Debug)]
pub struct Deafness {
    shared: Option<OwnedFd>,
    by_ttl: bool,
}

impl Deafness {
    /// The best that this process may use.
    pub fn new() -> Self {
        // r0 = 0; exit
        let nothing = [
            Instruction { code: 0xb7, registers: 0, offset: 0, constant: 0 },
            Instruction { code: 0x95, registers: 0, offset: 0, constant: 0 },
        ];
        let shared = bpf::load_socket_filter("tapnat_deaf", &nothing).ok();
        let by_ttl = shared.is_none() && !tcp_takes_filters();
        Deafness { shared, by_ttl }
    }

    /// Whether TCP sockets are deaf by TTL only.
    pub fn is_by_ttl(&self) -> bool {
        self.by_ttl
    }

    fn give(&self, socket: &Socket, protocol: Protocol) -> io::Result<()> {
        match &self.shared {
            Some(program) => bpf::attach_to_socket(socket, program),
            None if self.by_ttl && protocol == Protocol::Tcp => match socket.domain()? {
                Domain::IPV6 => inet::set_min_hop_limit(socket, u8::MAX),
                _ => inet::set_min_ttl(socket, u8::MAX),
            },
            None => socket.attach_filter(&filter::nothing()),
        }
    }
}

impl Default for Deafness {
    fn default() -> Self {
        Deafness::new()
    }
}

fn tcp_takes_filters() -> bool {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None);
    socket.and_then(|socket| socket.attach_filter(&filter::nothing())).is_ok()
}

/// Takes a port from the host; of a protocol without ports a copy of all that comes, which needs
/// CAP_NET_RAW. No address sharing is asked for, so that any socket of the host
/// with this port (listening, bound to any address, connected, or waiting after its end) refuses
/// it to us, and ours refuses it to everybody.
///
/// # Errors
/// `EADDRINUSE` if the host has it; the kernel's word otherwise.
pub fn hold(protocol: Protocol, endpoint: Endpoint, deafness: &Deafness) -> io::Result<Socket> {
    let address = SocketAddr::new(endpoint.ip, endpoint.port);
    let (kind, number) = match protocol {
        Protocol::Tcp => (Type::STREAM, None),
        Protocol::Udp | Protocol::Icmp => (Type::DGRAM, None),
        Protocol::Other(number) => (Type::RAW, Some(socket2::Protocol::from(i32::from(number)))),
    };
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking().cloexec(), number)?;
    deafness.give(&socket, protocol)?;
    if address.is_ipv6() && number.is_none() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};
    use std::time::Duration;

    #[test]
    fn a_held_port_is_silent_in_every_way_of_being_deaf() {
        let classic = Deafness { shared: None, by_ttl: false };
        let by_ttl = Deafness { shared: None, by_ttl: true };
        let four = Endpoint::new(Ipv4Addr::LOCALHOST, 0);
        let six = Endpoint::new(Ipv6Addr::LOCALHOST, 0);
        let ways = [Deafness::new(), by_ttl, classic];
        for (deafness, any) in ways.iter().flat_map(|deafness| [(deafness, four), (deafness, six)]) {
            let socket = match hold(Protocol::Tcp, any, deafness) {
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => continue,
                // A host without IPv6.
                Err(error) if any == six && error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => continue,
                held => held.unwrap(),
            };
            let address = socket.local_addr().unwrap().as_socket().unwrap();
            let refused = TcpStream::connect_timeout(&address, Duration::from_millis(200)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::TimedOut, "{deafness:?}");
        }
    }
}
