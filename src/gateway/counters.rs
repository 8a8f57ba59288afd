//! Plain integers, one for each fate a packet can have.

use super::DropReason;

/// How a packet passed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Way {
    /// From the inside to the uplink.
    Out,
    /// From the uplink to the inside.
    In,
    /// From the inside to the inside: by an outside endpoint, or to another inside subnet.
    Hairpin,
    /// From the inside to the host itself.
    ToHost,
    /// From the host itself to the inside.
    FromHost,
    /// From the inside to the uplink with its own source; counted as `Out` too.
    ExemptOut,
    /// From the uplink to an inside host's own address; counted as `In` too.
    ExemptIn,
}

impl Way {
    const ALL: [(Way, &'static str, &'static str); 7] = [
        (Way::Out, "out-packets", "out-bytes"),
        (Way::In, "in-packets", "in-bytes"),
        (Way::Hairpin, "hairpin-packets", "hairpin-bytes"),
        (Way::ToHost, "to-host-packets", "to-host-bytes"),
        (Way::FromHost, "from-host-packets", "from-host-bytes"),
        (Way::ExemptOut, "exempt-out-packets", "exempt-out-bytes"),
        (Way::ExemptIn, "exempt-in-packets", "exempt-in-bytes"),
    ];
}

/// What the gateway itself said.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Answer {
    /// An ARP answer.
    Arp,
    /// An ARP question of our own.
    ArpQuestion,
    /// A neighbour advertisement: the answer of IPv6 to the same question.
    Ndp,
    /// A neighbour solicitation of our own.
    NdpQuestion,
    /// A router advertisement.
    RouterAdvertisement,
    /// A DHCP message to a host that asked for its configuration.
    Dhcp,
    /// An echo reply from the gateway's inside address.
    Echo,
    /// ICMP Time Exceeded.
    TimeExceeded,
    /// ICMP Fragmentation Needed, or Packet Too Big of IPv6.
    FragmentationNeeded,
    /// ICMP Destination Unreachable, any other code.
    Unreachable,
    /// ICMP Parameter Problem.
    ParameterProblem,
    /// A TCP reset from the gateway's inside address.
    Reset,
    /// An answer that was due and not given, because answers are rate limited.
    RateLimited,
}

impl Answer {
    const ALL: [(Answer, &'static str); 13] = [
        (Answer::Arp, "arp"),
        (Answer::ArpQuestion, "arp-question"),
        (Answer::Ndp, "ndp"),
        (Answer::NdpQuestion, "ndp-question"),
        (Answer::RouterAdvertisement, "router-advertisement"),
        (Answer::Dhcp, "dhcp"),
        (Answer::Echo, "echo"),
        (Answer::TimeExceeded, "time-exceeded"),
        (Answer::FragmentationNeeded, "fragmentation-needed"),
        (Answer::Unreachable, "unreachable"),
        (Answer::ParameterProblem, "parameter-problem"),
        (Answer::Reset, "reset"),
        (Answer::RateLimited, "rate-limited"),
    ];

    /// The stable word.
    pub fn word(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// All counters of one gateway.
#[derive(Clone, Debug)]
pub struct Counters {
    packets: [u64; Way::ALL.len()],
    bytes: [u64; Way::ALL.len()],
    answered: [u64; Answer::ALL.len()],
    dropped: [u64; DropReason::COUNT],
}

impl Default for Counters {
    fn default() -> Self {
        Counters {
            packets: [0; Way::ALL.len()],
            bytes: [0; Way::ALL.len()],
            answered: [0; Answer::ALL.len()],
            dropped: [0; DropReason::COUNT],
        }
    }
}

impl Counters {
    /// Counts a packet of `bytes` that passed.
    pub fn passed(&mut self, way: Way, bytes: usize) {
        self.packets[way as usize] += 1;
        self.bytes[way as usize] += bytes as u64;
    }

    /// Counts a packet that the gateway itself sent or withheld.
    pub fn answered(&mut self, answer: Answer) {
        self.answered[answer as usize] += 1;
    }

    /// Counts a packet that was dropped.
    pub fn dropped(&mut self, reason: DropReason) {
        self.dropped[reason.index()] += 1;
    }

    /// How many were dropped for this reason.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.dropped[reason.index()]
    }

    /// A copy with words.
    pub fn view(&self) -> CountersView {
        let packets = Way::ALL.iter().zip(self.packets).map(|((_, word, _), count)| (*word, count));
        let bytes = Way::ALL.iter().zip(self.bytes).map(|((_, _, word), count)| (*word, count));
        CountersView {
            passed: packets.zip(bytes).flat_map(|(packets, bytes)| [packets, bytes]).collect(),
            answered: Answer::ALL.iter().zip(self.answered).map(|((_, word), n)| (*word, n)).collect(),
            dropped: DropReason::words().zip(self.dropped).collect(),
            links: Vec::new(),
        }
    }
}

/// A copy of all counters, each with its stable word.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CountersView {
    /// Packets and bytes by the way they went: `out-packets`, `out-bytes`, `in-packets`, ... A
    /// super-frame counts as one packet.
    pub passed: Vec<(&'static str, u64)>,
    /// Packets that the gateway itself answered: `arp`, `echo`, `time-exceeded`, ...
    pub answered: Vec<(&'static str, u64)>,
    /// Packets dropped, by [`super::DropReason::word`]; every reason is listed, zeros too.
    pub dropped: Vec<(&'static str, u64)>,
    /// Losses that links and sockets saw, `link: word`.
    pub links: Vec<(String, u64)>,
}
