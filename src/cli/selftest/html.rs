//! The report as one page of HTML that needs nothing else: no script, no other file.

use super::{Row, score, summary};
use crate::lab::selftest::run::Outcome;
use std::io::{self, Write};

const HEAD: &str = r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>NAT behaviour report</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #d8dee4 }
th { border-bottom: 2px solid #8c959f } td.n { text-align: right; color: #57606a }
td.id, td.o { white-space: nowrap } .met { color: #116329 } .not { color: #a40e26; font-weight: 600 }
.by { color: #4d6b00 } .na { color: #6e7781 } .broken { color: #7d4e00; font-weight: 600 }
.why { color: #57606a; font-size: .9em } .level { font-size: .8em; letter-spacing: .04em; color: #57606a }
details { margin: .15rem 0 } summary { cursor: pointer; color: #0550ae; font-size: .9em }
pre { font: 12px/1.45 ui-monospace, monospace; background: #f6f8fa; padding: .6rem; overflow-x: auto; margin: .3rem 0 }
@media print { body { margin: 0; max-width: none; font-size: 10px } summary { color: inherit } tr { break-inside: avoid } }
</style>
</head>
<body>
"#;

/// Writes the page.
pub(super) fn write(out: &mut impl Write, rows: &[Row], names: &[&str]) -> io::Result<()> {
    out.write_all(HEAD.as_bytes())?;
    writeln!(out, "<h1>NAT behaviour report</h1>")?;
    let version = env!("CARGO_PKG_VERSION");
    writeln!(out, "<p>tapnat {version}: {}.</p>\n<ul>", escaped(&names.join(" beside ")))?;
    for line in summary(rows, names) {
        writeln!(out, "<li>{}</li>", escaped(&line))?;
    }
    writeln!(
        out,
        "</ul>\n<p>Hosts A, B, C are 10.0.0.2 to .4, the gateway is 10.0.0.1 inside and 203.0.113.1 outside. In the packets, \
         → is sent to the NAT, ⇒ came out of it, ∅ means that nothing came.</p>"
    )?;
    let mut rest = rows;
    while let Some(first) = rest.first() {
        let length = rest.iter().take_while(|row| row.group.name == first.group.name).count();
        let (section, after) = rest.split_at(length);
        write_section(out, section, names)?;
        rest = after;
    }
    writeln!(out, "</body>\n</html>")
}

fn write_section(out: &mut impl Write, rows: &[Row], names: &[&str]) -> io::Result<()> {
    let Some(first) = rows.first() else { return Ok(()) };
    let scores = names.iter().enumerate().map(|(column, name)| {
        let (met, of) = score(rows, column);
        format!("{name} {met} of {of}")
    });
    let scores = scores.collect::<Vec<_>>().join(", ");
    writeln!(out, "<h2>{}: {}</h2>\n<table>", escaped(first.group.title), escaped(&scores))?;
    let heads: String = names.iter().map(|name| format!("<th>{}</th>", escaped(name))).collect();
    writeln!(out, "<tr><th>#</th><th>requirement</th>{heads}<th>demand</th></tr>")?;
    rows.iter().try_for_each(|row| write_row(out, row, names))?;
    writeln!(out, "</table>")
}

fn write_row(out: &mut impl Write, row: &Row, names: &[&str]) -> io::Result<()> {
    let requirement = row.requirement;
    writeln!(
        out,
        "<tr><td class=\"n\">{}</td><td class=\"id\">{}<br><span class=\"level\">{}</span></td>",
        requirement.number,
        escaped(&requirement.place()),
        requirement.level.word()
    )?;
    for finding in &row.findings {
        let class = match finding.outcome {
            Outcome::Met => "met",
            Outcome::ByOption(_) => "by",
            Outcome::NotMet(_) => "not",
            Outcome::NotApplicable(_) => "na",
            Outcome::Broken(_) => "broken",
        };
        writeln!(out, "<td class=\"o {class}\">{}</td>", finding.outcome.word())?;
    }
    writeln!(out, "<td>{}", escaped(requirement.title))?;
    for (finding, name) in row.findings.iter().zip(names) {
        if let Some(reason) = finding.outcome.reason() {
            writeln!(out, "<div class=\"why\">{}: {}</div>", escaped(name), escaped(reason))?;
        }
        if !finding.packets.is_empty() {
            let packets = escaped(&finding.packets.join("\n"));
            writeln!(
                out,
                "<details><summary>packets, {}</summary><pre>{packets}</pre></details>",
                escaped(name)
            )?;
        }
    }
    writeln!(out, "</td></tr>")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::selftest::GROUPS;
    use crate::lab::selftest::run::Finding;

    #[test]
    fn the_page_is_whole_and_escapes_what_packets_say() {
        let found = |outcome| Finding { outcome, packets: vec!["A → UDP 1 > 2".into()], seconds: 0.1 };
        let row = |findings| Row { group: &GROUPS[0], requirement: &GROUPS[0].requirements[0], findings };
        let rows = [row(vec![found(Outcome::Met), found(Outcome::NotMet("x < y".into()))])];
        let mut page = Vec::new();
        write(&mut page, &rows, &["tapnat", "kernel"]).unwrap();
        let page = String::from_utf8(page).unwrap();
        assert!(page.contains("UDP 1 &gt; 2") && page.contains("x &lt; y") && page.ends_with("</html>\n"));
        assert!(page.contains("met by tapnat and not by kernel: 1 requirement: 1 (RFC 4787 REQ-1)"));
        assert!(!page.contains("<script"));
    }
}
