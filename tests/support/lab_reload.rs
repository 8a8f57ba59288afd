//! New settings for a gateway at work: what they allow goes on, and bad ones change nothing.

use crate::lab_setup::*;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use tapnat::lab::programs::http::{self, Client};
use tapnat::lab::topology::{CONTAINERS, HOST, Options, ROUTER, SERVERS};

/// A lab whose gateway was started with a file.
struct Reloading {
    setup: Setup,
}

impl Reloading {
    fn new(form: Form, text: &str) -> Reloading {
        let world = World::new(Options::default());
        let file = world.folder.path().join("gateway.toml");
        std::fs::write(&file, text).unwrap();
        let gateway = world.gateway(form, &["--config", file.to_str().unwrap()]);
        Reloading { setup: Setup { gateway, world } }
    }

    fn write(&self, text: &str) {
        std::fs::write(self.setup.world.folder.path().join("gateway.toml"), text).unwrap();
    }

    fn tapnat(&self, words: &[&str]) -> Output {
        let control = self.setup.world.control();
        Command::new(PROGRAM).args(words).arg("--control").arg(control).output().unwrap()
    }

    /// What the verb says; it must not fail.
    fn say(&self, words: &[&str]) -> String {
        let output = self.tapnat(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Every setting in force, and the port forwards.
    fn in_force(&self) -> (serde_json::Value, String) {
        let stats: serde_json::Value = serde_json::from_str(&self.say(&["stats", "--json"])).unwrap();
        (stats["about"].clone(), self.say(&["publish", "list"]))
    }

    fn hang_up(&self) {
        let id = i32::try_from(self.setup.gateway.0.id()).unwrap();
        let pid = rustix::process::Pid::from_raw(id).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    }

    fn wait_until_said(&self, words: &str) {
        eventually(words, SOON, || self.setup.gateway.0.said().contains(words));
    }

    fn connect(&self, container: &str) -> Client {
        self.setup.on(container).run(|| Client::connect(at(SERVERS[0], 80), SOON).unwrap()).unwrap()
    }

    /// Whether the world gets an answer at this port of the host.
    fn published(&self, port: u16) -> Result<(), ErrorKind> {
        let ask = || TcpStream::connect_timeout(&at(HOST, port).into(), SOON);
        self.setup.on("internet").run(ask).unwrap().map(drop).map_err(|error| error.kind())
    }
}

pub fn reload_keeps_flows_that_are_still_allowed(form: Form) {
    let reloading = Reloading::new(form, "ports = '61000-61999'\npublish = ['8080:10.88.0.2:80/tcp']\n");
    let _web = http::serve(reloading.setup.on("red"), at(CONTAINERS[0], 80)).unwrap();
    let _other = http::serve(reloading.setup.on("blue"), at(CONTAINERS[1], 80)).unwrap();
    let mut client = reloading.connect("red");
    let port = peer_of(&client.get("/").unwrap()).port();
    assert!((61000..=61999).contains(&port), "{port}");

    // More ports, another host behind 8080, one more forward, other times: the flow lives on.
    let text = "ports = '50000-50999,61000-61999'\npublish = ['8080:10.88.0.3:80/tcp', '8081:10.88.0.2:80/tcp']\n\
                [timeouts]\ntcp-established = '3h'\n[[rule]]\ninside = '10.88.0.2'\nfiltering = 'address-and-port-dependent'\n";
    reloading.write(text);
    let before = reloading.in_force();
    let would = reloading.say(&["reload", "--dry-run"]);
    assert!(would.contains("timeouts.tcp-established: 2h4m -> 3h\n"), "{would}");
    assert_eq!(reloading.in_force(), before, "a dry run changes nothing");
    let done = reloading.say(&["reload"]);
    assert_eq!(done.lines().last(), Some("kept 1 flow, ended 0"), "{done}");
    assert!(done.contains("ports: 61000-61999 -> 50000-50999,61000-61999\n"), "{done}");
    assert!(done.contains("rule 10.88.0.2/32: filtering: nothing -> address-and-port-dependent\n"), "{done}");
    assert_eq!(peer_of(&client.get("/").unwrap()).port(), port, "the connection goes on as it was");
    assert_eq!(reloading.in_force().0["config"]["timeouts.tcp-established"], "3h");
    assert_eq!(reloading.in_force().0["rules"][0]["inside"], "10.88.0.2/32");
    let flows = reloading.say(&["flows", "--json", "--inside", "10.88.0.2"]);
    let flow: serde_json::Value = serde_json::from_str(flows.lines().next().unwrap()).unwrap();
    assert!(flow["expires_seconds"].as_f64().unwrap() > 7440.0, "the new time holds for it: {flow}");
    for port in [8080, 8081] {
        assert_eq!(*seen_as(reloading.setup.on("internet"), at(HOST, port)).ip(), ROUTER, "port {port}");
    }

    // Ports that are not ours any more end the flows that have them, and no others.
    let mut other = loop {
        let mut other = reloading.connect("blue");
        if (50000..=50999).contains(&peer_of(&other.get("/").unwrap()).port()) {
            break other;
        }
    };
    reloading.write("ports = '50000-50999'\n");
    reloading.hang_up();
    reloading.wait_until_said("reloaded: ");
    reloading.wait_until_said("ports: 50000-50999,61000-61999 -> 50000-50999");
    assert_eq!(other.get("/").unwrap().status, 200);
    assert!(client.get("/").is_err(), "its port belongs to the host again");
    assert_eq!(reloading.published(8080), Err(ErrorKind::ConnectionRefused), "the host answers as before");
    let port = seen_as(reloading.setup.on("red"), at(SERVERS[0], 80)).port();
    assert!((50000..=50999).contains(&port), "{port}");
    let freed = reloading.setup.on("host").run(|| TcpListener::bind((HOST, 8081)).map(drop)).unwrap();
    assert!(freed.is_ok(), "{freed:?}");
    reloading.setup.world.assert_checksums_right();
}

pub fn a_bad_reload_changes_nothing(form: Form) {
    let mut reloading = Reloading::new(form, "publish = ['8080:10.88.0.2:80/tcp']\n");
    let _web = http::serve(reloading.setup.on("red"), at(CONTAINERS[0], 80)).unwrap();
    let mut client = reloading.connect("red");
    let seen = peer_of(&client.get("/").unwrap());
    let before = reloading.in_force();
    let taken = reloading.setup.on("host").run(|| TcpListener::bind((HOST, 8082)).unwrap()).unwrap();
    let good = "publish = ['8081:10.88.0.2:80/tcp']\n[timeouts]\nudp = '10m'\n";
    for (text, want) in [
        (
            "profile = 'ful-cone'\n".to_owned(),
            "line 1: profile: `ful-cone` is no profile; did you mean `full-cone`?",
        ),
        (format!("{good}udpp = '1m'\n"), "line 4: timeouts.udpp: no timeout `udpp`; did you mean `udp`?"),
        (
            format!("mtu = 1400\nlog = 'debug'\n{good}"),
            "`log`, `mtu` cannot change while the gateway runs; put it back",
        ),
        (
            format!("external = ['203.0.113.77']\n{good}"),
            "external 203.0.113.77: not an address of this host",
        ),
        (
            good.replace("8081:10.88.0.2:80/tcp", "8081-8082:10.88.0.2:80-81/tcp"),
            "tcp 203.0.113.1:8082: tcp 203.0.113.1:8082 is in use by a program of the host (Address already in use)",
        ),
        (
            format!("{good}[limits]\npublish = 1\n").replace("8081:", "8081-8083:"),
            "line 1: publish: `8081-8083:10.88.0.2:80/tcp`",
        ),
        (
            good.replace("'8081:", &format!("'{}:10.88.0.3:80/tcp', '8081:", seen.port())),
            "outside port is in use by another forward or mapping",
        ),
        ("publish = [".to_owned(), "line 1: "),
    ] {
        reloading.write(&text);
        let output = reloading.tapnat(&["reload"]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}: {said}");
        assert!(said.starts_with("tapnat: ") && said.lines().count() == 1, "{said}");
        assert!(said.contains(want), "{text}\n is:   {said}\n want: {want}");
        assert_eq!(reloading.in_force(), before, "{text}");
    }
    reloading.write("nonsense = 1\n");
    reloading.hang_up();
    reloading.wait_until_said("SIGHUP: not reloaded: ");
    assert_eq!(reloading.in_force(), before);
    assert_eq!(peer_of(&client.get("/").unwrap()), seen, "the connection goes on as it was");
    assert_eq!(*seen_as(reloading.setup.on("internet"), at(HOST, 8080)).ip(), ROUTER);
    let free = reloading.setup.on("host").run(|| TcpListener::bind((HOST, 8081)).map(drop)).unwrap();
    assert!(free.is_ok(), "nothing is held of a reload that was refused: {free:?}");
    drop(taken);
    reloading.setup.assert_running();
}
