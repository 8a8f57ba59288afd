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
//! The sequence number of a quoted TCP segment must be one that its sender can have sent (RFC 5927
//! §4.1): whoever only guesses the ports cannot slow or upset a connection.
//!
//! An error changes no session: it neither refreshes nor ends one (RFC 4787 REQ-12, RFC 5508
//! REQ-6, RFC 7857 §7.1). Who reports it does not matter (RFC 4787 REQ-12a), unless it claims to
//! be us.

use super::addresses::Home;
use super::mapping::Mapping;
use super::session::{Phase, Way};
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
        let Some((id, inside)) = self.quoted_inside(error.about, now, seen) else {
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
        self.quoted_number(id, Way::Out, error)?;
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
            if error.to != remote.ip {
                return Err(Refusal::ErrorMisaddressed);
            }
            // An error carries what its sender writes into it.
            self.ask_egress(error.about.reversed(), now)?;
            return Ok((Edit::default(), Exit::Outside));
        };
        if error.to != remote.ip {
            return Err(Refusal::ErrorMisaddressed);
        }
        self.quoted_number(id, Way::In, error)?;
        let outside = self.outside(self.sessions[id].mapping);
        let mut edit = Edit {
            source: Some(Endpoint { ip: outside.ip, port: 0 }),
            quoted: Some(QuotedEdit { source: None, destination: Some(outside) }),
            ..Edit::default()
        };
        if !self.sessions[id].local() {
            return Ok((edit, Exit::Outside));
        }
        if !self.is_hairpin(protocol, remote) {
            return Ok((edit, Exit::Host));
        }
        let sender = Flow { protocol, source: remote, destination: outside };
        let (id, sender) = self.quoted_inside(sender, now, seen).ok_or(Refusal::ErrorWithoutSession)?;
        self.quoted_number(id, Way::Out, error)?;
        edit.destination = Some(Endpoint { ip: sender.ip, port: 0 });
        edit.quoted = Some(QuotedEdit { source: Some(sender), destination: Some(outside) });
        Ok((edit, Exit::Hairpin))
    }

    /// Whether a quoted TCP segment that went this way is one that was sent.
    fn quoted_number(&self, id: u32, way: Way, error: &ErrorAbout) -> Result<(), Refusal> {
        let Some(sequence) = error.sequence else { return Ok(()) };
        let session = &self.sessions[id];
        let generation = self.sessions.links[id].generation;
        let sent = !matches!(session.phase, Phase::Tcp(_))
            || session.windows.has_sent(way, sequence)
            || self.knocks.began_at(id, generation, way, sequence);
        if sent { Ok(()) } else { Err(Refusal::ErrorOutOfWindow) }
    }

    /// The session of a packet that left as `quoted`, and who the inside host is that sent it.
    fn quoted_inside(
        &mut self,
        quoted: Flow,
        now: Time,
        seen: &mut impl Observer,
    ) -> Option<(u32, Endpoint)> {
        let Flow { protocol, source: outside, destination: remote } = quoted;
        let external = self.addresses.external(&self.hash, outside.ip)?;
        let mapping = self.owner_at(protocol, external, outside.port, remote, now, seen)?;
        let Mapping { inside, .. } = self.mappings[mapping];
        let id = self.find(protocol, inside, remote, now, seen)?;
        (self.sessions[id].mapping == mapping).then_some((id, inside))
    }

    /// Whether this is an outside endpoint of an inside host.
    pub(super) fn is_hairpin(&self, protocol: Protocol, remote: Endpoint) -> bool {
        let ported = matches!(protocol, Protocol::Tcp | Protocol::Udp);
        match self.addresses.home(&self.hash, remote.ip) {
            Some(Home::External(number)) if ported => {
                self.ports.owner(protocol, number, remote.port).is_some()
                    || self.ports.is_shared(protocol, number, remote.port)
            }
            _ => false,
        }
    }
}
