//! ICMP errors: the quoted packet tells whose they are; both layers are changed.
//!
//! ```text
//!   from outside                                    from the inside
//!   R9 > X          about X:x > S:q                 B > S           about S:q > B:p
//!        v                 v                        v                          v
//!   R9 > A          about A:p > S:q                 X > S           about S:q > X:x
//!
//!   hairpinned: B, reached as X:xB, reports to A, which is known to B as X:xA
//!   B > X           about X:xA > B:p
//!   v   v                 v       v
//!   X > A           about A:p > X:xB
//! ```
//!
//! An error changes no session: it neither refreshes nor ends one (RFC 4787 REQ-12, RFC 5508
//! REQ-6, RFC 7857 §7.1). Who reports it does not matter (RFC 4787 REQ-12a), unless it claims to
//! be us.

use super::addresses::Home;
use super::mapping::Mapping;
use super::{Exit, Nat, Observer, Refusal, Verdict};
use crate::flow::{Edit, Endpoint, ErrorAbout, Flow, Protocol, QuotedEdit, Time};

impl Nat {
    /// An error that came to one of the outside addresses, about a packet that we sent.
    #[inline(never)]
    pub(super) fn error_inbound(
        &mut self,
        error: &ErrorAbout,
        wire: bool,
        now: Time,
        seen: &mut impl Observer,
    ) -> Verdict {
        if wire && self.addresses.home(&self.hash, error.from).is_some() {
            return Err(Refusal::SourceIsOurs);
        }
        let Some(inside) = self.quoted_inside(error.about, now, seen) else {
            let Flow { source: inside, destination: remote, .. } = error.about;
            if !wire || !self.error_exempt(error, inside, remote) {
                return Err(Refusal::ErrorWithoutSession);
            }
            let its_sender = error.to == inside.ip;
            return if its_sender {
                Ok((Edit::default(), Exit::Inside))
            } else {
                Err(Refusal::ErrorMisaddressed)
            };
        };
        // What we sent to one of our own addresses never was on the wire.
        if wire && self.addresses.home(&self.hash, error.about.destination.ip).is_some() {
            return Err(Refusal::ErrorWithoutSession);
        }
        if error.to != error.about.source.ip {
            return Err(Refusal::ErrorMisaddressed);
        }
        let edit = Edit {
            destination: Some(Endpoint { ip: inside.ip, port: 0 }),
            quoted: Some(QuotedEdit { source: Some(inside), destination: None }),
            ..Edit::default()
        };
        Ok((edit, Exit::Inside))
    }

    /// An error from the inside, about a packet that came in.
    #[inline(never)]
    pub(super) fn error_outbound(
        &mut self,
        error: &ErrorAbout,
        now: Time,
        seen: &mut impl Observer,
    ) -> Verdict {
        let Flow { protocol, source: remote, destination: inside } = error.about;
        let Some(id) = self.find(protocol, inside, remote, now, seen) else {
            if !self.error_exempt(error, inside, remote) {
                return Err(Refusal::ErrorWithoutSession);
            }
            let its_sender = error.to == remote.ip;
            return if its_sender {
                Ok((Edit::default(), Exit::Outside))
            } else {
                Err(Refusal::ErrorMisaddressed)
            };
        };
        if error.to != remote.ip {
            return Err(Refusal::ErrorMisaddressed);
        }
        let outside = self.outside(self.sessions[id].mapping);
        let mut edit = Edit {
            source: Some(Endpoint { ip: outside.ip, port: 0 }),
            quoted: Some(QuotedEdit { source: None, destination: Some(outside) }),
            ..Edit::default()
        };
        if !self.sessions[id].local {
            return Ok((edit, Exit::Outside));
        }
        if self.hairpin_target(protocol, remote).is_none() {
            return Ok((edit, Exit::Host));
        }
        let sender = Flow { protocol, source: remote, destination: outside };
        let sender = self.quoted_inside(sender, now, seen).ok_or(Refusal::ErrorWithoutSession)?;
        edit.destination = Some(Endpoint { ip: sender.ip, port: 0 });
        edit.quoted = Some(QuotedEdit { source: Some(sender), destination: Some(outside) });
        Ok((edit, Exit::Hairpin))
    }

    /// Who the inside host is that sent a packet which left as `quoted`.
    fn quoted_inside(&mut self, quoted: Flow, now: Time, seen: &mut impl Observer) -> Option<Endpoint> {
        let Flow { protocol, source: outside, destination: remote } = quoted;
        let external = self.addresses.external(&self.hash, outside.ip)?;
        if let Protocol::Other(_) = protocol {
            let id = self.find_portless(protocol, external, remote, now, seen)?;
            return Some(self.mappings[self.sessions[id].mapping].inside);
        }
        let mapping = self.ports.owner(protocol, external, outside.port)?;
        let Mapping { inside, .. } = self.mappings[mapping];
        let id = self.find(protocol, inside, remote, now, seen)?;
        (self.sessions[id].mapping == mapping).then_some(inside)
    }

    /// The mapping that has this endpoint, if the endpoint is one of our outside ones.
    pub(super) fn hairpin_target(&self, protocol: Protocol, remote: Endpoint) -> Option<u32> {
        match (protocol, self.addresses.home(&self.hash, remote.ip)?) {
            (Protocol::Tcp | Protocol::Udp, Home::External(number)) => {
                self.ports.owner(protocol, number, remote.port)
            }
            _ => None,
        }
    }
}
