//! `cargo xtask image`: an OCI archive with the static program and nothing else, made without an engine.
//!
//! | file | does |
//! |---|---|
//! | this one | builds the program for musl, so that it needs nothing of the image, and puts it together |
//! | [`archive`] | the bytes of an image: layer, configuration, manifest, index. Same program, same bytes |
//! | [`check`] | reads an archive back, as an engine would, and trusts nothing that it does not find in it |
//!
//! `docker load`, `podman load`, `ctr images import` and `skopeo copy oci-archive:` take it.

mod archive;
mod check;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};

use crate::Outcome;
use crate::run::{build_ebpf, run_to_success};
use crate::toolchain;
use crate::workspace::{Workspace, cargo};
use archive::Image;

/// Where the program lies in the image.
const PROGRAM: &str = "verifier";
/// Nobody in particular: what the manifests of `deploy/` say too, where they do not say root.
const USER: &str = "65532:65532";

/// Builds the program and the archive, and proves that what is in the archive is the program.
pub(crate) fn run(workspace: &Workspace) -> Outcome {
    let target = musl_target()?;
    ensure_target(&workspace.root, &target)?;
    build_ebpf(workspace)?;
    let program = build(workspace, &target)?;
    let directory = workspace.target.join("image");
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    // For those who have an engine: deploy/Dockerfile takes it from here.
    let beside = directory.join(PROGRAM);
    fs::copy(&program, &beside).with_context(|| format!("copying to {}", beside.display()))?;
    let bytes = fs::read(&program).with_context(|| format!("reading {}", program.display()))?;
    let image = Image {
        name: "dataplane-verifier",
        version: env!("CARGO_PKG_VERSION"),
        architecture: architecture()?,
        program: (PROGRAM, &bytes),
        user: USER,
    };
    let path = directory.join(format!("{}-{}.oci.tar", image.name, image.version));
    let packed = archive::pack(&image)?;
    fs::write(&path, &packed).with_context(|| format!("writing {}", path.display()))?;
    let digest = prove(&path, &directory.join("unpacked"))?;
    println!("{}", path.display());
    println!("{digest}");
    Ok(ExitCode::SUCCESS)
}

/// Reads the archive back, unpacks its layer and runs what lies there. The digest of the manifest.
fn prove(path: &Path, scratch: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let read = check::read(&bytes).with_context(|| format!("{} is no image", path.display()))?;
    if scratch.exists() {
        fs::remove_dir_all(scratch).with_context(|| format!("removing {}", scratch.display()))?;
    }
    check::unpack(&read, scratch)?;
    let entry = read.entrypoint.first().context("the image starts nothing")?;
    let program = scratch.join(entry.trim_start_matches('/'));
    let said = Command::new(&program)
        .env_clear()
        .arg("--version")
        .output()
        .with_context(|| format!("running {}", program.display()))?;
    ensure!(
        said.status.success(),
        "the program of the image does not run ({}): {}",
        said.status,
        String::from_utf8_lossy(&said.stderr).trim()
    );
    ensure!(
        !check::needs_a_loader(&fs::read(&program).with_context(|| format!("reading {}", program.display()))?),
        "the program of the image is not static: there is no loader in an image that holds nothing else"
    );
    eprintln!(
        "the image holds {}",
        String::from_utf8_lossy(&said.stdout).lines().next().unwrap_or_default()
    );
    fs::remove_dir_all(scratch).with_context(|| format!("removing {}", scratch.display()))?;
    Ok(read.digest)
}

fn musl_target() -> Result<String> {
    architecture().map(|_| format!("{}-unknown-linux-musl", std::env::consts::ARCH))
}

/// As images name it.
fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no image is made for {other}"),
    }
}

/// The standard library for this target; by rustup, if it is not there.
fn ensure_target(root: &Path, target: &str) -> Result<()> {
    let has = || -> Result<bool> {
        let directory = toolchain::output(toolchain::tool("rustc", root).args(["--print", "target-libdir", "--target", target]))?;
        Ok(Path::new(directory.trim()).is_dir())
    };
    if has()? {
        return Ok(());
    }
    eprintln!("xtask: asking rustup for the standard library of {target}");
    let added = toolchain::run(toolchain::tool("rustup", root).args(["target", "add", target]));
    ensure!(
        has()?,
        "no static program can be built: the standard library of {target} is not here, and rustup does not bring it ({}); remedy: \
         `rustup target add {target}`, or a toolchain that has it",
        added
            .err()
            .map_or_else(|| "it says that it did".to_owned(), |error| format!("{error:#}"))
    );
    Ok(())
}

/// The program, without debug information and without a word of where it was built.
fn build(workspace: &Workspace, target: &str) -> Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let mut flags = vec![format!("--remap-path-prefix={}=.", workspace.root.display())];
    flags.extend(home.map(|home| format!("--remap-path-prefix={}=/cargo", home.display())));
    let mut command = cargo();
    command
        .current_dir(&workspace.root)
        .args([
            "build",
            "--release",
            "--locked",
            "--package",
            "verifier",
            "--bin",
            PROGRAM,
            "--target",
            target,
        ])
        .args(["--config", "profile.release.strip=\"debuginfo\""])
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    // The few lines of C in it need no libc: the compiler of this machine will do where there is none of musl's own.
    let compiler = format!("CC_{}", target.replace('-', "_"));
    if std::env::var_os(&compiler).is_none() {
        command.env(&compiler, "cc");
    }
    run_to_success(&mut command)?;
    Ok(workspace.target.join(target).join("release").join(PROGRAM))
}
