//! Who takes part in a trial, by names that hold for both families.

use super::{Trial, four, six};
use crate::io::netlink::Family;
use crate::lab::selftest::packet::{self, Packet, Told};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A part in a trial. An address is equal to a part if it is its address in either family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Who {
    /// Inside host A.
    A,
    /// Inside host B.
    B,
    /// Inside host C.
    C,
    /// The gateway, inside.
    GI,
    /// The external address.
    X,
    /// The second external address, where a setup has two.
    X2,
    /// The router outside.
    R,
    /// A server.
    S1,
    /// Another server.
    S2,
    /// A router on the way to the servers.
    R9,
    /// A host that is never talked to.
    Stranger,
    /// An inside host that is not there.
    Absent,
    /// An address of the outside network that only the NAT has, where a setup says so.
    Pooled,
    /// One of many servers.
    Server(u8),
}

impl Who {
    /// Its address in a family.
    pub fn of(self, family: Family) -> IpAddr {
        let (v4, v6) = match self {
            Who::A => (four::A, six::A),
            Who::B => (four::B, six::B),
            Who::C => (four::C, six::C),
            Who::GI => (four::GI, six::GI),
            Who::X => (four::X, six::X),
            Who::X2 => (four::X2, six::X2),
            Who::R => (four::R, six::R),
            Who::S1 => (four::S1, six::S1),
            Who::S2 => (four::S2, six::S2),
            Who::R9 => (four::R9, six::R9),
            Who::Stranger => (Ipv4Addr::new(192, 0, 2, 77), six::remote(0x77)),
            Who::Absent => (Ipv4Addr::new(10, 0, 0, 77), six::inside(0x77)),
            Who::Pooled => (Ipv4Addr::new(203, 0, 113, 5), six::outside(5)),
            Who::Server(number) => {
                (Ipv4Addr::new(198, 51, 100, number), six::remote(0x100 + u16::from(number)))
            }
        };
        if family == Family::Four { v4.into() } else { v6.into() }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl PartialEq<Who> for IpAddr {
    fn eq(&self, who: &Who) -> bool {
        [Family::Four, Family::Six].into_iter().any(|family| who.of(family) == *self)
    }
}

/// What a packet can be from and for: a part in the trial, or an address.
pub trait Named {
    /// Its address in a family.
    fn address(self, family: Family) -> IpAddr;
}

impl Named for Who {
    fn address(self, family: Family) -> IpAddr {
        self.of(family)
    }
}

impl Named for IpAddr {
    fn address(self, _: Family) -> IpAddr {
        self
    }
}

impl Named for Ipv4Addr {
    fn address(self, _: Family) -> IpAddr {
        self.into()
    }
}

impl Named for Ipv6Addr {
    fn address(self, _: Family) -> IpAddr {
        self.into()
    }
}

impl Trial {
    /// Its address in this trial's family.
    pub fn ip(&self, who: impl Named) -> IpAddr {
        who.address(self.family)
    }

    /// A port of it.
    pub fn at(&self, who: impl Named, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(who), port)
    }

    /// A packet of another protocol between two.
    pub fn other(&self, source: impl Named, destination: impl Named, protocol: u8, data: Vec<u8>) -> Packet {
        packet::ip(self.ip(source), self.ip(destination), protocol, data)
    }

    /// An echo request with fresh data.
    pub fn echo(&self, source: impl Named, destination: impl Named, id: u16) -> Packet {
        packet::echo(self.ip(source), self.ip(destination), id)
    }

    /// An echo request with these data.
    pub fn ask(&self, source: impl Named, destination: impl Named, id: u16, data: &[u8]) -> Packet {
        self.query(source, destination, if self.family == Family::Four { 8 } else { 128 }, id, data)
    }

    /// An echo reply with these data.
    pub fn reply(&self, source: impl Named, destination: impl Named, id: u16, data: &[u8]) -> Packet {
        self.query(source, destination, if self.family == Family::Four { 0 } else { 129 }, id, data)
    }

    /// A message as [`packet::query`] makes it.
    pub fn query(
        &self,
        source: impl Named,
        destination: impl Named,
        kind: u8,
        id: u16,
        data: &[u8],
    ) -> Packet {
        packet::query(self.ip(source), self.ip(destination), kind, id, data)
    }

    /// A message as [`packet::icmp`] makes it.
    pub fn icmp(
        &self,
        source: impl Named,
        destination: impl Named,
        kind: u8,
        code: u8,
        rest: [u8; 4],
        data: &[u8],
    ) -> Packet {
        packet::icmp(self.ip(source), self.ip(destination), kind, code, rest, data)
    }

    /// An error as [`packet::error`] makes it.
    pub fn error(
        &self,
        source: impl Named,
        destination: impl Named,
        kind: u8,
        code: u8,
        rest: [u8; 4],
        quoted: &Packet,
    ) -> Packet {
        packet::error(self.ip(source), self.ip(destination), kind, code, rest, quoted)
    }

    /// An error that says this about `quoted`, in the numbers of its family.
    pub fn tell(&self, source: impl Named, destination: impl Named, told: Told, quoted: &Packet) -> Packet {
        let (kind, code, rest) = told.numbers(self.family);
        self.error(source, destination, kind, code, rest, quoted)
    }
}
