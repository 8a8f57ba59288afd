//! The checks themselves: each tries one thing and knows the cure for the ways it fails.

use super::Check;
use crate::io::guard::raise_descriptor_limit;
use crate::io::guard::tcx::Tcx;
use crate::io::protect::places;
use crate::io::sys::netns::enter_private;
use crate::io::sys::seccomp::is_known;
use crate::io::tap::Tap;
use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};
use socket2::{Domain, Protocol, Socket, Type};
use std::fs::{self, OpenOptions};
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

/// Held ports take a descriptor each.
const DESCRIPTORS: u64 = 65_536;

/// The number of the loopback interface, in every network namespace.
const LOOPBACK: u32 = 1;

/// An address of the documentation (RFC 5737).
const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Everything, in the order of the table.
pub fn all() -> Vec<Check> {
    let mut found = vec![tun_device()];
    found.extend(effective_capabilities());
    found.push(packet_socket());
    found.push(raw_socket());
    found.push(raw_helper());
    found.push(ping_socket());
    found.push(tcx());
    found.extend(ask_child());
    found.push(unprivileged_ports());
    found.push(ephemeral_ports());
    found.push(descriptors());
    found.push(landlock());
    found.push(seccomp());
    found.push(forwarding());
    found
}

/// What the child finds out, in namespaces of its own. It must have one thread only.
pub fn in_namespaces() -> Vec<Check> {
    let mut found = Vec::new();
    match enter_private(true) {
        Ok(()) => found.push(Check::yes("user-namespaces", "can be made, with network and mounts")),
        Err(error) => {
            found.push(Check::no("user-namespaces", error.to_string(), namespace_cure()));
            found.push(Check::no(
                "tap-in-namespace",
                "there are no namespaces to make one in",
                namespace_cure(),
            ));
            return found;
        }
    }
    found.push(match Tap::open("doctor0", false, 1500) {
        Ok(_) => Check::yes("tap-in-namespace", "a TAP can be made there"),
        Err(error) => Check::no("tap-in-namespace", error.to_string(), tun_cure(None)),
    });
    found
}

/// Runs this program again as the child.
fn ask_child() -> Vec<Check> {
    let ask = || -> io::Result<Vec<Check>> {
        let mut child = Command::new(std::env::current_exe()?);
        child.args(["doctor", "--in-namespaces"]).stdin(Stdio::null()).stderr(Stdio::null());
        let output = child.output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().map(|line| serde_json::from_str(line).map_err(io::Error::from)).collect()
    };
    match ask() {
        Ok(found) if !found.is_empty() => found,
        Ok(_) => vec![Check::no("user-namespaces", "the check ended without a word", namespace_cure())],
        Err(error) => {
            vec![Check::no("user-namespaces", format!("the check cannot be run: {error}"), namespace_cure())]
        }
    }
}

fn tun_device() -> Check {
    let word = "tun-device";
    match OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Check::yes(word, "/dev/net/tun can be opened"),
        Err(error) => Check::no(word, format!("/dev/net/tun: {error}"), tun_cure(Some(error.kind()))),
    }
}

fn tun_cure(why: Option<io::ErrorKind>) -> String {
    match why {
        Some(io::ErrorKind::NotFound) => {
            "sudo modprobe tun; in a container, start it with --device /dev/net/tun".into()
        }
        _ => "sudo chmod 0666 /dev/net/tun".into(),
    }
}

fn effective_capabilities() -> Vec<Check> {
    let wanted = [
        ("cap-net-admin", CapabilitySet::NET_ADMIN, "TAPs, bridges and the tcx guard"),
        ("cap-net-raw", CapabilitySet::NET_RAW, "packet and raw sockets"),
        ("cap-bpf", CapabilitySet::BPF, "the tcx guard"),
    ];
    let effective = match capabilities(None) {
        Ok(sets) => sets.effective,
        Err(_) => CapabilitySet::empty(),
    };
    let check = |(word, bit, use_for): (&str, CapabilitySet, &str)| {
        if effective.contains(bit) {
            Check::yes(word, use_for)
        } else {
            Check::no(word, format!("not effective; needed for {use_for}"), capability_cure())
        }
    };
    wanted.map(check).to_vec()
}

fn capability_cure() -> String {
    let program = std::env::current_exe().map_or("tapnat".into(), |path| path.display().to_string());
    format!("sudo setcap cap_net_admin,cap_net_raw,cap_bpf=ep {program}")
}

fn packet_socket() -> Check {
    // Protocol 0: made, but given nothing.
    socket("packet-socket", Domain::PACKET, 0, "AF_PACKET sockets can be made: uplink packet")
}

fn raw_socket() -> Check {
    socket("raw-socket", Domain::IPV4, libc::IPPROTO_RAW, "raw IP sockets can be made: uplink raw")
}

/// Sockets for echo, which the uplink of sockets pings with.
/// The program that opens a packet socket for those who may run it.
fn raw_helper() -> Check {
    let word = "raw-helper";
    let own = std::env::current_exe().unwrap_or_else(|_| "tapnat".into());
    let path = own.with_file_name("tapnat-raw");
    let shown = path.display();
    let cure = format!(
        "sudo chgrp netdev {shown} && sudo chmod 0750 {shown} && sudo setcap cap_net_raw=ep {shown}, \
         and be in that group"
    );
    if !path.exists() {
        let cure = format!(
            "sudo install -g netdev -m 0750 tapnat-raw {shown} && sudo setcap cap_net_raw=ep {shown}"
        );
        return Check::no(word, format!("{shown} is not there"), cure);
    }
    if !has_net_raw(&path) {
        return Check::no(word, format!("{shown} has no CAP_NET_RAW"), cure);
    }
    match rustix::fs::access(&path, rustix::fs::Access::EXEC_OK) {
        Ok(()) => Check::yes(word, format!("{shown} opens packet sockets for this user")),
        Err(error) => Check::no(word, format!("{shown}: {error}"), cure),
    }
}

/// Whether a program is given CAP_NET_RAW from its start (`vfs_cap_data`, linux/capability.h).
fn has_net_raw(path: &Path) -> bool {
    let mut data = [0; 24];
    let Ok(length) = rustix::fs::getxattr(path, "security.capability", &mut data) else { return false };
    let effective = data[0] & 1 != 0;
    let permitted = u32::from_le_bytes([data[4], data[5], data[6], data[7]]);
    length >= 20 && effective && u64::from(permitted) & CapabilitySet::NET_RAW.bits() != 0
}

fn ping_socket() -> Check {
    let word = "ping-socket";
    match Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::ICMPV4)) {
        Ok(_) => Check::yes(word, "ping sockets can be made: echo with uplink sockets"),
        Err(error) => Check::no(
            word,
            format!("{error}: no echo with uplink sockets"),
            "sudo sysctl -w net.ipv4.ping_group_range=\"0 2147483647\"",
        ),
    }
}

fn socket(word: &str, domain: Domain, protocol: i32, detail: &str) -> Check {
    match Socket::new(domain, Type::RAW, Some(Protocol::from(protocol))) {
        Ok(_) => Check::yes(word, detail),
        Err(error) => Check::no(word, error.to_string(), capability_cure()),
    }
}

/// Attaches the guard's program to the loopback interface, for an address and no port: it lets all pass,
/// and is gone when this function ends.
fn tcx() -> Check {
    match Tcx::attach(LOOPBACK, &[NOBODY.into()]) {
        Ok(_) => Check::yes("tcx", "BPF programs can be attached to interfaces: guard tcx"),
        Err(error) => {
            let cure = match error.kind() {
                io::ErrorKind::PermissionDenied => capability_cure(),
                _ => format!("use Linux 6.6 or later (this is {}), or --guard hold", release()),
            };
            Check::no("tcx", error.to_string(), cure)
        }
    }
}

fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// The sysctl that forbids user namespaces, as far as one does.
fn namespace_cure() -> String {
    let forbids = [
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user.max_user_namespaces", "0", "15000"),
    ];
    let found = forbids.iter().find(|(name, bad, _)| sysctl(name).as_deref() == Some(*bad));
    match found {
        Some((name, _, good)) => format!("sudo sysctl -w {name}={good}"),
        None => "in a container, start it with --security-opt seccomp=unconfined".into(),
    }
}

fn sysctl(name: &str) -> Option<String> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn unprivileged_ports() -> Check {
    let word = "low-ports";
    let start = sysctl("net.ipv4.ip_unprivileged_port_start").and_then(|text| text.parse::<u16>().ok());
    let start = start.unwrap_or(1024);
    let bind = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_BIND_SERVICE));
    match start {
        0 | 1 => Check::yes(word, "every port can be published"),
        _ if bind => Check::yes(word, "every port can be published (cap-net-bind-service)"),
        _ => Check::no(
            word,
            format!("ports below {start} cannot be published"),
            "sudo sysctl -w net.ipv4.ip_unprivileged_port_start=80",
        ),
    }
}

/// Ports that the host's own programs are given at random compete with ours.
fn ephemeral_ports() -> Check {
    let word = "port-range";
    let range = sysctl("net.ipv4.ip_local_port_range").unwrap_or_default();
    let numbers: Vec<u32> = range.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    let &[first, last] = numbers.as_slice() else {
        return Check::yes(word, "net.ipv4.ip_local_port_range cannot be read; ports are leased one by one");
    };
    let left = 65_535_u32.saturating_sub(last) + first.saturating_sub(1024);
    let detail = format!("the host's own programs use {first}-{last}; {left} others are left for --ports");
    match left {
        0..1000 => Check::no(word, detail, "sudo sysctl -w net.ipv4.ip_local_port_range=\"32768 60999\""),
        _ => Check::yes(word, detail),
    }
}

/// Raises the limit, as the gateway does when it starts.
fn descriptors() -> Check {
    let before = getrlimit(Resource::Nofile).current;
    let most = raise_descriptor_limit();
    let number = |limit: u64| if limit == u64::MAX { "unlimited".to_owned() } else { limit.to_string() };
    let detail = format!("open files: {}, raised to {}", number(before.unwrap_or(u64::MAX)), number(most));
    match most {
        0..DESCRIPTORS => Check::no(
            "descriptors",
            format!("{detail}: as many held ports at most"),
            format!(
                "as a service LimitNOFILE={DESCRIPTORS}; in a shell sudo prlimit --pid $$ --nofile={DESCRIPTORS}"
            ),
        ),
        _ => Check::yes("descriptors", detail),
    }
}

/// Neither keeps a gateway from running: it then has one stage of its protection less.
fn landlock() -> Check {
    match places::version() {
        Ok(abi) => Check::yes("landlock", format!("ABI {abi}: a gateway reaches no files but its own")),
        Err(why) => Check::no("landlock", "a gateway's files are not kept apart", why),
    }
}

fn seccomp() -> Check {
    match is_known() {
        true => Check::yes("seccomp", "a gateway makes no system calls but those of its list"),
        false => Check::no(
            "seccomp",
            "filters of system calls are not known or not allowed",
            "use a kernel with CONFIG_SECCOMP_FILTER",
        ),
    }
}

fn forwarding() -> Check {
    let now = sysctl("net.ipv4.ip_forward").unwrap_or_else(|| "unreadable".into());
    Check::yes("ip-forward", format!("net.ipv4.ip_forward is {now}; tapnat does not need it"))
}
