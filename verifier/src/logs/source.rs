//! Where lines come from: a file, the end of an enormous one, a rotated and compressed one, standard input.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read as _, Seek as _, SeekFrom},
    path::Path,
};

/// How much of a file is read from its end, unless told otherwise.
pub const LAST_BYTES_DEFAULT: u64 = 64 << 20;
/// How much of its beginning tells what a file is.
const HEAD_BYTES: usize = 8 << 10;

/// What was left out of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Bytes at the beginning that were not read.
    pub bytes: u64,
}

/// Lines to read.
pub struct Source {
    /// The lines.
    pub input: Box<dyn BufRead>,
    /// What was left out.
    pub skipped: Skipped,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("skipped", &self.skipped).finish_non_exhaustive()
    }
}

/// Opens a file, or standard input for `-`. Of a regular file only the last `last_bytes` are read.
///
/// # Errors
/// It cannot be opened, or is no log.
pub fn open(path: &Path, last_bytes: u64) -> io::Result<Source> {
    if path == Path::new("-") {
        return Ok(Source {
            input: Box::new(BufReader::new(io::stdin())),
            skipped: Skipped::default(),
        });
    }
    let mut file = File::open(path)?;
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Err(io::Error::from(io::ErrorKind::IsADirectory));
    }
    if !meta.is_file() {
        return Ok(Source {
            input: Box::new(BufReader::new(file)),
            skipped: Skipped::default(),
        });
    }
    let mut head = Vec::new();
    file.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    file.rewind()?;
    if head.starts_with(&[0x1f, 0x8b]) {
        // Where its end begins is not known beforehand, so all of it is read; a stream takes time, not memory.
        let unpacked = flate2::read::MultiGzDecoder::new(file);
        return Ok(Source {
            input: Box::new(BufReader::new(unpacked)),
            skipped: Skipped::default(),
        });
    }
    if is_binary(&head) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is binary, not a log"));
    }
    let bytes = meta.len().saturating_sub(last_bytes);
    file.seek(SeekFrom::Start(bytes))?;
    let mut input = BufReader::new(file);
    if bytes > 0 {
        // The first line is likely cut in two.
        let mut rest = Vec::new();
        input.by_ref().take(super::LINE_BYTES_MAX as u64).read_until(b'\n', &mut rest)?;
    }
    Ok(Source {
        input: Box::new(input),
        skipped: Skipped { bytes },
    })
}

/// Control characters that no log has make a binary. Zeros do not count: a log truncated while it is written to begins with them.
fn is_binary(head: &[u8]) -> bool {
    let text: Vec<u8> = head.iter().copied().filter(|byte| *byte != 0).collect();
    let odd = text
        .iter()
        .filter(|byte| matches!(byte, 0x01..=0x08 | 0x0e..=0x1a | 0x1c..=0x1f | 0x7f))
        .count();
    // Below a tenth it is a log with some garbage in it; nothing but zeros is a hole, which is said later.
    odd * 10 > text.len()
}
