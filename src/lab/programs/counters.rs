//! The kernel's own counters of a namespace, as in `/proc/net/snmp` and `/proc/net/snmp6`.

use crate::io::sys::netns::Netns;
use std::collections::BTreeMap;
use std::{fs, io};

/// Counters by group and name, such as `Tcp: OutRsts`; those of IPv6 as `Icmp6OutDestUnreachs`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counters {
    values: BTreeMap<String, i64>,
}

impl Counters {
    /// Reads the counters of `netns`.
    ///
    /// # Errors
    /// If `/proc` is not mounted.
    pub fn read(netns: &Netns) -> io::Result<Counters> {
        // The thread's own view: `/proc/net` is the view of the process's first thread.
        let read = |name| netns.run(move || fs::read_to_string(format!("/proc/thread-self/net/{name}")));
        let mut counters = parse(&read("snmp")??);
        // A kernel without IPv6 has no such file.
        counters.values.extend(parse_six(&read("snmp6")?.unwrap_or_default()));
        Ok(counters)
    }

    /// One counter; 0 if this kernel does not have it.
    pub fn get(&self, name: &str) -> i64 {
        self.values.get(name).copied().unwrap_or(0)
    }
}

/// Pairs of lines: names, then values, both with the group in front.
fn parse(text: &str) -> Counters {
    let mut values = BTreeMap::new();
    let mut lines = text.lines();
    while let (Some(names), Some(numbers)) = (lines.next(), lines.next()) {
        let mut words = names.split_whitespace();
        let Some(group) = words.next() else { continue };
        for (name, number) in words.zip(numbers.split_whitespace().skip(1)) {
            if let Ok(number) = number.parse() {
                values.insert(format!("{group} {name}"), number);
            }
        }
    }
    Counters { values }
}

/// A name and a value on each line.
fn parse_six(text: &str) -> BTreeMap<String, i64> {
    let pair = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_lines_become_names() {
        let counters = parse("Icmp: InMsgs OutDestUnreachs\nIcmp: 5 7\nTcp: MaxConn OutRsts\nTcp: -1 3\n");
        assert_eq!(counters.get("Icmp: OutDestUnreachs"), 7);
        assert_eq!(counters.get("Tcp: OutRsts"), 3);
        assert_eq!(counters.get("Tcp: MaxConn"), -1);
        let six = parse_six("Ip6InReceives \t 24\nIcmp6OutMsgs 3\n");
        assert_eq!((six["Ip6InReceives"], six["Icmp6OutMsgs"]), (24, 3));
    }
}
