//! `tapnat exec`: the command's network, user, files, exit code, signals and terminal.

use crate::attach_rig::*;
use crate::lab_setup::*;
use rustix::process::Signal;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};
use tapnat::lab::topology::{HOST, ROUTER, SERVERS};

/// Those that need no terminal.
pub const TESTS: [(&str, fn()); 11] = [
    ("a_command_reaches_the_world_through_the_gateway", reaches_the_world),
    ("the_exit_code_is_the_commands", exit_codes),
    ("standard_input_is_the_commands", standard_input),
    ("the_command_keeps_its_user_and_files_their_owner", users_and_files),
    ("the_command_has_a_resolver_of_its_own", resolver),
    ("names_are_resolved_by_way_of_the_gateway", names),
    ("what_the_host_forbids_is_told_with_the_cure", forbidden),
    ("a_published_port_leads_to_the_command", published),
    ("signals_from_others_are_handed_on", handed_on),
    ("the_command_goes_with_a_killed_gateway", killed),
    ("several_at_once_and_nothing_is_left", several),
];

/// Those that need one.
pub const ON_A_TERMINAL: [(&str, fn()); 2] =
    [("keys_of_the_terminal_are_the_commands", keys), ("a_stopped_command_is_a_stopped_job", stopped)];

/// Why there is no terminal to test with.
pub fn without_a_terminal() -> Option<String> {
    let found = |program: &str| {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&paths).any(|folder| folder.join(program).exists())
    };
    ["script", "bash"]
        .into_iter()
        .find(|program| !found(program))
        .map(|program| format!("{program} is not installed"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn reaches_the_world() {
    let rig = Rig::new();
    let output = rig.exec(&[], &[&fetching(), "fetch"]);
    assert!(text(&output.stdout).starts_with(&format!("hello {HOST}:")), "{output:?}");
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "it is not quiet");
    let seen = rig.exec(&["--log", "info"], &["true"]);
    assert!(text(&seen.stderr).contains("serving 10.0.2.2/24 as 203.0.113.1"), "{seen:?}");
    rig.world.assert_checksums_right();
}

fn exit_codes() {
    let rig = Rig::new();
    let code = |command: &[&str]| rig.exec(&[], command).status.code().unwrap();
    assert_eq!(code(&["true"]), 0);
    assert_eq!(code(&["sh", "-c", "exit 7"]), 7);
    assert_eq!(code(&["sh", "-c", "kill -9 $$"]), 137);
    assert_eq!(code(&["sh", "-c", "kill -TERM $$"]), 143);
    for (command, want, why) in
        [("/no/such/program", 127, "No such file"), ("/etc/passwd", 126, "Permission denied")]
    {
        let output = rig.exec(&[], &[command]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(want), "{said}");
        assert!(said.starts_with(&format!("tapnat: exec: cannot run {command}: {why}")), "{said}");
    }
    // A gateway that cannot start runs no command.
    let output = rig.exec(&["--external", "10.0.2.9"], &["echo", "it ran"]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), String::new()), "{output:?}");
    let output = rig.exec(&["--publish", "80:10.0.2.100:80/tcp", "--outside", "eth9"], &["echo", "it ran"]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), String::new()), "{output:?}");
}

fn standard_input() {
    let rig = Rig::new();
    let mut command = rig.program("exec", &["--", "wc", "-c"]);
    rig.host().confine(&mut command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(&[b'x'; 100_000]).unwrap();
    let output = finish(child, LATER);
    assert_eq!(text(&output.stdout).trim(), "100000", "{output:?}");
}

fn users_and_files() {
    let rig = Rig::new();
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let file = rig.path("made");
    let script = format!("id -u; id -g; echo it > {}", file.display());
    let output = rig.exec(&[], &["sh", "-c", &script]);
    assert_eq!(text(&output.stdout), format!("{uid}\n{gid}\n"), "{output:?}");
    let made = fs::metadata(&file).unwrap();
    assert_eq!((made.uid(), made.gid()), (uid, gid));
    let output = rig.exec(&["--root"], &["sh", "-c", "id -u; ip link set tapnat0 mtu 1400 && echo changed"]);
    assert_eq!(text(&output.stdout), "0\nchanged\n", "{output:?}");
}

fn resolver() {
    let rig = Rig::new();
    // Nothing outside the command's mount namespace changes.
    let before = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let output = rig.exec(&[], &["cat", "/etc/resolv.conf"]);
    let inside = text(&output.stdout);
    assert_eq!(fs::read_to_string("/etc/resolv.conf").unwrap_or_default(), before);
    if before.is_empty() {
        // Nothing can be mounted over a file that is not there.
        return assert!(text(&output.stderr).contains("/etc/resolv.conf stays the host's"), "{output:?}");
    }
    assert_eq!(inside.lines().next(), Some("nameserver 10.0.2.2"), "{inside}");
    let named = rig.exec(&["--dns", "192.0.2.53", "--search", "lab.example"], &["cat", "/etc/resolv.conf"]);
    let named = text(&named.stdout);
    assert!(named.starts_with("nameserver 192.0.2.53\nsearch lab.example\n"), "{named}");
    let off = rig.exec(&["--dns-forward", "off"], &["cat", "/etc/resolv.conf"]);
    assert!(!text(&off.stdout).contains("nameserver 10.0.2.2\n"), "{off:?}");
    // Whoever the command becomes may read it.
    let mut command = Command::new("sh");
    command.args(["-c", "umask 077 && exec \"$@\"", "sh", PROGRAM]);
    command.args(rig.words("exec", &["--", "stat", "-c", "%a", "/etc/resolv.conf"]));
    let output = rig.run(command);
    assert_eq!(text(&output.stdout).trim(), "644", "{output:?}");
    let output = rig.exec(&[], &["sh", "-c", "ls /etc | wc -l"]);
    let count = fs::read_dir("/etc")
        .unwrap()
        .filter(|entry| !entry.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'));
    assert_eq!(text(&output.stdout).trim(), count.count().to_string(), "the rest of /etc is another one");
}

/// The host's resolver is a server of the lab here, in a mount namespace of this test.
fn names() {
    let rig = Rig::new();
    let file = rig.path("resolv.conf");
    fs::write(&file, format!("nameserver {ROUTER}\nsearch example.org\n")).unwrap();
    if !std::path::Path::new("/etc/resolv.conf").exists() {
        return println!("    no /etc/resolv.conf here: not tried");
    }
    let mut command = Command::new("unshare");
    let script = format!("mount --bind {} /etc/resolv.conf && exec \"$@\"", file.display());
    command.args(["-m", "sh", "-c", &script, "sh", PROGRAM]);
    command.args(rig.words("exec", &["--", &fetching(), "resolve", "www.example.org"]));
    let output = rig.run(command);
    assert_eq!(text(&output.stdout).trim(), SERVERS[0].to_string(), "{output:?}");
}

fn forbidden() {
    let rig = Rig::new();
    // A user namespace whose own users may make none, and no right to do without.
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && \
                  exec setpriv --bounding-set=-all --inh-caps=-all \"$@\"";
    let told = |program: &str, options: &[&str], script: &str| {
        let mut command = Command::new(program);
        command.args(options).args(["sh", "-c", script, "sh", PROGRAM]);
        command.args(rig.words("exec", &["--", "echo", "it ran"]));
        let output = rig.run(command);
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), String::new()), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        said
    };
    let said = told("unshare", &["-Ur"], script);
    assert!(said.contains("exec cannot create user, network and mount namespaces: No space left"), "{said}");
    assert!(said.contains("sysctl -w user.max_user_namespaces=10000"), "{said}");
    let said = told("unshare", &["-m"], "mount -t tmpfs none /dev/net && exec \"$@\"");
    assert!(said.contains("/dev/net/tun is missing: load it with `modprobe tun`"), "{said}");
}

fn published() {
    let rig = Rig::new();
    let options = ["--publish", "8080:10.0.2.100:80/tcp", "--root", "--"];
    let program = fetching();
    let words = [&options[..], &[&program, "serve"]].concat();
    let mut child = rig.spawn(rig.program("exec", &words));
    let mut out = child.stdout.take().unwrap();
    read_until(&mut out, "up\n");
    let fetched = rig.world.on("internet").run(|| {
        let mut stream = std::net::TcpStream::connect_timeout(&at(HOST, 8080).into(), SOON).unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
        text
    });
    assert_eq!(fetched.unwrap(), "from inside");
    let seen = read_until(&mut out, "\n");
    assert_eq!(seen.trim(), ROUTER.to_string(), "the client's address is lost");
    assert_eq!(finish(child, SOON).status.code(), Some(0));
}

/// A command that says its number and then waits; and the number.
fn waiting(rig: &Rig, script: &str) -> (Child, String) {
    let mut child = rig.spawn(rig.program("exec", &["--", "sh", "-c", script]));
    let mut out = child.stdout.take().unwrap();
    let line = read_until(&mut out, "\n");
    child.stdout = Some(out);
    (child, line.trim().trim_start_matches("pid ").to_owned())
}

fn handed_on() {
    let rig = Rig::new();
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129), (Signal::USR1, 138)] {
        let (child, pid) = waiting(&rig, "echo pid $$; exec sleep 1000");
        send(&child, signal);
        assert_eq!(finish(child, SOON).status.code(), Some(code), "{signal:?}");
        assert!(!runs(&pid));
    }
    // Root's command may have become somebody else, whom only root signals.
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    if map.split_whitespace().eq(["0", "0", "4294967295"]) {
        let (child, pid) =
            waiting(&rig, "echo pid $$; exec setpriv --reuid 65534 --regid 65534 --clear-groups sleep 1000");
        let status = format!("/proc/{pid}/status");
        eventually("it is somebody else", SOON, || {
            fs::read_to_string(&status).is_ok_and(|status| status.contains("Uid:\t65534"))
        });
        send(&child, Signal::TERM);
        assert_eq!(finish(child, SOON).status.code(), Some(143));
        assert!(!runs(&pid));
    }
    // A command may take it as it likes; the gateway serves it to its end.
    let fetch =
        format!("trap '{} fetch; exit 9' TERM; echo pid $$; while true; do sleep 0.05; done", fetching());
    let (child, _) = waiting(&rig, &fetch);
    send(&child, Signal::TERM);
    let output = finish(child, LATER);
    assert_eq!(output.status.code(), Some(9), "{output:?}");
    assert!(text(&output.stdout).contains(&format!("hello {HOST}:")), "{output:?}");
}

fn killed() {
    let rig = Rig::new();
    let (mut child, pid) = waiting(&rig, "echo pid $$; exec sleep 1000");
    assert!(runs(&pid));
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the command ends", SOON, || !runs(&pid));
}

fn several() {
    let rig = Rig::new();
    let folder = rig.path("runtime");
    fs::create_dir(&folder).unwrap();
    let start = || {
        let mut command = Command::new(PROGRAM);
        command.args(["exec", "--outside", "eth0", "--guard", "hold", "--", &fetching(), "fetch"]);
        command.env("XDG_RUNTIME_DIR", &folder);
        rig.spawn(command)
    };
    let children: Vec<Child> = (0..5).map(|_| start()).collect();
    for child in children {
        let output = finish(child, LATER);
        assert!(text(&output.stdout).starts_with(&format!("hello {HOST}:")), "{output:?}");
    }
    let left: Vec<_> = fs::read_dir(folder.join("tapnat")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    // Without a place for the control socket there is none, and nothing is said.
    let mut command = rig.program("exec", &[]);
    command = Command::new(command.get_program());
    command.args(["exec", "--outside", "eth0", "--guard", "hold", "--", "true"]);
    command.env("XDG_RUNTIME_DIR", "/proc");
    let output = rig.run(command);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
}

/// An interactive shell on a terminal of its own, on the host.
struct Terminal {
    child: Child,
}

impl Terminal {
    fn new(rig: &Rig) -> Terminal {
        let mut command = Command::new("script");
        command.args(["-qefc", "bash --norc --noprofile -i", "/dev/null"]);
        command.env("TAPNAT", PROGRAM).env("OWN", rig.words("exec", &["--"]).join(" "));
        rig.host().confine(&mut command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut terminal = Terminal { child: command.spawn().unwrap() };
        terminal.types("stty -echo; bind 'set enable-bracketed-paste off'; echo re''ady\n");
        terminal.until("ready");
        terminal
    }

    fn types(&mut self, keys: &str) {
        self.child.stdin.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    fn until(&mut self, mark: &str) -> String {
        read_until(self.child.stdout.as_mut().unwrap(), mark)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn keys() {
    let rig = Rig::new();
    let mut terminal = Terminal::new(&rig);
    terminal.types("$TAPNAT $OWN sh -c 'echo run''ning; exec sleep 1000'; echo code $?.\n");
    terminal.until("running");
    terminal.types("\x03");
    terminal.until("code 130.");
    // A shell inside has jobs of its own, and gives the terminal back.
    terminal.types("$TAPNAT $OWN bash --norc --noprofile -i; echo code $?.\n");
    terminal.types("echo in''side\n");
    terminal.until("inside");
    let job = "trap \"echo ov''er; exit\" INT; echo wai''ting; while read word; do echo he''ard $word; done";
    terminal.types(&format!("sh -c '{job}'\n"));
    terminal.until("waiting");
    terminal.types("\x1a");
    terminal.until("Stopped");
    terminal.types("fg\n");
    // What the job says again it has read, so that the terminal is its own.
    terminal.types("again\n");
    terminal.until("heard again");
    terminal.types("\x03");
    terminal.until("over");
    terminal.types("exit 3\n");
    terminal.until("code 3.");
}

fn stopped() {
    let rig = Rig::new();
    let mut terminal = Terminal::new(&rig);
    terminal.types("$TAPNAT $OWN sh -c 'echo run''ning; exec cat'\n");
    terminal.until("running");
    terminal.types("before\n");
    terminal.until("before");
    terminal.types("\x1a");
    terminal.until("Stopped");
    terminal.types("fg; echo code $?.\n");
    // The shell says which job it continues, and then no longer reads what is typed.
    terminal.until("exec cat");
    terminal.until("\n");
    terminal.types("after\n");
    terminal.until("after");
    terminal.types("\x04");
    terminal.until("code 0.");
    // One that stops itself alone.
    terminal.types("$TAPNAT $OWN sh -c 'kill -STOP $$; echo con''tinued; exit 5'\n");
    terminal.until("Stopped");
    terminal.types("fg; echo code $?.\n");
    terminal.until("continued");
    terminal.until("code 5.");
}
