//! Port forwards: mappings that an operator made. They never age and filter nothing.

use crate::flow::{Endpoint, Protocol};
use std::collections::BTreeMap;

/// The port forwards by inside endpoint, in the order in which they were made.
#[derive(Default, Debug)]
pub(super) struct Forwards {
    by_inside: BTreeMap<(Protocol, Endpoint), Vec<u32>>,
    len: usize,
}

impl Forwards {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The mapping for outbound packets of a published endpoint: its first forward.
    pub(super) fn first(&self, protocol: Protocol, inside: Endpoint) -> Option<u32> {
        if self.len == 0 {
            return None;
        }
        self.by_inside.get(&(protocol, inside))?.first().copied()
    }

    pub(super) fn insert(&mut self, protocol: Protocol, inside: Endpoint, mapping: u32) {
        self.by_inside.entry((protocol, inside)).or_default().push(mapping);
        self.len += 1;
    }

    pub(super) fn remove(&mut self, protocol: Protocol, inside: Endpoint, mapping: u32) {
        if let Some(mappings) = self.by_inside.get_mut(&(protocol, inside)) {
            let before = mappings.len();
            mappings.retain(|other| *other != mapping);
            self.len -= before - mappings.len();
            if mappings.is_empty() {
                self.by_inside.remove(&(protocol, inside));
            }
        }
    }

    /// Their mappings.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.by_inside.values().flatten().copied()
    }
}
