//! The server of the control socket: a thread that lets clients in, and one for each client.
//!
//! Nothing here touches the gateway but through [`Engine`], whose questions are answered between
//! packets; a slow client keeps only its own thread waiting. Everything is bounded: clients, the
//! length of a request, what is queued for a client.

use super::connection::{Bell, Connection, Line};
use super::engine::Engine;
use super::protocol::{Greeting, LONGEST_REQUEST, PROTOCOL, Problem, parse_request};
use super::requests;
use super::socket::{SocketError, SocketFile};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

/// How many clients there can be at once.
pub const CLIENTS: usize = 64;

/// A running server. Dropping it ends all connections, waits for its threads, and removes the
/// socket. Questions under way end with it only when the engine answers them or says that it is
/// gone: an engine that ends should first see to that.
#[derive(Debug)]
pub struct Server {
    stop: Bell,
    door: Option<JoinHandle<()>>,
}

impl Server {
    /// Makes the socket at `path` and serves `engine` there.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn start(path: &Path, engine: Arc<dyn Engine>) -> Result<Server, SocketError> {
        Server::serve(SocketFile::bind(path)?, engine)
    }

    /// Serves `engine` at a socket that is made already.
    ///
    /// # Errors
    /// The kernel gives no eventfd or thread.
    pub fn serve(socket: SocketFile, engine: Arc<dyn Engine>) -> Result<Server, SocketError> {
        let path = socket.path().to_owned();
        let fail = |doing| {
            let path = path.clone();
            move |error: io::Error| SocketError::Io { path, doing, error }
        };
        let stop = Bell::new().map_err(fail("making an eventfd"))?;
        let ends = stop.clone();
        let door = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || let_in(&socket, &engine, &ends))
            .map_err(fail("starting a thread"))?;
        Ok(Server { stop, door: Some(door) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.ring();
        if let Some(door) = self.door.take() {
            // If it has panicked there is nothing left to wait for.
            let _ = door.join();
        }
    }
}

fn let_in(socket: &SocketFile, engine: &Arc<dyn Engine>, stop: &Bell) {
    let mut clients: Vec<JoinHandle<()>> = Vec::new();
    let mut pause = None;
    loop {
        let mut fds = [PollFd::new(stop, PollFlags::IN), PollFd::new(socket.listener(), PollFlags::IN)];
        // While no descriptor is left, the listener stays readable: look at it now and then only.
        let watched = if pause.is_some() { &mut fds[..1] } else { &mut fds[..] };
        let woken = poll(watched, pause.as_ref());
        if stop.rung() || woken.is_err_and(|error| error != rustix::io::Errno::INTR) {
            break;
        }
        pause = None;
        clients.retain(|client| !client.is_finished());
        match socket.listener().accept() {
            Ok((stream, _)) if clients.len() < CLIENTS => {
                let (engine, stop) = (Arc::clone(engine), stop.clone());
                let client = std::thread::Builder::new().name("control-client".into()).spawn(move || {
                    // However a connection ends, the client knows, and there is nobody else to tell.
                    let _ = serve(stream, engine.as_ref(), stop);
                });
                clients.extend(client);
            }
            Ok((stream, _)) => turn_away(stream, stop),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => pause = Some(Timespec { tv_sec: 0, tv_nsec: 200_000_000 }),
        }
    }
    for client in clients {
        let _ = client.join();
    }
}

fn turn_away(stream: UnixStream, stop: &Bell) {
    let problem = Problem::new(
        "busy",
        format!("{CLIENTS} clients are connected already"),
        "close one, for example a forgotten `tapnat events`",
    );
    if let Ok(mut client) = Connection::new(stream, stop.clone()) {
        // An empty socket takes one line without waiting.
        client.set_patience(Some(std::time::Duration::ZERO));
        let _ = client.finish(None, Err(problem));
    }
}

fn serve(stream: UnixStream, engine: &dyn Engine, stop: Bell) -> io::Result<()> {
    let mut client = Connection::new(stream, stop)?;
    let about = engine.about();
    client.put(&Greeting {
        tapnat: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: PROTOCOL,
        name: about.name,
        pid: about.pid,
    })?;
    client.flush()?;
    loop {
        match client.line()? {
            Line::End => return Ok(()),
            Line::TooLong => {
                let message = format!("a request of more than {LONGEST_REQUEST} bytes");
                return client.finish(None, Err(Problem::new("too-long", message, "send shorter lines")));
            }
            Line::Whole(line) if line.iter().all(u8::is_ascii_whitespace) => {}
            Line::Whole(line) => match parse_request(&line) {
                (id, Ok(request)) => requests::answer(&mut client, engine, id, request)?,
                (id, Err(problem)) => client.finish(id, Err(problem))?,
            },
        }
    }
}
