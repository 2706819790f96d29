//! `cargo xtask tidy`: the rules of this repository that neither the compiler nor clippy can check.
//!
//! Each rule is one function from the tree to violations, each violation one line: where, what is wrong, what to do. The
//! list in [`RULES`] is the whole of it.

mod causes;
mod documents;
mod manifests;
mod source;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::workspace::{Member, Workspace};
use crate::{Outcome, terminal};

/// One broken rule at one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Violation {
    file: String,
    /// From 1; 0 where the whole file is meant.
    line: usize,
    /// What is wrong, and the remedy.
    message: String,
}

impl Violation {
    fn file(file: &str, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: 0,
            message: message.into(),
        }
    }

    fn line(file: &str, line: usize, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line,
            message: message.into(),
        }
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.message),
            line => write!(f, "{}:{line}: {}", self.file, self.message),
        }
    }
}

/// A text file of the repository.
#[derive(Debug, Clone)]
struct Text {
    /// Relative to the root, with slashes.
    path: String,
    text: String,
}

impl Text {
    /// Lines with their numbers from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

/// What the rules read.
#[derive(Debug, Default)]
struct Tree {
    files: Vec<Text>,
    members: Vec<Member>,
}

impl Tree {
    fn load(workspace: &Workspace) -> Result<Self> {
        let mut files = Vec::new();
        for path in workspace.files()? {
            let full = workspace.root.join(&path);
            let bytes = fs::read(&full).with_context(|| format!("reading {}", full.display()))?;
            // What is not UTF-8 is not text, and no rule is about it.
            if let Ok(text) = String::from_utf8(bytes) {
                files.push(Text {
                    path: path.to_string_lossy().into_owned(),
                    text,
                });
            }
        }
        Ok(Self {
            files,
            members: workspace.members.clone(),
        })
    }

    fn get(&self, path: &str) -> Option<&Text> {
        self.files.iter().find(|file| file.path == path)
    }

    fn rust_under<'a>(&'a self, directories: &'a [&str]) -> impl Iterator<Item = &'a Text> {
        self.files
            .iter()
            .filter(move |file| file.is_rust() && directories.iter().any(|directory| file.path.starts_with(directory)))
    }

    /// The directories directly under this one (`verifier/src/` gives `intent`, `programmed`, …).
    fn directories_in(&self, parent: &str) -> Vec<String> {
        let mut found: Vec<String> = self
            .files
            .iter()
            .filter_map(|file| file.path.strip_prefix(parent)?.split_once('/'))
            .map(|(first, _)| first.to_owned())
            .collect();
        found.sort();
        found.dedup();
        found
    }

    #[cfg(test)]
    fn of(files: &[(&str, &str)]) -> Self {
        let files = files
            .iter()
            .map(|(path, text)| Text {
                path: (*path).to_owned(),
                text: (*text).to_owned(),
            })
            .collect();
        Self {
            files,
            members: Vec::new(),
        }
    }
}

/// Either looks at the tree's text, or has to ask cargo or the cause table.
enum Rule {
    Text(fn(&Tree) -> Vec<Violation>),
    Asking(fn(&Workspace, &Tree) -> Result<Vec<Violation>>),
}

/// Every rule, by the name under which it stands in the output.
const RULES: &[(&str, Rule)] = &[
    ("file-length", Rule::Text(source::file_length)),
    ("module-docs", Rule::Text(source::module_docs)),
    ("allow-with-reason", Rule::Text(source::allow_with_reason)),
    ("core-is-no-std", Rule::Text(source::core_is_no_std)),
    ("core-ordered-maps", Rule::Text(source::core_ordered_maps)),
    ("no-shelling-out", Rule::Text(source::no_shelling_out)),
    ("no-swallowed-errors", Rule::Text(source::no_swallowed_errors)),
    ("fabric-independent", Rule::Text(source::fabric_independent)),
    ("machine-names", Rule::Text(source::machine_names)),
    ("lints-inherited", Rule::Text(manifests::lints_inherited)),
    ("versions-in-one-place", Rule::Text(manifests::versions_in_one_place)),
    ("locked-sources", Rule::Text(manifests::locked_sources)),
    ("core-dependencies", Rule::Asking(manifests::core_dependencies)),
    ("stage-names", Rule::Text(documents::stage_names)),
    ("architecture-complete", Rule::Text(documents::architecture_complete)),
    ("documented-commands", Rule::Text(documents::documented_commands)),
    ("links", Rule::Text(documents::links)),
    ("cause-pages", Rule::Asking(causes::cause_pages)),
    ("cause-table", Rule::Text(causes::cause_table)),
];

pub(crate) fn run(workspace: &Workspace) -> Outcome {
    let tree = Tree::load(workspace)?;
    let paint = terminal::stdout();
    let mut broken = 0;
    for (name, rule) in RULES {
        let mut violations = match rule {
            Rule::Text(check) => check(&tree),
            Rule::Asking(check) => check(workspace, &tree).with_context(|| format!("rule {name}"))?,
        };
        violations.sort();
        broken += violations.len();
        for violation in violations {
            println!("{} {violation}", paint.bold(&format!("[{name}]")));
        }
    }
    if broken > 0 {
        println!(
            "{} {broken} violations of {} rules in {} files",
            paint.red("tidy:"),
            RULES.len(),
            tree.files.len()
        );
        return Ok(ExitCode::FAILURE);
    }
    println!("{} {} rules hold in {} files", paint.green("tidy:"), RULES.len(), tree.files.len());
    Ok(ExitCode::SUCCESS)
}

/// A path as the rules write it.
fn slashed(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
