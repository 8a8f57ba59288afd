//! What happened in a gateway, for those who watch: small values that a worker can make quickly.
//!
//! A worker makes an [`Event`], which holds copies of plain data and a [`Time`]. Whoever sends it on
//! turns it into text later and elsewhere, with [`super::record::EventRecord`].

use crate::flow::{Endpoint, Flow, Time};
use crate::gateway::overload::{ONE_IN, Source};
use crate::nat::{BlockView, Closed, EgressRule, Refusal, SessionView, Step};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// When.
    pub at: Time,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// A session was opened.
    Opened(SessionView),
    /// A TCP session changed its state; the view shows the new one.
    Changed(SessionView),
    /// A session ended.
    Closed(SessionView, Closed),
    /// The translator refused a packet, for an egress rule if one is given.
    Refused(Flow, Refusal, Option<Box<EgressRule>>),
    /// A packet went through the gateway, or was dropped in it.
    Packet(Box<PacketSeen>),
    /// Something happened to the gateway itself.
    Note(Note),
}

/// The kinds of event that can be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// Sessions opened.
    Opened,
    /// TCP sessions that changed their state.
    Changed,
    /// Sessions ended.
    Closed,
    /// Packets refused by the translator.
    Refused,
    /// Packets that passed, with their bytes before and after.
    Packet,
    /// Packets that were dropped, with their bytes.
    Dropped,
    /// Notes about the gateway itself.
    Note,
}

impl Kind {
    /// Every kind, in the order of their bits in [`Kinds`].
    pub const ALL: [Kind; 7] =
        [Kind::Opened, Kind::Changed, Kind::Closed, Kind::Refused, Kind::Packet, Kind::Dropped, Kind::Note];

    /// The stable word.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Opened => "opened",
            Kind::Changed => "changed",
            Kind::Closed => "closed",
            Kind::Refused => "refused",
            Kind::Packet => "packet",
            Kind::Dropped => "dropped",
            Kind::Note => "note",
        }
    }

    /// The kind with this word.
    pub fn from_word(word: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

/// A set of kinds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Kinds(u8);

impl Kinds {
    /// Everything but packets, which are costly and must be asked for.
    pub fn flows() -> Kinds {
        Kind::ALL.into_iter().filter(|kind| !matches!(kind, Kind::Packet | Kind::Dropped)).collect()
    }

    /// Whether `kind` is in the set.
    pub fn has(self, kind: Kind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }

    /// The set with `kind` too.
    #[must_use]
    pub fn with(self, kind: Kind) -> Kinds {
        Kinds(self.0 | 1 << kind as u8)
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<I: IntoIterator<Item = Kind>>(kinds: I) -> Kinds {
        kinds.into_iter().fold(Kinds::default(), Kinds::with)
    }
}

/// A packet before and after the gateway.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PacketSeen {
    /// What became of it: a word of `passed`, `answered` or `dropped` in the counters.
    pub fate: &'static str,
    /// It was dropped; `fate` is the reason.
    pub dropped: bool,
    /// The link it came from.
    pub from: String,
    /// The link it left by, if it did.
    pub to: Option<String>,
    /// Its flow as it came, if it could be read.
    pub flow: Option<Flow>,
    /// Its flow as it left, if it did.
    pub translated: Option<Flow>,
    /// Length of the IP packet as it came, in bytes; a super-frame counts whole.
    pub length: u32,
    /// Its first bytes as it came, from the IP header on; at most [`PacketSeen::SNAP`].
    pub before: Vec<u8>,
    /// Its first bytes as it left, from the IP header on; at most [`PacketSeen::SNAP`]. Empty if it
    /// did not leave.
    pub after: Vec<u8>,
}

impl PacketSeen {
    /// How many bytes of a packet an event keeps: every header and a look at the data. The bound of
    /// a subscriber's memory follows from it.
    pub const SNAP: usize = 256;

    /// The bytes of `packet` that an event keeps.
    pub fn snap(packet: &[u8]) -> Vec<u8> {
        packet[..packet.len().min(PacketSeen::SNAP)].to_vec()
    }

    /// Who the inside host, its outside endpoint and the remote are, as far as the two flows tell:
    /// the side that was changed is the inside host's, the other one the remote's.
    pub fn roles(&self) -> Roles {
        let (Some(before), Some(after)) = (self.flow, self.translated) else { return Roles::default() };
        if before.source != after.source {
            Roles {
                inside: Some(before.source),
                outside: Some(after.source),
                remote: Some(after.destination),
            }
        } else if before.destination != after.destination {
            let (inside, outside) = (after.destination, before.destination);
            Roles { inside: Some(inside), outside: Some(outside), remote: Some(before.source) }
        } else {
            Roles::default()
        }
    }
}

/// The endpoints of a packet by their roles; all `None` where nobody can tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Roles {
    /// Who the inside host is.
    pub inside: Option<Endpoint>,
    /// Who we say it is.
    pub outside: Option<Endpoint>,
    /// Who it talks to.
    pub remote: Option<Endpoint>,
}

/// Something that happened to the gateway itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Note {
    /// A link went down; its name, and why.
    LinkDown(String, String),
    /// A link came back; its name.
    LinkUp(String),
    /// Few outside ports are left: the address, and how many.
    PortsLow(std::net::IpAddr, usize),
    /// The host has another address to translate to.
    AddressGained(std::net::IpAddr),
    /// An address that was translated to is gone.
    AddressLost(std::net::IpAddr),
    /// The way out leads over another interface: from which, to which.
    WayChanged(String, String),
    /// The host has lost its default route of a family: `IPv4` or `IPv6`.
    RouteLost(&'static str),
    /// It has one again.
    RouteBack(&'static str),
    /// The host has slept; for how long.
    Slept(Duration),
    /// New settings are in force: how many keys have changed, how many sessions live on, how many had
    /// to end.
    Reloaded(usize, usize, usize),
    /// A block of ports was lent to an inside host (RFC 7422 §2).
    BlockLent(BlockView),
    /// A block of ports came back from an inside host.
    BlockReturned(BlockView),
    /// The host looks names up elsewhere: its DNS servers, the first one asked first.
    ResolverChanged(Vec<SocketAddr>),
    /// Sockets carry, and so many connections had the host's end at an address that is gone.
    SourceLost(IpAddr, usize),
    /// The host's DNS server, the first, does not answer; the second is asked for a while.
    ResolverSilent(SocketAddr, SocketAddr),
    /// The host's first DNS server is asked again.
    ResolverBack(SocketAddr),
    /// One of the namespaces that are served is gone: what has ended, and how many are left.
    NamespaceGone(String, usize),
    /// More bad packets come than are worth reading: from inside, or by the uplink.
    Flood(Option<Source>),
    /// That is over.
    FloodOver(Option<Source>),
    /// The gateway is about to end; why.
    Stopping(String),
}

impl Note {
    /// The stable word.
    pub fn word(&self) -> &'static str {
        match self {
            Note::LinkDown(..) => "link-down",
            Note::LinkUp(..) => "link-up",
            Note::PortsLow(..) => "ports-low",
            Note::AddressGained(..) => "address-gained",
            Note::AddressLost(..) => "address-lost",
            Note::WayChanged(..) => "way-changed",
            Note::RouteLost(..) => "route-lost",
            Note::RouteBack(..) => "route-back",
            Note::Slept(..) => "slept",
            Note::Reloaded(..) => "reloaded",
            Note::BlockLent(..) => "block-lent",
            Note::BlockReturned(..) => "block-returned",
            Note::ResolverChanged(..) => "resolver-changed",
            Note::SourceLost(..) => "source-lost",
            Note::ResolverSilent(..) => "resolver-silent",
            Note::ResolverBack(..) => "resolver-back",
            Note::NamespaceGone(..) => "namespace-gone",
            Note::Flood(..) => "flood",
            Note::FloodOver(..) => "flood-over",
            Note::Stopping(..) => "stopping",
        }
    }

    /// One line for a person.
    pub fn text(&self) -> String {
        match self {
            Note::LinkDown(link, why) => format!("{link} is down: {why}"),
            Note::LinkUp(link) => format!("{link} is up again"),
            Note::PortsLow(address, left) => format!("{left} ports are left on {address}"),
            Note::AddressGained(address) => format!("{address} is translated to from now on"),
            Note::AddressLost(address) => format!("{address} is gone; its flows have ended"),
            Note::WayChanged(from, to) => format!("the way out leads over {to}, no longer over {from}"),
            Note::RouteLost(family) => format!("the host has no {family} default route any more"),
            Note::RouteBack(family) => format!("the host has an {family} default route again"),
            Note::Slept(time) => {
                let time = humantime::format_duration(Duration::from_secs(time.as_secs()));
                format!("the host has slept for {time}; what ran out meanwhile has ended")
            }
            Note::Reloaded(changes, kept, ended) => {
                format!("reloaded: {changes} keys differ; flows kept: {kept}, ended: {ended}")
            }
            Note::BlockLent(BlockView { inside, external, first, last, .. }) => {
                format!("ports {first}-{last} of {external} are lent to {inside}")
            }
            Note::BlockReturned(BlockView { inside, external, first, last, from, until }) => {
                let time = until.unwrap_or(*from).since(*from);
                let time = humantime::format_duration(Duration::from_secs(time.as_secs()));
                format!("ports {first}-{last} of {external} are given back by {inside} after {time}")
            }
            Note::ResolverChanged(servers) => {
                let servers: Vec<String> = servers.iter().map(SocketAddr::to_string).collect();
                format!("the host asks {} for names now", servers.join(", "))
            }
            Note::SourceLost(address, count) => {
                format!("{address} is gone; connections that have ended with it: {count}")
            }
            Note::ResolverSilent(silent, next) => {
                format!("{silent} does not answer; {next} is asked for names")
            }
            Note::ResolverBack(first) => format!("{first} is asked for names again"),
            Note::NamespaceGone(what, left) => {
                format!("{what}: its TAP is taken away; namespaces left: {left}")
            }
            Note::Flood(Some(Source::Mac(mac))) => format!(
                "{mac} sends more bad packets than are worth reading: one in {ONE_IN} of its frames is read until it stops"
            ),
            Note::Flood(Some(Source::Port(port))) => format!(
                "the namespace at port {port} sends more bad packets than are worth reading: one in {ONE_IN} of its frames is read until it stops"
            ),
            Note::Flood(Some(Source::Astray)) => format!(
                "the bridge sends more frames for others here than are worth reading: one in {ONE_IN} of them is read"
            ),
            Note::Flood(None) => format!(
                "more bad packets come by the uplink than are worth reading: ports in use are read, and one packet in {ONE_IN} of the rest"
            ),
            Note::Flood(Some(Source::Strangers)) => format!(
                "more bad packets than are worth reading come from ever new MACs: frames of hosts that were served are read, and one in {ONE_IN} of the rest"
            ),
            Note::FloodOver(Some(Source::Strangers)) => {
                "the flood from ever new MACs is over: all their frames are read".to_owned()
            }
            Note::FloodOver(Some(Source::Mac(mac))) => {
                format!("{mac} floods no longer: all its frames are read")
            }
            Note::FloodOver(Some(Source::Port(port))) => {
                format!("the namespace at port {port} floods no longer: all its frames are read")
            }
            Note::FloodOver(Some(Source::Astray)) => {
                "the bridge sends few frames for others here again: all are read".to_owned()
            }
            Note::FloodOver(None) => "the flood by the uplink is over: all packets are read".to_owned(),
            Note::Stopping(why) => format!("stopping: {why}"),
        }
    }
}

impl Event {
    /// The event of a step that the translator took.
    pub fn from_step(step: Step, at: Time) -> Event {
        let what = match step {
            Step::Opened(session) => What::Opened(session),
            Step::Changed(session) => What::Changed(session),
            Step::Closed(session, why) => What::Closed(session, why),
            Step::Refused(flow, why) => What::Refused(flow, why, None),
            Step::Denied(flow, rule) => What::Refused(flow, Refusal::EgressDenied, Some(rule)),
            Step::Lent(block) => What::Note(Note::BlockLent(block)),
            Step::Returned(block) => What::Note(Note::BlockReturned(block)),
        };
        Event { at, what }
    }

    /// Which kind it is.
    pub fn kind(&self) -> Kind {
        match self.what {
            What::Opened(_) => Kind::Opened,
            What::Changed(_) => Kind::Changed,
            What::Closed(..) => Kind::Closed,
            What::Refused(..) => Kind::Refused,
            What::Packet(ref packet) if packet.dropped => Kind::Dropped,
            What::Packet(_) => Kind::Packet,
            What::Note(_) => Kind::Note,
        }
    }
}

/// The stable word for why a session ended.
pub fn closed_word(why: Closed) -> &'static str {
    match why {
        Closed::Expired => "expired",
        Closed::Flushed => "flushed",
        Closed::Unpublished => "unpublished",
        Closed::Recycled => "recycled",
        Closed::Reopened => "reopened",
        Closed::Reconfigured => "reconfigured",
    }
}
