//! Which version a Go program is, from what the Go linker leaves in every executable (section `.go.buildinfo`; read by `go version -m`).
//! Calico's plugins and those of the CNI project are Go programs. Nothing is run, and what is no ELF file of this shape has no version.

use regex::Regex;
use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    sync::LazyLock,
};

/// Sections of an executable; the largest have some dozens.
const SECTIONS_MAX: u16 = 512;
/// More than any build information has.
const INFO_BYTES_MAX: u64 = 256 << 10;
/// What build information begins with.
const MAGIC: &[u8] = b"\xff Go buildinf:";
/// Flag of it: its texts stand right behind it (since Go 1.18).
const INLINE: u8 = 2;
/// Where they begin.
const TEXTS_AT: usize = 32;

/// `-X main.VERSION=v3.31.7` among the linker's flags.
static STAMP: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r#"-X[ =]['"\\]*[^\s=]*[vV](?:ersion|ERSION)=['"\\]*(v?\d[0-9A-Za-z.+_-]*)"#).ok() // a test compiles it
});

/// The version, if the file is a Go program that says one.
///
/// # Errors
/// It cannot be read.
pub fn version(file: &mut File) -> io::Result<Option<String>> {
    let Some(info) = section(file, b".go.buildinfo")? else {
        return Ok(None);
    };
    Ok(texts(&info).and_then(|text| of_text(&text)))
}

/// A section of a 64-bit little-endian ELF file.
fn section(file: &mut File, wanted: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let head = at(file, 0, 64)?;
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return Ok(None);
    }
    let (Some(table_at), Some(entry), Some(count), Some(names)) = (
        number(&head, 0x28, 8),
        number(&head, 0x3a, 2),
        number(&head, 0x3c, 2),
        number(&head, 0x3e, 2),
    ) else {
        return Ok(None);
    };
    if entry < 64 || count > u64::from(SECTIONS_MAX) {
        return Ok(None);
    }
    let table = at(file, table_at, entry * count)?;
    let place = |index: u64| {
        let base = usize::try_from(index * entry).ok()?; // an index of the table fits
        Some((number(&table, base + 24, 8)?, number(&table, base + 32, 8)?))
    };
    let Some((names_at, names_bytes)) = place(names) else {
        return Ok(None);
    };
    let names = at(file, names_at, names_bytes.min(INFO_BYTES_MAX))?;
    for index in 0..count {
        let name = usize::try_from(index * entry).ok().and_then(|base| number(&table, base, 4));
        let name = name.and_then(|name| names.get(usize::try_from(name).ok()?..));
        if name.is_some_and(|name| name.starts_with(wanted) && name.get(wanted.len()) == Some(&0)) {
            let Some((place_at, bytes)) = place(index) else { return Ok(None) };
            return at(file, place_at, bytes.min(INFO_BYTES_MAX)).map(Some);
        }
    }
    Ok(None)
}

/// Bytes at a place, as many as there are.
fn at(file: &mut File, place: u64, count: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(place))?;
    file.take(count.min(u64::from(SECTIONS_MAX) * 1024)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn number(bytes: &[u8], from: usize, width: usize) -> Option<u64> {
    let part = bytes.get(from..from.checked_add(width)?)?;
    Some(part.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte)))
}

/// The second text: the module, its dependencies and how it was built. The first is the version of Go.
fn texts(info: &[u8]) -> Option<String> {
    if !info.starts_with(MAGIC) || info.get(15)? & INLINE == 0 {
        return None;
    }
    let rest = info.get(TEXTS_AT..)?;
    let (go, from) = length(rest)?;
    let rest = rest.get(from.checked_add(go)?..)?;
    let (bytes, from) = length(rest)?;
    let text = rest.get(from..from.checked_add(bytes)?)?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// A varint and how long it is.
fn length(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0_usize;
    for (at, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, at + 1));
        }
    }
    None
}

/// What the linker was told to stamp, else the module's version, else the commit.
fn of_text(text: &str) -> Option<String> {
    let field = |line: &str| text.lines().find_map(|all| all.strip_prefix(line)).map(str::to_owned);
    if let Some(flags) = field("build\t-ldflags=")
        && let Some(found) = STAMP.as_ref().and_then(|stamp| stamp.captures(&flags))
    {
        return found.get(1).map(|version| version.as_str().to_owned());
    }
    let module = field("mod\t").and_then(|module| module.split('\t').nth(1).map(str::to_owned));
    let commit = || Some(format!("commit {}", field("build\tvcs.revision=")?.get(..12)?));
    module.filter(|version| !version.is_empty() && version != "(devel)").or_else(commit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{path::PathBuf, process::Command};

    #[test]
    fn what_a_linker_was_told() {
        for (flags, version) in [
            ("build\t-ldflags=\"-s -w -X main.VERSION=v3.31.7\"", Some("v3.31.7")),
            ("build\t-ldflags=-X github.com/x/buildversion.BuildVersion=v1.7.1", Some("v1.7.1")),
            (
                "build\t-ldflags=\"-X 'main.Version=3.30.0-0.dev-12-gabc'\"",
                Some("3.30.0-0.dev-12-gabc"),
            ),
            ("mod\tgithub.com/x/y\tv1.2.3\th1:x", Some("v1.2.3")),
            (
                "mod\tx\t(devel)\t\nbuild\tvcs.revision=4cb5f0764b8d5f425645",
                Some("commit 4cb5f0764b8d"),
            ),
            ("mod\tx\t(devel)\t", None),
        ] {
            assert_eq!(of_text(flags).as_deref(), version, "{flags}");
        }
    }

    #[test]
    fn bytes_of_any_kind_are_no_version_and_no_panic() {
        let mut info = MAGIC.to_vec();
        info.extend_from_slice(&[8, INLINE]);
        info.resize(TEXTS_AT, 0);
        for tail in [&b""[..], b"\xff\xff\xff\xff\xff", b"\x02go\xff\xff\xff\x7f", b"\x02go"] {
            let mut all = info.clone();
            all.extend_from_slice(tail);
            assert_eq!(texts(&all), None);
        }
        let path = scratch("bytes");
        for head in [&b""[..], b"\x7fELF\x02\x01", &[0x7f, b'E', b'L', b'F', 2, 1, 255, 255]] {
            let mut bytes = head.to_vec();
            bytes.resize(64, 0xff);
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(version(&mut File::open(&path).unwrap()).unwrap(), None);
        }
        std::fs::remove_file(path).unwrap();
    }

    /// Anchored by a program that a real linker made.
    #[test]
    fn a_real_program_says_its_version() {
        let directory = scratch("go");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(
            directory.join("main.go"),
            "package main\nvar VERSION string\nfunc main() { println(VERSION) }\n",
        )
        .unwrap();
        let built = Command::new("go")
            .args(["build", "-o", "calico", "-ldflags", "-s -w -X main.VERSION=v3.31.7", "main.go"])
            .current_dir(&directory)
            .env("GOFLAGS", "-mod=mod")
            .env("CGO_ENABLED", "0")
            .env("GOTOOLCHAIN", "local")
            .output();
        match built {
            Ok(output) if output.status.success() => {
                let mut file = File::open(directory.join("calico")).unwrap();
                assert_eq!(version(&mut file).unwrap().as_deref(), Some("v3.31.7"));
            }
            Ok(output) => println!("skipped: go cannot build here: {}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => println!("skipped: there is no go ({error})"),
        }
        std::fs::remove_dir_all(directory).unwrap();
    }

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("gobuild-{name}-{}", std::process::id()))
    }
}
