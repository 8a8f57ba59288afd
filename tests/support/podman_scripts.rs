//! The counterparts of Podman's `500-networking.bats` and `run_networking_test.go`, as far as they are
//! about slirp4netns, and of RootlessKit's `hack/integration-*.sh`.

use crate::podman_rig::Rig;
use crate::{NETWORK, PATIENCE, WEB};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::process::Child;
use tapnat::lab::netns::sysctl;
use tapnat::lab::programs::http;
use tapnat::lab::topology::{HOST, HOST_SIX, Options, ROUTER, SERVERS, WithSix};

/// All of them.
pub const TESTS: [(&str, fn()); 11] = [
    ("ranges_of_ports_with_either_handler", ranges),
    ("keep_id_and_a_cidr", keep_id),
    ("hosts_and_resolver_are_as_podman_says", files),
    ("a_killed_container_is_started_again", killed),
    ("options_of_the_network", options),
    ("outbound_addr_is_seen", outbound),
    ("a_container_that_fails_is_started_again", failing),
    ("bridges_share_a_gateway_that_stays", bridges),
    ("rootlesskit_ports_and_exit_codes", kit_ports),
    ("rootlesskit_dns_loopback_and_ipv6", kit_net),
    ("rootlesskit_after_a_kill", kit_restart),
];

fn with_six() -> Rig {
    Rig::with(Options { six: WithSix::Fixed, ..Options::default() })
}

/// "unshare --rootless-netns": all bridges of a user share one namespace. Podman 4 leaves its gateway running,
/// as it leaves the original.
fn bridges() {
    let rig = Rig::new();
    let _web = http::serve(rig.internet(), (SERVERS[0], 80)).unwrap();
    let inside = |words: &[&str]| rig.podman_alone(&[&["unshare", "--rootless-netns"], words].concat());
    let said = inside(&["ip", "addr"]);
    assert!(said.contains("tap0") && said.contains("10.0.2.100/24") && said.contains("mtu 65520"), "{said}");
    let gateways = rig.gateways();
    assert_eq!(gateways.len(), 1, "{gateways:?}");
    let said = inside(&["curl", "-sS", "-m", "10", &format!("http://{}/", SERVERS[0])]);
    assert!(said.contains(&format!("hello {HOST}:")), "{said}");
    assert_eq!(rig.gateways(), gateways, "the second one uses the gateway of the first");
    rig.sh(&format!("kill -TERM {}", gateways[0].0));
    rig.until("the gateway ends", || rig.gateways().is_empty());
    rig.forget_bridges();
    rig.nothing_is_left();
}

/// "podman run port forward range".
fn ranges() {
    let rig = Rig::new();
    for handler in ["slirp4netns", "rootlesskit"] {
        let network = format!("--network=slirp4netns:port_handler={handler}");
        let serve = "for port in 9000 9001 9002; do httpd -p $port -h /www; done; exec sleep 100";
        let options = ["run", "-d", "--name=range", &network, "-p=9000-9002:9000-9002"];
        rig.podman(&options, &["/bin/sh", "-c", serve]);
        for port in 9000..=9002 {
            rig.fetches(rig.host(), (Ipv4Addr::LOCALHOST, port));
            rig.fetches(rig.internet(), (HOST, port));
        }
        rig.podman_alone(&["rm", "-f", "-t", "0", "range"]);
        rig.nothing_is_left();
    }
}

/// "podman networking: port with --userns=keep-id": the client is not 127.0.0.1.
fn keep_id() {
    let rig = Rig::new();
    let network = "--network=slirp4netns:cidr=192.168.77.0/24";
    let options = ["run", "-d", "--name=web", "--userns=keep-id", network, "-p=127.0.0.1:5280:5280"];
    let serve = ["/bin/httpd", "-f", "-vv", "-p", "5280", "-h", "/www"];
    rig.podman(&options, &serve);
    rig.fetches(rig.host(), (Ipv4Addr::LOCALHOST, 5280));
    let log = || rig.podman_alone(&["logs", "web"]);
    rig.until("a client is logged", || log().contains("192.168.77.100"));
    assert!(!log().contains("127.0.0.1"), "{}", log());
    rig.podman_alone(&["rm", "-f", "-t", "0", "web"]);
    rig.nothing_is_left();
}

/// "assigns correct addresses to /etc/hosts", "adds correct dns address to resolv.conf", "assigns
/// correct ip address container".
fn files() {
    let rig = Rig::new();
    for more in [&[][..], &["--userns=keep-id"]] {
        let own =
            ["run", "--rm", "--network=slirp4netns:cidr=192.168.77.0/24", "--name=con", "--hostname=con"];
        let script = "cat /etc/hosts /etc/resolv.conf; ip address";
        let said = rig.podman(&[&own, more].concat(), &["/bin/sh", "-c", script]);
        let host = format!("{HOST}\thost.containers.internal");
        for word in [&*host, "192.168.77.100\tcon", "inet 192.168.77.100/24 "] {
            assert!(said.contains(word), "{word}: {said}");
        }
        // Podman 4.3 forgets the CIDR there with a user namespace.
        assert!(said.contains("nameserver 192.168.77.3") || !more.is_empty(), "{said}");
    }
    rig.nothing_is_left();
}

/// "podman network after restart": the engine starts the network anew with the container.
fn killed() {
    let rig = Rig::new();
    rig.podman(&["run", "-d", "--name=web", "--restart=always", NETWORK, "-p=8080:80"], &WEB);
    let pid = || rig.podman_alone(&["container", "inspect", "--format", "{{.State.Pid}}", "web"]);
    rig.fetches(rig.host(), (Ipv4Addr::LOCALHOST, 8080));
    let first = pid();
    rig.sh(&format!("kill -9 {}", first.trim()));
    rig.until("it is another process", || !["0", first.trim()].contains(&pid().trim()));
    rig.fetches(rig.host(), (Ipv4Addr::LOCALHOST, 8080));
    rig.podman_alone(&["restart", "-t", "0", "web"]);
    rig.fetches(rig.host(), (Ipv4Addr::LOCALHOST, 8080));
    rig.until("the gateway of before ends", || rig.gateways().len() == 1);
    rig.podman_alone(&["rm", "-f", "-t", "0", "web"]);
    rig.nothing_is_left();
}

/// "accept_dad=0", "slirp4netns network with host loopback", "with mtu", "with different cidr", and
/// port handlers that are none.
fn options() {
    let rig = with_six();
    let asked = |network: &str, script: &str| {
        let network = format!("--network=slirp4netns:{network}");
        rig.podman(&["run", "--rm", &network], &["/bin/sh", "-c", script])
    };
    let dad = "/proc/sys/net/ipv6/conf/all/accept_dad";
    let said = asked("enable_ipv6=true", &format!("ip addr; echo dad $(cat {dad})"));
    assert!(said.contains("inet6 fd00::") && !said.contains("tentative"), "{said}");
    let ours = rig.host().run(|| sysctl("net/ipv6/conf/all/accept_dad").unwrap()).unwrap();
    assert!(said.contains(&format!("dad {}", ours.trim())), "what is for all is left alone: {said}");
    let said = asked("allow_host_loopback=true", "ping -c1 -W 5 10.0.2.2");
    assert!(said.contains("1 packets received"), "{said}");
    assert!(asked("mtu=9000", "ip addr").contains("mtu 9000"));
    let said = asked("cidr=192.168.0.0/24,allow_host_loopback=true", "ping -c1 -W 5 192.168.0.2");
    assert!(said.contains("1 packets received"), "{said}");
    let invalid = ["run", "--rm", "--network=slirp4netns:port_handler=invalid", "-p=8080:8000"];
    rig.podman_fails(&invalid, &["/bin/sh"]);
    rig.nothing_is_left();
}

/// "podman run network bind to 127.0.0.1", "bind to HostIP".
fn outbound() {
    let rig = Rig::new();
    for address in [Ipv4Addr::LOCALHOST, HOST] {
        let any = (Ipv4Addr::UNSPECIFIED, 8083);
        let listener = rig.host().run(|| TcpListener::bind(any).unwrap()).unwrap();
        let network = format!("--network=slirp4netns:outbound_addr={address},allow_host_loopback=true");
        let say = "echo hello | nc -w 2 10.0.2.2 8083";
        let child = rig.start(&["run", "--rm", &network], &["/bin/sh", "-c", say]);
        let seen = listener.accept().unwrap().1;
        assert_eq!(seen.ip(), address);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    rig.nothing_is_left();
}

/// "podman network cleanup --userns + --restart": a container that fails has a new network each time.
fn failing() {
    let rig = Rig::new();
    let options = ["run", "--name=con", NETWORK, "--restart=on-failure:2"];
    rig.podman_fails(&options, &["/bin/sh", "-c", "ip addr show tap0; exit 1"]);
    let count = || rig.podman_alone(&["inspect", "--format", "{{.RestartCount}}", "con"]);
    rig.until("two restarts", || count().trim() == "2");
    let said = || rig.podman_alone(&["logs", "con"]);
    rig.until("a network each time", || said().matches("inet 10.0.2.100/24").count() == 3);
    rig.podman_alone(&["rm", "-f", "-t", "0", "con"]);
    rig.nothing_is_left();
}

/// RootlessKit with this program, and a command.
fn kit(rig: &Rig, options: &str, command: &str) -> String {
    let face = rig.face("slirp4netns");
    format!("rootlesskit --net=slirp4netns --slirp4netns-binary={} {options} {command}", face.display())
}

fn end(rig: &Rig, child: &mut Child, state: &str) {
    rig.sh(&format!("kill $(cat {state}/child_pid)"));
    rig.until("RootlessKit ends", || child.try_wait().unwrap().is_some());
}

/// `integration-port.sh` and `integration-exit-code.sh`.
fn kit_ports() {
    let rig = with_six();
    let state = rig.note("state");
    for (driver, port, six) in
        [("slirp4netns", "tcp", false), ("slirp4netns", "tcp4", false), ("builtin", "tcp", true)]
    {
        let options = format!(
            "--state-dir={state} --disable-host-loopback --copy-up=/etc --port-driver={driver} -p 0.0.0.0:8091:80/{port}"
        );
        let serve = format!("{root}/bin/httpd -f -p 80 -h {root}/www", root = rig.rootfs());
        let mut child =
            rig.user(&format!("exec {} >/dev/null 2>&1", kit(&rig, &options, &serve))).spawn().unwrap();
        rig.fetches(rig.host(), (Ipv4Addr::LOCALHOST, 8091));
        rig.fetches(rig.internet(), (HOST, 8091));
        let at = (Ipv6Addr::LOCALHOST, 8091);
        let by_six = rig.host().run(|| http::get(at, "/", PATIENCE)).unwrap();
        assert_eq!(by_six.is_ok(), six, "{driver} {port}");
        end(&rig, &mut child, &state);
    }
    for code in [0, 42] {
        let line = kit(&rig, "--pidns", &format!("sh -c 'exit {code}'"));
        assert_eq!(rig.user(&line).stdout(std::process::Stdio::null()).status().unwrap().code(), Some(code));
    }
    rig.until("the gateways end", || rig.gateways().is_empty());
    rig.podman(&["run", "--rm", NETWORK], &["/bin/sh", "-c", "true"]);
    rig.nothing_is_left();
}

/// `integration-net.sh` and `integration-ipv6.sh`.
fn kit_net() {
    let rig = with_six();
    let _loopback = http::serve(rig.host(), (Ipv4Addr::LOCALHOST, 8080)).unwrap();
    let _six = http::serve(rig.host(), (HOST_SIX, 8080)).unwrap();
    let options = "--copy-up=/etc --copy-up=/run --disable-host-loopback";
    let resolve = format!("sh -c '{}/bin/busybox nslookup www.lab; true'", rig.rootfs());
    let said = rig.sh(&kit(&rig, options, &resolve));
    assert!(said.contains(&SERVERS[1].to_string()), "{said}");
    for loopback in ["127.0.0.1", "10.0.2.2"] {
        let ask = format!("sh -c 'curl -m 3 -fsS http://{loopback}:8080 || echo not there'");
        let said = rig.sh(&kit(&rig, options, &ask));
        assert!(said.contains("not there") && !said.contains("hello"), "{said}");
    }
    // The namespace makes its address up from an advertisement, which takes a moment.
    let ask = format!(
        "sh -c 'for i in 1 2 3 4 5 6 7 8 9; do sleep 1; curl -m 10 -fsS http://[{HOST_SIX}]:8080 && exit; done; exit 1'"
    );
    let said = rig.sh(&kit(&rig, "--ipv6", &ask));
    assert!(said.contains("hello ["), "{said}");
    rig.until("the gateways end", || rig.gateways().is_empty());
    rig.podman(&["run", "--rm", NETWORK], &["/bin/sh", "-c", "true"]);
    rig.nothing_is_left();
}

/// `integration-restart.sh`: a parent that is killed takes the gateway with it, and the same state
/// directory serves again.
fn kit_restart() {
    let rig = Rig::new();
    let state = rig.note("state-of-restart");
    let options = format!("--state-dir={state} --port-driver=slirp4netns -p 0.0.0.0:8092:80/tcp");
    let serve = format!("{root}/bin/httpd -f -p 80 -h {root}/www", root = rig.rootfs());
    for _ in 0..2 {
        let line = format!("exec {} >/dev/null 2>&1", kit(&rig, &options, &serve));
        let mut child = rig.user(&line).spawn().unwrap();
        rig.fetches(rig.internet(), (HOST, 8092));
        child.kill().unwrap();
        child.wait().unwrap();
        rig.until("the gateway ends with it", || rig.gateways().is_empty());
    }
    rig.podman(&["run", "--rm", NETWORK], &["/bin/sh", "-c", "true"]);
    let gone = rig.internet().run(|| http::get((HOST, 8092), "/", PATIENCE)).unwrap();
    assert!(gone.is_err(), "{ROUTER} is still served");
    rig.nothing_is_left();
}
