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
    /// Time to live used up; answered with Time Exceeded (RFC 1812 §5.3.1).
    TtlExpired,
    /// Too big for the next link and not to be fragmented; answered with Fragmentation Needed
    /// (RFC 4787 REQ-13).
    TooBig,
    /// The source is no address a host may send from: 0/8, 127/8, multicast, broadcast (RFC 1812
    /// §5.3.7); from outside also an address of the inside.
    MartianSource,
    /// The destination is no address to forward to: 0/8, 127/8, class E, multicast, broadcast, that
    /// of another inside subnet included (RFC 1812 §5.3.7, RFC 2644).
    MartianDestination,
    /// A packet from the inside whose source is not in the inside subnet, or is the gateway's own
    /// (BCP 38).
    SpoofedSource,
    /// For another host of the same inside subnet, who is reached without the gateway; or for the
    /// gateway itself on a service it does not offer (TCP is reset, UDP answered with port
    /// unreachable).
    InsideDestination,
    /// From outside, to an address that is not ours.
    NotOurAddress,
    /// An ICMP type that is not translated: Source Quench, Redirect, router discovery and other
    /// types without a query or a quote (RFC 5508 REQ-10, REQ-11).
    IcmpType,
    /// A source-routed packet (RFC 5508 §7.3: it would show inside addresses).
    SourceRoute,
    /// A later fragment whose first fragment never came, or came too late.
    FragmentOrphan,
    /// Too many fragmented datagrams at a time, or too many fragments wait for their first
    /// (RFC 4787 REQ-14a: memory for them is bounded).
    FragmentLimit,
    /// The fragments of a datagram overlap, or end in two places; none of them passes any more (RFC
    /// 1858, RFC 3128, RFC 5722).
    FragmentOverlap,
    /// No answer to ARP from the inside host in time; answered with Host Unreachable (RFC 1812
    /// §4.3.3.1).
    NoNeighbor,
    /// Too many inside hosts, or too many packets wait for ARP answers (memory for both is bounded).
    NeighborLimit,
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

    const OWN: [DropReason; 19] = [
        DropReason::ShortFrame,
        DropReason::OtherMac,
        DropReason::UnknownEtherType,
        DropReason::BadArp,
        DropReason::TtlExpired,
        DropReason::TooBig,
        DropReason::MartianSource,
        DropReason::MartianDestination,
        DropReason::SpoofedSource,
        DropReason::InsideDestination,
        DropReason::NotOurAddress,
        DropReason::IcmpType,
        DropReason::SourceRoute,
        DropReason::FragmentOrphan,
        DropReason::FragmentLimit,
        DropReason::FragmentOverlap,
        DropReason::NoNeighbor,
        DropReason::NeighborLimit,
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
            DropReason::TtlExpired => own + 4,
            DropReason::TooBig => own + 5,
            DropReason::MartianSource => own + 6,
            DropReason::MartianDestination => own + 7,
            DropReason::SpoofedSource => own + 8,
            DropReason::InsideDestination => own + 9,
            DropReason::NotOurAddress => own + 10,
            DropReason::IcmpType => own + 11,
            DropReason::SourceRoute => own + 12,
            DropReason::FragmentOrphan => own + 13,
            DropReason::FragmentLimit => own + 14,
            DropReason::FragmentOverlap => own + 15,
            DropReason::NoNeighbor => own + 16,
            DropReason::NeighborLimit => own + 17,
            DropReason::SendFailed => own + 18,
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
            DropReason::FragmentOverlap => "fragment-overlap",
            DropReason::NoNeighbor => "no-neighbor",
            DropReason::NeighborLimit => "neighbor-limit",
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
