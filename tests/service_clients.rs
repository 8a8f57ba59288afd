//! Services for hosts inside through the real gateway: udhcpc asks it for an address, programs ask it
//! for names while the host's resolver changes, and what egress rules deny is refused at once.
#![allow(clippy::unwrap_used)]

#[path = "support/lab_harness.rs"]
mod lab_harness;
#[path = "support/lab_setup.rs"]
#[allow(dead_code, reason = "each test program uses a part")]
mod lab_setup;

use lab_harness::Test;
use lab_setup::{Form, PLAIN, PROGRAM, SOON, World, at, eventually, page, peer_of};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};
use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::Duration;
use tapnat::lab::programs::{dns, http, now};
use tapnat::lab::topology::{CONTAINERS, GATEWAY, HOST, Options, ROUTER, SERVERS};

const RAW: Form = Form { uplink: "raw", guard: "hold", tap: "auto" };
const SOCKETS: Form = Form { uplink: "sockets", guard: "auto", tap: "auto" };

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// An address that is the gateway's for names alone.
const NAMES: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 53);
/// Where the host's own resolver listens.
const STUB: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 53), 53);
const NAME: &str = "www.example.org";

fn main() -> ExitCode {
    let case = |name: &str, run: fn()| Test { name: name.to_owned(), run: Box::new(run), impossible: None };
    let installed = |program| Command::new(program).arg("--help").output().is_ok();
    let udhcpc = (!installed("udhcpc")).then(|| "udhcpc is not installed".to_owned());
    let forms = [("packet", PLAIN), ("raw", RAW), ("sockets", SOCKETS)];
    lab_harness::main(move || {
        let names = forms.map(|(word, form)| Test {
            name: format!("names_are_asked_of_the_hosts_resolver_{word}"),
            run: Box::new(move || names_are_asked_of_the_hosts_resolver(form)),
            impossible: None,
        });
        let lease = Test { impossible: udhcpc, ..case("udhcpc_gets_an_address", udhcpc_gets_an_address) };
        let mut tests: Vec<Test> = names.into();
        tests.extend([lease, case("what_is_denied_is_refused_at_once", what_is_denied_is_refused_at_once)]);
        tests.push(case("the_next_resolver_is_asked_instead_of_a_silent_one", the_next_resolver_is_asked));
        tests.extend(forms.map(|(word, form)| Test {
            name: format!("a_name_opens_its_addresses_{word}"),
            run: Box::new(move || a_name_opens_its_addresses(form)),
            impossible: None,
        }));
        let dig = (!installed("dig")).then(|| "dig is not installed".to_owned());
        tests.extend(forms.map(|(word, form)| Test {
            name: format!("domains_are_asked_of_their_own_resolvers_{word}"),
            run: Box::new(move || domains_are_asked_of_their_own_resolvers(form)),
            impossible: dig.clone(),
        }));
        tests
    })
}

/// What the host's resolv.conf says for as long as this lives; the process has mounts of its own.
struct Says(PathBuf);

impl Says {
    /// `name` is that of the file: another one has another.
    fn this(world: &World, name: &str, text: &str) -> Says {
        let path = world.folder.path().join(name);
        fs::write(&path, text).unwrap();
        // As on a host of systemd, processes with mounts of their own see those that come later.
        mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC).unwrap();
        mount_bind(&path, RESOLV_CONF).unwrap();
        Says(path)
    }

    /// It is written anew in its place.
    fn now(&self, text: &str) {
        fs::write(&self.0, text).unwrap();
    }
}

impl Drop for Says {
    fn drop(&mut self) {
        unmount(RESOLV_CONF, UnmountFlags::DETACH).unwrap();
    }
}

fn asked(world: &World, server: Ipv4Addr) -> Option<Ipv4Addr> {
    world.on("red").run(|| dns::resolve(at(server, 53), NAME, SOON)).unwrap().unwrap_or(None)
}

fn names_are_asked_of_the_hosts_resolver(form: Form) {
    let world = World::new(Options::default());
    let _says = Says::this(&world, "one", "nameserver 127.0.0.53\noptions edns0\n");
    let known = Ipv4Addr::new(192, 0, 2, 77);
    let _stub = dns::serve(world.on("host"), STUB, vec![(NAME.to_owned(), known)]).unwrap();
    // Who cares what speaks TCP there.
    let _tcp = http::serve(world.on("host"), STUB).unwrap();
    let gateway = world
        .gateway(form, &["--dns-forward", "gateway", "--dns-forward", &NAMES.to_string(), "--dhcp", "on"]);
    for server in [GATEWAY, NAMES] {
        assert_eq!(asked(&world, server), Some(known), "{form} {server}");
        let response = page(world.on("red"), at(server, 53), "/").unwrap();
        assert!(peer_of(&response).ip().is_loopback(), "{form} {server}: {response:?}");
        let other = page(world.on("red"), at(server, 80), "/");
        assert_eq!(other.unwrap_err().kind(), ErrorKind::ConnectionRefused, "{form} {server}");
    }
    // Many at once, each from a port of its own.
    for _ in 0..50 {
        assert_eq!(asked(&world, GATEWAY), Some(known), "{form}");
    }
    // The host moves to another network, and the file is another one under the same name.
    let says = Says::this(&world, "two", &format!("nameserver {ROUTER}\n"));
    // A question that is under way meanwhile may be lost, and is waited for.
    eventually("the new resolver is asked", SOON * 4, || asked(&world, NAMES) == Some(SERVERS[0]));
    says.now("nameserver 127.0.0.53\n");
    eventually("the first one is asked again", SOON * 4, || asked(&world, NAMES) == Some(known));
    let told = "the host asks 203.0.113.254:53 for names now";
    eventually(told, SOON, || gateway.0.said().contains(told));
    drop(gateway);
}

/// Writes what it was told into the file that `SAID` names.
const SCRIPT: &str = "#!/bin/sh\n[ \"$1\" = bound ] || exit 0\nenv > \"$SAID\"\n";

fn udhcpc_gets_an_address() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new(Options::default());
    let _says = Says::this(&world, "one", "nameserver 192.0.2.53\nsearch lab.example example\n");
    let _gateway = world.gateway(PLAIN, &["--dhcp", "10.88.0.100-10.88.0.120", "--dhcp-lease", "2h"]);
    let (script, said) = (world.folder.path().join("script"), world.folder.path().join("said"));
    fs::write(&script, SCRIPT).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    run(&world, "red", &["ip", "address", "flush", "dev", "eth0"], &said);
    let script = script.to_str().unwrap();
    let obtain = |wish: &[&str]| {
        let words =
            ["udhcpc", "-i", "eth0", "-f", "-n", "-q", "-t", "5", "-T", "1", "-s", script, "-O", "search"];
        run(&world, "red", &[&words[..], wish].concat(), &said);
        let text = fs::read_to_string(&said).unwrap();
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect::<HashMap<_, _>>()
    };
    let told = obtain(&["-O", "mtu"]);
    let ip: Ipv4Addr = told["ip"].parse().unwrap();
    assert!((100..=120).contains(&ip.octets()[3]), "{ip}");
    let gateway = GATEWAY.to_string();
    for (name, value) in [
        ("router", gateway.as_str()),
        ("dns", &gateway),
        ("serverid", &gateway),
        ("subnet", "255.255.255.0"),
        ("broadcast", "10.88.0.255"),
        ("mtu", "1500"),
        ("lease", "7200"),
        ("domain", "lab.example"),
        ("search", "lab.example example"),
    ] {
        assert_eq!(told.get(name).map(String::as_str), Some(value), "{name}: {told:?}");
    }
    assert_eq!(obtain(&[])["ip"], ip.to_string(), "it has the same again");
    // Blue has 10.88.0.3 and now 10.88.0.110 too, of which the gateway knows nothing.
    run(&world, "blue", &["ip", "address", "add", "10.88.0.110/24", "dev", "eth0"], &said);
    let other = obtain(&["-r", "10.88.0.110", "-x", "0x3d:01020304050607"]);
    assert_ne!(other["ip"], "10.88.0.110");
    run(&world, "red", &["ip", "address", "add", &format!("{ip}/24"), "dev", "eth0"], &said);
    run(&world, "red", &["ip", "route", "add", "default", "via", &gateway], &said);
    let seen = peer_of(&page(world.on("red"), at(SERVERS[0], 80), "/").unwrap());
    assert_eq!(seen.ip(), &HOST);
}

fn what_is_denied_is_refused_at_once() {
    let world = World::new(Options::default());
    let rule = format!("{}=deny:{}", CONTAINERS[0], SERVERS[0]);
    let gateway = world.gateway(PLAIN, &["--egress", &rule, "--egress", "deny:any:5001/tcp"]);
    let ask = |host, server: Ipv4Addr, port| page(world.on(host), at(server, port), "/");
    let metadata = Ipv4Addr::new(169, 254, 169, 254);
    for (host, server, port) in
        [("red", SERVERS[0], 80), ("red", metadata, 80), ("blue", metadata, 80), ("blue", SERVERS[1], 5001)]
    {
        let start = now();
        let refused = ask(host, server, port).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::HostUnreachable, "{host} {server}:{port}: {refused}");
        // A host that is not found is told of after 3 s.
        assert!(now() - start < SOON / 2, "it is told, and has not waited");
    }
    assert!(ask("red", SERVERS[1], 80).is_ok() && ask("blue", SERVERS[0], 80).is_ok());
    let stats = Command::new(PROGRAM).args(["stats", "--control"]).arg(world.control()).output().unwrap();
    let stats = String::from_utf8(stats.stdout).unwrap();
    assert!(
        stats.lines().any(|line| line.contains("egress-denied") && line.trim().ends_with('4')),
        "{stats}"
    );
    let mut watcher = Command::new(PROGRAM);
    watcher.args(["events", "--kinds", "refused", "--json", "--control"]).arg(world.control());
    let mut watcher = watcher.stdout(Stdio::piped()).spawn().unwrap();
    let output = BufReader::new(watcher.stdout.take().unwrap());
    let (send, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || output.lines().map_while(Result::ok).for_each(|line| drop(send.send(line))));
    let rule = format!("\"rule\":\"{}/32=deny:{}/32\"", CONTAINERS[0], SERVERS[0]);
    eventually("who watches is told which rule denied it", SOON, || {
        ask("red", SERVERS[0], 80).unwrap_err();
        lines.recv_timeout(Duration::from_millis(50)).is_ok_and(|line| line.contains(&rule))
    });
    let _ = watcher.kill();
    let _ = watcher.wait();
    drop(gateway);
}

fn the_next_resolver_is_asked() {
    let world = World::new(Options::default());
    let (silent, known) = (Ipv4Addr::new(127, 0, 0, 54), Ipv4Addr::new(192, 0, 2, 77));
    // Nobody is at the first one, and the second one says nothing.
    let _says = Says::this(
        &world,
        "one",
        &format!("nameserver 127.0.0.55\nnameserver {silent}\nnameserver 127.0.0.53\n"),
    );
    let _stub = dns::serve(world.on("host"), STUB, vec![(NAME.to_owned(), known)]).unwrap();
    let _deaf = world.on("host").run(|| UdpSocket::bind(at(silent, 53))).unwrap().unwrap();
    let gateway = world.gateway(PLAIN, &["--dns-forward", "gateway"]);
    let start = now();
    let ask = || world.on("red").run(|| dns::resolve(at(GATEWAY, 53), NAME, SOON / 20));
    eventually("the third one is asked", SOON, || matches!(ask(), Ok(Ok(Some(found))) if found == known));
    assert!(now() - start < SOON, "before programs give up");
    for line in [
        "127.0.0.55:53 does not answer; 127.0.0.54:53 is asked for names",
        "127.0.0.54:53 does not answer; 127.0.0.53:53 is asked for names",
    ] {
        eventually(line, SOON, || gateway.0.said().contains(line));
    }
}

fn a_name_opens_its_addresses(form: Form) {
    let world = World::new(Options::default());
    let _says = Says::this(&world, "one", "nameserver 127.0.0.53\n");
    let private = Ipv4Addr::new(192, 168, 7, 7);
    let zone = vec![(NAME.to_owned(), SERVERS[0]), ("private.example.org".to_owned(), private)];
    let _stub = dns::serve(world.on("host"), STUB, zone).unwrap();
    let rules = [&format!("allow:{GATEWAY}:53/udp"), "allow:*.example.org:80/tcp", "deny:any"];
    let rules = rules.iter().flat_map(|rule| ["--egress", rule]);
    let options: Vec<&str> = ["--dns-forward", "gateway"].into_iter().chain(rules).collect();
    let gateway = world.gateway(form, &options);
    let opens = |host, server| page(world.on(host), at(server, 80), "/").map_err(|error| error.kind());
    let refused = Some(ErrorKind::HostUnreachable);
    assert_eq!(opens("red", SERVERS[0]).err(), refused, "{form}: nobody has asked");
    assert_eq!(asked(&world, GATEWAY), Some(SERVERS[0]), "{form}");
    let found = world.on("red").run(|| dns::resolve(at(GATEWAY, 53), "private.example.org", SOON));
    assert_eq!(found.unwrap().unwrap(), Some(private), "{form}: it may be asked for");
    assert!(opens("red", SERVERS[0]).is_ok(), "{form}");
    assert_eq!(opens("blue", SERVERS[0]).err(), refused, "{form}: another host");
    assert_eq!(opens("red", SERVERS[1]).err(), refused, "{form}: another server");
    assert_eq!(opens("red", private).err(), refused, "{form}: a private address");
    let stats = Command::new(PROGRAM).args(["stats", "--control"]).arg(world.control()).output().unwrap();
    let stats = String::from_utf8(stats.stdout).unwrap();
    for (word, count) in [("names: known", "1"), ("names: not-public", "1"), ("egress-denied", "4")] {
        let line = stats.lines().find(|line| line.contains(word));
        assert!(line.is_some_and(|line| line.trim().ends_with(count)), "{form} {word}: {stats}");
    }
    drop(gateway);
}

/// What `dig` on red is told: the addresses, or nothing but why not.
fn dig(world: &World, words: &[&str]) -> String {
    let mut command = Command::new("dig");
    command.args(["+short", "+time=2", "+tries=2"]).args(words).stdin(Stdio::null());
    world.on("red").confine(&mut command);
    String::from_utf8(command.output().unwrap().stdout).unwrap().trim().to_owned()
}

/// Answers at `address` of the host by UDP that there is no room, and by TCP with `told`, until the
/// lab ends.
fn without_room(world: &World, address: SocketAddrV4, told: Ipv4Addr) {
    use std::io::{Read, Write};
    let answer = move |query: &[u8], room: bool| {
        // The question ends before the additional section, which is left out.
        let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
        let mut reply = query[..end].to_vec();
        reply[2] = if room { 0x84 } else { 0x86 };
        reply[3] = 0;
        reply[6..12].copy_from_slice(&[0, u8::from(room), 0, 0, 0, 0]);
        if room {
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            reply.extend(told.octets());
        }
        reply
    };
    let (udp, tcp) = world
        .on("host")
        .run(|| (UdpSocket::bind(address).unwrap(), std::net::TcpListener::bind(address).unwrap()))
        .unwrap();
    std::thread::spawn(move || {
        let mut query = [0; 1500];
        while let Ok((length, from)) = udp.recv_from(&mut query) {
            let _ = udp.send_to(&answer(&query[..length], false), from);
        }
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut length = [0; 2];
            if stream.read_exact(&mut length).is_err() {
                continue;
            }
            let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
            if stream.read_exact(&mut query).is_ok() {
                let reply = answer(&query, true);
                let _ = stream.write_all(&[&(reply.len() as u16).to_be_bytes()[..], &reply].concat());
            }
        }
    });
}

fn domains_are_asked_of_their_own_resolvers(form: Form) {
    let six = tapnat::lab::topology::WithSix::Fixed;
    let world = World::new(Options { six, ..Options::default() });
    let _says = Says::this(&world, "one", "nameserver 127.0.0.53\n");
    let own = |last| SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, last), 53);
    let address = |last| Ipv4Addr::new(192, 0, 2, last);
    let zone = |last| {
        ["www.example.org", "www.corp.example", "www.mycorp.example"]
            .map(|name| (name.to_owned(), address(last)))
            .to_vec()
    };
    let _general = dns::serve(world.on("host"), STUB, zone(53)).unwrap();
    let _corp = dns::serve(world.on("host"), own(77), zone(77)).unwrap();
    without_room(&world, own(78), address(78));
    let file = world.folder.path().join("split.toml");
    let write = |table: &str| {
        let text = format!("dns-forward = [\"gateway\"]\n[dns-domain]\n{table}");
        fs::write(&file, text).unwrap();
    };
    // Nobody is at the first one of the domain.
    write("\"Corp.Example.\" = \"127.0.0.76, 127.0.0.77\"\n");
    let both = ["--inside", "10.88.0.1/24", "--inside", "fd00:88::1/64", "--config"];
    let gateway = world.gateway(form, &[&both[..], &[file.to_str().unwrap()]].concat());
    let (four, six) = (format!("@{GATEWAY}"), format!("@{}", tapnat::lab::topology::GATEWAY_SIX));
    for server in [&four, &six] {
        let ask = |name: &str| dig(&world, &[server, name]);
        let found = address(77).to_string();
        eventually("the domain's second server answers", SOON, || ask("www.corp.example") == found);
        assert_eq!(ask("WWW.corp.EXAMPLE"), found, "{form} {server}");
        assert_eq!(ask("www.example.org"), address(53).to_string(), "{form} {server}");
        assert_eq!(ask("www.mycorp.example"), address(53).to_string(), "{form} {server}");
    }
    let tapnat = |verb: &[&str]| {
        let output = Command::new(PROGRAM).args(verb).arg("--control").arg(world.control()).output().unwrap();
        assert!(output.status.success(), "{verb:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    write("\"corp.example\" = \"127.0.0.78\"\n");
    let would = tapnat(&["reload", "--dry-run"]);
    assert!(would.contains("dns-domain.corp.example: 127.0.0.76, 127.0.0.77 -> 127.0.0.78"), "{would}");
    tapnat(&["reload"]);
    for server in [&four, &six] {
        let found = dig(&world, &[server, "www.corp.example"]);
        assert!(found.ends_with(&address(78).to_string()), "{form} {server}: by TCP: {found}");
        assert_eq!(dig(&world, &[server, "www.example.org"]), address(53).to_string(), "{form} {server}");
    }
    write("");
    tapnat(&["reload"]);
    assert_eq!(dig(&world, &[&four, "www.corp.example"]), address(53).to_string(), "{form}");
    drop(gateway);
}

/// Runs a command on a host of the lab to its end; panics with all it said if it fails.
fn run(world: &World, host: &str, words: &[&str], said: &Path) {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env("SAID", said).stdin(Stdio::null());
    world.on(host).confine(&mut command);
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{host}$ {}\n{status}\n{stdout}\n{stderr}", words.join(" "));
}
