//! Reads an archive as an engine does: every blob is what its digest says, every size is true, and the layer is what the configuration names.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use flate2::read::GzDecoder;
use serde_json::Value;

use super::archive::digest;

/// What was found.
#[derive(Debug)]
pub(super) struct Found {
    /// `sha256:…` of the manifest: by this an image is named for good.
    pub(super) digest: String,
    /// What is started.
    pub(super) entrypoint: Vec<String>,
    /// The layer, no longer compressed.
    pub(super) layer: Vec<u8>,
}

/// Reads an archive.
pub(super) fn read(bytes: &[u8]) -> Result<Found> {
    let files = files(bytes)?;
    let layout = json(&files, "oci-layout")?;
    ensure!(layout["imageLayoutVersion"] == "1.0.0", "oci-layout says {layout}");
    let index = json(&files, "index.json")?;
    let [entry] = list(&index["manifests"])? else {
        bail!("index.json does not name one manifest");
    };
    ensure!(entry["platform"]["os"] == "linux", "it is not for Linux: {entry}");
    let manifest = parsed(blob(&files, entry)?)?;
    let config = parsed(blob(&files, &manifest["config"])?)?;
    let [described] = list(&manifest["layers"])? else {
        bail!("the manifest does not name one layer");
    };
    let mut layer = Vec::new();
    GzDecoder::new(blob(&files, described)?)
        .read_to_end(&mut layer)
        .context("decompressing the layer")?;
    let [diff_id] = list(&config["rootfs"]["diff_ids"])? else {
        bail!("the configuration does not name one layer");
    };
    ensure!(
        *diff_id == format!("sha256:{}", digest(&layer)),
        "the layer is not the one that the configuration names"
    );
    let words = list(&config["config"]["Entrypoint"])?.iter();
    Ok(Found {
        digest: text(&entry["digest"])?.to_owned(),
        entrypoint: words.map(|word| text(word).map(str::to_owned)).collect::<Result<_>>()?,
        layer,
    })
}

/// Unpacks the layer below a directory.
pub(super) fn unpack(found: &Found, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    let mut archive = tar::Archive::new(found.layer.as_slice());
    archive.unpack(to).with_context(|| format!("unpacking to {}", to.display()))
}

/// Whether an ELF program names a loader: the program header PT_INTERP.
pub(super) fn needs_a_loader(elf: &[u8]) -> bool {
    const INTERPRETER: u32 = 3;
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let field = elf.get(at..at.checked_add(bytes)?)?;
        Some(field.iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte)))
    };
    let header = || Some((number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?));
    let Some((table, size, count)) = header() else { return false };
    let kinds = (0..count).filter_map(|i| number(table.checked_add(i.checked_mul(size)?)?, 4));
    kinds.into_iter().any(|kind| kind == INTERPRETER as usize)
}

fn files(bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut archive = tar::Archive::new(bytes);
    for entry in archive.entries().context("reading an archive")? {
        let mut entry = entry.context("reading an archive")?;
        let path = entry.path().context("reading a name")?.to_string_lossy().into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).with_context(|| format!("reading {path}"))?;
        found.insert(path, content);
    }
    Ok(found)
}

/// A blob that is described somewhere, if it is what its description says.
fn blob<'f>(files: &'f BTreeMap<String, Vec<u8>>, described: &Value) -> Result<&'f [u8]> {
    let name = text(&described["digest"])?;
    let hex = name.strip_prefix("sha256:").with_context(|| format!("{name} is no SHA-256"))?;
    let bytes = files
        .get(&format!("blobs/sha256/{hex}"))
        .with_context(|| format!("there is no blob {name}"))?;
    ensure!(digest(bytes) == hex, "the blob {name} has another digest");
    ensure!(described["size"] == bytes.len(), "the blob {name} has another size");
    Ok(bytes)
}

fn json(files: &BTreeMap<String, Vec<u8>>, name: &str) -> Result<Value> {
    parsed(files.get(name).with_context(|| format!("there is no {name}"))?)
}

fn parsed(bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).context("reading JSON")
}

fn list(value: &Value) -> Result<&[Value]> {
    value.as_array().map(Vec::as_slice).with_context(|| format!("{value} is no list"))
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("{value} is no text"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::archive::{Image, pack};
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    const SCRIPT: &[u8] = b"#!/bin/sh\necho $1\n";

    fn image(program: &[u8]) -> Vec<u8> {
        pack(&Image {
            name: "some-name",
            version: "1.2.3",
            architecture: "amd64",
            program: ("program", program),
            user: "65532:65532",
        })
        .unwrap()
    }

    #[test]
    fn what_was_packed_is_read_unpacked_and_run() {
        let found = read(&image(SCRIPT)).unwrap();
        assert_eq!(found.entrypoint, ["/program"]);
        assert!(found.digest.starts_with("sha256:"));
        let to = std::env::temp_dir().join(format!("verifier-image-{}", std::process::id()));
        unpack(&found, &to).unwrap();
        let program = to.join("program");
        assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o777, 0o755);
        let said = Command::new(&program).arg("runs").output().unwrap();
        fs::remove_dir_all(&to).unwrap();
        assert_eq!(said.stdout, b"runs\n");
    }

    #[test]
    fn the_same_program_gives_the_same_bytes_and_another_one_others() {
        assert!(image(SCRIPT) == image(SCRIPT));
        assert_ne!(read(&image(SCRIPT)).unwrap().digest, read(&image(b"x")).unwrap().digest);
    }

    #[test]
    fn a_bit_that_tipped_over_is_noticed_wherever_it_lies() {
        let good = image(SCRIPT);
        let files = files(&good).unwrap();
        for (name, content) in files
            .iter()
            .filter(|(name, _)| name.starts_with("blobs/sha256/") && name.len() > 20)
        {
            let at = good.windows(content.len()).position(|window| window == content.as_slice()).unwrap();
            let mut bad = good.clone();
            bad[at + content.len() / 2] ^= 1;
            assert!(read(&bad).is_err(), "{name}");
        }
        assert!(read(b"no archive").is_err());
    }

    #[test]
    fn a_program_that_names_a_loader_is_not_static() {
        // This test is an ordinary program of this machine.
        let this = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(needs_a_loader(&this));
        assert!(!needs_a_loader(SCRIPT));
        assert!(!needs_a_loader(&this[..70]), "a header that promises more than there is");
    }
}
