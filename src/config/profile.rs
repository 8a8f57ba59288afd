//! Named sets of NAT behaviours.

use crate::nat::{Behaviour, Policy, PortChoice, Timeouts};
use std::time::Duration;

/// A named set of NAT behaviours, from which single ones may depart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Profile {
    /// What the RFCs ask for (RFC 4787, 5382, 5508, 6888, 7857).
    #[default]
    Rfc4787,
    /// RFC 3489 §5: one mapping for all remotes, and anybody may use it.
    FullCone,
    /// RFC 3489 §5: one mapping for all remotes; addresses talked to may use it.
    RestrictedCone,
    /// RFC 3489 §5: one mapping for all remotes; endpoints talked to may use it.
    PortRestricted,
    /// RFC 3489 §5: a mapping for each remote, for it alone.
    Symmetric,
    /// As Linux `nf_nat` and `nf_conntrack` do with their defaults.
    Linux,
    /// A block of ports for each inside host, which follows from its address (RFC 7422).
    Cgnat,
}

impl Profile {
    /// Every profile, with its word.
    pub const WORDS: [(&'static str, Profile); 7] = [
        ("rfc4787", Profile::Rfc4787),
        ("full-cone", Profile::FullCone),
        ("restricted-cone", Profile::RestrictedCone),
        ("port-restricted", Profile::PortRestricted),
        ("symmetric", Profile::Symmetric),
        ("linux", Profile::Linux),
        ("cgnat", Profile::Cgnat),
    ];

    /// The stable word.
    pub fn word(self) -> &'static str {
        Profile::WORDS.iter().find(|(_, profile)| *profile == self).map_or("", |(word, _)| word)
    }

    /// What it consists of. `block` is how the ports of [`Profile::Cgnat`] are chosen.
    pub fn policy(self, block: PortChoice) -> Policy {
        use Behaviour::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
        let cone = |filtering| Policy { mapping: EndpointIndependent, filtering, ..Policy::default() };
        match self {
            Profile::Rfc4787 => Policy::default(),
            Profile::FullCone => cone(EndpointIndependent),
            Profile::RestrictedCone => cone(AddressDependent),
            Profile::PortRestricted => cone(AddressAndPortDependent),
            Profile::Symmetric => Policy {
                mapping: AddressAndPortDependent,
                filtering: AddressAndPortDependent,
                ..Policy::default()
            },
            Profile::Linux => Policy {
                mapping: AddressAndPortDependent,
                filtering: AddressAndPortDependent,
                hairpin: false,
                choice: PortChoice::Overload,
                timeouts: linux_timeouts(),
            },
            Profile::Cgnat => Policy { choice: block, ..Policy::default() },
        }
    }
}

/// The defaults of `/proc/sys/net/netfilter/nf_conntrack_*_timeout*`. An exchange of two datagrams
/// never becomes a stream there, so DNS has the time of what is unreplied.
fn linux_timeouts() -> Timeouts {
    let seconds = Duration::from_secs;
    Timeouts {
        udp: seconds(120),
        udp_unreplied: seconds(30),
        udp_dns: seconds(30),
        tcp_opening: seconds(120),
        tcp_syn_received: seconds(60),
        tcp_established: seconds(5 * 24 * 3600),
        tcp_half_closed: seconds(120),
        tcp_closing: seconds(120),
        tcp_reset: seconds(10),
        icmp: seconds(30),
        other: seconds(600),
        ..Timeouts::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_has_a_word_and_no_two_are_the_same() {
        for (at, (word, profile)) in Profile::WORDS.into_iter().enumerate() {
            assert_eq!(profile.word(), word);
            let block =
                PortChoice::Block { subscribers: crate::flow::Prefix::new([10, 0, 0, 0], 8), size: 8 };
            for (_, other) in &Profile::WORDS[..at] {
                // Restricted cone is the older name of what the RFC recommends as stringent.
                let named_twice = profile == Profile::RestrictedCone && *other == Profile::Rfc4787;
                assert_eq!(profile.policy(block) == other.policy(block), named_twice, "{word}");
            }
        }
    }
}
