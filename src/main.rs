//! The `tapnat` program.

fn main() {}
