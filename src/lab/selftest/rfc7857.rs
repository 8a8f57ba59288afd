//! rfc7857
use super::requirements;
requirements! {}
