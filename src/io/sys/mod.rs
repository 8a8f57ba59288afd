//! System calls that no safe crate makes for us: the one home of `unsafe`.
//!
//! Small files by job. Each gives a safe face to one interface; what it means is said by the
//! caller.

#![allow(unsafe_code)]

pub mod bpf;
pub mod datagram;
pub mod ethtool;
pub mod fd;
pub mod inet;
pub mod landlock;
pub mod memory;
pub mod mount;
pub mod netns;
pub mod nsfs;
pub mod packet;
pub mod raw6;
pub mod seccomp;
pub mod shared;
pub mod signal;
pub mod tun;
pub mod wiretap;
