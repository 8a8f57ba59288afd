//! IPv6 through the gateway, beside IPv4: what containers do, what a router owes them, and what the
//! host must not notice.

use crate::lab_setup::*;
use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;
use tapnat::io::deliver;
use tapnat::io::netlink::{Family, Netlink};
use tapnat::io::sys::netns::Netns;
use tapnat::io::uplink::sender::RawSender;
use tapnat::lab::netns::sysctl;
use tapnat::lab::product::Product;
use tapnat::lab::programs::counters::Counters;
use tapnat::lab::programs::icmp6::{Answer6, Ping6};
use tapnat::lab::programs::pattern::{self, Pattern};
use tapnat::lab::programs::sniffer::{Report, Sniffer};
use tapnat::lab::programs::{Server, bulk, dns, http, udp};
use tapnat::lab::topology::{
    BRIDGE, CONTAINERS_SIX, GATEWAY_SIX, HOST, HOST_SIX, INSIDE, INSIDE_SIX, Options, ROUTER_SIX, SERVERS,
    SERVERS_SIX, UPLINK, WithSix,
};
use tapnat::wire::Buffer;

/// A test that takes a form of the gateway, by its name.
type Named = (&'static str, fn(Form));

/// Tests that run on every form of the gateway.
pub const EVERY_FORM: [Named; 8] = [
    ("ping_from_both", ping_from_both),
    ("http_from_both", http_from_both),
    ("dns_from_both", dns_from_both),
    ("udp_of_every_size", udp_of_every_size),
    ("bulk_both_ways", bulk_both_ways),
    ("published_ports_are_reached_from_outside", published_ports_are_reached_from_outside),
    ("containers_reach_the_hosts_own_services", containers_reach_the_hosts_own_services),
    ("too_big_for_outside_is_told", too_big_for_outside_is_told),
];

/// Tests to which only the uplink matters.
pub const EVERY_UPLINK: [Named; 12] = [
    ("last_hop_gives_time_exceeded", last_hop_gives_time_exceeded),
    ("too_big_for_inside_is_told_outside", too_big_for_inside_is_told_outside),
    ("a_container_configures_itself", a_container_configures_itself),
    ("nothing_is_advertised_unasked_for", nothing_is_advertised_unasked_for),
    ("ipv6_alone_and_beside_ipv4", ipv6_alone_and_beside_ipv4),
    ("a_prefix_is_translated_whole", a_prefix_is_translated_whole),
    ("a_prefix_without_a_way_out_is_told", a_prefix_without_a_way_out_is_told),
    ("pool_addresses_are_answered_for_outside", pool_addresses_are_answered_for_outside),
    ("hairpin_between_containers", hairpin_between_containers),
    ("inside_addresses_never_leave", inside_addresses_never_leave),
    ("the_hosts_own_connections_are_undisturbed", the_hosts_own_connections_are_undisturbed),
    ("sigterm_leaves_nothing_behind", sigterm_leaves_nothing_behind),
];

/// Bytes of a bulk transfer in each direction.
const BULK: u64 = 32 << 20;
const BOTH: [&str; 4] = ["--inside", INSIDE, "--inside", INSIDE_SIX];

/// A lab with IPv6 and a gateway of both families.
struct Six {
    setup: Setup,
    _servers: Vec<Server>,
}

impl std::ops::Deref for Six {
    type Target = Setup;

    fn deref(&self) -> &Setup {
        &self.setup
    }
}

fn world(options: Options) -> (World, Vec<Server>) {
    let world = World::new(options);
    let internet = world.on("internet");
    let zone = vec![("www.example.org".to_owned(), SERVERS[0])];
    let mut servers = vec![dns::serve(internet, at(ROUTER_SIX, 53), zone).unwrap()];
    for ip in SERVERS_SIX {
        servers.push(http::serve(internet, at(ip, 80)).unwrap());
        servers.push(bulk::serve(internet, at(ip, 5001)).unwrap());
        servers.push(udp::serve(internet, at(ip, 7)).unwrap());
    }
    (world, servers)
}

fn start(form: Form, options: Options, more: &[&str]) -> Six {
    let (world, servers) = world(options);
    let arguments: Vec<&str> = BOTH.into_iter().chain(more.iter().copied()).collect();
    let gateway = world.gateway(form, &arguments);
    Six { setup: Setup { gateway, world }, _servers: servers }
}

fn fixed() -> Options {
    Options { six: WithSix::Fixed, ..Options::default() }
}

fn plain(form: Form) -> Six {
    start(form, fixed(), &[])
}

fn at(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

fn ping(netns: &Netns, destination: Ipv6Addr) -> Answer6 {
    netns.run(|| Ping6::new(destination, 1).send(SOON).unwrap()).unwrap()
}

fn assert_ping(netns: &Netns, destination: Ipv6Addr) {
    let answer = ping(netns, destination);
    assert!(matches!(answer, Answer6::Reply { .. }), "ping {destination}: {answer:?}");
}

/// Whom the server at `server` sees when `netns` asks it.
fn seen_as(netns: &Netns, server: SocketAddr) -> IpAddr {
    let response = page(netns, server, "/").unwrap();
    let text = String::from_utf8(response.body).unwrap();
    text.trim().strip_prefix("hello ").unwrap().parse::<SocketAddr>().unwrap().ip()
}

/// What the host's stack has said that it should not have.
fn complaints(world: &World) -> Vec<i64> {
    let counters = Counters::read(world.on("host")).unwrap();
    let words = [
        "Tcp: OutRsts",
        "Icmp: OutDestUnreachs",
        "Icmp6OutDestUnreachs",
        "Icmp6OutTimeExcds",
        "Icmp6OutParmProblems",
        "Icmp6OutPktTooBigs",
        "Icmp6OutRedirects",
        "Ip6OutForwDatagrams",
    ];
    words.into_iter().map(|word| counters.get(word)).collect()
}

fn ping_from_both(form: Form) {
    let six = plain(form);
    let before = complaints(&six.world);
    for container in ["red", "blue"] {
        for destination in [GATEWAY_SIX, ROUTER_SIX, SERVERS_SIX[0], SERVERS_SIX[1]] {
            assert_ping(six.on(container), destination);
        }
    }
    // In fragments, of the container's and of the server's making.
    let big = Ping6 { length: 4000, ..Ping6::new(SERVERS_SIX[0], 2) };
    let answer = six.on("red").run(|| big.send(SOON).unwrap()).unwrap();
    assert!(matches!(answer, Answer6::Reply { length: 3952, .. }), "{answer:?}");
    assert_eq!(complaints(&six.world), before);
    six.world.assert_checksums_right();
}

fn http_from_both(form: Form) {
    let six = plain(form);
    let before = complaints(&six.world);
    for container in ["red", "blue"] {
        for server in SERVERS_SIX {
            assert_eq!(seen_as(six.on(container), at(server, 80)), HOST_SIX);
            let download = page(six.on(container), at(server, 80), "/bytes/1000000").unwrap();
            assert_eq!((download.length, download.sum), (1_000_000, pattern::expected(1_000_000, 1_000_000)));
        }
    }
    assert_eq!(complaints(&six.world), before);
    six.world.assert_checksums_right();
}

fn dns_from_both(form: Form) {
    let six = plain(form);
    for container in ["red", "blue"] {
        let resolve = |name| dns::resolve(at(ROUTER_SIX, 53), name, SOON).unwrap();
        let ask = |name| six.on(container).run(|| resolve(name)).unwrap();
        assert_eq!(ask("www.example.org"), Some(SERVERS[0]));
        assert_eq!(ask("no.example.org"), None);
    }
}

fn udp_of_every_size(form: Form) {
    let six = plain(form);
    let before = complaints(&six.world);
    for container in ["red", "blue"] {
        for length in [0, 1, 100, 1451, 1452, 1453, 4000, 9000, 60000] {
            let mut message = vec![0; length];
            Pattern::new(length as u64).fill(&mut message);
            let answer = six.on(container).run(|| udp::ask(at(SERVERS_SIX[0], 7), &message, SOON)).unwrap();
            let answer = answer.unwrap_or_else(|error| panic!("{length} bytes: {error}"));
            assert!(answer == message, "{length} bytes");
        }
    }
    assert_eq!(complaints(&six.world), before);
    six.world.assert_checksums_right();
}

/// Each way, with every checksum on the wire verified by an oracle of its own, on every kind of wire.
fn bulk_both_ways(form: Form) {
    for (inside_offloads, outside_offloads) in [(true, true), (false, false), (true, false), (false, true)] {
        let six = start(form, Options { inside_offloads, outside_offloads, ..fixed() }, &[]);
        let before = complaints(&six.world);
        let nets = || vec![INSIDE.parse().unwrap(), INSIDE_SIX.parse().unwrap()];
        let outside_tap = Sniffer::start_for(six.on("internet"), UPLINK, nets()).unwrap();
        let inside_tap = Sniffer::start_for(six.on("red"), UPLINK, nets()).unwrap();
        six.on("red")
            .run(|| {
                bulk::get(at(SERVERS_SIX[0], 5001), BULK, LATER).unwrap();
                bulk::put(at(SERVERS_SIX[1], 5001), BULK, LATER).unwrap();
            })
            .unwrap();
        let (outside, inside) = (outside_tap.stop(), inside_tap.stop());
        six.world.assert_checksums_right();
        assert_eq!(complaints(&six.world), before);
        assert_eq!(outside.inside_sources, 0, "inside addresses seen outside");
        for (side, report, offloads) in
            [("outside", outside, outside_offloads), ("inside", inside, inside_offloads)]
        {
            assert_eq!(report.faults, 0, "{side}: {:#?}", report.fault_words);
            assert!(report.frames > 500, "{side}: {} frames seen", report.frames);
            if !offloads {
                assert_eq!(report.partial, 0, "{side}: unfinished checksums on a wire without offloads");
                assert!(report.longest <= 1514, "{side}: a frame of {} bytes", report.longest);
            }
        }
    }
}

fn published_ports_are_reached_from_outside(form: Form) {
    let publish = ["--publish", "8080:[fd00:88::2]:80/tcp", "--publish", "7007:[fd00:88::3]:7/udp"];
    let six = start(form, fixed(), &publish);
    let before = complaints(&six.world);
    let _web = http::serve(six.on("red"), at(CONTAINERS_SIX[0], 80)).unwrap();
    let _echo = udp::serve(six.on("blue"), at(CONTAINERS_SIX[1], 7)).unwrap();
    assert_eq!(seen_as(six.on("internet"), at(HOST_SIX, 8080)), ROUTER_SIX, "who really asks");
    assert_eq!(page(six.on("internet"), at(HOST_SIX, 8080), "/bytes/2000000").unwrap().length, 2_000_000);
    let echo = six.on("internet").run(|| udp::ask(at(HOST_SIX, 7007), b"knock", SOON)).unwrap();
    assert_eq!(echo.unwrap(), b"knock");
    assert_eq!(complaints(&six.world), before);
    six.world.assert_checksums_right();
}

fn containers_reach_the_hosts_own_services(form: Form) {
    let six = plain(form);
    let before = complaints(&six.world);
    let _server = http::serve(six.on("host"), at(HOST_SIX, 8080)).unwrap();
    for container in ["red", "blue"] {
        let download = page(six.on(container), at(HOST_SIX, 8080), "/bytes/3000000").unwrap();
        assert_eq!(download.length, 3_000_000);
        assert_ping(six.on(container), HOST_SIX);
    }
    assert_eq!(complaints(&six.world), before);
    six.world.assert_checksums_right();
}

fn too_big_for_outside_is_told(form: Form) {
    let six = start(form, Options { outside_mtu: 1280, ..fixed() }, &[]);
    let ping = |sequence| {
        let ping = Ping6 { length: 1400, ..Ping6::new(SERVERS_SIX[0], sequence) };
        six.on("red").run(|| ping.send(SOON).unwrap()).unwrap()
    };
    assert_eq!(ping(1), Answer6::Error { from: GATEWAY_SIX, kind: 2, code: 0, mtu: 1280 });
    assert!(matches!(ping(2), Answer6::Reply { .. }), "the container has learnt to send fragments");
    let (up, down) = six
        .on("blue")
        .run(|| {
            let server = at(SERVERS_SIX[0], 5001);
            (bulk::put(server, 4 << 20, SOON), bulk::get(server, 4 << 20, SOON))
        })
        .unwrap();
    up.unwrap();
    down.unwrap();
    six.world.assert_checksums_right();
}

/// What is too big for the inside is told to its sender outside, in the name of the address that it
/// sent to.
fn too_big_for_inside_is_told_outside(form: Form) {
    let six = start(form, Options { inside_mtu: 1280, ..fixed() }, &["--mtu", "1280"]);
    let heard = || Counters::read(six.on("internet")).unwrap().get("Icmp6InPktTooBigs");
    assert_eq!(heard(), 0);
    let message = [7; 1400];
    let ask = |patience| six.on("red").run(|| udp::ask(at(SERVERS_SIX[0], 7), &message, patience)).unwrap();
    assert!(ask(SOON / 5).is_err(), "the answer of 1448 bytes is lost");
    eventually("and its sender told", SOON, || heard() == 1);
    assert_eq!(ask(SOON).unwrap(), message, "it sends fragments from then on");
}

fn last_hop_gives_time_exceeded(form: Form) {
    let six = plain(form);
    let ping = |hop_limit| {
        let ping = Ping6 { hop_limit, ..Ping6::new(SERVERS_SIX[0], hop_limit.into()) };
        six.on("red").run(|| ping.send(SOON).unwrap()).unwrap()
    };
    assert_eq!(ping(1), Answer6::Error { from: GATEWAY_SIX, kind: 3, code: 0, mtu: 0 });
    assert!(matches!(ping(2), Answer6::Reply { .. }));
}

/// Addresses of an interface that are global and ready for use.
fn ready(netns: &Netns, interface: &'static str) -> Vec<Ipv6Addr> {
    let list = || {
        let netlink = Netlink::open().unwrap();
        let index = netlink.link(interface).unwrap().unwrap().index;
        let all = netlink.address_facts().unwrap();
        all.into_iter().filter(|address| address.ifindex == index && !address.tentative).collect::<Vec<_>>()
    };
    let global = |address: &tapnat::io::netlink::Address| match address.ip {
        IpAddr::V6(ip) if !ip.is_unicast_link_local() => Some(ip),
        _ => None,
    };
    netns.run(list).unwrap().iter().filter_map(global).collect()
}

fn a_container_configures_itself(form: Form) {
    let options = Options { six: WithSix::Advertised, inside_mtu: 1400, ..Options::default() };
    let Six { mut setup, _servers } = start(form, options, &["--mtu", "1400"]);
    let world = &setup.world;
    let red = world.on("red");
    eventually("an address by advertisement", SOON * 4, || !ready(red, UPLINK).is_empty());
    let own = ready(red, UPLINK)[0];
    assert_eq!(own.segments()[..4], GATEWAY_SIX.segments()[..4], "of the advertised prefix");
    let router = default_route(world, "red").expect("a default route");
    assert!(matches!(router, IpAddr::V6(ip) if ip.is_unicast_link_local()), "{router}");
    let mtu = red.run(|| sysctl("net/ipv6/conf/eth0/mtu").unwrap()).unwrap();
    assert_eq!(mtu, "1400", "and the MTU");
    assert_eq!(seen_as(red, at(SERVERS_SIX[0], 80)), HOST_SIX);
    assert_eq!(page(red, at(SERVERS_SIX[0], 80), "/bytes/1000000").unwrap().length, 1_000_000);
    // The host, which believes advertisements on its other interfaces, takes none of ours.
    assert_eq!(ready(world.on("host"), BRIDGE), [] as [Ipv6Addr; 0]);
    assert_eq!(default_route(world, "host"), Some(ROUTER_SIX.into()));
    // The last advertisement takes the router back (RFC 4861 section 6.2.5).
    setup.gateway.0.terminate(SOON).unwrap().expect("it ends when it is asked to");
    eventually("the container has no router", SOON, || default_route(&setup.world, "red").is_none());
}

fn default_route(world: &World, host: &str) -> Option<IpAddr> {
    let route = world.on(host).run(|| Netlink::open().unwrap().default_route(Family::Six).unwrap());
    route.unwrap().and_then(|route| route.gateway)
}

fn nothing_is_advertised_unasked_for(form: Form) {
    let options = Options { six: WithSix::Advertised, ..Options::default() };
    let six = start(form, options, &["--advertise", "off"]);
    crate::lab_setup::assert_ping(six.on("red"), SERVERS[0]);
    // A kernel asks for routers three times, four seconds apart, and the first time within one.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(ready(six.on("red"), UPLINK), [] as [Ipv6Addr; 0]);
}

fn ipv6_alone_and_beside_ipv4(form: Form) {
    let (world, _servers) = world(fixed());
    let gateway = world.gateway(form, &["--inside", INSIDE_SIX]);
    let setup = Setup { gateway, world };
    assert_eq!(seen_as(setup.on("red"), at(SERVERS_SIX[0], 80)), HOST_SIX);
    let four = setup.on("red").run(|| http::get(at(SERVERS[0], 80), "/", SOON / 10)).unwrap();
    assert!(four.is_err(), "IPv4 is not served");
    drop(setup);

    let six = plain(form);
    for container in ["red", "blue"] {
        assert_eq!(seen_as(six.on(container), at(SERVERS[0], 80)), HOST);
        assert_eq!(seen_as(six.on(container), at(SERVERS_SIX[0], 80)), HOST_SIX);
        crate::lab_setup::assert_ping(six.on(container), SERVERS[0]);
        assert_ping(six.on(container), SERVERS_SIX[0]);
    }
    six.world.assert_checksums_right();
}

/// RFC 6296: every container has an address outside of its own, and is reached by it.
fn a_prefix_is_translated_whole(form: Form) {
    let more = ["--prefix-translation", "fd00:88::/64=2001:db8:88::/64"];
    let (world, _servers) = world(fixed());
    if form.uplink == "raw" {
        let arguments: Vec<&str> = BOTH.into_iter().chain(more).collect();
        let refused =
            Product::start(Path::new(PROGRAM), world.on("host"), &world.arguments(form, &arguments), SOON);
        assert!(refused.unwrap_err().to_string().contains("use --uplink packet"));
        return;
    }
    let arguments: Vec<&str> = BOTH.into_iter().chain(more).collect();
    let gateway = world.gateway(form, &arguments);
    let setup = Setup { gateway, world };
    // The network outside sends the prefix to the host.
    setup
        .on("internet")
        .run(|| Netlink::open().unwrap().add_default_route(HOST_SIX.into()).unwrap())
        .unwrap();
    let mut seen = Vec::new();
    for (container, address) in ["red", "blue"].into_iter().zip(CONTAINERS_SIX) {
        let IpAddr::V6(outside) = seen_as(setup.on(container), at(SERVERS_SIX[0], 80)) else { panic!() };
        assert_eq!(outside.segments()[..4], [0x2001, 0xdb8, 0x88, 0], "{container}");
        assert_ping(setup.on(container), SERVERS_SIX[0]);
        let _echo = udp::serve(setup.on(container), at(address, 7)).unwrap();
        let echo = setup.on("internet").run(|| udp::ask(at(outside, 7), b"knock", SOON)).unwrap();
        assert_eq!(echo.unwrap(), b"knock", "from outside, with nothing published");
        seen.push(outside);
    }
    assert_ne!(seen[0], seen[1]);
    setup.world.assert_checksums_right();
}

/// Where the host has no IPv6 outside, it is said that this is why: no other `--uplink` would help.
fn a_prefix_without_a_way_out_is_told(_form: Form) {
    let world = World::new(Options::default());
    let control = world.control();
    let arguments = [
        "run",
        "--control",
        control.to_str().unwrap(),
        "--bridge",
        BRIDGE,
        "--inside",
        INSIDE_SIX,
        "--prefix-translation",
        "fd00:88::/64=2001:db8:88::/64",
    ];
    let refused = Product::start(Path::new(PROGRAM), world.on("host"), &arguments, SOON).unwrap_err();
    let told = refused.to_string();
    assert!(told.contains("prefix-translation fd00:88::/64"), "{told}");
    assert!(told.contains("there is no IPv6 default route"), "{told}");
    assert!(!told.contains("use --uplink packet"), "{told}");
}

/// Its neighbours find an address that the gateway alone has, by the group of that address.
fn pool_addresses_are_answered_for_outside(form: Form) {
    // Raw sockets receive nothing for an address that the host does not have.
    if form.uplink == "raw" {
        return;
    }
    let pooled = Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0x12, 0x3456);
    let six = start(form, fixed(), &["--external", &pooled.to_string(), "--guard", "off"]);
    let answering = format!("answering neighbour solicitations for {pooled} on {UPLINK}");
    eventually(&answering, SOON, || six.gateway.0.said().contains(&answering));
    for container in ["red", "blue"] {
        assert_ping(six.on(container), SERVERS_SIX[0]);
        assert_eq!(seen_as(six.on(container), at(SERVERS_SIX[0], 80)), pooled);
    }
    // The group is the host's own as far as switches can tell.
    let groups = || fs::read_to_string("/proc/thread-self/net/igmp6").unwrap();
    let groups = six.on("host").run(groups).unwrap();
    let joined = |line: &str| line.contains(UPLINK) && line.contains("ff0200000000000000000001ff123456");
    assert!(groups.lines().any(joined), "{groups}");
}

fn hairpin_between_containers(form: Form) {
    let six = start(form, fixed(), &["--publish", "8080:[fd00:88::2]:80/tcp"]);
    let before = complaints(&six.world);
    let _web = http::serve(six.on("red"), at(CONTAINERS_SIX[0], 80)).unwrap();
    for container in ["blue", "red"] {
        assert_eq!(seen_as(six.on(container), at(HOST_SIX, 8080)), HOST_SIX, "from {container}");
        assert_eq!(page(six.on(container), at(HOST_SIX, 8080), "/bytes/500000").unwrap().length, 500_000);
    }
    assert_eq!(complaints(&six.world), before);
    six.world.assert_checksums_right();
}

/// Whatever a container sends, translated, refused or meaningless: its own addresses stay inside.
fn inside_addresses_never_leave(form: Form) {
    let mut six = plain(form);
    let nets = vec![INSIDE_SIX.parse().unwrap(), "fe80::/10".parse().unwrap()];
    assert_ping(six.on("host"), ROUTER_SIX);
    assert_ping(six.on("red"), SERVERS_SIX[0]);
    let tap = Sniffer::start_for(six.on("internet"), UPLINK, nets).unwrap();
    six.on("red").run(noise).unwrap();
    for container in ["red", "blue"] {
        assert_eq!(seen_as(six.on(container), at(SERVERS_SIX[0], 80)), HOST_SIX);
    }
    let report = tap.stop();
    let strange = strangers(&report);
    assert!(strange.is_empty(), "sources outside that are not the host's: {strange:?}");
    assert!(report.frames > 10, "{} frames seen", report.frames);
    six.setup.assert_running();
}

/// Every next header, at several lengths, from its own address, its link-local one, nobody's and a
/// neighbour's.
fn noise() {
    let mut sender = RawSender::open(Some(UPLINK), 1500).unwrap();
    let mut scratch = Buffer::new();
    let mut noise = Pattern::new(6);
    let own_link = "fe80::2".parse().unwrap();
    let nobody = "fd99::1".parse().unwrap();
    for next in 0..=255u8 {
        for source in [CONTAINERS_SIX[0], own_link, Ipv6Addr::UNSPECIFIED, nobody, CONTAINERS_SIX[1]] {
            for length in [0, 8, 24, 60] {
                let mut packet = vec![0; 40 + length];
                noise.fill(&mut packet[40..]);
                packet[0] = 0x60;
                packet[4..6].copy_from_slice(&(length as u16).to_be_bytes());
                packet[6] = next;
                packet[7] = 64;
                packet[8..24].copy_from_slice(&source.octets());
                packet[24..40].copy_from_slice(&SERVERS_SIX[0].octets());
                // The interface's queue may be full for a moment: one odd packet less.
                let _ = deliver(&mut sender, &mut Buffer::from_bytes(&packet), &mut scratch);
            }
        }
    }
}

/// The sources of IPv6 frames that came from the host and are not the host's. Its neighbour discovery
/// speaks from an address of the link, which the kernel makes of the MAC in the same frame.
fn strangers(report: &Report) -> Vec<Ipv6Addr> {
    let coming =
        report.kept.iter().filter(|frame| !frame.outgoing && frame.start.get(12..14) == Some(&[0x86, 0xdd]));
    let sources = coming.filter_map(|frame| {
        let source = Ipv6Addr::from(*frame.start.get(22..38)?.first_chunk::<16>()?);
        let of_the_host = source.octets()[13..] == frame.start[9..12] && source.is_unicast_link_local();
        (source != HOST_SIX && !of_the_host).then_some(source)
    });
    sources.collect()
}

/// Connections of host and container side by side, to the same server: the host notices nothing.
fn the_hosts_own_connections_are_undisturbed(form: Form) {
    const MANY: usize = 1000;
    let six = plain(form);
    let before = complaints(&six.world);
    let busy = |server: SocketAddr| {
        move || {
            for number in 0..MANY {
                let page = http::get(server, "/bytes/100", SOON);
                page.unwrap_or_else(|error| panic!("connection {number} to {server}: {error}"));
            }
        }
    };
    let own = six.on("host").spawn("host's own", busy(at(SERVERS_SIX[0], 80))).unwrap();
    six.on("red").run(busy(at(SERVERS_SIX[0], 80))).unwrap();
    own.join().unwrap();
    assert_ping(six.on("host"), SERVERS_SIX[0]);
    assert_ping(six.on("internet"), HOST_SIX);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(complaints(&six.world), before, "the host answered what was not its own");
    let forwards = six
        .on("host")
        .run(|| ["net/ipv6/conf/all/forwarding", "net/ipv4/ip_forward"].map(|name| sysctl(name).unwrap()));
    assert_eq!(forwards.unwrap(), ["0", "0"], "nothing was switched on for it");
    six.world.assert_checksums_right();
}

fn sigterm_leaves_nothing_behind(form: Form) {
    let (world, _servers) = world(fixed());
    let accepts = || world.on("host").run(|| sysctl("net/ipv6/conf/tapnat-br0/accept_ra").unwrap()).unwrap();
    let addresses = || {
        let mut all = world.on("host").run(|| Netlink::open().unwrap().addresses().unwrap()).unwrap();
        all.sort_unstable();
        all
    };
    // The kernel gives the bridge its address of the link when it has noticed that its ports are up.
    let bridge = world.link("host", BRIDGE).unwrap().index;
    eventually("the bridge has an address", SOON, || addresses().iter().any(|(link, ..)| *link == bridge));
    let before = (accepts(), addresses(), complaints(&world));
    assert_eq!(before.0, "1");
    let mut gateway = world.gateway(form, &BOTH);
    assert_eq!(accepts(), "0", "the host takes no advertisements of its own gateway");
    assert_ping(world.on("red"), SERVERS_SIX[0]);
    let status = gateway.0.terminate(SOON).unwrap().expect("it ends when it is asked to");
    assert_eq!(status.code(), Some(0));
    assert!(world.link("host", TAP).is_none());
    assert_eq!((accepts(), addresses(), complaints(&world)), before);
}
