//! What containers do: ping, HTTP, DNS, UDP, bulk TCP, on every form of the gateway and every kind
//! of wire.

use crate::lab_setup::*;
use tapnat::lab::programs::sniffer::Sniffer;
use tapnat::lab::programs::{bulk, dns, pattern, udp};
use tapnat::lab::topology::{CONTAINERS, GATEWAY, HOST, INSIDE, Options, ROUTER, SERVERS, UPLINK};

/// Bytes of a bulk transfer in each direction.
const BULK: u64 = 64 << 20;

pub fn ping_from_both(form: Form) {
    let mut setup = Setup::plain(form);
    let before = setup.world.complaints();
    for container in ["red", "blue"] {
        for destination in [GATEWAY, ROUTER, SERVERS[0], SERVERS[1]] {
            assert_ping(setup.on(container), destination);
        }
    }
    assert_eq!(setup.world.complaints(), before);
    setup.world.assert_checksums_right();
    setup.assert_running();
}

pub fn http_from_both(form: Form) {
    let setup = Setup::plain(form);
    let before = setup.world.complaints();
    for container in ["red", "blue"] {
        for server in SERVERS {
            assert_eq!(*seen_as(setup.on(container), at(server, 80)).ip(), HOST);
            let download = page(setup.on(container), at(server, 80), "/bytes/1000000").unwrap();
            assert_eq!((download.length, download.sum), (1_000_000, pattern::expected(1_000_000, 1_000_000)));
        }
    }
    assert_eq!(setup.world.complaints(), before);
    setup.world.assert_checksums_right();
}

pub fn dns_from_both(form: Form) {
    let setup = Setup::plain(form);
    let before = setup.world.complaints();
    for container in ["red", "blue"] {
        // The router answers from the address that it is asked at only if that is the one it would send from.
        let ask =
            |name| setup.on(container).run(|| dns::resolve(at(ROUTER, 53), name, SOON).unwrap()).unwrap();
        assert_eq!(ask("www.example.org"), Some(SERVERS[0]));
        assert_eq!(ask("ftp.example.org"), Some(SERVERS[1]));
        assert_eq!(ask("no.example.org"), None);
    }
    assert_eq!(setup.world.complaints(), before);
}

pub fn udp_of_every_size(form: Form) {
    let setup = Setup::plain(form);
    let before = setup.world.complaints();
    for container in ["red", "blue"] {
        for length in [0, 1, 100, 1471, 1472, 1473, 4000, 9000, 60000] {
            let mut message = vec![0; length];
            pattern::Pattern::new(length as u64).fill(&mut message);
            let answer = setup.on(container).run(|| udp::ask(at(SERVERS[0], 7), &message, SOON)).unwrap();
            assert!(
                answer.unwrap_or_else(|error| panic!("{length} bytes: {error}")) == message,
                "{length} bytes"
            );
        }
    }
    assert_eq!(setup.world.complaints(), before);
    setup.world.assert_checksums_right();
}

/// 64 MiB each way, with every checksum on the wire verified by an oracle of its own.
pub fn bulk_both_ways(form: Form, inside_offloads: bool, outside_offloads: bool) {
    let setup = Setup::new(form, Options { inside_offloads, outside_offloads, ..Options::default() }, &[]);
    let before = setup.world.complaints();
    let inside = INSIDE.parse().unwrap();
    let outside_tap = Sniffer::start(setup.on("internet"), UPLINK, inside).unwrap();
    let inside_tap = Sniffer::start(setup.on("red"), UPLINK, inside).unwrap();
    let (got, put) = setup
        .on("red")
        .run(|| {
            let got = bulk::get(at(SERVERS[0], 5001), BULK, LATER).unwrap();
            let put = bulk::put(at(SERVERS[1], 5001), BULK, LATER).unwrap();
            (got, put)
        })
        .unwrap();
    let (outside, inside) = (outside_tap.stop(), inside_tap.stop());
    let rate = |took: std::time::Duration| BULK as f64 / took.as_secs_f64() / (1 << 20) as f64;
    println!("    get {:.0} MiB/s, put {:.0} MiB/s (both sides sniffed)", rate(got), rate(put));
    setup.world.assert_checksums_right();
    assert_eq!(setup.world.complaints(), before);
    for (side, report, offloads) in
        [("outside", outside, outside_offloads), ("inside", inside, inside_offloads)]
    {
        assert_eq!(report.faults, 0, "{side}: {:#?}", report.fault_words);
        assert!(report.frames > 1000, "{side}: {} frames seen", report.frames);
        if side == "outside" {
            assert_eq!(report.inside_sources, 0, "inside addresses seen outside");
        }
        if !offloads {
            assert_eq!(report.partial, 0, "{side}: unfinished checksums on a wire without offloads");
            assert!(report.longest <= 1514, "{side}: a frame of {} bytes", report.longest);
        }
    }
}

pub fn containers_reach_each_other(form: Form) {
    let setup = Setup::plain(form);
    assert_ping(setup.on("red"), CONTAINERS[1]);
    assert_ping(setup.on("blue"), CONTAINERS[0]);
}
