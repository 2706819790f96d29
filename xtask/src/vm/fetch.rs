//! A kernel of the list, unpacked below `target/vm/kernels`: found on the configured mirror, kept for the next run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::kernels::Kernel;
use crate::apt::{self, Apt};
use crate::toolchain;

/// What all of them end with.
const FLAVOUR: &str = "-cloud-amd64";
const IMAGE: &str = "linux-image-";

/// A kernel on disk.
#[derive(Debug, Clone)]
pub(super) struct Unpacked {
    /// As `uname -r` will say it.
    pub(super) release: String,
    pub(super) image: PathBuf,
    /// Its tree of modules.
    pub(super) modules: PathBuf,
}

/// The kernel, downloaded unless it is there; with `refresh` the mirror is asked for a newer one.
pub(super) fn unpack(target: &Path, kernel: &Kernel, refresh: bool) -> Result<Unpacked> {
    let home = target.join("vm/kernels").join(&kernel.name);
    if !refresh && let Ok(found) = find(&home) {
        return Ok(found);
    }
    let mut failures = Vec::new();
    for uri in apt::configured_sources()? {
        match download(&home, &uri, kernel) {
            Ok(()) => return find(&home),
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    bail!(
        "no kernel {}*{FLAVOUR} in suite {}: {}",
        kernel.series,
        kernel.suite,
        failures.join("; ")
    )
}

fn download(home: &Path, uri: &str, kernel: &Kernel) -> Result<()> {
    let apt = Apt::private(&home.with_extension("apt"), uri, &kernel.suite)?;
    apt.update()?;
    let prefix = format!("{IMAGE}{}", kernel.series);
    let image = newest(apt.names(&prefix)?).with_context(|| format!("no package {prefix}*{FLAVOUR}"))?;
    eprintln!("xtask: unpacking {image} of {}", kernel.suite);
    // Newer packages are empty and depend on one with the image and one with the modules.
    let parts = apt
        .depends(&image)?
        .into_iter()
        .filter(|name| name.ends_with(FLAVOUR) && (name.starts_with("linux-binary-") || name.starts_with("linux-modules-")));
    let partial = home.with_extension("partial");
    remove(&partial)?;
    fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
    for package in parts.chain([image.clone()]).collect::<Vec<_>>() {
        let file = apt.download(&partial, &package)?;
        toolchain::run(Command::new("dpkg-deb").arg("--extract").arg(&file).arg(&partial))?;
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
    }
    find(&partial).with_context(|| format!("{image} is not what was expected"))?;
    // Whole or not at all: a run that was interrupted leaves nothing that looks like a kernel.
    remove(home)?;
    fs::rename(&partial, home).with_context(|| format!("cannot rename {}", partial.display()))?;
    remove(&home.with_extension("apt"))
}

fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// The image and the modules in an unpacked package; `/lib` moved to `/usr/lib`, and the image may follow.
fn find(home: &Path) -> Result<Unpacked> {
    for trees in ["lib/modules", "usr/lib/modules"] {
        let Ok(entries) = fs::read_dir(home.join(trees)) else { continue };
        for entry in entries {
            let modules = entry.with_context(|| format!("listing {}", home.display()))?.path();
            let release = modules
                .file_name()
                .and_then(|name| name.to_str())
                .context("a release that is no text")?
                .to_owned();
            let images = [home.join(format!("boot/vmlinuz-{release}")), modules.join("vmlinuz")];
            if let Some(image) = images.into_iter().find(|image| image.is_file()) {
                ensure!(modules.join("kernel").is_dir(), "{} has no modules", modules.display());
                return Ok(Unpacked { release, image, modules });
            }
        }
    }
    bail!("{} holds no kernel", home.display())
}

/// The highest version among names of packages, by its numbers. The package `linux-image-cloud-amd64` itself has none.
fn newest(names: Vec<String>) -> Option<String> {
    names
        .into_iter()
        .filter(|name| name.ends_with(FLAVOUR))
        .map(|name| (numbers(&name), name))
        .filter(|(numbers, _)| numbers.len() > 1)
        .max()
        .map(|(_, name)| name)
}

/// `6.12.90+deb12.1` has the numbers 6, 12, 90, 12, 1.
fn numbers(name: &str) -> Vec<u64> {
    let version = name.trim_start_matches(IMAGE).trim_end_matches(FLAVOUR);
    version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|word| word.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_told_by_numbers_and_not_by_letters() {
        let names = [
            "linux-image-6.12.90+deb12-cloud-amd64",
            "linux-image-6.12.90+deb12.1-cloud-amd64",
            "linux-image-6.12.9+deb12-cloud-amd64",
            "linux-image-6.12.95+deb12-cloud-amd64-dbg",
            "linux-image-cloud-amd64",
        ];
        let newest = newest(names.map(str::to_owned).to_vec());
        assert_eq!(newest.as_deref(), Some("linux-image-6.12.90+deb12.1-cloud-amd64"));
        assert_eq!(super::newest(vec!["linux-image-cloud-amd64".to_owned()]), None);
    }
}
