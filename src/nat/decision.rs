//! What the translator says about a packet.

use crate::flow::{Edit, Endpoint, Protocol};

/// What is to be done with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Change it so and send it there. The edit of an exempt packet is empty.
    Translate {
        /// The change.
        edit: Edit,
        /// Where it leaves.
        exit: Exit,
    },
    /// Drop it, for this reason.
    Refuse(Refusal),
    /// Ask the host for this outside port, say [`super::Nat::lease`] or
    /// [`super::Nat::lease_refused`], and ask about the packet again: nothing has changed.
    Lease(Protocol, Endpoint),
}

/// Where a translated packet leaves.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Exit {
    /// By the uplink.
    Outside,
    /// To an inside host.
    Inside,
    /// To an inside host that another inside host addressed by its outside endpoint (RFC 4787 REQ-9).
    Hairpin,
    /// To the host's own stack: the destination is one of the host's own addresses.
    Host,
}

/// Why the translator refuses a packet. Each doc comment says cause, RFC and cure; counters,
/// events and the docs use the word that [`Refusal::word`] gives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Refusal {
    /// No mapping has this outside port: an answer that came too late, a scan, or traffic of the
    /// host itself. Nothing to mend, unless a published port was meant.
    NoMapping,
    /// The mapping exists, but its inside host has not talked to this remote (RFC 4787 REQ-8).
    /// `--filtering endpoint-independent` lets it in.
    Filtered,
    /// The range has no free port left, or the host would lease no more (RFC 5508 REQ-8, RFC 6888
    /// REQ-11). Widen `--ports`, add an `--external` address, or raise the limit of open files.
    PortsExhausted,
    /// The session table is full. Raise `--limit sessions=N`.
    SessionLimit,
    /// This inside host has its share of sessions. Raise `--limit sessions-per-host=N`.
    HostSessionLimit,
    /// This inside host has its share of outside ports (RFC 6888 REQ-4). Raise
    /// `--limit mappings-per-host=N`.
    HostMappingLimit,
    /// This inside host opens sessions too fast (RFC 6888 REQ-4c). Raise
    /// `--limit new-sessions-per-host=N`.
    HostRateLimit,
    /// A certain outside port is needed, and the host refused one after the other that was asked
    /// for. The next packet is given others.
    PortUnleased,
    /// This mapping has its share of remotes (RFC 6888 REQ-5). Raise `--limit sessions-per-mapping=N`.
    MappingSessionLimit,
    /// A TCP segment other than a SYN for which there is no session: it began before the gateway
    /// did, or has expired.
    NoSession,
    /// TCP flags that no TCP sends together (SYN+FIN, none, FIN without ACK).
    BadFlags,
    /// A TCP segment that neither end of its session can have sent: its numbers are out of every
    /// window (RFC 5382 §9, RFC 5961). Forged, or of a connection that was there before.
    OutOfWindow,
    /// An ICMP error about a packet that no session of ours sent (RFC 5508 REQ-4).
    ErrorWithoutSession,
    /// An ICMP error that quotes a session of ours but is addressed to somebody else.
    ErrorMisaddressed,
    /// An ICMP error that quotes a TCP segment which the receiver has not sent, by its sequence
    /// number (RFC 5927 §4.1): forged.
    ErrorOutOfWindow,
    /// An ICMP answer to a query that nobody here asked, or a query from outside.
    UnsolicitedQuery,
    /// Hairpinning is off (`--hairpin off`) and the packet is for another inside host's outside
    /// endpoint.
    HairpinOff,
    /// Services of the host itself are closed to the inside (`--host-access off`).
    HostAccessOff,
    /// An egress rule forbids this inside host to talk to this remote (`--egress`; by default cloud
    /// metadata is forbidden). Put an `allow` before it.
    EgressDenied,
    /// The outside address of this flow is gone from the host; its next packet opens a session by another.
    /// Told once: as prohibited, since programs on Linux hear of that at once.
    AddressLost,
    /// Another inside host already talks this port-less protocol to this remote.
    ProtocolTaken,
    /// A packet from outside to an outside address from an outside address of ours: a loop or a lie.
    SourceIsOurs,
}

impl Refusal {
    /// Every refusal, for tables and docs.
    pub const ALL: [Refusal; 22] = [
        Refusal::NoMapping,
        Refusal::Filtered,
        Refusal::PortsExhausted,
        Refusal::SessionLimit,
        Refusal::HostSessionLimit,
        Refusal::HostMappingLimit,
        Refusal::HostRateLimit,
        Refusal::PortUnleased,
        Refusal::MappingSessionLimit,
        Refusal::NoSession,
        Refusal::BadFlags,
        Refusal::OutOfWindow,
        Refusal::ErrorWithoutSession,
        Refusal::ErrorMisaddressed,
        Refusal::ErrorOutOfWindow,
        Refusal::UnsolicitedQuery,
        Refusal::HairpinOff,
        Refusal::HostAccessOff,
        Refusal::EgressDenied,
        Refusal::AddressLost,
        Refusal::ProtocolTaken,
        Refusal::SourceIsOurs,
    ];

    /// The stable word for scripts, counters and docs.
    pub fn word(self) -> &'static str {
        match self {
            Refusal::NoMapping => "no-mapping",
            Refusal::Filtered => "filtered",
            Refusal::PortsExhausted => "ports-exhausted",
            Refusal::SessionLimit => "session-limit",
            Refusal::HostSessionLimit => "host-session-limit",
            Refusal::HostMappingLimit => "host-mapping-limit",
            Refusal::HostRateLimit => "host-rate-limit",
            Refusal::PortUnleased => "port-unleased",
            Refusal::MappingSessionLimit => "mapping-session-limit",
            Refusal::NoSession => "no-session",
            Refusal::BadFlags => "bad-flags",
            Refusal::OutOfWindow => "out-of-window",
            Refusal::ErrorWithoutSession => "error-without-session",
            Refusal::ErrorMisaddressed => "error-misaddressed",
            Refusal::ErrorOutOfWindow => "error-out-of-window",
            Refusal::UnsolicitedQuery => "unsolicited-query",
            Refusal::HairpinOff => "hairpin-off",
            Refusal::HostAccessOff => "host-access-off",
            Refusal::EgressDenied => "egress-denied",
            Refusal::AddressLost => "address-lost",
            Refusal::ProtocolTaken => "protocol-taken",
            Refusal::SourceIsOurs => "source-is-ours",
        }
    }
}
