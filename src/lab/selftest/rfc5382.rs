//! rfc5382
use super::requirements;
requirements! {}
