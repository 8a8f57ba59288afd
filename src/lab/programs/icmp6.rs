//! Ping over IPv6, and what ICMPv6 says of it (RFC 4443): echo requests with any hop limit and size,
//! which no sender on the way cuts.
//!
//! Needs `CAP_NET_RAW` in the calling thread's namespace.

use crate::io::sys::raw6;
use crate::lab::programs::now;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::{Duration, Instant};

const HEADER: usize = 40;
const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;
const ICMPV6: u8 = 58;
const FRAGMENT: u8 = 44;
/// What a ping of this program carries, over and over.
const FILLING: &[u8] = b"tapnat lab ";

/// One echo request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ping6 {
    /// Whom to ask.
    pub destination: Ipv6Addr,
    /// The identifier, by which answers find the asker.
    pub identifier: u16,
    /// The sequence number.
    pub sequence: u16,
    /// Hops it may take.
    pub hop_limit: u8,
    /// Length of the whole IP packet in bytes, at least 48; above the interface's MTU it leaves in
    /// fragments.
    pub length: usize,
}

/// What came of a ping.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer6 {
    /// The reply.
    Reply {
        /// Who answered.
        from: Ipv6Addr,
        /// Bytes of data that came back, which were the ones that were sent.
        length: usize,
    },
    /// An ICMPv6 error about this very request.
    Error {
        /// Who says so.
        from: Ipv6Addr,
        /// ICMPv6 type: 1 unreachable, 2 too big, 3 time exceeded.
        kind: u8,
        /// ICMPv6 code.
        code: u8,
        /// The next hop's MTU in "too big", else 0.
        mtu: u32,
    },
    /// Nothing in the time given.
    Silence,
}

impl Ping6 {
    /// An ordinary ping of 104 bytes.
    pub fn new(destination: Ipv6Addr, sequence: u16) -> Ping6 {
        let identifier = (std::process::id() & 0xffff) as u16;
        Ping6 { destination, identifier, sequence, hop_limit: 64, length: 104 }
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// `EMSGSIZE` if the path is known to take less; `ENETUNREACH` without a route; `EPERM` without
    /// the privilege.
    pub fn send(&self, timeout: Duration) -> io::Result<Answer6> {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        raw6::ask_for_headers(&socket)?;
        socket.set_unicast_hops_v6(self.hop_limit.into())?;
        // The kernel fills in the checksum, which covers addresses that it chooses.
        socket.send_to(&self.message(), &SockAddr::from(SocketAddrV6::new(self.destination, 0, 0, 0)))?;
        let deadline = now() + timeout;
        while let Some((from, message)) = next(&socket, deadline)? {
            if let Some(answer) = self.answered(from, &message) {
                return Ok(answer);
            }
        }
        Ok(Answer6::Silence)
    }

    fn message(&self) -> Vec<u8> {
        let mut echo = vec![ECHO_REQUEST, 0, 0, 0];
        echo.extend_from_slice(&self.identifier.to_be_bytes());
        echo.extend_from_slice(&self.sequence.to_be_bytes());
        echo.extend(FILLING.iter().cycle().take(self.length.saturating_sub(HEADER + 8)));
        echo
    }

    fn answered(&self, from: Ipv6Addr, message: &[u8]) -> Option<Answer6> {
        let sent = self.message();
        match *message.first()? {
            ECHO_REPLY if from == self.destination && message.get(4..)? == &sent[4..] => {
                Some(Answer6::Reply { from, length: message.len() - 8 })
            }
            kind @ 1..=4 => {
                let quoted = message.get(8..)?;
                let to_us = quoted.get(24..40)? == self.destination.octets();
                // A fragment's own header stands before the echo.
                let echo = match *quoted.get(6)? {
                    ICMPV6 => quoted.get(HEADER..)?,
                    FRAGMENT => quoted.get(HEADER + 8..)?,
                    _ => return None,
                };
                let mine = echo.first() == Some(&ECHO_REQUEST) && echo.get(4..8)? == &sent[4..8];
                let word = u32::from_be_bytes(*message.get(4..)?.first_chunk()?);
                let mtu = if kind == 2 { word } else { 0 };
                (to_us && mine).then_some(Answer6::Error { from, kind, code: *message.get(1)?, mtu })
            }
            _ => None,
        }
    }
}

/// The next ICMPv6 message and its sender, or `None` at the deadline.
fn next(socket: &Socket, deadline: Instant) -> io::Result<Option<(Ipv6Addr, Vec<u8>)>> {
    let mut buffer = vec![0; 65536];
    loop {
        let left = deadline.saturating_duration_since(now());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left))?;
        match raw6::receive(socket, &mut buffer) {
            Ok(beside) => {
                let message = buffer.get(..beside.length).unwrap_or_default().to_vec();
                return Ok(Some((beside.source, message)));
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Ok(None);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
    const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x88, 0, 0, 0, 0, 0, 1);

    #[test]
    fn an_error_is_known_by_what_it_quotes() {
        let ping = Ping6::new(SERVER, 9);
        for fragment in [false, true] {
            let mut message = vec![2, 0, 0, 0, 0, 0, 5, 0];
            message.extend([0x60, 0, 0, 0, 0, 64, if fragment { FRAGMENT } else { ICMPV6 }, 63]);
            message.extend([0; 16]);
            message.extend(SERVER.octets());
            message.extend(if fragment { vec![ICMPV6, 0, 0, 1, 0, 0, 0, 1] } else { Vec::new() });
            message.extend(&ping.message()[..8]);
            let told = Answer6::Error { from: ROUTER, kind: 2, code: 0, mtu: 1280 };
            assert_eq!(ping.answered(ROUTER, &message), Some(told));
            for length in 0..message.len() {
                assert_eq!(ping.answered(ROUTER, &message[..length]), None);
            }
            *message.last_mut().unwrap() ^= 1;
            assert_eq!(ping.answered(ROUTER, &message), None, "another's");
        }
    }
}
