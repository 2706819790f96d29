//! Where things are: the root, the target directory, the members, the files under version control.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// The workspace this program was built in.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) members: Vec<Member>,
}

/// One member crate.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) name: String,
    /// Relative to the root.
    pub(crate) manifest: PathBuf,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    target_directory: PathBuf,
    workspace_root: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
}

impl Workspace {
    /// Asks cargo, so that a target directory set by the environment or a configuration file is honoured.
    pub(crate) fn locate() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let output = cargo()
            .args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"])
            .arg(&manifest)
            .output()
            .context("running cargo metadata")?;
        if !output.status.success() {
            bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let metadata: Metadata = serde_json::from_slice(&output.stdout).context("reading cargo metadata")?;
        let root = metadata.workspace_root;
        let mut members = Vec::new();
        for package in metadata.packages {
            let manifest = package
                .manifest_path
                .strip_prefix(&root)
                .context("a member outside the workspace")?;
            members.push(Member {
                name: package.name,
                manifest: manifest.to_owned(),
            });
        }
        members.sort_by(|a, b| a.manifest.cmp(&b.manifest));
        Ok(Self {
            root,
            target: metadata.target_directory,
            members,
        })
    }

    /// Every file that is, or could be, under version control (what `.gitignore` names is left out), relative to the root.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        walk(&self.root, Path::new(""), &mut files)?;
        files.sort();
        Ok(files)
    }
}

/// Cargo itself: the one that runs this program.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Build output and version control's own directory; nothing else is ignored in this repository. A clean clone from an
/// archive has no git, so git is not asked.
const NOT_OURS: &[&str] = &["target", ".git"];

fn walk(root: &Path, relative: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let directory = root.join(relative);
    for entry in fs::read_dir(&directory).with_context(|| format!("listing {}", directory.display()))? {
        let entry = entry.with_context(|| format!("listing {}", directory.display()))?;
        let kind = entry
            .file_type()
            .with_context(|| format!("looking at {}", entry.path().display()))?;
        let path = relative.join(entry.file_name());
        if NOT_OURS.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if kind.is_dir() {
            walk(root, &path, files)?;
        } else if kind.is_file() {
            files.push(path);
        }
    }
    Ok(())
}
