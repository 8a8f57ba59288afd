//! What the gateway gives up after its start: the real one in a lab, which still does everything; and
//! this program itself, protected by the same functions, which tries what is forbidden.
#![allow(clippy::unwrap_used)]

#[path = "support/lab_harness.rs"]
mod lab_harness;
#[path = "support/lab_setup.rs"]
#[allow(dead_code, reason = "each test program uses a part")]
mod lab_setup;

#[allow(dead_code, reason = "shared with programs that use other parts")]
#[path = "support/lab_sockets.rs"]
mod lab_sockets;
#[path = "support/lab_tcx.rs"]
mod lab_tcx;
#[path = "support/protection_rights.rs"]
mod protection_rights;

use lab_harness::Test;
use lab_setup::*;
use rustix::thread::CapabilitySet;
use std::fs;
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use tapnat::config::{RunFlags, SandboxChoice, load};
use tapnat::control::About;
use tapnat::io::netlink::Netlink;
use tapnat::io::protect::places::{Place, Right, version};
use tapnat::io::protect::{self, Needs, Stage};
use tapnat::lab::product::Product;
use tapnat::lab::programs::http;
use tapnat::lab::topology::{BRIDGE, CONTAINERS, HOST, INSIDE, Options, ROUTER, SERVERS, UPLINK};
use tapnat::runtime::sandbox;

/// A test that takes a form of the gateway, by its name.
type Named = (&'static str, fn(Form));

/// Every uplink and guard.
fn every_form() -> impl Iterator<Item = Form> {
    forms().into_iter().filter(|form| form.tap == PLAIN.tap)
}

/// The values of a line of `/proc/PID/status`, of every thread of the process.
fn of_every_thread(id: u32, key: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).unwrap();
    let value = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap().to_owned();
        line.trim_start_matches(':').trim().to_owned()
    };
    // A thread that has ended meanwhile, as that of a client does, has nothing to tell.
    tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok()).map(value).collect()
}

fn tapnat(setup: &Setup, words: &[&str]) -> String {
    let output =
        Command::new(PROGRAM).args(words).arg("--control").arg(setup.world.control()).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn every_thread_has_given_up_the_same(form: Form) {
    // The pool's address has a thread that answers ARP for it.
    let pool: &[&str] = match form.guard {
        "hold" if form.uplink == "packet" => {
            &["--external", "203.0.113.77", "--guard", "off", "--sandbox", "strict"]
        }
        _ => &["--sandbox", "strict"],
    };
    let setup = Setup::new(form, Options::default(), pool);
    let id = setup.gateway.0.id();
    // A thread gives itself its name when it first runs.
    let unnamed = |name: &&String| *name == "tapnat";
    eventually("every thread but the first has a name", SOON, || {
        of_every_thread(id, "Name").iter().filter(unnamed).count() <= 1
    });
    let threads = of_every_thread(id, "Name");
    assert!(threads.len() >= 3, "{threads:?}");
    assert_eq!(threads.iter().any(|name| name == "arp"), pool.len() > 2, "{threads:?}");
    let mut kept = CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW | CapabilitySet::NET_BIND_SERVICE;
    if form.guard == "tcx" {
        kept |= CapabilitySet::BPF;
    }
    let kept = format!("{:016x}", kept.bits());
    let none = format!("{:016x}", 0);
    for (key, want) in [
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("CapEff", &kept),
        ("CapPrm", &kept),
        ("CapInh", &none),
        ("CapBnd", &none),
        ("CapAmb", &none),
    ] {
        let values = of_every_thread(id, key);
        assert!(values.iter().all(|value| value == want), "{key}: {values:?} of {threads:?}, want {want}");
    }
    let gave_up = gave_up(&setup.world);
    let stages = [
        "no-new-privs: on",
        "own mount namespace",
        "capabilities: kept cap_net_",
        "landlock: ABI ",
        "seccomp: ",
    ];
    for word in stages {
        assert!(gave_up.contains(word), "{gave_up}");
    }
    only_places_are_there(&setup.world, id);
}

/// What the process sees as the root of all files has the way to its places, and nothing else.
fn only_places_are_there(world: &World, id: u32) {
    let root = PathBuf::from(format!("/proc/{id}/root"));
    let (seen, own) = [root.join("etc/passwd"), "/etc/passwd".into()].map(|path| path.exists()).into();
    assert!(own && !seen, "{}", gave_up(world));
    let folder = world.folder.path().strip_prefix("/").unwrap();
    let above = |name: &str| folder.iter().next().unwrap() == name || ["dev", "proc"].contains(&name);
    let cwd = std::env::current_dir().unwrap();
    let cwd = cwd.strip_prefix("/").unwrap().iter().next().map(|name| name.to_owned());
    for entry in fs::read_dir(&root).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(above(name.to_str().unwrap()) || Some(&name) == cwd.as_ref(), "{name:?}");
    }
    assert!(root.join(folder).join("control").exists(), "the control socket is in its place");
    let mounts = |id: &str| fs::read_link(format!("/proc/{id}/ns/mnt")).unwrap();
    assert_ne!(mounts(&id.to_string()), mounts("self"));
}

/// Who keeps no capability gets its mounts by way of a user namespace, and serves as before.
fn without_capabilities_a_user_namespace_does() {
    let ready = lab_sockets::Ready::new(Options::default());
    let folder = ready.world.folder.path();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
    let program = folder.join("tapnat");
    fs::copy(PROGRAM, &program).unwrap();
    let mut words = ready.words(&[], &["--sandbox", "strict"]);
    let at_program = words.iter().position(|word| word == PROGRAM).unwrap();
    words[at_program] = program.to_str().unwrap().to_owned();
    words.splice(0..0, ["--reuid=65534", "--regid=65534", "--clear-groups"].map(str::to_owned));
    let started = Product::start(Path::new("setpriv"), ready.world.on("host"), &words, SOON * 2);
    let gateway = Gateway(started.unwrap_or_else(|error| panic!("{error}")));
    let id = gateway.0.id();
    let user = |id: &str| fs::read_link(format!("/proc/{id}/ns/user")).unwrap();
    assert_ne!(user(&id.to_string()), user("self"), "{}", gave_up(&ready.world));
    only_places_are_there(&ready.world, id);
    let kept = of_every_thread(id, "CapPrm");
    assert!(kept.iter().all(|set| *set == format!("{:016x}", 0)), "{kept:?}");
    let server = at(SERVERS[0], 80);
    assert_eq!(page(ready.world.on("red"), server, "/bytes/100000").unwrap().length, 100_000);
    let said = gave_up(&ready.world);
    assert!(
        said.contains("namespaces: own user and mount namespace") && said.contains("none kept"),
        "{said}"
    );
}

/// The line of `tapnat stats` about it.
fn gave_up(world: &World) -> String {
    let output = Command::new(PROGRAM).arg("stats").arg("--control").arg(world.control()).output();
    let said = String::from_utf8(output.unwrap().stdout).unwrap();
    said.lines().find(|line| line.contains("gave up")).unwrap_or_default().to_owned()
}

/// Why no other user can be had here.
fn nobody_is_impossible() -> Option<String> {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let whole = map.split_whitespace().eq(["0", "0", "4294967295"]);
    (!whole).then(|| "only root of the machine becomes another user".to_owned())
}

/// Relative to the directory it was started in, and through links, as ever.
fn relative_paths_and_links_lead_where_they_did() {
    let world = World::new(Options::default());
    let folder = world.folder.path();
    fs::create_dir_all(folder.join("real/settings")).unwrap();
    fs::create_dir(folder.join("start")).unwrap();
    std::os::unix::fs::symlink("real", folder.join("link")).unwrap();
    // The file too is a link, as tools that look after many hosts make them.
    fs::create_dir(folder.join("store")).unwrap();
    let stored = folder.join("store/b7.toml");
    std::os::unix::fs::symlink("../../store/b7.toml", folder.join("real/settings/gateway.toml")).unwrap();
    fs::write(&stored, "ports = '61000-61999'\n").unwrap();
    // And somebody else's, in a directory of root's.
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    if map.split_whitespace().eq(["0", "0", "4294967295"]) {
        std::os::unix::fs::chown(&stored, Some(65534), None).unwrap();
        fs::set_permissions(&stored, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let control = folder.join("link/control.sock");
    let start = folder.join("start");
    let words = [
        "-c",
        "cd \"$1\" && shift && exec \"$@\"",
        "sh",
        start.to_str().unwrap(),
        PROGRAM,
        "run",
        "--config",
        "../link/settings/gateway.toml",
        "--control",
        "../link/control.sock",
        "--inside",
        INSIDE,
        "--tap",
        TAP,
        "--bridge",
        BRIDGE,
        "--sandbox",
        "strict",
    ];
    let mut gateway =
        Gateway(Product::start(Path::new("/bin/sh"), world.on("host"), &words, SOON * 2).unwrap());
    let ask = |words: &[&str]| {
        let output = Command::new(PROGRAM).args(words).arg("--control").arg(&control).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(ask(&["stats"]).contains("own mount namespace"));
    fs::write(&stored, "ports = '50000-50999'\n").unwrap();
    assert!(ask(&["reload"]).contains("ports"));
    assert_eq!(gateway.0.terminate(SOON).unwrap().unwrap().code(), Some(0), "{}", gateway.0.said());
    assert!(!control.exists(), "the control socket is still there");
}

/// Ordinary sockets need no right to packets.
fn with_sockets_less_is_kept() {
    let form = Form { uplink: "sockets", guard: "sockets", tap: "auto" };
    let setup = Setup::new(form, Options::default(), &["--sandbox", "strict"]);
    assert_eq!(page(setup.on("red"), at(SERVERS[0], 80), "/bytes/100000").unwrap().length, 100_000);
    tapnat(&setup, &["publish", "add", "81:10.88.0.2:80/tcp"]);
    let _web = http::serve(setup.on("red"), at(CONTAINERS[0], 80)).unwrap();
    assert_eq!(page(setup.on("internet"), at(HOST, 81), "/bytes/1000").unwrap().length, 1000);
    let kept = CapabilitySet::NET_ADMIN | CapabilitySet::NET_BIND_SERVICE;
    let kept = format!("{:016x}", kept.bits());
    let values = of_every_thread(setup.gateway.0.id(), "CapEff");
    assert!(values.iter().all(|value| *value == kept), "{values:?}, want {kept}");
}

fn nothing_is_given_up_if_that_is_asked_for() {
    let setup = Setup::new(PLAIN, Options::default(), &["--sandbox", "off"]);
    let id = setup.gateway.0.id();
    assert!(of_every_thread(id, "Seccomp").iter().all(|value| value == "0"));
    assert!(tapnat(&setup, &["stats"]).contains("gave up  nothing (--sandbox off)"));
}

/// Reload of a file that was replaced, a published low port, link and TAP gone and back, the log of
/// ports, the end.
fn everything_still_works(form: Form) {
    let world = World::new(Options::default());
    let file = world.folder.path().join("gateway.toml");
    let write = |text: &str| {
        let new = file.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, &file).unwrap();
    };
    write("ports = '61000-61999'\n");
    let arguments = ["--config", file.to_str().unwrap(), "--sandbox", "strict", "--mac", "02:00:00:00:00:01"];
    let gateway = world.gateway(form, &arguments);
    let mut setup = Setup { gateway, world };
    let web = http::serve(setup.on("red"), at(CONTAINERS[0], 80)).unwrap();
    write("ports = '50000-50999'\n[timeouts]\nudp = '10m'\n");
    assert!(tapnat(&setup, &["reload"]).contains("timeouts.udp"));
    tapnat(&setup, &["publish", "add", "81:10.88.0.2:80/tcp"]);
    assert_eq!(*seen_as(setup.on("internet"), at(HOST, 81)).ip(), ROUTER);
    let port = seen_as(setup.on("red"), at(SERVERS[0], 80)).port();
    assert!((50000..=50999).contains(&port), "{port}");

    let host = setup.on("host");
    let index = setup.world.link("host", UPLINK).unwrap().index;
    host.run(|| Netlink::open().unwrap().set_up(index, false).unwrap()).unwrap();
    eventually("the link is down", SOON, || setup.gateway.0.said().contains("is down"));
    host.run(|| {
        let netlink = Netlink::open().unwrap();
        netlink.set_up(index, true).unwrap();
        netlink.add_default_route(IpAddr::V4(ROUTER)).unwrap();
    })
    .unwrap();
    eventually("the link is up again", SOON, || setup.gateway.0.said().contains("is up again"));
    let serves = |who: &str| {
        let got = page(setup.on(who), at(SERVERS[0], 80), "/bytes/1000");
        got.is_ok_and(|page| page.length == 1000)
    };
    // Its route is there a moment later.
    eventually("the world is reached again", SOON * 4, || serves("blue"));

    let tap = setup.world.link("host", TAP).unwrap().index;
    setup.on("host").run(|| Netlink::open().unwrap().delete(tap).unwrap()).unwrap();
    eventually("another TAP is made", SOON, || {
        setup.world.link("host", TAP).is_some_and(|link| link.index != tap && link.master.is_some())
    });
    eventually("the world is reached by the new TAP", SOON * 4, || serves("red"));

    drop(web);
    let status = setup.gateway.0.terminate(SOON).unwrap().expect("it ends when it is asked to");
    assert_eq!(status.code(), Some(0), "{}", setup.gateway.0.said());
    assert!(!setup.world.control().exists(), "the control socket is still there");
    assert!(setup.world.link("host", BRIDGE).is_some());
    assert!(!setup.gateway.0.said().contains("refused by seccomp"), "{}", setup.gateway.0.said());
    setup.gateway = setup.world.gateway(form, &arguments);
    let rest = "ports of an earlier run rest";
    eventually(rest, SOON, || setup.gateway.0.said().contains(rest));
}

/// A gateway that may read nothing takes the settings of any file that the caller may read.
fn reload_takes_the_callers_file() {
    let setup = Setup::new(every_form().next().unwrap(), Options::default(), &["--sandbox", "strict"]);
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("night.toml");
    let reload = |words: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.arg("reload").arg("--control").arg(setup.world.control()).args(words);
        let output = command.current_dir(elsewhere.path()).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    fs::write(&file, "[timeouts]\nudp = '10m'\n").unwrap();
    let (code, said) = reload(&["--config", "night.toml"]);
    assert!(code == Some(0) && said.contains("timeouts.udp: 5m -> 10m"), "{said}");
    fs::write(&file, "mtu = 1500\nudp = '10m'\n").unwrap();
    let (code, said) = reload(&["--config", "night.toml"]);
    assert!(code == Some(1) && said.starts_with("tapnat: night.toml line 2: udp: no such key; "), "{said}");
    let (code, said) = reload(&["--config", "nope.toml"]);
    assert!(code != Some(0) && said.contains("cannot read nope.toml: No such file"), "{said}");
    let (code, said) = reload(&[]);
    assert!(code == Some(1) && said.contains("was started without --config"), "{said}");
    assert_eq!(page(setup.on("red"), at(SERVERS[0], 80), "/bytes/1000").unwrap().length, 1000);
}

fn kind(error: std::io::Error) -> ErrorKind {
    error.kind()
}

/// What this program says of itself when it is protected.
fn confession(what: &str, folder: &Path) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.arg(CONFESS).arg(what).arg(folder).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// By all stages together, and where the host has no namespaces for us.
fn forbidden_calls_and_files_are_refused() {
    refused_in("all", "NotFound", "ReadOnlyFilesystem");
    refused_in("landlock", "PermissionDenied", "PermissionDenied");
}

/// `elsewhere` is said of what is in no place, `change` of what is changed in a place to be read.
fn refused_in(stages: &str, elsewhere: &str, change: &str) {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("open")).unwrap();
    fs::write(folder.path().join("open/file"), "may be read").unwrap();
    fs::write(folder.path().join("secret"), "may not").unwrap();
    let name = SocketAddr::from_abstract_name(folder.path().as_os_str().as_encoded_bytes()).unwrap();
    let _abstract = UnixListener::bind_addr(&name).unwrap();
    let said = confession(stages, folder.path());
    let moved = [
        format!("write open/file: {change}"),
        format!("read secret: {elsewhere}"),
        format!("read /etc/passwd: {elsewhere}"),
        format!("make a file: {change}"),
        format!("a thread reads secret: {elsewhere}"),
    ];
    let mut want: Vec<&str> = moved.iter().map(String::as_str).collect();
    want.extend([
        "read open/file: ok",
        "start a program: PermissionDenied",
        "a socket of another family: PermissionDenied",
        "unshare: PermissionDenied",
        "code in memory: PermissionDenied",
        "a UDP socket: ok",
        "a port below 1024: PermissionDenied",
        "a call of the list: ok",
        "calls refused: 3",
    ]);
    if version().is_ok_and(|version| version >= 6) {
        want.push("an abstract socket of others: PermissionDenied");
    }
    for line in want {
        assert!(said.lines().any(|said| said == line), "{line}\nis not in\n{said}");
    }
}

fn strict_is_refused_where_a_stage_would_leave_a_gap() {
    let said = confession("strict", Path::new("/"));
    assert!(
        said.contains("--sandbox strict: 1 threads run already") && said.contains("--sandbox auto"),
        "{said}"
    );
    let said = confession("everything", Path::new("/"));
    assert!(said.contains("right in /, so every file stays within reach; put it"), "{said}");
}

/// The argument that has this program protect itself and try things.
const CONFESS: &str = "--confess";

fn confess(what: &str, folder: PathBuf) -> ExitCode {
    if what == "everything" {
        let flags = RunFlags { inside: vec!["10.88.0.1/24".into()], ..RunFlags::default() };
        let mut settings = load(&flags, None).unwrap();
        settings.sandbox = SandboxChoice::Strict;
        settings.control = "/tapnat.sock".into();
        println!("{}", sandbox::enter(&settings, &flags, &About::default(), &[]).unwrap_err());
        return ExitCode::SUCCESS;
    }
    if what == "strict" {
        let thread = std::thread::spawn(std::thread::park);
        let flags = RunFlags { inside: vec!["10.88.0.1/24".into()], ..RunFlags::default() };
        let mut settings = load(&flags, None).unwrap();
        settings.sandbox = SandboxChoice::Strict;
        println!("{}", sandbox::enter(&settings, &flags, &About::default(), &[]).unwrap_err());
        thread.thread().unpark();
        return ExitCode::SUCCESS;
    }
    let name = SocketAddr::from_abstract_name(folder.as_os_str().as_encoded_bytes()).unwrap();
    let needs = Needs {
        capabilities: CapabilitySet::empty(),
        places: vec![Place::new(folder.join("open"), Right::Read)],
        signals: false,
        bpf: false,
    };
    for outcome in protect::enter_but(&needs, if what == "all" { &[] } else { &[Stage::Namespaces] }) {
        outcome.result.unwrap();
    }
    let say = |what: &str, result: Result<(), ErrorKind>| match result {
        Ok(()) => println!("{what}: ok"),
        Err(kind) => println!("{what}: {kind:?}"),
    };
    let read = |path: PathBuf| fs::read(path).map(drop).map_err(kind);
    say("read open/file", read(folder.join("open/file")));
    let write = fs::File::options().append(true).open(folder.join("open/file"));
    say("write open/file", write.and_then(|mut file| file.write_all(b"x")).map_err(kind));
    say("read secret", read(folder.join("secret")));
    say("read /etc/passwd", read("/etc/passwd".into()));
    say("make a file", fs::write(folder.join("open/new"), "x").map_err(kind));
    say("start a program", Command::new("/bin/true").status().map(drop).map_err(kind));
    let vsock = socket2::Socket::new(socket2::Domain::VSOCK, socket2::Type::STREAM, None);
    say("a socket of another family", vsock.map(drop).map_err(kind));
    let refused = rustix::thread::sched_getaffinity(None).map(drop);
    say("a call of the list", refused.map_err(|error| error.kind()));
    say("unshare", tapnat::io::sys::netns::enter_private(true).map_err(kind));
    say("code in memory", code_in_memory().map_err(kind));
    let secret = folder.join("secret");
    say("a thread reads secret", std::thread::spawn(move || read(secret)).join().unwrap());
    say("a UDP socket", UdpSocket::bind("127.0.0.1:0").map(drop).map_err(kind));
    say("a port below 1024", TcpListener::bind("127.0.0.1:700").map(drop).map_err(kind));
    say("an abstract socket of others", UnixStream::connect_addr(&name).map(drop).map_err(kind));
    println!("calls refused: {}", protect::refused().0);
    ExitCode::SUCCESS
}

/// Tries to make memory that can be run.
#[expect(unsafe_code, reason = "no safe function maps memory")]
fn code_in_memory() -> std::io::Result<()> {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    let flags = ProtFlags::READ | ProtFlags::EXEC;
    // SAFETY: a new private mapping, which replaces nothing and is never used.
    unsafe { mmap_anonymous(std::ptr::null_mut(), 4096, flags, MapFlags::PRIVATE) }?;
    Ok(())
}

fn tests() -> Vec<Test> {
    let tcx = lab_tcx::impossible();
    let mut all: Vec<Test> = Vec::new();
    let mut add = |name: String, run: Box<dyn Fn()>, impossible| all.push(Test { name, run, impossible });
    let once: [(&str, fn()); 7] = [
        ("relative_paths_and_links_lead_where_they_did", relative_paths_and_links_lead_where_they_did),
        ("each_capability_is_missed", protection_rights::each_capability_is_missed),
        ("with_sockets_less_is_kept", with_sockets_less_is_kept),
        ("forbidden_calls_and_files_are_refused", forbidden_calls_and_files_are_refused),
        (
            "strict_is_refused_where_a_stage_would_leave_a_gap",
            strict_is_refused_where_a_stage_would_leave_a_gap,
        ),
        ("reload_takes_the_callers_file", reload_takes_the_callers_file),
        ("nothing_is_given_up_if_that_is_asked_for", nothing_is_given_up_if_that_is_asked_for),
    ];
    for (name, test) in once {
        add(name.to_owned(), Box::new(test), None);
    }
    let name = "without_capabilities_a_user_namespace_does".to_owned();
    add(name, Box::new(without_capabilities_a_user_namespace_does), nobody_is_impossible());
    for form in every_form() {
        let named: [Named; 2] = [
            ("every_thread_has_given_up_the_same", every_thread_has_given_up_the_same),
            ("everything_still_works", everything_still_works),
        ];
        for (name, test) in named {
            let impossible = if form.guard == "tcx" { tcx.clone() } else { None };
            add(format!("{name}/{form}"), Box::new(move || test(form)), impossible);
        }
    }
    all
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    match words.as_slice() {
        [_, flag, what, folder] if flag == CONFESS => confess(what, folder.into()),
        [_, flag, dropped, folder] if flag == protection_rights::TRY => {
            protection_rights::try_all(dropped, Path::new(folder))
        }
        _ => lab_harness::main(tests),
    }
}
