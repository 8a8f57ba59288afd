//! A probe's report as text and as JSON.

use super::sockets::short;
use crate::cli::text::{Cell, Column, Ink, Paint, table};
use crate::nat::Behaviour;
use crate::stun::report::{Fragments, Hairpin, Lifetime, Ports, Report};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// RFC 4787 REQ-5: no mapping may expire sooner.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(120);

/// What a finding means for RFC 4787.
enum Mark {
    Met(&'static str),
    NotMet(&'static str),
    /// Nothing is demanded, or not enough is known.
    None,
}

/// A line of the report: what was asked, and what was found or why nothing was.
struct Line {
    key: &'static str,
    found: Result<String, String>,
    mark: Mark,
}

/// The report for people.
pub(super) fn text(report: &Report, paint: Paint) -> Vec<String> {
    let family = if report.server.is_ipv4() { "IPv4" } else { "IPv6" };
    let software = report.software.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
    let other = report.other.map(|other| format!(", also at {other}")).unwrap_or_default();
    let mut lines = vec![
        paint.ink(Ink::Bold, &format!("{family}, asking {}{software}{other}", report.server)),
        match report.translated() {
            true => format!("{} is seen as {}", report.local, report.mapped),
            false => format!("{} is seen as it is: there is no translation", report.local),
        },
        String::new(),
    ];
    let columns = ["WHAT", "FOUND", "RFC 4787"].map(|heading| Column { heading, right: false });
    let row = |line: &Line| {
        let found = match &line.found {
            Ok(found) => found.clone().into(),
            Err(why) => Cell::inked(Ink::Dim, format!("not known: {why}")),
        };
        let mark = match line.mark {
            Mark::Met(place) => Cell::inked(Ink::Green, format!("{place} met")),
            Mark::NotMet(place) => Cell::inked(Ink::Red, format!("{place} not met")),
            Mark::None => String::new().into(),
        };
        vec![line.key.to_owned().into(), found, mark]
    };
    let rows: Vec<Vec<Cell>> = findings(report).iter().map(row).collect();
    lines.extend(table(&columns, &rows, paint));
    lines
}

/// Met if it holds; nothing if it is not known.
fn mark<T>(found: &Result<T, String>, place: &'static str, holds: impl FnOnce(&T) -> bool) -> Mark {
    match found {
        Ok(found) if holds(found) => Mark::Met(place),
        Ok(_) => Mark::NotMet(place),
        Err(_) => Mark::None,
    }
}

fn findings(report: &Report) -> Vec<Line> {
    let Report { mapping, filtering, hairpin, ports, alg, fragments, mtu, lifetime, .. } = report;
    let told = |found: &Result<Behaviour, String>| found.clone().map(|found| word(found).to_owned());
    let mut lines = Vec::new();
    let mut line = |key, found, mark| lines.push(Line { key, found, mark });
    if let Some(class) = report.class() {
        line("class", Ok(class.to_owned()), Mark::None);
    }
    let independent = |found: &Behaviour| *found == Behaviour::EndpointIndependent;
    line("mapping", told(mapping), mark(mapping, "REQ-1", independent));
    line("filtering", told(filtering), Mark::None);
    let hairpins = hairpin.clone().map(|found| match found {
        Hairpin::No => "no".to_owned(),
        Hairpin::External => "yes, from the external endpoint".to_owned(),
        Hairpin::Internal => "yes, but not from the external endpoint".to_owned(),
    });
    let (ports_found, addresses) = match ports {
        Ok(ports) => (Ok(ports_text(ports)), Ok(addresses_text(ports))),
        Err(why) => (Err(why.clone()), Err(why.clone())),
    };
    if report.translated() {
        line("hairpin", hairpins, mark(hairpin, "REQ-9", |found| *found == Hairpin::External));
        let parity = mark(ports, "REQ-4", |ports| ports.parity == ports.sockets);
        line("ports", ports_found, parity);
        line("addresses", addresses, mark(ports, "REQ-2", |ports| ports.addresses.len() == 1));
    }
    let changes = |found: bool| if found { "changed on the way" } else { "left alone" };
    line("payload", alg.clone().map(|found| changes(found).to_owned()), mark(alg, "REQ-10", |found| !found));
    let passed = fragments.as_ref().map(fragments_text).map_err(Clone::clone);
    line("fragments", passed, Mark::None);
    line("MTU", mtu.clone().map(|mtu| format!("{mtu} bytes reach the server uncut")), Mark::None);
    if report.translated() {
        let (found, enough) = match lifetime {
            Ok(found) => (Ok(lifetime_text(*found)), lifetime_mark(*found)),
            Err(why) => (Err(why.clone()), Mark::None),
        };
        line("lifetime", found, enough);
    }
    let trip = report.round_trip.map(|trip| format!("{:.1} ms", trip.as_secs_f64() * 1000.0));
    line("round trip", trip.ok_or_else(|| "every answer was late".to_owned()), Mark::None);
    lines
}

fn word(behaviour: Behaviour) -> &'static str {
    match behaviour {
        Behaviour::EndpointIndependent => "endpoint-independent",
        Behaviour::AddressDependent => "address-dependent",
        Behaviour::AddressAndPortDependent => "address-and-port-dependent",
    }
}

fn ports_text(ports: &Ports) -> String {
    let Ports { sockets, preserved, parity, .. } = ports;
    format!("of {sockets}, {preserved} kept, parity of {parity} kept")
}

fn addresses_text(ports: &Ports) -> String {
    let all: Vec<String> = ports.addresses.iter().map(ToString::to_string).collect();
    all.join(", ")
}

fn fragments_text(fragments: &Fragments) -> String {
    let back = match &fragments.back {
        Ok(true) => "pass inwards".to_owned(),
        Ok(false) => "do not pass inwards".to_owned(),
        Err(why) => format!("inwards not known: {why}"),
    };
    format!("{} outwards, {back}", if fragments.out { "pass" } else { "do not pass" })
}

fn lifetime_text(lifetime: Lifetime) -> String {
    match lifetime {
        Lifetime::Between(alive, gone) => {
            format!("{} idle and it was there, {} and it was gone", short(alive), short(gone))
        }
        Lifetime::AtLeast(alive) => format!("at least {} idle", short(alive)),
    }
}

fn lifetime_mark(lifetime: Lifetime) -> Mark {
    let (Lifetime::Between(alive, _) | Lifetime::AtLeast(alive)) = lifetime;
    let gone = matches!(lifetime, Lifetime::Between(_, gone) if gone <= SHORTEST_LIFETIME);
    match (gone, alive >= SHORTEST_LIFETIME) {
        (true, _) => Mark::NotMet("REQ-5"),
        (_, true) => Mark::Met("REQ-5"),
        _ => Mark::None,
    }
}

/// The report for programs. What is not known is `null`, and `unknown` says why.
pub(super) fn json(report: &Report) -> Value {
    let mut unknown = Map::new();
    let mut value = |key: &str, found: Result<Value, &String>| {
        found.unwrap_or_else(|why| {
            unknown.insert(key.to_owned(), json!(why));
            Value::Null
        })
    };
    let seconds = |duration: Duration| json!(duration.as_millis() as f64 / 1000.0);
    let behaviour = |found: &Behaviour| json!(word(*found));
    let mapping = value("mapping", report.mapping.as_ref().map(behaviour));
    let filtering = value("filtering", report.filtering.as_ref().map(behaviour));
    let hairpin = value(
        "hairpin",
        report.hairpin.as_ref().map(|found| match found {
            Hairpin::No => json!("no"),
            Hairpin::External => json!("external"),
            Hairpin::Internal => json!("internal"),
        }),
    );
    let ports = value(
        "ports",
        report.ports.as_ref().map(|ports| {
            let Ports { sockets, preserved, parity, addresses } = ports;
            json!({ "sockets": sockets, "preserved": preserved, "parity": parity, "addresses": addresses })
        }),
    );
    let alg = value("alg", report.alg.as_ref().map(|found| json!(found)));
    let fragments_in = match &report.fragments {
        Ok(fragments) => fragments.back.as_ref().map(|found| json!(found)),
        Err(why) => Err(why),
    };
    let fragments_out = value("fragments_out", report.fragments.as_ref().map(|found| json!(found.out)));
    let fragments_in = value("fragments_in", fragments_in);
    let mtu = value("mtu", report.mtu.as_ref().map(|found| json!(found)));
    let lifetime = value(
        "lifetime",
        report.lifetime.as_ref().map(|found| match found {
            Lifetime::Between(alive, gone) => json!({ "alive": seconds(*alive), "gone": seconds(*gone) }),
            Lifetime::AtLeast(alive) => json!({ "alive": seconds(*alive), "gone": null }),
        }),
    );
    json!({
        "server": report.server.to_string(),
        "family": if report.server.is_ipv4() { 4 } else { 6 },
        "software": report.software,
        "other": report.other.map(|other| other.to_string()),
        "local": report.local.to_string(),
        "mapped": report.mapped.to_string(),
        "translated": report.translated(),
        "round_trip": report.round_trip.map(|trip| trip.as_secs_f64()),
        "class": report.class(),
        "mapping": mapping,
        "filtering": filtering,
        "hairpin": hairpin,
        "ports": ports,
        "alg": alg,
        "fragments_out": fragments_out,
        "fragments_in": fragments_in,
        "mtu": mtu,
        "lifetime": lifetime,
        "unknown": unknown,
    })
}
