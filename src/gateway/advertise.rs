//! Router advertisements: how hosts inside configure themselves (RFC 4861 §6.2, RFC 4862).
//!
//! They tell hosts their prefixes, the MTU, the DNS servers (RFC 8106), and that the gateway is
//! their router. They go to all hosts: a few soon after the start, then one every few minutes at
//! random times, and one soon after a host has asked. Questions are answered together, and never
//! more than once in 3 s, so that asking costs the asker more than us.

use super::{Answer, Gateway, GatewayConfig, INSIDE, Outbox, arp, ndp};
use crate::flow::Time;
use crate::wire::Buffer;
use smoltcp::wire::{
    EthernetAddress, Icmpv6Packet, NdiscOption, NdiscOptionRepr, NdiscPrefixInfoFlags,
    NdiscPrefixInformation, NdiscRepr, NdiscRouterFlags,
};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// Advertisements that follow each other closely after the start (RFC 4861 §10).
const FIRST: u8 = 3;
/// The longest time between those.
const FIRST_INTERVAL: Duration = Duration::from_secs(16);
/// The shortest time between two advertisements.
const APART: Duration = Duration::from_secs(3);
/// The longest that a question waits if none has been answered just now.
const DELAY: Duration = Duration::from_millis(500);
/// DNS servers in one advertisement; more are left out. It must fit the least MTU.
const SERVERS: usize = 8;
/// Prefixes in one advertisement; more are left out.
const PREFIXES: usize = 16;
/// The least MTU of a link that carries IPv6 (RFC 8200 §5).
const LEAST_MTU: u16 = 1280;
/// Hosts configure an address of their own in prefixes of this length only (RFC 4862 §5.5.3).
const AUTONOMOUS: u8 = 64;

/// What is advertised to the inside, besides prefixes and MTU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Advertise {
    /// DNS servers for the hosts, in the order they shall be asked; at most 8 are told.
    pub dns: Vec<Ipv6Addr>,
    /// The longest time between two advertisements that nobody asked for: 4 s to 1800 s. The
    /// gateway counts as a router, and the servers as servers, for three times that.
    pub interval: Duration,
    /// How long addresses in the prefixes are used for new connections, in whole seconds.
    pub preferred: Duration,
    /// How long they are valid; not less.
    pub valid: Duration,
}

impl Default for Advertise {
    /// The defaults of RFC 4861 §6.2.1, and no DNS server.
    fn default() -> Self {
        Advertise {
            dns: Vec::new(),
            interval: Duration::from_secs(600),
            preferred: Duration::from_secs(7 * 86_400),
            valid: Duration::from_secs(30 * 86_400),
        }
    }
}

impl Advertise {
    fn lifetime(&self) -> Duration {
        self.interval * 3
    }
}

/// When to advertise.
#[derive(Debug)]
pub(super) struct Schedule {
    chance: u64,
    next: Time,
    last: Option<Time>,
    sent: u8,
    /// What was advertised before a new configuration ended that: hosts are still to be told.
    ended: Option<GatewayConfig>,
}

impl Schedule {
    /// The first is due at once.
    pub(super) fn new(seed: &[u8; 32]) -> Self {
        let chance = seed[8..16].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        Schedule { chance, next: Time::ZERO, last: None, sent: 0, ended: None }
    }

    /// A time from `least` to `most`, by chance (splitmix64; nobody gains by guessing it).
    fn between(&mut self, least: Duration, most: Duration) -> Duration {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.chance ^ (self.chance >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let part = ((mixed ^ (mixed >> 31)) >> 32) as u32;
        least + most.saturating_sub(least).mul_f64(f64::from(part) / f64::from(u32::MAX))
    }

    /// Hosts hear soon of what has changed (RFC 4861 §6.2.4), and of the end.
    pub(super) fn reconfigured(&mut self, before: &GatewayConfig, config: &GatewayConfig, now: Time) {
        let told = self.last.is_some();
        if before.advertise == config.advertise && before.subnets == config.subnets {
            return;
        }
        self.ended = (told && before.advertises() && !config.advertises()).then(|| before.clone());
        self.next = self.last.map_or(now, |last| (last + APART).max(now));
    }

    /// A host has asked (RFC 4861 §6.2.6).
    fn asked(&mut self, now: Time) {
        let delay = self.between(Duration::ZERO, DELAY);
        let earliest = self.last.map_or(now, |last| (last + APART).max(now));
        self.next = self.next.min(earliest + delay);
    }

    /// Whether one is due; if so it counts as sent (RFC 4861 §6.2.4).
    fn due(&mut self, interval: Duration, now: Time) -> bool {
        if now < self.next {
            return false;
        }
        self.last = Some(now);
        self.sent = self.sent.saturating_add(1);
        let pause = self.between((interval / 3).max(APART), interval);
        self.next = now + if self.sent < FIRST { pause.min(FIRST_INTERVAL) } else { pause };
        true
    }
}

impl Gateway {
    /// Takes note that a host asks for routers.
    pub(super) fn router_asked(&mut self, now: Time) {
        if self.config.advertises() {
            self.schedule.asked(now);
        }
    }

    /// Advertises if it is time.
    pub(super) fn advertise(&mut self, now: Time, out: &mut Outbox) {
        if let Some(before) = self.schedule.ended.take() {
            self.say(advertisement(&before, Some(Duration::ZERO)), out);
            self.schedule.last = None;
        }
        let interval = self.config.advertise.as_ref().map(|advertise| advertise.interval);
        if let Some(interval) = interval.filter(|_| self.config.advertises())
            && self.schedule.due(interval, now)
        {
            self.say(advertisement(&self.config, None), out);
        }
    }

    /// When [`Gateway::advertise`] has something to do next.
    pub(super) fn next_advertisement(&self) -> Option<Time> {
        let due = self.config.advertises() || self.schedule.ended.is_some();
        due.then_some(self.schedule.next)
    }

    /// Tells the hosts inside where the gateway's addresses are. To be called once, when packets can
    /// flow: hosts that knew a gateway before may remember another MAC of it for a minute.
    pub fn greet(&mut self, out: &mut Outbox) {
        let mac = self.config.mac;
        let mut subnets: Vec<IpAddr> = self.config.subnets.iter().map(|subnet| subnet.gateway).collect();
        subnets.dedup();
        for ip in subnets.into_iter().chain(self.config.services.iter().copied()) {
            let (answer, frame) = match ip {
                IpAddr::V4(ip) => (Answer::Arp, arp::announcement(mac, ip)),
                IpAddr::V6(ip) => (Answer::Ndp, ndp::announcement(mac, ip)),
            };
            self.counters.answered(answer);
            out.push(INSIDE, frame);
        }
    }

    /// Tells the hosts inside that the gateway is no longer their router (RFC 4861 §6.2.5). To be
    /// called once, before it ends; puts nothing into the outbox if it has not advertised.
    pub fn farewell(&mut self, out: &mut Outbox) {
        if self.schedule.last.is_some() {
            self.say(advertisement(&self.config, Some(Duration::ZERO)), out);
        }
    }

    fn say(&mut self, frame: Option<Buffer>, out: &mut Outbox) {
        let Some(frame) = frame else { return };
        self.counters.answered(Answer::RouterAdvertisement);
        out.push(INSIDE, frame);
    }
}

impl GatewayConfig {
    /// Whether there is something to advertise.
    fn advertises(&self) -> bool {
        self.advertise.is_some() && self.speaks_v6()
    }
}

/// The frame: the gateway is a router for `lifetime`, or for as long as usual. `None` if nothing is
/// to be advertised.
fn advertisement(us: &GatewayConfig, lifetime: Option<Duration>) -> Option<Buffer> {
    let advertise = us.advertise.as_ref()?;
    let lifetime = lifetime.unwrap_or(advertise.lifetime());
    let seconds = |time: Duration| smoltcp::time::Duration::from_secs(time.as_secs().min(u32::MAX.into()));
    let header = NdiscRepr::RouterAdvert {
        hop_limit: crate::wire::craft::TTL,
        flags: NdiscRouterFlags::empty(),
        router_lifetime: seconds(lifetime.min(Duration::from_secs(9000))),
        reachable_time: smoltcp::time::Duration::ZERO,
        retrans_time: smoltcp::time::Duration::ZERO,
        lladdr: None,
        mtu: None,
        prefix_info: None,
    };
    let mut message = vec![0; header.buffer_len()];
    header.emit(&mut Icmpv6Packet::new_unchecked(&mut message[..]));
    add(&mut message, &NdiscOptionRepr::SourceLinkLayerAddr(EthernetAddress(us.mac.0).into()));
    if us.inside.mtu >= LEAST_MTU {
        add(&mut message, &NdiscOptionRepr::Mtu(us.inside.mtu.into()));
    }
    for (prefix, length, alone) in prefixes(us).take(PREFIXES) {
        let mut flags = NdiscPrefixInfoFlags::ON_LINK;
        flags.set(NdiscPrefixInfoFlags::ADDRCONF, length == AUTONOMOUS && !alone);
        let information = NdiscPrefixInformation {
            prefix_len: length,
            flags,
            valid_lifetime: seconds(advertise.valid),
            preferred_lifetime: seconds(advertise.preferred.min(advertise.valid)),
            prefix,
        };
        add(&mut message, &NdiscOptionRepr::PrefixInformation(information));
    }
    add_servers(&mut message, advertise);
    let source = us.link_local();
    Icmpv6Packet::new_unchecked(&mut message).fill_checksum(&source, &ndp::ALL_NODES);
    Some(ndp::wrap(&message, (us.mac, source), (ndp::multicast_mac(ndp::ALL_NODES), ndp::ALL_NODES)))
}

/// The prefixes of the inside, with zeros behind their length, and whether only one address of each is
/// inside.
fn prefixes(us: &GatewayConfig) -> impl Iterator<Item = (Ipv6Addr, u8, bool)> + '_ {
    us.subnets.iter().filter_map(|subnet| match subnet.link().ip {
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shr(subnet.prefix.into()).unwrap_or(0);
            Some((Ipv6Addr::from_bits(ip.to_bits() & !mask), subnet.prefix, subnet.only.is_some()))
        }
        IpAddr::V4(_) => None,
    })
}

fn add(message: &mut Vec<u8>, option: &NdiscOptionRepr<'_>) {
    let mut bytes = vec![0; option.buffer_len()];
    option.emit(&mut NdiscOption::new_unchecked(&mut bytes[..]));
    message.extend_from_slice(&bytes);
}

/// Adds the recursive DNS server option (RFC 8106 §5.1), if there are servers.
fn add_servers(message: &mut Vec<u8>, advertise: &Advertise) {
    const RDNSS: u8 = 25;
    let servers = &advertise.dns[..advertise.dns.len().min(SERVERS)];
    if servers.is_empty() {
        return;
    }
    let lifetime = u32::try_from(advertise.lifetime().as_secs()).unwrap_or(u32::MAX);
    message.extend([RDNSS, 1 + 2 * servers.len() as u8, 0, 0]);
    message.extend(lifetime.to_be_bytes());
    for server in servers {
        message.extend(server.octets());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advertisements_are_close_at_first_then_far_apart_and_never_closer_than_three_seconds() {
        let interval = Duration::from_secs(600);
        let mut schedule = Schedule::new(&[9; 32]);
        let mut sent = Vec::new();
        for second in 0..7200 {
            let now = Time::from_secs(second);
            // Somebody asks every second in the second hour.
            if second >= 3600 {
                schedule.asked(now);
            }
            if schedule.due(interval, now) {
                sent.push(second);
            }
        }
        let gaps: Vec<_> = sent.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps[..2].iter().all(|gap| (3..=17).contains(gap)), "{gaps:?}");
        let quiet = sent.iter().filter(|second| **second < 3600).count();
        assert!((3600 / 601 + 2..=3600 / 200 + 3).contains(&(quiet as u64)), "{sent:?}");
        let asked = &gaps[quiet..];
        assert!(asked.len() > 3600 / 6 && asked.iter().all(|gap| (3..=4).contains(gap)), "{asked:?}");
    }
}
