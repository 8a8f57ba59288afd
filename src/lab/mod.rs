//! Networks to try the gateway on, and the programs that run in them.
//!
//! * [`topology`]: which hosts there are and how they are wired; data
//! * [`netns`]: the same as Linux network namespaces, gone when the process is
//! * [`product`]: the real gateway as a child process in one of them
//! * [`programs`]: servers and clients for those namespaces, without any external program
//! * [`host`]: a host in memory, for networks in virtual time
//! * [`selftest`]: the demands of the RFCs on a NAT, each put to it in a lab of its own

pub mod host;
pub mod netns;
pub mod product;
pub mod programs;
pub mod selftest;
pub mod topology;
