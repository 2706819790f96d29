//! The bytes of an image, after the OCI image specification: a tar with `oci-layout`, `index.json`, and blobs by their digests. No clock, no
//! name of this machine and no order of a directory is in it.

use std::io::Write;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// What an image is of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Image<'a> {
    pub(super) name: &'a str,
    pub(super) version: &'a str,
    /// `amd64`, `arm64`.
    pub(super) architecture: &'a str,
    /// Name at the root, and bytes.
    pub(super) program: (&'a str, &'a [u8]),
    pub(super) user: &'a str,
}

/// A blob with its digest.
struct Blob {
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        Self {
            digest: digest(&bytes),
            bytes,
        }
    }

    fn json(value: &Value) -> Result<Self> {
        Ok(Self::new(serde_json::to_vec(value).context("writing JSON")?))
    }

    fn described(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": format!("sha256:{}", self.digest), "size": self.bytes.len() })
    }
}

/// SHA-256, in hexadecimal.
pub(super) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The archive.
pub(super) fn pack(image: &Image<'_>) -> Result<Vec<u8>> {
    let tar = layer(image)?;
    let config = Blob::json(&config(image, &digest(&tar)))?;
    let layer = Blob::new(compressed(&tar)?);
    let manifest = Blob::json(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.described("application/vnd.oci.image.config.v1+json"),
        "layers": [ layer.described("application/vnd.oci.image.layer.v1.tar+gzip") ],
    }))?;
    let mut entry = manifest.described("application/vnd.oci.image.manifest.v1+json");
    entry["platform"] = json!({ "architecture": image.architecture, "os": "linux" });
    // The first is for skopeo and podman, the second for containerd.
    entry["annotations"] = json!({
        "org.opencontainers.image.ref.name": image.version,
        "io.containerd.image.name": format!("docker.io/library/{}:{}", image.name, image.version),
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [ entry ],
    });
    let mut blobs = [config, layer, manifest];
    blobs.sort_by(|a, b| a.digest.cmp(&b.digest));
    let mut tar = Builder::new(Vec::new());
    file(&mut tar, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    file(&mut tar, "index.json", 0o644, &serde_json::to_vec(&index).context("writing JSON")?)?;
    directory(&mut tar, "blobs/")?;
    directory(&mut tar, "blobs/sha256/")?;
    for blob in &blobs {
        file(&mut tar, &format!("blobs/sha256/{}", blob.digest), 0o644, &blob.bytes)?;
    }
    tar.into_inner().context("ending an archive")
}

fn layer(image: &Image<'_>) -> Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    file(&mut tar, image.program.0, 0o755, image.program.1)?;
    tar.into_inner().context("ending a layer")
}

fn config(image: &Image<'_>, diff_id: &str) -> Value {
    json!({
        "architecture": image.architecture,
        "os": "linux",
        "config": {
            "User": image.user,
            "Entrypoint": [ format!("/{}", image.program.0) ],
            "WorkingDir": "/",
            "Labels": {
                "org.opencontainers.image.title": image.name,
                "org.opencontainers.image.version": image.version,
                "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
            },
        },
        "rootfs": { "type": "layers", "diff_ids": [ format!("sha256:{diff_id}") ] },
        "history": [ { "created_by": "cargo xtask image" } ],
    })
}

fn compressed(bytes: &[u8]) -> Result<Vec<u8>> {
    // Neither time nor name stands in the header.
    let mut writer = GzBuilder::new().write(Vec::new(), Compression::new(6));
    writer.write_all(bytes).context("compressing a layer")?;
    writer.finish().context("compressing a layer")
}

fn file(tar: &mut Builder<Vec<u8>>, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    entry(tar, path, EntryType::Regular, mode, bytes)
}

fn directory(tar: &mut Builder<Vec<u8>>, path: &str) -> Result<()> {
    entry(tar, path, EntryType::Directory, 0o755, &[])
}

fn entry(tar: &mut Builder<Vec<u8>>, path: &str, kind: EntryType, mode: u32, bytes: &[u8]) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, path, bytes).with_context(|| format!("packing {path}"))
}
