//! Where a table lies in memory, for who can have the system treat it better.

/// A stretch of memory that a table uses or will use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// The address of its first byte.
    pub address: usize,
    /// Its length in bytes.
    pub length: usize,
}

impl Span {
    pub(super) fn of<T>(rows: &Vec<T>) -> Span {
        Span { address: rows.as_ptr().addr(), length: rows.capacity() * size_of::<T>() }
    }
}
