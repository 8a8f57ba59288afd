//! The live flow table that everybody can read without stopping a worker.
//!
//! Theory of operation. The worker owns its sessions; nobody else may touch them. A reader therefore
//! *asks for a sweep* and waits; the worker, between packets, copies its sessions here a page at a
//! time and says when it is done. What was here before and has not been put again is dropped then.
//! While nobody asks, a worker pays one atomic load a turn and the board is empty.
//!
//! ```text
//! reader                              worker
//! sweep = board.request()
//! engine.wake()                       if board.wanted() { board.begin(now) }
//! board.wait(sweep, timeout)          board.put(page) .. board.put(page)   (some each turn)
//! board.select(|session| ..)          board.finish()
//!                                     after 10 s without requests: board.forget()
//! ```
//!
//! The map's rule (dashmap holds a shard's lock while a reference or iterator lives) is kept by
//! giving out copies only. There are many shards so that a reader that copies holds up a worker
//! for the copying of a few thousand entries at most.

use crate::flow::Time;
use crate::nat::SessionView;
use dashmap::DashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A power of two; see the module's text.
const SHARDS: usize = 256;

/// The live flow table.
#[derive(Debug)]
pub struct FlowBoard {
    /// Sessions by id, each with the sweep that put it.
    sessions: DashMap<u64, (SessionView, u64), foldhash::fast::RandomState>,
    /// The highest sweep that was asked for.
    requested: AtomicU64,
    /// The sweep that began last.
    begun: AtomicU64,
    /// When it began, in nanoseconds of [`Time`].
    began_at: AtomicU64,
    /// The sweep that ended last.
    done: Mutex<u64>,
    ended: Condvar,
}

impl Default for FlowBoard {
    fn default() -> Self {
        FlowBoard::new()
    }
}

impl FlowBoard {
    /// An empty board.
    pub fn new() -> Self {
        FlowBoard {
            sessions: DashMap::with_hasher_and_shard_amount(Default::default(), SHARDS),
            requested: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            began_at: AtomicU64::new(0),
            done: Mutex::new(0),
            ended: Condvar::new(),
        }
    }

    /// Asks for a sweep that begins after this call; gives its number for [`FlowBoard::wait`]. The
    /// worker has to be woken. Requests that come before a sweep begins share it.
    pub fn request(&self) -> u64 {
        let sweep = self.begun.load(Ordering::SeqCst) + 1;
        self.requested.fetch_max(sweep, Ordering::SeqCst);
        sweep
    }

    /// Waits until that sweep has ended; false if it does not in time.
    pub fn wait(&self, sweep: u64, timeout: Duration) -> bool {
        let done = self.done();
        let waited = self.ended.wait_timeout_while(done, timeout, |done| *done < sweep);
        let (done, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *done >= sweep
    }

    /// Copies of all sessions, in no order.
    pub fn snapshot(&self) -> Vec<SessionView> {
        self.select(|_| true)
    }

    /// Copies of the sessions that `wanted` likes, in no order.
    pub fn select(&self, wanted: impl Fn(&SessionView) -> bool) -> Vec<SessionView> {
        self.sessions.iter().map(|entry| entry.value().0).filter(wanted).collect()
    }

    /// When the last sweep began: the moment that ages and rests of the sessions count from.
    pub fn taken_at(&self) -> Time {
        Time::from_nanos(self.began_at.load(Ordering::SeqCst))
    }

    /// For the worker: whether somebody waits for a sweep that has not begun. One atomic load or two.
    pub fn wanted(&self) -> bool {
        self.requested.load(Ordering::Relaxed) > self.begun.load(Ordering::Relaxed)
    }

    /// For the worker: begins a sweep.
    pub fn begin(&self, now: Time) {
        self.began_at.store(now.as_nanos(), Ordering::SeqCst);
        self.begun.fetch_add(1, Ordering::SeqCst);
    }

    /// For the worker: puts a page of sessions.
    pub fn put(&self, page: &[SessionView]) {
        let sweep = self.begun.load(Ordering::SeqCst);
        for session in page {
            self.sessions.insert(session.id, (*session, sweep));
        }
    }

    /// For the worker: ends the sweep. Sessions that it did not put are gone.
    pub fn finish(&self) {
        let sweep = self.begun.load(Ordering::SeqCst);
        self.sessions.retain(|_, (_, put)| *put == sweep);
        *self.done() = sweep;
        self.ended.notify_all();
    }

    /// For the worker: empties the board and gives its memory back, when nobody has asked for long.
    pub fn forget(&self) {
        self.sessions.clear();
        self.sessions.shrink_to_fit();
    }

    fn done(&self) -> MutexGuard<'_, u64> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
