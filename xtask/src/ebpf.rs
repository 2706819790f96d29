//! Builds the eBPF object from source: `verifier-ebpf`'s programs for `bpfel-unknown-none`, to `target/bpf/verifier-ebpf.o`.
//!
//! `verifier`'s build script embeds that file. It is replaced only when its bytes change, so that a build without a
//! change in the programs recompiles nothing above them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::toolchain;

const TARGET: &str = "bpfel-unknown-none";
const NAME: &str = "verifier-ebpf";

/// Where the object is left, and where `verifier/build.rs` looks for it.
pub fn object_path(root: &Path) -> PathBuf {
    root.join("target/bpf").join(format!("{NAME}.o"))
}

/// Sets up the toolchain, builds the programs and returns the path of the object.
pub fn build(root: &Path) -> Result<PathBuf> {
    let tools = toolchain::ensure(root)?;
    let target_dir = root.join("target/ebpf");
    // Debug information becomes the object's BTF (`--btf`); the kernel wants it for the maps and for its log.
    let rustflags = [
        "-Cdebuginfo=2".to_owned(),
        format!("-Clinker={}", tools.bpf_linker.display()),
        "-Clink-arg=--btf".to_owned(),
        // 32-bit arithmetic and jumps: every kernel with a ring buffer has them.
        "-Ctarget-cpu=v3".to_owned(),
    ]
    .join("\u{1f}");
    toolchain::run(
        toolchain::tool("cargo", root)
            .args([
                "build",
                "--quiet",
                "--release",
                "--package",
                NAME,
                "--bin",
                NAME,
                "--features",
                "programs",
            ])
            .args(["-Zbuild-std=core", "--target", TARGET, "--target-dir"])
            .arg(&target_dir)
            // Stable rustc with the one unstable cargo feature that builds `core`: no nightly has to be installed.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", rustflags),
    )
    .context("the eBPF programs do not build")?;
    let built = target_dir.join(TARGET).join("release").join(NAME);
    let object = object_path(root);
    install(&built, &object)?;
    Ok(object)
}

/// Copies when the bytes differ; through a rename, so that nobody reads half an object.
fn install(built: &Path, object: &Path) -> Result<()> {
    let bytes = fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    if fs::read(object).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let dir = object.parent().context("the object has no directory")?;
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let partial = object.with_extension("o.partial");
    fs::write(&partial, &bytes).with_context(|| format!("cannot write {}", partial.display()))?;
    fs::rename(&partial, object).with_context(|| format!("cannot replace {}", object.display()))
}
