//! What the tests with container tools share: a user without privileges and a root file system of
//! theirs, the host that they are on, and the internet in front of it.

use rustix::mount::mount_bind;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;
use tapnat::io::sys::netns::Netns;
use tapnat::lab::netns::{Lab, set_sysctl};
use tapnat::lab::programs::server::Server;
use tapnat::lab::programs::{dns, http, now};
use tapnat::lab::topology::{Options, SERVERS, standard};
use tempfile::TempDir;

/// What the users and folders that the tests make, and remove, are called, with the number of this
/// process. Short, since Podman makes sockets with long names deep within.
const OURS: &str = "tapod-";
/// Programs that busybox is in containers.
const APPLETS: [&str; 10] =
    ["sh", "ping", "wget", "ip", "sleep", "cat", "nslookup", "sha256sum", "httpd", "nc"];
/// What Podman needs on a machine with hybrid control groups and lowered limits.
const PODMAN: &str = "podman --runtime runc --cgroup-manager=cgroupfs --events-backend=file";
const LIMITS: [&str; 2] = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000"];

/// Why these tests cannot run here, if so.
pub fn impossible() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("makes a user, which takes root".to_owned());
    }
    let programs = ["podman", "runc", "rootlesskit", "newuidmap", "busybox", "useradd", "setpriv", "curl"];
    let missing = |name: &&&str| {
        !["/usr/bin", "/usr/sbin", "/bin", "/sbin"].iter().any(|dir| Path::new(dir).join(name).exists())
    };
    programs.iter().find(missing).map(|name| format!("{name} is not installed"))
}

/// The user, for all tests of this program; goes with the program.
struct User {
    name: String,
    id: u32,
    folder: TempDir,
}

fn user() -> &'static User {
    static ONCE: OnceLock<User> = OnceLock::new();
    ONCE.get_or_init(|| {
        sweep();
        let name = format!("{OURS}{}", std::process::id());
        let folder = tempfile::Builder::new().prefix(&name).rand_bytes(0).tempdir_in("/tmp").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions("/dev/net/tun", fs::Permissions::from_mode(0o666)).unwrap();
        let home = folder.path().join("home");
        let mut add = Command::new("useradd");
        add.args(["--create-home", "--shell=/bin/sh", "--home-dir"]).arg(&home).arg(&name);
        assert!(add.status().unwrap().success(), "useradd");
        let id = Command::new("id").args(["-u", &name]).output().unwrap().stdout;
        let id: u32 = String::from_utf8(id).unwrap().trim().parse().unwrap();
        let own = |name: &str, mode: u32| {
            let path = folder.path().join(name);
            fs::create_dir_all(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            chown(&path, Some(id), Some(id)).unwrap();
            path
        };
        own("run", 0o700);
        let root = own("rootfs", 0o755);
        for directory in ["bin", "etc", "proc", "sys", "dev", "tmp", "run", "www"] {
            own(&format!("rootfs/{directory}"), 0o755);
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        fs::write(root.join("www/index.html"), "a page of the container\n").unwrap();
        let compat = own("compat", 0o755);
        fs::copy(env!("CARGO_BIN_EXE_tapnat"), compat.join("tapnat")).unwrap();
        for face in ["slirp4netns", "pasta", "pesto"] {
            symlink("tapnat", compat.join(face)).unwrap();
        }
        let conf = format!("[engine]\nnetwork_cmd_path=\"{}\"\n", compat.join("slirp4netns").display());
        fs::write(folder.path().join("containers.conf"), conf).unwrap();
        let resolver = folder.path().join("resolv.conf");
        fs::write(&resolver, format!("nameserver {}\n", SERVERS[0])).unwrap();
        // The mounts are this program's own.
        mount_bind(&resolver, "/etc/resolv.conf").unwrap();
        User { name, id, folder }
    })
}

/// Removes the user; statics are never dropped.
pub fn clean_up() {
    if impossible().is_none() {
        remove_user(&user().name);
        let _ = fs::remove_dir_all(user().folder.path());
    }
}

/// Removes a user, with the processes that a test which failed has left.
fn remove_user(name: &str) {
    let id = Command::new("id").args(["-u", name]).output().unwrap().stdout;
    let Ok(id) = String::from_utf8(id).unwrap().trim().parse::<u32>() else { return };
    let owner = |pid: u32| fs::metadata(format!("/proc/{pid}")).map(|data| data.uid());
    for (pid, _) in processes().into_iter().filter(|(pid, _)| owner(*pid).is_ok_and(|owner| owner == id)) {
        let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).stderr(Stdio::null()).status();
    }
    for _ in 0..20 {
        let deleted = Command::new("userdel").arg(name).stderr(Stdio::null()).status();
        if deleted.is_ok_and(|status| status.success()) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Removes what runs of these tests that were killed have left.
fn sweep() {
    let dead = |name: &str| {
        let pid = name.strip_prefix(OURS).and_then(|rest| rest.parse::<u32>().ok());
        pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
    };
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let names = users.lines().filter_map(|line| line.split(':').next());
    names.filter(|name| dead(name)).for_each(remove_user);
    for entry in fs::read_dir("/tmp").unwrap().flatten() {
        if entry.file_name().to_str().is_some_and(dead) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A host with the user on it, and an internet.
pub struct Rig {
    lab: Lab,
    _dns: Server,
}

impl Rig {
    pub fn new() -> Rig {
        Rig::with(Options::default())
    }

    pub fn with(options: Options) -> Rig {
        user();
        let lab = Lab::build(&standard(options)).unwrap();
        let ping = || set_sysctl("net/ipv4/ping_group_range", "0 2147483647");
        lab.host("host").run(ping).unwrap().unwrap();
        let zone = vec![("www.lab".to_owned(), SERVERS[1])];
        let _dns = dns::serve(lab.host("internet"), (SERVERS[0], 53), zone).unwrap();
        Rig { lab, _dns }
    }

    pub fn host(&self) -> &Netns {
        self.lab.host("host")
    }

    pub fn internet(&self) -> &Netns {
        self.lab.host("internet")
    }

    pub fn rootfs(&self) -> String {
        user().folder.path().join("rootfs").display().to_string()
    }

    /// The program by another's name.
    pub fn face(&self, name: &str) -> PathBuf {
        user().folder.path().join("compat").join(name)
    }

    /// A shell command on the host, by the user.
    pub fn user(&self, line: &str) -> Command {
        let User { id, folder, .. } = user();
        let at = |name: &str| folder.path().join(name);
        let mut command = Command::new("setpriv");
        command.args([format!("--reuid={id}"), format!("--regid={id}")]);
        command.args(["--init-groups", "--", "sh", "-c", line]);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
        command.env("HOME", at("home")).env("XDG_RUNTIME_DIR", at("run"));
        command.env("CONTAINERS_CONF", at("containers.conf")).current_dir("/");
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        self.host().confine(&mut command);
        command
    }

    /// The same, done; what it said.
    pub fn sh(&self, line: &str) -> String {
        let (done, said) = self.outcome(self.user(line));
        assert!(done, "{line}: {said}");
        said
    }

    /// Runs a command; whether it ended well, and what it said.
    pub fn outcome(&self, mut command: Command) -> (bool, String) {
        // Into a file: daemons that hold a pipe open would be waited for.
        let mut log = tempfile::tempfile().unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log.try_clone().unwrap());
        let status = command.status().unwrap();
        use std::io::{Read, Seek};
        let mut said = String::new();
        log.rewind().unwrap();
        log.read_to_string(&mut said).unwrap();
        (status.success(), said)
    }

    fn podman_line(&self, options: &[&str], command: &[&str]) -> String {
        let root = self.rootfs();
        let words = options.iter().chain(&LIMITS).copied().chain(["--rootfs", &root]);
        let words = words.chain(command.iter().copied());
        let quoted: Vec<String> = words.map(|word| format!("'{word}'")).collect();
        format!("{PODMAN} {}", quoted.join(" "))
    }

    /// `podman OPTIONS --rootfs .. COMMAND`; what it said.
    pub fn podman(&self, options: &[&str], command: &[&str]) -> String {
        self.sh(&self.podman_line(options, command))
    }

    /// The same, which is to fail.
    pub fn podman_fails(&self, options: &[&str], command: &[&str]) -> String {
        let (done, said) = self.outcome(self.user(&self.podman_line(options, command)));
        assert!(!done, "{said}");
        said
    }

    /// The same, under way.
    pub fn start(&self, options: &[&str], command: &[&str]) -> Child {
        let mut command = self.user(&self.podman_line(options, command));
        command.stdout(Stdio::null()).spawn().unwrap()
    }

    /// Podman without a container to be made.
    pub fn podman_alone(&self, words: &[&str]) -> String {
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        self.sh(&format!("{PODMAN} {}", quoted.join(" ")))
    }

    /// Waits until the page of a container is there, as seen from `netns`.
    pub fn fetches(&self, netns: &Netns, from: impl Into<SocketAddr>) {
        let from = from.into();
        let page = || {
            let page = netns.run(|| http::get(from, "/", Duration::from_secs(3))).unwrap();
            page.is_ok_and(|page| page.body == b"a page of the container\n")
        };
        self.until(&format!("the page at {from}"), page);
    }

    pub fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let start = now();
        while !done() {
            assert!(now() - start < super::PATIENCE, "{what}: not in time");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Processes that are gateways of the user: number and command line.
    pub fn gateways(&self) -> Vec<(u32, String)> {
        let name = self.face("slirp4netns");
        let path = name.as_os_str().to_string_lossy().into_owned();
        processes().into_iter().filter(|(_, line)| line.starts_with(&path)).collect()
    }

    /// Takes down what Podman keeps between runs, and looks that nothing else is left.
    pub fn nothing_is_left(&self) {
        let run = user().folder.path().join("run");
        self.until("the gateways end", || self.gateways().is_empty());
        let names = |name: &str| {
            let entries = fs::read_dir(run.join(name)).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name()).collect::<Vec<_>>()
        };
        self.until("the namespaces' names go", || names("netns").is_empty());
        assert!(names("tapnat").is_empty(), "control sockets are left: {:?}", names("tapnat"));
        self.podman_alone(&["rm", "-f", "-a", "-t", "0"]);
        // The process that keeps the user namespace keeps the lab's host too.
        if let Ok(pid) = fs::read_to_string(run.join("libpod/tmp/pause.pid")) {
            let _ = Command::new("kill").args(["-KILL", pid.trim()]).status();
            let _ = fs::remove_file(run.join("libpod/tmp/pause.pid"));
        }
    }

    /// Takes away the name that Podman keeps for the namespace of bridges.
    pub fn forget_bridges(&self) {
        let names = fs::read_dir(user().folder.path().join("run/netns")).unwrap().flatten();
        let shared = |name: &str| name.starts_with("rootless-netns-");
        for entry in names.filter(|entry| entry.file_name().to_str().is_some_and(shared)) {
            fs::remove_file(entry.path()).unwrap();
        }
    }

    /// The path of a file of the user's.
    pub fn note(&self, name: &str) -> String {
        user().folder.path().join("run").join(name).display().to_string()
    }
}

/// Living processes and their command lines.
fn processes() -> Vec<(u32, String)> {
    let pids =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // A process that has ended and is not waited for has no command line.
    pids.filter_map(|pid: u32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        (!line.is_empty()).then_some((pid, line))
    })
    .collect()
}
