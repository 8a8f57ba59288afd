//! Packets that pass with their own source (RFC 6888 REQ-6), and what comes back for them.
//!
//! Nothing is kept about them, so both ways are judged by the packet alone: outbound by its
//! destination, inbound by its source, an ICMP error by the packet that it quotes. A session wins
//! over an exemption: an exempt remote that talks to a port forward is answered from there.

use super::{Exit, Nat, Refusal, Verdict};
use crate::flow::{Data, Edit, Endpoint, ErrorAbout, Flow, Protocol, Summary, Time};
use crate::nat::Exemption;

impl Exemption {
    /// Whether packets of `protocol` to `remote` are exempt, and those from there. Where ports are
    /// named, packets without ports are not.
    pub fn covers(&self, protocol: Protocol, remote: Endpoint) -> bool {
        let ported = matches!(protocol, Protocol::Tcp | Protocol::Udp);
        self.remote.covers(remote.ip)
            && self.protocol.is_none_or(|only| only == protocol)
            && self.ports.as_ref().is_none_or(|ports| ported && ports.contains(&remote.port))
    }
}

impl Nat {
    /// Whether packets to this remote are exempt. Those to ourselves never are.
    pub(super) fn exempts(&self, protocol: Protocol, remote: Endpoint) -> bool {
        self.config.exempt.iter().any(|exempt| exempt.covers(protocol, remote))
            && self.addresses.home(&self.hash, remote.ip).is_none()
    }

    /// Whether a packet that came by the wire to an inside host's own address may be exempt, so
    /// that [`Nat::inbound`] is to be asked about it. Of a later fragment, which has no ports, the
    /// address alone tells; it follows its first fragment.
    pub fn may_exempt(&self, packet: &Summary, later_fragment: bool) -> bool {
        let (protocol, remote) = match packet {
            Summary::Data(data) => (data.flow.protocol, data.flow.source),
            Summary::Error(error) => (error.about.protocol, error.about.destination),
        };
        if later_fragment {
            return self.config.exempt.iter().any(|exempt| exempt.remote.covers(remote.ip));
        }
        self.exempts(protocol, remote)
    }

    /// A packet from the inside that has no session, and whether it may do without one.
    pub(super) fn leave_exempt(&self, flow: Flow) -> bool {
        !self.config.exempt.is_empty() && self.exempts(flow.protocol, flow.destination)
    }

    /// What is said of an exempt packet from the inside.
    pub(super) fn pass_exempt(&self, flow: Flow, now: Time) -> Verdict {
        self.ask_egress(flow, now)?;
        Ok((Edit::default(), Exit::Outside))
    }

    /// What is said of a packet from outside that no mapping has: `refusal`, unless it is exempt.
    #[cold]
    pub(super) fn arrive_exempt(&self, data: &Data, refusal: Refusal) -> Verdict {
        let Flow { protocol, source: remote, destination: inside } = data.flow;
        if self.config.exempt.is_empty() {
            return Err(refusal);
        }
        let ours = self.addresses.home(&self.hash, inside.ip).is_some();
        if ours || !self.exempts(protocol, remote) {
            return Err(refusal);
        }
        if protocol == Protocol::Tcp && !data.tcp.plausible() {
            return Err(Refusal::BadFlags);
        }
        Ok((Edit::default(), Exit::Inside))
    }

    /// Whether an error, from the inside or to it, is about a packet that was exempt: `inside` sent
    /// or was sent it, `remote` is the other end.
    pub(super) fn error_exempt(&self, error: &ErrorAbout, inside: Endpoint, remote: Endpoint) -> bool {
        !self.config.exempt.is_empty()
            && self.addresses.home(&self.hash, inside.ip).is_none()
            && self.exempts(error.about.protocol, remote)
    }
}
