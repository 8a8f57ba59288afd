//! What each request does: a question to the engine, an answer in lines.

use super::connection::{Bell, Connection, PATIENCE};
use super::engine::{Engine, Gone, Reloaded, Source};
use super::lookup;
use super::protocol::{Body, ForwardRecord, Problem, ReloadRecord, RemoveSpec, Request};
use crate::config::PublishSpec;
use crate::flow::{Endpoint, Protocol};
use crate::gateway::{Command, Reply};
use crate::nat::SessionView;
use crate::observe::{EventRecord, Filter, Kind, Kinds, SessionRecord, StatsRecord, Told, Wanted};
use rustix::event::PollFlags;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the worker may take for a sweep of its sessions.
const SWEEP: Duration = Duration::from_secs(10);

/// How many sessions one command forgets, so that packets get their turn between.
const FORGET: usize = 1024;

/// How many events are written at a time.
const BATCH: usize = 256;

pub(super) type Done<T> = Result<T, Problem>;

impl From<Gone> for Problem {
    fn from(gone: Gone) -> Problem {
        Problem::new("gone", gone.to_string(), "it is ending, or very busy: try again")
    }
}

/// An answer of the engine to another question than was asked.
pub(super) fn astray(reply: &Reply) -> Problem {
    Problem::new("gone", format!("the gateway answered {reply:?}"), "this is a fault of tapnat: report it")
}

/// Answers one request, last line included.
///
/// # Errors
/// The connection is broken, or the server stops.
pub fn answer(
    client: &mut Connection,
    engine: &dyn Engine,
    id: Option<u64>,
    request: Request,
) -> io::Result<()> {
    let result = match request {
        Request::About {} => {
            client.say(id, Body::About(Box::new(engine.about())), None)?;
            Ok(1)
        }
        Request::Flows { filter } => match sessions(client, engine, &filter)? {
            Ok(sessions) => {
                let (now, base) = (engine.board().taken_at(), engine.wall_clock_base());
                for session in &sessions {
                    let record = SessionRecord::new(session, now, base);
                    client.say(id, Body::Flow(Box::new(record)), None)?;
                }
                Ok(sessions.len() as u64)
            }
            Err(problem) => Err(problem),
        },
        Request::Stats {} => match stats(engine) {
            Ok(stats) => {
                client.say(id, Body::Stats(Box::new(stats)), None)?;
                Ok(1)
            }
            Err(problem) => Err(problem),
        },
        Request::Events { kinds, packets, filter } => match wanted(kinds, packets, filter) {
            Ok(wanted) => {
                // Who reads events slowly loses events, not the connection.
                client.set_patience(None);
                let told = events(client, engine, id, wanted)?;
                client.set_patience(Some(PATIENCE));
                Ok(told)
            }
            Err(problem) => Err(problem),
        },
        Request::Flush { filter } => match sessions(client, engine, &filter)? {
            Ok(sessions) => forget(engine, &sessions),
            Err(problem) => Err(problem),
        },
        Request::PublishAdd { spec } => say_forwards(client, id, publish(engine, &spec))?,
        Request::PublishRemove { spec } => say_forwards(client, id, unpublish(engine, &spec))?,
        Request::PublishList {} => say_forwards(client, id, published(engine))?,
        Request::Lookup { who, at } => match lookup::Question::new(&who, at.as_deref(), engine) {
            Ok(question) => match sessions(client, engine, &question.filter())? {
                Ok(sessions) => match question.holders(engine, &sessions) {
                    Ok(holders) => {
                        let count = holders.len() as u64;
                        for holder in holders {
                            client.say(id, Body::Holder(holder), None)?;
                        }
                        Ok(count)
                    }
                    Err(problem) => Err(problem),
                },
                Err(problem) => Err(problem),
            },
            Err(problem) => Err(problem),
        },
        Request::Reload { config, text, dry_run } => match engine.reload(source(&config, &text), dry_run) {
            Ok(Reloaded { changes, kept, ended }) => {
                let count = changes.len() as u64;
                for change in changes {
                    client.say(id, Body::Change(change), None)?;
                }
                let record = ReloadRecord { dry_run, kept: kept as u64, ended: ended as u64 };
                client.say(id, Body::Reloaded(record), None)?;
                Ok(count)
            }
            Err(problem) => Err(problem),
        },
    };
    client.finish(id, result)
}

/// Where the settings of a reload are.
fn source<'a>(config: &'a Option<PathBuf>, text: &'a Option<String>) -> Source<'a> {
    match (config, text) {
        (None, None) => Source::Start,
        (Some(path), None) => Source::File(path),
        (config, Some(text)) => {
            Source::Text(config.as_deref().and_then(Path::to_str).unwrap_or("the text that was sent"), text)
        }
    }
}

/// Sessions in the order of a table: by inside host, then by age.
fn sessions(client: &Connection, engine: &dyn Engine, filter: &Filter) -> io::Result<Done<Vec<SessionView>>> {
    let board = engine.board();
    let sweep = board.request();
    engine.wake();
    let slice = Duration::from_millis(100);
    let mut waited = Duration::ZERO;
    while !board.wait(sweep, slice) {
        // A server that stops, or a client that is gone, is seen here, not after the whole wait.
        if client.wait(PollFlags::empty(), None, Some(Duration::ZERO))?.hung_up {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        waited += slice;
        if waited >= SWEEP {
            let cure = "it is very busy: try again";
            return Ok(Err(Problem::new("timeout", "the gateway did not show its flows in time", cure)));
        }
    }
    let mut sessions = board.select(|session| filter.session(session));
    sessions.sort_unstable_by_key(|session| (session.inside.ip, session.opened, session.id));
    Ok(Ok(sessions))
}

fn stats(engine: &dyn Engine) -> Done<StatsRecord> {
    match engine.ask(Command::Counters)? {
        Reply::Counters(counters, counts) => {
            Ok(StatsRecord::new(&counters, &counts, engine.now(), engine.wall_clock_base()))
        }
        other => Err(astray(&other)),
    }
}

fn forget(engine: &dyn Engine, sessions: &[SessionView]) -> Done<u64> {
    let mut forgotten = 0;
    for page in sessions.chunks(FORGET) {
        match engine.ask(Command::Forget(page.iter().map(|session| session.id).collect()))? {
            Reply::Forgotten(count) => forgotten += count as u64,
            other => return Err(astray(&other)),
        }
    }
    Ok(forgotten)
}

fn wanted(kinds: Option<Vec<String>>, packets: Option<u64>, filter: Filter) -> Done<Wanted> {
    let kinds = match (kinds, packets) {
        (Some(words), _) => words.iter().map(|word| kind(word)).collect::<Done<Kinds>>()?,
        (None, Some(_)) => [Kind::Packet].into_iter().collect(),
        (None, None) => Kinds::flows(),
    };
    Ok(Wanted { kinds, filter, packets: packets.unwrap_or(u64::MAX) })
}

fn kind(word: &str) -> Done<Kind> {
    Kind::from_word(word).ok_or_else(|| {
        let known: Vec<&str> = Kind::ALL.into_iter().map(Kind::word).collect();
        Problem::new(
            "bad-request",
            format!("no kind `{word}` of event"),
            format!("known: {}", known.join(", ")),
        )
    })
}

/// Streams events until the client sends its next request or hangs up, or there are packets enough.
fn events(client: &mut Connection, engine: &dyn Engine, id: Option<u64>, wanted: Wanted) -> io::Result<u64> {
    let bell = Bell::new()?;
    let ringer = bell.clone();
    let only_packets = wanted.kinds == [Kind::Packet].into_iter().collect();
    let enough = if only_packets { wanted.packets } else { u64::MAX };
    let base = engine.wall_clock_base();
    let feed = engine.feed().subscribe(wanted, move || ringer.ring());
    let (mut told, mut lost) = (0, 0);
    while told + lost < enough {
        // After the end of its requests, only the end of the client itself is of interest.
        let input = if client.ended() { PollFlags::empty() } else { PollFlags::IN };
        let ready = client.wait(input, Some(&bell), None)?;
        if ready.hung_up {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if ready.input && client.has_line()? && !client.ended() {
            break;
        }
        if !ready.bell {
            continue;
        }
        bell.hush();
        loop {
            let batch = feed.take(BATCH);
            if batch.is_empty() {
                break;
            }
            for one in batch {
                let body = match one {
                    Told::Event(event) => {
                        told += 1;
                        Body::Event(Box::new(EventRecord::new(&event, base)))
                    }
                    Told::Lost(count) => {
                        lost += count;
                        Body::Lost(count)
                    }
                };
                client.say(id, body, None)?;
            }
            client.flush()?;
        }
    }
    Ok(told)
}

pub(super) type Forward = (Protocol, Endpoint, Endpoint);

fn say_forwards(
    client: &mut Connection,
    id: Option<u64>,
    forwards: Done<Vec<Forward>>,
) -> io::Result<Done<u64>> {
    let forwards = match forwards {
        Ok(forwards) => forwards,
        Err(problem) => return Ok(Err(problem)),
    };
    for (protocol, outside, inside) in &forwards {
        client.say(id, Body::Forward(ForwardRecord::new(*protocol, *outside, *inside)), None)?;
    }
    Ok(Ok(forwards.len() as u64))
}

pub(super) fn published(engine: &dyn Engine) -> Done<Vec<Forward>> {
    match engine.ask(Command::Published)? {
        Reply::Published(mut forwards) => {
            forwards.sort_unstable();
            Ok(forwards)
        }
        other => Err(astray(&other)),
    }
}

/// Makes all forwards of a spec, or none.
fn publish(engine: &dyn Engine, text: &str) -> Done<Vec<Forward>> {
    let spec: PublishSpec = text.parse().map_err(|why: crate::config::publish::BadSpec| {
        Problem::new("bad-request", format!("`{text}` {}", why.problem), why.cure)
    })?;
    let about = engine.about();
    let Some(net) = about.inside.iter().find(|net| net.contains(&spec.inside)) else {
        let message = format!("{} is not inside", spec.inside);
        return Err(Problem::new("not-inside", message, "name a host of an inside subnet"));
    };
    if net.addr() == spec.inside {
        let message = format!("{} is the gateway itself", spec.inside);
        return Err(Problem::new("not-inside", message, "name a host behind the gateway"));
    }
    let broadcast = spec.inside.is_ipv4() && spec.inside == net.broadcast();
    if broadcast || spec.inside == net.network() {
        let message = format!("{} is an address that no host has", spec.inside);
        return Err(Problem::new("not-inside", message, "name one host of the subnet"));
    }
    let mut made: Vec<Forward> = Vec::new();
    for forward in spec.forwards(&about.external) {
        match publish_one(engine, forward) {
            Ok(()) => made.push(forward),
            Err(problem) => {
                for (protocol, outside, _) in made {
                    engine.ask(Command::Unpublish { protocol, outside })?;
                }
                return Err(problem);
            }
        }
    }
    Ok(made)
}

fn publish_one(engine: &dyn Engine, (protocol, outside, inside): Forward) -> Done<()> {
    match engine.ask(Command::Publish { protocol, outside, inside })? {
        Reply::Done => Ok(()),
        Reply::NotPublished(why) => Err(Problem::not_published(protocol, outside, why)),
        Reply::NotLeased(why) => Err(Problem::not_leased(protocol, outside, &why)),
        other => Err(astray(&other)),
    }
}

/// Removes those forwards of a spec that there are.
fn unpublish(engine: &dyn Engine, text: &str) -> Done<Vec<Forward>> {
    let RemoveSpec { spec, with_inside } = text.parse()?;
    let mut removed = Vec::new();
    for forward in published(engine)? {
        let (protocol, outside, inside) = forward;
        let target = spec.pairs().find(|(port, _)| *port == outside.port);
        let to = target.map(|(_, port)| Endpoint::new(spec.inside, port));
        let meant = protocol == spec.protocol
            && target.is_some()
            && spec.address.is_none_or(|address| address == outside.ip)
            && (!with_inside || to == Some(inside));
        if meant && engine.ask(Command::Unpublish { protocol, outside })? == Reply::Done {
            removed.push(forward);
        }
    }
    if removed.is_empty() {
        let cure = "`tapnat publish list` shows the forwards";
        return Err(Problem::new("not-found", format!("no forward `{text}`"), cure));
    }
    Ok(removed)
}
