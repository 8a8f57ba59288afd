//! Asking over a network that loses packets: each request is sent again until its response comes, or
//! for so long and no longer (RFC 8489 §6.2.1).

use super::message::{Message, Transaction};
use crate::flow::Time;
use std::net::SocketAddr;
use std::time::Duration;

/// Rc of RFC 8489: how often a request is sent at most.
pub const TRIES: u32 = 7;
/// For questions of which many are asked and a lost one costs little.
pub const FEW_TRIES: u32 = 3;
/// Rm: how many times the first wait the last one is at most.
const LAST_WAIT: u32 = 16;
/// The first wait of RFC 8489 while no round trip has been measured.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Bounds of a wait that follows from measured round trips.
const WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// A socket of the [`World`], by number.
pub type Socket = usize;

/// What a probe needs of the world: sockets, time and chance.
pub trait World {
    /// The time.
    fn now(&self) -> Time;
    /// Random bytes that nobody can guess.
    fn random(&mut self) -> [u8; 12];
    /// Opens a UDP socket at a port that the system chooses. If `whole`, what is sent by it is never cut
    /// into fragments, not here (whatever the system has heard of the path) and not on the way.
    ///
    /// # Errors
    /// The system's words.
    fn open(&mut self, whole: bool) -> Result<Socket, String>;
    /// Closes it.
    fn close(&mut self, socket: Socket);
    /// Its own endpoint, as this host sees it.
    fn local(&self, socket: Socket) -> SocketAddr;
    /// The largest IP packet that the system would send to the server in one piece, in bytes.
    fn mtu(&self) -> u16;
    /// Sends a datagram.
    ///
    /// # Errors
    /// The system's words.
    fn send(&mut self, socket: Socket, to: SocketAddr, bytes: &[u8]) -> Result<(), String>;
    /// Waits for the next datagram to any open socket, until `until` at most.
    fn receive(&mut self, until: Time) -> Option<(Socket, SocketAddr, Vec<u8>)>;
    /// Hears what goes on, for somebody who waits.
    fn progress(&mut self, what: Progress);
}

/// What a probe is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// It begins with this part.
    Part(&'static str),
    /// It lets a mapping be idle until then, and will have waited for so long.
    Idle {
        /// When it goes on.
        until: Time,
        /// How long the mapping will have been idle.
        idle: Duration,
        /// The mapping's lifetime is known to be at least this.
        at_least: Duration,
        /// And less than this.
        less_than: Option<Duration>,
    },
}

/// A request on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    /// The socket that sends it.
    pub socket: Socket,
    /// Where to.
    pub to: SocketAddr,
    /// The request.
    pub message: Message,
    /// Another socket that the response may come to.
    pub ear: Option<Socket>,
}

impl Question {
    /// A request whose response comes back to where it was sent from.
    pub fn new(socket: Socket, to: SocketAddr, message: Message) -> Question {
        Question { socket, to, message, ear: None }
    }
}

/// A message with the transaction of a [`Question`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// The socket that heard it.
    pub at: Socket,
    /// Who sent it.
    pub from: SocketAddr,
    /// What it says.
    pub message: Message,
    /// When it was heard.
    pub heard: Time,
}

/// Asks, and knows how long answers take.
#[derive(Debug)]
pub struct Asker<'w, W> {
    /// Where it asks.
    pub world: &'w mut W,
    /// The first wait, if somebody chose it.
    chosen: Option<Duration>,
    /// Smoothed round trip and its variation (RFC 6298).
    measured: Option<(Duration, Duration)>,
    /// What the system said when it last refused to send.
    pub trouble: Option<String>,
}

impl<'w, W: World> Asker<'w, W> {
    /// Asks in `world` and waits `rto` before it repeats itself the first time; without, that
    /// follows from measured round trips (RFC 8489 §6.2.1, RFC 6298).
    pub fn new(world: &'w mut W, rto: Option<Duration>) -> Self {
        Asker { world, chosen: rto, measured: None, trouble: None }
    }

    /// A new request.
    pub fn request(&mut self) -> Message {
        Message::request(Transaction::modern(self.world.random()))
    }

    /// How long to wait before the first repetition.
    pub fn wait(&self) -> Duration {
        let measured = self.measured.map(|(trip, varies)| (trip + varies * 4).clamp(WAITS.0, WAITS.1));
        self.chosen.or(measured).unwrap_or(FIRST_WAIT)
    }

    /// The smoothed round trip time, once there was one.
    pub fn round_trip(&self) -> Option<Duration> {
        self.measured.map(|(trip, _)| trip)
    }

    /// Asks one question as often as RFC 8489 allows.
    pub fn ask(&mut self, question: Question) -> Option<Reply> {
        self.ask_all(&[question], TRIES).pop().flatten()
    }

    /// Asks several questions at once, each at most `tries` times with twice the wait each time, and
    /// gives their replies in the same order.
    pub fn ask_all(&mut self, questions: &[Question], tries: u32) -> Vec<Option<Reply>> {
        let wait = self.wait();
        let bytes: Vec<Vec<u8>> = questions.iter().map(|question| question.message.write()).collect();
        let mut replies: Vec<Option<Reply>> = vec![None; questions.len()];
        for attempt in 0..tries {
            let sent = self.world.now();
            for (number, question) in questions.iter().enumerate() {
                if replies[number].is_none()
                    && let Err(trouble) = self.world.send(question.socket, question.to, &bytes[number])
                {
                    self.trouble = Some(trouble);
                }
            }
            let twice = 1 << attempt.min(16);
            let factor = if attempt + 1 == tries { twice.min(LAST_WAIT) } else { twice };
            self.listen(questions, &mut replies, sent + wait * factor);
            if replies.iter().all(Option::is_some) {
                // A response to a repeated request does not tell which one it answers (RFC 6298 §3).
                let last = replies.iter().flatten().map(|reply| reply.heard).max();
                if let (0, Some(last)) = (attempt, last) {
                    self.measure(last.since(sent));
                }
                break;
            }
        }
        replies
    }

    /// Hears replies until each question has one, or until `until`.
    fn listen(&mut self, questions: &[Question], replies: &mut [Option<Reply>], until: Time) {
        while replies.iter().any(Option::is_none) {
            let Some((socket, from, bytes)) = self.world.receive(until) else { return };
            let Ok(message) = Message::parse(&bytes) else { continue };
            let asked = |question: &Question| {
                let near = question.socket == socket || question.ear == Some(socket);
                near && question.message.transaction == message.transaction
            };
            if let Some(number) = questions.iter().position(asked) {
                let heard = self.world.now();
                replies[number].get_or_insert(Reply { at: socket, from, message, heard });
            }
        }
    }

    fn measure(&mut self, trip: Duration) {
        self.measured = Some(match self.measured {
            None => (trip, trip / 2),
            Some((smoothed, varies)) => {
                (smoothed * 7 / 8 + trip / 8, varies * 3 / 4 + smoothed.abs_diff(trip) / 4)
            }
        });
    }

    /// Lets time pass; what is heard meanwhile is late and means nothing.
    pub fn idle(&mut self, until: Time) {
        while self.world.now() < until {
            self.world.receive(until);
        }
    }
}
