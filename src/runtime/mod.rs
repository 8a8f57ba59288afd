//! runtime
pub mod clock;
pub mod mailbox;
pub mod poller;
pub mod signals;
