//! Servers and clients for the lab's namespaces, so that no external program is needed.
//!
//! A server's `start` opens its socket inside the given namespace and serves on a thread there until
//! the returned [`Server`] is dropped. A client function works where its calling thread is: use it
//! within [`crate::io::sys::netns::Netns::run`].

pub mod bulk;
pub mod counters;
pub mod dns;
pub mod http;
pub mod icmp;
pub mod icmp6;
pub mod pattern;
pub mod rules;
pub mod server;
pub mod sniffer;
pub mod udp;

pub use server::Server;

use std::time::Instant;

/// The time, for measuring how long things take.
#[expect(clippy::disallowed_methods, reason = "programs of the lab live in real time")]
pub fn now() -> Instant {
    Instant::now()
}
