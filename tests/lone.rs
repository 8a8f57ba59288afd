//! A lone host inside: it has an address of the host, its neighbours are outside, and the gateway answers
//! for them all.
#![allow(clippy::unwrap_used)]

mod support;
#[path = "support/v6.rs"]
mod v6;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use support::*;
use tapnat::flow::{Alias, Endpoint, Protocol};
use tapnat::gateway::{
    Answer, Command, Dhcp, DropReason, Fate, GatewayConfig, INSIDE, OUTSIDE, Reply, Subnet,
};
use tapnat::wire::ethernet::IPV4;
use tapnat::wire::{Frame, MacAddr, craft};
use v6::*;

/// The address that the host and the one inside it share, its router, and a neighbour of both.
const SELF: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 50);
const ROUTER4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const NEAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const SELF6: Ipv6Addr = Ipv6Addr::new(0xfd12, 0, 0, 0, 0, 0, 0, 0x50);
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const NEAR6: Ipv6Addr = Ipv6Addr::new(0xfd12, 0, 0, 0, 0, 0, 0, 7);
/// What the translator calls the outside.
const NOMINAL: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);
const NOMINAL6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1);
const NOBODY: MacAddr = MacAddr([0; 6]);

fn lone() -> GatewayConfig {
    let mut config = support::config();
    config.subnets = vec![
        Subnet { gateway: ROUTER4.into(), prefix: 24, only: Some(SELF.into()) },
        Subnet { gateway: ROUTER6.into(), prefix: 64, only: Some(SELF6.into()) },
    ];
    config.nat.external = vec![NOMINAL.into(), NOMINAL6.into()];
    config.nat.publish_anywhere = true;
    config.host_by_uplink = true;
    config
}

fn rig_of(settings: GatewayConfig) -> Rig {
    let mut rig = stranger(settings);
    rig.frame(&arp(1, MAC_A, SELF, NOBODY, ROUTER4));
    rig.frame(&solicitation(MAC_A, SELF6, ROUTER6));
    rig.sent.clear();
    rig
}

fn loopback(inside: IpAddr) -> Alias {
    let host: IpAddr = if inside.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    Alias { inside, port: None, host: (host, 0).into() }
}

fn datagram(from: (impl Into<IpAddr>, u16), to: (impl Into<IpAddr>, u16)) -> Vec<u8> {
    let end = |(ip, port): (IpAddr, u16)| std::net::SocketAddr::new(ip, port);
    craft::udp(end((from.0.into(), from.1)), end((to.0.into(), to.1)), b"payload")
}

fn says(rig: &mut Rig, packet: &[u8]) -> Fate {
    if packet[0] >> 4 == 4 { rig.from(MAC_A, packet) } else { from6(rig, MAC_A, packet) }
}

#[test]
fn the_gateway_answers_arp_for_all_but_the_host_itself() {
    let mut rig = rig_of(lone());
    for asked in [ROUTER4, NEAR, S1] {
        assert_eq!(rig.frame(&arp(1, MAC_A, SELF, NOBODY, asked)), Fate::Taken(Answer::Arp));
        let (to, answer) =
            rig.take(INSIDE).pop().map(|frame| (frame[..6].to_vec(), frame[14..].to_vec())).unwrap();
        assert_eq!((to, answer[7]), (MAC_A.0.to_vec(), 2));
        assert_eq!((&answer[8..14], &answer[14..18]), (&MAC.0[..], &asked.octets()[..]));
    }
    // Whether an address is free, its own or another's, it must find out elsewhere.
    for (sender, asked) in [(Ipv4Addr::UNSPECIFIED, SELF), (Ipv4Addr::UNSPECIFIED, NEAR), (SELF, SELF)] {
        rig.frame(&arp(1, MAC_A, sender, NOBODY, asked));
        assert!(rig.take(INSIDE).is_empty(), "{sender} {asked}");
    }
    assert_eq!(rig.frame(&arp(1, MAC_B, NEAR, NOBODY, ROUTER4)), Fate::Dropped(DropReason::BadArp));
}

#[test]
fn and_neighbour_discovery() {
    let mut rig = rig_of(lone());
    for asked in [ROUTER6, NEAR6, S1_6] {
        assert_eq!(rig.frame(&solicitation(MAC_A, SELF6, asked)), Fate::Taken(Answer::Ndp));
        let (mac, answer) = sent6(&mut rig).pop().unwrap();
        assert_eq!((mac, source6(&answer), answer[40]), (MAC_A, asked, 136));
    }
    assert_eq!(rig.frame(&solicitation(MAC_A, LINK_LOCAL_A, ROUTER6)), Fate::Taken(Answer::Ndp));
    rig.sent.clear();
    // Its neighbours' link-local addresses are out of reach, and its own are its own.
    for asked in [SELF6, LINK_LOCAL_A] {
        rig.frame(&solicitation(MAC_A, SELF6, asked));
        assert!(sent6(&mut rig).is_empty(), "{asked}");
    }
    let probe = icmp6(Ipv6Addr::UNSPECIFIED, group(NEAR6), 255, &neighbor(135, 0, NEAR6, &[]));
    rig.frame(&framed(MAC_A, group_mac(group(NEAR6)), &probe));
    assert!(sent6(&mut rig).is_empty(), "a probe");
}

#[test]
fn neighbours_and_the_router_are_outside() {
    let mut rig = rig_of(lone());
    for to in [IpAddr::from(NEAR), ROUTER4.into(), S1.into(), NEAR6.into(), S1_6.into()] {
        let from: IpAddr = if to.is_ipv4() { SELF.into() } else { SELF6.into() };
        let out = datagram((from, 4000), (to, 53));
        assert_eq!(says(&mut rig, &out), Fate::Pass(OUTSIDE), "{to}");
        let sent = rig.take(OUTSIDE).pop().unwrap();
        let (nominal, port): (IpAddr, u16) = match to {
            IpAddr::V4(_) => (source(&sent).into(), source_port(&sent)),
            IpAddr::V6(_) => (source6(&sent).into(), source_port6(&sent)),
        };
        assert!([IpAddr::from(NOMINAL), NOMINAL6.into()].contains(&nominal), "{nominal}");
        assert_eq!(rig.outside(&datagram((to, 53), (nominal, port))), Fate::Pass(INSIDE), "{to} answers");
        rig.sent.clear();
    }
    let forged = datagram((NEAR, 1), (S1, 1));
    assert_eq!(rig.from(MAC_A, &forged), Fate::Dropped(DropReason::SpoofedSource));
    let own = datagram((SELF, 1), (NOMINAL, 1));
    assert_eq!(rig.outside(&own), Fate::Dropped(DropReason::MartianSource));
}

#[test]
fn the_routers_address_leads_to_the_host_if_it_is_an_alias() {
    let mut config = lone();
    config.aliases = vec![loopback(ROUTER4.into()), loopback(ROUTER6.into())];
    let mut rig = rig_of(config);
    assert_eq!(says(&mut rig, &datagram((SELF, 4000), (ROUTER4, 80))), Fate::Pass(OUTSIDE));
    rig.frame(&solicitation(MAC_A, LINK_LOCAL_A, ROUTER6));
    rig.sent.clear();
    // From a link-local address too, as hosts speak to link-local addresses.
    for from in [SELF6, LINK_LOCAL_A] {
        assert_eq!(says(&mut rig, &datagram((from, 4000), (ROUTER6, 80))), Fate::Pass(OUTSIDE));
        let sent = rig.take(OUTSIDE).pop().unwrap();
        let answer = datagram((ROUTER6, 80), (source6(&sent), source_port6(&sent)));
        assert_eq!(rig.outside(&answer), Fate::Pass(INSIDE));
        assert_eq!(destination6(&sent6(&mut rig).pop().unwrap().1), from);
    }
    assert_eq!(says(&mut rig, &craft::echo(SELF, ROUTER4, true, 1, 1, b"x")), Fate::Taken(Answer::Echo));
    let beyond = datagram((LINK_LOCAL_A, 4000), (S1_6, 80));
    assert_eq!(says(&mut rig, &beyond), Fate::Dropped(DropReason::MartianSource));
}

#[test]
fn clients_of_a_published_port_may_be_neighbours_or_the_host_as_the_router() {
    let mut rig = rig_of(lone());
    // Also at the very address that the host inside has too.
    let ports: [(IpAddr, IpAddr); 3] =
        [(NOMINAL.into(), SELF.into()), (SELF.into(), SELF.into()), (NOMINAL6.into(), SELF6.into())];
    for (at, (ip, inside)) in (80u16..).zip(ports) {
        let command = Command::Publish {
            protocol: Protocol::Udp,
            outside: Endpoint::new(ip, 8080),
            inside: Endpoint::new(inside, at),
        };
        let now = rig.now;
        assert_eq!(rig.gateway.apply(command, now, &mut ()), Reply::Done);
        let clients: [IpAddr; 2] =
            if ip.is_ipv4() { [NEAR.into(), ROUTER4.into()] } else { [NEAR6.into(), ROUTER6.into()] };
        for client in clients {
            assert_eq!(
                rig.outside(&datagram((client, 999), (ip, 8080))),
                Fate::Pass(INSIDE),
                "{client} {ip}"
            );
            assert_eq!(
                says(&mut rig, &datagram((inside, at), (client, 999))),
                Fate::Pass(OUTSIDE),
                "{client} {ip}"
            );
        }
    }
}

#[test]
fn a_port_may_lead_to_somebody_behind_the_host() {
    let mut config = lone();
    config.bind_mac = true;
    let mut rig = rig_of(config);
    let behind: [(IpAddr, IpAddr, IpAddr); 2] = [
        (NOMINAL.into(), Ipv4Addr::new(10, 89, 0, 2).into(), NEAR.into()),
        (NOMINAL6.into(), Ipv6Addr::new(0xfd89, 0, 0, 0, 0, 0, 0, 2).into(), NEAR6.into()),
    ];
    for (ip, inside, client) in behind {
        let answer = datagram((inside, 80), (client, 999));
        assert_eq!(says(&mut rig, &answer), Fate::Dropped(DropReason::SpoofedSource), "{inside} unasked");
        let (outside, inside_end) = (Endpoint::new(ip, 8080), Endpoint::new(inside, 80));
        let command = Command::Publish { protocol: Protocol::Udp, outside, inside: inside_end };
        let now = rig.now;
        assert_eq!(rig.gateway.apply(command, now, &mut ()), Reply::Done);
        assert_eq!(rig.outside(&datagram((client, 999), (ip, 8080))), Fate::Pass(INSIDE), "{inside}");
        let frame = rig.take(INSIDE).pop().unwrap();
        assert_eq!(frame[..6], MAC_A.0, "the host is its router");
        assert_eq!(says(&mut rig, &answer), Fate::Pass(OUTSIDE), "{inside}");
        let forged = datagram((inside, 81), (client, 999));
        assert_eq!(says(&mut rig, &forged), Fate::Dropped(DropReason::SpoofedSource), "another port");
    }
    // One that is not known yet is asked for, and the packet waits for its router's MAC.
    let mut rig = stranger(lone());
    let (outside, inside) = (Endpoint::new(NOMINAL, 8080), Endpoint::new(Ipv4Addr::new(10, 89, 0, 2), 80));
    let now = rig.now;
    rig.gateway.apply(Command::Publish { protocol: Protocol::Udp, outside, inside }, now, &mut ());
    assert_eq!(rig.outside(&datagram((NEAR, 999), (NOMINAL, 8080))), Fate::Held);
    let question = rig.take(INSIDE).pop().unwrap();
    assert_eq!(question[38..42], SELF.octets());
    rig.frame(&arp(2, MAC_A, SELF, MAC, ROUTER4));
    assert_eq!(rig.take(INSIDE).pop().unwrap()[..6], MAC_A.0);
}

#[test]
fn dhcp_gives_it_the_address_with_the_prefix_and_the_router() {
    let mut config = lone();
    let lease = Duration::from_secs(3600);
    config.dhcp =
        Some(Dhcp { first: SELF, last: SELF, lease, dns: Some(Vec::new()), search: Some(Vec::new()) });
    let mut rig = stranger(config);
    let discover = |kind: u8, address: Ipv4Addr, to: Ipv4Addr, mac: MacAddr| {
        let mut message = vec![1, 1, 6, 0, 9, 9, 9, 9, 0, 0, 0, 0];
        message.extend(address.octets());
        message.resize(28, 0);
        message.extend(MAC_A.0);
        message.resize(236, 0);
        message.extend([0x63, 0x82, 0x53, 0x63, 53, 1, kind, 255]);
        let mut frame = Frame { destination: mac, source: MAC_A, ethertype: IPV4 }.to_bytes().to_vec();
        frame.extend(craft::udp(at(address, 68), at(to, 67), &message));
        frame
    };
    let everybody = (Ipv4Addr::BROADCAST, MacAddr::BROADCAST);
    assert_eq!(
        rig.frame(&discover(1, Ipv4Addr::UNSPECIFIED, everybody.0, everybody.1)),
        Fate::Taken(Answer::Dhcp)
    );
    let offer =
        rig.sent.iter().map(|(_, frame)| frame.clone()).find(|frame| frame[12..14] == [8, 0]).unwrap();
    assert_eq!(&offer[14 + 28 + 16..14 + 28 + 20], &SELF.octets(), "the address");
    let options = &offer[14 + 28 + 240..];
    let has = |option: &[u8]| options.windows(option.len()).any(|window| window == option);
    assert!(has(&[1, 4, 255, 255, 255, 0]) && has(&[3, 4, 192, 0, 2, 1]) && has(&[54, 4, 192, 0, 2, 1]));
    // It asks the server itself for more time, at the address of the router.
    rig.frame(&arp(1, MAC_A, SELF, NOBODY, ROUTER4));
    assert_eq!(rig.frame(&discover(3, SELF, ROUTER4, MAC)), Fate::Taken(Answer::Dhcp));
}
