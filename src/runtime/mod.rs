//! Where time and threads live: opens what [`Settings`] name, runs the worker until a signal, and
//! takes away what it made.

pub mod addresses;
pub mod clock;
mod flood;
pub mod follow;
pub mod host;
pub mod leases;
mod links;
pub mod mailbox;
pub mod memory;
mod orders;
pub mod pages;
pub mod poller;
pub mod portless;
pub mod publish;
pub mod ready;
pub mod reload;
pub mod resolver;
pub mod said;
pub mod sandbox;
pub mod settle;
pub mod signals;
pub mod spin;
pub mod start;
pub mod stock;
pub mod way;
pub mod worker;

use crate::config::{RunFlags, Settings};
use crate::control::server::Server;
use crate::control::socket::SocketFile;
use crate::control::{Engine, Source};
use crate::io::ending::Ending;
use crate::io::netlink::Watcher;
use crate::io::resolver::{PATH, ResolvConf};
use crate::observe::{Feed, FlowBoard};
use addresses::Answering;
use anyhow::Context;
use follow::Follower;
use mailbox::{Handle, mailbox};
use memory::PortMemory;
use poller::Poller;
use reload::Reloader;
use signals::{Hangups, Signals};
use start::Started;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use worker::{Chores, Ended, Worker};

/// Something to do when packets can flow, with the gateway as the control interface sees it. The gateway
/// answers it only later, so that it must not wait for one.
pub type Ready = Box<dyn FnOnce(Arc<dyn Engine>) -> anyhow::Result<()>>;

/// One of several namespaces.
#[derive(Debug)]
pub struct Member {
    /// The number of its TAP.
    pub port: usize,
    /// Its end.
    pub ending: Ending,
}

/// A counter of somebody else's that is shown with the gateway's.
pub struct Counter {
    /// Its name, as in `relay: begun`.
    pub name: &'static str,
    /// What it says; does not wait for anything.
    pub count: Box<dyn Fn() -> u64 + Send>,
}

impl std::fmt::Debug for Counter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counter").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a gateway has around it that is no setting.
#[derive(Default)]
pub struct Around {
    /// What it may not outlive: the first of these to end ends it, in good order.
    pub endings: Vec<Ending>,
    /// TAPs of further namespaces, switched with the one of the settings: numbers 1 and on, that one
    /// being number 0.
    pub taps: Vec<OwnedFd>,
    /// The ends of single namespaces where there are several; each takes its own TAP away, the last
    /// one ends the gateway.
    pub members: Vec<Member>,
    /// Called once when packets can flow, after `ready-fd` was told: the first moment at which
    /// threads may be started.
    pub ready: Option<Ready>,
    /// It goes on without a control socket if none can be made.
    pub control_optional: bool,
    /// Files that are removed at the end, by whoever called.
    pub removes: Vec<PathBuf>,
    /// Nobody will start a gateway of this name again: nothing is remembered for one.
    pub passing: bool,
    /// What others count.
    pub counters: Vec<Counter>,
}

impl std::fmt::Debug for Around {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Around")
            .field("endings", &self.endings)
            .field("members", &self.members)
            .finish_non_exhaustive()
    }
}

/// Is the gateway that `settings` describe, until SIGINT or SIGTERM. They came from `flags` with
/// `runtime_dir` as `$XDG_RUNTIME_DIR`, and are read again at SIGHUP and when a client asks.
///
/// # Errors
/// Why it cannot start or go on: the thing, the cause and the cure.
pub fn run(settings: &Settings, flags: &RunFlags, runtime_dir: Option<&Path>) -> anyhow::Result<()> {
    run_with(settings, flags, runtime_dir, Around::default())
}

/// As [`run`], with something around it.
///
/// # Errors
/// See [`run`].
pub fn run_with(
    settings: &Settings,
    flags: &RunFlags,
    runtime_dir: Option<&Path>,
    around: Around,
) -> anyhow::Result<()> {
    let signals = Signals::take().context("signal handlers")?;
    let hangups = Hangups::take().context("signal handlers")?;
    let clock = clock::Clock::start();
    let Started { gateway, links, guard, stock, host, answering, about } =
        start::start(settings, around.taps, clock)?;

    let mut poller = Poller::new().context("epoll")?;
    links.watch(&mut poller).context("epoll: links")?;
    for fd in signals.descriptors() {
        poller.watch_signals(fd).context("epoll: signals")?;
    }
    let watcher = Watcher::open().context("netlink watcher")?;
    poller.watch_changes(watcher.as_fd()).context("epoll: netlink")?;
    for ending in around.endings.iter().chain(around.members.iter().map(|member| &member.ending)) {
        let watched = poller.watch_ending(ending.as_fd());
        watched.with_context(|| format!("epoll: the descriptor that tells when {}", ending.what()))?;
    }

    let (board, feed) = (Arc::new(FlowBoard::new()), Feed::new());
    let waker = poller.waker().context("eventfd")?;
    let reloader = Reloader::new(
        flags.clone(),
        runtime_dir.map(Path::to_owned),
        settings.clone(),
        gateway.config().clone(),
        host.outside.clone(),
        host.packet,
    );
    let (handle, mailbox) = mailbox(waker, Arc::clone(&board), feed.clone(), about.clone(), clock, reloader);
    let handle = Arc::new(handle);
    let mut worker = Worker {
        gateway,
        links,
        guard,
        stock,
        poller,
        mailbox,
        board,
        feed,
        clock,
        signals,
        endings: around.endings,
        counters: around.counters,
        members: around.members,
        watcher,
        host,
        memory: None,
        chores: Chores::awake(clock.slept()),
    };
    publish::publish_all(&mut worker, settings)?;
    let resolver = settings.tells_names().then(|| worker.read_resolver());
    worker.stock_up();
    let socket = match SocketFile::bind(&settings.control) {
        Err(error) if around.control_optional => {
            tracing::info!("nobody can ask this gateway anything: {error}");
            None
        }
        socket => Some(socket?),
    };
    // The socket keeps a second gateway of the same name from the file beside it.
    if socket.is_some() && !around.passing {
        worker.memory = PortMemory::open(settings, &mut worker.gateway, clock);
    }

    // Threads are protected like the one that starts them: none may be there before this.
    handle.tell_protection(sandbox::enter(settings, flags, &about, &around.removes)?);
    answering.into_iter().for_each(Answering::start);
    let follower = match worker.gateway.config().host_by_uplink {
        // The kernel chooses way and address of each socket.
        true => None,
        false => {
            let watcher = Watcher::open().context("netlink watcher")?;
            Some(Follower::start(watcher, Arc::clone(&handle)).context("a thread that follows the host")?)
        }
    };
    let engine = Arc::clone(&handle) as Arc<dyn Engine>;
    let server = socket.map(|socket| Server::serve(socket, Arc::clone(&engine))).transpose()?;
    let resolver = resolver.map(|known| follow_resolver(known, &handle)).transpose().context("a thread")?;
    let hangups = Hangups::watch(hangups, move || hung_up(handle.as_ref())).context("a thread")?;

    tracing::info!("{}", start::line(&about));
    ready::tell(settings.ready_fd)?;
    if let Some(ready) = around.ready {
        ready(engine)?;
    }
    let (Ended::Signal(_) | Ended::Over(_)) = worker.run().context("the packet loop")?;
    // The worker goes first: questions that wait for it then end at once, and the server with them.
    let mut host = worker.into_host();
    drop((follower, resolver, server, hangups));
    host.made.undo().context("undoing what was set up")?;
    Ok(())
}

/// The host's resolv.conf is told to the worker whenever it says something else than `known`.
fn follow_resolver(known: Option<ResolvConf>, handle: &Arc<Handle>) -> std::io::Result<resolver::Follower> {
    let handle = Arc::clone(handle);
    resolver::Follower::start(Path::new(PATH), known, move |conf| handle.tell_resolver(conf.clone()))
}

/// SIGHUP: reads the settings again. What came of it is said in the log; a success by the worker.
fn hung_up(engine: &dyn Engine) {
    match engine.reload(Source::Start, false) {
        Ok(reloaded) => reloaded.changes.iter().for_each(|change| tracing::info!("{change}")),
        Err(problem) => tracing::warn!("SIGHUP: not reloaded: {problem}"),
    }
}
