//! Ports of `pasta` that change while it runs: those that somebody listens to, ways between the two
//! loopbacks, and what `pesto` changes. As a user without any capability, in namespaces of that user.
//!
//! Runs as root, since it becomes somebody else. Where it cannot run, it says why and skips; with `CI` set,
//! skipping is failing.
#![allow(clippy::unwrap_used)]

#[path = "support/lab_harness.rs"]
mod lab_harness;
#[allow(dead_code, reason = "these tests start the gateway in their own way")]
#[path = "support/lab_setup.rs"]
mod lab_setup;
#[allow(dead_code, reason = "some of it is for the tests of pasta alone")]
#[path = "support/pasta_rig.rs"]
mod pasta_rig;

use lab_harness::Test;
use lab_setup::{SOON, eventually};
use pasta_rig::*;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::process::{ExitCode, Stdio};
use std::time::Duration;
use tapnat::io::sys::netns::Netns;
use tapnat::lab::programs::http;
use tapnat::lab::topology::{HOST, UPLINK};

const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;
const NONE: [&str; 8] = ["-t", "none", "-u", "none", "-T", "none", "-U", "none"];

/// Starts `pasta` with options before those that Podman adds; gives the namespace.
fn behind(rig: &Rig, options: &[&str]) -> Guest {
    let guest = rig.guest();
    let pid = guest.pid();
    let words = [&["--config-net", "-q"], options, &[&pid]].concat();
    rig.quiet(&words);
    guest
}

/// Without the options of those kinds that are in `options` already.
fn others_none<'a>(options: &[&'a str]) -> Vec<&'a str> {
    let missing = NONE.chunks(2).filter(|pair| !options.contains(&pair[0])).flatten();
    options.iter().copied().chain(missing.copied()).collect()
}

fn echo(netns: &Netns, at: impl Into<SocketAddr>) {
    let at = at.into();
    let socket = netns.run(|| UdpSocket::bind(at)).unwrap().unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 65535];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            socket.send_to(&bytes[..length], from).unwrap();
        }
    });
}

/// What comes back of a datagram.
fn echoed(netns: &Netns, to: impl Into<SocketAddr>, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let to = to.into();
    let local: SocketAddr = if to.is_ipv4() { (LOCAL, 0).into() } else { (Ipv6Addr::LOCALHOST, 0).into() };
    let socket = netns.run(|| UdpSocket::bind(local)).unwrap()?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut answer = vec![0; 65535];
    let mut tries = 10;
    let (length, from) = loop {
        // Datagrams may be lost.
        socket.send_to(bytes, to)?;
        match socket.recv_from(&mut answer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock && tries > 0 => tries -= 1,
            heard => break heard?,
        }
    };
    assert_eq!(from, to);
    answer.truncate(length);
    Ok(answer)
}

fn ports_that_are_listened_to() {
    let rig = Rig::new();
    let guest = behind(&rig, &others_none(&["-t", "auto", "-u", "auto", "-T", "auto"]));
    assert!(greeted(rig.internet(), (HOST, 8080)).is_err(), "nobody listens yet");
    let web = http::serve(&guest.netns, (Ipv4Addr::UNSPECIFIED, 8080)).unwrap();
    eventually("the port is open", SOON, || greeted(rig.internet(), (HOST, 8080)).is_ok());
    echo(&guest.netns, (Ipv4Addr::UNSPECIFIED, 5353));
    eventually("the port of UDP is open", SOON * 4, || {
        echoed(rig.host(), (LOCAL, 5353), b"hello").is_ok_and(|answer| answer == b"hello")
    });
    // And of the host inside.
    let _own = http::serve(rig.host(), (LOCAL, 5432)).unwrap();
    eventually("the host's port is open inside", SOON, || greeted(&guest.netns, (LOCAL, 5432)).is_ok());
    let said = guest.says("ss -Htln");
    assert_eq!(said.matches(":8080 ").count(), 1, "not forwarded back: {said}");
    drop(web);
    eventually("the port is closed", SOON, || {
        rig.internet().run(|| TcpStream::connect((HOST, 8080))).unwrap().is_err()
    });
}

fn the_hosts_loopback_from_inside() {
    let rig = Rig::new();
    let guest = behind(&rig, &others_none(&["-T", "7070:8070", "-U", "7071"]));
    let _own = http::serve(rig.host(), (LOCAL, 8070)).unwrap();
    let _own6 = http::serve(rig.host(), (Ipv6Addr::LOCALHOST, 8070)).unwrap();
    assert_eq!(greeted(&guest.netns, (LOCAL, 7070)).unwrap(), "127.0.0.1");
    assert_eq!(greeted(&guest.netns, (Ipv6Addr::LOCALHOST, 7070)).unwrap(), "::1");
    echo(rig.host(), (LOCAL, 7071));
    echo(rig.host(), (Ipv6Addr::LOCALHOST, 7071));
    let long = vec![7; 40000];
    assert_eq!(echoed(&guest.netns, (LOCAL, 7071), &long).unwrap(), long);
    assert_eq!(echoed(&guest.netns, (LOCAL, 7071), b"").unwrap(), b"");
    assert_eq!(echoed(&guest.netns, (Ipv6Addr::LOCALHOST, 7071), b"six").unwrap(), b"six");
}

fn bytes_ends_and_resets_go_through() {
    let rig = Rig::new();
    let guest = behind(&rig, &others_none(&["-T", "7070,7072"]));
    let listener = rig.host().run(|| TcpListener::bind((LOCAL, 7070))).unwrap().unwrap();
    // Says back what it hears, once it has heard the end.
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut heard = Vec::new();
        socket.read_to_end(&mut heard).unwrap();
        socket.write_all(&heard).unwrap();
        drop(socket);
        // The next one is reset.
        let (socket, _) = listener.accept().unwrap();
        rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
    });
    let mut client = guest.netns.run(|| TcpStream::connect((LOCAL, 7070))).unwrap().unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    let said: Vec<u8> = (0..8 << 20).map(|at: u32| (at >> 8) as u8 ^ at as u8).collect();
    client.write_all(&said).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).unwrap();
    assert!(heard == said, "{} of {} bytes", heard.len(), said.len());
    // The reset may come before connecting has returned, which then says so.
    let read =
        |mut client: TcpStream| client.set_read_timeout(Some(SOON)).and_then(|()| client.read(&mut [0]));
    let refusal = |port: u16| guest.netns.run(|| TcpStream::connect((LOCAL, port)).and_then(read)).unwrap();
    assert_eq!(refusal(7070).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    server.join().unwrap();
    // Nobody is there.
    assert_eq!(refusal(7072).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

fn the_namespaces_loopback_from_the_hosts() {
    let rig = Rig::new();
    let guest = behind(&rig, &others_none(&["--host-lo-to-ns-lo", "-t", "8080:80", "-u", "5353"]));
    let _web = http::serve(&guest.netns, (LOCAL, 80)).unwrap();
    let _web6 = http::serve(&guest.netns, (Ipv6Addr::LOCALHOST, 80)).unwrap();
    assert_eq!(greeted(rig.host(), (LOCAL, 8080)).unwrap(), "127.0.0.1");
    assert_eq!(greeted(rig.host(), (Ipv6Addr::LOCALHOST, 8080)).unwrap(), "::1");
    echo(&guest.netns, (LOCAL, 5353));
    assert_eq!(echoed(rig.host(), (LOCAL, 5353), b"near").unwrap(), b"near");
    // From elsewhere the namespace's own address is meant, where nobody listens.
    assert!(greeted(rig.internet(), (HOST, 8080)).is_err());
    let far = guest.netns.run(|| TcpListener::bind((HOST, 80))).unwrap().unwrap();
    let _client = rig.internet().run(|| TcpStream::connect((HOST, 8080))).unwrap().unwrap();
    far.accept().unwrap();
    // Addresses that the host gets later count too.
    let later = Ipv4Addr::new(203, 0, 113, 77);
    assert_eq!(rig.on_host(&format!("ip addr add {later}/24 dev {UPLINK}")), "");
    eventually("the new address leads there", SOON, || {
        rig.internet().run(|| TcpStream::connect((later, 8080))).unwrap().is_ok()
    });
}

fn pesto_changes_ports() {
    let rig = Rig::new();
    symlink("tapnat", rig.path("pesto")).unwrap();
    let socket = rig.path("pasta.sock");
    let socket = socket.to_str().unwrap();
    let mut options = NONE.to_vec();
    options.extend(["-c", socket]);
    let mut guest = rig.guest();
    let (path, note) = (guest.path(), rig.path("pid"));
    let line = ["--config-net", "-q", "--pid", note.to_str().unwrap(), "--netns", &path];
    rig.quiet(&[&line, options.as_slice()].concat());
    let pesto = |words: &[&str]| {
        let mut command = rig.command(&rig.path("pesto"), &[words, &[socket]].concat());
        let output = command.stderr(Stdio::piped()).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let _web = http::serve(&guest.netns, (Ipv4Addr::UNSPECIFIED, 80)).unwrap();
    let podman = ["-t", "0.0.0.0/8080:80", "-t", "[::]/8080:80"];
    let add = [&["--add"][..], &podman].concat();
    assert_eq!(pesto(&add), "");
    greeted(rig.internet(), (HOST, 8080)).unwrap();
    assert_eq!(pesto(&add), "", "twice is once");
    let table = "HOST TCP 0.0.0.0/8080:80\nHOST TCP [::]/8080:80\n";
    assert_eq!(pesto(&[]).to_uppercase(), table);
    // Of what a client says that is cut or makes no sense, nothing is done.
    for nonsense in [&b"\x01\0\0\0\x01\0\0"[..], b"\xff", b"\x01\xff\xff\xff\xff", &[1; 5000]] {
        let mut client = UnixStream::connect(socket).unwrap();
        client.set_read_timeout(Some(SOON)).unwrap();
        let _ = client.write_all(nonsense);
        let _ = client.shutdown(Shutdown::Write);
        let _ = client.read_to_end(&mut Vec::new());
    }
    // Who says nothing holds the others up for a while only.
    let silent = UnixStream::connect(socket).unwrap();
    assert_eq!(pesto(&["-s"]).to_uppercase(), table);
    drop(silent);
    greeted(rig.internet(), (HOST, 8080)).unwrap();
    let delete = [&["--delete"][..], &podman].concat();
    assert_eq!(pesto(&delete), "");
    assert!(greeted(rig.internet(), (HOST, 8080)).is_err());
    // A way between the loopbacks, and all at once away.
    let _own = http::serve(rig.host(), (LOCAL, 8070)).unwrap();
    pesto(&["-A", "-T", "8070"]);
    greeted(&guest.netns, (LOCAL, 8070)).unwrap();
    let _other = http::serve(rig.host(), (LOCAL, 8071)).unwrap();
    pesto(&["-D", "-T", "8070", "-A", "-T", "8070:8071"]);
    greeted(&guest.netns, (LOCAL, 8070)).unwrap();
    pesto(&["--clear", "SPLICE"]);
    assert!(guest.netns.run(|| TcpStream::connect((LOCAL, 8070))).unwrap().is_err());
    assert_eq!(pesto(&["--show"]), "");
    let pid = read_pid(&note);
    guest.unname();
    ends(&pid);
    assert!(!rig.path("pasta.sock").exists(), "the socket is left");
}

/// As Podman asks for the containers behind a network namespace of its own.
fn ports_to_somebody_behind_the_namespace() {
    let rig = Rig::new();
    symlink("tapnat", rig.path("pesto")).unwrap();
    let socket = rig.path("pasta.sock");
    let socket = socket.to_str().unwrap();
    let guest = behind(&rig, &others_none(&["-c", socket, "-t", "8081:10.89.0.2/80"]));
    assert_eq!(guest.says("ip addr add 10.89.0.2/32 dev lo"), "");
    let _web = http::serve(&guest.netns, (Ipv4Addr::new(10, 89, 0, 2), 80)).unwrap();
    let pesto = |spec: &str| rig.command(&rig.path("pesto"), &["-A", "-t", spec, socket]).output().unwrap();
    let output = pesto("0.0.0.0/8080:10.89.0.2/80");
    assert!(output.status.success(), "{output:?}");
    let output = pesto("8082:127.0.0.1/80");
    assert_eq!(output.status.code(), Some(1), "nobody is reached there: {output:?}");
    for port in [8080, 8081] {
        greeted(rig.internet(), (HOST, port)).unwrap_or_else(|error| panic!("{port}: {error}"));
        greeted(rig.host(), (LOCAL, port)).unwrap_or_else(|error| panic!("{port} from the host: {error}"));
    }
}

/// Who is root in the namespaces does not come through the process that makes sockets there to the files of
/// the user whose host it is.
fn nobody_looks_through_the_agent() {
    let rig = Rig::new();
    let mut guest = rig.guest();
    let (path, note) = (guest.path(), rig.path("pid"));
    let line = ["--config-net", "-q", "--pid", note.to_str().unwrap(), "--netns", &path];
    let words = [&line[..], &others_none(&["-T", "7070:8070"])].concat();
    let run = rig.path("run");
    std::fs::create_dir(&run).unwrap();
    std::os::unix::fs::chown(&run, Some(65534), Some(65534)).unwrap();
    let output = rig.command(&rig.path("pasta"), &words).env("XDG_RUNTIME_DIR", &run).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let pasta = read_pid(&note);
    let children = std::fs::read_to_string(format!("/proc/{pasta}/task/{pasta}/children")).unwrap();
    let agent = children.split_whitespace().next().unwrap();
    let holder = guest.pid();
    let within = |words: &[&str]| {
        let enter = ["--preserve-credentials", "-U", "-n", "-t", &holder];
        rig.command("nsenter".as_ref(), &[&enter, words].concat()).output().unwrap()
    };
    let own = format!("/proc/{holder}/root/");
    assert!(within(&["ls", &own]).status.success(), "of those who are in there it looks through all");
    for name in ["root/", "cwd/", "fd", "mem"] {
        let output = within(&["head", "-c", "1", &format!("/proc/{agent}/{name}")]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("Permission denied"), "{name}: {output:?}");
    }
    let status = std::fs::read_to_string(format!("/proc/{agent}/status")).unwrap();
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
    // It does its work all the same.
    let _own = http::serve(rig.host(), (LOCAL, 8070)).unwrap();
    greeted(&guest.netns, (LOCAL, 7070)).unwrap();
    let name = format!("pasta-{pasta}");
    let output = rig
        .command(&rig.path("tapnat"), &["stats", "--name", &name])
        .env("XDG_RUNTIME_DIR", &run)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.lines().any(|line| line.contains("relay: begun") && line.contains('1')),
        "{said} {output:?}"
    );
}

/// What the caller holds is not held by the gateway in the background, and what a start that comes to
/// nothing was to write is as it was.
fn the_callers_things_stay_his() {
    let rig = Rig::new();
    let guest = rig.guest();
    let (pid, note) = (guest.pid(), rig.path("pid"));
    let line =
        "exec 9>lock; flock 9; exec ./pasta --config-net -q -t none -u none -T none -U none --pid \"$@\"";
    let run = |words: &[&str]| {
        let words = [&["-c", line, "sh"], words].concat();
        rig.command("sh".as_ref(), &words).output().unwrap()
    };
    std::fs::write(&note, "as it was").unwrap();
    std::fs::set_permissions(&note, std::fs::Permissions::from_mode(0o666)).unwrap();
    let output = run(&[note.to_str().unwrap(), "--netns", "/dev/null"]);
    assert!(!output.status.success(), "{output:?}");
    assert_eq!(std::fs::read_to_string(&note).unwrap(), "as it was");
    let output = run(&[note.to_str().unwrap(), &pid]);
    assert!(output.status.success(), "{output:?}");
    let open = std::fs::read_dir(format!("/proc/{}/fd", read_pid(&note))).unwrap();
    let open: Vec<_> = open.filter_map(|one| std::fs::read_link(one.unwrap().path()).ok()).collect();
    assert!(open.len() > 3 && !open.contains(&rig.path("lock")), "{open:?}");
}

fn the_socket_for_changes_is_ours_alone() {
    let rig = Rig::new();
    let mut guest = rig.guest();
    let (path, note, socket) = (guest.path(), rig.path("pid"), rig.path("pasta.sock"));
    let with = |socket: &str| {
        let line = ["--config-net", "-q", "-c", socket, "--pid", note.to_str().unwrap(), "--netns", &path];
        rig.pasta(&[&line, &NONE[..]].concat())
    };
    let file = rig.path("diary");
    std::fs::write(&file, "dear").unwrap();
    let output = with(file.to_str().unwrap());
    assert!(!output.status.success() && told(&output).contains("no socket is there"), "{output:?}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "dear");
    // That of one who has died is replaced, that of one who lives is his.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    std::os::unix::fs::chown(&socket, Some(65534), Some(65534)).unwrap();
    let output = with(socket.to_str().unwrap());
    assert!(output.status.success(), "{output:?}");
    let pid = read_pid(&note);
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let output = with(socket.to_str().unwrap());
    assert!(!output.status.success() && told(&output).contains("somebody answers there"), "{output:?}");
    assert!(UnixStream::connect(&socket).is_ok());
    // A successor's is left alone.
    std::fs::remove_file(&socket).unwrap();
    let _successor = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    guest.unname();
    ends(&pid);
    assert!(UnixStream::connect(&socket).is_ok());
}

fn a_command_and_its_ports() {
    let rig = Rig::new();
    let _own = http::serve(rig.host(), (LOCAL, 8070)).unwrap();
    // All four are auto where nobody says otherwise.
    let script =
        "for i in 1 2 3 4 5 6 7 8 9; do curl -s -m 5 http://127.0.0.1:8070/ && exit 5; sleep 0.5; done";
    let output = rig.pasta(&["--config-net", "--", "sh", "-c", script]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    // Each port costs a socket of each family.
    let words = [&["--config-net"], others_none(&["-t", "10001-12100"]).as_slice(), &["true"]].concat();
    let output = rig.pasta(&words);
    assert!(output.status.success(), "{output:?}");
    // A port that is taken is told.
    let words = [&["--config-net"], others_none(&["-t", "127.0.0.1/8070"]).as_slice(), &["true"]].concat();
    let output = rig.pasta(&words);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(told(&output).contains("8070") && told(&output).contains("ddress already in use"), "{output:?}");
}

fn tests() -> Vec<Test> {
    let all: [(&str, fn()); 10] = [
        ("ports_that_are_listened_to", ports_that_are_listened_to),
        ("the_hosts_loopback_from_inside", the_hosts_loopback_from_inside),
        ("bytes_ends_and_resets_go_through", bytes_ends_and_resets_go_through),
        ("the_namespaces_loopback_from_the_hosts", the_namespaces_loopback_from_the_hosts),
        ("pesto_changes_ports", pesto_changes_ports),
        ("ports_to_somebody_behind_the_namespace", ports_to_somebody_behind_the_namespace),
        ("nobody_looks_through_the_agent", nobody_looks_through_the_agent),
        ("the_callers_things_stay_his", the_callers_things_stay_his),
        ("the_socket_for_changes_is_ours_alone", the_socket_for_changes_is_ours_alone),
        ("a_command_and_its_ports", a_command_and_its_ports),
    ];
    let impossible = impossible();
    let test = |(name, run): (&str, fn())| Test {
        name: name.to_owned(),
        run: Box::new(run),
        impossible: impossible.clone(),
    };
    all.into_iter().map(test).collect()
}

fn main() -> ExitCode {
    lab_harness::main(tests)
}
