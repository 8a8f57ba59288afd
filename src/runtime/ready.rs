//! Tells whoever started the gateway that packets can flow.

use crate::io::sys::fd;
use anyhow::Context;
use std::fs::File;
use std::io::Write;

/// Writes one line to the descriptor and closes it.
///
/// # Errors
/// If it is not open for writing.
pub fn tell(ready_fd: Option<i32>) -> anyhow::Result<()> {
    let Some(number) = ready_fd else { return Ok(()) };
    let owned = fd::adopt(number).with_context(|| format!("--ready-fd {number}: not an open descriptor"))?;
    File::from(owned).write_all(b"ready\n").with_context(|| format!("--ready-fd {number}: writing to it"))
}
