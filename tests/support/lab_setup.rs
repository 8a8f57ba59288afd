//! The standard lab with the real gateway in it, and its servers.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tapnat::io::netlink::{LinkFacts, Netlink};
use tapnat::io::sys::netns::Netns;
use tapnat::lab::netns::Lab;
use tapnat::lab::product::Product;
use tapnat::lab::programs::counters::Counters;
use tapnat::lab::programs::icmp::{Answer, Ping};
use tapnat::lab::programs::{Server, bulk, dns, http, now, udp};
use tapnat::lab::topology::{self, BRIDGE, INSIDE, Options, SERVERS, Topology, UPLINK};
use tempfile::TempDir;

/// The binary under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_tapnat");
/// The limit of each wait that should be short.
pub const SOON: Duration = Duration::from_secs(5);
/// The limit of each wait for bulk work.
pub const LATER: Duration = Duration::from_secs(60);
/// The gateway's TAP.
pub const TAP: &str = "tapnat0";

/// Which forms of uplink, guard and TAP the gateway uses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Form {
    pub uplink: &'static str,
    pub guard: &'static str,
    pub tap: &'static str,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/tap-{}", self.uplink, self.guard, self.tap)
    }
}

/// Every form. The tcx guard is not for the raw uplink, which would see nothing behind it.
pub fn forms() -> Vec<Form> {
    let pairs = [("packet", "tcx"), ("packet", "hold"), ("raw", "hold")];
    pairs.iter().flat_map(|&(uplink, guard)| ["auto", "off"].map(|tap| Form { uplink, guard, tap })).collect()
}

/// The form that a gateway chooses by itself where everything is allowed.
pub const PLAIN: Form = Form { uplink: "packet", guard: "hold", tap: "auto" };

/// A lab without a gateway, with the servers of the internet running.
pub struct World {
    pub lab: Lab,
    pub folder: TempDir,
    _servers: Vec<Server>,
}

impl World {
    pub fn new(options: Options) -> World {
        World::of(&topology::standard(options))
    }

    /// A lab of another form, in which there is the internet all the same.
    pub fn of(topology: &Topology) -> World {
        let lab = Lab::build(topology).unwrap();
        let internet = lab.host("internet");
        let any = |port| SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
        let zone =
            vec![("www.example.org".to_owned(), SERVERS[0]), ("ftp.example.org".to_owned(), SERVERS[1])];
        let mut servers = vec![
            http::serve(internet, any(80)).unwrap(),
            bulk::serve(internet, any(5001)).unwrap(),
            dns::serve(internet, any(53), zone).unwrap(),
        ];
        // One each, since a wildcard socket would answer from another address than it was asked at.
        servers.extend(SERVERS.iter().map(|&ip| udp::serve(internet, SocketAddrV4::new(ip, 7)).unwrap()));
        World { lab, folder: TempDir::new().unwrap(), _servers: servers }
    }

    pub fn on(&self, host: &str) -> &Netns {
        self.lab.host(host)
    }

    pub fn control(&self) -> PathBuf {
        self.folder.path().join("control")
    }

    /// The arguments of a gateway of this form, and then `more`.
    pub fn arguments(&self, form: Form, more: &[&str]) -> Vec<String> {
        let control = self.control();
        let mut words: Vec<String> = vec!["run".into(), "--control".into(), control.to_str().unwrap().into()];
        let own = [("--tap", TAP), ("--bridge", BRIDGE), ("--inside", INSIDE), ("--outside", UPLINK)];
        let forms = [("--uplink", form.uplink), ("--guard", form.guard), ("--tap-offload", form.tap)];
        for (name, value) in own.into_iter().chain(forms) {
            // What a test says itself stands.
            if !more.contains(&name) {
                words.extend([name.into(), value.into()]);
            }
        }
        words.extend(more.iter().map(|&word| word.into()));
        words
    }

    /// Starts a gateway of this form.
    pub fn gateway(&self, form: Form, more: &[&str]) -> Gateway {
        let started =
            Product::start(Path::new(PROGRAM), self.on("host"), &self.arguments(form, more), SOON * 2);
        Gateway(started.unwrap_or_else(|error| panic!("the gateway did not start: {error}")))
    }

    /// What the host's stack has said that it should not have.
    pub fn complaints(&self) -> (i64, i64) {
        let counters = Counters::read(self.on("host")).unwrap();
        (counters.get("Tcp: OutRsts"), counters.get("Icmp: OutDestUnreachs"))
    }

    /// Panics if a stack anywhere has met a wrong checksum.
    pub fn assert_checksums_right(&self) {
        for (name, netns) in self.lab.hosts() {
            let counters = Counters::read(netns).unwrap();
            for counter in [
                "Tcp: InCsumErrors",
                "Udp: InCsumErrors",
                "Icmp: InCsumErrors",
                "Ip: InHdrErrors",
                "Udp6InCsumErrors",
                "Icmp6InCsumErrors",
                "Ip6InHdrErrors",
            ] {
                assert_eq!(counters.get(counter), 0, "{counter} on {name}");
            }
        }
    }

    pub fn link(&self, host: &str, name: &str) -> Option<LinkFacts> {
        self.on(host).run(|| Netlink::open().unwrap().link(name).unwrap()).unwrap()
    }
}

/// A running gateway, which tells what it said when its test fails.
pub struct Gateway(pub Product);

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the gateway said:\n{}\n---", self.0.said());
        } else {
            // The list of system calls is made from what the tests need.
            assert!(!self.0.said().contains("refused by seccomp"), "{}", self.0.said());
        }
    }
}

/// A lab with a gateway in it. The gateway goes first.
pub struct Setup {
    pub gateway: Gateway,
    pub world: World,
}

impl Setup {
    pub fn new(form: Form, options: Options, more: &[&str]) -> Setup {
        let world = World::new(options);
        let gateway = world.gateway(form, more);
        Setup { gateway, world }
    }

    pub fn plain(form: Form) -> Setup {
        Setup::new(form, Options::default(), &[])
    }

    pub fn on(&self, host: &str) -> &Netns {
        self.world.on(host)
    }

    /// The gateway has not ended.
    pub fn assert_running(&mut self) {
        let ended = self.gateway.0.ended().unwrap();
        assert!(ended.is_none(), "the gateway ended: {ended:?}");
    }
}

/// The address of a service.
pub fn at(ip: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(ip, port)
}

/// Pings from the namespace until it works, for a link that has just come up.
pub fn ping(netns: &Netns, destination: Ipv4Addr, sequence: u16) -> Answer {
    netns.run(|| Ping::new(destination, sequence).send(SOON).unwrap()).unwrap()
}

pub fn assert_ping(netns: &Netns, destination: Ipv4Addr) {
    let answer = ping(netns, destination, 1);
    assert!(matches!(answer, Answer::Reply { .. }), "ping {destination}: {answer:?}");
}

/// One page, from inside a namespace.
pub fn page(
    netns: &Netns,
    server: impl Into<SocketAddr> + Send,
    path: &str,
) -> std::io::Result<http::Response> {
    netns.run(|| http::get(server, path, SOON)).unwrap()
}

/// Whom the server at `server` sees when `netns` asks it.
pub fn seen_as(netns: &Netns, server: SocketAddrV4) -> SocketAddrV4 {
    let response = page(netns, server, "/").unwrap();
    peer_of(&response)
}

/// The client's address in a greeting.
pub fn peer_of(response: &http::Response) -> SocketAddrV4 {
    let text = String::from_utf8(response.body.clone()).unwrap();
    text.trim().strip_prefix("hello ").unwrap().parse().unwrap()
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) -> Duration {
    let start: Instant = now();
    while !condition() {
        assert!(now() - start < timeout, "{what}: not within {timeout:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    now() - start
}
