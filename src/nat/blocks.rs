//! Ports that follow from the inside address (RFC 7422): who had a port can be said without a log.
//!
//! The ports from 1024 on of each external address are cut into blocks of one size. The inside
//! hosts of a prefix get the first ones, in order, so many on each external address; what is left
//! is for hosts that have used theirs up:
//!
//! ```text
//!   198.51.100.0/28, 4032 ports a block, one external address (the example of RFC 7422 §2)
//!
//!   0     1024     5056     9088           53440     57472    61504   65535
//!   │ none  │  .1    │  .2    │    ...      │  .14    │  dynamic blocks │
//! ```
//!
//! A block lies in one of the configured ranges whole; what a range has beyond whole blocks is not
//! used. All protocols of a host use its blocks, identifiers of ICMP queries too.

use super::{NatConfig, PortChoice};
use crate::flow::{Prefix, Time};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Ended dynamic blocks that are remembered.
const HISTORY: usize = 4096;
/// Ports below are nobody's block.
const RESERVED: u16 = 1024;

/// Which ports are whose: fixed by the configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Blocks {
    subscribers: Prefix,
    size: u16,
    /// The first port of each block of one external address, rising.
    starts: Vec<u16>,
    /// The external addresses of the subscribers' family.
    externals: Vec<IpAddr>,
    /// Hosts of the prefix.
    hosts: u128,
    /// Hosts that share one external address.
    share: usize,
}

/// Why blocks cannot be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BlocksError {
    /// They do not fit.
    #[error(
        "blocks of {size} ports for the {hosts} hosts of {subscribers} do not fit: {externals} external \
         address(es) hold {there} such blocks; {cure}"
    )]
    TooMany {
        /// The inside hosts.
        subscribers: Prefix,
        /// How many they are.
        hosts: u128,
        /// Ports a block.
        size: u16,
        /// External addresses of their family.
        externals: usize,
        /// Blocks that fit on them.
        there: u128,
        /// What would fit.
        cure: String,
    },
    /// A block of nothing.
    #[error("a block needs at least one port, better 256 or more")]
    Empty,
    /// Two different kinds of blocks.
    #[error(
        "blocks for {0} and other blocks for {1} cannot share external addresses: give all hosts the same"
    )]
    Two(Prefix, Prefix),
}

/// How many hosts a prefix has. Network and broadcast address of IPv4 are none (RFC 7422 §2), but in
/// prefixes too long to have them (RFC 3021).
fn hosts(prefix: Prefix) -> u128 {
    let bits = if prefix.ip.is_ipv4() { 32 } else { 128 } - u32::from(prefix.length);
    let all = 1u128.checked_shl(bits).unwrap_or(u128::MAX);
    if prefix.ip.is_ipv4() && bits >= 2 { all - 2 } else { all }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// The number of a prefix's first host.
fn first(prefix: Prefix) -> u128 {
    let bits = if prefix.ip.is_ipv4() { 32 } else { 128 } - u32::from(prefix.length);
    let network = number(prefix.ip).checked_shr(bits).unwrap_or(0).checked_shl(bits).unwrap_or(0);
    network + u128::from(prefix.ip.is_ipv4() && bits >= 2)
}

/// The first port of each block of `size` in the ranges.
fn starts(size: u16, ranges: &[RangeInclusive<u16>]) -> Vec<u16> {
    let mut starts = Vec::new();
    for range in ranges {
        let mut at = u32::from((*range.start()).max(RESERVED));
        while at + u32::from(size) <= u32::from(*range.end()) + 1 {
            starts.extend(u16::try_from(at).ok());
            at += u32::from(size);
        }
    }
    starts.sort_unstable();
    starts
}

impl Blocks {
    /// Blocks of `size` ports for the hosts of `subscribers`, in these ports of these addresses.
    ///
    /// # Errors
    /// See [`BlocksError`].
    pub fn new(
        subscribers: Prefix,
        size: u16,
        external: &[IpAddr],
        ports: &[RangeInclusive<u16>],
    ) -> Result<Blocks, BlocksError> {
        if size == 0 {
            return Err(BlocksError::Empty);
        }
        let v4 = subscribers.ip.is_ipv4();
        let externals: Vec<_> = external.iter().copied().filter(|ip| ip.is_ipv4() == v4).collect();
        let (hosts, starts) = (hosts(subscribers), starts(size, ports));
        let share = usize::try_from(hosts.div_ceil(externals.len().max(1) as u128)).unwrap_or(usize::MAX);
        if externals.is_empty() || share > starts.len() {
            return Err(BlocksError::TooMany {
                subscribers,
                hosts,
                size,
                externals: externals.len(),
                there: (starts.len() * externals.len()) as u128,
                cure: cure(hosts, &starts, externals.len(), share, ports),
            });
        }
        Ok(Blocks { subscribers, size, starts, externals, hosts, share })
    }

    /// The blocks that a configuration asks for, if it does. They are for all its inside hosts,
    /// whatever their policy says about port choice.
    ///
    /// # Errors
    /// See [`BlocksError`].
    pub fn of(config: &NatConfig) -> Result<Option<Blocks>, BlocksError> {
        let policies = std::iter::once(&config.policy).chain(config.rules.iter().map(|rule| &rule.policy));
        let mut asked = policies.filter_map(|policy| match policy.choice {
            PortChoice::Block { subscribers, size } => Some((subscribers, size)),
            PortChoice::Random | PortChoice::Overload => None,
        });
        let Some((subscribers, size)) = asked.next() else { return Ok(None) };
        if let Some((other, _)) = asked.find(|other| *other != (subscribers, size)) {
            return Err(BlocksError::Two(subscribers, other));
        }
        Blocks::new(subscribers, size, &config.external, &config.ports).map(Some)
    }

    /// Ports a block.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Which inside hosts have a block of their own.
    pub fn subscribers(&self) -> Prefix {
        self.subscribers
    }

    /// The external address and the ports of an inside host; `None` if it is not a subscriber.
    pub fn ports_of(&self, inside: IpAddr) -> Option<(IpAddr, RangeInclusive<u16>)> {
        let (external, block) = self.place(inside)?;
        Some((self.externals[external], self.range(block)))
    }

    /// The inside host whose ports these are; `None` if it is nobody's own block.
    pub fn owner_of(&self, external: IpAddr, port: u16) -> Option<IpAddr> {
        let at = self.externals.iter().position(|ip| *ip == external)?;
        let block = self.block_at(port)?;
        self.subscriber(at, block)
    }

    /// The numbers of the external address and the block of an inside host.
    fn place(&self, inside: IpAddr) -> Option<(usize, usize)> {
        if !self.subscribers.covers(inside) {
            return None;
        }
        let at = number(inside).checked_sub(first(self.subscribers)).filter(|at| *at < self.hosts)?;
        let at = usize::try_from(at).ok()?;
        Some((at / self.share, at % self.share))
    }

    fn subscriber(&self, external: usize, block: usize) -> Option<IpAddr> {
        let at = (external * self.share + block) as u128;
        if block >= self.share || at >= self.hosts {
            return None;
        }
        let host = first(self.subscribers) + at;
        Some(match self.subscribers.ip {
            IpAddr::V4(_) => IpAddr::V4(u32::try_from(host).ok()?.into()),
            IpAddr::V6(_) => IpAddr::V6(host.into()),
        })
    }

    fn range(&self, block: usize) -> RangeInclusive<u16> {
        let start = self.starts[block];
        start..=start + (self.size - 1)
    }

    /// The block that a port is in.
    fn block_at(&self, port: u16) -> Option<usize> {
        let block = self.starts.partition_point(|start| *start <= port).checked_sub(1)?;
        self.range(block).contains(&port).then_some(block)
    }

    /// The external address of an inside host that is a subscriber.
    pub(super) fn external_of(&self, inside: IpAddr) -> Option<IpAddr> {
        self.place(inside).map(|(external, _)| self.externals[external])
    }
}

fn cure(
    hosts: u128,
    starts: &[u16],
    externals: usize,
    share: usize,
    ports: &[RangeInclusive<u16>],
) -> String {
    if externals == 0 {
        return "give an external address of the same family".to_owned();
    }
    let addresses = hosts.div_ceil(starts.len().max(1) as u128);
    let fits = |size: &u16| self::starts(*size, ports).len() >= share;
    // The largest size that fits is found by halving: more ports a block never make more blocks.
    let (mut low, mut high) = (0u16, u16::MAX);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(&middle) { low = middle } else { high = middle - 1 }
    }
    match (low, starts.is_empty()) {
        (0, _) => format!("give fewer subscribers, or {addresses} external addresses"),
        (size, true) => format!("give at most {size} ports a block"),
        (size, false) => format!("give at most {size} ports a block, or {addresses} external addresses"),
    }
}

/// A block that was lent to a host which had used up its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockView {
    /// The inside host.
    pub inside: IpAddr,
    /// The external address.
    pub external: IpAddr,
    /// Its first port.
    pub first: u16,
    /// Its last port.
    pub last: u16,
    /// When it was lent.
    pub from: Time,
    /// When its last port was given up; `None` while it is in use.
    pub until: Option<Time>,
}

/// A block that can be lent.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Who has it, or had it last.
    inside: Option<IpAddr>,
    /// Ports of it that mappings have.
    used: u32,
    from: Time,
    until: Time,
}

/// The blocks, and who has been lent what.
#[derive(Debug)]
pub(super) struct Lending {
    pub blocks: Blocks,
    /// By external address and block.
    slots: Vec<Vec<Slot>>,
    ended: VecDeque<BlockView>,
}

impl Lending {
    pub(super) fn new(blocks: Blocks) -> Self {
        let slots = vec![vec![Slot::default(); blocks.starts.len()]; blocks.externals.len()];
        Lending { blocks, slots, ended: VecDeque::new() }
    }

    fn at(&self, external: IpAddr) -> Option<usize> {
        self.blocks.externals.iter().position(|ip| *ip == external)
    }

    /// The ports in which a host may look for one: its own block, then those that it has been lent.
    pub(super) fn ranges(&self, inside: IpAddr, external: IpAddr) -> Vec<RangeInclusive<u16>> {
        let own = self.blocks.place(inside).map(|(_, block)| self.blocks.range(block));
        let slots = self.at(external).map_or(&[][..], |at| &self.slots[at]);
        let lent = slots.iter().enumerate().filter(|(_, slot)| slot.used > 0 && slot.inside == Some(inside));
        own.into_iter().chain(lent.map(|(block, _)| self.blocks.range(block))).collect()
    }

    /// A block that can be lent to `inside`: one that it had a moment ago, else one that nobody has
    /// had for `hold`.
    pub(super) fn lendable(
        &self,
        inside: IpAddr,
        external: IpAddr,
        hold: Duration,
        now: Time,
    ) -> Option<RangeInclusive<u16>> {
        let at = self.at(external)?;
        let idle =
            |block: &usize| self.slots[at][*block].used == 0 && self.blocks.subscriber(at, *block).is_none();
        let its_own = |block: &usize| self.slots[at][*block].inside == Some(inside);
        let rested = |block: &usize| {
            let slot = self.slots[at][*block];
            slot.inside.is_none() || slot.until + hold <= now
        };
        let mut blocks = (0..self.blocks.starts.len()).filter(idle);
        let block = blocks.clone().find(its_own).or_else(|| blocks.find(rested))?;
        Some(self.blocks.range(block))
    }

    /// A port of `inside` is in use; tells of the block if it was lent with it.
    pub(super) fn taken(
        &mut self,
        inside: IpAddr,
        external: IpAddr,
        port: u16,
        now: Time,
    ) -> Option<BlockView> {
        let (at, block) = (self.at(external)?, self.blocks.block_at(port)?);
        if self.blocks.subscriber(at, block).is_some() {
            return None;
        }
        let slot = &mut self.slots[at][block];
        slot.used += 1;
        if slot.used > 1 {
            return None;
        }
        (slot.inside, slot.from) = (Some(inside), now);
        self.view(at, block, None)
    }

    /// A port is given up; tells of the block if its time has ended with it.
    pub(super) fn given_up(&mut self, external: IpAddr, port: u16, now: Time) -> Option<BlockView> {
        let (at, block) = (self.at(external)?, self.blocks.block_at(port)?);
        let slot = &mut self.slots[at][block];
        if slot.used == 0 {
            return None;
        }
        slot.used -= 1;
        if slot.used > 0 {
            return None;
        }
        slot.until = now;
        let view = self.view(at, block, Some(now))?;
        if self.ended.len() == HISTORY {
            self.ended.pop_front();
        }
        self.ended.push_back(view);
        Some(view)
    }

    fn view(&self, at: usize, block: usize, until: Option<Time>) -> Option<BlockView> {
        let (slot, range) = (&self.slots[at][block], self.blocks.range(block));
        let (first, last) = range.into_inner();
        Some(BlockView {
            inside: slot.inside?,
            external: self.blocks.externals[at],
            first,
            last,
            from: slot.from,
            until,
        })
    }

    /// Whether the port is of a block that is lent.
    pub(super) fn is_lent(&self, external: IpAddr, port: u16) -> bool {
        let (Some(at), Some(block)) = (self.at(external), self.blocks.block_at(port)) else { return false };
        self.slots[at][block].used > 0
    }

    /// Every block that is lent, and those that were, the latest last.
    pub(super) fn all(&self) -> Vec<BlockView> {
        let mut all: Vec<BlockView> = self.ended.iter().copied().collect();
        for (at, slots) in self.slots.iter().enumerate() {
            let lent = (0..slots.len()).filter(|block| slots[*block].used > 0);
            all.extend(lent.filter_map(|block| self.view(at, block, None)));
        }
        all
    }
}
