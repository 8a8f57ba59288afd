//! What the mirror counts, by the words that `tapnat stats` shows.

/// Numbers since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    /// SYNs from the inside for which a socket began to connect.
    pub opened: u64,
    /// Connections accepted on the host.
    pub accepted: u64,
    /// Connections that the remote refused.
    pub refused: u64,
    /// Connections that found no way.
    pub unreachable: u64,
    /// Resets sent to the inside of connections that were under way.
    pub resets: u64,
    /// Connections whose inside end did not answer.
    pub silent: u64,
    /// Connections ended because the host has lost their address.
    pub address_lost: u64,
    /// Segments sent again.
    pub sent_again: u64,
    /// Connections that lost what waited out of order, since too much did.
    pub early_full: u64,
    /// Segments of no connection.
    pub strangers: u64,
    /// Segments with a wrong checksum.
    pub bad_checksums: u64,
    /// Fragments, which no socket takes.
    pub fragments: u64,
    /// Connections refused because there are too many.
    pub connections_full: u64,
    /// Connections forgotten for newer ones, since too many were under way.
    pub half_open_full: u64,
    /// Connections accepted on the host and refused, since the inside has not agreed to too many others.
    pub calling_full: u64,
    /// Connections forgotten at their end, since too many are remembered: should their last FIN come
    /// again, it is answered with a RST.
    pub linger_full: u64,
    /// Answers that found no room.
    pub replies_full: u64,
    /// No descriptor or memory for a socket.
    pub no_descriptors: u64,
    /// Sockets that could not be set up.
    pub failed: u64,
}

impl Counters {
    /// All of them; `kept_full` and `early` are counted elsewhere.
    pub fn words(&self, kept_full: u64, early: u64) -> Vec<(&'static str, u64)> {
        vec![
            ("tcp-opened", self.opened),
            ("tcp-accepted", self.accepted),
            ("tcp-refused", self.refused),
            ("tcp-unreachable", self.unreachable),
            ("tcp-reset", self.resets),
            ("tcp-inside-silent", self.silent),
            ("tcp-address-lost", self.address_lost),
            ("tcp-sent-again", self.sent_again),
            ("tcp-out-of-order", early),
            ("tcp-out-of-order-full", self.early_full),
            ("tcp-no-connection", self.strangers),
            ("tcp-bad-checksum", self.bad_checksums),
            ("tcp-fragment", self.fragments),
            ("tcp-connections-full", self.connections_full),
            ("tcp-half-open-full", self.half_open_full),
            ("tcp-calling-full", self.calling_full),
            ("tcp-linger-full", self.linger_full),
            ("tcp-kept-full", kept_full),
            ("tcp-replies-full", self.replies_full),
            ("tcp-no-descriptor", self.no_descriptors),
            ("tcp-socket-failed", self.failed),
        ]
    }
}
