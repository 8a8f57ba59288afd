//! Commands from other threads to the worker, and its answers. Bounded: who finds it full waits
//! for the worker like everybody else in it, and not for ever.

use super::clock::Clock;
use crate::control::{About, Engine, Gone};
use crate::flow::Time;
use crate::gateway::{Command, Reply};
use crate::observe::{Feed, FlowBoard};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

/// Commands that wait for the worker at a time.
const WAITING: usize = 64;
/// How long an answer may take. The worker looks between any two bursts of packets.
const PATIENCE: Duration = Duration::from_secs(5);

/// A command and where its answer goes.
pub type Letter = (Command, SyncSender<Reply>);

/// The worker's end.
#[derive(Debug)]
pub struct Mailbox {
    letters: Receiver<Letter>,
}

impl Mailbox {
    /// The next command, if there is one.
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
    about: About,
    clock: Clock,
}

/// A mailbox and its handle.
pub fn mailbox(
    waker: Arc<mio::Waker>,
    board: Arc<FlowBoard>,
    feed: Feed,
    about: About,
    clock: Clock,
) -> (Handle, Mailbox) {
    let (send, receive) = sync_channel(WAITING);
    (Handle { letters: send, waker, board, feed, about, clock }, Mailbox { letters: receive })
}

impl Engine for Handle {
    fn ask(&self, command: Command) -> Result<Reply, Gone> {
        let (send, receive) = sync_channel(1);
        self.letters.try_send((command, send)).map_err(|_| Gone)?;
        self.wake();
        receive.recv_timeout(PATIENCE).map_err(|_| Gone)
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
        self.about.clone()
    }

    fn wall_clock_base(&self) -> SystemTime {
        self.clock.base()
    }

    fn now(&self) -> Time {
        self.clock.now()
    }
}
