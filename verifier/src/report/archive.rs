//! The archive of `verifier gather`: a `tar.gz` with a manifest, bounded in size, and a filter that no secret in a log passes.
//!
//! What is typed (snapshot, host account, report) cannot hold a secret: its types have no field for one. Logs are text, so they go through
//! [`redacted`], line by line.

use anyhow::Context as _;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use regex::Regex;
use serde::Serialize;
use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read, Write as _},
    path::Path,
    sync::LazyLock,
};

/// Name of the snapshot inside.
pub const SNAPSHOT: &str = "snapshot.json";
/// Name of the manifest inside.
pub const MANIFEST: &str = "manifest.json";
/// Schema of the manifest.
pub const SCHEMA: &str = "dataplane-verifier/gather/v1";
/// A snapshot of thousands of nodes is not larger; whatever is, is no snapshot.
const SNAPSHOT_BYTES_MAX: u64 = 4 << 30;

/// One file of the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Name in the archive.
    pub name: String,
    /// Size before compression.
    pub bytes: u64,
    /// What it is.
    pub what: String,
    /// Lines in which something was blotted out.
    pub redacted_lines: u64,
}

/// Something that is not in the archive, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
}

/// What is in the archive, and what is not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Manifest {
    /// [`SCHEMA`].
    pub schema: String,
    /// Version of the program.
    pub version: String,
    /// When, RFC 3339.
    pub taken_at: String,
    /// Files.
    pub entries: Vec<Entry>,
    /// What could not be had.
    pub missing: Vec<Missing>,
    /// What this program did not try to take along.
    pub not_tried: Vec<Missing>,
}

/// An archive being written. It appears under its name only when it is whole.
pub struct Archive {
    tar: tar::Builder<GzEncoder<File>>,
    manifest: Manifest,
    seconds: u64,
    room: u64,
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archive")
            .field("manifest", &self.manifest)
            .field("room", &self.room)
            .finish_non_exhaustive()
    }
}

impl Archive {
    /// Begins one at `path`. `room` bytes may go in before compression; `seconds` since 1970 is every file's time.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &Path, manifest: Manifest, seconds: u64, room: u64) -> io::Result<Self> {
        let file = File::create(path)?;
        Ok(Self {
            tar: tar::Builder::new(GzEncoder::new(file, Compression::default())),
            manifest,
            seconds,
            room,
        })
    }

    /// Notes that something could not be had.
    pub fn missing(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.manifest.missing.push(Missing {
            what: what.into(),
            why: why.into(),
        });
    }

    /// Notes what is not tried, so that nobody takes its absence for a healthy cluster.
    pub fn not_tried(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.manifest.not_tried.push(Missing {
            what: what.into(),
            why: why.into(),
        });
    }

    /// Adds a file; one for which there is no room is noted as missing.
    ///
    /// # Errors
    /// The archive cannot be written.
    pub fn add(&mut self, name: &str, what: &str, text: &[u8]) -> io::Result<()> {
        self.add_redacted(name, what, text, 0)
    }

    fn add_redacted(&mut self, name: &str, what: &str, text: &[u8], redacted_lines: u64) -> io::Result<()> {
        let bytes = text.len() as u64;
        if bytes > self.room {
            self.missing(
                name,
                format!("{bytes} bytes do not fit into what is left of the size bound: raise --max-mib"),
            );
            return Ok(());
        }
        self.room -= bytes;
        self.append(name, text)?;
        self.manifest.entries.push(Entry {
            name: name.to_owned(),
            bytes,
            what: what.to_owned(),
            redacted_lines,
        });
        Ok(())
    }

    /// Adds the end of a log, filtered, as much of it as fits into a quarter of what is left. What does not is noted as missing: the newest
    /// lines are those that are wanted.
    ///
    /// # Errors
    /// The archive cannot be written.
    pub fn add_log(&mut self, name: &str, what: &str, input: &mut dyn Read) -> io::Result<()> {
        let most = usize::try_from(self.room / 4).unwrap_or(usize::MAX);
        let End { bytes, left_out, failed } = end_of(input, most);
        if let Some(error) = failed {
            self.missing(format!("the rest of {what}"), error.to_string());
        }
        if left_out > 0 {
            self.missing(
                what,
                format!("its first {left_out} bytes do not fit into a quarter of what is left of the size bound: raise --max-mib"),
            );
        }
        let mut out = String::with_capacity(bytes.len());
        let mut blotted = 0;
        let mut filter = Filter::default();
        for line in String::from_utf8_lossy(&bytes).lines() {
            let clean = filter.line(line);
            blotted += u64::from(clean != line);
            out.push_str(&clean);
            out.push('\n');
        }
        self.add_redacted(name, what, out.as_bytes(), blotted)
    }

    /// Writes the manifest and ends.
    ///
    /// # Errors
    /// The archive cannot be written.
    pub fn finish(mut self) -> io::Result<Manifest> {
        let text = serde_json::to_vec_pretty(&self.manifest)?;
        self.append(MANIFEST, &text)?;
        let mut file = self.tar.into_inner()?.finish()?;
        file.flush()?;
        file.sync_all()?;
        Ok(self.manifest)
    }

    fn append(&mut self, name: &str, text: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.seconds);
        header.set_cksum();
        self.tar.append_data(&mut header, name, text)
    }
}

/// The snapshot inside an archive, or compressed by itself; the bytes themselves if they are neither.
///
/// # Errors
/// It is an archive, and damaged or without a snapshot.
pub fn snapshot_in(bytes: &[u8]) -> anyhow::Result<Result<Vec<u8>, Vec<u8>>> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(Err(bytes.to_vec()));
    }
    // A snapshot that was compressed by itself begins as JSON does, which no tar can.
    let mut start = [0; 1];
    GzDecoder::new(bytes).read_exact(&mut start).context("it is cut off")?;
    if start == *b"{" {
        return Ok(Ok(all_of(GzDecoder::new(bytes))?));
    }
    let mut archive = tar::Archive::new(GzDecoder::new(bytes));
    for entry in archive.entries().context("it is no tar.gz")? {
        let entry = entry.context("an entry is damaged")?;
        if entry.path().context("an entry has no name")? == Path::new(SNAPSHOT) {
            return Ok(Ok(all_of(entry)?));
        }
    }
    anyhow::bail!("it has no {SNAPSHOT}")
}

fn all_of(from: impl Read) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    from.take(SNAPSHOT_BYTES_MAX)
        .read_to_end(&mut text)
        .context("the snapshot in it is damaged")?;
    Ok(text)
}

/// A text, compressed. The same text gives the same bytes.
///
/// # Errors
/// The compressor's own; writing to memory has none.
pub fn compressed(text: &[u8]) -> io::Result<Vec<u8>> {
    let mut gz = GzEncoder::new(Vec::new(), Compression::best());
    gz.write_all(text)?;
    gz.finish()
}

/// The end of something that was read.
struct End {
    bytes: Vec<u8>,
    /// How many came before them.
    left_out: u64,
    /// Why reading stopped early, if it did.
    failed: Option<io::Error>,
}

/// The last `most` bytes, from the beginning of a line on. Memory is bounded, whatever is fed in.
fn end_of(input: &mut dyn Read, most: usize) -> End {
    let mut end: VecDeque<u8> = VecDeque::new();
    let mut left_out = 0_u64;
    let mut buffer = vec![0; 64 << 10];
    let failed = loop {
        let read = match input.read(&mut buffer) {
            Ok(0) => break None,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => break Some(error),
        };
        end.extend(buffer.iter().take(read));
        let over = end.len().saturating_sub(most);
        end.drain(..over);
        left_out += over as u64;
    };
    if left_out > 0 {
        // Half a line could be half a secret, which no filter knows.
        let half = end.iter().position(|byte| *byte == b'\n').map_or(end.len(), |at| at + 1);
        end.drain(..half);
        left_out += half as u64;
    }
    End {
        bytes: Vec::from(end),
        left_out,
        failed,
    }
}

/// Values that must not leave a cluster: JSON web tokens, bearer tokens, passwords and keys by their names (in JSON too, and in JSON that
/// stands quoted in a log), private keys, credentials in addresses.
static SECRETS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"eyJ[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]*){0,2}",
        r#"|(?i:(bearer|basic)\s+)[A-Za-z0-9+/=._~-]{8,}"#,
        r#"|(?i:(password|passwd|passphrase|pwd|token|secret([_-]?access)?([_-]?key)?|credentials?|api[_-]?key|access[_-]?key|private[_-]?key|encryption[_-]?key|client-key-data|client-certificate-data)(\\*["'])?\s*[:=]\s*)(\\+"[^"]*"|"[^"]*"|'[^']*'|[^\s,;&]+)"#,
        r#"|(?i:--[a-z-]*(password|token|secret)\s+)\S+"#,
        r#"|(?i:(\\*")auth(\\*")\s*:\s*)\\*"[^"]*""#,
        r"|://[^/\s:@]+:[^/\s@]+@",
        r"|-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*)",
    ))
    .ok() // a test compiles it
});

/// A line without what must not leave the cluster. Without its filter nothing passes at all. What spans lines is [`Filter`]'s.
pub fn redacted(line: &str) -> String {
    match SECRETS.as_ref() {
        Some(secrets) => secrets.replace_all(line, "[redacted]").into_owned(),
        None => "[redacted: the filter is broken]".to_owned(),
    }
}

/// [`redacted`], line by line, which remembers that it is inside a private key.
#[derive(Debug, Default)]
struct Filter {
    /// Lines that may still belong to a key.
    in_key: u32,
}

/// No private key has more lines; one whose end was lost must not swallow the rest of a log.
const KEY_LINES_MAX: u32 = 120;

impl Filter {
    fn line(&mut self, line: &str) -> String {
        let ends = line.contains("-----END ") && line.contains("PRIVATE KEY-----");
        let inside = self.in_key > 0;
        if ends {
            self.in_key = 0;
        } else if line.contains("-----BEGIN ") && line.contains("PRIVATE KEY-----") {
            self.in_key = KEY_LINES_MAX;
        } else {
            self.in_key = self.in_key.saturating_sub(1);
        }
        if inside { "[redacted]".to_owned() } else { redacted(line) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_passes() {
        for (line, secret) in [
            ("Authorization: Bearer abcdef0123456789", "abcdef0123456789"),
            ("token: eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln", "eyJ"),
            ("got eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl back", "c2lnbmF0dXJl"),
            (r#"{"password":"hunter2 and more","a":1}"#, "hunter2"),
            ("bgp password=hunter2 peer=10.0.0.1", "hunter2"),
            ("etcd at https://user:hunter2@10.0.0.1:2379", "hunter2"),
            ("client-key-data: LS0tLS1CRUdJTi", "LS0tLS1CRUdJTi"),
            ("-----BEGIN RSA PRIVATE KEY-----MIIE", "MIIE"),
            ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n", "MIIE"),
            (r#"msg="request {\"password\":\"hunter2\",\"a\":1}""#, "hunter2"),
            (r#"{\\"token\\": \\"hunter2 x\\"}"#, "hunter2"),
            ("AWS_SECRET_ACCESS_KEY=hunter2", "hunter2"),
            ("aws_secret_access_key: hunter2", "hunter2"),
            ("PGPASSWORD=hunter2", "hunter2"),
            ("run --token hunter2 --verbose", "hunter2"),
            (r#"{"auths":{"r.io":{"auth":"aHVudGVyMg=="}}}"#, "aHVudGVyMg"),
            ("kubeadm join --discovery-token hunter2", "hunter2"),
            ("encryptionKey: hunter2", "hunter2"),
        ] {
            let clean = redacted(line);
            assert!(!clean.contains(secret), "{clean}");
        }
        for line in [
            "2026-11-20 [INFO] felix/x.go: route 10.244.1.0/26 via 10.0.0.1",
            "error: connection is unauthorized",
            "secrets \"bgp-secrets\" is forbidden: User \"x\" cannot get resource",
            "the token of calico-node was refreshed",
            "-----BEGIN CERTIFICATE-----",
        ] {
            assert_eq!(redacted(line), line);
        }
    }

    #[test]
    fn an_archive_is_bounded_and_says_what_is_missing() {
        let path = std::env::temp_dir().join(format!("gather-{}.tar.gz", std::process::id()));
        let mut archive = Archive::create(&path, Manifest::default(), 1_800_000_000, 1000).unwrap();
        archive.add(SNAPSHOT, "the snapshot", b"{\"a\":1}").unwrap();
        archive.add("big", "too big", &[b'x'; 2000]).unwrap();
        archive.add_log("logs/a", "a log", &mut &b"password=hunter2\nfine\n"[..]).unwrap();
        archive.missing("logs/b", "permission denied");
        let manifest = archive.finish().unwrap();
        assert_eq!(manifest.entries.iter().map(|e| e.redacted_lines).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(
            manifest.missing.iter().map(|m| m.what.as_str()).collect::<Vec<_>>(),
            ["big", "logs/b"]
        );
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(snapshot_in(&bytes).unwrap().unwrap(), b"{\"a\":1}");
        assert!(snapshot_in(&bytes[..20]).is_err());
        assert_eq!(snapshot_in(b"{}").unwrap().unwrap_err(), b"{}");
        let alone = compressed(b"{\"b\":2}").unwrap();
        assert_eq!(snapshot_in(&alone).unwrap().unwrap(), b"{\"b\":2}");
        for cut in 2..alone.len() {
            assert!(snapshot_in(&alone[..cut]).is_err(), "cut to {cut} bytes");
        }
        std::fs::remove_file(path).unwrap();
    }
    #[test]
    fn a_private_key_over_many_lines_does_not_pass_and_the_rest_does() {
        let mut filter = Filter::default();
        let key = [
            "-----BEGIN EC PRIVATE KEY-----",
            "MHcCAQEEIB",
            "oWQDQgAE==",
            "-----END EC PRIVATE KEY-----",
        ];
        for line in key {
            assert_eq!(filter.line(line), "[redacted]");
        }
        assert_eq!(filter.line("fine"), "fine");
        // The end is missing: not the whole log is lost.
        filter.line(key[0]);
        let passed = (0..2 * KEY_LINES_MAX).filter(|_| filter.line("fine") == "fine").count();
        assert_eq!(passed, KEY_LINES_MAX as usize);
    }

    #[test]
    fn of_a_log_that_does_not_fit_the_end_is_taken_and_the_rest_is_named() {
        let path = std::env::temp_dir().join(format!("gather-end-{}.tar.gz", std::process::id()));
        let mut archive = Archive::create(&path, Manifest::default(), 1_800_000_000, 400).unwrap();
        let lines: String = (0..100).map(|i| format!("line {i}\n")).collect();
        archive.add_log("logs/a", "a log", &mut lines.as_bytes()).unwrap();
        let manifest = archive.finish().unwrap();
        assert!(manifest.entries[0].bytes <= 100);
        assert!(
            manifest.missing[0].what == "a log" && manifest.missing[0].why.contains("its first"),
            "{manifest:?}"
        );
        let file = File::open(&path).unwrap();
        let mut archive = tar::Archive::new(GzDecoder::new(file));
        let mut text = String::new();
        archive
            .entries()
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert!(text.starts_with("line ") && text.ends_with("line 99\n"), "{text}");
        std::fs::remove_file(path).unwrap();
    }
}
