//! Who has which address, and until when. The table is never larger than the range of addresses.
//!
//! A client gets the address that it had, also after its time, as long as nobody needed it; else
//! the one that it asks for; else one whose place in the range follows from who it is, so that it is
//! the same again after a restart of the gateway.

use crate::flow::Time;
use crate::wire::ethernet::MacAddr;
use foldhash::quality::FixedState;
use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::net::Ipv4Addr;
use std::time::Duration;

/// How long an offer stands.
const OFFERED: Duration = Duration::from_secs(30);
/// How long an address is left alone that a client has found in use (RFC 2131 §4.3.3).
const DECLINED: Duration = Duration::from_secs(600);
/// For how long a range that was found full is not looked through again.
const FULL: Duration = Duration::from_secs(1);
/// Addresses that clients of one MAC may have at a time: a client that names itself anew each time cannot
/// use up the range.
pub(super) const PER_MAC: usize = 8;
/// What the places of clients are made with. Who guesses another's address gains nothing.
const PLACES: u64 = 0x6468_6370;

#[derive(Clone, PartialEq, Eq, Debug)]
struct Lease {
    /// Nobody if a client has found the address in use.
    client: Option<Vec<u8>>,
    /// That of the client, or of the one who found it in use.
    mac: MacAddr,
    until: Time,
}

/// The leases of one range.
#[derive(Debug, Default)]
pub(in crate::gateway) struct Leases {
    by_address: BTreeMap<Ipv4Addr, Lease>,
    by_client: BTreeMap<Vec<u8>, Ipv4Addr>,
    full_until: Time,
}

impl Leases {
    /// Reserves an address for a client: the one that it `wants` if possible. `None` if there is
    /// none. `usable` says whether nobody else has an address.
    pub(super) fn offer(
        &mut self,
        (first, last): (Ipv4Addr, Ipv4Addr),
        (client, mac): (&[u8], MacAddr),
        wants: Option<Ipv4Addr>,
        now: Time,
        usable: impl Fn(Ipv4Addr) -> bool,
    ) -> Option<Ipv4Addr> {
        let fits = |ip: &Ipv4Addr| (first..=last).contains(ip) && usable(*ip);
        let free = |ip: &Ipv4Addr| self.may_have(*ip, client, now) && fits(ip);
        let had = self.by_client.get(client).copied();
        let mut chosen = had.filter(free).or_else(|| wants.filter(free));
        if chosen.is_none() && now >= self.full_until {
            chosen = self.choose((first, last), client, &free);
            self.full_until = if chosen.is_some() { Time::ZERO } else { now + FULL };
        }
        let ip = chosen?;
        let until = self.until(ip, client).unwrap_or_default().max(now + OFFERED);
        self.put(ip, (client, mac), until);
        Some(ip)
    }

    /// An address for a client that has none: nobody's, or else that of whoever lost it longest ago.
    fn choose(
        &self,
        (first, last): (Ipv4Addr, Ipv4Addr),
        client: &[u8],
        free: &impl Fn(&Ipv4Addr) -> bool,
    ) -> Option<Ipv4Addr> {
        let (base, size) = (first.to_bits(), u64::from(last.to_bits().checked_sub(first.to_bits())?) + 1);
        let place = FixedState::with_seed(PLACES).hash_one(client) % size;
        let in_turn = (0..size).map(|step| base + ((place + step) % size) as u32).map(Ipv4Addr::from_bits);
        let nobodys = in_turn.clone().find(|ip| !self.by_address.contains_key(ip) && free(ip));
        nobodys.or_else(|| in_turn.filter(free).min_by_key(|ip| self.by_address.get(ip).map(|of| of.until)))
    }

    /// Leases an address to a client who asks for it; false if somebody else has it.
    pub(super) fn bind(
        &mut self,
        ip: Ipv4Addr,
        (client, mac): (&[u8], MacAddr),
        until: Time,
        now: Time,
    ) -> bool {
        let may = self.may_have(ip, client, now);
        if may {
            self.put(ip, (client, mac), until);
        }
        may
    }

    /// The client takes another server's offer, or gives its address up. It may have it again.
    pub(super) fn release(&mut self, client: &[u8], now: Time) {
        if let Some(ip) = self.by_client.get(client)
            && let Some(lease) = self.by_address.get_mut(ip)
        {
            lease.until = lease.until.min(now);
            self.full_until = Time::ZERO;
        }
    }

    /// The client has found that somebody uses its address; false if it is not its own.
    pub(super) fn decline(&mut self, ip: Ipv4Addr, (client, mac): (&[u8], MacAddr), now: Time) -> bool {
        if self.by_client.get(client) != Some(&ip) {
            return false;
        }
        self.by_client.remove(client);
        self.by_address.insert(ip, Lease { client: None, mac, until: now + DECLINED });
        true
    }

    /// Whether a client may have no address more because other clients of its MAC have [`PER_MAC`], or have
    /// found so many in use.
    pub(super) fn crowded(&self, (client, mac): (&[u8], MacAddr), now: Time) -> bool {
        let others = self
            .by_address
            .values()
            .filter(|lease| lease.mac == mac && lease.until > now && lease.client.as_deref() != Some(client));
        self.of(client, now).is_none() && others.count() >= PER_MAC
    }

    /// The address that is reserved for a client or leased to it.
    pub(super) fn of(&self, client: &[u8], now: Time) -> Option<Ipv4Addr> {
        let ip = *self.by_client.get(client)?;
        (self.until(ip, client)? > now).then_some(ip)
    }

    /// Forgets what lies outside of a new range.
    pub(in crate::gateway) fn keep(&mut self, range: Option<(Ipv4Addr, Ipv4Addr)>) {
        let stays = |ip: &Ipv4Addr| range.is_some_and(|(first, last)| (first..=last).contains(ip));
        self.by_address.retain(|ip, _| stays(ip));
        self.by_client.retain(|_, ip| stays(ip));
        self.full_until = Time::ZERO;
    }

    fn until(&self, ip: Ipv4Addr, client: &[u8]) -> Option<Time> {
        let lease = self.by_address.get(&ip)?;
        (lease.client.as_deref() == Some(client)).then_some(lease.until)
    }

    fn may_have(&self, ip: Ipv4Addr, client: &[u8], now: Time) -> bool {
        let lease = self.by_address.get(&ip);
        lease.is_none_or(|lease| lease.until <= now || lease.client.as_deref() == Some(client))
    }

    fn put(&mut self, ip: Ipv4Addr, (client, mac): (&[u8], MacAddr), until: Time) {
        let lease = Lease { client: Some(client.to_vec()), mac, until };
        let before = self.by_address.insert(ip, lease).and_then(|before| before.client);
        if let Some(before) = before {
            self.by_client.remove(&before);
        }
        if let Some(had) = self.by_client.insert(client.to_vec(), ip)
            && had != ip
        {
            self.by_address.remove(&had);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(10, 0, 0, 15), Ipv4Addr::new(10, 0, 0, 17));

    fn offered(leases: &mut Leases, client: u8, secs: u64) -> Option<Ipv4Addr> {
        leases.offer(RANGE, (&[client], MacAddr::default()), None, Time::from_secs(secs), |_| true)
    }

    #[test]
    fn a_full_range_has_room_again_when_an_offer_or_a_lease_has_run_out() {
        let mut leases = Leases::default();
        let given: std::collections::BTreeSet<_> =
            (1..=3).map(|client| offered(&mut leases, client, 0).unwrap()).collect();
        assert_eq!(given.len(), 3);
        assert_eq!(offered(&mut leases, 4, 29), None);
        let first = leases.of(&[1], Time::from_secs(29)).unwrap();
        assert!(leases.bind(first, (&[1], MacAddr::default()), Time::from_secs(1000), Time::from_secs(29)));
        assert!(offered(&mut leases, 4, 31).is_some_and(|ip| ip != first));
        // The old client has it again, also after its time.
        assert_eq!(offered(&mut leases, 1, 2000), Some(first));
    }

    #[test]
    fn who_has_two_is_not_possible() {
        let mut leases = Leases::default();
        let now = Time::from_secs(1);
        assert!(leases.bind(RANGE.0, (&[1], MacAddr::default()), Time::from_secs(9), now));
        assert!(leases.bind(RANGE.1, (&[1], MacAddr::default()), Time::from_secs(9), now));
        assert_eq!((leases.by_address.len(), leases.by_client.len()), (1, 1));
        assert!(!leases.bind(RANGE.1, (&[2], MacAddr::default()), Time::from_secs(9), now));
        assert!(leases.bind(RANGE.0, (&[2], MacAddr::default()), Time::from_secs(9), now));
        leases.keep(None);
        assert_eq!((leases.by_address.len(), leases.by_client.len()), (0, 0));
    }
}
