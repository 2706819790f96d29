//! Rules about source text, line by line.

use super::{Text, Tree, Violation};

/// One file, one subject: past this it holds two.
const LINES_PER_FILE: usize = 600;

/// Files that are longer, with the length they may not exceed. The list only ever shrinks.
const RATCHET: &[(&str, usize)] = &[];

/// Crates whose code runs in production.
const PRODUCTION: &[&str] = &["verifier/", "verifier-ebpf/"];

const EVERYWHERE: &[&str] = &["verifier/", "verifier-ebpf/", "tests/", "xtask/"];

pub(super) fn file_length(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for file in tree.files.iter().filter(|file| file.is_rust()) {
        let lines = file.text.lines().count();
        let limit = RATCHET
            .iter()
            .find(|(path, _)| *path == file.path)
            .map_or(LINES_PER_FILE, |(_, limit)| *limit);
        if lines > limit {
            found.push(Violation::file(
                &file.path,
                format!("{lines} lines, over {limit}: split it by subject"),
            ));
        }
    }
    found
}

/// Every file tells someone who opens the tree for the first time what it is for.
pub(super) fn module_docs(tree: &Tree) -> Vec<Violation> {
    tree.rust_under(EVERYWHERE)
        // The tests of one file, in a file beside it: that file says what it is for.
        .filter(|file| !file.path.ends_with("tests.rs"))
        .filter(|file| {
            // Lint levels and `no_std` may stand before it.
            let first = file
                .text
                .lines()
                .map(str::trim)
                .find(|line| !line.is_empty() && !line.starts_with("#![") && !line.starts_with("// "));
            !first.is_some_and(|line| line.starts_with("//!"))
        })
        .map(|file| Violation::file(&file.path, "no module documentation: begin with `//!` and what this file is for"))
        .collect()
}

/// A lint is switched off only with its reason, so that the reason can be doubted later.
pub(super) fn allow_with_reason(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for file in tree.rust_under(EVERYWHERE).filter(|file| !is_test(file)) {
        for (number, line) in code_lines(file) {
            let Some(at) = ["allow(", "expect("].iter().find_map(|word| attribute_at(line, word)) else {
                continue;
            };
            // An attribute may run over several lines; its end is the first line with `]`.
            let rest: String = file.text.lines().skip(number - 1).scan(false, take_through_bracket).collect();
            if !rest[at.min(rest.len())..].contains("reason") {
                found.push(Violation::line(
                    &file.path,
                    number,
                    "a lint is switched off without `reason = \"…\"`: say why, or mend the code",
                ));
            }
        }
    }
    found
}

/// Where `#[… word` stands in a line: an attribute, not a method call.
fn attribute_at(line: &str, word: &str) -> Option<usize> {
    let trimmed = line.trim_start();
    if !(trimmed.starts_with("#[") || trimmed.starts_with("#![")) {
        return None;
    }
    let at = line.find(word)?;
    // `cfg_attr(test, allow(…))` concerns tests only.
    (!line[..at].contains("cfg_attr(test")).then_some(at)
}

fn take_through_bracket<'a>(done: &mut bool, line: &'a str) -> Option<&'a str> {
    if *done {
        return None;
    }
    *done = line.trim_end().ends_with(']');
    Some(line)
}

/// The core, and the library shared with the kernel, cannot do I/O because they have no standard library to do it with.
pub(super) fn core_is_no_std(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for path in ["verifier/core/src/lib.rs", "verifier-ebpf/src/lib.rs"] {
        let Some(file) = tree.get(path) else {
            found.push(Violation::file(path, "is missing: tidy's rule core-is-no-std names it"));
            continue;
        };
        let mut wants = vec![("no_std", "#![no_std]")];
        // Reading a packet in the kernel is a matter of pointers; deciding never is.
        if path.starts_with("verifier/core/") {
            wants.push(("forbid(unsafe_code)", "#![forbid(unsafe_code)]"));
        }
        for (part, whole) in wants {
            if !file.lines().any(|(_, line)| line.starts_with("#![") && line.contains(part)) {
                found.push(Violation::file(
                    path,
                    format!("lacks `{whole}`: no decision may do I/O or be unsafe"),
                ));
            }
        }
    }
    for file in tree.rust_under(&["verifier/core/src/"]) {
        for (number, line) in production_lines(file) {
            if line.contains("extern crate std") || line.contains("std::") && !line.contains("verifier_std::") {
                found.push(Violation::line(
                    &file.path,
                    number,
                    "the core uses std: use core or alloc, and take effects as arguments",
                ));
            }
        }
    }
    found
}

/// Same snapshot, same bytes: iteration order must not depend on a hash seed.
pub(super) fn core_ordered_maps(tree: &Tree) -> Vec<Violation> {
    words_in(
        tree,
        &["verifier/core/src/"],
        &["HashMap", "HashSet"],
        "unordered in the core: use BTreeMap or BTreeSet",
    )
}

/// The program reads netlink, procfs and sockets; it starts nothing and scrapes no text.
pub(super) fn no_shelling_out(tree: &Tree) -> Vec<Violation> {
    let words = ["process::Command", "tokio::process", "libc::system(", "execv"];
    words_in(
        tree,
        &["verifier/src/", "verifier/core/src/"],
        &words,
        "starts another program: ask the kernel itself",
    )
}

/// A failed look must not become an empty answer (design: evidence).
pub(super) fn no_swallowed_errors(tree: &Tree) -> Vec<Violation> {
    let words = [
        "filter_map(Result::ok)",
        "flat_map(Result::ok)",
        "filter_map(|r| r.ok())",
        ".ok();",
        "let _ = ",
    ];
    let mut found = Vec::new();
    for file in tree.rust_under(PRODUCTION) {
        let lines: Vec<&str> = file.text.lines().collect();
        for (number, line) in production_lines(file) {
            let Some(word) = words.iter().find(|word| line.contains(*word)) else {
                continue;
            };
            let before = number
                .checked_sub(2)
                .and_then(|index| lines.get(index))
                .copied()
                .unwrap_or_default();
            let explained = line.contains("// ") || before.trim_start().starts_with("//");
            // `write!` into a String cannot fail.
            if !explained && !line.contains("write!(") && !line.contains("writeln!(") {
                let message = format!(
                    "`{}` may swallow an error: handle or count it, or say in a comment here why it is nothing",
                    word.trim()
                );
                found.push(Violation::line(&file.path, number, message));
            }
        }
    }
    found
}

/// The fabric that tests the intent code is not programmed by it.
pub(super) fn fabric_independent(tree: &Tree) -> Vec<Violation> {
    let words = ["verifier_core::intent", "verifier::intent"];
    words_in(
        tree,
        &["tests/src/fabric"],
        &words,
        "the fabric uses the code that it helps to test: write it out from Calico's own documents",
    )
}

/// Nothing in the repository depends on the machine it was written on.
pub(super) fn machine_names(tree: &Tree) -> Vec<Violation> {
    // In pieces, so that this file keeps its own rule.
    let words = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("/tmp/", "team"),
    ];
    let mut found = Vec::new();
    for file in &tree.files {
        for (number, line) in file.lines() {
            if let Some(word) = words.iter().find(|word| line.contains(*word)) {
                found.push(Violation::line(
                    &file.path,
                    number,
                    format!("names a path of one machine (`{word}`): take it from the environment or cargo"),
                ));
            }
        }
    }
    found
}

fn words_in(tree: &Tree, directories: &[&str], words: &[&str], remedy: &str) -> Vec<Violation> {
    let mut found = Vec::new();
    for file in tree.rust_under(directories) {
        for (number, line) in production_lines(file) {
            if let Some(word) = words.iter().find(|word| line.contains(*word)) {
                found.push(Violation::line(&file.path, number, format!("`{word}`: {remedy}")));
            }
        }
    }
    found
}

/// Lines that are not comments.
fn code_lines(file: &Text) -> impl Iterator<Item = (usize, &str)> {
    file.lines().filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// A file in which panicking is how a test fails.
fn is_test(file: &Text) -> bool {
    let directory = ["/tests/", "/examples/", "/testing.rs"].iter().any(|mark| file.path.contains(mark));
    directory || file.path.ends_with("/tests.rs") || file.path.ends_with("_tests.rs")
}

/// Code lines before the test module, of a file that is not itself tests.
fn production_lines(file: &Text) -> impl Iterator<Item = (usize, &str)> {
    let tests = is_test(file);
    let end = file
        .text
        .lines()
        .position(|line| line.trim() == "#[cfg(test)]")
        .unwrap_or(usize::MAX);
    code_lines(file).take_while(move |(number, _)| !tests && *number <= end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(violations: &[Violation]) -> Vec<(String, usize)> {
        violations
            .iter()
            .map(|violation| (violation.file.clone(), violation.line))
            .collect()
    }

    #[test]
    fn long_files_are_named() {
        let tree = Tree::of(&[
            ("verifier/src/a.rs", &"x\n".repeat(601)),
            ("verifier/src/b.rs", &"x\n".repeat(600)),
            ("long.md", &"x\n".repeat(900)),
        ]);
        assert_eq!(places(&file_length(&tree)), [("verifier/src/a.rs".to_owned(), 0)]);
    }

    #[test]
    fn module_docs_may_follow_attributes() {
        let tree = Tree::of(&[
            ("tests/src/a.rs", "#![no_std]\n//! a\n"),
            ("tests/src/b.rs", "use x;\n//! b\n"),
            ("xtask/src/c.rs", ""),
        ]);
        assert_eq!(
            places(&module_docs(&tree)),
            [("tests/src/b.rs".to_owned(), 0), ("xtask/src/c.rs".to_owned(), 0)]
        );
    }

    #[test]
    fn lints_switched_off_need_a_reason() {
        let text = "#[allow(dead_code)]\n#[allow(dead_code, reason = \"x\")]\n#[expect(\n    dead_code,\n    reason = \"y\"\n)]\n\
                    #![cfg_attr(test, allow(clippy::panic))]\nfoo.expect(1)\n// #[allow(x)]\n";
        let tree = Tree::of(&[("verifier/src/a.rs", text)]);
        assert_eq!(places(&allow_with_reason(&tree)), [("verifier/src/a.rs".to_owned(), 1)]);
    }

    #[test]
    fn the_core_declares_itself() {
        let good = "#![no_std]\n#![forbid(unsafe_code)]\nuse alloc::vec::Vec;\n";
        let tree = Tree::of(&[("verifier/core/src/lib.rs", good), ("verifier-ebpf/src/lib.rs", good)]);
        assert!(core_is_no_std(&tree).is_empty());
        let tree = Tree::of(&[("verifier/core/src/lib.rs", "use std::fs;\n"), ("verifier-ebpf/src/lib.rs", good)]);
        assert_eq!(core_is_no_std(&tree).len(), 3);
    }

    #[test]
    fn maps_and_commands_are_found_outside_tests_and_comments_only() {
        let text = "// HashMap\nlet a = HashMap::new();\nstd::process::Command::new(\"ip\");\n#[cfg(test)]\nmod tests { HashSet }\n";
        let tree = Tree::of(&[("verifier/core/src/a.rs", text)]);
        assert_eq!(places(&core_ordered_maps(&tree)), [("verifier/core/src/a.rs".to_owned(), 2)]);
        assert_eq!(places(&no_shelling_out(&tree)), [("verifier/core/src/a.rs".to_owned(), 3)]);
    }

    #[test]
    fn swallowed_errors_need_a_comment() {
        let text = "let _ = send();\n// The receiver has gone, and with it the need.\nlet _ = send();\nlet _ = writeln!(s, \"x\");\nlet x = y.parse().ok()?;\n";
        let tree = Tree::of(&[("verifier/src/a.rs", text)]);
        assert_eq!(places(&no_swallowed_errors(&tree)), [("verifier/src/a.rs".to_owned(), 1)]);
    }

    #[test]
    fn the_fabric_may_not_lean_on_intent() {
        let tree = Tree::of(&[
            ("tests/src/fabric/node.rs", "use verifier_core::intent::Node;\n"),
            ("tests/src/suite.rs", "use verifier_core::intent::Node;\n"),
        ]);
        assert_eq!(places(&fabric_independent(&tree)), [("tests/src/fabric/node.rs".to_owned(), 1)]);
    }

    #[test]
    fn paths_of_one_machine_are_found_in_any_file() {
        let tree = Tree::of(&[("README.md", concat!("see /wo", "rk/main\n"))]);
        assert_eq!(places(&machine_names(&tree)), [("README.md".to_owned(), 1)]);
    }
}
