//! Text for people: columns, colours, and numbers with units.

use std::fmt::Write;
use std::io::{self, IsTerminal};

/// Colours, if the output is a terminal that wants them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Paint {
    /// Whether to paint.
    pub on: bool,
}

/// A way to stand out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ink {
    /// As the rest.
    Plain,
    /// Headings.
    Bold,
    /// What matters less.
    Dim,
    /// Bad.
    Red,
    /// Good.
    Green,
    /// Under way, or worth a look.
    Yellow,
    /// Names.
    Cyan,
}

impl Paint {
    /// Colours for standard output: on a terminal, unless `NO_COLOR` is set or it is dumb. With
    /// `CLICOLOR_FORCE` also into a pipe, whose reader then answers for what happens to them.
    pub fn stdout() -> Paint {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let forced =
            std::env::var_os("CLICOLOR_FORCE").is_some_and(|value| !value.is_empty() && value != "0");
        Paint { on: (io::stdout().is_terminal() || forced) && !unwanted && !dumb }
    }

    /// `text` in that ink.
    pub fn ink(self, ink: Ink, text: &str) -> String {
        let code = match ink {
            Ink::Plain => return text.to_owned(),
            Ink::Bold => 1,
            Ink::Dim => 2,
            Ink::Red => 31,
            Ink::Green => 32,
            Ink::Yellow => 33,
            Ink::Cyan => 36,
        };
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A column of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Column<'a> {
    /// Its heading.
    pub heading: &'a str,
    /// Numbers stand to the right.
    pub right: bool,
}

/// A cell of a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cell {
    /// What it says.
    pub text: String,
    /// How it looks.
    pub ink: Ink,
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell { text, ink: Ink::Plain }
    }
}

impl Cell {
    /// A cell that stands out.
    pub fn inked(ink: Ink, text: impl Into<String>) -> Cell {
        Cell { text: text.into(), ink }
    }
}

/// A table with aligned columns, two spaces between them, a line each.
pub fn table(columns: &[Column], rows: &[Vec<Cell>], paint: Paint) -> Vec<String> {
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.text.chars().count());
        cells.chain([columns[at].heading.chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = (String, Ink)>| {
        let mut line = String::new();
        for ((text, ink), (at, column)) in cells.zip(columns.iter().enumerate()) {
            let space = " ".repeat(widths[at].saturating_sub(text.chars().count()));
            let painted = paint.ink(ink, &text);
            let last = at + 1 == columns.len();
            let _ = match (column.right, last) {
                (true, _) => write!(line, "{space}{painted}"),
                (false, true) => write!(line, "{painted}"),
                (false, false) => write!(line, "{painted}{space}"),
            };
            if !last {
                line.push_str("  ");
            }
        }
        line.truncate(line.trim_end().len());
        line
    };
    let heading = line(&mut columns.iter().map(|column| (column.heading.to_owned(), Ink::Bold)));
    let body = rows.iter().map(|row| line(&mut row.iter().map(|cell| (cell.text.clone(), cell.ink))));
    std::iter::once(heading).chain(body).collect()
}

/// Bytes in at most four digits and a unit.
pub fn bytes(count: u64) -> String {
    scaled(count, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"], " ")
}

/// A count in at most four digits and a unit.
pub fn count(count: u64) -> String {
    scaled(count, 1000.0, &["", "k", "M", "G", "T", "P", "E"], "")
}

fn scaled(number: u64, step: f64, units: &[&str], space: &str) -> String {
    let (mut value, mut unit) = (number as f64, 0);
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let text = match unit {
        0 => format!("{number}{space}{}", units[0]),
        _ if value < 9.95 => format!("{value:.1}{space}{}", units[unit]),
        _ => format!("{value:.0}{space}{}", units[unit]),
    };
    text.trim_end().to_owned()
}

/// A time span in its two largest units.
pub fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    let (days, hours, minutes, rest) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60);
    match (days, hours, minutes) {
        (0, 0, 0) if seconds < 10.0 => format!("{seconds:.1}s"),
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m{rest:02}s"),
        (0, _, _) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

/// A word for one or several: `1 flow`, `2 flows`.
pub fn plural(count: u64, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_units() {
        assert_eq!(
            [0, 999, 1024, 15_360, u64::MAX].map(bytes),
            ["0 B", "999 B", "1.0 KiB", "15 KiB", "16 EiB"]
        );
        assert_eq!([7, 999, 1000, 12_345, 2_500_000].map(count), ["7", "999", "1.0k", "12k", "2.5M"]);
        assert_eq!(
            [0.0, 9.94, 61.0, 7440.0, 200_000.0].map(span),
            ["0.0s", "9.9s", "1m01s", "2h04m", "2d07h"]
        );
    }

    #[test]
    fn columns_are_aligned_with_colours_and_without() {
        let columns = [Column { heading: "A", right: false }, Column { heading: "N", right: true }];
        let rows = [vec![Cell::inked(Ink::Green, "tcp"), Cell::from("1".to_owned())]];
        assert_eq!(table(&columns, &rows, Paint { on: false }), ["A    N", "tcp  1"]);
        assert_eq!(table(&columns, &rows, Paint { on: true })[1], "\x1b[32mtcp\x1b[0m  1");
    }
}
