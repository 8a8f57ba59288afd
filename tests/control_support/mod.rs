//! A gateway that is made up, for tests of the control interface and its verbs.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};
use tapnat::config::Change;
use tapnat::control::protocol::Problem;
use tapnat::control::{About, AboutRule, Engine, Gone, Reloaded, Source};
use tapnat::flow::{Endpoint, Protocol, Time};
use tapnat::gateway::{Command, CountersView, Reply};
use tapnat::nat::{BlockView, Counts, Looked, PublishError, SessionView, TcpState};
use tapnat::observe::{Feed, FlowBoard};

/// An established or answered session of the inside host 10.88.0.`inside`.
pub fn session(id: u64, protocol: Protocol, inside: u8, remote_port: u16) -> SessionView {
    let tcp = (protocol == Protocol::Tcp).then_some(TcpState::Established);
    SessionView {
        id,
        protocol,
        inside: Endpoint::new(Ipv4Addr::new(10, 88, 0, inside), 40_000),
        outside: Endpoint::new(Ipv4Addr::new(203, 0, 113, 1), 61_234),
        remote: Endpoint::new(Ipv4Addr::new(198, 51, 100, 7), remote_port),
        tcp,
        answered: true,
        published: false,
        opened: Time::from_secs(1),
        expires_in: Duration::from_secs(300),
        packets_out: 1,
        packets_in: 1,
        bytes_out: 60,
        bytes_in: 60,
    }
}

/// A block that follows from the inside address, and two that were lent.
fn blocks() -> Looked {
    let (inside, external) = (Ipv4Addr::new(10, 88, 0, 2).into(), Ipv4Addr::new(203, 0, 113, 1).into());
    let lent = |from, until: Option<u64>| BlockView {
        inside: Ipv4Addr::new(10, 88, 0, 9).into(),
        external,
        first: 5100,
        last: 5199,
        from: Time::from_secs(from),
        until: until.map(Time::from_secs),
    };
    Looked {
        own: Some((inside, external, 5056, 9087)),
        lent: vec![lent(2, Some(5)), lent(8, None)],
        ..Looked::default()
    }
}

/// A gateway whose worker is the thread that asks.
#[derive(Default)]
pub struct Fake {
    /// The live table.
    pub board: FlowBoard,
    /// Events.
    pub feed: Feed,
    /// What the worker would own.
    pub sessions: Mutex<Vec<SessionView>>,
    /// Its port forwards.
    pub forwards: Mutex<BTreeMap<(Protocol, Endpoint), Endpoint>>,
    /// Nothing answers.
    pub gone: bool,
}

impl Engine for Fake {
    fn ask(&self, command: Command) -> Result<Reply, Gone> {
        if self.gone {
            return Err(Gone);
        }
        let mut forwards = self.forwards.lock().unwrap();
        Ok(match command {
            Command::LookUpOutside(Endpoint { port: 5100..=5199, .. }) => Reply::Looked(Box::new(blocks())),
            Command::LookUpOutside(_) | Command::LookUpInside(_) => Reply::Looked(Box::default()),
            Command::Counters => {
                let counters = CountersView { dropped: vec![("no-mapping", 3)], ..CountersView::default() };
                Reply::Counters(Box::new(counters), Counts { sessions: 2, ..Counts::default() })
            }
            Command::Forget(ids) => {
                let mut sessions = self.sessions.lock().unwrap();
                let before = sessions.len();
                sessions.retain(|session| !ids.contains(&session.id));
                Reply::Forgotten(before - sessions.len())
            }
            Command::Publish { outside, .. } if outside.port == 666 => {
                Reply::NotLeased("in use by sshd".into())
            }
            Command::Publish { protocol, outside, .. } if forwards.contains_key(&(protocol, outside)) => {
                Reply::NotPublished(PublishError::Taken)
            }
            Command::Publish { protocol, outside, inside } => {
                forwards.insert((protocol, outside), inside);
                Reply::Done
            }
            Command::Unpublish { protocol, outside } => match forwards.remove(&(protocol, outside)) {
                Some(_) => Reply::Done,
                None => Reply::NotFound,
            },
            Command::Published => {
                let all = forwards.iter().map(|((protocol, outside), inside)| (*protocol, *outside, *inside));
                Reply::Published(all.collect())
            }
            Command::Sessions { .. } | Command::Reconfigure(_) | Command::SetAliases(_) => Reply::NotFound,
        })
    }

    fn reload(&self, source: Source<'_>, dry_run: bool) -> Result<Reloaded, Problem> {
        let told = match source {
            Source::Start => return Err(Problem::new("no-file", "started without --config", "give one")),
            Source::File(path) => path.display().to_string(),
            Source::Text(name, text) => format!("{name}: {text}"),
        };
        let change = Change { key: "timeouts.udp".into(), old: "5m".into(), new: told, restart: false };
        let (kept, ended) = if dry_run { (0, 0) } else { (12, 1) };
        Ok(Reloaded { changes: vec![change], kept, ended })
    }

    fn wake(&self) {
        if !self.gone && self.board.wanted() {
            self.board.begin(Time::from_secs(11));
            self.board.put(&self.sessions.lock().unwrap());
            self.board.finish();
        }
    }

    fn board(&self) -> &FlowBoard {
        &self.board
    }

    fn feed(&self) -> &Feed {
        &self.feed
    }

    fn about(&self) -> About {
        About {
            name: "fake".into(),
            pid: 7,
            inside: vec!["10.88.0.1/24".parse().unwrap()],
            external: vec![Ipv4Addr::new(203, 0, 113, 1).into(), Ipv4Addr::new(203, 0, 113, 2).into()],
            profile: "rfc4787".into(),
            rules: vec![AboutRule { inside: "10.88.0.64/26".into(), profile: "symmetric".into() }],
            config: [("timeouts.udp".into(), "5m".into())].into(),
            ..About::default()
        }
    }

    fn wall_clock_base(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    fn now(&self) -> Time {
        Time::from_secs(11)
    }
}
