//! `tapnat selftest`: the NAT behaviour report. Each demand of the RFCs on a NAT is put to this
//! gateway, and if asked to the kernel's masquerade beside it, in a lab of its own. `serve` and `probe`
//! ask a NAT in the field, from both its sides.

mod html;
pub mod probe;
pub mod serve;
mod text;

use super::demo;
use super::text::{Paint, plural};
use crate::config::ConfigError;
use crate::config::Profile;
use crate::config::error::did_you_mean;
use crate::config::raw::Place;
use crate::lab::selftest::contender::{Contender, PLAIN};
use crate::lab::selftest::run::{Finding, Outcome, all, choose};
use crate::lab::selftest::trial::Trial;
use crate::lab::selftest::{Fault, Group, Level, Requirement};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where the gateways of the labs can be asked. `/run` is the process's own there.
const FOLDER: &str = "/run";

/// Options of `tapnat selftest`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct SelftestArgs {
    /// Ask a NAT in the field instead.
    #[command(subcommand)]
    pub field: Option<Field>,
    /// What carries packets outside, as for `tapnat run` [default: auto]
    #[arg(long, value_name = "auto|packet|raw")]
    pub uplink: Option<String>,
    /// Named set of NAT behaviours of the gateway under test, as for `tapnat run` [default: rfc4787]
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// Put the same to the kernel's masquerade, side by side
    #[arg(long, value_name = "NAT")]
    pub against: Option<Against>,
    /// Only these: numbers, documents (rfc5508) or parts of names, comma between
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub only: Vec<String>,
    /// List the requirements and run nothing
    #[arg(long)]
    pub list: bool,
    /// Show the packets of each requirement
    #[arg(long, short = 'v')]
    pub verbose: bool,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
    /// Write the report as a page of its own to this file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Exit with 1 if this gateway does not meet a MUST
    #[arg(long)]
    pub strict: bool,
    /// How many labs at a time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub jobs: u8,
    /// Options of `tapnat run` for the gateway under test, after --
    #[arg(last = true, value_name = "RUN OPTIONS")]
    pub options: Vec<String>,
}

/// The two sides of a NAT in the field.
#[derive(clap::Subcommand, Debug)]
pub enum Field {
    /// Be a STUN server, outside of a NAT
    Serve(serve::ServeArgs),
    /// Ask a STUN server what the NATs on the way do, from inside
    Probe(probe::ProbeArgs),
}

/// A NAT to compare with.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Against {
    /// IP forwarding and the nftables rule `masquerade`
    Kernel,
}

const EXAMPLES: &str = "\
Everything happens in network namespaces that end with the program; without root in a user namespace.
The exit code is 0 if it ran, whatever it found, and 1 if it could not run; with --strict also 1 if
the gateway does not meet a MUST.

Examples:
  tapnat selftest
  tapnat selftest --against kernel --html report.html
  tapnat selftest --only 1,14,rfc5508 --verbose
  tapnat selftest --profile symmetric --only 1,12,14
  tapnat selftest --json | jq -r 'select(.outcome == \"not met\") | .requirement'
  tapnat selftest -- --filtering endpoint-independent --timeout udp=2m
  tapnat selftest probe stun.example.org";

/// One requirement and what was found: a row of every report.
struct Row {
    group: &'static Group,
    requirement: &'static Requirement,
    findings: Vec<Finding>,
}

/// A finding as programs read it.
#[derive(Serialize)]
struct Line<'a> {
    number: u16,
    requirement: String,
    level: &'a str,
    document: &'a str,
    name: String,
    title: &'a str,
    contender: &'a str,
    outcome: &'a str,
    reason: Option<&'a str>,
    seconds: f64,
    packets: &'a [String],
}

/// Runs the requirements and reports.
///
/// # Errors
/// It could not run; or with `--strict`, a MUST is not met.
pub fn run(args: &SelftestArgs) -> Result<()> {
    match &args.field {
        Some(Field::Serve(args)) => return serve::run(args),
        Some(Field::Probe(args)) => return probe::run(args),
        None => {}
    }
    let chosen = choose(&args.only);
    if let Some(word) = args.only.iter().find(|word| choose(std::slice::from_ref(word)).is_empty()) {
        let (place, cure) = (Place::Flag("--only"), "`tapnat selftest --list` shows them");
        return Err(ConfigError::new(&place, format!("there is no requirement `{word}`"), cure).into());
    }
    let mut out = BufWriter::new(io::stdout().lock());
    if args.list {
        for line in text::list(&chosen, Paint::stdout()) {
            writeln!(out, "{line}")?;
        }
        return Ok(out.flush()?);
    }
    // Opened here, since paths may mean something else in the private namespaces.
    let page = args.html.as_ref().map(|path| {
        File::create(path).with_context(|| format!("--html: write {}", path.display())).map(BufWriter::new)
    });
    let page = page.transpose()?;
    check_profile(args)?;
    demo::enter(rustix::process::geteuid().is_root(), "the selftest")?;
    let contenders = contenders(args)?;
    let rows = findings(args, &contenders, &chosen);
    let names: Vec<String> = contenders.iter().map(Contender::name).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    if args.json {
        for row in &rows {
            for (finding, name) in row.findings.iter().zip(&names) {
                writeln!(out, "{}", serde_json::to_string(&line(row, finding, name))?)?;
            }
        }
    } else {
        for line in text::report(&rows, &names, args.verbose, Paint::stdout()) {
            writeln!(out, "{line}")?;
        }
    }
    out.flush()?;
    if let Some(mut page) = page {
        html::write(&mut page, &rows, &names)?;
        page.flush()?;
    }
    let broken =
        rows.iter().flat_map(|row| &row.findings).filter(|f| matches!(f.outcome, Outcome::Broken(_)));
    match broken.count() {
        0 => {}
        count => bail!("{count} requirements could not be tried: the lab failed, see `broken` above"),
    }
    let unmet = |row: &&Row| {
        row.requirement.level == Level::Must && matches!(row.findings[0].outcome, Outcome::NotMet(_))
    };
    match rows.iter().filter(unmet).count() {
        count if args.strict && count > 0 => bail!("{count} MUST requirements are not met"),
        _ => Ok(()),
    }
}

/// A profile of that name exists.
fn check_profile(args: &SelftestArgs) -> Result<(), ConfigError> {
    let Some(name) = &args.profile else { return Ok(()) };
    let known = Profile::WORDS.map(|(word, _)| word);
    if known.contains(&name.as_str()) {
        return Ok(());
    }
    let problem = format!("`{name}` is no profile");
    Err(ConfigError::new(&Place::Flag("--profile"), problem, did_you_mean(name, &known)))
}

/// The NATs to try, each of which has shown that it works at all.
fn contenders(args: &SelftestArgs) -> Result<Vec<Contender>> {
    let program = std::env::current_exe().context("find the tapnat program itself")?;
    let mut options = Vec::new();
    let own = [("--uplink", &args.uplink), ("--profile", &args.profile)];
    for (name, value) in own.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
        options.extend([name.to_owned(), value.clone()]);
    }
    options.extend_from_slice(&args.options);
    let mut all = vec![Contender::Tapnat { program, options, folder: PathBuf::from(FOLDER) }];
    all.extend(args.against.map(|Against::Kernel| Contender::Kernel));
    for contender in &all {
        contender.check()?;
        if let Err(Fault::NotMet(why) | Fault::NotApplicable(why) | Fault::Broken(why)) =
            Trial::start(contender, &PLAIN)
        {
            bail!("{} does not work in the lab: {why}", contender.name());
        }
    }
    Ok(all)
}

fn findings(
    args: &SelftestArgs,
    contenders: &[Contender],
    chosen: &[(&'static Group, &'static Requirement)],
) -> Vec<Row> {
    let (done, total) = (AtomicUsize::new(0), chosen.len() * contenders.len());
    let shown = io::stderr().is_terminal();
    let heard = |row: usize, column: usize, finding: &Finding| {
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        if shown {
            let name: String = chosen[row].1.slug().chars().take(60).collect();
            let (contender, word) = (contenders[column].name(), finding.outcome.word());
            let _ = write!(io::stderr(), "\r\x1b[K{done}/{total} {contender}: {name}: {word}");
        }
    };
    let found = all(contenders, chosen, usize::from(args.jobs), heard);
    if shown {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
    let rows = chosen.iter().zip(found);
    rows.map(|(&(group, requirement), findings)| Row { group, requirement, findings }).collect()
}

fn line<'a>(row: &'a Row, finding: &'a Finding, contender: &'a str) -> Line<'a> {
    Line {
        number: row.requirement.number,
        requirement: row.requirement.place(),
        level: row.requirement.level.word(),
        document: row.group.name,
        name: row.requirement.slug(),
        title: row.requirement.title,
        contender,
        outcome: finding.outcome.word(),
        reason: finding.outcome.reason(),
        seconds: (finding.seconds * 1000.0).round() / 1000.0,
        packets: &finding.packets,
    }
}

/// How many requirements the contender of this column meets, and how many it could.
fn score(rows: &[Row], column: usize) -> (usize, usize) {
    let met = count(rows, column, |outcome| *outcome == Outcome::Met);
    let not = count(rows, column, |outcome| matches!(outcome, Outcome::NotMet(_)));
    (met, met + not + by_option(rows, column))
}

/// How many requirements the contender of this column meets by an option.
fn by_option(rows: &[Row], column: usize) -> usize {
    count(rows, column, |outcome| matches!(outcome, Outcome::ByOption(_)))
}

fn count(rows: &[Row], column: usize, wanted: impl Fn(&Outcome) -> bool) -> usize {
    rows.iter().filter(|row| row.findings.get(column).is_some_and(|f| wanted(&f.outcome))).count()
}

/// Which requirements the one contender meets and the other does not, as places in the documents.
fn only_by(rows: &[Row], one: usize, other: usize) -> Vec<&Row> {
    let won = |row: &&Row| {
        let outcome = |column: usize| row.findings.get(column).map(|finding| &finding.outcome);
        outcome(one) == Some(&Outcome::Met) && matches!(outcome(other), Some(Outcome::NotMet(_)))
    };
    rows.iter().filter(won).collect()
}

/// One sentence for each contender, and for two of them where they differ.
fn summary(rows: &[Row], names: &[&str]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for (column, name) in names.iter().enumerate() {
        let (met, of) = score(rows, column);
        let rest = rows.len() - of;
        let rest = if rest > 0 { format!("; {rest} cannot be put to it") } else { String::new() };
        let by_option = match by_option(rows, column) {
            0 => String::new(),
            more => format!(", {more} more by an option"),
        };
        lines.push(format!("{name} meets {met} of {of} requirements{by_option}{rest}"));
    }
    if let [one, other] = names {
        for (one, other, from, to) in [(one, other, 0, 1), (other, one, 1, 0)] {
            let won = only_by(rows, from, to);
            let mut places: Vec<String> = won
                .iter()
                .map(|row| format!("{} ({})", row.requirement.number, row.requirement.place()))
                .collect();
            places.dedup();
            let places = if places.is_empty() { "none".to_owned() } else { places.join(", ") };
            lines.push(format!(
                "met by {one} and not by {other}: {}: {places}",
                plural(won.len() as u64, "requirement")
            ));
        }
    }
    lines
}
