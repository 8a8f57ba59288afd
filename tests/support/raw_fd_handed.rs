//! A gateway without capabilities that is given its packet socket, and what it does with it.

use crate::lab_setup::*;
use crate::lab_sockets::{Ready, Rootless, works_without_a_capability};
use rustix::io::{FdFlags, fcntl_setfd};
use socket2::{Domain, Socket, Type};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use tapnat::io::netlink::Netlink;
use tapnat::io::sys::netns::Netns;
use tapnat::io::sys::packet::LinkAddress;
use tapnat::lab::netns::set_sysctl;
use tapnat::lab::product::Product;
use tapnat::lab::programs::icmp::Answer;
use tapnat::lab::programs::{bulk, dns, http, udp};
use tapnat::lab::topology::{
    CONTAINERS, HOST, INSIDE_SIX, Options, ROUTER, SERVERS, SERVERS_SIX, UPLINK, WithSix,
};

/// Bytes of a bulk transfer in each direction.
const BULK: u64 = 64 << 20;

/// A packet socket of the namespace that a child inherits, bound to nothing.
pub fn packet_socket(netns: &Netns, kind: Type) -> Socket {
    let socket = netns.run(|| Socket::new(Domain::PACKET, kind, None).unwrap()).unwrap();
    fcntl_setfd(&socket, FdFlags::empty()).unwrap();
    socket
}

/// A gateway without capabilities on a packet socket that was handed to it.
fn handed(options: Options, more: &[&str]) -> Rootless {
    let ready = Ready::new(options);
    let socket = packet_socket(ready.world.on("host"), Type::RAW);
    let number = socket.as_raw_fd().to_string();
    let words = ["--uplink", "auto", "--raw-fd", &number].iter().chain(more).copied().collect::<Vec<_>>();
    ready.start(&[], &words)
}

pub fn no_capability_is_needed() {
    let setup = handed(Options::default(), &["--publish", "8080:10.88.0.2:80/tcp"]);
    works_without_a_capability(&setup);
    for container in ["red", "blue"] {
        let name = "www.example.org";
        let found = setup.on(container).run(|| dns::resolve(at(ROUTER, 53), name, SOON)).unwrap().unwrap();
        assert_eq!(found, Some(SERVERS[0]));
    }
    let _web = http::serve(setup.on("red"), at(CONTAINERS[0], 80)).unwrap();
    assert_eq!(*seen_as(setup.on("internet"), at(HOST, 8080)).ip(), ROUTER);
    eventually("what was chosen is said", SOON, || setup.gateway.0.said().contains("serving"));
    let said = setup.gateway.0.said();
    for why in ["uplink packet: descriptor", "without CAP_NET_RAW", "guard hold: tcx is not permitted here"] {
        assert!(said.contains(why), "{why}: {said}");
    }
    assert_eq!(setup.world.complaints(), (0, 0), "the host's stack has answered to our ports");
    setup.world.assert_checksums_right();
}

/// Nobody knows the router yet, and the first packets are not sent again by anybody.
pub fn the_first_packet_waits_for_its_neighbour() {
    let options = Options { six: WithSix::Fixed, ..Options::default() };
    let setup = handed(options, &["--inside", INSIDE_SIX]);
    let six = SocketAddr::new(SERVERS_SIX[0].into(), 7);
    let _echo = udp::serve(setup.on("internet"), six).unwrap();
    for server in [at(SERVERS[0], 7).into(), six] {
        let answer = setup.on("red").run(|| udp::ask(server, b"only once", SOON)).unwrap();
        assert_eq!(answer.unwrap_or_else(|error| panic!("{server}: {error}")), b"only once");
    }
    // One that nobody is: what waits for it is given up, and nobody else's packets with it.
    let nobody = at([203, 0, 113, 99].into(), 7);
    let asked =
        setup.on("red").run(|| udp::ask(nobody, b"?", std::time::Duration::from_millis(100))).unwrap();
    assert!(asked.is_err());
    assert_ping(setup.on("red"), SERVERS[0]);
    eventually("it is counted", SOON, || counter(&setup, "eth0 (packet): next-hop-not-found") == 1);
    setup.world.assert_checksums_right();
}

/// A counter of a link, as `tapnat stats --prometheus` or its text tell it.
fn counter(setup: &Rootless, name: &str) -> u64 {
    let stats =
        Command::new(PROGRAM).args(["stats", "--json", "--control"]).arg(setup.world.control()).output();
    let text = String::from_utf8(stats.unwrap().stdout).unwrap();
    let after = text.split(&format!("\"{name}\":")).nth(1).unwrap_or("0");
    let digits: String = after.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

pub fn bulk_both_ways() {
    let setup = handed(Options::default(), &[]);
    let both = || {
        let got = bulk::get(at(SERVERS[0], 5001), BULK, LATER).unwrap();
        (got, bulk::put(at(SERVERS[1], 5001), BULK, LATER).unwrap())
    };
    let (got, put) = setup.on("red").run(both).unwrap();
    let rate = |took: std::time::Duration| BULK as f64 / took.as_secs_f64() / (1 << 20) as f64;
    println!("    get {:.0} MiB/s, put {:.0} MiB/s", rate(got), rate(put));
    setup.world.assert_checksums_right();
}

/// By ordinary sockets, since raw IP sockets are not permitted.
pub fn services_of_the_host_are_reached() {
    let setup = handed(Options::default(), &[]);
    let host = setup.on("host");
    let _web = http::serve(host, at(HOST, 80)).unwrap();
    let _echo = udp::serve(host, at(HOST, 7)).unwrap();
    assert_eq!(*seen_as(setup.on("red"), at(HOST, 80)).ip(), HOST);
    assert_eq!(page(setup.on("blue"), at(HOST, 80), "/bytes/1000000").unwrap().length, 1_000_000);
    for _ in 0..3 {
        let answer = setup.on("red").run(|| udp::ask(at(HOST, 7), b"hello", SOON)).unwrap();
        assert_eq!(answer.unwrap(), b"hello");
    }
    assert_ping(setup.on("red"), HOST);
    let refused = page(setup.on("red"), at(HOST, 81), "/").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

pub fn a_deleted_interface_is_bound_again() {
    let mut setup = handed(Options::default(), &[]);
    assert_ping(setup.on("red"), SERVERS[0]);
    let index = setup.world.link("host", UPLINK).unwrap().index;
    setup.on("host").run(|| Netlink::open().unwrap().delete(index).unwrap()).unwrap();
    eventually("the link is down", SOON, || setup.gateway.0.said().contains("is down"));
    let far = setup.on("internet");
    let give = |name: &str, ip, route: Option<IpAddr>| {
        let netlink = Netlink::open().unwrap();
        let index = netlink.link(name).unwrap().unwrap().index;
        netlink.rename(index, UPLINK).unwrap();
        netlink.add_address(index, ip, 24).unwrap();
        netlink.set_up(index, true).unwrap();
        route.into_iter().for_each(|gateway| netlink.add_default_route(gateway).unwrap());
    };
    let make = || {
        let netlink = Netlink::open().unwrap();
        netlink.add_veth("again", "far").unwrap();
        netlink.move_to(netlink.link("far").unwrap().unwrap().index, far.as_fd()).unwrap();
    };
    setup.on("host").run(make).unwrap();
    far.run(|| give("far", ROUTER.into(), None)).unwrap();
    setup.on("host").run(|| give("again", HOST.into(), Some(ROUTER.into()))).unwrap();
    let again = setup.world.link("host", UPLINK).unwrap().index;
    assert_ne!(again, index, "another interface of the same name");
    eventually("the link is up again", SOON, || setup.gateway.0.said().contains("is up again"));
    eventually("packets flow", SOON * 2, || {
        page(setup.on("red"), at(SERVERS[0], 80), "/bytes/1000").is_ok_and(|page| page.length == 1000)
    });
    let status = setup.gateway.0.terminate(SOON).unwrap().expect("it ends when it is asked to");
    assert_eq!(status.code(), Some(0), "{}", setup.gateway.0.said());
}

/// A second interface would take a second socket: the one that there is stays, and goes on.
pub fn the_way_out_stays_on_its_interface() {
    let mut setup = handed(Options::default(), &[]);
    assert_ping(setup.on("red"), ROUTER);
    let other = || {
        let netlink = Netlink::open().unwrap();
        netlink.add_veth("eth1", "far1").unwrap();
        let index = |name| netlink.link(name).unwrap().unwrap().index;
        netlink.add_address(index("eth1"), [203, 0, 114, 1].into(), 24).unwrap();
        ["far1", "eth1"].into_iter().for_each(|name| netlink.set_up(index(name), true).unwrap());
    };
    setup.on("host").run(other).unwrap();
    let mut route = Command::new("ip");
    setup.on("host").confine(&mut route);
    let status = route.args(["route", "replace", "default", "via", "203.0.114.254", "dev", "eth1"]).status();
    assert!(status.unwrap().success());
    // Longer than the host is let come to rest.
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_ping(setup.on("red"), ROUTER);
    let said = setup.gateway.0.said();
    assert!(!said.contains("WARN") && !said.contains("eth1"), "{said}");
    assert!(setup.gateway.0.ended().unwrap().is_none());
}

/// Frames for others that were queued before tapnat had the socket.
pub fn what_came_before_the_filter_is_forgotten() {
    let ready = Ready::new(Options::default());
    let host = ready.world.on("host");
    let socket = packet_socket(host, Type::RAW);
    let index = ready.world.link("host", UPLINK).unwrap().index;
    let all = LinkAddress::new(index, libc::ETH_P_ALL as u16);
    rustix::net::bind(&socket, &all).unwrap();
    let _ear = crate::lab_sockets::socket(host, at(HOST, 4000));
    let from = crate::lab_sockets::socket(ready.world.on("internet"), at(ROUTER, 0));
    for _ in 0..100 {
        from.send_to(&[1; 1000], at(HOST, 4000)).unwrap();
    }
    let number = socket.as_raw_fd().to_string();
    let setup = ready.start(&[], &["--uplink", "packet", "--raw-fd", &number]);
    assert_ping(setup.on("red"), SERVERS[0]);
    let stats =
        Command::new(PROGRAM).args(["stats", "--control"]).arg(setup.world.control()).output().unwrap();
    let stats = String::from_utf8(stats.stdout).unwrap();
    for word in ["not-our-address", "no-mapping", "bad-offload", "unsolicited"] {
        assert!(!stats.contains(word), "{word}: {stats}");
    }
    // The other holder sees nothing of what others get either: the filter is the socket's.
    from.send_to(&[1; 1000], at(HOST, 4000)).unwrap();
    let mut byte = [0; 1];
    let seen = rustix::net::recv(&socket, &mut byte[..], rustix::net::RecvFlags::DONTWAIT);
    assert!(seen.is_err(), "{seen:?}");
}

/// What the gateway says that does not start with these arguments.
fn refused(ready: &Ready, more: &[&str]) -> String {
    let words = ready.words(&[], more);
    let started = Product::start_unready(Path::new("setpriv"), ready.world.on("host"), &words);
    let mut product = started.unwrap();
    let status = product.wait(SOON).unwrap().expect("it does not start");
    let said = product.said();
    assert!(!status.success(), "{more:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

pub fn wrong_descriptors_are_refused_with_a_cure() {
    let ready = Ready::new(Options::default());
    let host = ready.world.on("host");
    let inherited = |fd: OwnedFd| {
        fcntl_setfd(&fd, FdFlags::empty()).unwrap();
        fd
    };
    let udp: OwnedFd = UdpSocket::bind("127.0.0.1:0")
        .map(OwnedFd::from)
        .unwrap_or_else(|_| host.run(|| UdpSocket::bind("127.0.0.1:0").unwrap().into()).unwrap());
    let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    let cooked = packet_socket(host, Type::DGRAM);
    let elsewhere = packet_socket(ready.world.on("internet"), Type::RAW);
    let bridge = packet_socket(host, Type::RAW);
    let index = ready.world.link("host", "to-red").unwrap().index;
    rustix::net::bind(&bridge, &LinkAddress::new(index, 0)).unwrap();
    let loopback = packet_socket(host, Type::RAW);
    rustix::net::bind(&loopback, &LinkAddress::new(1, 0)).unwrap();
    let (udp, file) = (inherited(udp), inherited(file));
    let good = packet_socket(host, Type::RAW);
    let outside: &[&str] = &["--outside", UPLINK];
    let lo: &[&str] = &["--external", "203.0.113.1"];
    let cases: [(i32, &[&str], &[&str]); 8] = [
        (udp.as_raw_fd(), &[], &["a socket of another family", "tapnat-raw"]),
        (file.as_raw_fd(), &[], &["it is no socket", "tapnat-raw"]),
        (cooked.as_raw_fd(), &[], &["SOCK_DGRAM", "tapnat-raw"]),
        (elsewhere.as_raw_fd(), &[], &["another network namespace"]),
        (999, &[], &["it is not open"]),
        (bridge.as_raw_fd(), outside, &["is bound to to-red", "--outside names eth0", "leave --outside out"]),
        (loopback.as_raw_fd(), lo, &["lo is not Ethernet"]),
        (good.as_raw_fd(), &["--guard", "tcx"], &["guard tcx", "CAP_BPF", "use --guard hold"]),
    ];
    for (number, more, want) in cases {
        let number = number.to_string();
        let mut words = vec!["--uplink", "packet", "--raw-fd", &number];
        words.extend(more);
        let said = refused(&ready, &words);
        for part in want {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
    let number = good.as_raw_fd().to_string();
    for uplink in ["raw", "sockets"] {
        let said = refused(&ready, &["--uplink", uplink, "--raw-fd", &number]);
        assert!(said.contains("another `uplink` than packet"), "{said}");
    }
    drop((udp, file, cooked, elsewhere, bridge, loopback, good));
}

/// Runs what follows with descriptors 3 and 4 as `sd_listen_fds(3)` has them.
const MANAGER: &str = "exec 3<&\"$1\" 4<&\"$2\"; export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=$3; \
                       shift 3; exec \"$@\"";

pub fn a_service_manager_hands_it_over() {
    let started = |names: &str, change: &str, more: &[&str]| {
        let ready = Ready::new(Options::default());
        let socket = packet_socket(ready.world.on("host"), Type::RAW);
        let number = socket.as_raw_fd().to_string();
        let mut words = ready.words(&[], &["--uplink", "auto"]);
        let at = words.iter().position(|word| word == "--tap-fd").unwrap();
        let tap = words[at + 1].clone();
        assert!(socket.as_raw_fd() > 4 && tap.parse::<i32>().unwrap() > 4);
        words.drain(at..at + 2);
        words.extend(more.iter().map(|&word| word.to_owned()));
        let script = MANAGER.replace("LISTEN_PID=$$", change);
        let program = words.iter().position(|word| word == PROGRAM).unwrap();
        let manager = ["bash", "-c", &script, "manager", &tap, &number, names].map(str::to_owned);
        words.splice(program..program, manager);
        let started = Product::start(Path::new("setpriv"), ready.world.on("host"), &words, SOON * 2);
        (started.map_err(|error| error.to_string()), ready)
    };
    let (product, ready) = started("tap:raw", "LISTEN_PID=$$", &[]);
    let product = product.unwrap();
    let chosen = "uplink packet: descriptor 4 was handed over";
    eventually(chosen, SOON, || product.said().contains(chosen));
    ready.world.on("host").run(|| set_sysctl("net/ipv4/ip_forward", "0").unwrap()).unwrap();
    assert!(matches!(ping(ready.world.on("red"), SERVERS[0], 1), Answer::Reply { .. }));
    assert_eq!(*seen_as(ready.world.on("red"), at(SERVERS[0], 80)).ip(), HOST);
    drop((product, ready));

    let why = |names, more: &[&str]| started(names, "LISTEN_PID=$$", more).0.map(drop).unwrap_err();
    assert!(why("tap:log", &[]).contains("called `log`, for which there is no use here"));
    assert!(why("tap", &[]).contains("LISTEN_FDNAMES names 1 descriptors, and LISTEN_FDS says 2"));
    assert!(why("tap:raw", &["--raw-fd", "9"]).contains("is given beside --raw-fd"));
    // What is for another process is not looked at: there is no TAP then that this one might open.
    let (other, _) = started("tap:raw", "LISTEN_PID=1", &[]);
    assert!(other.map(drop).unwrap_err().contains("TAP tapnat0"));
}
