//! The guest's whole system: the programs under test as cargo built them, the libraries that they name, the modules of the
//! kernel, and the plan of what to play.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::cpio::Archive;
use super::fetch::Unpacked;
use super::modules;

/// Where the programs lie in the guest, as in a target directory: they find each other by it.
pub(super) const PROGRAMS: &str = "/dpv/debug";
/// What the guest's first process is told.
const PLAN: &str = "dpv/plan.json";
/// The index of the modules.
const INDEX: &str = "lib/modules/index.json";

/// Other people's programs that some tests want; those that are here come along.
const TOOLS: [&str; 5] = ["ip", "tc", "nft", "iptables-legacy", "ethtool"];

/// The plan, as the guest reads it.
#[derive(Debug, Serialize)]
pub(super) struct Plan<'a> {
    pub(super) kernel: &'a str,
    /// The guest switches itself off after this.
    pub(super) seconds: u64,
    pub(super) suites: Vec<PlannedSuite<'a>>,
    pub(super) absent: &'a [String],
}

/// One suite of it.
#[derive(Debug, Serialize)]
pub(super) struct PlannedSuite<'a> {
    pub(super) name: &'a str,
    pub(super) seconds: u64,
    /// Only these of its cases; all if there is none.
    pub(super) only: &'a [String],
    /// How often a healthy fabric is validated.
    pub(super) rounds: usize,
}

/// What is the same for every kernel: files of the guest, each with where it lies here.
pub(super) struct Content {
    files: BTreeMap<String, PathBuf>,
    scratch: PathBuf,
}

impl Content {
    /// `programs` by their names in the guest.
    pub(super) fn gather(scratch: &Path, programs: &[(String, PathBuf)]) -> Result<Self> {
        fs::create_dir_all(scratch).with_context(|| format!("making {}", scratch.display()))?;
        let mut files = BTreeMap::new();
        for (name, path) in programs {
            for library in libraries(path)? {
                files.insert(guest_path(&library), library);
            }
            files.insert(guest_path(Path::new(&format!("{PROGRAMS}/{name}"))), stripped(scratch, name, path)?);
        }
        for tool in TOOLS {
            let places = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
            let Some(path) = places.iter().map(|place| Path::new(place).join(tool)).find(|path| path.is_file()) else {
                continue;
            };
            let path = fs::canonicalize(&path).with_context(|| format!("following {}", path.display()))?;
            for library in libraries(&path)? {
                files.insert(guest_path(&library), library);
            }
            files.insert(format!("bin/{tool}"), path);
        }
        let scratch = scratch.to_owned();
        Ok(Self { files, scratch })
    }

    /// Where this run, and no other, keeps what it needs for as long as it takes.
    pub(super) fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// Writes the initramfs of one kernel.
    pub(super) fn write(&self, to: &Path, kernel: &Unpacked, plan: &Plan<'_>) -> Result<()> {
        let modules = modules::collect(&kernel.modules)?;
        let file = File::create(to).with_context(|| format!("making {}", to.display()))?;
        let mut archive = Archive::new(BufWriter::new(file));
        let mut directories: BTreeSet<String> = ["dev", "proc", "sys", "run", "tmp", "sbin", "bin", "dpv", "lib/modules"]
            .iter()
            .flat_map(|path| ancestors(&format!("{path}/x")))
            .collect();
        directories.extend(self.files.keys().flat_map(|path| ancestors(path)));
        for directory in directories {
            archive.directory(&directory)?;
        }
        // The first process has no standard streams without the one, and does not start without the other.
        archive.device("dev/console", 5, 1)?;
        archive.device("dev/null", 1, 3)?;
        for (path, source) in &self.files {
            let bytes = fs::read(source).with_context(|| format!("reading {}", source.display()))?;
            archive.file(path, &bytes)?;
        }
        let mut index = BTreeMap::new();
        for (name, (module, bytes)) in modules {
            archive.file(module.file.trim_start_matches('/'), &bytes)?;
            index.insert(name, module);
        }
        archive.file(INDEX, &serde_json::to_vec(&index)?)?;
        archive.file(PLAN, &serde_json::to_vec(plan)?)?;
        // The kernel calls this name when it wants a module.
        archive.link("sbin/modprobe", &format!("{PROGRAMS}/guest"))?;
        archive.finish().with_context(|| format!("writing {}", to.display()))?;
        Ok(())
    }
}

fn guest_path(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').to_owned()
}

/// The directories above a path, outermost first.
fn ancestors(path: &str) -> Vec<String> {
    let cuts = path.match_indices('/').map(|(at, _)| path[..at].to_owned());
    cuts.filter(|directory| !directory.is_empty()).collect()
}

/// A copy without debug information, which is most of a program; the program itself where it cannot be stripped.
fn stripped(scratch: &Path, name: &str, path: &Path) -> Result<PathBuf> {
    let copy = scratch.join(name);
    let strip = Command::new("strip").args(["--strip-debug", "-o"]).arg(&copy).arg(path).output();
    if strip.is_ok_and(|output| output.status.success()) {
        return Ok(copy);
    }
    eprintln!("xtask: {} cannot be stripped; it goes along as it is", path.display());
    Ok(path.to_owned())
}

/// The loader and the libraries that a program names. A static program has none.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let loader = loader()?;
    let output = Command::new(&loader)
        .arg("--list")
        .arg(program)
        .env_remove("LD_PRELOAD")
        .output()
        .with_context(|| format!("running {}", loader.display()))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        ensure!(
            why.contains("statically linked") || why.contains("not a dynamic executable"),
            "{} {}: {}",
            loader.display(),
            program.display(),
            why.trim()
        );
        return Ok(Vec::new());
    }
    let mut found = listed(&String::from_utf8_lossy(&output.stdout));
    found.push(loader);
    Ok(found)
}

fn loader() -> Result<PathBuf> {
    let known = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-x86-64.so.2"];
    known
        .iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
        .context("no loader of x86-64 programs is here")
}

/// Paths in lines such as `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`.
fn listed(listing: &str) -> Vec<PathBuf> {
    let paths = listing
        .lines()
        .filter_map(|line| line.split_once("=> ")?.1.split_whitespace().next());
    paths.filter(|path| path.starts_with('/')).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_the_loaders_list() {
        let text = "\tlinux-vdso.so.1 (0x7)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x7f)\n\t/lib64/ld.so (0x7f)\n\tlibm => not found\n";
        assert_eq!(listed(text), [PathBuf::from("/lib/x/libc.so.6")]);
    }

    #[test]
    fn every_directory_above_a_file_is_named_once_and_in_order() {
        assert_eq!(ancestors("lib/x/y.so"), ["lib", "lib/x"]);
        assert_eq!(ancestors("init"), Vec::<String>::new());
    }
}
