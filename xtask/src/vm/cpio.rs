//! An initramfs as the kernel takes it: a cpio archive of the kind `newc`, uncompressed.
//! (`Documentation/driver-api/early-userspace/buffer-format.rst` in the kernel's source.)

use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_755;
const LINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// Writes one archive; directories must come before what lies in them.
pub(super) struct Archive<W> {
    out: W,
    inode: u32,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, inode: 0 }
    }

    pub(super) fn directory(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, DIRECTORY, (0, 0), &[])
    }

    pub(super) fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        self.entry(path, FILE, (0, 0), content)
    }

    pub(super) fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.entry(path, LINK, (0, 0), target.as_bytes())
    }

    /// A character device by its numbers.
    pub(super) fn device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        self.entry(path, CHARACTER_DEVICE, (major, minor), &[])
    }

    /// Writes the end marker and hands the stream back.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.header("TRAILER!!!", 0, (0, 0), 0)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) -> io::Result<()> {
        let size = u32::try_from(content.len()).map_err(|_| io::Error::other(format!("{path} has more than 4 GiB")))?;
        self.inode += 1;
        self.header(path, mode, device, size)?;
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    /// The fixed part and the name, padded to four bytes. Owner and times are zero: the same files, the same bytes.
    fn header(&mut self, path: &str, mode: u32, device: (u32, u32), size: u32) -> io::Result<()> {
        let name_size = u32::try_from(path.len() + 1).map_err(io::Error::other)?;
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        header.push_str(path);
        header.push('\0');
        self.out.write_all(header.as_bytes())?;
        self.pad(header.len())
    }

    fn pad(&mut self, written: usize) -> io::Result<()> {
        self.out.write_all(&[0; 3][..(4 - written % 4) % 4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an archive back as the kernel does: names, modes and contents.
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut found = Vec::new();
        loop {
            let field = |at: usize| usize::from_str_radix(std::str::from_utf8(&bytes[6 + 8 * at..14 + 8 * at]).unwrap(), 16).unwrap();
            assert_eq!(&bytes[..6], b"070701");
            let (mode, size, name_size) = (field(1), field(6), field(11));
            let name = String::from_utf8(bytes[110..109 + name_size].to_vec()).unwrap();
            let data = (110 + name_size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                assert_eq!(bytes.len(), data);
                return found;
            }
            found.push((name, mode as u32, bytes[data..data + size].to_vec()));
            bytes = &bytes[(data + size).next_multiple_of(4)..];
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut archive = Archive::new(Vec::new());
        archive.directory("sbin").unwrap();
        for size in 0..9 {
            archive.file(&format!("sbin/{}", "n".repeat(size + 1)), &vec![7; size]).unwrap();
        }
        archive.link("init", "sbin/n").unwrap();
        let entries = read(&archive.finish().unwrap());
        assert_eq!(entries.len(), 11);
        assert_eq!(entries[0], ("sbin".to_owned(), DIRECTORY, Vec::new()));
        assert_eq!(entries[5], ("sbin/nnnnn".to_owned(), FILE, vec![7; 4]));
        assert_eq!(entries[10], ("init".to_owned(), LINK, b"sbin/n".to_vec()));
    }
}
