//! One packet's bytes with room in front for a link header; made once, used again.

use super::Offload;

/// A packet (from its link header, or its IP header where there is none) and what it leaves to
/// later devices.
///
/// The bytes sit behind [`Buffer::HEADROOM`], so that a link header can be put in front without
/// moving them.
#[derive(Clone)]
pub struct Buffer {
    storage: Box<[u8]>,
    start: usize,
    end: usize,
    /// What the packet leaves to later devices.
    pub offload: Offload,
    /// The port that it came by, where its link is a switch of several.
    pub port: Option<u16>,
}

impl Buffer {
    /// Room in front of a freshly received packet, in bytes.
    pub const HEADROOM: usize = 64;
    /// The largest packet a buffer of [`Buffer::new`] takes: an Ethernet header with a VLAN tag,
    /// and an IPv6 header with 65535 bytes behind it.
    pub const CAPACITY: usize = 18 + 40 + 65535;

    /// An empty buffer for packets of any size.
    pub fn new() -> Self {
        Self::with_capacity(Self::CAPACITY)
    }

    /// An empty buffer for packets of up to `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Buffer {
            storage: vec![0; Self::HEADROOM + capacity].into_boxed_slice(),
            start: Self::HEADROOM,
            end: Self::HEADROOM,
            offload: Offload::default(),
            port: None,
        }
    }

    /// A buffer that holds a copy of `bytes`.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut buffer = Self::with_capacity(bytes.len());
        buffer.storage[Self::HEADROOM..].copy_from_slice(bytes);
        buffer.end = buffer.storage.len();
        buffer
    }

    /// Forgets the packet; the room in front is whole again.
    pub fn clear(&mut self) {
        self.start = Self::HEADROOM;
        self.end = Self::HEADROOM;
        self.offload = Offload::default();
        self.port = None;
    }

    /// Makes the buffer hold a copy of `bytes`, as much as fits.
    pub fn fill(&mut self, bytes: &[u8]) {
        self.clear();
        let length = bytes.len().min(self.storage.len() - Self::HEADROOM);
        self.storage[Self::HEADROOM..Self::HEADROOM + length].copy_from_slice(&bytes[..length]);
        self.end = Self::HEADROOM + length;
    }

    /// Where the next packet may be received: all room behind the packet's start.
    pub fn spare(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..]
    }

    /// Says how many bytes of [`Buffer::spare`] were filled; more than there are is cut.
    pub fn set_len(&mut self, length: usize) {
        self.end = (self.start + length).min(self.storage.len());
    }

    /// The packet.
    pub fn bytes(&self) -> &[u8] {
        &self.storage[self.start..self.end]
    }

    /// The packet, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.end]
    }

    /// Length of the packet in bytes.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether there is no packet.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Takes `count` bytes off the front; all there are, if there are fewer.
    pub fn drop_front(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    /// Puts `header` in front.
    ///
    /// # Panics
    /// If the room in front is used up: headers put in front since the packet was received are
    /// the program's own and short.
    pub fn push_front(&mut self, header: &[u8]) {
        let start = self.start.checked_sub(header.len()).expect("headers fit the headroom");
        self.storage[start..self.start].copy_from_slice(header);
        self.start = start;
    }

    /// Cuts the packet to `length` bytes if it is longer.
    pub fn truncate(&mut self, length: usize) {
        self.end = self.end.min(self.start + length);
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer").field("len", &self.len()).field("offload", &self.offload).finish()
    }
}
