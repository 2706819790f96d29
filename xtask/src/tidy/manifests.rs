//! Rules about manifests, the lock file and the core's dependencies.

use anyhow::{Context, Result, bail};

use super::{Tree, Violation, slashed};
use crate::workspace::{Workspace, cargo};

/// Everything the core may link, each known to do no I/O: addresses, (de)serialisation, hashes, errors, and the wire
/// records. Crates that only run inside the compiler are not counted.
const CORE_MAY_LINK: &[&str] = &[
    "verifier-core",
    "verifier-ebpf",
    "ipnet",
    "serde",
    "serde_core",
    "thiserror",
    "siphasher",
    // sha1 and what it stands on
    "sha1",
    "digest",
    "block-buffer",
    "crypto-common",
    "hybrid-array",
    "typenum",
    "cfg-if",
    "cpufeatures",
];

/// Lints set in the workspace do nothing in a member that does not inherit them.
pub(super) fn lints_inherited(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for member in &tree.members {
        let path = slashed(&member.manifest);
        let inherits = tree.get(&path).is_some_and(|file| {
            let mut lines = file.text.lines().map(str::trim).skip_while(|line| *line != "[lints]").skip(1);
            lines.next() == Some("workspace = true")
        });
        if !inherits {
            found.push(Violation::file(
                &path,
                format!("{} does not inherit the lints: add `[lints]` with `workspace = true`", member.name),
            ));
        }
    }
    found
}

/// A version stands in the workspace's manifest and nowhere else.
pub(super) fn versions_in_one_place(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for member in &tree.members {
        let path = slashed(&member.manifest);
        let Some(file) = tree.get(&path) else {
            continue;
        };
        let mut in_dependencies = false;
        for (number, line) in file.lines() {
            if line.starts_with('[') {
                in_dependencies = line.contains("dependencies");
            } else if in_dependencies && line.contains('=') && !line.contains("workspace = true") && !line.starts_with([' ', '#']) {
                found.push(Violation::line(
                    &path,
                    number,
                    "a dependency of its own version: put it into the workspace's manifest and write `workspace = true`",
                ));
            }
        }
    }
    found
}

/// Everything locked comes from crates.io or from this repository.
pub(super) fn locked_sources(tree: &Tree) -> Vec<Violation> {
    let Some(lock) = tree.get("Cargo.lock") else {
        return vec![Violation::file(
            "Cargo.lock",
            "is missing: commit it, so that every build is the same",
        )];
    };
    lock.lines()
        .filter(|(_, line)| line.starts_with("source = ") && *line != "source = \"registry+https://github.com/rust-lang/crates.io-index\"")
        .map(|(number, _)| Violation::line("Cargo.lock", number, "a source other than crates.io: depend on a released version"))
        .collect()
}

/// The core's dependency tree does no I/O and asks no crate for its `std`.
pub(super) fn core_dependencies(workspace: &Workspace, _tree: &Tree) -> Result<Vec<Violation>> {
    // `--package` makes cargo resolve features for this crate alone, not the union over the workspace.
    let output = cargo()
        .current_dir(&workspace.root)
        .args([
            "tree",
            "--package",
            "verifier-core",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}\t{f}",
        ])
        .output()
        .context("running cargo tree")?;
    if !output.status.success() {
        bail!("cargo tree failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(judge_core_tree(&String::from_utf8_lossy(&output.stdout)))
}

/// Reads lines `NAME VERSION [(proc-macro)]<tab>FEATURES`.
fn judge_core_tree(tree: &str) -> Vec<Violation> {
    const MANIFEST: &str = "verifier/core/Cargo.toml";
    let mut found = Vec::new();
    for line in tree.lines() {
        let (package, features) = line.split_once('\t').unwrap_or((line, ""));
        let name = package.split(' ').next().unwrap_or_default();
        if package.contains("(proc-macro)") || ONLY_IN_COMPILER.contains(&name) {
            continue;
        }
        if !CORE_MAY_LINK.contains(&name) {
            found.push(Violation::file(
                MANIFEST,
                format!("the core links `{name}`: drop it, or, if it does no I/O, add it to tidy's CORE_MAY_LINK"),
            ));
        }
        if features.trim_end_matches(" (*)").split(',').any(|feature| feature == "std") {
            found.push(Violation::file(
                MANIFEST,
                format!("the core links `{name}` with its feature `std`: switch default features off"),
            ));
        }
    }
    found.dedup();
    found
}

/// What procedural macros stand on; `cargo tree` lists them among the rest.
const ONLY_IN_COMPILER: &[&str] = &["proc-macro2", "quote", "syn", "unicode-ident"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Member;

    fn member(text: &str) -> Tree {
        let mut tree = Tree::of(&[("a/Cargo.toml", text)]);
        tree.members.push(Member {
            name: "a".to_owned(),
            manifest: "a/Cargo.toml".into(),
        });
        tree
    }

    #[test]
    fn lints_must_be_inherited() {
        assert!(lints_inherited(&member("[package]\n[lints]\nworkspace = true\n")).is_empty());
        assert_eq!(lints_inherited(&member("[package]\n[lints.rust]\nx = \"deny\"\n")).len(), 1);
    }

    #[test]
    fn versions_belong_to_the_workspace() {
        let tree = member("[package]\nname = \"a\"\n[dependencies]\nserde = { workspace = true }\nfoo = \"1\"\n");
        assert_eq!(
            versions_in_one_place(&tree)
                .iter()
                .map(|violation| violation.line)
                .collect::<Vec<_>>(),
            [5]
        );
    }

    #[test]
    fn a_foreign_source_is_named_by_its_line() {
        let tree = Tree::of(&[(
            "Cargo.lock",
            "source = \"registry+https://github.com/rust-lang/crates.io-index\"\nsource = \"git+https://example.org/x\"\n",
        )]);
        assert_eq!(
            locked_sources(&tree).iter().map(|violation| violation.line).collect::<Vec<_>>(),
            [2]
        );
        assert_eq!(locked_sources(&Tree::default()).len(), 1);
    }

    #[test]
    fn the_core_may_link_only_what_is_listed_and_no_std() {
        let good =
            "verifier-core v0.1.0 (/x)\t\nserde v1.0.0\talloc,derive\nserde_derive v1.0.0 (proc-macro)\tdefault\nsyn v3.0.0\tdefault\n";
        assert!(judge_core_tree(good).is_empty());
        assert_eq!(judge_core_tree("tokio v1.0.0\t\nserde v1.0.0\talloc,std (*)\n").len(), 2);
    }
}
