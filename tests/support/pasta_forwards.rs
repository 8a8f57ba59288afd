//! Port forwards and transfers of `pasta`, group by group as Podman tests them: from the host's own
//! address ("tap") and from its loopback, one port and a range, to the same ports and to others.

use crate::lab_setup::*;
use crate::pasta_rig::*;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use tapnat::io::sys::netns::Netns;
use tapnat::lab::programs::server::Server;
use tapnat::lab::programs::{http, pattern, udp};
use tapnat::lab::topology::{HOST, HOST_SIX, UPLINK};

/// All of them.
pub const TESTS: [(&str, fn()); 6] = [
    ("tcp_ports_of_ipv4", || forwards("-t", false)),
    ("tcp_ports_of_ipv6", || forwards("-t", true)),
    ("udp_ports_of_ipv4", || forwards("-u", false)),
    ("udp_ports_of_ipv6", || forwards("-u", true)),
    ("tcp_transfers", tcp_transfers),
    ("udp_transfers", udp_transfers),
];

/// Ports on the host and what is added to them inside.
struct Case {
    first: u16,
    last: u16,
    delta: u16,
}

/// Single, range, translated, translated range; those of an address and of an interface are all of these
/// with an address, and the last.
const CASES: [Case; 4] = [
    Case { first: 8100, last: 8100, delta: 0 },
    Case { first: 8110, last: 8112, delta: 0 },
    Case { first: 8120, last: 8120, delta: 1000 },
    Case { first: 8130, last: 8132, delta: 1000 },
];

/// The host's address and its interface: what clients there call.
fn places(six: bool) -> [(IpAddr, &'static str); 2] {
    match six {
        false => [(HOST.into(), UPLINK), (Ipv4Addr::LOCALHOST.into(), "lo")],
        true => [(HOST_SIX.into(), UPLINK), (Ipv6Addr::LOCALHOST.into(), "lo")],
    }
}

fn any(six: bool) -> IpAddr {
    if six { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

/// Starts `pasta` as Podman does, with these port options.
fn started(rig: &Rig, guest: &mut Guest, ports: &[String]) {
    let path = guest.path();
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    rig.quiet(&crate::podman_line(&[], &ports, &path));
}

fn answers(option: &str, client: &Netns, to: SocketAddr) -> bool {
    match option {
        "-t" => client.run(|| http::get(to, "/", SOON)).unwrap().is_ok_and(|page| page.status == 200),
        // Transfers of UDP there end with a datagram without a byte.
        _ => [&b"x"[..], b""].into_iter().all(|message| {
            client.run(|| udp::ask(to, message, SOON)).unwrap().is_ok_and(|answer| answer == message)
        }),
    }
}

fn forwards(option: &str, six: bool) {
    let rig = Rig::new();
    let (mut ports, mut served) = (Vec::new(), Vec::new());
    for (place, (ip, interface)) in (0u16..).zip(places(six)) {
        for Case { first, last, delta } in CASES {
            // Each place has ports of its own inside, so that a wrong way shows.
            let (to, end) = (first + delta + 100 * place, last + delta + 100 * place);
            ports.extend([option.to_owned(), format!("{ip}/{first}-{last}:{to}-{end}")]);
            served.extend(to..=end);
        }
        let port = 8190 + place;
        ports.extend([option.to_owned(), format!("{ip}%{interface}/{port}:{}", port + 1000)]);
        served.push(port + 1000);
    }
    let mut guest = rig.guest();
    started(&rig, &mut guest, &ports);
    let serve = |port: u16| -> Server {
        let at = SocketAddr::new(any(six), port);
        if option == "-t" { http::serve(&guest.netns, at) } else { udp::serve(&guest.netns, at) }.unwrap()
    };
    let _servers: Vec<Server> = served.into_iter().map(serve).collect();
    for (place, (ip, _)) in (0u16..).zip(places(six)) {
        let wanted = CASES.iter().flat_map(|case| case.first..=case.last).chain([8190 + place]);
        for port in wanted {
            assert!(answers(option, rig.host(), SocketAddr::new(ip, port)), "{option} {ip} {port}");
        }
        taken(&rig, option, SocketAddr::new(ip, CASES[0].first));
    }
}

/// "port on localhost": nobody else gets a port that is forwarded, and a second pasta says so.
fn taken(rig: &Rig, option: &str, at: SocketAddr) {
    let bound = rig.host().run(|| match option {
        "-t" => TcpListener::bind(at).map(|_| ()),
        _ => UdpSocket::bind(at).map(|_| ()),
    });
    assert_eq!(bound.unwrap().unwrap_err().kind(), ErrorKind::AddrInUse, "{option} {at}");
    let mut guest = rig.guest();
    let (path, port) = (guest.path(), at.port());
    let words = [option, &format!("{}/{port}-{port}:80-80", at.ip())];
    let output = rig.pasta(&crate::podman_line(&[], &words, &path));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = told(&output);
    let (before, _) = told.split_once("ddress already in use").unwrap_or_else(|| panic!("{told}"));
    assert!(before.contains(&port.to_string()), "{told}");
}

/// 2 KiB and 10 MiB, both ways.
fn tcp_transfers() {
    let rig = Rig::new();
    let mut guest = rig.guest();
    started(&rig, &mut guest, &["-t".to_owned(), "8080-8080:80-80".to_owned()]);
    let _four = http::serve(&guest.netns, (Ipv4Addr::UNSPECIFIED, 80)).unwrap();
    let six = SocketAddr::new(HOST_SIX.into(), 80);
    let _six = http::serve(&guest.netns, six).unwrap();
    for (ip, _) in [places(false), places(true)].concat() {
        for length in [2048, 10 << 20] {
            let to = SocketAddr::new(ip, 8080);
            let transfer = || {
                let mut client = http::Client::connect(to, LATER)?;
                let up = client.upload(length, length)?;
                let down = client.get(&format!("/bytes/{length}"))?;
                Ok::<_, std::io::Error>((up, down))
            };
            let (up, down) =
                rig.host().run(transfer).unwrap().unwrap_or_else(|error| panic!("{to}: {error}"));
            let want = format!("{length} {:016x}\n", pattern::expected(length, length));
            assert_eq!(String::from_utf8_lossy(&up.body), want, "{to} upload");
            assert_eq!((down.length, down.sum), (length, pattern::expected(length, length)), "{to} download");
        }
    }
}

/// 2 KiB and a quarter of a socket's buffer, both ways.
fn udp_transfers() {
    let rig = Rig::new();
    let mut guest = rig.guest();
    started(&rig, &mut guest, &["-u".to_owned(), "8080-8080:80-80".to_owned()]);
    let _four = udp::serve(&guest.netns, (Ipv4Addr::UNSPECIFIED, 80)).unwrap();
    let _six = udp::serve(&guest.netns, (HOST_SIX, 80)).unwrap();
    for (ip, _) in [places(false), places(true)].concat() {
        for length in [2048, 53_248] {
            let to = SocketAddr::new(ip, 8080);
            let mut message = vec![0; length];
            pattern::Pattern::new(7).fill(&mut message);
            let answer = rig.host().run(|| udp::ask(to, &message, SOON)).unwrap();
            let answer = answer.unwrap_or_else(|error| panic!("{to} {length}: {error}"));
            assert!(answer == message, "{to} {length}: {} bytes", answer.len());
        }
    }
}
