//! The kernel's own counters of a namespace, as in `/proc/net/snmp`.

use crate::io::sys::netns::Netns;
use std::collections::BTreeMap;
use std::{fs, io};

/// Counters by group and name, such as `Tcp: OutRsts`.
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
        let text = netns.run(|| fs::read_to_string("/proc/thread-self/net/snmp"))??;
        Ok(parse(&text))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_lines_become_names() {
        let counters = parse("Icmp: InMsgs OutDestUnreachs\nIcmp: 5 7\nTcp: MaxConn OutRsts\nTcp: -1 3\n");
        assert_eq!(counters.get("Icmp: OutDestUnreachs"), 7);
        assert_eq!(counters.get("Tcp: OutRsts"), 3);
        assert_eq!(counters.get("Tcp: MaxConn"), -1);
    }
}
