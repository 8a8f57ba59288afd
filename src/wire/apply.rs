//! How a packet is changed: the one place that writes into forwarded packets.
//!
//! Every write goes through [`replace`] or [`replace_address`], which say what a checksum over the
//! written word must learn. An edit of an ICMP error touches up to four sums: the IP header's, the
//! quoted IP header's, the quoted transport's (if the quote is long enough to hold it), and the
//! message's, which covers the quote and so all of those changes. IPv6 has no sum in its header, but
//! one more reason for a change: its ICMP has a pseudo header, so the outer addresses are in the sum
//! of every message, and the quoted addresses in that of every quoted message.

use super::checksum::{self, Difference};
use super::icmp::Quote;
use super::{Buffer, Packet};
use crate::flow::{Data, Edit, Endpoint, Protocol, QuotedEdit, Summary};
use std::net::IpAddr;

/// Places in an IPv4 header.
const IDENTIFICATION: usize = 4;
const TTL: usize = 8;
const HEADER_CHECKSUM: usize = 10;
const SOURCE: usize = 12;
const DESTINATION: usize = 16;

/// Places in an IPv6 header.
const HOP_LIMIT: usize = 7;
const SOURCE_IPV6: usize = 8;
const DESTINATION_IPV6: usize = 24;

/// Places in an ICMP header.
const ICMP_CHECKSUM: usize = 2;
const ICMP_IDENTIFIER: usize = 4;

impl Packet {
    /// Applies `edit` to the packet at `buffer[skip..]`: addresses, ports, hop and checksums
    /// together, whole or partial as the buffer's offload says. The only place that writes into
    /// forwarded packets. Everything that could be refused has been refused before.
    ///
    /// The MSS is only ever lowered. The packet itself is not read again: `self` describes it as
    /// it was before the edit.
    ///
    /// # Panics
    /// If the buffer does not hold the packet that was read, or the edit is of another address
    /// family: to go on would send it out untranslated.
    pub fn apply(&self, edit: &Edit, buffer: &mut Buffer, skip: usize) {
        let partial = buffer.offload.checksum.is_some();
        if buffer.offload.segment.is_some() {
            buffer.offload = buffer.offload.fitted(self);
        }
        let bytes = buffer.bytes_mut().get_mut(skip..skip + self.length as usize);
        let bytes = bytes.expect("the buffer holds the packet that was read");
        let (ip, transport) =
            bytes.split_at_mut_checked(usize::from(self.header)).expect("a header is within its packet");
        let addresses = self.edit_ip(edit, ip);
        if self.is_later_fragment() {
            return;
        }
        match &self.summary {
            Summary::Data(data) if data.flow.protocol == Protocol::Icmp => {
                self.edit_message(data, edit, transport, addresses)
            }
            Summary::Data(data) => {
                self.edit_transport(data.flow.protocol, edit, transport, addresses, partial)
            }
            Summary::Error(_) => {
                let mut all = self.in_icmp(addresses);
                if let Some(quoted) = &edit.quoted {
                    all = all.and(self.edit_quote(quoted, transport));
                }
                write(transport, ICMP_CHECKSUM, all.whole(read(transport, ICMP_CHECKSUM)));
            }
        }
    }

    /// Changes the IP header; returns what changed in the addresses.
    #[inline]
    fn edit_ip(&self, edit: &Edit, ip: &mut [u8]) -> Difference {
        if self.is_ipv6() {
            return self.edit_ipv6(edit, ip);
        }
        let addresses = edit_addresses(ip, edit.source, edit.destination);
        let mut all = addresses;
        if edit.spend_hop {
            let (old, protocol) = (ip[TTL], ip[TTL + 1]);
            let new = old.saturating_sub(1);
            ip[TTL] = new;
            all.word(u16::from_be_bytes([old, protocol]), u16::from_be_bytes([new, protocol]));
        }
        if let Some(identification) = edit.identification {
            replace(ip, IDENTIFICATION, identification as u16, &mut all);
        }
        write(ip, HEADER_CHECKSUM, all.whole(read(ip, HEADER_CHECKSUM)));
        addresses
    }

    /// Changes the IPv6 headers; returns what changed in the addresses.
    fn edit_ipv6(&self, edit: &Edit, ip: &mut [u8]) -> Difference {
        if edit.spend_hop {
            ip[HOP_LIMIT] = ip[HOP_LIMIT].saturating_sub(1);
        }
        if let (Some(identification), Some(fragment)) = (edit.identification, self.fragment) {
            // The last field of the fragment header, which stands right before the fragment's bytes.
            let end = (self.length - u32::from(fragment.length)) as usize;
            ip[end - 4..end].copy_from_slice(&identification.to_be_bytes());
        }
        edit_addresses_ipv6(ip, edit.source, edit.destination)
    }

    /// What of a change of addresses the checksum of an ICMP message learns: IPv6 has a pseudo
    /// header there.
    fn in_icmp(&self, addresses: Difference) -> Difference {
        if self.is_ipv6() { addresses } else { Difference::default() }
    }

    /// Changes ports, MSS and checksum of a transport whose checksum covers a pseudo header.
    #[inline]
    fn edit_transport(
        &self,
        protocol: Protocol,
        edit: &Edit,
        transport: &mut [u8],
        addresses: Difference,
        partial: bool,
    ) {
        let Some(field) = checksum::field(protocol).filter(|field| field + 2 <= transport.len()) else {
            return;
        };
        let mut inner = Difference::default();
        if matches!(protocol, Protocol::Tcp | Protocol::Udp) {
            edit_ports(transport, edit.source, edit.destination, &mut inner);
        }
        if let (Some(limit), Some((value, at))) = (edit.clamp_mss, self.mss)
            && value > limit
        {
            let at = usize::from(at - self.header);
            write(transport, at, limit);
            // At an odd place the option lies across two words: each half is added in the other
            // half of the sum, which in ones' complement is the same as adding it swapped.
            let turn = |word: u16| if at.is_multiple_of(2) { word } else { word.swap_bytes() };
            inner.word(turn(value), turn(limit));
        }
        let old = read(transport, field);
        let new = match (partial, protocol, old) {
            (true, _, _) => addresses.partial(old),
            (false, Protocol::Udp, 0) => 0,
            (false, _, _) => checksum::written(protocol, addresses.and(inner).whole(old)),
        };
        write(transport, field, new);
    }

    /// Changes the identifier of an ICMP query, and the checksum of any message that is no error.
    fn edit_message(&self, data: &Data, edit: &Edit, message: &mut [u8], addresses: Difference) {
        let mut all = self.in_icmp(addresses);
        let side = if data.asks { edit.source } else { edit.destination };
        // Messages without identifier have port 0 on both sides, and queries with identifier 0
        // exist: the type decides.
        let is_query = self.icmp_kind().is_some_and(|kind| !kind.silences());
        if let (true, Some(endpoint)) = (is_query, side) {
            replace(message, ICMP_IDENTIFIER, endpoint.port, &mut all);
        }
        write(message, ICMP_CHECKSUM, all.whole(read(message, ICMP_CHECKSUM)));
    }

    /// Changes the packet that an ICMP error quotes; returns what changed in the message.
    fn edit_quote(&self, edit: &QuotedEdit, message: &mut [u8]) -> Difference {
        let ipv6 = self.is_ipv6();
        let quote = if ipv6 { Quote::read_ipv6(message) } else { Quote::read(message) };
        let quote = quote.expect("the quote was read before");
        let mut all = Difference::default();
        let ip = &mut message[Quote::IP..quote.transport];
        let addresses = if ipv6 {
            edit_addresses_ipv6(ip, edit.source, edit.destination)
        } else {
            let addresses = edit_addresses(ip, edit.source, edit.destination);
            let new = addresses.whole(read(ip, HEADER_CHECKSUM));
            replace(ip, HEADER_CHECKSUM, new, &mut all);
            addresses
        };
        all = all.and(addresses);

        let transport = &mut message[quote.transport..quote.end];
        let protocol = quote.flow.protocol;
        let mut inner = Difference::default();
        let field = match protocol {
            Protocol::Icmp => {
                let side = if quote.asks { edit.source } else { edit.destination };
                if let (true, Some(endpoint)) = (quote.has_ports, side) {
                    replace(transport, ICMP_IDENTIFIER, endpoint.port, &mut inner);
                }
                Some(ICMP_CHECKSUM)
            }
            _ => {
                if quote.has_ports {
                    edit_ports(transport, edit.source, edit.destination, &mut inner);
                }
                checksum::field(protocol)
            }
        };
        all = all.and(inner);
        if let Some(field) = field.filter(|field| quote.first && field + 2 <= transport.len()) {
            let covered = match protocol {
                Protocol::Icmp => inner.and(self.in_icmp(addresses)),
                _ => inner.and(addresses),
            };
            let old = read(transport, field);
            let new = match (protocol, old) {
                (Protocol::Udp, 0) => 0,
                _ => checksum::written(protocol, covered.whole(old)),
            };
            replace(transport, field, new, &mut all);
        }
        all
    }
}

/// Changes the addresses of an IPv4 header; returns what changed.
#[inline]
fn edit_addresses(ip: &mut [u8], source: Option<Endpoint>, destination: Option<Endpoint>) -> Difference {
    let mut difference = Difference::default();
    if let Some(endpoint) = source {
        replace_address(ip, SOURCE, endpoint.ip, &mut difference);
    }
    if let Some(endpoint) = destination {
        replace_address(ip, DESTINATION, endpoint.ip, &mut difference);
    }
    difference
}

/// Changes the addresses of an IPv6 header; returns what changed.
fn edit_addresses_ipv6(ip: &mut [u8], source: Option<Endpoint>, destination: Option<Endpoint>) -> Difference {
    let mut difference = Difference::default();
    for (at, endpoint) in [(SOURCE_IPV6, source), (DESTINATION_IPV6, destination)] {
        let Some(endpoint) = endpoint else { continue };
        let IpAddr::V6(new) = endpoint.ip else { panic!("an edit is of its packet's address family") };
        let place: &mut [u8; 16] = ip[at..].first_chunk_mut().expect("addresses are within the header");
        difference.address_ipv6(u128::from_be_bytes(*place), new.to_bits());
        *place = new.octets();
    }
    difference
}

/// Changes the ports of a TCP or UDP header.
#[inline]
fn edit_ports(
    transport: &mut [u8],
    source: Option<Endpoint>,
    destination: Option<Endpoint>,
    difference: &mut Difference,
) {
    if let Some(endpoint) = source {
        replace(transport, 0, endpoint.port, difference);
    }
    if let Some(endpoint) = destination {
        replace(transport, 2, endpoint.port, difference);
    }
}

/// Writes an address and notes the difference.
#[inline]
fn replace_address(bytes: &mut [u8], at: usize, new: IpAddr, difference: &mut Difference) {
    let IpAddr::V4(new) = new else { panic!("an edit is of its packet's address family") };
    let place: &mut [u8; 4] = bytes[at..].first_chunk_mut().expect("addresses are within the header");
    difference.address(u32::from_be_bytes(*place), new.to_bits());
    *place = new.octets();
}

/// Writes a word at an even place and notes the difference.
#[inline]
fn replace(bytes: &mut [u8], at: usize, new: u16, difference: &mut Difference) {
    difference.word(read(bytes, at), new);
    write(bytes, at, new);
}

#[inline]
fn read(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[inline]
fn write(bytes: &mut [u8], at: usize, word: u16) {
    bytes[at..at + 2].copy_from_slice(&word.to_be_bytes());
}
