//! One gateway in front of several namespaces: the world, each other, and one that goes away.

use crate::attach_rig::*;
use crate::lab_setup::*;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::Duration;
use tapnat::io::netlink::Netlink;
use tapnat::io::sys::netns::Netns;
use tapnat::lab::programs::{bulk, http, icmp6, udp};
use tapnat::lab::topology::{HOST, Options, SERVERS, SERVERS_SIX, WithSix};

/// All of them.
pub const TESTS: [(&str, fn()); 6] = [
    ("several_namespaces_reach_the_world_and_each_other", each_other),
    ("several_namespaces_by_both_families", both_families),
    ("one_namespace_goes_and_the_others_stay", one_goes),
    ("a_tap_that_is_deleted_in_one_namespace_harms_no_other", deleted_tap),
    ("fifty_namespaces_on_one_gateway", fifty),
    ("several_namespaces_are_named_as_they_must_be", wrong_words),
];

/// The address of a namespace by its number, where nothing else is said.
fn guest(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 2, 100 + number)
}

/// Namespaces with a process in each, and the words that name them.
fn people(count: usize) -> (Vec<Netns>, Vec<Inhabitant>, Vec<String>) {
    let netns: Vec<Netns> = (0..count).map(|_| Netns::create().unwrap()).collect();
    let people: Vec<Inhabitant> = netns.iter().map(Inhabitant::of).collect();
    let words = people.iter().flat_map(|process| ["--pid".to_owned(), process.pid()]).collect();
    (netns, people, words)
}

fn attach(rig: &Rig, words: &[String], more: &[&str]) -> Gateway {
    let words: Vec<&str> = words.iter().map(String::as_str).chain(more.iter().copied()).collect();
    rig.attach(&words)
}

/// A counter of the inside link.
fn counter(rig: &Rig, word: &str) -> u64 {
    let mut command = Command::new(PROGRAM);
    command.args(["stats", "--json", "--control", rig.world.control().to_str().unwrap()]);
    let output = rig.run(command);
    let stats: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    stats["links"][format!("{TAP}: {word}")].as_u64().unwrap_or_else(|| panic!("no {word} in {stats}"))
}

fn each_other() {
    let rig = Rig::new();
    let (netns, people, words) = people(3);
    let _gateway = attach(&rig, &words, &["--guest", "10.0.2.7/24", "--mtu", "9000"]);
    // The first got what was said, the others the next that are free.
    let addresses = [Ipv4Addr::new(10, 0, 2, 7), guest(0), guest(1)];
    for netns in &netns {
        assert_ping(netns, SERVERS[0]);
        assert_eq!(*seen_as(netns, at(SERVERS[0], 80)).ip(), HOST, "not translated");
    }
    let switched = counter(&rig, "switched");
    let flooded = counter(&rig, "flooded");
    for (number, netns) in netns.iter().enumerate() {
        for address in addresses.iter().enumerate().filter(|(other, _)| *other != number) {
            assert_ping(netns, *address.1);
        }
    }
    assert!(counter(&rig, "switched") >= switched + 12, "who is known is told alone");
    assert_eq!(counter(&rig, "flooded"), flooded, "who has spoken is known");
    assert_eq!(counter(&rig, "hosts"), 3);
    // Super-frames from TAP to TAP, each way.
    let server = bulk::serve(&netns[2], at(addresses[2], 9000)).unwrap();
    let length = 64 << 20;
    netns[0].run(|| bulk::get(server.address(), length, LATER).unwrap()).unwrap();
    netns[0].run(|| bulk::put(server.address(), length, LATER).unwrap()).unwrap();
    let frames = counter(&rig, "switched") - switched;
    assert!(frames < 2 * length / 8900, "{frames} frames for 128 MiB: super-frames were cut");
    let echo = udp::serve(&netns[1], at(addresses[1], 7)).unwrap();
    let answer = netns[2].run(|| udp::ask(echo.address(), &[9; 20_000], SOON).unwrap()).unwrap();
    assert_eq!(answer, [9; 20_000], "in fragments");
    assert_eq!((counter(&rig, "switch-lost"), counter(&rig, "forged-source")), (0, 0));
    rig.world.assert_checksums_right();
    drop(people);
}

fn both_families() {
    let rig = Rig { world: World::new(Options { six: WithSix::Fixed, ..Options::default() }) };
    let (netns, _people, words) = people(2);
    let _gateway = attach(&rig, &words, &["--guest", "fd00::7/64", "--guest", "10.0.2.9/24"]);
    for (netns, addresses) in netns.iter().zip([["10.0.2.9", "fd00::7"], ["10.0.2.100", "fd00::100"]]) {
        for address in addresses {
            let found = netns.run(|| Netlink::open().unwrap().addresses().unwrap()).unwrap();
            let address: IpAddr = address.parse().unwrap();
            assert!(found.iter().any(|(_, ip, _)| *ip == address), "no {address} in {found:?}");
        }
    }
    let ping = |netns: &Netns, to| {
        let answer = netns.run(|| icmp6::Ping6::new(to, 1).send(SOON).unwrap()).unwrap();
        assert!(matches!(answer, icmp6::Answer6::Reply { .. }), "{to}: {answer:?}");
    };
    ping(&netns[0], SERVERS_SIX[0]);
    ping(&netns[1], SERVERS_SIX[0]);
    ping(&netns[1], "fd00::7".parse().unwrap());
    ping(&netns[0], "fd00::100".parse().unwrap());
}

fn one_goes() {
    let rig = Rig::new();
    let (netns, mut people, words) = people(3);
    let mut gateway = attach(&rig, &words, &[]);
    for netns in &netns {
        assert_ping(netns, SERVERS[0]);
    }
    // A connection of another one goes on meanwhile.
    let mut client = netns[2].run(|| http::Client::connect(at(SERVERS[0], 80), SOON).unwrap()).unwrap();
    assert_eq!(client.get("/").unwrap().status, 200);
    // The one whose TAP is that of the settings is nothing special.
    for number in [0, 1] {
        people[number].end();
        eventually("the TAP goes", SOON, || {
            netns[number].run(|| Netlink::open().unwrap().link(TAP).unwrap().is_none()).unwrap()
        });
        let left = 2 - number as u64;
        assert_eq!(counter(&rig, "ports"), left);
        assert_eq!(client.get("/").unwrap().status, 200, "a connection of another one is broken");
        assert_ping(&netns[2], SERVERS[0]);
        assert!(gateway.0.ended().unwrap().is_none(), "{}", gateway.0.said());
    }
    people[2].end();
    let status = gateway.0.wait(SOON).unwrap().expect("the gateway outlives the last one");
    assert_eq!(status.code(), Some(0));
    let said = gateway.0.said();
    let gone = format!("process {} has ended: its TAP is taken away; namespaces left: 2", people[0].pid());
    assert!(said.contains(&gone), "{said}");
    assert!(said.contains(&format!("stopping: process {} has ended", people[2].pid())), "{said}");
    assert!(!rig.world.control().exists(), "the control socket is left");
}

fn deleted_tap() {
    let rig = Rig::new();
    let (netns, people, words) = people(2);
    let mut gateway = attach(&rig, &words, &[]);
    netns[0]
        .run(|| {
            let netlink = Netlink::open().unwrap();
            netlink.delete(netlink.link(TAP).unwrap().unwrap().index).unwrap();
        })
        .unwrap();
    eventually("the port is closed", SOON, || counter(&rig, "ports-gone") == 1);
    assert_ping(&netns[1], SERVERS[0]);
    assert!(gateway.0.ended().unwrap().is_none(), "{}", gateway.0.said());
    drop(people);
}

fn fifty() {
    let rig = Rig::new();
    let (netns, people, words) = people(50);
    let gateway = attach(&rig, &words, &[]);
    for (number, netns) in netns.iter().enumerate() {
        assert_ping(netns, SERVERS[0]);
        assert_ping(netns, guest(((number + 1) % 50) as u8));
    }
    assert_eq!((counter(&rig, "ports"), counter(&rig, "hosts")), (50, 50));
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.0.id())).unwrap();
    let resident = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap().to_owned();
    println!("    50 namespaces: {resident}");
    let kib: u64 = resident.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib < 100 * 1024, "{resident}");
    drop(gateway);
    for netns in &netns {
        eventually("the TAPs go with the gateway", Duration::from_secs(20), || {
            netns.run(|| Netlink::open().unwrap().link(TAP).unwrap().is_none()).unwrap()
        });
    }
    drop(people);
}

fn wrong_words() {
    let rig = Rig::new();
    let (netns, people, words) = people(2);
    let pids: Vec<&str> = words.iter().map(String::as_str).collect();
    let usage = |more: &[&str]| {
        let output = rig.run(rig.program("attach", &[&pids[..], more].concat()));
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let told = usage(&pids[..2]);
    assert!(told.contains(&format!("namespace of process {} is named twice", people[0].pid())), "{told}");
    let user = "/proc/self/ns/user";
    let told = usage(&["--netns", "blue", "--userns", user, "--userns", user]);
    assert!(told.contains("--userns: 2 are given for 3 namespaces"), "{told}");
    let told = usage(&["--inside", "10.9.9.1/30"]);
    assert!(told.contains("10.9.9.1/30 has no room for 2 namespaces"), "{told}");
    // One that cannot be joined is named, and nothing is left in the others.
    let told = rig.refused(&[&pids[..], &["--netns", "no-such-namespace"]].concat());
    assert!(told.contains("namespace no-such-namespace: "), "{told}");
    let left = netns[0].run(|| Netlink::open().unwrap().link(TAP).unwrap()).unwrap();
    assert_eq!(left, None, "a TAP is left");
}
