//! The program as a person or a script meets it: help, exit codes, and what the verbs write about a
//! gateway that is made up.
#![allow(clippy::unwrap_used)]

mod control_support;

use control_support::{Fake, session};
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tapnat::control::{Engine, Server};
use tapnat::flow::{Endpoint, Flow, Protocol, Time};
use tapnat::nat::{EgressRule, Refusal, SessionView, TcpState};
use tapnat::observe::event::{Event, Kind, PacketSeen, What};

fn tapnat(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tapnat")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A gateway that is made up, and the verbs pointed at it.
struct Bench {
    home: tempfile::TempDir,
    fake: Arc<Fake>,
    _server: Server,
}

impl Bench {
    fn new(sessions: Vec<SessionView>) -> Bench {
        let home = tempfile::tempdir().unwrap();
        let fake = Arc::new(Fake { sessions: Mutex::new(sessions), ..Fake::default() });
        let engine = Arc::clone(&fake) as Arc<dyn Engine>;
        let server = Server::start(&home.path().join("gw.sock"), engine).unwrap();
        Bench { home, fake, _server: server }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tapnat"));
        command.args(args).arg("--control").arg(self.home.path().join("gw.sock"));
        command
    }

    /// What it writes; it must not fail.
    fn run(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }
}

/// One session of each kind that looks different in a table.
fn kinds() -> Vec<SessionView> {
    let mut icmp = session(3, Protocol::Icmp, 3, 0);
    icmp.inside.port = 77;
    icmp.outside.port = 61_000;
    let opening = SessionView {
        tcp: Some(TcpState::Opening),
        answered: false,
        packets_in: 0,
        bytes_in: 0,
        ..session(4, Protocol::Tcp, 4, 443)
    };
    let unanswered = SessionView { answered: false, packets_in: 0, ..session(5, Protocol::Udp, 5, 53) };
    let published = SessionView {
        published: true,
        bytes_in: 5_000_000,
        inside: Endpoint { port: 80, ..session(6, Protocol::Tcp, 6, 0).inside },
        outside: Endpoint { port: 8080, ..session(6, Protocol::Tcp, 6, 0).outside },
        ..session(6, Protocol::Tcp, 6, 50_000)
    };
    let long_lived =
        SessionView { expires_in: Duration::from_secs(431_999), ..session(1, Protocol::Tcp, 2, 80) };
    vec![
        long_lived,
        session(2, Protocol::Udp, 2, 53),
        icmp,
        opening,
        unanswered,
        published,
        session(7, Protocol::Other(47), 7, 0),
    ]
}

#[test]
fn every_verb_explains_itself_and_names_its_options() {
    let target = ["--name", "--control"];
    let filters = ["--protocol", "--inside", "--outside", "--remote", "--port", "--state"];
    let run = [
        "--config",
        "--name",
        "--control",
        "--tap",
        "--tap-fd",
        "--tap-offload",
        "--bridge",
        "--inside",
        "--mac",
        "--mtu",
        "--outside",
        "--external",
        "--uplink",
        "--raw-fd",
        "--guard",
        "--ports",
        "--publish",
        "--exempt",
        "--advertise",
        "--dns",
        "--prefix-translation",
        "--profile",
        "--rule",
        "--subscribers",
        "--block-size",
        "--refusal",
        "--mapping",
        "--filtering",
        "--hairpin",
        "--timeout",
        "--limit",
        "--ready-fd",
        "--log",
    ];
    let with = |own: &[&'static str], more: &[&[&'static str]]| [own, &more.concat()].concat();
    for (verb, options) in [
        (vec!["run"], run.to_vec()),
        (vec!["flows"], with(&["--json", "--watch", "--format"], &[&target, &filters])),
        (vec!["events"], with(&["--json", "--packets", "--kinds"], &[&target, &filters])),
        (vec!["stats"], with(&["--json", "--prometheus"], &[&target])),
        (vec!["flush"], with(&["--json"], &[&target, &filters])),
        (vec!["publish", "add"], with(&["--json"], &[&target])),
        (vec!["publish", "remove"], with(&["--json"], &[&target])),
        (vec!["publish", "list"], with(&["--json"], &[&target])),
        (vec!["reload"], with(&["--config", "--dry-run", "--json"], &[&target])),
        (vec!["lookup"], with(&["--at", "--json"], &[&target])),
        (vec!["doctor"], vec!["--json"]),
    ] {
        let output = tapnat(&[&verb[..], &["--help"]].concat());
        let help = text(&output.stdout);
        assert!(output.status.success() && help.contains("Example"), "{verb:?}:\n{help}");
        for option in options {
            let named = help.split_whitespace().any(|word| word.trim_end_matches(',') == option);
            assert!(named, "{verb:?} --help does not name {option}:\n{help}");
        }
    }
    let output = tapnat(&["run", "--capture", "x"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("unexpected argument"), "it does nothing, so it is refused");
}

#[test]
fn exit_codes_and_one_line_that_helps() {
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("gw.toml");
    std::fs::write(&config, "inside = '10.88.0.1/24'\nmtuu = 9000\n").unwrap();
    let (config, socket) =
        (config.display().to_string(), home.path().join("none.sock").display().to_string());
    for (args, code, want) in [
        (vec!["--version"], 0, ""),
        (vec![], 2, "Usage: tapnat"),
        (vec!["dance"], 2, "unrecognized subcommand"),
        (vec!["run"], 2, "tapnat: --inside: is missing; give the gateway's own address"),
        (vec!["run", "--config", &config], 1, "line 2: mtuu: no such key; did you mean `mtu`?"),
        (
            vec!["flows", "--control", &socket],
            1,
            "; start one with `tapnat run`, or give its --name or --control",
        ),
        (vec!["flows", "--inside", "ten"], 2, "`ten` is not ADDRESS"),
        (vec!["publish", "add", "80:10.0.0.2"], 2, "names no protocol; end it with /tcp or /udp"),
    ] {
        let output = tapnat(&args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(want), "{args:?}: {said}");
        if code == 1 {
            assert!(said.starts_with("tapnat: ") && said.lines().count() == 1, "{said}");
        }
    }
}

#[test]
fn flows_as_a_table() {
    let bench = Bench::new(kinds());
    let want = "\
PROTO     INSIDE           OUTSIDE               REMOTE              STATE                    AGE  EXPIRES  PKTS OUT  PKTS IN   OUT       IN
tcp       10.88.0.2:40000  203.0.113.1:61234     198.51.100.7:80     established              10s    4d23h         1        1  60 B     60 B
udp       10.88.0.2:40000  203.0.113.1:61234     198.51.100.7:53     answered                 10s    5m00s         1        1  60 B     60 B
icmp      10.88.0.3 id 77  203.0.113.1 id 61000  198.51.100.7        answered                 10s    5m00s         1        1  60 B     60 B
tcp       10.88.0.4:40000  203.0.113.1:61234     198.51.100.7:443    opening                  10s    5m00s         1        0  60 B      0 B
udp       10.88.0.5:40000  203.0.113.1:61234     198.51.100.7:53     unanswered               10s    5m00s         1        0  60 B     60 B
tcp       10.88.0.6:80     203.0.113.1:8080      198.51.100.7:50000  established (published)  10s    5m00s         1        1  60 B  4.8 MiB
proto-47  10.88.0.7        203.0.113.1           198.51.100.7        answered                 10s    5m00s         1        1  60 B     60 B
7 flows
";
    assert_eq!(bench.run(&["flows"]), want);
    assert!(bench.run(&["flows", "--protocol", "icmp"]).ends_with("\n1 flow\n"));
}

/// The lines that parsers of `conntrack -L` know.
#[test]
fn flows_as_conntrack() {
    let bench = Bench::new(kinds());
    let want = "\
tcp      6 431999 ESTABLISHED src=10.88.0.2 dst=198.51.100.7 sport=40000 dport=80 src=198.51.100.7 dst=203.0.113.1 sport=80 dport=61234 [ASSURED] mark=0 use=1
udp      17 300 src=10.88.0.2 dst=198.51.100.7 sport=40000 dport=53 src=198.51.100.7 dst=203.0.113.1 sport=53 dport=61234 mark=0 use=1
icmp     1 300 src=10.88.0.3 dst=198.51.100.7 type=8 code=0 id=77 src=198.51.100.7 dst=203.0.113.1 type=0 code=0 id=61000 mark=0 use=1
tcp      6 300 SYN_SENT src=10.88.0.4 dst=198.51.100.7 sport=40000 dport=443 [UNREPLIED] src=198.51.100.7 dst=203.0.113.1 sport=443 dport=61234 mark=0 use=1
udp      17 300 src=10.88.0.5 dst=198.51.100.7 sport=40000 dport=53 [UNREPLIED] src=198.51.100.7 dst=203.0.113.1 sport=53 dport=61234 mark=0 use=1
tcp      6 300 ESTABLISHED src=198.51.100.7 dst=203.0.113.1 sport=50000 dport=8080 src=10.88.0.6 dst=198.51.100.7 sport=80 dport=50000 [ASSURED] mark=0 use=1
unknown  47 300 src=10.88.0.7 dst=198.51.100.7 src=198.51.100.7 dst=203.0.113.1 mark=0 use=1
";
    assert_eq!(bench.run(&["flows", "--format", "conntrack"]), want);
}

#[test]
fn flows_as_json_and_flushed() {
    let bench = Bench::new(kinds());
    let json = bench.run(&["flows", "--json", "--state", "established"]);
    let flows: Vec<serde_json::Value> =
        json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(flows.len(), 2);
    assert_eq!(flows[1]["outside"]["port"], 8080);
    assert_eq!(bench.run(&["flush", "--protocol", "tcp", "--port", "443"]), "forgot 1 flow\n");
    assert_eq!(bench.run(&["flush", "--json"]), "{\"forgotten\":6}\n");
    assert_eq!(bench.run(&["flows", "--json"]), "");
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let many = (0..20_000).map(|id| session(id, Protocol::Udp, 2, 53)).collect();
    let bench = Bench::new(many);
    let mut child =
        bench.command(&["flows", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::with_capacity(64, child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(line.starts_with("{\"id\":") && output.status.success(), "{:?}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn the_table_is_drawn_again_and_again() {
    let bench = Bench::new(kinds());
    let mut child =
        bench.command(&["flows", "--watch", "0.1", "--port", "443"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let first: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
    assert_eq!((first.len(), first[2].as_str()), (3, "1 flow"));
    bench.fake.sessions.lock().unwrap().clear();
    assert!(lines.any(|line| line == "0 flows"));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn counters_in_three_forms() {
    let bench = Bench::new(Vec::new());
    let table = bench.run(&["stats"]);
    assert!(
        table.starts_with("fake (pid 7), since ") && table.contains("\ndropped\n  no-mapping  3\n"),
        "{table}"
    );
    assert!(table.contains("\n  profile  rfc4787; symmetric for 10.88.0.64/26\n"), "{table}");
    let json: serde_json::Value = serde_json::from_str(&bench.run(&["stats", "--json"])).unwrap();
    assert_eq!((&json["sessions"], &json["dropped"]["no-mapping"]), (&2.into(), &3.into()));
    assert_eq!(json["about"]["config"]["timeouts.udp"], "5m", "every setting in force can be read out");
    let metrics = bench.run(&["stats", "--prometheus"]);
    assert!(metrics.contains("\ntapnat_dropped_total{name=\"fake\",reason=\"no-mapping\"} 3\n"), "{metrics}");
}

#[test]
fn port_forwards_come_and_go() {
    let bench = Bench::new(Vec::new());
    assert_eq!(bench.run(&["publish", "list"]), "no ports are published\n");
    assert_eq!(
        bench.run(&["publish", "add", "203.0.113.1:80:10.88.0.2:8080/tcp"]),
        "published tcp 203.0.113.1:80 to 10.88.0.2:8080\n"
    );
    assert_eq!(
        bench.run(&["publish", "list"]),
        "PROTO  OUTSIDE         INSIDE\ntcp    203.0.113.1:80  10.88.0.2:8080\n"
    );
    let again = bench.command(&["publish", "add", "80:10.88.0.3/tcp"]).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(
        text(&again.stderr),
        "tapnat: tcp 203.0.113.1:80: outside port is in use by another forward or mapping; `tapnat publish list` \
         shows the forwards; take another port\n"
    );
    assert_eq!(
        bench.run(&["publish", "remove", "80/tcp", "--json"]),
        "{\"protocol\":\"tcp\",\"outside\":\"203.0.113.1:80\",\"inside\":\"10.88.0.2:8080\"}\n"
    );
}

#[test]
fn a_reload_shows_the_difference_and_what_became_of_flows() {
    let bench = Bench::new(Vec::new());
    let file = bench.home.path().join("gw.toml");
    let file = file.to_str().unwrap();
    std::fs::write(file, "# mine").unwrap();
    let told = format!("{file}: # mine");
    let shown = bench.run(&["reload", "--config", file]);
    assert_eq!(shown, format!("timeouts.udp: 5m -> {told}\nkept 12 flows, ended 1\n"));
    let shown = bench.run(&["reload", "--config", file, "--dry-run"]);
    assert_eq!(shown, format!("timeouts.udp: 5m -> {told}\n1 key would change\n"));
    let shown = bench.run(&["reload", "--config", file, "--json"]);
    assert_eq!(
        shown,
        format!(
            "{{\"key\":\"timeouts.udp\",\"old\":\"5m\",\"new\":\"{told}\",\"restart\":false}}\n{{\"dry_run\":false,\"kept\":12,\"ended\":1}}\n"
        )
    );
    let refused = bench.command(&["reload"]).output().unwrap();
    assert_eq!(
        (refused.status.code(), text(&refused.stderr)),
        (Some(1), "tapnat: started without --config; give one\n".into())
    );
}

/// Later, the number might be that of something which the gateway has opened itself.
#[test]
fn descriptors_that_were_not_inherited_are_refused_before_anything_is_opened() {
    for option in ["--ready-fd", "--tap-fd", "--raw-fd"] {
        for number in ["3", "5", "9"] {
            // Whoever has started the tests may have left something open there.
            let script = format!("exec \"$0\" run --inside 10.88.0.1/24 {option} {number} 3>&- 5>&- 9>&-");
            let output =
                Command::new("sh").args(["-c", &script, env!("CARGO_BIN_EXE_tapnat")]).output().unwrap();
            let said = format!("tapnat: {option} {number}: it is not open; give one that is inherited\n");
            assert_eq!((output.status.code(), text(&output.stderr)), (Some(1), said));
        }
    }
}

#[test]
fn lookup_as_a_table_and_as_json() {
    let bench = Bench::new(kinds());
    assert_eq!(
        bench.run(&["lookup", "203.0.113.1:8080"]),
        "WHY      PROTO  INSIDE        OUTSIDE           FLOWS  SINCE                 UNTIL\n\
         forward  tcp    10.88.0.6:80  203.0.113.1:8080      1  2023-11-14T22:13:21Z\n"
    );
    let json: serde_json::Value =
        serde_json::from_str(&bench.run(&["lookup", "10.88.0.3", "--json"])).unwrap();
    assert_eq!((&json["why"], &json["protocol"]), (&"mapping".into(), &"icmp".into()));
    let nobody = bench.command(&["lookup", "203.0.113.1:9/tcp"]).output().unwrap();
    assert_eq!(nobody.status.code(), Some(1));
    assert_eq!(
        text(&nobody.stderr),
        "tapnat: nobody has 203.0.113.1:9/tcp; `tapnat flows` shows what is in use\n"
    );
}

/// 10.88.0.2:7 > 198.51.100.7:53, and the same from 203.0.113.1:61000; checksums are not looked at.
fn packet() -> Event {
    let bytes = |source: [u8; 4], port: u16| {
        let mut bytes = vec![0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0];
        bytes.extend(source);
        bytes.extend([198, 51, 100, 7]);
        bytes.extend(port.to_be_bytes());
        bytes.extend([0, 53, 0, 8, 0, 0]);
        bytes
    };
    let flow = |source: [u8; 4], port| Flow {
        protocol: Protocol::Udp,
        source: Endpoint::new(source, port),
        destination: Endpoint::new([198, 51, 100, 7], 53),
    };
    let seen = PacketSeen {
        dropped: false,
        fate: "out",
        from: "tapnat0".into(),
        to: Some("eth0".into()),
        flow: Some(flow([10, 88, 0, 2], 7)),
        translated: Some(flow([203, 0, 113, 1], 61_000)),
        length: 28,
        before: bytes([10, 88, 0, 2], 7),
        after: bytes([203, 0, 113, 1], 61_000),
    };
    Event { at: Time::from_millis(1500), what: What::Packet(Box::new(seen)) }
}

#[test]
fn events_and_packets_as_text() {
    let bench = Bench::new(Vec::new());
    let feed = bench.fake.feed.clone();
    let pusher = std::thread::spawn(move || {
        while feed.listeners(Kind::Packet) == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        feed.push(packet());
    });
    let shown = bench.run(&["events", "--packets", "1", "--inside", "10.88.0.2"]);
    pusher.join().unwrap();
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].starts_with("22:13:21.500  out  tapnat0 > eth0  28 bytes  "), "{shown}");
    assert_eq!(
        lines[1],
        "- 0000   45  00  00  1c  00  00  40  00  40  11  00  00 [0a][58][00][02]  source address"
    );
    assert_eq!(lines[2], "+ 0000   45  00  00  1c  00  00  40  00  40  11  00  00 [cb][00][71][01]");
    assert!(lines[3].starts_with("- 0010   c6  33  64  07 [00][07] 00  35 "), "{shown}");
    assert_eq!(lines.len(), 5);

    let mut child =
        bench.command(&["events", "--kinds", "opened,refused"]).stdout(Stdio::piped()).spawn().unwrap();
    while bench.fake.feed.listeners(Kind::Opened) == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let what = What::Opened(session(9, Protocol::Udp, 2, 53));
    bench.fake.feed.push(Event { at: Time::from_secs(1), what });
    let SessionView { protocol, inside, remote, .. } = session(9, Protocol::Tcp, 2, 25);
    let flow = Flow { protocol, source: inside, destination: remote };
    let rule = Box::new(EgressRule { ports: Some(25..=25), ..EgressRule::about_all(false) });
    let what = What::Refused(flow, Refusal::EgressDenied, Some(rule));
    bench.fake.feed.push(Event { at: Time::from_secs(1), what });
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().take(2);
    let lines: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(
        lines,
        [
            "22:13:21.000  opened   udp 10.88.0.2:40000 as 203.0.113.1:61234 with 198.51.100.7:53",
            "22:13:21.000  refused  tcp 10.88.0.2:40000 > 198.51.100.7:25  egress-denied by deny:any:25",
        ]
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_doctor_finds_something_to_say_about_everything() {
    let output = tapnat(&["doctor", "--json"]);
    assert!(output.status.success());
    let found = text(&output.stdout);
    let checks: Vec<serde_json::Value> =
        found.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for word in [
        "tun-device",
        "cap-net-admin",
        "cap-net-raw",
        "cap-bpf",
        "packet-socket",
        "raw-helper",
        "raw-socket",
        "tcx",
        "user-namespaces",
        "low-ports",
        "port-range",
        "descriptors",
        "landlock",
        "seccomp",
        "ip-forward",
    ] {
        let check =
            checks.iter().find(|check| check["check"] == word).unwrap_or_else(|| panic!("{word}: {found}"));
        assert_eq!(check["ok"] == false, check["cure"].is_string(), "a lack has a cure: {check}");
    }
    assert!(text(&tapnat(&["doctor"]).stdout).contains("As things are, this user can"));
}

#[test]
fn selftest_lists_its_requirements_and_refuses_unknown_ones() {
    let listed = text(&tapnat(&["selftest", "--list", "--only", "14,rfc5508"]).stdout);
    assert!(listed.contains("inside_hosts_reach_each_other_by_external_endpoints"), "{listed}");
    assert!(
        listed.lines().skip(1).all(|line| line.contains("rfc5508") || line.starts_with("14 ")),
        "{listed}"
    );
    let refused = tapnat(&["selftest", "--only", "14,nonsense"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("--only: there is no requirement `nonsense`"));
    let refused = tapnat(&["selftest", "--profile", "symetric"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("--profile: `symetric` is no profile; did you mean `symmetric`?"));
}

#[test]
fn selftest_serve_and_probe_refuse_what_makes_no_sense() {
    let refused = |words: &[&str], said: &str| {
        let output = tapnat(&[&["selftest"], words].concat());
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {stderr}");
        assert!(stderr.contains(said), "{words:?}: {stderr}");
    };
    let serve = ["serve", "--address", "127.0.0.1"];
    refused(&[&serve[..], &["--alternate", "::1"]].concat(), "--alternate: ");
    refused(&[&serve[..], &["--alternate", "127.0.0.1"]].concat(), "--alternate: ");
    refused(
        &[&serve[..], &["--alternate", "127.0.0.2", "--alternate-port", "3478"]].concat(),
        "--alternate-port: ",
    );
    refused(&["serve", "--address", "0.0.0.0"], "--address: ");
    refused(&["probe", "127.0.0.1", "--lifetime", "5s", "--lifetime-min", "6s"], "--lifetime-min: ");
    refused(&["--only", "1", "probe", "127.0.0.1"], "unexpected argument 'probe'");
}
