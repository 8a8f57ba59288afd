//! A resolv.conf for the command in its own mount namespace.

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The file that every resolver reads.
const FILE: &str = "/etc/resolv.conf";
/// The same without systemd's own resolver, which only the host's loopback reaches.
const UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";

/// Servers that the C library asks.
const SERVERS: usize = 3;

/// What the host's resolv.conf says, less what only the host itself can reach: resolvers on its
/// loopback. `None` if no resolver is left.
pub fn of_host() -> Option<String> {
    [FILE, UPSTREAM]
        .into_iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .find_map(|text| reachable(&text))
}

/// A file that names these servers, three at most, since the C library asks no more. The domains are
/// `search`, or else those of the host's file, of which its options are kept too.
pub fn naming(servers: &[IpAddr], search: Option<&[String]>) -> String {
    composed(&fs::read_to_string(FILE).unwrap_or_default(), servers, search)
}

fn composed(host: &str, servers: &[IpAddr], search: Option<&[String]>) -> String {
    let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let kept = host.lines().filter(|line| match first(line).as_deref() {
        Some("options") => true,
        Some("search" | "domain") => search.is_none(),
        _ => false,
    });
    let named = servers.iter().take(SERVERS).map(|server| format!("nameserver {server}"));
    let domains = search.filter(|domains| !domains.is_empty());
    let domains = domains.map(|domains| format!("search {}", domains.join(" ")));
    let lines: Vec<String> = named.chain(domains).chain(kept.map(str::to_owned)).collect();
    lines.join("\n") + "\n"
}

fn reachable(text: &str) -> Option<String> {
    let on_loopback = |line: &&str| {
        let mut words = line.split_whitespace();
        let server = if words.next() == Some("nameserver") { words.next() } else { None };
        let address = server.and_then(|server| server.split('%').next()?.parse::<IpAddr>().ok());
        address.is_some_and(|address| address.is_loopback() || address.is_unspecified())
    };
    let lines: Vec<&str> = text.lines().filter(|line| !on_loopback(line)).collect();
    let left = lines.iter().any(|line| line.split_whitespace().next() == Some("nameserver"));
    left.then(|| lines.join("\n") + "\n")
}

/// Puts a file with this text in the place of `/etc/resolv.conf`, in the mount namespace of the calling
/// process, which must be its own. The link that `/etc/resolv.conf` may be stays.
///
/// # Errors
/// There is no such file; or the kernel refuses the mounts.
pub fn put(text: &str) -> io::Result<()> {
    let file = rustix::fs::open(FILE, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    // A file system in memory needs a directory to be written through: one that surely exists, which
    // it covers for a moment.
    let etc = Path::new("/etc");
    mount(
        c"tmpfs",
        etc,
        c"tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        c"mode=0755",
    )?;
    let bound = bind_over(&file, text);
    unmount(etc, UnmountFlags::DETACH)?;
    bound
}

fn bind_over(file: &OwnedFd, text: &str) -> io::Result<()> {
    fs::write(FILE, text)?;
    // Whatever the caller's umask: the command may be, or become, another user.
    fs::set_permissions(FILE, fs::Permissions::from_mode(0o644))?;
    mount_bind(FILE, format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_are_ours_and_the_rest_is_the_hosts() {
        let host = "# systemd\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan example\n";
        let servers = ["10.0.2.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let ours = "nameserver 10.0.2.2\nnameserver fd00::2\n";
        let want = format!("{ours}options edns0 trust-ad\nsearch lan example\n");
        assert_eq!(composed(host, &servers, None), want);
        let lab = ["lab.example".to_owned()];
        let want = format!("{ours}search lab.example\noptions edns0 trust-ad\n");
        assert_eq!(composed(host, &servers, Some(&lab)), want);
        assert_eq!(composed(host, &servers[..1], Some(&[])), "nameserver 10.0.2.2\noptions edns0 trust-ad\n");
        assert_eq!(composed("", &[servers[0]; 5], None).lines().count(), SERVERS);
    }

    #[test]
    fn resolvers_that_only_the_host_reaches_are_left_out() {
        let stub = "nameserver 127.0.0.53\noptions edns0\nsearch lan\n";
        assert_eq!(reachable(stub), None);
        assert_eq!(reachable(""), None);
        let mixed = "# mine\nsearch lan\nnameserver ::1\nnameserver 192.0.2.53\n";
        assert_eq!(reachable(mixed).unwrap(), "# mine\nsearch lan\nnameserver 192.0.2.53\n");
        let link = "nameserver fe80::1%eth0\n";
        assert_eq!(reachable(link).unwrap(), link);
    }
}
