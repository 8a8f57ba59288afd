//! Keeps the host's own stack off our ports, where we translate to an address that the host owns.
//!
//! Whatever comes back to a translated port reaches the host's stack as well, which knows of no
//! connection and would answer TCP with RST and UDP with "port unreachable"; and the host's own
//! programs might choose the same port. So every port is *leased* from the host before it is used:
//!
//! * [`hold`]: a socket of ours is bound to the port and drops all it gets. The port is taken for
//!   everybody else, and the stack is silent about it. Needs no privilege.
//! * of the uplink's own ([`Ports`]): with the sockets uplink the port's socket is the one that it sends
//!   and receives with, and the stack has nothing to answer.
//! * [`tcx`]: the same sockets, and a program in front of the stack that drops packets to leased
//!   ports, which saves the kernel the work, and SYNs to ports that nobody has leased. Only with the
//!   packet uplink: a raw IP socket sits behind that program.
//!
//! A protocol without ports is leased for an address: a deaf raw socket of it keeps the stack from
//! answering "protocol unreachable". Such a socket takes copies: what the host itself does with the
//! protocol goes on, and a kernel that speaks it still answers what it does not know.
//!
//! Whatever happens to this process, its descriptors are closed and the host answers as before.

pub mod hold;
pub mod tcx;

use super::uplink::sockets::ports::Ports;
use crate::flow::{Endpoint, Protocol};
use hold::Deafness;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::Socket;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use tcx::Tcx;

/// Descriptors that serve two addresses with TCP and UDP on every port.
const DESCRIPTORS: u64 = 262_144;

/// Protocols without ports that are leased for an address, at most.
pub const PROTOCOLS: usize = 16;

/// Descriptors that are not for held ports: links, netlink, control clients and what they wait with.
pub const RESERVE: usize = 128;

/// Said of held TCP ports that may have no filter.
const BY_TTL: &str = ", TCP ports deaf by TTL since filters need CAP_NET_ADMIN here";

/// How the host's own stack is kept off our ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Not at all: something else does it, or the addresses are not the host's.
    Off,
    /// A socket holds each port.
    Hold,
    /// A socket holds each port, and a program drops what comes to it.
    Tcx,
    /// The uplink's own sockets.
    Sockets,
}

impl Kind {
    /// The word of the command line.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Off => "off",
            Kind::Hold => "hold",
            Kind::Tcx => "tcx",
            Kind::Sockets => "sockets",
        }
    }
}

/// Why the guard cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// Ports of an address that the host does not own cannot be held.
    #[error(
        "external {0}: not an address of this host, so its ports cannot be held: \
         give it to the outside interface, or use --guard off if it is routed to this host"
    )]
    NotLocal(IpAddr),
    /// TCX stands in front of raw IP sockets.
    #[error(
        "guard tcx works with the packet uplink only (a raw IP socket would see nothing): use --guard hold"
    )]
    RawUplink,
    /// The guard of sockets is the uplink's own.
    #[error("guard sockets goes with the sockets uplink only: leave --guard at auto")]
    NotSockets,
    /// The sockets uplink guards itself.
    #[error("guard {}: the sockets uplink holds its ports with its own sockets: leave --guard at auto", .0.word())]
    SocketsUplink(Kind),
    /// The kernel refused map, program or link.
    #[error("guard tcx: {0}: CAP_BPF and CAP_NET_ADMIN and Linux 6.6 are needed: use --guard hold")]
    Tcx(io::Error),
}

/// Why a port cannot be leased.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// A program of the host has it.
    #[error("{protocol} {endpoint} is in use by a program of the host (Address already in use)")]
    Taken {
        /// TCP or UDP.
        protocol: Protocol,
        /// The address and port.
        endpoint: Endpoint,
    },
    /// No descriptors or memory are left.
    #[error(
        "no descriptors left for held ports ({held} held, limit {limit}): raise it with `ulimit -n` or LimitNOFILE="
    )]
    OutOfDescriptors {
        /// Ports held.
        held: usize,
        /// The limit of descriptors.
        limit: u64,
    },
    /// The port is privileged.
    #[error(
        "{protocol} {endpoint}: not permitted: ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE"
    )]
    Forbidden {
        /// TCP or UDP.
        protocol: Protocol,
        /// The address and port.
        endpoint: Endpoint,
    },
    /// The host does not own the address.
    #[error(
        "{0} is not an address of this host: its ports need no lease (--guard off), or give it to an interface"
    )]
    NotLocal(Endpoint),
    /// Anything else.
    #[error("{protocol} {endpoint}: {source}")]
    Other {
        /// TCP or UDP.
        protocol: Protocol,
        /// The address and port.
        endpoint: Endpoint,
        /// What the kernel said.
        source: io::Error,
    },
}

impl GuardError {
    /// Why the best there is is not tcx, in words for the start line.
    fn fallback(&self) -> String {
        match self {
            GuardError::RawUplink => "tcx stands in front of raw IP sockets".to_owned(),
            GuardError::Tcx(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                "tcx is not permitted here (CAP_BPF and CAP_NET_ADMIN, Linux 6.6)".to_owned()
            }
            GuardError::Tcx(error) => format!("no tcx here ({error}; Linux 6.6 has it)"),
            other => other.to_string(),
        }
    }
}

impl LeaseError {
    /// What the kernel's word `source` about a published port means.
    pub fn of(protocol: Protocol, endpoint: Endpoint, source: io::Error) -> Self {
        LeaseError::new(protocol, endpoint, 0, source)
    }

    fn new(protocol: Protocol, endpoint: Endpoint, held: usize, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EADDRINUSE) => LeaseError::Taken { protocol, endpoint },
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
                LeaseError::OutOfDescriptors { held, limit }
            }
            Some(libc::EACCES | libc::EPERM) => LeaseError::Forbidden { protocol, endpoint },
            Some(libc::EADDRNOTAVAIL) => LeaseError::NotLocal(endpoint),
            _ => LeaseError::Other { protocol, endpoint, source },
        }
    }
}

/// The leased ports.
#[derive(Debug)]
pub struct Guard {
    kind: Kind,
    why: String,
    /// What is leased, and the socket that holds it; none for what needs no socket.
    leases: HashMap<(Protocol, Endpoint), Option<Socket>, foldhash::fast::RandomState>,
    tcx: Option<Tcx>,
    /// Ports of the sockets uplink.
    sockets: Option<Ports>,
    deafness: Deafness,
    /// How many ports may be held: some descriptors are for the control interface and for links.
    room: usize,
}

impl Guard {
    /// The guard asked for (`None`: the best there is) for translated addresses `externals` of the
    /// interface numbered `interface`. `packet_uplink` says whether the uplink is of AF_PACKET.
    /// Raises the limit of descriptors as far as it goes.
    ///
    /// # Errors
    /// See [`GuardError`]; if the best is asked for, [`GuardError::NotLocal`] alone.
    pub fn new(
        ask: Option<Kind>,
        packet_uplink: bool,
        interface: u32,
        externals: &[IpAddr],
    ) -> Result<Guard, GuardError> {
        let room = usize::try_from(raise_descriptor_limit()).unwrap_or(usize::MAX);
        let room = room.saturating_sub(RESERVE);
        let deafness = Deafness::new();
        if ask != Some(Kind::Off) {
            check_local(externals, &deafness)?;
        }
        let tcx = || match packet_uplink {
            true => Tcx::attach(interface, externals).map_err(GuardError::Tcx),
            false => Err(GuardError::RawUplink),
        };
        let by_ttl = if deafness.is_by_ttl() { BY_TTL } else { "" };
        let guard = move |kind, why: &str, tcx| Guard {
            kind,
            why: if kind == Kind::Off { why.to_owned() } else { format!("{why}{by_ttl}") },
            leases: HashMap::default(),
            tcx,
            sockets: None,
            deafness,
            room,
        };
        match ask {
            Some(Kind::Off) => Ok(guard(Kind::Off, "asked for", None)),
            Some(Kind::Hold) => Ok(guard(Kind::Hold, "asked for", None)),
            Some(Kind::Tcx) => Ok(guard(Kind::Tcx, "asked for", Some(tcx()?))),
            Some(Kind::Sockets) => Err(GuardError::NotSockets),
            None => Ok(match tcx() {
                Ok(tcx) => guard(Kind::Tcx, "dropped before the host's stack", Some(tcx)),
                Err(error) => guard(Kind::Hold, &error.fallback(), None),
            }),
        }
    }

    /// The guard that goes with the sockets uplink, whose ports these are; `ask` is what was asked for.
    ///
    /// # Errors
    /// [`GuardError::SocketsUplink`] if it was another.
    pub fn of_sockets(ask: Option<Kind>, ports: Ports) -> Result<Guard, GuardError> {
        match ask {
            Some(other) if other != Kind::Sockets => return Err(GuardError::SocketsUplink(other)),
            _ => {}
        }
        Ok(Guard {
            kind: Kind::Sockets,
            why: "the uplink's own".to_owned(),
            leases: HashMap::default(),
            tcx: None,
            sockets: Some(ports),
            deafness: Deafness::default(),
            room: usize::MAX,
        })
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Why it is of this kind, in words for the start line.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// Leases a port from the host, or a protocol without ports: the port is 0 then. What is leased
    /// already stays so; ICMP identifiers need no socket, since the host's stack is silent about
    /// answers that it did not ask for.
    ///
    /// # Errors
    /// See [`LeaseError`].
    pub fn lease(&mut self, protocol: Protocol, endpoint: Endpoint) -> Result<(), LeaseError> {
        if self.holds(protocol, endpoint) {
            return Ok(());
        }
        let socket = match (self.kind, protocol) {
            (Kind::Off, _) | (_, Protocol::Icmp) => None,
            (Kind::Sockets, _) => {
                if let (Protocol::Udp, Some(ports)) = (protocol, &self.sockets) {
                    let held = self.leases.len();
                    ports
                        .lease(endpoint)
                        .map_err(|error| LeaseError::new(protocol, endpoint, held, error))?;
                }
                None
            }
            (Kind::Hold | Kind::Tcx, _) => {
                let held = self.leases.len();
                let socket = if held < self.room {
                    hold::hold(protocol, endpoint, &self.deafness)
                } else {
                    Err(io::Error::from_raw_os_error(libc::EMFILE))
                };
                Some(socket.map_err(|error| LeaseError::new(protocol, endpoint, held, error))?)
            }
        };
        if let Some(tcx) = &self.tcx {
            tcx.set(protocol, endpoint, true);
        }
        self.leases.insert((protocol, endpoint), socket);
        Ok(())
    }

    /// Gives a port back to the host; one that is not leased is left alone.
    pub fn release(&mut self, protocol: Protocol, endpoint: Endpoint) {
        if self.leases.remove(&(protocol, endpoint)).is_none() {
            return;
        }
        if let Some(tcx) = &self.tcx {
            tcx.set(protocol, endpoint, false);
        }
        if let (Protocol::Udp, Some(ports)) = (protocol, &self.sockets) {
            ports.release(endpoint);
        }
    }

    /// Has SYNs dropped to ports of these ranges for which the host has no socket, where the kind of
    /// the guard allows: it is silent then about all of our range (RFC 5382 REQ-4).
    pub fn silence(&self, ranges: &[RangeInclusive<u16>]) {
        if let Some(tcx) = &self.tcx {
            tcx.set_range(ranges);
        }
    }

    /// Whether the port is leased.
    pub fn holds(&self, protocol: Protocol, endpoint: Endpoint) -> bool {
        self.leases.contains_key(&(protocol, endpoint))
    }

    /// How many ports are leased.
    pub fn held(&self) -> usize {
        self.leases.len()
    }

    /// Follows other addresses, on the interface numbered `interface`. The leases stay as they are.
    ///
    /// # Errors
    /// [`GuardError::Tcx`]; the program that was there stays, and held sockets do for the rest.
    pub fn follow(&mut self, interface: u32, externals: &[IpAddr]) -> Result<(), GuardError> {
        if let Some(tcx) = &mut self.tcx {
            let new = Tcx::attach(interface, externals).map_err(GuardError::Tcx)?;
            self.leases.keys().for_each(|(protocol, endpoint)| new.set(*protocol, *endpoint, true));
            *tcx = new;
        }
        Ok(())
    }

    /// Puts the program in front of another interface: the outside one came back with a new
    /// number. The leases stay as they are. Nothing to do for the other kinds.
    ///
    /// # Errors
    /// [`GuardError::Tcx`]; held sockets then keep the host silent on their own.
    pub fn reattach(&mut self, interface: u32) -> Result<(), GuardError> {
        match &mut self.tcx {
            Some(tcx) => tcx.reattach(interface).map_err(GuardError::Tcx),
            None => Ok(()),
        }
    }
}

/// Whether a socket can be bound to each address; any port will do.
fn check_local(externals: &[IpAddr], deafness: &Deafness) -> Result<(), GuardError> {
    for address in externals {
        match hold::hold(Protocol::Udp, Endpoint::new(*address, 0), deafness) {
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {
                return Err(GuardError::NotLocal(*address));
            }
            // Whatever else is wrong, each lease will tell.
            _ => {}
        }
    }
    Ok(())
}

/// Raises the limit of open descriptors as far as this process may; each held port needs one. With
/// CAP_SYS_RESOURCE that is beyond its hard limit, up to `DESCRIPTORS`. Returns the limit,
/// `u64::MAX` if there is none.
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let ceiling = std::fs::read_to_string("/proc/sys/fs/nr_open").ok();
    let ceiling = ceiling.and_then(|text| text.trim().parse().ok()).unwrap_or(0).min(DESCRIPTORS);
    let beyond = limit.maximum.map(|most| most.max(ceiling));
    for most in [beyond, limit.maximum] {
        if setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).is_ok() {
            return most.unwrap_or(u64::MAX);
        }
    }
    limit.current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_descriptors_is_raised_to_what_is_allowed() {
        let before = getrlimit(Resource::Nofile);
        let raised = raise_descriptor_limit();
        assert_eq!(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), raised);
        assert!(raised >= before.maximum.unwrap_or(u64::MAX));
        assert_eq!(raise_descriptor_limit(), raised);
    }

    #[test]
    fn the_reason_of_a_guard_says_no_cure_for_what_was_chosen() {
        for error in [libc::EPERM, libc::EINVAL].map(io::Error::from_raw_os_error) {
            let why = GuardError::Tcx(error).fallback();
            assert!(!why.contains("--guard") && why.contains("Linux 6.6"), "{why}");
        }
    }
}
