//! Events from a worker to those who watch. A worker never waits for a watcher: each has a bounded
//! queue, and what does not fit is counted and told to it.

use super::event::{Event, Kind, Kinds};
use super::filter::Filter;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many events wait for one subscriber at most.
pub const QUEUE: usize = 4096;

/// The fan-out. Clones are the same feed.
#[derive(Clone, Default, Debug)]
pub struct Feed {
    shared: Arc<Shared>,
}

#[derive(Default, Debug)]
struct Shared {
    /// How many subscribers want each kind: what a worker looks at before it makes an event.
    listeners: [AtomicUsize; Kind::ALL.len()],
    queues: Mutex<Vec<Arc<Queue>>>,
}

/// What a subscriber wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Which kinds.
    pub kinds: Kinds,
    /// About which flows.
    pub filter: Filter,
    /// After how many packets there is enough; others are without end.
    pub packets: u64,
}

/// Called when a queue that was empty is not any more; must not block.
type Wake = Box<dyn Fn() + Send + Sync>;

struct Queue {
    wanted: Wanted,
    wake: Wake,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    events: VecDeque<Arc<Event>>,
    lost: u64,
    packets: u64,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

/// A thread that dies with the lock held leaves a queue that is still a queue.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Feed {
    /// A feed without subscribers.
    pub fn new() -> Feed {
        Feed::default()
    }

    /// How many subscribers want events of this kind. A worker asks before it makes one.
    pub fn listeners(&self, kind: Kind) -> usize {
        self.shared.listeners[kind as usize].load(Ordering::Relaxed)
    }

    /// Hands an event to all who want it. Takes short locks, never waits for a reader.
    pub fn push(&self, event: Event) {
        if self.listeners(event.kind()) == 0 {
            return;
        }
        let event = Arc::new(event);
        for queue in lock(&self.shared.queues).iter() {
            if queue.wanted.kinds.has(event.kind()) && queue.wanted.filter.event(&event) && queue.push(&event)
            {
                self.shared.listeners[Kind::Packet as usize].fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Begins to listen. `wake` is called, by the worker, when there is something to take after
    /// there was nothing; it must not block. Dropping the subscription ends it.
    pub fn subscribe(&self, wanted: Wanted, wake: impl Fn() + Send + Sync + 'static) -> Subscription {
        let queue = Arc::new(Queue { wanted, wake: Box::new(wake), waiting: Mutex::default() });
        self.count(&queue, |listeners| {
            listeners.fetch_add(1, Ordering::Relaxed);
        });
        lock(&self.shared.queues).push(Arc::clone(&queue));
        Subscription { feed: self.clone(), queue }
    }

    fn count(&self, queue: &Queue, change: impl Fn(&AtomicUsize)) {
        for kind in Kind::ALL {
            if queue.listens(kind) {
                change(&self.shared.listeners[kind as usize]);
            }
        }
    }
}

impl Queue {
    /// True if this was the last packet that is wanted.
    fn push(&self, event: &Arc<Event>) -> bool {
        let mut waiting = lock(&self.waiting);
        let mut last = false;
        if event.kind() == Kind::Packet {
            if waiting.packets >= self.wanted.packets {
                return false;
            }
            waiting.packets += 1;
            last = waiting.packets == self.wanted.packets;
        }
        if waiting.events.len() >= QUEUE {
            waiting.lost += 1;
            return last;
        }
        let first = waiting.events.is_empty();
        waiting.events.push_back(Arc::clone(event));
        drop(waiting);
        if first {
            (self.wake)();
        }
        last
    }

    /// Whether it is among those that [`Feed::listeners`] counts for `kind`.
    fn listens(&self, kind: Kind) -> bool {
        let enough = || lock(&self.waiting).packets >= self.wanted.packets;
        self.wanted.kinds.has(kind) && !(kind == Kind::Packet && enough())
    }
}

/// A place in a feed, until it is dropped.
#[derive(Debug)]
pub struct Subscription {
    feed: Feed,
    queue: Arc<Queue>,
}

/// What a subscriber is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// Something happened.
    Event(Arc<Event>),
    /// So many events were lost here because the subscriber is slow.
    Lost(u64),
}

impl Subscription {
    /// Takes what is waiting, at most `limit` events, oldest first. Losses are told after the events
    /// that were queued before them.
    pub fn take(&self, limit: usize) -> Vec<Told> {
        let mut waiting = lock(&self.queue.waiting);
        let count = waiting.events.len().min(limit);
        let mut told: Vec<Told> = waiting.events.drain(..count).map(Told::Event).collect();
        if waiting.events.is_empty() && waiting.lost > 0 {
            told.push(Told::Lost(std::mem::take(&mut waiting.lost)));
        }
        told
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        lock(&self.feed.shared.queues).retain(|queue| !Arc::ptr_eq(queue, &self.queue));
        self.feed.count(&self.queue, |listeners| {
            listeners.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Time;
    use crate::observe::event::{Note, PacketSeen, What};
    use std::sync::atomic::AtomicU32;

    fn note() -> Event {
        Event { at: Time::ZERO, what: What::Note(Note::LinkUp("eth0".into())) }
    }

    fn packet() -> Event {
        let seen = PacketSeen {
            dropped: false,
            fate: "out",
            from: "tapnat0".into(),
            to: None,
            flow: None,
            translated: None,
            length: 20,
            before: vec![0x45],
            after: Vec::new(),
        };
        Event { at: Time::ZERO, what: What::Packet(Box::new(seen)) }
    }

    fn wanted(kind: Kind, packets: u64) -> Wanted {
        Wanted { kinds: [kind].into_iter().collect(), filter: Filter::default(), packets }
    }

    #[test]
    fn a_slow_subscriber_is_told_what_it_lost_and_the_memory_is_bounded() {
        let feed = Feed::new();
        let woken = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&woken);
        let slow = feed.subscribe(wanted(Kind::Note, 0), move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        for _ in 0..QUEUE + 7 {
            feed.push(note());
        }
        assert_eq!(woken.load(Ordering::Relaxed), 1, "woken once while nothing is taken");
        assert_eq!(slow.take(10).len(), 10);
        let told = slow.take(usize::MAX);
        assert_eq!(told.len(), QUEUE - 10 + 1);
        assert_eq!(told.last(), Some(&Told::Lost(7)));
        assert_eq!(slow.take(usize::MAX), []);
    }

    #[test]
    fn only_what_is_wanted_is_counted_and_given() {
        let feed = Feed::new();
        let notes = feed.subscribe(wanted(Kind::Note, 0), || {});
        let packets = feed.subscribe(wanted(Kind::Packet, 2), || {});
        assert_eq!([feed.listeners(Kind::Note), feed.listeners(Kind::Packet)], [1, 1]);
        for _ in 0..3 {
            feed.push(packet());
        }
        assert_eq!(feed.listeners(Kind::Packet), 0, "two packets were enough");
        assert_eq!((notes.take(9).len(), packets.take(9).len()), (0, 2));
        drop(packets);
        assert_eq!(feed.listeners(Kind::Packet), 0);
        drop(notes);
        assert_eq!(feed.listeners(Kind::Note), 0);
    }
}
