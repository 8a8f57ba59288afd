//! Why a packet was dropped: one documented word for counters, events and the docs.

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
    /// An Ethernet type the gateway does not speak: VLAN tags, LLDP, anything but ARP and IP.
    UnknownEtherType,
    /// An ARP packet that is not about our subnet, or that claims the gateway's own address.
    BadArp,
    /// A neighbour discovery message that is invalid (RFC 4861 §6.1, §7.1: hop limit below 255,
    /// checksum, lengths, addresses), or that claims the gateway's own address.
    BadNdp,
    /// A router advertisement from the inside: the gateway is the router there (RFC 6104). A host
    /// that sends them misleads the others; find it.
    RouterAdvertisement,
    /// A multicast listener report or query (RFC 3810): every host with IPv6 sends some. The
    /// gateway routes no multicast.
    MulticastListener,
    /// A DHCP message that no client sends: cut short, without the message type or the address that
    /// its kind needs, by a relay agent, or in the name of another MAC than its frame's (RFC 2131
    /// §4.3).
    BadDhcp,
    /// A host asks for an address by DHCP and all of the range are leased or in use. Widen `--dhcp`, or
    /// shorten `--dhcp-lease`.
    DhcpExhausted,
    /// A host asks for an address by DHCP under yet another name, and has eight already under others.
    DhcpMacLimit,
    /// Time to live or hop limit used up; answered with Time Exceeded (RFC 1812 §5.3.1).
    TtlExpired,
    /// Too big for the next link and not to be fragmented; answered with Fragmentation Needed
    /// (RFC 4787 REQ-13) or Packet Too Big: IPv6 is never fragmented on the way (RFC 8200 §5).
    TooBig,
    /// The source is no address a host may send from: 0/8, 127/8, multicast, broadcast (RFC 1812
    /// §5.3.7); in IPv6 ::/96, multicast, IPv4-mapped, and link-local ones beyond their link. From
    /// outside also an address of the inside, and a private one of IPv6 (RFC 4193).
    MartianSource,
    /// The destination is no address to forward to: 0/8, 127/8, class E, multicast, broadcast, that
    /// of another inside subnet included (RFC 1812 §5.3.7, RFC 2644); in IPv6 ::/96, multicast,
    /// IPv4-mapped and link-local ones.
    MartianDestination,
    /// A packet from the inside whose source is not in the inside subnet, or is the gateway's own
    /// (BCP 38).
    SpoofedSource,
    /// A packet from the inside whose source address is known to be another MAC's. The gateway asks
    /// who has it: a container with a new MAC is known again as soon as it answers, and a host that
    /// sends in another's name stays out (`--bind-mac`).
    MacMismatch,
    /// For another host of the same inside subnet, who is reached without the gateway; or for the
    /// gateway itself on a service it does not offer (TCP is reset, UDP answered with port
    /// unreachable).
    InsideDestination,
    /// From outside, to an address that is not ours.
    NotOurAddress,
    /// An ICMP type that is not translated: Source Quench, Redirect, router discovery and other
    /// types without a query or a quote (RFC 5508 REQ-10, REQ-11).
    IcmpType,
    /// An ICMPv6 Packet Too Big with an MTU below 1280, or a Fragmentation Needed with one of 1 to 67:
    /// no link has that (RFC 8201 §4, RFC 1191 §3), and who believed it would send crumbs.
    BadMtu,
    /// An IPv6 address that prefix translation cannot map: subnet ffff, or one that is not inside
    /// (answered with No Route); an interface identifier of all zeros or ones (answered with
    /// Parameter Problem; RFC 6296 §3.3, §3.7). Give the host another address.
    UnmappedAddress,
    /// A source-routed packet, or an ICMP error about one (RFC 5508 §7.3: it would show inside
    /// addresses); an IPv6 routing header of type 0 or with segments left (RFC 5095).
    SourceRoute,
    /// A later fragment whose first fragment never came, or came too late.
    FragmentOrphan,
    /// Too many fragmented datagrams at a time, or too many fragments wait for their first
    /// (RFC 4787 REQ-14a: memory for them is bounded).
    FragmentLimit,
    /// The fragments of a datagram overlap, or end in two places; none of them passes any more (RFC
    /// 1858, RFC 3128, RFC 5722).
    FragmentOverlap,
    /// No answer to ARP or neighbour discovery from the inside host in time; answered with Host Unreachable (RFC 1812
    /// §4.3.3.1).
    NoNeighbor,
    /// Too many inside hosts, or too many packets wait for the MAC of their host (memory for both is bounded).
    NeighborLimit,
    /// The host has lost its default route, and has no other to the destination; answered with
    /// Network Unreachable (RFC 1812 §5.2.7.1), or No Route of IPv6. Passes when the host does.
    NoRoute,
    /// The kernel would not take the packet: queue full, interface down.
    SendFailed,
}

impl DropReason {
    /// The words of all reasons, in the order of [`DropReason::index`].
    pub fn words() -> impl Iterator<Item = &'static str> {
        let malformed = ParseError::WORDS.into_iter();
        let refused = Refusal::ALL.into_iter().map(Refusal::word);
        malformed.chain(refused).chain(Self::OWN.into_iter().map(Self::word))
    }

    /// How many reasons there are.
    pub const COUNT: usize = ParseError::WORDS.len() + Refusal::ALL.len() + Self::OWN.len();

    const OWN: [DropReason; 29] = [
        DropReason::ShortFrame,
        DropReason::OtherMac,
        DropReason::UnknownEtherType,
        DropReason::BadArp,
        DropReason::BadNdp,
        DropReason::RouterAdvertisement,
        DropReason::MulticastListener,
        DropReason::BadDhcp,
        DropReason::DhcpExhausted,
        DropReason::DhcpMacLimit,
        DropReason::TtlExpired,
        DropReason::TooBig,
        DropReason::MartianSource,
        DropReason::MartianDestination,
        DropReason::SpoofedSource,
        DropReason::MacMismatch,
        DropReason::InsideDestination,
        DropReason::NotOurAddress,
        DropReason::IcmpType,
        DropReason::BadMtu,
        DropReason::UnmappedAddress,
        DropReason::SourceRoute,
        DropReason::FragmentOrphan,
        DropReason::FragmentLimit,
        DropReason::FragmentOverlap,
        DropReason::NoNeighbor,
        DropReason::NeighborLimit,
        DropReason::NoRoute,
        DropReason::SendFailed,
    ];

    /// This reason's place among the counters, below [`DropReason::COUNT`].
    pub fn index(self) -> usize {
        let own = ParseError::WORDS.len() + Refusal::ALL.len();
        match self {
            DropReason::Malformed(error) => error.index(),
            DropReason::Refused(refusal) => ParseError::WORDS.len() + refusal as usize,
            DropReason::ShortFrame => own,
            DropReason::OtherMac => own + 1,
            DropReason::UnknownEtherType => own + 2,
            DropReason::BadArp => own + 3,
            DropReason::BadNdp => own + 4,
            DropReason::RouterAdvertisement => own + 5,
            DropReason::MulticastListener => own + 6,
            DropReason::BadDhcp => own + 7,
            DropReason::DhcpExhausted => own + 8,
            DropReason::DhcpMacLimit => own + 9,
            DropReason::TtlExpired => own + 10,
            DropReason::TooBig => own + 11,
            DropReason::MartianSource => own + 12,
            DropReason::MartianDestination => own + 13,
            DropReason::SpoofedSource => own + 14,
            DropReason::MacMismatch => own + 15,
            DropReason::InsideDestination => own + 16,
            DropReason::NotOurAddress => own + 17,
            DropReason::IcmpType => own + 18,
            DropReason::BadMtu => own + 19,
            DropReason::UnmappedAddress => own + 20,
            DropReason::SourceRoute => own + 21,
            DropReason::FragmentOrphan => own + 22,
            DropReason::FragmentLimit => own + 23,
            DropReason::FragmentOverlap => own + 24,
            DropReason::NoNeighbor => own + 25,
            DropReason::NeighborLimit => own + 26,
            DropReason::NoRoute => own + 27,
            DropReason::SendFailed => own + 28,
        }
    }

    /// The stable word.
    pub fn word(self) -> &'static str {
        match self {
            DropReason::Malformed(error) => error.word(),
            DropReason::Refused(refusal) => refusal.word(),
            DropReason::ShortFrame => "short-frame",
            DropReason::OtherMac => "other-mac",
            DropReason::UnknownEtherType => "unknown-ethertype",
            DropReason::BadArp => "bad-arp",
            DropReason::BadNdp => "bad-ndp",
            DropReason::RouterAdvertisement => "router-advertisement",
            DropReason::MulticastListener => "multicast-listener",
            DropReason::BadDhcp => "bad-dhcp",
            DropReason::DhcpExhausted => "dhcp-exhausted",
            DropReason::DhcpMacLimit => "dhcp-mac-limit",
            DropReason::TtlExpired => "ttl-expired",
            DropReason::TooBig => "too-big",
            DropReason::MartianSource => "martian-source",
            DropReason::MartianDestination => "martian-destination",
            DropReason::SpoofedSource => "spoofed-source",
            DropReason::MacMismatch => "mac-mismatch",
            DropReason::InsideDestination => "inside-destination",
            DropReason::NotOurAddress => "not-our-address",
            DropReason::IcmpType => "icmp-type",
            DropReason::BadMtu => "bad-mtu",
            DropReason::UnmappedAddress => "unmapped-address",
            DropReason::SourceRoute => "source-route",
            DropReason::FragmentOrphan => "fragment-orphan",
            DropReason::FragmentLimit => "fragment-limit",
            DropReason::FragmentOverlap => "fragment-overlap",
            DropReason::NoNeighbor => "no-neighbor",
            DropReason::NeighborLimit => "neighbor-limit",
            DropReason::NoRoute => "no-route",
            DropReason::SendFailed => "send-failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_place_and_a_word_of_its_own() {
        let words: Vec<_> = DropReason::words().collect();
        assert_eq!(words.len(), DropReason::COUNT);
        for (place, reason) in DropReason::OWN.into_iter().enumerate() {
            assert_eq!(words[reason.index()], reason.word(), "{place}");
        }
        for refusal in Refusal::ALL {
            assert_eq!(words[DropReason::Refused(refusal).index()], refusal.word());
        }
        let unique: std::collections::BTreeSet<_> = words.iter().collect();
        assert_eq!(unique.len(), words.len());
    }
}
