//! Port forwards of a running gateway, as the faces make and remove them.

use crate::control::Engine;
use crate::flow::{Endpoint, Protocol};
use crate::gateway::{Command, Reply};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

/// A port of the host that leads inside.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Forward {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where the host listens; an unspecified address is any of its own.
    pub host: SocketAddr,
    /// Who answers.
    pub guest: SocketAddr,
}

/// Who makes port forwards.
pub trait Forwarder {
    /// Makes one.
    ///
    /// # Errors
    /// Why not.
    fn add(&mut self, forward: Forward) -> Result<(), String>;

    /// Removes one.
    ///
    /// # Errors
    /// Why not: it is not there, for one.
    fn remove(&mut self, forward: Forward) -> Result<(), String>;
}

/// A running gateway.
#[derive(Clone)]
pub struct Gateway {
    engine: Arc<dyn Engine>,
    /// External addresses that stand for any address of the host.
    anywhere: Vec<IpAddr>,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("anywhere", &self.anywhere).finish_non_exhaustive()
    }
}

impl Gateway {
    /// The gateway behind `engine`. Of the families of `bound` it sends from one address of the host,
    /// so that its external address is that alone.
    pub fn new(engine: Arc<dyn Engine>, bound: &[IpAddr]) -> Self {
        let bound = |ip: &IpAddr| bound.iter().any(|bound| bound.is_ipv4() == ip.is_ipv4());
        let anywhere = engine.about().external.into_iter().filter(|ip| !bound(ip)).collect();
        Gateway { engine, anywhere }
    }

    /// Where the translator is to find it.
    fn outside(&self, host: SocketAddr) -> Endpoint {
        let ip = host.ip();
        let any = self.anywhere.iter().find(|any| ip.is_unspecified() && any.is_ipv4() == ip.is_ipv4());
        Endpoint::new(any.copied().unwrap_or(ip), host.port())
    }
}

impl Forwarder for Gateway {
    fn add(&mut self, forward: Forward) -> Result<(), String> {
        let Forward { protocol, host, guest } = forward;
        let (outside, inside) = (self.outside(host), Endpoint::new(guest.ip(), guest.port()));
        match self.engine.ask(Command::Publish { protocol, outside, inside }) {
            Ok(Reply::Done) => Ok(()),
            Ok(Reply::NotPublished(why)) => Err(format!("{protocol} {host}: {why}")),
            Ok(Reply::NotLeased(why)) => Err(why),
            Ok(other) => Err(format!("the gateway answered {other:?}")),
            Err(gone) => Err(gone.to_string()),
        }
    }

    fn remove(&mut self, forward: Forward) -> Result<(), String> {
        let Forward { protocol, host, .. } = forward;
        match self.engine.ask(Command::Unpublish { protocol, outside: self.outside(host) }) {
            Ok(Reply::Done) => Ok(()),
            Ok(other) => Err(format!("{protocol} {host}: the gateway answered {other:?}")),
            Err(gone) => Err(gone.to_string()),
        }
    }
}

/// A port that nobody has at this address of the host; it may be taken a moment later.
///
/// # Errors
/// The kernel's word.
pub fn free_port(protocol: Protocol, ip: IpAddr) -> std::io::Result<u16> {
    let any = SocketAddr::new(ip, 0);
    let bound = match protocol {
        Protocol::Udp => UdpSocket::bind(any)?.local_addr()?,
        _ => TcpListener::bind(any)?.local_addr()?,
    };
    Ok(bound.port())
}

/// Any address of the host, of the family of `like`.
pub fn anywhere(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}
