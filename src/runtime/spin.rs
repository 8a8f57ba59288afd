//! Looking again for a short while before going to sleep.
//!
//! Waking a sleeping thread, and the processor under it, costs tens of microseconds in a virtual
//! machine: as much as the whole way of a packet through the kernel. While packets follow each other
//! closely it is cheaper to look again than to sleep. As with the halt polling of KVM (Linux
//! `virt/kvm/kvm_main.c`), the time spent so adapts: a gap that looking would have bridged opens
//! the window, each longer gap halves it, and a gateway that has little to do sleeps at once.

use crate::flow::Time;
use std::time::Duration;

/// The longest time spent looking after a packet. Round trips on one host are shorter.
const LONGEST: Duration = Duration::from_micros(80);
/// Windows below this are not worth the looking.
const SHORTEST: Duration = Duration::from_micros(10);

/// How long to look before sleeping.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Spin {
    window: Duration,
    last_packet: Time,
}

impl Spin {
    /// A turn that began at `now` had packets.
    pub fn packets(&mut self, now: Time) {
        self.window = match now.since(self.last_packet) {
            gap if gap <= LONGEST => LONGEST,
            _ if self.window / 2 < SHORTEST => Duration::ZERO,
            _ => self.window / 2,
        };
        self.last_packet = now;
    }

    /// Until when to look instead of sleeping.
    pub fn until(&self) -> Time {
        self.last_packet + self.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Time {
        Time::from_nanos(micros * 1000)
    }

    #[test]
    fn close_packets_are_waited_for_and_sparse_ones_are_not() {
        let mut spin = Spin::default();
        spin.packets(at(1000));
        assert_eq!(spin.until(), at(1000), "the first packet after silence");
        spin.packets(at(1050));
        assert_eq!(spin.until(), at(1130));
        let sparse: Vec<_> = (1..6)
            .map(|n| {
                spin.packets(at(1050 + n * 500));
                spin.until().since(spin.last_packet).as_micros()
            })
            .collect();
        assert_eq!(sparse, [40, 20, 10, 0, 0]);
    }
}
