//! rfc5508
use super::requirements;
requirements! {}
