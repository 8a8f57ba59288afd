//! Golden captures: what comes in on each side, and byte for byte what the gateway sends.
//!
//! Each folder of `tests/golden` is a case: `config.toml` (the keys of `tapnat run --config`),
//! `inside.pcap` (Ethernet) and `outside.pcap` (IP) with what comes in, and `want-inside.pcap`,
//! `want-outside.pcap` and `want.counters` with what must come of it. The packets that come in are
//! merged by their timestamps, which are the time for the gateway; what it sends has the timestamp
//! of its cause. All of them open in Wireshark.
//!
//! The incoming captures are written by the functions in `golden/inputs.rs`, one for each case:
//!
//! ```text
//! BLESS=1 cargo test --test golden         writes want-* anew: look at the difference
//! BLESS=inputs cargo test --test golden    writes inside.pcap and outside.pcap anew too
//! ```
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/bytes.rs"]
mod bytes;
#[path = "golden/capture.rs"]
mod capture;
#[path = "golden/compare.rs"]
mod compare;
#[path = "golden/inputs.rs"]
mod inputs;
#[path = "golden/replay.rs"]
mod replay;
#[path = "golden/script.rs"]
mod script;
mod support;

use capture::Stamped;
use replay::Replay;
use script::Script;
use std::fs;
use std::path::{Path, PathBuf};
use tapnat::gateway::{INSIDE, OUTSIDE};

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        const CASES: &[&str] = &[$(stringify!($name)),*];
        $(#[test] fn $name() { check(stringify!($name), inputs::$name) })*
    };
}

cases! {
    udp_dns,
    tcp_http_whole_connection,
    ping,
    traceroute,
    one_port_for_all_remotes,
    fragments_out_of_order,
    icmp_port_unreachable_both_ways,
    hairpin,
    publish,
    arp_relearn,
    pmtu_df,
    mss_clamp,
    filtered_and_unsolicited,
    malformed,
}

#[test]
fn every_folder_is_a_case() {
    let folders = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = folders
        .filter(|path| path.is_dir())
        .map(|path| path.file_name().unwrap().to_string_lossy().replace('-', "_"))
        .collect();
    found.sort();
    let mut cases = CASES.to_vec();
    cases.sort_unstable();
    assert_eq!(found, cases);
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn check(name: &str, generate: fn(&mut Script)) {
    let folder = root().join(name.replace('_', "-"));
    let bless = std::env::var("BLESS").ok();
    let mut script = Script::new(&folder.join("config.toml"));
    generate(&mut script);
    if bless.as_deref() == Some("inputs") {
        capture::write(&folder.join("inside.pcap"), capture::INSIDE, &script.inside);
        capture::write(&folder.join("outside.pcap"), capture::OUTSIDE, &script.outside);
    }
    let inside = capture::read(&folder.join("inside.pcap"), capture::INSIDE);
    let outside = capture::read(&folder.join("outside.pcap"), capture::OUTSIDE);
    let mut replay = Replay::new(&folder.join("config.toml"));
    feed(&mut replay, &inside, &outside);
    let counters = replay.counters();
    if bless.is_some() {
        capture::write(&folder.join("want-inside.pcap"), capture::INSIDE, &replay.inside);
        capture::write(&folder.join("want-outside.pcap"), capture::OUTSIDE, &replay.outside);
        fs::write(folder.join("want.counters"), &counters).unwrap();
    }
    let want_inside = capture::read(&folder.join("want-inside.pcap"), capture::INSIDE);
    let want_outside = capture::read(&folder.join("want-outside.pcap"), capture::OUTSIDE);
    let want_counters = fs::read_to_string(folder.join("want.counters")).unwrap();
    let report = [
        compare::packets("sent inside", 14, &want_inside, &replay.inside),
        compare::packets("sent outside", 0, &want_outside, &replay.outside),
        compare::lines("counters", &want_counters, &counters),
        compare::packets("inside.pcap and its generator", 14, &inside, &script.inside),
        compare::packets("outside.pcap and its generator", 0, &outside, &script.outside),
    ]
    .concat();
    assert!(report.is_empty(), "{name}: - is wanted, + is what there is\n{report}");
}

/// Feeds both captures in the order of their timestamps; at the same time, the inside first.
fn feed(replay: &mut Replay, inside: &[Stamped], outside: &[Stamped]) {
    let inside = inside.iter().map(|packet| (INSIDE, packet));
    let outside = outside.iter().map(|packet| (OUTSIDE, packet));
    let mut merged: Vec<_> = inside.chain(outside).collect();
    merged.sort_by_key(|(link, (time, _))| (*time, *link));
    for (link, (time, bytes)) in merged {
        replay.receive(*time, link, bytes);
    }
    replay.finish();
}
