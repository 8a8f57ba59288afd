//! DHCP messages: what a client asks, what it is told (RFC 2131 §2, options of RFC 2132).

use crate::gateway::DropReason;
use crate::wire::MacAddr;
use smoltcp::wire::{
    DhcpFlags, DhcpMessageType, DhcpOpCode, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress,
};
use std::net::Ipv4Addr;
use std::time::Duration;

/// The cookie before the options.
const MAGIC: u32 = 0x6382_5363;
/// Bytes before the options.
const FIXED: usize = 240;
/// The shortest message that every old client takes (RFC 951), in bytes.
const SHORTEST: usize = 300;
/// What every client takes, in bytes of UDP payload (RFC 2131 §2: 576 bytes of IP).
const TAKEN_BY_ALL: u16 = 548;
/// IP and UDP headers, which a client counts into the longest message that it takes.
const HEADERS: u16 = 28;
/// The longest that is sent whatever a client takes: one packet of Ethernet.
const LONGEST: u16 = 1472;

mod option {
    pub(super) const PAD: u8 = 0;
    pub(super) const DNS: u8 = 6;
    pub(super) const DOMAIN: u8 = 15;
    pub(super) const MTU: u8 = 26;
    pub(super) const BROADCAST: u8 = 28;
    pub(super) const REQUESTED: u8 = 50;
    pub(super) const OVERLOAD: u8 = 52;
    pub(super) const KIND: u8 = 53;
    pub(super) const SERVER: u8 = 54;
    pub(super) const LONGEST: u8 = 57;
    pub(super) const RENEW: u8 = 58;
    pub(super) const REBIND: u8 = 59;
    pub(super) const CLIENT: u8 = 61;
    pub(super) const SEARCH: u8 = 119;
    pub(super) const END: u8 = 255;
}

/// What a client asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Request {
    pub kind: DhcpMessageType,
    transaction: u32,
    secs: u16,
    /// It cannot take an answer to an address that it does not have yet.
    pub broadcast: bool,
    /// The address that it has, or 0.0.0.0.
    pub address: Ipv4Addr,
    pub mac: MacAddr,
    /// Who it is: its client identifier, or its MAC in that form (RFC 2132 §9.14).
    pub client: Vec<u8>,
    /// It gave the identifier itself.
    identified: bool,
    pub requested: Option<Ipv4Addr>,
    /// The server whom it means.
    pub server: Option<Ipv4Addr>,
    /// The longest message that it takes, in bytes of UDP payload.
    longest: u16,
}

impl Request {
    /// Reads a UDP payload.
    ///
    /// # Errors
    /// [`DropReason::BadDhcp`] for what is no client's message, or has come by a relay agent.
    pub(super) fn read(bytes: &[u8]) -> Result<Request, DropReason> {
        let packet = DhcpPacket::new_checked(bytes).map_err(|_| DropReason::BadDhcp)?;
        let mac = MacAddr(packet.client_hardware_address().0);
        let right = packet.opcode() == DhcpOpCode::Request
            && packet.hardware_type() == smoltcp::wire::ArpHardware::Ethernet
            && packet.hardware_len() == 6
            && packet.magic_number() == MAGIC
            && packet.relay_agent_ip().is_unspecified()
            && !mac.is_multicast()
            && !mac.is_zero()
            && are_whole(bytes.get(FIXED..).unwrap_or_default());
        if !right {
            return Err(DropReason::BadDhcp);
        }
        let mut request = Request {
            kind: DhcpMessageType::Unknown(0),
            transaction: packet.transaction_id(),
            secs: packet.secs(),
            broadcast: packet.flags().contains(DhcpFlags::BROADCAST),
            address: packet.client_ip(),
            mac,
            client: [&[1], &mac.0[..]].concat(),
            identified: false,
            requested: None,
            server: None,
            longest: TAKEN_BY_ALL,
        };
        packet.options().try_for_each(|option| request.take(option.kind, option.data))?;
        Ok(request)
    }

    fn take(&mut self, kind: u8, data: &[u8]) -> Result<(), DropReason> {
        let address = || <[u8; 4]>::try_from(data).map(Ipv4Addr::from).map_err(|_| DropReason::BadDhcp);
        match (kind, data) {
            (option::KIND, [kind]) => self.kind = DhcpMessageType::from(*kind),
            (option::LONGEST, [high, low]) => {
                let length = u16::from_be_bytes([*high, *low]).saturating_sub(HEADERS);
                self.longest = length.clamp(TAKEN_BY_ALL, LONGEST);
            }
            (option::CLIENT, [_, ..]) => {
                self.client = data.to_vec();
                self.identified = true;
            }
            (option::REQUESTED, _) => self.requested = Some(address()?),
            (option::SERVER, _) => self.server = Some(address()?),
            // Options in other fields than their own: no client does that.
            (option::KIND | option::LONGEST | option::CLIENT | option::OVERLOAD, _) => {
                return Err(DropReason::BadDhcp);
            }
            _ => {}
        }
        Ok(())
    }
}

/// Whether options are whole up to their end mark.
fn are_whole(mut options: &[u8]) -> bool {
    loop {
        options = match options {
            [option::PAD, rest @ ..] => rest,
            [option::END, ..] => return true,
            [_, length, rest @ ..] => match rest.get(usize::from(*length)..) {
                Some(rest) => rest,
                None => return false,
            },
            _ => return false,
        };
    }
}

/// What a client is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Reply<'a> {
    pub kind: DhcpMessageType,
    /// Us.
    pub server: Ipv4Addr,
    /// The client's address, or 0.0.0.0.
    pub address: Ipv4Addr,
    /// For how long; `None` if nothing is said about it.
    pub lease: Option<Duration>,
    /// Everything else; `None` in a refusal.
    pub link: Option<Link<'a>>,
}

/// What all clients are told alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Link<'a> {
    pub mask: Ipv4Addr,
    pub broadcast: Ipv4Addr,
    pub mtu: u16,
    pub dns: &'a [Ipv4Addr],
    pub search: &'a [String],
}

impl Reply<'_> {
    /// The UDP payload that answers `request`. Names that do not fit what the client takes are left
    /// out.
    pub(super) fn write(&self, request: &Request) -> Vec<u8> {
        let options = self.options(request);
        let options: Vec<DhcpOption<'_>> =
            options.iter().map(|(kind, data)| DhcpOption { kind: *kind, data }).collect();
        let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        let answer = DhcpRepr {
            message_type: self.kind,
            transaction_id: request.transaction,
            secs: request.secs,
            client_hardware_address: EthernetAddress(request.mac.0),
            client_ip: self.link.map_or(Ipv4Addr::UNSPECIFIED, |_| request.address),
            your_ip: self.address,
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: self.link.map(|_| self.server),
            subnet_mask: self.link.map(|link| link.mask),
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast: request.broadcast,
            requested_ip: None,
            client_identifier: None,
            server_identifier: Some(self.server),
            parameter_request_list: None,
            dns_servers: None,
            max_size: None,
            lease_duration: self.lease.map(seconds),
            renew_duration: None,
            rebind_duration: None,
            additional_options: &options,
        };
        let mut bytes = vec![0; answer.buffer_len().max(SHORTEST)];
        answer
            .emit(&mut DhcpPacket::new_unchecked(&mut bytes[..]))
            .expect("the buffer is as long as the message says that it is");
        bytes
    }

    /// The options that smoltcp has no field for.
    fn options(&self, request: &Request) -> Vec<(u8, Vec<u8>)> {
        let mut options = Vec::new();
        if request.identified {
            // RFC 6842 §3.
            options.push((option::CLIENT, request.client.clone()));
        }
        if let Some(lease) = self.lease {
            let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
            options.push((option::RENEW, seconds(lease / 2).to_be_bytes().to_vec()));
            options.push((option::REBIND, seconds(lease / 8 * 7).to_be_bytes().to_vec()));
        }
        let Some(Link { broadcast, mtu, dns, search, .. }) = self.link else { return options };
        options.push((option::BROADCAST, broadcast.octets().to_vec()));
        options.push((option::MTU, mtu.to_be_bytes().to_vec()));
        if !dns.is_empty() {
            let servers = dns.iter().take(super::SERVERS).flat_map(|server| server.octets());
            options.push((option::DNS, servers.collect()));
        }
        // What smoltcp writes besides: kind, server, router, mask, time and the end mark.
        let written: usize = options.iter().map(|(_, data)| 2 + data.len()).sum();
        let mut room = usize::from(request.longest).saturating_sub(FIXED + 3 + 4 * 6 + 1 + written);
        let names = [
            (option::DOMAIN, search.first().map(|name| name.clone().into_bytes()).unwrap_or_default()),
            (option::SEARCH, names(search, room.saturating_sub(4))),
        ];
        for (kind, data) in names {
            if !data.is_empty() && 2 + data.len() <= room {
                room -= 2 + data.len();
                options.push((kind, data));
            }
        }
        options
    }
}

/// Domain names in the form of DNS, without compression (RFC 3397 §2): as many as fit one option and
/// this room.
fn names(search: &[String], room: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for name in search {
        let mut one = Vec::with_capacity(name.len() + 2);
        for label in name.split('.').filter(|label| !label.is_empty()) {
            let Ok(length @ ..64) = u8::try_from(label.len()) else { return bytes };
            one.push(length);
            one.extend(label.bytes());
        }
        one.push(0);
        if bytes.len() + one.len() > room.min(255) {
            break;
        }
        bytes.extend(one);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_between_two() {
        let search = ["a.example".to_owned(), "b.example".to_owned()];
        assert_eq!(names(&search, 100), b"\x01a\x07example\0\x01b\x07example\0");
        assert_eq!(names(&search, 20), b"\x01a\x07example\0");
        assert_eq!(names(&search, 10), b"");
        assert_eq!(names(&["x".repeat(64)], 100), b"");
    }

    #[test]
    fn options_must_end() {
        for (options, whole) in [
            (&[][..], false),
            (&[0], false),
            (&[255], true),
            (&[0, 0, 255], true),
            (&[53, 1, 1, 255], true),
            (&[53, 1, 1], false),
            (&[53, 2, 255], false),
            (&[53], false),
        ] {
            assert_eq!(are_whole(options), whole, "{options:?}");
        }
    }
}
