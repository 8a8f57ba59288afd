//! Plain integers, one for each fate a packet can have.

/// A copy of all counters, each with its stable word.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CountersView {
    /// Packets and bytes by the way they went: `out`, `in`, `hairpin`, `to-host`, `from-host`, ...
    /// A super-frame counts as one packet.
    pub passed: Vec<(&'static str, u64)>,
    /// Packets that the gateway itself answered: `arp`, `echo`, `time-exceeded`, ...
    pub answered: Vec<(&'static str, u64)>,
    /// Packets dropped, by [`super::DropReason::word`]; every reason is listed, zeros too.
    pub dropped: Vec<(&'static str, u64)>,
    /// Losses that links and sockets saw, `link: word`.
    pub links: Vec<(String, u64)>,
}
