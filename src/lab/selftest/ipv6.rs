//! What is IPv6's own: RFC 8200 and 4291, ICMPv6 (RFC 4443), neighbours and routers (RFC 4861), and
//! prefix translation (RFC 6296). What holds as over IPv4 is in [`super::twins`].

use super::contender::{PLAIN, Setup};
use super::packet::{ICMP6, Packet, Told, data, fresh, ip, joined, tcp, udp, udp_with};
use super::trial::Place::World;
use super::trial::{A, B, GI, HOSTS, Place, R9, S1, S2, Trial, Who, X, six};
use super::{Fault, Shown, demand, requirements};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

const SIX: Setup = PLAIN.over_six();
/// The smallest MTU that IPv6 allows, outside.
const NARROW: Setup = Setup { outside_mtu: 1280, ..SIX };
/// The same, inside.
const NARROW_INSIDE: Setup = Setup { tapnat: &["--mtu", "1280"], ..SIX };
/// The gateway is the hosts' router and tells them so.
const ROUTER: Setup = Setup { tapnat: &["--advertise", "on", "--dns", "2001:db8:51::53"], ..SIX };
/// Prefixes are translated, and no ports.
const PREFIX: Setup = Setup { tapnat: &["--prefix-translation", "fd00:10::/64=2001:db8:88::/64"], ..SIX };

requirements! {
    126 Must "RFC 8200 5" too_big_is_told_and_never_cut
        "too big for the outside: Packet Too Big with its MTU, and nothing is fragmented" in NARROW;
    126 Must "RFC 4443 3.2" too_big_for_the_inside_is_told_outside
        "too big for the inside: its sender outside is told, from X, quoting what it sent" in NARROW_INSIDE;
    126 Must "RFC 8200 4.5" fragments_leave_as_they_came
        "fragments keep their sizes: none is cut again, joined or lost" in NARROW;
    151 Must "RFC 6296 3.1" prefixes_are_translated_without_touching_checksums
        "a host has one address outside, and nothing behind the IPv6 header changes" in PREFIX;
    151 Must "RFC 6296 3.2" outside_addresses_reach_their_hosts
        "from outside a host is reached by its address, with nothing opened before" in PREFIX;
    153 Must "RFC 6296 3.7" an_identifier_of_all_zeros_is_not_translated
        "a packet to an address outside with an identifier of zeros is dropped" in PREFIX;
    154 Must "RFC 6296 2.4" errors_have_their_quotes_translated_by_prefix
        "ICMPv6 errors come in and go out with quotes translated" in PREFIX;
    155 Must "RFC 6296 4.3" hosts_reach_each_other_by_translated_addresses
        "hairpinning by prefix: both addresses translated, the answer returns" in PREFIX;
    181 Must "RFC 8200 4" extension_headers_pass_untouched
        "packets with hop-by-hop and destination options are translated behind them, both ways" in SIX;
    182 May "RFC 5095 3" routing_headers_are_not_passed_on
        "a routing header of type 0 does not pass, segments left or not" in SIX;
    183 Must "RFC 5722 3" overlapping_fragments_make_no_datagram
        "fragments that overlap: the datagram never arrives whole" in SIX;
    183 May "RFC 7112 5" first_fragments_without_their_headers_are_dropped
        "a first fragment that ends inside the TCP header is dropped, and all others of it" in SIX;
    183 Must "RFC 6946 4" atomic_fragments_pass_alone
        "a fragment that is the whole packet passes at once, also beside others of its identification" in SIX;
    184 Must "RFC 8200 8.1" udp_sums_of_zero_are_written_as_ones
        "a UDP checksum that comes to 0 is sent as 0xffff" in SIX;
    184 May "RFC 6936 5" datagrams_without_a_checksum_stay_without
        "a datagram without a checksum passes so or is dropped: none is made up" in SIX;
    185 Must "RFC 4443 2.4" errors_quote_as_much_as_fits_1280
        "ICMPv6 errors quote what fits the smallest MTU, as received" in SIX;
    185 Must "RFC 4443 2.4" no_error_about_errors_groups_or_nobody
        "no error about an error, a packet to a group, or one from :: or a group" in SIX;
    185 Must "RFC 4443 2.4" whole_quotes_have_right_checksums
        "the quoted packet is put right down to its checksum, both ways" in SIX;
    186 Must "RFC 4861 7.2" only_own_addresses_are_answered_for
        "solicitations for its own address are answered; for others', or the inside one outside, not" in SIX;
    186 Must "RFC 4861 7.1" discovery_from_afar_is_ignored
        "an advertisement that has passed a router moves no address" in SIX;
    186 Should "RFC 4890 4.3.3" discovery_stays_on_its_link
        "solicitations and advertisements to addresses far away are not forwarded" in SIX;
    187 Must "RFC 4861 6.2" routers_say_what_hosts_need
        "a solicited advertisement: hop limit 255, link-local source, prefix, MTU, MAC, DNS server" in ROUTER;
    188 Should "RFC 6437 3" traffic_class_and_flow_label_pass
        "traffic class and flow label pass as they are, both ways" in SIX;
    189 Must "RFC 4291 2.5" addresses_of_no_use_beyond_the_link_are_not_forwarded
        "::, ::1, link-local and group addresses as source, all but groups as destination: dropped" in SIX;
    189 Should "RFC 2827" spoofed_sources_are_dropped_over_six
        "packets from inside whose source is not of the inside are dropped" in SIX;
    190 Should "RFC 4443 5" odd_messages_never_leak
        "unknown errors, node information and others: translated or dropped, never as they are" in SIX;
}

fn too_big_is_told_and_never_cut(lab: &mut Trial) -> Shown {
    let (a, remote) = (lab.at(A, 5100), lab.at(S1, 4000));
    lab.open(a, remote)?;
    let packet = udp_with(a, remote, &data(1400));
    lab.forget();
    let told = lab.refused(Place::A, &packet, Told::TooBig(0))?;
    demand(told.mtu() == 1280, format!("it tells MTU {}", told.mtu()))?;
    demand(told.source == GI, format!("it comes from {}", told.source))?;
    demand(packet.bytes().starts_with(told.quoted_bytes()), "it does not quote the packet as A sent it")?;
    lab.nothing(&[World], "it")
}

fn too_big_for_the_inside_is_told_outside(lab: &mut Trial) -> Shown {
    let (a, remote) = (lab.at(A, 5101), lab.at(S1, 4000));
    let external = lab.open(a, remote)?;
    let packet = udp_with(remote, external, &data(1400));
    lab.forget();
    let told = lab.refused(World, &packet, Told::TooBig(0))?;
    demand(told.mtu() == 1280, format!("it tells MTU {}", told.mtu()))?;
    demand(told.source == X, format!("it comes from {}", told.source))?;
    demand(packet.bytes().starts_with(told.quoted_bytes()), "it does not quote the packet as it was sent")?;
    lab.nothing(&HOSTS, "it")
}

fn fragments_leave_as_they_came(lab: &mut Trial) -> Shown {
    let (a, remote) = (lab.at(A, 5102), lab.at(S1, 4000));
    let external = lab.open(a, remote)?;
    for (from, to, packet) in [
        (Place::A, World, udp_with(a, remote, &data(3000))),
        (World, Place::A, udp_with(remote, external, &data(3000))),
    ] {
        let pieces = packet.cut(1200);
        lab.forget();
        pieces.iter().try_for_each(|piece| lab.send(from, piece))?;
        let came = lab.collect(to)?;
        let sizes = |pieces: &[Packet]| {
            let mut all: Vec<_> = pieces.iter().map(|piece| (piece.offset, piece.payload.len())).collect();
            all.sort_unstable();
            all
        };
        let words = format!("fragments of {:?} came as {:?}", sizes(&pieces), sizes(&came));
        demand(sizes(&pieces) == sizes(&came), words)?;
        let made = joined(&came).ok_or_else(|| Fault::NotMet("they do not make a datagram".into()))?;
        demand(made.bad_sum().is_none(), "the datagram has a wrong checksum")?;
    }
    Ok(())
}

/// Sends it from its inside host; gives it back as it left, with a source of the prefix outside.
fn translated(lab: &mut Trial, packet: &Packet) -> Shown<Packet> {
    let from = super::trial::place_of(packet.source);
    let left = lab.pass(from, packet, World)?;
    let outside = matches!(left.source, IpAddr::V6(ip) if ip.segments()[..4] == [0x2001, 0xdb8, 0x88, 0]);
    demand(outside && left.destination == packet.destination, format!("{packet} left as {left}"))?;
    demand(left.payload == packet.payload, format!("something behind the header of {packet} changed"))?;
    Ok(left)
}

fn prefixes_are_translated_without_touching_checksums(lab: &mut Trial) -> Shown {
    let mut outside = Vec::new();
    for host in [A, B] {
        let (one, other) = (lab.at(S1, 4000), lab.at(S2, 80));
        let first = translated(lab, &udp(lab.at(host, 5103), one))?.source;
        for packet in [
            tcp(lab.at(host, 5104), other, super::packet::SYN, fresh() << 8, 0, &[]),
            lab.echo(host, R9, 77),
            lab.other(host, S2, 253, data(40)),
        ] {
            let again = translated(lab, &packet)?.source;
            demand(again == first, format!("{host} was {first} outside, and is {again}"))?;
        }
        outside.push(first);
    }
    demand(outside[0] != outside[1], format!("A and B are both {}", outside[0]))
}

fn outside_addresses_reach_their_hosts(lab: &mut Trial) -> Shown {
    let address = translated(lab, &udp(lab.at(A, 5105), lab.at(S1, 4000)))?.source;
    for packet in [
        udp(lab.at(Who::Stranger, 9), lab.at(address, 53)),
        tcp(lab.at(Who::Stranger, 9), lab.at(address, 80), super::packet::SYN, fresh() << 8, 0, &[]),
        lab.echo(Who::Stranger, address, 78),
    ] {
        let came = lab.pass(World, &packet, Place::A)?;
        demand(came.destination == A && came.source == packet.source, format!("{packet} came in as {came}"))?;
        demand(came.payload == packet.payload, format!("something behind the header of {packet} changed"))?;
    }
    Ok(())
}

fn an_identifier_of_all_zeros_is_not_translated(lab: &mut Trial) -> Shown {
    let zeros = Ipv6Addr::new(0x2001, 0xdb8, 0x88, 0, 0, 0, 0, 0);
    let packet = udp(lab.at(S1, 4000), lab.at(zeros, 53));
    lab.blocked(World, &packet, &HOSTS)?;
    translated(lab, &udp(lab.at(A, 5106), lab.at(S1, 4000)))?;
    Ok(())
}

fn errors_have_their_quotes_translated_by_prefix(lab: &mut Trial) -> Shown {
    let sent = udp(lab.at(A, 5107), lab.at(S1, 4000));
    let left = translated(lab, &sent)?;
    lab.forget();
    let told = lab.tell(R9, left.source, Told::TooBig(1400), &left);
    lab.send(World, &told)?;
    let came = lab.look(Place::A, Packet::is_error)?;
    let came = came.ok_or_else(|| Fault::NotMet("the error did not come in".into()))?;
    let quote = came.quote().ok_or_else(|| Fault::NotMet("its quote cannot be read".into()))?;
    let right = quote.source == A && quote.payload == sent.payload && came.mtu() == 1400;
    demand(right, format!("A got {came}"))?;
    let got = lab.pass(World, &udp(lab.at(S1, 4000), left.from()), Place::A)?;
    lab.forget();
    lab.send(Place::A, &lab.tell(A, S1, Told::Port, &got))?;
    let came = lab.look(World, Packet::is_error)?;
    let came = came.ok_or_else(|| Fault::NotMet("A's error did not leave".into()))?;
    let quote = came.quote().ok_or_else(|| Fault::NotMet("its quote cannot be read".into()))?;
    demand(came.source == left.source && quote.to() == left.from(), format!("A's error left as {came}"))
}

fn hosts_reach_each_other_by_translated_addresses(lab: &mut Trial) -> Shown {
    let [one, other] = [A, B].map(|host| udp(lab.at(host, 5108), lab.at(S1, 4000)));
    let (xa, xb) = (translated(lab, &one)?.from(), translated(lab, &other)?.from());
    let there = lab.pass(Place::A, &udp(lab.at(A, 5108), xb), Place::B)?;
    demand(there.from() == xa && there.to() == lab.at(B, 5108), format!("B got {there}"))?;
    let back = lab.pass(Place::B, &udp(lab.at(B, 5108), xa), Place::A)?;
    demand(back.from() == xb && back.to() == lab.at(A, 5108), format!("A got {back}"))
}

/// Six bytes of options: four of padding in one.
const PADDING: [u8; 6] = [1, 4, 0, 0, 0, 0];

fn extension_headers_pass_untouched(lab: &mut Trial) -> Shown {
    let (a, remote) = (lab.at(A, 5109), lab.at(S1, 4000));
    let long = [&[1, 12][..], &[0; 12]].concat();
    let chains =
        [vec![(60, PADDING.to_vec())], vec![(0, PADDING.to_vec())], vec![(0, PADDING.to_vec()), (60, long)]];
    for extensions in chains {
        let left = lab.out(&Packet { extensions: extensions.clone(), ..udp(a, remote) })?;
        lab.back(&Packet { extensions, ..udp(remote, left.from()) }, a)?;
    }
    Ok(())
}

fn routing_headers_are_not_passed_on(lab: &mut Trial) -> Shown {
    let (a, remote) = (lab.at(A, 5110), lab.at(S1, 4000));
    let external = lab.open(a, remote)?;
    for left in [0, 1] {
        let header = [&[0, left, 0, 0, 0, 0][..], &six::R9.octets()].concat();
        let extensions = vec![(43, header)];
        let out = Packet { extensions: extensions.clone(), ..udp(a, remote) };
        lab.blocked(Place::A, &out, &[World])?;
        lab.blocked(World, &Packet { extensions, ..udp(remote, external) }, &HOSTS)?;
    }
    Ok(())
}

fn overlapping_fragments_make_no_datagram(lab: &mut Trial) -> Shown {
    let (a, remote) = (lab.at(A, 5111), lab.at(S1, 4000));
    let external = lab.open(a, remote)?;
    for (from, to, whole) in [
        (Place::A, World, udp_with(a, remote, &data(2000))),
        (World, Place::A, udp_with(remote, external, &data(2000))),
    ] {
        let pieces = whole.cut(800);
        let overlapping = Packet { offset: 400, ..pieces[1].clone() };
        lab.forget();
        for piece in [&pieces[0], &overlapping, &pieces[1], &pieces[2]] {
            lab.send(from, piece)?;
        }
        let came = lab.collect(to)?;
        demand(joined(&came).is_none(), "overlapping fragments made a datagram")?;
    }
    lab.open(lab.at(A, 5112), remote)?;
    Ok(())
}

fn first_fragments_without_their_headers_are_dropped(lab: &mut Trial) -> Shown {
    let syn = tcp(lab.at(A, 5113), lab.at(S1, 80), super::packet::SYN, 0x1000, 0, &[]);
    let pieces = syn.cut(8);
    for piece in &pieces {
        lab.blocked(Place::A, piece, &[World])?;
    }
    Ok(())
}

fn atomic_fragments_pass_alone(lab: &mut Trial) -> Shown {
    let (a, remote) = (lab.at(A, 5114), lab.at(S1, 4000));
    let external = lab.open(a, remote)?;
    for waiting in [false, true] {
        let ways = [(Place::A, World, udp(a, remote)), (World, Place::A, udp(remote, external))];
        for (from, to, packet) in ways {
            let id = fresh();
            if waiting {
                let other = Packet { id, ..udp_with(packet.from(), packet.to(), &data(2000)) };
                lab.send(from, &other.cut(1000)[0])?;
            }
            let header = [&[0, 0][..], &id.to_be_bytes()].concat();
            let atomic = Packet { extensions: vec![(44, header)], ..packet };
            let print = atomic.fingerprint();
            lab.send(from, &atomic)?;
            let came = lab.look(to, |p| p.fingerprint() == print)?;
            let beside = if waiting { "beside a fragment of its identification" } else { "alone" };
            let came = came.ok_or_else(|| Fault::NotMet(format!("{beside}, it did not pass: {atomic}")))?;
            demand(came.bad_sum().is_none(), format!("it came as {came}, with a wrong checksum"))?;
        }
    }
    Ok(())
}

fn udp_sums_of_zero_are_written_as_ones(lab: &mut Trial) -> Shown {
    let (a, remote) = (lab.at(A, 5115), lab.at(S1, 4000));
    let external = lab.open(a, remote)?;
    // As it will be outside, the data chosen so that the sum comes to nothing.
    let mut after = udp_with(external, remote, &data(12));
    after.payload[18..20].fill(0);
    after.sum();
    let rest = [after.payload[6], after.payload[7]];
    after.payload[18..20].copy_from_slice(&rest);
    let left = lab.out(&udp_with(a, remote, &after.payload[8..]))?;
    let sum = &left.payload[6..8];
    demand(left.from() == external, format!("it was {external}, and left as {left}"))?;
    demand(sum == [0xff, 0xff], format!("the sum is {sum:02x?}"))
}

fn datagrams_without_a_checksum_stay_without(lab: &mut Trial) -> Shown {
    lab.bad_sums_wanted = true;
    let (a, remote) = (lab.at(A, 5116), lab.at(S1, 4000));
    let external = lab.open(a, remote)?;
    for (from, mut packet, to) in
        [(Place::A, udp(a, remote), World), (World, udp(remote, external), Place::A)]
    {
        packet.payload[6..8].fill(0);
        let print = packet.fingerprint();
        lab.send(from, &packet)?;
        if let Some(came) = lab.look(to, |p| p.fingerprint() == print)? {
            let sum = &came.payload[6..8];
            demand(sum == [0, 0], format!("it was given the checksum {sum:02x?}"))?;
        }
    }
    Ok(())
}

fn errors_quote_as_much_as_fits_1280(lab: &mut Trial) -> Shown {
    let packet = Packet { ttl: 1, ..udp_with(lab.at(A, 5117), lab.at(S1, 4000), &data(1400)) };
    let told = lab.refused(Place::A, &packet, Told::Hops)?;
    let length = told.bytes().len();
    demand(packet.bytes().starts_with(told.quoted_bytes()), "it does not quote the packet as A sent it")?;
    demand((1232..=1280).contains(&length), format!("the error has {length} bytes"))?;
    let short = Packet { ttl: 1, ..udp(lab.at(A, 5117), lab.at(S1, 4000)) };
    let told = lab.refused(Place::A, &short, Told::Hops)?;
    demand(told.quoted_bytes() == short.bytes(), "a short packet is not quoted whole")
}

fn no_error_about_errors_groups_or_nobody(lab: &mut Trial) -> Shown {
    let (a, remote) = (lab.at(A, 5118), lab.at(S1, 4000));
    let external = lab.open(a, remote)?;
    let got = lab.back(&udp(remote, external), a)?;
    let group = Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 0, 0x113);
    let all = [
        lab.tell(A, S1, Told::Port, &got),
        udp(a, lab.at(group, 4000)),
        udp(lab.at(Ipv6Addr::UNSPECIFIED, 5118), remote),
        udp(lab.at(group, 5118), remote),
    ];
    for packet in all {
        lab.blocked(Place::A, &Packet { ttl: 1, ..packet }, &[Place::A, World])?;
    }
    Ok(())
}

fn whole_quotes_have_right_checksums(lab: &mut Trial) -> Shown {
    let (a, remote) = (lab.at(A, 5119), lab.at(S1, 4000));
    let sent = udp_with(a, remote, &data(500));
    let left = lab.out(&sent)?;
    lab.forget();
    let came = lab.back(&lab.tell(R9, X, Told::Host, &left), lab.at(A, 0))?;
    let quote = came.quote().ok_or_else(|| Fault::NotMet("its quote cannot be read".into()))?;
    let right = quote.from() == a && quote.bad_sum().is_none() && quote.payload == sent.payload;
    demand(right, format!("A sent {sent}, and is told about {quote}"))?;
    let answer = udp_with(remote, left.from(), &data(500));
    let got = lab.back(&answer, a)?;
    lab.forget();
    lab.send(Place::A, &lab.tell(A, S1, Told::Port, &got))?;
    let told = lab.look(World, Packet::is_error)?;
    let told = told.ok_or_else(|| Fault::NotMet("A's error did not leave".into()))?;
    let quote = told.quote().ok_or_else(|| Fault::NotMet("its quote cannot be read".into()))?;
    let right = quote.to() == left.from() && quote.bad_sum().is_none() && quote.payload == answer.payload;
    demand(right, format!("S1 sent {answer}, and is told about {quote}"))
}

fn only_own_addresses_are_answered_for(lab: &mut Trial) -> Shown {
    for (place, address) in [(Place::A, six::GI), (World, six::X)] {
        let answer = lab.ask_once(place, address, Duration::from_secs(2))?;
        demand(answer.is_some(), format!("asked at {place:?}, nobody answers for {address}"))?;
    }
    for (place, address) in [(Place::A, six::inside(0x99)), (World, six::GI), (World, six::A)] {
        let answer = lab.ask_once(place, address, Duration::from_millis(400))?;
        let word = if answer.is_some() { "answered" } else { "∅" };
        lab.say(format!("{place:?} asks who has {address}: {word}"));
        demand(answer.is_none(), format!("asked at {place:?}, {address} is answered for"))?;
    }
    Ok(())
}

fn discovery_from_afar_is_ignored(lab: &mut Trial) -> Shown {
    let (a, remote) = (lab.at(A, 5120), lab.at(S1, 4000));
    let external = lab.open(a, remote)?;
    lab.back(&udp(remote, external), a)?;
    for to in [six::GI, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)] {
        lab.claim(Place::B, A, to, 254)?;
    }
    lab.sync()?;
    lab.back(&udp(remote, external), a)?;
    Ok(())
}

fn discovery_stays_on_its_link(lab: &mut Trial) -> Shown {
    for kind in [133, 134, 135, 136, 137] {
        let body = [&six::R.octets()[..], &six::A.octets()].concat();
        for ttl in [255, 64] {
            let packet = lab.icmp(A, S1, kind, 0, [0; 4], &body);
            lab.send(Place::A, &Packet { ttl, ..packet })?;
        }
    }
    lab.nothing(&[World], "messages of neighbour discovery")?;
    let leaked = lab.overheard(World, |packet| packet.destination == S1);
    demand(leaked.is_none(), leaked.map(|packet| format!("{packet} left")).unwrap_or_default())
}

fn routers_say_what_hosts_need(lab: &mut Trial) -> Shown {
    let told = lab.solicit_router(Place::A, Duration::from_secs(6))?;
    let (to, told) = told.ok_or_else(|| Fault::NotMet("no router answers".into()))?;
    lab.say(format!("    A ⇒ {told}"));
    demand(told.ttl == 255, format!("its hop limit is {}", told.ttl))?;
    let link = matches!(told.source, IpAddr::V6(ip) if ip.is_unicast_link_local());
    demand(link && told.bad_sum().is_none(), format!("it comes from {}", told.source))?;
    let group = told.destination == IpAddr::from(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
    demand(!group || to == [0x33, 0x33, 0, 0, 0, 1], format!("it went to the MAC {to:02x?}"))?;
    let lifetime = u16::from_be_bytes([told.payload[6], told.payload[7]]);
    demand(lifetime > 0, "it is no default router")?;
    let mut rest = told.payload.get(16..).unwrap_or(&[]);
    let mut options = Vec::new();
    while let [kind, eights, ..] = *rest {
        let (option, more) = rest.split_at(rest.len().min(8 * usize::from(eights.max(1))));
        options.push((kind, option));
        rest = more;
    }
    let find = |kind: u8| options.iter().find(|(other, _)| *other == kind).map(|(_, bytes)| *bytes);
    let prefix = find(3).ok_or_else(|| Fault::NotMet("it tells no prefix".into()))?;
    // On the link, and for addresses of the hosts' own making.
    let right = prefix.len() == 32 && prefix[2] == 64 && prefix[3] & 0xc0 == 0xc0;
    demand(right && prefix[16..24] == six::GI.octets()[..8], format!("its prefix option is {prefix:02x?}"))?;
    demand(find(5).is_some_and(|mtu| mtu.ends_with(&1500u32.to_be_bytes())), "it does not tell the MTU")?;
    demand(find(1).is_some(), "it does not tell its MAC")?;
    let server = six::remote(0x53).octets();
    demand(find(25).is_some_and(|dns| dns.ends_with(&server)), "it does not tell the DNS server")
}

fn traffic_class_and_flow_label_pass(lab: &mut Trial) -> Shown {
    let (a, remote) = (lab.at(A, 5121), lab.at(S1, 4000));
    for (tos, flow) in [(0xb8, 0xabcde), (0x01, 0x1), (0xff, 0xf_ffff)] {
        let left = lab.out(&Packet { tos, flow, ..udp(a, remote) })?;
        lab.back(&Packet { tos, flow, ..udp(remote, left.from()) }, a)?;
    }
    Ok(())
}

fn addresses_of_no_use_beyond_the_link_are_not_forwarded(lab: &mut Trial) -> Shown {
    let external = lab.open(lab.at(A, 5122), lab.at(S1, 4000))?;
    let link = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x77);
    let group = Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 0, 0x113);
    for source in [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST, link, group] {
        lab.blocked(Place::A, &udp(lab.at(source, 5122), lab.at(S1, 4000)), &[World, Place::B])?;
        lab.blocked(World, &udp(lab.at(source, 4000), external), &HOSTS)?;
    }
    for destination in [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST, link] {
        lab.blocked(Place::A, &udp(lab.at(A, 5122), lab.at(destination, 4000)), &[World, Place::B])?;
        lab.blocked(World, &udp(lab.at(S1, 4000), lab.at(destination, 4000)), &HOSTS)?;
    }
    Ok(())
}

fn spoofed_sources_are_dropped_over_six(lab: &mut Trial) -> Shown {
    for source in [six::outside(0x99), Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 5), six::S2] {
        lab.blocked(Place::A, &udp(lab.at(source, 5123), lab.at(S1, 4000)), &[World])?;
    }
    Ok(())
}

fn odd_messages_never_leak(lab: &mut Trial) -> Shown {
    lab.forget();
    let about = udp(lab.at(S1, 4000), lab.at(A, 5124)).bytes();
    for kind in [0, 5, 100, 101, 127] {
        lab.send(Place::A, &lab.icmp(A, S1, kind, 0, [0; 4], &about))?;
    }
    for kind in [129, 138, 139, 140, 144, 148, 151, 160, 200, 255] {
        lab.send(Place::A, &lab.icmp(A, S1, kind, 0, [0, 9, 0, 1], &data(24)))?;
    }
    let mut cut = ip(lab.ip(A), lab.ip(S1), ICMP6, vec![128, 0]);
    cut.sum();
    lab.send(Place::A, &cut)?;
    let came = lab.collect(World)?;
    let odd = came.iter().find(|packet| packet.source != X);
    demand(odd.is_none(), odd.map(Packet::to_string).unwrap_or_default())
}
