//! The same as user 65534 without any capability: namespaces of that user, and the uplink `sockets`.

use crate::attach_rig::*;
use crate::lab_setup::*;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use tapnat::lab::netns::set_sysctl;
use tapnat::lab::topology::{HOST, UPLINK};

/// Nobody.
const USER: &str = "65534";

/// All of them.
pub const TESTS: [(&str, fn()); 5] = [
    ("exec_needs_no_right_at_all", exec),
    ("a_namespace_of_the_user_is_served_until_it_ends", by_process),
    ("a_path_and_its_user_namespace", by_path),
    ("namespaces_of_others_are_refused_in_one_line", others),
    ("a_killed_gateway_leaves_nothing", killed),
];

/// Why this host cannot run them.
pub fn impossible() -> Option<String> {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let everybody = map.split_whitespace().nth(2).is_some_and(|count| count.len() > 5);
    (!rustix::process::geteuid().is_root() || !everybody)
        .then(|| "only root can become somebody else".to_owned())
}

/// A lab, and a folder of the user with the programs in it.
struct Place {
    rig: Rig,
    tapnat: PathBuf,
    client: PathBuf,
}

impl Place {
    fn new() -> Place {
        let rig = Rig::new();
        let folder = rig.world.folder.path();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
        let copy = |from: &Path, name: &str| {
            let to = folder.join(name);
            fs::copy(from, &to).unwrap();
            to
        };
        let tapnat = copy(PROGRAM.as_ref(), "tapnat");
        let client = copy(&std::env::current_exe().unwrap(), "client");
        rig.host().run(|| set_sysctl("net/ipv4/ping_group_range", "0\t2147483647").unwrap()).unwrap();
        Place { rig, tapnat, client }
    }

    /// A command as the user, without a capability and without a way to one.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        let ids = [format!("--reuid={USER}"), format!("--regid={USER}")];
        command.args(ids).args(["--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]).arg(program);
        command.env_remove("XDG_RUNTIME_DIR").current_dir(self.rig.world.folder.path());
        command
    }

    fn exec(&self, options: &[&str], command: &[&str]) -> Output {
        let mut program = self.command(&self.tapnat);
        program.args(["exec", "--outside", UPLINK]).args(options).arg("--").args(command);
        self.rig.run(program)
    }

    /// A process of the user in namespaces of its own.
    fn inhabitant(&self) -> Inhabitant {
        let mut command = self.command("unshare".as_ref());
        // Later than the namespaces, the name of the process is another one.
        command.args(["-U", "-r", "-n", "sleep", "1000"]);
        self.rig.host().confine(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let inhabitant = Inhabitant(command.spawn().unwrap());
        let name = format!("/proc/{}/comm", inhabitant.pid());
        eventually("the namespaces are there", SOON, || {
            fs::read_to_string(&name).is_ok_and(|name| name.trim() == "sleep")
        });
        inhabitant
    }

    fn attach(&self, target: &[&str]) -> Child {
        let mut program = self.command(&self.tapnat);
        let control = self.rig.world.control();
        program.args(["attach", "--outside", UPLINK, "--control", control.to_str().unwrap()]).args(target);
        self.rig.spawn(program)
    }

    /// What a program in the namespaces of a process is answered.
    fn fetched(&self, inhabitant: &Inhabitant) -> String {
        let mut fetch = Command::new("nsenter");
        fetch.args(["-t", &inhabitant.pid(), "-n"]).arg(&self.client).arg("fetch");
        String::from_utf8(self.rig.run(fetch).stdout).unwrap()
    }

    fn served(&self, inhabitant: &Inhabitant) {
        let hello = format!("hello {HOST}:");
        eventually("it is served", SOON * 2, || self.fetched(inhabitant).starts_with(&hello));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn exec() {
    let place = Place::new();
    let output = place.exec(&[], &[place.client.to_str().unwrap(), "fetch"]);
    assert!(text(&output.stdout).starts_with(&format!("hello {HOST}:")), "{output:?}");
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "it is not quiet");
    let script = "id -u; grep CapEff /proc/self/status /proc/$PPID/status; echo it > made";
    let output = place.exec(&[], &["sh", "-c", script]);
    let said = text(&output.stdout);
    assert_eq!(said.lines().next(), Some(USER), "{output:?}");
    let none = said.lines().filter(|line| line.ends_with("CapEff:\t0000000000000000"));
    assert_eq!(none.count(), 2, "command and gateway: {said}");
    let made = fs::metadata(place.rig.path("made")).unwrap();
    assert_eq!(made.uid().to_string(), USER);
    let output = place.exec(&["--root"], &["sh", "-c", "id -u; echo it > made-by-root"]);
    assert_eq!(text(&output.stdout), "0\n", "{output:?}");
    assert_eq!(fs::metadata(place.rig.path("made-by-root")).unwrap().uid().to_string(), USER);
    assert_eq!(place.exec(&[], &["sh", "-c", "kill -9 $$"]).status.code(), Some(137));
}

fn by_process() {
    let place = Place::new();
    let mut inhabitant = place.inhabitant();
    let gateway = place.attach(&["--pid", &inhabitant.pid()]);
    place.served(&inhabitant);
    inhabitant.end();
    let output = finish(gateway, SOON);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stderr).contains("uplink sockets"), "{output:?}");
}

fn by_path() {
    let place = Place::new();
    let inhabitant = place.inhabitant();
    let path = place.rig.path("net");
    fs::write(&path, "").unwrap();
    rustix::mount::mount_bind(format!("/proc/{}/ns/net", inhabitant.pid()), &path).unwrap();
    let users = format!("/proc/{}/ns/user", inhabitant.pid());
    for target in [&["--userns", &*users][..], &[]] {
        let gateway = place.attach(&[&["--netns", path.to_str().unwrap()], target].concat());
        place.served(&inhabitant);
        send(&gateway, rustix::process::Signal::TERM);
        assert_eq!(finish(gateway, SOON).status.code(), Some(0));
    }
    let gateway = place.attach(&["--netns", path.to_str().unwrap()]);
    place.served(&inhabitant);
    rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(finish(gateway, SOON).status.code(), Some(0));
}

fn others() {
    let place = Place::new();
    let foreign = Inhabitant::of(place.rig.host());
    let told = |target: &[&str]| {
        let output = finish(place.attach(target), SOON);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        said
    };
    let said = told(&["--pid", &foreign.pid()]);
    assert!(said.contains("is not this user's") && said.contains("or as root"), "{said}");
    let path = place.rig.path("roots");
    fs::write(&path, "").unwrap();
    rustix::mount::mount_bind(format!("/proc/{}/ns/net", foreign.pid()), &path).unwrap();
    let said = told(&["--netns", path.to_str().unwrap()]);
    assert!(said.contains("roots may not be joined: Operation not permitted"), "{said}");
    rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH).unwrap();
}

fn killed() {
    let place = Place::new();
    let inhabitant = place.inhabitant();
    for _ in 0..2 {
        let mut gateway = place.attach(&["--pid", &inhabitant.pid()]);
        place.served(&inhabitant);
        gateway.kill().unwrap();
        gateway.wait().unwrap();
        eventually("the TAP goes", SOON, || {
            let links =
                Command::new("nsenter").args(["-t", &inhabitant.pid(), "-n", "ip", "-o", "link"]).output();
            text(&links.unwrap().stdout).lines().count() == 1
        });
    }
}
