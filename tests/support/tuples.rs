//! Packets as the translator sees them, written as one line of text each:
//! `udp("10.0.0.2:1000 > 198.51.100.7:53")`.

#![allow(clippy::unwrap_used, dead_code)]

use tapnat::flow::{Data, Endpoint, ErrorAbout, Flow, Protocol, Segment, Summary, TcpFlags};

/// `10.0.0.2:1000`; the port may be missing and is then 0.
pub fn end(text: &str) -> Endpoint {
    match text.trim().rsplit_once(':') {
        Some((ip, port)) => {
            let ip: std::net::IpAddr = ip.parse().unwrap();
            Endpoint::new(ip, port.parse().unwrap())
        }
        None => {
            let ip: std::net::IpAddr = text.trim().parse().unwrap();
            Endpoint::new(ip, 0)
        }
    }
}

/// `udp 10.0.0.2:1000 > 198.51.100.7:53`, the protocol being given.
pub fn flow(protocol: Protocol, text: &str) -> Flow {
    let (source, destination) = text.split_once('>').unwrap();
    Flow { protocol, source: end(source), destination: end(destination) }
}

pub fn data(flow: Flow) -> Summary {
    Summary::Data(Data {
        flow,
        tcp: TcpFlags::default(),
        asks: true,
        segment: Segment::default(),
        length: 100,
    })
}

pub fn udp(text: &str) -> Summary {
    data(flow(Protocol::Udp, text))
}

/// A segment; `flags` as in a capture: `S`, `S.`, `.`, `F.`, `R`. Both sides begin at 0 and send
/// nothing but SYN and FIN, so that any order of these fits together.
pub fn tcp(text: &str, flags: &str) -> Summary {
    let bit = |c| match c {
        'S' => TcpFlags::SYN,
        '.' => TcpFlags::ACK,
        'F' => TcpFlags::FIN,
        'R' => TcpFlags::RST,
        'P' => TcpFlags::PSH,
        _ => panic!("no such flag"),
    };
    let tcp = flags.chars().fold(TcpFlags::default(), |all, c| all.with(bit(c)));
    let segment = numbers(tcp);
    Summary::Data(Data { flow: flow(Protocol::Tcp, text), tcp, asks: true, segment, length: 100 })
}

/// The same segment with another sequence number.
pub fn at(packet: &Summary, sequence: u32) -> Summary {
    let Summary::Data(mut data) = *packet else { panic!("no segment") };
    data.segment.sequence = sequence;
    Summary::Data(data)
}

/// The numbers of such a segment.
pub fn numbers(tcp: TcpFlags) -> Segment {
    Segment {
        sequence: u32::from(!tcp.has(TcpFlags::SYN)),
        acknowledgement: u32::from(tcp.has(TcpFlags::ACK)),
        window: 65535,
        ..Segment::default()
    }
}

/// An echo request: the identifier is the source's port.
pub fn ping(text: &str) -> Summary {
    data(flow(Protocol::Icmp, text))
}

/// An echo reply: the identifier is the destination's port.
pub fn pong(text: &str) -> Summary {
    let flow = flow(Protocol::Icmp, text);
    Summary::Data(Data {
        flow,
        tcp: TcpFlags::default(),
        asks: false,
        segment: Segment::default(),
        length: 100,
    })
}

pub fn gre(text: &str) -> Summary {
    data(flow(Protocol::Other(47), text))
}

/// `error("192.0.2.9 > 203.0.113.1", &udp("203.0.113.1:40000 > 198.51.100.7:53"))`
pub fn error(text: &str, quoted: &Summary) -> Summary {
    let (from, to) = text.split_once('>').unwrap();
    Summary::Error(ErrorAbout {
        from: end(from).ip,
        to: end(to).ip,
        about: quoted.flow(),
        sequence: None,
        length: 56,
    })
}

/// The same packet from another source.
pub fn from(packet: &Summary, source: Endpoint) -> Summary {
    changed(packet, |flow| flow.source = source)
}

/// The same packet to another destination.
pub fn to(packet: &Summary, destination: Endpoint) -> Summary {
    changed(packet, |flow| flow.destination = destination)
}

fn changed(packet: &Summary, change: impl Fn(&mut Flow)) -> Summary {
    let mut packet = *packet;
    match &mut packet {
        Summary::Data(data) => change(&mut data.flow),
        Summary::Error(error) => change(&mut error.about),
    }
    packet
}
