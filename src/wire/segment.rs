//! Cuts a super-frame into the packets it stands for, for a link that cannot (a plain TAP, a raw
//! IP socket, a capture file).
//!
//! The headers of the super-frame are the mould: each packet gets a copy and then its own length,
//! identification (counted up; IPv6 has none), TCP sequence number or UDP length, and checksums. FIN and
//! PSH belong to the last packet, CWR to the first (RFC 3168 §6.1.2).

use super::{Buffer, Packet, ParseError};
use super::{checksum, ipv6};
use crate::flow::Protocol;
use std::net::IpAddr;

/// Places in the IPv4 header.
const TOTAL_LENGTH: usize = 2;
const IDENTIFICATION: usize = 4;
const HEADER_CHECKSUM: usize = 10;

/// Place in the IPv6 header.
const PAYLOAD_LENGTH: usize = 4;

/// Places in the TCP header, and flags in its flag byte.
const SEQUENCE: usize = 4;
const FLAGS: usize = 13;
const FIN_PSH: u8 = 0x09;
const CWR: u8 = 0x80;

/// Place in the UDP header.
const UDP_LENGTH: usize = 4;

/// The packets of one super-frame, written one after the other into a buffer of the caller's.
#[derive(Debug)]
pub struct Segments<'a> {
    /// Link header and packet, without padding.
    bytes: &'a [u8],
    /// Length of the link header.
    skip: usize,
    /// Length of the IP header.
    header: usize,
    /// Where the payload begins, from the IP header.
    payload: usize,
    /// Payload bytes in each packet but the last.
    size: usize,
    protocol: Protocol,
    source: IpAddr,
    destination: IpAddr,
    /// Payload bytes written so far.
    done: usize,
    /// Packets written so far.
    index: u16,
    finished: bool,
}

impl<'a> Segments<'a> {
    /// The packets of the super-frame at `packet.bytes()[skip..]`. What is before it, the link
    /// header, is copied to each of them.
    ///
    /// # Errors
    /// As [`Packet::parse`], or [`ParseError::Offload`] if it is not a super-frame.
    pub fn new(packet: &'a Buffer, skip: usize) -> Result<Self, ParseError> {
        let ip = packet.bytes().get(skip..).unwrap_or(&[]);
        let parsed = Packet::parse(ip, &packet.offload)?;
        let Some(segment) = packet.offload.segment else {
            return Err(ParseError::Offload("not a super-frame"));
        };
        Ok(Segments {
            bytes: &packet.bytes()[..skip + parsed.length as usize],
            skip,
            header: usize::from(parsed.header),
            payload: usize::from(parsed.payload),
            size: usize::from(segment.size),
            protocol: parsed.summary.protocol(),
            source: parsed.summary.source(),
            destination: parsed.summary.destination(),
            done: 0,
            index: 0,
            finished: false,
        })
    }

    /// How many packets there are in all.
    pub fn count(&self) -> usize {
        (self.bytes.len() - self.skip - self.payload).div_ceil(self.size).max(1)
    }

    /// Writes the next packet into `out`, in place of what is there: link header, packet, whole
    /// checksums, no offload. False when there is none left, or when `out` has less room than the
    /// packet needs (a `Buffer::new` never has).
    pub fn write_next(&mut self, out: &mut Buffer) -> bool {
        let first = self.skip + self.payload + self.done;
        let rest = self.bytes.len() - first;
        let length = rest.min(self.size);
        let total = self.skip + self.payload + length;
        out.clear();
        if self.finished || out.spare().len() < total {
            return false;
        }
        let (headers, payload) = out.spare()[..total].split_at_mut(self.skip + self.payload);
        headers.copy_from_slice(&self.bytes[..self.skip + self.payload]);
        payload.copy_from_slice(&self.bytes[first..first + length]);
        self.fit(&mut headers[self.skip..], payload, length == rest);
        out.set_len(total);
        self.done += length;
        self.index = self.index.wrapping_add(1);
        self.finished = length == rest;
        true
    }

    /// Makes the copied headers those of this packet.
    fn fit(&self, headers: &mut [u8], payload: &[u8], last: bool) {
        let (ip, transport) = headers.split_at_mut(self.header);
        // Bounded by the super-frame's own 16-bit length.
        let covered = (transport.len() + payload.len()) as u16;
        if self.source.is_ipv6() {
            put(ip, PAYLOAD_LENGTH, (self.header - ipv6::HEADER) as u16 + covered);
        } else {
            put(ip, TOTAL_LENGTH, self.header as u16 + covered);
            put(ip, IDENTIFICATION, get(ip, IDENTIFICATION).wrapping_add(self.index));
            put(ip, HEADER_CHECKSUM, 0);
            put(ip, HEADER_CHECKSUM, checksum::internet(ip));
        }

        if self.protocol == Protocol::Tcp {
            let sequence: &mut [u8; 4] =
                transport[SEQUENCE..].first_chunk_mut().expect("a TCP header has 20 bytes or more");
            *sequence = u32::from_be_bytes(*sequence).wrapping_add(self.done as u32).to_be_bytes();
            if !last {
                transport[FLAGS] &= !FIN_PSH;
            }
            if self.index > 0 {
                transport[FLAGS] &= !CWR;
            }
        } else {
            put(transport, UDP_LENGTH, covered);
        }
        let field = checksum::field(self.protocol).expect("super-frames are TCP or UDP");
        put(transport, field, 0);
        let pseudo = checksum::pseudo(self.source, self.destination, self.protocol, covered);
        // Transport headers have an even length, so the payload starts at a word.
        let sum = checksum::add(checksum::add(pseudo, checksum::sum(transport)), checksum::sum(payload));
        put(transport, field, checksum::written(self.protocol, !sum));
    }
}

fn get(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put(bytes: &mut [u8], at: usize, word: u16) {
    bytes[at..at + 2].copy_from_slice(&word.to_be_bytes());
}
