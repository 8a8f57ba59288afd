//! A log file that does not grow beyond a size: room is made by forgetting the older half, but never the
//! first line, which says whose log it is.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// The file; nothing else may write to it.
#[derive(Debug)]
pub struct LogFile {
    file: File,
    header: String,
    size: u64,
    most: u64,
}

impl LogFile {
    /// A new file, or one that begins anew, of `most` bytes at most and with `header`, a line, at its head.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn create(path: &Path, most: u64, header: &str) -> io::Result<LogFile> {
        let mut file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
        file.write_all(header.as_bytes())?;
        let header = header.to_owned();
        Ok(LogFile { file, size: header.len() as u64, header, most })
    }

    /// Forgets older lines: about half of all, and always so many that `length` bytes have room.
    fn make_room(&mut self, length: u64) -> io::Result<()> {
        let header = self.header.len() as u64;
        let room = self.most.saturating_sub(header + length).min(self.most / 2);
        let keep = room.min(self.size.saturating_sub(header));
        let start = self.size.saturating_sub(keep);
        let mut kept = Vec::new();
        self.file.seek(SeekFrom::Start(start))?;
        self.file.read_to_end(&mut kept)?;
        // From the begin of a line on.
        let line = kept.iter().position(|byte| *byte == b'\n').map_or(kept.len(), |end| end + 1);
        let kept = if start <= header { &kept[..] } else { &kept[line..] };
        self.size = header + kept.len() as u64;
        // Shortened last: whoever reads in between finds lines twice, never an empty file.
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&[self.header.as_bytes(), kept].concat())?;
        self.file.set_len(self.size)?;
        Ok(())
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len() as u64;
        if self.size + length > self.most {
            self.make_room(length)?;
        }
        // A line longer than all that there may be is cut.
        let room = usize::try_from(self.most - self.size.min(self.most)).unwrap_or(usize::MAX);
        let fits = &bytes[..bytes.len().min(room)];
        self.file.write_all(fits)?;
        self.size += fits.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_lines_are_kept_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "of an earlier gateway").unwrap();
        let mut log = LogFile::create(&path, 100, "line of the head\n").unwrap();
        for number in 0..50 {
            writeln!(log, "line {number}").unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.len() <= 100 && text.ends_with(&format!("line {number}\n")), "{text}");
            assert!(text.starts_with("line of the head\n"), "{text}");
            assert!(text.lines().all(|line| line.starts_with("line ")), "{text}");
        }
        let mut room = File::open(&path).unwrap();
        let (done, over) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            while over.try_recv().is_err() {
                let mut text = String::new();
                room.rewind().unwrap();
                room.read_to_string(&mut text).unwrap();
                assert!(!text.is_empty());
            }
        });
        for number in 0..20_000 {
            writeln!(log, "line {number}").unwrap();
        }
        done.send(()).unwrap();
        reader.join().unwrap();
        log.write_all(&[b'x'; 300]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap().len(), 100);
        writeln!(log, "after").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "line of the head\nafter\n");
    }
}
