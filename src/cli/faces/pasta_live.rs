//! The ports of a running `pasta`: from its options to a board that follows who listens, and that
//! `pesto` may change.
//!
//! What needs rights is made before they are given up ([`Ports::prepare`]); the rest is a thread
//! ([`Prepared::start`]).

use super::forwards::{Forward, Gateway};
use super::pasta::Options;
use super::pasta_board::{Around, Board, Rules, Seen, Splice, Splicer, Wanted, at_start};
use super::pasta_ports::{Rule, ephemeral, read, read_all};
use super::pesto_wire::{self, HOST, SPLICE, Table};
use crate::control::Engine;
use crate::flow::Protocol;
use crate::io::ending::Ending;
use crate::io::guest::{Agent, Target, agent};
use crate::io::listening::{Listening, Tables};
use crate::io::netlink::Netlink;
use crate::io::relay::{Counters, Relay, Side, Sockets, Way};
use crate::runtime::Counter;
use crate::runtime::clock::Clock;
use anyhow::{Context, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeSet;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// How often it is looked who listens.
const EACH: Duration = Duration::from_secs(1);
/// How long a client of the socket may take for all it has to say.
const PATIENCE: Duration = Duration::from_secs(2);
/// What the tables can do: both families, TCP, UDP, scanning.
const ABILITIES: u32 = 1 | 2 | 4 | 8 | 16;

/// What the options say about ports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ports {
    rules: Rules,
    around: Around,
}

impl Ports {
    /// Reads the options; `guests` are the namespace's addresses, one of each family at most.
    ///
    /// # Errors
    /// What is wrong with which option.
    pub fn of(options: &Options, guests: Vec<IpAddr>, netlink: &Netlink) -> anyhow::Result<Ports> {
        let texts = &options.ports;
        let [serves_tcp, serves_udp, _] = options.protocols;
        let mut rules = Rules::default();
        for (option, protocol, texts, served) in [
            ("-t", Protocol::Tcp, &texts.tcp, serves_tcp),
            ("-u", Protocol::Udp, &texts.udp, serves_udp),
            ("-T", Protocol::Tcp, &texts.tcp_ns, serves_tcp),
            ("-U", Protocol::Udp, &texts.udp_ns, serves_udp),
        ] {
            let said = read_all(texts, protocol, ephemeral()).map_err(|why| anyhow!("{option} {why}"))?;
            let splices = option == "-T" || option == "-U";
            if splices && options.no_splice && said.as_ref().is_some_and(|rules| !rules.is_empty()) {
                bail!("{option} and --no-splice exclude each other");
            }
            let table = if splices { &mut rules.splice } else { &mut rules.host };
            if served && !(splices && options.no_splice) {
                let auto = || read("auto", protocol, ephemeral()).map_err(anyhow::Error::msg);
                table.extend(said.map_or_else(auto, Ok)?);
            }
        }
        rules.check().map_err(anyhow::Error::msg)?;
        let lo_to_lo = options.lo_to_lo && !options.no_splice;
        let own = if lo_to_lo { own_addresses(netlink)? } else { Vec::new() };
        Ok(Ports { rules, around: Around { guests, lo_to_lo, own } })
    }

    /// What the gateway is to forward from its start.
    pub fn published(&self) -> Vec<Forward> {
        let all = at_start(&self.rules, &self.around).into_iter();
        let published = all.filter_map(|one| match one {
            Wanted::Published(forward) => Some(forward),
            Wanted::Spliced(_) => None,
        });
        published.collect()
    }

    fn scans(&self) -> bool {
        self.rules.host.iter().chain(&self.rules.splice).any(|rule| rule.scan)
    }

    /// Prepares what goes beyond that; `None` if nothing does. `listener`, which does not block, is for changes.
    ///
    /// # Errors
    /// The namespace cannot be joined, or tables cannot be read.
    pub fn prepare(
        self,
        target: &Target,
        listener: Option<UnixListener>,
    ) -> anyhow::Result<Option<Prepared>> {
        let splices = self.around.lo_to_lo || !self.rules.splice.is_empty();
        if !(splices || self.scans() || listener.is_some()) {
            return Ok(None);
        }
        let agent = Arc::new(Agent::start(target)?);
        let inside = agent.tables().context("the namespace's table of sockets")?;
        let host = Tables::open().context("the host's table of sockets")?;
        // Later it has those of the gateway too, one for each mapping.
        let known = host.read().context("the host's table of sockets")?;
        let udp = known.into_iter().filter(|one| one.udp).collect();
        let (relay, relay_ends) = told("the relay of ports has ended")?;
        let (follower, follower_ends) = told("the thread that follows ports has ended")?;
        let netlink = self.around.lo_to_lo.then(Netlink::open).transpose().context("netlink socket")?;
        let counters = Arc::new(Counters::default());
        let tells = [relay, follower];
        let endings = vec![relay_ends, follower_ends];
        Ok(Some(Prepared {
            ports: self,
            agent,
            inside,
            host,
            udp,
            listener,
            netlink,
            counters,
            tells,
            endings,
        }))
    }
}

/// A descriptor, and what is told when it is closed.
fn told(what: &str) -> anyhow::Result<(OwnedFd, Ending)> {
    let (reader, writer) = io::pipe().context("a pipe")?;
    Ok((writer.into(), Ending::event(reader.into(), what)))
}

/// The host's addresses that others reach it by.
fn own_addresses(netlink: &Netlink) -> anyhow::Result<Vec<IpAddr>> {
    let all = netlink.address_facts().context("list the host's addresses")?;
    let usable = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_loopback(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    // One that somebody else may have already cannot be listened at.
    let all = all.into_iter().filter(|fact| !fact.tentative).map(|fact| fact.ip);
    Ok(all.filter(usable).collect())
}

/// What was made before rights are given up.
#[derive(Debug)]
pub struct Prepared {
    ports: Ports,
    agent: Arc<Agent>,
    inside: Tables,
    host: Tables,
    udp: BTreeSet<Listening>,
    listener: Option<UnixListener>,
    /// Where `--host-lo-to-ns-lo` follows the host's addresses.
    netlink: Option<Netlink>,
    counters: Arc<Counters>,
    /// The ends of the relay's thread, and of that which follows.
    tells: [OwnedFd; 2],
    endings: Vec<Ending>,
}

impl Prepared {
    /// What the gateway may not outlive: ports that nobody serves would stay open.
    pub fn endings(&mut self) -> Vec<Ending> {
        std::mem::take(&mut self.endings)
    }

    /// What the relay counts.
    pub fn counters(&self) -> Vec<Counter> {
        let one = |(at, (name, _)): (usize, (&'static str, u64))| {
            let all = Arc::clone(&self.counters);
            Counter { name, count: Box::new(move || all.named()[at].1) }
        };
        self.counters.named().into_iter().enumerate().map(one).collect()
    }

    /// Makes the splices and starts the thread that follows, with the gateway that has published what
    /// [`Ports::published`] says.
    ///
    /// # Errors
    /// A splice cannot be made.
    pub fn start(self, engine: Arc<dyn Engine>, bound: &[IpAddr]) -> anyhow::Result<()> {
        let Prepared { ports, agent, inside, host, udp, listener, netlink, counters, tells, .. } = self;
        let [relay, follower] = tells;
        let relay = Relay::start(Box::new(Both(Arc::clone(&agent))), counters, relay).context("a relay")?;
        let splices = Splices { relay, agent };
        let Ports { rules, around } = ports;
        let board = Board::new(Gateway::new(engine, bound), splices, around, rules);
        let board = board.map_err(anyhow::Error::msg)?;
        let live = Live { board, inside, host, udp, listener, netlink, clock: Clock::start() };
        let run = move || {
            let _tells = follower;
            live.run();
        };
        thread::Builder::new().name("ports".into()).spawn(run).context("a thread")?;
        Ok(())
    }
}

/// Makes sockets on both sides.
#[derive(Debug)]
struct Both(Arc<Agent>);

impl Sockets for Both {
    fn make(&self, side: Side, udp: bool, six: bool) -> io::Result<OwnedFd> {
        match side {
            Side::Host => agent::to_connect(udp, six),
            Side::Inside => self.0.socket(udp, six),
        }
    }
}

struct Splices {
    relay: Relay,
    agent: Arc<Agent>,
}

impl Splicer for Splices {
    fn add(&mut self, splice: Splice) -> Result<usize, String> {
        let Splice { udp, listens, at, to } = splice;
        let (socket, side, place) = match listens {
            Side::Host => (agent::listening(udp, at), Side::Inside, "on the host"),
            Side::Inside => (self.agent.listen(udp, at), Side::Host, "in the namespace"),
        };
        let socket = socket.map_err(|error| format!("cannot listen to {at} {place}: {error}"))?;
        self.relay.add(Way { udp, socket, side, to }).map_err(|error| format!("relay: {error}"))
    }

    fn remove(&mut self, number: usize) {
        // Without a relay there is nothing to take away.
        if let Err(error) = self.relay.remove(number) {
            tracing::warn!("relay: {error}");
        }
    }
}

/// What the thread has.
struct Live {
    board: Board<Gateway, Splices>,
    inside: Tables,
    host: Tables,
    udp: BTreeSet<Listening>,
    listener: Option<UnixListener>,
    netlink: Option<Netlink>,
    clock: Clock,
}

impl Live {
    fn run(mut self) {
        let mut seen = Seen::default();
        loop {
            let rules = &self.board.rules;
            let scans = rules.host.iter().chain(&rules.splice).any(|rule| rule.scan);
            if scans {
                match self.look() {
                    Ok(found) => seen = found,
                    Err(error) => tracing::debug!("tables of sockets: {error}"),
                }
            }
            if let Some(netlink) = &self.netlink {
                match own_addresses(netlink) {
                    Ok(own) => self.board.set_own(own),
                    Err(error) => tracing::debug!("{error:#}"),
                }
            }
            self.settle(&seen);
            let looks = scans || self.netlink.is_some() || self.board.has_failed();
            let Some(listener) = &self.listener else {
                match looks {
                    true => thread::sleep(EACH),
                    // Rules that do not change and nobody can change: the relay does the rest.
                    false => thread::park(),
                }
                continue;
            };
            if !waits(listener, looks) {
                continue;
            }
            let said = match listener.accept() {
                Ok((client, _)) => self.converse(client),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
                Err(error) => {
                    // The client is still there, and a descriptor may come back.
                    thread::sleep(EACH);
                    Err(error)
                }
            };
            if let Err(error) = said {
                tracing::warn!("pesto: {error}; nothing is changed");
            }
        }
    }

    fn look(&self) -> io::Result<Seen> {
        let inside = self.inside.read()?;
        let host = self.host.read()?.into_iter().filter(|one| !one.udp);
        Ok(Seen { inside, host: host.chain(self.udp.iter().copied()).collect() })
    }

    fn settle(&mut self, seen: &Seen) {
        self.board.settle(seen).iter().for_each(|line| tracing::warn!("{line}"));
    }

    /// Tells a client the rules, and takes others from it. What it wants is made when the connection
    /// is closed.
    fn converse(&mut self, mut client: UnixStream) -> io::Result<()> {
        client.set_nonblocking(false)?;
        client.set_write_timeout(Some(PATIENCE))?;
        let table = |which, name: &str, rules: &[Rule]| Table {
            which,
            name: name.to_owned(),
            abilities: ABILITIES,
            rules: rules.to_vec(),
        };
        let rules = &self.board.rules;
        let tables = [table(HOST, "HOST", &rules.host), table(SPLICE, "SPLICE", &rules.splice)];
        pesto_wire::greet(&mut client, &tables)?;
        let mut patient = Patient { client: &client, clock: self.clock, begun: self.clock.now() };
        let Some(changes) = pesto_wire::changed(&mut patient)? else { return Ok(()) };
        let mut rules = rules.clone();
        for (which, others) in changes {
            *(if which == HOST { &mut rules.host } else { &mut rules.splice }) = others;
        }
        rules.check().map_err(io::Error::other)?;
        self.board.rules = rules;
        match self.look() {
            Ok(seen) => self.settle(&seen),
            Err(error) => tracing::debug!("tables of sockets: {error}"),
        }
        Ok(())
    }
}

/// Waits for a client; with `looks` no longer than until it is time to look who listens.
fn waits(listener: &UnixListener, looks: bool) -> bool {
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    let each = Timespec { tv_sec: EACH.as_secs() as i64, tv_nsec: 0 };
    match poll(&mut fds, looks.then_some(&each)) {
        Ok(count) => count > 0,
        Err(_) => {
            thread::sleep(EACH);
            false
        }
    }
}

/// A client that has its time for all it says.
struct Patient<'a> {
    client: &'a UnixStream,
    clock: Clock,
    begun: crate::flow::Time,
}

impl Read for Patient<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let left = PATIENCE.checked_sub(self.clock.now().since(self.begun));
        let left = left.filter(|left| !left.is_zero()).ok_or(io::ErrorKind::TimedOut)?;
        self.client.set_read_timeout(Some(left))?;
        self.client.read(bytes)
    }
}
