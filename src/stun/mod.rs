//! STUN (RFC 8489) and what it can tell about a NAT (RFC 5780): a server that answers from four
//! places, and a probe that asks it. Pure: sockets and time are handed in.
//!
//! # Theory of operation
//!
//! A client behind a NAT asks a server: whom do you see? The answer is the client's *mapped* endpoint,
//! which the NAT chose. Asking from one socket at several endpoints of the server shows on what the
//! mapping depends; having answers sent from several endpoints shows whom the filter lets in.
//!
//! ```text
//!   mapping    asks A:p, B:p, B:q     same mapped endpoint? ────────── endpoint-independent
//!                                     same for B:p and B:q? ────────── address-dependent
//!                                     never the same ───────────────── address-and-port-dependent
//!   filtering  asks A:p; answered from B:q? ────────────────────────── endpoint-independent
//!                        answered from A:q? ────────────────────────── address-dependent
//!                        answered from A:p only ────────────────────── address-and-port-dependent
//! ```
//!
//! Where to read on: `message` and `attribute` are the bytes; [`server`] answers, bounded by
//! `limit`; [`exchange`] asks until it is answered; [`probe`] is the list of questions, with
//! [`path`] (fragments, MTU) and [`lifetime`]; [`report`] is what they find.

pub mod attribute;
pub mod exchange;
pub mod lifetime;
pub mod limit;
pub mod message;
pub mod path;
pub mod probe;
pub mod report;
pub mod server;

pub use attribute::Attribute;
pub use message::{Class, Malformed, Message, Transaction};
pub use server::{Answer, Place, Places, Server, Silence};
