//! What all servers share: a thread that serves until told to stop.

use crate::io::sys::netns::Netns;
use rustix::event::{PollFd, PollFlags, poll};
use std::io::{self, PipeReader, PipeWriter};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::BorrowedFd;
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a connection may say nothing before its thread gives it up.
const IDLE: Duration = Duration::from_secs(30);

/// A serving thread; it ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<Option<()>>>,
    address: SocketAddr,
}

/// Where a serving thread hears that it must stop.
#[derive(Debug)]
pub struct Stop(PipeReader);

impl Stop {
    /// Waits until `fd` is readable; `false` if it is time to stop.
    pub fn wait(&self, fd: BorrowedFd<'_>) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN), PollFd::new(&self.0, PollFlags::IN)];
        loop {
            match poll(&mut fds, None) {
                Ok(_) => return fds[1].revents().is_empty(),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }
}

impl Server {
    /// Runs `open` in `netns`, and then `serve` with what it opened, until the server is dropped.
    ///
    /// # Errors
    /// What `open` says, or that no thread could be started.
    pub fn start<S: Send + 'static, A: Into<SocketAddr> + Send>(
        netns: &Netns,
        name: &str,
        open: impl FnOnce() -> io::Result<(S, A)> + Send,
        serve: impl FnOnce(S, Stop) + Send + 'static,
    ) -> io::Result<Server> {
        let (socket, address) = netns.run(open)??;
        let (reader, writer) = io::pipe()?;
        let thread = netns.spawn(name, move || serve(socket, Stop(reader)))?;
        Ok(Server { stop: Some(writer), thread: Some(thread), address: address.into() })
    }

    /// Serves TCP connections at `address` in `netns`, each on a thread of its own. Port 0 means any.
    ///
    /// # Errors
    /// `EADDRINUSE` and its kin.
    pub fn tcp(
        netns: &Netns,
        name: &str,
        address: impl Into<SocketAddr>,
        serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> io::Result<Server> {
        let address = address.into();
        let open = || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let bound = listener.local_addr()?;
            Ok((listener, bound))
        };
        let serve = std::sync::Arc::new(serve);
        let connection = format!("{name}-conn");
        Server::start(netns, name, open, move |listener, stop| {
            use std::os::fd::AsFd;
            while stop.wait(listener.as_fd()) {
                let Ok((stream, _)) = listener.accept() else { continue };
                let serve = std::sync::Arc::clone(&serve);
                // A client that goes away in mid-sentence is the client's business.
                let _ = std::thread::Builder::new().name(connection.clone()).stack_size(256 << 10).spawn(
                    move || {
                        let _ = stream.set_nonblocking(false);
                        let _ = stream.set_nodelay(true);
                        let _ = stream.set_read_timeout(Some(IDLE));
                        let _ = stream.set_write_timeout(Some(IDLE));
                        let _ = serve(stream);
                    },
                );
            }
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
