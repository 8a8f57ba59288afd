//! The command line of `slirp4netns`, as plain data.

use super::getopt::{self, Opt, flag, strtol, value};
use ipnet::Ipv4Net;
use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The IPv6 prefix inside, with the gateway's address in it.
pub const SIX: &str = "fd00::2/64";
/// Where DNS is answered by IPv6.
pub const SIX_DNS: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3);
/// The address of who is configured by IPv6.
pub const SIX_GUEST: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x64);

/// What a Unix socket's address has room for.
const SUN_PATH: usize = 108;

const OPTS: [Opt; 21] = [
    flag("configure", Some(b'c')),
    value("exit-fd", Some(b'e')),
    value("ready-fd", Some(b'r')),
    value("mtu", Some(b'm')),
    value("cidr", None),
    flag("disable-host-loopback", None),
    flag("no-host-loopback", None),
    value("netns-type", None),
    value("userns-path", None),
    value("api-socket", Some(b'a')),
    flag("enable-ipv6", Some(b'6')),
    flag("enable-sandbox", None),
    flag("create-sandbox", None),
    flag("enable-seccomp", None),
    flag("help", Some(b'h')),
    flag("version", Some(b'v')),
    value("outbound-addr", None),
    value("outbound-addr6", None),
    flag("disable-dns", None),
    value("macaddress", None),
    value("target-type", None),
];

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

/// Why a command line is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// A line for standard error; none if nothing was said at all.
    pub why: String,
    /// Whether the usage follows, on standard output.
    pub usage: bool,
}

/// Whom to serve.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// The network namespace of a process.
    Pid(i32),
    /// The network namespace of a file.
    Path(PathBuf),
    /// The TAP behind an inherited descriptor.
    TapFd(i32),
}

/// Where packets are sent from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outbound {
    /// An address.
    Address(IpAddr),
    /// The address of an interface.
    Interface(String),
}

/// The options, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Whom to serve.
    pub target: Target,
    /// The TAP's name; `None` for a descriptor's own.
    pub tap: Option<String>,
    /// Give it its addresses and routes.
    pub configure: bool,
    /// End when something happens to this descriptor.
    pub exit_fd: Option<i32>,
    /// Write a byte here when packets can flow.
    pub ready_fd: Option<i32>,
    /// MTU, in bytes.
    pub mtu: u16,
    /// Speak IPv6.
    pub six: bool,
    /// The socket for port forwards.
    pub api_socket: Option<PathBuf>,
    /// The network inside.
    pub cidr: Ipv4Net,
    /// Whether the gateway's address is the host's loopback.
    pub host_loopback: bool,
    /// The user namespace to join.
    pub userns: Option<PathBuf>,
    /// Where IPv4 packets are sent from.
    pub outbound: Option<Outbound>,
    /// Where IPv6 packets are sent from.
    pub outbound6: Option<Outbound>,
    /// Whether DNS is answered.
    pub dns: bool,
    /// The TAP's MAC.
    pub mac: Option<[u8; 6]>,
    /// What is odd but harmless.
    pub warnings: Vec<String>,
}

impl Options {
    /// The address so far into the network.
    pub fn address(&self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.cidr.network().to_bits().saturating_add(offset))
    }

    /// The gateway's.
    pub fn gateway(&self) -> Ipv4Addr {
        self.address(2)
    }

    /// Who is inside.
    pub fn guest(&self) -> Ipv4Addr {
        self.address(100)
    }
}

fn refused(why: impl Into<String>) -> Refused {
    Refused { why: why.into(), usage: false }
}

fn misused(why: impl Into<String>) -> Refused {
    Refused { why: why.into(), usage: true }
}

/// What options say, before it is known to fit together.
#[derive(Default)]
struct Raw {
    configure: bool,
    exit_fd: Option<i32>,
    ready_fd: Option<i32>,
    mtu: Option<i64>,
    six: bool,
    api_socket: Option<PathBuf>,
    cidr: Option<OsString>,
    no_host_loopback: bool,
    netns_type: Option<OsString>,
    userns: Option<PathBuf>,
    outbound: Option<OsString>,
    outbound6: Option<OsString>,
    no_dns: bool,
    mac: Option<OsString>,
    target_type: Option<OsString>,
    warnings: Vec<String>,
}

/// Reads the command line, without the program's name.
///
/// # Errors
/// What is wrong first, in the original's words where it has some.
pub fn read(args: &[OsString]) -> Result<Asked, Refused> {
    let line =
        getopt::read(&OPTS, args, false).map_err(|misuse| misused(format!("slirp4netns: {misuse}")))?;
    let mut raw = Raw::default();
    for (name, text) in line.options {
        match name {
            "configure" => raw.configure = true,
            "exit-fd" => raw.exit_fd = Some(descriptor("exit-fd", &text)?),
            "ready-fd" => raw.ready_fd = Some(descriptor("ready-fd", &text)?),
            "mtu" => raw.mtu = Some(strtol(&text)),
            "cidr" => raw.cidr = Some(text),
            "disable-host-loopback" => raw.no_host_loopback = true,
            "no-host-loopback" => {
                raw.warnings.push("--no-host-loopback is deprecated, use --disable-host-loopback".to_owned());
                raw.no_host_loopback = true;
            }
            "netns-type" => raw.netns_type = Some(text),
            "userns-path" => raw.userns = Some(PathBuf::from(text)),
            "api-socket" => raw.api_socket = Some(PathBuf::from(text)),
            "enable-ipv6" => raw.six = true,
            "create-sandbox" => {
                raw.warnings.push("--create-sandbox is deprecated, use --enable-sandbox".to_owned());
            }
            "help" => return Ok(Asked::Help),
            "version" => return Ok(Asked::Version),
            "outbound-addr" => raw.outbound = Some(text),
            "outbound-addr6" => raw.outbound6 = Some(text),
            "disable-dns" => raw.no_dns = true,
            "macaddress" => raw.mac = Some(text),
            "target-type" => raw.target_type = Some(text),
            // The gateway gives up what it does not need, and is confined, whether it is asked to or not.
            _ => {}
        }
    }
    check(raw, &line.words).map(|options| Asked::Run(Box::new(options)))
}

fn check(raw: Raw, words: &[OsString]) -> Result<Options, Refused> {
    let mtu = raw.mtu.unwrap_or(1500);
    let mtu = u16::try_from(mtu).ok().filter(|mtu| (1..=65521).contains(mtu));
    let mtu = mtu.ok_or_else(|| refused("MTU must be a positive integer (< 65522)"))?;
    if mtu < 68 {
        return Err(refused("MTU must be 68 or more: no IPv4 link has less (RFC 791)"));
    }
    target_type(&raw)?;
    let (first, mut warnings) = (words.first(), raw.warnings);
    let tapfd = raw.netns_type.as_deref() == Some(OsStr::new("tapfd"));
    let (Some(first), true) = (first, words.len() > 1 || tapfd) else {
        return Err(misused(""));
    };
    let target = target(raw.netns_type.as_deref(), first)?;
    if words.len() > 2 {
        let odd: Vec<_> = words[2..].iter().map(|word| word.to_string_lossy()).collect();
        warnings.push(format!("extra arguments are not used: {}", odd.join(" ")));
    }
    let cidr = raw.cidr.as_deref().map_or(Ok(default_cidr()), cidr)?;
    if raw.mac.is_some() && !raw.configure {
        return Err(refused("--macaddr cannot be specified when --configure or -c is not specified"));
    }
    let mac = raw.mac.as_deref().map(mac).transpose()?;
    if let Some(path) = &raw.api_socket
        && path.as_os_str().len() >= SUN_PATH
    {
        return Err(refused(format!("the path of the API socket must be shorter than {SUN_PATH} bytes")));
    }
    let outbound = |text: Option<OsString>, six| text.map(|text| outbound(&text, six)).transpose();
    Ok(Options {
        target,
        tap: words.get(1).map(|word| word.to_string_lossy().into_owned()),
        configure: raw.configure,
        exit_fd: raw.exit_fd,
        ready_fd: raw.ready_fd,
        mtu,
        six: raw.six,
        api_socket: raw.api_socket,
        cidr,
        host_loopback: !raw.no_host_loopback,
        userns: raw.userns,
        outbound: outbound(raw.outbound, false)?,
        outbound6: outbound(raw.outbound6, true)?,
        dns: !raw.no_dns,
        mac,
        warnings,
    })
}

fn descriptor(name: &str, text: &OsStr) -> Result<i32, Refused> {
    let digits = !text.is_empty() && text.as_bytes().iter().all(u8::is_ascii_digit);
    let number = i32::try_from(strtol(text)).ok().filter(|_| digits);
    number.ok_or_else(|| misused(format!("{name} must be a non-negative integer")))
}

fn target_type(raw: &Raw) -> Result<(), Refused> {
    match raw.target_type.as_deref().map(OsStr::as_bytes) {
        None | Some(b"netns") => Ok(()),
        Some(b"bess") => Err(refused(
            "--target-type=bess: frames come from a TAP here, not from a socket; give a network namespace",
        )),
        Some(_) => Err(misused("--target-type must be either \"netns\" or \"bess\"")),
    }
}

fn target(kind: Option<&OsStr>, first: &OsStr) -> Result<Target, Refused> {
    let number = |least: i32, why: &str| {
        let digits = first.as_bytes().iter().all(u8::is_ascii_digit);
        let number = i32::try_from(strtol(first)).ok().filter(|number| digits && *number >= least);
        number.ok_or_else(|| misused(why))
    };
    match kind.map(OsStr::as_bytes) {
        None | Some(b"pid") => number(1, "PID must be a positive integer").map(Target::Pid),
        Some(b"path") => Ok(Target::Path(PathBuf::from(first))),
        Some(b"tapfd") => number(0, "FD must be a non-negative integer").map(Target::TapFd),
        Some(_) => Err(misused("--netns-type must be \"path\", \"pid\" or \"tapfd\"")),
    }
}

fn default_cidr() -> Ipv4Net {
    Ipv4Net::new(Ipv4Addr::new(10, 0, 2, 0), 24).unwrap_or_default()
}

fn cidr(text: &OsStr) -> Result<Ipv4Net, Refused> {
    let text = text.to_string_lossy();
    let invalid = || refused(format!("invalid CIDR: {text}"));
    let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
    let address: Ipv4Addr = address.parse().map_err(|_| invalid())?;
    let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
    let prefix = prefix.parse::<u8>().ok().filter(|prefix| digits && (1..=25).contains(prefix));
    let prefix = prefix.ok_or_else(|| refused("prefix length needs to be 1-25"))?;
    let net = Ipv4Net::new(address, prefix).map_err(|_| invalid())?;
    if net.network() != address {
        return Err(refused("CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24"));
    }
    Ok(net)
}

fn mac(text: &OsStr) -> Result<[u8; 6], Refused> {
    let text = text.to_string_lossy();
    let mut mac = [0; 6];
    let mut pieces = text.split(':');
    for byte in &mut mac {
        let piece = pieces.next().filter(|piece| (1..=2).contains(&piece.len()));
        *byte = piece
            .and_then(|piece| u8::from_str_radix(piece, 16).ok())
            .ok_or_else(|| refused(format!("invalid MAC address: {text}")))?;
    }
    if pieces.next().is_some() || mac[0] & 1 == 1 || mac == [0; 6] {
        return Err(refused(format!("invalid MAC address: {text}")));
    }
    Ok(mac)
}

/// An address, or else the name of an interface.
fn outbound(text: &OsStr, six: bool) -> Result<Outbound, Refused> {
    let text = text.to_string_lossy();
    let (option, family) = if six { ("outbound-addr6", "ipv6") } else { ("outbound-addr", "ipv4") };
    match text.parse::<IpAddr>() {
        Ok(address) if address.is_ipv6() == six => Ok(Outbound::Address(address)),
        Ok(_) => Err(refused(format!("{option} has to be valid {family} address or interface name."))),
        Err(_) if text.is_empty() || text.len() > 15 || text.contains(['/', ' ']) => {
            Err(refused(format!("{option} has to be valid {family} address or interface name.")))
        }
        Err(_) => Ok(Outbound::Interface(text.into_owned())),
    }
}

/// The usage. Callers look for the names of options in it.
pub const USAGE: &str = "\
Usage: slirp4netns [OPTION]... PID|PATH|FD [TAPNAME]
tapnat in the place of slirp4netns: a gateway for network namespaces, without privileges.

-c, --configure          bring up the interface
-e, --exit-fd=FD         specify the FD for terminating slirp4netns
-r, --ready-fd=FD        specify the FD to write to when the network is configured
-m, --mtu=MTU            specify MTU (default=1500, max=65521)
-6, --enable-ipv6        enable IPv6
-a, --api-socket=PATH    specify API socket path
--cidr=CIDR              specify network address CIDR (default=10.0.2.0/24)
--disable-host-loopback  prohibit connecting to 127.0.0.1:* on the host namespace
--netns-type=TYPE        specify network namespace type ([path|pid|tapfd], default=pid)
--userns-path=PATH       specify user namespace path
--enable-sandbox         accepted: tapnat always gives up the rights that it does not need
--enable-seccomp         accepted: tapnat always limits its system calls
--outbound-addr=IPv4     send from this address, or from that of this interface
--outbound-addr6=IPv6    send from this address, or from that of this interface
--disable-dns            no DNS at the third address (10.0.2.3)
--macaddress=MAC         specify the MAC address of the TAP (only valid with -c)
--target-type=TYPE       netns; bess is refused
-h, --help               show this help and exit
-v, --version            show version and exit
";

#[cfg(test)]
mod tests {
    use super::*;

    fn said(args: &str) -> Result<Asked, Refused> {
        read(&args.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    fn run(args: &str) -> Options {
        match said(args).unwrap() {
            Asked::Run(options) => *options,
            other => panic!("{args}: {other:?}"),
        }
    }

    #[test]
    fn what_podman_and_rootlesskit_say() {
        let options = run(
            "--disable-host-loopback --mtu=65520 --enable-sandbox --enable-seccomp --enable-ipv6 -c -e 3 -r 4 \
             --netns-type=path /run/user/1000/netns/netns-1 tap0",
        );
        assert_eq!(options.target, Target::Path("/run/user/1000/netns/netns-1".into()));
        assert_eq!((options.exit_fd, options.ready_fd, options.mtu), (Some(3), Some(4), 65520));
        assert!(options.configure && options.six && !options.host_loopback && options.dns);
        assert_eq!((options.gateway(), options.guest()), ([10, 0, 2, 2].into(), [10, 0, 2, 100].into()));
        let options = run(
            "--mtu 65520 -r 3 --disable-host-loopback --cidr 10.9.0.0/16 --api-socket /s/.s4nn.sock --enable-sandbox 42 tap0",
        );
        assert_eq!((options.target.clone(), options.configure), (Target::Pid(42), false));
        assert_eq!(options.api_socket, Some("/s/.s4nn.sock".into()));
        assert_eq!(options.guest(), Ipv4Addr::new(10, 9, 0, 100));
        let options = run("-c42 7 --netns-type=tapfd 9".trim_start_matches("-c42 7 "));
        assert_eq!((options.target, options.tap), (Target::TapFd(9), None));
        assert_eq!(run("-6cr3 42 tap0 and more").warnings.len(), 1);
    }

    #[test]
    fn questions_are_answered_before_anything_else_is_checked() {
        assert_eq!(said("--mtu=0 --help"), Ok(Asked::Help));
        assert_eq!(said("-v"), Ok(Asked::Version));
        for option in ["--disable-host-loopback", "--mtu", "--enable-sandbox", "--enable-seccomp", "--cidr"] {
            assert!(USAGE.contains(option));
        }
        for option in OPTS.iter().filter(|opt| !["no-host-loopback", "create-sandbox"].contains(&opt.long)) {
            assert!(USAGE.contains(&format!("--{}", option.long)), "{}", option.long);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (args, why, usage) in [
            ("", "", true),
            ("42", "", true),
            ("--bogus", "slirp4netns: unrecognized option '--bogus'", true),
            ("--mtu=0 42 tap0", "MTU must be a positive integer (< 65522)", false),
            ("--mtu=65522 42 tap0", "MTU must be a positive integer (< 65522)", false),
            ("--mtu=abc 42 tap0", "MTU must be a positive integer (< 65522)", false),
            ("--mtu=67 42 tap0", "MTU must be 68 or more: no IPv4 link has less (RFC 791)", false),
            ("-e x 42 tap0", "exit-fd must be a non-negative integer", true),
            ("-r -1 42 tap0", "ready-fd must be a non-negative integer", true),
            ("--cidr=foo 42 tap0", "invalid CIDR: foo", false),
            ("--cidr=10.0.2.0/26 42 tap0", "prefix length needs to be 1-25", false),
            (
                "--cidr=10.0.2.1/24 42 tap0",
                "CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24",
                false,
            ),
            (
                "--macaddress=02:00:00:00:00:01 42 tap0",
                "--macaddr cannot be specified when --configure or -c is not specified",
                false,
            ),
            ("-c --macaddress=01:00:00:00:00:01 42 tap0", "invalid MAC address: 01:00:00:00:00:01", false),
            ("--netns-type=pod 42 tap0", "--netns-type must be \"path\", \"pid\" or \"tapfd\"", true),
            (
                "--outbound-addr=::1 42 tap0",
                "outbound-addr has to be valid ipv4 address or interface name.",
                false,
            ),
            ("zero tap0", "PID must be a positive integer", true),
            ("0 tap0", "PID must be a positive integer", true),
        ] {
            assert_eq!(said(args), Err(Refused { why: why.to_owned(), usage }), "{args}");
        }
        assert!(said("--target-type=bess /s").unwrap_err().why.contains("not from a socket"));
        let long = format!("--api-socket=/{} 42 tap0", "x".repeat(107));
        assert!(said(&long).unwrap_err().why.contains("108"));
        assert!(said(&long.replacen("xx", "x", 1)).is_ok());
    }
}
