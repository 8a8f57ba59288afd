//! `tapnat flows`: the translation table.

use super::args::{FilterArgs, GatewayArgs};
use super::conntrack;
use super::text::{Cell, Column, Ink, Paint, bytes, count, plural, span, table};
use crate::control::Client;
use crate::control::protocol::{Body, Request};
use crate::observe::SessionRecord;
use crate::observe::record::EndpointRecord;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::time::Duration;

/// Options of `tapnat flows`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct FlowsArgs {
    /// Which gateway.
    #[command(flatten)]
    pub gateway: GatewayArgs,
    /// How to write them: a table to read, one JSON object a line, or lines as of `conntrack -L`
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
    /// Draw the table again every SECONDS (2 if not said) until interrupted
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
          value_parser = seconds, conflicts_with = "json")]
    pub watch: Option<Duration>,
    /// Which flows.
    #[command(flatten)]
    pub filter: FilterArgs,
}

const EXAMPLES: &str = "\
Columns: who the host is (inside), who we say it is (outside), who it talks to (remote); how long the
flow lives already and how long it still would without a packet; packets and bytes from the inside
(out) and to it (in). A super-frame counts as one packet.

Examples:
  tapnat flows --watch
  tapnat flows --protocol tcp --state established --inside 10.88.0.2
  tapnat flows --remote 198.51.100.0/24 --json | jq .bytes_in
  tapnat flows --format conntrack | grep dport=443";

/// How to write flows.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// A table to read.
    Table,
    /// One JSON object a line.
    Json,
    /// As `conntrack -L` does.
    Conntrack,
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or("give seconds from 0.1 to 3600")
}

/// Shows the flows of a running gateway.
///
/// # Errors
/// It is not there, or standard output is closed.
pub fn run(args: &FlowsArgs) -> anyhow::Result<()> {
    let mut client = args.gateway.connect()?;
    let format = if args.json { Format::Json } else { args.format };
    let mut out = BufWriter::new(io::stdout().lock());
    let Some(pause) = args.watch else {
        match format {
            Format::Table => write_table(&mut out, &fetch(&mut client, args)?, Paint::stdout())?,
            _ => each(&mut client, args, |flow| write_line(&mut out, &flow, format))?,
        }
        return Ok(out.flush()?);
    };
    let screen = io::stdout().is_terminal();
    loop {
        let flows = fetch(&mut client, args)?;
        if screen {
            draw(&mut out, &flows, format)?;
        } else {
            match format {
                Format::Table => write_table(&mut out, &flows, Paint { on: false })?,
                _ => flows.iter().try_for_each(|flow| write_line(&mut out, flow, format))?,
            }
            writeln!(out)?;
        }
        out.flush()?;
        std::thread::sleep(pause);
    }
}

/// Hands over each flow as it comes: a table can have millions.
fn each(
    client: &mut Client,
    args: &FlowsArgs,
    mut take: impl FnMut(SessionRecord) -> io::Result<()>,
) -> anyhow::Result<()> {
    for body in client.ask(&Request::Flows { filter: args.filter.filter() })? {
        if let Body::Flow(flow) = body? {
            take(*flow)?;
        }
    }
    Ok(())
}

fn fetch(client: &mut Client, args: &FlowsArgs) -> anyhow::Result<Vec<SessionRecord>> {
    let mut flows = Vec::new();
    each(client, args, |flow| {
        flows.push(flow);
        Ok(())
    })?;
    Ok(flows)
}

/// One flow for a program.
fn write_line(out: &mut impl Write, flow: &SessionRecord, format: Format) -> io::Result<()> {
    match format {
        Format::Conntrack => writeln!(out, "{}", conntrack::line(flow)),
        Format::Json | Format::Table => {
            serde_json::to_writer(&mut *out, flow)?;
            writeln!(out)
        }
    }
}

fn write_table(out: &mut impl Write, flows: &[SessionRecord], paint: Paint) -> io::Result<()> {
    for line in lines(flows, paint) {
        writeln!(out, "{line}")?;
    }
    writeln!(out, "{}", paint.ink(Ink::Dim, &plural(flows.len() as u64, "flow")))
}

/// One screen: from the top, what fits, and how much does not.
fn draw(out: &mut impl Write, flows: &[SessionRecord], format: Format) -> io::Result<()> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
    let height = size.map_or(0, |size| usize::from(size.ws_row));
    // Some terminals do not say.
    let height = if height < 4 { 24 } else { height };
    let all = match format {
        Format::Table => lines(flows, Paint::stdout()),
        Format::Json | Format::Conntrack => flows.iter().map(conntrack::line).collect(),
    };
    let room = height - 2;
    write!(out, "\x1b[H\x1b[J")?;
    for line in all.iter().take(room) {
        writeln!(out, "{line}")?;
    }
    let hidden = all.len().saturating_sub(room);
    let total = plural(flows.len() as u64, "flow");
    let footer = if hidden > 0 { format!("{total}, {hidden} of them below") } else { total };
    write!(out, "{}", Paint::stdout().ink(Ink::Dim, &footer))
}

const COLUMNS: [Column; 11] = [
    Column { heading: "PROTO", right: false },
    Column { heading: "INSIDE", right: false },
    Column { heading: "OUTSIDE", right: false },
    Column { heading: "REMOTE", right: false },
    Column { heading: "STATE", right: false },
    Column { heading: "AGE", right: true },
    Column { heading: "EXPIRES", right: true },
    Column { heading: "PKTS OUT", right: true },
    Column { heading: "PKTS IN", right: true },
    Column { heading: "OUT", right: true },
    Column { heading: "IN", right: true },
];

fn lines(flows: &[SessionRecord], paint: Paint) -> Vec<String> {
    let rows: Vec<Vec<Cell>> = flows.iter().map(row).collect();
    table(&COLUMNS, &rows, paint)
}

fn row(flow: &SessionRecord) -> Vec<Cell> {
    let end = |end: &EndpointRecord, asks: bool| endpoint(&flow.protocol, end, asks);
    let state = if flow.published { format!("{} (published)", flow.state) } else { flow.state.clone() };
    vec![
        Cell::inked(Ink::Cyan, flow.protocol.clone()),
        end(&flow.inside, true).into(),
        end(&flow.outside, true).into(),
        end(&flow.remote, false).into(),
        Cell::inked(state_ink(&flow.state), state),
        span(flow.age_seconds).into(),
        span(flow.expires_seconds).into(),
        count(flow.packets_out).into(),
        count(flow.packets_in).into(),
        bytes(flow.bytes_out).into(),
        bytes(flow.bytes_in).into(),
    ]
}

/// An endpoint with its port, or with its identifier for who asks in ICMP, or alone.
pub fn endpoint(protocol: &str, end: &EndpointRecord, asks: bool) -> String {
    match protocol {
        "tcp" | "udp" => end.to_string(),
        "icmp" if asks => format!("{} id {}", end.address, end.port),
        _ => end.address.to_string(),
    }
}

fn state_ink(state: &str) -> Ink {
    match state {
        "established" | "answered" => Ink::Green,
        "opening" | "unanswered" => Ink::Yellow,
        "reset" => Ink::Red,
        _ => Ink::Dim,
    }
}
