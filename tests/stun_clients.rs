//! STUN through the real gateway and from outside: our probe, coturn's `turnutils_natdiscovery` and
//! the classic client `stun` ask our server about every class, and all say what the gateway was told to
//! be; our probe asks other people's servers.
//!
//! A program that is not installed is named and its test skipped; with `CI` set, skipping is failing.
#![allow(clippy::unwrap_used)]

#[path = "support/lab_harness.rs"]
mod lab_harness;
#[path = "support/lab_setup.rs"]
#[allow(dead_code, reason = "each test program uses a part")]
mod lab_setup;

use lab_harness::Test;
use lab_setup::{Form, Gateway, LATER, PLAIN, PROGRAM, World, eventually};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitCode, Stdio};
use tapnat::io::netlink::Netlink;
use tapnat::lab::netns::set_sysctl;
use tapnat::lab::topology::Options;

/// The server's address and the other one, both on the host called internet.
const SERVER: &str = "198.51.100.7";
const OTHER: &str = "198.51.100.8";
const NAT_DISCOVERY: &str = "turnutils_natdiscovery";

/// The packet uplink, and the raw one.
const RAW: Form = Form { uplink: "raw", guard: "hold", tap: "auto" };

/// A class of NAT and its words in each program's language.
struct Class {
    name: &'static str,
    mapping: &'static str,
    filtering: &'static str,
    /// What coturn says.
    discovered: [&'static str; 2],
    /// What the client of RFC 3489 says. It does not tell kinds of dependent mapping apart.
    classic: &'static str,
}

const CLASSES: [Class; 4] = [
    Class {
        name: "full-cone",
        mapping: "endpoint-independent",
        filtering: "endpoint-independent",
        discovered: ["Endpoint Independent Mapping!", "Endpoint Independent Filtering!"],
        classic: "Independent Mapping, Independent Filter",
    },
    Class {
        name: "restricted-cone",
        mapping: "endpoint-independent",
        filtering: "address-dependent",
        discovered: ["Endpoint Independent Mapping!", "Address Dependent Filtering!"],
        classic: "Independent Mapping, Address Dependent Filter",
    },
    Class {
        name: "port-restricted",
        mapping: "endpoint-independent",
        filtering: "address-and-port-dependent",
        discovered: ["Endpoint Independent Mapping!", "Address and Port Dependent Filtering!"],
        classic: "Independent Mapping, Port Dependent Filter",
    },
    Class {
        name: "symmetric",
        mapping: "address-and-port-dependent",
        filtering: "address-and-port-dependent",
        discovered: ["Address and Port Dependent Mapping!", "Address and Port Dependent Filtering!"],
        classic: "Dependent Mapping",
    },
];

impl Class {
    fn options(&self) -> [&'static str; 4] {
        ["--mapping", self.mapping, "--filtering", self.filtering]
    }
}

/// A process that is killed when the test is over.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(world: &World, host: &str, words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::null());
    world.on(host).confine(&mut command);
    command
}

/// Runs a command on a host of the lab to its end and gives all it said, with its exit code.
fn said(world: &World, host: &str, words: &[&str]) -> (String, Option<i32>) {
    let output = command(world, host, words).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8_lossy(&text).into_owned(), output.status.code())
}

/// Our server on the internet, when it listens.
fn serve(world: &World, more: &[&str]) -> Background {
    serve_at(world, SERVER, more)
}

fn serve_at(world: &World, address: &str, more: &[&str]) -> Background {
    let words = [&[PROGRAM, "selftest", "serve", "--address", address], more].concat();
    let mut child = command(world, "internet", &words).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("listening"), "{line}");
    Background(child)
}

fn probe(world: &World, host: &str, more: &[&str]) -> Value {
    probe_of(world, host, SERVER, more)
}

fn probe_of(world: &World, host: &str, server: &str, more: &[&str]) -> Value {
    let words = [&[PROGRAM, "selftest", "probe", server, "--json", "--rto", "40ms"], more].concat();
    let (text, code) = said(world, host, &words);
    assert_eq!(code, Some(0), "{text}");
    let line = text.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{text}"));
    serde_json::from_str(line).unwrap()
}

/// A lab with our server outside, and with a gateway of this class.
fn field(form: Form, class: &Class) -> (World, Gateway, Background) {
    let world = World::new(Options::default());
    let gateway = world.gateway(form, &class.options());
    let server = serve(&world, &["--alternate", OTHER]);
    (world, gateway, server)
}

fn our_probe_says_the_class(form: Form, class: &Class) {
    let (world, _gateway, _server) = field(form, class);
    let report = probe(&world, "red", &[]);
    assert_eq!(report["class"], class.name, "{report}");
    assert_eq!(report["mapping"], class.mapping);
    assert_eq!(report["filtering"], class.filtering);
    let hairpin = if class.name == "symmetric" { Value::Null } else { "external".into() };
    assert_eq!(report["hairpin"], hairpin, "{report}");
    assert_eq!((&report["fragments_out"], &report["fragments_in"]), (&true.into(), &true.into()));
    assert_eq!((&report["mtu"], &report["alg"]), (&1500.into(), &false.into()));
    assert_eq!(report["ports"]["parity"], report["ports"]["sockets"]);
    assert_eq!(report["ports"]["addresses"], serde_json::json!(["203.0.113.1"]));
    world.assert_checksums_right();
}

/// coturn's client, which takes its time where nothing comes: all its questions at once, from both
/// containers, whose first ones use the same port.
fn natdiscovery_says_the_class(form: Form, class: &Class) {
    let (world, _gateway, _server) = field(form, class);
    let [mapping, filtering] = class.discovered.map(|verdict| format!("NAT with {verdict}"));
    let mut running = Vec::new();
    for (host, address) in [("red", "10.88.0.2"), ("blue", "10.88.0.3")] {
        for (options, expected) in [
            (&["-m", "-L", address, "-l", "5000"][..], &mapping),
            (&["-m", "-P"], &mapping),
            (&["-f"], &filtering),
            (&["-f", "-P"], &filtering),
        ] {
            let words = [&[NAT_DISCOVERY], options, &[SERVER]].concat();
            let child = command(&world, host, &words).stdout(Stdio::piped()).spawn().unwrap();
            running.push((format!("{host}$ {words:?}"), expected, child));
        }
    }
    for (words, expected, child) in running {
        let text = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        assert!(text.contains(expected.as_str()), "{words}\n{text}");
        assert!(text.contains("No ALG"), "{words}\n{text}");
    }
    // It sends from a socket that the target has never sent to: a filter that depends on the remote
    // lets that in as little as anybody else.
    let hairpin = said(&world, "red", &[NAT_DISCOVERY, "-H", SERVER]).0;
    assert_eq!(hairpin.contains("successful hairpinning"), class.name == "full-cone", "{hairpin}");
    world.assert_checksums_right();
}

fn the_classic_client_says_the_class(form: Form, class: &Class) {
    let (world, _gateway, _server) = field(form, class);
    let (text, _) = said(&world, "red", &["stun", SERVER]);
    let verdict = text.lines().find(|line| line.starts_with("Primary:")).unwrap_or_else(|| panic!("{text}"));
    assert!(verdict.contains(&format!(" {}", class.classic)), "{text}");
}

/// Both ask with RESPONSE-PORT, sooner and later than the gateway's timer ends.
fn lifetimes_agree_with_the_gateways_timer(form: Form) {
    let world = World::new(Options::default());
    let _gateway = world.gateway(form, &["--timeout", "udp=4s"]);
    let _server = serve(&world, &["--alternate", OTHER]);
    let agrees = |report: &Value| {
        let [alive, gone] = ["alive", "gone"].map(|key| report["lifetime"][key].as_f64().unwrap());
        // The gateway's wheel and a busy machine round up.
        (3.0..=5.5).contains(&alive) && (3.9..=6.0).contains(&gone)
    };
    // On a machine so busy that a question comes a tenth of a second late, it is asked again.
    let reports = (0..3).map(|_| probe(&world, "red", &["--lifetime", "9s", "--lifetime-min", "1s"]));
    let mut seen = Vec::new();
    assert!(reports.inspect(|report| seen.push(report.clone())).any(|report| agrees(&report)), "{seen:?}");
}

fn natdiscovery_sees_the_lifetime(form: Form) {
    let world = World::new(Options::default());
    let _gateway = world.gateway(form, &["--timeout", "udp=4s"]);
    let _server = serve(&world, &["--alternate", OTHER]);
    for (seconds, alive) in [("1", true), ("8", false)] {
        let text = said(&world, "red", &[NAT_DISCOVERY, "-t", "-T", seconds, SERVER]).0;
        let second = text.contains("RFC 5780 response 2");
        assert_eq!(second, alive, "after {seconds} s:\n{text}");
    }
}

/// Without a gateway in between, on the server's own network.
fn without_a_nat_everybody_says_so(_: Form) {
    let world = World::new(Options::default());
    let _server = serve(&world, &["--alternate", OTHER]);
    let report = probe(&world, "host", &[]);
    assert_eq!((&report["translated"], &report["mapped"]), (&false.into(), &report["local"]));
    assert_eq!(report["filtering"], "endpoint-independent");
    let found = said(&world, "host", &[NAT_DISCOVERY, "-f", SERVER]).0;
    assert!(found.contains("Endpoint Independent Filtering!"), "{found}");
    let classic = said(&world, "host", &["stun", SERVER]).0;
    assert!(classic.contains("Primary: Open"), "{classic}");
}

/// The lab's hosts have no IPv6 unless they are given it.
fn ipv6_is_probed_alike(_: Form) {
    let world = World::new(Options::default());
    let give = || {
        set_sysctl("net/ipv6/conf/lo/disable_ipv6", "0")?;
        let netlink = Netlink::open()?;
        let lo = netlink.link("lo")?.unwrap().index;
        ["2001:db8::7", "2001:db8::8"]
            .iter()
            .try_for_each(|address| netlink.add_address(lo, address.parse().unwrap(), 128))
    };
    world.on("internet").run(give).unwrap().unwrap();
    let _server = serve_at(&world, "2001:db8::7", &["--alternate", "2001:db8::8"]);
    let report = probe_of(&world, "internet", "[2001:db8::7]:3478", &[]);
    assert_eq!((&report["family"], &report["translated"]), (&6.into(), &false.into()), "{report}");
    assert_eq!((&report["filtering"], &report["alg"]), (&"endpoint-independent".into(), &false.into()));
    assert_eq!(report["other"], "[2001:db8::8]:3479");
    assert!(report["mtu"].as_u64().unwrap() > 60_000, "{report}");
}

fn a_server_with_one_address_is_no_less_a_server(form: Form) {
    let world = World::new(Options::default());
    let _gateway = world.gateway(form, &[]);
    let _server = serve(&world, &[]);
    let report = probe(&world, "red", &[]);
    assert!(report["unknown"]["mapping"].as_str().unwrap().contains("OTHER-ADDRESS"), "{report}");
    assert_eq!(report["hairpin"], "external");
    let text = said(&world, "red", &["turnutils_stunclient", SERVER]).0;
    assert!(text.contains("UDP reflexive addr: 203.0.113.1:"), "{text}");
}

/// coturn has two addresses and two ports, and answers RFC 5780.
fn our_probe_asks_coturn(form: Form) {
    for class in &CLASSES {
        let world = World::new(Options::default());
        let _gateway = world.gateway(form, &class.options());
        let folder = world.folder.path().to_str().unwrap();
        let words = [
            "turnserver",
            "-n",
            "--stun-only",
            "--no-cli",
            "--no-tls",
            "--no-dtls",
            "-L",
            SERVER,
            "-L",
            OTHER,
            "--log-file",
            "stdout",
            "--pidfile",
            &format!("{folder}/pid"),
            "--userdb",
            &format!("{folder}/users"),
        ];
        let mut turnserver = command(&world, "internet", &words);
        turnserver.current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null());
        let _turnserver = Background(turnserver.spawn().unwrap());
        eventually("coturn answers", LATER, || {
            let words = [PROGRAM, "selftest", "probe", SERVER, "--json", "--rto", "2ms"];
            said(&world, "host", &words).1 == Some(0)
        });
        let report = probe(&world, "red", &[]);
        assert!(report["software"].as_str().unwrap().contains("Coturn"), "{report}");
        assert_eq!(report["class"], class.name, "{report}");
        assert_eq!((&report["mtu"], &report["alg"]), (&1500.into(), &false.into()), "{report}");
    }
}

fn the_server_ends_by_a_signal_and_says_what_it_did(_: Form) {
    let world = World::new(Options::default());
    let mut server = serve(&world, &["--alternate", OTHER, "--json"]);
    probe(&world, "host", &[]);
    let pid = rustix::process::Pid::from_child(&server.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let mut rest = String::new();
    server.0.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
    assert!(server.0.wait().unwrap().success());
    let last: Value = serde_json::from_str(rest.lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["signal"]), (&"ended".into(), &"SIGTERM".into()));
    let answered = rest.lines().filter(|line| line.contains("\"answered\"")).count();
    assert_eq!(last["served"].as_u64().unwrap() + last["refused"].as_u64().unwrap(), answered as u64);
}

fn installed(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|folder| folder.join(program).is_file())
}

/// The first of these programs that is not installed, as a reason.
fn missing(programs: &[&str]) -> Option<String> {
    programs.iter().find(|program| !installed(program)).map(|program| format!("{program} is not installed"))
}

/// A test of a class: its name, the programs it needs, and what it does.
type OfClass = (&'static str, &'static [&'static str], fn(Form, &Class));
/// A test of its own.
type Alone = (&'static str, &'static [&'static str], fn(Form));

const OF_EVERY_CLASS: [OfClass; 3] = [
    ("our_probe_says_the_class", &[], our_probe_says_the_class),
    ("natdiscovery_says_the_class", &[NAT_DISCOVERY], natdiscovery_says_the_class),
    ("the_classic_client_says_the_class", &["stun"], the_classic_client_says_the_class),
];

const ALONE: [Alone; 7] = [
    ("ipv6_is_probed_alike", &[], ipv6_is_probed_alike),
    ("lifetimes_agree_with_the_gateways_timer", &[], lifetimes_agree_with_the_gateways_timer),
    ("natdiscovery_sees_the_lifetime", &[NAT_DISCOVERY], natdiscovery_sees_the_lifetime),
    ("without_a_nat_everybody_says_so", &[NAT_DISCOVERY, "stun"], without_a_nat_everybody_says_so),
    (
        "a_server_with_one_address_is_no_less_a_server",
        &["turnutils_stunclient"],
        a_server_with_one_address_is_no_less_a_server,
    ),
    ("our_probe_asks_coturn", &["turnserver"], our_probe_asks_coturn),
    (
        "the_server_ends_by_a_signal_and_says_what_it_did",
        &[],
        the_server_ends_by_a_signal_and_says_what_it_did,
    ),
];

fn tests() -> Vec<Test> {
    let mut all = Vec::new();
    for (name, programs, test) in OF_EVERY_CLASS {
        for class in &CLASSES {
            for form in [PLAIN, RAW] {
                let run = Box::new(move || test(form, class));
                let name = format!("{name}/{}/{}", class.name, form.uplink);
                all.push(Test { name, run, impossible: missing(programs) });
            }
        }
    }
    for (name, programs, test) in ALONE {
        let run = Box::new(move || test(PLAIN));
        all.push(Test { name: name.to_owned(), run, impossible: missing(programs) });
    }
    all
}

fn main() -> ExitCode {
    lab_harness::main(tests)
}
