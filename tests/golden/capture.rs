//! Captures on disk: classic pcap with microseconds, little-endian on every machine.

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::{DataLink, Endianness};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::time::Duration;
use tapnat::flow::Time;

/// Link types of the two sides: Ethernet, and IP without a link header (LINKTYPE_RAW, 101).
pub const INSIDE: DataLink = DataLink::ETHERNET;
pub const OUTSIDE: DataLink = DataLink::RAW;

/// A packet and when it was seen, in whole microseconds.
pub type Stamped = (Time, Vec<u8>);

/// Reads a capture that must have this link type.
pub fn read(path: &Path, link: DataLink) -> Vec<Stamped> {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut reader = PcapReader::new(BufReader::new(file)).unwrap();
    assert_eq!(reader.header().datalink, link, "link type of {}", path.display());
    let mut packets = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.unwrap();
        let nanos = u64::try_from(packet.timestamp.as_nanos()).unwrap();
        packets.push((Time::from_nanos(nanos), packet.data.into_owned()));
    }
    assert!(packets.is_sorted_by_key(|(time, _)| *time), "{} goes back in time", path.display());
    packets
}

/// Writes a capture.
pub fn write(path: &Path, link: DataLink, packets: &[Stamped]) {
    let header = PcapHeader { datalink: link, endianness: Endianness::Little, ..PcapHeader::default() };
    let file = File::create(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut writer = PcapWriter::with_header(file, header).unwrap();
    for (time, bytes) in packets {
        let length = u32::try_from(bytes.len()).unwrap();
        let stamp = Duration::from_nanos(time.as_nanos());
        writer.write_packet(&PcapPacket::new(stamp, length, bytes)).unwrap();
    }
}
