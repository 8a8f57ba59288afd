//! Commands and new settings from other threads to the worker, and its answers. Bounded: who finds it full waits
//! for the worker like everybody else in it, and not for ever.

use super::clock::Clock;
use super::reload::{Plan, Reloader, Settled};
use crate::control::protocol::Problem;
use crate::control::{About, Engine, Gone, Reloaded, Source};
use crate::flow::Time;
use crate::gateway::{Command, Reply};
use crate::io::resolver::ResolvConf;
use crate::observe::{Feed, FlowBoard};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Commands that wait for the worker at a time.
const WAITING: usize = 64;
/// How long an answer may take. The worker looks between any two bursts of packets.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the worker is asked for, and where its answer goes.
#[derive(Debug)]
pub enum Letter {
    /// To carry out a command.
    Command(Command, SyncSender<Reply>),
    /// To have new settings take effect.
    Plan(Box<Plan>, SyncSender<Result<Settled, Problem>>),
    /// To take how the host looks names up.
    Resolver(ResolvConf),
}

/// The worker's end.
#[derive(Debug)]
pub struct Mailbox {
    letters: Receiver<Letter>,
}

impl Mailbox {
    /// The next letter, if there is one.
    pub fn next(&self) -> Option<Letter> {
        self.letters.try_recv().ok()
    }
}

/// Everybody else's end: what the control interface knows of the gateway.
#[derive(Debug)]
pub struct Handle {
    letters: SyncSender<Letter>,
    waker: Arc<mio::Waker>,
    board: Arc<FlowBoard>,
    feed: Feed,
    about: Mutex<About>,
    clock: Clock,
    reloader: Reloader,
}

/// A mailbox and its handle.
pub fn mailbox(
    waker: Arc<mio::Waker>,
    board: Arc<FlowBoard>,
    feed: Feed,
    about: About,
    clock: Clock,
    reloader: Reloader,
) -> (Handle, Mailbox) {
    let (send, receive) = sync_channel(WAITING);
    let about = Mutex::new(about);
    let handle = Handle { letters: send, waker, board, feed, about, clock, reloader };
    (handle, Mailbox { letters: receive })
}

impl Handle {
    /// Looks what the host has become, and has the gateway follow.
    ///
    /// # Errors
    /// It cannot at the moment.
    pub fn follow(&self) -> Result<(), Problem> {
        let settle = |plan| self.send(|answer| Letter::Plan(plan, answer))?;
        if self.reloader.follow(settle)? {
            self.reloader.describe(&mut self.about.lock().unwrap_or_else(PoisonError::into_inner));
        }
        Ok(())
    }

    /// Notes what the process has given up.
    pub fn tell_protection(&self, lines: Vec<String>) {
        self.about.lock().unwrap_or_else(PoisonError::into_inner).protection = lines;
    }

    /// Sends a letter, and waits for the answer.
    fn send<T>(&self, letter: impl FnOnce(SyncSender<T>) -> Letter) -> Result<T, Gone> {
        let (send, receive) = sync_channel(1);
        self.letters.try_send(letter(send)).map_err(|_| Gone)?;
        self.wake();
        receive.recv_timeout(PATIENCE).map_err(|_| Gone)
    }
}

impl Handle {
    /// Tells the worker how the host looks names up. False if it has too much to do.
    pub fn tell_resolver(&self, conf: ResolvConf) -> bool {
        let told = self.letters.try_send(Letter::Resolver(conf)).is_ok();
        self.wake();
        told
    }
}

impl Engine for Handle {
    fn ask(&self, command: Command) -> Result<Reply, Gone> {
        self.send(|answer| Letter::Command(command, answer))
    }

    fn reload(&self, source: Source<'_>, dry_run: bool) -> Result<Reloaded, Problem> {
        let settle = |plan| self.send(|answer| Letter::Plan(plan, answer))?;
        let reloaded = self.reloader.reload(source, dry_run, settle)?;
        if !dry_run {
            let mut about = self.about.lock().unwrap_or_else(PoisonError::into_inner);
            self.reloader.describe(&mut about);
        }
        Ok(reloaded)
    }

    fn wake(&self) {
        // A waker that fails means that the worker's poll is gone; `ask` then says so.
        let _ = self.waker.wake();
    }

    fn board(&self) -> &FlowBoard {
        &self.board
    }

    fn feed(&self) -> &Feed {
        &self.feed
    }

    fn about(&self) -> About {
        self.about.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn wall_clock_base(&self) -> SystemTime {
        self.clock.base()
    }

    fn now(&self) -> Time {
        self.clock.now()
    }
}
