//! DHCPv4: hosts inside ask for an address and how to use it (RFC 2131).
//!
//! ```text
//! client                                   gateway
//!   DISCOVER  who gives me an address?  ->           reserves one, and asks the link whether
//!                                       <-  OFFER    somebody has it already
//!   REQUEST   I take that one           ->           leases it, or NAK if somebody has answered
//!                                       <-  ACK
//! ```
//!
//! The gateway is the only one who gives out addresses of its range, so it also confirms one that a
//! client says it had before, if nobody else has it: leases do not outlive the gateway, hosts do.
//! Until a client has an address it sends from 0.0.0.0 to everybody, which nothing else may.

mod leases;
mod message;

use crate::flow::{Protocol, Summary, Time};
use crate::gateway::neighbors::{Claim, Lookup, OtherMac};
use crate::gateway::{Answer, DropReason, Fate, Gateway, INSIDE, Outbox, Subnet};
use crate::wire::ethernet::{self, Frame, MacAddr};
use crate::wire::{Buffer, Packet, checksum, craft};
pub(in crate::gateway) use leases::Leases;
use message::{Link, Reply, Request};
use smoltcp::wire::{DHCP_CLIENT_PORT, DHCP_SERVER_PORT, DhcpMessageType as Kind};
use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::Duration;

/// DNS servers that a client is told at most.
pub const SERVERS: usize = 8;
/// Addresses that a range may have.
pub const MOST: u32 = 4096;

/// Addresses that are asked for at a time when all are in use: whose hosts may have gone.
const DOUBTS: usize = 8;

/// Settings of the service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dhcp {
    /// The first address to give out; it lies in an inside subnet.
    pub first: Ipv4Addr,
    /// The last one, in the same subnet and not before the first; the range has [`MOST`] at most.
    pub last: Ipv4Addr,
    /// For how long an address is given; at least a minute.
    pub lease: Duration,
    /// The DNS servers that clients are told; `None` for those of [`Names`].
    pub dns: Option<Vec<Ipv4Addr>>,
    /// Domains to look short names up in, the client's own first; `None` for those of [`Names`].
    pub search: Option<Vec<String>>,
}

/// How the host itself looks names up, for clients to do likewise.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Names {
    /// Its DNS servers, as far as they can be reached from inside; [`SERVERS`] are told at most.
    pub servers: Vec<Ipv4Addr>,
    /// Its domains for short names, its own first; as many are told as fit.
    pub search: Vec<String>,
}

/// What a request comes to.
enum Outcome {
    /// An address, for so long.
    Give(Kind, Ipv4Addr),
    /// The client cannot have what it asks for.
    Refuse,
    /// What the client asks, who has an address already.
    Tell,
    /// Nothing is to be said.
    Silence,
}

impl Gateway {
    /// Whether a packet in a frame to `to` is for the DHCP service: to everybody, or to the gateway.
    pub(in crate::gateway) fn is_for_dhcp(&self, packet: &Packet, to: MacAddr) -> bool {
        if self.config.dhcp.is_none() {
            return false;
        }
        let Summary::Data(data) = &packet.summary else { return false };
        let destination = data.flow.destination;
        data.flow.protocol == Protocol::Udp
            && destination.port == DHCP_SERVER_PORT
            && data.flow.source.port == DHCP_CLIENT_PORT
            && if to.is_multicast() {
                destination.ip == IpAddr::V4(Ipv4Addr::BROADCAST)
            } else {
                let server = || self.dhcp_place().is_some_and(|(.., server)| destination.ip == server);
                self.config.owns(destination.ip) || server()
            }
    }

    /// Answers a DHCP message in a frame from `from`; `buffer` starts with its IP header.
    pub(in crate::gateway) fn dhcp(
        &mut self,
        packet: &Packet,
        buffer: &Buffer,
        from: MacAddr,
        now: Time,
        out: &mut Outbox,
    ) -> Fate {
        let request = match self.dhcp_request(packet, buffer, from, now, out) {
            Ok(request) => request,
            Err(reason) => return Fate::Dropped(reason),
        };
        match self.dhcp_outcome(&request, now, out) {
            Ok(outcome) => {
                self.dhcp_answer(&request, &outcome, now, out);
                Fate::Taken(Answer::Dhcp)
            }
            Err(reason) => Fate::Dropped(reason),
        }
    }

    /// Reads a message, and checks whether its sender may say it.
    fn dhcp_request(
        &mut self,
        packet: &Packet,
        buffer: &Buffer,
        from: MacAddr,
        now: Time,
        out: &mut Outbox,
    ) -> Result<Request, DropReason> {
        let bytes = buffer.bytes();
        let begun = buffer.offload.checksum.is_some();
        if packet.fragment.is_some() || (!begun && checksum::transport_is_right(bytes) == Some(false)) {
            return Err(DropReason::BadDhcp);
        }
        let message = bytes.get(usize::from(packet.payload)..packet.length as usize).unwrap_or_default();
        let request = Request::read(message)?;
        if self.config.bind_mac && request.mac != from {
            return Err(DropReason::BadDhcp);
        }
        let source = packet.summary.source();
        if source.is_unspecified() {
            return Ok(request);
        }
        self.check_inside_source(source, from)?;
        if !request.address.is_unspecified() && IpAddr::V4(request.address) != source {
            return Err(DropReason::BadDhcp);
        }
        if self.config.bind_mac
            && let Err(OtherMac { question }) = self.neighbors.check(source, from, now)
        {
            if let Some(question) = question {
                self.ask(question, out);
            }
            return Err(DropReason::MacMismatch);
        }
        Ok(request)
    }

    fn dhcp_outcome(
        &mut self,
        request: &Request,
        now: Time,
        out: &mut Outbox,
    ) -> Result<Outcome, DropReason> {
        let Some((dhcp, subnet, server)) = self.dhcp_place() else { return Ok(Outcome::Silence) };
        let (range, time) = ((dhcp.first, dhcp.last), dhcp.lease);
        let Request { client, mac, .. } = request;
        let (config, neighbors) = (&self.config, &self.neighbors);
        let in_use = RefCell::new(Vec::new());
        let usable = |ip: Ipv4Addr| {
            let host = subnet.has_host(ip.into()) && !config.owns(ip.into());
            let free = neighbors.mac_of(ip.into()).is_none_or(|known| known == *mac);
            if host && !free && in_use.borrow().len() < DOUBTS {
                in_use.borrow_mut().push(ip);
            }
            host && free
        };
        let elsewhere = request.server.is_some_and(|meant| meant != server);
        let who = (&client[..], *mac);
        let wishes = matches!(request.kind, Kind::Discover | Kind::Request) && !elsewhere;
        if wishes && self.leases.crowded(who, now) {
            return Err(DropReason::DhcpMacLimit);
        }
        match request.kind {
            Kind::Discover => {
                let offered = self.leases.offer(range, who, request.requested, now, usable);
                // Whoever has it already is known by the time that the client takes it; whoever has
                // gone with his is forgotten by the time that the client asks again.
                for ip in offered.map_or_else(|| in_use.into_inner(), |ip| vec![ip]) {
                    self.dhcp_ask_for(ip, now, out);
                }
                offered.map(|ip| Outcome::Give(Kind::Offer, ip)).ok_or(DropReason::DhcpExhausted)
            }
            Kind::Request if elsewhere => {
                self.leases.release(client, now);
                Ok(Outcome::Silence)
            }
            Kind::Request => {
                let asked = request.requested.unwrap_or(request.address);
                if asked.is_unspecified() {
                    return Err(DropReason::BadDhcp);
                }
                let taken = request.server.is_none() || self.leases.of(client, now) == Some(asked);
                let fits = (range.0..=range.1).contains(&asked) && usable(asked);
                let given = taken && fits && self.leases.bind(asked, who, now + time, now);
                Ok(if given { Outcome::Give(Kind::Ack, asked) } else { Outcome::Refuse })
            }
            Kind::Decline if !elsewhere => {
                let ip = request.requested.ok_or(DropReason::BadDhcp)?;
                let theirs = self.leases.decline(ip, who, now);
                if theirs { Ok(Outcome::Silence) } else { Err(DropReason::BadDhcp) }
            }
            Kind::Release if !elsewhere => {
                if self.leases.of(client, now) != Some(request.address) {
                    return Err(DropReason::BadDhcp);
                }
                self.leases.release(client, now);
                self.neighbors.forget(request.address.into(), *mac);
                Ok(Outcome::Silence)
            }
            Kind::Decline | Kind::Release => Ok(Outcome::Silence),
            Kind::Inform if self.config.has_host(request.address.into()) => Ok(Outcome::Tell),
            _ => Err(DropReason::BadDhcp),
        }
    }

    /// Asks the link who has an address, unless that was heard a moment ago.
    fn dhcp_ask_for(&mut self, ip: Ipv4Addr, now: Time, out: &mut Outbox) {
        if let Lookup::Unknown(Some(question)) | Lookup::Known(_, Some(question)) =
            self.neighbors.lookup(ip.into(), now)
        {
            self.ask(question, out);
        }
    }

    /// The service's settings, its subnet and its own address there.
    fn dhcp_place(&self) -> Option<(&Dhcp, Subnet, Ipv4Addr)> {
        let dhcp = self.config.dhcp.as_ref()?;
        let subnet = self.config.subnets.iter().find(|subnet| subnet.covers(dhcp.first.into()))?;
        match subnet.gateway {
            IpAddr::V4(gateway) => Some((dhcp, *subnet, gateway)),
            IpAddr::V6(_) => None,
        }
    }

    fn dhcp_answer(&mut self, request: &Request, outcome: &Outcome, now: Time, out: &mut Outbox) {
        let Some((dhcp, subnet, server)) = self.dhcp_place() else { return };
        let mask = u32::MAX.checked_shl(32 - u32::from(subnet.prefix)).unwrap_or(0);
        let link = Some(Link {
            mask: Ipv4Addr::from_bits(mask),
            broadcast: Ipv4Addr::from_bits(dhcp.first.to_bits() | !mask),
            mtu: self.config.inside.mtu,
            dns: dhcp.dns.as_ref().unwrap_or(&self.names.servers),
            search: dhcp.search.as_ref().unwrap_or(&self.names.search),
        });
        let nobody = Ipv4Addr::UNSPECIFIED;
        let reply = match outcome {
            Outcome::Silence => return,
            Outcome::Give(kind, address) => {
                Reply { kind: *kind, server, address: *address, lease: Some(dhcp.lease), link }
            }
            Outcome::Tell => Reply { kind: Kind::Ack, server, address: nobody, lease: None, link },
            Outcome::Refuse => Reply { kind: Kind::Nak, server, address: nobody, lease: None, link: None },
        };
        // RFC 2131 §4.1: a refusal goes to everybody, as the client may have no right address.
        let (to, mac) = match outcome {
            Outcome::Refuse => (Ipv4Addr::BROADCAST, MacAddr::BROADCAST),
            _ if !request.address.is_unspecified() => (request.address, request.mac),
            _ if request.broadcast => (Ipv4Addr::BROADCAST, MacAddr::BROADCAST),
            _ => (reply.address, request.mac),
        };
        let from = SocketAddrV4::new(server, DHCP_SERVER_PORT);
        let packet = craft::udp(from, SocketAddrV4::new(to, DHCP_CLIENT_PORT), &reply.write(request));
        let mut packet = Buffer::from_bytes(&packet);
        let header = Frame { destination: mac, source: self.config.mac, ethertype: ethernet::IPV4 };
        packet.push_front(&header.to_bytes());
        out.push(INSIDE, packet);
        self.counters.answered(Answer::Dhcp);
        if let Outcome::Give(Kind::Ack, ip) = outcome {
            self.dhcp_settled(*ip, request.mac, now, out);
        }
    }

    /// A host has this address now: packets that waited for it can go.
    fn dhcp_settled(&mut self, ip: Ipv4Addr, mac: MacAddr, now: Time, out: &mut Outbox) {
        let claim = Claim { ip: ip.into(), mac, asks_us: true, overrides: true };
        // Without room for another neighbour it is found when it is needed.
        for held in self.neighbors.learn(claim, now).unwrap_or_default() {
            self.release_inside(held, now, out);
        }
    }
}
