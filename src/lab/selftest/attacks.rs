//! attacks
use super::requirements;
requirements! {}
