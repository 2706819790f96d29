//! Which kernels there are: `tests/vm/kernels.toml`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// Relative to the root.
const LIST: &str = "tests/vm/kernels.toml";

/// One kernel of the list; its fields are explained there.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(super) struct Kernel {
    pub(super) name: String,
    pub(super) suite: String,
    pub(super) series: String,
    #[serde(default)]
    pub(super) ci: bool,
    #[serde(default)]
    pub(super) suites: Option<Vec<String>>,
    pub(super) absent: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    kernel: Vec<Kernel>,
}

pub(super) fn all(root: &Path) -> Result<Vec<Kernel>> {
    let path = root.join(LIST);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    parse(&text).with_context(|| format!("reading {}", path.display()))
}

fn parse(text: &str) -> Result<Vec<Kernel>> {
    let list: List = toml::from_str(text)?;
    for (index, kernel) in list.kernel.iter().enumerate() {
        ensure!(
            kernel
                .name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte)),
            "{:?} cannot be part of a file's name",
            kernel.name
        );
        ensure!(
            list.kernel[..index].iter().all(|other| other.name != kernel.name),
            "two kernels are called {}",
            kernel.name
        );
    }
    ensure!(!list.kernel.is_empty(), "it names no kernel");
    Ok(list.kernel)
}

/// Those that were asked for, in the list's order; all if none was named.
pub(super) fn choose(all: &[Kernel], names: &[String], ci: bool) -> Result<Vec<Kernel>> {
    for name in names {
        if !all.iter().any(|kernel| kernel.name == *name) {
            let known: Vec<&str> = all.iter().map(|kernel| kernel.name.as_str()).collect();
            bail!("no kernel is called {name}; there are {}", known.join(", "));
        }
    }
    let wanted = |kernel: &&Kernel| {
        if names.is_empty() {
            !ci || kernel.ci
        } else {
            names.contains(&kernel.name)
        }
    };
    Ok(all.iter().filter(wanted).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "[[kernel]]\nname = \"a\"\nsuite = \"s\"\nseries = \"1.\"\nci = true\nabsent = [\"tcx\"]\n\
        [[kernel]]\nname = \"b\"\nsuite = \"s\"\nseries = \"\"\nabsent = []\n";

    #[test]
    fn the_committed_list_is_well_formed_and_ci_has_two_kernels() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let all = all(&root).unwrap();
        assert!(choose(&all, &[], true).unwrap().len() >= 2);
        assert!(all.iter().any(|kernel| kernel.absent.contains(&"tcx".to_owned())));
    }

    #[test]
    fn kernels_are_chosen_by_name_or_for_ci() {
        let all = parse(TWO).unwrap();
        let names = |chosen: Vec<Kernel>| chosen.into_iter().map(|kernel| kernel.name).collect::<Vec<_>>();
        assert_eq!(names(choose(&all, &[], false).unwrap()), ["a", "b"]);
        assert_eq!(names(choose(&all, &[], true).unwrap()), ["a"]);
        assert_eq!(names(choose(&all, &["b".to_owned()], true).unwrap()), ["b"]);
        assert!(choose(&all, &["c".to_owned()], false).is_err());
    }

    #[test]
    fn mistakes_in_the_list_are_errors() {
        assert!(parse("").is_err());
        assert!(parse(&TWO.replace("\"b\"", "\"a\"")).is_err());
        assert!(parse(&TWO.replace("\"b\"", "\"../b\"")).is_err());
        assert!(parse(&TWO.replace("absent = []", "absnt = []")).is_err());
    }
}
