//! Events and sessions as programs read them: JSON with stable words and RFC 3339 times in UTC.
//!
//! A record is made where text is needed, away from the worker, and read back by the verbs of the
//! command line, so that both ends share one definition.

use super::event::{Event, Note, PacketSeen, What, closed_word};
use super::filter::state_word;
use crate::flow::{Endpoint, Flow, Time};
use crate::nat::SessionView;
use crate::wire::display::Line;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fmt::Write;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

/// The wall-clock time of `at` in RFC 3339, UTC, with microseconds. `base` is that of [`Time::ZERO`].
pub fn utc(at: Time, base: SystemTime) -> String {
    let shown = base.checked_add(at.since(Time::ZERO)).unwrap_or(base);
    let shown = shown.max(SystemTime::UNIX_EPOCH);
    humantime::format_rfc3339_micros(shown).to_string()
}

/// An address and a port; the identifier of an ICMP query, or 0, where there are no ports.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

impl From<Endpoint> for EndpointRecord {
    fn from(endpoint: Endpoint) -> Self {
        EndpointRecord { address: endpoint.ip, port: endpoint.port }
    }
}

impl fmt::Display for EndpointRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Endpoint { ip: self.address, port: self.port }.fmt(f)
    }
}

/// A session.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Unique while the gateway lives.
    pub id: u64,
    /// `tcp`, `udp`, `icmp` or `proto-N`.
    pub protocol: String,
    /// Who the inside host is.
    pub inside: EndpointRecord,
    /// Who we say it is.
    pub outside: EndpointRecord,
    /// Who it talks to.
    pub remote: EndpointRecord,
    /// A word of [`super::filter::STATES`].
    pub state: String,
    /// A packet has come from the remote.
    pub answered: bool,
    /// The mapping is a port forward.
    pub published: bool,
    /// When it was opened.
    pub opened: String,
    /// How long ago that is, in seconds.
    pub age_seconds: f64,
    /// How long it still lives if nothing more comes, in seconds.
    pub expires_seconds: f64,
    /// Packets from the inside; a super-frame counts as one.
    pub packets_out: u64,
    /// Packets from the remote.
    pub packets_in: u64,
    /// Bytes of IP packets from the inside.
    pub bytes_out: u64,
    /// Bytes of IP packets from the remote.
    pub bytes_in: u64,
}

impl SessionRecord {
    /// The record of a session as it was at `now`.
    pub fn new(session: &SessionView, now: Time, base: SystemTime) -> Self {
        SessionRecord {
            id: session.id,
            protocol: session.protocol.to_string(),
            inside: session.inside.into(),
            outside: session.outside.into(),
            remote: session.remote.into(),
            state: state_word(session).to_owned(),
            answered: session.answered,
            published: session.published,
            opened: utc(session.opened, base),
            age_seconds: millis(now.since(session.opened)),
            expires_seconds: millis(session.expires_in),
            packets_out: session.packets_out,
            packets_in: session.packets_in,
            bytes_out: session.bytes_out,
            bytes_in: session.bytes_in,
        }
    }
}

/// Seconds with milliseconds: what a person reads, and exact in JSON.
fn millis(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1000.0
}

/// Who talks to whom, as written in one header.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowRecord {
    /// `tcp`, `udp`, `icmp` or `proto-N`.
    pub protocol: String,
    /// The header's source.
    pub source: EndpointRecord,
    /// The header's destination.
    pub destination: EndpointRecord,
}

impl From<Flow> for FlowRecord {
    fn from(flow: Flow) -> Self {
        FlowRecord {
            protocol: flow.protocol.to_string(),
            source: flow.source.into(),
            destination: flow.destination.into(),
        }
    }
}

impl fmt::Display for FlowRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} > {}", self.protocol, self.source, self.destination)
    }
}

/// Something that happened.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EventRecord {
    /// When.
    pub time: String,
    /// What.
    #[serde(flatten)]
    pub what: WhatRecord,
}

/// What happened; `event` is the word of its [`super::Kind`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum WhatRecord {
    /// A session was opened.
    Opened {
        /// As it is.
        session: SessionRecord,
    },
    /// A TCP session changed its state.
    Changed {
        /// With the new state.
        session: SessionRecord,
    },
    /// A session ended.
    Closed {
        /// As it was.
        session: SessionRecord,
        /// `expired`, `flushed`, `unpublished`, `recycled`, `reopened` or `reconfigured`.
        reason: String,
    },
    /// The translator refused a packet.
    Refused {
        /// As it came.
        flow: FlowRecord,
        /// A word of [`crate::nat::Refusal`].
        reason: String,
        /// The egress rule that refused it, as `--egress` takes it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<String>,
    },
    /// A packet went through the gateway.
    Packet(PacketRecord),
    /// A packet was dropped; its fate is the reason.
    Dropped(PacketRecord),
    /// Something happened to the gateway itself.
    Note {
        /// A word of [`Note`].
        note: String,
        /// One line for a person.
        text: String,
    },
    /// A kind of event that this version does not know.
    #[serde(other)]
    Unknown,
}

/// A packet before and after the gateway.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PacketRecord {
    /// What became of it: a word of the counters.
    pub fate: String,
    /// The link it came from.
    pub from: String,
    /// The link it left by.
    pub to: Option<String>,
    /// Its flow as it came, if it could be read.
    pub flow: Option<FlowRecord>,
    /// Its flow as it left, if it did.
    pub translated: Option<FlowRecord>,
    /// Length of the IP packet as it came, in bytes.
    pub length: u32,
    /// Its first bytes as it came, from the IP header on, in hexadecimal.
    pub before: String,
    /// Its first bytes as it left; empty if it did not.
    pub after: String,
    /// One line for a person.
    pub summary: String,
}

impl PacketRecord {
    fn new(packet: &PacketSeen) -> Self {
        let mut summary = Line(&packet.before).to_string();
        if let Some(flow) = packet.translated {
            let _ = write!(summary, ", left as {} > {}", flow.source, flow.destination);
        }
        PacketRecord {
            fate: packet.fate.to_owned(),
            from: packet.from.clone(),
            to: packet.to.clone(),
            flow: packet.flow.map(FlowRecord::from),
            translated: packet.translated.map(FlowRecord::from),
            length: packet.length,
            before: to_hex(&packet.before),
            after: to_hex(&packet.after),
            summary,
        }
    }
}

impl EventRecord {
    /// The record of an event. `base` is the wall-clock time of [`Time::ZERO`].
    pub fn new(event: &Event, base: SystemTime) -> Self {
        let session = |view: &SessionView| SessionRecord::new(view, event.at, base);
        let what = match &event.what {
            What::Opened(view) => WhatRecord::Opened { session: session(view) },
            What::Changed(view) => WhatRecord::Changed { session: session(view) },
            What::Closed(view, why) => {
                WhatRecord::Closed { session: session(view), reason: closed_word(*why).to_owned() }
            }
            What::Refused(flow, why, rule) => WhatRecord::Refused {
                flow: (*flow).into(),
                reason: why.word().to_owned(),
                rule: rule.as_ref().map(ToString::to_string),
            },
            What::Packet(packet) if packet.dropped => WhatRecord::Dropped(PacketRecord::new(packet)),
            What::Packet(packet) => WhatRecord::Packet(PacketRecord::new(packet)),
            What::Note(note) => note_record(note),
        };
        EventRecord { time: utc(event.at, base), what }
    }
}

fn note_record(note: &Note) -> WhatRecord {
    WhatRecord::Note { note: note.word().to_owned(), text: note.text() }
}

/// Bytes in hexadecimal.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes of hexadecimal text; `None` if it is none.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.bytes().map(|digit| char::from(digit).to_digit(16)).collect::<Option<Vec<u32>>>()?;
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => u8::try_from(high << 4 | low).ok(),
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Protocol;
    use crate::nat::{Closed, Refusal, TcpState};
    use std::net::Ipv4Addr;

    fn session() -> SessionView {
        SessionView {
            id: 7,
            protocol: Protocol::Tcp,
            inside: Endpoint::new(Ipv4Addr::new(10, 88, 0, 2), 40000),
            outside: Endpoint::new(Ipv4Addr::new(203, 0, 113, 1), 61234),
            remote: Endpoint::new(Ipv4Addr::new(198, 51, 100, 7), 80),
            tcp: Some(TcpState::Established),
            answered: true,
            published: false,
            opened: Time::from_secs(10),
            expires_in: Duration::from_secs(7440),
            packets_out: 3,
            packets_in: 2,
            bytes_out: 180,
            bytes_in: 120,
        }
    }

    fn base() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    #[test]
    fn an_event_reads_as_documented_and_back() {
        let event = Event { at: Time::from_millis(12_345), what: What::Closed(session(), Closed::Expired) };
        let record = EventRecord::new(&event, base());
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(
            text,
            r#"{"time":"2023-11-14T22:13:32.345000Z","event":"closed","session":{"id":7,"protocol":"tcp","#
                .to_owned()
                + r#""inside":{"address":"10.88.0.2","port":40000},"#
                + r#""outside":{"address":"203.0.113.1","port":61234},"#
                + r#""remote":{"address":"198.51.100.7","port":80},"state":"established","answered":true,"#
                + r#""published":false,"opened":"2023-11-14T22:13:30.000000Z","age_seconds":2.345,"#
                + r#""expires_seconds":7440.0,"packets_out":3,"packets_in":2,"bytes_out":180,"bytes_in":120},"#
                + r#""reason":"expired"}"#
        );
        assert_eq!(serde_json::from_str::<EventRecord>(&text).unwrap(), record);
    }

    #[test]
    fn refusals_packets_and_notes_survive_the_wire() {
        let flow = Flow {
            protocol: Protocol::Udp,
            source: Endpoint::new(Ipv4Addr::new(192, 0, 2, 9), 53),
            destination: Endpoint::new(Ipv4Addr::new(203, 0, 113, 1), 5),
        };
        let packet = PacketSeen {
            dropped: true,
            fate: "filtered",
            from: "eth0".into(),
            to: None,
            flow: Some(flow),
            translated: None,
            length: 28,
            before: vec![0x45, 0, 0xff],
            after: Vec::new(),
        };
        let mut seen = Vec::new();
        for what in [
            What::Refused(flow, Refusal::Filtered, None),
            What::Packet(Box::new(packet)),
            What::Note(Note::PortsLow(Ipv4Addr::LOCALHOST.into(), 3)),
        ] {
            let record = EventRecord::new(&Event { at: Time::ZERO, what }, base());
            let text = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<EventRecord>(&text).unwrap(), record);
            seen.push(text.split('"').nth(7).unwrap_or_default().to_owned());
        }
        assert_eq!(seen, ["refused", "dropped", "note"], "the words of their kinds");
    }

    #[test]
    fn hexadecimal_is_read_back_and_nothing_else_is() {
        assert_eq!(from_hex(&to_hex(&[0, 0x7f, 0xff])), Some(vec![0, 0x7f, 0xff]));
        assert_eq!(from_hex("abc"), None);
        assert_eq!(from_hex("zz"), None);
        assert_eq!(from_hex("é"), None);
    }
}
