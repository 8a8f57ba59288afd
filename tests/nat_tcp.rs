//! TCP, segment by segment: what numbers mean to the translator, what it never refuses, and what
//! nobody off the path can do. Rows of RFC demands are named in the comments.

#![allow(clippy::unwrap_used)]

#[path = "nat_tcp/ends.rs"]
mod ends;
#[path = "nat_tcp/rig.rs"]
mod rig;
#[path = "support/tuples.rs"]
mod tuples;

use ends::{Connection, Run};
use proptest::prelude::*;
use rig::{ISN_A, ISN_S, PASSES, REFUSED, Rig, seg};
use std::net::Ipv6Addr;
use std::time::Duration;
use tapnat::flow::{Endpoint, Summary};
use tapnat::nat::{Closed, Nat, NatConfig, Refusal, Step, TcpState};
use tuples::end;

/// The next number that A and the remote send in a connection just opened.
const A1: u32 = ISN_A.wrapping_add(1);
const S1: u32 = ISN_S + 1;
/// Numbers far from everything.
const FAR: u32 = 0x5555_5555;

// ---- every valid sequence passes -----------------------------------------------------------------

// Rows 28, 80: the walk of RFC 7857 §2, the closing side being either.
#[test]
fn open_talk_and_close_in_either_order() {
    for inside_closes_first in [true, false] {
        let mut rig = Rig::open();
        assert_eq!(rig.a(seg(".", A1, S1).payload(500)), PASSES);
        assert_eq!(rig.s(seg(".", S1, A1 + 500).payload(1460)), PASSES);
        let a_fin = seg("F.", A1.wrapping_add(500), S1 + 1460);
        let s_fin = seg("F.", S1 + 1460, A1.wrapping_add(500));
        if inside_closes_first {
            assert_eq!((rig.a(a_fin), rig.state()), (PASSES, TcpState::InsideClosed));
            assert_eq!((rig.s(s_fin), rig.state()), (PASSES, TcpState::Closing));
        } else {
            assert_eq!((rig.s(s_fin), rig.state()), (PASSES, TcpState::RemoteClosed));
            assert_eq!((rig.a(a_fin), rig.state()), (PASSES, TcpState::Closing));
        }
        assert_eq!(rig.a(seg(".", A1.wrapping_add(501), S1 + 1461)), PASSES);
        assert_eq!(rig.s(seg(".", S1 + 1461, A1.wrapping_add(501))), PASSES);
        assert_eq!((rig.a(a_fin), rig.s(s_fin)), (PASSES, PASSES), "retransmitted");
        assert_eq!(rig.state(), TcpState::Closing);
    }
}

// Row 29: SYNs cross, then each answers the other's.
#[test]
fn a_simultaneous_open_becomes_a_connection() {
    let mut rig = Rig::syn_sent(seg("S", ISN_A, 0));
    assert_eq!(rig.s(seg("S", ISN_S, 0)), PASSES);
    assert_eq!(rig.state(), TcpState::Opening);
    assert_eq!(rig.a(seg("S.", ISN_A, S1)), PASSES);
    assert_eq!(rig.s(seg("S.", ISN_S, A1)), PASSES);
    assert_eq!(rig.state(), TcpState::Established);
    assert_eq!(rig.a(seg(".", A1, S1).payload(100)), PASSES);
    assert_eq!(rig.s(seg("F.", FAR, A1)), REFUSED, "and it is watched");
}

// Row 28.
#[test]
fn a_remote_opens_by_a_published_port() {
    let mut rig = Rig::published();
    assert_eq!(rig.s(seg("S", ISN_S, 0)), PASSES);
    assert_eq!(rig.a(seg("S.", ISN_A, S1)), PASSES);
    assert_eq!(rig.state(), TcpState::Opening);
    assert_eq!(rig.s(seg(".", S1, A1)), PASSES);
    assert_eq!(rig.state(), TcpState::Established);
    assert_eq!(rig.s(seg("F.", FAR, A1)), REFUSED);
}

#[test]
fn keep_alives_and_window_probes_pass_and_keep_alive() {
    let mut rig = Rig::open();
    for payload in [0, 1] {
        rig.after(7000);
        assert_eq!(rig.s(seg(".", S1 - 1, A1).payload(payload)), PASSES);
        rig.after(7000);
        assert_eq!(rig.a(seg(".", A1, S1)), PASSES);
    }
    // The remote's window is full to the last byte, and it closes it.
    assert_eq!(rig.a(seg(".", A1, S1).payload(65535)), PASSES);
    assert_eq!(rig.s(seg(".", S1, A1.wrapping_add(65535)).window(0)), PASSES);
    rig.after(7000);
    assert_eq!(rig.a(seg(".", A1.wrapping_add(65535), S1).payload(1)), PASSES);
    assert_eq!(rig.left(), 7440);
}

#[test]
fn scaled_windows_count_as_they_were_scaled() {
    let mut rig = Rig::syn_sent(seg("S", ISN_A, 0).scale(7));
    assert_eq!(rig.s(seg("S.", ISN_S, A1).scale(9)), PASSES);
    assert_eq!(rig.a(seg(".", A1, S1).window(8192)), PASSES);
    // A allows 1 MiB, the remote 65535 until it says more, and then 16 MiB.
    assert_eq!(rig.s(seg("F.", S1 + (1 << 20) - 1, A1).window(128)), PASSES);
    assert_eq!(rig.state(), TcpState::RemoteClosed);
    let far = A1.wrapping_add(16 << 20);
    assert_eq!(rig.a(seg("F.", far - 1, S1)), REFUSED);
    assert_eq!(rig.s(seg(".", S1 + (1 << 20), A1).window(32768)), PASSES);
    assert_eq!(rig.a(seg("F.", far - 1, S1)), PASSES);
    assert_eq!(rig.state(), TcpState::Closing);
}

#[test]
fn without_the_option_of_both_no_window_is_scaled() {
    let mut rig = Rig::syn_sent(seg("S", ISN_A, 0).scale(7));
    assert_eq!(rig.s(seg("S.", ISN_S, A1)), PASSES);
    assert_eq!(rig.a(seg(".", A1, S1).window(60000)), PASSES);
    assert_eq!(rig.s(seg("F.", S1 + 70_000, A1)), REFUSED);
    assert_eq!(rig.s(seg(".", S1, A1).payload(60000)), PASSES);
}

// Row 109: the scale of the remote's windows is not known, so nothing is judged.
#[test]
fn a_connection_whose_handshake_was_not_seen_whole_is_not_judged() {
    let mut rig = Rig::syn_sent(seg("S", ISN_A, 0).scale(7));
    for n in 0..100u32 {
        assert_eq!(rig.a(seg(".", A1.wrapping_add(n * 65_000), FAR).payload(65_000)), PASSES);
        assert_eq!(rig.s(seg(".", FAR + n * 10_000_000, A1)), PASSES);
    }
    assert_eq!(rig.after(239).a(seg(".", A1, FAR)), PASSES);
}

// A server with SYN cookies may give two answers; the client takes one of them.
#[test]
fn two_answers_to_one_syn_break_nothing() {
    for taken in [ISN_S, FAR] {
        let mut rig = Rig::syn_sent(seg("S", ISN_A, 0));
        assert_eq!(rig.s(seg("S.", ISN_S, A1)), PASSES);
        assert_eq!(rig.a(seg("S", ISN_A, 0)), PASSES);
        assert_eq!(rig.s(seg("S.", FAR, A1)), PASSES);
        assert_eq!(rig.a(seg(".", A1, taken + 1)), PASSES);
        assert_eq!(rig.s(seg(".", taken + 1, A1).payload(1460)), PASSES);
        assert_eq!(rig.a(seg(".", A1, taken + 1461).payload(65000)), PASSES);
        assert_eq!((rig.state(), rig.left()), (TcpState::Established, 7440));
    }
}

// TCP Fast Open (RFC 7413): data in the SYN, taken or not, and repeated without.
#[test]
fn data_in_a_syn_passes_taken_or_not() {
    for taken in [0, 1000] {
        let mut rig = Rig::syn_sent(seg("S", ISN_A, 0).payload(1000));
        assert_eq!(rig.a(seg("S", ISN_A, 0)), PASSES);
        assert_eq!(rig.s(seg("S.", ISN_S, A1.wrapping_add(taken))), PASSES);
        assert_eq!(rig.s(seg(".", S1, A1.wrapping_add(taken)).payload(1460)), PASSES);
        assert_eq!(rig.a(seg(".", A1.wrapping_add(taken), S1).payload(1000)), PASSES);
        assert_eq!(rig.s(seg(".", S1 + 1460, A1.wrapping_add(1000 + taken))), PASSES);
        assert_eq!(rig.state(), TcpState::Established);
    }
}

// What overshoots by less than a window passes, and may be acknowledged; more cannot be true.
#[test]
fn a_little_too_much_passes_and_changes_nothing() {
    let mut rig = Rig::open();
    rig.after(100);
    assert_eq!(rig.s(seg(".", S1 + 65_000, A1).payload(1460)), PASSES);
    assert_eq!(rig.left(), 7340);
    assert_eq!(rig.a(seg(".", A1, S1 + 66_460)), PASSES);
    assert_eq!(rig.s(seg(".", S1 + 66_460 + 131_072, A1)), REFUSED);
}

#[test]
fn late_duplicates_pass_and_change_nothing() {
    let mut rig = Rig::open();
    for n in 0..100 {
        assert_eq!(rig.s(seg(".", S1 + n * 60_000, A1).payload(60_000)), PASSES);
        assert_eq!(rig.a(seg(".", A1, S1 + (n + 1) * 60_000)), PASSES);
    }
    rig.after(100);
    let before = rig.view();
    assert_eq!(rig.s(seg("S.", ISN_S, A1)), PASSES, "the handshake again");
    assert_eq!(rig.s(seg(".", S1, A1).payload(60_000)), PASSES);
    assert_eq!(rig.a(seg(".", A1, S1)), PASSES);
    assert_eq!(rig.a(seg("S", ISN_A, 0)), PASSES);
    assert_eq!((rig.left(), rig.state()), (before.expires_in.as_secs(), TcpState::Established));
    assert_eq!(rig.s(seg(".", S1 - 200_000, A1)), REFUSED, "older than the connection");
}

// ---- what does not belong changes nothing --------------------------------------------------------

// Rows 40, 82, 156, 157: from either side, in every state of an open connection.
#[test]
fn a_rst_outside_the_window_changes_nothing() {
    for fins in 0..3 {
        let mut rig = Rig::open();
        if fins > 0 {
            assert_eq!(rig.a(seg("F.", A1, S1)), PASSES);
        }
        if fins > 1 {
            assert_eq!(rig.s(seg("F.", S1, A1 + 1)), PASSES);
        }
        rig.after(100);
        let before = rig.view();
        for number in [0, 1, FAR, S1 - 1, S1 + 65_600, A1] {
            assert_eq!(rig.s(seg("R", number, 0)), REFUSED);
            assert_eq!(rig.s(seg("R.", number, A1)), REFUSED);
        }
        for number in [0x8000_0000, FAR, A1 - 1, S1] {
            assert_eq!(rig.a(seg("R", number, 0)), REFUSED);
        }
        assert_eq!(rig.view(), before);
    }
}

// Row 40.
#[test]
fn a_fin_outside_the_window_changes_nothing() {
    let mut rig = Rig::open();
    rig.after(100);
    let before = rig.view();
    for number in [0, FAR, S1 + 70_000, S1 - 70_000] {
        assert_eq!(rig.s(seg("F.", number, A1)), REFUSED);
    }
    assert_eq!(rig.s(seg("F.", S1, A1 + 1)), REFUSED, "acknowledges what was not sent");
    for number in [0x8000_0000, FAR] {
        assert_eq!(rig.a(seg("F.", number, S1)), REFUSED);
    }
    assert_eq!(rig.view(), before);
}

#[test]
fn an_acknowledgement_of_what_was_not_sent_is_refused() {
    let mut rig = Rig::open();
    assert_eq!(rig.s(seg(".", S1, A1 + 1).payload(10)), REFUSED);
    assert_eq!(rig.s(seg(".", S1, A1.wrapping_add(FAR)).payload(10)), REFUSED);
    assert_eq!(rig.a(seg(".", A1, S1 + 1)), REFUSED);
    assert_eq!(rig.a(seg(".", A1, S1)), PASSES);
}

// Rows 105, 107: it passes, and so does the challenge that it meets.
#[test]
fn a_rst_in_the_window_but_not_exact_passes_and_changes_nothing() {
    let mut rig = Rig::open();
    rig.after(100);
    assert_eq!(rig.s(seg("R", S1 + 1000, 0)), PASSES);
    assert_eq!((rig.state(), rig.left()), (TcpState::Established, 7340));
    assert_eq!(rig.a(seg(".", A1, S1)), PASSES, "the challenge");
    assert_eq!(rig.s(seg("R", S1, 0)), PASSES, "and the answer of who meant it");
    assert_eq!(rig.state(), TcpState::Reset);
}

// Row 82: RFC 7857 §2.2.
#[test]
fn an_exact_rst_leaves_the_mapping_for_four_minutes() {
    for from_inside in [true, false] {
        let mut rig = Rig::open();
        let rst = |rig: &mut Rig| if from_inside { rig.a(seg("R", A1, 0)) } else { rig.s(seg("R", S1, 0)) };
        assert_eq!((rst(&mut rig), rig.state(), rig.left()), (PASSES, TcpState::Reset, 240));
        rig.after(11);
        assert_eq!(rst(&mut rig), PASSES);
        assert_eq!(rig.left(), 229, "and no RST adds to it");
        rig.after(189);
        assert_eq!(rig.s(seg(".", S1, A1).payload(10)), PASSES, "data brings it back");
        assert_eq!((rig.state(), rig.left()), (TcpState::Established, 7440));
        assert_eq!(rig.a(seg(".", A1, S1 + 10)), PASSES);
    }
}

// The number after unacknowledged data is what the receiver expects next, too.
#[test]
fn a_rst_behind_data_in_flight_is_exact() {
    let mut rig = Rig::open();
    assert_eq!(rig.a(seg(".", A1, S1).payload(3000)), PASSES);
    assert_eq!(rig.a(seg("R.", A1.wrapping_add(3000), S1)), PASSES);
    assert_eq!(rig.state(), TcpState::Reset);
}

// Row 82: data that does not belong brings nothing back.
#[test]
fn forged_data_brings_no_reset_session_back() {
    let mut rig = Rig::open();
    assert_eq!(rig.s(seg("R", S1, 0)), PASSES);
    for (sequence, acknowledgement) in [(FAR, A1), (S1, FAR), (S1 + 100_000, A1)] {
        let _ = rig.s(seg(".", sequence, acknowledgement));
        assert_eq!((rig.state(), rig.left()), (TcpState::Reset, 240));
    }
}

#[test]
fn a_rst_that_answers_a_syn_must_acknowledge_it() {
    let mut rig = Rig::syn_sent(seg("S", ISN_A, 0));
    for acknowledgement in [ISN_A, A1 + 1, FAR] {
        assert_eq!(rig.s(seg("R.", 0, acknowledgement)), REFUSED);
    }
    assert_eq!(rig.s(seg("R", 0, 0)), REFUSED);
    assert_eq!(rig.state(), TcpState::Opening);
    assert_eq!(rig.s(seg("R.", 0, A1)), PASSES);
    assert_eq!((rig.state(), rig.left()), (TcpState::Reset, 240));
    assert_eq!(rig.a(seg("S", FAR, 0)), PASSES);
    assert_eq!(rig.state(), TcpState::Opening);
}

#[test]
fn a_syn_ack_must_acknowledge_the_syn() {
    let mut rig = Rig::syn_sent(seg("S", ISN_A, 0));
    for acknowledgement in [0, ISN_A, A1 + 1, FAR] {
        assert_eq!(rig.s(seg("S.", ISN_S, acknowledgement)), REFUSED);
    }
    assert_eq!(rig.s(seg("S.", ISN_S, A1)), PASSES);
}

// Row 156: the attack of ReDAN, and data afterwards.
#[test]
fn forged_rsts_and_syn_acks_leave_an_open_connection_alone() {
    let mut rig = Rig::open();
    let before = rig.view();
    for number in [FAR, 0, 1] {
        assert_eq!(rig.s(seg("R", number, 0)), REFUSED);
    }
    assert_eq!(rig.s(seg("S.", FAR, FAR)), REFUSED);
    assert_eq!(rig.s(seg("S", FAR, 0)), PASSES, "its receiver challenges it (RFC 5961 §4)");
    assert_eq!(rig.s(seg("S.", FAR, A1)), REFUSED);
    assert_eq!((rig.state(), rig.view().id, rig.left()), (TcpState::Established, before.id, 7440));
    assert_eq!(rig.a(seg(".", A1, S1)), PASSES, "the challenge");
    assert_eq!(rig.s(seg(".", S1, A1).payload(1460)), PASSES);
    assert_eq!(rig.a(seg(".", A1, S1 + 1460).payload(1460)), PASSES);
}

// A SYN in a remote's name cannot spoil the handshake of the true one.
#[test]
fn a_forged_syn_does_not_spoil_a_handshake() {
    let mut rig = Rig::published();
    assert_eq!(rig.s(seg("S", ISN_S, 0)), PASSES);
    assert_eq!(rig.s(seg("S", FAR, 0)), PASSES);
    assert_eq!(rig.a(seg("S.", ISN_A, S1)), PASSES);
    assert_eq!(rig.s(seg("S", FAR, 0)), PASSES);
    assert_eq!(rig.a(seg(".", A1, S1)), PASSES, "a challenge");
    assert_eq!(rig.state(), TcpState::Opening, "the remote has acknowledged nothing");
    assert_eq!(rig.s(seg(".", S1, A1)), PASSES);
    assert_eq!(rig.state(), TcpState::Established);

    let mut rig = Rig::syn_sent(seg("S", ISN_A, 0));
    assert_eq!(rig.s(seg("S", FAR, 0)), PASSES);
    assert_eq!((rig.state(), rig.after(1).left()), (TcpState::Opening, 239));
    assert_eq!(rig.s(seg("S.", ISN_S, A1)), PASSES);
    assert_eq!(rig.a(seg(".", A1, S1)), PASSES);
    assert_eq!(rig.state(), TcpState::Established);
}

// ---- ports used again ----------------------------------------------------------------------------

// Rows 106, 107: all of SYN, challenge, RST, SYN, SYN+ACK.
#[test]
fn a_rebooted_client_comes_back_on_its_old_port() {
    let mut rig = Rig::open();
    assert_eq!(rig.a(seg(".", A1, S1).payload(1000)), PASSES);
    let expected = A1.wrapping_add(1000);
    assert_eq!(rig.s(seg(".", S1, expected).payload(300)), PASSES);
    assert_eq!(rig.a(seg("S", FAR, 0)), PASSES);
    assert_eq!(rig.state(), TcpState::Established);
    assert_eq!(rig.s(seg(".", S1 + 300, expected)), PASSES, "the challenge");
    assert_eq!(rig.a(seg("R", expected, 0)), PASSES);
    assert_eq!(rig.state(), TcpState::Reset);
    assert_eq!(rig.a(seg("S", FAR, 0)), PASSES);
    assert_eq!(rig.s(seg("S.", 99, FAR + 1)), PASSES);
    assert_eq!(rig.a(seg(".", FAR + 1, 100).payload(10)), PASSES);
    assert_eq!(rig.state(), TcpState::Established);
}

// Row 106: the server has forgotten the old connection, and accepts the new one at once.
#[test]
fn a_syn_in_mid_connection_counts_once_it_is_accepted() {
    for from_inside in [true, false] {
        let mut rig = Rig::open();
        let id = rig.view().id;
        for _ in 0..3 {
            let syn = seg("S", FAR, 0).scale(7);
            assert_eq!(if from_inside { rig.a(syn) } else { rig.s(syn) }, PASSES);
        }
        assert_eq!(rig.state(), TcpState::Established);
        let (answer, ack) = (seg("S.", 0x2000_0000, FAR + 1).scale(7), seg(".", FAR + 1, 0x2000_0001));
        if from_inside {
            assert_eq!((rig.s(answer), rig.a(ack)), (PASSES, PASSES));
            assert_eq!(rig.s(seg(".", 0x2000_0001, FAR + 1).payload(1460)), PASSES);
            assert_eq!(rig.s(seg("R", S1, 0)), REFUSED, "the old numbers are over");
        } else {
            assert_eq!((rig.a(answer), rig.s(ack)), (PASSES, PASSES));
            assert_eq!(rig.a(seg(".", 0x2000_0001, FAR + 1).payload(1460)), PASSES);
            assert_eq!(rig.s(seg("R", S1, 0)), REFUSED);
        }
        assert_eq!((rig.state(), rig.view().id), (TcpState::Established, id), "the session goes on");
    }
}

// The server is gone for good: its RST belongs to the SYN, and not to the old numbers.
#[test]
fn a_syn_in_mid_connection_may_be_refused_by_its_receiver() {
    let mut rig = Rig::open();
    assert_eq!(rig.a(seg("S", FAR, 0)), PASSES);
    assert_eq!(rig.s(seg("R.", 0, FAR)), REFUSED);
    assert_eq!(rig.s(seg("R.", 0, FAR + 1)), PASSES);
    assert_eq!(rig.state(), TcpState::Reset);
}

#[test]
fn many_syns_in_mid_connection_are_bounded_and_the_latest_count() {
    let mut rig = Rig::open();
    for n in 0..1000 {
        assert_eq!(rig.s(seg("S", FAR + n * 1_000_000, 0)), PASSES);
    }
    assert_eq!(rig.a(seg("S.", 500, FAR + 1)), REFUSED, "no longer accepted");
    assert_eq!(rig.a(seg("S.", 500, FAR + 999 * 1_000_000 + 1)), PASSES);
}

// Row 28, RFC 9293 §3.6.1: TIME-WAIT is cut short by a SYN, which must be further on.
#[test]
fn a_syn_after_the_end_opens_the_session_anew() {
    let mut rig = Rig::open();
    assert_eq!(rig.a(seg("F.", A1, S1)), PASSES);
    assert_eq!(rig.s(seg("F.", S1, A1 + 1)), PASSES);
    assert_eq!(rig.a(seg("S", ISN_A, 0)), PASSES, "late: not a new one");
    assert_eq!(rig.state(), TcpState::Closing);
    rig.steps.clear();
    let syn = A1.wrapping_add(250_000);
    assert_eq!(rig.a(seg("S", syn, 0)), PASSES);
    assert!(matches!(rig.steps[..], [Step::Closed(_, Closed::Reopened), Step::Opened(_)]));
    assert_eq!(rig.s(seg(".", S1 + 1, A1 + 1)), PASSES, "the server has not forgotten");
    assert_eq!(rig.a(seg("R", A1 + 1, 0)), PASSES, "the client says that it should");
    assert_eq!(rig.state(), TcpState::Opening);
    assert_eq!(rig.s(seg("S.", FAR, syn + 1)), PASSES);
    assert_eq!(rig.a(seg(".", syn + 1, FAR + 1)), PASSES);
    assert_eq!(rig.state(), TcpState::Established);
}

// Anybody can send a SYN in the remote's name while the last FIN is still on its way.
#[test]
fn a_syn_from_outside_after_the_end_counts_once_it_is_answered() {
    let mut rig = Rig::open();
    assert_eq!(rig.a(seg("F.", A1, S1)), PASSES);
    assert_eq!(rig.s(seg("F.", S1, A1 + 1)), PASSES);
    let id = rig.view().id;
    assert_eq!(rig.s(seg("S", FAR, 0)), PASSES);
    assert_eq!((rig.state(), rig.view().id), (TcpState::Closing, id));
    assert_eq!(rig.s(seg("F.", S1, A1 + 1)), PASSES, "the last FIN again");
    assert_eq!(rig.a(seg(".", A1 + 1, S1 + 1)), PASSES);
    assert_eq!(rig.a(seg("S.", 0x2000_0000, FAR + 1)), PASSES);
    assert_eq!(rig.s(seg(".", FAR + 1, 0x2000_0001)), PASSES);
    assert_eq!(rig.state(), TcpState::Established);
    assert_ne!(rig.view().id, id);
}

// ---- how long ------------------------------------------------------------------------------------

// Rows 33, 81: each state has a time of its own.
#[test]
fn every_state_lives_for_its_own_timeout() {
    let mut rig = Rig::syn_sent(seg("S", ISN_A, 0));
    let mut config = rig.nat.config().clone();
    let timeouts = &mut config.policy.timeouts;
    timeouts.tcp_opening = Duration::from_secs(241);
    timeouts.tcp_syn_received = Duration::from_secs(242);
    timeouts.tcp_established = Duration::from_secs(7441);
    timeouts.tcp_half_closed = Duration::from_secs(7442);
    timeouts.tcp_closing = Duration::from_secs(243);
    timeouts.tcp_reset = Duration::from_secs(244);
    rig.nat.reconfigure(config, rig.now, &mut ());
    assert_eq!(rig.left(), 241);
    assert_eq!((rig.s(seg("S.", ISN_S, A1)), rig.left()), (PASSES, 242));
    assert_eq!((rig.a(seg(".", A1, S1)), rig.left()), (PASSES, 7441));
    assert_eq!((rig.s(seg("R", S1, 0)), rig.left()), (PASSES, 244));
    assert_eq!((rig.a(seg("F.", A1, S1)), rig.left()), (PASSES, 7442));
    assert_eq!((rig.s(seg("F.", S1, A1 + 1)), rig.left()), (PASSES, 243));
}

// Row 33: half-closed counts as established, in both directions, at the defaults.
#[test]
fn a_half_closed_connection_lives_for_hours() {
    for inside_closed in [true, false] {
        let mut rig = Rig::open();
        let mut at = 0;
        if inside_closed {
            assert_eq!(rig.a(seg("F.", A1, S1)), PASSES);
        } else {
            assert_eq!(rig.s(seg("F.", S1, A1)), PASSES);
        }
        for _ in 0..3 {
            rig.after(7439);
            if inside_closed {
                assert_eq!(rig.s(seg(".", S1 + at, A1 + 1).payload(100)), PASSES);
            } else {
                assert_eq!(rig.a(seg(".", A1 + at, S1 + 1).payload(100)), PASSES);
            }
            at += 100;
        }
    }
}

// Row 33: after 240 s the transitory states are over, and the sweep finds them.
#[test]
fn transitory_states_end_after_four_minutes() {
    let mut half_open = Rig::syn_sent(seg("S", ISN_A, 0));
    assert_eq!(half_open.s(seg("S.", ISN_S, A1)), PASSES);
    let mut reset = Rig::open();
    assert_eq!(reset.a(seg("R", A1, 0)), PASSES);
    for rig in [&mut half_open, &mut reset] {
        rig.after(239);
        assert!(rig.alive());
        rig.after(1);
        assert!(!rig.alive());
        rig.nat.expire(rig.now, &mut ());
        assert_eq!(rig.nat.counts().sessions, 0);
    }
}

// Row 88: RSTs keep nothing alive; neither does what does not belong.
#[test]
fn only_what_belongs_keeps_a_session_alive() {
    let mut rig = Rig::open();
    for _ in 0..3 {
        rig.after(2000);
        let _ = rig.s(seg("R", S1 + 5, 0));
        let _ = rig.s(seg(".", S1 + 100_000, A1));
        let _ = rig.s(seg("S", FAR, 0));
        let _ = rig.a(seg("R", A1 + 5, 0));
    }
    assert_eq!(rig.left(), 1440);
}

// --timeout udp-unreplied.
#[test]
fn an_unanswered_datagram_has_a_timeout_of_its_own() {
    let mut config = NatConfig::new(vec![end("203.0.113.1").ip]);
    config.policy.timeouts.udp_unreplied = Duration::from_secs(30);
    let mut nat = Nat::new(config, [1; 32]);
    let now = tapnat::flow::Time::from_secs(1);
    let left = |nat: &Nat| nat.sessions(0, 1, now).0[0].expires_in.as_secs();
    let sent = tuples::udp("10.0.0.2:1000 > 198.51.100.7:5000");
    nat.outbound(&sent, now, &mut ());
    nat.outbound(&sent, now, &mut ());
    assert_eq!(left(&nat), 30);
    let x = nat.sessions(0, 1, now).0[0].outside;
    nat.inbound(&tuples::to(&tuples::udp("198.51.100.7:5000 > 0.0.0.0"), x), now, &mut ());
    assert_eq!(left(&nat), 300);
}

// ---- errors about segments -----------------------------------------------------------------------

// Rows 38, 39, 166: RFC 5927 §4.1.
#[test]
fn an_error_about_a_segment_that_was_not_sent_is_refused() {
    let forged = Err(Refusal::ErrorOutOfWindow);
    let mut rig = Rig::open();
    assert_eq!(rig.a(seg(".", A1, S1).payload(5000)), PASSES);
    let before = rig.view();
    for sent in [A1, A1.wrapping_add(4999), A1.wrapping_add(5000)] {
        assert_eq!(rig.error_to_a(Some(sent)), PASSES);
    }
    assert_eq!(rig.error_to_a(None), PASSES, "a fragment says no number");
    for never in [A1.wrapping_add(5001), FAR, A1.wrapping_sub(100_000)] {
        assert_eq!(rig.error_to_a(Some(never)), forged);
    }
    assert_eq!(rig.error_to_s(Some(S1)), PASSES);
    for never in [S1 + 1, FAR] {
        assert_eq!(rig.error_to_s(Some(never)), forged);
    }
    assert_eq!(rig.view(), before, "and none changes anything");
}

#[test]
fn an_error_about_a_syn_passes() {
    let mut rig = Rig::syn_sent(seg("S", ISN_A, 0));
    assert_eq!(rig.error_to_a(Some(ISN_A)), PASSES);
    assert_eq!(rig.error_to_a(Some(FAR)), Err(Refusal::ErrorOutOfWindow));
    let mut rig = Rig::open();
    assert_eq!(rig.error_to_a(Some(FAR)), Err(Refusal::ErrorOutOfWindow));
    assert_eq!(rig.a(seg("S", FAR, 0)), PASSES);
    assert_eq!(rig.error_to_a(Some(FAR)), PASSES, "in mid-connection");
}

// ---- IPv6 ----------------------------------------------------------------------------------------

#[test]
fn ipv6_remotes_are_told_apart_and_forgotten() {
    let mut nat = Nat::new(NatConfig::new(vec![end("2001:db8::1:0").ip]), [3; 32]);
    let now = tapnat::flow::Time::from_secs(1);
    let packet = |n: u16, port: u16| {
        let Summary::Data(mut data) = tuples::udp("0.0.0.0 > 0.0.0.0") else { unreachable!() };
        data.flow.source = end("fd00::2:1000");
        data.flow.destination = Endpoint::new(Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, n), port);
        Summary::Data(data)
    };
    for n in 1..50 {
        for port in [7, 8] {
            assert_eq!(rig::refusal(nat.outbound(&packet(n, port), now, &mut ())), PASSES);
        }
    }
    let views = nat.sessions(0, 1000, now).0;
    assert_eq!(views.len(), 98);
    for view in views {
        let back = tuples::to(&tuples::from(&packet(1, 1), view.remote), view.outside);
        assert_eq!(rig::refusal(nat.inbound(&back, now, &mut ())), PASSES);
        let other = tuples::from(&back, Endpoint { port: view.remote.port, ..end("2001:db8:9::99:0") });
        assert_eq!(rig::refusal(nat.inbound(&other, now, &mut ())), Err(Refusal::Filtered));
        assert!(nat.forget(view.id, now, &mut ()));
    }
    assert_eq!(nat.counts().sessions, 0);
}

// ---- honest ends ---------------------------------------------------------------------------------

fn scale() -> impl Strategy<Value = Option<u8>> {
    prop_oneof![1 => Just(None), 3 => (0..=14u8).prop_map(Some)]
}

fn first() -> impl Strategy<Value = u32> {
    prop_oneof![any::<u32>(), u32::MAX - 100_000..u32::MAX - 1, 0x7fff_0000..0x8000_0000u32]
}

fn run() -> impl Strategy<Value = Run> {
    let wires = (0..30u32, 0..20u32, 0..12u32);
    (any::<u64>(), [first(), first()], [scale(), scale()], 0..1_000_000u32, wires, any::<bool>()).prop_map(
        |(seed, first, scales, bytes, (loses, doubles, overtakes), published)| Run {
            seed,
            first,
            scales,
            bytes,
            loses,
            doubles,
            overtakes,
            forged: 0,
            published,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    /// Rows 28, 40: scaling, reordering, retransmission, probes, loss on either side of the gateway.
    #[test]
    fn no_segment_of_honest_ends_is_ever_refused(run in run()) {
        let mut connection = Connection::new(run);
        let over = (0..20_000).any(|_| connection.step());
        prop_assert!(connection.passed > 1);
        if over && connection.rig.alive() {
            prop_assert_eq!(connection.rig.state(), TcpState::Closing);
        }
    }

    /// Rows 40, 82, 105, 156: whoever is off the path guesses in vain.
    #[test]
    fn forged_segments_never_change_what_honest_ends_can_do(run in run(), forged in 1..4u32) {
        let scales = run.scales.map(|scale| scale.map(|scale| scale.min(7)));
        let mut connection = Connection::new(Run { forged, scales, ..run });
        let over = (0..10_000).any(|_| connection.step());
        prop_assert!(connection.forged > 0 && connection.passed > 1);
        if over {
            prop_assert!(connection.rig.alive());
        }
    }
}
