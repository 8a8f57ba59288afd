//! `tapnat publish`: port forwards of a running gateway.

use super::args::GatewayArgs;
use super::text::{Cell, Column, Ink, Paint, table};
use crate::config::PublishSpec;
use crate::control::protocol::{Body, ForwardRecord, Problem, RemoveSpec, Request};
use std::io::{self, BufWriter, Write};

/// Options of `tapnat publish`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct PublishArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub action: Action,
}

const EXAMPLES: &str = "\
SPEC is [ADDR:]PORT[-PORT]:INSIDE[:PORT[-PORT]]/tcp or /udp. Without ADDR all external addresses are
meant, without inside ports the same as outside. Forwards last until they are removed or the gateway
ends; --publish of `tapnat run` makes them at start.

Examples:
  tapnat publish add 8080:10.88.0.2:80/tcp
  tapnat publish add 203.0.113.1:5000-5010:10.88.0.3/udp
  tapnat publish list
  tapnat publish remove 8080/tcp";

/// What to do with port forwards.
#[derive(clap::Subcommand, Debug)]
pub enum Action {
    /// Make port forwards: all of SPEC, or none
    #[command(after_help = "Example:\n  tapnat publish add 8080:10.88.0.2:80/tcp")]
    Add {
        /// What to forward where.
        #[arg(value_name = "SPEC", help = "[ADDR:]PORT[-PORT]:INSIDE[:PORT[-PORT]]/tcp or /udp")]
        spec: PublishSpec,
        /// How to speak to the gateway.
        #[command(flatten)]
        how: How,
    },
    /// Remove port forwards; the inside part may be left out
    #[command(
        after_help = "Examples:\n  tapnat publish remove 8080/tcp\n  tapnat publish remove 8080:10.88.0.2:80/tcp"
    )]
    Remove {
        /// What is forwarded.
        #[arg(
            value_name = "SPEC",
            value_parser = remove_spec,
            help = "[ADDR:]PORT[-PORT][:INSIDE[:PORT[-PORT]]]/tcp or /udp"
        )]
        spec: String,
        /// How to speak to the gateway.
        #[command(flatten)]
        how: How,
    },
    /// List port forwards
    #[command(after_help = "Example:\n  tapnat publish list --json | jq -r .outside")]
    List {
        /// How to speak to the gateway.
        #[command(flatten)]
        how: How,
    },
}

/// How to speak to the gateway.
#[derive(clap::Args, Debug)]
pub struct How {
    /// Which gateway.
    #[command(flatten)]
    pub gateway: GatewayArgs,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

fn remove_spec(text: &str) -> Result<String, Problem> {
    text.parse::<RemoveSpec>().map(|_| text.to_owned())
}

/// Makes, removes or lists port forwards.
///
/// # Errors
/// The gateway is not there or refuses, or standard output is closed.
pub fn run(args: &PublishArgs) -> anyhow::Result<()> {
    let (request, how, word) = match &args.action {
        Action::Add { spec, how } => (Request::PublishAdd { spec: spec.to_string() }, how, "published"),
        Action::Remove { spec, how } => (Request::PublishRemove { spec: spec.clone() }, how, "removed"),
        Action::List { how } => (Request::PublishList {}, how, ""),
    };
    let (bodies, _) = how.gateway.connect()?.all(&request)?;
    let forwards: Vec<ForwardRecord> = bodies
        .into_iter()
        .filter_map(|body| match body {
            Body::Forward(forward) => Some(forward),
            _ => None,
        })
        .collect();
    let mut out = BufWriter::new(io::stdout().lock());
    for forward in forwards.iter().filter(|_| how.json) {
        writeln!(out, "{}", serde_json::to_string(forward)?)?;
    }
    if !how.json {
        for line in lines(&forwards, word, Paint::stdout()) {
            writeln!(out, "{line}")?;
        }
    }
    Ok(out.flush()?)
}

fn lines(forwards: &[ForwardRecord], word: &str, paint: Paint) -> Vec<String> {
    if !word.is_empty() {
        let line = |forward: &ForwardRecord| {
            format!("{word} {} {} to {}", forward.protocol, forward.outside, forward.inside)
        };
        return forwards.iter().map(line).collect();
    }
    if forwards.is_empty() {
        return vec!["no ports are published".to_owned()];
    }
    let columns = ["PROTO", "OUTSIDE", "INSIDE"].map(|heading| Column { heading, right: false });
    let row = |forward: &ForwardRecord| {
        let protocol = Cell::inked(Ink::Cyan, forward.protocol.clone());
        vec![protocol, forward.outside.clone().into(), forward.inside.clone().into()]
    };
    table(&columns, &forwards.iter().map(row).collect::<Vec<_>>(), paint)
}
