//! Bytes to meaning and back. No state, no decisions; the only user of etherparse and the only
//! writer of packet bytes.
//!
//! Reading: [`Frame`], then [`Packet`]; [`ipv6`] for extension headers, [`icmp`] for what an ICMP
//! error quotes. Changing:
//! [`Packet::apply`], on top of [`checksum`]. Cutting: [`Segments`] for super-frames, [`Fragments`]
//! for a smaller MTU. Making: [`craft`]; [`encapsulate`] around a payload. Showing: [`display`].
//!
//! A packet is checked once, in [`Packet::parse`]: version, header length, total length against
//! the bytes there are, header checksum (IPv6 has none, and extension headers instead). Whoever holds a [`Packet`] may index by its offsets.

mod apply;
pub mod buffer;
pub mod checksum;
pub mod craft;
pub mod display;
pub mod dns;
pub mod encapsulate;
pub mod error;
pub mod ethernet;
pub mod fragment;
pub mod icmp;
pub mod ipv6;
pub mod offload;
pub mod packet;
pub mod segment;

pub use buffer::Buffer;
pub use error::ParseError;
pub use ethernet::{Frame, MacAddr};
pub use fragment::Fragments;
pub use offload::{Offload, PartialChecksum, Segment, SegmentKind};
pub use packet::{Fragment, Packet};
pub use segment::Segments;
