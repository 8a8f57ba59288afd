//! rfc6888
use super::requirements;
requirements! {}
