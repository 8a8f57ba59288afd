//! The real gateway over ordinary sockets, as a process that has no capability on its host: only the
//! TAP is handed to it.
//!
//! Runs where `netns` does, and needs `setpriv` and a shell.
#![allow(clippy::unwrap_used)]

#[path = "support/lab_harness.rs"]
mod lab_harness;
#[allow(dead_code, reason = "shared with programs that use other parts")]
#[path = "support/lab_setup.rs"]
mod lab_setup;
#[path = "support/lab_sockets.rs"]
mod lab_sockets;
#[path = "support/lab_sockets_edges.rs"]
mod lab_sockets_edges;

use lab_harness::Test;
use lab_sockets as plain;
use lab_sockets_edges as edges;
use std::process::{Command, ExitCode};

const TESTS: [(&str, fn()); 19] = [
    ("no_capability_is_needed", plain::no_capability_is_needed),
    ("auto_takes_sockets_and_says_why", plain::auto_takes_sockets_and_says_why),
    ("udp_of_every_size", plain::udp_of_every_size),
    ("bulk_both_ways", plain::bulk_both_ways),
    ("many_short_connections", plain::many_short_connections),
    ("closed_ports_are_told", plain::closed_ports_are_told),
    ("hops_are_counted", plain::hops_are_counted),
    ("too_big_for_outside_is_told", plain::too_big_for_outside_is_told),
    ("ping_that_is_not_permitted_is_told", plain::ping_that_is_not_permitted_is_told),
    ("published_ports_keep_the_client", edges::published_ports_keep_the_client),
    ("loopback_is_out_of_reach_unless_allowed", edges::loopback_is_out_of_reach_unless_allowed),
    ("other_uplinks_reach_loopback_too", edges::other_uplinks_reach_loopback_too),
    ("one_outside_port_for_every_remote", edges::one_outside_port_for_every_remote),
    ("strangers_are_filtered", edges::strangers_are_filtered),
    ("errors_that_sockets_cannot_send_are_counted", edges::errors_that_sockets_cannot_send_are_counted),
    ("few_descriptors_are_enough", edges::few_descriptors_are_enough),
    ("a_host_without_a_way_out_is_told", edges::a_host_without_a_way_out_is_told),
    ("other_protocols_are_refused", edges::other_protocols_are_refused),
    ("other_guards_are_refused_in_one_line", edges::other_guards_are_refused_in_one_line),
];

fn tests() -> Vec<Test> {
    let missing = Command::new("setpriv").arg("--version").output().err();
    let impossible = missing.map(|error| format!("setpriv: {error}"));
    let test = |(name, run): &(&str, fn())| Test {
        name: (*name).to_owned(),
        run: Box::new(*run),
        impossible: impossible.clone(),
    };
    TESTS.iter().map(test).collect()
}

fn main() -> ExitCode {
    lab_harness::main(tests)
}
