//! Gathers figures and writes them down: a table for people, JSON for programs.

use crate::conditions::Conditions;
use crate::metric::{Better, Metric, median};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;

/// What the project promises: a metric of tapnat, whom it is held against, and the worst ratio.
const GOALS: [(Metric, &str, f64); 9] = [
    (Metric::TcpOneUp, "kernel", 0.6),
    (Metric::TcpOneDown, "kernel", 0.6),
    (Metric::TcpOneUp, "slirp4netns", 5.0),
    (Metric::TcpOneDown, "slirp4netns", 5.0),
    (Metric::TcpOneUp, "pasta", 5.0),
    (Metric::TcpOneDown, "pasta", 5.0),
    (Metric::ShortOne, "kernel", 0.9),
    (Metric::ShortEight, "kernel", 0.9),
    (Metric::TripMedian, "kernel", 1.3),
];

/// How busy with other things a machine may be, in percent, before figures are worth little.
const NOISY: f64 = 10.0;

/// A contender as the reader sees it.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its name.
    pub name: String,
    version: String,
    said: Option<String>,
    troubles: BTreeMap<String, u32>,
    samples: BTreeMap<Metric, Vec<f64>>,
}

impl Column {
    /// A contender without figures.
    pub fn new(name: String, version: String) -> Column {
        Column { name, version, said: None, troubles: BTreeMap::new(), samples: BTreeMap::new() }
    }

    /// What was measured, round by round.
    pub fn samples(&self, metric: Metric) -> &[f64] {
        self.samples.get(&metric).map_or(&[], Vec::as_slice)
    }

    /// The median of the rounds.
    pub fn median(&self, metric: Metric) -> Option<f64> {
        median(self.samples(metric))
    }
}

/// All figures of a run.
#[derive(Debug)]
pub struct Results {
    /// How they came about.
    pub conditions: Conditions,
    /// Who took part.
    pub columns: Vec<Column>,
    /// For each round, how busy the machine was while all gateways were idle, in percent.
    pub noise: Vec<f64>,
}

impl Results {
    /// No figures yet.
    pub fn new(conditions: Conditions, columns: Vec<Column>) -> Results {
        Results { conditions, columns, noise: Vec::new() }
    }

    /// Adds figures of one round.
    pub fn add(&mut self, column: usize, figures: &[(Metric, f64)]) {
        let column = &mut self.columns[column];
        for &(metric, value) in figures {
            column.samples.entry(metric).or_default().push(value);
            eprintln!("  {:13} {:32} {} {}", column.name, metric.title(), number(value), metric.unit());
        }
    }

    /// Adds a figure that not everybody has.
    pub fn memory(&mut self, column: usize, metric: Metric, mebibytes: Option<f64>) {
        if let Some(value) = mebibytes {
            self.add(column, &[(metric, value)]);
        }
    }

    /// Keeps what a contender said about itself.
    pub fn says(&mut self, column: usize, said: String) {
        self.columns[column].said.get_or_insert(said);
    }

    /// Keeps why a contender could not take part in a round.
    pub fn absent(&mut self, column: usize, error: &io::Error) {
        self.trouble(column, format!("did not take part: {error}"));
    }

    /// Keeps why a load gave no figure.
    pub fn failed(&mut self, column: usize, load: &str, error: &io::Error) {
        self.trouble(column, format!("load {load} failed: {error}"));
    }

    /// Keeps how a gateway ended in the middle of a round.
    pub fn died(&mut self, column: usize, load: &str, how: &str) {
        self.trouble(column, format!("ended during load {load}: {how}"));
    }

    fn trouble(&mut self, column: usize, text: String) {
        let column = &mut self.columns[column];
        eprintln!("  {:13} {text}", column.name);
        *column.troubles.entry(text.replace('\n', "; ")).or_default() += 1;
    }

    /// Whom ratios refer to: the kernel, or the first.
    pub fn reference(&self) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == "kernel").or(self.columns.first())
    }
}

/// A number with about three digits that say something.
pub fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 || v == 0.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.01 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// The table, what went wrong, and the goals.
pub fn markdown(results: &Results) -> String {
    let mut text = String::from("| median of the rounds (ratio to the first column) |");
    let reference = results.reference();
    let mut columns: Vec<&Column> = results.columns.iter().collect();
    columns.sort_by_key(|column| reference.is_none_or(|reference| reference.name != column.name));
    for column in &columns {
        let _ = write!(text, " {} |", column.name);
    }
    text += &format!("\n|---|{}\n", "---:|".repeat(columns.len()));
    for metric in Metric::ALL {
        if columns.iter().all(|column| column.samples(metric).is_empty()) {
            continue;
        }
        let _ = write!(text, "| {}, {} |", metric.title(), metric.unit());
        for (place, column) in columns.iter().enumerate() {
            let cell = match (column.median(metric), reference.and_then(|kernel| kernel.median(metric))) {
                (None, _) => "–".to_string(),
                (Some(value), Some(base)) if place > 0 && base > 0.0 && metric.compares() => {
                    format!("{} ({:.2})", number(value), value / base)
                }
                (Some(value), _) => number(value),
            };
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
    for column in &results.columns {
        for (trouble, times) in &column.troubles {
            let _ = write!(
                text,
                "\n* {}, {times} of {} rounds: {trouble}",
                column.name, results.conditions.rounds
            );
        }
    }
    let noise = median(&results.noise).unwrap_or(0.0);
    if noise > NOISY {
        let _ = write!(
            text,
            "\n* The machine was {noise:.0} % busy with other things. That costs programs more than the kernel: \
             do not trust these figures."
        );
    }
    text + &goals(results)
}

/// Each promise and whether this run keeps it; empty without tapnat.
fn goals(results: &Results) -> String {
    let find = |name: &str| results.columns.iter().find(|column| column.name == name);
    let mut lines = String::new();
    for (metric, other, limit) in GOALS {
        let median = |name| find(name).and_then(|column| column.median(metric));
        let (Some(ours), Some(theirs)) = (median("tapnat"), median(other)) else { continue };
        let ratio = ours / theirs;
        let (kept, word) = match metric.better() {
            Better::Higher => (ratio >= limit, "at least"),
            Better::Lower => (ratio <= limit, "at most"),
        };
        let verdict = if kept { "kept" } else { "missed" };
        let _ =
            writeln!(lines, "| {} | {word} {limit} of {other} | {ratio:.2} | {verdict} |", metric.title());
    }
    if lines.is_empty() {
        return "\n".to_string();
    }
    format!("\n\n| goal for tapnat | | ratio | |\n|---|---|---:|---|\n{lines}")
}

/// `docs/performance.md`.
pub fn page(results: &Results, table: &str) -> String {
    let Conditions { date, kernel, cpu, cores, load_before, rounds, seconds, mtu, user } =
        &results.conditions;
    let noise = median(&results.noise).unwrap_or(0.0);
    let mut versions = String::new();
    for column in &results.columns {
        let _ = write!(versions, "| {} | {} |", column.name, column.version);
        let said = column.said.as_deref().unwrap_or_default().replace('|', "\\|");
        let _ = writeln!(versions, " {said} |");
    }
    format!(
        "# How fast it is\n\n\
         Written by `cargo bench --bench compare -- --write`; the samples of every round are in\n\
         [performance.json](performance.json). Measure your own machine before you believe ours.\n\n\
         ![Bars: medians of each load for each gateway](performance.svg)\n\n\
         {table}\n\
         ## Conditions\n\n\
         {date}, Linux {kernel}, {cores} x {cpu}, load average {load_before:.2} before the start, as {user};\n\
         {rounds} rounds, {seconds} s a load, MTU {mtu} on every wire. With all gateways idle the machine was\n\
         {noise:.0} % busy.\n\n\
         | who | version | what it said at start |\n|---|---|---|\n{versions}\n\
         ## How it is measured\n\n\
         Container, host and internet are network namespaces joined by veth pairs with all offloads on. Every\n\
         gateway has such a network to itself. With the kernel and tapnat the container is on a bridge; slirp4netns\n\
         and pasta put their TAP into the container, which spares them the bridge and a veth pair. All run as they\n\
         come, with the MTU as the one option that matters. In each round everybody is set up afresh, then each load\n\
         runs on one after the other, starting with another one each round, while the rest sleeps. Before that a\n\
         connection proves that the server sees the host's address. Client, gateway and server share the same\n\
         {cores} processors, so a gateway that needs more of them leaves less for the programs at both ends.\n\n\
         * **TCP**: writes of 128 KiB; bytes that the receiving program has read. Upload is from the container to the server.\n\
         * **UDP delivered**: one socket sends datagrams of 64 bytes of payload as fast as it can, whatever is lost;\n  \
           those that the server's program reads count. *Lost* is measured against what the sender offered.\n\
         * **UDP answered**: at most 64 datagrams under way, each answered by the server; answers that come back.\n\
         * **HTTP**: 8 clients in the container, a connection for each request, 128 bytes of body, the server closes first.\n  \
           SYNs sent again are counted in the container and on the host: a single one costs its client a second.\n\
         * **TCP round trip**: one byte to and fro on one connection.\n\
         * **Resident memory**: VmRSS of the gateway's process. The kernel's own tables are not counted for anybody.\n"
    )
}

/// `docs/performance.json`: conditions, and for each contender the samples in the order of rounds.
pub fn json(results: &Results) -> io::Result<String> {
    let contender = |column: &Column| {
        let metrics: BTreeMap<&str, Value> = Metric::ALL
            .into_iter()
            .filter(|&metric| !column.samples(metric).is_empty())
            .map(|metric| {
                let samples = column.samples(metric);
                (metric.key(), json!({"unit": metric.unit(), "median": median(samples), "samples": samples}))
            })
            .collect();
        json!({
            "name": column.name, "version": column.version, "said": column.said,
            "troubles": column.troubles, "metrics": metrics,
        })
    };
    let contenders: Vec<Value> = results.columns.iter().map(contender).collect();
    let whole = json!({"version": 1, "conditions": results.conditions, "busy_when_idle": results.noise, "contenders": contenders});
    Ok(serde_json::to_string_pretty(&whole)? + "\n")
}
