//! System calls that no safe crate makes for us: the one home of `unsafe`.

#![allow(unsafe_code)]

pub mod ethtool;
pub mod netns;
pub mod wiretap;
