//! Puts fragments from inside together: a socket sends datagrams whole.
//!
//! Strict, as nobody honest sends otherwise: a fragment that overlaps another in part ends its
//! datagram (RFC 5722), so what leaves is what every receiver would have read.

use crate::flow::Time;
use crate::wire::{Buffer, Packet, checksum, ipv6};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

/// Datagrams under way, at most.
const MOST: usize = 64;
/// How long a datagram may take (RFC 8200 §4.5 allows a minute; senders inside are near).
const PATIENCE: Duration = Duration::from_secs(15);
/// Fragments of one datagram.
const PIECES: usize = 1024;

#[derive(PartialEq, Eq, Debug)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    identification: u32,
    protocol: crate::flow::Protocol,
}

#[derive(Debug)]
struct Datagram {
    key: Key,
    until: Time,
    /// The IP header without options and fragment header.
    header: Vec<u8>,
    /// What stands behind it, as far as it is there.
    data: Vec<u8>,
    /// Which parts are there: from, to; in order, apart.
    parts: Vec<(usize, usize)>,
    length: Option<usize>,
}

/// The datagrams under way.
#[derive(Debug, Default)]
pub struct Reassembly {
    datagrams: VecDeque<Datagram>,
    /// Datagrams that did not become whole: one fragment was lost, overlapped, or they were too many.
    pub lost: u64,
}

impl Reassembly {
    /// Takes a fragment; the whole datagram in `buffer` if it was the last that was missing.
    pub fn take(&mut self, packet: &Packet, buffer: &mut Buffer, now: Time) -> bool {
        let Some((key, header, behind)) = split(packet, buffer.bytes()) else {
            self.lost += 1;
            return false;
        };
        let at = self.datagrams.iter().position(|datagram| datagram.key == key);
        let at = at.unwrap_or_else(|| {
            if self.datagrams.len() >= MOST {
                self.datagrams.pop_front();
                self.lost += 1;
            }
            let until = now + PATIENCE;
            let (header, data, parts) = (Vec::new(), Vec::new(), Vec::new());
            self.datagrams.push_back(Datagram { key, until, header, data, parts, length: None });
            self.datagrams.len() - 1
        });
        let Some(datagram) = self.datagrams.get_mut(at) else { return false };
        let outcome = datagram.add(packet, header, behind);
        if outcome.is_err() {
            self.lost += 1;
        }
        if outcome == Ok(false) {
            return false;
        }
        let whole = self.datagrams.remove(at).filter(|_| outcome == Ok(true));
        whole.is_some_and(|datagram| datagram.write(buffer))
    }

    /// Forgets datagrams whose time is over.
    pub fn tick(&mut self, now: Time) {
        while self.datagrams.front().is_some_and(|datagram| datagram.until <= now) {
            self.datagrams.pop_front();
            self.lost += 1;
        }
    }

    /// When the next one's time is over.
    pub fn next_deadline(&self) -> Option<Time> {
        self.datagrams.front().map(|datagram| datagram.until)
    }
}

/// A fragment's datagram, its IP header without what only fragments have, and what stands behind.
fn split<'a>(packet: &Packet, bytes: &'a [u8]) -> Option<(Key, Vec<u8>, &'a [u8])> {
    let fixed = if packet.is_ipv6() { ipv6::HEADER } else { 20 };
    let mut header = bytes.get(..fixed)?.to_vec();
    let mut behind = usize::from(packet.header);
    if packet.is_ipv6() {
        // Hosts put the fragment header first (RFC 8200 §4.1); others are not worth the trouble.
        behind = fixed + ipv6::FRAGMENT_HEADER;
        header[6] = *bytes.get(fixed).filter(|_| bytes[6] == ipv6::FRAGMENT)?;
    }
    let flow = packet.summary.flow();
    let key = Key {
        source: flow.source.ip,
        destination: flow.destination.ip,
        identification: packet.identification,
        protocol: flow.protocol,
    };
    Some((key, header, bytes.get(behind..packet.length as usize)?))
}

impl Datagram {
    /// Adds a part; whether it is whole. `Err` if it never can be.
    fn add(&mut self, packet: &Packet, header: Vec<u8>, behind: &[u8]) -> Result<bool, ()> {
        let place = packet.fragment.ok_or(())?;
        let (from, to) = (usize::from(place.offset), usize::from(place.offset) + behind.len());
        if to > 65535 - 20 || self.parts.len() >= PIECES {
            return Err(());
        }
        if !place.more && self.length.replace(to).is_some_and(|before| before != to) {
            return Err(());
        }
        if self.length.is_some_and(|length| to > length) {
            return Err(());
        }
        if self.parts.contains(&(from, to)) && self.data.get(from..to) == Some(behind) {
            return Ok(false);
        }
        if self.parts.iter().any(|(first, end)| from < *end && *first < to) {
            return Err(());
        }
        if from == 0 {
            self.header = header;
        }
        if self.data.len() < to {
            self.data.resize(to, 0);
        }
        self.data.get_mut(from..to).ok_or(())?.copy_from_slice(behind);
        self.parts.push((from, to));
        let there: usize = self.parts.iter().map(|(from, to)| to - from).sum();
        Ok(self.length == Some(there))
    }

    /// Writes the whole packet; false if the header says something odd.
    fn write(mut self, buffer: &mut Buffer) -> bool {
        let total = self.header.len() + self.data.len();
        let (Ok(length), Ok(behind)) = (u16::try_from(total), u16::try_from(self.data.len())) else {
            return false;
        };
        match self.header.first().map(|byte| byte >> 4) {
            Some(4) => {
                self.header[0] = 0x45;
                self.header[2..4].copy_from_slice(&length.to_be_bytes());
                self.header[6..8].fill(0);
                self.header[10..12].fill(0);
                let sum = checksum::internet(&self.header);
                self.header[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            Some(6) => self.header[4..6].copy_from_slice(&behind.to_be_bytes()),
            _ => return false,
        }
        self.header.append(&mut self.data);
        buffer.fill(&self.header);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Offload, craft, fragment};
    use std::net::SocketAddr;

    const MTU: usize = 1280;

    /// A datagram of either family and its fragments.
    fn datagram(six: bool, length: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
        let (from, to): (SocketAddr, SocketAddr) = match six {
            true => (([0xfd; 16], 7).into(), ([0xfe; 16], 8).into()),
            false => (([10, 0, 0, 2], 7).into(), ([192, 0, 2, 1], 8).into()),
        };
        let mut packet = craft::udp(from, to, &vec![0xab; length]);
        if six {
            let pieces = fragment::at_source(&packet, MTU, 77).unwrap();
            return (packet, pieces);
        }
        packet[6] = 0;
        packet[10..12].fill(0);
        let sum = checksum::internet(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        let pieces = fragment::fragments(&packet, MTU as u16).unwrap();
        (packet, pieces)
    }

    fn give(reassembly: &mut Reassembly, piece: &[u8], now: Time) -> Option<Vec<u8>> {
        let mut buffer = Buffer::new();
        buffer.fill(piece);
        let packet = Packet::parse(piece, &Offload::default()).unwrap();
        reassembly.take(&packet, &mut buffer, now).then(|| buffer.bytes().to_vec())
    }

    #[test]
    fn fragments_in_any_order_and_doubled_become_the_datagram() {
        for six in [false, true] {
            let (whole, mut pieces) = datagram(six, 5000);
            for _ in 0..pieces.len() {
                pieces.rotate_left(1);
                let mut reassembly = Reassembly::default();
                let (last, first) = pieces.split_last().unwrap();
                for piece in first.iter().chain(first) {
                    assert_eq!(give(&mut reassembly, piece, Time::ZERO), None);
                }
                let made = give(&mut reassembly, last, Time::ZERO).unwrap();
                assert_eq!(Packet::parse(&made, &Offload::default()).unwrap().fragment, None);
                let header = if six { ipv6::HEADER } else { 20 };
                assert_eq!(made[header..], whole[header..]);
                assert_eq!((reassembly.lost, reassembly.next_deadline()), (0, None));
            }
        }
    }

    #[test]
    fn an_overlap_ends_its_datagram_and_time_ends_all() {
        let (_, pieces) = datagram(false, 5000);
        let mut reassembly = Reassembly::default();
        assert_eq!(give(&mut reassembly, &pieces[0], Time::ZERO), None);
        let mut other = pieces[0].clone();
        *other.last_mut().unwrap() ^= 1;
        assert_eq!(give(&mut reassembly, &other, Time::ZERO), None);
        assert_eq!((reassembly.lost, reassembly.datagrams.len()), (1, 0));
        for source in 0..=255 {
            let mut piece = pieces[1].clone();
            piece[4] = source;
            piece[10..12].fill(0);
            let sum = checksum::internet(&piece[..20]);
            piece[10..12].copy_from_slice(&sum.to_be_bytes());
            assert_eq!(give(&mut reassembly, &piece, Time::ZERO), None);
            assert!(reassembly.datagrams.len() <= MOST);
        }
        reassembly.tick(Time::ZERO + PATIENCE);
        assert_eq!(reassembly.next_deadline(), None);
    }
}
