//! The files of `docs/causes`, as text. What a page says is the core's, the same that `verifier explain CODE` prints; here
//! it gets its links, and a list of all pages.

use std::fmt::Write as _;

use verifier_core::report::explain;
use verifier_core::verdict::{Cause, CauseCode, Class};

const GENERATED: &str = "<!-- Written by `cargo xtask docs` from the cause table in verifier/core/src/verdict/table. Do not edit. -->\n\n";

/// The list of all pages, by class.
pub(super) fn index(causes: &[&Cause]) -> String {
    let mut text = String::from(GENERATED);
    text.push_str("# Causes\n\nEvery cause that a report can name. `verifier explain CODE` prints the same.\n");
    let classes = [
        (Class::Datastore, "datastore: intent contradicts itself"),
        (
            Class::NotProgrammed,
            "not-programmed: the kernel was not told, or somebody undid it",
        ),
        (
            Class::NotForwarded,
            "not-forwarded: the kernel was told, and packets still do not pass",
        ),
        (Class::None, "none: not a fault"),
    ];
    for (class, title) in classes {
        let _ = write!(text, "\n## {title}\n\n| code | what |\n|---|---|\n");
        for cause in causes.iter().filter(|cause| cause.class == class) {
            let _ = writeln!(text, "| {} | {} |", linked(cause.code.as_str()), cause.title);
        }
    }
    text
}

/// One cause.
pub(super) fn cause(cause: &Cause) -> String {
    let mut text = String::from(GENERATED);
    for line in explain(cause.code).lines() {
        text.push_str(&with_links(line));
        text.push('\n');
    }
    text
}

/// A line of a list that begins with a code, or is an incident, becomes a link.
fn with_links(line: &str) -> String {
    let Some(item) = line.strip_prefix("- ") else {
        return line.to_owned();
    };
    if let Some((code, rest)) = item.strip_prefix('`').and_then(|item| item.split_once('`'))
        && CauseCode::parse(code).is_some()
    {
        return format!("- {}{rest}", linked(code));
    }
    format!("- {}", incident_link(item))
}

fn linked(code: &str) -> String {
    format!("[`{code}`]({code}.md)")
}

/// `owner/repository#number`, or `owner/repository PR #number`, as a link; anything else as it stands.
fn incident_link(incident: &str) -> String {
    let Some((repository, number)) = incident.split_once('#') else {
        return incident.to_owned();
    };
    let (repository, kind) = match repository.strip_suffix(" PR ") {
        Some(repository) => (repository, "pull"),
        None => (repository, "issues"),
    };
    let is_name = repository.contains('/') && !repository.contains(' ');
    if is_name && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) {
        return format!("[{incident}](https://github.com/{repository}/{kind}/{number})");
    }
    incident.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_what_the_table_says_with_links() {
        let page = cause(CauseCode::TunnelDeviceDown.cause());
        for part in ["tunnel-device-down", "not-programmed", "](route-missing.md)", "https://github.com/"] {
            assert!(page.contains(part), "{part} is not in\n{page}");
        }
    }

    #[test]
    fn the_index_links_every_cause() {
        let causes: Vec<&Cause> = verifier_core::verdict::table::all().collect();
        let text = index(&causes);
        assert!(CauseCode::ALL.iter().all(|code| text.contains(&format!("({code}.md)"))));
    }

    #[test]
    fn only_what_is_an_incident_becomes_a_link() {
        assert_eq!(incident_link("a/b#12"), "[a/b#12](https://github.com/a/b/issues/12)");
        assert_eq!(incident_link("a/b PR #12"), "[a/b PR #12](https://github.com/a/b/pull/12)");
        assert_eq!(incident_link("seen in the lab"), "seen in the lab");
    }
}
