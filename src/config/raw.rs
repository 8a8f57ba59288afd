//! Settings as written: text, each piece with its place, from flags and file alike.
//!
//! Both sources become the same [`Raw`], so that one reader ([`super::resolve()`]) serves both and
//! every error can say where the text stands.

use std::collections::BTreeMap;
use std::fmt;

/// How a key is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// One value.
    One,
    /// A list of values; the flag is repeated.
    Many,
    /// Named values: a table in the file, a repeated `NAME=VALUE` as flag.
    Table,
    /// Tables of [`RULE_KEYS`]; the flag is repeated, and a text `INSIDE=PROFILE`.
    Rules,
}

/// Every key of the configuration file, with the flag that says the same.
pub const KEYS: [(&str, &str, Shape); 43] = [
    ("name", "--name", Shape::One),
    ("control", "--control", Shape::One),
    ("tap", "--tap", Shape::One),
    ("tap-fd", "--tap-fd", Shape::One),
    ("tap-offload", "--tap-offload", Shape::One),
    ("bridge", "--bridge", Shape::One),
    ("inside", "--inside", Shape::Many),
    ("lone", "--lone", Shape::Many),
    ("mac", "--mac", Shape::One),
    ("mtu", "--mtu", Shape::One),
    ("advertise", "--advertise", Shape::One),
    ("dns", "--dns", Shape::Many),
    ("dns-forward", "--dns-forward", Shape::Many),
    ("dns-domain", "--dns-domain", Shape::Table),
    ("search", "--search", Shape::Many),
    ("dhcp", "--dhcp", Shape::One),
    ("dhcp-lease", "--dhcp-lease", Shape::One),
    ("outside", "--outside", Shape::One),
    ("external", "--external", Shape::Many),
    ("uplink", "--uplink", Shape::One),
    ("raw-fd", "--raw-fd", Shape::One),
    ("guard", "--guard", Shape::One),
    ("ports", "--ports", Shape::One),
    ("publish", "--publish", Shape::Many),
    ("exempt", "--exempt", Shape::Many),
    ("egress", "--egress", Shape::Many),
    ("prefix-translation", "--prefix-translation", Shape::Many),
    ("profile", "--profile", Shape::One),
    ("rule", "--rule", Shape::Rules),
    ("subscribers", "--subscribers", Shape::One),
    ("block-size", "--block-size", Shape::One),
    ("mapping", "--mapping", Shape::One),
    ("filtering", "--filtering", Shape::One),
    ("hairpin", "--hairpin", Shape::One),
    ("host-access", "--host-access", Shape::One),
    ("host-loopback", "--host-loopback", Shape::Many),
    ("bind-mac", "--bind-mac", Shape::One),
    ("refusal", "--refusal", Shape::One),
    ("timeouts", "--timeout", Shape::Table),
    ("limits", "--limit", Shape::Table),
    ("sandbox", "--sandbox", Shape::One),
    ("ready-fd", "--ready-fd", Shape::One),
    ("log", "--log", Shape::One),
];

/// Every key of a `[[rule]]`.
pub const RULE_KEYS: [(&str, Shape); 6] = [
    ("inside", Shape::One),
    ("profile", Shape::One),
    ("mapping", Shape::One),
    ("filtering", Shape::One),
    ("hairpin", Shape::One),
    ("timeouts", Shape::Table),
];

/// Where a piece of text stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// On the command line.
    Flag(&'static str),
    /// In the file.
    File {
        /// The file's name as given.
        file: String,
        /// Line, from 1.
        line: usize,
        /// The key, with the table's name before it.
        key: String,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Flag(flag) => f.write_str(flag),
            Place::File { file, line, key } if key.is_empty() => write!(f, "{file} line {line}"),
            Place::File { file, line, key } => write!(f, "{file} line {line}: {key}"),
        }
    }
}

/// A piece of text and its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// The text.
    pub text: String,
    /// Where it stands.
    pub place: Place,
}

/// What one key was given.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Given {
    /// The values; for a table in the order of `names`.
    pub values: Vec<Written>,
    /// The names of a table's values; empty for other shapes.
    pub names: Vec<String>,
}

/// Settings as written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Raw {
    keys: BTreeMap<&'static str, Given>,
    rules: Vec<RawRule>,
}

/// A rule as written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RawRule {
    /// Where it begins.
    pub place: Place,
    /// What it says, under [`RULE_KEYS`].
    pub keys: Raw,
}

impl Raw {
    /// Adds a value to a key of [`KEYS`]; `name` for tables.
    pub fn add(&mut self, key: &'static str, name: Option<String>, value: Written) {
        let given = self.keys.entry(key).or_default();
        given.values.push(value);
        given.names.extend(name);
    }

    /// Adds a rule.
    pub fn add_rule(&mut self, rule: RawRule) {
        self.rules.push(rule);
    }

    /// The rules, in order.
    pub fn rules(&self) -> &[RawRule] {
        &self.rules
    }

    /// Whether the key was given.
    pub fn has(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    /// The value of a key that takes one; the last one given.
    pub fn one(&self, key: &str) -> Option<&Written> {
        self.keys.get(key).and_then(|given| given.values.last())
    }

    /// The values of a key that takes many.
    pub fn many(&self, key: &str) -> &[Written] {
        self.keys.get(key).map_or(&[], |given| &given.values)
    }

    /// The named values of a table; of two with one name, the later one counts.
    pub fn table(&self, key: &str) -> impl Iterator<Item = (&str, &Written)> {
        let given = self.keys.get(key);
        given.into_iter().flat_map(|given| given.names.iter().map(String::as_str).zip(&given.values))
    }

    /// These settings over those `below`: values and lists replace, tables are merged by name. Keys
    /// in `rivals` say the same thing in different ways: one given here hides the others below.
    #[must_use]
    pub fn over(self, mut below: Raw, rivals: &[&str]) -> Raw {
        if rivals.iter().any(|rival| self.has(rival)) {
            below.keys.retain(|key, _| !rivals.contains(key));
        }
        if !self.rules.is_empty() {
            below.rules = self.rules;
        }
        for (key, given) in self.keys {
            if given.names.is_empty() {
                below.keys.insert(key, given);
            } else {
                let merged = below.keys.entry(key).or_default();
                merged.values.extend(given.values);
                merged.names.extend(given.names);
            }
        }
        below
    }
}
