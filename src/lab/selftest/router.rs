//! A router's duties: RFC 791, 792, 826, 1122, 1191, 1812 and their kin, and the plain translation of
//! RFC 3022.

use super::contender::{PLAIN, Setup};
use super::packet::{Packet, Told, checksum, data, udp, udp_with};
use super::trial::Place::World;
use super::trial::{A, B, C, GI, HOSTS, Place, R9, S1, S2, Trial, Who, X, four};
use super::{Fault, Shown, demand, requirements};
use crate::io::netlink::Family;
use std::net::Ipv4Addr;
use std::time::Duration;

/// An address of the outside network that only the NAT has.
const POOLED: Setup = Setup { tapnat: &["--external", "203.0.113.5", "--guard", "off"], ..PLAIN };
/// A port forwarded to a host that is not there.
const ABSENT: Setup = Setup { publish: Some((5300, Who::Absent)), ..PLAIN };

/// A block of ports for each inside host.
const BLOCKS: Setup = Setup { tapnat: &["--profile", "cgnat"], ..PLAIN };

requirements! {
    95 Must "RFC 3022 4.1" udp_checksums_of_zero_are_right
        "UDP checksum 0 stays 0; one that comes to 0 is sent as 0xffff (RFC 768)";
    95 Must "RFC 3022 4.1" bad_checksums_are_not_repaired
        "a packet with a wrong checksum is dropped or left wrong, never made right";
    96 Must "RFC 3022 4.2" odd_lengths_and_ports_have_right_checksums
        "odd lengths and awkward ports leave with right checksums";
    98 May "RFC 3022 4.6" harmless_options_pass
        "a packet with harmless IP options passes with them";
    100 Should "RFC 3022 6.2" arp_is_answered_for_pool_addresses
        "who asks on the link for an external address that only the NAT has is answered" in POOLED;
    102 Must "RFC 7422 2" flows_of_a_host_are_in_its_block
        "every flow of a host is in the block that follows from its address, and both can be asked" in BLOCKS;
    103 Should "RFC 6056 3.2" the_whole_port_range_is_used
        "changed ports come from the whole of 1024-65535", by ["--ports", "1024-65535"];
    110 Must "RFC 1812 5.2.2" broken_headers_are_discarded
        "bad header checksum, version, header length or total length: discarded, both ways";
    111 Must "RFC 1812 5.3.1" ttl_is_counted_both_ways
        "TTL goes down by one each way, and 2 becomes 1";
    111 Must "RFC 1812 5.3.1" ttl_end_from_outside_is_told_without_inside_addresses
        "TTL 1 from outside: 11/0 from X quoting X, or silence; nothing inside";
    112 Should "RFC 1812 4.3.2.3" errors_quote_as_much_as_fits
        "ICMP errors quote what fits in 576 bytes, as received";
    113 Must "RFC 1812 4.3.2.4" errors_come_from_the_interface_they_leave_by
        "ICMP errors to the inside come from the inside address";
    114 Must "RFC 1812 4.3.2.5" errors_have_a_ttl_and_precedence_of_their_own
        "ICMP errors have a TTL of their own, and the precedence of control or of what they are about";
    115 Must "RFC 1812 4.3.2.7" no_error_about_an_error
        "no ICMP error about an ICMP error, a broadcast, a bad packet or a later fragment";
    117 Must "RFC 1812 4.3.3.1" a_host_that_is_not_there_is_told
        "the host does not answer ARP: the remote gets 3/1, or at least no inside address" in ABSENT;
    118 Must "RFC 1812 4.3.3.6" the_gateway_answers_ping
        "ping of the inside address from inside, of X from outside and inside";
    120 Should "RFC 1812 5.3.7" martians_are_dropped
        "sources 0/8, 127/8, 224/4, 240/4, broadcast and destinations 0/8, 127/8, 240/4: dropped, both ways";
    121 Should "RFC 2827" spoofed_sources_are_dropped
        "packets from inside whose source is not of the inside are dropped";
    122 Must "RFC 2644" directed_broadcasts_are_not_forwarded
        "broadcasts of the subnets are not forwarded";
    124 Must "RFC 1191 4" too_big_without_a_size_passes
        "a 3/4 of an old router with MTU 0 passes unmodified";
    125 Must "RFC 4821" full_size_probes_pass
        "1500 bytes with DF pass over 1500-byte links, both ways";
    128 Must "RFC 826" arp_is_answered_for_own_addresses_only
        "ARP for others' addresses, or for the inside address asked outside, is not answered";
    128 Should "RFC 5227 3" a_new_mac_is_learnt_from_its_announcement
        "a host announces a new MAC, and its packets go there";
    129 Must "RFC 894" ethernet_padding_is_not_payload
        "padding of short frames is not forwarded as data";
}

fn udp_checksums_of_zero_are_right(lab: &mut Trial) -> Shown {
    let (a, remote) = (lab.at(A, 6700), lab.at(S1, 4000));
    let mut none = udp(a, remote);
    none.payload[6..8].fill(0);
    let left = lab.out(&none)?;
    demand(left.payload[6..8] == [0, 0], "a checksum of 0 was replaced")?;
    let external = left.from();
    // As it will be outside, the data chosen so that the sum comes to nothing.
    let mut after = udp_with(external, remote, &[0; 12]);
    after.payload[6..8].fill(0);
    let number = data(4);
    after.payload[8..12].copy_from_slice(&number);
    after.payload.truncate(8 + 12);
    after.sum();
    let rest = [after.payload[6], after.payload[7]];
    after.payload[18..20].copy_from_slice(&rest);
    let before = udp_with(a, remote, &after.payload[8..]);
    let left = lab.out(&before)?;
    demand(left.payload[6..8] == [0xff, 0xff], format!("the sum is {:02x?}", &left.payload[6..8]))
}

fn bad_checksums_are_not_repaired(lab: &mut Trial) -> Shown {
    lab.bad_sums_wanted = true;
    let (a, remote) = (lab.at(A, 6701), lab.at(S1, 4000));
    let external = lab.open(a, remote)?;
    for (from, good, to) in [(Place::A, udp(a, remote), World), (World, udp(remote, external), Place::A)] {
        let mut bad = good;
        bad.payload[6] ^= 0x55;
        let print = bad.fingerprint();
        lab.send(from, &bad)?;
        if let Some(passed) = lab.look(to, |p| p.fingerprint() == print)? {
            demand(passed.bad_sum().is_some(), format!("it was made right: {passed}"))?;
        }
    }
    Ok(())
}

fn odd_lengths_and_ports_have_right_checksums(lab: &mut Trial) -> Shown {
    for (length, port) in (5..14).zip([0x00ff, 0xff00, 0x0100, 0xffff, 0x8000, 1025, 0x7fff, 0xfffe, 0x1234])
    {
        let (a, remote) = (lab.at(A, port), lab.at(S1, 4000));
        let external = lab.out(&udp_with(a, remote, &data(length)))?.from();
        lab.back(&udp_with(remote, external, &data(length)), a)?;
    }
    let mut c = lab.connect(lab.at(A, 6702), lab.at(S1, 80))?;
    for length in [5, 7, 1439] {
        let segment = c.out(0, &data(length));
        lab.out(&segment)?;
    }
    Ok(())
}

fn harmless_options_pass(lab: &mut Trial) -> Shown {
    lab.out(&Packet { options: vec![1, 1, 1, 0], ..udp(lab.at(A, 6703), lab.at(S1, 4000)) })?;
    // The router alert of RFC 2113.
    lab.out(&Packet { options: vec![148, 4, 0, 0], ..udp(lab.at(A, 6703), lab.at(S1, 4000)) })?;
    Ok(())
}

fn arp_is_answered_for_pool_addresses(lab: &mut Trial) -> Shown {
    let pooled = lab.ip(Who::Pooled);
    let mac = lab.ask_once(World, pooled, Duration::from_secs(2))?;
    demand(mac.is_some(), format!("nobody says where {pooled} is"))?;
    let left = lab.pass(Place::A, &udp(lab.at(A, 6704), lab.at(S1, 4000)), World)?;
    demand(left.source == pooled, format!("it left as {left}"))?;
    lab.back(&udp(lab.at(S1, 4000), left.from()), lab.at(A, 6704))?;
    Ok(())
}

/// The holder that `tapnat lookup` names as owner of a block, and the block.
fn block(lab: &Trial, who: &str) -> Shown<(String, std::ops::RangeInclusive<u16>)> {
    let said = lab.gateway.ask(&["lookup", who, "--json"])?;
    let read = |line: &str| {
        let holder: serde_json::Value = serde_json::from_str(line).ok()?;
        let text = |key: &str| Some(holder.get(key)?.as_str()?.to_owned());
        let (inside, outside) = (text("inside")?, text("outside")?);
        let (first, last) = outside.rsplit_once(':')?.1.split_once('-')?;
        (text("why")? == "block").then_some((inside, first.parse().ok()?..=last.parse().ok()?))
    };
    let found = said.lines().find_map(read);
    found.ok_or_else(|| Fault::NotMet(format!("asked whose block {who} is in, it says: {}", said.trim())))
}

fn flows_of_a_host_are_in_its_block(lab: &mut Trial) -> Shown {
    let mut blocks = Vec::new();
    for host in [A, B, C] {
        let (owner, ports) = block(lab, &lab.ip(host).to_string())?;
        lab.say(format!("lookup {host}: {owner} has {ports:?}"));
        for port in 6705..6713 {
            let externals = [
                lab.open(lab.at(host, port), lab.at(S1, 4000))?,
                lab.connect(lab.at(host, port), lab.at(S2, 80))?.external,
            ];
            for external in externals {
                let inside = ports.contains(&external.port());
                demand(inside, format!("{host}:{port} became {external}, its block is {ports:?}"))?;
                let (owner, _) = block(lab, &external.to_string())?;
                demand(
                    owner == lab.ip(host).to_string(),
                    format!("{external} is {host}'s and said to be {owner}'s"),
                )?;
            }
        }
        blocks.push(ports);
    }
    blocks.sort_by_key(|ports| *ports.start());
    let apart = blocks.windows(2).all(|pair| pair[0].end() < pair[1].start());
    demand(apart, format!("blocks overlap: {blocks:?}"))
}

fn errors_have_a_ttl_and_precedence_of_their_own(lab: &mut Trial) -> Shown {
    let (a, remote) = (lab.at(A, 6714), lab.at(S1, 4000));
    let external = lab.open(a, remote)?;
    for tos in [0x00, 0x48] {
        for (place, packet) in [(Place::A, udp(a, remote)), (World, udp(remote, external))] {
            lab.forget();
            let told = lab.refused(place, &Packet { ttl: 1, tos, ..packet }, Told::Hops)?;
            demand(told.ttl >= 64, format!("about a packet with TTL 1: {told}"))?;
            // Precedence 6 or 7 of RFC 1812, or the DSCP of RFC 5508 REQ-10d, which is later.
            let right = told.tos >> 6 == 3 || told.tos >> 2 == tos >> 2;
            demand(right, format!("about TOS {tos:#04x}, an error with TOS {:#04x}", told.tos))?;
        }
    }
    Ok(())
}

fn the_whole_port_range_is_used(lab: &mut Trial) -> Shown {
    let mut ports = Vec::new();
    lab.say("200 flows from A, each from a port that B uses already");
    lab.unwritten(|lab| {
        for port in 7000..7200 {
            lab.open(lab.at(B, port), lab.at(S1, 4000))?;
            ports.push(lab.open(lab.at(A, port), lab.at(S1, 4000))?.port());
        }
        Ok(())
    })?;
    let (low, high) = (ports.iter().min().copied(), ports.iter().max().copied());
    let words = format!("200 ports were between {} and {}", low.unwrap_or(0), high.unwrap_or(0));
    lab.say(words.clone());
    demand(low.is_some_and(|low| low < 16_384) && high.is_some_and(|high| high > 49_152), words)
}

fn broken_headers_are_discarded(lab: &mut Trial) -> Shown {
    let (a, remote) = (lab.at(A, 6705), lab.at(S1, 4000));
    let external = lab.open(a, remote)?;
    for (from, packet, to) in
        [(Place::A, udp(a, remote), [World, Place::B]), (World, udp(remote, external), [Place::A, Place::B])]
    {
        let good = packet.bytes();
        let broken = |at: usize, value: u8, sum: bool| {
            let mut bytes = good.clone();
            bytes[at] = value;
            if sum {
                bytes[10..12].fill(0);
                let sum = checksum(&[&bytes[..20]]);
                bytes[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            bytes
        };
        let all = [
            (broken(10, good[10] ^ 0x55, false), "a wrong IP header checksum"),
            (broken(0, 0x55, true), "IP version 5"),
            (broken(0, 0x65, true), "IP version 6 in an IPv4 frame"),
            (broken(0, 0x44, true), "a header of 16 bytes"),
            (broken(3, 12, true), "a total length of 12"),
            (broken(2, 4, true), "a total length beyond the frame"),
            (good[..12].to_vec(), "12 bytes"),
        ];
        for (bytes, what) in all {
            lab.forget();
            lab.send_bytes(from, &bytes, what)?;
            lab.nothing(&to, what)?;
        }
    }
    lab.back(&udp(remote, external), a)?;
    Ok(())
}

fn ttl_is_counted_both_ways(lab: &mut Trial) -> Shown {
    let (a, remote) = (lab.at(A, 6706), lab.at(S1, 4000));
    let left = lab.out(&Packet { ttl: 2, ..udp(a, remote) })?;
    demand(left.ttl == 1, format!("TTL 2 became {}", left.ttl))?;
    let got = lab.back(&Packet { ttl: 2, ..udp(remote, left.from()) }, a)?;
    demand(got.ttl == 1, format!("TTL 2 became {}", got.ttl))
}

fn ttl_end_from_outside_is_told_without_inside_addresses(lab: &mut Trial) -> Shown {
    let (a, remote) = (lab.at(A, 6707), lab.at(S1, 4000));
    let external = lab.open(a, remote)?;
    lab.blocked(World, &Packet { ttl: 1, ..udp(remote, external) }, &HOSTS)?;
    let Some(told) = lab.look(World, Packet::is_error)? else {
        return Err(Fault::NotMet("the remote is not told".into()));
    };
    let quote = told.quote().ok_or_else(|| Fault::NotMet("its quote cannot be read".into()))?;
    let right = told.tells(Told::Hops) && told.source == X && quote.to() == external;
    demand(right, format!("the remote is told {told}"))
}

fn errors_quote_as_much_as_fits(lab: &mut Trial) -> Shown {
    let packet = Packet { ttl: 1, ..udp_with(lab.at(A, 6708), lab.at(S1, 4000), &data(1000)) };
    let told = lab.refused(Place::A, &packet, Told::Hops)?;
    let sent = packet.bytes();
    let quoted = told.quoted_bytes();
    demand(sent.starts_with(quoted), "it does not quote the packet as A sent it")?;
    let length = told.bytes().len();
    demand((560..=576).contains(&length), format!("the error has {length} bytes"))
}

fn errors_come_from_the_interface_they_leave_by(lab: &mut Trial) -> Shown {
    let told =
        lab.refused(Place::A, &Packet { ttl: 1, ..udp(lab.at(A, 6709), lab.at(S1, 4000)) }, Told::Hops)?;
    demand(told.source == GI, format!("it comes from {}", told.source))
}

fn no_error_about_an_error(lab: &mut Trial) -> Shown {
    let (a, remote) = (lab.at(A, 6710), lab.at(S1, 4000));
    let external = lab.open(a, remote)?;
    let got = lab.back(&udp(remote, external), a)?;
    let about = |packet: Packet| Packet { ttl: 1, ..packet };
    let later = udp_with(a, remote, &data(2000)).cut(1000).remove(1);
    let all = [
        about(lab.tell(A, S1, Told::Port, &got)),
        about(later),
        about(udp(lab.at(A, 6710), lab.at(Ipv4Addr::BROADCAST, 4000))),
        about(udp(lab.at(A, 6710), lab.at(Ipv4Addr::new(224, 0, 0, 9), 4000))),
    ];
    for packet in all {
        lab.blocked(Place::A, &packet, &[Place::A, World])?;
    }
    let mut bad = about(udp(a, remote)).bytes();
    bad[10] ^= 0x55;
    lab.send_bytes(Place::A, &bad, "TTL 1 and a wrong header checksum")?;
    lab.nothing(&[Place::A, World], "a packet with a wrong header checksum")
}

fn a_host_that_is_not_there_is_told(lab: &mut Trial) -> Shown {
    lab.forget();
    lab.send(World, &udp(lab.at(S1, 4000), lab.at(X, 5300)))?;
    let mut told = None;
    for _ in 0..6 {
        lab.wait(Duration::from_secs(1))?;
        told = lab.look(World, Packet::is_error)?;
        if told.is_some() {
            break;
        }
    }
    let told = told.ok_or_else(|| Fault::NotMet("the remote is never told".into()))?;
    let quote = told.quote().ok_or_else(|| Fault::NotMet("its quote cannot be read".into()))?;
    let right = told.tells(Told::Host) && told.source == X && quote.to() == lab.at(X, 5300);
    demand(right, format!("the remote is told {told}"))
}

fn the_gateway_answers_ping(lab: &mut Trial) -> Shown {
    for (place, from, to) in [(Place::A, A, GI), (World, R9, X), (Place::B, B, X)] {
        let ping = lab.echo(from, to, 800);
        let expected = ping.payload[8..].to_vec();
        lab.send(place, &ping)?;
        let reply =
            lab.look(place, |p| matches!(p.kind(), 0 | 129) && p.payload.get(8..) == Some(&expected[..]))?;
        let reply = reply.ok_or_else(|| Fault::NotMet(format!("no reply to {ping}")))?;
        demand(reply.source == to && reply.to().port() == 800, format!("{ping} was answered by {reply}"))?;
    }
    Ok(())
}

fn martians_are_dropped(lab: &mut Trial) -> Shown {
    let external = lab.open(lab.at(A, 6711), lab.at(S1, 4000))?;
    let address = |text: [u8; 4]| Ipv4Addr::from(text);
    let sources = [[0, 0, 0, 1], [127, 0, 0, 1], [224, 0, 0, 5], [240, 0, 0, 1], [255, 255, 255, 255]];
    for source in sources.map(address) {
        lab.blocked(Place::A, &udp(lab.at(source, 6711), lab.at(S1, 4000)), &[World, Place::B])?;
        lab.blocked(World, &udp(lab.at(source, 4000), external), &HOSTS)?;
    }
    for destination in [[0, 0, 0, 1], [127, 0, 0, 1], [240, 0, 0, 1]].map(address) {
        lab.blocked(Place::A, &udp(lab.at(A, 6711), lab.at(destination, 4000)), &[World, Place::B])?;
        lab.blocked(World, &udp(lab.at(S1, 4000), lab.at(destination, 4000)), &HOSTS)?;
    }
    Ok(())
}

fn spoofed_sources_are_dropped(lab: &mut Trial) -> Shown {
    for source in [Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::new(172, 30, 0, 5), four::S2] {
        lab.blocked(Place::A, &udp(lab.at(source, 6712), lab.at(S1, 4000)), &[World])?;
    }
    Ok(())
}

fn directed_broadcasts_are_not_forwarded(lab: &mut Trial) -> Shown {
    let outside = Ipv4Addr::new(203, 0, 113, 255);
    let inside = Ipv4Addr::new(10, 0, 0, 255);
    lab.blocked(World, &udp(lab.at(S1, 4000), lab.at(outside, 4000)), &HOSTS)?;
    lab.blocked(World, &udp(lab.at(S1, 4000), lab.at(inside, 4000)), &HOSTS)?;
    lab.blocked(Place::A, &udp(lab.at(A, 6713), lab.at(outside, 4000)), &[World])
}

fn too_big_without_a_size_passes(lab: &mut Trial) -> Shown {
    let sent = lab.out(&udp(lab.at(A, 6714), lab.at(S1, 4000)))?;
    lab.forget();
    let got = lab.back(&lab.error(R9, X, 3, 4, [0; 4], &sent), lab.at(A, 0))?;
    demand(got.mtu() == 0, format!("the MTU became {}", got.mtu()))
}

fn full_size_probes_pass(lab: &mut Trial) -> Shown {
    let most = if lab.family == Family::Four { 1472 } else { 1452 };
    let (a, remote) = (lab.at(A, 6715), lab.at(S1, 4000));
    let external = lab.out(&Packet { df: true, ..udp_with(a, remote, &data(most)) })?.from();
    lab.back(&Packet { df: true, ..udp_with(remote, external, &data(most)) }, a)?;
    Ok(())
}

fn arp_is_answered_for_own_addresses_only(lab: &mut Trial) -> Shown {
    let asked = [(Place::A, Ipv4Addr::new(10, 0, 0, 99)), (World, four::GI), (World, four::A)];
    for (place, address) in asked {
        let answer = lab.ask_once(place, address, Duration::from_millis(400))?;
        lab.say(format!(
            "{place:?} asks by ARP who has {address}: {}",
            if answer.is_some() { "answered" } else { "∅" }
        ));
        demand(answer.is_none(), format!("asked at {place:?}, ARP for {address} is answered"))?;
    }
    Ok(())
}

fn a_new_mac_is_learnt_from_its_announcement(lab: &mut Trial) -> Shown {
    let (a, remote) = (lab.at(A, 6716), lab.at(S1, 4000));
    let external = lab.open(a, remote)?;
    lab.back(&udp(remote, external), a)?;
    lab.change_mac(Place::A, [2, 0x5e, 0x1f, 0x99, 0, 1])?;
    lab.sync()?;
    lab.back(&udp(remote, external), a)?;
    Ok(())
}

fn ethernet_padding_is_not_payload(lab: &mut Trial) -> Shown {
    let (a, remote) = (lab.at(A, 6717), lab.at(S1, 4000));
    let packet = udp_with(a, remote, &data(4));
    let mut bytes = packet.bytes();
    bytes.resize(46, 0xee);
    let print = packet.fingerprint();
    lab.send_bytes(Place::A, &bytes, "32 bytes of IPv4 in a padded frame")?;
    let left = lab.look(World, |p| p.fingerprint() == print)?;
    let left = left.ok_or_else(|| Fault::NotMet("it did not leave, or with its padding".into()))?;
    let packet = udp_with(remote, left.from(), &data(4));
    let mut bytes = packet.bytes();
    bytes.resize(46, 0xee);
    let print = packet.fingerprint();
    lab.send_bytes(World, &bytes, "32 bytes of IPv4 in a padded frame")?;
    let came = lab.look(Place::A, |p| p.fingerprint() == print)?;
    demand(came.is_some(), "it did not come in, or with its padding")
}
