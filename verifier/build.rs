//! Embeds the eBPF object into the crate.
//!
//! The object is built by `cargo xtask build`; this script only copies it (never installs, never reaches the network).
//! Without it the crate still builds, so that everything which needs no kernel programs can be worked on, and loading
//! reports the missing object with its remedy.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use sha2::{Digest as _, Sha256};

fn main() -> io::Result<()> {
    let out_dir = PathBuf::from(required("OUT_DIR")?);
    println!("cargo::rerun-if-env-changed=VERIFIER_EBPF_OBJECT");
    let object = match env::var_os("VERIFIER_EBPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => Path::new(&required("CARGO_MANIFEST_DIR")?).join("../target/bpf/verifier-ebpf.o"),
    };
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = match fs::read(&object) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    fs::write(out_dir.join("verifier-ebpf.o"), &bytes)?;
    // Twelve digits, as git abbreviates: enough to tell two builds apart in `--version`.
    let hash = if bytes.is_empty() {
        "none".to_owned()
    } else {
        Sha256::digest(&bytes).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    };
    println!("cargo::rustc-env=VERIFIER_EBPF_HASH={hash}");
    Ok(())
}

fn required(name: &str) -> io::Result<String> {
    env::var(name).map_err(|error| io::Error::other(format!("{name}: {error}")))
}
