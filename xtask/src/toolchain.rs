//! What the eBPF object needs beyond stable rustc, set up without asking anybody.
//!
//! Two things are missing from a plain toolchain: `bpf-linker`, which turns LLVM bitcode into one eBPF object, and the
//! source of `core`, because nobody ships a compiled `core` for `bpfel-unknown-none`. [`ensure`] finds or fetches both:
//! * `bpf-linker` is built by `cargo install` into `target/tools`, against rustc's own LLVM, so that no LLVM has to be installed;
//! * the source comes from where rustup put it, else from `rustup component add`, else from Debian's `rust-src` package
//!   of exactly rustc's version. A Debian release carries an older Rust than we need, so suites beside the configured
//!   ones are tried on the configured mirror ([`crate::apt`]).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::apt::{self, Apt};

/// The last bpf-linker that links against rustc's LLVM; newer ones want an LLVM of their own.
const BPF_LINKER_VERSION: &str = "0.10.4";

/// Debian suites that may carry a newer Rust than the configured one, most conservative first.
const DEBIAN_SUITES: [&str; 4] = ["trixie-backports", "forky", "forky-backports", "sid"];

/// Everything [`crate::ebpf::build`] needs to know of the toolchain.
#[derive(Debug, Clone)]
pub struct Toolchain {
    /// Absolute path of `bpf-linker`.
    pub bpf_linker: PathBuf,
}

/// Finds the tools, and installs what is missing below `root/target`.
pub fn ensure(root: &Path) -> Result<Toolchain> {
    let rustc = Rustc::query(root)?;
    let bpf_linker = ensure_bpf_linker(root, &rustc)?;
    ensure_rust_src(root, &rustc)?;
    Ok(Toolchain { bpf_linker })
}

/// What `rustc` says of itself.
struct Rustc {
    release: String,
    llvm_major: u32,
    sysroot: PathBuf,
}

impl Rustc {
    fn query(root: &Path) -> Result<Self> {
        let verbose = output(tool("rustc", root).arg("-vV"))?;
        let field = |name: &str| {
            verbose
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(|value| value.trim().to_owned())
                .with_context(|| format!("rustc -vV does not say `{name}`"))
        };
        let llvm = field("LLVM version:")?;
        let llvm_major = llvm.split('.').next().unwrap_or_default();
        Ok(Self {
            release: field("release:")?,
            llvm_major: llvm_major.parse().with_context(|| format!("LLVM version {llvm:?} has no number"))?,
            sysroot: PathBuf::from(output(tool("rustc", root).args(["--print", "sysroot"]))?.trim()),
        })
    }
}

fn ensure_bpf_linker(root: &Path, rustc: &Rustc) -> Result<PathBuf> {
    let prefix = root.join("target").join("tools");
    let binary = prefix.join("bin").join("bpf-linker");
    if let Ok(version) = output(Command::new(&binary).arg("--version"))
        && version.split_whitespace().any(|word| word == BPF_LINKER_VERSION)
    {
        return Ok(binary);
    }
    eprintln!("xtask: building bpf-linker {BPF_LINKER_VERSION} into target/tools (once, about a minute)");
    let llvm = format!("rust-llvm-{}", rustc.llvm_major);
    run(tool("cargo", root)
        .args(["install", "bpf-linker", "--locked", "--force", "--version", BPF_LINKER_VERSION])
        .args(["--no-default-features", "--features", &llvm, "--root"])
        .arg(&prefix))
    .context("bpf-linker could not be installed; remedy: a crates.io registry that cargo can reach, and a C compiler")?;
    ensure!(
        binary.is_file(),
        "cargo install reported success but {} is not there",
        binary.display()
    );
    Ok(binary)
}

/// Where cargo's `-Z build-std` looks.
fn rust_src_link(rustc: &Rustc) -> PathBuf {
    rustc.sysroot.join("lib/rustlib/src/rust")
}

fn has_core_source(source: &Path) -> bool {
    source.join("library/core/Cargo.toml").is_file() && source.join("library/Cargo.lock").is_file()
}

fn ensure_rust_src(root: &Path, rustc: &Rustc) -> Result<()> {
    let link = rust_src_link(rustc);
    if has_core_source(&link) {
        return Ok(());
    }
    eprintln!("xtask: the standard library's source is missing, asking rustup for it");
    let by_rustup = match run(tool("rustup", root).args(["component", "add", "rust-src"])) {
        Ok(()) if has_core_source(&link) => return Ok(()),
        Ok(()) => "rustup reported success but the source is not in the sysroot".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    eprintln!("xtask: rustup cannot ({by_rustup}); trying Debian's rust-src {}", rustc.release);
    let source = debian_rust_src(root, &rustc.release).with_context(|| {
        format!(
            "the standard library's source for rustc {} is missing; remedy: `rustup component add rust-src`",
            rustc.release
        )
    })?;
    link_into_sysroot(&source, &link)
}

/// Points `link` at `source`, replacing only a link that leads nowhere: never a directory somebody filled.
fn link_into_sysroot(source: &Path, link: &Path) -> Result<()> {
    if let Some(parent) = link.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    }
    match fs::symlink_metadata(link) {
        Ok(meta) if meta.is_symlink() => {
            fs::remove_file(link).with_context(|| format!("cannot remove the stale link {}", link.display()))?;
        }
        Ok(_) => bail!("{} exists without core's source in it; remedy: remove it", link.display()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot look at {}", link.display()));
        }
    }
    std::os::unix::fs::symlink(source, link).with_context(|| format!("cannot link {} to {}", link.display(), source.display()))
}

/// Downloads and unpacks Debian's package of exactly this version; returns the directory that holds `library/`.
fn debian_rust_src(root: &Path, release: &str) -> Result<PathBuf> {
    let dir = root.join("target/tools/rust-src");
    let source = dir.join("usr/src").join(format!("rustc-{release}"));
    if has_core_source(&source) {
        return Ok(source);
    }
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let package = download_package(&dir, release)?;
    run(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&dir))?;
    fs::remove_file(&package).with_context(|| format!("cannot remove {}", package.display()))?;
    ensure!(has_core_source(&source), "{} is not in Debian's package", source.display());
    Ok(source)
}

fn download_package(dir: &Path, release: &str) -> Result<PathBuf> {
    if let Ok(package) = download_rust_src(&Apt::system(), dir, release) {
        return Ok(package);
    }
    let sources = apt::configured_sources()?;
    let mut failures = Vec::new();
    for uri in &sources {
        for suite in DEBIAN_SUITES {
            let apt = Apt::private(&dir.join("apt"), uri, suite)?;
            match apt.update().and_then(|()| download_rust_src(&apt, dir, release)) {
                Ok(package) => return Ok(package),
                Err(error) => failures.push(format!("{suite}: {error:#}")),
            }
        }
    }
    bail!("no configured mirror has rust-src {release}: {}", failures.join("; "))
}

/// Downloads rust-src of this upstream release into `dir`.
fn download_rust_src(apt: &Apt, dir: &Path, release: &str) -> Result<PathBuf> {
    let version = apt
        .versions("rust-src")?
        .into_iter()
        .find(|version| upstream_release(version) == release)
        .with_context(|| format!("no rust-src {release}"))?;
    apt.download(dir, &format!("rust-src={version}"))
}

/// `1.95.0` of `1.95.0+dfsg1-1~bpo13+1`.
fn upstream_release(debian_version: &str) -> &str {
    debian_version.split(['+', '-', '~']).next().unwrap_or(debian_version)
}

/// A tool of the workspace's toolchain, without what the calling cargo put into the environment for its own build.
pub(crate) fn tool(program: &str, root: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root);
    for name in [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_TARGET_DIR",
        "RUSTC",
        "RUSTC_WRAPPER",
    ] {
        command.env_remove(name);
    }
    command
}

/// Runs to success and returns its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs to success; what it says is told only if it fails.
pub(crate) fn run_quietly(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs with our own standard error, so that a long build is seen; its standard output goes there too.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdout(std::io::stderr())
        .status()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?} failed ({status})");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_versions_are_cut_to_the_upstream_release() {
        assert_eq!(upstream_release("1.95.0+dfsg1-1~bpo13+1"), "1.95.0");
        assert_eq!(upstream_release("1.95.0-2"), "1.95.0");
        assert_eq!(upstream_release("1.95.0~beta.3-1"), "1.95.0");
    }

    #[test]
    fn a_filled_directory_is_never_replaced_by_a_link() {
        let dir = std::env::temp_dir().join(format!("dpv-xtask-{}", std::process::id()));
        let link = dir.join("src/rust");
        fs::create_dir_all(&link).unwrap();
        assert!(link_into_sysroot(Path::new("/nonexistent"), &link).is_err());
        fs::remove_dir(&link).unwrap();
        link_into_sysroot(Path::new("/nonexistent"), &link).unwrap();
        link_into_sysroot(&dir, &link).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), dir);
        fs::remove_dir_all(&dir).unwrap();
    }
}
