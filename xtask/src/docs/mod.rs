//! `docs/causes/*.md`: one page for each cause, written from the cause table and never by hand.

mod page;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use verifier_core::verdict::{Cause, table};

use crate::workspace::Workspace;
use crate::{Outcome, terminal};

/// Where the pages live, relative to the root.
pub(crate) const DIRECTORY: &str = "docs/causes";

pub(crate) fn run(workspace: &Workspace, check: bool) -> Outcome {
    let stale = compare(workspace)?;
    if check {
        for page in &stale {
            println!("{}: {}; run `cargo xtask docs`", page.path.display(), page.what);
        }
        return Ok(if stale.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    for page in &stale {
        let path = workspace.root.join(&page.path);
        match &page.wanted {
            Some(text) => {
                if let Some(parent) = path.parent() {
                    fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
                }
                fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
            }
            None => fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?,
        }
    }
    println!("{} {} pages changed", terminal::stdout().green("docs:"), stale.len());
    Ok(ExitCode::SUCCESS)
}

/// A page that differs from what the table says.
#[derive(Debug)]
pub(crate) struct Stale {
    pub(crate) path: PathBuf,
    pub(crate) what: &'static str,
    /// The text it should have; none for a page that should not be there.
    wanted: Option<String>,
}

/// Every page that is missing, out of date, or of a cause that is no more.
pub(crate) fn compare(workspace: &Workspace) -> Result<Vec<Stale>> {
    let wanted = pages();
    let mut stale = Vec::new();
    for (path, text) in &wanted {
        let found = workspace.root.join(path);
        let what = match fs::read_to_string(&found) {
            Ok(present) if present == *text => continue,
            Ok(_) => "out of date",
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => "missing",
            Err(error) => {
                return Err(error).with_context(|| format!("reading {}", found.display()));
            }
        };
        stale.push(Stale {
            path: path.clone(),
            what,
            wanted: Some(text.clone()),
        });
    }
    for path in workspace.files()? {
        if path.starts_with(DIRECTORY) && !wanted.contains_key(&path) {
            stale.push(Stale {
                path,
                what: "not of any cause in the table",
                wanted: None,
            });
        }
    }
    Ok(stale)
}

/// Every page by its path.
fn pages() -> BTreeMap<PathBuf, String> {
    let mut pages = BTreeMap::new();
    let causes: Vec<&Cause> = table::all().collect();
    pages.insert(Path::new(DIRECTORY).join("README.md"), page::index(&causes));
    for cause in causes {
        pages.insert(Path::new(DIRECTORY).join(format!("{}.md", cause.code)), page::cause(cause));
    }
    pages
}
