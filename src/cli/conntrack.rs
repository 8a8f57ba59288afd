//! A session as a line of `conntrack -L`, for programs that read those.
//!
//! Of a published port the remote is taken to have opened the session, since that is what a published
//! port is for. What a line cannot say (the gateway's own states, byte counts) is left out, as
//! `conntrack` does without accounting.

use crate::observe::SessionRecord;
use crate::observe::record::EndpointRecord;

/// The session's line, without a newline.
pub fn line(flow: &SessionRecord) -> String {
    let (name, number) = protocol(&flow.protocol);
    let timeout = flow.expires_seconds as u64;
    let state = tcp_state(flow).map(|state| format!("{state} ")).unwrap_or_default();
    let (asked, answer) = if flow.published {
        (tuple(flow, &flow.remote, &flow.outside, true), tuple(flow, &flow.inside, &flow.remote, false))
    } else {
        (tuple(flow, &flow.inside, &flow.remote, true), tuple(flow, &flow.remote, &flow.outside, false))
    };
    let replied = if flow.published { flow.packets_out > 0 } else { flow.answered };
    let unreplied = if replied { "" } else { "[UNREPLIED] " };
    let assured = if assured(flow, replied) { "[ASSURED] " } else { "" };
    format!("{name:<8} {number} {timeout} {state}{asked} {unreplied}{answer} {assured}mark=0 use=1")
}

/// The name that `conntrack` has for a protocol, and its number.
fn protocol(word: &str) -> (&'static str, u8) {
    match word {
        "tcp" => ("tcp", 6),
        "udp" => ("udp", 17),
        "icmp" => ("icmp", 1),
        other => {
            ("unknown", other.strip_prefix("proto-").and_then(|number| number.parse().ok()).unwrap_or(0))
        }
    }
}

/// The kernel's word for a state.
fn tcp_state(flow: &SessionRecord) -> Option<&'static str> {
    let replied = if flow.published { flow.packets_out > 0 } else { flow.answered };
    Some(match flow.state.as_str() {
        "opening" if replied => "SYN_RECV",
        "opening" => "SYN_SENT",
        "established" => "ESTABLISHED",
        "inside-closed" => "FIN_WAIT",
        "remote-closed" => "CLOSE_WAIT",
        "closing" => "TIME_WAIT",
        "reset" => "CLOSE",
        _ => return None,
    })
}

/// Whether the kernel would keep it when the table is full: established TCP, or UDP with more than a
/// question and an answer.
fn assured(flow: &SessionRecord, replied: bool) -> bool {
    match flow.protocol.as_str() {
        "tcp" => replied && flow.state != "opening",
        "udp" => replied && flow.packets_in + flow.packets_out > 2,
        _ => false,
    }
}

/// One direction. In ICMP the identifier stands where the ports would.
fn tuple(flow: &SessionRecord, from: &EndpointRecord, to: &EndpointRecord, asked: bool) -> String {
    let addresses = format!("src={} dst={}", from.address, to.address);
    match flow.protocol.as_str() {
        "tcp" | "udp" => format!("{addresses} sport={} dport={}", from.port, to.port),
        "icmp" if asked => format!("{addresses} type=8 code=0 id={}", from.port.max(to.port)),
        "icmp" => format!("{addresses} type=0 code=0 id={}", from.port.max(to.port)),
        _ => addresses,
    }
}
