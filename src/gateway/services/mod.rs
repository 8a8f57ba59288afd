//! What the gateway answers itself, at its own inside address.

pub mod dhcp;
pub mod echo;
