//! The interface other programs speak: one JSON object a line over a Unix socket.
//!
//! ```text
//! client.rs ==== socket ==== server.rs -- connection.rs -- requests.rs -- engine.rs: the runtime
//!                protocol.rs says what goes over it
//! ```

pub mod client;
pub mod connection;
pub mod engine;
pub mod lookup;
pub mod protocol;
pub mod requests;
pub mod server;
pub mod socket;

pub use client::{Client, ClientError};
pub use engine::{About, AboutRule, Engine, Gone, Reloaded, Source};
pub use server::Server;
pub use socket::SocketError;
