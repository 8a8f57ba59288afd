//! router
use super::requirements;
requirements! {}
