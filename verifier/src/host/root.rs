//! Files below a root directory, read-only and bounded. Links are followed as the host itself would follow them: an absolute link starts
//! at the root again (`openat2` with `RESOLVE_IN_ROOT`), so the host's file system can be looked at from inside a container.
//!
//! That something does not exist is an answer; anything else that goes wrong is a [`Gap`].

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2, readlinkat},
    sys::stat::Mode,
};
use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};
use verifier_core::{
    evidence::Gap,
    host::{FileKind, FoundPath},
};

/// More than any configuration file has; `modules.dep` of a distribution's kernel has one.
const FILE_BYTES_MAX: u64 = 8 << 20;
/// Entries of a directory that are looked at.
const ENTRIES_MAX: usize = 20_000;

/// A directory taken for `/`.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
}

/// What went wrong with a path, other than that it does not exist.
pub type Looked<T> = Result<Option<T>, Gap>;

impl Root {
    /// Opens it.
    ///
    /// # Errors
    /// It is no directory that can be entered.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if !file.metadata()?.is_dir() {
            return Err(io::Error::from(io::ErrorKind::NotADirectory));
        }
        Ok(Self {
            fd: OwnedFd::from(file),
            path: path.to_owned(),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn at(&self, path: &str, flags: OFlag) -> Looked<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .mode(Mode::empty())
            .resolve(ResolveFlag::RESOLVE_IN_ROOT);
        match openat2(self.fd.as_fd(), path, how) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(errno) => Err(gap(path, errno.desc())),
        }
    }

    /// The bytes of a regular file.
    ///
    /// # Errors
    /// It exists and cannot be read, or is larger than any such file is.
    pub fn bytes(&self, path: &str) -> Looked<Vec<u8>> {
        // A FIFO in the place of a file must not block.
        let Some(fd) = self.at(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)? else {
            return Ok(None);
        };
        let file = File::from(fd);
        let meta = file.metadata().map_err(|error| gap(path, &error.to_string()))?;
        if !meta.is_file() {
            return Err(gap(path, "it is no regular file"));
        }
        let mut bytes = Vec::new();
        match file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes) {
            Ok(_) if bytes.len() as u64 > FILE_BYTES_MAX => Err(gap(path, "it is larger than 8 MiB: not read")),
            Ok(_) => Ok(Some(bytes)),
            Err(error) => Err(gap(path, &error.to_string())),
        }
    }

    /// The first bytes of a regular file, at most `count`.
    ///
    /// # Errors
    /// It exists and cannot be read.
    pub fn head(&self, path: &str, count: u64) -> Looked<Vec<u8>> {
        let Some(fd) = self.at(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        match File::from(fd).take(count).read_to_end(&mut bytes) {
            Ok(_) => Ok(Some(bytes)),
            Err(error) => Err(gap(path, &error.to_string())),
        }
    }

    /// A regular file, to read parts of it.
    ///
    /// # Errors
    /// It exists and cannot be opened.
    pub fn file(&self, path: &str) -> Looked<File> {
        let Some(fd) = self.at(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)? else {
            return Ok(None);
        };
        let file = File::from(fd);
        let meta = file.metadata().map_err(|error| gap(path, &error.to_string()))?;
        Ok(meta.is_file().then_some(file))
    }

    /// The text of a regular file.
    ///
    /// # Errors
    /// As for [`Root::bytes`], or it is no text.
    pub fn text(&self, path: &str) -> Looked<String> {
        match self.bytes(path)? {
            None => Ok(None),
            Some(bytes) => String::from_utf8(bytes).map(Some).map_err(|_| gap(path, "it is no text")),
        }
    }

    /// Names in a directory, sorted.
    ///
    /// # Errors
    /// It exists and cannot be read.
    pub fn names(&self, path: &str) -> Looked<Vec<String>> {
        let Some(fd) = self.at(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)? else {
            return Ok(None);
        };
        let through = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let mut names = Vec::new();
        for entry in std::fs::read_dir(through).map_err(|error| gap(path, &error.to_string()))? {
            let entry = entry.map_err(|error| gap(path, &error.to_string()))?;
            if names.len() == ENTRIES_MAX {
                return Err(gap(path, "it has more than 20,000 entries"));
            }
            // A name that is no text is none of a file that matters here.
            if let Ok(name) = entry.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(Some(names))
    }

    /// Whether something is there.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn exists(&self, path: &str) -> Result<bool, Gap> {
        Ok(self.at(path, OFlag::O_PATH)?.is_some())
    }

    /// Where a link points.
    ///
    /// # Errors
    /// It exists and cannot be read.
    pub fn link(&self, path: &str) -> Looked<String> {
        let Some(fd) = self.at(path, OFlag::O_PATH | OFlag::O_NOFOLLOW)? else {
            return Ok(None);
        };
        match readlinkat(fd.as_fd(), "") {
            Ok(target) => Ok(target.into_string().ok()), // a name that is no text is none that matters here
            // It is no link.
            Err(Errno::ENOENT | Errno::EINVAL) => Ok(None),
            Err(errno) => Err(gap(path, errno.desc())),
        }
    }

    /// Kind, mode and owner.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn stat(&self, path: &str) -> Looked<(FoundPath, u64)> {
        let Some(fd) = self.at(path, OFlag::O_PATH)? else { return Ok(None) };
        let meta = File::from(fd).metadata().map_err(|error| gap(path, &error.to_string()))?;
        let kind = if meta.is_file() {
            FileKind::File
        } else if meta.is_dir() {
            FileKind::Directory
        } else {
            FileKind::Other
        };
        let found = FoundPath {
            kind,
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            mount_options: None,
        };
        Ok(Some((found, meta.len())))
    }
}

/// What could not be seen of the host.
pub fn gap(path: &str, why: &str) -> Gap {
    Gap::new(format!("host/{path}"), why)
}

/// Collects gaps while a section goes on with what it can get.
#[derive(Debug, Default)]
pub struct Gaps(pub Vec<Gap>);

impl Gaps {
    /// What was found, if anything; a gap is noted.
    pub fn note<T>(&mut self, looked: Looked<T>) -> Option<T> {
        match looked {
            Ok(found) => found,
            Err(gap) => {
                self.0.push(gap);
                None
            }
        }
    }
}

/// Files of a directory family such as `sysctl.d`: sorted by name over all directories, one that stands earlier in `directories` replacing
/// those of the same name (systemd's and procps' rule). Names end in `suffix`. A link to `/dev/null` masks a name.
pub fn family(root: &Root, directories: &[&str], suffix: &str, gaps: &mut Gaps) -> Vec<String> {
    let mut by_name = std::collections::BTreeMap::new();
    for directory in directories.iter().rev() {
        for name in gaps.note(root.names(directory)).unwrap_or_default() {
            if name.ends_with(suffix) {
                let path = format!("{directory}/{name}");
                let masked = gaps.note(root.link(&path)).is_some_and(|target| target == "/dev/null");
                by_name.insert(name, (!masked).then_some(path));
            }
        }
    }
    by_name.into_values().flatten().collect()
}
