//! The key file that all agents and `validate` share.
//!
//! One secret of 32 bytes a line, in hexadecimal; the first signs, all verify, two at most. So a key is rotated in three steps without an
//! interruption: add, promote, retire. What travels is a key's id, derived from the secret, never the secret; HTTP and probes use keys
//! derived from it, so that neither can be used to forge the other.

use super::auth::{hex, unhex};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use std::{
    fmt, fs, io,
    io::{Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// How many keys are valid at once.
pub const KEYS_MAX: usize = 2;
const HEADER: &str = "# Key of the dataplane verifier: one a line, the first signs. Keep it secret (mode 0600).\n";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No such file.
    #[error("key file {} does not exist: make one with `verifier keygen {}` and give the same to every agent", path.display(), path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read or written.
    #[error("key file {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others may read it.
    #[error("key file {} may be read by others (mode {mode:04o}): chmod 0600 it, and make a new key if anybody else could have", path.display())]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is not a key file.
    #[error("key file {} line {line} is not 64 hexadecimal digits: make one with `verifier keygen`", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// Too few or too many keys.
    #[error("key file {} holds {found} keys, {wanted}", path.display())]
    Count {
        /// The file.
        path: PathBuf,
        /// How many there are.
        found: usize,
        /// How many there should be, with what to do.
        wanted: &'static str,
    },
    /// It exists.
    #[error("key file {} exists and is not overwritten: remove it first, or use --rotate", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
}

/// A secret.
#[derive(Clone, PartialEq, Eq)]
struct Secret([u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Key for HTTP.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpKey {
    /// Id, the same for HTTP and probes.
    pub id: u32,
    pub(super) secret: [u8; 32],
}

impl fmt::Debug for HttpKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {:08x}", self.id)
    }
}

/// Key for the SipHash tag of probes.
#[derive(Clone, PartialEq, Eq)]
pub struct ProbeKey {
    /// Id.
    pub id: u32,
    /// The 128 bits of SipHash.
    pub secret: [u8; 16],
}

impl fmt::Debug for ProbeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {:08x}", self.id)
    }
}

/// The keys in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyring {
    first: Secret,
    second: Option<Secret>,
}

impl Keyring {
    /// Reads a key file.
    ///
    /// # Errors
    /// It is missing, readable by others, or no key file.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let io = |source| KeyError::Io {
            path: path.to_owned(),
            source,
        };
        let mut file = match fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(KeyError::Missing { path: path.to_owned() }),
            Err(error) => return Err(io(error)),
        };
        // Of the open file, not of the path: what is checked is what is read.
        let metadata = file.metadata().map_err(io)?;
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 != 0 && !is_ours_by_group(&metadata, mode) {
            return Err(KeyError::TooOpen {
                path: path.to_owned(),
                mode,
            });
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(io)?;
        Self::parse(path, &text)
    }

    /// Reads the text of a key file; `path` is where it was, for messages.
    ///
    /// # Errors
    /// It is no key file.
    pub fn parse(path: &Path, text: &str) -> Result<Self, KeyError> {
        let mut keys = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            keys.push(Secret(unhex(line).ok_or_else(|| KeyError::Malformed {
                path: path.to_owned(),
                line: index + 1,
            })?));
        }
        match keys.as_slice() {
            [first] => Ok(Self {
                first: first.clone(),
                second: None,
            }),
            [first, second] => Ok(Self {
                first: first.clone(),
                second: Some(second.clone()),
            }),
            _ => Err(KeyError::Count {
                path: path.to_owned(),
                found: keys.len(),
                wanted: "one or two can be valid at once",
            }),
        }
    }

    /// A keyring with one secret.
    pub const fn from_secret(secret: [u8; 32]) -> Self {
        Self {
            first: Secret(secret),
            second: None,
        }
    }

    /// Writes a new key file with one new key. An existing file is never overwritten.
    ///
    /// # Errors
    /// It exists or cannot be written.
    pub fn create(path: &Path) -> Result<Self, KeyError> {
        let keyring = Self::from_secret(random().map_err(|source| KeyError::Io {
            path: path.to_owned(),
            source,
        })?);
        keyring.write_new(path)?;
        Ok(keyring)
    }

    /// This keyring with a second, new key that is accepted and does not sign yet.
    ///
    /// # Errors
    /// It has two already, or no randomness.
    pub fn add_key(self, path: &Path) -> Result<Self, KeyError> {
        if self.second.is_some() {
            return Err(KeyError::Count {
                path: path.to_owned(),
                found: KEYS_MAX,
                wanted: "no third can be added: retire one first (--rotate retire)",
            });
        }
        let draw = || {
            random().map(Secret).map_err(|source| KeyError::Io {
                path: path.to_owned(),
                source,
            })
        };
        let mut second = draw()?;
        // A probe names its key by the lowest byte of the id: the two must differ in it. One draw in 256 does not.
        for _ in 0..8 {
            if second.id() as u8 != self.first.id() as u8 {
                break;
            }
            second = draw()?;
        }
        Ok(Self {
            second: Some(second),
            ..self
        })
    }

    /// This keyring with its keys in the other order.
    ///
    /// # Errors
    /// It has only one.
    pub fn promote(self, path: &Path) -> Result<Self, KeyError> {
        match self.second {
            Some(second) => Ok(Self {
                first: second,
                second: Some(self.first),
            }),
            None => Err(KeyError::Count {
                path: path.to_owned(),
                found: 1,
                wanted: "promoting needs two: add one first (--rotate add)",
            }),
        }
    }

    /// This keyring with its first key only.
    #[must_use]
    pub fn retire(self) -> Self {
        Self { second: None, ..self }
    }

    /// Replaces the key file, so that a reader sees the old or the new one and nothing between.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn replace(&self, path: &Path) -> Result<(), KeyError> {
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let next = PathBuf::from(name);
        self.write_new(&next)?;
        fs::rename(&next, path).map_err(|source| KeyError::Io {
            path: path.to_owned(),
            source,
        })
    }

    fn write_new(&self, path: &Path) -> Result<(), KeyError> {
        let io = |source| KeyError::Io {
            path: path.to_owned(),
            source,
        };
        let mut file = match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(KeyError::Exists { path: path.to_owned() }),
            Err(error) => return Err(io(error)),
        };
        file.write_all(self.text().as_bytes()).and_then(|()| file.sync_all()).map_err(io)
    }

    /// The text of the key file. Secret.
    pub fn text(&self) -> String {
        let mut text = HEADER.to_owned();
        for secret in self.secrets() {
            text.push_str(&hex(&secret.0));
            text.push('\n');
        }
        text
    }

    /// A keyring with one new secret.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn generate() -> io::Result<Self> {
        random().map(Self::from_secret)
    }

    /// The key that signs.
    pub fn signing(&self) -> HttpKey {
        self.first.http()
    }

    /// The key with this id.
    pub fn http(&self, id: u32) -> Option<HttpKey> {
        self.secrets().map(Secret::http).find(|key| key.id == id)
    }

    /// Keys for probes, the signing one first.
    pub fn probe_keys(&self) -> Vec<ProbeKey> {
        self.secrets().map(Secret::probe).collect()
    }

    fn secrets(&self) -> impl Iterator<Item = &Secret> {
        std::iter::once(&self.first).chain(&self.second)
    }
}

/// Whether a file that its group may read is one of those that the kubelet makes of a Secret for a pod with an `fsGroup`: root's, readable by
/// one group that only this pod is in.
fn is_ours_by_group(metadata: &fs::Metadata, mode: u32) -> bool {
    let group = metadata.gid();
    let ours = || nix::unistd::getgroups().is_ok_and(|groups| groups.iter().any(|known| known.as_raw() == group));
    mode & 0o037 == 0 && metadata.uid() == 0 && group != 0 && (nix::unistd::getegid().as_raw() == group || ours())
}

/// Random bytes from the kernel.
///
/// # Errors
/// The kernel has none (it does not happen after early boot).
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

impl Secret {
    fn id(&self) -> u32 {
        let [a, b, c, d, ..] = self.derive(b"dataplane-verifier key id");
        u32::from_be_bytes([a, b, c, d])
    }

    fn http(&self) -> HttpKey {
        HttpKey {
            id: self.id(),
            secret: self.derive(b"dataplane-verifier http"),
        }
    }

    fn probe(&self) -> ProbeKey {
        let mut secret = [0; 16];
        secret.copy_from_slice(&self.derive(b"dataplane-verifier probe")[..16]);
        ProbeKey { id: self.id(), secret }
    }

    fn derive(&self, purpose: &[u8]) -> [u8; 32] {
        let mut block = [0; 64];
        block[..self.0.len()].copy_from_slice(&self.0);
        let mut mac = Hmac::<Sha256>::new(&block.into());
        mac.update(purpose);
        mac.finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// A directory of its own that is removed at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("verifier-keys-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("key")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn what_is_created_can_be_read_and_is_not_overwritten() {
        let scratch = Scratch::new("create");
        let made = Keyring::create(&scratch.file()).unwrap();
        assert_eq!(Keyring::read(&scratch.file()).unwrap(), made);
        assert!(matches!(Keyring::create(&scratch.file()), Err(KeyError::Exists { .. })));
    }

    #[test]
    fn a_missing_file_says_how_to_make_one() {
        let error = Keyring::read(Path::new("/nonexistent/key")).unwrap_err().to_string();
        assert!(error.contains("verifier keygen /nonexistent/key"), "{error}");
        assert!(!error.contains('\n'));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let scratch = Scratch::new("open");
        Keyring::create(&scratch.file()).unwrap();
        fs::set_permissions(scratch.file(), fs::Permissions::from_mode(0o640)).unwrap();
        let error = Keyring::read(&scratch.file()).unwrap_err().to_string();
        assert!(error.contains("mode 0640") && error.contains("chmod 0600"), "{error}");
    }

    #[test]
    fn rotation_never_leaves_two_sides_without_a_common_key() {
        let path = Path::new("key");
        let one = Keyring::from_secret([1; 32]);
        let two = one.clone().add_key(path).unwrap();
        let three = two.clone().promote(path).unwrap();
        let four = three.clone().retire();
        for (old, new) in [(&one, &two), (&two, &three), (&three, &four)] {
            assert!(old.http(new.signing().id).is_some() || new.http(old.signing().id).is_some());
            assert_eq!(new.http(old.signing().id), Some(old.signing()));
        }
        assert_ne!(one.signing(), four.signing());
        assert!(two.add_key(path).is_err());
        assert!(one.promote(path).is_err());
    }

    #[test]
    fn malformed_files_are_told_with_the_line() {
        let parse = |text: &str| Keyring::parse(Path::new("key"), text).map_err(|error| error.to_string());
        assert!(parse("# nothing\n").unwrap_err().contains("0 keys"));
        assert!(parse("# a\nxyz\n").unwrap_err().contains("line 2"));
        let line = format!("{}\n", "ab".repeat(32));
        assert!(parse(&line.repeat(3)).unwrap_err().contains("3 keys"));
        assert!(parse(&line).is_ok());
    }

    #[test]
    fn nothing_prints_a_secret() {
        let keyring = Keyring::from_secret([0xab; 32]);
        let text = format!("{keyring:?} {:?} {:?}", keyring.signing(), keyring.probe_keys());
        assert!(!text.contains("abab") && !text.contains("171"), "{text}");
    }
}
