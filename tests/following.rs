//! The real gateway on a host that changes under it: addresses, routes and links that come and go.
#![allow(clippy::unwrap_used)]

#[path = "support/lab_harness.rs"]
mod lab_harness;
#[path = "support/lab_setup.rs"]
#[allow(dead_code, reason = "each test program uses a part")]
mod lab_setup;

use lab_harness::Test;
use lab_setup::*;
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::Ipv4Addr;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use tapnat::lab::programs::http::Client;
use tapnat::lab::programs::icmp::{Answer, Ping};
use tapnat::lab::programs::now;
use tapnat::lab::topology::{End, HOST, Options, ROUTER, SERVERS, Wire, standard};

/// Another address of the host on the same wire.
const SECOND: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// The host, and the internet, on a second wire.
const OTHER: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 114, 1), Ipv4Addr::new(203, 0, 114, 254)];
/// The second wire's interface, on both ends.
const ETH1: &str = "eth1";

/// Forms of the gateway in which following may differ.
const FORMS: [Form; 2] = [PLAIN, Form { uplink: "raw", guard: "hold", tap: "auto" }];

/// A lab with a second wire to the internet, and a gateway in it that names no interface and no address.
struct Moving {
    setup: Setup,
    events: Events,
}

impl Moving {
    fn new(form: Form, more: &[&str]) -> Moving {
        let mut topology = standard(Options::default());
        let end = |host, ip: Ipv4Addr| End {
            host,
            interface: ETH1,
            address: Some(ipnet::Ipv4Net::new(ip, 24).unwrap()),
            bridge: None,
        };
        let ends = [end("host", OTHER[0]), end("internet", OTHER[1])];
        topology.wires.push(Wire { ends, mtu: 1500, offloads: true });
        let world = World::of(&topology);
        let words = world.arguments(form, more);
        // Nothing is named that can be followed.
        let at = words.iter().position(|word| word == "--outside").unwrap();
        let words: Vec<String> = [&words[..at], &words[at + 2..]].concat();
        let host = world.on("host");
        let program = std::path::Path::new(PROGRAM);
        let gateway = tapnat::lab::product::Product::start(program, host, &words, SOON * 2).unwrap();
        let setup = Setup { gateway: Gateway(gateway), world };
        let events = Events::of(&setup);
        Moving { setup, events }
    }

    fn ip(&self, words: &str) {
        let mut command = Command::new("ip");
        command.args(words.split_whitespace());
        self.setup.on("host").confine(&mut command);
        assert!(command.status().unwrap().success(), "ip {words}");
    }

    fn connect(&self) -> Client {
        self.setup.on("red").run(|| Client::connect(at(SERVERS[0], 80), SOON).unwrap()).unwrap()
    }

    /// Under which address the world sees a new flow of a container.
    fn seen(&self) -> Ipv4Addr {
        *seen_as(self.setup.on("red"), at(SERVERS[0], 80)).ip()
    }

    /// Waits until new flows have this address.
    fn wait_until_seen_as(&self, ip: Ipv4Addr) {
        eventually(&format!("seen as {ip}"), SOON * 4, || {
            let page = page(self.setup.on("red"), at(SERVERS[0], 80), "/");
            page.is_ok_and(|page| *peer_of(&page).ip() == ip)
        });
    }
}

/// What `tapnat events` says, line by line.
struct Events {
    child: Child,
    lines: Receiver<String>,
    said: std::cell::RefCell<Vec<String>>,
}

impl Events {
    fn of(setup: &Setup) -> Events {
        let mut command = Command::new(PROGRAM);
        command.args(["events", "--kinds", "note,opened", "--json", "--control"]).arg(setup.world.control());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).for_each(|line| drop(send.send(line)));
        });
        // The subscription stands when a flow that was opened is heard of.
        eventually("the subscription", SOON * 2, || {
            let ask = || tapnat::lab::programs::udp::ask(at(SERVERS[0], 7), b"?", SOON).unwrap();
            setup.on("red").run(ask).unwrap();
            lines.recv_timeout(Duration::from_millis(50)).is_ok()
        });
        Events { child, lines, said: Default::default() }
    }

    /// Waits for an event of this word that has `text` in it, after those that were waited for before.
    fn wait(&self, word: &str, text: &str) {
        let wanted = |line: &String| line.contains(&format!("\"{word}\"")) && line.contains(text);
        let until = now() + SOON;
        loop {
            let line = self.lines.recv_timeout(until.saturating_duration_since(now()));
            let line = line.unwrap_or_else(|_| panic!("no {word} {text} in {:#?}", self.said.borrow()));
            let found = wanted(&line);
            self.said.borrow_mut().push(line);
            if found {
                return;
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for the end of a connection that nothing is sent on; how it ended.
fn end_of(client: &mut Client) -> ErrorKind {
    let start = now();
    let error = loop {
        match client.get("/") {
            Err(error) => break error,
            Ok(_) => assert!(now() - start < SOON, "the connection goes on"),
        }
    };
    assert!(now() - start < Duration::from_secs(2), "told only after {:?}", now() - start);
    error.kind()
}

fn addresses_come_and_go(form: Form) {
    let moving = Moving::new(form, &["--publish", "8080:10.88.0.2:80/tcp"]);
    let _web = tapnat::lab::programs::http::serve(
        moving.setup.on("red"),
        at(tapnat::lab::topology::CONTAINERS[0], 80),
    )
    .unwrap();
    // Else the kernel drops all addresses of a subnet with the first one.
    let promote = || tapnat::lab::netns::set_sysctl("net/ipv4/conf/all/promote_secondaries", "1");
    moving.setup.on("host").run(promote).unwrap().unwrap();
    let mut old = moving.connect();
    assert_eq!(*peer_of(&old.get("/").unwrap()).ip(), HOST);

    moving.ip(&format!("addr add {SECOND}/24 dev eth0"));
    moving.events.wait("address-gained", &SECOND.to_string());
    assert_eq!(*seen_as(moving.setup.on("internet"), at(SECOND, 8080)).ip(), ROUTER, "published there too");
    assert_eq!(*peer_of(&old.get("/").unwrap()).ip(), HOST, "old flows keep their address");

    // The other one becomes the first, and is alone: its flow ends at once, that of the new one does not.
    moving.ip(&format!("addr del {HOST}/24 dev eth0"));
    moving.events.wait("address-lost", &HOST.to_string());
    let start = now();
    assert_eq!(end_of(&mut old), ErrorKind::ConnectionReset);
    println!("    told {} ms after the event", (now() - start).as_millis());
    moving.ip(&format!("route replace default via {ROUTER}"));
    moving.wait_until_seen_as(SECOND);
    let mut new = moving.connect();
    assert_eq!(*peer_of(&new.get("/").unwrap()).ip(), SECOND);

    // Back again.
    moving.ip(&format!("addr add {HOST}/24 dev eth0"));
    moving.events.wait("address-gained", &HOST.to_string());
    assert_eq!(*peer_of(&new.get("/").unwrap()).ip(), SECOND, "flows of the other address are unharmed");
    assert!([HOST, SECOND].contains(&moving.seen()));
}

fn connections_of_sockets_end_with_their_address() {
    let moving = Moving::new(Form { uplink: "sockets", guard: "auto", tap: "auto" }, &[]);
    let promote = || tapnat::lab::netns::set_sysctl("net/ipv4/conf/all/promote_secondaries", "1");
    moving.setup.on("host").run(promote).unwrap().unwrap();
    let mut old = moving.connect();
    assert_eq!(*peer_of(&old.get("/").unwrap()).ip(), HOST);
    // Without any address nothing ends: it comes back.
    moving.ip(&format!("addr del {HOST}/24 dev eth0"));
    std::thread::sleep(Duration::from_millis(300));
    moving.ip(&format!("addr add {HOST}/24 dev eth0"));
    moving.ip(&format!("route replace default via {ROUTER}"));
    assert_eq!(*peer_of(&old.get("/").unwrap()).ip(), HOST);
    // With another one in its place, nothing would ever come back.
    moving.ip(&format!("addr add {SECOND}/24 dev eth0"));
    moving.ip(&format!("addr del {HOST}/24 dev eth0"));
    moving.ip(&format!("route replace default via {ROUTER}"));
    moving.events.wait("source-lost", &HOST.to_string());
    assert_eq!(end_of(&mut old), ErrorKind::ConnectionReset);
    moving.wait_until_seen_as(SECOND);
}

fn the_last_address_is_waited_for(form: Form) {
    let moving = Moving::new(form, &[]);
    let mut old = moving.connect();
    let port = peer_of(&old.get("/").unwrap()).port();
    moving.ip(&format!("addr del {HOST}/24 dev eth0"));
    moving.events.wait("route-lost", "IPv4");
    let answer = || Ping::new(SERVERS[0], 7).send(SOON).unwrap_or(Answer::Silence);
    let answer = moving.setup.on("red").run(answer).unwrap();
    assert!(
        !matches!(answer, Answer::Reply { .. } | Answer::Silence),
        "told that there is no way: {answer:?}"
    );
    moving.ip(&format!("addr add {HOST}/24 dev eth0"));
    moving.ip(&format!("route add default via {ROUTER}"));
    moving.events.wait("route-back", "IPv4");
    assert_eq!(peer_of(&old.get("/").unwrap()).port(), port, "the flow goes on as it was");
    assert_ping(moving.setup.on("blue"), SERVERS[0]);
}

fn the_way_out_moves_and_flows_stay(form: Form) {
    let mut moving = Moving::new(form, &[]);
    let mut old = moving.connect();
    assert_eq!(*peer_of(&old.get("/").unwrap()).ip(), HOST);
    // As a laptop does that is plugged in: another default route, and the first one behind it.
    moving.ip(&format!("route add default via {} dev eth1 metric 10", OTHER[1]));
    moving.ip("route del default via 203.0.113.254 dev eth0");
    moving.ip("route add default via 203.0.113.254 dev eth0 metric 600");
    moving.events.wait("way-changed", ETH1);
    moving.wait_until_seen_as(OTHER[0]);
    for _ in 0..3 {
        assert_eq!(*peer_of(&old.get("/bytes/0").map(|_| old.get("/").unwrap()).unwrap()).ip(), HOST);
    }
    let mut new = moving.connect();
    assert_eq!(*peer_of(&new.get("/").unwrap()).ip(), OTHER[0]);

    // And back; then the second wire is pulled.
    moving.ip("route add default via 203.0.113.254 dev eth0 metric 5");
    moving.wait_until_seen_as(HOST);
    assert_eq!(*peer_of(&old.get("/").unwrap()).ip(), HOST);
    assert_eq!(*peer_of(&new.get("/").unwrap()).ip(), OTHER[0], "it goes on by the second wire");
    moving.ip("addr flush dev eth1");
    moving.events.wait("address-lost", &OTHER[0].to_string());
    assert_eq!(end_of(&mut new), ErrorKind::ConnectionReset);
    assert_eq!(*peer_of(&old.get("/").unwrap()).ip(), HOST);
    moving.setup.assert_running();
    moving.setup.world.assert_checksums_right();
}

fn a_link_that_flaps_harms_nothing(form: Form) {
    let mut moving = Moving::new(form, &[]);
    let mut old = moving.connect();
    let port = peer_of(&old.get("/").unwrap()).port();
    for _ in 0..3 {
        moving.ip("link set eth0 down");
        moving.events.wait("route-lost", "IPv4");
        moving.ip("link set eth0 up");
        moving.ip(&format!("route add default via {ROUTER}"));
        moving.events.wait("route-back", "IPv4");
    }
    // And quicker than anybody may notice.
    moving.ip("link set eth0 down");
    moving.ip("link set eth0 up");
    moving.ip(&format!("route add default via {ROUTER}"));
    eventually("a ping again", SOON * 2, || {
        let ping = || Ping::new(SERVERS[0], 9).send(Duration::from_millis(300)).unwrap_or(Answer::Silence);
        matches!(moving.setup.on("blue").run(ping).unwrap(), Answer::Reply { .. })
    });
    assert_eq!(peer_of(&old.get("/").unwrap()).port(), port, "the flow goes on as it was");
    moving.setup.assert_running();
}

fn what_is_named_is_not_followed() {
    let moving = Moving::new(PLAIN, &["--external", "203.0.113.1"]);
    moving.ip(&format!("addr add {SECOND}/24 dev eth0"));
    std::thread::sleep(Duration::from_millis(500));
    for _ in 0..4 {
        assert_eq!(moving.seen(), HOST);
    }
    let said = moving.setup.gateway.0.said();
    assert!(!said.contains(&SECOND.to_string()), "{said}");
}

/// What the host has become may not go with the settings: that is told once, and so is its end.
fn what_cannot_be_followed_is_told() {
    let moving = Moving::new(PLAIN, &[]);
    moving.ip("address add 10.88.0.200/24 dev eth0");
    let said = |text: &str| moving.setup.gateway.0.said().matches(text).count();
    eventually("it is told", SOON * 4, || said("the host is not followed: ") == 1);
    assert_ping(moving.setup.on("red"), SERVERS[0]);
    moving.ip("address del 10.88.0.200/24 dev eth0");
    eventually("and that it is over", SOON * 4, || said("the host is followed again") == 1);
    assert_eq!(said("the host is not followed: "), 1);
}

/// A test that takes a form of the gateway, by its name.
type Named = (&'static str, fn(Form));

const EVERY_FORM: [Named; 4] = [
    ("addresses_come_and_go", addresses_come_and_go),
    ("the_last_address_is_waited_for", the_last_address_is_waited_for),
    ("the_way_out_moves_and_flows_stay", the_way_out_moves_and_flows_stay),
    ("a_link_that_flaps_harms_nothing", a_link_that_flaps_harms_nothing),
];

fn tests() -> Vec<Test> {
    let named = "what_is_named_is_not_followed".to_owned();
    let mut all = vec![Test { name: named, run: Box::new(what_is_named_is_not_followed), impossible: None }];
    let sockets = connections_of_sockets_end_with_their_address;
    let name = "connections_of_sockets_end_with_their_address".to_owned();
    all.push(Test { name, run: Box::new(sockets), impossible: None });
    let name = "what_cannot_be_followed_is_told".to_owned();
    all.push(Test { name, run: Box::new(what_cannot_be_followed_is_told), impossible: None });
    for form in FORMS {
        for (name, test) in EVERY_FORM {
            all.push(Test {
                name: format!("{name}/{form}"),
                run: Box::new(move || test(form)),
                impossible: None,
            });
        }
    }
    all
}

fn main() -> ExitCode {
    lab_harness::main(tests)
}
