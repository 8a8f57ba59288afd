//! Writes IP and TCP headers in front of payload that is already in the buffer.
//!
//! Checksums of TCP are left to the device (a partial checksum), and so is the cutting of more than one
//! segment: the bytes that came from a socket are touched by nobody else on their way.

use super::machine::{Header, Options};
use crate::flow::{Endpoint, TcpFlags};
use crate::wire::craft::TTL;
use crate::wire::{Buffer, Offload, Packet, PartialChecksum, Segment, SegmentKind, checksum};
use std::net::IpAddr;

const TCP: u8 = 6;
const TCP_HEADER: usize = 20;
const CHECKSUM_FIELD: u16 = 16;
const DONT_FRAGMENT: u8 = 0x40;
/// MSS, window scale or padding, SACK permitted or padding.
const SYN_OPTIONS: usize = 12;
const NOP: u8 = 1;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;

/// Length of the IP header without options of the family of `ip`.
pub fn ip_length(ip: IpAddr) -> usize {
    if ip.is_ipv4() { 20 } else { 40 }
}

/// Where payload begins in a packet without options.
pub fn payload_at(ip: IpAddr) -> usize {
    ip_length(ip) + TCP_HEADER
}

/// The most payload that a packet of the family holds, by its 16-bit length field.
pub fn largest(ip: IpAddr) -> u32 {
    match ip {
        IpAddr::V4(_) => 65535 - 40,
        IpAddr::V6(_) => 65535 - 20,
    }
}

/// The MSS that we offer: what the family's packets hold at most; the inside knows its MTU itself.
fn offered_mss(ip: IpAddr) -> u16 {
    match ip {
        IpAddr::V4(_) => 65535 - 40,
        IpAddr::V6(_) => 65535 - 60,
    }
}

/// Whether the options of the SYN in `bytes` permit SACK.
pub fn permits_sack(packet: &Packet, bytes: &[u8]) -> bool {
    let mut options =
        bytes.get(usize::from(packet.header) + TCP_HEADER..usize::from(packet.payload)).unwrap_or_default();
    loop {
        let length = match options {
            [SACK_PERMITTED, 2, ..] => return true,
            [NOP, ..] => 1,
            [kind, length, ..] if *kind > NOP && *length >= 2 => usize::from(*length),
            _ => return false,
        };
        options = options.get(length..).unwrap_or_default();
    }
}

/// Bytes of options, a multiple of 4.
fn options_length(options: &Options) -> usize {
    match options {
        Options::None => 0,
        Options::Syn(..) => SYN_OPTIONS,
        Options::Sack(blocks) => 4 + 8 * blocks.all().len(),
    }
}

/// Makes `buffer` the segment from `source` to `destination` whose `payload` bytes stand at
/// [`payload_at`] of its room. Segments of `mss` bytes are cut from it later if it is longer.
///
/// The endpoints are of one family; a header with options has no payload.
pub fn write(
    buffer: &mut Buffer,
    source: Endpoint,
    destination: Endpoint,
    header: &Header,
    payload: usize,
    mss: u16,
) {
    let ip = ip_length(source.ip);
    let transport = TCP_HEADER + options_length(&header.options) + payload;
    buffer.set_len(ip + transport);
    let (network, rest) = buffer.bytes_mut().split_at_mut(ip);
    // A receive is never longer than `largest`.
    let length = transport as u16;
    let sum = write_ip(network, source.ip, destination.ip, length);
    write_tcp(rest, source, destination, header, sum);
    let kind = if source.ip.is_ipv4() { SegmentKind::Tcp4 } else { SegmentKind::Tcp6 };
    let segment = Segment { kind, size: mss, header: (ip + TCP_HEADER) as u16, ecn: false };
    buffer.offload = Offload {
        checksum: Some(PartialChecksum { start: ip as u16, offset: CHECKSUM_FIELD }),
        segment: (payload > usize::from(mss)).then_some(segment),
        verified: false,
    };
}

/// Writes the IP header; the sum of the pseudo header.
fn write_ip(bytes: &mut [u8], source: IpAddr, destination: IpAddr, length: u16) -> u16 {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            bytes.fill(0);
            bytes[0] = 0x45;
            bytes[2..4].copy_from_slice(&(20 + length).to_be_bytes());
            bytes[6] = DONT_FRAGMENT;
            bytes[8] = TTL;
            bytes[9] = TCP;
            bytes[12..16].copy_from_slice(&source.octets());
            bytes[16..20].copy_from_slice(&destination.octets());
            let sum = checksum::internet(bytes);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
            checksum::pseudo_header(source, destination, TCP, length)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            bytes.fill(0);
            bytes[0] = 0x60;
            bytes[4..6].copy_from_slice(&length.to_be_bytes());
            bytes[6] = TCP;
            bytes[7] = TTL;
            bytes[8..24].copy_from_slice(&source.octets());
            bytes[24..40].copy_from_slice(&destination.octets());
            checksum::pseudo_header_ipv6(source, destination, TCP, length.into())
        }
        _ => unreachable!("both endpoints of a connection are of one family"),
    }
}

fn write_tcp(bytes: &mut [u8], source: Endpoint, destination: Endpoint, header: &Header, sum: u16) {
    let words = (TCP_HEADER + options_length(&header.options)) / 4;
    bytes[0..2].copy_from_slice(&source.port.to_be_bytes());
    bytes[2..4].copy_from_slice(&destination.port.to_be_bytes());
    bytes[4..8].copy_from_slice(&header.sequence.to_be_bytes());
    let acknowledges = header.flags.has(TcpFlags::ACK);
    let acknowledgment = if acknowledges { header.acknowledgment } else { 0 };
    bytes[8..12].copy_from_slice(&acknowledgment.to_be_bytes());
    bytes[12] = (words as u8) << 4;
    bytes[13] = header.flags.0;
    bytes[14..16].copy_from_slice(&header.window.to_be_bytes());
    bytes[16..18].copy_from_slice(&sum.to_be_bytes());
    bytes[18..20].fill(0);
    match &header.options {
        Options::None => {}
        Options::Syn(scale, sack) => {
            let [high, low] = offered_mss(source.ip).to_be_bytes();
            bytes[20..24].copy_from_slice(&[2, 4, high, low]);
            bytes[24..28].copy_from_slice(&scale.map_or([NOP; 4], |scale| [NOP, 3, 3, scale]));
            let last = if *sack { [NOP, NOP, SACK_PERMITTED, 2] } else { [NOP; 4] };
            bytes[28..32].copy_from_slice(&last);
        }
        Options::Sack(blocks) => {
            let length = (2 + 8 * blocks.all().len()) as u8;
            bytes[20..24].copy_from_slice(&[NOP, NOP, SACK, length]);
            let places = bytes[24..].chunks_exact_mut(8);
            for (place, (first, next)) in places.zip(blocks.all()) {
                place[..4].copy_from_slice(&first.to_be_bytes());
                place[4..].copy_from_slice(&next.to_be_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Summary;
    use crate::io::uplink::sockets::tcp::machine::Blocks;

    #[test]
    fn what_is_written_is_read_and_sums_up() {
        for (remote, outside) in [("192.0.2.1", "198.51.100.9"), ("2001:db8::1", "2001:db8:9::2")] {
            let remote = Endpoint::new(remote.parse::<IpAddr>().unwrap(), 80);
            let outside = Endpoint::new(outside.parse::<IpAddr>().unwrap(), 61000);
            let mut blocks = Blocks::default();
            (0..4).for_each(|block| blocks.push((block, block + 1)));
            let empty = [Options::Syn(Some(7), true), Options::Syn(None, false), Options::Sack(blocks)];
            let full = [(Options::None, 0), (Options::None, 9000)];
            for (options, payload) in empty.map(|options| (options, 0)).into_iter().chain(full) {
                let header =
                    Header { flags: TcpFlags::ACK, sequence: 7, acknowledgment: 9, window: 11, options };
                let mut buffer = Buffer::new();
                buffer.clear();
                write(&mut buffer, remote, outside, &header, payload, 1460);
                let packet = Packet::parse(buffer.bytes(), &buffer.offload).unwrap();
                let Summary::Data(data) = packet.summary else { panic!() };
                assert_eq!((data.flow.source, data.flow.destination), (remote, outside));
                assert_eq!((data.segment.sequence, data.segment.acknowledgement), (7, 9));
                assert_eq!(usize::from(data.segment.payload), payload);
                assert_eq!(buffer.offload.segment.is_some(), payload > 1460);
                let permits = matches!(options, Options::Syn(_, true));
                assert_eq!(permits_sack(&packet, buffer.bytes()), permits);
                if payload == 0 {
                    checksum::complete(&mut buffer, 0);
                    assert_eq!(checksum::transport_is_right(buffer.bytes()), Some(true));
                }
            }
        }
    }
}
