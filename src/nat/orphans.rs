//! Flows of datagrams whose outside address is gone: their hosts are told with their next packet.
//!
//! A connection is reset at once, for its numbers are known. Of datagrams nobody can say anything before
//! there is one to quote. Only that one is refused; what follows opens a session of its own.

use crate::flow::{Flow, Time};
use std::collections::VecDeque;
use std::time::Duration;

/// How many are kept; the oldest gives way.
const MOST: usize = 1024;
/// How long a host may wait with its next packet: as long as a session would have lived.
const LATEST: Duration = Duration::from_secs(300);

/// Those whose host does not know yet, by the flow from inside, oldest first.
#[derive(Default, Debug)]
pub(super) struct Orphans(VecDeque<(Flow, Time)>);

impl Orphans {
    /// These have lost their address.
    pub(super) fn add(&mut self, flows: impl Iterator<Item = Flow>, now: Time) {
        self.0.retain(|(_, until)| now < *until);
        self.0.extend(flows.map(|flow| (flow, now + LATEST)));
        let many = self.0.len().saturating_sub(MOST);
        self.0.drain(..many);
    }

    /// Whether this flow is one of them whose host has not been told; it is from here on.
    pub(super) fn tell(&mut self, flow: Flow, now: Time) -> bool {
        let place = self.0.iter().position(|(other, until)| *other == flow && now < *until);
        place.and_then(|place| self.0.remove(place)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Endpoint, Protocol};
    use std::net::IpAddr;

    #[test]
    fn each_is_told_once_and_not_too_late_and_the_oldest_gives_way() {
        let end = |port| Endpoint::new(IpAddr::from([10, 0, 0, 2]), port);
        let flow = |port| Flow { protocol: Protocol::Udp, source: end(port), destination: end(53) };
        let mut orphans = Orphans::default();
        orphans.add((0..MOST as u16 + 1).map(flow), Time::ZERO);
        assert!(!orphans.tell(flow(0), Time::ZERO));
        assert!(orphans.tell(flow(1), Time::ZERO));
        assert!(!orphans.tell(flow(1), Time::ZERO));
        assert!(!orphans.tell(flow(2), Time::ZERO + LATEST));
        orphans.add(std::iter::empty(), Time::ZERO + LATEST);
        assert!(orphans.0.is_empty());
    }
}
