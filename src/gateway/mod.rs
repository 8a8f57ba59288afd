//! The box: joins bytes to decisions. Pure.

pub mod command;
pub mod counters;
pub mod drop_reason;

pub use command::{Command, Reply};
pub use counters::CountersView;
pub use drop_reason::DropReason;
