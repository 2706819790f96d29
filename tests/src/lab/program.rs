//! The binary `verifier`: finding it, and running its commands.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Where cargo put this program: a profile's directory, or `deps` or `examples` in it.
fn profile_directory() -> Result<PathBuf> {
    let this = std::env::current_exe().context("asking for this program's own path")?;
    let mut directory = this.parent().context("this program lies in no directory")?;
    if matches!(directory.file_name().and_then(OsStr::to_str), Some("deps" | "examples")) {
        directory = directory.parent().context("this program lies in no profile's directory")?;
    }
    Ok(directory.to_owned())
}

/// Cargo's target directory.
///
/// # Errors
/// This program does not lie where cargo puts programs.
pub fn target_directory() -> Result<PathBuf> {
    let profile = profile_directory()?;
    Ok(profile
        .parent()
        .with_context(|| format!("{} is no profile's directory", profile.display()))?
        .to_owned())
}

/// The binary, built by the same profile as this program.
///
/// # Errors
/// It is not there: `cargo xtask build` makes it.
pub fn path() -> Result<PathBuf> {
    let path = profile_directory()?.join("verifier");
    if !path.is_file() {
        bail!("{} is not there: `cargo xtask build` makes it", path.display());
    }
    Ok(path)
}

/// Makes the key file anew.
///
/// # Errors
/// `verifier keygen` failed.
pub fn make_key(file: &Path) -> Result<()> {
    match std::fs::remove_file(file) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("removing {}", file.display())),
    }
    let output = Command::new(path()?)
        .arg("keygen")
        .arg(file)
        .output()
        .context("running verifier keygen")?;
    succeeded("verifier keygen", &output)
}

/// A command of the binary that talks to the agents of a fabric: arguments, then where everything is.
///
/// # Errors
/// The binary is not there.
pub fn asking(files: &super::Files, netns: &Path, verb: &str, arguments: &[OsString]) -> Result<Command> {
    let mut command = Command::new(path()?);
    command.arg(verb).args(arguments);
    command.arg("--intent").arg(files.manifests());
    command.arg("--key-file").arg(files.key());
    command.arg("--netns").arg(netns);
    Ok(command)
}

/// What `verifier validate` said.
#[derive(Debug)]
pub struct Validation {
    /// Its exit status; none if a signal ended it.
    pub status: Option<i32>,
    /// The report, as it stood on standard output.
    pub report: serde_json::Value,
    /// What it wrote to standard error.
    pub log: String,
}

/// Runs `verifier validate --output json` to its end.
///
/// # Errors
/// It did not run, or its standard output is not one JSON object.
pub fn validate(files: &super::Files, netns: &Path, arguments: &[OsString]) -> Result<Validation> {
    let mut all = vec![OsString::from("--output"), OsString::from("json")];
    all.extend_from_slice(arguments);
    let output = asking(files, netns, "validate", &all)?
        .stdin(Stdio::null())
        .output()
        .context("running verifier validate")?;
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout).with_context(|| {
        format!(
            "verifier validate ({}) printed no JSON; it says: {}",
            output.status,
            last_lines(&log, 5)
        )
    })?;
    Ok(Validation {
        status: output.status.code(),
        report,
        log,
    })
}

fn succeeded(what: &str, output: &Output) -> Result<()> {
    if !output.status.success() {
        bail!(
            "{what} failed ({}): {}",
            output.status,
            last_lines(&String::from_utf8_lossy(&output.stderr), 5)
        );
    }
    Ok(())
}

/// The last lines of a log, for an error message.
#[must_use]
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join(" / ")
}
