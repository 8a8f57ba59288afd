//! The report as text.

use super::{Row, summary};
use crate::cli::text::{Cell, Column, Ink, Paint, table};
use crate::lab::selftest::run::Outcome;
use crate::lab::selftest::{Group, Requirement};

const fn column(heading: &str) -> Column<'_> {
    Column { heading, right: false }
}

const NUMBER: Column = Column { heading: "#", right: true };

/// The requirements, a line each.
pub(super) fn list(chosen: &[(&Group, &Requirement)], paint: Paint) -> Vec<String> {
    let columns = [
        NUMBER,
        column("document"),
        column("requirement"),
        column("level"),
        column("name"),
        column("demand"),
    ];
    let row = |(group, requirement): &(&Group, &Requirement)| -> Vec<Cell> {
        let words =
            [group.name, &requirement.place(), requirement.level.word(), requirement.name, requirement.title];
        let number = requirement.number.to_string();
        std::iter::once(number).chain(words.map(str::to_owned)).map(Cell::from).collect()
    };
    table(&columns, &chosen.iter().map(row).collect::<Vec<_>>(), paint)
}

/// The table, what is not met and why, and the summary.
pub(super) fn report(rows: &[Row], names: &[&str], packets: bool, paint: Paint) -> Vec<String> {
    let mut columns = vec![NUMBER, column("requirement"), column("level")];
    columns.extend(names.iter().map(|name| column(name)));
    columns.push(column("demand"));
    let cells = |row: &Row| {
        let requirement = row.requirement;
        let mut cells: Vec<Cell> = vec![
            requirement.number.to_string().into(),
            requirement.place().into(),
            requirement.level.word().to_owned().into(),
        ];
        cells.extend(row.findings.iter().map(|finding| cell(&finding.outcome)));
        cells.push(requirement.title.to_owned().into());
        cells
    };
    let mut lines = table(&columns, &rows.iter().map(cells).collect::<Vec<_>>(), paint);
    let mut reasons = Vec::new();
    for row in rows {
        for (finding, name) in row.findings.iter().zip(names) {
            let Some(reason) = finding.outcome.reason() else { continue };
            let (number, id) = (row.requirement.number, row.requirement.place());
            reasons.push(format!("  {number} {id}, {name}: {}: {reason}", finding.outcome.word()));
        }
    }
    let mut section = |heading: &str, body: Vec<String>| {
        if !body.is_empty() {
            lines.push(String::new());
            lines.push(paint.ink(Ink::Bold, heading));
            lines.extend(body);
        }
    };
    if packets {
        section(
            "Packets (→ sent to the NAT, ⇒ came out of it, ∅ nothing came)",
            transcripts(rows, names, paint),
        );
    }
    section("What was seen where it is not met as it is", reasons);
    section("Summary", summary(rows, names).into_iter().map(|line| format!("  {line}")).collect());
    lines
}

fn transcripts(rows: &[Row], names: &[&str], paint: Paint) -> Vec<String> {
    let mut lines = Vec::new();
    for row in rows {
        for (finding, name) in row.findings.iter().zip(names) {
            let (number, id, title) =
                (row.requirement.number, row.requirement.place(), row.requirement.title);
            let heading = format!("{number} {id}, {name}, {}: {title}", finding.outcome.word());
            lines.push(paint.ink(Ink::Cyan, &heading));
            lines.extend(finding.packets.iter().map(|packet| format!("    {packet}")));
        }
    }
    lines
}

fn cell(outcome: &Outcome) -> Cell {
    let ink = match outcome {
        Outcome::Met => Ink::Green,
        Outcome::NotMet(_) => Ink::Red,
        Outcome::NotApplicable(_) => Ink::Dim,
        Outcome::ByOption(_) | Outcome::Broken(_) => Ink::Yellow,
    };
    Cell::inked(ink, outcome.word())
}
