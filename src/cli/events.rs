//! `tapnat events`: what happens, as it happens.

use super::args::{FilterArgs, GatewayArgs};
use super::flows::endpoint;
use super::packet;
use super::text::{Ink, Paint, bytes, plural, span};
use crate::control::protocol::{Body, Request};
use crate::observe::record::WhatRecord;
use crate::observe::{EventRecord, Kind, SessionRecord};
use std::io::{self, BufWriter, Write};

/// Options of `tapnat events`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct EventsArgs {
    /// Which gateway.
    #[command(flatten)]
    pub gateway: GatewayArgs,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
    /// Only these kinds: opened, changed, closed, refused, packet, dropped, note
    /// [default: all but packet and dropped]
    #[arg(long, value_name = "KIND,...", value_delimiter = ',', value_parser = kind)]
    pub kinds: Option<Vec<String>>,
    /// Show N packets before and after translation, the changed bytes marked, and end
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub packets: Option<u64>,
    /// Which flows.
    #[command(flatten)]
    pub filter: FilterArgs,
}

const EXAMPLES: &str = "\
A reader that is too slow loses events and is told how many; the gateway never waits for it.
With --packets, give --kinds as well to see other events between, without end.

Examples:
  tapnat events
  tapnat events --kinds refused --json | jq -r .reason | sort | uniq -c
  tapnat events --packets 2 --protocol icmp
  tapnat events --kinds dropped
  tapnat events --inside 10.88.0.2 --kinds opened,closed";

fn kind(word: &str) -> Result<String, String> {
    let known: Vec<&str> = Kind::ALL.into_iter().map(Kind::word).collect();
    Kind::from_word(word)
        .map(|kind| kind.word().to_owned())
        .ok_or_else(|| format!("known: {}", known.join(", ")))
}

/// Shows the events of a running gateway until interrupted.
///
/// # Errors
/// It is not there or ends, or standard output is closed.
pub fn run(args: &EventsArgs) -> anyhow::Result<()> {
    let mut client = args.gateway.connect()?;
    let request =
        Request::Events { kinds: args.kinds.clone(), packets: args.packets, filter: args.filter.filter() };
    let mut out = BufWriter::new(io::stdout().lock());
    let paint = Paint::stdout();
    for body in client.ask(&request)? {
        match (body?, args.json) {
            (Body::Event(event), true) => writeln!(out, "{}", serde_json::to_string(&event)?)?,
            (Body::Event(event), false) => {
                for line in lines(&event, paint) {
                    writeln!(out, "{line}")?;
                }
            }
            (Body::Lost(count), true) => writeln!(out, "{{\"lost\":{count}}}")?,
            (Body::Lost(count), false) => {
                let lost = format!("{} lost: this reader is too slow", plural(count, "event"));
                writeln!(out, "{}", paint.ink(Ink::Red, &lost))?;
            }
            _ => {}
        }
        // Each as it happens, also through a pipe.
        out.flush()?;
    }
    Ok(())
}

/// An event for a person.
pub fn lines(event: &EventRecord, paint: Paint) -> Vec<String> {
    let time = paint.ink(Ink::Dim, clock(&event.time));
    let said = |ink: Ink, word: &str, text: String| {
        vec![format!("{time}  {}  {text}", paint.ink(ink, &format!("{word:<7}")))]
    };
    match &event.what {
        WhatRecord::Opened { session } => said(Ink::Green, "opened", way(session)),
        WhatRecord::Changed { session } => {
            said(Ink::Cyan, "changed", format!("{}  {}", way(session), session.state))
        }
        WhatRecord::Closed { session, reason } => {
            let sums = format!(
                "{reason} after {}, {} out, {} in",
                span(session.age_seconds),
                bytes(session.bytes_out),
                bytes(session.bytes_in)
            );
            said(Ink::Dim, "closed", format!("{}  {sums}", way(session)))
        }
        WhatRecord::Refused { flow, reason, rule } => {
            let by = rule.as_ref().map(|rule| format!(" by {rule}")).unwrap_or_default();
            said(Ink::Yellow, "refused", format!("{flow}  {reason}{by}"))
        }
        WhatRecord::Packet(packet) | WhatRecord::Dropped(packet) => packet::lines(&time, packet, paint),
        WhatRecord::Note { note, text } => said(Ink::Red, "note", format!("{note}: {text}")),
        WhatRecord::Unknown => {
            said(Ink::Dim, "?", "an event of a kind that this version does not know".into())
        }
    }
}

/// Who talks to whom, as whom.
fn way(session: &SessionRecord) -> String {
    let protocol = &session.protocol;
    format!(
        "{protocol} {} as {} with {}",
        endpoint(protocol, &session.inside, true),
        endpoint(protocol, &session.outside, true),
        endpoint(protocol, &session.remote, false)
    )
}

/// The time of day of an RFC 3339 time, in milliseconds.
fn clock(time: &str) -> &str {
    time.split_once('T').map_or(time, |(_, clock)| clock.get(..12).unwrap_or(clock))
}
