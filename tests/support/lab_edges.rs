//! Where a NAT shows its manners: published ports, hairpinning, routers' duties, hostile frames.

use crate::lab_setup::*;
use std::net::Ipv4Addr;
use std::time::Duration;
use tapnat::io::netlink::Netlink;
use tapnat::io::sys::wiretap::Wiretap;
use tapnat::lab::programs::icmp::{Answer, Ear, Ping};
use tapnat::lab::programs::pattern::Pattern;
use tapnat::lab::programs::sniffer::{Report, Sniffer};
use tapnat::lab::programs::{bulk, http, now, udp};
use tapnat::lab::topology::{CONTAINERS, GATEWAY, HOST, INSIDE, Options, ROUTER, SERVERS, UPLINK};

pub fn published_ports_are_reached_from_outside(form: Form) {
    let publish = ["--publish", "8080:10.88.0.2:80/tcp", "--publish", "7007:10.88.0.3:7/udp"];
    let setup = Setup::new(form, Options::default(), &publish);
    let before = setup.world.complaints();
    let _web = http::serve(setup.on("red"), at(CONTAINERS[0], 80)).unwrap();
    let _echo = udp::serve(setup.on("blue"), at(CONTAINERS[1], 7)).unwrap();
    // The container sees who really asks.
    assert_eq!(*seen_as(setup.on("internet"), at(HOST, 8080)).ip(), ROUTER);
    assert_eq!(page(setup.on("internet"), at(HOST, 8080), "/bytes/2000000").unwrap().length, 2_000_000);
    let echo = setup.on("internet").run(|| udp::ask(at(HOST, 7007), b"knock", SOON)).unwrap();
    assert_eq!(echo.unwrap(), b"knock");
    assert_eq!(setup.world.complaints(), before);
    setup.world.assert_checksums_right();
}

pub fn hairpin_between_containers(form: Form) {
    let setup = Setup::new(form, Options::default(), &["--publish", "8080:10.88.0.2:80/tcp"]);
    let before = setup.world.complaints();
    let _web = http::serve(setup.on("red"), at(CONTAINERS[0], 80)).unwrap();
    for container in ["blue", "red"] {
        // RFC 4787 REQ-9: the receiver sees the sender's external address.
        assert_eq!(*seen_as(setup.on(container), at(HOST, 8080)).ip(), HOST, "from {container}");
        assert_eq!(page(setup.on(container), at(HOST, 8080), "/bytes/500000").unwrap().length, 500_000);
    }
    assert_eq!(setup.world.complaints(), before);
    setup.world.assert_checksums_right();
}

pub fn last_hop_gives_time_exceeded(form: Form) {
    let setup = Setup::plain(form);
    let ping = |ttl| {
        let ping = Ping { ttl, ..Ping::new(SERVERS[0], ttl.into()) };
        setup.on("red").run(|| ping.send(SOON).unwrap()).unwrap()
    };
    assert_eq!(ping(1), Answer::Error { from: GATEWAY, kind: 11, code: 0, mtu: 0 });
    assert!(matches!(ping(2), Answer::Reply { .. }));
}

pub fn too_big_for_outside_is_told(form: Form) {
    let setup = Setup::new(form, Options { outside_mtu: 1280, ..Options::default() }, &[]);
    let ping = |length, dont_fragment| {
        let ping = Ping { length, dont_fragment, ..Ping::new(SERVERS[0], 1) };
        setup.on("red").run(|| ping.send(SOON).unwrap()).unwrap()
    };
    assert_eq!(ping(1400, true), Answer::Error { from: GATEWAY, kind: 3, code: 4, mtu: 1280 });
    assert!(matches!(ping(1280, true), Answer::Reply { .. }));
    assert!(matches!(ping(1400, false), Answer::Reply { .. }));
    let (up, down) = setup
        .on("blue")
        .run(|| {
            (bulk::put(at(SERVERS[0], 5001), 4 << 20, SOON), bulk::get(at(SERVERS[0], 5001), 4 << 20, SOON))
        })
        .unwrap();
    up.unwrap();
    down.unwrap();
    setup.world.assert_checksums_right();
}

/// Whatever a container sends, translated, refused or meaningless: its own address stays inside.
pub fn inside_addresses_never_leave(form: Form) {
    let mut setup = Setup::plain(form);
    let tap = Sniffer::start(setup.on("internet"), UPLINK, INSIDE.parse().unwrap()).unwrap();
    assert_ping(setup.on("red"), SERVERS[0]);
    setup
        .on("red")
        .run(|| {
            let ear = Ear::open().unwrap();
            let mut noise = Pattern::new(5);
            for protocol in 0..=255u8 {
                for length in [0, 8, 20, 60] {
                    let mut packet = vec![0; 20 + length];
                    noise.fill(&mut packet[20..]);
                    packet[0] = 0x45;
                    packet[8] = 64;
                    packet[9] = protocol;
                    packet[16..20].copy_from_slice(&SERVERS[0].octets());
                    ear.send_ipv4(&packet, SERVERS[0]).unwrap();
                }
            }
        })
        .unwrap();
    // Sources that are not the container's, and ones that nobody may have.
    inject(&setup, 0..2000);
    for container in ["red", "blue"] {
        assert_eq!(*seen_as(setup.on(container), at(SERVERS[0], 80)).ip(), HOST);
    }
    let report = tap.stop();
    assert_eq!(report.inside_sources, 0, "inside addresses seen outside");
    let strange = strangers(&report);
    assert!(strange.is_empty(), "sources outside that are neither host nor internet: {strange:?}");
    setup.assert_running();
}

/// The sources of IPv4 frames that came from the host and are not the host's.
fn strangers(report: &Report) -> Vec<Ipv4Addr> {
    let coming =
        report.kept.iter().filter(|frame| !frame.outgoing && frame.start.get(12..14) == Some(&[8, 0]));
    let sources = coming.filter_map(|frame| frame.start.get(26..30)?.try_into().ok());
    sources.map(|bytes: [u8; 4]| Ipv4Addr::from(bytes)).filter(|&source| source != HOST).collect()
}

/// Puts frames on red's wire that are cut, lie about lengths, or are noise, each one to the gateway.
fn inject(setup: &Setup, numbers: std::ops::Range<u64>) {
    let link = setup.world.link("red", UPLINK).unwrap();
    let neighbor =
        setup.on("red").run(|| Netlink::open().unwrap().neighbor(link.index, GATEWAY.into()).unwrap());
    let gateway =
        neighbor.unwrap().and_then(|neighbor| neighbor.mac).expect("red has just talked to the gateway");
    setup
        .on("red")
        .run(|| {
            let wire = Wiretap::open(link.index).unwrap();
            for number in numbers {
                let frame = odd_frame(number, gateway, link.mac);
                // The interface's queue may be full for a moment: one odd frame less.
                let _ = wire.send(&frame);
            }
        })
        .unwrap();
}

/// A frame of this number: from a good packet of one of four kinds, spoilt in one of four ways.
fn odd_frame(number: u64, to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
    let mut noise = Pattern::new(number);
    let mut dice = [0; 64];
    noise.fill(&mut dice);
    let mut frame = Vec::new();
    frame.extend_from_slice(&to);
    frame.extend_from_slice(&from);
    let kinds: [(u16, u8); 6] =
        [(0x0800, 6), (0x0800, 17), (0x0800, 1), (0x0806, 0), (0x86dd, 6), (0x8100, 0)];
    let (ethertype, protocol) = kinds[usize::from(dice[0]) % kinds.len()];
    frame.extend_from_slice(&ethertype.to_be_bytes());
    let mut body = vec![0; 20 + usize::from(dice[1]) * 5];
    noise.fill(&mut body);
    if ethertype == 0x0800 {
        let length = u16::try_from(body.len()).unwrap();
        body[0] = 0x45;
        body[2..4].copy_from_slice(&length.to_be_bytes());
        body[6..8].copy_from_slice(&[0, 0]);
        body[8] = 64;
        body[9] = protocol;
        body[12..16].copy_from_slice(&CONTAINERS[0].octets());
        body[16..20].copy_from_slice(&SERVERS[0].octets());
    }
    let at = usize::from(dice[2]) % 20;
    match dice[3] % 5 {
        0 => body.truncate(usize::from(dice[4]) % body.len()),
        1 => body[at] = dice[5],
        2 => body[2..4].copy_from_slice(&[dice[5], dice[6]]),
        3 => body[6..8].copy_from_slice(&[dice[5], dice[6]]),
        _ => body[0] = dice[5],
    }
    frame.extend_from_slice(&body);
    frame.truncate(1514);
    frame
}

pub fn hostile_frames_disturb_nobody_else(form: Form) {
    let mut setup = Setup::plain(form);
    assert_ping(setup.on("red"), GATEWAY);
    let work = setup.on("blue").spawn("blue's transfers", || {
        let start = now();
        let mut transfers = 0;
        while now() - start < Duration::from_secs(3) {
            bulk::get(at(SERVERS[0], 5001), 4 << 20, LATER).unwrap();
            bulk::put(at(SERVERS[0], 5001), 4 << 20, LATER).unwrap();
            transfers += 2;
        }
        transfers
    });
    let work = work.unwrap();
    let mut injected = 0;
    while !work.is_finished() {
        inject(&setup, injected..injected + 500);
        injected += 500;
    }
    let transfers = work.join().unwrap();
    println!("    {injected} odd frames beside {transfers:?} transfers of 4 MiB");
    setup.assert_running();
    for container in ["blue", "red"] {
        // The queue before the gateway may still be full of what was injected last.
        eventually("a ping is answered", SOON * 2, || {
            let ping = || Ping::new(SERVERS[0], 1).send(SOON / 5).unwrap();
            matches!(setup.on(container).run(ping).unwrap(), Answer::Reply { .. })
        });
    }
}

pub fn container_with_a_new_mac_is_found_again(form: Form) {
    let setup = Setup::plain(form);
    assert_ping(setup.on("red"), SERVERS[0]);
    let index = setup.world.link("red", UPLINK).unwrap().index;
    setup.on("red").run(|| Netlink::open().unwrap().set_mac(index, [2, 0x99, 0, 0, 0, 1]).unwrap()).unwrap();
    assert_ping(setup.on("red"), SERVERS[0]);
    assert_eq!(page(setup.on("red"), at(SERVERS[0], 80), "/bytes/100000").unwrap().length, 100_000);
}
