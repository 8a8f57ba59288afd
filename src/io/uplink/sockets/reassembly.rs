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
