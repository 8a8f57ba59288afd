//! An AF_PACKET socket that somebody else has opened: taken over by its number, looked at, made fit.
//!
//! Opening such a socket needs CAP_NET_RAW; what the packet uplink does with it afterwards (filter,
//! offload headers, another interface) does not.

use super::UplinkError;
use crate::io::sys::{fd, packet};
use rustix::io::ioctl_fionbio;
use rustix::net::{AddressFamily, SocketType, sockopt};
use socket2::{Domain, Socket, Type};
use std::io;
use std::os::fd::{OwnedFd, RawFd};

/// A packet socket that was handed over.
#[derive(Debug)]
pub struct Inherited {
    number: RawFd,
    socket: OwnedFd,
    interface: Option<u32>,
}

impl Inherited {
    /// Takes over descriptor `number`. It does not block from here on, and programs that are started do
    /// not inherit it.
    ///
    /// The caller must be the only one to take this number.
    ///
    /// # Errors
    /// [`UplinkError::Descriptor`] if it is not open, no packet socket with link-layer headers, or one
    /// of another network namespace.
    pub fn take(number: RawFd) -> Result<Inherited, UplinkError> {
        let wrong = |why| UplinkError::Descriptor(number, why);
        let socket = fd::adopt(number).map_err(|_| wrong("it is not open (or is 0, 1 or 2)"))?;
        let fail = || UplinkError::other("the descriptor of --raw-fd");
        fd::keep(number).map_err(fail())?;
        let Ok(domain) = sockopt::socket_domain(&socket) else { return Err(wrong("it is no socket")) };
        if domain != AddressFamily::PACKET {
            return Err(wrong("it is a socket of another family than AF_PACKET"));
        }
        let kind = sockopt::socket_type(&socket).map_err(io::Error::from).map_err(fail())?;
        if kind != SocketType::RAW {
            return Err(wrong("it is of type SOCK_DGRAM, without Ethernet headers"));
        }
        if !of_this_namespace(&socket) {
            return Err(wrong("it is of another network namespace than this process"));
        }
        ioctl_fionbio(&socket, true).map_err(io::Error::from).map_err(fail())?;
        let interface = packet::bound_to(&socket).map_err(fail())?;
        Ok(Inherited { number, socket, interface })
    }

    /// Its number.
    pub fn number(&self) -> RawFd {
        self.number
    }

    /// The number of the interface that it is bound to, if it is to one.
    pub fn interface(&self) -> Option<u32> {
        self.interface
    }

    /// The socket itself.
    pub fn into_socket(self) -> Socket {
        self.socket.into()
    }
}

/// Whether the socket sees the interfaces that this process sees. Kernels that do not tell (before
/// 5.14) are trusted.
fn of_this_namespace(socket: &OwnedFd) -> bool {
    let own = Socket::new(Domain::UNIX, Type::DGRAM, None).and_then(packet::namespace_cookie);
    match (own, packet::namespace_cookie(socket)) {
        (Ok(own), Ok(other)) => own == other,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::IntoRawFd;

    #[test]
    fn only_open_packet_sockets_are_taken() {
        let refused = |number: RawFd| Inherited::take(number).unwrap_err().to_string();
        // The last one is above any limit, whatever other tests have open.
        for number in [-1, 0, 2, RawFd::MAX] {
            assert!(refused(number).contains("is not open"), "{}", refused(number));
        }
        let file = std::fs::File::open("/dev/null").unwrap().into_raw_fd();
        let why = refused(file);
        assert!(why.contains("no socket") && why.contains("tapnat-raw"), "{why}");
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap().into_raw_fd();
        assert!(refused(udp).contains("another family"));
    }
}
