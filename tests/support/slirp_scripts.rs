//! The counterparts of slirp4netns' own scripts, `tests/test-slirp4netns-*.sh`: one or more tests for
//! each, which check what it checks.

use crate::lab_setup::*;
use crate::slirp_rig::*;
use std::io::pipe;
use std::net::{Ipv4Addr, Ipv6Addr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Duration;
use tapnat::io::sys::netns::inherit;
use tapnat::lab::programs::icmp6::{Answer6, Ping6};
use tapnat::lab::programs::{dns, http, udp};
use tapnat::lab::topology::{HOST, HOST_SIX, SERVERS, SERVERS_SIX, UPLINK};

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
const LOOPBACK_SIX: Ipv6Addr = Ipv6Addr::LOCALHOST;

/// How long is waited for what is not to come.
const BRIEFLY: Duration = Duration::from_millis(500);

/// All of them.
pub const TESTS: [(&str, fn()); 20] = [
    ("a_tap_is_made_and_left_alone", by_process),
    ("namespaces_by_path", by_path),
    ("configure_gives_address_and_route", configure),
    ("cidr_is_checked_and_followed", cidr),
    ("six_has_addresses_dns_and_a_way_out", six),
    ("dhcp_gives_one_of_sixteen", dhcp),
    ("dns_can_be_disabled", disable_dns),
    ("host_loopback_can_be_disabled", disable_host_loopback),
    ("exit_fd_ends_it", exit_fd),
    ("ready_fd_is_told_when_all_is_there", ready_fd),
    ("api_socket_answers_word_for_word", api_socket),
    ("tcp_is_forwarded_by_ipv4", hostfwd4),
    ("tcp_is_forwarded_by_ipv6", hostfwd6),
    ("udp_is_forwarded", hostfwd_udp),
    ("root_forwards_low_ports_and_keeps_no_other_right", low_ports),
    ("macaddress_is_taken", macaddress),
    ("outbound_addr_is_seen", outbound_addr),
    ("a_tap_that_is_open_is_served", tapfd),
    ("other_targets_are_refused", targets),
    ("bulk_in_small_and_large_packets", bulk),
];

fn words<'a>(more: &[&'a str], guest: &'a str) -> Vec<&'a str> {
    more.iter().copied().chain([guest, "tap11"]).collect()
}

/// `test-slirp4netns.sh`, `-sandbox.sh`: without `-c`, the TAP is there and nothing else is done.
fn by_process() {
    let rig = Rig::new();
    let guest = rig.guest();
    let mut slirp = rig.start(&words(&["--enable-sandbox"], &guest.pid()));
    assert!(guest.ip("-4 netconf").contains("tap11"));
    let shown = guest.ip("addr show tap11");
    assert!(shown.contains("state DOWN") && !shown.contains("inet"), "{shown}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", slirp.child.id())).unwrap();
    let none = |set: &str| status.contains(&format!("{set}:\t0000000000000000"));
    assert!(none("CapEff") && none("CapPrm") && status.contains("NoNewPrivs:\t1"), "{status}");
    assert_eq!(slirp.terminate(), Some(0), "{}", slirp.said());
    assert!(!guest.has("tap11"));
}

/// `test-slirp4netns-nspath.sh`: with the user namespace named, and from within it.
fn by_path() {
    let rig = Rig::new();
    let guest = rig.guest();
    let userns = format!("--userns-path={}", guest.file("user"));
    let mut slirp = rig.start(&words(&[&userns, "--netns-type=path"], &guest.file("net")));
    assert!(guest.has("tap11") && !guest.ip("addr show tap11").contains("inet"));
    assert_eq!(slirp.terminate(), Some(0));
    let mut within = rig.user("nsenter".as_ref());
    within.args(["--preserve-credentials", "-U", &format!("--target={}", guest.pid())]);
    within.arg(rig.path("slirp4netns"));
    let mut slirp = rig.start_with(within, &words(&["--netns-type=path"], &guest.file("net")));
    assert!(guest.has("tap11") && !guest.ip("addr show tap11").contains("inet"));
    assert_eq!(slirp.terminate(), Some(0));
    let missing = rig.refused(&words(&["--netns-type=path"], "/nope"));
    assert!(missing.contains("/nope: No such file"), "{missing}");
}

/// `test-slirp4netns-configure.sh`, `-seccomp.sh`.
fn configure() {
    let rig = Rig::new();
    let guest = rig.guest();
    let userns = format!("--userns-path={}", guest.file("user"));
    for more in [&["-c"][..], &["-c", "--enable-seccomp", &userns]] {
        let mut slirp = rig.start(&words(more, &guest.pid()));
        let shown = guest.ip("addr show tap11");
        assert!(shown.contains("inet 10.0.2.100/24") && shown.contains("mtu 1500"), "{shown}");
        assert!(guest.ip("route").contains("default via 10.0.2.2 dev tap11"));
        assert!(guest.ip("addr show lo").contains("inet 127.0.0.1/8"), "loopback is up");
        assert_eq!(*seen_as(guest.net(), at(SERVERS[0], 80)).ip(), HOST);
        assert_ping(guest.net(), GATEWAY);
        assert_ping(guest.net(), SERVERS[0]);
        assert_eq!(slirp.terminate(), Some(0));
    }
}

/// `test-slirp4netns-cidr.sh`.
fn cidr() {
    let rig = Rig::new();
    let guest = rig.guest();
    let network = "CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24";
    for (text, why) in [
        ("24", "invalid CIDR"),
        ("foo", "invalid CIDR"),
        ("10.0.2.0", "invalid CIDR"),
        ("10.0.2.100/24", network),
        ("10.0.2.100/26", "prefix length needs to be 1-25"),
    ] {
        let said = rig.refused(&words(&["-c", "--cidr", text], &guest.pid()));
        assert!(said.contains(why), "{text}: {said}");
        assert!(!guest.has("tap11"));
    }
    let slirp = rig.start(&words(&["-c", "--cidr", "10.0.135.128/25"], &guest.pid()));
    assert!(guest.ip("addr show tap11").contains("inet 10.0.135.228/25"), "{}", slirp.said());
    assert_ping(guest.net(), Ipv4Addr::new(10, 0, 135, 130));
    assert_eq!(*seen_as(guest.net(), at(SERVERS[0], 80)).ip(), HOST);
}

/// `test-slirp4netns-ipv6.sh`, and what `-cidr6.sh` checks of the default.
fn six() {
    let rig = Rig::new();
    let guest = rig.guest();
    let _conf = Resolver::new(&rig);
    let slirp = rig.start(&words(&["-c", "--enable-ipv6"], &guest.pid()));
    let resolve = || dns::resolve((DNS_SIX, 53), "www.example.org", SOON).unwrap();
    assert_eq!(guest.net().run(resolve).unwrap(), Some(SERVERS[0]));
    let shown = guest.ip("addr show tap11");
    assert!(shown.contains("inet6 fd00::64/64") && !shown.contains("tentative"), "{shown}");
    let routes = guest.ip("-6 route");
    assert!(routes.contains("default via fd00::2"), "{routes}");
    let page = page(guest.net(), (SERVERS_SIX[0], 80), "/").unwrap();
    let seen = String::from_utf8(page.body).unwrap();
    assert!(seen.starts_with(&format!("hello [{HOST_SIX}]:")), "{seen}");
    let gateway = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
    let pong = guest.net().run(|| Ping6::new(gateway, 1).send(SOON).unwrap()).unwrap();
    assert!(matches!(pong, Answer6::Reply { .. }), "{pong:?}");
    let seen = guest.seen_as(&rig, (LOOPBACK_SIX, 8080), (gateway, 8080));
    assert_eq!(seen.unwrap().ip(), LOOPBACK_SIX, "{}", slirp.said());
    let words = words(&["-c", "--cidr6", "fd00:1::/64"], "1");
    assert!(rig.refused(&words).contains("unrecognized option '--cidr6'"), "as version 1.2.0 has it");
}

/// `test-slirp4netns-dhcp.sh`: nothing is configured, and a client asks. Which of the addresses it gets
/// follows from its MAC.
fn dhcp() {
    let rig = Rig::new();
    let guest = rig.guest();
    let _slirp = rig.start(&words(&[], &guest.pid()));
    guest.ip("link set lo up");
    guest.ip("link set tap11 up");
    let ask = || {
        let mut client = Command::new("udhcpc");
        client.args(["-f", "-n", "-q", "-i", "tap11", "-s", "/bin/true"]);
        guest.net().confine(&mut client);
        let output = client.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        let lease = said.lines().find_map(|line| line.strip_prefix("udhcpc: lease of 10.0.2."));
        let lease = lease.unwrap_or_else(|| panic!("{said}"));
        assert!(lease.contains("obtained from 10.0.2.2"), "{said}");
        lease.split(' ').next().unwrap().parse::<u8>().unwrap()
    };
    let first = ask();
    assert!((15..=30).contains(&first), "{first}");
    assert_eq!(ask(), first);
}

/// `test-slirp4netns-disable-dns.sh`: the gateway answers, nobody does at the third address.
fn disable_dns() {
    let rig = Rig::new();
    let guest = rig.guest();
    let resolve =
        |patience| guest.net().run(|| dns::resolve(at(DNS, 53), "www.example.org", patience)).unwrap();
    let _conf = Resolver::new(&rig);
    let mut slirp = rig.start(&words(&["-c"], &guest.pid()));
    assert_eq!(resolve(SOON).unwrap(), Some(SERVERS[0]));
    assert_eq!(slirp.terminate(), Some(0));
    let _slirp = rig.start(&words(&["-c", "--mtu", "1500", "--disable-dns"], &guest.pid()));
    assert_ping(guest.net(), GATEWAY);
    let refused = guest.net().run(|| TcpStream::connect_timeout(&at(DNS, 53).into(), BRIEFLY)).unwrap();
    assert!(refused.is_err());
    assert!(resolve(BRIEFLY).is_err());
}

/// `test-slirp4netns-disable-host-loopback.sh`, `-no-host-loopback.sh`.
fn disable_host_loopback() {
    let rig = Rig::new();
    let guest = rig.guest();
    let _web = http::serve(rig.host(), at(LOOPBACK, 12121)).unwrap();
    let ask = |to: Ipv4Addr| page(guest.net(), at(to, 12121), "/");
    let mut slirp = rig.start(&words(&["-c"], &guest.pid()));
    assert_eq!(*peer_of(&ask(GATEWAY).unwrap()).ip(), LOOPBACK);
    assert_eq!(slirp.terminate(), Some(0));
    for option in ["--disable-host-loopback", "--no-host-loopback"] {
        let mut slirp = rig.start(&words(&["-c", "--mtu", "1500", option], &guest.pid()));
        assert_ping(guest.net(), GATEWAY);
        let (refused, took) = timed(|| ask(GATEWAY));
        assert!(refused.is_err() && took < SOON / 2, "{option}: {took:?}");
        // Nor by its own name: that is the namespace's loopback.
        assert!(ask(LOOPBACK).is_err());
        let deprecated = "--no-host-loopback is deprecated, use --disable-host-loopback";
        assert_eq!(slirp.said().contains(deprecated), option.starts_with("--no"), "{}", slirp.said());
        assert_eq!(slirp.terminate(), Some(0));
    }
}

/// `test-slirp4netns-exit-fd.sh`.
fn exit_fd() {
    let rig = Rig::new();
    let guest = rig.guest();
    let (theirs, ours) = pipe().unwrap();
    let mut command = rig.user(&rig.path("slirp4netns"));
    let number = handed(&mut command, theirs.into());
    let mut slirp = rig.start_with(command, &words(&["-e", &number], &guest.pid()));
    a_while();
    assert!(slirp.runs());
    drop(ours);
    assert_eq!(slirp.end(), Some(0), "{}", slirp.said());
    for text in ["-1", "x", ""] {
        let said = rig.refused(&words(&["-e", text], &guest.pid()));
        assert!(said.contains("exit-fd must be a non-negative integer"), "{said}");
    }
    let said = rig.refused(&words(&["-e", "9", "-r", "9"], &guest.pid()));
    assert!(said.contains("descriptor 9 is given for two purposes"), "{said}");
    let said = rig.refused(&words(&["-e", "97"], &guest.pid()));
    assert!(said.contains("exit-fd 97: not an open descriptor"), "{said}");
}

/// `test-slirp4netns-ready-fd.sh`: one byte, when the interface can be used; and the descriptor is
/// closed then, so that who reads to its end is not kept.
fn ready_fd() {
    let rig = Rig::new();
    let mut guest = rig.guest();
    let (mut ours, theirs) = pipe().unwrap();
    let mut command = rig.user(&rig.path("slirp4netns"));
    let number = theirs.as_raw_fd().to_string();
    inherit(&mut command, theirs.into());
    let mut slirp = rig.launch(command, &words(&["-c", "-r", &number], &guest.pid()));
    let mut said = String::new();
    std::io::Read::read_to_string(&mut ours, &mut said).unwrap();
    assert_eq!(said, "1", "{}", slirp.said());
    assert!(guest.ip("addr show tap11").contains("inet 10.0.2.100/24"));
    assert_eq!(*seen_as(guest.net(), at(SERVERS[0], 80)).ip(), HOST);
    // It ends with the process that it serves, also without an exit descriptor.
    guest.end();
    assert_eq!(slirp.end(), Some(0), "{}", slirp.said());
    let said = rig.refused(&["-r", "97", "1", "tap11"]);
    assert!(said.contains("ready-fd 97: not an open descriptor"), "{said}");
}

fn with_api(rig: &Rig, guest: &Guest, more: &[&str]) -> (Slirp, Api) {
    let path = rig.path("slirp4netns.sock");
    let own = ["-c", "--api-socket", path.to_str().unwrap()];
    let slirp = rig.start(&words(&[&own[..], more].concat(), &guest.pid()));
    (slirp, Api(path))
}

/// `test-slirp4netns-api-socket.sh`.
fn api_socket() {
    let rig = Rig::new();
    let guest = rig.guest();
    let long = rig.path(&format!("slirp4netns-TOO-LONG-{}.sock", "A".repeat(90)));
    let said = rig.refused(&words(&["-c", "--api-socket", long.to_str().unwrap()], &guest.pid()));
    assert!(said.contains("shorter than 108 bytes") && !guest.has("tap11"), "{said}");
    let (mut slirp, api) = with_api(&rig, &guest, &[]);
    for (request, want) in [
        ("badjson\n", "bad request: cannot parse JSON"),
        ("{\"unexpectedjson\": 42}\n", "bad request: no execute found"),
        ("{\"execute\": \"bad\"}\n", "bad request: unknown execute"),
        (
            "{\"execute\": \"add_hostfwd\", \"arguments\":{\"proto\": \"bad\"}}\n",
            "bad request: add_hostfwd: bad arguments.proto",
        ),
        (&"\0".repeat(1 << 20), "bad request: too large message"),
    ] {
        assert_eq!(api.ask(request)["error"]["desc"], *want, "{:?}", &request[..request.len().min(60)]);
    }
    assert_eq!(api.add(r#""proto": "tcp","host_port":8080,"guest_port":80"#), 1);
    let want = r#"[{"guest_addr":"10.0.2.100","guest_port":80,"host_addr":"0.0.0.0","host_port":8080,"id":1,"proto":"tcp"}]"#;
    assert_eq!(api.list().to_string(), want);
    api.remove(1);
    assert_eq!(api.list().to_string(), "[]");
    let gone = api.ask(r#"{"execute": "remove_hostfwd", "arguments":{"id": 1}}"#);
    assert_eq!(gone["error"]["desc"], "bad request: remove_hostfwd: bad arguments.id");
    assert_eq!(slirp.terminate(), Some(0));
    assert!(!api.0.exists(), "the socket is left");
}

/// `test-slirp4netns-hostfwd.sh`, `-hostfwd4.sh`: any address of the host, then loopback alone.
fn hostfwd4() {
    let rig = Rig::new();
    let guest = rig.guest();
    let (_slirp, api) = with_api(&rig, &guest, &[]);
    let _echo = guest.answers((Ipv4Addr::UNSPECIFIED, 1080));
    let first = api.add(r#""proto": "tcp","host_port":8080,"guest_port":1080"#);
    for address in [LOOPBACK, HOST] {
        assert_eq!(rig.echo((address, 8080)).unwrap(), b"works", "{address}");
    }
    assert!(rig.echo((LOOPBACK_SIX, 8080)).is_err(), "IPv4 alone");
    let taken = api.add_fails(r#""proto": "tcp","host_port":8080,"guest_port":1080"#);
    assert_eq!(taken, "slirp_add_hostfwd failed");
    api.remove(first);
    assert!(rig.echo((LOOPBACK, 8080)).is_err(), "it is removed");
    let second = api.add(r#""proto": "tcp","host_addr":"127.0.0.1","host_port":8080,"guest_port":1080"#);
    assert_eq!(second, 2);
    assert_eq!(api.list()[0]["host_addr"], "127.0.0.1");
    assert_eq!(rig.echo((LOOPBACK, 8080)).unwrap(), b"works");
    assert!(rig.echo((HOST, 8080)).is_err() && rig.echo((LOOPBACK_SIX, 8080)).is_err());
    api.remove(second);
    // The host's own listeners are not stolen from, and are told of.
    let _web = http::serve(rig.host(), at(HOST, 8081)).unwrap();
    let taken = api.add_fails(r#""proto": "tcp","host_port":8081,"guest_port":1080"#);
    assert_eq!(taken, "slirp_add_hostfwd failed");
    for (arguments, want) in [
        (r#""proto": "tcp6","host_port":8080,"guest_port":1080"#, "bad arguments.proto"),
        (r#""proto": "tcp","host_addr":"::1","host_port":8080,"guest_port":1080"#, "bad arguments.host_addr"),
        (r#""proto": "tcp","guest_port":1080"#, "bad arguments.host_port"),
        (r#""proto": "tcp","host_port":8080,"guest_addr":"x","guest_port":1080"#, "bad arguments.guest_addr"),
        (r#""proto": "tcp","host_port":8080"#, "bad arguments.guest_port"),
    ] {
        assert_eq!(api.add_fails(arguments), want, "{arguments}");
    }
    let any = api.ask(
        r#"{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_addr":"127.0.0.1","host_port":0,"guest_port":1080}}"#,
    );
    let port = any["return"]["host_port"].as_u64().unwrap();
    assert_eq!(rig.echo((LOOPBACK, port.try_into().unwrap())).unwrap(), b"works");
}

/// `test-slirp4netns-hostfwd6.sh`, by addresses where its version has protocols.
fn hostfwd6() {
    let rig = Rig::new();
    let guest = rig.guest();
    let (_slirp, api) = with_api(&rig, &guest, &["--enable-ipv6"]);
    let _echo = guest.answers((Ipv6Addr::UNSPECIFIED, 1080));
    let first = api.add(r#""proto": "tcp","host_addr":"::","host_port":8082,"guest_port":1080"#);
    let entry = api.list()[0].clone();
    assert_eq!((&entry["host_addr"], &entry["guest_addr"]), (&"::".into(), &"fd00::64".into()));
    for address in [LOOPBACK_SIX, HOST_SIX] {
        assert_eq!(rig.echo((address, 8082)).unwrap(), b"works", "{address}");
    }
    assert!(rig.echo((LOOPBACK, 8082)).is_err(), "IPv6 alone");
    // The same port of the other family is another one.
    let four = api.add(r#""proto": "tcp","host_port":8082,"guest_port":1080"#);
    assert_eq!(rig.echo((LOOPBACK, 8082)).unwrap(), b"works");
    api.remove(four);
    api.remove(first);
    let second = api.add(r#""proto": "tcp","host_addr":"::1","host_port":8082,"guest_port":1080"#);
    assert_eq!(rig.echo((LOOPBACK_SIX, 8082)).unwrap(), b"works");
    assert!(rig.echo((HOST_SIX, 8082)).is_err() && rig.echo((LOOPBACK, 8082)).is_err());
    api.remove(second);
    let mixed =
        r#""proto": "tcp","host_addr":"::1","host_port":8082,"guest_addr":"10.0.2.100","guest_port":1"#;
    assert_eq!(api.add_fails(mixed), "bad arguments.guest_addr");
}

/// Forwards of UDP, of both families, with the client's address kept.
fn hostfwd_udp() {
    let rig = Rig::new();
    let guest = rig.guest();
    let (_slirp, api) = with_api(&rig, &guest, &["--enable-ipv6"]);
    let (four, six) = ((GUEST, 7007), (GUEST_SIX, 7007));
    let servers =
        guest.net().run(|| (UdpSocket::bind(four).unwrap(), UdpSocket::bind(six).unwrap())).unwrap();
    let knocks = |to: std::net::SocketAddr, server: &UdpSocket| {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let from = if to.ip().is_loopback() { "host" } else { "internet" };
        let client = rig.world.on(from).run(|| UdpSocket::bind(any).unwrap()).unwrap();
        client.set_read_timeout(Some(SOON)).unwrap();
        server.set_read_timeout(Some(SOON)).unwrap();
        client.connect(to).unwrap();
        client.send(b"knock").unwrap();
        let (length, seen) = server.recv_from(&mut [0; 100]).unwrap();
        server.send_to(b"who is there?", seen).unwrap();
        assert_eq!((length, client.recv(&mut [0; 100]).unwrap()), (5, 13));
        assert_eq!(seen.ip() == client.local_addr().unwrap().ip(), !to.ip().is_loopback(), "{seen}");
    };
    let first = api.add(r#""proto":"udp","host_port":5353,"guest_port":7007"#);
    api.add(r#""proto":"udp","host_addr":"::","host_port":5353,"guest_port":7007"#);
    assert_eq!(api.list()[1]["proto"], "udp");
    knocks((HOST, 5353).into(), &servers.0);
    knocks((LOOPBACK, 5353).into(), &servers.0);
    knocks((HOST_SIX, 5353).into(), &servers.1);
    api.remove(first);
    let gone = rig.host().run(|| udp::ask((LOOPBACK, 5353), b"knock", BRIEFLY)).unwrap();
    assert!(gone.is_err(), "it is removed");
}

/// `test-slirp4netns-sandbox.sh`, as root: of all rights, that to low ports stays.
fn low_ports() {
    let rig = Rig::new();
    let guest = rig.guest();
    let path = rig.path("api");
    let mut command = Command::new(rig.path("slirp4netns"));
    rig.host().confine(&mut command);
    let own = ["-c", "--enable-sandbox", "--enable-seccomp", "--api-socket", path.to_str().unwrap()];
    let mut slirp = rig.start_with(command, &words(&own, &guest.pid()));
    let status = std::fs::read_to_string(format!("/proc/{}/status", slirp.child.id())).unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    const NET_BIND_SERVICE: u64 = 1 << 10;
    assert_eq!(u64::from_str_radix(effective, 16).unwrap(), NET_BIND_SERVICE, "{status}");
    let _echo = guest.answers((Ipv4Addr::UNSPECIFIED, 1080));
    Api(path).add(r#""proto": "tcp","host_port":81,"guest_port":1080"#);
    assert_eq!(rig.echo((LOOPBACK, 81)).unwrap(), b"works");
    assert_eq!(*seen_as(guest.net(), at(SERVERS[0], 80)).ip(), HOST);
    assert_eq!(slirp.terminate(), Some(0), "{}", slirp.said());
}

/// `test-slirp4netns-macaddress.sh`.
fn macaddress() {
    let rig = Rig::new();
    let guest = rig.guest();
    let mac = "0e:d4:18:d9:38:fb";
    let said = rig.refused(&words(&["--macaddress", mac], &guest.pid()));
    assert!(said.contains("--macaddr cannot be specified when --configure or -c is not specified"), "{said}");
    let _slirp = rig.start(&words(&["-c", "--macaddress", mac], &guest.pid()));
    assert!(guest.ip("addr show tap11").contains(&format!("ether {mac}")));
    assert_eq!(*seen_as(guest.net(), at(SERVERS[0], 80)).ip(), HOST);
}

/// `test-slirp4netns-outbound-addr.sh`: loopback, and an address of the host; and by its interface, and
/// of IPv6.
fn outbound_addr() {
    let rig = Rig::new();
    let guest = rig.guest();
    let any = (Ipv4Addr::UNSPECIFIED, 12122);
    let _echo = guest.answers((Ipv4Addr::UNSPECIFIED, 1080));
    for (outbound, want) in [("127.0.0.1", LOOPBACK), (&HOST.to_string(), HOST), (UPLINK, HOST)] {
        let (mut slirp, api) = with_api(&rig, &guest, &["--mtu", "1500", "--outbound-addr", outbound]);
        let seen = guest.seen_as(&rig, any, (GATEWAY, 12122)).unwrap();
        assert_eq!(seen.ip(), want, "{outbound}");
        // Whoever sends from loopback reaches nobody else, and is told so.
        let (far, took) = timed(|| page(guest.net(), at(SERVERS[0], 80), "/"));
        assert_eq!(far.is_ok_and(|page| *peer_of(&page).ip() == HOST), want == HOST, "{outbound}");
        assert!(took < SOON / 2, "{outbound}: {took:?}");
        // Forwards are of any address all the same.
        api.add(r#""proto": "tcp","host_port":8080,"guest_port":1080"#);
        for address in [LOOPBACK, HOST] {
            assert_eq!(rig.echo((address, 8080)).unwrap(), b"works", "{outbound} {address}");
        }
        assert_eq!(slirp.terminate(), Some(0), "{}", slirp.said());
    }
    for outbound in [&HOST_SIX.to_string(), UPLINK] {
        let option = format!("--outbound-addr6={outbound}");
        let mut slirp = rig.start(&words(&["-c", "--enable-ipv6", &option], &guest.pid()));
        let page = page(guest.net(), (SERVERS_SIX[0], 80), "/").unwrap();
        assert!(page.body.starts_with(format!("hello [{HOST_SIX}]:").as_bytes()), "{outbound}");
        assert_eq!(slirp.terminate(), Some(0), "{}", slirp.said());
    }
    for (option, why) in [
        ("--outbound-addr=192.0.2.9", "outbound address 192.0.2.9: no interface of this host has it"),
        ("--outbound-addr=nope0", "outbound interface nope0: there is none"),
        ("--outbound-addr=::1", "outbound-addr has to be valid ipv4 address or interface name."),
        ("--outbound-addr6=10.0.0.1", "outbound-addr6 has to be valid ipv6 address or interface name."),
    ] {
        let said = rig.refused(&words(&["-c", "-6", option], &guest.pid()));
        assert!(said.contains(why), "{said}");
    }
}

/// `--netns-type=tapfd`.
fn tapfd() {
    let rig = Rig::new();
    let guest = rig.guest();
    let tap = guest.net().run(|| tapnat::io::tap::Tap::open("tap11", false, 1500).unwrap()).unwrap();
    let fd = std::os::fd::AsFd::as_fd(&tap).try_clone_to_owned().unwrap();
    for words in ["addr add 10.0.2.100/24 dev tap11", "link set tap11 up", "route add default via 10.0.2.2"] {
        guest.ip(words);
    }
    let mut command = rig.user(&rig.path("slirp4netns"));
    let number = handed(&mut command, fd);
    drop(tap);
    let mut slirp = rig.start_with(command, &["--netns-type=tapfd", &number]);
    assert_eq!(*seen_as(guest.net(), at(SERVERS[0], 80)).ip(), HOST);
    assert_ping(guest.net(), SERVERS[0]);
    assert_eq!(slirp.terminate(), Some(0), "{}", slirp.said());
    let said = rig.refused(&["--netns-type=tapfd", "97"]);
    assert!(said.contains("tapfd 97: not an open descriptor"), "{said}");
}

/// `--target-type` and `--netns-type`: what cannot be done is refused with the reason.
fn targets() {
    let rig = Rig::new();
    for (words, why) in [
        (&["--target-type=bess", "/tmp/bess.sock"][..], "frames come from a TAP here, not from a socket"),
        (&["--target-type=pod", "1", "tap0"], "--target-type must be either \"netns\" or \"bess\""),
        (&["--netns-type=pod", "1", "tap0"], "--netns-type must be \"path\", \"pid\" or \"tapfd\""),
        (&["2147483647", "tap0"], "there is no process 2147483647"),
        (&["--netns-type=path", "/proc/self/stat", "tap0"], "is no network namespace"),
    ] {
        let said = rig.refused(words);
        assert!(said.contains(why), "{words:?}: {said}");
    }
}

/// What the benchmarks do: bulk both ways, to the gateway and through a forward, at both ends of MTU.
fn bulk() {
    let rig = Rig::new();
    let guest = rig.guest();
    let _web = http::serve(rig.host(), at(LOOPBACK, 5201)).unwrap();
    for mtu in ["1500", "65520"] {
        let (mut slirp, api) = with_api(&rig, &guest, &["--mtu", mtu]);
        assert!(guest.ip("link show tap11").contains(&format!("mtu {mtu} ")));
        assert_ping(guest.net(), GATEWAY);
        let length = 20_000_000;
        assert_eq!(page(guest.net(), at(GATEWAY, 5201), &format!("/bytes/{length}")).unwrap().length, length);
        let upload = |to| http::Client::connect(to, SOON)?.upload(1, length);
        assert_eq!(guest.net().run(|| upload(at(GATEWAY, 5201))).unwrap().unwrap().status, 200);
        let _inside = http::serve(guest.net(), at(GUEST, 15201)).unwrap();
        api.add(r#""proto":"tcp","host_addr":"0.0.0.0","host_port":15201,"guest_addr":"10.0.2.100","guest_port":15201"#);
        assert_eq!(
            page(rig.host(), at(LOOPBACK, 15201), &format!("/bytes/{length}")).unwrap().length,
            length
        );
        assert_eq!(rig.host().run(|| upload(at(LOOPBACK, 15201))).unwrap().unwrap().status, 200);
        assert_eq!(slirp.terminate(), Some(0), "{}", slirp.said());
    }
}
