//! How this host looks names up: its resolv.conf, read as the C library reads it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where it stands.
pub const PATH: &str = "/etc/resolv.conf";
/// The port of DNS.
pub const PORT: u16 = 53;

/// Bytes that are read of it.
const LONGEST: u64 = 64 * 1024;
/// Servers that are read of it, as many as the C library asks (`MAXNS`).
const SERVERS: usize = 3;
/// Domains that are read of it.
const DOMAINS: usize = 16;

/// What a resolv.conf says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResolvConf {
    /// The servers in the order in which they are asked; never empty.
    pub servers: Vec<SocketAddr>,
    /// Domains to look short names up in.
    pub search: Vec<String>,
}

impl ResolvConf {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn read(path: &Path) -> io::Result<ResolvConf> {
        let mut bytes = Vec::new();
        File::open(path)?.take(LONGEST).read_to_end(&mut bytes)?;
        Ok(ResolvConf::parse(&String::from_utf8_lossy(&bytes), index_of))
    }

    /// Reads text. What cannot be understood is passed over, as the C library does. `index` knows
    /// the numbers of interfaces, which an address of one link names.
    pub fn parse(text: &str, index: impl Fn(&str) -> Option<u32>) -> ResolvConf {
        let (mut servers, mut search) = (Vec::new(), Vec::new());
        for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") if servers.len() < SERVERS => {
                    servers.extend(words.next().and_then(|word| server(word, &index)));
                }
                // The last of both lines holds.
                Some("domain") => search = words.take(1).filter_map(domain).collect(),
                Some("search") => search = words.filter_map(domain).take(DOMAINS).collect(),
                // `options` are about how to ask, which whoever asks decides for himself.
                _ => {}
            }
        }
        if servers.is_empty() {
            servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT));
        }
        ResolvConf { servers, search }
    }
}

fn server(word: &str, index: &impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    let (address, scope) =
        word.split_once('%').map_or((word, None), |(address, scope)| (address, Some(scope)));
    match (address.parse().ok()?, scope) {
        (ip @ IpAddr::V4(_), None) => Some(SocketAddr::new(ip, PORT)),
        (IpAddr::V4(_), Some(_)) => None,
        (IpAddr::V6(ip), scope) => {
            let scope = scope.map_or(Some(0), |name| name.parse().ok().or_else(|| index(name)))?;
            Some(SocketAddrV6::new(ip, PORT, 0, scope).into())
        }
    }
}

fn domain(word: &str) -> Option<String> {
    is_domain(word).then(|| word.trim_end_matches('.').to_owned())
}

/// Whether `word` is a domain name as hosts have them: labels of letters, digits, `-` and `_`.
pub fn is_domain(word: &str) -> bool {
    let word = word.strip_suffix('.').unwrap_or(word);
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let label = |label: &str| (1..64).contains(&label.len()) && label.bytes().all(fine);
    word.len() <= 253 && word.split('.').all(label)
}

fn index_of(interface: &str) -> Option<u32> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None);
    rustix::net::netdevice::name_to_index(socket.ok()?, interface).ok()
}

/// The directories that must stay readable for the file to be read again when it is another one: that
/// of the file, behind all symbolic links.
pub fn directories() -> Vec<PathBuf> {
    let file = fs::canonicalize(PATH).unwrap_or_else(|_| PathBuf::from(PATH));
    file.parent().map(Path::to_owned).into_iter().collect()
}

/// What tells a file from its successor without reading it. Symbolic links are followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// That of the file at `path`; `None` if there is none.
    pub fn of(path: &Path) -> Option<Stamp> {
        let data = fs::metadata(path).ok()?;
        Some(Stamp {
            device: data.dev(),
            inode: data.ino(),
            size: data.size(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Vec<String>, Vec<String>) {
        let index = |name: &str| (name == "eth0").then_some(7);
        let ResolvConf { servers, search } = ResolvConf::parse(text, index);
        (servers.iter().map(SocketAddr::to_string).collect(), search)
    }

    #[test]
    fn as_the_c_library_reads_it() {
        let text = "# made by hand\n; nameserver 9.9.9.9\nnameserver 127.0.0.53\noptions edns0 trust-ad\n\
                    domain left.example\nsearch a.example. b.example bad..name -\n\
                    nameserver fe80::1%eth0\nnameserver\t2001:db8::1 # first word only\nnameserver 192.0.2.9\n";
        let servers = ["127.0.0.53:53", "[fe80::1%7]:53", "[2001:db8::1]:53"];
        let (found, search) = parsed(text);
        assert_eq!(found, servers);
        assert_eq!(search, ["a.example", "b.example", "-"]);
    }

    #[test]
    fn garbage_and_emptiness_mean_the_server_of_this_host() {
        for text in
            ["", "nameserver", "nameserver example.org", "nameserver fe80::1%none", "\0\u{fffd}\nname"]
        {
            assert_eq!(parsed(text), (vec!["127.0.0.1:53".to_owned()], vec![]), "{text:?}");
        }
        let many = "nameserver 192.0.2.1\n".repeat(100) + "search " + &"x.example ".repeat(1000);
        let (servers, search) = parsed(&many);
        assert_eq!((servers.len(), search.len()), (SERVERS, DOMAINS));
    }
}
