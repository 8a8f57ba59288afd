//! The counterparts of Buildah's `tests/run.bats`, `from.bats` and `bud.bats` about the network, with a real
//! rootless Buildah. It calls `slirp4netns --mtu 65520 -r 3 -c PID tap0`, which it looks for in PATH, and
//! ends it by SIGKILL; then it knows no other network.

use crate::NETWORK;
use crate::podman_rig::Rig;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use tapnat::lab::programs::http;
use tapnat::lab::topology::{HOST, SERVERS};

/// All of them.
pub const TESTS: [(&str, fn()); 2] =
    [("buildah_runs_with_a_network", networks), ("buildah_builds_with_a_network", builds)];

/// Why Buildah cannot be tried here, if so.
pub fn impossible() -> Option<String> {
    (!Path::new("/usr/bin/buildah").exists()).then(|| "buildah is not installed".to_owned())
}

/// Buildah as the user calls it, with the folder of the link first in PATH.
fn buildah(rig: &Rig) -> String {
    let face = rig.face("slirp4netns");
    format!(
        "PATH={}:$PATH BUILDAH_ISOLATION=rootless BUILDAH_RUNTIME=runc buildah --storage-driver vfs",
        face.parent().unwrap().display()
    )
}

/// Ends what Buildah keeps.
fn swept(rig: &Rig) {
    rig.sh(&format!("{} rm -a", buildah(rig)));
    rig.sh(&format!("{} rmi -a -f", buildah(rig)));
    rig.until("the gateways are killed with it", || rig.gateways().is_empty());
    // SIGKILL leaves a socket's name, which the next gateway takes away.
    rig.podman(&["run", "--rm", NETWORK], &["/bin/sh", "-c", "true"]);
    rig.nothing_is_left();
}

/// "run check /etc/resolv.conf", "run --network should override build --network", "add-host".
fn networks() {
    let rig = Rig::new();
    let _web = http::serve(rig.internet(), (SERVERS[0], 80)).unwrap();
    let own = buildah(&rig);
    let from = format!(
        "c=$({own} from --add-host=con.lab:192.0.2.7 scratch) && {own} copy -q $c {} / && echo $c",
        rig.rootfs()
    );
    let made = rig.sh(&from);
    let container = made.lines().last().unwrap().to_owned();
    let said = rig.sh(&format!("{own} run --network=none {container} /bin/ip addr"));
    assert!(!said.contains("tap0"), "{said}");
    for network in ["", "--network=private", "--network=container"] {
        let url = format!("http://{}/", SERVERS[0]);
        let ask =
            format!("ip addr; ip route; cat /etc/resolv.conf /etc/hosts; nslookup www.lab; wget -qO- {url}");
        let said = rig.sh(&format!("{own} run {network} {container} /bin/sh -c '{ask}'"));
        for word in [
            "inet 10.0.2.100/24",
            "mtu 65520",
            "default via 10.0.2.2",
            "nameserver 10.0.2.3",
            "192.0.2.7",
            &SERVERS[1].to_string(),
            &format!("hello {HOST}:"),
        ] {
            assert!(said.contains(word), "{network}: {word}: {said}");
        }
        assert!(!said.contains("nameserver 127."), "{said}");
        rig.until("the gateway is killed with it", || rig.gateways().is_empty());
    }
    // While one runs, it is this program that serves.
    let listener = rig.internet().run(|| TcpListener::bind((SERVERS[0], 81)).unwrap()).unwrap();
    let wait = format!("{own} run {container} /bin/nc {} 81", SERVERS[0]);
    let mut child = rig.user(&wait).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (stream, _) = listener.accept().unwrap();
    let lines: Vec<String> = rig.gateways().iter().map(|(_, line)| line.replace('\0', " ")).collect();
    assert!(lines.len() == 1 && lines[0].contains(" --mtu 65520 -r 3 -c "), "{lines:?}");
    drop(stream);
    child.wait().unwrap();
    swept(&rig);
}

/// "bud with network options", "bud with --network none": each step of a build has a gateway of its own.
fn builds() {
    let rig = Rig::new();
    let _web = http::serve(rig.internet(), (SERVERS[0], 80)).unwrap();
    let own = buildah(&rig);
    let folder = rig.note("build");
    let url = format!("http://{}/", SERVERS[0]);
    let steps = format!(
        "FROM scratch\nCOPY . /\nRUN ip addr; wget -qO- {url}\nRUN nslookup www.lab; wget -qO- {url}\n"
    );
    rig.sh(&format!("cp -r {} {folder} && printf '{steps}' > {folder}/Dockerfile", rig.rootfs()));
    let said = rig.sh(&format!("{own} bud --network=private {folder}"));
    assert_eq!(said.matches(&format!("hello {HOST}:")).count(), 2, "{said}");
    assert!(said.contains("inet 10.0.2.100/24") && said.contains(&SERVERS[1].to_string()), "{said}");
    let (done, said) = rig.outcome(rig.user(&format!("{own} bud --no-cache --network=none {folder}")));
    assert!(!done && !said.contains("10.0.2.100"), "{said}");
    rig.sh(&format!("rm -r {folder}"));
    swept(&rig);
}
