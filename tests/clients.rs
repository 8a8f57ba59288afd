//! Programs that people use, through the real gateway: ping, curl, dig, iperf3, traceroute, nc, and
//! `conntrack`'s own format read as scripts read it.
//!
//! A program that is not installed is named and its test skipped; with `CI` set, skipping is failing.
#![allow(clippy::unwrap_used)]

#[path = "support/lab_harness.rs"]
mod lab_harness;
#[path = "support/lab_setup.rs"]
#[allow(dead_code, reason = "each test program uses a part")]
mod lab_setup;

use lab_harness::Test;
use lab_setup::{Form, PLAIN, PROGRAM, SOON, World, eventually};
use std::process::{Command, ExitCode, Output, Stdio};
use tapnat::lab::topology::Options;

/// The packet uplink, and the raw one.
const UPLINKS: [Form; 2] = [PLAIN, Form { uplink: "raw", guard: "hold", tap: "auto" }];

/// A test's name, the program it needs, and what it does.
type Case = (&'static str, &'static str, fn(&World));

const TESTS: [Case; 8] = [
    ("ping", "ping", ping),
    ("curl", "curl", curl),
    ("dig", "dig", dig),
    ("iperf3_tcp_both_ways", "iperf3", iperf3_tcp_both_ways),
    ("iperf3_udp", "iperf3", iperf3_udp),
    ("traceroute", "traceroute", traceroute),
    ("nc_through_a_published_port", "nc", nc_through_a_published_port),
    ("conntrack_lines_read_as_scripts_do", "awk", conntrack_lines_read_as_scripts_do),
];

/// A command on a host of the lab.
fn command(world: &World, host: &str, words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::null());
    world.on(host).confine(&mut command);
    command
}

/// Runs a command on a host of the lab to its end; panics with all it said if it fails.
fn run(world: &World, host: &str, words: &[&str]) -> String {
    let Output { status, stdout, stderr } = command(world, host, words).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{host}$ {}\n{status}\n{stdout}\n{stderr}", words.join(" "));
    stdout.into_owned()
}

/// A process that is killed when the test is over.
struct Background(std::process::Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether somebody listens at a TCP port of the host, by the kernel's word.
fn listens(world: &World, host: &str, port: u16) -> bool {
    let end = format!(":{port:04X}");
    let table = |name: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{name}"));
    let both = || table("tcp").unwrap_or_default() + &table("tcp6").unwrap_or_default();
    world.on(host).run(both).unwrap().lines().any(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        words.get(1).is_some_and(|local| local.ends_with(&end)) && words.get(3) == Some(&"0A")
    })
}

/// Starts a server, and waits until it listens.
fn background(world: &World, host: &str, words: &[&str], port: u16) -> Background {
    let mut command = command(world, host, words);
    let child = Background(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    eventually("the server listens", SOON * 2, || listens(world, host, port));
    child
}

fn ping(world: &World) {
    for host in ["red", "blue"] {
        let said = run(world, host, &["ping", "-c", "3", "-i", "0.2", "-W", "2", "198.51.100.7"]);
        assert!(said.contains(" 0% packet loss"), "{said}");
        let large = run(world, host, &["ping", "-c", "2", "-i", "0.2", "-s", "4000", "198.51.100.7"]);
        assert!(large.contains(" 0% packet loss"), "in fragments: {large}");
        run(world, host, &["ping", "-c", "1", "10.88.0.1"]);
        run(world, host, &["ping", "-c", "1", "203.0.113.1"]);
    }
}

fn curl(world: &World) {
    let url = "http://198.51.100.7/bytes/1048576";
    let size =
        run(world, "red", &["curl", "-sS", "-m", "10", "-o", "/dev/null", "-w", "%{size_download}", url]);
    assert_eq!(size, "1048576");
    let parallel = ["curl", "-sS", "-m", "20", "--no-progress-meter", "-Z", "-o", "/dev/null"];
    let range = "http://198.51.100.7/bytes/10000?[1-50]";
    run(world, "blue", &[&parallel[..], &["-w", "%{http_code}\n", range]].concat());
}

fn dig(world: &World) {
    let asked = ["dig", "+short", "+time=10", "+tries=1", "@203.0.113.254", "www.example.org", "A"];
    assert_eq!(run(world, "red", &asked).trim(), "198.51.100.7");
}

fn iperf3_tcp_both_ways(world: &World) {
    for more in [&[][..], &["-R"], &["-P", "8"], &["-P", "8", "-R"]] {
        // One each: a server that has not yet heard of the end of a test refuses the next one as busy.
        let _server = background(world, "internet", &["iperf3", "-s", "-B", "198.51.100.7"], 5201);
        let words = [&["iperf3", "-c", "198.51.100.7", "-n", "64M"][..], more].concat();
        assert!(run(world, "red", &words).contains("iperf Done"));
    }
    world.assert_checksums_right();
}

fn iperf3_udp(world: &World) {
    let _server = background(world, "internet", &["iperf3", "-s", "-B", "198.51.100.7"], 5201);
    let said =
        run(world, "red", &["iperf3", "-c", "198.51.100.7", "-u", "-b", "20M", "-t", "1", "-l", "1000"]);
    assert!(said.contains("iperf Done"), "{said}");
    world.assert_checksums_right();
}

fn traceroute(world: &World) {
    let said = run(world, "red", &["traceroute", "-n", "-q", "1", "-w", "2", "198.51.100.7"]);
    let hops: Vec<_> = said.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(hops, ["10.88.0.1", "198.51.100.7"], "{said}");
}

fn nc_through_a_published_port(world: &World) {
    let control = world.control();
    let control = control.to_str().unwrap();
    run(world, "host", &[PROGRAM, "publish", "add", "8080:10.88.0.2:7000/tcp", "--control", control]);
    let mut listener = background(world, "red", &["nc", "-l", "-N", "-p", "7000"], 7000);
    let words = ["sh", "-c", "echo from outside | nc -N -w 3 203.0.113.1 8080"];
    run(world, "internet", &words);
    let mut heard = String::new();
    std::io::Read::read_to_string(listener.0.stdout.as_mut().unwrap(), &mut heard).unwrap();
    assert_eq!(heard, "from outside\n");
}

fn conntrack_lines_read_as_scripts_do(world: &World) {
    run(world, "red", &["ping", "-c", "1", "198.51.100.7"]);
    let script = format!(
        "{PROGRAM} flows --format conntrack --control {} | awk '$1 == \"icmp\" {{ for (i = 4; i <= NF; i++) {{ split($i, kv, \"=\"); if (!(kv[1] in seen)) {{ seen[kv[1]] = kv[2] }} }} print seen[\"src\"], seen[\"dst\"] }}'",
        world.control().display()
    );
    assert_eq!(run(world, "host", &["sh", "-c", &script]).trim(), "10.88.0.2 198.51.100.7");
}

fn installed(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|folder| folder.join(program).is_file())
}

fn tests() -> Vec<Test> {
    let mut all = Vec::new();
    for form in UPLINKS {
        for (name, program, test) in TESTS {
            let impossible = (!installed(program)).then(|| format!("{program} is not installed"));
            let run = move || {
                let world = World::new(Options::default());
                let _gateway = world.gateway(form, &[]);
                test(&world);
            };
            all.push(Test { name: format!("{name}/{}", form.uplink), run: Box::new(run), impossible });
        }
    }
    all
}

fn main() -> ExitCode {
    lab_harness::main(tests)
}
