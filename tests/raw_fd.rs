//! The packet uplink without a privilege: the real gateway as a process that has no capability, with a
//! packet socket that somebody else has opened: by number, by `LISTEN_FDS`, by `tapnat-raw`.
//!
//! Runs where `netns` does, and needs `setpriv` and bash; what is about `tapnat-raw` needs root of the
//! machine, since it writes a file capability.
#![allow(clippy::unwrap_used)]

#[path = "support/lab_harness.rs"]
mod lab_harness;
#[allow(dead_code, reason = "shared with programs that use other parts")]
#[path = "support/lab_setup.rs"]
mod lab_setup;
#[allow(dead_code, reason = "shared with programs that use other parts")]
#[path = "support/lab_sockets.rs"]
mod lab_sockets;
#[path = "support/raw_fd_handed.rs"]
mod raw_fd_handed;
#[path = "support/raw_fd_helper.rs"]
mod raw_fd_helper;

use lab_harness::Test;
use raw_fd_handed as handed;
use raw_fd_helper as helper;
use std::process::{Command, ExitCode};

const HANDED: [(&str, fn()); 9] = [
    ("no_capability_is_needed", handed::no_capability_is_needed),
    ("the_first_packet_waits_for_its_neighbour", handed::the_first_packet_waits_for_its_neighbour),
    ("bulk_both_ways", handed::bulk_both_ways),
    ("services_of_the_host_are_reached", handed::services_of_the_host_are_reached),
    ("a_deleted_interface_is_bound_again", handed::a_deleted_interface_is_bound_again),
    ("the_way_out_stays_on_its_interface", handed::the_way_out_stays_on_its_interface),
    ("what_came_before_the_filter_is_forgotten", handed::what_came_before_the_filter_is_forgotten),
    ("wrong_descriptors_are_refused_with_a_cure", handed::wrong_descriptors_are_refused_with_a_cure),
    ("a_service_manager_hands_it_over", handed::a_service_manager_hands_it_over),
];

const HELPER: [(&str, fn()); 4] = [
    ("helper_serves_its_group", helper::helper_serves_its_group),
    ("helper_runs_commands_that_get_no_socket", helper::helper_runs_commands_that_get_no_socket),
    ("helper_starts_nothing_else", helper::helper_starts_nothing_else),
    ("helper_refuses_what_it_has_no_socket_for", helper::helper_refuses_what_it_has_no_socket_for),
];

fn tests() -> Vec<Test> {
    let missing = Command::new("setpriv").arg("--version").output().err();
    let missing = missing.map(|error| format!("setpriv: {error}"));
    let alone = missing.clone().or_else(helper::impossible);
    let test = |impossible: &Option<String>, (name, run): (&str, fn())| Test {
        name: name.to_owned(),
        run: Box::new(run),
        impossible: impossible.clone(),
    };
    let handed = HANDED.map(|named| test(&missing, named));
    handed.into_iter().chain(HELPER.map(|named| test(&alone, named))).collect()
}

fn main() -> ExitCode {
    lab_harness::main(tests)
}
