//! Links and guards with IPv6, on the same wire as their IPv4 namesakes.

use crate::{PATIENCE, answered, here, pause, receive, send, unexpected, wire};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;
use tapnat::flow::{Endpoint, Protocol};
use tapnat::io::filter::Wanted;
use tapnat::io::guard::{Guard, GuardError, Kind};
use tapnat::io::netlink::{Family, Netlink};
use tapnat::io::setup::{self, InsideConfig, SetupError};
use tapnat::io::sys::netns::Netns;
use tapnat::io::uplink::packet::PacketUplink;
use tapnat::io::uplink::raw::RawUplink;
use tapnat::io::uplink::sender::RawSender;
use tapnat::io::{Link, deliver};
use tapnat::lab::programs::counters::Counters;
use tapnat::lab::programs::icmp6::{Answer6, Ping6};
use tapnat::lab::programs::now;
use tapnat::wire::{Buffer, PartialChecksum, Segment, SegmentKind};

const HOST: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const REMOTE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
const PORT: u16 = 61000;
const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;
const PSH_ACK: u8 = 0x18;
const TCP: u8 = 6;
const UDP: u8 = 17;

pub const CASES: [(&str, fn()); 9] = [
    ("six_packet_uplink_carries_a_connection", packet_connection),
    ("six_raw_uplink_carries_a_connection", raw_connection),
    ("six_raw_headers_are_built_again", raw_headers),
    ("six_neighbour_discovery_stays_the_kernels", neighbour_discovery),
    ("six_host_link_and_wire_link_do_not_mix", host_link),
    ("six_hold_is_silent", || guard_is_silent(Kind::Hold)),
    ("six_tcx_is_silent", || guard_is_silent(Kind::Tcx)),
    ("six_outside_is_found", outside_is_found),
    ("six_bridge_is_quiet_and_takes_no_advertisements", bridge_is_quiet),
];

/// The wire of IPv4, with IPv6 addresses beside.
fn wire_six() -> Netns {
    let remote = wire();
    let give = |ip: Ipv6Addr| {
        let netlink = Netlink::open().unwrap();
        let eth0 = netlink.link("eth0").unwrap().unwrap().index;
        netlink.add_address(eth0, ip.into(), 64).unwrap();
        wait_until_found(ip);
    };
    give(HOST);
    remote.run(|| give(REMOTE)).unwrap();
    remote
}

/// Waits until the kernel hears questions for this address: it joins their multicast group some time
/// after it has accepted the address, and he who asks too early asks again only after a second.
fn wait_until_found(ip: Ipv6Addr) {
    let [.., a, b, c] = ip.octets();
    let group = format!("ff0200000000000000000001ff{a:02x}{b:02x}{c:02x}");
    let until = now() + PATIENCE;
    while !std::fs::read_to_string("/proc/thread-self/net/igmp6").unwrap().contains(&group) {
        assert!(now() < until, "{ip} is never listened for");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Of both families, so that each finds its own among the other's.
fn wanted() -> Wanted {
    let four = Ipv4Addr::new(192, 0, 2, 1);
    Wanted { addresses: vec![four.into(), HOST.into()], ports: vec![PORT..=65535], ..Wanted::default() }
}

fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

/// The definition of the sum (RFC 1071), word by word.
fn sum(bytes: &[u8]) -> u16 {
    bytes
        .chunks(2)
        .fold(0, |total, pair| add(total, u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
}

/// Sum of the pseudo header of a packet without extension headers (RFC 8200 §8.1).
fn pseudo(packet: &[u8]) -> u16 {
    let length = (packet.len() - 40) as u32;
    add(sum(&packet[8..40]), add(sum(&length.to_be_bytes()), u16::from(packet[6])))
}

/// An IPv6 packet with a whole checksum.
fn ip(next: u8, source: Ipv6Addr, destination: Ipv6Addr, transport: &[u8], field: usize) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0, 0, 0, next, 64];
    bytes[4..6].copy_from_slice(&(transport.len() as u16).to_be_bytes());
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    bytes.extend(transport);
    let whole = !add(pseudo(&bytes), sum(&bytes[40..]));
    bytes[40 + field..42 + field].copy_from_slice(&whole.to_be_bytes());
    bytes
}

struct Tcp {
    source: (Ipv6Addr, u16),
    destination: (Ipv6Addr, u16),
    seq: u32,
    ack: u32,
}

impl Tcp {
    fn segment(&self, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.source.1.to_be_bytes());
        bytes.extend(self.destination.1.to_be_bytes());
        bytes.extend(self.seq.to_be_bytes());
        bytes.extend(self.ack.to_be_bytes());
        bytes.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        bytes.extend(payload);
        ip(TCP, self.source.0, self.destination.0, &bytes, 16)
    }
}

fn udp(source: (Ipv6Addr, u16), destination: (Ipv6Addr, u16), payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(source.1.to_be_bytes());
    bytes.extend(destination.1.to_be_bytes());
    bytes.extend((8 + payload.len() as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    ip(UDP, source.0, destination.0, &bytes, 6)
}

fn is_six(packet: &Buffer) -> bool {
    packet.bytes()[0] >> 4 == 6
}

fn seq(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[44..48].try_into().unwrap())
}

fn counter(link: &mut dyn Link, word: &str) -> u64 {
    link.counters().into_iter().find(|(name, _)| *name == word).unwrap().1
}

/// Whether the checksum is right, whole or begun.
fn right(packet: &Buffer) -> bool {
    let bytes = packet.bytes();
    match packet.offload.checksum {
        Some(PartialChecksum { start, offset }) => {
            let at = usize::from(start + offset);
            bytes[at..at + 2] == pseudo(bytes).to_be_bytes()
        }
        None => add(pseudo(bytes), sum(&bytes[40..])) == 0xffff,
    }
}

fn packet_connection() {
    let remote = wire_six();
    let mut link = PacketUplink::open("eth0", wanted()).unwrap();
    connection(&mut link, &remote);
    assert!(counter(&mut link, "sent-through-kernel") >= 1, "the kernel found the neighbour");
    assert_eq!(counter(&mut link, "send-failed"), 0);
    let before = counter(&mut link, "sent-through-kernel");
    send(&mut link, &udp((HOST, PORT), (REMOTE, 9), b"x"));
    assert_eq!(counter(&mut link, "sent-through-kernel"), before, "from now on it is known");
}

fn raw_connection() {
    let remote = wire_six();
    let mut link = RawUplink::wire("eth0", wanted(), 1400).unwrap();
    connection(&mut link, &remote);
    let mut big = Buffer::from_bytes(&udp((HOST, PORT), (REMOTE, 9), &[0; 1600]));
    assert_eq!(link.send(&mut big).unwrap_err().raw_os_error(), Some(libc::EMSGSIZE));
}

/// A TCP connection made by hand from a leased port: super-frames both ways, and a host that does
/// not say a word.
fn connection(link: &mut dyn Link, remote: &Netns) {
    let mut guard = Guard::new(Some(Kind::Hold), false, 0, &[HOST.into()]).unwrap();
    guard.lease(Protocol::Tcp, Endpoint::new(HOST, PORT)).unwrap();
    let before = answers();
    let listener = remote.run(|| TcpListener::bind((REMOTE, 80)).unwrap()).unwrap();

    let mut tcp = Tcp { source: (HOST, PORT), destination: (REMOTE, 80), seq: 1000, ack: 0 };
    send(link, &tcp.segment(SYN, &[]));
    let answer = receive(link, |packet| is_six(packet) && packet.bytes()[53] == SYN_ACK).expect("a SYN-ACK");
    assert_eq!(answer.bytes()[7], 64, "the hop limit it came with");
    tcp.seq += 1;
    tcp.ack = seq(answer.bytes()) + 1;
    send(link, &tcp.segment(ACK, &[]));
    let (mut stream, peer) = listener.accept().unwrap();
    assert_eq!(peer, SocketAddr::from((HOST, PORT)));

    stream.write_all(&[7; 20_000]).unwrap();
    let end = tcp.ack + 20_000;
    let mut merged = 0;
    while tcp.ack != end {
        let Some(packet) = receive(link, |packet| packet.len() > 60) else { break };
        let bytes = packet.bytes();
        assert!(bytes[60..].iter().all(|byte| *byte == 7));
        assert!(right(&packet));
        match packet.offload.segment {
            Some(segment) => {
                assert_eq!(segment.kind, SegmentKind::Tcp6);
                assert!(segment.size <= 1440 && packet.offload.checksum.is_some());
                merged += 1;
            }
            None => assert!(packet.len() <= 1500),
        }
        if seq(bytes) == tcp.ack {
            tcp.ack += u32::try_from(bytes.len() - 60).unwrap();
        }
        send(link, &tcp.segment(ACK, &[]));
    }
    assert_eq!(tcp.ack, end, "all of it came");
    assert!(merged > 0, "the kernel's super-frames came whole");

    let text: Vec<u8> = (0..10_000u32).map(|n| n as u8).collect();
    let mut bytes = tcp.segment(PSH_ACK, &text);
    let begun = pseudo(&bytes);
    bytes[56..58].copy_from_slice(&begun.to_be_bytes());
    let mut buffer = Buffer::from_bytes(&bytes);
    buffer.offload.checksum = Some(PartialChecksum { start: 40, offset: 16 });
    buffer.offload.segment = Some(Segment { kind: SegmentKind::Tcp6, size: 1440, header: 60, ecn: false });
    deliver(link, &mut buffer, &mut Buffer::new()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut received = vec![0; text.len()];
    stream.read_exact(&mut received).unwrap();
    assert!(received == text);
    assert_eq!(answers(), before);
    assert_eq!(Counters::read(remote).unwrap().get("Tcp: InCsumErrors"), 0);
}

/// A raw socket of IPv6 is given no header: it is built again, and what the kernel put together is
/// cut again.
fn raw_headers() {
    let remote = wire_six();
    let mut link = RawUplink::wire("eth0", wanted(), 1400).unwrap();
    let mut packet = udp((REMOTE, 9), (HOST, PORT), b"hello");
    // Traffic class 0x2e, flow label 0xabcde, hop limit 7.
    packet[..4].copy_from_slice(&[0x62, 0xea, 0xbc, 0xde]);
    packet[7] = 7;
    remote.run(|| send(&mut RawSender::open(Some("eth0"), 1500).unwrap(), &packet)).unwrap();
    let came = receive(&mut link, is_six).expect("the datagram");
    assert_eq!(came.bytes(), packet);

    let data: Vec<u8> = (0..5000u32).map(|n| n as u8).collect();
    remote.run(|| UdpSocket::bind((REMOTE, 9)).unwrap().send_to(&data, (HOST, PORT)).unwrap()).unwrap();
    let mut put_together = Vec::new();
    loop {
        let piece = receive(&mut link, is_six).expect("a fragment");
        let bytes = piece.bytes();
        assert!(bytes.len() <= 1400 && bytes[6] == 44);
        let place = u16::from_be_bytes([bytes[42], bytes[43]]);
        assert_eq!(usize::from(place & !7), put_together.len());
        put_together.extend_from_slice(&bytes[48..]);
        if place & 1 == 0 {
            break;
        }
    }
    assert_eq!(put_together[8..], data);
}

/// Questions of neighbours, routers and multicast never reach the uplink, and are answered.
fn neighbour_discovery() {
    let remote = wire_six();
    let mut link = PacketUplink::open("eth0", wanted()).unwrap();
    let answer = remote.run(|| Ping6::new(HOST, 1).send(PATIENCE).unwrap()).unwrap();
    assert!(matches!(answer, Answer6::Reply { .. }), "the host answers: {answer:?}");
    let solicited = Counters::read(&here()).unwrap().get("Icmp6InNeighborSolicits");
    assert!(solicited > 0, "and was asked for its MAC address");
    let mut seen = Vec::new();
    while let Some(packet) = unexpected(&mut link, |_| true) {
        seen.push(packet.bytes()[40]);
    }
    assert_eq!(seen, [128], "only the ping itself is copied to the uplink");
    pause(&link);
}

fn host_link() {
    let _remote = wire_six();
    let mut host = RawUplink::host(wanted(), 1500).unwrap();
    let mut wire = RawUplink::wire("eth0", wanted(), 1500).unwrap();
    let mut guard = Guard::new(Some(Kind::Hold), false, 0, &[HOST.into()]).unwrap();
    guard.lease(Protocol::Tcp, Endpoint::new(HOST, PORT)).unwrap();
    let before = answers();
    let service = TcpListener::bind((HOST, 8080)).unwrap();
    let mut tcp = Tcp { source: (HOST, PORT), destination: (HOST, 8080), seq: 1000, ack: 0 };
    send(&mut host, &tcp.segment(SYN, &[]));
    let answer = receive(&mut host, |packet| is_six(packet) && packet.bytes()[53] == SYN_ACK);
    let answer = answer.expect("the host's answer");
    assert!(right(&answer));
    tcp.seq += 1;
    tcp.ack = seq(answer.bytes()) + 1;
    send(&mut host, &tcp.segment(ACK, &[]));
    let (mut stream, _) = service.accept().unwrap();
    stream.write_all(&[7; 8_000]).unwrap();
    let data = receive(&mut host, |packet| packet.len() > 60).expect("data");
    assert!(right(&data));

    // A ping of ours is answered; our own question, which loops as well, is not taken for one.
    let ping = ip(58, HOST, HOST, &[128, 0, 0, 0, 0x12, 0x34, 0, 1], 2);
    send(&mut host, &ping);
    let pong = receive(&mut host, |packet| packet.bytes()[6] == 58).expect("an answer");
    assert_eq!(pong.bytes()[40], 129);
    assert!(unexpected(&mut wire, |_| true).is_none(), "the wire's link sees nothing of it");
    drop(stream);
    assert_eq!(answers(), before);
}

/// Sends from the remote what comes back to a translated port, and more that may be thrown at it.
fn pester(remote: &Netns, port: u16) {
    let tcp = Tcp { source: (REMOTE, 80), destination: (HOST, port), seq: 5, ack: 6 };
    let packets = [
        tcp.segment(SYN_ACK, &[]),
        tcp.segment(SYN, &[]),
        tcp.segment(ACK, &[]),
        tcp.segment(PSH_ACK, b"data"),
        tcp.segment(0x11, &[]),
        udp((REMOTE, 53), (HOST, port), b"answer"),
        behind_options(&tcp.segment(SYN_ACK, &[])),
        whole_fragment(&udp((REMOTE, 53), (HOST, port), b"in one fragment")),
    ];
    remote
        .run(|| {
            let mut sender = RawSender::open(Some("eth0"), 1500).unwrap();
            for packet in &packets {
                send(&mut sender, packet);
            }
        })
        .unwrap();
    std::thread::sleep(Duration::from_millis(50));
}

/// The packet with an extension header that its receiver skips: destination options, all padding.
fn behind_options(packet: &[u8]) -> Vec<u8> {
    extended(packet, 60, [packet[6], 0, 1, 4, 0, 0, 0, 0])
}

/// The packet as the first and last fragment of itself (RFC 6946).
fn whole_fragment(packet: &[u8]) -> Vec<u8> {
    extended(packet, 44, [packet[6], 0, 0, 0, 0, 0, 0, 1])
}

fn extended(packet: &[u8], next: u8, header: [u8; 8]) -> Vec<u8> {
    let mut bytes = packet[..40].to_vec();
    bytes[6] = next;
    bytes[4..6].copy_from_slice(&((packet.len() - 32) as u16).to_be_bytes());
    bytes.extend(header);
    bytes.extend(&packet[40..]);
    bytes
}

/// What the host's stack has said: resets, and "port unreachable".
fn answers() -> (i64, i64) {
    let counters = Counters::read(&here()).unwrap();
    (counters.get("Tcp: OutRsts"), counters.get("Icmp6OutDestUnreachs"))
}

fn guard_is_silent(kind: Kind) {
    let remote = wire_six();
    let eth0 = Netlink::open().unwrap().link("eth0").unwrap().unwrap().index;
    let four = IpAddr::from([192, 0, 2, 1]);
    let guard = Guard::new(Some(kind), true, eth0, &[four, HOST.into()]);
    if let Err(GuardError::Tcx(error)) = &guard {
        assert!(std::env::var_os("CI").is_none(), "{error}");
        println!("skipped: tcx: {error}");
        return;
    }
    let mut guard = guard.unwrap();
    let mut link = PacketUplink::open("eth0", wanted()).unwrap();
    let before = answers();
    pester(&remote, PORT);
    let unguarded = answered(answers, before);
    assert!(unguarded.0 > before.0 && unguarded.1 > before.1, "without a guard the host answers");

    for protocol in [Protocol::Tcp, Protocol::Udp] {
        guard.lease(protocol, Endpoint::new(HOST, PORT + 1)).unwrap();
        guard.lease(protocol, Endpoint::new(four, PORT + 2)).unwrap();
    }
    assert_eq!(guard.held(), 4, "leases of both families, side by side");
    for _ in 0..20 {
        pester(&remote, PORT + 1);
    }
    assert_eq!(answers(), unguarded, "with one it does not say a word");
    let mut seen = 0;
    let port = (PORT + 1).to_be_bytes();
    let to_port = |packet: &Buffer| packet.bytes()[42..44] == port || packet.bytes()[50..52] == port;
    while unexpected(&mut link, to_port).is_some() {
        seen += 1;
    }
    assert_eq!(seen, 160, "and the gateway sees every packet, extension headers or not");
    pester(&remote, PORT + 2);
    let other = answered(answers, unguarded);
    assert!(other.0 > unguarded.0 && other.1 > unguarded.1, "the port of the other family is the host's");
    let ping = remote.run(|| Ping6::new(HOST, 1).send(PATIENCE).unwrap()).unwrap();
    assert!(matches!(ping, Answer6::Reply { .. }), "neighbours and pings are the host's business");

    for protocol in [Protocol::Tcp, Protocol::Udp] {
        guard.release(protocol, Endpoint::new(HOST, PORT + 1));
    }
    pester(&remote, PORT + 1);
    let released = answered(answers, other);
    assert!(released.0 > other.0 && released.1 > other.1, "a released port is the host's again");
    drop(guard);
    let stranger = Guard::new(Some(kind), true, eth0, &[HOST.into(), REMOTE.into()]);
    assert!(matches!(stranger, Err(GuardError::NotLocal(ip)) if ip == REMOTE));
}

fn outside_is_found() {
    let _remote = wire();
    let netlink = Netlink::open().unwrap();
    let none = setup::outside(&netlink, None, &[Family::Six]);
    assert!(matches!(none, Err(SetupError::NoDefaultRoute(Family::Six))));
    let eth0 = netlink.link("eth0").unwrap().unwrap().index;
    let found = || setup::outside(&netlink, Some("eth0"), &[Family::Six]).unwrap();
    assert!(matches!(found().externals(Family::Six), Err(SetupError::NoAddress { .. })), "fe80:: is none");
    let site = Ipv6Addr::new(0xfd12, 0, 0, 0, 0, 0, 0, 1);
    netlink.add_address(eth0, site.into(), 64).unwrap();
    assert_eq!(found().externals(Family::Six).unwrap(), [IpAddr::from(site)]);
    netlink.add_address(eth0, HOST.into(), 64).unwrap();
    assert_eq!(
        found().externals(Family::Six).unwrap(),
        [IpAddr::from(HOST)],
        "global before local to a site"
    );
    netlink.add_default_route(REMOTE.into()).unwrap();
    let by_route = setup::outside(&netlink, None, &[Family::Four, Family::Six]).unwrap();
    assert_eq!(by_route.interface.name, "eth0");
    assert_eq!(by_route.externals(Family::Four).unwrap().len(), 1);
}

fn bridge_is_quiet() {
    if crate::without_tun() {
        return;
    }
    let accept =
        |bridge: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{bridge}/accept_ra"));
    let netlink = Netlink::open().unwrap();
    netlink.add_bridge("old0").unwrap();
    assert_eq!(accept("old0").unwrap().trim(), "1");
    for bridge in ["old0", "new0"] {
        let config = InsideConfig {
            tap: "tap0".into(),
            tap_fd: None,
            offload: true,
            bridge: Some(bridge.into()),
            mtu: 1500,
            six: true,
        };
        let (mut tap, mut made) = setup::inside(&config).unwrap();
        assert_eq!(accept(bridge).unwrap().trim(), "0", "{bridge}");
        let device = netlink.link("tap0").unwrap().unwrap().index;
        let addresses = netlink.addresses().unwrap();
        assert!(!addresses.iter().any(|(index, ..)| *index == device), "{addresses:?}");
        if bridge == "new0" {
            // A bridge that snoops says that it does, behind hop-by-hop options; no neighbours or
            // routers are asked for.
            let said = unexpected(&mut tap, |frame| {
                frame.bytes()[12..14] == [0x86, 0xdd] && frame.bytes()[20] == 58
            });
            assert!(
                said.is_none(),
                "the kernel asks on a new bridge: {:02x?}",
                said.map(|frame| frame.bytes().to_vec())
            );
        }
        made.undo().unwrap();
        drop((tap, made));
    }
    assert_eq!(accept("old0").unwrap().trim(), "1", "as it was");
    assert!(netlink.link("new0").unwrap().is_none());
}
