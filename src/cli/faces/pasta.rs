//! The command line of `pasta`, as plain data.

use super::getopt::{self, Opt, flag, strtol, value};
use crate::config::LogLevel;
use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// MTU if nobody says which, in bytes.
pub const MTU: u16 = 65520;

/// How large a log file may be if nobody says so, in bytes.
const LOG_SIZE: u64 = 1 << 20;

const OPTS: [Opt; 71] = [
    flag("debug", Some(b'd')),
    flag("trace", None),
    value("stats", None),
    flag("quiet", Some(b'q')),
    flag("foreground", Some(b'f')),
    flag("stderr", Some(b'e')),
    value("log-file", Some(b'l')),
    value("log-size", None),
    value("runas", None),
    value("conf-path", Some(b'c')),
    flag("help", Some(b'h')),
    flag("version", None),
    value("pcap", Some(b'p')),
    value("pid", Some(b'P')),
    value("mtu", Some(b'm')),
    value("address", Some(b'a')),
    value("netmask", Some(b'n')),
    value("mac-addr", Some(b'M')),
    value("gateway", Some(b'g')),
    value("interface", Some(b'i')),
    value("outbound", Some(b'o')),
    value("outbound-if4", None),
    value("outbound-if6", None),
    value("dns", Some(b'D')),
    value("dns-forward", None),
    value("dns-host", None),
    value("search", Some(b'S')),
    flag("no-dhcp-dns", None),
    flag("dhcp-dns", None),
    flag("no-dhcp-search", None),
    flag("dhcp-search", None),
    flag("no-tcp", None),
    flag("no-udp", None),
    flag("no-icmp", None),
    flag("no-dhcp", None),
    flag("no-ndp", None),
    flag("no-dhcpv6", None),
    flag("no-ra", None),
    flag("freebind", None),
    value("map-host-loopback", None),
    flag("no-map-gw", None),
    value("map-guest-addr", None),
    flag("ipv4-only", Some(b'4')),
    flag("ipv6-only", Some(b'6')),
    value("hostname", Some(b'H')),
    value("fqdn", None),
    value("tcp-ports", Some(b't')),
    value("udp-ports", Some(b'u')),
    value("tcp-ns", Some(b'T')),
    value("udp-ns", Some(b'U')),
    value("ns-ifname", Some(b'I')),
    value("userns", None),
    value("netns", None),
    flag("netns-only", None),
    flag("no-netns-quit", None),
    flag("config-net", None),
    flag("no-copy-routes", None),
    flag("no-copy-addrs", None),
    value("ns-mac-addr", None),
    flag("host-lo-to-ns-lo", None),
    flag("no-splice", None),
    flag("splice-only", None),
    value("socket", Some(b's')),
    flag("vhost-user", None),
    flag("print-capabilities", None),
    value("fd", Some(b'F')),
    flag("one-off", Some(b'1')),
    value("repair-path", None),
    flag("migrate-exit", None),
    flag("migrate-no-linger", None),
    flag("chroot-fallback", None),
];

/// Options that are not honoured, and why.
const REFUSED: [(&str, &str); 18] = [
    ("stats", "read the counters of the running gateway with `tapnat stats --name pasta-PID`"),
    ("runas", "tapnat gives its rights up and keeps its user: start it as that user"),
    ("pcap", "capture in the namespace, e.g. with `nsenter -n -t PID tcpdump -w FILE`"),
    ("no-ndp", "without neighbour discovery nobody finds the gateway by IPv6; use --ipv4-only or --no-ra"),
    ("freebind", "name addresses that this host has"),
    ("hostname", "DHCP here gives no names to its clients; leave it out"),
    ("fqdn", "DHCP here gives no names to its clients; leave it out"),
    ("dns-host", "the resolver is the host's, of /etc/resolv.conf; leave it out"),
    ("splice-only", "there is always a TAP here; leave it out"),
    ("socket", PASST),
    ("vhost-user", PASST),
    ("print-capabilities", PASST),
    ("fd", PASST),
    ("one-off", PASST),
    ("repair-path", PASST),
    ("migrate-exit", PASST),
    ("migrate-no-linger", PASST),
    ("chroot-fallback", PASST),
];

const PASST: &str = "is for passt, which serves virtual machines; tapnat does so by `tapnat run --tap NAME`";

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Asked {
    /// To be the gateway.
    Run(Box<Options>),
    /// The usage.
    Help,
    /// The version.
    Version,
}

/// Whom to serve.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// The network namespace of a process.
    Pid(i32),
    /// The network namespace of a file, or of a name.
    Netns(PathBuf),
    /// A command in namespaces of its own; the user's shell if there are no words.
    Command(Vec<OsString>),
}

/// An address with the length of its prefix, if that was given.
pub type Given = (IpAddr, Option<u8>);

/// The port options, as written, in their order; none if nothing was said.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PortTexts {
    /// `-t`: TCP from the host to the namespace.
    pub tcp: Vec<String>,
    /// `-u`: UDP likewise.
    pub udp: Vec<String>,
    /// `-T`: TCP from the namespace's loopback to the host's.
    pub tcp_ns: Vec<String>,
    /// `-U`: UDP likewise.
    pub udp_ns: Vec<String>,
}

/// The options, each checked by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Whom to serve.
    pub target: Target,
    /// The user namespace to join.
    pub userns: Option<PathBuf>,
    /// Join no user namespace.
    pub netns_only: bool,
    /// End with the file that names the namespace.
    pub netns_quit: bool,
    /// Give the namespace addresses and routes.
    pub config_net: bool,
    /// All routes of the host's interface, not only its default route.
    pub copy_routes: bool,
    /// All addresses of the host's interface, not only the first of each family.
    pub copy_addresses: bool,
    /// IPv4 is spoken.
    pub four: bool,
    /// IPv6 is spoken.
    pub six: bool,
    /// Addresses of the namespace, one of a family.
    pub addresses: Vec<Given>,
    /// Length of the IPv4 prefix.
    pub netmask: Option<u8>,
    /// The gateways that the namespace sees, one of a family.
    pub gateways: Vec<IpAddr>,
    /// MTU, in bytes; `None` to leave it to the kernel.
    pub mtu: Option<u16>,
    /// The gateway's MAC.
    pub mac: Option<[u8; 6]>,
    /// The TAP's MAC.
    pub ns_mac: Option<[u8; 6]>,
    /// The host's interface that addresses and routes are taken from.
    pub interface: Option<String>,
    /// Interfaces to send by: of IPv4, of IPv6.
    pub outbound_interfaces: [Option<String>; 2],
    /// Addresses of the host to send from, one of a family.
    pub outbound: Vec<IpAddr>,
    /// The TAP's name; `None` for that of the host's interface.
    pub tap: Option<String>,
    /// DNS servers to tell; `None` for those of the host.
    pub dns: Option<Vec<IpAddr>>,
    /// Addresses at which DNS goes to the host's resolver.
    pub dns_forward: Vec<IpAddr>,
    /// Domains to tell; `None` for those of the host.
    pub search: Option<Vec<String>>,
    /// DHCP and advertisements tell of DNS servers.
    pub tells_dns: bool,
    /// DHCP tells of domains.
    pub tells_search: bool,
    /// Protocols that are served: TCP, UDP, ICMP.
    pub protocols: [bool; 3],
    /// Addresses are given by DHCP.
    pub dhcp: bool,
    /// Routers are advertised.
    pub advertise: bool,
    /// The gateway's address stands for the host's loopback where no other address does.
    pub map_gateway: bool,
    /// Addresses that stand for the host's loopback, one of a family.
    pub map_loopback: Vec<IpAddr>,
    /// Addresses that stand for the host's own, one of a family.
    pub map_guest: Vec<IpAddr>,
    /// Port forwards.
    pub ports: PortTexts,
    /// Forwards on the host's loopback come from the namespace's.
    pub lo_to_lo: bool,
    /// Nothing goes between the two loopbacks.
    pub no_splice: bool,
    /// The socket for changes of port forwards.
    pub control: Option<PathBuf>,
    /// Do not go to the background.
    pub foreground: bool,
    /// How much is logged.
    pub log: LogLevel,
    /// The file that the log is written to, in the place of standard error.
    pub log_file: Option<PathBuf>,
    /// How large that may be, in bytes.
    pub log_size: u64,
    /// Where the process number is written.
    pub pid: Option<PathBuf>,
}

/// Reads the command line, without the program's name.
///
/// # Errors
/// What is wrong first: of options that are not known in the words of C's library, which callers look for.
pub fn read(args: &[OsString]) -> Result<Asked, String> {
    let line = getopt::read(&OPTS, args, true).map_err(|misuse| misuse.to_string())?;
    let mut options = Options::default();
    let mut netns = None;
    for (name, text) in line.options {
        match name {
            "help" => return Ok(Asked::Help),
            "version" => return Ok(Asked::Version),
            "netns" => netns = Some(PathBuf::from(text)),
            _ => {
                if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
                    return Err(format!("--{name}: {why}"));
                }
                options.take_flag(name);
                options.take_value(name, &text)?;
            }
        }
    }
    options.target = target(netns, line.words)?;
    options.check()?;
    Ok(Asked::Run(Box::new(options)))
}

impl Default for Options {
    fn default() -> Self {
        Options {
            target: Target::Command(Vec::new()),
            userns: None,
            netns_only: false,
            netns_quit: true,
            config_net: false,
            copy_routes: true,
            copy_addresses: true,
            four: true,
            six: true,
            addresses: Vec::new(),
            netmask: None,
            gateways: Vec::new(),
            mtu: Some(MTU),
            mac: None,
            ns_mac: None,
            interface: None,
            outbound_interfaces: [None, None],
            outbound: Vec::new(),
            tap: None,
            dns: None,
            dns_forward: Vec::new(),
            search: None,
            tells_dns: false,
            tells_search: false,
            protocols: [true; 3],
            dhcp: true,
            advertise: true,
            map_gateway: true,
            map_loopback: Vec::new(),
            map_guest: Vec::new(),
            ports: PortTexts::default(),
            lo_to_lo: false,
            no_splice: false,
            control: None,
            foreground: false,
            log: LogLevel::Info,
            log_file: None,
            log_size: LOG_SIZE,
            pid: None,
        }
    }
}

impl Options {
    fn take_flag(&mut self, name: &str) {
        match name {
            "debug" if self.log != LogLevel::Trace => self.log = LogLevel::Debug,
            "trace" => self.log = LogLevel::Trace,
            "quiet" => self.log = LogLevel::Warn,
            "foreground" => self.foreground = true,
            "dhcp-dns" => self.tells_dns = true,
            "no-dhcp-dns" => self.tells_dns = false,
            "dhcp-search" => self.tells_search = true,
            "no-dhcp-search" => self.tells_search = false,
            "no-tcp" => self.protocols[0] = false,
            "no-udp" => self.protocols[1] = false,
            "no-icmp" => self.protocols[2] = false,
            "no-dhcp" => self.dhcp = false,
            "no-ra" => self.advertise = false,
            "no-map-gw" => self.map_gateway = false,
            "ipv4-only" => self.six = false,
            "ipv6-only" => self.four = false,
            "netns-only" => self.netns_only = true,
            "no-netns-quit" => self.netns_quit = false,
            "config-net" => self.config_net = true,
            "no-copy-routes" => self.copy_routes = false,
            "no-copy-addrs" => self.copy_addresses = false,
            "host-lo-to-ns-lo" => self.lo_to_lo = true,
            "no-splice" => self.no_splice = true,
            // Standard error is written to until going to the background, and there is no DHCPv6.
            _ => {}
        }
    }

    fn take_value(&mut self, name: &'static str, text: &OsStr) -> Result<(), String> {
        let shown = text.to_string_lossy();
        let wrong = |what: &str| format!("--{name} {shown}: is no {what}");
        let ip = || shown.parse::<IpAddr>().map_err(|_| wrong("address"));
        match name {
            "mtu" => self.mtu = mtu(text).map_err(|what| wrong(&what))?,
            "address" => one_each(&mut self.addresses, address(&shown).ok_or_else(|| wrong("address"))?),
            "netmask" => self.netmask = Some(netmask(&shown).ok_or_else(|| wrong("netmask"))?),
            "mac-addr" => self.mac = Some(mac(&shown).ok_or_else(|| wrong("MAC address of a host"))?),
            "ns-mac-addr" => self.ns_mac = Some(mac(&shown).ok_or_else(|| wrong("MAC address of a host"))?),
            "gateway" => one_each(&mut self.gateways, ip()?),
            "outbound" => one_each(&mut self.outbound, ip()?),
            "interface" => self.interface = Some(interface(&shown).ok_or_else(|| wrong("interface name"))?),
            "outbound-if4" | "outbound-if6" => {
                let found = interface(&shown).ok_or_else(|| wrong("interface name"))?;
                self.outbound_interfaces[usize::from(name == "outbound-if6")] = Some(found);
            }
            "ns-ifname" => self.tap = Some(interface(&shown).ok_or_else(|| wrong("interface name"))?),
            "dns" if shown == "none" => self.dns = Some(Vec::new()),
            "dns" => self.dns.get_or_insert_default().push(ip()?),
            "dns-forward" => one_each(&mut self.dns_forward, ip()?),
            "search" if shown == "none" => self.search = Some(Vec::new()),
            "search" => {
                let domains = shown.split_whitespace().map(str::to_owned);
                self.search.get_or_insert_default().extend(domains);
            }
            "map-host-loopback" if shown == "none" => {
                self.map_gateway = false;
                self.map_loopback.clear();
            }
            "map-host-loopback" => one_each(&mut self.map_loopback, ip()?),
            "map-guest-addr" if shown == "none" => self.map_guest.clear(),
            "map-guest-addr" => one_each(&mut self.map_guest, ip()?),
            "tcp-ports" => self.ports.tcp.push(shown.into_owned()),
            "udp-ports" => self.ports.udp.push(shown.into_owned()),
            "tcp-ns" => self.ports.tcp_ns.push(shown.into_owned()),
            "udp-ns" => self.ports.udp_ns.push(shown.into_owned()),
            "userns" => self.userns = Some(PathBuf::from(text)),
            "conf-path" => self.control = Some(PathBuf::from(text)),
            "pid" => self.pid = Some(PathBuf::from(text)),
            "log-file" => self.log_file = Some(PathBuf::from(text)),
            "log-size" => self.log_size = log_size(text).ok_or_else(|| wrong("size (1024 bytes or more)"))?,
            _ => {}
        }
        Ok(())
    }

    /// What only shows when all has been read.
    fn check(&self) -> Result<(), String> {
        if !self.four && !self.six {
            return Err("--ipv4-only and --ipv6-only exclude each other".into());
        }
        let named = matches!(self.target, Target::Netns(_));
        if self.netns_only && self.userns.is_some() {
            return Err("--userns and --netns-only exclude each other".into());
        }
        if matches!(self.target, Target::Command(_)) && self.userns.is_some() {
            return Err("--userns needs --netns or PID".into());
        }
        if !self.netns_quit && !named {
            return Err("--no-netns-quit is for --netns".into());
        }
        Ok(())
    }

    /// Whether a family is spoken.
    pub fn speaks(&self, like: IpAddr) -> bool {
        if like.is_ipv4() { self.four } else { self.six }
    }
}

/// Takes the place of an earlier value of the same family.
fn one_each<T: Of>(all: &mut Vec<T>, one: T) {
    all.retain(|other| other.ip().is_ipv4() != one.ip().is_ipv4());
    all.push(one);
}

/// What is about an address.
trait Of {
    fn ip(&self) -> IpAddr;
}

impl Of for IpAddr {
    fn ip(&self) -> IpAddr {
        *self
    }
}

impl Of for Given {
    fn ip(&self) -> IpAddr {
        self.0
    }
}

/// Whom the words behind the options mean.
fn target(netns: Option<PathBuf>, words: Vec<OsString>) -> Result<Target, String> {
    let number = match words.as_slice() {
        [one] if !one.is_empty() && one.as_bytes().iter().all(u8::is_ascii_digit) => Some(strtol(one)),
        _ => None,
    };
    match (netns, number) {
        (Some(_), _) if !words.is_empty() => Err("--netns and PID or COMMAND exclude each other".into()),
        (Some(path), _) => Ok(Target::Netns(path)),
        (None, Some(number)) => match i32::try_from(number) {
            Ok(pid) if pid > 0 => Ok(Target::Pid(pid)),
            _ => Err(format!("{number}: is no process")),
        },
        (None, None) => Ok(Target::Command(words)),
    }
}

fn mtu(text: &OsStr) -> Result<Option<u16>, String> {
    let digits = !text.is_empty() && text.as_bytes().iter().all(u8::is_ascii_digit);
    match (digits, strtol(text)) {
        (true, 0) => Ok(None),
        (true, number @ 68..=65521) => Ok(u16::try_from(number).ok()),
        _ => Err("MTU (68 to 65521, or 0 for none)".into()),
    }
}

fn log_size(text: &OsStr) -> Option<u64> {
    let digits = text.as_bytes().iter().all(u8::is_ascii_digit);
    u64::try_from(strtol(text)).ok().filter(|size| digits && *size >= 1024)
}

fn address(text: &str) -> Option<Given> {
    let (ip, prefix) = match text.split_once('/') {
        Some((ip, prefix)) => (ip, Some(prefix.parse::<u8>().ok()?)),
        None => (text, None),
    };
    let ip: IpAddr = ip.parse().ok()?;
    let most = if ip.is_ipv4() { 32 } else { 128 };
    prefix.is_none_or(|prefix| (1..=most).contains(&prefix)).then_some((ip, prefix))
}

/// A netmask in bits or with dots.
fn netmask(text: &str) -> Option<u8> {
    if let Ok(bits) = text.parse::<u8>() {
        return (1..=32).contains(&bits).then_some(bits);
    }
    let mask = text.parse::<Ipv4Addr>().ok()?.to_bits();
    let bits = mask.leading_ones();
    (mask.trailing_zeros() + bits == 32 && bits > 0).then_some(bits as u8)
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes = text
        .split([':', '-'])
        .map(|piece| if (1..=2).contains(&piece.len()) { u8::from_str_radix(piece, 16).ok() } else { None });
    let bytes: Option<Vec<u8>> = bytes.collect();
    let mac = <[u8; 6]>::try_from(bytes?).ok()?;
    (mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

fn interface(text: &str) -> Option<String> {
    let odd = |byte: u8| !byte.is_ascii_graphic() || b"/:%".contains(&byte);
    let bad = text.is_empty() || text.len() > 15 || text == "." || text == ".." || text.bytes().any(odd);
    (!bad).then(|| text.to_owned())
}

/// The usage.
pub const USAGE: &str = "\
Usage: pasta [OPTION]... [COMMAND] [ARGS]...
       pasta [OPTION]... PID
       pasta [OPTION]... --netns [PATH|NAME]
tapnat in the place of pasta: a gateway for network namespaces, without privileges. Without PID or --netns it
runs the command, or a shell, in namespaces of its own.

  -d, --debug, --trace     log more
  -q, --quiet              log warnings only
  -f, --foreground         do not go to the background
  -e, --stderr             accepted: the log is on standard error, until going to the background
  -l, --log-file PATH, --log-size BYTES
                           log there instead, also in the background (default: 1 MiB at most)
  -h, --help, --version    show this help, or the version, and exit
  -P, --pid FILE           write the process number there
  --config-net             give the namespace the host's addresses and routes
  --no-copy-routes         of the routes only the default one
  --no-copy-addrs          of the addresses only the first one of each family
  -a, --address ADDR[/LEN] another address; once for each family
  -n, --netmask MASK       IPv4 netmask, in bits or with dots
  -g, --gateway ADDR       another gateway; once for each family
  -m, --mtu MTU            MTU (default: 65520; 0: that of the kernel)
  -M, --mac-addr MAC       the gateway's MAC
  --ns-mac-addr MAC        the MAC in the namespace
  -I, --ns-ifname NAME     name of the interface there (default: that of the host's)
  -i, --interface NAME     take addresses and routes from this interface of the host
  -o, --outbound ADDR      send from this address
  --outbound-if4 NAME, --outbound-if6 NAME
                           as -i for one family, and send from that interface's address
  -4, --ipv4-only, -6, --ipv6-only
  --no-tcp, --no-udp, --no-icmp, --no-dhcp, --no-dhcpv6, --no-ra
  -D, --dns ADDR|none      DNS server to tell; can be repeated
  --dns-forward ADDR       forward DNS from this address to the host's resolver; once for each family
  -S, --search LIST|none   domains to tell
  --dhcp-dns, --dhcp-search, --no-dhcp-dns, --no-dhcp-search
                           whether DHCP tells of servers and domains (default: no)
  --map-host-loopback ADDR|none
                           this address is the host's loopback (default: the gateway's)
  --no-map-gw              the gateway's address is not the host's loopback
  --map-guest-addr ADDR|none
                           this address is the host's own, which the namespace has too
  -t, --tcp-ports SPEC, -u, --udp-ports SPEC
                           forward ports of the host: none, auto, all, or
                           [ADDR/]PORT[-PORT][:PORT[-PORT]],...,~PORT[-PORT]
  -T, --tcp-ns SPEC, -U, --udp-ns SPEC
                           forward ports of the namespace's loopback to the host's
  --host-lo-to-ns-lo       the host's loopback leads to the namespace's loopback
  --no-splice              nothing between the two loopbacks
  -c, --conf-path PATH     socket for changes of port forwards
  --netns PATH|NAME        serve this network namespace
  --userns PATH            join this user namespace first
  --netns-only             join no user namespace; with a command: make none
  --no-netns-quit          do not end with the file that names the namespace
";

#[cfg(test)]
mod tests {
    use super::*;

    fn said(args: &str) -> Result<Asked, String> {
        read(&args.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    fn run(args: &str) -> Options {
        match said(args) {
            Ok(Asked::Run(options)) => *options,
            other => panic!("{args}: {other:?}"),
        }
    }

    #[test]
    fn what_podman_and_rootlesskit_say() {
        let options = run(
            "--config-net -t 8080-8080:80-80 -t 127.0.0.1/90-91:90-91 --dns-forward 169.254.1.1 -u none -T none -U none \
             --no-map-gw --quiet --netns /run/user/1000/netns/netns-1 --map-guest-addr 169.254.1.2",
        );
        assert_eq!(options.target, Target::Netns("/run/user/1000/netns/netns-1".into()));
        assert!(options.config_net && !options.map_gateway && !options.foreground);
        assert_eq!(options.ports.tcp, ["8080-8080:80-80", "127.0.0.1/90-91:90-91"]);
        assert_eq!((options.ports.udp.len(), options.mtu), (1, Some(MTU)));
        assert_eq!(options.map_guest, [IpAddr::from([169, 254, 1, 2])]);
        let options = run(
            "--stderr --ns-ifname=tap0 --mtu=1500 --config-net --address=10.0.2.100 --netmask=24 \
             --gateway=10.0.2.2 --dns-forward=10.0.2.3 --no-map-gw --ipv4-only --tcp-ports=auto --udp-ports=auto \
             --host-lo-to-ns-lo 4711",
        );
        assert_eq!((options.target.clone(), options.netmask), (Target::Pid(4711), Some(24)));
        assert_eq!(options.addresses, [(IpAddr::from([10, 0, 2, 100]), None)]);
        assert!(options.lo_to_lo && !options.six && options.tap.as_deref() == Some("tap0"));
        let detached = run("--userns=/proc/7/ns/user --netns=/s/netns --config-net");
        assert_eq!(detached.userns, Some("/proc/7/ns/user".into()));
    }

    #[test]
    fn a_number_is_a_process_and_a_word_a_command() {
        assert_eq!(run("42").target, Target::Pid(42));
        assert_eq!(
            run("-q -- sh -c -q").target,
            Target::Command(vec!["sh".into(), "-c".into(), "-q".into()])
        );
        assert_eq!(run("ip -q addr").target, Target::Command(vec!["ip".into(), "-q".into(), "addr".into()]));
        assert_eq!(run("").target, Target::Command(Vec::new()));
        assert_eq!(run("--netns blue").target, Target::Netns("blue".into()));
    }

    #[test]
    fn questions_are_answered_and_help_names_every_option_that_is_honoured() {
        assert_eq!(said("--version"), Ok(Asked::Version));
        assert_eq!(said("--host-lo-to-ns-lo --version"), Ok(Asked::Version));
        assert_eq!(said("-h"), Ok(Asked::Help));
        let refused = |name: &str| REFUSED.iter().any(|(refused, _)| *refused == name);
        for option in OPTS.iter().filter(|option| !refused(option.long)) {
            assert!(USAGE.contains(&format!("--{}", option.long)), "{}", option.long);
        }
        for (name, _) in REFUSED {
            let option = OPTS.iter().find(|option| option.long == name).unwrap();
            let value = if option.value { "=x" } else { "" };
            assert!(said(&format!("--{name}{value} 42")).unwrap_err().starts_with(&format!("--{name}: ")));
        }
    }

    #[test]
    fn values_are_read() {
        let options = run(
            "-a 192.0.2.2 -a 2001:db8::2/64 -a 192.0.2.3 -n 255.255.255.0 -m 0 -M 2:0:0:0:0:1 -D none 42",
        );
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(options.addresses, [(ip("2001:db8::2"), Some(64)), (ip("192.0.2.3"), None)]);
        assert_eq!((options.netmask, options.mtu), (Some(24), None));
        assert_eq!((options.mac, options.dns), (Some([2, 0, 0, 0, 0, 1]), Some(Vec::new())));
        let options =
            run("-D 192.0.2.53 -D 192.0.2.54 -S example.org --map-host-loopback none --outbound-if6 eth1 42");
        assert_eq!(options.dns.map(|dns| dns.len()), Some(2));
        assert_eq!(options.outbound_interfaces, [None, Some("eth1".to_owned())]);
        assert!(!options.map_gateway);
        assert_eq!(run("-d --trace 42").log, LogLevel::Trace);
        assert_eq!(run("--map-host-loopback 192.0.2.9 42").map_loopback, [ip("192.0.2.9")]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (args, why) in [
            ("--xyz", "unrecognized option '--xyz'"),
            ("--map-guest-address x", "unrecognized option '--map-guest-address'"),
            ("-Z", "invalid option -- 'Z'"),
            ("--netns", "option '--netns' requires an argument"),
            ("-4 -6 42", "--ipv4-only and --ipv6-only exclude each other"),
            ("--netns a 42", "--netns and PID or COMMAND exclude each other"),
            ("--netns-only --userns /u --netns a", "--userns and --netns-only exclude each other"),
            ("--userns /u sh", "--userns needs --netns or PID"),
            ("--no-netns-quit 42", "--no-netns-quit is for --netns"),
            ("-a nowhere 42", "--address nowhere: is no address"),
            ("-n 255.0.255.0 42", "--netmask 255.0.255.0: is no netmask"),
            ("-m 70000 42", "--mtu 70000: is no MTU (68 to 65521, or 0 for none)"),
            ("-M 01:00:00:00:00:00 42", "--mac-addr 01:00:00:00:00:00: is no MAC address of a host"),
            ("--log-size 10 42", "--log-size 10: is no size (1024 bytes or more)"),
            ("-I a/b 42", "--ns-ifname a/b: is no interface name"),
            ("0", "0: is no process"),
            (
                "--repair-path /x 42",
                "--repair-path: is for passt, which serves virtual machines; tapnat does so by `tapnat run --tap NAME`",
            ),
        ] {
            assert_eq!(said(args), Err(why.to_owned()), "{args}");
        }
    }
}
