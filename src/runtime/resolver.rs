//! Follows the host's resolv.conf: what it says goes to the worker, at start and whenever it changes.
//!
//! A thread looks once a second whether the file is still the one that was read: its device, number,
//! size and times, behind all symbolic links. That sees what a watch of directories would miss, such
//! as a file mounted over it, or a link on the way that leads elsewhere; and costs one system call.

use super::host::Host;
use super::worker::Worker;
use crate::flow::{Alias, Time};
use crate::gateway::{Command, Names};
use crate::io::resolver::{PATH, PORT, ResolvConf, Stamp};
use crate::observe::event::Note;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long another server is asked before the first one has its turn again.
const INSTEAD: Duration = Duration::from_secs(30);
/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Reads the file again when it has changed.
#[derive(Debug)]
struct Reader {
    path: PathBuf,
    stamp: Option<Stamp>,
}

impl Reader {
    /// What the file says, if that may be something new. While there is no file, nothing is new: some
    /// programs write it by way of its absence.
    fn news(&mut self) -> Option<ResolvConf> {
        let stamp = Stamp::of(&self.path)?;
        if self.stamp == Some(stamp) {
            return None;
        }
        // One that is written while it is read has another stamp afterwards, and is read again.
        self.stamp = Some(stamp);
        let read = ResolvConf::read(&self.path);
        if let Err(error) = &read {
            tracing::warn!("{}: {error}; what it said before still holds", self.path.display());
        }
        read.ok()
    }
}

/// The thread; ends when this is dropped.
#[derive(Debug)]
pub struct Follower {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Has `tell` told what the file at `path` says from now on, beginning with something other than
    /// `known`. What it returns false about it is told again a second later.
    ///
    /// # Errors
    /// If the kernel gives no thread.
    pub fn start(
        path: &Path,
        known: Option<ResolvConf>,
        tell: impl Fn(&ResolvConf) -> bool + Send + 'static,
    ) -> std::io::Result<Follower> {
        let (stop, stopped) = channel();
        let reader = Reader { path: path.to_owned(), stamp: None };
        let thread = thread::Builder::new()
            .name("resolver".to_owned())
            .spawn(move || follow(reader, known, &stopped, tell))?;
        Ok(Follower { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by itself.
            let _ = thread.join();
        }
    }
}

fn follow(
    mut reader: Reader,
    known: Option<ResolvConf>,
    stopped: &Receiver<()>,
    tell: impl Fn(&ResolvConf) -> bool,
) {
    let (mut told, mut current) = (known.clone(), known);
    loop {
        if let Some(news) = reader.news() {
            current = Some(news);
        }
        if current != told && current.as_ref().is_some_and(&tell) {
            told.clone_from(&current);
        }
        if stopped.recv_timeout(LOOK) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// What hosts inside can use of it themselves: the host's loopback means something else to them.
pub fn names(conf: &ResolvConf) -> Names {
    let servers = conf.servers.iter().filter_map(|server| match server.ip() {
        IpAddr::V4(ip) if !ip.is_loopback() && !ip.is_unspecified() => Some(ip),
        _ => None,
    });
    Names { servers: servers.collect(), search: conf.search.clone() }
}

/// Which of the servers is to be asked instead of the first one, and since when another is, if this was so
/// before: the next one after a silence, the first one again after a while.
fn turn(instead: Option<(usize, Time)>, servers: usize, silent: bool, now: Time) -> Option<(usize, Time)> {
    let (turn, since) = instead.unwrap_or((0, now));
    if silent {
        let next = (turn + 1) % servers.max(1);
        return (next != 0).then_some((next, since));
    }
    instead.filter(|_| now.since(since) < INSTEAD)
}

impl Host {
    /// These aliases, with those of the host's DNS server of each family whose turn it is in the place of
    /// earlier ones. They come first: the same address may stand for all else of the host.
    pub(super) fn aliases(&self, aliases: &[Alias]) -> Vec<Alias> {
        let ours = |alias: &Alias| alias.port == Some(PORT) && self.forward.contains(&alias.inside);
        let servers = self.resolver.as_ref().map_or(&[][..], |conf| &conf.servers);
        let turn = self.instead.map_or(0, |(turn, _)| turn);
        let server = |inside: &IpAddr| {
            let mut turns = servers.iter().cycle().skip(turn).take(servers.len());
            let first = turns.clone().next();
            turns.find(|server| server.is_ipv4() == inside.is_ipv4()).or(first).copied()
        };
        let dns = self.forward.iter().filter_map(|inside| Some((*inside, server(inside)?)));
        let dns = dns.map(|(inside, host)| Alias { inside, port: Some(PORT), host });
        dns.chain(aliases.iter().filter(|alias| !ours(alias)).copied()).collect()
    }
}

impl Worker {
    /// Reads how the host looks names up, at the start.
    pub fn read_resolver(&mut self) -> Option<ResolvConf> {
        match ResolvConf::read(Path::new(PATH)) {
            Ok(conf) => {
                self.use_resolver(&conf);
                Some(conf)
            }
            Err(error) => {
                tracing::warn!("{PATH}: {error}; hosts inside are told of no resolver until it can be read");
                None
            }
        }
    }

    fn use_resolver(&mut self, conf: &ResolvConf) {
        self.gateway.set_names(names(conf));
        self.host.resolver = Some(conf.clone());
        self.host.instead = None;
        self.turn_to_resolver(self.clock.now());
    }

    fn turn_to_resolver(&mut self, now: Time) {
        let aliases = self.host.aliases(&self.gateway.config().aliases);
        self.carry_out(Command::SetAliases(aliases), now);
    }

    /// Has the next server asked for a while if the one that is asked does not answer.
    pub(super) fn ask_another(&mut self, now: Time) {
        let silent = self.gateway.resolver_is_silent();
        let servers = self.host.resolver.as_ref().map(|conf| conf.servers.clone()).unwrap_or_default();
        let before = self.host.instead;
        let after = turn(before, servers.len(), silent, now);
        let at = |instead: Option<(usize, Time)>| servers.get(instead.map_or(0, |(turn, _)| turn)).copied();
        let (Some(was), Some(is)) = (at(before), at(after)) else { return };
        self.host.instead = after;
        if was != is {
            self.turn_to_resolver(now);
            self.note(if silent { Note::ResolverSilent(was, is) } else { Note::ResolverBack(is) }, now);
        }
    }

    /// Takes that the host looks names up otherwise than before.
    pub(super) fn resolver_changed(&mut self, conf: &ResolvConf, now: Time) {
        self.use_resolver(conf);
        self.note(Note::ResolverChanged(conf.servers.clone()), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::mpsc;

    fn server(last: u8) -> String {
        format!("nameserver 192.0.2.{last}\n")
    }

    #[test]
    fn a_file_is_followed_through_links_absence_and_replacement() {
        let dir = tempfile::tempdir().unwrap();
        let (link, one, two) =
            (dir.path().join("resolv.conf"), dir.path().join("one"), dir.path().join("two"));
        fs::write(&one, server(1)).unwrap();
        fs::write(&two, server(2)).unwrap();
        symlink(&one, &link).unwrap();
        let mut reader = Reader { path: link.clone(), stamp: None };
        let mut told = || reader.news().map(|conf| conf.servers[0].ip().to_string());
        assert_eq!(told().as_deref(), Some("192.0.2.1"));
        assert_eq!(told(), None);
        fs::remove_file(&link).unwrap();
        assert_eq!(told(), None);
        symlink(&two, &link).unwrap();
        assert_eq!(told().as_deref(), Some("192.0.2.2"));
        fs::write(dir.path().join("new"), server(3)).unwrap();
        fs::rename(dir.path().join("new"), &two).unwrap();
        assert_eq!(told().as_deref(), Some("192.0.2.3"));
    }

    #[test]
    fn servers_take_turns_and_the_first_one_has_its_turn_again() {
        let at = Time::from_secs;
        let second = turn(None, 3, true, at(5));
        assert_eq!((turn(None, 3, false, at(5)), second), (None, Some((1, at(5)))));
        assert_eq!(turn(second, 3, false, at(34)), second);
        assert_eq!(turn(second, 3, true, at(34)), Some((2, at(5))));
        assert_eq!(turn(second, 3, false, at(35)), None);
        assert_eq!(turn(Some((2, at(5))), 3, true, at(9)), None, "after the last the first");
        assert_eq!((turn(None, 1, true, at(5)), turn(None, 0, true, at(5))), (None, None));
    }

    #[test]
    fn what_could_not_be_told_is_told_again_and_the_same_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        fs::write(&path, server(1)).unwrap();
        let (send, told) = mpsc::channel();
        let known = ResolvConf::read(&path).unwrap();
        let refused = std::sync::atomic::AtomicBool::new(false);
        let follower = Follower::start(&path, Some(known), move |conf| {
            send.send(conf.servers[0].ip().to_string()).is_ok()
                && refused.swap(true, std::sync::atomic::Ordering::Relaxed)
        });
        fs::write(dir.path().join("new"), server(9)).unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        let wait = || told.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!((wait(), wait()), ("192.0.2.9".to_owned(), "192.0.2.9".to_owned()));
        drop(follower);
        assert!(told.recv().is_err());
    }
}
