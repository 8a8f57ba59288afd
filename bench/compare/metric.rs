//! What is measured: names, units, and which way is better.

/// A figure.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Metric {
    /// One TCP stream, container to server.
    TcpOneUp,
    /// One TCP stream, server to container.
    TcpOneDown,
    /// Eight TCP streams, container to server.
    TcpEightUp,
    /// Eight TCP streams, server to container.
    TcpEightDown,
    /// UDP datagrams that arrive at the server, sent without regard for loss.
    UdpUp,
    /// The share of them that did not arrive.
    UdpLost,
    /// UDP datagrams answered, a fixed number under way.
    UdpEcho,
    /// Short HTTP exchanges, a connection each, one after the other.
    ShortOne,
    /// Short HTTP exchanges, a connection each, eight at a time.
    ShortEight,
    /// SYNs of theirs that had to be sent again.
    ShortSyns,
    /// Those that failed.
    ShortFailed,
    /// TCP round trip, median.
    TripMedian,
    /// TCP round trip, 99 of 100 are faster.
    TripTail,
    /// Resident memory of the gateway's process before any load.
    MemoryAtStart,
    /// The same after all loads.
    MemoryAfter,
}

/// Which way is better.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Better {
    /// More of it.
    Higher,
    /// Less of it.
    Lower,
}

impl Metric {
    /// All, in the order of the table.
    pub const ALL: [Metric; 15] = [
        Metric::TcpOneUp,
        Metric::TcpOneDown,
        Metric::TcpEightUp,
        Metric::TcpEightDown,
        Metric::UdpUp,
        Metric::UdpLost,
        Metric::UdpEcho,
        Metric::ShortOne,
        Metric::ShortEight,
        Metric::ShortSyns,
        Metric::ShortFailed,
        Metric::TripMedian,
        Metric::TripTail,
        Metric::MemoryAtStart,
        Metric::MemoryAfter,
    ];

    /// The stable word for programs, the words for people, the unit.
    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Metric::TcpOneUp => ("tcp-1-up", "TCP, 1 stream, upload", "Gbit/s"),
            Metric::TcpOneDown => ("tcp-1-down", "TCP, 1 stream, download", "Gbit/s"),
            Metric::TcpEightUp => ("tcp-8-up", "TCP, 8 streams, upload", "Gbit/s"),
            Metric::TcpEightDown => ("tcp-8-down", "TCP, 8 streams, download", "Gbit/s"),
            Metric::UdpUp => ("udp-up", "UDP, 64 bytes, delivered", "1000/s"),
            Metric::UdpLost => ("udp-up-lost", "UDP, 64 bytes, lost on the way", "%"),
            Metric::UdpEcho => ("udp-echo", "UDP, 64 bytes, answered", "1000/s"),
            Metric::ShortOne => ("http-1", "HTTP, a connection each, one at a time", "1/s"),
            Metric::ShortEight => ("http-8", "HTTP, a connection each, 8 at a time", "1/s"),
            Metric::ShortSyns => ("http-syn-again", "HTTP, SYNs sent again", "per round"),
            Metric::ShortFailed => ("http-failed", "HTTP, failed", "per round"),
            Metric::TripMedian => ("trip-p50", "TCP round trip, p50", "µs"),
            Metric::TripTail => ("trip-p99", "TCP round trip, p99", "µs"),
            Metric::MemoryAtStart => ("memory-start", "Resident memory, at start", "MiB"),
            Metric::MemoryAfter => ("memory-after", "Resident memory, after the load", "MiB"),
        }
    }

    /// The stable word for programs.
    pub fn key(self) -> &'static str {
        self.words().0
    }

    /// The words for people.
    pub fn title(self) -> &'static str {
        self.words().1
    }

    /// The unit.
    pub fn unit(self) -> &'static str {
        self.words().2
    }

    /// Which way is better.
    pub fn better(self) -> Better {
        match self {
            Metric::TcpOneUp
            | Metric::TcpOneDown
            | Metric::TcpEightUp
            | Metric::TcpEightDown
            | Metric::UdpUp
            | Metric::UdpEcho
            | Metric::ShortOne
            | Metric::ShortEight => Better::Higher,
            _ => Better::Lower,
        }
    }

    /// Whether a ratio to another contender says anything.
    pub fn compares(self) -> bool {
        !matches!(self, Metric::UdpLost | Metric::ShortSyns | Metric::ShortFailed)
    }
}

/// The middle of `samples`, or the mean of the two in the middle; `None` of none.
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len() % 2 == 1 { upper } else { f64::midpoint(sorted[middle - 1], upper) })
}
