//! Says which packet differs from the wanted one, and in which fields.

use crate::capture::Stamped;
use std::fmt::Write;
use tapnat::wire::display::{self, Line};

/// The differences of two captures whose packets have a link header of `header` bytes; empty if
/// there are none.
pub fn packets(what: &str, header: usize, want: &[Stamped], have: &[Stamped]) -> String {
    let mut text = String::new();
    for number in 0..want.len().max(have.len()) {
        let (want, have) = (want.get(number), have.get(number));
        if want == have {
            continue;
        }
        writeln!(text, "{what}, packet {}:", number + 1).unwrap();
        for (sign, side) in [('-', want), ('+', have)] {
            let shown = side.map_or_else(|| "nothing".to_owned(), |packet| one(packet, header));
            writeln!(text, "  {sign} {shown}").unwrap();
        }
        if let (Some((_, want)), Some((_, have))) = (want, have) {
            fields(&mut text, header, want, have);
        }
    }
    text
}

/// The lines that only one of two texts has.
pub fn lines(what: &str, want: &str, have: &str) -> String {
    let mut text = String::new();
    for (sign, here, there) in [('-', want, have), ('+', have, want)] {
        for line in here.lines().filter(|line| !there.lines().any(|other| other == *line)) {
            writeln!(text, "{what}: {sign} {line}").unwrap();
        }
    }
    text
}

fn one((time, bytes): &Stamped, header: usize) -> String {
    let link = hex(bytes.get(..header).unwrap_or(bytes));
    let packet = bytes.get(header..).unwrap_or_default();
    let ip = header == 0 || bytes.get(12..14) == Some(&[8, 0]);
    let shown = if ip { Line(packet).to_string() } else { hex(packet) };
    format!("{time} {link} {shown}")
}

fn fields(text: &mut String, header: usize, want: &[u8], have: &[u8]) {
    if want.get(..header) != have.get(..header) {
        writeln!(text, "    the link header differs").unwrap();
    }
    let packet = |bytes: &[u8]| bytes.get(header..).unwrap_or_default().to_vec();
    for line in display::diff(&packet(want), &packet(have)).iter().filter(|line| line.changed()) {
        writeln!(text, "    at {:#06x}: {}", line.offset, line.fields.join(", ")).unwrap();
        for (sign, side) in [('-', &line.before), ('+', &line.after)] {
            let bytes: Vec<u8> = side.iter().map(|(byte, _)| *byte).collect();
            writeln!(text, "      {sign} {}", hex(&bytes)).unwrap();
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_difference_is_told_by_packet_and_field() {
    use crate::support::{A, B, S1, at};
    use tapnat::flow::Time;
    use tapnat::wire::craft;
    let packet = |from| vec![(Time::ZERO, craft::udp(at(from, 1000), at(S1, 53), b"q"))];
    assert_eq!(packets("sent", 0, &packet(A), &packet(A)), "");
    let told = packets("sent", 0, &packet(A), &packet(B));
    assert!(told.contains("packet 1") && told.contains("source address"), "{told}");
    assert!(told.contains("- 0.000000s  UDP 10.0.0.2:1000 >"), "{told}");
    assert!(packets("sent", 0, &packet(A), &[]).contains("+ nothing"));
    assert_eq!(lines("counters", "a 1\nb 2\n", "a 1\nb 3\n"), "counters: - b 2\ncounters: + b 3\n");
}
