//! The host's end of a mirrored connection: a TCP socket whose received bytes stay in the kernel until
//! the inside has acknowledged them.

use crate::io::sys::inet;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, SendFlags};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

/// What a mirrored connection needs of the host's end. No call blocks.
pub trait Stream {
    /// Whether a connection that was begun is established.
    ///
    /// # Errors
    /// Why it failed.
    fn outcome(&self) -> io::Result<bool>;

    /// Why the connection has failed, if it has and no other call has said so.
    fn error(&self) -> Option<io::Error>;

    /// Sends the front of `bytes`; how many.
    ///
    /// # Errors
    /// `WouldBlock` if none can be taken now; else the connection has failed.
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Copies bytes at `offset` of what was received, leaving them there; 0 at the end. `scratch` is
    /// room for what is before them, of [`SCRATCH`] bytes.
    ///
    /// # Errors
    /// `WouldBlock` if there are none; else the connection has failed.
    fn peek(&mut self, offset: usize, into: &mut [u8], scratch: &mut [u8]) -> io::Result<usize>;

    /// Takes bytes off the front of what was received; how many. `scratch` is never written to.
    ///
    /// # Errors
    /// The kernel's word.
    fn discard(&mut self, count: usize, scratch: &mut [u8]) -> io::Result<usize>;

    /// Says that no more bytes follow.
    ///
    /// # Errors
    /// The kernel's word.
    fn shut(&mut self) -> io::Result<()>;

    /// Has the close send a RST.
    fn reset(&mut self);
}

/// How many bytes a connection may have in flight towards the inside: what peeking without
/// `SO_PEEK_OFF` has to get past.
pub const SCRATCH: usize = super::machine::IN_FLIGHT as usize;

/// A TCP socket of the host.
#[derive(Debug)]
pub struct HostStream {
    socket: Socket,
    /// Where the kernel peeks next (`SO_PEEK_OFF`); `None` if it cannot.
    peeks_at: Option<usize>,
    /// Something was sent; and the kernel does not hold back what is sent behind it.
    sent: bool,
    undelayed: bool,
}

impl HostStream {
    /// Begins to connect to `to` from `bind`; from another port of that address if this one is taken.
    ///
    /// # Errors
    /// The kernel's word; `EADDRNOTAVAIL` if the address is not the host's. `InProgress` is none.
    pub fn connect(to: SocketAddr, bind: Option<SocketAddr>) -> io::Result<HostStream> {
        let bound = bind.filter(|bind| bind.is_ipv4() == to.is_ipv4());
        match (HostStream::try_connect(to, bound), bound) {
            (Err(error), Some(bound))
                if matches!(error.raw_os_error(), Some(libc::EADDRINUSE | libc::EADDRNOTAVAIL)) =>
            {
                // An address that was named is never left: who named it relies on it.
                let other = SocketAddr::new(bound.ip(), 0);
                HostStream::try_connect(to, Some(other).filter(|other| !other.ip().is_unspecified()))
            }
            // From loopback, the kernel leads nowhere else.
            (Err(error), Some(bound))
                if bound.ip().is_loopback() && error.raw_os_error() == Some(libc::EINVAL) =>
            {
                Err(io::Error::from_raw_os_error(libc::ENETUNREACH))
            }
            (result, _) => result,
        }
    }

    fn try_connect(to: SocketAddr, bind: Option<SocketAddr>) -> io::Result<HostStream> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        if let Some(bind) = bind {
            socket.set_reuse_address(true)?;
            socket.bind(&bind.into())?;
        }
        let stream = HostStream::prepare(socket)?;
        match stream.socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(stream),
        }
    }

    /// A socket that is connected already.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn accepted(socket: Socket) -> io::Result<HostStream> {
        // If that fails the remote is refused, and not told of an end in good order.
        socket.set_linger(Some(Duration::ZERO))?;
        socket.set_nonblocking(true)?;
        let stream = HostStream::prepare(socket)?;
        stream.socket.set_linger(None)?;
        Ok(stream)
    }

    fn prepare(socket: Socket) -> io::Result<HostStream> {
        // Urgent data is data (RFC 6093 §6): out of line it would be lost among what is peeked at.
        socket.set_out_of_band_inline(true)?;
        let peeks_at = inet::set_peek_offset(&socket, 0).ok().map(|()| 0);
        Ok(HostStream { socket, peeks_at, sent: false, undelayed: false })
    }

    /// Does without `SO_PEEK_OFF`, as on kernels before 6.9.
    #[must_use]
    pub fn without_peek_offset(mut self) -> HostStream {
        if self.peeks_at.take().is_some() {
            let _ = inet::set_peek_offset(&self.socket, -1);
        }
        self
    }

    /// The address that the connection has on the host, and its remote.
    pub fn ends(&self) -> Option<(IpAddr, SocketAddr)> {
        let local = self.socket.local_addr().ok()?.as_socket()?;
        let remote = self.socket.peer_addr().ok()?.as_socket()?;
        Some((local.ip(), remote))
    }

    /// The descriptor's number, for the poll.
    pub fn number(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Peeks behind `offset` bytes by peeking at them too.
    fn peek_past(&self, offset: usize, into: &mut [u8], scratch: &mut [u8]) -> io::Result<usize> {
        let past = scratch.get_mut(..offset).ok_or(io::ErrorKind::InvalidInput)?;
        let mut parts = [IoSliceMut::new(past), IoSliceMut::new(into)];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let mut control = RecvAncillaryBuffer::default();
        let message = rustix::net::recvmsg(self.socket.as_fd(), &mut parts, &mut control, flags)?;
        if message.bytes > offset {
            return Ok(message.bytes - offset);
        }
        // Nothing new: but is that the end? Only a socket without data says so, and this one has some
        // unless the inside has acknowledged all.
        self.at_end()
    }

    /// What a peek behind all data comes to: 0 at the end of the stream.
    fn at_end(&self) -> io::Result<usize> {
        let mut fds = [rustix::event::PollFd::new(&self.socket, rustix::event::PollFlags::RDHUP)];
        rustix::event::poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        let told = fds[0].revents();
        if told.contains(rustix::event::PollFlags::ERR) {
            return Err(self.socket.take_error()?.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()));
        }
        if told.contains(rustix::event::PollFlags::RDHUP) {
            Ok(0)
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }
}

impl Stream for HostStream {
    fn outcome(&self) -> io::Result<bool> {
        if self.socket.peer_addr().is_ok() {
            return Ok(true);
        }
        self.error().map_or(Ok(false), Err)
    }

    fn error(&self) -> Option<io::Error> {
        self.socket.take_error().unwrap_or_else(Some)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The inside has waited already for what it wanted to wait for. The first segment never waits.
        if self.sent && !self.undelayed {
            self.socket.set_tcp_nodelay(true)?;
            self.undelayed = true;
        }
        self.sent = true;
        Ok(rustix::net::send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    }

    fn peek(&mut self, offset: usize, into: &mut [u8], scratch: &mut [u8]) -> io::Result<usize> {
        let Some(peeks_at) = self.peeks_at else { return self.peek_past(offset, into, scratch) };
        if peeks_at != offset {
            inet::set_peek_offset(&self.socket, offset as i32)?;
            self.peeks_at = Some(offset);
        }
        let (count, _) = rustix::net::recv(&self.socket, into, RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
        self.peeks_at = Some(offset + count);
        Ok(count)
    }

    fn discard(&mut self, count: usize, scratch: &mut [u8]) -> io::Result<usize> {
        let count = count.min(scratch.len());
        // TCP takes MSG_TRUNC as "throw away" (tcp(7)).
        let flags = RecvFlags::TRUNC | RecvFlags::DONTWAIT;
        let (_, gone) = rustix::net::recv(&self.socket, &mut scratch[..count], flags)?;
        if let Some(peeks_at) = &mut self.peeks_at {
            *peeks_at = peeks_at.saturating_sub(gone);
        }
        Ok(gone)
    }

    fn shut(&mut self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Write)
    }

    fn reset(&mut self) {
        // A close without it says FIN, and the remote takes what it has for all there is.
        let _ = self.socket.set_linger(Some(Duration::ZERO));
    }
}
