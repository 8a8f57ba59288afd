//! Floods of bad packets from a container and from the world: are they left unread, and everybody else
//! served?
#![allow(clippy::unwrap_used)]

#[path = "support/lab_harness.rs"]
mod lab_harness;
#[path = "support/lab_setup.rs"]
#[allow(dead_code, reason = "each test program uses a part")]
mod lab_setup;

use lab_harness::Test;
use lab_setup::*;
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;
use tapnat::io::netlink::{LinkFacts, Netlink};
use tapnat::io::sys::netns::Netns;
use tapnat::io::sys::wiretap::Wiretap;
use tapnat::lab::product::Product;
use tapnat::lab::programs::http::Client;
use tapnat::lab::programs::icmp::{Answer, Ping};
use tapnat::lab::programs::now;
use tapnat::lab::selftest::packet::{at as end, udp};
use tapnat::lab::topology::{HOST, Options, SERVERS, UPLINK};
use tapnat::wire::MacAddr;
use tapnat::wire::ethernet::{Frame, IPV4};

const FORMS: [Form; 2] = [PLAIN, Form { uplink: "raw", guard: "hold", tap: "auto" }];
/// As long as this may pass until a slow machine has sent enough.
const PATIENCE: Duration = Duration::from_secs(20);
/// Frames that are handed to the kernel at once, as many with other contents.
const BATCH: u16 = 64;

/// A frame for each number, with the packet that is made of it.
fn frames(source: [u8; 6], destination: [u8; 6], packet: impl Fn(u16) -> Vec<u8>) -> Vec<Vec<u8>> {
    let (source, destination) = (MacAddr(source), MacAddr(destination));
    let header = Frame { destination, source, ethertype: IPV4 }.to_bytes();
    (0..BATCH).map(|n| [&header[..], &packet(n)].concat()).collect()
}

fn mac_of(host: &Netns) -> (u32, [u8; 6]) {
    let link = host.run(|| Netlink::open().unwrap().link(UPLINK).unwrap().unwrap()).unwrap();
    (link.index, link.mac)
}

/// Sends the frames over and over, as fast as the kernel takes them, until it is `over`.
fn flood(host: &Netns, frames: &[Vec<u8>], over: &AtomicBool) {
    let (index, _) = mac_of(host);
    host.run(|| flood_by(index, frames, over)).unwrap();
}

/// The same by an interface of this thread's namespace.
fn flood_by(index: u32, frames: &[Vec<u8>], over: &AtomicBool) {
    let wire = Wiretap::open_to_send(index).unwrap();
    while !over.load(Relaxed) {
        match wire.send_all(frames) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
            // The interface's queue is full.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// What `tapnat events` says of the gateway itself.
struct Notes {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Notes {
    fn of(setup: &Setup) -> Notes {
        let mut command = Command::new(PROGRAM);
        command.args(["events", "--kinds", "note,opened", "--json", "--control"]).arg(setup.world.control());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = std::sync::mpsc::channel();
        thread::spawn(move || output.lines().map_while(Result::ok).for_each(|line| drop(send.send(line))));
        // The subscription stands when a flow that was opened is heard of.
        eventually("the subscription", SOON * 2, || {
            let ask = || tapnat::lab::programs::udp::ask(at(SERVERS[0], 7), b"?", SOON).unwrap();
            setup.on("red").run(ask).unwrap();
            lines.recv_timeout(Duration::from_millis(50)).is_ok()
        });
        Notes { child, lines }
    }

    /// Waits for a note of this word that has `text` in it.
    fn wait(&self, word: &str, text: &str) {
        let until = now() + PATIENCE;
        loop {
            let line = self.lines.recv_timeout(until.saturating_duration_since(now()));
            let line = line.unwrap_or_else(|_| panic!("no note {word} {text}"));
            if line.contains(&format!("\"{word}\"")) && line.contains(text) {
                return;
            }
        }
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn counter(setup: &Setup, name: &str) -> u64 {
    let output =
        Command::new(PROGRAM).args(["stats", "--json", "--control"]).arg(setup.world.control()).output();
    let stats: serde_json::Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    stats["links"][name].as_u64().unwrap_or_else(|| panic!("no counter {name} in {stats:#}"))
}

/// Floods from `sender` until a note about it that names `who` has come and others were served meanwhile.
fn others_are_served(setup: &mut Setup, sender: &str, frames: &[Vec<u8>], who: &str, counted: &str) {
    let notes = Notes::of(setup);
    let red = setup.on("red");
    let mut old = red.run(|| Client::connect(at(SERVERS[0], 80), SOON).unwrap()).unwrap();
    let over = AtomicBool::new(false);
    assert_eq!(counter(setup, counted), 0);
    thread::scope(|scope| {
        scope.spawn(|| flood(setup.on(sender), frames, &over));
        let end = End(&over);
        notes.wait("flood", who);
        for _ in 0..5 {
            assert_eq!(old.get("/").unwrap().status, 200, "a connection goes on");
            assert_eq!(page(red, at(SERVERS[0], 80), "/").unwrap().status, 200, "connections are made");
        }
        // The kernel's queue on the way may be full of the flood now and then.
        eventually("a ping is answered", PATIENCE, || {
            let ping = || Ping::new(SERVERS[0], 1).send(Duration::from_secs(1)).unwrap();
            matches!(red.run(ping).unwrap(), Answer::Reply { .. })
        });
        eventually("what was left is counted", PATIENCE, || counter(setup, counted) > 0);
        drop(end);
    });
    notes.wait("flood-over", who);
    assert_eq!(old.get("/").unwrap().status, 200);
    if sender != "internet" {
        assert_ping(setup.on(sender), SERVERS[0]);
    }
    setup.assert_running();
}

/// Says that it is over, whatever happens meanwhile.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

fn of_who_floods_inside_little_is_read(form: Form) {
    let mut setup = Setup::new(form, Options::default(), &["--mac", "02:00:00:00:00:01"]);
    assert_ping(setup.on("blue"), SERVERS[0]);
    let (_, blue) = mac_of(setup.on("blue"));
    let spoofed = |n| udp(end(SERVERS[1], 1000 + n), end(SERVERS[0], 9)).bytes();
    let frames = frames(blue, [2, 0, 0, 0, 0, 1], spoofed);
    let who = MacAddr(blue).to_string();
    others_are_served(&mut setup, "blue", &frames, &who, "flood: inside-left-unread-about");
}

fn of_a_flood_from_outside_what_is_in_use_is_read(form: Form) {
    let mut setup = Setup::plain(form);
    let [(_, internet), (_, host)] = ["internet", "host"].map(|name| mac_of(setup.on(name)));
    let unasked = |n| udp(end(SERVERS[1], 9), end(HOST, 40_000 + n)).bytes();
    let frames = frames(internet, host, unasked);
    others_are_served(&mut setup, "internet", &frames, "uplink", "flood: outside-left-unread-about");
}

fn a_prepared_tap_is_read_whole() {
    let world = World::new(Options::default());
    let add = || {
        let mut command = Command::new("ip");
        command.args(["tuntap", "add", "dev", TAP, "mode", "tap"]).status().unwrap()
    };
    assert!(world.on("host").run(add).unwrap().success());
    let gateway = world.gateway(PLAIN, &["--mac", "02:00:00:00:00:01"]);
    let mut setup = Setup { gateway, world };
    let (_, blue) = mac_of(setup.on("blue"));
    let frames =
        frames(blue, [2, 0, 0, 0, 0, 1], |n| udp(end(SERVERS[1], 1000 + n), end(SERVERS[0], 9)).bytes());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| flood(setup.on("blue"), &frames, &over));
        let end = End(&over);
        eventually("all its frames are read", PATIENCE, || {
            setup.gateway.0.said().contains("a flood from inside, and all its frames are read")
        });
        drop(end);
    });
    assert_eq!(counter(&setup, "flood: inside-left-unread-about"), 0);
    assert_ping(setup.on("blue"), SERVERS[0]);
    setup.assert_running();
}

fn a_tap_made_again_is_read_whole() {
    let mut setup = Setup::new(PLAIN, Options::default(), &["--mac", "02:00:00:00:00:01"]);
    assert_ping(setup.on("blue"), SERVERS[0]);
    let (_, blue) = mac_of(setup.on("blue"));
    let spoofed = |n| udp(end(SERVERS[1], 1000 + n), end(SERVERS[0], 9)).bytes();
    let frames = frames(blue, [2, 0, 0, 0, 0, 1], spoofed);
    let notes = Notes::of(&setup);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| flood(setup.on("blue"), &frames, &over));
        let end = End(&over);
        notes.wait("flood", &MacAddr(blue).to_string());
        let delete = || {
            let netlink = Netlink::open().unwrap();
            netlink.delete(netlink.link(TAP).unwrap().unwrap().index).unwrap();
        };
        setup.on("host").run(delete).unwrap();
        drop(end);
    });
    notes.wait("flood-over", &MacAddr(blue).to_string());
    eventually("the TAP is there again", PATIENCE, || {
        let ping = || Ping::new(SERVERS[0], 1).send(Duration::from_secs(1));
        matches!(setup.on("blue").run(ping).unwrap(), Ok(Answer::Reply { .. }))
    });
    setup.assert_running();
}

/// A flow that nobody speaks on for long is one of those that have a mapping, and its remote may be the one
/// that speaks next.
fn an_idle_flow_is_read_whole_in_a_flood_from_outside(form: Form) {
    let mut setup = Setup::plain(form);
    let server = setup.on("internet").run(|| UdpSocket::bind((SERVERS[0], 4000)).unwrap()).unwrap();
    let inside = setup.on("red").run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    for socket in [&server, &inside] {
        socket.set_read_timeout(Some(SOON)).unwrap();
    }
    inside.send_to(b"hello", (SERVERS[0], 4000)).unwrap();
    let (_, outside) = server.recv_from(&mut [0; 9]).unwrap();
    let notes = Notes::of(&setup);
    let [(_, internet), (_, host)] = ["internet", "host"].map(|name| mac_of(setup.on(name)));
    let unasked = |n| udp(end(SERVERS[1], 9), end(HOST, 40_000 + n)).bytes();
    let frames = frames(internet, host, unasked);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| flood(setup.on("internet"), &frames, &over));
        let end = End(&over);
        notes.wait("flood", "uplink");
        // Until it was not in use lately.
        thread::sleep(Duration::from_secs(4));
        for number in 0..64 {
            server.send_to(&[number], outside).unwrap();
            thread::sleep(Duration::from_millis(5));
        }
        drop(end);
    });
    inside.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let came = (0..64).take_while(|_| inside.recv(&mut [0; 9]).is_ok()).count();
    // The queue on the way may be full of the flood now and then. The first that comes is a use.
    assert!(came >= 48, "{came} of 64");
    notes.wait("flood-over", "uplink");
    setup.assert_running();
}

/// Frames to somebody whose place the bridge does not know come to all, and their sender can do nothing
/// about it.
fn who_speaks_to_the_silent_is_read_whole() {
    let mut setup = Setup::new(PLAIN, Options::default(), &["--mac", "02:00:00:00:00:01"]);
    assert_ping(setup.on("blue"), SERVERS[0]);
    let (_, blue) = mac_of(setup.on("blue"));
    let to_nobody = |n| udp(end(SERVERS[1], 1000 + n), end(SERVERS[0], 9)).bytes();
    let frames = frames(blue, [2, 0, 0, 0, 0, 0x77], to_nobody);
    let notes = Notes::of(&setup);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| flood(setup.on("blue"), &frames, &over));
        let end = End(&over);
        notes.wait("flood", "frames for others");
        eventually("who sends them is served", PATIENCE, || {
            let pages = || (0..10).all(|_| page_of(SERVERS[0]).is_some());
            setup.on("blue").run(pages).unwrap()
        });
        drop(end);
    });
    notes.wait("flood-over", "frames for others");
    assert!(!setup.gateway.0.said().contains(&format!("{} sends more", MacAddr(blue))));
    setup.assert_running();
}

fn page_of(server: Ipv4Addr) -> Option<u16> {
    let mut client = Client::connect(at(server, 80), SOON).ok()?;
    client.get("/").ok().map(|page| page.status)
}

fn of_ever_new_macs_little_is_read_and_of_those_who_are_served_all() {
    let mut setup = Setup::new(PLAIN, Options::default(), &["--mac", "02:00:00:00:00:01"]);
    assert_ping(setup.on("red"), SERVERS[0]);
    let frames = frames_of_many([2, 0, 0, 0, 0, 1], None);
    others_are_served(&mut setup, "blue", &frames, "ever new MACs", "flood: inside-left-unread-about");
    assert_ping(setup.on("red"), SERVERS[0]);
}

/// Bad packets, each from a MAC of its own; one from `another`'s, if that is given.
fn frames_of_many(destination: [u8; 6], another: Option<[u8; 6]>) -> Vec<Vec<u8>> {
    let spoofed = |n: u16| {
        let [high, low] = n.to_be_bytes();
        let source = another.filter(|_| n == 0).unwrap_or([2, 0, 0, 9, high, low]);
        let (source, destination) = (MacAddr(source), MacAddr(destination));
        let header = Frame { destination, source, ethertype: IPV4 }.to_bytes();
        [&header[..], &udp(end(SERVERS[1], 1000 + n), end(SERVERS[0], 9)).bytes()].concat()
    };
    (0..BATCH).map(spoofed).collect()
}

/// A namespace with a process in it.
fn inhabited() -> (Netns, Killed) {
    let netns = Netns::create().unwrap();
    let mut command = Command::new("sleep");
    netns.confine(command.arg("1000"));
    let process = command.spawn().unwrap();
    (netns, Killed(process))
}

/// The gateway in front of these processes' namespaces.
fn attached(world: World, processes: &[&Killed]) -> Setup {
    let control = world.control();
    let mut words: Vec<String> =
        ["attach", "--guard", "hold", "--outside", UPLINK, "--control", control.to_str().unwrap()]
            .map(str::to_owned)
            .into();
    words.extend(processes.iter().flat_map(|process| ["--pid".to_owned(), process.0.id().to_string()]));
    let started = Product::start(PROGRAM.as_ref(), world.on("host"), &words, PATIENCE).unwrap();
    Setup { gateway: Gateway(started), world }
}

fn wire_of(netns: &Netns) -> LinkFacts {
    let links = netns.run(|| Netlink::open().unwrap().links().unwrap()).unwrap();
    links.into_iter().find(|link| link.name != "lo").unwrap()
}

/// Behind a TAP of its own a namespace floods by itself, whatever MACs it writes.
fn a_namespace_that_floods_is_thinned_out_whatever_its_macs_are() {
    let ((bad, first), (good, second)) = (inhabited(), inhabited());
    let mut setup = attached(World::new(Options::default()), &[&first, &second]);
    let (from, to) = (wire_of(&bad), wire_of(&good));
    let frames = frames_of_many([0xff; 6], Some(to.mac));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| bad.run(|| flood_by(from.index, &frames, &over)).unwrap());
        let end = End(&over);
        eventually("the flood is told", PATIENCE, || {
            setup.gateway.0.said().contains("the namespace at port 0 sends more bad packets")
        });
        eventually("the other one is served", PATIENCE, || {
            good.run(|| page_of(SERVERS[0])).unwrap() == Some(200)
        });
        drop(end);
    });
    eventually("its end is told", PATIENCE, || setup.gateway.0.said().contains("port 0 floods no longer"));
    eventually("it is served again", PATIENCE, || bad.run(|| page_of(SERVERS[0])).unwrap() == Some(200));
    assert!(!setup.gateway.0.said().contains("port 1"));
    setup.assert_running();
}

fn the_only_tap_may_vanish_under_a_flood() {
    let (netns, process) = inhabited();
    let mut setup = attached(World::new(Options::default()), &[&process]);
    let wire = wire_of(&netns);
    let spoofed = |n| udp(end(SERVERS[1], 1000 + n), end(SERVERS[0], 9)).bytes();
    let frames = frames(wire.mac, [0xff; 6], spoofed);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| netns.run(|| flood_by(wire.index, &frames, &over)).unwrap());
        let end = End(&over);
        eventually("the flood is told", PATIENCE, || {
            setup.gateway.0.said().contains("sends more bad packets")
        });
        drop(end);
    });
    netns.run(|| Netlink::open().unwrap().delete(wire.index).unwrap()).unwrap();
    eventually("its end is told", PATIENCE, || setup.gateway.0.said().contains("floods no longer"));
    setup.assert_running();
    drop(process);
}

/// A process that ends with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn tests() -> Vec<Test> {
    type Named = (&'static str, fn(Form));
    let every: [Named; 3] = [
        ("of_who_floods_inside_little_is_read", of_who_floods_inside_little_is_read),
        ("of_a_flood_from_outside_what_is_in_use_is_read", of_a_flood_from_outside_what_is_in_use_is_read),
        (
            "an_idle_flow_is_read_whole_in_a_flood_from_outside",
            an_idle_flow_is_read_whole_in_a_flood_from_outside,
        ),
    ];
    let once: [(&str, fn()); 6] = [
        (
            "of_ever_new_macs_little_is_read_and_of_those_who_are_served_all",
            of_ever_new_macs_little_is_read_and_of_those_who_are_served_all,
        ),
        ("who_speaks_to_the_silent_is_read_whole", who_speaks_to_the_silent_is_read_whole),
        (
            "a_namespace_that_floods_is_thinned_out_whatever_its_macs_are",
            a_namespace_that_floods_is_thinned_out_whatever_its_macs_are,
        ),
        ("a_prepared_tap_is_read_whole", a_prepared_tap_is_read_whole),
        ("a_tap_made_again_is_read_whole", a_tap_made_again_is_read_whole),
        ("the_only_tap_may_vanish_under_a_flood", the_only_tap_may_vanish_under_a_flood),
    ];
    let once = once.map(|(name, run)| Test { name: name.to_owned(), run: Box::new(run), impossible: None });
    let mut all = Vec::from(once);
    for form in FORMS {
        for (name, test) in every {
            let run = Box::new(move || test(form));
            all.push(Test { name: format!("{name}/{form}"), run, impossible: None });
        }
    }
    all
}

fn main() -> ExitCode {
    lab_harness::main(tests)
}
