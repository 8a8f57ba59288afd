//! Which flows somebody wants to see: the same filter for lists, events and `flush`.

use super::event::{Event, PacketSeen, What};
use crate::flow::{Endpoint, Flow, Protocol};
use crate::nat::SessionView;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// What a flow must be to be seen; what is not given is not asked about.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// `tcp`, `udp`, `icmp` or an IP protocol number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<ProtocolMatch>,
    /// Who the inside host is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inside: Option<EndpointMatch>,
    /// Who we say it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outside: Option<EndpointMatch>,
    /// Who it talks to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<EndpointMatch>,
    /// A port on any of the three.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// A word of [`state_word`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<StateMatch>,
}

impl Filter {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Filter::default()
    }

    /// Whether a session is what was asked for.
    pub fn session(&self, session: &SessionView) -> bool {
        let ends = [session.inside, session.outside, session.remote];
        self.protocol.is_none_or(|wanted| wanted.0 == session.protocol)
            && self.inside.is_none_or(|wanted| wanted.has(session.inside))
            && self.outside.is_none_or(|wanted| wanted.has(session.outside))
            && self.remote.is_none_or(|wanted| wanted.has(session.remote))
            && self.port.is_none_or(|wanted| ends.iter().any(|end| end.port == wanted))
            && self.state.is_none_or(|wanted| wanted.word() == state_word(session))
    }

    /// Whether an event is about what was asked for. Notes about the gateway always are; a packet
    /// whose roles cannot be told is if any of its ends is.
    pub fn event(&self, event: &Event) -> bool {
        match &event.what {
            What::Opened(session) | What::Changed(session) | What::Closed(session, _) => {
                self.session(session)
            }
            What::Refused(flow, ..) => self.flow(flow),
            What::Packet(packet) => self.packet(packet),
            What::Note(_) => true,
        }
    }

    fn flow(&self, flow: &Flow) -> bool {
        let ends = [flow.source, flow.destination];
        let any = |wanted: EndpointMatch| ends.iter().any(|end| wanted.has(*end));
        self.protocol.is_none_or(|wanted| wanted.0 == flow.protocol)
            && [self.inside, self.outside, self.remote].into_iter().flatten().all(any)
            && self.port.is_none_or(|wanted| ends.iter().any(|end| end.port == wanted))
            && self.state.is_none()
    }

    fn packet(&self, packet: &PacketSeen) -> bool {
        let roles = packet.roles();
        let (Some(inside), Some(outside), Some(remote)) = (roles.inside, roles.outside, roles.remote) else {
            return match &packet.flow {
                Some(flow) => Filter { state: None, ..self.clone() }.flow(flow),
                None => self.is_empty(),
            };
        };
        let protocol = packet.flow.map(|flow| flow.protocol);
        self.protocol.is_none_or(|wanted| Some(wanted.0) == protocol)
            && self.inside.is_none_or(|wanted| wanted.has(inside))
            && self.outside.is_none_or(|wanted| wanted.has(outside))
            && self.remote.is_none_or(|wanted| wanted.has(remote))
            && self.port.is_none_or(|wanted| [inside, outside, remote].iter().any(|end| end.port == wanted))
    }
}

/// The state of a session in one word: that of TCP, or `answered` or `unanswered`.
pub fn state_word(session: &SessionView) -> &'static str {
    match session.tcp {
        Some(state) => state.word(),
        None if session.answered => "answered",
        None => "unanswered",
    }
}

/// Every word of [`state_word`].
pub const STATES: [&str; 8] = [
    "opening",
    "established",
    "inside-closed",
    "remote-closed",
    "closing",
    "reset",
    "answered",
    "unanswered",
];

/// Text that a filter cannot be read from: what it is and what it should be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{text}` is not {wanted}")]
pub struct BadFilter {
    text: String,
    wanted: &'static str,
}

/// A protocol to look for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ProtocolMatch(pub Protocol);

impl FromStr for ProtocolMatch {
    type Err = BadFilter;

    fn from_str(text: &str) -> Result<Self, BadFilter> {
        let bad = || BadFilter { text: text.into(), wanted: "a protocol: tcp, udp, icmp or a number to 255" };
        let number = match text {
            "tcp" => 6,
            "udp" => 17,
            "icmp" => 1,
            other => other.strip_prefix("proto-").unwrap_or(other).parse().map_err(|_| bad())?,
        };
        Ok(ProtocolMatch(Protocol::from_ipv4_number(number)))
    }
}

impl fmt::Display for ProtocolMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An address, an address and port, or a prefix to look for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct EndpointMatch {
    net: IpNet,
    port: Option<u16>,
}

impl EndpointMatch {
    /// Whether `endpoint` is what is looked for.
    pub fn has(&self, endpoint: Endpoint) -> bool {
        self.net.contains(&endpoint.ip) && self.port.is_none_or(|port| port == endpoint.port)
    }
}

impl FromStr for EndpointMatch {
    type Err = BadFilter;

    fn from_str(text: &str) -> Result<Self, BadFilter> {
        let wanted = "ADDRESS, ADDRESS:PORT or a prefix such as 10.88.0.0/24";
        let bad = || BadFilter { text: text.into(), wanted };
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(EndpointMatch { net: IpNet::from(ip), port: None });
        }
        if let Ok(end) = text.parse::<std::net::SocketAddr>() {
            return Ok(EndpointMatch { net: IpNet::from(end.ip()), port: Some(end.port()) });
        }
        text.parse::<IpNet>().map(|net| EndpointMatch { net, port: None }).map_err(|_| bad())
    }
}

impl fmt::Display for EndpointMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => Endpoint { ip: self.net.addr(), port }.fmt(f),
            None if self.net.prefix_len() == self.net.max_prefix_len() => self.net.addr().fmt(f),
            None => self.net.fmt(f),
        }
    }
}

/// A state to look for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct StateMatch {
    /// Its place in [`STATES`].
    state: usize,
}

impl StateMatch {
    /// The state's word.
    pub fn word(self) -> &'static str {
        STATES[self.state]
    }
}

impl FromStr for StateMatch {
    type Err = BadFilter;

    fn from_str(text: &str) -> Result<Self, BadFilter> {
        let wanted = "a state: opening, established, inside-closed, remote-closed, closing, reset, answered \
                      or unanswered";
        let found = STATES.iter().position(|state| *state == text);
        found.map(|state| StateMatch { state }).ok_or_else(|| BadFilter { text: text.into(), wanted })
    }
}

impl fmt::Display for StateMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Conversions that serde's `into` and `try_from` ask for.
macro_rules! as_text {
    ($($kind:ty),*) => { $(
        impl From<$kind> for String {
            fn from(value: $kind) -> String {
                value.to_string()
            }
        }

        impl TryFrom<String> for $kind {
            type Error = BadFilter;

            fn try_from(text: String) -> Result<Self, BadFilter> {
                text.parse()
            }
        }
    )* };
}

as_text!(ProtocolMatch, EndpointMatch, StateMatch);
