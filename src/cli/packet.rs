//! One packet before and after the gateway, with the bytes that differ marked.

use super::text::{Ink, Paint};
use crate::observe::record::{PacketRecord, from_hex};
use crate::wire::display::{DIFF_WIDTH, DiffLine, diff};
use std::fmt::Write;

/// How many bytes are shown even where nothing differs: the headers.
const HEADERS: usize = 64;

/// The packet's story: a line that says what became of it, then its bytes. Where there are no
/// colours, changed bytes stand in brackets.
pub fn lines(time: &str, packet: &PacketRecord, paint: Paint) -> Vec<String> {
    let way = match &packet.to {
        Some(to) => format!("{} > {to}", packet.from),
        None => packet.from.clone(),
    };
    let ink = if packet.to.is_some() { Ink::Green } else { Ink::Red };
    let head = format!(
        "{time}  {}  {way}  {} bytes  {}",
        paint.ink(ink, &packet.fate),
        packet.length,
        packet.summary
    );
    let (before, after) = (from_hex(&packet.before), from_hex(&packet.after));
    let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
    let mut lines = vec![head];
    if after.is_empty() {
        lines.extend(diff(&before, &before).iter().filter(|line| shown(line)).map(|line| {
            format!("  {:04x}  {}", line.offset, hex(&line.before, Ink::Plain, paint).trim_end())
        }));
        return lines;
    }
    for line in diff(&before, &after).iter().filter(|line| shown(line)) {
        if line.changed() {
            let fields = paint.ink(Ink::Dim, &line.fields.join(", "));
            lines.push(format!("- {:04x}  {}  {fields}", line.offset, hex(&line.before, Ink::Red, paint)));
            let changed = hex(&line.after, Ink::Green, paint);
            lines.push(format!("+ {:04x}  {}", line.offset, changed.trim_end()));
        } else {
            let same = hex(&line.before, Ink::Plain, paint);
            lines.push(format!("  {:04x}  {}", line.offset, same.trim_end()));
        }
    }
    lines
}

fn shown(line: &DiffLine) -> bool {
    line.offset < HEADERS || line.changed()
}

/// Bytes in hexadecimal, padded to a full line.
fn hex(bytes: &[(u8, bool)], ink: Ink, paint: Paint) -> String {
    let mut text = String::new();
    for (byte, differs) in bytes {
        let shown = format!("{byte:02x}");
        let _ = match (differs, paint.on) {
            (true, true) => write!(text, " {} ", paint.ink(ink, &shown)),
            (true, false) => write!(text, "[{shown}]"),
            (false, _) => write!(text, " {shown} "),
        };
    }
    text + &"    ".repeat(DIFF_WIDTH.saturating_sub(bytes.len()))
}
