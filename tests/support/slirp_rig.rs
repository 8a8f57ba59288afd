//! What the tests of the `slirp4netns` face share: namespaces of a user without privileges, and
//! gateways of that user, called as its scripts call the original.

use crate::lab_setup::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{PipeReader, Read, Write, pipe};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tapnat::io::sys::netns::{Netns, inherit};
use tapnat::lab::netns::set_sysctl;
use tapnat::lab::programs::{Server, dns, http, now};
use tapnat::lab::topology::{Options, ROUTER, SERVERS, SERVERS_SIX, WithSix};

/// Nobody.
const USER: &str = "65534";
/// The namespace's address, and the gateway's.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// The same of IPv6.
pub const GUEST_SIX: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x64);
/// Where DNS is answered.
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
pub const DNS_SIX: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3);

/// Why this host cannot run these tests.
pub fn impossible() -> Option<String> {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let everybody = map.split_whitespace().nth(2).is_some_and(|count| count.len() > 5);
    if !rustix::process::geteuid().is_root() || !everybody {
        return Some("only root can become somebody else".to_owned());
    }
    let missing = |name: &&&str| Command::new(name).arg("--help").output().is_err();
    let missing = ["setpriv", "unshare", "nsenter", "ip"].iter().find(missing);
    missing.map(|name| format!("{name} is not installed"))
}

/// A host with IPv6, an internet, and the program by the original's name.
pub struct Rig {
    pub world: World,
    _six: [Server; 2],
}

impl Rig {
    pub fn new() -> Rig {
        let world = World::new(Options { six: WithSix::Fixed, ..Options::default() });
        let (internet, zone) = (world.on("internet"), vec![("www.example.org".to_owned(), SERVERS[0])]);
        let web = http::serve(internet, (SERVERS_SIX[0], 80)).unwrap();
        let _six = [web, dns::serve(internet, (SERVERS_SIX[0], 53), zone).unwrap()];
        let folder = world.folder.path();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
        fs::copy(PROGRAM, folder.join("tapnat")).unwrap();
        symlink("tapnat", folder.join("slirp4netns")).unwrap();
        world.on("host").run(|| set_sysctl("net/ipv4/ping_group_range", "0\t2147483647").unwrap()).unwrap();
        Rig { world, _six }
    }

    pub fn host(&self) -> &Netns {
        self.world.on("host")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.world.folder.path().join(name)
    }

    /// A command on the host as the user, without a capability and without a way to one.
    pub fn user(&self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        let ids = [format!("--reuid={USER}"), format!("--regid={USER}")];
        command.args(ids).args(["--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]).arg(program);
        command.env_remove("XDG_RUNTIME_DIR").current_dir(self.world.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.host().confine(&mut command);
        command
    }

    /// `unshare -r -n sleep infinity`, as every script begins.
    pub fn guest(&self) -> Guest {
        let mut command = self.user("unshare".as_ref());
        let mut child = command.args(["-r", "-n", "sleep", "1000"]).spawn().unwrap();
        let name = format!("/proc/{}/comm", child.id());
        let there = || fs::read_to_string(&name).is_ok_and(|name| name.trim() == "sleep");
        eventually("the namespaces are there", SOON, || {
            assert!(child.try_wait().unwrap().is_none(), "unshare failed");
            there()
        });
        let file = File::open(format!("/proc/{}/ns/net", child.id())).unwrap();
        let entered = std::thread::spawn(move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            Netns::current().unwrap()
        });
        Guest { netns: Some(entered.join().unwrap()), child }
    }

    /// Starts the gateway and does not wait for anything.
    pub fn launch(&self, mut command: Command, words: &[&str]) -> Slirp {
        let log = self.path(&format!("log-{}", fs::read_dir(self.world.folder.path()).unwrap().count()));
        command.args(words).stderr(File::create(&log).unwrap());
        Slirp { child: command.spawn().unwrap(), log }
    }

    /// `slirp4netns WORDS`.
    pub fn spawn(&self, words: &[&str]) -> Slirp {
        self.launch(self.user(&self.path("slirp4netns")), words)
    }

    /// The same with `--ready-fd`, when it has written there.
    pub fn start(&self, words: &[&str]) -> Slirp {
        self.start_with(self.user(&self.path("slirp4netns")), words)
    }

    /// The same of another command.
    pub fn start_with(&self, mut command: Command, words: &[&str]) -> Slirp {
        let (ready, theirs) = pipe().unwrap();
        let number = theirs.as_raw_fd().to_string();
        inherit(&mut command, theirs.into());
        let words: Vec<&str> = ["--ready-fd", &number].iter().chain(words).copied().collect();
        let slirp = self.launch(command, &words);
        let said = told(ready);
        assert_eq!(said, "1", "{words:?}: {}", slirp.said());
        slirp
    }

    /// What a command line that cannot be says; it ends with 1.
    pub fn refused(&self, words: &[&str]) -> String {
        let mut slirp = self.spawn(words);
        assert_eq!(slirp.end(), Some(1), "{words:?}: {}", slirp.said());
        slirp.said()
    }

    /// Connects on the host and says something; what comes back, if it is served.
    pub fn echo(&self, to: impl Into<SocketAddr>) -> std::io::Result<Vec<u8>> {
        let to = to.into();
        let talk = move || {
            let mut stream = TcpStream::connect_timeout(&to, SOON)?;
            stream.set_read_timeout(Some(SOON))?;
            stream.write_all(b"works")?;
            stream.shutdown(Shutdown::Write)?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(answer)
        };
        self.host().run(talk).unwrap()
    }
}

/// The host's `resolv.conf` names the lab's server, until this is dropped. The mount is this program's own.
pub struct Resolver;

impl Resolver {
    pub fn new(rig: &Rig) -> Resolver {
        let file = rig.path("resolv.conf");
        fs::write(&file, format!("nameserver {ROUTER}\nnameserver {}\n", SERVERS_SIX[0])).unwrap();
        mount_bind(&file, "/etc/resolv.conf").unwrap();
        Resolver
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        unmount("/etc/resolv.conf", UnmountFlags::DETACH).unwrap();
    }
}

/// What is written to a pipe until it is closed, or comes first.
fn told(mut from: PipeReader) -> String {
    let left = Timespec::try_from(SOON * 2).unwrap();
    let ready = poll(&mut [PollFd::new(&from, PollFlags::IN)], Some(&left)).unwrap();
    assert!(ready > 0, "nothing is told");
    let mut bytes = [0; 16];
    let length = from.read(&mut bytes).unwrap();
    String::from_utf8(bytes[..length].to_vec()).unwrap()
}

/// A user's process in namespaces of its own.
pub struct Guest {
    child: Child,
    netns: Option<Netns>,
}

impl Guest {
    pub fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// Its network namespace.
    pub fn net(&self) -> &Netns {
        self.netns.as_ref().unwrap()
    }

    /// The file of its namespace of this kind.
    pub fn file(&self, kind: &str) -> String {
        format!("/proc/{}/ns/{kind}", self.child.id())
    }

    /// `ip WORDS` in it.
    pub fn ip(&self, words: &str) -> String {
        let mut command = Command::new("ip");
        command.args(words.split(' '));
        self.net().confine(&mut command);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    }

    pub fn has(&self, tap: &str) -> bool {
        self.ip("-o link").contains(&format!("{tap}:"))
    }

    /// Answers with what it is told, once a connection.
    pub fn answers(&self, at: impl Into<SocketAddr>) -> Server {
        Server::tcp(self.net(), "echo", at, |mut stream: TcpStream| {
            let mut told = Vec::new();
            stream.read_to_end(&mut told)?;
            stream.write_all(&told)
        })
        .unwrap()
    }

    /// Connects from here to a server of the host at `at`, asking for `to`; as whom it is seen.
    pub fn seen_as(
        &self,
        rig: &Rig,
        at: impl Into<SocketAddr>,
        to: impl Into<SocketAddr>,
    ) -> std::io::Result<SocketAddr> {
        let (at, to) = (at.into(), to.into());
        let listener = rig.host().run(|| TcpListener::bind(at).unwrap()).unwrap();
        self.net().run(|| TcpStream::connect_timeout(&to, SOON)).unwrap()?;
        Ok(listener.accept().unwrap().1)
    }

    /// Ends it, and with it its namespaces.
    pub fn end(&mut self) {
        self.netns = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.end();
    }
}

/// A gateway.
pub struct Slirp {
    pub child: Child,
    log: PathBuf,
}

impl Slirp {
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end; its exit code.
    pub fn end(&mut self) -> Option<i32> {
        eventually("the gateway ends", SOON * 2, || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap().code()
    }

    pub fn terminate(&mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.end()
    }
}

impl Drop for Slirp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the gateway said:\n{}\n---", self.said());
        }
    }
}

/// The API socket of a gateway.
pub struct Api(pub PathBuf);

impl Api {
    /// Sends a request as a script does; the answer.
    pub fn ask(&self, request: &str) -> Value {
        let mut stream = UnixStream::connect(&self.0).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        // One that is too long is answered before it has been read.
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        serde_json::from_slice(&answer).unwrap_or_else(|_| panic!("{request}: {answer:?}"))
    }

    /// Adds a forward; its number.
    pub fn add(&self, arguments: &str) -> u64 {
        let answer = self.ask(&format!(r#"{{"execute":"add_hostfwd","arguments":{{{arguments}}}}}"#));
        assert!(answer.get("error").is_none(), "{arguments}: {answer}");
        answer["return"]["id"].as_u64().unwrap()
    }

    /// Adds a forward that cannot be; what is said after `bad request: add_hostfwd: `.
    pub fn add_fails(&self, arguments: &str) -> String {
        let answer = self.ask(&format!(r#"{{"execute":"add_hostfwd","arguments":{{{arguments}}}}}"#));
        let said = answer["error"]["desc"].as_str().unwrap_or_else(|| panic!("{arguments}: {answer}"));
        said.strip_prefix("bad request: add_hostfwd: ").unwrap().to_owned()
    }

    pub fn remove(&self, id: u64) {
        let answer = self.ask(&format!(r#"{{"execute":"remove_hostfwd","arguments":{{"id":{id}}}}}"#));
        assert_eq!(answer.to_string(), r#"{"return":{}}"#);
    }

    pub fn list(&self) -> Value {
        self.ask(r#"{"execute": "list_hostfwd"}"#)["entries"].clone()
    }
}

/// A descriptor that a command is to inherit, by its number.
pub fn handed(command: &mut Command, fd: OwnedFd) -> String {
    let number = fd.as_raw_fd().to_string();
    inherit(command, fd);
    number
}

/// Waits a while in which something may go wrong.
pub fn a_while() {
    std::thread::sleep(Duration::from_millis(300));
}

/// How long something took.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = now();
    (work(), now() - start)
}
