//! tapnat: a NAT gateway that lives wholly in user space.
//!
//! The modules, in import order: a module may use those above it and never those below it
//! (`tests/tidy.rs` holds the exact table). The first five are pure: state, input, time and
//! seed in; decisions and bytes out. They know no clock, thread, socket, file or log.
//!
//! * [`flow`]: the words everybody shares
//! * [`wire`]: bytes to meaning and back; the only writer of packet bytes
//! * [`nat`]: the translator; decides on tuples
//! * [`gateway`]: the box that joins bytes to decisions
//! * [`stun`]: asking what a NAT does, and answering
//! * [`io`]: devices and sockets
//! * [`observe`]: counters, events and tables for those who look
//! * [`config`]: text to settings
//! * [`control`]: the interface other programs speak
//! * [`runtime`]: time, threads and the one loop
//! * [`lab`]: networks to try it on
//! * [`cli`]: the verbs a person types
//!
//! To read the code along a packet's way, start with `docs/packet-walk.md`.

#![deny(unsafe_code)]

pub mod cli;
pub mod config;
pub mod control;
pub mod flow;
pub mod gateway;
pub mod io;
pub mod lab;
pub mod nat;
pub mod observe;
pub mod runtime;
pub mod stun;
pub mod wire;
