//! `docs/rfc-compliance.md` answers every requirement, and every test that it names exists and runs; so
//! does every one that the tables of `docs/container-tools.md` name.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Requirements are numbered from 1 to this.
const ROWS: u32 = 190;
/// What the table may say of one.
const VERDICTS: [&str; 5] = ["met", "met by option", "not applicable", "not met", "later"];
/// NAT64, and the Port Control Protocol.
const MAY_COME_LATER: [std::ops::RangeInclusive<u32>; 2] = [136..=150, 75..=75];

/// A line of the table.
struct Row {
    number: u32,
    level: String,
    verdict: String,
    why: String,
    tests: Vec<String>,
}

fn rows() -> Vec<Row> {
    let text = fs::read_to_string(root().join("docs/rfc-compliance.md")).unwrap();
    text.lines().filter_map(row).collect()
}

fn row(line: &str) -> Option<Row> {
    let cells: Vec<_> = line.strip_prefix('|')?.strip_suffix('|')?.split(" | ").map(str::trim).collect();
    let number = cells[0].parse().ok()?;
    let [_, _, level, verdict, why, tests] = cells[..] else { panic!("six cells: {line}") };
    let tests = tests.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    Some(Row { number, level: level.into(), verdict: verdict.into(), why: why.into(), tests })
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_requirement_has_its_verdict_and_reason() {
    let rows = rows();
    let numbers: Vec<_> = rows.iter().map(|row| row.number).collect();
    assert_eq!(numbers, (1..=ROWS).collect::<Vec<_>>(), "each once, in order");
    for row in &rows {
        assert!(VERDICTS.contains(&&*row.verdict), "row {}: `{}` is no verdict", row.number, row.verdict);
        assert!(row.why.len() > 10, "row {} does not say why", row.number);
        let later = MAY_COME_LATER.iter().any(|rows| rows.contains(&row.number));
        assert!(row.verdict != "later" || later, "row {} may not wait", row.number);
        let claims = row.verdict.starts_with("met");
        assert!(!claims || !row.tests.is_empty(), "row {} claims without a test", row.number);
    }
}

/// RFC 4787, 5382, 5508, 6888 (PCP apart) and 7857 are rows 1 to 94; attacks are 156 to 180.
#[test]
fn no_must_and_no_should_of_the_nat_documents_is_unmet() {
    for row in rows() {
        let asked = row.number <= 94 && (row.level.contains("MUST") || row.level.contains("SHOULD"));
        let attack = row.number >= 156;
        assert!(!(asked || attack) || row.verdict != "not met", "row {}: {}", row.number, row.why);
    }
}

#[test]
fn every_test_named_exists_and_runs() {
    let known = known_tests();
    for row in rows() {
        for test in &row.tests {
            let (file, name) = test.rsplit_once("::").unwrap_or_else(|| panic!("row {}: {test}", row.number));
            let names = known.get(file).unwrap_or_else(|| panic!("row {}: no test file {file}", row.number));
            assert!(names.iter().any(|known| known == name), "row {}: {file} has no test {name}", row.number);
        }
    }
}

#[test]
fn every_test_named_for_container_tools_exists_and_runs() {
    let known = known_tests();
    let text = fs::read_to_string(root().join("docs/container-tools.md")).unwrap();
    let cells =
        text.lines().filter(|line| line.starts_with('|')).flat_map(|line| line.split('`').skip(1).step_by(2));
    // An IPv6 address has colons too.
    let name = |word: &&str| word.chars().all(|c| c.is_alphanumeric() || "_:".contains(c));
    let named: Vec<_> = cells.filter(name).filter_map(|word| word.rsplit_once("::")).collect();
    assert!(named.len() > 30, "the tables name tests as `file::name`: {}", named.len());
    for (file, name) in named {
        let names = known.get(file).unwrap_or_else(|| panic!("{file}::{name}: no such test file"));
        assert!(names.iter().any(|known| known == name), "{file} has no test {name}");
    }
}

/// Names of tests by the path that the table gives them: `nat_table` for `tests/nat_table.rs`,
/// `nat::ports` for `src/nat/ports.rs`.
fn known_tests() -> BTreeMap<String, Vec<String>> {
    let mut known = BTreeMap::new();
    for file in files(&root().join("tests")).into_iter().chain(files(&root().join("src"))) {
        let text = fs::read_to_string(&file).unwrap();
        let path = file.strip_prefix(root()).unwrap().with_extension("");
        let parts: Vec<_> = path.iter().skip(1).map(|part| part.to_str().unwrap()).collect();
        let parts = parts.strip_suffix(&["mod"]).unwrap_or(&parts);
        let names = known.entry(parts.join("::")).or_insert_with(Vec::new);
        names.extend(tests_in(&text));
        // Tables may stand in files that a program includes.
        for part in text.split("#[path = \"").skip(1).filter_map(|rest| rest.split('"').next()) {
            names.extend(tests_in(&fs::read_to_string(file.with_file_name(part)).unwrap()));
        }
        // The demands of `tapnat selftest`, which `tests/selftest.rs` puts to the gateway.
        if parts.starts_with(&["lab", "selftest"]) {
            known.entry("selftest".into()).or_insert_with(Vec::new).extend(demands_in(&text));
        }
    }
    known
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// What stands in a table of demands: a number, a level, an id in quotes, a name.
fn demands_in(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        let mut quoted = line.split('"');
        let head: Vec<_> = quoted.next().unwrap_or_default().split(' ').collect();
        let numbered = head.len() == 3 && head[0].parse::<u32>().is_ok();
        let name = quoted.nth(1).map(str::trim);
        names.extend(name.filter(|name| numbered && !name.is_empty()).map(str::to_owned));
    }
    names
}

/// Functions that are marked as tests and not ignored, and the names that files with a harness of
/// their own give theirs in tables: `("name", function)`.
fn tests_in(text: &str) -> Vec<String> {
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let mut names = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if *line == "#[test]" {
            let ahead = &lines[at..(at + 6).min(lines.len())];
            let ignored = ahead.iter().any(|line| line.starts_with("#[ignore"));
            let name = ahead.iter().find_map(|line| line.strip_prefix("fn ")?.split('(').next());
            names.extend(name.filter(|_| !ignored).map(str::to_owned));
        }
        // A table of one may break its line behind the brackets.
        let alone = line.strip_prefix('"').and_then(|rest| rest.strip_suffix("\","));
        names.extend(alone.filter(|name| !name.contains(' ')).map(str::to_owned));
        for quoted in line.split("(\"").skip(1) {
            names.extend(quoted.split_once("\",").map(|(name, _)| name.to_owned()));
        }
    }
    names
}
