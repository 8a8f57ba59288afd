//! Sequence numbers: 32 bits that wrap (RFC 9293 §3.4).

/// Whether `a` is before `b`.
pub const fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// How far `to` is beyond `from`; 0 if it is not.
pub const fn ahead(from: u32, to: u32) -> u32 {
    if before(from, to) { to.wrapping_sub(from) } else { 0 }
}

/// The later of two.
pub const fn later(a: u32, b: u32) -> u32 {
    if before(a, b) { b } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_wrap() {
        assert!(before(u32::MAX, 3) && !before(3, u32::MAX) && !before(7, 7));
        assert_eq!((ahead(u32::MAX, 3), ahead(3, u32::MAX)), (4, 0));
        assert_eq!(later(u32::MAX, 3), 3);
    }
}
