//! Counters as JSON and as Prometheus text.

use super::record::utc;
use crate::flow::Time;
use crate::gateway::CountersView;
use crate::nat::Counts;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::fmt::Write;
use std::time::SystemTime;

/// Numbers by word, in the order they were made; an object in JSON.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Words(pub Vec<(String, u64)>);

impl Words {
    fn new(words: &[(&'static str, u64)]) -> Words {
        Words(words.iter().map(|(word, count)| ((*word).to_owned(), *count)).collect())
    }
}

impl Serialize for Words {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(word, count)| (word, count)))
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Words, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Words;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("numbers by word")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Words, A::Error> {
                let mut words = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    words.push(entry);
                }
                Ok(Words(words))
            }
        }

        deserializer.deserialize_map(Reader)
    }
}

/// All counters of a gateway at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StatsRecord {
    /// When.
    pub time: String,
    /// Sessions.
    pub sessions: u64,
    /// Mappings, port forwards included.
    pub mappings: u64,
    /// Leased ports that no mapping has.
    pub free_ports: u64,
    /// Bytes held by tables and indices.
    pub table_bytes: u64,
    /// What passed, by way.
    pub passed: Words,
    /// What the gateway answered itself.
    pub answered: Words,
    /// What was dropped, by reason.
    pub dropped: Words,
    /// What links and sockets lost, by `link: reason`.
    pub links: Words,
}

impl StatsRecord {
    /// The record of these counters at `now`.
    pub fn new(counters: &CountersView, counts: &Counts, now: Time, base: SystemTime) -> Self {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        StatsRecord {
            time: utc(now, base),
            sessions: count(counts.sessions),
            mappings: count(counts.mappings),
            free_ports: count(counts.free_ports),
            table_bytes: count(counts.bytes),
            passed: Words::new(&counters.passed),
            answered: Words::new(&counters.answered),
            dropped: Words::new(&counters.dropped),
            links: Words(counters.links.clone()),
        }
    }

    /// Prometheus text exposition (format 0.0.4), each sample with the label `name`.
    pub fn prometheus(&self, name: &str) -> String {
        let mut text = String::new();
        let gauges = [
            ("sessions", "Sessions in the table.", self.sessions),
            ("mappings", "Mappings in the table, port forwards included.", self.mappings),
            ("free_ports", "Leased outside ports that no mapping has.", self.free_ports),
            ("table_bytes", "Bytes held by tables and indices.", self.table_bytes),
        ];
        for (metric, help, value) in gauges {
            head(&mut text, metric, help, "gauge");
            sample(&mut text, metric, &[("name", name)], value);
        }
        let counters = [
            ("passed_total", "way", "What passed, by the way it went.", &self.passed),
            ("answered_total", "service", "What the gateway answered itself.", &self.answered),
            ("dropped_total", "reason", "Packets dropped, by reason.", &self.dropped),
        ];
        for (metric, label, help, words) in counters {
            head(&mut text, metric, help, "counter");
            for (word, value) in &words.0 {
                sample(&mut text, metric, &[("name", name), (label, word)], *value);
            }
        }
        let metric = "link_lost_total";
        head(&mut text, metric, "What links and sockets lost, by reason.", "counter");
        for (word, value) in &self.links.0 {
            let (link, reason) = word.rsplit_once(": ").unwrap_or((word, "lost"));
            sample(&mut text, metric, &[("name", name), ("link", link), ("reason", reason)], *value);
        }
        text
    }
}

fn head(text: &mut String, metric: &str, help: &str, kind: &str) {
    let _ = write!(text, "# HELP tapnat_{metric} {help}\n# TYPE tapnat_{metric} {kind}\n");
}

fn sample(text: &mut String, metric: &str, labels: &[(&str, &str)], value: u64) {
    let labels: Vec<String> =
        labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escape(value))).collect();
    let _ = writeln!(text, "tapnat_{metric}{{{}}} {value}", labels.join(","));
}

/// A label's value as the format wants it.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> StatsRecord {
        let counters = CountersView {
            passed: vec![("out", 5), ("in", 4)],
            answered: vec![("arp", 1)],
            dropped: vec![("no-mapping", 2), ("filtered", 0)],
            links: vec![("eth\"0 (packet): full".into(), 3)],
        };
        let counts = Counts { sessions: 1, mappings: 1, free_ports: 9, bytes: 160, ..Counts::default() };
        StatsRecord::new(&counters, &counts, Time::ZERO, SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn prometheus_text_is_well_formed() {
        let text = record().prometheus("lab");
        for line in [
            "# TYPE tapnat_sessions gauge",
            "tapnat_sessions{name=\"lab\"} 1",
            "# TYPE tapnat_dropped_total counter",
            "tapnat_dropped_total{name=\"lab\",reason=\"filtered\"} 0",
            "tapnat_link_lost_total{name=\"lab\",link=\"eth\\\"0 (packet)\",reason=\"full\"} 3",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn json_keeps_the_order_of_the_counters() {
        let text = serde_json::to_string(&record()).unwrap();
        assert!(text.contains(r#""passed":{"out":5,"in":4}"#), "{text}");
        assert_eq!(serde_json::from_str::<StatsRecord>(&text).unwrap(), record());
    }
}
