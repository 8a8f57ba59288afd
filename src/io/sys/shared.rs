//! Words of a file in memory, which outlive the process however it ends.

use rustix::mm::{self, MapFlags, ProtFlags};
use std::fs::File;
use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

/// A mapped file, as words of 32 bits in the machine's order. What is stored is in the page cache
/// at once: SIGKILL does not undo it.
#[derive(Debug)]
pub struct SharedWords {
    words: NonNull<AtomicU32>,
    count: usize,
}

// SAFETY: the mapping belongs to this value alone, and its words are only used as atomics.
unsafe impl Send for SharedWords {}

impl SharedWords {
    /// Maps the first `count` words of a file. All of it must be allocated, and stay so: whoever
    /// cuts the file off afterwards kills this process with SIGBUS.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file is shorter; else the kernel's word.
    pub fn map(file: &File, count: usize) -> io::Result<SharedWords> {
        let length = count.checked_mul(size_of::<u32>()).filter(|length| *length > 0);
        let length = length.ok_or(io::ErrorKind::InvalidInput)?;
        if file.metadata()?.len() < length as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // SAFETY: a new mapping at an address of the kernel's choice; nothing is replaced.
        let words = unsafe {
            mm::mmap(ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, file, 0)
        }?;
        let words = NonNull::new(words.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(SharedWords { words, count })
    }

    /// Stores a word; one outside the mapping is left alone.
    #[inline]
    pub fn set(&self, at: usize, value: u32) {
        if at < self.count {
            // SAFETY: within the mapping, which lives as long as `self`; pages are aligned for words.
            unsafe { self.words.add(at).as_ref() }.store(value, Ordering::Relaxed);
        }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`, which nobody uses any more. A failure leaves it mapped,
        // which harms nobody.
        let _ = unsafe { mm::munmap(self.words.as_ptr().cast(), self.count * size_of::<u32>()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_is_stored_is_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("words");
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        assert_eq!(SharedWords::map(&file, 4).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        file.write_all(&[0; 16]).unwrap();
        let words = SharedWords::map(&file, 4).unwrap();
        words.set(2, 7);
        words.set(4, 9);
        let mut want = [0; 16];
        want[8..12].copy_from_slice(&7u32.to_ne_bytes());
        assert_eq!(std::fs::read(&path).unwrap(), want);
    }
}
