//! The TCP mirror of the sockets uplink: what arrives is what was sent, on bad wires and with slow
//! readers, and every way to begin and to end.
#![allow(clippy::unwrap_used)]

#[path = "tcp_mirror/inside.rs"]
mod inside;
#[path = "tcp_mirror/kernel.rs"]
mod kernel;
#[path = "tcp_mirror/link.rs"]
mod link;
#[path = "tcp_mirror/memory.rs"]
mod memory;
#[path = "tcp_mirror/odd.rs"]
mod odd;
#[path = "tcp_mirror/remote.rs"]
mod remote;
#[path = "tcp_mirror/world.rs"]
mod world;

use proptest::prelude::*;
use std::time::Duration;
use tapnat::flow::Time;
use world::{Plan, World};

fn plan() -> impl Strategy<Value = Plan> {
    let wire = (0u32..20, 0u64..3000, any::<u64>(), prop_oneof![Just(1500usize), Just(576), Just(9000)]);
    let bytes = (0usize..300_000, 0usize..300_000, 2048usize..200_000);
    let pace = (100usize..60_000, 100usize..60_000, 0u64..20_000);
    (wire, bytes, pace, any::<bool>(), any::<bool>()).prop_map(|(wire, bytes, pace, six, calling)| Plan {
        loss: wire.0,
        jitter: wire.1,
        seed: wire.2,
        mtu: wire.3,
        up: bytes.0,
        down: bytes.1,
        buffer: bytes.2,
        remote_takes: pace.0,
        inside_takes: pace.1,
        pause: pace.2,
        six,
        calling,
        kept: 65536,
        stays: false,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Two streams over a lossy inside leg, slow readers at both ends: all arrives, in order, and both
    /// ends end.
    #[test]
    fn what_arrives_is_what_was_sent(plan in plan()) {
        let mut world = World::new(&plan);
        world.run(Time::from_secs(20_000));
        prop_assert_eq!(world.wrong(), None);
    }
}

#[test]
fn a_clean_wire_needs_nothing_twice() {
    let plan = Plan { up: 500_000, down: 500_000, ..Plan::clean() };
    let mut world = World::new(&plan);
    world.run(Time::from_secs(60));
    assert_eq!(world.wrong(), None);
    assert_eq!(world.connection.machine.sent_again(), 0);
    assert!(world.now < Time::from_secs(10));
}

#[test]
fn few_bytes_are_acknowledged_soon_though_the_remote_says_nothing() {
    let mut world = World::new(&Plan { up: 10, stays: true, ..Plan::clean() });
    while world.remote.borrow().taken.len() < 10 {
        assert!(world.now < Time::from_secs(1));
        world.run(world.now + Duration::from_micros(100));
    }
    // Before the sender can have sent them again.
    world.run(world.now + Duration::from_millis(2));
    assert_eq!(world.unacknowledged(), 0);
}

#[test]
fn readers_that_stop_for_minutes_lose_nothing() {
    for (up, down) in [(400_000, 0), (0, 400_000), (300_000, 300_000)] {
        let plan = Plan { up, down, ..Plan::clean() };
        let mut world = World::new(&plan);
        world.frozen = Some(Time::from_secs(600));
        world.run(Time::from_secs(1200));
        assert_eq!(world.wrong(), None);
        assert!(world.most_kept <= plan.kept as usize + 128, "{} kept", world.most_kept);
    }
}

#[test]
fn an_inside_end_that_is_gone_is_given_up() {
    let plan = Plan { down: 100_000, ..Plan::clean() };
    let mut world = World::new(&plan);
    world.cut = Some(Time::from_millis(1));
    world.run(Time::from_secs(3600));
    assert!(world.over && world.remote.borrow().reset && world.silent);
    // Without data it is the probe that finds out.
    let mut world = World::new(&Plan { stays: true, ..Plan::clean() });
    world.cut = Some(Time::from_millis(500));
    world.run(Time::from_secs(3600));
    assert!(world.over && world.remote.borrow().reset && world.silent);
    assert!(world.now > Time::ZERO + Duration::from_secs(600));
}

#[test]
fn a_sender_that_holds_back_small_writes_is_not_kept_waiting() {
    let mut world = World::new(&Plan { up: 30, stays: true, ..Plan::clean() });
    world.writes = 10;
    world.inside_socket().set_nagle_enabled(true);
    world.run(Time::from_millis(4));
    assert_eq!(world.remote.borrow().taken.len(), 30, "the second write waits for an acknowledgement");
}
