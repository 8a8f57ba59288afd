//! The interface other programs speak: one JSON object a line over a Unix socket.

pub mod engine;

pub use engine::{About, Engine, Gone};
