//! What stands in the middle of a trial: the tapnat binary, or the kernel's own masquerade.

use super::packet::{ICMP, ICMP6, TCP, UDP};
use super::trial::{GI, Who, X, X2, four, six};
use super::{Fault, Shown};
use crate::io::netlink::{Family, Netlink};
use crate::io::sys::netns::Netns;
use crate::lab::netns::{set_sysctl, sysctl};
use crate::lab::product::Product;
use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The bridge of the gateway that the inside hosts are wired to.
pub const BRIDGE: &str = "inside";
/// The interface of the gateway that leads to the world.
pub const OUTSIDE: &str = "outside";
/// The limit of the gateway's start and end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A timer that a trial may shorten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Life {
    /// A UDP session.
    Udp,
    /// A UDP session with port 53.
    Dns,
    /// A TCP connection until SYNs have gone both ways.
    Opening,
    /// A TCP connection after that.
    Established,
    /// A TCP connection after FINs both ways, or a RST.
    Closing,
    /// An ICMP query.
    Icmp,
}

impl Life {
    fn tapnat(self) -> &'static str {
        match self {
            Life::Udp => "udp",
            Life::Dns => "udp-dns",
            Life::Opening => "tcp-opening",
            Life::Established => "tcp-established",
            Life::Closing => "tcp-closing",
            Life::Icmp => "icmp",
        }
    }

    /// The kernel's timers for the same, in `/proc/sys/net/netfilter/nf_conntrack_*`.
    fn kernel(self, family: Family) -> &'static [&'static str] {
        match self {
            Life::Udp | Life::Dns => &["udp_timeout", "udp_timeout_stream"],
            Life::Opening => &["tcp_timeout_syn_sent", "tcp_timeout_syn_recv"],
            Life::Established => &["tcp_timeout_established"],
            Life::Closing => &["tcp_timeout_time_wait", "tcp_timeout_close", "tcp_timeout_last_ack"],
            Life::Icmp if family == Family::Six => &["icmpv6_timeout"],
            Life::Icmp => &["icmp_timeout"],
        }
    }
}

/// What the lab of a requirement must be like.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// The family of all its addresses.
    pub family: Family,
    /// MTU of the wire outside, in bytes.
    pub outside_mtu: u32,
    /// External addresses: X, and with 2 also X2.
    pub externals: u8,
    /// External ports to use; the contender's own choice otherwise.
    pub ports: Option<(u16, u16)>,
    /// Timers, in seconds.
    pub lives: &'static [(Life, u32)],
    /// A UDP port outside that is forwarded to the same port of this host inside.
    pub publish: Option<(u16, Who)>,
    /// Options of tapnat that masquerade has no counterpart of.
    pub tapnat: &'static [&'static str],
}

/// One external address, MTU 1500, and everything else as the contender has it by itself.
pub const PLAIN: Setup = Setup {
    family: Family::Four,
    outside_mtu: 1500,
    externals: 1,
    ports: None,
    lives: &[],
    publish: None,
    tapnat: &[],
};

impl Setup {
    /// The same over IPv6.
    pub const fn over_six(self) -> Setup {
        Setup { family: Family::Six, ..self }
    }

    /// The gateway's address inside and its prefix length.
    fn inside(&self) -> (IpAddr, u8) {
        let prefix = if self.family == Family::Four { four::PREFIX } else { six::PREFIX };
        (GI.of(self.family), prefix)
    }
}

/// A NAT that can be put into a trial.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Contender {
    /// The gateway of this project.
    Tapnat {
        /// Its program.
        program: PathBuf,
        /// Its options besides those of the lab.
        options: Vec<String>,
        /// A folder for its control sockets.
        folder: PathBuf,
    },
    /// The kernel: IP forwarding and one nftables rule, `masquerade`.
    Kernel,
}

/// A NAT at work in the namespace of a trial's gateway.
#[derive(Debug)]
pub enum Running {
    /// The gateway of this project.
    Tapnat {
        /// The process.
        process: Product,
        /// What it was started with.
        arguments: Vec<String>,
        /// Its program.
        program: PathBuf,
        /// Its control socket.
        control: PathBuf,
        /// Where it runs.
        netns: Netns,
    },
    /// The kernel's masquerade.
    Kernel {
        /// Where it works.
        netns: Netns,
    },
}

impl Contender {
    /// A name for reports, with the profile if one is asked for: `tapnat symmetric`.
    pub fn name(&self) -> String {
        match self {
            Contender::Tapnat { options, .. } => {
                profile(options).map_or_else(|| "tapnat".to_owned(), |profile| format!("tapnat {profile}"))
            }
            Contender::Kernel => "kernel".to_owned(),
        }
    }

    /// The same with more options, if there are any and it takes options. A profile is asked as it is.
    pub(super) fn with(&self, more: &[&str]) -> Option<Contender> {
        let Contender::Tapnat { program, options, folder } = self else { return None };
        let options: Vec<_> =
            options.iter().cloned().chain(more.iter().map(|&word| word.to_owned())).collect();
        let (program, folder) = (program.clone(), folder.clone());
        let asked_as_it_is = more.is_empty() || profile(&options).is_some();
        (!asked_as_it_is).then_some(Contender::Tapnat { program, options, folder })
    }

    /// Whether it can work on this machine at all.
    ///
    /// # Errors
    /// What is missing, and the cure.
    pub fn check(&self) -> io::Result<()> {
        if let Contender::Kernel = self {
            let netns = Netns::create()?;
            nft(&netns, &ruleset(&PLAIN))?;
        }
        Ok(())
    }

    /// Starts it in `netns`.
    ///
    /// # Errors
    /// [`Fault::NotApplicable`] if it cannot be set up that way; [`Fault::Broken`] if it does not start.
    pub fn start(&self, netns: &Netns, setup: &Setup, number: u32) -> Shown<Running> {
        match self {
            Contender::Tapnat { program, options, folder } => {
                let control = folder.join(format!("selftest-{}-{number}.sock", std::process::id()));
                let arguments = arguments(&control, options, setup);
                let process = Product::start(program, netns, &arguments, PATIENCE);
                let process = process.map_err(|error| refused(&error, options, setup))?;
                let (program, netns) = (program.clone(), netns.clone());
                Ok(Running::Tapnat { process, arguments, program, control, netns })
            }
            Contender::Kernel => {
                if let Some(option) = setup.tapnat.first() {
                    let why = format!("masquerade has no counterpart of `{option}`");
                    return Err(Fault::NotApplicable(why));
                }
                let prepared = netns.run(|| {
                    let netlink = Netlink::open()?;
                    let link = netlink.link(BRIDGE)?;
                    let bridge = link.ok_or_else(|| io::Error::other("the bridge is gone"))?.index;
                    let (address, prefix) = setup.inside();
                    netlink.add_address(bridge, address, prefix)?;
                    match setup.family {
                        Family::Four => set_sysctl("net/ipv4/ip_forward", "1"),
                        Family::Six => set_sysctl("net/ipv6/conf/all/forwarding", "1"),
                    }
                });
                prepared??;
                nft(netns, &ruleset(setup))?;
                let timers = netns.run(|| {
                    for (life, seconds) in setup.lives {
                        for name in life.kernel(setup.family) {
                            set_sysctl(&format!("net/netfilter/nf_conntrack_{name}"), &seconds.to_string())?;
                        }
                    }
                    io::Result::Ok(())
                });
                timers??;
                Ok(Running::Kernel { netns: netns.clone() })
            }
        }
    }
}

/// The profile that options of `tapnat run` name.
fn profile(options: &[String]) -> Option<&str> {
    let at = options.iter().position(|word| word == "--profile");
    let next = at.and_then(|at| options.get(at + 1)).map(String::as_str);
    next.or_else(|| options.iter().find_map(|word| word.strip_prefix("--profile=")))
}

/// Why it did not start: a lab's ports or addresses may not be what a profile can work with.
fn refused(error: &io::Error, options: &[String], setup: &Setup) -> Fault {
    let asks = setup.ports.is_some() || !setup.tapnat.is_empty();
    match profile(options) {
        Some(profile) if asks && error.kind() != io::ErrorKind::TimedOut => {
            Fault::NotApplicable(format!("the profile {profile} does not go with this lab: {error}"))
        }
        // What the uplink cannot do is refused with the one that can.
        _ if error.to_string().contains("--uplink packet") => Fault::NotApplicable(error.to_string()),
        _ => Fault::Broken(error.to_string()),
    }
}

fn arguments(control: &std::path::Path, options: &[String], setup: &Setup) -> Vec<String> {
    let (address, prefix) = setup.inside();
    let inside = format!("{address}/{prefix}");
    let control = control.to_string_lossy().into_owned();
    let own = ["run", "--control", &control, "--bridge", BRIDGE, "--inside", &inside, "--outside", OUTSIDE];
    let mut words: Vec<String> = own.map(str::to_owned).to_vec();
    words.extend_from_slice(options);
    let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
    if let Some((first, last)) = setup.ports {
        option("--ports", format!("{first}-{last}"));
    }
    for (life, seconds) in setup.lives {
        option("--timeout", format!("{}={seconds}s", life.tapnat()));
    }
    if let Some((port, host)) = setup.publish {
        let to = SocketAddr::new(host.of(setup.family), port);
        option("--publish", format!("{port}:{to}/udp"));
    }
    words.extend(setup.tapnat.iter().map(|&word| word.to_owned()));
    words
}

/// What `tapnat run` replaces, in the words of `nft`.
fn ruleset(setup: &Setup) -> String {
    let ports = setup.ports.map_or(String::new(), |(first, last)| format!(":{first}-{last}"));
    let (table, first, last) = match setup.family {
        Family::Four => ("ip", X.of(Family::Four).to_string(), X2.of(Family::Four).to_string()),
        Family::Six => ("ip6", format!("[{}]", X.of(Family::Six)), format!("[{}]", X2.of(Family::Six))),
    };
    let pool = format!("{first}-{last}");
    let action = |protocol: &str, ports: &str| match setup.externals {
        1 if ports.is_empty() => format!("{protocol} masquerade"),
        1 => format!("{protocol} masquerade to {ports}"),
        _ => format!("{protocol} snat to {pool}{ports} persistent"),
    };
    let mut rules = String::new();
    if !ports.is_empty() {
        for protocol in ["meta l4proto tcp", "meta l4proto udp"] {
            rules += &format!("  oifname \"{OUTSIDE}\" {}\n", action(protocol, &ports));
        }
    }
    rules += &format!("  oifname \"{OUTSIDE}\" {}\n", action("", ""));
    let publish = setup.publish.map_or(String::new(), |(port, host)| {
        format!(
            " chain pre {{\n  type nat hook prerouting priority -100;\n  iifname \"{OUTSIDE}\" udp dport {port} dnat to {}\n }}\n",
            host.of(setup.family)
        )
    });
    format!(
        "table {table} nat {{\n{publish} chain post {{\n  type nat hook postrouting priority 100;\n{rules} }}\n}}\n"
    )
}

/// Loads rules into a namespace.
fn nft(netns: &Netns, rules: &str) -> io::Result<()> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    netns.confine(&mut command);
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            io::Error::other("the program nft is not installed; install the package nftables")
        }
        _ => io::Error::new(error.kind(), format!("start nft: {error}")),
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(rules.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().next().unwrap_or("it said nothing").to_owned();
    Err(io::Error::other(format!("nft cannot load a masquerade rule, the kernel may lack nf_nat: {line}")))
}

/// What a NAT says about one of its sessions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Word {
    /// Seconds until it ends if nothing passes.
    pub seconds: u64,
    /// Its state in the NAT's own words.
    pub state: String,
}

impl Running {
    /// What the NAT itself says about the session of this inside endpoint: that which lives longest.
    ///
    /// # Errors
    /// [`Fault::NotMet`] if it knows none; [`Fault::Broken`] if it cannot be asked.
    pub fn word(&self, protocol: u8, inside: SocketAddr) -> Shown<Word> {
        let words = match self {
            Running::Tapnat { program, control, netns, .. } => {
                tapnat_words(program, control, netns, protocol, inside)
            }
            Running::Kernel { netns } => netns.run(|| kernel_words(protocol, inside))?,
        }?;
        let longest = words.into_iter().max_by_key(|word| word.seconds);
        longest.ok_or_else(|| Fault::NotMet(format!("it knows no session of {inside}")))
    }

    /// Ends it and starts it anew with the same settings. The kernel's table is flushed, as by a
    /// restart of the machine.
    ///
    /// # Errors
    /// [`Fault::NotApplicable`] for the kernel, which has no process to restart.
    pub fn restart(&mut self) -> Shown {
        match self {
            Running::Tapnat { process, arguments, program, netns, .. } => {
                process.terminate(PATIENCE)?;
                *process = Product::start(program, netns, arguments, PATIENCE)?;
                Ok(())
            }
            Running::Kernel { .. } => {
                Err(Fault::NotApplicable("the kernel's masquerade has no process to restart".into()))
            }
        }
    }

    /// What it says when it is started once more beside itself with these options of `tapnat run`
    /// besides control socket and outside interface, and ends at once; `None` if it starts.
    ///
    /// # Errors
    /// [`Fault::NotApplicable`] for the kernel, which is not started.
    pub fn refusal_of(&self, options: &[&str]) -> Shown<Option<String>> {
        let Running::Tapnat { program, control, netns, .. } = self else {
            return Err(Fault::NotApplicable("the kernel's masquerade has no start".into()));
        };
        let control = control.with_extension("second.sock");
        let control = control.to_string_lossy();
        let mut arguments = vec!["run", "--control", &control, "--outside", OUTSIDE];
        arguments.extend_from_slice(options);
        match Product::start(program, netns, &arguments, PATIENCE) {
            Ok(mut second) => {
                second.terminate(PATIENCE)?;
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(error.into()),
            Err(error) => Ok(Some(error.to_string())),
        }
    }

    /// Whether it has ended by itself, and what it said last.
    pub fn fell(&mut self) -> Option<String> {
        match self {
            Running::Tapnat { process, .. } => match process.ended() {
                Ok(Some(status)) => Some(format!("it ended ({status}): {}", process.said())),
                _ => None,
            },
            Running::Kernel { .. } => None,
        }
    }

    /// What it said on standard error.
    pub fn said(&self) -> String {
        match self {
            Running::Tapnat { process, .. } => process.said(),
            Running::Kernel { .. } => String::new(),
        }
    }

    /// Runs a verb of the program that asks a running gateway, and gives back what it prints.
    ///
    /// # Errors
    /// [`Fault::NotApplicable`] for the kernel.
    pub fn ask(&self, verb: &[&str]) -> Shown<String> {
        let Running::Tapnat { program, control, netns, .. } = self else {
            return Err(Fault::NotApplicable("the kernel's masquerade has no such command".into()));
        };
        let mut command = Command::new(program);
        command.args(verb).arg("--control").arg(control).stdin(Stdio::null());
        netns.confine(&mut command);
        let output = command.output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Fault::Broken(format!("{}: {said}", verb.join(" "))));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A timer's default in seconds, in the NAT's own words, where those are in a file.
    ///
    /// # Errors
    /// [`Fault::Broken`] if it cannot be read.
    pub fn sysctl(&self, name: &str) -> Shown<Option<u64>> {
        let Running::Kernel { netns } = self else { return Ok(None) };
        let text = netns.run(|| sysctl(&format!("net/netfilter/nf_conntrack_{name}")))??;
        Ok(text.trim().parse().ok())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Running::Tapnat { control, .. } = self {
            let _ = fs::remove_file(control);
        }
    }
}

fn protocol_word(protocol: u8) -> String {
    match protocol {
        UDP => "udp".into(),
        TCP => "tcp".into(),
        ICMP | ICMP6 => "icmp".into(),
        other => other.to_string(),
    }
}

fn tapnat_words(
    program: &std::path::Path,
    control: &std::path::Path,
    netns: &Netns,
    protocol: u8,
    inside: SocketAddr,
) -> Shown<Vec<Word>> {
    let mut command = Command::new(program);
    command.args([
        "flows",
        "--json",
        "--protocol",
        &protocol_word(protocol),
        "--inside",
        &inside.to_string(),
    ]);
    command.arg("--control").arg(control).stdin(Stdio::null());
    netns.confine(&mut command);
    let output = command.output()?;
    if !output.status.success() {
        return Err(Fault::Broken(format!(
            "tapnat flows: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )));
    }
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let word = |line: &str| {
        let flow: serde_json::Value = serde_json::from_str(line).ok()?;
        let seconds = flow.get("expires_seconds")?.as_f64()?.round() as u64;
        Some(Word { seconds, state: flow.get("state")?.as_str()?.to_owned() })
    };
    Ok(lines.lines().filter_map(word).collect())
}

/// Lines such as `ipv4 2 udp 17 29 src=10.0.0.2 dst=198.51.100.7 sport=1000 dport=53 ...`; TCP has
/// its state after the seconds, ICMP `type= code= id=` instead of the ports.
fn kernel_words(protocol: u8, inside: SocketAddr) -> Shown<Vec<Word>> {
    let path = "/proc/thread-self/net/nf_conntrack";
    let text = fs::read_to_string(path).map_err(|error| {
        Fault::NotApplicable(format!("the kernel does not show its table: {path}: {error}"))
    })?;
    let asks = protocol == ICMP || protocol == ICMP6;
    let port = if asks { format!("id={}", inside.port()) } else { format!("sport={}", inside.port()) };
    let word = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number: u8 = fields.get(3)?.parse().ok()?;
        let ours = (number == protocol || (asks && matches!(number, ICMP | ICMP6)))
            && fields.iter().find_map(|field| field.strip_prefix("src="))?.parse() == Ok(inside.ip())
            && fields.iter().find(|field| field.starts_with("sport=") || field.starts_with("id="))
                == Some(&port.as_str());
        let state = fields.get(5).filter(|field| !field.contains('=')).copied().unwrap_or("");
        ours.then_some(Word { seconds: fields.get(4)?.parse().ok()?, state: state.to_owned() })
    };
    Ok(text.lines().filter_map(word).collect())
}
