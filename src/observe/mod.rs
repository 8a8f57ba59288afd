//! Looks, never touches: events, the live flow table, counters as text.

pub mod board;
pub mod event;
pub mod feed;
pub mod filter;
pub mod metrics;
pub mod record;

pub use board::FlowBoard;
pub use event::{Event, Kind, Kinds, Note, PacketSeen, What};
pub use feed::{Feed, Subscription, Told, Wanted};
pub use filter::Filter;
pub use metrics::StatsRecord;
pub use record::{EventRecord, SessionRecord};
