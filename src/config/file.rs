//! The configuration file: TOML with the same keys as the options of `tapnat run`.

use super::error::{ConfigError, did_you_mean};
use super::raw::{KEYS, Place, RULE_KEYS, Raw, RawRule, Shape, Written};
use super::rule;
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// No configuration is longer than this, in bytes.
const LONGEST: u64 = 1 << 20;

/// Reads a file.
///
/// # Errors
/// It cannot be read, is no TOML, or has a key or a kind of value that is not known.
pub fn read(path: &Path) -> Result<Raw, ConfigError> {
    parse(&path.display().to_string(), &text(path)?)
}

/// What a file says, whatever that is.
///
/// # Errors
/// It is too long, or cannot be read as text.
pub fn text(path: &Path) -> Result<String, ConfigError> {
    let name = path.display().to_string();
    let refuse = |why: String, cure: &str| Err(ConfigError::new(&Place::Flag("--config"), why, cure));
    match std::fs::metadata(path) {
        Ok(data) if data.len() > LONGEST => {
            return refuse(format!("{name} is over 1 MiB"), "give a TOML file");
        }
        _ => {}
    }
    std::fs::read_to_string(path).or_else(|error| {
        refuse(format!("cannot read {name}: {error}"), "give the path of a readable TOML file")
    })
}

/// Reads text; `name` is what errors call it.
///
/// # Errors
/// It is no TOML, or has a key or a kind of value that is not known.
pub fn parse(name: &str, text: &str) -> Result<Raw, ConfigError> {
    let reader = Reader { name, text };
    let table = DeTable::parse(text).map_err(|error| {
        let place = reader.place(error.span().unwrap_or(0..0), "");
        let why = error.message().lines().map(str::trim).collect::<Vec<_>>().join(", ");
        ConfigError::new(&place, why, "mend the TOML there")
    })?;
    let mut raw = Raw::default();
    for (key, value) in table.get_ref() {
        reader.key(&mut raw, key, value)?;
    }
    Ok(raw)
}

struct Reader<'a> {
    name: &'a str,
    text: &'a str,
}

impl Reader<'_> {
    fn place(&self, span: Range<usize>, key: &str) -> Place {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        Place::File { file: self.name.to_owned(), line, key: key.to_owned() }
    }

    fn key(
        &self,
        raw: &mut Raw,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(), ConfigError> {
        let word = key.get_ref().as_ref();
        let Some((key, _, shape)) = KEYS.iter().find(|(known, _, _)| *known == word) else {
            let known: Vec<&str> = KEYS.iter().map(|(known, _, _)| *known).collect();
            let place = self.place(key.span(), word);
            return Err(ConfigError::new(&place, "no such key", did_you_mean(word, &known)));
        };
        match (shape, value.get_ref()) {
            (Shape::Rules, DeValue::Array(values)) => {
                values.iter().try_for_each(|value| self.rule(raw, value))
            }
            (Shape::Rules, _) => self.rule(raw, value),
            _ => self.value(raw, key, key, *shape, value),
        }
    }

    /// A rule: a table of its own, or the text of the flag.
    fn rule(&self, raw: &mut Raw, value: &Spanned<DeValue<'_>>) -> Result<(), ConfigError> {
        let rule = match value.get_ref() {
            DeValue::Table(table) => self.rule_table(value, table)?,
            DeValue::String(_) => rule::split(self.scalar("rule", value)?)?,
            _ => {
                let cure = "write a table: [[rule]] and KEY = VALUE lines, or a text such as \"10.88.0.64/26=symmetric\"";
                let place = self.place(value.span(), "rule");
                return Err(ConfigError::new(&place, format!("is {}", kind(value)), cure));
            }
        };
        raw.add_rule(rule);
        Ok(())
    }

    fn rule_table(&self, whole: &Spanned<DeValue<'_>>, table: &DeTable<'_>) -> Result<RawRule, ConfigError> {
        let mut keys = Raw::default();
        for (key, value) in table {
            let word = key.get_ref().as_ref();
            let name = format!("rule.{word}");
            let Some((key, shape)) = RULE_KEYS.iter().find(|(known, _)| *known == word) else {
                let place = self.place(key.span(), &name);
                let known = RULE_KEYS.map(|(known, _)| known);
                return Err(ConfigError::new(&place, "no such key", did_you_mean(word, &known)));
            };
            self.value(&mut keys, key, &name, *shape, value)?;
        }
        Ok(RawRule { place: self.place(whole.span(), "rule"), keys })
    }

    /// A value of `key`, which errors call `name`.
    fn value(
        &self,
        raw: &mut Raw,
        key: &'static str,
        name: &str,
        shape: Shape,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(), ConfigError> {
        let place = self.place(value.span(), name);
        match (shape, value.get_ref()) {
            (Shape::Many, DeValue::Array(values)) => {
                for value in values.iter() {
                    raw.add(key, None, self.scalar(name, value)?);
                }
            }
            (Shape::Table, DeValue::Table(values)) => {
                for (entry, value) in values {
                    let entry = entry.get_ref().to_string();
                    let written = self.scalar(&format!("{name}.{entry}"), value)?;
                    raw.add(key, Some(entry), written);
                }
            }
            (Shape::Table, _) => {
                let cure = format!("write a table: [{name}] and NAME = VALUE lines");
                return Err(ConfigError::new(&place, format!("is {}", kind(value)), cure));
            }
            (Shape::One, DeValue::Array(_)) => {
                return Err(ConfigError::new(&place, "is a list", "it takes one value"));
            }
            _ => raw.add(key, None, self.scalar(name, value)?),
        }
        Ok(())
    }

    /// A value as the text that the flag would have.
    fn scalar(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Written, ConfigError> {
        let place = self.place(value.span(), key);
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Boolean(true) => "on".to_owned(),
            DeValue::Boolean(false) => "off".to_owned(),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => number.to_string(),
                Err(_) => {
                    return Err(ConfigError::new(&place, "is too large a number", "write a smaller one"));
                }
            },
            _ => {
                let problem = format!("is {}", kind(value));
                return Err(ConfigError::new(
                    &place,
                    problem,
                    "write a string, a whole number, true or false",
                ));
            }
        };
        Ok(Written { text, place })
    }
}

/// What a value is, for errors.
fn kind(value: &Spanned<DeValue<'_>>) -> String {
    let kind = value.get_ref().type_str();
    if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { format!("an {kind}") } else { format!("a {kind}") }
}
