//! Why text is not settings: where, what, and the cure, in one line.

use super::raw::{Place, Written};

/// How many letters of what was written an error repeats.
const LONGEST_QUOTE: usize = 120;

/// Why text is not settings.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{place}: {problem}; {cure}")]
pub struct ConfigError {
    /// The flag, or the file with line and key.
    pub place: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub cure: String,
    /// Whether the command line is to be changed, not a file.
    pub usage: bool,
}

impl ConfigError {
    /// An error at `place`.
    pub fn new(place: &Place, problem: impl Into<String>, cure: impl Into<String>) -> ConfigError {
        ConfigError {
            place: one_line(&place.to_string()),
            problem: one_line(&problem.into()),
            cure: one_line(&cure.into()),
            usage: matches!(place, Place::Flag(_)),
        }
    }

    /// An error in `written`, whose text is quoted before `problem`.
    pub fn at(written: &Written, problem: impl AsRef<str>, cure: impl Into<String>) -> ConfigError {
        let text: String = written.text.chars().take(LONGEST_QUOTE).collect();
        let problem = format!("`{text}` {}", problem.as_ref());
        ConfigError::new(&written.place, problem, cure)
    }
}

/// `text` with its control characters written out.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() { line.extend(letter.escape_default()) } else { line.push(letter) }
    }
    line
}

/// The cure for a word that is not known: the nearest one that is, and all of them.
pub fn did_you_mean(word: &str, known: &[&str]) -> String {
    let all = known.join(", ");
    match nearest(word, known) {
        Some(near) => format!("did you mean `{near}`? (known: {all})"),
        None => format!("known: {all}"),
    }
}

/// The known word that `word` was probably meant to be.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let word: String = word.chars().take(64).collect::<String>().to_lowercase().replace('_', "-");
    let near = known.iter().map(|known| (distance(&word, known), *known)).min()?;
    let related = near.1.starts_with(&word) || word.starts_with(near.1);
    (near.0 <= 2.max(word.len() / 3) && near.0 < near.1.len() || related && !word.is_empty())
        .then_some(near.1)
}

/// How many letters must be changed, added or left out to make `b` of `a`; two letters that have
/// changed places count once.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (rows[i][j] + usize::from(x != y)).min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_its_word() {
        let known = ["udp", "udp-dns", "tcp-established", "mtu"];
        assert_eq!(nearest("tcp-establised", &known), Some("tcp-established"));
        assert_eq!(nearest("tcp_established", &known), Some("tcp-established"));
        assert_eq!(nearest("mut", &known), Some("mtu"));
        assert_eq!(nearest("tcp", &known), Some("udp"));
        assert_eq!(nearest("zebra", &known), None);
        assert_eq!(nearest("", &known), None);
    }
}
