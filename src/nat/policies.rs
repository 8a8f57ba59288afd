//! Which policy holds for which inside host.
//!
//! Policies have numbers; equal ones share one. A host's number is found once, when its account is
//! opened, and copied into its mappings: a packet of a known session looks nothing up.

use super::session::Lives;
use super::{Behaviour, NatConfig, Policy};
use crate::flow::Prefix;
use std::net::IpAddr;

/// The policies in force.
#[derive(Debug)]
pub(super) struct Policies {
    /// By number; 0 is that of hosts without a rule.
    all: Vec<Policy>,
    /// Their timeouts, by number.
    lives: Vec<Lives>,
    /// Longest prefix first.
    rules: Vec<(Prefix, u8)>,
}

impl Policies {
    pub(super) fn new(config: &NatConfig) -> Self {
        let mut all = vec![config.policy.clone()];
        let mut rules = Vec::with_capacity(config.rules.len());
        for rule in &config.rules {
            let known = all.iter().position(|policy| *policy == rule.policy);
            let number = known.unwrap_or_else(|| {
                all.push(rule.policy.clone());
                all.len() - 1
            });
            // Policies beyond the last number are the default one: a mapping has one byte for it.
            rules.push((rule.inside, u8::try_from(number).unwrap_or(0)));
        }
        all.truncate(NatConfig::POLICIES);
        rules.sort_by_key(|(inside, _)| std::cmp::Reverse(inside.length));
        Policies { lives: all.iter().map(|policy| Lives::new(&policy.timeouts)).collect(), all, rules }
    }

    /// The number of the policy for this inside host: that of the longest prefix that covers it; of
    /// two equal prefixes, the first one's.
    pub(super) fn number(&self, inside: IpAddr) -> u8 {
        self.rules.iter().find(|(prefix, _)| prefix.covers(inside)).map_or(0, |(_, number)| *number)
    }

    /// Whether all hosts are treated alike.
    pub(super) fn alike(&self) -> bool {
        self.all.len() == 1
    }

    /// The policy with this number.
    pub(super) fn get(&self, number: u8) -> &Policy {
        &self.all[usize::from(number)]
    }

    /// The timeouts of the policy with this number.
    #[inline]
    pub(super) fn lives(&self, number: u8) -> &Lives {
        &self.lives[usize::from(number)]
    }

    /// Whether some filter asks who a mapping's peers are.
    pub(super) fn ask_for_peers(&self) -> bool {
        self.all.iter().any(|policy| policy.filtering == Behaviour::AddressDependent)
    }

    /// Whether every host's sessions live as long here as there.
    pub(super) fn live_alike(&self, other: &Policies) -> bool {
        self.lives == other.lives && self.rules == other.rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::{Rule, Timeouts};
    use std::net::Ipv4Addr;
    use std::time::Duration;

    fn rule(third: u8, length: u8, udp: u64) -> Rule {
        let timeouts = Timeouts { udp: Duration::from_secs(udp), ..Timeouts::default() };
        let policy = Policy { timeouts, ..Policy::default() };
        Rule { inside: Prefix::new(Ipv4Addr::new(10, 0, third, 0), length), policy }
    }

    #[test]
    fn the_longest_prefix_holds_and_equal_policies_share_a_number() {
        let mut config = NatConfig::new(vec![Ipv4Addr::new(203, 0, 113, 1).into()]);
        config.rules = vec![rule(0, 8, 300), rule(1, 24, 10), rule(1, 25, 20), rule(2, 24, 10)];
        let policies = Policies::new(&config);
        let number = |third, last| policies.number(Ipv4Addr::new(10, 0, third, last).into());
        assert_eq!([number(0, 1), number(1, 1), number(1, 200), number(2, 1)], [0, 2, 1, 1]);
        assert_eq!(policies.number(Ipv4Addr::new(192, 168, 0, 1).into()), 0);
        assert_eq!(policies.get(2).timeouts.udp, Duration::from_secs(20));
    }

    #[test]
    fn policies_beyond_the_last_number_are_the_default_one() {
        let mut config = NatConfig::new(vec![Ipv4Addr::new(203, 0, 113, 1).into()]);
        config.rules = (0..=255).map(|n| rule(n, 24, 1000 + u64::from(n))).collect();
        let policies = Policies::new(&config);
        assert_eq!(policies.number(Ipv4Addr::new(10, 0, 254, 1).into()), 255);
        assert_eq!(policies.number(Ipv4Addr::new(10, 0, 255, 1).into()), 0);
    }
}
