//! Builds kube-apiserver from Kubernetes' published modules, for the suite on a real API server: `tests/apiserver` to
//! `target/apiserver/kube-apiserver`.
//!
//! Minutes of two processors when Go's own cache is cold, therefore it is done once: a stamp beside the binary holds what it was built from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::Outcome;
use crate::workspace::Workspace;

/// The module.
const MODULE: &str = "tests/apiserver";
/// What it is made of, besides the toolchain.
const SOURCES: [&str; 3] = ["go.mod", "go.sum", "main.go"];
/// Set to `required`, a build that fails is an error where it would be a suite left out. CI sets it.
const REQUIRED: &str = "VERIFIER_APISERVER";

/// `cargo xtask apiserver`.
pub(crate) fn run(workspace: &Workspace) -> Outcome {
    println!("{}", ensure(workspace)?.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds it if it can be, or says what is left out for want of it.
pub(crate) fn ensure_or_say(workspace: &Workspace) -> Result<()> {
    match ensure(workspace) {
        Ok(_) => Ok(()),
        Err(error) if std::env::var(REQUIRED).is_ok_and(|value| value == "required") => Err(error),
        Err(error) => {
            eprintln!("left out: everything on a real API server: {error:#}");
            Ok(())
        }
    }
}

/// The binary, built if what it is built from has changed.
fn ensure(workspace: &Workspace) -> Result<PathBuf> {
    let module = workspace.root.join(MODULE);
    let directory = workspace.target.join("apiserver");
    let binary = directory.join("kube-apiserver");
    let stamp = directory.join("built-from");
    let wanted = sources(&module)?;
    if binary.is_file() && fs::read_to_string(&stamp).is_ok_and(|built_from| built_from == wanted) {
        return Ok(binary);
    }
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    let version = version(&wanted).context("tests/apiserver/go.mod does not require k8s.io/kubernetes")?;
    eprintln!("building kube-apiserver {version} (once; some minutes) …");
    let partial = directory.join("kube-apiserver.partial");
    let flags = format!("-s -w -X k8s.io/component-base/version.gitVersion={version}");
    let status = Command::new("go")
        .current_dir(&module)
        // Neither a workspace file above nor a C compiler has a part in it.
        .envs([("CGO_ENABLED", "0"), ("GOWORK", "off")])
        .args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", &flags, "-o"])
        .args([partial.as_os_str(), ".".as_ref()])
        .stdin(Stdio::null())
        .status()
        .context("running go build")?;
    if !status.success() {
        bail!("kube-apiserver does not build (go build: {status}); its modules come through the Go module proxy");
    }
    fs::rename(&partial, &binary).with_context(|| format!("replacing {}", binary.display()))?;
    fs::write(&stamp, wanted).with_context(|| format!("writing {}", stamp.display()))?;
    Ok(binary)
}

/// The toolchain's version and all sources, as one text.
fn sources(module: &Path) -> Result<String> {
    let output = Command::new("go")
        .current_dir(module)
        .arg("version")
        .output()
        .context("Go is not installed (1.26 or newer is needed)")?;
    if !output.status.success() {
        bail!("`go version` fails: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    for name in SOURCES {
        let path = module.join(name);
        text.push_str(&fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?);
    }
    Ok(text)
}

/// The version of Kubernetes that the module requires.
fn version(text: &str) -> Option<&str> {
    let mut words = text.lines().filter_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "));
    words.next()?.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_that_is_required() {
        assert_eq!(version("require (\n\tk8s.io/kubernetes v1.37.2\n)\n"), Some("v1.37.2"));
        assert_eq!(version("module a\n"), None);
    }
}
