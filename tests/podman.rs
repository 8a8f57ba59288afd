//! Container tools that do not notice the difference: a real rootless Podman, Buildah and RootlessKit, as
//! a user without privileges, with tapnat in the place of slirp4netns, in front of an internet made of
//! namespaces.
//!
//! Runs as root, since it makes the user; wants `podman buildah runc uidmap busybox-static rootlesskit`. Where
//! it cannot run, it says why and skips; with `CI` set, skipping is failing.
#![allow(clippy::unwrap_used)]

#[path = "support/buildah_scripts.rs"]
mod buildah_scripts;
#[path = "support/lab_harness.rs"]
mod lab_harness;
#[path = "support/podman_rig.rs"]
mod podman_rig;
#[path = "support/podman_scripts.rs"]
mod podman_scripts;

use lab_harness::Test;
use podman_rig::Rig;
use std::process::ExitCode;
use std::time::Duration;
use tapnat::lab::programs::http;
use tapnat::lab::topology::{HOST, ROUTER, SERVERS};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// As `podman run` is asked to use the tool that tapnat stands in for.
const NETWORK: &str = "--network=slirp4netns";

/// A web server that says who asks.
const WEB: [&str; 7] = ["/bin/httpd", "-f", "-vv", "-p", "80", "-h", "/www"];

fn first_run_has_addresses_and_routes() {
    let rig = Rig::new();
    let said =
        rig.podman(&["run", "--rm", NETWORK], &["/bin/sh", "-c", "ip addr; ip route; cat /etc/resolv.conf"]);
    for word in ["inet 10.0.2.100/24", "mtu 65520", "default via 10.0.2.2 dev tap0", "nameserver 10.0.2.3"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let cidr = "--network=slirp4netns:cidr=10.77.0.0/16,mtu=1400,enable_ipv6=true";
    let said = rig.podman(
        &["run", "--rm", cidr],
        &["/bin/sh", "-c", "ip addr; ip route; cat /etc/resolv.conf /etc/hosts"],
    );
    for word in [
        "inet 10.77.0.100/16",
        "mtu 1400",
        "default via 10.77.0.2",
        "nameserver 10.77.0.3",
        "inet6 fd00::64/64",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    rig.nothing_is_left();
}

fn ping_dns_and_download() {
    let rig = Rig::new();
    let _web = http::serve(rig.internet(), (SERVERS[0], 80)).unwrap();
    let url = format!("http://{}/bytes/30000000", SERVERS[0]);
    let script = format!(
        "ping -c 1 -W 5 {}; nslookup www.lab 10.0.2.3; wget -qO- {url} | sha256sum; wget -qO- http://{}/",
        SERVERS[0], SERVERS[0]
    );
    let said = rig.podman(&["run", "--rm", NETWORK], &["/bin/sh", "-c", &script]);
    assert!(said.contains("1 packets received"), "{said}");
    assert!(said.contains(&SERVERS[1].to_string()), "the name's address: {said}");
    let hash = rig.sh(&format!("curl -s {url} | sha256sum"));
    assert!(said.contains(hash.trim()), "{hash}: {said}");
    assert!(said.contains(&format!("hello {HOST}:")), "it comes from the host's address: {said}");
    rig.nothing_is_left();
}

fn a_published_port_shows_the_clients_address() {
    let rig = Rig::new();
    let direct = "--network=slirp4netns:port_handler=slirp4netns";
    rig.podman(&["run", "-d", "--name=web", direct, "-p=8080:80"], &WEB);
    rig.fetches(rig.internet(), (HOST, 8080));
    rig.until("the client's address is logged", || {
        rig.podman_alone(&["logs", "web"]).contains(&ROUTER.to_string())
    });
    // From the host's own loopback too, seen as the gateway.
    rig.fetches(rig.host(), ([127, 0, 0, 1], 8080));
    // A second container cannot have the port; the first goes on.
    let refused = rig.podman_fails(&["run", "--rm", direct, "-p=8080:80"], &WEB);
    assert!(refused.contains("slirp_add_hostfwd failed") || refused.contains("in use"), "{refused}");
    rig.fetches(rig.internet(), (HOST, 8080));
    rig.podman_alone(&["rm", "-f", "-t", "0", "web"]);
    let gone = rig.internet().run(|| http::get((HOST, 8080), "/", Duration::from_secs(2))).unwrap();
    assert!(gone.is_err(), "the port is still open");
    rig.nothing_is_left();
}

fn two_containers_restart_and_stop() {
    let rig = Rig::new();
    let server = http::serve(rig.internet(), (SERVERS[0], 80)).unwrap();
    for (name, port) in [("one", "8081:80"), ("two", "8082:80")] {
        rig.podman(&["run", "-d", "--name", name, NETWORK, "-p", port], &WEB);
    }
    rig.fetches(rig.internet(), (HOST, 8081));
    rig.fetches(rig.internet(), (HOST, 8082));
    let ask = format!("wget -qO- http://{}/", SERVERS[0]);
    for name in ["one", "two"] {
        let said = rig.podman_alone(&["exec", name, "/bin/sh", "-c", &ask]);
        assert!(said.contains(&format!("hello {HOST}:")), "{name}: {said}");
    }
    assert_eq!(rig.gateways().len(), 2);
    rig.podman_alone(&["restart", "-t", "0", "one"]);
    rig.fetches(rig.internet(), (HOST, 8081));
    rig.fetches(rig.internet(), (HOST, 8082));
    rig.podman_alone(&["stop", "-t", "0", "one"]);
    rig.until("one gateway goes with its container", || rig.gateways().len() == 1);
    rig.fetches(rig.internet(), (HOST, 8082));
    rig.podman_alone(&["rm", "-f", "-t", "0", "-a"]);
    drop(server);
    rig.nothing_is_left();
}

fn fifty_containers_leave_nothing() {
    let rig = Rig::new();
    for _ in 0..5 {
        let wave: Vec<_> =
            (0..10).map(|_| rig.start(&["run", "-d", NETWORK], &["/bin/sleep", "100"])).collect();
        for child in wave {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        rig.until("there are ten gateways", || rig.gateways().len() == 10);
        rig.podman_alone(&["rm", "-f", "-t", "0", "-a"]);
    }
    rig.nothing_is_left();
}

fn rootlesskit_runs_a_command_with_ports() {
    let rig = Rig::new();
    let _web = http::serve(rig.internet(), (SERVERS[0], 80)).unwrap();
    let kit = format!(
        "rootlesskit --net=slirp4netns --slirp4netns-binary={} --mtu=65520 --disable-host-loopback \
         --slirp4netns-sandbox=auto --slirp4netns-seccomp=auto --port-driver=slirp4netns -p 0.0.0.0:8090:80/tcp",
        rig.face("slirp4netns").display()
    );
    let url = format!("http://{}/bytes/5000000", SERVERS[0]);
    let script = format!(
        "ip addr show tap0; wget -qO- {url} | sha256sum; exec httpd -f -p 80 -h {}/www",
        rig.rootfs()
    );
    let log = rig.note("rootlesskit.log");
    let line = format!("exec {kit} {}/bin/busybox sh -c '{script}' > {log} 2>&1", rig.rootfs());
    let mut child = rig.user(&line).spawn().unwrap();
    rig.fetches(rig.internet(), (HOST, 8090));
    assert_eq!(rig.gateways().len(), 1);
    rig.sh(&format!("kill {}", child.id()));
    rig.until("RootlessKit ends", || child.try_wait().unwrap().is_some());
    let said = rig.sh(&format!("cat {log}"));
    assert!(said.contains("inet 10.0.2.100/24"), "{said}");
    let hash = rig.sh(&format!("curl -s {url} | sha256sum"));
    assert!(said.contains(hash.trim()), "{said}");
    // RootlessKit knows no end but SIGKILL: what that leaves, the next gateway takes away.
    rig.until("the gateway ends with it", || rig.gateways().is_empty());
    rig.podman(&["run", "--rm", NETWORK], &["/bin/sh", "-c", "ip addr"]);
    rig.nothing_is_left();
}

fn tests() -> Vec<Test> {
    let all: [(&str, fn()); 6] = [
        ("first_run_has_addresses_and_routes", first_run_has_addresses_and_routes),
        ("ping_dns_and_download", ping_dns_and_download),
        ("a_published_port_shows_the_clients_address", a_published_port_shows_the_clients_address),
        ("two_containers_restart_and_stop", two_containers_restart_and_stop),
        ("fifty_containers_leave_nothing", fifty_containers_leave_nothing),
        ("rootlesskit_runs_a_command_with_ports", rootlesskit_runs_a_command_with_ports),
    ];
    let impossible = podman_rig::impossible();
    let test = |(name, run): (&str, fn())| Test {
        name: name.to_owned(),
        run: Box::new(run),
        impossible: impossible.clone(),
    };
    let podman = all.into_iter().chain(podman_scripts::TESTS).map(test);
    let without = impossible.clone().or_else(buildah_scripts::impossible);
    let buildah = buildah_scripts::TESTS.map(|(name, run)| Test {
        name: name.to_owned(),
        run: Box::new(run),
        impossible: without.clone(),
    });
    podman.chain(buildah).collect()
}

fn main() -> ExitCode {
    let code = lab_harness::main(tests);
    podman_rig::clean_up();
    code
}
