//! Networks to try the gateway on, and the programs that run in them.
//!
//! * [`topology`]: which hosts there are and how they are wired; data
//! * [`netns`]: the same as Linux network namespaces, gone when the process is
//! * [`programs`]: servers and clients for those namespaces, without any external program
//! * [`host`]: a host in memory, for networks in virtual time

pub mod host;
pub mod netns;
pub mod programs;
pub mod topology;
