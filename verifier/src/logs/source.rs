//! Where lines come from: a file, the end of an enormous one, a rotated and compressed one, standard input.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read as _, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
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
    /// The regular file that is read, to see afterwards whether it is still the one of its name.
    watched: Option<Watched>,
}

/// A file as it was when reading began.
struct Watched {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl Source {
    fn unwatched(input: Box<dyn BufRead>) -> Self {
        Self {
            input,
            skipped: Skipped::default(),
            watched: None,
        }
    }

    /// What happened to the file while it was read, if that may have cost lines. To be asked at the end.
    pub fn disturbed(&self) -> Option<String> {
        let watched = self.watched.as_ref()?;
        let now = match watched.file.metadata() {
            Ok(now) => now,
            Err(error) => return Some(format!("whether it was rotated while it was read cannot be told ({error})")),
        };
        if now.len() < watched.bytes {
            return Some("it was truncated while it was read: lines may be missing, see its rotated copy".to_owned());
        }
        match fs::metadata(&watched.path) {
            Ok(there) if (there.dev(), there.ino()) == (now.dev(), now.ino()) => None,
            Ok(_) | Err(_) => {
                Some("it was rotated while it was read: what was written since stands in a new file of that name, read that too".to_owned())
            }
        }
    }
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
        return Ok(Source::unwatched(Box::new(BufReader::new(io::stdin()))));
    }
    let mut file = File::open(path)?;
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Err(io::Error::from(io::ErrorKind::IsADirectory));
    }
    if !meta.is_file() {
        return Ok(Source::unwatched(Box::new(BufReader::new(file))));
    }
    let mut head = Vec::new();
    file.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    file.rewind()?;
    if head.starts_with(&[0x1f, 0x8b]) {
        // Where its end begins is not known beforehand, so all of it is read; a stream takes time, not memory.
        let unpacked = flate2::read::MultiGzDecoder::new(file);
        return Ok(Source::unwatched(Box::new(BufReader::new(unpacked))));
    }
    if is_binary(&head) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is binary, not a log"));
    }
    let bytes = meta.len().saturating_sub(last_bytes);
    file.seek(SeekFrom::Start(bytes))?;
    let watched = Watched {
        file: file.try_clone()?,
        path: path.to_owned(),
        bytes: meta.len(),
    };
    let mut input = BufReader::new(file);
    if bytes > 0 {
        // The first line is likely cut in two.
        let mut rest = Vec::new();
        input.by_ref().take(super::LINE_BYTES_MAX as u64).read_until(b'\n', &mut rest)?;
    }
    Ok(Source {
        input: Box::new(input),
        skipped: Skipped { bytes },
        watched: Some(watched),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_rotated_or_truncated_while_it_is_read_is_noticed() {
        let directory = std::env::temp_dir().join(format!("log-source-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("felix.log");
        let write = || fs::write(&path, "one\ntwo\n").unwrap();
        let read = |source: &mut Source| {
            let mut text = String::new();
            source.input.read_to_string(&mut text).unwrap();
            text
        };

        write();
        let mut undisturbed = open(&path, LAST_BYTES_DEFAULT).unwrap();
        assert_eq!(read(&mut undisturbed), "one\ntwo\n");
        assert_eq!(undisturbed.disturbed(), None);

        let mut rotated = open(&path, LAST_BYTES_DEFAULT).unwrap();
        fs::rename(&path, directory.join("felix.log.1")).unwrap();
        // What was open is read whole, whatever its name is now.
        assert_eq!(read(&mut rotated), "one\ntwo\n");
        assert!(rotated.disturbed().is_some_and(|why| why.contains("rotated")));
        write();
        assert!(rotated.disturbed().is_some_and(|why| why.contains("rotated")));

        let mut truncated = open(&path, LAST_BYTES_DEFAULT).unwrap();
        File::create(&path).unwrap();
        assert_eq!(read(&mut truncated), "");
        assert!(truncated.disturbed().is_some_and(|why| why.contains("truncated")));
        fs::remove_dir_all(directory).unwrap();
    }
}
