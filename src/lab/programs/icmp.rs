//! Ping, and whatever else ICMP says: echo requests made by hand (RFC 792), with any time to live,
//! size and "don't fragment", and the messages that come back.
//!
//! Needs `CAP_NET_RAW` in the calling thread's namespace.

use crate::lab::programs::now;
use pnet::util::checksum;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

const IP_HEADER: usize = 20;
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
/// Where "don't fragment" is in the seventh byte of an IPv4 header.
const DONT_FRAGMENT: u8 = 0x40;
/// What a ping of this program carries, over and over.
const FILLING: &[u8] = b"tapnat lab ";

/// One echo request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ping {
    /// Whom to ask.
    pub destination: Ipv4Addr,
    /// The identifier, by which answers find the asker.
    pub identifier: u16,
    /// The sequence number.
    pub sequence: u16,
    /// Hops it may take.
    pub ttl: u8,
    /// Routers must not fragment it.
    pub dont_fragment: bool,
    /// Length of the whole IP packet in bytes, at least 28.
    pub length: usize,
}

/// What came of a ping.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The reply.
    Reply {
        /// Who answered.
        from: Ipv4Addr,
        /// The time to live it arrived with.
        ttl: u8,
        /// How long it took.
        took: Duration,
    },
    /// An ICMP error about this very request.
    Error {
        /// Who says so.
        from: Ipv4Addr,
        /// ICMP type: 3 unreachable, 11 time exceeded.
        kind: u8,
        /// ICMP code.
        code: u8,
        /// The next hop's MTU, where the type has one (RFC 1191).
        mtu: u16,
    },
    /// Nothing in the time given.
    Silence,
}

impl Ping {
    /// An ordinary ping of 84 bytes.
    pub fn new(destination: Ipv4Addr, sequence: u16) -> Ping {
        let identifier = (std::process::id() & 0xffff) as u16;
        Ping { destination, identifier, sequence, ttl: 64, dont_fragment: false, length: 84 }
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// `EMSGSIZE` if the request is above the interface's own MTU; `ENETUNREACH` without a route;
    /// `EPERM` without the privilege.
    pub fn send(&self, timeout: Duration) -> io::Result<Answer> {
        let ear = Ear::open()?;
        ear.send_ipv4(&self.packet(), self.destination)?;
        let start = now();
        while let Some(message) = ear.next(start + timeout)? {
            if let Some(answer) = self.answered(&message, start) {
                return Ok(answer);
            }
        }
        Ok(Answer::Silence)
    }

    fn packet(&self) -> Vec<u8> {
        let body = self.length.saturating_sub(IP_HEADER + 8);
        let mut echo = vec![ECHO_REQUEST, 0, 0, 0];
        echo.extend_from_slice(&self.identifier.to_be_bytes());
        echo.extend_from_slice(&self.sequence.to_be_bytes());
        echo.extend(FILLING.iter().cycle().take(body));
        let sum = checksum(&echo, 1);
        echo[2..4].copy_from_slice(&sum.to_be_bytes());
        // Length, identification, checksum and source are left to the kernel.
        let mut packet = vec![0; IP_HEADER];
        packet[0] = 0x45;
        packet[6] = if self.dont_fragment { DONT_FRAGMENT } else { 0 };
        packet[8] = self.ttl;
        packet[9] = 1;
        packet[16..20].copy_from_slice(&self.destination.octets());
        packet.extend_from_slice(&echo);
        packet
    }

    fn answered(&self, message: &Message, start: Instant) -> Option<Answer> {
        let mine = |icmp: &[u8]| {
            icmp.get(4..6) == Some(&self.identifier.to_be_bytes())
                && icmp.get(6..8) == Some(&self.sequence.to_be_bytes())
        };
        match *message.icmp.first()? {
            ECHO_REPLY if mine(&message.icmp) && message.from == self.destination => {
                Some(Answer::Reply { from: message.from, ttl: message.ttl, took: now() - start })
            }
            kind @ (3 | 4 | 5 | 11 | 12) => {
                let quoted = message.icmp.get(8..)?;
                let header = usize::from(*quoted.first()? & 15) * 4;
                let echo = quoted.get(header..)?;
                let about_us = quoted.get(16..20)? == self.destination.octets()
                    && echo.first() == Some(&ECHO_REQUEST)
                    && mine(echo);
                let mtu = u16::from_be_bytes([*message.icmp.get(6)?, *message.icmp.get(7)?]);
                about_us.then_some(Answer::Error {
                    from: message.from,
                    kind,
                    code: *message.icmp.get(1)?,
                    mtu,
                })
            }
            _ => None,
        }
    }
}

/// An ICMP message as it arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The IP header's source.
    pub from: Ipv4Addr,
    /// The IP header's time to live.
    pub ttl: u8,
    /// The message, from its type on.
    pub icmp: Vec<u8>,
}

/// Hears every ICMP message that arrives in its namespace from the moment it is opened.
#[derive(Debug)]
pub struct Ear {
    socket: Socket,
}

impl Ear {
    /// Starts to listen.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_RAW`.
    pub fn open() -> io::Result<Ear> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
        socket.set_header_included_v4(true)?;
        Ok(Ear { socket })
    }

    /// Sends a packet that starts with its IP header. The kernel fills in an empty source, the
    /// length and the header's checksum.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn send_ipv4(&self, packet: &[u8], destination: Ipv4Addr) -> io::Result<()> {
        self.socket.send_to(packet, &SockAddr::from(SocketAddrV4::new(destination, 0))).map(drop)
    }

    /// The next message, or `None` at the deadline.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn next(&self, deadline: Instant) -> io::Result<Option<Message>> {
        let mut buffer = vec![0; 65536];
        loop {
            let left = deadline.saturating_duration_since(now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            match (&self.socket).read(&mut buffer) {
                Ok(length) => {
                    if let Some(message) = parse(&buffer[..length]) {
                        return Ok(Some(message));
                    }
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn parse(packet: &[u8]) -> Option<Message> {
    let header = usize::from(*packet.first()? & 15) * 4;
    let from: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    let icmp = packet.get(header..)?.to_vec();
    Some(Message { from: from.into(), ttl: *packet.get(8)?, icmp })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

    #[test]
    fn an_error_is_known_by_what_it_quotes() {
        let ping = Ping::new(SERVER, 9);
        let mut icmp = vec![3, 4, 0, 0, 0, 0, 5, 0];
        icmp.extend_from_slice(&ping.packet()[..28]);
        let mut message = Message { from: Ipv4Addr::new(10, 88, 0, 1), ttl: 64, icmp };
        assert_eq!(
            ping.answered(&message, now()),
            Some(Answer::Error { from: message.from, kind: 3, code: 4, mtu: 1280 })
        );
        message.icmp[8 + 20 + 7] ^= 1;
        assert_eq!(ping.answered(&message, now()), None);
        message.icmp[8 + 20 + 7] ^= 1;
        for length in 0..message.icmp.len() {
            let cut = Message { icmp: message.icmp[..length].to_vec(), ..message };
            assert_eq!(ping.answered(&cut, now()), None);
        }
    }

    #[test]
    fn the_packet_is_as_long_as_asked() {
        let ping = Ping { length: 1301, ..Ping::new(SERVER, 1) };
        let packet = ping.packet();
        assert_eq!(packet.len(), 1301);
        assert_eq!(checksum(&packet[IP_HEADER..], usize::MAX), 0);
    }
}
