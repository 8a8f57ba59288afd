//! The demands of the other documents again, over IPv6: a unique local prefix behind one address
//! (NAT66). RFC 4787 and its kin speak of translators of addresses and ports; over IPv6 nothing else is
//! asked of one. What is different there is in [`super::ipv6`].

use super::contender::{PLAIN, Setup};
use super::{Requirement, attacks, rfc4787, rfc5382, rfc5508, rfc7857, router};

/// An address of the outside network that only the NAT has.
const OWN_ADDRESS: Setup = Setup { tapnat: &["--external", "2001:db8:113::5", "--guard", "off"], ..PLAIN };

/// A row over IPv6 has its number over IPv4 and this.
pub const OVER_SIX: u16 = 600;

/// The row of this name, whose lab may differ over IPv6.
const fn twin(
    table: &'static [Requirement],
    name: &str,
    own: &'static str,
    setup: Option<Setup>,
) -> Requirement {
    let mut at = 0;
    while !same(table[at].name, name) {
        at += 1;
    }
    let four = table[at];
    let setup = match setup {
        Some(setup) => setup,
        None => four.setup,
    };
    Requirement { number: four.number + OVER_SIX, name: own, setup: setup.over_six(), ..four }
}

const fn same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

macro_rules! twins {
    ($($module:ident $test:ident $(in $setup:expr)?;)*) => {
        /// The requirements that hold over IPv6 as over IPv4.
        pub const TABLE: &[Requirement] = &[$(
            twin(
                $module::TABLE,
                stringify!($test),
                concat!("six_", stringify!($test)),
                twins!(@setup $($setup)?),
            ),
        )*];
    };
    (@setup) => { None };
    (@setup $setup:expr) => { Some($setup) };
}

twins! {
    rfc4787 mapping_does_not_depend_on_the_destination;
    rfc4787 one_host_keeps_one_external_address;
    rfc4787 two_hosts_never_share_an_external_port;
    rfc4787 low_ports_stay_low_and_high_ports_high;
    rfc4787 parity_is_kept;
    rfc4787 mapping_lives_two_minutes;
    rfc4787 mapping_lives_five_minutes_by_default;
    rfc4787 mapping_ends_by_the_configured_timer;
    rfc4787 outbound_packets_refresh;
    rfc4787 filtering_is_no_stricter_than_by_address;
    rfc4787 strangers_are_kept_out_or_let_in_alike;
    rfc4787 filtering_can_be_endpoint_independent;
    rfc4787 filtering_can_be_by_address_and_port;
    rfc4787 inside_hosts_reach_each_other_by_external_endpoints;
    rfc4787 hairpinned_packets_show_the_external_source;
    rfc4787 behaviour_is_the_same_after_a_clash;
    rfc4787 no_icmp_error_ends_a_mapping;
    rfc4787 errors_from_any_router_come_in;
    rfc4787 destination_unreachable_comes_in;
    rfc4787 fragments_pass_in_and_out_of_order;
    rfc4787 fragment_flood_does_not_stop_others;
    rfc5382 tcp_mapping_does_not_depend_on_the_destination;
    rfc5382 handshake_data_and_both_closes_pass;
    rfc5382 retransmitted_and_reordered_segments_pass;
    rfc5382 reset_passes;
    rfc5382 simultaneous_open_passes;
    rfc5382 tcp_filtering_is_no_stricter_than_by_address;
    rfc5382 tcp_filtering_can_be_endpoint_independent;
    rfc5382 a_strangers_syn_to_a_mapping_is_not_answered_for_six_seconds;
    rfc5382 unsolicited_syn_is_not_answered_for_six_seconds;
    rfc5382 unsolicited_syn_to_an_own_address_is_not_answered_for_six_seconds in OWN_ADDRESS;
    rfc5382 established_lives_two_hours_four_minutes;
    rfc5382 closing_lives_four_minutes;
    rfc5382 segments_without_a_connection_never_leak;
    rfc5382 two_hosts_never_share_a_tcp_port;
    rfc5382 tcp_hairpins_with_external_source;
    rfc5382 too_big_about_tcp_comes_in;
    rfc5382 no_icmp_error_ends_a_connection;
    rfc5382 segments_outside_the_window_change_nothing;
    rfc5508 echo_and_its_reply_pass;
    rfc5508 query_identifier_does_not_depend_on_the_destination;
    rfc5508 query_session_lives_a_minute;
    rfc5508 query_timer_can_be_set;
    rfc5508 error_with_a_bad_checksum_is_dropped;
    rfc5508 errors_from_outside_are_translated_with_their_quote;
    rfc5508 errors_about_nothing_are_dropped;
    rfc5508 errors_from_inside_are_translated_with_their_quote;
    rfc5508 errors_do_not_refresh_queries;
    rfc5508 hairpinned_errors_come_back;
    rfc5508 exhaustion_is_told;
    rfc5508 generated_errors_copy_the_ds_field;
    rfc5508 generated_errors_are_rate_limited;
    rfc5508 too_big_comes_in_unchanged;
    rfc5508 ttl_is_counted_and_its_end_told;
    rfc7857 a_reset_is_translated;
    rfc7857 mapping_outlives_a_reset;
    rfc7857 a_stray_reset_has_no_effect;
    rfc7857 mappings_are_of_one_protocol;
    rfc7857 refused_packets_do_not_refresh;
    rfc7857 outbound_errors_do_not_refresh;
    rfc7857 changed_ports_are_random;
    rfc7857 fragments_of_two_hosts_never_mix;
    router bad_checksums_are_not_repaired;
    router odd_lengths_and_ports_have_right_checksums;
    router arp_is_answered_for_pool_addresses in OWN_ADDRESS;
    rfc5382 challenge_acks_pass;
    rfc5382 a_rebooted_client_gets_its_port_again;
    rfc5382 connections_are_picked_up_or_refused_cleanly;
    router ttl_is_counted_both_ways;
    router ttl_end_from_outside_is_told_without_inside_addresses;
    router errors_come_from_the_interface_they_leave_by;
    router a_host_that_is_not_there_is_told;
    router the_gateway_answers_ping;
    router full_size_probes_pass;
    router a_new_mac_is_learnt_from_its_announcement;
    attacks forged_resets_do_not_break_a_connection;
    attacks a_neighbour_cannot_take_over_a_connection;
    attacks no_host_gets_the_port_of_a_local_service;
    attacks a_flood_from_one_host_does_not_hurt_another;
    attacks errors_to_another_address_are_dropped;
    attacks errors_with_wild_sequence_numbers_are_dropped;
    attacks answers_are_no_oracle;
    attacks an_outside_source_from_inside_is_dropped;
    attacks packets_from_our_own_address_are_dropped;
    attacks nothing_is_amplified;
    attacks urgent_pointers_beyond_the_end_pass;
    attacks short_frames_are_harmless;
    attacks other_protocols_never_leak;
    attacks fragmented_pings_pass;
}
