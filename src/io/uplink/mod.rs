//! The ways out: sockets that carry IP packets between the gateway and the outside.
//!
//! * [`packet`]: AF_PACKET on one interface; super-frames pass whole
//! * [`inherited`]: a socket for [`packet`] that somebody else has opened
//! * [`asker`]: how [`packet`] finds neighbours without a raw IP socket
//! * [`raw`]: raw IP sockets; for hosts that refuse AF_PACKET, and towards the host's own services
//! * [`sender`]: the sending side of [`raw`]
//! * [`ways`]: several of them as one, while the host moves from one interface to another
//! * [`sockets`]: ordinary sockets; needs no privilege

pub mod asker;
pub mod inherited;
pub mod packet;
pub mod raw;
pub mod sender;
pub mod sockets;
pub mod ways;

use super::Link;
use super::filter::Wanted;
use super::netlink::LinkFacts;
use inherited::Inherited;
use packet::PacketUplink;
use raw::RawUplink;
use std::io;
use std::os::fd::RawFd;

/// Which kind of uplink.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// AF_PACKET.
    Packet,
    /// Raw IP sockets.
    Raw,
    /// Ordinary sockets.
    Sockets,
}

impl Kind {
    /// The word of the command line.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Packet => "packet",
            Kind::Raw => "raw",
            Kind::Sockets => "sockets",
        }
    }
}

/// Why there is no uplink. Each says the thing, the cause and the cure.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// There is no such interface.
    #[error("interface {0} does not exist: see `ip link`, and choose another with --outside")]
    NoInterface(String),
    /// The interface is there and down.
    #[error("interface {0} is down: `ip link set {0} up`")]
    Down(String),
    /// The interface has no Ethernet header.
    #[error("interface {0} is not Ethernet, which the packet uplink needs: use --uplink raw")]
    NotEthernet(String),
    /// The socket is not permitted.
    #[error(
        "{0}: not permitted: CAP_NET_RAW is needed: run as root, or `setcap cap_net_admin,cap_net_raw,cap_bpf+ep` on the program"
    )]
    Forbidden(&'static str),
    /// The descriptor that was handed over is of no use; why.
    #[error(
        "--raw-fd {0}: {1}: hand over what socket(AF_PACKET, SOCK_RAW, 0) gives, as `tapnat-raw IFACE run ...` does"
    )]
    Descriptor(RawFd, &'static str),
    /// Anything else.
    #[error("{what}: {source}")]
    Other {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl UplinkError {
    fn other(what: &'static str) -> impl Fn(io::Error) -> UplinkError {
        move |source| match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => UplinkError::Forbidden(what),
            _ => UplinkError::Other { what, source },
        }
    }

    /// Why there is no packet uplink where a raw one will do, in words for the start line.
    fn fallback(&self) -> String {
        match self {
            UplinkError::NotEthernet(name) => format!("{name} is not Ethernet"),
            UplinkError::Forbidden(_) => "packet sockets are not permitted here".to_owned(),
            other => format!("no packet socket: {other}"),
        }
    }

    /// As an error of a [`Link`].
    fn into_io(self) -> io::Error {
        match self {
            UplinkError::Other { source, .. } => source,
            other => io::Error::new(io::ErrorKind::NetworkDown, other.to_string()),
        }
    }
}

/// An open uplink, and the reason for its kind.
pub struct Chosen {
    /// The uplink.
    pub link: Box<dyn Link>,
    /// Its kind.
    pub kind: Kind,
    /// Why this kind, in words for the start line.
    pub why: String,
}

impl std::fmt::Debug for Chosen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} on {}: {}", self.kind, self.link.name(), self.why)
    }
}

/// Opens the uplink on `interface`: of the kind asked for, or the best that the host allows.
/// `inside_mtu` is the MTU of the TAP, in bytes.
///
/// # Errors
/// See [`UplinkError`]; of the last kind that was tried.
pub fn open(
    ask: Option<Kind>,
    interface: &str,
    wanted: &Wanted,
    inside_mtu: u16,
) -> Result<Chosen, UplinkError> {
    let packet = |why| -> Result<Chosen, UplinkError> {
        let link = Box::new(PacketUplink::open(interface, wanted.clone())?);
        Ok(Chosen { link, kind: Kind::Packet, why })
    };
    let raw = |why| -> Result<Chosen, UplinkError> {
        let link = Box::new(RawUplink::wire(interface, wanted.clone(), inside_mtu)?);
        Ok(Chosen { link, kind: Kind::Raw, why })
    };
    match ask {
        Some(Kind::Packet) => packet("asked for".to_owned()),
        Some(Kind::Raw) => raw("asked for".to_owned()),
        Some(Kind::Sockets) => Err(UplinkError::NoInterface(interface.to_owned())),
        None => packet("super-frames pass whole".to_owned()).or_else(|refused| raw(refused.fallback())),
    }
}

/// The packet uplink on `interface` by a socket that was handed over.
///
/// # Errors
/// See [`UplinkError`].
pub fn adopt(inherited: Inherited, interface: &str, wanted: &Wanted) -> Result<Chosen, UplinkError> {
    let number = inherited.number();
    let link = PacketUplink::adopt(inherited, interface, wanted.clone())?;
    let mut why = format!("descriptor {number} was handed over");
    if link.holds() {
        why.push_str("; without CAP_NET_RAW the host's own services are reached by ordinary sockets");
    }
    Ok(Chosen { link: Box::new(link), kind: Kind::Packet, why })
}

/// Opens the uplink of ordinary sockets; `refused` says why there is no better one, if it was not
/// asked for. Its leased ports, for the guard, are returned beside it.
///
/// # Errors
/// See [`UplinkError`].
pub fn open_sockets(
    config: sockets::Config,
    refused: Option<&str>,
) -> Result<(Chosen, sockets::ports::Ports), UplinkError> {
    let link = sockets::Sockets::open(config)?;
    let mut why = refused.unwrap_or("asked for").to_owned();
    if link.can_ping() == [false; 2] {
        why.push_str(", no ping since net.ipv4.ping_group_range leaves this user out");
    }
    let ports = link.ports();
    Ok((Chosen { link: Box::new(link), kind: Kind::Sockets, why }, ports))
}

/// The interface's MTU as links know it.
fn mtu(facts: &LinkFacts) -> u16 {
    u16::try_from(facts.mtu).unwrap_or(u16::MAX)
}
