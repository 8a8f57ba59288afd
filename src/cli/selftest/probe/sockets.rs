//! The world of a probe: real sockets, the real clock, and a person who waits.

use crate::flow::Time;
use crate::runtime::clock::Clock;
use crate::stun::exchange::{Progress, Socket, World};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, ip_mtu, ipv6_mtu, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use std::io::{self, IsTerminal, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

/// How often who waits is told how long it will be.
const TOLD: Duration = Duration::from_secs(1);

/// Sockets towards one server.
#[derive(Debug)]
pub(super) struct Sockets {
    clock: Clock,
    /// This host's address towards the server, port 0.
    local: SocketAddr,
    mtu: u16,
    /// By number; a closed one leaves its number empty.
    open: Vec<Option<UdpSocket>>,
    buffer: Vec<u8>,
    terminal: bool,
    idle: Option<Progress>,
}

impl Sockets {
    /// Finds out by which address this host reaches the server.
    ///
    /// # Errors
    /// It does not.
    pub(super) fn towards(server: SocketAddr) -> io::Result<Sockets> {
        let any = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        socket.connect(server)?;
        let mtu = if server.is_ipv4() { ip_mtu(&socket)? } else { ipv6_mtu(&socket)? };
        let mut local = socket.local_addr()?;
        local.set_port(0);
        Ok(Sockets {
            clock: Clock::start(),
            local,
            mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
            open: Vec::new(),
            buffer: vec![0; 65_536],
            terminal: io::stderr().is_terminal(),
            idle: None,
        })
    }

    fn bind(&self, whole: bool) -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind(self.local)?;
        socket.set_nonblocking(true)?;
        // PROBE sends whole packets and lets no rumour about the path stop it; DONT never sets DF on
        // IPv4, so that large datagrams are cut there and anywhere on the way.
        if self.local.is_ipv4() {
            let way = if whole { Ipv4PathMtuDiscovery::PROBE } else { Ipv4PathMtuDiscovery::DONT };
            set_ip_mtu_discover(&socket, way)?;
        } else if whole {
            set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::PROBE)?;
        }
        Ok(socket)
    }

    /// What has come to any socket.
    fn take(&mut self) -> Option<(Socket, SocketAddr, Vec<u8>)> {
        for (number, socket) in self.open.iter().enumerate() {
            let Some(socket) = socket else { continue };
            if let Ok((length, from)) = socket.recv_from(&mut self.buffer) {
                return Some((number, from, self.buffer[..length].to_vec()));
            }
        }
        None
    }

    /// Shows how long it will be, on a terminal.
    fn show(&self) {
        let Some(Progress::Idle { until, idle, at_least, less_than }) = self.idle else { return };
        if self.terminal {
            let left = until.since(self.clock.now()).as_secs();
            let known = match less_than {
                Some(less_than) => format!("from {} to {}", short(at_least), short(less_than)),
                None => format!("at least {}", short(at_least)),
            };
            let line = format!("lifetime: {known} so far; asking after {} idle, in {left}s", short(idle));
            let _ = write!(io::stderr(), "\r\x1b[K{line}");
        }
    }
}

/// A duration to the tenth of a second.
pub(super) fn short(duration: Duration) -> String {
    let tenths = u64::try_from(duration.as_millis() / 100).unwrap_or(u64::MAX);
    humantime::format_duration(Duration::from_millis(tenths.saturating_mul(100))).to_string()
}

impl Drop for Sockets {
    fn drop(&mut self) {
        if self.terminal {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl World for Sockets {
    fn now(&self) -> Time {
        self.clock.now()
    }

    fn random(&mut self) -> [u8; 12] {
        let mut bytes = [0; 12];
        // The kernel gives up to 256 bytes whole, once it has any (getrandom(2)).
        let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        bytes
    }

    fn open(&mut self, whole: bool) -> Result<Socket, String> {
        let socket = self.bind(whole).map_err(|error| format!("open a socket: {error}"))?;
        self.open.push(Some(socket));
        Ok(self.open.len() - 1)
    }

    fn close(&mut self, socket: Socket) {
        if let Some(socket) = self.open.get_mut(socket) {
            *socket = None;
        }
    }

    fn local(&self, socket: Socket) -> SocketAddr {
        let socket = self.open.get(socket).and_then(Option::as_ref);
        socket.and_then(|socket| socket.local_addr().ok()).unwrap_or(self.local)
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn send(&mut self, socket: Socket, to: SocketAddr, bytes: &[u8]) -> Result<(), String> {
        let socket = self.open.get(socket).and_then(Option::as_ref).ok_or("the socket is closed")?;
        socket.send_to(bytes, to).map(drop).map_err(|error| error.to_string())
    }

    fn receive(&mut self, until: Time) -> Option<(Socket, SocketAddr, Vec<u8>)> {
        loop {
            if let Some(heard) = self.take() {
                return Some(heard);
            }
            let left = until.since(self.now());
            if left.is_zero() {
                return None;
            }
            self.show();
            let fds = self.open.iter().flatten();
            let mut fds: Vec<PollFd<'_>> =
                fds.map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)).collect();
            let wait = Timespec::try_from(left.min(TOLD)).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
            let _ = poll(&mut fds, Some(&wait));
        }
    }

    fn progress(&mut self, what: Progress) {
        self.idle = matches!(what, Progress::Idle { .. }).then_some(what);
        match what {
            Progress::Part(part) if self.terminal => {
                let _ = write!(io::stderr(), "\r\x1b[K{part}");
            }
            Progress::Part(_) => {}
            Progress::Idle { idle, .. } if !self.terminal && !idle.is_zero() => {
                let _ = writeln!(io::stderr(), "lifetime: asking after {} idle", short(idle));
            }
            Progress::Idle { .. } => {}
        }
    }
}
