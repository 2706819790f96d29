//! Debian packages, downloaded and never installed: from the mirror that this machine is configured with, also of suites
//! that it is not configured with, with an apt state of our own below `target/`. The machine's package lists stay as they are.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::toolchain::{output, run_quietly};

/// Where Debian installs its archive keys; without it apt's own trusted keys decide.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The mirrors this machine already trusts for `main`, without security and update pockets (other trees, other suites).
///
/// # Errors
/// apt does not answer, or has none.
pub(crate) fn configured_sources() -> Result<Vec<String>> {
    let listing = output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI) $(RELEASE) $(COMPONENT)",
        "Created-By: Packages",
    ]))
    .context("apt does not list its sources")?;
    let mut uris = Vec::new();
    for line in listing.lines() {
        let mut words = line.split_whitespace();
        if let (Some(uri), Some(release), Some("main")) = (words.next(), words.next(), words.next())
            && !release.contains('-')
            && !uris.iter().any(|known| known == uri)
        {
            uris.push(uri.to_owned());
        }
    }
    ensure!(
        !uris.is_empty(),
        "apt has no package source with a `main` component; remedy: `apt-get update`"
    );
    Ok(uris)
}

/// apt with the machine's own state, or with one of its own so that the machine's lists stay as they are.
pub(crate) struct Apt {
    options: Vec<String>,
}

impl Apt {
    pub(crate) fn system() -> Self {
        Self { options: Vec::new() }
    }

    /// One suite of one mirror, with its state below `dir`.
    pub(crate) fn private(dir: &Path, uri: &str, suite: &str) -> Result<Self> {
        let (state, cache) = (dir.join("state"), dir.join("cache"));
        for needed in [state.join("lists/partial"), cache.join("archives/partial")] {
            fs::create_dir_all(&needed).with_context(|| format!("cannot create {}", needed.display()))?;
        }
        let list = dir.join("sources.list");
        let signed_by = if Path::new(KEYRING).is_file() {
            format!("[signed-by={KEYRING}] ")
        } else {
            String::new()
        };
        fs::write(&list, format!("deb {signed_by}{uri} {suite} main\n")).with_context(|| format!("cannot write {}", list.display()))?;
        let options = [
            format!("Dir::Etc::sourcelist={}", list.display()),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State={}", state.display()),
            format!("Dir::Cache={}", cache.display()),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
        ];
        Ok(Self { options: options.into() })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }

    /// Fetches the suite's list of packages.
    pub(crate) fn update(&self) -> Result<()> {
        run_quietly(self.command("apt-get").args(["update", "-q"]))
    }

    /// Every version of a package, as apt orders them: newest first.
    pub(crate) fn versions(&self, package: &str) -> Result<Vec<String>> {
        let madison = output(self.command("apt-cache").args(["madison", package]))?;
        let versions = madison.lines().filter_map(|line| line.split('|').nth(1));
        Ok(versions.map(|version| version.trim().to_owned()).collect())
    }

    /// Names of packages that start so.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let names = output(self.command("apt-cache").args(["pkgnames", prefix]))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Names of the packages that this one cannot be installed without.
    pub(crate) fn depends(&self, package: &str) -> Result<Vec<String>> {
        let shown = output(self.command("apt-cache").args(["show", "--no-all-versions", package]))?;
        let fields = shown.lines().filter_map(|line| line.strip_prefix("Depends:"));
        let each = fields.flat_map(|field| field.split([',', '|']));
        Ok(each.filter_map(|one| one.split_whitespace().next()).map(str::to_owned).collect())
    }

    /// Downloads a package (`name` or `name=version`) into `dir`, which must hold no other package.
    pub(crate) fn download(&self, dir: &Path, package: &str) -> Result<PathBuf> {
        run_quietly(self.command("apt-get").args(["download", "-q", package]).current_dir(dir))?;
        let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
        for entry in entries {
            let path = entry.with_context(|| format!("cannot read {}", dir.display()))?.path();
            if path.extension() == Some(OsStr::new("deb")) {
                return Ok(path);
            }
        }
        bail!("apt-get download left no package in {}", dir.display())
    }
}
