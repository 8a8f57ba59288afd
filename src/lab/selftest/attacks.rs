//! Attacks on NATs that were published, and bugs that others shipped.

use super::contender::{PLAIN, Setup};
use super::packet::{ACK, Packet, RST, SYN, TCP, Told, data, fresh, joined, tcp, tcp_with, udp, udp_with};
use super::trial::Place::World;
use super::trial::{A, B, C, HOSTS, Place, R9, S1, S2, Trial, X, X2};
use super::{Fault, Shown, demand, requirements};
use crate::io::netlink::Family;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

const POOL: Setup = Setup { externals: 2, ..PLAIN };

requirements! {
    156 Must "NDSS 2025 ReDAN" forged_resets_do_not_break_a_connection
        "forged RSTs and a SYN-ACK of any number: the connection goes on by the same external port";
    157 Must "NDSS 2024" a_neighbour_cannot_take_over_a_connection
        "an inside host forging RSTs neither ends its neighbour's connection nor gets its port";
    159 Must "CVE-2021-3773" no_host_gets_the_port_of_a_local_service
        "port shadow: a port that the gateway's host listens on is given to no inside host";
    160 Must "NAT slipstreaming" a_sip_segment_opens_no_pinhole
        "a TCP segment that looks like SIP opens no port";
    161 Must "table flood" a_flood_from_one_host_does_not_hurt_another
        "3000 flows of A: those of B live, and B opens new ones";
    165 Must "RFC 1858" tiny_and_overlapping_fragments_are_dropped
        "first fragments without ports, offset 8 of TCP, overlaps, and more than 65535 bytes: dropped";
    166 Must "CVE-2019-5598" errors_to_another_address_are_dropped
        "an ICMP error whose destination is not the quoted source is dropped" in POOL;
    166 Should "RFC 5927 4.1" errors_with_wild_sequence_numbers_are_dropped
        "an ICMP error quoting a TCP sequence number outside the window is dropped";
    169 Should "CVE-2020-25705" answers_are_no_oracle
        "1000 probes of one host do not change what another host is answered";
    171 Should "Bellovin 2002" identifications_do_not_count_hosts
        "the identifications of several hosts outside do not show whose is whose";
    173 Must "CVE-2019-14899" an_outside_source_from_inside_is_dropped
        "a packet from inside with a server's source to X:x does not reach its owner";
    174 Must "CVE-2020-8558" loopback_services_are_out_of_reach
        "packets to 127.0.0.1 through the gateway reach nothing";
    175 Must "LAND" packets_from_our_own_address_are_dropped
        "source and destination X:x, from both sides: dropped; a packet to oneself returns at most once";
    176 Should "USENIX 2021" nothing_is_amplified
        "a flood of SYN, UDP and pings to X gets fewer bytes than it brought";
    177 Must "CVE-2020-8608" urgent_pointers_beyond_the_end_pass
        "odd TCP headers harm nobody";
    178 Must "CVE-2024-41090" short_frames_are_harmless
        "frames of a header and nothing, or of unknown kinds, harm nobody";
    179 Must "CVE-2014-8160" other_protocols_never_leak
        "SCTP, GRE, ESP: translated by address for one host, or dropped; never untranslated";
    180 Must "VPP-1466" fragmented_pings_pass
        "an echo request of several fragments passes, and its fragmented reply";
}

fn forged_resets_do_not_break_a_connection(lab: &mut Trial) -> Shown {
    let mut c = lab.connect(lab.at(A, 7300), lab.at(S1, 80))?;
    c.works(lab)?;
    for seq in [0, 1, c.peer.wrapping_add(0x3000_0000)] {
        lab.send(World, &tcp_with(c.remote, c.external, RST, seq, 0, &[], &[]))?;
    }
    lab.send(World, &tcp(c.remote, c.external, SYN | ACK, c.peer.wrapping_add(0x2000_0000), 1, &[]))?;
    lab.sync()?;
    lab.wait(Duration::from_millis(500))?;
    c.works(lab)?;
    let word = lab.word(TCP, c.inside)?;
    demand(word.seconds > 3600, format!("the connection lives {} s more ({})", word.seconds, word.state))
}

fn a_neighbour_cannot_take_over_a_connection(lab: &mut Trial) -> Shown {
    let mut c = lab.connect(lab.at(A, 7301), lab.at(S1, 80))?;
    c.works(lab)?;
    for flags in [RST, RST | ACK] {
        // From B's wire: as the server to A, and as A to the server.
        lab.send(Place::B, &tcp(c.remote, c.external, flags, c.peer.wrapping_add(0x10_0000), c.seq, &[]))?;
        lab.send(Place::B, &tcp(c.inside, c.remote, flags, c.seq.wrapping_add(0x1000_0000), 0, &[]))?;
    }
    lab.sync()?;
    let theirs = lab.out(&tcp(lab.at(B, 7301), c.remote, SYN, fresh() << 8, 0, &[]))?.from();
    demand(theirs != c.external, format!("B got {theirs}, which is A's"))?;
    lab.forget();
    c.works(lab)?;
    lab.nothing(&[Place::B], "A's data")
}

fn no_host_gets_the_port_of_a_local_service(lab: &mut Trial) -> Shown {
    for wanted in [1194, 41_194] {
        // The NAT may hold any port of its range, and then nobody listens there.
        let any: IpAddr = match lab.family {
            Family::Four => Ipv4Addr::UNSPECIFIED.into(),
            Family::Six => Ipv6Addr::UNSPECIFIED.into(),
        };
        let free = |port: u16| UdpSocket::bind((any, port)).ok().map(|it| (port, it));
        let bound = lab.gateway_netns().run(|| (wanted..wanted + 50).find_map(free))?;
        let (port, service) = bound.ok_or_else(|| std::io::Error::other("no port is left to listen on"))?;
        service.set_read_timeout(Some(Duration::from_secs(2)))?;
        lab.say(format!("a program on the gateway's host listens on UDP {port}"));
        let external = lab.open(lab.at(A, port), lab.at(S1, 7777))?;
        demand(external.port() != port, format!("A got {external}, on which a program listens"))?;
        lab.send(World, &udp(lab.at(S1, 7777), lab.at(X, port)))?;
        lab.nothing(&HOSTS, "a packet for the program")?;
        let heard = service.recv(&mut [0; 64]).is_ok();
        demand(heard, format!("the program on port {port} did not get its packet"))?;
    }
    Ok(())
}

fn a_sip_segment_opens_no_pinhole(lab: &mut Trial) -> Shown {
    let mut c = lab.connect(lab.at(A, 7302), lab.at(S1, 5060))?;
    let mut first = b"POST / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
    first.resize(600, b'A');
    let segment = c.out(0, &first);
    lab.out(&segment)?;
    let text = b"REGISTER sip:198.51.100.7;transport=TCP SIP/2.0\r\nVia: SIP/2.0/TCP 10.0.0.2:5060\r\n\
                 Contact: <sip:a@10.0.0.2:4444>\r\nExpires: 60\r\n\r\n";
    let segment = c.out(0, text);
    lab.out(&segment)?;
    for port in [4444, 5060] {
        lab.blocked(World, &tcp(lab.at(S2, 1234), lab.at(X, port), SYN, 0x1000, 0, &[]), &HOSTS)?;
        lab.blocked(World, &udp(lab.at(S1, 1234), lab.at(X, port)), &HOSTS)?;
    }
    Ok(())
}

fn a_flood_from_one_host_does_not_hurt_another(lab: &mut Trial) -> Shown {
    let remote = lab.at(S1, 4000);
    let theirs: Vec<_> =
        (7303..7308).map(|port| Ok((port, lab.open(lab.at(B, port), remote)?))).collect::<Shown<_>>()?;
    lab.say("A opens 3000 flows");
    lab.unwritten(|lab| {
        for port in 10_000..13_000 {
            lab.send(Place::A, &udp(lab.at(A, port), lab.at(S2, 4000)))?;
            if port % 50 == 0 {
                lab.sync()?;
                lab.forget();
            }
        }
        lab.collect(World)
    })?;
    for (port, external) in theirs {
        lab.back(&udp(remote, external), lab.at(B, port))?;
        lab.open(lab.at(B, port + 10), remote)?;
    }
    Ok(())
}

fn tiny_and_overlapping_fragments_are_dropped(lab: &mut Trial) -> Shown {
    let (a, remote) = (lab.at(A, 7320), lab.at(S1, 80));
    let syn = tcp(a, remote, SYN, 0x1000, 0, &[]);
    let tiny = Packet { mf: true, df: false, payload: syn.payload[..8].to_vec(), ..syn.clone() };
    lab.blocked(Place::A, &tiny, &[World])?;
    let rest = Packet { offset: 8, df: false, payload: syn.payload[8..].to_vec(), ..syn };
    lab.blocked(Place::A, &rest, &[World])?;
    let whole = udp_with(lab.at(A, 7321), lab.at(S1, 4000), &data(2000));
    let pieces = whole.cut(800);
    let overlapping = Packet { offset: 400, ..pieces[1].clone() };
    lab.forget();
    for piece in [&pieces[0], &overlapping, &pieces[1], &pieces[2]] {
        lab.send(Place::A, piece)?;
    }
    let came = lab.collect(World)?;
    demand(joined(&came).is_none(), "overlapping fragments made a datagram")?;
    let huge = Packet { offset: 65_528, mf: false, ..pieces[2].clone() };
    lab.blocked(Place::A, &huge, &[World])?;
    lab.open(lab.at(A, 7322), lab.at(S1, 4000))?;
    Ok(())
}

fn errors_to_another_address_are_dropped(lab: &mut Trial) -> Shown {
    let sent = lab.out(&udp(lab.at(A, 7323), lab.at(S1, 4000)))?;
    let other = if sent.source == X { X2 } else { X };
    lab.blocked(World, &lab.tell(R9, other, Told::Port, &sent), &HOSTS)
}

fn errors_with_wild_sequence_numbers_are_dropped(lab: &mut Trial) -> Shown {
    let mut c = lab.connect(lab.at(A, 7324), lab.at(S1, 80))?;
    c.works(lab)?;
    let mut sent = lab.out(&c.out(0, &data(100)))?;
    lab.forget();
    lab.back(&lab.tell(R9, X, Told::Host, &sent), lab.at(A, 0))?;
    let wild = c.seq.wrapping_add(0x4000_0000);
    sent.payload[4..8].copy_from_slice(&wild.to_be_bytes());
    lab.blocked(World, &lab.tell(R9, X, Told::TooBig(1400), &sent), &HOSTS)
}

fn answers_are_no_oracle(lab: &mut Trial) -> Shown {
    // A first probe, a second after the flood: what S2 is told must be the same.
    let told = |lab: &mut Trial, port: u16| -> Shown<bool> {
        lab.forget();
        lab.send(World, &udp(lab.at(S2, 4000), lab.at(X, port)))?;
        Ok(lab.look(World, |p| p.is_error() && p.destination == S2)?.is_some())
    };
    let before = told(lab, 50_001)?;
    lab.wait(Duration::from_millis(1500))?;
    lab.say("S1 probes 1000 UDP ports");
    lab.unwritten(|lab| {
        for port in 0..1000 {
            lab.send(World, &udp(lab.at(S1, 4000), lab.at(X, 51_000 + port)))?;
        }
        lab.sync()
    })?;
    let after = told(lab, 50_002)?;
    demand(before == after, format!("S2 was answered before: {before}, after: {after}"))
}

fn identifications_do_not_count_hosts(lab: &mut Trial) -> Shown {
    let mut ids = Vec::new();
    for number in 0..20 {
        for (host, base) in [(A, 0x1000), (B, 0x7000), (C, 0xc000)] {
            let packet = Packet { id: base + number, ..udp(lab.at(host, 7325), lab.at(S1, 4000)) };
            ids.push(lab.out(&packet)?.id == base + number);
        }
    }
    let kept = ids.iter().filter(|kept| **kept).count();
    demand(kept < 10, format!("{kept} of 60 identifications left as the hosts chose them"))
}

fn an_outside_source_from_inside_is_dropped(lab: &mut Trial) -> Shown {
    let external = lab.open(lab.at(A, 7326), lab.at(S1, 4000))?;
    lab.blocked(Place::B, &udp(lab.at(S1, 4000), external), &[Place::A, World])
}

fn loopback_services_are_out_of_reach(lab: &mut Trial) -> Shown {
    let local = Ipv4Addr::LOCALHOST;
    let service = lab.gateway_netns().run(|| UdpSocket::bind((local, 4001)))??;
    service.set_read_timeout(Some(Duration::from_millis(200)))?;
    lab.blocked(Place::A, &udp(lab.at(A, 7327), lab.at(local, 4001)), &[World, Place::B])?;
    lab.blocked(World, &udp(lab.at(S1, 4000), lab.at(local, 4001)), &HOSTS)?;
    demand(service.recv(&mut [0; 64]).is_err(), "a program on 127.0.0.1 got a packet from the wire")
}

fn packets_from_our_own_address_are_dropped(lab: &mut Trial) -> Shown {
    let a = lab.at(A, 7328);
    let external = lab.open(a, lab.at(S1, 4000))?;
    lab.blocked(World, &udp(external, external), &HOSTS)?;
    lab.blocked(Place::B, &udp(external, external), &[Place::A, World])?;
    lab.forget();
    let to_oneself = udp(a, external);
    let print = to_oneself.fingerprint();
    lab.send(Place::A, &to_oneself)?;
    let came = lab.collect(Place::A)?;
    let times = came.iter().filter(|packet| packet.fingerprint() == print).count();
    demand(times <= 1, format!("a packet to oneself returned {times} times"))
}

fn nothing_is_amplified(lab: &mut Trial) -> Shown {
    lab.say("600 SYNs, datagrams and pings from S1 to X");
    let (mut brought, ports) = (0, 42_000..42_200);
    lab.forget();
    let came = lab.unwritten(|lab| {
        for port in ports {
            for packet in [
                tcp(lab.at(S1, 4000), lab.at(X, port), SYN, 0x1000, 0, &[]),
                udp(lab.at(S1, 4000), lab.at(X, port)),
                lab.echo(S1, X, port),
            ] {
                brought += packet.bytes().len();
                lab.send(World, &packet)?;
            }
        }
        lab.collect(World)
    })?;
    let gave: usize = came.iter().map(|packet| packet.bytes().len()).sum();
    lab.say(format!("{brought} bytes came, {gave} left in {} packets", came.len()));
    demand(gave <= brought && came.len() <= 600, format!("{brought} bytes brought {gave} bytes"))
}

fn urgent_pointers_beyond_the_end_pass(lab: &mut Trial) -> Shown {
    let mut c = lab.connect(lab.at(A, 7329), lab.at(S1, 80))?;
    let mut segment = c.out(32, &data(10));
    segment.payload[18..20].copy_from_slice(&[0xff, 0xff]);
    segment.sum();
    lab.out(&segment)?;
    let mut odd = tcp(lab.at(A, 7330), lab.at(S1, 80), SYN, 0x1000, 0, &[]);
    odd.payload[12] = 0xf0;
    odd.sum();
    lab.blocked(Place::A, &odd, &[World])?;
    odd.payload[12] = 0x40;
    odd.sum();
    lab.blocked(Place::A, &odd, &[World])?;
    c.works(lab)
}

fn short_frames_are_harmless(lab: &mut Trial) -> Shown {
    for place in [Place::A, World] {
        for ethertype in [[8, 0], [8, 6], [0x86, 0xdd], [0x81, 0], [0x88, 0xcc], [0, 46]] {
            let header = lab.ethernet(place, ethertype);
            for length in [0, 1, 7, 19] {
                let mut frame = header.clone();
                frame.resize(14 + length, 0x45);
                lab.send_frame(place, &frame, &format!("a frame of type {ethertype:02x?}, {length} bytes"))?;
            }
        }
    }
    lab.sync()?;
    lab.open(lab.at(A, 7331), lab.at(S1, 4000))?;
    Ok(())
}

fn other_protocols_never_leak(lab: &mut Trial) -> Shown {
    for protocol in [132, 47, 50, 33, 136, 253] {
        let packet = lab.other(A, S1, protocol, data(40));
        let print = packet.fingerprint();
        lab.forget();
        lab.send(Place::A, &packet)?;
        let Some(left) = lab.look(World, |p| p.fingerprint() == print)? else { continue };
        demand(left.source == X, format!("it left as {left}"))?;
        let answer = lab.other(S1, X, protocol, data(40));
        lab.pass(World, &answer, Place::A)?;
        // A second host cannot be told from the first without ports.
        let second = lab.other(B, S1, protocol, data(40));
        if lab.reaches(Place::B, &second, World)? {
            let answer = lab.other(S1, X, protocol, data(40));
            lab.forget();
            lab.reaches(World, &answer, Place::A)?;
            lab.nothing(&[Place::B], "an answer that is A's")?;
        }
    }
    Ok(())
}

fn fragmented_pings_pass(lab: &mut Trial) -> Shown {
    let ping = lab.ask(A, S1, 900, &data(2000));
    lab.forget();
    ping.cut(1000).iter().try_for_each(|piece| lab.send(Place::A, piece))?;
    let came = lab.collect(World)?;
    let left =
        joined(&came).ok_or_else(|| Fault::NotMet(format!("{} fragments make no request", came.len())))?;
    demand(left.source == X && left.bad_sum().is_none(), format!("it left as {left}"))?;
    let reply = lab.reply(S1, X, left.from().port(), &data(2000));
    lab.forget();
    reply.cut(1000).iter().try_for_each(|piece| lab.send(World, piece))?;
    let came = lab.collect(Place::A)?;
    let got =
        joined(&came).ok_or_else(|| Fault::NotMet(format!("{} fragments make no reply", came.len())))?;
    demand(got.to() == lab.at(A, 900) && got.bad_sum().is_none(), format!("A got {got}"))
}
