//! Which addresses are ours, and which of them an inside host is given.
//!
//! Mappings and pools know an external address by its number. Numbers stay when addresses come
//! and go: that of an address that has gone is given to another once nothing is left of it.

use super::hash::Hash;
use super::slab::NONE;
use hashbrown::HashTable;
use std::net::IpAddr;

/// What an address of ours is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Home {
    /// The external address with this number.
    External(u16),
    /// Another address of the host.
    Host,
}

/// An external address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct External {
    ip: IpAddr,
    in_use: bool,
    /// It is there for port forwards alone.
    forwards: bool,
}

/// Addresses that are there for port forwards alone, at most.
const FORWARDS: usize = 64;

/// The addresses of the gateway and its host.
#[derive(Debug)]
pub(super) struct Addresses {
    table: HashTable<(IpAddr, Home)>,
    /// By number; also those that have gone.
    external: Vec<External>,
    v4: Vec<u16>,
    v6: Vec<u16>,
}

impl Addresses {
    pub(super) fn new(hash: &Hash, external: &[IpAddr], retired: &[IpAddr], host: &[IpAddr]) -> Self {
        let mut ours =
            Addresses { table: HashTable::new(), external: Vec::new(), v4: Vec::new(), v6: Vec::new() };
        ours.change(hash, external, retired, host, |_| true);
        ours
    }

    /// Takes these addresses in the place of those that there were. `unused` says of the number of an
    /// address that has gone whether nothing is left of it; `retired` ones are given to nobody anew.
    pub(super) fn change(
        &mut self,
        hash: &Hash,
        external: &[IpAddr],
        retired: &[IpAddr],
        host: &[IpAddr],
        unused: impl Fn(u16) -> bool,
    ) {
        let gone = (0u16..).zip(&self.external).filter(|(_, old)| !old.in_use);
        let mut vacant: Vec<u16> = gone.map(|(number, _)| number).filter(|number| unused(*number)).collect();
        vacant.retain(|number| !external.contains(&self.ip(*number)) && !self.uses(*number));
        vacant.reverse();
        self.table.clear();
        self.v4.clear();
        self.v6.clear();
        self.external.iter_mut().for_each(|old| old.in_use = false);
        for ip in external {
            if self.home(hash, *ip).is_none()
                && let Some(number) = self.number_for(*ip, &mut vacant)
            {
                self.insert(hash, *ip, Home::External(number));
                if retired.contains(ip) {
                    continue;
                }
                if ip.is_ipv4() { self.v4.push(number) } else { self.v6.push(number) }
            }
        }
        for number in (0u16..).take(self.external.len()) {
            let External { ip, forwards, .. } = self.external[usize::from(number)];
            if forwards && self.home(hash, ip).is_none() {
                self.insert(hash, ip, Home::External(number));
            }
        }
        for ip in host {
            if self.home(hash, *ip).is_none() {
                self.insert(hash, *ip, Home::Host);
            }
        }
    }

    /// A number for an external address: the one it has, or a vacant one, or a new one.
    fn number_for(&mut self, ip: IpAddr, vacant: &mut Vec<u16>) -> Option<u16> {
        let known = self.external.iter().position(|old| old.ip == ip).and_then(|at| u16::try_from(at).ok());
        let next = u16::try_from(self.external.len()).ok();
        let number = known.or_else(|| vacant.pop()).or(next)?;
        if usize::from(number) == self.external.len() {
            self.external.push(External { ip, in_use: true, forwards: false });
        }
        self.external[usize::from(number)] = External { ip, in_use: true, forwards: false };
        Some(number)
    }

    /// Which external addresses are in use, by number.
    pub(super) fn in_use(&self) -> Vec<bool> {
        self.external.iter().map(|external| external.in_use).collect()
    }

    /// Whether the external address with this number is in use, if only for port forwards.
    pub(super) fn uses(&self, number: u16) -> bool {
        let External { in_use, forwards, .. } = self.external[usize::from(number)];
        in_use || forwards
    }

    /// Adds an address for port forwards alone; its number, unless there are too many: the one that it had,
    /// or that of an address that is gone and of which nothing is left, as `unused` says, or a new one.
    pub(super) fn add_for_forwards(
        &mut self,
        hash: &Hash,
        ip: IpAddr,
        unused: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        if self.external.iter().filter(|external| external.forwards).count() >= FORWARDS {
            return None;
        }
        let gone = |number: &u16| !self.uses(*number);
        let numbers = 0..u16::try_from(self.external.len()).ok()?;
        let had = numbers.clone().find(|number| self.ip(*number) == ip);
        let number = had.or_else(|| numbers.clone().filter(gone).find(|number| unused(*number)));
        let number = number.unwrap_or(numbers.end);
        let external = External { ip, in_use: false, forwards: true };
        match self.external.get_mut(usize::from(number)) {
            Some(old) => *old = external,
            None => self.external.push(external),
        }
        self.take_out(hash, ip);
        self.insert(hash, ip, Home::External(number));
        Some(number)
    }

    /// Gives up an address that is there for port forwards alone. `host` says whether it is the host's.
    pub(super) fn give_up(&mut self, hash: &Hash, number: u16, host: impl Fn(IpAddr) -> bool) {
        let ip = self.ip(number);
        self.external[usize::from(number)].forwards = false;
        self.take_out(hash, ip);
        if host(ip) {
            self.insert(hash, ip, Home::Host);
        }
    }

    /// Whether the external address with this number is there for port forwards alone.
    pub(super) fn forwards_only(&self, number: u16) -> bool {
        let External { in_use, forwards, .. } = self.external[usize::from(number)];
        forwards && !in_use
    }

    fn take_out(&mut self, hash: &Hash, ip: IpAddr) {
        if let Ok(ours) = self.table.find_entry(hash.address(NONE, ip), |(ours, _)| *ours == ip) {
            ours.remove();
        }
    }

    /// Whether the external address with this number is given to inside hosts.
    pub(super) fn gives(&self, number: u16) -> bool {
        self.v4.contains(&number) || self.v6.contains(&number)
    }

    fn insert(&mut self, hash: &Hash, ip: IpAddr, home: Home) {
        self.table.insert_unique(hash.address(NONE, ip), (ip, home), |(ip, _)| hash.address(NONE, *ip));
    }

    /// What `ip` is, if it is ours.
    #[inline]
    pub(super) fn home(&self, hash: &Hash, ip: IpAddr) -> Option<Home> {
        self.table.find(hash.address(NONE, ip), |(ours, _)| *ours == ip).map(|(_, home)| *home)
    }

    /// The number of the external address `ip`.
    #[inline]
    pub(super) fn external(&self, hash: &Hash, ip: IpAddr) -> Option<u16> {
        match self.home(hash, ip) {
            Some(Home::External(number)) => Some(number),
            _ => None,
        }
    }

    /// The external address with this number, in use or gone.
    #[inline]
    pub(super) fn ip(&self, number: u16) -> IpAddr {
        self.external[usize::from(number)].ip
    }

    /// The external address of an inside host: always the same one, for every protocol (paired
    /// pooling, RFC 4787 REQ-2, RFC 6888 REQ-2). `None` if none is of its family.
    pub(super) fn pick(&self, hash: &Hash, inside: IpAddr) -> Option<u16> {
        let choice = if inside.is_ipv4() { &self.v4 } else { &self.v6 };
        let number = hash.address(0, inside) % (choice.len().max(1) as u64);
        choice.get(number as usize).copied()
    }
}
