//! The uplink of ordinary sockets: what the translator sends becomes socket calls, and what sockets
//! say becomes packets.

pub mod tcp;
