//! What the gateway does for hosts inside and keeps from them: DHCP, message by message; who may talk
//! to whom.
#![allow(clippy::unwrap_used)]

mod support;
#[path = "support/v6.rs"]
mod v6;

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;
use support::*;
use tapnat::flow::{Endpoint, Prefix, Protocol, TcpFlags};
use tapnat::gateway::{
    Answer, Command, Dhcp, DropReason, Fate, GatewayConfig, INSIDE, Names, OUTSIDE, Reply,
};
use tapnat::nat::{EgressRule, Exemption, PrefixTranslation, Refusal};
use tapnat::wire::ethernet::IPV4;
use tapnat::wire::{Frame, MacAddr, craft};

const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const EVERYBODY: Ipv4Addr = Ipv4Addr::BROADCAST;
const MAC_C: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xc]);
const MAC_D: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xd]);
const LEASE: u32 = 3600;

/// Kinds of messages, RFC 2132 §9.6.
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const DECLINE: u8 = 4;
const ACK: u8 = 5;
const NAK: u8 = 6;
const RELEASE: u8 = 7;
const INFORM: u8 = 8;

fn inside_ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

/// A gateway that gives addresses from `first` to `last`.
fn giving(first: u8, last: u8) -> GatewayConfig {
    let mut config = config();
    let lease = Duration::from_secs(LEASE.into());
    let (first, last) = (inside_ip(first), inside_ip(last));
    config.dhcp = Some(Dhcp { first, last, lease, dns: None, search: None });
    config
}

/// A client's message.
#[derive(Clone)]
struct Message {
    mac: MacAddr,
    kind: u8,
    flags: u8,
    /// The address that it has.
    address: Ipv4Addr,
    options: Vec<(u8, Vec<u8>)>,
    source: Ipv4Addr,
    destination: Ipv4Addr,
}

fn message(mac: MacAddr, kind: u8) -> Message {
    let options = Vec::new();
    Message { mac, kind, flags: 0, address: NOBODY, options, source: NOBODY, destination: EVERYBODY }
}

impl Message {
    fn with(mut self, option: u8, data: &[u8]) -> Self {
        self.options.push((option, data.to_vec()));
        self
    }

    fn asking(self, ip: Ipv4Addr) -> Self {
        self.with(50, &ip.octets())
    }

    fn meaning(self, ip: Ipv4Addr) -> Self {
        self.with(54, &ip.octets())
    }

    /// From a client that has an address, to the gateway alone.
    fn having(mut self, ip: Ipv4Addr) -> Self {
        (self.address, self.source, self.destination) = (ip, ip, GATEWAY);
        self
    }

    fn payload(&self) -> Vec<u8> {
        let mut bytes = vec![0; 240];
        bytes[..3].copy_from_slice(&[1, 1, 6]);
        bytes[4..8].copy_from_slice(&[0xde, 0xad, 0xbe, 0xef]);
        bytes[10] = self.flags;
        bytes[12..16].copy_from_slice(&self.address.octets());
        bytes[28..34].copy_from_slice(&self.mac.0);
        bytes[236..].copy_from_slice(&[99, 130, 83, 99]);
        bytes.extend([53, 1, self.kind]);
        for (kind, data) in &self.options {
            bytes.extend([*kind, data.len() as u8]);
            bytes.extend(data);
        }
        bytes.push(255);
        bytes
    }

    fn frame_of(&self, payload: &[u8]) -> Vec<u8> {
        let packet = craft::udp(at(self.source, 68), at(self.destination, 67), payload);
        let everybody = self.destination == EVERYBODY;
        let destination = if everybody { MacAddr::BROADCAST } else { MAC };
        let header = Frame { destination, source: self.mac, ethertype: IPV4 };
        [&header.to_bytes()[..], &packet].concat()
    }

    fn frame(&self) -> Vec<u8> {
        self.frame_of(&self.payload())
    }
}

/// What the gateway told, and whom.
#[derive(Debug)]
struct Told {
    mac: MacAddr,
    to: Ipv4Addr,
    kind: u8,
    address: Ipv4Addr,
    bytes: Vec<u8>,
    options: BTreeMap<u8, Vec<u8>>,
}

fn read(mac: MacAddr, packet: &[u8]) -> Told {
    assert!(sums_are_right(packet));
    assert_eq!((source(packet), source_port(packet), destination_port(packet)), (GATEWAY, 67, 68));
    let bytes = packet[28..].to_vec();
    assert!(bytes.len() >= 300 && bytes[0] == 2 && bytes[4..8] == [0xde, 0xad, 0xbe, 0xef]);
    let (mut options, mut rest) = (BTreeMap::new(), &bytes[240..]);
    while rest[0] != 255 {
        let length = usize::from(rest[1]);
        assert!(options.insert(rest[0], rest[2..2 + length].to_vec()).is_none(), "{} twice", rest[0]);
        rest = &rest[2 + length..];
    }
    let address = Ipv4Addr::new(bytes[16], bytes[17], bytes[18], bytes[19]);
    Told { mac, to: destination(packet), kind: options[&53][0], address, bytes, options }
}

/// What the gateway answers, if it does.
fn say(rig: &mut Rig, message: &Message) -> Option<Told> {
    rig.sent.clear();
    let fate = rig.frame(&message.frame());
    assert_eq!(fate, Fate::Taken(Answer::Dhcp));
    let mut told = rig.sent_inside();
    assert!(told.len() <= 1);
    told.pop().map(|(mac, packet)| read(mac, &packet))
}

fn refused(rig: &mut Rig, message: &Message) -> DropReason {
    rig.sent.clear();
    let Fate::Dropped(reason) = rig.frame(&message.frame()) else { panic!("it is not dropped") };
    assert!(rig.sent_inside().is_empty());
    reason
}

/// The whole conversation; the address.
fn obtain(rig: &mut Rig, mac: MacAddr) -> Ipv4Addr {
    let offer = say(rig, &message(mac, DISCOVER)).unwrap();
    assert_eq!(offer.kind, OFFER);
    let request = message(mac, REQUEST).asking(offer.address).meaning(GATEWAY);
    let ack = say(rig, &request).unwrap();
    assert_eq!((ack.kind, ack.address), (ACK, offer.address));
    ack.address
}

/// What makes a right message wrong.
type Spoil = fn(&mut Vec<u8>);

fn ips(option: &[u8]) -> Vec<Ipv4Addr> {
    option.chunks(4).map(|ip| Ipv4Addr::new(ip[0], ip[1], ip[2], ip[3])).collect()
}

#[test]
fn a_client_is_told_all_that_it_needs() {
    let mut rig = Rig::with(giving(100, 199));
    let search = vec!["lab.example".to_owned(), "example".to_owned()];
    rig.gateway.set_names(Names { servers: vec![S1, S2], search });
    let ack = {
        let offer = say(&mut rig, &message(MAC_C, DISCOVER)).unwrap();
        assert_eq!((offer.mac, offer.to), (MAC_C, offer.address), "it goes where it is going to be");
        say(&mut rig, &message(MAC_C, REQUEST).asking(offer.address).meaning(GATEWAY)).unwrap()
    };
    assert!((inside_ip(100)..=inside_ip(199)).contains(&ack.address));
    let said = |option: u8| ack.options[&option].clone();
    assert_eq!(ips(&said(1)), [Ipv4Addr::new(255, 255, 255, 0)]);
    assert_eq!((ips(&said(3)), ips(&said(54))), (vec![GATEWAY], vec![GATEWAY]));
    assert_eq!((ips(&said(6)), ips(&said(28))), (vec![S1, S2], vec![inside_ip(255)]));
    assert_eq!(said(26), 1500u16.to_be_bytes());
    assert_eq!(
        [said(51), said(58), said(59)].map(|time| u32::from_be_bytes(time.try_into().unwrap())),
        [LEASE, LEASE / 2, LEASE / 8 * 7]
    );
    assert_eq!(
        (said(15), said(119)),
        (b"lab.example".to_vec(), b"\x03lab\x07example\0\x07example\0".to_vec())
    );
}

#[test]
fn what_settings_say_about_names_wins_over_the_host() {
    let mut config = giving(100, 199);
    let dhcp = config.dhcp.as_mut().unwrap();
    (dhcp.dns, dhcp.search) = (Some(vec![GATEWAY]), Some(vec![]));
    let mut rig = Rig::with(config);
    rig.gateway.set_names(Names { servers: vec![S1], search: vec!["lab.example".to_owned()] });
    let offer = say(&mut rig, &message(MAC_C, DISCOVER)).unwrap();
    assert_eq!(ips(&offer.options[&6]), [GATEWAY]);
    assert!(!offer.options.contains_key(&15) && !offer.options.contains_key(&119));
}

#[test]
fn a_client_keeps_its_address_and_has_it_again_after_a_restart() {
    let mut rig = Rig::with(giving(100, 199));
    let first = obtain(&mut rig, MAC_C);
    let second = obtain(&mut rig, MAC_D);
    assert_ne!(first, second);
    rig.wait(u64::from(LEASE) * 3_000);
    assert_eq!(obtain(&mut rig, MAC_C), first, "nobody has needed it");
    let mut restarted = Rig::with(giving(100, 199));
    assert_eq!(obtain(&mut restarted, MAC_C), first, "its place follows from who it is");
    // A client that remembers, and a gateway that does not (RFC 2131 §3.2).
    let mut restarted = Rig::with(giving(100, 199));
    let ack = say(&mut restarted, &message(MAC_D, REQUEST).asking(inside_ip(177))).unwrap();
    assert_eq!((ack.kind, ack.address), (ACK, inside_ip(177)));
}

#[test]
fn a_client_is_who_its_identifier_says() {
    let mut rig = Rig::with(giving(100, 199));
    let identified = |mac| message(mac, DISCOVER).with(61, b"\xffthe same host");
    let one = say(&mut rig, &identified(MAC_C)).unwrap();
    assert_eq!(one.options[&61], b"\xffthe same host", "RFC 6842");
    let other = say(&mut rig, &identified(MAC_D)).unwrap();
    assert_eq!((one.address, other.mac), (other.address, MAC_D));
    let own = [&[1][..], &MAC_C.0].concat();
    let plain = say(&mut rig, &message(MAC_C, DISCOVER)).unwrap();
    let said = say(&mut rig, &message(MAC_C, DISCOVER).with(61, &own)).unwrap();
    assert_eq!(plain.address, said.address);
    assert_ne!(plain.address, one.address);
}

#[test]
fn an_address_in_use_is_not_given() {
    // A and B, whom the gateway knows, have 10.0.0.2 and 10.0.0.3; 10.0.0.1 is its own.
    let mut rig = Rig::with(giving(1, 4));
    assert_eq!(say(&mut rig, &message(MAC_C, DISCOVER).asking(B)).unwrap().address, inside_ip(4));
    assert_eq!(refused(&mut rig, &message(MAC_D, DISCOVER)), DropReason::DhcpExhausted);
    // B itself may have its own.
    assert_eq!(say(&mut rig, &message(MAC_B, DISCOVER).asking(B)).unwrap().address, B);
    let nak = say(&mut rig, &message(MAC_D, REQUEST).asking(A)).unwrap();
    assert_eq!((nak.kind, nak.address, nak.to, nak.mac), (NAK, NOBODY, EVERYBODY, MacAddr::BROADCAST));
}

#[test]
fn who_has_an_offered_address_unknown_to_us_is_found_in_time() {
    let mut rig = Rig::with(giving(50, 51));
    let offer = say(&mut rig, &message(MAC_C, DISCOVER)).unwrap();
    // The gateway has asked for it; a host with a fixed address answers.
    assert_eq!(rig.frame(&arp(2, MAC_D, offer.address, MAC, GATEWAY)), Fate::Taken(Answer::Arp));
    let request = message(MAC_C, REQUEST).asking(offer.address).meaning(GATEWAY);
    assert_eq!(say(&mut rig, &request).unwrap().kind, NAK);
    assert_ne!(obtain(&mut rig, MAC_C), offer.address);
}

#[test]
fn an_offer_asks_the_link() {
    let mut rig = Rig::with(giving(50, 51));
    rig.frame(&message(MAC_C, DISCOVER).frame());
    let asked: Vec<_> = rig.take(INSIDE).into_iter().filter(|frame| frame[12..14] == [8, 6]).collect();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0][41] & !1, 50);
}

#[test]
fn the_range_ends_and_has_room_again() {
    let mut rig = Rig::with(giving(50, 51));
    let mac = |last| MacAddr([2, 0, 0, 0, 1, last]);
    let had: BTreeSet<_> = [1, 2].map(|last| obtain(&mut rig, mac(last))).into();
    assert_eq!(had, BTreeSet::from([inside_ip(50), inside_ip(51)]));
    assert_eq!(refused(&mut rig, &message(mac(3), DISCOVER)), DropReason::DhcpExhausted);
    let released = message(mac(1), RELEASE).having(obtain(&mut rig, mac(1))).meaning(GATEWAY);
    assert!(say(&mut rig, &released).is_none());
    rig.wait(2_000);
    assert!(had.contains(&say(&mut rig, &message(mac(3), DISCOVER)).unwrap().address));
    // The other one leaves without a word: nobody answers for its address when its time is over.
    rig.wait(u64::from(LEASE) * 1_000);
    obtain(&mut rig, mac(3));
    let asked = message(mac(4), DISCOVER);
    assert_eq!(refused(&mut rig, &asked), DropReason::DhcpExhausted);
    (0..5).for_each(|_| rig.wait(1_000));
    assert!(had.contains(&say(&mut rig, &asked).unwrap().address));
}

/// Each message in each state: what it comes to (RFC 2131 §4.3).
#[test]
fn every_kind_of_message_has_its_answer() {
    let leased = || {
        let mut rig = Rig::with(giving(100, 199));
        let ip = obtain(&mut rig, MAC_C);
        (rig, ip)
    };
    let kind = |rig: &mut Rig, message: &Message| say(rig, message).map(|told| told.kind);

    let (mut rig, ip) = leased();
    let renewed = say(&mut rig, &message(MAC_C, REQUEST).having(ip)).unwrap();
    assert_eq!((renewed.kind, renewed.address, renewed.to, renewed.mac), (ACK, ip, ip, MAC_C));
    assert_eq!(renewed.bytes[12..16], ip.octets(), "it stands where the client had it");
    let rebinding = Message { destination: EVERYBODY, ..message(MAC_C, REQUEST).having(ip) };
    assert_eq!(kind(&mut rig, &rebinding), Some(ACK));
    let foreign = message(MAC_C, REQUEST).asking(Ipv4Addr::new(192, 168, 1, 5));
    assert_eq!(kind(&mut rig, &foreign), Some(NAK), "it has come from another network");
    let stolen = message(MAC_D, REQUEST).asking(ip);
    assert_eq!(kind(&mut rig, &stolen), Some(NAK));
    let not_offered = message(MAC_D, REQUEST).asking(inside_ip(150)).meaning(GATEWAY);
    assert_eq!(kind(&mut rig, &not_offered), Some(NAK));

    let (mut rig, ip) = leased();
    let elsewhere = message(MAC_C, REQUEST).asking(ip).meaning(inside_ip(9));
    assert_eq!(kind(&mut rig, &elsewhere), None, "it takes another server's offer");
    assert_eq!(kind(&mut rig, &message(MAC_D, REQUEST).asking(inside_ip(150))), Some(ACK));

    let (mut rig, ip) = leased();
    let decline = message(MAC_C, DECLINE).asking(ip).meaning(GATEWAY);
    assert_eq!(refused(&mut rig, &message(MAC_D, DECLINE).asking(ip).meaning(GATEWAY)), DropReason::BadDhcp);
    assert_eq!(kind(&mut rig, &decline), None);
    assert_ne!(obtain(&mut rig, MAC_C), ip, "somebody uses it");

    let (mut rig, ip) = leased();
    let told = say(&mut rig, &message(MAC_B, INFORM).having(B)).unwrap();
    assert_eq!((told.kind, told.address, told.to, told.options.get(&51)), (ACK, NOBODY, B, None));
    assert_eq!(ips(&told.options[&3]), [GATEWAY]);
    let stranger = message(MAC_D, RELEASE).having(inside_ip(180)).meaning(GATEWAY);
    assert_eq!(refused(&mut rig, &stranger), DropReason::BadDhcp);
    assert_eq!(kind(&mut rig, &message(MAC_C, RELEASE).having(ip).meaning(GATEWAY)), None);

    let broadcast = Message { flags: 0x80, ..message(MAC_D, DISCOVER) };
    let offer = say(&mut rig, &broadcast).unwrap();
    assert_eq!((offer.to, offer.mac), (EVERYBODY, MacAddr::BROADCAST));
}

#[test]
fn messages_that_no_client_sends_are_dropped_by_name() {
    let mut rig = Rig::with(giving(100, 199));
    let right = message(MAC_C, DISCOVER).with(12, b"host").asking(inside_ip(101)).payload();
    let wrong: [(&str, Spoil); 11] = [
        ("a reply", |bytes| bytes[0] = 2),
        ("another medium", |bytes| bytes[1] = 6),
        ("a longer MAC", |bytes| bytes[2] = 8),
        ("by a relay agent", |bytes| bytes[24] = 10),
        ("another's MAC", |bytes| bytes[33] = 0xa),
        ("no cookie", |bytes| bytes[236] = 0),
        ("no kind", |bytes| bytes[240] = 60),
        ("a kind of two bytes", |bytes| bytes[241] = 2),
        ("a kind of a server", |bytes| bytes[242] = OFFER),
        ("an unknown kind", |bytes| bytes[242] = 99),
        ("options behind the end", |bytes| *bytes.last_mut().unwrap() = 7),
    ];
    for (what, spoil) in wrong {
        let mut bytes = right.clone();
        spoil(&mut bytes);
        let fate = rig.frame(&message(MAC_C, DISCOVER).frame_of(&bytes));
        assert_eq!(fate, Fate::Dropped(DropReason::BadDhcp), "{what}");
    }
    let mut frame = message(MAC_C, DISCOVER).frame();
    frame[14 + 28 + 40] ^= 1;
    assert_eq!(rig.frame(&frame), Fate::Dropped(DropReason::BadDhcp), "a wrong checksum");
    let nothing = message(MAC_C, REQUEST);
    assert_eq!(refused(&mut rig, &nothing), DropReason::BadDhcp);
    assert_eq!(refused(&mut rig, &message(MAC_C, DISCOVER).with(50, b"abc")), DropReason::BadDhcp);
    assert!(rig.sent_inside().is_empty());
}

#[test]
fn every_truncation_is_dropped() {
    let whole = message(MAC_C, REQUEST)
        .asking(inside_ip(101))
        .with(61, b"\x01\x02\0\0\0\0\x0c")
        .with(57, &[5, 192])
        .with(55, &[1, 3, 6, 15, 26])
        .payload();
    for length in 0..whole.len() {
        let mut rig = Rig::with(giving(100, 199));
        let fate = rig.frame(&message(MAC_C, REQUEST).frame_of(&whole[..length]));
        assert_eq!(fate, Fate::Dropped(DropReason::BadDhcp), "{length} bytes");
        assert!(rig.sent_inside().is_empty());
    }
    let mut rig = Rig::with(giving(100, 199));
    assert_eq!(rig.frame(&message(MAC_C, REQUEST).frame_of(&whole)), Fate::Taken(Answer::Dhcp));
}

proptest! {
    /// Whatever stands in a message, what is answered is a message to the client about its own range.
    #[test]
    fn any_message_is_answered_rightly_or_dropped(
        kind in 0u8..12,
        options in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..12)), 0..6),
        spoiled in prop::collection::vec((0usize..260, any::<u8>()), 0..4),
        address in prop::sample::select(vec![NOBODY, inside_ip(101), B]),
    ) {
        let mut rig = Rig::with(giving(100, 103));
        let mut asked = message(MAC_B, kind);
        asked.options = options.into_iter().filter(|(kind, _)| *kind != 255).collect();
        asked.address = address;
        let mut bytes = asked.payload();
        for (place, value) in spoiled {
            if let Some(byte) = bytes.get_mut(place).filter(|_| !(4..8).contains(&place)) {
                *byte = value;
            }
        }
        rig.frame(&asked.frame_of(&bytes));
        for (mac, packet) in rig.sent_inside() {
            let told = read(mac, &packet);
            prop_assert!([OFFER, ACK, NAK].contains(&told.kind));
            let given = (inside_ip(100)..=inside_ip(103)).contains(&told.address);
            prop_assert!(given || told.address == NOBODY, "{:?}", told);
            prop_assert!(told.bytes.len() <= 1472);
        }
    }
}

#[test]
fn nobody_but_dhcp_clients_sends_from_nowhere() {
    let mut rig = Rig::with(giving(100, 199));
    let asked = message(MAC_C, DISCOVER);
    let martian = Fate::Dropped(DropReason::MartianSource);
    let mut without = Rig::new();
    assert_eq!(without.frame(&asked.frame()), martian, "the service is off");
    let port = |from, to| craft::udp(at(NOBODY, from), at(EVERYBODY, to), &asked.payload());
    let everybody = Frame { destination: MacAddr::BROADCAST, source: MAC_C, ethertype: IPV4 }.to_bytes();
    for packet in [port(68, 53), port(1000, 67)] {
        assert_eq!(rig.frame(&[&everybody[..], &packet].concat()), martian);
    }
    let outward = craft::udp(at(NOBODY, 68), at(S1, 67), &asked.payload());
    assert_eq!(rig.from(MAC_C, &outward), martian);
    // Who has an address may not speak in another's name here either.
    let stolen = message(MAC_C, REQUEST).having(B);
    assert_eq!(refused(&mut rig, &stolen), DropReason::MacMismatch);
    let spoofed = message(MAC_C, REQUEST).having(S1);
    assert_eq!(refused(&mut rig, &spoofed), DropReason::SpoofedSource);
}

#[test]
fn what_waited_for_a_host_reaches_it_as_soon_as_it_has_its_address() {
    let mut rig = Rig::with(giving(50, 50));
    let forward = Command::Publish {
        protocol: Protocol::Udp,
        outside: Endpoint::new(X, 500),
        inside: Endpoint::new(inside_ip(50), 500),
    };
    assert_eq!(rig.gateway.apply(forward, rig.now, &mut ()), Reply::Done);
    assert_eq!(rig.outside(&craft::udp(at(S1, 9), at(X, 500), b"early")), Fate::Held);
    rig.frame(&message(MAC_C, REQUEST).asking(inside_ip(50)).frame());
    let sent = rig.sent_inside();
    assert!(sent.iter().any(|(mac, packet)| *mac == MAC_C && packet.ends_with(b"early")));
}

#[test]
fn the_address_of_a_service_is_the_gateways_own() {
    let mut config = config();
    config.services = vec![inside_ip(53).into()];
    let mut rig = Rig::with(config);
    assert_eq!(rig.frame(&arp(1, MAC_A, A, MacAddr([0; 6]), inside_ip(53))), Fate::Taken(Answer::Arp));
    assert_eq!(rig.take(INSIDE)[0][28..32], inside_ip(53).octets());
    assert_eq!(rig.from(MAC_A, &craft::echo(A, inside_ip(53), true, 1, 1, b"x")), Fate::Taken(Answer::Echo));
    let claimed = arp(1, MAC_B, inside_ip(53), MacAddr([0; 6]), GATEWAY);
    assert_eq!(rig.frame(&claimed), Fate::Dropped(DropReason::BadArp));
}

fn deny(prefix: (Ipv4Addr, u8)) -> EgressRule {
    EgressRule::deny(Prefix::new(prefix.0, prefix.1))
}

fn with_egress(egress: Vec<EgressRule>) -> GatewayConfig {
    let mut config = config();
    config.nat.egress = EgressRule::before_wider(egress);
    config
}

const DENIED: Fate = Fate::Dropped(DropReason::Refused(Refusal::EgressDenied));

fn syn(from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Vec<u8> {
    craft::tcp(at(from, 1000), at(to, port), TcpFlags::SYN, 1, b"")
}

#[test]
fn the_first_rule_that_fits_decides() {
    let all = EgressRule::about_all(true);
    let s1 = Some(Prefix::new(S1, 32));
    let rules = vec![
        EgressRule { remote: s1, protocol: Some(Protocol::Tcp), ports: Some(443..=444), ..all.clone() },
        EgressRule { allow: false, inside: Some(Prefix::new(A, 32)), ..all.clone() },
        EgressRule { allow: false, remote: s1, ports: Some(25..=25), ..all },
    ];
    let passes = Fate::Pass(OUTSIDE);
    let table: [(&str, MacAddr, Vec<u8>, Fate); 9] = [
        ("allowed before denied", MAC_A, syn(A, S1, 443), passes),
        ("another port", MAC_A, syn(A, S1, 445), DENIED),
        ("another protocol", MAC_A, craft::udp(at(A, 1000), at(S1, 443), b""), DENIED),
        ("another remote", MAC_A, syn(A, S2, 443), DENIED),
        ("echo has no ports", MAC_A, craft::echo(A, S1, true, 1, 1, b""), DENIED),
        ("another host", MAC_B, syn(B, S1, 80), passes),
        ("the other host's denial", MAC_B, syn(B, S1, 25), DENIED),
        ("both protocols", MAC_B, craft::udp(at(B, 1000), at(S1, 25), b""), DENIED),
        ("an echo of it", MAC_B, craft::echo(B, S1, true, 1, 1, b""), passes),
    ];
    for (what, mac, packet, fate) in table {
        let mut rig = Rig::with(with_egress(rules.clone()));
        assert_eq!(rig.from(mac, &packet), fate, "{what}");
        assert_eq!(rig.gateway.counts().sessions, usize::from(fate == passes), "{what}");
    }
}

#[test]
fn who_is_denied_is_told_that_it_is_prohibited() {
    let metadata = Ipv4Addr::new(169, 254, 169, 254);
    let mut rig = Rig::new();
    assert_eq!(rig.from(MAC_A, &syn(A, metadata, 80)), DENIED, "by default");
    let (mac, told) = rig.sent_inside().remove(0);
    assert_eq!((mac, source(&told), told[20], told[21]), (MAC_A, GATEWAY, 3, 13));
    let told = (0..200).filter(|_| {
        rig.from(MAC_A, &syn(A, metadata, 80));
        !rig.sent_inside().is_empty()
    });
    assert!(told.count() < 50, "at the rate of all errors");

    let metadata: std::net::Ipv6Addr = "fd00:ec2::254".parse().unwrap();
    let mut rig = v6::rig();
    let packet = craft::tcp((v6::A6, 1000), (metadata, 80), TcpFlags::SYN, 1, b"");
    let header = Frame { destination: MAC, source: MAC_A, ethertype: tapnat::wire::ethernet::IPV6 };
    assert_eq!(rig.frame(&[&header.to_bytes()[..], &packet].concat()), DENIED);
    let told = rig.take(INSIDE).remove(0);
    assert_eq!((told[14 + 40], told[14 + 41]), (1, 1));
}

#[test]
fn new_rules_end_what_they_deny_and_a_host_inside_opened() {
    let mut rig = Rig::new();
    let publish = |port| Command::Publish {
        protocol: Protocol::Tcp,
        outside: Endpoint::new(X, port),
        inside: Endpoint::new(B, port),
    };
    rig.gateway.apply(publish(80), rig.now, &mut ());
    rig.from(MAC_A, &syn(A, S1, 443));
    rig.from(MAC_A, &syn(A, S2, 443));
    // S1 opens one itself, to a published port.
    assert_eq!(rig.outside(&craft::tcp(at(S1, 5), at(X, 80), TcpFlags::SYN, 1, b"")), Fate::Pass(INSIDE));
    let change = Command::Reconfigure(Box::new(with_egress(vec![deny((S1, 32))])));
    assert_eq!(rig.gateway.apply(change, rig.now, &mut ()), Reply::Reconfigured { kept: 2, ended: 1 });
    assert_eq!(rig.from(MAC_A, &syn(A, S1, 443)), DENIED);
    let answer = TcpFlags::SYN.with(TcpFlags::ACK);
    let tcp = craft::Tcp { flags: answer, sequence: 7, acknowledgment: 2, ..craft::Tcp::default() };
    assert_eq!(rig.from(MAC_B, &tcp.packet(at(B, 80), at(S1, 5), b"")), Fate::Pass(OUTSIDE));
}

#[test]
fn packets_without_a_session_are_asked_about_too() {
    let mut config = with_egress(vec![deny((S1, 32))]);
    config.nat.exempt = vec![Exemption { remote: Prefix::new(S1, 24), protocol: None, ports: None }];
    let mut rig = Rig::with(config);
    assert_eq!(rig.from(MAC_A, &craft::udp(at(A, 1000), at(S1, 53), b"")), DENIED);
    assert_eq!(rig.from(MAC_A, &craft::udp(at(A, 1000), at(S2, 53), b"")), Fate::Pass(OUTSIDE));

    let mut config = v6::config();
    let outside: std::net::Ipv6Addr = "2001:db8:1::".parse().unwrap();
    let pair = (Prefix::new(v6::GATEWAY6, 48), Prefix::new(outside, 48));
    config.translations = vec![PrefixTranslation::new(pair.0, pair.1).unwrap()];
    config.nat.egress = vec![EgressRule::deny(Prefix::new(v6::S1_6, 128))];
    let mut rig = v6::rig_with(config);
    let header = Frame { destination: MAC, source: MAC_A, ethertype: tapnat::wire::ethernet::IPV6 };
    let mut to = |remote: std::net::Ipv6Addr| {
        let packet = craft::udp((v6::A6, 1000), (remote, 53), b"");
        rig.frame(&[&header.to_bytes()[..], &packet].concat())
    };
    assert_eq!((to(v6::S1_6), to(v6::R9_6)), (DENIED, Fate::Pass(OUTSIDE)));
}

#[test]
fn a_new_connection_in_the_place_of_one_from_outside_is_asked_about() {
    let mut config = config();
    config.nat.egress = vec![deny((S1, 32))];
    let mut rig = Rig::with(config);
    let forward = Command::Publish {
        protocol: Protocol::Tcp,
        outside: Endpoint::new(X, 80),
        inside: Endpoint::new(B, 80),
    };
    rig.gateway.apply(forward, rig.now, &mut ());
    rig.outside(&craft::tcp(at(S1, 5), at(X, 80), TcpFlags::SYN, 1, b""));
    let segment = |flags, sequence, acknowledgment| craft::Tcp {
        flags,
        sequence,
        acknowledgment,
        ..craft::Tcp::default()
    };
    let (fin, ack) = (TcpFlags::FIN.with(TcpFlags::ACK), TcpFlags::ACK);
    let out = |rig: &mut Rig, tcp: craft::Tcp| rig.from(MAC_B, &tcp.packet(at(B, 80), at(S1, 5), b""));
    let back = |rig: &mut Rig, tcp: craft::Tcp| rig.outside(&tcp.packet(at(S1, 5), at(X, 80), b""));
    out(&mut rig, segment(TcpFlags::SYN.with(ack), 100, 2));
    back(&mut rig, segment(ack, 2, 101));
    back(&mut rig, segment(fin, 2, 101));
    out(&mut rig, segment(fin, 101, 3));
    back(&mut rig, segment(ack, 3, 102));
    let again = segment(TcpFlags::SYN, 900_000, 0);
    assert_eq!(out(&mut rig, again), DENIED);
    assert_eq!(rig.gateway.counts().sessions, 1);
}

#[test]
fn a_syn_in_the_midst_of_one_from_outside_is_asked_about() {
    let mut config = config();
    config.nat.egress = vec![deny((S1, 32))];
    let mut rig = Rig::with(config);
    let forward = Command::Publish {
        protocol: Protocol::Tcp,
        outside: Endpoint::new(X, 80),
        inside: Endpoint::new(B, 80),
    };
    rig.gateway.apply(forward, rig.now, &mut ());
    let tcp = |flags, sequence, acknowledgment| craft::Tcp {
        flags,
        sequence,
        acknowledgment,
        ..craft::Tcp::default()
    };
    rig.outside(&tcp(TcpFlags::SYN, 1, 0).packet(at(S1, 5), at(X, 80), b""));
    rig.from(MAC_B, &tcp(TcpFlags::SYN.with(TcpFlags::ACK), 100, 2).packet(at(B, 80), at(S1, 5), b""));
    rig.outside(&tcp(TcpFlags::ACK, 2, 101).packet(at(S1, 5), at(X, 80), b""));
    let again = tcp(TcpFlags::SYN, 900_000, 0).packet(at(B, 80), at(S1, 5), b"");
    assert_eq!(rig.from(MAC_B, &again), DENIED);
    let data = tcp(TcpFlags::ACK, 101, 2).packet(at(B, 80), at(S1, 5), b"data");
    assert_eq!(rig.from(MAC_B, &data), Fate::Pass(OUTSIDE), "the connection goes on");
}

#[test]
fn who_finds_every_address_in_use_does_not_use_up_the_range() {
    let mut rig = Rig::with(giving(50, 90));
    for name in 0..8 {
        let named = |kind| message(MAC_C, kind).with(61, &[0, name]);
        let ip = say(&mut rig, &named(DISCOVER)).unwrap().address;
        assert!(say(&mut rig, &named(DECLINE).asking(ip).meaning(GATEWAY)).is_none());
    }
    let ninth = message(MAC_C, DISCOVER).with(61, &[0, 8]);
    assert_eq!(refused(&mut rig, &ninth), DropReason::DhcpMacLimit);
    assert!(say(&mut rig, &message(MAC_D, DISCOVER)).is_some(), "others are served");
    rig.wait(601_000);
    assert!(say(&mut rig, &ninth).is_some(), "and so is it after a while");
}

#[test]
fn clients_of_one_mac_do_not_use_up_the_range() {
    let mut rig = Rig::with(giving(50, 90));
    let named = |name: u8| message(MAC_C, DISCOVER).with(61, &[0, name]);
    let had: BTreeSet<_> = (0..8).map(|name| say(&mut rig, &named(name)).unwrap().address).collect();
    assert_eq!(had.len(), 8);
    assert_eq!(refused(&mut rig, &named(8)), DropReason::DhcpMacLimit);
    let wants = message(MAC_C, REQUEST).with(61, &[0, 8]).asking(inside_ip(80));
    assert_eq!(refused(&mut rig, &wants), DropReason::DhcpMacLimit);
    assert!(had.contains(&say(&mut rig, &named(3)).unwrap().address), "who has one keeps it");
    assert!(say(&mut rig, &message(MAC_D, DISCOVER)).is_some(), "others are served");
    rig.wait(31_000);
    assert!(say(&mut rig, &named(8)).is_some(), "offers that nobody took are over");
}
