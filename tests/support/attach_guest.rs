//! `tapnat attach`: namespaces by process and by path, their end, and what cannot be.

use crate::attach_rig::*;
use crate::lab_setup::*;
use std::fs;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tapnat::io::netlink::{Family, Netlink};
use tapnat::io::sys::netns::Netns;
use tapnat::io::tap::Tap;
use tapnat::lab::product::Product;
use tapnat::lab::programs::udp;
use tapnat::lab::topology::{HOST, Options, SERVERS, WithSix};

/// All of them.
pub const TESTS: [(&str, fn()); 12] = [
    ("a_namespace_named_by_a_process_is_served_until_it_ends", by_process),
    ("a_namespace_named_by_a_path_is_served_until_it_is_removed", by_path),
    ("an_unmounted_path_is_the_end_too", unmounted),
    ("the_namespace_is_configured_as_told", configured),
    ("both_families_where_the_host_has_both", both_families),
    ("addresses_and_routes_are_left_alone_if_told_so", left_alone),
    ("a_tap_that_is_there_is_attached_to", tap_that_is_there),
    ("a_tap_of_the_same_name_on_the_host_is_another_one", same_name),
    ("nothing_is_left_after_the_end_of_the_gateway", nothing_left),
    ("wrong_targets_are_told_in_one_line", wrong_targets),
    ("a_namespace_that_vanishes_during_the_start", vanishing),
    ("a_reload_keeps_the_tap", reload),
];

fn links(netns: &Netns) -> Vec<String> {
    netns
        .run(|| Netlink::open().unwrap().links().unwrap().into_iter().map(|link| link.name).collect())
        .unwrap()
}

fn addresses(netns: &Netns, interface: &str) -> Vec<String> {
    netns
        .run(|| {
            let netlink = Netlink::open().unwrap();
            let index = netlink.link(interface).unwrap().unwrap().index;
            let all = netlink.addresses().unwrap();
            let here =
                all.into_iter().filter(|(of, ip, _)| *of == index && !ip.to_string().starts_with("fe80"));
            here.map(|(_, ip, prefix)| format!("{ip}/{prefix}")).collect()
        })
        .unwrap()
}

fn by_process() {
    let rig = Rig::new();
    let netns = Netns::create().unwrap();
    let mut process = Inhabitant::of(&netns);
    let mut gateway = rig.attach(&["--pid", &process.pid()]);
    assert_ping(&netns, SERVERS[0]);
    let seen = seen_as(&netns, at(SERVERS[0], 80));
    assert_eq!(*seen.ip(), HOST, "not translated");
    let echo = netns.run(|| udp::ask(at(SERVERS[0], 7), &[7; 3000], SOON).unwrap()).unwrap();
    assert_eq!(echo, [7; 3000]);
    process.end();
    let status = gateway.0.wait(SOON).unwrap().expect("the gateway outlives the process");
    assert_eq!(status.code(), Some(0));
    let said = gateway.0.said();
    assert!(said.contains(&format!("process {} has ended", process.pid())), "{said}");
    assert_eq!(links(&netns), ["lo"], "the TAP is left");
    assert!(!rig.world.control().exists(), "the control socket is left");
    rig.world.assert_checksums_right();
}

/// A bind mount of a namespace, as `ip netns add` makes one.
fn mounted(rig: &Rig, netns: &Netns) -> PathBuf {
    let path = rig.path("blue");
    fs::write(&path, "").unwrap();
    rustix::mount::mount_bind(format!("/proc/self/fd/{}", netns.as_fd().as_raw_fd()), &path).unwrap();
    path
}

fn unmount(path: &Path) {
    rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH).unwrap();
}

fn by_path() {
    let rig = Rig::new();
    let netns = Netns::create().unwrap();
    let path = mounted(&rig, &netns);
    let mut gateway = rig.attach(&["--netns", path.to_str().unwrap()]);
    assert_eq!(page(&netns, at(SERVERS[0], 80), "/").unwrap().status, 200);
    // What happens to its neighbours means nothing.
    fs::write(rig.path("red"), "").unwrap();
    fs::remove_file(rig.path("red")).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert!(gateway.0.ended().unwrap().is_none(), "{}", gateway.0.said());
    unmount(&path);
    fs::remove_file(&path).unwrap();
    let status = gateway.0.wait(SOON).unwrap().expect("the gateway outlives the path");
    assert_eq!(status.code(), Some(0));
    assert!(gateway.0.said().contains("blue is gone"), "{}", gateway.0.said());
}

fn unmounted() {
    let rig = Rig::new();
    let netns = Netns::create().unwrap();
    let path = mounted(&rig, &netns);
    let mut gateway = rig.attach(&["--netns", path.to_str().unwrap()]);
    unmount(&path);
    let status = gateway.0.wait(SOON).unwrap().expect("the gateway outlives the mount");
    assert_eq!(status.code(), Some(0));
}

fn configured() {
    let rig = Rig::new();
    let netns = Netns::create().unwrap();
    let process = Inhabitant::of(&netns);
    let own = ["--inside", "10.9.8.1/28", "--guest", "10.9.8.5/28", "--mtu", "65520", "--tap", "eth7"];
    let gateway = rig.attach(&[&["--pid", &*process.pid()], &own[..]].concat());
    assert_eq!(addresses(&netns, "eth7"), ["10.9.8.5/28"]);
    netns
        .run(|| {
            let netlink = Netlink::open().unwrap();
            let tap = netlink.link("eth7").unwrap().unwrap();
            assert!(tap.up && tap.mtu == 65520 && netlink.link("lo").unwrap().unwrap().up);
            let route = netlink.default_route(Family::Four).unwrap().unwrap();
            assert_eq!((route.ifindex, route.gateway), (tap.index, "10.9.8.1".parse().ok()));
        })
        .unwrap();
    assert_ping(&netns, SERVERS[0]);
    drop(gateway);
}

fn both_families() {
    let options = Options { six: WithSix::Fixed, ..Options::default() };
    let rig = Rig { world: World::new(options) };
    let netns = Netns::create().unwrap();
    let process = Inhabitant::of(&netns);
    let _gateway = rig.attach(&["--pid", &process.pid()]);
    assert_eq!(addresses(&netns, TAP), ["10.0.2.100/24", "fd00::100/64"]);
    assert_ping(&netns, SERVERS[0]);
    let server = tapnat::lab::topology::SERVERS_SIX[0];
    let ping = || tapnat::lab::programs::icmp6::Ping6::new(server, 1).send(SOON).unwrap();
    let answer = netns.run(ping).unwrap();
    assert!(matches!(answer, tapnat::lab::programs::icmp6::Answer6::Reply { .. }), "{answer:?}");
    let route = netns.run(|| Netlink::open().unwrap().default_route(Family::Six).unwrap()).unwrap();
    assert_eq!(route.unwrap().gateway, "fd00::2".parse().ok());
}

fn left_alone() {
    let rig = Rig::new();
    let netns = Netns::create().unwrap();
    let process = Inhabitant::of(&netns);
    let _gateway = rig.attach(&["--pid", &process.pid(), "--no-config"]);
    netns
        .run(|| {
            let netlink = Netlink::open().unwrap();
            let tap = netlink.link(TAP).unwrap().unwrap();
            assert!(!tap.up && !netlink.link("lo").unwrap().unwrap().up);
            assert_eq!(netlink.addresses().unwrap(), []);
            netlink.add_address(tap.index, GUEST.into(), 24).unwrap();
            netlink.set_up(tap.index, true).unwrap();
            netlink.add_default_route("10.0.2.2".parse().unwrap()).unwrap();
        })
        .unwrap();
    assert_ping(&netns, SERVERS[0]);
}

/// A device that outlives its descriptor, as `ip tuntap add` makes one.
fn tap_that_is_there() {
    let rig = Rig::new();
    let netns = Netns::create().unwrap();
    let process = Inhabitant::of(&netns);
    let made = std::process::Command::new("nsenter")
        .args(["-t", &process.pid(), "-n", "ip", "tuntap", "add", "tap9", "mode", "tap"])
        .status();
    assert!(made.unwrap().success());
    for _ in 0..2 {
        let gateway = rig.attach(&["--pid", &process.pid(), "--tap", "tap9"]);
        assert_ping(&netns, SERVERS[0]);
        drop(gateway);
        assert_eq!(links(&netns), ["lo", "tap9"], "the TAP of somebody else is gone");
    }
}

fn same_name() {
    let rig = Rig::new();
    let netns = Netns::create().unwrap();
    let process = Inhabitant::of(&netns);
    let other = rig.host().run(|| Tap::open(TAP, true, 1500).unwrap()).unwrap();
    let _gateway = rig.attach(&["--pid", &process.pid(), "--mtu", "9000"]);
    assert_ping(&netns, SERVERS[0]);
    let link = rig.world.link("host", TAP).unwrap();
    assert!(!link.up && link.mtu == 1500, "a TAP of somebody else was changed: {link:?}");
    drop(other);
}

fn nothing_left() {
    let rig = Rig::new();
    let netns = Netns::create().unwrap();
    let process = Inhabitant::of(&netns);
    let mut gateway = rig.attach(&["--pid", &process.pid()]);
    let second = rig.refused(&["--pid", &process.pid(), "--control", rig.path("other").to_str().unwrap()]);
    assert!(second.contains("TAP tapnat0 is in use by another process"), "{second}");
    assert_ping(&netns, SERVERS[0]);
    gateway.0.kill().unwrap();
    eventually("the kernel cleans up", SOON, || links(&netns) == ["lo"]);
    // And the next one finds a clean namespace.
    let mut gateway = rig.attach(&["--pid", &process.pid()]);
    assert_ping(&netns, SERVERS[0]);
    let status = gateway.0.terminate(SOON).unwrap().expect("it goes on after SIGTERM");
    assert_eq!(status.code(), Some(0));
    assert_eq!(links(&netns), ["lo"]);
    assert!(runs(&process.pid()));
}

fn wrong_targets() {
    let rig = Rig::new();
    let mut ended = Inhabitant::of(rig.host());
    ended.end();
    let told = rig.refused(&["--pid", &ended.pid()]);
    assert!(told.contains("there is no process"), "{told}");
    let told = rig.refused(&["--netns", "no-such-namespace"]);
    assert!(told.contains("/run/netns/no-such-namespace: No such file or directory"), "{told}");
    assert_eq!(told.matches("No such file").count(), 1, "the cause is told once: {told}");
    let plain = rig.path("plain");
    fs::write(&plain, "").unwrap();
    let told = rig.refused(&["--netns", plain.to_str().unwrap()]);
    assert!(told.contains("plain is no network namespace: name one such as /run/netns/NAME"), "{told}");
    let told = rig.refused(&["--pid", "1", "--userns", "/proc/self/ns/net"]);
    assert!(told.contains("is no user namespace") || told.contains("process 1 is not"), "{told}");
    // A route that is there is not replaced.
    let netns = Netns::create().unwrap();
    let process = Inhabitant::of(&netns);
    netns
        .run(|| {
            let netlink = Netlink::open().unwrap();
            let lo = netlink.link("lo").unwrap().unwrap().index;
            netlink.set_up(lo, true).unwrap();
            netlink.add_address(lo, "192.0.2.1".parse().unwrap(), 24).unwrap();
            netlink.add_default_route("192.0.2.9".parse().unwrap()).unwrap();
        })
        .unwrap();
    let told = rig.refused(&["--pid", &process.pid()]);
    assert!(told.contains("has a route to 0.0.0.0/0 already") && told.contains("--no-config"), "{told}");
    assert_eq!(links(&netns), ["lo"]);
    let told = rig.refused(&["--pid", &process.pid(), "--tap", "lo"]);
    assert!(told.contains("lo exists and is not a TAP"), "{told}");
}

/// Whenever the process ends, the gateway has an end in good order, or one line to say.
fn vanishing() {
    let rig = Rig::new();
    let mut refused = 0;
    for round in 0..20 {
        let netns = Netns::create().unwrap();
        let mut process = Inhabitant::of(&netns);
        let words = rig.words("attach", &["--pid", &process.pid(), "--log", "error"]);
        let mut gateway = Product::start_unready(PROGRAM.as_ref(), rig.host(), &words).unwrap();
        std::thread::sleep(Duration::from_millis(round * 2));
        process.end();
        drop(netns);
        let status = gateway.wait(SOON).unwrap().expect("it goes on without its namespace");
        let said = gateway.said();
        match status.code() {
            Some(0) => assert_eq!(said, ""),
            Some(1) => {
                refused += 1;
                assert!(said.lines().count() == 1 && said.starts_with("tapnat: "), "{said}");
            }
            other => panic!("{other:?}: {said}"),
        }
    }
    println!("    {refused} of 20 ended before the gateway had started");
}

fn reload() {
    let rig = Rig::new();
    let netns = Netns::create().unwrap();
    let process = Inhabitant::of(&netns);
    let file = rig.path("gateway.toml");
    fs::write(&file, "filtering = \"endpoint-independent\"\n").unwrap();
    let _gateway = rig.attach(&["--pid", &process.pid(), "--config", file.to_str().unwrap()]);
    fs::write(&file, "filtering = \"address-dependent\"\n").unwrap();
    let mut command = std::process::Command::new(PROGRAM);
    command.args(["reload", "--control", rig.world.control().to_str().unwrap()]);
    let output = rig.run(command);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("filtering"), "{output:?}");
    assert!(!said.contains("tap"), "{said}");
    assert_ping(&netns, SERVERS[0]);
}
