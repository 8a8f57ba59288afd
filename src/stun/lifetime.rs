//! How long does an idle mapping live (RFC 5780 §4.6)?
//!
//! One socket has a mapping and says nothing more. After a while, another asks the server to answer to
//! that mapping's port: if the answer arrives, the mapping was alive. The answer would keep it alive,
//! so each mapping can be asked about only once. So several sockets wait at once, each for a longer
//! time; the first that is not reached ends the round, and the next looks more closely between.

use super::attribute::Attribute;
use super::exchange::{Asker, Progress, Question, Socket, TRIES, World};
use super::probe::{mapped, refusal};
use super::report::{Found, Lifetime};
use crate::flow::Time;
use std::net::SocketAddr;
use std::time::Duration;

/// How many parts a round cuts the unknown into.
const PARTS: u32 = 8;
/// How closely to look, at best and as a part of the answer.
const CLOSELY: (Duration, u32) = (Duration::from_millis(250), 50);

/// Between which waits to look for the end of a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// The shortest wait of the first round.
    pub least: Duration,
    /// The longest wait.
    pub most: Duration,
}

/// A socket that waits.
struct Sleeper {
    socket: Socket,
    mapped: SocketAddr,
    since: Time,
    idle: Duration,
}

/// Looks for the end of a mapping.
///
/// # Errors
/// Why it cannot be known.
pub fn lifetime<W: World>(asker: &mut Asker<'_, W>, server: SocketAddr, span: Span) -> Found<Lifetime> {
    let caller = asker.world.open(false)?;
    let found = search(asker, server, caller, span);
    asker.world.close(caller);
    found
}

fn search<W: World>(
    asker: &mut Asker<'_, W>,
    server: SocketAddr,
    caller: Socket,
    span: Span,
) -> Found<Lifetime> {
    let (mut alive, mut dead) = (Duration::ZERO, None);
    if round(asker, server, caller, &[Duration::ZERO], (alive, dead))?.1.is_some() {
        return Err("the server does not answer to another port (RESPONSE-PORT)".to_owned());
    }
    let mut waits: Vec<Duration> =
        (0..=PARTS).map(|part| span.least + span.most.saturating_sub(span.least) * part / PARTS).collect();
    loop {
        let (longest, shortest) = round(asker, server, caller, &waits, (alive, dead))?;
        alive = longest.map_or(alive, |longest| longest.max(alive));
        dead = shortest.or(dead);
        let Some(dead) = dead else { return Ok(Lifetime::AtLeast(alive)) };
        let unknown = dead.saturating_sub(alive);
        if unknown <= CLOSELY.0.max(dead / CLOSELY.1) {
            return Ok(Lifetime::Between(alive, dead));
        }
        waits = (1..PARTS).map(|part| alive + unknown * part / PARTS).collect();
    }
}

/// Lets a mapping sleep for each of `waits`, which are in order. Gives the longest wait after which one
/// was alive, and the wait after which one was not.
fn round<W: World>(
    asker: &mut Asker<'_, W>,
    server: SocketAddr,
    caller: Socket,
    waits: &[Duration],
    known: (Duration, Option<Duration>),
) -> Found<(Option<Duration>, Option<Duration>)> {
    let mut sleepers = Vec::new();
    let mut sockets = Vec::new();
    let opened: Found<()> = waits.iter().try_for_each(|_| {
        sockets.push(asker.world.open(false)?);
        Ok(())
    });
    let questions: Vec<Question> =
        sockets.iter().map(|&socket| Question::new(socket, server, asker.request())).collect();
    for ((&socket, &idle), reply) in sockets.iter().zip(waits).zip(asker.ask_all(&questions, TRIES)) {
        if let Some((mapped, since)) = reply.and_then(|reply| Some((mapped(&reply.message)?, reply.heard))) {
            sleepers.push(Sleeper { socket, mapped, since, idle });
        }
    }
    let whole = sleepers.len() == waits.len();
    let mut found = Ok((None, None));
    if let Err(trouble) = opened {
        found = Err(trouble);
    } else if !whole {
        found = Err("the server does not answer any more".to_owned());
    } else {
        for sleeper in &sleepers {
            match wake(asker, server, caller, sleeper, known) {
                Ok(true) => found = found.map(|(_, dead)| (Some(sleeper.idle), dead)),
                Ok(false) => {
                    found = found.map(|(alive, _)| (alive, Some(sleeper.idle)));
                    break;
                }
                Err(why) => {
                    found = Err(why);
                    break;
                }
            }
        }
    }
    sockets.into_iter().for_each(|socket| asker.world.close(socket));
    found
}

/// Waits until the sleeper has been idle for long enough, and asks the server to answer to it.
fn wake<W: World>(
    asker: &mut Asker<'_, W>,
    server: SocketAddr,
    caller: Socket,
    sleeper: &Sleeper,
    (at_least, less_than): (Duration, Option<Duration>),
) -> Found<bool> {
    let until = sleeper.since + sleeper.idle;
    asker.world.progress(Progress::Idle { until, idle: sleeper.idle, at_least, less_than });
    asker.idle(until);
    let message = asker.request().with(Attribute::ResponsePort(sleeper.mapped.port()));
    // The answer comes to the sleeper; a refusal, or that of a server that knows no better, to the caller.
    let question = Question { ear: Some(sleeper.socket), ..Question::new(caller, server, message) };
    match asker.ask(question) {
        None => Ok(false),
        Some(reply) if reply.at == sleeper.socket => Ok(true),
        Some(reply) => Err(match refusal(&reply.message) {
            Some(code) => format!("the server refuses RESPONSE-PORT ({code})"),
            None => "the server knows nothing of RESPONSE-PORT".to_owned(),
        }),
    }
}
