//! A UDP echo server, and a client that asks and waits.

use crate::io::sys::netns::Netns;
use crate::lab::programs::server::Server;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

/// Answers every datagram at `address` in `netns` with its own bytes.
///
/// # Errors
/// `EADDRINUSE` and its kin.
pub fn serve(netns: &Netns, address: impl Into<SocketAddr>) -> io::Result<Server> {
    let address = address.into();
    let open = || {
        let socket = UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        let bound = socket.local_addr()?;
        Ok((socket, bound))
    };
    Server::start(netns, "udp-echo", open, |socket, stop| {
        let mut buffer = vec![0; 65536];
        while stop.wait(socket.as_fd()) {
            // Errors here are old news about earlier answers.
            if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], from);
            }
        }
    })
}

/// Sends `message` to `server` and returns the first answer.
///
/// # Errors
/// `WouldBlock` or `TimedOut` when no answer came; the kernel's word otherwise.
pub fn ask(server: impl Into<SocketAddr>, message: &[u8], timeout: Duration) -> io::Result<Vec<u8>> {
    let server = server.into();
    let socket = match server {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?,
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?,
    };
    socket.connect(server)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.send(message)?;
    let mut answer = vec![0; 65536];
    let length = loop {
        // Who is stopped and goes on is interrupted.
        match socket.recv(&mut answer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    answer.truncate(length);
    Ok(answer)
}
