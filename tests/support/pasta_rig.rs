//! What the tests of `pasta` share: a user without privileges and without a capability on the lab's
//! host, namespaces of that user, and the program by the name of `pasta`.

use crate::lab_setup::*;
use rustix::mount::mount_bind;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use tapnat::io::sys::netns::Netns;
use tapnat::lab::netns::set_sysctl;
use tapnat::lab::programs::{http, now};
use tapnat::lab::topology::{Options, ROUTER, WithSix};

/// Nobody.
const USER: &str = "65534";

/// Why this host cannot run the tests.
pub fn impossible() -> Option<String> {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let everybody = map.split_whitespace().nth(2).is_some_and(|count| count.len() > 5);
    (!rustix::process::geteuid().is_root() || !everybody)
        .then(|| "only root can become somebody else".to_owned())
}

/// A lab with both families, and the user on its host.
pub struct Rig {
    pub world: World,
}

impl Rig {
    pub fn new() -> Rig {
        let world = World::new(Options { six: WithSix::Fixed, ..Options::default() });
        let folder = world.folder.path();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
        fs::copy(PROGRAM, folder.join("tapnat")).unwrap();
        symlink("tapnat", folder.join("pasta")).unwrap();
        let sysctls = || set_sysctl("net/ipv4/ping_group_range", "0\t2147483647");
        world.on("host").run(sysctls).unwrap().unwrap();
        // The mounts are this program's own.
        let resolver = folder.join("resolv.conf");
        fs::write(&resolver, format!("nameserver {ROUTER}\n")).unwrap();
        mount_bind(&resolver, "/etc/resolv.conf").unwrap();
        Rig { world }
    }

    pub fn host(&self) -> &Netns {
        self.world.on("host")
    }

    pub fn internet(&self) -> &Netns {
        self.world.on("internet")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.world.folder.path().join(name)
    }

    /// A program on the host as the user, without a capability and without a way to one.
    pub fn command(&self, program: &Path, words: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        let ids = [format!("--reuid={USER}"), format!("--regid={USER}")];
        command.args(ids).args(["--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]).arg(program);
        command.args(words).current_dir(self.world.folder.path());
        command.env("XDG_RUNTIME_DIR", self.world.folder.path());
        self.host().confine(&mut command);
        command.stdin(Stdio::null());
        command
    }

    /// Runs `pasta` until it is done or has gone to the background: waits, as Podman does, until nobody
    /// holds its output.
    pub fn pasta(&self, words: &[&str]) -> Output {
        // Those that go to the background outlive the thread that has started them.
        let mut child = self.command(&self.path("pasta"), words);
        child.stdout(Stdio::piped()).stderr(Stdio::piped());
        child.spawn().unwrap().wait_with_output().unwrap()
    }

    /// The same, which has nothing to say.
    pub fn quiet(&self, words: &[&str]) {
        let output = self.pasta(words);
        assert!(output.status.success() && output.stderr.is_empty(), "{words:?}: {output:?}");
    }

    /// What a shell on the host says, as root.
    pub fn on_host(&self, line: &str) -> String {
        says(self.host(), line)
    }

    /// Namespaces of the user, until it is dropped.
    pub fn guest(&self) -> Guest {
        let mut command = self.command("unshare".as_ref(), &["-U", "-r", "-n", "sleep", "1000"]);
        command.stdout(Stdio::null());
        let child = command.spawn().unwrap();
        let name = format!("/proc/{}/comm", child.id());
        // Later than the namespaces, the name of the process is another one.
        eventually("the namespaces are there", SOON, || {
            fs::read_to_string(&name).is_ok_and(|name| name.trim() == "sleep")
        });
        let path = format!("/proc/{}/ns/net", child.id());
        let netns = std::thread::spawn(move || {
            let file = File::open(path).unwrap();
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            Netns::current().unwrap()
        });
        let netns = netns.join().unwrap();
        Guest { child, netns, mount: None, folder: self.world.folder.path().to_owned() }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        rustix::mount::unmount("/etc/resolv.conf", rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

/// A network namespace that belongs to a user namespace of the user.
pub struct Guest {
    child: Child,
    pub netns: Netns,
    mount: Option<PathBuf>,
    folder: PathBuf,
}

impl Guest {
    pub fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// Its name in the file system, as Podman gives it one.
    pub fn path(&mut self) -> String {
        let path = self.folder.join(format!("netns-{}", self.child.id()));
        if self.mount.is_none() {
            fs::write(&path, "").unwrap();
            mount_bind(format!("/proc/{}/ns/net", self.child.id()), &path).unwrap();
            self.mount = Some(path.clone());
        }
        path.to_str().unwrap().to_owned()
    }

    /// Removes that name, as Podman does when the container has ended.
    pub fn unname(&mut self) {
        if let Some(path) = self.mount.take() {
            rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH).unwrap();
            fs::remove_file(path).unwrap();
        }
    }

    pub fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// What a program says that runs in the network namespace.
    pub fn says(&self, line: &str) -> String {
        says(&self.netns, line)
    }

    /// Whom a web server outside takes a client in here for.
    pub fn seen_by(&self, server: impl Into<SocketAddr>) -> String {
        let server = server.into();
        let page = self.netns.run(|| http::get(server, "/", SOON)).unwrap();
        let page = page.unwrap_or_else(|error| panic!("{server}: {error}"));
        client(&page)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.end();
        self.unname();
    }
}

fn says(netns: &Netns, line: &str) -> String {
    let mut command = Command::new("sh");
    command.args(["-c", line]).stdin(Stdio::null());
    netns.confine(&mut command);
    let output = command.output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// Whom a server of the lab greets: an address without its port.
pub fn client(page: &http::Response) -> String {
    let text = String::from_utf8_lossy(&page.body).into_owned();
    let address = text.trim().strip_prefix("hello ").unwrap_or(&text);
    let address: SocketAddr = address.parse().unwrap_or_else(|_| panic!("{text}"));
    address.ip().to_canonical().to_string()
}

/// Whom a server at `to` takes a TCP client in `netns` for.
pub fn greeted(netns: &Netns, to: impl Into<SocketAddr>) -> Result<String, std::io::Error> {
    let to = to.into();
    netns.run(|| http::get(to, "/", SOON)).unwrap().map(|page| client(&page))
}

/// Whether a process of this number runs; one that nobody has waited for does not.
pub fn runs(pid: &str) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat"));
    state.is_ok_and(|text| !text.contains(") Z "))
}

/// Waits until a process has ended.
pub fn ends(pid: &str) {
    let start = now();
    while runs(pid) {
        assert!(now() - start < SOON, "process {pid} goes on");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// The process number in a file, which ends with a line end.
pub fn read_pid(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.ends_with('\n'), "{text:?}");
    text.trim().to_owned()
}

/// What it has said on standard error.
pub fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
