//! Published ports, loopback, mapping and filtering, and hosts that give little.

use crate::lab_setup::*;
use crate::lab_sockets::{Ready, Rootless, any, socket};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;
use tapnat::io::netlink::Netlink;
use tapnat::lab::product::Product;
use tapnat::lab::programs::icmp::{Answer, Ear};
use tapnat::lab::programs::{http, udp};
use tapnat::lab::topology::{CONTAINERS, GATEWAY, HOST, Options, ROUTER, SERVERS, UPLINK};

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

pub fn published_ports_keep_the_client() {
    let publish = [
        "8080:10.88.0.2:80/tcp",
        "127.0.0.1:8081:10.88.0.2:80/tcp",
        "0.0.0.0:8082:10.88.0.2:80/tcp",
        "7007:10.88.0.3:7/udp",
        "127.0.0.1:7008:10.88.0.3:7/udp",
    ];
    let more: Vec<&str> = publish.iter().flat_map(|spec| ["--publish", spec]).collect();
    let setup = Rootless::new(Options::default(), &more);
    let _web = http::serve(setup.on("red"), at(CONTAINERS[0], 80)).unwrap();
    for port in [8080, 8082] {
        assert_eq!(*seen_as(setup.on("internet"), at(HOST, port)).ip(), ROUTER);
        assert_eq!(page(setup.on("internet"), at(HOST, port), "/bytes/2000000").unwrap().length, 2_000_000);
        // The host itself comes with its own address, or as the gateway from its loopback.
        assert_eq!(*seen_as(setup.on("host"), at(HOST, port)).ip(), HOST);
        assert_eq!(*seen_as(setup.on("host"), at(LOOPBACK, port)).ip(), GATEWAY);
        // RFC 4787 REQ-9: the receiver sees the sender's external address.
        assert_eq!(*seen_as(setup.on("blue"), at(HOST, port)).ip(), HOST);
    }
    assert_eq!(*seen_as(setup.on("host"), at(LOOPBACK, 8081)).ip(), GATEWAY);
    let refused = page(setup.on("internet"), at(HOST, 8081), "/").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let server = socket(setup.on("blue"), at(CONTAINERS[1], 7));
    for (host, to, seen) in [
        ("internet", at(HOST, 7007), ROUTER),
        ("host", at(LOOPBACK, 7007), GATEWAY),
        ("host", at(LOOPBACK, 7008), GATEWAY),
    ] {
        let client = socket(setup.on(host), any());
        client.connect(to).unwrap();
        client.send(b"knock").unwrap();
        let mut buffer = [0; 100];
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from.ip()), (&b"knock"[..], seen.into()));
        server.send_to(b"who is there?", from).unwrap();
        let length = client.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"who is there?");
    }
}

pub fn loopback_is_out_of_reach_unless_allowed() {
    for (option, address, reached) in [
        (None, GATEWAY, false),
        (Some("on"), GATEWAY, true),
        (Some("10.88.0.77"), Ipv4Addr::new(10, 88, 0, 77), true),
    ] {
        let more: Vec<&str> = option.iter().flat_map(|option| ["--host-loopback", option]).collect();
        let setup = Rootless::new(Options::default(), &more);
        let _web = http::serve(setup.on("host"), at(LOOPBACK, 80)).unwrap();
        let _echo = udp::serve(setup.on("host"), at(LOOPBACK, 7)).unwrap();
        let got = page(setup.on("red"), at(address, 80), "/");
        let echo = setup.on("red").run(|| udp::ask(at(address, 7), b"hello", SOON)).unwrap();
        if reached {
            assert_eq!(*peer_of(&got.unwrap()).ip(), LOOPBACK);
            assert_eq!(echo.unwrap(), b"hello");
        } else {
            assert_eq!(got.unwrap_err().kind(), ErrorKind::ConnectionRefused);
            assert_eq!(echo.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
        // Neither way leads there by its own name.
        let direct = setup.on("red").run(|| {
            let socket = UdpSocket::bind(any()).unwrap();
            socket.connect(at(LOOPBACK, 7)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            socket.send(b"hello").and_then(|_| socket.recv(&mut [0; 10]))
        });
        assert!(direct.unwrap().is_err());
    }
}

pub fn other_uplinks_reach_loopback_too() {
    for uplink in ["packet", "raw"] {
        let form = Form { uplink, ..PLAIN };
        let setup = Setup::new(form, Options::default(), &["--host-loopback", "on"]);
        let _web = http::serve(setup.on("host"), at(LOOPBACK, 80)).unwrap();
        let _echo = udp::serve(setup.on("host"), at(LOOPBACK, 7)).unwrap();
        for container in ["red", "blue"] {
            assert_eq!(*seen_as(setup.on(container), at(GATEWAY, 80)).ip(), LOOPBACK, "{uplink}");
            for length in [1, 1472, 4000] {
                let echo = setup.on(container).run(|| udp::ask(at(GATEWAY, 7), &vec![7; length], SOON));
                assert_eq!(echo.unwrap().unwrap().len(), length, "{uplink}");
            }
            let refused = page(setup.on(container), at(GATEWAY, 81), "/").unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            assert_eq!(*seen_as(setup.on(container), at(SERVERS[0], 80)).ip(), HOST);
        }
        setup.world.assert_checksums_right();
    }
}

pub fn one_outside_port_for_every_remote() {
    let setup = Rootless::plain();
    let servers = [at(SERVERS[0], 4000), at(SERVERS[0], 4001), at(SERVERS[1], 4000), at(ROUTER, 4002)];
    let sockets = servers.map(|server| socket(setup.on("internet"), server));
    let client = socket(setup.on("red"), any());
    let mut seen = Vec::new();
    for (server, socket) in servers.iter().zip(&sockets) {
        client.send_to(b"who am I?", server).unwrap();
        let (_, from) = socket.recv_from(&mut [0; 100]).unwrap();
        assert_eq!(from.ip(), HOST);
        socket.send_to(b"you", from).unwrap();
        assert_eq!(client.recv_from(&mut [0; 100]).unwrap().1, SocketAddr::from(*server));
        seen.push(from);
    }
    seen.dedup();
    assert_eq!(seen.len(), 1, "{seen:?}");
}

pub fn strangers_are_filtered() {
    for (filtering, comes) in [("address-dependent", false), ("endpoint-independent", true)] {
        let setup = Rootless::new(Options::default(), &["--filtering", filtering]);
        let friend = socket(setup.on("internet"), at(SERVERS[0], 4000));
        let stranger = socket(setup.on("internet"), at(SERVERS[1], 4000));
        let client = socket(setup.on("red"), any());
        client.send_to(b"hello", at(SERVERS[0], 4000)).unwrap();
        let (_, from) = friend.recv_from(&mut [0; 100]).unwrap();
        stranger.send_to(b"knock knock", from).unwrap();
        client.set_read_timeout(Some(if comes { SOON } else { Duration::from_millis(300) })).unwrap();
        let heard = client.recv_from(&mut [0; 100]).map(|(_, from)| from);
        assert_eq!(heard.is_ok(), comes, "{filtering}: {heard:?}");
        friend.send_to(b"hello", from).unwrap();
        client.set_read_timeout(Some(SOON)).unwrap();
        assert_eq!(client.recv_from(&mut [0; 100]).unwrap().1, at(SERVERS[0], 4000).into());
    }
}

pub fn errors_that_sockets_cannot_send_are_counted() {
    let setup = Rootless::plain();
    let server = socket(setup.on("internet"), at(SERVERS[0], 4000));
    let client = socket(setup.on("red"), any());
    client.send_to(b"hello", at(SERVERS[0], 4000)).unwrap();
    let (_, from) = server.recv_from(&mut [0; 100]).unwrap();
    drop(client);
    // Nobody is there any more, which the container's kernel says by ICMP.
    server.send_to(b"late", from).unwrap();
    let counted = || {
        let mut stats = std::process::Command::new(PROGRAM);
        stats.arg("stats").arg("--control").arg(setup.world.control());
        let said = String::from_utf8(stats.output().unwrap().stdout).unwrap();
        said.lines()
            .any(|line| line.contains("icmp-error-untold") && line.split_whitespace().any(|word| word == "1"))
    };
    eventually("it is counted", SOON, counted);
    server.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(server.recv_from(&mut [0; 100]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

pub fn few_descriptors_are_enough() {
    let ready = Ready::new(Options::default());
    let mut setup = ready.start(&["sh", "-c", "ulimit -n 256; exec \"$@\"", "sh"], &[]);
    let first = socket(setup.on("red"), any());
    let server = socket(setup.on("internet"), at(SERVERS[0], 4000));
    let talk = || {
        first.send_to(b"still there?", at(SERVERS[0], 4000)).unwrap();
        let (_, from) = server.recv_from(&mut [0; 100]).unwrap();
        server.send_to(b"yes", from).unwrap();
        first.recv_from(&mut [0; 100]).unwrap();
        from
    };
    let port = talk();
    // More outside ports and connections than there can be.
    let many: Vec<UdpSocket> = (0..300).map(|_| socket(setup.on("blue"), any())).collect();
    for socket in &many {
        socket.send_to(b"one more", at(SERVERS[1], 9)).unwrap();
    }
    let held = setup.on("blue").run(|| {
        let connect =
            |_| std::net::TcpStream::connect_timeout(&at(SERVERS[0], 80).into(), Duration::from_millis(500));
        (0..80).filter_map(|number| connect(number).ok()).collect::<Vec<_>>()
    });
    assert!(held.unwrap().len() > 32);
    assert_eq!(talk(), port, "who was there first goes on");
    assert_ping(setup.on("red"), SERVERS[0]);
    eventually("new connections are possible again", SOON, || {
        page(setup.on("red"), at(SERVERS[1], 80), "/").is_ok()
    });
    assert!(setup.gateway.0.ended().unwrap().is_none());
}

pub fn a_host_without_a_way_out_is_told() {
    let ready = Ready::new(Options::default());
    let index = ready.world.link("host", UPLINK).unwrap().index;
    ready.world.on("host").run(|| Netlink::open().unwrap().set_up(index, false).unwrap()).unwrap();
    let setup = ready.start(&[], &["--host-loopback", "on"]);
    let nominal = "as 192.0.0.8 ports";
    eventually(nominal, SOON, || setup.gateway.0.said().contains(nominal));
    let answer = ping(setup.on("red"), SERVERS[0], 1);
    assert!(matches!(answer, Answer::Error { kind: 3, code: 0, .. }), "{answer:?}");
    let asked = page(setup.on("red"), at(SERVERS[0], 80), "/").unwrap_err();
    assert!(matches!(asked.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)), "{asked}");
    let _echo = udp::serve(setup.on("host"), at(LOOPBACK, 7)).unwrap();
    let echo = setup.on("red").run(|| udp::ask(at(GATEWAY, 7), b"hello", SOON)).unwrap();
    assert_eq!(echo.unwrap(), b"hello");
}

pub fn other_protocols_are_refused() {
    let setup = Rootless::plain();
    assert_ping(setup.on("red"), SERVERS[0]);
    let told = setup.on("red").run(|| {
        let ear = Ear::open().unwrap();
        let mut packet = vec![0; 40];
        (packet[0], packet[8], packet[9]) = (0x45, 64, 47);
        packet[16..20].copy_from_slice(&SERVERS[0].octets());
        ear.send_ipv4(&packet, SERVERS[0]).unwrap();
        ear.next(tapnat::lab::programs::now() + SOON).unwrap().map(|message| message.icmp[..2].to_vec())
    });
    assert_eq!(told.unwrap(), Some(vec![3, 13]));
}

pub fn other_guards_are_refused_in_one_line() {
    let ready = Ready::new(Options::default());
    let wishes: [(&[&str], &str); 5] = [
        (&["--guard", "hold"], "guard hold: the sockets uplink holds its ports with its own sockets"),
        (&["--guard", "off"], "guard off: the sockets uplink"),
        (&["--exempt", "198.51.100.8"], "exempt 198.51.100.8"),
        (&["--outside", "nope0"], "interface nope0 does not exist"),
        (&["--uplink", "packet"], "CAP_NET_RAW"),
    ];
    for (wish, why) in wishes {
        let words = ready.words(&[], wish);
        let mut gateway =
            Product::start_unready(Path::new("setpriv"), ready.world.on("host"), &words).unwrap();
        let status = gateway.wait(SOON).unwrap();
        let said = gateway.said();
        assert_eq!(status.and_then(|status| status.code()), Some(1), "{wish:?}: {said}");
        assert!(said.contains(why) && said.lines().count() == 1, "{wish:?}: {said}");
    }
}
