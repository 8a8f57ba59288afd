//! `pasta`, as Podman, Buildah and RootlessKit call it and as a person does: a user without any
//! capability, namespaces of that user, and the lab's internet.
//!
//! The cases are those of Podman's `test/system/505-networking-pasta.bats` and of passt's own `test/`;
//! docs/container-tools.md says which is where. Runs as root, since it becomes somebody else. Where it cannot run, it says why and skips;
//! with `CI` set, skipping is failing.
#![allow(clippy::unwrap_used)]

#[path = "support/lab_harness.rs"]
mod lab_harness;
#[allow(dead_code, reason = "these tests start the gateway in their own way")]
#[path = "support/lab_setup.rs"]
mod lab_setup;
#[path = "support/pasta_forwards.rs"]
mod pasta_forwards;
#[path = "support/pasta_rig.rs"]
mod pasta_rig;
#[path = "support/pasta_scripts.rs"]
mod pasta_scripts;

use lab_harness::Test;
use lab_setup::{SOON, eventually};
use pasta_rig::*;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;
use tapnat::lab::programs::{dns, http, udp};
use tapnat::lab::topology::{HOST, HOST_SIX, ROUTER, ROUTER_SIX, SERVERS, SERVERS_SIX, UPLINK};

/// What Podman adds unless it is told otherwise.
const PODMAN_END: [&str; 3] = ["--no-map-gw", "--quiet", "--netns"];
const MAPPED: &str = "169.254.1.2";

/// Podman's command line for a container with a web server at port 80, published at 8080.
fn podman_line<'a>(options: &[&'a str], ports: &[&'a str], path: &'a str) -> Vec<&'a str> {
    let mut words = vec!["--config-net"];
    words.extend(options);
    words.extend(ports);
    words.extend(["--dns-forward", "169.254.1.1"]);
    for none in ["-t", "-u", "-T", "-U"] {
        if !ports.contains(&none) {
            words.extend([none, "none"]);
        }
    }
    words.extend(PODMAN_END);
    words.extend([path, "--map-guest-addr", MAPPED]);
    words
}

fn podman_and_its_container() {
    let rig = Rig::new();
    let mut guest = rig.guest();
    let (path, note) = (guest.path(), rig.path("pid"));
    let options = ["--pid", note.to_str().unwrap()];
    rig.quiet(&podman_line(&options, &["-t", "8080-8080:80-80", "-t", "127.0.0.1/9090-9090:80-80"], &path));
    let pid = read_pid(&note);
    assert!(runs(&pid), "it goes on in the background");

    let said = guest.says("ip -o addr; ip route; ip -6 route; ip -o link");
    for word in [
        format!("{UPLINK}    inet {HOST}/24"),
        format!("{UPLINK}    inet6 {HOST_SIX}/64"),
        format!("default via {ROUTER} dev {UPLINK}"),
        format!("default via {ROUTER_SIX} dev {UPLINK}"),
        "mtu 65520".to_owned(),
        "lo: <LOOPBACK,UP".to_owned(),
    ] {
        assert!(said.contains(&word), "{word}: {said}");
    }
    assert_eq!(guest.seen_by((SERVERS[0], 80)), HOST.to_string());
    let named = guest.netns.run(|| dns::resolve(([169, 254, 1, 1], 53), "www.example.org", SOON)).unwrap();
    assert_eq!(named.unwrap(), Some(SERVERS[0]));
    // Without --map-gw the router is the router.
    assert_eq!(guest.seen_by((ROUTER, 80)), HOST.to_string());
    let said = guest.says(&format!("ping -c 1 -W 5 {}; ping -c 1 -W 5 {}", SERVERS[1], SERVERS_SIX[0]));
    assert_eq!(said.matches(" 1 received").count(), 2, "{said}");

    let _web = http::serve(&guest.netns, (Ipv4Addr::UNSPECIFIED, 80)).unwrap();
    let _web6 = http::serve(&guest.netns, (Ipv6Addr::UNSPECIFIED, 80));
    assert_eq!(greeted(rig.internet(), (HOST, 8080)).unwrap(), ROUTER.to_string());
    assert_eq!(
        greeted(rig.host(), (HOST, 8080)).unwrap(),
        MAPPED,
        "the host itself, by the address that both have"
    );
    assert_eq!(greeted(rig.host(), ([127, 0, 0, 1], 8080)).unwrap(), ROUTER.to_string());
    assert_eq!(greeted(rig.host(), ([127, 0, 0, 1], 9090)).unwrap(), ROUTER.to_string());
    assert!(greeted(rig.internet(), (HOST, 9090)).is_err(), "only on loopback");
    // And back: the address that stands for the host.
    let _own = http::serve(rig.host(), (HOST, 8888)).unwrap();
    guest.seen_by(([169, 254, 1, 2], 8888));

    guest.unname();
    ends(&pid);
    let left: Vec<_> = std::fs::read_dir(rig.path("tapnat")).map(|_| ()).into_iter().collect();
    assert!(left.is_empty() || !rig.path(&format!("tapnat/pasta-{pid}.sock")).exists(), "a socket is left");
}

fn podman_tries_again_without_what_is_not_known() {
    let rig = Rig::new();
    let mut guest = rig.guest();
    let path = guest.path();
    let output = rig.pasta(&["--config-net", "--quiet", "--netns", &path, "--map-something-else", MAPPED]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(told(&output).contains("unrecognized option '--map-something-else'"), "{output:?}");
    let output = rig.pasta(&["--config-net", "--netns", "/nowhere/at/all"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(told(&output).starts_with("pasta: network namespace /nowhere/at/all: "), "{output:?}");
    for probe in [&["--version"][..], &["--host-lo-to-ns-lo", "--version"], &["--help"]] {
        assert_eq!(rig.pasta(probe).status.code(), Some(0), "{probe:?}");
    }
}

fn addresses_routes_and_interfaces() {
    let rig = Rig::new();
    let asked = |options: &str, wanted: &[&str], unwanted: &[&str]| {
        let guest = rig.guest();
        let pid = guest.pid();
        let mut words: Vec<&str> = "--config-net -q -t none -u none -T none -U none".split(' ').collect();
        words.extend(options.split_whitespace());
        words.push(&pid);
        rig.quiet(&words);
        let said = guest.says("ip -o addr; ip -o link; ip route; ip -6 route");
        for word in wanted {
            assert!(said.contains(word), "{options}: {word}: {said}");
        }
        for word in unwanted {
            assert!(!said.contains(word), "{options}: {word}: {said}");
        }
    };
    let (own, own_six) = (format!("inet {HOST}/24"), format!("inet6 {HOST_SIX}/64"));
    asked("-a 192.0.2.1", &["inet 192.0.2.1/24", &own_six], &[&own]);
    asked("-a 2001:db8::1", &["inet6 2001:db8::1/64", &own], &[&own_six]);
    asked("-6", &[&own_six], &[&own]);
    asked("-4", &[&own], &[&own_six, "default via 2001"]);
    asked("-a 192.0.2.2 -g 192.0.2.1", &["inet 192.0.2.2/24", "default via 192.0.2.1 "], &[&own]);
    asked("-a 2001:db8::2 -g 2001:db8::1", &["default via 2001:db8::1 "], &["default via 2001:db8:113"]);
    asked("-m 1280", &["mtu 1280", &own_six], &["mtu 65520"]);
    asked("-m 1000", &["mtu 1000", &own], &["inet6 2001"]);
    asked("-I myname --ns-mac-addr 9a:dd:31:ea:92:98", &["myname", "9a:dd:31:ea:92:98"], &[UPLINK]);
    asked("-a 192.168.0.2 -g 192.168.0.1 -n 255.255.255.0", &["inet 192.168.0.2/24"], &[]);
    asked("--no-copy-routes --no-copy-addrs", &[&own, &own_six], &[]);
}

fn rootlesskit_and_its_child() {
    let rig = Rig::new();
    let mut guest = rig.guest();
    let pid = guest.pid();
    let line = "--stderr --ns-ifname=tap0 --mtu=65520 --config-net --address=10.0.2.100 --netmask=24 \
                --gateway=10.0.2.2 --dns-forward=10.0.2.3 --ipv4-only --tcp-ports=none --udp-ports=none";
    let note = rig.path("pid");
    let mut words: Vec<&str> = line.split_whitespace().collect();
    words.extend(["--pid", note.to_str().unwrap(), &pid]);
    let output = rig.pasta(&words);
    assert!(output.status.success(), "{output:?}");
    let said = guest.says("ip -o addr; ip route");
    assert!(said.contains("tap0    inet 10.0.2.100/24") && said.contains("default via 10.0.2.2"), "{said}");
    assert_eq!(guest.seen_by((SERVERS[0], 80)), HOST.to_string());
    // The gateway is the host's loopback, unless --no-map-gw is given.
    let _own = http::serve(rig.host(), ([127, 0, 0, 1], 8888)).unwrap();
    assert_eq!(guest.seen_by(([10, 0, 2, 2], 8888)), "127.0.0.1");
    let gateway = read_pid(&note);
    guest.end();
    ends(&gateway);

    // The same with a namespace that has a name of its own.
    let mut guest = rig.guest();
    let (users, path) =
        (format!("--userns=/proc/{}/ns/user", guest.pid()), format!("--netns={}", guest.path()));
    let mut words: Vec<&str> = line.split_whitespace().collect();
    words.extend(["--no-map-gw", "--pid", note.to_str().unwrap(), &users, &path]);
    let output = rig.pasta(&words);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(guest.seen_by((SERVERS[0], 80)), HOST.to_string());
    let closed = guest.netns.run(|| http::get(([10, 0, 2, 2], 8888), "/", SOON)).unwrap();
    assert!(closed.is_err(), "the gateway is nobody");
    let gateway = read_pid(&note);
    guest.unname();
    ends(&gateway);
}

fn a_command_of_its_own() {
    let rig = Rig::new();
    let script = format!("id -u; ip -o addr show {UPLINK}; ping -c 1 -W 5 {} >&2; exit 7", SERVERS[0]);
    let words = ["--config-net", "-t", "none", "-u", "none", "--", "sh", "-c", &script];
    let output = rig.pasta(&words);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert!(said.starts_with("0\n") && said.contains(&format!("inet {HOST}/24")), "{said}");
    assert!(told(&output).contains(" 1 received"), "{output:?}");
    let bare = rig.pasta(&["ip", "-o", "link"]);
    let said = String::from_utf8_lossy(&bare.stdout).into_owned();
    assert!(said.contains("lo: <LOOPBACK,UP") && said.contains(UPLINK), "{bare:?}");
    assert_eq!(rig.pasta(&["/no/such/program"]).status.code(), Some(127));
}

fn it_ends_with_the_namespace_or_not() {
    let rig = Rig::new();
    let mut guest = rig.guest();
    let (path, note) = (guest.path(), rig.path("pid"));
    let note = note.to_str().unwrap();
    let quiet = ["-q", "-t", "none", "-u", "none", "--pid", note, "--netns", &path];
    rig.quiet(&[&quiet[..], &["--no-netns-quit"]].concat());
    let stays = read_pid(note.as_ref());
    guest.unname();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(runs(&stays), "--no-netns-quit");
    std::process::Command::new("kill").arg(&stays).status().unwrap();
    ends(&stays);
    // In the foreground it stays there.
    let (pid, note) = (guest.pid(), rig.path("pid-in-the-foreground"));
    let words = ["-f", "-q", "-t", "none", "-u", "none", "--pid", note.to_str().unwrap(), &pid];
    let mut child = rig.command(&rig.path("pasta"), &words).spawn().unwrap();
    eventually("it serves", SOON * 2, || {
        std::fs::read_to_string(&note).is_ok_and(|text| text.ends_with('\n'))
    });
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none());
    guest.end();
    assert!(child.wait().unwrap().success());
    // passt's `test/passt/shutdown`: who is told to end ends well.
    let (guest, note) = (rig.guest(), rig.path("pid-of-foreground"));
    let words = ["-f", "-q", "-t", "none", "-u", "none", "-P", note.to_str().unwrap(), &guest.pid()];
    let mut child = rig.command(&rig.path("pasta"), &words).spawn().unwrap();
    let ready = || std::fs::read_to_string(&note).is_ok_and(|text| text.ends_with('\n'));
    eventually("it is ready", SOON, ready);
    std::process::Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// The address that packets leave from, of a host that has two, and would choose the other one.
fn outbound_addresses() {
    let rig = Rig::new();
    let other = "203.0.113.77";
    let lines =
        format!("ip addr add {other}/24 dev {UPLINK}; ip route replace default via {ROUTER} src {other}");
    assert_eq!(rig.on_host(&lines), "");
    let note = rig.path("pid");
    let seen = |options: &str| {
        let guest = rig.guest();
        let pid = guest.pid();
        let mut words: Vec<&str> = "--config-net -q -4 -u none -T none -U none".split(' ').collect();
        words.extend(options.split_whitespace());
        words.extend(["--pid", note.to_str().unwrap(), &pid]);
        rig.quiet(&words);
        let _web = http::serve(&guest.netns, (Ipv4Addr::UNSPECIFIED, 80)).unwrap();
        // Ports of the host are open at its other addresses all the same.
        for ip in [HOST, other.parse().unwrap()] {
            greeted(rig.internet(), (ip, 8080)).unwrap_or_else(|error| panic!("{options}: {ip}: {error}"));
        }
        let seen = guest.seen_by((SERVERS[0], 80));
        // It has the port until it ends.
        drop(guest);
        ends(&read_pid(&note));
        seen
    };
    assert_eq!(seen("-t 8080:80"), other, "as the kernel chooses");
    assert_eq!(seen(&format!("-o {HOST} -t 8080:80")), HOST.to_string(), "which the namespace has too");
    assert_eq!(seen(&format!("-a {other} -o {HOST} -t 8080:80")), HOST.to_string());
    assert_eq!(seen(&format!("-o {other} --no-copy-addrs -t 8080:80")), other);
    assert_eq!(seen(&format!("--outbound-if4 {UPLINK} -t 8080:80")), HOST.to_string());
    let output = rig.pasta(&["-o", "192.0.2.9", "1"]);
    assert!(told(&output).starts_with("pasta: --outbound 192.0.2.9: no interface"), "{output:?}");
}

/// Who does not have his network configured asks by DHCP for the same.
fn dhcp_gives_the_same() {
    let rig = Rig::new();
    let guest = rig.guest();
    let pid = guest.pid();
    let line = "-q -t none -u none --dhcp-dns -D 192.0.2.53 --dhcp-search -S lab.example";
    rig.quiet(&line.split(' ').chain([&*pid]).collect::<Vec<_>>());
    let script = rig.path("leased");
    std::fs::write(
        &script,
        "#!/bin/sh\n[ \"$1\" = bound ] || exit 0\nip addr add $ip/$mask dev $interface\n\
         ip link set $interface mtu $mtu\nip route add default via $router\necho \"told $dns $domain $search\"\n",
    )
    .unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let ask =
        format!("udhcpc -i {UPLINK} -n -q -f -t 5 -T 1 -O search -O mtu -s {} 2>/dev/null", script.display());
    let said = guest.says(&format!("ip link set {UPLINK} up; {ask}; ip -o addr; ip route; ip -o link"));
    for word in [
        "told 192.0.2.53".to_owned(),
        "lab.example".to_owned(),
        format!("inet {HOST}/24"),
        format!("default via {ROUTER}"),
        "mtu 65520".to_owned(),
    ] {
        assert!(said.contains(&word), "{word}: {said}");
    }
    assert_eq!(guest.seen_by((SERVERS[0], 80)), HOST.to_string());
}

/// What stands for the host's loopback, and which protocols are served at all.
fn mapped_addresses_and_protocols() {
    let rig = Rig::new();
    let _own = http::serve(rig.host(), ([127, 0, 0, 1], 8888)).unwrap();
    let _own6 = http::serve(rig.host(), (Ipv6Addr::LOCALHOST, 8888)).unwrap();
    let started = |options: &str| {
        let guest = rig.guest();
        let pid = guest.pid();
        let line = format!("--config-net -q -t none -u none -T none -U none {options} {pid}");
        rig.quiet(&line.split_whitespace().collect::<Vec<_>>());
        guest
    };
    let loopback = |guest: &Guest, to: std::net::IpAddr| greeted(&guest.netns, (to, 8888)).ok();
    let guest = started("");
    assert_eq!(loopback(&guest, ROUTER.into()).as_deref(), Some("127.0.0.1"), "the router's by default");
    assert_eq!(loopback(&guest, ROUTER_SIX.into()).as_deref(), Some("::1"));
    let guest = started("--map-host-loopback 192.0.2.9 --map-host-loopback 2001:db8::9");
    assert_eq!(loopback(&guest, [192, 0, 2, 9].into()).as_deref(), Some("127.0.0.1"));
    assert_eq!(loopback(&guest, "2001:db8::9".parse().unwrap()).as_deref(), Some("::1"));
    assert_eq!(loopback(&guest, ROUTER.into()), None, "now the router is itself, and has no such port");
    for options in ["--no-map-gw", "--map-host-loopback none"] {
        let guest = started(options);
        assert_eq!(
            (loopback(&guest, ROUTER.into()), loopback(&guest, ROUTER_SIX.into())),
            (None, None),
            "{options}"
        );
    }
    let guest = started("--dns-forward 198.51.100.1 --no-icmp");
    let named = guest.netns.run(|| dns::resolve(([198, 51, 100, 1], 53), "ftp.example.org", SOON)).unwrap();
    assert_eq!(named.unwrap(), Some(SERVERS[1]), "another address for the resolver");
    let ping = |wait: u8| format!("ping -c 1 -W {wait} {}", SERVERS[0]);
    assert!(guest.says(&ping(1)).contains(" 0 received"), "--no-icmp");
    assert_eq!(guest.seen_by((SERVERS[0], 80)), HOST.to_string());
    let guest = started("--no-tcp");
    assert!(greeted(&guest.netns, (SERVERS[0], 80)).is_err(), "--no-tcp");
    assert!(guest.says(&ping(5)).contains(" 1 received"));
    let guest = started("--no-udp");
    let asked = guest.netns.run(|| udp::ask((SERVERS[0], 7), b"x", SOON)).unwrap();
    assert!(asked.is_err(), "--no-udp");
}

fn the_log_goes_where_it_is_told() {
    let rig = Rig::new();
    let guest = rig.guest();
    let (pid, log) = (guest.pid(), rig.path("log"));
    let log = log.to_str().unwrap();
    rig.quiet(&["--config-net", "-d", "-t", "none", "-u", "none", "-l", log, "--log-size", "4096", &pid]);
    for _ in 0..20 {
        guest.seen_by((SERVERS[0], 80));
    }
    let text = std::fs::read_to_string(log).unwrap();
    assert!(!text.is_empty() && text.len() <= 4096 && !text.contains('\u{1b}'), "{text}");
    let guest = rig.guest();
    let warned = rig.path("warned");
    let words =
        ["-t", "none", "-u", "none", "-D", "192.0.2.53", "-l", warned.to_str().unwrap(), &guest.pid()];
    rig.quiet(&words);
    assert!(std::fs::read_to_string(&warned).unwrap().contains("--dns is told to nobody without --dhcp-dns"));
    let refused = rig.pasta(&["-l", "/no/such/folder/log", &pid]);
    assert!(told(&refused).starts_with("pasta: --log-file /no/such/folder/log: "), "{refused:?}");
}

fn tests() -> Vec<Test> {
    let all: [(&str, fn()); 10] = [
        ("dhcp_gives_the_same", dhcp_gives_the_same),
        ("mapped_addresses_and_protocols", mapped_addresses_and_protocols),
        ("the_log_goes_where_it_is_told", the_log_goes_where_it_is_told),
        ("outbound_addresses", outbound_addresses),
        ("podman_and_its_container", podman_and_its_container),
        ("podman_tries_again_without_what_is_not_known", podman_tries_again_without_what_is_not_known),
        ("addresses_routes_and_interfaces", addresses_routes_and_interfaces),
        ("rootlesskit_and_its_child", rootlesskit_and_its_child),
        ("a_command_of_its_own", a_command_of_its_own),
        ("it_ends_with_the_namespace_or_not", it_ends_with_the_namespace_or_not),
    ];
    let impossible = impossible();
    let test = |(name, run): (&str, fn())| Test {
        name: name.to_owned(),
        run: Box::new(run),
        impossible: impossible.clone(),
    };
    all.into_iter().chain(pasta_forwards::TESTS).chain(pasta_scripts::TESTS).map(test).collect()
}

fn main() -> ExitCode {
    lab_harness::main(tests)
}
