//! What the published test scripts of passt check of pasta, and Buildah's own command line.

use crate::MAPPED;
use crate::lab_setup::*;
use crate::pasta_rig::*;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Stdio;
use tapnat::io::sys::netns::Netns;
use tapnat::lab::programs::{dns, http, pattern, udp};
use tapnat::lab::topology::{HOST, ROUTER, ROUTER_SIX, SERVERS, UPLINK};

/// All of them.
pub const TESTS: [(&str, fn()); 8] = [
    ("buildah_and_its_container", buildah_and_its_container),
    ("a_command_without_a_user_namespace", a_command_without_a_user_namespace),
    ("a_log_of_a_command_begins_with_its_head", a_log_of_a_command),
    ("a_log_keeps_its_size_and_order", a_log_keeps_its_size_and_order),
    ("transfers_to_the_host", transfers_to_the_host),
    ("two_guests_meet_by_the_host", two_guests),
    ("a_router_by_its_link_local_address", a_router_of_the_link),
    ("advertisements_give_a_router_and_no_address", advertised),
];

/// A namespace served in the background with this line of options.
fn started(rig: &Rig, options: &str) -> Guest {
    let guest = rig.guest();
    let pid = guest.pid();
    rig.quiet(&options.split_whitespace().chain([&*pid]).collect::<Vec<_>>());
    guest
}

/// The newest Buildah with `--network pasta:--dns-forward,192.168.0.1`: the namespace by its process, the
/// end by that too.
fn buildah_and_its_container() {
    let rig = Rig::new();
    let mut guest = rig.guest();
    let (path, note) = (format!("/proc/{}/ns/net", guest.pid()), rig.path("pid"));
    let line = format!(
        "--config-net --dns-forward 192.168.0.1 -t none -u none -T none -U none --no-map-gw --quiet \
         --map-guest-addr {MAPPED} --pid {} --netns {path}",
        note.display()
    );
    rig.quiet(&line.split_whitespace().collect::<Vec<_>>());
    let resolver = ([192, 168, 0, 1], 53);
    let named = guest.netns.run(|| dns::resolve(resolver, "www.example.org", SOON)).unwrap();
    assert_eq!(named.unwrap(), Some(SERVERS[0]));
    assert_eq!(guest.seen_by((SERVERS[0], 80)), HOST.to_string());
    let pid = read_pid(&note);
    guest.end();
    ends(&pid);
}

/// `pasta_options/netns_only`.
fn a_command_without_a_user_namespace() {
    let rig = Rig::new();
    let pasta = rig.path("pasta");
    let script = "echo TEST; readlink /proc/self/ns/user";
    let words =
        ["-r", "--", "sh", "-c", "readlink /proc/self/ns/user; exec \"$@\"", "sh", pasta.to_str().unwrap()];
    let own = ["-q", "--netns-only", "--", "sh", "-c", script];
    let mut command = rig.command("unshare".as_ref(), &[&words[..], &own].concat());
    let output = command.stderr(Stdio::piped()).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines, [lines[0], "TEST", lines[0]], "the user namespace of unshare");
    let alone = rig.pasta(&["--netns-only", "--", "true"]);
    assert_eq!(alone.status.code(), Some(1), "{alone:?}");
    assert!(told(&alone).starts_with("pasta: --netns-only: "), "{alone:?}");
}

/// `pasta_options/log_to_file`, "Log creation" and "Log truncation on creation".
fn a_log_of_a_command() {
    let rig = Rig::new();
    let log = rig.path("log");
    let options = ["-t", "10001,10002", "-u", "10001,10002", "-T", "none", "-U", "none"];
    let words = [&options[..], &["-l", log.to_str().unwrap(), "--", "/bin/true"]].concat();
    for _ in 0..2 {
        let mut child = rig.command(&rig.path("pasta"), &words).spawn().unwrap();
        let pid = child.id();
        assert!(child.wait().unwrap().success());
        let text = fs::read_to_string(&log).unwrap();
        let head = text.lines().next().unwrap_or_default();
        assert!(head.starts_with("pasta ") && head.ends_with(&format!(" ({pid})")), "{text}");
        assert_eq!(text.matches("pasta of tapnat").count(), 1, "{text}");
        assert!(text.lines().count() > 1, "what is done is told, though a command has the terminal: {text}");
    }
}

/// The same, "Maximum log size" and "Timestamp consistency after rotations".
fn a_log_keeps_its_size_and_order() {
    const MOST: u64 = 102_400;
    let rig = Rig::new();
    let log = rig.path("log");
    let line = format!(
        "--config-net --trace -t none -u none -T none -U none -l {} --log-size {MOST}",
        log.display()
    );
    let guest = started(&rig, &line);
    let size = || fs::metadata(&log).unwrap().len();
    let mut asked = 0;
    for _ in 0..3 {
        // So much that the file is full, however little one connection has to say.
        let (mut shrunk, mut last) = (false, size());
        while !shrunk {
            guest.seen_by((SERVERS[0], 80));
            asked += 1;
            shrunk = size() < last;
            last = size();
            assert!(last <= MOST && asked < 5000, "{last} bytes after {asked} connections");
        }
        // Half is kept, but for the line that was cut.
        assert!(last > MOST / 2 - 1024, "{last}");
    }
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.starts_with("pasta of tapnat "), "the head stays: {}", &text[..100]);
    let times: Vec<&str> = text.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert!(times.len() > 100 && times.is_sorted(), "{} lines", times.len());
    assert!(times.iter().all(|time| time.ends_with('Z')), "{:?}", times.first());
}

/// Sends and fetches `length` bytes from `netns`.
fn transfers(netns: &Netns, to: SocketAddr, length: u64) {
    let transfer = || {
        let mut client = http::Client::connect(to, LATER)?;
        let up = client.upload(length, length)?;
        let down = client.get(&format!("/bytes/{length}"))?;
        Ok::<_, std::io::Error>((up, down))
    };
    let (up, down) = netns.run(transfer).unwrap().unwrap_or_else(|error| panic!("{to}: {error}"));
    let sum = pattern::expected(length, length);
    assert_eq!(String::from_utf8_lossy(&up.body), format!("{length} {sum:016x}\n"), "{to} upload");
    assert_eq!((down.length, down.sum), (length, sum), "{to} download");
}

/// 5 KiB and nothing at all, there and back.
fn echoes(netns: &Netns, to: SocketAddr) {
    let mut long = vec![0; 5 << 10];
    pattern::Pattern::new(7).fill(&mut long);
    for message in [&long[..], b""] {
        let answer = netns.run(|| udp::ask(to, message, SOON)).unwrap();
        let answer = answer.unwrap_or_else(|error| panic!("{to}, {} bytes: {error}", message.len()));
        assert!(answer == message, "{to}: {} bytes", answer.len());
    }
}

const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// `pasta/tcp` and `pasta/udp`, from the namespace to the host: through the TAP to the router, which stands
/// for the host, and from loopback to loopback; at several MTUs of the TAP, as `perf/pasta_tcp` sets them.
fn transfers_to_the_host() {
    let rig = Rig::new();
    let guest = started(&rig, "--config-net -q -t 10002 -T 10003 -u 10002 -U 10003");
    let _web = LOOPBACK.map(|ip| http::serve(rig.host(), (ip, 10003)).unwrap());
    let _echo = LOOPBACK.map(|ip| udp::serve(rig.host(), (ip, 10003)).unwrap());
    let routers = [IpAddr::V4(ROUTER), IpAddr::V6(ROUTER_SIX)];
    for ip in [routers, LOOPBACK].concat() {
        let to = SocketAddr::new(ip, 10003);
        transfers(&guest.netns, to, 2048);
        transfers(&guest.netns, to, 10 << 20);
        echoes(&guest.netns, to);
    }
    for mtu in [1500, 9000, 1280, 65520] {
        assert_eq!(guest.says(&format!("ip link set {UPLINK} mtu {mtu}")), "");
        for ip in routers {
            transfers(&guest.netns, SocketAddr::new(ip, 10003), 2 << 20);
            echoes(&guest.netns, SocketAddr::new(ip, 10003));
        }
    }
}

/// `two_guests/basic`: two namespaces, each with a gateway of its own, by the host's loopback.
fn two_guests() {
    let rig = Rig::new();
    let line = "--config-net -q -t 10001,10002 -T 10003,10004 -u 10001,10002 -U 10003,10004";
    let one = started(&rig, line);
    let two = started(&rig, "--config-net -q -t 10004,10005 -T 10003,10001 -u 10004,10005 -U 10003,10001");
    let ways = [(&one.netns, &two.netns, 10004), (&two.netns, &one.netns, 10001)];
    for (client, server, port) in ways {
        // Of both families.
        let _web = http::serve(server, (Ipv6Addr::UNSPECIFIED, port)).unwrap();
        let _echo = udp::serve(server, (Ipv6Addr::UNSPECIFIED, port)).unwrap();
        for ip in [IpAddr::V4(ROUTER), ROUTER_SIX.into(), LOOPBACK[0], LOOPBACK[1]] {
            transfers(client, SocketAddr::new(ip, port), 2048);
            echoes(client, SocketAddr::new(ip, port));
        }
    }
}

/// `pasta/tcp` where the host's router of IPv6 is known by its link-local address.
fn a_router_of_the_link() {
    let rig = Rig::new();
    let router = "fe80::1234";
    let set = format!("ip -6 route replace default via {router} dev {UPLINK}");
    assert_eq!(rig.on_host(&set), "");
    let guest = started(&rig, "--config-net -q -t none -u none -T none -U none");
    let said = guest.says("ip -6 route");
    assert!(said.contains(&format!("default via {router} dev {UPLINK}")), "{said}");
    let _web = http::serve(rig.host(), (Ipv6Addr::LOCALHOST, 10003)).unwrap();
    let script = format!("curl -s -m 10 'http://[{router}%{UPLINK}]:10003/'");
    assert!(guest.says(&script).starts_with("hello [::1]"), "{}", guest.says(&script));
}

/// `pasta/ndp`, without `--config-net`: the router is told, and that no address is to be made up of the
/// prefix, of which only one address has a gateway.
fn advertised() {
    let rig = Rig::new();
    let guest = started(&rig, "-q -t none -u none -T none -U none");
    assert_eq!(guest.says(&format!("ip link set {UPLINK} up")), "");
    eventually("a router is told", LATER, || guest.says("ip -6 route").contains("default via fe80::"));
    // What the message says of the prefix is done at once with what it says of the router.
    let said = guest.says("ip -6 addr show scope global; ip -6 route");
    assert!(!said.contains("inet6") && said.contains("2001:db8:113::/64"), "{said}");
}
