//! Devices, sockets and guards on the real kernel, in network namespaces of the test's own.
//!
//! The program has no test harness, because a user namespace can be made by a process with one
//! thread only. Without root it makes one; what the host forbids is skipped with the reason, and
//! fails where `CI` is set. An argument runs the cases whose name contains it.
#![allow(clippy::unwrap_used)]

#[path = "support/links_six.rs"]
mod links_six;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::Timespec;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Duration;
use tapnat::flow::{Endpoint, LinkInfo, Protocol};
use tapnat::io::filter::Wanted;
use tapnat::io::guard::tcx::Tcx;
use tapnat::io::guard::{Guard, GuardError, Kind, LeaseError};
use tapnat::io::memory::Memory;
use tapnat::io::netlink::{Family, Netlink};
use tapnat::io::setup::{self, InsideConfig, SetupError};
use tapnat::io::sys::netns::{Netns, enter_private};
use tapnat::io::sys::tun;
use tapnat::io::tap::{Tap, TapError};
use tapnat::io::uplink::packet::PacketUplink;
use tapnat::io::uplink::raw::RawUplink;
use tapnat::io::uplink::sender::RawSender;
use tapnat::io::uplink::{self, UplinkError};
use tapnat::io::{Link, deliver};
use tapnat::lab::programs::counters::Counters;
use tapnat::lab::programs::now;
use tapnat::wire::{Buffer, Offload, PartialChecksum, Segment, SegmentKind, checksum};

const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const REMOTE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const PORT: u16 = 61000;
const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;
const PSH_ACK: u8 = 0x18;
/// How long something may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

const CASES: [(&str, fn()); 16] = [
    ("tap_with_offload", || tap(true)),
    ("tap_plain", || tap(false)),
    ("tap_errors_name_the_cause", tap_errors),
    ("setup_undoes_what_it_made_and_no_more", setup_undoes),
    ("outside_is_found", outside_is_found),
    ("packet_uplink_carries_a_connection", packet_connection),
    ("raw_uplink_carries_a_connection", raw_connection),
    ("packet_uplink_survives_its_interface", packet_interface_vanishes),
    ("raw_uplink_survives_its_interface", raw_interface_vanishes),
    ("neighbor_changes_are_followed", neighbor_changes),
    ("host_link_and_wire_link_do_not_mix", host_link),
    ("hold_is_silent", || guard_is_silent(Kind::Hold)),
    ("tcx_is_silent", || guard_is_silent(Kind::Tcx)),
    ("tcx_alone_drops_by_port", tcx_alone),
    ("leases_and_host_programs_exclude_each_other", leases),
    ("links_take_what_they_say", deliver_cuts),
];

fn main() -> ExitCode {
    let root = rustix::process::geteuid().is_root();
    if let Err(error) = enter_private(!root) {
        println!("skipped: no namespaces here: {error}");
        return if std::env::var_os("CI").is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let only: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let mut failed = 0;
    for (name, case) in CASES.into_iter().chain(links_six::CASES) {
        if !only.is_empty() && !only.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| Netns::create().unwrap().run(case).unwrap()));
        println!("test {name} ... {}", if outcome.is_ok() { "ok" } else { "FAILED" });
        failed += u32::from(outcome.is_err());
    }
    println!("\nio_links: {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// True if the case must be skipped because this user has no TUN device. In CI that is a failure.
fn without_tun() -> bool {
    let forbidden = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun").err();
    if let Some(error) = &forbidden {
        assert!(std::env::var_os("CI").is_none(), "/dev/net/tun: {error}");
        println!("skipped: /dev/net/tun: {error}");
    }
    forbidden.is_some()
}

/// A host (the caller's namespace) and a remote, joined by a wire, with `eth0` at each end.
fn wire() -> Netns {
    let remote = Netns::create().unwrap();
    let here = Netlink::open().unwrap();
    here.set_up(here.link("lo").unwrap().unwrap().index, true).unwrap();
    join(&here, &remote);
    remote
}

fn join(here: &Netlink, remote: &Netns) {
    here.add_veth("eth0", "far").unwrap();
    let eth0 = here.link("eth0").unwrap().unwrap().index;
    here.move_to(here.link("far").unwrap().unwrap().index, std::os::fd::AsFd::as_fd(remote)).unwrap();
    here.add_address(eth0, HOST.into(), 24).unwrap();
    here.set_up(eth0, true).unwrap();
    remote
        .run(|| {
            let there = Netlink::open().unwrap();
            let far = there.link("far").unwrap().unwrap().index;
            there.rename(far, "eth0").unwrap();
            there.add_address(far, REMOTE.into(), 24).unwrap();
            there.set_up(far, true).unwrap();
            there.set_up(there.link("lo").unwrap().unwrap().index, true).unwrap();
        })
        .unwrap();
    wait_until_running(here);
    remote.run(|| wait_until_running(&Netlink::open().unwrap())).unwrap();
}

/// Waits until the kernel has noticed that both ends of the wire are up: until then it drops what is
/// sent.
fn wait_until_running(netlink: &Netlink) {
    for _ in 0..2500 {
        if netlink.link("eth0").unwrap().unwrap().running {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("eth0 does not come up");
}

fn wanted() -> Wanted {
    Wanted { addresses: vec![HOST.into()], ports: vec![PORT..=65535], ..Wanted::default() }
}

fn here() -> Netns {
    Netns::current().unwrap()
}

/// An IPv4 packet with whole checksums.
fn ip(protocol: u8, source: Ipv4Addr, destination: Ipv4Addr, transport: &[u8], field: usize) -> Vec<u8> {
    let length = u16::try_from(20 + transport.len()).unwrap();
    let mut bytes = vec![0x45, 0];
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    let sum = checksum::internet(&bytes);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(transport);
    let pseudo = checksum::pseudo_header(source, destination, protocol, length - 20);
    let sum = !checksum::add(pseudo, checksum::sum(&bytes[20..]));
    bytes[20 + field..22 + field].copy_from_slice(&sum.to_be_bytes());
    bytes
}

struct Tcp {
    source: (Ipv4Addr, u16),
    destination: (Ipv4Addr, u16),
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
        ip(6, self.source.0, self.destination.0, &bytes, 16)
    }
}

fn udp(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(source.1.to_be_bytes());
    bytes.extend(destination.1.to_be_bytes());
    bytes.extend((8 + payload.len() as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    ip(17, source.0, destination.0, &bytes, 6)
}

fn send(link: &mut dyn Link, packet: &[u8]) {
    deliver(link, &mut Buffer::from_bytes(packet), &mut Buffer::new()).unwrap();
}

/// Receives until a packet pleases; `None` if none comes in ten seconds.
fn receive(link: &mut dyn Link, pleases: impl FnMut(&Buffer) -> bool) -> Option<Buffer> {
    within(PATIENCE, link, pleases)
}

/// What should not come: receives for a second after the last packet that pleased.
fn unexpected(link: &mut dyn Link, pleases: impl FnMut(&Buffer) -> bool) -> Option<Buffer> {
    within(Duration::from_secs(1), link, pleases)
}

fn within(time: Duration, link: &mut dyn Link, mut pleases: impl FnMut(&Buffer) -> bool) -> Option<Buffer> {
    let mut buffer = Buffer::new();
    let until = now() + time;
    while now() < until {
        match link.recv(&mut buffer) {
            Ok(()) if pleases(&buffer) => return Some(buffer),
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                pause(link);
            }
        }
    }
    None
}

/// Waits until the link is readable, 10 ms at most.
fn pause(link: &dyn Link) {
    let fds = link.readable();
    let mut fds: Vec<_> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 10_000_000 })).unwrap();
}

fn seq(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[24..28].try_into().unwrap())
}

fn counter(link: &mut dyn Link, word: &str) -> u64 {
    link.counters().into_iter().find(|(name, _)| *name == word).unwrap().1
}

/// Frames of a kernel socket come out of the TAP, and ours go in.
fn tap(offload: bool) {
    if without_tun() {
        return;
    }
    let config = InsideConfig {
        tap: "tap0".into(),
        tap_fd: None,
        offload,
        bridge: Some("br0".into()),
        mtu: 1400,
        six: false,
    };
    let (mut tap, _made) = setup::inside(&config).unwrap();
    assert_eq!(tap.offloading(), offload);
    assert_eq!(tap.info().tcp4, offload);
    let netlink = Netlink::open().unwrap();
    let bridge = netlink.link("br0").unwrap().unwrap();
    netlink.add_address(bridge.index, HOST.into(), 24).unwrap();
    let device = netlink.link("tap0").unwrap().unwrap();
    assert_eq!((device.mtu, device.up, device.master), (1400, true, Some(bridge.index)));

    let socket = UdpSocket::bind((HOST, 5000)).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.send_to(b"ping", (REMOTE, 6000)).unwrap();
    let request = receive(&mut tap, |frame| frame.bytes()[12..14] == [8, 6]).expect("an ARP request");
    let mut reply = request.bytes().to_vec();
    reply[..6].copy_from_slice(&request.bytes()[6..12]);
    reply[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    reply[21] = 2;
    reply[22..28].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    reply[28..32].copy_from_slice(&REMOTE.octets());
    reply[32..42].copy_from_slice(&request.bytes()[22..32]);
    send(&mut tap, &reply);

    let frame = receive(&mut tap, |frame| frame.bytes()[12..14] == [8, 0] && frame.bytes()[23] == 17);
    let frame = frame.expect("the datagram");
    assert!(frame.bytes().ends_with(b"ping"));
    assert_eq!(frame.offload.checksum.is_some(), offload, "unfinished checksums only with offload");
    if !offload {
        assert_eq!(checksum::transport_is_right(&frame.bytes()[14..]), Some(true));
    }

    let mut answer = frame.bytes()[..14].to_vec();
    answer[..6].copy_from_slice(&frame.bytes()[6..12]);
    answer[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    answer.extend(udp((REMOTE, 6000), (HOST, 5000), b"pong"));
    let mut buffer = Buffer::from_bytes(&answer);
    if offload {
        // Only the pseudo-header sum: the kernel must not look at the checksum.
        buffer.drop_front(14);
        checksum::make_partial(&mut buffer, 0);
        buffer.push_front(&answer[..14]);
    }
    deliver(&mut tap, &mut buffer, &mut Buffer::new()).unwrap();
    let mut bytes = [0; 16];
    socket.set_nonblocking(false).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(socket.recv(&mut bytes).unwrap(), 4);
    assert_eq!(&bytes[..4], b"pong");
}

fn tap_errors() {
    if without_tun() {
        return;
    }
    for name in ["", "a-name-of-16-byte", "with space", "a/b"] {
        assert!(matches!(Tap::open(name, true, 1500), Err(TapError::Name(_))), "{name}");
    }
    for offload in [true, false] {
        let first = Tap::open("tap0", offload, 1500).unwrap();
        assert!(!first.persistent());
        for other in [true, false] {
            assert!(matches!(Tap::open("tap0", other, 1500), Err(TapError::Busy(_))));
        }
        drop(first);
        assert_eq!(Netlink::open().unwrap().link("tap0").unwrap(), None, "it goes with its descriptor");
    }
    let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
    tun::attach(&device, "many0", tun::TAP | tun::NO_PI | tun::MULTI_QUEUE).unwrap();
    Netlink::open().unwrap().add_veth("plain0", "plain1").unwrap();
    for name in ["many0", "plain0"] {
        for offload in [true, false] {
            let error = Tap::open(name, offload, 1500).unwrap_err();
            assert!(matches!(error, TapError::Unsuitable(_)), "{error}");
        }
    }
    assert!(matches!(Tap::adopt(-1, 1500), Err(TapError::Descriptor(-1, _))));
    assert!(matches!(Tap::adopt(1, 1500), Err(TapError::Descriptor(1, _))));
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let number = std::os::fd::IntoRawFd::into_raw_fd(socket);
    assert!(matches!(Tap::adopt(number, 1500), Err(TapError::Descriptor(..))));
    let number = std::os::fd::IntoRawFd::into_raw_fd(device);
    let adopted = Tap::adopt(number, 1500).unwrap();
    assert_eq!((adopted.name(), adopted.offloading()), ("many0", false));
    let mut adopted = adopted;
    let netlink = Netlink::open().unwrap();
    netlink.delete(netlink.link("many0").unwrap().unwrap().index).unwrap();
    let error = adopted.recv(&mut Buffer::new()).unwrap_err();
    assert!(!matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted), "{error}");
    assert!(adopted.reopen().is_err());
}

fn setup_undoes() {
    if without_tun() {
        return;
    }
    let netlink = Netlink::open().unwrap();
    let names = || {
        let mut names: Vec<_> = netlink.links().unwrap().into_iter().map(|link| link.name).collect();
        names.sort();
        names
    };
    let config = |bridge: &str| InsideConfig {
        tap: "tap0".into(),
        tap_fd: None,
        offload: true,
        bridge: Some(bridge.into()),
        mtu: 1500,
        six: false,
    };
    let before = names();
    let (tap, mut made) = setup::inside(&config("br0")).unwrap();
    assert!(names().contains(&"br0".to_owned()));
    made.undo().unwrap();
    made.undo().unwrap();
    drop((tap, made));
    assert_eq!(names(), before);

    netlink.add_bridge("br1").unwrap();
    let bridge = netlink.link("br1").unwrap().unwrap();
    drop(setup::inside(&config("br1")).unwrap());
    let mut after = netlink.link("br1").unwrap().unwrap();
    // A bridge takes its address from its ports, and zeros when the last one left.
    after.mac = bridge.mac;
    assert_eq!(after, bridge, "a bridge from before stays as it was");

    netlink.add_veth("plain0", "plain1").unwrap();
    assert!(matches!(setup::inside(&config("plain0")), Err(SetupError::NotABridge { .. })));
    assert_eq!(netlink.link("tap0").unwrap(), None);
}

fn outside_is_found() {
    let _remote = wire();
    let netlink = Netlink::open().unwrap();
    assert!(matches!(
        setup::outside(&netlink, None, &[Family::Four]),
        Err(SetupError::NoDefaultRoute(Family::Four))
    ));
    assert!(matches!(
        setup::outside(&netlink, Some("eth7"), &[Family::Four]),
        Err(SetupError::NoInterface(_))
    ));
    netlink.add_default_route(REMOTE.into()).unwrap();
    let outside = setup::outside(&netlink, None, &[Family::Four]).unwrap();
    assert_eq!(
        (outside.interface.name.as_str(), outside.addresses.as_slice()),
        ("eth0", &[IpAddr::from(HOST)][..])
    );
    netlink.add_veth("plain0", "plain1").unwrap();
    let plain = setup::outside(&netlink, Some("plain0"), &[Family::Four]).unwrap();
    assert!(matches!(plain.externals(Family::Four), Err(SetupError::NoAddress { .. })));
    assert!(matches!(PacketUplink::open("plain0", wanted()), Err(UplinkError::Down(_))));
    assert!(matches!(PacketUplink::open("eth7", wanted()), Err(UplinkError::NoInterface(_))));
    assert!(matches!(PacketUplink::open("lo", wanted()), Err(UplinkError::NotEthernet(_))));
}

fn packet_connection() {
    let remote = wire();
    let mut link = PacketUplink::open("eth0", wanted()).unwrap();
    connection(&mut link, &remote);
    assert!(counter(&mut link, "sent-through-kernel") >= 1, "the kernel found the neighbour");
    assert_eq!(counter(&mut link, "send-failed"), 0);
    // From now on the neighbour is known.
    let before = counter(&mut link, "sent-through-kernel");
    send(&mut link, &udp((HOST, PORT), (REMOTE, 9), b"x"));
    assert_eq!(counter(&mut link, "sent-through-kernel"), before);
}

fn raw_connection() {
    let remote = wire();
    let chosen = uplink::open(Some(uplink::Kind::Raw), "eth0", &wanted(), 1400).unwrap();
    let mut link = chosen.link;
    connection(link.as_mut(), &remote);
    let mut big = Buffer::from_bytes(&udp((HOST, PORT), (REMOTE, 9), &[0; 1600]));
    assert_eq!(link.send(&mut big).unwrap_err().raw_os_error(), Some(libc::EMSGSIZE));
    assert_eq!(counter(link.as_mut(), "too-big"), 1);
}

/// A TCP connection made by hand from a leased port: super-frames both ways, and a host that does
/// not say a word.
fn connection(link: &mut dyn Link, remote: &Netns) {
    let mut guard = Guard::new(Some(Kind::Hold), false, 0, &[HOST.into()]).unwrap();
    guard.lease(Protocol::Tcp, Endpoint::new(HOST, PORT)).unwrap();
    let before = Counters::read(&here()).unwrap();
    let listener = remote.run(|| TcpListener::bind((REMOTE, 80)).unwrap()).unwrap();

    let mut tcp = Tcp { source: (HOST, PORT), destination: (REMOTE, 80), seq: 1000, ack: 0 };
    send(link, &tcp.segment(SYN, &[]));
    let answer = receive(link, |packet| packet.bytes()[33] == SYN_ACK).expect("a SYN-ACK");
    tcp.seq += 1;
    tcp.ack = seq(answer.bytes()) + 1;
    send(link, &tcp.segment(ACK, &[]));
    let (mut stream, peer) = listener.accept().unwrap();
    assert_eq!(peer, SocketAddr::from((HOST, PORT)));

    stream.write_all(&[7; 20_000]).unwrap();
    let end = tcp.ack + 20_000;
    let mut merged = 0;
    while tcp.ack != end {
        let Some(packet) = receive(link, |packet| packet.len() > 40) else { break };
        let bytes = packet.bytes();
        let payload = bytes.len() - 40;
        assert!(bytes[40..].iter().all(|byte| *byte == 7));
        assert_eq!(checksum_state(&packet), Some(true));
        match packet.offload.segment {
            Some(segment) => {
                assert_eq!((segment.kind, segment.header), (SegmentKind::Tcp4, 40));
                assert!(segment.size <= 1460 && packet.offload.checksum.is_some());
                merged += 1;
            }
            None => assert!(packet.len() <= 1500),
        }
        if seq(bytes) == tcp.ack {
            tcp.ack += u32::try_from(payload).unwrap();
        }
        send(link, &tcp.segment(ACK, &[]));
    }
    assert_eq!(tcp.ack, end, "all of it came");
    assert!(merged > 0, "the kernel's super-frames came whole");

    let text: Vec<u8> = (0..10_000u32).map(|n| n as u8).collect();
    let mut buffer = Buffer::from_bytes(&tcp.segment(PSH_ACK, &text));
    checksum::make_partial(&mut buffer, 0);
    buffer.offload.segment = Some(Segment { kind: SegmentKind::Tcp4, size: 1460, header: 40, ecn: false });
    deliver(link, &mut buffer, &mut Buffer::new()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut received = vec![0; text.len()];
    stream.read_exact(&mut received).unwrap();
    assert!(received == text);

    let after = Counters::read(&here()).unwrap();
    assert_eq!(after.get("Tcp: OutRsts"), before.get("Tcp: OutRsts"));
    let remote_counters = Counters::read(remote).unwrap();
    assert_eq!(remote_counters.get("Tcp: InCsumErrors"), 0);
}

/// Whether the checksum is right, whole or begun.
fn checksum_state(packet: &Buffer) -> Option<bool> {
    let bytes = packet.bytes();
    if let Some(PartialChecksum { start, offset }) = packet.offload.checksum {
        let at = usize::from(start + offset);
        let address = |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
        let length = u16::try_from(bytes.len() - usize::from(start)).unwrap();
        let pseudo = checksum::pseudo_header(address(12), address(16), bytes[9], length);
        return Some(bytes[at..at + 2] == pseudo.to_be_bytes());
    }
    checksum::transport_is_right(bytes)
}

fn packet_interface_vanishes() {
    let remote = wire();
    let link = PacketUplink::open("eth0", wanted()).unwrap();
    vanishes(Box::new(link), &remote);
}

fn raw_interface_vanishes() {
    let remote = wire();
    vanishes(Box::new(RawUplink::wire("eth0", wanted(), 1500).unwrap()), &remote);
}

fn vanishes(mut link: Box<dyn Link>, remote: &Netns) {
    let netlink = Netlink::open().unwrap();
    let hello = udp((REMOTE, 9), (HOST, PORT), b"hello");
    let far = || remote.run(|| send(&mut RawSender::open(Some("eth0"), 1500).unwrap(), &hello)).unwrap();
    far();
    assert!(receive(link.as_mut(), |packet| packet.bytes().ends_with(b"hello")).is_some());

    netlink.delete(netlink.link("eth0").unwrap().unwrap().index).unwrap();
    let mut buffer = Buffer::new();
    let error = (0..1000).find_map(|_| match link.recv(&mut buffer) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            pause(link.as_ref());
            None
        }
        other => other.err(),
    });
    let error = error.expect("an error that says so");
    assert!(error.kind() != ErrorKind::Interrupted, "{error}");
    assert!(link.send(&mut Buffer::from_bytes(&udp((HOST, PORT), (REMOTE, 9), b"x"))).is_err());
    assert!(link.reopen().is_err(), "there is nothing to open yet");

    join(&netlink, remote);
    link.reopen().unwrap();
    far();
    assert!(receive(link.as_mut(), |packet| packet.bytes().ends_with(b"hello")).is_some());
}

fn neighbor_changes() {
    let remote = wire();
    let mut link = PacketUplink::open("eth0", wanted()).unwrap();
    let socket = remote.run(|| UdpSocket::bind((REMOTE, 9)).unwrap()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let say = |link: &mut PacketUplink| {
        send(link, &udp((HOST, PORT), (REMOTE, 9), b"x"));
        socket.recv(&mut [0; 16])
    };
    say(&mut link).unwrap();
    let _ = unexpected(&mut link, |_| false);
    let through_kernel = counter(&mut link, "sent-through-kernel");
    say(&mut link).unwrap();
    assert_eq!(counter(&mut link, "sent-through-kernel"), through_kernel, "the neighbour is known");

    // The remote gets another network card; the kernel hears of it by ARP, and we from the kernel.
    remote
        .run(|| {
            let there = Netlink::open().unwrap();
            let eth0 = there.link("eth0").unwrap().unwrap().index;
            there.set_up(eth0, false).unwrap();
            there.set_mac(eth0, [2, 0, 0, 0, 7, 7]).unwrap();
            there.set_up(eth0, true).unwrap();
        })
        .unwrap();
    // The kernel believes nobody in the first second after it has learnt something else of the same
    // neighbour, and forgets what it is told of an interface that is not yet running.
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let reached = (0..10).any(|_| {
        let ask = || UdpSocket::bind((REMOTE, 0)).unwrap().send_to(b"x", (HOST, 7));
        let _ = remote.run(ask).unwrap();
        let _ = unexpected(&mut link, |_| false);
        say(&mut link).is_ok()
    });
    assert!(reached, "it reaches the new card");
}

fn host_link() {
    let remote = wire();
    let mut host = RawUplink::host(wanted(), 1500).unwrap();
    let mut wire = RawUplink::wire("eth0", wanted(), 1500).unwrap();
    let mut guard = Guard::new(Some(Kind::Hold), false, 0, &[HOST.into()]).unwrap();
    guard.lease(Protocol::Tcp, Endpoint::new(HOST, PORT)).unwrap();
    let before = Counters::read(&here()).unwrap();

    let service = TcpListener::bind((HOST, 8080)).unwrap();
    let mut tcp = Tcp { source: (HOST, PORT), destination: (HOST, 8080), seq: 1000, ack: 0 };
    send(&mut host, &tcp.segment(SYN, &[]));
    let answer = receive(&mut host, |packet| packet.bytes()[33] == SYN_ACK).expect("the host's answer");
    assert_eq!(checksum_state(&answer), Some(true));
    tcp.seq += 1;
    tcp.ack = seq(answer.bytes()) + 1;
    send(&mut host, &tcp.segment(ACK, &[]));
    let (mut stream, _) = service.accept().unwrap();
    stream.write_all(&[7; 8_000]).unwrap();
    let merged = unexpected(&mut host, |packet| packet.offload.segment.is_some());
    if let Some(merged) = merged {
        assert_eq!(merged.offload.segment.unwrap().size, 1460);
        assert_eq!(checksum_state(&merged), Some(true));
    }
    assert!(unexpected(&mut wire, |_| true).is_none(), "the wire's link sees nothing of it");

    // The host's own pings to its own address are no business of ours; a ping of ours is answered.
    let mut echo = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1];
    let sum = checksum::internet(&echo);
    echo[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut ping = ip(1, HOST, HOST, &echo, 0);
    ping[20..28].copy_from_slice(&echo);
    send(&mut host, &ping);
    let pong = receive(&mut host, |packet| packet.bytes()[9] == 1).expect("an answer");
    assert_eq!(pong.bytes()[20], 0, "the answer, not our own question");

    // A datagram of loopback's size, with DF, is one that the gateway may cut for the inside.
    let service = UdpSocket::bind((HOST, 5353)).unwrap();
    service.send_to(&[3; 5000], (HOST, PORT)).unwrap();
    let big = receive(&mut host, |packet| packet.len() == 5028).expect("the datagram");
    assert_eq!(big.bytes()[6] & 0x40, 0);
    assert_eq!((big.offload, checksum_state(&big)), (Offload::default(), Some(true)));

    let hello = udp((REMOTE, 9), (HOST, PORT), b"hello");
    remote.run(|| send(&mut RawSender::open(Some("eth0"), 1500).unwrap(), &hello)).unwrap();
    assert!(receive(&mut wire, |packet| packet.bytes().ends_with(b"hello")).is_some());
    assert!(unexpected(&mut host, |packet| packet.bytes().ends_with(b"hello")).is_none());
    drop(stream);
    let after = Counters::read(&here()).unwrap();
    assert_eq!(after.get("Tcp: OutRsts"), before.get("Tcp: OutRsts"));
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

fn answers() -> (i64, i64) {
    let counters = Counters::read(&here()).unwrap();
    let tcp = counters.get("Tcp: OutRsts") + counters.get("Tcp: PassiveOpens");
    (tcp, counters.get("Icmp: OutDestUnreachs"))
}

/// What the host has said when it has answered more than `before` in both ways and falls silent, or
/// after five seconds.
fn answered(answers: impl Fn() -> (i64, i64), before: (i64, i64)) -> (i64, i64) {
    let mut last = answers();
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(50));
        let next = answers();
        if next == last && next.0 > before.0 && next.1 > before.1 {
            break;
        }
        last = next;
    }
    last
}

fn guard_is_silent(kind: Kind) {
    let remote = wire();
    let eth0 = Netlink::open().unwrap().link("eth0").unwrap().unwrap().index;
    let guard = Guard::new(Some(kind), true, eth0, &[HOST.into()]);
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
    }
    assert_eq!(guard.held(), 2);
    for _ in 0..20 {
        pester(&remote, PORT + 1);
    }
    assert_eq!(answers(), unguarded, "with one it does not say a word");
    let mut seen = 0;
    let to_port = |packet: &Buffer| packet.bytes()[22..24] == (PORT + 1).to_be_bytes();
    while unexpected(&mut link, to_port).is_some() {
        seen += 1;
    }
    assert_eq!(seen, 120, "and the gateway sees every packet");

    for protocol in [Protocol::Tcp, Protocol::Udp] {
        guard.release(protocol, Endpoint::new(HOST, PORT + 1));
    }
    pester(&remote, PORT + 1);
    let released = answered(answers, unguarded);
    assert!(released.0 > unguarded.0 && released.1 > unguarded.1, "a released port is the host's again");
    drop(guard);
    assert!(matches!(Guard::new(Some(Kind::Tcx), false, eth0, &[HOST.into()]), Err(GuardError::RawUplink)));
    let chosen = Guard::new(None, false, eth0, &[HOST.into()]).unwrap();
    assert_eq!((chosen.kind(), chosen.why()), (Kind::Hold, "tcx stands in front of raw IP sockets"));
    for ask in [None, Some(Kind::Hold), Some(Kind::Tcx)] {
        let stranger = Guard::new(ask, true, eth0, &[HOST.into(), REMOTE.into()]);
        assert!(matches!(stranger, Err(GuardError::NotLocal(ip)) if ip == REMOTE), "{ask:?}: {stranger:?}");
    }
    assert!(Guard::new(Some(Kind::Off), true, eth0, &[REMOTE.into()]).is_ok());
}

fn tcx_alone() {
    let remote = wire();
    let eth0 = Netlink::open().unwrap().link("eth0").unwrap().unwrap().index;
    let tcx = match Tcx::attach(eth0, &[Ipv4Addr::new(198, 51, 100, 1).into(), HOST.into()]) {
        Ok(tcx) => tcx,
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "{error}");
            return println!("skipped: tcx: {error}");
        }
    };
    drop(Tcx::attach(eth0, &[]).expect("a program for no address lets all pass"));
    let many: Vec<_> = (0..300).map(|n| IpAddr::from(Ipv4Addr::from_bits(HOST.to_bits() + n))).collect();
    drop(Tcx::attach(eth0, &many).expect("one for as many as fit is taken too"));
    let start = answers();
    for port in [PORT, 65535, 1] {
        tcx.set(Protocol::Tcp, Endpoint::new(HOST, port), true);
        tcx.set(Protocol::Udp, Endpoint::new(HOST, port), true);
        pester(&remote, port);
    }
    assert_eq!(answers(), start);
    tcx.set(Protocol::Udp, Endpoint::new(HOST, PORT), false);
    pester(&remote, PORT);
    let both = answered(answers, (start.0 - 1, start.1));
    assert_eq!(both, (start.0, start.1 + 1), "one protocol's bit is not the other's");
    pester(&remote, PORT + 1);
    assert!(answered(answers, both).0 > start.0, "a neighbouring port is not touched");
    let before = answers();
    tcx.set(Protocol::Tcp, Endpoint::new(Ipv4Addr::new(198, 51, 100, 1), PORT + 1), true);
    pester(&remote, PORT + 1);
    assert!(answered(answers, before).0 > before.0, "nor is the same port of another address");
    let before = answers();
    drop(tcx);
    pester(&remote, 65535);
    assert!(answered(answers, before).0 > before.0, "gone with its descriptor");
}

fn leases() {
    let remote = wire();
    let mut guard = Guard::new(Some(Kind::Hold), false, 0, &[HOST.into()]).unwrap();
    let mut lease = |protocol, port| guard.lease(protocol, Endpoint::new(HOST, port));
    let taken = |result| matches!(result, Err(LeaseError::Taken { .. }));

    let any = TcpListener::bind(("0.0.0.0", 61001)).unwrap();
    let own = TcpListener::bind((HOST, 61002)).unwrap();
    let datagrams = UdpSocket::bind(("0.0.0.0", 61003)).unwrap();
    assert!(taken(lease(Protocol::Tcp, 61001)) && taken(lease(Protocol::Tcp, 61002)));
    assert!(taken(lease(Protocol::Udp, 61003)));
    lease(Protocol::Udp, 61001).unwrap();
    drop((any, own, datagrams));
    lease(Protocol::Tcp, 61002).unwrap();

    let listener = remote.run(|| TcpListener::bind((REMOTE, 80)).unwrap()).unwrap();
    let client = TcpStream::connect((REMOTE, 80)).unwrap();
    let local = client.local_addr().unwrap().port();
    assert!(taken(lease(Protocol::Tcp, local)), "a connected client has its port");
    let (accepted, _) = listener.accept().unwrap();
    drop(client);
    drop(accepted);
    std::thread::sleep(Duration::from_millis(50));
    assert!(taken(lease(Protocol::Tcp, local)), "and keeps it in TIME_WAIT");
    let client = UdpSocket::bind("0.0.0.0:0").unwrap();
    client.connect((REMOTE, 80)).unwrap();
    assert!(taken(lease(Protocol::Udp, client.local_addr().unwrap().port())));

    for address in [Ipv4Addr::UNSPECIFIED, HOST] {
        let error = TcpListener::bind((address, 61002)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        let error = UdpSocket::bind((address, 61001)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
    }

    // The kernel's own choice of ports steps around leased ones.
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "62000 62003").unwrap();
    for port in [62000, 62001, 62003] {
        lease(Protocol::Tcp, port).unwrap();
        lease(Protocol::Udp, port).unwrap();
    }
    let client = TcpStream::connect((REMOTE, 80)).unwrap();
    assert_eq!(client.local_addr().unwrap().port(), 62002);
    assert_eq!(TcpStream::connect((REMOTE, 80)).unwrap_err().kind(), ErrorKind::AddrNotAvailable);
    let datagrams = UdpSocket::bind("0.0.0.0:0").unwrap();
    assert_eq!(datagrams.local_addr().unwrap().port(), 62002);
    assert!(UdpSocket::bind("0.0.0.0:0").is_err());

    let stranger = guard.lease(Protocol::Tcp, Endpoint::new(REMOTE, 61005));
    assert!(matches!(stranger, Err(LeaseError::NotLocal(_))));
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(3), maximum: limit.maximum }).unwrap();
    let out = guard.lease(Protocol::Tcp, Endpoint::new(HOST, 61010));
    setrlimit(Resource::Nofile, limit).unwrap();
    assert!(matches!(out, Err(LeaseError::OutOfDescriptors { limit: 3, .. })), "{out:?}");
    guard.lease(Protocol::Tcp, Endpoint::new(HOST, 61010)).unwrap();
}

/// A super-frame reaches a plain link in pieces with whole checksums, and an offloading one whole.
fn deliver_cuts() {
    let tcp = Tcp { source: (HOST, PORT), destination: (REMOTE, 80), seq: 0, ack: 0 };
    for (info, pieces) in [(LinkInfo::plain(1500, 0), 3), (LinkInfo::offloading(1500, 0), 1)] {
        let (mut near, mut far) = Memory::pair(["near", "far"], [info; 2], 8).unwrap();
        let mut buffer = Buffer::from_bytes(&tcp.segment(PSH_ACK, &[5; 3000]));
        checksum::make_partial(&mut buffer, 0);
        let whole = buffer.offload;
        buffer.offload.segment =
            Some(Segment { kind: SegmentKind::Tcp4, size: 1460, header: 40, ecn: false });
        deliver(&mut near, &mut buffer, &mut Buffer::new()).unwrap();
        let mut payload = 0;
        for _ in 0..pieces {
            far.recv(&mut buffer).unwrap();
            payload += buffer.len() - 40;
            assert_eq!(buffer.offload == Offload::default(), pieces > 1);
            assert_eq!(checksum_state(&buffer), Some(true));
        }
        assert_eq!(payload, 3000);
        assert_eq!(far.recv(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);

        let mut buffer = Buffer::from_bytes(&tcp.segment(PSH_ACK, &[5; 100]));
        checksum::make_partial(&mut buffer, 0);
        assert_eq!(buffer.offload, whole);
        deliver(&mut near, &mut buffer, &mut Buffer::new()).unwrap();
        far.recv(&mut buffer).unwrap();
        assert_eq!(buffer.offload.checksum.is_none(), pieces > 1);
        assert_eq!(checksum_state(&buffer), Some(true));
    }
}
