//! `tapnat-raw`, installed with its file capability as an administrator would, and those who may use it.

use crate::lab_setup::*;
use crate::lab_sockets::Ready;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use tapnat::io::sys::netns::Netns;
use tapnat::lab::product::Product;
use tapnat::lab::topology::{HOST, Options, SERVERS, UPLINK};
use tempfile::TempDir;

/// The users of the helper: its group, and somebody else.
const GROUP: u32 = 64_123;
const NOBODY: u32 = 65_534;

/// A `vfs_cap_data` of version 2 with CAP_NET_RAW permitted, and effective from the start.
const NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Both programs in a directory of their own.
struct Installed {
    folder: TempDir,
}

impl Installed {
    fn new() -> Installed {
        let folder = TempDir::new().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        fs::copy(PROGRAM, folder.path().join("tapnat")).unwrap();
        let raw = folder.path().join("tapnat-raw");
        fs::copy(env!("CARGO_BIN_EXE_tapnat-raw"), &raw).unwrap();
        chown(&raw, Some(0), Some(GROUP)).unwrap();
        fs::set_permissions(&raw, Permissions::from_mode(0o750)).unwrap();
        rustix::fs::setxattr(&raw, "security.capability", &NET_RAW, rustix::fs::XattrFlags::empty()).unwrap();
        Installed { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command line of `setpriv` that has a user of this group call the helper.
    fn words(&self, group: u32, environment: &[&str], words: &[&str]) -> Vec<String> {
        let (user, group) = (format!("--reuid={NOBODY}"), format!("--regid={group}"));
        let all = [&*user, &group, "--clear-groups", "--inh-caps=-all", "--ambient-caps=-all", "--", "env"];
        let raw = self.path("tapnat-raw").to_str().unwrap().to_owned();
        let words = all.iter().chain(environment).copied().chain([&*raw]).chain(words.iter().copied());
        words.map(str::to_owned).collect()
    }

    /// What is said by who cannot do it.
    fn refused(&self, host: &Netns, group: u32, environment: &[&str], words: &[&str]) -> String {
        let words = self.words(group, environment, words);
        let mut product = Product::start_unready(Path::new("setpriv"), host, &words).unwrap();
        let status = product.wait(SOON).unwrap().expect("it ends");
        assert!(!status.success(), "{words:?}: {}", product.said());
        product.said()
    }
}

/// Why this host cannot have programs with file capabilities.
pub fn impossible() -> Option<String> {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let whole = map.split_whitespace().eq(["0", "0", "4294967295"]);
    if !rustix::process::geteuid().is_root() || !whole {
        return Some("file capabilities are for root of the machine to give".to_owned());
    }
    let mount = rustix::fs::statvfs(std::env::temp_dir()).ok()?;
    let nosuid = mount.f_flag.contains(rustix::fs::StatVfsMountFlags::NOSUID);
    nosuid.then(|| format!("{} is mounted nosuid", std::env::temp_dir().display()))
}

/// The arguments of a gateway on the TAP that is ready, and its folder open to everybody.
fn run_words(ready: &Ready) -> Vec<String> {
    fs::set_permissions(ready.world.folder.path(), Permissions::from_mode(0o777)).unwrap();
    let words = ready.words(&[], &["--uplink", "packet"]);
    words[words.iter().position(|word| word == PROGRAM).unwrap() + 1..].to_vec()
}

pub fn helper_serves_its_group() {
    let installed = Installed::new();
    let ready = Ready::new(Options::default());
    let run = run_words(&ready);
    let run: Vec<&str> = std::iter::once(UPLINK).chain(run.iter().map(String::as_str)).collect();
    // The loader would complain of a library that is not there.
    let words = installed.words(GROUP, &["LD_PRELOAD=/no/library.so"], &run);
    let started = Product::start(Path::new("setpriv"), ready.world.on("host"), &words, SOON * 2).unwrap();
    let chosen = "uplink packet: descriptor";
    eventually(chosen, SOON, || started.said().contains(chosen));
    let said = started.said();
    assert!(said.contains("outside eth0"), "{said}");
    // `setpriv` and `env` are as they are; tapnat and the helper are to say nothing.
    assert!(said.matches("/no/library.so").count() <= 1, "{said}");
    let status = fs::read_to_string(format!("/proc/{}/status", started.id())).unwrap();
    for (key, want) in [
        ("CapPrm", "0000000000000000"),
        ("CapEff", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Uid", "65534"),
        ("Gid", "64123"),
    ] {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        assert_eq!(line.split_whitespace().nth(1), Some(want), "{line}");
    }
    let environment = fs::read(format!("/proc/{}/environ", started.id())).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("LD_PRELOAD"));
    assert_ping(ready.world.on("red"), SERVERS[0]);
    assert_eq!(*seen_as(ready.world.on("blue"), at(SERVERS[1], 80)).ip(), HOST);
}

/// What `tapnat exec` starts behind the gateway has network, and no packet socket.
pub fn helper_runs_commands_that_get_no_socket() {
    let installed = Installed::new();
    let world = World::new(Options::default());
    fs::set_permissions(world.folder.path(), Permissions::from_mode(0o777)).unwrap();
    let script = "ls -l /proc/self/fd | grep -c socket; exec 3<>/dev/tcp/198.51.100.7/80 && \
                  printf 'GET / HTTP/1.1\\r\\nConnection: close\\r\\n\\r\\n' >&3 && timeout 5 cat <&3";
    let command = [UPLINK, "exec", "--inside", "10.99.0.1/24", "--log", "info", "--", "bash", "-c", script];
    let words = installed.words(GROUP, &["XDG_RUNTIME_DIR=/nowhere"], &command);
    let output = world.folder.path().join("output");
    let shell = format!("exec setpriv \"$@\" >{}", output.display());
    let words: Vec<String> = ["-c", &shell, "sh"].iter().map(|&word| word.to_owned()).chain(words).collect();
    let mut product = Product::start_unready(Path::new("sh"), world.on("host"), &words).unwrap();
    let status = product.wait(SOON * 3).unwrap().expect("it ends");
    let (said, output) = (product.said(), fs::read_to_string(&output).unwrap());
    assert!(status.success(), "{said}\n{output}");
    assert!(said.contains("uplink packet: descriptor"), "{said}");
    assert!(output.starts_with("0\n") && output.contains("hello 203.0.113.1:"), "{output}\n{said}");
}

pub fn helper_starts_nothing_else() {
    let installed = Installed::new();
    let world = World::new(Options::default());
    let host = world.on("host");
    let say = |group, words: &[&str]| installed.refused(host, group, &["PATH=/tmp"], words);
    assert!(installed.refused(host, NOBODY, &[], &[UPLINK, "run"]).contains("Permission denied"));
    for words in [&[][..], &[UPLINK], &[UPLINK, "/bin/sh"], &[UPLINK, "doctor"], &["--help", UPLINK]] {
        assert!(say(GROUP, words).contains("usage: tapnat-raw IFACE run|attach|exec"), "{words:?}");
    }
    let tapnat = installed.path("tapnat");
    let why = "others than the owner of";
    for (mode, owner) in [(0o775, 0), (0o757, 0), (0o755, NOBODY)] {
        chown(&tapnat, Some(owner), None).unwrap();
        fs::set_permissions(&tapnat, Permissions::from_mode(mode)).unwrap();
        assert!(say(GROUP, &[UPLINK, "run"]).contains(why), "{mode:o} of {owner}");
    }
    chown(&tapnat, Some(0), None).unwrap();
    fs::set_permissions(&tapnat, Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(installed.folder.path(), Permissions::from_mode(0o777)).unwrap();
    assert!(say(GROUP, &[UPLINK, "run"]).contains(why), "a directory of everybody");
    fs::set_permissions(installed.folder.path(), Permissions::from_mode(0o755)).unwrap();
    let other = installed.path("other");
    fs::rename(&tapnat, &other).unwrap();
    std::os::unix::fs::symlink(&other, &tapnat).unwrap();
    assert!(say(GROUP, &[UPLINK, "run"]).contains("install tapnat and tapnat-raw together"), "a link");
}

pub fn helper_refuses_what_it_has_no_socket_for() {
    let installed = Installed::new();
    let world = World::new(Options::default());
    let host = world.on("host");
    let say =
        |interface: &str| installed.refused(host, GROUP, &[], &[interface, "run", "--inside", "10.9.0.1/24"]);
    assert!(say("eth9").contains("interface eth9: No such device"));
    assert!(say("lo").contains("interface lo is not Ethernet"));
    for odd in ["", "a/b", "longer-than-fifteen", "eth0:1"] {
        assert!(say(odd).contains("is no interface name"), "{odd}");
    }
    // Without its capability it says what is missing.
    rustix::fs::removexattr(installed.path("tapnat-raw"), "security.capability").unwrap();
    assert!(say(UPLINK).contains("sudo setcap cap_net_raw=ep"));
}
