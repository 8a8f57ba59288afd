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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Endpoint, Protocol};
    use std::net::Ipv4Addr;

    fn session(id: u64) -> SessionView {
        let end = Endpoint::new(Ipv4Addr::LOCALHOST, 1);
        SessionView {
            id,
            protocol: Protocol::Udp,
            inside: end,
            outside: end,
            remote: end,
            tcp: None,
            answered: true,
            published: false,
            opened: Time::ZERO,
            expires_in: Duration::ZERO,
            packets_out: 0,
            packets_in: 0,
            bytes_out: 0,
            bytes_in: 0,
        }
    }

    fn ids(board: &FlowBoard) -> Vec<u64> {
        let mut ids: Vec<u64> = board.snapshot().iter().map(|session| session.id).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn a_sweep_replaces_what_was_there() {
        let board = FlowBoard::new();
        assert!(!board.wanted());
        let first = board.request();
        assert!(board.wanted());
        assert!(!board.wait(first, Duration::ZERO));
        board.begin(Time::from_secs(5));
        assert!(!board.wanted(), "one sweep serves all who asked before it began");
        board.put(&[session(1), session(2)]);
        board.finish();
        assert!(board.wait(first, Duration::ZERO));
        assert_eq!((ids(&board), board.taken_at()), (vec![1, 2], Time::from_secs(5)));

        board.request();
        board.begin(Time::from_secs(6));
        board.put(&[session(2), session(3)]);
        board.finish();
        assert_eq!(ids(&board), [2, 3]);
        board.forget();
        assert!(board.snapshot().is_empty());
    }

    #[test]
    fn a_request_during_a_sweep_waits_for_the_next_one() {
        let board = FlowBoard::new();
        board.request();
        board.begin(Time::ZERO);
        let late = board.request();
        board.finish();
        assert!(!board.wait(late, Duration::ZERO), "the sweep may have passed its place already");
        assert!(board.wanted());
        board.begin(Time::ZERO);
        board.finish();
        assert!(board.wait(late, Duration::ZERO));
    }

    #[test]
    fn readers_and_the_worker_do_not_stop_each_other() {
        const READERS: usize = 4;
        let board = FlowBoard::new();
        let page: Vec<SessionView> = (0..1000).map(session).collect();
        std::thread::scope(|scope| {
            let reader = || {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let sweep = board.request();
                        assert!(board.wait(sweep, Duration::from_secs(30)));
                        let seen = board.select(|session| session.id < 500).len();
                        assert_eq!(seen, 500, "what stays is seen, also while a sweep is under way");
                    }
                })
            };
            let readers: Vec<_> = std::iter::repeat_with(reader).take(READERS).collect();
            while !readers.iter().all(|reader| reader.is_finished()) {
                if board.wanted() {
                    board.begin(Time::ZERO);
                    board.put(&page);
                    board.finish();
                }
                std::thread::yield_now();
            }
        });
    }
}
