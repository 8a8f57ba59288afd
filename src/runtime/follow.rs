//! Follows the host: when its addresses or routes change, what nobody has named changes with them.
//!
//! A thread of its own hears of changes, waits until they come to rest, asks the host how things are,
//! and has the worker settle what differs, as it does new settings: a plan, carried out between two
//! bursts of packets. So no packet waits for questions to the host.
//!
//! * An address that the outside interface has got is translated to; one that it has lost is not, and
//!   its flows end, told at once. The last one of a family stays until there is another: what is gone
//!   for a moment comes back, and its flows go on.
//! * When the default route leads over another interface, new flows leave by that. Addresses of the
//!   old one that the host still has *retire*: the flows that have them go on, by the old interface.
//! * Without a default route, who asks for what no other route covers is told that there is no way.

use super::addresses;
use super::mailbox::Handle;
use super::reload::{InForce, Plan, changed_forwards};
use super::start;
use super::worker::Worker;
use crate::config::Settings;
use crate::flow::Prefix;
use crate::gateway::Reach;
use crate::io::netlink::{Change, Family, Netlink, Watcher};
use crate::io::setup::{self, Outside, SetupError};
use crate::observe::event::Note;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::net::{IpAddr, Shutdown};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How long the host must be at rest before it is asked.
const REST: Duration = Duration::from_millis(60);
/// Changes that never end are looked at after so many rests that were none.
const PATIENCE: u32 = 10;
/// How long after a failure it is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How often in a row the same is in the way before that is worth a word: much passes while a network comes
/// up.
const LASTING: u32 = 3;

/// The thread that follows the host, until it is dropped.
#[derive(Debug)]
pub struct Follower {
    stop: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Follows the host for this gateway. Changes since `watcher` was opened count.
    ///
    /// # Errors
    /// The kernel gives no socket or thread.
    pub fn start(watcher: Watcher, handle: Arc<Handle>) -> io::Result<Follower> {
        let (stop, stopped) = UnixStream::pair()?;
        let follow = move || serve(watcher, &stopped, &handle);
        let thread = std::thread::Builder::new().name("follow".into()).spawn(follow)?;
        Ok(Follower { stop, thread: Some(thread) })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if self.stop.shutdown(Shutdown::Both).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

fn serve(mut watcher: Watcher, stop: &UnixStream, handle: &Handle) {
    let mut wait = None;
    let (mut news, mut rests) = (true, 0);
    let mut failing: Option<(String, u32)> = None;
    loop {
        let mut fds = [PollFd::new(stop, PollFlags::IN), PollFd::new(&watcher, PollFlags::IN)];
        let timeout = if news { Some(REST) } else { wait };
        let timeout = timeout.and_then(|time| Timespec::try_from(time).ok());
        let woken = poll(&mut fds, timeout.as_ref());
        if !fds[0].revents().is_empty() || woken.is_err_and(|error| error != rustix::io::Errno::INTR) {
            return;
        }
        let quiet = woken == Ok(0);
        let mut heard = false;
        loop {
            match watcher.next() {
                Ok(Some(Change::Neighbor { .. })) => {}
                Ok(Some(_)) => heard = true,
                Ok(None) => break,
                Err(error) => return tracing::warn!("the host is not followed any more: {error}"),
            }
        }
        rests += u32::from(news);
        news |= heard || (quiet && wait.is_some());
        if !news || (heard && rests < PATIENCE) {
            continue;
        }
        (news, rests) = (false, 0);
        wait = match handle.follow() {
            Ok(()) => {
                if failing.take().is_some_and(|(_, times)| times >= LASTING) {
                    tracing::info!("the host is followed again");
                }
                None
            }
            Err(problem) => {
                let why = problem.to_string();
                let before = failing.take().filter(|(before, _)| *before == why);
                let times = before.map_or(0, |(_, times)| times).saturating_add(1);
                if times == LASTING {
                    tracing::warn!("the host is not followed: {why}; the gateway goes on as it is");
                }
                failing = Some((why, times));
                Some(AGAIN)
            }
        };
    }
}

/// Which families had a default route when the host was last asked, IPv4 first.
pub type Routed = [bool; 2];

const FAMILIES: [Family; 2] = [Family::Four, Family::Six];

/// Which families have a default route.
pub fn routed() -> Routed {
    let netlink = Netlink::open();
    FAMILIES.map(|family| {
        netlink.as_ref().is_ok_and(|netlink| netlink.default_route(family).is_ok_and(|route| route.is_some()))
    })
}

/// What has to change for the gateway to be as the host is; `None` if nothing has.
///
/// # Errors
/// The host does not say, or the settings do not go with what it has become.
pub(super) fn plan(in_force: &mut InForce) -> anyhow::Result<Option<Plan>> {
    let netlink = Netlink::open()?;
    let (settings, config) = (&in_force.settings, &in_force.config);
    let families = addresses::families(settings);
    let name = match &settings.outside {
        Some(name) => name.clone(),
        // One socket that was handed over is on one interface.
        None if settings.raw_fd.is_some() => in_force.outside.clone(),
        None => way_out(&netlink, &families)?.unwrap_or_else(|| in_force.outside.clone()),
    };
    let outside = match setup::outside(&netlink, Some(&name), &families) {
        Ok(outside) => Some(outside),
        Err(SetupError::NoInterface(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let present = netlink.addresses()?;
    let has = |ip: &IpAddr| present.iter().any(|(_, other, _)| other == ip);
    let mut external = Vec::new();
    let mut retired = Vec::new();
    for family in &families {
        let (now, late) = of_family(*family, settings, outside.as_ref(), &config.nat, has);
        external.extend(now);
        retired.extend(late);
    }
    external.extend(retired.iter().copied());
    let mut new = start::again(settings, config, &name, in_force.packet, Some(&external))?;
    new.nat.retired = retired;
    new.reach = reach(&netlink, &mut in_force.routed)?;
    let moved = name != in_force.outside && outside.is_some();
    if new == *config && !moved {
        return Ok(None);
    }
    let (add, remove) = changed_forwards((settings, &config.nat.external), (settings, &new.nat.external));
    let mut news = notes(config, &new);
    if moved {
        news.push(Note::WayChanged(in_force.outside.clone(), name.clone()));
    }
    Ok(Some(Plan { add, remove, changes: 0, news: Some(news), outside: moved.then_some(name), config: new }))
}

/// The interface of the default route of the first family that has one.
fn way_out(netlink: &Netlink, families: &[Family]) -> io::Result<Option<String>> {
    for family in families {
        if let Some(route) = netlink.default_route(*family)? {
            return Ok(netlink.link_by_index(route.ifindex)?.map(|link| link.name));
        }
    }
    Ok(None)
}

/// The addresses of a family to translate to, and those that retire. `has` says whether the host has
/// an address.
fn of_family(
    family: Family,
    settings: &Settings,
    outside: Option<&Outside>,
    before: &crate::nat::NatConfig,
    has: impl Fn(&IpAddr) -> bool,
) -> (Vec<IpAddr>, Vec<IpAddr>) {
    let of = |addresses: &[IpAddr]| -> Vec<IpAddr> {
        addresses.iter().filter(|address| Family::of(**address) == family).copied().collect()
    };
    let named = of(&settings.external);
    if !named.is_empty() {
        return (named, Vec::new());
    }
    let were = of(&before.external);
    let found = outside.map(|outside| of(&outside.addresses)).unwrap_or_default();
    if found.is_empty() {
        // What is gone for a moment comes back.
        let (late, now) = were.into_iter().partition(|address| before.retired.contains(address));
        return (now, late);
    }
    let late = were.into_iter().filter(|address| !found.contains(address) && has(address)).collect();
    (found, late)
}

/// Where there is a way to; a family that never had a default route is taken as it is.
fn reach(netlink: &Netlink, routed: &mut Routed) -> io::Result<Reach> {
    let mut known = [None, None];
    for (at, family) in FAMILIES.into_iter().enumerate() {
        let everywhere = netlink.default_route(family)?.is_some();
        routed[at] |= everywhere;
        if routed[at] && !everywhere {
            let prefixes = netlink.destinations(family)?;
            known[at] = Some(prefixes.into_iter().map(|(ip, length)| Prefix::new(ip, length)).collect());
        }
    }
    let [four, six] = known;
    Ok(Reach { four, six })
}

fn notes(old: &crate::gateway::GatewayConfig, new: &crate::gateway::GatewayConfig) -> Vec<Note> {
    let (was, is) = (&old.nat.external, &new.nat.external);
    let gained = is.iter().filter(|address| !was.contains(address)).map(|ip| Note::AddressGained(*ip));
    let lost = was.iter().filter(|address| !is.contains(address)).map(|ip| Note::AddressLost(*ip));
    let mut notes: Vec<Note> = gained.chain(lost).collect();
    for (word, was, is) in
        [("IPv4", &old.reach.four, &new.reach.four), ("IPv6", &old.reach.six, &new.reach.six)]
    {
        match (was, is) {
            (None, Some(_)) => notes.push(Note::RouteLost(word)),
            (Some(_), None) => notes.push(Note::RouteBack(word)),
            _ => {}
        }
    }
    notes
}

impl Worker {
    /// Where sockets carry, ends the connections of addresses that the host has lost.
    pub(super) fn leave_lost(&mut self) {
        let Ok(present) = Netlink::open().and_then(|netlink| netlink.addresses()) else { return };
        let present: Vec<IpAddr> = present.into_iter().map(|(_, ip, _)| ip).collect();
        let now = self.clock.now();
        for (address, count) in self.links.leave_lost(&present) {
            self.note(Note::SourceLost(address, count), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RunFlags, load};
    use crate::nat::NatConfig;
    use crate::runtime::addresses::tests::{ips, outside};

    fn followed(
        named: &[&str],
        were: &[&str],
        late: &[&str],
        found: &[&str],
        has: &[&str],
    ) -> [Vec<IpAddr>; 2] {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let flags =
            RunFlags { inside: owned(&["10.88.0.1/24"]), external: owned(named), ..RunFlags::default() };
        let settings = load(&flags, None).unwrap();
        let outside = outside(found);
        let before = NatConfig { retired: ips(late), ..NatConfig::new(ips(were)) };
        let has = ips(has);
        let (now, late) = of_family(Family::Four, &settings, Some(&outside), &before, |ip| has.contains(ip));
        [now, late]
    }

    #[test]
    fn addresses_come_go_and_retire() {
        let (a, b) = ("192.0.2.1", "192.0.2.2");
        let none: [&str; 0] = [];
        assert_eq!(followed(&[], &[a], &[], &[a, b], &[a, b]), [ips(&[a, b]), ips(&none)]);
        assert_eq!(followed(&[], &[a, b], &[], &[b], &[b]), [ips(&[b]), ips(&none)]);
        assert_eq!(followed(&[], &[a], &[], &[b], &[a, b]), [ips(&[b]), ips(&[a])], "it is elsewhere now");
        assert_eq!(followed(&[], &[b, a], &[a], &[b], &[b]), [ips(&[b]), ips(&none)], "gone for good");
        assert_eq!(followed(&[], &[a], &[], &[], &[]), [ips(&[a]), ips(&none)], "the last one stays");
        assert_eq!(followed(&[a], &[a], &[], &[b], &[b]), [ips(&[a]), ips(&none)], "named ones too");
    }
}
