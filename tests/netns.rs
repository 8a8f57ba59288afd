//! The real gateway between real kernels: every test builds its lab from network namespaces, starts
//! the binary in it, and looks at what the hosts around it see.
//!
//! Runs as root, or as anybody whom the host lets make a user namespace and open /dev/net/tun. Where
//! it cannot run, it says why and skips; with `CI` set, skipping is failing.
#![allow(clippy::unwrap_used)]

#[path = "support/lab_edges.rs"]
mod lab_edges;
#[path = "support/lab_harness.rs"]
mod lab_harness;
#[path = "support/lab_host.rs"]
mod lab_host;
#[path = "support/lab_other.rs"]
mod lab_other;
#[path = "support/lab_reload.rs"]
mod lab_reload;
#[path = "support/lab_setup.rs"]
mod lab_setup;
#[path = "support/lab_six.rs"]
mod lab_six;
#[path = "support/lab_tcx.rs"]
mod lab_tcx;
#[path = "support/lab_traffic.rs"]
mod lab_traffic;

use lab_harness::Test;
use lab_setup::{Form, PLAIN, forms};
use std::process::ExitCode;

/// A test that takes a form of the gateway, by its name.
type Named = (&'static str, fn(Form));

/// Tests that run on every form of the gateway.
const EVERY_FORM: [Named; 9] = [
    ("ping_from_both", lab_traffic::ping_from_both),
    ("http_from_both", lab_traffic::http_from_both),
    ("dns_from_both", lab_traffic::dns_from_both),
    ("udp_of_every_size", lab_traffic::udp_of_every_size),
    ("containers_reach_the_hosts_own_services", lab_host::containers_reach_the_hosts_own_services),
    ("killed_gateway_leaves_a_healthy_host", lab_host::killed_gateway_leaves_a_healthy_host),
    ("published_ports_are_reached_from_outside", lab_edges::published_ports_are_reached_from_outside),
    ("too_big_for_outside_is_told", lab_edges::too_big_for_outside_is_told),
    ("sigterm_leaves_nothing_behind", lab_host::sigterm_leaves_nothing_behind),
];

/// Tests to which uplink and guard matter, but not the TAP.
const EVERY_UPLINK_AND_GUARD: [Named; 10] = [
    (
        "other_protocols_are_answered_and_the_host_is_silent",
        lab_other::other_protocols_are_answered_and_the_host_is_silent,
    ),
    (
        "ports_in_use_at_a_kill_rest_after_the_restart",
        lab_host::ports_in_use_at_a_kill_rest_after_the_restart,
    ),
    ("low_ports_are_leased_when_they_are_needed", lab_host::low_ports_are_leased_when_they_are_needed),
    ("many_connections_beside_the_hosts_own", lab_host::many_connections_beside_the_hosts_own),
    ("ports_of_the_host_are_never_given", lab_host::ports_of_the_host_are_never_given),
    ("our_ports_are_refused_to_host_programs", lab_host::our_ports_are_refused_to_host_programs),
    ("outside_interface_down_and_up_again", lab_host::outside_interface_down_and_up_again),
    ("reload_keeps_flows_that_are_still_allowed", lab_reload::reload_keeps_flows_that_are_still_allowed),
    ("a_bad_reload_changes_nothing", lab_reload::a_bad_reload_changes_nothing),
    ("hostile_frames_disturb_nobody_else", lab_edges::hostile_frames_disturb_nobody_else),
];

/// Tests of what only the packet uplink can do.
const PACKET_UPLINK: [Named; 1] = [(
    "exempt_destinations_see_the_containers_own_address",
    lab_other::exempt_destinations_see_the_containers_own_address,
)];

/// Tests of what only the tcx guard does.
const TCX_GUARD: [Named; 1] = [(
    "syns_to_ports_that_nobody_has_are_met_by_silence",
    lab_other::syns_to_ports_that_nobody_has_are_met_by_silence,
)];

/// Tests of what only one form has, or that no form changes.
const ONCE: [(&str, fn()); 2] = [
    ("nothing_is_logged_of_who_talks_to_whom", lab_host::nothing_is_logged_of_who_talks_to_whom),
    ("pool_addresses_are_answered_for_outside", lab_host::pool_addresses_are_answered_for_outside),
];

/// Tests to which only the uplink matters.
const EVERY_UPLINK: [Named; 9] = [
    ("containers_reach_each_other", lab_traffic::containers_reach_each_other),
    ("hairpin_between_containers", lab_edges::hairpin_between_containers),
    ("last_hop_gives_time_exceeded", lab_edges::last_hop_gives_time_exceeded),
    ("inside_addresses_never_leave", lab_edges::inside_addresses_never_leave),
    ("container_with_a_new_mac_is_found_again", lab_edges::container_with_a_new_mac_is_found_again),
    ("second_gateway_on_one_tap_is_told", lab_host::second_gateway_on_one_tap_is_told),
    ("impossible_wishes_are_refused_in_one_line", lab_host::impossible_wishes_are_refused_in_one_line),
    ("what_was_chosen_is_said_on_one_line", lab_host::what_was_chosen_is_said_on_one_line),
    ("idle_gateway_uses_no_processor", lab_host::idle_gateway_uses_no_processor),
];

fn tests() -> Vec<Test> {
    let tcx = lab_tcx::impossible();
    let mut all = Vec::new();
    let mut add = |name: String, form: Form, run: Box<dyn Fn()>| {
        let impossible = if form.guard == "tcx" { tcx.clone() } else { None };
        all.push(Test { name, run, impossible });
    };
    for (name, test) in ONCE {
        add(name.to_owned(), PLAIN, Box::new(test));
    }
    for form in forms() {
        let every_tap = form.tap == PLAIN.tap;
        let only_uplink = every_tap && form.guard == PLAIN.guard;
        let mut chosen: Vec<Named> = EVERY_FORM.to_vec();
        chosen.extend(EVERY_UPLINK_AND_GUARD.iter().filter(|_| every_tap));
        chosen.extend(EVERY_UPLINK.iter().filter(|_| only_uplink));
        chosen.extend(PACKET_UPLINK.iter().filter(|_| only_uplink && form.uplink == "packet"));
        chosen.extend(TCX_GUARD.iter().filter(|_| every_tap && form.guard == "tcx"));
        let six = lab_six::EVERY_FORM.iter().chain(lab_six::EVERY_UPLINK.iter().filter(|_| only_uplink));
        for (name, test) in six {
            add(format!("six/{name}/{form}"), form, Box::new(move || test(form)));
        }
        for (name, test) in chosen {
            add(format!("{name}/{form}"), form, Box::new(move || test(form)));
        }
        for (inside, outside) in [(true, true), (false, false), (true, false), (false, true)] {
            let word = |offloads| if offloads { "offloads" } else { "plain" };
            let name = format!("bulk_both_ways/{form}/inside-{}/outside-{}", word(inside), word(outside));
            add(name, form, Box::new(move || lab_traffic::bulk_both_ways(form, inside, outside)));
        }
    }
    all
}

fn main() -> ExitCode {
    lab_harness::main(tests)
}
