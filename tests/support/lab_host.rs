//! The host that the gateway runs on: its own programs, ports and stack must not notice it, and must
//! be left as they were.

use crate::lab_setup::*;
use socket2::{Domain, Socket, Type};
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;
use tapnat::io::netlink::Netlink;
use tapnat::lab::product::Product;
use tapnat::lab::programs::http::{self, Client};
use tapnat::lab::programs::icmp::Answer;
use tapnat::lab::programs::now;
use tapnat::lab::topology::{BRIDGE, CONTAINERS, HOST, Options, ROUTER, SERVERS, UPLINK};

/// Connections in a row.
const MANY: usize = 10_000;

pub fn many_connections_beside_the_hosts_own(form: Form) {
    let setup = Setup::plain(form);
    let before = setup.world.complaints();
    let busy = |server| {
        move || {
            for number in 0..MANY {
                let page = http::get(server, "/bytes/100", SOON);
                page.unwrap_or_else(|error| panic!("connection {number} to {server}: {error}"));
            }
        }
    };
    let own = setup.on("host").spawn("host's own", busy(at(SERVERS[1], 80))).unwrap();
    setup.on("red").run(busy(at(SERVERS[0], 80))).unwrap();
    own.join().unwrap();
    // Late segments of the last connections may still be on their way.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(setup.world.complaints(), before, "the host answered what was not its own");
    setup.world.assert_checksums_right();
}

/// With a small range, half of it in use by the host, containers get only the other half.
pub fn ports_of_the_host_are_never_given(form: Form) {
    let world = World::new(Options::default());
    let taken: Vec<u16> = (61000..61032).step_by(2).collect();
    let (tcp, udp): (Vec<_>, Vec<_>) = world
        .on("host")
        .run(|| {
            let open = |&port: &u16| {
                (TcpListener::bind((HOST, port)).unwrap(), UdpSocket::bind(("0.0.0.0", port)).unwrap())
            };
            taken.iter().map(open).unzip()
        })
        .unwrap();
    let gateway = world.gateway(form, &["--ports", "61000-61031"]);
    let setup = Setup { gateway, world };
    let clients: Vec<Client> = setup
        .on("red")
        .run(|| (0..10).map(|_| Client::connect(at(SERVERS[0], 80), SOON).unwrap()).collect())
        .unwrap();
    for mut client in clients {
        let port = peer_of(&client.get("/").unwrap()).port();
        assert!((61001..=61031).contains(&port) && port % 2 == 1, "port {port} is not ours to give");
    }
    drop((tcp, udp));
}

pub fn our_ports_are_refused_to_host_programs(form: Form) {
    let setup = Setup::plain(form);
    let mut client = setup.on("red").run(|| Client::connect(at(SERVERS[0], 80), SOON).unwrap()).unwrap();
    let port = peer_of(&client.get("/").unwrap()).port();
    for ip in ["0.0.0.0".parse().unwrap(), HOST] {
        let bound = setup.on("host").run(|| TcpListener::bind((ip, port)).map(drop)).unwrap();
        assert_eq!(bound.map_err(|error| error.kind()), Err(ErrorKind::AddrInUse), "TCP {ip}:{port}");
    }
    assert_eq!(client.get("/").unwrap().status, 200);
}

pub fn killed_gateway_leaves_a_healthy_host(form: Form) {
    // A machine that is busy just then needs longer: one of three is in time.
    let mut seen = Vec::new();
    let in_time = (0..3).any(|_| {
        seen.push(healthy_after_a_kill(form));
        seen.last().is_some_and(|took| *took < Duration::from_secs(1))
    });
    assert!(in_time, "{seen:?} until the host answered normally");
}

/// How long it takes after a kill until the host answers normally, which it does in the end.
fn healthy_after_a_kill(form: Form) -> Duration {
    let mut setup = Setup::plain(form);
    let mut client = setup.on("red").run(|| Client::connect(at(SERVERS[0], 80), SOON).unwrap()).unwrap();
    let port = peer_of(&client.get("/").unwrap()).port();
    let start = now();
    setup.gateway.0.kill().unwrap();
    let host = setup.on("host");
    eventually("the kernel cleans up", SOON, || {
        setup.world.link("host", TAP).is_none()
            && setup
                .on("internet")
                .run(|| TcpStream::connect_timeout(&at(HOST, port).into(), Duration::from_millis(200)))
                .unwrap()
                .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    let took = now() - start;
    println!("    healthy {} ms after SIGKILL", took.as_millis());
    assert!(host.run(|| TcpListener::bind((HOST, port)).is_ok()).unwrap(), "port {port} is still taken");
    assert_eq!(page(host, at(SERVERS[0], 80), "/").unwrap().status, 200);
    assert_ping(host, SERVERS[0]);
    took
}

/// A few connections of a container, and the ports they are seen with.
fn connections(setup: &Setup, container: &str, count: usize) -> (Vec<Client>, BTreeSet<u16>) {
    let open = || (0..count).map(|_| Client::connect(at(SERVERS[0], 80), SOON).unwrap()).collect();
    let mut clients: Vec<Client> = setup.on(container).run(open).unwrap();
    let ports = clients.iter_mut().map(|client| peer_of(&client.get("/").unwrap()).port()).collect();
    (clients, ports)
}

/// Of 32 ports ten are in use when the gateway is killed; the next one gives the others.
pub fn ports_in_use_at_a_kill_rest_after_the_restart(form: Form) {
    // The containers go on asking the MAC that they know.
    const RANGE: [&str; 4] = ["--ports", "61000-61031", "--mac", "02:00:00:00:00:01"];
    let mut setup = Setup::new(form, Options::default(), &RANGE);
    let (_clients, before) = connections(&setup, "red", 10);
    assert_eq!(before.len(), 10);
    setup.gateway.0.kill().unwrap();
    setup.gateway = setup.world.gateway(form, &RANGE);
    assert_ping(setup.on("blue"), SERVERS[0]);
    let (_clients, after) = connections(&setup, "blue", 20);
    assert!(before.is_disjoint(&after), "{before:?} and then {after:?}");
    let rest = "10 ports of an earlier run rest";
    eventually(rest, SOON, || setup.gateway.0.said().contains(rest));
    // Without its memory it starts all the same, and says so.
    let log = setup.world.control().with_extension("ports");
    setup.gateway.0.kill().unwrap();
    std::fs::remove_file(&log).unwrap();
    std::fs::write(&log, "somebody's letter").unwrap();
    setup.gateway = setup.world.gateway(form, &RANGE);
    assert_ping(setup.on("blue"), SERVERS[0]);
    let foreign = "is not a log of ports";
    eventually(foreign, SOON, || setup.gateway.0.said().contains(foreign));
    assert_eq!(std::fs::read(&log).unwrap(), b"somebody's letter");
}

/// A container that speaks from a port below 1024 is heard from one, leased for it alone.
pub fn low_ports_are_leased_when_they_are_needed(form: Form) {
    let setup = Setup::plain(form);
    let ask = |port: u16| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
        socket.bind(&any.into()).unwrap();
        socket.connect_timeout(&at(SERVERS[0], 80).into(), SOON).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        let peer = page.split("hello ").nth(1).unwrap().trim();
        peer.parse::<SocketAddrV4>().unwrap().port()
    };
    for port in [700, 701, 702] {
        let seen = setup.on("red").run(|| ask(port)).unwrap();
        assert!((512..1024).contains(&seen) && seen % 2 == port % 2, "{port} is seen as {seen}");
        let bound = setup.on("host").run(|| TcpListener::bind((HOST, seen)).map(drop)).unwrap();
        assert_eq!(bound.map_err(|error| error.kind()), Err(ErrorKind::AddrInUse), "TCP {seen}");
    }
}

pub fn containers_reach_the_hosts_own_services(form: Form) {
    let setup = Setup::plain(form);
    let before = setup.world.complaints();
    let _server = http::serve(setup.on("host"), at(HOST, 8080)).unwrap();
    for container in ["red", "blue"] {
        let download = page(setup.on(container), at(HOST, 8080), "/bytes/3000000").unwrap();
        assert_eq!(download.length, 3_000_000);
        assert_ping(setup.on(container), HOST);
    }
    assert_eq!(setup.world.complaints(), before);
    setup.world.assert_checksums_right();
}

pub fn sigterm_leaves_nothing_behind(form: Form) {
    const FRESH: &str = "fresh0";
    let world = World::new(Options::default());
    let before = (links(&world), world.complaints());
    let mut gateway = world.gateway(form, &["--bridge", FRESH]);
    assert!(world.link("host", FRESH).is_some() && world.link("host", TAP).is_some());
    assert_eq!(world.link("host", TAP).unwrap().master, world.link("host", FRESH).map(|link| link.index));
    assert!(world.control().exists());
    let status = gateway.0.terminate(SOON).unwrap().expect("it ends when it is asked to");
    assert_eq!((status.code(), status.signal()), (Some(0), None));
    assert_eq!((links(&world), world.complaints()), before);
    assert!(!world.control().exists(), "the control socket is still there");
    // A bridge that it found it leaves.
    let mut gateway = world.gateway(form, &[]);
    gateway.0.terminate(SOON).unwrap().expect("it ends when it is asked to");
    assert_eq!(links(&world), before.0);
    assert!(world.link("host", BRIDGE).is_some());
}

fn links(world: &World) -> Vec<String> {
    let links = world.on("host").run(|| Netlink::open().unwrap().links().unwrap()).unwrap();
    links.into_iter().map(|link| link.name).collect()
}

pub fn second_gateway_on_one_tap_is_told(form: Form) {
    let mut setup = Setup::plain(form);
    let other = setup.world.folder.path().join("other");
    let mut arguments = setup.world.arguments(form, &[]);
    arguments[2] = other.to_str().unwrap().into();
    let mut second = Product::start_unready(Path::new(PROGRAM), setup.on("host"), &arguments).unwrap();
    let status = second.wait(SOON).unwrap().expect("the second one ends");
    let said = second.said();
    assert_eq!(status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains(TAP), "{said}");
    setup.assert_running();
    assert_ping(setup.on("red"), SERVERS[0]);
}

/// What cannot be is said in one line that names it, and nothing is left behind.
pub fn impossible_wishes_are_refused_in_one_line(form: Form) {
    let world = World::new(Options::default());
    let before = links(&world);
    let wishes: [(&[&str], &str); 6] = [
        (&["--outside", "nope0"], "nope0"),
        (&["--bridge", "eth0"], "eth0"),
        (&["--inside", "203.0.113.9/24"], "203.0.113"),
        (&["--uplink", "raw", "--guard", "tcx"], "tcx"),
        (&["--uplink", "raw", "--guard", "hold", "--exempt", "198.51.100.8"], "exempt 198.51.100.8"),
        (&["--external", "203.0.113.77", "--guard", "hold"], "203.0.113.77: not an address of this host"),
    ];
    for (wish, name) in wishes {
        let arguments = world.arguments(form, wish);
        let mut gateway = Product::start_unready(Path::new(PROGRAM), world.on("host"), &arguments).unwrap();
        let status = gateway.wait(SOON).unwrap();
        let said = gateway.said();
        assert!(
            matches!(status.and_then(|status| status.code()), Some(1 | 2)),
            "{wish:?}: {status:?}; {said}"
        );
        assert_eq!(said.lines().count(), 1, "{wish:?}: {said}");
        assert!(said.contains(name), "{wish:?}: {said}");
        assert_eq!(links(&world), before, "{wish:?} left something behind");
        assert!(!world.control().exists(), "{wish:?} left its control socket behind");
    }
}

pub fn what_was_chosen_is_said_on_one_line(form: Form) {
    let setup = Setup::plain(form);
    let chosen = format!("; uplink {}: asked for; guard {}: asked for", form.uplink, form.guard);
    let on_its_line =
        |said: &str| said.lines().any(|line| line.contains("serving ") && line.contains(&chosen));
    eventually(&chosen, SOON, || on_its_line(&setup.gateway.0.said()));
    drop(setup);

    let foreign = ["--external", "203.0.113.77", "--guard", "off", "--uplink", "auto"];
    let world = World::new(Options::default());
    let gateway = world.gateway(form, &foreign);
    let chosen = "; uplink packet: super-frames pass whole; guard off: asked for";
    eventually(chosen, SOON, || gateway.0.said().contains(chosen));
}

pub fn nothing_is_logged_of_who_talks_to_whom() {
    let setup = Setup::plain(PLAIN);
    assert_ping(setup.on("red"), SERVERS[0]);
    assert_eq!(page(setup.on("blue"), at(SERVERS[1], 80), "/bytes/1000").unwrap().length, 1000);
    let said = setup.gateway.0.said();
    for address in SERVERS.iter().chain(&CONTAINERS) {
        assert!(!said.contains(&address.to_string()), "{said}");
    }
}

pub fn pool_addresses_are_answered_for_outside() {
    let pool = [Ipv4Addr::new(203, 0, 113, 77), Ipv4Addr::new(203, 0, 113, 78)];
    let [first, second] = pool.map(|address| address.to_string());
    let world = World::new(Options::default());
    let setup = Setup {
        gateway: world.gateway(PLAIN, &["--external", &first, "--external", &second, "--guard", "off"]),
        world,
    };
    let answering = "answering ARP for 203.0.113.77, 203.0.113.78 on eth0";
    eventually(answering, SOON, || setup.gateway.0.said().contains(answering));
    for container in ["red", "blue"] {
        assert_ping(setup.on(container), SERVERS[0]);
        let seen: Vec<_> = (0..5).map(|_| *seen_as(setup.on(container), at(SERVERS[0], 80)).ip()).collect();
        assert!(pool.contains(&seen[0]) && seen.iter().all(|ip| *ip == seen[0]), "paired pooling: {seen:?}");
    }
}

pub fn outside_interface_down_and_up_again(form: Form) {
    let mut setup = Setup::plain(form);
    assert_ping(setup.on("red"), SERVERS[0]);
    let host = setup.on("host");
    let index = setup.world.link("host", UPLINK).unwrap().index;
    host.run(|| Netlink::open().unwrap().set_up(index, false).unwrap()).unwrap();
    std::thread::sleep(Duration::from_millis(700));
    host.run(|| {
        let netlink = Netlink::open().unwrap();
        netlink.set_up(index, true).unwrap();
        // The kernel drops the route with the interface.
        netlink.add_default_route(IpAddr::V4(ROUTER)).unwrap();
    })
    .unwrap();
    let mut sequence = 2;
    let took = eventually("ping after the interface is back", Duration::from_secs(10), || {
        sequence += 1;
        matches!(short_ping(&setup, sequence), Answer::Reply { .. })
    });
    println!("    recovered in {} ms", took.as_millis());
    setup.assert_running();
    assert_eq!(page(setup.on("blue"), at(SERVERS[0], 80), "/bytes/100000").unwrap().length, 100_000);
}

fn short_ping(setup: &Setup, sequence: u16) -> Answer {
    use tapnat::lab::programs::icmp::Ping;
    let ping = Ping::new(SERVERS[0], sequence);
    setup.on("red").run(|| ping.send(Duration::from_millis(300)).unwrap_or(Answer::Silence)).unwrap()
}

pub fn idle_gateway_uses_no_processor(form: Form) {
    let setup = Setup::plain(form);
    assert_ping(setup.on("red"), SERVERS[0]);
    std::thread::sleep(Duration::from_millis(500));
    let id = setup.gateway.0.id();
    let before = ticks(id);
    std::thread::sleep(Duration::from_secs(3));
    let used = ticks(id) - before;
    let resident = status_kib(id, "VmRSS:");
    println!("    {used} ticks of 10 ms in 3 s, {resident} KiB resident");
    assert!(used <= 1, "{used} ticks used while idle");
    assert!(resident < 25 * 1024, "{resident} KiB resident");
}

/// Processor time of a process in ticks, in user and kernel mode.
fn ticks(id: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn status_kib(id: u32, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
