//! What goes over the control socket: one JSON object a line, both ways.
//!
//! ```text
//! < {"tapnat":"0.1.0","protocol":1,"name":"default","pid":4711}
//! > {"id":1,"request":"flows","filter":{"protocol":"tcp"}}
//! < {"id":1,"flow":{"id":7,"protocol":"tcp","inside":{"address":"10.88.0.2","port":40000},...}}
//! < {"id":1,"done":true,"count":1}
//! > {"id":2,"request":"publish-add","spec":"80:10.88.0.9/tcp"}
//! < {"id":2,"error":{"word":"taken","message":"...","cure":"..."}}
//! ```
//!
//! The server speaks first. Every request is answered with any number of lines and then exactly one
//! with `done` or `error`. `protocol` grows when something that was promised changes; new keys and
//! new kinds of events may come at any time, so a client ignores what it does not know.

use super::engine::About;
use crate::config::{Change, PublishSpec};
use crate::flow::{Endpoint, Protocol};
use crate::nat::PublishError;
use crate::observe::{EventRecord, Filter, SessionRecord, StatsRecord};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::PathBuf;

/// The version of what is promised here.
pub const PROTOCOL: u32 = 1;

/// The longest request, in bytes, its newline included.
pub const LONGEST_REQUEST: usize = 512 * 1024;

/// The first line of a server.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Greeting {
    /// The program's version.
    pub tapnat: String,
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// Instance name.
    pub name: String,
    /// Process id.
    pub pid: u32,
}

/// What can be asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// What the gateway is: one `about`.
    About {},
    /// Sessions: a `flow` each.
    Flows {
        /// Which.
        #[serde(default, skip_serializing_if = "Filter::is_empty")]
        filter: Filter,
    },
    /// Counters: one `stats`.
    Stats {},
    /// Events as they happen, an `event` each and `lost` where some were lost, until the client
    /// sends its next request or hangs up.
    Events {
        /// Words of [`crate::observe::Kind`]; without them, all but packets, or only packets if
        /// `packets` is given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kinds: Option<Vec<String>>,
        /// How many packets; if only packets are asked for, they end the stream.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        packets: Option<u64>,
        /// About which flows.
        #[serde(default, skip_serializing_if = "Filter::is_empty")]
        filter: Filter,
    },
    /// Forget sessions; `count` says how many.
    Flush {
        /// Which.
        #[serde(default, skip_serializing_if = "Filter::is_empty")]
        filter: Filter,
    },
    /// Make port forwards: a `forward` each. If one cannot be made, none is.
    PublishAdd {
        /// `[ADDR:]PORT[-PORT]:INSIDE[:PORT[-PORT]]/tcp|udp`.
        spec: String,
    },
    /// Remove port forwards: a `forward` each.
    PublishRemove {
        /// As for `publish-add`; the inside part may be left out.
        spec: String,
    },
    /// The port forwards: a `forward` each.
    PublishList {},
    /// Read the settings again and have them take effect: a `change` for each key that differs, and
    /// one `reloaded`. They take effect wholly or not at all.
    Reload {
        /// The file to read, on the gateway's host; that of the start if it is left out. With `text`,
        /// what errors call it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        config: Option<PathBuf>,
        /// What the file says, as who asks has read it: the gateway reads no file then.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        /// Only check and compare.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        dry_run: bool,
    },
    /// Who has an outside port, or which outside ports an inside host has: a `holder` each.
    Lookup {
        /// `ADDRESS:PORT[/tcp|udp|icmp]`, or the address of an inside host.
        who: String,
        /// When, in RFC 3339; now if it is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<String>,
    },
}

/// The words of [`Request`], for errors.
pub const REQUESTS: [&str; 10] = [
    "about",
    "flows",
    "stats",
    "events",
    "flush",
    "publish-add",
    "publish-remove",
    "publish-list",
    "reload",
    "lookup",
];

/// A line of an answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// That of the request; `None` if it could not be read.
    pub id: Option<u64>,
    /// What it says.
    #[serde(flatten)]
    pub body: Body,
    /// With `done`: how many lines came before, or things were done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// What a line of an answer says.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Body {
    /// What the gateway is.
    About(Box<About>),
    /// A session.
    Flow(Box<SessionRecord>),
    /// Counters.
    Stats(Box<StatsRecord>),
    /// Something happened.
    Event(Box<EventRecord>),
    /// So many events were lost here because the client is slow.
    Lost(u64),
    /// A port forward.
    Forward(ForwardRecord),
    /// A key of the settings that differs.
    Change(Change),
    /// The settings were read again.
    Reloaded(ReloadRecord),
    /// Who has outside ports.
    Holder(HolderRecord),
    /// The last line of an answer. Always true.
    Done(bool),
    /// The last line of an answer to what could not be done.
    Error(Problem),
}

/// A port forward.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct ForwardRecord {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Where it is reached: `ADDRESS:PORT`.
    pub outside: String,
    /// Who answers: `ADDRESS:PORT`.
    pub inside: String,
}

impl ForwardRecord {
    /// The record of a port forward.
    pub fn new(protocol: Protocol, outside: Endpoint, inside: Endpoint) -> Self {
        ForwardRecord {
            protocol: protocol.to_string(),
            outside: outside.to_string(),
            inside: inside.to_string(),
        }
    }
}

/// Who has outside ports, and why.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct HolderRecord {
    /// `mapping`, `forward`, `block` (a port block that follows from the inside address) or `lent-block`
    /// (one that was lent beside it).
    pub why: String,
    /// `tcp`, `udp`, `icmp` or `proto-N`; none for all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The inside host, with its port if it has one in this.
    pub inside: String,
    /// `ADDRESS:PORT` or `ADDRESS:FIRST-LAST`.
    pub outside: String,
    /// How many flows use it.
    pub flows: u64,
    /// Since when, RFC 3339; none for what was so from the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Until when; none for what is still so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// What became of the flows when settings were read again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReloadRecord {
    /// Nothing was changed.
    pub dry_run: bool,
    /// Flows that live on.
    pub kept: u64,
    /// Flows that the new settings do not allow.
    pub ended: u64,
}

/// Why something could not be done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{message}; {cure}")]
pub struct Problem {
    /// A stable word: `bad-request`, `too-long`, `busy`, `gone`, `timeout`, `taken`,
    /// `foreign-address`, `not-inside`, `limit`, `not-leased`, `not-found`, `bad-config`, `no-file` or
    /// `needs-restart`.
    pub word: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub cure: String,
}

impl Problem {
    /// A problem.
    pub fn new(word: &str, message: impl Into<String>, cure: impl Into<String>) -> Self {
        Problem { word: word.to_owned(), message: message.into(), cure: cure.into() }
    }

    /// The translator cannot make a port forward.
    pub fn not_published(protocol: Protocol, outside: Endpoint, why: PublishError) -> Self {
        let (word, cure) = match why {
            PublishError::Taken => ("taken", "`tapnat publish list` shows the forwards; take another port"),
            PublishError::ForeignAddress => {
                ("foreign-address", "leave the address out, or see `tapnat stats`")
            }
            PublishError::Limit => ("limit", "remove a forward, or raise --limit publish=N"),
        };
        Problem::new(word, format!("{protocol} {outside}: {why}"), cure)
    }

    /// The host does not give the port of a forward.
    pub fn not_leased(protocol: Protocol, outside: Endpoint, why: &str) -> Self {
        let cure = "stop the host's program that has the port, or take another";
        Problem::new("not-leased", format!("{protocol} {outside}: {why}"), cure)
    }
}

/// Reads a request: its id, if that much can be read, and what it asks.
pub fn parse_request(line: &[u8]) -> (Option<u64>, Result<Request, Problem>) {
    let bad = |message: String, cure: &str| Err(Problem::new("bad-request", message, cure));
    let object = match serde_json::from_slice(line) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return (None, bad("not a JSON object".into(), "send one JSON object a line")),
        Err(error) => return (None, bad(format!("not JSON: {error}"), "send one JSON object a line")),
    };
    let id = object.get("id").and_then(Value::as_u64);
    if id.is_none() {
        return (None, bad("no id".into(), "give \"id\" a number from 0 on"));
    }
    let known = REQUESTS.join(", ");
    let request = match object.get("request").and_then(Value::as_str) {
        Some(word) if REQUESTS.contains(&word) => {
            let unknown = unknown_key(&object, word);
            match unknown {
                Some(key) => bad(format!("`{word}` has no key `{key}`"), "leave it out, or correct its name"),
                None => serde_json::from_value(Value::Object(object))
                    .or_else(|error| bad(error.to_string(), "send what the protocol says")),
            }
        }
        Some(word) => bad(format!("no request `{word}`"), &format!("known: {known}")),
        None => bad("no request".into(), &format!("give \"request\" one of {known}")),
    };
    (id, request)
}

/// A key that a request of this kind does not have: most likely a typing error, and what was meant
/// by it must not be left out silently (a filter of `flush`, say).
fn unknown_key(object: &serde_json::Map<String, Value>, word: &str) -> Option<String> {
    let own: &[&str] = match word {
        "flows" | "flush" => &["filter"],
        "events" => &["kinds", "packets", "filter"],
        "publish-add" | "publish-remove" => &["spec"],
        "reload" => &["config", "text", "dry_run"],
        "lookup" => &["who", "at"],
        _ => &[],
    };
    let known = |key: &String| key == "id" || key == "request" || own.contains(&key.as_str());
    object.keys().find(|key| !known(key)).cloned()
}

/// Which port forwards to remove.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemoveSpec {
    /// The forward, whose inside part counts only if `with_inside`.
    pub spec: PublishSpec,
    /// Whether the inside part was given.
    pub with_inside: bool,
}

impl std::str::FromStr for RemoveSpec {
    type Err = Problem;

    /// Reads a whole port forward, or one without its inside part: `[ADDR:]PORT[-PORT]/tcp|udp`.
    fn from_str(text: &str) -> Result<RemoveSpec, Problem> {
        let whole = text.parse::<PublishSpec>();
        let with = |inside: &str| {
            let (outside, protocol) = text.rsplit_once('/')?;
            format!("{outside}:{inside}/{protocol}").parse::<PublishSpec>().ok()
        };
        let short = with("255.255.255.255").or_else(|| with("[ff02::1]"));
        match (whole, short) {
            (Ok(spec), _) => Ok(RemoveSpec { spec, with_inside: true }),
            (Err(_), Some(spec)) => Ok(RemoveSpec { spec, with_inside: false }),
            (Err(why), None) => {
                Err(Problem::new("bad-request", format!("`{text}` {}", why.problem), why.cure))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_or_its_fault_is_named() {
        let (id, request) = parse_request(br#"{"id":3,"request":"flows","filter":{"port":80}}"#);
        let filter = Filter { port: Some(80), ..Filter::default() };
        assert_eq!((id, request), (Some(3), Ok(Request::Flows { filter })));
        for (line, id, part) in [
            ("", None, "not JSON"),
            ("[1]", None, "not a JSON object"),
            ("{\"id\":1", None, "not JSON"),
            ("\u{0}", None, "not JSON"),
            (r#"{"request":"stats"}"#, None, "no id"),
            (r#"{"id":-1,"request":"stats"}"#, None, "no id"),
            (r#"{"id":4}"#, Some(4), "no request"),
            (r#"{"id":4,"request":"flwos"}"#, Some(4), "no request `flwos`"),
            (r#"{"id":4,"request":"flush","filtre":{}}"#, Some(4), "`flush` has no key `filtre`"),
            (r#"{"id":4,"request":"flush","filter":{"prot":"tcp"}}"#, Some(4), "unknown field `prot`"),
            (r#"{"id":4,"request":"flows","filter":{"inside":"ten"}}"#, Some(4), "`ten` is not ADDRESS"),
            (r#"{"id":4,"request":"publish-add"}"#, Some(4), "missing field `spec`"),
        ] {
            let (got, request) = parse_request(line.as_bytes());
            let problem = request.unwrap_err();
            assert!(got == id && problem.message.contains(part), "{line}: {problem}");
        }
    }

    #[test]
    fn every_request_survives_the_wire() {
        let filter = Filter { protocol: "udp".parse().ok(), ..Filter::default() };
        for request in [
            Request::About {},
            Request::Flows { filter: filter.clone() },
            Request::Stats {},
            Request::Events { kinds: Some(vec!["note".into()]), packets: Some(2), filter: filter.clone() },
            Request::Flush { filter },
            Request::PublishAdd { spec: "x".into() },
            Request::PublishRemove { spec: "x".into() },
            Request::PublishList {},
            Request::Lookup { who: "10.88.0.7".into(), at: None },
            Request::Reload { config: None, text: None, dry_run: false },
            Request::Reload { config: Some("/etc/gw.toml".into()), text: None, dry_run: true },
            Request::Reload { config: Some("gw.toml".into()), text: Some("mtu = 1".into()), dry_run: true },
        ] {
            let mut value = serde_json::to_value(&request).unwrap();
            value["id"] = 9.into();
            assert_eq!(parse_request(value.to_string().as_bytes()), (Some(9), Ok(request)));
        }
    }

    #[test]
    fn a_forward_is_removed_by_its_outside_part_alone() {
        assert!("80:10.0.0.2:80/tcp".parse::<RemoveSpec>().unwrap().with_inside);
        let short = "203.0.113.1:80-81/udp".parse::<RemoveSpec>().unwrap();
        assert!(!short.with_inside && short.spec.ports == (80..=81));
        let six = "[2001:db8::1]:80/tcp".parse::<RemoveSpec>().unwrap();
        assert!(!six.with_inside && six.spec.address == "2001:db8::1".parse().ok());
        assert!("80".parse::<RemoveSpec>().unwrap_err().message.contains("names no protocol"));
    }
}
