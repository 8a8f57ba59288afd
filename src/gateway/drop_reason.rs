//! Why a packet was dropped: one documented word for counters, events, `explain` and the docs.

use crate::nat::Refusal;
use crate::wire::ParseError;

/// Why a packet was dropped. Each doc comment says cause, RFC and cure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DropReason {
    /// The bytes are not a packet we can read (RFC 1812 §5.2.2). The sender or the wire is broken.
    Malformed(ParseError),
    /// The translator refuses it.
    Refused(Refusal),
    /// The frame is shorter than an Ethernet header.
    ShortFrame,
    /// The frame is addressed to another MAC: flooded by the bridge, not for the gateway.
    OtherMac,
    /// An Ethernet type the gateway does not speak: VLAN tags, LLDP, anything but ARP, IPv4, IPv6.
    UnknownEtherType,
    /// IPv6 on the inside, which this gateway does not carry.
    Ipv6,
    /// An ARP packet that is not a request or answer about our subnet, or that lies about its sender.
    BadArp,
    /// Time to live used up; answered with Time Exceeded (RFC 1812 §5.3.1).
    TtlExpired,
    /// Too big for the next link and not to be fragmented; answered with Fragmentation Needed
    /// (RFC 4787 REQ-13).
    TooBig,
    /// The source is no address a host may send from: 0/8, 127/8, multicast, broadcast (RFC 1812 §5.3.7).
    MartianSource,
    /// The destination is no address to forward to: 0/8, 127/8, class E, multicast, broadcast
    /// (RFC 1812 §5.3.7).
    MartianDestination,
    /// A packet from the inside whose source is not in the inside subnet (BCP 38).
    SpoofedSource,
    /// For another inside host, or the gateway itself on a service it does not offer.
    InsideDestination,
    /// From outside, to an address that is not ours.
    NotOurAddress,
    /// An ICMP type that is not translated: Source Quench, Redirect, router discovery and other
    /// types without a query or a quote (RFC 5508 REQ-10, REQ-11).
    IcmpType,
    /// A source-routed packet (RFC 5508 §7.3: it would show inside addresses).
    SourceRoute,
    /// A later fragment whose first fragment never came, within the holding time.
    FragmentOrphan,
    /// Too many fragments or datagrams are held (bounded memory).
    FragmentLimit,
    /// No answer to ARP for the inside host in time (RFC 1812 §4.3.3.1).
    NoNeighbor,
    /// Too many packets wait for ARP answers (bounded memory).
    NeighborLimit,
    /// The kernel would not take the packet: queue full, interface down.
    SendFailed,
    /// The same packet has been round the gateway before (hairpin loop).
    Loop,
}

impl DropReason {
    /// How many counters the reasons need; see [`DropReason::index`].
    pub const COUNT: usize = 7 + Refusal::ALL.len() + 20;

    /// The stable word.
    pub fn word(self) -> &'static str {
        match self {
            DropReason::Malformed(error) => error.word(),
            DropReason::Refused(refusal) => refusal.word(),
            DropReason::ShortFrame => "short-frame",
            DropReason::OtherMac => "other-mac",
            DropReason::UnknownEtherType => "unknown-ethertype",
            DropReason::Ipv6 => "ipv6",
            DropReason::BadArp => "bad-arp",
            DropReason::TtlExpired => "ttl-expired",
            DropReason::TooBig => "too-big",
            DropReason::MartianSource => "martian-source",
            DropReason::MartianDestination => "martian-destination",
            DropReason::SpoofedSource => "spoofed-source",
            DropReason::InsideDestination => "inside-destination",
            DropReason::NotOurAddress => "not-our-address",
            DropReason::IcmpType => "icmp-type",
            DropReason::SourceRoute => "source-route",
            DropReason::FragmentOrphan => "fragment-orphan",
            DropReason::FragmentLimit => "fragment-limit",
            DropReason::NoNeighbor => "no-neighbor",
            DropReason::NeighborLimit => "neighbor-limit",
            DropReason::SendFailed => "send-failed",
            DropReason::Loop => "loop",
        }
    }
}
