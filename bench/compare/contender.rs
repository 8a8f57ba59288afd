//! Sets a gateway up in a lab of its own, ready to carry traffic.

use crate::bare::Bare;
use crate::load::Place;
use clap::ValueEnum;
use std::io::{self, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{fs, thread};
use tapnat::io::netlink::Netlink;
use tapnat::io::sys::netns::Netns;
use tapnat::lab::netns::{Lab, set_sysctl};
use tapnat::lab::product::Product;
use tapnat::lab::programs::now;
use tapnat::lab::topology::{self, BRIDGE, GATEWAY, INSIDE, SERVERS, Topology, UPLINK};
use tempfile::TempDir;

/// How long a gateway may take until it carries a connection.
const PATIENCE: Duration = Duration::from_secs(5);
/// Lines that are kept of a gateway that ended.
const LAST_WORDS: usize = 3;

/// Who can take part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Kind {
    /// The kernel: ip_forward=1 and nftables' masquerade
    Kernel,
    /// tapnat as it starts without options
    Tapnat,
    /// tapnat with `--uplink packet`
    TapnatPacket,
    /// tapnat with `--uplink raw`
    TapnatRaw,
    /// tapnat with `--uplink sockets`
    TapnatSockets,
    /// tapnat with `--guard tcx`
    TapnatTcx,
    /// tapnat with `--guard hold`
    TapnatHold,
    /// tapnat with `--tap-offload off`
    TapnatPlain,
    /// slirp4netns, with its TAP in the container
    #[value(name = "slirp4netns")]
    Slirp,
    /// pasta, with its TAP in the container
    Pasta,
    /// A thread that copies frames and translates nothing
    Bare,
    /// The same with a thread for each direction
    BarePair,
}

impl Kind {
    /// What `--only` and the table call it.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string())
    }

    /// Which version of it takes part.
    pub fn version(self) -> String {
        match self {
            Kind::Kernel => first_line("uname", &["-r"]),
            Kind::Bare | Kind::BarePair => String::new(),
            Kind::Slirp => package("slirp4netns"),
            Kind::Pasta => package("passt"),
            _ => match first_line(
                "git",
                &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"],
            ) {
                commit if commit.is_empty() => env!("CARGO_PKG_VERSION").to_string(),
                commit => format!("{} ({commit})", env!("CARGO_PKG_VERSION")),
            },
        }
    }

    /// What a variant of tapnat adds to the command line; `None` for the others.
    fn tapnat_options(self) -> Option<&'static [&'static str]> {
        match self {
            Kind::Tapnat => Some(&[]),
            Kind::TapnatPacket => Some(&["--uplink", "packet"]),
            Kind::TapnatRaw => Some(&["--uplink", "raw"]),
            Kind::TapnatSockets => Some(&["--uplink", "sockets"]),
            Kind::TapnatTcx => Some(&["--guard", "tcx"]),
            Kind::TapnatHold => Some(&["--guard", "hold"]),
            Kind::TapnatPlain => Some(&["--tap-offload", "off"]),
            Kind::Kernel | Kind::Slirp | Kind::Pasta | Kind::Bare | Kind::BarePair => None,
        }
    }
}

/// A gateway in its lab.
pub struct Contender {
    process: Option<Product>,
    bare: Option<Bare>,
    lab: Lab,
    _file: Option<NamespaceFile>,
    _folder: TempDir,
}

impl Contender {
    /// Builds the lab, starts the gateway, and waits until a connection gets through.
    ///
    /// # Errors
    /// What could not be built or started; `NotFound` if the program is not installed.
    pub fn start(kind: Kind, mtu: u32) -> io::Result<Contender> {
        let folder = tempfile::tempdir()?;
        let lab = Lab::build(&wires(kind, mtu))?;
        let (host, container) = (lab.host("host"), lab.host("red"));
        let (mut file, mut bare) = (None, None);
        let process = match kind {
            Kind::Kernel => {
                masquerade(host)?;
                None
            }
            Kind::Bare | Kind::BarePair => {
                bare = Some(Bare::start(&lab, mtu, kind == Kind::BarePair)?);
                None
            }
            Kind::Slirp => {
                let path = file.insert(NamespaceFile::bind(container, folder.path())?).path();
                Some(Product::start_unready(&installed("slirp4netns")?, host, &slirp(path, mtu))?)
            }
            Kind::Pasta => {
                let path = file.insert(NamespaceFile::bind(container, folder.path())?).path();
                Some(Product::start_unready(&installed("pasta")?, host, &pasta(path, mtu))?)
            }
            _ => {
                let mut arguments = tapnat(&folder.path().join("control"), mtu);
                arguments.extend(kind.tapnat_options().into_iter().flatten().map(ToString::to_string));
                let program = Path::new(env!("CARGO_BIN_EXE_tapnat"));
                Some(Product::start(program, host, &arguments, PATIENCE)?)
            }
        };
        let contender = Contender { process, bare, lab, _file: file, _folder: folder };
        contender.prove()?;
        Ok(contender)
    }

    /// Where loads run.
    pub fn place(&self) -> Place<'_> {
        let (client, host, server) = (self.lab.host("red"), self.lab.host("host"), self.lab.host("internet"));
        Place { client, host, server, address: SERVERS[0] }
    }

    /// Resident memory of the gateway's process in MiB; `None` if the gateway is the kernel.
    pub fn resident(&self) -> Option<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.as_ref()?.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kib / 1024.0)
    }

    /// The first thing it said about itself.
    pub fn said(&self) -> Option<String> {
        let said = self.process.as_ref()?.said();
        said.lines().next().map(ToString::to_string)
    }

    /// How the gateway ended and its last words, if it is gone.
    pub fn gone(&mut self) -> Option<String> {
        let process = self.process.as_mut()?;
        let status = process.ended().ok()??;
        let said = process.said();
        let lines: Vec<&str> = said.lines().collect();
        // A backtrace comes after what happened and says less.
        let panic = lines.iter().position(|line| line.contains("panicked at"));
        let from = panic.unwrap_or(lines.len().saturating_sub(LAST_WORDS));
        let words = lines[from..].iter().take(LAST_WORDS).copied().collect::<Vec<_>>().join("; ");
        Some(format!("{status}; it said: {words}"))
    }

    /// Waits until a connection from the container reaches the server, and checks that the server
    /// sees it come from the host's address: a path past the gateway would measure nothing.
    fn prove(&self) -> io::Result<()> {
        let place = self.place();
        let listener = place.server.run(|| TcpListener::bind((place.address, 0)))??;
        let SocketAddr::V4(server) = listener.local_addr()? else {
            return Err(io::Error::other("an IPv4 listener has an IPv6 address"));
        };
        place.client.run(|| self.knock(server))??;
        let (_, peer) = listener.accept()?;
        let expected = if self.bare.is_some() { topology::CONTAINERS[0] } else { topology::HOST };
        if peer.ip() != expected {
            return Err(io::Error::other(format!("the server sees {} and not {expected}", peer.ip())));
        }
        Ok(())
    }

    fn knock(&self, server: SocketAddrV4) -> io::Result<TcpStream> {
        let deadline = now() + PATIENCE;
        loop {
            match TcpStream::connect_timeout(&server.into(), Duration::from_millis(500)) {
                Err(error) if now() > deadline => {
                    let said = self.process.as_ref().map(Product::said).unwrap_or_default();
                    let text = format!("no connection gets through: {error}; it said: {said}");
                    return Err(io::Error::new(error.kind(), text));
                }
                Err(_) => thread::sleep(Duration::from_millis(20)),
                stream => return stream,
            }
        }
    }
}

/// The standard lab with one container. Programs that bring a TAP of their own into the container
/// find it without a wire to the bridge.
fn wires(kind: Kind, mtu: u32) -> Topology {
    let options = topology::Options { inside_mtu: mtu, outside_mtu: mtu, ..topology::Options::default() };
    let mut topology = topology::standard(options);
    let own_tap = matches!(kind, Kind::Slirp | Kind::Pasta);
    topology.hosts.retain(|host| host.name != "blue");
    topology
        .wires
        .retain(|wire| wire.ends.iter().all(|end| end.host != "blue" && (end.host != "red" || !own_tap)));
    if own_tap {
        for host in topology.hosts.iter_mut().filter(|host| host.name == "red") {
            host.default_route = None;
        }
    }
    topology
}

/// The textbook way: the bridge is the containers' router, and netfilter translates.
fn masquerade(host: &Netns) -> io::Result<()> {
    host.run(|| {
        let netlink = Netlink::open()?;
        let bridge = netlink.link(BRIDGE)?.ok_or(io::ErrorKind::NotFound)?;
        netlink.add_address(bridge.index, GATEWAY.into(), 24)?;
        set_sysctl("net/ipv4/ip_forward", "1")
    })??;
    let rules = format!(
        "table ip nat {{\n chain postrouting {{\n type nat hook postrouting priority srcnat;\n \
         ip saddr 10.88.0.0/24 oifname \"{UPLINK}\" masquerade\n }}\n }}\n"
    );
    let mut command = Command::new(installed("nft")?);
    host.confine(&mut command);
    let mut child = command.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(rules.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("nft: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

fn tapnat(control: &Path, mtu: u32) -> Vec<String> {
    let words = ["run", "--tap", "tapnat0", "--bridge", BRIDGE, "--inside", INSIDE, "--outside", UPLINK];
    let mut arguments: Vec<String> = words.into_iter().map(ToString::to_string).collect();
    arguments.extend(["--mtu".to_string(), mtu.to_string()]);
    arguments.extend(["--control".to_string(), control.display().to_string()]);
    arguments
}

fn slirp(netns: &Path, mtu: u32) -> Vec<String> {
    let netns = netns.display().to_string();
    ["--configure", "--mtu", &mtu.to_string(), "--netns-type", "path", &netns, "tap0"]
        .map(ToString::to_string)
        .to_vec()
}

/// As root, pasta would become `nobody` and then not be allowed to enter a namespace that root made:
/// `--runas 0` leaves it root, within its usual sandbox.
fn pasta(netns: &Path, mtu: u32) -> Vec<String> {
    let netns = netns.display().to_string();
    let words =
        ["--foreground", "--quiet", "--runas", "0", "--netns", &netns, "--config-net", "--ns-ifname", "tap0"];
    let ports = ["-t", "none", "-u", "none", "-T", "none", "-U", "none", "--ipv4-only", "--mtu"];
    let mtu = mtu.to_string();
    words.into_iter().chain(ports).chain([mtu.as_str()]).map(ToString::to_string).collect()
}

/// A network namespace as a file, for programs that take it by path and give up the right to look
/// into `/proc/PID` before they open it. The mount is seen by this process's children alone.
struct NamespaceFile(PathBuf);

impl NamespaceFile {
    fn bind(netns: &Netns, folder: &Path) -> io::Result<NamespaceFile> {
        let path = folder.join("netns");
        fs::write(&path, "")?;
        rustix::mount::mount_bind(format!("/proc/self/fd/{}", netns.number()), &path)?;
        Ok(NamespaceFile(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for NamespaceFile {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Where `program` is, if it is installed: `sbin` is not on everybody's path.
fn installed(program: &str) -> io::Result<PathBuf> {
    let folders = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"];
    let found = folders.iter().map(|folder| Path::new(folder).join(program)).find(|path| path.exists());
    found.ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("{program} is not installed on this machine"))
    })
}

/// The version of a Debian package; empty elsewhere.
fn package(name: &str) -> String {
    first_line("dpkg-query", &["--show", "--showformat", "${Version}", name])
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_string()
}
