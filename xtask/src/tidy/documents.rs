//! Rules that keep documents true: names in them exist, and what exists is named in them.

use clap::Parser;

use super::{Text, Tree, Violation};
use crate::cli::Cli;

/// The stages of a judgement that both gather (in `verifier`) and decide (in the core).
const STAGES: &[&str] = &["intent", "programmed", "observed", "host", "probe", "report"];
/// The stages that only decide.
const PURE: &[&str] = &["path", "verdict"];

/// Where someone looks for the map of the repository.
const ARCHITECTURE: &str = "ARCHITECTURE.md";

/// The same stage has the same name where it decides and where it gathers.
pub(super) fn stage_names(tree: &Tree) -> Vec<Violation> {
    const CORE: &str = "verifier/core/src/";
    const SHELL: &str = "verifier/src/";
    let mut found = Vec::new();
    for stage in STAGES.iter().chain(PURE) {
        if !has_module(tree, CORE, stage) {
            found.push(Violation::file(
                CORE,
                format!("has no stage `{stage}`, which the design names: name it the same"),
            ));
        }
    }
    for stage in STAGES {
        if !has_module(tree, SHELL, stage) {
            found.push(Violation::file(
                SHELL,
                format!("has no stage `{stage}`, as {CORE} has: name it the same"),
            ));
        }
    }
    for stage in PURE {
        if has_module(tree, SHELL, stage) {
            found.push(Violation::file(
                SHELL,
                format!("has a stage `{stage}`: that is a decision and belongs to the core"),
            ));
        }
    }
    found
}

fn has_module(tree: &Tree, directory: &str, name: &str) -> bool {
    tree.get(&format!("{directory}{name}.rs")).is_some() || tree.get(&format!("{directory}{name}/mod.rs")).is_some()
}

/// The map shows every directory that someone can open.
pub(super) fn architecture_complete(tree: &Tree) -> Vec<Violation> {
    let Some(map) = tree.get(ARCHITECTURE) else {
        return vec![Violation::file(ARCHITECTURE, "is missing: the map of the repository")];
    };
    let mut wanted: Vec<String> = tree
        .directories_in("")
        .into_iter()
        .filter(|name| !name.starts_with('.'))
        .map(|name| format!("{name}/"))
        .collect();
    for parent in [
        "verifier/src/",
        "verifier/core/src/",
        "verifier-ebpf/src/",
        "tests/src/",
        "xtask/src/",
    ] {
        wanted.extend(tree.directories_in(parent).into_iter().map(|name| format!("{name}/")));
    }
    wanted.sort();
    wanted.dedup();
    wanted
        .iter()
        .filter(|name| !map.text.contains(&format!("`{name}`")) && !map.text.contains(name.as_str()))
        .map(|name| Violation::file(ARCHITECTURE, format!("does not mention `{name}`: say in a line what lives there")))
        .collect()
}

/// A command that a document shows is one that this program understands.
pub(super) fn documented_commands(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for file in tree
        .files
        .iter()
        .filter(|file| file.path.ends_with(".md") && file.path != "CHANGELOG.md")
    {
        for (number, command) in shown_commands(file) {
            if let Err(error) = understood(&command) {
                let first = error.lines().next().unwrap_or_default().to_owned();
                found.push(Violation::line(
                    &file.path,
                    number,
                    format!("`{command}` is not a command ({first}): mend the text"),
                ));
            }
        }
    }
    let shown: Vec<String> = tree
        .get("README.md")
        .map(|readme| shown_commands(readme).into_iter().map(|(_, command)| command).collect())
        .unwrap_or_default();
    for command in ["cargo xtask demo", "cargo xtask test"] {
        if !shown.iter().any(|line| line == command) {
            found.push(Violation::file(
                "README.md",
                format!("does not show `{command}` in a `sh` block: .ci/run takes the two commands from there"),
            ));
        }
    }
    found
}

/// Lines `cargo xtask …` of the `sh` blocks, with their numbers.
fn shown_commands(file: &Text) -> Vec<(usize, String)> {
    let mut commands = Vec::new();
    let mut in_shell = false;
    for (number, line) in file.lines() {
        let line = line.trim();
        if let Some(language) = line.strip_prefix("```") {
            in_shell = !in_shell && language == "sh";
        } else if in_shell && line.starts_with("cargo xtask") {
            let command = line.split(" #").next().unwrap_or(line);
            commands.push((number, command.trim().to_owned()));
        }
    }
    commands
}

fn understood(command: &str) -> Result<(), String> {
    let words: Vec<&str> = command.split_whitespace().collect();
    // `cargo xtask` together are the program's name.
    match Cli::try_parse_from(words.into_iter().skip(1)) {
        Ok(_) => Ok(()),
        Err(error) if !error.use_stderr() => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// A link to a file of the repository leads to a file of the repository.
pub(super) fn links(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for file in tree.files.iter().filter(|file| file.path.ends_with(".md")) {
        let base = file.path.rsplit_once('/').map_or("", |(directory, _)| directory);
        for (number, line) in file.lines() {
            for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let path = target.split('#').next().unwrap_or_default();
                if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
                    continue;
                }
                let full = resolve(base, path);
                let exists = tree
                    .files
                    .iter()
                    .any(|other| other.path == full || other.path.starts_with(&format!("{full}/")));
                if !exists {
                    found.push(Violation::line(
                        &file.path,
                        number,
                        format!("links to `{path}`, which is not there"),
                    ));
                }
            }
        }
    }
    found
}

/// A relative path, from a directory of the repository, without `.` and `..`.
fn resolve(base: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_of_one_crate_only_is_named() {
        let shell: Vec<String> = STAGES.iter().map(|stage| format!("verifier/src/{stage}/mod.rs")).collect();
        let core: Vec<String> = STAGES
            .iter()
            .chain(PURE)
            .map(|stage| format!("verifier/core/src/{stage}.rs"))
            .collect();
        let all: Vec<(&str, &str)> = shell.iter().chain(&core).map(|path| (path.as_str(), "")).collect();
        assert!(stage_names(&Tree::of(&all)).is_empty());
        assert_eq!(stage_names(&Tree::of(&all[1..])).len(), 1);
        let misplaced = [all.as_slice(), &[("verifier/src/verdict.rs", "")]].concat();
        assert_eq!(stage_names(&Tree::of(&misplaced)).len(), 1);
    }

    #[test]
    fn the_map_names_every_directory() {
        let tree = Tree::of(&[
            ("ARCHITECTURE.md", "`verifier/` `intent/`"),
            ("verifier/src/intent/mod.rs", ""),
            ("verifier/src/probe/mod.rs", ""),
        ]);
        assert_eq!(architecture_complete(&tree).len(), 1);
        assert_eq!(architecture_complete(&Tree::default()).len(), 1);
    }

    #[test]
    fn readme_commands_must_exist() {
        let readme = "```sh\ncargo xtask demo\ncargo xtask test   # all\ncargo xtask dance\n```\n```text\ncargo xtask nothing\n```\n";
        let found = documented_commands(&Tree::of(&[("README.md", readme)]));
        assert_eq!(found.iter().map(|violation| violation.line).collect::<Vec<_>>(), [4]);
        assert_eq!(documented_commands(&Tree::of(&[("README.md", "nothing")])).len(), 2);
    }

    #[test]
    fn links_lead_somewhere() {
        let text = "[a](../README.md) [b](b.md#x) [c](https://example.org) [d](docs) [e](gone.md)\n";
        let tree = Tree::of(&[("docs/a.md", text), ("README.md", ""), ("docs/b.md", "")]);
        assert_eq!(links(&tree).len(), 2);
    }
}
